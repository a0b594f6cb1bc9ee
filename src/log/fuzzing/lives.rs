//! Logs with different pasts, made once: what recovery is tried on.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::limits::SEGMENT_SIZE_MIN;
use crate::log::{BlockBuilder, BlockSpec, Fault, Log, MemoryMedium, Verify, log_dir};
use crate::model::{
    ClusterId, ENTRY_SIZE, LogEnd, LogNumber, LogTime, Random, Seq, Term, to_usize,
};

pub(super) const SEGMENT_SIZE: u64 = SEGMENT_SIZE_MIN;

/// Entries of a block that fills nearly half a segment.
const LARGE_COUNT: u32 = 8_000;

/// A block that was written.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) end: LogEnd,
    pub(super) bytes: Bytes,
    pub(super) committed: Seq,
}

impl Written {
    /// Offset of its first byte in the log.
    pub(super) const fn first(&self) -> u64 {
        self.end.offset - self.bytes.len() as u64
    }
}

/// A log in memory with all that was written to it.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) medium: MemoryMedium,
    /// The end of what is not kept.
    pub(super) first: LogEnd,
    /// The blocks behind `first`, in order.
    pub(super) blocks: Vec<Written>,
    log: Log,
    builder: BlockBuilder,
    random: Random,
    term: Term,
}

pub(super) fn verify() -> Verify {
    Verify {
        log: LogNumber::new(3).unwrap(),
        cluster: ClusterId::new(77).unwrap(),
        segment_size: SEGMENT_SIZE,
    }
}

/// All lives, made at the first call.
pub(super) fn lives() -> &'static [Life] {
    static LIVES: OnceLock<Vec<Life>> = OnceLock::new();
    LIVES.get_or_init(|| {
        vec![
            small(),
            two_segments(),
            used_again(),
            cut(),
            unfinished(),
            Life::new(LogEnd::default()),
        ]
    })
}

/// A few small blocks of two terms.
fn small() -> Life {
    let mut life = Life::new(LogEnd::default());
    for count in 0..14 {
        life.term = Term(1 + u64::from(count > 7));
        life.append(1 + count % 3);
    }
    life
}

/// Blocks on both sides of a segment's end, with what does not fit left free.
fn two_segments() -> Life {
    let mut life = Life::new(LogEnd::default());
    for count in [2, LARGE_COUNT, 1, LARGE_COUNT, 3, 1, 2] {
        life.append(count);
    }
    life.log.prepare(0).unwrap();
    life
}

/// Segments that were others before: their old blocks lie behind the end.
fn used_again() -> Life {
    let mut life = Life::new(LogEnd::default());
    for _ in 0..5 {
        life.append(LARGE_COUNT);
        life.append(2);
    }
    life.log.retire(life.end().offset).unwrap();
    life.log.prepare(0).unwrap();
    life.append(LARGE_COUNT);
    life.append(3);
    life.append(LARGE_COUNT);
    life.append(1);
    life.first = life.log.first();
    let first = life.first.seq;
    life.blocks.retain(|block| first < block.end.seq);
    life
}

/// Blocks that another history contradicted were put aside.
fn cut() -> Life {
    let mut life = Life::new(LogEnd {
        seq: Seq(40),
        term: Term(2),
        chain: 5,
        offset: 3 * SEGMENT_SIZE,
        time: LogTime(1_000),
    });
    for _ in 0..6 {
        life.append(2);
    }
    life.blocks.truncate(3);
    let end = life.end();
    life.log.cut(&end).unwrap();
    life.term = Term(5);
    for _ in 0..4 {
        life.append(1);
    }
    life
}

/// The last blocks were never synced: a crash keeps, loses or garbles them.
fn unfinished() -> Life {
    let mut life = Life::new(LogEnd::default());
    for _ in 0..4 {
        life.append(2);
    }
    let committed = life.end().seq;
    let blocks: Vec<Bytes> = (0..3).map(|_| life.build(4, committed)).collect();
    let blocks: Vec<&[u8]> = blocks.iter().map(|block| &block[..]).collect();
    life.medium.fail(Fault::Sync(0));
    assert!(life.log.append(&blocks).error.is_some());
    life
}

impl Life {
    fn new(after: LogEnd) -> Self {
        let medium = MemoryMedium::new();
        let log = Log::create(Arc::new(medium.clone()), verify(), after, Vec::new()).unwrap();
        Self {
            medium,
            first: after,
            blocks: Vec::new(),
            log,
            builder: BlockBuilder::new(),
            random: Random::new(after.offset),
            term: Term(after.term.0.max(1)),
        }
    }

    pub(super) fn end(&self) -> LogEnd {
        self.blocks.last().map_or(self.first, |block| block.end)
    }

    fn build(&mut self, count: u32, committed: Seq) -> Bytes {
        let after = self.end();
        let bytes = build(
            &mut self.builder,
            &after,
            self.term,
            committed,
            count,
            |entry| {
                entry[0] = 128;
                entry[8..24].copy_from_slice(&self.random.u128().to_le_bytes());
            },
        );
        let (bytes, end) = bytes;
        self.blocks.push(Written {
            end,
            bytes: bytes.clone(),
            committed,
        });
        bytes
    }

    fn append(&mut self, count: u32) {
        let committed = self.log.end().seq;
        let block = self.build(count, committed);
        let appended = self.log.append(&[&block[..]]);
        assert!(appended.error.is_none(), "{:?}", appended.error);
    }
}

/// A block behind `after`.
pub(super) fn build(
    builder: &mut BlockBuilder,
    after: &LogEnd,
    term: Term,
    committed: Seq,
    count: u32,
    mut fill: impl FnMut(&mut [u8; ENTRY_SIZE]),
) -> (Bytes, LogEnd) {
    let Verify { log, cluster, .. } = verify();
    builder.begin(&BlockSpec {
        log,
        cluster,
        segment_size: SEGMENT_SIZE,
        after,
        term,
        time: LogTime(after.time.0 + 10),
        committed,
        entry_count_max: count,
    });
    for _ in 0..count {
        let mut entry = [0; ENTRY_SIZE];
        fill(&mut entry);
        builder.push(&entry);
    }
    builder.finish()
}

/// Path of the segment that an offset of the log lies in.
pub(super) fn segment_path(offset: u64) -> String {
    let number = offset.div_euclid(SEGMENT_SIZE);
    format!("{}/segment-{number:016x}", log_dir(verify().log))
}

/// Offset inside that segment.
pub(super) fn at_of(offset: u64) -> usize {
    to_usize(offset % SEGMENT_SIZE)
}
