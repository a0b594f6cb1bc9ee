//! Where operations go: split by owner, sent again after not-now answers, ended by receipts.
//!
//! The order of one user's operations within a batch is kept like this: they are queued together,
//! in order, for one frame; and whoever has an operation under way gets no other one sent. So a
//! later operation never overtakes an earlier one that has to be sent again. What a copy without
//! an answer means for the outcome is decided at the deadline, in `inflight`.
//!
//! While a slot goes from one node to another nobody takes its operations: they are held until a
//! table comes that says who does. The authority tells it by itself and is not asked.

use super::Front;
use super::balancer::{Candidate, Route};
use super::clients::Origin;
use super::inflight::{Arrival, NONE, Stage};
use super::links::{Breach, LinkState, Purpose};
use super::pool::Key;
use super::target::{NotAsked, TOUCH_COUNT, TOUCH_COUNT_MIN};
use crate::clock::Tick;
use crate::limits::FRONT_NODE_SHARE_DIVISOR;
use crate::model::{
    CodeClass, Flags, OPERATION_SIZE, Operation, Receipt, ResultCode, RingEpoch, UserId,
};
use crate::protocol::{Header, Message, Operations, Receipts, Rows};
use crate::role::Outbox;

impl Front {
    /// Can the router of this process reach any node?
    pub(super) fn is_own_router_up(&self) -> bool {
        self.options.roles.routes() && self.routing.is_some() && self.node_up_count != 0
    }

    /// Is the router of another front reachable?
    pub(super) fn is_any_router_up(&self) -> bool {
        self.links
            .iter()
            .zip(&self.flight.targets)
            .any(|(link, target)| link.purpose == Purpose::Router && target.usable)
    }

    /// Why an operation cannot be sent while its target, or every router, is away.
    fn away_code(&self) -> ResultCode {
        if self.is_ready {
            ResultCode::Unavailable
        } else {
            ResultCode::NotReady
        }
    }

    /// The router for a batch. Another front's batch is never handed on: two balancers that name
    /// each other would play ping-pong with it.
    fn pick_route(&mut self, origin: Origin) -> Option<Route> {
        let has_routers = self.options.roles.balances() && !self.options.routers.is_empty();
        if origin == Origin::Front || !has_routers {
            return self.options.roles.routes().then_some(Route::Own);
        }
        self.list_routers();
        self.balancer.pick(&self.candidates)
    }

    /// Routers that are up, the own one first; of these, if there are any, only those that take
    /// a frame now.
    fn list_routers(&mut self) {
        self.candidates.clear();
        if self.is_own_router_up() {
            let nodes = self.flight.targets.iter().filter(|target| target.is_node);
            self.candidates.push(Candidate {
                route: Route::Own,
                load: nodes.map(|target| target.load).sum(),
                has_room: true,
            });
        }
        let targets = self.links.iter().zip(&self.flight.targets);
        for (index, (link, target)) in (0_u16..).zip(targets) {
            if link.purpose == Purpose::Router && target.usable {
                self.candidates.push(Candidate {
                    route: Route::Remote(index),
                    load: target.load,
                    has_room: target.has_room(),
                });
            }
        }
        if self.candidates.iter().any(|candidate| candidate.has_room) {
            self.candidates.retain(|candidate| candidate.has_room);
        }
    }

    fn target_of(&self, route: Option<Route>, user: UserId) -> Option<u16> {
        match route? {
            Route::Own => self.routing.as_ref()?.owner(user),
            Route::Remote(link) => Some(link),
        }
    }

    /// Takes the operations of a new batch in.
    pub(super) fn admit(&mut self, batch: u32, operations: Operations<'_>) {
        let max = self.options.limits.operation_count_max;
        let count = u32::try_from(operations.len()).expect("bounded by BATCH_COUNT_MAX");
        if !self.is_serving() {
            self.refuse_all(batch, operations, ResultCode::Unavailable);
            return;
        }
        if max < self.flight.held_count() + count {
            self.refuse_all(batch, operations, ResultCode::Busy);
            return;
        }
        let route = self.pick_route(self.flight.batches.at(batch).origin);
        let node_share = max.div_ceil(FRONT_NODE_SHARE_DIVISOR);
        let not_now = self.away_code();
        for (index, bytes) in (0_u16..).zip(operations.arrays()) {
            match screen(bytes) {
                Ok(operation) => {
                    let target = self.target_of(route, operation.user());
                    if target.is_some_and(|target| self.is_share_used(target, node_share)) {
                        self.flight
                            .answer(batch, Receipt::bare(index, ResultCode::Busy));
                        continue;
                    }
                    let arrival = Arrival {
                        index,
                        bytes,
                        is_change: operation.is_change(),
                        not_now,
                    };
                    let op = self.flight.hold(batch, arrival);
                    self.flight.assign(op, target);
                    self.queue_if_usable(op);
                }
                Err(code) => self.flight.answer(batch, Receipt::bare(index, code)),
            }
        }
    }

    /// Answers a whole batch with a not-now code: no copy of it was sent anywhere. Malformed
    /// operations are told so all the same.
    fn refuse_all(&mut self, batch: u32, operations: Operations<'_>, code: ResultCode) {
        for (index, bytes) in (0_u16..).zip(operations.arrays()) {
            let code = screen(bytes).err().unwrap_or(code);
            self.flight.answer(batch, Receipt::bare(index, code));
        }
    }

    /// One node that is slow or away must not take the budget of all.
    fn is_share_used(&self, target: u16, node_share: u32) -> bool {
        let target = &self.flight.targets[usize::from(target)];
        target.is_node && node_share <= target.load
    }

    fn queue_if_usable(&mut self, op: u32) -> bool {
        let Some(target) = self.flight.ops.at(op).target else {
            return false;
        };
        let entry = &self.flight.targets[usize::from(target)];
        if !entry.usable {
            return false;
        }
        if entry.queue.is_empty() {
            self.queued.push(target);
        }
        self.flight.enqueue(op);
        true
    }

    /// Lets timers act: deadlines, retries, and whatever waits for a link or a table.
    pub(super) fn tick_batches(&mut self, now: Tick) {
        while let Some(batch) = self.flight.deadlines.pop(now) {
            self.flight.expire(batch);
        }
        while let Some(batch) = self.flight.retries.pop(now) {
            self.resend(batch);
        }
        while let Some(batch) = self.flight.moves.pop(now) {
            self.flight.end_hold(batch);
            self.resend(batch);
        }
        if !self.is_sweep_due {
            return;
        }
        self.is_sweep_due = false;
        let mut sweep = std::mem::take(&mut self.sweep);
        sweep.extend(self.flight.batches.indexes());
        for batch in sweep.drain(..) {
            self.resend(batch);
        }
        self.sweep = sweep;
    }

    /// Sends the waiting operations of a batch again, as far as they have somewhere to go. Those
    /// of a user who has another one under way are held until that one is settled; those that
    /// wait for a newer table, and the later ones of their users, until it is there.
    fn resend(&mut self, batch: u32) {
        let entry = self.flight.batches.at(batch);
        if entry.waiting_count == 0 {
            return;
        }
        let (first, origin) = (entry.first, entry.origin);
        let epoch = self.epoch();
        let is_some_under_way = entry.waiting_count < entry.open_count;
        let route = self.pick_route(origin);
        self.held_users.clear();
        if is_some_under_way {
            self.note_users_under_way(first);
        }
        let (mut is_some_held, mut is_some_moving) = (false, false);
        let mut at = first;
        while at != NONE {
            let op = self.flight.ops.at(at);
            let (index, user) = (at, op.user());
            at = op.next;
            if op.stage != Stage::Waiting {
                continue;
            }
            if epoch < op.until_epoch {
                self.held_users.insert(user);
                is_some_moving = true;
                continue;
            }
            if self.held_users.contains(&user) {
                is_some_held = true;
                continue;
            }
            let user = UserId::new(user).expect("checked when it was admitted");
            let target = self.target_of(route, user);
            self.flight.assign(index, target);
            if !self.queue_if_usable(index) {
                self.flight.ops.at_mut(index).not_now = self.away_code();
            }
        }
        self.flight.batches.at_mut(batch).is_held = is_some_held;
        if !is_some_moving {
            self.flight.moves.clear(batch);
        }
    }

    fn note_users_under_way(&mut self, first: u32) {
        let mut at = first;
        while at != NONE {
            let op = self.flight.ops.at(at);
            if op.stage != Stage::Waiting {
                self.held_users.insert(op.user());
            }
            at = op.next;
        }
    }

    /// Takes the receipts of a node or of another front's router.
    pub(super) fn on_receipts(
        &mut self,
        now: Tick,
        link: u16,
        header: &Header,
        receipts: Receipts<'_>,
        out: &mut Outbox,
    ) -> Result<(), Breach> {
        let frame = Key::from_number(header.request);
        for (place, receipt) in receipts.iter().enumerate() {
            if place.is_multiple_of(TOUCH_COUNT) && TOUCH_COUNT_MIN <= receipts.len() - place {
                self.flight.touch_asked(link, frame, place);
            }
            let receipt = receipt.map_err(|error| Breach::malformed(error.to_string()))?;
            let taken = self.flight.take_answered(link, frame, receipt.index);
            let Some(op) = taken.map_err(|NotAsked| not_asked(header.request, receipt.index))?
            else {
                continue;
            };
            match receipt.code.class() {
                // It says nothing of a copy before: that one may have been applied.
                CodeClass::Id
                    if receipt.code == ResultCode::IdTooOld
                        && self.flight.ops.at(op).is_change_in_doubt() =>
                {
                    let unknown = Receipt::bare(receipt.index, ResultCode::Unknown);
                    self.flight.settle(now, op, &unknown);
                }
                CodeClass::Done | CodeClass::Refusal | CodeClass::Id | CodeClass::Malformed => {
                    self.flight.settle(now, op, &receipt);
                }
                CodeClass::NotNow => {
                    let until = self.epoch_needed(link, header.ring_epoch, receipt.code);
                    self.on_not_now(now, op, (receipt.code, until));
                    if receipt.code == ResultCode::NotOwner {
                        self.ask_for_table(header.ring_epoch, out);
                    }
                }
                CodeClass::Unknown => {
                    self.flight.ops.at_mut(op).unanswered = true;
                    self.on_not_now(now, op, (ResultCode::Unavailable, RingEpoch(0)));
                }
            }
        }
        Ok(())
    }

    /// The epoch of the table without which another try after a not-now answer is in vain. What
    /// another front's router says is about its table, not this one's.
    fn epoch_needed(&self, link: u16, told: RingEpoch, code: ResultCode) -> RingEpoch {
        if !self.flight.targets[usize::from(link)].is_node {
            return RingEpoch(0);
        }
        if code == ResultCode::Moving {
            // The node's table still names it, and it handed the slot over.
            RingEpoch(told.0.saturating_add(1))
        } else if code == ResultCode::NotOwner {
            told
        } else {
            RingEpoch(0)
        }
    }

    /// This copy was not applied: the same bytes go again, unless time is up before. If that
    /// would be in vain before a table of epoch `until` is there, they wait for it.
    fn on_not_now(&mut self, now: Tick, op: u32, (code, until): (ResultCode, RingEpoch)) {
        self.flight.hold_back(op);
        let entry = self.flight.ops.at_mut(op);
        entry.not_now = code;
        entry.until_epoch = RingEpoch(0);
        let batch = entry.batch;
        if self.epoch() < until {
            self.flight.hold_until(op, until, now);
        } else {
            self.flight.retry_later(batch, now);
        }
    }

    /// A node works by a newer table: asks the backup for it, once for each epoch.
    fn ask_for_table(&mut self, epoch: RingEpoch, out: &mut Outbox) {
        let known = self.epoch().max(self.epoch_asked);
        if epoch <= known || !self.options.roles.routes() {
            return;
        }
        if let Some(peer) = self.backup_peer() {
            self.epoch_asked = epoch;
            out.send(peer, &Message::Follow);
        }
    }

    /// Hands rows of a listing on to who asked.
    pub(super) fn on_rows(
        &mut self,
        link: u16,
        (request, index): (u64, u16),
        rows: Rows<'_>,
        out: &mut Outbox,
    ) -> Result<(), Breach> {
        let asked = self.flight.asked(link, Key::from_number(request), index);
        let Some(op) = asked.map_err(|NotAsked| not_asked(request, index))? else {
            return Ok(());
        };
        let op = self.flight.ops.at(op);
        let batch = self.flight.batches.at(op.batch);
        if let Some(client) = self.clients.get(batch.client)
            && client.is_open()
        {
            let index = op.index;
            let message = Message::Rows { index, rows };
            message.write_for(out.buffer(client.peer), batch.request);
        }
        Ok(())
    }

    /// Writes receipts to clients, one frame for each batch that has some.
    pub(super) fn write_answers(&mut self, out: &mut Outbox) {
        let epoch = self.epoch();
        self.flight.write_answers(&mut self.clients, epoch, out);
    }

    /// Writes what was queued in this turn to nodes and routers.
    pub(super) fn write_frames(&mut self, now: Tick, out: &mut Outbox) {
        let epoch = self.epoch();
        let mut queued = std::mem::take(&mut self.queued);
        queued.retain(|target| {
            if let LinkState::Up(peer) = self.link(*target).state {
                self.flight.write_frames(*target, peer, epoch, now, out);
            }
            !self.flight.targets[usize::from(*target)].queue.is_empty()
        });
        self.queued = queued;
    }

    /// Ends everything that is held as if its time were up.
    pub(super) fn expire_all(&mut self, out: &mut Outbox) {
        let batches: Vec<u32> = self.flight.batches.indexes().collect();
        for batch in batches {
            self.flight.expire(batch);
        }
        self.write_answers(out);
    }
}

/// Checks an operation that came in. The error is the code to answer with.
fn screen(bytes: &[u8; OPERATION_SIZE]) -> Result<Operation, ResultCode> {
    let operation = Operation::read(bytes)?;
    if !operation.kind().is_served() || operation.flags().has(Flags::GROUP) {
        return Err(ResultCode::Unsupported);
    }
    Ok(operation)
}

fn not_asked(request: u64, index: u16) -> Breach {
    Breach::malformed(format!(
        "answer to operation {index} of request {request}, which is not under way"
    ))
}
