//! `bench`: loads a cluster (its own, or a given one), says what came out, and proves it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::Failure;
use super::output::{error_line, line, object};
use crate::bench::{
    Bench, BenchError, BenchOptions, ClusterFacts, Distribution, Event, Extent, HdrLog, Machine,
    Measured, Pace, ProcessUsage, Proof, RateSweep, Report, Threshold, Verdict, Workload, html,
    interval_line, knee, parse_count, parse_duration_ms, parse_percentiles, raise_descriptor_limit,
};
use crate::client::{AuditRow, Client, Options, resolve};
use crate::dev::{Cluster, ClusterOptions};
use crate::limits;
use crate::role::ExitCode;

const EXAMPLES: &str = "Examples:
  counterfoil bench --dev                                    an own cluster, one operation at a time
  counterfoil bench --dev --pipeline 16 --verify             the same with a proof at the end
  counterfoil bench --dev -c 4 --batch 8000 --html out.html  large batches, with plots
  counterfoil bench -a 10.0.0.5:6468 --rate 50k --fail-if 'p99>5ms'
  counterfoil bench --dev --rate-sweep 10k..100k:10k -d 5s   finds the rate it keeps up with

Without --rate the loop is closed: a request is sent when an answer made room for it, so slow
answers slow the load and the latencies leave that waiting out. With --rate it is open, and latency
counts from the time at which a request was due.

--verify needs accounts that nobody else changes meanwhile. Exit codes: 3 cannot connect, 6 not
proved, 7 a threshold was broken.";

/// Flags of `bench`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are switches of the command line"
)]
pub(super) struct Flags {
    /// Addresses of fronts; connections go to them in turn.
    #[arg(short, long, env = "COUNTERFOIL_ADDR", value_name = "HOST:PORT,...")]
    #[arg(default_value = "127.0.0.1:6468")]
    addr: String,
    /// Start an own cluster on this machine instead, and stop it at the end.
    #[arg(long)]
    dev: bool,
    /// Nodes of the own cluster.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: u32,
    /// Where the own cluster's data lies, instead of a temporary folder. Left behind.
    #[arg(long, value_name = "DIR", requires = "dev")]
    data_dir: Option<PathBuf>,
    /// Connections.
    #[arg(short, long, default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Threads of the client, each with its share of the connections.
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Requests in flight on each connection. [default: 1, with a rate 64]
    #[arg(short = 'P', long, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pipeline: Option<u32>,
    /// Operations of a request.
    #[arg(short, long, default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=8_192))]
    batch: u32,
    /// So many requests in all, instead of a duration.
    #[arg(short = 'n', long, value_parser = parse_count, conflicts_with = "duration")]
    requests: Option<u64>,
    /// How long it counts.
    #[arg(short, long, default_value = "10s", value_parser = parse_duration_ms)]
    duration: u64,
    /// How long it runs before it counts.
    #[arg(long, default_value = "2s", value_parser = parse_duration_ms)]
    warmup: u64,
    /// Open loop: so many operations per second, whether answers come or not.
    #[arg(short = 'R', long, value_parser = parse_count, value_name = "OPS/S")]
    rate: Option<u64>,
    /// Open loops one after the other, to find the rate that the cluster keeps up with.
    #[arg(long, value_name = "FROM..TO:STEP")]
    #[arg(conflicts_with_all = ["rate", "requests", "html", "hdr_log"])]
    rate_sweep: Option<RateSweep>,
    /// credit, debit, read, recent, or shares of them.
    #[arg(
        short,
        long,
        default_value = "credit:50,debit:50",
        value_name = "KIND:SHARE,..."
    )]
    workload: Workload,
    /// Users.
    #[arg(long, default_value = "100k", value_parser = parse_count)]
    users: u64,
    /// Currencies of each user; together they make the accounts.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    currencies: u32,
    /// Which users: uniform, zipf:THETA, or hot:USERS:PERCENT.
    #[arg(long, default_value = "uniform")]
    distribution: Distribution,
    /// What the load is drawn from: the same seed draws the same operations.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The accounts are there from an earlier run: do not open them again.
    #[arg(long, conflicts_with_all = ["verify", "dev"])]
    skip_prepare: bool,
    /// How often a line is due.
    #[arg(short, long, default_value = "1s", value_parser = parse_duration_ms)]
    interval: u64,
    /// Which percentiles to show.
    #[arg(long, default_value = "50,90,99,99.9,99.99")]
    percentiles: String,
    /// Read everything back: prove that every answer was kept, once, and every coin is there.
    #[arg(long)]
    verify: bool,
    /// End with exit code 7 if this holds: pNN, max, lag, rate or errors against a bound.
    #[arg(long, value_name = "FIGURE>BOUND")]
    fail_if: Vec<Threshold>,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
    /// Write the latencies of each interval for the tools of `HdrHistogram`.
    #[arg(long, value_name = "FILE")]
    hdr_log: Option<PathBuf>,
    /// Write one HTML page with plots.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// A name and value to find this result by; goes into the report.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// No line per interval.
    #[arg(short, long)]
    quiet: bool,
    /// Deadline that each request carries, in milliseconds.
    #[arg(long, default_value_t = limits::DEADLINE_MS_DEFAULT, value_name = "MS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    deadline_ms: u32,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a label is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        let text = error.to_string();
        match error {
            BenchError::Connect(_) => Self::new(ExitCode::CannotConnect, "cannot_connect", text),
            BenchError::Client(error) => Self::from(error),
            BenchError::Prepare(_)
            | BenchError::Protocol(_)
            | BenchError::System(_)
            | BenchError::Aborted
            | BenchError::File { .. } => Self::new(ExitCode::Unhealthy, "bench", text),
        }
    }
}

fn usage(text: String) -> Failure {
    Failure::new(ExitCode::Usage, "bad_flags", text)
}

/// The cluster that is measured, with what it takes to ask it about itself.
struct Subject {
    own: Option<(Cluster, PathBuf)>,
    fronts: Vec<SocketAddr>,
    client: Client,
    /// Removed when the bench ends.
    _temporary: Option<TempDir>,
}

impl Subject {
    fn of(flags: &Flags) -> Result<Self, Failure> {
        let mut temporary = None;
        let own = if flags.dev {
            let folder = if let Some(folder) = &flags.data_dir {
                folder.clone()
            } else {
                let made = tempfile::Builder::new()
                    .prefix("counterfoil-bench-")
                    .tempdir()?;
                temporary.insert(made).path().to_owned()
            };
            let cluster = Cluster::start(ClusterOptions {
                binary: std::env::current_exe()?,
                folder: folder.clone(),
                node_count: flags.nodes,
                front_count: 1,
                listen: SocketAddr::from(([127, 0, 0, 1], 0)),
                segment_size: limits::SEGMENT_SIZE_DEFAULT,
            })?;
            Some((cluster, folder))
        } else {
            None
        };
        let fronts = match &own {
            Some((cluster, _)) => cluster.front_addresses(),
            None => resolve(&flags.addr)?,
        };
        let client = Client::connect_to(&fronts, &Options::default())?;
        Ok(Self {
            own,
            fronts,
            client,
            _temporary: temporary,
        })
    }

    fn status(&mut self) -> Result<Value, Failure> {
        let text = self.client.status()?;
        serde_json::from_str(&text).map_err(|error| {
            let text = format!("the status is no JSON: {error}");
            Failure::new(ExitCode::Unhealthy, "status", text)
        })
    }

    fn facts(&mut self) -> Result<ClusterFacts, Failure> {
        let status = self.status()?;
        let nodes = status["nodes"].as_array().map_or(0, Vec::len);
        Ok(ClusterFacts {
            version: status["version"].as_str().unwrap_or("unknown").to_owned(),
            node_count: crate::model::to_u64(nodes),
            front_count: crate::model::to_u64(self.fronts.len()),
            ring_epoch: status["ring_epoch"].as_u64().unwrap_or(0),
            place: if self.own.is_some() {
                "own processes on this machine".to_owned()
            } else {
                "a given cluster".to_owned()
            },
        })
    }

    /// Bytes of all logs since their beginning, on node and backup together.
    fn disk_size(&mut self) -> Result<Option<u64>, Failure> {
        if self.own.is_none() {
            return Ok(None);
        }
        let status = self.status()?;
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        let sizes = nodes.iter().filter_map(|node| node["end_size"].as_u64());
        Ok(Some(2 * sizes.sum::<u64>()))
    }

    fn usage(&mut self) -> Vec<ProcessUsage> {
        let Some((cluster, _)) = &mut self.own else {
            return Vec::new();
        };
        let nodes = cluster.node_count();
        let mut ids = vec![
            ("front".to_owned(), cluster.front(1).id()),
            ("backup".to_owned(), cluster.backup().id()),
        ];
        ids.extend((1..=nodes).map(|number| (format!("node-{number}"), cluster.node(number).id())));
        ids.iter()
            .filter_map(|(name, id)| ProcessUsage::of(name, *id))
            .collect()
    }

    fn folder(&self) -> Option<&Path> {
        self.own.as_ref().map(|(_, folder)| folder.as_path())
    }

    fn stop(self) -> Result<(), Failure> {
        if let Some((cluster, _)) = self.own {
            cluster.stop()?;
        }
        Ok(())
    }
}

/// One load and what else is known of it.
struct Run {
    pace: Pace,
    measured: Measured,
    processes: Vec<ProcessUsage>,
    disk_size: Option<u64>,
    broken: Vec<String>,
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failure> {
    let percentiles = parse_percentiles(&flags.percentiles).map_err(usage)?;
    if flags.rate == Some(0) || flags.requests == Some(0) || flags.interval == 0 {
        return Err(usage("rate, requests and interval are above 0".to_owned()));
    }
    // Flags are judged before a cluster is started for them.
    options(flags, Vec::new())?.check().map_err(usage)?;
    raise_descriptor_limit()?;
    let mut subject = Subject::of(flags)?;
    let options = options(flags, subject.fronts.clone())?;
    let unique = getrandom::u64().map_err(|error| {
        let text = format!("the system gives no random bytes: {error}");
        Failure::new(ExitCode::Unhealthy, "no_randomness", text)
    })?;
    let mut bench = Bench::new(options, unique).map_err(usage)?;
    let facts = subject.facts()?;
    let machine = Machine::this(subject.folder());
    let before = audit(&mut subject, flags)?;
    if !flags.skip_prepare {
        let nanos = bench.prepare()?;
        say(
            flags,
            &format!("accounts ready after {} ms", nanos / 1_000_000),
        );
    }
    let prepared = audit(&mut subject, flags)?;
    let mut runs = Vec::new();
    for pace in paces(flags) {
        runs.push(measure(flags, &mut bench, &mut subject, pace)?);
    }
    let verdict = if flags.verify {
        Some(prove(&mut bench, &mut subject, &before, &prepared)?)
    } else {
        None
    };
    let labels: BTreeMap<String, String> = flags.label.iter().cloned().collect();
    let count = runs.len();
    let reports: Vec<Report<'_>> = runs
        .iter()
        .enumerate()
        .map(|(index, run)| Report {
            options: bench.options(),
            pace: run.pace,
            measured: &run.measured,
            machine: &machine,
            cluster: &facts,
            processes: &run.processes,
            disk_size: run.disk_size,
            // The proof is of all loads together.
            verdict: verdict.as_ref().filter(|_| index + 1 == count),
            labels: &labels,
            percentiles: &percentiles,
            broken: &run.broken,
        })
        .collect();
    write(flags, &reports)?;
    let broken = runs.iter().any(|run| !run.broken.is_empty());
    subject.stop()?;
    Ok(if verdict.is_some_and(|verdict| !verdict.is_proof()) {
        ExitCode::Damage
    } else if broken {
        ExitCode::Threshold
    } else {
        ExitCode::Ok
    })
}

fn options(flags: &Flags, fronts: Vec<SocketAddr>) -> Result<BenchOptions, Failure> {
    let users = u32::try_from(flags.users).ok().filter(|users| 0 < *users);
    let user_count = users.ok_or_else(|| usage("users go from 1 to 4294967295".to_owned()))?;
    let is_open = flags.rate.is_some() || flags.rate_sweep.is_some();
    Ok(BenchOptions {
        fronts,
        connection_count: flags.connections,
        thread_count: flags.threads,
        pipeline_depth: flags.pipeline.unwrap_or(if is_open { 64 } else { 1 }),
        batch_count: flags.batch,
        warmup_ms: flags.warmup,
        extent: match flags.requests {
            Some(count) => Extent::Operations(count.saturating_mul(u64::from(flags.batch))),
            None => Extent::DurationMs(flags.duration),
        },
        workload: flags.workload.clone(),
        user_count,
        currency_count: flags.currencies,
        distribution: flags.distribution,
        seed: flags.seed,
        interval_ms: flags.interval,
        deadline_ms: flags.deadline_ms,
        proof: if flags.verify {
            Proof::Kept
        } else {
            Proof::None
        },
    })
}

fn paces(flags: &Flags) -> Vec<Pace> {
    match (flags.rate_sweep, flags.rate) {
        (Some(sweep), _) => sweep.rates().map(Pace::Open).collect(),
        (None, Some(rate)) => vec![Pace::Open(rate)],
        (None, None) => vec![Pace::Closed],
    }
}

fn say(flags: &Flags, text: &str) {
    if !flags.quiet {
        error_line(text);
    }
}

fn file_error(path: &Path) -> impl Fn(std::io::Error) -> BenchError + '_ {
    move |error| BenchError::File {
        path: path.display().to_string(),
        error,
    }
}

fn measure(
    flags: &Flags,
    bench: &mut Bench,
    subject: &mut Subject,
    pace: Pace,
) -> Result<Run, Failure> {
    if let Pace::Open(rate) = pace {
        say(flags, &format!("open loop, {rate} operations/s"));
    }
    let mut usage_before = Vec::new();
    let mut size_before = None;
    let mut hdr_log = None;
    let mut fault = None;
    let measured = bench.measure(pace, |event| {
        let done = match event {
            Event::Begins { began_ms } => begin_log(flags, *began_ms).map(|log| hdr_log = log),
            Event::Counting => {
                usage_before = subject.usage();
                subject.disk_size().map(|size| size_before = size)
            }
            Event::Interval(interval, latencies) => {
                say(flags, &interval_line(interval));
                match &mut hdr_log {
                    Some(log) => log.add(interval, latencies).map_err(Failure::from),
                    None => Ok(()),
                }
            }
        };
        // The load goes on; what failed beside it is told at its end.
        if let Err(failure) = done {
            fault.get_or_insert(failure);
        }
    })?;
    if let Some(failure) = fault {
        return Err(failure);
    }
    let usage_after = subject.usage();
    let size_after = subject.disk_size()?;
    let pairs = usage_after.into_iter().zip(&usage_before);
    let broken = flags.fail_if.iter();
    Ok(Run {
        pace,
        processes: pairs.map(|(after, before)| after.since(before)).collect(),
        disk_size: size_after
            .zip(size_before)
            .map(|(after, before)| after - before),
        broken: broken
            .filter_map(|threshold| threshold.broken_by(&measured))
            .collect(),
        measured,
    })
}

fn begin_log(flags: &Flags, began_ms: u64) -> Result<Option<HdrLog<BufWriter<File>>>, Failure> {
    let Some(path) = &flags.hdr_log else {
        return Ok(None);
    };
    let file = File::create(path).map_err(file_error(path))?;
    let log = HdrLog::begin(BufWriter::new(file), began_ms).map_err(file_error(path))?;
    Ok(Some(log))
}

/// The cluster's sums, where a proof will need them.
fn audit(subject: &mut Subject, flags: &Flags) -> Result<Vec<AuditRow>, Failure> {
    if flags.verify {
        Ok(subject.client.audit()?)
    } else {
        Ok(Vec::new())
    }
}

/// Reads back what the accounts hold, and asks the cluster for its own proof. `before` and
/// `prepared` are its sums before and after the accounts were opened.
fn prove(
    bench: &mut Bench,
    subject: &mut Subject,
    before: &[AuditRow],
    prepared: &[AuditRow],
) -> Result<Verdict, Failure> {
    let mut verdict = bench.verify()?;
    let rows = subject.client.audit()?;
    let changes = bench.changes_by_currency();
    // What was issued and burned must be what was acknowledged, where nobody else did any of it.
    let is_alone = subject.own.is_some() && before.is_empty();
    let net = |row: &AuditRow| {
        let part = |sum: u128| i128::try_from(sum).unwrap_or(i128::MAX);
        part(row.issued) - part(row.burned)
    };
    let differs = |row: &&AuditRow| {
        let index = crate::model::to_usize(u64::from(row.currency)) - 1;
        let before = prepared.iter().find(|old| old.currency == row.currency);
        let found = net(row) - before.map_or(0, net);
        let told = changes.get(index).copied().unwrap_or(0);
        row.difference != 0 || (is_alone && found != told)
    };
    verdict.differing_currencies = crate::model::to_u64(rows.iter().filter(differs).count());
    Ok(verdict)
}

fn write(flags: &Flags, reports: &[Report<'_>]) -> Result<(), Failure> {
    if let (Some(path), Some(report)) = (&flags.html, reports.last()) {
        let page = html(report).map_err(BenchError::System)?;
        std::fs::write(path, page).map_err(file_error(path))?;
    }
    let runs: Vec<(u64, &Measured)> = reports
        .iter()
        .filter_map(|report| match report.pace {
            Pace::Open(rate) => Some((rate, report.measured)),
            Pace::Closed => None,
        })
        .collect();
    match (flags.json, flags.rate_sweep) {
        (true, Some(_)) => {
            let list: Vec<Value> = reports.iter().map(Report::json).collect();
            object(&json!({
                "schema": "counterfoil-bench-sweep/1",
                "kept_up_operations_per_second": knee(&runs),
                "runs": list,
            }));
        }
        (true, None) => reports.iter().for_each(|report| object(&report.json())),
        (false, sweep) => {
            for report in reports {
                report.lines().iter().for_each(|text| line(text));
                if sweep.is_some() {
                    line("");
                }
            }
            if sweep.is_some() {
                line(&knee(&runs).map_or_else(
                    || "it kept up with none of these rates".to_owned(),
                    |rate| format!("it kept up with {rate} operations/s"),
                ));
            }
        }
    }
    Ok(())
}
