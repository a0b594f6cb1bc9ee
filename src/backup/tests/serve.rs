//! Look-ups by others: blocks, checkpoints, entries, the table, status, the audit; and the end.

use super::bench::SEGMENT;
use super::{Bench, FakeNode, life, log, node};
use crate::model::{LogNumber, Place};
use crate::protocol::{AuditRow, Beat, Fetch, Message, PeerRole};
use crate::role::{DiskFault, DiskRequest, ExitCode, Input, PeerId};

fn joined() -> (Bench, FakeNode) {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    node.join(&mut bench);
    (bench, node)
}

fn fetch(log: LogNumber, offset: u64) -> Fetch {
    Fetch {
        log,
        offset,
        size_max: 1 << 20,
    }
}

#[test]
fn blocks_are_fetched_up_to_what_is_durable() {
    let (mut bench, mut node) = joined();
    let peer = node.peer.unwrap();
    bench.say_to(peer, &Message::Fetch(fetch(log(1), 0)));
    assert_eq!(bench.heard(peer), ["fetched 0 at 0"]);
    node.commit(&mut bench, 1);
    node.commit(&mut bench, 1);
    bench.settle();
    let block = node.build(1);
    node.append(&mut bench, &block);
    bench.say_to(peer, &Message::Fetch(fetch(log(1), 0)));
    bench.disk_do("read_blocks");
    assert_eq!(bench.heard(peer), ["fetched 512 at 4096"]);
    let end = node.blocks[1].0.offset;
    bench.say_to(peer, &Message::Fetch(fetch(log(1), end)));
    assert_eq!(bench.heard(peer), [format!("fetched 0 at {end}")]);
    bench.say_to(peer, &Message::Fetch(fetch(log(2), 0)));
    assert_eq!(
        bench.heard(peer),
        ["refused wrong_log"],
        "that log was never begun"
    );
}

#[test]
fn a_peer_has_so_many_reads_and_no_more() {
    let (mut bench, mut node) = joined();
    let peer = node.peer.unwrap();
    node.commit(&mut bench, 1);
    for request in 1..=16 {
        bench.say_only(peer, &Message::Fetch(fetch(log(1), 0)), request);
    }
    bench.end_turn();
    assert!(bench.heard(peer).is_empty());
    assert_eq!(bench.disk_do("read_blocks"), 16);
    let mut requests = Vec::new();
    bench.take(peer, |frame, _| requests.push(frame.header.request));
    assert_eq!(requests, (1..=16).collect::<Vec<_>>());
    for request in 1..=17 {
        bench.say_only(peer, &Message::Fetch(fetch(log(1), 0)), request);
    }
    bench.end_turn();
    assert_eq!(bench.heard(peer), ["refused too_many_frames"]);
    // The replies of a peer that is gone are for nobody.
    bench.settle();
    assert!(bench.heard(peer).is_empty());
}

#[test]
fn a_read_that_fails_ends_its_connection_only() {
    let (mut bench, mut node) = joined();
    let mut other = FakeNode::new(2, 20);
    other.join(&mut bench);
    node.commit(&mut bench, 1);
    bench.disk.faults.insert("read_blocks", DiskFault::Damage);
    let peer = node.peer.unwrap();
    bench.say_to(peer, &Message::Fetch(fetch(log(1), 0)));
    bench.disk_do("read_blocks");
    assert_eq!(bench.heard(peer), ["refused not_ready"]);
    assert_eq!(bench.alarms(), 1);
    assert_eq!(bench.status()["damaged_reads"], 1);
    other.commit(&mut bench, 1);
}

#[test]
fn entries_are_read_where_they_are_durable() {
    let (mut bench, mut node) = joined();
    let peer = node.peer.unwrap();
    node.commit(&mut bench, 1);
    let ask = |bench: &mut Bench, place: Place| {
        bench.say_to(peer, &Message::EntryAsk { place });
        bench.disk_do("read_entry");
        bench.heard(peer).join(" ")
    };
    assert_eq!(ask(&mut bench, Place::new(log(1), 4_224)), "entry true");
    assert_eq!(ask(&mut bench, Place::new(log(1), 4_352)), "entry false");
    assert_eq!(ask(&mut bench, Place::new(log(9), 4_224)), "entry false");
    assert_eq!(ask(&mut bench, Place(0)), "entry false");
}

#[test]
fn fronts_follow_the_table() {
    let mut bench = Bench::serving();
    let front = bench.connect(PeerRole::Front, None, life(90));
    bench.say_only(front, &Message::Follow, 77);
    bench.end_turn();
    let mut seen = 0;
    bench.take(front, |frame, message| {
        let Message::Table(table) = message else {
            panic!("{message:?}");
        };
        assert_eq!(frame.header.request, 77);
        let members: Vec<_> = table.members.iter().map(Result::unwrap).collect();
        assert_eq!(members.len(), 3);
        assert!(members.iter().all(|member| member.address.is_none()));
        let runs: Vec<_> = table.runs.iter().map(Result::unwrap).collect();
        let covered: usize = runs
            .iter()
            .map(|run| usize::from(run.slots.last.0 - run.slots.first.0) + 1)
            .sum();
        assert_eq!(covered, 65_536);
        seen += 1;
    });
    assert_eq!(seen, 1);
    // Asked again on the same connection, told under the next number.
    bench.say_only(front, &Message::Follow, 0);
    bench.end_turn();
    bench.take(front, |frame, _| assert_eq!(frame.header.request, 78));

    let mut one = FakeNode::new(1, 10);
    one.join(&mut bench);
    assert_eq!(bench.heard(front), ["table 1 Present Away Away"]);
    // Nothing changed: nothing is told.
    one.commit(&mut bench, 1);
    bench.settle();
    one.beat(&mut bench, 1, Beat::default());
    assert!(bench.heard(front).is_empty());
    // Silence, and talk again.
    bench.wait_ms(2_600);
    assert_eq!(bench.heard(front), ["table 1 Away Away Away"]);
    one.beat(&mut bench, 2, Beat::default());
    bench.wait_ms(300);
    assert_eq!(bench.heard(front), ["table 1 Present Away Away"]);
    // A new address.
    one.address = "127.0.0.1:9001".parse().unwrap();
    one.join(&mut bench);
    let told = bench.heard(front);
    assert_eq!(told.last().unwrap(), "table 1 Present Away Away");
    bench.drop_peer(one.peer.unwrap());
    assert_eq!(bench.heard(front), ["table 1 Away Away Away"]);
    let client = bench.connect(PeerRole::Client, None, life(91));
    bench.say_to(client, &Message::Follow);
    assert_eq!(bench.heard(client), ["refused unexpected_message"]);
}

#[test]
fn the_status_tells_how_everybody_stands() {
    let (mut bench, mut one) = joined();
    one.commit(&mut bench, 1);
    one.beat(
        &mut bench,
        1,
        Beat {
            applied: crate::model::Seq(4),
            account_count: 12,
            phase: 1,
            ..Beat::default()
        },
    );
    let status = bench.status();
    assert_eq!(status["healthy"], false);
    assert_eq!(status["generation"], 1);
    assert_eq!(status["nodes"].as_array().unwrap().len(), 3);
    let line = &status["nodes"][0];
    assert_eq!(line["node"], 1);
    assert_eq!(line["state"], "present");
    assert_eq!(line["phase"], "serving");
    assert_eq!(line["end_seq"], 1);
    assert_eq!(line["lag"], 3);
    assert_eq!(line["accounts"], 12);
    assert!(status["nodes"][1]["accounts"].is_null());
    let slots = |index: usize| status["nodes"][index]["slots"].as_u64().unwrap();
    assert_eq!(slots(0) + slots(1) + slots(2), 65_536);
    for number in 2..=3 {
        let mut other = FakeNode::new(number, u128::from(number));
        other.join(&mut bench);
        other.beat(
            &mut bench,
            1,
            Beat {
                phase: 1,
                ..Beat::default()
            },
        );
    }
    bench.settle();
    assert_eq!(bench.status()["healthy"], true);
}

fn row(currency: u32, difference: i128) -> AuditRow {
    AuditRow {
        currency,
        issued: 100,
        available: 100 + difference,
        difference,
        ..AuditRow::default()
    }
}

fn audit(bench: &mut Bench, peer: PeerId) -> (usize, Vec<AuditRow>) {
    let mut rows = Vec::new();
    let mut frames = 0;
    bench.take(peer, |_, message| match message {
        Message::AuditTold { rows: told } => {
            frames += 1;
            rows.extend(told.iter().map(Result::unwrap));
        }
        other => panic!("{other:?}"),
    });
    (frames, rows)
}

#[test]
fn an_audit_is_shared_and_never_older_than_its_question() {
    let (mut bench, mut one) = joined();
    one.commit(&mut bench, 1);
    bench.settle();
    bench.disk.audit_rows = vec![row(1, 0), row(2, 0)];
    let askers: Vec<PeerId> = (0..3)
        .map(|index| bench.connect(PeerRole::Client, None, life(100 + index)))
        .collect();
    bench.say_only(askers[0], &Message::AuditAsk, 5);
    bench.say_only(askers[1], &Message::AuditAsk, 6);
    bench.end_turn();
    bench.say_to(askers[2], &Message::AuditAsk);
    let waiting = |bench: &Bench| {
        let audits = bench.disk.queue.iter();
        audits
            .filter(|request| matches!(request, DiskRequest::Audit { .. }))
            .count()
    };
    assert_eq!(waiting(&bench), 1);
    assert_eq!(bench.disk_do("audit"), 1);
    assert_eq!(audit(&mut bench, askers[0]).1, bench.disk.audit_rows);
    assert_eq!(audit(&mut bench, askers[1]).1.len(), 2);
    assert!(bench.heard(askers[2]).is_empty());
    assert_eq!(bench.disk_do("audit"), 1);
    assert_eq!(audit(&mut bench, askers[2]).1.len(), 2);
    assert_eq!(bench.alarms(), 0);
    assert_eq!(bench.status()["last_audit"]["currencies"], 2);
}

#[test]
fn a_long_audit_comes_in_several_frames() {
    let mut bench = Bench::serving();
    let peer = bench.connect(PeerRole::Front, None, life(100));
    for (count, expected) in [(0, 1), (1, 1), (4_096, 1), (4_097, 2), (10_000, 3)] {
        bench.disk.audit_rows = (1..=count).map(|currency| row(currency, 0)).collect();
        bench.say_to(peer, &Message::AuditAsk);
        bench.disk_do("audit");
        let (frames, rows) = audit(&mut bench, peer);
        assert_eq!((frames, rows), (expected, bench.disk.audit_rows.clone()));
    }
}

#[test]
fn an_audit_that_does_not_add_up_is_an_alarm() {
    let mut bench = Bench::serving();
    let peer = bench.connect(PeerRole::Client, None, life(100));
    bench.disk.audit_rows = vec![row(1, 0), row(2, -3)];
    bench.say_to(peer, &Message::AuditAsk);
    bench.disk_do("audit");
    assert_eq!(audit(&mut bench, peer).1.len(), 2);
    assert_eq!(bench.alarms(), 1);
    bench.disk.faults.insert("audit", DiskFault::Damage);
    bench.say_to(peer, &Message::AuditAsk);
    bench.disk_do("audit");
    assert_eq!(bench.heard(peer), ["refused not_ready"]);
}

#[test]
fn so_many_wait_for_an_audit_and_no_more() {
    let mut bench = Bench::serving();
    let mut last = Vec::new();
    for index in 0..65 {
        let peer = bench.connect(PeerRole::Client, None, life(100 + index));
        bench.say_to(peer, &Message::AuditAsk);
        last = bench.heard(peer);
    }
    assert_eq!(last, ["refused too_many_frames"]);
}

#[test]
fn it_ends_in_order() {
    let (mut bench, mut one) = joined();
    let peer = one.peer.unwrap();
    let block = one.build(1);
    one.append(&mut bench, &block);
    bench.input(Input::Stop);
    assert!(bench.exit.is_none());
    // Nothing new is accepted, nobody new is let in.
    let late = one.build(1);
    one.append(&mut bench, &late);
    let stranger = bench.open();
    let hello = crate::protocol::Hello {
        version_min: 1,
        version_max: 1,
        role: PeerRole::Node,
        cluster: None,
        node: Some(node(2)),
        incarnation: life(5),
    };
    bench.say_to(stranger, &Message::Hello(hello));
    assert_eq!(bench.heard(stranger), ["refused closing"]);
    bench.disk_do("append");
    assert_eq!(bench.heard(peer), ["goaway", "appended 1 in term 1"]);
    bench.settle();
    assert_eq!(bench.exit_code(), Some(ExitCode::Ok));
    assert!(bench.closing.contains(&peer));
    assert_eq!(bench.disk.logs[&log(1)].blocks.len(), 1);
}

#[test]
fn garbage_ends_one_connection_only() {
    let (mut bench, mut one) = joined();
    let peer = bench.connect(PeerRole::Front, None, life(4));
    let frame = crate::protocol::Frame {
        header: crate::protocol::Header::bare(crate::protocol::FrameKind::Fetch),
        body: &[1, 2, 3],
    };
    bench.input(Input::Frame { peer, frame });
    assert_eq!(bench.heard(peer), ["refused malformed"]);
    one.commit(&mut bench, 1);
}

#[test]
fn what_is_retired_is_not_there_to_be_fetched() {
    let (mut bench, mut one) = joined();
    let peer = one.peer.unwrap();
    one.commit(&mut bench, 1);
    bench.crash();
    bench.disk.logs.get_mut(&log(1)).unwrap().first_offset = SEGMENT + 4_096;
    bench.settle();
    let peer = {
        assert!(bench.heard(peer).is_empty());
        one.join(&mut bench)
    };
    bench.say_to(peer, &Message::Fetch(fetch(log(1), 4_096)));
    assert_eq!(bench.heard(peer), ["refused not_ready"]);
}
