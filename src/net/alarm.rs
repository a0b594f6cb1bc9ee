//! A timer of nanoseconds for loops that must not be late.
//!
//! The poll's own timeout has whole milliseconds, rounded up: right for daemons, whose deadlines
//! are far away, and far too coarse for a load generator that sends by a schedule.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// Wakes the poll that it is registered with.
#[derive(Debug)]
pub(super) struct Alarm(OwnedFd);

impl Alarm {
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self(timer))
    }

    /// Rings once after `delay`, which must not be zero, instead of whatever was set before.
    pub(super) fn set(&self, delay: Duration) -> io::Result<()> {
        let it_value = Timespec {
            tv_sec: i64::try_from(delay.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(delay.subsec_nanos()),
        };
        let never_again = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // Setting it also takes back the last ring, so it never has to be read.
        timerfd_settime(
            &self.0,
            TimerfdTimerFlags::empty(),
            &Itimerspec {
                it_interval: never_again,
                it_value,
            },
        )?;
        Ok(())
    }
}
