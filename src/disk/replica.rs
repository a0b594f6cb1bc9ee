//! The running replica: a ledger per log, kept close behind its durable end by replay.
//!
//! It shares no state with any node and executes nothing, so its sums are the proof that no coin
//! was made or lost. Where slots leave a log it cuts their images. Each request does a bounded
//! piece of work, except the audit, drafts of images and a hand-over that is built, which need
//! exact ends.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::checkpoints::Loading;
use super::fold::{damage, read_some, start};
use super::hand_over::{self, Plan};
use super::images::{self, Cut, Draft};
use super::shared::Shared;
use super::steps::{Cuts, Steps, replica_ledger};
use crate::canary::{self, Bug};
use crate::ledger::{Ledger, Supply};
use crate::limits::REPLICA_STEP_SIZE;
use crate::log::{Log, LogError, blocks};
use crate::model::{LogEnd, LogNumber, MoveNumber, Slot, SlotRange};
use crate::protocol::AuditRow;
use crate::role::{DiskReply, Holding, MoveEvent, Survey};

/// Accounts of slots that are gone that one request sweeps out.
const SWEEP_ACCOUNT_COUNT: u32 = 1 << 16;

/// The replicas of all logs of a disk.
#[derive(Debug)]
pub(super) struct Replicas {
    shared: Arc<Shared>,
    logs: BTreeMap<LogNumber, Replica>,
    /// The image that the newest replica to fail looked for in vain.
    missing: Option<MoveNumber>,
    /// Images that were begun for moves that may be ordered.
    drafts: BTreeMap<LogNumber, Vec<Draft>>,
}

/// One log's state at one of its ends.
#[derive(Debug)]
struct Replica {
    ledger: Ledger,
    end: LogEnd,
    ring_key: u128,
    /// Of the slot, when the replica was built: another one means another log.
    history: u64,
    /// What nobody was told of yet.
    events: Vec<MoveEvent>,
}

impl Replicas {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            logs: BTreeMap::new(),
            missing: None,
            drafts: BTreeMap::new(),
        }
    }

    pub(super) fn advance(
        &mut self,
        log: LogNumber,
        through: &LogEnd,
        ring_key: u128,
    ) -> Result<DiskReply, LogError> {
        let replica = self.replica(log, through, ring_key, REPLICA_STEP_SIZE)?;
        Ok(DiskReply::ReplicaAt {
            log,
            end: replica.end,
            digest: replica.ledger.digest(),
            memory_size: replica.ledger.memory_size(),
            events: std::mem::take(&mut replica.events),
        })
    }

    /// Begins the images of slots that may have to leave a log right behind its end, and forgets
    /// those that were begun before.
    pub(super) fn draft(
        &mut self,
        log: LogNumber,
        through: &LogEnd,
        ring_key: u128,
        parts: &[Vec<SlotRange>],
    ) -> Result<DiskReply, LogError> {
        if canary::on(Bug::StaleDraft) && self.drafts.contains_key(&log) {
            return Ok(DiskReply::ImagesDrafted { log });
        }
        let shared = Arc::clone(&self.shared);
        for draft in self.drafts.remove(&log).unwrap_or_default() {
            draft.remove(&*shared.medium);
        }
        let replica = self.replica(log, through, ring_key, u64::MAX)?;
        replica.check_at(log, through)?;
        let mut drafts = Vec::new();
        // What is staged is activated or dropped first.
        if replica.ledger.staged().is_none() {
            for (index, ranges) in parts.iter().enumerate() {
                let cut = Cut {
                    // It gets one when it is ordered.
                    number: MoveNumber(0),
                    ranges,
                    log: &*shared.log(log)?,
                    end: *through,
                    ring_key,
                };
                drafts.push(images::draft(
                    &*shared.medium,
                    &replica.ledger,
                    &cut,
                    index,
                )?);
            }
        }
        self.drafts.insert(log, drafts);
        Ok(DiskReply::ImagesDrafted { log })
    }

    /// The block that hands over what is left of a log. The replica stands at its end.
    pub(super) fn build_hand_over(
        &mut self,
        log: LogNumber,
        through: &LogEnd,
        plan: &Plan<'_>,
    ) -> Result<DiskReply, LogError> {
        let verify = *self.shared.log(log)?.verify();
        let replica = self.replica(log, through, plan.ring_key, u64::MAX)?;
        replica.check_at(log, through)?;
        let (block, end) = hand_over::build(&replica.ledger, &verify, through, plan)?;
        Ok(DiskReply::HandOverBuilt { log, block, end })
    }

    /// What a log has of the slots at its end.
    pub(super) fn survey(
        &mut self,
        log: LogNumber,
        through: &LogEnd,
        ring_key: u128,
    ) -> Result<Survey, LogError> {
        let replica = self.replica(log, through, ring_key, u64::MAX)?;
        replica.check_at(log, through)?;
        let ledger = &replica.ledger;
        let mut survey = Survey {
            runs: Vec::new(),
            ring_epoch: ledger.activated_epoch(),
        };
        for slot in (0..=u16::MAX).map(Slot) {
            let owned = ledger.slot_epoch(slot).map(Holding::Owned);
            let Some(holding) = owned.or_else(|| ledger.gone(slot).map(Holding::Gone)) else {
                continue;
            };
            match survey.runs.last_mut() {
                Some((range, last))
                    if *last == holding && range.last.0.checked_add(1) == Some(slot.0) =>
                {
                    range.last = slot;
                }
                Some(_) | None => {
                    let range = SlotRange {
                        first: slot,
                        last: slot,
                    };
                    survey.runs.push((range, holding));
                }
            }
        }
        Ok(survey)
    }

    /// The image without which the replica that failed last could not go on.
    pub(super) const fn missing(&self) -> Option<MoveNumber> {
        self.missing
    }

    /// Sums over all logs at exactly the given ends, by currency.
    pub(super) fn audit(
        &mut self,
        ends: &[(LogNumber, LogEnd)],
        ring_key: u128,
    ) -> Result<Vec<AuditRow>, LogError> {
        let mut rows = BTreeMap::new();
        for (log, end) in ends {
            let replica = self.replica(*log, end, ring_key, u64::MAX)?;
            replica.check_at(*log, end)?;
            for (currency, supply) in replica.ledger.supply() {
                let row = rows.entry(currency).or_insert_with(|| empty_row(currency));
                add(row, &supply);
            }
        }
        Ok(rows.into_values().collect())
    }

    /// The replica of a log, taken further by at most about `size_max` bytes of it. One that is
    /// further already stays where it is.
    fn replica(
        &mut self,
        number: LogNumber,
        through: &LogEnd,
        ring_key: u128,
        size_max: u64,
    ) -> Result<&mut Replica, LogError> {
        let history = self.shared.slot(number).history();
        let log = self.shared.log(number)?;
        let mut replica = match self.logs.remove(&number) {
            Some(known) if known.history == history && known.ring_key == ring_key => known,
            Some(_) | None => self.build(number, ring_key, history)?,
        };
        self.missing = None;
        let missing = &mut self.missing;
        let mut drafts = self.drafts.remove(&number).unwrap_or_default();
        let drafts = &mut drafts;
        let mut advanced =
            replica.advance(&self.shared, &log, through, size_max, (missing, drafts));
        if replica.end.seq < log.first().seq {
            // What it was to go on with was retired meanwhile; a checkpoint stands for it.
            replica = self.build(number, ring_key, history)?;
            let missing = &mut self.missing;
            advanced = replica.advance(&self.shared, &log, through, size_max, (missing, drafts));
        }
        self.keep_drafts(number, &replica.end, std::mem::take(drafts));
        advanced?;
        Ok(self.logs.entry(number).or_insert(replica))
    }

    /// Drafts that lie behind the replica are of no use any more.
    fn keep_drafts(&mut self, log: LogNumber, end: &LogEnd, drafts: Vec<Draft>) {
        let (kept, passed): (Vec<_>, Vec<_>) =
            drafts.into_iter().partition(|draft| draft.is_at(end));
        for draft in passed {
            draft.remove(&*self.shared.medium);
        }
        if !kept.is_empty() {
            self.drafts.insert(log, kept);
        }
    }

    /// Out of the newest checkpoint, or empty at the beginning of the log.
    fn build(&self, number: LogNumber, ring_key: u128, history: u64) -> Result<Replica, LogError> {
        let newest = self.shared.slot(number).newest();
        let end = start(&*self.shared.log(number)?, newest.as_ref())?;
        let mut ledger = replica_ledger(ring_key);
        if let Some(newest) = newest {
            load(&mut ledger, &Loading::new(newest.checkpoint))?;
        }
        Ok(Replica {
            ledger,
            end,
            ring_key,
            history,
            events: Vec::new(),
        })
    }
}

/// Takes a whole checkpoint into an empty ledger.
pub(super) fn load(ledger: &mut Ledger, loading: &Loading) -> Result<(), LogError> {
    let damage = |what: String| LogError::Damage(format!("checkpoint: {what}"));
    let mut cursor = 0;
    while let Some((records, next)) = loading.next(cursor)? {
        ledger
            .load(records.section, &records.records)
            .map_err(|error| damage(error.to_string()))?;
        cursor = next;
    }
    ledger
        .check_supply()
        .map_err(|error| damage(error.to_string()))
}

impl Replica {
    /// After an error the replica is of no use: it may have taken a part of a block in.
    fn advance(
        &mut self,
        shared: &Shared,
        log: &Log,
        through: &LogEnd,
        size_max: u64,
        (missing, drafts): (&mut Option<MoveNumber>, &mut Vec<Draft>),
    ) -> Result<(), LogError> {
        let mut steps = Steps::new(shared, Cuts::All, self.ring_key);
        steps.drafts = RefCell::new(std::mem::take(drafts));
        let advanced = self.take_blocks(&steps, log, through, size_max);
        *missing = steps.missing.get();
        *drafts = steps.drafts.into_inner();
        advanced
    }

    fn take_blocks(
        &mut self,
        steps: &Steps<'_>,
        log: &Log,
        through: &LogEnd,
        size_max: u64,
    ) -> Result<(), LogError> {
        let goal = self.end.offset.saturating_add(size_max);
        self.ledger.sweep_step(SWEEP_ACCOUNT_COUNT);
        while self.end.seq < through.seq && self.end.offset < goal {
            let bytes = read_some(log, &self.end, through)?;
            for block in blocks(&bytes, *log.verify()) {
                let block = block.map_err(|error| damage(log, &self.end, &error.to_string()))?;
                steps.take(
                    log,
                    &mut self.ledger,
                    &mut self.end,
                    &block,
                    &mut self.events,
                )?;
            }
            self.ledger
                .check_supply()
                .map_err(|error| LogError::Damage(format!("log {}: {error}", log.verify().log)))?;
        }
        Ok(())
    }

    fn check_at(&self, log: LogNumber, end: &LogEnd) -> Result<(), LogError> {
        if self.end.seq == end.seq && self.end.chain == end.chain {
            return Ok(());
        }
        Err(LogError::Wrong(format!(
            "the replica of log {log} stands at block {}, not at {}",
            self.end.seq, end.seq
        )))
    }
}

const fn empty_row(currency: u32) -> AuditRow {
    AuditRow {
        currency,
        account_count: 0,
        issued: 0,
        burned: 0,
        sent: 0,
        received: 0,
        returned: 0,
        adopted_in: 0,
        adopted_out: 0,
        available: 0,
        held: 0,
        difference: 0,
    }
}

fn add(row: &mut AuditRow, supply: &Supply) {
    row.account_count += supply.account_count;
    row.issued += supply.issued;
    row.burned += supply.burned;
    row.sent += supply.sent;
    row.received += supply.received;
    row.returned += supply.returned;
    row.adopted_in += supply.adopted_in;
    row.adopted_out += supply.adopted_out;
    row.available += supply.available;
    row.held += supply.held;
    row.difference += difference(supply);
}

/// What is missing (negative) or too much in the accounts.
pub(super) fn difference(supply: &Supply) -> i128 {
    let signed = |sum: u128| i128::try_from(sum).expect("sums stay far below 2^127");
    let due = signed(supply.issued) - signed(supply.burned)
        + signed(supply.received)
        + signed(supply.returned)
        - signed(supply.sent)
        + supply.adopted_in
        - supply.adopted_out;
    supply.available + supply.held - due
}
