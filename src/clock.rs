//! The only place that asks the machine for the time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since an arbitrary start; never goes back. What timers and latencies use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

impl Tick {
    /// The tick `ms` milliseconds later.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    /// Nanoseconds from `earlier` to this; 0 if it is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Both clocks at one moment: the steady one, and what this machine believes the date to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Steady.
    pub tick: Tick,
    /// Unix milliseconds; may jump either way.
    pub wall_ms: u64,
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock whose ticks start now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// The present moment. Before 1970 the date counts as 0.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn now(&self) -> Now {
        let nanos = self.start.elapsed().as_nanos();
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            tick: Tick(u64::try_from(nanos).unwrap_or(u64::MAX)),
            wall_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Nanoseconds of processor time that the calling thread has used.
#[cfg(feature = "daemon")]
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(used.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(used.tv_nsec).unwrap_or(0);
    seconds * 1_000_000_000 + nanos
}
