//! The load: clients with the shipped session, and what they ask for.
//!
//! Every kind of operation with every flag, batches of all sizes, several sessions on one user,
//! the same operation again, an id with other content, ids that are too old or of tomorrow, ids
//! burned before and after their operation, and malformed ones.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::auditor::{Answered, Asked};
use super::clock::{At, MS};
use super::network::{EndId, Parcel};
use super::plan::{Plan, Purpose, stream};
use super::world::World;
use crate::client::session::{Action, Question, Session, Told};
use crate::client::{ClientError, Ticket};
use crate::clock::Now;
use crate::limits::AMOUNT_MAX;
use crate::model::{
    AccountSettings, Currency, Flags, Operation, OperationId, Random, Receipt, ResultCode, UserId,
    to_u64, to_usize,
};
use crate::role::DialId;

/// Operations that may come again.
const RECENT_COUNT: usize = 256;

/// One client at work.
pub(super) struct ClientBody {
    pub(super) session: Session,
    pub(super) born_tick: u64,
    number: usize,
    link: Option<EndId>,
    dial_count: u64,
    events: Vec<LinkEvent>,
    batches: Vec<(Ticket, Vec<usize>)>,
    audit: Option<Question>,
    next_at: At,
    /// Reads every account once, and asks for nothing else.
    is_reader: bool,
}

enum LinkEvent {
    Connected(EndId),
    Failed(String),
    Lost,
}

/// What all clients share: what was asked so far, and what is to come.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) asked: Vec<Asked>,
    random: Random,
    /// Which look-ups there are where most operations are look-ups.
    reading: Option<Random>,
    left: u64,
    recent: Vec<Operation>,
    /// What clients last heard of an account: version and balance.
    heard: BTreeMap<(u128, u32), (u64, i64)>,
    users: Vec<UserId>,
    /// Unanswered operations of all clients.
    pub(super) open_count: usize,
    /// Audits that were answered, and the coins issued that the last one showed.
    pub(super) audit_count: u64,
    issued: BTreeMap<u32, u128>,
    batch_count_max: u64,
    pause_ms: u64,
    currency_count: u64,
    pub(super) is_over: bool,
    /// No id is of tomorrow.
    is_steady: bool,
}

impl ClientBody {
    pub(super) const fn new(session: Session, number: usize, born_tick: u64) -> Self {
        Self {
            session,
            born_tick,
            number,
            link: None,
            dial_count: 0,
            events: Vec::new(),
            batches: Vec::new(),
            audit: None,
            next_at: 0,
            is_reader: false,
        }
    }

    /// One that reads every account.
    pub(super) const fn reader(mut self) -> Self {
        self.is_reader = true;
        self
    }

    pub(super) fn connected(&mut self, end: EndId) {
        self.events.push(LinkEvent::Connected(end));
    }

    pub(super) fn connect_failed(&mut self, error: &str) {
        self.events.push(LinkEvent::Failed(error.to_owned()));
    }

    pub(super) fn lost(&mut self, end: EndId) {
        if self.link == Some(end) {
            self.events.push(LinkEvent::Lost);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.session.is_idle() && self.batches.is_empty() && self.audit.is_none()
    }
}

impl Workload {
    pub(super) fn new(plan: &Plan) -> Self {
        let mut random = stream(plan.seed, Purpose::Load);
        let users = (0..plan.user_count)
            .map(|_| UserId::new(random.u128() | 1).expect("random bits are not all ones"))
            .collect();
        Self {
            asked: Vec::new(),
            random,
            reading: plan
                .reads_mostly
                .then(|| stream(plan.seed, Purpose::Reading)),
            left: plan.operation_count,
            recent: Vec::new(),
            heard: BTreeMap::new(),
            users,
            open_count: 0,
            audit_count: 0,
            issued: BTreeMap::new(),
            batch_count_max: plan.batch_count_max,
            pause_ms: plan.pause_ms,
            currency_count: plan.currency_count,
            is_over: false,
            // Where nothing goes wrong every question must get a proper answer.
            is_steady: plan.is_steady || plan.faults.is_empty(),
        }
    }

    /// Is nothing more going to be asked?
    pub(super) const fn is_done(&self) -> bool {
        self.left == 0 || self.is_over
    }

    fn user(&mut self) -> UserId {
        let count = to_u64(self.users.len());
        // Half of all operations are about one user in eight.
        let bound = if self.random.one_in(2) {
            count.div_ceil(8)
        } else {
            count
        };
        self.users[to_usize(self.random.below(bound))]
    }

    fn currency(&mut self) -> Currency {
        let code = 1 + self.random.below(self.currency_count);
        Currency::new(u32::try_from(code).expect("few currencies")).expect("not 0")
    }

    fn amount(&mut self) -> u64 {
        match self.random.below(40) {
            0 => AMOUNT_MAX,
            1 => 1 + (self.random.u64() >> 2),
            _ => 1 + self.random.below(100),
        }
    }

    fn settings(&mut self) -> AccountSettings {
        let cap = match self.random.below(3) {
            0 => 200 + self.random.below(500),
            _ => AMOUNT_MAX,
        };
        AccountSettings {
            floor: if self.random.one_in(3) {
                self.random.below(100)
            } else {
                0
            },
            cap,
            frozen: self.random.one_in(6),
        }
    }

    /// The version that the account probably has.
    fn version(&mut self, user: UserId, currency: Currency) -> u64 {
        let heard = self.heard.get(&(user.get(), currency.get()));
        let version = heard.map_or(7, |(version, _)| *version);
        if self.random.one_in(4) {
            version.wrapping_add(1).max(1)
        } else {
            version
        }
    }

    /// A look-up in place of the next operation, where most of them are look-ups.
    fn look_up(&mut self) -> Option<Operation> {
        let random = self.reading.as_mut()?;
        if random.one_in(8) {
            return None;
        }
        let user = self.users[to_usize(random.below(to_u64(self.users.len())))];
        let code = u32::try_from(1 + random.below(self.currency_count)).expect("few currencies");
        Some(match random.below(4) {
            0 => Operation::list(user, 0, 4),
            _ => Operation::get(user, Currency::new(code).expect("not 0")),
        })
    }

    /// An operation that was not asked for before.
    fn fresh(&mut self, id: OperationId) -> Operation {
        let (user, currency) = (self.user(), self.currency());
        let mut operation = match self.random.below(20) {
            0 => Operation::open(id, user, currency, self.settings()),
            1 => {
                let close = Operation::close(id, user, currency);
                if self.random.one_in(4) {
                    close.if_version(self.version(user, currency))
                } else {
                    close
                }
            }
            2 => {
                let settings = self.settings();
                let version = self.version(user, currency);
                Operation::configure(id, user, currency, settings, version)
            }
            3..=9 => {
                let amount = self.amount();
                let credit = Operation::credit(id, user, currency, amount);
                match self.random.below(6) {
                    0 => credit,
                    1 => credit.if_version(self.version(user, currency)),
                    _ => credit.with_flags(Flags::OPEN_IF_MISSING),
                }
            }
            10..=12 => self.debit(id, user, currency),
            13..=15 => Operation::get(user, currency),
            16 => {
                let rows = 1 + self.random.below(4);
                let from = if self.random.one_in(3) { 2 } else { 0 };
                Operation::list(user, from, u32::try_from(rows).expect("few"))
            }
            17 => self.find(id, user),
            18 => self.burn(id, user),
            _ => self.strange_id(id, user, currency),
        };
        if self.random.one_in(4) && operation.is_change() && operation.id().is_some() {
            operation = self.noted(operation);
        }
        let is_look_up = !operation.is_change();
        if is_look_up && self.random.one_in(3) {
            operation = operation.with_flags(Flags::RECENT);
        }
        if self.random.one_in(150) {
            operation = self.malformed(operation);
        }
        operation
    }

    fn noted(&mut self, operation: Operation) -> Operation {
        if operation.check().is_err() || !operation.kind().is_change() {
            return operation;
        }
        let reason = u32::try_from(self.random.below(9)).expect("small");
        operation.with_note(reason, self.random.u64())
    }

    fn debit(&mut self, id: OperationId, user: UserId, currency: Currency) -> Operation {
        let heard = self.heard.get(&(user.get(), currency.get())).copied();
        let balance = heard.and_then(|(_, balance)| u64::try_from(balance).ok());
        let amount = match (self.random.below(4), balance) {
            // Empties the account, so that it can be closed.
            (0, Some(balance)) if balance != 0 => balance.min(AMOUNT_MAX),
            _ => self.amount(),
        };
        let debit = Operation::debit(id, user, currency, amount);
        match self.random.below(5) {
            0 => debit.if_version(self.version(user, currency)),
            1 | 2 => debit.with_flags(Flags::UP_TO),
            _ => debit,
        }
    }

    fn old_one(&mut self) -> Option<Operation> {
        let count = to_u64(self.recent.len());
        (count != 0).then(|| self.recent[to_usize(self.random.below(count))])
    }

    fn find(&mut self, id: OperationId, user: UserId) -> Operation {
        match self.old_one() {
            Some(old) if !self.random.one_in(4) => {
                old.id().map_or(Operation::find(id, user), |id| {
                    Operation::find(id, old.user())
                })
            }
            _ => Operation::find(id, user),
        }
    }

    /// Burns an id: of an operation that was asked for, or one whose operation comes later.
    fn burn(&mut self, id: OperationId, user: UserId) -> Operation {
        let find = if self.random.one_in(2) {
            self.find(id, user)
        } else {
            let currency = self.currency();
            self.remember(Operation::credit(id, user, currency, 5));
            Operation::find(id, user)
        };
        find.with_flags(Flags::BURN)
    }

    /// A change whose id is not of now.
    fn strange_id(&mut self, id: OperationId, user: UserId, currency: Currency) -> Operation {
        let ms = id.time_ms();
        let ms = match self.random.below(4) {
            // It is tried until its deadline, and what follows of its user waits for it.
            0 if !self.is_steady => ms + 180_000 + self.random.below(1_000),
            1 => 1 + self.random.below(1_000),
            2 => ms.saturating_sub(48 * 60 * 60 * 1_000),
            _ => ms.saturating_sub(self.random.below(40_000)),
        };
        let id = OperationId::from_parts(ms, self.random.u128());
        Operation::credit(id, user, currency, 3).with_flags(Flags::OPEN_IF_MISSING)
    }

    fn malformed(&mut self, operation: Operation) -> Operation {
        match self.random.below(4) {
            0 => operation.with_amount(u64::MAX),
            1 => operation.with_flags(Flags(1 << 14)),
            2 => operation.with_last_argument(u64::MAX),
            _ => operation.with_currency(u32::from(operation.currency() == 0)),
        }
    }

    /// One that was asked for before: the same, or its id with another content.
    fn again(&mut self, old: Operation) -> Operation {
        if self.random.one_in(4) && old.amount() != 0 && old.amount() < AMOUNT_MAX {
            old.with_amount(old.amount() + 1)
        } else {
            old
        }
    }

    fn remember(&mut self, operation: Operation) {
        if operation.check().is_err() || !operation.is_change() {
            return;
        }
        if self.recent.len() < RECENT_COUNT {
            self.recent.push(operation);
        } else {
            let at = self.random.below(to_u64(RECENT_COUNT));
            self.recent[to_usize(at)] = operation;
        }
    }

    /// The next batch of a client.
    fn batch(&mut self, session: &mut Session, now: Now) -> Vec<Operation> {
        let count = 1 + self.random.below(self.batch_count_max);
        let count = count.min(self.left).min(to_u64(session.room()));
        self.left -= count;
        let mut batch = Vec::new();
        for _ in 0..count {
            let old = if self.random.one_in(12) {
                self.old_one()
            } else {
                None
            };
            let operation = match (self.look_up(), old) {
                (Some(look_up), _) => look_up,
                (None, Some(old)) => self.again(old),
                (None, None) => self.fresh(session.new_id(now)),
            };
            self.remember(operation);
            batch.push(operation);
        }
        batch
    }

    fn hear(&mut self, operation: &Operation, receipt: &Receipt) {
        if receipt.version != 0 && operation.currency() != 0 {
            let key = (operation.user().get(), operation.currency());
            self.heard.insert(key, (receipt.version, receipt.available));
        }
    }
}

/// Name of an operation in the counts.
fn class_of(operation: &Operation) -> &'static str {
    if operation.check().is_err() {
        return "malformed";
    }
    let flags = operation.flags();
    if flags.has(Flags::BURN) {
        return "find_burn";
    }
    if flags.has(Flags::UP_TO) {
        return "debit_up_to";
    }
    if flags.has(Flags::OPEN_IF_MISSING) {
        return "credit_open_if_missing";
    }
    operation.kind().name()
}

impl World {
    /// One turn of a client's driver.
    pub(super) fn client_turn(&mut self, machine: usize) {
        let now = self.machines[machine].now(self.at);
        let Some(super::machine::Body::Client(mut body)) = self.machines[machine].body.take()
        else {
            return;
        };
        self.client_hears(&mut body, now);
        body.session.tick(now);
        self.client_takes_answers(&mut body);
        if self.met_gone_cluster(&body) {
            self.machines[machine].body = Some(super::machine::Body::Client(body));
            self.start_client_again(machine);
            return;
        }
        self.client_asks(&mut body, now);
        let operates = machine == self.operator_machine();
        let operate_at = operates
            .then(|| self.operator_turn(&mut body, now))
            .flatten();
        self.client_acts(machine, &mut body, now);
        let deadline = body.session.deadline();
        let born = body.born_tick;
        let next_at = (!self.workload.is_done() && !body.is_reader).then_some(body.next_at);
        self.machines[machine].body = Some(super::machine::Body::Client(body));
        let clock = self.machines[machine].clock;
        let due = deadline.map(|tick| clock.at_of(born.saturating_add(tick.0)));
        let all = [due, next_at, operate_at];
        if let Some(at) = all.into_iter().flatten().min() {
            self.wake_at(machine, at);
        }
    }

    /// Did it meet the cluster that an empty disk of the backup had made, and that is gone? A
    /// session never talks to another cluster than its first.
    fn met_gone_cluster(&self, body: &ClientBody) -> bool {
        let met = body.session.cluster();
        body.is_idle()
            && !self.faults.is_backup_exchanged()
            && met.is_some_and(|met| met != self.cluster())
    }

    /// Its user ends the program and starts it again.
    fn start_client_again(&mut self, machine: usize) {
        self.kill(machine);
        if machine == self.operator_machine() {
            self.forget_question();
        }
        self.restart_at(machine, self.at + 20 * MS);
    }

    fn client_hears(&mut self, body: &mut ClientBody, now: Now) {
        for event in std::mem::take(&mut body.events) {
            match event {
                LinkEvent::Connected(end) => {
                    body.link = Some(end);
                    body.session.connected(now);
                }
                LinkEvent::Failed(text) => body.session.connect_failed(now, text),
                LinkEvent::Lost => {
                    body.link = None;
                    body.session.disconnected(now, "lost".to_owned());
                }
            }
        }
        let Some(id) = body.link else {
            return;
        };
        let Some(end) = self.network.end_mut(id) else {
            return;
        };
        let taken = body.session.receive(now, &end.inbox);
        drop(end.inbox.split_to(taken));
        end.unread_size = 0;
        let is_over = match end.ended {
            Some(Parcel::Fin) => end.inbox.is_empty() || taken == 0,
            Some(Parcel::Reset) => true,
            Some(Parcel::Bytes(_)) | None => false,
        };
        if is_over {
            self.send_reset(id);
            body.link = None;
            body.session.disconnected(now, "ended".to_owned());
        } else {
            self.pump(id.other());
        }
    }

    fn client_takes_answers(&mut self, body: &mut ClientBody) {
        while let Some(ticket) = body.session.next_finished() {
            let Some(at) = body.batches.iter().position(|(one, _)| *one == ticket) else {
                continue;
            };
            let (_, indices) = body.batches.swap_remove(at);
            let answers = body.session.answers(ticket).expect("it is finished");
            for (index, asked) in indices.into_iter().enumerate() {
                let (receipt, rows) = (answers.receipts()[index], answers.rows(index).to_vec());
                self.counts.outcome(receipt.code.name());
                let one = &mut self.workload.asked[asked];
                let operation = one.operation;
                one.answer = Some(Answered {
                    at: self.at,
                    receipt,
                    rows,
                });
                self.workload.open_count -= 1;
                self.workload.hear(&operation, &receipt);
            }
            body.session.forget(ticket);
        }
        if let Some(question) = body.audit
            && let Some(told) = body.session.take_told(question)
        {
            body.audit = None;
            self.hear_audit(told);
        }
    }

    fn hear_audit(&mut self, told: Result<Told, ClientError>) {
        let Ok(Told::Audit(rows)) = told else {
            return;
        };
        self.workload.audit_count += 1;
        self.counts.event("audit");
        for row in rows {
            let balance = i128::try_from(row.issued).unwrap_or(i128::MAX)
                - i128::try_from(row.burned).unwrap_or(0)
                + row.adopted_in
                - row.adopted_out;
            let before = self.workload.issued.insert(row.currency, row.issued);
            if row.difference != 0 || row.available + row.held != balance {
                self.blame(format!(
                    "an audit says that money was made or lost: {row:?}"
                ));
            }
            if before.is_some_and(|before| row.issued < before) && !self.has_crossed_audits() {
                self.blame(format!(
                    "an audit shows less issued than one before: {row:?}"
                ));
            }
        }
    }

    /// Answers to audits of different clients may overtake each other.
    const fn has_crossed_audits(&self) -> bool {
        1 < self.plan.client_count
    }

    fn client_asks(&mut self, body: &mut ClientBody, now: Now) {
        if body.is_reader || self.workload.is_done() || self.at < body.next_at {
            return;
        }
        let pause = self.workload.pause_ms * MS;
        body.next_at = self.at + 1 + self.workload.random.below(2 * pause);
        if body.audit.is_none() && self.workload.random.one_in(24) {
            body.audit = Some(body.session.ask_audit(now));
        }
        let batch = self.workload.batch(&mut body.session, now);
        self.client_submits(body, now, &batch);
    }

    /// Hands a batch in and keeps what was asked.
    fn client_submits(&mut self, body: &mut ClientBody, now: Now, batch: &[Operation]) {
        if batch.is_empty() {
            return;
        }
        let ticket = body.session.submit(now, batch).expect("there is room");
        let first = self.workload.asked.len();
        for operation in batch {
            self.counts.operation(class_of(operation));
            self.workload.asked.push(Asked {
                client: body.number,
                operation: *operation,
                submitted_at: self.at,
                answer: None,
            });
        }
        self.workload.open_count += batch.len();
        let indices = (first..self.workload.asked.len()).collect();
        body.batches.push((ticket, indices));
    }

    /// Reads every account of every user, at the end.
    pub(super) fn client_reads_all(&mut self, machine: usize) {
        let now = self.machines[machine].now(self.at);
        let Some(super::machine::Body::Client(mut body)) = self.machines[machine].body.take()
        else {
            return;
        };
        let batch: Vec<Operation> = self
            .workload
            .users
            .iter()
            .map(|user| Operation::list(*user, 0, 256))
            .collect();
        self.client_submits(&mut body, now, &batch);
        body.audit = Some(body.session.ask_audit(now));
        self.machines[machine].body = Some(super::machine::Body::Client(body));
        self.wake(machine);
    }

    fn client_acts(&mut self, machine: usize, body: &mut ClientBody, now: Now) {
        while let Some(action) = body.session.poll() {
            match action {
                Action::Close => {
                    if let Some(id) = body.link.take() {
                        self.send_reset(id);
                    }
                }
                Action::Connect { address } => {
                    body.dial_count += 1;
                    let dial = DialId(body.dial_count);
                    let address = self.client_address(address);
                    self.dial(machine, dial, address);
                }
            }
        }
        let Some(id) = body.link else {
            return;
        };
        while !body.session.unsent().is_empty() {
            let bytes = Bytes::copy_from_slice(body.session.unsent());
            let size = bytes.len();
            if let Some(end) = self.network.end_mut(id) {
                end.push(bytes, self.at);
            }
            body.session.sent(now, size);
        }
        self.pump(id);
    }

    /// All is healed: every user can be read, and the audit is answered.
    pub(super) fn check_last_answers(&mut self, first: usize, audit_count: u64) {
        let asked = &self.workload.asked[first..];
        let poor = asked.iter().find_map(|one| {
            let code = one.answer.as_ref()?.receipt.code;
            let is_poor = code.may_retry() || code == ResultCode::Unknown;
            is_poor.then(|| format!("{code} for {:?} although all is healed", one.operation))
        });
        let unheard = (self.workload.audit_count == audit_count)
            .then(|| "an audit is not answered although all is healed".to_owned());
        if let Some(text) = poor.or(unheard) {
            self.blame(text);
        }
    }

    /// Not one answer of these codes is right while nothing is wrong.
    pub(super) fn check_calm_answers(&mut self) {
        let wrong: Vec<String> = self
            .workload
            .asked
            .iter()
            .filter_map(|one| {
                let answer = one.answer.as_ref()?;
                let code = answer.receipt.code;
                let is_poor = code.may_retry() && code != ResultCode::IdInFuture;
                is_poor.then(|| {
                    let (from, to) = (one.submitted_at.div_euclid(MS), answer.at.div_euclid(MS));
                    let what = one.operation;
                    format!("{code} for {what:?} of {from} to {to} ms with no fault on")
                })
            })
            .collect();
        if let Some(text) = wrong.first() {
            self.blame(text.clone());
        }
    }
}
