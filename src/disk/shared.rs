//! What the workers of a disk share: the logs, and the newest checkpoint of each.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::calm::{Calm, Patience};
use super::folder::Lock;
use crate::log::{Checkpoint, Log, LogError, Medium};
use crate::model::{ENTRY_SIZE, LogNumber, Place};
use crate::role::{CheckpointInfo, DiskFault, LogView};

/// The state behind all workers.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) medium: Arc<dyn Medium>,
    logs: Mutex<BTreeMap<LogNumber, Arc<Slot>>>,
    /// Held until the last worker is gone; none in memory.
    _lock: Option<Lock>,
    /// `None` where time is simulated: nothing waits there.
    calm: Option<Calm>,
}

/// One log of the disk, open or not.
#[derive(Debug, Default)]
pub(super) struct Slot {
    log: Mutex<Option<Arc<Log>>>,
    newest: Mutex<Option<Newest>>,
    /// Rises when blocks that were readable are no longer part of the log.
    history: AtomicU64,
}

/// The newest checkpoint that verifies and agrees with the log.
#[derive(Clone, Debug)]
pub(super) struct Newest {
    pub(super) checkpoint: Arc<Checkpoint>,
    /// It was fetched from elsewhere, for a log that is still to be created.
    pub(super) fetched: bool,
}

impl Shared {
    pub(super) fn new(medium: Arc<dyn Medium>, lock: Option<Lock>, calm: Option<Calm>) -> Self {
        Self {
            medium,
            logs: Mutex::new(BTreeMap::new()),
            _lock: lock,
            calm,
        }
    }

    /// A piece of an image is on its way to a node that takes it in.
    pub(super) fn keep_calm(&self) {
        if let Some(calm) = &self.calm {
            calm.keep();
        }
    }

    /// For work that may wait for images.
    pub(super) fn patience(&self) -> Patience<'_> {
        Patience::new(self.calm.as_ref())
    }

    pub(super) fn slot(&self, log: LogNumber) -> Arc<Slot> {
        Arc::clone(locked(&self.logs).entry(log).or_default())
    }

    /// The log, which must be open.
    pub(super) fn log(&self, log: LogNumber) -> Result<Arc<Log>, LogError> {
        self.slot(log)
            .log()
            .ok_or_else(|| LogError::Wrong(format!("log {log} is not open")))
    }
}

impl Slot {
    pub(super) fn log(&self) -> Option<Arc<Log>> {
        locked(&self.log).as_ref().map(Arc::clone)
    }

    pub(super) fn set_log(&self, log: Option<Arc<Log>>) {
        *locked(&self.log) = log;
        self.rewrite();
    }

    pub(super) fn newest(&self) -> Option<Newest> {
        locked(&self.newest).clone()
    }

    pub(super) fn set_newest(&self, newest: Option<Newest>) {
        *locked(&self.newest) = newest;
    }

    /// Blocks that were readable are gone or others now.
    pub(super) fn rewrite(&self) {
        self.history.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn history(&self) -> u64 {
        self.history.load(Ordering::Acquire)
    }
}

impl Newest {
    pub(super) fn info(&self) -> CheckpointInfo {
        CheckpointInfo {
            end: self.checkpoint.end(),
            size: self.checkpoint.size(),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads recent entries of one open log.
#[derive(Debug)]
pub(super) struct View(pub(super) Arc<Log>);

impl LogView for View {
    fn recent_entry(&self, place: Place) -> Option<[u8; ENTRY_SIZE]> {
        self.0.recent_entry(place)
    }
}

/// What kind of failure an error is to a role.
pub(super) const fn fault_of(error: &LogError) -> DiskFault {
    match error {
        LogError::Poisoned(_) => DiskFault::Poisoned,
        LogError::Full(_) => DiskFault::NoSpace,
        LogError::Damage(_) => DiskFault::Damage,
        LogError::Wrong(_) | LogError::Io { .. } => DiskFault::Other,
    }
}
