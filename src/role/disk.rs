//! What a role asks of its disk, and what comes back.
//!
//! A role never waits: requests are effects, replies are inputs. Requests of one lane are carried
//! out in order; lanes run side by side.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::moves::{ActivationPart, HandOverPart, MoveEvent, Survey};
use crate::model::{
    ClusterId, ENTRY_SIZE, Generation, LogEnd, LogNumber, MoveNumber, Place, RingEpoch, Section,
    Seq, SlotRange, Term, TermStart,
};
use crate::protocol::AuditRow;

/// What runs in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Small files: identity, authority.
    Files,
    /// Opening, appending to and cutting one log.
    Log(LogNumber),
    /// Reading cold places, blocks and checkpoints.
    Reader,
    /// Preparation of segments, of all logs. Nothing long is before it: an append that finds no
    /// segment has to wait until one is written.
    Spares,
    /// Checkpoints, retirement, of all logs.
    Background,
    /// The backup's running replica and audit, of all logs.
    Replica,
    /// Images of moves: copied, read in, removed. Users wait for them, so nothing long is before
    /// them; and what is removed and what is read in are in order.
    Images,
}

/// A small durable file, written whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileName {
    /// Who a node is and what it last worked under.
    Identity,
    /// The authority's record.
    Authority,
}

/// A request to the disk.
#[derive(Clone, Debug)]
pub enum DiskRequest {
    /// Reads a small file. -> `FileLoaded`
    LoadFile {
        /// Which.
        name: FileName,
    },
    /// Replaces a small file durably: new file, sync, rename, sync of the directory. -> `FileSaved`
    SaveFile {
        /// Which.
        name: FileName,
        /// Its whole content. A checksum is added and tested by the disk.
        bytes: Bytes,
    },
    /// Opens and recovers a log. -> `LogOpened`
    OpenLog {
        /// Which.
        log: LogNumber,
    },
    /// Creates an empty log that goes on behind `after`. What is there of this log is put aside.
    /// -> `LogOpened`
    CreateLog {
        /// Which.
        log: LogNumber,
        /// Whose.
        cluster: ClusterId,
        /// Bytes of a segment.
        segment_size: u64,
        /// Where it begins: the end of what is not kept (default: nothing). Its offset is that of
        /// the first byte of a segment.
        after: LogEnd,
    },
    /// Writes one block at its place and makes it durable. Several appends of one lane share one
    /// sync and one reply. -> `Durable`
    Append {
        /// Which log.
        log: LogNumber,
        /// The whole block as built or as received (already checked).
        block: Bytes,
        /// Where the log ends with it.
        end: LogEnd,
    },
    /// Puts everything behind `to` aside in `quarantine/`, and zeroes and syncs it. -> `LogCut`
    CutLog {
        /// Which log.
        log: LogNumber,
        /// The end that stays.
        to: LogEnd,
    },
    /// Reads whole blocks from `offset` on, within one segment, at most `size_max` bytes (but at
    /// least one block), nothing at or behind `below`. At the end of a segment the next one's
    /// blocks come. -> `BlocksRead`
    ReadBlocks {
        /// Which log.
        log: LogNumber,
        /// First byte: the start of a block, or the end of the last one.
        offset: u64,
        /// Nothing at or behind this offset.
        below: u64,
        /// Bytes at most.
        size_max: u32,
        /// Repeated in the reply.
        ticket: u64,
    },
    /// Reads blocks as `ReadBlocks` does, but from the device and not from memory, and verifies
    /// them. -> `BlocksRead`
    Scrub {
        /// Which log.
        log: LogNumber,
        /// First byte: the start of a block, the end of the last one, or a segment's first byte.
        offset: u64,
        /// Nothing at or behind this offset.
        below: u64,
        /// Repeated in the reply.
        ticket: u64,
    },
    /// Reads one entry, wherever this disk has it. -> `EntryRead`
    ReadEntry {
        /// Where.
        place: Place,
        /// Repeated in the reply.
        ticket: u64,
    },
    /// Makes sure that one spare segment is ready. -> `SegmentReady`
    PrepareSegment {
        /// Which log.
        log: LogNumber,
        /// Behind the segment of this offset: of the newest block, which may not have reached the
        /// disk yet.
        offset: u64,
    },
    /// Folds the last checkpoint and the log up to `through` into the next one. -> `CheckpointMade`
    MakeCheckpoint {
        /// Which log.
        log: LogNumber,
        /// A committed end.
        through: LogEnd,
        /// The cluster's hash key: the state is sorted by slot.
        ring_key: u128,
    },
    /// Makes segments wholly below `below` available for use again. -> `Retired`
    RetireSegments {
        /// Which log.
        log: LogNumber,
        /// An offset at or below the newest checkpoint's.
        below: u64,
    },
    /// Reads records of the newest checkpoint. Cursor 0 is the beginning. -> `CheckpointLoaded`
    LoadCheckpoint {
        /// Which log.
        log: LogNumber,
        /// Where to go on.
        cursor: u64,
    },
    /// Reads bytes of the newest checkpoint's file. -> `CheckpointRead`
    ReadCheckpoint {
        /// Which log.
        log: LogNumber,
        /// First byte.
        offset: u64,
        /// Bytes at most.
        size_max: u32,
        /// Repeated in the reply.
        ticket: u64,
    },
    /// Writes a piece of a checkpoint that was fetched from elsewhere, in order from 0. The last
    /// piece makes it durable and checks it. -> `CheckpointWritten`
    WriteCheckpoint {
        /// Which log.
        log: LogNumber,
        /// Offset of the piece.
        offset: u64,
        /// The piece.
        bytes: Bytes,
        /// Bytes of the whole file.
        size: u64,
    },
    /// How much room there is. -> `FreeSpace`
    MeasureFreeSpace,
    /// Takes the log up to `through` into the running replica (built from the newest checkpoint
    /// at first use), in bounded steps. At a hand-over the images of its moves are cut and durable
    /// before it goes on. -> `ReplicaAt`
    AdvanceReplica {
        /// Which log.
        log: LogNumber,
        /// A durable end.
        through: LogEnd,
        /// The cluster's hash key.
        ring_key: u128,
    },
    /// Advances the replicas of all given logs to exactly the given ends and adds them up.
    /// -> `Audited`
    Audit {
        /// The durable ends at one instant.
        ends: Vec<(LogNumber, LogEnd)>,
        /// The cluster's hash key.
        ring_key: u128,
        /// Repeated in the reply.
        ticket: u64,
    },
    /// Builds the block by which all slots of a log are handed over that its node can no longer
    /// hand over itself: behind exactly `through`, in a term of the backup's own. Nothing is
    /// written: the block is appended like any other. -> `HandOverBuilt`
    BuildHandOver {
        /// Which log.
        log: LogNumber,
        /// Its durable end.
        through: LogEnd,
        /// The term that the backup granted itself.
        term: Term,
        /// Generation of the backup.
        generation: Generation,
        /// Version of the slot table.
        ring_epoch: RingEpoch,
        /// The backup's clock, Unix ms. Log time is above it only if the log's was before.
        wall_ms: u64,
        /// The cluster's hash key.
        ring_key: u128,
        /// Moves to this log that were flipped and that the log may not have activated yet.
        activate: Vec<ActivationPart>,
        /// The moves that take the slots away. Not empty.
        moves: Vec<HandOverPart>,
    },
    /// Begins the images of slots that may have to leave a log right behind its end. Those that
    /// were begun before are forgotten, and these once the log goes on otherwise.
    /// -> `ImagesDrafted`
    DraftImages {
        /// Which log.
        log: LogNumber,
        /// Its durable end.
        through: LogEnd,
        /// The cluster's hash key.
        ring_key: u128,
        /// The slots of each image, rising.
        parts: Vec<Vec<SlotRange>>,
    },
    /// Advances the replica of a log to exactly its end and says what it has of the slots.
    /// -> `Surveyed`
    Survey {
        /// Which log.
        log: LogNumber,
        /// Its durable end.
        through: LogEnd,
        /// The cluster's hash key.
        ring_key: u128,
    },
    /// Reads bytes of an image. -> `MoveFileRead`
    ReadMoveFile {
        /// The move under whose number it was cut.
        number: MoveNumber,
        /// First byte.
        offset: u64,
        /// Bytes at most.
        size_max: u32,
        /// Repeated in the reply.
        ticket: u64,
    },
    /// Writes a piece of an image that was fetched from elsewhere, in order from 0. The last piece
    /// makes it durable and checks it. -> `MoveFileWritten`
    WriteMoveFile {
        /// The move under whose number it was cut.
        number: MoveNumber,
        /// Offset of the piece.
        offset: u64,
        /// The piece.
        bytes: Bytes,
        /// Bytes of the whole file.
        size: u64,
    },
    /// Reads records of an image. Cursor 0 is the beginning and comes first; several pieces may be
    /// asked for ahead. Of an image that is being written here, pages that were written before
    /// the request can be read. -> `MoveFileLoaded`
    LoadMoveFile {
        /// The move under whose number it was cut.
        number: MoveNumber,
        /// Its first page.
        cursor: u64,
        /// Pages at most.
        page_count_max: u32,
    },
    /// Removes the images of all moves below `below` but those named. -> `MoveFilesKept`
    KeepMoveFiles {
        /// Those that stay.
        numbers: Vec<MoveNumber>,
        /// What has this number or a higher one stays too: it may be younger than the request.
        below: MoveNumber,
    },
}

impl DiskRequest {
    /// The lane that it runs on.
    #[must_use]
    pub const fn lane(&self) -> Lane {
        match self {
            Self::LoadFile { .. } | Self::SaveFile { .. } => Lane::Files,
            Self::OpenLog { log }
            | Self::CreateLog { log, .. }
            | Self::Append { log, .. }
            | Self::CutLog { log, .. } => Lane::Log(*log),
            Self::ReadBlocks { .. }
            | Self::Scrub { .. }
            | Self::ReadEntry { .. }
            | Self::LoadCheckpoint { .. }
            | Self::ReadCheckpoint { .. }
            | Self::ReadMoveFile { .. } => Lane::Reader,
            Self::PrepareSegment { .. } => Lane::Spares,
            Self::MakeCheckpoint { .. }
            | Self::RetireSegments { .. }
            | Self::WriteCheckpoint { .. }
            | Self::MeasureFreeSpace => Lane::Background,
            Self::WriteMoveFile { .. } | Self::LoadMoveFile { .. } | Self::KeepMoveFiles { .. } => {
                Lane::Images
            }
            Self::AdvanceReplica { .. }
            | Self::Audit { .. }
            | Self::BuildHandOver { .. }
            | Self::DraftImages { .. }
            | Self::Survey { .. } => Lane::Replica,
        }
    }
}

/// A checkpoint on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointInfo {
    /// The end of the log that it stands for.
    pub end: LogEnd,
    /// Bytes of its file.
    pub size: u64,
}

/// What recovery found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogReport {
    /// Whose log it is.
    pub cluster: ClusterId,
    /// Bytes of a segment.
    pub segment_size: u64,
    /// Offset of the first block that is kept.
    pub first_offset: u64,
    /// Where the readable log ends.
    pub end: LogEnd,
    /// The highest committed seq that any readable block names.
    pub committed: Seq,
    /// Term history, oldest first, of what is kept (and of the checkpoint below it).
    pub terms: Vec<TermStart>,
    /// The newest checkpoint that verifies and lies at or below `end`.
    pub checkpoint: Option<CheckpointInfo>,
    /// What lies behind `end` that is not zero: an unfinished write, in words with its position.
    pub torn: Option<String>,
    /// A block at or below `committed` does not verify, in words with its position.
    pub damage: Option<String>,
}

/// Some records of one section.
#[derive(Clone, Debug)]
pub struct CheckpointRecords {
    /// Which section.
    pub section: Section,
    /// Whole records, as `ledger` lays them out.
    pub records: Bytes,
}

/// Something the disk could not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// A write or a sync failed: the log is poisoned, the process must end. Never tried again.
    Poisoned,
    /// Out of space, or of descriptors; nothing was changed.
    NoSpace,
    /// Bytes that should be there do not verify.
    Damage,
    /// The image that an adoption refers to is not here: fetch it and ask again.
    NoMoveFile(MoveNumber),
    /// Anything else.
    Other,
}

/// A disk request is done.
#[derive(Clone, Debug)]
pub enum DiskReply {
    /// Of `LoadFile`. `None`: there is no such file.
    FileLoaded {
        /// Which.
        name: FileName,
        /// Its content.
        bytes: Option<Bytes>,
    },
    /// Of `SaveFile`: it is durable.
    FileSaved {
        /// Which.
        name: FileName,
    },
    /// Of `OpenLog` and `CreateLog`. `None`: there is no such log here.
    LogOpened {
        /// Which.
        log: LogNumber,
        /// What recovery found.
        report: Option<LogReport>,
        /// Reads recent entries.
        view: Option<Arc<dyn LogView>>,
    },
    /// Of `Append`: everything up to this block is durable.
    Durable {
        /// Which log.
        log: LogNumber,
        /// The end that is durable.
        end: LogEnd,
    },
    /// Of `CutLog`.
    LogCut {
        /// Which log.
        log: LogNumber,
        /// Bytes that were put aside.
        aside_size: u64,
    },
    /// Of `ReadBlocks` and `Scrub`.
    BlocksRead {
        /// Which log.
        log: LogNumber,
        /// Of the request.
        ticket: u64,
        /// Offset of the first block; where nothing was read, the offset that was asked for.
        offset: u64,
        /// Whole, verified blocks, end to end; empty at the end (or at `below`).
        blocks: Bytes,
    },
    /// Of `ReadEntry`. `None`: this disk does not have it.
    EntryRead {
        /// Of the request.
        ticket: u64,
        /// Where.
        place: Place,
        /// The entry.
        entry: Option<[u8; ENTRY_SIZE]>,
    },
    /// Of `PrepareSegment`: there is a spare one.
    SegmentReady {
        /// Which log.
        log: LogNumber,
    },
    /// Of `MakeCheckpoint`.
    CheckpointMade {
        /// Which log.
        log: LogNumber,
        /// The new one.
        info: CheckpointInfo,
    },
    /// Of `RetireSegments`.
    Retired {
        /// Which log.
        log: LogNumber,
        /// Offset of the first block that is kept.
        first_offset: u64,
    },
    /// Of `LoadCheckpoint`. `None`: nothing more.
    CheckpointLoaded {
        /// Which log.
        log: LogNumber,
        /// Some records, and where to go on.
        records: Option<(CheckpointRecords, u64)>,
    },
    /// Of `ReadCheckpoint`.
    CheckpointRead {
        /// Which log.
        log: LogNumber,
        /// Of the request.
        ticket: u64,
        /// Bytes of the whole file; 0 when there is none.
        size: u64,
        /// Offset of the bytes.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// Of `WriteCheckpoint`. `info` is there once it is complete, checked and durable.
    CheckpointWritten {
        /// Which log.
        log: LogNumber,
        /// The checkpoint.
        info: Option<CheckpointInfo>,
    },
    /// Of `MeasureFreeSpace`.
    FreeSpace {
        /// Bytes.
        size: u64,
    },
    /// Of `AdvanceReplica`: how far it got; ask again if that is below what was asked.
    ReplicaAt {
        /// Which log.
        log: LogNumber,
        /// The end that the replica stands for.
        end: LogEnd,
        /// Sum of the digests of its slots.
        digest: u128,
        /// Bytes of memory of the replica.
        memory_size: u64,
        /// What the entries that it took in since the last reply did to moves, in their order.
        /// After a restart some come again.
        events: Vec<MoveEvent>,
    },
    /// Of `Audit`.
    Audited {
        /// Of the request.
        ticket: u64,
        /// Sums over all logs, by currency.
        rows: Vec<AuditRow>,
    },
    /// Of `BuildHandOver`.
    HandOverBuilt {
        /// Which log.
        log: LogNumber,
        /// The whole block.
        block: Bytes,
        /// Where the log ends with it.
        end: LogEnd,
    },
    /// Of `DraftImages`.
    ImagesDrafted {
        /// Which log.
        log: LogNumber,
    },
    /// Of `Survey`.
    Surveyed {
        /// Which log.
        log: LogNumber,
        /// What it has.
        survey: Survey,
    },
    /// Of `ReadMoveFile`.
    MoveFileRead {
        /// Of the request.
        number: MoveNumber,
        /// Of the request.
        ticket: u64,
        /// Bytes of the whole file; 0 when there is none.
        size: u64,
        /// Offset of the bytes.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// Of `WriteMoveFile`.
    MoveFileWritten {
        /// Of the request.
        number: MoveNumber,
        /// It is whole, checked and durable.
        is_complete: bool,
    },
    /// Of `LoadMoveFile`.
    MoveFileLoaded {
        /// Of the request.
        number: MoveNumber,
        /// There is such a file, and it verifies as far as it was read. One that does not was put
        /// aside: fetch it again.
        found: bool,
        /// Of the request.
        cursor: u64,
        /// The records of these pages, in their order.
        records: Vec<CheckpointRecords>,
        /// Where to go on.
        next: u64,
        /// Where its pages end.
        end: u64,
    },
    /// Of `KeepMoveFiles`.
    MoveFilesKept,
    /// The request could not be carried out.
    Failed {
        /// The request.
        request: Box<DiskRequest>,
        /// What kind of failure.
        fault: DiskFault,
        /// What and where, in words.
        text: String,
    },
}

/// Reads entries that were written lately without waiting for the disk.
pub trait LogView: Send + Sync + fmt::Debug {
    /// The entry at `place` if it lies in one of the last two segments; the caller proves that it
    /// is the one it looks for. Bytes that were not appended yet may come back as anything.
    fn recent_entry(&self, place: Place) -> Option<[u8; ENTRY_SIZE]>;
}

/// Carries out the requests of one lane.
pub trait LaneWorker: Send {
    /// Carries out all of `requests` in order and appends the replies. Appends among them share
    /// one sync and one `Durable` of the last.
    fn run(&mut self, requests: Vec<DiskRequest>, replies: &mut Vec<DiskReply>);
}

/// Gives out the workers of a disk, one per lane.
pub trait Lanes: Send + Sync {
    /// The worker of a lane; asked for once per lane.
    fn worker(&self, lane: Lane) -> Box<dyn LaneWorker>;
}
