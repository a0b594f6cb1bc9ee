//! Bytes on their way to one peer, and the one vectored write that takes them there.
//!
//! In the steady state nothing is queued: a turn's bytes go from the role's outbox straight into
//! the socket. Only what the socket does not take is kept here.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Write};

use bytes::{Buf, BytesMut};

use crate::role::Piece;

/// Pieces that one system call takes.
const SLICE_COUNT_MAX: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct SendQueue {
    pieces: VecDeque<Piece>,
    tail: BytesMut,
    size: usize,
}

/// What a write achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// Bytes that the socket took.
    pub(super) size: usize,
    /// It takes no more for now.
    pub(super) blocked: bool,
}

impl SendQueue {
    /// Bytes that wait.
    pub(super) const fn size(&self) -> usize {
        self.size
    }

    /// Whether nothing waits.
    pub(super) const fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Takes over pieces and then a tail, behind what waits already.
    pub(super) fn append(&mut self, pieces: &mut VecDeque<Piece>, tail: &mut BytesMut) {
        self.size += pieces.iter().map(piece_size).sum::<usize>() + tail.len();
        if !pieces.is_empty() {
            if !self.tail.is_empty() {
                self.pieces.push_back(Piece::Owned(self.tail.split()));
            }
            self.pieces.append(pieces);
        }
        self.tail.extend_from_slice(tail);
        tail.clear();
    }

    /// Writes what waits until nothing does or the socket takes no more.
    pub(super) fn write(&mut self, stream: &mut impl Write) -> io::Result<Written> {
        let written = write(stream, &mut self.pieces, &mut self.tail)?;
        self.size -= written.size;
        if self.size == 0 {
            *self = Self::default();
        }
        Ok(written)
    }
}

/// Writes `pieces` and then `tail` and takes away what the socket took.
pub(super) fn write(
    stream: &mut impl Write,
    pieces: &mut VecDeque<Piece>,
    tail: &mut BytesMut,
) -> io::Result<Written> {
    let mut total = 0;
    loop {
        let (offered, result) = write_once(stream, pieces, tail);
        let size = match result {
            Ok(size) => size,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        take(pieces, tail, size);
        total += size;
        let blocked = size < offered;
        if blocked || (pieces.is_empty() && tail.is_empty()) {
            return Ok(Written {
                size: total,
                blocked,
            });
        }
    }
}

/// One system call. Returns how many bytes it was offered beside its result.
fn write_once(
    stream: &mut impl Write,
    pieces: &VecDeque<Piece>,
    tail: &BytesMut,
) -> (usize, io::Result<usize>) {
    if pieces.is_empty() {
        return match tail.len() {
            0 => (0, Ok(0)),
            size => (size, stream.write(tail)),
        };
    }
    let mut slices = [IoSlice::new(&[]); SLICE_COUNT_MAX];
    let mut count = 0;
    let mut offered = 0;
    let all = pieces.iter().map(piece_bytes).chain([&tail[..]]);
    for (slice, bytes) in slices.iter_mut().zip(all) {
        *slice = IoSlice::new(bytes);
        count += 1;
        offered += bytes.len();
    }
    if offered == 0 {
        return (0, Ok(0));
    }
    (offered, stream.write_vectored(&slices[..count]))
}

/// Drops the first `size` bytes, and empty pieces in front.
fn take(pieces: &mut VecDeque<Piece>, tail: &mut BytesMut, mut size: usize) {
    while let Some(piece) = pieces.front_mut() {
        let length = piece_size(piece);
        if size < length {
            match piece {
                Piece::Owned(bytes) => bytes.advance(size),
                Piece::Shared(bytes) => bytes.advance(size),
            }
            return;
        }
        size -= length;
        pieces.pop_front();
    }
    if size == tail.len() {
        tail.clear();
    } else {
        tail.advance(size);
    }
}

fn piece_bytes(piece: &Piece) -> &[u8] {
    match piece {
        Piece::Owned(bytes) => bytes,
        Piece::Shared(bytes) => bytes,
    }
}

fn piece_size(piece: &Piece) -> usize {
    piece_bytes(piece).len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    /// Takes at most `step` bytes per call and blocks at every `block_every`th one.
    struct Slow {
        taken: Vec<u8>,
        step: usize,
        block_every: usize,
        calls: usize,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.write_vectored(&[IoSlice::new(bytes)])
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            self.calls += 1;
            if self.calls.is_multiple_of(self.block_every) {
                return Err(ErrorKind::WouldBlock.into());
            }
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            let size = bytes.len().min(self.step);
            self.taken.extend_from_slice(&bytes[..size]);
            Ok(size)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn any_way_of_taking_bytes_gives_the_same_bytes() {
        for step in 1..40 {
            let mut stream = Slow {
                taken: Vec::new(),
                step,
                block_every: 3,
                calls: 0,
            };
            let mut queue = SendQueue::default();
            let mut expected = Vec::new();
            for round in 0..200_u8 {
                let mut pieces = VecDeque::new();
                for index in 0..round % 80 {
                    let bytes = vec![round ^ index; usize::from(index % 5)];
                    expected.extend_from_slice(&bytes);
                    pieces.push_back(if index % 2 == 0 {
                        Piece::Shared(Bytes::from(bytes))
                    } else {
                        Piece::Owned(BytesMut::from(&bytes[..]))
                    });
                }
                let mut tail = BytesMut::from(&vec![round; usize::from(round % 7)][..]);
                expected.extend_from_slice(&tail);
                queue.append(&mut pieces, &mut tail);
                let before = queue.size();
                let written = queue.write(&mut stream).unwrap();
                assert_eq!(before - written.size, queue.size());
                assert!(written.blocked || queue.is_empty());
            }
            while !queue.is_empty() {
                queue.write(&mut stream).unwrap();
            }
            assert_eq!(stream.taken, expected, "step {step}");
        }
    }
}
