//! Log time: rises from entry to entry, and never runs more than a second ahead of the backup.

use crate::canary::{self, Bug};
use crate::clock::{Now, Tick};
use crate::limits;
use crate::model::LogTime;

const MS: u64 = 1_000_000;

/// What is known of the backup's clock.
#[derive(Clone, Copy, Debug)]
struct Reading {
    clock_ms: u64,
    at: Tick,
}

/// The source of a log's times.
#[derive(Debug, Default)]
pub(super) struct LogClock {
    reading: Option<Reading>,
}

impl LogClock {
    /// The backup told its clock. The newest word counts, also where it steps back: log time then
    /// stands still until it may go on.
    pub(super) const fn read(&mut self, clock_ms: u64, now: Now) {
        self.reading = Some(Reading {
            clock_ms,
            at: now.tick,
        });
    }

    /// The backup's clock, extended by this machine's ticks.
    fn backup_ns(&self, now: Now) -> Option<u64> {
        self.reading.map(|reading| {
            let told = reading.clock_ms.saturating_mul(MS);
            told.saturating_add(now.tick.since(reading.at))
        })
    }

    /// Log time of the next entry behind one of time `last`.
    pub(super) fn next(&self, last: LogTime, now: Now) -> LogTime {
        let wall = now.wall_ms.saturating_mul(MS);
        let bound = self.backup_ns(now).map_or(0, |ns| {
            ns.saturating_add(limits::LOG_TIME_AHEAD_MS_MAX * MS)
        });
        if canary::on(Bug::ClockUnbounded) {
            return LogTime((last.0 + 1).max(wall));
        }
        LogTime((last.0 + 1).max(wall.min(bound)))
    }

    /// By how many milliseconds the two clocks disagree, if that is too much to take changes.
    #[expect(clippy::integer_division, reason = "whole milliseconds, rounded down")]
    pub(super) fn skew_ms(&self, now: Now) -> Option<u64> {
        let backup_ms = self.backup_ns(now)? / MS;
        let skew = backup_ms.abs_diff(now.wall_ms);
        (limits::CLOCK_SKEW_MS_MAX < skew).then_some(skew)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(tick_ms: u64, wall_ms: u64) -> Now {
        Now {
            tick: Tick(tick_ms * MS),
            wall_ms,
        }
    }

    #[test]
    fn log_time_never_goes_back_and_stays_near_the_backup() {
        let mut clock = LogClock::default();
        clock.read(100_000, at(0, 100_000));
        // Wall clock within bounds: it is taken.
        assert_eq!(
            clock.next(LogTime(5), at(10, 100_010)),
            LogTime(100_010 * MS)
        );
        // It runs ahead: one second above the backup's, which goes on with the ticks.
        assert_eq!(
            clock.next(LogTime(5), at(10, 109_000)),
            LogTime(101_010 * MS)
        );
        // It steps back, or the backup's does: time stands still.
        let last = LogTime(200_000 * MS);
        assert_eq!(clock.next(last, at(10, 50_000)), LogTime(last.0 + 1));
        clock.read(90_000, at(20, 100_020));
        assert_eq!(clock.next(last, at(30, 100_030)), LogTime(last.0 + 1));
        // Without a word of the backup it stands still too.
        assert_eq!(LogClock::default().next(LogTime(7), at(1, 9)), LogTime(8));
    }

    #[test]
    fn five_seconds_are_too_much() {
        let mut clock = LogClock::default();
        assert_eq!(clock.skew_ms(at(0, 9)), None);
        clock.read(100_000, at(0, 100_000));
        assert_eq!(clock.skew_ms(at(1_000, 106_000)), None);
        assert_eq!(clock.skew_ms(at(1_000, 106_001)), Some(5_001));
        assert_eq!(clock.skew_ms(at(1_000, 95_999)), Some(5_001));
    }
}
