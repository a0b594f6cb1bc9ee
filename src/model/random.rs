//! A seeded generator whose stream is the same in every version: a printed seed must replay.

use rand_core::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// Randomness as an argument. Not for secrets.
#[derive(Clone, Debug)]
pub struct Random(Xoshiro256PlusPlus);

impl Random {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// 64 uniform bits.
    pub fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// 128 uniform bits.
    pub fn u128(&mut self) -> u128 {
        (u128::from(self.u64()) << 64) | u128::from(self.u64())
    }

    /// Uniform below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(0 < bound);
        ((u128::from(self.u64()) * u128::from(bound)) >> 64) as u64
    }

    /// True once in `odds` on average; `odds` must not be 0.
    pub fn one_in(&mut self, odds: u64) -> bool {
        self.below(odds) == 0
    }
}
