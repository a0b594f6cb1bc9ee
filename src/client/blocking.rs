//! The blocking client: a session driven over `std::net` inside the calling thread.
//!
//! There is no thread in the background: the connection moves while a call is waiting, and only
//! then. Nothing here decides anything; that is the session's part.

use std::collections::VecDeque;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use super::answer::{Answer, Found, change_id};
use super::session::{Action, Answers, Question, Session, SessionOptions, Ticket, Told};
use super::wire::{Came, Wire};
use super::{ClientError, Options};
use crate::clock::{Clock, Now, Tick};
use crate::limits::{
    BATCH_COUNT_MAX, CLIENT_BATCHES_IN_FLIGHT_MAX, CLIENT_IDLE_MS, DEADLINE_MS_MAX,
    LIST_ROW_COUNT_MAX,
};
use crate::model::{
    AccountSettings, ClusterId, Currency, Flags, Incarnation, Operation, OperationId, Random,
    Receipt, ReceiptFlags, ResultCode, Row, UserId, to_usize,
};
use crate::protocol::AuditRow;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Yes,
    No,
}

/// A client of one cluster.
///
/// Every change gets its id before it is sent and keeps it over all retries, so that it is applied
/// once, whatever happens on the way. Not-now answers and lost connections are dealt with inside,
/// on any of the fronts, until the deadline.
///
/// A client is `Send` but its calls need `&mut`: one thread at a time. Give each thread a client
/// of its own. It has no thread in the background: bytes move only during calls. So after
/// [`Client::submit`] call [`Client::poll`] or [`Client::wait`] soon; a front closes a connection
/// whose frame stays half sent for 5 s or whose answers stay untaken for 10 s, and one that was
/// silent for a minute. The next call makes a new one and sends again what was not answered.
#[derive(Debug)]
pub struct Client {
    session: Session,
    clock: Clock,
    addresses: Vec<SocketAddr>,
    connect_timeout: Duration,
    wire: Option<Wire>,
    turned_at: Tick,
}

/// Reads a list of addresses of fronts: `HOST:PORT`, several with commas. Names are resolved.
pub fn resolve(addresses: &str) -> Result<Vec<SocketAddr>, ClientError> {
    let mut resolved = Vec::new();
    for text in addresses.split(',').map(str::trim) {
        let found = text.to_socket_addrs();
        resolved.extend(found.map_err(|error| ClientError::BadAddress {
            text: format!("{text:?}: {error}"),
        })?);
    }
    Ok(resolved)
}

impl Client {
    /// Connects to one of the fronts at `addresses`: `HOST:PORT`, several with commas.
    ///
    /// Begins with a random one; takes the next one whenever one fails, now and later. Fails when
    /// all have failed once.
    pub fn connect(addresses: &str, options: &Options) -> Result<Self, ClientError> {
        Self::connect_to(&resolve(addresses)?, options)
    }

    /// As [`Client::connect`], with addresses that are resolved already.
    pub fn connect_to(addresses: &[SocketAddr], options: &Options) -> Result<Self, ClientError> {
        if addresses.is_empty() {
            let text = "none was given".to_owned();
            return Err(ClientError::BadAddress { text });
        }
        let (seed, incarnation) = draw_random()?;
        let deadline_ms = options.deadline.as_millis().max(1);
        let session_options = SessionOptions {
            address_count: addresses.len(),
            cluster: options.cluster,
            deadline_ms: u32::try_from(deadline_ms).unwrap_or(DEADLINE_MS_MAX),
            frames_in_flight_max: options.pipeline_depth.max(1),
            incarnation,
        };
        let mut client = Self {
            session: Session::new(&session_options, Random::new(seed)),
            clock: Clock::start(),
            addresses: addresses.to_vec(),
            connect_timeout: options.connect_timeout.max(Duration::from_millis(1)),
            wire: None,
            turned_at: Tick(0),
        };
        while !client.session.is_ready() {
            client.turn(Wait::Yes);
            if client.addresses.len() <= client.session.failure_count() {
                let fault = client.session.fault().cloned();
                return Err(fault.unwrap_or_else(|| ClientError::CannotConnect {
                    text: "the front is ending".to_owned(),
                }));
            }
        }
        Ok(client)
    }

    /// The cluster that this client talks to.
    #[must_use]
    pub fn cluster_id(&self) -> ClusterId {
        let cluster = self.session.cluster();
        cluster.expect("a client is made with its first welcome, which names the cluster")
    }

    /// Unix milliseconds as the cluster sees them.
    #[must_use]
    pub fn server_time_ms(&self) -> u64 {
        self.session.server_time_ms(self.clock.now())
    }

    /// A new id for one change, with the cluster's time in it. To be stored before the change is
    /// sent if it is to be applied once even if this process dies.
    pub fn new_id(&mut self) -> OperationId {
        let now = self.clock.now();
        self.session.new_id(now)
    }

    /// Opens an account.
    pub fn open(
        &mut self,
        user: UserId,
        currency: Currency,
        settings: AccountSettings,
    ) -> Result<Receipt, ClientError> {
        let id = self.new_id();
        self.execute(&Operation::open(id, user, currency, settings))
    }

    /// Closes an account whose balance is 0 and that is not frozen.
    pub fn close(&mut self, user: UserId, currency: Currency) -> Result<Receipt, ClientError> {
        let id = self.new_id();
        self.execute(&Operation::close(id, user, currency))
    }

    /// Changes the settings of the account, which must have `version`.
    pub fn configure(
        &mut self,
        user: UserId,
        currency: Currency,
        settings: AccountSettings,
        version: u64,
    ) -> Result<Receipt, ClientError> {
        let id = self.new_id();
        let operation = Operation::configure(id, user, currency, settings, version);
        self.execute(&operation)
    }

    /// Adds `amount` minor units.
    pub fn credit(
        &mut self,
        user: UserId,
        currency: Currency,
        amount: u64,
    ) -> Result<Receipt, ClientError> {
        let id = self.new_id();
        self.execute(&Operation::credit(id, user, currency, amount))
    }

    /// Takes `amount` minor units.
    pub fn debit(
        &mut self,
        user: UserId,
        currency: Currency,
        amount: u64,
    ) -> Result<Receipt, ClientError> {
        let id = self.new_id();
        self.execute(&Operation::debit(id, user, currency, amount))
    }

    /// Shows an account. In the receipt: balances, version, place of its last entry.
    pub fn get(&mut self, user: UserId, currency: Currency) -> Result<Receipt, ClientError> {
        self.execute(&Operation::get(user, currency))
    }

    /// Shows all accounts of a user, by currency; a user without any is refused as `not_found`.
    /// Each page of 256 is exact at its own moment.
    pub fn list(&mut self, user: UserId) -> Result<Vec<Row>, ClientError> {
        let mut rows: Vec<Row> = Vec::new();
        let mut from = 0;
        loop {
            let page = Operation::list(user, from, LIST_ROW_COUNT_MAX);
            let shown = self.run(&page, |answers| {
                rows.extend_from_slice(answers.rows(0));
                answers.receipts()[0]
            })?;
            if shown.code == ResultCode::NotFound && !rows.is_empty() {
                // All that was left was closed since the page before.
                return Ok(rows);
            }
            let has_more = ClientError::of(shown, None)?;
            let next = rows.last().and_then(|row| row.currency.checked_add(1));
            match next {
                Some(next) if has_more.flags.has(ReceiptFlags::MORE) => {
                    if next <= from {
                        return Err(ClientError::protocol("a listing that does not go on"));
                    }
                    from = next;
                }
                Some(_) | None => return Ok(rows),
            }
        }
    }

    /// Asks what became of a change. Look-ups do not wait: "not seen" may change yet.
    pub fn find(&mut self, user: UserId, id: OperationId) -> Result<Found, ClientError> {
        self.find_with(user, id, Flags::default())
    }

    /// Asks what became of a change, and if it was not seen makes sure that it never will be
    /// applied: settles an [`ClientError::Unknown`] for good, one way or the other.
    pub fn cancel(&mut self, user: UserId, id: OperationId) -> Result<Found, ClientError> {
        self.find_with(user, id, Flags::BURN)
    }

    fn find_with(
        &mut self,
        user: UserId,
        id: OperationId,
        flags: Flags,
    ) -> Result<Found, ClientError> {
        let operation = Operation::find(id, user).with_flags(flags);
        let receipt = self.run(&operation, |answers| answers.receipts()[0])?;
        Found::of(receipt, id)
    }

    /// Does one operation: any kind, with flags, notes and an id of the caller's.
    ///
    /// After [`ClientError::Unknown`] or [`ClientError::NotNow`] the same operation may be handed
    /// in again, also by another process: it is applied once.
    pub fn execute(&mut self, operation: &Operation) -> Result<Receipt, ClientError> {
        self.execute_with(operation, |answers| answers.receipts()[0])
    }

    fn execute_with(
        &mut self,
        operation: &Operation,
        take: impl FnOnce(&Answers<'_>) -> Receipt,
    ) -> Result<Receipt, ClientError> {
        let receipt = self.run(operation, take)?;
        ClientError::of(receipt, change_id(operation))
    }

    fn run<T>(
        &mut self,
        operation: &Operation,
        take: impl FnOnce(&Answers<'_>) -> T,
    ) -> Result<T, ClientError> {
        let ticket = self.submit(std::slice::from_ref(operation))?;
        self.wait_with(ticket, take)
    }

    /// Does any number of operations; the answers come in their order.
    ///
    /// Those of one user are applied in order. Sent in frames of at most
    /// [`BATCH_COUNT_MAX`], several in flight; the deadline counts for each frame. Fails as a
    /// whole only before anything is sent, when earlier tickets leave no room.
    pub fn batch(&mut self, operations: &[Operation]) -> Result<Vec<Answer>, ClientError> {
        let mut answers = Vec::with_capacity(operations.len());
        let mut tickets = VecDeque::with_capacity(CLIENT_BATCHES_IN_FLIGHT_MAX);
        for chunk in operations.chunks(to_usize(u64::from(BATCH_COUNT_MAX))) {
            let is_full = tickets.len() == CLIENT_BATCHES_IN_FLIGHT_MAX;
            if is_full || self.session.room() < chunk.len() {
                self.collect(tickets.pop_front(), &mut answers)?;
            }
            tickets.push_back(self.submit(chunk)?);
        }
        while let Some(ticket) = tickets.pop_front() {
            self.collect(Some(ticket), &mut answers)?;
        }
        Ok(answers)
    }

    fn collect(
        &mut self,
        ticket: Option<Ticket>,
        answers: &mut Vec<Answer>,
    ) -> Result<(), ClientError> {
        let Some(ticket) = ticket else {
            return Ok(());
        };
        self.wait_with(ticket, |taken| answers.extend(answers_of(*taken)))
    }

    /// Hands in at most [`BATCH_COUNT_MAX`] operations without waiting for their answers.
    ///
    /// Several batches may be under way at a time. Each must be taken with [`Client::wait`]; until
    /// then it counts against the 262,144 operations that a client holds.
    pub fn submit(&mut self, operations: &[Operation]) -> Result<Ticket, ClientError> {
        self.wake();
        let now = self.clock.now();
        let ticket = self.session.submit(now, operations)?;
        self.send();
        Ok(ticket)
    }

    /// Waits for the answers to a batch: until its deadline at the latest.
    pub fn wait(&mut self, ticket: Ticket) -> Result<Vec<Answer>, ClientError> {
        self.wait_with(ticket, |answers| answers_of(*answers).collect())
    }

    fn wait_with<T>(
        &mut self,
        ticket: Ticket,
        take: impl FnOnce(&Answers<'_>) -> T,
    ) -> Result<T, ClientError> {
        if !self.session.has(ticket) {
            return Err(ClientError::NoSuchTicket);
        }
        loop {
            if let Some(answers) = self.session.answers(ticket) {
                let taken = take(&answers);
                self.session.forget(ticket);
                return Ok(taken);
            }
            self.turn(Wait::Yes);
        }
    }

    /// Waits until any batch is answered and names it, in the order in which they were answered;
    /// each is named once. [`Client::wait`] for it returns at once. `None` when no batch is left.
    pub fn wait_any(&mut self) -> Option<Ticket> {
        loop {
            if let Some(ticket) = self.session.next_finished() {
                return Some(ticket);
            }
            if self.session.is_idle() {
                return None;
            }
            self.turn(Wait::Yes);
        }
    }

    /// Moves what can be moved without waiting for answers, and names a batch that is answered
    /// and was not named before: [`Client::wait`] for it returns at once.
    pub fn poll(&mut self) -> Option<Ticket> {
        self.turn(Wait::No);
        self.session.next_finished()
    }

    /// The state of the cluster as JSON text.
    pub fn status(&mut self) -> Result<String, ClientError> {
        self.wake();
        let now = self.clock.now();
        let question = self.session.ask_status(now);
        match self.told(question)? {
            Told::Status(text) => Ok(text),
            Told::Audit(_) => Err(ClientError::protocol("an audit for a status")),
        }
    }

    /// The sums of every currency over all nodes at one instant, by currency.
    pub fn audit(&mut self) -> Result<Vec<AuditRow>, ClientError> {
        self.wake();
        let now = self.clock.now();
        let question = self.session.ask_audit(now);
        match self.told(question)? {
            Told::Audit(rows) => Ok(rows),
            Told::Status(_) => Err(ClientError::protocol("a status for an audit")),
        }
    }

    fn told(&mut self, question: Question) -> Result<Told, ClientError> {
        loop {
            if let Some(told) = self.session.take_told(question) {
                return told;
            }
            self.turn(Wait::Yes);
        }
    }

    /// After an idle time: sees what came, and whether the connection ended, before anything new
    /// is sent on it.
    fn wake(&mut self) {
        if self.turned_at.plus_ms(CLIENT_IDLE_MS) <= self.clock.now().tick {
            self.turn(Wait::No);
        }
    }

    /// One turn, as [`Session`] asks for it.
    fn turn(&mut self, wait: Wait) {
        self.act();
        self.send();
        self.receive(wait);
        let now = self.clock.now();
        self.session.tick(now);
        self.turned_at = now.tick;
    }

    fn act(&mut self) {
        while let Some(action) = self.session.poll() {
            match action {
                Action::Close => self.wire = None,
                Action::Connect { address } => self.connect_address(address),
            }
        }
    }

    fn connect_address(&mut self, index: usize) {
        let address = self.addresses[index];
        let timeout = self.left(self.clock.now()).unwrap_or(Duration::MAX);
        let timeout = timeout.clamp(Duration::from_millis(1), self.connect_timeout);
        match Wire::connect(address, timeout) {
            Ok(wire) => {
                self.wire = Some(wire);
                self.session.connected(self.clock.now());
            }
            Err(error) => {
                let text = format!("{address}: {error}");
                self.session.connect_failed(self.clock.now(), text);
            }
        }
    }

    fn send(&mut self) {
        while let Some(wire) = &mut self.wire
            && !self.session.unsent().is_empty()
        {
            match wire.send(self.session.unsent()) {
                Ok(0) => return,
                Ok(size) => self.session.sent(self.clock.now(), size),
                Err(error) => self.lose(&error.to_string()),
            }
        }
    }

    fn receive(&mut self, wait: Wait) {
        let left = self.left(self.clock.now());
        let is_sending = !self.session.unsent().is_empty();
        let Some(wire) = &mut self.wire else {
            if let (Wait::Yes, Some(left)) = (wait, left) {
                sleep(left);
            }
            return;
        };
        let timeout = match wait {
            Wait::No => Duration::ZERO,
            // Room to write is not waited for, only looked for again soon.
            Wait::Yes if is_sending => Duration::from_millis(1),
            Wait::Yes => left.unwrap_or(Duration::MAX).max(Duration::from_millis(1)),
        };
        match wire.receive(timeout) {
            Ok(Came::Nothing) => (),
            Ok(Came::Bytes) => {
                let taken = self.session.receive(self.clock.now(), wire.bytes());
                wire.consume(taken);
            }
            Ok(Came::End) => self.lose("the front closed the connection"),
            Err(error) => self.lose(&error.to_string()),
        }
    }

    fn lose(&mut self, text: &str) {
        if let Some(wire) = self.wire.take() {
            let text = format!("{}: {text}", wire.address());
            self.session.disconnected(self.clock.now(), text);
        }
    }

    /// Until the session has something to do by itself.
    fn left(&self, now: Now) -> Option<Duration> {
        let deadline = self.session.deadline()?;
        Some(Duration::from_nanos(deadline.since(now.tick)))
    }
}

fn answers_of(answers: Answers<'_>) -> impl Iterator<Item = Answer> {
    (0..answers.len()).map(move |index| Answer {
        id: change_id(&answers.operations()[index]),
        receipt: answers.receipts()[index],
        rows: answers.rows(index).to_vec(),
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "a pause between two dials: there is no connection whose events could be waited for"
)]
fn sleep(time: Duration) {
    std::thread::sleep(time);
}

/// A seed, and an identity for this life of the client.
fn draw_random() -> Result<(u64, Incarnation), ClientError> {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes).map_err(|error| ClientError::NoRandomness {
        text: error.to_string(),
    })?;
    let (seed, rest) = bytes.split_at(8);
    let seed = seed.try_into().map_or(0, u64::from_le_bytes);
    let number = rest.try_into().map_or(0, u128::from_le_bytes);
    // Neither 0 nor all ones.
    let incarnation = Incarnation::new((number | 1) & !(1 << 127));
    Ok((seed, incarnation.expect("one bit is set, another is not")))
}
