//! Slots on their way: this node as the source and as the target of moves.
//!
//! The authority orders each step, and tells an order again after every registration; what is
//! done already is said again. What was done is what the log says: after a restart nothing else is
//! known and nothing else is needed. A step is told once its block is committed. Each step is one
//! block that has nothing else in it.
//!
//! `source` hands over; `target` adopts, activates and drops; `staging` and `copy` bring the state
//! of the slots here, for the target and for a replay; `kept` is what must not be forgotten yet.

mod copy;
mod kept;
mod order;
mod source;
mod staging;
mod target;

use std::collections::VecDeque;

use crate::clock::{Now, Tick};
use crate::limits;
use crate::model::{Entry, LogTime, MoveNumber, Seq, SlotRange, to_usize};
use crate::protocol::{Message, MoveFilePart, MoveStep, MoveTold};
use crate::role::{DiskFault, DiskReply, DiskRequest, Level, Outbox};

use super::running::Running;
use super::shared::{Failure, Halt, Shared, say};

pub(super) use kept::Kept;
pub(super) use order::Order;
pub(super) use staging::{ImageReply, Staging, Wanted};

use copy::ImageCopy;
use source::Leaving;
use target::Coming;

/// What a node has to do with moves.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Orders that cannot be begun yet, one for each step of each move.
    orders: VecDeque<Order>,
    leaving: Option<Leaving>,
    coming: Option<Coming>,
    /// Steps whose blocks are not committed yet, in the order of the log.
    logged: VecDeque<Logged>,
    pub(super) kept: Kept,
    /// An image that the log refers to and that is gone from the disk.
    lost_image: Option<ImageCopy>,
    /// There is a next step that waits for nothing.
    is_due: bool,
    /// On the present link the backup knows what this log has adopted and not activated.
    is_adoption_told: bool,
}

/// A step that is to be logged.
#[derive(Clone, Copy, Debug)]
struct NextStep<'a> {
    step: MoveStep,
    number: MoveNumber,
    entries: &'a [Entry],
    /// Its log time is above this.
    above: LogTime,
}

/// A step that was logged.
#[derive(Clone, Copy, Debug)]
struct Logged {
    step: MoveStep,
    number: MoveNumber,
    seq: Seq,
}

/// What became of an order.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Done,
    /// It cannot be begun yet.
    Later,
}

impl Moves {
    pub(super) fn new(kept: Kept) -> Self {
        Self {
            kept,
            ..Self::default()
        }
    }

    pub(super) fn deadline(&self) -> Option<Tick> {
        if self.is_due {
            return Some(Tick(0));
        }
        self.coming.as_ref()?.staging.deadline()
    }

    /// Takes an order in. The same one may have come before.
    fn order(&mut self, order: Order, out: &mut Outbox) {
        let is_same = |other: &Order| (other.number, other.step) == (order.number, order.step);
        self.orders.retain(|other| !is_same(other));
        if to_usize(u64::from(limits::NODE_MOVE_ORDER_COUNT_MAX)) <= self.orders.len() {
            let dropped = self.orders.pop_front();
            let text =
                format!("too many orders wait; forgotten until it is told again: {dropped:?}");
            say(out, Level::Warn, text);
        }
        self.orders.push_back(order);
    }

    /// Is this step in a block that is not committed yet?
    fn is_logged(&self, step: MoveStep, number: MoveNumber) -> bool {
        let mut logged = self.logged.iter();
        logged.any(|logged| (logged.step, logged.number) == (step, number))
    }

    /// The link is gone. What was ordered is told again, unless the authority thought better of it.
    fn link_lost(&mut self) {
        self.orders.clear();
        self.is_adoption_told = false;
        if let Some(coming) = &mut self.coming {
            coming.is_ordered = false;
            coming.staging.link_lost();
        }
        if let Some(copy) = &mut self.lost_image {
            copy.link_lost();
        }
    }

    /// Are slots on their way here?
    pub(super) const fn is_taking_in(&self) -> bool {
        self.coming.is_some()
    }

    /// The move whose image is being taken in.
    pub(super) fn coming_image(&self) -> Option<MoveNumber> {
        Some(self.coming.as_ref()?.staging.image())
    }
}

impl Running {
    /// Goes on with all moves as far as one turn takes them.
    pub(super) fn run_moves(
        &mut self,
        shared: &mut Shared,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        self.tell_committed(shared, out);
        self.moves.is_due = false;
        for order in shared.orders.drain(..) {
            self.moves.order(order, out);
        }
        if shared.link.up().is_none() {
            return Ok(());
        }
        self.tell_adopted(shared, out);
        for _ in 0..self.moves.orders.len() {
            let Some(order) = self.moves.orders.pop_front() else {
                break;
            };
            if self.take_order(&order, shared, now, out)? == Taken::Later {
                self.moves.orders.push_back(order);
            }
        }
        self.leave(shared, now, out)?;
        self.come(shared, now, out)?;
        // What left is taken out of memory bit by bit.
        let is_swept = self.ledger.sweep_step(limits::MOVE_STEP_ACCOUNT_COUNT_MAX);
        self.moves.is_due |= !is_swept;
        if let Some(copy) = &mut self.moves.lost_image {
            copy.ask(shared.link.up(), out);
        }
        Ok(())
    }

    fn take_order(
        &mut self,
        order: &Order,
        shared: &mut Shared,
        now: Now,
        out: &mut Outbox,
    ) -> Result<Taken, Halt> {
        if self.moves.is_logged(order.step, order.number) {
            return Ok(Taken::Done);
        }
        match order.step {
            MoveStep::HandOver => Ok(self.order_hand_over(order, shared, out)),
            MoveStep::Adopt => Ok(self.order_adopt(order, shared, out)),
            MoveStep::Activate => self.order_activate(order, shared, now, out),
            MoveStep::Drop => self.order_drop(order, shared, now, out),
        }
    }

    /// Tells the authority which steps became committed.
    fn tell_committed(&mut self, shared: &Shared, out: &mut Outbox) {
        let committed = self.commit.committed().seq;
        while let Some(logged) = self.moves.logged.front().copied() {
            if committed < logged.seq {
                break;
            }
            self.moves.logged.pop_front();
            tell(logged.step, logged.number, logged.seq, shared, out);
        }
    }

    /// Tells the authority that a step was done before.
    fn tell_again(&self, step: MoveStep, number: MoveNumber, shared: &Shared, out: &mut Outbox) {
        tell(step, number, self.commit.committed().seq, shared, out);
    }

    /// May a block be built for a step? Load does not hold it back, only the bound of all blocks.
    fn may_step(&self, shared: &Shared) -> bool {
        let max = shared.options.limits.block_in_flight_count_max;
        self.commit.in_flight_count() < max
    }

    /// Logs a step in a block of its own.
    fn log_step(
        &mut self,
        next: NextStep<'_>,
        shared: &mut Shared,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let NextStep {
            step,
            number,
            entries,
            above,
        } = next;
        let before = self.applied;
        self.log_alone(entries, above, shared, now, out)?;
        self.moves.kept.note(entries, &before, &self.applied);
        self.moves.logged.push_back(Logged {
            step,
            number,
            seq: self.applied.seq,
        });
        Ok(())
    }

    fn owns_all(&self, ranges: &[SlotRange]) -> bool {
        order::slots_of(ranges).all(|slot| self.ledger.owned(slot))
    }

    pub(super) fn moves_link_lost(&mut self) {
        self.moves.link_lost();
        self.stop_leaving();
    }

    // ---- what disk and backup bring ----

    pub(super) fn image_reply(&mut self, reply: DiskReply, now: Now, out: &mut Outbox) {
        let Some((image, reply)) = ImageReply::read(reply) else {
            return;
        };
        if let Some(copy) = &mut self.moves.lost_image
            && copy.is_of(image)
        {
            copy.written();
            if matches!(reply, ImageReply::Complete) {
                self.moves.lost_image = None;
            }
        }
        if let Some(coming) = &mut self.moves.coming {
            let staging = &mut coming.staging;
            staging.reply(image, reply, &mut self.ledger, now, out);
        }
    }

    pub(super) fn move_file_part(&mut self, part: &MoveFilePart<'_>, now: Now, out: &mut Outbox) {
        if let Some(coming) = &mut self.moves.coming {
            coming.staging.part(part, &mut self.ledger, now, out);
        }
        if let Some(copy) = &mut self.moves.lost_image {
            match copy.arrived(part, out) {
                copy::Arrived::Fine => (),
                copy::Arrived::Missing | copy::Arrived::Wrong => {
                    let text = format!("the image {} cannot be fetched again", part.image);
                    say(out, Level::Alarm, text);
                    self.moves.lost_image = None;
                }
            }
        }
    }

    /// The disk could not do something for a move. False: it was something else.
    pub(super) fn move_file_failed(
        &mut self,
        failure: &Failure<'_>,
        now: Now,
        out: &mut Outbox,
    ) -> bool {
        let Failure {
            request,
            fault,
            text,
        } = *failure;
        if let DiskRequest::KeepMoveFiles { .. } = request {
            // They take room and do no other harm; the next change tells it again.
            say(
                out,
                Level::Warn,
                format!("images could not be removed: {text}"),
            );
            return true;
        }
        if let DiskFault::NoMoveFile(image) = fault
            && self.moves.kept.needs(*image)
            && self.moves.lost_image.is_none()
        {
            self.moves.lost_image = Some(ImageCopy::new(*image));
        }
        if let (DiskRequest::WriteMoveFile { number, .. }, Some(copy)) =
            (request, &self.moves.lost_image)
            && copy.is_of(*number)
        {
            say(out, Level::Warn, format!("image {number}: {text}"));
            self.moves.lost_image = None;
            return true;
        }
        let Some(coming) = &mut self.moves.coming else {
            return matches!(
                request,
                DiskRequest::LoadMoveFile { .. } | DiskRequest::WriteMoveFile { .. }
            );
        };
        let staging = &mut coming.staging;
        staging.failed(failure, &mut self.ledger, now, out)
    }
}

fn tell(step: MoveStep, number: MoveNumber, seq: Seq, shared: &Shared, out: &mut Outbox) {
    if let Some(peer) = shared.link.up() {
        let told = MoveTold { step, number, seq };
        out.send(peer, &Message::MoveTold(told));
    }
}
