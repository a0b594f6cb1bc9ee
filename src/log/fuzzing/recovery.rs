//! Recovery of damaged logs, judged by whoever knows what was written.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::damage::{Damage, damage};
use super::lives::{Life, SEGMENT_SIZE, Written, at_of, build, lives, segment_path, verify};
use crate::log::{BlockBuilder, Log, LogError, MemoryMedium, Opening, Recovered, blocks};
use crate::model::{Choices, ENTRY_SIZE, LogEnd, Place, Seq, to_u64, to_usize};

/// Kinds of damage to one log at most.
const DAMAGE_COUNT_MAX: u64 = 6;

/// The first byte chooses a log, the others damage it. Then: recovery never panics; it yields all
/// that is whole from the beginning on, and nothing that was not written; where it ends below
/// what was committed, it says so; twice is the same as once; what is cut off is kept; the log
/// goes on.
pub fn check_recovery(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let life = &lives()[to_usize(choices.below(to_u64(lives().len())))];
    let (medium, kind) = damage(life, &mut choices, DAMAGE_COUNT_MAX);
    let asked = [life.end(), forged_end(life, &mut choices)];
    let looked = look(&medium, &asked);
    let opened = Log::open(Arc::new(medium.clone()), verify().log, &asked, Opening::Use);
    let base_path = "logs/00003/base";
    let is_base_whole = medium.content(base_path) == life.medium.content(base_path);
    let (log, recovered) = match opened {
        Ok(Some(found)) => found,
        Ok(None) => {
            assert!(medium.content(base_path).is_none());
            return;
        }
        Err(error) => {
            assert!(matches!(error, LogError::Damage(_)), "{error}");
            assert!(!is_base_whole, "{error}: only the base is needed");
            return;
        }
    };
    assert_eq!(looked.as_ref(), Some(&recovered));
    if kind == Damage::Accident {
        assert!(is_base_whole);
        judge(life, &medium, &recovered);
        check_content(life, &log);
    }
    check_reads(life, &log, &mut choices, kind);
    let (_, second) = open(&medium, &asked);
    assert_eq!(second, recovered, "twice is not once");
    go_on(life, &medium, log, &recovered, kind);
}

fn forged_end(life: &Life, choices: &mut Choices<'_>) -> LogEnd {
    let mut end = life.end();
    end.chain ^= choices.u64() | 1;
    end
}

/// Opening to look changes nothing.
fn look(medium: &MemoryMedium, asked: &[LogEnd]) -> Option<Recovered> {
    let before = medium.step_count();
    let looked = Log::open(Arc::new(medium.clone()), verify().log, asked, Opening::Look);
    assert_eq!(before, medium.step_count());
    looked.ok().flatten().map(|(_, recovered)| recovered)
}

fn open(medium: &MemoryMedium, asked: &[LogEnd]) -> (Log, Recovered) {
    let opened = Log::open(Arc::new(medium.clone()), verify().log, asked, Opening::Use);
    opened.unwrap().unwrap()
}

/// What is left of a life, found by comparing bytes.
struct Left {
    /// The end of the last block up to which nothing is missing.
    end: LogEnd,
    /// What the whole blocks name, those behind a gap too.
    committed: Seq,
    /// Blocks behind the end that are whole.
    stranded: Vec<usize>,
}

impl Left {
    fn of(life: &Life, medium: &MemoryMedium) -> Self {
        let mut segments: BTreeMap<String, Option<(Vec<u8>, bool)>> = BTreeMap::new();
        let mut left = Self {
            end: life.first,
            committed: Seq(0),
            stranded: Vec::new(),
        };
        let mut is_whole = true;
        for (index, block) in life.blocks.iter().enumerate() {
            let path = segment_path(block.first());
            let segment = segments.entry(path.clone()).or_insert_with(|| {
                let bytes = medium.content(&path)?;
                let is_sized = to_u64(bytes.len()) == SEGMENT_SIZE;
                let good = life.medium.content(&path)?;
                let is_headed = bytes.get(..4_096) == good.get(..4_096);
                is_sized.then_some((bytes, is_headed))
            });
            let at = at_of(block.first());
            let is_intact = segment
                .as_ref()
                .is_some_and(|(bytes, _)| bytes[at..at + block.bytes.len()] == block.bytes);
            let is_readable = segment.as_ref().is_some_and(|(_, is_headed)| *is_headed);
            is_whole &= is_intact && is_readable;
            if is_intact {
                left.committed = left.committed.max(block.committed);
            }
            if is_whole {
                left.end = block.end;
            } else if is_intact {
                left.stranded.push(index);
            }
        }
        left
    }
}

fn judge(life: &Life, medium: &MemoryMedium, recovered: &Recovered) {
    let left = Left::of(life, medium);
    assert_eq!(recovered.end, left.end, "{recovered:?}");
    assert_eq!(recovered.committed, left.committed, "{recovered:?}");
    assert_eq!(recovered.first_offset, life.first.offset);
    if recovered.end.seq < left.committed {
        assert!(recovered.damage.is_some(), "silent: {recovered:?}");
    }
    let is_told = recovered.damage.is_some() || recovered.torn.is_some();
    assert!(left.stranded.is_empty() || is_told, "{recovered:?}");
    let is_agreed = recovered.end == life.end();
    assert_eq!(
        recovered.agreed,
        if is_agreed { vec![life.end()] } else { vec![] }
    );
    let count = left.end.seq.0 - life.first.seq.0;
    assert_eq!(recovered.block_count, count);
    assert!(
        recovered
            .terms
            .is_sorted_by(|a, b| a.term < b.term && a.seq < b.seq)
    );
}

/// All blocks of a log from its beginning on.
fn read_all(log: &Log) -> Vec<u8> {
    let mut all = Vec::new();
    let mut offset = log.first().offset;
    loop {
        let (_, bytes) = log.read_blocks(offset, u64::MAX, 100_000).unwrap();
        let Some(last) = blocks(&bytes, verify()).map(Result::unwrap).last() else {
            return all;
        };
        assert!(offset < last.end().offset);
        offset = last.end().offset;
        all.extend_from_slice(&bytes);
    }
}

/// Nothing but what was written, and all of it up to the end.
fn check_content(life: &Life, log: &Log) {
    let end = log.end();
    let mut written = Vec::new();
    for block in life.blocks.iter().filter(|block| block.end.seq <= end.seq) {
        written.extend_from_slice(&block.bytes);
    }
    assert!(read_all(log) == written, "yields what was not written");
}

/// Reads by place and by any offset: what comes back was written there.
fn check_reads(life: &Life, log: &Log, choices: &mut Choices<'_>, kind: Damage) {
    let count = choices.below(4);
    for _ in 0..count {
        let near = choices.below(to_u64(life.blocks.len()) + 1);
        let first = life.blocks.get(to_usize(near)).map_or(0, Written::first);
        let offset = first + choices.below(1 << 10);
        let place = Place::new(verify().log, offset);
        let read = log.read_entry(place);
        if let (Ok(Some(entry)), Damage::Accident) = (&read, kind) {
            assert_eq!(Some(&entry[..]), written_at(life, offset), "at {offset}");
        }
        assert!(offset.is_multiple_of(128) || matches!(read, Ok(None)));
        let _any = log.recent_entry(place);
        if let Ok((_, found)) = log.read_blocks(offset, u64::MAX, 4_096) {
            assert!(blocks(&found, verify()).all(|block| block.is_ok()));
        }
    }
}

fn written_at(life: &Life, offset: u64) -> Option<&[u8]> {
    let block = life.blocks.iter().find(|block| offset < block.end.offset)?;
    let at = to_usize(offset.checked_sub(block.first())?);
    block.bytes.get(at..at + ENTRY_SIZE)
}

/// What is cut off is kept, and the log goes on from where it was cut.
fn go_on(life: &Life, medium: &MemoryMedium, log: Log, recovered: &Recovered, kind: Damage) {
    let stranded = match kind {
        Damage::Accident => Left::of(life, medium).stranded,
        Damage::Forgery => Vec::new(),
    };
    let kept = read_all(&log);
    if recovered.damage.is_some() || recovered.torn.is_some() {
        let mut builder = BlockBuilder::new();
        let (block, _) = next_block(&mut builder, &recovered.end);
        let refused = log.append(&[&block[..]]).error;
        assert!(matches!(refused, Some(LogError::Wrong(_))), "{refused:?}");
    }
    if let Err(error) = log.cut(&recovered.end) {
        panic!("{recovered:?} cannot be cut: {error}");
    }
    for index in stranded {
        assert!(
            is_aside(medium, &life.blocks[index].bytes),
            "lost in silence"
        );
    }
    let mut end = recovered.end;
    let mut builder = BlockBuilder::new();
    for _ in 0..2 {
        let (block, next) = next_block(&mut builder, &end);
        let appended = log.append(&[&block[..]]);
        assert!(appended.error.is_none(), "{:?}", appended.error);
        end = next;
    }
    drop(log);
    let (log, third) = open(medium, &[]);
    assert_eq!((third.end, third.torn, third.damage), (end, None, None));
    assert!(read_all(&log).starts_with(&kept));
}

fn next_block(builder: &mut BlockBuilder, after: &LogEnd) -> (bytes::Bytes, LogEnd) {
    build(builder, after, after.term.next(), Seq(0), 2, |entry| {
        entry[0] = 7;
    })
}

/// Is a block in one of the files that were put aside? They begin at a line of the log.
fn is_aside(medium: &MemoryMedium, block: &[u8]) -> bool {
    let paths = medium.paths();
    let mut aside = paths.iter().filter(|path| path.starts_with("quarantine/"));
    aside.any(|path| {
        let bytes = medium.content(path).unwrap();
        (0..bytes.len())
            .step_by(128)
            .any(|at| bytes[at..].starts_with(block))
    })
}
