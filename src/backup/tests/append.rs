//! Blocks in, acknowledgements out.

use super::bench::SEGMENT;
use super::{Bench, FakeNode, log};
use crate::limits::BACKUP_RECENT_BLOCK_COUNT;
use crate::model::{LogEnd, Term};
use crate::protocol::{Append, Beat, Message};
use crate::role::{DiskFault, ExitCode, Input};

fn joined(number: u32, incarnation: u128) -> (Bench, FakeNode) {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(number, incarnation);
    node.join(&mut bench);
    (bench, node)
}

#[test]
fn an_acknowledgement_waits_for_the_disk() {
    let (mut bench, mut node) = joined(1, 10);
    let peer = node.peer.unwrap();
    for count in [1, 7, 100] {
        let block = node.build(count);
        node.append(&mut bench, &block);
        assert!(bench.heard(peer).is_empty());
    }
    bench.wait_ms(300);
    assert!(
        bench.heard(peer).is_empty(),
        "no time makes a block durable"
    );
    assert_eq!(bench.disk_do("append"), 3);
    let heard = bench.heard(peer);
    assert_eq!(heard.last().unwrap(), "appended 3 in term 1");
    let stored: Vec<_> = bench.disk.logs[&log(1)].blocks.clone();
    assert_eq!(stored, node.blocks, "the mirror is equal byte for byte");
}

#[test]
fn one_acknowledgement_per_turn() {
    let (mut bench, mut node) = joined(1, 10);
    for _ in 0..5 {
        let block = node.build(2);
        node.append_only(&mut bench, &block);
    }
    bench.end_turn();
    let ends: Vec<LogEnd> = node.blocks.iter().map(|(end, _)| *end).collect();
    bench.disk.queue.clear();
    for end in &ends[..3] {
        bench.handle(Input::Disk(crate::role::DiskReply::Durable {
            log: log(1),
            end: *end,
        }));
    }
    bench.end_turn();
    assert_eq!(bench.heard(node.peer.unwrap()), ["appended 3 in term 1"]);
}

#[test]
fn a_gap_is_asked_for_once() {
    let (mut bench, mut node) = joined(1, 10);
    let peer = node.peer.unwrap();
    node.commit(&mut bench, 1);
    let blocks: Vec<_> = (0..4).map(|_| node.build(1)).collect();
    for block in &blocks[1..] {
        node.append(&mut bench, block);
    }
    assert_eq!(bench.heard(peer), ["resend behind 1"]);
    for block in &blocks {
        node.append(&mut bench, block);
    }
    bench.disk_do("append");
    assert_eq!(bench.heard(peer).last().unwrap(), "appended 5 in term 1");
}

#[test]
fn an_equal_overlap_is_acknowledged_again() {
    let (mut bench, mut node) = joined(1, 10);
    let peer = node.peer.unwrap();
    for _ in 0..3 {
        node.commit(&mut bench, 2);
    }
    let block = node.blocks[1].1.clone();
    node.append(&mut bench, &block);
    assert_eq!(bench.heard(peer), ["appended 3 in term 1"]);
    assert_eq!(bench.disk.logs[&log(1)].blocks.len(), 3);
}

#[test]
fn an_overlap_older_than_the_books_is_read_and_compared() {
    let (mut bench, mut node) = joined(1, 10);
    let peer = node.peer.unwrap();
    for _ in 0..BACKUP_RECENT_BLOCK_COUNT + 2 {
        node.commit(&mut bench, 1);
    }
    bench.settle();
    let through = format!("appended {} in term 1", node.end().seq);
    let block = node.blocks[1].1.clone();
    node.append(&mut bench, &block);
    assert!(bench.heard(peer).is_empty());
    assert_eq!(bench.disk_do("read_blocks"), 1);
    assert_eq!(bench.heard(peer), [through]);

    let after = node.blocks[0].0;
    let other = node.build_behind(&after, 1);
    node.append(&mut bench, &other);
    bench.disk_do("read_blocks");
    assert_eq!(bench.heard(peer), ["refused diverged"]);
    assert_eq!(bench.alarms(), 1);
}

#[test]
fn a_differing_overlap_stops_this_log_only() {
    let (mut bench, mut node) = joined(1, 10);
    let mut other = FakeNode::new(2, 20);
    other.join(&mut bench);
    for _ in 0..3 {
        node.commit(&mut bench, 2);
    }
    let after = node.blocks[1].0;
    let block = node.build_behind(&after, 2);
    node.append(&mut bench, &block);
    assert_eq!(bench.heard(node.peer.unwrap()), ["refused diverged"]);
    assert_eq!(bench.alarms(), 1);
    assert_eq!(bench.disk.logs[&log(1)].blocks.len(), 3);
    other.commit(&mut bench, 1);

    // Until an operator decides, over a restart too.
    let refused = |bench: &mut Bench, node: &mut FakeNode| {
        let peer = node.register(bench);
        bench.settle();
        bench.heard(peer) == ["refused diverged"]
    };
    assert!(refused(&mut bench, &mut node));
    assert!(refused(&mut bench, &mut node.restarted(11)));
    assert_eq!(bench.status()["nodes"][0]["diverged"], true);
    bench.crash_and_settle();
    assert!(refused(&mut bench, &mut node.restarted(12)));
    // The operator takes the node's folder away: the backup's history goes on.
    let mut empty = FakeNode::new(1, 13);
    empty.join(&mut bench);
    empty.blocks = bench.disk.logs[&log(1)].blocks.clone();
    empty.commit(&mut bench, 1);
}

#[test]
fn a_block_that_goes_on_from_another_history_differs() {
    let (mut bench, mut node) = joined(1, 10);
    node.commit(&mut bench, 1);
    let mut fake = node.end();
    fake.chain ^= 1;
    let block = node.build_behind(&fake, 1);
    node.append(&mut bench, &block);
    assert_eq!(bench.heard(node.peer.unwrap()), ["refused diverged"]);
}

#[test]
fn only_the_present_term_may_append() {
    let (mut bench, mut node) = joined(1, 10);
    node.commit(&mut bench, 1);
    bench.drop_peer(node.peer.unwrap());
    let mut again = node.restarted(11);
    again.join(&mut bench);
    again.term = Term(1);
    let block = again.build(1);
    again.append(&mut bench, &block);
    assert_eq!(bench.heard(again.peer.unwrap()), ["refused fenced"]);
    assert_eq!(bench.disk_do("append"), 0);

    let stranger = bench.connect(
        crate::protocol::PeerRole::Node,
        Some(again.node),
        super::life(5),
    );
    let append = Append {
        log: log(1),
        term: Term(2),
        committed: crate::model::Seq(0),
        block: &block,
    };
    bench.say_to(stranger, &Message::Append(append));
    assert_eq!(bench.heard(stranger), ["refused fenced"]);
    assert_eq!(bench.disk_do("append"), 0);
}

#[test]
fn a_tail_of_the_term_before_is_sent_on_under_the_new_one() {
    let (mut bench, mut node) = joined(1, 10);
    node.commit(&mut bench, 1);
    node.build(2);
    node.build(3);
    bench.drop_peer(node.peer.unwrap());
    let mut again = node.restarted(11);
    again.join(&mut bench);
    assert_eq!(again.term, Term(2));
    let tail: Vec<_> = again.blocks[1..]
        .iter()
        .map(|(_, block)| block.clone())
        .collect();
    for block in &tail {
        again.append(&mut bench, block);
    }
    bench.disk_do("append");
    assert_eq!(
        bench.heard(again.peer.unwrap()).last().unwrap(),
        "appended 3 in term 2"
    );
    again.commit(&mut bench, 1);
    assert_eq!(bench.disk.logs[&log(1)].end().term, Term(2));
    // Back to the old term with the next block: no log goes so.
    again.term = Term(1);
    let end = LogEnd {
        term: Term(1),
        ..again.end()
    };
    let block = again.build_behind(&end, 1);
    again.term = Term(2);
    again.append(&mut bench, &block);
    assert_eq!(bench.heard(again.peer.unwrap()), ["refused malformed"]);
}

#[test]
fn bytes_that_are_no_block_are_refused() {
    let check = |spoil: fn(&mut Vec<u8>), expected: &str| {
        let (mut bench, mut node) = joined(1, 10);
        let mut block = node.build(3).to_vec();
        spoil(&mut block);
        node.append(&mut bench, &block);
        assert_eq!(bench.heard(node.peer.unwrap()), [expected]);
        assert_eq!(bench.disk_do("append"), 0);
        // Its connection ended, its term did not.
        node.blocks.clear();
        node.join(&mut bench);
        assert_eq!(node.term, Term(1));
        node.commit(&mut bench, 1);
    };
    check(|block| block[200] ^= 1, "refused malformed");
    check(|block| block.truncate(300), "refused malformed");
    check(Vec::clear, "refused malformed");
    check(|block| block.push(0), "refused malformed");
    check(|block| block.fill(0), "refused malformed");
}

#[test]
fn another_log_is_not_appended_to() {
    let (mut bench, mut node) = joined(1, 10);
    FakeNode::new(2, 20).join(&mut bench);
    node.log = Some(log(2));
    let block = node.build(1);
    node.append(&mut bench, &block);
    assert_eq!(bench.heard(node.peer.unwrap()), ["refused wrong_log"]);
}

#[test]
fn blocks_go_on_in_the_next_segment() {
    let (mut bench, mut node) = joined(1, 10);
    bench.disk.done.clear();
    for _ in 0..5 {
        node.commit(&mut bench, 8_000);
    }
    assert!(2 * SEGMENT < node.end().offset);
    bench.settle();
    let prepared = bench
        .disk
        .done
        .iter()
        .filter(|name| **name == "prepare_segment");
    assert_eq!(prepared.count(), 3, "one spare at each switch");
}

#[test]
fn a_node_is_not_read_from_while_the_disk_is_behind() {
    let (mut bench, mut node) = joined(1, 10);
    let peer = node.peer.unwrap();
    for _ in 0..33 {
        let block = node.build(8_000);
        node.append(&mut bench, &block);
    }
    assert!(bench.paused.contains(&peer));
    // What cannot be heard is not silent.
    bench.wait_ms(3_000);
    assert_eq!(bench.status()["nodes"][0]["state"], "present");
    bench.disk_do("append");
    assert!(bench.paused.is_empty());
    assert_eq!(bench.heard(peer).last().unwrap(), "appended 33 in term 1");
}

#[test]
fn a_failed_sync_ends_everything() {
    let (mut bench, mut node) = joined(1, 10);
    let mut other = FakeNode::new(2, 20);
    other.join(&mut bench);
    let block = node.build(1);
    node.append(&mut bench, &block);
    let block = other.build(1);
    other.append(&mut bench, &block);
    bench.disk.faults.insert("append", DiskFault::Poisoned);
    bench.disk_step();
    assert_eq!(bench.exit_code(), Some(ExitCode::Damage));
    bench.disk.faults.clear();
    bench.settle();
    assert!(bench.heard(node.peer.unwrap()).is_empty());
    assert!(bench.heard(other.peer.unwrap()).is_empty());
}

#[test]
fn without_room_blocks_are_dropped_and_asked_for_later() {
    let (mut bench, mut node) = joined(1, 10);
    let peer = node.peer.unwrap();
    node.commit(&mut bench, 1);
    bench.settle();
    for _ in 0..3 {
        let block = node.build(1);
        node.append(&mut bench, &block);
    }
    bench.disk.faults.insert("append", DiskFault::NoSpace);
    bench
        .disk
        .faults
        .insert("prepare_segment", DiskFault::NoSpace);
    bench.disk_do("append");
    bench.disk_do("prepare_segment");
    let late = node.build(1);
    node.append(&mut bench, &late);
    assert!(bench.heard(peer).is_empty());
    node.beat(&mut bench, 5, Beat::default());
    let mut free_size = None;
    bench.take(peer, |_, message| match message {
        Message::Confirmed(confirmed) => free_size = Some(confirmed.free_size),
        other => panic!("{other:?}"),
    });
    assert_eq!(free_size, Some(0));
    assert_eq!(bench.status()["disk_exhausted"], true);

    bench.disk.faults.clear();
    bench.wait_ms(1_200);
    bench.settle();
    assert_eq!(bench.heard(peer), ["resend behind 1"]);
    for index in 1..node.blocks.len() {
        let block = node.blocks[index].1.clone();
        node.append(&mut bench, &block);
    }
    bench.disk_do("append");
    assert_eq!(bench.heard(peer).last().unwrap(), "appended 5 in term 1");
    bench.wait_ms(300);
    assert_eq!(bench.status()["disk_exhausted"], false);
}

#[test]
fn room_that_comes_before_the_last_failure_is_noticed() {
    let (mut bench, mut node) = joined(1, 10);
    let peer = node.peer.unwrap();
    bench.settle();
    for _ in 0..2 {
        let block = node.build(1);
        node.append(&mut bench, &block);
    }
    bench.disk.faults.insert("append", DiskFault::NoSpace);
    // The first append fails, a segment gets ready, and only then the second one fails.
    assert!(bench.disk_step());
    bench.disk_do("prepare_segment");
    assert!(bench.disk_step());
    bench.disk.faults.clear();
    bench.wait_ms(600);
    assert_eq!(bench.heard(peer), ["resend behind 0"]);
    for index in 0..2 {
        let block = node.blocks[index].1.clone();
        node.append(&mut bench, &block);
    }
    bench.disk_do("append");
    assert_eq!(bench.heard(peer).last().unwrap(), "appended 2 in term 1");
}

#[test]
fn a_disk_that_claims_too_much_is_not_believed() {
    let (mut bench, mut node) = joined(1, 10);
    node.build(1);
    bench.input(Input::Disk(crate::role::DiskReply::Durable {
        log: log(1),
        end: node.end(),
    }));
    assert_eq!(bench.exit_code(), Some(ExitCode::Damage));
}

#[test]
fn beats_are_confirmed_in_the_present_term_only() {
    let (mut bench, mut node) = joined(1, 10);
    node.beat(&mut bench, 41, Beat::default());
    assert_eq!(bench.heard(node.peer.unwrap()), ["confirmed 41 in term 1"]);
    bench.closes = false;
    let mut again = node.restarted(11);
    bench.wait_ms(2_500);
    again.join(&mut bench);
    // The old connection is told to close; what it still says is not heard.
    node.beat(&mut bench, 42, Beat::default());
    assert!(bench.heard(node.peer.unwrap()).is_empty());
    again.beat(&mut bench, 43, Beat::default());
    assert_eq!(bench.heard(again.peer.unwrap()), ["confirmed 43 in term 2"]);
    node.peer = again.peer;
    node.beat(&mut bench, 44, Beat::default());
    assert_eq!(bench.heard(again.peer.unwrap()), ["refused fenced"]);
}
