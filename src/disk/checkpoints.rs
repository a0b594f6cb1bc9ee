//! Checkpoints on their way: into a ledger in pieces, and from another disk to this one.

use std::sync::Arc;

use bytes::BytesMut;

use crate::ledger::record_size;
use crate::log::{
    Checkpoint, LogError, Medium, MediumFile, Page, checkpoint_name, install_checkpoint, log_dir,
};
use crate::model::{LogNumber, Section, to_u64};
use crate::role::CheckpointRecords;

/// Pages given out at a time: about 256 KiB.
const PAGES_PER_PIECE: u64 = 4;

/// A checkpoint that is being loaded. The file stays the same, whatever replaces it meanwhile.
#[derive(Debug)]
pub(super) struct Loading {
    checkpoint: Arc<Checkpoint>,
}

impl Loading {
    pub(super) const fn new(checkpoint: Arc<Checkpoint>) -> Self {
        Self { checkpoint }
    }

    /// How many pages it has.
    pub(super) fn page_count(&self) -> u64 {
        self.checkpoint.header().page_count
    }

    /// The records of pages from `cursor` on, at most so many: each page by itself.
    pub(super) fn pages(
        &self,
        cursor: u64,
        page_count_max: u32,
    ) -> Result<Vec<CheckpointRecords>, LogError> {
        let end = cursor.saturating_add(page_count_max.into());
        let mut pages = Vec::new();
        for index in cursor..end.min(self.page_count()) {
            let page = self.checkpoint.page(index)?;
            if let Some(section) = section_of(&page)? {
                let records = page.records;
                pages.push(CheckpointRecords { section, records });
            }
        }
        Ok(pages)
    }

    /// Records from page `cursor` on, of one section; and where to go on.
    pub(super) fn next(&self, cursor: u64) -> Result<Option<(CheckpointRecords, u64)>, LogError> {
        let page_count = self.checkpoint.header().page_count;
        let mut index = cursor;
        let mut found: Option<CheckpointRecords> = None;
        let mut merged = BytesMut::new();
        while index < page_count && index - cursor < PAGES_PER_PIECE {
            let page = self.checkpoint.page(index)?;
            let Some(section) = section_of(&page)? else {
                // Not the ledger's.
                break;
            };
            match &mut found {
                None => {
                    let records = page.records;
                    found = Some(CheckpointRecords { section, records });
                }
                Some(found) if found.section == section => {
                    if merged.is_empty() {
                        merged.extend_from_slice(&found.records);
                    }
                    merged.extend_from_slice(&page.records);
                }
                Some(_) => break,
            }
            index += 1;
        }
        Ok(found.map(|mut found| {
            if !merged.is_empty() {
                found.records = merged.freeze();
            }
            (found, index)
        }))
    }
}

/// The ledger's section that a page belongs to. `None`: it belongs to the log itself.
pub(super) fn section_of(page: &Page) -> Result<Option<Section>, LogError> {
    let known = Section::ALL
        .into_iter()
        .find(|section| tag_of(*section) == page.tag);
    let Some(section) = known else {
        return Ok(None);
    };
    if page.record_size != record_size(section) {
        return Err(LogError::Damage(format!(
            "records of section {section:?} have {} bytes, not {}",
            page.record_size,
            record_size(section)
        )));
    }
    Ok(Some(section))
}

/// The tag of a ledger's section in the file.
pub(super) const fn tag_of(section: Section) -> u16 {
    section as u16
}

/// A file that is being copied to here, piece by piece.
#[derive(Debug)]
pub(super) struct Incoming {
    path: String,
    file: Arc<dyn MediumFile>,
    written: u64,
    size: u64,
}

impl Incoming {
    pub(super) fn begin(medium: &dyn Medium, log: LogNumber, size: u64) -> Result<Self, LogError> {
        let dir = log_dir(log);
        for (path, above) in [("logs", ""), (&dir, "logs")] {
            medium
                .create_dir(path)
                .and_then(|()| medium.sync_dir(above))
                .map_err(|error| LogError::io(format!("creating {path}"), error))?;
        }
        Self::begin_at(medium, format!("{dir}/checkpoint-incoming.tmp"), size)
    }

    pub(super) fn begin_at(medium: &dyn Medium, path: String, size: u64) -> Result<Self, LogError> {
        let file = medium
            .create(&path)
            .map_err(|error| LogError::io(format!("creating {path}"), error))?;
        Ok(Self {
            path,
            file,
            written: 0,
            size,
        })
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Writes the next piece. Was it the last one?
    pub(super) fn take(&mut self, offset: u64, bytes: &[u8], size: u64) -> Result<bool, LogError> {
        let end = offset.saturating_add(to_u64(bytes.len()));
        if offset != self.written || size != self.size || self.size < end {
            return Err(LogError::Wrong(format!(
                "piece {offset} to {end} of {size} bytes of {}, {} of {} bytes are there",
                self.path, self.written, self.size
            )));
        }
        self.file
            .write_at(offset, bytes)
            .map_err(|error| LogError::io(format!("writing {}", self.path), error))?;
        self.written = end;
        Ok(self.written == self.size)
    }

    /// Makes it durable. Its path.
    pub(super) fn make_durable(self) -> Result<String, LogError> {
        self.file
            .sync()
            .map_err(|error| LogError::Poisoned(format!("syncing {}: {error}", self.path)))?;
        Ok(self.path)
    }

    /// Makes a checkpoint durable, verifies all of it and gives it its name.
    pub(super) fn finish(
        self,
        medium: &dyn Medium,
        log: LogNumber,
    ) -> Result<Checkpoint, LogError> {
        let path = self.make_durable()?;
        let gone = || LogError::Damage(format!("{path} is gone"));
        let checkpoint = Checkpoint::open(medium, &path)?.ok_or_else(gone)?;
        checkpoint.verify(log)?;
        let offset = checkpoint.end().offset;
        let dir = log_dir(log);
        install_checkpoint(medium, &dir, &path, offset)?;
        let path = format!("{dir}/{}", checkpoint_name(offset));
        Checkpoint::open(medium, &path)?.ok_or_else(gone)
    }
}
