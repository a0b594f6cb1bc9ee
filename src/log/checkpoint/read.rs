//! Reading a checkpoint page by page. A file that is read stays readable after it was replaced.
#![deny(clippy::indexing_slicing)]

use std::hash::Hasher;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use siphasher::sip::SipHasher24;

use super::header::{CheckpointHeader, Fields, SectionInfo, file_size};
use super::{
    CHECKPOINT_HEADER_SIZE, CHECKPOINT_PAGE_SIZE, PAGE_HEADER_SIZE, TERMS_TAG, page_capacity,
    page_crc,
};
use crate::log::base::read_terms;
use crate::log::error::{LogError, While};
use crate::log::medium::{Access, Medium, MediumFile};
use crate::model::{LogEnd, LogNumber, TermStart, to_u64, to_usize};

/// An open checkpoint whose header was verified.
#[derive(Debug)]
pub struct Checkpoint {
    file: Arc<dyn MediumFile>,
    path: String,
    header: CheckpointHeader,
}

/// The records of one verified page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The section.
    pub tag: u16,
    /// Bytes of one record.
    pub record_size: usize,
    /// Whole records.
    pub records: Bytes,
    crc: u32,
}

impl Checkpoint {
    /// Opens a file and verifies its header and length. `None`: it is not there.
    pub fn open(medium: &dyn Medium, path: &str) -> Result<Option<Self>, LogError> {
        let Some(opened) = Self::open_unfinished(medium, path)? else {
            return Ok(None);
        };
        let size = opened.file.size();
        let size = size.during(|| format!("measuring {path}"))?;
        if opened.size() != size {
            return Err(opened.damage("wrong length"));
        }
        Ok(Some(opened))
    }

    /// The same for a file that is still being copied to here, whose header is there. Which of its
    /// pages may be read is for the caller to know.
    pub fn open_unfinished(medium: &dyn Medium, path: &str) -> Result<Option<Self>, LogError> {
        let opened = medium
            .open(path, Access::Read)
            .during(|| format!("opening {path}"))?;
        let Some(file) = opened else {
            return Ok(None);
        };
        let damage = |what: &str| LogError::Damage(format!("{path}: {what}"));
        let size = file.size().during(|| format!("measuring {path}"))?;
        if size < to_u64(CHECKPOINT_HEADER_SIZE) {
            return Err(damage("too short"));
        }
        let mut bytes = vec![0; CHECKPOINT_HEADER_SIZE];
        file.read_at(0, &mut bytes)
            .during(|| format!("reading {path}"))?;
        let header =
            CheckpointHeader::read(&bytes).ok_or_else(|| damage("header does not verify"))?;
        Ok(Some(Self {
            file,
            path: path.to_owned(),
            header,
        }))
    }

    /// What it says of itself.
    #[must_use]
    pub const fn header(&self) -> &CheckpointHeader {
        &self.header
    }

    /// The end of the log that it stands for.
    #[must_use]
    pub const fn end(&self) -> LogEnd {
        self.header.end
    }

    /// Bytes of the file.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.header.file_size()
    }

    /// Verifies every page, and that it is of this log.
    pub fn verify(&self, log: LogNumber) -> Result<(), LogError> {
        if self.header.log != log {
            return Err(self.damage(&format!("it is of log {}", self.header.log)));
        }
        let mut digest = SipHasher24::new_with_keys(0, 0);
        for index in 0..self.header.page_count {
            let page = self.page(index)?;
            digest.write(&page.crc.to_le_bytes());
        }
        if digest.finish() != self.header.digest {
            return Err(self.damage("the digest of its pages does not match"));
        }
        Ok(())
    }

    /// Reads and verifies one page; panics if there is none with this number.
    pub fn page(&self, index: u64) -> Result<Page, LogError> {
        assert!(index < self.header.page_count);
        let mut bytes = BytesMut::zeroed(CHECKPOINT_PAGE_SIZE);
        self.file
            .read_at(file_size(index), &mut bytes)
            .during(|| format!("reading {}", self.path))?;
        let bytes = bytes.freeze();
        let crc = page_crc(self.header.log, self.header.cluster, &bytes);
        self.page_of(&bytes, index, crc)
            .ok_or_else(|| self.damage(&format!("page {index} does not verify")))
    }

    fn page_of(&self, bytes: &Bytes, index: u64, crc: u32) -> Option<Page> {
        let fields = Fields(bytes);
        let section = self.section_of(index)?;
        let record_size = to_usize(u64::from(section.record_size));
        let record_count = records_in(section, index);
        let sound = fields.u32(0)? == crc
            && fields.u16(4)? == section.tag
            && fields.u16(6)? == 0
            && fields.u64(8)? == index
            && fields.u32(16)? == section.record_size
            && u64::from(fields.u32(20)?) == record_count
            && fields.u64(24)? == 0;
        let end = PAGE_HEADER_SIZE + to_usize(record_count) * record_size;
        let padding = bytes.get(end..)?;
        if !sound || padding.iter().any(|byte| *byte != 0) {
            return None;
        }
        Some(Page {
            tag: section.tag,
            record_size,
            records: bytes.slice(PAGE_HEADER_SIZE..end),
            crc,
        })
    }

    fn section_of(&self, index: u64) -> Option<&SectionInfo> {
        let inside =
            |section: &&SectionInfo| index < section.first_page.saturating_add(section.page_count);
        self.header.sections.iter().find(inside)
    }

    /// The term history up to its end, oldest first.
    pub fn terms(&self) -> Result<Vec<TermStart>, LogError> {
        let mut bytes = Vec::new();
        for section in &self.header.sections {
            if section.tag == TERMS_TAG {
                for index in section.first_page..section.first_page + section.page_count {
                    bytes.extend_from_slice(&self.page(index)?.records);
                }
            }
        }
        read_terms(&bytes).ok_or_else(|| self.damage("term history does not rise"))
    }

    /// Bytes of the file as they are, at most `size_max`, none behind its end.
    pub fn raw(&self, offset: u64, size_max: u32) -> Result<Bytes, LogError> {
        let rest = self.size().saturating_sub(offset);
        let mut bytes = BytesMut::zeroed(to_usize(rest.min(u64::from(size_max))));
        self.file
            .read_at(offset.min(self.size()), &mut bytes)
            .during(|| format!("reading {}", self.path))?;
        Ok(bytes.freeze())
    }

    fn damage(&self, what: &str) -> LogError {
        LogError::Damage(format!("{}: {what}", self.path))
    }
}

/// All pages of a section are full but its last.
fn records_in(section: &SectionInfo, index: u64) -> u64 {
    let capacity = to_u64(page_capacity(to_usize(u64::from(section.record_size))));
    let before = (index - section.first_page) * capacity;
    capacity.min(section.record_count.saturating_sub(before))
}
