//! Checkpoints: made, loaded, copied, and what may go below them.

use super::*;
use crate::disk::fold::make_checkpoint;
use crate::disk::look::look_on;
use crate::disk::verify::verify_look;

#[test]
fn a_checkpoint_is_what_the_ledger_would_write() {
    let log = number(3);
    let (_, mut bench, mut writer) = filled(log, 30);
    let empty = bench.ask(DiskRequest::LoadCheckpoint { log, cursor: 0 });
    assert!(matches!(
        empty,
        DiskReply::CheckpointLoaded { records: None, .. }
    ));
    for _ in 0..4 {
        // In several rounds: the bound is far below what changes.
        let shared = &bench.disk.shared;
        let info = make_checkpoint(shared, log, &writer.end, RING_KEY, 700).unwrap();
        assert_eq!(info.end, writer.end);
        assert_eq!(
            info,
            bench.make_checkpoint(log, writer.end),
            "nothing to do"
        );
        let mut loaded = ledger();
        assert!(2 < bench.load_checkpoint(log, &mut loaded));
        loaded.check_supply().unwrap();
        assert_eq!(loaded.digest(), writer.ledger.digest());
        assert_eq!(loaded.id_digest(), writer.ledger.id_digest());
        assert_eq!(loaded.supply(), writer.ledger.supply());
        assert_eq!(to_u64(bench.read_checkpoint(log).len()), info.size);
        let more = (0..10).map(|_| writer.block(150)).collect();
        bench.run(more);
    }
    let other_key = DiskRequest::MakeCheckpoint {
        log,
        through: writer.end,
        ring_key: 1,
    };
    expect_fault(bench.ask(other_key), &DiskFault::Other, "another hash key");
}

#[test]
fn restart_is_checkpoint_and_tail() {
    let log = number(3);
    let (medium, mut bench, mut writer) = filled(log, 10);
    let checkpoint = bench.make_checkpoint(log, writer.end);
    let more = (0..10).map(|_| writer.block(50)).collect();
    bench.run(more);
    let mut again = Bench::on(&medium);
    let (report, _) = again.open_log(log).unwrap();
    assert_eq!(report.checkpoint, Some(checkpoint));
    let mut loaded = ledger();
    again.load_checkpoint(log, &mut loaded);
    let (_, bytes) = again.read_blocks(log, checkpoint.end.offset);
    for block in blocks(&bytes, verify_of(log)).map(Result::unwrap) {
        absorb(&mut loaded, &block);
    }
    assert_eq!(loaded.digest(), writer.ledger.digest());
    assert_eq!(loaded.id_digest(), writer.ledger.id_digest());
}

fn absorb(ledger: &mut Ledger, block: &Block<'_>) {
    for (place, time, entry) in block.entries() {
        let entry = Entry::read(entry).unwrap();
        ledger.absorb(&entry, place, time).unwrap();
    }
}

/// Copies the newest checkpoint piece by piece.
fn copy_checkpoint(from: &mut Bench, to: &mut Bench, log: LogNumber) -> Option<CheckpointInfo> {
    let file = from.read_checkpoint(log);
    let size = to_u64(file.len());
    let mut written = None;
    for (index, piece) in file.chunks(70_000).enumerate() {
        let reply = to.ask(DiskRequest::WriteCheckpoint {
            log,
            offset: to_u64(index * 70_000),
            bytes: Bytes::copy_from_slice(piece),
            size,
        });
        let DiskReply::CheckpointWritten { info, .. } = reply else {
            panic!("{reply:?}");
        };
        assert_eq!(written, None, "only the last piece completes it");
        written = info;
    }
    written
}

/// Creates the log at `first_offset` and copies all blocks from there on.
fn copy_log(from: &mut Bench, to: &mut Bench, log: LogNumber, first_offset: u64) {
    let (mut offset, mut bytes) = from.read_blocks(log, first_offset);
    let head = *Block::read(&bytes, &verify_of(log))
        .unwrap()
        .unwrap()
        .head();
    let after = LogEnd {
        seq: Seq(head.seq.0 - 1),
        chain: head.previous_chain,
        offset: first_offset,
        ..LogEnd::default()
    };
    let created = to.create_log(log, after);
    assert_eq!((created.end, created.first_offset), (after, first_offset));
    while !bytes.is_empty() {
        let mut end = LogEnd::default();
        for block in blocks(&bytes, verify_of(log)).map(Result::unwrap) {
            let at = usize::try_from(block.first_offset() - offset).unwrap();
            let size = usize::try_from(block.size()).unwrap();
            end = block.end();
            let block = bytes.slice(at..at + size);
            let reply = to.ask(DiskRequest::Append { log, block, end });
            assert!(matches!(reply, DiskReply::Durable { .. }), "{reply:?}");
        }
        (offset, bytes) = from.read_blocks(log, end.offset);
    }
}

/// A log that was retired below a checkpoint and went on.
fn retired(log: LogNumber) -> (MemoryMedium, Bench, Writer, CheckpointInfo) {
    let (medium, mut bench, mut writer) = filled(log, 3);
    grow(&mut bench, &mut writer, 3 * SEGMENT_SIZE_MIN);
    let below = writer.end.offset;
    let early = bench.ask(DiskRequest::RetireSegments { log, below });
    expect_fault(early, &DiskFault::Other, "its checkpoint stands for 0");
    let checkpoint = bench.make_checkpoint(log, writer.end);
    let reply = bench.ask(DiskRequest::RetireSegments { log, below });
    let DiskReply::Retired { first_offset, .. } = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(first_offset, 3 * SEGMENT_SIZE_MIN);
    grow(&mut bench, &mut writer, SEGMENT_SIZE_MIN);
    (medium, bench, writer, checkpoint)
}

#[test]
fn segments_retire_below_the_checkpoint() {
    let log = number(3);
    let (medium, _, writer, checkpoint) = retired(log);
    let (report, _) = Bench::on(&medium).open_log(log).unwrap();
    assert_eq!(report.end, writer.end);
    assert_eq!(report.first_offset, 3 * SEGMENT_SIZE_MIN);
    assert_eq!(report.checkpoint, Some(checkpoint));
    assert_eq!(report.terms.len(), 1);
    assert_eq!(report.terms[0].seq, Seq(1), "known from the base");
}

#[test]
fn an_empty_folder_is_filled_from_a_checkpoint_and_the_log_above_it() {
    let log = number(3);
    let (medium, mut bench, writer, checkpoint) = retired(log);
    let other = MemoryMedium::new();
    let mut copy = Bench::on(&other);
    assert_eq!(
        copy_checkpoint(&mut bench, &mut copy, log),
        Some(checkpoint)
    );
    copy_log(&mut bench, &mut copy, log, 3 * SEGMENT_SIZE_MIN);
    let mut loaded = ledger();
    assert!(0 < copy.load_checkpoint(log, &mut loaded));

    let (report, _) = Bench::on(&other).open_log(log).unwrap();
    assert_eq!(report.end, writer.end);
    assert_eq!(report.checkpoint, Some(checkpoint));
    assert_eq!(report.terms.len(), 1);
    assert_eq!(report.terms[0].seq, Seq(1), "known from the checkpoint");
    let here = look_on(Arc::new(medium), None).unwrap();
    let there = look_on(Arc::new(other), None).unwrap();
    let verified = verify_look(&here, Some(&there), &mut |_, _| ());
    assert!(verified.is_sound(), "{verified:?}");
    assert_eq!(verified.comparisons[0].equal_through, writer.end.seq);
}

#[test]
fn a_garbled_copy_of_a_checkpoint_is_refused() {
    let log = number(3);
    let (_, mut bench, writer) = filled(log, 3);
    bench.make_checkpoint(log, writer.end);
    let mut file = bench.read_checkpoint(log);
    let middle = file.len() - 40_000;
    file[middle] ^= 1;
    let mut copy = Bench::on(&MemoryMedium::new());
    let size = to_u64(file.len());
    let write = |offset, bytes: &[u8]| DiskRequest::WriteCheckpoint {
        log,
        offset,
        bytes: Bytes::copy_from_slice(bytes),
        size,
    };
    let early = copy.ask(write(5, &file[5..9]));
    expect_fault(early, &DiskFault::Other, "no checkpoint of log 3 was begun");
    let reply = copy.ask(write(0, &file));
    expect_fault(reply, &DiskFault::Damage, "does not verify");
    let reply = copy.ask(write(0, &file[..100]));
    assert!(matches!(
        reply,
        DiskReply::CheckpointWritten { info: None, .. }
    ));
    let gap = copy.ask(write(101, &file[101..]));
    expect_fault(gap, &DiskFault::Other, "100 of");
}

#[test]
fn crashes_between_checkpoint_and_retirement_lose_nothing() {
    for seed in 0..40 {
        let log = number(3);
        let run = |snapshot_at: Option<u64>| {
            let medium = MemoryMedium::new();
            if let Some(step) = snapshot_at {
                medium.snapshot_at(step);
            }
            let mut bench = Bench::on(&medium);
            bench.create_log(log, LogEnd::default());
            let mut writer = Writer::new(log, seed);
            bench.run(vec![writer.opening()]);
            let created = medium.step_count();
            grow(&mut bench, &mut writer, 2 * SEGMENT_SIZE_MIN);
            bench.make_checkpoint(log, writer.end);
            let below = writer.end.offset;
            bench.ask(DiskRequest::RetireSegments { log, below });
            bench.ask(DiskRequest::PrepareSegment { log, offset: 0 });
            (medium, created)
        };
        let (whole, created) = run(None);
        let mut random = Random::new(seed);
        let step = created + random.below(whole.step_count() - created);
        let (medium, _) = run(Some(step));
        let (before, _) = medium.snapshot().unwrap();
        let after = before.crash(&mut random);
        let mut bench = Bench::on(&after);
        let (report, _) = bench.open_log(log).unwrap();
        assert_eq!(report.damage, None, "seed {seed}");
        assert!(
            report.first_offset == 0 || report.checkpoint.is_some(),
            "seed {seed}: what was retired is in a checkpoint"
        );
        if report.torn.is_some() {
            bench.ask(DiskRequest::CutLog {
                log,
                to: report.end,
            });
        }
        let reply = bench.ask(DiskRequest::Audit {
            ends: vec![(log, report.end)],
            ring_key: RING_KEY,
            ticket: 0,
        });
        assert!(
            matches!(reply, DiskReply::Audited { .. }),
            "seed {seed}: {reply:?}"
        );
    }
}

#[test]
fn a_new_log_puts_the_old_one_and_its_checkpoint_aside() {
    let log = number(3);
    let (medium, mut bench, writer) = filled(log, 3);
    bench.make_checkpoint(log, writer.end);
    let report = bench.create_log(log, LogEnd::default());
    assert_eq!((report.end, report.checkpoint), (LogEnd::default(), None));
    let aside = look_on(Arc::new(medium.clone()), None)
        .unwrap()
        .quarantine()
        .unwrap();
    assert_eq!(aside.len(), 3, "segment, base, checkpoint: {aside:?}");
    let mut again = Bench::on(&medium);
    let (report, _) = again.open_log(log).unwrap();
    assert_eq!((report.end, report.checkpoint), (LogEnd::default(), None));
}
