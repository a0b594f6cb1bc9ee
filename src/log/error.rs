//! What can go wrong with a log, by what is to be done about it.

use std::io;

use super::medium::is_full;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A write or a sync failed; nothing is known about the bytes. Never tried again.
    #[error("log is poisoned by a failed write or sync: {0}")]
    Poisoned(String),
    /// Out of space, or of descriptors; nothing that counts was changed.
    #[error("no room: {0}")]
    Full(String),
    /// Bytes that should be there do not verify.
    #[error("damage: {0}")]
    Damage(String),
    /// The request does not fit what is there.
    #[error("{0}")]
    Wrong(String),
    /// The system reported an error; nothing that counts was changed.
    #[error("{what}: {error}")]
    Io {
        /// What was being done, and with which file.
        what: String,
        /// What the system said.
        error: io::Error,
    },
}

impl LogError {
    /// The error of doing `what`.
    pub(crate) fn io(what: impl Into<String>, error: io::Error) -> Self {
        let what = what.into();
        if is_full(&error) {
            Self::Full(format!("{what}: {error}"))
        } else {
            Self::Io { what, error }
        }
    }
}

/// The error of a sync that failed: out of room is said before anything is lost, all else poisons.
pub(crate) fn sync_failed(what: impl Into<String>, error: &io::Error) -> LogError {
    let what = what.into();
    if is_full(error) {
        LogError::Full(format!("{what}: {error}"))
    } else {
        LogError::Poisoned(format!("{what}: {error}"))
    }
}

/// Says what was being done when the system reported an error.
pub(crate) trait While<T> {
    /// Adds what was being done.
    fn during(self, what: impl FnOnce() -> String) -> Result<T, LogError>;
}

impl<T> While<T> for io::Result<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, LogError> {
        self.map_err(|error| LogError::io(what(), error))
    }
}
