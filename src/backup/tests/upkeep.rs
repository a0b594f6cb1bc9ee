//! The replica and its digest, checkpoints, and what may go.

use super::bench::SEGMENT;
use super::{Bench, FakeNode, log};
use crate::limits;
use crate::model::Seq;
use crate::protocol::{Beat, Fetch, Message};
use crate::role::{DiskFault, DiskRequest};

fn joined() -> (Bench, FakeNode) {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    node.join(&mut bench);
    (bench, node)
}

fn up(applied: u64, digest: u128) -> Beat {
    Beat {
        applied: Seq(applied),
        digest,
        phase: 1,
        ..Beat::default()
    }
}

fn waiting(bench: &Bench, name: &str) -> usize {
    let names = bench.disk.queue.iter().map(super::bench::name_of);
    names.filter(|waiting| *waiting == name).count()
}

#[test]
fn the_replica_follows_one_step_at_a_time() {
    let (mut bench, mut node) = joined();
    for _ in 0..3 {
        node.commit(&mut bench, 1);
        assert_eq!(waiting(&bench, "advance_replica"), 1);
    }
    bench.settle();
    // It rests: so little is not worth waking it.
    assert_eq!(bench.status()["nodes"][0]["replica"]["seq"], 1);
    bench.wait_ms(limits::REPLICA_REST_MS);
    bench.settle();
    assert_eq!(bench.status()["nodes"][0]["replica"]["seq"], 3);
    assert_eq!(waiting(&bench, "advance_replica"), 0);
}

#[test]
fn digests_are_compared_at_the_same_block() {
    let (mut bench, mut node) = joined();
    for _ in 0..2 {
        node.commit(&mut bench, 1);
    }
    bench.disk.digests.insert(log(1), 0xd1);
    // The node told the digest of block 3 while the log here ends with block 2.
    node.beat(&mut bench, 1, up(3, 0xd1));
    bench.heard(node.peer.unwrap());
    for _ in 0..3 {
        node.commit(&mut bench, 1);
    }
    let mut targets = Vec::new();
    bench.input(crate::role::Input::Elapsed);
    for _ in 0..3 {
        while let Some(request) = bench.disk.queue.front() {
            if let DiskRequest::AdvanceReplica { through, .. } = request {
                targets.push(through.seq.0);
            }
            bench.disk_step();
        }
        bench.wait_ms(limits::REPLICA_REST_MS);
    }
    assert_eq!(targets, [1, 3, 5]);
    let status = bench.status();
    assert_eq!(status["digest_matches"], 1);
    assert_eq!(status["nodes"][0]["replica"]["proved_seq"], 3);
    // At rest.
    node.beat(&mut bench, 2, up(5, 0xd1));
    assert_eq!(bench.status()["nodes"][0]["replica"]["proved_seq"], 5);
    assert_eq!(bench.alarms(), 0);
    node.beat(&mut bench, 3, up(5, 0xd2));
    assert_eq!(bench.alarms(), 1);
    assert_eq!(bench.status()["digest_mismatches"], 1);
}

#[test]
fn a_node_that_starts_proves_nothing() {
    let (mut bench, mut node) = joined();
    node.commit(&mut bench, 1);
    bench.settle();
    node.beat(
        &mut bench,
        1,
        Beat {
            phase: 0,
            ..up(1, 0xbad)
        },
    );
    assert_eq!(bench.alarms(), 0);
}

#[test]
fn a_replica_that_cannot_go_on_is_an_alarm_and_stops_nobody() {
    let (mut bench, mut node) = joined();
    bench
        .disk
        .faults
        .insert("advance_replica", DiskFault::Damage);
    node.commit(&mut bench, 1);
    bench.settle();
    assert_eq!(bench.alarms(), 1);
    node.commit(&mut bench, 1);
    assert!(!bench.status()["nodes"][0]["replica"]["fault"].is_null());
    assert_eq!(bench.alarms(), 1);
}

/// Five segments of log under a node that serves.
fn long(bench: &mut Bench, node: &mut FakeNode) {
    node.beat(bench, 1, up(1, 0));
    bench.heard(node.peer.unwrap());
    while node.end().offset < 5 * SEGMENT {
        node.commit(bench, 8_000);
        // No checkpoint goes beyond the replica.
        bench.disk_do("advance_replica");
    }
}

/// With the first block of a segment the one behind it is asked for. That block has not reached the
/// disk by then: a disk that went by its own end would find a spare and make none.
#[test]
fn the_spare_lies_behind_the_newest_block() {
    let (mut bench, mut node) = joined();
    bench.settle();
    while node.end().offset < 3 * SEGMENT {
        let before = node.end().offset;
        let block = node.build(8_000);
        node.append(&mut bench, &block);
        let asked = bench.disk.queue.iter().find_map(|request| {
            let DiskRequest::PrepareSegment { offset, .. } = request else {
                return None;
            };
            Some(*offset)
        });
        let segment = |offset: u64| offset.div_euclid(SEGMENT);
        if segment(before.saturating_sub(1)) < segment(node.end().offset - 1) {
            assert_eq!(asked.map(segment), Some(segment(node.end().offset - 1)));
        }
        bench.settle();
        bench.heard(node.peer.unwrap());
    }
}

#[test]
fn checkpoints_come_as_the_log_grows() {
    let (mut bench, mut node) = joined();
    node.commit(&mut bench, 8_000);
    bench.settle();
    assert!(bench.disk.logs[&log(1)].checkpoint.is_none());
    long(&mut bench, &mut node);
    assert_eq!(waiting(&bench, "make_checkpoint"), 1);
    bench.settle();
    let checkpoint = bench.disk.logs[&log(1)].checkpoint.unwrap();
    assert!(2 * SEGMENT <= checkpoint.end.offset);
    assert!(checkpoint.end.offset <= bench.disk.logs[&log(1)].end().offset);
    assert_eq!(
        bench.status()["nodes"][0]["checkpoint"]["seq"],
        checkpoint.end.seq.0
    );
}

#[test]
fn no_checkpoint_is_made_under_a_node_that_starts() {
    let (mut bench, mut node) = joined();
    node.beat(
        &mut bench,
        1,
        Beat {
            phase: 0,
            ..up(0, 0)
        },
    );
    bench.heard(node.peer.unwrap());
    for _ in 0..6 {
        node.commit(&mut bench, 8_000);
    }
    bench.settle();
    assert!(bench.disk.logs[&log(1)].checkpoint.is_none());
}

#[test]
fn pieces_of_a_checkpoint_wait_until_the_next_one_is_made() {
    let (mut bench, mut node) = joined();
    let peer = node.peer.unwrap();
    let ask = Fetch {
        log: log(1),
        offset: 0,
        size_max: 100,
    };
    bench.say_to(peer, &Message::CheckpointAsk(ask));
    bench.disk_do("read_checkpoint");
    assert_eq!(bench.heard(peer), ["part at 0 of 0"]);
    long(&mut bench, &mut node);
    bench.say_to(peer, &Message::CheckpointAsk(ask));
    assert_eq!(waiting(&bench, "read_checkpoint"), 0);
    bench.disk_do("make_checkpoint");
    bench.disk_do("read_checkpoint");
    assert_eq!(bench.heard(peer), ["part at 0 of 1000"]);
}

#[test]
fn a_failed_checkpoint_is_tried_again_later() {
    let (mut bench, mut node) = joined();
    bench
        .disk
        .faults
        .insert("make_checkpoint", DiskFault::NoSpace);
    long(&mut bench, &mut node);
    bench.settle();
    bench.disk.faults.clear();
    bench.wait_ms(1_000);
    assert_eq!(waiting(&bench, "make_checkpoint"), 0);
    bench.wait_ms(60_000);
    bench.settle();
    assert!(bench.disk.logs[&log(1)].checkpoint.is_some());
}

#[test]
fn segments_go_when_their_ids_are_forgotten_and_not_before() {
    let (mut bench, mut node) = joined();
    long(&mut bench, &mut node);
    bench.settle();
    let first_offset = |bench: &Bench| bench.disk.logs[&log(1)].first_offset;
    let checkpoint = bench.disk.logs[&log(1)].checkpoint.unwrap();
    assert_eq!(
        first_offset(&bench),
        0,
        "the node said nothing of a horizon"
    );

    // First log times behind the segments, in whole ms.
    let behind = |node: &FakeNode, segment: u64| {
        let mut blocks = node.blocks.iter().map(|(end, _)| end);
        let first = blocks.find(|end| (segment + 1) * SEGMENT < end.offset);
        first.unwrap().time.ms()
    };
    let last = node.end().seq.0;
    let horizon = |ms| Beat {
        horizon_ms: ms,
        ..up(last, 0)
    };
    node.beat(&mut bench, 2, horizon(behind(&node, 0) + 59_999));
    bench.settle();
    assert_eq!(first_offset(&bench), 0, "too young by one millisecond");
    node.beat(&mut bench, 3, horizon(behind(&node, 0) + 60_002));
    bench.settle();
    assert_eq!(first_offset(&bench), SEGMENT + 4_096);
    // Old as it is: never above the checkpoint.
    node.beat(&mut bench, 4, horizon(behind(&node, 3) + 1_000_000));
    bench.settle();
    let kept = first_offset(&bench);
    assert!(
        SEGMENT < kept && kept <= checkpoint.end.offset,
        "{kept} {checkpoint:?}"
    );
    assert_eq!(bench.status()["nodes"][0]["first_size"], kept);
}

#[test]
fn a_horizon_counts_once_its_block_is_durable() {
    let (mut bench, mut node) = joined();
    long(&mut bench, &mut node);
    bench.settle();
    let next = node.end().seq.0 + 1;
    let beat = Beat {
        horizon_ms: u64::MAX >> 1,
        ..up(next, 0)
    };
    node.beat(&mut bench, 2, beat);
    bench.settle();
    assert_eq!(bench.disk.logs[&log(1)].first_offset, 0);
    bench.heard(node.peer.unwrap());
    node.commit(&mut bench, 1);
    bench.settle();
    assert_ne!(bench.disk.logs[&log(1)].first_offset, 0);
}

#[test]
fn a_poisoned_disk_ends_the_process_whatever_was_asked() {
    for name in ["prepare_segment", "advance_replica", "measure_free_space"] {
        let (mut bench, mut node) = joined();
        bench.disk.faults.insert(name, DiskFault::Poisoned);
        let block = node.build(8_000);
        node.append(&mut bench, &block);
        bench.disk_do("append");
        bench.heard(node.peer.unwrap());
        let block = node.build(8_000);
        node.append(&mut bench, &block);
        let block = node.build(8_000);
        node.append(&mut bench, &block);
        bench.wait_ms(1_200);
        assert_ne!(bench.disk_do(name), 0, "{name}");
        assert_eq!(
            bench.exit_code(),
            Some(crate::role::ExitCode::Damage),
            "{name}"
        );
        bench.disk.faults.clear();
        bench.settle();
        assert!(bench.heard(node.peer.unwrap()).is_empty(), "{name}");
    }
}
