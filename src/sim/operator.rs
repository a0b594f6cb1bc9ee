//! The operator: commands to the authority at random times, through a front, as the command line
//! sends them; new nodes are started and removed ones switched off.
//!
//! In the end the operator lets planned moves go on and looks at the plan until nothing is left
//! to be moved.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::clock::{At, MS};
use super::machine::{Body, Kind};
use super::plan::{Plan, Purpose, stream};
use super::workload::ClientBody;
use super::world::World;
use crate::client::ClientError;
use crate::client::session::{Question, Told};
use crate::clock::Now;
use crate::log::MemoryMedium;
use crate::model::{MoveNumber, NodeId, Random, to_u64, to_usize};
use crate::protocol::{ClusterAsk, ClusterCommand};

/// Between two looks at the plan at the end.
const LOOK_MS: u64 = 150;

/// Nodes of numbers above this are only planned for.
const NEVER_THERE: u32 = 1_000;

/// What the operator knows and does.
#[derive(Debug)]
pub(super) struct Operator {
    random: Random,
    every_ms: u64,
    next_at: At,
    asked: Option<(Question, ClusterAsk)>,
    has_resumed: bool,
    /// Nothing is left to be moved.
    pub(super) is_settled: bool,
    /// Why it is not settled.
    pub(super) why: String,
    /// Machines that have no node.
    free: BTreeSet<usize>,
    /// Weights of the nodes that joined, by machine.
    joins: BTreeMap<usize, u32>,
    /// Nodes that were asked to be removed.
    leaving: BTreeSet<NodeId>,
}

impl Operator {
    /// The operator of a seed; `None`: it has none.
    pub(super) fn new(plan: &Plan) -> Option<Self> {
        let every_ms = plan.moves?.operate_ms?;
        Some(Self {
            random: stream(plan.seed, Purpose::Operator),
            every_ms,
            next_at: 0,
            asked: None,
            has_resumed: false,
            is_settled: false,
            why: "the plan was not seen".to_owned(),
            free: BTreeSet::new(),
            joins: BTreeMap::new(),
            leaving: BTreeSet::new(),
        })
    }

    /// This machine has no node.
    pub(super) fn is_free(&mut self, machine: usize) {
        self.free.insert(machine);
    }

    /// The weight with which the node on this machine joins.
    pub(super) fn join_of(&self, machine: usize) -> Option<u32> {
        self.joins.get(&machine).copied()
    }
}

impl World {
    /// The operator's program is started again.
    pub(super) fn forget_question(&mut self) {
        if let Some(operator) = &mut self.operator {
            operator.asked = None;
        }
    }

    /// One turn of the operator. When the next one is due.
    pub(super) fn operator_turn(&mut self, body: &mut ClientBody, now: Now) -> Option<At> {
        let mut operator = self.operator.take()?;
        if let Some((question, ask)) = operator.asked
            && let Some(told) = body.session.take_told(question)
        {
            operator.asked = None;
            self.operator_hears(&mut operator, &ask, told);
        }
        if operator.asked.is_none() && operator.next_at <= self.at && !operator.is_settled {
            if let Some(ask) = self.next_command(&mut operator) {
                let question = body.session.ask_cluster(now, ask);
                operator.asked = Some((question, ask));
            }
            let pause_ms = if self.is_healed {
                LOOK_MS
            } else {
                1 + operator.random.below(2 * operator.every_ms)
            };
            operator.next_at = self.at + pause_ms * MS;
        }
        let next_at = (!operator.is_settled).then_some(operator.next_at.max(self.at + 1));
        self.operator = Some(operator);
        next_at
    }

    /// What is asked next. `None`: something was done by hand.
    fn next_command(&mut self, operator: &mut Operator) -> Option<ClusterAsk> {
        let mut ask = ClusterAsk {
            command: ClusterCommand::Plan,
            dry_run: false,
            node: None,
            weight: 0,
            number: MoveNumber(0),
        };
        if self.is_healed {
            if !operator.has_resumed {
                ask.command = ClusterCommand::Resume;
            }
            return Some(ask);
        }
        let random = &mut operator.random;
        let machine = self.node_at[to_usize(random.below(to_u64(self.node_at.len())))];
        let Kind::Node(node) = self.machines[machine].kind else {
            return None;
        };
        ask.dry_run = random.one_in(12);
        match random.below(14) {
            0 => ask.command = ClusterCommand::Pause,
            1 | 2 => ask.command = ClusterCommand::Resume,
            3 => {
                ask.command = ClusterCommand::Cancel;
                ask.number = MoveNumber(1 + random.below(12));
            }
            4 | 5 => {
                ask.command = ClusterCommand::Drain;
                ask.node = Some(node);
            }
            6..=8 => {
                ask.command = ClusterCommand::Weight;
                ask.node = Some(node);
                ask.weight = u32::try_from(random.below(4)).expect("small");
            }
            9 | 10 => {
                ask.command = ClusterCommand::Remove;
                ask.node = Some(node);
                if !ask.dry_run {
                    operator.leaving.insert(node);
                }
            }
            11 if ask.dry_run => {
                ask.command = ClusterCommand::Add;
                ask.node = NodeId::new(NEVER_THERE + node.get());
                ask.weight = 1;
            }
            11 => (),
            _ => {
                self.add_node(operator);
                return None;
            }
        }
        Some(ask)
    }

    /// `add-node`: a machine that has no node is started with `--join`.
    fn add_node(&mut self, operator: &mut Operator) {
        let Some(number) = operator.free.pop_last() else {
            return;
        };
        let weight = 1 + u32::try_from(operator.random.below(2)).expect("small");
        operator.joins.insert(number, weight);
        let machine = &mut self.machines[number];
        machine.stays_down = false;
        machine.medium = Some(MemoryMedium::new());
        self.watch.forget_disk(number);
        let text = format!("the operator starts {} with --join", machine.name);
        self.node_at.push(number);
        self.tell(&text);
        self.counts.event("add_node");
        self.restart_at(number, self.at + MS);
    }

    fn operator_hears(
        &mut self,
        operator: &mut Operator,
        ask: &ClusterAsk,
        told: Result<Told, ClientError>,
    ) {
        let Ok(Told::Cluster(text)) = told else {
            // Not now; whether it was done is not known.
            return;
        };
        let Ok(answer) = serde_json::from_str::<Value>(&text) else {
            self.blame(format!("an answer to {ask:?} is no JSON: {text}"));
            return;
        };
        let is_done = answer["done"] == Value::Bool(true);
        let outcome = if is_done {
            "done"
        } else {
            answer["refused"].as_str().unwrap_or("a dry run")
        };
        let line = format!(
            "the operator's {:?} of {:?}: {outcome}",
            ask.command, ask.node
        );
        self.tell(&line);
        if is_done {
            self.counts.event(name_of(ask.command));
        }
        if self.is_healed {
            match ask.command {
                ClusterCommand::Resume => operator.has_resumed |= is_done,
                ClusterCommand::Plan => self.look_at_plan(operator, &answer["plan"]),
                ClusterCommand::Drain
                | ClusterCommand::Remove
                | ClusterCommand::Weight
                | ClusterCommand::Pause
                | ClusterCommand::Cancel
                | ClusterCommand::Add => (),
            }
        }
    }

    /// Is everything where the plan wants it?
    fn look_at_plan(&mut self, operator: &mut Operator, plan: &Value) {
        let nodes = plan["nodes"].as_array().cloned().unwrap_or_default();
        let emptied = nodes
            .iter()
            .any(|node| node["emptied"] == Value::Bool(true));
        let is_still = plan["under_way"] == 0 && plan["slots_to_move"] == 0 && !emptied;
        operator.is_settled = is_still && plan["paused"] == Value::Bool(false);
        operator.why = plan.to_string();
        let slots: u64 = nodes.iter().filter_map(|node| node["slots"].as_u64()).sum();
        if slots != u64::from(crate::limits::SLOT_COUNT) {
            self.blame(format!("the nodes have {slots} slots: {plan}"));
        }
    }

    /// A node says that it is no member any more: the operator switches its machine off. False:
    /// nobody removed it.
    pub(super) fn was_removed(&mut self, number: usize) -> bool {
        let spare = self.spare();
        let Kind::Node(node) = self.machines[number].kind else {
            return false;
        };
        let Some(operator) = &mut self.operator else {
            return false;
        };
        if !operator.leaving.contains(&node) {
            return false;
        }
        operator.joins.remove(&number);
        if number != spare {
            operator.free.insert(number);
        }
        self.node_at.retain(|other| *other != number);
        self.machines[number].stays_down = true;
        self.counts.event("removed");
        true
    }

    /// A node was removed, did not hear of it, and its number was given to another machine since:
    /// its log is not that node's any more.
    pub(super) fn has_removed_log(&self, number: usize, text: &str) -> bool {
        let Kind::Node(node) = self.machines[number].kind else {
            return false;
        };
        let operator = self.operator.as_ref();
        let was_removed = operator.is_some_and(|operator| operator.leaving.contains(&node));
        was_removed && text.contains("wrong_log")
    }

    /// Nothing is left to be moved, as far as an operator can see.
    pub(super) fn is_settled(&self) -> bool {
        let operator = self.operator.as_ref();
        operator.is_none_or(|operator| operator.is_settled)
    }

    /// The daemons start anew: the operator looks again.
    pub(super) fn look_again(&mut self) {
        let number = self.operator_machine();
        if let Some(operator) = &mut self.operator {
            operator.is_settled = false;
            operator.next_at = self.at + LOOK_MS * MS;
            let at = operator.next_at;
            if matches!(self.machines[number].body, Some(Body::Client(_))) {
                self.wake_at(number, at);
            }
        }
    }
}

const fn name_of(command: ClusterCommand) -> &'static str {
    match command {
        ClusterCommand::Plan => "command_plan",
        ClusterCommand::Drain => "command_drain",
        ClusterCommand::Remove => "command_remove",
        ClusterCommand::Weight => "command_weight",
        ClusterCommand::Pause => "command_pause",
        ClusterCommand::Resume => "command_resume",
        ClusterCommand::Cancel => "command_cancel",
        ClusterCommand::Add => "command_add",
    }
}
