//! The checkpoint file: opaque fixed-size records in sections, in checksummed pages.
//!
//! Written under a temporary name and given its own when it is durable; the older one goes after
//! that. What the records mean is the ledger's business. Layout: docs/log-format.md, "Checkpoint".

mod forge;
mod header;
mod read;
mod write;

pub(super) use forge::forge;
pub use header::{CheckpointHeader, SectionInfo};
pub use read::{Checkpoint, Page};
pub use write::{CheckpointSpec, CheckpointWriter};

use super::error::{LogError, While, sync_failed};
use super::medium::Medium;
use super::segment::number_in;
use crate::model::{ClusterId, LogNumber};

/// Bytes of the file's header.
pub const CHECKPOINT_HEADER_SIZE: usize = 4_096;

/// Bytes of a page.
pub const CHECKPOINT_PAGE_SIZE: usize = 64 << 10;

/// Section of the term history, beside those of the ledger.
pub(super) const TERMS_TAG: u16 = 32;

/// Bytes of a page's header.
const PAGE_HEADER_SIZE: usize = 32;

/// Sections of one file at most.
const SECTION_COUNT_MAX: usize = 64;

/// Bytes of one record at most.
const RECORD_SIZE_MAX: usize = 4_096;

const PREFIX: &str = "checkpoint";

/// The name of the checkpoint that stands for the log up to `offset`.
#[must_use]
pub fn checkpoint_name(offset: u64) -> String {
    format!("{PREFIX}-{offset:016x}")
}

/// Offsets of the complete checkpoints in the folder of a log, rising.
pub fn checkpoint_offsets(medium: &dyn Medium, dir: &str) -> Result<Vec<u64>, LogError> {
    let names = medium.list(dir).during(|| format!("listing {dir}"))?;
    Ok(names
        .iter()
        .filter_map(|name| number_in(name, PREFIX))
        .collect())
}

/// Gives a finished, durable file its name, then removes the older ones.
pub fn install_checkpoint(
    medium: &dyn Medium,
    dir: &str,
    temporary: &str,
    offset: u64,
) -> Result<(), LogError> {
    let path = format!("{dir}/{}", checkpoint_name(offset));
    medium
        .rename(temporary, &path)
        .during(|| format!("naming {path}"))?;
    medium
        .sync_dir(dir)
        .map_err(|error| sync_failed(format!("syncing {dir}"), &error))?;
    for older in checkpoint_offsets(medium, dir)? {
        if older < offset {
            let path = format!("{dir}/{}", checkpoint_name(older));
            medium.remove(&path).during(|| format!("removing {path}"))?;
        }
    }
    Ok(())
}

/// Removes what a crash left unfinished. Only while nobody writes a checkpoint of this log.
pub fn tidy_checkpoints(medium: &dyn Medium, dir: &str) -> Result<(), LogError> {
    for name in medium.list(dir).during(|| format!("listing {dir}"))? {
        let unfinished = name
            .strip_suffix(".tmp")
            .is_some_and(|stem| stem.starts_with(PREFIX));
        if unfinished {
            let path = format!("{dir}/{name}");
            medium.remove(&path).during(|| format!("removing {path}"))?;
        }
    }
    Ok(())
}

/// The checksum of a page, salted by whose log it is of.
fn page_crc(log: LogNumber, cluster: ClusterId, page: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&log.get().to_le_bytes());
    hasher.update(&cluster.get().to_le_bytes());
    hasher.update(&page[size_of::<u32>()..]);
    hasher.finalize()
}

/// Records of this size in one page.
#[expect(clippy::integer_division, reason = "whole records only")]
const fn page_capacity(record_size: usize) -> usize {
    (CHECKPOINT_PAGE_SIZE - PAGE_HEADER_SIZE) / record_size
}

#[cfg(test)]
mod tests;
