//! The session: what a client knows and decides, without IO.
//!
//! It keeps the operations until they are answered, sends them again with the same ids when they
//! were answered "not now" or when a connection was lost, keeps the order per user, ends each
//! batch at its deadline, and corrects the clock that ids are made by. It sees no socket, no
//! clock and no randomness of its own: [`Client`](super::Client) drives it over `std::net`, other
//! programs may drive it from an event loop.

mod frames;
#[doc(hidden)]
pub mod fuzzing;
mod link;
mod questions;
#[cfg(test)]
mod tests;
mod work;

use self::frames::{Asked, Frame, Frames};
use self::link::{Leave, Link};
use self::questions::Questions;
use self::work::{BatchKey, Lost, Work};
use super::ClientError;
use super::ids::IdMaker;
use crate::clock::{Now, Tick};
use crate::limits::{
    BATCH_COUNT_MAX, CLIENT_MARGIN_MS_MAX, CLIENT_OUT_SIZE_MAX, CLIENT_OVERDUE_MS_MAX,
    DEADLINE_MS_MAX,
};
use crate::model::{
    ClusterId, Incarnation, Operation, OperationId, Random, ResultCode, RingEpoch, to_usize,
};
use crate::protocol::{
    AuditRows, ClusterAsk, FLAG_MORE, Frame as WireFrame, FrameKind, Header, Message, Receipts,
    RequestWriter, Rows, split,
};

use self::questions::Ask;
pub use self::questions::{Question, Told};
pub use self::work::Answers;

/// Operations share a frame, and with it the deadline that the front is told, if their own
/// deadlines lie apart by no more than a deadline's time over this.
const SPREAD_DIVISOR: u64 = 16;

/// How a session is to behave.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// How many addresses of fronts there are; at least 1.
    pub address_count: usize,
    /// The only cluster to talk to. `None`: the first one met.
    pub cluster: Option<ClusterId>,
    /// From handing in to the answer at the latest, in milliseconds: 1 to
    /// [`DEADLINE_MS_MAX`], above which it counts as that.
    pub deadline_ms: u32,
    /// Frames in flight; at least 1, and no more than the front allows are used.
    pub frames_in_flight_max: u32,
    /// This life of the client, drawn at random.
    pub incarnation: Incarnation,
}

/// Something that the driver is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Close the connection and hand in nothing more of it, not even that it is closed.
    Close,
    /// Connect, then say so with `connected` or `connect_failed`.
    Connect {
        /// Which address, from 0.
        address: usize,
    },
}

/// A batch that was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(BatchKey);

/// One client's dealings with a cluster. See the module.
///
/// Inputs: [`connected`](Self::connected), [`connect_failed`](Self::connect_failed),
/// [`disconnected`](Self::disconnected), [`receive`](Self::receive), [`sent`](Self::sent),
/// [`tick`](Self::tick), and what is wanted: [`submit`](Self::submit),
/// [`ask_status`](Self::ask_status), [`ask_audit`](Self::ask_audit).
/// Outputs: [`poll`](Self::poll), [`unsent`](Self::unsent), [`deadline`](Self::deadline),
/// [`next_finished`](Self::next_finished) with [`answers`](Self::answers).
///
/// One turn of a driver, always in this order:
/// 1. hand in what has come on the connection (so that no answer is late that is there);
/// 2. `tick`;
/// 3. carry out what `poll` says until it says nothing more;
/// 4. send `unsent` as far as the connection takes it, and say so with `sent`;
/// 5. sleep until `deadline`, or until the connection has something to read or room to write.
///
/// `now` never goes back in its tick.
#[derive(Debug)]
pub struct Session {
    work: Work,
    frames: Frames,
    link: Link,
    ids: IdMaker,
    random: Random,
    deadline_ms: u64,
    /// Until the first welcome a connection is wanted even without work.
    is_new: bool,
    questions: Questions,
}

impl Session {
    /// A session that wants to connect: at first in any case, after that only while there is
    /// something to ask. Panics if the options are not as documented.
    #[must_use]
    pub fn new(options: &SessionOptions, mut random: Random) -> Self {
        let mut link = Link::new(
            options.address_count,
            options.cluster,
            options.incarnation,
            to_usize(u64::from(options.frames_in_flight_max)),
            &mut random,
        );
        link.want();
        assert!(0 < options.deadline_ms);
        Self {
            work: Work::new(Random::new(random.u64())),
            frames: Frames::new(),
            link,
            ids: IdMaker::new(),
            random,
            deadline_ms: u64::from(options.deadline_ms.min(DEADLINE_MS_MAX)),
            is_new: true,
            questions: Questions::new(),
        }
    }

    /// A new id for one change. Never the same twice, and rising.
    pub fn new_id(&mut self, now: Now) -> OperationId {
        self.ids.make(now, &mut self.random)
    }

    /// Unix milliseconds as the front sees them; this machine's own before the first welcome.
    #[must_use]
    pub fn server_time_ms(&self, now: Now) -> u64 {
        self.ids.time_ms(now)
    }

    /// The cluster: the wanted one, or the first one met.
    #[must_use]
    pub const fn cluster(&self) -> Option<ClusterId> {
        self.link.cluster()
    }

    /// Is there a connection whose handshake is done?
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.link.is_ready()
    }

    /// Why the last connection ended or could not be made.
    #[must_use]
    pub const fn fault(&self) -> Option<&ClientError> {
        self.link.fault()
    }

    /// Dials and connections that failed since a request was last answered, or since a connection
    /// that stood for a second.
    #[must_use]
    pub const fn failure_count(&self) -> usize {
        self.link.failure_count()
    }

    /// Operations that are not answered yet.
    #[must_use]
    pub const fn unanswered_count(&self) -> usize {
        self.work.unanswered_count()
    }

    /// Is every operation answered?
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.work.is_idle()
    }

    /// Operations that may be handed in now: unanswered ones and untaken answers leave less.
    #[must_use]
    pub const fn room(&self) -> usize {
        self.work.room()
    }

    /// Hands in a batch: at most [`BATCH_COUNT_MAX`] operations, and no more than there is room.
    ///
    /// Those of one user are applied in order, and after those of earlier batches. An operation
    /// that is malformed is answered so at once and never sent.
    pub fn submit(&mut self, now: Now, operations: &[Operation]) -> Result<Ticket, ClientError> {
        let max = self.room().min(to_usize(u64::from(BATCH_COUNT_MAX)));
        let count = operations.len();
        if max < count {
            return Err(ClientError::TooManyOperations { count, max });
        }
        let deadline = now.tick.plus_ms(self.deadline_ms);
        let key = self.work.submit(now.tick, operations, deadline);
        self.pump(now);
        Ok(Ticket(key))
    }

    /// Asks for the state of the cluster.
    pub fn ask_status(&mut self, now: Now) -> Question {
        self.ask(now, Ask::Status)
    }

    /// Asks for the audit.
    pub fn ask_audit(&mut self, now: Now) -> Question {
        self.ask(now, Ask::Audit)
    }

    /// Gives the authority an operator's command.
    pub fn ask_cluster(&mut self, now: Now, ask: ClusterAsk) -> Question {
        self.ask(now, Ask::Cluster(ask))
    }

    fn ask(&mut self, now: Now, ask: Ask) -> Question {
        let deadline = now.tick.plus_ms(self.deadline_ms);
        let question = self.questions.ask(deadline, ask);
        self.pump(now);
        question
    }

    /// The connection that `poll` asked for is there.
    pub fn connected(&mut self, now: Now) {
        self.link.connected(now.tick);
    }

    /// The connection that `poll` asked for could not be made.
    pub fn connect_failed(&mut self, now: Now, text: String) {
        self.drop_link(now, Some(ClientError::CannotConnect { text }));
        self.pump(now);
    }

    /// The connection was ended by the other side, or failed.
    pub fn disconnected(&mut self, now: Now, text: String) {
        if self.link.is_up() {
            // A refusal that came before says more than the end that follows it.
            self.drop_link(now, Some(ClientError::CannotConnect { text }));
            self.pump(now);
        }
    }

    /// Takes what came on the connection; returns how many bytes it is done with. The rest is the
    /// beginning of a frame: to be handed in again with what follows it.
    pub fn receive(&mut self, now: Now, bytes: &[u8]) -> usize {
        if self.link.is_up() && !bytes.is_empty() {
            self.link.heard(now.tick);
        }
        let mut taken = 0;
        while self.link.is_up() {
            let rest = bytes.get(taken..).unwrap_or_default();
            let done = match split(rest, self.link.frame_size_max()) {
                Ok(None) => break,
                Ok(Some((frame, size))) => {
                    taken += size;
                    self.handle(now, &frame)
                }
                Err(error) => Err(broken(&error)),
            };
            if let Err(fault) = done {
                self.fail(now, Some(fault));
            }
        }
        self.pump(now);
        if self.link.is_up() {
            taken
        } else {
            bytes.len()
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Now) {
        self.work.tick(now.tick);
        self.questions.tick(now.tick);
        let oldest = self.frames.oldest();
        let overdue = oldest.map(|frame| frame.deadline.plus_ms(CLIENT_OVERDUE_MS_MAX));
        let is_overdue = overdue.is_some_and(|at| at <= now.tick);
        match self.link.tick(now.tick, self.frames.count()) {
            Ok(()) if !is_overdue => (),
            Err(Leave::Asked) => self.fail(now, None),
            Ok(()) | Err(Leave::Silent) => {
                let text = "the front does not answer".to_owned();
                self.fail(now, Some(ClientError::CannotConnect { text }));
            }
        }
        self.pump(now);
    }

    /// What the driver is to do next.
    pub fn poll(&mut self) -> Option<Action> {
        if self.link.take_close() {
            return Some(Action::Close);
        }
        let address = self.link.take_dial()?;
        Some(Action::Connect { address })
    }

    /// What is to be sent on the connection.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        &self.link.out
    }

    /// The first `size` bytes of `unsent` are on their way.
    pub fn sent(&mut self, now: Now, size: usize) {
        self.link.sent(size);
        self.pump(now);
    }

    /// When `tick` has something to do if nothing else happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Tick> {
        let oldest = self.frames.oldest();
        let overdue = oldest.map(|frame| frame.deadline.plus_ms(CLIENT_OVERDUE_MS_MAX));
        [
            self.work.deadline(),
            self.link.deadline(self.frames.count()),
            overdue,
            self.questions.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next batch that is answered, in the order in which they were; each once.
    pub fn next_finished(&mut self) -> Option<Ticket> {
        self.work.next_finished().map(Ticket)
    }

    /// Is this a batch of this session that was not forgotten?
    #[must_use]
    pub fn has(&self, ticket: Ticket) -> bool {
        self.work.has(ticket.0)
    }

    /// The answers to a batch, once all are there: at its deadline at the latest.
    #[must_use]
    pub fn answers(&self, ticket: Ticket) -> Option<Answers<'_>> {
        self.work.answers(ticket.0)
    }

    /// Drops the answers to a batch. Only this makes room for more operations.
    pub fn forget(&mut self, ticket: Ticket) {
        self.work.forget(ticket.0);
    }

    /// The answer to a question, once it is there, and once only: at its deadline at the latest.
    pub fn take_told(&mut self, question: Question) -> Option<Result<Told, ClientError>> {
        self.questions.take(question)
    }

    /// Sends what may be sent.
    fn pump(&mut self, now: Now) {
        let has_questions = self.questions.has_open();
        if self.is_new || has_questions || 0 < self.work.unanswered_count() {
            self.link.want();
        }
        if !self.link.is_open() {
            return;
        }
        if has_questions {
            self.write_questions(now);
        }
        while self.has_frame_room()
            && let Some(deadline) = self.work.next_deadline()
            && now.tick < deadline
        {
            self.write_request(now, deadline);
        }
    }

    fn has_frame_room(&self) -> bool {
        self.frames.count() < self.link.allowed().frame_count
            && self.link.out.len() < CLIENT_OUT_SIZE_MAX
    }

    fn write_request(&mut self, now: Now, deadline: Tick) {
        let left_ms = deadline.since(now.tick).div_euclid(1_000_000);
        let margin_ms = (left_ms >> 3).min(CLIENT_MARGIN_MS_MAX);
        let told_ms = u32::try_from(left_ms - margin_ms).unwrap_or(u32::MAX);
        let allowed = self.link.allowed();
        let out = &mut self.link.out;
        let mut writer = RequestWriter::begin(
            out,
            self.frames.request_next(),
            RingEpoch(0),
            told_ms.clamp(1, allowed.deadline_ms),
        );
        let mut list = self.frames.list();
        let spread = (self.deadline_ms * 1_000_000).div_euclid(SPREAD_DIVISOR);
        self.work
            .take(allowed.batch_count, spread, |item, operation| {
                writer.push(out, &operation.to_bytes());
                list.push(Some(item));
            });
        writer.finish(out);
        let unanswered = list.len();
        self.push_frame(now, Asked::Operations(list), unanswered, deadline);
    }

    fn write_questions(&mut self, now: Now) {
        while self.has_frame_room()
            && let Some((question, deadline, message)) = self.questions.send_next()
        {
            message.write_for(&mut self.link.out, self.frames.request_next());
            self.push_frame(now, Asked::Question(question), 1, deadline);
        }
    }

    fn push_frame(&mut self, now: Now, asked: Asked, unanswered: usize, deadline: Tick) {
        if self.frames.count() == 0 {
            self.link.waits(now.tick);
        }
        self.frames.push(Frame {
            asked,
            unanswered,
            deadline,
            end: self.link.queued_size(),
        });
    }

    /// Ends the connection from this side.
    fn fail(&mut self, now: Now, fault: Option<ClientError>) {
        self.link.close();
        self.drop_link(now, fault);
    }

    /// The connection is gone: what was under way on it is to be sent again.
    fn drop_link(&mut self, now: Now, fault: Option<ClientError>) {
        let sent_size = self.link.sent_size();
        while let Some(frame) = self.frames.pop() {
            // A frame that did not leave to its last byte cannot have been read.
            let copy = if frame.end <= sent_size {
                Lost::Sent
            } else {
                Lost::NotSent
            };
            match frame.asked {
                Asked::Operations(list) => {
                    for item in list.iter().flatten() {
                        self.work.lost(now.tick, *item, copy);
                    }
                    self.frames.keep(list);
                }
                Asked::Question(question) => self.questions.lost(question),
            }
        }
        self.link.down(now.tick, fault, &mut self.random);
    }

    fn handle(&mut self, now: Now, frame: &WireFrame<'_>) -> Result<(), ClientError> {
        let header = frame.header;
        let is_greeting = matches!(header.kind, FrameKind::Welcome | FrameKind::Refused);
        if !self.link.is_ready() && !is_greeting {
            return Err(unexpected(&header));
        }
        match Message::read(frame).map_err(|error| broken(&error))? {
            Message::Welcome(welcome) => {
                let way_ms = self.link.welcome(now.tick, &welcome)?;
                self.is_new = false;
                self.ids
                    .correct(now, welcome.time_ms.saturating_add(way_ms));
                Ok(())
            }
            Message::Refused(refused) => Err(self.link.refused(&refused)),
            Message::Ping => {
                self.link.pong_for(now, header.request);
                Ok(())
            }
            Message::Pong { time_ms } => {
                if let Some(way_ms) = self.link.pong(now.tick) {
                    self.ids.correct(now, time_ms.saturating_add(way_ms));
                }
                Ok(())
            }
            Message::Goaway => {
                self.link.goaway(now.tick);
                Ok(())
            }
            Message::Receipts(receipts) => self.receipts(now, &header, receipts),
            Message::Rows { index, rows } => self.rows(&header, index, rows),
            Message::StatusTold { json } => self.status(&header, json),
            Message::ClusterTold { json } => self.cluster_told(&header, json),
            Message::AuditTold { rows } => self.audit(&header, rows),
            Message::Hello(_)
            | Message::Request { .. }
            | Message::StatusAsk
            | Message::AuditAsk
            | Message::Register(_)
            | Message::Granted(_)
            | Message::Append(_)
            | Message::Appended(_)
            | Message::Resend { .. }
            | Message::Beat(_)
            | Message::Confirmed(_)
            | Message::Fetch(_)
            | Message::Fetched(_)
            | Message::CheckpointAsk(_)
            | Message::CheckpointPart(_)
            | Message::EntryAsk { .. }
            | Message::EntryRead(_)
            | Message::Follow
            | Message::Table(_)
            | Message::ClusterAsk(_)
            | Message::MoveOrder(_)
            | Message::MoveTold(_)
            | Message::MoveFileAsk(_)
            | Message::MoveFilePart(_)
            | Message::Recover { .. }
            | Message::Recorded(_) => Err(unexpected(&header)),
        }
    }

    fn receipts(
        &mut self,
        now: Now,
        header: &Header,
        receipts: Receipts<'_>,
    ) -> Result<(), ClientError> {
        let frame = self.frames.find(header.request);
        let frame = frame.ok_or_else(|| unexpected(header))?;
        let Asked::Operations(list) = &mut frame.asked else {
            return Err(unexpected(header));
        };
        let mut is_ahead = false;
        for receipt in receipts.iter() {
            let receipt = receipt.map_err(|error| broken(&error))?;
            let item = list.get_mut(usize::from(receipt.index));
            let item = item.and_then(Option::take);
            let item = item.ok_or_else(|| unexpected(header))?;
            frame.unanswered -= 1;
            is_ahead |= receipt.code == ResultCode::IdInFuture;
            self.work.answer(now.tick, item, &receipt);
        }
        self.frames.settle(header.request);
        self.link.works();
        if is_ahead {
            // Ids are made by a clock that runs ahead: hear the right time.
            self.link.ping(now.tick);
        }
        Ok(())
    }

    fn rows(&mut self, header: &Header, index: u16, rows: Rows<'_>) -> Result<(), ClientError> {
        let frame = self.frames.find(header.request);
        let frame = frame.ok_or_else(|| unexpected(header))?;
        let Asked::Operations(list) = &frame.asked else {
            return Err(unexpected(header));
        };
        let item = list.get(usize::from(index)).copied().flatten();
        let item = item.ok_or_else(|| unexpected(header))?;
        let done = self.work.rows(item, rows.iter());
        done.map_err(|error| broken(&error))
    }

    fn status(&mut self, header: &Header, json: &str) -> Result<(), ClientError> {
        let question = self.question(header, IsLast::Yes)?;
        self.questions.status(question, json)
    }

    fn cluster_told(&mut self, header: &Header, json: &str) -> Result<(), ClientError> {
        let question = self.question(header, IsLast::Yes)?;
        self.questions.cluster(question, json)
    }

    fn audit(&mut self, header: &Header, rows: AuditRows<'_>) -> Result<(), ClientError> {
        let is_last = if header.flags & FLAG_MORE == 0 {
            IsLast::Yes
        } else {
            IsLast::No
        };
        let question = self.question(header, is_last)?;
        self.questions.audit(question, rows, is_last)
    }

    /// The question that a frame answers.
    fn question(&mut self, header: &Header, is_last: IsLast) -> Result<Question, ClientError> {
        let frame = self.frames.find(header.request);
        let frame = frame.ok_or_else(|| unexpected(header))?;
        let Asked::Question(question) = frame.asked else {
            return Err(unexpected(header));
        };
        if is_last == IsLast::Yes {
            frame.unanswered = 0;
            self.frames.settle(header.request);
            self.link.works();
        }
        Ok(question)
    }

    /// Panics if something does not hold that always must.
    fn check_invariants(&self) {
        self.work.check_invariants();
    }
}

/// Is a frame the last one of its answer?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IsLast {
    Yes,
    No,
}

fn broken(error: &dyn std::error::Error) -> ClientError {
    ClientError::protocol(error.to_string())
}

fn unexpected(header: &Header) -> ClientError {
    let (kind, request) = (header.kind.name(), header.request);
    ClientError::protocol(format!("{kind} for request {request} answers nothing"))
}
