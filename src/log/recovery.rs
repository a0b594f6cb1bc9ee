//! Where a log ends, and what the bytes behind its end are: nothing, a torn tail, or damage.
//!
//! Reads only. Follows the chain from the base, then looks at everything behind the end for
//! evidence of writes. The rules in words: docs/log-format.md, "Recovery".
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeMap;

use super::base::{Base, note_term};
use super::block::{
    BLOCK_HEADER_SIZE, BLOCK_MAGIC, Block, BlockError, BlockHead, Verify, block_offsets,
    split_offset,
};
use super::error::LogError;
use super::segment::{Opened, Scanner, Segment};
use crate::model::{LogEnd, Seq, TermStart, to_u64, to_usize};

/// What recovery found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Whose log it is, and how large its segments are.
    pub verify: Verify,
    /// First byte of the first segment that is kept.
    pub first_offset: u64,
    /// Where the readable log ends.
    pub end: LogEnd,
    /// The highest committed seq that any readable block names.
    pub committed: Seq,
    /// Term history, oldest first.
    pub terms: Vec<TermStart>,
    /// Blocks up to `end`.
    pub block_count: u64,
    /// Entries up to `end`.
    pub entry_count: u64,
    /// Those of the asked-for ends that lie in this log's history.
    pub agreed: Vec<LogEnd>,
    /// What lies behind `end` and was never acknowledged, in words with its position.
    pub torn: Option<String>,
    /// What should verify and does not, in words with its position.
    pub damage: Option<String>,
}

/// The chain of blocks from the base to the end.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) end: LogEnd,
    pub(super) committed: Seq,
    pub(super) terms: Vec<TermStart>,
    /// End of the last block in each segment that has one.
    pub(super) spans: BTreeMap<u64, LogEnd>,
    pub(super) block_count: u64,
    pub(super) entry_count: u64,
    pub(super) agreed: Vec<LogEnd>,
    /// Why it does not go on behind the end, where that is not for want of bytes.
    stop: Option<String>,
}

/// Bytes behind the end that someone wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Evidence {
    /// Offset in the log of the first one.
    pub(super) from: u64,
    /// Offset in the log behind the last one.
    pub(super) to: u64,
    /// What the valid blocks among them name.
    pub(super) committed: Seq,
    /// Valid blocks among them.
    pub(super) block_count: u64,
}

/// Recovers a log from its base and whatever was found under its segments' names.
pub(super) fn recover(
    base: &Base,
    files: &BTreeMap<u64, Opened>,
    asked: &[LogEnd],
) -> Result<(Recovered, Walk), LogError> {
    let mut scanner = Scanner::new();
    let walk = Walk::run(base, files, asked, &mut scanner)?;
    let mut damage = lost_segment(base, files);
    let mut torn = None;
    let mut committed = walk.committed;
    let (end_segment, _) = split_offset(walk.end.offset, base.verify.segment_size);
    for (_, file) in files.range(end_segment..) {
        let (Opened::Sound(segment) | Opened::Damaged { segment, .. }) = file else {
            continue;
        };
        let from = segment.start().max(walk.end.offset);
        if let Some(found) = evidence(segment, from, &mut scanner)? {
            committed = committed.max(found.committed);
            torn.get_or_insert_with(|| describe_torn(base, &walk, &found));
        }
    }
    if walk.end.seq < committed && damage.is_none() {
        damage = Some(describe_damage(base, &walk, committed));
    }
    let recovered = Recovered {
        verify: base.verify,
        first_offset: base.after.offset,
        end: walk.end,
        committed,
        terms: walk.terms.clone(),
        block_count: walk.block_count,
        entry_count: walk.entry_count,
        agreed: walk.agreed.clone(),
        torn,
        damage,
    };
    Ok((recovered, walk))
}

/// Segments are prepared one after the other and their headers are durable before their names:
/// a gap, a wrong length or a bad header is no unfinished write.
fn lost_segment(base: &Base, files: &BTreeMap<u64, Opened>) -> Option<String> {
    let mut due = base.first_segment();
    for (number, file) in files.range(due..) {
        if *number != due {
            break;
        }
        match file {
            Opened::Sound(_) => due += 1,
            Opened::Damaged { why, .. } | Opened::Lost(why) => return Some(why.clone()),
        }
    }
    let gone = due == base.first_segment() || files.range(due..).next().is_some();
    gone.then(|| {
        let log = base.verify.log;
        format!("segment {due:016x} of log {log} is gone")
    })
}

fn describe_torn(base: &Base, walk: &Walk, found: &Evidence) -> String {
    format!(
        "unfinished write in log {} behind block {}: offsets {} to {}, {} whole blocks in it",
        base.verify.log, walk.end.seq, found.from, found.to, found.block_count,
    )
}

fn describe_damage(base: &Base, walk: &Walk, committed: Seq) -> String {
    let (segment, at) = split_offset(walk.end.offset, base.verify.segment_size);
    let reason = walk.stop.as_deref().unwrap_or("nothing is there");
    format!(
        "block {} of log {} is lost: {reason} (offset {}, segment {segment:016x} byte {at}); a \
         later block says that {committed} was committed",
        walk.end.seq.next(),
        base.verify.log,
        walk.end.offset,
    )
}

impl Walk {
    fn run(
        base: &Base,
        files: &BTreeMap<u64, Opened>,
        asked: &[LogEnd],
        scanner: &mut Scanner,
    ) -> Result<Self, LogError> {
        let mut walk = Self {
            end: base.after,
            committed: Seq(0),
            terms: base.terms.clone(),
            spans: BTreeMap::new(),
            block_count: 0,
            entry_count: 0,
            agreed: Vec::new(),
            stop: None,
        };
        walk.compare(asked);
        while walk.step(base.verify.segment_size, files, scanner)? {
            walk.compare(asked);
        }
        Ok(walk)
    }

    /// Is the end that was just reached one that was asked for? What lies before the base is
    /// known by number and chain value only.
    fn compare(&mut self, asked: &[LogEnd]) {
        let same = |end: &&LogEnd| end.seq == self.end.seq && end.chain == self.end.chain;
        let Some(end) = asked.iter().find(same) else {
            return;
        };
        self.agreed.push(*end);
    }

    /// One block further, here or in the next segment. False at the end.
    fn step(
        &mut self,
        segment_size: u64,
        files: &BTreeMap<u64, Opened>,
        scanner: &mut Scanner,
    ) -> Result<bool, LogError> {
        let (here, next) = block_offsets(self.end.offset, segment_size);
        self.stop = None;
        for offset in [here, next] {
            let (number, _) = split_offset(offset, segment_size);
            let Some(Opened::Sound(segment)) = files.get(&number) else {
                continue;
            };
            match scanner.block(segment, offset)? {
                Ok(Some(block)) => match block.follows(&self.end, segment_size) {
                    Ok(()) => {
                        self.take(&block);
                        return Ok(true);
                    }
                    Err(error) => self.stopped(offset, &error.to_string()),
                },
                Ok(None) => (),
                Err(error) => self.stopped(offset, &error.to_string()),
            }
        }
        Ok(false)
    }

    fn stopped(&mut self, offset: u64, error: &str) {
        self.stop
            .get_or_insert_with(|| format!("{error} at offset {offset}"));
    }

    fn take(&mut self, block: &Block<'_>) {
        let head = block.head();
        self.end = block.end();
        self.committed = self.committed.max(head.committed);
        self.spans.insert(head.segment, self.end);
        self.block_count += 1;
        self.entry_count += u64::from(head.entry_count);
        let start = TermStart {
            term: head.term,
            seq: head.seq,
        };
        note_term(&mut self.terms, start);
    }
}

/// Looks for writes from offset `from` of the log to the end of the segment.
///
/// In a file of zeros any other byte is one; in one that was used before only block headers that
/// say that they lie where they lie.
pub(super) fn evidence(
    segment: &Segment,
    from: u64,
    scanner: &mut Scanner,
) -> Result<Option<Evidence>, LogError> {
    let mut found = None;
    let mut at = from.max(segment.start() + super::SEGMENT_HEADER_SIZE);
    while at < segment.stop() {
        let bytes = scanner.bytes(segment, at)?;
        let done = look_at(bytes, at, segment, &mut found);
        assert!(0 < done, "a window holds a whole block");
        at += done;
    }
    Ok(found)
}

/// Most of what lies behind an end: skipped at the speed of memory.
static ZEROS: [u8; 4_096] = [0; 4_096];

/// Looks at the lines of one window; how many bytes of it are done.
fn look_at(bytes: &[u8], start: u64, segment: &Segment, found: &mut Option<Evidence>) -> u64 {
    let mut rest = bytes;
    let mut at = start;
    while let Some(line) = rest.first_chunk::<BLOCK_HEADER_SIZE>() {
        if rest.starts_with(&ZEROS) {
            at += to_u64(ZEROS.len());
            rest = rest.get(ZEROS.len()..).unwrap_or_default();
            continue;
        }
        let mut size = to_u64(BLOCK_HEADER_SIZE);
        if let Some(head) = header_at(line, at, segment) {
            let block = match Block::read(rest, &segment.verify) {
                // Cut off by the window, not by the segment: the next window has all of it.
                Err(BlockError::Short { .. }) if start < at => return at - start,
                block => block.ok().flatten(),
            };
            let claimed = u64::from(head.size);
            note(
                found,
                at,
                at + claimed,
                block.is_some().then_some(head.committed),
            );
            if block.is_some() {
                size = claimed;
            }
        } else if !segment.used_before && *line != [0; BLOCK_HEADER_SIZE] {
            note(found, at, at + size, None);
        }
        at += size;
        rest = rest.get(to_usize(size)..).unwrap_or_default();
    }
    if rest.is_empty() {
        at - start
    } else {
        // Less than a line: only at the end of a file whose size is no multiple of a line.
        at - start + to_u64(rest.len())
    }
}

fn header_at(line: &[u8; BLOCK_HEADER_SIZE], at: u64, segment: &Segment) -> Option<BlockHead> {
    if !line.starts_with(&BLOCK_MAGIC) {
        return None;
    }
    let head = BlockHead::read(line, &segment.verify).ok()?;
    (head.offset == at).then_some(head)
}

fn note(found: &mut Option<Evidence>, from: u64, to: u64, valid: Option<Seq>) {
    let evidence = found.get_or_insert(Evidence {
        from,
        to,
        committed: Seq(0),
        block_count: 0,
    });
    evidence.to = evidence.to.max(to);
    if let Some(committed) = valid {
        evidence.committed = evidence.committed.max(committed);
        evidence.block_count += 1;
    }
}
