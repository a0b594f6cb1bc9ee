//! Writes frames straight into the buffer that leaves.
//!
//! A frame is begun with its header, its body is appended, and length and checksum are filled in
//! at the end. What was in the buffer before stays.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, BytesMut};

use super::frame::{CRC_AT, FLAG_MORE, HEADER_SIZE, KIND_AT, LENGTH_AT};
use super::message::{
    ADDRESS_SIZE, Append, Appended, AuditRow, Beat, CheckpointPart, ClusterAsk, Confirmed,
    EntryRead, Fetch, Fetched, Granted, Hello, Member, Message, MoveFileAsk, MoveFilePart,
    MoveOrder, MoveTold, Recorded, Refused, Register, SlotRun, Table, Welcome,
};
use super::records::{MEMBER_SIZE, receipt_at};
use super::{FrameKind, HELLO_MAGIC, Header};
use crate::limits::{
    AUDIT_ROW_COUNT_MAX, BATCH_COUNT_MAX, LIST_ROW_COUNT_MAX, NODE_COUNT_MAX,
    REFUSAL_TEXT_SIZE_MAX, SLOT_COUNT, STATUS_SIZE_MAX, TERM_START_COUNT_MAX,
};
use crate::model::{
    ClusterId, LogEnd, LogNumber, NodeId, OPERATION_SIZE, RECEIPT_SIZE, Receipt, RingEpoch, Row,
    SlotRange, TermStart, to_usize,
};

impl Header {
    /// A header that has nothing but its kind.
    #[must_use]
    pub const fn bare(kind: FrameKind) -> Self {
        Self {
            kind,
            flags: 0,
            ring_epoch: RingEpoch(0),
            request: 0,
        }
    }

    /// The header of an answer to `request`.
    #[must_use]
    pub const fn answer(kind: FrameKind, request: u64) -> Self {
        Self {
            kind,
            flags: 0,
            ring_epoch: RingEpoch(0),
            request,
        }
    }

    /// The same under a ring epoch.
    #[must_use]
    pub const fn at(mut self, ring_epoch: RingEpoch) -> Self {
        self.ring_epoch = ring_epoch;
        self
    }
}

fn begin(out: &mut BytesMut, header: Header) -> usize {
    let start = out.len();
    out.put_slice(&header.to_bytes());
    start
}

fn finish(out: &mut BytesMut, start: usize) {
    finish_with(out, start, &[]);
}

/// Ends a frame whose body begins with the count of its records.
fn finish_list(out: &mut BytesMut, start: usize, count: u32) {
    let at = start + HEADER_SIZE;
    out[at..at + size_of::<u32>()].copy_from_slice(&count.to_le_bytes());
    finish(out, start);
}

/// Ends a frame whose last bytes follow from another buffer.
fn finish_with(out: &mut BytesMut, start: usize, tail: &[u8]) {
    let frame = &mut out[start..];
    let length = u32::try_from(frame.len() + tail.len()).expect("frames are bounded far below");
    frame[LENGTH_AT..CRC_AT].copy_from_slice(&length.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..CRC_AT]);
    hasher.update(&frame[KIND_AT..]);
    hasher.update(tail);
    frame[CRC_AT..KIND_AT].copy_from_slice(&hasher.finalize().to_le_bytes());
}

/// A count that the other side would refuse is a fault of this one: it stops here.
fn put_count(out: &mut BytesMut, count: usize, max: u32) {
    let count = u32::try_from(count).expect("counts are far below 2^32");
    assert!(
        count <= max,
        "{count} records, at most {max} fit in a frame"
    );
    out.put_u32_le(count);
}

/// The count of a list that has nothing beside it, and the four bytes of zero behind.
fn put_list_count(out: &mut BytesMut, count: usize, max: u32) {
    put_count(out, count, max);
    out.put_u32_le(0);
}

/// Writes one whole frame under `header`, which must be of the message's kind.
///
/// Panics on more records or text than the kind allows: this side made them.
pub fn write_message(out: &mut BytesMut, header: Header, message: &Message<'_>) {
    assert_eq!(header.kind, message.kind());
    let start = begin(out, header);
    write_body(out, message);
    finish(out, start);
}

fn write_body(out: &mut BytesMut, message: &Message<'_>) {
    match message {
        Message::Hello(hello) => write_hello(out, hello),
        Message::Welcome(welcome) => write_welcome(out, welcome),
        Message::Refused(refused) => write_refused(out, refused),
        Message::Ping | Message::Goaway | Message::StatusAsk | Message::AuditAsk => (),
        Message::Pong { time_ms } => out.put_u64_le(*time_ms),
        Message::Request {
            deadline_ms,
            operations,
        } => {
            put_count(out, operations.len(), BATCH_COUNT_MAX);
            out.put_u32_le(*deadline_ms);
            out.put_slice(operations.bytes());
        }
        Message::Receipts(receipts) => {
            put_list_count(out, receipts.len(), BATCH_COUNT_MAX);
            out.put_slice(receipts.bytes());
        }
        Message::Rows { index, rows } => {
            put_row_head(out, rows.len(), *index);
            out.put_slice(rows.bytes());
        }
        Message::StatusTold { json } | Message::ClusterTold { json } => {
            put_text(out, json, STATUS_SIZE_MAX);
        }
        Message::AuditTold { rows } => {
            put_list_count(out, rows.len(), AUDIT_ROW_COUNT_MAX);
            out.put_slice(rows.bytes());
        }
        Message::ClusterAsk(ask) => write_cluster_ask(out, ask),
        Message::Register(_)
        | Message::Granted(_)
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
        | Message::Follow
        | Message::Table(_)
        | Message::MoveOrder(_)
        | Message::MoveTold(_)
        | Message::MoveFileAsk(_)
        | Message::MoveFilePart(_)
        | Message::Recover { .. }
        | Message::Recorded(_) => write_link_body(out, message),
    }
}

fn write_link_body(out: &mut BytesMut, message: &Message<'_>) {
    match message {
        Message::Register(register) => write_register(out, register),
        Message::Granted(granted) => write_granted(out, granted),
        Message::Append(append) => {
            put_append(out, append);
            out.put_slice(append.block);
        }
        Message::Appended(appended) => write_appended(out, appended),
        Message::Resend { log, end } => {
            put_log(out, *log, 6);
            put_end(out, end);
        }
        Message::Beat(beat) => write_beat(out, beat),
        Message::Confirmed(confirmed) => write_confirmed(out, confirmed),
        Message::Fetch(fetch) | Message::CheckpointAsk(fetch) => write_fetch(out, fetch),
        Message::Fetched(fetched) => write_fetched(out, fetched),
        Message::CheckpointPart(part) => write_checkpoint_part(out, part),
        Message::EntryAsk { place } => out.put_u64_le(place.0),
        Message::EntryRead(read) => write_entry_read(out, read),
        Message::Follow => (),
        Message::Table(table) => write_table(out, table),
        Message::MoveOrder(order) => write_move_order(out, order),
        Message::MoveTold(told) => write_move_told(out, told),
        Message::MoveFileAsk(ask) => write_move_file_ask(out, ask),
        Message::MoveFilePart(part) => write_move_file_part(out, part),
        Message::Recover { generation } => out.put_u64_le(generation.0),
        Message::Recorded(recorded) => write_recorded(out, recorded),
        Message::Hello(_)
        | Message::Welcome(_)
        | Message::Refused(_)
        | Message::Ping
        | Message::Pong { .. }
        | Message::Goaway
        | Message::Request { .. }
        | Message::Receipts(_)
        | Message::Rows { .. }
        | Message::StatusAsk
        | Message::StatusTold { .. }
        | Message::AuditAsk
        | Message::AuditTold { .. }
        | Message::ClusterAsk(_)
        | Message::ClusterTold { .. } => unreachable!("written by write_body()"),
    }
}

impl Message<'_> {
    /// Writes it as one whole frame under a header that has nothing but the kind.
    pub fn write(&self, out: &mut BytesMut) {
        write_message(out, Header::bare(self.kind()), self);
    }

    /// Writes it as one whole frame that answers `request`, or asks under that number.
    pub fn write_for(&self, out: &mut BytesMut, request: u64) {
        write_message(out, Header::answer(self.kind(), request), self);
    }
}

/// Writes the head of an append frame whose block follows from another buffer, uncopied.
///
/// The bytes of the frame are those written here and then exactly `append.block`.
pub fn write_append_head(out: &mut BytesMut, append: &Append<'_>) {
    let start = begin(out, Header::bare(FrameKind::Append));
    put_append(out, append);
    finish_with(out, start, append.block);
}

/// Writes one frame of rows.
pub fn write_rows(out: &mut BytesMut, request: u64, index: u16, rows: &[Row]) {
    let start = begin(out, Header::answer(FrameKind::Rows, request));
    put_row_head(out, rows.len(), index);
    for row in rows {
        out.put_u32_le(row.currency);
        out.put_u32_le(row.flags);
        out.put_i64_le(row.available);
        for field in [
            row.held,
            row.outgoing,
            row.floor,
            row.cap,
            row.version,
            row.place.0,
        ] {
            out.put_u64_le(field);
        }
    }
    finish(out, start);
}

/// Which part of an audit's answer a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditPart {
    /// Another frame follows.
    More,
    /// The answer is complete.
    Last,
}

/// Writes one frame of the audit, at most 4,096 rows.
pub fn write_audit(out: &mut BytesMut, request: u64, rows: &[AuditRow], part: AuditPart) {
    let mut header = Header::answer(FrameKind::AuditTold, request);
    header.flags = match part {
        AuditPart::More => FLAG_MORE,
        AuditPart::Last => 0,
    };
    let start = begin(out, header);
    put_list_count(out, rows.len(), AUDIT_ROW_COUNT_MAX);
    for row in rows {
        out.put_u32_le(row.currency);
        out.put_u32_le(0);
        out.put_u64_le(row.account_count);
        for sum in [row.issued, row.burned, row.sent, row.received, row.returned] {
            out.put_u128_le(sum);
        }
        for sum in [
            row.adopted_in,
            row.adopted_out,
            row.available,
            row.held,
            row.difference,
        ] {
            out.put_i128_le(sum);
        }
    }
    finish(out, start);
}

fn put_row_head(out: &mut BytesMut, count: usize, index: u16) {
    put_count(out, count, LIST_ROW_COUNT_MAX);
    out.put_u16_le(index);
    out.put_u16_le(0);
}

/// A request frame that is being filled operation by operation.
#[derive(Debug)]
pub struct RequestWriter {
    start: usize,
    count: u32,
}

impl RequestWriter {
    /// Begins a request of `deadline_ms` from now on.
    pub fn begin(out: &mut BytesMut, request: u64, epoch: RingEpoch, deadline_ms: u32) -> Self {
        let start = begin(out, Header::answer(FrameKind::Request, request).at(epoch));
        out.put_u32_le(0);
        out.put_u32_le(deadline_ms);
        Self { start, count: 0 }
    }

    /// Adds one operation. Panics behind the last one that fits in a request.
    pub fn push(&mut self, out: &mut BytesMut, operation: &[u8; OPERATION_SIZE]) {
        assert!(self.count < BATCH_COUNT_MAX, "the batch is full");
        out.put_slice(operation);
        self.count += 1;
    }

    /// How many operations there are.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Completes the frame.
    pub fn finish(self, out: &mut BytesMut) {
        finish_list(out, self.start, self.count);
    }
}

/// A frame of receipts that is being filled one by one.
#[derive(Debug)]
pub struct ReceiptsWriter {
    start: usize,
    count: u32,
}

impl ReceiptsWriter {
    /// Begins an answer to `request`.
    pub fn begin(out: &mut BytesMut, request: u64, epoch: RingEpoch) -> Self {
        let start = begin(out, Header::answer(FrameKind::Receipts, request).at(epoch));
        out.put_bytes(0, 8);
        Self { start, count: 0 }
    }

    /// Adds one receipt. Panics behind the last one that fits in a frame.
    pub fn push(&mut self, out: &mut BytesMut, receipt: &Receipt) {
        assert!(self.count < BATCH_COUNT_MAX, "the frame is full");
        out.put_slice(&receipt_bytes(receipt));
        self.count += 1;
    }

    /// How many receipts there are.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Completes the frame.
    pub fn finish(self, out: &mut BytesMut) {
        finish_list(out, self.start, self.count);
    }
}

/// One store of the whole record: most bytes that leave a front are receipts.
fn receipt_bytes(receipt: &Receipt) -> [u8; RECEIPT_SIZE] {
    fn put<const N: usize>(bytes: &mut [u8; RECEIPT_SIZE], at: usize, field: [u8; N]) {
        bytes[at..at + N].copy_from_slice(&field);
    }
    let mut bytes = [0; RECEIPT_SIZE];
    put(&mut bytes, receipt_at::INDEX, receipt.index.to_le_bytes());
    put(
        &mut bytes,
        receipt_at::CODE,
        (receipt.code as u16).to_le_bytes(),
    );
    put(&mut bytes, receipt_at::FLAGS, receipt.flags.0.to_le_bytes());
    put(
        &mut bytes,
        receipt_at::AVAILABLE,
        receipt.available.to_le_bytes(),
    );
    put(&mut bytes, receipt_at::HELD, receipt.held.to_le_bytes());
    put(
        &mut bytes,
        receipt_at::VERSION,
        receipt.version.to_le_bytes(),
    );
    put(&mut bytes, receipt_at::PLACE, receipt.place.0.to_le_bytes());
    put(&mut bytes, receipt_at::AMOUNT, receipt.amount.to_le_bytes());
    bytes
}

fn write_hello(out: &mut BytesMut, hello: &Hello) {
    out.put_u32_le(HELLO_MAGIC);
    out.put_u16_le(hello.version_min);
    out.put_u16_le(hello.version_max);
    out.put_u8(hello.role as u8);
    out.put_bytes(0, 3);
    out.put_u32_le(hello.node.map_or(0, NodeId::get));
    out.put_u128_le(hello.cluster.map_or(0, ClusterId::get));
    out.put_u128_le(hello.incarnation.get());
}

fn write_welcome(out: &mut BytesMut, welcome: &Welcome) {
    out.put_u16_le(welcome.version);
    out.put_u8(welcome.role as u8);
    out.put_bytes(0, 5);
    out.put_u128_le(welcome.cluster.get());
    out.put_u64_le(welcome.time_ms);
    out.put_u32_le(welcome.frame_size_max);
    out.put_u32_le(welcome.batch_count_max);
    out.put_u32_le(welcome.deadline_ms_max);
    out.put_u32_le(welcome.frames_in_flight_max);
}

fn write_refused(out: &mut BytesMut, refused: &Refused<'_>) {
    out.put_u16_le(refused.code as u16);
    out.put_u16_le(refused.version_min);
    out.put_u16_le(refused.version_max);
    out.put_u16_le(0);
    let mut length = refused
        .text
        .len()
        .min(to_usize(u64::from(REFUSAL_TEXT_SIZE_MAX)));
    while !refused.text.is_char_boundary(length) {
        length -= 1;
    }
    put_text(out, &refused.text[..length], REFUSAL_TEXT_SIZE_MAX);
}

fn write_register(out: &mut BytesMut, register: &Register<'_>) {
    out.put_u32_le(register.node.get());
    out.put_u16_le(register.log.map_or(0, LogNumber::get));
    out.put_u8(u8::from(register.join.is_some()));
    out.put_u8(0);
    out.put_u128_le(register.copy);
    out.put_u64_le(register.generation.0);
    out.put_u64_le(register.term.0);
    out.put_u32_le(register.ring_epoch.0);
    out.put_u32_le(register.join.unwrap_or(0));
    put_end(out, &register.end);
    out.put_u64_le(register.committed.0);
    put_address(out, Some(register.address));
    put_list_count(out, register.terms.len(), TERM_START_COUNT_MAX);
    out.put_slice(register.terms.bytes());
}

fn write_granted(out: &mut BytesMut, granted: &Granted<'_>) {
    put_log(out, granted.log, 2);
    out.put_u32_le(granted.ring_epoch.0);
    out.put_u64_le(granted.term.0);
    out.put_u64_le(granted.generation.0);
    out.put_u128_le(granted.ring_key);
    out.put_u128_le(granted.copy);
    put_end(out, &granted.end);
    out.put_u64_le(granted.first_offset);
    out.put_u64_le(granted.checkpoint_size);
    out.put_u64_le(granted.segment_size);
    out.put_u64_le(granted.clock_ms);
    put_list_count(out, granted.terms.len(), TERM_START_COUNT_MAX);
    out.put_slice(granted.terms.bytes());
}

fn put_append(out: &mut BytesMut, append: &Append<'_>) {
    put_log(out, append.log, 6);
    out.put_u64_le(append.term.0);
    out.put_u64_le(append.committed.0);
}

fn write_appended(out: &mut BytesMut, appended: &Appended) {
    put_log(out, appended.log, 6);
    out.put_u64_le(appended.term.0);
    out.put_u64_le(appended.through.0);
    out.put_u64_le(appended.clock_ms);
    out.put_u64_le(appended.free_size);
}

fn write_beat(out: &mut BytesMut, beat: &Beat) {
    out.put_u64_le(beat.nonce);
    out.put_u64_le(beat.term.0);
    out.put_u64_le(beat.applied.0);
    out.put_u64_le(beat.committed.0);
    out.put_u64_le(beat.account_count);
    out.put_u64_le(beat.id_count);
    out.put_u64_le(beat.horizon_ms);
    out.put_u64_le(beat.free_size);
    out.put_u128_le(beat.digest);
    out.put_u64_le(beat.memory_size);
    out.put_u8(beat.phase);
    out.put_bytes(0, 7);
}

fn write_confirmed(out: &mut BytesMut, confirmed: &Confirmed) {
    out.put_u64_le(confirmed.nonce);
    out.put_u64_le(confirmed.term.0);
    out.put_u64_le(confirmed.clock_ms);
    out.put_u64_le(confirmed.free_size);
}

fn write_fetch(out: &mut BytesMut, fetch: &Fetch) {
    put_log(out, fetch.log, 2);
    out.put_u32_le(fetch.size_max);
    out.put_u64_le(fetch.offset);
}

fn write_fetched(out: &mut BytesMut, fetched: &Fetched<'_>) {
    put_log(out, fetched.log, 6);
    out.put_u64_le(fetched.offset);
    out.put_slice(fetched.blocks);
}

fn write_checkpoint_part(out: &mut BytesMut, part: &CheckpointPart<'_>) {
    put_log(out, part.log, 6);
    out.put_u64_le(part.size);
    out.put_u64_le(part.offset);
    out.put_slice(part.bytes);
}

fn write_cluster_ask(out: &mut BytesMut, ask: &ClusterAsk) {
    out.put_u8(ask.command as u8);
    out.put_u8(u8::from(ask.dry_run));
    out.put_u16_le(0);
    out.put_u32_le(ask.node.map_or(0, NodeId::get));
    out.put_u32_le(ask.weight);
    out.put_u32_le(0);
    out.put_u64_le(ask.number.0);
}

fn write_move_order(out: &mut BytesMut, order: &MoveOrder<'_>) {
    out.put_u8(order.step as u8);
    out.put_u8(0);
    out.put_u16_le(order.peer_log.get());
    out.put_u32_le(order.peer.get());
    out.put_u64_le(order.number.0);
    out.put_u64_le(order.image.0);
    out.put_u32_le(order.ring_epoch.0);
    out.put_u32_le(0);
    out.put_u64_le(order.place.0);
    out.put_u64_le(order.image_size);
    out.put_u64_le(order.image_digest);
    out.put_u64_le(order.image_offset);
    out.put_u128_le(order.slot_digest);
    out.put_u64_le(order.account_count);
    out.put_u64_le(order.horizon_ms);
    out.put_u64_le(order.time.0);
    put_list_count(out, order.ranges.len(), SLOT_COUNT);
    out.put_slice(order.ranges.bytes());
}

fn write_move_told(out: &mut BytesMut, told: &MoveTold) {
    out.put_u8(told.step as u8);
    out.put_bytes(0, 7);
    out.put_u64_le(told.number.0);
    out.put_u64_le(told.seq.0);
}

fn write_move_file_ask(out: &mut BytesMut, ask: &MoveFileAsk) {
    out.put_u64_le(ask.image.0);
    out.put_u64_le(ask.offset);
    out.put_u32_le(ask.size_max);
    out.put_u32_le(0);
}

fn write_move_file_part(out: &mut BytesMut, part: &MoveFilePart<'_>) {
    out.put_u64_le(part.image.0);
    out.put_u64_le(part.size);
    out.put_u64_le(part.offset);
    out.put_slice(part.bytes);
}

fn write_recorded(out: &mut BytesMut, recorded: &Recorded<'_>) {
    out.put_u64_le(recorded.generation.0);
    out.put_u128_le(recorded.ring_key);
    out.put_u64_le(recorded.segment_size);
    out.put_u64_le(recorded.first_offset);
    out.put_u64_le(recorded.checkpoint_size);
    out.put_u16_le(recorded.log_max);
    out.put_u16_le(0);
    put_list_count(out, recorded.members.len(), NODE_COUNT_MAX);
    out.put_slice(recorded.members.bytes());
}

fn write_entry_read(out: &mut BytesMut, read: &EntryRead) {
    out.put_u64_le(read.place.0);
    if let Some(entry) = &read.entry {
        out.put_slice(entry);
    }
}

fn write_table(out: &mut BytesMut, table: &Table<'_>) {
    out.put_u32_le(table.ring_epoch.0);
    out.put_u32_le(0);
    out.put_u64_le(table.generation.0);
    out.put_u128_le(table.ring_key);
    put_list_count(out, table.members.len(), NODE_COUNT_MAX);
    out.put_slice(table.members.bytes());
    put_list_count(out, table.runs.len(), SLOT_COUNT);
    out.put_slice(table.runs.bytes());
}

/// The bytes of a list of members, for [`super::Members`].
pub fn put_member(out: &mut BytesMut, member: &Member) {
    out.put_u32_le(member.node.get());
    out.put_u16_le(member.log.get());
    out.put_u8(member.state as u8);
    out.put_u8(0);
    out.put_u64_le(member.term.0);
    out.put_u128_le(member.incarnation);
    put_address(out, member.address);
    out.put_bytes(0, MEMBER_SIZE - 32 - ADDRESS_SIZE);
}

/// The bytes of a list of slot runs, for [`super::SlotRuns`].
pub fn put_slot_run(out: &mut BytesMut, run: &SlotRun) {
    out.put_u16_le(run.slots.first.0);
    out.put_u16_le(run.slots.last.0);
    out.put_u32_le(run.node);
}

/// The bytes of a list of slot ranges, for [`super::SlotRanges`].
pub fn put_slot_range(out: &mut BytesMut, range: SlotRange) {
    out.put_u16_le(range.first.0);
    out.put_u16_le(range.last.0);
}

/// The bytes of one node's number, for [`super::NodeIds`].
pub fn put_node_id(out: &mut BytesMut, node: NodeId) {
    out.put_u32_le(node.get());
}

/// The bytes of a term history, for [`super::TermStarts`]: the newest 1,024.
pub fn put_term_starts(out: &mut BytesMut, terms: &[TermStart]) {
    let max = to_usize(u64::from(TERM_START_COUNT_MAX));
    for start in &terms[terms.len().saturating_sub(max)..] {
        out.put_u64_le(start.term.0);
        out.put_u64_le(start.seq.0);
    }
}

fn put_log(out: &mut BytesMut, log: LogNumber, padding: usize) {
    out.put_u16_le(log.get());
    out.put_bytes(0, padding);
}

fn put_end(out: &mut BytesMut, end: &LogEnd) {
    for field in [end.seq.0, end.term.0, end.chain, end.offset, end.time.0] {
        out.put_u64_le(field);
    }
}

fn put_text(out: &mut BytesMut, text: &str, size_max: u32) {
    put_count(out, text.len(), size_max);
    out.put_slice(text.as_bytes());
}

/// Port 0 stands for "no address" on the wire, so no real address may have it.
fn put_address(out: &mut BytesMut, address: Option<SocketAddr>) {
    let Some(address) = address else {
        out.put_bytes(0, ADDRESS_SIZE);
        return;
    };
    assert!(
        address.port() != 0,
        "{address} is not where anybody listens"
    );
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    out.put_slice(&ip.octets());
    out.put_u16_le(address.port());
    out.put_bytes(0, 6);
}
