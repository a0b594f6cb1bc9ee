//! The requests of a role against folders in memory and on a real disk.

mod checkpoints;
mod folders;
mod logs;
mod moves;

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::ledger::{Ledger, LedgerOptions};
use crate::limits::SEGMENT_SIZE_MIN;
use crate::log::{Block, BlockBuilder, BlockSpec, Fault, MemoryMedium, Verify, blocks, log_dir};
use crate::model::{
    Activation, ClusterId, Currency, Entry, EpochMark, Flags, Generation, LogEnd, LogNumber,
    LogTime, Operation, OperationId, Place, Random, RingEpoch, Seq, Slot, SlotRange, Term, UserId,
    to_u64, user_slot,
};
use crate::protocol::AuditRow;
use crate::role::{
    CheckpointInfo, DiskFault, DiskReply, DiskRequest, FileName, LogReport, LogView,
};

const RING_KEY: u128 = 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10;

const START_MS: u64 = 1_700_000_000_000;

fn verify_of(log: LogNumber) -> Verify {
    Verify {
        log,
        cluster: ClusterId::new(5).unwrap(),
        segment_size: SEGMENT_SIZE_MIN,
    }
}

fn number(log: u16) -> LogNumber {
    LogNumber::new(log).unwrap()
}

fn ledger() -> Ledger {
    Ledger::new(LedgerOptions {
        ring_key: RING_KEY,
        id_count_max: 1 << 20,
        keep_ids: true,
    })
}

/// A disk whose lanes are served on the spot.
struct Bench {
    disk: Disk,
    workers: std::collections::BTreeMap<Lane, Box<dyn LaneWorker>>,
}

impl Bench {
    fn on(medium: &MemoryMedium) -> Self {
        let kind = FolderKind::Node;
        let disk = open_on(Arc::new(medium.clone()), DiskOptions { kind }).unwrap();
        Self::of(disk)
    }

    fn of(disk: Disk) -> Self {
        let workers = std::collections::BTreeMap::new();
        Self { disk, workers }
    }

    fn run(&mut self, requests: Vec<DiskRequest>) -> Vec<DiskReply> {
        let lane = requests[0].lane();
        let disk = &self.disk;
        let worker = self
            .workers
            .entry(lane)
            .or_insert_with(|| disk.worker(lane));
        let mut replies = Vec::new();
        worker.run(requests, &mut replies);
        replies
    }

    fn ask(&mut self, request: DiskRequest) -> DiskReply {
        let mut replies = self.run(vec![request]);
        assert_eq!(replies.len(), 1);
        replies.remove(0)
    }

    fn open_log(&mut self, log: LogNumber) -> Option<(LogReport, Arc<dyn LogView>)> {
        let reply = self.ask(DiskRequest::OpenLog { log });
        let DiskReply::LogOpened { report, view, .. } = reply else {
            panic!("{reply:?}");
        };
        report.zip(view)
    }

    fn create_log(&mut self, log: LogNumber, after: LogEnd) -> LogReport {
        let Verify {
            cluster,
            segment_size,
            ..
        } = verify_of(log);
        let request = DiskRequest::CreateLog {
            log,
            cluster,
            segment_size,
            after,
        };
        let reply = self.ask(request);
        let DiskReply::LogOpened { report, .. } = reply else {
            panic!("{reply:?}");
        };
        report.unwrap()
    }

    fn make_checkpoint(&mut self, log: LogNumber, through: LogEnd) -> CheckpointInfo {
        let request = DiskRequest::MakeCheckpoint {
            log,
            through,
            ring_key: RING_KEY,
        };
        let reply = self.ask(request);
        let DiskReply::CheckpointMade { info, .. } = reply else {
            panic!("{reply:?}");
        };
        info
    }

    /// All pieces of the newest checkpoint's file.
    fn read_checkpoint(&mut self, log: LogNumber) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let request = DiskRequest::ReadCheckpoint {
                log,
                offset: to_u64(all.len()),
                size_max: 50_000,
                ticket: 4,
            };
            let DiskReply::CheckpointRead { size, bytes, .. } = self.ask(request) else {
                panic!("no bytes");
            };
            all.extend_from_slice(&bytes);
            if to_u64(all.len()) == size {
                return all;
            }
        }
    }

    /// The newest checkpoint in a ledger.
    fn load_checkpoint(&mut self, log: LogNumber, into: &mut Ledger) -> u64 {
        let (mut cursor, mut pieces) = (0, 0);
        loop {
            let reply = self.ask(DiskRequest::LoadCheckpoint { log, cursor });
            let DiskReply::CheckpointLoaded { records, .. } = reply else {
                panic!("{reply:?}");
            };
            let Some((records, next)) = records else {
                return pieces;
            };
            into.load(records.section, &records.records).unwrap();
            cursor = next;
            pieces += 1;
        }
    }

    fn read_blocks(&mut self, log: LogNumber, offset: u64) -> (u64, Bytes) {
        let request = DiskRequest::ReadBlocks {
            log,
            offset,
            below: u64::MAX,
            size_max: 200_000,
            ticket: 9,
        };
        let reply = self.ask(request);
        let DiskReply::BlocksRead {
            offset,
            blocks,
            ticket: 9,
            ..
        } = reply
        else {
            panic!("{reply:?}");
        };
        (offset, blocks)
    }
}

/// How a log begins.
const EPOCH: Entry = Entry::Epoch(EpochMark {
    generation: Generation(1),
    ring_epoch: RingEpoch(1),
    term: Term(1),
});

/// A node's side: a ledger that executes, and the blocks it logs.
struct Writer {
    log: LogNumber,
    ledger: Ledger,
    builder: BlockBuilder,
    end: LogEnd,
    random: Random,
    id_count: u128,
    user_count: u64,
    /// Log time of the next block at least.
    time_min: u64,
}

impl Writer {
    fn new(log: LogNumber, seed: u64) -> Self {
        Self {
            log,
            ledger: ledger(),
            builder: BlockBuilder::new(),
            end: LogEnd::default(),
            random: Random::new(seed),
            id_count: 0,
            user_count: 500,
            time_min: START_MS * 1_000_000,
        }
    }

    fn begin(&mut self, count: u32) {
        let Verify {
            log,
            cluster,
            segment_size,
        } = verify_of(self.log);
        self.builder.begin(&BlockSpec {
            log,
            cluster,
            segment_size,
            after: &self.end,
            term: Term(1),
            time: LogTime((self.end.time.0 + 1_000_000).max(self.time_min)),
            committed: self.end.seq,
            entry_count_max: count,
        });
    }

    fn finish(&mut self) -> DiskRequest {
        let (block, end) = self.builder.finish();
        self.end = end;
        self.ledger.check_supply().unwrap();
        DiskRequest::Append {
            log: self.log,
            block,
            end,
        }
    }

    /// The first block of a log.
    fn opening(&mut self) -> DiskRequest {
        let all = SlotRange {
            first: Slot(0),
            last: Slot(u16::MAX),
        };
        self.step(&[
            EPOCH,
            Entry::Activation(Activation::new(RingEpoch(1), &[all])),
        ])
    }

    /// A block of other entries than changes.
    fn step(&mut self, entries: &[Entry]) -> DiskRequest {
        self.begin(u32::try_from(entries.len()).unwrap());
        for entry in entries {
            let (place, time) = (self.builder.next_place(), self.builder.next_time());
            self.ledger.absorb(entry, place, time).unwrap();
            self.builder.push(&entry.to_bytes());
        }
        self.finish()
    }

    /// A block of `count` changes.
    fn block(&mut self, count: u32) -> DiskRequest {
        self.begin(count);
        for _ in 0..count {
            let operation = self.operation();
            let (place, time) = (self.builder.next_place(), self.builder.next_time());
            let change = self.ledger.apply(&operation, place, time);
            self.builder.push(&Entry::Change(change).to_bytes());
        }
        self.finish()
    }

    fn operation(&mut self) -> Operation {
        self.id_count += 1;
        let id = OperationId::from_parts(START_MS, self.id_count);
        let user = loop {
            let user = UserId::new(1 + u128::from(self.random.below(self.user_count))).unwrap();
            if self.ledger.owned(user_slot(RING_KEY, user)) {
                break user;
            }
        };
        let currency = Currency::new(1 + u32::try_from(self.random.below(3)).unwrap()).unwrap();
        let amount = 1 + self.random.below(1_000);
        match self.random.below(8) {
            0 => Operation::close(id, user, currency),
            1..3 => Operation::debit(id, user, currency, amount).with_flags(Flags::UP_TO),
            3 => Operation::debit(id, user, currency, amount),
            _ => Operation::credit(id, user, currency, amount).with_flags(Flags::OPEN_IF_MISSING),
        }
    }
}

/// A log with some blocks on a disk in memory.
fn filled(log: LogNumber, block_count: u32) -> (MemoryMedium, Bench, Writer) {
    let medium = MemoryMedium::new();
    let mut bench = Bench::on(&medium);
    bench.create_log(log, LogEnd::default());
    let mut writer = Writer::new(log, u64::from(log.get()));
    let mut requests = vec![writer.opening()];
    requests.extend((0..block_count).map(|_| writer.block(200)));
    let replies = bench.run(requests);
    assert!(matches!(&replies[..], [DiskReply::Durable { end, .. }] if *end == writer.end));
    (medium, bench, writer)
}

fn expect_fault(reply: DiskReply, expected: &DiskFault, words: &str) {
    let DiskReply::Failed { fault, text, .. } = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(fault, *expected, "{text}");
    assert!(text.contains(words), "{text}");
}

/// Fills segments until the log is `size` bytes longer.
fn grow(bench: &mut Bench, writer: &mut Writer, size: u64) {
    let goal = writer.end.offset + size;
    while writer.end.offset < goal {
        let request = writer.block(4_000);
        let reply = bench.ask(request);
        assert!(matches!(reply, DiskReply::Durable { .. }), "{reply:?}");
    }
}
