//! Any message from a source of choices: a seeded generator, or the bytes of a fuzzer.
//!
//! Small and edge values come often, since that is where codecs break.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BytesMut};

use crate::limits::{BATCH_COUNT_MAX, LIST_ROW_COUNT_MAX};
use crate::model::{
    ClusterId, ENTRY_SIZE, Generation, Incarnation, LogEnd, LogNumber, LogTime, MoveNumber, NodeId,
    OPERATION_SIZE, Place, Receipt, ReceiptFlags, ResultCode, RingEpoch, Row, Seq, Slot, SlotRange,
    Term, TermStart, to_usize,
};
use crate::protocol::{
    Append, Appended, AuditPart, AuditRow, AuditRows, Beat, CheckpointPart, ClusterAsk,
    ClusterCommand, Confirmed, EntryRead, Fetch, Fetched, FrameKind, Granted, HEADER_SIZE, Hello,
    Member, MemberState, Members, Message, MoveFileAsk, MoveFilePart, MoveOrder, MoveStep,
    MoveTold, NodeIds, Operations, PeerRole, Receipts, ReceiptsWriter, Recorded, RefusalCode,
    Refused, Register, Rows, SlotRanges, SlotRun, SlotRuns, Table, TermStarts, Welcome, put_member,
    put_node_id, put_slot_range, put_slot_run, put_term_starts, write_audit, write_rows,
};

/// Records in a drawn list at most.
const COUNT_MAX: u64 = 5;

/// A source of choices.
pub struct Draw<'a>(&'a mut dyn FnMut() -> u64);

impl std::fmt::Debug for Draw<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Draw")
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "any bits of a drawn number are as good as others"
)]
impl<'a> Draw<'a> {
    /// Draws from `next`, which may give the same number for ever.
    pub fn new(next: &'a mut dyn FnMut() -> u64) -> Self {
        Self(next)
    }

    /// Any number, edges often.
    pub fn u64(&mut self) -> u64 {
        let number = (self.0)();
        match number >> 61 {
            0 => number & 3,
            1 => u64::MAX - (number & 1),
            2 => u64::MAX >> (number & 63),
            _ => number,
        }
    }

    /// Any number, edges often.
    pub fn u32(&mut self) -> u32 {
        self.u64() as u32
    }

    /// Any number, edges often.
    pub fn u16(&mut self) -> u16 {
        self.u64() as u16
    }

    fn u128(&mut self) -> u128 {
        (u128::from(self.u64()) << 64) | u128::from(self.u64())
    }

    fn i128(&mut self) -> i128 {
        self.u128().cast_signed()
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: u64) -> u64 {
        (self.0)() % bound
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    /// One of a list that is not empty.
    pub fn one_of<'b, T>(&mut self, list: &'b [T]) -> &'b T {
        &list[to_usize(self.below(list.len() as u64))]
    }

    fn blob(&mut self, size_max: u64) -> Vec<u8> {
        (0..self.below(size_max + 1))
            .map(|_| self.u64() as u8)
            .collect()
    }

    fn node(&mut self) -> NodeId {
        NodeId::new(self.u32().max(1)).unwrap()
    }

    fn log(&mut self) -> LogNumber {
        LogNumber::new(self.u16().max(1)).unwrap()
    }

    fn incarnation(&mut self) -> Incarnation {
        Incarnation::new(self.wide()).unwrap()
    }

    fn cluster(&mut self) -> ClusterId {
        ClusterId::new(self.wide()).unwrap()
    }

    /// Neither 0 nor all ones.
    fn wide(&mut self) -> u128 {
        self.u128().clamp(1, u128::MAX - 1)
    }

    fn address(&mut self) -> SocketAddr {
        let port = self.u16().max(1);
        let ip = if self.coin() {
            IpAddr::V4(Ipv4Addr::from(self.u32()))
        } else {
            // An IPv4 address in IPv6 clothes reads as what it is.
            IpAddr::V6(Ipv6Addr::from(self.u128())).to_canonical()
        };
        SocketAddr::new(ip, port)
    }

    fn end(&mut self) -> LogEnd {
        LogEnd {
            seq: Seq(self.u64()),
            term: Term(self.u64()),
            chain: self.u64(),
            offset: self.u64(),
            time: LogTime(self.u64()),
        }
    }

    fn receipt(&mut self) -> Receipt {
        Receipt {
            index: self.u16() % BATCH_COUNT_MAX as u16,
            code: *self.one_of(ResultCode::ALL),
            flags: ReceiptFlags(self.u16() & ReceiptFlags::KNOWN.0),
            available: self.u64().cast_signed(),
            held: self.u64(),
            version: self.u64(),
            place: Place(self.u64()),
            amount: self.u64(),
        }
    }

    fn row(&mut self) -> Row {
        Row {
            currency: self.u32().max(1),
            flags: self.u32() & 1,
            available: self.u64().cast_signed(),
            held: self.u64(),
            outgoing: self.u64(),
            floor: self.u64(),
            cap: self.u64(),
            version: self.u64(),
            place: Place(self.u64()),
        }
    }

    fn audit_row(&mut self) -> AuditRow {
        AuditRow {
            currency: self.u32().max(1),
            account_count: self.u64(),
            issued: self.u128(),
            burned: self.u128(),
            sent: self.u128(),
            received: self.u128(),
            returned: self.u128(),
            adopted_in: self.i128(),
            adopted_out: self.i128(),
            available: self.i128(),
            held: self.i128(),
            difference: self.i128(),
        }
    }

    fn member(&mut self) -> Member {
        Member {
            node: self.node(),
            log: self.log(),
            state: *self.one_of(&[MemberState::Away, MemberState::Present]),
            term: Term(self.u64()),
            incarnation: self.u128(),
            address: if self.coin() {
                Some(self.address())
            } else {
                None
            },
        }
    }

    fn slot_run(&mut self) -> SlotRun {
        let (a, b) = (Slot(self.u16()), Slot(self.u16()));
        SlotRun {
            slots: SlotRange {
                first: a.min(b),
                last: a.max(b),
            },
            node: self.u32(),
        }
    }
}

/// What a drawn message borrows.
#[derive(Debug, Default)]
pub(super) struct Parts {
    first: BytesMut,
    second: BytesMut,
    text: String,
}

/// Any message of `kind`.
pub(super) fn message<'a>(
    kind: FrameKind,
    draw: &mut Draw<'_>,
    parts: &'a mut Parts,
) -> Message<'a> {
    match kind {
        FrameKind::Hello => Message::Hello(hello(draw)),
        FrameKind::Welcome => Message::Welcome(welcome(draw)),
        FrameKind::Refused => Message::Refused(refused(draw, parts)),
        FrameKind::Ping => Message::Ping,
        FrameKind::Pong => Message::Pong {
            time_ms: draw.u64(),
        },
        FrameKind::Goaway => Message::Goaway,
        FrameKind::Request => request(draw, parts),
        FrameKind::Receipts => receipts(draw, parts),
        FrameKind::Rows => rows(draw, parts),
        FrameKind::StatusAsk => Message::StatusAsk,
        FrameKind::StatusTold => {
            parts.text = text(draw, 40);
            Message::StatusTold { json: &parts.text }
        }
        FrameKind::AuditAsk => Message::AuditAsk,
        FrameKind::AuditTold => audit(draw, parts),
        FrameKind::ClusterAsk => Message::ClusterAsk(cluster_ask(draw)),
        FrameKind::ClusterTold => {
            parts.text = text(draw, 40);
            Message::ClusterTold { json: &parts.text }
        }
        FrameKind::Register
        | FrameKind::Granted
        | FrameKind::Append
        | FrameKind::Appended
        | FrameKind::Resend
        | FrameKind::Beat
        | FrameKind::Confirmed
        | FrameKind::Fetch
        | FrameKind::Fetched
        | FrameKind::CheckpointAsk
        | FrameKind::CheckpointPart
        | FrameKind::EntryAsk
        | FrameKind::EntryRead
        | FrameKind::Follow
        | FrameKind::Table
        | FrameKind::MoveOrder
        | FrameKind::MoveTold
        | FrameKind::MoveFileAsk
        | FrameKind::MoveFilePart
        | FrameKind::Recover
        | FrameKind::Recorded => link_message(kind, draw, parts),
    }
}

fn link_message<'a>(kind: FrameKind, draw: &mut Draw<'_>, parts: &'a mut Parts) -> Message<'a> {
    match kind {
        FrameKind::Register => register(draw, parts),
        FrameKind::Granted => granted(draw, parts),
        FrameKind::Append => append(draw, parts),
        FrameKind::Appended => Message::Appended(Appended {
            log: draw.log(),
            term: Term(draw.u64()),
            through: Seq(draw.u64()),
            clock_ms: draw.u64(),
            free_size: draw.u64(),
        }),
        FrameKind::Resend => Message::Resend {
            log: draw.log(),
            end: draw.end(),
        },
        FrameKind::Beat => Message::Beat(beat(draw)),
        FrameKind::Confirmed => Message::Confirmed(Confirmed {
            nonce: draw.u64(),
            term: Term(draw.u64()),
            clock_ms: draw.u64(),
            free_size: draw.u64(),
        }),
        FrameKind::Fetch => Message::Fetch(fetch(draw)),
        FrameKind::Fetched => {
            parts.first.extend_from_slice(&draw.blob(300));
            Message::Fetched(Fetched {
                log: draw.log(),
                offset: draw.u64(),
                blocks: &parts.first,
            })
        }
        FrameKind::CheckpointAsk => Message::CheckpointAsk(fetch(draw)),
        FrameKind::CheckpointPart => checkpoint_part(draw, parts),
        FrameKind::EntryAsk => Message::EntryAsk {
            place: Place(draw.u64()),
        },
        FrameKind::EntryRead => Message::EntryRead(entry_read(draw)),
        FrameKind::Follow => Message::Follow,
        FrameKind::Table => table(draw, parts),
        FrameKind::MoveOrder => move_order(draw, parts),
        FrameKind::MoveTold => Message::MoveTold(move_told(draw)),
        FrameKind::MoveFileAsk => Message::MoveFileAsk(MoveFileAsk {
            image: MoveNumber(draw.u64()),
            offset: draw.u64(),
            size_max: draw.u32(),
        }),
        FrameKind::MoveFilePart => move_file_part(draw, parts),
        FrameKind::Recover => Message::Recover {
            generation: Generation(draw.u64()),
        },
        FrameKind::Recorded => recorded(draw, parts),
        FrameKind::Hello
        | FrameKind::Welcome
        | FrameKind::Refused
        | FrameKind::Ping
        | FrameKind::Pong
        | FrameKind::Goaway
        | FrameKind::Request
        | FrameKind::Receipts
        | FrameKind::Rows
        | FrameKind::StatusAsk
        | FrameKind::StatusTold
        | FrameKind::AuditAsk
        | FrameKind::AuditTold
        | FrameKind::ClusterAsk
        | FrameKind::ClusterTold => unreachable!("drawn by message()"),
    }
}

fn append<'a>(draw: &mut Draw<'_>, parts: &'a mut Parts) -> Message<'a> {
    parts.first.extend_from_slice(&draw.blob(300));
    Message::Append(Append {
        log: draw.log(),
        term: Term(draw.u64()),
        committed: Seq(draw.u64()),
        block: &parts.first,
    })
}

fn checkpoint_part<'a>(draw: &mut Draw<'_>, parts: &'a mut Parts) -> Message<'a> {
    parts.first.extend_from_slice(&draw.blob(300));
    Message::CheckpointPart(CheckpointPart {
        log: draw.log(),
        size: draw.u64(),
        offset: draw.u64(),
        bytes: &parts.first,
    })
}

fn move_told(draw: &mut Draw<'_>) -> MoveTold {
    MoveTold {
        step: *draw.one_of(MOVE_STEPS),
        number: MoveNumber(draw.u64()),
        seq: Seq(draw.u64()),
    }
}

fn move_file_part<'a>(draw: &mut Draw<'_>, parts: &'a mut Parts) -> Message<'a> {
    parts.first.extend_from_slice(&draw.blob(300));
    Message::MoveFilePart(MoveFilePart {
        image: MoveNumber(draw.u64()),
        size: draw.u64(),
        offset: draw.u64(),
        bytes: &parts.first,
    })
}

fn recorded<'a>(draw: &mut Draw<'_>, parts: &'a mut Parts) -> Message<'a> {
    for _ in 0..draw.u64() % COUNT_MAX {
        put_node_id(&mut parts.first, draw.node());
    }
    Message::Recorded(Recorded {
        generation: Generation(draw.u64()),
        ring_key: draw.u128(),
        segment_size: draw.u64(),
        first_offset: draw.u64(),
        checkpoint_size: draw.u64(),
        log_max: draw.u16(),
        members: NodeIds::new(&parts.first).expect("whole records"),
    })
}

fn hello(draw: &mut Draw<'_>) -> Hello {
    let (a, b) = (draw.u16().max(1), draw.u16().max(1));
    let role = *draw.one_of(&[
        PeerRole::Client,
        PeerRole::Front,
        PeerRole::Node,
        PeerRole::Backup,
    ]);
    Hello {
        version_min: a.min(b),
        version_max: a.max(b),
        role,
        cluster: if draw.coin() {
            Some(draw.cluster())
        } else {
            None
        },
        node: if role == PeerRole::Node {
            Some(draw.node())
        } else {
            None
        },
        incarnation: draw.incarnation(),
    }
}

fn welcome(draw: &mut Draw<'_>) -> Welcome {
    Welcome {
        version: draw.u16(),
        role: *draw.one_of(&[PeerRole::Front, PeerRole::Node, PeerRole::Backup]),
        cluster: draw.cluster(),
        time_ms: draw.u64(),
        frame_size_max: draw.u32(),
        batch_count_max: draw.u32(),
        deadline_ms_max: draw.u32(),
        frames_in_flight_max: draw.u32(),
    }
}

fn text(draw: &mut Draw<'_>, size_max: u64) -> String {
    (0..draw.below(size_max))
        .map(|_| *draw.one_of(&['a', '"', '{', '\u{e9}', '\u{20ac}']))
        .collect()
}

fn refused<'a>(draw: &mut Draw<'_>, parts: &'a mut Parts) -> Refused<'a> {
    parts.text = text(draw, 100);
    Refused {
        code: *draw.one_of(RefusalCode::ALL),
        version_min: draw.u16(),
        version_max: draw.u16(),
        text: &parts.text,
    }
}

/// Operations are any bytes here, some with a good kind: they are checked one by one.
fn request<'a>(draw: &mut Draw<'_>, parts: &'a mut Parts) -> Message<'a> {
    for _ in 0..draw.below(COUNT_MAX) {
        let at = parts.first.len();
        for _ in 0..OPERATION_SIZE / size_of::<u64>() {
            let word = draw.u64();
            parts.first.extend_from_slice(&word.to_le_bytes());
        }
        if draw.coin() {
            parts.first[at] = *draw.one_of(&[1, 2, 3, 4, 5, 32, 33, 35]);
            parts.first[at + 1] = 0;
            parts.first[at + 12..at + 16].fill(0);
        }
    }
    Message::Request {
        deadline_ms: draw.u32(),
        operations: Operations::new(&parts.first).unwrap(),
    }
}

/// The records of a frame whose body is a list with its head.
fn keep_list(parts: &mut Parts) -> &[u8] {
    parts.first.advance(HEADER_SIZE + 8);
    &parts.first
}

fn receipts<'a>(draw: &mut Draw<'_>, parts: &'a mut Parts) -> Message<'a> {
    let mut writer = ReceiptsWriter::begin(&mut parts.first, 0, RingEpoch(0));
    for _ in 0..draw.below(COUNT_MAX) {
        writer.push(&mut parts.first, &draw.receipt());
    }
    writer.finish(&mut parts.first);
    Message::Receipts(Receipts::new(keep_list(parts)).unwrap())
}

fn rows<'a>(draw: &mut Draw<'_>, parts: &'a mut Parts) -> Message<'a> {
    let count = draw.below(COUNT_MAX).min(u64::from(LIST_ROW_COUNT_MAX));
    let rows: Vec<Row> = (0..count).map(|_| draw.row()).collect();
    write_rows(&mut parts.first, 0, 0, &rows);
    Message::Rows {
        index: draw.u16(),
        rows: Rows::new(keep_list(parts)).unwrap(),
    }
}

fn audit<'a>(draw: &mut Draw<'_>, parts: &'a mut Parts) -> Message<'a> {
    let rows: Vec<AuditRow> = (0..draw.below(COUNT_MAX))
        .map(|_| draw.audit_row())
        .collect();
    write_audit(&mut parts.first, 0, &rows, AuditPart::Last);
    Message::AuditTold {
        rows: AuditRows::new(keep_list(parts)).unwrap(),
    }
}

fn terms<'a>(draw: &mut Draw<'_>, parts: &'a mut Parts) -> TermStarts<'a> {
    let terms: Vec<TermStart> = (0..draw.below(COUNT_MAX))
        .map(|_| TermStart {
            term: Term(draw.u64()),
            seq: Seq(draw.u64()),
        })
        .collect();
    put_term_starts(&mut parts.first, &terms);
    TermStarts::new(&parts.first).unwrap()
}

fn register<'a>(draw: &mut Draw<'_>, parts: &'a mut Parts) -> Message<'a> {
    Message::Register(Register {
        node: draw.node(),
        log: LogNumber::new(draw.u16()),
        copy: draw.u128(),
        generation: Generation(draw.u64()),
        ring_epoch: RingEpoch(draw.u32()),
        term: Term(draw.u64()),
        end: draw.end(),
        committed: Seq(draw.u64()),
        address: draw.address(),
        join: if draw.coin() { Some(draw.u32()) } else { None },
        terms: terms(draw, parts),
    })
}

fn granted<'a>(draw: &mut Draw<'_>, parts: &'a mut Parts) -> Message<'a> {
    Message::Granted(Granted {
        log: draw.log(),
        term: Term(draw.u64()),
        generation: Generation(draw.u64()),
        ring_epoch: RingEpoch(draw.u32()),
        ring_key: draw.u128(),
        copy: draw.u128(),
        end: draw.end(),
        first_offset: draw.u64(),
        checkpoint_size: draw.u64(),
        segment_size: draw.u64(),
        clock_ms: draw.u64(),
        terms: terms(draw, parts),
    })
}

fn beat(draw: &mut Draw<'_>) -> Beat {
    Beat {
        nonce: draw.u64(),
        term: Term(draw.u64()),
        applied: Seq(draw.u64()),
        committed: Seq(draw.u64()),
        account_count: draw.u64(),
        id_count: draw.u64(),
        horizon_ms: draw.u64(),
        free_size: draw.u64(),
        digest: draw.u128(),
        memory_size: draw.u64(),
        phase: *draw.one_of(&[0, 1, 2]),
    }
}

fn fetch(draw: &mut Draw<'_>) -> Fetch {
    Fetch {
        log: draw.log(),
        offset: draw.u64(),
        size_max: draw.u32(),
    }
}

const MOVE_STEPS: &[MoveStep] = &[
    MoveStep::HandOver,
    MoveStep::Adopt,
    MoveStep::Activate,
    MoveStep::Drop,
];

fn cluster_ask(draw: &mut Draw<'_>) -> ClusterAsk {
    ClusterAsk {
        command: *draw.one_of(&[
            ClusterCommand::Plan,
            ClusterCommand::Drain,
            ClusterCommand::Remove,
            ClusterCommand::Weight,
            ClusterCommand::Pause,
            ClusterCommand::Resume,
            ClusterCommand::Cancel,
            ClusterCommand::Add,
        ]),
        dry_run: draw.coin(),
        node: NodeId::new(draw.u32()),
        weight: draw.u32(),
        number: MoveNumber(draw.u64()),
    }
}

fn move_order<'a>(draw: &mut Draw<'_>, parts: &'a mut Parts) -> Message<'a> {
    for _ in 0..draw.below(COUNT_MAX) {
        let range = draw.slot_run().slots;
        put_slot_range(&mut parts.first, range);
    }
    Message::MoveOrder(MoveOrder {
        step: *draw.one_of(MOVE_STEPS),
        number: MoveNumber(draw.u64()),
        image: MoveNumber(draw.u64()),
        ring_epoch: RingEpoch(draw.u32()),
        peer: draw.node(),
        peer_log: draw.log(),
        place: Place(draw.u64()),
        image_size: draw.u64(),
        image_digest: draw.u64(),
        image_offset: draw.u64(),
        slot_digest: draw.u128(),
        account_count: draw.u64(),
        horizon_ms: draw.u64(),
        time: LogTime(draw.u64()),
        ranges: SlotRanges::new(&parts.first).unwrap(),
    })
}

fn entry_read(draw: &mut Draw<'_>) -> EntryRead {
    let mut entry = [0; ENTRY_SIZE];
    entry.fill_with(|| draw.u64().to_le_bytes()[0]);
    EntryRead {
        place: Place(draw.u64()),
        entry: if draw.coin() { Some(entry) } else { None },
    }
}

fn table<'a>(draw: &mut Draw<'_>, parts: &'a mut Parts) -> Message<'a> {
    for _ in 0..draw.below(COUNT_MAX) {
        put_member(&mut parts.first, &draw.member());
    }
    for _ in 0..draw.below(COUNT_MAX) {
        put_slot_run(&mut parts.second, &draw.slot_run());
    }
    Message::Table(Table {
        ring_epoch: RingEpoch(draw.u32()),
        generation: Generation(draw.u64()),
        ring_key: draw.u128(),
        members: Members::new(&parts.first).unwrap(),
        runs: SlotRuns::new(&parts.second).unwrap(),
    })
}
