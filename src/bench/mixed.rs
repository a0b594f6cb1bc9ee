//! The measured load: operations drawn from a seed, sent by a schedule or as answers come.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use super::accounts::Diary;
use super::measure::{Part, Recorder};
use super::options::{Action, BenchOptions, Extent, Pace};
use super::sampler::Sampler;
use super::schedule::Schedule;
use super::work::{Next, Note, Request, Times, Work};
use crate::clock::{Now, Tick, thread_cpu_ns};
use crate::model::{Flags, OperationId, Random, Receipt};

/// How long an open loop tries to send what was due before its end, in milliseconds.
const LATE_MS_MAX: u64 = 10_000;

/// How long after the last thread is ready the load begins, in milliseconds.
const START_MS: u64 = 2;

/// Largest amount of one change.
const AMOUNT_MAX: u64 = 100;

/// Where all threads of a load meet before it starts.
#[derive(Debug)]
pub(super) struct Gate {
    missing: AtomicU32,
    start: AtomicU64,
}

impl Gate {
    pub(super) const fn new(thread_count: u32) -> Self {
        Self {
            missing: AtomicU32::new(thread_count),
            start: AtomicU64::new(0),
        }
    }

    /// A thread is ready. The last one says when it starts.
    fn arrive(&self, now: Tick) {
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.start.store(now.plus_ms(START_MS).0, Ordering::Release);
        }
    }

    fn start(&self) -> Option<Tick> {
        let start = self.start.load(Ordering::Acquire);
        (start != 0).then_some(Tick(start))
    }
}

#[derive(Debug)]
enum Phase {
    Connecting,
    /// At the gate.
    Arrived,
    Running(Box<Running>),
}

#[derive(Debug)]
struct Running {
    recorder: Recorder,
    /// An open loop has one.
    schedule: Option<Schedule>,
    until: Option<Tick>,
    /// Operations that may still be sent and counted, where they are limited.
    budget: Option<u64>,
    cpu_from: Option<u64>,
}

/// What a thread tells at its end.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) diary: Diary,
    pub(super) measure_from: Tick,
    pub(super) last: Tick,
    pub(super) cpu_ns: u64,
    pub(super) unsent_count: u64,
}

/// The load of one thread.
#[derive(Debug)]
pub(super) struct Mixed<'a> {
    options: &'a BenchOptions,
    pace: Pace,
    thread: u32,
    gate: &'a Gate,
    parts: Sender<Part>,
    random: Random,
    sampler: Sampler,
    share_sum: u64,
    diary: Diary,
    phase: Phase,
    unsent_count: u64,
}

impl<'a> Mixed<'a> {
    pub(super) fn new(
        options: &'a BenchOptions,
        pace: Pace,
        thread: u32,
        gate: &'a Gate,
        parts: Sender<Part>,
        diary: Diary,
    ) -> Self {
        let shares = options.workload.parts.iter();
        Self {
            options,
            pace,
            thread,
            gate,
            parts,
            random: Random::new(options.seed ^ (u64::from(thread) << 40)),
            sampler: Sampler::new(options.distribution, options.user_count),
            share_sum: shares.map(|(_, share)| u64::from(*share)).sum(),
            diary,
            phase: Phase::Connecting,
            unsent_count: 0,
        }
    }

    /// The end of this thread.
    pub(super) fn finish(mut self) -> Told {
        let mut told = Told {
            diary: self.diary,
            measure_from: Tick(0),
            last: Tick(0),
            cpu_ns: 0,
            unsent_count: self.unsent_count,
        };
        if let Phase::Running(running) = &mut self.phase {
            told.measure_from = running.recorder.measure_from();
            told.last = running.recorder.last();
            told.cpu_ns = thread_cpu_ns().saturating_sub(running.cpu_from.unwrap_or_default());
            // Nobody listens any more only if the bench has failed already.
            drop(self.parts.send(running.recorder.finish()));
        }
        told
    }

    fn begin(&self, start: Tick) -> Running {
        let options = self.options;
        let recorder = Recorder::new(self.pace, start, options.warmup_ms, options.interval_ms);
        let (until, budget) = match options.extent {
            Extent::DurationMs(ms) => (Some(recorder.measure_from().plus_ms(ms)), None),
            Extent::Operations(count) => {
                let threads = u64::from(options.thread_count);
                let extra = u64::from(u64::from(self.thread) < count % threads);
                (None, Some(count.div_euclid(threads) + extra))
            }
        };
        let schedule = match self.pace {
            Pace::Closed => None,
            Pace::Open(rate) => Some(Schedule::new(
                start,
                rate,
                options.batch_count,
                self.thread,
                options.thread_count,
            )),
        };
        Running {
            recorder,
            schedule,
            until,
            budget,
            cpu_from: None,
        }
    }

    fn draw_action(&mut self) -> Action {
        let parts = &self.options.workload.parts;
        let mut left = if parts.len() == 1 {
            0
        } else {
            self.random.below(self.share_sum)
        };
        for (action, share) in parts {
            if left < u64::from(*share) {
                return *action;
            }
            left -= u64::from(*share);
        }
        unreachable!("the drawn share lies below the sum of all")
    }

    fn draw_account(&mut self) -> u32 {
        let user = self.sampler.draw(&mut self.random);
        let currencies = u64::from(self.options.currency_count);
        let currency = if currencies == 1 {
            0
        } else {
            self.random.below(currencies)
        };
        u32::try_from(user * currencies + currency).expect("accounts are counted in 32 bits")
    }

    fn draw(&mut self, request: &mut Request<'_>) {
        let account = self.draw_account();
        let action = self.draw_action();
        match action {
            Action::Read => request.read(account, Flags(0)),
            Action::Recent => request.read(account, Flags::RECENT),
            Action::Credit | Action::Debit => {
                let amount = 1 + self.random.below(AMOUNT_MAX);
                let amount = i32::try_from(amount).expect("AMOUNT_MAX is small");
                let signed = if action == Action::Credit {
                    amount
                } else {
                    -amount
                };
                request.change(account, signed, Flags(0));
            }
        }
    }
}

impl Running {
    fn next(&self, now: Tick) -> Next {
        let due = self.schedule.map_or(now, |schedule| schedule.due());
        let is_out = self.budget == Some(0);
        let is_past = self.until.is_some_and(|until| until <= due);
        if is_out || is_past {
            Next::Over
        } else if now < due {
            Next::Wait(due)
        } else {
            Next::Send(due)
        }
    }
}

impl Work for Mixed<'_> {
    fn next(&mut self, now: Now) -> Next {
        match &mut self.phase {
            Phase::Connecting => Next::Idle,
            Phase::Arrived => {
                let Some(start) = self.gate.start() else {
                    return Next::Wait(now.tick.plus_ms(1));
                };
                if now.tick < start {
                    return Next::Wait(start);
                }
                self.phase = Phase::Running(Box::new(self.begin(start)));
                self.next(now)
            }
            Phase::Running(running) => {
                let next = running.next(now.tick);
                let is_late = running
                    .until
                    .is_some_and(|until| until.plus_ms(LATE_MS_MAX) <= now.tick);
                if is_late && let Next::Send(_) = next {
                    while let Next::Send(_) = running.next(now.tick)
                        && let Some(schedule) = &mut running.schedule
                    {
                        schedule.advance();
                        self.unsent_count += 1;
                    }
                    return Next::Over;
                }
                next
            }
        }
    }

    fn fill(&mut self, request: &mut Request<'_>) {
        let mut count = self.options.batch_count;
        if let Phase::Running(running) = &mut self.phase {
            let due = running.schedule.map(|schedule| schedule.due());
            if let Some(schedule) = &mut running.schedule {
                schedule.advance();
            }
            // The warm-up is not limited: it lasts its time.
            let counts = due.is_none_or(|due| running.recorder.measure_from() <= due);
            if running.cpu_from.is_some()
                && counts
                && let Some(budget) = &mut running.budget
            {
                count = u32::try_from((*budget).min(u64::from(count))).unwrap_or(count);
                *budget -= u64::from(count);
            }
        }
        for _ in 0..count {
            self.draw(request);
        }
    }

    fn answered(&mut self, note: Note, id: OperationId, times: Times, receipt: &Receipt) {
        if let Phase::Running(running) = &mut self.phase {
            running.recorder.answered(times.due, receipt.code);
        }
        self.diary.learn(note.target, note.amount, id, receipt);
    }

    fn completed(&mut self, times: Times, at: Tick, count: u32) {
        if let Phase::Running(running) = &mut self.phase {
            running.recorder.completed(times.due, times.sent, at, count);
        }
    }

    fn lost(&mut self, note: Note, id: OperationId) {
        self.diary.doubt(note.target, note.amount, id);
    }

    fn connected(&mut self, now: Now) {
        if let Phase::Connecting = self.phase {
            self.gate.arrive(now.tick);
            self.phase = Phase::Arrived;
        }
    }

    fn tick(&mut self, now: Now) {
        let Phase::Running(running) = &mut self.phase else {
            return;
        };
        while let Some(part) = running.recorder.cut(now.tick) {
            // Nobody listens any more only if the bench has failed already.
            drop(self.parts.send(part));
        }
        if running.recorder.measure_from() <= now.tick && running.cpu_from.is_none() {
            running.cpu_from = Some(thread_cpu_ns());
        }
    }

    fn deadline(&self) -> Option<Tick> {
        match &self.phase {
            Phase::Connecting | Phase::Arrived => None,
            Phase::Running(running) => Some(running.recorder.deadline()),
        }
    }
}
