//! Operators' commands: what they change in the record, and the plan that follows from it.
//!
//! An answer leaves once what it says is durable. A dry run changes nothing: it says what the plan
//! would be. Each command may come twice: what is done already is answered as done.

use serde_json::json;

use super::super::authority::{Cause, MemberRecord, MoveState, Record};
use super::super::connections::Asker;
use super::super::{NODE_WEIGHT_MAX, Running, Stage};
use crate::clock::Now;
use crate::model::{MoveNumber, NodeId};
use crate::protocol::{ClusterAsk, ClusterCommand, Message, RefusalCode};
use crate::role::{Level, Outbox};

/// Commands that wait for the record at a time.
const ANSWER_COUNT_MAX: usize = 1_024;

/// What a command does to the record.
enum Change {
    Nothing,
    Drain(NodeId),
    Remove(NodeId),
    Weight(NodeId, u32),
    Pause(bool),
    Cancel(MoveNumber),
    /// In a dry run only: nodes are added by their own start.
    Add(NodeId, u32),
}

impl Change {
    fn apply(&self, record: &mut Record) {
        let mut member = |node: &NodeId, change: &mut dyn FnMut(&mut MemberRecord)| {
            let member = record.members.get_mut(node);
            change(member.expect("the command was tested"));
        };
        match self {
            Self::Nothing => (),
            Self::Drain(node) => member(node, &mut |member| member.draining = true),
            Self::Weight(node, weight) => member(node, &mut |member| {
                member.weight = *weight;
                member.draining = false;
                member.emptied = false;
            }),
            Self::Remove(node) => record.remove_member(*node),
            Self::Pause(paused) => record.moves.paused = *paused,
            Self::Cancel(number) => record.cancel_move(*number),
            Self::Add(node, weight) => record.add_member(*node, *weight),
        }
    }
}

impl Running {
    pub(in super::super) fn on_cluster_ask(
        &mut self,
        now: Now,
        asker: Asker,
        ask: &ClusterAsk,
        out: &mut Outbox,
    ) {
        if self.stage != Stage::Serving {
            self.refuse(asker, RefusalCode::Closing, "the backup is ending", out);
            return;
        }
        if ANSWER_COUNT_MAX <= self.moves.answers.len() {
            let text = "too many commands wait";
            self.refuse(asker, RefusalCode::TooManyFrames, text, out);
            return;
        }
        let (change, text) = match self.judge(ask) {
            Ok(judged) => judged,
            Err(why) => {
                tell(asker, &json!({ "refused": why }).to_string(), out);
                return;
            }
        };
        let mut record = self.authority.latest().clone();
        change.apply(&mut record);
        let mut answer = json!({ "done": !ask.dry_run, "text": text });
        let plan = self.plan_json(now, &record);
        if let Some(fields) = answer.as_object_mut() {
            fields.insert("plan".to_owned(), plan);
        }
        let unchanged = record == *self.authority.latest();
        if ask.dry_run || unchanged && self.authority.is_durable() {
            tell(asker, &answer.to_string(), out);
            return;
        }
        let number = self.authority.change(|record| change.apply(record));
        self.moves.answers.push((number, asker, answer.to_string()));
        self.moves.due = true;
        self.say(Level::Info, format!("an operator's command: {text}"), out);
    }

    /// What a command means now, in words too. The error says why it is not done.
    fn judge(&self, ask: &ClusterAsk) -> Result<(Change, String), String> {
        let record = self.authority.latest();
        let node = || ask.node.ok_or_else(|| "name a node".to_owned());
        let member = |node: NodeId| {
            let member = record.members.get(&node);
            member.ok_or_else(|| format!("the cluster has no node {node}"))
        };
        match ask.command {
            ClusterCommand::Plan => Ok((Change::Nothing, "the plan".to_owned())),
            ClusterCommand::Drain => {
                let node = node()?;
                member(node)?;
                test_others(record, node)?;
                let text = format!("node {node} gives its slots to the others");
                Ok((Change::Drain(node), text))
            }
            ClusterCommand::Remove => {
                let node = node()?;
                if record.retired.values().any(|(gone, _)| *gone == node)
                    && !record.members.contains_key(&node)
                {
                    return Ok((Change::Nothing, format!("node {node} is removed")));
                }
                member(node)?;
                test_removal(record, node)?;
                Ok((Change::Remove(node), format!("node {node} is removed")))
            }
            ClusterCommand::Weight => {
                let node = node()?;
                member(node)?;
                test_weight(ask.weight)?;
                if ask.weight == 0 {
                    test_others(record, node)?;
                }
                let text = format!("node {node} has weight {}", ask.weight);
                Ok((Change::Weight(node, ask.weight), text))
            }
            ClusterCommand::Pause => {
                let text = "planned moves pause, those under way are finished".to_owned();
                Ok((Change::Pause(true), text))
            }
            ClusterCommand::Resume => Ok((Change::Pause(false), "planned moves go on".to_owned())),
            ClusterCommand::Cancel => self.judge_cancel(ask.number),
            ClusterCommand::Add => judge_addition(record, node()?, ask),
        }
    }

    fn judge_cancel(&self, number: MoveNumber) -> Result<(Change, String), String> {
        let book = &self.authority.latest().moves;
        let Some(moving) = book.active.get(&number) else {
            if number == MoveNumber(0) || book.next <= number {
                return Err(format!("there was no move {number}"));
            }
            return Ok((Change::Nothing, format!("move {number} is off the list")));
        };
        // A take-over is the backup's own order: its block may be in the log already.
        let is_told = moving.cause == Cause::TakeOver || self.moves.binding.contains(&number);
        if moving.state != MoveState::Ordered || is_told {
            return Err(format!(
                "move {number} goes forward: node {} may have handed over already. Pause planned \
                 moves, or give the slots back by weights",
                moving.source
            ));
        }
        Ok((
            Change::Cancel(number),
            format!("move {number} is taken back"),
        ))
    }

    /// Answers the commands whose changes are durable.
    pub(super) fn send_answers(&mut self, out: &mut Outbox) {
        let through = self.authority.durable_through();
        self.moves.answers.retain(|(number, asker, text)| {
            if *number <= through {
                tell(*asker, text, out);
            }
            through < *number
        });
    }
}

fn test_weight(weight: u32) -> Result<(), String> {
    if weight <= NODE_WEIGHT_MAX {
        Ok(())
    } else {
        Err(format!("weights are 0 to {NODE_WEIGHT_MAX}"))
    }
}

/// What a new node would get.
fn judge_addition(
    record: &Record,
    node: NodeId,
    ask: &ClusterAsk,
) -> Result<(Change, String), String> {
    if record.members.contains_key(&node) {
        return Ok((Change::Nothing, format!("node {node} is a member already")));
    }
    test_weight(ask.weight)?;
    if !record.has_room() {
        return Err("the cluster has no room for more nodes".to_owned());
    }
    if !ask.dry_run {
        return Err(format!("node {node} joins when it is started with --join"));
    }
    let text = format!("node {node} joins when it is started with --join, and gets its share");
    Ok((Change::Add(node, ask.weight), text))
}

/// Somebody else must be left to own what this node owns.
fn test_others(record: &Record, node: NodeId) -> Result<(), String> {
    let mut others = record.members.iter();
    let left =
        others.any(|(other, member)| *other != node && member.weight != 0 && !member.draining);
    if left {
        Ok(())
    } else {
        Err("no other node would be left to own its slots".to_owned())
    }
}

fn test_removal(record: &Record, node: NodeId) -> Result<(), String> {
    let slot_count = record.table.slot_count_of(node);
    if slot_count != 0 {
        return Err(format!(
            "node {node} owns {slot_count} slots: drain it first"
        ));
    }
    let active = &record.moves.active;
    let mut busy = active.iter();
    let busy = busy.find(|(_, moving)| moving.source == node || moving.target == node);
    if let Some((number, _)) = busy {
        return Err(format!(
            "node {node} has a part in move {number}: wait for its end"
        ));
    }
    if record.members.len() == 1 {
        return Err("the last node stays".to_owned());
    }
    Ok(())
}

fn tell(asker: Asker, text: &str, out: &mut Outbox) {
    let told = Message::ClusterTold { json: text };
    told.write_for(out.buffer(asker.peer), asker.request);
}
