//! The drill: the main job and its proof, in one go.
//!
//! An own cluster is loaded through its front by many connections. In the middle one node is
//! killed with SIGKILL and its data folder deleted; it starts again empty and restores itself
//! from the backup while the other nodes go on serving. In the end every account is read back and
//! compared with what the clients were told, and the audit with the sum of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::account_model::Verdict;
use super::drill_load::{Load, Shared, WorkerReport};
use super::{Cluster, ClusterOptions, Process, StartError};
use crate::client::{Client, ClientError, Options};
use crate::clock::{Clock, Tick};
use crate::limits;
use crate::model::Random;

/// How often it is looked whether it is time for a blow.
const PATIENCE_FOR_PROGRESS: Duration = Duration::from_millis(20);

/// Milliseconds between two reports of progress.
const PROGRESS_MS: u64 = 500;

/// How long a killed daemon may take to serve again.
const BACK: Duration = Duration::from_secs(120);

/// What to drill.
#[derive(Clone, Debug)]
pub struct DrillOptions {
    /// This program.
    pub binary: PathBuf,
    /// Where the cluster lies.
    pub folder: PathBuf,
    /// Users.
    pub user_count: u32,
    /// Currencies of each user.
    pub currency_count: u32,
    /// Changes to be acknowledged in all, the opening of the accounts included.
    pub operation_count: u64,
    /// Client connections.
    pub connection_count: u32,
    /// Operations of a request.
    pub batch_count: u32,
    /// Nodes.
    pub node_count: u32,
    /// What the load is drawn from.
    pub seed: u64,
    /// Bytes of a segment.
    pub segment_size: u64,
    /// What goes wrong.
    pub scenario: Scenario,
}

/// What goes wrong in a drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Halfway one node is killed and its data folder deleted.
    WipeNode,
    /// Every daemon in turn is killed and started again, so often in all, spread over the load.
    KillInTurn(u32),
}

impl Scenario {
    const fn blow_count(self) -> u32 {
        match self {
            Self::WipeNode => 1,
            Self::KillInTurn(count) => count,
        }
    }
}

/// What happens, as it happens.
#[derive(Clone, Debug)]
pub enum DrillEvent {
    /// The cluster serves.
    ClusterUp {
        /// Where the front listens.
        front: SocketAddr,
        /// How long the start took.
        after_ms: u64,
    },
    /// So far.
    Progress {
        /// Acknowledged changes.
        acknowledged: u64,
        /// Changes in all.
        total: u64,
        /// Since the last report.
        per_second: u64,
    },
    /// A daemon was killed.
    Killed {
        /// Which.
        name: String,
        /// Its data folder was deleted too.
        wiped: bool,
        /// Acknowledged changes at that moment.
        acknowledged: u64,
    },
    /// The killed daemon serves again.
    Back {
        /// Which.
        name: String,
        /// Since it was killed.
        after_ms: u64,
        /// Changes that were acknowledged meanwhile.
        served_meanwhile: u64,
    },
    /// The load is done; outcomes that are unknown are asked for, all accounts are read back.
    ReadingBack {
        /// Changes whose outcome is unknown.
        unknown: u64,
    },
    /// All done; the cluster is stopped.
    Stopping,
}

/// Request latency in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct LatencyReport {
    /// Median.
    pub p50: u64,
    /// 99 of 100 are below.
    pub p99: u64,
    /// 999 of 1,000 are below.
    pub p999: u64,
    /// Longest.
    pub max: u64,
}

/// What came out.
#[derive(Clone, Copy, Debug, Default)]
pub struct DrillReport {
    /// Changes that were sent (each id once).
    pub operations: u64,
    /// Changes that were answered with their outcome, refusals included.
    pub acknowledged: u64,
    /// Of these, refusals.
    pub refused: u64,
    /// Changes that were sent a second time on purpose, and gave the first receipt.
    pub replayed: u64,
    /// Acknowledged changes that are not there.
    pub lost: u64,
    /// Changes that are there and should not be.
    pub doubled: u64,
    /// Receipts that fit no sequential history.
    pub mismatched: u64,
    /// Changes that ended without an answer.
    pub unknown: u64,
    /// Of these, those whose outcome was found out.
    pub unknown_resolved: u64,
    /// The audit has no difference and equals what the clients know.
    pub conserved: bool,
    /// Acknowledged changes per second of load.
    pub operations_per_second: u64,
    /// Of requests.
    pub latency_us: LatencyReport,
    /// From the kill until the daemon served again; the longest where there were several.
    pub node_back_after_ms: u64,
    /// Daemons that were killed.
    pub kills: u32,
    /// Accounts that were read back.
    pub accounts: u64,
    /// Changes that were acknowledged while a killed daemon was away.
    pub served_meanwhile: u64,
}

impl DrillReport {
    /// Nothing lost, nothing doubled, every coin accounted for.
    #[must_use]
    pub const fn is_proof(&self) -> bool {
        let kept = self.lost == 0 && self.doubled == 0 && self.mismatched == 0;
        kept && self.conserved && self.unknown == self.unknown_resolved
    }
}

/// Why a drill came to no result.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// A daemon did not come up.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The system refused something.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A client could not go on.
    #[error("client: {0}")]
    Client(#[from] ClientError),
    /// A worker thread ended without a result.
    #[error("a client thread ended without a result")]
    Worker,
}

/// One drill.
#[derive(Debug)]
pub struct Drill {
    options: DrillOptions,
    clock: Clock,
}

impl Drill {
    /// A drill that is to be run.
    #[must_use]
    pub fn new(options: DrillOptions) -> Self {
        Self {
            options,
            clock: Clock::start(),
        }
    }

    /// Runs it; `tell` hears what happens.
    pub fn run(&self, mut tell: impl FnMut(DrillEvent)) -> Result<DrillReport, DrillError> {
        let options = &self.options;
        let start = self.clock.now().tick;
        let mut cluster = Cluster::start(ClusterOptions {
            binary: options.binary.clone(),
            folder: options.folder.clone(),
            node_count: options.node_count,
            front_count: 1,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            segment_size: options.segment_size,
        })?;
        let fronts = cluster.front_addresses();
        tell(DrillEvent::ClusterUp {
            front: fronts[0],
            after_ms: self.ms_since(start),
        });

        let shared = Arc::new(Shared::new(options.operation_count));
        let loading = self.clock.now().tick;
        let reports = self.start_workers(&fronts, &shared);
        let outage = self.oversee(&mut cluster, &shared, &reports, &mut tell)?;
        let load_ms = self.ms_since(loading).max(1);
        tell(DrillEvent::ReadingBack {
            unknown: shared.unknown(),
        });
        shared.go_on();
        let workers = self.collect(&reports)?;
        let report = Self::judge(&fronts, &shared, &workers, (load_ms, outage))?;
        tell(DrillEvent::Stopping);
        cluster.stop()?;
        Ok(report)
    }

    fn ms_since(&self, start: Tick) -> u64 {
        self.clock.now().tick.since(start) / 1_000_000
    }

    fn start_workers(&self, fronts: &[SocketAddr], shared: &Arc<Shared>) -> Receiver<Message> {
        let (send, receive) = channel();
        for number in 0..self.options.connection_count {
            let load = Load::new(&self.options, number, self.clock);
            let (send, shared, fronts) = (send.clone(), Arc::clone(shared), fronts.to_vec());
            thread::spawn(move || {
                let result = load.run(&fronts, &shared, || drop(send.send(Message::Loaded)));
                drop(send.send(Message::Done(Box::new(result))));
            });
        }
        receive
    }

    /// Waits until all connections have sent their share; strikes when their time has come.
    fn oversee(
        &self,
        cluster: &mut Cluster,
        shared: &Shared,
        reports: &Receiver<Message>,
        tell: &mut impl FnMut(DrillEvent),
    ) -> Result<Outage, DrillError> {
        let blow_count = u64::from(self.options.scenario.blow_count());
        let mut outage = Outage::default();
        let mut loading = self.options.connection_count;
        let mut last = (self.clock.now().tick, 0);
        while loading != 0 || u64::from(outage.blow_count) < blow_count {
            match reports.recv_timeout(PATIENCE_FOR_PROGRESS) {
                Ok(Message::Loaded) => loading -= 1,
                Ok(Message::Done(result)) => return Err(early_end(*result)),
                Err(RecvTimeoutError::Disconnected) => return Err(DrillError::Worker),
                Err(RecvTimeoutError::Timeout) => (),
            }
            let blow = u64::from(outage.blow_count) + 1;
            let reached = shared.acknowledged().saturating_mul(blow_count + 1);
            let is_time = self.options.operation_count.saturating_mul(blow) <= reached;
            if blow <= blow_count && (is_time || loading == 0) {
                self.strike(cluster, shared, &mut outage, tell)?;
            }
            last = self.tell_progress(shared, last, tell);
        }
        Ok(outage)
    }

    fn tell_progress(
        &self,
        shared: &Shared,
        (then, before): (Tick, u64),
        tell: &mut impl FnMut(DrillEvent),
    ) -> (Tick, u64) {
        let now = self.clock.now().tick;
        let elapsed_ms = now.since(then) / 1_000_000;
        if elapsed_ms < PROGRESS_MS {
            return (then, before);
        }
        let acknowledged = shared.acknowledged();
        let per_second = (acknowledged - before) * 1_000 / elapsed_ms;
        tell(DrillEvent::Progress {
            acknowledged,
            total: self.options.operation_count,
            per_second,
        });
        (now, acknowledged)
    }

    /// Who is killed by blow `number`, from 0.
    fn victim(&self, number: u32) -> Victim {
        let nodes = self.options.node_count;
        match self.options.scenario {
            Scenario::WipeNode => {
                let mut random = Random::new(self.options.seed ^ 0x5649_4354);
                let index = random.below(u64::from(nodes));
                Victim::WipedNode(u32::try_from(index).expect("below a u32") + 1)
            }
            Scenario::KillInTurn(_) => match number % (nodes + 2) {
                0 => Victim::Backup,
                1 => Victim::Front,
                index => Victim::Node(index - 1),
            },
        }
    }

    fn strike(
        &self,
        cluster: &mut Cluster,
        shared: &Shared,
        outage: &mut Outage,
        tell: &mut impl FnMut(DrillEvent),
    ) -> Result<(), DrillError> {
        let victim = self.victim(outage.blow_count);
        let killed = self.clock.now().tick;
        let process = victim.process(cluster);
        process.kill()?;
        let name = process.name().to_owned();
        let acknowledged = shared.acknowledged();
        let wiped = matches!(victim, Victim::WipedNode(_));
        if let Victim::WipedNode(node) = victim {
            cluster.wipe_node(node)?;
        }
        tell(DrillEvent::Killed {
            name: name.clone(),
            wiped,
            acknowledged,
        });
        match victim {
            Victim::WipedNode(node) | Victim::Node(node) => cluster.restart_node(node)?,
            Victim::Backup => cluster.restart_backup()?,
            Victim::Front => cluster.restart_front(1)?,
        }
        victim.process(cluster).wait_ready(BACK)?;
        let after_ms = self.ms_since(killed);
        let served_meanwhile = shared.acknowledged() - acknowledged;
        tell(DrillEvent::Back {
            name,
            after_ms,
            served_meanwhile,
        });
        outage.blow_count += 1;
        outage.back_after_ms = outage.back_after_ms.max(after_ms);
        outage.served_meanwhile += served_meanwhile;
        Ok(())
    }

    fn collect(&self, reports: &Receiver<Message>) -> Result<Vec<WorkerReport>, DrillError> {
        let mut workers = Vec::new();
        while workers.len() < crate::model::to_usize(u64::from(self.options.connection_count)) {
            match reports.recv() {
                Ok(Message::Done(result)) => workers.push((*result)?),
                Ok(Message::Loaded) => (),
                Err(_) => return Err(DrillError::Worker),
            }
        }
        Ok(workers)
    }

    fn judge(
        fronts: &[SocketAddr],
        shared: &Shared,
        workers: &[WorkerReport],
        (load_ms, outage): (u64, Outage),
    ) -> Result<DrillReport, DrillError> {
        let mut verdict = Verdict::default();
        let mut sums: BTreeMap<u32, i128> = BTreeMap::new();
        let mut latency = Histogram::new(3).map_err(std::io::Error::other)?;
        let mut report = DrillReport::default();
        for worker in workers {
            verdict.add(worker.verdict);
            for (currency, sum) in &worker.sums {
                *sums.entry(*currency).or_default() += sum;
            }
            latency
                .add(&worker.latency)
                .map_err(std::io::Error::other)?;
            report.operations += worker.sent;
            report.refused += worker.refused;
            report.replayed += worker.replayed;
            report.unknown += worker.unknown;
            report.unknown_resolved += worker.unknown_resolved;
            report.accounts += worker.accounts;
        }
        report.acknowledged = shared.acknowledged();
        (report.lost, report.doubled) = (verdict.lost, verdict.doubled);
        report.mismatched = verdict.mismatched;
        report.operations_per_second = report.acknowledged * 1_000 / load_ms;
        report.latency_us = LatencyReport {
            p50: latency.value_at_quantile(0.5),
            p99: latency.value_at_quantile(0.99),
            p999: latency.value_at_quantile(0.999),
            max: latency.max(),
        };
        report.node_back_after_ms = outage.back_after_ms;
        report.served_meanwhile = outage.served_meanwhile;
        report.kills = outage.blow_count;
        report.conserved = conserved(fronts, &sums)?;
        Ok(report)
    }
}

/// The audit of the cluster against the sum of what all clients know.
fn conserved(fronts: &[SocketAddr], sums: &BTreeMap<u32, i128>) -> Result<bool, DrillError> {
    let deadline = Duration::from_millis(u64::from(limits::DEADLINE_MS_MAX));
    let mut client = Client::connect_to(
        fronts,
        &Options {
            deadline,
            ..Options::default()
        },
    )?;
    let rows = client.audit()?;
    let known: Vec<_> = sums
        .iter()
        .map(|(currency, sum)| (*currency, *sum))
        .collect();
    let found: Vec<_> = rows
        .iter()
        .map(|row| (row.currency, row.available + row.held))
        .collect();
    Ok(known == found && rows.iter().all(|row| row.difference == 0))
}

#[derive(Clone, Copy, Debug, Default)]
struct Outage {
    blow_count: u32,
    back_after_ms: u64,
    served_meanwhile: u64,
}

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

enum Message {
    Loaded,
    Done(Box<Result<WorkerReport, ClientError>>),
}

fn early_end(result: Result<WorkerReport, ClientError>) -> DrillError {
    match result {
        Ok(_) => DrillError::Worker,
        Err(error) => DrillError::Client(error),
    }
}
