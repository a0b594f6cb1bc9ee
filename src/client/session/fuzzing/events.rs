//! Fronts that lose, delay, cut bytes anywhere and say anything. Whatever happens: every batch is
//! answered by its deadline, what is reported is what happened, nothing is done twice, and the
//! operations of a user are done in order.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster::{Cluster, Copy, bytes_of, receipts_of, welcome};
use crate::client::session::{Action, Question, Session, SessionOptions, Ticket};
use crate::clock::{Now, Tick};
use crate::limits::FRAME_SIZE_MAX;
use crate::model::{
    Choices, CodeClass, Currency, Flags, Incarnation, Operation, Random, ResultCode, UserId,
    to_u64, to_usize,
};
use crate::protocol::fuzzing::frame_of;
use crate::protocol::{FrameKind, Message, split};

/// Events of one list at most.
const EVENT_COUNT_MAX: u64 = 400;

const DEADLINE_MS: u32 = 800;
const WALL_MS: u64 = 1_700_000_000_000;

/// The bytes are a list of events.
pub fn check_events(bytes: &[u8]) {
    let mut run = Run::new(bytes);
    let mut count = 0;
    while !run.choices.is_empty() && count < EVENT_COUNT_MAX {
        count += 1;
        run.step();
        run.turn();
    }
    run.settle();
    run.judge();
}

/// The connection that the session has now.
struct Connection {
    number: u64,
    /// Bytes that came and are no whole frame yet.
    inbox: Vec<u8>,
    /// Bytes under way to the session.
    outbox: Vec<u8>,
    /// Bytes that the session had and did not take yet.
    untaken: Vec<u8>,
    is_hung: bool,
}

struct Run<'a> {
    choices: Choices<'a>,
    session: Session,
    now: Now,
    cluster: Cluster,
    connection: Option<Connection>,
    connection_count: u64,
    /// Ids by user in the order in which they were handed in.
    asked: BTreeMap<u128, Vec<u128>>,
    reported: BTreeMap<(u128, u128), ResultCode>,
    was_unknown: BTreeSet<(u128, u128)>,
    tickets: BTreeMap<Ticket, u64>,
    questions: BTreeMap<u64, (Question, u64)>,
    question_count: u64,
}

impl<'a> Run<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let options = SessionOptions {
            address_count: 3,
            cluster: None,
            deadline_ms: DEADLINE_MS,
            frames_in_flight_max: 4,
            incarnation: Incarnation::new(9).unwrap(),
        };
        Self {
            choices: Choices::new(bytes),
            session: Session::new(&options, Random::new(1)),
            now: Now {
                tick: Tick(0),
                wall_ms: WALL_MS,
            },
            cluster: Cluster::default(),
            connection: None,
            connection_count: 0,
            asked: BTreeMap::new(),
            reported: BTreeMap::new(),
            was_unknown: BTreeSet::new(),
            tickets: BTreeMap::new(),
            questions: BTreeMap::new(),
            question_count: 0,
        }
    }

    fn step(&mut self) {
        match self.choices.below(16) {
            0..=3 => self.submit(),
            4..=7 => self.work(),
            8 => {
                let ms = self.choices.below(1 << 8);
                self.pass(ms);
            }
            10 => self.lose(),
            11 => {
                if let Some(connection) = &mut self.connection {
                    connection.is_hung = true;
                }
            }
            12 => self.foreign(),
            13 => self.ask(),
            14 => self.say(&Message::Goaway, 0),
            _ => self.deliver(),
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now.tick = self.now.tick.plus_ms(ms);
        self.now.wall_ms += ms;
    }

    fn submit(&mut self) {
        let count = 1 + self.choices.below(6);
        let mut operations = Vec::new();
        for _ in 0..count.min(to_u64(self.session.room())) {
            let number = 1 + u128::from(self.choices.u8() % 4);
            let user = UserId::new(number).unwrap();
            let currency = Currency::new(1).unwrap();
            if self.choices.one_in(5) {
                operations.push(Operation::get(user, currency));
                continue;
            }
            let id = self.session.new_id(self.now);
            self.asked.entry(number).or_default().push(id.get());
            operations.push(Operation::credit(id, user, currency, 1));
        }
        self.hand_in(&operations);
    }

    fn hand_in(&mut self, operations: &[Operation]) {
        let ticket = self.session.submit(self.now, operations).unwrap();
        let due = self.now.tick.plus_ms(u64::from(DEADLINE_MS)).0;
        self.tickets.insert(ticket, due);
    }

    fn ask(&mut self) {
        let question = if self.choices.one_in(2) {
            self.session.ask_status(self.now)
        } else {
            self.session.ask_audit(self.now)
        };
        let due = self.now.tick.plus_ms(u64::from(DEADLINE_MS)).0;
        self.question_count += 1;
        self.questions.insert(self.question_count, (question, due));
    }

    /// A front goes on with one of its copies, also with one whose connection is gone.
    fn work(&mut self) {
        let count = to_u64(self.cluster.copies.len());
        if count == 0 {
            return;
        }
        let at = to_usize(self.choices.below(count));
        let (connection, request, mut receipts) =
            self.cluster.work(at, self.now, &mut self.choices);
        if self.choices.one_in(2) {
            receipts.reverse();
        }
        let is_here = self.connection.as_ref().map(|now| now.number) == Some(connection);
        if is_here && !receipts.is_empty() {
            let bytes = receipts_of(request, &receipts);
            self.queue(&bytes);
        }
    }

    fn say(&mut self, message: &Message<'_>, request: u64) {
        let bytes = bytes_of(message, request);
        self.queue(&bytes);
    }

    /// Any body behind a good checksum. Receipts would be lies, which a session has to believe.
    fn foreign(&mut self) {
        let kind = self.choices.one_of(FrameKind::ALL);
        let size = to_usize(self.choices.below(120));
        let bytes = frame_of(kind, self.choices.bytes(size));
        if kind != FrameKind::Receipts {
            self.queue(&bytes);
        }
    }

    fn queue(&mut self, bytes: &[u8]) {
        if let Some(connection) = &mut self.connection
            && !connection.is_hung
        {
            connection.outbox.extend_from_slice(bytes);
        }
    }

    /// Some of the bytes under way reach the session.
    fn deliver(&mut self) {
        let cut = to_usize(self.choices.below(1 << 8));
        if let Some(connection) = &mut self.connection {
            let size = if cut == 0 {
                connection.outbox.len()
            } else {
                cut.min(connection.outbox.len())
            };
            let rest = connection.outbox.split_off(size);
            let arrived = std::mem::replace(&mut connection.outbox, rest);
            connection.untaken.extend_from_slice(&arrived);
            let taken = self.session.receive(self.now, &connection.untaken);
            assert!(taken <= connection.untaken.len());
            connection.untaken.drain(..taken);
        }
    }

    fn lose(&mut self) {
        if self.connection.take().is_some() {
            self.session.disconnected(self.now, "lost".to_owned());
        }
    }

    /// What a driver does in each of its turns.
    fn turn(&mut self) {
        self.session.tick(self.now);
        while let Some(action) = self.session.poll() {
            match action {
                Action::Close => self.connection = None,
                Action::Connect { address } => {
                    assert!(address < 3 && self.connection.is_none());
                    self.connect();
                }
            }
        }
        self.send();
        self.take_answers();
        self.session.check_invariants();
    }

    fn connect(&mut self) {
        if self.choices.one_in(4) {
            let text = "connection refused".to_owned();
            self.session.connect_failed(self.now, text);
            return;
        }
        self.connection_count += 1;
        self.connection = Some(Connection {
            number: self.connection_count,
            inbox: Vec::new(),
            outbox: Vec::new(),
            untaken: Vec::new(),
            is_hung: false,
        });
        self.session.connected(self.now);
    }

    /// Some of what the session has to say reaches the front.
    fn send(&mut self) {
        let unsent = self.session.unsent().to_vec();
        let Some(connection) = &mut self.connection else {
            assert!(unsent.is_empty());
            return;
        };
        let size = if self.choices.one_in(4) {
            to_usize(self.choices.below(to_u64(unsent.len()) + 1))
        } else {
            unsent.len()
        };
        connection.inbox.extend_from_slice(&unsent[..size]);
        self.session.sent(self.now, size);
        let inbox = std::mem::take(&mut connection.inbox);
        let number = connection.number;
        let mut rest = &inbox[..];
        let mut replies = Vec::new();
        while let Some((frame, size)) = split(rest, FRAME_SIZE_MAX).unwrap() {
            rest = &rest[size..];
            let request = frame.header.request;
            match Message::read(&frame).unwrap() {
                Message::Hello(_) => replies.push((bytes_of(&welcome(self.now), 0), true)),
                Message::Ping => {
                    let time_ms = self.now.wall_ms;
                    replies.push((bytes_of(&Message::Pong { time_ms }, request), true));
                }
                Message::StatusAsk => {
                    let told = Message::StatusTold { json: "{}" };
                    replies.push((bytes_of(&told, request), false));
                }
                Message::Request {
                    deadline_ms,
                    operations,
                } => {
                    let operations: Vec<_> = operations.iter().map(Result::unwrap).collect();
                    let until = self.now.tick.plus_ms(u64::from(deadline_ms));
                    self.cluster.copies.push(Copy {
                        connection: number,
                        request,
                        open: (0..).take(operations.len()).collect(),
                        operations,
                        until_ns: until.0,
                    });
                }
                _ => (),
            }
        }
        connection.inbox = rest.to_vec();
        for (reply, is_sure) in replies {
            if is_sure || self.choices.one_in(2) {
                self.queue(&reply);
            }
        }
    }

    fn take_answers(&mut self) {
        while let Some(ticket) = self.session.next_finished() {
            assert!(self.tickets.remove(&ticket).is_some(), "answered twice");
            let answers = self.session.answers(ticket).unwrap();
            let mut again = Vec::new();
            for (operation, receipt) in answers.operations().iter().zip(answers.receipts()) {
                let code = receipt.code;
                let Some(id) = operation.id() else {
                    assert!(matches!(code.class(), CodeClass::Done | CodeClass::NotNow));
                    continue;
                };
                let key = (operation.user().get(), id.get());
                if code == ResultCode::Unknown {
                    self.was_unknown.insert(key);
                    match self.choices.below(3) {
                        0 => (),
                        1 => again.push(*operation),
                        _ => {
                            let find = Operation::find(id, operation.user());
                            again.push(find.with_flags(Flags::BURN));
                        }
                    }
                }
                self.reported.insert(key, code);
            }
            self.session.forget(ticket);
            if !again.is_empty() && again.len() <= self.session.room() {
                self.hand_in(&again);
            }
        }
        let now = self.now.tick.0;
        for due in self.tickets.values() {
            assert!(now < *due, "a batch outlives its deadline");
        }
        let mut open = std::mem::take(&mut self.questions);
        open.retain(|_, (question, due)| {
            let is_told = self.session.take_told(*question).is_some();
            assert!(is_told || now < *due, "a question outlives its deadline");
            !is_told
        });
        self.questions = open;
    }

    /// Time passes until all is answered, and all copies are worked on: none may do harm.
    fn settle(&mut self) {
        for _ in 0..200 {
            if self.tickets.is_empty() && self.questions.is_empty() {
                break;
            }
            self.pass(50);
            self.turn();
        }
        assert!(self.tickets.is_empty() && self.questions.is_empty());
        self.pass(u64::from(DEADLINE_MS));
        while !self.cluster.copies.is_empty() {
            self.work();
        }
    }

    fn judge(&self) {
        for (user, ids) in &self.asked {
            for id in ids {
                let key = (*user, *id);
                let reported = self.reported[&key];
                let decided = self.cluster.outcomes.get(&key).copied();
                match reported.class() {
                    CodeClass::Done | CodeClass::Refusal => {
                        assert_eq!(decided, Some(reported), "{key:?}");
                    }
                    // Asked again after "unknown", only the last try is known not to count.
                    CodeClass::NotNow => {
                        let is_so = decided.is_none() || self.was_unknown.contains(&key);
                        assert!(is_so, "{key:?} is {decided:?}, not {reported}");
                    }
                    CodeClass::Unknown => (),
                    CodeClass::Id | CodeClass::Malformed => panic!("{reported}"),
                }
            }
            self.judge_order(*user, ids);
        }
        assert_eq!(self.session.unanswered_count(), 0);
    }

    /// What was never "unknown" was decided in the order in which it was handed in.
    fn judge_order(&self, user: u128, asked: &[u128]) {
        let is_sure = |id: &&u128| {
            let key = (user, **id);
            !self.was_unknown.contains(&key) && self.cluster.outcomes.contains_key(&key)
        };
        let asked: Vec<_> = asked.iter().filter(is_sure).collect();
        let order = self.cluster.orders.get(&user);
        let order = order.map_or(&[][..], |order| &order[..]);
        let decided: Vec<_> = order.iter().filter(is_sure).collect();
        assert_eq!(asked, decided, "order of user {user}");
    }
}
