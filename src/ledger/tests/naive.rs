//! The ledger as one would write it in an afternoon: one map, wide numbers, nothing kept up to
//! date. It shares no rule and no table with the ledger.

use std::collections::{BTreeMap, BTreeSet};

use crate::limits::AMOUNT_MAX;
use crate::model::{Flags, Kind, LogTime, Operation, OperationId, Place, ResultCode, UserId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NaiveAccount {
    pub(super) available: i128,
    pub(super) floor: i128,
    pub(super) cap: i128,
    pub(super) frozen: bool,
    pub(super) version: u64,
    pub(super) place: Place,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct NaiveOutcome {
    pub(super) code: ResultCode,
    pub(super) created: bool,
    pub(super) moved: i128,
    pub(super) previous: Place,
    pub(super) account: Option<NaiveAccount>,
}

#[derive(Default)]
pub(super) struct Naive {
    pub(super) accounts: BTreeMap<(UserId, u32), NaiveAccount>,
    pub(super) closed: BTreeMap<(UserId, u32), Place>,
    pub(super) issued: BTreeMap<u32, i128>,
    pub(super) burned: BTreeMap<u32, i128>,
    pub(super) ids: BTreeSet<(UserId, OperationId, Place)>,
}

impl Naive {
    pub(super) fn apply(
        &mut self,
        operation: &Operation,
        place: Place,
        time: LogTime,
    ) -> NaiveOutcome {
        self.ids
            .insert((operation.user(), operation.id().unwrap(), place));
        let key = (operation.user(), operation.currency());
        let before = self.accounts.get(&key).copied();
        let (code, moved) = judge(operation, before);
        let previous = match before {
            Some(account) => account.place,
            None if code == ResultCode::Ok => self.closed.get(&key).copied().unwrap_or_default(),
            None => Place(0),
        };
        if operation.kind() == Kind::Find {
            return NaiveOutcome {
                code,
                created: false,
                moved: 0,
                previous: Place(0),
                account: None,
            };
        }
        let created = before.is_none() && code == ResultCode::Ok;
        let mut after = before.unwrap_or(NaiveAccount {
            available: 0,
            floor: 0,
            cap: i128::from(AMOUNT_MAX),
            frozen: false,
            version: time.0,
            place,
        });
        after.place = place;
        if code == ResultCode::Ok {
            after.version += u64::from(!created);
            self.effect(operation, moved, &mut after);
        }
        let is_there = if code == ResultCode::Ok {
            operation.kind() != Kind::Close
        } else {
            before.is_some()
        };
        if is_there {
            self.accounts.insert(key, after);
        } else if self.accounts.remove(&key).is_some() {
            self.closed.insert(key, place);
        }
        NaiveOutcome {
            code,
            created,
            moved,
            previous,
            account: is_there.then_some(after),
        }
    }

    fn effect(&mut self, operation: &Operation, moved: i128, after: &mut NaiveAccount) {
        let (kind, code) = (operation.kind(), operation.currency());
        if kind == Kind::Open || kind == Kind::Configure {
            let settings = operation.settings();
            after.floor = i128::from(settings.floor);
            after.cap = i128::from(settings.cap);
            after.frozen = settings.frozen;
        } else if kind == Kind::Credit {
            after.available += moved;
            *self.issued.entry(code).or_default() += moved;
        } else if kind == Kind::Debit {
            after.available -= moved;
            *self.burned.entry(code).or_default() += moved;
        }
    }
}

/// The answer, and what is moved.
fn judge(operation: &Operation, account: Option<NaiveAccount>) -> (ResultCode, i128) {
    let kind = operation.kind();
    let amount = i128::from(operation.amount());
    if kind == Kind::Find {
        return (ResultCode::Cancelled, 0);
    }
    if kind == Kind::Open {
        return (
            if account.is_some() {
                ResultCode::Exists
            } else {
                ResultCode::Ok
            },
            0,
        );
    }
    let Some(account) = account else {
        let opens = operation.flags().has(Flags::OPEN_IF_MISSING);
        return match (opens, operation.expected_version()) {
            (false, _) => (ResultCode::NotFound, 0),
            (true, Some(_)) => (ResultCode::VersionMismatch, 0),
            (true, None) => (ResultCode::Ok, amount),
        };
    };
    if operation
        .expected_version()
        .is_some_and(|version| version != account.version)
    {
        return (ResultCode::VersionMismatch, 0);
    }
    if account.frozen && (kind == Kind::Credit || kind == Kind::Debit) {
        return (ResultCode::Frozen, 0);
    }
    let there = account.available + account.floor;
    if kind == Kind::Close && account.available != 0 {
        (ResultCode::NotEmpty, 0)
    } else if kind == Kind::Close && account.frozen {
        (ResultCode::Frozen, 0)
    } else if kind == Kind::Credit && account.cap < account.available + amount {
        (ResultCode::OverCap, 0)
    } else if operation.flags().has(Flags::UP_TO) {
        (ResultCode::Ok, amount.min(there).max(0))
    } else if kind == Kind::Debit && there < amount {
        (ResultCode::Insufficient, 0)
    } else {
        (ResultCode::Ok, amount)
    }
}
