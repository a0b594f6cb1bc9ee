//! The bytes on disk, against the vectors in docs/log-format.md: whoever changes a layout changes
//! the page too, and notices.

use std::sync::Arc;

use counterfoil::log::{
    Block, BlockBuilder, BlockSpec, CheckpointSpec, CheckpointWriter, Log, MemoryMedium, SmallFile,
    Verify, save,
};
use counterfoil::model::{
    Change, ClusterId, Currency, Entry, EpochMark, Flags, Generation, Image, LogEnd, LogNumber,
    LogTime, Operation, OperationId, Place, ResultCode, RingEpoch, Seq, Term, TermStart, UserId,
};

const PAGE: &str = include_str!("../../docs/log-format.md");

fn verify() -> Verify {
    Verify {
        log: LogNumber::new(3).unwrap(),
        cluster: ClusterId::new(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10).unwrap(),
        segment_size: 2 << 20,
    }
}

/// The bytes of the fenced block whose head says "text vector NAME".
fn vector(name: &str) -> Vec<u8> {
    let head = format!("```text vector {name}\n");
    let (_, rest) = PAGE
        .split_once(&head)
        .unwrap_or_else(|| panic!("the page has no vector {name}"));
    let (body, _) = rest.split_once("```").unwrap();
    let digits: Vec<u32> = body
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .collect();
    digits
        .chunks_exact(2)
        .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap())
        .collect()
}

/// The first bytes must be those of the page, everything behind them 0.
fn check(name: &str, bytes: &[u8]) {
    let expected = vector(name);
    let (head, rest) = bytes.split_at(expected.len().min(bytes.len()));
    let hex: Vec<String> = bytes[..bytes.len().min(512)]
        .chunks(32)
        .map(|line| {
            let bytes: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            bytes.concat()
        })
        .collect();
    assert!(head == expected, "{name} is now:\n{}", hex.join("\n"));
    assert!(rest.iter().all(|byte| *byte == 0), "{name}: the rest is 0");
}

fn block() -> (Vec<u8>, LogEnd) {
    let after = LogEnd {
        seq: Seq(6),
        term: Term(2),
        chain: 0x1122_3344_5566_7788,
        offset: 8_192,
        time: LogTime(1_000),
    };
    let mut builder = BlockBuilder::new();
    builder.begin(&BlockSpec {
        log: verify().log,
        cluster: verify().cluster,
        segment_size: verify().segment_size,
        after: &after,
        term: Term(3),
        time: LogTime(2_000),
        committed: Seq(5),
        entry_count_max: 2,
    });
    let mark = EpochMark {
        generation: Generation(1),
        ring_epoch: RingEpoch(4),
        term: Term(3),
    };
    builder.push(&Entry::Epoch(mark).to_bytes());
    let operation = Operation::debit(
        OperationId::from_parts(0x0123_4567_89ab, 9),
        UserId::new(42).unwrap(),
        Currency::new(7).unwrap(),
        1_000,
    );
    let change = Change {
        operation: operation.with_flags(Flags::UP_TO),
        code: ResultCode::Ok,
        created: false,
        moved: 600,
        image: Image {
            available: -400,
            held: 5,
            version: 77,
        },
        previous: Place::new(verify().log, 4_224),
    };
    builder.push(&Entry::Change(change).to_bytes());
    let (bytes, end) = builder.finish();
    (bytes.to_vec(), end)
}

#[test]
fn a_block_has_the_bytes_of_the_page() {
    let (bytes, end) = block();
    check("block", &bytes);
    let written = vector("block");
    let read = Block::read(&written, &verify()).unwrap().unwrap();
    assert_eq!(read.end(), end);
    assert_eq!(end.chain.to_le_bytes().to_vec(), vector("chain"));
    for (_, _, entry) in read.entries() {
        assert_eq!(Entry::read(entry).unwrap().to_bytes(), *entry);
    }
}

#[test]
fn the_files_of_a_log_have_the_bytes_of_the_page() {
    let medium = MemoryMedium::new();
    save(&medium, "", SmallFile::Kind, b"node").unwrap();
    check("kind", &medium.content("kind").unwrap());
    let after = LogEnd {
        seq: Seq(9),
        term: Term(2),
        chain: 0x1122_3344_5566_7788,
        offset: 4 << 20,
        time: LogTime(5_000),
    };
    let starts = [(1, 1), (2, 8)].map(|(term, seq)| TermStart {
        term: Term(term),
        seq: Seq(seq),
    });
    Log::create(Arc::new(medium.clone()), verify(), after, starts.to_vec()).unwrap();
    check("base", &medium.content("logs/00003/base").unwrap());
    let segment = medium
        .content("logs/00003/segment-0000000000000002")
        .unwrap();
    assert_eq!(segment.len(), 2 << 20);
    check("segment", &segment);
}

#[test]
fn a_checkpoint_has_the_bytes_of_the_page() {
    let medium = MemoryMedium::new();
    let spec = CheckpointSpec {
        cluster: verify().cluster,
        log: verify().log,
        ring_key: 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100,
    };
    let mut writer = CheckpointWriter::create(&medium, "new", spec).unwrap();
    writer.push(4, 24, &[0xab; 48]).unwrap();
    let (_, end) = block();
    let start = TermStart {
        term: Term(3),
        seq: Seq(7),
    };
    writer.finish(end, &[start]).unwrap();
    let file = medium.content("new").unwrap();
    assert_eq!(file.len(), 4_096 + 2 * 65_536);
    check("checkpoint", &file[..4_096]);
    check("page", &file[4_096..4_096 + 65_536]);
}
