//! What disks do to files at rest: bits flip, sectors are zeroed or swapped, files are cut short.

use std::path::{Path, PathBuf};

use counterfoil::model::{Random, to_u64, to_usize};

const SECTOR_SIZE: u64 = 512;

/// One file of a data folder, changed behind the back of its owner.
#[derive(Clone, Debug)]
pub(crate) struct Mutation {
    pub(crate) path: PathBuf,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    /// This bit of the file.
    Flip { bit: u64 },
    /// So many bytes from this one on.
    Zero { at: u64, size: u64 },
    /// Two sectors change places.
    Swap { a: u64, b: u64 },
    /// So many bytes are left.
    Truncate { size: u64 },
}

/// Draws a change of one of the files below `folder`; most are of segments, and there of the part
/// that is in use.
pub(crate) fn draw(folder: &Path, random: &mut Random) -> Mutation {
    let (segments, others): (Vec<PathBuf>, Vec<PathBuf>) =
        files(folder).into_iter().partition(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("segment-")
        });
    let of_segment = others.is_empty() || !random.one_in(10);
    let from = if of_segment { &segments } else { &others };
    let path = from[to_usize(random.below(to_u64(from.len())))].clone();
    let bytes = std::fs::read(&path).expect("a file can be read");
    let last_used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
    let used = match random.below(10) {
        // Behind the end too.
        0 => to_u64(bytes.len()),
        _ => to_u64(last_used) + 1,
    };
    // A quarter of them at the end, where damage looks like an unfinished write.
    let from = if random.one_in(4) {
        used.saturating_sub(16 << 10)
    } else {
        0
    };
    let at = from + random.below(used - from);
    let sector = |at: u64| at - at % SECTOR_SIZE;
    let what = match random.below(8) {
        0..3 => What::Flip {
            bit: at * 8 + random.below(8),
        },
        3..5 => What::Zero {
            at: sector(at),
            size: [SECTOR_SIZE, 4_096, 65_536][to_usize(random.below(3))],
        },
        5..7 => What::Swap {
            a: sector(at),
            b: sector(random.below(used)),
        },
        _ => What::Truncate { size: at },
    };
    Mutation { path, what }
}

/// The files whose damage counts: not the lock, and nothing that was put aside.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(folder).expect("a folder can be read");
    for entry in entries {
        let path = entry.expect("a folder can be read").path();
        let name = path.file_name().unwrap_or_default().to_owned();
        if path.is_dir() {
            if name != "quarantine" {
                found.extend(files(&path));
            }
        } else if name != "LOCK" {
            found.push(path);
        }
    }
    found.sort();
    found
}

impl Mutation {
    /// The same change of a copy of the folder.
    pub(crate) fn within(&self, folder: &Path, copy: &Path) -> Self {
        let inside = self
            .path
            .strip_prefix(folder)
            .expect("it lies in the folder");
        Self {
            path: copy.join(inside),
            what: self.what,
        }
    }

    /// Does it. The offsets in the file whose bytes are other ones now; what was cut off counts.
    pub(crate) fn apply(&self) -> Vec<u64> {
        let before = std::fs::read(&self.path).expect("a file can be read");
        let mut bytes = before.clone();
        let end = bytes.len();
        match self.what {
            What::Flip { bit } => bytes[to_usize(bit / 8)] ^= 1 << (bit % 8),
            What::Zero { at, size } => bytes[to_usize(at)..to_usize(at + size).min(end)].fill(0),
            What::Swap { a, b } => {
                for index in 0..SECTOR_SIZE {
                    let (a, b) = (to_usize(a + index), to_usize(b + index));
                    if a < end && b < end {
                        bytes.swap(a, b);
                    }
                }
            }
            What::Truncate { size } => bytes.truncate(to_usize(size)),
        }
        std::fs::write(&self.path, &bytes).expect("a file can be written");
        let differs = |index: &usize| bytes.get(*index) != Some(&before[*index]);
        (0..end).filter(differs).map(to_u64).collect()
    }
}

/// Copies a folder with all that is in it; what is there already is replaced.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).expect("a folder can be removed");
    }
    std::fs::create_dir_all(to).expect("a folder can be made");
    for entry in std::fs::read_dir(from).expect("a folder can be read") {
        let path = entry.expect("a folder can be read").path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            std::fs::copy(&path, target).expect("a file can be copied");
        }
    }
}
