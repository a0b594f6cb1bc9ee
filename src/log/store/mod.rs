//! One log: its segments, its end, and everything that is done to them.
//!
//! Shared by the threads that append, read and prepare. One thread appends, cuts and creates; the
//! others never touch the end. The lock on the state is never held during IO.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::base::{Base, note_term};
use super::block::{BLOCK_HEADER_SIZE, BlockHead, Verify, block_offsets, split_offset};
use super::error::{LogError, While, sync_failed};
use super::medium::Medium;
use super::recovery::{Recovered, recover};
use super::segment::{Opened, Opening, Segment, name_file, number_in, retired_name, segment_name};
use super::small_file::SmallFile;
use crate::canary::{self, Bug};
use crate::limits::{LOG_UNSYNCED_SIZE_MAX, SEGMENT_POOL_COUNT_MAX};
use crate::model::{ENTRY_SIZE, LogEnd, LogNumber, Place, Seq, TermStart, to_u64, to_usize};

mod again;
mod aside;
mod read;

use aside::Quarantine;

pub use aside::{put_aside, put_file_aside};

/// The folder of a log.
#[must_use]
pub fn log_dir(log: LogNumber) -> String {
    format!("logs/{:05}", log.get())
}

/// An open log.
#[derive(Debug)]
pub struct Log {
    medium: Arc<dyn Medium>,
    dir: String,
    verify: Verify,
    /// Held by whoever prepares, retires or cuts: they change the set of files.
    files: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    base: Base,
    segments: BTreeMap<u64, Arc<Segment>>,
    /// End of the last block in each segment that has one.
    spans: BTreeMap<u64, LogEnd>,
    /// Where the durable log ends.
    end: LogEnd,
    terms: Vec<TermStart>,
    /// Wait to be used again.
    retired: Vec<Arc<Segment>>,
    /// Segments below this number were let go.
    let_go: u64,
    /// Numbers of segments that are damaged as files; nothing may take their names.
    lost: BTreeSet<u64>,
    /// Something lies behind the end: it must be cut before anything is appended.
    uncut: bool,
    poisoned: Option<String>,
}

/// What became of an append.
#[derive(Debug)]
pub struct Appended {
    /// So many of the blocks are durable.
    pub count: usize,
    /// Why the others are not.
    pub error: Option<LogError>,
}

impl Appended {
    const fn nothing(error: LogError) -> Self {
        Self {
            count: 0,
            error: Some(error),
        }
    }
}

impl Log {
    /// Opens and recovers a log. `None`: there is none. `asked` are ends that the caller would
    /// like to find in the log's history (of checkpoints).
    pub fn open(
        medium: Arc<dyn Medium>,
        log: LogNumber,
        asked: &[LogEnd],
        opening: Opening,
    ) -> Result<Option<(Self, Recovered)>, LogError> {
        let dir = log_dir(log);
        let Some(base) = Base::load(&*medium, &dir, log)? else {
            return refuse_orphans(&*medium, &dir).map(|()| None);
        };
        let mut retired = Vec::new();
        if opening == Opening::Use {
            medium
                .sync_dir(&dir)
                .map_err(|error| sync_failed(format!("syncing {dir}"), &error))?;
            retired = tidy(&*medium, &dir, &base)?;
        }
        let files = open_files(&*medium, &dir, &base, opening)?;
        let (recovered, walk) = recover(&base, &files, asked)?;
        if opening == Opening::Use {
            again::write_again(&files, &walk, recovered.committed)?;
        }
        let mut segments = BTreeMap::new();
        let mut lost = BTreeSet::new();
        for (number, file) in files {
            match file {
                Opened::Sound(segment) => drop(segments.insert(number, Arc::new(segment))),
                Opened::Damaged { .. } | Opened::Lost(_) => drop(lost.insert(number)),
            }
        }
        let log = Self {
            medium,
            dir,
            verify: base.verify,
            files: Mutex::new(()),
            state: Mutex::new(State {
                base,
                segments,
                spans: walk.spans,
                end: walk.end,
                terms: walk.terms,
                retired,
                let_go: 0,
                lost,
                uncut: recovered.torn.is_some() || recovered.damage.is_some(),
                poisoned: None,
            }),
        };
        Ok(Some((log, recovered)))
    }

    /// Creates an empty log behind `after`, whose offset must be the first byte of a segment.
    /// What there is of this log is put aside first. `terms` is the history up to `after`.
    pub fn create(
        medium: Arc<dyn Medium>,
        verify: Verify,
        after: LogEnd,
        terms: Vec<TermStart>,
    ) -> Result<Self, LogError> {
        if !after.offset.is_multiple_of(verify.segment_size) {
            let offset = after.offset;
            return Err(LogError::Wrong(format!(
                "a log cannot begin at offset {offset}: no segment begins there"
            )));
        }
        let dir = log_dir(verify.log);
        for path in ["logs", &dir, aside::DIR] {
            medium
                .create_dir(path)
                .during(|| format!("creating {path}"))?;
        }
        for path in ["", "logs"] {
            medium
                .sync_dir(path)
                .during(|| format!("syncing folder {path}"))?;
        }
        Quarantine::open(&*medium, verify.log)?.take_log(&dir)?;
        let base = Base {
            verify,
            after,
            terms,
        };
        let first = base.first_segment();
        let segment = Segment::create(&*medium, &dir, &verify, first)?;
        base.save(&*medium, &dir)?;
        Ok(Self {
            medium,
            dir,
            verify,
            files: Mutex::new(()),
            state: Mutex::new(State {
                terms: base.terms.clone(),
                base,
                segments: BTreeMap::from([(first, Arc::new(segment))]),
                spans: BTreeMap::new(),
                end: after,
                retired: Vec::new(),
                let_go: 0,
                lost: BTreeSet::new(),
                uncut: false,
                poisoned: None,
            }),
        })
    }

    /// Whose it is.
    #[must_use]
    pub const fn verify(&self) -> &Verify {
        &self.verify
    }

    /// Where the durable log ends.
    #[must_use]
    pub fn end(&self) -> LogEnd {
        self.state().end
    }

    /// Where the kept log begins.
    #[must_use]
    pub fn first(&self) -> LogEnd {
        self.state().base.after
    }

    /// Term history up to `seq`, oldest first.
    #[must_use]
    pub fn terms_through(&self, seq: Seq) -> Vec<TermStart> {
        let state = self.state();
        let known = state.terms.iter().take_while(|start| start.seq <= seq);
        known.copied().collect()
    }

    /// Writes blocks at their places and makes them durable with one sync, or with more of them
    /// where they are large: so no more than [`LOG_UNSYNCED_SIZE_MAX`] is ever not known to be
    /// synced.
    ///
    /// An error before the first byte of a block leaves the log as it was; after it, the log is
    /// poisoned and takes no more.
    pub fn append(&self, blocks: &[&[u8]]) -> Appended {
        let mut end = self.end();
        let mut touched: Vec<Arc<Segment>> = Vec::new();
        let mut spans = Vec::new();
        let mut unsynced_size = 0;
        let mut error = self.not_ready();
        for block in blocks {
            if error.is_some() {
                break;
            }
            unsynced_size += to_u64(block.len());
            if LOG_UNSYNCED_SIZE_MAX < unsynced_size {
                if let Err(poisoned) = self.sync_all(&mut touched) {
                    return Appended::nothing(poisoned);
                }
                unsynced_size = to_u64(block.len());
            }
            match self.write(block, &end) {
                Ok((segment, block_end, start)) => {
                    if touched
                        .last()
                        .is_none_or(|last| last.number != segment.number)
                    {
                        touched.push(segment);
                    }
                    end = block_end;
                    spans.push((end, start));
                }
                Err(failed) => error = Some(failed),
            }
        }
        if let Some(LogError::Poisoned(_)) = error {
            return Appended { count: 0, error };
        }
        if let Err(poisoned) = self.sync_all(&mut touched) {
            return Appended::nothing(poisoned);
        }
        let mut state = self.state();
        let count = spans.len();
        for (end, start) in spans {
            let (number, _) = split_offset(end.offset - 1, self.verify.segment_size);
            state.spans.insert(number, end);
            state.end = end;
            note_term(&mut state.terms, start);
        }
        Appended { count, error }
    }

    fn sync_all(&self, touched: &mut Vec<Arc<Segment>>) -> Result<(), LogError> {
        touched
            .drain(..)
            .try_for_each(|segment| sync(&segment))
            .map_err(|failed| self.poison(format!("syncing {}: {failed}", self.dir)))
    }

    fn write(
        &self,
        block: &[u8],
        after: &LogEnd,
    ) -> Result<(Arc<Segment>, LogEnd, TermStart), LogError> {
        let misfit = |what: String| LogError::Wrong(format!("append to {}: {what}", self.dir));
        let header = block
            .first_chunk::<BLOCK_HEADER_SIZE>()
            .ok_or_else(|| misfit("no header".to_owned()))?;
        let head =
            BlockHead::read(header, &self.verify).map_err(|error| misfit(error.to_string()))?;
        if to_u64(block.len()) != u64::from(head.size) {
            return Err(misfit(format!("{} bytes of {}", block.len(), head.size)));
        }
        head.follows(after, self.verify.segment_size)
            .map_err(|error| misfit(error.to_string()))?;
        let segment = self.segment_for(head.segment)?;
        segment.write(head.offset, block).map_err(|error| {
            self.poison(format!(
                "writing block {} of {}: {error}",
                head.seq, self.dir
            ))
        })?;
        let start = TermStart {
            term: head.term,
            seq: head.seq,
        };
        Ok((segment, head.end(header), start))
    }

    /// The segment with this number, prepared here and now if the background was too slow.
    fn segment_for(&self, number: u64) -> Result<Arc<Segment>, LogError> {
        if let Some(segment) = self.segment(number) {
            return Ok(segment);
        }
        let _files = self.lock_files();
        match self.segment(number) {
            Some(segment) => Ok(segment),
            None => self.make_segment(number),
        }
    }

    /// Is there no segment yet behind the one that the log ends in?
    #[must_use]
    pub fn lacks_spare(&self) -> bool {
        let (here, _) = block_offsets(self.end().offset, self.verify.segment_size);
        let (number, _) = split_offset(here, self.verify.segment_size);
        self.segment(number + 1).is_none()
    }

    /// Numbers of the segments that are there, rising, each with the end of its last block.
    #[must_use]
    pub fn segments(&self) -> Vec<(u64, Option<LogEnd>)> {
        let state = self.state();
        let span = |number: &u64| state.spans.get(number).copied();
        let numbers = state.segments.keys();
        numbers.map(|number| (*number, span(number))).collect()
    }

    /// Makes sure that the segment of the next block is there, and one behind it. A block may be
    /// on its way to `offset`: then the one behind that.
    pub fn prepare(&self, offset: u64) -> Result<(), LogError> {
        let _files = self.lock_files();
        let (here, _) = block_offsets(self.end().offset, self.verify.segment_size);
        let (here, _) = split_offset(here, self.verify.segment_size);
        let (there, _) = split_offset(offset, self.verify.segment_size);
        // What lies further away is on its way to nowhere.
        let number = here.max(there.min(here + 1));
        for number in here..=number + 1 {
            if self.segment(number).is_none() {
                self.make_segment(number)?;
            }
        }
        Ok(())
    }

    /// Under the lock of the files.
    fn make_segment(&self, number: u64) -> Result<Arc<Segment>, LogError> {
        if self.state().lost.contains(&number) {
            return Err(LogError::Damage(format!(
                "segment {number:016x} of {} is damaged; the log has to be cut",
                self.dir
            )));
        }
        let segment = match self.unused() {
            Some(old) => old.reuse(&*self.medium, &self.dir, number)?,
            None => Segment::create(&*self.medium, &self.dir, &self.verify, number)?,
        };
        let segment = Arc::new(segment);
        let mut state = self.state();
        state.segments.insert(number, Arc::clone(&segment));
        Ok(segment)
    }

    /// A retired segment that no reader holds any more.
    fn unused(&self) -> Option<Segment> {
        let mut state = self.state();
        let mut held = Vec::new();
        let mut free = None;
        for segment in std::mem::take(&mut state.retired) {
            if free.is_some() {
                held.push(segment);
                continue;
            }
            match Arc::try_unwrap(segment) {
                Ok(segment) => free = Some(segment),
                Err(segment) => held.push(segment),
            }
        }
        state.retired = held;
        free
    }

    /// Lets the system use the memory of segments wholly below `below`, for which a checkpoint
    /// stands now: a log that grows would take all of it, and memory that was in use a moment ago
    /// is the cheapest to be had for the next segment. Not of those that
    /// [`Self::recent_entry`] looks in, as long as the log is not cut.
    pub fn let_go(&self, below: u64) {
        let size = self.verify.segment_size;
        let due: Vec<Arc<Segment>> = {
            let mut state = self.state();
            let (last, _) = split_offset(block_offsets(state.end.offset, size).0, size);
            let (first, _) = split_offset(below, size);
            let to = first.min(last.saturating_sub(1)).max(state.let_go);
            let from = std::mem::replace(&mut state.let_go, to);
            let due = state.segments.range(from..to);
            due.map(|(_, segment)| Arc::clone(segment)).collect()
        };
        for segment in due {
            segment.file.let_go();
        }
    }

    /// Frees the segments wholly below `below`. Where the kept log begins then.
    pub fn retire(&self, below: u64) -> Result<u64, LogError> {
        let _files = self.lock_files();
        let mut base = self.state().base.clone();
        let end = self.end();
        let (here, _) = block_offsets(end.offset, self.verify.segment_size);
        let (first, _) = split_offset(here.min(below), self.verify.segment_size);
        if first <= base.first_segment() {
            return Ok(base.after.offset);
        }
        if let Some((_, last)) = self.state().spans.range(..first).next_back() {
            base.after = *last;
        }
        base.after.offset = first * self.verify.segment_size;
        base.terms = self.terms_through(base.after.seq);
        base.save(&*self.medium, &self.dir)?;
        let gone = {
            let mut state = self.state();
            let kept = state.segments.split_off(&first);
            state.spans = state.spans.split_off(&first);
            state.base = base.clone();
            std::mem::replace(&mut state.segments, kept)
        };
        for segment in gone.into_values() {
            self.put_by(segment)?;
        }
        self.medium
            .sync_dir(&self.dir)
            .during(|| format!("syncing {}", self.dir))?;
        Ok(base.after.offset)
    }

    /// Keeps a segment for use again, or removes it if enough are kept.
    fn put_by(&self, segment: Arc<Segment>) -> Result<(), LogError> {
        let name = format!("{}/{}", self.dir, segment_name(segment.number));
        if to_usize(u64::from(SEGMENT_POOL_COUNT_MAX)) <= self.state().retired.len() {
            return self
                .medium
                .remove(&name)
                .during(|| format!("removing {name}"));
        }
        let retired = format!("{}/{}", self.dir, retired_name(segment.number));
        self.medium
            .rename(&name, &retired)
            .during(|| format!("renaming {name}"))?;
        self.state().retired.push(segment);
        Ok(())
    }

    fn segment(&self, number: u64) -> Option<Arc<Segment>> {
        self.state().segments.get(&number).map(Arc::clone)
    }

    /// Why nothing may be appended.
    fn not_ready(&self) -> Option<LogError> {
        let uncut = self.state().uncut;
        self.poisoned()
            .or_else(|| uncut.then(|| LogError::Wrong(format!("{} has to be cut first", self.dir))))
    }

    fn poisoned(&self) -> Option<LogError> {
        self.state().poisoned.clone().map(LogError::Poisoned)
    }

    /// Marks the log as poisoned; the first reason stays.
    fn poison(&self, why: String) -> LogError {
        let mut state = self.state();
        LogError::Poisoned(state.poisoned.get_or_insert(why).clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_files(&self) -> MutexGuard<'_, ()> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes what was written to a segment durable. The first failure is final.
fn sync(segment: &Segment) -> std::io::Result<()> {
    if canary::on(Bug::SkippedSync) {
        return Ok(());
    }
    let synced = segment.file.sync();
    if synced.is_err() && canary::on(Bug::RetriedSync) {
        return segment.file.sync();
    }
    synced
}

/// Without a base there is no log; segments with blocks then say that the base was lost.
fn refuse_orphans(medium: &dyn Medium, dir: &str) -> Result<(), LogError> {
    for name in medium.list(dir).during(|| format!("listing {dir}"))? {
        if number_in(&name, "segment").is_none() {
            continue;
        }
        let path = format!("{dir}/{name}");
        if aside::has_blocks(medium, &path)? {
            return Err(LogError::Damage(format!(
                "{dir}/base is gone, {path} is not"
            )));
        }
    }
    Ok(())
}

/// Opens all segments that are kept.
fn open_files(
    medium: &dyn Medium,
    dir: &str,
    base: &Base,
    opening: Opening,
) -> Result<BTreeMap<u64, Opened>, LogError> {
    let names = medium.list(dir).during(|| format!("listing {dir}"))?;
    names
        .iter()
        .filter_map(|name| number_in(name, "segment"))
        .filter(|number| base.first_segment() <= *number)
        .map(|number| {
            Ok((
                number,
                Segment::open(medium, dir, &base.verify, number, opening)?,
            ))
        })
        .collect()
}

/// Tidies up what a crash left half done. The segments that wait to be used again.
fn tidy(medium: &dyn Medium, dir: &str, base: &Base) -> Result<Vec<Arc<Segment>>, LogError> {
    let mut retired = Vec::new();
    for name in medium.list(dir).during(|| format!("listing {dir}"))? {
        let path = format!("{dir}/{name}");
        let below = number_in(&name, "segment").filter(|number| *number < base.first_segment());
        if let Some(number) = below.or_else(|| number_in(&name, "retired")) {
            let Some(segment) = Segment::retired(medium, &path, &base.verify, number)? else {
                put_aside(medium, base.verify.log, dir, &name)?;
                continue;
            };
            if below.is_some() {
                // Retired, but the crash came before its new name.
                let to = format!("{dir}/{}", retired_name(number));
                name_file(medium, dir, &path, &to)?;
            }
            retired.push(Arc::new(segment));
        } else if is_temporary(&name) {
            medium.remove(&path).during(|| format!("removing {path}"))?;
        }
    }
    Ok(retired)
}

/// Left by a crash while a segment or the base was written. Checkpoints see to their own.
fn is_temporary(name: &str) -> bool {
    let stem = name.strip_suffix(".tmp");
    stem.is_some_and(|stem| stem == SmallFile::Base.name() || number_in(stem, "segment").is_some())
}
