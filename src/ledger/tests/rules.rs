//! The rules, one table of text per operation.
//!
//! A line is `kind user currency [amount] [words] -> answer`. Words: `floor=`, `cap=`, `frozen`,
//! `open` (if missing), `upto`, `at` (if the version is the present one), `stale` (if it is
//! another). An answer is the code and, if done, the balance and what was moved.

use super::{AccountSettings, Clock, Ledger, Operation, Place, currency, ledger, settings, user};
use crate::ledger::Account;
use crate::model::{Change, Flags, Kind, ResultCode};

fn check(table: &str) {
    let mut ledger = ledger();
    let mut clock = Clock::new();
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (input, expected) = line.split_once("->").expect("an arrow");
        let words: Vec<&str> = input.split_whitespace().collect();
        let expected: Vec<&str> = expected.split_whitespace().collect();
        assert_eq!(
            step(&mut ledger, &mut clock, &words),
            expected.join(" "),
            "{line}"
        );
        assert_eq!(ledger.check_supply(), Ok(()), "{line}");
    }
}

fn step(ledger: &mut Ledger, clock: &mut Clock, words: &[&str]) -> String {
    let (place, time) = clock.tick();
    let operation = operation(ledger, clock, words);
    assert_eq!(operation.check(), Ok(()), "{words:?}");
    let code = operation.currency();
    let before = ledger.get(operation.user(), code);
    let digest = ledger.digest();
    let change = ledger.apply(&operation, place, time);
    let after = ledger.get(operation.user(), code);
    assert_eq!(change.operation, operation);
    if change.code == ResultCode::Ok {
        let version = before.map_or(time.0, |account| account.version + 1);
        assert_eq!(change.created, before.is_none());
        assert!(after.is_none_or(|account| account.version == version && account.place == place));
    } else {
        // A refusal changes the last place and nothing else.
        assert_eq!(after, before.map(|account| Account { place, ..account }));
        assert_eq!(digest == ledger.digest(), before.is_none());
        assert_eq!((change.moved, change.created), (0, false));
    }
    assert_eq!(
        change.image.version,
        after.map_or(0, |account| account.version)
    );
    assert_eq!(
        change.image.available,
        after.map_or(0, |account| account.available)
    );
    answer(&change)
}

fn answer(change: &Change) -> String {
    let done = if change.code != ResultCode::Ok {
        return change.code.to_string();
    } else if matches!(change.operation.kind(), Kind::Credit | Kind::Debit) {
        format!(" {} moved {}", change.image.available, change.moved)
    } else {
        String::new()
    };
    format!("{}{done}", change.code)
}

fn operation(ledger: &Ledger, clock: &Clock, words: &[&str]) -> Operation {
    let id = clock.id();
    let owner = user(u128::from(words[1].as_bytes()[0]));
    let code = currency(words[2].parse().unwrap());
    let amount = words.get(3).and_then(|word| word.parse().ok()).unwrap_or(0);
    let version = ledger
        .get(owner, code.get())
        .map_or(7, |account| account.version);
    let value = |name: &str| {
        words
            .iter()
            .find_map(|word| word.strip_prefix(name)?.parse().ok())
    };
    let settings = AccountSettings {
        floor: value("floor=").unwrap_or(0),
        cap: value("cap=").unwrap_or(settings().cap),
        frozen: words.contains(&"frozen"),
    };
    let mut operation = match words[0] {
        "open" => Operation::open(id, owner, code, settings),
        "close" => Operation::close(id, owner, code),
        "configure" => {
            let stale = u64::from(words.contains(&"stale"));
            Operation::configure(id, owner, code, settings, version + stale)
        }
        "credit" => Operation::credit(id, owner, code, amount),
        "debit" => Operation::debit(id, owner, code, amount),
        "burn" => Operation::find(id, owner).with_flags(Flags::BURN),
        other => panic!("unknown word {other}"),
    };
    for word in words {
        operation = match *word {
            "open" if operation.kind() == Kind::Credit => {
                operation.with_flags(Flags::OPEN_IF_MISSING)
            }
            "upto" => operation.with_flags(Flags::UP_TO),
            "at" => operation.if_version(version),
            "stale" => operation.if_version(version + 1),
            _ => operation,
        };
    }
    operation
}

#[test]
fn open_and_close() {
    check(
        "
        open  A 1 -> ok
        open  A 1 -> exists
        open  A 2 floor=5 cap=9 -> ok
        close A 1 stale -> version_mismatch
        close A 1 at -> ok
        close A 1 -> not_found
        close A 1 stale -> not_found
        open  A 1 -> ok
        credit A 1 5 -> ok 5 moved 5
        close A 1 stale -> version_mismatch
        close A 1 -> not_empty
        debit A 1 5 -> ok 0 moved 5
        close A 1 -> ok
        open  B 1 frozen -> ok
        close B 1 stale -> version_mismatch
        close B 1 -> frozen
        ",
    );
}

#[test]
fn not_empty_comes_before_frozen() {
    check(
        "
        open A 1 -> ok
        credit A 1 5 -> ok 5 moved 5
        configure A 1 frozen -> ok
        close A 1 -> not_empty
        ",
    );
}

#[test]
fn configure() {
    check(
        "
        configure A 1 floor=3 -> not_found
        open A 1 -> ok
        configure A 1 stale floor=3 -> version_mismatch
        configure A 1 floor=3 cap=100 -> ok
        debit A 1 3 -> ok -3 moved 3
        debit A 1 1 -> insufficient
        credit A 1 103 -> ok 100 moved 103
        credit A 1 1 -> over_cap
        configure A 1 cap=40 -> ok
        credit A 1 1 -> over_cap
        debit A 1 70 -> ok 30 moved 70
        credit A 1 10 -> ok 40 moved 10
        credit A 1 1 -> over_cap
        configure A 1 frozen stale -> version_mismatch
        configure A 1 frozen -> ok
        credit A 1 1 -> frozen
        configure A 1 frozen -> ok
        configure A 1 -> ok
        credit A 1 1 -> ok 41 moved 1
        ",
    );
}

#[test]
fn credit_in_order_of_refusals() {
    check(
        "
        credit A 1 5 -> not_found
        credit A 1 5 stale -> not_found
        credit A 1 5 open stale -> version_mismatch
        credit A 1 5 open -> ok 5 moved 5
        credit A 1 5 open -> ok 10 moved 5
        credit A 1 5 open at -> ok 15 moved 5
        configure A 1 cap=16 frozen -> ok
        credit A 1 5 stale -> version_mismatch
        credit A 1 5 at -> frozen
        configure A 1 cap=16 -> ok
        credit A 1 5 at -> over_cap
        credit A 1 1 at -> ok 16 moved 1
        credit B 1 9223372036854775807 open -> ok 9223372036854775807 moved 9223372036854775807
        credit B 1 1 -> over_cap
        credit B 1 9223372036854775807 -> over_cap
        open C 1 cap=0 -> ok
        credit C 1 1 -> over_cap
        ",
    );
}

#[test]
fn debit_in_order_of_refusals() {
    check(
        "
        debit A 1 5 -> not_found
        debit A 1 5 stale -> not_found
        debit A 1 5 upto -> not_found
        open A 1 floor=2 -> ok
        debit A 1 3 -> insufficient
        debit A 1 3 stale -> version_mismatch
        credit A 1 10 -> ok 10 moved 10
        debit A 1 12 at -> ok -2 moved 12
        debit A 1 1 -> insufficient
        configure A 1 frozen floor=2 -> ok
        debit A 1 1 stale -> version_mismatch
        debit A 1 1 -> frozen
        debit A 1 1 upto -> frozen
        open B 1 floor=9223372036854775807 -> ok
        debit B 1 9223372036854775807 -> ok -9223372036854775807 moved 9223372036854775807
        debit B 1 1 -> insufficient
        credit B 1 9223372036854775807 -> ok 0 moved 9223372036854775807
        credit B 1 9223372036854775807 -> ok 9223372036854775807 moved 9223372036854775807
        debit B 1 9223372036854775807 upto -> ok 0 moved 9223372036854775807
        ",
    );
}

#[test]
fn up_to_takes_what_is_there() {
    check(
        "
        open A 1 -> ok
        debit A 1 5 upto -> ok 0 moved 0
        credit A 1 3 -> ok 3 moved 3
        debit A 1 2 upto -> ok 1 moved 2
        debit A 1 2 upto -> ok 0 moved 1
        configure A 1 floor=4 -> ok
        debit A 1 9 upto -> ok -4 moved 4
        configure A 1 floor=1 -> ok
        debit A 1 9 upto -> ok -4 moved 0
        debit A 1 1 -> insufficient
        ",
    );
}

#[test]
fn burn_touches_no_account() {
    let mut ledger = ledger();
    let mut clock = Clock::new();
    assert_eq!(step(&mut ledger, &mut clock, &["open", "A", "1"]), "ok");
    let before = ledger.get(user(65), 1);
    assert_eq!(
        step(&mut ledger, &mut clock, &["burn", "A", "1"]),
        "cancelled"
    );
    assert_eq!(ledger.get(user(65), 1), before);
    assert_eq!(ledger.id_count(), 2);
}

#[test]
fn the_chain_of_an_account_goes_through_refusals_and_closing() {
    let mut ledger = ledger();
    let mut clock = Clock::new();
    let mut last = Place(0);
    for (words, code) in [
        (vec!["open", "A", "1"], "ok"),
        (vec!["debit", "A", "1", "5"], "insufficient"),
        (vec!["credit", "A", "1", "5"], "ok"),
        (vec!["open", "A", "1"], "exists"),
        (vec!["debit", "A", "1", "5"], "ok"),
        (vec!["close", "A", "1"], "ok"),
        (vec!["credit", "A", "1", "2", "open"], "ok"),
    ] {
        let (place, time) = clock.tick();
        let operation = operation(&ledger, &clock, &words);
        let change = ledger.apply(&operation, place, time);
        assert_eq!(
            (change.previous, change.code.name()),
            (last, code),
            "{words:?}"
        );
        last = place;
    }
}

#[test]
fn list_goes_up_by_currency() {
    let mut ledger = ledger();
    let mut clock = Clock::new();
    for code in ["9", "2", "5", "30", "1"] {
        assert_eq!(step(&mut ledger, &mut clock, &["open", "A", code]), "ok");
        assert_eq!(step(&mut ledger, &mut clock, &["open", "B", code]), "ok");
    }
    let list = |from, count| {
        let mut rows = Vec::new();
        let more = ledger.list(user(65), from, count, &mut rows);
        (
            rows.iter().map(|row| row.currency).collect::<Vec<_>>(),
            more,
        )
    };
    assert_eq!(list(0, 9), (vec![1, 2, 5, 9, 30], false));
    assert_eq!(list(2, 2), (vec![2, 5], true));
    assert_eq!(list(6, 2), (vec![9, 30], false));
    assert_eq!(list(31, 2), (vec![], false));
    assert!(!ledger.list(user(1), 0, 9, &mut Vec::new()));
    assert!(ledger.has_accounts(user(65)) && !ledger.has_accounts(user(1)));
}

#[test]
fn room_is_asked_for_new_accounts_only() {
    let mut ledger = ledger();
    let mut clock = Clock::new();
    for code in 1..=crate::limits::CURRENCIES_PER_USER_MAX {
        let code = code.to_string();
        assert_eq!(step(&mut ledger, &mut clock, &["open", "A", &code]), "ok");
    }
    let room = |words: &[&str]| ledger.has_room(&operation(&ledger, &clock, words));
    assert!(!room(&["open", "A", "5000"]));
    assert!(!room(&["credit", "A", "5000", "1", "open"]));
    assert!(room(&["credit", "A", "5000", "1"]));
    assert!(room(&["credit", "A", "4096", "1", "open"]));
    assert!(room(&["open", "A", "77"]));
    assert!(room(&["open", "B", "5000"]));
    assert!(room(&["burn", "A", "1"]));
    assert_eq!(step(&mut ledger, &mut clock, &["close", "A", "4000"]), "ok");
    assert!(ledger.has_room(&operation(&ledger, &clock, &["open", "A", "5000"])));
}
