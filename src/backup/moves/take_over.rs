//! A node that is gone: found by its silence, its log handed over by the backup itself.
//!
//! The fence comes first: nobody appends any more, what was accepted is durable, and the replica
//! stands at exactly that end. Then, in one change of the record, the backup gives the log's next
//! term to itself and orders the moves. Only then the block is built that hands everything over,
//! and appended like any other; after a crash its presence in the mirror decides. A node that
//! registers before that change resumes as before; one that comes later waits for the block, and
//! finds in its own log that it owns nothing.

use std::collections::BTreeMap;

use super::super::authority::{
    Cause, ChangeNumber, MemberRecord, MoveState, NewMove, Record, SlotSet, ranges_of, slots_of,
};
use super::super::connections::Peer;
use super::super::ends::lacks;
use super::super::stream::{Presence, Stream};
use super::super::{Running, Stage};
use super::{TAKE_OVER_NOTE_COUNT, TakeOverNote, ms_between};
use crate::canary::{self, Bug};
use crate::clock::{Now, Tick};
use crate::limits;
use crate::model::{Incarnation, LogEnd, LogNumber, NodeId, Seq, Slot, SlotRange, to_u64};
use crate::protocol::MemberState;
use crate::role::{ActivationPart, DiskRequest, Effect, HandOverPart, Level, Outbox};

use bytes::Bytes;

/// Bytes that an account takes on a target's disk, about: in the image and in a checkpoint.
const ACCOUNT_SIZE: u64 = 128;

/// How far a take-over of a log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Taking {
    /// What was accepted is becoming durable, and the replica gets there. Whoever registers now
    /// ends the take-over, unless an earlier life of the backup has recorded it.
    Fencing,
    /// Term and moves are being saved.
    Saving(ChangeNumber),
    /// The block is being built.
    Building,
    /// The block could not be built or written: again at this moment.
    Failed(Tick),
    /// The block is on its way to the disk.
    Appending(Seq),
}

impl Stream {
    /// Since when nothing was heard of the node.
    fn silent_since(&self, peer: Option<&Peer>, now: Tick) -> Tick {
        match peer {
            Some(peer) if peer.paused => now,
            Some(peer) => peer.heard,
            // Who waits for the log is there.
            None if !self.fence.is_open() => now,
            None => self.last_heard,
        }
    }
}

/// Did the backup give itself the newest term of a log to hand over what is not handed over yet?
fn has_open_take_over(record: &Record, log: LogNumber) -> bool {
    let ordered = record
        .moves
        .out_of_log(log)
        .any(|(_, moving)| moving.cause == Cause::TakeOver && moving.state == MoveState::Ordered);
    ordered && record.log(log).is_some_and(MemberRecord::is_backups)
}

/// The slots of a log's node that no hand-over has taken away yet.
fn slots_left(record: &Record, node: NodeId, log: LogNumber) -> Vec<Slot> {
    let handed = record.moves.out_of_log(log);
    let handed = handed.filter(|(_, moving)| matches!(moving.state, MoveState::Handed(_)));
    let handed = SlotSet::of(handed.flat_map(|(_, moving)| moving.ranges.iter()));
    let owned = record.table.ranges_of(node);
    owned
        .flat_map(slots_of)
        .filter(|slot| !handed.contains(*slot))
        .collect()
}

impl Running {
    /// When this log's node will have been silent for too long. `None`: it is not waited for.
    fn lost_at(&self, now: Now, stream: &Stream) -> Option<Tick> {
        let limits = &self.options.limits;
        let record = self.authority.latest();
        let member = record.members.get(&stream.node)?;
        let waits = limits.take_over_after_ms != 0
            && member.log == stream.log
            && member.term.0 != 0
            && !member.diverged
            && stream.exists()
            && stream.taking.is_none()
            && !has_open_take_over(record, stream.log)
            && self.moves.shares.of(stream.node) != 0;
        if !waits {
            return None;
        }
        Some(self.patience_ends(now, stream, 1))
    }

    /// When this log's node will have been silent for too long if nothing is heard of it; or for
    /// a part of that time.
    fn patience_ends(&self, now: Now, stream: &Stream, divisor: u64) -> Tick {
        let limits = &self.options.limits;
        let peer = stream.owner.and_then(|owner| self.peers.get(&owner.peer));
        let patience_ms = match stream.presence {
            Presence::Since(_) | Presence::Gone => limits.take_over_after_ms,
            Presence::Awaited => limits.take_over_after_ms.max(limits.start_grace_ms),
        };
        let part_ms = patience_ms.checked_div(divisor).unwrap_or(patience_ms);
        stream.silent_since(peer, now.tick).plus_ms(part_ms)
    }

    /// Has this log's node been silent for too long?
    pub(super) fn is_lost(&self, now: Now, log: LogNumber) -> bool {
        let stream = &self.streams[&log];
        stream.taking.is_some()
            || (self.options.limits.take_over_after_ms != 0
                && self.patience_ends(now, stream, 1) <= now.tick)
    }

    /// Looks for nodes that are gone, and begins to take their logs over.
    pub(super) fn find_lost(&mut self, now: Now, out: &mut Outbox) {
        self.moves.loss_due = None;
        let mut lost = Vec::new();
        let mut suspected = Vec::new();
        let mut next: Option<Tick> = None;
        for stream in self.streams.values() {
            match self.lost_at(now, stream) {
                Some(at) if at <= now.tick => {
                    let record = self.authority.latest();
                    if !slots_left(record, stream.node, stream.log).is_empty() {
                        lost.push(stream.log);
                    }
                }
                Some(at) => {
                    let divisor = limits::TAKE_OVER_DRAFT_DIVISOR;
                    let suspected_at = self.patience_ends(now, stream, divisor);
                    let is_suspected = suspected_at <= now.tick;
                    if is_suspected {
                        suspected.push(stream.log);
                    }
                    let at = if is_suspected { at } else { suspected_at };
                    next = Some(next.map_or(at, |next| next.min(at)));
                }
                None => (),
            }
        }
        self.moves.loss_due = next;
        self.moves.suspects = !suspected.is_empty();
        for log in suspected {
            self.draft_images(now, log, out);
        }
        if lost.is_empty() {
            self.moves.stuck = None;
            return;
        }
        let short = self.test_whole(&lost).err();
        let record = self.authority.latest();
        lost.retain(|log| lacks(record, &self.streams[log]).is_none());
        let tested = if lost.is_empty() {
            Ok(())
        } else {
            self.test_room(now, &lost)
        };
        let can_begin = tested.is_ok();
        let stuck = tested.err().or(short);
        if let Some(text) = stuck.clone().filter(|_| stuck != self.moves.stuck) {
            self.say(Level::Alarm, text, out);
        }
        self.moves.stuck = stuck;
        if can_begin {
            for log in lost {
                self.begin_taking(now, log, out);
            }
        }
    }

    /// Is a node being taken over, or about to be?
    pub(in super::super) fn is_taking_over(&self) -> bool {
        let mut active = self.authority.latest().moves.active.values();
        self.moves.suspects
            || self.streams.values().any(|stream| stream.taking.is_some())
            || active.any(|moving| moving.cause == Cause::TakeOver)
    }

    /// A node is silent for a while: begins the images of its slots. Should it be lost, they are
    /// nearly there; should it come back, they are forgotten, and nothing else has happened.
    fn draft_images(&mut self, now: Now, log: LogNumber, out: &mut Outbox) {
        let stream = &self.streams[&log];
        let end = stream.durable;
        let stands_still = stream.is_quiet() && stream.replica.stands_at(&end);
        if !stands_still || self.moves.drafted.get(&log) == Some(&end.seq) {
            return;
        }
        let account_count = stream.beat.map_or(0, |(beat, _)| beat.account_count);
        let size = account_count.saturating_mul(ACCOUNT_SIZE);
        if self.free_size() < limits::DISK_RESERVE_SIZE.saturating_add(size) {
            return;
        }
        let targets = self.targets_of(now, stream.node, log);
        let parts: Vec<Vec<SlotRange>> = targets.into_values().map(ranges_of).collect();
        if parts.is_empty() {
            return;
        }
        self.moves.drafted.insert(log, end.seq);
        out.effect(Effect::Disk(DiskRequest::DraftImages {
            log,
            through: end,
            ring_key: self.authority.record().ring_key,
            parts,
        }));
    }

    /// The images are begun, or could not be: then they are cut when they are needed.
    pub(in super::super) fn on_images_drafted(
        &mut self,
        log: LogNumber,
        failed: Option<&str>,
        out: &mut Outbox,
    ) {
        if let Some(text) = failed {
            let text = format!("no images of log {log} are begun yet: {text}");
            self.say(Level::Warn, text, out);
        }
    }

    /// Nodes that slots of a lost one can go to.
    pub(super) fn takers(&self, now: Now) -> Vec<NodeId> {
        let record = self.authority.latest();
        let able = |node: &NodeId| {
            let stream = self.streams.get(&record.members[node].log);
            stream.is_some_and(|stream| self.is_able(now, stream))
        };
        let able: Vec<NodeId> = record.members.keys().copied().filter(able).collect();
        let wanted = |node: &NodeId| record.members[node].takes_part();
        let chosen: Vec<NodeId> = able.iter().copied().filter(wanted).collect();
        if !chosen.is_empty() {
            return chosen;
        }
        let has_weight = |node: &NodeId| record.members[node].weight != 0;
        able.into_iter().filter(has_weight).collect()
    }

    /// Are these logs all that they ever were? What a damaged one lacks would be lost.
    fn test_whole(&self, lost: &[LogNumber]) -> Result<(), String> {
        let record = self.authority.latest();
        for log in lost {
            let stream = &self.streams[log];
            if let Some(text) = lacks(record, stream) {
                return Err(format!(
                    "log {log} {text}: nothing moves before node {} is back with it",
                    stream.node
                ));
            }
        }
        Ok(())
    }

    /// Can the others hold what these logs have? Else why not.
    fn test_room(&self, now: Now, lost: &[LogNumber]) -> Result<(), String> {
        let record = self.authority.latest();
        let nodes: Vec<String> = lost
            .iter()
            .map(|log| self.streams[log].node.to_string())
            .collect();
        let nodes = nodes.join(", ");
        if self.takers(now).is_empty() {
            return Err(format!(
                "no node is there to take over from nodes {nodes}: nothing moves"
            ));
        }
        let mut coming: BTreeMap<NodeId, u64> = BTreeMap::new();
        for log in lost {
            let stream = &self.streams[log];
            for (target, slots) in self.targets_of(now, stream.node, *log) {
                *coming.entry(target).or_default() += self.accounts_in(stream, to_u64(slots.len()));
            }
        }
        for (target, account_count) in coming {
            let stream = &self.streams[&record.members[&target].log];
            if !self.has_room(stream, account_count) {
                return Err(format!(
                    "node {target} has no room for {account_count} more accounts of nodes \
                     {nodes}: nothing moves"
                ));
            }
        }
        Ok(())
    }

    /// Can this log's node hold so many more accounts? What its disk has free is known soon after
    /// its start; until then it counts as enough, since a node without room waits for some.
    pub(super) fn has_room(&self, stream: &Stream, account_count: u64) -> bool {
        let Some((beat, _)) = stream.beat else {
            return false;
        };
        let size = account_count.saturating_mul(ACCOUNT_SIZE);
        let held = beat.account_count.saturating_add(account_count);
        held <= self.options.limits.node_account_count_max
            && limits::DISK_RESERVE_SIZE.saturating_add(size) <= beat.free_size
    }

    /// Accounts in so many slots of a node, if they are spread evenly; rounded up.
    pub(super) fn accounts_in(&self, stream: &Stream, slot_count: u64) -> u64 {
        let account_count = stream.beat.map_or(0, |(beat, _)| beat.account_count);
        let share = self.moves.shares.of(stream.node).max(slot_count).max(1);
        let product = u128::from(account_count) * u128::from(slot_count);
        let count = product.div_ceil(u128::from(share));
        u64::try_from(count).expect("no more than the node has")
    }

    fn begin_taking(&mut self, now: Now, log: LogNumber, out: &mut Outbox) {
        let stream = self.streams.get_mut(&log).expect("it was just looked at");
        let node = stream.node;
        let peer = stream.owner.map(|owner| owner.peer);
        let heard = peer.and_then(|peer| self.peers.get(&peer));
        let silent_ms = ms_between(stream.silent_since(heard, now.tick), now.tick);
        stream.taking = Some(Taking::Fencing);
        let slots = slots_left(self.authority.latest(), node, log);
        let calm_until = now.tick.plus_ms(limits::MOVE_CALM_MS_MAX);
        for stream in self.streams.values_mut() {
            let until = if stream.owner.is_none() || stream.log == log {
                Tick(0)
            } else {
                calm_until
            };
            stream.replica.hold(until);
        }
        let text = format!(
            "node {node} is silent for {silent_ms} ms: its {} slots go to the others",
            slots.len()
        );
        self.say(Level::Warn, text.clone(), out);
        if let Some(peer) = peer.filter(|_| !canary::on(Bug::OwnerNotFenced)) {
            self.close(peer, text, out);
        }
        if self.moves.take_overs.len() == TAKE_OVER_NOTE_COUNT {
            self.moves.take_overs.pop_front();
        }
        self.moves.take_overs.push_back(TakeOverNote {
            node,
            log,
            detected: now.tick,
            detected_ms: now.wall_ms,
            silent_ms,
            slot_count: u32::try_from(slots.len()).unwrap_or(u32::MAX),
            moves: Vec::new(),
            handed_after_ms: None,
            first_serving_after_ms: None,
            last_serving_after_ms: None,
            moved_account_count: 0,
        });
        self.touch(log);
    }

    /// The node is back before anything was recorded: it resumes as before.
    pub(in super::super) fn stop_taking(&mut self, log: LogNumber, out: &mut Outbox) {
        let Some(stream) = self.streams.get_mut(&log) else {
            return;
        };
        let recorded = has_open_take_over(self.authority.latest(), log);
        if stream.taking == Some(Taking::Fencing) && !recorded {
            stream.taking = None;
            let node = stream.node;
            self.moves
                .take_overs
                .retain(|note| note.log != log || !note.moves.is_empty());
            let text = format!("node {node} is back before its log was taken over");
            self.say(Level::Info, text, out);
        }
    }

    /// Take-overs that were recorded, but whose block may not be in the log.
    pub(super) fn resume_takings(&mut self) {
        let record = self.authority.record();
        let mut logs = Vec::new();
        for member in record.members.values() {
            if has_open_take_over(record, member.log) {
                logs.push(member.log);
            }
        }
        for log in logs {
            let stream = self.streams.get_mut(&log).expect("members have streams");
            stream.taking = Some(Taking::Fencing);
            self.touch(log);
        }
    }

    /// Takes a take-over as far as it can go now.
    pub(in super::super) fn advance_taking(&mut self, now: Now, log: LogNumber, out: &mut Outbox) {
        let Some(stream) = self.streams.get_mut(&log) else {
            return;
        };
        if self.stage != Stage::Serving {
            return;
        }
        match stream.taking {
            None | Some(Taking::Building) => (),
            Some(Taking::Fencing) => {
                let has_room = stream.full_from.is_none();
                if has_room && stream.is_quiet() && stream.replica.stands_at(&stream.durable) {
                    self.record_taking(now, log, out);
                }
            }
            Some(Taking::Saving(number)) => {
                if number <= self.authority.durable_through() {
                    self.build_hand_over(now, log, out);
                }
            }
            Some(Taking::Failed(again)) => {
                if again <= now.tick {
                    self.build_hand_over(now, log, out);
                }
            }
            Some(Taking::Appending(seq)) => {
                if seq <= stream.durable.seq {
                    stream.taking = None;
                    self.moves.due = true;
                    self.touch(log);
                } else if stream.accepted.seq < seq
                    && stream.is_quiet()
                    && stream.full_from.is_none()
                {
                    // There was no room for it. The pause keeps a full disk from being asked
                    // again and again.
                    let again = now.tick.plus_ms(self.options.limits.free_space_ms);
                    stream.taking = Some(Taking::Failed(again));
                }
            }
        }
    }

    /// The log stands still: gives its next term to the backup, and orders the moves.
    fn record_taking(&mut self, now: Now, log: LogNumber, out: &mut Outbox) {
        let node = self.streams[&log].node;
        let durable = self.streams[&log].durable;
        if has_open_take_over(self.authority.latest(), log) {
            // An earlier life of the backup recorded it.
            self.build_hand_over(now, log, out);
            return;
        }
        let targets = self.targets_of(now, node, log);
        if targets.is_empty() {
            // All of it was handed over before, or there is nobody left: looked at again later.
            self.streams
                .get_mut(&log)
                .expect("it was just there")
                .taking = None;
            return;
        }
        let incarnation = self.draw_incarnation();
        let mut numbers = Vec::new();
        let number = self.authority.change(|record| {
            let planned: Vec<_> = record
                .moves
                .out_of_log(log)
                .filter(|(_, moving)| moving.state == MoveState::Ordered)
                .map(|(number, _)| number)
                .collect();
            for number in planned {
                // The replica stands at the end of the log: it was not handed over.
                record.cancel_move(number);
            }
            let member = record.members.get_mut(&node).expect("it was just there");
            member.take_over(incarnation, &durable, now.wall_ms);
            for (target, slots) in targets {
                let new = NewMove {
                    source: node,
                    target,
                    cause: Cause::TakeOver,
                    ranges: ranges_of(slots),
                };
                numbers.push(record.order_move(new, now.wall_ms));
            }
        });
        if let Some(note) = self
            .moves
            .take_overs
            .iter_mut()
            .rfind(|note| note.log == log)
        {
            note.moves = numbers;
        }
        let stream = self.streams.get_mut(&log).expect("it was just there");
        stream.taking = Some(Taking::Saving(number));
    }

    /// Which slots of a lost node go where: by the rule among those that are there.
    fn targets_of(&self, now: Now, node: NodeId, log: LogNumber) -> BTreeMap<NodeId, Vec<Slot>> {
        let record = self.authority.latest();
        let mut takers = self.takers(now);
        takers.retain(|taker| *taker != node);
        let table = record.plan_for(|node, _| takers.contains(&node));
        let mut targets: BTreeMap<NodeId, Vec<Slot>> = BTreeMap::new();
        for slot in slots_left(record, node, log) {
            if let Some(target) = table.owner(slot) {
                targets.entry(target).or_default().push(slot);
            }
        }
        targets
    }

    fn draw_incarnation(&mut self) -> Incarnation {
        loop {
            if let Some(incarnation) = Incarnation::new(self.random.u128()) {
                return incarnation;
            }
        }
    }

    fn build_hand_over(&mut self, now: Now, log: LogNumber, out: &mut Outbox) {
        let record = self.authority.record();
        let Some(member) = record.log(log) else {
            return;
        };
        let moves: Vec<HandOverPart> = record
            .moves
            .out_of_log(log)
            .filter(|(_, moving)| moving.state == MoveState::Ordered)
            .map(|(number, moving)| HandOverPart {
                number,
                target: moving.target,
                target_log: moving.target_log,
                ranges: moving.ranges.to_vec(),
            })
            .collect();
        let flipped = record
            .moves
            .towards_log(log)
            .filter_map(|(number, moving)| {
                let MoveState::Flipped(_, ring_epoch) = moving.state else {
                    return None;
                };
                Some(ActivationPart {
                    number,
                    ring_epoch,
                    ranges: moving.ranges.to_vec(),
                })
            });
        let mut flipped: Vec<ActivationPart> = flipped.collect();
        if canary::on(Bug::ActivationLeftOut) {
            flipped.clear();
        }
        let stream = self.streams.get_mut(&log).expect("it was just there");
        if moves.is_empty() {
            // The block was in the log already.
            stream.taking = None;
            self.touched.insert(log);
            return;
        }
        stream.taking = Some(Taking::Building);
        out.effect(Effect::Disk(DiskRequest::BuildHandOver {
            log,
            through: stream.durable,
            term: member.term,
            generation: record.generation,
            ring_epoch: record.ring_epoch(),
            wall_ms: now.wall_ms,
            ring_key: record.ring_key,
            activate: flipped,
            moves,
        }));
    }

    /// The block that hands everything over is there: it is appended like any other.
    pub(in super::super) fn on_hand_over_built(
        &mut self,
        log: LogNumber,
        block: Bytes,
        end: LogEnd,
        out: &mut Outbox,
    ) {
        let Some(stream) = self.streams.get_mut(&log) else {
            return;
        };
        if stream.taking != Some(Taking::Building) {
            return;
        }
        assert!(stream.owner.is_none(), "nobody appends during a take-over");
        stream.taking = Some(Taking::Appending(end.seq));
        self.moves.failed.remove(&log);
        self.accept_own(log, end, block, out);
    }

    /// The block could not be built. Ownership stays as it is until it can.
    pub(in super::super) fn on_hand_over_failed(
        &mut self,
        log: LogNumber,
        text: &str,
        out: &mut Outbox,
    ) {
        let again = self.turn.plus_ms(limits::BACKUP_RETRY_MS);
        if let Some(stream) = self.streams.get_mut(&log) {
            stream.taking = Some(Taking::Failed(again));
            let text = format!("log {log} cannot be taken over: {text}");
            self.moves.failed.insert(log, text.clone());
            self.say(Level::Alarm, text, out);
        }
    }

    /// Moves that were handed over for a node that is gone go on to another one.
    pub(super) fn redirect_lost(&mut self, now: Now, out: &mut Outbox) {
        let record = self.authority.latest();
        let waiting = record.moves.active.iter();
        let lost: Vec<_> = waiting
            .filter(|(_, moving)| {
                matches!(moving.state, MoveState::Handed(_)) && self.is_lost(now, moving.target_log)
            })
            .map(|(number, moving)| (*number, moving.clone()))
            .collect();
        if lost.is_empty() {
            return;
        }
        let takers = self.takers(now);
        let table = record.plan_for(|node, _| takers.contains(&node));
        for (number, moving) in lost {
            let mut votes: BTreeMap<NodeId, u32> = BTreeMap::new();
            for slot in moving.ranges.iter().copied().flat_map(slots_of) {
                if let Some(target) = table.owner(slot) {
                    *votes.entry(target).or_default() += 1;
                }
            }
            let best = votes.into_iter().max_by_key(|(_, count)| *count);
            let Some((target, _)) = best else {
                return;
            };
            let mut next = number;
            self.authority
                .change(|record| next = record.redirect_move(number, target));
            self.moves.told.remove(&number);
            self.moves.binding.remove(&number);
            for note in &mut self.moves.take_overs {
                for other in note.moves.iter_mut().filter(|other| **other == number) {
                    *other = next;
                }
            }
            let text = format!(
                "move {number} to node {}, which is gone, goes on as move {next} to node {target}",
                moving.target
            );
            self.say(Level::Warn, text, out);
        }
    }

    /// A node whose log was taken over gets slots again once it was back for a while.
    pub(super) fn refill(&mut self, now: Now, out: &mut Outbox) {
        let after_ms = self.options.limits.refill_after_ms;
        let mut back = Vec::new();
        for (node, member) in &self.authority.latest().members {
            let stream = self.streams.get(&member.log);
            let Some(stream) = stream.filter(|_| member.emptied) else {
                continue;
            };
            let quiet = match stream.presence {
                Presence::Since(since) => since.plus_ms(after_ms) <= now.tick,
                Presence::Awaited | Presence::Gone => false,
            };
            if quiet && self.state_of(stream) == MemberState::Present {
                back.push(*node);
            }
        }
        for node in back {
            self.authority
                .change_member(node, |member| member.emptied = false);
            let text = format!("node {node} is back for {after_ms} ms: it gets slots again");
            self.say(Level::Info, text, out);
        }
    }
}
