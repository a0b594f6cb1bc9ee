//! This node as the target: takes the state of slots in beside what it serves, adopts it in its
//! log, and serves it once the authority gave the slots to this node and the log says so.

use crate::canary::{self, Bug};
use crate::clock::Now;
use crate::model::{Activation, Adopt, AdoptedFile, Adoption, Entry, LogTime, MoveNumber};
use crate::protocol::MoveStep;
use crate::role::{Level, Outbox};

use super::order::Order;
use super::staging::{Staging, Wanted};
use super::{NextStep, Running, Taken};
use crate::node::shared::{Halt, Shared, say};

/// Slots that are about to be adopted.
#[derive(Debug)]
pub(super) struct Coming {
    order: Order,
    /// The authority said so on the present connection.
    pub(super) is_ordered: bool,
    pub(super) staging: Staging,
}

impl Running {
    /// The move that this log has adopted and neither activated nor dropped.
    fn adopted(&self) -> Option<MoveNumber> {
        let staged = self.ledger.staged()?;
        staged.is_adopted.then_some(staged.number)
    }

    /// Says once on each link what is adopted and waits: the authority may have forgotten what it
    /// told to adopt, and order another move first, which has no room before this one is done.
    pub(super) fn tell_adopted(&mut self, shared: &Shared, out: &mut Outbox) {
        if std::mem::replace(&mut self.moves.is_adoption_told, true) {
            return;
        }
        if let Some(number) = self.adopted()
            && !self.moves.is_logged(MoveStep::Adopt, number)
        {
            self.tell_again(MoveStep::Adopt, number, shared, out);
        }
    }

    pub(super) fn order_adopt(
        &mut self,
        order: &Order,
        shared: &Shared,
        out: &mut Outbox,
    ) -> Taken {
        let number = order.number;
        match self.adopted() {
            Some(adopted) if adopted == number => {
                self.tell_again(MoveStep::Adopt, number, shared, out);
                return Taken::Done;
            }
            // Its activation or its drop comes first.
            Some(_) => return Taken::Later,
            None => (),
        }
        if let Some(coming) = &mut self.moves.coming
            && coming.order.is_same_adoption(order)
        {
            coming.order = order.clone();
            coming.is_ordered = true;
            return Taken::Done;
        }
        self.stop_coming();
        let slots_here = order.slots().filter(|slot| self.ledger.owned(*slot));
        if slots_here.count() != 0 {
            let text = format!("{order} are here already: not adopted");
            say(out, Level::Alarm, text);
            return Taken::Done;
        }
        say(out, Level::Info, format!("{order}: is taken in"));
        self.moves.coming = Some(Coming {
            order: order.clone(),
            is_ordered: true,
            staging: Staging::new(Wanted::from(order)),
        });
        Taken::Done
    }

    fn is_coming(&self, number: MoveNumber) -> bool {
        let coming = self.moves.coming.as_ref();
        coming.is_some_and(|coming| coming.order.number == number)
    }

    /// Gives up what was being taken in and is not adopted.
    fn stop_coming(&mut self) {
        if let Some(mut coming) = self.moves.coming.take() {
            coming.staging.abort(&mut self.ledger);
        }
    }

    /// Goes on taking in; then adopts.
    pub(super) fn come(
        &mut self,
        shared: &mut Shared,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let Some(coming) = &mut self.moves.coming else {
            return Ok(());
        };
        let backup = shared.link.up();
        coming.staging.turn(&mut self.ledger, backup, now, out);
        self.moves.is_due |= coming.staging.is_due();
        if !coming.staging.is_staged() || !coming.is_ordered || !self.may_step(shared) {
            return Ok(());
        }
        let Some(Coming { order, .. }) = self.moves.coming.take() else {
            return Ok(());
        };
        let entries = adoption(&order).entries();
        let next = NextStep {
            step: MoveStep::Adopt,
            number: order.number,
            entries: &entries,
            above: order.time,
        };
        self.log_step(next, shared, now, out)?;
        if canary::on(Bug::ActivationBeforeFlip) {
            let entries = Activation::list(order.number, order.ring_epoch, &order.ranges);
            let next = NextStep {
                step: MoveStep::Activate,
                number: order.number,
                entries: &entries,
                above: LogTime(0),
            };
            self.log_step(next, shared, now, out)?;
        }
        let text = format!("{order}: adopted in block {}", self.applied.seq);
        say(out, Level::Info, text);
        Ok(())
    }

    pub(super) fn order_activate(
        &mut self,
        order: &Order,
        shared: &mut Shared,
        now: Now,
        out: &mut Outbox,
    ) -> Result<Taken, Halt> {
        let number = order.number;
        if self.adopted() != Some(number) {
            if self.is_coming(number) {
                return Ok(Taken::Later);
            }
            if self.owns_all(&order.ranges) {
                self.tell_again(MoveStep::Activate, number, shared, out);
            } else {
                let text = format!("{order} were not adopted: not activated");
                say(out, Level::Alarm, text);
            }
            return Ok(Taken::Done);
        }
        // First the log says under which table it works.
        let table = shared.slots.as_ref().map(|slots| slots.epoch);
        let is_table_logged = self.logged_epoch() == table && self.own.is_empty();
        if table < Some(order.ring_epoch) || !is_table_logged || !self.may_step(shared) {
            return Ok(Taken::Later);
        }
        let entries = Activation::list(number, order.ring_epoch, &order.ranges);
        let next = NextStep {
            step: MoveStep::Activate,
            number,
            entries: &entries,
            above: LogTime(0),
        };
        self.log_step(next, shared, now, out)?;
        let text = format!("{order}: activated in block {}", self.applied.seq);
        say(out, Level::Info, text);
        Ok(Taken::Done)
    }

    /// The authority does not want the move any more, or not here.
    pub(super) fn order_drop(
        &mut self,
        order: &Order,
        shared: &mut Shared,
        now: Now,
        out: &mut Outbox,
    ) -> Result<Taken, Halt> {
        let number = order.number;
        if self.adopted() == Some(number) {
            if !self.may_step(shared) {
                return Ok(Taken::Later);
            }
            let entries = [Entry::Drop { number }];
            let next = NextStep {
                step: MoveStep::Drop,
                number,
                entries: &entries,
                above: LogTime(0),
            };
            self.log_step(next, shared, now, out)?;
            return Ok(Taken::Done);
        }
        if self.is_coming(number) {
            self.stop_coming();
        }
        self.tell_again(MoveStep::Drop, number, shared, out);
        Ok(Taken::Done)
    }
}

fn adoption(order: &Order) -> Adoption {
    Adoption {
        adopt: Adopt {
            number: order.number,
            ring_epoch: order.ring_epoch,
            source_log: order.peer_log,
            // Counted when the entries are made.
            slots_entry_count: 0,
            hand_over: order.place,
            digest: order.slot_digest,
            horizon_ms: order.horizon_ms,
            time: order.time,
        },
        file: AdoptedFile {
            number: order.number,
            image: order.image,
            size: order.image_size,
            digest: order.image_digest,
            offset: order.image_offset,
            account_count: order.account_count,
        },
        ranges: order.ranges.clone(),
    }
}
