//! Walks what the backup made durable: every block of every log, every entry, in order.
//!
//! The result is the one history that all answers must fit: for each user a sequence of changes,
//! each executed by the auditor's own model.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::model::{Model, Sums};
use super::{At, AuditSeen, Findings};
use crate::log::{BLOCK_HEADER_SIZE, Block, Verify};
use crate::model::{
    Change, ENTRY_SIZE, Entry, LogEnd, LogNumber, Place, Seq, Term, UserId, to_u64, user_slot,
};

/// Nanoseconds of the shortest time for which ids are remembered.
const ID_WINDOW_NS_MIN: u64 = crate::limits::ID_WINDOW_MS_MIN * 1_000_000;

/// A change that is part of the history.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) place: Place,
    /// Log time.
    pub(super) time: u64,
    /// When its block was durable at the backup.
    pub(super) at: At,
    pub(super) change: Change,
}

/// One log as the backup made it durable.
#[derive(Clone, Debug)]
pub(in crate::sim) struct LogSeen {
    /// What its blocks are verified against.
    pub(in crate::sim) verify: Verify,
    /// Its blocks, and when each was durable.
    pub(in crate::sim) blocks: Vec<(Bytes, At)>,
}

/// Everything that happened to accounts.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) lines: Vec<Line>,
    /// Where in `lines` the change with this user and id is.
    pub(super) by_id: BTreeMap<(u128, u128), usize>,
    pub(super) models: BTreeMap<LogNumber, Model>,
    /// In which log a user's changes are.
    pub(super) log_of: BTreeMap<u128, LogNumber>,
    /// Log time and Unix ms of each rise of a log's horizon.
    pub(super) horizons: BTreeMap<LogNumber, Vec<(u64, u64)>>,
    /// Sums at the blocks where an audit was taken.
    sums_at: BTreeMap<(LogNumber, Seq), BTreeMap<u32, Sums>>,
}

/// What is known of one log while it is walked.
struct Walk {
    log: LogNumber,
    end: LogEnd,
    horizon_ms: u64,
    time: u64,
    term_marked: Term,
    slots: Vec<bool>,
}

impl History {
    /// Walks all logs. What contradicts itself is a finding.
    pub(super) fn new(
        logs: &BTreeMap<LogNumber, LogSeen>,
        audits: &[AuditSeen],
        ring_key: u128,
        findings: &mut Findings,
    ) -> Self {
        let mut history = Self::default();
        let wanted: BTreeMap<(LogNumber, Seq), ()> = audits
            .iter()
            .flat_map(|audit| audit.ends.iter().map(|(log, end)| ((*log, end.seq), ())))
            .collect();
        for (log, seen) in logs {
            history.models.insert(*log, Model::default());
            let mut walk = Walk {
                log: *log,
                end: LogEnd::default(),
                horizon_ms: 0,
                time: 0,
                term_marked: Term(0),
                slots: vec![false; crate::model::to_usize(u64::from(crate::limits::SLOT_COUNT))],
            };
            for (bytes, at) in &seen.blocks {
                if let Err(text) = history.block(&mut walk, &seen.verify, bytes, *at, ring_key) {
                    findings.add(format!("log {log}: {text}"));
                    break;
                }
                if wanted.contains_key(&(*log, walk.end.seq)) {
                    let sums = history.models[log].sums.clone();
                    history.sums_at.insert((*log, walk.end.seq), sums);
                }
            }
        }
        history.check_audits(audits, findings);
        history
    }

    fn block(
        &mut self,
        walk: &mut Walk,
        verify: &Verify,
        bytes: &[u8],
        at: At,
        ring_key: u128,
    ) -> Result<(), String> {
        let block = Block::read(bytes, verify).map_err(|error| error.to_string())?;
        let block = block.ok_or("an empty block")?;
        block
            .follows(&walk.end, verify.segment_size)
            .map_err(|error| error.to_string())?;
        let head = *block.head();
        if walk.end.seq < head.committed {
            return Err(format!(
                "block {} says that {} is committed",
                head.seq, head.committed
            ));
        }
        walk.end = block.end();
        let first = block.first_offset() + to_u64(BLOCK_HEADER_SIZE);
        for (index, (_, _, entry)) in (0..).zip(block.entries()) {
            let place = Place::new(walk.log, first + index * to_u64(ENTRY_SIZE));
            let time = head.time.0 + index;
            let told = |text: String| format!("entry at {place}: {text}");
            if time <= walk.time {
                return Err(told(format!("log time goes back to {time}")));
            }
            walk.time = time;
            let entry = Entry::read(entry).map_err(|error| told(error.to_string()))?;
            self.entry(walk, entry, place, at, ring_key).map_err(told)?;
        }
        if head.term != walk.term_marked {
            return Err(format!(
                "block {} is of term {}, the last mark of a term is {}",
                head.seq, head.term, walk.term_marked
            ));
        }
        Ok(())
    }

    fn entry(
        &mut self,
        walk: &mut Walk,
        entry: Entry,
        place: Place,
        at: At,
        ring_key: u128,
    ) -> Result<(), String> {
        match entry {
            Entry::Change(change) => return self.change(walk, change, place, at, ring_key),
            Entry::Horizon { ms } => {
                let forgets_early = walk.time.saturating_sub(ID_WINDOW_NS_MIN) < ms * 1_000_000;
                if ms <= walk.horizon_ms || forgets_early {
                    return Err(format!("the horizon rises to {ms}"));
                }
                walk.horizon_ms = ms;
                let rises = self.horizons.entry(walk.log).or_default();
                rises.push((walk.time, ms));
            }
            Entry::Epoch(mark) => {
                if mark.term < walk.term_marked {
                    return Err(format!("term {} comes back", mark.term));
                }
                walk.term_marked = mark.term;
            }
            Entry::Activation(activation) => {
                for range in activation.ranges() {
                    walk.slots[range.first.index()..=range.last.index()].fill(true);
                }
            }
            Entry::HandOver(_)
            | Entry::HandedSums(_)
            | Entry::Adopt(_)
            | Entry::AdoptedFile(_)
            | Entry::AdoptedSlots(_)
            | Entry::Drop { .. } => {
                return Err("an entry of a move, which this world does not order".to_owned());
            }
        }
        Ok(())
    }

    fn change(
        &mut self,
        walk: &Walk,
        change: Change,
        place: Place,
        at: At,
        ring_key: u128,
    ) -> Result<(), String> {
        let user = change.operation.user();
        let id = change.operation.id().ok_or("a change without an id")?;
        if !walk.slots[user_slot(ring_key, user).index()] {
            return Err(format!("user {user} is not served by this log"));
        }
        if id.time_ms() < walk.horizon_ms {
            return Err(format!("id {id} is older than the horizon"));
        }
        if let Some(first) = self.find(user, id.get()) {
            return Err(format!(
                "id {id} of user {user} is applied a second time, first at {}",
                first.place
            ));
        }
        let model = self.models.entry(walk.log).or_default();
        model
            .follow(&change, walk.time, place.0)
            .map_err(|text| format!("{:?}: {text}", change.operation))?;
        let home = *self.log_of.entry(user.get()).or_insert(walk.log);
        if home != walk.log {
            return Err(format!("user {user} is in two logs"));
        }
        self.by_id.insert((user.get(), id.get()), self.lines.len());
        self.lines.push(Line {
            place,
            time: walk.time,
            at,
            change,
        });
        Ok(())
    }

    /// The change with this id, if it is part of the history.
    pub(super) fn find(&self, user: UserId, id: u128) -> Option<&Line> {
        let index = self.by_id.get(&(user.get(), id))?;
        Some(&self.lines[*index])
    }

    /// The model of the log that a user is in.
    pub(super) fn model_of(&self, user: u128) -> Option<&Model> {
        self.models.get(self.log_of.get(&user)?)
    }

    /// Was this id ever older than the horizon of its user's log?
    pub(super) fn was_forgotten(&self, id_ms: u64) -> bool {
        let rises = self.horizons.values().flatten();
        rises.into_iter().any(|(_, ms)| id_ms < *ms)
    }

    /// Money is conserved, and counted right, at every audit.
    fn check_audits(&self, audits: &[AuditSeen], findings: &mut Findings) {
        for audit in audits {
            let mut expected: BTreeMap<u32, Sums> = BTreeMap::new();
            for (log, end) in &audit.ends {
                let Some(sums) = self.sums_at.get(&(*log, end.seq)) else {
                    if end.seq != Seq(0) {
                        findings.add(format!("an audit at block {} of log {log}", end.seq));
                    }
                    continue;
                };
                for (currency, one) in sums {
                    let all = expected.entry(*currency).or_default();
                    all.accounts += one.accounts;
                    all.available += one.available;
                    all.issued += one.issued;
                    all.burned += one.burned;
                }
            }
            for row in &audit.rows {
                let sums = expected.remove(&row.currency).unwrap_or_default();
                let found = Sums {
                    accounts: row.account_count,
                    available: row.available,
                    issued: row.issued,
                    burned: row.burned,
                };
                let is_clean = row.difference == 0 && row.held == 0 && row.sent == 0;
                if found != sums || !is_clean {
                    findings.add(format!("an audit says {row:?}, the history says {sums:?}"));
                }
            }
            let left = expected.values().any(|sums| *sums != Sums::default());
            if left {
                findings.add(format!("an audit leaves out currencies: {expected:?}"));
            }
        }
    }
}
