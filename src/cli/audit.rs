//! `audit`: the proof of supply, per currency, at one instant over all logs.

use serde_json::{Value, json};

use super::output::{grouped, object, table};
use super::{Failure, Target};
use crate::protocol::AuditRow;
use crate::role::ExitCode;

/// Flags of `audit`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Flags {
    #[command(flatten)]
    pub(super) target: Target,
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failure> {
    let mut client = flags.target.connect()?;
    let rows = client.audit()?;
    let broken = rows.iter().any(|row| row.difference != 0);
    if flags.target.json {
        let currencies: Vec<Value> = rows.iter().map(row_json).collect();
        object(&json!({
            "schema": "counterfoil-audit/1",
            "conserved": !broken,
            "currencies": currencies,
        }));
    } else {
        let head = [
            "currency",
            "accounts",
            "issued",
            "burned",
            "available",
            "held",
            "difference",
        ];
        table(&head, rows.iter().map(row_cells).collect());
    }
    Ok(if broken {
        ExitCode::Damage
    } else {
        ExitCode::Ok
    })
}

fn row_cells(row: &AuditRow) -> Vec<String> {
    let whole = |number: u128| grouped(i128::try_from(number).unwrap_or(i128::MAX));
    vec![
        row.currency.to_string(),
        grouped(row.account_count),
        whole(row.issued),
        whole(row.burned),
        grouped(row.available),
        grouped(row.held),
        grouped(row.difference),
    ]
}

fn row_json(row: &AuditRow) -> Value {
    json!({
        "currency": row.currency,
        "accounts": row.account_count,
        "issued": row.issued.to_string(),
        "burned": row.burned.to_string(),
        "sent": row.sent.to_string(),
        "received": row.received.to_string(),
        "returned": row.returned.to_string(),
        "adopted_in": row.adopted_in.to_string(),
        "adopted_out": row.adopted_out.to_string(),
        "available": row.available.to_string(),
        "held": row.held.to_string(),
        "difference": row.difference.to_string(),
    })
}
