//! The requests of a role against folders in memory and on a real disk.

use std::sync::Arc;

use bytes::Bytes;

use super::fold::make_checkpoint;
use super::look::look_on;
use super::verify::verify_look;
use super::*;
use crate::ledger::{Ledger, LedgerOptions};
use crate::limits::SEGMENT_SIZE_MIN;
use crate::log::{Block, BlockBuilder, BlockSpec, Fault, MemoryMedium, Verify, blocks, log_dir};
use crate::model::{
    Activation, ClusterId, Currency, Entry, EpochMark, Flags, Generation, LogEnd, LogNumber,
    LogTime, Operation, OperationId, Place, Random, RingEpoch, Seq, Slot, SlotRange, Term, UserId,
    to_u64,
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

/// A node's side: a ledger that executes, and the blocks it logs.
struct Writer {
    log: LogNumber,
    ledger: Ledger,
    builder: BlockBuilder,
    end: LogEnd,
    random: Random,
    id_count: u128,
    user_count: u64,
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
            time: LogTime((self.end.time.0 + 1_000_000).max(START_MS * 1_000_000)),
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
        let entries = [
            Entry::Epoch(EpochMark {
                generation: Generation(1),
                ring_epoch: RingEpoch(1),
                term: Term(1),
            }),
            Entry::Activation(Activation::new(RingEpoch(1), &[all])),
        ];
        self.begin(2);
        for entry in entries {
            let (place, time) = (self.builder.next_place(), self.builder.next_time());
            self.ledger.absorb(&entry, place, time).unwrap();
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
        let user = UserId::new(1 + u128::from(self.random.below(self.user_count))).unwrap();
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

#[test]
fn files_are_saved_and_loaded() {
    let medium = MemoryMedium::new();
    let mut bench = Bench::on(&medium);
    let load = |bench: &mut Bench| {
        let name = FileName::Authority;
        let reply = bench.ask(DiskRequest::LoadFile { name });
        let DiskReply::FileLoaded { bytes, .. } = reply else {
            panic!("{reply:?}");
        };
        bytes
    };
    assert_eq!(load(&mut bench), None);
    let bytes = Bytes::from_static(b"who");
    let name = FileName::Authority;
    let saved = bench.ask(DiskRequest::SaveFile {
        name,
        bytes: bytes.clone(),
    });
    assert!(matches!(saved, DiskReply::FileSaved { .. }));
    assert_eq!(load(&mut bench), Some(bytes.clone()));
    medium.damage("authority", 33, b"x");
    let damaged = bench.ask(DiskRequest::LoadFile { name });
    expect_fault(damaged, &DiskFault::Damage, "authority does not verify");
    medium.fail(Fault::Sync(0));
    let unsure = bench.ask(DiskRequest::SaveFile { name, bytes });
    expect_fault(unsure, &DiskFault::Poisoned, "authority");
}

#[test]
fn appends_share_one_sync_and_one_reply() {
    let log = number(3);
    let (medium, mut bench, mut writer) = filled(log, 1);
    let before = medium.sync_count();
    let requests: Vec<_> = (0..20).map(|_| writer.block(10)).collect();
    let replies = bench.run(requests);
    assert_eq!(medium.sync_count(), before + 1);
    assert!(matches!(&replies[..], [DiskReply::Durable { end, .. }] if *end == writer.end));
    let mut again = Bench::on(&medium);
    assert!(again.open_log(number(4)).is_none());
    let (report, view) = again.open_log(log).unwrap();
    assert_eq!(
        (report.end, report.torn, report.damage),
        (writer.end, None, None)
    );
    assert_eq!(report.committed.next(), writer.end.seq);
    let (_, bytes) = again.read_blocks(log, 0);
    let mut count = 0;
    for block in blocks(&bytes, verify_of(log)).map(Result::unwrap) {
        for (place, _, entry) in block.entries() {
            assert_eq!(view.recent_entry(place), Some(*entry));
            let read = again.ask(DiskRequest::ReadEntry { place, ticket: 7 });
            assert!(
                matches!(read, DiskReply::EntryRead { ticket: 7, entry: Some(found), .. } if found == *entry)
            );
            count += 1;
        }
    }
    assert_eq!(count, 2 + 200 + 20 * 10);
}

#[test]
fn failures_name_their_request_and_keep_to_their_kind() {
    let log = number(3);
    let (medium, mut bench, mut writer) = filled(log, 1);
    let good = writer.block(10);
    let skipped = writer.block(10);
    expect_fault(
        bench.ask(skipped),
        &DiskFault::Other,
        "block 4 where 3 is due",
    );
    medium.fail(Fault::Sync(0));
    let next = writer.block(10);
    let replies = bench.run(vec![good.clone(), next]);
    assert_eq!(replies.len(), 2);
    for reply in replies {
        expect_fault(reply, &DiskFault::Poisoned, "sync fails on demand");
    }
    expect_fault(
        bench.ask(good),
        &DiskFault::Poisoned,
        "sync fails on demand",
    );
    let unopened = DiskRequest::PrepareSegment { log: number(9) };
    expect_fault(bench.ask(unopened), &DiskFault::Other, "log 9 is not open");
    medium.limit(Some(0));
    let full = bench.ask(DiskRequest::PrepareSegment { log });
    expect_fault(full, &DiskFault::NoSpace, "no space left");
    let free = bench.ask(DiskRequest::MeasureFreeSpace);
    assert!(matches!(free, DiskReply::FreeSpace { size: 0 }));
}

#[test]
fn a_checkpoint_is_what_the_ledger_would_write() {
    let log = number(3);
    let (_, mut bench, mut writer) = filled(log, 30);
    let empty = bench.ask(DiskRequest::LoadCheckpoint { log, cursor: 0 });
    assert!(matches!(
        empty,
        DiskReply::CheckpointLoaded { records: None, .. }
    ));
    for _ in 0..4 {
        // In several rounds: the bound is far below what changes.
        let shared = &bench.disk.shared;
        let info = make_checkpoint(shared, log, &writer.end, RING_KEY, 700).unwrap();
        assert_eq!(info.end, writer.end);
        assert_eq!(
            info,
            bench.make_checkpoint(log, writer.end),
            "nothing to do"
        );
        let mut loaded = ledger();
        assert!(2 < bench.load_checkpoint(log, &mut loaded));
        loaded.check_supply().unwrap();
        assert_eq!(loaded.digest(), writer.ledger.digest());
        assert_eq!(loaded.id_digest(), writer.ledger.id_digest());
        assert_eq!(loaded.supply(), writer.ledger.supply());
        assert_eq!(to_u64(bench.read_checkpoint(log).len()), info.size);
        let more = (0..10).map(|_| writer.block(150)).collect();
        bench.run(more);
    }
    let other_key = DiskRequest::MakeCheckpoint {
        log,
        through: writer.end,
        ring_key: 1,
    };
    expect_fault(bench.ask(other_key), &DiskFault::Other, "another hash key");
}

#[test]
fn restart_is_checkpoint_and_tail() {
    let log = number(3);
    let (medium, mut bench, mut writer) = filled(log, 10);
    let checkpoint = bench.make_checkpoint(log, writer.end);
    let more = (0..10).map(|_| writer.block(50)).collect();
    bench.run(more);
    let mut again = Bench::on(&medium);
    let (report, _) = again.open_log(log).unwrap();
    assert_eq!(report.checkpoint, Some(checkpoint));
    let mut loaded = ledger();
    again.load_checkpoint(log, &mut loaded);
    let (_, bytes) = again.read_blocks(log, checkpoint.end.offset);
    for block in blocks(&bytes, verify_of(log)).map(Result::unwrap) {
        absorb(&mut loaded, &block);
    }
    assert_eq!(loaded.digest(), writer.ledger.digest());
    assert_eq!(loaded.id_digest(), writer.ledger.id_digest());
}

fn absorb(ledger: &mut Ledger, block: &Block<'_>) {
    for (place, time, entry) in block.entries() {
        let entry = Entry::read(entry).unwrap();
        ledger.absorb(&entry, place, time).unwrap();
    }
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

/// Copies the newest checkpoint piece by piece.
fn copy_checkpoint(from: &mut Bench, to: &mut Bench, log: LogNumber) -> Option<CheckpointInfo> {
    let file = from.read_checkpoint(log);
    let size = to_u64(file.len());
    let mut written = None;
    for (index, piece) in file.chunks(70_000).enumerate() {
        let reply = to.ask(DiskRequest::WriteCheckpoint {
            log,
            offset: to_u64(index * 70_000),
            bytes: Bytes::copy_from_slice(piece),
            size,
        });
        let DiskReply::CheckpointWritten { info, .. } = reply else {
            panic!("{reply:?}");
        };
        assert_eq!(written, None, "only the last piece completes it");
        written = info;
    }
    written
}

/// Creates the log at `first_offset` and copies all blocks from there on.
fn copy_log(from: &mut Bench, to: &mut Bench, log: LogNumber, first_offset: u64) {
    let (mut offset, mut bytes) = from.read_blocks(log, first_offset);
    let head = *Block::read(&bytes, &verify_of(log))
        .unwrap()
        .unwrap()
        .head();
    let after = LogEnd {
        seq: Seq(head.seq.0 - 1),
        chain: head.previous_chain,
        offset: first_offset,
        ..LogEnd::default()
    };
    let created = to.create_log(log, after);
    assert_eq!((created.end, created.first_offset), (after, first_offset));
    while !bytes.is_empty() {
        let mut end = LogEnd::default();
        for block in blocks(&bytes, verify_of(log)).map(Result::unwrap) {
            let at = usize::try_from(block.first_offset() - offset).unwrap();
            let size = usize::try_from(block.size()).unwrap();
            end = block.end();
            let block = bytes.slice(at..at + size);
            let reply = to.ask(DiskRequest::Append { log, block, end });
            assert!(matches!(reply, DiskReply::Durable { .. }), "{reply:?}");
        }
        (offset, bytes) = from.read_blocks(log, end.offset);
    }
}

/// A log that was retired below a checkpoint and went on.
fn retired(log: LogNumber) -> (MemoryMedium, Bench, Writer, CheckpointInfo) {
    let (medium, mut bench, mut writer) = filled(log, 3);
    grow(&mut bench, &mut writer, 3 * SEGMENT_SIZE_MIN);
    let below = writer.end.offset;
    let early = bench.ask(DiskRequest::RetireSegments { log, below });
    expect_fault(early, &DiskFault::Other, "its checkpoint stands for 0");
    let checkpoint = bench.make_checkpoint(log, writer.end);
    let reply = bench.ask(DiskRequest::RetireSegments { log, below });
    let DiskReply::Retired { first_offset, .. } = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(first_offset, 3 * SEGMENT_SIZE_MIN);
    grow(&mut bench, &mut writer, SEGMENT_SIZE_MIN);
    (medium, bench, writer, checkpoint)
}

#[test]
fn segments_retire_below_the_checkpoint() {
    let log = number(3);
    let (medium, _, writer, checkpoint) = retired(log);
    let (report, _) = Bench::on(&medium).open_log(log).unwrap();
    assert_eq!(report.end, writer.end);
    assert_eq!(report.first_offset, 3 * SEGMENT_SIZE_MIN);
    assert_eq!(report.checkpoint, Some(checkpoint));
    assert_eq!(report.terms.len(), 1);
    assert_eq!(report.terms[0].seq, Seq(1), "known from the base");
}

#[test]
fn an_empty_folder_is_filled_from_a_checkpoint_and_the_log_above_it() {
    let log = number(3);
    let (medium, mut bench, writer, checkpoint) = retired(log);
    let other = MemoryMedium::new();
    let mut copy = Bench::on(&other);
    assert_eq!(
        copy_checkpoint(&mut bench, &mut copy, log),
        Some(checkpoint)
    );
    copy_log(&mut bench, &mut copy, log, 3 * SEGMENT_SIZE_MIN);
    let mut loaded = ledger();
    assert!(0 < copy.load_checkpoint(log, &mut loaded));

    let (report, _) = Bench::on(&other).open_log(log).unwrap();
    assert_eq!(report.end, writer.end);
    assert_eq!(report.checkpoint, Some(checkpoint));
    assert_eq!(report.terms.len(), 1);
    assert_eq!(report.terms[0].seq, Seq(1), "known from the checkpoint");
    let here = look_on(Arc::new(medium), None).unwrap();
    let there = look_on(Arc::new(other), None).unwrap();
    let verified = verify_look(&here, Some(&there), &mut |_, _| ());
    assert!(verified.is_sound(), "{verified:?}");
    assert_eq!(verified.comparisons[0].equal_through, writer.end.seq);
}

#[test]
fn a_garbled_copy_of_a_checkpoint_is_refused() {
    let log = number(3);
    let (_, mut bench, writer) = filled(log, 3);
    bench.make_checkpoint(log, writer.end);
    let mut file = bench.read_checkpoint(log);
    let middle = file.len() - 40_000;
    file[middle] ^= 1;
    let mut copy = Bench::on(&MemoryMedium::new());
    let size = to_u64(file.len());
    let write = |offset, bytes: &[u8]| DiskRequest::WriteCheckpoint {
        log,
        offset,
        bytes: Bytes::copy_from_slice(bytes),
        size,
    };
    let early = copy.ask(write(5, &file[5..9]));
    expect_fault(early, &DiskFault::Other, "no checkpoint of log 3 was begun");
    let reply = copy.ask(write(0, &file));
    expect_fault(reply, &DiskFault::Damage, "does not verify");
    let reply = copy.ask(write(0, &file[..100]));
    assert!(matches!(
        reply,
        DiskReply::CheckpointWritten { info: None, .. }
    ));
    let gap = copy.ask(write(101, &file[101..]));
    expect_fault(gap, &DiskFault::Other, "100 of");
}

#[test]
fn the_audit_adds_up_all_logs_at_their_ends() {
    let medium = MemoryMedium::new();
    let mut bench = Bench::on(&medium);
    let mut writers: Vec<_> = [1, 2]
        .map(|log| Writer::new(number(log), u64::from(log)))
        .into();
    for writer in &mut writers {
        bench.create_log(writer.log, LogEnd::default());
        let requests = vec![writer.opening(), writer.block(3_000)];
        bench.run(requests);
    }
    let ends: Vec<_> = writers
        .iter()
        .map(|writer| (writer.log, writer.end))
        .collect();
    let mut expected = std::collections::BTreeMap::new();
    for writer in &writers {
        for (currency, supply) in writer.ledger.supply() {
            let sum: &mut (u128, u128, i128) = expected.entry(currency).or_default();
            sum.0 += supply.issued;
            sum.1 += supply.burned;
            sum.2 += supply.available;
        }
    }
    // More is appended meanwhile: the audit stands for the ends it was asked for.
    for writer in &mut writers {
        let request = writer.block(500);
        bench.ask(request);
    }
    let mut audit = |ends: &[(LogNumber, LogEnd)]| {
        let reply = bench.ask(DiskRequest::Audit {
            ends: ends.to_vec(),
            ring_key: RING_KEY,
            ticket: 8,
        });
        let DiskReply::Audited { rows, ticket: 8 } = reply else {
            panic!("{reply:?}");
        };
        rows
    };
    let rows = audit(&ends);
    assert_eq!(rows.len(), expected.len());
    for AuditRow {
        currency,
        issued,
        burned,
        available,
        difference,
        ..
    } in rows
    {
        assert_eq!((issued, burned, available), expected[&currency]);
        assert_eq!(difference, 0);
    }
    let later: Vec<_> = writers
        .iter()
        .map(|writer| (writer.log, writer.end))
        .collect();
    audit(&later);
    let writer = &writers[0];
    let reply = bench.ask(DiskRequest::AdvanceReplica {
        log: writer.log,
        through: writer.end,
        ring_key: RING_KEY,
    });
    let DiskReply::ReplicaAt { end, digest, .. } = reply else {
        panic!("{reply:?}");
    };
    assert_eq!((end, digest), (writer.end, writer.ledger.digest()));
}

#[test]
fn a_replica_goes_in_bounded_steps_and_follows_a_cut() {
    let log = number(3);
    let (_, mut bench, mut writer) = filled(log, 3);
    let kept = writer.end;
    let digest_kept = writer.ledger.digest();
    grow(&mut bench, &mut writer, 12 << 20);
    let advance = |bench: &mut Bench, through| {
        let reply = bench.ask(DiskRequest::AdvanceReplica {
            log,
            through,
            ring_key: RING_KEY,
        });
        let DiskReply::ReplicaAt { end, digest, .. } = reply else {
            panic!("{reply:?}");
        };
        (end, digest)
    };
    let mut steps = 0;
    loop {
        let (end, digest) = advance(&mut bench, writer.end);
        steps += 1;
        if end == writer.end {
            assert_eq!(digest, writer.ledger.digest());
            break;
        }
    }
    assert_eq!(steps, 3);
    let cut = bench.ask(DiskRequest::CutLog { log, to: kept });
    assert!(matches!(cut, DiskReply::LogCut { aside_size, .. } if 12 << 20 < aside_size));
    assert_eq!(advance(&mut bench, kept), (kept, digest_kept));
}

#[test]
fn a_new_log_puts_the_old_one_and_its_checkpoint_aside() {
    let log = number(3);
    let (medium, mut bench, writer) = filled(log, 3);
    bench.make_checkpoint(log, writer.end);
    let report = bench.create_log(log, LogEnd::default());
    assert_eq!((report.end, report.checkpoint), (LogEnd::default(), None));
    let aside = look_on(Arc::new(medium.clone()), None)
        .unwrap()
        .quarantine()
        .unwrap();
    assert_eq!(aside.len(), 3, "segment, base, checkpoint: {aside:?}");
    let mut again = Bench::on(&medium);
    let (report, _) = again.open_log(log).unwrap();
    assert_eq!((report.end, report.checkpoint), (LogEnd::default(), None));
}

#[test]
fn verify_finds_what_is_wrong() {
    let log = number(3);
    let (medium, mut bench, mut writer) = filled(log, 20);
    let middle = writer.end;
    bench.run((0..5).map(|_| writer.block(20)).collect());
    bench.make_checkpoint(log, middle);
    let check = |medium: &MemoryMedium, other: Option<&MemoryMedium>| {
        let before = (medium.step_count(), medium.paths());
        let look = look_on(Arc::new(medium.clone()), None).unwrap();
        let other = other.map(|other| look_on(Arc::new(other.clone()), None).unwrap());
        let report = verify_look(&look, other.as_ref(), &mut |_, _| ());
        assert_eq!(
            (medium.step_count(), medium.paths()),
            before,
            "nothing is changed"
        );
        report
    };
    let report = check(&medium, Some(&medium.fork()));
    assert!(report.is_sound(), "{report:?}");
    let replay = report.logs[0].replay.as_ref().unwrap();
    assert_eq!(replay.digest, writer.ledger.digest());
    assert_eq!(replay.end, writer.end);
    assert!(
        replay
            .supply
            .iter()
            .all(|(_, _, difference)| *difference == 0)
    );

    let segment = format!("{}/segment-{:016x}", log_dir(log), 0);
    let damaged = medium.fork();
    damaged.damage(&segment, 20_000, &[0xee; 4]);
    let report = check(&damaged, Some(&medium));
    assert!(!report.is_sound());
    let problems = report.logs[0].problems.join("; ");
    assert!(problems.contains("block 2 of log 3 is lost"), "{problems}");
    assert_eq!(
        report.comparisons[0].difference, None,
        "equal as far as it goes"
    );

    let name = format!("{}/checkpoint-{:016x}", log_dir(log), middle.offset);
    let damaged = medium.fork();
    damaged.damage(&name, 70_000, &[0xee; 4]);
    let problems = check(&damaged, None).logs[0].problems.join("; ");
    assert!(problems.contains("does not verify"), "{problems}");

    // Two histories of one log.
    let (forked, mut fork_bench, mut fork_writer) = filled(log, 20);
    fork_writer.user_count = 3;
    fork_bench.run((0..5).map(|_| fork_writer.block(20)).collect());
    let report = check(&medium, Some(&forked));
    let difference = report.comparisons[0].difference.as_ref().unwrap();
    let due = middle.seq.next();
    assert!(
        difference.starts_with(&format!("block {due} ")),
        "{difference}"
    );
    assert_eq!(report.comparisons[0].equal_through, middle.seq);
}

#[test]
fn crashes_between_checkpoint_and_retirement_lose_nothing() {
    for seed in 0..40 {
        let log = number(3);
        let run = |snapshot_at: Option<u64>| {
            let medium = MemoryMedium::new();
            if let Some(step) = snapshot_at {
                medium.snapshot_at(step);
            }
            let mut bench = Bench::on(&medium);
            bench.create_log(log, LogEnd::default());
            let mut writer = Writer::new(log, seed);
            bench.run(vec![writer.opening()]);
            let created = medium.step_count();
            grow(&mut bench, &mut writer, 2 * SEGMENT_SIZE_MIN);
            bench.make_checkpoint(log, writer.end);
            let below = writer.end.offset;
            bench.ask(DiskRequest::RetireSegments { log, below });
            bench.ask(DiskRequest::PrepareSegment { log });
            (medium, created)
        };
        let (whole, created) = run(None);
        let mut random = Random::new(seed);
        let step = created + random.below(whole.step_count() - created);
        let (medium, _) = run(Some(step));
        let (before, _) = medium.snapshot().unwrap();
        let after = before.crash(&mut random);
        let mut bench = Bench::on(&after);
        let (report, _) = bench.open_log(log).unwrap();
        assert_eq!(report.damage, None, "seed {seed}");
        assert!(
            report.first_offset == 0 || report.checkpoint.is_some(),
            "seed {seed}: what was retired is in a checkpoint"
        );
        if report.torn.is_some() {
            bench.ask(DiskRequest::CutLog {
                log,
                to: report.end,
            });
        }
        let reply = bench.ask(DiskRequest::Audit {
            ends: vec![(log, report.end)],
            ring_key: RING_KEY,
            ticket: 0,
        });
        assert!(
            matches!(reply, DiskReply::Audited { .. }),
            "seed {seed}: {reply:?}"
        );
    }
}

#[test]
fn a_folder_belongs_to_one_process_of_one_kind() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let open_as = |kind| open(&data, DiskOptions { kind });
    let first = open_as(FolderKind::Node).unwrap();
    let second = open_as(FolderKind::Node).unwrap_err();
    assert!(matches!(second, OpenError::InUse), "{second}");
    assert!(matches!(look(&data).unwrap_err(), OpenError::InUse));
    drop(first);
    let other = open_as(FolderKind::Backup).unwrap_err();
    assert_eq!(
        other.to_string(),
        "this is the data folder of a node, not of a backup"
    );
    assert_eq!(look(&data).unwrap().kind(), FolderKind::Node);
    use std::os::unix::fs::PermissionsExt;
    for (path, mode) in [(data.clone(), 0o700), (data.join("kind"), 0o600)] {
        let found = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode);
    }
    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("photos"), b"").unwrap();
    let error = open(
        &foreign,
        DiskOptions {
            kind: FolderKind::Node,
        },
    );
    assert!(matches!(error.unwrap_err(), OpenError::Foreign(name) if name == "photos"));
    assert!(matches!(
        look(dir.path().join("none").as_path()),
        Err(OpenError::Missing)
    ));
}

#[test]
fn all_of_it_works_on_a_real_folder() {
    let dir = tempfile::tempdir().unwrap();
    let options = DiskOptions {
        kind: FolderKind::Backup,
    };
    let log = number(3);
    let mut writer = Writer::new(log, 1);
    let mut bench = Bench::of(open(dir.path(), options).unwrap());
    bench.create_log(log, LogEnd::default());
    let requests = vec![writer.opening(), writer.block(100)];
    bench.run(requests);
    grow(&mut bench, &mut writer, 2 * SEGMENT_SIZE_MIN);
    bench.make_checkpoint(log, writer.end);
    let below = writer.end.offset;
    bench.ask(DiskRequest::RetireSegments { log, below });
    bench.ask(DiskRequest::PrepareSegment { log });
    grow(&mut bench, &mut writer, SEGMENT_SIZE_MIN);
    let DiskReply::FreeSpace { size } = bench.ask(DiskRequest::MeasureFreeSpace) else {
        panic!("no figure");
    };
    assert!(0 < size);
    drop(bench);
    let mut calls = 0;
    let report = verify(dir.path(), None, &mut |_, _| calls += 1).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert!(0 < calls);
    let replay = report.logs[0].replay.as_ref().unwrap();
    assert_eq!(replay.digest, writer.ledger.digest());
    assert_eq!(replay.account_count, writer.ledger.account_count());
    let mut bench = Bench::of(open(dir.path(), options).unwrap());
    let (report, view) = bench.open_log(log).unwrap();
    assert_eq!(
        (report.end, report.torn, report.damage),
        (writer.end, None, None)
    );
    assert!(
        view.recent_entry(Place::new(log, writer.end.offset - 128))
            .is_some()
    );
}
