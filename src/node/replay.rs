//! Reads checkpoint and log into the ledger: by the images in the entries, nothing is executed.

use bytes::Bytes;

use crate::ledger::Ledger;
use crate::limits;
use crate::log::{Verify, blocks};
use crate::model::{Entry, LogEnd, LogNumber, LogTime};
use crate::role::{CheckpointRecords, DiskRequest, Effect, Outbox};

use super::restore::{read_offset, segment_of};
use super::shared::{Grant, Halt, LocalLog, Shared};
use super::start::{Start, Started, Step};

/// A ledger that is being filled.
#[derive(Debug)]
pub(super) struct Replay {
    ledger: Ledger,
    verify: Verify,
    /// What the ledger stands for.
    at: LogEnd,
    /// The checkpoint's end, while its records are still being loaded.
    loading: Option<LogEnd>,
    segment_times: Vec<(u64, LogTime)>,
}

impl Replay {
    pub(super) fn begin(
        ledger: Ledger,
        local: &LocalLog,
        verify: Verify,
        out: &mut Outbox,
    ) -> Self {
        let replay = Self {
            ledger,
            verify,
            at: LogEnd::default(),
            loading: local.checkpoint.map(|info| info.end),
            segment_times: Vec::new(),
        };
        if replay.loading.is_some() {
            load(local.log, 0, out);
        } else {
            replay.read_on(local, out);
        }
        replay
    }

    /// Asks for the next blocks, if there are more.
    fn read_on(&self, local: &LocalLog, out: &mut Outbox) {
        if self.at.seq < local.end.seq {
            out.effect(Effect::Disk(DiskRequest::ReadBlocks {
                log: local.log,
                offset: read_offset(self.at.offset, local.segment_size),
                below: local.end.offset,
                size_max: limits::FETCH_SIZE_MAX,
                ticket: 0,
            }));
        }
    }

    /// Takes in the blocks that were read.
    fn absorb(&mut self, read: &Bytes, local: &LocalLog) -> Result<(), Halt> {
        let log = local.log;
        let before = self.at.seq;
        for block in blocks(read, self.verify) {
            let block = block.map_err(|error| {
                Halt::damage(format!("log {log} behind block {}: {error}", self.at.seq))
            })?;
            block
                .follows(&self.at, self.verify.segment_size)
                .map_err(|error| Halt::damage(format!("log {log}: {error}")))?;
            for (place, time, bytes) in block.entries() {
                let wrong = |why: &dyn std::fmt::Display| {
                    Halt::damage(format!("entry at {place} cannot be replayed: {why}"))
                };
                let entry = Entry::read(bytes).map_err(|error| wrong(&error))?;
                self.ledger
                    .absorb(&entry, place, time)
                    .map_err(|error| wrong(&error))?;
            }
            self.ledger.check_supply().map_err(|broken| {
                Halt::damage(format!("log {log}, block {}: {broken}", block.head().seq))
            })?;
            self.note_segment(block.head().offset, block.head().time);
            self.at = block.end();
        }
        if self.at.seq == before {
            return Err(Halt::damage(format!(
                "log {log} has no block behind block {before}, but it ends with block {}",
                local.end.seq
            )));
        }
        Ok(())
    }

    fn note_segment(&mut self, offset: u64, time: LogTime) {
        let segment = segment_of(offset, self.verify.segment_size);
        let first =
            offset == read_offset(segment * self.verify.segment_size, self.verify.segment_size);
        if first {
            self.segment_times.push((segment, time));
        }
    }

    /// Does the ledger stand at the log's end?
    pub(super) fn is_done(&self, local: &LocalLog) -> Result<bool, Halt> {
        if self.loading.is_some() || self.at.seq < local.end.seq {
            return Ok(false);
        }
        // The end of an empty log that begins later than at its beginning has no own time.
        if self.at.seq == local.end.seq && self.at.chain == local.end.chain {
            return Ok(true);
        }
        Err(Halt::damage(format!(
            "log {} was replayed to block {}, it ends with block {}",
            local.log, self.at.seq, local.end.seq
        )))
    }

    pub(super) fn finish(self, local: LocalLog, grant: Grant) -> Started {
        Started {
            ledger: self.ledger,
            local: LocalLog {
                end: self.at,
                ..local
            },
            grant,
            verify: self.verify,
            segment_times: self.segment_times,
        }
    }
}

fn load(log: LogNumber, cursor: u64, out: &mut Outbox) {
    out.effect(Effect::Disk(DiskRequest::LoadCheckpoint { log, cursor }));
}

impl Start {
    pub(super) fn checkpoint_loaded(
        &mut self,
        records: Option<(CheckpointRecords, u64)>,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let Step::Replaying(replay) = &mut self.step else {
            return Ok(());
        };
        let local = self.local.as_ref().expect("it is being replayed");
        match records {
            Some((piece, cursor)) => {
                replay
                    .ledger
                    .load(piece.section, &piece.records)
                    .map_err(|error| {
                        Halt::damage(format!("the checkpoint of log {}: {error}", local.log))
                    })?;
                load(local.log, cursor, out);
            }
            None => {
                if let Some(end) = replay.loading.take() {
                    replay.at = end;
                    replay.read_on(local, out);
                }
            }
        }
        Ok(())
    }

    /// Blocks of the own log: for the search of the common end, or for the ledger.
    pub(super) fn blocks_read(
        &mut self,
        read: &Bytes,
        shared: &mut Shared,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        match &mut self.step {
            Step::Searching(_) => self.searched(read, shared, out),
            Step::Replaying(replay) => {
                let local = self.local.as_ref().expect("it is being replayed");
                replay.absorb(read, local)?;
                replay.read_on(local, out);
                Ok(())
            }
            Step::Identity
            | Step::Opening
            | Step::Registering
            | Step::Cutting { .. }
            | Step::Checkpoint(_)
            | Step::Anchoring { .. }
            | Step::Creating { .. }
            | Step::Fetching(_) => Ok(()),
        }
    }
}
