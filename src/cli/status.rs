//! `status`: the cluster as its authority sees it.

use serde_json::Value;

use super::output::{fields, line, table};
use super::{Failure, Target};
use crate::role::ExitCode;

/// Flags of `status`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Flags {
    #[command(flatten)]
    pub(super) target: Target,
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failure> {
    let mut client = flags.target.connect()?;
    let text = client.status()?;
    let status: Value = serde_json::from_str(&text).map_err(|error| {
        Failure::new(
            ExitCode::Unhealthy,
            "status",
            format!("the status is no JSON: {error}"),
        )
    })?;
    if let Some(error) = status.get("error") {
        let message = error
            .as_str()
            .map_or_else(|| error.to_string(), str::to_owned);
        return Err(Failure::new(ExitCode::Unhealthy, "unavailable", message));
    }
    if flags.target.json {
        line(&text);
    } else {
        print(&status);
    }
    let is_healthy = status.get("healthy").and_then(Value::as_bool) == Some(true);
    Ok(if is_healthy {
        ExitCode::Ok
    } else {
        ExitCode::Unhealthy
    })
}

fn nodes(status: &Value) -> &[Value] {
    status
        .get("nodes")
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn word(value: &Value, name: &str) -> String {
    match value.get(name) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn print(status: &Value) {
    let names = [
        "cluster",
        "generation",
        "ring_epoch",
        "stage",
        "healthy",
        "uptime_ms",
        "disk_free_size",
        "alarms",
    ];
    let mut pairs: Vec<_> = names
        .iter()
        .map(|name| (*name, word(status, name)))
        .collect();
    let memory = status.get("memory").map_or(&Value::Null, |memory| memory);
    pairs.push(("memory_size_max", word(memory, "size_max")));
    fields(&pairs);
    line("");
    let columns = [
        "node", "state", "phase", "address", "term", "slots", "end_seq", "lag", "accounts", "ids",
    ];
    let rows = nodes(status).iter();
    let cells = rows.map(|node| columns.iter().map(|name| word(node, name)).collect());
    table(&columns, cells.collect());
}
