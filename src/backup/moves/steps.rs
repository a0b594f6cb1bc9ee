//! The steps of a move: what the logs have makes the record go forward, and the record says what
//! each node is told.
//!
//! A hand-over counts once the replica has it and the image is durable; an adoption and an
//! activation once the target says that its block is committed, which is tested against what is
//! durable here. A number that is not listed moves nothing.

use std::collections::BTreeSet;

use bytes::BytesMut;

use super::super::Running;
use super::super::authority::{Cause, Handed, MoveRecord, MoveState, Record};
use super::super::connections::Asker;
use super::ms_between;
use crate::canary::{self, Bug};
use crate::clock::{Now, Tick};
use crate::limits;
use crate::model::{LogNumber, LogTime, MoveNumber, Place, RingEpoch, Seq};
use crate::protocol::{
    Message, MoveOrder, MoveStep, MoveTold, RefusalCode, SlotRanges, put_slot_range,
};
use crate::role::{Level, MoveEvent, Outbox, PeerId};

/// Drops that a node is told before it has said of the first that it is done: it has room for so
/// many orders, and for the others that it may get.
const DROPS_TOLD_COUNT_MAX: usize = 32;
const _: () = assert!(DROPS_TOLD_COUNT_MAX < limits::NODE_MOVE_ORDER_COUNT_MAX as usize);

impl Running {
    /// What the replica met in a log.
    pub(in super::super) fn on_move_events(
        &mut self,
        now: Now,
        log: LogNumber,
        events: &[MoveEvent],
        out: &mut Outbox,
    ) {
        for event in events {
            match event {
                MoveEvent::HandedOver {
                    number,
                    place,
                    image,
                    end,
                    ..
                } => {
                    let handed = Handed {
                        place: *place,
                        image: *image,
                    };
                    self.on_handed(now, log, *number, handed, out);
                    self.note_end_of_log(log, end.seq);
                }
                MoveEvent::Adopted { .. } => (),
                MoveEvent::Activated { number, end } => {
                    self.on_activated(now, log, *number, end.seq, out);
                }
                MoveEvent::Dropped { number, end } => self.on_dropped(*number, log, end.seq),
            }
        }
        self.moves.due |= !events.is_empty();
    }

    /// A hand-over is in the source's log, and its image is durable.
    fn on_handed(
        &mut self,
        now: Now,
        log: LogNumber,
        number: MoveNumber,
        handed: Handed,
        out: &mut Outbox,
    ) {
        let ordered = self
            .latest_move(number)
            .filter(|moving| moving.source_log == log && moving.state == MoveState::Ordered);
        let Some(moving) = ordered else {
            // A replica that is built again cuts the image again: it may be one to be removed.
            self.moves.kept = None;
            return;
        };
        let text = format!(
            "move {number}: {} slots of node {} with {} accounts are handed over, for node {}",
            moving.slot_count(),
            moving.source,
            handed.image.account_count,
            moving.target
        );
        self.authority
            .change(|record| record.hand_move(number, handed));
        if canary::on(Bug::FlipBeforeAdoption) {
            self.authority.change(|record| record.flip_move(number));
        }
        self.note_handed(now, number);
        self.say(Level::Info, text, out);
    }

    /// The backup's own hand-over ends at `seq`: it dropped whatever was staged in the log.
    fn note_end_of_log(&mut self, log: LogNumber, seq: Seq) {
        let record = self.authority.latest();
        let Some(member) = record.log(log).filter(|member| member.is_backups()) else {
            return;
        };
        if member.reached < seq {
            // Nobody else has this block, and others go on with what it gives them.
            let node = self.streams[&log].node;
            self.authority
                .change_member(node, |member| member.reach(seq));
        }
        let record = self.authority.latest();
        let ended = record.moves.ended.iter();
        let dropped = ended.filter(|ended| ended.log == log && ended.gone.is_none());
        let dropped: Vec<MoveNumber> = dropped.map(|ended| ended.number).collect();
        for number in dropped {
            self.on_dropped(number, log, seq);
        }
    }

    fn latest_move(&self, number: MoveNumber) -> Option<&MoveRecord> {
        self.authority.latest().moves.active.get(&number)
    }

    /// A node says that a step is committed in its log.
    pub(in super::super) fn on_move_told(
        &mut self,
        now: Now,
        asker: Asker,
        told: &MoveTold,
        out: &mut Outbox,
    ) {
        let Some(log) = self.peers[&asker.peer].owns else {
            let text = "register first: this connection has no log";
            self.refuse(asker, RefusalCode::Fenced, text, out);
            return;
        };
        if self.streams[&log].durable.seq < told.seq {
            let text = format!(
                "move {}: block {} of log {log} is not durable here",
                told.number, told.seq
            );
            self.refuse(asker, RefusalCode::Malformed, &text, out);
            return;
        }
        match told.step {
            // The replica tells this, once the image is durable.
            MoveStep::HandOver => (),
            MoveStep::Adopt => self.on_adopted(log, told, asker.peer, out),
            MoveStep::Activate => self.on_activated(now, log, told.number, told.seq, out),
            MoveStep::Drop => self.on_dropped(told.number, log, told.seq),
        }
        self.moves.due = true;
    }

    /// The target's log has the adoption: the slots are the target's from the next table on.
    fn on_adopted(&mut self, log: LogNumber, told: &MoveTold, peer: PeerId, out: &mut Outbox) {
        let (number, seq) = (told.number, told.seq);
        let Some(moving) = self.latest_move(number) else {
            self.tell_unlisted(log, number, peer, out);
            return;
        };
        if moving.target_log != log || !matches!(moving.state, MoveState::Handed(_)) {
            return;
        }
        let target = moving.target;
        self.authority.change(|record| {
            record.flip_move(number);
            // From here on the slots are nowhere but in this log.
            if let Some(member) = record.members.get_mut(&target) {
                member.reach(seq);
            }
        });
    }

    /// The target's log serves the slots: the move is done.
    fn on_activated(
        &mut self,
        now: Now,
        log: LogNumber,
        number: MoveNumber,
        seq: Seq,
        out: &mut Outbox,
    ) {
        let mut number = number;
        if canary::on(Bug::MoveNumberIgnored) {
            let mut coming = self.authority.latest().moves.towards_log(log);
            number = coming.next().map_or(number, |(first, _)| first);
        }
        let Some(moving) = self.latest_move(number) else {
            return;
        };
        if moving.target_log != log || !matches!(moving.state, MoveState::Flipped(..)) {
            return;
        }
        let moving = moving.clone();
        let text = format!(
            "move {number}: node {} serves {} slots of node {}",
            moving.target,
            moving.slot_count(),
            moving.source
        );
        self.authority
            .change(|record| record.finish_move(number, seq));
        let rest_ms = self.options.limits.move_pause_ms;
        self.moves
            .rests
            .insert(moving.source, now.tick.plus_ms(rest_ms));
        self.moves.told.remove(&number);
        self.moves.binding.remove(&number);
        self.note_serving(now, number, &moving);
        self.say(Level::Info, text, out);
    }

    /// What a log had staged under a number is gone.
    fn on_dropped(&mut self, number: MoveNumber, log: LogNumber, seq: Seq) {
        let mut ended = self.authority.latest().moves.ended.iter();
        if ended.any(|ended| ended.number == number && ended.log == log && ended.gone.is_none()) {
            self.authority.change(|record| {
                record.note_gone(number, log, seq);
            });
        }
        self.moves.told_drops.remove(&(number, log));
    }

    /// Tells every node what the durable record wants of it and what it was not told yet. What is
    /// about to change is not told any more: a move that is being taken back must not begin.
    pub(super) fn tell_orders(&mut self, out: &mut Outbox) {
        let record = self.authority.record();
        let mut orders = Vec::new();
        for (number, moving) in &record.moves.active {
            if self.latest_move(*number).map(|latest| &latest.state) != Some(&moving.state) {
                continue;
            }
            let Some((log, step)) = self.next_order(*number, moving) else {
                continue;
            };
            let Some(peer) = self.serving_owner(log) else {
                continue;
            };
            if self.moves.told.get(number) != Some(&(step, peer)) {
                orders.push((*number, step, peer));
            }
        }
        for (number, step, peer) in orders {
            self.moves.told.insert(number, (step, peer));
            if step == MoveStep::HandOver {
                self.moves.binding.insert(number);
            }
            let record = self.authority.record();
            let moving = &record.moves.active[&number];
            send_order(peer, number, step, moving, record.ring_epoch(), out);
        }
        self.tell_drops(out);
    }

    /// Whose turn it is in a move, and to do what.
    fn next_order(&self, number: MoveNumber, moving: &MoveRecord) -> Option<(LogNumber, MoveStep)> {
        match moving.state {
            MoveState::Ordered => match moving.cause {
                Cause::Planned => Some((moving.source_log, MoveStep::HandOver)),
                // The backup does that itself.
                Cause::TakeOver => None,
            },
            MoveState::Handed(_) => {
                let log = moving.target_log;
                let is_next = self.next_adoption(log) == Some(number);
                is_next.then_some((log, MoveStep::Adopt))
            }
            MoveState::Flipped(..) => Some((moving.target_log, MoveStep::Activate)),
        }
    }

    /// The move that a log is to adopt next. A node has room for one: what is flipped or to be
    /// dropped comes first, then what it was told to adopt already, then the lowest number. One
    /// whose source has not handed over yet keeps nobody waiting: the source may be away for long.
    pub(super) fn next_adoption(&self, log: LogNumber) -> Option<MoveNumber> {
        let moves = &self.authority.record().moves;
        let mut ended = moves.ended.iter();
        if ended.any(|ended| ended.log == log && ended.gone.is_none()) {
            return None;
        }
        let mut handed = Vec::new();
        for (number, moving) in moves.towards_log(log) {
            match moving.state {
                MoveState::Ordered => (),
                MoveState::Handed(_) => handed.push(number),
                MoveState::Flipped(..) => return None,
            }
        }
        let is_told = |number: &&MoveNumber| {
            let told = self.moves.told.get(*number);
            told.is_some_and(|(step, _)| *step == MoveStep::Adopt)
        };
        handed.iter().find(is_told).or(handed.first()).copied()
    }

    /// The connection of a log's node, if that is up and serving.
    fn serving_owner(&self, log: LogNumber) -> Option<PeerId> {
        let stream = self.streams.get(&log)?;
        let owner = stream.owner?;
        let serving = stream.beat.is_some_and(|(beat, _)| beat.phase == 1);
        serving.then_some(owner.peer)
    }

    /// Nodes that may have staged what went elsewhere are told to drop it.
    fn tell_drops(&mut self, out: &mut Outbox) {
        let undone = |record: &Record| -> BTreeSet<(MoveNumber, LogNumber)> {
            let ended = record.moves.ended.iter();
            let undone = ended.filter(|ended| ended.gone.is_none());
            undone.map(|ended| (ended.number, ended.log)).collect()
        };
        // Durable, and nothing was heard of it since.
        let undone = &undone(self.authority.record()) & &undone(self.authority.latest());
        let told_drops = &mut self.moves.told_drops;
        told_drops.retain(|drop, _| undone.contains(drop));
        for (number, log) in undone {
            let Some(peer) = self.serving_owner(log) else {
                continue;
            };
            let told_drops = &mut self.moves.told_drops;
            let to_peer = told_drops.values().filter(|told| **told == peer);
            let has_room = to_peer.count() < DROPS_TOLD_COUNT_MAX;
            if has_room && told_drops.get(&(number, log)) != Some(&peer) {
                told_drops.insert((number, log), peer);
                self.tell_unlisted(log, number, peer, out);
            }
        }
    }

    /// Tells a node to drop what it may have staged under a number that is not listed.
    fn tell_unlisted(&self, log: LogNumber, number: MoveNumber, peer: PeerId, out: &mut Outbox) {
        let record = self.authority.record();
        let order = MoveOrder {
            step: MoveStep::Drop,
            number,
            image: number,
            ring_epoch: record.ring_epoch(),
            peer: self.streams[&log].node,
            peer_log: log,
            place: Place(0),
            image_size: 0,
            image_digest: 0,
            image_offset: 0,
            slot_digest: 0,
            account_count: 0,
            horizon_ms: 0,
            time: LogTime(0),
            ranges: SlotRanges::new(&[]).expect("no records are whole records"),
        };
        out.send(peer, &Message::MoveOrder(order));
    }

    /// A take-over's block is on its way: for status.
    fn note_handed(&mut self, now: Now, number: MoveNumber) {
        for note in &mut self.moves.take_overs {
            if note.moves.contains(&number) && note.handed_after_ms.is_none() {
                note.handed_after_ms = Some(ms_between(note.detected, now.tick));
            }
        }
    }

    fn note_serving(&mut self, now: Now, number: MoveNumber, moving: &MoveRecord) {
        let account_count = moving
            .handed()
            .map_or(0, |handed| handed.image.account_count);
        for note in &mut self.moves.take_overs {
            let before = note.moves.len();
            note.moves.retain(|other| *other != number);
            if note.moves.len() == before {
                continue;
            }
            let after_ms = ms_between(note.detected, now.tick);
            note.first_serving_after_ms.get_or_insert(after_ms);
            note.moved_account_count += account_count;
            if note.moves.is_empty() {
                note.last_serving_after_ms = Some(after_ms);
            }
        }
        let mut moves = self.authority.latest().moves.active.values();
        if !moves.any(|moving| moving.cause == Cause::TakeOver) {
            for stream in self.streams.values_mut() {
                stream.replica.hold(Tick(0));
            }
            self.touched.extend(self.streams.keys());
        }
    }
}

fn send_order(
    peer: PeerId,
    number: MoveNumber,
    step: MoveStep,
    moving: &MoveRecord,
    ring_epoch: RingEpoch,
    out: &mut Outbox,
) {
    let mut ranges = BytesMut::new();
    for range in &*moving.ranges {
        put_slot_range(&mut ranges, *range);
    }
    let (other, other_log) = match step {
        MoveStep::HandOver => (moving.target, moving.target_log),
        MoveStep::Adopt | MoveStep::Activate | MoveStep::Drop => (moving.source, moving.source_log),
    };
    let handed = moving.handed();
    let ring_epoch = match moving.state {
        MoveState::Flipped(_, epoch) => epoch,
        MoveState::Ordered | MoveState::Handed(_) => ring_epoch,
    };
    let image = handed.map(|handed| handed.image);
    let order = MoveOrder {
        step,
        number,
        image: moving.image,
        ring_epoch,
        peer: other,
        peer_log: other_log,
        place: handed.map_or(Place(0), |handed| handed.place),
        image_size: image.map_or(0, |image| image.size),
        image_digest: image.map_or(0, |image| image.digest),
        image_offset: image.map_or(0, |image| image.offset),
        slot_digest: image.map_or(0, |image| image.slot_digest),
        account_count: image.map_or(0, |image| image.account_count),
        horizon_ms: image.map_or(0, |image| image.horizon_ms),
        time: image.map_or(LogTime(0), |image| image.time),
        ranges: SlotRanges::new(&ranges).expect("whole records were written"),
    };
    out.send(peer, &Message::MoveOrder(order));
}
