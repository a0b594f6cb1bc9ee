//! Appending, reading, failing; replicas and the audit.

use super::*;

#[test]
fn the_audit_adds_up_all_logs_at_their_ends() {
    let medium = MemoryMedium::new();
    let mut bench = Bench::on(&medium);
    let mut writers: Vec<_> = [1, 2]
        .map(|log| Writer::new(number(log), u64::from(log)))
        .into();
    for writer in &mut writers {
        bench.create_log(writer.log, LogEnd::default());
        let requests = vec![writer.opening(), writer.block(3_000)];
        bench.run(requests);
    }
    let ends: Vec<_> = writers
        .iter()
        .map(|writer| (writer.log, writer.end))
        .collect();
    let mut expected = std::collections::BTreeMap::new();
    for writer in &writers {
        for (currency, supply) in writer.ledger.supply() {
            let sum: &mut (u128, u128, i128) = expected.entry(currency).or_default();
            sum.0 += supply.issued;
            sum.1 += supply.burned;
            sum.2 += supply.available;
        }
    }
    // More is appended meanwhile: the audit stands for the ends it was asked for.
    for writer in &mut writers {
        let request = writer.block(500);
        bench.ask(request);
    }
    let mut audit = |ends: &[(LogNumber, LogEnd)]| {
        let reply = bench.ask(DiskRequest::Audit {
            ends: ends.to_vec(),
            ring_key: RING_KEY,
            ticket: 8,
        });
        let DiskReply::Audited { rows, ticket: 8 } = reply else {
            panic!("{reply:?}");
        };
        rows
    };
    let rows = audit(&ends);
    assert_eq!(rows.len(), expected.len());
    for AuditRow {
        currency,
        issued,
        burned,
        available,
        difference,
        ..
    } in rows
    {
        assert_eq!((issued, burned, available), expected[&currency]);
        assert_eq!(difference, 0);
    }
    let later: Vec<_> = writers
        .iter()
        .map(|writer| (writer.log, writer.end))
        .collect();
    audit(&later);
    let writer = &writers[0];
    let reply = bench.ask(DiskRequest::AdvanceReplica {
        log: writer.log,
        through: writer.end,
        ring_key: RING_KEY,
    });
    let DiskReply::ReplicaAt { end, digest, .. } = reply else {
        panic!("{reply:?}");
    };
    assert_eq!((end, digest), (writer.end, writer.ledger.digest()));
}

#[test]
fn a_replica_goes_in_bounded_steps_and_follows_a_cut() {
    let log = number(3);
    let (_, mut bench, mut writer) = filled(log, 3);
    let kept = writer.end;
    let digest_kept = writer.ledger.digest();
    grow(&mut bench, &mut writer, 12 << 20);
    let advance = |bench: &mut Bench, through| {
        let reply = bench.ask(DiskRequest::AdvanceReplica {
            log,
            through,
            ring_key: RING_KEY,
        });
        let DiskReply::ReplicaAt { end, digest, .. } = reply else {
            panic!("{reply:?}");
        };
        (end, digest)
    };
    let mut steps = 0;
    loop {
        let (end, digest) = advance(&mut bench, writer.end);
        steps += 1;
        if end == writer.end {
            assert_eq!(digest, writer.ledger.digest());
            break;
        }
    }
    assert_eq!(steps, 3);
    let cut = bench.ask(DiskRequest::CutLog { log, to: kept });
    assert!(matches!(cut, DiskReply::LogCut { aside_size, .. } if 12 << 20 < aside_size));
    assert_eq!(advance(&mut bench, kept), (kept, digest_kept));
}

#[test]
fn appends_share_one_sync_and_one_reply() {
    let log = number(3);
    let (medium, mut bench, mut writer) = filled(log, 1);
    let before = medium.sync_count();
    let requests: Vec<_> = (0..20).map(|_| writer.block(10)).collect();
    let replies = bench.run(requests);
    assert_eq!(medium.sync_count(), before + 1);
    assert!(matches!(&replies[..], [DiskReply::Durable { end, .. }] if *end == writer.end));
    let mut again = Bench::on(&medium);
    assert!(again.open_log(number(4)).is_none());
    let (report, view) = again.open_log(log).unwrap();
    assert_eq!(
        (report.end, report.torn, report.damage),
        (writer.end, None, None)
    );
    assert_eq!(report.committed.next(), writer.end.seq);
    let (_, bytes) = again.read_blocks(log, 0);
    let mut count = 0;
    for block in blocks(&bytes, verify_of(log)).map(Result::unwrap) {
        for (place, _, entry) in block.entries() {
            assert_eq!(view.recent_entry(place), Some(*entry));
            let read = again.ask(DiskRequest::ReadEntry { place, ticket: 7 });
            let DiskReply::EntryRead {
                ticket: 7,
                entry: Some(found),
                ..
            } = read
            else {
                panic!("{read:?}");
            };
            assert_eq!(found, *entry);
            count += 1;
        }
    }
    assert_eq!(count, 2 + 200 + 20 * 10);
}

#[test]
fn failures_name_their_request_and_keep_to_their_kind() {
    let log = number(3);
    let (medium, mut bench, mut writer) = filled(log, 1);
    let good = writer.block(10);
    let skipped = writer.block(10);
    expect_fault(
        bench.ask(skipped),
        &DiskFault::Other,
        "block 4 where 3 is due",
    );
    medium.fail(Fault::Sync(0));
    let next = writer.block(10);
    let replies = bench.run(vec![good.clone(), next]);
    assert_eq!(replies.len(), 2);
    for reply in replies {
        expect_fault(reply, &DiskFault::Poisoned, "sync fails on demand");
    }
    expect_fault(
        bench.ask(good),
        &DiskFault::Poisoned,
        "sync fails on demand",
    );
    let unopened = DiskRequest::PrepareSegment {
        log: number(9),
        offset: 0,
    };
    expect_fault(bench.ask(unopened), &DiskFault::Other, "log 9 is not open");
    medium.limit(Some(0));
    let full = bench.ask(DiskRequest::PrepareSegment { log, offset: 0 });
    expect_fault(full, &DiskFault::NoSpace, "no room: ");
    let free = bench.ask(DiskRequest::MeasureFreeSpace);
    assert!(matches!(free, DiskReply::FreeSpace { size: 0 }));
}
