//! Keeps disk use and restart time bounded: spare segments, checkpoints, retirement, free space.
//!
//! Nothing here is needed for safety; a request that fails is tried again later.

use std::collections::VecDeque;

use crate::clock::{Now, Tick};
use crate::limits;
use crate::log::Verify;
use crate::model::{LogEnd, LogNumber, LogTime};
use crate::role::{
    CheckpointInfo, DiskFault, DiskRequest, Effect, Level, Outbox, Scrub, ScrubPiece,
};

use super::restore::{read_offset, segment_of};
use super::search::may_take;
use super::shared::{Failure, say};

/// Whether one of a kind of request is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Idle,
    Running,
    /// Failed; tried again from this tick on.
    Failed(Tick),
}

impl Job {
    fn may_begin(self, now: Now) -> bool {
        match self {
            Self::Idle => true,
            Self::Running => false,
            Self::Failed(until) => until <= now.tick,
        }
    }
}

/// What is under way, and what is known of the log's files.
#[derive(Debug)]
pub(super) struct Upkeep {
    log: LogNumber,
    segment_size: u64,
    ring_key: u128,
    next_at: Tick,
    prepare: Job,
    /// Where the newest segment begins that blocks were built for.
    built_offset: u64,
    checkpoint: Job,
    /// Since when one is due that waits.
    checkpoint_since: Option<Tick>,
    retire: Job,
    measure: Job,
    newest: Option<CheckpointInfo>,
    /// The oldest segment that is kept.
    first_segment: u64,
    /// Log time of the first block of segments, rising; gaps are read from the disk.
    times: VecDeque<(u64, LogTime)>,
    /// The segment whose first block is being read.
    reading: Option<u64>,
    scrub: Scrub,
}

impl Upkeep {
    pub(super) fn new(
        verify: &Verify,
        ring_key: u128,
        first_offset: u64,
        newest: Option<CheckpointInfo>,
        times: Vec<(u64, LogTime)>,
    ) -> Self {
        Self {
            log: verify.log,
            segment_size: verify.segment_size,
            ring_key,
            next_at: Tick(0),
            prepare: Job::Idle,
            built_offset: 0,
            checkpoint: Job::Idle,
            checkpoint_since: None,
            retire: Job::Idle,
            measure: Job::Idle,
            newest,
            first_segment: segment_of(first_offset, verify.segment_size),
            times: times.into(),
            reading: None,
            scrub: Scrub::new(verify.segment_size),
        }
    }

    pub(super) fn deadline(&self) -> Tick {
        self.next_at
    }

    /// Did the last attempt to make a spare segment fail?
    pub(super) const fn lacks_segment(&self) -> bool {
        matches!(self.prepare, Job::Failed(_))
    }

    /// The log goes on in a segment for which there was no room: it is tried again after a while.
    pub(super) const fn needs_segment(&mut self, now: Now) {
        self.prepare = Job::Failed(now.tick);
    }

    /// The log is in use from here on.
    pub(super) fn begin(&mut self, out: &mut Outbox) {
        self.prepare(out);
    }

    fn prepare(&mut self, out: &mut Outbox) {
        self.prepare = Job::Running;
        out.effect(Effect::Disk(DiskRequest::PrepareSegment {
            log: self.log,
            offset: self.built_offset,
        }));
    }

    /// A block was built at `offset`. In a new segment, the next spare one is made.
    pub(super) fn block_built(&mut self, offset: u64, time: LogTime, out: &mut Outbox) {
        let segment = segment_of(offset, self.segment_size);
        if offset == read_offset(segment * self.segment_size, self.segment_size) {
            self.note_time(segment, time);
            if segment != 0 {
                self.built_offset = offset;
                self.prepare(out);
            }
        }
    }

    fn note_time(&mut self, segment: u64, time: LogTime) {
        let at = self.times.partition_point(|(known, _)| *known < segment);
        if self
            .times
            .get(at)
            .is_none_or(|(known, _)| *known != segment)
        {
            self.times.insert(at, (segment, time));
        }
    }

    pub(super) fn is_due(&self, now: Now) -> bool {
        self.next_at <= now.tick
    }

    /// Does what is due. The next checkpoint may go up to `bound`, and is due for so long
    /// before it is made.
    pub(super) fn tick(
        &mut self,
        now: Now,
        committed: &LogEnd,
        (bound, wait_ms): (&LogEnd, u64),
        horizon_ms: u64,
        out: &mut Outbox,
    ) {
        self.next_at = now.tick.plus_ms(limits::UPKEEP_MS);
        if self.measure.may_begin(now) {
            self.measure = Job::Running;
            out.effect(Effect::Disk(DiskRequest::MeasureFreeSpace));
        }
        if self.lacks_segment() {
            self.prepare(out);
        }
        self.checkpoint_if_due(now, bound, wait_ms, out);
        self.retire_if_due(now, committed, horizon_ms, out);
    }

    fn checkpoint_if_due(&mut self, now: Now, bound: &LogEnd, wait_ms: u64, out: &mut Outbox) {
        let (last, size) = self
            .newest
            .map_or((0, 0), |info| (info.end.offset, info.size));
        let grown = bound.offset.saturating_sub(last);
        if grown < size.max(2 * self.segment_size) || !self.checkpoint.may_begin(now) {
            self.checkpoint_since = None;
            return;
        }
        let since = *self.checkpoint_since.get_or_insert(now.tick);
        if now.tick < since.plus_ms(wait_ms) {
            return;
        }
        self.checkpoint_since = None;
        self.checkpoint = Job::Running;
        out.effect(Effect::Disk(DiskRequest::MakeCheckpoint {
            log: self.log,
            through: *bound,
            ring_key: self.ring_key,
        }));
    }

    /// Segments may go that lie below the checkpoint and before the last ones, and all of whose
    /// ids are older than the horizon. The first block of a segment bounds the times of all
    /// earlier ones.
    fn retire_if_due(&mut self, now: Now, committed: &LogEnd, horizon_ms: u64, out: &mut Outbox) {
        let Some(checkpoint) = self.newest else {
            return;
        };
        if !self.retire.may_begin(now) {
            return;
        }
        let newest = segment_of(committed.offset, self.segment_size);
        let recent = (newest + 1).saturating_sub(limits::RECENT_SEGMENT_COUNT);
        let bound = recent.min(segment_of(checkpoint.end.offset, self.segment_size));
        let mut keep = self.first_segment;
        while keep < bound {
            let Some(time) = self.time_of(keep + 1) else {
                self.read_time(keep + 1, committed, out);
                break;
            };
            if horizon_ms <= time.ms() + limits::ID_AHEAD_MS_MAX {
                break;
            }
            keep += 1;
        }
        if self.first_segment < keep {
            self.retire = Job::Running;
            out.effect(Effect::Disk(DiskRequest::RetireSegments {
                log: self.log,
                below: keep * self.segment_size,
            }));
        }
    }

    /// Where an operation with an id of this time can first lie in what is kept, and whether all
    /// of it is kept: `None` if that is for the first block to say.
    pub(super) fn search_from(&self, id_ms: u64) -> (u64, Option<bool>) {
        let is_before = |(_, time): &&(u64, LogTime)| !may_take(id_ms, *time);
        let before = self.times.iter().take_while(is_before).last();
        let kept = |(segment, _): &&(u64, LogTime)| self.first_segment <= *segment;
        match before.filter(kept) {
            Some((segment, _)) => (segment * self.segment_size, Some(true)),
            None if self.first_segment == 0 => (0, Some(true)),
            None => (self.first_segment * self.segment_size, None),
        }
    }

    /// Verifies the next piece of the sealed segments.
    pub(super) fn scrub_if_due(&mut self, now: Now, committed: &LogEnd, out: &mut Outbox) {
        let first = self.first_segment * self.segment_size;
        let piece = self.scrub.next_piece(now.tick, first, committed.offset);
        if let Some(ScrubPiece { offset, below }) = piece {
            out.effect(Effect::Disk(DiskRequest::Scrub {
                log: self.log,
                offset,
                below,
                ticket: SCRUB_TICKET,
            }));
        }
    }

    /// A piece of the sealed segments verifies.
    pub(super) const fn scrubbed(&mut self, offset: u64, size: u64) {
        self.scrub.verified(offset, size);
    }

    /// A piece does not. The backup has the same bytes: a restart fetches them.
    fn scrub_failed(&mut self, offset: u64, failure: &Failure<'_>, out: &mut Outbox) {
        if offset < self.first_segment * self.segment_size {
            // Retired meanwhile.
            self.scrub.verified(offset, 0);
        } else if *failure.fault == DiskFault::NoSpace {
            self.scrub.put_off();
        } else if self.scrub.failed(offset, failure.text) {
            let text = format!(
                "log {}: an old segment does not verify, a restart fetches it from the backup: {}",
                self.log, failure.text
            );
            say(out, Level::Alarm, text);
        }
    }

    fn time_of(&self, segment: u64) -> Option<LogTime> {
        let at = self.times.partition_point(|(known, _)| *known < segment);
        let found = self.times.get(at).filter(|(known, _)| *known == segment);
        found.map(|(_, time)| *time)
    }

    fn read_time(&mut self, segment: u64, committed: &LogEnd, out: &mut Outbox) {
        if self.reading.is_some() {
            return;
        }
        self.reading = Some(segment);
        out.effect(Effect::Disk(DiskRequest::ReadBlocks {
            log: self.log,
            offset: read_offset(segment * self.segment_size, self.segment_size),
            below: committed.offset,
            size_max: 1,
            ticket: TICKET,
        }));
    }

    /// The first block of the segment that was asked for; `None` where that failed.
    pub(super) fn time_read(&mut self, time: Option<LogTime>) {
        if let (Some(segment), Some(time)) = (self.reading.take(), time) {
            self.note_time(segment, time);
        }
    }

    pub(super) fn segment_ready(&mut self) {
        self.prepare = Job::Idle;
    }

    pub(super) fn measured(&mut self) {
        self.measure = Job::Idle;
    }

    pub(super) fn checkpoint_made(&mut self, info: CheckpointInfo) {
        self.checkpoint = Job::Idle;
        self.newest = Some(info);
    }

    pub(super) fn retired(&mut self, first_offset: u64) {
        self.retire = Job::Idle;
        self.first_segment = segment_of(first_offset, self.segment_size);
        let kept = self
            .times
            .partition_point(|(segment, _)| *segment < self.first_segment);
        self.times.drain(..kept);
    }

    /// A request of this part failed. False: it is none of this part's.
    pub(super) fn failed(&mut self, failure: &Failure<'_>, now: Now, out: &mut Outbox) -> bool {
        let Failure {
            request,
            fault,
            text,
        } = *failure;
        if let DiskRequest::Scrub { offset, .. } = request {
            self.scrub_failed(*offset, failure, out);
            return true;
        }
        let retry = Job::Failed(now.tick.plus_ms(limits::NODE_RETRY_MS));
        let what = match request {
            DiskRequest::PrepareSegment { .. } => {
                self.prepare = Job::Failed(now.tick);
                "spare segment"
            }
            DiskRequest::MakeCheckpoint { .. } => {
                self.checkpoint = retry;
                "checkpoint"
            }
            DiskRequest::RetireSegments { .. } => {
                self.retire = retry;
                "retirement"
            }
            DiskRequest::MeasureFreeSpace => {
                self.measure = retry;
                "measure of free space"
            }
            DiskRequest::ReadBlocks { ticket: TICKET, .. } => {
                self.reading = None;
                self.retire = retry;
                "read of an old segment"
            }
            DiskRequest::ReadBlocks { .. }
            | DiskRequest::Scrub { .. }
            | DiskRequest::LoadFile { .. }
            | DiskRequest::SaveFile { .. }
            | DiskRequest::OpenLog { .. }
            | DiskRequest::CreateLog { .. }
            | DiskRequest::Append { .. }
            | DiskRequest::CutLog { .. }
            | DiskRequest::ReadEntry { .. }
            | DiskRequest::LoadCheckpoint { .. }
            | DiskRequest::ReadCheckpoint { .. }
            | DiskRequest::WriteCheckpoint { .. }
            | DiskRequest::AdvanceReplica { .. }
            | DiskRequest::Audit { .. }
            | DiskRequest::Survey { .. }
            | DiskRequest::DraftImages { .. }
            | DiskRequest::BuildHandOver { .. }
            | DiskRequest::ReadMoveFile { .. }
            | DiskRequest::WriteMoveFile { .. }
            | DiskRequest::LoadMoveFile { .. }
            | DiskRequest::KeepMoveFiles { .. } => return false,
        };
        let level = if *fault == DiskFault::Damage {
            Level::Alarm
        } else {
            Level::Warn
        };
        say(
            out,
            level,
            format!("log {}: {what} failed: {text}", self.log),
        );
        true
    }
}

/// Ticket of reads for the age of a segment.
pub(super) const TICKET: u64 = 1;

/// Ticket of the check of old segments.
pub(super) const SCRUB_TICKET: u64 = 2;
