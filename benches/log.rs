//! The log against the real disk: appends made durable, the recovery scan, and what the checksum
//! alone costs. The folder lies beside the build, so the figures are those of that file system.
//!
//! `bare` is the lower bound of an append: the same bytes written and synced into a file of the
//! same length that was written before. `crc` is that of a scan: the same bytes checked once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use counterfoil::clock::Clock;
use counterfoil::limits::SEGMENT_SIZE_DEFAULT;
use counterfoil::log::{BlockBuilder, BlockSpec, FileMedium, Log, Medium, Opening, Verify};
use counterfoil::model::{
    ClusterId, ENTRY_SIZE, LogEnd, LogNumber, LogTime, Random, Term, to_usize,
};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};

/// Entries of the log that is recovered: four segments.
const SCAN_ENTRY_COUNT: u64 = 2_000_000;

fn verify() -> Verify {
    Verify {
        log: LogNumber::new(1).expect("not 0"),
        cluster: ClusterId::new(7).expect("not 0"),
        segment_size: SEGMENT_SIZE_DEFAULT,
    }
}

/// A log in a fresh folder, and what builds its blocks.
struct Bench {
    _dir: tempfile::TempDir,
    medium: Arc<FileMedium>,
    log: Log,
    builder: BlockBuilder,
    end: LogEnd,
    entries: Vec<[u8; ENTRY_SIZE]>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("a folder");
        let medium = Arc::new(FileMedium::create(&dir.path().join("data")).expect("a folder"));
        let log = Log::create(
            Arc::<FileMedium>::clone(&medium),
            verify(),
            LogEnd::default(),
            Vec::new(),
        );
        let mut random = Random::new(1);
        let entries = std::iter::repeat_with(|| {
            let mut entry = [0; ENTRY_SIZE];
            for piece in entry.chunks_exact_mut(16) {
                piece.copy_from_slice(&random.u128().to_le_bytes());
            }
            entry[0] = 4;
            entry
        });
        Self {
            _dir: dir,
            medium,
            log: log.expect("a new log"),
            builder: BlockBuilder::new(),
            end: LogEnd::default(),
            entries: entries.take(8_192).collect(),
        }
    }

    fn build(&mut self, entry_count: u32) -> Bytes {
        let Verify {
            log,
            cluster,
            segment_size,
        } = verify();
        self.builder.begin(&BlockSpec {
            log,
            cluster,
            segment_size,
            after: &self.end,
            term: Term(1),
            time: LogTime(self.end.time.0 + 1),
            committed: self.end.seq,
            entry_count_max: entry_count,
        });
        for entry in &self.entries[..to_usize(u64::from(entry_count))] {
            self.builder.push(entry);
        }
        let (block, end) = self.builder.finish();
        self.end = end;
        block
    }

    fn append(&self, block: &[u8]) {
        assert!(self.log.append(&[block]).error.is_none());
    }

    /// What the background does meanwhile on a node.
    fn keep_up(&self) {
        if self.log.lacks_spare() {
            self.log.prepare(0).expect("room for a segment");
            let below = self.end.offset.saturating_sub(SEGMENT_SIZE_DEFAULT);
            self.log.retire(below).expect("nobody reads");
        }
    }
}

fn append(criterion: &mut Criterion) {
    let clock = Clock::start();
    let mut group = criterion.benchmark_group("append_durable");
    for (name, entry_count) in [("4KiB", 31), ("64KiB", 511), ("1MiB", 8_191)] {
        let mut bench = Bench::new();
        for _ in 0..4 {
            // Segments that were used before, as on a node that has run for a while.
            for _ in 0..66 {
                let block = bench.build(8_191);
                bench.append(&block);
                bench.keep_up();
            }
        }
        group.throughput(Throughput::Bytes(u64::from(entry_count + 1) * 128));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| {
                let mut nanos = 0;
                for _ in 0..count {
                    let block = bench.build(entry_count);
                    bench.keep_up();
                    let start = clock.now().tick;
                    bench.append(&block);
                    nanos += clock.now().tick.since(start);
                }
                Duration::from_nanos(nanos)
            });
        });
        append_bare(&mut group, name, (entry_count + 1) * 128);
    }
    group.finish();
}

/// The same bytes into a plain file, whose pages are there already.
fn append_bare(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, size: u32) {
    let dir = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("a folder");
    let medium = FileMedium::create(&dir.path().join("data")).expect("a folder");
    let file = medium.create("plain").expect("room");
    let zeros = vec![0; 1 << 20];
    for offset in (0..SEGMENT_SIZE_DEFAULT).step_by(zeros.len()) {
        file.write_at(offset, &zeros).expect("room");
    }
    file.sync().expect("a disk that works");
    let bytes = vec![0x5a; to_usize(u64::from(size))];
    let mut offset = 0;
    group.bench_function(format!("{name} bare"), |bencher| {
        bencher.iter(|| {
            if SEGMENT_SIZE_DEFAULT < offset + u64::from(size) {
                offset = 0;
            }
            file.write_at(offset, &bytes).expect("room");
            file.sync().expect("a disk that works");
            offset += u64::from(size);
        });
    });
}

fn recover(criterion: &mut Criterion) {
    let mut bench = Bench::new();
    let mut entry_count = 0;
    while entry_count < SCAN_ENTRY_COUNT {
        let block = bench.build(1_000);
        bench.append(&block);
        entry_count += 1_000;
    }
    let mut group = criterion.benchmark_group("recovery_scan");
    group.sample_size(10);
    group.throughput(Throughput::Elements(entry_count));
    for (name, opening) in [("mapped", Opening::Use), ("pread", Opening::Look)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let opened = Log::open(
                    Arc::<FileMedium>::clone(&bench.medium),
                    verify().log,
                    &[],
                    opening,
                );
                let (_, recovered) = opened.expect("a sound log").expect("a log");
                assert_eq!(recovered.entry_count, entry_count);
            });
        });
    }
    let bytes = vec![0x5a; to_usize(entry_count) * ENTRY_SIZE];
    group.bench_function("crc", |bencher| {
        bencher.iter(|| crc32fast::hash(std::hint::black_box(&bytes)));
    });
    group.finish();
}

/// No scan and no append is faster than its checksum.
fn checksum(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("crc32");
    for (name, size) in [("128B", 128), ("4KiB", 4 << 10), ("1MiB", 1 << 20)] {
        let bytes = vec![0x5a; size];
        group.throughput(Throughput::Bytes(counterfoil::model::to_u64(size)));
        group.bench_function(name, |bencher| {
            bencher.iter(|| crc32fast::hash(std::hint::black_box(&bytes)));
        });
    }
    group.finish();
}

criterion_group!(benches, append, recover, checksum);
criterion_main!(benches);
