//! A folder in memory with two images: what a process sees, and what a power cut leaves.
//!
//! For tests and the simulator. A crash keeps, loses or garbles each sector that was written and
//! not synced, and undoes renames whose folder was not synced. Syncs and writes can be made to
//! fail, space to run out, bits to flip.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Access, Medium, MediumFile};
use crate::model::{Random, to_u64, to_usize};

/// What a disk writes in one piece.
const SECTOR_SIZE: u64 = 512;

const PAGE_SIZE: usize = 4_096;

static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

type FileId = u64;

/// Something that is to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The sync after so many more (0 = the next one) fails, and what it was to make durable
    /// never is, whatever later syncs say.
    Sync(u64),
    /// The write after so many more fails half way.
    Write(u64),
}

/// A folder in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryMedium {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Debug, Default)]
struct State {
    files: BTreeMap<FileId, File>,
    names: BTreeMap<String, FileId>,
    durable_names: BTreeMap<String, FileId>,
    /// Changes of names that no sync of their folder has made durable.
    pending: Vec<NameChange>,
    next_file: FileId,
    capacity: Option<u64>,
    syncs_left: Option<u64>,
    writes_left: Option<u64>,
    sync_count: u64,
    step_count: u64,
    mark: u64,
    snapshot_at: Option<u64>,
    snapshot: Option<Box<Self>>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Add { path: String, file: FileId },
    Rename { from: String, to: String },
    Remove { path: String },
}

#[derive(Clone, Debug, Default)]
struct File {
    live: Image,
    durable: Image,
    /// Sectors in which `live` may differ from `durable`.
    dirty: BTreeSet<u64>,
    /// How often it was let go.
    let_go_count: u32,
}

/// Bytes with holes that read as zeros.
#[derive(Clone, Debug, Default)]
struct Image {
    size: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE_SIZE]>>,
}

impl MemoryMedium {
    /// An empty folder without a limit of space.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits the bytes of all files together.
    pub fn limit(&self, capacity: Option<u64>) {
        self.state().capacity = capacity;
    }

    /// Makes something fail, once.
    pub fn fail(&self, fault: Fault) {
        let mut state = self.state();
        match fault {
            Fault::Sync(after) => state.syncs_left = Some(after),
            Fault::Write(after) => state.writes_left = Some(after),
        }
    }

    /// Syncs of files so far.
    #[must_use]
    pub fn sync_count(&self) -> u64 {
        self.state().sync_count
    }

    /// Changes (writes, syncs, names) so far.
    #[must_use]
    pub fn step_count(&self) -> u64 {
        self.state().step_count
    }

    /// Notes a number of the test's own; [`Self::snapshot`] gives back the one of its moment.
    pub fn mark(&self, mark: u64) {
        self.state().mark = mark;
    }

    /// Keeps a copy of everything as it is right before the change with this number.
    pub fn snapshot_at(&self, step: u64) {
        self.state().snapshot_at = Some(step);
    }

    /// The copy that was kept, and the mark of that moment.
    #[must_use]
    pub fn snapshot(&self) -> Option<(Self, u64)> {
        let state = *self.state().snapshot.clone()?;
        let mark = state.mark;
        let medium = Self {
            state: Arc::new(Mutex::new(state)),
        };
        Some((medium, mark))
    }

    /// Changes bytes at rest, in both images: damage. Panics if the file is not there.
    pub fn damage(&self, path: &str, offset: u64, bytes: &[u8]) {
        let mut state = self.state();
        let file = state.named(path).expect("the file is there");
        file.live.write(offset, bytes);
        file.durable.write(offset, bytes);
    }

    /// Cuts a file at rest, in both images. Panics if the file is not there.
    pub fn truncate(&self, path: &str, size: u64) {
        let mut state = self.state();
        let file = state.named(path).expect("the file is there");
        file.live.truncate(size);
        file.durable.truncate(size);
    }

    /// All bytes of a file as a process sees them, if it is there.
    #[must_use]
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        let mut state = self.state();
        let file = state.named(path)?;
        let mut bytes = vec![0; to_usize(file.live.size)];
        file.live.read(0, &mut bytes);
        Some(bytes)
    }

    /// How often a file was let go; 0 if it is not there.
    #[cfg(test)]
    pub(crate) fn let_go_count(&self, path: &str) -> u32 {
        let mut state = self.state();
        state.named(path).map_or(0, |file| file.let_go_count)
    }

    /// Paths of all files, sorted.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// A copy that shares nothing with this one.
    #[must_use]
    pub fn fork(&self) -> Self {
        let state = self.state().clone();
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// What a power cut at this moment leaves, by the dice. This one stays as it is.
    #[must_use]
    pub fn crash(&self, random: &mut Random) -> Self {
        let before = self.state().clone();
        let mut after = State {
            durable_names: before.durable_names,
            next_file: before.next_file,
            capacity: before.capacity,
            ..State::default()
        };
        // A journal keeps the order: changes of names survive up to some point, often none.
        let count = to_u64(before.pending.len());
        let kept = to_usize(random.below(2 * count + 1).saturating_sub(count));
        for change in before.pending.into_iter().take(kept) {
            change.apply(&mut after.durable_names);
        }
        after.names = after.durable_names.clone();
        for id in after.names.values() {
            let file = &before.files[id];
            let image = file.crash(random);
            let survivor = File {
                live: image.clone(),
                durable: image,
                dirty: BTreeSet::new(),
                let_go_count: 0,
            };
            after.files.insert(*id, survivor);
        }
        Self {
            state: Arc::new(Mutex::new(after)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn named(&mut self, path: &str) -> Option<&mut File> {
        self.files.get_mut(self.names.get(path)?)
    }

    /// Called before every change.
    fn step(&mut self) {
        if self.snapshot_at == Some(self.step_count) && self.snapshot.is_none() {
            self.snapshot = Some(Box::new(self.clone()));
        }
        self.step_count += 1;
    }

    fn used_size(&self) -> u64 {
        self.names.values().map(|id| self.files[id].live.size).sum()
    }
}

impl NameChange {
    fn dir(&self) -> &str {
        let path = match self {
            Self::Add { path, .. } | Self::Remove { path } => path,
            Self::Rename { to, .. } => to,
        };
        path.rsplit_once('/').map_or("", |(dir, _)| dir)
    }

    fn apply(&self, names: &mut BTreeMap<String, FileId>) {
        match self {
            Self::Add { path, file } => {
                names.insert(path.clone(), *file);
            }
            Self::Rename { from, to } => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Remove { path } => {
                names.remove(path);
            }
        }
    }
}

impl File {
    /// Sectors that were written. Where both images have a hole nothing can differ.
    fn note_dirty(&mut self, from: u64, to: u64) {
        let sectors = to_u64(PAGE_SIZE).div_euclid(SECTOR_SIZE);
        let (first, end) = (from.div_euclid(SECTOR_SIZE), to.div_ceil(SECTOR_SIZE));
        for page in first.div_euclid(sectors)..end.div_ceil(sectors) {
            let is_hole = |image: &Image| !image.pages.contains_key(&page);
            if !is_hole(&self.live) || !is_hole(&self.durable) {
                let own = page * sectors..(page + 1) * sectors;
                self.dirty.extend(own.start.max(first)..own.end.min(end));
            }
        }
    }

    /// Each dirty sector: kept, lost, or garbled in the bytes that were being changed.
    fn crash(&self, random: &mut Random) -> Image {
        let mut image = self.durable.clone();
        for sector in &self.dirty {
            let mut old = [0; to_usize(SECTOR_SIZE)];
            let mut new = old;
            let offset = sector * SECTOR_SIZE;
            self.durable.read(offset, &mut old);
            self.live.read(offset, &mut new);
            match random.below(3) {
                0 => continue,
                1 => (),
                _ => {
                    for (new, old) in new.iter_mut().zip(old) {
                        if *new != old {
                            [*new, ..] = random.u64().to_le_bytes();
                        }
                    }
                }
            }
            image.write(offset, &new);
            image.size = image.size.min(self.live.size.max(self.durable.size));
        }
        image
    }
}

impl Image {
    fn read(&self, offset: u64, bytes: &mut [u8]) {
        for (page, at, range) in pieces(offset, bytes.len()) {
            let piece = &mut bytes[range];
            match self.pages.get(&page) {
                Some(page) => piece.copy_from_slice(&page[at..at + piece.len()]),
                None => piece.fill(0),
            }
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.size = self.size.max(offset + to_u64(bytes.len()));
        for (page, at, range) in pieces(offset, bytes.len()) {
            let piece = &bytes[range];
            if !self.pages.contains_key(&page) && *piece == ZEROS[..piece.len()] {
                continue;
            }
            let page = self
                .pages
                .entry(page)
                .or_insert_with(|| Box::new([0; PAGE_SIZE]));
            page[at..at + piece.len()].copy_from_slice(piece);
        }
    }

    fn truncate(&mut self, size: u64) {
        if size < self.size {
            let gone = vec![0; to_usize(self.size - size)];
            self.write(size, &gone);
            self.size = size;
        }
    }
}

/// Cuts a range of bytes at pages: page, offset in it, range in the caller's bytes.
fn pieces(offset: u64, size: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let page_size = to_u64(PAGE_SIZE);
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == size {
            return None;
        }
        let from = offset + to_u64(done);
        let at = to_usize(from % page_size);
        let piece = (PAGE_SIZE - at).min(size - done);
        let range = done..done + piece;
        done += piece;
        let page = from.div_euclid(page_size);
        Some((page, at, range))
    })
}

impl Medium for MemoryMedium {
    fn create_dir(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let prefix = if dir.is_empty() {
            String::new()
        } else {
            format!("{dir}/")
        };
        let mut names = BTreeSet::new();
        for path in self.state().names.keys() {
            if let Some(rest) = path.strip_prefix(&prefix) {
                let name = rest.split_once('/').map_or(rest, |(name, _)| name);
                names.insert(name.to_owned());
            }
        }
        Ok(names.into_iter().collect())
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn MediumFile>> {
        let mut state = self.state();
        state.step();
        let id = state.next_file;
        state.next_file += 1;
        state.files.insert(id, File::default());
        let change = NameChange::Add {
            path: path.to_owned(),
            file: id,
        };
        change.apply(&mut state.names);
        state.pending.push(change);
        drop(state);
        Ok(Arc::new(OpenFile {
            medium: self.clone(),
            id,
        }))
    }

    fn open(&self, path: &str, _access: Access) -> io::Result<Option<Arc<dyn MediumFile>>> {
        let id = self.state().names.get(path).copied();
        Ok(id.map(|id| -> Arc<dyn MediumFile> {
            Arc::new(OpenFile {
                medium: self.clone(),
                id,
            })
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.step();
        let change = NameChange::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
        };
        change.apply(&mut state.names);
        state.pending.push(change);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.step();
        let change = NameChange::Remove {
            path: path.to_owned(),
        };
        change.apply(&mut state.names);
        state.pending.push(change);
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut guard = self.state();
        let state = &mut *guard;
        state.sync_step()?;
        let (done, pending): (Vec<_>, Vec<_>) = std::mem::take(&mut state.pending)
            .into_iter()
            .partition(|change| change.dir() == dir);
        for change in done {
            change.apply(&mut state.durable_names);
        }
        state.pending = pending;
        Ok(())
    }

    fn free_size(&self) -> io::Result<u64> {
        let state = self.state();
        let capacity = state.capacity.unwrap_or(u64::MAX);
        Ok(capacity.saturating_sub(state.used_size()))
    }
}

impl State {
    /// Counts a sync; an error if it is the one that is to fail.
    fn sync_step(&mut self) -> io::Result<()> {
        self.step();
        self.sync_count += 1;
        match self.syncs_left.take() {
            Some(0) => Err(io::Error::other("sync fails on demand")),
            left => {
                self.syncs_left = left.map(|left| left - 1);
                Ok(())
            }
        }
    }

    /// How many of `size` bytes a write takes before it fails; all of them unless it is to fail.
    fn write_step(&mut self, size: usize) -> Result<(), usize> {
        self.step();
        match self.writes_left.take() {
            Some(0) => Err(size.div_euclid(2)),
            left => {
                self.writes_left = left.map(|left| left - 1);
                Ok(())
            }
        }
    }
}

#[derive(Debug)]
struct OpenFile {
    medium: MemoryMedium,
    id: FileId,
}

impl OpenFile {
    fn with<T>(&self, act: impl FnOnce(&mut State, FileId) -> T) -> T {
        act(&mut self.medium.state(), self.id)
    }
}

const GONE: &str = "files stay in the table";

impl MediumFile for OpenFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.with(|state, id| state.files[&id].live.size))
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.with(|state, id| {
            let image = &state.files[&id].live;
            if image.size < offset.saturating_add(to_u64(bytes.len())) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            image.read(offset, bytes);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(|state, id| {
            let end = offset + to_u64(bytes.len());
            let growth = end.saturating_sub(state.files[&id].live.size);
            let used = state.used_size();
            if state.capacity.is_some_and(|size| size < used + growth) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let step = state.write_step(bytes.len());
            let taken = step.map_or_else(|taken| &bytes[..taken], |()| bytes);
            let file = state.files.get_mut(&id).expect(GONE);
            file.live.write(offset, taken);
            file.note_dirty(offset, offset + to_u64(taken.len()));
            step.map_err(|_taken| io::Error::other("write fails on demand"))
        })
    }

    fn let_go(&self) {
        self.with(|state, id| state.files.get_mut(&id).expect(GONE).let_go_count += 1);
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state, id| {
            let step = state.sync_step();
            let file = state.files.get_mut(&id).expect(GONE);
            let dirty = std::mem::take(&mut file.dirty);
            // After a failed sync the pages count as clean: what they hold is never written.
            step?;
            let mut bytes = [0; to_usize(SECTOR_SIZE)];
            for sector in dirty {
                let offset = sector * SECTOR_SIZE;
                file.live.read(offset, &mut bytes);
                file.durable.write(offset, &bytes);
            }
            file.durable.size = file.live.size;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_loses_only_what_was_not_synced() {
        let medium = MemoryMedium::new();
        let file = medium.create("a/b").unwrap();
        file.write_at(0, &[1; 2048]).unwrap();
        file.sync().unwrap();
        medium.sync_dir("a").unwrap();
        file.write_at(1000, &[2; 600]).unwrap();
        medium.rename("a/b", "a/c").unwrap();
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let after = medium.crash(&mut Random::new(seed));
            let path = if after.content("a/b").is_some() {
                "a/b"
            } else {
                "a/c"
            };
            let bytes = after.content(path).unwrap();
            assert_eq!(bytes.len(), 2048);
            assert_eq!(bytes[..1000], [1; 1000]);
            assert_eq!(bytes[1600..], [1; 448]);
            seen.insert((path, bytes[1200] == 1, bytes[1200] == 2));
        }
        assert_eq!(seen.len(), 6, "kept, lost and garbled, under both names");
    }

    #[test]
    fn a_failed_sync_loses_its_bytes_for_good() {
        let medium = MemoryMedium::new();
        let file = medium.create("f").unwrap();
        medium.sync_dir("").unwrap();
        file.write_at(0, &[1; 512]).unwrap();
        medium.fail(Fault::Sync(0));
        assert!(file.sync().is_err());
        file.sync().unwrap();
        let after = medium.crash(&mut Random::new(1));
        assert_ne!(after.content("f").unwrap(), [1; 512]);
    }

    #[test]
    fn space_runs_out() {
        let medium = MemoryMedium::new();
        medium.limit(Some(1000));
        let file = medium.create("f").unwrap();
        file.write_at(0, &[1; 900]).unwrap();
        let error = file.write_at(900, &[1; 200]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(medium.free_size().unwrap(), 100);
        file.write_at(0, &[2; 900]).unwrap();
    }
}
