//! Reading: whole blocks from an offset on, and single entries by place.
//!
//! Everything is copied out of the maps and verified before it is handed on, except what
//! [`Log::recent_entry`] returns, which its caller proves.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{ENTRY_SIZE, Log, LogError, Place, Segment, block_offsets, split_offset, to_usize};
use crate::log::SEGMENT_HEADER_SIZE;
use crate::log::block::{BLOCK_HEADER_SIZE, BLOCK_MAGIC, Block, BlockError, BlockHead};
use crate::log::segment::BLOCK_SIZE_MAX;
use crate::model::to_u64;

/// Bytes looked at, at a time, when the header of a block is searched for.
const STEP_SIZE: u64 = 64 << 10;

/// A run of bytes of one segment with blocks in it.
struct Run {
    segment: Arc<Segment>,
    /// Offset in the log of the first block.
    from: u64,
    /// Offset in the log behind the last byte that may be read.
    to: u64,
}

impl Log {
    /// Whole, verified blocks from `offset` on, of one segment, at most `size_max` bytes but at
    /// least one block, nothing that reaches behind `below` or the durable end. Also the offset of
    /// the first one (of the request if there is none).
    ///
    /// `offset` is the start of a block or the end of one; in the rest of a segment that the next
    /// block did not fit in, the next segment's blocks come.
    pub fn read_blocks(
        &self,
        offset: u64,
        below: u64,
        size_max: u32,
    ) -> Result<(u64, Bytes), LogError> {
        let Some(run) = self.run(offset, below)? else {
            return Ok((offset, Bytes::new()));
        };
        let all = run.to - run.from;
        let mut header = [0; BLOCK_HEADER_SIZE];
        if all < to_u64(header.len()) {
            return Ok((offset, Bytes::new()));
        }
        run.segment.read(run.from, &mut header)?;
        let head = BlockHead::read(&header, &self.verify).map_err(|error| {
            LogError::Damage(format!("{} at offset {}: {error}", self.dir, run.from))
        })?;
        let size = all.min(u64::from(head.size.max(size_max)));
        let mut bytes = BytesMut::zeroed(to_usize(size));
        run.segment.read(run.from, &mut bytes)?;
        let whole = self.whole_blocks(&bytes, run.from)?;
        bytes.truncate(whole);
        Ok(match whole {
            0 => (offset, Bytes::new()),
            _ => (run.from, bytes.freeze()),
        })
    }

    /// Reads the blocks from `offset` on from the device itself, at most `size_max` bytes but at
    /// least one block, nothing at or behind `below`, and verifies them. Only for what is sealed:
    /// every byte up to the end of a segment's last block must be part of a block.
    pub fn scrub(&self, offset: u64, below: u64, size_max: u32) -> Result<(u64, Bytes), LogError> {
        let Some(run) = self.run(offset, below)? else {
            return Ok((offset, Bytes::new()));
        };
        let all = run.to - run.from;
        let size = all.min(u64::from(size_max).max(to_u64(BLOCK_SIZE_MAX)));
        let mut bytes = BytesMut::zeroed(to_usize(size));
        run.segment.read_from_device(run.from, &mut bytes)?;
        let whole = self.whole_blocks(&bytes, run.from)?;
        if whole == 0 || (size == all && whole != bytes.len()) {
            let at = run.from + to_u64(whole);
            let dir = &self.dir;
            return Err(LogError::Damage(format!(
                "{dir} at offset {at}: a block reaches behind the last one"
            )));
        }
        bytes.truncate(whole);
        Ok((run.from, bytes.freeze()))
    }

    /// Where to read for blocks from `offset` on.
    fn run(&self, offset: u64, below: u64) -> Result<Option<Run>, LogError> {
        let size = self.verify.segment_size;
        let state = self.state();
        let first = state.base.after.offset;
        if offset < first {
            return Err(LogError::Wrong(format!(
                "offset {offset} of {} is retired, {first} is the first",
                self.dir
            )));
        }
        let below = below.min(state.end.offset);
        let (mut from, mut next) = block_offsets(offset, size);
        while from < below {
            let (number, _) = split_offset(from, size);
            if let Some(span) = state.spans.get(&number)
                && from < span.offset
            {
                let segment = state.segments.get(&number).ok_or_else(|| {
                    LogError::Damage(format!("segment {number:016x} of {} is gone", self.dir))
                })?;
                return Ok(Some(Run {
                    segment: Arc::clone(segment),
                    from,
                    to: span.offset.min(below),
                }));
            }
            from = next;
            next += size;
        }
        Ok(None)
    }

    /// Bytes of the whole blocks at the start of `bytes`; 0 if the first one is cut off.
    fn whole_blocks(&self, bytes: &[u8], from: u64) -> Result<usize, LogError> {
        let mut whole = 0;
        let mut last = None;
        loop {
            let offset = from + to_u64(whole);
            let damage =
                |what: &str| LogError::Damage(format!("{} at offset {offset}: {what}", self.dir));
            let block = match Block::read(&bytes[whole..], &self.verify) {
                Ok(Some(block)) => block,
                Ok(None) if whole < bytes.len() => {
                    return Err(damage("nothing is there"));
                }
                Ok(None) | Err(BlockError::Short { .. }) => return Ok(whole),
                Err(error) => return Err(damage(&error.to_string())),
            };
            if block.first_offset() != offset {
                return Err(damage("a block of elsewhere lies there"));
            }
            if let Some(last) = last {
                block
                    .follows(&last, self.verify.segment_size)
                    .map_err(|error| damage(&error.to_string()))?;
            }
            last = Some(block.end());
            whole += to_usize(u64::from(block.size()));
        }
    }

    /// The entry at `place`, its whole block verified. `None`: it is not kept here, or not durable
    /// yet, or no entry lies there.
    pub fn read_entry(&self, place: Place) -> Result<Option<[u8; ENTRY_SIZE]>, LogError> {
        let offset = place.offset();
        let whole = offset.is_multiple_of(to_u64(ENTRY_SIZE));
        if place.log() != Some(self.verify.log) || !whole {
            return Ok(None);
        }
        let (number, at) = split_offset(offset, self.verify.segment_size);
        if at < SEGMENT_HEADER_SIZE {
            return Ok(None);
        }
        let (segment, span) = {
            let state = self.state();
            let span = state.spans.get(&number).map_or(0, |span| span.offset);
            (state.segments.get(&number).map(Arc::clone), span)
        };
        let Some(segment) = segment.filter(|_| offset < span) else {
            return Ok(None);
        };
        let mut line = [0; ENTRY_SIZE];
        segment.read(offset, &mut line)?;
        if line.starts_with(&BLOCK_MAGIC) {
            return Ok(None);
        }
        let Some(header) = find_header(&segment, offset)? else {
            return Err(LogError::Damage(format!(
                "{} at offset {offset}: no block holds it",
                self.dir
            )));
        };
        let mut bytes = vec![0; to_usize(span - header).min(BLOCK_SIZE_MAX)];
        segment.read(header, &mut bytes)?;
        let block = Block::read(&bytes, &self.verify)
            .ok()
            .flatten()
            .filter(|block| block.first_offset() == header)
            .ok_or_else(|| {
                LogError::Damage(format!(
                    "{} at offset {header}: block does not verify",
                    self.dir
                ))
            })?;
        let found = block.entries().find(|(found, _, _)| *found == place);
        Ok(found.map(|(_, _, entry)| *entry))
    }

    /// The bytes at `place` if it lies in one of the last two segments that have blocks. They are
    /// not verified, and those that were not appended yet may come back as anything.
    #[must_use]
    pub fn recent_entry(&self, place: Place) -> Option<[u8; ENTRY_SIZE]> {
        let offset = place.offset();
        let size = self.verify.segment_size;
        let (number, at) = split_offset(offset, size);
        let segment = {
            let state = self.state();
            let (last, _) = split_offset(block_offsets(state.end.offset, size).0, size);
            let recent = last.saturating_sub(1)..=last + 1;
            let here = recent.contains(&number) && place.log() == Some(self.verify.log);
            state.segments.get(&number).filter(|_| here).map(Arc::clone)
        }?;
        if at < SEGMENT_HEADER_SIZE || size < at + to_u64(ENTRY_SIZE) {
            return None;
        }
        let mut entry = [0; ENTRY_SIZE];
        segment.read(offset, &mut entry).ok()?;
        Some(entry)
    }
}

/// Offset of the header nearest before `offset`: no entry begins with a header's first byte.
fn find_header(segment: &Segment, offset: u64) -> Result<Option<u64>, LogError> {
    let [mark, ..] = BLOCK_MAGIC;
    let line = to_u64(ENTRY_SIZE);
    let lowest =
        (segment.start() + SEGMENT_HEADER_SIZE).max(offset.saturating_sub(to_u64(BLOCK_SIZE_MAX)));
    let mut to = offset;
    while lowest < to {
        let from = to.saturating_sub(STEP_SIZE).max(lowest);
        let mut bytes = vec![0; to_usize(to - from)];
        segment.read(from, &mut bytes)?;
        let (lines, _) = bytes.as_chunks::<ENTRY_SIZE>();
        if let Some(index) = lines.iter().rposition(|line| line[0] == mark) {
            return Ok(Some(from + to_u64(index) * line));
        }
        to = from;
    }
    Ok(None)
}
