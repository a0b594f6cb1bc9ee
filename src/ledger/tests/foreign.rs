//! Entries and checkpoints that contradict the state: an error, never a panic, nothing changed.

use super::{Clock, Ledger, Operation, Place, RING_KEY, currency, ledger, options, settings, user};
use crate::ledger::fold::{Delta, FoldError, Source};
use crate::ledger::{ACCOUNT_RECORD_SIZE, LoadError, SUPPLY_RECORD_SIZE};
use crate::model::{
    Activation, Change, ENTRY_SIZE, Entry, Image, LogTime, Random, ResultCode, RingEpoch, Section,
    Slot, SlotRange,
};

/// A ledger with one account of user 5 that has 100, and the clock behind it.
fn with_account() -> (Ledger, Clock) {
    let mut ledger = ledger();
    let mut clock = Clock::new();
    let (place, time) = clock.tick();
    ledger.apply(
        &Operation::open(clock.id(), user(5), currency(1), settings()),
        place,
        time,
    );
    let (place, time) = clock.tick();
    ledger.apply(&super::credit(&clock, 5, 100), place, time);
    clock.tick();
    (ledger, clock)
}

/// The entry that a debit of 30 would get.
fn debit() -> Change {
    let (mut ledger, clock) = with_account();
    let (place, time) = clock.now();
    let debit = Operation::debit(clock.id(), user(5), currency(1), 30);
    ledger.apply(&debit, place, time)
}

/// Absorbs `change` in place of the debit of 30: refused for `what`, and nothing has changed.
fn broken(what: &str, change: Change) {
    let (mut ledger, clock) = with_account();
    let (place, time) = clock.now();
    let digest = ledger.digest();
    let error = ledger
        .absorb(&Entry::Change(change), place, time)
        .unwrap_err();
    assert_eq!((error.what, error.place), (what, place));
    assert_eq!((ledger.digest(), ledger.id_count()), (digest, 2), "{what}");
    assert_eq!(ledger.absorb(&Entry::Change(debit()), place, time), Ok(()));
}

const fn image(available: i64, held: u64, version: u64) -> Image {
    Image {
        available,
        held,
        version,
    }
}

#[test]
fn changes_that_do_not_follow_are_refused() {
    let good = debit();
    let version = good.image.version;
    let balances = "balances do not follow from the operation";
    broken(balances, Change { moved: 29, ..good });
    broken(
        balances,
        Change {
            image: image(71, 0, version),
            ..good
        },
    );
    broken(
        balances,
        Change {
            image: image(70, 1, version),
            ..good
        },
    );
    broken(
        "version does not follow",
        Change {
            image: image(70, 0, version + 1),
            ..good
        },
    );
    broken(
        "version out of range",
        Change {
            image: image(70, 0, u64::MAX),
            ..good
        },
    );
    broken(
        "previous place is not the account's last",
        Change {
            previous: Place(1),
            ..good
        },
    );
    broken(
        "opens an account that is there",
        Change {
            created: true,
            ..good
        },
    );
    broken(
        "a code that is never logged",
        Change {
            code: ResultCode::Busy,
            ..good
        },
    );
    broken(
        "a code that is never logged",
        Change {
            code: ResultCode::Cancelled,
            ..good
        },
    );
    let other = Operation::debit(good.operation.id().unwrap(), user(6), currency(1), 30);
    broken(
        "changes an account that is not there",
        Change {
            operation: other,
            ..good
        },
    );
}

#[test]
fn refusals_that_do_not_follow_are_refused() {
    let good = debit();
    let refusal = Change {
        code: ResultCode::Insufficient,
        moved: 0,
        ..good
    };
    broken(
        "the images of a refusal are not those of the account",
        refusal,
    );
    let refusal = Change {
        image: image(100, 0, good.image.version - 1),
        ..refusal
    };
    broken(
        "a refusal with an effect",
        Change {
            moved: 1,
            ..refusal
        },
    );
    broken(
        "previous place is not the account's last",
        Change {
            previous: Place(0),
            ..refusal
        },
    );
}

#[test]
fn entries_out_of_order_are_refused() {
    let (mut ledger, clock) = with_account();
    let (place, time) = clock.now();
    let entry = Entry::Change(debit());
    let mut refused = |place, time, what| {
        assert_eq!(ledger.absorb(&entry, place, time).unwrap_err().what, what);
    };
    let before = LogTime(time.0 - 1_000_000);
    refused(place, before, "log time does not rise");
    refused(
        Place(place.0 - 128),
        time,
        "the place is not behind the last entry's",
    );
    refused(Place(0), time, "an entry without a place");
    let mut delta = Delta::new(RING_KEY);
    assert_eq!(delta.absorb(&entry, place, time), Ok(()));
    assert!(delta.absorb(&entry, place, time).is_err());
}

/// Whatever single bit of an entry flips: an error or another valid entry, never a panic, and the
/// supply check sees what the entry itself cannot show.
#[test]
fn flipped_bits_never_panic() {
    let good = Entry::Change(debit()).to_bytes();
    let mut random = Random::new(11);
    for round in 0..4_000 {
        let mut bytes: [u8; ENTRY_SIZE] = good;
        for _ in 0..=random.below(2) {
            let bit = random.below(8 * 128);
            bytes[usize::try_from(bit >> 3).unwrap()] ^= 1 << (bit & 7);
        }
        let (mut ledger, clock) = with_account();
        let (place, time) = clock.now();
        if let Ok(entry) = Entry::read(&bytes) {
            let mut delta = Delta::new(RING_KEY);
            let folded = delta.absorb(&entry, place, time);
            if ledger.absorb(&entry, place, time).is_ok() {
                assert_eq!(folded, Ok(()), "round {round}: {entry:?}");
            }
        }
        assert_eq!(ledger.check_supply(), Ok(()));
    }
}

#[test]
fn activations_name_their_slots() {
    let (mut ledger, clock) = with_account();
    let (place, time) = clock.now();
    let range = SlotRange {
        first: Slot(3),
        last: Slot(5),
    };
    let zero = Entry::Activation(Activation::new(RingEpoch(0), &[range]));
    assert!(ledger.absorb(&zero, place, time).is_err());
    let entry = Entry::Activation(Activation::new(RingEpoch(4), &[range]));
    assert_eq!(ledger.absorb(&entry, place, time), Ok(()));
    let owned = [2, 3, 5, 6].map(|slot| ledger.owned(Slot(slot)));
    assert_eq!(owned, [false, true, true, false]);
    assert_eq!(ledger.activated_epoch(), RingEpoch(4));
}

#[test]
fn a_checkpoint_is_checked_record_by_record() {
    let (ledger, _) = with_account();
    let records = ledger.records(Section::Accounts);
    let supply = ledger.records(Section::Supply);
    let load = |section, records: &[u8]| Ledger::new(options()).load(section, records);
    assert_eq!(load(Section::Accounts, &records), Ok(()));
    assert_eq!(
        load(Section::Accounts, &records[1..]),
        Err(LoadError::Size(Section::Accounts))
    );
    let fails = |section, records: &[u8], what| {
        assert_eq!(
            load(section, records),
            Err(LoadError::Record { section, what })
        );
    };
    let twice = [records.clone(), records.clone()].concat();
    fails(Section::Accounts, &twice, "accounts out of order");
    let mut other = records.clone();
    other[0] ^= 1;
    fails(
        Section::Accounts,
        &other,
        "an account in another slot than its user's",
    );
    let mut twice = supply.clone();
    twice.extend_from_slice(&supply);
    fails(Section::Supply, &twice, "currencies out of order");
    assert_eq!(
        (records.len(), supply.len()),
        (ACCOUNT_RECORD_SIZE, SUPPLY_RECORD_SIZE)
    );

    let mut again = Ledger::new(options());
    assert_eq!(again.load(Section::Supply, &supply), Ok(()));
    assert_eq!(
        again.load(Section::Meta, &[]),
        Err(LoadError::Order(Section::Meta))
    );
    assert!(again.check_supply().is_err(), "the accounts are missing");
    let (mut ledger, _) = with_account();
    assert_eq!(
        ledger.load(Section::Ids, &[]),
        Err(LoadError::Order(Section::Ids))
    );
}

/// Folds one entry over the ledger's own records, which `spoil` may change before.
fn fold(
    ledger: &Ledger,
    change: &Change,
    clock: &Clock,
    spoil: &dyn Fn(Section, &mut Vec<u8>),
) -> Result<u128, FoldError> {
    let (place, time) = clock.now();
    let mut delta = Delta::new(RING_KEY);
    delta.absorb(&Entry::Change(*change), place, time).unwrap();
    let mut merge = delta.merge();
    let mut new = Vec::new();
    for section in Section::ALL {
        let mut old = ledger.records(section);
        spoil(section, &mut old);
        merge.push(section, Source::Checkpoint, &old, &mut new)?;
        merge.finish(section, &mut new)?;
    }
    Ok(merge.digest())
}

#[test]
fn a_fold_proves_that_the_log_goes_on_from_the_checkpoint() {
    let (mut ledger, mut clock) = with_account();
    let good = debit();
    let failed = |what| {
        Err(FoldError::Record {
            section: Section::Accounts,
            what,
        })
    };
    let none = |_: Section, _: &mut Vec<u8>| ();
    let elsewhere = Change {
        previous: Place(good.previous.0 - 128),
        ..good
    };
    let what = "the log does not go on from the account's record";
    assert_eq!(fold(&ledger, &elsewhere, &clock, &none), failed(what));
    let missing = |section, old: &mut Vec<u8>| {
        if section == Section::Accounts {
            old.clear();
        }
    };
    let what = "the log changes an account that the checkpoint does not have";
    assert_eq!(fold(&ledger, &good, &clock, &missing), failed(what));

    let folded = fold(&ledger, &good, &clock, &none);
    let (place, time) = clock.now();
    let open = Operation::open(clock.id(), user(5), currency(1), settings());
    let opened = super::ledger().apply(&open, place, time);
    let what = "the log opens an account that the checkpoint has";
    assert_eq!(fold(&ledger, &opened, &clock, &none), failed(what));
    ledger.absorb(&Entry::Change(good), place, time).unwrap();
    assert_eq!(folded, Ok(ledger.digest()));
    clock.tick();
    let what = "the log does not go on from the account's record";
    assert_eq!(
        fold(&ledger, &good, &clock, &none),
        failed(what),
        "the same entry twice"
    );
}

#[test]
fn a_fold_proves_the_supply() {
    const ACCOUNT_COUNT_AT: usize = 8;
    const ISSUED_AT: usize = 16;
    const AVAILABLE_AT: usize = 128;
    let (ledger, clock) = with_account();
    let spoilt = |at: usize| {
        let spoil = move |section, old: &mut Vec<u8>| {
            if section == Section::Supply {
                old[at] += 1;
            }
        };
        fold(&ledger, &debit(), &clock, &spoil)
    };
    assert_eq!(
        spoilt(ACCOUNT_COUNT_AT),
        Err(FoldError::Sum { currency: 1 })
    );
    assert!(matches!(spoilt(ISSUED_AT), Err(FoldError::Supply(_))));
    assert_eq!(spoilt(AVAILABLE_AT), Err(FoldError::Sum { currency: 1 }));
}
