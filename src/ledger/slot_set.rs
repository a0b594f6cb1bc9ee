//! A set of slots: one bit each.

use crate::limits::SLOT_COUNT;
use crate::model::{Slot, SlotRange};

const WORD_COUNT: usize = SLOT_COUNT as usize / 64;
const _: () = assert!(SLOT_COUNT.is_multiple_of(64));

/// Some of all slots.
#[derive(Clone, Debug)]
pub(super) struct SlotSet {
    words: Box<[u64]>,
    count: u32,
}

impl SlotSet {
    pub(super) fn new() -> Self {
        Self {
            words: vec![0; WORD_COUNT].into_boxed_slice(),
            count: 0,
        }
    }

    pub(super) fn of(ranges: &[SlotRange]) -> Self {
        let mut set = Self::new();
        for range in ranges {
            set.insert(*range);
        }
        set
    }

    /// How many slots.
    pub(super) const fn count(&self) -> u32 {
        self.count
    }

    #[inline]
    pub(super) fn contains(&self, slot: Slot) -> bool {
        self.words[slot.index() >> 6] & bit_of(slot) != 0
    }

    pub(super) fn insert(&mut self, range: SlotRange) {
        for slot in slots_of(range) {
            let word = &mut self.words[slot.index() >> 6];
            self.count += u32::from(*word & bit_of(slot) == 0);
            *word |= bit_of(slot);
        }
    }

    pub(super) fn remove(&mut self, range: SlotRange) {
        for slot in slots_of(range) {
            let word = &mut self.words[slot.index() >> 6];
            self.count -= u32::from(*word & bit_of(slot) != 0);
            *word &= !bit_of(slot);
        }
    }

    /// All of them, rising.
    pub(super) fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        (0..=u16::MAX).map(Slot).filter(|slot| self.contains(*slot))
    }
}

const fn bit_of(slot: Slot) -> u64 {
    1 << (slot.0 & 63)
}

/// The slots of a range, rising.
pub(super) fn slots_of(range: SlotRange) -> impl Iterator<Item = Slot> {
    (range.first.0..=range.last.0).map(Slot)
}

/// Do the ranges rise, without a slot twice?
pub(super) fn are_rising(ranges: &[SlotRange]) -> bool {
    ranges.iter().all(|range| range.first <= range.last)
        && ranges.windows(2).all(|pair| pair[0].last < pair[1].first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u16, last: u16) -> SlotRange {
        SlotRange {
            first: Slot(first),
            last: Slot(last),
        }
    }

    #[test]
    fn holds_what_was_put_in() {
        let mut set = SlotSet::of(&[range(0, 70), range(65_535, 65_535), range(60, 80)]);
        assert_eq!(set.count(), 82);
        set.remove(range(3, 79));
        set.remove(range(3, 79));
        let left: Vec<u16> = set.iter().map(|slot| slot.0).collect();
        assert_eq!(left, [0, 1, 2, 80, 65_535]);
        assert_eq!(set.count(), 5);
        assert!(set.contains(Slot(80)) && !set.contains(Slot(79)));
    }

    #[test]
    fn ranges_rise() {
        assert!(are_rising(&[range(0, 0), range(1, 5), range(9, 9)]));
        assert!(!are_rising(&[range(0, 1), range(1, 5)]));
        assert!(!are_rising(&[range(5, 6), range(1, 2)]));
    }
}
