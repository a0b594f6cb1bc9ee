//! Carries out requests one by one; appends in a row share one sync.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::checkpoints::{Incoming, Loading};
use super::fold::{FoldFailure, make_checkpoint};
use super::hand_over::Plan;
use super::images;
use super::replica::Replicas;
use super::shared::{Newest, Shared, View, fault_of};
use crate::limits::{FOLD_RECORD_COUNT_MAX, SCRUB_SIZE};
use crate::log::{
    Checkpoint, Log, LogError, Opening, Recovered, SmallFile, Verify, checkpoint_name,
    checkpoint_offsets, load, log_dir, put_aside, save, tidy_checkpoints,
};
use crate::model::{EpochMark, LogEnd, LogNumber, MoveNumber, Seq};
use crate::role::{DiskFault, DiskReply, DiskRequest, FileName, LaneWorker, LogReport, LogView};

/// The worker of one lane.
#[derive(Debug)]
pub(super) struct Worker {
    shared: Arc<Shared>,
    /// Checkpoints that are being loaded or copied from here, as they were at the first piece.
    loading: BTreeMap<LogNumber, Loading>,
    copying: BTreeMap<LogNumber, Arc<Checkpoint>>,
    /// Checkpoints that are being copied to here.
    incoming: BTreeMap<LogNumber, Incoming>,
    /// The same for images of moves.
    loading_move: Option<(MoveNumber, Loading)>,
    incoming_moves: BTreeMap<MoveNumber, Incoming>,
    replicas: Replicas,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            replicas: Replicas::new(Arc::clone(&shared)),
            shared,
            loading: BTreeMap::new(),
            copying: BTreeMap::new(),
            incoming: BTreeMap::new(),
            loading_move: None,
            incoming_moves: BTreeMap::new(),
        }
    }
}

impl LaneWorker for Worker {
    fn run(&mut self, requests: Vec<DiskRequest>, replies: &mut Vec<DiskReply>) {
        let mut appends = Vec::new();
        for request in requests {
            let joins = appends
                .first()
                .is_none_or(|first| same_log(first, &request));
            if !joins || !is_append(&request) {
                self.append(std::mem::take(&mut appends), replies);
            }
            if is_append(&request) {
                appends.push(request);
                continue;
            }
            let reply = self.carry_out(&request);
            replies.push(reply.unwrap_or_else(|error| failed(request, &error)));
        }
        self.append(appends, replies);
    }
}

const fn is_append(request: &DiskRequest) -> bool {
    matches!(request, DiskRequest::Append { .. })
}

fn same_log(first: &DiskRequest, second: &DiskRequest) -> bool {
    first.lane() == second.lane()
}

fn failed(request: DiskRequest, error: &LogError) -> DiskReply {
    DiskReply::Failed {
        request: Box::new(request),
        fault: fault_of(error),
        text: error.to_string(),
    }
}

impl Worker {
    /// All appends of one log: one sync, one reply for those that are durable.
    fn append(&self, requests: Vec<DiskRequest>, replies: &mut Vec<DiskReply>) {
        let mut blocks: Vec<&[u8]> = Vec::new();
        let mut number = None;
        for request in &requests {
            if let DiskRequest::Append { log, block, .. } = request {
                number = Some(*log);
                blocks.push(block);
            }
        }
        let Some(number) = number else {
            return;
        };
        let (count, error) = match self.shared.log(number) {
            Ok(log) => {
                let appended = log.append(&blocks);
                if 0 < appended.count {
                    let end = log.end();
                    replies.push(DiskReply::Durable { log: number, end });
                }
                (appended.count, appended.error)
            }
            Err(error) => (0, Some(error)),
        };
        if let Some(error) = error {
            for request in requests.into_iter().skip(count) {
                replies.push(failed(request, &error));
            }
        }
    }

    fn carry_out(&mut self, request: &DiskRequest) -> Result<DiskReply, LogError> {
        match *request {
            DiskRequest::LoadFile { name } => self.load_file(name),
            DiskRequest::SaveFile { name, ref bytes } => self.save_file(name, bytes),
            DiskRequest::OpenLog { log } => self.open_log(log),
            DiskRequest::CreateLog {
                log,
                cluster,
                segment_size,
                after,
            } => self.create_log(
                Verify {
                    log,
                    cluster,
                    segment_size,
                },
                after,
            ),
            DiskRequest::Append { .. } => unreachable!("appends are carried out together"),
            DiskRequest::CutLog { log, to } => self.cut_log(log, &to),
            DiskRequest::ReadBlocks { .. }
            | DiskRequest::Scrub { .. }
            | DiskRequest::ReadEntry { .. } => self.carry_out_read(request),
            DiskRequest::PrepareSegment { .. }
            | DiskRequest::MakeCheckpoint { .. }
            | DiskRequest::RetireSegments { .. }
            | DiskRequest::LoadCheckpoint { .. }
            | DiskRequest::ReadCheckpoint { .. }
            | DiskRequest::WriteCheckpoint { .. }
            | DiskRequest::MeasureFreeSpace
            | DiskRequest::AdvanceReplica { .. }
            | DiskRequest::Audit { .. } => self.carry_out_behind(request),
            DiskRequest::BuildHandOver { .. }
            | DiskRequest::Survey { .. }
            | DiskRequest::DraftImages { .. }
            | DiskRequest::ReadMoveFile { .. }
            | DiskRequest::WriteMoveFile { .. }
            | DiskRequest::LoadMoveFile { .. }
            | DiskRequest::KeepMoveFiles { .. } => self.carry_out_moves(request),
        }
    }

    /// Reads of blocks and entries.
    fn carry_out_read(&self, request: &DiskRequest) -> Result<DiskReply, LogError> {
        match *request {
            DiskRequest::ReadBlocks {
                log,
                offset,
                below,
                size_max,
                ticket,
            } => {
                let log_open = self.shared.log(log)?;
                let (offset, blocks) = log_open.read_blocks(offset, below, size_max)?;
                Ok(DiskReply::BlocksRead {
                    log,
                    ticket,
                    offset,
                    blocks,
                })
            }
            DiskRequest::Scrub {
                log,
                offset,
                below,
                ticket,
            } => {
                let log_open = self.shared.log(log)?;
                let (offset, blocks) = log_open.scrub(offset, below, SCRUB_SIZE)?;
                Ok(DiskReply::BlocksRead {
                    log,
                    ticket,
                    offset,
                    blocks,
                })
            }
            DiskRequest::ReadEntry { place, ticket } => {
                let slot = place.log().map(|log| self.shared.slot(log));
                let entry = match slot.and_then(|slot| slot.log()) {
                    Some(log) => log.read_entry(place)?,
                    None => None,
                };
                Ok(DiskReply::EntryRead {
                    ticket,
                    place,
                    entry,
                })
            }
            DiskRequest::LoadFile { .. }
            | DiskRequest::SaveFile { .. }
            | DiskRequest::OpenLog { .. }
            | DiskRequest::CreateLog { .. }
            | DiskRequest::Append { .. }
            | DiskRequest::CutLog { .. }
            | DiskRequest::PrepareSegment { .. }
            | DiskRequest::MakeCheckpoint { .. }
            | DiskRequest::RetireSegments { .. }
            | DiskRequest::LoadCheckpoint { .. }
            | DiskRequest::ReadCheckpoint { .. }
            | DiskRequest::WriteCheckpoint { .. }
            | DiskRequest::MeasureFreeSpace
            | DiskRequest::AdvanceReplica { .. }
            | DiskRequest::Audit { .. }
            | DiskRequest::BuildHandOver { .. }
            | DiskRequest::Survey { .. }
            | DiskRequest::DraftImages { .. }
            | DiskRequest::ReadMoveFile { .. }
            | DiskRequest::WriteMoveFile { .. }
            | DiskRequest::LoadMoveFile { .. }
            | DiskRequest::KeepMoveFiles { .. } => unreachable!("carried out elsewhere"),
        }
    }

    /// What happens behind the log: checkpoints, preparation, replicas.
    fn carry_out_behind(&mut self, request: &DiskRequest) -> Result<DiskReply, LogError> {
        match *request {
            DiskRequest::PrepareSegment { log, offset } => {
                self.shared.log(log)?.prepare(offset)?;
                Ok(DiskReply::SegmentReady { log })
            }
            DiskRequest::MakeCheckpoint {
                log,
                through,
                ring_key,
            } => {
                let limit = FOLD_RECORD_COUNT_MAX;
                match make_checkpoint(&self.shared, log, &through, ring_key, limit) {
                    Ok(info) => Ok(DiskReply::CheckpointMade { log, info }),
                    Err(FoldFailure::Log(error)) => Err(error),
                    Err(FoldFailure::NoMoveFile(number)) => Ok(DiskReply::Failed {
                        request: Box::new(request.clone()),
                        fault: DiskFault::NoMoveFile(number),
                        text: format!("log {log}: the image of move {number} is not here"),
                    }),
                }
            }
            DiskRequest::RetireSegments { log, below } => self.retire(log, below),
            DiskRequest::LoadCheckpoint { log, cursor } => self.load_checkpoint(log, cursor),
            DiskRequest::ReadCheckpoint {
                log,
                offset,
                size_max,
                ticket,
            } => self.read_checkpoint(log, offset, size_max, ticket),
            DiskRequest::WriteCheckpoint {
                log,
                offset,
                ref bytes,
                size,
            } => self.write_checkpoint(log, offset, bytes, size),
            DiskRequest::MeasureFreeSpace => self.measure_free_space(),
            DiskRequest::AdvanceReplica {
                log,
                ref through,
                ring_key,
            } => match self.replicas.advance(log, through, ring_key) {
                Err(error) => Ok(self.replica_failed(request, &error)),
                reached => reached,
            },
            DiskRequest::Audit {
                ref ends,
                ring_key,
                ticket,
            } => {
                let rows = self.replicas.audit(ends, ring_key)?;
                Ok(DiskReply::Audited { ticket, rows })
            }
            DiskRequest::LoadFile { .. }
            | DiskRequest::SaveFile { .. }
            | DiskRequest::OpenLog { .. }
            | DiskRequest::CreateLog { .. }
            | DiskRequest::Append { .. }
            | DiskRequest::CutLog { .. }
            | DiskRequest::ReadBlocks { .. }
            | DiskRequest::Scrub { .. }
            | DiskRequest::ReadEntry { .. }
            | DiskRequest::BuildHandOver { .. }
            | DiskRequest::Survey { .. }
            | DiskRequest::DraftImages { .. }
            | DiskRequest::ReadMoveFile { .. }
            | DiskRequest::WriteMoveFile { .. }
            | DiskRequest::LoadMoveFile { .. }
            | DiskRequest::KeepMoveFiles { .. } => unreachable!("carried out before"),
        }
    }

    fn replica_failed(&self, request: &DiskRequest, error: &LogError) -> DiskReply {
        let missing = self.replicas.missing().map(DiskFault::NoMoveFile);
        DiskReply::Failed {
            request: Box::new(request.clone()),
            fault: missing.unwrap_or_else(|| fault_of(error)),
            text: error.to_string(),
        }
    }

    fn measure_free_space(&self) -> Result<DiskReply, LogError> {
        let size = self.shared.medium.free_size();
        let size = size.map_err(|error| LogError::Io {
            what: "measuring free space".to_owned(),
            error,
        })?;
        Ok(DiskReply::FreeSpace { size })
    }

    /// What is about the images of moves.
    fn carry_out_moves(&mut self, request: &DiskRequest) -> Result<DiskReply, LogError> {
        match *request {
            DiskRequest::BuildHandOver { .. } => self.build_hand_over(request),
            DiskRequest::Survey {
                log,
                ref through,
                ring_key,
            } => {
                let survey = self.replicas.survey(log, through, ring_key)?;
                Ok(DiskReply::Surveyed { log, survey })
            }
            DiskRequest::DraftImages {
                log,
                ref through,
                ring_key,
                ref parts,
            } => self.replicas.draft(log, through, ring_key, parts),
            DiskRequest::ReadMoveFile {
                number,
                offset,
                size_max,
                ticket,
            } => {
                self.shared.keep_calm();
                let found = images::open(&*self.shared.medium, number)?;
                let (size, bytes) = match found {
                    Some(found) => (found.size(), found.raw(offset, size_max)?),
                    None => (0, Bytes::new()),
                };
                Ok(DiskReply::MoveFileRead {
                    number,
                    ticket,
                    size,
                    offset,
                    bytes,
                })
            }
            DiskRequest::WriteMoveFile {
                number,
                offset,
                ref bytes,
                size,
            } => self.write_move_file(number, offset, bytes, size),
            DiskRequest::LoadMoveFile {
                number,
                cursor,
                page_count_max,
            } => self.load_move_file(number, cursor, page_count_max),
            DiskRequest::KeepMoveFiles { ref numbers, below } => {
                images::keep(&*self.shared.medium, numbers, below)?;
                Ok(DiskReply::MoveFilesKept)
            }
            DiskRequest::LoadFile { .. }
            | DiskRequest::SaveFile { .. }
            | DiskRequest::OpenLog { .. }
            | DiskRequest::CreateLog { .. }
            | DiskRequest::Append { .. }
            | DiskRequest::CutLog { .. }
            | DiskRequest::ReadBlocks { .. }
            | DiskRequest::Scrub { .. }
            | DiskRequest::ReadEntry { .. }
            | DiskRequest::PrepareSegment { .. }
            | DiskRequest::MakeCheckpoint { .. }
            | DiskRequest::RetireSegments { .. }
            | DiskRequest::LoadCheckpoint { .. }
            | DiskRequest::ReadCheckpoint { .. }
            | DiskRequest::WriteCheckpoint { .. }
            | DiskRequest::MeasureFreeSpace
            | DiskRequest::AdvanceReplica { .. }
            | DiskRequest::Audit { .. } => unreachable!("carried out elsewhere"),
        }
    }

    /// The request is a [`DiskRequest::BuildHandOver`].
    fn build_hand_over(&mut self, request: &DiskRequest) -> Result<DiskReply, LogError> {
        let DiskRequest::BuildHandOver {
            log,
            through,
            term,
            generation,
            ring_epoch,
            wall_ms,
            ring_key,
            activate,
            moves,
        } = request
        else {
            unreachable!("it was looked at");
        };
        let mark = EpochMark {
            generation: *generation,
            ring_epoch: *ring_epoch,
            term: *term,
        };
        let plan = Plan {
            mark,
            wall_ms: *wall_ms,
            ring_key: *ring_key,
            activate,
            moves,
        };
        self.replicas.build_hand_over(*log, through, &plan)
    }

    fn write_move_file(
        &mut self,
        number: MoveNumber,
        offset: u64,
        bytes: &[u8],
        size: u64,
    ) -> Result<DiskReply, LogError> {
        self.shared.keep_calm();
        let medium = &*self.shared.medium;
        if offset == 0 {
            images::make_dir(medium)?;
            let path = images::unfinished_path(number, "incoming");
            let incoming = Incoming::begin_at(medium, path, size)?;
            self.incoming_moves.insert(number, incoming);
        }
        let incoming = self.incoming_moves.remove(&number);
        let mut incoming = incoming
            .ok_or_else(|| LogError::Wrong(format!("no image of move {number} was begun")))?;
        let is_complete = incoming.take(offset, bytes, size)?;
        if is_complete {
            let path = incoming.make_durable()?;
            let gone = || LogError::Damage(format!("{path} is gone"));
            let found = Checkpoint::open(medium, &path)?.ok_or_else(gone)?;
            found.verify(found.header().log)?;
            images::install(medium, &path, number)?;
        } else {
            self.incoming_moves.insert(number, incoming);
        }
        Ok(DiskReply::MoveFileWritten {
            number,
            is_complete,
        })
    }

    /// One that does not verify is put aside, so that it is fetched again.
    fn load_move_file(
        &mut self,
        number: MoveNumber,
        cursor: u64,
        page_count_max: u32,
    ) -> Result<DiskReply, LogError> {
        self.shared.keep_calm();
        let medium = &*self.shared.medium;
        let loaded = (|| {
            if cursor == 0 {
                let found = match self.incoming_moves.get(&number) {
                    Some(incoming) => Checkpoint::open_unfinished(medium, incoming.path())?,
                    None => images::open(medium, number)?,
                };
                self.loading_move = found.map(|found| (number, Loading::new(Arc::new(found))));
            }
            match &self.loading_move {
                Some((begun, loading)) if *begun == number => {
                    let records = loading.pages(cursor, page_count_max)?;
                    Ok(Some((records, loading.page_count())))
                }
                Some(_) | None => Ok(None),
            }
        })();
        let found = match loaded {
            Ok(found) => found,
            // One that is on its way is replaced by the next attempt.
            Err(LogError::Damage(_)) if !self.incoming_moves.contains_key(&number) => {
                images::put_image_aside(medium, number)?;
                None
            }
            Err(error) => return Err(error),
        };
        let is_found = found.is_some();
        let (records, end) = found.unwrap_or_default();
        let next = cursor.saturating_add(page_count_max.into()).min(end);
        if next == end {
            self.loading_move = None;
        }
        Ok(DiskReply::MoveFileLoaded {
            number,
            found: is_found,
            cursor,
            records,
            next,
            end,
        })
    }

    fn load_file(&self, name: FileName) -> Result<DiskReply, LogError> {
        // What is read now must be what a power cut leaves: an earlier life may have ended between
        // the file's new name and its sync.
        self.shared
            .medium
            .sync_dir("")
            .map_err(|error| LogError::Poisoned(format!("syncing the folder: {error}")))?;
        let content = load(&*self.shared.medium, "", small_file(name))?;
        let bytes = content.map(Bytes::from);
        Ok(DiskReply::FileLoaded { name, bytes })
    }

    fn save_file(&self, name: FileName, bytes: &[u8]) -> Result<DiskReply, LogError> {
        save(&*self.shared.medium, "", small_file(name), bytes)?;
        Ok(DiskReply::FileSaved { name })
    }

    fn open_log(&self, log: LogNumber) -> Result<DiskReply, LogError> {
        let medium = &self.shared.medium;
        let dir = log_dir(log);
        let slot = self.shared.slot(log);
        if slot.log().is_none() {
            tidy_checkpoints(&**medium, &dir)?;
        }
        let found = sound_checkpoints(&**medium, log, &dir)?;
        let ends: Vec<LogEnd> = found.iter().map(Checkpoint::end).collect();
        let opened = Log::open(Arc::clone(medium), log, &ends, Opening::Use)?;
        let Some((open, recovered)) = opened else {
            slot.set_log(None);
            return Ok(DiskReply::LogOpened {
                log,
                report: None,
                view: None,
            });
        };
        let newest = found
            .into_iter()
            .filter(|found| recovered.agreed.contains(&found.end()))
            .max_by_key(|found| found.end().seq)
            .map(|found| Newest {
                checkpoint: Arc::new(found),
                fetched: false,
            });
        let open = Arc::new(open);
        slot.set_newest(newest.clone());
        slot.set_log(Some(Arc::clone(&open)));
        Ok(opened_reply(log, open, recovered, newest.as_ref()))
    }

    fn create_log(&self, verify: Verify, after: LogEnd) -> Result<DiskReply, LogError> {
        let medium = &self.shared.medium;
        let log = verify.log;
        let dir = log_dir(log);
        let slot = self.shared.slot(log);
        let kept = slot
            .newest()
            .filter(|newest| newest.fetched && after.seq <= newest.checkpoint.end().seq);
        slot.set_log(None);
        let mut terms = Vec::new();
        if let Some(kept) = &kept {
            terms = kept.checkpoint.terms()?;
            terms.retain(|start| start.seq <= after.seq);
        }
        let kept_offset = kept.as_ref().map(|kept| kept.checkpoint.end().offset);
        for offset in checkpoint_offsets(&**medium, &dir)? {
            if Some(offset) != kept_offset {
                put_aside(&**medium, log, &dir, &checkpoint_name(offset))?;
            }
        }
        let open = Arc::new(Log::create(
            Arc::clone(medium),
            verify,
            after,
            terms.clone(),
        )?);
        slot.set_newest(kept);
        slot.set_log(Some(Arc::clone(&open)));
        let recovered = Recovered {
            verify,
            first_offset: after.offset,
            end: after,
            committed: Seq(0),
            terms,
            block_count: 0,
            entry_count: 0,
            agreed: Vec::new(),
            torn: None,
            damage: None,
        };
        Ok(opened_reply(log, open, recovered, None))
    }

    fn cut_log(&self, log: LogNumber, to: &LogEnd) -> Result<DiskReply, LogError> {
        let slot = self.shared.slot(log);
        let open = self.shared.log(log)?;
        slot.rewrite();
        let aside_size = open.cut(to)?;
        slot.rewrite();
        let above = |newest: &Newest| to.seq < newest.checkpoint.end().seq;
        if let Some(newest) = slot.newest().filter(above) {
            slot.set_newest(None);
            let name = checkpoint_name(newest.checkpoint.end().offset);
            put_aside(&*self.shared.medium, log, &log_dir(log), &name)?;
        }
        Ok(DiskReply::LogCut { log, aside_size })
    }

    fn retire(&self, log: LogNumber, below: u64) -> Result<DiskReply, LogError> {
        let open = self.shared.log(log)?;
        let newest = self.shared.slot(log).newest();
        let kept = newest.map_or(0, |newest| newest.checkpoint.end().offset);
        if kept < below {
            return Err(LogError::Wrong(format!(
                "log {log} cannot be retired below {below}: its checkpoint stands for {kept}"
            )));
        }
        let first_offset = open.retire(below)?;
        Ok(DiskReply::Retired { log, first_offset })
    }

    fn load_checkpoint(&mut self, log: LogNumber, cursor: u64) -> Result<DiskReply, LogError> {
        if cursor == 0 {
            let newest = self.shared.slot(log).newest();
            self.loading.remove(&log);
            if let Some(newest) = newest {
                self.loading.insert(log, Loading::new(newest.checkpoint));
            }
        }
        let records = match self.loading.get(&log) {
            Some(loading) => loading.next(cursor)?,
            None => None,
        };
        if records.is_none() {
            self.loading.remove(&log);
        }
        Ok(DiskReply::CheckpointLoaded { log, records })
    }

    fn read_checkpoint(
        &mut self,
        log: LogNumber,
        offset: u64,
        size_max: u32,
        ticket: u64,
    ) -> Result<DiskReply, LogError> {
        if offset == 0 {
            let newest = self.shared.slot(log).newest();
            self.copying.remove(&log);
            if let Some(newest) = newest {
                self.copying.insert(log, newest.checkpoint);
            }
        }
        let (size, bytes) = match self.copying.get(&log) {
            Some(checkpoint) => (checkpoint.size(), checkpoint.raw(offset, size_max)?),
            None => (0, Bytes::new()),
        };
        Ok(DiskReply::CheckpointRead {
            log,
            ticket,
            size,
            offset,
            bytes,
        })
    }

    fn write_checkpoint(
        &mut self,
        log: LogNumber,
        offset: u64,
        bytes: &[u8],
        size: u64,
    ) -> Result<DiskReply, LogError> {
        if offset == 0 {
            let incoming = Incoming::begin(&*self.shared.medium, log, size)?;
            self.incoming.insert(log, incoming);
        }
        let incoming = self.incoming.remove(&log);
        let mut incoming = incoming
            .ok_or_else(|| LogError::Wrong(format!("no checkpoint of log {log} was begun")))?;
        if !incoming.take(offset, bytes, size)? {
            self.incoming.insert(log, incoming);
            return Ok(DiskReply::CheckpointWritten { log, info: None });
        }
        let checkpoint = incoming.finish(&*self.shared.medium, log)?;
        let newest = Newest {
            checkpoint: Arc::new(checkpoint),
            fetched: true,
        };
        let info = Some(newest.info());
        self.shared.slot(log).set_newest(Some(newest));
        Ok(DiskReply::CheckpointWritten { log, info })
    }
}

const fn small_file(name: FileName) -> SmallFile {
    match name {
        FileName::Identity => SmallFile::Identity,
        FileName::Authority => SmallFile::Authority,
    }
}

/// The checkpoints that verify; those that do not are put aside.
fn sound_checkpoints(
    medium: &dyn crate::log::Medium,
    log: LogNumber,
    dir: &str,
) -> Result<Vec<Checkpoint>, LogError> {
    let mut sound = Vec::new();
    for offset in checkpoint_offsets(medium, dir)? {
        let name = checkpoint_name(offset);
        let checked = Checkpoint::open(medium, &format!("{dir}/{name}")).and_then(|found| {
            let Some(found) = found else {
                return Ok(None);
            };
            found.verify(log)?;
            Ok(Some(found))
        });
        match checked {
            Ok(found) => sound.extend(found),
            Err(LogError::Damage(_)) => put_aside(medium, log, dir, &name)?,
            Err(error) => return Err(error),
        }
    }
    Ok(sound)
}

fn opened_reply(
    log: LogNumber,
    open: Arc<Log>,
    recovered: Recovered,
    newest: Option<&Newest>,
) -> DiskReply {
    let report = LogReport {
        cluster: recovered.verify.cluster,
        segment_size: recovered.verify.segment_size,
        first_offset: recovered.first_offset,
        end: recovered.end,
        committed: recovered.committed,
        terms: recovered.terms,
        checkpoint: newest.map(Newest::info),
        torn: recovered.torn,
        damage: recovered.damage,
    };
    let view: Arc<dyn LogView> = Arc::new(View(open));
    DiskReply::LogOpened {
        log,
        report: Some(report),
        view: Some(view),
    }
}
