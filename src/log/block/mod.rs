//! The block: header and entries of one turn, the unit of checksum, sync and replication.
//!
//! Builds blocks in pooled buffers and reads them back into views that are verified once. Knows
//! where a block may lie; knows neither files nor what an entry means.
#![deny(clippy::indexing_slicing)]

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::limits::{BLOCK_ENTRY_COUNT_MAX, SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN};
use crate::model::{ClusterId, ENTRY_SIZE, LogEnd, LogNumber, LogTime, Place, Seq, Term, to_usize};

use super::SEGMENT_HEADER_SIZE;

mod build;

pub use build::{BlockBuilder, BlockSpec};

/// Bytes of a block's header; the same as of an entry, so that every line is as long.
pub const BLOCK_HEADER_SIZE: usize = 128;

/// First four bytes of a block. The first one is no kind of an entry.
pub(super) const BLOCK_MAGIC: [u8; 4] = [0xcf, b'B', b'L', b'1'];

const VERSION: u16 = 1;

const MAGIC_AT: usize = 0;
pub(super) const CRC_AT: usize = MAGIC_AT + size_of::<u32>();
const LENGTH_AT: usize = CRC_AT + size_of::<u32>();
const COUNT_AT: usize = LENGTH_AT + size_of::<u32>();
const TERM_AT: usize = COUNT_AT + size_of::<u32>();
const SEQ_AT: usize = TERM_AT + size_of::<u64>();
const LOG_AT: usize = SEQ_AT + size_of::<u64>();
const VERSION_AT: usize = LOG_AT + size_of::<u16>();
const FLAGS_AT: usize = VERSION_AT + size_of::<u16>();
const SEGMENT_AT: usize = FLAGS_AT + size_of::<u32>();
const OFFSET_AT: usize = SEGMENT_AT + size_of::<u64>();
const PREVIOUS_CHAIN_AT: usize = OFFSET_AT + size_of::<u64>();
const TIME_AT: usize = PREVIOUS_CHAIN_AT + size_of::<u64>();
const COMMITTED_AT: usize = TIME_AT + size_of::<u64>();
const RESERVED_AT: usize = COMMITTED_AT + size_of::<u64>();
const RESERVED_SIZE: usize = 48;
const _: () = assert!(RESERVED_AT + RESERVED_SIZE == BLOCK_HEADER_SIZE);
const _: () = assert!(BLOCK_HEADER_SIZE == ENTRY_SIZE);
const _: () = assert!((BLOCK_ENTRY_COUNT_MAX as usize + 1) * ENTRY_SIZE <= u32::MAX as usize);

const BLOCK_SIZE_MAX: u64 = (BLOCK_ENTRY_COUNT_MAX as u64 + 1) * ENTRY_SIZE as u64;
const _: () = assert!(BLOCK_SIZE_MAX + SEGMENT_HEADER_SIZE <= SEGMENT_SIZE_MIN);

/// What a reader knows about the log that bytes should belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verify {
    /// The log.
    pub log: LogNumber,
    /// Whose it is.
    pub cluster: ClusterId,
    /// Bytes of its segments.
    pub segment_size: u64,
}

/// What a verified header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHead {
    /// The log.
    pub log: LogNumber,
    /// Term of the writer.
    pub term: Term,
    /// Number of the block.
    pub seq: Seq,
    /// The segment that it lies in.
    pub segment: u64,
    /// Offset of the header in the log.
    pub offset: u64,
    /// Bytes of the whole block.
    pub size: u32,
    /// Entries in it.
    pub entry_count: u32,
    /// Chain value of the block before; 0 for the first.
    pub previous_chain: u64,
    /// Log time of the first entry; each next one has 1 ns more.
    pub time: LogTime,
    /// The highest block that the writer knew to be committed.
    pub committed: Seq,
}

/// Why bytes are not a block of this log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// They do not start like a block.
    #[error("no block begins here")]
    Magic,
    /// Fewer bytes than the block has, or than a header has.
    #[error("block of {needed} bytes is cut off")]
    Short {
        /// Bytes of the whole block.
        needed: u32,
    },
    /// A header field has a value that no writer writes.
    #[error("field at byte {0} of the block header is out of range")]
    Field(usize),
    /// The checksum does not fit.
    #[error("checksum of the block does not match")]
    Crc,
}

/// Why a sound block does not go on where a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Another number is due.
    #[error("block {found} where {expected} is due")]
    Seq {
        /// What the block says.
        found: Seq,
        /// What is due.
        expected: Seq,
    },
    /// It goes on from other blocks than those that are here.
    #[error("block {seq} goes on from a block with chain value {found:016x}, not {expected:016x}")]
    Chain {
        /// The block.
        seq: Seq,
        /// What the block says.
        found: u64,
        /// Of the last block here.
        expected: u64,
    },
    /// It lies where it cannot lie.
    #[error("block {seq} lies at offset {offset}")]
    Offset {
        /// The block.
        seq: Seq,
        /// Where it says it lies.
        offset: u64,
    },
    /// Its term is lower than that of the block before.
    #[error("term falls to {term} with block {seq}")]
    Term {
        /// The block.
        seq: Seq,
        /// Its term.
        term: Term,
    },
    /// Log time does not rise.
    #[error("log time does not rise with block {seq}")]
    Time {
        /// The block.
        seq: Seq,
    },
}

/// A block whose checksum and bounds were verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<'a> {
    head: BlockHead,
    header: &'a [u8; BLOCK_HEADER_SIZE],
    entries: &'a [[u8; ENTRY_SIZE]],
}

impl<'a> Block<'a> {
    /// Verifies the block at the start of `bytes`; what follows it is not looked at.
    ///
    /// `None`: there is nothing: no bytes, or a header of zeros. Whether the block lies where it
    /// should is the caller's test: [`Self::follows`], or its offset.
    pub fn read(bytes: &'a [u8], verify: &Verify) -> Result<Option<Self>, BlockError> {
        let Some((header, rest)) = bytes.split_first_chunk::<BLOCK_HEADER_SIZE>() else {
            return match bytes {
                [] => Ok(None),
                _ => Err(BlockError::Short { needed: SHORTEST }),
            };
        };
        if *header == [0; BLOCK_HEADER_SIZE] {
            return Ok(None);
        }
        let head = BlockHead::read(header, verify)?;
        let body_size = to_usize(u64::from(head.size)) - BLOCK_HEADER_SIZE;
        let Some(body) = rest.get(..body_size) else {
            return Err(BlockError::Short { needed: head.size });
        };
        if crc_of(header, body, verify, head.segment) != u32_at(header, CRC_AT) {
            return Err(BlockError::Crc);
        }
        let (entries, none) = body.as_chunks::<ENTRY_SIZE>();
        assert!(none.is_empty(), "the length was tested against the count");
        Ok(Some(Self {
            head,
            header,
            entries,
        }))
    }

    /// What its header says.
    #[must_use]
    pub const fn head(&self) -> &BlockHead {
        &self.head
    }

    /// Where the log ends with it.
    #[must_use]
    pub fn end(&self) -> LogEnd {
        self.head.end(self.header)
    }

    /// Offset of its header in the log.
    #[must_use]
    pub const fn first_offset(&self) -> u64 {
        self.head.offset
    }

    /// Bytes of it, header included.
    #[must_use]
    pub const fn size(&self) -> u32 {
        self.head.size
    }

    /// The bytes of its entries, in order.
    #[must_use]
    pub const fn records(&self) -> &'a [[u8; ENTRY_SIZE]] {
        self.entries
    }

    /// Its entries in order, each with its place and log time.
    #[must_use]
    pub fn entries(&self) -> Entries<'a> {
        Entries {
            place: Place::new(self.head.log, self.head.offset + HEADER_SIZE),
            time: self.head.time,
            rest: self.entries.iter(),
        }
    }

    /// Does it go on where a log ends with `after`?
    pub fn follows(&self, after: &LogEnd, segment_size: u64) -> Result<(), ChainError> {
        self.head.follows(after, segment_size)
    }
}

const HEADER_SIZE: u64 = BLOCK_HEADER_SIZE as u64;
#[expect(clippy::cast_possible_truncation, reason = "256")]
const SHORTEST: u32 = (BLOCK_HEADER_SIZE + ENTRY_SIZE) as u32;

impl BlockHead {
    /// Reads a header alone: bounds and position, not the checksum.
    pub(crate) fn read(
        header: &[u8; BLOCK_HEADER_SIZE],
        verify: &Verify,
    ) -> Result<Self, BlockError> {
        if !header.starts_with(&BLOCK_MAGIC) {
            return Err(BlockError::Magic);
        }
        let (size, entry_count) = (u32_at(header, LENGTH_AT), u32_at(header, COUNT_AT));
        if entry_count == 0 || BLOCK_ENTRY_COUNT_MAX < entry_count {
            return Err(BlockError::Field(COUNT_AT));
        }
        if size != block_size(entry_count) {
            return Err(BlockError::Field(LENGTH_AT));
        }
        if u16_at(header, LOG_AT) != verify.log.get() {
            return Err(BlockError::Field(LOG_AT));
        }
        if u16_at(header, VERSION_AT) != VERSION {
            return Err(BlockError::Field(VERSION_AT));
        }
        if u32_at(header, FLAGS_AT) != 0 {
            return Err(BlockError::Field(FLAGS_AT));
        }
        if header.iter().skip(RESERVED_AT).any(|byte| *byte != 0) {
            return Err(BlockError::Field(RESERVED_AT));
        }
        let head = Self {
            log: verify.log,
            term: Term(u64_at(header, TERM_AT)),
            seq: Seq(u64_at(header, SEQ_AT)),
            segment: u64_at(header, SEGMENT_AT),
            offset: u64_at(header, OFFSET_AT),
            size,
            entry_count,
            previous_chain: u64_at(header, PREVIOUS_CHAIN_AT),
            time: LogTime(u64_at(header, TIME_AT)),
            committed: Seq(u64_at(header, COMMITTED_AT)),
        };
        head.check(verify.segment_size)?;
        Ok(head)
    }

    fn check(&self, segment_size: u64) -> Result<(), BlockError> {
        let (segment, at) = split_offset(self.offset, segment_size);
        if OFFSET_MAX < self.offset || !self.offset.is_multiple_of(HEADER_SIZE) {
            return Err(BlockError::Field(OFFSET_AT));
        }
        if at < SEGMENT_HEADER_SIZE || segment_size < at + u64::from(self.size) {
            return Err(BlockError::Field(OFFSET_AT));
        }
        if segment != self.segment {
            return Err(BlockError::Field(SEGMENT_AT));
        }
        if self.seq == Seq(0) || self.seq.0 == u64::MAX {
            return Err(BlockError::Field(SEQ_AT));
        }
        if self.seq <= self.committed {
            return Err(BlockError::Field(COMMITTED_AT));
        }
        if u64::MAX - u64::from(self.entry_count) < self.time.0 {
            return Err(BlockError::Field(TIME_AT));
        }
        Ok(())
    }

    /// Where the log ends with the block of this header.
    pub(crate) fn end(&self, header: &[u8; BLOCK_HEADER_SIZE]) -> LogEnd {
        LogEnd {
            seq: self.seq,
            term: self.term,
            chain: chain_of(header),
            offset: self.offset + u64::from(self.size),
            time: LogTime(self.time.0 + u64::from(self.entry_count) - 1),
        }
    }

    /// Does it go on where a log ends with `after`?
    pub(crate) fn follows(&self, after: &LogEnd, segment_size: u64) -> Result<(), ChainError> {
        let seq = self.seq;
        let expected = after.seq.next();
        if seq != expected {
            return Err(ChainError::Seq {
                found: seq,
                expected,
            });
        }
        if self.previous_chain != after.chain {
            return Err(ChainError::Chain {
                seq,
                found: self.previous_chain,
                expected: after.chain,
            });
        }
        let (here, next) = block_offsets(after.offset, segment_size);
        if self.offset != here && self.offset != next {
            let offset = self.offset;
            return Err(ChainError::Offset { seq, offset });
        }
        if self.term < after.term {
            let term = self.term;
            return Err(ChainError::Term { seq, term });
        }
        if after.seq != Seq(0) && self.time <= after.time {
            return Err(ChainError::Time { seq });
        }
        Ok(())
    }
}

/// The entries of a block.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    place: Place,
    time: LogTime,
    rest: std::slice::Iter<'a, [u8; ENTRY_SIZE]>,
}

impl<'a> Iterator for Entries<'a> {
    type Item = (Place, LogTime, &'a [u8; ENTRY_SIZE]);

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.rest.next()?;
        let item = (self.place, self.time, entry);
        // The block lies below `OFFSET_MAX` and its times below the type's end: tested when read.
        self.place = Place(self.place.0 + HEADER_SIZE);
        self.time = LogTime(self.time.0 + 1);
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.rest.size_hint()
    }
}

impl ExactSizeIterator for Entries<'_> {}

/// The blocks that lie end to end in `bytes`, each verified. Ends at the end of the bytes, at a
/// header of zeros, or behind the first error.
#[must_use]
pub const fn blocks(bytes: &[u8], verify: Verify) -> Blocks<'_> {
    Blocks { bytes, verify }
}

/// See [`blocks`].
#[derive(Clone, Debug)]
pub struct Blocks<'a> {
    bytes: &'a [u8],
    verify: Verify,
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Result<Block<'a>, BlockError>;

    fn next(&mut self) -> Option<Self::Item> {
        let block = Block::read(self.bytes, &self.verify);
        let size = match &block {
            Ok(Some(block)) => to_usize(u64::from(block.size())),
            Ok(None) | Err(_) => self.bytes.len(),
        };
        self.bytes = self.bytes.get(size..).unwrap_or_default();
        block.transpose()
    }
}

/// The chain value of a block with this header.
#[must_use]
pub fn chain_of(header: &[u8; BLOCK_HEADER_SIZE]) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(0, 0);
    hasher.write(header);
    hasher.finish()
}

/// Where a block of at most `entry_count` entries goes in a log that ends at `offset`.
#[must_use]
pub fn block_offset(offset: u64, entry_count: u32, segment_size: u64) -> u64 {
    let (here, next) = block_offsets(offset, segment_size);
    let (_, at) = split_offset(here, segment_size);
    if at + u64::from(block_size(entry_count)) <= segment_size {
        here
    } else {
        next
    }
}

/// Where a block may begin in a log that ends at `offset`: there, and in the next segment.
pub(super) fn block_offsets(offset: u64, segment_size: u64) -> (u64, u64) {
    let (segment, at) = split_offset(offset, segment_size);
    let next = (segment + 1) * segment_size + SEGMENT_HEADER_SIZE;
    if at == 0 {
        // An empty segment holds any block: no other is skipped.
        (offset + SEGMENT_HEADER_SIZE, offset + SEGMENT_HEADER_SIZE)
    } else {
        (offset, next)
    }
}

/// Segment number, and offset in that segment.
#[expect(
    clippy::integer_division,
    reason = "rounds down to the segment's number"
)]
pub(super) const fn split_offset(offset: u64, segment_size: u64) -> (u64, u64) {
    (offset / segment_size, offset % segment_size)
}

/// Places hold 48 bits of an offset.
const OFFSET_MAX: u64 = (1 << 48) - 2 * SEGMENT_SIZE_MAX;

#[expect(
    clippy::cast_possible_truncation,
    reason = "a full block fits in 32 bits, asserted above"
)]
const fn block_size(entry_count: u32) -> u32 {
    (entry_count + 1) * ENTRY_SIZE as u32
}

/// The checksum: salt, then everything but the field itself.
pub(super) fn crc_of(
    header: &[u8; BLOCK_HEADER_SIZE],
    body: &[u8],
    verify: &Verify,
    segment: u64,
) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&verify.log.get().to_le_bytes());
    hasher.update(&segment.to_le_bytes());
    hasher.update(&verify.cluster.get().to_le_bytes());
    let (before, rest) = header.split_at(CRC_AT);
    hasher.update(before);
    let (_, after) = rest.split_at(size_of::<u32>());
    hasher.update(after);
    hasher.update(body);
    hasher.finalize()
}

fn array_at<const N: usize>(header: &[u8; BLOCK_HEADER_SIZE], at: usize) -> [u8; N] {
    let (_, field) = header.split_at(at);
    *field.first_chunk().expect("fields lie inside the header")
}

fn u16_at(header: &[u8; BLOCK_HEADER_SIZE], at: usize) -> u16 {
    u16::from_le_bytes(array_at(header, at))
}

fn u32_at(header: &[u8; BLOCK_HEADER_SIZE], at: usize) -> u32 {
    u32::from_le_bytes(array_at(header, at))
}

fn u64_at(header: &[u8; BLOCK_HEADER_SIZE], at: usize) -> u64 {
    u64::from_le_bytes(array_at(header, at))
}

#[cfg(test)]
mod tests;
