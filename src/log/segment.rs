//! One file of a log: its name, its header, and how it comes to be.

use std::sync::Arc;

use super::SEGMENT_HEADER_SIZE;
use super::block::{Block, BlockError, Verify};
use super::error::{LogError, While, sync_failed};
use super::medium::{Access, Medium, MediumFile};
use crate::canary::{self, Bug};
use crate::limits::BLOCK_ENTRY_COUNT_MAX;
use crate::model::{ENTRY_SIZE, to_u64, to_usize};

const MAGIC: [u8; 8] = *b"CFOILSEG";
const VERSION: u32 = 1;
const FLAG_USED_BEFORE: u32 = 1;

const VERSION_AT: usize = 8;
const CRC_AT: usize = VERSION_AT + size_of::<u32>();
const CLUSTER_AT: usize = CRC_AT + size_of::<u32>();
const LOG_AT: usize = CLUSTER_AT + size_of::<u128>();
const FLAGS_AT: usize = LOG_AT + 2 * size_of::<u16>();
const SEGMENT_AT: usize = FLAGS_AT + size_of::<u32>();
const SEGMENT_SIZE_AT: usize = SEGMENT_AT + size_of::<u64>();
const USED_BEFORE_AT: usize = SEGMENT_SIZE_AT + size_of::<u64>();
const RESERVED_AT: usize = USED_BEFORE_AT + size_of::<u64>();
const HEADER_SIZE: usize = 128;
const _: () = assert!(RESERVED_AT == 64);
const _: () = assert!(HEADER_SIZE as u64 <= SEGMENT_HEADER_SIZE);

/// Bytes written at a time when a segment is prepared. A system keeps them in memory in pieces as
/// large as they were written, and each small append walks over the whole piece that it lies in.
const ZEROS_SIZE: usize = 256 << 10;

/// Bytes of a new segment that are synced at a time. The syncs of blocks stand behind what the
/// device has to write: behind a whole segment that is a quarter of a second.
const SYNC_SIZE: u64 = 1 << 20;

/// Most bytes that one block takes.
pub(super) const BLOCK_SIZE_MAX: usize = (BLOCK_ENTRY_COUNT_MAX as usize + 1) * ENTRY_SIZE;

/// A segment whose header was verified.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) file: Arc<dyn MediumFile>,
    /// The file was another segment before: bytes behind the end need not be 0.
    pub(super) used_before: bool,
    pub(super) verify: Verify,
}

/// What a log is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// To be worked with: what a crash left is tidied up, and everything is synced first.
    Use,
    /// To be read: nothing is changed.
    Look,
}

impl Opening {
    const fn access(self) -> Access {
        match self {
            Self::Use => Access::Fixed,
            Self::Look => Access::Read,
        }
    }
}

/// What was found under a segment's name.
#[derive(Debug)]
pub(super) enum Opened {
    Sound(Segment),
    /// The header does not verify; the blocks may.
    Damaged {
        segment: Segment,
        why: String,
    },
    /// The file cannot be a segment.
    Lost(String),
}

pub(super) fn segment_name(number: u64) -> String {
    format!("segment-{number:016x}")
}

pub(super) fn retired_name(number: u64) -> String {
    format!("retired-{number:016x}")
}

/// The number in a name like `segment-0000000000000001`.
pub(super) fn number_in(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?.strip_prefix('-')?;
    let plain = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16).ok().filter(|_| plain)
}

/// The first 4,096 bytes of a segment.
fn header_bytes(verify: &Verify, number: u64, used_before: Option<u64>) -> Vec<u8> {
    let mut header = vec![0; to_usize(SEGMENT_HEADER_SIZE)];
    let mut put = |at: usize, field: &[u8]| header[at..at + field.len()].copy_from_slice(field);
    put(0, &MAGIC);
    put(VERSION_AT, &VERSION.to_le_bytes());
    put(CLUSTER_AT, &verify.cluster.get().to_le_bytes());
    put(LOG_AT, &verify.log.get().to_le_bytes());
    let flags = if used_before.is_some() {
        FLAG_USED_BEFORE
    } else {
        0
    };
    put(FLAGS_AT, &flags.to_le_bytes());
    put(SEGMENT_AT, &number.to_le_bytes());
    put(SEGMENT_SIZE_AT, &verify.segment_size.to_le_bytes());
    put(USED_BEFORE_AT, &used_before.unwrap_or(0).to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..CRC_AT]);
    hasher.update(&header[CLUSTER_AT..HEADER_SIZE]);
    let crc = hasher.finalize();
    header[CRC_AT..CLUSTER_AT].copy_from_slice(&crc.to_le_bytes());
    header
}

impl Segment {
    /// Opens a segment and tests its length and header.
    pub(super) fn open(
        medium: &dyn Medium,
        dir: &str,
        verify: &Verify,
        number: u64,
        opening: Opening,
    ) -> Result<Opened, LogError> {
        let path = format!("{dir}/{}", segment_name(number));
        let file = open_sized(medium, &path, verify, opening.access())?;
        let Some(file) = file else {
            return Ok(Opened::Lost(format!("{path} has the wrong length")));
        };
        let mut header = vec![0; to_usize(SEGMENT_HEADER_SIZE)];
        file.read_at(0, &mut header)
            .during(|| format!("reading {path}"))?;
        let fresh = header_bytes(verify, number, None);
        let used_before = u64_at(&header, USED_BEFORE_AT);
        let reused = header_bytes(verify, number, Some(used_before));
        if opening == Opening::Use {
            // What is read now must be what a power cut leaves.
            file.sync()
                .map_err(|error| sync_failed(format!("syncing {path}"), &error))?;
        }
        let segment = Self {
            number,
            file,
            used_before: header != fresh,
            verify: *verify,
        };
        if header == fresh || header == reused {
            Ok(Opened::Sound(segment))
        } else {
            let why = format!("header of {path} does not verify");
            Ok(Opened::Damaged { segment, why })
        }
    }

    /// Creates a segment under a temporary name, full of zeros, durable before it gets its name.
    pub(super) fn create(
        medium: &dyn Medium,
        dir: &str,
        verify: &Verify,
        number: u64,
    ) -> Result<Self, LogError> {
        let path = format!("{dir}/{}", segment_name(number));
        let temporary = format!("{path}.tmp");
        let filled = fill(medium, &temporary, verify, number);
        if filled.is_err() {
            // Gives the space back; opening the log removes it otherwise.
            medium.remove(&temporary).unwrap_or(());
        }
        filled?;
        name_file(medium, dir, &temporary, &path)?;
        let file = open_fixed(medium, &path, verify)?
            .ok_or_else(|| LogError::Damage(format!("{path} has the wrong length")))?;
        Ok(Self {
            number,
            file,
            used_before: false,
            verify: *verify,
        })
    }

    /// Makes a retired segment a new one. Nobody else may hold its file.
    pub(super) fn reuse(
        self,
        medium: &dyn Medium,
        dir: &str,
        number: u64,
    ) -> Result<Self, LogError> {
        let from = format!("{dir}/{}", retired_name(self.number));
        let path = format!("{dir}/{}", segment_name(number));
        let header = header_bytes(&self.verify, number, Some(self.number));
        // It was let go long ago: each block would wait for the page that it ends in.
        self.file.will_need();
        self.file
            .write_at(0, &header)
            .during(|| format!("writing {from}"))?;
        self.file
            .sync()
            .map_err(|error| sync_failed(format!("syncing {from}"), &error))?;
        name_file(medium, dir, &from, &path)?;
        Ok(Self {
            number,
            used_before: true,
            ..self
        })
    }

    /// A retired file found at opening; `None` if it cannot be what once was this segment. A file
    /// of another number under this name is never used again: its blocks would count as written
    /// once it has its own number again.
    pub(super) fn retired(
        medium: &dyn Medium,
        path: &str,
        verify: &Verify,
        number: u64,
    ) -> Result<Option<Self>, LogError> {
        let Some(file) = open_fixed(medium, path, verify)? else {
            return Ok(None);
        };
        let mut header = vec![0; to_usize(SEGMENT_HEADER_SIZE)];
        file.read_at(0, &mut header)
            .during(|| format!("reading {path}"))?;
        let (next, before) = (u64_at(&header, SEGMENT_AT), u64_at(&header, USED_BEFORE_AT));
        let is_it = header == header_bytes(verify, number, None)
            || header == header_bytes(verify, number, Some(before))
            // It has its next header, and the crash came before its next name.
            || header == header_bytes(verify, next, Some(number));
        Ok(is_it.then_some(Self {
            number,
            file,
            used_before: true,
            verify: *verify,
        }))
    }

    /// Offset in the log of the segment's first byte.
    pub(super) const fn start(&self) -> u64 {
        self.number * self.verify.segment_size
    }

    /// Offset in the log behind the segment's last byte.
    pub(super) const fn stop(&self) -> u64 {
        self.start() + self.verify.segment_size
    }

    /// Copies bytes out; both offsets are in the log and must lie in this segment.
    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), LogError> {
        assert!(self.start() <= offset && offset + to_u64(bytes.len()) <= self.stop());
        self.file
            .read_at(offset - self.start(), bytes)
            .during(|| format!("reading segment {:016x}", self.number))
    }

    /// As `read`, but from the device even where the system has the bytes in memory.
    pub(super) fn read_from_device(&self, offset: u64, bytes: &mut [u8]) -> Result<(), LogError> {
        assert!(self.start() <= offset && offset + to_u64(bytes.len()) <= self.stop());
        self.file
            .read_from_device(offset - self.start(), bytes)
            .during(|| format!("reading segment {:016x} from its device", self.number))
    }

    /// Writes bytes; both offsets are in the log and must lie behind the segment's header.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        assert!(self.start() + SEGMENT_HEADER_SIZE <= offset);
        assert!(offset + to_u64(bytes.len()) <= self.stop());
        self.file.write_at(offset - self.start(), bytes)
    }
}

/// Gives a file its name for good.
pub(super) fn name_file(
    medium: &dyn Medium,
    dir: &str,
    from: &str,
    to: &str,
) -> Result<(), LogError> {
    medium.rename(from, to).during(|| format!("naming {to}"))?;
    if canary::on(Bug::UnsyncedName) {
        return Ok(());
    }
    medium
        .sync_dir(dir)
        .map_err(|error| sync_failed(format!("syncing {dir}"), &error))
}

fn open_fixed(
    medium: &dyn Medium,
    path: &str,
    verify: &Verify,
) -> Result<Option<Arc<dyn MediumFile>>, LogError> {
    open_sized(medium, path, verify, Access::Fixed)
}

/// `None`: the file has not the length of a segment.
fn open_sized(
    medium: &dyn Medium,
    path: &str,
    verify: &Verify,
    access: Access,
) -> Result<Option<Arc<dyn MediumFile>>, LogError> {
    let file = medium
        .open(path, access)
        .during(|| format!("opening {path}"))?
        .ok_or_else(|| LogError::Damage(format!("{path} is gone")))?;
    let size = file.size().during(|| format!("measuring {path}"))?;
    Ok((size == verify.segment_size).then_some(file))
}

fn fill(medium: &dyn Medium, path: &str, verify: &Verify, number: u64) -> Result<(), LogError> {
    let file = medium.create(path).during(|| format!("creating {path}"))?;
    let zeros = vec![0; ZEROS_SIZE];
    let mut at = 0;
    while at < verify.segment_size {
        let size = to_u64(ZEROS_SIZE).min(verify.segment_size - at);
        file.write_at(at, &zeros[..to_usize(size)])
            .during(|| format!("preparing {path}"))?;
        at += size;
        if at.is_multiple_of(SYNC_SIZE) && at < verify.segment_size {
            file.sync()
                .map_err(|error| sync_failed(format!("syncing {path}"), &error))?;
        }
    }
    file.write_at(0, &header_bytes(verify, number, None))
        .during(|| format!("preparing {path}"))?;
    file.sync()
        .map_err(|error| sync_failed(format!("syncing {path}"), &error))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

/// Reads a segment block by block through one buffer.
#[derive(Debug)]
pub(super) struct Scanner {
    buffer: Vec<u8>,
    /// Offset in the log of the buffer's first byte, and how many bytes of it are filled.
    window: (u64, usize),
    segment: Option<u64>,
}

/// Bytes read at a time: at least one whole block.
const WINDOW_SIZE: usize = 2 << 20;
const _: () = assert!(BLOCK_SIZE_MAX <= WINDOW_SIZE);

impl Scanner {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; WINDOW_SIZE],
            window: (0, 0),
            segment: None,
        }
    }

    /// Bytes from `offset` on: at least a block's worth, unless the segment ends before.
    pub(super) fn bytes(&mut self, segment: &Segment, offset: u64) -> Result<&[u8], LogError> {
        assert!(segment.start() <= offset && offset <= segment.stop());
        let wanted = to_usize(segment.stop() - offset).min(BLOCK_SIZE_MAX);
        let (start, filled) = self.window;
        let inside = self.segment == Some(segment.number)
            && start <= offset
            && offset + to_u64(wanted) <= start + to_u64(filled);
        if !inside {
            let size = to_usize(segment.stop() - offset).min(WINDOW_SIZE);
            self.segment = None;
            segment.read(offset, &mut self.buffer[..size])?;
            self.window = (offset, size);
            self.segment = Some(segment.number);
        }
        let (start, filled) = self.window;
        Ok(&self.buffer[to_usize(offset - start)..filled])
    }

    /// The block at `offset`, verified; `None` if there is nothing.
    pub(super) fn block(
        &mut self,
        segment: &Segment,
        offset: u64,
    ) -> Result<Result<Option<Block<'_>>, BlockError>, LogError> {
        let bytes = self.bytes(segment, offset)?;
        let block = Block::read(bytes, &segment.verify);
        Ok(match block {
            // A sound block that was copied from elsewhere, with the salt of this segment.
            Ok(Some(block)) if block.first_offset() != offset => Err(BlockError::Magic),
            block => block,
        })
    }
}
