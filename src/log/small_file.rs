//! Small files that are written whole: identity, authority, base of a log, kind of the folder.
//!
//! Adds and tests a header with a checksum; what is inside is the caller's business.
#![deny(clippy::indexing_slicing)]

use super::error::{LogError, While};
use super::medium::{Access, Medium};
use crate::canary::{self, Bug};
use crate::limits::SMALL_FILE_SIZE_MAX;
use crate::model::{to_u64, to_usize};

/// What a small file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SmallFile {
    /// Whose folder it is.
    Kind = 1,
    /// Who a node is.
    Identity = 2,
    /// The authority's record.
    Authority = 3,
    /// Whose log, and what lies before its first segment.
    Base = 4,
}

impl SmallFile {
    /// Its name in its folder.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::Identity => "identity",
            Self::Authority => "authority",
            Self::Base => "base",
        }
    }

    const fn tag(self) -> u32 {
        self as u32
    }

    fn path(self, dir: &str) -> String {
        in_dir(dir, self.name())
    }
}

/// The path of `name` in `dir`, where `dir` may be the root.
pub(super) fn in_dir(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.to_owned()
    } else {
        format!("{dir}/{name}")
    }
}

const MAGIC: [u8; 4] = *b"CFF1";
const VERSION: u32 = 1;
const HEADER_SIZE: usize = 32;

/// Replaces a small file durably: once this returns, the old content never comes back.
///
/// After a failed sync the caller ends the process: whether old or new is there is unknown.
pub fn save(
    medium: &dyn Medium,
    dir: &str,
    file: SmallFile,
    content: &[u8],
) -> Result<(), LogError> {
    assert!(content.len() <= to_usize(u64::from(SMALL_FILE_SIZE_MAX)));
    let path = file.path(dir);
    let temporary = format!("{path}.tmp");
    let written = write(medium, &temporary, &encode(file, content));
    if written.is_err() {
        // Gives the space back; the next save replaces it anyway.
        medium.remove(&temporary).unwrap_or(());
    }
    written?;
    let replaced = medium
        .rename(&temporary, &path)
        .and_then(|()| medium.sync_dir(dir));
    replaced.map_err(|error| LogError::Poisoned(format!("replacing {path}: {error}")))
}

fn write(medium: &dyn Medium, path: &str, bytes: &[u8]) -> Result<(), LogError> {
    let file = medium.create(path).during(|| format!("creating {path}"))?;
    file.write_at(0, bytes)
        .during(|| format!("writing {path}"))?;
    if canary::on(Bug::UnsyncedFile) {
        return Ok(());
    }
    file.sync()
        .map_err(|error| LogError::Poisoned(format!("syncing {path}: {error}")))
}

/// Reads a small file. `None`: it is not there.
pub fn load(medium: &dyn Medium, dir: &str, file: SmallFile) -> Result<Option<Vec<u8>>, LogError> {
    let path = file.path(dir);
    let opened = medium
        .open(&path, Access::Read)
        .during(|| format!("opening {path}"))?;
    let Some(opened) = opened else {
        return Ok(None);
    };
    let size = opened.size().during(|| format!("measuring {path}"))?;
    if to_u64(HEADER_SIZE) + u64::from(SMALL_FILE_SIZE_MAX) < size {
        return Err(LogError::Damage(format!("{path} has {size} bytes")));
    }
    let mut bytes = vec![0; to_usize(size)];
    opened
        .read_at(0, &mut bytes)
        .during(|| format!("reading {path}"))?;
    decode(file, &bytes)
        .map(|content| Some(content.to_vec()))
        .ok_or_else(|| LogError::Damage(format!("{path} does not verify")))
}

fn encode(file: SmallFile, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_SIZE + content.len());
    let tail = header_tail(file, content);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&crc(&tail, content).to_le_bytes());
    bytes.extend_from_slice(&tail);
    bytes.extend_from_slice(content);
    bytes
}

/// The header behind the checksum.
fn header_tail(file: SmallFile, content: &[u8]) -> [u8; 20] {
    let mut tail = [0; 20];
    let (tag, length) = tail.split_at_mut(4);
    tag.copy_from_slice(&file.tag().to_le_bytes());
    let (length, _reserved) = length.split_at_mut(8);
    length.copy_from_slice(&to_u64(content.len()).to_le_bytes());
    tail
}

fn crc(tail: &[u8; 20], content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&MAGIC);
    hasher.update(&VERSION.to_le_bytes());
    hasher.update(tail);
    hasher.update(content);
    hasher.finalize()
}

/// The content, if every byte of the file is as it would be written.
fn decode(file: SmallFile, bytes: &[u8]) -> Option<&[u8]> {
    let content = bytes.get(HEADER_SIZE..)?;
    (bytes == encode(file, content)).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::super::medium::{Fault, MemoryMedium};
    use super::*;
    use crate::model::Random;

    #[test]
    fn saved_is_loaded_and_every_flipped_bit_is_found() {
        let medium = MemoryMedium::new();
        let load = || load(&medium, "", SmallFile::Identity);
        assert!(load().unwrap().is_none());
        save(&medium, "", SmallFile::Identity, b"who").unwrap();
        assert_eq!(load().unwrap().unwrap(), b"who");
        let bytes = medium.content("identity").unwrap();
        for bit in 0..bytes.len() * 8 {
            let byte = bytes[bit / 8] ^ (1 << (bit % 8));
            medium.damage("identity", to_u64(bit / 8), &[byte]);
            assert!(matches!(load(), Err(LogError::Damage(_))), "bit {bit}");
            medium.damage("identity", to_u64(bit / 8), &bytes[bit / 8..=bit / 8]);
        }
        medium.rename("identity", "authority").unwrap();
        let other = super::load(&medium, "", SmallFile::Authority);
        assert!(matches!(other, Err(LogError::Damage(_))));
    }

    #[test]
    fn a_crash_leaves_the_old_or_the_new() {
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let medium = MemoryMedium::new();
            save(&medium, "", SmallFile::Kind, b"old").unwrap();
            medium.fail(Fault::Sync(random.below(2)));
            assert!(save(&medium, "", SmallFile::Kind, b"new").is_err());
            let after = medium.crash(&mut random);
            let content = load(&after, "", SmallFile::Kind).unwrap().unwrap();
            assert!(content == b"old" || content == b"new", "seed {seed}");
        }
    }
}
