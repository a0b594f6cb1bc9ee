//! Brings the log on this disk to the backup's end: finds the common history, puts aside what
//! contradicts it, fetches what is missing. Steps of [`Start`].
//!
//! Nothing is ever cut below what this node knows to be committed; that is damage, and it stops.

use std::sync::Arc;

use bytes::Bytes;

use crate::limits;
use crate::log::{SEGMENT_HEADER_SIZE, blocks};
use crate::model::{LogEnd, LogTime, Seq, to_u64, to_usize};
use crate::protocol::{CheckpointPart, Fetch, Fetched, Message};
use crate::role::{CheckpointInfo, DiskRequest, Effect, Level, LogReport, LogView, Outbox};

use super::reconcile::{History, Verdict, compare, cut_terms, note_term};
use super::shared::{Grant, Halt, LocalLog, Shared, say};
use super::start::{Start, Step};

/// Looks for one block of the own log.
#[derive(Debug)]
pub(super) struct Search {
    /// The block.
    seq: Seq,
    /// The segment that is being read.
    segment: u64,
}

/// A checkpoint on its way from the backup.
#[derive(Debug)]
pub(super) struct CheckpointCopy {
    /// Bytes of the whole file.
    size: u64,
    /// What was written so far.
    offset: u64,
    piece: Piece,
    attempt_count: u32,
}

/// What is under way of a checkpoint's next piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    /// Nothing.
    Due,
    /// It was asked for.
    Asked,
    /// It is being written.
    Writing,
}

/// Blocks on their way from the backup.
#[derive(Debug)]
pub(super) struct Fetching {
    /// An answer is due.
    asked: bool,
    /// Up to here the own log is durable.
    durable_offset: u64,
}

/// Where to read from in a log that ends (or begins) at `offset`: no block lies in the header of
/// a segment.
pub(super) const fn read_offset(offset: u64, segment_size: u64) -> u64 {
    if offset.is_multiple_of(segment_size) {
        offset + SEGMENT_HEADER_SIZE
    } else {
        offset
    }
}

#[expect(
    clippy::integer_division,
    reason = "rounds down to the segment's number"
)]
pub(super) const fn segment_of(offset: u64, segment_size: u64) -> u64 {
    offset / segment_size
}

impl Start {
    fn parts(&mut self) -> (&mut LocalLog, &Grant) {
        let local = self.local.as_mut().expect("there is a log");
        (local, self.grant.as_ref().expect("granted"))
    }

    // ---- common history ----

    /// Compares the log with the backup's copy and begins what has to be done.
    pub(super) fn reconcile(&mut self, shared: &mut Shared, out: &mut Outbox) -> Result<(), Halt> {
        let Some(local) = &mut self.local else {
            return self.refill(shared, out);
        };
        let grant = self.grant.as_ref().expect("granted before the link is up");
        if local.segment_size != grant.segment_size {
            return Err(Halt::damage(format!(
                "log {} has segments of {} bytes here and of {} bytes at the backup",
                grant.log, local.segment_size, grant.segment_size
            )));
        }
        if grant.end.seq < local.committed {
            return Err(Halt::damage(format!(
                "the backup is older than this node: its copy of log {} ends at block {}, block \
                 {} is committed",
                grant.log, grant.end.seq, local.committed
            )));
        }
        if local.end.seq == Seq(0) && grant.end.seq != Seq(0) {
            return self.refill(shared, out);
        }
        let here = History {
            end: local.end,
            terms: &local.terms,
        };
        let there = History {
            end: grant.end,
            terms: &grant.terms,
        };
        let common = match compare(here, there) {
            Verdict::Common(common) => common,
            Verdict::Torn { term, here, there } => {
                return Err(Halt::damage(format!(
                    "log {} and the backup's copy contradict each other: term {term} begins at \
                     block {here} here and at block {there} there",
                    grant.log
                )));
            }
        };
        if common < local.end.seq && common < local.committed {
            return Err(Halt::damage(format!(
                "log {} and the backup's copy part behind block {common}, but block {} is \
                 committed",
                grant.log, local.committed
            )));
        }
        if common == local.end.seq {
            let end = local.end;
            return self.found_common(end, shared, out);
        }
        self.search(common, shared, out)
    }

    fn search(&mut self, seq: Seq, shared: &mut Shared, out: &mut Outbox) -> Result<(), Halt> {
        let (local, grant) = self.parts();
        if seq == Seq(0) {
            return self.found_common(LogEnd::default(), shared, out);
        }
        if let Some(checkpoint) = &local.checkpoint
            && checkpoint.end.seq == seq
        {
            let end = checkpoint.end;
            return self.found_common(end, shared, out);
        }
        // The block lies at the same place in both copies, so behind neither end.
        let below = local.end.offset.min(grant.end.offset);
        let segment = segment_of(below.saturating_sub(1), grant.segment_size);
        self.read_segment(Search { seq, segment }, out);
        Ok(())
    }

    fn read_segment(&mut self, search: Search, out: &mut Outbox) {
        let (local, _) = self.parts();
        let start = search.segment * local.segment_size;
        self.read_from(search, start + SEGMENT_HEADER_SIZE, out);
    }

    fn read_from(&mut self, search: Search, offset: u64, out: &mut Outbox) {
        let (local, _) = self.parts();
        out.effect(Effect::Disk(DiskRequest::ReadBlocks {
            log: local.log,
            offset,
            below: local.end.offset,
            size_max: limits::FETCH_SIZE_MAX,
            ticket: 0,
        }));
        self.step = Step::Searching(search);
    }

    /// Looks for the block in what was read.
    pub(super) fn searched(
        &mut self,
        read: &Bytes,
        shared: &mut Shared,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let verify = self.verify(shared);
        let Step::Searching(search) = &self.step else {
            return Ok(());
        };
        let (seq, segment) = (search.seq, search.segment);
        let log = verify.log;
        let lost = || Halt::damage(format!("block {seq} of log {log} is not where it must be"));
        let mut last = None;
        for block in blocks(read, verify) {
            let block = block.map_err(|error| Halt::damage(format!("log {log}: {error}")))?;
            let end = block.end();
            if end.seq == seq {
                return self.found_common(end, shared, out);
            }
            if seq < end.seq {
                // Everything from here on is younger.
                let earlier = last.is_none() && 0 < segment;
                if !earlier {
                    return Err(lost());
                }
                let segment = segment - 1;
                self.read_segment(Search { seq, segment }, out);
                return Ok(());
            }
            last = Some(end);
        }
        let Some(last) = last else {
            return Err(lost());
        };
        self.read_from(Search { seq, segment }, last.offset, out);
        Ok(())
    }

    /// The common history ends with `at`, a block of the own log.
    fn found_common(
        &mut self,
        at: LogEnd,
        shared: &mut Shared,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let (local, grant) = self.parts();
        if at.seq == grant.end.seq && at.chain != grant.end.chain {
            return Err(Halt::damage(format!(
                "block {} of log {} has another content here than at the backup",
                at.seq, grant.log
            )));
        }
        // Where the backup's end is reached, what lies behind it here merely extends it.
        let keep = if at.seq == grant.end.seq {
            local.end
        } else {
            at
        };
        if keep == local.end && !local.dirty {
            return self.fetch_or_replay(shared, out);
        }
        if keep.seq == Seq(0) {
            return self.refill(shared, out);
        }
        if keep != local.end {
            let text = format!(
                "log {}: blocks {} to {} contradict the backup's copy and are put aside",
                grant.log,
                keep.seq.next(),
                local.end.seq
            );
            say(out, Level::Warn, text);
        }
        let log = grant.log;
        self.step = Step::Cutting { to: keep };
        out.effect(Effect::Disk(DiskRequest::CutLog { log, to: keep }));
        Ok(())
    }

    pub(super) fn log_cut(
        &mut self,
        aside_size: u64,
        shared: &mut Shared,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let Step::Cutting { to } = self.step else {
            return Ok(());
        };
        let (local, grant) = self.parts();
        let text = format!("log {}: {aside_size} bytes are put aside", grant.log);
        local.end = to;
        local.dirty = false;
        cut_terms(&mut local.terms, to.seq);
        say(out, Level::Info, text);
        self.fetch_or_replay(shared, out)
    }

    /// The own log is a prefix of the backup's copy, or goes on behind it.
    fn fetch_or_replay(&mut self, shared: &mut Shared, out: &mut Outbox) -> Result<(), Halt> {
        let (local, grant) = self.parts();
        if grant.end.seq <= local.end.seq {
            return self.replay(shared, out);
        }
        let size = local.segment_size;
        if segment_of(local.end.offset, size) < segment_of(grant.first_offset, size) {
            let text = format!(
                "log {}: the backup keeps nothing below offset {}, block {} here lies below it",
                grant.log, grant.first_offset, local.end.seq
            );
            say(out, Level::Warn, text);
            return self.refill(shared, out);
        }
        let text = format!(
            "log {}: blocks {} to {} come from the backup",
            grant.log,
            local.end.seq.next(),
            grant.end.seq
        );
        let (log, durable_offset) = (local.log, local.end.offset);
        say(out, Level::Info, text);
        self.step = Step::Fetching(Fetching {
            asked: false,
            durable_offset,
        });
        out.effect(Effect::Disk(DiskRequest::PrepareSegment {
            log,
            offset: durable_offset,
        }));
        self.ask_again(shared, out);
        Ok(())
    }

    // ---- an empty folder ----

    /// Begins the log anew: from the backup's checkpoint if there is one, else from its beginning.
    fn refill(&mut self, shared: &mut Shared, out: &mut Outbox) -> Result<(), Halt> {
        let grant = self.grant.as_ref().expect("granted");
        self.local = None;
        if 0 < grant.checkpoint_size {
            let text = format!(
                "log {}: a checkpoint of {} bytes comes from the backup",
                grant.log, grant.checkpoint_size
            );
            self.step = Step::Checkpoint(CheckpointCopy {
                size: grant.checkpoint_size,
                offset: 0,
                piece: Piece::Due,
                attempt_count: 1,
            });
            say(out, Level::Info, text);
            self.ask_again(shared, out);
            return Ok(());
        }
        if grant.segment_size <= grant.first_offset {
            return Err(Halt::damage(format!(
                "the backup has neither the beginning of log {} nor a checkpoint",
                grant.log
            )));
        }
        self.create(LogEnd::default(), None, shared, out);
        Ok(())
    }

    fn create(
        &mut self,
        after: LogEnd,
        checkpoint: Option<CheckpointInfo>,
        shared: &Shared,
        out: &mut Outbox,
    ) {
        let cluster = shared.cluster;
        let grant = self.grant.as_ref().expect("granted");
        out.effect(Effect::Disk(DiskRequest::CreateLog {
            log: grant.log,
            cluster: cluster.expect("the backup said it before it granted"),
            segment_size: grant.segment_size,
            after,
        }));
        self.step = Step::Creating { after, checkpoint };
    }

    pub(super) fn log_created(
        &mut self,
        found: Option<(LogReport, Arc<dyn LogView>)>,
        shared: &mut Shared,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let Step::Creating { after, checkpoint } = self.step else {
            return Ok(());
        };
        let Some((report, view)) = found else {
            return Err(Halt::damage("the disk made a log but does not show it"));
        };
        let grant = self.grant.as_ref().expect("granted");
        let mut terms = grant.terms.clone();
        cut_terms(&mut terms, after.seq);
        self.local = Some(LocalLog {
            log: grant.log,
            segment_size: grant.segment_size,
            first_offset: report.first_offset,
            end: after,
            committed: Seq(0),
            terms,
            checkpoint: report.checkpoint.or(checkpoint),
            dirty: false,
            damaged: false,
            view,
        });
        self.fetch_or_replay(shared, out)
    }

    // ---- the checkpoint ----

    pub(super) fn take_checkpoint_part(
        &mut self,
        part: &CheckpointPart<'_>,
        shared: &mut Shared,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let Step::Checkpoint(copy) = &mut self.step else {
            return Ok(());
        };
        if copy.piece != Piece::Asked {
            return Ok(());
        }
        if part.size != copy.size {
            let text = "the backup has another checkpoint by now";
            copy.size = part.size;
            return self.checkpoint_refused(text, shared, out);
        }
        let rest = copy.size - copy.offset;
        let fits = !part.bytes.is_empty() && to_u64(part.bytes.len()) <= rest;
        if part.offset != copy.offset || !fits {
            let text = "the backup sent another piece of the checkpoint than was asked for";
            return self.checkpoint_refused(text, shared, out);
        }
        out.effect(Effect::Disk(DiskRequest::WriteCheckpoint {
            log: part.log,
            offset: part.offset,
            bytes: Bytes::copy_from_slice(part.bytes),
            size: part.size,
        }));
        copy.offset += to_u64(part.bytes.len());
        copy.piece = Piece::Writing;
        Ok(())
    }

    pub(super) fn checkpoint_written(
        &mut self,
        info: Option<CheckpointInfo>,
        shared: &mut Shared,
        out: &mut Outbox,
    ) {
        let Step::Checkpoint(copy) = &mut self.step else {
            return;
        };
        copy.piece = Piece::Due;
        let Some(info) = info else {
            self.ask_again(shared, out);
            return;
        };
        let segment_size = self.grant.as_ref().expect("granted").segment_size;
        if info.end.offset.is_multiple_of(segment_size) {
            self.create(info.end, Some(info), shared, out);
        } else {
            self.step = Step::Anchoring { checkpoint: info };
            self.ask_again(shared, out);
        }
    }

    /// What was copied is not one checkpoint: begins again, some times.
    pub(super) fn checkpoint_refused(
        &mut self,
        text: &str,
        shared: &mut Shared,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let Step::Checkpoint(copy) = &mut self.step else {
            return Ok(());
        };
        if copy.size == 0 || limits::CHECKPOINT_ATTEMPT_COUNT_MAX <= copy.attempt_count {
            return Err(Halt::damage(format!(
                "no checkpoint could be copied from the backup: {text}"
            )));
        }
        say(out, Level::Warn, format!("{text}; it is copied anew"));
        copy.attempt_count += 1;
        copy.offset = 0;
        copy.piece = Piece::Due;
        self.ask_again(shared, out);
        Ok(())
    }

    /// Learns from the first block of the checkpoint's segment what it follows: there the log
    /// begins, so that it is made of whole segments.
    pub(super) fn anchor(
        &mut self,
        info: CheckpointInfo,
        fetched: &Fetched<'_>,
        shared: &mut Shared,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let verify = self.verify(shared);
        let checkpoint = info.end;
        let grant = self.grant.as_ref().expect("granted");
        let log = grant.log;
        let segment = segment_of(checkpoint.offset, grant.segment_size);
        let first = match blocks(fetched.blocks, verify).next() {
            Some(Ok(block)) => *block.head(),
            Some(Err(error)) => {
                return Err(Halt::damage(format!("log {log} from backup: {error}")));
            }
            None => {
                let text = format!("the backup has no blocks of segment {segment} of log {log}");
                return Err(Halt::damage(text));
            }
        };
        let start = segment * grant.segment_size;
        if first.offset != start + SEGMENT_HEADER_SIZE || checkpoint.seq < first.seq {
            return Err(Halt::damage(format!(
                "the backup's log {log} begins with block {} at {}, its checkpoint stands for \
                 block {}",
                first.seq, first.offset, checkpoint.seq
            )));
        }
        let seq = Seq(first.seq.0 - 1);
        let history = History {
            end: grant.end,
            terms: &grant.terms,
        };
        let after = LogEnd {
            seq,
            term: history.term_of(seq),
            chain: first.previous_chain,
            offset: start,
            // Not known and not needed: times are compared from the first block on.
            time: LogTime(0),
        };
        self.create(after, Some(info), shared, out);
        Ok(())
    }

    // ---- blocks ----

    /// Asks for what the present step waits for, if the link is there.
    pub(super) fn ask_again(&mut self, shared: &Shared, out: &mut Outbox) {
        let Some(peer) = shared.link.up() else {
            return;
        };
        let grant = self.grant.as_ref().expect("granted");
        let fetch = |offset| Fetch {
            log: grant.log,
            offset,
            size_max: limits::FETCH_SIZE_MAX,
        };
        match &mut self.step {
            Step::Checkpoint(copy) => {
                if copy.piece == Piece::Due {
                    copy.piece = Piece::Asked;
                    out.send(peer, &Message::CheckpointAsk(fetch(copy.offset)));
                }
            }
            Step::Anchoring { checkpoint } => {
                let segment = segment_of(checkpoint.end.offset, grant.segment_size);
                let start = segment * grant.segment_size;
                out.send(peer, &Message::Fetch(fetch(start + SEGMENT_HEADER_SIZE)));
            }
            Step::Fetching(fetching) => {
                let end = self.local.as_ref().expect("there is a log").end;
                let ahead = end.offset - fetching.durable_offset;
                if !fetching.asked
                    && end.seq < grant.end.seq
                    && ahead <= limits::FETCH_AHEAD_SIZE_MAX
                {
                    fetching.asked = true;
                    let offset = read_offset(end.offset, grant.segment_size);
                    out.send(peer, &Message::Fetch(fetch(offset)));
                }
            }
            Step::Identity
            | Step::Opening
            | Step::Registering
            | Step::Searching(_)
            | Step::Cutting { .. }
            | Step::Creating { .. }
            | Step::Replaying(_) => (),
        }
    }

    /// The link is gone, and with it every answer that was due.
    pub(super) fn link_lost(&mut self) {
        match &mut self.step {
            Step::Checkpoint(copy) => {
                if copy.piece == Piece::Asked {
                    copy.piece = Piece::Due;
                }
            }
            Step::Fetching(fetching) => fetching.asked = false,
            Step::Replaying(replay) => replay.link_lost(),
            Step::Identity
            | Step::Opening
            | Step::Registering
            | Step::Searching(_)
            | Step::Cutting { .. }
            | Step::Anchoring { .. }
            | Step::Creating { .. } => (),
        }
    }

    /// Takes blocks into the own log, verbatim.
    pub(super) fn take_blocks(
        &mut self,
        fetched: &Fetched<'_>,
        shared: &mut Shared,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let verify = self.verify(shared);
        let Step::Fetching(fetching) = &mut self.step else {
            return Ok(());
        };
        if !std::mem::take(&mut fetching.asked) {
            return Ok(());
        }
        let grant = self.grant.as_ref().expect("granted");
        let local = self.local.as_mut().expect("there is a log");
        let log = grant.log;
        let bytes = Bytes::copy_from_slice(fetched.blocks);
        let before = local.end.offset;
        let mut at = 0;
        for block in blocks(&bytes, verify) {
            let block = block
                .map_err(|error| Halt::damage(format!("log {log} from the backup: {error}")))?;
            block
                .follows(&local.end, verify.segment_size)
                .map_err(|error| {
                    Halt::damage(format!(
                        "log {log} and the backup's copy do not fit: {error}"
                    ))
                })?;
            local.end = block.end();
            note_term(&mut local.terms, local.end.term, local.end.seq);
            let size = to_usize(u64::from(block.size()));
            out.effect(Effect::Disk(DiskRequest::Append {
                log,
                block: bytes.slice(at..at + size),
                end: local.end,
            }));
            at += size;
        }
        if local.end.offset == before {
            return Err(Halt::damage(format!(
                "the backup's copy of log {log} has no block at {before}, but it ends at {}",
                grant.end.offset
            )));
        }
        if grant.end.seq <= local.end.seq && local.end != grant.end {
            return Err(Halt::damage(format!(
                "block {} of log {log} that was fetched is not the one that the backup granted",
                grant.end.seq
            )));
        }
        let crossed = segment_of(before, verify.segment_size)
            < segment_of(local.end.offset, verify.segment_size);
        if crossed {
            out.effect(Effect::Disk(DiskRequest::PrepareSegment {
                log,
                offset: local.end.offset,
            }));
        }
        self.ask_again(shared, out);
        Ok(())
    }

    pub(super) fn durable(
        &mut self,
        end: LogEnd,
        shared: &mut Shared,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let Step::Fetching(fetching) = &mut self.step else {
            return Ok(());
        };
        fetching.durable_offset = end.offset;
        let (local, grant) = self.parts();
        if local.end == grant.end && end == grant.end {
            return self.replay(shared, out);
        }
        self.ask_again(shared, out);
        Ok(())
    }
}
