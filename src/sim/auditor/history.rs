//! Walks what the backup made durable: every block of every log, every entry, in order.
//!
//! The result is the one history that all answers must fit: for each user a sequence of changes,
//! each executed by the auditor's own model.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::homes::{Homes, Spot};
use super::model::{Model, Sums};
use super::{At, AuditSeen, Findings};
use crate::log::{BLOCK_HEADER_SIZE, Block, Verify};
use crate::model::{
    Adopt, Change, ENTRY_SIZE, Entry, LogEnd, LogNumber, MoveNumber, Place, Seq, SlotRange, Term,
    UserId, to_u64, user_slot,
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
#[derive(Debug)]
pub(super) struct History {
    ring_key: u128,
    pub(super) lines: Vec<Line>,
    /// Where in `lines` the change with this user and id is.
    pub(super) by_id: BTreeMap<(u128, u128), usize>,
    pub(super) model: Model,
    homes: Homes,
    /// Unix ms of each rise of a log's horizon.
    horizons: Vec<u64>,
    /// Sums at the blocks where an audit was taken.
    sums_at: BTreeMap<(LogNumber, Seq), BTreeMap<u32, Sums>>,
    /// Entries that only the lost backup had are not there any more.
    pub(super) is_remade: bool,
}

/// What is known of one log while it is walked.
struct Walk<'a> {
    log: LogNumber,
    verify: Verify,
    /// The blocks that were not walked yet.
    rest: &'a [(Bytes, At)],
    /// What the next one adopts was handed over here.
    waits_for: Option<Place>,
    end: LogEnd,
    horizon_ms: u64,
    time: u64,
    term_marked: Term,
}

impl History {
    /// Walks all logs. What contradicts itself is a finding.
    pub(super) fn new(
        logs: &BTreeMap<LogNumber, LogSeen>,
        audits: &[AuditSeen],
        ring_key: u128,
        findings: &mut Findings,
    ) -> Self {
        let mut history = Self {
            ring_key,
            lines: Vec::new(),
            by_id: BTreeMap::new(),
            model: Model::default(),
            homes: Homes::new(),
            horizons: Vec::new(),
            sums_at: BTreeMap::new(),
            is_remade: false,
        };
        let wanted: BTreeMap<(LogNumber, Seq), ()> = audits
            .iter()
            .flat_map(|audit| audit.ends.iter().map(|(log, end)| ((*log, end.seq), ())))
            .collect();
        let mut walks: BTreeMap<LogNumber, Walk<'_>> = BTreeMap::new();
        for (log, seen) in logs {
            let walk = Walk {
                log: *log,
                verify: seen.verify,
                rest: &seen.blocks,
                waits_for: source_of(seen.blocks.first(), &seen.verify),
                end: LogEnd::default(),
                horizon_ms: 0,
                time: 0,
                term_marked: Term(0),
            };
            walks.insert(*log, walk);
        }
        while let Some(log) = next_log(&walks) {
            let walk = walks.get_mut(&log).expect("it was just there");
            if let Err(text) = history.next_block(walk) {
                findings.add(format!("log {log}: {text}"));
                // What follows from it says nothing any more.
                return history;
            }
            if wanted.contains_key(&(log, walk.end.seq)) {
                let sums = history.model.sums.get(&log).cloned().unwrap_or_default();
                history.sums_at.insert((log, walk.end.seq), sums);
            }
        }
        if let Some(walk) = walks.values().find(|walk| !walk.rest.is_empty()) {
            findings.add(format!(
                "log {}: block {} adopts what was never handed over",
                walk.log,
                walk.end.seq.next()
            ));
        }
        history.check_audits(audits, findings);
        history
    }

    fn next_block(&mut self, walk: &mut Walk<'_>) -> Result<(), String> {
        let ((bytes, at), rest) = walk.rest.split_first().ok_or("no block is left")?;
        walk.rest = rest;
        walk.waits_for = source_of(rest.first(), &walk.verify);
        let block = Block::read(bytes, &walk.verify).map_err(|error| error.to_string())?;
        let block = block.ok_or("an empty block")?;
        block
            .follows(&walk.end, walk.verify.segment_size)
            .map_err(|error| error.to_string())?;
        let head = *block.head();
        if walk.end.seq < head.committed {
            return Err(format!(
                "block {} says that {} is committed",
                head.seq, head.committed
            ));
        }
        let offset_before = walk.end.offset;
        walk.end = block.end();
        let first = block.first_offset() + to_u64(BLOCK_HEADER_SIZE);
        for (index, (_, _, entry)) in (0..).zip(block.entries()) {
            let place = Place::new(walk.log, first + index * to_u64(ENTRY_SIZE));
            let time = head.time.0 + index;
            let told = |text: String| format!("entry at {place}: {text}");
            if time <= walk.time {
                return Err(told(format!("log time goes back to {time}")));
            }
            let spot = Spot {
                log: walk.log,
                place,
                time,
                time_before: walk.time,
                horizon_ms: walk.horizon_ms,
                offset_before,
            };
            walk.time = time;
            let entry = Entry::read(entry).map_err(|error| told(error.to_string()))?;
            self.entry(walk, entry, &spot, *at).map_err(told)?;
        }
        if head.term != walk.term_marked {
            return Err(format!(
                "block {} is of term {}, the last mark of a term is {}",
                head.seq, head.term, walk.term_marked
            ));
        }
        let ended = self.homes.end_block(walk.log);
        ended.map_err(|text| format!("block {}: {text}", head.seq))
    }

    fn entry(
        &mut self,
        walk: &mut Walk<'_>,
        entry: Entry,
        spot: &Spot,
        at: At,
    ) -> Result<(), String> {
        let log = walk.log;
        match entry {
            Entry::Change(change) => return self.change(walk, change, spot.place, at),
            Entry::Horizon { ms } => {
                let forgets_early = walk.time.saturating_sub(ID_WINDOW_NS_MIN) < ms * 1_000_000;
                if ms <= walk.horizon_ms || forgets_early {
                    return Err(format!("the horizon rises to {ms}"));
                }
                walk.horizon_ms = ms;
                self.horizons.push(ms);
            }
            Entry::Epoch(mark) => {
                if mark.term < walk.term_marked {
                    return Err(format!("term {} comes back", mark.term));
                }
                walk.term_marked = mark.term;
            }
            Entry::Activation(activation) => {
                self.homes.activate(log, &activation)?;
                if activation.number != MoveNumber(0) {
                    let held = self.held_in(activation.ranges());
                    self.model.arrive(log, &held);
                }
            }
            Entry::HandOver(hand_over) => {
                let held = self.held_in(hand_over.slots.as_slice());
                self.homes.hand_over(spot, &hand_over, &held)?;
                self.model.leave(log, &held);
            }
            Entry::HandedSums(sums) => self.homes.handed_sums(&sums)?,
            Entry::Adopt(adopt) => {
                // Ids that the source has forgotten are nowhere any more.
                let horizon_ms = self.homes.adopt(spot, &adopt)?;
                walk.horizon_ms = walk.horizon_ms.max(horizon_ms);
            }
            Entry::AdoptedFile(file) => self.homes.adopted_file(log, &file)?,
            Entry::AdoptedSlots(slots) => self.homes.adopted_slots(log, &slots)?,
            Entry::Drop { number } => self.homes.drop_staged(log, number)?,
        }
        Ok(())
    }

    /// What the accounts of some slots hold.
    fn held_in(&self, ranges: &[SlotRange]) -> super::homes::Held {
        self.model.held_by(|user| {
            let slot = slot_of(self.ring_key, user);
            let mut ranges = ranges.iter();
            ranges.any(|range| (range.first..=range.last).contains(&slot))
        })
    }

    fn change(
        &mut self,
        walk: &Walk<'_>,
        change: Change,
        place: Place,
        at: At,
    ) -> Result<(), String> {
        let user = change.operation.user();
        let id = change.operation.id().ok_or("a change without an id")?;
        if !self.homes.is_in(user_slot(self.ring_key, user), walk.log) {
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
        self.model
            .follow(walk.log, &change, walk.time, place.0)
            .map_err(|text| format!("{:?}: {text}", change.operation))?;
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

    /// Was this id ever older than the horizon of a log?
    pub(super) fn was_forgotten(&self, id_ms: u64) -> bool {
        self.horizons.iter().any(|ms| id_ms < *ms)
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
                    expected.entry(*currency).or_default().add(one);
                }
            }
            for row in &audit.rows {
                let sums = expected.remove(&row.currency).unwrap_or_default();
                let found = Sums {
                    accounts: row.account_count,
                    available: row.available,
                    issued: row.issued,
                    burned: row.burned,
                    adopted_in: row.adopted_in,
                    adopted_out: row.adopted_out,
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

fn slot_of(ring_key: u128, user: u128) -> crate::model::Slot {
    let user = UserId::new(user).expect("it came from an operation");
    user_slot(ring_key, user)
}

/// The log whose next block may be walked: what it adopts was handed over in what was walked.
fn next_log(walks: &BTreeMap<LogNumber, Walk<'_>>) -> Option<LogNumber> {
    let is_walked = |place: Place| {
        let source = place.log().and_then(|log| walks.get(&log));
        source.is_some_and(|source| place.offset() < source.end.offset)
    };
    let mut ready = walks
        .values()
        .filter(|walk| !walk.rest.is_empty() && walk.waits_for.is_none_or(is_walked));
    ready.next().map(|walk| walk.log)
}

/// Where the slots were handed over that a block adopts. What cannot be read adopts nothing.
fn source_of(block: Option<&(Bytes, At)>, verify: &Verify) -> Option<Place> {
    let block = Block::read(&block?.0, verify).ok()??;
    let mut entries = block.entries();
    let (_, _, bytes) = entries.find(|(_, _, bytes)| Adopt::is_in(bytes))?;
    match Entry::read(bytes).ok()? {
        Entry::Adopt(adopt) => Some(adopt.hand_over),
        Entry::Change(_)
        | Entry::Horizon { .. }
        | Entry::Epoch(_)
        | Entry::Activation(_)
        | Entry::HandOver(_)
        | Entry::HandedSums(_)
        | Entry::AdoptedFile(_)
        | Entry::AdoptedSlots(_)
        | Entry::Drop { .. } => None,
    }
}
