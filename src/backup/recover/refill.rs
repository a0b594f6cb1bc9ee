//! One log on its way from its node into the folder of a backup that is made again: checkpoint,
//! then all blocks that the node keeps, byte for byte, each verified as it comes.
//!
//! Asks for one piece at a time. Who is asked, and whether the link stands, is the caller's.

use bytes::Bytes;

use crate::limits;
use crate::log::{SEGMENT_HEADER_SIZE, Verify, blocks};
use crate::model::{LogEnd, LogNumber, LogTime, Seq, Term, TermStart, to_u64, to_usize};
use crate::protocol::{CheckpointPart, Fetch, Fetched, Message};
use crate::role::{DiskRequest, Effect, Outbox};

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The checkpoint is copied: so many bytes are written.
    Checkpoint { offset: u64, is_writing: bool },
    /// The first block is asked for, to learn what it follows.
    Anchor,
    /// The log is being made.
    Creating,
    /// Blocks are copied.
    Blocks,
    /// All is durable.
    Done,
}

/// What the node says that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) verify: Verify,
    pub(super) end: LogEnd,
    pub(super) terms: Vec<TermStart>,
    pub(super) first_offset: u64,
    pub(super) checkpoint_size: u64,
}

/// A log that is being copied.
#[derive(Debug)]
pub(super) struct Refill {
    offer: Offer,
    step: Step,
    /// Where the copy ends.
    end: LogEnd,
    durable_offset: u64,
    attempt_count: u32,
}

impl Refill {
    pub(super) fn new(offer: Offer, out: &mut Outbox) -> Self {
        let mut refill = Self {
            step: Step::Checkpoint {
                offset: 0,
                is_writing: false,
            },
            end: LogEnd::default(),
            durable_offset: 0,
            attempt_count: 1,
            offer,
        };
        if refill.offer.checkpoint_size == 0 {
            refill.begin_log(out);
        }
        refill
    }

    pub(super) const fn offer(&self) -> &Offer {
        &self.offer
    }

    pub(super) const fn is_done(&self) -> bool {
        matches!(self.step, Step::Done)
    }

    const fn log(&self) -> LogNumber {
        self.offer.verify.log
    }

    /// Bytes of the log that are durable here, and of the whole.
    pub(super) const fn progress(&self) -> (u64, u64) {
        let first = self.offer.first_offset;
        let done = self.durable_offset.saturating_sub(first);
        (done, self.offer.end.offset.saturating_sub(first))
    }

    /// What is to be asked for next; nothing while the disk is waited for.
    pub(super) fn next_ask(&self) -> Option<Message<'static>> {
        let fetch = |offset| Fetch {
            log: self.log(),
            offset,
            size_max: limits::FETCH_SIZE_MAX,
        };
        match self.step {
            Step::Checkpoint {
                offset,
                is_writing: false,
            } => Some(Message::CheckpointAsk(fetch(offset))),
            Step::Anchor => Some(Message::Fetch(fetch(
                self.read_offset(self.offer.first_offset),
            ))),
            Step::Blocks => {
                let ahead = self.end.offset.saturating_sub(self.durable_offset);
                let is_due =
                    self.end.seq < self.offer.end.seq && ahead <= limits::FETCH_AHEAD_SIZE_MAX;
                is_due.then(|| Message::Fetch(fetch(self.read_offset(self.end.offset))))
            }
            Step::Checkpoint {
                is_writing: true, ..
            }
            | Step::Creating
            | Step::Done => None,
        }
    }

    /// No block lies in the header of a segment.
    const fn read_offset(&self, offset: u64) -> u64 {
        if offset.is_multiple_of(self.offer.verify.segment_size) {
            offset + SEGMENT_HEADER_SIZE
        } else {
            offset
        }
    }

    /// The checkpoint is here, or there is none.
    fn begin_log(&mut self, out: &mut Outbox) {
        if self.offer.end.offset == self.offer.first_offset {
            self.create(self.offer.end, out);
        } else if self.offer.first_offset < self.offer.verify.segment_size {
            self.create(LogEnd::default(), out);
        } else {
            self.step = Step::Anchor;
        }
    }

    fn create(&mut self, after: LogEnd, out: &mut Outbox) {
        let Verify {
            log,
            cluster,
            segment_size,
        } = self.offer.verify;
        self.step = Step::Creating;
        self.end = after;
        self.durable_offset = after.offset;
        out.effect(Effect::Disk(DiskRequest::CreateLog {
            log,
            cluster,
            segment_size,
            after,
        }));
    }

    pub(super) fn created(&mut self, out: &mut Outbox) {
        let log = self.log();
        self.step = if self.end.seq == self.offer.end.seq {
            Step::Done
        } else {
            let offset = self.end.offset;
            out.effect(Effect::Disk(DiskRequest::PrepareSegment { log, offset }));
            Step::Blocks
        };
    }

    pub(super) fn take_part(
        &mut self,
        part: &CheckpointPart<'_>,
        out: &mut Outbox,
    ) -> Result<(), String> {
        let Step::Checkpoint {
            offset,
            is_writing: false,
        } = self.step
        else {
            return Err("no piece of a checkpoint is due".to_owned());
        };
        let rest = part.size.saturating_sub(offset);
        let fits = !part.bytes.is_empty() && to_u64(part.bytes.len()) <= rest;
        if part.size != self.offer.checkpoint_size || part.offset != offset || !fits {
            return Err("another piece of the checkpoint than was asked for".to_owned());
        }
        self.step = Step::Checkpoint {
            offset: offset + to_u64(part.bytes.len()),
            is_writing: true,
        };
        out.effect(Effect::Disk(DiskRequest::WriteCheckpoint {
            log: self.log(),
            offset,
            bytes: Bytes::copy_from_slice(part.bytes),
            size: part.size,
        }));
        Ok(())
    }

    /// A piece of the checkpoint is written, and more are to come.
    pub(super) const fn part_written(&mut self) {
        if let Step::Checkpoint { is_writing, .. } = &mut self.step {
            *is_writing = false;
        }
    }

    /// The whole checkpoint is durable and verified.
    pub(super) fn checkpoint_written(&mut self, out: &mut Outbox) {
        if let Step::Checkpoint { .. } = self.step {
            self.begin_log(out);
        }
    }

    /// What was copied is no checkpoint: it is copied anew, some times.
    pub(super) fn part_refused(&mut self) -> Result<(), &'static str> {
        if limits::CHECKPOINT_ATTEMPT_COUNT_MAX <= self.attempt_count {
            return Err("its checkpoint does not verify");
        }
        self.attempt_count += 1;
        self.step = Step::Checkpoint {
            offset: 0,
            is_writing: false,
        };
        Ok(())
    }

    pub(super) fn take_blocks(
        &mut self,
        fetched: &Fetched<'_>,
        out: &mut Outbox,
    ) -> Result<(), String> {
        match self.step {
            Step::Anchor => self.anchor(fetched, out),
            Step::Blocks => self.append(fetched, out),
            Step::Checkpoint { .. } | Step::Creating | Step::Done => {
                Err("no blocks are due".to_owned())
            }
        }
    }

    /// The first block that the node keeps says what it follows: there the log begins.
    fn anchor(&mut self, fetched: &Fetched<'_>, out: &mut Outbox) -> Result<(), String> {
        let start = self.offer.first_offset;
        let first = match blocks(fetched.blocks, self.offer.verify).next() {
            Some(Ok(block)) => *block.head(),
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("its first segment has no blocks".to_owned()),
        };
        if first.offset != self.read_offset(start) || first.seq == Seq(0) {
            return Err(format!("its first block lies at {}", first.offset));
        }
        let seq = Seq(first.seq.0 - 1);
        let terms = self.offer.terms.iter().rev();
        let term = terms.clone().find(|term| term.seq <= seq);
        let after = LogEnd {
            seq,
            term: term.map_or(Term(0), |start| start.term),
            chain: first.previous_chain,
            offset: start,
            // Not known and not needed: times are compared from the first block on.
            time: LogTime(0),
        };
        self.create(after, out);
        Ok(())
    }

    fn append(&mut self, fetched: &Fetched<'_>, out: &mut Outbox) -> Result<(), String> {
        let verify = self.offer.verify;
        let log = verify.log;
        let bytes = Bytes::copy_from_slice(fetched.blocks);
        let before = self.end.offset;
        let mut at = 0;
        for block in blocks(&bytes, verify) {
            let block = block.map_err(|error| error.to_string())?;
            block
                .follows(&self.end, verify.segment_size)
                .map_err(|error| error.to_string())?;
            let size = to_usize(u64::from(block.size()));
            self.end = block.end();
            out.effect(Effect::Disk(DiskRequest::Append {
                log,
                block: bytes.slice(at..at + size),
                end: self.end,
            }));
            at += size;
        }
        let goal = &self.offer.end;
        if self.end.offset == before {
            return Err(format!(
                "it has no block at {before}, but ends at {}",
                goal.offset
            ));
        }
        if goal.seq <= self.end.seq && self.end != *goal {
            return Err(format!("block {} is not the one that it named", goal.seq));
        }
        let segment = |offset: u64| offset.checked_div(verify.segment_size);
        if segment(before) != segment(self.end.offset) {
            let offset = self.end.offset;
            out.effect(Effect::Disk(DiskRequest::PrepareSegment { log, offset }));
        }
        Ok(())
    }

    pub(super) fn durable(&mut self, end: &LogEnd) {
        self.durable_offset = end.offset;
        if self.step == Step::Blocks && *end == self.offer.end {
            self.step = Step::Done;
        }
    }
}
