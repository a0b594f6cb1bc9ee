//! Reads checkpoint and log into the ledger: by the images in the entries, nothing is executed.
//!
//! At an adoption it pauses: the state of the slots is read from their image first, which comes
//! from the backup where this disk does not have it.

use bytes::Bytes;

use crate::clock::{Now, Tick};
use crate::ledger::{Ahead, Ledger, TOUCH_COUNT};
use crate::limits;
use crate::log::{Block, Verify, blocks};
use crate::model::{Adopt, Adoption, Entry, LogEnd, LogNumber, LogTime, to_usize};
use crate::protocol::MoveFilePart;
use crate::role::{CheckpointRecords, DiskFault, DiskReply, DiskRequest, Effect, Outbox, PeerId};

use super::moves::{ImageReply, Kept, Staging, Wanted};
use super::restore::{read_offset, segment_of};
use super::shared::{Failure, Grant, Halt, LocalLog, Shared};
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
    kept: Kept,
    /// Slots that the next block adopts, on their way into the ledger.
    staging: Option<Staging>,
    /// What was read and not absorbed, while something is staged.
    rest: Bytes,
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
            kept: Kept::default(),
            staging: None,
            rest: Bytes::new(),
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
        if self.at.seq < local.end.seq && self.staging.is_none() {
            out.effect(Effect::Disk(DiskRequest::ReadBlocks {
                log: local.log,
                offset: read_offset(self.at.offset, local.segment_size),
                below: local.end.offset,
                size_max: limits::FETCH_SIZE_MAX,
                ticket: 0,
            }));
        }
    }

    /// Takes in the blocks that were read, up to an adoption whose slots are not staged yet.
    fn absorb(&mut self, read: &Bytes, local: &LocalLog) -> Result<(), Halt> {
        let log = local.log;
        let before = self.at.seq;
        let mut size = 0;
        for block in blocks(read, self.verify) {
            let block = block.map_err(|error| {
                Halt::damage(format!("log {log} behind block {}: {error}", self.at.seq))
            })?;
            block
                .follows(&self.at, self.verify.segment_size)
                .map_err(|error| Halt::damage(format!("log {log}: {error}")))?;
            if self.pauses_before(&block, log)? {
                self.rest = read.slice(size..);
                return Ok(());
            }
            self.absorb_block(&block, log)?;
            size += to_usize(u64::from(block.size()));
        }
        if self.at.seq == before {
            return Err(Halt::damage(format!(
                "log {log} has no block behind block {before}, but it ends with block {}",
                local.end.seq
            )));
        }
        Ok(())
    }

    /// Begins to stage what the block adopts. False: it adopts nothing, or that is staged.
    fn pauses_before(&mut self, block: &Block<'_>, log: LogNumber) -> Result<bool, Halt> {
        let is_staged = self
            .staging
            .take()
            .is_some_and(|staging| staging.is_staged());
        // Before it at most an epoch entry.
        let mut head = block.entries().take(2);
        if is_staged || !head.any(|(_, _, bytes)| Adopt::is_in(bytes)) {
            return Ok(false);
        }
        let wrong = |why: &dyn std::fmt::Display| {
            let seq = block.head().seq;
            Halt::damage(format!(
                "block {seq} of log {log} cannot be replayed: {why}"
            ))
        };
        let mut entries = Vec::new();
        for (_, _, bytes) in block.entries() {
            entries.push(Entry::read(bytes).map_err(|error| wrong(&error))?);
        }
        let adoption = Adoption::gather(&entries).map_err(|why| wrong(&why))?;
        let adoption = adoption.ok_or_else(|| wrong(&"it adopts nothing"))?;
        self.staging = Some(Staging::new(Wanted::from(&adoption)));
        Ok(true)
    }

    fn absorb_block(&mut self, block: &Block<'_>, log: LogNumber) -> Result<(), Halt> {
        let end = block.end();
        let mut entries = block.entries();
        for records in block.records().chunks(TOUCH_COUNT) {
            self.ledger.touch(&Ahead::of_entries(records));
            for (place, time, bytes) in entries.by_ref().take(records.len()) {
                let wrong = |why: &dyn std::fmt::Display| {
                    Halt::damage(format!("entry at {place} cannot be replayed: {why}"))
                };
                let entry = Entry::read(bytes).map_err(|error| wrong(&error))?;
                self.ledger
                    .absorb(&entry, place, time)
                    .map_err(|error| wrong(&error))?;
                self.kept.note(std::slice::from_ref(&entry), &self.at, &end);
            }
        }
        self.ledger.check_supply().map_err(|broken| {
            Halt::damage(format!("log {log}, block {}: {broken}", block.head().seq))
        })?;
        self.note_segment(block.head().offset, block.head().time);
        self.at = end;
        Ok(())
    }

    /// Goes on with what is being staged; once it is there, with what was read before.
    fn stage_on(
        &mut self,
        local: &LocalLog,
        backup: Option<PeerId>,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let Some(staging) = &mut self.staging else {
            return Ok(());
        };
        if staging.is_missing() {
            return Err(Halt::damage(format!(
                "log {} adopted slots behind block {}, and their image is neither here nor at the \
                 backup",
                local.log, self.at.seq
            )));
        }
        // Nobody is served yet: there is no need to pause between the steps of a sweep.
        while staging.is_due() {
            staging.turn(&mut self.ledger, backup, now, out);
        }
        staging.turn(&mut self.ledger, backup, now, out);
        if !staging.is_staged() {
            return Ok(());
        }
        let rest = std::mem::take(&mut self.rest);
        self.absorb(&rest, local)?;
        if self.staging.is_some() {
            return self.stage_on(local, backup, now, out);
        }
        self.read_on(local, out);
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
        let is_staging = self.staging.is_some();
        if self.loading.is_some() || is_staging || self.at.seq < local.end.seq {
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
            kept: self.kept,
        }
    }

    /// When a pause in the staging ends.
    pub(super) fn deadline(&self) -> Option<Tick> {
        self.staging.as_ref()?.deadline()
    }

    pub(super) fn link_lost(&mut self) {
        if let Some(staging) = &mut self.staging {
            staging.link_lost();
        }
    }
}

fn load(log: LogNumber, cursor: u64, out: &mut Outbox) {
    out.effect(Effect::Disk(DiskRequest::LoadCheckpoint { log, cursor }));
}

impl Start {
    /// Goes on with the slots that are being staged. Asked in every turn.
    pub(super) fn stage_on(
        &mut self,
        shared: &Shared,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let Step::Replaying(replay) = &mut self.step else {
            return Ok(());
        };
        let local = self.local.as_ref().expect("it is being replayed");
        replay.stage_on(local, shared.link.up(), now, out)
    }

    pub(super) fn image_reply(&mut self, reply: DiskReply, now: Now, out: &mut Outbox) {
        if let Some((image, reply)) = ImageReply::read(reply)
            && let Step::Replaying(replay) = &mut self.step
            && let Some(staging) = &mut replay.staging
        {
            staging.reply(image, reply, &mut replay.ledger, now, out);
        }
    }

    pub(super) fn move_file_part(&mut self, part: &MoveFilePart<'_>, now: Now, out: &mut Outbox) {
        if let Step::Replaying(replay) = &mut self.step
            && let Some(staging) = &mut replay.staging
        {
            staging.part(part, &mut replay.ledger, now, out);
        }
    }

    /// False: it was nothing of a staging.
    pub(super) fn move_file_failed(
        &mut self,
        failure: &Failure<'_>,
        now: Now,
        out: &mut Outbox,
    ) -> bool {
        let Step::Replaying(replay) = &mut self.step else {
            return false;
        };
        let Some(staging) = &mut replay.staging else {
            return false;
        };
        let is_poisoned = *failure.fault == DiskFault::Poisoned;
        !is_poisoned && staging.failed(failure, &mut replay.ledger, now, out)
    }

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
