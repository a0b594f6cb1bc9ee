//! Small pure pieces that several tables share: cutting words, mixing bits, spreading tags.
//!
//! Nothing here is keyed; what must not be aimed at from outside is keyed by its caller.

/// The low half of a word.
#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
pub(super) const fn low_half(word: u64) -> u32 {
    word as u32
}

/// The high half of a word.
pub(super) const fn high_half(word: u64) -> u32 {
    low_half(word >> 32)
}

/// The low word of a double word.
#[expect(clippy::cast_possible_truncation, reason = "the low word is meant")]
pub(super) const fn low_word(wide: u128) -> u64 {
    wide as u64
}

/// The high word of a double word.
pub(super) const fn high_word(wide: u128) -> u64 {
    low_word(wide >> 64)
}

/// Two words as one, `high` on top.
pub(super) const fn join(low: u64, high: u64) -> u128 {
    ((high as u128) << 64) | low as u128
}

/// The finaliser of `splitmix64`: a bijection in which every input bit reaches every output bit.
pub(super) const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Word `index` of the `splitmix64` stream of `seed`.
pub(super) const fn stream(seed: u64, index: u64) -> u64 {
    mix(seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// Spreads uniform tags so that the density at the low end is twice that at the high end.
///
/// Pages that are split when they are full would, under a uniform hash, all be full at the same
/// time: the table would swing between half and wholly used, and all splits would come at once.
/// With a density that falls by a factor of two over the range, at any time some pages are
/// freshly split and others are about to be, so the use of memory is even at every size.
pub(super) const fn spread(tag: u32) -> u32 {
    let wide = tag as u64;
    #[expect(
        clippy::integer_division,
        reason = "rounding down keeps the order of tags"
    )]
    low_half((2 * wide + ((wide * wide) >> 32)) / 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_keeps_order_and_range() {
        assert_eq!(spread(0), 0);
        assert!(u32::MAX - 2 <= spread(u32::MAX));
        let mut last = 0;
        for tag in (0..u32::MAX).step_by(99_991) {
            assert!(last <= spread(tag));
            last = spread(tag);
        }
        // The first half of the range gets 58 % of the tags, the second 42 %.
        let half = (0..1_000_u32)
            .filter(|step| spread(step * 4_294_967) < 1 << 31)
            .count();
        assert!((576..588).contains(&half), "{half}");
    }
}
