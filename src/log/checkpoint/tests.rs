//! Checkpoint files: written, read, copied, damaged, cut short by a crash.

use super::super::medium::MemoryMedium;
use super::*;
use crate::model::{LogEnd, LogTime, Random, Seq, Term, TermStart, to_u64, to_usize};

fn log() -> LogNumber {
    LogNumber::new(3).unwrap()
}

fn cluster() -> ClusterId {
    ClusterId::new(9).unwrap()
}

fn spec() -> CheckpointSpec {
    CheckpointSpec {
        cluster: cluster(),
        log: log(),
        ring_key: 0x1234,
    }
}

fn end(seq: u64) -> LogEnd {
    LogEnd {
        seq: Seq(seq),
        term: Term(2),
        chain: seq * 7,
        offset: 4096 + seq * 256,
        time: LogTime(seq * 10),
    }
}

/// Records of some section that tell where they belong.
fn records(tag: u16, size: usize, count: usize) -> Vec<u8> {
    (0..count)
        .flat_map(|number| {
            let mut record = vec![tag.to_le_bytes()[0]; size];
            record[..8].copy_from_slice(&to_u64(number).to_le_bytes());
            record
        })
        .collect()
}

const SECTIONS: [(u16, usize, usize); 4] =
    [(1, 64, 1), (2, 160, 0), (3, 80, 5_000), (4, 24, 2_728)];

fn terms() -> Vec<TermStart> {
    (1..=5)
        .map(|term| TermStart {
            term: Term(term),
            seq: Seq(term * 3),
        })
        .collect()
}

fn write(medium: &MemoryMedium, seq: u64) -> CheckpointHeader {
    let path = "d/new.tmp";
    let mut writer = CheckpointWriter::create(medium, path, spec()).unwrap();
    for (tag, size, count) in SECTIONS {
        let records = records(tag, size, count);
        for piece in records.chunks(size * 700) {
            writer.push(tag, size, piece).unwrap();
        }
    }
    let header = writer.finish(end(seq), &terms()).unwrap();
    install_checkpoint(medium, "d", path, end(seq).offset).unwrap();
    header
}

fn open(medium: &MemoryMedium, seq: u64) -> Result<Checkpoint, LogError> {
    let path = format!("d/{}", checkpoint_name(end(seq).offset));
    Checkpoint::open(medium, &path).map(|found| found.expect("it is there"))
}

#[test]
fn records_come_back_section_by_section() {
    let medium = MemoryMedium::new();
    let header = write(&medium, 8);
    let checkpoint = open(&medium, 8).unwrap();
    assert_eq!(*checkpoint.header(), header);
    assert_eq!(checkpoint.end(), end(8));
    checkpoint.verify(log()).unwrap();
    assert_eq!(checkpoint.terms().unwrap(), terms());
    for (tag, size, count) in SECTIONS {
        let mut all = Vec::new();
        for index in 0..header.page_count {
            let page = checkpoint.page(index).unwrap();
            if page.tag == tag {
                assert_eq!(page.record_size, size);
                all.extend_from_slice(&page.records);
            }
        }
        assert!(all == records(tag, size, count), "section {tag}");
    }
    assert!(checkpoint.verify(LogNumber::new(4).unwrap()).is_err());
}

#[test]
fn the_older_one_goes_and_stays_readable_for_who_has_it_open() {
    let medium = MemoryMedium::new();
    write(&medium, 8);
    let old = open(&medium, 8).unwrap();
    write(&medium, 9);
    assert_eq!(checkpoint_offsets(&medium, "d").unwrap(), [end(9).offset]);
    old.verify(log()).unwrap();
}

#[test]
fn an_empty_state_is_a_checkpoint_too() {
    let medium = MemoryMedium::new();
    let writer = CheckpointWriter::create(&medium, "d/new.tmp", spec()).unwrap();
    let header = writer.finish(end(0), &[]).unwrap();
    assert_eq!(header.page_count, 0);
    install_checkpoint(&medium, "d", "d/new.tmp", end(0).offset).unwrap();
    open(&medium, 0).unwrap().verify(log()).unwrap();
}

#[test]
fn every_damaged_byte_is_found() {
    let medium = MemoryMedium::new();
    let size = write(&medium, 8).file_size();
    let path = format!("d/{}", checkpoint_name(end(8).offset));
    let good = medium.content(&path).unwrap();
    let mut random = Random::new(3);
    let verified = || open(&medium, 8).is_ok_and(|found| found.verify(log()).is_ok());
    let check = |at: u64| {
        let byte = good[to_usize(at)];
        medium.damage(&path, at, &[byte ^ 4]);
        assert!(!verified(), "byte {at}");
        medium.damage(&path, at, &[byte]);
    };
    (0..300).for_each(&check);
    (4_096..4_136).for_each(&check);
    for _ in 0..600 {
        check(random.below(size));
    }
    assert!(verified());
    // A page of elsewhere in the file, and a whole file that was cut.
    let page = |index: usize| 4_096 + index * CHECKPOINT_PAGE_SIZE;
    medium.damage(&path, to_u64(page(2)), &good[page(1)..page(2)]);
    assert!(!verified());
    medium.damage(&path, to_u64(page(2)), &good[page(2)..page(3)]);
    assert!(verified());
    medium.truncate(&path, size - 1);
    assert!(!verified());
    medium.truncate(&path, 100);
    assert!(!verified());
}

#[test]
fn a_crash_leaves_a_whole_checkpoint() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let medium = MemoryMedium::new();
        write(&medium, 8);
        let steps = medium.step_count();
        medium.snapshot_at(steps + random.below(12));
        write(&medium, 9);
        let Some((before, _)) = medium.snapshot() else {
            continue;
        };
        let after = before.crash(&mut random);
        tidy_checkpoints(&after, "d").unwrap();
        let offsets = checkpoint_offsets(&after, "d").unwrap();
        assert!(!offsets.is_empty(), "seed {seed}");
        for offset in offsets {
            let path = format!("d/{}", checkpoint_name(offset));
            let found = Checkpoint::open(&after, &path).unwrap().unwrap();
            found.verify(log()).unwrap();
        }
    }
}

#[test]
fn it_is_copied_in_pieces() {
    let medium = MemoryMedium::new();
    write(&medium, 8);
    let checkpoint = open(&medium, 8).unwrap();
    let mut copy = Vec::new();
    while to_u64(copy.len()) < checkpoint.size() {
        copy.extend_from_slice(&checkpoint.raw(to_u64(copy.len()), 100_000).unwrap());
    }
    let path = format!("d/{}", checkpoint_name(end(8).offset));
    assert!(copy == medium.content(&path).unwrap());
    assert!(
        checkpoint
            .raw(checkpoint.size() + 5, 10)
            .unwrap()
            .is_empty()
    );
}
