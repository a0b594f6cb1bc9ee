//! Makes each message from the words of its vector, so that it can be compared with the bytes.

use bytes::BytesMut;
use counterfoil::model::{
    ClusterId, Generation, Incarnation, LogEnd, LogNumber, LogTime, MoveNumber, NodeId, Place,
    Receipt, ReceiptFlags, ResultCode, RingEpoch, Row, Seq, Slot, SlotRange, Term, TermStart,
};
use counterfoil::protocol::{
    Append, Appended, AuditPart, AuditRow, AuditRows, Beat, CheckpointPart, ClusterAsk,
    ClusterCommand, Confirmed, EntryRead, Fetch, Fetched, FrameKind, Granted, HEADER_SIZE, Hello,
    Member, MemberState, Members, Message, MoveFileAsk, MoveFilePart, MoveOrder, MoveStep,
    MoveTold, NodeIds, Operations, PeerRole, Receipts, ReceiptsWriter, Recorded, RefusalCode,
    Refused, Register, Rows, SlotRanges, SlotRun, SlotRuns, Table, TermStarts, Welcome, put_member,
    put_node_id, put_slot_range, put_slot_run, put_term_starts, write_audit, write_rows,
};

use super::document::Fields;
use super::operation_bytes;

/// What the message borrows.
#[derive(Debug, Default)]
pub(super) struct Parts {
    first: BytesMut,
    second: BytesMut,
    text: String,
}

fn role(name: &str) -> PeerRole {
    match name {
        "client" => PeerRole::Client,
        "front" => PeerRole::Front,
        "node" => PeerRole::Node,
        "backup" => PeerRole::Backup,
        _ => panic!("no role {name}"),
    }
}

fn log(fields: &mut Fields) -> LogNumber {
    LogNumber::new(fields.number("log")).unwrap()
}

fn node(fields: &mut Fields) -> Option<NodeId> {
    NodeId::new(fields.number("node"))
}

fn end(fields: &mut Fields) -> LogEnd {
    let mut end = Fields::of_record(&fields.text("end"));
    let read = LogEnd {
        seq: Seq(end.number("seq")),
        term: Term(end.number("term")),
        chain: end.number("chain"),
        offset: end.number("offset"),
        time: LogTime(end.number("time")),
    };
    end.finish();
    read
}

/// The message that the fields of a vector describe.
pub(super) fn message<'a>(
    kind: FrameKind,
    fields: &mut Fields,
    parts: &'a mut Parts,
) -> Message<'a> {
    match kind {
        FrameKind::Hello => Message::Hello(Hello {
            version_min: fields.number("version_min"),
            version_max: fields.number("version_max"),
            role: role(&fields.text("role")),
            cluster: ClusterId::new(fields.number("cluster")),
            node: node(fields),
            incarnation: Incarnation::new(fields.number("incarnation")).unwrap(),
        }),
        FrameKind::Welcome => Message::Welcome(Welcome {
            version: fields.number("version"),
            role: role(&fields.text("role")),
            cluster: ClusterId::new(fields.number("cluster")).unwrap(),
            time_ms: fields.number("time_ms"),
            frame_size_max: fields.number("frame_size_max"),
            batch_count_max: fields.number("batch_count_max"),
            deadline_ms_max: fields.number("deadline_ms_max"),
            frames_in_flight_max: fields.number("frames_in_flight_max"),
        }),
        FrameKind::Refused => refused(fields, parts),
        FrameKind::Ping => Message::Ping,
        FrameKind::Pong => Message::Pong {
            time_ms: fields.number("time_ms"),
        },
        FrameKind::Goaway => Message::Goaway,
        FrameKind::Request => request(fields, parts),
        FrameKind::Receipts => receipts(fields, parts),
        FrameKind::Rows => rows(fields, parts),
        FrameKind::StatusAsk => Message::StatusAsk,
        FrameKind::StatusTold => {
            parts.text = fields.text("json");
            Message::StatusTold { json: &parts.text }
        }
        FrameKind::AuditAsk => Message::AuditAsk,
        FrameKind::AuditTold => audit(fields, parts),
        FrameKind::ClusterAsk => cluster_ask(fields),
        FrameKind::ClusterTold => {
            parts.text = fields.text("json");
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
        | FrameKind::Recorded => link_message(kind, fields, parts),
    }
}

fn link_message<'a>(kind: FrameKind, fields: &mut Fields, parts: &'a mut Parts) -> Message<'a> {
    match kind {
        FrameKind::Register => register(fields, parts),
        FrameKind::Granted => granted(fields, parts),
        FrameKind::Append => append(fields, parts),
        FrameKind::Appended => Message::Appended(Appended {
            log: log(fields),
            term: Term(fields.number("term")),
            through: Seq(fields.number("through")),
            clock_ms: fields.number("clock_ms"),
            free_size: fields.number("free_size"),
        }),
        FrameKind::Resend => Message::Resend {
            log: log(fields),
            end: end(fields),
        },
        FrameKind::Beat => beat(fields),
        FrameKind::Confirmed => Message::Confirmed(Confirmed {
            nonce: fields.number("nonce"),
            term: Term(fields.number("term")),
            clock_ms: fields.number("clock_ms"),
            free_size: fields.number("free_size"),
        }),
        FrameKind::Fetch => Message::Fetch(fetch(fields)),
        FrameKind::Fetched => fetched(fields, parts),
        FrameKind::CheckpointAsk => Message::CheckpointAsk(fetch(fields)),
        FrameKind::CheckpointPart => checkpoint_part(fields, parts),
        FrameKind::EntryAsk => Message::EntryAsk {
            place: Place(fields.number("place")),
        },
        FrameKind::EntryRead => Message::EntryRead(EntryRead {
            place: Place(fields.number("place")),
            entry: fields.bytes("bytes").try_into().ok(),
        }),
        FrameKind::Follow => Message::Follow,
        FrameKind::Table => table(fields, parts),
        FrameKind::MoveOrder => move_order(fields, parts),
        FrameKind::MoveTold => Message::MoveTold(MoveTold {
            step: move_step(fields),
            number: MoveNumber(fields.number("number")),
            seq: Seq(fields.number("seq")),
        }),
        FrameKind::MoveFileAsk => Message::MoveFileAsk(MoveFileAsk {
            image: MoveNumber(fields.number("image")),
            offset: fields.number("offset"),
            size_max: fields.number("size_max"),
        }),
        FrameKind::MoveFilePart => move_file_part(fields, parts),
        FrameKind::Recover => Message::Recover {
            generation: Generation(fields.number("generation")),
        },
        FrameKind::Recorded => recorded(fields, parts),
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
        | FrameKind::ClusterTold => unreachable!("made by message()"),
    }
}

fn append<'a>(fields: &mut Fields, parts: &'a mut Parts) -> Message<'a> {
    parts.first.extend_from_slice(&fields.bytes("bytes"));
    Message::Append(Append {
        log: log(fields),
        term: Term(fields.number("term")),
        committed: Seq(fields.number("committed")),
        block: &parts.first,
    })
}

fn fetched<'a>(fields: &mut Fields, parts: &'a mut Parts) -> Message<'a> {
    parts.first.extend_from_slice(&fields.bytes("bytes"));
    Message::Fetched(Fetched {
        log: log(fields),
        offset: fields.number("offset"),
        blocks: &parts.first,
    })
}

fn checkpoint_part<'a>(fields: &mut Fields, parts: &'a mut Parts) -> Message<'a> {
    parts.first.extend_from_slice(&fields.bytes("bytes"));
    Message::CheckpointPart(CheckpointPart {
        log: log(fields),
        size: fields.number("size"),
        offset: fields.number("offset"),
        bytes: &parts.first,
    })
}

fn move_file_part<'a>(fields: &mut Fields, parts: &'a mut Parts) -> Message<'a> {
    parts.first.extend_from_slice(&fields.bytes("bytes"));
    Message::MoveFilePart(MoveFilePart {
        image: MoveNumber(fields.number("image")),
        size: fields.number("size"),
        offset: fields.number("offset"),
        bytes: &parts.first,
    })
}

fn recorded<'a>(fields: &mut Fields, parts: &'a mut Parts) -> Message<'a> {
    for number in fields.all("member") {
        put_node_id(
            &mut parts.first,
            NodeId::new(number.parse().unwrap()).unwrap(),
        );
    }
    Message::Recorded(Recorded {
        generation: Generation(fields.number("generation")),
        ring_key: fields.number("ring_key"),
        segment_size: fields.number("segment_size"),
        first_offset: fields.number("first_offset"),
        checkpoint_size: fields.number("checkpoint_size"),
        log_max: fields.number("log_max"),
        members: NodeIds::new(&parts.first).unwrap(),
    })
}

fn refused<'a>(fields: &mut Fields, parts: &'a mut Parts) -> Message<'a> {
    let code = fields.text("code");
    let code = RefusalCode::ALL.iter().find(|known| known.name() == code);
    parts.text = fields.text("text");
    Message::Refused(Refused {
        code: *code.unwrap(),
        version_min: fields.number("version_min"),
        version_max: fields.number("version_max"),
        text: &parts.text,
    })
}

fn request<'a>(fields: &mut Fields, parts: &'a mut Parts) -> Message<'a> {
    for name in fields.all("operation") {
        parts.first.extend_from_slice(&operation_bytes(&name));
    }
    Message::Request {
        deadline_ms: fields.number("deadline_ms"),
        operations: Operations::new(&parts.first).unwrap(),
    }
}

/// Takes the head of a frame away, so that its list is left.
fn keep_list(parts: &mut Parts) -> &[u8] {
    parts.first = parts.first.split_off(HEADER_SIZE + 8);
    &parts.first
}

fn receipts<'a>(fields: &mut Fields, parts: &'a mut Parts) -> Message<'a> {
    let mut writer = ReceiptsWriter::begin(&mut parts.first, 0, RingEpoch(0));
    for record in fields.all("receipt") {
        let mut record = Fields::of_record(&record);
        let code = record.text("code");
        let code = ResultCode::ALL.iter().find(|known| known.name() == code);
        let flags = record.maybe("flags").unwrap_or_default();
        let receipt = Receipt {
            index: record.number("index"),
            code: *code.unwrap(),
            flags: flags.split('+').filter(|name| !name.is_empty()).fold(
                ReceiptFlags::default(),
                |flags, name| match name {
                    "replayed" => flags.with(ReceiptFlags::REPLAYED),
                    "frozen" => flags.with(ReceiptFlags::FROZEN),
                    "more" => flags.with(ReceiptFlags::MORE),
                    "created" => flags.with(ReceiptFlags::CREATED),
                    _ => panic!("no flag {name}"),
                },
            ),
            available: record.signed("available"),
            held: record.number("held"),
            version: record.number("version"),
            place: Place(record.number("place")),
            amount: record.number("amount"),
        };
        record.finish();
        writer.push(&mut parts.first, &receipt);
    }
    writer.finish(&mut parts.first);
    Message::Receipts(Receipts::new(keep_list(parts)).unwrap())
}

fn rows<'a>(fields: &mut Fields, parts: &'a mut Parts) -> Message<'a> {
    let mut rows = Vec::new();
    for record in fields.all("row") {
        let mut record = Fields::of_record(&record);
        rows.push(Row {
            currency: record.number("currency"),
            flags: record.number("flags"),
            available: record.signed("available"),
            held: record.number("held"),
            outgoing: record.number("outgoing"),
            floor: record.number("floor"),
            cap: record.number("cap"),
            version: record.number("version"),
            place: Place(record.number("place")),
        });
        record.finish();
    }
    write_rows(&mut parts.first, 0, 0, &rows);
    Message::Rows {
        index: fields.number("index"),
        rows: Rows::new(keep_list(parts)).unwrap(),
    }
}

fn audit<'a>(fields: &mut Fields, parts: &'a mut Parts) -> Message<'a> {
    let mut rows = Vec::new();
    for record in fields.all("row") {
        let mut record = Fields::of_record(&record);
        rows.push(AuditRow {
            currency: record.number("currency"),
            account_count: record.number("account_count"),
            issued: record.number("issued"),
            burned: record.number("burned"),
            sent: record.number("sent"),
            received: record.number("received"),
            returned: record.number("returned"),
            adopted_in: record.signed("adopted_in"),
            adopted_out: record.signed("adopted_out"),
            available: record.signed("available"),
            held: record.signed("held"),
            difference: record.signed("difference"),
        });
        record.finish();
    }
    write_audit(&mut parts.first, 0, &rows, AuditPart::Last);
    Message::AuditTold {
        rows: AuditRows::new(keep_list(parts)).unwrap(),
    }
}

fn terms<'a>(fields: &mut Fields, parts: &'a mut Parts) -> TermStarts<'a> {
    for record in fields.all("term_start") {
        let mut record = Fields::of_record(&record);
        let start = TermStart {
            term: Term(record.number("term")),
            seq: Seq(record.number("seq")),
        };
        record.finish();
        put_term_starts(&mut parts.first, &[start]);
    }
    TermStarts::new(&parts.first).unwrap()
}

fn register<'a>(fields: &mut Fields, parts: &'a mut Parts) -> Message<'a> {
    Message::Register(Register {
        node: node(fields).unwrap(),
        log: LogNumber::new(fields.number("log")),
        copy: fields.number("copy"),
        generation: Generation(fields.number("generation")),
        ring_epoch: RingEpoch(fields.number("under_ring_epoch")),
        term: Term(fields.number("term")),
        end: end(fields),
        committed: Seq(fields.number("committed")),
        address: fields.text("address").parse().unwrap(),
        join: fields
            .maybe("join_weight")
            .map(|weight| weight.parse().unwrap()),
        terms: terms(fields, parts),
    })
}

fn granted<'a>(fields: &mut Fields, parts: &'a mut Parts) -> Message<'a> {
    Message::Granted(Granted {
        log: log(fields),
        term: Term(fields.number("term")),
        generation: Generation(fields.number("generation")),
        ring_epoch: RingEpoch(fields.number("under_ring_epoch")),
        ring_key: fields.number("ring_key"),
        copy: fields.number("copy"),
        end: end(fields),
        first_offset: fields.number("first_offset"),
        checkpoint_size: fields.number("checkpoint_size"),
        segment_size: fields.number("segment_size"),
        clock_ms: fields.number("clock_ms"),
        terms: terms(fields, parts),
    })
}

fn beat<'a>(fields: &mut Fields) -> Message<'a> {
    Message::Beat(Beat {
        nonce: fields.number("nonce"),
        term: Term(fields.number("term")),
        applied: Seq(fields.number("applied")),
        committed: Seq(fields.number("committed")),
        account_count: fields.number("account_count"),
        id_count: fields.number("id_count"),
        horizon_ms: fields.number("horizon_ms"),
        free_size: fields.number("free_size"),
        digest: fields.number("digest"),
        memory_size: fields.number("memory_size"),
        phase: fields.number("phase"),
    })
}

fn cluster_ask<'a>(fields: &mut Fields) -> Message<'a> {
    Message::ClusterAsk(ClusterAsk {
        command: match fields.text("command").as_str() {
            "plan" => ClusterCommand::Plan,
            "drain" => ClusterCommand::Drain,
            "remove" => ClusterCommand::Remove,
            "weight" => ClusterCommand::Weight,
            "pause" => ClusterCommand::Pause,
            "resume" => ClusterCommand::Resume,
            "cancel" => ClusterCommand::Cancel,
            other => panic!("no command {other}"),
        },
        dry_run: fields.number::<u8>("dry_run") == 1,
        node: node(fields),
        weight: fields.number("weight"),
        number: MoveNumber(fields.number("number")),
    })
}

fn move_step(fields: &mut Fields) -> MoveStep {
    match fields.text("step").as_str() {
        "hand_over" => MoveStep::HandOver,
        "adopt" => MoveStep::Adopt,
        "activate" => MoveStep::Activate,
        "drop" => MoveStep::Drop,
        other => panic!("no step {other}"),
    }
}

fn move_order<'a>(fields: &mut Fields, parts: &'a mut Parts) -> Message<'a> {
    for record in fields.all("range") {
        let mut record = Fields::of_record(&record);
        let range = SlotRange {
            first: Slot(record.number("first")),
            last: Slot(record.number("last")),
        };
        record.finish();
        put_slot_range(&mut parts.first, range);
    }
    Message::MoveOrder(MoveOrder {
        step: move_step(fields),
        number: MoveNumber(fields.number("number")),
        image: MoveNumber(fields.number("image")),
        ring_epoch: RingEpoch(fields.number("under_ring_epoch")),
        peer: node(fields).unwrap(),
        peer_log: log(fields),
        place: Place(fields.number("place")),
        image_size: fields.number("image_size"),
        image_digest: fields.number("image_digest"),
        image_offset: fields.number("image_offset"),
        slot_digest: fields.number("slot_digest"),
        account_count: fields.number("account_count"),
        horizon_ms: fields.number("horizon_ms"),
        time: LogTime(fields.number("time")),
        ranges: SlotRanges::new(&parts.first).unwrap(),
    })
}

fn fetch(fields: &mut Fields) -> Fetch {
    Fetch {
        log: log(fields),
        offset: fields.number("offset"),
        size_max: fields.number("size_max"),
    }
}

fn table<'a>(fields: &mut Fields, parts: &'a mut Parts) -> Message<'a> {
    for record in fields.all("member") {
        let mut record = Fields::of_record(&record);
        let member = Member {
            node: node(&mut record).unwrap(),
            log: log(&mut record),
            state: match record.text("state").as_str() {
                "away" => MemberState::Away,
                "present" => MemberState::Present,
                other => panic!("no state {other}"),
            },
            term: Term(record.number("term")),
            incarnation: record.number("incarnation"),
            address: record.maybe("address").map(|text| text.parse().unwrap()),
        };
        record.finish();
        put_member(&mut parts.first, &member);
    }
    for record in fields.all("run") {
        let mut record = Fields::of_record(&record);
        let run = SlotRun {
            slots: SlotRange {
                first: Slot(record.number("first")),
                last: Slot(record.number("last")),
            },
            node: record.number("node"),
        };
        record.finish();
        put_slot_run(&mut parts.second, &run);
    }
    Message::Table(Table {
        ring_epoch: RingEpoch(fields.number("under_ring_epoch")),
        generation: Generation(fields.number("generation")),
        ring_key: fields.number("ring_key"),
        members: Members::new(&parts.first).unwrap(),
        runs: SlotRuns::new(&parts.second).unwrap(),
    })
}
