//! Bad input against real daemons: each a coded answer or a clean close, and the others served.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::BytesMut;
use counterfoil::limits;
use counterfoil::model::{
    ClusterId, Flags, Incarnation, OPERATION_SIZE, Operation, RECEIPT_SIZE, ResultCode, RingEpoch,
};
use counterfoil::protocol::{
    FrameKind, HEADER_SIZE, Hello, Message, PeerRole, RefusalCode, RequestWriter, VERSION_MAX,
    VERSION_MIN, split,
};

use crate::harness::{connect, currency, start, user};

fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connects");
    stream
        .set_read_timeout(Some(Duration::from_secs(15)))
        .unwrap();
    stream
        .set_write_timeout(Some(Duration::from_secs(15)))
        .unwrap();
    stream
}

fn hello() -> Hello {
    Hello {
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        role: PeerRole::Client,
        cluster: None,
        node: None,
        incarnation: Incarnation::new(77).unwrap(),
    }
}

fn write(stream: &mut TcpStream, message: &Message<'_>) {
    let mut bytes = BytesMut::new();
    message.write(&mut bytes);
    stream.write_all(&bytes).unwrap();
}

/// Reads until a frame is whole; `None` when the connection is closed before.
fn read_frame(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<(FrameKind, Vec<u8>)> {
    loop {
        let found = split(bytes, limits::LINK_FRAME_SIZE_MAX).expect("a daemon sends frames");
        if let Some((frame, size)) = found {
            let result = (frame.header.kind, bytes[..size].to_vec());
            bytes.drain(..size);
            return Some(result);
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk) {
            Ok(0) => return None,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("neither an answer nor a close: {error}"),
        }
    }
}

/// Everything until the close; the code of the refusal, if one came.
fn refusal(stream: &mut TcpStream) -> Option<RefusalCode> {
    let mut bytes = Vec::new();
    let mut code = None;
    while let Some((kind, frame)) = read_frame(stream, &mut bytes) {
        if kind == FrameKind::Refused {
            let (frame, _) = split(&frame, limits::FRAME_SIZE_MAX).unwrap().unwrap();
            let Message::Refused(refused) = Message::read(&frame).unwrap() else {
                continue;
            };
            code = Some(refused.code);
        }
    }
    code
}

fn welcomed(address: SocketAddr) -> TcpStream {
    let mut stream = dial(address);
    write(&mut stream, &Message::Hello(hello()));
    let (kind, _) = read_frame(&mut stream, &mut Vec::new()).expect("an answer");
    assert_eq!(kind, FrameKind::Welcome);
    stream
}

#[test]
fn bad_input_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = start(folder.path(), 2);
    let front = cluster.front_addresses()[0];
    let ports = [front, cluster.node(1).address(), cluster.backup().address()];
    let mut client = connect(&[front]);
    let credit = |client: &mut counterfoil::client::Client| {
        let id = client.new_id();
        let operation = Operation::credit(id, user(5), currency(1), 1);
        client
            .execute(&operation.with_flags(Flags::OPEN_IF_MISSING))
            .expect("served")
    };
    assert_eq!(credit(&mut client).available, 1);

    for address in ports {
        garbage(address);
        oversized(address);
        wrong_version(address);
        wrong_cluster(address);
        not_a_hello(address);
        cut_short(address);
    }
    broken_checksum(front);
    too_many_operations(front);
    let silent: Vec<TcpStream> = (0..200).map(|_| dial(front)).collect();
    let deaf = never_reading(front);
    assert_eq!(credit(&mut client).available, 2);
    for mut stream in silent {
        assert_eq!(
            refusal(&mut stream).unwrap_or(RefusalCode::TooSlow),
            RefusalCode::TooSlow
        );
    }
    malformed_operations(front);
    malformed_changes(front);
    // Of the malformed changes and of the frames that were not whole nothing was applied.
    cut_in_a_request(front, &mut client);
    good_then_bad(front, &mut client);
    let shown = client.get(user(6), currency(1)).expect("served");
    assert_eq!(
        shown.available,
        1 + 2,
        "the two good credits and the one before the bad frame"
    );
    assert_eq!(credit(&mut client).available, 3);
    drop(deaf);
    assert!(cluster.ended().unwrap().is_none(), "a daemon ended");
    cluster.stop().unwrap();
}

fn garbage(address: SocketAddr) {
    let mut stream = dial(address);
    stream.write_all(&[0xa5; 300]).unwrap();
    assert_eq!(refusal(&mut stream), Some(RefusalCode::Malformed));
}

fn oversized(address: SocketAddr) {
    let mut stream = dial(address);
    let mut head = [0; HEADER_SIZE];
    head[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    stream.write_all(&head).unwrap();
    assert_eq!(refusal(&mut stream), Some(RefusalCode::Malformed));
}

fn wrong_version(address: SocketAddr) {
    let mut stream = dial(address);
    write(
        &mut stream,
        &Message::Hello(Hello {
            version_min: 900,
            version_max: 901,
            ..hello()
        }),
    );
    assert_eq!(refusal(&mut stream), Some(RefusalCode::Version));
}

fn wrong_cluster(address: SocketAddr) {
    let mut stream = dial(address);
    write(
        &mut stream,
        &Message::Hello(Hello {
            cluster: ClusterId::new(12345),
            ..hello()
        }),
    );
    assert_eq!(refusal(&mut stream), Some(RefusalCode::WrongCluster));
}

fn not_a_hello(address: SocketAddr) {
    let mut stream = dial(address);
    write(&mut stream, &Message::Ping);
    assert_eq!(refusal(&mut stream), Some(RefusalCode::Unexpected));
}

/// Half a hello, then the end: a clean close.
fn cut_short(address: SocketAddr) {
    let mut stream = dial(address);
    let mut bytes = BytesMut::new();
    Message::Hello(hello()).write(&mut bytes);
    stream.write_all(&bytes[..20]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    refusal(&mut stream);
}

fn broken_checksum(front: SocketAddr) {
    let mut stream = welcomed(front);
    let mut bytes = BytesMut::new();
    Message::Ping.write(&mut bytes);
    bytes[5] ^= 1;
    stream.write_all(&bytes).unwrap();
    assert_eq!(refusal(&mut stream), Some(RefusalCode::Malformed));
}

/// A count above the limit, in a frame whose length and checksum are right.
fn too_many_operations(front: SocketAddr) {
    let mut stream = welcomed(front);
    let mut bytes = BytesMut::new();
    RequestWriter::begin(&mut bytes, 1, RingEpoch(0), 0).finish(&mut bytes);
    let at = HEADER_SIZE;
    bytes[at..at + 4].copy_from_slice(&(limits::BATCH_COUNT_MAX + 1).to_le_bytes());
    let mut crc = Vec::from(&bytes[..4]);
    crc.extend_from_slice(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc32(&crc).to_le_bytes());
    stream.write_all(&bytes).unwrap();
    assert_eq!(refusal(&mut stream), Some(RefusalCode::Malformed));
}

/// CRC-32 as protocol.md defines it, bit by bit: no code in common with the daemons.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xedb8_8320
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

/// Asks much and reads nothing: its own connection suffers, nobody else's.
fn never_reading(front: SocketAddr) -> TcpStream {
    let mut stream = welcomed(front);
    stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut bytes = BytesMut::new();
    let mut writer = RequestWriter::begin(&mut bytes, 7, RingEpoch(0), 1_000);
    for _ in 0..1_000 {
        writer.push(&mut bytes, &Operation::get(user(5), currency(1)).to_bytes());
    }
    writer.finish(&mut bytes);
    for _ in 0..400 {
        if stream.write_all(&bytes).is_err() {
            break;
        }
    }
    stream
}

/// Well-formed frames with malformed operations: a code for each, the good one is applied.
fn malformed_operations(front: SocketAddr) {
    let mut stream = welcomed(front);
    let good = Operation::get(user(5), currency(1)).to_bytes();
    let change = |at: usize, value: u8| {
        let mut bytes = good;
        bytes[at] = value;
        bytes
    };
    let mut no_user = good;
    no_user[16..32].fill(0);
    let mut all_ones = good;
    all_ones[16..32].fill(0xff);
    let cases = [
        (change(0, 99), ResultCode::BadKind),
        (change(0, 9), ResultCode::BadId),
        (change(2, 0x80), ResultCode::BadFlags),
        (no_user, ResultCode::BadUser),
        (all_ones, ResultCode::BadUser),
        (change(4, 0), ResultCode::BadCurrency),
        (change(48, 1), ResultCode::BadAmount),
        (change(95, 1), ResultCode::BadReserved),
        (good, ResultCode::Ok),
    ];
    assert_codes(&mut stream, &cases);
}

/// Sends one frame with these operations, and compares the codes that come back.
fn assert_codes(stream: &mut TcpStream, cases: &[([u8; OPERATION_SIZE], ResultCode)]) {
    let mut bytes = BytesMut::new();
    let mut writer = RequestWriter::begin(&mut bytes, 3, RingEpoch(0), 0);
    for (operation, _) in cases {
        writer.push(&mut bytes, operation);
    }
    writer.finish(&mut bytes);
    stream.write_all(&bytes).unwrap();
    let mut codes = vec![None; cases.len()];
    let mut pending = Vec::new();
    while codes.iter().any(Option::is_none) {
        let (kind, frame) = read_frame(stream, &mut pending).expect("answers");
        assert_eq!(kind, FrameKind::Receipts);
        let (frame, _) = split(&frame, limits::FRAME_SIZE_MAX).unwrap().unwrap();
        assert_eq!((frame.body.len() - 8) % RECEIPT_SIZE, 0);
        let Message::Receipts(receipts) = Message::read(&frame).unwrap() else {
            unreachable!()
        };
        for receipt in receipts.iter() {
            let receipt = receipt.unwrap();
            codes[usize::from(receipt.index)] = Some(receipt.code);
        }
    }
    let expected: Vec<_> = cases.iter().map(|(_, code)| Some(*code)).collect();
    assert_eq!(codes, expected);
}

/// A credit of 1 to user 6 that opens the account.
fn credit_of(client: &mut counterfoil::client::Client) -> [u8; OPERATION_SIZE] {
    let credit = Operation::credit(client.new_id(), user(6), currency(1), 1);
    credit.with_flags(Flags::OPEN_IF_MISSING).to_bytes()
}

/// Changes with ids and amounts that cannot be, between two good ones.
fn malformed_changes(front: SocketAddr) {
    let mut client = connect(&[front]);
    let mut with = |at: std::ops::Range<usize>, bytes: &[u8]| {
        let mut credit = credit_of(&mut client);
        credit[at].copy_from_slice(bytes);
        credit
    };
    let over = (limits::AMOUNT_MAX + 1).to_le_bytes();
    let mut unknown_account = with(0..0, &[]);
    unknown_account[2..4].fill(0);
    unknown_account[4..8].copy_from_slice(&77_u32.to_le_bytes());
    let cases = [
        (with(0..0, &[]), ResultCode::Ok),
        (with(32..48, &[0; 16]), ResultCode::BadId),
        (with(32..48, &[0xff; 16]), ResultCode::BadId),
        (with(48..56, &[0; 8]), ResultCode::BadAmount),
        (with(48..56, &over), ResultCode::BadAmount),
        (with(48..56, &[0xff; 8]), ResultCode::BadAmount),
        (with(16..32, &[0; 16]), ResultCode::BadUser),
        (with(4..8, &[0; 4]), ResultCode::BadCurrency),
        (with(1..2, &[1]), ResultCode::BadReserved),
        (with(12..16, &[1; 4]), ResultCode::BadReserved),
        (unknown_account, ResultCode::NotFound),
        (with(0..0, &[]), ResultCode::Ok),
    ];
    assert_codes(&mut welcomed(front), &cases);
}

fn request_of(operation: &[u8; OPERATION_SIZE]) -> BytesMut {
    let mut bytes = BytesMut::new();
    let mut writer = RequestWriter::begin(&mut bytes, 9, RingEpoch(0), 0);
    writer.push(&mut bytes, operation);
    writer.finish(&mut bytes);
    bytes
}

/// All but the last byte of a request, then the end: a close, and nothing of it is applied.
fn cut_in_a_request(front: SocketAddr, client: &mut counterfoil::client::Client) {
    let mut stream = welcomed(front);
    let bytes = request_of(&credit_of(client));
    stream.write_all(&bytes[..bytes.len() - 1]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(refusal(&mut stream), None);
}

/// A good request, and right behind it one whose checksum is wrong: the first one is applied.
fn good_then_bad(front: SocketAddr, client: &mut counterfoil::client::Client) {
    let mut stream = welcomed(front);
    let good = credit_of(client);
    let mut bytes = request_of(&good);
    let mut bad = request_of(&credit_of(client));
    bad[4] ^= 1;
    bytes.extend_from_slice(&bad);
    stream.write_all(&bytes).unwrap();
    assert_eq!(refusal(&mut stream), Some(RefusalCode::Malformed));
    // Whether its answer came before the close or not: the id says what became of it.
    let good = Operation::read(&good).unwrap();
    assert_eq!(
        client.execute(&good).expect("applied once").code,
        ResultCode::Ok
    );
}
