//! Whose a data folder is: the lock that keeps two processes apart, and the kind of its owner.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use crate::log::{FileMedium, LogError, Medium, SmallFile, load, save};

/// How often the lock is tried: a process that was just killed may not be quite gone.
const LOCK_ATTEMPT_COUNT: u32 = 5;

const LOCK_PAUSE: Duration = Duration::from_millis(50);

const LOCK_NAME: &str = "LOCK";

/// Whose folder it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderKind {
    /// A business node's.
    Node,
    /// The backup's.
    Backup,
}

impl FolderKind {
    const ALL: [Self; 2] = [Self::Node, Self::Backup];

    const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Backup => "backup",
        }
    }
}

impl fmt::Display for FolderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the lock.
    #[error("the data folder is in use by another process (its file LOCK is held)")]
    InUse,
    /// It belongs to another kind of daemon.
    #[error("this is the data folder of a {found}, not of a {wanted}")]
    WrongKind {
        /// Whose it is.
        found: FolderKind,
        /// Whose it should be.
        wanted: FolderKind,
    },
    /// It has files, but not the one that says whose it is.
    #[error("the folder holds {0}, but no file \"kind\": it is no data folder, or a damaged one")]
    Foreign(String),
    /// There is nothing to look at.
    #[error("there is no data folder here")]
    Missing,
    /// A file does not verify, or the system reported an error.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The system reported an error.
    #[error("the data folder cannot be opened: {0}")]
    Io(#[from] io::Error),
}

/// File systems that need a word to the operator, by the magic number of `statfs`.
const SUSPECT_FILE_SYSTEMS: [(u64, &str); 6] = [
    (
        0x0102_1994,
        "tmpfs: nothing in it survives a restart of the machine",
    ),
    (
        0x8584_58f6,
        "ramfs: nothing in it survives a restart of the machine",
    ),
    (
        0x9123_683e,
        "btrfs: it does not overwrite in place, so a prepared segment may run out of space",
    ),
    (
        0x2fc1_2fc1,
        "zfs: it does not overwrite in place, so a prepared segment may run out of space",
    ),
    (
        0x6969,
        "nfs: its syncs and locks promise less than a local disk's",
    ),
    (
        0x6573_5546,
        "fuse: what its syncs promise depends on the program behind it",
    ),
];

/// What the operator should know about the file system of a data folder; `None` if it is one of
/// those that the log was made for.
pub fn file_system_warning(dir: &Path) -> io::Result<Option<&'static str>> {
    let kind = rustix::fs::statfs(dir)?.f_type;
    let suspect = SUSPECT_FILE_SYSTEMS.iter();
    let same = |(magic, _): &&(u64, &'static str)| i128::from(kind) == i128::from(*magic);
    Ok(suspect
        .copied()
        .find(|known| same(&known))
        .map(|(_, words)| words))
}

/// The exclusive lock of a data folder, until it is dropped or the process ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn take(medium: &FileMedium) -> Result<Self, OpenError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(medium.path(LOCK_NAME))?;
        for attempt in 1..=LOCK_ATTEMPT_COUNT {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) if attempt < LOCK_ATTEMPT_COUNT => {
                    std::thread::park_timeout(LOCK_PAUSE);
                }
                Err(TryLockError::WouldBlock) => break,
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        }
        Err(OpenError::InUse)
    }
}

impl Lock {
    /// For looking: fails only while a process works in the folder.
    pub(super) fn share(medium: &FileMedium) -> Result<Option<Self>, OpenError> {
        let file = match File::open(medium.path(LOCK_NAME)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }
}

/// Tests whose folder it is; an empty one becomes `wanted`'s.
pub(super) fn check_kind(medium: &dyn Medium, wanted: FolderKind) -> Result<(), OpenError> {
    match found_kind(medium)? {
        Some(found) if found == wanted => Ok(()),
        Some(found) => Err(OpenError::WrongKind { found, wanted }),
        None => {
            let name = wanted.name().as_bytes();
            Ok(save(medium, "", SmallFile::Kind, name)?)
        }
    }
}

/// Whose folder it is; `None` if it is empty.
pub(super) fn found_kind(medium: &dyn Medium) -> Result<Option<FolderKind>, OpenError> {
    if let Some(name) = load(medium, "", SmallFile::Kind)? {
        let mut kinds = FolderKind::ALL.into_iter();
        return match kinds.find(|kind| kind.name().as_bytes() == name) {
            Some(kind) => Ok(Some(kind)),
            None => Err(LogError::Damage("the file kind names no daemon".to_owned()).into()),
        };
    }
    let names = medium.list("")?;
    let harmless = [LOCK_NAME, "kind.tmp", "lost+found"];
    match names
        .into_iter()
        .find(|name| !harmless.contains(&&name[..]))
    {
        Some(name) => Err(OpenError::Foreign(name)),
        None => Ok(None),
    }
}
