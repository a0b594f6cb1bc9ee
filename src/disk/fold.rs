//! Makes the next checkpoint out of the last one and the log, in bounded memory.
//!
//! A stretch of the log is gathered into a delta, which is merged with the old records as they
//! stream by. A long stretch takes several rounds, each of which ends in a checkpoint.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::ledger::fold::{Delta, FoldError, Merge, Source, image_sums};
use crate::ledger::{Inconsistent, record_size};
use crate::log::{
    Block, Checkpoint, CheckpointSpec, CheckpointWriter, Log, LogError, blocks, checkpoint_name,
    install_checkpoint, log_dir,
};
use crate::model::{
    Adoption, Entry, HandedSum, LogEnd, LogNumber, LogTime, MoveNumber, Place, Section,
};
use crate::role::CheckpointInfo;

use super::calm::Patience;
use super::checkpoints::tag_of;
use super::shared::{Newest, Shared};
use super::steps::{Cuts, Steps, lines_of_moves};
use super::streams::{Stream, next_run};

/// Bytes of the log read at a time: they are gone through several times, so they stay near.
const READ_SIZE: u32 = 256 << 10;

/// Why no checkpoint was made.
#[derive(Debug)]
pub(super) enum FoldFailure {
    /// The image that an adoption refers to is not here.
    NoMoveFile(MoveNumber),
    Log(LogError),
}

impl From<LogError> for FoldFailure {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

/// What a stretch of the log changed, where it ends, and the images that it took slots from.
struct Gathered {
    delta: Delta,
    end: LogEnd,
    images: Vec<Checkpoint>,
}

/// Folds the log up to `through` into the newest checkpoint. `record_count_max` bounds memory.
///
/// The checkpoint stands for less where `through` lies between an adoption and its activation or
/// drop: for what was before the adoption.
pub(super) fn make_checkpoint(
    shared: &Shared,
    number: LogNumber,
    through: &LogEnd,
    ring_key: u128,
    record_count_max: u64,
) -> Result<CheckpointInfo, FoldFailure> {
    let slot = shared.slot(number);
    let log = shared.log(number)?;
    let mut patience = shared.patience();
    loop {
        let newest = slot.newest();
        if let Some(newest) = &newest {
            let header = newest.checkpoint.header();
            if header.ring_key != ring_key {
                let text =
                    format!("the checkpoint of log {number} was made under another hash key");
                return Err(LogError::Wrong(text).into());
            }
            if through.seq <= header.end.seq {
                return Ok(newest.info());
            }
        }
        let from = start(&log, newest.as_ref())?;
        let bounds = (&from, through, record_count_max);
        let gathered = gather(shared, &log, bounds, ring_key, &mut patience)?;
        if gathered.delta.is_empty() {
            let text = || {
                LogError::Wrong(format!(
                    "log {number} begins with an adoption that is not settled"
                ))
            };
            return Ok(newest.ok_or_else(text)?.info());
        }
        let old = newest.as_ref().map(|newest| &*newest.checkpoint);
        let checkpoint = write(shared, &log, old, gathered, ring_key, &mut patience)?;
        let end = checkpoint.end();
        slot.set_newest(Some(Newest {
            checkpoint: Arc::new(checkpoint),
            fetched: false,
        }));
        log.let_go(end.offset);
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
    shared: &Shared,
    log: &Log,
    (from, through, record_count_max): (&LogEnd, &LogEnd, u64),
    ring_key: u128,
    patience: &mut Patience<'_>,
) -> Result<Gathered, FoldFailure> {
    let mut gathered = Gathered {
        delta: Delta::new(ring_key),
        end: *from,
        images: Vec::new(),
    };
    let steps = Steps::new(shared, Cuts::None, ring_key);
    while gathered.end.seq < through.seq {
        let is_full = record_count_max <= gathered.delta.record_count();
        if is_full && gathered.delta.is_whole() {
            return Ok(gathered);
        }
        patience.wait();
        let bytes = read_some(log, &gathered.end, through)?;
        for block in blocks(&bytes, *log.verify()) {
            let block = block.map_err(|error| damage(log, &gathered.end, &error.to_string()))?;
            if take_folded(&steps, log, &mut gathered, &block, through)?.is_break() {
                return Ok(gathered);
            }
        }
    }
    if gathered.end.seq == through.seq && gathered.end.chain != through.chain {
        let text = format!(
            "block {} of log {} is another than the one that was named",
            through.seq,
            log.verify().log
        );
        return Err(LogError::Wrong(text).into());
    }
    Ok(gathered)
}

/// Takes the next block into a stretch, unless the stretch must end before it.
fn take_folded(
    steps: &Steps<'_>,
    log: &Log,
    gathered: &mut Gathered,
    block: &Block<'_>,
    through: &LogEnd,
) -> Result<ControlFlow<()>, FoldFailure> {
    let Gathered { delta, end, images } = gathered;
    if let Some(lines) = lines_of_moves(log, end, block)? {
        let adoption = Adoption::gather(lines.iter().map(|(entry, ..)| entry));
        if let Some(adoption) = adoption.map_err(|what| damage(log, end, what))? {
            if !is_settled(log, &block.end(), through, adoption.adopt.number)? {
                return Ok(ControlFlow::Break(()));
            }
            let missing = FoldFailure::NoMoveFile(adoption.file.image);
            let image = steps.find(&adoption)?.ok_or(missing)?;
            let sums = sums_in(&image)?;
            let source = delta.bring(&adoption, sums);
            assert!(source == Source::Image(images.len()));
            images.push(image);
        }
    }
    let mut absorb = |entry: &Entry, place, time| delta.absorb(entry, place, time);
    take(log, end, block, &mut absorb)?;
    Ok(ControlFlow::Continue(()))
}

/// Is the adoption activated or dropped behind `end`, and up to `through`?
fn is_settled(
    log: &Log,
    end: &LogEnd,
    through: &LogEnd,
    adopted: MoveNumber,
) -> Result<bool, LogError> {
    let mut end = *end;
    while end.seq < through.seq {
        let bytes = read_some(log, &end, through)?;
        for block in blocks(&bytes, *log.verify()) {
            let block = block.map_err(|error| damage(log, &end, &error.to_string()))?;
            let lines = lines_of_moves(log, &end, &block)?.unwrap_or_default();
            let settles = lines.iter().any(|(entry, ..)| match entry {
                Entry::Activation(activation) => activation.number == adopted,
                Entry::Drop { number } => *number == adopted,
                Entry::Change(_)
                | Entry::Horizon { .. }
                | Entry::Epoch(_)
                | Entry::HandOver(_)
                | Entry::HandedSums(_)
                | Entry::Adopt(_)
                | Entry::AdoptedFile(_)
                | Entry::AdoptedSlots(_) => false,
            });
            if settles {
                return Ok(true);
            }
            end = block.end();
        }
    }
    Ok(false)
}

/// What the accounts of an image hold.
fn sums_in(image: &Checkpoint) -> Result<Vec<HandedSum>, LogError> {
    let mut records = Vec::new();
    let sections = image.header().sections.iter();
    for info in sections.filter(|info| info.tag == tag_of(Section::Supply)) {
        for index in info.first_page..info.first_page + info.page_count {
            records.extend_from_slice(&image.page(index)?.records);
        }
    }
    image_sums(&records).map_err(|error| LogError::Damage(format!("image: {error}")))
}

/// Some blocks behind `end`; not none.
pub(super) fn read_some(log: &Log, end: &LogEnd, through: &LogEnd) -> Result<Bytes, LogError> {
    let (_, bytes) = log.read_blocks(end.offset, through.offset, READ_SIZE)?;
    if bytes.is_empty() {
        return Err(LogError::Wrong(format!(
            "log {} has no block {} below offset {}",
            log.verify().log,
            end.seq.next(),
            through.offset
        )));
    }
    Ok(bytes)
}

fn take(
    log: &Log,
    end: &mut LogEnd,
    block: &Block<'_>,
    absorb: &mut impl FnMut(&Entry, Place, LogTime) -> Result<(), Inconsistent>,
) -> Result<(), LogError> {
    block
        .follows(end, log.verify().segment_size)
        .map_err(|error| damage(log, end, &error.to_string()))?;
    for (place, time, bytes) in block.entries() {
        // Looked at where it was read to: moved, it would wait for all lines written before it.
        let read = Entry::read(bytes);
        let entry = read
            .as_ref()
            .map_err(|error| damage(log, end, &format!("{error} at {place}")))?;
        absorb(entry, place, time).map_err(|error| damage(log, end, &error.to_string()))?;
    }
    *end = block.end();
    Ok(())
}

/// What is wrong with the block behind `end`.
pub(super) fn damage(log: &Log, end: &LogEnd, what: &str) -> LogError {
    let (number, seq) = (log.verify().log, end.seq.next());
    LogError::Damage(format!("log {number}, block {seq}: {what}"))
}

/// Merges old records and delta into a new file and puts it in the old one's place.
fn write(
    shared: &Shared,
    log: &Log,
    old: Option<&Checkpoint>,
    Gathered { delta, end, images }: Gathered,
    ring_key: u128,
    patience: &mut Patience<'_>,
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
            let mut streams = streams(old, &images, section);
            merge_section(&mut streams, section, &mut merge, &mut writer, patience)?;
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

/// The pages of a section in the old checkpoint and in images.
fn streams<'a>(
    old: Option<&'a Checkpoint>,
    images: &'a [Checkpoint],
    section: Section,
) -> Vec<Stream<'a>> {
    let old = old.map(|old| Stream::new(Source::Checkpoint, old, section));
    let images = images.iter().enumerate();
    let images = images.map(|(index, image)| Stream::new(Source::Image(index), image, section));
    let all = old.into_iter().chain(images);
    match section {
        Section::Meta | Section::Supply => all
            .filter(|stream| stream.source == Source::Checkpoint)
            .collect(),
        Section::Accounts | Section::Ids => all.collect(),
    }
}

/// Merges records in the order of their keys, in runs of one stream each.
fn merge_section(
    streams: &mut [Stream<'_>],
    section: Section,
    merge: &mut Merge,
    writer: &mut CheckpointWriter,
    patience: &mut Patience<'_>,
) -> Result<(), LogError> {
    let broken = |error: FoldError| LogError::Damage(format!("fold: {error}"));
    let (tag, size) = (tag_of(section), record_size(section));
    let mut new = Vec::new();
    for stream in &mut *streams {
        stream.fill()?;
    }
    while let Some((index, limit)) = next_run(streams) {
        patience.wait();
        let stream = &mut streams[index];
        new.clear();
        let run = stream.take_below(limit);
        merge
            .push(section, stream.source, &run, &mut new)
            .map_err(broken)?;
        stream.fill()?;
        writer.push(tag, size, &new)?;
    }
    loop {
        patience.wait();
        new.clear();
        let is_over = merge.finish_piece(section, &mut new).map_err(broken)?;
        writer.push(tag, size, &new)?;
        if is_over {
            return Ok(());
        }
    }
}
