//! What the entries of a stretch did to accounts: a line for each entry, in the order of the log,
//! and of these one change for each account, in the order of a checkpoint.
//!
//! Each entry tells by itself what its account was before and is after it. So nothing is looked up
//! while the log is read; that the lines of an account follow one another is checked when they are
//! brought together, slot by slot.

use std::collections::BTreeMap;
use std::collections::btree_map::IntoValues;
use std::iter::{self, Enumerate, Flatten};
use std::vec::IntoIter;

use super::bases::Bases;
use crate::ledger::chunks::Chunks;
use crate::ledger::ids::IdItem;
use crate::ledger::record::{AccountKey, AccountRecord};
use crate::ledger::rules::{Next, follow};
use crate::ledger::supply::Flow;
use crate::limits::SLOT_COUNT;
use crate::model::{
    AccountSettings, Change, CodeClass, Image, Kind, LogTime, Place, Slot, UserId,
    slot_of_fingerprint, to_u64, to_usize,
};

/// An account before and after the stretch.
#[derive(Clone, Copy, Debug)]
pub(super) struct AccountDelta {
    /// What it was before, as far as its first entry tells; `None`: it was not there.
    pub(super) base: Option<(Image, Place)>,
    /// What it is after, with settings that count only as `known` says; `None`: it is closed.
    pub(super) account: Option<AccountRecord>,
    pub(super) known: Known,
}

/// What of an account's record the stretch tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Balances, version and place. The rest is as it was.
    Images,
    /// The settings too.
    Settings,
    /// All: it was opened in the stretch.
    All,
}

/// What an entry did to its account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Did {
    /// Burned an id: no account has to do with it.
    Nothing,
    /// Refused, since there was no account.
    FoundNone,
    Refused,
    Opened,
    Changed,
    Configured,
    Closed,
}

/// One entry: one line of memory. Where it lies is told beside it, with its id.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line {
    user: UserId,
    currency: u32,
    did: Did,
    /// The account after the entry; when it closed it, or found none, nothing.
    image: Image,
    /// The account's entry before this one.
    previous: Place,
    /// Changed: what was available before, as bits. Opened, configured: which of the settings.
    argument: u64,
}

/// Slots whose lines lie together: few enough that the lines being written stay near, and so many
/// that those of one bucket do when they are brought together.
const BUCKET_SLOT_SHIFT: u32 = 8;
const BUCKET_SLOT_COUNT: usize = 1 << BUCKET_SLOT_SHIFT;

/// Lines of some slots in a row, as they came.
#[derive(Debug)]
struct Bucket {
    lines: Chunks<Line, 7>,
    /// The id of each line, and its place.
    ids: Chunks<IdItem, 7>,
}

/// Lines as they come, by slot.
#[derive(Debug)]
pub(super) struct Lines {
    buckets: Vec<Bucket>,
    count: u64,
    /// Of lines that opened or configured.
    settings: Vec<AccountSettings>,
}

/// An account before and after an entry, as that entry alone tells, and what it moved.
pub(super) struct Told {
    pub(super) before: Option<AccountRecord>,
    pub(super) after: Option<AccountRecord>,
    pub(super) flow: Flow,
}

impl Lines {
    pub(super) fn new() -> Self {
        let bucket = || Bucket {
            lines: Chunks::new(),
            ids: Chunks::new(),
        };
        let count = to_usize(SLOT_COUNT.into()) >> BUCKET_SLOT_SHIFT;
        Self {
            buckets: iter::repeat_with(bucket).take(count).collect(),
            count: 0,
            settings: Vec::new(),
        }
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// Takes the next entry that is a change, if it is possible by itself.
    pub(super) fn push(
        &mut self,
        change: &Change,
        id: IdItem,
        time: LogTime,
    ) -> Result<Told, &'static str> {
        let slot = slot_of_fingerprint(id.fingerprint);
        let told = told_by(change, slot, id.place, time)?;
        let did = did(change, &told);
        let argument = match did {
            Did::Opened | Did::Configured => {
                self.settings
                    .extend(told.after.map(|account| account.settings));
                to_u64(self.settings.len() - 1)
            }
            Did::Changed => {
                let before = told.before.as_ref();
                before.map_or(0, |account| account.available.cast_unsigned())
            }
            Did::Nothing | Did::FoundNone | Did::Refused | Did::Closed => 0,
        };
        let bucket = &mut self.buckets[slot.index() >> BUCKET_SLOT_SHIFT];
        bucket.lines.push(Line {
            user: change.operation.user(),
            currency: change.operation.currency(),
            did,
            image: change.image,
            previous: change.previous,
            argument,
        });
        bucket.ids.push(id);
        self.count += 1;
        Ok(told)
    }
}

/// The account of `slot` before and after an entry at `place`. Numbers wrap on the way back: one
/// that is out of range does not pass [`follow`], which computes the way forth, checked.
fn told_by(change: &Change, slot: Slot, place: Place, time: LogTime) -> Result<Told, &'static str> {
    let operation = &change.operation;
    let is_done = change.code.class() == CodeClass::Done;
    let is_absent = operation.kind() == Kind::Find
        || change.created
        || !is_done && change.image == Image::default();
    let before = (!is_absent).then(|| {
        let image = change.image;
        let available = match operation.kind() {
            Kind::Credit if is_done => image.available.wrapping_sub_unsigned(change.moved),
            Kind::Debit if is_done => image.available.wrapping_add_unsigned(change.moved),
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
            | Kind::Get
            | Kind::List
            | Kind::History
            | Kind::Find => image.available,
        };
        AccountRecord {
            user: operation.user(),
            currency: operation.currency(),
            slot,
            available,
            held: image.held,
            outgoing: 0,
            settings: AccountSettings::default(),
            // Of a closed account the version is not told.
            version: image.version.saturating_sub(u64::from(is_done)),
            place: change.previous,
        }
    });
    let Next { account, flow } = follow(change, before.as_ref(), slot, place, time)?;
    let version = before.map_or(1, |account| account.version);
    if version == 0 && operation.kind() != Kind::Close {
        return Err("version does not follow");
    }
    Ok(Told {
        before,
        after: account,
        flow,
    })
}

const fn did(change: &Change, told: &Told) -> Did {
    match (&told.before, &told.after) {
        (None, None) if matches!(change.operation.kind(), Kind::Find) => Did::Nothing,
        (None, None) => Did::FoundNone,
        (None, Some(_)) => Did::Opened,
        (Some(_), None) => Did::Closed,
        (Some(before), Some(after)) if before.version == after.version => Did::Refused,
        (Some(_), Some(_)) if matches!(change.operation.kind(), Kind::Configure) => Did::Configured,
        (Some(_), Some(_)) => Did::Changed,
    }
}

impl Line {
    /// Image and place of the account before the entry.
    const fn before(&self) -> Option<(Image, Place)> {
        let available = match self.did {
            Did::Nothing | Did::FoundNone | Did::Opened => return None,
            Did::Refused | Did::Configured | Did::Closed => self.image.available,
            Did::Changed => self.argument.cast_signed(),
        };
        // Of a closed account it stays at 0, which is none.
        let version = match self.did {
            Did::Changed | Did::Configured => self.image.version - 1,
            Did::Nothing | Did::FoundNone | Did::Opened | Did::Refused | Did::Closed => {
                self.image.version
            }
        };
        let image = Image {
            available,
            held: self.image.held,
            version,
        };
        Some((image, self.previous))
    }
}

/// One line of the slot that is brought together: so sorted, those of an account follow one
/// another as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    user: UserId,
    currency: u32,
    number: u32,
    place: Place,
}

/// Ids in the order of a checkpoint.
pub(super) type IdsInOrder = Flatten<IntoValues<u64, Vec<IdItem>>>;

/// The changes of accounts, in the order of a checkpoint. Made slot by slot.
#[derive(Debug)]
pub(super) struct Changes {
    /// Those that are still to come, with the first slot of each.
    buckets: Enumerate<IntoIter<Bucket>>,
    settings: Vec<AccountSettings>,
    open: Option<Open>,
    members: Vec<Member>,
    /// Changes in the slot that was brought together last, and how many of them are used up.
    ready: Vec<(AccountKey, AccountDelta)>,
    used: usize,
    /// Ids by their rows, of the slots that are done; those of a row are in order.
    rows: BTreeMap<u64, Vec<IdItem>>,
    slot_ids: Vec<IdItem>,
}

/// A bucket whose slots are brought together.
#[derive(Debug)]
struct Open {
    bucket: Bucket,
    first_slot: usize,
    /// Numbers of its lines by slot, those of a slot as they came, and where each slot's end.
    order: Vec<u32>,
    ends: [usize; BUCKET_SLOT_COUNT],
    /// The slot that is next, counted from the first, and where its lines begin.
    next: (usize, usize),
}

impl Open {
    fn new(bucket: Bucket, first_slot: usize) -> Self {
        let count = bucket.ids.count();
        let slot_of = |number: u32| {
            let slot = slot_of_fingerprint(bucket.ids.get(number).fingerprint);
            slot.index() - first_slot
        };
        let mut ends = [0; BUCKET_SLOT_COUNT];
        for number in 0..count {
            ends[slot_of(number)] += 1;
        }
        let mut sum = 0;
        for end in &mut ends {
            let count = *end;
            *end = sum;
            sum += count;
        }
        let mut order = vec![0; sum];
        for number in 0..count {
            let end = &mut ends[slot_of(number)];
            order[*end] = number;
            *end += 1;
        }
        Self {
            bucket,
            first_slot,
            order,
            ends,
            next: (0, 0),
        }
    }
}

impl Changes {
    pub(super) fn new(lines: Lines) -> Self {
        Self {
            buckets: lines.buckets.into_iter().enumerate(),
            settings: lines.settings,
            open: None,
            members: Vec::new(),
            ready: Vec::new(),
            used: 0,
            rows: BTreeMap::new(),
            slot_ids: Vec::new(),
        }
    }

    /// The next change, which stays the next one until [`Self::advance`].
    pub(super) fn peek(
        &mut self,
        bases: &Bases,
    ) -> Result<Option<&(AccountKey, AccountDelta)>, &'static str> {
        while self.used == self.ready.len() && self.fill(bases)? {}
        Ok(self.ready.get(self.used))
    }

    pub(super) const fn advance(&mut self) {
        self.used += 1;
    }

    /// The ids of all lines, once no change is left.
    pub(super) fn into_ids(self) -> IdsInOrder {
        self.rows.into_values().flatten()
    }

    /// Brings the lines of the next slot together. False: there is none.
    fn fill(&mut self, bases: &Bases) -> Result<bool, &'static str> {
        let is_used = |open: &mut Open| open.next.1 == open.order.len();
        drop(self.open.take_if(is_used));
        if self.open.is_none() {
            let Some((number, bucket)) = self.buckets.next() else {
                return Ok(false);
            };
            self.open = Some(Open::new(bucket, number << BUCKET_SLOT_SHIFT));
            return Ok(true);
        }
        let Some(open) = &mut self.open else {
            return Ok(false);
        };
        let (index, begin) = open.next;
        let end = open.ends[index];
        open.next = (index + 1, end);
        let slot = open.first_slot + index;
        let slot = Slot(u16::try_from(slot).expect("there are so many slots"));
        let gone_at = bases.gone_at(slot);
        self.members.clear();
        // All lines are read here, side by side, and not one after the other further below.
        for number in &open.order[begin..end] {
            let (line, id) = (open.bucket.lines.get(*number), open.bucket.ids.get(*number));
            self.slot_ids.push(*id);
            if gone_at < id.place && line.did != Did::Nothing {
                self.members.push(Member {
                    user: line.user,
                    currency: line.currency,
                    number: *number,
                    place: id.place,
                });
            }
        }
        self.slot_ids.sort_unstable();
        for same in self.slot_ids.chunk_by(|a, b| a.row == b.row) {
            let row = self.rows.entry(same[0].row).or_default();
            row.extend_from_slice(same);
        }
        self.slot_ids.clear();
        self.members.sort_unstable();
        self.ready.clear();
        self.used = 0;
        for member in &self.members {
            let line = open.bucket.lines.get(member.number);
            let key = AccountKey {
                slot,
                user: member.user,
                currency: member.currency,
            };
            if self.ready.last().is_none_or(|(other, _)| *other != key) {
                self.ready.push((key, AccountDelta::before(line, key)));
            }
            let (_, delta) = self.ready.last_mut().expect("it was just pushed");
            delta.follow(line, key, member.place, &self.settings)?;
        }
        Ok(true)
    }
}

impl AccountDelta {
    /// An account with which nothing was done yet, as its first line tells it.
    fn before(line: &Line, key: AccountKey) -> Self {
        let base = line.before();
        let account = base.map(|(image, place)| AccountRecord {
            user: key.user,
            currency: key.currency,
            slot: key.slot,
            available: image.available,
            held: image.held,
            outgoing: 0,
            settings: AccountSettings::default(),
            version: image.version,
            place,
        });
        Self {
            base,
            account,
            known: Known::Images,
        }
    }

    /// Takes the account's next line, which lies at `place`.
    fn follow(
        &mut self,
        line: &Line,
        key: AccountKey,
        place: Place,
        settings: &[AccountSettings],
    ) -> Result<(), &'static str> {
        let settings = || settings[to_usize(line.argument)];
        match (&mut self.account, line.before()) {
            (None, None) => {}
            (Some(account), Some((image, previous))) => {
                let same_version = line.did == Did::Closed || account.version == image.version;
                if account.place != previous {
                    return Err("previous place is not the account's last");
                }
                if account.available != image.available || account.held != image.held {
                    return Err("balances do not follow from the operation");
                }
                if !same_version {
                    return Err("version does not follow");
                }
            }
            (None, Some(_)) => return Err("changes an account that is not there"),
            (Some(_), None) => return Err("opens an account that is there"),
        }
        match line.did {
            Did::Nothing | Did::FoundNone => {}
            Did::Closed => self.account = None,
            Did::Opened => {
                self.known = Known::All;
                self.account = Some(AccountRecord {
                    user: key.user,
                    currency: key.currency,
                    slot: key.slot,
                    available: line.image.available,
                    held: line.image.held,
                    outgoing: 0,
                    settings: settings(),
                    version: line.image.version,
                    place,
                });
            }
            Did::Refused | Did::Changed | Did::Configured => {
                let account = self.account.as_mut().expect("it was compared");
                account.available = line.image.available;
                account.held = line.image.held;
                account.version = line.image.version;
                account.place = place;
                if line.did == Did::Configured {
                    account.settings = settings();
                    self.known = self.known.max_settings();
                }
            }
        }
        Ok(())
    }
}

impl Known {
    const fn max_settings(self) -> Self {
        match self {
            Self::Images | Self::Settings => Self::Settings,
            Self::All => Self::All,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::ids::row_of;
    use crate::ledger::{Ledger, LedgerOptions};
    use crate::limits::FOLD_RECORD_MEMORY_SIZE_MAX;
    use crate::model::{Currency, Flags, LogNumber, Operation, OperationId, id_fingerprint};

    const RING_KEY: u128 = 77;

    impl Bucket {
        fn memory_size(&self) -> u64 {
            self.lines.memory_size() + self.ids.memory_size()
        }
    }

    /// What is told of a fold's memory holds at each of its moments: it is the greatest part of
    /// what a backup says that it may use.
    #[test]
    fn memory_stays_within_its_limit() {
        const COUNT: u64 = 1 << 19;
        let mut ledger = Ledger::new(LedgerOptions {
            ring_key: RING_KEY,
            id_count_max: 1 << 40,
            keep_ids: false,
        });
        let mut lines = Lines::new();
        for index in 0..COUNT {
            let time = LogTime(1_750_000_000_000_000_000 + index * 10_000);
            let place = Place::new(LogNumber::new(1).unwrap(), 4_096 + index * 128);
            let id = OperationId::from_parts(time.ms(), u128::from(index));
            let user = UserId::new(u128::from(index % 100_000) + 1).unwrap();
            let credit = Operation::credit(id, user, Currency::new(1).unwrap(), 3);
            let credit = credit.with_flags(Flags::OPEN_IF_MISSING);
            let item = IdItem {
                row: row_of(time.ms()),
                fingerprint: id_fingerprint(RING_KEY, user, id),
                place,
            };
            let change = ledger.apply(&credit, place, time);
            assert!(lines.push(&change, item, time).is_ok());
        }
        let mut to_come: u64 = lines.buckets.iter().map(Bucket::memory_size).sum();
        let mut sizes: Vec<u64> = lines.buckets.iter().map(Bucket::memory_size).collect();
        let mut changes = Changes::new(lines);
        let (mut count, mut largest, mut left) = (0, to_come, sizes.len());
        let bases = Bases::default();
        while changes.peek(&bases).unwrap().is_some() {
            changes.advance();
            count += 1;
            if changes.buckets.len() < left {
                // One that is open counts until the next one is.
                left = changes.buckets.len();
                let rows: usize = changes.rows.values().map(Vec::capacity).sum();
                largest = largest.max(to_come + to_u64(rows * size_of::<IdItem>()));
                to_come -= sizes.remove(0);
            }
        }
        assert_eq!(count, 100_000);
        assert_eq!(to_u64(changes.into_ids().count()), COUNT);
        let limit = COUNT * FOLD_RECORD_MEMORY_SIZE_MAX;
        assert!(largest <= limit, "{largest} bytes, {limit} at most");
    }
}
