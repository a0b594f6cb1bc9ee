//! Budgets: of all operations, of one node, of one client, of a target's frames.

use super::*;
use ResultCode::{Busy, Ok};

fn small(operation_count_max: u32) -> FrontOptions {
    let mut options = options();
    options.limits.operation_count_max = operation_count_max;
    options.limits.client_frame_count_max = 4;
    options
}

#[test]
fn limits_go_down_only() {
    let mut wide = options();
    wide.limits = FrontLimits {
        operation_count_max: u32::MAX,
        client_frame_count_max: u32::MAX,
        deadline_ms_default: u32::MAX,
    };
    let front = Front::new(wide);
    let limits = front.options.limits;
    assert_eq!(limits.operation_count_max, 1 << 19);
    assert_eq!(limits.client_frame_count_max, 1_024);
    assert_eq!(limits.deadline_ms_default, 10_000);
}

#[test]
fn reading_stops_above_the_budget_and_goes_on_below_half_of_it() {
    let (mut rig, _, nodes) = Rig::with_nodes(small(100), 3);
    let (client, other) = (rig.client(), rig.client());
    let router = rig.dialler(PeerRole::Front);
    let batch: Vec<Operation> = (0..75)
        .map(|n| credit(user_of(1 + n % 3, 3, 0), u128::from(n) + 1))
        .collect();
    rig.request(client, 1, 0, &batch[..74]);
    rig.turn();
    assert!(rig.reading[&client]);
    rig.request(client, 2, 0, &batch[74..]);
    rig.turn();
    assert!(!rig.reading[&client] && !rig.reading[&other]);
    assert!(rig.reading[&router], "a link that is not read looks dead");
    let late = rig.hello(PeerRole::Client, None, (VERSION_MIN, VERSION_MAX));
    assert_eq!(rig.reading.get(&late), Some(&false));
    // What was on its way already is told so once nothing fits any more.
    rig.request(client, 3, 0, &batch[..26]);
    rig.turn();
    let refused = rig.receipts(client);
    assert_eq!(refused.len(), 26);
    assert!(
        refused
            .iter()
            .all(|(request, _, code)| (*request, *code) == (3, Busy))
    );
    let asked = rig.asked(nodes[0]);
    let all: Vec<_> = (0..25).map(|index| (index, Ok)).collect();
    rig.answer(nodes[0], asked[0].request, &all[..24]);
    assert!(!rig.reading[&client], "51 are held");
    rig.answer(
        nodes[0],
        asked[0].request,
        &all[24..asked[0].operations.len()],
    );
    let count = rig.front.flight.held_count();
    assert_eq!(rig.reading[&client], count <= 50);
    let asked = rig.asked_once(nodes[1]);
    rig.answer(nodes[1], asked.request, &all[..asked.operations.len()]);
    assert!(rig.reading[&client] && rig.reading[&other] && rig.reading[&late]);
}

#[test]
fn one_node_takes_its_share_and_no_more() {
    let (mut rig, _, nodes) = Rig::with_nodes(small(100), 2);
    let client = rig.client();
    rig.cut(nodes[0]);
    rig.turn();
    let batch: Vec<Operation> = (0..60)
        .map(|n| credit(user_of(1, 2, n), 1 + u128::try_from(n).unwrap()))
        .collect();
    rig.request(client, 1, 0, &batch);
    rig.request(client, 2, 0, &[credit(user_of(2, 2, 0), 99)]);
    rig.turn();
    let receipts = rig.receipts(client);
    let expected: Vec<_> = (50..60).map(|index| (1, index, Busy)).collect();
    assert_eq!(receipts, expected);
    assert_eq!(rig.asked_once(nodes[1]).operations.len(), 1);
    let node = rig.accept(node_address(1));
    assert_eq!(rig.asked_once(node).operations, batch[..50]);
}

#[test]
fn copies_whose_operation_ended_still_count() {
    let (mut rig, _, nodes) = Rig::with_nodes(small(100), 2);
    let client = rig.client();
    let batch: Vec<Operation> = (1..=50).map(|id| credit(user_of(1, 2, 0), id)).collect();
    rig.request(client, 1, 10, &batch);
    rig.turn();
    rig.run_ms(10);
    assert_eq!(rig.receipts(client).len(), 50);
    rig.request(client, 2, 10, &batch[..1]);
    rig.turn();
    assert_eq!(rig.receipts(client), [(2, 0, Busy)]);
    let asked = rig.asked_once(nodes[0]);
    rig.answer(nodes[0], asked.request, &[(49, Ok)]);
    rig.request(client, 3, 10, &batch[..1]);
    rig.turn();
    assert_eq!(rig.receipts(client), []);
    assert_eq!(rig.asked_once(nodes[0]).operations, batch[..1]);
}

#[test]
fn too_many_frames_of_one_client_are_refused() {
    let (mut rig, _, nodes) = Rig::with_nodes(small(100), 1);
    let client = rig.client();
    let user = user_of(1, 1, 0);
    for request in 1..=4 {
        rig.request(client, request, 0, &[credit(user, u128::from(request))]);
    }
    rig.turn();
    let asked = rig.asked_once(nodes[0]);
    rig.answer(nodes[0], asked.request, &[(0, Ok)]);
    assert_eq!(rig.receipts(client), [(1, 0, Ok)]);
    rig.request(client, 5, 0, &[credit(user, 5)]);
    rig.turn();
    assert!(rig.closing.is_empty());
    rig.request(client, 6, 0, &[credit(user, 6)]);
    rig.turn();
    assert_eq!(rig.refusal(client).0, RefusalCode::TooManyFrames);
}

#[test]
fn a_targets_frames_are_bounded_and_the_rest_is_joined() {
    let mut rig = Rig::new(options());
    rig.turn();
    let backup = rig.accept(BACKUP.parse().unwrap());
    rig.tell_equal_table(backup, 1, 1);
    let node = rig.accept_as(node_address(1), cluster(), 2);
    let client = rig.client();
    let user = user_of(1, 1, 0);
    for request in 1..=5_u64 {
        rig.request(client, request, 0, &[credit(user, u128::from(request))]);
        rig.turn();
    }
    let asked = rig.asked(node);
    assert_eq!(asked.len(), 2);
    rig.answer(node, asked[1].request, &[(0, Ok)]);
    let rest = rig.asked_once(node);
    assert_eq!(rest.operations, [3, 4, 5].map(|id| credit(user, id)));
    // Time up in the queue: no copy was ever sent.
    rig.request(client, 6, 10, &[credit(user, 6)]);
    rig.turn();
    rig.take(client);
    rig.run_ms(10);
    assert_eq!(rig.receipts(client), [(6, 0, ResultCode::Unavailable)]);
    rig.answer(node, asked[0].request, &[(0, Ok)]);
    assert!(rig.asked(node).is_empty());
}

#[test]
fn a_flood_within_one_turn_is_answered_in_pieces() {
    let (mut rig, _, _) = Rig::with_nodes(small(10), 1);
    let batch: Vec<Operation> = (1..=8_192).map(|id| credit(user_of(1, 1, 0), id)).collect();
    let clients: Vec<PeerId> = (0..5).map(|_| rig.client()).collect();
    for client in &clients {
        for request in 1..=4 {
            rig.request(*client, request, 0, &batch);
        }
    }
    rig.turn();
    for client in clients {
        assert_eq!(rig.receipts(client).len(), 4 * 8_192);
    }
    assert_eq!(rig.front.flight.held_count(), 0);
}
