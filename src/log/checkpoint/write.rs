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

/// Pages (64 KiB) written before they are made durable. Many at once hold up the log's own syncs:
/// beside a file that was synced every 16 MiB one of them took up to 35 ms, at 4 MiB 12, at 1 MiB 6
/// (2 to 3 on an idle disk); the file took 10 % longer.
const PAGES_PER_SYNC: u64 = 16;

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
    /// Checksums of the pages that are written.
    crcs: Vec<u32>,
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
            crcs: Vec::new(),
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
        let mut digest = SipHasher24::new_with_keys(0, 0);
        for crc in &self.crcs {
            digest.write(&crc.to_le_bytes());
        }
        let header = CheckpointHeader {
            cluster: self.spec.cluster,
            log: self.spec.log,
            ring_key: self.spec.ring_key,
            end,
            page_count: self.page_count,
            digest: digest.finish(),
            sections: std::mem::take(&mut self.sections),
        };
        self.file
            .write_at(0, &header.to_bytes())
            .during(|| format!("writing {}", self.path))?;
        self.sync()?;
        Ok(header)
    }

    /// Makes what is written so far durable: less is left to do when the file is finished.
    pub fn sync(&self) -> Result<(), LogError> {
        self.file
            .sync()
            .map_err(|error| sync_failed(format!("syncing {}", self.path), &error))
    }

    /// Where the file lies until it is finished and gets its name.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Writes other records in the place of those of the first section. False, and nothing is
    /// changed: they do not have the same place, or the section is not over.
    pub fn replace_first(
        &mut self,
        tag: u16,
        record_size: usize,
        records: &[u8],
    ) -> Result<bool, LogError> {
        let Some(section) = self.sections.first().copied() else {
            return Ok(false);
        };
        let size = section.record_count * u64::from(section.record_size);
        let is_over = 1 < self.sections.len();
        let fits = section.tag == tag && to_usize(u64::from(section.record_size)) == record_size;
        if !is_over || !fits || size != to_u64(records.len()) {
            return Ok(false);
        }
        let pages = records.chunks(page_capacity(record_size) * record_size);
        for (number, records) in (section.first_page..).zip(pages) {
            let mut page = vec![0; PAGE_HEADER_SIZE];
            page.extend_from_slice(records);
            let crc = self.seal(
                &mut page,
                &section,
                number,
                record_count(records, record_size),
            );
            self.write_at(number, &page)?;
            self.crcs[to_usize(number)] = crc;
        }
        Ok(true)
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
        let section = *section;
        let mut page = std::mem::take(&mut self.page);
        let crc = self.seal(&mut page, &section, self.page_count, self.page_record_count);
        self.crcs.push(crc);
        self.write_at(self.page_count, &page)?;
        self.page_count += 1;
        self.page_record_count = 0;
        page.clear();
        page.resize(PAGE_HEADER_SIZE, 0);
        self.page = page;
        if self.page_count.is_multiple_of(PAGES_PER_SYNC) {
            self.sync()?;
        }
        Ok(())
    }

    /// Fills up a page of records and writes its header. Its checksum.
    fn seal(
        &self,
        page: &mut Vec<u8>,
        section: &SectionInfo,
        number: u64,
        record_count: u32,
    ) -> u32 {
        page.resize(CHECKPOINT_PAGE_SIZE, 0);
        page[4..6].copy_from_slice(&section.tag.to_le_bytes());
        page[8..16].copy_from_slice(&number.to_le_bytes());
        page[16..20].copy_from_slice(&section.record_size.to_le_bytes());
        page[20..24].copy_from_slice(&record_count.to_le_bytes());
        let crc = page_crc(self.spec.log, self.spec.cluster, page);
        page[..4].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    fn write_at(&self, number: u64, page: &[u8]) -> Result<(), LogError> {
        self.file
            .write_at(file_size(number), page)
            .during(|| format!("writing {}", self.path))
    }
}

#[expect(clippy::integer_division, reason = "whole records only")]
fn record_count(records: &[u8], record_size: usize) -> u32 {
    u32::try_from(records.len() / record_size).expect("at most a page of them")
}
