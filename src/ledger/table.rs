//! The accounts of one ledger: a dense slab of 64-byte lines, an index from (user, currency) to a
//! line and one from the user to the first of its lines, which are linked in the order of their
//! currencies. What few accounts have (floor, cap, outgoing) lies in side records.
//!
//! The table stores; it knows no rule of the ledger. A closed account's line stays where it is
//! until it is needed, so that the account, opened again, can go on from its old last entry.
//! That memory is a convenience of this process: it is in no checkpoint and no digest.

use ahash::RandomState;

use super::bits::{high_word, low_word, stream};
use super::chunks::Chunks;
use super::index::{Index, tag_of};
use super::record::{AccountKey, AccountRecord};
use super::slot_set::SlotSet;
use crate::limits::{ACCOUNT_COUNT_MAX, CLOSED_COUNT_KEPT, CURRENCIES_PER_USER_MAX};
use crate::model::{AccountSettings, Place, Slot, UserId};

/// No line, no side record.
pub(super) const NONE: u32 = u32::MAX;
const _: () = assert!(ACCOUNT_COUNT_MAX < NONE);

const MARK_FROZEN: u16 = 1;
const MARK_CLOSED: u16 = 2;
/// With [`MARK_CLOSED`]: in no index and no list but that of free lines.
const MARK_FREE: u16 = 4;
const ACCOUNT_COUNT_SHIFT: u32 = 3;
const _: () = assert!(CURRENCIES_PER_USER_MAX < 1 << (16 - ACCOUNT_COUNT_SHIFT));

/// One account: one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line {
    user: UserId,
    available: i64,
    held: u64,
    version: u64,
    place: Place,
    currency: u32,
    /// The user's next account; of a closed line the next closed one.
    next: u32,
    /// Its side record; of a closed line the closed one before it.
    side: u32,
    slot: Slot,
    /// Frozen, closed, and in the user's first line the number of its accounts.
    marks: u16,
}
const _: () = assert!(size_of::<Line>() == 64);

/// What accounts with other than default settings have besides.
#[derive(Clone, Copy, Debug)]
struct Side {
    floor: u64,
    cap: u64,
    outgoing: u64,
}

/// What is known of an account's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The account is open and has this line.
    Open(u32),
    /// It was closed; the line is still there.
    Closed(u32),
    /// Never heard of, or forgotten.
    Missing,
}

/// How far the look-up of an account, done ahead, has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyTag {
    tag: u32,
    /// The line that the account probably has; `NONE` = not known.
    pub(super) number: u32,
}

impl Default for KeyTag {
    fn default() -> Self {
        Self {
            tag: 0,
            number: NONE,
        }
    }
}

/// Open accounts that are not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forgotten {
    pub(super) slot: Slot,
    pub(super) account_count: u32,
}

/// All accounts.
#[derive(Debug)]
pub(super) struct Table {
    lines: Chunks<Line, 15>,
    /// Each line's slot once more: to look for the accounts of some slots costs 2 bytes a line.
    slots: Chunks<Slot, 15>,
    sides: Chunks<Side, 10>,
    sides_free: Vec<u32>,
    by_account: Index,
    by_user: Index,
    hasher: RandomState,
    open_count: u32,
    closed_count: u32,
    closed_oldest: u32,
    closed_newest: u32,
    /// Lines of accounts that were forgotten, linked by `next`.
    free_first: u32,
}

impl Line {
    const fn has(&self, mark: u16) -> bool {
        self.marks & mark != 0
    }

    const fn account_count(&self) -> u32 {
        (self.marks >> ACCOUNT_COUNT_SHIFT) as u32
    }

    fn set_account_count(&mut self, count: u32) {
        let count = u16::try_from(count).expect("at most CURRENCIES_PER_USER_MAX");
        self.marks =
            self.marks & (MARK_FROZEN | MARK_CLOSED | MARK_FREE) | (count << ACCOUNT_COUNT_SHIFT);
    }
}

const fn marks_of(settings: &AccountSettings) -> u16 {
    if settings.frozen { MARK_FROZEN } else { 0 }
}

impl Table {
    /// An empty table whose hashes are keyed by `key`, so that no user can choose its place.
    pub(super) fn new(key: u128) -> Self {
        let word = |index| stream(low_word(key), index) ^ stream(high_word(key), !index);
        Self {
            lines: Chunks::new(),
            slots: Chunks::new(),
            sides: Chunks::new(),
            sides_free: Vec::new(),
            by_account: Index::new(),
            by_user: Index::new(),
            hasher: RandomState::with_seeds(word(0), word(1), word(2), word(3)),
            open_count: 0,
            closed_count: 0,
            closed_oldest: NONE,
            closed_newest: NONE,
            free_first: NONE,
        }
    }

    /// Open accounts.
    pub(super) const fn count(&self) -> u32 {
        self.open_count
    }

    /// Looks one account up.
    #[inline]
    pub(super) fn find(&self, user: UserId, currency: u32) -> Found {
        let found = self
            .by_account
            .find(self.account_tag(user, currency), |number| {
                let line = self.lines.get(number);
                line.user == user && line.currency == currency
            });
        match found {
            Some(number) if self.lines.get(number).has(MARK_CLOSED) => Found::Closed(number),
            Some(number) => Found::Open(number),
            None => Found::Missing,
        }
    }

    /// Begins to look an account up ahead.
    #[inline]
    pub(super) fn key_tag(&self, user: UserId, currency: u32) -> KeyTag {
        KeyTag {
            tag: self.account_tag(user, currency),
            number: NONE,
        }
    }

    /// Reads the index where one probably is, and waits for nothing.
    #[inline]
    pub(super) fn touch_home(&self, key: KeyTag) -> u64 {
        self.by_account.touch(key.tag)
    }

    /// Reads the indexes where an account that is not there yet will be, and waits for nothing.
    #[inline]
    pub(super) fn touch_place(&self, user: UserId, currency: u32) -> u64 {
        let account = self.by_account.touch(self.account_tag(user, currency));
        account ^ self.by_user.touch(self.user_tag(user))
    }

    /// Reads the index of one.
    #[inline]
    pub(super) fn touch_index(&self, key: &mut KeyTag) {
        key.number = self.by_account.find(key.tag, |_| true).unwrap_or(NONE);
    }

    /// Reads the line of one.
    #[inline]
    pub(super) fn touch_line(&self, key: KeyTag) -> u64 {
        if key.number == NONE {
            0
        } else {
            self.lines.get(key.number).version
        }
    }

    /// The slot of the account in a line.
    #[inline]
    pub(super) fn slot(&self, number: u32) -> Slot {
        self.lines.get(number).slot
    }

    /// The whole account in a line.
    #[inline]
    pub(super) fn record(&self, number: u32) -> AccountRecord {
        let line = self.lines.get(number);
        let mut settings = AccountSettings {
            frozen: line.has(MARK_FROZEN),
            ..AccountSettings::default()
        };
        let mut outgoing = 0;
        if line.side != NONE {
            let side = self.sides.get(line.side);
            (settings.floor, settings.cap, outgoing) = (side.floor, side.cap, side.outgoing);
        }
        AccountRecord {
            user: line.user,
            currency: line.currency,
            slot: line.slot,
            available: line.available,
            held: line.held,
            outgoing,
            settings,
            version: line.version,
            place: line.place,
        }
    }

    /// Last entry of the account in a line, closed or not.
    pub(super) fn place(&self, number: u32) -> Place {
        self.lines.get(number).place
    }

    /// How many accounts the user has.
    pub(super) fn account_count_of(&self, user: UserId) -> u32 {
        self.head_of(user)
            .map_or(0, |head| self.lines.get(head).account_count())
    }

    /// Numbers of the user's accounts in the order of their currencies, from `currency` on.
    pub(super) fn numbers_of(&self, user: UserId, currency: u32) -> impl Iterator<Item = u32> {
        let mut next = self.head_of(user).unwrap_or(NONE);
        std::iter::from_fn(move || {
            let number = next;
            if number == NONE {
                return None;
            }
            next = self.lines.get(number).next;
            Some(number)
        })
        .skip_while(move |number| self.lines.get(*number).currency < currency)
    }

    /// Replaces an open account's state; its key stays.
    #[inline]
    pub(super) fn store(&mut self, number: u32, record: &AccountRecord) {
        let side = self.lines.get(number).side;
        let side = self.store_side(side, record);
        let line = self.lines.get_mut(number);
        assert!(line.user == record.user && line.currency == record.currency);
        line.available = record.available;
        line.held = record.held;
        line.version = record.version;
        line.place = record.place;
        line.side = side;
        line.marks = (line.marks & !MARK_FROZEN) | marks_of(&record.settings);
    }

    /// Adds an account that is not open. `found` is what [`Self::find`] says of it; `before` may
    /// be the user's account with the next lower currency, which saves the walk to it.
    pub(super) fn insert(
        &mut self,
        record: &AccountRecord,
        found: Found,
        before: Option<u32>,
    ) -> u32 {
        let line = Line {
            user: record.user,
            available: record.available,
            held: record.held,
            version: record.version,
            place: record.place,
            currency: record.currency,
            next: NONE,
            side: self.store_side(NONE, record),
            slot: record.slot,
            marks: marks_of(&record.settings),
        };
        let number = match found {
            Found::Open(_) => unreachable!("an open account is not opened again"),
            Found::Closed(number) => {
                self.unlink_closed(number);
                *self.lines.get_mut(number) = line;
                *self.slots.get_mut(number) = line.slot;
                number
            }
            Found::Missing => {
                let number = self.place_line(line);
                self.by_account
                    .insert(self.account_tag(line.user, line.currency), number);
                number
            }
        };
        self.link(number, before);
        self.open_count += 1;
        number
    }

    /// Closes the account in a line. `place` is the entry that did it.
    pub(super) fn remove(&mut self, number: u32, place: Place) {
        self.unlink(number);
        let side = self.lines.get(number).side;
        if side != NONE {
            self.sides_free.push(side);
        }
        let newest = self.closed_newest;
        let line = self.lines.get_mut(number);
        assert!(!line.has(MARK_CLOSED));
        line.place = place;
        line.marks = MARK_CLOSED;
        line.next = NONE;
        line.side = newest;
        if newest == NONE {
            self.closed_oldest = number;
        } else {
            self.lines.get_mut(newest).next = number;
        }
        self.closed_newest = number;
        self.closed_count += 1;
        self.open_count -= 1;
    }

    /// Keys of all open accounts with their lines, in the order of a checkpoint.
    pub(super) fn sorted(&self) -> Vec<(AccountKey, u32)> {
        let mut keys: Vec<(AccountKey, u32)> = (0..self.lines.count())
            .filter(|number| !self.lines.get(*number).has(MARK_CLOSED))
            .map(|number| (self.record(number).key(), number))
            .collect();
        keys.sort_unstable();
        keys
    }

    /// Lines, open or not: their numbers are below this.
    pub(super) const fn line_count(&self) -> u32 {
        self.lines.count()
    }

    /// The open accounts of `slots` with lines from `from` to below `to`.
    pub(super) fn numbers_in(
        &self,
        slots: &SlotSet,
        from: u32,
        to: u32,
    ) -> impl Iterator<Item = u32> {
        (from..to.min(self.lines.count())).filter(|number| {
            slots.contains(*self.slots.get(*number)) && !self.lines.get(*number).has(MARK_CLOSED)
        })
    }

    /// Forgets what is in a line, if its slot is in `slots`: an open account with all others of its
    /// user, or that there was one. Says what open accounts went.
    pub(super) fn forget(&mut self, number: u32, slots: &SlotSet) -> Option<Forgotten> {
        let slot = *self.slots.get(number);
        if !slots.contains(slot) {
            return None;
        }
        let line = *self.lines.get(number);
        if line.has(MARK_FREE) {
            return None;
        }
        if !line.has(MARK_CLOSED) {
            let account_count = self.forget_user(line.user);
            return Some(Forgotten {
                slot,
                account_count,
            });
        }
        self.unlink_closed(number);
        self.by_account
            .remove(self.account_tag(line.user, line.currency), number);
        self.free_line(number);
        None
    }

    /// The key of the account in a line.
    pub(super) fn key(&self, number: u32) -> AccountKey {
        let line = self.lines.get(number);
        AccountKey {
            slot: line.slot,
            user: line.user,
            currency: line.currency,
        }
    }

    fn forget_user(&mut self, user: UserId) -> u32 {
        let head = self
            .head_of(user)
            .expect("an open account is in its user's list");
        self.by_user.remove(self.user_tag(user), head);
        let (mut number, mut count) = (head, 0);
        while number != NONE {
            let line = *self.lines.get(number);
            self.by_account
                .remove(self.account_tag(line.user, line.currency), number);
            if line.side != NONE {
                self.sides_free.push(line.side);
            }
            self.free_line(number);
            self.open_count -= 1;
            number = line.next;
            count += 1;
        }
        count
    }

    fn free_line(&mut self, number: u32) {
        let line = self.lines.get_mut(number);
        line.marks = MARK_CLOSED | MARK_FREE;
        line.next = self.free_first;
        self.free_first = number;
    }

    /// Bytes reserved for lines, side records and indexes.
    pub(super) fn memory_size(&self) -> u64 {
        self.lines.memory_size()
            + self.slots.memory_size()
            + self.sides.memory_size()
            + crate::model::to_u64(self.sides_free.capacity() * size_of::<u32>())
            + self.by_account.memory_size()
            + self.by_user.memory_size()
    }

    #[inline]
    fn account_tag(&self, user: UserId, currency: u32) -> u32 {
        tag_of(self.hasher.hash_one((user.get(), currency)))
    }

    #[inline]
    fn user_tag(&self, user: UserId) -> u32 {
        tag_of(self.hasher.hash_one(user.get()))
    }

    fn head_of(&self, user: UserId) -> Option<u32> {
        self.by_user.find(self.user_tag(user), |number| {
            self.lines.get(number).user == user
        })
    }

    /// Writes, frees or makes the side record that the account needs; returns its number.
    fn store_side(&mut self, number: u32, record: &AccountRecord) -> u32 {
        let AccountSettings {
            floor,
            cap,
            frozen: _,
        } = record.settings;
        let default = AccountSettings::default();
        let needed = floor != default.floor || cap != default.cap || record.outgoing != 0;
        let side = Side {
            floor,
            cap,
            outgoing: record.outgoing,
        };
        match (needed, number) {
            (false, NONE) => NONE,
            (false, number) => {
                self.sides_free.push(number);
                NONE
            }
            (true, NONE) => match self.sides_free.pop() {
                Some(free) => {
                    *self.sides.get_mut(free) = side;
                    free
                }
                None => self.sides.push(side),
            },
            (true, number) => {
                *self.sides.get_mut(number) = side;
                number
            }
        }
    }

    /// Puts a line where there is room: in a free place, or in that of the oldest closed one once
    /// enough are kept.
    fn place_line(&mut self, line: Line) -> u32 {
        if self.free_first != NONE {
            let number = self.free_first;
            self.free_first = self.lines.get(number).next;
            *self.lines.get_mut(number) = line;
            *self.slots.get_mut(number) = line.slot;
            return number;
        }
        let full = self.lines.count() == ACCOUNT_COUNT_MAX;
        assert!(!full || 0 < self.closed_count, "has_room was asked");
        if !full && self.closed_count <= CLOSED_COUNT_KEPT {
            assert!(self.slots.push(line.slot) == self.lines.count());
            return self.lines.push(line);
        }
        let number = self.closed_oldest;
        self.unlink_closed(number);
        let old = self.lines.get(number);
        self.by_account
            .remove(self.account_tag(old.user, old.currency), number);
        *self.lines.get_mut(number) = line;
        *self.slots.get_mut(number) = line.slot;
        number
    }

    fn unlink_closed(&mut self, number: u32) {
        let line = self.lines.get(number);
        assert!(line.has(MARK_CLOSED));
        let (before, next) = (line.side, line.next);
        if before == NONE {
            self.closed_oldest = next;
        } else {
            self.lines.get_mut(before).next = next;
        }
        if next == NONE {
            self.closed_newest = before;
        } else {
            self.lines.get_mut(next).side = before;
        }
        self.closed_count -= 1;
    }

    /// Links a line into its user's list.
    fn link(&mut self, number: u32, before: Option<u32>) {
        let Line { user, currency, .. } = *self.lines.get(number);
        let Some(head) = self.head_of(user) else {
            self.lines.get_mut(number).set_account_count(1);
            self.by_user.insert(self.user_tag(user), number);
            return;
        };
        let count = self.lines.get(head).account_count() + 1;
        if currency < self.lines.get(head).currency {
            self.lines.get_mut(head).set_account_count(0);
            let line = self.lines.get_mut(number);
            line.set_account_count(count);
            line.next = head;
            self.by_user.replace(self.user_tag(user), head, number);
            return;
        }
        self.lines.get_mut(head).set_account_count(count);
        let mut at = before.unwrap_or(head);
        let mut next = self.lines.get(at).next;
        while next != NONE && self.lines.get(next).currency < currency {
            at = next;
            next = self.lines.get(at).next;
        }
        self.lines.get_mut(at).next = number;
        self.lines.get_mut(number).next = next;
    }

    /// Takes a line out of its user's list.
    fn unlink(&mut self, number: u32) {
        let Line { user, next, .. } = *self.lines.get(number);
        let head = self
            .head_of(user)
            .expect("an open account is in its user's list");
        let count = self.lines.get(head).account_count() - 1;
        if head != number {
            let mut at = head;
            while self.lines.get(at).next != number {
                at = self.lines.get(at).next;
            }
            self.lines.get_mut(at).next = next;
            self.lines.get_mut(head).set_account_count(count);
        } else if next == NONE {
            self.by_user.remove(self.user_tag(user), number);
        } else {
            self.lines.get_mut(next).set_account_count(count);
            self.by_user.replace(self.user_tag(user), number, next);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::limits::ACCOUNT_MEMORY_SIZE_MAX;
    use crate::model::{LogNumber, Random};

    fn record(random: &mut Random, place: u64) -> AccountRecord {
        let mut settings = AccountSettings::default();
        if random.one_in(3) {
            settings.floor = random.below(3);
            settings.frozen = random.one_in(2);
        }
        AccountRecord {
            user: UserId::new(u128::from(random.below(50) + 1)).unwrap(),
            currency: u32::try_from(random.below(20) + 1).unwrap(),
            slot: Slot(3),
            available: random.u64().cast_signed(),
            held: random.below(9),
            outgoing: random.below(2),
            settings,
            version: random.below(99),
            place: Place::new(LogNumber::new(1).unwrap(), place),
        }
    }

    #[test]
    fn holds_what_a_map_holds() {
        let mut random = Random::new(7);
        let mut table = Table::new(9);
        let mut naive: BTreeMap<(UserId, u32), AccountRecord> = BTreeMap::new();
        let mut closed: BTreeMap<(UserId, u32), Place> = BTreeMap::new();
        for step in 1..40_000 {
            let record = record(&mut random, step);
            let key = (record.user, record.currency);
            match table.find(key.0, key.1) {
                Found::Open(number) => {
                    assert_eq!(Some(&table.record(number)), naive.get(&key));
                    if random.one_in(2) {
                        table.remove(number, Place(step));
                        naive.remove(&key);
                        closed.insert(key, Place(step));
                    } else {
                        let record = AccountRecord {
                            slot: Slot(3),
                            ..record
                        };
                        table.store(number, &record);
                        naive.insert(key, record);
                    }
                }
                found @ (Found::Closed(_) | Found::Missing) => {
                    assert!(!naive.contains_key(&key));
                    if let Found::Closed(number) = found {
                        assert_eq!(closed.get(&key), Some(&table.place(number)));
                    }
                    table.insert(&record, found, None);
                    naive.insert(key, record);
                }
            }
            let user = record.user;
            let from = u32::try_from(random.below(22)).unwrap();
            let listed: Vec<u32> = table
                .numbers_of(user, from)
                .map(|number| table.record(number).currency)
                .collect();
            let expected: Vec<u32> = naive
                .range((user, from)..=(user, u32::MAX))
                .map(|(key, _)| key.1)
                .collect();
            assert_eq!(listed, expected);
            let count = naive.range((user, 0)..=(user, u32::MAX)).count();
            assert_eq!(
                usize::try_from(table.account_count_of(user)).unwrap(),
                count
            );
        }
        assert_eq!(usize::try_from(table.count()).unwrap(), naive.len());
        let with_side = |record: &&AccountRecord| record.settings.floor + record.outgoing != 0;
        let side_count = naive.values().filter(with_side).count();
        let side_number = usize::try_from(table.sides.count()).unwrap();
        assert_eq!(
            side_number - table.sides_free.len(),
            side_count,
            "none is lost"
        );
        let records: Vec<AccountRecord> = table
            .sorted()
            .into_iter()
            .map(|(_, number)| table.record(number))
            .collect();
        assert_eq!(records, naive.values().copied().collect::<Vec<_>>());
    }

    #[test]
    fn an_account_takes_at_most_100_bytes() {
        assert_eq!(ACCOUNT_MEMORY_SIZE_MAX, 100);
        let mut table = Table::new(5);
        let mut random = Random::new(6);
        let empty_size = table.memory_size();
        for count in 1..=800_000_u64 {
            let user = UserId::new(u128::from(count)).unwrap();
            let settings = AccountSettings::default();
            let record = AccountRecord {
                user,
                settings,
                outgoing: 0,
                ..record(&mut random, 1)
            };
            table.insert(&record, Found::Missing, None);
            if 400_000 <= count && count.is_multiple_of(1 << 14) {
                let size = table.memory_size() - empty_size;
                let size_max = ACCOUNT_MEMORY_SIZE_MAX * count;
                assert!(size <= size_max, "{count} accounts take {size} bytes");
            }
        }
    }

    #[test]
    fn what_is_forgotten_was_never_there() {
        let mut random = Random::new(11);
        let mut table = Table::new(4);
        let gone = SlotSet::of(&[crate::model::SlotRange {
            first: Slot(0),
            last: Slot(4),
        }]);
        for round in 1..20_u64 {
            let mut kept = BTreeMap::new();
            for step in 0..2_000 {
                let mut record = record(&mut random, round * 10_000 + step);
                record.slot = Slot(u16::try_from(record.user.get() % 10).unwrap());
                match table.find(record.user, record.currency) {
                    Found::Open(number) if random.one_in(3) => {
                        table.remove(number, record.place);
                        kept.remove(&record.key());
                    }
                    Found::Open(number) => {
                        table.store(number, &record);
                        kept.insert(record.key(), record);
                    }
                    found @ (Found::Closed(_) | Found::Missing) => {
                        table.insert(&record, found, None);
                        kept.insert(record.key(), record);
                    }
                }
            }
            let all = u32::try_from(kept.len()).unwrap();
            let known = table.numbers_in(&gone, 0, u32::MAX).count();
            kept.retain(|key, _| 4 < key.slot.0);
            let counts = (0..table.line_count()).map(|number| table.forget(number, &gone));
            let forgotten: Vec<Forgotten> = counts.flatten().collect();
            assert!(
                forgotten
                    .iter()
                    .all(|forgotten| gone.contains(forgotten.slot))
            );
            let count: u32 = forgotten
                .iter()
                .map(|forgotten| forgotten.account_count)
                .sum();
            assert_eq!(usize::try_from(count).unwrap(), known);
            assert_eq!(u32::try_from(kept.len()).unwrap(), all - count);
            let found = table.sorted().into_iter();
            let found: Vec<_> = found
                .map(|(key, number)| (key, table.record(number)))
                .collect();
            // Kept accounts may have been opened in an earlier round.
            assert!(kept.iter().all(|pair| found.contains(&(*pair.0, *pair.1))));
            assert!(found.iter().all(|(key, _)| 4 < key.slot.0));
            assert_eq!(table.numbers_in(&gone, 0, u32::MAX).count(), 0);
            for number in 1..51 {
                let user = UserId::new(number).unwrap();
                if number % 10 <= 4 {
                    assert_eq!(table.account_count_of(user), 0);
                    assert_eq!(table.find(user, 1), Found::Missing);
                }
            }
            assert!(table.line_count() <= 1_000, "lines are used again");
        }
    }

    #[test]
    fn lines_of_closed_accounts_are_used_again() {
        let mut table = Table::new(1);
        let mut random = Random::new(2);
        for step in 0..4 * u64::from(CLOSED_COUNT_KEPT) {
            let user = UserId::new(u128::from(step) + 1).unwrap();
            let record = AccountRecord {
                user,
                ..record(&mut random, step)
            };
            let number = table.insert(&record, Found::Missing, None);
            assert_eq!(table.find(user, record.currency), Found::Open(number));
            table.remove(number, Place(1));
            assert_eq!(table.find(user, record.currency), Found::Closed(number));
        }
        assert_eq!(table.lines.count(), CLOSED_COUNT_KEPT + 1);
        assert_eq!(table.find(UserId::new(1).unwrap(), 1), Found::Missing);
        assert_eq!(table.count(), 0);
    }
}
