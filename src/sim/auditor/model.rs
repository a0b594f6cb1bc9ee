//! The ledger's rules, written a second time from the description: one map of wide numbers.
//!
//! Shares no rule and no table with `ledger`.

use std::collections::BTreeMap;

use super::homes::Held;
use crate::limits::AMOUNT_MAX;
use crate::model::{Change, Flags, Kind, LogNumber, Operation, ResultCode};

/// One account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) available: i128,
    pub(super) floor: i128,
    pub(super) cap: i128,
    pub(super) frozen: bool,
    pub(super) version: u64,
    /// Its last entry.
    pub(super) place: u64,
}

/// What an operation comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) code: ResultCode,
    pub(super) created: bool,
    pub(super) moved: i128,
    /// The account afterwards, if it is there.
    pub(super) account: Option<Account>,
}

/// Sums of one currency of one log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) accounts: u64,
    pub(super) available: i128,
    pub(super) issued: u128,
    pub(super) burned: u128,
    pub(super) adopted_in: i128,
    pub(super) adopted_out: i128,
}

impl Sums {
    /// Adds those of another log.
    pub(super) const fn add(&mut self, other: &Self) {
        self.accounts += other.accounts;
        self.available += other.available;
        self.issued += other.issued;
        self.burned += other.burned;
        self.adopted_in += other.adopted_in;
        self.adopted_out += other.adopted_out;
    }
}

/// An account at all moments: from each log time on, what it was.
pub(super) type Past = Vec<(u64, Option<Account>)>;

/// Key of an account: user and currency.
pub(super) type Key = (u128, u32);

/// All accounts, with their past. Log time rises when a user's slot goes to another log, so the
/// past of an account is one row whatever logs it was in.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) accounts: BTreeMap<Key, Past>,
    closed_at: BTreeMap<Key, u64>,
    /// By log and currency.
    pub(super) sums: BTreeMap<LogNumber, BTreeMap<u32, Sums>>,
}

/// What an operation does to an account, by the ladder of refusals.
pub(super) fn execute(
    operation: &Operation,
    before: Option<&Account>,
    time: u64,
    place: u64,
) -> Outcome {
    let judged = judge(operation, before);
    let (code, moved) = match judged {
        Ok(moved) => (ResultCode::Ok, moved),
        Err(code) => (code, 0),
    };
    let is_find = operation.kind() == Kind::Find;
    let created = code == ResultCode::Ok && before.is_none();
    let blank = Account {
        available: 0,
        floor: 0,
        cap: i128::from(AMOUNT_MAX),
        frozen: false,
        version: time,
        place,
    };
    let mut after = before.copied().unwrap_or(blank);
    if !is_find {
        after.place = place;
    }
    if code != ResultCode::Ok {
        return Outcome {
            code,
            created: false,
            moved: 0,
            account: before.map(|_| after),
        };
    }
    if !created {
        after.version += 1;
    }
    match operation.kind() {
        Kind::Open | Kind::Configure => {
            let settings = operation.settings();
            after.floor = i128::from(settings.floor);
            after.cap = i128::from(settings.cap);
            after.frozen = settings.frozen;
        }
        Kind::Credit => after.available += moved,
        Kind::Debit => after.available -= moved,
        Kind::Close
        | Kind::Hold
        | Kind::Capture
        | Kind::Release
        | Kind::Transfer
        | Kind::Reverse
        | Kind::Get
        | Kind::List
        | Kind::History
        | Kind::Find => (),
    }
    Outcome {
        code,
        created,
        moved,
        account: (operation.kind() != Kind::Close).then_some(after),
    }
}

/// What moves, or why not.
fn judge(operation: &Operation, account: Option<&Account>) -> Result<i128, ResultCode> {
    let amount = i128::from(operation.amount());
    match operation.kind() {
        Kind::Open => account.map_or(Ok(0), |_| Err(ResultCode::Exists)),
        Kind::Close => {
            let account = present(operation, account)?;
            if account.available != 0 {
                return Err(ResultCode::NotEmpty);
            }
            if account.frozen {
                return Err(ResultCode::Frozen);
            }
            Ok(0)
        }
        Kind::Configure => present(operation, account).map(|_| 0),
        Kind::Credit => {
            if account.is_none() && operation.flags().has(Flags::OPEN_IF_MISSING) {
                let expected = operation.expected_version();
                return expected.map_or(Ok(amount), |_| Err(ResultCode::VersionMismatch));
            }
            let account = present(operation, account)?;
            if account.frozen {
                return Err(ResultCode::Frozen);
            }
            if account.cap < account.available + amount {
                return Err(ResultCode::OverCap);
            }
            Ok(amount)
        }
        Kind::Debit => {
            let account = present(operation, account)?;
            if account.frozen {
                return Err(ResultCode::Frozen);
            }
            let there = account.available + account.floor;
            if operation.flags().has(Flags::UP_TO) {
                return Ok(amount.min(there).max(0));
            }
            if there < amount {
                return Err(ResultCode::Insufficient);
            }
            Ok(amount)
        }
        Kind::Find => Err(ResultCode::Cancelled),
        Kind::Hold
        | Kind::Capture
        | Kind::Release
        | Kind::Transfer
        | Kind::Reverse
        | Kind::Get
        | Kind::List
        | Kind::History => Err(ResultCode::Unsupported),
    }
}

fn present<'a>(
    operation: &Operation,
    account: Option<&'a Account>,
) -> Result<&'a Account, ResultCode> {
    let account = account.ok_or(ResultCode::NotFound)?;
    match operation.expected_version() {
        Some(version) if version != account.version => Err(ResultCode::VersionMismatch),
        Some(_) | None => Ok(account),
    }
}

impl Model {
    /// The account as it is after all entries so far.
    pub(super) fn now(&self, key: Key) -> Option<Account> {
        self.accounts.get(&key)?.last()?.1
    }

    /// The account as it was at log time `time`.
    pub(super) fn then(&self, key: Key, time: u64) -> Option<Account> {
        let past = self.accounts.get(&key)?;
        let count = past.partition_point(|(from, _)| *from <= time);
        past.get(count.checked_sub(1)?)?.1
    }

    /// All accounts of a user at log time `time`, by currency.
    pub(super) fn list(&self, user: u128, from: u32, time: u64) -> Vec<(u32, Account)> {
        let keys = self.accounts.range((user, from)..=(user, u32::MAX));
        let then = |(key, _): (&Key, &Past)| self.then(*key, time).map(|found| (key.1, found));
        keys.filter_map(then).collect()
    }

    /// What the accounts of some users hold, by currency.
    pub(super) fn held_by(&self, is_one: impl Fn(u128) -> bool) -> Held {
        let mut held = Held::new();
        for (key, past) in &self.accounts {
            if let Some((_, Some(account))) = past.last()
                && is_one(key.0)
            {
                let sum = held.entry(key.1).or_default();
                sum.0 += 1;
                sum.1 += account.available;
            }
        }
        held
    }

    /// Accounts leave a log.
    pub(super) fn leave(&mut self, log: LogNumber, held: &Held) {
        let sums = self.sums.entry(log).or_default();
        for (currency, (count, available)) in held {
            let sums = sums.entry(*currency).or_default();
            sums.accounts -= count;
            sums.available -= available;
            sums.adopted_out += available;
        }
    }

    /// Accounts come into a log.
    pub(super) fn arrive(&mut self, log: LogNumber, held: &Held) {
        let sums = self.sums.entry(log).or_default();
        for (currency, (count, available)) in held {
            let sums = sums.entry(*currency).or_default();
            sums.accounts += count;
            sums.available += available;
            sums.adopted_in += available;
        }
    }

    /// Executes the operation of an entry and compares. The error says what differs.
    pub(super) fn follow(
        &mut self,
        log: LogNumber,
        change: &Change,
        time: u64,
        place: u64,
    ) -> Result<(), String> {
        let operation = &change.operation;
        let key = (operation.user().get(), operation.currency());
        let before = self.now(key);
        let outcome = execute(operation, before.as_ref(), time, place);
        self.compare(change, &outcome, before.as_ref(), key)?;
        if operation.kind() == Kind::Find {
            return Ok(());
        }
        self.account(log, operation, &outcome, before.as_ref());
        if before.is_some() && outcome.account.is_none() {
            self.closed_at.insert(key, place);
        }
        if before.is_some() || outcome.account.is_some() {
            let past = self.accounts.entry(key).or_default();
            past.push((time, outcome.account));
        }
        Ok(())
    }

    fn compare(
        &self,
        change: &Change,
        outcome: &Outcome,
        before: Option<&Account>,
        key: Key,
    ) -> Result<(), String> {
        let is_find = change.operation.kind() == Kind::Find;
        let shown = outcome.account.filter(|_| !is_find);
        let expected = (
            outcome.code,
            outcome.created,
            outcome.moved,
            shown.map_or(0, |account| account.available),
            shown.map_or(0, |account| account.version),
        );
        let found = (
            change.code,
            change.created,
            i128::from(change.moved),
            i128::from(change.image.available),
            change.image.version,
        );
        if expected != found || change.image.held != 0 {
            return Err(format!(
                "the entry says (code, created, moved, available, version) {found:?}, the rules \
                 say {expected:?}"
            ));
        }
        let previous = change.previous.0;
        let closed = self.closed_at.get(&key).copied().unwrap_or(0);
        let fits = match before.filter(|_| !is_find) {
            Some(before) => previous == before.place,
            // That an account was closed once may be forgotten.
            None if outcome.created => previous == 0 || previous == closed,
            None => previous == 0,
        };
        if fits {
            Ok(())
        } else {
            Err(format!("the entry before it is said to be at {previous}"))
        }
    }

    fn account(
        &mut self,
        log: LogNumber,
        operation: &Operation,
        outcome: &Outcome,
        before: Option<&Account>,
    ) {
        if before.is_none() && outcome.account.is_none() {
            return;
        }
        let sums = self.sums.entry(log).or_default();
        let sums = sums.entry(operation.currency()).or_default();
        let moved = u128::try_from(outcome.moved).unwrap_or(0);
        if operation.kind() == Kind::Credit {
            sums.issued += moved;
        }
        if operation.kind() == Kind::Debit {
            sums.burned += moved;
        }
        let balance = |account: Option<&Account>| account.map_or(0, |account| account.available);
        sums.available += balance(outcome.account.as_ref()) - balance(before);
        sums.accounts += u64::from(outcome.account.is_some());
        sums.accounts -= u64::from(before.is_some());
    }
}
