//! Virtual time: the world's own, and what each host takes it for.
//!
//! The world counts nanoseconds. A host's steady clock may run too fast or too slow, and its date
//! may be wrong or jump; both are functions of the world's time, so nothing here can drift apart.

use crate::clock::{Now, Tick};

/// Nanoseconds since the beginning of the world.
pub(super) type At = u64;

/// Nanoseconds of a millisecond.
pub(super) const MS: u64 = 1_000_000;

/// Nanoseconds of a microsecond.
pub(super) const US: u64 = 1_000;

/// The true date at the beginning of the world, Unix ms.
pub(super) const EPOCH_MS: u64 = 1_700_000_000_000;

const MILLION: i128 = 1_000_000;

/// One host's clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostClock {
    anchor_at: At,
    anchor_tick: u64,
    /// By how many millionths the steady clock runs too fast.
    rate_ppm: i64,
    /// By how many milliseconds the date is wrong, beside what the rate adds.
    offset_ms: i64,
    /// What the date has gained or lost by the rate is forgotten at this much of it.
    drift_ns: i64,
}

impl HostClock {
    pub(super) const fn new() -> Self {
        Self {
            anchor_at: 0,
            anchor_tick: 0,
            rate_ppm: 0,
            offset_ms: 0,
            drift_ns: 0,
        }
    }

    /// Its steady clock.
    pub(super) fn tick(&self, at: At) -> u64 {
        let passed = i128::from(at - self.anchor_at);
        let own = passed * (MILLION + i128::from(self.rate_ppm));
        let own = u64::try_from(own.div_euclid(MILLION)).expect("rates are far below a million");
        self.anchor_tick + own
    }

    /// The first moment of the world at which the steady clock shows `tick` or more.
    pub(super) fn at_of(&self, tick: u64) -> At {
        let Some(own) = tick.checked_sub(self.anchor_tick) else {
            return self.anchor_at;
        };
        let rate = MILLION + i128::from(self.rate_ppm);
        let passed = (i128::from(own) * MILLION + rate - 1).div_euclid(rate);
        let at = i128::from(self.anchor_at) + passed;
        u64::try_from(at).unwrap_or(u64::MAX)
    }

    /// What it takes the date for, in Unix ms.
    pub(super) fn wall_ms(&self, at: At) -> u64 {
        let ns = i128::from(self.tick(at)) + i128::from(self.drift_ns);
        let ms = i128::from(EPOCH_MS) + ns.div_euclid(i128::from(MS)) + i128::from(self.offset_ms);
        u64::try_from(ms).unwrap_or(0)
    }

    /// Both clocks, for a process that was born at `born_tick` of the steady one.
    pub(super) fn now(&self, at: At, born_tick: u64) -> Now {
        Now {
            tick: Tick(self.tick(at) - born_tick),
            wall_ms: self.wall_ms(at),
        }
    }

    /// The date jumps.
    pub(super) const fn jump(&mut self, ms: i64) {
        self.offset_ms += ms;
    }

    /// From now on the steady clock runs by `ppm` millionths too fast.
    pub(super) fn set_rate(&mut self, at: At, ppm: i64) {
        self.anchor_tick = self.tick(at);
        self.anchor_at = at;
        self.rate_ppm = ppm;
    }

    /// The date is right from now on, and the steady clock runs as it should; `leap_ms` is by how
    /// much the true date is ahead of the world's time.
    pub(super) fn heal(&mut self, at: At, leap_ms: i64) {
        self.set_rate(at, 0);
        let ahead = i128::from(at) - i128::from(self.anchor_tick);
        self.drift_ns = i64::try_from(ahead).expect("rates are small");
        self.offset_ms = leap_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_rate_is_followed_both_ways() {
        let mut clock = HostClock::new();
        clock.set_rate(1_000, 50_000);
        for tick in [1_000, 1_001, 1_020, 2_000_000] {
            let at = clock.at_of(tick);
            assert!(tick <= clock.tick(at));
            assert!(at == 1_000 || clock.tick(at - 1) < tick);
        }
        clock.set_rate(500 * MS, -30_000);
        assert!(clock.tick(600 * MS) < clock.tick(500 * MS) + 100 * MS);
        clock.jump(-70_000);
        clock.heal(700 * MS, 0);
        assert_eq!(clock.wall_ms(800 * MS), EPOCH_MS + 800);
    }
}
