//! What is known about ids, and when they are forgotten.

use super::{Clock, RING_KEY, TIME_START, credit, ledger, user};
use crate::ledger::{Candidates, ID_ROW_MS, Ledger, LedgerOptions, Seen};
use crate::limits::{ID_AHEAD_MS_MAX, ID_WINDOW_MS, ID_WINDOW_MS_MIN};
use crate::model::{Entry, LogTime, OperationId, Place};

const NOW_MS: u64 = TIME_START / 1_000_000;

fn places(seen: Seen) -> Vec<Place> {
    let Seen::Maybe(candidates) = seen else {
        panic!("expected candidates, not {seen:?}")
    };
    candidates.iter().collect()
}

fn small(id_count_max: u64) -> Ledger {
    Ledger::new(LedgerOptions {
        ring_key: RING_KEY,
        id_count_max,
        keep_ids: true,
    })
}

#[test]
fn every_outcome_is_remembered() {
    let mut ledger = ledger();
    let mut clock = Clock::new();
    let (place, time) = clock.tick();
    let refused = credit(&clock, 5, 1);
    let id = refused.id().unwrap();
    assert_eq!(ledger.seen(user(5), id, time), Seen::New);
    let change = ledger.apply(&refused, place, time);
    assert_eq!(change.code.name(), "not_found");
    assert_eq!(places(ledger.seen(user(5), id, time)), [place]);
    // The key is (user, id).
    assert_eq!(ledger.seen(user(6), id, time), Seen::New);
    assert_eq!(ledger.seen_after_false_hits(id, time), Seen::New);
}

#[test]
fn too_old_comes_first_then_what_was_seen_then_the_future() {
    let mut ledger = ledger();
    let mut clock = Clock::new();
    let (place, time) = clock.tick();
    let operation = credit(&clock, 5, 1);
    let id = operation.id().unwrap();
    ledger.apply(&operation, place, time);
    let before = LogTime(time.0 - ID_AHEAD_MS_MAX * 1_000_000 - 1_000_000);
    assert_eq!(places(ledger.seen(user(5), id, before)), [place]);
    assert_eq!(ledger.seen(user(6), id, before), Seen::Future);
    assert_eq!(ledger.seen_after_false_hits(id, before), Seen::Future);
    assert_eq!(
        ledger.seen(user(6), id, LogTime(before.0 + 1_000_000)),
        Seen::New
    );

    let (place, later) = clock.tick();
    let horizon = Entry::Horizon { ms: id.time_ms() };
    ledger.absorb(&horizon, place, later).unwrap();
    assert_eq!(ledger.horizon_ms(), id.time_ms());
    assert!(
        matches!(ledger.seen(user(5), id, later), Seen::Maybe(_)),
        "at the horizon"
    );
    let (place, later) = clock.tick();
    let horizon = Entry::Horizon {
        ms: id.time_ms() + 1,
    };
    ledger.absorb(&horizon, place, later).unwrap();
    assert_eq!(ledger.seen(user(5), id, later), Seen::TooOld);
    assert_eq!(ledger.seen_after_false_hits(id, before), Seen::TooOld);
    let (place, later) = clock.tick();
    assert!(
        ledger
            .absorb(&Entry::Horizon { ms: 1 }, place, later)
            .is_err(),
        "it only rises"
    );
    let late = ledger.absorb(&Entry::Change(change_of(&operation)), place, later);
    assert_eq!(late.unwrap_err().what, "its id lies before the horizon");
}

fn change_of(operation: &crate::model::Operation) -> crate::model::Change {
    let mut clock = Clock::new();
    let (place, time) = clock.tick();
    ledger().apply(operation, place, time)
}

#[test]
fn the_horizon_follows_by_a_day() {
    let mut ledger = ledger();
    let due = ledger
        .horizon_due(LogTime(TIME_START))
        .expect("a new log has none");
    assert_eq!(due % ID_ROW_MS, 0);
    assert!(due <= NOW_MS - ID_WINDOW_MS && NOW_MS - ID_WINDOW_MS < due + ID_ROW_MS);
    let mut clock = Clock::new();
    let (place, time) = clock.tick();
    ledger
        .absorb(&Entry::Horizon { ms: due }, place, time)
        .unwrap();
    let row_end = LogTime((due + ID_WINDOW_MS + ID_ROW_MS) * 1_000_000);
    assert_eq!(ledger.horizon_due(LogTime(row_end.0 - 1)), None);
    assert_eq!(ledger.horizon_due(row_end), Some(due + ID_ROW_MS));
}

#[test]
fn a_full_table_forgets_no_younger_than_the_least_window() {
    let mut ledger = small(64);
    let mut clock = Clock::new();
    let mut remember = |ledger: &mut Ledger, ms: u64| {
        let (place, _) = clock.tick();
        let time = LogTime(TIME_START + clock.index);
        let id = OperationId::from_parts(ms, u128::from(clock.index));
        let operation =
            crate::model::Operation::find(id, user(5)).with_flags(crate::model::Flags::BURN);
        assert_eq!(ledger.seen(user(5), id, time), Seen::New);
        ledger.apply(&operation, place, time);
    };
    let horizon_ms = ledger.horizon_due(LogTime(TIME_START)).unwrap();
    let old_ms = NOW_MS - ID_WINDOW_MS_MIN - 2 * ID_ROW_MS;
    for index in 0..64 {
        remember(&mut ledger, if index < 10 { old_ms } else { NOW_MS });
        let due = ledger.horizon_due(LogTime(TIME_START)).unwrap();
        // Above seven eighths the old row goes; until then only the day counts.
        assert_eq!(due == horizon_ms, index < 56, "{index}");
        assert!(due <= NOW_MS - ID_WINDOW_MS_MIN);
    }
    let id = OperationId::from_parts(NOW_MS, 1 << 70);
    let time = LogTime(TIME_START + 100);
    assert_eq!(ledger.seen(user(5), id, time), Seen::Full);
    assert_eq!(ledger.seen_after_false_hits(id, time), Seen::Full);
    let due = ledger.horizon_due(time).unwrap();
    let place = Place::new(crate::model::LogNumber::new(2).unwrap(), 1 << 30);
    ledger
        .absorb(&Entry::Horizon { ms: due }, place, time)
        .unwrap();
    assert_eq!(ledger.id_count(), 54);
    assert_eq!(ledger.seen(user(5), id, time), Seen::New);
    assert_eq!(
        ledger.horizon_due(time),
        None,
        "what is left is within the least window"
    );
}

#[test]
fn a_replica_keeps_no_ids() {
    let options = LedgerOptions {
        ring_key: RING_KEY,
        id_count_max: 9,
        keep_ids: false,
    };
    let mut replica = Ledger::new(options);
    let mut clock = Clock::new();
    let (place, time) = clock.tick();
    let change = Entry::Change(change_of(&credit(&clock, 5, 1)));
    replica.absorb(&change, place, time).unwrap();
    assert_eq!((replica.id_count(), replica.id_digest()), (0, 0));
}

#[test]
fn more_equal_fingerprints_than_fit_are_never_new() {
    let mut ledger = ledger();
    let mut clock = Clock::new();
    let id = clock.id();
    let fingerprint = crate::model::id_fingerprint(RING_KEY, user(5), id);
    let mut last = Seen::New;
    for _ in 0..=Candidates::COUNT_MAX {
        let (place, time) = clock.tick();
        last = ledger.seen(user(5), id, time);
        let row = crate::ledger::row_of(id.time_ms());
        ledger.ids.insert(crate::ledger::IdItem {
            row,
            fingerprint,
            place,
        });
    }
    assert_eq!(places(last).len(), Candidates::COUNT_MAX);
    assert_eq!(ledger.seen(user(5), id, LogTime(TIME_START)), Seen::Full);
}
