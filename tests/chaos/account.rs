//! What one account may do: the rules in a few lines, and the test of everything that clients
//! were told of it against one sequential history.
//!
//! Shares no code with the ledger. The history is put together from the answers alone: every
//! change of an account says the version that it made, so the answers themselves say their order.

use std::collections::BTreeMap;

use counterfoil::model::{Flags, Kind, Operation, Receipt, ReceiptFlags, ResultCode};

/// Something that clients were told of an account and that must fit its history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight {
    pub(crate) operation: Operation,
    pub(crate) receipt: Receipt,
    /// Number of the intent that was sent first.
    pub(crate) sent: u64,
    /// Number of the answer that came first; the last number of all if none came.
    pub(crate) told: u64,
    /// It may show what was true before it was sent.
    pub(crate) is_recent: bool,
}

/// What an account is at one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    available: i64,
    cap: u64,
    is_frozen: bool,
    /// When the change that made it was sent first.
    sent: u64,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// Something acknowledged is not there.
    Lost(String),
    /// Something was applied twice, or nobody asked for it.
    Doubled(String),
    /// An answer that fits no sequential history.
    Wrong(String),
}

/// The sums of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) issued: u128,
    pub(crate) burned: u128,
    pub(crate) available: i128,
    pub(crate) is_open: bool,
}

/// Tests all sights of one account.
pub(crate) fn judge(name: &str, sights: &[Sight], violations: &mut Vec<Violation>) -> Sums {
    let mut account = History {
        name,
        states: BTreeMap::new(),
        acknowledged: BTreeMap::new(),
        violations,
    };
    let sums = account.build(sights);
    for sight in sights {
        account.test(sight);
    }
    sums
}

struct History<'a> {
    name: &'a str,
    states: BTreeMap<u64, State>,
    /// Highest version that was acknowledged, by the number of the acknowledgement.
    acknowledged: BTreeMap<u64, u64>,
    violations: &'a mut Vec<Violation>,
}

fn is_done_change(sight: &Sight) -> bool {
    sight.operation.kind().is_change() && sight.receipt.code == ResultCode::Ok
}

/// What the ledger must answer to `operation` in this state, and how much it moves.
fn expected(operation: &Operation, version: u64, state: Option<&State>) -> (ResultCode, u64) {
    let Some(state) = state else {
        let opens = operation.flags().has(Flags::OPEN_IF_MISSING);
        return match (opens, operation.expected_version()) {
            (false, _) => (ResultCode::NotFound, 0),
            (true, Some(_)) => (ResultCode::VersionMismatch, 0),
            (true, None) => (ResultCode::Ok, operation.amount()),
        };
    };
    if operation
        .expected_version()
        .is_some_and(|due| due != version)
    {
        return (ResultCode::VersionMismatch, 0);
    }
    if operation.kind() == Kind::Configure {
        return (ResultCode::Ok, 0);
    }
    if state.is_frozen {
        return (ResultCode::Frozen, 0);
    }
    let amount = operation.amount();
    if operation.kind() == Kind::Credit {
        let total = i128::from(state.available) + i128::from(amount);
        let fits = total <= i128::from(state.cap);
        return if fits {
            (ResultCode::Ok, amount)
        } else {
            (ResultCode::OverCap, 0)
        };
    }
    let there = u64::try_from(state.available).unwrap_or(0);
    if operation.flags().has(Flags::UP_TO) {
        (ResultCode::Ok, amount.min(there))
    } else if amount <= there {
        (ResultCode::Ok, amount)
    } else {
        (ResultCode::Insufficient, 0)
    }
}

impl History<'_> {
    fn lost(&mut self, text: &str) {
        let text = format!("account {}: {text}", self.name);
        self.violations.push(Violation::Lost(text));
    }

    fn doubled(&mut self, text: &str) {
        let text = format!("account {}: {text}", self.name);
        self.violations.push(Violation::Doubled(text));
    }

    fn wrong(&mut self, text: &str) {
        let text = format!("account {}: {text}", self.name);
        self.violations.push(Violation::Wrong(text));
    }

    /// Puts the history together: changes by version, without a gap, each from the one before.
    fn build(&mut self, sights: &[Sight]) -> Sums {
        let mut changes: BTreeMap<u64, &Sight> = BTreeMap::new();
        for sight in sights.iter().filter(|sight| is_done_change(sight)) {
            let version = sight.receipt.version;
            if let Some(other) = changes.insert(version, sight) {
                let text = format!("version {version} twice: {other:?} and {sight:?}");
                self.doubled(&text);
            }
        }
        let mut sums = Sums::default();
        let mut state: Option<State> = None;
        let mut due = changes.keys().next().copied().unwrap_or(0);
        for (version, sight) in &changes {
            if *version != due {
                self.lost(&format!(
                    "nobody made version {due}, version {version} follows"
                ));
            }
            due = version + 1;
            let made = self.apply(sight, state.as_ref());
            sums.is_open = true;
            let moved = u128::from(sight.receipt.amount);
            if sight.operation.kind() == Kind::Credit {
                sums.issued += moved;
            } else {
                sums.burned += moved;
            }
            self.states.insert(*version, made);
            state = Some(made);
        }
        sums.available = state.map_or(0, |state| i128::from(state.available));
        let told = sights.iter().filter(|sight| !sight.is_recent);
        let mut told: Vec<_> = told
            .map(|sight| (sight.told, sight.receipt.version))
            .collect();
        told.sort_unstable();
        let mut highest = 0;
        for (number, version) in told {
            highest = highest.max(version);
            self.acknowledged.insert(number, highest);
        }
        sums
    }

    fn apply(&mut self, sight: &Sight, before: Option<&State>) -> State {
        let Sight {
            operation, receipt, ..
        } = sight;
        let (code, moved) = expected(operation, receipt.version - 1, before);
        if code != ResultCode::Ok || moved != receipt.amount {
            let text = format!("{code} and {moved} moved were due behind {before:?}: {sight:?}");
            self.wrong(&text);
        }
        let created = receipt.flags.has(ReceiptFlags::CREATED);
        if created != before.is_none() {
            self.wrong(&format!("opened twice, or never: {sight:?}"));
        }
        let old = before.map_or(0, |state| state.available);
        let moved = i64::try_from(receipt.amount).unwrap_or(i64::MAX);
        let available = if operation.kind() == Kind::Credit {
            old + moved
        } else {
            old - moved
        };
        if available != receipt.available || receipt.held != 0 {
            let text = format!("{available} available was due: {sight:?}");
            self.wrong(&text);
        }
        let settings = operation.settings();
        let configured = operation.kind() == Kind::Configure;
        State {
            available: receipt.available,
            cap: match before {
                _ if configured => settings.cap,
                Some(state) => state.cap,
                None => counterfoil::limits::AMOUNT_MAX,
            },
            is_frozen: match before {
                _ if configured => settings.frozen,
                Some(state) => state.is_frozen,
                None => false,
            },
            sent: sight.sent,
        }
    }

    /// One sight against the history: the state that it shows, and when it may show it.
    fn test(&mut self, sight: &Sight) {
        let version = sight.receipt.version;
        let before = self.acknowledged.range(..sight.sent).next_back();
        let floor = before.map_or(0, |(_, version)| *version);
        let is_late = if is_done_change(sight) {
            version <= floor
        } else {
            version < floor
        };
        if is_late && !sight.is_recent {
            let text = format!("version {floor} was acknowledged before this was sent: {sight:?}");
            if is_done_change(sight) {
                self.lost(&text);
            } else {
                self.wrong(&format!("stale: {text}"));
            }
        }
        if is_done_change(sight) {
            return;
        }
        let state = self.states.get(&version).copied();
        if version != 0 && state.is_none() {
            let text = format!("nobody asked for version {version}: {sight:?}");
            self.doubled(&text);
            return;
        }
        if state.is_some_and(|state| sight.told < state.sent) {
            self.wrong(&format!("shows what was not sent yet: {sight:?}"));
        }
        self.test_answer(sight, state.as_ref());
    }

    fn test_answer(&mut self, sight: &Sight, state: Option<&State>) {
        let Sight {
            operation, receipt, ..
        } = sight;
        let available = state.map_or(0, |state| state.available);
        let code = if operation.kind() == Kind::Get {
            match state {
                Some(_) => ResultCode::Ok,
                None => ResultCode::NotFound,
            }
        } else {
            expected(operation, receipt.version, state).0
        };
        if code != receipt.code || available != receipt.available {
            let text = format!("{code} was due in {state:?}: {sight:?}");
            self.wrong(&text);
        }
        let shows_frozen = receipt.flags.has(ReceiptFlags::FROZEN);
        let is_frozen = state.is_some_and(|state| state.is_frozen);
        let shows = operation.kind() == Kind::Get || receipt.code == ResultCode::Frozen;
        if shows && shows_frozen != is_frozen {
            self.wrong(&format!("frozen or not, in {state:?}: {sight:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use counterfoil::model::{Currency, OperationId, Place, UserId};

    fn credit(amount: u64) -> Operation {
        let id = OperationId::from_parts(1, u128::from(amount));
        let user = UserId::new(1).unwrap();
        Operation::credit(id, user, Currency::new(1).unwrap(), amount)
            .with_flags(Flags::OPEN_IF_MISSING)
    }

    /// A credit of `amount` that is told at once.
    fn sight(number: u64, amount: u64, available: i64, version: u64) -> Sight {
        let mut receipt = Receipt::bare(0, ResultCode::Ok);
        (receipt.available, receipt.version, receipt.amount) = (available, version, amount);
        receipt.place = Place(1);
        if version == 10 {
            receipt.flags = ReceiptFlags::CREATED;
        }
        Sight {
            operation: credit(amount),
            receipt,
            sent: number,
            told: number + 1,
            is_recent: false,
        }
    }

    fn get(number: u64, available: i64, version: u64) -> Sight {
        let operation = Operation::get(UserId::new(1).unwrap(), Currency::new(1).unwrap());
        Sight {
            operation,
            ..sight(number, 0, available, version)
        }
    }

    fn found(sights: &[Sight]) -> Vec<Violation> {
        let mut violations = Vec::new();
        judge("1/1", sights, &mut violations);
        violations
    }

    #[test]
    fn a_true_history_passes() {
        let mut reading = get(7, 8, 11);
        reading.receipt.flags = ReceiptFlags(0);
        let sights = [sight(1, 5, 5, 10), sight(3, 3, 8, 11), reading];
        assert_eq!(found(&sights), []);
    }

    #[test]
    fn what_is_lost_or_doubled_or_stale_is_seen() {
        let gone = [sight(1, 5, 5, 10), sight(3, 3, 8, 11), sight(5, 4, 9, 11)];
        assert!(
            found(&gone)
                .iter()
                .any(|v| matches!(v, Violation::Doubled(_)))
        );
        assert!(found(&gone).iter().any(|v| matches!(v, Violation::Lost(_))));
        let gap = [sight(1, 5, 5, 10), sight(3, 3, 8, 12)];
        assert!(matches!(found(&gap)[..], [Violation::Lost(_), ..]));
        let more = [sight(1, 5, 5, 10), get(3, 10, 11)];
        assert!(matches!(found(&more)[..], [Violation::Doubled(_)]));
        let stale = [sight(1, 5, 5, 10), sight(3, 3, 8, 11), get(9, 5, 10)];
        assert!(matches!(found(&stale)[..], [Violation::Wrong(_), ..]));
    }

    #[test]
    fn a_refusal_must_be_due() {
        let user = UserId::new(1).unwrap();
        let id = OperationId::from_parts(1, 99);
        let mut refused = get(3, 5, 10);
        refused.operation = Operation::debit(id, user, Currency::new(1).unwrap(), 4);
        refused.receipt.code = ResultCode::Insufficient;
        refused.receipt.flags = ReceiptFlags(0);
        let sights = [sight(1, 5, 5, 10), refused];
        assert!(matches!(found(&sights)[..], [Violation::Wrong(_)]));
    }

    #[test]
    fn a_wrong_balance_is_seen() {
        let sights = [sight(1, 5, 5, 10), sight(3, 3, 9, 11)];
        assert!(matches!(found(&sights)[..], [Violation::Wrong(_)]));
    }
}
