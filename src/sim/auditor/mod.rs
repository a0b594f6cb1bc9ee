//! Judges a run: what clients were told against what the logs say.
//!
//! An oracle that shares code with what it judges judges nothing: this folder never names
//! `ledger`. It reads the blocks that the backup made durable, executes every operation in a model
//! of its own, and asks of every answer whether one sequence of changes per user explains it:
//! nothing acknowledged lost, nothing applied twice, no stale look-up, no refusal without reason.

mod answers;
mod history;
mod homes;
mod model;

use std::collections::BTreeMap;

use super::clock::At;
use crate::model::{LogEnd, LogNumber, Operation, Receipt, Row};
use crate::protocol::AuditRow;

use history::History;
pub(super) use history::LogSeen;

/// One operation that a client was given.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Which client.
    pub(super) client: usize,
    pub(super) operation: Operation,
    pub(super) submitted_at: At,
    pub(super) answer: Option<Answered>,
}

/// What the client was told.
#[derive(Clone, Debug)]
pub(super) struct Answered {
    pub(super) at: At,
    pub(super) receipt: Receipt,
    pub(super) rows: Vec<Row>,
}

/// An audit that the backup took.
#[derive(Clone, Debug)]
pub(super) struct AuditSeen {
    /// Up to where.
    pub(super) ends: Vec<(LogNumber, LogEnd)>,
    pub(super) rows: Vec<AuditRow>,
}

/// What is wrong, each once, and not too much of it.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<String>);

impl Findings {
    pub(super) fn add(&mut self, text: String) {
        if self.0.len() < 20 {
            self.0.push(text);
        }
    }
}

/// Everything that a run leaves behind, to be judged.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    pub(super) logs: &'a BTreeMap<LogNumber, LogSeen>,
    /// All operations, in the order of their submission.
    pub(super) asked: &'a [Asked],
    pub(super) audits: &'a [AuditSeen],
    pub(super) ring_key: u128,
    /// The backup was made again from the nodes.
    pub(super) is_remade: bool,
}

/// What is wrong with a run; nothing, it is hoped.
pub(super) fn judge(evidence: &Evidence<'_>) -> Vec<String> {
    let mut findings = Findings::default();
    let mut history = History::new(
        evidence.logs,
        evidence.audits,
        evidence.ring_key,
        &mut findings,
    );
    history.is_remade = evidence.is_remade;
    answers::check(&history, evidence.asked, &mut findings);
    findings.0
}
