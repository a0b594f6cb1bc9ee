//! What a driver sends: the contract between connections and the phases of a bench.

use bytes::BytesMut;

use crate::clock::{Now, Tick};
use crate::model::{
    Currency, Flags, OPERATION_SIZE, Operation, OperationId, Receipt, RingEpoch, UserId,
};
use crate::protocol::RequestWriter;

/// What is remembered of one operation under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Note {
    /// Which account, or which question where no account is asked for.
    pub(super) target: u32,
    /// What is to be added to it; negative: taken from it; 0: a look-up.
    pub(super) amount: i32,
}

/// When a request was due and when it left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) due: Tick,
    pub(super) sent: Tick,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A request is due, since then.
    Send(Tick),
    /// Nothing is due before.
    Wait(Tick),
    /// Nothing until answers come.
    Idle,
    /// Nothing any more: answers are awaited, then this is over.
    Over,
}

/// One phase of a bench on one thread.
pub(super) trait Work {
    /// What is next. Called again after each request until it is not `Send`.
    fn next(&mut self, now: Now) -> Next;

    /// Writes the operations of one request, at least one.
    fn fill(&mut self, request: &mut Request<'_>);

    /// An operation was answered.
    fn answered(&mut self, note: Note, id: OperationId, times: Times, receipt: &Receipt);

    /// The last operation of a request of `count` was answered, at `at`.
    fn completed(&mut self, times: Times, at: Tick, count: u32);

    /// The connection was lost before an operation was answered.
    fn lost(&mut self, note: Note, id: OperationId);

    /// Every connection is there, for the first time.
    fn connected(&mut self, _now: Now) {}

    /// Called once a turn.
    fn tick(&mut self, _now: Now) {}

    /// When `tick` has something to do.
    fn deadline(&self) -> Option<Tick> {
        None
    }
}

/// Ids in `UUIDv7` layout, one after the other: never the same twice for one user.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ids {
    time_ms: u64,
    /// Random at the start of a run and counted up from there; the thread's number on top.
    tail: u128,
}

impl Ids {
    /// Ids of thread `thread`, from a random start.
    pub(super) fn new(thread: u32, start: u64) -> Self {
        Self {
            time_ms: 0,
            tail: (u128::from(thread & 0xfff) << 64) | u128::from(start >> 3),
        }
    }

    /// Ids of the next request, made at `time_ms`.
    pub(super) const fn take(&mut self, time_ms: u64, count: u32) -> Self {
        self.time_ms = time_ms;
        let taken = *self;
        self.tail += count as u128;
        taken
    }

    /// The id of the operation at `index` of a request.
    pub(super) fn at(self, index: usize) -> OperationId {
        let tail = self.tail + u128::from(crate::model::to_u64(index));
        OperationId::from_parts(self.time_ms, tail)
    }
}

/// Where accounts lie: users and currencies are numbered from 1, accounts from 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) currency_count: u32,
}

impl Layout {
    #[expect(clippy::integer_division, reason = "accounts lie user by user")]
    pub(super) fn user(self, account: u32) -> UserId {
        let number = account / self.currency_count + 1;
        UserId::new(u128::from(number)).expect("numbers begin at 1")
    }

    pub(super) fn currency(self, account: u32) -> Currency {
        Currency::new(account % self.currency_count + 1).expect("codes begin at 1")
    }
}

/// A request that is being written.
#[derive(Debug)]
pub(super) struct Request<'a> {
    out: &'a mut BytesMut,
    writer: RequestWriter,
    notes: &'a mut Vec<Note>,
    ids: Ids,
    layout: Layout,
}

impl<'a> Request<'a> {
    pub(super) fn begin(
        out: &'a mut BytesMut,
        number: u64,
        deadline_ms: u32,
        notes: &'a mut Vec<Note>,
        (ids, layout): (Ids, Layout),
    ) -> Self {
        let writer = RequestWriter::begin(out, number, RingEpoch(0), deadline_ms);
        Self {
            out,
            writer,
            notes,
            ids,
            layout,
        }
    }

    pub(super) fn finish(self) {
        assert!(!self.notes.is_empty(), "a request has an operation");
        self.writer.finish(self.out);
    }

    /// Adds `amount` to an account, or takes it if it is negative.
    pub(super) fn change(&mut self, account: u32, amount: i32, flags: Flags) {
        let (user, currency) = self.account(account);
        let id = self.ids.at(self.notes.len());
        let size = u64::from(amount.unsigned_abs());
        let operation = if 0 < amount {
            Operation::credit(id, user, currency, size)
        } else {
            Operation::debit(id, user, currency, size)
        };
        self.push(
            &operation.with_flags(flags).to_bytes(),
            Note {
                target: account,
                amount,
            },
        );
    }

    /// Reads an account.
    pub(super) fn read(&mut self, account: u32, flags: Flags) {
        let (user, currency) = self.account(account);
        let operation = Operation::get(user, currency).with_flags(flags);
        self.push(
            &operation.to_bytes(),
            Note {
                target: account,
                amount: 0,
            },
        );
    }

    /// Asks what became of an operation on `account`, as question `target`.
    pub(super) fn find(&mut self, id: OperationId, account: u32, target: u32, flags: Flags) {
        let (user, _) = self.account(account);
        let operation = Operation::find(id, user).with_flags(flags);
        self.push(&operation.to_bytes(), Note { target, amount: 0 });
    }

    fn account(&self, account: u32) -> (UserId, Currency) {
        (self.layout.user(account), self.layout.currency(account))
    }

    fn push(&mut self, operation: &[u8; OPERATION_SIZE], note: Note) {
        self.writer.push(self.out, operation);
        self.notes.push(note);
    }
}
