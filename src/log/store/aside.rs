//! Putting aside: what is cut off or replaced goes to `quarantine/`, durable, before it is gone.

use std::sync::Arc;

use super::Log;
use crate::log::block::{BLOCK_MAGIC, split_offset};
use crate::log::error::{LogError, While, sync_failed};
use crate::log::medium::{Access, Medium};
use crate::log::recovery::evidence;
use crate::log::segment::{Scanner, Segment, number_in, segment_name};
use crate::log::{SEGMENT_HEADER_SIZE, small_file::SmallFile};
use crate::model::{LogEnd, LogNumber, to_u64, to_usize};

/// Where it goes.
pub(super) const DIR: &str = "quarantine";

/// Bytes copied at a time.
const PIECE_SIZE: u64 = 1 << 20;

/// The folder for what is put aside of one log.
#[derive(Debug)]
pub(super) struct Quarantine<'a> {
    medium: &'a dyn Medium,
    log: LogNumber,
}

impl<'a> Quarantine<'a> {
    pub(super) fn open(medium: &'a dyn Medium, log: LogNumber) -> Result<Self, LogError> {
        medium
            .create_dir(DIR)
            .during(|| format!("creating {DIR}"))?;
        medium
            .sync_dir("")
            .during(|| "syncing the data folder".to_owned())?;
        Ok(Self { medium, log })
    }

    /// Moves everything of a log but its checkpoints here, the base last: a crash in between
    /// leaves a log that is visibly damaged and is put aside again.
    pub(super) fn take_log(&self, dir: &str) -> Result<(), LogError> {
        let names = self.medium.list(dir).during(|| format!("listing {dir}"))?;
        for name in &names {
            if number_in(name, "segment").is_some() {
                self.take_file(dir, name)?;
            } else if number_in(name, "retired").is_some() || name == "base.tmp" {
                let path = format!("{dir}/{name}");
                self.medium
                    .remove(&path)
                    .during(|| format!("removing {path}"))?;
            }
        }
        let base = SmallFile::Base.name();
        if names.iter().any(|name| name == base) {
            self.take_file(dir, base)?;
        }
        Ok(())
    }

    /// Moves one file here; its bytes are as durable as before.
    pub(super) fn take_file(&self, dir: &str, name: &str) -> Result<(), LogError> {
        let from = format!("{dir}/{name}");
        let to = self.free_name(name)?;
        self.medium
            .rename(&from, &to)
            .during(|| format!("moving {from} to {to}"))?;
        for dir in [DIR, dir] {
            self.medium
                .sync_dir(dir)
                .map_err(|error| sync_failed(format!("syncing {dir}"), &error))?;
        }
        Ok(())
    }

    /// Copies offsets `from` to `to` of the log here and makes the copy durable.
    fn copy(&self, segment: &Segment, from: u64, to: u64) -> Result<(), LogError> {
        let path = self.free_name(&format!("offset-{from:016x}-to-{to:016x}"))?;
        let file = self
            .medium
            .create(&path)
            .during(|| format!("creating {path}"))?;
        let mut at = from;
        while at < to {
            let mut bytes = vec![0; to_usize(PIECE_SIZE.min(to - at))];
            segment.read(at, &mut bytes)?;
            file.write_at(at - from, &bytes)
                .during(|| format!("writing {path}"))?;
            at += to_u64(bytes.len());
        }
        file.sync()
            .map_err(|error| sync_failed(format!("syncing {path}"), &error))?;
        self.medium
            .sync_dir(DIR)
            .map_err(|error| sync_failed(format!("syncing {DIR}"), &error))
    }

    fn free_name(&self, what: &str) -> Result<String, LogError> {
        free_name(self.medium, &format!("log-{:05}-{what}", self.log.get()))
    }
}

fn free_name(medium: &dyn Medium, what: &str) -> Result<String, LogError> {
    let names = medium.list(DIR).during(|| format!("listing {DIR}"))?;
    let free = (0..=names.len())
        .map(|count| format!("{what}-{count}"))
        .find(|name| names.binary_search(name).is_err())
        .expect("there are more numbers than names");
    Ok(format!("{DIR}/{free}"))
}

/// Moves one file that is of no log alone to `quarantine/`, under a name with that of its folder.
pub fn put_file_aside(medium: &dyn Medium, dir: &str, name: &str) -> Result<(), LogError> {
    medium
        .create_dir(DIR)
        .and_then(|()| medium.sync_dir(""))
        .during(|| format!("creating {DIR}"))?;
    let from = format!("{dir}/{name}");
    let to = free_name(medium, &format!("{dir}-{name}"))?;
    medium
        .rename(&from, &to)
        .during(|| format!("moving {from} to {to}"))?;
    for dir in [DIR, dir] {
        medium
            .sync_dir(dir)
            .map_err(|error| sync_failed(format!("syncing {dir}"), &error))?;
    }
    Ok(())
}

/// Moves one file of a log to `quarantine/`.
pub fn put_aside(
    medium: &dyn Medium,
    log: LogNumber,
    dir: &str,
    name: &str,
) -> Result<(), LogError> {
    Quarantine::open(medium, log)?.take_file(dir, name)
}

impl Log {
    /// Puts everything behind `to` aside and leaves zeros. How many bytes were put aside.
    ///
    /// `to` must be the end of a block of this log, or its beginning.
    pub fn cut(&self, to: &LogEnd) -> Result<u64, LogError> {
        let _files = self.lock_files();
        if let Some(poisoned) = self.poisoned() {
            return Err(poisoned);
        }
        self.check_end(to)?;
        let quarantine = Quarantine::open(&*self.medium, self.verify.log)?;
        // Half way, nothing fits behind the end.
        self.state().uncut = true;
        let aside_size = self.cut_segments(to, &quarantine)?;
        let mut state = self.state();
        state.end = *to;
        state.uncut = false;
        state.terms.retain(|start| start.seq <= to.seq);
        let size = self.verify.segment_size;
        // What is written there from now on is another segment.
        state.let_go = state.let_go.min(split_offset(to.offset, size).0);
        state.spans.retain(|_, span| span.seq <= to.seq);
        if state.base.after.seq < to.seq {
            let (number, _) = split_offset(to.offset - 1, size);
            state.spans.insert(number, *to);
        }
        Ok(aside_size)
    }

    /// Is `to` the beginning of the kept log or the end of one of its blocks?
    fn check_end(&self, to: &LogEnd) -> Result<(), LogError> {
        if *to == self.first() || *to == self.end() {
            return Ok(());
        }
        let unknown = || {
            let (seq, offset) = (to.seq, to.offset);
            LogError::Wrong(format!(
                "{} has no block {seq} that ends at {offset}",
                self.dir
            ))
        };
        let size = self.verify.segment_size;
        let (number, _) = split_offset(to.offset.checked_sub(1).ok_or_else(unknown)?, size);
        let segment = self.segment(number).ok_or_else(unknown)?;
        let mut scanner = Scanner::new();
        let mut at = segment.start() + SEGMENT_HEADER_SIZE;
        while at < to.offset {
            let Ok(Some(block)) = scanner.block(&segment, at)? else {
                break;
            };
            at = block.end().offset;
            if block.end() == *to {
                return Ok(());
            }
        }
        Err(unknown())
    }

    /// Higher segments first, so that a crash leaves no gap.
    fn cut_segments(&self, to: &LogEnd, quarantine: &Quarantine<'_>) -> Result<u64, LogError> {
        let size = self.verify.segment_size;
        let (last, _) = split_offset(to.offset, size);
        let mut numbers: Vec<_> = self
            .medium
            .list(&self.dir)
            .during(|| format!("listing {}", self.dir))?
            .iter()
            .filter_map(|name| number_in(name, "segment"))
            .filter(|number| last <= *number)
            .collect();
        numbers.sort_unstable();
        let mut aside_size = 0;
        let mut scanner = Scanner::new();
        for number in numbers.into_iter().rev() {
            let segment = self.segment(number);
            let found = match &segment {
                Some(segment) => evidence(segment, segment.start().max(to.offset), &mut scanner)?,
                None => None,
            };
            match (segment, found) {
                // It may serve as the last one, as the spare behind it, or as that of a block which
                // was on its way there.
                (Some(_), None) if number <= last + 2 => (),
                (Some(segment), Some(found)) if number == last => {
                    let from = to.offset.max(segment.start() + SEGMENT_HEADER_SIZE);
                    let stop = found.to.min(segment.stop());
                    quarantine.copy(&segment, from, stop)?;
                    self.zero(&segment, from, stop)?;
                    aside_size += stop - from;
                }
                (Some(_) | None, Some(_) | None) => {
                    quarantine.take_file(&self.dir, &segment_name(number))?;
                    let mut state = self.state();
                    state.segments.remove(&number);
                    state.lost.remove(&number);
                    aside_size += size;
                }
            }
        }
        if self.segment(last).is_none() {
            self.make_segment(last)?;
        }
        Ok(aside_size)
    }

    /// Zeroes offsets `from` to `to` and syncs.
    fn zero(&self, segment: &Arc<Segment>, from: u64, to: u64) -> Result<(), LogError> {
        let zeros = vec![0; to_usize(PIECE_SIZE)];
        let mut at = from;
        while at < to {
            let piece = to_usize(PIECE_SIZE.min(to - at));
            segment
                .write(at, &zeros[..piece])
                .map_err(|error| self.poison(format!("zeroing {}: {error}", self.dir)))?;
            at += to_u64(piece);
        }
        segment
            .file
            .sync()
            .map_err(|error| self.poison(format!("syncing {}: {error}", self.dir)))
    }
}

/// Does the file hold a block where the first one lies? Looks at the magic only: the log's own
/// salt is not known without its base.
pub(super) fn has_blocks(medium: &dyn Medium, path: &str) -> Result<bool, LogError> {
    let file = medium
        .open(path, Access::Read)
        .during(|| format!("opening {path}"))?;
    let Some(file) = file else {
        return Ok(false);
    };
    let size = file.size().during(|| format!("measuring {path}"))?;
    let mut magic = [0; BLOCK_MAGIC.len()];
    if size < SEGMENT_HEADER_SIZE + to_u64(magic.len()) {
        return Ok(false);
    }
    file.read_at(SEGMENT_HEADER_SIZE, &mut magic)
        .during(|| format!("reading {path}"))?;
    Ok(magic == BLOCK_MAGIC)
}
