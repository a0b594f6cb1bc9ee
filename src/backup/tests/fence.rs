//! The fence before a term, and the order of what is durable and what is told.

use super::{Bench, FakeNode, log};
use crate::backup::authority::Record;
use crate::model::Term;
use crate::role::{DiskFault, DiskRequest};

fn term_on_disk(bench: &Bench, node: &FakeNode) -> Term {
    let record = Record::decode(&bench.disk.authority.clone().unwrap()).unwrap();
    record.members[&node.node].term
}

#[test]
fn the_fence_waits_for_what_was_accepted() {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    node.join(&mut bench);
    node.commit(&mut bench, 1);
    for _ in 0..2 {
        let block = node.build(1);
        node.append(&mut bench, &block);
    }
    bench.drop_peer(node.peer.unwrap());
    let mut again = node.restarted(11);
    let peer = again.register(&mut bench);
    assert_eq!(
        bench.disk_do("save_file"),
        0,
        "no term before the end is fixed"
    );
    assert!(bench.heard(peer).is_empty());
    assert_eq!(bench.disk_do("append"), 2);
    assert!(bench.heard(peer).is_empty());
    assert_eq!(bench.disk_do("save_file"), 1);
    assert_eq!(bench.heard(peer), ["granted log 1 term 2 behind 3"]);
}

#[test]
fn the_same_life_waits_at_the_fence_too() {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    node.join(&mut bench);
    let block = node.build(1);
    node.append(&mut bench, &block);
    let peer = node.register(&mut bench);
    assert!(bench.heard(peer).is_empty());
    bench.disk_do("append");
    assert_eq!(bench.heard(peer), ["granted log 1 term 1 behind 1"]);
}

#[test]
fn late_bytes_of_the_old_connection_are_not_accepted() {
    let mut bench = Bench::serving();
    bench.closes = false;
    let mut node = FakeNode::new(1, 10);
    node.join(&mut bench);
    node.commit(&mut bench, 1);
    bench.wait_ms(2_500);
    let mut again = node.restarted(11);
    let peer = again.register(&mut bench);
    for _ in 0..2 {
        // Before the grant, while it is saved, and after it.
        let block = node.build(1);
        node.append(&mut bench, &block);
        assert_eq!(bench.disk_do("append"), 0);
        bench.settle();
    }
    assert_eq!(bench.heard(peer), ["granted log 1 term 2 behind 1"]);
    assert!(bench.heard(node.peer.unwrap()).is_empty());
    assert_eq!(bench.disk.logs[&log(1)].blocks.len(), 1);
}

#[test]
fn the_term_is_durable_before_the_node_hears_of_it() {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    let peer = node.register(&mut bench);
    assert_eq!(bench.disk_do("create_log"), 1);
    assert!(bench.heard(peer).is_empty());
    assert_eq!(term_on_disk(&bench, &node), Term(0));
    assert_eq!(bench.disk_do("save_file"), 1);
    assert_eq!(term_on_disk(&bench, &node), Term(1));
    assert_eq!(bench.heard(peer), ["granted log 1 term 1 behind 0"]);
}

#[test]
fn a_crash_before_the_save_gives_the_term_to_nobody_else() {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    let peer = node.register(&mut bench);
    bench.disk_do("create_log");
    assert!(bench.heard(peer).is_empty());
    bench.crash_and_settle();
    let mut other = FakeNode::new(1, 11);
    other.join(&mut bench);
    assert_eq!(other.term, Term(1), "nobody ever heard of term 1 before");
}

#[test]
fn a_crash_after_the_save_uses_the_term_up() {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    node.register(&mut bench);
    bench.disk_do("create_log");
    // The save reaches the disk, the process dies before it learns so.
    let saved = bench.disk.queue.iter().find_map(|request| match request {
        DiskRequest::SaveFile { bytes, .. } => Some(bytes.clone()),
        _ => None,
    });
    assert!(saved.is_some());
    bench.disk.authority = saved;
    bench.crash_and_settle();
    let mut other = FakeNode::new(1, 11);
    other.join(&mut bench);
    assert_eq!(other.term, Term(2));
    // The life that was granted term 1 and never heard of it is over.
    let peer = node.register(&mut bench);
    bench.settle();
    assert_eq!(bench.heard(peer), ["refused fenced"]);
}

#[test]
fn who_is_gone_while_its_term_is_saved_gets_it_later() {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    let peer = node.register(&mut bench);
    bench.disk_do("create_log");
    bench.drop_peer(peer);
    // Another life has to wait until the term is used up.
    let rival = FakeNode::new(1, 11).register(&mut bench);
    assert_eq!(bench.heard(rival), ["refused in_use"]);
    let peer = node.register(&mut bench);
    bench.settle();
    assert_eq!(bench.heard(peer), ["granted log 1 term 1 behind 0"]);
}

#[test]
fn who_is_gone_at_the_fence_waits_no_more() {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    node.join(&mut bench);
    let block = node.build(1);
    node.append(&mut bench, &block);
    bench.drop_peer(node.peer.unwrap());
    let peer = node.restarted(11).register(&mut bench);
    let rival = node.restarted(12).register(&mut bench);
    assert_eq!(bench.heard(rival), ["refused in_use"]);
    bench.drop_peer(peer);
    let mut next = node.restarted(13);
    next.join(&mut bench);
    assert_eq!(next.term, Term(2));
}

#[test]
fn without_room_for_the_record_nobody_hears_of_the_term() {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    let peer = node.register(&mut bench);
    bench.disk_do("create_log");
    bench.disk.faults.insert("save_file", DiskFault::NoSpace);
    bench.disk_do("save_file");
    bench.wait_ms(3_000);
    assert!(bench.heard(peer).is_empty());
    assert!(bench.exit.is_none());
    bench.disk.faults.clear();
    bench.wait_ms(1_100);
    bench.settle();
    assert_eq!(bench.heard(peer), ["granted log 1 term 1 behind 0"]);
    assert!(node.register(&mut bench).0 > 0);
}

#[test]
fn without_room_for_the_log_the_node_tries_again() {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    bench.disk.faults.insert("create_log", DiskFault::NoSpace);
    let peer = node.register(&mut bench);
    bench.disk_do("create_log");
    assert_eq!(bench.heard(peer), ["refused not_ready"]);
    bench.disk.faults.clear();
    node.join(&mut bench);
    assert_eq!(node.term, Term(1));
}

#[test]
fn a_log_that_was_made_for_one_who_is_gone_serves_the_next() {
    let mut bench = Bench::serving();
    let peer = FakeNode::new(1, 10).register(&mut bench);
    bench.drop_peer(peer);
    bench.settle();
    let mut node = FakeNode::new(1, 11);
    node.join(&mut bench);
    assert_eq!(node.term, Term(1));
    node.commit(&mut bench, 1);
}
