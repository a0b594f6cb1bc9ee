//! Phases and threads: each phase runs one driver per thread and ends when all have ended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use super::accounts::{Diary, Known, Sample, Unresolved};
use super::driver::{Driver, DriverOptions};
use super::machine::machine_cpu_seconds;
use super::measure::{Figures, Interval, Latencies, Measured, Merger, Part, Stage};
use super::mixed::{Gate, Mixed, Told};
use super::numbers::ratio;
use super::opening::{Opening, STEP_COUNT, share_of};
use super::options::Proof;
use super::proving::{Asking, Reading};
use super::work::{Ids, Layout, Work};
use super::{BenchError, BenchOptions, Pace, Verdict};
use crate::clock::{Clock, Tick};
use crate::model::{Incarnation, Random, to_u64, to_usize};
use crate::net::{self, Setup, Signals};
use crate::role::ExitCode;

/// Requests in flight on a connection in phases that are not measured.
const STEP_PIPELINE_DEPTH: u32 = 4;

/// Connections of a thread in phases that are not measured.
const STEP_CONNECTION_COUNT: u32 = 4;

/// Something that happens while a load runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// A load begins.
    Begins {
        /// Unix milliseconds.
        began_ms: u64,
    },
    /// The warm-up is over: from here it counts.
    Counting,
    /// An interval is over.
    Interval(&'a Interval, &'a Latencies),
}

/// One bench: its accounts are prepared once, then loads run one after the other.
#[derive(Debug)]
pub struct Bench {
    options: BenchOptions,
    clock: Clock,
    /// Draws what must differ from run to run whatever the seed is: ids and incarnations.
    unique: Random,
    /// What each account must hold, where a proof is wanted.
    known: Vec<Known>,
    unresolved: Vec<Unresolved>,
    samples: Vec<Sample>,
    /// What all loads together added, by currency.
    prepared: Vec<i128>,
}

impl Bench {
    /// `unique` must be random: it keeps the ids of two runs with one seed apart.
    pub fn new(options: BenchOptions, unique: u64) -> Result<Self, String> {
        options.check()?;
        Ok(Self {
            prepared: vec![0; to_usize(u64::from(options.currency_count))],
            options,
            clock: Clock::start(),
            unique: Random::new(unique),
            known: Vec::new(),
            unresolved: Vec::new(),
            samples: Vec::new(),
        })
    }

    /// What was asked for.
    #[must_use]
    pub const fn options(&self) -> &BenchOptions {
        &self.options
    }

    /// Opens and fills all accounts. Returns how many nanoseconds it took.
    pub fn prepare(&mut self) -> Result<u64, BenchError> {
        let began = self.clock.now().tick;
        let count = to_usize(self.options.account_count());
        let threads = self.options.thread_count;
        let works = (0..threads).map(|thread| Opening::new(share_of(count, thread, threads)));
        let tasks = self.step_drivers().into_iter().zip(works).collect();
        let mut known = Vec::new();
        for (opened, _) in run_all(self.clock, tasks, Opening::finish, || ())? {
            known.extend(opened.map_err(BenchError::Prepare)?);
        }
        if self.options.proof == Proof::Kept {
            self.prepared = self.sums(&known);
            self.known = known;
        }
        Ok(self.clock.now().tick.since(began))
    }

    /// Runs one load at `pace` and tells `watch` what happens.
    pub fn measure(
        &mut self,
        pace: Pace,
        mut watch: impl FnMut(&Event<'_>),
    ) -> Result<Measured, BenchError> {
        let threads = self.options.thread_count;
        let gate = Gate::new(threads);
        let (send, parts) = channel();
        let options = self.options.clone();
        let drivers = self.load_drivers().into_iter().zip(0..);
        let tasks = drivers
            .map(|(driver, thread)| {
                let diary = Diary::new(self.known.len());
                let work = Mixed::new(&options, pace, thread, &gate, send.clone(), diary);
                (driver, work)
            })
            .collect();
        // The parts end when the last thread does.
        drop(send);
        let mut tally = Tally::new(&options, self.clock.now().wall_ms);
        watch(&Event::Begins {
            began_ms: tally.began_ms,
        });
        tally.count_from_start(&mut watch);
        let ended = run_all(self.clock, tasks, Mixed::finish, || {
            for part in &parts {
                tally.add(part, &mut watch);
            }
        })?;
        let measured = tally.finish(&ended, &mut watch);
        for (thread, _) in ended {
            thread.diary.settle(&mut self.known);
            self.unresolved.extend(thread.diary.unresolved);
            self.samples.extend(thread.diary.samples);
        }
        Ok(measured)
    }

    /// Reads everything back and compares it with what was answered.
    pub fn verify(&mut self) -> Result<Verdict, BenchError> {
        assert!(self.options.proof == Proof::Kept, "nothing was kept");
        let mut verdict = Verdict {
            unknown: to_u64(self.unresolved.len()),
            ..Verdict::default()
        };
        let drivers = self.step_drivers();
        let asking = [Asking::new(&self.unresolved, &self.samples)];
        let tasks = drivers.into_iter().zip(asking).collect();
        let mut applied = Vec::new();
        for (asking, _) in run_all(self.clock, tasks, |asking| asking, || ())? {
            verdict.unknown_resolved = asking.resolved;
            verdict.replayed = asking.equal;
            verdict.replayed_differently = asking.unequal;
            verdict.replays_forgotten = asking.forgotten;
            applied = asking.applied;
        }
        for (account, moved) in applied {
            let known = &mut self.known[to_usize(u64::from(account))];
            known.available += moved;
            known.version += 1;
        }
        self.unresolved.clear();
        let threads = self.options.thread_count;
        let drivers = self.step_drivers();
        let works = (0..threads)
            .map(|thread| Reading::new(share_of(self.known.len(), thread, threads), &self.known));
        let tasks = drivers.into_iter().zip(works).collect();
        for (reckoning, _) in run_all(self.clock, tasks, |reading| reading.reckoning, || ())? {
            verdict.add(&reckoning);
        }
        Ok(verdict)
    }

    /// What the loads added to the accounts since they were prepared, by currency from 1.
    #[must_use]
    pub fn changes_by_currency(&self) -> Vec<i128> {
        let sums = self.sums(&self.known);
        let pairs = sums.iter().zip(&self.prepared);
        pairs.map(|(now, before)| now - before).collect()
    }

    fn sums(&self, known: &[Known]) -> Vec<i128> {
        let count = to_usize(u64::from(self.options.currency_count));
        let mut sums = vec![0; count];
        for user in known.chunks(count) {
            for (sum, known) in sums.iter_mut().zip(user) {
                *sum += i128::from(known.available);
            }
        }
        sums
    }

    fn load_drivers(&mut self) -> Vec<DriverOptions> {
        let (connections, threads) = (self.options.connection_count, self.options.thread_count);
        let mut drivers = Vec::new();
        for thread in 0..threads {
            let share = share_of(to_usize(u64::from(connections)), thread, threads);
            drivers.push(DriverOptions {
                connection_first: share.start,
                connection_count: share.end - share.start,
                pipeline_depth: self.options.pipeline_depth,
                batch_count: self.options.batch_count,
                ..self.driver(thread)
            });
        }
        drivers
    }

    fn step_drivers(&mut self) -> Vec<DriverOptions> {
        let threads = self.options.thread_count;
        (0..threads).map(|thread| self.driver(thread)).collect()
    }

    /// A driver for a phase that is not measured.
    fn driver(&mut self, thread: u32) -> DriverOptions {
        let incarnation = loop {
            if let Some(incarnation) = Incarnation::new(self.unique.u128()) {
                break incarnation;
            }
        };
        DriverOptions {
            fronts: self.options.fronts.clone(),
            connection_first: thread,
            connection_count: STEP_CONNECTION_COUNT,
            pipeline_depth: STEP_PIPELINE_DEPTH,
            batch_count: STEP_COUNT,
            deadline_ms: self.options.deadline_ms,
            layout: Layout {
                currency_count: self.options.currency_count,
            },
            ids: Ids::new(thread, self.unique.u64()),
            incarnation,
        }
    }
}

/// Runs each work on a thread of its own and what `finish` makes of it at its end there,
/// `meanwhile` on this one, and waits for all.
fn run_all<W: Work + Send, R: Send>(
    clock: Clock,
    tasks: Vec<(DriverOptions, W)>,
    finish: impl Fn(W) -> R + Sync,
    meanwhile: impl FnOnce(),
) -> Result<Vec<(R, u64)>, BenchError> {
    let (aborted, finish) = (&AtomicBool::new(false), &finish);
    let ended: Vec<Result<(R, u64), BenchError>> = thread::scope(|scope| {
        let mut threads = Vec::new();
        for (options, work) in tasks {
            let driver = Driver::new(options, clock, work, aborted);
            let body = move || {
                let ended = run_one(clock, driver);
                if ended.is_err() {
                    aborted.store(true, Ordering::Relaxed);
                }
                ended.map(|(work, losses)| (finish(work), losses))
            };
            threads.push(scope.spawn(body));
        }
        meanwhile();
        let panicked = || Err(BenchError::System("a thread panicked".to_owned()));
        let ended = threads.into_iter();
        ended
            .map(|thread| thread.join().unwrap_or_else(|_panic| panicked()))
            .collect()
    });
    let mut done = Vec::new();
    let mut fault = None;
    for ended in ended {
        match ended {
            Ok(ended) => done.push(ended),
            // The cause says more than what followed from it.
            Err(BenchError::Aborted) => fault = fault.or(Some(BenchError::Aborted)),
            Err(error) => fault = Some(error),
        }
    }
    fault.map_or(Ok(done), Err)
}

fn run_one<W: Work>(clock: Clock, mut driver: Driver<'_, W>) -> Result<(W, u64), BenchError> {
    let mut fault = None;
    let setup = Setup {
        listeners: Vec::new(),
        lanes: None,
        clock,
        limits: net::Limits::standard(),
        signals: Signals::Ignored,
        say: Box::new(|_level, text| {
            fault.get_or_insert_with(|| text.to_owned());
        }),
        on_ready: Box::new(|| ()),
    };
    let code = net::run_precise(&mut driver, setup);
    match fault {
        Some(text) if code == ExitCode::Damage => Err(BenchError::System(text)),
        Some(_) | None => driver.finish(),
    }
}

/// Puts together what the threads tell.
#[derive(Debug)]
struct Tally {
    merger: Merger,
    start: Option<Tick>,
    warmup_ns: u64,
    began_ms: u64,
    sum: Figures,
    intervals: Vec<Interval>,
    is_counting: bool,
    cpu_from: Option<(f64, f64)>,
}

impl Tally {
    fn new(options: &BenchOptions, began_ms: u64) -> Self {
        Self {
            merger: Merger::new(to_usize(u64::from(options.thread_count))),
            start: None,
            warmup_ns: options.warmup_ms * 1_000_000,
            began_ms,
            sum: Figures::new(),
            intervals: Vec::new(),
            is_counting: false,
            cpu_from: None,
        }
    }

    /// Without a warm-up it counts from the first moment.
    fn count_from_start(&mut self, watch: &mut impl FnMut(&Event<'_>)) {
        if self.warmup_ns == 0 {
            self.count(watch);
        }
    }

    fn count(&mut self, watch: &mut impl FnMut(&Event<'_>)) {
        if !self.is_counting {
            self.is_counting = true;
            self.cpu_from = machine_cpu_seconds();
            watch(&Event::Counting);
        }
    }

    fn add(&mut self, part: Part, watch: &mut impl FnMut(&Event<'_>)) {
        if let Some(whole) = self.merger.add(part) {
            self.take(&whole, watch);
        }
    }

    fn take(&mut self, whole: &Part, watch: &mut impl FnMut(&Event<'_>)) {
        let start = *self.start.get_or_insert(whole.from);
        let interval = Interval::of(whole, start);
        if whole.stage == Stage::Measured {
            self.sum.add(&whole.figures);
        }
        watch(&Event::Interval(&interval, &whole.figures.latency));
        self.intervals.push(interval);
        if self.warmup_ns <= interval.to_ns {
            self.count(watch);
        }
    }

    fn finish(mut self, ended: &[(Told, u64)], watch: &mut impl FnMut(&Event<'_>)) -> Measured {
        let merger = std::mem::replace(&mut self.merger, Merger::new(0));
        for part in merger.rest() {
            self.take(&part, watch);
        }
        let told = ended.iter().map(|(told, _)| told);
        let from = told.clone().map(|thread| thread.measure_from).max();
        let last = told.clone().map(|thread| thread.last).max();
        let elapsed_ns = last.unwrap_or_default().since(from.unwrap_or_default());
        let cpu_ns = told.clone().map(|thread| thread.cpu_ns);
        let busiest = cpu_ns.clone().max().unwrap_or_default();
        let machine_cpu = machine_cpu_seconds().zip(self.cpu_from);
        Measured {
            figures: self.sum,
            elapsed_ns,
            intervals: self.intervals,
            thread_cpu_max: ratio(busiest, elapsed_ns),
            cpu_ns: cpu_ns.sum(),
            unsent_count: told.map(|thread| thread.unsent_count).sum(),
            loss_count: ended.iter().map(|(_, losses)| losses).sum(),
            began_ms: self.began_ms,
            machine_cpu: machine_cpu.map(|(now, before)| difference(now, before)),
        }
    }
}

#[expect(clippy::float_arithmetic, reason = "seconds")]
fn difference(now: (f64, f64), before: (f64, f64)) -> (f64, f64) {
    (now.0 - before.0, now.1 - before.1)
}
