//! One timer for each batch, on a wheel of milliseconds.
//!
//! A front sets and clears a timer for every frame of every client; on a wheel both take a few
//! stores and no allocation. It knows no clock, and only times within [`SPAN_MS`] of the last
//! `pop`: deadlines and retries, not days.

use crate::clock::Tick;
use crate::limits::DEADLINE_MS_MAX;
use crate::model::to_usize;

/// How far ahead a timer may lie.
const SPAN_MS: u64 = 16_384;
const _: () = assert!(DEADLINE_MS_MAX as u64 + 1_000 < SPAN_MS);
const _: () = assert!(SPAN_MS.is_multiple_of(64));

const NS_PER_MS: u64 = 1_000_000;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Timer {
    due_ms: Option<u64>,
    previous: u32,
    next: u32,
}

/// Timers by small numbers.
#[derive(Debug)]
pub(super) struct Wheel {
    heads: Vec<u32>,
    occupied: Vec<u64>,
    timers: Vec<Timer>,
    /// Everything due before this was taken out.
    cursor_ms: u64,
    count: u32,
}

impl Default for Wheel {
    fn default() -> Self {
        Self {
            heads: vec![NONE; to_usize(SPAN_MS)],
            occupied: vec![0; to_usize(SPAN_MS / 64)],
            timers: Vec::new(),
            cursor_ms: 0,
            count: 0,
        }
    }
}

impl Wheel {
    /// Sets timer `id` to `at`, rounded up to a millisecond. What it was set to is forgotten.
    pub(super) fn set(&mut self, id: u32, at: Tick) {
        self.clear(id);
        let index = to_usize(u64::from(id));
        if self.timers.len() <= index {
            let unset = Timer {
                due_ms: None,
                previous: NONE,
                next: NONE,
            };
            self.timers.resize(index + 1, unset);
        }
        let due_ms = at.0.div_ceil(NS_PER_MS).max(self.cursor_ms);
        let bucket = to_usize(due_ms % SPAN_MS);
        let next = self.heads[bucket];
        if next != NONE {
            self.timer(next).previous = id;
        }
        self.heads[bucket] = id;
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
        self.timers[index] = Timer {
            due_ms: Some(due_ms),
            previous: NONE,
            next,
        };
        self.count += 1;
    }

    /// Is timer `id` set?
    pub(super) fn is_set(&self, id: u32) -> bool {
        self.timers
            .get(to_usize(u64::from(id)))
            .is_some_and(|timer| timer.due_ms.is_some())
    }

    /// Clears timer `id`, if it is set.
    pub(super) fn clear(&mut self, id: u32) {
        let Some(timer) = self.timers.get_mut(to_usize(u64::from(id))) else {
            return;
        };
        let Some(due_ms) = timer.due_ms.take() else {
            return;
        };
        let (previous, next) = (timer.previous, timer.next);
        let bucket = to_usize(due_ms % SPAN_MS);
        if next != NONE {
            self.timer(next).previous = previous;
        }
        if previous == NONE {
            self.heads[bucket] = next;
            if next == NONE {
                self.occupied[bucket / 64] &= !(1 << (bucket % 64));
            }
        } else {
            self.timer(previous).next = next;
        }
        self.count -= 1;
    }

    /// Clears and returns a timer that is due.
    pub(super) fn pop(&mut self, now: Tick) -> Option<u32> {
        let now_ms = now.0.checked_div(NS_PER_MS).unwrap_or_default();
        // After a pause of the process one round sees every timer; more would see none.
        self.cursor_ms = self.cursor_ms.max(now_ms.saturating_sub(SPAN_MS));
        while self.cursor_ms <= now_ms {
            if self.count == 0 {
                self.cursor_ms = now_ms + 1;
                return None;
            }
            let mut id = self.heads[to_usize(self.cursor_ms % SPAN_MS)];
            while id != NONE {
                let timer = *self.timer(id);
                if timer.due_ms.is_some_and(|due_ms| due_ms <= now_ms) {
                    self.clear(id);
                    return Some(id);
                }
                id = timer.next;
            }
            self.cursor_ms += 1;
        }
        None
    }

    /// When the next timer is due. Exact once `pop` has returned `None` in this turn.
    pub(super) fn next(&self) -> Option<Tick> {
        if self.count == 0 {
            return None;
        }
        let mut distance = 0;
        while distance < SPAN_MS {
            let bucket = (self.cursor_ms + distance) % SPAN_MS;
            let word = self.occupied[to_usize(bucket / 64)] >> (bucket % 64);
            if word != 0 {
                let found = distance + u64::from(word.trailing_zeros());
                return Some(Tick(
                    self.cursor_ms
                        .saturating_add(found)
                        .saturating_mul(NS_PER_MS),
                ));
            }
            distance += 64 - bucket % 64;
        }
        unreachable!("a timer that is set has its bit");
    }

    fn timer(&mut self, id: u32) -> &mut Timer {
        &mut self.timers[to_usize(u64::from(id))]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::Random;

    /// The same by a sorted map.
    #[derive(Default)]
    struct Naive(BTreeMap<u32, u64>);

    impl Naive {
        fn due(&self, now_ms: u64) -> Vec<u32> {
            let due = self.0.iter().filter(|(_, due_ms)| **due_ms <= now_ms);
            due.map(|(id, _)| *id).collect()
        }
    }

    #[test]
    fn wheel_and_sorted_map_agree() {
        for seed in 0..20 {
            let mut random = Random::new(seed);
            let mut wheel = Wheel::default();
            let mut naive = Naive::default();
            let mut now_ms = 1 + random.below(100_000);
            assert_eq!(wheel.pop(Tick(now_ms * NS_PER_MS)), None);
            for _ in 0..2_000 {
                match random.below(4) {
                    0 | 1 => {
                        let id = u32::try_from(random.below(50)).unwrap();
                        let due_ms = now_ms + 1 + random.below(u64::from(DEADLINE_MS_MAX));
                        wheel.set(id, Tick(due_ms * NS_PER_MS - random.below(NS_PER_MS)));
                        naive.0.insert(id, due_ms);
                    }
                    2 => {
                        let id = u32::try_from(random.below(50)).unwrap();
                        wheel.clear(id);
                        naive.0.remove(&id);
                    }
                    _ => {
                        let step_ms = if random.one_in(50) { 100_000 } else { 40 };
                        now_ms += random.below(step_ms);
                    }
                }
                let mut popped = Vec::new();
                while let Some(id) = wheel.pop(Tick(now_ms * NS_PER_MS + 999_999)) {
                    popped.push(id);
                }
                popped.sort_unstable();
                assert_eq!(popped, naive.due(now_ms));
                naive.0.retain(|_, due_ms| now_ms < *due_ms);
                let next = naive.0.values().min().map(|due_ms| due_ms * NS_PER_MS);
                assert_eq!(wheel.next(), next.map(Tick), "seed {seed} at {now_ms}");
            }
        }
    }

    #[test]
    fn a_timer_in_the_past_fires_at_once() {
        let mut wheel = Wheel::default();
        assert_eq!(wheel.pop(Tick(7 * NS_PER_MS)), None);
        wheel.set(0, Tick(3 * NS_PER_MS));
        assert!(wheel.is_set(0));
        assert_eq!(wheel.next(), Some(Tick(8 * NS_PER_MS)));
        assert_eq!(wheel.pop(Tick(8 * NS_PER_MS)), Some(0));
        assert!(!wheel.is_set(0));
    }
}
