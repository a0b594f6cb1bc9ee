//! Makes operation ids and keeps the clock they carry right.
//!
//! An id's time decides whether a node takes it, so the session corrects its clock by what the
//! front says in its welcome and in every pong. Asks no machine for time or randomness.

use crate::clock::{Now, Tick};
use crate::limits::ID_AHEAD_MS_MAX;
use crate::model::{OperationId, Random};

/// Random bits of an id in `UUIDv7` layout.
const TAIL_BITS: u32 = 74;

/// Bits of the tail that lie below the variant.
const TAIL_LOW_BITS: u32 = 62;

/// Ids go on counting at the last one's time when the clock is set back, but not when that would
/// put them so far ahead of the nodes' that they might be refused.
const STEP_BACK_MS: u64 = ID_AHEAD_MS_MAX >> 1;

/// The corrected clock, and the last id that was made.
#[derive(Debug)]
pub(super) struct IdMaker {
    /// The server's time, and when it was heard.
    anchor: Option<(Tick, u64)>,
    last_ms: u64,
    last_tail: u128,
}

impl IdMaker {
    pub(super) const fn new() -> Self {
        Self {
            anchor: None,
            last_ms: 0,
            last_tail: 0,
        }
    }

    /// The server said that it is `server_ms` now, the way of its message added.
    pub(super) const fn correct(&mut self, now: Now, server_ms: u64) {
        self.anchor = Some((now.tick, server_ms));
    }

    /// Unix milliseconds as the server sees them; this machine's own before it was heard.
    ///
    /// Extended by the steady clock: a step of this machine's date changes nothing.
    pub(super) fn time_ms(&self, now: Now) -> u64 {
        self.anchor.map_or(now.wall_ms, |(tick, server_ms)| {
            server_ms.saturating_add(now.tick.since(tick) / 1_000_000)
        })
    }

    /// A new id, above all earlier ones unless the clock was set back far (see `STEP_BACK_MS`).
    ///
    /// The first id of a millisecond has 73 random bits; each next one counts up from it by a
    /// random step, so that ids stay in order and none repeats.
    pub(super) fn make(&mut self, now: Now, random: &mut Random) -> OperationId {
        let time_ms = self.time_ms(now);
        let stale = self.last_ms < time_ms;
        let ahead = time_ms.saturating_add(STEP_BACK_MS) < self.last_ms;
        if stale || ahead {
            self.last_ms = time_ms;
            self.last_tail = fresh_tail(random);
        } else {
            self.last_tail += 1 + u128::from(random.u64() >> 32);
            if self.last_tail >> TAIL_BITS != 0 {
                self.last_ms += 1;
                self.last_tail = fresh_tail(random);
            }
        }
        let high = self.last_tail >> TAIL_LOW_BITS;
        let low = self.last_tail & ((1 << TAIL_LOW_BITS) - 1);
        OperationId::from_parts(self.last_ms, (high << 64) | low)
    }
}

/// The top bit is clear: room to count.
fn fresh_tail(random: &mut Random) -> u128 {
    random.u128() >> (u128::BITS - TAIL_BITS + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(tick_ms: u64, wall_ms: u64) -> Now {
        Now {
            tick: Tick(tick_ms * 1_000_000),
            wall_ms,
        }
    }

    #[test]
    fn ids_rise_within_a_millisecond_and_across() {
        let mut maker = IdMaker::new();
        let mut random = Random::new(1);
        let mut last = maker.make(at(0, 1_000), &mut random);
        for step in 1..100_000_u64 {
            let id = maker.make(at(0, 1_000 + step / 1_000), &mut random);
            assert!(last < id, "step {step}");
            assert_eq!(id.time_ms(), 1_000 + step / 1_000);
            last = id;
        }
    }

    #[test]
    fn time_follows_the_server_and_the_steady_clock() {
        let mut maker = IdMaker::new();
        let mut random = Random::new(1);
        assert_eq!(maker.time_ms(at(5, 77)), 77);
        maker.correct(at(5, 77), 9_000);
        assert_eq!(maker.time_ms(at(8, 1_000_000)), 9_003);
        assert_eq!(maker.make(at(8, 0), &mut random).time_ms(), 9_003);
    }

    #[test]
    fn a_small_step_back_keeps_the_order_and_a_large_one_keeps_ids_acceptable() {
        let mut maker = IdMaker::new();
        let mut random = Random::new(1);
        maker.correct(at(0, 0), 100_000);
        let first = maker.make(at(0, 0), &mut random);
        maker.correct(at(0, 0), 99_000);
        let second = maker.make(at(0, 0), &mut random);
        assert!(first < second);
        assert_eq!(second.time_ms(), 100_000);
        maker.correct(at(0, 0), 10_000);
        assert_eq!(maker.make(at(0, 0), &mut random).time_ms(), 10_000);
    }

    #[test]
    fn a_tail_that_runs_over_takes_the_next_millisecond() {
        let mut maker = IdMaker::new();
        let mut random = Random::new(1);
        let first = maker.make(at(0, 50), &mut random);
        maker.last_tail = (1 << TAIL_BITS) - 1;
        let second = maker.make(at(0, 50), &mut random);
        assert!(first < second);
        assert_eq!(second.time_ms(), 51);
    }
}
