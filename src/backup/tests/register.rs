//! Handshake and registration: who gets a term, who does not, and what survives a crash.

use super::{Bench, FakeNode, life, node};
use crate::backup::authority::Record;
use crate::model::{ClusterId, Generation, RingEpoch, Seq, Term};
use crate::protocol::{Hello, Message, PeerRole};

fn refused(bench: &mut Bench, node: &mut FakeNode) -> String {
    let peer = node.register(bench);
    bench.settle();
    let heard = bench.heard(peer);
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert!(bench.closing.contains(&peer));
    heard[0].clone()
}

#[test]
fn a_hello_is_checked() {
    let mut bench = Bench::serving();
    let good = Hello {
        version_min: 1,
        version_max: 9,
        role: PeerRole::Node,
        cluster: None,
        node: Some(node(1)),
        incarnation: life(1),
    };
    let foreign = ClusterId::new(1);
    let cases = [
        (good, "welcome"),
        (
            Hello {
                version_min: 2,
                ..good
            },
            "refused version_unsupported",
        ),
        (
            Hello {
                cluster: foreign,
                ..good
            },
            "refused wrong_cluster",
        ),
        (Hello { node: None, ..good }, "refused malformed"),
        (
            Hello {
                role: PeerRole::Backup,
                node: None,
                ..good
            },
            "refused unexpected_message",
        ),
    ];
    for (hello, expected) in cases {
        let peer = bench.open();
        bench.say_to(peer, &Message::Hello(hello));
        assert_eq!(bench.heard(peer), [expected]);
    }
    let peer = bench.open();
    bench.say_to(peer, &Message::Ping);
    assert_eq!(bench.heard(peer), ["refused unexpected_message"]);
    let peer = bench.connect(PeerRole::Front, None, life(7));
    bench.say_to(peer, &Message::Ping);
    assert_eq!(bench.heard(peer), ["pong"]);
    bench.say_to(peer, &Message::Hello(good));
    assert_eq!(bench.heard(peer), ["refused unexpected_message"]);
}

#[test]
fn terms_rise_with_every_life() {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(2, 10);
    for term in 1..=20_u64 {
        let peer = node.register(&mut bench);
        bench.settle();
        assert!(node.take_grant(&mut bench));
        assert_eq!(node.term, Term(term));
        assert_eq!(node.log.unwrap().get(), 2);
        node.commit(&mut bench, 1);
        bench.drop_peer(peer);
        if term == 7 {
            bench.crash_and_settle();
        }
        node = node.restarted(10 + u128::from(term));
    }
    let log = &bench.disk.logs[&node.log.unwrap()];
    assert_eq!(log.blocks.len(), 20);
    assert_eq!(log.end().term, Term(20));
}

#[test]
fn a_grant_names_where_the_copy_here_ends() {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    node.join(&mut bench);
    node.commit(&mut bench, 3);
    bench.drop_peer(node.peer.unwrap());
    let end = node.end();
    let mut again = node.restarted(11);
    let peer = again.register(&mut bench);
    bench.settle();
    let mut seen = false;
    bench.take(peer, |_, message| {
        let Message::Granted(granted) = message else {
            panic!("{message:?}");
        };
        seen = true;
        assert_eq!(granted.end, end);
        assert_eq!(granted.ring_key, 99);
        assert_ne!(granted.copy, node.copy);
        let terms: Vec<_> = granted.terms.iter().map(Result::unwrap).collect();
        assert_eq!(terms.len(), 1);
        assert_eq!(terms[0].term, Term(1));
        assert_eq!(terms[0].seq, Seq(1));
    });
    assert!(seen);
}

#[test]
fn strangers_and_liars_get_no_term() {
    let mut bench = Bench::serving();
    assert_eq!(
        refused(&mut bench, &mut FakeNode::new(9, 1)),
        "refused not_a_member"
    );
    let mut liar = FakeNode::new(1, 2);
    let peer = bench.connect(PeerRole::Node, Some(node(2)), life(2));
    liar.peer = Some(peer);
    let other = FakeNode::new(1, 2).register(&mut bench);
    bench.settle();
    assert_eq!(bench.heard(other), ["granted log 1 term 1 behind 0"]);
    let front = bench.connect(PeerRole::Front, None, life(3));
    bench.say_to(front, &Message::Beat(crate::protocol::Beat::default()));
    assert_eq!(bench.heard(front), ["refused unexpected_message"]);
}

#[test]
fn a_node_in_use_is_not_given_away() {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    let peer = node.join(&mut bench);
    node.commit(&mut bench, 1);
    assert_eq!(
        refused(&mut bench, &mut node.restarted(11)),
        "refused in_use"
    );
    assert_eq!(
        refused(&mut bench, &mut FakeNode::new(1, 12)),
        "refused in_use"
    );
    node.commit(&mut bench, 1);

    // Silent for too long: the next one gets the log, the silent one is fenced for good.
    bench.wait_ms(2_500);
    let mut next = node.restarted(13);
    next.join(&mut bench);
    assert_eq!(next.term, Term(2));
    assert!(bench.closing.contains(&peer));
    assert_eq!(refused(&mut bench, &mut node), "refused fenced");
    next.commit(&mut bench, 1);
}

#[test]
fn a_pause_of_the_backup_is_nobodys_silence() {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    node.join(&mut bench);
    bench.now.tick = bench.now.tick.plus_ms(60_000);
    assert_eq!(
        refused(&mut bench, &mut node.restarted(11)),
        "refused in_use"
    );
    node.commit(&mut bench, 1);
}

#[test]
fn the_same_life_keeps_its_term() {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    let first = node.join(&mut bench);
    node.commit(&mut bench, 1);
    let copy = node.copy;
    // The new connection closes the old one, heard or not.
    node.join(&mut bench);
    assert_eq!((node.term, node.copy), (Term(1), copy));
    assert!(bench.closing.contains(&first));
    node.commit(&mut bench, 1);
    bench.crash_and_settle();
    node.join(&mut bench);
    assert_eq!((node.term, node.copy), (Term(1), copy));
    node.commit(&mut bench, 1);
}

#[test]
fn a_grant_that_was_lost_is_given_again() {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    node.join(&mut bench);
    node.commit(&mut bench, 1);
    bench.drop_peer(node.peer.unwrap());
    let mut again = node.restarted(11);
    let peer = again.register(&mut bench);
    bench.settle();
    assert_eq!(bench.heard(peer), ["granted log 1 term 2 behind 1"]);
    bench.drop_peer(peer);
    // The same life has the copy of before still: it never heard of the new one.
    again.join(&mut bench);
    assert_eq!(again.term, Term(2));
    again.commit(&mut bench, 1);
}

#[test]
fn a_new_address_is_kept_without_a_new_term() {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    node.join(&mut bench);
    node.address = "127.0.0.1:9999".parse().unwrap();
    node.join(&mut bench);
    assert_eq!(node.term, Term(1));
    let record = Record::decode(&bench.disk.authority.clone().unwrap()).unwrap();
    assert_eq!(record.members[&node.node].address, Some(node.address));
}

#[test]
fn a_copied_folder_is_refused() {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    node.join(&mut bench);
    node.commit(&mut bench, 1);
    let copied = node.restarted(20);
    bench.drop_peer(node.peer.unwrap());
    let mut again = node.restarted(11);
    again.join(&mut bench);
    again.commit(&mut bench, 1);
    bench.drop_peer(again.peer.unwrap());
    assert_eq!(
        refused(&mut bench, &mut copied.restarted(21)),
        "refused wrong_log"
    );
    bench.crash_and_settle();
    assert_eq!(
        refused(&mut bench, &mut copied.restarted(22)),
        "refused wrong_log"
    );
    // Another node's folder.
    let mut moved = again.restarted(23);
    moved.node = super::node(2);
    assert_eq!(refused(&mut bench, &mut moved), "refused wrong_log");
    again.restarted(24).join(&mut bench);
}

#[test]
fn the_copy_before_goes_on_until_the_new_one_is_used() {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    node.join(&mut bench);
    node.commit(&mut bench, 1);
    bench.drop_peer(node.peer.unwrap());
    // It dies with the grant in hand, twice.
    for life in [11, 12] {
        let peer = node.restarted(life).register(&mut bench);
        bench.settle();
        assert!(bench.heard(peer)[0].starts_with("granted"));
        bench.drop_peer(peer);
    }
    let mut again = node.restarted(13);
    again.join(&mut bench);
    assert_eq!(again.term, Term(4));
    again.commit(&mut bench, 1);
    bench.drop_peer(again.peer.unwrap());
    assert_eq!(
        refused(&mut bench, &mut node.restarted(14)),
        "refused wrong_log"
    );
}

#[test]
fn an_empty_folder_goes_on_once_the_one_before_is_gone() {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    node.join(&mut bench);
    node.commit(&mut bench, 1);
    let mut empty = FakeNode::new(1, 11);
    assert_eq!(refused(&mut bench, &mut empty), "refused in_use");
    bench.drop_peer(node.peer.unwrap());
    empty.join(&mut bench);
    assert_eq!(empty.term, Term(2));
    empty.blocks = node.blocks.clone();
    empty.commit(&mut bench, 1);
    bench.drop_peer(empty.peer.unwrap());
    assert_eq!(
        refused(&mut bench, &mut node.restarted(12)),
        "refused wrong_log"
    );
}

#[test]
fn a_node_that_has_seen_more_refuses_this_backup() {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    node.join(&mut bench);
    node.commit(&mut bench, 1);
    bench.drop_peer(node.peer.unwrap());
    let changes: [fn(&mut FakeNode); 4] = [
        |node| node.generation = Generation(2),
        |node| node.ring_epoch = RingEpoch(2),
        |node| node.term = Term(2),
        |node| node.committed = Seq(2),
    ];
    for (change, life) in changes.into_iter().zip(20..) {
        let mut again = node.restarted(life);
        change(&mut again);
        assert_eq!(refused(&mut bench, &mut again), "refused backup_older");
    }
    assert_eq!(bench.alarms(), 4);
}
