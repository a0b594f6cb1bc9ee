//! `drill`: runs the drill and tells its story.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::Failure;
use super::output::{grouped, line, object};
use super::story::Story;
use crate::dev::{Drill, DrillError, DrillOptions, DrillReport, LatencyReport, Scenario};
use crate::role::ExitCode;

/// Flags of `drill`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Flags {
    /// Users.
    #[arg(long, default_value_t = 20_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    users: u32,
    /// Currencies of each user.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=256))]
    currencies: u32,
    /// Changes in all, the opening of the accounts included.
    #[arg(long, default_value_t = 1_000_000)]
    operations: u64,
    /// Client connections.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    connections: u32,
    /// Operations of a request.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=8_192))]
    batch: u32,
    /// Nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: u32,
    /// What the load is drawn from: the same seed sends the same operations.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Bytes of a segment of the logs.
    #[arg(long, default_value_t = 16 << 20)]
    segment_size: u64,
    /// What goes wrong, or changes, halfway through the load.
    #[arg(long, default_value = "take-over")]
    scenario: ScenarioName,
    /// Instead of a scenario: kill and restart every daemon in turn, so often in all.
    #[arg(long, value_name = "COUNT", conflicts_with = "scenario")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    kills: Option<u32>,
    /// Use this folder and leave it behind, instead of a temporary one.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ScenarioName {
    /// One node is killed and its folder deleted; the others take its users over.
    TakeOver,
    /// One node is killed and its folder deleted; it starts again at once and restores itself.
    NodeReturns,
    /// One more node joins and gets its share.
    AddNode,
    /// One node gives all it has to the others.
    DrainNode,
    /// The backup is killed and starts again.
    BackupRestart,
    /// The backup stands still for ten seconds.
    BackupPaused,
    /// One of two fronts is killed.
    FrontKilled,
    /// One node stands still until it was taken over, and wakes up.
    StoppedNodeWakes,
    /// One after the other.
    All,
}

impl ScenarioName {
    const fn scenarios(self) -> &'static [Scenario] {
        match self {
            Self::TakeOver => &[Scenario::TakeOver],
            Self::NodeReturns => &[Scenario::NodeReturns],
            Self::AddNode => &[Scenario::AddNode],
            Self::DrainNode => &[Scenario::DrainNode],
            Self::BackupRestart => &[Scenario::BackupRestart],
            Self::BackupPaused => &[Scenario::BackupPaused],
            Self::FrontKilled => &[Scenario::FrontKilled],
            Self::StoppedNodeWakes => &[Scenario::StoppedNodeWakes],
            Self::All => &Scenario::ALL,
        }
    }
}

impl From<DrillError> for Failure {
    fn from(error: DrillError) -> Self {
        Self::new(ExitCode::Unhealthy, "drill", error.to_string())
    }
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failure> {
    run_all(flags).map_err(Failure::proves_nothing)
}

fn run_all(flags: &Flags) -> Result<ExitCode, Failure> {
    if let Some(count) = flags.kills {
        return drill(flags, Scenario::KillInTurn(count));
    }
    let mut worst = ExitCode::Ok;
    for scenario in flags.scenario.scenarios() {
        let code = drill(flags, *scenario)?;
        if code != ExitCode::Ok {
            worst = code;
        }
    }
    Ok(worst)
}

fn drill(flags: &Flags, scenario: Scenario) -> Result<ExitCode, Failure> {
    let temporary = tempfile::Builder::new()
        .prefix("counterfoil-drill-")
        .tempdir()?;
    let mut folder = temporary.path().to_owned();
    if let Some(kept) = &flags.keep {
        kept.clone_into(&mut folder);
        if flags.scenario == ScenarioName::All {
            folder.push(scenario.name());
        }
    }
    let drill = Drill::new(DrillOptions {
        binary: std::env::current_exe()?,
        folder,
        user_count: flags.users,
        currency_count: flags.currencies,
        operation_count: flags.operations,
        connection_count: flags.connections.min(flags.users),
        batch_count: flags.batch,
        node_count: flags.nodes,
        seed: flags.seed,
        segment_size: flags.segment_size,
        scenario,
    });
    let mut story = Story::new(flags.json);
    story.begin(scenario.name(), flags.users, flags.currencies, flags.nodes);
    let report = drill.run(|event| story.tell(&event))?;
    if flags.json {
        print_json(flags, scenario, &report);
    } else {
        print(&report);
    }
    Ok(if report.is_proof() {
        ExitCode::Ok
    } else {
        ExitCode::Damage
    })
}

fn print(report: &DrillReport) {
    let latency = report.latency_us;
    line(&format!(
        "{} of {} changes acknowledged, {} of them refusals; {} sent twice on purpose",
        grouped(report.acknowledged),
        grouped(report.operations),
        grouped(report.refused),
        grouped(report.replayed)
    ));
    line(&format!(
        "{} changes/s; request latency p50 {} us, p99 {} us, p999 {} us, max {} us",
        grouped(report.operations_per_second),
        grouped(latency.p50),
        grouped(latency.p99),
        grouped(latency.p999),
        grouped(latency.max)
    ));
    let (before, during) = (report.latency_before_us, report.latency_during_us);
    line(&format!(
        "users of other nodes: p99 {} us before, {} us meanwhile; {} answers were errors, longest \
         wait of a user {} ms",
        grouped(before.p99),
        grouped(during.p99),
        grouped(report.client_errors),
        grouped(report.longest_gap_ms)
    ));
    line(&format!(
        "{} accounts read back: lost {}, doubled {}, mismatched {}; unknown {}, resolved {}",
        grouped(report.accounts),
        report.lost,
        report.doubled,
        report.mismatched,
        report.unknown,
        report.unknown_resolved
    ));
    let verdict = if report.is_proof() {
        "PROVED"
    } else {
        "BROKEN"
    };
    let conserved = if report.conserved {
        "every coin accounted for"
    } else {
        "NOT CONSERVED"
    };
    line(&format!("{verdict}: {conserved}"));
}

fn latency_json(latency: LatencyReport) -> Value {
    json!({ "p50": latency.p50, "p99": latency.p99, "p999": latency.p999, "max": latency.max })
}

fn print_json(flags: &Flags, scenario: Scenario, report: &DrillReport) {
    object(&json!({
        "schema": "counterfoil-drill/1",
        "scenario": scenario.name(),
        "users": flags.users,
        "currencies": flags.currencies,
        "connections": flags.connections,
        "batch": flags.batch,
        "nodes": flags.nodes,
        "seed": flags.seed,
        "operations": report.operations,
        "acknowledged": report.acknowledged,
        "refused": report.refused,
        "replayed": report.replayed,
        "lost": report.lost,
        "doubled": report.doubled,
        "mismatched": report.mismatched,
        "unknown": report.unknown,
        "unknown_resolved": report.unknown_resolved,
        "conserved": report.conserved,
        "accounts": report.accounts,
        "operations_per_second": report.operations_per_second,
        "latency_us": latency_json(report.latency_us),
        "latency_before_us": latency_json(report.latency_before_us),
        "latency_during_us": latency_json(report.latency_during_us),
        "client_errors": report.client_errors,
        "longest_gap_ms": report.longest_gap_ms,
        "detected_after_ms": report.detected_after_ms,
        "serving_again_after_ms": {
            "first": report.first_serving_after_ms, "last": report.last_serving_after_ms,
        },
        "moved_accounts": report.moved_accounts,
        "kills": report.kills,
        "node_back_after_ms": report.node_back_after_ms,
        "served_meanwhile": report.served_meanwhile,
    }));
}
