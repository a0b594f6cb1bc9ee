//! The records of one section in several sorted files, side by side.

use bytes::Bytes;

use super::checkpoints::{section_of, tag_of};
use crate::ledger::fold::{RecordKey, Source, record_key};
use crate::ledger::record_size;
use crate::log::{Checkpoint, LogError};
use crate::model::Section;

/// One file's records of a section, read page by page.
#[derive(Debug)]
pub(super) struct Stream<'a> {
    pub(super) source: Source,
    file: &'a Checkpoint,
    section: Section,
    page_next: u64,
    page_end: u64,
    /// What is left of the present page.
    rest: Bytes,
}

impl<'a> Stream<'a> {
    pub(super) fn new(source: Source, file: &'a Checkpoint, section: Section) -> Self {
        let mut sections = file.header().sections.iter();
        let info = sections.find(|info| info.tag == tag_of(section));
        let (page_next, page_end) = info.map_or((0, 0), |info| {
            (info.first_page, info.first_page + info.page_count)
        });
        Self {
            source,
            file,
            section,
            page_next,
            page_end,
            rest: Bytes::new(),
        }
    }

    /// Reads the next page if the present one is used up.
    pub(super) fn fill(&mut self) -> Result<(), LogError> {
        while self.rest.is_empty() && self.page_next < self.page_end {
            let page = self.file.page(self.page_next)?;
            section_of(&page)?;
            self.page_next += 1;
            self.rest = page.records;
        }
        Ok(())
    }

    /// The records of the present page whose keys are not above `limit`.
    pub(super) fn take_below(&mut self, limit: Option<RecordKey>) -> Bytes {
        let Some(limit) = limit else {
            return std::mem::take(&mut self.rest);
        };
        let size = record_size(self.section);
        let count = self.rest.len().div_euclid(size);
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low.midpoint(high);
            let record = &self.rest[middle * size..(middle + 1) * size];
            if record_key(self.section, record) <= limit {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.rest.split_to(low * size)
    }

    fn key(&self) -> Option<RecordKey> {
        let record = self.rest.get(..record_size(self.section))?;
        Some(record_key(self.section, record))
    }
}

/// The stream with the lowest record, and the lowest of the others: up to there it comes alone.
/// `None`: all are at their ends.
pub(super) fn next_run(streams: &[Stream<'_>]) -> Option<(usize, Option<RecordKey>)> {
    let mut keys: Vec<(RecordKey, usize)> = streams
        .iter()
        .enumerate()
        .filter_map(|(index, stream)| Some((stream.key()?, index)))
        .collect();
    if let [(_, index)] = keys[..] {
        return Some((index, None));
    }
    keys.sort_unstable();
    let (_, index) = keys.first()?;
    Some((*index, keys.get(1).map(|(key, _)| *key)))
}
