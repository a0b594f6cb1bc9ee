//! The directory of an extendible hash table: which page holds a key, and what a split changes.
//!
//! Pages split one at a time when they are full; a directory of `2^depth` page numbers, indexed
//! by the top bits of the key, is all that doubles. It holds no pages and no items.

use crate::model::to_u64;

/// Page numbers by the top `depth` bits of a 32-bit key.
#[derive(Debug, Default)]
pub(super) struct Directory {
    depth: u32,
    pages: Vec<u32>,
}

impl Directory {
    /// A directory of one page, in a vector that may have been used before.
    pub(super) fn of_page(page: u32, mut pages: Vec<u32>) -> Self {
        pages.clear();
        pages.push(page);
        Self { depth: 0, pages }
    }

    /// Gives the vector back for use in another directory.
    pub(super) fn into_pages(self) -> Vec<u32> {
        self.pages
    }

    /// The page of `key`; `None` for a directory without a page.
    pub(super) fn page(&self, key: u32) -> Option<u32> {
        self.pages.get(self.at(key)).copied()
    }

    /// Notes that `page`, which held `key` at `page_depth`, was split: keys whose next bit is set
    /// are in `page_new` now.
    pub(super) fn split(&mut self, key: u32, page_depth: u32, page_new: u32) {
        assert!(page_depth <= self.depth);
        if page_depth == self.depth {
            self.double();
        }
        let span = 1_usize << (self.depth - page_depth);
        let first = self.at(key) & !(span - 1);
        self.pages[first + span / 2..first + span].fill(page_new);
    }

    /// Bytes reserved.
    pub(super) fn memory_size(&self) -> u64 {
        to_u64(self.pages.capacity() * size_of::<u32>())
    }

    fn at(&self, key: u32) -> usize {
        // Shifting in 64 bits: a shift by 32 is what depth 0 needs.
        (u64::from(key) << self.depth >> 32) as usize
    }

    /// Doubles in place, from the back, so that each page number stands twice.
    fn double(&mut self) {
        let count = self.pages.len();
        self.pages.resize(count * 2, 0);
        for at in (0..count).rev() {
            let page = self.pages[at];
            self.pages[2 * at] = page;
            self.pages[2 * at + 1] = page;
        }
        self.depth += 1;
    }
}

/// Does `key` go to the new page when a page of `page_depth` splits?
pub(super) const fn goes_to_new(key: u32, page_depth: u32) -> bool {
    (key >> (31 - page_depth)) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_send_the_upper_half_to_the_new_page() {
        let mut directory = Directory::of_page(7, Vec::new());
        assert_eq!(directory.page(u32::MAX), Some(7));
        directory.split(0, 0, 8);
        assert_eq!(
            (directory.page(0), directory.page(1 << 31)),
            (Some(7), Some(8))
        );
        directory.split(1 << 31, 1, 9);
        let pages = [0, 1 << 30, 2 << 30, 3 << 30].map(|key| directory.page(key).unwrap());
        assert_eq!(pages, [7, 7, 8, 9]);
        directory.split(1 << 30, 1, 10);
        let pages = [0, 1 << 30, 2 << 30, 3 << 30].map(|key| directory.page(key).unwrap());
        assert_eq!(pages, [7, 10, 8, 9]);
        assert_eq!(Directory::default().page(0), None);
    }
}
