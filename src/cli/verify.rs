//! `verify`: checks a data folder that no process works in.

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressDrawTarget};
use serde_json::{Value, json};

use super::Failure;
use super::output::{grouped, is_watched, line, object};
use crate::disk::{self, Comparison, ImageCheck, LogCheck, VerifyReport};
use crate::model::LogNumber;
use crate::role::ExitCode;

/// Flags of `verify`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Flags {
    /// The data folder of a stopped node or backup.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Another data folder to compare with, byte for byte.
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failure> {
    let target = if is_watched() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(None, target);
    let report = disk::verify(
        &flags.folder,
        flags.against.as_deref(),
        &mut |log, offset| {
            bar.set_message(format!("log {log}: {} bytes replayed", grouped(offset)));
            bar.tick();
        },
    )
    .map_err(|error| {
        let text = format!("{}: {error}", flags.folder.display());
        Failure::new(ExitCode::Damage, "data_dir", text)
    })?;
    bar.finish_and_clear();
    if flags.json {
        print_json(&report);
    } else {
        print(&report);
    }
    let sound = report.is_sound() && report.logs.iter().all(is_conserved);
    Ok(if sound {
        ExitCode::Ok
    } else {
        ExitCode::Damage
    })
}

fn is_conserved(check: &LogCheck) -> bool {
    let mut supply = check.replay.iter().flat_map(|replay| &replay.supply);
    supply.all(|(_, _, difference)| *difference == 0)
}

fn print(report: &VerifyReport) {
    line(&format!(
        "folder of a {}, {} logs",
        report.kind,
        report.logs.len()
    ));
    for check in &report.logs {
        print_log(check);
    }
    for image in &report.images {
        print_image(image);
    }
    for comparison in &report.comparisons {
        print_comparison(comparison);
    }
}

fn print_image(image: &ImageCheck) {
    let number = image.number;
    match (&image.problem, image.log) {
        (Some(problem), _) => line(&format!("image of move {number}: PROBLEM: {problem}")),
        (None, Some(log)) => line(&format!(
            "image of move {number}: from log {log}, {} bytes",
            grouped(image.size)
        )),
        (None, None) => line(&format!("image of move {number}: not looked at")),
    }
}

fn print_log(check: &LogCheck) {
    let log = check.log;
    if let Some(found) = &check.recovered {
        line(&format!(
            "log {log}: {} entries in {} blocks, {} segments, ends at block {}",
            grouped(found.entry_count),
            grouped(found.block_count),
            check.segment_count,
            found.end.seq
        ));
        if let Some(torn) = &found.torn {
            line(&format!("log {log}: note: {torn}"));
        }
    }
    if let Some(replay) = &check.replay {
        let conserved = if is_conserved(check) {
            "conserved"
        } else {
            "NOT CONSERVED"
        };
        line(&format!(
            "log {log}: replay gives {} accounts in {} currencies, {conserved}, digest {:032x}",
            grouped(replay.account_count),
            replay.supply.len(),
            replay.digest
        ));
    }
    if let Some(note) = &check.note {
        line(&format!("log {log}: note: {note}"));
    }
    for problem in &check.problems {
        line(&format!("log {log}: PROBLEM: {problem}"));
    }
}

fn print_comparison(comparison: &Comparison) {
    let log = comparison.log;
    match &comparison.difference {
        None => line(&format!(
            "log {log}: equal byte for byte up to block {} (here {}, there {})",
            comparison.equal_through, comparison.here.seq, comparison.there.seq
        )),
        Some(difference) => line(&format!("log {log}: PROBLEM: {difference}")),
    }
}

fn print_json(report: &VerifyReport) {
    let logs: Vec<Value> = report.logs.iter().map(log_json).collect();
    let comparisons: Vec<Value> = report
        .comparisons
        .iter()
        .map(|comparison| {
            json!({
                "log": comparison.log.get(),
                "equal_through": comparison.equal_through.0,
                "here": comparison.here.seq.0,
                "there": comparison.there.seq.0,
                "difference": comparison.difference,
            })
        })
        .collect();
    let images: Vec<Value> = report
        .images
        .iter()
        .map(|image| {
            json!({
                "move": image.number.0,
                "log": image.log.map(LogNumber::get),
                "bytes": image.size,
                "problem": image.problem,
            })
        })
        .collect();
    object(&json!({
        "schema": "counterfoil-verify/1",
        "kind": report.kind.to_string(),
        "sound": report.is_sound(),
        "conserved": report.logs.iter().all(is_conserved),
        "logs": logs,
        "images": images,
        "comparisons": comparisons,
    }));
}

fn log_json(check: &LogCheck) -> Value {
    let found = check.recovered.as_ref();
    let replay = check.replay.as_ref();
    json!({
        "log": check.log.get(),
        "segments": check.segment_count,
        "blocks": found.map(|found| found.block_count),
        "entries": found.map(|found| found.entry_count),
        "end": found.map(|found| found.end.seq.0),
        "torn": found.and_then(|found| found.torn.clone()),
        "checkpoint": check.checkpoint.map(|end| end.seq.0),
        "accounts": replay.map(|replay| replay.account_count),
        "digest": replay.map(|replay| format!("{:032x}", replay.digest)),
        "note": check.note,
        "problems": check.problems,
    })
}
