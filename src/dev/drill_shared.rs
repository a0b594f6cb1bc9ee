//! What all connections of a drill share: how many changes there still are, what went by, and
//! which part of the drill it is.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};

use hdrhistogram::Histogram;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    acknowledged: AtomicU64,
    unknown: AtomicU64,
    /// Changes that may still be sent.
    budget: AtomicU64,
    /// A [`Phase`].
    phase: AtomicU8,
    /// The log whose users are hit, while it goes wrong; 0 = none alone.
    victim_log: AtomicU64,
    /// Opened once every connection has sent its share and the killed node is back.
    gate: Mutex<bool>,
    opened: Condvar,
}

impl Shared {
    pub(super) fn new(operation_count: u64) -> Self {
        Self {
            acknowledged: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            budget: AtomicU64::new(operation_count),
            phase: AtomicU8::new(Phase::Before as u8),
            victim_log: AtomicU64::new(0),
            gate: Mutex::new(false),
            opened: Condvar::new(),
        }
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    pub(super) fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    /// From here on it is this phase, and `victim_log` is hit.
    pub(super) fn phase(&self, phase: Phase, victim_log: u64) {
        self.victim_log.store(victim_log, Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(super) fn add_acknowledged(&self, count: u64) {
        self.acknowledged.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn add_unknown(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes up to `count` changes from the budget. While something goes wrong it has no end.
    pub(super) fn take(&self, count: u64) -> u64 {
        if self.phase.load(Ordering::Relaxed) == Phase::During as u8 {
            return count;
        }
        let taken = self
            .budget
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                Some(left.saturating_sub(count))
            });
        taken.unwrap_or(0).min(count)
    }

    /// Lets the connections read back.
    pub(super) fn go_on(&self) {
        *self
            .gate
            .lock()
            .expect("no thread panics while it holds the gate") = true;
        self.opened.notify_all();
    }

    pub(super) fn wait(&self) {
        let mut open = self
            .gate
            .lock()
            .expect("no thread panics while it holds the gate");
        while !*open {
            open = self
                .opened
                .wait(open)
                .expect("no thread panics while it holds the gate");
        }
    }
}

/// What of the drill it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Nothing went wrong yet.
    Before,
    /// Something goes wrong.
    During,
    /// It is over.
    After,
}

/// Latencies of requests in microseconds.
#[derive(Debug)]
pub(super) struct Latencies {
    pub(super) all: Histogram<u64>,
    /// Those that ended before anything went wrong.
    pub(super) before: Histogram<u64>,
    /// Those that ended while it did, of users who were not hit.
    pub(super) during: Histogram<u64>,
}

impl Latencies {
    pub(super) fn new() -> Self {
        let new = || Histogram::new(3).expect("3 digits are allowed");
        Self {
            all: new(),
            before: new(),
            during: new(),
        }
    }

    pub(super) fn add(&mut self, other: &Self) -> std::io::Result<()> {
        self.all.add(&other.all).map_err(std::io::Error::other)?;
        let before = self.before.add(&other.before);
        before.map_err(std::io::Error::other)?;
        let during = self.during.add(&other.during);
        during.map_err(std::io::Error::other)
    }

    pub(super) fn record(&mut self, micros: u64, group: usize, shared: &Shared) {
        let phase = shared.phase.load(Ordering::Relaxed);
        let victim = shared.victim_log.load(Ordering::Relaxed);
        let is_hit = group == 0 || crate::model::to_u64(group) == victim;
        let record = |histogram: &mut Histogram<u64>| {
            // It grows with what it is given, so this cannot fail.
            let recorded = histogram.record(micros);
            recorded.expect("the histogram resizes itself");
        };
        record(&mut self.all);
        if phase == Phase::Before as u8 {
            record(&mut self.before);
        } else if phase == Phase::During as u8 && !is_hit {
            record(&mut self.during);
        }
    }
}
