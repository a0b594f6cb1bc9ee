//! protocol.md against the codec: every vector, and every table of numbers.
//!
//! The vectors were made by another program from the page's tables, not by this codec.

mod build;
mod document;
#[cfg(feature = "daemon")]
mod ring;

use std::collections::BTreeMap;

use bytes::BytesMut;
use counterfoil::limits;
use counterfoil::model::{
    CodeClass, Flags, Kind, OPERATION_SIZE, Operation, ReceiptFlags, ResultCode, RingEpoch,
};
use counterfoil::protocol::{
    FrameKind, Header, Message, PeerRole, RefusalCode, VERSION_MAX, VERSION_MIN, split,
    write_message,
};

use document::{Block, blocks, number, page, table, tables};

const FLAGS: &[(&str, Flags)] = &[
    ("open_if_missing", Flags::OPEN_IF_MISSING),
    ("up_to", Flags::UP_TO),
    ("if_version", Flags::IF_VERSION),
    ("recent", Flags::RECENT),
    ("burn", Flags::BURN),
    ("frozen", Flags::FROZEN),
    ("group", Flags::GROUP),
];

fn frame_kind(name: &str) -> FrameKind {
    let kind = FrameKind::ALL.iter().find(|kind| kind.name() == name);
    *kind.unwrap_or_else(|| panic!("no frame kind {name}"))
}

fn kind(name: &str) -> Kind {
    let kind = Kind::ALL.iter().find(|kind| kind.name() == name);
    *kind.unwrap_or_else(|| panic!("no kind {name}"))
}

/// The bytes of the vector of an operation kind.
fn operation_bytes(name: &str) -> [u8; OPERATION_SIZE] {
    let mut found = blocks("operation")
        .into_iter()
        .filter(|block| block.subject.1 == name);
    let block = found
        .next()
        .unwrap_or_else(|| panic!("no vector of {name}"));
    assert!(found.next().is_none(), "two vectors of {name}");
    block.bytes().try_into().unwrap()
}

#[test]
fn frames_are_written_and_read_as_the_page_says() {
    for mut block in blocks("frame") {
        let bytes = block.bytes();
        let kind = frame_kind(&block.subject.1);
        let mut parts = build::Parts::default();
        let mut header = Header::bare(kind);
        header.request = block.fields.number("request");
        header.ring_epoch = RingEpoch(block.fields.number("ring_epoch"));
        header.flags = block.fields.number("flags");
        let message = build::message(kind, &mut block.fields, &mut parts);
        block.fields.finish();

        let mut written = BytesMut::new();
        write_message(&mut written, header, &message);
        assert_eq!(written, bytes, "{} is written otherwise", kind.name());

        let (frame, size) = split(&bytes, limits::FRAME_SIZE_MAX).unwrap().unwrap();
        assert_eq!(size, bytes.len());
        assert_eq!(frame.header, header);
        assert_eq!(Message::read(&frame), Ok(message));
    }
}

#[test]
fn every_frame_kind_has_a_vector() {
    let mut counts: BTreeMap<FrameKind, u32> = BTreeMap::new();
    for block in blocks("frame") {
        *counts.entry(frame_kind(&block.subject.1)).or_default() += 1;
    }
    for kind in FrameKind::ALL {
        assert!(counts.contains_key(kind), "{} has no vector", kind.name());
    }
}

#[test]
fn refused_frames_are_refused() {
    for mut block in blocks("refuse") {
        let bytes = block.bytes();
        let why = block.fields.text("why");
        let found = split(&bytes, limits::LINK_FRAME_SIZE_MAX);
        match block.subject.1.as_str() {
            "frame" => assert!(found.is_err(), "{why}"),
            "message" => {
                let (frame, _) = found.unwrap().unwrap();
                assert!(Message::read(&frame).is_err(), "{why}");
            }
            other => panic!("refuse what? {other}"),
        }
    }
}

/// The record by the page's offset table, made without the codec.
fn operation_by_table(block: &mut Block) -> Vec<u8> {
    let mut bytes = vec![kind(&block.subject.1) as u8, 0];
    let names = block.fields.maybe("flags").unwrap_or_default();
    let flags = names.split_whitespace().fold(0_u16, |flags, name| {
        let known = FLAGS.iter().find(|(known, _)| *known == name);
        flags | known.unwrap().1.0
    });
    let fields = &mut block.fields;
    bytes.extend(flags.to_le_bytes());
    bytes.extend(fields.number::<u32>("currency").to_le_bytes());
    bytes.extend(fields.number::<u32>("reason").to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(fields.number::<u128>("user").to_le_bytes());
    bytes.extend(fields.number::<u128>("id").to_le_bytes());
    bytes.extend(fields.number::<u64>("amount").to_le_bytes());
    bytes.extend(fields.number::<u64>("reference").to_le_bytes());
    for index in 0..4 {
        bytes.extend(
            fields
                .number::<u64>(&format!("argument_{index}"))
                .to_le_bytes(),
        );
    }
    fields.finish();
    bytes
}

#[test]
fn operations_are_read_as_the_page_says() {
    let mut kinds = Vec::new();
    for mut block in blocks("operation") {
        let kind = kind(&block.subject.1);
        let bytes: [u8; OPERATION_SIZE] = block.bytes().try_into().unwrap();
        assert_eq!(operation_by_table(&mut block), bytes, "{}", kind.name());
        let operation = Operation::read(&bytes).unwrap();
        assert_eq!(operation.kind(), kind);
        assert_eq!(operation.to_bytes(), bytes);
        kinds.push(kind);
    }
    assert_eq!(kinds, Kind::ALL);
}

#[test]
fn operation_kinds_are_those_of_the_page() {
    let rows = table("| number | kind | served | currency | id | amount | flags |");
    assert_eq!(rows.len(), Kind::ALL.len());
    for (row, kind) in rows.iter().zip(Kind::ALL) {
        let [number_cell, name, served, currency, id, amount, flags] = &row[..] else {
            panic!("{row:?}");
        };
        assert_eq!(number(number_cell), *kind as u128);
        assert_eq!(name, kind.name());
        assert_eq!(served == "yes", kind.is_served(), "{name}");
        let check = |range: std::ops::Range<usize>, value: &[u8], code, is_refused: bool| {
            let mut bytes = operation_bytes(name);
            bytes[range].copy_from_slice(value);
            assert_eq!(
                Operation::read(&bytes).err() == Some(code),
                is_refused,
                "{name} {code}"
            );
        };
        let one = 1_u64.to_le_bytes();
        check(4..8, &[0; 4], ResultCode::BadCurrency, currency == "yes");
        check(4..8, &[1; 4], ResultCode::BadCurrency, currency == "0");
        check(32..48, &[0; 16], ResultCode::BadId, id == "yes");
        check(32..48, &[1; 16], ResultCode::BadId, id == "0");
        check(48..56, &[0; 8], ResultCode::BadAmount, amount != "0");
        check(48..56, &one, ResultCode::BadAmount, amount == "0");
        check(48..56, &[0xff; 8], ResultCode::BadAmount, true);
        check(
            48..56,
            &257_u64.to_le_bytes(),
            ResultCode::BadAmount,
            amount != "amount",
        );

        let allowed: Vec<&str> = flags.split_whitespace().collect();
        for bit in 0..16 {
            let known = FLAGS.iter().find(|(_, flag)| flag.0 == 1 << bit);
            let is_allowed = known.is_some_and(|(flag, _)| allowed.contains(flag));
            let mut bytes = operation_bytes(name);
            bytes[2 + bit / 8] |= 1 << (bit % 8);
            let is_refused = Operation::read(&bytes) == Err(ResultCode::BadFlags);
            assert_eq!(is_refused, !is_allowed, "{name}, flag bit {bit}");
        }
    }
}

#[test]
fn flags_are_those_of_the_page() {
    let rows = table("| bit | flag | meaning |");
    let found: Vec<_> = rows
        .iter()
        .map(|row| (row[1].as_str(), number(&row[0])))
        .collect();
    let known: Vec<_> = FLAGS
        .iter()
        .map(|(name, flag)| (*name, u128::from(flag.0)))
        .collect();
    assert_eq!(found, known);

    let names: Vec<_> = table("| flag | meaning |")
        .iter()
        .map(|row| row[0].clone())
        .collect();
    assert_eq!(names, ["replayed", "frozen", "more", "created"]);
    let bits = [
        ReceiptFlags::REPLAYED,
        ReceiptFlags::FROZEN,
        ReceiptFlags::MORE,
        ReceiptFlags::CREATED,
    ];
    assert_eq!(bits.map(|flag| flag.0), [1, 2, 4, 8]);
    let listed = "1 `replayed`, 2 `frozen`, 4 `more`, 8 `created`; other bits are 0";
    assert!(page().contains(listed));
}

#[test]
fn frame_kinds_are_those_of_the_page() {
    let rows = table("| number | kind | from | to | body |");
    let found: Vec<_> = rows
        .iter()
        .map(|row| (number(&row[0]), row[1].as_str()))
        .collect();
    let known: Vec<_> = FrameKind::ALL
        .iter()
        .map(|kind| (*kind as u128, kind.name()))
        .collect();
    assert_eq!(found, known);
}

#[test]
fn result_codes_are_those_of_the_page() {
    let rows = table("| number | name | class | may be sent again | outcome known | meaning |");
    let found: Vec<[String; 5]> = rows
        .iter()
        .map(|row| row[..5].to_vec().try_into().unwrap())
        .collect();
    let yes = |is: bool| if is { "yes" } else { "no" };
    let known: Vec<[String; 5]> = ResultCode::ALL
        .iter()
        .map(|code| {
            let class = match code.class() {
                CodeClass::Done => "done",
                CodeClass::Refusal => "refusal",
                CodeClass::Id => "id",
                CodeClass::NotNow => "not-now",
                CodeClass::Unknown => "unknown",
                CodeClass::Malformed => "malformed",
            };
            let number = (*code as u16).to_string();
            let words = [
                code.name(),
                class,
                yes(code.may_retry()),
                yes(code.outcome_known()),
            ];
            let [name, class, retry, known] = words.map(str::to_owned);
            [number, name, class, retry, known]
        })
        .collect();
    assert_eq!(found, known);
}

#[test]
fn refusal_codes_are_those_of_the_page() {
    let rows = table("| number | name | meaning | again? |");
    let found: Vec<_> = rows
        .iter()
        .map(|row| (number(&row[0]), row[1].as_str()))
        .collect();
    let known: Vec<_> = RefusalCode::ALL
        .iter()
        .map(|code| (*code as u128, code.name()))
        .collect();
    assert_eq!(found, known);
}

#[test]
fn versions_and_roles_are_those_of_the_page() {
    let rows = table("| version | what changed |");
    let numbers: Vec<_> = rows.iter().map(|row| number(&row[0])).collect();
    assert!(numbers.contains(&u128::from(VERSION_MIN)));
    assert_eq!(numbers.last(), Some(&u128::from(VERSION_MAX)));
    assert!(page().contains(&format!("**Version: {VERSION_MAX}.**")));
    let roles = [
        PeerRole::Client,
        PeerRole::Front,
        PeerRole::Node,
        PeerRole::Backup,
    ];
    assert_eq!(roles.map(|role| role as u8), [1, 2, 3, 4]);
    assert!(page().contains("1 client, 2 front, 3 node, 4 backup"));
}

#[test]
fn limits_are_those_of_the_page() {
    macro_rules! known {
        ($($name:ident)*) => {
            &[$((stringify!($name), u128::from(limits::$name))),*]
        };
    }
    let known: &[(&str, u128)] = known! {
        BATCH_COUNT_MAX FRAME_SIZE_MAX LINK_FRAME_SIZE_MAX HELLO_FRAME_SIZE_MAX SLOT_COUNT
        NODE_KEY_COUNT_DEFAULT NODE_KEY_COUNT_MAX NODE_COUNT_MAX CURRENCIES_PER_USER_MAX
        CURRENCY_COUNT_MAX ACCOUNT_COUNT_MAX LIST_ROW_COUNT_MAX TURN_ROW_COUNT_MAX AMOUNT_MAX
        DEADLINE_MS_MAX DEADLINE_MS_DEFAULT ID_AHEAD_MS_MAX ID_WINDOW_MS ID_WINDOW_MS_MIN
        CONNECTION_COUNT_MAX HANDSHAKE_MS_MAX FRAME_MS_MAX WRITE_STALL_MS_MAX
        CLIENT_QUEUE_SIZE_HIGH CLIENT_QUEUE_SIZE_LOW CLIENT_PING_MS CLIENT_FRAMES_IN_FLIGHT_MAX
        LINK_PING_MS LINK_SILENCE_MS_MAX MOVING_RETRY_MS FETCH_SIZE_MAX STATUS_SIZE_MAX
    };
    let rows = table("| name | value | meaning |");
    let found: Vec<_> = rows
        .iter()
        .map(|row| (row[0].as_str(), number(&row[1])))
        .collect();
    assert_eq!(found, known);
}

#[test]
fn limits_inside_are_those_of_their_page() {
    macro_rules! known {
        ($($name:ident)*) => {
            vec![$(format!("| `{}` | {} | ", stringify!($name), limits::$name)),*]
        };
    }
    let known = known! {
        BLOCK_ENTRY_COUNT_MAX SEGMENT_SIZE_DEFAULT SEGMENT_SIZE_MIN SEGMENT_SIZE_MAX
        LOG_UNSYNCED_SIZE_MAX BLOCKS_IN_FLIGHT_MAX BLOCKS_IN_FLIGHT_EAGER BLOCK_WORTH_COUNT
        GATHER_NS_MAX
        NODE_QUEUED_COUNT_MAX NODE_PARKED_COUNT_MAX NODE_ENTRY_ASK_COUNT_MAX
        NODE_ENTRY_AHEAD_COUNT NODE_MOVE_ORDER_COUNT_MAX NODE_ANSWER_SIZE_MAX OWN_ENTRY_COUNT_MAX
        IN_USE_MS_MAX STOP_MS_MAX UPKEEP_MS FETCH_AHEAD_SIZE_MAX MOVE_ACCOUNT_COUNT_GOAL
        MOVE_STEP_ACCOUNT_COUNT_MAX MOVE_LOAD_PAGE_COUNT MOVE_LOAD_PIECE_COUNT_MAX
        MOVE_COPY_PIECE_SIZE MOVE_COPY_PIECE_COUNT_MAX TAKE_OVER_DRAFT_DIVISOR MOVE_CALM_MS_MAX
        ID_COUNT_DEFAULT LOG_TIME_AHEAD_MS_MAX CLOCK_SKEW_MS_MAX
        INPUTS_PER_TURN_MAX ACCEPTS_PER_TURN_MAX CLIENT_BUFFERS_SIZE_MAX LINK_QUEUE_SIZE_MAX
        REDIAL_MS FRONT_OPERATION_COUNT_MAX FRONT_NODE_SHARE_DIVISOR RETRY_MS ROUTER_ANSWER_MS
        DISK_RESERVE_SIZE SMALL_FILE_SIZE_MAX SEGMENT_POOL_COUNT_MAX DIAL_MS_MAX EXIT_FLUSH_MS_MAX
        LINGER_MS_MAX LANES_END_MS_MAX LANES_AGAIN_MS_MAX ACCEPT_PAUSE_MS READ_SIZE_MAX
        TURN_FRAME_SIZE_MAX TURN_PEER_FRAME_COUNT_MAX WRITE_PROGRESS_SIZE_MIN INTAKE_KEPT_COUNT_MAX
        INTAKE_KEPT_SIZE_MAX LISTENER_SAY_MS LATE_MS_MAX LISTENER_COUNT_MAX EVENT_COUNT_MAX
        DESCRIPTOR_RESERVE_COUNT OUTBOX_KEPT_SIZE_MAX OUTBOX_KEPT_COUNT_MAX FRONT_ANSWER_COUNT_MAX
        FRONT_QUESTION_COUNT_MAX REDIAL_MS_MAX FRONT_SPARE_LIST_COUNT_MAX CLIENT_RETRY_MS_MAX
        CLIENT_OPERATION_COUNT_MAX CLIENT_OUT_SIZE_MAX CLIENT_MARGIN_MS_MAX CLIENT_OVERDUE_MS_MAX
        CLIENT_SILENCE_MS CLIENT_PONG_MS_MAX CLIENT_GOAWAY_MS_MAX CLIENT_AUDIT_ROW_COUNT_MAX
        CLIENT_BUFFER_SIZE CLIENT_BATCHES_IN_FLIGHT_MAX CLIENT_IDLE_MS GRANT_COUNT_MAX
        BACKUP_READ_COUNT_MAX BACKUP_HELD_COUNT_MAX BACKUP_CLIENT_FRAMES_MAX END_QUIET_MS
        RECOVER_SAY_MS OPENING_COUNT_MAX
        BACKUP_RETRY_MS BACKUP_RECENT_BLOCK_COUNT BACKUP_TERM_COUNT_MAX RESEND_MS
        CHECKPOINT_ATTEMPT_COUNT_MAX ANSWER_BUFFER_KEPT_COUNT NODE_RETRY_MS RECENT_SEGMENT_COUNT
        FOLD_RECORD_COUNT_MAX REPLICA_STEP_SIZE REPLICA_WORTH_SIZE REPLICA_REST_MS
        CLOSED_COUNT_KEPT ID_ROW_COUNT_MAX
        TERM_START_COUNT_MAX REFUSAL_TEXT_SIZE_MAX AUDIT_ROW_COUNT_MAX SCRUB_SIZE SCRUB_LAP_MS
        SCRUB_MS_MIN SCRUB_MS_MAX FIND_PIECE_SIZE FIND_PASS_COUNT_MAX FIND_SEARCH_SIZE_MAX
        CONNECTION_SIZE_MAX ACCOUNT_MEMORY_SIZE_MAX ID_MEMORY_SIZE_MAX ID_ROW_MEMORY_SIZE_MAX
        FRONT_OPERATION_MEMORY_SIZE_MAX PARKED_MEMORY_SIZE_MAX FOLD_RECORD_MEMORY_SIZE_MAX
    };
    let page = include_str!("../../../docs/limits.md");
    let rows: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    assert_eq!(rows.len(), known.len());
    for (row, beginning) in rows.iter().zip(&known) {
        assert!(row.starts_with(beginning), "{row}\n{beginning}");
    }
}

#[test]
fn offset_tables_have_no_gaps() {
    for table in tables("| at | size | field | meaning |") {
        let mut next = None;
        for row in &table {
            let (Ok(at), Ok(size)) = (row[0].parse::<u32>(), row[1].parse::<u32>()) else {
                break;
            };
            assert_eq!(at, next.unwrap_or(at), "{row:?}");
            next = Some(at + size);
        }
    }
}

#[test]
fn the_checksum_is_the_common_one() {
    let crc = format!("`{:08x}`", crc32fast::hash(b"123456789"));
    assert!(page().contains(&format!("`123456789` is {crc}")));
}
