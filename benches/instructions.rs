//! The work of codec, ring and ledger in fixed portions, for counting instructions.
//!
//! `instructions CASE ROUNDS` prepares a case and does its portion so many times. The script
//! `.ci/instructions` runs each case twice under callgrind, with different rounds: the difference
//! leaves the preparation out. Counts do not jitter as times do, so a small change is seen.
#![expect(
    clippy::print_stdout,
    reason = "the names of the cases are its result when it is asked for them"
)]

use std::hint::black_box;

use bytes::BytesMut;
use counterfoil::ledger::{Ledger, LedgerOptions, Seen};
use counterfoil::limits::FRAME_SIZE_MAX;
use counterfoil::model::{
    Currency, Entry, Flags, LogNumber, LogTime, NodeId, OPERATION_SIZE, Operation, OperationId,
    Place, Random, Receipt, ReceiptFlags, ResultCode, RingEpoch, Slot, UserId, user_slot,
};
use counterfoil::protocol::{Message, ReceiptsWriter, RequestWriter, split};
use counterfoil::ring::{RingNode, plan};

const RING_KEY: u128 = 77;
const TIME_START: u64 = 1_750_000_000_000_000_000;

/// Operations of one portion.
const COUNT: u64 = 1_000;

/// Users of the ledger's cases.
const USER_COUNT: u64 = 5_000;

type Portion = Box<dyn FnMut()>;

/// A name, and what makes its portion.
type Case = (&'static str, fn() -> Portion);

const CASES: [Case; 11] = [
    ("request_encode", request_encode),
    ("request_decode", request_decode),
    ("request_decode_single", request_decode_single),
    ("receipts_encode", receipts_encode),
    ("receipts_decode", receipts_decode),
    ("ring_slot", ring_slot),
    ("ring_look_up", ring_look_up),
    ("ledger_apply", ledger_apply),
    ("ledger_get", ledger_get),
    ("ledger_id_look_up", ledger_id_look_up),
    ("ledger_absorb", ledger_absorb),
];

fn user(number: u64) -> UserId {
    UserId::new(u128::from(number) + 1).expect("neither 0 nor all ones")
}

fn currency() -> Currency {
    Currency::new(3).expect("not 0")
}

fn credit(number: u64, time: LogTime) -> Operation {
    let id = OperationId::from_parts(time.ms(), u128::from(number));
    Operation::credit(id, user(number % USER_COUNT), currency(), 100)
        .with_flags(Flags::OPEN_IF_MISSING)
}

fn records(count: u64) -> Vec<[u8; OPERATION_SIZE]> {
    let one = |number| credit(number, LogTime(TIME_START)).to_bytes();
    (0..count).map(one).collect()
}

fn write_request(out: &mut BytesMut, records: &[[u8; OPERATION_SIZE]]) {
    let mut writer = RequestWriter::begin(out, 1, RingEpoch(5), 2_000);
    for record in records {
        writer.push(out, record);
    }
    writer.finish(out);
}

fn read_request(bytes: &[u8]) -> u64 {
    let (frame, _) = split(bytes, FRAME_SIZE_MAX).expect("good").expect("whole");
    let Ok(Message::Request { operations, .. }) = Message::read(&frame) else {
        return 0;
    };
    let good = operations.iter().flatten();
    good.map(|operation| operation.amount()).sum()
}

fn request_encode() -> Portion {
    let records = records(COUNT);
    let mut out = BytesMut::new();
    Box::new(move || {
        out.clear();
        write_request(&mut out, black_box(&records));
    })
}

fn request_decode() -> Portion {
    let mut frame = BytesMut::new();
    write_request(&mut frame, &records(COUNT));
    Box::new(move || assert_eq!(read_request(black_box(&frame)), 100 * COUNT))
}

/// One operation a frame: what small requests cost.
fn request_decode_single() -> Portion {
    let frames: Vec<BytesMut> = records(COUNT)
        .chunks(1)
        .map(|one| {
            let mut frame = BytesMut::new();
            write_request(&mut frame, one);
            frame
        })
        .collect();
    Box::new(move || {
        let sum: u64 = black_box(&frames)
            .iter()
            .map(|frame| read_request(frame))
            .sum();
        assert_eq!(sum, 100 * COUNT);
    })
}

fn write_receipts(out: &mut BytesMut) {
    let mut writer = ReceiptsWriter::begin(out, 1, RingEpoch(5));
    for index in 0..1_000_u16 {
        writer.push(
            out,
            &Receipt {
                index,
                code: ResultCode::Ok,
                flags: ReceiptFlags::CREATED,
                available: i64::from(index) + 100,
                held: 0,
                version: 7,
                place: Place(u64::from(index) * 128),
                amount: 100,
            },
        );
    }
    writer.finish(out);
}

fn receipts_encode() -> Portion {
    let mut out = BytesMut::new();
    Box::new(move || {
        out.clear();
        write_receipts(black_box(&mut out));
    })
}

fn receipts_decode() -> Portion {
    let mut frame = BytesMut::new();
    write_receipts(&mut frame);
    Box::new(move || {
        let (frame, _) = split(black_box(&frame), FRAME_SIZE_MAX)
            .expect("good")
            .expect("whole");
        let Ok(Message::Receipts(receipts)) = Message::read(&frame) else {
            unreachable!("it was written as receipts");
        };
        let good = receipts.iter().flatten();
        let sum: i64 = good.map(|receipt| receipt.available).sum();
        assert_ne!(black_box(sum), 0);
    })
}

fn users() -> Vec<UserId> {
    let mut random = Random::new(1);
    (0..COUNT)
        .filter_map(|_| UserId::new(random.u128()))
        .collect()
}

fn ring_slot() -> Portion {
    let users = users();
    Box::new(move || {
        let slots = black_box(&users)
            .iter()
            .map(|user| user_slot(RING_KEY, *user));
        let sum: u64 = slots.map(|slot| u64::from(slot.0)).sum();
        assert_ne!(black_box(sum), 0);
    })
}

fn ring_look_up() -> Portion {
    let node = |number| RingNode::drawn(RING_KEY, NodeId::new(number).expect("not 0"), 1);
    let table = plan(RingEpoch(1), &(1..=3).map(node).collect::<Vec<_>>());
    let slots: Vec<Slot> = users()
        .iter()
        .map(|user| user_slot(RING_KEY, *user))
        .collect();
    Box::new(move || {
        let owners = black_box(&slots).iter().map(|slot| table.owner(*slot));
        let sum: u64 = owners.flatten().map(|node| u64::from(node.get())).sum();
        assert_ne!(black_box(sum), 0);
    })
}

/// A ledger that has run for a while, and where it is in its log.
struct Running {
    ledger: Ledger,
    index: u64,
}

impl Running {
    fn new() -> Self {
        let mut running = Self {
            ledger: Ledger::new(LedgerOptions {
                ring_key: RING_KEY,
                id_count_max: 1 << 40,
                keep_ids: true,
            }),
            index: 0,
        };
        for _ in 0..4 * USER_COUNT {
            running.apply();
        }
        running
    }

    fn place(index: u64) -> Place {
        Place::new(LogNumber::new(1).expect("not 0"), 4_096 + index * 128)
    }

    const fn time(index: u64) -> LogTime {
        LogTime(TIME_START + index * 1_000)
    }

    fn apply(&mut self) -> Entry {
        self.index += 1;
        let (place, time) = (Self::place(self.index), Self::time(self.index));
        let operation = credit(self.index, time);
        let id = operation.id().expect("a change has one");
        assert!(self.ledger.seen(operation.user(), id, time) == Seen::New);
        Entry::Change(self.ledger.apply(&operation, place, time))
    }
}

fn ledger_apply() -> Portion {
    let mut running = Running::new();
    Box::new(move || {
        for _ in 0..COUNT {
            black_box(running.apply());
        }
    })
}

fn ledger_get() -> Portion {
    let running = Running::new();
    Box::new(move || {
        for number in 0..COUNT {
            black_box(running.ledger.get(user(number), currency().get()));
        }
    })
}

fn ledger_id_look_up() -> Portion {
    let running = Running::new();
    Box::new(move || {
        let now = Running::time(running.index + 1);
        for back in 0..COUNT {
            let index = running.index - back;
            let operation = credit(index, Running::time(index));
            let id = operation.id().expect("a change has one");
            assert!(running.ledger.seen(operation.user(), id, now) != Seen::New);
        }
    })
}

fn ledger_absorb() -> Portion {
    let mut source = Running::new();
    let mut replica = Running::new();
    Box::new(move || {
        for _ in 0..COUNT {
            let entry = source.apply();
            let (place, time) = (Running::place(source.index), Running::time(source.index));
            replica
                .ledger
                .absorb(&entry, place, time)
                .expect("it follows");
        }
    })
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        for (name, _) in CASES {
            println!("{name}");
        }
        return;
    };
    let rounds: u32 = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    let found = CASES.iter().find(|(case, _)| *case == name);
    let (_, prepare) = found.expect("the name of a case");
    let mut portion = prepare();
    for _ in 0..rounds {
        portion();
    }
}
