//! The rules: what an operation does to an account, and whether an entry follows from one.
//!
//! [`decide`] makes the entry of a live operation: a ladder of refusals in documented order, then
//! a change that cannot fail. [`follow`] takes an entry, live or replayed, and says what the
//! account is after it. It executes nothing: it takes the images and refuses those that
//! contradict the state. Both are pure; neither knows the tables.
#![deny(clippy::arithmetic_side_effects)]

use super::record::{AccountRecord, VERSION_MAX};
use super::supply::Flow;
use crate::canary::{self, Bug};
use crate::model::{
    AccountSettings, Change, CodeClass, Flags, Image, Kind, LogTime, Operation, Place, ResultCode,
    Slot,
};

/// A change that is not refused.
struct Step {
    created: bool,
    moved: u64,
    image: Image,
}

/// What is true after an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    /// The account, unless it is not there.
    pub(super) account: Option<AccountRecord>,
    /// What the counters of the supply take.
    pub(super) flow: Flow,
}

const VERSION_ENDS: &str = "a version is below its log time, which ends in the year 2262";
const LIMIT_HOLDS: &str = "the ladder keeps balances between floor and cap";

/// The entry of `operation` on the account as it is. `closed_at` is the last entry of an account
/// that was closed, if that is still known.
pub(super) fn decide(
    operation: &Operation,
    account: Option<&AccountRecord>,
    closed_at: Place,
    time: LogTime,
) -> Change {
    let step = match operation.kind() {
        Kind::Open => open(account, time),
        Kind::Close => close(operation, account),
        Kind::Configure => configure(operation, account),
        Kind::Credit => credit(operation, account, time),
        Kind::Debit => debit(operation, account),
        // Only with the flag `burn`: this id will never be anything else.
        Kind::Find => Err(ResultCode::Cancelled),
        Kind::Hold
        | Kind::Capture
        | Kind::Release
        | Kind::Transfer
        | Kind::Reverse
        | Kind::Get
        | Kind::List
        | Kind::History => unreachable!("the node answers these before the ledger"),
    };
    let present = account.filter(|_| operation.kind() != Kind::Find);
    let previous = present.map_or(Place(0), |account| account.place);
    match step {
        Ok(Step {
            created,
            moved,
            image,
        }) => Change {
            operation: *operation,
            code: ResultCode::Ok,
            created,
            moved,
            image,
            previous: if created { closed_at } else { previous },
        },
        Err(code) => Change {
            operation: *operation,
            code,
            created: false,
            moved: 0,
            image: present.map(AccountRecord::image).unwrap_or_default(),
            previous,
        },
    }
}

fn open(account: Option<&AccountRecord>, time: LogTime) -> Result<Step, ResultCode> {
    if account.is_some() {
        return Err(ResultCode::Exists);
    }
    let image = Image {
        available: 0,
        held: 0,
        version: time.0,
    };
    Ok(Step {
        created: true,
        moved: 0,
        image,
    })
}

fn close(operation: &Operation, account: Option<&AccountRecord>) -> Result<Step, ResultCode> {
    let account = account.ok_or(ResultCode::NotFound)?;
    check_version(operation, account)?;
    if account.available != 0 || account.held != 0 || account.outgoing != 0 {
        return Err(ResultCode::NotEmpty);
    }
    if account.settings.frozen {
        return Err(ResultCode::Frozen);
    }
    Ok(Step {
        created: false,
        moved: 0,
        image: Image::default(),
    })
}

/// A floor or cap may be set that the present balance lies beyond; what would lead further
/// beyond is refused from then on.
fn configure(operation: &Operation, account: Option<&AccountRecord>) -> Result<Step, ResultCode> {
    let account = account.ok_or(ResultCode::NotFound)?;
    check_version(operation, account)?;
    let image = Image {
        version: version_after(account),
        ..account.image()
    };
    Ok(Step {
        created: false,
        moved: 0,
        image,
    })
}

fn credit(
    operation: &Operation,
    account: Option<&AccountRecord>,
    time: LogTime,
) -> Result<Step, ResultCode> {
    let amount = operation.amount();
    let Some(account) = account else {
        return credit_missing(operation, time);
    };
    check_version(operation, account)?;
    check_frozen(account)?;
    let total = i128::from(account.available)
        .checked_add(i128::from(account.held))
        .and_then(|total| total.checked_add(i128::from(account.outgoing)))
        .and_then(|total| total.checked_add(i128::from(amount)))
        .expect("four 64-bit numbers");
    if i128::from(account.settings.cap) < total {
        return Err(ResultCode::OverCap);
    }
    // A cap is at most 2^63 - 1, so this is in range.
    let available = account
        .available
        .checked_add_unsigned(amount)
        .expect(LIMIT_HOLDS);
    let image = Image {
        available,
        held: account.held,
        version: version_after(account),
    };
    Ok(Step {
        created: false,
        moved: amount,
        image,
    })
}

/// An account that is not there has no version to match, even if it would be opened.
fn credit_missing(operation: &Operation, time: LogTime) -> Result<Step, ResultCode> {
    if !operation.flags().has(Flags::OPEN_IF_MISSING) {
        return Err(ResultCode::NotFound);
    }
    if operation.expected_version().is_some() {
        return Err(ResultCode::VersionMismatch);
    }
    let amount = operation.amount();
    let available = i64::try_from(amount).expect("an amount is at most 2^63 - 1");
    let image = Image {
        available,
        held: 0,
        version: time.0,
    };
    Ok(Step {
        created: true,
        moved: amount,
        image,
    })
}

fn debit(operation: &Operation, account: Option<&AccountRecord>) -> Result<Step, ResultCode> {
    let account = account.ok_or(ResultCode::NotFound)?;
    check_version(operation, account)?;
    check_frozen(account)?;
    let there = i128::from(account.available)
        .checked_add(i128::from(account.settings.floor))
        .expect("two 64-bit numbers");
    // Below 0 where the floor was raised above the balance: then there is nothing to take.
    let there = u64::try_from(there.max(0)).expect("less than 2^64");
    let amount = operation.amount();
    let moved = if operation.flags().has(Flags::UP_TO) {
        amount.min(there)
    } else {
        amount
    };
    if there < moved && !canary::on(Bug::FloorForgotten) {
        return Err(ResultCode::Insufficient);
    }
    let available = account
        .available
        .checked_sub_unsigned(moved)
        .expect(LIMIT_HOLDS);
    let image = Image {
        available,
        held: account.held,
        version: version_after(account),
    };
    Ok(Step {
        created: false,
        moved,
        image,
    })
}

fn check_version(operation: &Operation, account: &AccountRecord) -> Result<(), ResultCode> {
    match operation.expected_version() {
        Some(version) if version != account.version && !canary::on(Bug::VersionIgnored) => {
            Err(ResultCode::VersionMismatch)
        }
        Some(_) | None => Ok(()),
    }
}

const fn check_frozen(account: &AccountRecord) -> Result<(), ResultCode> {
    if account.settings.frozen {
        Err(ResultCode::Frozen)
    } else {
        Ok(())
    }
}

fn version_after(account: &AccountRecord) -> u64 {
    account.version.checked_add(1).expect(VERSION_ENDS)
}

/// The account of `slot` after the entry `change` at `place`. The error says what in the entry
/// contradicts the account before it.
pub(super) fn follow(
    change: &Change,
    account: Option<&AccountRecord>,
    slot: Slot,
    place: Place,
    time: LogTime,
) -> Result<Next, &'static str> {
    if change.operation.kind() == Kind::Find {
        return follow_burn(change, account);
    }
    let refused = change.code.class() == CodeClass::Refusal && change.code != ResultCode::Cancelled;
    if !refused && change.code != ResultCode::Ok {
        return Err("a code that is never logged");
    }
    if refused {
        return follow_refusal(change, account, place);
    }
    if VERSION_MAX < change.image.version {
        return Err("version out of range");
    }
    match (change.created, account) {
        (true, None) => follow_opening(change, slot, place, time),
        (true, Some(_)) => Err("opens an account that is there"),
        (false, None) => Err("changes an account that is not there"),
        (false, Some(account)) => follow_change(change, account, place),
    }
}

fn follow_burn(change: &Change, account: Option<&AccountRecord>) -> Result<Next, &'static str> {
    let Change {
        created,
        moved,
        image,
        previous,
        ..
    } = *change;
    if change.code != ResultCode::Cancelled || created || moved != 0 {
        return Err("a burned id with an outcome");
    }
    if image != Image::default() || previous != Place(0) {
        return Err("a burned id with an account");
    }
    Ok(Next {
        account: account.copied(),
        flow: Flow::default(),
    })
}

/// A refusal changes no balance and no version, but it belongs to the account's history.
fn follow_refusal(
    change: &Change,
    account: Option<&AccountRecord>,
    place: Place,
) -> Result<Next, &'static str> {
    if change.created || change.moved != 0 {
        return Err("a refusal with an effect");
    }
    if change.image != account.map(AccountRecord::image).unwrap_or_default() {
        return Err("the images of a refusal are not those of the account");
    }
    if change.previous != account.map_or(Place(0), |account| account.place) {
        return Err("previous place is not the account's last");
    }
    let account = account.map(|account| AccountRecord { place, ..*account });
    Ok(Next {
        account,
        flow: Flow::default(),
    })
}

fn follow_opening(
    change: &Change,
    slot: Slot,
    place: Place,
    time: LogTime,
) -> Result<Next, &'static str> {
    let (operation, image) = (&change.operation, change.image);
    let (settings, amount) = match operation.kind() {
        Kind::Open => (operation.settings(), 0),
        Kind::Credit if operation.flags().has(Flags::OPEN_IF_MISSING) => {
            (AccountSettings::default(), operation.amount())
        }
        Kind::Credit
        | Kind::Close
        | Kind::Configure
        | Kind::Debit
        | Kind::Hold
        | Kind::Capture
        | Kind::Release
        | Kind::Transfer
        | Kind::Reverse
        | Kind::Get
        | Kind::List
        | Kind::History
        | Kind::Find => return Err("opens an account by an operation that cannot"),
    };
    if image.version != time.0 || image.version == 0 {
        return Err("the version of a new account is not its log time");
    }
    if change.moved != amount || u64::try_from(image.available) != Ok(amount) || image.held != 0 {
        return Err("the balance of a new account is not what was credited");
    }
    let account = AccountRecord {
        user: operation.user(),
        currency: operation.currency(),
        slot,
        available: image.available,
        held: 0,
        outgoing: 0,
        settings,
        version: image.version,
        place,
    };
    Ok(Next {
        account: Some(account),
        flow: Flow {
            issued: amount,
            burned: 0,
        },
    })
}

fn follow_change(
    change: &Change,
    account: &AccountRecord,
    place: Place,
) -> Result<Next, &'static str> {
    let (operation, image, moved) = (&change.operation, change.image, change.moved);
    if change.previous != account.place {
        return Err("previous place is not the account's last");
    }
    let mut next = AccountRecord {
        available: image.available,
        held: image.held,
        version: image.version,
        place,
        ..*account
    };
    let mut flow = Flow::default();
    let available = match operation.kind() {
        Kind::Close => return follow_close(change, account),
        Kind::Configure => {
            next.settings = operation.settings();
            Some(account.available).filter(|_| moved == 0)
        }
        Kind::Credit => {
            flow.issued = moved;
            account
                .available
                .checked_add_unsigned(moved)
                .filter(|_| moved == operation.amount())
        }
        Kind::Debit => {
            let partly = operation.flags().has(Flags::UP_TO) && moved <= operation.amount();
            flow.burned = moved;
            let available = account.available.checked_sub_unsigned(moved);
            available.filter(|_| moved == operation.amount() || partly)
        }
        Kind::Open => return Err("opens no account"),
        Kind::Hold
        | Kind::Capture
        | Kind::Release
        | Kind::Transfer
        | Kind::Reverse
        | Kind::Get
        | Kind::List
        | Kind::History
        | Kind::Find => return Err("a kind that this version does not apply"),
    };
    if available != Some(image.available) || image.held != account.held {
        return Err("balances do not follow from the operation");
    }
    if Some(image.version) != account.version.checked_add(1) {
        return Err("version does not follow");
    }
    Ok(Next {
        account: Some(next),
        flow,
    })
}

fn follow_close(change: &Change, account: &AccountRecord) -> Result<Next, &'static str> {
    if account.available != 0 || account.held != 0 || account.outgoing != 0 {
        return Err("closes an account that is not empty");
    }
    if change.image != Image::default() || change.moved != 0 {
        return Err("a closed account with a balance");
    }
    Ok(Next {
        account: None,
        flow: Flow::default(),
    })
}
