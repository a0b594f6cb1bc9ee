//! Slots that go from one node to another while their users' operations are under way.

use super::*;
use crate::limits::MOVING_RETRY_MS;
use ResultCode::{Busy, Moving, NotOwner, Ok, Unknown};

/// Two nodes; the first has the lower half, of which `user_of(1, 2, _)` are users.
fn two_nodes() -> (Rig, PeerId, Vec<PeerId>) {
    let (mut rig, backup, nodes) = Rig::with_nodes(options(), 2);
    rig.take(backup);
    (rig, backup, nodes)
}

/// Tells a table that gives everything to the second node; the first one is in this state.
fn give_all_to_second(rig: &mut Rig, backup: PeerId, epoch: u32, first: MemberState) {
    let members = [
        (1, first, node_address(1)),
        (2, MemberState::Present, node_address(2)),
    ];
    rig.tell_table(backup, epoch, &members, &[(slot_range(0, 65_535), 2)]);
}

#[test]
fn operations_of_a_moving_slot_wait_for_the_table_that_ends_it() {
    let (mut rig, backup, nodes) = two_nodes();
    let client = rig.client();
    let (ann, bob) = (user_of(1, 2, 0), user_of(1, 2, 1));
    let batch = [
        credit(ann, 1),
        credit(bob, 2),
        credit(ann, 3),
        credit(ann, 4),
    ];
    rig.request(client, 1, 5_000, &batch);
    rig.turn();
    let asked = rig.asked_once(nodes[0]);
    // Ann's slot moves; the last one of hers is told something else, and waits all the same.
    let codes = [(0, Moving), (1, Ok), (2, Moving), (3, Busy)];
    rig.answer(nodes[0], asked.request, &codes);
    assert_eq!(rig.receipts(client), [(1, 1, Ok)]);
    rig.run_ms(900);
    assert!(rig.asked(nodes[0]).is_empty() && rig.asked(nodes[1]).is_empty());
    assert!(rig.take(backup).is_empty(), "nobody polls the authority");
    give_all_to_second(&mut rig, backup, 2, MemberState::Present);
    let moved = rig.asked_once(nodes[1]);
    assert_eq!(moved.operations, [batch[0], batch[2], batch[3]]);
    assert_eq!(moved.epoch, RingEpoch(2));
    rig.answer_at(nodes[1], moved.request, 2, &[(0, Ok), (1, Ok), (2, Ok)]);
    rig.turn();
    assert_eq!(rig.receipts(client), [(1, 0, Ok), (1, 2, Ok), (1, 3, Ok)]);
    assert_eq!(rig.front.flight.held_count(), 0);
}

#[test]
fn without_a_table_it_is_tried_again_after_a_pause() {
    let (mut rig, backup, nodes) = two_nodes();
    let client = rig.client();
    let user = user_of(1, 2, 0);
    rig.request(client, 1, 10_000, &[credit(user, 1)]);
    rig.turn();
    for _ in 0..3 {
        let asked = rig.asked_once(nodes[0]);
        rig.answer(nodes[0], asked.request, &[(0, Moving)]);
        rig.run_ms(MOVING_RETRY_MS - 1);
        assert!(rig.asked(nodes[0]).is_empty());
        rig.run_ms(1);
    }
    let asked = rig.asked_once(nodes[0]);
    rig.answer(nodes[0], asked.request, &[(0, Ok)]);
    assert_eq!(rig.receipts(client), [(1, 0, Ok)]);
    assert!(rig.take(backup).is_empty());
}

/// The answer was under way while the table came: nothing else would send the operation on.
#[test]
fn an_answer_that_is_older_than_the_table_holds_nothing() {
    let (mut rig, backup, nodes) = two_nodes();
    let client = rig.client();
    let user = user_of(1, 2, 0);
    rig.request(client, 1, 5_000, &[credit(user, 1)]);
    rig.turn();
    let asked = rig.asked_once(nodes[0]);
    give_all_to_second(&mut rig, backup, 2, MemberState::Present);
    rig.answer_at(nodes[0], asked.request, 1, &[(0, Moving)]);
    rig.turn();
    rig.run_ms(10);
    let moved = rig.asked_once(nodes[1]);
    // Not activated there yet: tried again soon, for no other table will come.
    rig.answer_at(nodes[1], moved.request, 2, &[(0, NotOwner)]);
    rig.run_ms(20);
    let again = rig.asked_once(nodes[1]);
    rig.answer_at(nodes[1], again.request, 2, &[(0, Ok)]);
    rig.turn();
    assert_eq!(rig.receipts(client), [(1, 0, Ok)]);
}

#[test]
fn a_node_with_a_newer_table_is_waited_for_as_well() {
    let (mut rig, backup, nodes) = two_nodes();
    let client = rig.client();
    let user = user_of(1, 2, 0);
    rig.request(client, 1, 5_000, &[credit(user, 1)]);
    rig.turn();
    let asked = rig.asked_once(nodes[0]);
    // Handed over under a table that this front has not seen: that one will not do.
    rig.answer_at(nodes[0], asked.request, 2, &[(0, Moving)]);
    rig.turn();
    rig.tell_equal_table(backup, 2, 2);
    rig.run_ms(500);
    assert!(rig.asked(nodes[0]).is_empty());
    give_all_to_second(&mut rig, backup, 3, MemberState::Present);
    let moved = rig.asked_once(nodes[1]);
    rig.answer_at(nodes[1], moved.request, 4, &[(0, NotOwner)]);
    rig.turn();
    rig.run_ms(500);
    assert!(rig.asked(nodes[1]).is_empty());
    assert_eq!(rig.take(backup).len(), 1, "asked for once");
    rig.tell_equal_table(backup, 4, 2);
    let back = rig.asked_once(nodes[0]);
    rig.answer_at(nodes[0], back.request, 4, &[(0, Ok)]);
    rig.turn();
    assert_eq!(rig.receipts(client), [(1, 0, Ok)]);
}

#[test]
fn a_deadline_ends_the_wait_with_what_is_known() {
    let (mut rig, _, nodes) = two_nodes();
    let client = rig.client();
    let (ann, bob) = (user_of(1, 2, 0), user_of(2, 2, 0));
    rig.request(client, 1, 400, &[credit(ann, 1), credit(bob, 2)]);
    rig.turn();
    let other = rig.asked_once(nodes[1]);
    rig.cut(nodes[1]);
    rig.turn();
    let second = rig.accept(node_address(2));
    for (node, operations) in [
        (nodes[0], [credit(ann, 1)]),
        (second, [other.operations[0]]),
    ] {
        let asked = rig.asked_once(node);
        assert_eq!(asked.operations, operations);
        rig.answer(node, asked.request, &[(0, Moving)]);
    }
    rig.run_ms(500);
    // No copy of ann's is left without an answer; the first one of bob's may have been applied.
    assert_eq!(rig.receipts(client), [(1, 0, Moving), (1, 1, Unknown)]);
    assert!(rig.asked(nodes[0]).is_empty() && rig.asked(second).is_empty());
}

#[test]
fn what_waits_takes_of_the_share_of_its_node() {
    let mut options = options();
    options.limits.operation_count_max = 8;
    let (mut rig, backup, nodes) = Rig::with_nodes(options, 2);
    let client = rig.client();
    let user = user_of(1, 2, 0);
    let batch: Vec<_> = (1..=4).map(|id| credit(user, id)).collect();
    rig.request(client, 1, 5_000, &batch);
    rig.turn();
    let asked = rig.asked_once(nodes[0]);
    let codes: Vec<_> = (0..4).map(|index| (index, Moving)).collect();
    rig.answer(nodes[0], asked.request, &codes);
    let other = credit(user_of(2, 2, 0), 9);
    rig.request(client, 2, 5_000, &[credit(user, 8), other]);
    rig.turn();
    assert_eq!(rig.receipts(client), [(2, 0, Busy)]);
    assert_eq!(rig.asked_once(nodes[1]).operations, [other]);
    give_all_to_second(&mut rig, backup, 2, MemberState::Present);
    assert_eq!(rig.asked_once(nodes[1]).operations, batch);
}

#[test]
fn what_a_dead_node_had_goes_to_the_new_owner() {
    let (mut rig, backup, nodes) = two_nodes();
    let client = rig.client();
    let user = user_of(1, 2, 0);
    rig.request(client, 1, 5_000, &[credit(user, 1), credit(user, 2)]);
    rig.turn();
    let asked = rig.asked_once(nodes[0]);
    rig.cut(nodes[0]);
    rig.turn();
    rig.run_ms(2_000);
    give_all_to_second(&mut rig, backup, 2, MemberState::Away);
    let moved = rig.asked_once(nodes[1]);
    assert_eq!(moved.operations, asked.operations);
    rig.answer_at(nodes[1], moved.request, 2, &[(0, Ok), (1, Ok)]);
    rig.turn();
    assert_eq!(rig.receipts(client), [(1, 0, Ok), (1, 1, Ok)]);
}

/// A node that was stopped keeps its connections: nothing but the table says that it is away.
#[test]
fn a_node_that_is_away_and_owns_nothing_is_left_at_once() {
    let (mut rig, backup, nodes) = two_nodes();
    let client = rig.client();
    let user = user_of(1, 2, 0);
    rig.request(client, 1, 5_000, &[credit(user, 1)]);
    rig.turn();
    let asked = rig.asked_once(nodes[0]);
    let members = [
        (1, MemberState::Away, node_address(1)),
        (2, MemberState::Present, node_address(2)),
    ];
    let halves = [(slot_range(0, 32_767), 1), (slot_range(32_768, 65_535), 2)];
    rig.tell_table(backup, 2, &members, &halves);
    rig.turn();
    assert!(rig.closed.is_empty(), "it may still come back");
    give_all_to_second(&mut rig, backup, 3, MemberState::Away);
    rig.turn();
    assert_eq!(rig.closed, [nodes[0]]);
    let moved = rig.asked_once(nodes[1]);
    assert_eq!(moved.operations, asked.operations);
    rig.answer_at(nodes[1], moved.request, 3, &[(0, Ok)]);
    rig.turn();
    assert_eq!(rig.receipts(client), [(1, 0, Ok)]);
}
