//! Records and entries that nobody wrote: refused or taken whole, never a panic, and nothing
//! changes by what is refused.

use super::{RING_KEY, ledger};
use crate::ledger::fold::{Delta, FoldError};
use crate::ledger::{Account, Ledger, record_size};
use crate::model::{
    Change, Choices, Currency, ENTRY_SIZE, Entry, Flags, Image, Kind, LogNumber, LogTime,
    Operation, OperationId, Place, ResultCode, Section, UserId, to_u64, to_usize,
};

/// Entries tried on one state at most.
const ENTRY_COUNT_MAX: u64 = 40;

const TIME_START_MS: u64 = 1_750_000_000_000;

/// The first bytes make a state; the others damage its records, then entries that follow it.
pub fn check_records(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let mut tape = Tape::default();
    let live = state(&mut choices, &mut tape);
    let mut records = Section::ALL.map(|section| live.records(section));
    let damage_count = choices.below(5);
    for _ in 0..damage_count {
        let at = to_usize(choices.below(4));
        damage(&mut choices, &mut records[at]);
    }
    let mut loaded = ledger();
    if !load(&mut loaded, &mut choices, &records) {
        return;
    }
    if loaded.check_supply().is_err() {
        return;
    }
    // Sums are taken from the accounts again, and runs of slots may be cut in other ways.
    assert!(loaded.records(Section::Accounts) == records[2]);
    assert!(loaded.records(Section::Ids) == records[3]);
    if damage_count != 0 {
        records = Section::ALL.map(|section| loaded.records(section));
    }
    check_entries(&mut choices, loaded, &records, &mut tape);
}

/// Places and log times, one entry after the other.
#[derive(Default)]
struct Tape {
    count: u64,
}

impl Tape {
    fn next(&mut self) -> (Place, LogTime) {
        self.count += 1;
        let place = Place::new(LogNumber::new(2).unwrap(), 4_096 + self.count * 128);
        (
            place,
            LogTime((TIME_START_MS + self.count * 10) * 1_000_000),
        )
    }
}

fn operation(choices: &mut Choices<'_>, time: LogTime) -> Operation {
    let owner = UserId::new(1 + u128::from(choices.u8() % 4)).unwrap();
    let code = Currency::new(1 + u32::from(choices.u8() % 2)).unwrap();
    let id = OperationId::from_parts(time.ms(), u128::from(choices.u8()));
    let amount = 1 + choices.below(200);
    match choices.below(4) {
        0 => Operation::debit(id, owner, code, amount).with_flags(Flags::UP_TO),
        1 => Operation::close(id, owner, code),
        2 => Operation::find(id, owner).with_flags(Flags::BURN),
        _ => Operation::credit(id, owner, code, amount).with_flags(Flags::OPEN_IF_MISSING),
    }
}

fn state(choices: &mut Choices<'_>, tape: &mut Tape) -> Ledger {
    let mut live = ledger();
    let count = choices.below(12);
    for _ in 0..count {
        let (place, time) = tape.next();
        let operation = operation(choices, time);
        live.apply(&operation, place, time);
    }
    live
}

/// Changes a few bytes, or the number of them.
fn damage(choices: &mut Choices<'_>, bytes: &mut Vec<u8>) {
    let at = to_usize(choices.below(1 << 16));
    match choices.below(6) {
        0 => bytes.truncate(at),
        1 => {
            let size = to_usize(choices.below(64));
            bytes.extend_from_slice(choices.bytes(size));
        }
        2 if !bytes.is_empty() => {
            let from = at % bytes.len();
            let copy = bytes[from..bytes.len().min(from + 160)].to_vec();
            bytes.extend_from_slice(&copy);
        }
        kind if !bytes.is_empty() => {
            let size = if kind == 3 { 1 } else { 8 };
            let at = at % bytes.len();
            for (byte, new) in bytes[at..].iter_mut().zip(choices.bytes(size)) {
                *byte = *new;
            }
        }
        _ => (),
    }
}

fn load(loaded: &mut Ledger, choices: &mut Choices<'_>, records: &[Vec<u8>; 4]) -> bool {
    for (section, records) in Section::ALL.into_iter().zip(records) {
        let piece_size = record_size(section) * to_usize(1 + choices.below(4));
        for piece in records.chunks(piece_size) {
            if let Err(error) = loaded.load(section, piece) {
                assert!(!error.to_string().is_empty());
                return false;
            }
        }
    }
    true
}

/// Entries that follow, and others: what the ledger takes, a fold takes too, to the same end.
fn check_entries(
    choices: &mut Choices<'_>,
    mut ledger: Ledger,
    before: &[Vec<u8>; 4],
    tape: &mut Tape,
) {
    let mut delta = Delta::new(RING_KEY);
    let mut count = 0;
    while !choices.is_empty() && count < ENTRY_COUNT_MAX {
        count += 1;
        let (place, time) = tape.next();
        let Some(entry) = entry(choices, &ledger, time) else {
            continue;
        };
        let figures = |ledger: &Ledger| {
            (
                ledger.digest(),
                ledger.id_digest(),
                ledger.account_count(),
                ledger.horizon_ms(),
                ledger.place(),
                ledger.supply(),
            )
        };
        let was = figures(&ledger);
        match ledger.absorb(&entry, place, time) {
            Ok(()) => {
                assert_eq!(ledger.check_supply(), Ok(()));
                let folded = delta.absorb(&entry, place, time);
                assert_eq!(folded, Ok(()), "{entry:?}");
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert_eq!(was, figures(&ledger), "a refused entry changed something");
            }
        }
    }
    if delta.is_empty() {
        return;
    }
    match merge(delta, before) {
        Ok(after) => {
            for (section, records) in Section::ALL.into_iter().zip(after) {
                assert!(ledger.records(section) == records, "{section:?}");
            }
        }
        Err(error) => panic!("the ledger took what the fold refuses: {error}"),
    }
}

/// What the next operation would be logged as, with some bytes changed; or any bytes.
fn entry(choices: &mut Choices<'_>, ledger: &Ledger, time: LogTime) -> Option<Entry> {
    let mut bytes = [0; ENTRY_SIZE];
    if choices.one_in(8) {
        let taken = choices.bytes(ENTRY_SIZE);
        bytes[..taken.len()].copy_from_slice(taken);
    } else {
        let operation = operation(choices, time);
        let account = ledger.get(operation.user(), operation.currency());
        bytes = Entry::Change(change(operation, account, time)).to_bytes();
        let change_count = choices.below(4);
        for _ in 0..change_count {
            let at = to_usize(choices.below(to_u64(ENTRY_SIZE)));
            bytes[at] = choices.u8();
        }
    }
    let entry = Entry::read(&bytes).ok()?;
    assert_eq!(entry.to_bytes(), bytes, "{entry:?} is not canonical");
    Some(entry)
}

/// What a simple ledger would log; wrong for many an account, which is as good.
fn change(operation: Operation, account: Option<Account>, time: LogTime) -> Change {
    let amount = operation.amount().cast_signed();
    let signed = match operation.kind() {
        Kind::Credit => amount,
        Kind::Debit => amount.wrapping_neg(),
        Kind::Open
        | Kind::Close
        | Kind::Configure
        | Kind::Hold
        | Kind::Capture
        | Kind::Release
        | Kind::Transfer
        | Kind::Reverse
        | Kind::Get
        | Kind::List
        | Kind::History
        | Kind::Find => 0,
    };
    let is_burn = operation.kind() == Kind::Find;
    let code = if is_burn {
        ResultCode::Cancelled
    } else {
        ResultCode::Ok
    };
    let image = match account {
        _ if is_burn || operation.kind() == Kind::Close => Image::default(),
        Some(account) => Image {
            available: account.available.wrapping_add(signed),
            held: account.held,
            version: account.version.wrapping_add(1),
        },
        None => Image {
            available: signed,
            held: 0,
            version: time.0,
        },
    };
    Change {
        operation,
        code,
        created: account.is_none() && !is_burn,
        moved: signed.unsigned_abs(),
        image,
        previous: account.filter(|_| !is_burn).map_or(Place(0), |a| a.place),
    }
}

fn merge(delta: Delta, before: &[Vec<u8>; 4]) -> Result<Vec<Vec<u8>>, FoldError> {
    let mut merge = delta.merge();
    let mut after = Vec::new();
    for (section, old) in Section::ALL.into_iter().zip(before) {
        let mut new = Vec::new();
        merge.push(section, old, &mut new)?;
        merge.finish(section, &mut new)?;
        after.push(new);
    }
    Ok(after)
}
