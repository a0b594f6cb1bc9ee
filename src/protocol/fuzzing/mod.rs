//! What must hold for any bytes: shared by the unit tests, the fuzz targets and the replay of
//! their corpus. Not part of the library's interface.
//!
//! Every function here returns if all is well and panics otherwise.
#![expect(
    clippy::unwrap_used,
    reason = "a test aid: what fails here is what is looked for"
)]

mod drawn;
mod pieces;

use bytes::BytesMut;

use super::frame::{CRC_AT, KIND_AT, LENGTH_AT, checksum};
use super::{
    AuditPart, Frame, FrameError, FrameKind, HEADER_SIZE, Header, Message, ReceiptsWriter,
    put_member, put_node_id, put_slot_range, put_slot_run, put_term_starts, split,
    write_append_head, write_audit, write_message, write_rows,
};
use crate::limits::LINK_FRAME_SIZE_MAX;
use crate::model::{CodeClass, Operation, Random, RingEpoch};

pub use drawn::Draw;
pub use pieces::check_pieces;

/// Bytes as they come from a socket: as they are, and as one frame with length and checksum
/// mended, since hardly any random bytes have a good checksum.
pub fn check_stream(bytes: &[u8]) {
    check_frames(bytes);
    let mut mended = bytes.to_vec();
    if mend(&mut mended) {
        check_frames(&mended);
    }
}

/// The first byte chooses a kind and the second the flags; the rest is the body of a frame.
pub fn check_body(bytes: &[u8]) {
    let Some(([kind, flags], body)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let index = usize::from(*kind) % FrameKind::ALL.len();
    let mut header = Header::bare(FrameKind::ALL[index]);
    header.flags = u16::from(*flags);
    let mut frame = header.to_bytes().to_vec();
    frame.extend_from_slice(body);
    assert!(mend(&mut frame));
    check_frames(&frame);
}

/// Bytes as choices: any message that they make is written, read and written again.
pub fn check_choices(bytes: &[u8]) {
    let mut chunks = bytes.chunks(size_of::<u64>());
    let mut next = || {
        let mut word = [0; size_of::<u64>()];
        if let Some(chunk) = chunks.next() {
            word[..chunk.len()].copy_from_slice(chunk);
        }
        u64::from_le_bytes(word)
    };
    check_drawn(&mut Draw::new(&mut next));
}

/// A message from `draw` is written, read and written again. The bytes of its frame.
pub fn check_drawn(draw: &mut Draw<'_>) -> Vec<u8> {
    let kind = *draw.one_of(FrameKind::ALL);
    let mut header = Header::answer(kind, draw.u64()).at(RingEpoch(draw.u32()));
    if kind == FrameKind::AuditTold {
        header.flags = draw.u16() & super::FLAG_MORE;
    }
    let mut parts = drawn::Parts::default();
    let message = drawn::message(kind, draw, &mut parts);
    let mut out = BytesMut::new();
    write_message(&mut out, header, &message);

    let (frame, size) = split(&out, LINK_FRAME_SIZE_MAX).unwrap().unwrap();
    assert_eq!(size, out.len());
    assert_eq!(frame.header, header);
    assert_eq!(Message::read(&frame), Ok(message));
    check_frames(&out);
    if let Message::Append(append) = &message {
        let mut in_two = BytesMut::new();
        write_append_head(&mut in_two, append);
        in_two.extend_from_slice(append.block);
        check_frames(&in_two);
        assert_eq!(in_two[HEADER_SIZE..], out[HEADER_SIZE..]);
    }
    out.to_vec()
}

/// Frames drawn from `seed`, one after the other in one buffer.
#[must_use]
pub fn drawn_frames(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut random = Random::new(seed);
    let mut next = || random.u64();
    let mut draw = Draw::new(&mut next);
    (0..count).map(|_| check_drawn(&mut draw)).collect()
}

/// A frame of `kind` with any body behind a good length and checksum.
#[must_use]
pub fn frame_of(kind: FrameKind, body: &[u8]) -> Vec<u8> {
    let mut frame = Header::bare(kind).to_bytes().to_vec();
    frame.extend_from_slice(body);
    assert!(mend(&mut frame), "it has a header");
    frame
}

/// Sets length and checksum to what the bytes have. False for less than a header.
pub fn mend(frame: &mut [u8]) -> bool {
    let Ok(length) = u32::try_from(frame.len()) else {
        return false;
    };
    if frame.len() < HEADER_SIZE {
        return false;
    }
    frame[LENGTH_AT..CRC_AT].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(frame);
    frame[CRC_AT..KIND_AT].copy_from_slice(&crc.to_le_bytes());
    true
}

fn check_frames(bytes: &[u8]) {
    let mut rest = bytes;
    loop {
        match split(rest, LINK_FRAME_SIZE_MAX) {
            Ok(Some((frame, size))) => {
                let (whole, behind) = rest.split_at(size);
                assert_eq!(HEADER_SIZE + frame.body.len(), size);
                check_cuts(whole);
                check_message(&frame, whole);
                rest = behind;
            }
            Ok(None) => return,
            Err(error) => return check_frame_error(error),
        }
    }
}

/// A frame that is not complete yet is never taken for one, nor for damage.
fn check_cuts(whole: &[u8]) {
    for size in [0, 1, 3, 4, HEADER_SIZE - 1, HEADER_SIZE, whole.len() - 1] {
        if size < whole.len() {
            assert!(
                split(&whole[..size], LINK_FRAME_SIZE_MAX)
                    .unwrap()
                    .is_none()
            );
        }
    }
}

fn check_frame_error(error: FrameError) {
    assert!(!error.to_string().is_empty());
}

/// What is read is canonical: written again it is the same bytes.
fn check_message(frame: &Frame<'_>, whole: &[u8]) {
    let message = match Message::read(frame) {
        Ok(message) => message,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert_eq!(message.kind(), frame.header.kind);
    let mut again = BytesMut::with_capacity(whole.len());
    write_message(&mut again, frame.header, &message);
    assert!(again == whole, "{message:?} is not canonical");
    check_records(&message);
}

/// Where the records of most lists begin.
const LIST_AT: usize = HEADER_SIZE + 8;

/// The same for each record of a list.
fn check_records(message: &Message<'_>) {
    let mut out = BytesMut::new();
    let check = |written: &[u8], record: &[u8]| assert_eq!(written, record);
    match message {
        Message::Request { operations, .. } => {
            for (read, record) in operations.iter().zip(operations.arrays()) {
                match read {
                    Ok(operation) => check(&operation.to_bytes(), record),
                    Err(code) => assert_eq!(code.class(), CodeClass::Malformed),
                }
                assert_eq!(Operation::read(record), read);
            }
        }
        Message::Receipts(receipts) => check_receipts(receipts),
        Message::Rows { rows, .. } => {
            for (row, record) in rows.iter().zip(rows.records()) {
                let Ok(row) = row else { continue };
                out.clear();
                write_rows(&mut out, 0, 0, &[row]);
                check(&out[LIST_AT..], record);
            }
        }
        Message::AuditTold { rows } => {
            for (row, record) in rows.iter().zip(rows.records()) {
                let Ok(row) = row else { continue };
                out.clear();
                write_audit(&mut out, 0, &[row], AuditPart::Last);
                check(&out[LIST_AT..], record);
            }
        }
        Message::Register(register) => check_term_starts(register.terms),
        Message::Granted(granted) => check_term_starts(granted.terms),
        Message::Table(table) => check_table(table),
        Message::MoveOrder(order) => check_slot_ranges(&order.ranges),
        Message::Recorded(recorded) => {
            for (node, record) in recorded.members.iter().zip(recorded.members.records()) {
                let Ok(node) = node else { continue };
                out.clear();
                put_node_id(&mut out, node);
                check(&out, record);
            }
        }
        Message::Hello(_)
        | Message::Welcome(_)
        | Message::Refused(_)
        | Message::Ping
        | Message::Pong { .. }
        | Message::Goaway
        | Message::StatusAsk
        | Message::StatusTold { .. }
        | Message::AuditAsk
        | Message::ClusterAsk(_)
        | Message::ClusterTold { .. }
        | Message::MoveTold(_)
        | Message::MoveFileAsk(_)
        | Message::MoveFilePart(_)
        | Message::Recover { .. }
        | Message::Append(_)
        | Message::Appended(_)
        | Message::Resend { .. }
        | Message::Beat(_)
        | Message::Confirmed(_)
        | Message::Fetch(_)
        | Message::Fetched(_)
        | Message::CheckpointAsk(_)
        | Message::CheckpointPart(_)
        | Message::EntryAsk { .. }
        | Message::EntryRead(_)
        | Message::Follow => (),
    }
}

fn check_receipts(receipts: &super::Receipts<'_>) {
    for (receipt, record) in receipts.iter().zip(receipts.records()) {
        let Ok(receipt) = receipt else { continue };
        let mut out = BytesMut::new();
        let mut writer = ReceiptsWriter::begin(&mut out, 0, RingEpoch(0));
        writer.push(&mut out, &receipt);
        writer.finish(&mut out);
        assert_eq!(&out[LIST_AT..], record);
    }
}

fn check_slot_ranges(ranges: &super::SlotRanges<'_>) {
    for (range, record) in ranges.iter().zip(ranges.records()) {
        let Ok(range) = range else { continue };
        let mut out = BytesMut::new();
        put_slot_range(&mut out, range);
        assert_eq!(out, record);
    }
}

fn check_term_starts(terms: super::TermStarts<'_>) {
    for (start, record) in terms.iter().zip(terms.records()) {
        let mut out = BytesMut::new();
        put_term_starts(&mut out, &[start.unwrap()]);
        assert_eq!(out, record);
    }
}

fn check_table(table: &super::Table<'_>) {
    let mut out = BytesMut::new();
    for (member, record) in table.members.iter().zip(table.members.records()) {
        let Ok(member) = member else { continue };
        out.clear();
        put_member(&mut out, &member);
        assert_eq!(out, record);
    }
    for (run, record) in table.runs.iter().zip(table.runs.records()) {
        let Ok(run) = run else { continue };
        out.clear();
        put_slot_run(&mut out, &run);
        assert_eq!(out, record);
    }
}
