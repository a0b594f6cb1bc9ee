//! Digests: one 128-bit sum per slot over a hash of each of its records, and one for all.
//!
//! A sum is kept up to date by taking the old record's hash out and adding the new one's, in any
//! order, so two replicas that hold the same records agree whatever way they came there.
//!
//! The hash of a record is NH (a sum of products of keyed words) behind a bijection that mixes
//! all 128 bits. NH alone would not do: it is linear across records. Two accounts that differ in
//! one word of a pair would, after five coins went from one to the other by mistake, have the
//! same sum of products as before. Behind the nonlinear mix no such cancelling is left.
//! The key is a published constant: a digest finds damage and divergence, it proves nothing
//! against somebody who may choose all balances.

use super::bits::{high_word, join, low_word, mix, stream};
use crate::limits::SLOT_COUNT;
use crate::model::Slot;

/// Seed of the key: the first 64 bits of the fraction of pi.
const KEY_SEED: u64 = 0x243f_6a88_85a3_08d3;

/// Words of the longest record that is hashed.
const WORD_COUNT_MAX: usize = 16;

const KEY: [u64; WORD_COUNT_MAX + 4] = {
    let mut key = [0; WORD_COUNT_MAX + 4];
    let mut at = 0;
    while at < key.len() {
        key[at] = stream(KEY_SEED, at as u64);
        at += 1;
    }
    key
};

/// Hash of a record of `COUNT` words; `COUNT` is even and at most 16. Word `i` goes with key
/// word `i` of the `splitmix64` stream of [`KEY_SEED`]; words 16 to 19 of it key the mix.
#[inline]
pub(super) const fn record_hash<const COUNT: usize>(words: &[u64; COUNT]) -> u128 {
    const { assert!(COUNT.is_multiple_of(2) && COUNT <= WORD_COUNT_MAX) };
    let mut sum = COUNT as u128;
    let mut at = 0;
    while at < COUNT {
        let left = words[at].wrapping_add(KEY[at]) as u128;
        let right = words[at + 1].wrapping_add(KEY[at + 1]) as u128;
        sum = sum.wrapping_add(left.wrapping_mul(right));
        at += 2;
    }
    scramble(sum)
}

/// A bijection of 128 bits: two rounds in which each half goes through `mix` into the other.
const fn scramble(wide: u128) -> u128 {
    let (mut low, mut high) = (low_word(wide), high_word(wide));
    low ^= mix(high ^ KEY[WORD_COUNT_MAX]);
    high = high.wrapping_add(mix(low.wrapping_add(KEY[WORD_COUNT_MAX + 1])));
    low = low.wrapping_add(mix(high ^ KEY[WORD_COUNT_MAX + 2]));
    high ^= mix(low.wrapping_add(KEY[WORD_COUNT_MAX + 3]));
    join(low, high)
}

/// The sums of all slots.
#[derive(Debug)]
pub(super) struct Digests {
    slots: Box<[u128]>,
    total: u128,
}

impl Digests {
    pub(super) fn new() -> Self {
        Self {
            slots: vec![0; SLOT_COUNT as usize].into_boxed_slice(),
            total: 0,
        }
    }

    /// Takes a record's hash out of its slot.
    #[inline]
    pub(super) fn subtract(&mut self, slot: Slot, hash: u128) {
        self.slots[slot.index()] = self.slots[slot.index()].wrapping_sub(hash);
        self.total = self.total.wrapping_sub(hash);
    }

    /// Adds a record's hash to its slot.
    #[inline]
    pub(super) fn add(&mut self, slot: Slot, hash: u128) {
        self.slots[slot.index()] = self.slots[slot.index()].wrapping_add(hash);
        self.total = self.total.wrapping_add(hash);
    }

    /// Nothing is left of a slot.
    pub(super) fn clear(&mut self, slot: Slot) {
        self.subtract(slot, self.slots[slot.index()]);
    }

    pub(super) fn slot(&self, slot: Slot) -> u128 {
        self.slots[slot.index()]
    }

    pub(super) const fn total(&self) -> u128 {
        self.total
    }

    pub(super) fn memory_size(&self) -> u64 {
        crate::model::to_u64(size_of_val(&*self.slots))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fixed() {
        assert_eq!(
            record_hash(&[0; 10]),
            0x20bb_1012_1cd4_50bf_6051_d08f_76f3_37da
        );
        assert_eq!(
            record_hash(&[1, 2, 3, 4]),
            0x4524_8aec_c76a_261f_5c4c_6570_d8d3_3a5f
        );
    }

    #[test]
    fn coins_on_the_wrong_account_are_seen() {
        // Equal but for one word: NH alone would give both pairs the same sum.
        let sum = |left: u64, right: u64| {
            let of = |word| record_hash(&[word, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
            of(left).wrapping_add(of(right))
        };
        assert_ne!(sum(10, 20), sum(5, 25));
        assert_eq!(sum(10, 20), sum(20, 10));
    }

    #[test]
    fn every_bit_of_a_record_counts() {
        let words = [7; 10];
        for bit in 0..640 {
            let mut other = words;
            other[bit / 64] ^= 1 << (bit % 64);
            let difference = (record_hash(&words) ^ record_hash(&other)).count_ones();
            assert!((32..96).contains(&difference), "bit {bit}: {difference}");
        }
    }
}
