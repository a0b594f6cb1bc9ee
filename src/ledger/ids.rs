//! The ids that are remembered: rows by the time in the id, each an extendible hash table of
//! 16-byte items (fingerprint and place). A whole row is forgotten at once, in constant time,
//! when the horizon passes it.
//!
//! A hit is a hint: the caller proves it by reading the entry. The order of rows is by time; no
//! hash decides what is forgotten.

use std::collections::BTreeMap;

use super::bits::{high_half, mix, spread};
use super::chunks::Chunks;
use super::digest::record_hash;
use super::directory::{Directory, goes_to_new};
use super::slot_set::SlotSet;
use crate::canary::{self, Bug};
use crate::limits::ID_ROW_COUNT_MAX;
use crate::model::{Place, slot_of_fingerprint, to_u64};

const ROW_MS_SHIFT: u32 = 13;

/// Width of a row in ms of the ids' own time.
pub const ID_ROW_MS: u64 = 1 << ROW_MS_SHIFT;

/// Bytes of an id record in a checkpoint: row number, fingerprint, place.
pub const ID_RECORD_SIZE: usize = 24;

const PAGE_SLOT_COUNT: usize = 64;
const PAGE_ITEM_COUNT_MAX: u8 = 56;

/// Depth that only a broken hash reaches.
const DEPTH_MAX: u8 = 26;

/// No page.
const NONE: u32 = u32::MAX;

/// Empty directories that are kept for the next rows.
const SPARE_COUNT_MAX: usize = 16;

/// The number of the row of an id's time.
pub(super) const fn row_of(ms: u64) -> u64 {
    ms >> ROW_MS_SHIFT
}

/// The start of a row, in Unix milliseconds.
pub(super) const fn row_start_ms(row: u64) -> u64 {
    row << ROW_MS_SHIFT
}

/// Entries that may be about an id: read them, and compare user and id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    places: [Place; Self::COUNT_MAX],
    count: usize,
    overflow: bool,
}

impl Candidates {
    /// Most places in it. Two ids of one user and row with one fingerprint are a matter of 2^-48.
    pub const COUNT_MAX: usize = 4;

    /// The places, oldest first or not: in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = Place> + '_ {
        self.places[..self.count].iter().copied()
    }

    /// How many.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Are there none?
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// There are more than fit, so a miss proves nothing.
    pub(super) const fn is_overflow(&self) -> bool {
        self.overflow
    }

    fn push(&mut self, place: Place) {
        if self.count == Self::COUNT_MAX {
            self.overflow = true;
        } else {
            self.places[self.count] = place;
            self.count += 1;
        }
    }
}

/// Fingerprint and place; a fingerprint of 0 marks a free slot.
#[derive(Clone, Copy, Debug)]
struct Item {
    fingerprint: u64,
    place: Place,
}

/// A probe that misses ends where the item is then inserted: one line of memory for both.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
struct Page([Item; PAGE_SLOT_COUNT]);

#[derive(Clone, Copy, Debug)]
struct PageState {
    /// The row's next page, or the next free one.
    next: u32,
    item_count: u8,
    depth: u8,
}

#[derive(Debug)]
struct Row {
    directory: Directory,
    page_first: u32,
    page_last: u32,
    item_count: u64,
    digest: u128,
}

/// One remembered id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct IdItem {
    pub(super) row: u64,
    pub(super) fingerprint: u64,
    pub(super) place: Place,
}

impl IdItem {
    pub(super) fn write(&self, records: &mut Vec<u8>) {
        for word in [self.row, self.fingerprint, self.place.0] {
            records.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// Reads one record. The error says what is wrong with it.
    pub(super) fn read(bytes: &[u8; ID_RECORD_SIZE]) -> Result<Self, &'static str> {
        let mut words = [0; 3];
        super::record::read_words(bytes, &mut words);
        let [row, fingerprint, place] = words;
        let item = Self {
            row,
            fingerprint,
            place: Place(place),
        };
        if row_of((1 << 48) - 1) < row {
            return Err("a row beyond 48 bits of milliseconds");
        }
        if fingerprint == 0 || item.place.log().is_none() {
            return Err("an id without fingerprint or place");
        }
        Ok(item)
    }
}

/// All remembered ids.
#[derive(Debug)]
pub(super) struct Ids {
    rows: BTreeMap<u64, usize>,
    slab: Vec<Row>,
    slab_free: Vec<usize>,
    /// The row that was added to last: nearly all ids are of now.
    recent: (u64, usize),
    pages: Chunks<Page, 8>,
    states: Chunks<PageState, 12>,
    page_free: u32,
    spares: Vec<Vec<u32>>,
    item_count: u64,
    /// Bytes of all directories, kept up to date: asked for far more often than it changes.
    directories_size: u64,
}

/// No row has this number: ids have 48 bits of milliseconds.
const NO_ROW: u64 = u64::MAX;

const fn home(fingerprint: u64) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are meant")]
    let low = fingerprint as usize;
    low & (PAGE_SLOT_COUNT - 1)
}

/// Mixed, since the top bits of a fingerprint are the user's slot: one user's many ids would
/// deepen the directory by all of them.
const fn key_of(fingerprint: u64) -> u32 {
    spread(high_half(mix(fingerprint)))
}

const fn behind(at: usize) -> usize {
    (at + 1) & (PAGE_SLOT_COUNT - 1)
}

impl Page {
    const EMPTY: Self = Self(
        [Item {
            fingerprint: 0,
            place: Place(0),
        }; PAGE_SLOT_COUNT],
    );

    fn insert(&mut self, item: Item) {
        let mut at = home(item.fingerprint);
        while self.0[at].fingerprint != 0 {
            at = behind(at);
        }
        self.0[at] = item;
    }

    fn items(&self) -> impl Iterator<Item = Item> + '_ {
        self.0.iter().copied().filter(|item| item.fingerprint != 0)
    }
}

impl Ids {
    pub(super) const fn new() -> Self {
        Self {
            rows: BTreeMap::new(),
            slab: Vec::new(),
            slab_free: Vec::new(),
            recent: (NO_ROW, 0),
            pages: Chunks::new(),
            states: Chunks::new(),
            page_free: NONE,
            spares: Vec::new(),
            item_count: 0,
            directories_size: 0,
        }
    }

    /// Ids in it.
    pub(super) const fn count(&self) -> u64 {
        self.item_count
    }

    /// Is there room for a row, as far as rows go?
    pub(super) fn has_room(&self, row: u64) -> bool {
        to_u64(self.rows.len()) < ID_ROW_COUNT_MAX || self.rows.contains_key(&row)
    }

    /// Places of all ids of `row` with this fingerprint.
    #[inline]
    pub(super) fn find(&self, row: u64, fingerprint: u64) -> Candidates {
        let mut found = Candidates::default();
        let Some(page) = self.page(row, fingerprint) else {
            return found;
        };
        let mut at = home(fingerprint);
        while page.0[at].fingerprint != 0 {
            if page.0[at].fingerprint == fingerprint {
                found.push(page.0[at].place);
            }
            at = behind(at);
        }
        found
    }

    /// Reads ahead where an id with this fingerprint is or would be.
    #[inline]
    pub(super) fn touch(&self, row: u64, fingerprint: u64) -> u64 {
        let directory = self.row_number(row).map(|row| &self.slab[row].directory);
        let page = directory.and_then(|directory| directory.page(key_of(fingerprint)));
        page.map_or(0, |page| {
            let count = u64::from(self.states.get(page).item_count);
            self.pages.get(page).0[home(fingerprint)].fingerprint ^ count
        })
    }

    /// Remembers an id.
    pub(super) fn insert(&mut self, item: IdItem) {
        let IdItem {
            row,
            fingerprint,
            place,
        } = item;
        assert!(fingerprint != 0 && row != NO_ROW);
        if canary::on(Bug::ForgottenId) && fingerprint % 16 == 0 {
            return;
        }
        let number = self.row_number(row).unwrap_or_else(|| self.row_new(row));
        self.recent = (row, number);
        let key = key_of(fingerprint);
        let mut page = self.slab[number]
            .directory
            .page(key)
            .expect("a row has a page");
        while self.states.get(page).item_count == PAGE_ITEM_COUNT_MAX {
            page = self.split(number, key, page);
        }
        self.pages.get_mut(page).insert(Item { fingerprint, place });
        self.states.get_mut(page).item_count += 1;
        let row_state = &mut self.slab[number];
        row_state.item_count += 1;
        row_state.digest = row_state.digest.wrapping_add(item_hash(item));
        self.item_count += 1;
    }

    /// Remembers an id unless the very same item is there: what comes with slots that were here
    /// before may be known.
    pub(super) fn insert_absent(&mut self, item: IdItem) {
        if !self.holds(item) {
            self.insert(item);
        }
    }

    /// Hands on what is in `slots`, row by row in the order of a checkpoint.
    pub(super) fn rows_of(&self, slots: &SlotSet) -> impl Iterator<Item = Vec<IdItem>> + use<'_> {
        let slots = slots.clone();
        self.rows.iter().map(move |(row, number)| {
            let is_in = |item: &IdItem| slots.contains(slot_of_fingerprint(item.fingerprint));
            let mut items: Vec<IdItem> = self.items_of(*row, *number).filter(is_in).collect();
            items.sort_unstable();
            items
        })
    }

    /// Forgets all rows that end at or before `horizon_ms`.
    pub(super) fn forget(&mut self, horizon_ms: u64) {
        while let Some(first) = self.rows.first_entry() {
            if horizon_ms < row_start_ms(*first.key() + 1) {
                return;
            }
            let number = first.remove();
            self.drop_row(number);
        }
    }

    /// The horizon that leaves at most `count` ids; at most `limit_ms`. A start of a row.
    pub(super) fn horizon_for(&self, count: u64, limit_ms: u64) -> u64 {
        let mut left = self.item_count;
        let mut horizon_ms = 0;
        for (row, number) in &self.rows {
            let end_ms = row_start_ms(row + 1);
            if left <= count || limit_ms < end_ms {
                break;
            }
            left -= self.slab[*number].item_count;
            horizon_ms = end_ms;
        }
        horizon_ms
    }

    /// Sum of all rows' sums.
    pub(super) fn digest(&self) -> u128 {
        let digests = self.rows.values().map(|number| self.slab[*number].digest);
        digests.fold(0, u128::wrapping_add)
    }

    /// All, by row, fingerprint and place.
    pub(super) fn sorted(&self) -> Vec<IdItem> {
        let mut items = Vec::new();
        for (row, number) in &self.rows {
            items.extend(self.items_of(*row, *number));
        }
        items.sort_unstable();
        items
    }

    /// Bytes reserved.
    pub(super) fn memory_size(&self) -> u64 {
        self.directories_size
            + to_u64(self.slab.capacity() * size_of::<Row>())
            + self.pages.memory_size()
            + self.states.memory_size()
    }

    fn items_of(&self, row: u64, number: usize) -> impl Iterator<Item = IdItem> + use<'_> {
        let mut page = self.slab[number].page_first;
        let pages = std::iter::from_fn(move || {
            let present = page;
            if present == NONE {
                return None;
            }
            page = self.states.get(present).next;
            Some(present)
        });
        pages.flat_map(move |page| {
            let items = self.pages.get(page).items();
            items.map(move |Item { fingerprint, place }| IdItem {
                row,
                fingerprint,
                place,
            })
        })
    }

    fn holds(&self, item: IdItem) -> bool {
        let Some(page) = self.page(item.row, item.fingerprint) else {
            return false;
        };
        let mut at = home(item.fingerprint);
        while page.0[at].fingerprint != 0 {
            if page.0[at].fingerprint == item.fingerprint && page.0[at].place == item.place {
                return true;
            }
            at = behind(at);
        }
        false
    }

    #[inline]
    fn page(&self, row: u64, fingerprint: u64) -> Option<&Page> {
        let directory = &self.slab[self.row_number(row)?].directory;
        Some(self.pages.get(directory.page(key_of(fingerprint))?))
    }

    fn row_number(&self, row: u64) -> Option<usize> {
        if self.recent.0 == row {
            return Some(self.recent.1);
        }
        self.rows.get(&row).copied()
    }

    fn row_new(&mut self, row: u64) -> usize {
        let page = self.page_new(0, NONE);
        let directory = Directory::of_page(page, self.spares.pop().unwrap_or_default());
        self.directories_size += directory.memory_size();
        let state = Row {
            directory,
            page_first: page,
            page_last: page,
            item_count: 0,
            digest: 0,
        };
        let number = if let Some(free) = self.slab_free.pop() {
            self.slab[free] = state;
            free
        } else {
            self.slab.push(state);
            self.slab.len() - 1
        };
        self.rows.insert(row, number);
        number
    }

    /// Puts all pages of a row on the list of free ones: they are chained, so this is one step.
    fn drop_row(&mut self, number: usize) {
        let row = &mut self.slab[number];
        let directory = std::mem::take(&mut row.directory);
        self.directories_size -= directory.memory_size();
        self.states.get_mut(row.page_last).next = self.page_free;
        self.page_free = row.page_first;
        self.item_count -= row.item_count;
        if self.spares.len() < SPARE_COUNT_MAX {
            self.spares.push(directory.into_pages());
        }
        self.slab_free.push(number);
        self.recent = (NO_ROW, 0);
    }

    fn page_new(&mut self, depth: u8, next: u32) -> u32 {
        let state = PageState {
            next,
            item_count: 0,
            depth,
        };
        if self.page_free == NONE {
            let page = self.pages.push(Page::EMPTY);
            assert!(self.states.push(state) == page);
            return page;
        }
        let page = self.page_free;
        self.page_free = self.states.get(page).next;
        *self.pages.get_mut(page) = Page::EMPTY;
        *self.states.get_mut(page) = state;
        page
    }

    /// Splits a full page of a row and returns the one that `key` belongs to now.
    fn split(&mut self, number: usize, key: u32, page_old: u32) -> u32 {
        let depth = self.states.get(page_old).depth;
        assert!(depth < DEPTH_MAX, "a keyed hash spreads its fingerprints");
        let page_new = self.page_new(depth + 1, self.slab[number].page_first);
        self.slab[number].page_first = page_new;
        let page = std::mem::replace(self.pages.get_mut(page_old), Page::EMPTY);
        let mut moved_count = 0;
        for item in page.items() {
            if goes_to_new(key_of(item.fingerprint), u32::from(depth)) {
                self.pages.get_mut(page_new).insert(item);
                moved_count += 1;
            } else {
                self.pages.get_mut(page_old).insert(item);
            }
        }
        let state = self.states.get_mut(page_old);
        state.item_count -= moved_count;
        state.depth = depth + 1;
        self.states.get_mut(page_new).item_count = moved_count;
        let directory = &mut self.slab[number].directory;
        let size_before = directory.memory_size();
        directory.split(key, u32::from(depth), page_new);
        self.directories_size += directory.memory_size() - size_before;
        if goes_to_new(key, u32::from(depth)) {
            page_new
        } else {
            page_old
        }
    }
}

fn item_hash(item: IdItem) -> u128 {
    record_hash(&[item.row, item.fingerprint, item.place.0, 0])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::limits::{ID_MEMORY_SIZE_MAX, ID_ROW_MEMORY_SIZE_MAX};
    use crate::model::{LogNumber, Random};

    fn item(row: u64, fingerprint: u64, offset: u64) -> IdItem {
        let place = Place::new(LogNumber::new(1).unwrap(), offset);
        IdItem {
            row,
            fingerprint,
            place,
        }
    }

    #[test]
    fn holds_what_a_set_holds() {
        let mut random = Random::new(3);
        let mut ids = Ids::new();
        let mut naive = BTreeSet::new();
        let mut first = 100;
        for step in 0..60_000 {
            let row = first + random.below(20);
            let fingerprint = random.u64() | 1;
            let item = item(row, fingerprint, step);
            ids.insert(item);
            naive.insert(item);
            let hits: Vec<Place> = ids.find(row, fingerprint).iter().collect();
            assert_eq!(hits, [item.place]);
            assert!(ids.find(row + 1, fingerprint).is_empty());
            assert!(ids.find(row, fingerprint ^ 2).is_empty());
            if random.one_in(500) {
                first += random.below(3);
                // Not quite the whole of the next row: it stays.
                ids.forget(row_start_ms(first) + random.below(ID_ROW_MS));
                naive.retain(|item| first <= item.row);
            }
        }
        assert_eq!(ids.count(), to_u64(naive.len()));
        assert_eq!(ids.sorted(), naive.iter().copied().collect::<Vec<_>>());
        let digest = naive
            .iter()
            .fold(0_u128, |sum, item| sum.wrapping_add(item_hash(*item)));
        assert_eq!(ids.digest(), digest);
        let directories = ids.slab.iter().map(|row| row.directory.memory_size());
        assert_eq!(ids.directories_size, directories.sum::<u64>());
        let page_count = ids.pages.count();
        ids.forget(u64::MAX >> 1);
        assert_eq!((ids.count(), ids.digest()), (0, 0));
        for step in 0..naive.len() {
            ids.insert(item(7_000, random.u64() | 1, to_u64(step)));
        }
        assert!(
            ids.pages.count() <= page_count + page_count / 8,
            "pages are used again"
        );
    }

    #[test]
    fn an_id_takes_at_most_40_bytes_and_a_row_2_kib() {
        assert_eq!((ID_MEMORY_SIZE_MAX, ID_ROW_MEMORY_SIZE_MAX), (40, 2_048));
        let mut random = Random::new(8);
        let mut ids = Ids::new();
        let empty_size = ids.memory_size();
        for count in 1..=200_000_u64 {
            ids.insert(item(count % 7, random.u64() | 1, count));
            if count.is_multiple_of(1 << 10) {
                let size = ids.memory_size() - empty_size;
                // Chunks of pages and of their states are reserved whole.
                let size_max = count * ID_MEMORY_SIZE_MAX + 7 * ID_ROW_MEMORY_SIZE_MAX + (2 << 20);
                assert!(size <= size_max, "{count} ids take {size} bytes");
            }
        }
    }

    #[test]
    fn many_ids_of_one_slot_take_no_more_room() {
        // All of one user in one row: only the low 48 bits differ.
        let size_of = |mask: u64| {
            let mut random = Random::new(5);
            let mut ids = Ids::new();
            for step in 0..200_000 {
                let fingerprint = (random.u64() & mask) | (0x1234 << 48) | 1;
                ids.insert(item(7, fingerprint, step));
            }
            ids.memory_size()
        };
        let (one_slot, all_slots) = (size_of(u64::MAX >> 16), size_of(u64::MAX));
        assert!(one_slot <= all_slots + all_slots / 8);
        assert!(one_slot <= 200_000 * 40, "{one_slot}");
    }

    #[test]
    fn the_very_same_item_comes_once() {
        let mut ids = Ids::new();
        ids.insert_absent(item(1, 77, 1));
        ids.insert_absent(item(1, 77, 1));
        assert_eq!(ids.count(), 1);
        ids.insert_absent(item(1, 77, 2));
        ids.insert_absent(item(2, 77, 1));
        ids.insert_absent(item(1, 78, 1));
        assert_eq!(ids.count(), 4);
        assert_eq!(ids.sorted().len(), 4);
    }

    #[test]
    fn equal_fingerprints_are_all_found() {
        let mut ids = Ids::new();
        for offset in 0..5 {
            assert!(!ids.find(1, 77).is_overflow());
            ids.insert(item(1, 77, offset));
        }
        assert_eq!(ids.find(1, 77).len(), Candidates::COUNT_MAX);
        assert!(ids.find(1, 77).is_overflow());
    }

    #[test]
    fn the_horizon_takes_whole_rows_oldest_first() {
        let mut ids = Ids::new();
        for row in 10..20 {
            for offset in 0..row {
                ids.insert(item(row, offset + 1, offset));
            }
        }
        assert_eq!(ids.count(), 145);
        assert_eq!(ids.horizon_for(145, u64::MAX), 0);
        assert_eq!(ids.horizon_for(144, u64::MAX), row_start_ms(11));
        assert_eq!(ids.horizon_for(100, u64::MAX), row_start_ms(14));
        assert_eq!(ids.horizon_for(100, row_start_ms(13) + 5), row_start_ms(13));
        assert_eq!(ids.horizon_for(0, row_start_ms(10)), 0);
    }
}
