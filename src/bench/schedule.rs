//! When the requests of an open loop are due.

use crate::clock::Tick;

/// The times of one thread's requests: evenly spaced, whatever the answers do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    start: Tick,
    /// Operations per second over all threads.
    rate: u64,
    /// Operations of a request.
    batch_count: u64,
    thread: u64,
    thread_count: u64,
    /// Number of the next request of this thread.
    next: u64,
}

impl Schedule {
    /// Requests of `thread` out of `thread_count`, from `start` on. `rate` must not be 0.
    pub(super) fn new(
        start: Tick,
        rate: u64,
        batch_count: u32,
        thread: u32,
        thread_count: u32,
    ) -> Self {
        assert!(0 < rate && thread < thread_count);
        Self {
            start,
            rate,
            batch_count: u64::from(batch_count),
            thread: u64::from(thread),
            thread_count: u64::from(thread_count),
            next: 0,
        }
    }

    /// When the next request is due.
    ///
    /// From the start and the number each time: no rounding adds up.
    pub(super) fn due(&self) -> Tick {
        let number = self.next * self.thread_count + self.thread;
        let nanos = u128::from(number) * u128::from(self.batch_count) * 1_000_000_000;
        let nanos = nanos.div_euclid(u128::from(self.rate));
        Tick(self.start.0 + u64::try_from(nanos).unwrap_or(u64::MAX >> 1))
    }

    /// The next request is sent.
    pub(super) const fn advance(&mut self) {
        self.next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dues(mut schedule: Schedule, count: u32) -> Vec<u64> {
        let mut dues = Vec::new();
        for _ in 0..count {
            dues.push(schedule.due().0);
            schedule.advance();
        }
        dues
    }

    #[test]
    fn requests_are_evenly_spaced_from_the_start() {
        let schedule = Schedule::new(Tick(500), 1_000, 1, 0, 1);
        assert_eq!(dues(schedule, 3), [500, 1_000_500, 2_000_500]);
        // 10 operations a request: a tenth of the requests.
        let batches = Schedule::new(Tick(0), 1_000, 10, 0, 1);
        assert_eq!(dues(batches, 3), [0, 10_000_000, 20_000_000]);
    }

    #[test]
    fn threads_share_one_schedule() {
        let mut all: Vec<u64> = (0..3)
            .flat_map(|thread| dues(Schedule::new(Tick(0), 777, 1, thread, 3), 100))
            .collect();
        all.sort_unstable();
        assert_eq!(all, dues(Schedule::new(Tick(0), 777, 1, 0, 1), 300));
    }

    #[test]
    fn rounding_does_not_add_up() {
        // 3 requests a second: no whole number of nanoseconds. After a day still exact.
        let mut schedule = Schedule::new(Tick(0), 3, 1, 0, 1);
        schedule.next = 3 * 86_400;
        assert_eq!(schedule.due(), Tick(86_400 * 1_000_000_000));
    }
}
