//! From the hash of a key to the number of its line: an extendible hash table of 8-byte items.
//!
//! An item is 32 bits of the hash (the tag) and a number; the caller proves a hit by comparing
//! the key in its own line. Pages of 4 KiB split one at a time, so an insertion moves at most one
//! page of items however large the table is, and nothing is ever copied as a whole.

use super::bits::{high_half, low_half, spread};
use super::chunks::Chunks;
use super::directory::{Directory, goes_to_new};
use crate::model::to_u64;

/// Slots of a page: 4 KiB, eight to a cache line.
const PAGE_SLOT_COUNT: usize = 512;

/// Items at which a page splits: seven eighths, above which probing gets long.
const PAGE_ITEM_COUNT_MAX: u16 = 448;

/// Top bits of the tag that choose the partition. Each has a directory of its own, so that
/// doubling one copies a thousandth of what one directory for all would.
const PARTITION_BITS: u32 = 10;

/// Depth that a directory reaches only if the hash is broken: a page at this depth stands for
/// fewer than 300 of the most accounts a ledger may hold.
const DEPTH_MAX: u32 = 32 - PARTITION_BITS - 9;

#[derive(Clone, Debug)]
#[repr(C, align(64))]
struct Page([u64; PAGE_SLOT_COUNT]);

#[derive(Clone, Copy, Debug)]
struct PageState {
    item_count: u16,
    depth: u8,
}

/// Numbers by 32-bit tags. Several items may have the same tag.
#[derive(Debug)]
pub(super) struct Index {
    partitions: Vec<Directory>,
    /// Bytes of all directories, kept up to date: asked for far more often than it changes.
    directories_size: u64,
    pages: Chunks<Page, 6>,
    states: Chunks<PageState, 10>,
}

/// The tag of a 64-bit hash.
pub(super) const fn tag_of(hash: u64) -> u32 {
    spread(high_half(hash))
}

const fn item(tag: u32, number: u32) -> u64 {
    // One above the number, so that no item is 0, which marks a free slot.
    ((tag as u64) << 32) | (number as u64 + 1)
}

const fn number_of(item: u64) -> u32 {
    low_half(item) - 1
}

const fn home(tag: u32) -> usize {
    tag as usize & (PAGE_SLOT_COUNT - 1)
}

const fn behind(at: usize) -> usize {
    (at + 1) & (PAGE_SLOT_COUNT - 1)
}

impl Page {
    const EMPTY: Self = Self([0; PAGE_SLOT_COUNT]);

    fn insert(&mut self, item: u64) {
        let mut at = home(high_half(item));
        while self.0[at] != 0 {
            at = behind(at);
        }
        self.0[at] = item;
    }

    fn find(&self, item: u64) -> usize {
        let mut at = home(high_half(item));
        while self.0[at] != item {
            assert!(self.0[at] != 0, "the item is in the table");
            at = behind(at);
        }
        at
    }

    /// Frees a slot and closes the gap, so that no probe ends too early.
    fn remove(&mut self, at: usize) {
        let mut gap = at;
        let mut next = behind(gap);
        while self.0[next] != 0 {
            let distance_home = next.wrapping_sub(home(high_half(self.0[next])));
            let distance_gap = next.wrapping_sub(gap);
            let mask = PAGE_SLOT_COUNT - 1;
            if distance_gap & mask <= distance_home & mask {
                self.0[gap] = self.0[next];
                gap = next;
            }
            next = behind(next);
        }
        self.0[gap] = 0;
    }
}

impl Index {
    pub(super) fn new() -> Self {
        let mut partitions = Vec::new();
        partitions.resize_with(1 << PARTITION_BITS, Directory::default);
        Self {
            partitions,
            directories_size: 0,
            pages: Chunks::new(),
            states: Chunks::new(),
        }
    }

    /// The first number with `tag` for which `is_it` holds.
    #[inline]
    pub(super) fn find(&self, tag: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let page = self
            .pages
            .get(self.partition(tag).page(tag << PARTITION_BITS)?);
        let mut at = home(tag);
        loop {
            let item = page.0[at];
            if item == 0 {
                return None;
            }
            if high_half(item) == tag && is_it(number_of(item)) {
                return Some(number_of(item));
            }
            at = behind(at);
        }
    }

    /// Reads ahead where an item with this tag is or would be.
    #[inline]
    pub(super) fn touch(&self, tag: u32) -> u64 {
        let page = self.partition(tag).page(tag << PARTITION_BITS);
        page.map_or(0, |page| self.pages.get(page).0[home(tag)])
    }

    /// Adds an item.
    pub(super) fn insert(&mut self, tag: u32, number: u32) {
        let mut page = self.page_for(tag);
        while self.states.get(page).item_count == PAGE_ITEM_COUNT_MAX {
            page = self.split(tag, page);
        }
        self.pages.get_mut(page).insert(item(tag, number));
        self.states.get_mut(page).item_count += 1;
    }

    /// Removes an item that is there.
    pub(super) fn remove(&mut self, tag: u32, number: u32) {
        let page_number = self.page_for(tag);
        let page = self.pages.get_mut(page_number);
        let at = page.find(item(tag, number));
        page.remove(at);
        self.states.get_mut(page_number).item_count -= 1;
    }

    /// Gives an item that is there another number.
    pub(super) fn replace(&mut self, tag: u32, number_old: u32, number_new: u32) {
        let page_number = self.page_for(tag);
        let page = self.pages.get_mut(page_number);
        let at = page.find(item(tag, number_old));
        page.0[at] = item(tag, number_new);
    }

    /// Bytes reserved.
    pub(super) fn memory_size(&self) -> u64 {
        to_u64(self.partitions.capacity() * size_of::<Directory>())
            + self.directories_size
            + self.pages.memory_size()
            + self.states.memory_size()
    }

    fn partition(&self, tag: u32) -> &Directory {
        &self.partitions[(tag >> (32 - PARTITION_BITS)) as usize]
    }

    fn page_for(&mut self, tag: u32) -> u32 {
        if let Some(page) = self.partition(tag).page(tag << PARTITION_BITS) {
            return page;
        }
        let page = self.page_new(0);
        let directory = Directory::of_page(page, Vec::new());
        self.directories_size += directory.memory_size();
        self.partitions[(tag >> (32 - PARTITION_BITS)) as usize] = directory;
        page
    }

    fn page_new(&mut self, depth: u8) -> u32 {
        let page = self.pages.push(Page::EMPTY);
        assert!(
            self.states.push(PageState {
                item_count: 0,
                depth
            }) == page
        );
        page
    }

    /// Splits a full page and returns the one that `tag` belongs to now.
    fn split(&mut self, tag: u32, page_old: u32) -> u32 {
        let depth = self.states.get(page_old).depth;
        assert!(
            u32::from(depth) < DEPTH_MAX,
            "a keyed hash spreads its keys"
        );
        let page_new = self.page_new(depth + 1);
        let items = std::mem::replace(self.pages.get_mut(page_old), Page::EMPTY).0;
        let mut moved_count = 0;
        for item in items.into_iter().filter(|item| *item != 0) {
            let key = high_half(item) << PARTITION_BITS;
            if goes_to_new(key, u32::from(depth)) {
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
        let key = tag << PARTITION_BITS;
        let partition = &mut self.partitions[(tag >> (32 - PARTITION_BITS)) as usize];
        let size_before = partition.memory_size();
        partition.split(key, u32::from(depth), page_new);
        self.directories_size += partition.memory_size() - size_before;
        if goes_to_new(key, u32::from(depth)) {
            page_new
        } else {
            page_old
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::Random;

    #[test]
    fn finds_what_a_set_holds() {
        let mut random = Random::new(1);
        let mut index = Index::new();
        let mut naive = BTreeSet::new();
        // Few tags, so that pages fill, split and have equal tags.
        let tags: Vec<u32> = (0..50_000)
            .map(|_| tag_of(random.u64() & (0x3f_ffff << 36)))
            .collect();
        for step in 0..200_000_u32 {
            let tag = tags[usize::try_from(random.below(50_000)).unwrap()];
            let number = low_half(random.below(8));
            if naive.insert((tag, number)) {
                index.insert(tag, number);
            } else if random.one_in(2) {
                assert!(naive.remove(&(tag, number)));
                index.remove(tag, number);
            } else if naive.insert((tag, number + 8)) {
                assert!(naive.remove(&(tag, number)));
                index.replace(tag, number, number + 8);
            }
            if step % 16 == 0 {
                let tag = tags[usize::try_from(random.below(50_000)).unwrap()];
                for number in 0..16 {
                    let found = index.find(tag, |candidate| candidate == number).is_some();
                    assert_eq!(found, naive.contains(&(tag, number)));
                }
            }
        }
        assert!(50_000 < naive.len());
        let directories = index.partitions.iter().map(Directory::memory_size);
        assert_eq!(index.directories_size, directories.sum::<u64>());
    }
}
