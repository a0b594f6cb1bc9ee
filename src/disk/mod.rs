//! The data folder of a process: carries out what a role asks of its disk.
//!
//! One worker per lane, each on a thread of its own, over logs that they share. Appends of one
//! lane share one sync. Decides nothing: what is committed, cut or retired is the role's to say.

mod calm;
mod carry;
mod checkpoints;
mod fold;
mod folder;
mod hand_over;
mod images;
mod look;
mod replica;
mod shared;
mod steps;
mod streams;
#[cfg(test)]
mod tests;
mod verify;

use std::path::Path;
use std::sync::Arc;

pub use folder::{FolderKind, OpenError, file_system_warning};
pub use look::{FoundImage, Look, look};
pub use verify::{Comparison, ImageCheck, LogCheck, ReplayCheck, VerifyReport, verify};

use crate::log::{FileMedium, Medium, exit_on_bus_error};
use crate::role::{Lane, LaneWorker, Lanes};
use calm::Calm;
use carry::Worker;
use folder::Lock;
use shared::Shared;

/// How a data folder is opened.
#[derive(Clone, Copy, Debug)]
pub struct DiskOptions {
    /// Whose folder it must be; a new one becomes that.
    pub kind: FolderKind,
}

/// An open data folder.
#[derive(Debug)]
pub struct Disk {
    shared: Arc<Shared>,
}

/// Opens a data folder for this process alone, creating it if it is not there.
///
/// From here on a mapped page that cannot be read ends the process.
pub fn open(dir: &Path, options: DiskOptions) -> Result<Disk, OpenError> {
    exit_on_bus_error()?;
    let medium = FileMedium::create(dir)?;
    let lock = Lock::take(&medium)?;
    folder::check_kind(&medium, options.kind)?;
    images::tidy(&medium)?;
    Ok(Disk {
        shared: Arc::new(Shared::new(
            Arc::new(medium),
            Some(lock),
            Some(Calm::default()),
        )),
    })
}

/// Opens a data folder on any medium, without a lock, and where nothing waits for images: for
/// simulation and tests.
pub fn open_on(medium: Arc<dyn Medium>, options: DiskOptions) -> Result<Disk, OpenError> {
    folder::check_kind(&*medium, options.kind)?;
    images::tidy(&*medium)?;
    Ok(Disk {
        shared: Arc::new(Shared::new(medium, None, None)),
    })
}

impl Lanes for Disk {
    fn worker(&self, _lane: Lane) -> Box<dyn LaneWorker> {
        Box::new(Worker::new(Arc::clone(&self.shared)))
    }
}
