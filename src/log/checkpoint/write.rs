//! Writing a checkpoint: records stream in, pages go out, the header comes last.

use std::hash::Hasher;
use std::sync::Arc;

use siphasher::sip::SipHasher24;

use super::header::{CheckpointHeader, SectionInfo, file_size};
use super::{
    CHECKPOINT_PAGE_SIZE, PAGE_HEADER_SIZE, RECORD_SIZE_MAX, SECTION_COUNT_MAX, TERMS_TAG,
    page_capacity, page_crc,
};
use crate::log::base::term_bytes;
use crate::log::error::{LogError, While, sync_failed};
use crate::log::medium::{Medium, MediumFile};
use crate::model::{ClusterId, LogEnd, LogNumber, TermStart, to_u64, to_usize};

/// Pages written before they are made durable: many at once would hold up the log's own syncs.
const PAGES_PER_SYNC: u64 = 256;

/// What a checkpoint is of.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointSpec {
    /// Whose log.
    pub cluster: ClusterId,
    /// The log.
    pub log: LogNumber,
    /// The cluster's hash key.
    pub ring_key: u128,
}

/// Writes one checkpoint to a temporary file. Dropped before [`Self::finish`], the file is left
/// to be removed or written over.
#[derive(Debug)]
pub struct CheckpointWriter {
    file: Arc<dyn MediumFile>,
    path: String,
    spec: CheckpointSpec,
    sections: Vec<SectionInfo>,
    page: Vec<u8>,
    page_record_count: u32,
    page_count: u64,
    digest: SipHasher24,
}

impl CheckpointWriter {
    /// Begins a file.
    pub fn create(medium: &dyn Medium, path: &str, spec: CheckpointSpec) -> Result<Self, LogError> {
        let file = medium.create(path).during(|| format!("creating {path}"))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            spec,
            sections: Vec::new(),
            page: Vec::with_capacity(CHECKPOINT_PAGE_SIZE),
            page_record_count: 0,
            page_count: 0,
            digest: SipHasher24::new_with_keys(0, 0),
        })
    }

    /// Appends whole records of a section; sections come in the order of their tags.
    ///
    /// Panics on anything else: records are made by this process.
    pub fn push(&mut self, tag: u16, record_size: usize, records: &[u8]) -> Result<(), LogError> {
        if records.is_empty() {
            return Ok(());
        }
        assert!((1..=RECORD_SIZE_MAX).contains(&record_size));
        assert!(records.len().is_multiple_of(record_size));
        self.turn_to(tag, record_size)?;
        let capacity = page_capacity(record_size);
        for record in records.chunks_exact(record_size) {
            if to_usize(u64::from(self.page_record_count)) == capacity {
                self.write_page()?;
            }
            self.page.extend_from_slice(record);
            self.page_record_count += 1;
        }
        Ok(())
    }

    /// Appends the term history and completes the file: durable when this returns.
    pub fn finish(
        mut self,
        end: LogEnd,
        terms: &[TermStart],
    ) -> Result<CheckpointHeader, LogError> {
        for start in terms {
            let record = term_bytes(start);
            self.push(TERMS_TAG, record.len(), &record)?;
        }
        self.write_page()?;
        let header = CheckpointHeader {
            cluster: self.spec.cluster,
            log: self.spec.log,
            ring_key: self.spec.ring_key,
            end,
            page_count: self.page_count,
            digest: self.digest.finish(),
            sections: self.sections,
        };
        self.file
            .write_at(0, &header.to_bytes())
            .during(|| format!("writing {}", self.path))?;
        self.file
            .sync()
            .map_err(|error| sync_failed(format!("syncing {}", self.path), &error))?;
        Ok(header)
    }

    fn turn_to(&mut self, tag: u16, record_size: usize) -> Result<(), LogError> {
        let record_size = u32::try_from(record_size).expect("at most RECORD_SIZE_MAX");
        if let Some(last) = self.sections.last() {
            if last.tag == tag {
                assert!(last.record_size == record_size);
                return Ok(());
            }
            assert!(last.tag < tag, "sections come in the order of their tags");
        }
        self.write_page()?;
        assert!(0 < tag && self.sections.len() < SECTION_COUNT_MAX);
        self.sections.push(SectionInfo {
            tag,
            record_size,
            record_count: 0,
            first_page: self.page_count,
            page_count: 0,
        });
        self.page.resize(PAGE_HEADER_SIZE, 0);
        Ok(())
    }

    /// Writes the page that is being filled, if there is one, and begins the next.
    fn write_page(&mut self) -> Result<(), LogError> {
        let Some(section) = self
            .sections
            .last_mut()
            .filter(|_| 0 < self.page_record_count)
        else {
            return Ok(());
        };
        section.record_count += u64::from(self.page_record_count);
        section.page_count += 1;
        let page = &mut self.page;
        page.resize(CHECKPOINT_PAGE_SIZE, 0);
        page[4..6].copy_from_slice(&section.tag.to_le_bytes());
        page[8..16].copy_from_slice(&self.page_count.to_le_bytes());
        page[16..20].copy_from_slice(&section.record_size.to_le_bytes());
        page[20..24].copy_from_slice(&self.page_record_count.to_le_bytes());
        let crc = page_crc(self.spec.log, self.spec.cluster, page);
        page[..4].copy_from_slice(&crc.to_le_bytes());
        self.digest.write(&crc.to_le_bytes());
        let offset = file_size(self.page_count);
        self.file
            .write_at(offset, page)
            .during(|| format!("writing {}", self.path))?;
        self.page_count += 1;
        self.page_record_count = 0;
        page.clear();
        page.resize(PAGE_HEADER_SIZE, 0);
        assert!(offset + to_u64(CHECKPOINT_PAGE_SIZE) == file_size(self.page_count));
        if self.page_count.is_multiple_of(PAGES_PER_SYNC) {
            self.file
                .sync()
                .map_err(|error| sync_failed(format!("syncing {}", self.path), &error))?;
        }
        Ok(())
    }
}
