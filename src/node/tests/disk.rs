//! A disk in memory that can hold its replies back, fail, and lose what was not durable.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::super::search;
use super::world::{Shelf, cluster, log_number};
use crate::ledger::Ledger;
use crate::log::{Verify, blocks};
use crate::model::{
    ENTRY_SIZE, LogEnd, LogTime, Place, Section, Seq, Term, TermStart, to_u64, to_usize,
};
use crate::role::{
    CheckpointInfo, CheckpointRecords, DiskFault, DiskReply, DiskRequest, FileName, LogReport,
    LogView,
};

/// A checkpoint file as this disk and the test backup write it: its end, then records by section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) end: LogEnd,
    pub(super) sections: Vec<(Section, Bytes)>,
}

impl Checkpoint {
    pub(super) fn of(ledger: &Ledger, end: LogEnd) -> Self {
        let records = |section| (section, Bytes::from(ledger.records(section)));
        Self {
            end,
            sections: Section::ALL.map(records).to_vec(),
        }
    }

    pub(super) fn to_bytes(&self) -> Bytes {
        let end = self.end;
        let mut bytes = Vec::new();
        for word in [end.seq.0, end.term.0, end.chain, end.offset, end.time.0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        for (_, records) in &self.sections {
            bytes.extend_from_slice(&to_u64(records.len()).to_le_bytes());
            bytes.extend_from_slice(records);
        }
        bytes.into()
    }

    pub(super) fn read(bytes: &[u8]) -> Self {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let end = LogEnd {
            seq: Seq(word(0)),
            term: Term(word(8)),
            chain: word(16),
            offset: word(24),
            time: LogTime(word(32)),
        };
        let mut at = 40;
        let mut sections = Vec::new();
        for section in Section::ALL {
            let size = to_usize(word(at));
            let records = Bytes::copy_from_slice(&bytes[at + 8..at + 8 + size]);
            sections.push((section, records));
            at += 8 + size;
        }
        assert_eq!(at, bytes.len());
        Self { end, sections }
    }
}

/// What is on the disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    pub(super) identity: Option<Bytes>,
    /// Where the log begins, if there is one.
    pub(super) begin: Option<LogEnd>,
    pub(super) blocks: Vec<(LogEnd, Bytes)>,
    /// The first so many blocks are durable.
    durable_count: usize,
    pub(super) checkpoint: Option<Checkpoint>,
    copied: Vec<u8>,
    /// Images of moves by number, whole ones.
    pub(super) images: BTreeMap<u64, Bytes>,
    image_copied: Vec<u8>,
    pub(super) torn: Option<String>,
    pub(super) damage: Option<String>,
    /// Committed seq that blocks behind a damage named.
    pub(super) committed_floor: Seq,
    /// Entries below this offset are not read by the view.
    pub(super) cold_below: u64,
    /// Nor are they on this disk at all.
    pub(super) is_cold_lost: bool,
}

#[derive(Debug)]
struct View(Shelf);

impl LogView for View {
    fn recent_entry(&self, place: Place) -> Option<[u8; ENTRY_SIZE]> {
        let files = self.0.lock().unwrap();
        if place.offset() < files.cold_below {
            return None;
        }
        files.entry(place)
    }
}

impl Files {
    pub(super) fn entry(&self, place: Place) -> Option<[u8; ENTRY_SIZE]> {
        let (end, bytes) = self
            .blocks
            .iter()
            .find(|(end, _)| place.offset() < end.offset)?;
        let first = end.offset - to_u64(bytes.len());
        let at = to_usize(place.offset().checked_sub(first)?);
        bytes.get(at..at + ENTRY_SIZE)?.try_into().ok()
    }

    pub(super) fn end(&self) -> LogEnd {
        let last = self.blocks.last().map(|(end, _)| *end);
        last.unwrap_or_else(|| self.begin.unwrap_or_default())
    }

    pub(super) fn terms(&self) -> Vec<TermStart> {
        let mut terms: Vec<TermStart> = Vec::new();
        for (end, _) in &self.blocks {
            if terms.last().is_none_or(|last| last.term < end.term) {
                let (term, seq) = (end.term, end.seq);
                terms.push(TermStart { term, seq });
            }
        }
        terms
    }

    fn report(&self, segment_size: u64) -> LogReport {
        let verify = Verify {
            log: log_number(),
            cluster: cluster(),
            segment_size,
        };
        let named = self.blocks.iter().map(|(_, bytes)| {
            let block = blocks(bytes, verify).next().unwrap().unwrap();
            block.head().committed
        });
        LogReport {
            cluster: cluster(),
            segment_size,
            first_offset: self.begin.unwrap_or_default().offset,
            end: self.end(),
            committed: named.max().unwrap_or_default().max(self.committed_floor),
            terms: self.terms(),
            checkpoint: self.checkpoint.as_ref().map(|checkpoint| CheckpointInfo {
                end: checkpoint.end,
                size: to_u64(checkpoint.to_bytes().len()),
            }),
            torn: self.torn.clone(),
            damage: self.damage.clone(),
        }
    }

    /// Whole blocks from `offset` on within one segment, at most `size_max` bytes.
    pub(super) fn read(&self, offset: u64, size_max: u32, segment_size: u64) -> (u64, Bytes) {
        let mut found = Vec::new();
        let mut first = offset;
        let mut segment = None;
        for (end, bytes) in &self.blocks {
            let begin = end.offset - to_u64(bytes.len());
            let here = begin.checked_div(segment_size);
            let fits = found.is_empty() || found.len() + bytes.len() <= size_max as usize;
            if begin < offset {
                continue;
            }
            if !fits || segment.is_some_and(|segment| here != segment) {
                break;
            }
            if found.is_empty() {
                first = begin;
                segment = Some(here);
            }
            found.extend_from_slice(bytes);
        }
        (first, found.into())
    }
}

#[derive(Debug)]
pub(super) struct TestDisk {
    shelf: Shelf,
    segment_size: u64,
    replies: Vec<DiskReply>,
    /// Appends do not become durable while set.
    pub(super) holds_appends: bool,
    /// The next append fails with this.
    pub(super) append_fault: Option<DiskFault>,
    pub(super) prepare_fault: Option<DiskFault>,
    /// Searches of the log fail while set.
    pub(super) searches_fail: bool,
    pub(super) checkpoint_fault: Option<DiskFault>,
    pub(super) free_size: u64,
    pub(super) aside: Vec<LogEnd>,
    pub(super) requests: Vec<DiskRequest>,
}

impl TestDisk {
    pub(super) fn new() -> Self {
        Self {
            shelf: Arc::new(Mutex::new(Files::default())),
            segment_size: super::SEGMENT_SIZE,
            replies: Vec::new(),
            holds_appends: false,
            append_fault: None,
            prepare_fault: None,
            searches_fail: false,
            checkpoint_fault: None,
            free_size: u64::MAX,
            aside: Vec::new(),
            requests: Vec::new(),
        }
    }

    pub(super) fn files<T>(&self, read: impl FnOnce(&mut Files) -> T) -> T {
        read(&mut self.shelf.lock().unwrap())
    }

    /// What was not durable is gone, and nobody waits for a reply any more.
    pub(super) fn crash(&mut self) {
        self.replies.clear();
        self.requests.clear();
        self.aside.clear();
        self.holds_appends = false;
        let files = self.files(|files| {
            files.blocks.truncate(files.durable_count);
            files.clone()
        });
        // The old process's view must not see what comes.
        self.shelf = Arc::new(Mutex::new(files));
    }

    /// Lets held appends become durable.
    pub(super) fn release_appends(&mut self) {
        self.holds_appends = false;
        self.sync();
    }

    pub(super) fn release_appends_if_any(&mut self) {
        if self.holds_appends {
            self.release_appends();
        }
    }

    fn sync(&mut self) {
        let end = self.files(|files| {
            files.durable_count = files.blocks.len();
            files.end()
        });
        let log = log_number();
        self.replies.push(DiskReply::Durable { log, end });
    }

    pub(super) fn take_replies(&mut self) -> Vec<DiskReply> {
        std::mem::take(&mut self.replies)
    }

    pub(super) fn count_of(&self, is_it: impl Fn(&DiskRequest) -> bool) -> usize {
        self.requests
            .iter()
            .filter(|request| is_it(request))
            .count()
    }

    fn fail(&mut self, request: DiskRequest, fault: DiskFault) {
        let text = format!("{fault:?} on the test disk");
        let request = Box::new(request);
        self.replies.push(DiskReply::Failed {
            request,
            fault,
            text,
        });
    }

    pub(super) fn take(&mut self, request: DiskRequest) {
        self.requests.push(request.clone());
        let log = log_number();
        match request {
            DiskRequest::LoadFile { name } => {
                assert_eq!(name, FileName::Identity);
                let bytes = self.files(|files| files.identity.clone());
                self.replies.push(DiskReply::FileLoaded { name, bytes });
            }
            DiskRequest::SaveFile { name, bytes } => {
                self.files(|files| files.identity = Some(bytes));
                self.replies.push(DiskReply::FileSaved { name });
            }
            DiskRequest::OpenLog { .. } => self.open(),
            DiskRequest::CreateLog { after, .. } => {
                self.files(|files| {
                    files.begin = Some(after);
                    files.blocks.clear();
                    files.durable_count = 0;
                    files.torn = None;
                    files.damage = None;
                    files.committed_floor = Seq(0);
                });
                self.open();
            }
            DiskRequest::Append { .. } => self.append(request),
            DiskRequest::CutLog { to, .. } => {
                self.aside.push(to);
                let aside_size = self.files(|files| {
                    files.blocks.retain(|(end, _)| end.seq <= to.seq);
                    files.durable_count = files.blocks.len();
                    files.torn = None;
                    files.damage = None;
                    assert_eq!(files.end(), to);
                    1
                });
                self.replies.push(DiskReply::LogCut { log, aside_size });
            }
            DiskRequest::ReadEntry { place, ticket } => {
                let entry = self.files(|files| {
                    let is_lost = files.is_cold_lost && place.offset() < files.cold_below;
                    (!is_lost).then(|| files.entry(place)).flatten()
                });
                self.replies.push(DiskReply::EntryRead {
                    ticket,
                    place,
                    entry,
                });
            }
            request => self.take_read(request),
        }
    }

    fn take_read(&mut self, request: DiskRequest) {
        match request {
            DiskRequest::Scrub {
                log,
                offset,
                below,
                ticket,
            } => self.take_other(DiskRequest::ReadBlocks {
                log,
                offset,
                below,
                size_max: 1 << 20,
                ticket,
            }),
            DiskRequest::ReadBlocks {
                ticket: search::TICKET,
                ..
            } if self.searches_fail => self.replies.push(DiskReply::Failed {
                request: Box::new(request),
                fault: DiskFault::Damage,
                text: "the test wants it so".to_owned(),
            }),
            request => self.take_other(request),
        }
    }

    fn take_other(&mut self, request: DiskRequest) {
        let log = log_number();
        match request {
            DiskRequest::ReadBlocks {
                offset,
                below,
                size_max,
                ticket,
                ..
            } => {
                let segment_size = self.segment_size;
                let (offset, blocks) = self.files(|files| {
                    let mut kept = files.clone();
                    kept.blocks.retain(|(end, _)| end.offset <= below);
                    kept.read(offset, size_max, segment_size)
                });
                self.replies.push(DiskReply::BlocksRead {
                    log,
                    ticket,
                    offset,
                    blocks,
                });
            }
            DiskRequest::PrepareSegment { .. } => match self.prepare_fault.clone() {
                Some(fault) => self.fail(request, fault),
                None => self.replies.push(DiskReply::SegmentReady { log }),
            },
            DiskRequest::MakeCheckpoint { .. } if self.checkpoint_fault.is_some() => {
                let fault = self.checkpoint_fault.take().unwrap();
                self.fail(request, fault);
            }
            DiskRequest::MakeCheckpoint { through, .. } => {
                let info = CheckpointInfo {
                    end: through,
                    size: 1,
                };
                self.replies.push(DiskReply::CheckpointMade { log, info });
            }
            DiskRequest::RetireSegments { below, .. } => {
                let first_offset = below;
                self.replies.push(DiskReply::Retired { log, first_offset });
            }
            DiskRequest::LoadCheckpoint { cursor, .. } => {
                let records = self.files(|files| {
                    let checkpoint = files.checkpoint.as_ref().unwrap();
                    let (section, records) = checkpoint.sections.get(to_usize(cursor))?.clone();
                    Some((CheckpointRecords { section, records }, cursor + 1))
                });
                self.replies
                    .push(DiskReply::CheckpointLoaded { log, records });
            }
            DiskRequest::WriteCheckpoint {
                offset,
                bytes,
                size,
                ..
            } => self.write_checkpoint(offset, &bytes, size),
            DiskRequest::MeasureFreeSpace => {
                let size = self.free_size;
                self.replies.push(DiskReply::FreeSpace { size });
            }
            request => self.take_move_file(request),
        }
    }

    fn take_move_file(&mut self, request: DiskRequest) {
        match request {
            DiskRequest::LoadMoveFile {
                number,
                cursor,
                page_count_max,
            } => {
                // A section counts as a page.
                let image = self.files(|files| files.images.get(&number.0).cloned());
                let found = image.is_some();
                let sections =
                    image.map_or_else(Vec::new, |image| Checkpoint::read(&image).sections);
                let end = to_u64(sections.len());
                let piece = sections
                    .into_iter()
                    .skip(to_usize(cursor))
                    .take(page_count_max as usize);
                let records =
                    piece.map(|(section, records)| CheckpointRecords { section, records });
                self.replies.push(DiskReply::MoveFileLoaded {
                    number,
                    found,
                    cursor,
                    records: records.collect(),
                    next: (cursor + u64::from(page_count_max)).min(end),
                    end,
                });
            }
            DiskRequest::WriteMoveFile {
                number,
                offset,
                bytes,
                size,
            } => {
                let is_complete = self.files(|files| {
                    if offset == 0 {
                        files.image_copied.clear();
                        files.images.remove(&number.0);
                    }
                    assert_eq!(to_u64(files.image_copied.len()), offset);
                    files.image_copied.extend_from_slice(&bytes);
                    let is_complete = to_u64(files.image_copied.len()) == size;
                    if is_complete {
                        let image = std::mem::take(&mut files.image_copied).into();
                        files.images.insert(number.0, image);
                    }
                    is_complete
                });
                self.replies.push(DiskReply::MoveFileWritten {
                    number,
                    is_complete,
                });
            }
            DiskRequest::KeepMoveFiles { numbers, .. } => {
                self.files(|files| {
                    let keeps = |number: &u64| numbers.iter().any(|kept| kept.0 == *number);
                    files.images.retain(|number, _| keeps(number));
                });
                self.replies.push(DiskReply::MoveFilesKept);
            }
            other => self.give(other),
        }
    }

    /// Reads for a backup that is made again.
    fn give(&mut self, request: DiskRequest) {
        match request {
            DiskRequest::ReadCheckpoint {
                log,
                offset,
                ticket,
                ..
            } => self.replies.push(DiskReply::CheckpointRead {
                log,
                ticket,
                size: 3,
                offset,
                bytes: Bytes::from_static(b"abc"),
            }),
            DiskRequest::ReadMoveFile {
                number,
                offset,
                ticket,
                ..
            } => self.replies.push(DiskReply::MoveFileRead {
                number,
                ticket,
                size: 3,
                offset,
                bytes: Bytes::from_static(b"abc"),
            }),
            other => panic!("a node does not ask for {other:?}"),
        }
    }

    fn open(&mut self) {
        let segment_size = self.segment_size;
        let report = self.files(|files| files.begin.map(|_| files.report(segment_size)));
        let view = report.is_some().then(|| {
            let view: Arc<dyn LogView> = Arc::new(View(Arc::clone(&self.shelf)));
            view
        });
        self.replies.push(DiskReply::LogOpened {
            log: log_number(),
            report,
            view,
        });
    }

    fn append(&mut self, request: DiskRequest) {
        if let Some(fault) = self.append_fault.clone() {
            self.fail(request, fault);
            return;
        }
        let DiskRequest::Append { block, end, .. } = request else {
            panic!("asked for an append");
        };
        self.files(|files| {
            let after = files.end();
            assert_eq!(end.seq, after.seq.next(), "appends are in order");
            files.blocks.push((end, block));
        });
        if !self.holds_appends {
            self.sync();
        }
    }

    fn write_checkpoint(&mut self, offset: u64, bytes: &[u8], size: u64) {
        let info = self.files(|files| {
            if offset == 0 {
                files.copied.clear();
            }
            assert_eq!(to_u64(files.copied.len()), offset);
            files.copied.extend_from_slice(bytes);
            if to_u64(files.copied.len()) < size {
                return None;
            }
            let checkpoint = Checkpoint::read(&files.copied);
            let end = checkpoint.end;
            files.checkpoint = Some(checkpoint);
            Some(CheckpointInfo { end, size })
        });
        let log = log_number();
        self.replies
            .push(DiskReply::CheckpointWritten { log, info });
    }
}
