//! What was applied but is not committed, and the answers that wait for it.
//!
//! A block is committed when it is durable here and the backup acknowledged it in this node's
//! term. An answer leaves when the last block applied before it was made is committed and, where
//! it needs one, a round trip to the backup that began after its question has come back.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::canary::{self, Bug};
use crate::limits::ANSWER_BUFFER_KEPT_COUNT;
use crate::log::BLOCK_HEADER_SIZE;
use crate::model::{ENTRY_SIZE, LogEnd, Place, Seq, to_u64, to_usize};
use crate::role::{Outbox, PeerId};

use super::fronts::Fronts;

/// A block that was applied and is not committed.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// Offset of its header.
    pub(super) offset: u64,
    pub(super) end: LogEnd,
    pub(super) bytes: Bytes,
    /// The round trip to the backup that its first sending begins.
    pub(super) round: u64,
}

impl Pending {
    fn entry(&self, place: Place) -> Option<[u8; ENTRY_SIZE]> {
        let at = place.offset().checked_sub(self.offset)?;
        let is_line = at.is_multiple_of(to_u64(ENTRY_SIZE)) && to_u64(BLOCK_HEADER_SIZE) <= at;
        let rest = self.bytes.get(to_usize(at)..).filter(|_| is_line)?;
        rest.first_chunk().copied()
    }
}

/// The blocks between committed and applied, and how far disk and backup are.
#[derive(Debug)]
pub(super) struct Commit {
    /// Oldest first; consecutive, the last one is the last that was applied.
    pending: VecDeque<Pending>,
    /// Last block that is durable here.
    durable: Seq,
    /// Last block that the backup acknowledged in this node's term.
    acked: Seq,
    /// Where the log is committed.
    committed: LogEnd,
}

impl Commit {
    /// `applied` is durable here; the backup holds the log up to `backed_up`, which is part of it.
    pub(super) fn new(applied: Seq, backed_up: LogEnd) -> Self {
        assert!(backed_up.seq <= applied);
        Self {
            pending: VecDeque::new(),
            durable: applied,
            acked: backed_up.seq,
            committed: backed_up,
        }
    }

    pub(super) const fn committed(&self) -> &LogEnd {
        &self.committed
    }

    pub(super) const fn acked(&self) -> Seq {
        self.acked
    }

    pub(super) const fn pending(&self) -> &VecDeque<Pending> {
        &self.pending
    }

    /// What is applied and not durable here.
    pub(super) fn not_durable(&self) -> impl Iterator<Item = &Pending> {
        let durable = self.durable;
        self.pending
            .iter()
            .filter(move |block| durable < block.end.seq)
    }

    pub(super) fn in_flight_count(&self) -> u32 {
        u32::try_from(self.pending.len()).expect("bounded by the limit of blocks in flight")
    }

    pub(super) fn push(&mut self, block: Pending) {
        if let Some(last) = self.pending.back() {
            assert!(block.end.seq == last.end.seq.next());
        }
        self.pending.push_back(block);
    }

    /// The disk made everything up to `seq` durable.
    pub(super) fn durable(&mut self, seq: Seq) {
        self.durable = self.durable.max(seq);
    }

    /// The backup acknowledged everything up to `seq` in this node's term. The round trip that
    /// came back with it, if one did.
    pub(super) fn acked_through(&mut self, seq: Seq) -> Option<u64> {
        self.acked = self.acked.max(seq);
        let newest = self.pending.iter().rev().find(|block| block.end.seq <= seq);
        newest.map(|block| block.round)
    }

    /// Takes the next block that became committed. Asked until `None`.
    pub(super) fn pop_committed(&mut self) -> Option<LogEnd> {
        let next = self.pending.front()?.end;
        let through = if canary::on(Bug::AnswerBeforeSync) {
            self.acked
        } else if canary::on(Bug::AnswerBeforeBackup) {
            self.durable
        } else {
            self.durable.min(self.acked)
        };
        if through < next.seq {
            return None;
        }
        self.pending.pop_front();
        self.committed = next;
        Some(next)
    }

    /// The entry at `place`, if that lies in a block that is not committed yet.
    pub(super) fn entry(&self, place: Place) -> Option<[u8; ENTRY_SIZE]> {
        self.block_of(place)?.entry(place)
    }

    /// The number of the uncommitted block in which `place` lies; `None` = committed.
    pub(super) fn seq_of(&self, place: Place) -> Option<Seq> {
        self.block_of(place).map(|block| block.end.seq)
    }

    fn block_of(&self, place: Place) -> Option<&Pending> {
        let behind = self
            .pending
            .partition_point(|block| block.end.offset <= place.offset());
        let block = self.pending.get(behind)?;
        (block.offset <= place.offset()).then_some(block)
    }

    /// The end of block `seq`, if it is known: it is uncommitted, or the last committed one.
    pub(super) fn end_of(&self, seq: Seq) -> Option<LogEnd> {
        if seq == self.committed.seq {
            return Some(self.committed);
        }
        let found = self.pending.iter().find(|block| block.end.seq == seq);
        found.map(|block| block.end)
    }

    #[cfg(debug_assertions)]
    pub(super) fn check_invariants(&self, applied: &LogEnd) {
        // (1) What is committed is durable on both sides.
        assert!(self.committed.seq <= self.durable);
        assert!(self.committed.seq <= self.acked);
        // (2) Nothing is durable or acknowledged that was not applied.
        assert!(self.durable <= applied.seq);
        assert!(self.acked <= applied.seq);
        // (3) The blocks in flight are consecutive and end with the applied one.
        let mut time = crate::model::LogTime(0);
        for (block, next) in self.pending.iter().zip(self.pending.iter().skip(1)) {
            assert!(block.end.seq.next() == next.end.seq);
            assert!(block.end.offset <= next.offset);
            assert!(time < next.end.time);
            time = block.end.time;
        }
        if let Some(last) = self.pending.back() {
            assert!(last.end == *applied);
        }
    }
}

/// When an answer may leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wait {
    /// This block is committed; 0 = needs none.
    pub(super) seq: Seq,
    /// This round trip came back, or a later one; 0 = needs none.
    pub(super) round: u64,
}

impl Wait {
    /// Both have to be met.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            seq: self.seq.max(other.seq),
            round: self.round.max(other.round),
        }
    }
}

/// Answers with the same condition.
#[derive(Debug)]
struct Group {
    wait: Wait,
    buffers: Vec<(PeerId, BytesMut)>,
}

/// Answers that wait.
#[derive(Debug, Default)]
pub(super) struct Answers {
    groups: VecDeque<Group>,
    size: u64,
    pool: Vec<BytesMut>,
}

impl Answers {
    /// Appends frames for `peer` by `write`, to leave once `wait` is met.
    pub(super) fn write(&mut self, wait: Wait, peer: PeerId, write: impl FnOnce(&mut BytesMut)) {
        let found = self.groups.iter().rposition(|group| group.wait == wait);
        let index = found.unwrap_or_else(|| {
            self.groups.push_back(Group {
                wait,
                buffers: Vec::new(),
            });
            self.groups.len() - 1
        });
        let buffers = &mut self.groups[index].buffers;
        let found = buffers.iter().position(|(to, _)| *to == peer);
        let at = found.unwrap_or_else(|| {
            buffers.push((peer, self.pool.pop().unwrap_or_default()));
            buffers.len() - 1
        });
        let buffer = &mut buffers[at].1;
        let before = buffer.len();
        write(buffer);
        self.size += to_u64(buffer.len() - before);
    }

    /// Bytes that wait.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// The highest round trip that any answer needs; 0 = none.
    pub(super) fn round_needed(&self) -> u64 {
        let rounds = self.groups.iter().map(|group| group.wait.round);
        rounds.max().unwrap_or_default()
    }

    /// Lets go what may leave, in the order of its making. What is for a closed peer is dropped.
    pub(super) fn release(
        &mut self,
        committed: Seq,
        round_done: u64,
        fronts: &Fronts,
        out: &mut Outbox,
    ) {
        let mut index = 0;
        while let Some(group) = self.groups.get(index) {
            if committed < group.wait.seq || round_done < group.wait.round {
                index += 1;
                continue;
            }
            let group = self.groups.remove(index).expect("it was looked at");
            for (peer, mut buffer) in group.buffers {
                self.size -= to_u64(buffer.len());
                if fronts.is_open(peer) {
                    move_into(out.buffer(peer), &mut buffer);
                }
                buffer.clear();
                if self.pool.len() < ANSWER_BUFFER_KEPT_COUNT {
                    self.pool.push(buffer);
                }
            }
        }
    }

    #[cfg(debug_assertions)]
    pub(super) fn check_invariants(&self, committed: Seq, round_done: u64) {
        // (4) No answer waits for what is there.
        for group in &self.groups {
            assert!(committed < group.wait.seq || round_done < group.wait.round);
        }
        // (5) The size is that of the buffers.
        let buffers = self.groups.iter().flat_map(|group| &group.buffers);
        assert!(self.size == buffers.map(|(_, buffer)| to_u64(buffer.len())).sum::<u64>());
    }
}

/// Moves bytes without copying them where the target is empty: the buffers change places.
fn move_into(target: &mut BytesMut, source: &mut BytesMut) {
    if target.is_empty() {
        std::mem::swap(target, source);
    } else {
        target.extend_from_slice(source);
    }
}
