//! The codec against drawn messages, damaged bytes, and each rule of a field by itself.

use std::net::SocketAddr;

use bytes::BytesMut;

use super::fuzzing::{check_body, check_choices, check_stream, drawn_frames, mend};
use super::{
    AuditPart, AuditRow, Beat, FLAG_MORE, FrameError, FrameKind, HEADER_SIZE, Header, Hello,
    Member, MemberState, Members, Message, MessageError, Operations, PeerRole, Receipts,
    ReceiptsWriter, RefusalCode, Refused, RequestWriter, SlotRun, SlotRuns, Welcome, put_member,
    put_slot_run, split, write_audit, write_message, write_rows,
};
use crate::limits::{BATCH_COUNT_MAX, FRAME_SIZE_MAX, HELLO_FRAME_SIZE_MAX};
use crate::model::{
    ClusterId, Currency, Incarnation, LogNumber, NodeId, Operation, Place, Random, Receipt,
    ReceiptFlags, ResultCode, RingEpoch, Row, Slot, SlotRange, Term, UserId,
};

fn hello() -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        role: PeerRole::Client,
        cluster: None,
        node: None,
        incarnation: Incarnation::new(9).unwrap(),
    }
}

fn frame_of(message: &Message<'_>) -> Vec<u8> {
    let mut out = BytesMut::new();
    message.write(&mut out);
    out.to_vec()
}

fn read_error(frame: &[u8]) -> MessageError {
    let (frame, _) = split(frame, FRAME_SIZE_MAX).unwrap().unwrap();
    Message::read(&frame).unwrap_err()
}

/// Changes one byte of the frame of `message` and expects the error to name `at`.
fn check_field(message: &Message<'_>, byte: usize, value: u8, at: usize) {
    let mut frame = frame_of(message);
    frame[byte] = value;
    assert!(mend(&mut frame));
    assert_eq!(
        read_error(&frame),
        MessageError::Field { at },
        "byte {byte}"
    );
}

#[test]
fn drawn_messages_read_back() {
    // Each of these frames is checked where it is drawn.
    let frames = drawn_frames(1, 20_000);
    for kind in FrameKind::ALL {
        let number = (*kind as u16).to_le_bytes();
        let count = frames.iter().filter(|frame| frame[8..10] == number).count();
        assert!(100 < count, "{} was drawn {count} times only", kind.name());
    }
}

#[test]
fn damaged_frames_never_panic_and_stay_canonical() {
    for seed in 0..20 {
        let mut random = Random::new(seed);
        for mut frame in drawn_frames(seed, 200) {
            for _ in 0..4 {
                let at = usize::try_from(random.below(frame.len() as u64)).unwrap();
                frame[at] ^= random.u64().to_le_bytes()[0];
                check_stream(&frame);
            }
            let size = usize::try_from(random.below(frame.len() as u64)).unwrap();
            check_stream(&frame[..size]);
        }
    }
}

#[test]
fn any_bytes_are_taken() {
    let mut random = Random::new(5);
    for _ in 0..20_000 {
        let size = random.below(400);
        let bytes: Vec<u8> = (0..size).map(|_| random.u64().to_le_bytes()[0]).collect();
        check_stream(&bytes);
        check_body(&bytes);
        check_choices(&bytes);
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let frame = frame_of(&Message::Hello(hello()));
    for bit in 0..frame.len() * 8 {
        let mut damaged = frame.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        // A longer claimed length is a frame that is not complete yet; all else is an error.
        match split(&damaged, HELLO_FRAME_SIZE_MAX) {
            Ok(None) => assert!(bit / 8 < 4, "bit {bit}"),
            Ok(Some(_)) => panic!("bit {bit} went unnoticed"),
            Err(_) => (),
        }
    }
}

#[test]
fn frames_are_bounded_before_they_are_complete() {
    let claim = |length: u32| split(&length.to_le_bytes(), 512).map(|found| found.is_some());
    assert_eq!(claim(23), Err(FrameError::TooShort { length: 23 }));
    assert_eq!(claim(0), Err(FrameError::TooShort { length: 0 }));
    assert_eq!(claim(24), Ok(false));
    assert_eq!(claim(512), Ok(false));
    let too_long = FrameError::TooLong {
        length: 513,
        max: 512,
    };
    assert_eq!(claim(513), Err(too_long));
    assert_eq!(
        split(&[0xff; 3], 512).map(|found| found.is_some()),
        Ok(false)
    );
}

#[test]
fn unknown_kinds_and_bad_checksums_are_frame_errors() {
    let mut frame = frame_of(&Message::Ping);
    frame[8] = 200;
    let computed = match split(&frame, 512) {
        Err(FrameError::Checksum { computed, .. }) => computed,
        other => panic!("{other:?}"),
    };
    frame[4..8].copy_from_slice(&computed.to_le_bytes());
    assert_eq!(split(&frame, 512).unwrap_err(), FrameError::Kind(200));
}

#[test]
fn unknown_header_flags_are_refused() {
    for kind in FrameKind::ALL {
        let known = if *kind == FrameKind::AuditTold {
            FLAG_MORE
        } else {
            0
        };
        let mut header = Header::bare(*kind);
        header.flags = !known;
        let mut frame = header.to_bytes().to_vec();
        mend(&mut frame);
        assert_eq!(
            read_error(&frame),
            MessageError::Field { at: 10 },
            "{}",
            kind.name()
        );
    }
}

#[test]
fn hello_is_checked_field_by_field() {
    let message = Message::Hello(hello());
    check_field(&message, 24, 0, 24);
    check_field(&message, 28, 0, 28);
    check_field(&message, 28, 2, 28);
    check_field(&message, 32, 0, 32);
    check_field(&message, 32, 5, 32);
    check_field(&message, 33, 1, 33);
    check_field(&message, 36, 1, 36);
    check_field(&message, 56, 0, 56);
    let node = Message::Hello(Hello {
        role: PeerRole::Node,
        node: NodeId::new(1),
        ..hello()
    });
    check_field(&node, 36, 0, 36);
}

#[test]
fn bodies_are_as_long_as_they_say() {
    let mut frame = frame_of(&Message::Pong { time_ms: 7 });
    frame.push(0);
    mend(&mut frame);
    assert_eq!(
        read_error(&frame),
        MessageError::Trailing { at: 32, count: 1 }
    );
    frame.truncate(30);
    mend(&mut frame);
    assert_eq!(read_error(&frame), MessageError::Ends { at: 30, needed: 2 });
}

#[test]
fn counts_are_bounded_before_the_records_are_looked_at() {
    let mut header = Header::bare(FrameKind::Request).to_bytes().to_vec();
    header.extend_from_slice(&(BATCH_COUNT_MAX + 1).to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    mend(&mut header);
    let too_many = MessageError::TooMany {
        at: 24,
        count: BATCH_COUNT_MAX + 1,
        max: BATCH_COUNT_MAX,
    };
    assert_eq!(read_error(&header), too_many);
    header[24..28].copy_from_slice(&BATCH_COUNT_MAX.to_le_bytes());
    mend(&mut header);
    let missing = MessageError::Ends {
        at: 32,
        needed: 8_192 * 96,
    };
    assert_eq!(read_error(&header), missing);
}

#[test]
fn the_largest_batch_fits() {
    let user = UserId::new(1).unwrap();
    let record = Operation::get(user, Currency::new(1).unwrap()).to_bytes();
    let mut out = BytesMut::new();
    let mut writer = RequestWriter::begin(&mut out, 1, RingEpoch(2), 5_000);
    for _ in 0..BATCH_COUNT_MAX {
        writer.push(&mut out, &record);
    }
    writer.finish(&mut out);
    let (frame, size) = split(&out, FRAME_SIZE_MAX).unwrap().unwrap();
    assert_eq!(size, out.len());
    let Ok(Message::Request {
        deadline_ms: 5_000,
        operations,
    }) = Message::read(&frame)
    else {
        panic!("not a request");
    };
    assert_eq!(operations.len(), 8_192);
    assert_eq!(operations.arrays().count(), 8_192);
}

#[test]
fn frames_follow_each_other_in_one_buffer() {
    let mut out = BytesMut::new();
    Message::Ping.write(&mut out);
    Message::Pong { time_ms: 3 }.write_for(&mut out, 77);
    let (first, size) = split(&out, 512).unwrap().unwrap();
    assert_eq!(first.header.kind, FrameKind::Ping);
    let (second, rest) = split(&out[size..], 512).unwrap().unwrap();
    assert_eq!(second.header.request, 77);
    assert_eq!(Message::read(&second), Ok(Message::Pong { time_ms: 3 }));
    assert_eq!(size + rest, out.len());
}

#[test]
fn receipts_are_checked_field_by_field() {
    let receipt = Receipt {
        index: 8_191,
        code: ResultCode::Frozen,
        flags: ReceiptFlags::KNOWN,
        available: -5,
        held: 6,
        version: 7,
        place: Place(8),
        amount: 9,
    };
    let mut out = BytesMut::new();
    let mut writer = ReceiptsWriter::begin(&mut out, 1, RingEpoch(0));
    writer.push(&mut out, &Receipt::bare(0, ResultCode::Ok));
    writer.push(&mut out, &receipt);
    writer.finish(&mut out);
    let list = out[HEADER_SIZE + 8..].to_vec();
    let read = |list: &[u8]| Receipts::new(list).unwrap().iter().nth(1).unwrap();
    assert_eq!(read(&list), Ok(receipt));
    for (byte, value, at) in [(1, 0x20, 0), (2, 17, 2), (3, 1, 2), (4, 16, 4), (6, 1, 6)] {
        let mut bad = list.clone();
        bad[48 + byte] = value;
        assert_eq!(read(&bad), Err(MessageError::Field { at: 48 + at }));
    }
    assert_eq!(Receipts::new(&list[1..]), None);
}

#[test]
fn rows_and_audit_rows_name_a_currency() {
    let row = Row {
        currency: 3,
        flags: 1,
        available: -1,
        held: 0,
        outgoing: 0,
        floor: 0,
        cap: 0,
        version: 0,
        place: Place(0),
    };
    let mut out = BytesMut::new();
    write_rows(&mut out, 1, 8, &[row]);
    let check = |bytes: &[u8], expected: Option<MessageError>| {
        let mut bytes = bytes.to_vec();
        mend(&mut bytes);
        let (frame, _) = split(&bytes, FRAME_SIZE_MAX).unwrap().unwrap();
        let message = Message::read(&frame).unwrap();
        if let Message::Rows { index: 8, rows } = message {
            assert_eq!(rows.iter().next().unwrap().err(), expected);
        } else if let Message::AuditTold { rows } = message {
            assert_eq!(rows.iter().next().unwrap().err(), expected);
        } else {
            panic!("{message:?}");
        }
    };
    check(&out, None);
    for (byte, at) in [(32, 0), (36, 4)] {
        let mut bad = out.to_vec();
        bad[byte] ^= 3;
        check(&bad, Some(MessageError::Field { at }));
    }
    out.clear();
    let audit = AuditRow {
        currency: 3,
        ..AuditRow::default()
    };
    write_audit(&mut out, 1, &[audit], AuditPart::More);
    check(&out, None);
    out[32] = 0;
    check(&out, Some(MessageError::Field { at: 0 }));
}

#[test]
fn addresses_have_one_form() {
    let member = |address: Option<SocketAddr>| {
        let mut out = BytesMut::new();
        put_member(
            &mut out,
            &Member {
                node: NodeId::new(1).unwrap(),
                log: LogNumber::new(1).unwrap(),
                state: MemberState::Present,
                term: Term(1),
                incarnation: 0,
                address,
            },
        );
        out.to_vec()
    };
    let read = |bytes: &[u8]| Members::new(bytes).unwrap().iter().next().unwrap();
    for text in [
        "127.0.0.1:4000",
        "[::1]:1",
        "[2001:db8::1]:65535",
        "0.0.0.0:9",
    ] {
        let address = text.parse().unwrap();
        assert_eq!(read(&member(Some(address))).unwrap().address, Some(address));
    }
    let mapped = "[::ffff:10.0.0.1]:5".parse().unwrap();
    let plain = "10.0.0.1:5".parse().unwrap();
    assert_eq!(member(Some(mapped)), member(Some(plain)));
    assert_eq!(read(&member(None)).unwrap().address, None);

    let mut no_port = member(Some(plain));
    no_port[48..50].fill(0);
    assert_eq!(read(&no_port), Err(MessageError::Field { at: 48 }));
    let mut padded = member(None);
    padded[95] = 1;
    assert_eq!(read(&padded), Err(MessageError::Field { at: 56 }));
    let mut state = member(None);
    state[6] = 2;
    assert_eq!(read(&state), Err(MessageError::Field { at: 6 }));
}

#[test]
fn a_run_does_not_go_backwards() {
    let mut out = BytesMut::new();
    let slots = SlotRange {
        first: Slot(5),
        last: Slot(4),
    };
    put_slot_run(&mut out, &SlotRun { slots, node: 1 });
    let read = SlotRuns::new(&out).unwrap().iter().next().unwrap();
    assert_eq!(read, Err(MessageError::Field { at: 0 }));
}

#[test]
fn phases_and_refusal_codes_are_known_ones() {
    check_field(&Message::Beat(Beat::default()), 112, 3, 112);
    let refused = Message::Refused(Refused {
        code: RefusalCode::Malformed,
        version_min: 1,
        version_max: 1,
        text: "byte 24",
    });
    check_field(&refused, 24, 99, 24);
    check_field(&refused, 36, 0xff, 32);
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let text = "\u{20ac}".repeat(200);
    let refused = Refused {
        code: RefusalCode::Version,
        version_min: 1,
        version_max: 2,
        text: &text,
    };
    let frame = frame_of(&Message::Refused(refused));
    let (frame, _) = split(&frame, HELLO_FRAME_SIZE_MAX).unwrap().unwrap();
    let Ok(Message::Refused(read)) = Message::read(&frame) else {
        panic!("not a refusal");
    };
    assert_eq!(read.text, "\u{20ac}".repeat(133));
}

#[test]
fn welcome_needs_a_cluster() {
    let welcome = Message::Welcome(Welcome {
        version: 1,
        role: PeerRole::Front,
        cluster: ClusterId::new(1).unwrap(),
        time_ms: 0,
        frame_size_max: 0,
        batch_count_max: 0,
        deadline_ms_max: 0,
        frames_in_flight_max: 0,
    });
    check_field(&welcome, 32, 0, 32);
}

#[test]
fn operations_of_a_frame_are_read_one_by_one() {
    let good = Operation::list(UserId::new(1).unwrap(), 0, 10).to_bytes();
    let mut bytes = good.to_vec();
    bytes.extend_from_slice(&[0; 96]);
    bytes.extend_from_slice(&good);
    let read: Vec<_> = Operations::new(&bytes)
        .unwrap()
        .iter()
        .map(Result::err)
        .collect();
    assert_eq!(read, [None, Some(ResultCode::BadKind), None]);
}

#[test]
#[should_panic(expected = "at most 256")]
fn more_rows_than_a_reader_takes_are_not_written() {
    let bytes = vec![0; 257 * 64];
    let rows = super::Rows::new(&bytes).unwrap();
    let mut out = BytesMut::new();
    let message = Message::Rows { index: 0, rows };
    write_message(&mut out, Header::bare(FrameKind::Rows), &message);
}
