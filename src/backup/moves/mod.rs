//! Slots on their way from log to log (docs/decisions/0001-moves.md): what is begun, what is told
//! to whom, and what follows from what the logs have.
//!
//! Every step is a change of the authority's record first; nobody hears of it before it is
//! durable. Which step comes next is read from the durable record alone, so a backup that starts
//! anew goes on where it stood. Here is what it knows besides, and may forget: what was told on
//! which connection, who waits for an answer, and what an operator wants to see.

mod commands;
mod files;
mod join;
mod plan;
mod show;
mod steps;
mod take_over;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::authority::{ChangeNumber, Record};
use super::connections::Asker;
use super::register::Claim;
use super::{Running, Stage};
use crate::clock::{Now, Tick};
use crate::model::{LogNumber, MoveNumber, NodeId, RingEpoch, Seq};
use crate::protocol::MoveStep;
use crate::role::{Outbox, PeerId};

pub(super) use take_over::Taking;

/// Take-overs that are shown, newest last.
const TAKE_OVER_NOTE_COUNT: usize = 8;

/// What is known of moves besides the record.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Something happened from which a step may follow.
    pub(super) due: bool,
    /// When a node that is silent now will have been silent for too long.
    loss_due: Option<Tick>,
    /// The newest order of each move, and on which connection it was told.
    told: BTreeMap<MoveNumber, (MoveStep, PeerId)>,
    /// Moves whose source may have been told to hand over: they go forward.
    binding: BTreeSet<MoveNumber>,
    /// Drops that were told, and on which connection.
    told_drops: BTreeMap<(MoveNumber, LogNumber), PeerId>,
    /// Registrations of new nodes that wait for the record.
    pub(super) joins: Vec<Join>,
    /// Answers to operators' commands that wait for the record.
    answers: Vec<(ChangeNumber, Asker, String)>,
    /// What was asked of the disk last: which images stay.
    kept: Option<(Vec<MoveNumber>, MoveNumber)>,
    keeping: bool,
    /// From when on a source may begin its next planned move.
    rests: BTreeMap<NodeId, Tick>,
    /// How many slots each node owns, as of a table.
    shares: Shares,
    /// As of this table and these takers nothing is to be moved.
    balanced: Option<(RingEpoch, Vec<(NodeId, u32)>)>,
    /// Why lost nodes are not taken over, as it was said last.
    stuck: Option<String>,
    /// A node is silent for so long that it may be lost.
    suspects: bool,
    /// Logs of silent nodes, and the block behind which images of their slots were begun.
    drafted: BTreeMap<LogNumber, Seq>,
    /// Take-overs whose block could not be built, and why.
    failed: BTreeMap<LogNumber, String>,
    /// The newest take-overs.
    take_overs: VecDeque<TakeOverNote>,
}

/// How many slots each node owns under one table.
#[derive(Debug, Default)]
struct Shares {
    epoch: RingEpoch,
    counts: BTreeMap<NodeId, u64>,
}

impl Shares {
    fn refresh(&mut self, record: &Record) {
        if self.epoch == record.ring_epoch() {
            return;
        }
        self.epoch = record.ring_epoch();
        self.counts.clear();
        for run in record.table.runs() {
            if let Some(node) = run.node {
                let count = u64::from(run.slots.last.0) - u64::from(run.slots.first.0) + 1;
                *self.counts.entry(node).or_default() += count;
            }
        }
    }

    fn of(&self, node: NodeId) -> u64 {
        self.counts.get(&node).copied().unwrap_or(0)
    }
}

/// A node that becomes a member once the record says so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Join {
    pub(super) number: ChangeNumber,
    pub(super) node: NodeId,
    pub(super) claim: Claim,
}

/// One take-over, for status. Milliseconds count from its detection.
#[derive(Clone, Debug)]
struct TakeOverNote {
    node: NodeId,
    log: LogNumber,
    detected: Tick,
    detected_ms: u64,
    /// How long the node had been silent.
    silent_ms: u64,
    slot_count: u32,
    /// Moves that are not done yet.
    moves: Vec<MoveNumber>,
    handed_after_ms: Option<u64>,
    first_serving_after_ms: Option<u64>,
    last_serving_after_ms: Option<u64>,
    moved_account_count: u64,
}

impl Moves {
    /// A peer is gone: it waits for nothing, and what it was told does not count any more.
    pub(super) fn forget(&mut self, peer: PeerId) {
        self.told.retain(|_, (_, told)| *told != peer);
        self.told_drops.retain(|_, told| *told != peer);
        self.answers.retain(|(_, asker, _)| asker.peer != peer);
        self.joins.retain(|join| join.claim.peer() != peer);
        self.due = true;
    }

    /// When something is due if nothing else happens.
    pub(super) fn deadline(&self) -> Option<Tick> {
        let rests = self.rests.values().copied();
        rests.chain(self.loss_due).min()
    }
}

/// Milliseconds from one moment to a later one.
#[expect(clippy::integer_division, reason = "whole milliseconds, rounded down")]
const fn ms_between(earlier: Tick, later: Tick) -> u64 {
    later.since(earlier) / 1_000_000
}

impl Running {
    /// Does whatever follows from what is known now. Orders are told later in the turn.
    pub(super) fn advance_moves(&mut self, now: Now, out: &mut Outbox) {
        if self.stage != Stage::Serving {
            return;
        }
        self.moves.due |= self.moves.deadline().is_some_and(|due| due <= now.tick);
        if !self.moves.due {
            return;
        }
        self.moves.rests.retain(|_, until| now.tick < *until);
        self.moves.shares.refresh(self.authority.latest());
        self.find_lost(now, out);
        self.redirect_lost(now, out);
        self.refill(now, out);
        self.begin_planned(now, out);
        self.keep_images(out);
    }

    /// Says what the record demands of each node. Comes after the table in the turn.
    pub(super) fn tell_moves(&mut self, out: &mut Outbox) {
        if self.stage != Stage::Serving || !self.moves.due {
            return;
        }
        self.moves.due = false;
        self.tell_orders(out);
    }

    /// The record is durable: who waits for it hears of it.
    pub(super) fn moves_saved(&mut self, now: Now, out: &mut Outbox) {
        self.moves.due = true;
        let taken = self
            .streams
            .values()
            .filter(|stream| stream.taking.is_some());
        self.touched.extend(taken.map(|stream| stream.log));
        self.sync_streams();
        self.finish_joins(now, out);
        self.send_answers(out);
    }

    /// Goes on with what was under way when the backup ended.
    pub(super) fn resume_moves(&mut self) {
        self.moves.due = true;
        let active = &self.authority.record().moves.active;
        self.moves.binding = active.keys().copied().collect();
        let checkpoints: Vec<_> = self
            .streams
            .values()
            .filter_map(|stream| Some((stream.log, stream.checkpoint?.end.seq)))
            .collect();
        for (log, seq) in checkpoints {
            self.note_checkpoint(log, seq);
        }
        self.resume_takings();
    }
}
