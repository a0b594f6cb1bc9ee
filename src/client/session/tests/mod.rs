//! The session driven in memory: a scripted front, and a random one.

mod links;
mod orders;
mod schedule;

use bytes::BytesMut;

use super::{Action, Session, SessionOptions, Ticket};
use crate::client::ClientError;
use crate::clock::{Now, Tick};
use crate::limits::{BATCH_COUNT_MAX, DEADLINE_MS_MAX, FRAME_SIZE_MAX};
use crate::model::{
    ClusterId, Currency, Incarnation, Operation, Random, Receipt, ResultCode, RingEpoch, UserId,
};
use crate::protocol::{
    Frame, Hello, Message, PeerRole, ReceiptsWriter, VERSION_MAX, Welcome, split,
};

pub(super) const DEADLINE_MS: u64 = 5_000;
/// The date at the start of every test, as this machine sees it.
pub(super) const WALL_MS: u64 = 1_700_000_000_000;
/// How far the front's clock is ahead.
pub(super) const AHEAD_MS: u64 = 12_345;

pub(super) fn cluster(number: u128) -> ClusterId {
    ClusterId::new(number).unwrap()
}

pub(super) fn user(number: u128) -> UserId {
    UserId::new(number).unwrap()
}

pub(super) fn coins() -> Currency {
    Currency::new(1).unwrap()
}

pub(super) fn at_ms(ms: u64) -> Now {
    Now {
        tick: Tick(ms * 1_000_000),
        wall_ms: WALL_MS + ms,
    }
}

pub(super) fn welcome(now: Now) -> Welcome {
    Welcome {
        version: VERSION_MAX,
        role: PeerRole::Front,
        cluster: cluster(77),
        time_ms: now.wall_ms + AHEAD_MS,
        frame_size_max: FRAME_SIZE_MAX,
        batch_count_max: BATCH_COUNT_MAX,
        deadline_ms_max: DEADLINE_MS_MAX,
        frames_in_flight_max: 1_024,
    }
}

pub(super) fn bytes_of(message: &Message<'_>, request: u64) -> BytesMut {
    let mut bytes = BytesMut::new();
    message.write_for(&mut bytes, request);
    bytes
}

/// One request as the front reads it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    pub(super) number: u64,
    pub(super) deadline_ms: u32,
    pub(super) operations: Vec<Operation>,
}

/// A session, the time, and the front's side of its connection.
pub(super) struct Bench {
    pub(super) session: Session,
    pub(super) now: Now,
}

impl Bench {
    pub(super) fn new(address_count: usize) -> Self {
        Self::with(address_count, None, 64)
    }

    pub(super) fn with(
        address_count: usize,
        cluster: Option<ClusterId>,
        frames_in_flight_max: u32,
    ) -> Self {
        let options = SessionOptions {
            address_count,
            cluster,
            deadline_ms: u32::try_from(DEADLINE_MS).unwrap(),
            frames_in_flight_max,
            incarnation: Incarnation::new(9).unwrap(),
        };
        Self {
            session: Session::new(&options, Random::new(1)),
            now: at_ms(1_000),
        }
    }

    /// A session whose handshake is done.
    pub(super) fn ready() -> Self {
        let mut bench = Self::new(3);
        bench.connect();
        bench
    }

    /// Goes through the handshake; returns the address.
    pub(super) fn connect(&mut self) -> usize {
        let address = self.dial();
        let hello = self.hello();
        assert_eq!(hello.role, PeerRole::Client);
        let now = self.now;
        self.receive(&bytes_of(&Message::Welcome(welcome(now)), 0));
        assert!(self.session.is_ready());
        address
    }

    /// Makes the connection that the session asks for, waiting for it if need be.
    pub(super) fn dial(&mut self) -> usize {
        for _ in 0..1_000 {
            match self.session.poll() {
                Some(Action::Connect { address }) => {
                    self.session.connected(self.now);
                    return address;
                }
                Some(Action::Close) => (),
                None => self.pass(5),
            }
        }
        panic!("no connection is asked for");
    }

    pub(super) fn hello(&mut self) -> Hello {
        let sent = self.take();
        let (frame, size) = split(&sent, FRAME_SIZE_MAX).unwrap().unwrap();
        assert_eq!(size, sent.len());
        let Message::Hello(hello) = Message::read(&frame).unwrap() else {
            panic!("{:?}", frame.header);
        };
        hello
    }

    pub(super) fn receive(&mut self, bytes: &[u8]) {
        let taken = self.session.receive(self.now, bytes);
        assert_eq!(taken, bytes.len());
        self.session.check_invariants();
    }

    /// Lets time pass and tells the session once.
    pub(super) fn pass(&mut self, ms: u64) {
        self.now.tick = self.now.tick.plus_ms(ms);
        self.now.wall_ms += ms;
        self.session.tick(self.now);
        self.session.check_invariants();
    }

    /// Everything that is to be sent, sent.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while !self.session.unsent().is_empty() {
            let sent = self.session.unsent().to_vec();
            self.session.sent(self.now, sent.len());
            all.extend_from_slice(&sent);
        }
        all
    }

    /// Every request that is to be sent, sent.
    pub(super) fn requests(&mut self) -> Vec<Request> {
        let sent = self.take();
        let mut requests = Vec::new();
        each_frame(&sent, |frame| requests.extend(request_of(frame)));
        requests
    }

    /// The only request that is to be sent, sent.
    pub(super) fn request(&mut self) -> Request {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }

    /// Answers some operations of a request, by index.
    pub(super) fn answer(&mut self, request: u64, codes: &[(u16, ResultCode)]) {
        let receipts: Vec<_> = codes
            .iter()
            .map(|(index, code)| Receipt {
                available: i64::from(*index) + 100,
                ..Receipt::bare(*index, *code)
            })
            .collect();
        self.receive(&receipts_of(request, &receipts));
    }

    pub(super) fn credit(&mut self, number: u128, amount: u64) -> Operation {
        let id = self.session.new_id(self.now);
        Operation::credit(id, user(number), coins(), amount)
    }

    pub(super) fn submit(&mut self, operations: &[Operation]) -> Ticket {
        let ticket = self.session.submit(self.now, operations).unwrap();
        self.session.check_invariants();
        ticket
    }

    /// The codes of the answers to a batch, once they are there.
    pub(super) fn codes(&self, ticket: Ticket) -> Option<Vec<ResultCode>> {
        let answers = self.session.answers(ticket)?;
        Some(answers.receipts().iter().map(|r| r.code).collect())
    }

    pub(super) fn lose(&mut self) {
        self.session.disconnected(self.now, "lost".to_owned());
        self.session.check_invariants();
    }

    pub(super) fn fault(&self) -> &ClientError {
        self.session.fault().expect("something went wrong")
    }
}

pub(super) fn each_frame(bytes: &[u8], mut each: impl FnMut(&Frame<'_>)) -> usize {
    let mut taken = 0;
    while let Some((frame, size)) = split(&bytes[taken..], FRAME_SIZE_MAX).unwrap() {
        each(&frame);
        taken += size;
    }
    taken
}

pub(super) fn request_of(frame: &Frame<'_>) -> Option<Request> {
    let Message::Request {
        deadline_ms,
        operations,
    } = Message::read(frame).unwrap()
    else {
        return None;
    };
    Some(Request {
        number: frame.header.request,
        deadline_ms,
        operations: operations.iter().map(Result::unwrap).collect(),
    })
}

pub(super) fn receipts_of(request: u64, receipts: &[Receipt]) -> BytesMut {
    let mut bytes = BytesMut::new();
    let mut writer = ReceiptsWriter::begin(&mut bytes, request, RingEpoch(1));
    for receipt in receipts {
        writer.push(&mut bytes, receipt);
    }
    writer.finish(&mut bytes);
    bytes
}
