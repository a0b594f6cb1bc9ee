//! Looking into a data folder without changing a byte of it: for `verify` and `inspect`.

use std::path::Path;
use std::sync::Arc;

use super::folder::{FolderKind, Lock, OpenError, found_kind};
use super::images;
use crate::log::{
    Checkpoint, FileMedium, Log, LogError, Medium, Opening, Recovered, SmallFile, checkpoint_name,
    checkpoint_offsets, load, log_dir,
};
use crate::model::{LogEnd, LogNumber, MoveNumber};
use crate::role::FileName;

/// An image of a move, or why it is none.
pub type FoundImage = (MoveNumber, Result<Checkpoint, LogError>);

/// A data folder to look into. No process can work in it meanwhile.
#[derive(Debug)]
pub struct Look {
    medium: Arc<dyn Medium>,
    kind: FolderKind,
    logs: Vec<LogNumber>,
    _lock: Option<Lock>,
}

/// Opens a data folder to look into. Fails while a process works in it.
pub fn look(dir: &Path) -> Result<Look, OpenError> {
    if !dir.is_dir() {
        return Err(OpenError::Missing);
    }
    let medium = FileMedium::existing(dir);
    let lock = Lock::share(&medium)?;
    look_on(Arc::new(medium), lock)
}

/// As [`look`], on any medium.
pub(super) fn look_on(medium: Arc<dyn Medium>, lock: Option<Lock>) -> Result<Look, OpenError> {
    let kind = found_kind(&*medium)?.ok_or(OpenError::Missing)?;
    let names = medium.list("logs")?;
    let number = |name: &String| name.parse().ok().and_then(LogNumber::new);
    let logs = names.iter().filter_map(number).collect();
    Ok(Look {
        medium,
        kind,
        logs,
        _lock: lock,
    })
}

impl Look {
    /// Whose folder it is.
    #[must_use]
    pub const fn kind(&self) -> FolderKind {
        self.kind
    }

    /// The logs in it, rising.
    #[must_use]
    pub fn logs(&self) -> &[LogNumber] {
        &self.logs
    }

    /// The content of a small file, if it is there.
    pub fn file(&self, name: FileName) -> Result<Option<Vec<u8>>, LogError> {
        let file = match name {
            FileName::Identity => SmallFile::Identity,
            FileName::Authority => SmallFile::Authority,
        };
        load(&*self.medium, "", file)
    }

    /// The checkpoints of a log, oldest first, each with what its header says, or why it is none.
    /// Pages are not verified yet.
    pub fn checkpoints(
        &self,
        log: LogNumber,
    ) -> Result<Vec<Result<Checkpoint, LogError>>, LogError> {
        let dir = log_dir(log);
        let mut all = Vec::new();
        for offset in checkpoint_offsets(&*self.medium, &dir)? {
            let path = format!("{dir}/{}", checkpoint_name(offset));
            all.extend(Checkpoint::open(&*self.medium, &path).transpose());
        }
        Ok(all)
    }

    /// Recovers a log. `asked`: see [`Log::open`]. `None`: it has no base, so it is none.
    pub fn open_log(
        &self,
        log: LogNumber,
        asked: &[LogEnd],
    ) -> Result<Option<(Log, Recovered)>, LogError> {
        Log::open(Arc::clone(&self.medium), log, asked, Opening::Look)
    }

    /// The images of moves, by number, each with what its header says, or why it is none. Pages
    /// are not verified yet.
    pub fn images(&self) -> Result<Vec<FoundImage>, LogError> {
        let mut all = Vec::new();
        for number in images::numbers(&*self.medium)? {
            let found = images::open(&*self.medium, number).transpose();
            all.extend(found.map(|found| (number, found)));
        }
        Ok(all)
    }

    /// The cluster's hash key, by which users have their slots, if anything here tells it: a
    /// checkpoint, an image, the authority's file.
    #[must_use]
    pub fn ring_key(&self) -> Option<u128> {
        let of_logs = self
            .logs
            .iter()
            .filter_map(|log| self.checkpoints(*log).ok());
        let of_moves = self.images().unwrap_or_default().into_iter();
        let found = of_logs
            .flatten()
            .chain(of_moves.map(|(_, found)| found))
            .find_map(Result::ok);
        match found {
            Some(found) => Some(found.header().ring_key),
            None => ring_key_in(&self.file(FileName::Authority).ok()??),
        }
    }

    pub(super) fn medium(&self) -> &dyn Medium {
        &*self.medium
    }

    /// Files that were put aside.
    pub fn quarantine(&self) -> Result<Vec<String>, LogError> {
        let names = self.medium.list("quarantine");
        names.map_err(|error| LogError::io("listing quarantine", error))
    }
}

/// The hash key in the authority's file: in its first section, behind the cluster's id.
fn ring_key_in(file: &[u8]) -> Option<u128> {
    const TAG_CLUSTER: [u8; 2] = [1, 0];
    const SECTION_HEAD_SIZE: usize = 8;
    let section = file.strip_prefix(&TAG_CLUSTER)?;
    let key = section.get(SECTION_HEAD_SIZE - TAG_CLUSTER.len() + size_of::<u128>()..)?;
    key.first_chunk().copied().map(u128::from_le_bytes)
}
