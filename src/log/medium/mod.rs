//! What a log needs of storage: a folder of files, written at offsets and made durable on demand.
//!
//! Two of them: the file system, and memory with a live and a durable image for crash tests.
//! Paths are relative, with `/` between folders.

mod file;
mod memory;

use std::fmt;
use std::io;
use std::sync::Arc;

pub use file::FileMedium;
pub use memory::{Fault, MemoryMedium};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading only.
    Read,
    /// For reading through a map and writing at offsets. The length must not change any more.
    Fixed,
}

/// A folder with files.
pub trait Medium: Send + Sync + fmt::Debug {
    /// Creates a folder and those above it; fine if it is there. The caller syncs what is above.
    fn create_dir(&self, path: &str) -> io::Result<()>;

    /// Names in a folder, sorted; none if the folder is not there.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Creates a file, emptying one that is there.
    fn create(&self, path: &str) -> io::Result<Arc<dyn MediumFile>>;

    /// Opens a file; `None` if it is not there.
    fn open(&self, path: &str, access: Access) -> io::Result<Option<Arc<dyn MediumFile>>>;

    /// Gives a file another name, replacing what has it. Durable once the folder is synced.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Durable once the folder is synced.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Bytes that can still be written.
    fn free_size(&self) -> io::Result<u64>;
}

/// An open file. Reads and writes are whole or an error.
pub trait MediumFile: Send + Sync + fmt::Debug {
    /// Bytes of it.
    fn size(&self) -> io::Result<u64>;

    /// Fills `bytes` from `offset` on; an error of kind `UnexpectedEof` if the file is shorter.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// As `read_at`, but what the system has in memory does not count: what the device holds is
    /// read. Where a medium has no such difference it is the same.
    fn read_from_device(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.read_at(offset, bytes)
    }

    /// Writes all of `bytes`. After an error any part of them may be there.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything written so far durable. After an error nothing may be concluded from
    /// the success of a later one.
    fn sync(&self) -> io::Result<()>;

    /// Nobody will read it soon: the system may use its memory for something else. A hint, like the
    /// next one: a system that does not take it is slower and not wrong.
    fn let_go(&self) {}

    /// It will be written soon, in pieces smaller than a page: the system may fetch it by then.
    fn will_need(&self) {}
}

/// Does this error say that there is no room: on the device, or for one more open file? It was said
/// before anything was changed, and may pass.
pub fn is_full(error: &io::Error) -> bool {
    let is_space =
        error.kind() == io::ErrorKind::StorageFull || error.kind() == io::ErrorKind::QuotaExceeded;
    is_space || error.raw_os_error().is_some_and(is_descriptors)
}

fn is_descriptors(code: i32) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE]
        .map(Errno::raw_os_error)
        .contains(&code)
}
