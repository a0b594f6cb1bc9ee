//! Building a block in a pooled buffer, entry by entry, with places known in advance.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    BLOCK_HEADER_SIZE, BLOCK_MAGIC, COMMITTED_AT, COUNT_AT, CRC_AT, HEADER_SIZE, LENGTH_AT, LOG_AT,
    MAGIC_AT, OFFSET_AT, OFFSET_MAX, PREVIOUS_CHAIN_AT, SEGMENT_AT, SEQ_AT, TERM_AT, TIME_AT,
    VERSION, VERSION_AT, Verify, block_offset, block_size, chain_of, crc_of, split_offset,
};
use crate::limits::{
    BLOCK_ENTRY_COUNT_MAX, BLOCKS_IN_FLIGHT_MAX, SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN,
};
use crate::model::{
    ClusterId, ENTRY_SIZE, LogEnd, LogNumber, LogTime, Place, Seq, Term, to_u64, to_usize,
};

/// Buffers that are kept for use again: those of the blocks in flight, and the one being built.
const POOL_COUNT: usize = BLOCKS_IN_FLIGHT_MAX as usize + 1;

/// What a block to be built goes on from, and what its header says.
#[derive(Clone, Copy, Debug)]
pub struct BlockSpec<'a> {
    /// The log.
    pub log: LogNumber,
    /// Whose it is.
    pub cluster: ClusterId,
    /// Bytes of its segments.
    pub segment_size: u64,
    /// Where the log ends without the block.
    pub after: &'a LogEnd,
    /// Term of the writer; not below that of `after`.
    pub term: Term,
    /// Log time of the first entry; later than `after`'s.
    pub time: LogTime,
    /// The highest block known to be committed; not above `after`.
    pub committed: Seq,
    /// Entries at most, 1 to `BLOCK_ENTRY_COUNT_MAX`: room for so many is reserved, in the next
    /// segment if this one has not enough.
    pub entry_count_max: u32,
}

/// Builds blocks, one after the other. Buffers are used again once nobody holds them any more.
#[derive(Debug, Default)]
pub struct BlockBuilder {
    open: Option<Open>,
    pool: VecDeque<Bytes>,
}

#[derive(Debug)]
struct Open {
    buffer: BytesMut,
    verify: Verify,
    segment: u64,
    offset: u64,
    time: LogTime,
    count: u32,
    count_max: u32,
    seq: Seq,
    term: Term,
}

impl BlockBuilder {
    /// One that has no block open.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a block. One that was begun before and not finished is dropped.
    ///
    /// Panics if `spec` breaks its own bounds: such a block would be refused by every reader.
    pub fn begin(&mut self, spec: &BlockSpec<'_>) {
        assert!((SEGMENT_SIZE_MIN..=SEGMENT_SIZE_MAX).contains(&spec.segment_size));
        assert!((1..=BLOCK_ENTRY_COUNT_MAX).contains(&spec.entry_count_max));
        assert!(spec.after.term <= spec.term, "terms never fall");
        assert!(spec.committed <= spec.after.seq);
        assert!(spec.after.seq == Seq(0) || spec.after.time < spec.time);
        assert!(spec.time.0 < u64::MAX - u64::from(spec.entry_count_max));
        let offset = block_offset(spec.after.offset, spec.entry_count_max, spec.segment_size);
        assert!(offset <= OFFSET_MAX, "the log is full");
        let (segment, _) = split_offset(offset, spec.segment_size);
        let mut buffer = match self.open.take() {
            Some(open) => open.buffer,
            None => self.buffer(),
        };
        buffer.clear();
        buffer.reserve(to_usize(u64::from(block_size(spec.entry_count_max))));
        buffer.put_bytes(0, BLOCK_HEADER_SIZE);
        put(&mut buffer, MAGIC_AT, BLOCK_MAGIC);
        put(&mut buffer, TERM_AT, spec.term.0.to_le_bytes());
        let seq = spec.after.seq.next();
        put(&mut buffer, SEQ_AT, seq.0.to_le_bytes());
        put(&mut buffer, LOG_AT, spec.log.get().to_le_bytes());
        put(&mut buffer, VERSION_AT, VERSION.to_le_bytes());
        put(&mut buffer, SEGMENT_AT, segment.to_le_bytes());
        put(&mut buffer, OFFSET_AT, offset.to_le_bytes());
        put(
            &mut buffer,
            PREVIOUS_CHAIN_AT,
            spec.after.chain.to_le_bytes(),
        );
        put(&mut buffer, TIME_AT, spec.time.0.to_le_bytes());
        put(&mut buffer, COMMITTED_AT, spec.committed.0.to_le_bytes());
        self.open = Some(Open {
            buffer,
            verify: Verify {
                log: spec.log,
                cluster: spec.cluster,
                segment_size: spec.segment_size,
            },
            segment,
            offset,
            time: spec.time,
            count: 0,
            count_max: spec.entry_count_max,
            seq,
            term: spec.term,
        });
    }

    /// Is a block begun?
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Entries in the open block; 0 when none is open.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.open.as_ref().map_or(0, |open| open.count)
    }

    /// Entries that still fit in the open block; 0 when none is open.
    #[must_use]
    pub fn room(&self) -> u32 {
        self.open
            .as_ref()
            .map_or(0, |open| open.count_max - open.count)
    }

    /// Where the next entry will lie. Panics when no block is open.
    #[must_use]
    pub fn next_place(&self) -> Place {
        let open = self.open();
        let line = u64::from(open.count) + 1;
        Place::new(open.verify.log, open.offset + line * HEADER_SIZE)
    }

    /// Log time of the next entry. Panics when no block is open.
    #[must_use]
    pub fn next_time(&self) -> LogTime {
        let open = self.open();
        LogTime(open.time.0 + u64::from(open.count))
    }

    /// Number of the open block. Panics when no block is open.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.open().seq
    }

    /// The entry of the open block that lies at `place`; `None` when there is none.
    #[must_use]
    pub fn entry(&self, place: Place) -> Option<[u8; ENTRY_SIZE]> {
        let open = self.open.as_ref()?;
        let at = place.offset().checked_sub(open.offset)?;
        let is_entry = at % HEADER_SIZE == 0 && HEADER_SIZE <= at;
        let rest = open.buffer.get(to_usize(at)..).filter(|_| is_entry)?;
        rest.first_chunk().copied()
    }

    /// Appends an entry. Panics when no block is open, when it is full, or when the first byte
    /// is no kind of an entry.
    pub fn push(&mut self, entry: &[u8; ENTRY_SIZE]) {
        let open = self.open.as_mut().expect("a block was begun");
        assert!(open.count < open.count_max, "room was reserved");
        let [kind, ..] = *entry;
        let [header, ..] = BLOCK_MAGIC;
        assert!(
            kind != 0 && kind != header,
            "a line's first byte tells what it is"
        );
        open.buffer.extend_from_slice(entry);
        open.count += 1;
    }

    /// Completes the block: its bytes, and where the log ends with it. Panics when no block is
    /// open or when it is empty.
    pub fn finish(&mut self) -> (Bytes, LogEnd) {
        let mut open = self.open.take().expect("a block was begun");
        assert!(0 < open.count, "a block has entries");
        let size = block_size(open.count);
        assert!(to_u64(open.buffer.len()) == u64::from(size));
        put(&mut open.buffer, LENGTH_AT, size.to_le_bytes());
        put(&mut open.buffer, COUNT_AT, open.count.to_le_bytes());
        let (header, body) = open
            .buffer
            .split_first_chunk::<BLOCK_HEADER_SIZE>()
            .expect("begun with a header");
        let crc = crc_of(header, body, &open.verify, open.segment);
        put(&mut open.buffer, CRC_AT, crc.to_le_bytes());
        let header = open.buffer.first_chunk().expect("begun with a header");
        let end = LogEnd {
            seq: open.seq,
            term: open.term,
            chain: chain_of(header),
            offset: open.offset + u64::from(size),
            time: LogTime(open.time.0 + u64::from(open.count) - 1),
        };
        let bytes = open.buffer.freeze();
        if self.pool.len() < POOL_COUNT {
            self.pool.push_back(bytes.clone());
        }
        (bytes, end)
    }

    fn open(&self) -> &Open {
        self.open.as_ref().expect("a block was begun")
    }

    /// The oldest pooled buffer if nobody holds it any more, else a new one.
    fn buffer(&mut self) -> BytesMut {
        let Some(oldest) = self.pool.pop_front() else {
            return BytesMut::new();
        };
        match oldest.try_into_mut() {
            Ok(buffer) => buffer,
            Err(held) => {
                self.pool.push_back(held);
                BytesMut::new()
            }
        }
    }
}

fn put<const N: usize>(buffer: &mut BytesMut, at: usize, field: [u8; N]) {
    let (_, rest) = buffer.split_at_mut(at);
    *rest
        .first_chunk_mut()
        .expect("fields lie inside the header") = field;
}
