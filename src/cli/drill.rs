//! `drill`: runs the drill and tells its story.

use std::path::PathBuf;

use serde_json::json;

use super::Failure;
use super::output::{grouped, line, object};
use super::story::Story;
use crate::dev::{Drill, DrillError, DrillOptions, DrillReport, Scenario};
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
    /// Instead of wiping one node: kill and restart every daemon in turn, so often in all.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    kills: Option<u32>,
    /// Use this folder and leave it behind, instead of a temporary one.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

impl From<DrillError> for Failure {
    fn from(error: DrillError) -> Self {
        Self::new(ExitCode::Unhealthy, "drill", error.to_string())
    }
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failure> {
    let temporary = tempfile::Builder::new()
        .prefix("counterfoil-drill-")
        .tempdir()?;
    let folder = flags
        .keep
        .clone()
        .unwrap_or_else(|| temporary.path().to_owned());
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
        scenario: flags.kills.map_or(Scenario::WipeNode, Scenario::KillInTurn),
    });
    let mut story = Story::new(flags.json);
    story.begin(flags.users, flags.currencies, flags.nodes);
    let report = drill.run(|event| story.tell(&event))?;
    if flags.json {
        print_json(flags, &report);
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

fn print_json(flags: &Flags, report: &DrillReport) {
    let latency = report.latency_us;
    object(&json!({
        "schema": "counterfoil-drill/1",
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
        "latency_us": {
            "p50": latency.p50, "p99": latency.p99, "p999": latency.p999, "max": latency.max,
        },
        "kills": report.kills,
        "node_back_after_ms": report.node_back_after_ms,
        "served_meanwhile": report.served_meanwhile,
    }));
}
