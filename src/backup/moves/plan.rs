//! Planned moves: from the table as it is to the one that the rule gives for those that take part.
//!
//! A plan is not stored. Again and again the difference is looked at, and a few slots move: as
//! many as hold about the goal's number of accounts, so that each stands still only shortly. One
//! move at a time per source and per target, none while anything is taken over, and a rest between
//! two moves of a source.

use std::collections::BTreeMap;

use super::super::Running;
use super::super::authority::{Cause, MoveState, NewMove, Record, SlotSet, ranges_of, slots_of};
use super::super::stream::Stream;
use crate::canary::{self, Bug};
use crate::clock::Now;
use crate::model::{NodeId, RingEpoch, Slot, to_u64, to_usize};
use crate::protocol::MemberState;
use crate::ring::SlotTable;
use crate::role::{Level, Outbox};

/// Bytes of a log on their way to the disk above which its node is too busy for a move.
const BUSY_SIZE: u64 = 4 << 20;

/// A source and a target.
pub(super) type Pair = (NodeId, NodeId);

/// What is between a table and the one that the rule gives: the slots of each source and target.
pub(super) fn pairs(record: &Record, desired: &SlotTable) -> BTreeMap<Pair, Vec<Slot>> {
    // A flipped one too: until its activation the table's owner has nothing to hand over.
    let active = record.moves.active.values().filter(|moving| {
        !canary::on(Bug::FlippedSlotsPlanned) || !matches!(moving.state, MoveState::Flipped(..))
    });
    let moving = SlotSet::of(active.flat_map(|moving| moving.ranges.iter()));
    let mut pairs: BTreeMap<Pair, Vec<Slot>> = BTreeMap::new();
    for moved in record.table.difference(desired) {
        let (Some(from), Some(to)) = (moved.from, moved.to) else {
            continue;
        };
        let slots = slots_of(moved.slots).filter(|slot| !moving.contains(*slot));
        let slots: Vec<Slot> = slots.collect();
        if !slots.is_empty() {
            pairs.entry((from, to)).or_default().extend(slots);
        }
    }
    pairs
}

/// What the difference between the table and the rule's depends on.
pub(super) fn balance_key(record: &Record) -> (RingEpoch, Vec<(NodeId, u32)>) {
    let members = record.members.iter();
    let takers = members
        .filter(|(_, member)| member.takes_part())
        .map(|(node, member)| (*node, member.weight))
        .collect();
    (record.ring_epoch(), takers)
}

impl Running {
    /// Begins planned moves, as many as may be under way.
    pub(super) fn begin_planned(&mut self, now: Now, out: &mut Outbox) {
        let record = self.authority.latest();
        let taking = self.streams.values().any(|stream| stream.taking.is_some());
        let mut active = record.moves.active.values();
        if record.moves.paused || taking || active.any(|moving| moving.cause == Cause::TakeOver) {
            return;
        }
        let key = balance_key(record);
        if self.moves.balanced.as_ref() == Some(&key) || key.1.is_empty() {
            return;
        }
        let desired = record.plan_for(|_, member| member.takes_part());
        let pairs = pairs(record, &desired);
        if pairs.is_empty() && record.moves.active.is_empty() {
            self.moves.balanced = Some(key);
            return;
        }
        for (pair, slots) in pairs {
            self.begin_pair(now, pair, slots, out);
        }
    }

    /// Begins a move of some of these slots, if source and target are ready for one.
    fn begin_pair(&mut self, now: Now, pair: Pair, mut slots: Vec<Slot>, out: &mut Outbox) {
        let (source, target) = pair;
        if self.what_hinders(now, pair).is_some() {
            return;
        }
        let record = self.authority.latest();
        let from = &self.streams[&record.members[&source].log];
        let per_slot = self.accounts_in(from, 1);
        let goal = self.options.limits.move_account_count_goal;
        let count = goal.checked_div(per_slot).unwrap_or(u64::MAX).max(1);
        slots.truncate(to_usize(count));
        let slot_count = to_u64(slots.len());
        let coming = self.accounts_in(from, slot_count);
        let stream = &self.streams[&record.members[&target].log];
        if !self.has_room(stream, coming) {
            return;
        }
        let new = NewMove {
            source,
            target,
            cause: Cause::Planned,
            ranges: ranges_of(slots),
        };
        let mut ordered = None;
        self.authority
            .change(|record| ordered = Some(record.order_move(new, now.wall_ms)));
        if let Some(number) = ordered {
            let text =
                format!("move {number}: {slot_count} slots of node {source} go to node {target}");
            self.say(Level::Info, text, out);
        }
    }

    /// Why no planned move of this pair begins now, in words.
    pub(super) fn what_hinders(&self, now: Now, (source, target): Pair) -> Option<String> {
        let record = self.authority.latest();
        for node in [source, target] {
            let stream = record
                .members
                .get(&node)
                .and_then(|member| self.streams.get(&member.log));
            let Some(stream) = stream else {
                return Some(format!("node {node} is not there yet"));
            };
            if !self.is_able(now, stream) {
                return Some(format!("node {node} is not serving"));
            }
            if BUSY_SIZE < stream.in_flight_size() {
                return Some(format!("node {node} is busy"));
            }
        }
        for (number, moving) in &record.moves.active {
            let leaves = !matches!(moving.state, MoveState::Flipped(..));
            if moving.target == target || (leaves && moving.source == source) {
                return Some(format!("move {number} is under way"));
            }
        }
        let rest = self.moves.rests.get(&source);
        let rests = rest.is_some_and(|until| now.tick < *until);
        rests.then(|| format!("node {source} rests between two moves"))
    }

    /// Is the node of this log up and serving, and was it heard of lately? A connection may stand
    /// for long after the machine behind it is gone.
    pub(super) fn is_able(&self, now: Now, stream: &Stream) -> bool {
        self.is_serving(stream) && !self.is_lost(now, stream.log)
    }

    /// Is the node of this log up and serving?
    pub(super) fn is_serving(&self, stream: &Stream) -> bool {
        self.state_of(stream) == MemberState::Present
            && stream.beat.is_some_and(|(beat, _)| beat.phase == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::authority::Handed;
    use crate::backup::{NewCluster, NewNode};
    use crate::limits::SEGMENT_SIZE_MIN;
    use crate::model::{ClusterId, LogTime, Place};
    use crate::role::ImageInfo;

    fn node(number: u32) -> NodeId {
        NodeId::new(number).unwrap()
    }

    /// Node 2 gets some slots of node 1, and they are flipped; then node 2 is to give back all
    /// that it has.
    ///
    /// The plan was made from the table as flipped, so those slots were ordered away from a node
    /// that had not activated them: it said that they are not all its own, and never did what was
    /// asked. Seeds 93 and 113.
    #[test]
    fn slots_whose_activation_is_under_way_are_not_planned() {
        let new = |number| NewNode {
            node: node(number),
            weight: 1,
            keys: Vec::new(),
        };
        let new = NewCluster {
            cluster: ClusterId::new(77).unwrap(),
            ring_key: 5,
            nodes: vec![new(1), new(2), new(3)],
            segment_size: SEGMENT_SIZE_MIN,
        };
        let mut record = Record::create(&new, 1_000);
        let owned: Vec<Slot> = record
            .table
            .ranges_of(node(1))
            .flat_map(slots_of)
            .take(100)
            .collect();
        let number = record.order_move(
            NewMove {
                source: node(1),
                target: node(2),
                cause: Cause::Planned,
                ranges: ranges_of(owned.clone()),
            },
            50,
        );
        let image = ImageInfo {
            size: 1,
            digest: 2,
            offset: 3,
            slot_digest: 4,
            account_count: 5,
            horizon_ms: 6,
            time: LogTime(7),
        };
        let handed = Handed {
            place: Place(9),
            image,
        };
        let leaves = |record: &Record| {
            let desired = record.plan_for(|other, _| other != node(2));
            let all = pairs(record, &desired);
            let of_node = all.into_iter().filter(|((from, _), _)| *from == node(2));
            let slots: Vec<Slot> = of_node.flat_map(|(_, slots)| slots).collect();
            slots
        };
        let before = leaves(&record);
        assert!(!before.is_empty());
        record.hand_move(number, handed);
        assert_eq!(leaves(&record), before, "they are node 1's still");
        record.flip_move(number);
        assert_eq!(leaves(&record), before, "they are not node 2's yet");
        record.finish_move(number, crate::model::Seq(8));
        assert_eq!(leaves(&record).len(), before.len() + owned.len());
    }
}
