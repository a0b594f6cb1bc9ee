//! Sends blocks to the backup: each once as it is built, and again where the backup asks.
//!
//! What is in memory is sent from there; an older tail is read back from the own log, one piece
//! at a time, each when the one before was acknowledged.

use bytes::Bytes;

use crate::canary::{self, Bug};
use crate::limits;
use crate::log::{Verify, blocks};
use crate::model::{LogEnd, LogNumber, Seq, Term, to_usize};
use crate::protocol::{Append, write_append_head};
use crate::role::{DiskRequest, Effect, Outbox, PeerId};

use super::commit::Commit;
use super::restore::read_offset;
use super::shared::Halt;

/// Ticket of reads for the backup.
pub(super) const TICKET: u64 = 0;

/// How far the backup was sent the log on the present connection.
#[derive(Debug)]
pub(super) struct Replicate {
    log: LogNumber,
    term: Term,
    /// The last block that was sent, and the offset behind it.
    sent: Position,
    /// A piece of the own log is being read.
    is_reading: bool,
    segment_size: u64,
}

#[derive(Clone, Copy, Debug)]
struct Position {
    seq: Seq,
    offset: u64,
}

impl From<&LogEnd> for Position {
    fn from(end: &LogEnd) -> Self {
        Self {
            seq: end.seq,
            offset: end.offset,
        }
    }
}

impl Replicate {
    /// The backup's copy ends at `end`.
    pub(super) fn new(verify: &Verify, term: Term, end: &LogEnd) -> Self {
        Self {
            log: verify.log,
            term,
            segment_size: verify.segment_size,
            sent: end.into(),
            is_reading: false,
        }
    }

    /// The backup's copy ends at `end`: everything behind it is sent (again).
    pub(super) fn rewind(&mut self, end: &LogEnd) {
        self.sent = end.into();
        if canary::on(Bug::ResendSkips) {
            self.sent.seq = end.seq.next();
        }
    }

    /// Sends what was not sent yet, as far as that goes.
    pub(super) fn pump(
        &mut self,
        peer: PeerId,
        commit: &Commit,
        applied: &LogEnd,
        out: &mut Outbox,
    ) {
        let first = commit.pending().front();
        let memory_begins = first.map_or(applied.seq.next(), |block| block.end.seq);
        if self.sent.seq.next() < memory_begins {
            let below = first.map_or(applied.offset, |block| block.offset);
            self.read_on(commit, below, out);
            return;
        }
        for block in commit.pending() {
            if self.sent.seq < block.end.seq {
                self.send(peer, commit.committed().seq, &block.bytes, &block.end, out);
            }
        }
    }

    fn read_on(&mut self, commit: &Commit, below: u64, out: &mut Outbox) {
        if self.is_reading || commit.acked() < self.sent.seq {
            return;
        }
        self.is_reading = true;
        out.effect(Effect::Disk(DiskRequest::ReadBlocks {
            log: self.log,
            offset: read_offset(self.sent.offset, self.segment_size),
            below,
            size_max: limits::FETCH_SIZE_MAX,
            ticket: TICKET,
        }));
    }

    /// Sends what was read from the own log, as far as it goes on from what was sent.
    pub(super) fn read_done(
        &mut self,
        peer: Option<PeerId>,
        read: &Bytes,
        verify: Verify,
        commit: &Commit,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        self.is_reading = false;
        let Some(peer) = peer else {
            return Ok(());
        };
        let log = self.log;
        let mut at = 0;
        for block in blocks(read, verify) {
            let block = block.map_err(|error| Halt::damage(format!("log {log}: {error}")))?;
            let end = block.end();
            let size = to_usize(u64::from(block.size()));
            if end.seq == self.sent.seq.next() {
                let bytes = read.slice(at..at + size);
                self.send(peer, commit.committed().seq, &bytes, &end, out);
            }
            at += size;
        }
        Ok(())
    }

    fn send(
        &mut self,
        peer: PeerId,
        committed: Seq,
        block: &Bytes,
        end: &LogEnd,
        out: &mut Outbox,
    ) {
        assert!(self.sent.seq.next() == end.seq);
        let append = Append {
            log: self.log,
            term: self.term,
            committed,
            block,
        };
        write_append_head(out.buffer(peer), &append);
        out.share(peer, block.clone());
        self.sent = end.into();
    }
}
