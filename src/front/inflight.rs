//! Every operation that this front has taken and not answered, and the batches they belong to.
//!
//! An operation lives in one cell from its arrival to its answer; the cell keeps its bytes, so
//! that the same bytes can be sent again. Cells, batches and lists are used again: nothing is
//! allocated per operation once the front has seen its load. Which target an operation goes to
//! and what a receipt means is decided in `router`; how frames to targets are filled, in `target`.

use super::clients::{Client, Origin};
use super::deadlines::Wheel;
use super::pool::{Key, Pool};
use super::target::Target;
use crate::canary::{self, Bug};
use crate::clock::Tick;
use crate::limits::{
    FRONT_ANSWER_COUNT_MAX, FRONT_OPERATION_MEMORY_SIZE_MAX, MOVING_RETRY_MS, RETRY_MS,
};
use crate::model::{OPERATION_SIZE, Receipt, ResultCode, RingEpoch, to_u64, to_usize};
use crate::protocol::ReceiptsWriter;
use crate::role::Outbox;

const NS_PER_MS: u64 = 1_000_000;

/// No cell, at the ends of the lists.
pub(super) const NONE: u32 = u32::MAX;

/// The retry pause doubles this often at most: 160 ms. Longer would add latency to a node's
/// return, shorter would make a front beat on a node that is busy.
const RETRY_DOUBLING_COUNT_MAX: u32 = 5;

/// Where an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// For a link, a newer table, or a timer of its batch.
    Waiting,
    /// In its target's next frame.
    Queued,
    /// In a frame that was sent and did not answer it yet.
    Sent,
}

/// One operation.
#[derive(Clone, Debug)]
pub(super) struct Op {
    pub(super) bytes: [u8; OPERATION_SIZE],
    /// Its batch, which lives at least as long.
    pub(super) batch: u32,
    /// Neighbours in its batch, in the order of the request.
    pub(super) previous: u32,
    pub(super) next: u32,
    /// The link that it is sent by; none while nobody owns it.
    pub(super) target: Option<u16>,
    /// Which one of the request.
    pub(super) index: u16,
    pub(super) stage: Stage,
    /// A copy was sent and its answer will never come: it may have been applied.
    pub(super) unanswered: bool,
    pub(super) is_change: bool,
    /// It waits for a table of this epoch or a newer one: until then its slot has no owner that
    /// would take it. 0 = it waits for none.
    pub(super) until_epoch: RingEpoch,
    /// What the last copy was told, or why none was sent.
    pub(super) not_now: ResultCode,
}

impl Op {
    pub(super) fn user(&self) -> u128 {
        crate::model::Operation::user_of(&self.bytes)
    }

    /// What its end needs of it, without its bytes.
    fn ended(&self) -> Ended {
        Ended {
            batch: self.batch,
            target: self.target,
            index: self.index,
            stage: self.stage,
            code_at_deadline: self.code_at_deadline(),
        }
    }

    /// A change of which a copy has no answer: it may have been applied, whatever another says.
    pub(super) const fn is_change_in_doubt(&self) -> bool {
        self.is_change && self.unanswered
    }

    /// What to say when time is up. A change of which a copy has no answer may be done or not.
    fn code_at_deadline(&self) -> ResultCode {
        if !self.is_change {
            ResultCode::Unavailable
        } else if (self.unanswered || matches!(self.stage, Stage::Sent))
            && !canary::on(Bug::FrontForgetsDoubt)
        {
            ResultCode::Unknown
        } else {
            self.not_now
        }
    }
}

/// What is left of an operation that was taken out of its cell.
#[derive(Clone, Copy, Debug)]
struct Ended {
    batch: u32,
    target: Option<u16>,
    index: u16,
    stage: Stage,
    code_at_deadline: ResultCode,
}

/// The operations of one request frame that have no answer yet.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    /// Who asked; may be gone.
    pub(super) client: Key,
    /// The client's number of the request.
    pub(super) request: u64,
    pub(super) deadline: Tick,
    pub(super) first: u32,
    pub(super) last: u32,
    /// Operations without an answer.
    pub(super) open_count: u32,
    /// Those of them that wait.
    pub(super) waiting_count: u32,
    /// Pauses before another try since something of it was settled.
    pub(super) retry_count: u32,
    pub(super) origin: Origin,
    /// Waiting operations are held back by one of the same user that is under way.
    pub(super) is_held: bool,
    /// Answers of this turn, as a list in [`Flight::answers`].
    answer_first: u32,
    answer_last: u32,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    receipt: Receipt,
    next: u32,
}

/// In tables that double, with the neighbours of their cells and their keys in frames.
const OP_MEMORY_SIZE: usize = 2 * (size_of::<Op>() + size_of::<Batch>() + 8 * size_of::<Key>());
const _: () = assert!(to_u64(OP_MEMORY_SIZE) <= FRONT_OPERATION_MEMORY_SIZE_MAX);

/// An operation as it arrives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival<'a> {
    pub(super) index: u16,
    pub(super) bytes: &'a [u8; OPERATION_SIZE],
    pub(super) is_change: bool,
    pub(super) not_now: ResultCode,
}

/// All that is under way.
#[derive(Debug, Default)]
pub(super) struct Flight {
    pub(super) ops: Pool<Op>,
    pub(super) batches: Pool<Batch>,
    /// By index of the link.
    pub(super) targets: Vec<Target>,
    /// Copies at targets whose operation was answered at its deadline.
    pub(super) orphan_count: u32,
    pub(super) deadlines: Wheel,
    pub(super) retries: Wheel,
    /// Of batches with operations that wait for a newer table: how long they do.
    pub(super) moves: Wheel,
    answers: Vec<Answer>,
    answered: Vec<u32>,
    pub(super) frame: Vec<Key>,
    pub(super) spare_refs: Vec<Vec<Key>>,
}

impl Flight {
    /// Operations that take of the budget: those without an answer, and copies at targets whose
    /// operation is gone.
    pub(super) fn held_count(&self) -> u32 {
        self.ops.count() + self.orphan_count
    }

    /// Begins a batch.
    pub(super) fn begin(
        &mut self,
        client: Key,
        request: u64,
        deadline: Tick,
        origin: Origin,
    ) -> u32 {
        let key = self.batches.insert(Batch {
            client,
            request,
            deadline,
            first: NONE,
            last: NONE,
            open_count: 0,
            waiting_count: 0,
            retry_count: 0,
            origin,
            is_held: false,
            answer_first: NONE,
            answer_last: NONE,
        });
        self.deadlines.set(key.index(), deadline);
        key.index()
    }

    /// Takes an operation in; it waits.
    pub(super) fn hold(&mut self, batch: u32, arrival: Arrival<'_>) -> u32 {
        let previous = self.batches.at(batch).last;
        let key = self.ops.insert(Op {
            bytes: *arrival.bytes,
            batch,
            previous,
            next: NONE,
            target: None,
            index: arrival.index,
            stage: Stage::Waiting,
            unanswered: false,
            is_change: arrival.is_change,
            until_epoch: RingEpoch(0),
            not_now: arrival.not_now,
        });
        if previous != NONE {
            self.ops.at_mut(previous).next = key.index();
        }
        let batch = self.batches.at_mut(batch);
        if batch.first == NONE {
            batch.first = key.index();
        }
        batch.last = key.index();
        batch.open_count += 1;
        batch.waiting_count += 1;
        key.index()
    }

    /// Sets the target of an operation that is not under way.
    pub(super) fn assign(&mut self, index: u32, target: Option<u16>) {
        let op = self.ops.at_mut(index);
        assert!(op.stage == Stage::Waiting);
        if op.target == target {
            return;
        }
        let old = std::mem::replace(&mut op.target, target);
        if let Some(old) = old {
            self.targets[usize::from(old)].load -= 1;
        }
        if let Some(new) = target {
            self.targets[usize::from(new)].load += 1;
        }
    }

    /// Puts a waiting operation into the next frame of its target, which must be usable.
    pub(super) fn enqueue(&mut self, index: u32) {
        let key = self.ops.key_at(index);
        let op = self.ops.at_mut(index);
        assert!(op.stage == Stage::Waiting);
        let target = op.target.expect("an operation is queued for its target");
        op.stage = Stage::Queued;
        self.batches.at_mut(op.batch).waiting_count -= 1;
        let target = &mut self.targets[usize::from(target)];
        assert!(target.usable);
        target.queue.push_back(key);
    }

    /// Makes an operation that was queued or sent wait.
    pub(super) fn hold_back(&mut self, index: u32) {
        let op = self.ops.at_mut(index);
        assert!(op.stage != Stage::Waiting);
        op.stage = Stage::Waiting;
        self.batches.at_mut(op.batch).waiting_count += 1;
    }

    /// Tries the waiting operations of a batch again after a pause. It doubles as long as nothing
    /// of the batch is settled, but leaves time for another try before the deadline.
    pub(super) fn retry_later(&mut self, index: u32, now: Tick) {
        if self.retries.is_set(index) {
            return;
        }
        let batch = self.batches.at_mut(index);
        let pause_ms = RETRY_MS << batch.retry_count.min(RETRY_DOUBLING_COUNT_MAX);
        let half_left_ms = batch.deadline.since(now).div_ceil(2 * NS_PER_MS);
        batch.retry_count += 1;
        let pause_ms = pause_ms.min(half_left_ms).max(RETRY_MS);
        self.retries.set(index, now.plus_ms(pause_ms));
    }

    /// Holds a waiting operation until a table of `epoch` comes, but not for longer than
    /// [`MOVING_RETRY_MS`]. With less time left than that it is not sent again without one: a copy
    /// under way at the deadline would make an unknown outcome of one that is known.
    pub(super) fn hold_until(&mut self, index: u32, epoch: RingEpoch, now: Tick) {
        let op = self.ops.at_mut(index);
        assert!(op.stage == Stage::Waiting);
        op.until_epoch = epoch;
        let batch = op.batch;
        let until = now.plus_ms(MOVING_RETRY_MS);
        if !self.moves.is_set(batch) && until < self.batches.at(batch).deadline {
            self.moves.set(batch, until);
        }
    }

    /// No table came for so long that the operations of the batch are tried again as they are.
    pub(super) fn end_hold(&mut self, batch: u32) {
        let mut at = self.batches.at(batch).first;
        while at != NONE {
            let op = self.ops.at_mut(at);
            op.until_epoch = RingEpoch(0);
            at = op.next;
        }
    }

    /// Takes an operation out of its cell and its batch. Its load is the caller's to settle.
    fn take(&mut self, index: u32) -> Ended {
        let op = self.ops.at(index);
        let (previous, next, op) = (op.previous, op.next, op.ended());
        self.ops.drop_at(index);
        if previous != NONE {
            self.ops.at_mut(previous).next = next;
        }
        if next != NONE {
            self.ops.at_mut(next).previous = previous;
        }
        let batch = self.batches.at_mut(op.batch);
        if batch.first == index {
            batch.first = next;
        }
        if batch.last == index {
            batch.last = previous;
        }
        batch.open_count -= 1;
        if op.stage == Stage::Waiting {
            batch.waiting_count -= 1;
        }
        op
    }

    /// Ends an operation with the receipt of its target, whose copy was taken out of its frame.
    pub(super) fn settle(&mut self, now: Tick, index: u32, receipt: &Receipt) {
        let op = self.take(index);
        assert!(op.stage == Stage::Sent);
        self.drop_load(op.target);
        let index = op.index;
        self.answer(op.batch, Receipt { index, ..*receipt });
        let batch = self.batches.at_mut(op.batch);
        batch.retry_count = 0;
        if batch.is_held {
            batch.is_held = false;
            self.retries.set(op.batch, now);
        }
    }

    /// Ends all operations of a batch whose time is up.
    pub(super) fn expire(&mut self, batch: u32) {
        while self.batches.at(batch).first != NONE {
            let op = self.take(self.batches.at(batch).first);
            if op.stage == Stage::Sent {
                // The copy at the target outlives its operation, and its load with it.
                self.orphan_count += 1;
            } else {
                self.drop_load(op.target);
            }
            self.answer(batch, Receipt::bare(op.index, op.code_at_deadline));
        }
    }

    fn drop_load(&mut self, target: Option<u16>) {
        if let Some(target) = target {
            self.targets[usize::from(target)].load -= 1;
        }
    }

    /// Adds an answer to what leaves at the end of the turn.
    pub(super) fn answer(&mut self, batch: u32, receipt: Receipt) {
        let at = u32::try_from(self.answers.len()).expect("answers of a turn are bounded");
        self.answers.push(Answer {
            receipt,
            next: NONE,
        });
        let entry = self.batches.at_mut(batch);
        if entry.answer_last == NONE {
            entry.answer_first = at;
            self.answered.push(batch);
        } else {
            self.answers[to_usize(u64::from(entry.answer_last))].next = at;
        }
        entry.answer_last = at;
    }

    /// Are there so many answers that they should be written before the turn ends?
    pub(super) fn is_answer_list_full(&self) -> bool {
        FRONT_ANSWER_COUNT_MAX <= self.answers.len()
    }

    #[cfg(debug_assertions)]
    /// Have all answers been written?
    pub(super) fn is_answer_list_empty(&self) -> bool {
        self.answers.is_empty() && self.answered.is_empty()
    }

    /// Writes all answers, one frame for each batch that has some, and ends batches that have
    /// all of theirs. Answers for clients that are gone are dropped.
    pub(super) fn write_answers(
        &mut self,
        clients: &mut Pool<Client>,
        epoch: RingEpoch,
        out: &mut Outbox,
    ) {
        for index in self.answered.drain(..) {
            let batch = self.batches.at_mut(index);
            let client = clients.get_mut(batch.client);
            if let Some(client) = &client
                && client.is_open()
            {
                let buffer = out.buffer(client.peer);
                let mut writer = ReceiptsWriter::begin(buffer, batch.request, epoch);
                let mut at = batch.answer_first;
                while at != NONE {
                    let answer = &self.answers[to_usize(u64::from(at))];
                    writer.push(buffer, &answer.receipt);
                    at = answer.next;
                }
                writer.finish(buffer);
            }
            batch.answer_first = NONE;
            batch.answer_last = NONE;
            if batch.open_count == 0 {
                if let Some(client) = client {
                    client.frame_count -= 1;
                }
                self.deadlines.clear(index);
                self.retries.clear(index);
                self.moves.clear(index);
                self.batches.remove_at(index);
            }
        }
        self.answers.clear();
    }
}
