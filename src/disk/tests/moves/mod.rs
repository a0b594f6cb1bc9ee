//! Slots on their way: images cut by the replica, copied, adopted, folded, lost and cut again.

mod drafts;

use super::*;
use crate::disk::look::look_on;
use crate::disk::verify::verify_look;
use crate::ledger::record_size;
use crate::model::{
    Adopt, AdoptedFile, Adoption, HandOver, HandOverHead, HandedSum, HandedSums, MoveNumber,
    NodeId, Section,
};
use crate::role::{ActivationPart, CheckpointRecords, HandOverPart, ImageInfo, MoveEvent};

const NUMBER: MoveNumber = MoveNumber(7);

const HALF: [SlotRange; 2] = [
    SlotRange {
        first: Slot(0),
        last: Slot(20_000),
    },
    SlotRange {
        first: Slot(30_000),
        last: Slot(42_000),
    },
];

fn source() -> LogNumber {
    number(1)
}

fn target() -> LogNumber {
    number(2)
}

/// A folder with two logs, and what their nodes do.
struct Pair {
    medium: MemoryMedium,
    bench: Bench,
    source: Writer,
    target: Writer,
}

/// What the replica said of a hand-over.
#[derive(Clone, Copy)]
struct Handed {
    place: Place,
    image: ImageInfo,
}

impl Pair {
    fn new(medium: MemoryMedium) -> Self {
        let mut bench = Bench::on(&medium);
        bench.create_log(source(), LogEnd::default());
        bench.create_log(target(), LogEnd::default());
        let (mut source, mut target) = (Writer::new(source(), 1), Writer::new(target(), 2));
        let mut requests = vec![source.opening()];
        requests.extend((0..5).map(|_| source.block(200)));
        bench.run(requests);
        bench.run(vec![target.step(&[EPOCH])]);
        // Ids of both are of one space.
        target.id_count = 1 << 40;
        Self {
            medium,
            bench,
            source,
            target,
        }
    }

    fn append(&mut self, request: DiskRequest) {
        let reply = self.bench.ask(request);
        assert!(matches!(reply, DiskReply::Durable { .. }), "{reply:?}");
    }

    /// The source logs that half of the ring leaves, and goes on.
    fn hand_over(&mut self) {
        let sums = self.source.ledger.sums_of(&HALF);
        let entries = hand_over_entries(NUMBER, &HALF, &sums);
        let request = self.source.step(&entries);
        self.append(request);
        let request = self.source.block(100);
        self.append(request);
    }

    fn advance(&mut self, log: LogNumber) -> DiskReply {
        let end = if log == source() {
            self.source.end
        } else {
            self.target.end
        };
        self.bench.ask(DiskRequest::AdvanceReplica {
            log,
            through: end,
            ring_key: RING_KEY,
        })
    }

    /// What the replica of a log, taken to its end, says happened.
    fn events(&mut self, log: LogNumber) -> Vec<MoveEvent> {
        let writer = if log == source() {
            &self.source
        } else {
            &self.target
        };
        let (due, digest) = (writer.end, writer.ledger.digest());
        let reply = self.advance(log);
        let DiskReply::ReplicaAt {
            end,
            digest: found,
            events,
            ..
        } = reply
        else {
            panic!("{reply:?}");
        };
        assert_eq!((end, found), (due, digest));
        events
    }

    fn handed(&mut self) -> Handed {
        let events = self.events(source());
        let [
            MoveEvent::HandedOver {
                number: NUMBER,
                place,
                image,
                ..
            },
        ] = events[..]
        else {
            panic!("{events:?}");
        };
        Handed { place, image }
    }

    /// The target takes the image in and says so.
    fn adopt(&mut self, handed: Handed) {
        let staged = stage(&mut self.bench, &mut self.target.ledger, NUMBER);
        assert_eq!(staged, handed.image.slot_digest);
        self.target.time_min = handed.image.time.0 + 1;
        let request = self.target.step(&adoption(handed).entries());
        self.append(request);
    }

    fn activate(&mut self) {
        let request = self
            .target
            .step(&Activation::list(NUMBER, RingEpoch(2), &HALF));
        self.append(request);
        let request = self.target.block(100);
        self.append(request);
    }

    fn audit(&mut self) -> Vec<AuditRow> {
        let reply = self.bench.ask(DiskRequest::Audit {
            ends: vec![(source(), self.source.end), (target(), self.target.end)],
            ring_key: RING_KEY,
            ticket: 3,
        });
        let DiskReply::Audited { rows, .. } = reply else {
            panic!("{reply:?}");
        };
        assert!(rows.iter().all(|row| row.difference == 0));
        rows
    }

    /// A checkpoint up to the log's end has what a ledger would write.
    fn check_checkpoint(&mut self, log: LogNumber) {
        let writer = if log == source() {
            &self.source
        } else {
            &self.target
        };
        let (end, expected) = (writer.end, records(&writer.ledger));
        assert_eq!(self.bench.make_checkpoint(log, end).end, end);
        let mut loaded = ledger();
        self.bench.load_checkpoint(log, &mut loaded);
        loaded.check_supply().unwrap();
        assert!(records(&loaded) == expected, "log {log}");
    }
}

fn records(ledger: &Ledger) -> Vec<Vec<u8>> {
    Section::ALL.map(|section| ledger.records(section)).to_vec()
}

fn hand_over_entries(number: MoveNumber, ranges: &[SlotRange], sums: &[HandedSum]) -> Vec<Entry> {
    let head = HandOverHead {
        number,
        ring_epoch: RingEpoch(1),
        target: NodeId::new(2).unwrap(),
        target_log: target(),
    };
    let mut entries = HandOver::list(&head, ranges);
    entries.extend(HandedSums::list(sums));
    entries
}

fn adoption(handed: Handed) -> Adoption {
    let image = handed.image;
    Adoption {
        adopt: Adopt {
            number: NUMBER,
            ring_epoch: RingEpoch(1),
            source_log: source(),
            slots_entry_count: 0,
            hand_over: handed.place,
            digest: image.slot_digest,
            horizon_ms: image.horizon_ms,
            time: image.time,
        },
        file: AdoptedFile {
            number: NUMBER,
            image: NUMBER,
            size: image.size,
            digest: image.digest,
            offset: image.offset,
            account_count: image.account_count,
        },
        ranges: HALF.to_vec(),
    }
}

/// Loads an image through the disk. The digest of what is staged.
fn stage(bench: &mut Bench, ledger: &mut Ledger, number: MoveNumber) -> u128 {
    ledger.stage_begin(number, &HALF).unwrap();
    let mut cursor = 0;
    loop {
        let reply = bench.ask(DiskRequest::LoadMoveFile {
            number,
            cursor,
            page_count_max: 3,
        });
        let DiskReply::MoveFileLoaded {
            found: true,
            records,
            next,
            end,
            ..
        } = reply
        else {
            panic!("{reply:?}");
        };
        assert!(records.len() <= 3);
        for CheckpointRecords { section, records } in records {
            assert!(records.len().is_multiple_of(record_size(section)));
            ledger.stage_load(section, &records).unwrap();
        }
        assert!(cursor < next && next <= end);
        if next == end {
            return ledger.stage_end().unwrap().digest;
        }
        cursor = next;
    }
}

fn path() -> String {
    format!("moves/{:016x}", NUMBER.0)
}

/// All bytes of an image, through the disk.
fn read_image(bench: &mut Bench) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let reply = bench.ask(DiskRequest::ReadMoveFile {
            number: NUMBER,
            offset: to_u64(all.len()),
            size_max: 50_000,
            ticket: 6,
        });
        let DiskReply::MoveFileRead { size, bytes, .. } = reply else {
            panic!("{reply:?}");
        };
        all.extend_from_slice(&bytes);
        if to_u64(all.len()) == size {
            return all;
        }
    }
}

fn write_image(bench: &mut Bench, file: &[u8]) -> DiskReply {
    let mut last = None;
    for (index, piece) in file.chunks(70_000).enumerate() {
        last = Some(bench.ask(DiskRequest::WriteMoveFile {
            number: NUMBER,
            offset: to_u64(index * 70_000),
            bytes: Bytes::copy_from_slice(piece),
            size: to_u64(file.len()),
        }));
    }
    last.unwrap()
}

#[test]
fn a_move_from_log_to_log() {
    let mut pair = Pair::new(MemoryMedium::new());
    assert!(read_image(&mut pair.bench).is_empty(), "none yet");
    pair.hand_over();
    let handed = pair.handed();
    assert_eq!(pair.events(source()), [], "said once");
    let held: i128 = {
        let out = |row: &AuditRow| row.adopted_out - row.adopted_in;
        pair.audit().iter().map(out).sum()
    };
    assert!(0 < held);
    pair.check_checkpoint(source());

    pair.adopt(handed);
    let end = pair.target.end;
    let events = pair.events(target());
    let [
        MoveEvent::Adopted {
            number: NUMBER,
            end: at,
            image: NUMBER,
            info,
            ..
        },
    ] = events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!((at, info), (end, handed.image));
    let early = pair.bench.make_checkpoint(target(), end);
    assert_eq!(early.end.seq, Seq(1), "none inside of an adoption");
    assert_eq!(pair.bench.make_checkpoint(target(), end), early);

    pair.activate();
    let events = pair.events(target());
    assert!(
        matches!(events[..], [MoveEvent::Activated { number: NUMBER, .. }]),
        "{events:?}"
    );
    assert_eq!(
        pair.audit()
            .iter()
            .map(|row| row.adopted_out - row.adopted_in)
            .sum::<i128>(),
        0
    );
    pair.check_checkpoint(target());
    assert_eq!(pair.target.ledger.account_count(), {
        let accounts = pair.target.ledger.records(Section::Accounts);
        to_u64(accounts.len() / record_size(Section::Accounts))
    });
    let look = look_on(Arc::new(pair.medium.clone()), None).unwrap();
    let report = verify_look(&look, None, &mut |_, _| ());
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(
        report.logs[1].replay.as_ref().unwrap().digest,
        pair.target.ledger.digest()
    );
    assert_eq!(report.images.len(), 1);
}

#[test]
fn an_image_is_copied_and_kept_as_long_as_it_is_named() {
    let mut pair = Pair::new(MemoryMedium::new());
    pair.hand_over();
    pair.handed();
    let file = read_image(&mut pair.bench);
    assert_eq!(Some(&file), pair.medium.content(&path()).as_ref());
    let other = MemoryMedium::new();
    let mut node = Bench::on(&other);
    let mut broken = file.clone();
    broken[100_000] ^= 1;
    expect_fault(
        write_image(&mut node, &broken),
        &DiskFault::Damage,
        "does not verify",
    );
    assert!(read_image(&mut node).is_empty());
    let written = write_image(&mut node, &file);
    assert!(
        matches!(
            written,
            DiskReply::MoveFileWritten {
                is_complete: true,
                ..
            }
        ),
        "{written:?}"
    );
    assert_eq!(other.content(&path()), Some(file.clone()));
    let mut copied = ledger();
    stage(&mut node, &mut copied, NUMBER);

    let mut keep = |numbers: &[MoveNumber], below| {
        let reply = node.ask(DiskRequest::KeepMoveFiles {
            numbers: numbers.to_vec(),
            below,
        });
        assert!(matches!(reply, DiskReply::MoveFilesKept), "{reply:?}");
        other.content(&path()).is_some()
    };
    assert!(keep(&[MoveNumber(3), NUMBER], MoveNumber(99)));
    assert!(keep(&[], NUMBER), "it may be younger than the request");
    assert!(!keep(&[MoveNumber(3)], NUMBER.next()));

    // One that does not verify is put aside: fetch it again.
    write_image(&mut node, &file);
    other.damage(&path(), 80_000, &[0xee; 4]);
    let reply = node.ask(DiskRequest::LoadMoveFile {
        number: NUMBER,
        cursor: 0,
        page_count_max: 99,
    });
    assert!(
        matches!(reply, DiskReply::MoveFileLoaded { found: false, .. }),
        "{reply:?}"
    );
    assert_eq!(other.content(&path()), None);
    assert!(
        other
            .content(&format!("quarantine/moves-{:016x}-0", NUMBER.0))
            .is_some()
    );
    other.create("moves/0000000000000009.incoming.tmp").unwrap();
    Bench::on(&other);
    assert_eq!(
        other.content("moves/0000000000000009.incoming.tmp"),
        None,
        "tidied"
    );
}

/// Crash anywhere while the images are cut: after it the same file is there, or is cut again.
#[test]
fn a_crash_while_an_image_is_cut_changes_no_byte_of_it() {
    let run = |medium: MemoryMedium| {
        let mut pair = Pair::new(medium);
        pair.hand_over();
        let before = pair.medium.step_count();
        let handed = pair.handed();
        (pair, before, handed)
    };
    let (mut whole, before, handed) = run(MemoryMedium::new());
    let file = read_image(&mut whole.bench);
    let after = whole.medium.step_count();
    assert!(before + 5 < after);
    for step in before..=after {
        let medium = MemoryMedium::new();
        medium.snapshot_at(step);
        let (mut pair, ..) = run(medium);
        let before = match pair.medium.snapshot() {
            Some((before, _)) => before,
            None => pair.medium.fork(),
        };
        let crashed = before.crash(&mut Random::new(step));
        pair.bench = Bench::on(&crashed);
        for log in [source(), target()] {
            assert!(pair.bench.open_log(log).is_some());
        }
        let again = pair.handed();
        assert_eq!(
            (again.place, again.image),
            (handed.place, handed.image),
            "step {step}"
        );
        assert!(
            crashed.content(&path()) == Some(file.clone()),
            "step {step}"
        );
        let names = crashed.paths();
        assert!(
            !names.iter().any(|name| name.ends_with("cut.tmp")),
            "{names:?}"
        );
    }
}

#[test]
fn a_sync_that_fails_stops_the_replica_before_the_hand_over() {
    for sync in 0..3 {
        let mut pair = Pair::new(MemoryMedium::new());
        let before = pair.source.end;
        pair.hand_over();
        pair.bench.ask(DiskRequest::AdvanceReplica {
            log: source(),
            through: before,
            ring_key: RING_KEY,
        });
        pair.medium.fail(Fault::Sync(sync));
        let reply = pair.advance(source());
        let DiskReply::Failed { fault, .. } = &reply else {
            panic!("{reply:?}");
        };
        assert!(
            matches!(fault, DiskFault::Poisoned | DiskFault::Other),
            "{reply:?}"
        );
        let crashed = pair.medium.crash(&mut Random::new(sync));
        pair.bench = Bench::on(&crashed);
        for log in [source(), target()] {
            pair.bench.open_log(log).unwrap();
        }
        let handed = pair.handed();
        pair.adopt(handed);
        pair.activate();
        assert_eq!(pair.events(target()).len(), 2);
    }
}

#[test]
fn a_lost_image_is_cut_again_from_the_log() {
    for spoil in 0..3 {
        let mut pair = Pair::new(MemoryMedium::new());
        let below = pair.source.end;
        if spoil == 2 {
            pair.bench.make_checkpoint(source(), below);
        }
        pair.hand_over();
        let handed = pair.handed();
        let file = read_image(&mut pair.bench);
        pair.adopt(handed);
        if spoil == 0 {
            pair.medium.remove(&path()).unwrap();
        } else {
            pair.medium.damage(&path(), 70_001, &[0xee; 3]);
        }
        assert_eq!(pair.events(target()).len(), 1);
        assert!(
            pair.medium.content(&path()) == Some(file),
            "cut again, byte for byte"
        );
        pair.activate();
        if spoil == 1 {
            // The fold looks after itself, too.
            pair.medium.remove(&path()).unwrap();
        }
        pair.check_checkpoint(target());
    }
}

#[test]
fn what_cannot_be_cut_again_is_said() {
    let mut pair = Pair::new(MemoryMedium::new());
    pair.hand_over();
    let handed = pair.handed();
    pair.adopt(handed);
    pair.activate();
    let above = pair.source.end;
    pair.bench.make_checkpoint(source(), above);
    pair.medium.remove(&path()).unwrap();
    expect_fault(
        pair.advance(target()),
        &DiskFault::NoMoveFile(NUMBER),
        "image of move 7",
    );
    let reply = pair.bench.ask(DiskRequest::MakeCheckpoint {
        log: target(),
        through: pair.target.end,
        ring_key: RING_KEY,
    });
    expect_fault(reply, &DiskFault::NoMoveFile(NUMBER), "image of move 7");
    let look = look_on(Arc::new(pair.medium.clone()), None).unwrap();
    let report = verify_look(&look, None, &mut |_, _| ());
    let problems = report.logs[1].problems.join("; ");
    assert!(problems.contains("image of move 7"), "{problems}");
}

#[test]
fn handed_sums_that_lie_are_found() {
    let mut pair = Pair::new(MemoryMedium::new());
    let mut sums = pair.source.ledger.sums_of(&HALF);
    sums[1].available -= 1;
    let request = pair.source.step(&hand_over_entries(NUMBER, &HALF, &sums));
    pair.append(request);
    expect_fault(
        pair.advance(source()),
        &DiskFault::Damage,
        "not what the accounts hold",
    );
}

fn build(
    pair: &mut Pair,
    log: LogNumber,
    through: LogEnd,
    activate: Vec<ActivationPart>,
) -> DiskReply {
    let part = |move_number, first, last| HandOverPart {
        number: MoveNumber(move_number),
        target: NodeId::new(9).unwrap(),
        target_log: number(9),
        ranges: vec![SlotRange {
            first: Slot(first),
            last: Slot(last),
        }],
    };
    pair.bench.ask(DiskRequest::BuildHandOver {
        log,
        through,
        term: Term(5),
        generation: Generation(1),
        ring_epoch: RingEpoch(3),
        wall_ms: 5,
        ring_key: RING_KEY,
        activate,
        moves: vec![part(8, 0, 9_999), part(9, 10_000, 20_000)],
    })
}

/// The target died when the slots were flipped to it, before it could say that it serves them.
#[test]
fn the_backup_hands_over_what_was_just_flipped() {
    let mut pair = Pair::new(MemoryMedium::new());
    pair.hand_over();
    let handed = pair.handed();
    pair.adopt(handed);
    let flipped = ActivationPart {
        number: NUMBER,
        ring_epoch: RingEpoch(2),
        ranges: HALF.to_vec(),
    };
    let end = pair.target.end;
    let reply = build(&mut pair, target(), end, vec![flipped.clone()]);
    let DiskReply::HandOverBuilt { block, end, .. } = reply else {
        panic!("{reply:?}");
    };
    assert_eq!((end.seq, end.term), (pair.target.end.seq.next(), Term(5)));
    pair.append(DiskRequest::Append {
        log: target(),
        block: block.clone(),
        end,
    });
    let read = Block::read(&block, &verify_of(target())).unwrap().unwrap();
    for (place, time, entry) in read.entries() {
        let entry = Entry::read(entry).unwrap();
        pair.target.ledger.absorb(&entry, place, time).unwrap();
    }
    pair.target.end = end;
    assert_eq!(pair.target.ledger.gone(Slot(10_000)), Some(MoveNumber(9)));
    assert!(
        pair.target.ledger.owned(Slot(35_000)),
        "what is in no move stays"
    );
    let events = pair.events(target());
    let [
        MoveEvent::Adopted { .. },
        MoveEvent::Activated { number: NUMBER, .. },
        MoveEvent::HandedOver {
            number: MoveNumber(8),
            image: first,
            ..
        },
        MoveEvent::HandedOver {
            number: MoveNumber(9),
            image: second,
            ..
        },
    ] = events[..]
    else {
        panic!("{events:?}");
    };
    assert!(0 < first.account_count && 0 < second.account_count);
    let left = pair.target.ledger.account_count();
    assert_eq!(
        first.account_count + second.account_count + left,
        handed.image.account_count
    );
    pair.audit();
    pair.check_checkpoint(target());
    // After a crash it may be asked for again, and then there is nothing left to hand over.
    let reply = build(&mut pair, target(), end, vec![flipped]);
    expect_fault(reply, &DiskFault::Other, "never adopted");
}

/// The target died before the flip: the move goes on from its own source.
#[test]
fn the_backup_drops_what_was_not_flipped() {
    let mut pair = Pair::new(MemoryMedium::new());
    pair.hand_over();
    let handed = pair.handed();
    pair.adopt(handed);
    let end = pair.target.end;
    let reply = build(&mut pair, target(), end, Vec::new());
    let DiskReply::HandOverBuilt { block, end, .. } = reply else {
        panic!("{reply:?}");
    };
    pair.append(DiskRequest::Append {
        log: target(),
        block,
        end,
    });
    pair.target.end = end;
    let reply = pair.advance(target());
    let DiskReply::ReplicaAt {
        events, digest: 0, ..
    } = reply
    else {
        panic!("{reply:?}");
    };
    assert!(
        matches!(
            events[..],
            [
                MoveEvent::Adopted { .. },
                MoveEvent::Dropped { number: NUMBER, .. },
                MoveEvent::HandedOver { .. },
                MoveEvent::HandedOver { .. },
            ]
        ),
        "{events:?}"
    );
    let info = pair.bench.make_checkpoint(target(), end);
    assert_eq!(info.end, end);
    let stale = LogEnd { chain: 1, ..end };
    expect_fault(
        build(&mut pair, target(), stale, Vec::new()),
        &DiskFault::Other,
        "stands at",
    );
}
