//! One stream of bytes, cut anywhere, gives the same messages and the same last word.

use bytes::BytesMut;

use super::{Draw, check_drawn, mend};
use crate::limits::{FRAME_SIZE_MAX, LINK_FRAME_SIZE_MAX};
use crate::model::{Choices, to_u64, to_usize};
use crate::protocol::{Frame, FrameError, FrameKind, HEADER_SIZE, Header, Message, split};

/// Bytes of a stream at most: more would only be slow.
const STREAM_SIZE_MAX: usize = 64 << 10;

/// What a reader made of a stream.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    /// Header and body of each frame, and whether the body is a message.
    frames: Vec<(Header, Vec<u8>, bool)>,
    error: Option<FrameError>,
    /// Bytes behind the last whole frame.
    left: usize,
}

impl Heard {
    fn take(&mut self, frame: &Frame<'_>) {
        let is_message = Message::read(frame).is_ok();
        let body = frame.body.to_vec();
        self.frames.push((frame.header, body, is_message));
    }
}

/// The first bytes say what the stream is made of and where it is cut.
pub fn check_pieces(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let size_max = choices.one_of(&[LINK_FRAME_SIZE_MAX, FRAME_SIZE_MAX, 200, 30, 0]);
    let cut_count = choices.below(12);
    let cuts: Vec<u64> = (0..cut_count).map(|_| choices.below(1 << 16)).collect();
    let stream = stream(&mut choices);
    let whole = read(&stream, size_max);
    assert_eq!(whole, read_in_pieces(&stream, &cuts, size_max));
    // A byte at a time is the hardest cut.
    let every: Vec<u64> = (0..=to_u64(stream.len().min(2_000))).collect();
    assert_eq!(whole, read_in_pieces(&stream, &every, size_max));
}

/// Frames with good checksums, bare bytes between them.
fn stream(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !choices.is_empty() && stream.len() < STREAM_SIZE_MAX {
        match choices.below(8) {
            0 => {
                let size = to_usize(choices.below(64));
                stream.extend_from_slice(choices.bytes(size));
            }
            1..=3 => {
                let mut next = || choices.u64();
                stream.extend_from_slice(&check_drawn(&mut Draw::new(&mut next)));
            }
            4 => stream.extend_from_slice(choices.bytes(usize::MAX)),
            _ => {
                let kind = choices.one_of(FrameKind::ALL);
                let mut header = Header::bare(kind);
                header.flags = u16::from(choices.u8());
                let size = to_usize(choices.below(200));
                let mut frame = header.to_bytes().to_vec();
                frame.extend_from_slice(choices.bytes(size));
                assert!(mend(&mut frame));
                stream.extend_from_slice(&frame);
            }
        }
    }
    stream
}

fn read(stream: &[u8], size_max: u32) -> Heard {
    let mut heard = Heard::default();
    let mut rest = stream;
    loop {
        match split(rest, size_max) {
            Ok(Some((frame, size))) => {
                assert!(HEADER_SIZE <= size && size <= rest.len());
                assert!(to_u64(size) <= u64::from(size_max));
                heard.take(&frame);
                rest = &rest[size..];
            }
            Ok(None) => break,
            Err(error) => {
                heard.error = Some(error);
                break;
            }
        }
    }
    heard.left = rest.len();
    heard
}

/// The same through a buffer that grows by pieces, as a connection has it.
fn read_in_pieces(stream: &[u8], cuts: &[u64], size_max: u32) -> Heard {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| to_usize(*cut)).collect();
    ends.retain(|end| *end < stream.len());
    ends.push(stream.len());
    ends.sort_unstable();
    let mut heard = Heard::default();
    let mut buffer = BytesMut::new();
    let mut from = 0;
    for end in ends {
        buffer.extend_from_slice(&stream[from..end]);
        from = end;
        if heard.error.is_some() {
            continue;
        }
        loop {
            let size = match split(&buffer, size_max) {
                Ok(Some((frame, size))) => {
                    heard.take(&frame);
                    size
                }
                Ok(None) => break,
                Err(error) => {
                    heard.error = Some(error);
                    break;
                }
            };
            // What is read is gone: nothing that follows may depend on it.
            let later = buffer.split_off(size);
            buffer = later;
        }
    }
    heard.left = buffer.len();
    heard
}
