//! Crash images, damage, faults of the disk: what recovery makes of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::limits::{LOG_UNSYNCED_SIZE_MAX, SEGMENT_SIZE_MIN};
use crate::model::{
    ClusterId, ENTRY_SIZE, LogEnd, LogNumber, LogTime, Place, Random, Seq, Term, to_u64, to_usize,
};

const SEGMENT_SIZE: u64 = SEGMENT_SIZE_MIN;

fn verify() -> Verify {
    Verify {
        log: LogNumber::new(3).unwrap(),
        cluster: ClusterId::new(77).unwrap(),
        segment_size: SEGMENT_SIZE,
    }
}

/// A log with everything that was ever put into it.
struct Bench {
    medium: MemoryMedium,
    log: Log,
    builder: BlockBuilder,
    /// Block and end, by seq - 1.
    blocks: Vec<(bytes::Bytes, LogEnd)>,
    /// Every block that was ever built, cut off or not, by chain value.
    ever: BTreeMap<u64, bytes::Bytes>,
    random: Random,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let medium = MemoryMedium::new();
        let log = create(&medium, LogEnd::default()).unwrap();
        Self {
            medium,
            log,
            builder: BlockBuilder::new(),
            blocks: Vec::new(),
            ever: BTreeMap::new(),
            random: Random::new(seed),
        }
    }

    fn end(&self) -> LogEnd {
        self.blocks
            .last()
            .map_or_else(LogEnd::default, |block| block.1)
    }

    /// Builds a block of `count` entries behind the last one.
    fn build(&mut self, count: u32, committed: Seq) {
        let after = self.end();
        let term = after.term.0.max(1) + u64::from(self.random.one_in(50));
        let Verify { log, cluster, .. } = verify();
        self.builder.begin(&BlockSpec {
            log,
            cluster,
            segment_size: SEGMENT_SIZE,
            after: &after,
            term: Term(term),
            time: LogTime(after.time.0 + 10),
            committed,
            entry_count_max: count + to_u32(self.random.below(4)),
        });
        for _ in 0..count {
            let mut entry = [0; ENTRY_SIZE];
            entry[0] = 128;
            entry[8..24].copy_from_slice(&self.random.u128().to_le_bytes());
            self.builder.push(&entry);
        }
        let block = self.builder.finish();
        self.ever.insert(block.1.chain, block.0.clone());
        self.blocks.push(block);
    }

    /// Builds and appends some blocks with one sync.
    fn append(&mut self, block_count: u64, entry_count_max: u64) -> Appended {
        let first = self.blocks.len();
        let committed = self.log.end().seq;
        for _ in 0..block_count {
            let count = 1 + to_u32(self.random.below(entry_count_max));
            self.build(count, committed);
        }
        let blocks: Vec<&[u8]> = self.blocks[first..]
            .iter()
            .map(|block| &block.0[..])
            .collect();
        self.log.append(&blocks)
    }

    fn append_well(&mut self, block_count: u64, entry_count_max: u64) {
        let appended = self.append(block_count, entry_count_max);
        assert!(appended.error.is_none(), "{:?}", appended.error);
        assert_eq!(self.log.end(), self.end());
        self.medium.mark(self.end().seq.0);
    }

    /// A long life: appends of all sizes, preparation, retirement, cuts, restarts.
    fn live(&mut self, turns: u64) {
        for _ in 0..turns {
            match self.random.below(10) {
                0 => {
                    let ahead = self.random.below(2) * SEGMENT_SIZE;
                    self.log.prepare(self.log.end().offset + ahead).unwrap();
                }
                1 => {
                    let below = self.log.end().offset.saturating_sub(SEGMENT_SIZE);
                    self.log.retire(below).unwrap();
                }
                2 => {
                    let (log, recovered) = open(&self.medium).unwrap();
                    assert_eq!(recovered.end, self.end());
                    assert_eq!(recovered.torn, None);
                    self.log = log;
                }
                3 => self.cut(),
                4 => self.append_well(1, 8_000),
                _ => {
                    let count = 1 + self.random.below(4);
                    self.append_well(count, 200);
                }
            }
        }
    }

    /// Cuts off what another history would contradict.
    fn cut(&mut self) {
        let first = self.log.first().seq.0;
        let keep = first + self.random.below(self.end().seq.0 - first + 1);
        if self.end().seq.0 - keep < 4 && first < keep {
            self.medium.mark(keep);
            self.blocks.truncate(to_usize(keep));
            self.log.cut(&self.end()).unwrap();
        }
    }
}

fn to_u32(value: u64) -> u32 {
    u32::try_from(value).unwrap()
}

fn create(medium: &MemoryMedium, after: LogEnd) -> Result<Log, LogError> {
    Log::create(Arc::new(medium.clone()), verify(), after, Vec::new())
}

fn open(medium: &MemoryMedium) -> Option<(Log, Recovered)> {
    Log::open(Arc::new(medium.clone()), verify().log, &[], Opening::Use).unwrap()
}

/// All blocks from the log's beginning on.
fn read_all(log: &Log) -> Vec<u8> {
    let mut all = Vec::new();
    let mut offset = log.first().offset;
    loop {
        let (_, bytes) = log.read_blocks(offset, u64::MAX, 100_000).unwrap();
        let Some(last) = blocks(&bytes, verify()).map(Result::unwrap).last() else {
            return all;
        };
        offset = last.end().offset;
        all.extend_from_slice(&bytes);
    }
}

/// The log must hold exactly the blocks from its beginning to its end that were written.
fn check_content(log: &Log, written: &[(bytes::Bytes, LogEnd)]) {
    let (first, end) = (to_usize(log.first().seq.0), to_usize(log.end().seq.0));
    let expected: Vec<u8> = written[first..end]
        .iter()
        .flat_map(|block| block.0.to_vec())
        .collect();
    assert!(read_all(log) == expected, "blocks {first} to {end} differ");
    if 0 < end && first < end {
        assert_eq!(log.end(), written[end - 1].1);
    }
}

#[test]
fn what_is_appended_is_read_back_after_a_restart() {
    let mut bench = Bench::new(1);
    bench.live(300);
    assert!(
        3 * SEGMENT_SIZE < bench.end().offset,
        "several segments were crossed"
    );
    check_content(&bench.log, &bench.blocks);
    let (log, recovered) = open(&bench.medium).unwrap();
    check_content(&log, &bench.blocks);
    assert_eq!(recovered.damage, None);
    assert_eq!(recovered.first_offset, log.first().offset);
    let terms = log.terms_through(log.end().seq);
    assert_eq!(recovered.terms, terms);
    assert!(1 < terms.len());
    for start in terms {
        let block = &bench.blocks[to_usize(start.seq.0) - 1];
        assert_eq!(block.1.term, start.term);
    }
}

#[test]
fn no_crash_loses_what_was_durable_or_is_taken_for_damage() {
    let (mut images, mut torn) = (0, 0);
    for seed in 0..200 {
        let mut scout = Bench::new(seed);
        let created = scout.medium.step_count();
        scout.live(25);
        let steps = scout.medium.step_count();
        let mut random = Random::new(seed);
        let mut bench = Bench::new(seed);
        bench
            .medium
            .snapshot_at(created + random.below(steps - created));
        bench.live(25);
        let (before, durable) = bench.medium.snapshot().unwrap();
        for _ in 0..10 {
            let after = before.crash(&mut random);
            images += 1;
            torn += u64::from(check_image(&after, durable, &bench.ever, seed));
        }
    }
    assert_eq!(images, 2_000);
    assert!(100 < torn, "only {torn} of {images} images had a torn tail");
}

/// Recovers, checks, recovers again, goes on. Was there a torn tail?
fn check_image(
    medium: &MemoryMedium,
    durable: u64,
    ever: &BTreeMap<u64, bytes::Bytes>,
    seed: u64,
) -> bool {
    let (log, recovered) = open(medium).unwrap();
    assert_eq!(recovered.damage, None, "seed {seed}");
    assert!(
        durable <= recovered.end.seq.0,
        "seed {seed}: {durable} was durable"
    );
    let bytes = read_all(&log);
    for (block, size) in blocks(&bytes, verify()).map(|block| sized(&block.unwrap())) {
        assert_eq!(
            ever.get(&block.chain).map(bytes::Bytes::len),
            Some(size),
            "seed {seed}"
        );
    }
    let (again, second) = open(medium).unwrap();
    assert_eq!(second, recovered, "seed {seed}");
    drop(log);
    again.cut(&recovered.end).unwrap();
    let mut bench = Bench {
        medium: medium.clone(),
        log: again,
        builder: BlockBuilder::new(),
        blocks: Vec::new(),
        ever: BTreeMap::new(),
        random: Random::new(seed),
    };
    let missing = (bytes::Bytes::new(), recovered.end);
    bench.blocks = vec![missing; to_usize(recovered.end.seq.0)];
    bench.append_well(2, 50);
    let (log, third) = open(medium).unwrap();
    assert_eq!(third.end, bench.end(), "seed {seed}");
    assert_eq!(third.torn, None, "seed {seed}");
    assert!(read_all(&log).starts_with(&bytes), "seed {seed}");
    recovered.torn.is_some()
}

fn sized(block: &Block<'_>) -> (LogEnd, usize) {
    (block.end(), to_usize(u64::from(block.size())))
}

#[test]
fn damage_at_rest_is_never_silent_and_never_yields_foreign_blocks() {
    let mut bench = Bench::new(5);
    for _ in 0..60 {
        bench.append_well(2, 300);
    }
    assert!(SEGMENT_SIZE < bench.end().offset);
    let end = bench.end();
    let committed = Seq(end.seq.0 - 2);
    let paths = bench.medium.paths();
    let paths: Vec<_> = paths
        .iter()
        .filter(|path| path.contains("segment"))
        .collect();
    let mut damaged = 0;
    for seed in 0..600 {
        let mut random = Random::new(seed);
        let medium = bench.medium.fork();
        let path = paths[to_usize(random.below(to_u64(paths.len())))];
        mutate(&medium, path, &mut random);
        let Ok(opened) = Log::open(Arc::new(medium), verify().log, &[], Opening::Use) else {
            panic!("seed {seed}: a damaged segment is reported, not refused");
        };
        let (log, recovered) = opened.unwrap();
        check_content(&log, &bench.blocks);
        let told = recovered.damage.is_some() || recovered.torn.is_some();
        assert!(
            recovered.end == end || told || committed <= recovered.end.seq,
            "seed {seed}"
        );
        if recovered.end.seq < committed {
            assert!(recovered.damage.is_some(), "seed {seed}: {recovered:?}");
            damaged += 1;
        }
    }
    assert!(300 < damaged, "only {damaged} mutations hit");
}

/// One of the ways in which bytes at rest go wrong.
fn mutate(medium: &MemoryMedium, path: &str, random: &mut Random) {
    let bytes = medium.content(path).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let at = random.below(to_u64(used));
    let line = at & !127;
    let sector = at & !511;
    match random.below(6) {
        0 => medium.damage(path, at, &[bytes[to_usize(at)] ^ (1 << random.below(8))]),
        1 => medium.damage(path, sector, &[0; 512]),
        2 => medium.damage(path, sector, &random.u128().to_le_bytes()),
        3 => {
            // Two lines swapped.
            let other = random.below(to_u64(used)) & !127;
            let copy = |at: u64| bytes[to_usize(at)..to_usize(at) + 128].to_vec();
            medium.damage(path, line, &copy(other));
            medium.damage(path, other, &copy(line));
        }
        4 => medium.truncate(path, at),
        _ => {
            // Bytes of elsewhere.
            let other = random.below(to_u64(used)) & !511;
            let size = 4096.min(bytes.len() - to_usize(other));
            medium.damage(
                path,
                sector,
                &bytes[to_usize(other)..to_usize(other) + size],
            );
        }
    }
}

#[test]
fn a_lost_segment_is_damage() {
    let mut bench = Bench::new(6);
    while bench.end().offset < 2 * SEGMENT_SIZE {
        bench.append_well(1, 8_000);
    }
    for number in 0..2 {
        let medium = bench.medium.fork();
        let path = format!("logs/00003/segment-{number:016x}");
        medium.remove(&path).unwrap();
        let (_, recovered) = open(&medium).unwrap();
        let damage = recovered.damage.unwrap();
        assert_eq!(damage, format!("segment {number:016x} of log 3 is gone"));
    }
    bench.medium.remove("logs/00003/base").unwrap();
    let error = Log::open(Arc::new(bench.medium), verify().log, &[], Opening::Use).unwrap_err();
    assert!(error.to_string().contains("base is gone"), "{error}");
}

#[test]
fn damage_is_cut_aside_and_written_again() {
    let mut bench = Bench::new(7);
    for _ in 0..10 {
        bench.append_well(2, 20);
    }
    let hit = bench.blocks[7].1.offset - 100;
    bench
        .medium
        .damage("logs/00003/segment-0000000000000000", hit, &[0xee]);
    let (log, recovered) = open(&bench.medium).unwrap();
    assert_eq!(recovered.end, bench.blocks[6].1);
    assert_eq!(recovered.committed, Seq(18));
    let damage = recovered.damage.unwrap();
    assert!(
        damage.starts_with("block 8 of log 3 is lost: checksum"),
        "{damage}"
    );

    let block = &bench.blocks[7].0[..];
    let refused = log.append(&[block]).error.unwrap();
    assert!(refused.to_string().contains("cut first"), "{refused}");
    let aside = log.cut(&recovered.end).unwrap();
    assert_eq!(aside, bench.end().offset - recovered.end.offset);
    let quarantine = bench.medium.list("quarantine").unwrap();
    assert_eq!(quarantine.len(), 1);
    let rest: Vec<&[u8]> = bench.blocks[7..].iter().map(|block| &block.0[..]).collect();
    assert!(log.append(&rest).error.is_none());
    let (log, recovered) = open(&bench.medium).unwrap();
    assert_eq!(
        (recovered.end, recovered.damage, recovered.torn),
        (bench.end(), None, None)
    );
    check_content(&log, &bench.blocks);
}

#[test]
fn a_whole_log_can_be_cut() {
    let mut bench = Bench::new(17);
    while bench.end().offset < 2 * SEGMENT_SIZE {
        bench.append_well(1, 8_000);
    }
    let aside = bench.log.cut(&LogEnd::default()).unwrap();
    assert!(2 * SEGMENT_SIZE - SEGMENT_HEADER_SIZE <= aside);
    bench.blocks.clear();
    bench.append_well(2, 10);
    let (log, recovered) = open(&bench.medium).unwrap();
    assert_eq!(
        (recovered.end, recovered.torn, recovered.damage),
        (bench.end(), None, None)
    );
    check_content(&log, &bench.blocks);
    let unknown = LogEnd {
        chain: 1,
        ..bench.end()
    };
    let error = log.cut(&unknown).unwrap_err();
    assert!(
        error.to_string().contains("has no block 2 that ends at"),
        "{error}"
    );
}

#[test]
fn full_disk_refuses_before_a_byte_is_written() {
    let mut bench = Bench::new(8);
    bench.log.prepare(0).unwrap();
    bench.medium.limit(Some(2 * SEGMENT_SIZE + 4_096));
    let mut appended = bench.append(1, 8_000);
    while appended.error.is_none() {
        appended = bench.append(1, 8_000);
    }
    assert!(matches!(appended.error, Some(LogError::Full(_))));
    assert_eq!(bench.log.end().seq.next(), bench.end().seq);
    assert!(matches!(bench.log.prepare(0), Err(LogError::Full(_))));
    // Space is back: the very same block goes in.
    bench.medium.limit(None);
    let (block, end) = bench.blocks.last().unwrap().clone();
    assert!(bench.log.append(&[&block]).error.is_none());
    assert_eq!(bench.log.end(), end);
    let (log, recovered) = open(&bench.medium).unwrap();
    assert_eq!((recovered.torn, recovered.damage), (None, None));
    check_content(&log, &bench.blocks);
}

#[test]
fn the_first_failed_sync_or_write_poisons_for_good() {
    for fault in [Fault::Sync(0), Fault::Write(0)] {
        let mut bench = Bench::new(9);
        bench.append_well(3, 10);
        bench.medium.fail(fault);
        let appended = bench.append(2, 10);
        assert_eq!(appended.count, 0);
        assert!(matches!(appended.error, Some(LogError::Poisoned(_))));
        let syncs = bench.medium.sync_count();
        let again = bench.log.append(&[&bench.blocks[3].0]);
        assert!(matches!(again.error, Some(LogError::Poisoned(_))));
        assert_eq!(bench.medium.sync_count(), syncs, "no second try");
        assert_eq!(bench.log.end().seq, Seq(3));
        let after = bench.medium.crash(&mut Random::new(1));
        check_image(&after, 3, &bench.ever, 0);
    }
}

/// A sync fails and the process ends. The next one, on the same host, still reads the blocks from
/// the system's cache; it took them for durable and acknowledged them, and a power cut took them.
#[test]
fn what_an_earlier_life_could_not_sync_is_written_again() {
    for seed in 0..20 {
        let mut bench = Bench::new(seed);
        bench.append_well(3, 10);
        bench.medium.fail(Fault::Sync(0));
        assert!(bench.append(2, 10).error.is_some());
        let (_, recovered) = open(&bench.medium).unwrap();
        assert_eq!(recovered.end, bench.end(), "all of it can be read");
        let after = bench.medium.crash(&mut Random::new(seed));
        let (_, recovered) = open(&after).unwrap();
        assert_eq!(recovered.end, bench.end(), "and all of it is on the disk");
    }
}

/// The same with blocks that come from the other copy, where they were committed long before: what
/// the later ones say of the earlier ones was true there and not here. Simulator, seed 11137.
#[test]
fn what_came_from_the_other_copy_and_was_not_synced_is_written_again() {
    for seed in 0..20 {
        let mut bench = Bench::new(seed);
        bench.append_well(3, 10);
        for seq in 3..8 {
            bench.build(5, Seq(seq));
        }
        bench.medium.fail(Fault::Sync(0));
        let blocks: Vec<&[u8]> = bench.blocks[3..].iter().map(|block| &block.0[..]).collect();
        assert!(bench.log.append(&blocks).error.is_some());
        let (_, recovered) = open(&bench.medium).unwrap();
        assert_eq!((recovered.end, recovered.committed), (bench.end(), Seq(7)));
        let after = bench.medium.crash(&mut Random::new(seed));
        let (_, recovered) = open(&after).unwrap();
        assert_eq!(recovered.end, bench.end(), "and all of it is on the disk");
    }
}

/// More than what is written again is never left without a sync.
#[test]
fn a_large_append_is_synced_in_parts() {
    for failing in [2, 9, 17, 20, 23] {
        let mut bench = Bench::new(failing);
        let mut size = 0;
        while size <= 2 * LOG_UNSYNCED_SIZE_MAX {
            bench.build(8_000, Seq(0));
            size += to_u64(bench.blocks[bench.blocks.len() - 1].0.len());
        }
        bench.medium.fail(Fault::Sync(failing));
        let blocks: Vec<&[u8]> = bench.blocks.iter().map(|block| &block.0[..]).collect();
        assert!(bench.log.append(&blocks).error.is_some());
        let (_, recovered) = open(&bench.medium).unwrap();
        let after = bench.medium.crash(&mut Random::new(1));
        let (_, again) = open(&after).unwrap();
        assert_eq!(again.end, recovered.end, "what can be read is on the disk");
    }
}

#[test]
fn what_does_not_follow_is_not_appended() {
    let mut bench = Bench::new(10);
    bench.append_well(2, 4);
    bench.build(1, Seq(0));
    bench.build(1, Seq(0));
    let gap = bench.log.append(&[&bench.blocks[3].0]).error.unwrap();
    assert!(gap.to_string().contains("block 4 where 3 is due"), "{gap}");
    let cut = bench
        .log
        .append(&[&bench.blocks[2].0[..200]])
        .error
        .unwrap();
    assert!(cut.to_string().contains("200 bytes of 256"), "{cut}");
    let nothing = bench.log.append(&[&[]]).error.unwrap();
    assert!(nothing.to_string().contains("no header"), "{nothing}");
    assert!(
        bench
            .log
            .append(&[&bench.blocks[2].0, &bench.blocks[3].0])
            .error
            .is_none()
    );
}

/// What is looked at on the way to an answer is not let go, everything else below once.
#[test]
fn old_segments_are_let_go_once() {
    let mut bench = Bench::new(13);
    let fill = |bench: &mut Bench, segments: u64| {
        while bench.end().offset < segments * SEGMENT_SIZE - SEGMENT_SIZE / 2 {
            bench.append_well(1, 8_000);
        }
    };
    let counts = |bench: &Bench| -> Vec<u32> {
        let name = |number| format!("logs/00003/segment-{number:016x}");
        (0..6)
            .map(|number| bench.medium.let_go_count(&name(number)))
            .collect()
    };
    fill(&mut bench, 4);
    bench.log.let_go(SEGMENT_SIZE - 1);
    assert_eq!(
        counts(&bench),
        [0; 6],
        "a checkpoint stands for less than one"
    );
    bench.log.let_go(SEGMENT_SIZE);
    assert_eq!(counts(&bench), [1, 0, 0, 0, 0, 0]);
    bench.log.let_go(u64::MAX);
    assert_eq!(counts(&bench), [1, 1, 0, 0, 0, 0], "two are looked in");
    bench.log.let_go(0);
    bench.log.let_go(u64::MAX);
    assert_eq!(counts(&bench), [1, 1, 0, 0, 0, 0]);
    // After a cut others have their numbers.
    let first = bench.blocks[0].1;
    bench.log.cut(&first).unwrap();
    bench.blocks.truncate(1);
    fill(&mut bench, 5);
    bench.log.let_go(u64::MAX);
    assert_eq!(counts(&bench), [2, 1, 1, 0, 0, 0]);
}

/// What is let go is still there.
#[test]
fn what_is_let_go_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let medium = Arc::new(FileMedium::create(folder.path()).unwrap());
    let log = Log::create(medium, verify(), LogEnd::default(), Vec::new()).unwrap();
    let mut bench = Bench::new(12);
    while bench.end().offset < 4 * SEGMENT_SIZE {
        let at = bench.blocks.len();
        bench.append_well(1, 8_000);
        assert!(log.append(&[&bench.blocks[at].0]).error.is_none());
    }
    for below in [0, 1, SEGMENT_SIZE, 3 * SEGMENT_SIZE, u64::MAX, 0] {
        log.let_go(below);
        for (bytes, _) in &bench.blocks {
            let block = Block::read(bytes, &verify()).unwrap().unwrap();
            for (place, _, entry) in block.entries().step_by(397) {
                assert_eq!(log.read_entry(place).unwrap(), Some(*entry));
            }
        }
    }
}

#[test]
fn entries_are_found_by_place() {
    let mut bench = Bench::new(11);
    while bench.end().offset < 2 * SEGMENT_SIZE {
        bench.append_well(1, 8_000);
    }
    for (bytes, _) in &bench.blocks {
        let block = Block::read(bytes, &verify()).unwrap().unwrap();
        for (place, _, entry) in block.entries().step_by(397) {
            assert_eq!(bench.log.read_entry(place).unwrap(), Some(*entry));
            let recent = SEGMENT_SIZE <= place.offset();
            assert_eq!(bench.log.recent_entry(place), recent.then_some(*entry));
        }
    }
    let log = verify().log;
    let header = Place::new(log, SEGMENT_HEADER_SIZE);
    let behind = Place::new(log, bench.end().offset + 128);
    let odd = Place::new(log, SEGMENT_HEADER_SIZE + 129);
    let other = Place::new(LogNumber::new(4).unwrap(), SEGMENT_HEADER_SIZE + 128);
    for place in [header, behind, odd, other, Place(0), Place(u64::MAX)] {
        assert_eq!(bench.log.read_entry(place).unwrap(), None, "{place}");
        assert!(bench.log.recent_entry(Place(0)).is_none());
    }
    bench
        .medium
        .damage("logs/00003/segment-0000000000000000", 5_000, &[0xee; 9]);
    let hit = Place::new(log, SEGMENT_HEADER_SIZE + 128);
    assert!(matches!(
        bench.log.read_entry(hit),
        Err(LogError::Damage(_))
    ));
}

#[test]
fn blocks_are_read_in_bounded_steps() {
    let mut bench = Bench::new(12);
    bench.append_well(4, 4_000);
    let ends: Vec<_> = bench.blocks.iter().map(|block| block.1.offset).collect();
    let read = |offset, below, size| {
        let (at, bytes) = bench.log.read_blocks(offset, below, size).unwrap();
        (at, to_u64(bytes.len()))
    };
    let first = SEGMENT_HEADER_SIZE;
    assert_eq!(
        read(0, u64::MAX, 1),
        (first, ends[0] - first),
        "at least one block"
    );
    assert_eq!(
        read(ends[0], ends[1], 1 << 20),
        (ends[0], ends[1] - ends[0])
    );
    assert_eq!(
        read(ends[0], ends[1] - 1, 1 << 20),
        (ends[0], 0),
        "nothing half way"
    );
    assert_eq!(read(ends[3], u64::MAX, 1 << 20), (ends[3], 0));
    bench.log.retire(u64::MAX).unwrap();
    assert_eq!(bench.log.first().offset, 0, "the last segment stays");
}

#[test]
fn retired_segments_are_used_again_unless_they_are_held() {
    let mut bench = Bench::new(13);
    let fill = |bench: &mut Bench, segments: u64| {
        let goal = bench.end().offset + segments * SEGMENT_SIZE;
        while bench.end().offset < goal {
            bench.append_well(1, 8_000);
        }
    };
    fill(&mut bench, 3);
    let first = bench.log.retire(bench.end().offset).unwrap();
    assert!(2 * SEGMENT_SIZE <= first);
    let error = bench.log.read_blocks(0, u64::MAX, 1).unwrap_err();
    assert!(error.to_string().contains("is retired"), "{error}");
    let files = bench.medium.paths().len();
    fill(&mut bench, 2);
    assert_eq!(bench.medium.paths().len(), files, "no new file was needed");
    let (log, recovered) = open(&bench.medium).unwrap();
    assert_eq!((recovered.torn, recovered.damage), (None, None));
    assert_eq!(recovered.first_offset, first);
    check_content(&log, &bench.blocks);
}

#[test]
fn a_log_can_begin_in_the_middle_and_replaces_what_was_there() {
    let mut bench = Bench::new(14);
    while bench.end().offset < 2 * SEGMENT_SIZE {
        bench.append_well(1, 8_000);
    }
    let first = bench.log.retire(SEGMENT_SIZE).unwrap();
    let after = bench.log.first();
    assert_eq!(after.offset, first);
    let copied = read_all(&bench.log);
    let log = create(&bench.medium, after).unwrap();
    let moved = bench.medium.list("quarantine").unwrap();
    assert!(moved.iter().any(|name| name.contains("base")), "{moved:?}");
    for block in blocks(&copied, verify()).map(Result::unwrap) {
        let at = to_usize(block.head().seq.0) - 1;
        assert!(log.append(&[&bench.blocks[at].0]).error.is_none());
    }
    let (log, recovered) = open(&bench.medium).unwrap();
    assert_eq!(recovered.end, bench.end());
    check_content(&log, &bench.blocks);
    let error = create(&bench.medium, LogEnd { offset: 5, ..after }).unwrap_err();
    assert!(
        error.to_string().contains("no segment begins there"),
        "{error}"
    );
}

/// The spare that is asked for with the first block of a segment must not wait for that block:
/// the next segment would be written on the way of an append.
#[test]
fn a_spare_is_made_behind_a_block_that_is_on_its_way() {
    let mut bench = Bench::new(19);
    let numbers = |log: &Log| -> Vec<u64> { log.segments().iter().map(|(n, _)| *n).collect() };
    bench.append_well(1, 100);
    bench.log.prepare(0).unwrap();
    assert_eq!(numbers(&bench.log), [0, 1]);
    bench.log.prepare(SEGMENT_SIZE).unwrap();
    assert_eq!(numbers(&bench.log), [0, 1, 2]);
    bench.log.prepare(9 * SEGMENT_SIZE).unwrap();
    assert_eq!(numbers(&bench.log), [0, 1, 2]);
    // That block never came, neither before a crash nor before a cut.
    let (log, recovered) = open(&bench.medium).unwrap();
    assert_eq!((recovered.torn, recovered.damage), (None, None));
    assert_eq!(numbers(&log), [0, 1, 2]);
    log.cut(&bench.end()).unwrap();
    assert_eq!(numbers(&log), [0, 1, 2]);
    bench.log = log;
    while bench.end().offset < 2 * SEGMENT_SIZE {
        bench.append_well(1, 8_000);
    }
    check_content(&bench.log, &bench.blocks);
}

#[test]
fn a_real_folder_holds_a_log() {
    let dir = tempfile::tempdir().unwrap();
    let medium: Arc<dyn Medium> = Arc::new(FileMedium::create(&dir.path().join("data")).unwrap());
    let mut bench = Bench::new(15);
    bench.log = Log::create(Arc::clone(&medium), verify(), LogEnd::default(), Vec::new()).unwrap();
    bench.log.prepare(0).unwrap();
    while bench.end().offset < 3 * SEGMENT_SIZE {
        bench.append_well(2, 4_000);
        bench.log.prepare(0).unwrap();
    }
    bench.log.retire(SEGMENT_SIZE).unwrap();
    check_content(&bench.log, &bench.blocks);
    let (_, end) = bench.blocks[bench.blocks.len() - 2];
    bench.log.cut(&end).unwrap();
    bench.blocks.pop();
    bench.append_well(1, 10);
    let (log, recovered) = Log::open(medium, verify().log, &[], Opening::Use)
        .unwrap()
        .unwrap();
    assert_eq!((recovered.torn, recovered.damage), (None, None));
    assert_eq!(recovered.end, bench.end());
    check_content(&log, &bench.blocks);
}
