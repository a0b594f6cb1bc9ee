//! Ids below the horizon: what the log still says of them.

use super::world::{START_MS, World, coin, credit, get, id, id_at, user};
use crate::limits;
use crate::model::{Flags, Operation, ReceiptFlags, ResultCode};
use crate::role::DiskRequest;

/// Lets a day pass, so that the horizon rises over all ids so far.
fn pass_a_day(world: &mut World) {
    let day = limits::ID_WINDOW_MS + 2 * limits::ID_AHEAD_MS_MAX;
    world.now.wall_ms += day;
    world.backup.clock_ms += day;
    world.pass(1_000);
}

#[test]
fn an_id_below_the_horizon_is_searched_in_the_log() {
    let mut world = World::serving();
    let first = world.one(credit(1, 7, 50));
    world.one(Operation::find(id(2), user(8)).with_flags(Flags::BURN));
    pass_a_day(&mut world);
    assert_eq!(world.one(credit(1, 7, 50)).code, ResultCode::IdTooOld);
    // Done, burned, never: the log holds everything since the beginning.
    for flags in [Flags(0), Flags::BURN, Flags::RECENT] {
        let find = |number, who| Operation::find(id(number), user(who)).with_flags(flags);
        let found = world.one(find(1, 7));
        assert_eq!((found.code, found.available), (ResultCode::Ok, 50));
        assert_eq!(found.place, first.place);
        assert!(found.flags.has(ReceiptFlags::REPLAYED));
        assert_eq!(world.one(find(2, 8)).code, ResultCode::Cancelled);
        assert_eq!(
            world.one(find(2, 7)).code,
            ResultCode::Never,
            "of another user"
        );
        assert_eq!(world.one(find(3, 7)).code, ResultCode::Never);
    }
    // Many at a time, each in its turn; later operations of a user wait for it, others do not.
    let finds: Vec<Operation> = (1..=100)
        .map(|number| Operation::find(id(number), user(7 + number % 3)))
        .collect();
    let request = world.send(&[&finds[..], &[get(7), get(9)]].concat());
    world.run();
    let mut receipts = world.answer(request).receipts;
    receipts.sort_by_key(|receipt| receipt.index);
    let codes: Vec<ResultCode> = receipts.iter().map(|receipt| receipt.code).collect();
    assert_eq!(codes.len(), 102);
    assert!(codes[..100].iter().all(|code| *code == ResultCode::Never));
    assert_eq!(codes[100..], [ResultCode::Ok, ResultCode::NotFound]);
}

/// Each `find` of a user used to be searched for once those before it were answered, also those
/// whose asker had long given up and asked again: behind a hundred of them nobody had an answer in
/// time any more.
#[test]
fn old_ids_that_wait_are_searched_for_in_one_pass() {
    let mut world = World::serving();
    world.one(credit(1, 7, 50));
    pass_a_day(&mut world);
    world.disk.requests.clear();
    // 25 ids, each asked for four times.
    let finds: Vec<Operation> = (0..100)
        .map(|number| Operation::find(id(1 + number % 25), user(7)))
        .collect();
    let request = world.send(&finds);
    world.run();
    let codes = world.codes(request);
    assert_eq!(codes.len(), 100);
    let done = codes.iter().filter(|code| **code == ResultCode::Ok).count();
    let never = codes
        .iter()
        .filter(|code| **code == ResultCode::Never)
        .count();
    assert_eq!((done, never), (4, 96));
    // The log is a single piece: one pass for the first, one for all that came behind it.
    let read_count = world
        .disk
        .count_of(|request| matches!(request, DiskRequest::ReadBlocks { .. }));
    assert_eq!(read_count, 2);
    // More ids than one pass looks for, of several users.
    let finds: Vec<Operation> = (0..200)
        .map(|number| Operation::find(id(1 + number), user(7 + number % 3)))
        .collect();
    let request = world.send(&finds);
    world.run();
    let codes = world.codes(request);
    assert_eq!(codes.len(), 200);
    let done = codes.iter().filter(|code| **code == ResultCode::Ok).count();
    assert_eq!(done, 1);
}

#[test]
fn what_is_applied_and_not_committed_is_searched_too() {
    let mut world = World::serving();
    world.one(credit(1, 7, 50));
    // The backup acknowledges nothing for so long that the horizon passes the id.
    world.backup.holds_acks = true;
    let credit = world.send(&[credit(2, 7, 5)]);
    world.run();
    pass_a_day(&mut world);
    let finds = [2, 3].map(|number| Operation::find(id(number), user(7)));
    let request = world.send(&finds);
    world.pass(100);
    assert_eq!(world.codes(request), []);
    world.backup.release_acks();
    world.run();
    assert_eq!(world.codes(credit), [ResultCode::Ok]);
    assert_eq!(world.codes(request), [ResultCode::Ok, ResultCode::Never]);
}

#[test]
fn a_search_says_never_only_if_everything_is_there() {
    // The disk cannot read it.
    let mut world = World::serving();
    world.one(credit(1, 7, 50));
    pass_a_day(&mut world);
    let find = |number| Operation::find(id(number), user(7));
    world.disk.searches_fail = true;
    assert_eq!(world.one(find(1)).code, ResultCode::BeyondRetention);
    world.disk.searches_fail = false;
    assert_eq!(world.one(find(1)).code, ResultCode::Ok);
    // Retired: five segments' worth, then a day, then two that are kept.
    for batch in 0..10_u128 {
        let operations: Vec<Operation> = (0..8_000)
            .map(|number| {
                let ms = START_MS + limits::ID_WINDOW_MS;
                let id = id_at(ms, 1 + batch * 8_000 + number);
                Operation::credit(id, user(7), coin(), 1)
            })
            .collect();
        world.ask(&operations);
    }
    pass_a_day(&mut world);
    world.pass(5_000);
    let retired = world
        .disk
        .count_of(|request| matches!(request, DiskRequest::RetireSegments { .. }));
    assert_eq!(retired, 1);
    assert_eq!(world.one(find(1)).code, ResultCode::BeyondRetention);
    assert_eq!(world.one(find(3)).code, ResultCode::BeyondRetention);
    // Of a later time than the first block that is kept: never, or the receipt.
    let late = |number| {
        let ms = START_MS + limits::ID_WINDOW_MS + 200_000;
        Operation::find(id_at(ms, number), user(7))
    };
    assert_eq!(world.one(late(1)).code, ResultCode::Never);
}
