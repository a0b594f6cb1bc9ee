//! The load under all faults: a few clients on the same few users, at a steady pace, each change
//! written down before it is sent. Nobody but the record remembers what was said.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use counterfoil::client::{Client, Options};
use counterfoil::clock::Clock;
use counterfoil::limits;
use counterfoil::model::{
    AccountSettings, Currency, Flags, Kind, Operation, Random, Receipt, ResultCode, UserId,
};

use crate::record::Record;

/// Answered changes that a client keeps to send them again.
const KEPT_COUNT: usize = 64;

/// How long the clients may take to connect.
const CONNECT: Duration = Duration::from_secs(30);

/// What load to put on a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) fronts: Vec<SocketAddr>,
    pub(crate) seed: u64,
    pub(crate) client_count: u64,
    pub(crate) user_count: u64,
    pub(crate) currency_count: u64,
    /// Between the beginnings of two batches of one client.
    pub(crate) pace_ms: u64,
    /// Operations of one batch at most.
    pub(crate) batch_count: u64,
    /// Longest deadline of a client; others have a third and a tenth of it.
    pub(crate) deadline_ms: u64,
}

impl Load {
    pub(crate) const fn standard(fronts: Vec<SocketAddr>, seed: u64) -> Self {
        Self {
            fronts,
            seed,
            client_count: 4,
            user_count: 24,
            currency_count: 2,
            pace_ms: 4,
            batch_count: 8,
            deadline_ms: 3_000,
        }
    }
}

/// The clients at work.
#[derive(Debug)]
pub(crate) struct Workload {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    alarm: Receiver<String>,
    threads: Vec<JoinHandle<()>>,
}

impl Workload {
    pub(crate) fn start(load: &Load, record: &Arc<Record>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let (tell, alarm) = channel();
        let (greet, greeted) = channel();
        let threads = (0..load.client_count)
            .map(|number| {
                let worker = Worker {
                    load: load.clone(),
                    number,
                    random: Random::new(load.seed ^ (number << 48)),
                    record: Arc::clone(record),
                    stop: Arc::clone(&stop),
                    answered: Arc::clone(&answered),
                    kept: VecDeque::new(),
                    seen: Vec::new(),
                };
                let bell = Bell(tell.clone());
                let greet = greet.clone();
                thread::spawn(move || {
                    if let Err(text) = worker.run(&greet) {
                        bell.ring(text);
                    }
                })
            })
            .collect();
        for _ in 0..load.client_count {
            // All are connected before anything happens to the cluster.
            let has_come = greeted.recv_timeout(CONNECT).is_ok();
            assert!(has_come, "a client cannot connect: {:?}", alarm.try_recv());
        }
        Self {
            stop,
            answered,
            alarm,
            threads,
        }
    }

    /// Changes and look-ups that were answered for good so far.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Lets the load go on for a time; panics at once if a client cannot go on.
    pub(crate) fn go_on(&self, time: Duration) {
        crate::host::pass(time, &self.alarm);
    }

    /// Lets the load go on until so many more operations are answered, at most `patience`.
    pub(crate) fn until_answered(&self, more: u64, patience: Duration) {
        let goal = self.answered() + more;
        let clock = Clock::start();
        let last = clock.now().tick.plus_ms(millis(patience));
        while self.answered() < goal {
            assert!(
                clock.now().tick < last,
                "{} of {more} operations are not answered after {patience:?}",
                goal - self.answered()
            );
            self.go_on(Duration::from_millis(5));
        }
    }

    /// Ends the load once every client has its answers.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client ends in order");
        }
        if let Ok(text) = self.alarm.try_recv() {
            panic!("a client could not go on: {text}");
        }
    }
}

/// Tells the test when a client cannot go on, also when it panics.
struct Bell(Sender<String>);

impl Bell {
    fn ring(&self, text: String) {
        // Nobody listens any more only if the test has failed already.
        drop(self.0.send(text));
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        if thread::panicking() {
            self.ring("a client thread panicked".to_owned());
        }
    }
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).expect("tests are short")
}

pub(crate) fn user(number: u64) -> UserId {
    UserId::new(u128::from(number)).expect("numbers begin at 1")
}

pub(crate) fn currency(code: u64) -> Currency {
    let code = u32::try_from(code).expect("few currencies");
    Currency::new(code).expect("codes begin at 1")
}

struct Worker {
    load: Load,
    number: u64,
    random: Random,
    record: Arc<Record>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    /// Answered changes.
    kept: VecDeque<Operation>,
    /// Versions of accounts as last seen, by user and currency.
    seen: Vec<(UserId, u32, u64)>,
}

impl Worker {
    fn run(mut self, greet: &Sender<()>) -> Result<(), String> {
        let divisor = [1, 3, 10][usize::try_from(self.number % 3).expect("small")];
        let deadline = Duration::from_millis((self.load.deadline_ms / divisor).max(50));
        let options = Options {
            deadline,
            ..Options::default()
        };
        let connected = Client::connect_to(&self.load.fronts, &options);
        let mut client = connected.map_err(|error| error.to_string())?;
        // The test has ended if nobody listens.
        greet.send(()).unwrap_or(());
        let clock = Clock::start();
        let mut next = clock.now().tick;
        while !self.stop.load(Ordering::Relaxed) {
            let count = 1 + self.random.below(self.load.batch_count);
            let batch: Vec<Operation> = (0..count).map(|_| self.draw(&mut client)).collect();
            let unsettled = self.send(&mut client, &batch)?;
            for operation in unsettled {
                if !self.stop.load(Ordering::Relaxed) {
                    self.settle(&mut client, operation)?;
                }
            }
            next = next.plus_ms(self.load.pace_ms).max(clock.now().tick);
            thread::park_timeout(Duration::from_nanos(next.since(clock.now().tick)));
        }
        Ok(())
    }

    /// Sends a batch; those whose outcome is not known come back.
    fn send(&mut self, client: &mut Client, batch: &[Operation]) -> Result<Vec<Operation>, String> {
        let first = self.record.intend(batch);
        let answers = client.batch(batch).map_err(|error| error.to_string())?;
        let receipts = answers.iter().map(|answer| &answer.receipt);
        self.record.hear(first, receipts);
        let mut unsettled = Vec::new();
        for (operation, answer) in batch.iter().zip(&answers) {
            let receipt = &answer.receipt;
            if receipt.code == ResultCode::Unknown {
                unsettled.push(*operation);
            } else if !receipt.code.may_retry() {
                self.answered.fetch_add(1, Ordering::Relaxed);
                self.remember(operation, receipt);
            }
        }
        Ok(unsettled)
    }

    fn remember(&mut self, operation: &Operation, receipt: &Receipt) {
        if operation.kind().is_change() {
            if self.kept.len() == KEPT_COUNT {
                self.kept.pop_front();
            }
            self.kept.push_back(*operation);
        }
        if receipt.version != 0 && operation.currency() != 0 {
            let (user, currency) = (operation.user(), operation.currency());
            self.seen.retain(|(a, b, _)| (*a, *b) != (user, currency));
            self.seen.push((user, currency, receipt.version));
        }
    }

    /// A change whose outcome is unknown: asked for, or burned, or sent again, or left for later.
    fn settle(&mut self, client: &mut Client, operation: Operation) -> Result<(), String> {
        let id = operation.id().expect("look-ups do not end in unknown");
        let find = Operation::find(id, operation.user());
        let again = match self.random.below(4) {
            0 => find,
            1 => find.with_flags(Flags::BURN),
            2 => operation,
            _ => return Ok(()),
        };
        // What is still unknown is settled when the test ends.
        self.send(client, &[again]).map(drop)
    }

    fn draw(&mut self, client: &mut Client) -> Operation {
        let user = user(1 + self.random.below(self.load.user_count));
        let currency = currency(1 + self.random.below(self.load.currency_count));
        let amount = 1 + self.random.below(100);
        let count = self.kept.len() as u64;
        match self.random.below(100) {
            0..45 => Operation::credit(client.new_id(), user, currency, amount)
                .with_flags(Flags::OPEN_IF_MISSING),
            45..68 => Operation::debit(client.new_id(), user, currency, amount),
            68..74 => Operation::debit(client.new_id(), user, currency, amount * 100)
                .with_flags(Flags::UP_TO),
            74..86 => Operation::get(user, currency),
            86..88 => Operation::get(user, currency).with_flags(Flags::RECENT),
            88..93 if 0 < count => self.draw_again(),
            93..96 if 0 < count => self.draw_reuse(),
            96..98 if 0 < count => {
                let kept = self.draw_again();
                Operation::find(kept.id().expect("changes have ids"), kept.user())
            }
            98.. if !self.seen.is_empty() => self.draw_configure(client),
            _ => Operation::debit(client.new_id(), user, currency, amount * 1_000),
        }
    }

    /// An answered change, byte for byte: its first receipt must come again.
    fn draw_again(&mut self) -> Operation {
        let index = self.random.below(self.kept.len() as u64);
        self.kept[usize::try_from(index).expect("small")]
    }

    /// The id of an answered change with another content: must be refused.
    fn draw_reuse(&mut self) -> Operation {
        let kept = self.draw_again();
        kept.with_note(kept.reason() + 1, self.random.u64())
    }

    /// Freezes, caps or frees an account, if it still has the version last seen; or a debit that
    /// depends on it.
    fn draw_configure(&mut self, client: &mut Client) -> Operation {
        let index = self.random.below(self.seen.len() as u64);
        let (user, code, version) = self.seen[usize::try_from(index).expect("small")];
        let currency = currency(u64::from(code));
        let settings = match self.random.below(4) {
            0 => AccountSettings {
                frozen: true,
                ..AccountSettings::default()
            },
            1 => AccountSettings {
                cap: 500,
                ..AccountSettings::default()
            },
            2 => AccountSettings::default(),
            _ => return Operation::debit(client.new_id(), user, currency, 1).if_version(version),
        };
        Operation::configure(client.new_id(), user, currency, settings, version)
    }
}

/// Asks once more for everything: what became of every id, and every account. What is still
/// unknown is burned or found. The cluster must be whole again.
pub(crate) fn ask_again(load: &Load, record: &Record) {
    let deadline = Duration::from_millis(u64::from(limits::DEADLINE_MS_MAX));
    let options = Options {
        deadline,
        ..Options::default()
    };
    let mut client = Client::connect_to(&load.fronts, &options).expect("the fronts are there");
    let mut questions = Vec::new();
    for ((_, _), fate) in crate::checker::fates(&record.read()) {
        let operation = fate.operation;
        if operation.kind() == Kind::Find {
            continue;
        }
        let find = Operation::find(operation.id().expect("changes"), operation.user());
        let is_unknown = fate.outcome.is_none() && fate.is_in_doubt;
        let burn = if is_unknown { Flags::BURN } else { Flags(0) };
        questions.push(find.with_flags(burn));
    }
    for number in 1..=load.user_count {
        for code in 1..=load.currency_count {
            questions.push(Operation::get(user(number), currency(code)));
        }
    }
    for chunk in questions.chunks(500) {
        let mut left = chunk.to_vec();
        for _ in 0..20 {
            let first = record.intend(&left);
            let answers = client.batch(&left).expect("the cluster answers");
            record.hear(first, answers.iter().map(|answer| &answer.receipt));
            let pairs = left.iter().zip(&answers);
            left = pairs
                .filter(|(_, answer)| answer.receipt.code.may_retry())
                .map(|(operation, _)| *operation)
                .collect();
            if left.is_empty() {
                break;
            }
        }
        assert!(left.is_empty(), "{} questions get no answer", left.len());
    }
}
