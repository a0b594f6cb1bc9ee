//! The file system: `pwrite` and `fdatasync`, and reads through a read-only map.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::{Access, Medium, MediumFile};
use crate::log::mmap::Map;
use crate::model::to_usize;

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

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

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
