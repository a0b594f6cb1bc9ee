//! The first 4,096 bytes of a checkpoint file.

use super::{
    CHECKPOINT_HEADER_SIZE, CHECKPOINT_PAGE_SIZE, RECORD_SIZE_MAX, SECTION_COUNT_MAX, page_capacity,
};
use crate::model::{ClusterId, LogEnd, LogNumber, LogTime, Seq, Term, to_u64, to_usize};

const MAGIC: [u8; 8] = *b"CFOILCKP";
const VERSION: u32 = 1;

const VERSION_AT: usize = 8;
pub(super) const CRC_AT: usize = VERSION_AT + size_of::<u32>();
pub(super) const CLUSTER_AT: usize = CRC_AT + size_of::<u32>();
pub(super) const LOG_AT: usize = CLUSTER_AT + size_of::<u128>();
const SECTION_COUNT_AT: usize = LOG_AT + 2 * size_of::<u16>();
const SEQ_AT: usize = SECTION_COUNT_AT + size_of::<u32>();
const TERM_AT: usize = SEQ_AT + size_of::<u64>();
const CHAIN_AT: usize = TERM_AT + size_of::<u64>();
const OFFSET_AT: usize = CHAIN_AT + size_of::<u64>();
const TIME_AT: usize = OFFSET_AT + size_of::<u64>();
pub(super) const PAGE_COUNT_AT: usize = TIME_AT + size_of::<u64>();
pub(super) const FILE_SIZE_AT: usize = PAGE_COUNT_AT + size_of::<u64>();
pub(super) const DIGEST_AT: usize = FILE_SIZE_AT + size_of::<u64>();
const RING_KEY_AT: usize = DIGEST_AT + size_of::<u64>();
const RESERVED_AT: usize = RING_KEY_AT + size_of::<u128>();
const SECTIONS_AT: usize = 128;
const SECTION_SIZE: usize = 32;
const _: () = assert!(RESERVED_AT == 120);
const _: () = assert!(SECTIONS_AT + SECTION_COUNT_MAX * SECTION_SIZE <= CHECKPOINT_HEADER_SIZE);

/// One section of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectionInfo {
    /// Which.
    pub tag: u16,
    /// Bytes of one record.
    pub record_size: u32,
    /// Records in it.
    pub record_count: u64,
    /// Its first page, from 0.
    pub first_page: u64,
    /// Pages in it.
    pub page_count: u64,
}

/// What a checkpoint says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointHeader {
    /// Whose log.
    pub cluster: ClusterId,
    /// The log.
    pub log: LogNumber,
    /// The cluster's hash key: the records are sorted by slot.
    pub ring_key: u128,
    /// The end of the log that it stands for.
    pub end: LogEnd,
    /// Pages of the file.
    pub page_count: u64,
    /// Hash over the checksums of all pages.
    pub digest: u64,
    /// The sections by tag, none of them empty.
    pub sections: Vec<SectionInfo>,
}

impl CheckpointHeader {
    /// Bytes of the whole file.
    #[must_use]
    pub fn file_size(&self) -> u64 {
        file_size(self.page_count)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; CHECKPOINT_HEADER_SIZE];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(VERSION_AT, &VERSION.to_le_bytes());
        put(CLUSTER_AT, &self.cluster.get().to_le_bytes());
        put(LOG_AT, &self.log.get().to_le_bytes());
        put(RING_KEY_AT, &self.ring_key.to_le_bytes());
        let count = u32::try_from(self.sections.len()).expect("at most SECTION_COUNT_MAX");
        put(SECTION_COUNT_AT, &count.to_le_bytes());
        for (at, number) in [
            (SEQ_AT, self.end.seq.0),
            (TERM_AT, self.end.term.0),
            (CHAIN_AT, self.end.chain),
            (OFFSET_AT, self.end.offset),
            (TIME_AT, self.end.time.0),
            (PAGE_COUNT_AT, self.page_count),
            (FILE_SIZE_AT, self.file_size()),
            (DIGEST_AT, self.digest),
        ] {
            put(at, &number.to_le_bytes());
        }
        for (index, section) in self.sections.iter().enumerate() {
            let at = SECTIONS_AT + index * SECTION_SIZE;
            put(at, &section.tag.to_le_bytes());
            put(at + 4, &section.record_size.to_le_bytes());
            put(at + 8, &section.record_count.to_le_bytes());
            put(at + 16, &section.first_page.to_le_bytes());
            put(at + 24, &section.page_count.to_le_bytes());
        }
        let crc = crc(&bytes);
        bytes[CRC_AT..CLUSTER_AT].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header and checks everything in it; `None` if it is none.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let fields = Fields(bytes);
        let number = |at: usize| fields.u64(at);
        let count = to_usize(u64::from(fields.u32(SECTION_COUNT_AT)?));
        if SECTION_COUNT_MAX < count {
            return None;
        }
        let sections: Option<Vec<SectionInfo>> = (0..count)
            .map(|index| {
                let at = SECTIONS_AT + index * SECTION_SIZE;
                Some(SectionInfo {
                    tag: fields.u16(at)?,
                    record_size: fields.u32(at + 4)?,
                    record_count: number(at + 8)?,
                    first_page: number(at + 16)?,
                    page_count: number(at + 24)?,
                })
            })
            .collect();
        let header = Self {
            cluster: ClusterId::new(fields.u128(CLUSTER_AT)?)?,
            log: LogNumber::new(fields.u16(LOG_AT)?)?,
            ring_key: fields.u128(RING_KEY_AT)?,
            end: LogEnd {
                seq: Seq(number(SEQ_AT)?),
                term: Term(number(TERM_AT)?),
                chain: number(CHAIN_AT)?,
                offset: number(OFFSET_AT)?,
                time: LogTime(number(TIME_AT)?),
            },
            page_count: number(PAGE_COUNT_AT)?,
            digest: number(DIGEST_AT)?,
            sections: sections?,
        };
        // Checksum, magic, reserved bytes: all is as it would be written.
        (header.is_sound() && header.to_bytes() == bytes).then_some(header)
    }

    /// Are the sections in order, without gap, and of the size that their records need?
    fn is_sound(&self) -> bool {
        let mut next_page = 0_u64;
        let mut last_tag = 0;
        for section in &self.sections {
            let record_size = to_usize(u64::from(section.record_size));
            if !(1..=RECORD_SIZE_MAX).contains(&record_size) || section.tag <= last_tag {
                return false;
            }
            let pages = section
                .record_count
                .div_ceil(to_u64(page_capacity(record_size)));
            let placed = section.first_page == next_page && section.page_count == pages;
            if !placed || section.record_count == 0 {
                return false;
            }
            let Some(sum) = next_page.checked_add(pages) else {
                return false;
            };
            next_page = sum;
            last_tag = section.tag;
        }
        self.page_count == next_page && u32::try_from(self.page_count).is_ok()
    }
}

pub(super) const fn file_size(page_count: u64) -> u64 {
    to_u64(CHECKPOINT_HEADER_SIZE) + page_count * to_u64(CHECKPOINT_PAGE_SIZE)
}

pub(super) fn crc(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..CRC_AT]);
    hasher.update(&bytes[CLUSTER_AT..]);
    hasher.finalize()
}

/// Numbers at offsets of foreign bytes.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk().copied()
    }

    pub(super) fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    pub(super) fn u128(&self, at: usize) -> Option<u128> {
        self.array(at).map(u128::from_le_bytes)
    }
}
