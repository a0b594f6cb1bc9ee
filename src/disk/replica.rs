//! The running replica: a ledger per log, kept close behind its durable end by replay.
//!
//! It shares no state with any node and executes nothing, so its sums are the proof that no coin
//! was made or lost. Each request does a bounded piece of work, except the audit, which needs
//! exact ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::checkpoints::Loading;
use super::fold::{replay, start};
use super::shared::Shared;
use crate::ledger::{Ledger, LedgerOptions, Supply};
use crate::limits::REPLICA_STEP_SIZE;
use crate::log::{Log, LogError};
use crate::model::{LogEnd, LogNumber};
use crate::protocol::AuditRow;
use crate::role::DiskReply;

/// Bytes of the log read at a time.
const READ_SIZE: u32 = 1 << 20;

/// The replicas of all logs of a disk.
#[derive(Debug)]
pub(super) struct Replicas {
    shared: Arc<Shared>,
    logs: BTreeMap<LogNumber, Replica>,
}

/// One log's state at one of its ends.
#[derive(Debug)]
struct Replica {
    ledger: Ledger,
    end: LogEnd,
    ring_key: u128,
    /// Of the slot, when the replica was built: another one means another log.
    history: u64,
}

impl Replicas {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            logs: BTreeMap::new(),
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
        })
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
            if replica.end.seq != end.seq || replica.end.chain != end.chain {
                return Err(LogError::Wrong(format!(
                    "the replica of log {log} stands at block {}, not at {}",
                    replica.end.seq, end.seq
                )));
            }
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
    ) -> Result<&Replica, LogError> {
        let history = self.shared.slot(number).history();
        let log = self.shared.log(number)?;
        let mut replica = match self.logs.remove(&number) {
            Some(known) if known.history == history && known.ring_key == ring_key => known,
            Some(_) | None => self.build(number, ring_key, history)?,
        };
        let mut advanced = replica.advance(&log, through, size_max);
        if replica.end.seq < log.first().seq {
            // What it was to go on with was retired meanwhile; a checkpoint stands for it.
            replica = self.build(number, ring_key, history)?;
            advanced = replica.advance(&log, through, size_max);
        }
        advanced?;
        Ok(self.logs.entry(number).or_insert(replica))
    }

    /// Out of the newest checkpoint, or empty at the beginning of the log.
    fn build(&self, number: LogNumber, ring_key: u128, history: u64) -> Result<Replica, LogError> {
        let newest = self.shared.slot(number).newest();
        let end = start(&*self.shared.log(number)?, newest.as_ref())?;
        let mut ledger = Ledger::new(LedgerOptions {
            ring_key,
            id_count_max: 0,
            keep_ids: false,
        });
        if let Some(newest) = newest {
            load(&mut ledger, &Loading::new(newest.checkpoint))?;
        }
        Ok(Replica {
            ledger,
            end,
            ring_key,
            history,
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
    fn advance(&mut self, log: &Log, through: &LogEnd, size_max: u64) -> Result<(), LogError> {
        let goal = self.end.offset.saturating_add(size_max);
        while self.end.seq < through.seq && self.end.offset < goal {
            self.end = replay(log, &self.end, through, READ_SIZE, &mut self.ledger)?;
            self.ledger
                .check_supply()
                .map_err(|error| LogError::Damage(format!("log {}: {error}", log.verify().log)))?;
        }
        Ok(())
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
