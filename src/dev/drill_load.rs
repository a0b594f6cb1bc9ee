//! One connection of the drill: its users, its load, its reading back.
//!
//! Requests are built so that one node's absence stalls only the requests to that node: a receipt
//! names the log that it lies in, and from then on a user's operations travel with those of
//! users of the same log, one request in flight per log.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::DrillOptions;
use super::account_model::{KnownAccount, Verdict};
use super::drill_shared::{Latencies, Shared};
use crate::client::{Answer, Client, ClientError, Options, Ticket};
use crate::clock::{Clock, Tick};
use crate::limits;
use crate::model::{
    Currency, Flags, Operation, Random, Receipt, ReceiptFlags, ResultCode, UserId, to_usize,
};

/// Minor units that open an account.
const FIRST_AMOUNT: u64 = 1_000;

/// One change in so many is sent twice.
const REPLAY_ODDS: u64 = 100;

/// Changes that are kept to be sent twice.
const REPLAY_KEPT: usize = 64;

/// Accounts that are read back in one request.
const READ_COUNT: usize = 1_000;

/// What one connection found.
#[derive(Debug)]
pub(super) struct WorkerReport {
    pub(super) sent: u64,
    pub(super) refused: u64,
    pub(super) replayed: u64,
    pub(super) unknown: u64,
    pub(super) unknown_resolved: u64,
    pub(super) accounts: u64,
    pub(super) verdict: Verdict,
    /// What the clients know to be in the accounts, by currency.
    pub(super) sums: BTreeMap<u32, i128>,
    pub(super) latencies: Latencies,
    /// Answers that were neither an outcome nor a refusal.
    pub(super) errors: u64,
    /// Longest time in which a user waited for an answer.
    pub(super) longest_gap_ms: u64,
}

/// One request in flight.
#[derive(Debug)]
struct InFlight {
    ticket: Ticket,
    group: usize,
    sent: Tick,
    operations: Vec<Sent>,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    account: usize,
    operation: Operation,
    /// The receipt of the first copy, if this is the second.
    first: Option<Receipt>,
}

/// One connection with its users and what it knows of them.
#[derive(Debug)]
pub(super) struct Load {
    clock: Clock,
    random: Random,
    batch_count: usize,
    currency_count: u32,
    users: Vec<UserId>,
    /// By user, then currency.
    accounts: Vec<KnownAccount>,
    /// Users by the log they live in; group 0 are those whose log is not known yet.
    groups: Vec<Vec<usize>>,
    group_of: Vec<usize>,
    /// Where each user stands in its group.
    place_of: Vec<usize>,
    /// Since when each user waits for an answer.
    waiting_since: Vec<Option<Tick>>,
    /// Accounts that were not opened yet, last first.
    unopened: Vec<usize>,
    answered: Vec<Sent>,
    unresolved: Vec<Sent>,
    report: WorkerReport,
}

impl Load {
    /// Connection `number` of the drill.
    pub(super) fn new(options: &DrillOptions, number: u32, clock: Clock) -> Self {
        let step = to_usize(u64::from(options.connection_count));
        let users: Vec<UserId> = (number..options.user_count)
            .step_by(step)
            .filter_map(|index| UserId::new(u128::from(index) + 1))
            .collect();
        let account_count = users.len() * to_usize(u64::from(options.currency_count));
        Self {
            clock,
            random: Random::new(options.seed ^ (u64::from(number) << 32)),
            batch_count: to_usize(u64::from(options.batch_count)),
            currency_count: options.currency_count,
            accounts: vec![KnownAccount::default(); account_count],
            groups: vec![(0..users.len()).collect()],
            group_of: vec![0; users.len()],
            place_of: (0..users.len()).collect(),
            waiting_since: vec![None; users.len()],
            unopened: (0..account_count).rev().collect(),
            users,
            answered: Vec::new(),
            unresolved: Vec::new(),
            report: WorkerReport {
                sent: 0,
                refused: 0,
                replayed: 0,
                unknown: 0,
                unknown_resolved: 0,
                accounts: 0,
                verdict: Verdict::default(),
                sums: BTreeMap::new(),
                latencies: Latencies::new(),
                errors: 0,
                longest_gap_ms: 0,
            },
        }
    }

    /// Sends its share, says `loaded`, waits for the gate, and reads everything back.
    pub(super) fn run(
        mut self,
        fronts: &[SocketAddr],
        shared: &Shared,
        loaded: impl FnOnce(),
    ) -> Result<WorkerReport, ClientError> {
        let deadline = Duration::from_millis(u64::from(limits::DEADLINE_MS_MAX));
        let options = Options {
            deadline,
            ..Options::default()
        };
        let mut client = Client::connect_to(fronts, &options)?;
        self.open_accounts(&mut client, shared)?;
        self.load(&mut client, shared)?;
        self.note_silence();
        loaded();
        shared.wait();
        self.resolve(&mut client)?;
        self.read_back(&mut client)?;
        Ok(self.report)
    }

    fn currency(&self, account: usize) -> Currency {
        let count = to_usize(u64::from(self.currency_count));
        let code = u32::try_from(account % count).expect("below a u32") + 1;
        Currency::new(code).expect("codes begin at 1")
    }

    #[expect(clippy::integer_division, reason = "accounts lie user by user")]
    fn user(&self, account: usize) -> usize {
        account / to_usize(u64::from(self.currency_count))
    }

    fn open_accounts(&mut self, client: &mut Client, shared: &Shared) -> Result<(), ClientError> {
        while !self.unopened.is_empty() {
            let wanted = self.unopened.len().min(self.batch_count);
            let count = to_usize(shared.take(crate::model::to_u64(wanted)));
            if count == 0 {
                return Ok(());
            }
            let first = self.unopened.len() - count;
            let accounts = self.unopened.split_off(first);
            let batch: Vec<Sent> = accounts
                .into_iter()
                .map(|account| self.opening(client, account))
                .collect();
            let flight = self.send(client, 0, batch)?;
            let answers = client.wait(flight.ticket)?;
            self.take_answers(&flight, &answers, shared);
        }
        Ok(())
    }

    fn opening(&self, client: &mut Client, account: usize) -> Sent {
        let user = self.users[self.user(account)];
        let id = client.new_id();
        let operation = Operation::credit(id, user, self.currency(account), FIRST_AMOUNT)
            .with_flags(Flags::OPEN_IF_MISSING);
        Sent {
            account,
            operation,
            first: None,
        }
    }

    fn load(&mut self, client: &mut Client, shared: &Shared) -> Result<(), ClientError> {
        let mut flights: Vec<InFlight> = Vec::new();
        loop {
            for group in 0..self.groups.len() {
                let busy = flights.iter().any(|flight| flight.group == group);
                if busy || self.groups[group].is_empty() {
                    continue;
                }
                let wanted = crate::model::to_u64(self.batch_count);
                let count = to_usize(shared.take(wanted));
                if count == 0 {
                    break;
                }
                let batch = (0..count).map(|_| self.draw(client, group)).collect();
                flights.push(self.send(client, group, batch)?);
            }
            if flights.is_empty() {
                return Ok(());
            }
            let Some(ticket) = client.wait_any() else {
                return Ok(());
            };
            let answers = client.wait(ticket)?;
            let position = flights.iter().position(|flight| flight.ticket == ticket);
            let flight = flights.swap_remove(position.expect("every ticket is in flight"));
            self.take_answers(&flight, &answers, shared);
        }
    }

    /// The next operation for a user of `group`.
    fn draw(&mut self, client: &mut Client, group: usize) -> Sent {
        if self.random.one_in(REPLAY_ODDS)
            && let Some(sent) = self.draw_replay(group)
        {
            return sent;
        }
        let users = &self.groups[group];
        let user = users[to_usize(self.random.below(crate::model::to_u64(users.len())))];
        let currency = self.random.below(u64::from(self.currency_count));
        let account = user * to_usize(u64::from(self.currency_count)) + to_usize(currency);
        let id = client.new_id();
        let amount = 1 + self.random.below(100);
        let (user, currency) = (self.users[user], self.currency(account));
        let operation = match self.random.below(10) {
            0..5 => {
                Operation::credit(id, user, currency, amount).with_flags(Flags::OPEN_IF_MISSING)
            }
            5..9 => Operation::debit(id, user, currency, amount),
            _ => Operation::debit(id, user, currency, amount * 50).with_flags(Flags::UP_TO),
        };
        Sent {
            account,
            operation,
            first: None,
        }
    }

    /// An operation that was answered already, to be sent again under its id.
    fn draw_replay(&mut self, group: usize) -> Option<Sent> {
        let count = crate::model::to_u64(self.answered.len());
        if count == 0 {
            return None;
        }
        let sent = self.answered[to_usize(self.random.below(count))];
        (self.group_of[self.user(sent.account)] == group).then_some(sent)
    }

    fn send(
        &mut self,
        client: &mut Client,
        group: usize,
        operations: Vec<Sent>,
    ) -> Result<InFlight, ClientError> {
        let batch: Vec<Operation> = operations.iter().map(|sent| sent.operation).collect();
        let ticket = client.submit(&batch)?;
        let now = self.clock.now().tick;
        for sent in &operations {
            let user = self.user(sent.account);
            self.waiting_since[user].get_or_insert(now);
        }
        Ok(InFlight {
            ticket,
            group,
            sent: now,
            operations,
        })
    }

    /// Users who wait still have waited up to now.
    fn note_silence(&mut self) {
        let now = self.clock.now().tick;
        for account in 0..self.accounts.len() {
            self.note_answer(account, now);
        }
    }

    /// A user got an answer that says something.
    fn note_answer(&mut self, account: usize, now: Tick) {
        let user = self.user(account);
        if let Some(since) = self.waiting_since[user].take() {
            let gap_ms = now.since(since).div_ceil(1_000_000);
            self.report.longest_gap_ms = self.report.longest_gap_ms.max(gap_ms);
        }
    }

    fn take_answers(&mut self, flight: &InFlight, answers: &[Answer], shared: &Shared) {
        let now = self.clock.now().tick;
        let micros = now.since(flight.sent).div_ceil(1_000).max(1);
        self.report.latencies.record(micros, flight.group, shared);
        let mut acknowledged = 0;
        for (sent, answer) in flight.operations.iter().zip(answers) {
            let code = answer.receipt.code;
            if code == ResultCode::Unknown || code.may_retry() {
                self.report.errors += 1;
            } else {
                self.note_answer(sent.account, now);
            }
            if self.take_answer(sent, &answer.receipt, shared) {
                acknowledged += 1;
            }
        }
        shared.add_acknowledged(acknowledged);
    }

    /// True if the answer says what became of the change.
    fn take_answer(&mut self, sent: &Sent, receipt: &Receipt, shared: &Shared) -> bool {
        if let Some(first) = &sent.first {
            return self.take_replay(first, receipt);
        }
        self.report.sent += 1;
        if !self.accounts[sent.account].learn(&sent.operation, receipt) {
            self.report.verdict.mismatched += 1;
        }
        if receipt.code == ResultCode::Unknown {
            self.report.unknown += 1;
            shared.add_unknown();
            self.unresolved.push(*sent);
            return false;
        }
        if receipt.code.may_retry() {
            return false;
        }
        if receipt.code != ResultCode::Ok {
            self.report.refused += 1;
        }
        self.regroup(sent.account, receipt);
        self.keep_for_replay(Sent {
            first: Some(*receipt),
            ..*sent
        });
        true
    }

    fn take_replay(&mut self, first: &Receipt, receipt: &Receipt) -> bool {
        if receipt.code.may_retry() {
            return false;
        }
        self.report.replayed += 1;
        let expected = Receipt {
            index: receipt.index,
            flags: first.flags.with(ReceiptFlags::REPLAYED),
            ..*first
        };
        if *receipt != expected {
            self.report.verdict.mismatched += 1;
        }
        // The change was counted when its first copy was answered.
        false
    }

    fn keep_for_replay(&mut self, sent: Sent) {
        if self.answered.len() < REPLAY_KEPT {
            self.answered.push(sent);
        } else if self.random.one_in(16) {
            let place = self.random.below(crate::model::to_u64(REPLAY_KEPT));
            self.answered[to_usize(place)] = sent;
        }
    }

    /// A receipt's place names the log, and so the node, of its user.
    fn regroup(&mut self, account: usize, receipt: &Receipt) {
        let user = self.user(account);
        let Some(log) = receipt.place.log() else {
            return;
        };
        let group = usize::from(log.get());
        if self.group_of[user] == group {
            return;
        }
        if self.groups.len() <= group {
            self.groups.resize(group + 1, Vec::new());
        }
        // All users of a lost node change their group while others are measured: in one step each.
        let (old, place) = (self.group_of[user], self.place_of[user]);
        self.groups[old].swap_remove(place);
        if let Some(moved) = self.groups[old].get(place) {
            self.place_of[*moved] = place;
        }
        self.place_of[user] = self.groups[group].len();
        self.groups[group].push(user);
        self.group_of[user] = group;
    }

    /// Asks what became of the changes whose outcome is unknown, and burns those never seen.
    fn resolve(&mut self, client: &mut Client) -> Result<(), ClientError> {
        for sent in std::mem::take(&mut self.unresolved) {
            let Some(id) = sent.operation.id() else {
                continue;
            };
            let find = Operation::find(id, sent.operation.user()).with_flags(Flags::BURN);
            for answer in client.batch(&[find])? {
                if self.accounts[sent.account].resolve(&sent.operation, &answer.receipt) {
                    self.report.unknown_resolved += 1;
                }
            }
        }
        Ok(())
    }

    fn read_back(&mut self, client: &mut Client) -> Result<(), ClientError> {
        let accounts: Vec<usize> = (0..self.accounts.len()).collect();
        for chunk in accounts.chunks(READ_COUNT) {
            let batch: Vec<Operation> = chunk
                .iter()
                .map(|account| {
                    Operation::get(self.users[self.user(*account)], self.currency(*account))
                })
                .collect();
            let ticket = client.submit(&batch)?;
            let answers = client.wait(ticket)?;
            for (account, answer) in chunk.iter().zip(&answers) {
                self.judge(*account, &answer.receipt);
            }
        }
        Ok(())
    }

    fn judge(&mut self, account: usize, receipt: &Receipt) {
        let known = self.accounts[account];
        self.report.accounts += 1;
        if receipt.code == ResultCode::Ok {
            self.report.verdict.add(known.judge(Some(receipt)));
        } else if receipt.code == ResultCode::NotFound {
            self.report.verdict.add(known.judge(None));
        } else {
            // An account that cannot be read proves nothing.
            self.report.verdict.mismatched += 1;
        }
        if known.is_open() {
            let currency = self.currency(account).get();
            *self.report.sums.entry(currency).or_default() += i128::from(known.available());
        }
    }
}
