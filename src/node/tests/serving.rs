//! Serving: commits, replays, order, look-ups, lost links, lack of space.

use super::disk::TestDisk;
use super::world::{START_MS, World, coin, credit, get, id, id_at, user};
use super::worth_a_block;
use crate::limits;
use crate::model::{
    Flags, Operation, ReceiptFlags, ResultCode, RingEpoch, Seq, Slot, SlotRange, Term,
};
use crate::protocol::{Appended, Confirmed, Message, RefusalCode};
use crate::role::{DiskFault, DiskRequest, ExitCode};

#[test]
fn credits_and_shows() {
    let mut world = World::serving();
    let receipt = world.one(credit(1, 7, 50));
    assert_eq!(receipt.code, ResultCode::Ok);
    assert_eq!((receipt.available, receipt.amount), (50, 50));
    assert!(receipt.flags.has(ReceiptFlags::CREATED));
    let shown = world.one(get(7));
    assert_eq!((shown.code, shown.available), (ResultCode::Ok, 50));
    assert_eq!(shown.place, receipt.place);
    assert_eq!(world.one(get(8)).code, ResultCode::NotFound);
    let listed = world.ask(&[Operation::list(user(7), 0, 10)]);
    assert_eq!(listed.rows.len(), 1);
    assert_eq!(listed.rows[0].available, 50);
    assert_eq!(listed.receipts[0].code, ResultCode::Ok);
    assert_eq!(listed.epoch, 1);
}

#[test]
fn rows_are_cut_and_followed_up() {
    let mut world = World::serving();
    let currency = |number| crate::model::Currency::new(number).unwrap();
    let operations: Vec<Operation> = (1..=5)
        .map(|number| {
            let credit = Operation::credit(id(number.into()), user(7), currency(number), 1);
            credit.with_flags(Flags::OPEN_IF_MISSING)
        })
        .collect();
    world.ask(&operations);
    let first = world.ask(&[Operation::list(user(7), 0, 3)]);
    assert_eq!(first.rows.len(), 3);
    assert!(first.receipts[0].flags.has(ReceiptFlags::MORE));
    let rest = world.ask(&[Operation::list(user(7), 4, 3)]);
    assert_eq!(rest.rows.len(), 2);
    assert!(!rest.receipts[0].flags.has(ReceiptFlags::MORE));
}

#[test]
fn a_user_without_accounts_is_not_found() {
    let mut world = World::serving();
    let list = |from| Operation::list(user(7), from, 10);
    let nobody = world.ask(&[list(0)]);
    assert_eq!(nobody.receipts[0].code, ResultCode::NotFound);
    assert!(nobody.rows.is_empty());
    world.one(credit(1, 7, 1));
    // Behind the last account there is nothing to show, but the user is there.
    let behind = world.ask(&[list(6)]);
    assert_eq!(behind.receipts[0].code, ResultCode::Ok);
    assert!(behind.rows.is_empty());
    world.one(Operation::debit(id(2), user(7), coin(), 1));
    let closed = world.one(Operation::close(id(3), user(7), coin()));
    assert_eq!(closed.code, ResultCode::Ok);
    assert_eq!(world.one(list(0)).code, ResultCode::NotFound);
}

#[test]
fn nothing_leaves_before_both_have_it() {
    // The disk is last.
    let mut world = World::serving();
    world.disk.holds_appends = true;
    let request = world.send(&[credit(1, 7, 50)]);
    world.run();
    assert!(world.codes(request).is_empty());
    world.disk.release_appends();
    world.run();
    assert_eq!(world.codes(request), [ResultCode::Ok]);
    // The backup is last.
    world.backup.holds_acks = true;
    let request = world.send(&[credit(2, 7, 50)]);
    world.run();
    assert!(world.codes(request).is_empty());
    world.backup.release_acks();
    world.run();
    assert_eq!(world.codes(request), [ResultCode::Ok]);
}

#[test]
fn refusals_and_replays_wait_for_their_commit_too() {
    let mut world = World::serving();
    world.backup.holds_acks = true;
    let first = world.send(&[credit(1, 7, 50)]);
    world.run();
    let again = world.send(&[credit(1, 7, 50)]);
    let other = world.send(&[credit(1, 7, 51)]);
    let old = world.send(&[Operation::credit(id_at(1_000, 9), user(7), coin(), 5)]);
    world.run();
    for request in [first, again, other, old] {
        assert!(world.codes(request).is_empty());
    }
    world.backup.release_acks();
    world.run();
    assert_eq!(world.codes(first), [ResultCode::Ok]);
    assert_eq!(world.codes(again), [ResultCode::Ok]);
    assert!(
        world.answer(again).receipts[0]
            .flags
            .has(ReceiptFlags::REPLAYED)
    );
    assert_eq!(world.codes(other), [ResultCode::IdReused]);
    assert_eq!(world.codes(old), [ResultCode::IdTooOld]);
}

#[test]
fn a_replay_is_the_first_receipt_wherever_the_entry_lies() {
    let mut world = World::serving();
    // In one block.
    let answer = world.ask(&[credit(1, 7, 50), credit(1, 7, 50), credit(1, 7, 51)]);
    assert_eq!(answer.receipts[1].code, ResultCode::Ok);
    assert_eq!(answer.receipts[1].available, 50);
    assert_eq!(answer.receipts[1].place, answer.receipts[0].place);
    assert_eq!(answer.receipts[2].code, ResultCode::IdReused);
    world.one(credit(2, 7, 5));
    // In the log, and after more has happened: as it was.
    let replay = world.one(credit(1, 7, 50));
    let first = answer.receipts[0];
    assert_eq!(
        (replay.available, replay.version),
        (first.available, first.version)
    );
    assert!(
        replay
            .flags
            .has(ReceiptFlags::REPLAYED.with(ReceiptFlags::CREATED))
    );
    assert_eq!(world.one(get(7)).available, 55);
    // A refusal burns the id: its replay is the same refusal.
    let debit = Operation::debit(id(3), user(7), coin(), 500);
    assert_eq!(world.one(debit).code, ResultCode::Insufficient);
    world.one(credit(4, 7, 5_000));
    assert_eq!(world.one(debit).code, ResultCode::Insufficient);
}

#[test]
fn ids_have_their_time() {
    let mut world = World::serving();
    let old = id_at(START_MS - limits::ID_WINDOW_MS - 60_000, 1);
    let old_credit = Operation::credit(old, user(7), coin(), 5);
    assert_eq!(world.one(old_credit).code, ResultCode::IdTooOld);
    let future = id_at(START_MS + limits::ID_AHEAD_MS_MAX + 10_000, 1);
    let early = Operation::credit(future, user(7), coin(), 5).with_flags(Flags::OPEN_IF_MISSING);
    assert_eq!(world.one(early).code, ResultCode::IdInFuture);
    world.pass(20_000);
    assert_eq!(world.one(early).code, ResultCode::Ok);
}

#[test]
fn find_shows_burns_and_promises_nothing() {
    let mut world = World::serving();
    world.one(credit(1, 7, 50));
    let found = world.one(Operation::find(id(1), user(7)));
    assert_eq!((found.code, found.available), (ResultCode::Ok, 50));
    assert!(found.flags.has(ReceiptFlags::REPLAYED));
    let unseen = Operation::find(id(2), user(7));
    assert_eq!(world.one(unseen).code, ResultCode::NotSeen);
    let burn = unseen.with_flags(Flags::BURN);
    assert_eq!(world.one(burn).code, ResultCode::Cancelled);
    assert_eq!(world.one(credit(2, 7, 9)).code, ResultCode::Cancelled);
    assert_eq!(world.one(credit(2, 8, 9)).code, ResultCode::Ok);
    assert_eq!(world.one(unseen).code, ResultCode::Cancelled);
    assert_eq!(world.one(burn).code, ResultCode::Cancelled);
    let burn_known = Operation::find(id(1), user(7)).with_flags(Flags::BURN);
    assert_eq!(world.one(burn_known).code, ResultCode::Ok);
    assert_eq!(world.one(get(7)).available, 50);
    let old = Operation::find(id_at(1_000, 4), user(7));
    assert_eq!(world.one(old).code, ResultCode::Never);
}

#[test]
fn malformed_operations_cost_themselves_only() {
    let mut world = World::serving();
    let zero = Operation::credit(id(1), user(7), coin(), 0);
    let group = credit(2, 7, 5).with_flags(Flags::GROUP);
    let answer = world.ask(&[zero, group, credit(3, 7, 5)]);
    let codes: Vec<_> = answer.receipts.iter().map(|receipt| receipt.code).collect();
    assert_eq!(
        codes,
        [
            ResultCode::BadAmount,
            ResultCode::Unsupported,
            ResultCode::Ok
        ]
    );
    assert!(world.ask(&[]).receipts.is_empty());
}

#[test]
fn a_not_now_answer_holds_back_the_users_later_ones() {
    let mut world = World::serving();
    let future = id_at(START_MS + limits::ID_AHEAD_MS_MAX + 10_000, 1);
    let early = Operation::credit(future, user(7), coin(), 5).with_flags(Flags::OPEN_IF_MISSING);
    let request = world.send(&[early, credit(2, 7, 5), credit(3, 8, 5), get(7)]);
    world.run();
    let late = ResultCode::IdInFuture;
    assert_eq!(world.codes(request), [late, late, ResultCode::Ok, late]);
    assert_eq!(world.one(get(7)).code, ResultCode::NotFound);
    // In another frame they are their own.
    assert_eq!(world.one(credit(2, 7, 5)).code, ResultCode::Ok);
}

#[test]
fn what_is_not_owned_is_not_answered() {
    let mut world = World::new();
    world.backup.slots = SlotRange {
        first: Slot(0),
        last: Slot(0),
    };
    world.serve();
    let answer = world.ask(&[credit(1, 7, 5), get(7)]);
    assert_eq!(answer.receipts[0].code, ResultCode::NotOwner);
    assert_eq!(answer.receipts[1].code, ResultCode::NotOwner);
    // The table changes, and the log activates what it gives.
    world.backup.slots.last = Slot(u16::MAX);
    world.backup.ring_epoch = RingEpoch(2);
    world.backup.tell_table();
    world.run();
    world.run();
    let receipt = world.one(credit(1, 7, 5));
    assert_eq!(receipt.code, ResultCode::Ok);
    assert_eq!(world.ask(&[get(7)]).epoch, 2);
}

#[test]
fn look_ups_need_a_round_trip_begun_after_them() {
    let mut world = World::serving();
    world.one(credit(1, 7, 50));
    world.backup.holds_confirms = true;
    let first = world.send(&[get(7)]);
    world.run();
    assert_eq!(world.backup.held_beats.len(), 1);
    // This one comes after the beat has left: the beat does not count for it.
    let second = world.send(&[get(7)]);
    world.run();
    assert_eq!(world.backup.held_beats.len(), 1, "one at a time");
    assert!(world.codes(first).is_empty());
    world.backup.release_confirms();
    world.backup.holds_confirms = true;
    world.run();
    assert_eq!(world.codes(first), [ResultCode::Ok]);
    assert!(world.codes(second).is_empty());
    assert_eq!(world.backup.held_beats.len(), 1);
    world.backup.release_confirms();
    world.run();
    assert_eq!(world.codes(second), [ResultCode::Ok]);
}

#[test]
fn an_append_sent_after_a_look_up_confirms_it() {
    let mut world = World::serving();
    world.one(credit(1, 7, 50));
    world.backup.holds_confirms = true;
    let look = world.send(&[get(7)]);
    world.run();
    assert!(world.codes(look).is_empty());
    let change = world.send(&[credit(2, 7, 1)]);
    world.run();
    assert_eq!(world.codes(change), [ResultCode::Ok]);
    assert_eq!(world.codes(look), [ResultCode::Ok]);
    assert_eq!(world.answer(look).receipts[0].available, 50);
    // One that was sent before it does not.
    world.backup.release_confirms();
    world.run();
    world.backup.holds_acks = true;
    world.backup.holds_confirms = true;
    world.send(&[credit(3, 7, 1)]);
    world.run();
    let look = world.send(&[get(7)]);
    world.run();
    world.backup.release_acks();
    world.run();
    assert!(world.codes(look).is_empty());
    world.backup.release_confirms();
    world.run();
    assert_eq!(world.codes(look), [ResultCode::Ok]);
    assert_eq!(world.answer(look).receipts[0].available, 52);
}

#[test]
fn a_look_up_never_shows_what_is_not_committed() {
    let mut world = World::serving();
    world.one(credit(1, 7, 50));
    world.one(credit(2, 8, 50));
    world.backup.holds_acks = true;
    world.send(&[credit(3, 7, 1)]);
    world.run();
    let exact = world.send(&[get(7)]);
    let recent = world.send(&[get(7).with_flags(Flags::RECENT)]);
    let older = world.send(&[get(8).with_flags(Flags::RECENT)]);
    let missing = world.send(&[get(9).with_flags(Flags::RECENT)]);
    world.run();
    assert!(world.codes(exact).is_empty());
    assert!(world.codes(recent).is_empty());
    assert!(world.codes(missing).is_empty());
    // What it shows has long been committed.
    assert_eq!(world.codes(older), [ResultCode::Ok]);
    world.backup.release_acks();
    world.run();
    for request in [exact, recent] {
        assert_eq!(world.answer(request).receipts[0].available, 51);
    }
    assert_eq!(world.codes(missing), [ResultCode::NotFound]);
}

#[test]
fn a_lost_backup_stops_what_is_new_and_keeps_what_was_applied() {
    let mut world = World::serving();
    world.one(credit(1, 7, 50));
    world.backup.drops_appends = true;
    let applied = world.send(&[credit(2, 7, 1)]);
    world.run();
    world.cut_link();
    assert!(world.codes(applied).is_empty());
    assert_eq!(world.one(credit(3, 7, 1)).code, ResultCode::Unavailable);
    assert_eq!(world.one(get(7)).code, ResultCode::Unavailable);
    world.backup.drops_appends = false;
    world.mend_link();
    assert_eq!(world.codes(applied), [ResultCode::Ok]);
    assert_eq!(world.backup.term, Term(1), "the same life keeps its term");
    assert_eq!(world.one(credit(3, 7, 1)).code, ResultCode::Ok);
    assert_eq!(world.one(get(7)).available, 52);
}

#[test]
fn an_acknowledgement_that_was_lost_comes_with_the_next_grant() {
    let mut world = World::serving();
    world.backup.holds_acks = true;
    let applied = world.send(&[credit(2, 7, 1)]);
    world.run();
    world.cut_link();
    world.backup.crash_of_node();
    let appended_count = world.backup.appends.len();
    world.mend_link();
    assert_eq!(world.codes(applied), [ResultCode::Ok]);
    assert_eq!(
        world.backup.appends.len(),
        appended_count,
        "nothing is sent twice"
    );
}

#[test]
fn a_gap_is_sent_again() {
    let mut world = World::serving();
    world.backup.drops_appends = true;
    let first = world.send(&[credit(1, 7, 1)]);
    world.run();
    world.backup.drops_appends = false;
    let second = world.send(&worth_a_block(2, 8));
    world.run();
    assert_eq!(world.codes(first), [ResultCode::Ok]);
    assert!(
        world
            .codes(second)
            .iter()
            .all(|code| *code == ResultCode::Ok)
    );
}

#[test]
fn a_silent_backup_is_dialled_anew() {
    let mut world = World::serving();
    world.backup.holds_confirms = true;
    world.pass(limits::LINK_SILENCE_MS_MAX + 500);
    assert!(world.has_said("silent"));
    assert!(2 <= world.backup.registered.len());
    world.backup.release_confirms();
    world.run();
    assert_eq!(world.one(credit(1, 7, 1)).code, ResultCode::Ok);
}

#[test]
fn blocks_grow_while_some_are_in_flight() {
    let mut world = World::serving();
    world.backup.holds_acks = true;
    let before = world.backup.appends.len();
    let worth = u128::from(limits::BLOCK_WORTH_COUNT);
    let sent = |world: &World| world.backup.appends.len() - before;
    // The first at once, the next ones once they are worth it, and then a full block.
    for number in 0..=2 * worth {
        world.send(&[credit(100 + number, 7, 1)]);
        world.run();
        assert_eq!(sent(&world), if number < worth { 1 } else { 2 });
    }
    assert_eq!(limits::BLOCKS_IN_FLIGHT_EAGER, 2);
    world.backup.release_acks();
    world.run();
    assert_eq!(sent(&world), 3);
    assert_eq!(
        i128::from(world.one(get(7)).available),
        2 * worth.cast_signed() + 1
    );
}

/// Every small request used to get a block of its own as soon as the one before was committed: at
/// a tenth of what it could carry a machine was busy with syncs alone.
#[test]
fn small_requests_gather_for_as_long_as_a_block_takes() {
    const TOOK_NS: u64 = 400_000;
    let mut world = World::serving();
    let before = world.backup.appends.len();
    let sent = |world: &World| world.backup.appends.len() - before;
    let commit = |world: &mut World| {
        world.now.tick.0 += TOOK_NS;
        world.backup.release_acks();
        world.run();
    };
    // Who is alone does not wait.
    for number in 0..3 {
        world.backup.holds_acks = true;
        world.send(&[credit(1 + number, 7, 1)]);
        world.run();
        assert_eq!(sent(&world), usize::try_from(number).unwrap() + 1);
        commit(&mut world);
    }
    // Something came while a block was on its way.
    world.backup.holds_acks = true;
    world.send(&[credit(11, 7, 1)]);
    world.run();
    let second = world.send(&[credit(12, 8, 1)]);
    world.run();
    commit(&mut world);
    let third = world.send(&[credit(13, 9, 1)]);
    world.now.tick.0 += TOOK_NS - 1;
    world.run();
    assert_eq!(sent(&world), 4);
    world.now.tick.0 += 1;
    world.run();
    assert_eq!(sent(&world), 5, "one block for both");
    for request in [second, third] {
        assert_eq!(world.codes(request), [ResultCode::Ok]);
    }
    // A look-up ends the gathering.
    world.backup.holds_acks = true;
    world.send(&[credit(21, 7, 1)]);
    world.run();
    let second = world.send(&[credit(22, 8, 1)]);
    world.run();
    commit(&mut world);
    let look_up = world.send(&[get(8)]);
    world.run();
    for request in [second, look_up] {
        assert_eq!(world.codes(request), [ResultCode::Ok]);
    }
}

#[test]
fn above_its_budget_a_node_is_busy() {
    let mut options = super::world::options(100);
    options.id_count_max = 1 << 20;
    let backup = super::backup::TestBackup::new();
    let mut world = World::with(options, TestDisk::new(), backup);
    world.serve();
    world.backup.holds_acks = true;
    let batch = |from: u128| -> Vec<Operation> {
        (0..8_192)
            .map(|number| credit(from + number, 7, 1))
            .collect()
    };
    let mut requests = Vec::new();
    for number in 0..20 {
        requests.push(world.send(&batch(1 + number * 10_000)));
        world.run();
    }
    let answered: Vec<_> = requests
        .iter()
        .map(|request| world.codes(*request))
        .collect();
    assert!(answered[..16].iter().all(Vec::is_empty));
    assert_eq!(answered[16][0], ResultCode::Busy);
    assert_eq!(answered[19].len(), 8_192);
    world.backup.release_acks();
    world.run();
    assert_eq!(world.one(get(7)).available, 16 * 8_192);
}

/// Once, what was left after a turn without a block waited for the next input, whatever it was.
#[test]
fn a_turn_that_builds_no_block_is_followed_by_another() {
    let mut options = super::world::options(100);
    options.id_count_max = 1;
    let backup = super::backup::TestBackup::new();
    let mut world = World::with(options, TestDisk::new(), backup);
    world.serve();
    assert_eq!(world.one(credit(1, 7, 1)).code, ResultCode::Ok);
    world.backup.holds_acks = true;
    world.backup.holds_confirms = true;
    let requests: Vec<u64> = (0..3_u128)
        .map(|batch| {
            let from = 2 + batch * 10_000;
            let batch: Vec<Operation> = (from..from + 8_192).map(|n| credit(n, 7, 1)).collect();
            world.send(&batch)
        })
        .collect();
    world.run();
    for request in requests {
        assert!(
            world
                .codes(request)
                .iter()
                .all(|code| *code == ResultCode::Busy)
        );
        assert_eq!(world.codes(request).len(), 8_192);
    }
}

#[test]
fn clocks_that_disagree_stop_changes() {
    let mut world = World::serving();
    world.backup.clock_ms += limits::CLOCK_SKEW_MS_MAX + 2_000;
    world.pass(600);
    assert_eq!(world.one(credit(1, 7, 1)).code, ResultCode::Unavailable);
    assert!(world.has_said("clock"));
    assert_eq!(world.one(get(7)).code, ResultCode::NotFound);
    world.backup.clock_ms -= limits::CLOCK_SKEW_MS_MAX + 2_000;
    world.pass(600);
    assert_eq!(world.one(credit(1, 7, 1)).code, ResultCode::Ok);
}

#[test]
fn lack_of_space_stops_changes_until_there_is_some() {
    let mut world = World::serving();
    let check = |world: &mut World, set: &dyn Fn(&mut World, bool), number: u128| {
        set(world, true);
        world.pass(limits::UPKEEP_MS + 300);
        assert_eq!(world.one(credit(number, 7, 1)).code, ResultCode::NoSpace);
        assert!(matches!(
            world.one(get(7)).code,
            ResultCode::Ok | ResultCode::NotFound
        ));
        set(world, false);
        world.pass(limits::UPKEEP_MS + 300);
        assert_eq!(world.one(credit(number, 7, 1)).code, ResultCode::Ok);
    };
    let size = |is_full| if is_full { 1 } else { u64::MAX };
    check(
        &mut world,
        &|world, is_full| world.disk.free_size = size(is_full),
        1,
    );
    check(
        &mut world,
        &|world, is_full| world.backup.free_size = size(is_full),
        2,
    );
}

#[test]
fn a_failed_sync_ends_the_process_and_answers_nothing() {
    for fault in [DiskFault::Poisoned, DiskFault::Other] {
        let mut world = World::serving();
        world.disk.append_fault = Some(fault);
        let request = world.send(&[credit(1, 7, 50)]);
        world.run();
        world.assert_exit(ExitCode::Damage, "the disk failed");
        assert!(world.codes(request).is_empty());
    }
}

#[test]
fn a_higher_term_fences() {
    let told: [&dyn Fn(&mut World); 3] = [
        &|world| {
            let confirmed = Confirmed {
                nonce: 0,
                term: Term(9),
                clock_ms: START_MS,
                free_size: 0,
            };
            world.backup.say(&Message::Confirmed(confirmed));
        },
        &|world| {
            let appended = Appended {
                log: super::world::log_number(),
                term: Term(9),
                through: Seq(1),
                clock_ms: START_MS,
                free_size: 0,
            };
            world.backup.say(&Message::Appended(appended));
        },
        &|world| {
            world.cut_link();
            world.mend_link();
        },
    ];
    for tell in told {
        // Who has the log now decides what becomes of this process.
        for refusal in [RefusalCode::Fenced, RefusalCode::TakenOver] {
            let mut world = World::serving();
            world.backup.refusal = Some(refusal);
            tell(&mut world);
            world.run();
            world.pass(200);
            let code = world.exit.as_ref().map(|exit| exit.0);
            let is_fenced = refusal == RefusalCode::Fenced;
            assert_eq!(code, is_fenced.then_some(ExitCode::Fenced));
            assert_eq!(world.again.is_some(), !is_fenced);
        }
    }
}

#[test]
fn a_backup_that_lost_what_was_committed_is_not_followed() {
    let mut world = World::serving();
    world.one(credit(1, 7, 50));
    world.cut_link();
    world.backup.files.blocks.pop();
    world.mend_link();
    world.assert_exit(ExitCode::Damage, "backup is older");
}

#[test]
fn a_stopping_node_commits_what_it_applied() {
    let mut world = World::serving();
    world.backup.holds_acks = true;
    let applied = world.send(&[credit(1, 7, 50)]);
    world.run();
    world.give(crate::role::Input::Stop);
    let late = world.send(&[credit(2, 7, 50)]);
    world.run();
    assert_eq!(world.codes(late), [ResultCode::Unavailable]);
    assert!(world.exit.is_none());
    world.backup.release_acks();
    world.run();
    assert_eq!(world.codes(applied), [ResultCode::Ok]);
    world.assert_exit(ExitCode::Ok, "stopped at block");
}

#[test]
fn a_stopping_node_does_not_wait_for_ever() {
    let mut world = World::serving();
    world.backup.holds_acks = true;
    world.send(&[credit(1, 7, 50)]);
    world.run();
    world.give(crate::role::Input::Stop);
    world.pass(limits::STOP_MS_MAX + 200);
    world.assert_exit(ExitCode::Ok, "did not acknowledge");
}

/// Makes all that was written so far cold.
fn make_cold(world: &World) {
    world
        .disk
        .files(|files| files.cold_below = files.end().offset);
}

#[test]
fn a_cold_hit_waits_and_holds_back_its_user() {
    let mut world = World::serving();
    world.one(credit(1, 7, 50));
    make_cold(&world);
    let request = world.send(&[credit(1, 7, 50), credit(2, 7, 5), get(7), credit(3, 8, 5)]);
    world.run();
    assert_eq!(world.codes(request), [ResultCode::Ok; 4]);
    let mut receipts = world.answer(request).receipts;
    // The other user did not wait.
    assert_eq!(receipts[0].index, 3);
    receipts.sort_by_key(|receipt| receipt.index);
    assert!(receipts[0].flags.has(ReceiptFlags::REPLAYED));
    assert_eq!(receipts[1].available, 55);
    assert_eq!(receipts[2].available, 55);
}

#[test]
fn a_cold_entry_comes_from_the_backup() {
    let mut world = World::serving();
    world.one(credit(1, 7, 50));
    make_cold(&world);
    world.disk.files(|files| files.is_cold_lost = true);
    let replay = world.one(credit(1, 7, 50));
    assert_eq!((replay.code, replay.available), (ResultCode::Ok, 50));
    assert!(replay.flags.has(ReceiptFlags::REPLAYED));
    assert_eq!(world.backup.entry_ask_count, 1);
    assert_eq!(world.one(credit(1, 7, 51)).code, ResultCode::IdReused);
    // Nobody has it any more: never taken for unseen.
    world.backup.is_forgetful = true;
    assert_eq!(
        world.one(credit(1, 7, 50)).code,
        ResultCode::BeyondRetention
    );
    let find = Operation::find(id(1), user(7)).with_flags(Flags::RECENT);
    assert_eq!(world.one(find).code, ResultCode::BeyondRetention);
    // The backup is away.
    world.cut_link();
    assert_eq!(world.one(credit(1, 7, 50)).code, ResultCode::Unavailable);
    world.mend_link();
    assert_eq!(world.one(get(7)).available, 50);
}

#[test]
fn many_cold_entries_are_asked_for_a_few_at_a_time() {
    let mut world = World::serving();
    let operations: Vec<Operation> = (1..=100).map(|n| credit(n, n, 50)).collect();
    world.ask(&operations);
    make_cold(&world);
    world.disk.files(|files| files.is_cold_lost = true);
    let request = world.send(&operations);
    world.run();
    assert_eq!(world.codes(request), [ResultCode::Ok; 100]);
    assert_eq!(world.backup.entry_ask_count, 100);
}

#[test]
fn the_parked_are_bounded() {
    let mut options = super::world::options(100);
    options.limits.parked_count_max = 2;
    let backup = super::backup::TestBackup::new();
    let mut world = World::with(options, TestDisk::new(), backup);
    world.serve();
    let operations: Vec<Operation> = (1..=4).map(|n| credit(n, n, 50)).collect();
    world.ask(&operations);
    make_cold(&world);
    let request = world.send(&operations);
    world.run();
    let (ok, busy) = (ResultCode::Ok, ResultCode::Busy);
    assert_eq!(world.codes(request), [ok, ok, busy, busy]);
    assert_eq!(world.ask(&operations[2..]).receipts[0].code, ok);
}

#[test]
fn checkpoints_follow_the_log_and_old_segments_go() {
    let mut world = World::serving();
    let is_checkpoint =
        |request: &DiskRequest| matches!(request, DiskRequest::MakeCheckpoint { .. });
    let is_retirement =
        |request: &DiskRequest| matches!(request, DiskRequest::RetireSegments { .. });
    // Five segments' worth, at 16,000 entries a segment.
    for batch in 0..10_u128 {
        let operations: Vec<Operation> = (0..8_000)
            .map(|number| credit(1 + batch * 8_000 + number, 7, 1))
            .collect();
        world.ask(&operations);
    }
    world.pass(limits::UPKEEP_MS + 200);
    assert_eq!(world.disk.count_of(is_checkpoint), 1);
    world.pass(3_000);
    assert_eq!(
        world.disk.count_of(is_checkpoint),
        1,
        "nothing was logged since"
    );
    assert_eq!(world.disk.count_of(is_retirement), 0, "the ids are young");
    // A day later the horizon has passed them all.
    let day = limits::ID_WINDOW_MS + 2 * limits::ID_AHEAD_MS_MAX;
    world.now.wall_ms += day;
    world.backup.clock_ms += day;
    world.pass(3_000);
    assert_eq!(world.disk.count_of(is_retirement), 1);
    let below = world
        .disk
        .requests
        .iter()
        .find_map(|request| match request {
            DiskRequest::RetireSegments { below, .. } => Some(*below),
            _ => None,
        });
    let segment = super::SEGMENT_SIZE;
    let last = world
        .disk
        .files(|files| files.end().offset)
        .div_ceil(segment);
    assert_eq!(below, Some((last - 2) * segment));
}
