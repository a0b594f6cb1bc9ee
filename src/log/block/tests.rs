//! Blocks: built, read back, moved, cut and flipped.

use super::*;
use crate::model::Random;
use bytes::Bytes;

const SEGMENT_SIZE: u64 = SEGMENT_SIZE_MIN;

fn verify() -> Verify {
    Verify {
        log: LogNumber::new(3).unwrap(),
        cluster: ClusterId::new(77).unwrap(),
        segment_size: SEGMENT_SIZE,
    }
}

fn entry(number: u64) -> [u8; ENTRY_SIZE] {
    let mut bytes = [0; ENTRY_SIZE];
    bytes[0] = 128;
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn build(builder: &mut BlockBuilder, after: &LogEnd, count: u32, room: u32) -> (Bytes, LogEnd) {
    let Verify { log, cluster, .. } = verify();
    builder.begin(&BlockSpec {
        log,
        cluster,
        segment_size: SEGMENT_SIZE,
        after,
        term: Term(after.term.0.max(1)),
        time: LogTime(after.time.0 + 10),
        committed: after.seq,
        entry_count_max: room,
    });
    for number in 0..count {
        builder.push(&entry(u64::from(number)));
    }
    builder.finish()
}

#[test]
fn blocks_read_back() {
    let mut builder = BlockBuilder::new();
    let (bytes, end) = build(&mut builder, &LogEnd::default(), 3, 8);
    let block = Block::read(&bytes, &verify()).unwrap().unwrap();
    assert_eq!(block.end(), end);
    assert_eq!(block.first_offset(), SEGMENT_HEADER_SIZE);
    assert_eq!(block.follows(&LogEnd::default(), SEGMENT_SIZE), Ok(()));
    let entries: Vec<_> = block.entries().collect();
    assert_eq!(entries.len(), 3);
    let log = verify().log;
    assert_eq!(
        entries[2],
        (Place::new(log, 4096 + 3 * 128), LogTime(12), &entry(2))
    );
    assert_eq!(end.time, LogTime(12));
    assert_eq!(end.offset, 4096 + 4 * 128);

    let (next, next_end) = build(&mut builder, &end, 1, 1);
    let both = [bytes, next].concat();
    let ends: Vec<_> = blocks(&both, verify())
        .map(|block| block.unwrap().end())
        .collect();
    assert_eq!(ends, [end, next_end]);
}

#[test]
fn places_are_known_when_pushing() {
    let mut builder = BlockBuilder::new();
    let after = LogEnd {
        seq: Seq(9),
        term: Term(2),
        chain: 5,
        offset: SEGMENT_SIZE - 128 * 4,
        time: LogTime(100),
    };
    // Four lines are left: three entries fit, four do not.
    for (room, offset) in [(3, after.offset), (4, SEGMENT_SIZE + SEGMENT_HEADER_SIZE)] {
        let (bytes, end) = build(&mut builder, &after, 1, room);
        let block = Block::read(&bytes, &verify()).unwrap().unwrap();
        assert_eq!(block.first_offset(), offset);
        assert_eq!(end.offset, offset + 256);
        assert_eq!(block.follows(&after, SEGMENT_SIZE), Ok(()));
    }
    assert_eq!(block_offset(0, 1, SEGMENT_SIZE), SEGMENT_HEADER_SIZE);
    let full = block_offset(SEGMENT_SIZE, 1, SEGMENT_SIZE);
    assert_eq!(full, SEGMENT_SIZE + SEGMENT_HEADER_SIZE);
}

#[test]
fn nothing_is_not_an_error_and_a_part_is() {
    assert_eq!(Block::read(&[], &verify()), Ok(None));
    assert_eq!(Block::read(&[0; 300], &verify()), Ok(None));
    let (bytes, _) = build(&mut BlockBuilder::new(), &LogEnd::default(), 3, 3);
    for size in 1..bytes.len() {
        let needed = if size < BLOCK_HEADER_SIZE { 256 } else { 512 };
        let short = Err(BlockError::Short { needed });
        assert_eq!(Block::read(&bytes[..size], &verify()), short, "{size}");
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let (bytes, _) = build(&mut BlockBuilder::new(), &LogEnd::default(), 2, 2);
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Block::read(&damaged, &verify()).is_err(), "bit {bit}");
    }
}

#[test]
fn blocks_of_elsewhere_are_refused() {
    let (bytes, _) = build(&mut BlockBuilder::new(), &LogEnd::default(), 2, 2);
    let other_cluster = Verify {
        cluster: ClusterId::new(78).unwrap(),
        ..verify()
    };
    assert_eq!(Block::read(&bytes, &other_cluster), Err(BlockError::Crc));
    let other_log = Verify {
        log: LogNumber::new(4).unwrap(),
        ..verify()
    };
    assert_eq!(
        Block::read(&bytes, &other_log),
        Err(BlockError::Field(LOG_AT))
    );
    // Moved to another segment, header and all: only the salt tells.
    let mut moved = bytes.to_vec();
    moved[SEGMENT_AT] = 1;
    let offset = SEGMENT_SIZE + SEGMENT_HEADER_SIZE;
    moved[OFFSET_AT..OFFSET_AT + 8].copy_from_slice(&offset.to_le_bytes());
    assert_eq!(Block::read(&moved, &verify()), Err(BlockError::Crc));
}

#[test]
fn a_block_goes_on_from_one_end_only() {
    let mut builder = BlockBuilder::new();
    let (_, first) = build(&mut builder, &LogEnd::default(), 1, 1);
    let (bytes, _) = build(&mut builder, &first, 1, 1);
    let block = Block::read(&bytes, &verify()).unwrap().unwrap();
    let check = |change: fn(&mut LogEnd)| {
        let mut after = first;
        change(&mut after);
        block.follows(&after, SEGMENT_SIZE).unwrap_err()
    };
    let seq = Seq(2);
    assert!(matches!(
        check(|end| end.seq = Seq(2)),
        ChainError::Seq { .. }
    ));
    assert!(matches!(
        check(|end| end.chain ^= 1),
        ChainError::Chain { .. }
    ));
    let offset = block.first_offset();
    assert_eq!(
        check(|end| end.offset += 128),
        ChainError::Offset { seq, offset }
    );
    let term = Term(1);
    assert_eq!(
        check(|end| end.term = Term(2)),
        ChainError::Term { seq, term }
    );
    assert_eq!(
        check(|end| end.time = LogTime(1000)),
        ChainError::Time { seq }
    );
}

#[test]
fn foreign_bytes_never_panic() {
    let mut random = Random::new(1);
    let (good, _) = build(&mut BlockBuilder::new(), &LogEnd::default(), 4, 4);
    for _ in 0..20_000 {
        let mut bytes = good.to_vec();
        for _ in 0..=random.below(6) {
            let at = to_usize(random.below(bytes.len() as u64));
            bytes[at] = random.u64().to_le_bytes()[0];
        }
        bytes.truncate(to_usize(random.below(bytes.len() as u64 + 1)));
        if bytes.as_slice() != &good[..bytes.len()] {
            assert!(!matches!(Block::read(&bytes, &verify()), Ok(Some(_))));
        }
    }
}

#[test]
fn buffers_are_used_again() {
    let mut builder = BlockBuilder::new();
    let (first, end) = build(&mut builder, &LogEnd::default(), 4, 64);
    let at = first.as_ptr();
    drop(first);
    let (second, end) = build(&mut builder, &end, 4, 64);
    assert_eq!(second.as_ptr(), at);
    let (third, _) = build(&mut builder, &end, 4, 64);
    assert_ne!(third.as_ptr(), at, "the second is still held");
}
