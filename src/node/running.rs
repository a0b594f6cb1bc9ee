//! A node whose ledger stands at the end of its log: it logs its epoch, serves, and stops.
//!
//! Holds the state of the three; the turn itself is in turn.rs, look-ups in lookups.rs.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::canary::{self, Bug};
use crate::clock::{Now, Tick};
use crate::ledger::Ledger;
use crate::limits;
use crate::log::{BlockBuilder, Verify, blocks};
use crate::model::{Entry, EpochMark, LogEnd, RingEpoch, Seq, Term, TermStart, to_u64};
use crate::protocol::{Appended, Beat, EntryRead};
use crate::role::{
    DiskFault, DiskReply, DiskRequest, Effect, ExitCode, Level, LogView, Outbox, PeerId,
};

use super::commit::{Answers, Commit};
use super::gather::Gather;
use super::moves::Moves;
use super::parked::Parked;
use super::replicate::{self, Replicate};
use super::search::{self, Searched, Searches};
use super::shared::{End, Failure, Grant, Halt, Shared, Standing, say};
use super::slots::SlotTable;
use super::stall::Stall;
use super::start::Started;
use super::turn::{Queue, Scratch};
use super::upkeep::{self, Upkeep};

/// How far the node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The slot table is waited for.
    AwaitingTable,
    /// The first block of the term is on its way to its commit.
    Activating(Seq),
    /// Requests are taken.
    Serving,
    /// No requests are taken; what was applied is being committed, until this tick.
    Stopping(Tick),
}

/// A node beyond its start.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) stage: Stage,
    pub(super) verify: Verify,
    pub(super) term: Term,
    pub(super) ledger: Ledger,
    pub(super) view: Arc<dyn LogView>,
    pub(super) builder: BlockBuilder,
    /// Where the log ends with what was applied.
    pub(super) applied: LogEnd,
    terms: Vec<TermStart>,
    pub(super) commit: Commit,
    pub(super) answers: Answers,
    replicate: Replicate,
    /// Where the backup's copy ended at the last grant, until the link is in use.
    backup_end: Option<LogEnd>,
    pub(super) queue: Queue,
    pub(super) parked: Parked,
    pub(super) searches: Searches,
    pub(super) upkeep: Upkeep,
    /// Blocks wait for room on the disk.
    pub(super) stall: Option<Stall>,
    pub(super) moves: Moves,
    /// Entries of the node's own that wait for the next block.
    pub(super) own: VecDeque<Entry>,
    /// The ring epoch that the own entries (and the log) speak of.
    logged_epoch: RingEpoch,
    /// When this block is committed, what the log has activated is served.
    pub(super) refresh_at: Option<Seq>,
    pub(super) skew_said: bool,
    /// Something is left that the next turn can take, whether or not anything comes.
    pub(super) is_due: bool,
    pub(super) gather: Gather,
    pub(super) scratch: Scratch,
}

impl Running {
    pub(super) fn new(started: Started, shared: &Shared, out: &mut Outbox) -> Self {
        let Started {
            ledger,
            local,
            grant,
            verify,
            segment_times,
            mut kept,
        } = started;
        let (first_offset, newest) = (local.first_offset, local.checkpoint);
        let mut upkeep = Upkeep::new(&verify, grant.ring_key, first_offset, newest, segment_times);
        upkeep.begin(out);
        kept.tell_anyway(out);
        Self {
            stage: Stage::AwaitingTable,
            term: grant.term,
            ledger,
            view: local.view,
            builder: BlockBuilder::new(),
            applied: local.end,
            terms: local.terms,
            commit: Commit::new(local.end.seq, grant.end),
            answers: Answers::default(),
            replicate: Replicate::new(&verify, grant.term, &grant.end),
            backup_end: None,
            queue: Queue::default(),
            parked: Parked::new(shared.options.limits.parked_count_max),
            searches: Searches::default(),
            upkeep,
            stall: None,
            moves: Moves::new(kept),
            own: VecDeque::new(),
            logged_epoch: RingEpoch(0),
            refresh_at: None,
            skew_said: false,
            is_due: false,
            gather: Gather::default(),
            scratch: Scratch::default(),
            verify,
        }
    }

    pub(super) fn standing(&self) -> Standing<'_> {
        Standing {
            log: Some(self.verify.log),
            end: self.applied,
            committed: self.commit.committed().seq,
            terms: &self.terms,
        }
    }

    pub(super) fn beat(&self) -> Beat {
        Beat {
            nonce: 0,
            term: self.term,
            applied: self.applied.seq,
            committed: self.commit.committed().seq,
            account_count: self.ledger.account_count(),
            id_count: self.ledger.id_count(),
            horizon_ms: self.ledger.horizon_ms(),
            free_size: 0,
            digest: self.ledger.digest(),
            memory_size: self.ledger.memory_size(),
            phase: match self.stage {
                Stage::AwaitingTable | Stage::Activating(_) => 0,
                Stage::Serving => 1,
                Stage::Stopping(_) => 2,
            },
        }
    }

    pub(super) fn deadline(&self) -> Tick {
        if self.is_due {
            return Tick(0);
        }
        let upkeep = self.upkeep.deadline();
        match self.stage {
            Stage::AwaitingTable | Stage::Activating(_) => upkeep,
            Stage::Serving => {
                let gathered = self.gather.until().filter(|_| self.queue.count() != 0);
                let due = [self.moves.deadline(), gathered];
                due.into_iter().flatten().fold(upkeep, Tick::min)
            }
            Stage::Stopping(until) => upkeep.min(until),
        }
    }

    // ---- the backup ----

    /// The same incarnation is registered again.
    pub(super) fn granted(&mut self, grant: &Grant) -> Result<(), Halt> {
        if self.term < grant.term {
            return Err(Halt::fenced(format!(
                "log {} is at term {}, this process had term {}",
                grant.log, grant.term, self.term
            )));
        }
        if grant.term < self.term {
            return Err(Halt::damage(format!(
                "the backup is older than this node: it grants term {} of log {} again",
                grant.term, grant.log
            )));
        }
        self.check_backup_end(&grant.end)?;
        self.backup_end = Some(grant.end);
        Ok(())
    }

    /// The backup says where its copy ends: it must be one of the blocks in flight.
    fn check_backup_end(&self, end: &LogEnd) -> Result<(), Halt> {
        let log = self.verify.log;
        let committed = self.commit.committed().seq;
        if end.seq < committed {
            return Err(Halt::damage(format!(
                "the backup is older than this node: its copy of log {log} ends at block {}, \
                 block {committed} is committed",
                end.seq
            )));
        }
        let known = self.commit.end_of(end.seq);
        let differs = known.is_some_and(|known| known.chain != end.chain);
        if self.applied.seq < end.seq || differs {
            return Err(Halt::damage(format!(
                "block {} of log {log} at the backup is not the one of this node",
                end.seq
            )));
        }
        Ok(())
    }

    pub(super) fn link_up(&mut self, peer: PeerId, shared: &mut Shared, out: &mut Outbox) {
        if let Some(end) = self.backup_end.take() {
            if let Some(round) = self.commit.acked_through(end.seq) {
                shared.link.round_came_back(round);
            }
            self.replicate.rewind(&end);
        }
        self.pump(peer, out);
    }

    pub(super) fn link_lost(&mut self) {
        self.parked.link_lost();
        self.moves_link_lost();
    }

    fn pump(&mut self, peer: PeerId, out: &mut Outbox) {
        self.replicate.pump(peer, &self.commit, &self.applied, out);
    }

    /// Sends a block that was just built, or leaves it to the resending that is under way.
    pub(super) fn send_new(&mut self, shared: &Shared, out: &mut Outbox) {
        if let Some(peer) = shared.link.up() {
            self.pump(peer, out);
        }
    }

    pub(super) fn appended(
        &mut self,
        peer: PeerId,
        appended: &Appended,
        shared: &mut Shared,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        if appended.log != self.verify.log || appended.term != self.term {
            return Ok(());
        }
        if self.applied.seq < appended.through {
            return Err(Halt::damage(format!(
                "the backup acknowledges block {} of log {}, which ends with block {}",
                appended.through, appended.log, self.applied.seq
            )));
        }
        if let Some(round) = self.commit.acked_through(appended.through) {
            shared.link.round_came_back(round);
        }
        self.pump(peer, out);
        Ok(())
    }

    pub(super) fn resend(
        &mut self,
        peer: PeerId,
        end: &LogEnd,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        self.check_backup_end(end)?;
        self.replicate.rewind(end);
        self.pump(peer, out);
        Ok(())
    }

    pub(super) fn entry_read(
        &mut self,
        peer: PeerId,
        ticket: u64,
        read: &EntryRead,
        out: &mut Outbox,
    ) {
        self.parked
            .backup_answered(ticket, read.place, read.entry, peer, out);
    }

    // ---- the slot table ----

    /// The epoch of the table that the log speaks of, once it does.
    pub(super) fn logged_epoch(&self) -> Option<RingEpoch> {
        (self.logged_epoch != RingEpoch(0)).then_some(self.logged_epoch)
    }

    /// Logs under which table the node works, if that changed, and what it gives.
    pub(super) fn table_changed(&mut self, shared: &Shared) {
        let Some(slots) = &shared.slots else {
            return;
        };
        if self.logged_epoch == slots.epoch {
            return;
        }
        self.logged_epoch = slots.epoch;
        // What was not logged yet is said anew for the newer table.
        self.own.clear();
        self.own.push_back(Entry::Epoch(EpochMark {
            generation: slots.generation,
            ring_epoch: slots.epoch,
            term: self.term,
        }));
        self.own.extend(slots.activations(&self.ledger));
    }

    // ---- the disk ----

    /// A piece of the log was read, for one of three purposes.
    fn read(
        &mut self,
        ticket: u64,
        (offset, blocks): (u64, &bytes::Bytes),
        shared: &mut Shared,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        match ticket {
            upkeep::SCRUB_TICKET => {
                self.upkeep.scrubbed(offset, to_u64(blocks.len()));
                Ok(())
            }
            search::TICKET => {
                let log = Searched {
                    verify: &self.verify,
                    commit: &self.commit,
                };
                let piece = (offset, &blocks[..]);
                let ended = self.searches.piece_read(piece, log, out);
                self.parked.searched(&ended);
                Ok(())
            }
            ticket => self.blocks_read(ticket, blocks, shared, out),
        }
    }

    pub(super) fn disk(
        &mut self,
        reply: DiskReply,
        shared: &mut Shared,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        match reply {
            DiskReply::Durable { end, .. } => {
                let known = self.commit.end_of(end.seq);
                assert!(
                    known.is_none_or(|known| known == end),
                    "the disk wrote another block"
                );
                self.commit.durable(end.seq);
            }
            DiskReply::BlocksRead {
                ticket,
                offset,
                blocks,
                ..
            } => return self.read(ticket, (offset, &blocks), shared, out),
            DiskReply::EntryRead { ticket, entry, .. } => {
                self.parked
                    .disk_answered(ticket, entry, shared.link.up(), out);
            }
            DiskReply::SegmentReady { .. } => self.segment_ready(out),
            DiskReply::CheckpointMade { info, .. } => {
                self.upkeep.checkpoint_made(info);
                self.moves.kept.checkpoint_made(&info.end);
                self.moves.kept.tell(self.moves.coming_image(), out);
            }
            reply @ (DiskReply::MoveFileLoaded { .. } | DiskReply::MoveFileWritten { .. }) => {
                self.image_reply(reply, now, out);
            }
            DiskReply::Retired { first_offset, .. } => self.upkeep.retired(first_offset),
            DiskReply::FreeSpace { size } => {
                shared.free_size = Some(size);
                self.upkeep.measured();
            }
            DiskReply::Failed {
                request,
                fault,
                text,
            } => {
                return self.failed(
                    &Failure {
                        request: &request,
                        fault: &fault,
                        text: &text,
                    },
                    shared,
                    now,
                    out,
                );
            }
            DiskReply::FileLoaded { .. }
            | DiskReply::FileSaved { .. }
            | DiskReply::LogOpened { .. }
            | DiskReply::LogCut { .. }
            | DiskReply::CheckpointLoaded { .. }
            | DiskReply::CheckpointRead { .. }
            | DiskReply::CheckpointWritten { .. }
            | DiskReply::ReplicaAt { .. }
            | DiskReply::Audited { .. }
            | DiskReply::Surveyed { .. }
            | DiskReply::HandOverBuilt { .. }
            | DiskReply::ImagesDrafted { .. }
            | DiskReply::MoveFileRead { .. }
            | DiskReply::MoveFilesKept => (),
        }
        Ok(())
    }

    fn blocks_read(
        &mut self,
        ticket: u64,
        read: &bytes::Bytes,
        shared: &Shared,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        if ticket == upkeep::TICKET {
            let first = blocks(read, self.verify).next();
            let time = first.and_then(Result::ok).map(|block| block.head().time);
            self.upkeep.time_read(time);
            return Ok(());
        }
        assert!(ticket == replicate::TICKET);
        let peer = shared.link.up();
        self.replicate
            .read_done(peer, read, self.verify, &self.commit, out)
    }

    fn failed(
        &mut self,
        failure: &Failure<'_>,
        shared: &Shared,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let text = failure.text;
        if *failure.fault == DiskFault::Poisoned {
            return Err(Halt::damage(format!(
                "the disk failed and nothing more is acknowledged: {text}"
            )));
        }
        if let DiskRequest::ReadEntry { ticket, .. } = failure.request {
            // The backup may have what this disk cannot read.
            self.parked
                .disk_answered(*ticket, None, shared.link.up(), out);
            return Ok(());
        }
        if let DiskRequest::ReadBlocks {
            ticket: search::TICKET,
            ..
        } = failure.request
        {
            let level = match failure.fault {
                DiskFault::Damage => Level::Alarm,
                DiskFault::Poisoned
                | DiskFault::NoSpace
                | DiskFault::NoMoveFile(_)
                | DiskFault::Other => Level::Warn,
            };
            say(out, level, format!("the search of an old id ends: {text}"));
            let log = Searched {
                verify: &self.verify,
                commit: &self.commit,
            };
            let ended = self.searches.failed(log, out);
            self.parked.searched(&ended);
            return Ok(());
        }
        if let DiskRequest::Append { end, .. } = failure.request
            && self.append_failed(end, failure.fault, text, now, out)
        {
            return Ok(());
        }
        if self.move_file_failed(failure, now, out) || self.upkeep.failed(failure, now, out) {
            return Ok(());
        }
        Err(Halt::damage(format!("the disk failed: {text}")))
    }

    // ---- turns ----

    /// Ends a turn: commits what can be, builds what is due, lets answers go.
    pub(super) fn end_turn(
        &mut self,
        shared: &mut Shared,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        self.advance(shared, now, out);
        match self.stage {
            Stage::AwaitingTable => self.activate(shared, now, out)?,
            Stage::Activating(_) => (),
            Stage::Serving => {
                self.run_moves(shared, now, out)?;
                self.run_turn(shared, now, out)?;
            }
            Stage::Stopping(until) => self.stop_turn(until, shared, now, out)?,
        }
        self.keep_up(shared, now, out);
        self.release(shared, out);
        self.confirm(shared, now, out);
        #[cfg(debug_assertions)]
        self.check_invariants(shared);
        Ok(())
    }

    fn keep_up(&mut self, shared: &Shared, now: Now, out: &mut Outbox) {
        let committed = *self.commit.committed();
        self.upkeep.scrub_if_due(now, &committed, out);
        if !self.upkeep.is_due(now) {
            return;
        }
        let foldable = if canary::on(Bug::FoldBeyondCommit) {
            self.applied
        } else {
            committed
        };
        let kept = &mut self.moves.kept;
        let bound = kept.checkpoint_bound(&foldable, shared.slots.as_ref(), &self.ledger);
        let horizon_ms = self.ledger.horizon_ms();
        // Users wait for slots that are on their way here.
        let wait_ms = if self.moves.is_taking_in() {
            limits::MOVE_CALM_MS_MAX
        } else {
            0
        };
        let bound = (&bound, wait_ms);
        self.upkeep.tick(now, &committed, bound, horizon_ms, out);
    }

    /// Takes in what became committed.
    fn advance(&mut self, shared: &mut Shared, now: Now, out: &mut Outbox) {
        let mut is_news = false;
        while self.commit.pop_committed().is_some() {
            is_news = true;
        }
        if is_news && self.commit.in_flight_count() == 0 {
            self.gather.committed(now.tick, self.queue.count());
        }
        let committed = self.commit.committed().seq;
        if self.refresh_at.is_some_and(|seq| seq <= committed) {
            self.refresh_at = None;
            if let Some(slots) = &mut shared.slots {
                slots.refresh(&self.ledger);
            }
        }
        match self.stage {
            Stage::Activating(seq) if seq <= committed => {
                self.stage = Stage::Serving;
                let count = shared.slots.as_ref().map_or(0, SlotTable::served_count);
                let text = format!(
                    "serves {count} slots with log {} in term {}",
                    self.verify.log, self.term
                );
                say(out, Level::Info, text);
                out.effect(Effect::Ready);
            }
            Stage::Activating(_) | Stage::AwaitingTable | Stage::Serving | Stage::Stopping(_) => (),
        }
    }

    fn release(&mut self, shared: &Shared, out: &mut Outbox) {
        let committed = self.commit.committed().seq;
        let done = shared.link.round_done();
        self.answers.release(committed, done, &shared.fronts, out);
    }

    /// Begins a round trip if answers wait for one that is not on its way.
    fn confirm(&self, shared: &mut Shared, now: Now, out: &mut Outbox) {
        let needed = self.answers.round_needed();
        let on_its_way = self.commit.pending().back();
        let comes = on_its_way.is_some_and(|block| needed <= block.round);
        if needed <= shared.link.round_done() || comes || shared.link.is_confirming() {
            return;
        }
        if let Some(peer) = shared.link.up() {
            shared.beat(peer, now, self.beat(), out);
        }
    }

    /// The first block of the term: under what the node works, and what it serves.
    fn activate(&mut self, shared: &mut Shared, now: Now, out: &mut Outbox) -> Result<(), Halt> {
        if shared.slots.is_none() || shared.link.up().is_none() {
            return Ok(());
        }
        self.table_changed(shared);
        self.log_own_alone(shared, now, out)?;
        self.stage = Stage::Activating(self.applied.seq);
        Ok(())
    }

    pub(super) fn stop(&mut self, shared: &Shared, now: Now, out: &mut Outbox) {
        match self.stage {
            Stage::AwaitingTable | Stage::Activating(_) | Stage::Serving => {
                shared.fronts.say_goodbye(out);
                self.stage = Stage::Stopping(now.tick.plus_ms(limits::STOP_MS_MAX));
            }
            Stage::Stopping(_) => (),
        }
    }

    /// Ends the process once nothing that was applied is left uncommitted.
    fn stop_turn(
        &mut self,
        until: Tick,
        shared: &mut Shared,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        self.refuse_waiting(shared, now, out)?;
        let left = self.commit.in_flight_count();
        if left != 0 && now.tick < until {
            return Ok(());
        }
        self.release(shared, out);
        let text = match left {
            0 => format!(
                "stopped at block {} of log {}",
                self.applied.seq, self.verify.log
            ),
            _ => format!("stopped with {left} blocks that the backup did not acknowledge"),
        };
        Err(Halt {
            end: End::Exit(ExitCode::Ok),
            text,
        })
    }

    #[cfg(debug_assertions)]
    fn check_invariants(&self, shared: &Shared) {
        let committed = self.commit.committed().seq;
        self.commit.check_invariants(&self.applied);
        self.answers
            .check_invariants(committed, shared.link.round_done());
        self.parked.check_invariants();
        self.queue.check_invariants();
        // (8) The blocks in flight are bounded.
        assert!(self.commit.in_flight_count() <= shared.options.limits.block_in_flight_count_max);
        // (9) The term history ends with the term of the last block.
        assert!(self.terms.last().map_or(Term(0), |last| last.term) == self.applied.term);
    }

    pub(super) fn note_block(&mut self, end: LogEnd) {
        self.applied = end;
        super::reconcile::note_term(&mut self.terms, end.term, end.seq);
    }
}
