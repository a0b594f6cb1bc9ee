//! What goes wrong in a drill, or changes: begun at its time, and watched until it is over.

use std::io;
use std::time::Duration;

use rustix::process::Signal;

use super::drill::{DrillError, DrillEvent};
use super::shape::{ClusterShape, Watch};
use super::{Cluster, Process};
use crate::client::{ClusterAsk, ClusterCommand, MoveNumber, NodeId};
use crate::clock::{Clock, Tick};
use crate::limits::LINK_PING_MS;
use crate::model::Random;

/// How long anything may take: to be taken over, to move, to serve again.
const BLOW_MS_MAX: u64 = 120_000;

/// How long nothing may change until it counts as settled: every node says twice what it has.
const SETTLED_MS: u64 = 2 * LINK_PING_MS;

/// How long a paused backup is stopped.
const PAUSE_MS: u64 = 10_000;

/// What goes wrong in a drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// One node is killed and its data folder deleted; the others take its users over.
    TakeOver,
    /// One node is killed and its data folder deleted; it is started again at once.
    NodeReturns,
    /// One more node joins.
    AddNode,
    /// One node gives all it has to the others.
    DrainNode,
    /// The backup is killed and started again.
    BackupRestart,
    /// The backup is stopped for ten seconds.
    BackupPaused,
    /// One of two fronts is killed.
    FrontKilled,
    /// One node is stopped until it was taken over, and then goes on.
    StoppedNodeWakes,
    /// Every daemon in turn is killed and started again, so often in all, spread over the load.
    KillInTurn(u32),
}

impl Scenario {
    /// All that have a name of their own.
    pub const ALL: [Self; 8] = [
        Self::TakeOver,
        Self::NodeReturns,
        Self::AddNode,
        Self::DrainNode,
        Self::BackupRestart,
        Self::BackupPaused,
        Self::FrontKilled,
        Self::StoppedNodeWakes,
    ];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TakeOver => "take-over",
            Self::NodeReturns => "node-returns",
            Self::AddNode => "add-node",
            Self::DrainNode => "drain-node",
            Self::BackupRestart => "backup-restart",
            Self::BackupPaused => "backup-paused",
            Self::FrontKilled => "front-killed",
            Self::StoppedNodeWakes => "stopped-node-wakes",
            Self::KillInTurn(_) => "kill-in-turn",
        }
    }

    pub(super) const fn blow_count(self) -> u32 {
        match self {
            Self::KillInTurn(count) => count,
            Self::TakeOver
            | Self::NodeReturns
            | Self::AddNode
            | Self::DrainNode
            | Self::BackupRestart
            | Self::BackupPaused
            | Self::FrontKilled
            | Self::StoppedNodeWakes => 1,
        }
    }

    pub(super) const fn front_count(self) -> u32 {
        match self {
            Self::FrontKilled => 2,
            Self::TakeOver
            | Self::NodeReturns
            | Self::AddNode
            | Self::DrainNode
            | Self::BackupRestart
            | Self::BackupPaused
            | Self::StoppedNodeWakes
            | Self::KillInTurn(_) => 1,
        }
    }

    /// What blow `number` is, from 0, in a cluster of so many nodes.
    fn blow(self, number: u32, seed: u64, node_count: u32) -> Step {
        let mut random = Random::new(seed ^ 0x5649_4354);
        let drawn = random.below(u64::from(node_count));
        let node = u32::try_from(drawn).expect("below a u32") + 1;
        match self {
            Self::TakeOver => Step::TakenOver { node },
            Self::NodeReturns => Step::Back(Victim::WipedNode(node)),
            Self::AddNode => Step::Joined {
                node: node_count + 1,
            },
            Self::DrainNode => Step::Drained { node },
            Self::BackupRestart => Step::Back(Victim::Backup),
            Self::BackupPaused => Step::Paused,
            Self::FrontKilled => Step::FrontGone,
            Self::StoppedNodeWakes => Step::Stopped { node },
            Self::KillInTurn(_) => Step::Back(match number % (node_count + 2) {
                0 => Victim::Backup,
                1 => Victim::Front,
                index => Victim::Node(index - 1),
            }),
        }
    }
}

/// A daemon that is killed and started again.
#[derive(Clone, Copy, Debug)]
enum Victim {
    WipedNode(u32),
    Node(u32),
    Backup,
    Front,
}

impl Victim {
    fn process(self, cluster: &mut Cluster) -> &mut Process {
        match self {
            Self::WipedNode(node) | Self::Node(node) => cluster.node(node),
            Self::Backup => cluster.backup(),
            Self::Front => cluster.front(1),
        }
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The others serve what the dead node had.
    TakenOver { node: u32 },
    /// The daemon that was killed serves again.
    Back(Victim),
    /// The new node has its share.
    Joined { node: u32 },
    /// The node has nothing left.
    Drained { node: u32 },
    /// The backup's pause ends, and it answers.
    Paused,
    /// Somebody answers through the other front.
    FrontGone,
    /// The others serve what the stopped node had; then it is woken.
    Stopped { node: u32 },
    /// It serves again, as one that owns nothing.
    Woken { node: u32, term: u64 },
    /// It is over.
    Over,
}

/// How long things took, and what moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outage {
    pub(super) blow_count: u32,
    pub(super) kill_count: u32,
    /// From the kill until the daemon served again; the longest.
    pub(super) back_after_ms: u64,
    pub(super) served_meanwhile: u64,
    pub(super) detected_after_ms: Option<u64>,
    pub(super) first_serving_after_ms: Option<u64>,
    pub(super) last_serving_after_ms: Option<u64>,
    pub(super) moved_accounts: u64,
}

/// One blow under way.
#[derive(Debug)]
pub(super) struct Blow {
    step: Step,
    began: Tick,
    began_ms: u64,
    acknowledged: u64,
    before: ClusterShape,
    /// The last shape in which nothing had to move, and since when it is so.
    settled: Option<(u64, ClusterShape)>,
}

impl Blow {
    /// The log whose users are hit, if it is one node's.
    pub(super) fn victim_log(&self) -> u64 {
        let node = match self.step {
            Step::TakenOver { node }
            | Step::Stopped { node }
            | Step::Drained { node }
            | Step::Woken { node, .. }
            | Step::Back(Victim::WipedNode(node) | Victim::Node(node)) => node,
            Step::Back(Victim::Backup | Victim::Front)
            | Step::Joined { .. }
            | Step::Paused
            | Step::FrontGone
            | Step::Over => return 0,
        };
        self.before.nodes.get(&node).map_or(0, |shape| shape.log)
    }

    /// Strikes.
    pub(super) fn begin(
        (scenario, number, seed): (Scenario, u32, u64),
        cluster: &mut Cluster,
        watch: &mut Watch,
        (clock, acknowledged): (Clock, u64),
        tell: &mut impl FnMut(DrillEvent),
    ) -> Result<Self, DrillError> {
        let before = watch.look().unwrap_or_default();
        let now = clock.now();
        let blow = Self {
            step: scenario.blow(number, seed, cluster.node_count()),
            began: now.tick,
            began_ms: now.wall_ms,
            acknowledged,
            before,
            settled: None,
        };
        let text = blow.strike(cluster, watch)?;
        tell(DrillEvent::Struck { text, acknowledged });
        Ok(blow)
    }

    fn strike(&self, cluster: &mut Cluster, watch: &mut Watch) -> Result<String, DrillError> {
        Ok(match self.step {
            Step::TakenOver { node } => {
                cluster.node(node).kill()?;
                cluster.wipe_node(node)?;
                format!("node-{node} killed with SIGKILL and its data folder deleted")
            }
            Step::Back(victim) => {
                let process = victim.process(cluster);
                process.kill()?;
                let mut text = format!("{} killed with SIGKILL", process.name());
                if let Victim::WipedNode(node) = victim {
                    cluster.wipe_node(node)?;
                    text.push_str(" and its data folder deleted");
                }
                match victim {
                    Victim::WipedNode(node) | Victim::Node(node) => cluster.restart_node(node)?,
                    Victim::Backup => cluster.restart_backup()?,
                    Victim::Front => cluster.restart_front(1)?,
                }
                text
            }
            Step::Joined { .. } => {
                let node = cluster.add_node()?;
                format!("node-{node} joins")
            }
            Step::Drained { node } => {
                let told = watch.client.command(drain(node)?)?;
                if told.contains("\"refused\"") {
                    return Err(DrillError::Refused(told));
                }
                format!("node-{node} gives its slots away")
            }
            Step::Paused => {
                cluster.backup().signal(Signal::STOP)?;
                format!("the backup is stopped for {} s", PAUSE_MS.div_euclid(1_000))
            }
            Step::FrontGone => {
                cluster.front(1).kill()?;
                "front-1 killed with SIGKILL".to_owned()
            }
            Step::Stopped { node } | Step::Woken { node, .. } => {
                cluster.node(node).signal(Signal::STOP)?;
                format!("node-{node} stopped with SIGSTOP")
            }
            Step::Over => String::new(),
        })
    }

    /// Looks how far it is. True: it is over.
    pub(super) fn poll(
        &mut self,
        cluster: &mut Cluster,
        watch: &mut Watch,
        (clock, acknowledged): (Clock, u64),
        outage: &mut Outage,
        tell: &mut impl FnMut(DrillEvent),
    ) -> Result<bool, DrillError> {
        let after_ms = clock.now().tick.since(self.began).div_euclid(1_000_000);
        if BLOW_MS_MAX < after_ms {
            let text = format!("{:?}", self.step);
            return Err(DrillError::TooSlow(text));
        }
        self.step = match self.step {
            Step::Back(victim) if victim.process(cluster).is_ready()? => {
                let name = victim.process(cluster).name().to_owned();
                self.back(name, after_ms, acknowledged, outage, tell);
                outage.kill_count += 1;
                Step::Over
            }
            Step::Paused if PAUSE_MS <= after_ms => {
                cluster.backup().signal(Signal::CONT)?;
                if watch.look().is_some() {
                    self.back("backup".to_owned(), after_ms, acknowledged, outage, tell);
                    Step::Over
                } else {
                    Step::Paused
                }
            }
            step @ (Step::Back(_) | Step::Paused | Step::Over) => step,
            step @ (Step::TakenOver { .. }
            | Step::Joined { .. }
            | Step::Drained { .. }
            | Step::FrontGone
            | Step::Stopped { .. }
            | Step::Woken { .. }) => match watch.look() {
                Some(shape) => {
                    let settled_ms = self.settle(&shape, after_ms);
                    let seen = Seen {
                        shape,
                        after_ms,
                        settled_ms,
                        acknowledged,
                    };
                    self.look(step, &seen, cluster, outage, tell)?
                }
                None => step,
            },
        };
        let is_over = matches!(self.step, Step::Over);
        if is_over {
            outage.blow_count += 1;
        }
        Ok(is_over)
    }

    /// Since when nothing had to move, once all nodes have said what they have since then.
    fn settle(&mut self, shape: &ClusterShape, after_ms: u64) -> Option<u64> {
        if !shape.is_settled() {
            self.settled = None;
            return None;
        }
        if let Some((since_ms, settled)) = &self.settled
            && settled == shape
        {
            return (since_ms + SETTLED_MS <= after_ms).then_some(*since_ms);
        }
        self.settled = Some((after_ms, shape.clone()));
        None
    }

    fn back(
        &self,
        name: String,
        after_ms: u64,
        acknowledged: u64,
        outage: &mut Outage,
        tell: &mut impl FnMut(DrillEvent),
    ) {
        let served_meanwhile = acknowledged - self.acknowledged;
        outage.back_after_ms = outage.back_after_ms.max(after_ms);
        outage.served_meanwhile += served_meanwhile;
        tell(DrillEvent::Back {
            name,
            after_ms,
            served_meanwhile,
        });
    }

    fn look(
        &self,
        step: Step,
        seen: &Seen,
        cluster: &mut Cluster,
        outage: &mut Outage,
        tell: &mut impl FnMut(DrillEvent),
    ) -> Result<Step, DrillError> {
        let shape = &seen.shape;
        let of = |node: u32| shape.nodes.get(&node).copied().unwrap_or_default();
        Ok(match step {
            Step::TakenOver { node } => {
                if !self.is_taken_over(node, seen, outage, tell) {
                    return Ok(step);
                }
                outage.kill_count += 1;
                self.moved(seen, outage, tell);
                Step::Over
            }
            Step::Stopped { node } => {
                if !self.is_taken_over(node, seen, outage, tell) {
                    return Ok(step);
                }
                self.moved(seen, outage, tell);
                cluster.node(node).signal(Signal::CONT)?;
                tell(DrillEvent::Woken {
                    name: cluster.node(node).name().to_owned(),
                });
                let term = of(node).term;
                Step::Woken { node, term }
            }
            // A new term: its old life ended, whatever it had in mind.
            Step::Woken { node, term } if of(node).serves && term < of(node).term => {
                let name = cluster.node(node).name().to_owned();
                self.back(name, seen.after_ms, seen.acknowledged, outage, tell);
                Step::Over
            }
            Step::Joined { node } if 0 < of(node).slots && seen.settled_ms.is_some() => {
                outage.last_serving_after_ms = seen.settled_ms;
                self.moved(seen, outage, tell);
                Step::Over
            }
            Step::Drained { node } if of(node).slots == 0 && seen.settled_ms.is_some() => {
                outage.last_serving_after_ms = seen.settled_ms;
                self.moved(seen, outage, tell);
                Step::Over
            }
            Step::FrontGone => {
                outage.kill_count += 1;
                let name = "a front".to_owned();
                self.back(name, seen.after_ms, seen.acknowledged, outage, tell);
                Step::Over
            }
            Step::Woken { .. }
            | Step::Joined { .. }
            | Step::Drained { .. }
            | Step::Back(_)
            | Step::Paused
            | Step::Over => step,
        })
    }

    /// Takes in how far the take-over is. True: all of the node's slots are served again.
    fn is_taken_over(
        &self,
        node: u32,
        seen: &Seen,
        outage: &mut Outage,
        tell: &mut impl FnMut(DrillEvent),
    ) -> bool {
        let taken = seen.shape.take_over_of(node);
        let Some(taken) = taken.filter(|taken| self.began_ms <= taken.detected_ms) else {
            return false;
        };
        let detected_ms = taken.detected_ms - self.began_ms;
        if outage.detected_after_ms.replace(detected_ms).is_none() {
            tell(DrillEvent::Detected {
                node,
                after_ms: detected_ms,
            });
        }
        let first = taken.first_serving_after_ms.map(|ms| detected_ms + ms);
        let last = taken.last_serving_after_ms.map(|ms| detected_ms + ms);
        outage.first_serving_after_ms = first;
        outage.last_serving_after_ms = last;
        outage.moved_accounts = taken.accounts;
        last.is_some()
    }

    fn moved(&self, seen: &Seen, outage: &mut Outage, tell: &mut impl FnMut(DrillEvent)) {
        outage.served_meanwhile += seen.acknowledged - self.acknowledged;
        if outage.moved_accounts == 0 {
            // No take-over counted them; what was heard before may lack the newest accounts.
            outage.moved_accounts = seen.shape.accounts_moved_since(&self.before);
        }
        let slots = |shape: &ClusterShape| {
            let nodes = shape.nodes.iter();
            nodes.map(|(node, shape)| (*node, shape.slots)).collect()
        };
        tell(DrillEvent::Moved {
            first_after_ms: outage.first_serving_after_ms,
            last_after_ms: outage.last_serving_after_ms.unwrap_or(seen.after_ms),
            accounts: outage.moved_accounts,
            served_meanwhile: seen.acknowledged - self.acknowledged,
            before: slots(&self.before),
            after: slots(&seen.shape),
        });
    }
}

/// One look at a blow under way.
#[derive(Debug)]
struct Seen {
    shape: ClusterShape,
    after_ms: u64,
    settled_ms: Option<u64>,
    acknowledged: u64,
}

fn drain(node: u32) -> Result<ClusterAsk, DrillError> {
    let node = NodeId::new(node).ok_or_else(|| io::Error::other("node 0 is none"))?;
    Ok(ClusterAsk {
        command: ClusterCommand::Drain,
        dry_run: false,
        node: Some(node),
        weight: 0,
        number: MoveNumber(0),
    })
}

/// How often it is looked how far a blow is.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(20);
