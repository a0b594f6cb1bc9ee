//! The stream of blocks of one log: what may be appended, what is durable, what is acknowledged.
//!
//! Judges each block by itself and keeps the books; it sends nothing and asks the disk for
//! nothing. Who may append at all (connection and term) is decided in `register`.

use std::collections::VecDeque;

use super::moves::Taking;
use super::register::{Fence, Owner};
use super::upkeep::{Replica, Retention, Spare};
use crate::clock::Tick;
use crate::limits::{BACKUP_RECENT_BLOCK_COUNT, BACKUP_TERM_COUNT_MAX, RESEND_MS};
use crate::log::{Block, ChainError};
use crate::model::{LogEnd, LogNumber, NodeId, Seq, Term, TermStart};
use crate::protocol::{Beat, MemberState};
use crate::role::{CheckpointInfo, LogReport, Scrub};

/// A block on its way to the disk.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    seq: Seq,
    size: u64,
}

/// What is to be done with a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on where the log ends: to the disk with it.
    New {
        /// Where the log ends with it.
        end: LogEnd,
    },
    /// It is here already, and equal.
    Repeated,
    /// It should be here already; what is here must be read to tell whether it is equal.
    Unproved,
    /// Blocks before it are missing here.
    Gap,
    /// The disk has no room now; nothing is lost by dropping it.
    NoRoom,
    /// It contradicts what is here.
    Differs(String),
    /// It breaks the rules of a log.
    Broken(String),
}

/// One log of the cluster.
#[derive(Debug)]
pub(super) struct Stream {
    /// Which.
    pub(super) log: LogNumber,
    /// Whose.
    pub(super) node: NodeId,
    /// Bytes of a segment.
    pub(super) segment_size: u64,
    /// What there is of it on the disk.
    pub(super) on_disk: OnDisk,
    /// Offset of the oldest block that is kept.
    pub(super) first_offset: u64,
    /// Where the log ends with what was handed to the disk.
    pub(super) accepted: LogEnd,
    /// Where the log ends with what is durable: all that is ever acknowledged or read.
    pub(super) durable: LogEnd,
    /// Term history by block headers, oldest first.
    pub(super) terms: Vec<TermStart>,
    /// Who may append now.
    pub(super) owner: Option<Owner>,
    /// A registration that waits.
    pub(super) fence: Fence,
    /// The backup takes the log over.
    pub(super) taking: Option<Taking>,
    /// Its node is no member any more: nobody appends, what is here still counts.
    pub(super) retired: bool,
    /// Has its node the log?
    pub(super) presence: Presence,
    /// When the node was last heard, while it does not have the log.
    pub(super) last_heard: Tick,
    /// When its durable end was last found to have gone on.
    pub(super) moved: Tick,
    /// How the member stands, as told to those who follow.
    pub(super) state: MemberState,
    /// The node's figures, and when they came.
    pub(super) beat: Option<(Beat, Tick)>,
    /// The newest checkpoint.
    pub(super) checkpoint: Option<CheckpointInfo>,
    /// The running replica.
    pub(super) replica: Replica,
    /// The spare segment.
    pub(super) spare: Spare,
    /// There was no room for it.
    pub(super) spare_failed: bool,
    /// Checkpoints and what may go.
    pub(super) retention: Retention,
    /// The check of old segments.
    pub(super) scrub: Scrub,
    /// Something is to be said to the owner at the end of the turn.
    pub(super) answer: Answer,
    /// From this block on appends failed for lack of space: nothing is taken until there is room.
    pub(super) full_from: Option<Seq>,
    /// A read of what a block should be equal to is under way.
    pub(super) proving: bool,
    in_flight: VecDeque<InFlight>,
    in_flight_size: u64,
    recent: VecDeque<LogEnd>,
    resend_told: Option<(Seq, Tick)>,
}

/// Has a node its log, as far as this life of the backup has seen?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// Not yet.
    Awaited,
    /// Without a break since then.
    Since(Tick),
    /// It had it.
    Gone,
}

/// What there is of a log on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnDisk {
    /// It is being looked for.
    Opening,
    /// Its tail is being put aside.
    Cutting,
    /// There is none; it is made at the first grant.
    Missing,
    /// It is open.
    Open,
}

/// What the owner of a stream is to be told at the end of the turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// How far everything is durable.
    pub(super) appended: bool,
    /// Where to go on.
    pub(super) resend: bool,
}

impl Stream {
    /// A log that was not looked for on the disk yet.
    pub(super) fn new(log: LogNumber, node: NodeId, segment_size: u64) -> Self {
        Self {
            log,
            node,
            segment_size,
            on_disk: OnDisk::Opening,
            first_offset: 0,
            accepted: LogEnd::default(),
            durable: LogEnd::default(),
            terms: Vec::new(),
            owner: None,
            fence: Fence::Open,
            taking: None,
            retired: false,
            presence: Presence::Awaited,
            last_heard: Tick(0),
            moved: Tick(0),
            state: MemberState::Away,
            beat: None,
            checkpoint: None,
            replica: Replica::default(),
            spare: Spare::Unneeded,
            spare_failed: false,
            retention: Retention::default(),
            scrub: Scrub::new(segment_size.max(1)),
            answer: Answer::default(),
            full_from: None,
            proving: false,
            in_flight: VecDeque::new(),
            in_flight_size: 0,
            recent: VecDeque::new(),
            resend_told: None,
        }
    }

    /// Takes what recovery found. The report was judged.
    pub(super) fn opened(&mut self, report: LogReport) {
        assert!(!self.exists());
        assert!(self.in_flight.is_empty());
        self.on_disk = OnDisk::Open;
        self.segment_size = report.segment_size;
        self.scrub = Scrub::new(report.segment_size);
        self.first_offset = report.first_offset;
        self.accepted = report.end;
        self.durable = report.end;
        self.terms = report.terms;
        self.checkpoint = report.checkpoint;
        self.spare = Spare::Due(Tick(0));
        if report.end.seq != Seq(0) {
            self.recent.push_back(report.end);
        }
    }

    /// Is there a log that can be read?
    pub(super) const fn exists(&self) -> bool {
        matches!(self.on_disk, OnDisk::Cutting | OnDisk::Open)
    }

    /// Does the start wait for this log?
    pub(super) const fn is_opening(&self) -> bool {
        matches!(self.on_disk, OnDisk::Opening | OnDisk::Cutting)
    }

    /// Is nothing on its way to the disk or back?
    pub(super) fn is_quiet(&self) -> bool {
        self.in_flight.is_empty() && !self.is_opening()
    }

    /// Bytes on their way to the disk.
    pub(super) const fn in_flight_size(&self) -> u64 {
        self.in_flight_size
    }

    /// Where the log ends with block `seq`, if that is a recent one.
    pub(super) fn recent_end(&self, seq: Seq) -> Option<&LogEnd> {
        let first = self.recent.front()?.seq.0;
        let index = seq.0.checked_sub(first)?;
        self.recent.get(usize::try_from(index).ok()?)
    }

    /// What is to be done with a verified block of an owner whose term is `term`.
    pub(super) fn judge(&self, block: &Block<'_>, term: Term) -> Verdict {
        let head = block.head();
        if term < head.term {
            return Verdict::Broken(format!(
                "block {} has term {}, above {term}",
                head.seq, head.term
            ));
        }
        if head.seq <= self.accepted.seq {
            return self.judge_overlap(block);
        }
        if self.full_from.is_some() {
            return Verdict::NoRoom;
        }
        match block.follows(&self.accepted, self.segment_size) {
            Ok(()) => Verdict::New { end: block.end() },
            Err(ChainError::Seq { .. }) => Verdict::Gap,
            Err(error @ ChainError::Chain { .. }) => Verdict::Differs(error.to_string()),
            Err(
                error @ (ChainError::Offset { .. }
                | ChainError::Term { .. }
                | ChainError::Time { .. }),
            ) => Verdict::Broken(error.to_string()),
        }
    }

    fn judge_overlap(&self, block: &Block<'_>) -> Verdict {
        let end = block.end();
        match self.recent_end(end.seq) {
            Some(here) if *here == end => Verdict::Repeated,
            Some(here) => Verdict::Differs(format!(
                "block {} of term {} has chain value {:016x}, here it is of term {}, {:016x}",
                end.seq, end.term, end.chain, here.term, here.chain
            )),
            None => Verdict::Unproved,
        }
    }

    /// A block that was judged new goes to the disk. Tells whether it begins a segment.
    pub(super) fn accept(&mut self, end: LogEnd, size: u64) -> bool {
        assert!(end.seq == self.accepted.seq.next());
        assert!(self.accepted.term <= end.term);
        assert!(self.accepted.offset < end.offset);
        assert!(self.full_from.is_none());
        let first_of_segment = self.segment_of(end.offset - size)
            != self.segment_of(self.accepted.offset.saturating_sub(1))
            || self.accepted.seq == Seq(0);
        if self.terms.last().is_none_or(|last| last.term < end.term) {
            self.terms.push(TermStart {
                term: end.term,
                seq: end.seq,
            });
            if BACKUP_TERM_COUNT_MAX < self.terms.len() {
                self.terms.remove(0);
            }
        }
        self.in_flight.push_back(InFlight { seq: end.seq, size });
        self.in_flight_size += size;
        if self.recent.len() == BACKUP_RECENT_BLOCK_COUNT {
            self.recent.pop_front();
        }
        self.recent.push_back(end);
        self.accepted = end;
        self.resend_told = None;
        first_of_segment
    }

    /// The disk made everything up to `end` durable. `false`: that was never handed to it.
    pub(super) fn on_durable(&mut self, end: LogEnd) -> bool {
        if self.recent_end(end.seq) != Some(&end) || end.seq <= self.durable.seq {
            return false;
        }
        if self.full_from.is_some_and(|failed| failed <= end.seq) {
            return false;
        }
        while let Some(first) = self.in_flight.front().copied() {
            if end.seq < first.seq {
                break;
            }
            self.in_flight.pop_front();
            self.in_flight_size -= first.size;
        }
        self.durable = end;
        self.answer.appended = true;
        self.settle();
        true
    }

    /// The disk had no room for block `seq` and changed nothing.
    pub(super) fn on_no_room(&mut self, seq: Seq) {
        self.full_from = Some(self.full_from.map_or(seq, |failed| failed.min(seq)));
        if let Some(at) = self.in_flight.iter().position(|block| block.seq == seq) {
            let block = self.in_flight.remove(at).expect("it was just found");
            self.in_flight_size -= block.size;
        }
        self.settle();
    }

    /// Once the disk has answered for all blocks, those that it could not take were never here.
    fn settle(&mut self) {
        let failed = self.full_from.is_some() && self.in_flight.is_empty();
        if !failed || self.accepted == self.durable {
            return;
        }
        let durable = self.durable;
        self.recent.retain(|end| end.seq <= durable.seq);
        self.terms.retain(|start| start.seq <= durable.seq);
        self.accepted = durable;
        self.answer.resend = true;
    }

    /// There is room again.
    pub(super) fn on_room(&mut self) {
        if self.full_from.is_some() && self.in_flight.is_empty() {
            assert!(self.accepted == self.durable);
            self.full_from = None;
            self.answer.resend = true;
        }
    }

    /// Blocks are missing: the owner is to be told where to go on, but not again and again.
    pub(super) fn demand(&mut self, now: Tick) {
        let told = self
            .resend_told
            .is_some_and(|(seq, at)| seq == self.accepted.seq && now < at.plus_ms(RESEND_MS));
        if !told {
            self.resend_told = Some((self.accepted.seq, now));
            self.answer.resend = true;
        }
    }

    /// A new owner: nothing was said to it yet.
    pub(super) fn begin_answers(&mut self) {
        self.answer = Answer::default();
        self.resend_told = None;
    }

    /// Number of the segment that `offset` lies in.
    pub(super) const fn segment_of(&self, offset: u64) -> u64 {
        offset / self.segment_size
    }

    /// Panics where the books do not add up. Numbers as in `Backup::check_invariants`.
    #[cfg(debug_assertions)]
    pub(super) fn check_invariants(&self) {
        // (1) Only what was accepted is durable; what lies between is on its way.
        assert!(self.durable.seq <= self.accepted.seq, "(1)");
        assert!(self.durable.offset <= self.accepted.offset, "(1)");
        if self.full_from.is_some() {
            assert!(
                self.in_flight.len() as u64 <= self.accepted.seq.0 - self.durable.seq.0,
                "(1)"
            );
        } else {
            let between = self.accepted.seq.0 - self.durable.seq.0;
            assert!(self.in_flight.len() as u64 == between, "(1)");
        }
        // (2) The bytes on their way are those of the blocks on their way.
        let size: u64 = self.in_flight.iter().map(|block| block.size).sum();
        assert!(size == self.in_flight_size, "(2)");
        // (3) The recent ends are gapless and reach to the end.
        if let Some(last) = self.recent.back() {
            assert!(*last == self.accepted, "(3)");
        }
        let pairs = self.recent.iter().zip(self.recent.iter().skip(1));
        for (end, next) in pairs {
            assert!(end.seq.next() == next.seq, "(3)");
            assert!(end.term <= next.term, "(3)");
        }
        // (4) Terms and their beginnings rise together, up to the last block's.
        for (start, next) in self.terms.iter().zip(self.terms.iter().skip(1)) {
            assert!(start.term < next.term && start.seq < next.seq, "(4)");
        }
        if let Some(last) = self.terms.last() {
            assert!(last.term <= self.accepted.term, "(4)");
        }
    }
}
