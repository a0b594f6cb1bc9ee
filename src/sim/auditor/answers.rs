//! Every answer that a client got, against the one history.
//!
//! Three questions: is each answer what the history says (and was what is in the history ever
//! asked for)? Is the order of the history the order in which answers and questions were seen by
//! the clients' own eyes? Did each client's operations keep their order?

use std::collections::BTreeMap;

use super::history::{History, Line};
use super::model::{Account, Model};
use super::{Answered, Asked, At, Findings};
use crate::model::{
    Change, CodeClass, Flags, Kind, Operation, OperationId, Receipt, ReceiptFlags, ResultCode,
};

/// What is known of all copies of one change.
#[derive(Debug)]
struct Copies {
    count: u32,
    first_submitted: At,
    first_answered: Option<At>,
    /// One of the copies is the operation of the entry.
    has_original: bool,
}

/// Something with a place in a user's history.
#[derive(Debug)]
struct Point {
    /// Log time; a look-up comes behind the change of the same time.
    position: (u64, u8),
    submitted: At,
    answered: At,
    what: String,
}

/// Compares all answers with the history.
pub(super) fn check(history: &History, asked: &[Asked], findings: &mut Findings) {
    let mut copies: BTreeMap<(u128, u128), Copies> = BTreeMap::new();
    let mut points: BTreeMap<u128, Vec<Point>> = BTreeMap::new();
    for one in asked {
        note_copy(history, one, &mut copies);
    }
    for one in asked {
        let Some(answer) = &one.answer else {
            findings.add(format!("never answered: {:?}", one.operation));
            continue;
        };
        let told = if one.operation.check().is_err() {
            check_malformed(one, answer)
        } else if one.operation.is_change() {
            let is_only = is_only_copy(one, &copies);
            check_change(history, &one.operation, &answer.receipt, is_only)
        } else {
            check_look_up(history, one, answer, &mut points)
        };
        if let Err(text) = told {
            findings.add(format!(
                "{text}: client {} asked at {} for {:?} and was told at {}: {:?}",
                one.client, one.submitted_at, one.operation, answer.at, answer.receipt
            ));
        }
    }
    check_origins(history, &copies, &mut points, findings);
    for (user, points) in &mut points {
        check_order(*user, points, findings);
    }
    check_programs(history, asked, &copies, findings);
}

fn key_of(operation: &Operation) -> Option<(u128, u128)> {
    Some((operation.user().get(), operation.id()?.get()))
}

/// Notes that a copy of a change was submitted, and whether its answer says that it is applied.
fn note_copy(history: &History, one: &Asked, copies: &mut BTreeMap<(u128, u128), Copies>) {
    let Some(key) = key_of(&one.operation) else {
        return;
    };
    let line = history.find(one.operation.user(), key.1);
    let knows = |answer: &&Answered| {
        let class = answer.receipt.code.class();
        matches!(class, CodeClass::Done | CodeClass::Refusal)
    };
    let answered = one.answer.as_ref().filter(knows).map(|answer| answer.at);
    let is_change = one.operation.is_change() && one.operation.check().is_ok();
    let is_original = line.is_some_and(|line| line.change.operation == one.operation);
    let known = copies.entry(key).or_insert(Copies {
        count: 0,
        first_submitted: At::MAX,
        first_answered: None,
        has_original: false,
    });
    known.count += u32::from(is_change);
    if is_original {
        known.has_original = true;
        known.first_submitted = known.first_submitted.min(one.submitted_at);
    }
    if let Some(at) = answered {
        known.first_answered = Some(known.first_answered.map_or(at, |first| first.min(at)));
    }
}

fn is_only_copy(one: &Asked, copies: &BTreeMap<(u128, u128), Copies>) -> bool {
    key_of(&one.operation)
        .and_then(|key| copies.get(&key))
        .is_some_and(|copies| copies.count == 1)
}

fn check_malformed(one: &Asked, answer: &Answered) -> Result<(), String> {
    let expected = one.operation.check().err();
    if Some(answer.receipt.code) == expected {
        Ok(())
    } else {
        Err(format!("malformed, {expected:?} was expected"))
    }
}

/// The receipt that the history gives for a change.
fn receipt_of(line: &Line, index: u16, flags: ReceiptFlags) -> Receipt {
    let Change {
        code,
        created,
        moved,
        image,
        operation,
        ..
    } = &line.change;
    let mut all = flags;
    if *created {
        all = all.with(ReceiptFlags::CREATED);
    }
    let sets = matches!(operation.kind(), Kind::Open | Kind::Configure) && *code == ResultCode::Ok;
    if (sets && operation.settings().frozen) || *code == ResultCode::Frozen {
        all = all.with(ReceiptFlags::FROZEN);
    }
    Receipt {
        index,
        code: *code,
        flags: all,
        available: image.available,
        held: image.held,
        version: image.version,
        place: line.place,
        amount: *moved,
    }
}

/// Is `receipt` what the history says of `line`, whether or not it comes again?
fn is_receipt_of(line: &Line, receipt: &Receipt) -> bool {
    let again = ReceiptFlags(receipt.flags.0 & ReceiptFlags::REPLAYED.0);
    receipt_of(line, receipt.index, again) == *receipt
}

fn check_change(
    history: &History,
    operation: &Operation,
    receipt: &Receipt,
    is_only: bool,
) -> Result<(), String> {
    let id = operation.id().ok_or("a change without an id")?;
    let line = history.find(operation.user(), id.get());
    match receipt.code.class() {
        CodeClass::Done | CodeClass::Refusal => {
            let line = line.ok_or("acknowledged, but lost")?;
            let change = &line.change;
            let may_see = change.operation == *operation
                || change.is_burn()
                || operation.kind() == Kind::Find;
            if !may_see {
                return Err(format!("the id was used for {:?}", change.operation));
            }
            if !is_receipt_of(line, receipt) {
                let right = receipt_of(line, receipt.index, ReceiptFlags(0));
                return Err(format!("the history says {right:?}"));
            }
            Ok(())
        }
        CodeClass::Id => check_id_answer(history, operation, receipt.code, id, line),
        CodeClass::NotNow => match line {
            Some(line) if is_only => Err(format!("it was applied at {}", line.place)),
            Some(_) | None => Ok(()),
        },
        CodeClass::Unknown => Ok(()),
        CodeClass::Malformed => Err("it is well-formed".to_owned()),
    }
}

fn check_id_answer(
    history: &History,
    operation: &Operation,
    code: ResultCode,
    id: OperationId,
    line: Option<&Line>,
) -> Result<(), String> {
    let fits = if code == ResultCode::IdReused {
        line.is_some_and(|line| line.change.operation != *operation && !line.change.is_burn())
    } else if code == ResultCode::IdTooOld {
        history.was_forgotten(id.time_ms()) && operation.kind().is_change()
    } else if code == ResultCode::BeyondRetention {
        let is_old_find = history.was_forgotten(id.time_ms()) && operation.kind() == Kind::Find;
        is_old_find || history.is_remade && line.is_some()
    } else if code == ResultCode::Never {
        let is_old_find = operation.kind() == Kind::Find && history.was_forgotten(id.time_ms());
        is_old_find && line.is_none()
    } else {
        false
    };
    if fits {
        Ok(())
    } else {
        Err("the history does not explain it".to_owned())
    }
}

// ---- look-ups ----

fn check_look_up(
    history: &History,
    one: &Asked,
    answer: &Answered,
    points: &mut BTreeMap<u128, Vec<Point>>,
) -> Result<(), String> {
    let (operation, receipt) = (&one.operation, &answer.receipt);
    if matches!(receipt.code.class(), CodeClass::NotNow | CodeClass::Unknown) {
        return Ok(());
    }
    if operation.kind() == Kind::Find {
        return check_find(history, one, answer);
    }
    let user = operation.user().get();
    let model = &history.model;
    let is_recent = operation.flags().has(Flags::RECENT);
    match operation.kind() {
        Kind::Get if is_recent && receipt.code == ResultCode::Ok => {
            let past = model.accounts.get(&(user, operation.currency()));
            let mut past = past.into_iter().flatten();
            let fits = past.any(|(_, account)| account.is_some_and(|it| shows(receipt, &it)));
            return fits.then_some(()).ok_or("it never was so".to_owned());
        }
        Kind::Get => {
            let account = model.then((user, operation.currency()), receipt.amount);
            let fits = match account {
                Some(account) => receipt.code == ResultCode::Ok && shows(receipt, &account),
                None => {
                    let bare = Receipt {
                        amount: receipt.amount,
                        ..Receipt::bare(receipt.index, ResultCode::NotFound)
                    };
                    *receipt == bare
                }
            };
            if !fits {
                return Err(format!("at that time it was {account:?}"));
            }
        }
        Kind::List => check_rows(model, operation, answer, is_recent)?,
        Kind::Open
        | Kind::Close
        | Kind::Configure
        | Kind::Credit
        | Kind::Debit
        | Kind::Hold
        | Kind::Capture
        | Kind::Release
        | Kind::Transfer
        | Kind::Reverse
        | Kind::History
        | Kind::Find => return Err("not a look-up that is served".to_owned()),
    }
    if !is_recent {
        points.entry(user).or_default().push(Point {
            position: (receipt.amount, 1),
            submitted: one.submitted_at,
            answered: answer.at,
            what: format!("{:?} of client {}", operation.kind(), one.client),
        });
    }
    Ok(())
}

fn shows(receipt: &Receipt, account: &Account) -> bool {
    let frozen = receipt.flags.has(ReceiptFlags::FROZEN);
    receipt.code == ResultCode::Ok
        && i128::from(receipt.available) == account.available
        && receipt.held == 0
        && receipt.version == account.version
        && receipt.place.0 == account.place
        && frozen == account.frozen
}

fn check_rows(
    model: &Model,
    operation: &Operation,
    answer: &Answered,
    is_recent: bool,
) -> Result<(), String> {
    let user = operation.user().get();
    let is_row = |row: &crate::model::Row, account: &Account| {
        i128::from(row.available) == account.available
            && row.held == 0
            && row.outgoing == 0
            && i128::from(row.floor) == account.floor
            && i128::from(row.cap) == account.cap
            && row.version == account.version
            && row.place.0 == account.place
            && (row.flags == 1) == account.frozen
    };
    if answer.receipt.code == ResultCode::NotFound {
        // A user without any account.
        let is_empty = is_recent || model.list(user, 0, answer.receipt.amount).is_empty();
        let fits = is_empty && answer.rows.is_empty();
        return fits.then_some(()).ok_or("it has accounts".to_owned());
    }
    if answer.receipt.code != ResultCode::Ok {
        return Err("a list is always answered".to_owned());
    }
    if is_recent {
        for row in &answer.rows {
            let past = model.accounts.get(&(user, row.currency));
            let mut past = past.into_iter().flatten();
            if !past.any(|(_, account)| account.is_some_and(|account| is_row(row, &account))) {
                return Err(format!("it never was {row:?}"));
            }
        }
        return Ok(());
    }
    if model.list(user, 0, answer.receipt.amount).is_empty() {
        return Err("the user has no account".to_owned());
    }
    let all = model.list(user, operation.currency(), answer.receipt.amount);
    let count = crate::model::to_usize(operation.amount()).min(all.len());
    let shown = &all[..count];
    let more = answer.receipt.flags.has(ReceiptFlags::MORE);
    let same = |(row, (currency, account)): (&crate::model::Row, &(u32, Account))| {
        row.currency == *currency && is_row(row, account)
    };
    let fits = answer.rows.len() == shown.len() && answer.rows.iter().zip(shown).all(same);
    if !fits || more != (count < all.len()) {
        return Err(format!(
            "the rows were {shown:?}, told are {:?}",
            answer.rows
        ));
    }
    Ok(())
}

/// `find` without `burn`. That an id was not seen is looked at with the others' order, below.
fn check_find(history: &History, one: &Asked, answer: &Answered) -> Result<(), String> {
    let (operation, receipt) = (&one.operation, &answer.receipt);
    let id = operation.id().ok_or("a find without an id")?;
    let line = history.find(operation.user(), id.get());
    match receipt.code.class() {
        CodeClass::Done | CodeClass::Refusal => {
            let line = line.ok_or("found what is not there")?;
            if !is_receipt_of(line, receipt) || !receipt.flags.has(ReceiptFlags::REPLAYED) {
                return Err("the history has another receipt".to_owned());
            }
            Ok(())
        }
        CodeClass::Id if receipt.code == ResultCode::NotSeen => Ok(()),
        CodeClass::Id => check_id_answer(history, operation, receipt.code, id, line),
        CodeClass::NotNow | CodeClass::Unknown => Ok(()),
        CodeClass::Malformed => Err("it is well-formed".to_owned()),
    }
}

// ---- order ----

/// What is in the history was asked for, and after it was asked for.
fn check_origins(
    history: &History,
    copies: &BTreeMap<(u128, u128), Copies>,
    points: &mut BTreeMap<u128, Vec<Point>>,
    findings: &mut Findings,
) {
    for line in &history.lines {
        let operation = &line.change.operation;
        let known = key_of(operation).and_then(|key| copies.get(&key));
        let Some(known) = known.filter(|known| known.has_original) else {
            findings.add(format!("nobody asked for {operation:?} at {}", line.place));
            continue;
        };
        if line.at < known.first_submitted {
            findings.add(format!("{operation:?} is there before it was asked for"));
        }
        let user = operation.user().get();
        points.entry(user).or_default().push(Point {
            position: (line.time, 0),
            submitted: known.first_submitted,
            answered: known.first_answered.unwrap_or(At::MAX),
            what: format!("{:?} at {}", operation.kind(), line.place),
        });
    }
}

/// Whatever was answered before something else was asked comes before it.
fn check_order(user: u128, points: &mut [Point], findings: &mut Findings) {
    points.sort_by_key(|point| (point.position, point.submitted));
    let mut latest: Option<&Point> = None;
    for point in points.iter() {
        if let Some(latest) = latest
            && point.answered < latest.submitted
        {
            findings.add(format!(
                "user {user}: {} was asked at {} but lies before {}, which was answered at {}",
                latest.what, latest.submitted, point.what, point.answered
            ));
            return;
        }
        if latest.is_none_or(|latest| latest.submitted < point.submitted) {
            latest = Some(point);
        }
    }
}

/// A client's operations on one user keep their order, but for those that stay unknown.
fn check_programs(
    history: &History,
    asked: &[Asked],
    copies: &BTreeMap<(u128, u128), Copies>,
    findings: &mut Findings,
) {
    let mut last: BTreeMap<(usize, u128), (u64, u8)> = BTreeMap::new();
    let mut what: BTreeMap<(usize, u128), &Asked> = BTreeMap::new();
    for one in asked {
        let user = one.operation.user();
        let Some(position) = program_position(history, one, copies) else {
            if let Some(text) = unseen_too_late(history, one, copies, &last) {
                findings.add(text);
            }
            continue;
        };
        let before = last.entry((one.client, user.get())).or_default();
        let earlier = what.entry((one.client, user.get())).or_insert(one);
        if position < *before {
            findings.add(format!(
                "client {}: an earlier {earlier:?} lies at {before:?}, behind the later {one:?} \
                 at {position:?}",
                one.client
            ));
        }
        // A look-up that is sent again may show what was handed in after it.
        if one.operation.is_change() && *before <= position {
            *earlier = one;
            *before = position;
        }
    }
}

/// Where an operation lies in its user's history, if its answer says so.
fn program_position(
    history: &History,
    one: &Asked,
    copies: &BTreeMap<(u128, u128), Copies>,
) -> Option<(u64, u8)> {
    let answer = one.answer.as_ref()?;
    let class = answer.receipt.code.class();
    if !matches!(class, CodeClass::Done | CodeClass::Refusal) {
        return None;
    }
    if one.operation.is_change() {
        let id = one.operation.id()?.get();
        return is_only_copy(one, copies)
            .then(|| history.find(one.operation.user(), id))
            .flatten()
            .map(|line| (line.time, 0));
    }
    let is_exact = !one.operation.flags().has(Flags::RECENT);
    let has_time = matches!(one.operation.kind(), Kind::Get | Kind::List);
    (is_exact && has_time).then_some((answer.receipt.amount, 1))
}

/// An id that was not seen, although its change lies before what the client had done already.
fn unseen_too_late(
    history: &History,
    one: &Asked,
    copies: &BTreeMap<(u128, u128), Copies>,
    last: &BTreeMap<(usize, u128), (u64, u8)>,
) -> Option<String> {
    let answer = one.answer.as_ref()?;
    let is_exact = !one.operation.flags().has(Flags::RECENT);
    if answer.receipt.code != ResultCode::NotSeen || !is_exact {
        return None;
    }
    let user = one.operation.user();
    let line = history.find(user, one.operation.id()?.get())?;
    let before = last.get(&(one.client, user.get()));
    let known = copies.get(&key_of(&one.operation)?)?;
    let was_told = known.first_answered.is_some_and(|at| at < one.submitted_at);
    let is_behind = before.is_some_and(|before| (line.time, 0) <= *before);
    (was_told || is_behind).then(|| {
        format!(
            "client {} did not find {:?}, which was there",
            one.client, one.operation
        )
    })
}
