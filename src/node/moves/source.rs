//! This node as the source: adds up what the slots hold while it goes on serving them, then hands
//! them over in a block of its own. From that block on their users get `moving`.

use crate::canary::{self, Bug};
use crate::clock::Now;
use crate::limits;
use crate::model::{HandOver, HandOverHead, HandedSums, LogTime};
use crate::protocol::MoveStep;
use crate::role::{Level, Outbox};

use super::order::Order;
use super::{NextStep, Running, Taken};
use crate::node::shared::{Halt, Shared, say};

/// Slots that are about to leave.
#[derive(Debug)]
pub(super) struct Leaving {
    order: Order,
    /// All accounts are added up; from here on the ledger keeps the sums.
    is_complete: bool,
}

impl Running {
    pub(super) fn order_hand_over(
        &mut self,
        order: &Order,
        shared: &Shared,
        out: &mut Outbox,
    ) -> Taken {
        if let Some(leaving) = &self.moves.leaving {
            if leaving.order.number == order.number {
                return Taken::Done;
            }
            return Taken::Later;
        }
        let number = order.number;
        if order
            .slots()
            .all(|slot| self.ledger.gone(slot) == Some(number))
        {
            self.tell_again(MoveStep::HandOver, number, shared, out);
            return Taken::Done;
        }
        if !self.owns_all(&order.ranges) {
            let text = format!("{order} are not all this log's: not handed over");
            say(out, Level::Alarm, text);
            return Taken::Done;
        }
        self.ledger.watch(number, &order.ranges);
        self.moves.leaving = Some(Leaving {
            order: order.clone(),
            is_complete: false,
        });
        Taken::Done
    }

    /// Forgets what was about to leave: it is ordered again, or not.
    pub(super) fn stop_leaving(&mut self) {
        if self.moves.leaving.take().is_some() {
            self.ledger.unwatch();
        }
    }

    /// Goes on adding up; then hands over.
    pub(super) fn leave(
        &mut self,
        shared: &mut Shared,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let Some(leaving) = &mut self.moves.leaving else {
            return Ok(());
        };
        if !leaving.is_complete {
            let step = limits::MOVE_STEP_ACCOUNT_COUNT_MAX;
            leaving.is_complete = self.ledger.watch_step(step);
        }
        if !leaving.is_complete {
            self.moves.is_due = true;
            return Ok(());
        }
        if !self.may_step(shared) {
            return Ok(());
        }
        let Some(Leaving { order, .. }) = self.moves.leaving.take() else {
            return Ok(());
        };
        self.hand_over(&order, shared, now, out)
    }

    fn hand_over(
        &mut self,
        order: &Order,
        shared: &mut Shared,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let head = HandOverHead {
            number: order.number,
            ring_epoch: order.ring_epoch,
            target: order.peer,
            target_log: order.peer_log,
        };
        let mut entries = HandOver::list(&head, &order.ranges);
        entries.extend(HandedSums::list(&self.ledger.watch_sums()));
        let next = NextStep {
            step: MoveStep::HandOver,
            number: order.number,
            entries: &entries,
            above: LogTime(0),
        };
        self.log_step(next, shared, now, out)?;
        self.ledger.unwatch();
        if let Some(slots) = &mut shared.slots
            && !canary::on(Bug::SlotsNotCleared)
        {
            slots.stop_serving(&self.ledger);
            self.parked.give_up(|user| !slots.serves(user));
            self.searches.give_up(|user| !slots.serves(user));
        }
        let text = format!("{order}: handed over in block {}", self.applied.seq);
        say(out, Level::Info, text);
        Ok(())
    }
}
