//! The file system: `pwrite` and `fdatasync`, and reads through a read-only map.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, OFlags, fadvise};

use super::{Access, Medium, MediumFile};
use crate::log::mmap::Map;
use crate::model::{to_u64, to_usize};

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Direct reads take whole pages of the largest common sector.
const PAGE_SIZE: usize = 4_096;

/// A folder of the file system.
#[derive(Clone, Debug)]
pub struct FileMedium {
    root: PathBuf,
}

impl FileMedium {
    /// Opens the folder, creating it with mode 0700 if it is not there.
    pub fn create(root: &Path) -> io::Result<Self> {
        if !root.is_dir() {
            create_dirs(root)?;
            if let Some(parent) = root
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
            {
                File::open(parent)?.sync_all()?;
            }
        }
        fs::set_permissions(root, Permissions::from_mode(DIR_MODE))?;
        Ok(Self {
            root: root.to_path_buf(),
        })
    }

    /// The folder as it is, to be read from only.
    #[must_use]
    pub fn existing(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    /// Where a relative path lies.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

fn create_dirs(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(path)
}

/// Never through a symbolic link: a link in a data folder is a mistake or an attack.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .mode(FILE_MODE)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

impl Medium for FileMedium {
    fn create_dir(&self, path: &str) -> io::Result<()> {
        create_dirs(&self.path(path))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path(dir)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn MediumFile>> {
        let file = options()
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.path(path))?;
        Ok(Arc::new(OpenFile { file, map: None }))
    }

    fn open(&self, path: &str, access: Access) -> io::Result<Option<Arc<dyn MediumFile>>> {
        let fixed = access == Access::Fixed;
        let file = match options().write(fixed).open(self.path(path)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let size = file.metadata()?.len();
        let map = if fixed && 0 < size {
            Some(Map::new(&file, to_usize(size))?)
        } else {
            None
        };
        Ok(Some(Arc::new(OpenFile { file, map })))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.path(path))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.path(dir))?.sync_all()
    }

    fn free_size(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    map: Option<Map>,
}

impl MediumFile for OpenFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        match &self.map {
            Some(map) => map.read(offset, bytes),
            None => self.file.read_exact_at(bytes, offset),
        }
    }

    fn read_from_device(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        match open_direct(&self.file)? {
            Some(direct) => read_direct(&direct, offset, bytes),
            None => self.read_at(offset, bytes),
        }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn let_go(&self) {
        // Pages that are mapped would stay.
        self.map.as_ref().map_or(Ok(()), Map::let_go).unwrap_or(());
        fadvise(&self.file, 0, None, Advice::DontNeed).unwrap_or(());
    }

    fn will_need(&self) {
        fadvise(&self.file, 0, None, Advice::WillNeed).unwrap_or(());
    }
}

/// The same file, read past the system's memory; `None` where its file system has no such thing.
fn open_direct(file: &File) -> io::Result<Option<File>> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::DIRECT.bits().cast_signed();
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(direct) => Ok(Some(direct)),
        Err(error) if is_unsupported(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, NotFound, Unsupported};
    // Not found: there is no /proc.
    matches!(error.kind(), InvalidInput | Unsupported | NotFound)
}

/// Reads whole pages into aligned memory, as direct reads must.
fn read_direct(file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
    let page = to_u64(PAGE_SIZE);
    let skipped = to_usize(offset % page);
    let size = (skipped + bytes.len()).next_multiple_of(PAGE_SIZE);
    let mut memory = vec![0; size + PAGE_SIZE];
    let start = memory.as_ptr().align_offset(PAGE_SIZE);
    let aligned = &mut memory[start..start + size];
    let from = offset - to_u64(skipped);
    let mut filled = 0;
    while filled < skipped + bytes.len() {
        match file.read_at(&mut aligned[filled..], from + to_u64(filled)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            // Only the file's end is no whole page, and nothing is read behind it.
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    bytes.copy_from_slice(&aligned[skipped..skipped + bytes.len()]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_has_what_was_made_durable() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let medium = FileMedium::create(folder.path()).unwrap();
        let file = medium.create("f").unwrap();
        let content: Vec<u8> = (0..20_000_u32).map(|at| (at % 251) as u8).collect();
        file.write_at(0, &content).unwrap();
        file.sync().unwrap();
        let file = medium.open("f", Access::Fixed).unwrap().unwrap();
        for (offset, size) in [
            (0, 20_000),
            (1, 100),
            (4_095, 2),
            (4_096, 4_096),
            (19_999, 1),
        ] {
            let mut bytes = vec![0xaa; size];
            file.read_from_device(offset, &mut bytes).unwrap();
            let at = to_usize(offset);
            assert_eq!(bytes, content[at..at + size], "{size} bytes at {offset}");
        }
        let error = file.read_from_device(19_999, &mut [0; 2]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
