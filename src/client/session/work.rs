//! The operations that are not answered yet, and in which order they may be sent.
//!
//! The rule that everything here serves: of one user at most one frame is in flight. What comes
//! later waits until every operation of that frame is answered; what was answered "not now" is
//! sent again before it. Knows no connection and no bytes; nothing is allocated per operation
//! once the tables have grown.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::canary::{self, Bug};
use crate::clock::Tick;
use crate::limits::{CLIENT_OPERATION_COUNT_MAX, CLIENT_RETRY_MS_MAX, RETRY_MS};
use crate::model::{
    CodeClass, Map, Operation, Random, Receipt, ResultCode, Row, UserId, new_map, to_usize,
};
use crate::protocol::MessageError;

const NONE: u32 = u32::MAX;

/// One batch that was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BatchKey {
    slot: u32,
    serial: u64,
}

/// One operation that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) batch: BatchKey,
    pub(super) index: u32,
}

/// What became of a copy of an operation whose connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// All of it had left: it may be applied.
    Sent,
    /// Some of it never left: it cannot be applied.
    NotSent,
}

/// An unanswered operation, in the list of its user. Lists never hold answered ones, so the
/// batch of a listed operation is always there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct At {
    slot: u32,
    index: u32,
}

impl At {
    const NOWHERE: Self = Self {
        slot: NONE,
        index: NONE,
    };

    const fn is_somewhere(self) -> bool {
        self.slot != NONE
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    InFlight,
    Done,
}

#[derive(Clone, Copy, Debug)]
struct State {
    line: u32,
    previous: At,
    next: At,
    phase: Phase,
    /// Some copy was sent and never answered: only the ledger knows what became of it.
    doubtful: bool,
    /// What to say at the deadline if nothing is in doubt.
    not_now: ResultCode,
    row_first: u32,
    row_count: u32,
}

#[derive(Debug, Default)]
struct Batch {
    /// 0 = free.
    serial: u64,
    deadline: Tick,
    unanswered: usize,
    operations: Vec<Operation>,
    states: Vec<State>,
    receipts: Vec<Receipt>,
    rows: Vec<Row>,
}

/// The unanswered operations of one user, in the order in which they were handed in.
#[derive(Clone, Copy, Debug)]
struct Line {
    user: u128,
    first: At,
    last: At,
    in_flight: u32,
    /// It is in `Work::ready`. A line in there is kept until it is taken out.
    is_ready: bool,
    /// Something of the frame in flight came back not-now or was lost.
    has_not_now: bool,
    retry_at: Option<Tick>,
    retry_count: u32,
}

/// All batches, and the line of each user that has something unanswered.
#[derive(Debug)]
pub(super) struct Work {
    batches: Vec<Batch>,
    batches_free: Vec<u32>,
    serial_last: u64,
    operation_count: usize,
    unanswered_count: usize,
    lines: Vec<Line>,
    lines_free: Vec<u32>,
    lines_by_user: Map<u128, u32>,
    ready: VecDeque<u32>,
    /// When lines may be sent again. May hold entries whose line needs it no longer.
    retries: BinaryHeap<Reverse<(Tick, u32)>>,
    /// Batches in the order of their deadlines, answered ones in the middle included.
    deadlines: VecDeque<BatchKey>,
    finished: VecDeque<BatchKey>,
    random: Random,
}

/// The answers to one batch.
#[derive(Clone, Copy, Debug)]
pub struct Answers<'a> {
    batch: &'a Batch,
}

impl Answers<'_> {
    /// How many operations the batch has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.batch.operations.len()
    }

    /// Has it none?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.batch.operations.is_empty()
    }

    /// The operations as they were handed in.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.batch.operations
    }

    /// The receipt of each operation, in the same order. Their `index` is always 0.
    #[must_use]
    pub fn receipts(&self) -> &[Receipt] {
        &self.batch.receipts
    }

    /// The rows that answer the `list` at `index`; none for other kinds.
    #[must_use]
    pub fn rows(&self, index: usize) -> &[Row] {
        let Some(state) = self.batch.states.get(index) else {
            return &[];
        };
        let first = to_usize(u64::from(state.row_first));
        let count = to_usize(u64::from(state.row_count));
        &self.batch.rows[first..first + count]
    }
}

impl Work {
    pub(super) fn new(mut random: Random) -> Self {
        Self {
            batches: Vec::new(),
            batches_free: Vec::new(),
            // A random start: the key of another session's batch is none of this one.
            serial_last: random.u64() >> 1,
            operation_count: 0,
            unanswered_count: 0,
            lines: Vec::new(),
            lines_free: Vec::new(),
            lines_by_user: new_map(),
            ready: VecDeque::new(),
            retries: BinaryHeap::new(),
            deadlines: VecDeque::new(),
            finished: VecDeque::new(),
            random,
        }
    }

    /// Operations that are not answered yet.
    pub(super) const fn unanswered_count(&self) -> usize {
        self.unanswered_count
    }

    /// Operations that may be handed in now.
    pub(super) const fn room(&self) -> usize {
        CLIENT_OPERATION_COUNT_MAX.saturating_sub(self.operation_count)
    }

    /// Takes a batch. Its deadline must not lie before that of an earlier batch.
    pub(super) fn submit(
        &mut self,
        now: Tick,
        operations: &[Operation],
        deadline: Tick,
    ) -> BatchKey {
        assert!(operations.len() <= self.room());
        let slot = self.batches_free.pop().unwrap_or_else(|| {
            self.batches.push(Batch::default());
            index_u32(self.batches.len() - 1)
        });
        self.serial_last += 1;
        let key = BatchKey {
            slot,
            serial: self.serial_last,
        };
        let batch = &mut self.batches[usize_of(slot)];
        assert!(batch.serial == 0 && batch.operations.is_empty());
        batch.serial = key.serial;
        batch.deadline = deadline;
        batch.unanswered = operations.len();
        batch.operations.extend_from_slice(operations);
        self.operation_count += operations.len();
        self.unanswered_count += operations.len();
        for (index, operation) in operations.iter().enumerate() {
            self.add(
                now,
                At {
                    slot,
                    index: index_u32(index),
                },
                operation,
            );
        }
        if operations.is_empty() {
            self.finished.push_back(key);
        } else {
            self.deadlines.push_back(key);
        }
        key
    }

    fn add(&mut self, now: Tick, at: At, operation: &Operation) {
        let batch = &mut self.batches[usize_of(at.slot)];
        batch.receipts.push(Receipt::bare(0, ResultCode::Unknown));
        batch.states.push(State {
            line: NONE,
            previous: At::NOWHERE,
            next: At::NOWHERE,
            phase: Phase::Waiting,
            doubtful: false,
            not_now: ResultCode::Unavailable,
            row_first: 0,
            row_count: 0,
        });
        if let Err(code) = operation.check() {
            // What can never be taken is not sent: the answer would be the same.
            self.conclude(now, at, Receipt::bare(0, code));
            return;
        }
        let line_index = self.line_of(operation.user());
        let line = &mut self.lines[usize_of(line_index)];
        let previous = line.last;
        line.last = at;
        if previous.is_somewhere() {
            self.state_mut(previous).next = at;
        } else {
            line.first = at;
        }
        let state = self.state_mut(at);
        state.line = line_index;
        state.previous = previous;
        self.settle(now, line_index);
    }

    fn line_of(&mut self, user: UserId) -> u32 {
        let user = user.get();
        if let Some(line) = self.lines_by_user.get(&user) {
            return *line;
        }
        let line = Line {
            user,
            first: At::NOWHERE,
            last: At::NOWHERE,
            in_flight: 0,
            is_ready: false,
            has_not_now: false,
            retry_at: None,
            retry_count: 0,
        };
        let index = if let Some(index) = self.lines_free.pop() {
            self.lines[usize_of(index)] = line;
            index
        } else {
            self.lines.push(line);
            index_u32(self.lines.len() - 1)
        };
        self.lines_by_user.insert(user, index);
        index
    }

    /// Deadline of what is to be sent next, if anything may be sent.
    pub(super) fn next_deadline(&mut self) -> Option<Tick> {
        while let Some(&index) = self.ready.front() {
            let first = self.lines[usize_of(index)].first;
            if first.is_somewhere() {
                return Some(self.batches[usize_of(first.slot)].deadline);
            }
            // All its operations have passed their deadline.
            self.ready.pop_front();
            self.lines[usize_of(index)].is_ready = false;
            self.release(index);
        }
        None
    }

    /// Hands out what goes into the next frame: operations of users that have nothing in flight,
    /// at most `count_max`, with deadlines at most `spread` ns apart from that of the first one.
    pub(super) fn take(
        &mut self,
        count_max: usize,
        spread: u64,
        mut each: impl FnMut(Item, &Operation),
    ) {
        let Some(base) = self.next_deadline() else {
            return;
        };
        let fits = |deadline: Tick| deadline.since(base).max(base.since(deadline)) <= spread;
        let mut count = 0;
        while let Some(deadline) = self.next_deadline() {
            let line = self.ready.front().copied();
            let (Some(line), true) = (line, count < count_max && fits(deadline)) else {
                break;
            };
            self.ready.pop_front();
            let line = &mut self.lines[usize_of(line)];
            assert!(line.is_ready && line.in_flight == 0 && line.retry_at.is_none());
            line.is_ready = false;
            let mut at = line.first;
            if canary::on(Bug::SessionReorders)
                && 0 < line.retry_count
                && fits(self.batches[usize_of(line.last.slot)].deadline)
            {
                at = line.last;
            }
            while at.is_somewhere() && count < count_max {
                let batch = &mut self.batches[usize_of(at.slot)];
                if !fits(batch.deadline) {
                    break;
                }
                let state = &mut batch.states[usize_of(at.index)];
                assert!(state.phase == Phase::Waiting);
                if canary::on(Bug::NewIdOnRetry) && state.doubtful {
                    let operation = &mut batch.operations[usize_of(at.index)];
                    *operation = operation.with_other_id();
                }
                state.phase = Phase::InFlight;
                state.row_count = 0;
                line.in_flight += 1;
                count += 1;
                let batch_key = BatchKey {
                    slot: at.slot,
                    serial: batch.serial,
                };
                let item = Item {
                    batch: batch_key,
                    index: at.index,
                };
                at = state.next;
                each(item, &batch.operations[usize_of(item.index)]);
            }
        }
    }

    /// An answer came. What passed its deadline meanwhile was answered then; this changes nothing.
    pub(super) fn answer(&mut self, now: Tick, item: Item, receipt: &Receipt) {
        let Some((at, state, operation)) = self.in_flight(item) else {
            return;
        };
        let is_change = operation.is_change();
        match receipt.code.class() {
            // "Older than the horizon, whatever happened before": of an earlier copy that says
            // nothing.
            CodeClass::Id
                if receipt.code == ResultCode::IdTooOld && is_change && state.doubtful =>
            {
                self.conclude(now, at, Receipt::bare(0, ResultCode::Unknown));
            }
            CodeClass::Done | CodeClass::Refusal | CodeClass::Id | CodeClass::Malformed => {
                self.lines[usize_of(state.line)].retry_count = 0;
                self.conclude(
                    now,
                    at,
                    Receipt {
                        index: 0,
                        ..*receipt
                    },
                );
            }
            CodeClass::NotNow => self.put_back(now, at, Some(receipt.code)),
            CodeClass::Unknown => {
                self.state_mut(at).doubtful = true;
                self.put_back(now, at, None);
            }
        }
    }

    /// Rows came; their receipt follows.
    pub(super) fn rows(
        &mut self,
        item: Item,
        rows: impl Iterator<Item = Result<Row, MessageError>>,
    ) -> Result<(), MessageError> {
        let Some((at, _, _)) = self.in_flight(item) else {
            return Ok(());
        };
        let batch = &mut self.batches[usize_of(at.slot)];
        let first = batch.rows.len();
        for row in rows {
            batch.rows.push(row?);
        }
        let state = &mut batch.states[usize_of(at.index)];
        state.row_first = index_u32(first);
        state.row_count = index_u32(batch.rows.len() - first);
        Ok(())
    }

    /// The connection was lost before an answer.
    pub(super) fn lost(&mut self, now: Tick, item: Item, copy: Lost) {
        let Some((at, state, _)) = self.in_flight(item) else {
            return;
        };
        let next = self.state_mut(at);
        next.phase = Phase::Waiting;
        next.doubtful |= copy == Lost::Sent;
        self.lines[usize_of(state.line)].in_flight -= 1;
        // No pause of its own: the next connection brings one.
        self.settle(now, state.line);
    }

    fn in_flight(&self, item: Item) -> Option<(At, State, &Operation)> {
        let batch = self.batch(item.batch)?;
        let index = usize_of(item.index);
        let state = *batch.states.get(index)?;
        let at = At {
            slot: item.batch.slot,
            index: item.index,
        };
        (state.phase == Phase::InFlight).then_some((at, state, &batch.operations[index]))
    }

    fn put_back(&mut self, now: Tick, at: At, not_now: Option<ResultCode>) {
        let state = self.state_mut(at);
        state.phase = Phase::Waiting;
        state.not_now = not_now.unwrap_or(state.not_now);
        let line = state.line;
        self.lines[usize_of(line)].in_flight -= 1;
        self.lines[usize_of(line)].has_not_now = true;
        self.settle(now, line);
    }

    fn conclude(&mut self, now: Tick, at: At, receipt: Receipt) {
        let batch = &mut self.batches[usize_of(at.slot)];
        let state = &mut batch.states[usize_of(at.index)];
        assert!(state.phase != Phase::Done);
        let ended = *state;
        state.phase = Phase::Done;
        if receipt.code != ResultCode::Ok {
            state.row_count = 0;
        }
        batch.receipts[usize_of(at.index)] = receipt;
        batch.unanswered -= 1;
        self.unanswered_count -= 1;
        if batch.unanswered == 0 {
            let key = BatchKey {
                slot: at.slot,
                serial: batch.serial,
            };
            self.finished.push_back(key);
        }
        if ended.line != NONE {
            self.unlink(&ended);
            let line = &mut self.lines[usize_of(ended.line)];
            line.in_flight -= u32::from(ended.phase == Phase::InFlight);
            self.settle(now, ended.line);
        }
    }

    fn unlink(&mut self, ended: &State) {
        if ended.previous.is_somewhere() {
            self.state_mut(ended.previous).next = ended.next;
        } else {
            self.lines[usize_of(ended.line)].first = ended.next;
        }
        if ended.next.is_somewhere() {
            self.state_mut(ended.next).previous = ended.previous;
        } else {
            self.lines[usize_of(ended.line)].last = ended.previous;
        }
    }

    /// Decides what a line waits for: its frame, a pause, its turn to be sent, or nothing more.
    fn settle(&mut self, now: Tick, index: u32) {
        let line = &mut self.lines[usize_of(index)];
        if line.is_ready || 0 < line.in_flight {
            return;
        }
        if !line.first.is_somewhere() {
            self.release(index);
        } else if line.has_not_now {
            let pause_ms = (RETRY_MS << line.retry_count.min(6)).min(CLIENT_RETRY_MS_MAX);
            line.retry_count = line.retry_count.saturating_add(1);
            // Half of it by chance, so that clients that were told "not now" together come apart.
            let half_ns = pause_ms * 500_000;
            let pause_ns = half_ns + self.random.below(half_ns + 1);
            let retry_at = Tick(now.0.saturating_add(pause_ns));
            line.retry_at = Some(retry_at);
            line.has_not_now = false;
            self.retries.push(Reverse((retry_at, index)));
        } else if line.retry_at.is_none() {
            line.is_ready = true;
            self.ready.push_back(index);
        }
    }

    fn release(&mut self, index: u32) {
        let line = &mut self.lines[usize_of(index)];
        assert!(!line.first.is_somewhere() && line.in_flight == 0 && !line.is_ready);
        line.retry_at = None;
        let removed = self.lines_by_user.remove(&line.user);
        assert!(removed == Some(index));
        self.lines_free.push(index);
    }

    /// Ends the pauses that are over and answers what has passed its deadline.
    pub(super) fn tick(&mut self, now: Tick) {
        while let Some(key) = self.deadlines.front().copied() {
            match self.batch(key) {
                Some(batch) if 0 < batch.unanswered && now < batch.deadline => break,
                Some(batch) if 0 < batch.unanswered => self.expire(now, key),
                Some(_) | None => (),
            }
            self.deadlines.pop_front();
        }
        while let Some(Reverse((tick, index))) = self.retries.peek().copied() {
            if now < tick {
                break;
            }
            self.retries.pop();
            let line = &mut self.lines[usize_of(index)];
            if line.retry_at == Some(tick) {
                line.retry_at = None;
                self.settle(now, index);
            }
        }
    }

    fn expire(&mut self, now: Tick, key: BatchKey) {
        let count = self.batches[usize_of(key.slot)].operations.len();
        for index in 0..count {
            let batch = &self.batches[usize_of(key.slot)];
            let state = &batch.states[index];
            let in_doubt = (state.doubtful || state.phase == Phase::InFlight)
                && !canary::on(Bug::DoubtForgotten);
            let code = match (in_doubt, batch.operations[index].is_change()) {
                (true, true) => ResultCode::Unknown,
                (true, false) => ResultCode::Unavailable,
                (false, _) => state.not_now,
            };
            if state.phase != Phase::Done {
                let at = At {
                    slot: key.slot,
                    index: index_u32(index),
                };
                self.conclude(now, at, Receipt::bare(0, code));
            }
        }
    }

    /// When `tick` has something to do if nothing else happens.
    pub(super) fn deadline(&self) -> Option<Tick> {
        let first = self.deadlines.front().and_then(|key| self.batch(*key));
        let retry = self.retries.peek().map(|Reverse((tick, _))| *tick);
        first
            .map(|batch| batch.deadline)
            .into_iter()
            .chain(retry)
            .min()
    }

    /// Is every operation answered?
    pub(super) const fn is_idle(&self) -> bool {
        self.unanswered_count == 0
    }

    /// The next batch that is answered, each once.
    pub(super) fn next_finished(&mut self) -> Option<BatchKey> {
        loop {
            let key = self.finished.pop_front()?;
            if self.batch(key).is_some() {
                return Some(key);
            }
        }
    }

    /// Is the batch here, answered or not?
    pub(super) fn has(&self, key: BatchKey) -> bool {
        self.batch(key).is_some()
    }

    /// The answers, once all are there.
    pub(super) fn answers(&self, key: BatchKey) -> Option<Answers<'_>> {
        let batch = self.batch(key)?;
        (batch.unanswered == 0).then_some(Answers { batch })
    }

    /// Makes room. Only for a batch that is answered.
    pub(super) fn forget(&mut self, key: BatchKey) {
        if self.answers(key).is_none() {
            return;
        }
        let batch = &mut self.batches[usize_of(key.slot)];
        self.operation_count -= batch.operations.len();
        batch.serial = 0;
        batch.operations.clear();
        batch.states.clear();
        batch.receipts.clear();
        batch.rows.clear();
        self.batches_free.push(key.slot);
        // Whoever takes batches by their keys never asks `next_finished`.
        while let Some(key) = self.finished.front()
            && self.batch(*key).is_none()
        {
            self.finished.pop_front();
        }
        while let Some(key) = self.deadlines.front()
            && self.batch(*key).is_none()
        {
            self.deadlines.pop_front();
        }
    }

    fn batch(&self, key: BatchKey) -> Option<&Batch> {
        let batch = self.batches.get(usize_of(key.slot))?;
        (batch.serial == key.serial).then_some(batch)
    }

    fn state_mut(&mut self, at: At) -> &mut State {
        &mut self.batches[usize_of(at.slot)].states[usize_of(at.index)]
    }

    /// What holds between two calls, each counted anew.
    /// Panics if something does not hold that always must.
    pub(super) fn check_invariants(&self) {
        let mut listed = 0;
        let mut used = 0;
        for (index, line) in self.lines.iter().enumerate() {
            let index = index_u32(index);
            if self.lines_by_user.get(&line.user) != Some(&index) {
                continue;
            }
            used += 1;
            let (mut in_flight, mut at, mut previous) = (0, line.first, At::NOWHERE);
            while at.is_somewhere() {
                let batch = &self.batches[usize_of(at.slot)];
                let state = &batch.states[usize_of(at.index)];
                // (1) A list holds unanswered operations of its user, linked both ways.
                assert!(batch.serial != 0 && state.phase != Phase::Done);
                assert_eq!((state.line, state.previous), (index, previous));
                assert_eq!(batch.operations[usize_of(at.index)].user().get(), line.user);
                in_flight += u32::from(state.phase == Phase::InFlight);
                listed += 1;
                previous = at;
                at = state.next;
            }
            assert_eq!(line.last, previous);
            // (2) A line counts what it has in flight.
            assert_eq!(line.in_flight, in_flight);
            // (3) A line waits for exactly one thing, or is only kept for its place in `ready`.
            let waits = [0 < in_flight, line.retry_at.is_some(), line.is_ready];
            assert_eq!(waits.iter().filter(|wait| **wait).count(), 1, "{line:?}");
            assert_eq!(line.is_ready, self.ready.contains(&index));
        }
        // (4) Every unanswered operation is in the list of its user.
        assert_eq!(listed, self.unanswered_count);
        assert_eq!(used, self.lines_by_user.len());
        assert_eq!(used + self.lines_free.len(), self.lines.len());
    }
}

fn index_u32(index: usize) -> u32 {
    u32::try_from(index).expect("CLIENT_OPERATION_COUNT_MAX bounds every table here")
}

fn usize_of(index: u32) -> usize {
    to_usize(u64::from(index))
}
