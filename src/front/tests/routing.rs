//! Splitting, joining, order, not-now answers, lost links, deadlines.

use super::*;
use crate::model::{AccountSettings, Flags, Kind, OPERATION_SIZE};
use ResultCode::{
    BadAmount, Busy, Insufficient, NotOwner, NotReady, Ok, Unavailable, Unknown, Unsupported,
};

#[test]
fn a_batch_is_split_by_owner_and_its_receipts_come_as_they_come() {
    let (mut rig, _, nodes) = Rig::with_nodes(options(), 3);
    assert!(rig.is_ready);
    let client = rig.client();
    let users = [1, 2, 3].map(|node| user_of(node, 3, 0));
    let batch = [
        credit(users[2], 1),
        credit(users[0], 2),
        get(users[2]),
        credit(users[1], 3),
        credit(users[0], 4),
    ];
    rig.request(client, 42, 1_000, &batch);
    rig.turn();
    let asked: Vec<Asked> = nodes.iter().map(|node| rig.asked_once(*node)).collect();
    assert_eq!(asked[0].operations, [batch[1], batch[4]]);
    assert_eq!(asked[1].operations, [batch[3]]);
    assert_eq!(asked[2].operations, [batch[0], batch[2]]);
    assert!(asked.iter().all(|asked| asked.epoch == RingEpoch(1)));
    assert!(asked.iter().all(|asked| asked.deadline_ms == 1_000));

    rig.answer(nodes[2], asked[2].request, &[(1, Ok)]);
    assert_eq!(rig.receipts(client), [(42, 2, Ok)]);
    rig.answer_at(nodes[0], asked[0].request, 1, &[(1, Insufficient), (0, Ok)]);
    rig.answer_at(nodes[1], asked[1].request, 1, &[(0, Ok)]);
    rig.turn();
    let got = rig.take(client);
    assert_eq!(got.len(), 1, "one frame for each batch and turn");
    assert_eq!(got[0].header.ring_epoch, RingEpoch(1));
    let Message::Receipts(receipts) = got[0].message() else {
        panic!("{got:?}");
    };
    let receipts: Vec<Receipt> = receipts.iter().map(Result::unwrap).collect();
    let seen: Vec<_> = receipts.iter().map(|r| (r.index, r.code)).collect();
    assert_eq!(seen, [(4, Insufficient), (1, Ok), (3, Ok)]);
    assert_eq!(receipts[0].available, 101, "the rest is passed on as it is");
    rig.answer(nodes[2], asked[2].request, &[(0, Ok)]);
    assert_eq!(rig.receipts(client), [(42, 0, Ok)]);
    assert_eq!(rig.front.flight.batches.count(), 0);
    assert_eq!(rig.front.flight.held_count(), 0);
}

#[test]
fn frames_of_many_clients_are_joined_within_a_turn() {
    let (mut rig, _, nodes) = Rig::with_nodes(options(), 1);
    let clients: Vec<PeerId> = (0..3).map(|_| rig.client()).collect();
    let user = user_of(1, 1, 0);
    for (client, id) in clients.iter().zip(1..) {
        rig.request(
            *client,
            7,
            500 * u32::try_from(id).unwrap(),
            &[credit(user, id)],
        );
    }
    rig.turn();
    let asked = rig.asked_once(nodes[0]);
    assert_eq!(asked.operations, [1, 2, 3].map(|id| credit(user, id)));
    assert_eq!(asked.deadline_ms, 1_500, "the longest");
    rig.answer(nodes[0], asked.request, &[(0, Ok), (2, Ok), (1, Ok)]);
    for client in clients {
        assert_eq!(rig.receipts(client), [(7, 0, Ok)]);
    }
}

#[test]
fn a_joined_frame_never_cuts_a_batch() {
    let (mut rig, _, nodes) = Rig::with_nodes(options(), 1);
    let client = rig.client();
    let user = user_of(1, 1, 0);
    let batch: Vec<Operation> = (1..=5_000).map(|id| credit(user, id)).collect();
    rig.request(client, 1, 0, &batch);
    rig.request(client, 2, 0, &batch[..2_000]);
    rig.request(client, 3, 0, &batch[..3_000]);
    rig.turn();
    let counts: Vec<usize> = rig
        .asked(nodes[0])
        .iter()
        .map(|asked| asked.operations.len())
        .collect();
    assert_eq!(counts, [7_000, 3_000]);
}

#[test]
fn malformed_and_unsupported_operations_are_answered_at_once() {
    let (mut rig, _, nodes) = Rig::with_nodes(options(), 1);
    let client = rig.client();
    let user = user_of(1, 1, 0);
    let mut bytes = BytesMut::new();
    let mut writer = RequestWriter::begin(&mut bytes, 9, RingEpoch(0), 0);
    let mut no_amount = credit(user, 1).to_bytes();
    no_amount[48..56].fill(0);
    let mut release = [0; OPERATION_SIZE];
    release[0] = Kind::Release as u8;
    release[16..32].copy_from_slice(&user.get().to_le_bytes());
    let id = OperationId::from_parts(WALL_MS, 3);
    release[32..48].copy_from_slice(&id.get().to_le_bytes());
    release[64..80].copy_from_slice(&id.get().to_le_bytes());
    let group = credit(user, 4).with_flags(Flags::GROUP).to_bytes();
    let open = Operation::open(
        OperationId::from_parts(WALL_MS, 5),
        user,
        Currency::new(1).unwrap(),
        AccountSettings::default(),
    );
    for operation in [no_amount, release, group, open.to_bytes()] {
        writer.push(&mut bytes, &operation);
    }
    writer.finish(&mut bytes);
    rig.feed_bytes(client, &bytes);
    rig.turn();
    assert_eq!(
        rig.receipts(client),
        [(9, 0, BadAmount), (9, 1, Unsupported), (9, 2, Unsupported)]
    );
    let asked = rig.asked_once(nodes[0]);
    assert_eq!(asked.operations, [open]);
    rig.answer(nodes[0], asked.request, &[(0, Ok)]);
    assert_eq!(rig.receipts(client), [(9, 3, Ok)]);
}

#[test]
fn rows_go_to_who_asked_before_their_receipt() {
    let (mut rig, _, nodes) = Rig::with_nodes(options(), 1);
    let (first, second) = (rig.client(), rig.client());
    let user = user_of(1, 1, 0);
    rig.request(first, 1, 0, &[credit(user, 1)]);
    rig.request(second, 2, 0, &[get(user), Operation::list(user, 0, 10)]);
    rig.turn();
    let asked = rig.asked_once(nodes[0]);
    let mut bytes = BytesMut::new();
    let row = crate::model::Row {
        currency: 1,
        flags: 0,
        available: 10,
        held: 0,
        outgoing: 0,
        floor: 0,
        cap: 50,
        version: 3,
        place: crate::model::Place(0),
    };
    crate::protocol::write_rows(&mut bytes, asked.request, 2, &[row]);
    rig.feed_bytes(nodes[0], &bytes);
    rig.answer(nodes[0], asked.request, &[(2, Ok)]);
    let got = rig.take(second);
    let Message::Rows { index, rows } = got[0].message() else {
        panic!("{got:?}");
    };
    assert_eq!((got[0].header.request, index), (2, 1));
    assert_eq!(rows.iter().next(), Some(Result::Ok(row)));
    assert!(matches!(got[1].message(), Message::Receipts(_)));
    assert!(rig.take(first).is_empty());
}

#[test]
fn not_now_answers_are_sent_again_in_the_order_of_each_user() {
    let (mut rig, _, nodes) = Rig::with_nodes(options(), 1);
    let client = rig.client();
    let (ann, bob) = (user_of(1, 1, 0), user_of(1, 1, 1));
    let batch = [
        credit(ann, 1),
        credit(bob, 2),
        credit(ann, 3),
        credit(bob, 4),
        credit(ann, 5),
    ];
    rig.request(client, 1, 0, &batch);
    rig.turn();
    let asked = rig.asked_once(nodes[0]);
    // Of ann the first was applied and is not committed; the rest was not taken.
    rig.answer(nodes[0], asked.request, &[(2, Busy), (4, Busy)]);
    rig.answer(nodes[0], asked.request, &[(1, Busy), (3, Busy)]);
    rig.run_ms(5);
    let again = rig.asked_once(nodes[0]);
    assert_eq!(
        again.operations,
        [batch[1], batch[3]],
        "ann has one under way"
    );
    rig.run_ms(30);
    assert_eq!(rig.receipts(client), []);
    rig.answer(nodes[0], asked.request, &[(0, Ok)]);
    assert_eq!(rig.receipts(client), [(1, 0, Ok)]);
    rig.run_ms(1);
    let rest = rig.asked_once(nodes[0]);
    assert_eq!(rest.operations, [batch[2], batch[4]]);
    rig.answer(nodes[0], rest.request, &[(0, Ok), (1, Ok)]);
    rig.answer(nodes[0], again.request, &[(0, Ok), (1, Ok)]);
    assert_eq!(
        rig.receipts(client),
        [(1, 2, Ok), (1, 4, Ok), (1, 1, Ok), (1, 3, Ok)]
    );
}

#[test]
fn retries_slow_down_and_end_with_the_last_not_now_code() {
    let (mut rig, _, nodes) = Rig::with_nodes(options(), 1);
    let client = rig.client();
    let user = user_of(1, 1, 0);
    rig.request(client, 1, 2_000, &[credit(user, 1), get(user)]);
    rig.turn();
    let (mut copy_count, mut pauses) = (0, Vec::new());
    let mut last_ms = rig.tick_ms;
    while rig.tick_ms < last_ms + 1_000 {
        for asked in rig.asked(nodes[0]) {
            copy_count += 1;
            pauses.push(rig.tick_ms - last_ms);
            last_ms = rig.tick_ms;
            assert_eq!(asked.operations, [credit(user, 1), get(user)]);
            rig.answer(nodes[0], asked.request, &[(0, Busy), (1, Busy)]);
        }
        rig.run_ms(1);
    }
    assert_eq!(pauses[..7], [0, 5, 10, 20, 40, 80, 160]);
    assert!((15..30).contains(&copy_count), "{copy_count}");
    assert_eq!(
        rig.receipts(client),
        [(1, 0, Busy), (1, 1, Unavailable)],
        "no copy was left without an answer, so the code is true"
    );
}

#[test]
fn a_lost_link_sends_everything_again_and_remembers_the_copy() {
    let (mut rig, _, nodes) = Rig::with_nodes(options(), 2);
    let client = rig.client();
    let (ann, bob) = (user_of(1, 2, 0), user_of(2, 2, 0));
    let batch = [credit(ann, 1), credit(bob, 2), get(ann), credit(ann, 3)];
    rig.request(client, 1, 3_000, &batch);
    rig.turn();
    let asked = rig.asked_once(nodes[0]);
    assert_eq!(rig.asked_once(nodes[1]).operations, [batch[1]]);
    rig.answer(nodes[0], asked.request, &[(0, Ok)]);
    assert_eq!(rig.receipts(client), [(1, 0, Ok)]);
    rig.cut(nodes[0]);
    rig.turn();
    let node = rig.accept(node_address(1));
    let again = rig.asked_once(node);
    assert_eq!(again.operations, [batch[2], batch[3]]);
    // From here on a not-now answer proves nothing about the first copy.
    rig.answer(node, again.request, &[(0, Busy), (1, Busy)]);
    rig.run_ms(4);
    rig.cut(node);
    rig.turn();
    rig.run_ms(3_000);
    assert_eq!(
        rig.receipts(client),
        [(1, 1, Unknown), (1, 2, Unavailable), (1, 3, Unknown)]
    );
}

/// `id_too_old` says nothing of a copy that went before and may have been applied.
#[test]
fn too_old_is_unknown_behind_an_unanswered_copy() {
    let (mut rig, _, nodes) = Rig::with_nodes(options(), 1);
    let client = rig.client();
    let user = user_of(1, 1, 0);
    rig.request(client, 1, 3_000, &[credit(user, 1)]);
    rig.turn();
    rig.asked_once(nodes[0]);
    rig.cut(nodes[0]);
    rig.turn();
    let node = rig.accept(node_address(1));
    let again = rig.asked_once(node);
    rig.request(client, 2, 3_000, &[credit(user, 2)]);
    rig.turn();
    let first = rig.asked_once(node);
    rig.answer(node, again.request, &[(0, ResultCode::IdTooOld)]);
    rig.answer(node, first.request, &[(0, ResultCode::IdTooOld)]);
    let told = rig.receipts(client);
    assert_eq!(told, [(1, 0, Unknown), (2, 0, ResultCode::IdTooOld)]);
}

#[test]
fn deadline_outcomes_follow_what_is_known_of_each_copy() {
    let (mut rig, _, nodes) = Rig::with_nodes(options(), 3);
    let client = rig.client();
    let users = [1, 2, 3].map(|node| user_of(node, 3, 0));
    let find = Operation::find(OperationId::from_parts(WALL_MS, 9), users[0]);
    rig.cut(nodes[1]);
    rig.turn();
    let batch = [
        credit(users[0], 1),
        get(users[0]),
        find,
        find.with_flags(Flags::BURN),
        credit(users[1], 2),
        credit(users[2], 3),
    ];
    rig.request(client, 1, 100, &batch);
    rig.turn();
    let sent = rig.asked_once(nodes[0]);
    let other = rig.asked_once(nodes[2]);
    rig.answer(nodes[2], other.request, &[(0, Busy)]);
    rig.run_ms(5);
    for _ in 0..3 {
        let again = rig.asked_once(nodes[2]);
        rig.answer(nodes[2], again.request, &[(0, Busy)]);
        rig.run_ms(21);
    }
    assert_eq!(rig.receipts(client), []);
    rig.run_ms(100);
    assert_eq!(
        rig.receipts(client),
        [
            (1, 0, Unknown),
            (1, 1, Unavailable),
            (1, 2, Unavailable),
            (1, 3, Unknown),
            (1, 4, Unavailable),
            (
                1,
                5,
                if rig.asked(nodes[2]).is_empty() {
                    Busy
                } else {
                    Unknown
                }
            ),
        ]
    );
    // What comes too late is no one's, and gives its budget back.
    assert!(rig.front.flight.orphan_count != 0);
    let codes = [(0, Ok), (1, Ok), (2, Ok), (3, Ok)];
    rig.answer(nodes[0], sent.request, &codes);
    assert_eq!(rig.receipts(client), []);
    assert_eq!(rig.front.flight.targets[usize::from(1_u16)].load, 0);
    rig.cut(nodes[2]);
    rig.turn();
    assert_eq!(rig.front.flight.held_count(), 0);
}

#[test]
fn deadlines_are_defaulted_and_capped() {
    let (mut rig, _, nodes) = Rig::with_nodes(options(), 1);
    let client = rig.client();
    let user = user_of(1, 1, 0);
    rig.request(client, 1, 0, &[credit(user, 1)]);
    rig.turn();
    rig.request(client, 2, u32::MAX, &[credit(user, 2)]);
    rig.turn();
    let deadlines: Vec<u32> = rig.asked(nodes[0]).iter().map(|a| a.deadline_ms).collect();
    assert_eq!(deadlines, [5_000, 10_000]);
    rig.run_ms(4_999);
    assert_eq!(rig.receipts(client), []);
    rig.run_ms(1);
    assert_eq!(rig.receipts(client), [(1, 0, Unknown)]);
    rig.run_ms(5_000);
    assert_eq!(rig.receipts(client), [(2, 0, Unknown)]);
}

#[test]
fn a_newer_table_moves_what_waits_and_a_higher_epoch_asks_for_it() {
    let (mut rig, backup, nodes) = Rig::with_nodes(options(), 2);
    rig.take(backup);
    let client = rig.client();
    let user = user_of(1, 2, 0);
    rig.request(client, 1, 5_000, &[credit(user, 1), credit(user, 2)]);
    rig.turn();
    let asked = rig.asked_once(nodes[0]);
    let codes = [(0, NotOwner), (1, NotOwner)];
    rig.answer_at(nodes[0], asked.request, 7, &codes);
    rig.turn();
    let followed = rig.take(backup);
    assert_eq!(followed.len(), 1, "asked once for one epoch");
    assert!(matches!(followed[0].message(), Message::Follow));
    let members = [1, 2].map(|node| (node, MemberState::Present, node_address(node)));
    rig.tell_table(backup, 7, &members, &[(slot_range(0, 65_535), 2)]);
    let moved = rig.asked_once(nodes[1]);
    assert_eq!(moved.operations, asked.operations);
    assert_eq!(moved.epoch, RingEpoch(7));
    rig.answer(nodes[1], moved.request, &[(0, Ok), (1, Ok)]);
    assert_eq!(rig.receipts(client), [(1, 0, Ok), (1, 1, Ok)]);
    // An older table is not taken.
    rig.tell_equal_table(backup, 6, 1);
    assert_eq!(rig.front.epoch(), RingEpoch(7));
    assert!(rig.said.iter().any(|text| text.contains("older table")));
}

/// Found by the fuzz target `front`: what was queued behind the bound of frames in flight went to
/// the node that had lost the slot, under the epoch in which it had lost it.
#[test]
fn what_is_queued_goes_to_the_new_owner() {
    let mut rig = Rig::new(options());
    rig.turn();
    let backup = rig.accept(BACKUP.parse().unwrap());
    rig.tell_equal_table(backup, 1, 2);
    let old = rig.accept_as(node_address(1), cluster(), 1);
    let new = rig.accept(node_address(2));
    let client = rig.client();
    let user = user_of(1, 2, 0);
    rig.request(client, 1, 5_000, &[credit(user, 1)]);
    rig.turn();
    let asked = rig.asked_once(old);
    rig.request(client, 2, 5_000, &[credit(user, 2)]);
    rig.turn();
    assert!(rig.asked(old).is_empty(), "one frame in flight at most");
    let members = [1, 2].map(|node| (node, MemberState::Present, node_address(node)));
    rig.tell_table(backup, 2, &members, &[(slot_range(0, 65_535), 2)]);
    let moved = rig.asked_once(new);
    assert_eq!(moved.operations, [credit(user, 2)]);
    assert_eq!(moved.epoch, RingEpoch(2));
    rig.answer(old, asked.request, &[(0, Ok)]);
    rig.answer(new, moved.request, &[(0, Ok)]);
    assert_eq!(rig.receipts(client), [(1, 0, Ok), (2, 0, Ok)]);
    assert!(rig.asked(old).is_empty());
}

#[test]
fn requests_before_the_first_table_are_held_and_then_not_ready() {
    let mut rig = Rig::new(options());
    rig.turn();
    let backup = rig.accept(BACKUP.parse().unwrap());
    let client = rig.client();
    let user = user_of(1, 1, 0);
    rig.request(client, 1, 100, &[credit(user, 1), get(user)]);
    rig.request(client, 2, 1_000, &[credit(user, 2)]);
    rig.turn();
    rig.run_ms(100);
    assert_eq!(
        rig.receipts(client),
        [(1, 0, NotReady), (1, 1, Unavailable)]
    );
    assert!(!rig.is_ready);
    rig.tell_equal_table(backup, 1, 1);
    let node = rig.accept(node_address(1));
    assert!(rig.is_ready);
    let asked = rig.asked_once(node);
    assert_eq!(asked.operations, [credit(user, 2)]);
    assert!(asked.deadline_ms <= 900, "{}", asked.deadline_ms);
}

#[test]
fn slots_without_owner_wait_for_one() {
    let (mut rig, backup, nodes) = Rig::with_nodes(options(), 1);
    let members = [(1, MemberState::Present, node_address(1))];
    rig.tell_table(backup, 2, &members, &[(slot_range(0, 32_767), 1)]);
    let client = rig.client();
    rig.request(client, 1, 0, &[credit(user_of(2, 2, 0), 1)]);
    rig.turn();
    assert!(rig.asked(nodes[0]).is_empty());
    rig.tell_equal_table(backup, 3, 1);
    assert_eq!(rig.asked_once(nodes[0]).operations.len(), 1);
}

#[test]
fn an_unknown_from_a_target_is_a_copy_without_answer() {
    let (mut rig, _, nodes) = Rig::with_nodes(options(), 1);
    let client = rig.client();
    let user = user_of(1, 1, 0);
    rig.request(client, 1, 20, &[credit(user, 1)]);
    rig.turn();
    let asked = rig.asked_once(nodes[0]);
    rig.answer(nodes[0], asked.request, &[(0, Unknown)]);
    for _ in 0..20 {
        rig.run_ms(1);
        for again in rig.asked(nodes[0]) {
            rig.answer(nodes[0], again.request, &[(0, Busy)]);
        }
    }
    // No copy is under way, and the last one was told busy; the first one decides.
    assert_eq!(rig.receipts(client), [(1, 0, Unknown)]);
}
