//! Bytes of one connection that were read but not handed over yet: the beginning of a frame, or
//! whole frames for which the turn had no room.
//!
//! Most connections have none most of the time: bytes are read into a buffer of the loop, and only
//! what is left of them comes here. Memory follows the bytes that arrived, never a claimed length.

use std::io::{self, IoSliceMut, Read};

use crate::limits::{INTAKE_KEPT_COUNT_MAX, INTAKE_KEPT_SIZE_MAX};
use crate::model::to_usize;

/// Bytes of a frame's beginning up to which it is copied in front of the next read.
const COPY_SIZE_MAX: usize = 16 << 10;

/// Smallest buffer.
const BUFFER_SIZE_MIN: usize = 1 << 10;

/// Spare buffers of all connections; each is initialised to its full length.
#[derive(Debug, Default)]
pub(super) struct Pool {
    spare: Vec<Vec<u8>>,
}

impl Pool {
    fn give_back(&mut self, buffer: Vec<u8>) {
        if !buffer.is_empty()
            && buffer.len() <= INTAKE_KEPT_SIZE_MAX
            && self.spare.len() < INTAKE_KEPT_COUNT_MAX
        {
            self.spare.push(buffer);
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Intake {
    /// Initialised to its length; `start..end` is what was read.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// What one read brought.
#[derive(Debug)]
pub(super) struct Arrived {
    /// Bytes at the start of the loop's buffer that are now this connection's next ones, behind
    /// those in the intake.
    pub(super) scratch_size: usize,
    /// The system had no more than this at the time.
    pub(super) drained: bool,
    /// The peer sends nothing more.
    pub(super) ended: bool,
}

impl Intake {
    /// What is there.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Bytes of memory.
    pub(super) const fn memory_size(&self) -> usize {
        self.buffer.len()
    }

    /// Whether nothing is there.
    pub(super) const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Drops the first `size` bytes; the last one gives the buffer back.
    pub(super) fn consume(&mut self, size: usize, pool: &mut Pool) {
        self.start += size;
        assert!(self.start <= self.end, "only what is there can be consumed");
        if self.is_empty() {
            self.release(pool);
        }
    }

    /// Forgets everything.
    pub(super) fn release(&mut self, pool: &mut Pool) {
        self.start = 0;
        self.end = 0;
        pool.give_back(std::mem::take(&mut self.buffer));
    }

    /// Takes over what is left of a read.
    pub(super) fn keep(&mut self, bytes: &[u8], pool: &mut Pool) {
        if bytes.is_empty() {
            return;
        }
        self.reserve(bytes.len(), pool);
        self.buffer[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// One read. The intake holds less than one frame, and its length was checked.
    ///
    /// The beginning of a small frame moves in front of the new bytes, so that the frame lies in
    /// `scratch`; a large one is completed in its own buffer, and what follows it goes to
    /// `scratch`.
    pub(super) fn read(
        &mut self,
        stream: &mut impl Read,
        scratch: &mut [u8],
        pool: &mut Pool,
    ) -> io::Result<Arrived> {
        let kept = self.end - self.start;
        let missing = self
            .frame_size()
            .map_or(0, |size| size.saturating_sub(kept));
        if kept <= COPY_SIZE_MAX && kept + missing <= scratch.len() {
            return self.read_behind_copy(stream, scratch, pool);
        }
        // At most doubled, so that memory follows what arrived; no reading past an unfinished one.
        self.reserve(missing.min(kept.max(COPY_SIZE_MAX)), pool);
        let room = missing.min(self.buffer.len() - self.end);
        let rest = if room == missing { scratch.len() } else { 0 };
        let size = stream.read_vectored(&mut [
            IoSliceMut::new(&mut self.buffer[self.end..self.end + room]),
            IoSliceMut::new(&mut scratch[..rest]),
        ])?;
        self.end += size.min(room);
        Ok(Arrived {
            scratch_size: size.saturating_sub(room),
            drained: size < room + rest,
            ended: size == 0,
        })
    }

    fn read_behind_copy(
        &mut self,
        stream: &mut impl Read,
        scratch: &mut [u8],
        pool: &mut Pool,
    ) -> io::Result<Arrived> {
        let kept = self.end - self.start;
        let (head, room) = scratch.split_at_mut(kept);
        let size = stream.read(room)?;
        if size == 0 {
            return Ok(Arrived {
                scratch_size: 0,
                drained: true,
                ended: true,
            });
        }
        head.copy_from_slice(self.bytes());
        self.release(pool);
        Ok(Arrived {
            scratch_size: kept + size,
            drained: size < room.len(),
            ended: false,
        })
    }

    /// The claimed size of the frame that begins here, already checked against the limit.
    fn frame_size(&self) -> Option<usize> {
        let length = self.bytes().first_chunk::<4>()?;
        Some(to_usize(u64::from(u32::from_le_bytes(*length))))
    }

    /// Makes room for `size` more bytes behind `end`.
    fn reserve(&mut self, size: usize, pool: &mut Pool) {
        if self.end + size <= self.buffer.len() {
            return;
        }
        if self.buffer.is_empty()
            && let Some(spare) = pool.spare.pop()
        {
            self.buffer = spare;
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let needed = (self.end + size).max(BUFFER_SIZE_MIN);
        if self.buffer.len() < needed {
            self.buffer.resize(needed.next_power_of_two(), 0);
        }
    }
}
