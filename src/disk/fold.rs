//! Makes the next checkpoint out of the last one and the log, in bounded memory.
//!
//! A stretch of the log is gathered into a delta, which is merged with the old records as they
//! stream by. A long stretch takes several rounds, each of which ends in a checkpoint.

use std::sync::Arc;

use crate::ledger::fold::{Delta, FoldError, Merge};
use crate::ledger::{Ahead, Inconsistent, Ledger, TOUCH_COUNT, record_size};
use crate::log::{
    Block, Checkpoint, CheckpointSpec, CheckpointWriter, Log, LogError, blocks, checkpoint_name,
    install_checkpoint, log_dir,
};
use crate::model::{ENTRY_SIZE, Entry, LogEnd, LogNumber, LogTime, Place, Section};
use crate::role::CheckpointInfo;

use super::checkpoints::{section_of, tag_of};
use super::shared::{Newest, Shared};

/// Bytes of the log read at a time.
const READ_SIZE: u32 = 1 << 20;

/// Pages between two looks at whether a spare segment is due.
const PAGES_PER_LOOK: u64 = 64;

/// Folds the log up to `through` into the newest checkpoint. `record_count_max` bounds memory.
pub(super) fn make_checkpoint(
    shared: &Shared,
    number: LogNumber,
    through: &LogEnd,
    ring_key: u128,
    record_count_max: u64,
) -> Result<CheckpointInfo, LogError> {
    let slot = shared.slot(number);
    let log = shared.log(number)?;
    loop {
        let newest = slot.newest();
        if let Some(newest) = &newest {
            let header = newest.checkpoint.header();
            if header.ring_key != ring_key {
                return Err(LogError::Wrong(format!(
                    "the checkpoint of log {number} was made under another hash key"
                )));
            }
            if through.seq <= header.end.seq {
                return Ok(newest.info());
            }
        }
        let from = start(&log, newest.as_ref())?;
        let gathered = gather(&log, &from, through, ring_key, record_count_max)?;
        let old = newest.as_ref().map(|newest| &*newest.checkpoint);
        let checkpoint = write(shared, &log, old, gathered, ring_key)?;
        slot.set_newest(Some(Newest {
            checkpoint: Arc::new(checkpoint),
            fetched: false,
        }));
    }
}

/// The end that the next fold goes on from.
pub(super) fn start(log: &Log, newest: Option<&Newest>) -> Result<LogEnd, LogError> {
    let first = log.first();
    match newest {
        Some(newest) => Ok(newest.checkpoint.end()),
        None if first == LogEnd::default() => Ok(first),
        None => Err(LogError::Damage(format!(
            "log {} begins behind block {}, and no checkpoint stands for what was before",
            log.verify().log,
            first.seq
        ))),
    }
}

/// Collects what changed behind `from`, up to `through` or to the bound.
fn gather(
    log: &Log,
    from: &LogEnd,
    through: &LogEnd,
    ring_key: u128,
    record_count_max: u64,
) -> Result<(Delta, LogEnd), LogError> {
    let mut delta = Delta::new(ring_key);
    let mut end = *from;
    while end.seq < through.seq && delta.record_count() < record_count_max {
        end = replay(log, &end, through, READ_SIZE, &mut delta)?;
    }
    if end.seq == through.seq && end.chain != through.chain {
        return Err(LogError::Wrong(format!(
            "block {} of log {} is another than the one that was named",
            through.seq,
            log.verify().log
        )));
    }
    Ok((delta, end))
}

/// What entries of the log are handed on to.
pub(super) trait Follower {
    /// These entries come next.
    fn read_ahead(&self, _records: &[[u8; ENTRY_SIZE]]) {}

    /// Takes one entry in.
    fn follow(&mut self, entry: &Entry, place: Place, time: LogTime) -> Result<(), Inconsistent>;
}

impl Follower for Delta {
    fn follow(&mut self, entry: &Entry, place: Place, time: LogTime) -> Result<(), Inconsistent> {
        self.absorb(entry, place, time)
    }
}

impl Follower for Ledger {
    fn read_ahead(&self, records: &[[u8; ENTRY_SIZE]]) {
        let mut ahead = Ahead::default();
        for record in records {
            ahead.push_entry(record);
        }
        self.touch(&ahead);
    }

    fn follow(&mut self, entry: &Entry, place: Place, time: LogTime) -> Result<(), Inconsistent> {
        self.absorb(entry, place, time)
    }
}

/// Reads some blocks behind `end` and hands their entries on. Where the log is read up to.
pub(super) fn replay(
    log: &Log,
    end: &LogEnd,
    through: &LogEnd,
    size_max: u32,
    follower: &mut impl Follower,
) -> Result<LogEnd, LogError> {
    let (_, bytes) = log.read_blocks(end.offset, through.offset, size_max)?;
    let mut end = *end;
    for block in blocks(&bytes, *log.verify()) {
        let block = block.map_err(|error| damage(log, &end, &error.to_string()))?;
        take(log, &mut end, &block, follower)?;
    }
    if bytes.is_empty() {
        return Err(LogError::Wrong(format!(
            "log {} has no block {} below offset {}",
            log.verify().log,
            end.seq.next(),
            through.offset
        )));
    }
    Ok(end)
}

fn take(
    log: &Log,
    end: &mut LogEnd,
    block: &Block<'_>,
    follower: &mut impl Follower,
) -> Result<(), LogError> {
    block
        .follows(end, log.verify().segment_size)
        .map_err(|error| damage(log, end, &error.to_string()))?;
    let mut entries = block.entries();
    for records in block.records().chunks(TOUCH_COUNT) {
        follower.read_ahead(records);
        for (place, time, bytes) in entries.by_ref().take(records.len()) {
            let entry = Entry::read(bytes)
                .map_err(|error| damage(log, end, &format!("{error} at {place}")))?;
            let taken = follower.follow(&entry, place, time);
            taken.map_err(|error| damage(log, end, &error.to_string()))?;
        }
    }
    *end = block.end();
    Ok(())
}

fn damage(log: &Log, end: &LogEnd, what: &str) -> LogError {
    let (number, seq) = (log.verify().log, end.seq.next());
    LogError::Damage(format!("log {number}, block {seq}: {what}"))
}

/// Merges old records and delta into a new file and puts it in the old one's place.
fn write(
    shared: &Shared,
    log: &Log,
    old: Option<&Checkpoint>,
    (delta, end): (Delta, LogEnd),
    ring_key: u128,
) -> Result<Checkpoint, LogError> {
    let number = log.verify().log;
    let dir = log_dir(number);
    let path = format!("{dir}/checkpoint.tmp");
    let medium = &*shared.medium;
    let spec = CheckpointSpec {
        cluster: log.verify().cluster,
        log: number,
        ring_key,
    };
    let mut writer = CheckpointWriter::create(medium, &path, spec)?;
    let mut merge = delta.merge();
    let merged = (|| {
        for section in Section::ALL {
            merge_section(shared, old, section, &mut merge, &mut writer)?;
        }
        writer.finish(end, &log.terms_through(end.seq))
    })();
    if merged.is_err() {
        // Gives the space back; opening the log removes it otherwise.
        medium.remove(&path).unwrap_or(());
    }
    merged?;
    install_checkpoint(medium, &dir, &path, end.offset)?;
    let path = format!("{dir}/{}", checkpoint_name(end.offset));
    Checkpoint::open(medium, &path)?.ok_or_else(|| LogError::Damage(format!("{path} is gone")))
}

fn merge_section(
    shared: &Shared,
    old: Option<&Checkpoint>,
    section: Section,
    merge: &mut Merge,
    writer: &mut CheckpointWriter,
) -> Result<(), LogError> {
    let broken = |error: FoldError| LogError::Damage(format!("fold: {error}"));
    let (tag, size) = (tag_of(section), record_size(section));
    let mut new = Vec::new();
    if let Some(old) = old {
        let sections = old.header().sections.iter();
        for info in sections.filter(|info| info.tag == tag) {
            for index in info.first_page..info.first_page + info.page_count {
                let page = old.page(index)?;
                section_of(&page)?;
                new.clear();
                merge
                    .push(section, &page.records, &mut new)
                    .map_err(broken)?;
                writer.push(tag, size, &new)?;
                if index.is_multiple_of(PAGES_PER_LOOK) {
                    shared.keep_spares();
                }
            }
        }
    }
    new.clear();
    merge.finish(section, &mut new).map_err(broken)?;
    writer.push(tag, size, &new)
}
