//! What is measured: latencies, intervals, counts.

use hdrhistogram::Histogram;

use super::numbers::per_second;
use super::options::Pace;
use crate::clock::Tick;
use crate::model::{CodeClass, ResultCode};

/// Latencies above count as this, in nanoseconds: far above any deadline.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Numbers of result codes end below.
const CODE_COUNT: usize = 128;

/// A histogram of nanoseconds with three digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub(super) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3);
        Self(histogram.expect("the bounds are constants that it allows"))
    }

    pub(super) fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos);
    }

    pub(super) fn add(&mut self, other: &Self) {
        let added = self.0.add(&other.0);
        added.expect("all histograms here have the same bounds");
    }

    /// The latency that `percentile` percent of all did not exceed, in nanoseconds.
    #[must_use]
    pub fn at(&self, percentile: f64) -> u64 {
        self.0.value_at_percentile(percentile)
    }

    /// The largest, in nanoseconds.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.0.max()
    }

    /// The mean, in nanoseconds.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.0.mean()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// None at all?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) const fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }
}

/// How often each result code came.
#[derive(Clone, Debug)]
pub(super) struct Codes([u64; CODE_COUNT]);

impl Codes {
    pub(super) const fn new() -> Self {
        Self([0; CODE_COUNT])
    }

    pub(super) const fn count(&mut self, code: ResultCode) {
        self.0[code as usize] += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum += count;
        }
    }

    /// Codes that came, with their counts.
    pub(super) fn list(&self) -> impl Iterator<Item = (ResultCode, u64)> {
        ResultCode::ALL
            .iter()
            .map(|code| (*code, self.0[*code as usize]))
            .filter(|(_, count)| 0 < *count)
    }

    /// How many of a class.
    pub(super) fn of(&self, class: CodeClass) -> u64 {
        let listed = self.list().filter(|(code, _)| code.class() == class);
        listed.map(|(_, count)| count).sum()
    }
}

/// Whether an interval counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Warmup,
    Measured,
}

/// What one thread did in one interval.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// Number of the interval, the same on all threads.
    pub(super) index: usize,
    pub(super) stage: Stage,
    pub(super) from: Tick,
    pub(super) to: Tick,
    pub(super) figures: Figures,
}

/// Everything that is counted over some time.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    /// From the time at which a request was due to its last answer.
    pub(super) latency: Latencies,
    /// From the time at which a request was sent to its last answer; empty in a closed loop.
    pub(super) service: Latencies,
    /// From the time at which a request was due to its sending; empty in a closed loop.
    pub(super) lag: Latencies,
    pub(super) operation_count: u64,
    pub(super) codes: Codes,
}

impl Figures {
    pub(super) fn new() -> Self {
        Self {
            latency: Latencies::new(),
            service: Latencies::new(),
            lag: Latencies::new(),
            operation_count: 0,
            codes: Codes::new(),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency);
        self.service.add(&other.service);
        self.lag.add(&other.lag);
        self.operation_count += other.operation_count;
        self.codes.add(&other.codes);
    }

    /// Answers that nobody wants under load: not now, unknown, malformed, refused by id.
    pub(super) fn error_count(&self) -> u64 {
        let classes = [
            CodeClass::NotNow,
            CodeClass::Unknown,
            CodeClass::Malformed,
            CodeClass::Id,
        ];
        classes.iter().map(|class| self.codes.of(*class)).sum()
    }
}

/// One interval of all threads, for the live line and the plots.
#[derive(Clone, Copy, Debug)]
pub struct Interval {
    /// Does it not count?
    pub is_warmup: bool,
    /// Nanoseconds from the start of the load to its beginning.
    pub from_ns: u64,
    /// Nanoseconds from the start of the load to its end.
    pub to_ns: u64,
    /// Operations that were answered.
    pub operation_count: u64,
    /// Of them, those answered not-now, unknown or malformed.
    pub error_count: u64,
    /// Half of all requests took no longer, in nanoseconds.
    pub p50_ns: u64,
    /// 99 % of all requests took no longer, in nanoseconds.
    pub p99_ns: u64,
    /// 99.9 % of all requests took no longer, in nanoseconds.
    pub p999_ns: u64,
    /// The longest, in nanoseconds.
    pub max_ns: u64,
    /// 99 % of all requests were sent no later than this behind their time, in nanoseconds.
    pub lag_p99_ns: u64,
}

impl Interval {
    pub(super) fn of(part: &Part, start: Tick) -> Self {
        let latency = &part.figures.latency;
        Self {
            is_warmup: part.stage == Stage::Warmup,
            from_ns: part.from.since(start),
            to_ns: part.to.since(start),
            operation_count: part.figures.operation_count,
            error_count: part.figures.error_count(),
            p50_ns: latency.at(50.0),
            p99_ns: latency.at(99.0),
            p999_ns: latency.at(99.9),
            max_ns: latency.max(),
            lag_p99_ns: part.figures.lag.at(99.0),
        }
    }

    /// Operations per second.
    #[must_use]
    pub fn rate(&self) -> u64 {
        per_second(self.operation_count, self.to_ns - self.from_ns)
    }

    #[cfg(test)]
    pub(super) const fn empty() -> Self {
        Self {
            is_warmup: false,
            from_ns: 0,
            to_ns: 1,
            operation_count: 0,
            error_count: 0,
            p50_ns: 0,
            p99_ns: 0,
            p999_ns: 0,
            max_ns: 0,
            lag_p99_ns: 0,
        }
    }
}

/// Puts the parts of all threads together, interval by interval.
#[derive(Debug)]
pub(super) struct Merger {
    thread_count: usize,
    /// Intervals that some threads have told, from number `first` on.
    open: std::collections::VecDeque<(usize, Part)>,
    first: usize,
}

impl Merger {
    pub(super) const fn new(thread_count: usize) -> Self {
        Self {
            thread_count,
            open: std::collections::VecDeque::new(),
            first: 0,
        }
    }

    /// Takes a part; returns it once it is whole. Threads tell their parts in order.
    pub(super) fn add(&mut self, part: Part) -> Option<Part> {
        let place = part.index - self.first;
        if let Some((count, sum)) = self.open.get_mut(place) {
            *count += 1;
            sum.to = sum.to.max(part.to);
            sum.figures.add(&part.figures);
        } else {
            assert!(place == self.open.len(), "a thread told its parts in order");
            self.open.push_back((1, part));
        }
        let (count, _) = self.open.front()?;
        if *count < self.thread_count {
            return None;
        }
        self.first += 1;
        self.open.pop_front().map(|(_, part)| part)
    }

    /// What is left when all threads have ended: the last intervals of threads that went on
    /// longer than others.
    pub(super) fn rest(self) -> impl Iterator<Item = Part> {
        self.open.into_iter().map(|(_, part)| part)
    }
}

/// What a load came to, its warm-up left out.
#[derive(Clone, Debug)]
pub struct Measured {
    pub(super) figures: Figures,
    /// From the first request that counts to the last answer, in nanoseconds.
    pub elapsed_ns: u64,
    /// All intervals, the warm-up's too.
    pub intervals: Vec<Interval>,
    /// CPU of the busiest thread of the client while it counted, as a share of its time.
    pub thread_cpu_max: f64,
    /// CPU of all threads of the client while it counted, in nanoseconds.
    pub cpu_ns: u64,
    /// Requests that were due but could not be sent before the end.
    pub unsent_count: u64,
    /// Connections that were lost under way.
    pub loss_count: u64,
    /// When it began, in Unix milliseconds.
    pub began_ms: u64,
    /// Seconds of CPU of the whole machine while it counted: busy, and in all.
    pub machine_cpu: Option<(f64, f64)>,
}

impl Measured {
    /// Operations per second.
    #[must_use]
    pub fn rate(&self) -> u64 {
        per_second(self.figures.operation_count, self.elapsed_ns)
    }

    /// Latencies as the pace defines them.
    #[must_use]
    pub const fn latency(&self) -> &Latencies {
        &self.figures.latency
    }

    /// How late requests were sent.
    #[must_use]
    pub const fn lag(&self) -> &Latencies {
        &self.figures.lag
    }

    /// Operations that were answered not-now, unknown, malformed or refused by their id.
    #[must_use]
    pub fn error_count(&self) -> u64 {
        self.figures.error_count()
    }
}

/// Counts what one thread sees and cuts it into intervals.
#[derive(Debug)]
pub(super) struct Recorder {
    pace: Pace,
    measure_from: Tick,
    interval_ns: u64,
    index: usize,
    current: Figures,
    from: Tick,
    next: Tick,
    last: Tick,
}

impl Recorder {
    pub(super) fn new(pace: Pace, start: Tick, warmup_ms: u64, interval_ms: u64) -> Self {
        let measure_from = start.plus_ms(warmup_ms);
        let mut recorder = Self {
            pace,
            measure_from,
            interval_ns: interval_ms * 1_000_000,
            index: 0,
            current: Figures::new(),
            from: start,
            next: start,
            last: start,
        };
        recorder.next = recorder.end_of(start);
        recorder
    }

    /// Intervals begin anew where measuring begins.
    fn end_of(&self, from: Tick) -> Tick {
        let end = Tick(from.0 + self.interval_ns);
        if from < self.measure_from {
            end.min(self.measure_from)
        } else {
            end
        }
    }

    pub(super) const fn measure_from(&self) -> Tick {
        self.measure_from
    }

    /// Whether what was due at `due` is to be counted in the interval that is open.
    fn counts(&self, due: Tick) -> bool {
        (self.from < self.measure_from) == (due < self.measure_from)
    }

    pub(super) fn answered(&mut self, due: Tick, code: ResultCode) {
        if self.counts(due) {
            self.current.codes.count(code);
        }
    }

    pub(super) fn completed(&mut self, due: Tick, sent: Tick, at: Tick, count: u32) {
        if self.counts(due) {
            self.last = self.last.max(at);
            self.current.operation_count += u64::from(count);
            self.current.latency.record(at.since(due).max(1));
            // In a closed loop a request is due when it is sent: there is nothing more to know.
            if let Pace::Open(_) = self.pace {
                self.current.service.record(at.since(sent).max(1));
                self.current.lag.record(sent.since(due));
            }
        }
    }

    /// When the present interval is over.
    pub(super) const fn deadline(&self) -> Tick {
        self.next
    }

    /// The present interval, once it is over. To be called until there is none.
    pub(super) fn cut(&mut self, now: Tick) -> Option<Part> {
        (self.next <= now).then(|| self.flush(self.next))
    }

    /// The rest, at the end: up to the last answer.
    pub(super) fn finish(&mut self) -> Part {
        let to = self.last.max(Tick(self.from.0 + 1));
        self.flush(to)
    }

    /// When the last request that counts was answered.
    pub(super) const fn last(&self) -> Tick {
        self.last
    }

    fn flush(&mut self, to: Tick) -> Part {
        let part = Part {
            index: self.index,
            stage: if self.from < self.measure_from {
                Stage::Warmup
            } else {
                Stage::Measured
            },
            from: self.from,
            to,
            figures: std::mem::replace(&mut self.current, Figures::new()),
        };
        self.index += 1;
        self.from = to;
        self.next = self.end_of(to);
        part
    }
}

/// The spectrum of latencies: for each value that occurred, which share of all was no longer.
pub(super) fn spectrum(latency: &Latencies) -> Vec<(f64, u64)> {
    let steps = latency.histogram().iter_quantiles(4);
    let mut points: Vec<(f64, u64)> = steps
        .map(|step| (step.quantile_iterated_to(), step.value_iterated_to()))
        .collect();
    points.dedup_by(|b, a| a == b);
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn latency_counts_from_the_due_time() {
        let mut recorder = Recorder::new(Pace::Open(1), Tick(0), 0, 1_000);
        // Due at 1 ms, sent 9 ms late, answered 2 ms after that.
        recorder.completed(Tick(MS), Tick(10 * MS), Tick(12 * MS), 5);
        let figures = recorder.finish().figures;
        let near = |nanos: u64, ms: u64| nanos.abs_diff(ms * MS) <= ms * MS / 1_000;
        assert!(near(figures.latency.max(), 11), "{}", figures.latency.max());
        assert!(near(figures.service.max(), 2));
        assert!(near(figures.lag.max(), 9));
        assert_eq!((figures.operation_count, figures.latency.len()), (5, 1));
    }

    #[test]
    fn the_warm_up_is_kept_apart() {
        let mut recorder = Recorder::new(Pace::Closed, Tick(0), 1_500, 1_000);
        let mut parts = Vec::new();
        for ms in (0..4_000).step_by(10) {
            parts.extend(std::iter::from_fn(|| recorder.cut(Tick(ms * MS))));
            let due = Tick(ms * MS);
            recorder.completed(due, due, Tick((ms + 5) * MS), 1);
        }
        parts.push(recorder.finish());
        let shape: Vec<_> = parts
            .iter()
            .map(|part| (part.stage, part.from.0 / MS, part.to.0 / MS))
            .collect();
        assert_eq!(
            shape,
            [
                (Stage::Warmup, 0, 1_000),
                (Stage::Warmup, 1_000, 1_500),
                (Stage::Measured, 1_500, 2_500),
                (Stage::Measured, 2_500, 3_500),
                (Stage::Measured, 3_500, 3_995),
            ]
        );
        let measured = parts.iter().filter(|part| part.stage == Stage::Measured);
        let count: u64 = measured.map(|part| part.figures.operation_count).sum();
        assert_eq!(count, 250);
    }

    #[test]
    fn parts_of_all_threads_make_one_interval() {
        let part = |index, count| {
            let mut figures = Figures::new();
            figures.operation_count = count;
            Part {
                index,
                stage: Stage::Measured,
                from: Tick(0),
                to: Tick(1),
                figures,
            }
        };
        let mut merger = Merger::new(2);
        assert!(merger.add(part(0, 1)).is_none());
        assert!(merger.add(part(1, 10)).is_none());
        let whole = merger.add(part(0, 2)).unwrap();
        assert_eq!((whole.index, whole.figures.operation_count), (0, 3));
        let rest: Vec<_> = merger.rest().map(|part| part.index).collect();
        assert_eq!(rest, [1]);
    }

    #[test]
    fn the_spectrum_rises_to_the_maximum() {
        let mut latency = Latencies::new();
        for nanos in 1..=10_000 {
            latency.record(nanos * 1_000);
        }
        let spectrum = spectrum(&latency);
        assert!(spectrum.windows(2).all(|pair| pair[0].1 <= pair[1].1));
        assert_eq!(spectrum.last().unwrap().1, latency.max());
    }
}
