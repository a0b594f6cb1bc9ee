//! What an operator sees of moves: the plan, and the part of the status.

use serde_json::{Value, json};

use super::super::Running;
use super::super::authority::{Cause, MoveRecord, MoveState, Record};
use super::super::stream::Stream;
use super::plan::{balance_key, pairs};
use super::{TakeOverNote, Taking};
use crate::clock::Now;
use crate::model::{MoveNumber, to_u64};
use crate::protocol::MemberState;

/// Moves that one text shows at most: both lists must fit with the nodes.
const SHOWN_COUNT_MAX: usize = 256;

impl Running {
    /// The plan for a record: what each node has and gets, and which slots are to move.
    pub(super) fn plan_json(&self, now: Now, record: &Record) -> Value {
        let desired = record.plan_for(|_, member| member.takes_part());
        let pairs = pairs(record, &desired);
        let nodes: Vec<Value> = record
            .members
            .iter()
            .map(|(node, member)| {
                json!({
                    "node": node.get(),
                    "weight": member.weight,
                    "draining": member.draining,
                    "emptied": member.emptied,
                    "slots": record.table.slot_count_of(*node),
                    "planned_slots": desired.slot_count_of(*node),
                })
            })
            .collect();
        let mut slots_to_move = 0;
        let mut accounts_to_move = 0;
        let mut moves = Vec::new();
        for ((source, target), slots) in &pairs {
            let source_log = record.members.get(source).map(|member| member.log);
            let stream = source_log.and_then(|log| self.streams.get(&log));
            let slot_count = to_u64(slots.len());
            let account_count = stream.map_or(0, |stream| self.accounts_in(stream, slot_count));
            slots_to_move += slot_count;
            accounts_to_move += account_count;
            if moves.len() < SHOWN_COUNT_MAX {
                moves.push(json!({
                    "source": source.get(),
                    "target": target.get(),
                    "slots": slot_count,
                    "accounts": account_count,
                    "waits_for": self.what_hinders(now, (*source, *target)),
                }));
            }
        }
        json!({
            "ring_epoch": record.ring_epoch().0,
            "paused": record.moves.paused,
            "under_way": record.moves.active.len(),
            "slots_to_move": slots_to_move,
            "accounts_to_move": accounts_to_move,
            "nodes": nodes,
            "moves_left_out": pairs.len() - moves.len(),
            "moves": moves,
        })
    }

    /// The part of the status that tells of moves.
    pub(in super::super) fn moves_json(&self, now: Now) -> Value {
        let record = self.authority.record();
        let active = &record.moves.active;
        let shown = active.iter().take(SHOWN_COUNT_MAX);
        let moves: Vec<Value> = shown
            .map(|(number, moving)| {
                json!({
                    "number": number.0,
                    "image": moving.image.0,
                    "source": moving.source.get(),
                    "target": moving.target.get(),
                    "cause": match moving.cause {
                        Cause::Planned => "planned",
                        Cause::TakeOver => "take-over",
                    },
                    "state": moving.state.name(),
                    "since_ms": moving.since_ms,
                    "slots": moving.slot_count(),
                    "accounts": moving.handed().map(|handed| handed.image.account_count),
                    "waits_for": self.what_blocks(now, *number, moving),
                })
            })
            .collect();
        let notes: Vec<Value> = self.moves.take_overs.iter().map(note_json).collect();
        let slots_to_move = self.slots_to_move(record);
        json!({
            "paused": record.moves.paused,
            "slots_to_move": slots_to_move,
            "images": record.moves.images().len(),
            "stuck": self.moves.stuck,
            "take_overs": notes,
            "moves_left_out": active.len() - moves.len(),
            "moves": moves,
        })
    }

    /// Slots that the rule gives to others than have them, and that are not on their way.
    fn slots_to_move(&self, record: &Record) -> usize {
        if self.moves.balanced == Some(balance_key(record)) {
            return 0;
        }
        let desired = record.plan_for(|_, member| member.takes_part());
        pairs(record, &desired).values().map(Vec::len).sum()
    }

    /// What a move waits for, in words.
    fn what_blocks(&self, now: Now, number: MoveNumber, moving: &MoveRecord) -> String {
        let (log, what) = match moving.state {
            MoveState::Ordered if moving.cause == Cause::TakeOver => {
                let log = moving.source_log;
                return match self.moves.failed.get(&log) {
                    Some(text) => format!("another try: {text}"),
                    None => what_blocks_taking(&self.streams[&log]),
                };
            }
            MoveState::Ordered => (moving.source_log, "the hand-over"),
            MoveState::Handed(_) => (moving.target_log, "the adoption"),
            MoveState::Flipped(..) => (moving.target_log, "the activation"),
        };
        let stream = &self.streams[&log];
        let node = stream.node;
        if self.state_of(stream) == MemberState::Away {
            let lost = if self.is_lost(now, log) {
                "lost"
            } else {
                "away"
            };
            return format!("node {node}, which is {lost}");
        }
        if !self.is_serving(stream) {
            return format!("node {node}, which is starting");
        }
        if let Some(fault) = &self.streams[&moving.source_log].replica.fault {
            return format!("the replica of log {}: {fault}", moving.source_log);
        }
        let next = self.next_adoption(moving.target_log);
        if matches!(moving.state, MoveState::Handed(_)) && next != Some(number) {
            return match next {
                Some(next) => format!("move {next} to the same node"),
                None => "another move to the same node".to_owned(),
            };
        }
        format!("{what} by node {node}")
    }

    /// Is nothing wrong with where slots are?
    pub(in super::super) fn moves_are_healthy(&self) -> bool {
        let mut active = self.authority.latest().moves.active.values();
        self.moves.stuck.is_none()
            && !active.any(|moving| moving.cause == Cause::TakeOver)
            && self.streams.values().all(|stream| stream.taking.is_none())
    }
}

fn what_blocks_taking(stream: &Stream) -> String {
    if let Some(fault) = &stream.replica.fault {
        return format!("the replica of log {}: {fault}", stream.log);
    }
    let text = match stream.taking {
        Some(Taking::Fencing) => "the fence",
        Some(Taking::Saving(_)) => "the authority's file",
        Some(Taking::Building) => "the block",
        Some(Taking::Failed(_)) => "another try to build the block",
        Some(Taking::Appending(_)) => "the disk",
        None => "the image",
    };
    text.to_owned()
}

fn note_json(note: &TakeOverNote) -> Value {
    json!({
        "node": note.node.get(),
        "log": note.log.get(),
        "detected_ms": note.detected_ms,
        "silent_ms": note.silent_ms,
        "slots": note.slot_count,
        "accounts": note.moved_account_count,
        "handed_after_ms": note.handed_after_ms,
        "first_serving_after_ms": note.first_serving_after_ms,
        "last_serving_after_ms": note.last_serving_after_ms,
    })
}
