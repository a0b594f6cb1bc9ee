//! The drill: the main job and its proof, in one go.
//!
//! An own cluster is loaded through its front by many connections. In the middle something goes
//! wrong: one node is killed with SIGKILL and its data folder deleted, and the others take its
//! users over; or another scenario. The load goes on until that is over. In the end every account
//! is read back and compared with what the clients were told, and the audit with the sum of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::account_model::Verdict;
use super::drill_load::{Load, WorkerReport};
use super::drill_shared::{Latencies, Phase, Shared};
use super::scenario::{Blow, LOOK_INTERVAL, Outage};
use super::shape::Watch;
use super::{Cluster, ClusterOptions, Scenario, StartError};
use crate::client::{Client, ClientError, Options};
use crate::clock::{Clock, Tick};
use crate::limits;

/// Milliseconds between two reports of progress.
const PROGRESS_MS: u64 = 500;

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
    /// It has begun to go wrong.
    Struck {
        /// What was done, in words.
        text: String,
        /// Acknowledged changes at that moment.
        acknowledged: u64,
    },
    /// The authority noticed that a node is gone.
    Detected {
        /// Which.
        node: u32,
        /// Since the blow.
        after_ms: u64,
    },
    /// All slots that were to move are served by their new owners.
    Moved {
        /// Since the blow: the first of them were.
        first_after_ms: Option<u64>,
        /// The last of them.
        last_after_ms: u64,
        /// Accounts in them.
        accounts: u64,
        /// Changes that were acknowledged meanwhile.
        served_meanwhile: u64,
        /// Slots of each node before, by its number.
        before: BTreeMap<u32, u64>,
        /// And after.
        after: BTreeMap<u32, u64>,
    },
    /// A daemon that was stopped goes on.
    Woken {
        /// Which.
        name: String,
    },
    /// A daemon serves again.
    Back {
        /// Which.
        name: String,
        /// Since the blow.
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
    /// Of requests before the blow.
    pub latency_before_us: LatencyReport,
    /// Of requests during it, but for those to the one node that it hit.
    pub latency_during_us: LatencyReport,
    /// Answers that were neither an outcome nor a refusal: unknown, or not now.
    pub client_errors: u64,
    /// Longest time in which some user waited for an answer.
    pub longest_gap_ms: u64,
    /// From the blow until the authority noticed it.
    pub detected_after_ms: Option<u64>,
    /// From the blow until the first of the moved slots were served again.
    pub first_serving_after_ms: Option<u64>,
    /// Until the last of them were.
    pub last_serving_after_ms: Option<u64>,
    /// Accounts that changed their node.
    pub moved_accounts: u64,
    /// From the blow until the daemon served again; the longest where there were several.
    pub node_back_after_ms: u64,
    /// Daemons that were killed.
    pub kills: u32,
    /// Accounts that were read back.
    pub accounts: u64,
    /// Changes that were acknowledged while it went wrong.
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
    /// The authority does not do what the scenario needs.
    #[error("the authority refuses: {0}")]
    Refused(String),
    /// What went wrong did not come to its end.
    #[error("waited too long for {0}")]
    TooSlow(String),
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
            front_count: options.scenario.front_count(),
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
        let blow_count = self.options.scenario.blow_count();
        let mut watch = Watch::new(&cluster.front_addresses())?;
        let mut outage = Outage::default();
        let mut blow: Option<Blow> = None;
        let mut loading = self.options.connection_count;
        let mut last = (self.clock.now().tick, 0);
        while loading != 0 || outage.blow_count < blow_count {
            match reports.recv_timeout(LOOK_INTERVAL) {
                Ok(Message::Loaded) => loading -= 1,
                Ok(Message::Done(result)) => return Err(early_end(*result)),
                Err(RecvTimeoutError::Disconnected) => return Err(DrillError::Worker),
                Err(RecvTimeoutError::Timeout) => (),
            }
            let now = (self.clock, shared.acknowledged());
            if let Some(present) = &mut blow {
                if present.poll(cluster, &mut watch, now, &mut outage, tell)? {
                    blow = None;
                    shared.phase(Phase::After, 0);
                }
            } else if outage.blow_count < blow_count
                && (loading == 0 || self.is_time(outage.blow_count, shared))
            {
                // From here on the load goes on until it is over.
                shared.phase(Phase::During, 0);
                let what = (self.options.scenario, outage.blow_count, self.options.seed);
                let begun = Blow::begin(what, cluster, &mut watch, now, tell)?;
                shared.phase(Phase::During, begun.victim_log());
                blow = Some(begun);
            }
            last = self.tell_progress(shared, last, tell);
        }
        Ok(outage)
    }

    /// Is it time for blow `number`, from 0? They are spread over the load.
    fn is_time(&self, number: u32, shared: &Shared) -> bool {
        let blow_count = u64::from(self.options.scenario.blow_count());
        let reached = shared.acknowledged().saturating_mul(blow_count + 1);
        let blow = u64::from(number) + 1;
        self.options.operation_count.saturating_mul(blow) <= reached
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
        let mut latencies = Latencies::new();
        let mut report = DrillReport::default();
        for worker in workers {
            verdict.add(worker.verdict);
            for (currency, sum) in &worker.sums {
                *sums.entry(*currency).or_default() += sum;
            }
            latencies.add(&worker.latencies)?;
            report.operations += worker.sent;
            report.refused += worker.refused;
            report.replayed += worker.replayed;
            report.unknown += worker.unknown;
            report.unknown_resolved += worker.unknown_resolved;
            report.accounts += worker.accounts;
            report.client_errors += worker.errors;
            report.longest_gap_ms = report.longest_gap_ms.max(worker.longest_gap_ms);
        }
        report.acknowledged = shared.acknowledged();
        (report.lost, report.doubled) = (verdict.lost, verdict.doubled);
        report.mismatched = verdict.mismatched;
        report.operations_per_second = report.acknowledged * 1_000 / load_ms;
        report.latency_us = latency_report(&latencies.all);
        report.latency_before_us = latency_report(&latencies.before);
        report.latency_during_us = latency_report(&latencies.during);
        report.detected_after_ms = outage.detected_after_ms;
        report.first_serving_after_ms = outage.first_serving_after_ms;
        report.last_serving_after_ms = outage.last_serving_after_ms;
        report.moved_accounts = outage.moved_accounts;
        report.node_back_after_ms = outage.back_after_ms;
        report.served_meanwhile = outage.served_meanwhile;
        report.kills = outage.kill_count;
        report.conserved = conserved(fronts, &sums)?;
        Ok(report)
    }
}

fn latency_report(latency: &Histogram<u64>) -> LatencyReport {
    LatencyReport {
        p50: latency.value_at_quantile(0.5),
        p99: latency.value_at_quantile(0.99),
        p999: latency.value_at_quantile(0.999),
        max: latency.max(),
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
