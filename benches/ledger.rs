//! Speed and size of the ledger: one operation after the other, as a node applies them, each on
//! an account drawn uniformly, so that memory is what limits.
//!
//! `one_read` is the lower bound of whatever looks something up: one line of memory of a table as
//! large, at a random place that is known only when the last one was read. `copy` is the lower
//! bound of going through entries: their bytes moved once. `write` is that of a checkpoint: its
//! bytes written and synced. `run read ahead` against `run` is what fetching together is worth.
//!
//! `LEDGER_ACCOUNTS=5000000` sets another number of accounts than a million.
#![expect(
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a bench prints its figures and takes its size from the environment"
)]

use std::hint::black_box;

use counterfoil::ledger::fold::Delta;
use counterfoil::ledger::{Ahead, Ledger, LedgerOptions, Seen, TOUCH_COUNT, record_size};
use counterfoil::log::{CheckpointSpec, CheckpointWriter, FileMedium, Medium};
use counterfoil::model::{
    AccountSettings, ClusterId, Currency, ENTRY_SIZE, Entry, Flags, LogEnd, LogNumber, LogTime,
    Operation, OperationId, Place, Random, Section, UserId, to_u64, to_usize,
};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};

const RING_KEY: u128 = 77;
const CURRENCIES_PER_USER: u64 = 3;
const TIME_START: u64 = 1_750_000_000_000_000_000;

#[expect(
    clippy::fn_params_excessive_bools,
    reason = "it is the option of that name"
)]
fn new_ledger(keep_ids: bool) -> Ledger {
    Ledger::new(LedgerOptions {
        ring_key: RING_KEY,
        id_count_max: 1 << 40,
        keep_ids,
    })
}

fn user(number: u64) -> UserId {
    UserId::new(u128::from(number) + 1).expect("neither 0 nor all ones")
}

fn currency(index: u64) -> Currency {
    let code = u32::try_from(index % CURRENCIES_PER_USER + 1).expect("small");
    Currency::new(code).expect("not 0")
}

/// Where and when an entry lies, and the id in it.
struct At {
    place: Place,
    time: LogTime,
    id: OperationId,
}

/// Entry `index` of a log that takes a million a second.
fn entry_at(index: u64) -> At {
    let time = LogTime(TIME_START + index * 1_000);
    At {
        place: Place::new(LogNumber::new(1).expect("not 0"), 4_096 + index * 128),
        time,
        id: OperationId::from_parts(time.ms(), u128::from(index)),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Ahead,
    AsNeeded,
}

struct Bench {
    ledger: Ledger,
    random: Random,
    user_count: u64,
    index: u64,
    forgotten_at: u64,
}

impl Bench {
    fn new(user_count: u64) -> Self {
        Self {
            ledger: new_ledger(true),
            random: Random::new(1),
            user_count,
            index: 0,
            forgotten_at: 0,
        }
    }

    /// Opens all accounts and gives each a million.
    fn filled(user_count: u64) -> Self {
        let mut bench = Self::new(user_count);
        for number in 0..user_count {
            for code in 0..CURRENCIES_PER_USER {
                let At { place, time, id } = bench.next();
                let credit = Operation::credit(id, user(number), currency(code), 1_000_000);
                let credit = credit.with_flags(Flags::OPEN_IF_MISSING);
                bench.ledger.apply(&credit, place, time);
            }
        }
        bench
    }

    fn next(&mut self) -> At {
        self.index += 1;
        entry_at(self.index)
    }

    /// Forgets ids now and then, so that a long run stays within memory.
    fn forget(&mut self) {
        if self.index - self.forgotten_at < 1 << 22 {
            return;
        }
        let At { place, time, .. } = self.next();
        let ms = time.ms() - 10_000;
        self.ledger
            .absorb(&Entry::Horizon { ms }, place, time)
            .expect("it rises");
        self.forgotten_at = self.index;
    }

    fn operation(&mut self, id: OperationId) -> Operation {
        let owner = user(self.random.below(self.user_count));
        let code = currency(self.random.u64());
        if self.random.one_in(2) {
            Operation::credit(id, owner, code, 3).with_flags(Flags::OPEN_IF_MISSING)
        } else {
            Operation::debit(id, owner, code, 2)
        }
    }

    fn apply(&mut self) -> Entry {
        self.forget();
        let At { place, time, id } = self.next();
        let operation = self.operation(id);
        assert!(self.ledger.seen(operation.user(), id, time) == Seen::New);
        Entry::Change(self.ledger.apply(&operation, place, time))
    }

    /// A run of operations as a node's turn has them, with or without reading ahead.
    fn apply_run(&mut self, reading: Reading) {
        self.forget();
        let first = self.index;
        let operations: [Operation; TOUCH_COUNT] = std::array::from_fn(|_| {
            let At { id, .. } = self.next();
            self.operation(id)
        });
        if reading == Reading::Ahead {
            let mut ahead = Ahead::default();
            for operation in &operations {
                ahead.push(&operation.to_bytes());
            }
            self.ledger.touch(&ahead);
        }
        for (index, operation) in (first + 1..).zip(&operations) {
            let At { place, time, id } = entry_at(index);
            assert!(self.ledger.seen(operation.user(), id, time) == Seen::New);
            black_box(self.ledger.apply(operation, place, time));
        }
    }

    fn burn(&mut self) {
        self.forget();
        let At { place, time, id } = self.next();
        let find = Operation::find(id, user(5)).with_flags(Flags::BURN);
        self.ledger.apply(&find, place, time);
    }
}

/// Bytes per account, in a ledger without ids.
fn print_account_size(account_count: u64, currency_count: u64) {
    let mut ledger = new_ledger(false);
    let empty_size = ledger.memory_size();
    for index in 0..account_count {
        let At { place, time, id } = entry_at(index);
        #[expect(
            clippy::integer_division,
            reason = "so many accounts in a row are of one user"
        )]
        let owner = user(index / currency_count);
        let code = currency(index % currency_count);
        let open = Operation::open(id, owner, code, AccountSettings::default());
        ledger.apply(&open, place, time);
    }
    let size = ledger.memory_size();
    let each = size.div_ceil(account_count);
    eprintln!(
        "{account_count} accounts, {currency_count} a user: {size} bytes ({each} each), \
         {empty_size} when empty"
    );
}

/// The least that a look-up in a table of `count` lines of `SIZE` numbers costs: one read, whose
/// place depends on the one before.
fn bench_one_read<const SIZE: usize>(group: &mut BenchmarkGroup<'_, WallTime>, count: u64) {
    let table = vec![[1_u64; SIZE]; to_usize(count)];
    let mut random = Random::new(3);
    let mut last = 0;
    group.bench_function("one_read", |bencher| {
        bencher.iter(|| {
            let place = (random.u64() ^ last).wrapping_mul(last | 1) % count;
            last = black_box(&table)[to_usize(place)][0];
            last
        });
    });
}

fn bench_live(criterion: &mut Criterion, account_count: u64) {
    let mut bench = Bench::filled(account_count.div_ceil(CURRENCIES_PER_USER));
    let mut group = criterion.benchmark_group("ledger");
    group.throughput(Throughput::Elements(1));
    group.bench_function("credit_or_debit", |bencher| bencher.iter(|| bench.apply()));
    group.throughput(Throughput::Elements(to_u64(TOUCH_COUNT)));
    for (name, reading) in [
        ("run", Reading::AsNeeded),
        ("run read ahead", Reading::Ahead),
        ("run again", Reading::AsNeeded),
        ("run read ahead again", Reading::Ahead),
    ] {
        group.bench_function(name, |bencher| bencher.iter(|| bench.apply_run(reading)));
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("get", |bencher| {
        bencher.iter(|| {
            let owner = user(bench.random.below(bench.user_count));
            bench.ledger.get(owner, currency(bench.random.u64()).get())
        });
    });
    bench_one_read::<8>(&mut group, account_count);
    group.finish();
    assert_eq!(bench.ledger.check_supply(), Ok(()));
}

fn bench_replay(criterion: &mut Criterion) {
    const ENTRY_COUNT: u64 = 1_000_000;
    let mut bench = Bench::new(100_000);
    let entries: Vec<(Entry, At)> = (0..ENTRY_COUNT)
        .map(|_| (bench.apply(), entry_at(bench.index)))
        .collect();
    let mut group = criterion.benchmark_group("replay");
    group
        .sample_size(10)
        .throughput(Throughput::Elements(ENTRY_COUNT));
    group.bench_function("absorb", |bencher| {
        bencher.iter(|| {
            let mut replica = new_ledger(true);
            for (entry, at) in &entries {
                replica
                    .absorb(entry, at.place, at.time)
                    .expect("it follows");
            }
            assert_eq!(replica.digest(), bench.ledger.digest());
        });
    });
    group.bench_function("fold", |bencher| {
        bencher.iter(|| {
            let mut delta = Delta::new(RING_KEY);
            for (entry, at) in &entries {
                delta.absorb(entry, at.place, at.time).expect("it follows");
            }
            black_box(delta.merge())
        });
    });
    let bytes = vec![7_u8; to_usize(ENTRY_COUNT) * ENTRY_SIZE];
    let mut target = vec![0; bytes.len()];
    group.bench_function("copy", |bencher| {
        bencher.iter(|| black_box(&mut target).copy_from_slice(black_box(&bytes)));
    });
    group.finish();
    bench_checkpoint(criterion, &entries);
}

/// A checkpoint of what `entries` leave, from the delta to the synced file.
fn bench_checkpoint(criterion: &mut Criterion, entries: &[(Entry, At)]) {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    let medium = FileMedium::create(&folder.path().join("data")).expect("a folder");
    let mut size = 0;
    let mut group = criterion.benchmark_group("checkpoint");
    group
        .sample_size(10)
        .throughput(Throughput::Elements(to_u64(entries.len())));
    group.bench_function("fold", |bencher| {
        bencher.iter(|| {
            let mut delta = Delta::new(RING_KEY);
            for (entry, at) in entries {
                delta.absorb(entry, at.place, at.time).expect("it follows");
            }
            size = write_checkpoint(&medium, delta);
        });
    });
    let bytes = vec![7; size];
    let file = medium.create("plain").expect("room");
    group.bench_function("write", |bencher| {
        bencher.iter(|| {
            file.write_at(0, black_box(&bytes)).expect("room");
            file.sync().expect("a disk that works");
        });
    });
    group.finish();
}

/// Returns the bytes of its records.
fn write_checkpoint(medium: &FileMedium, delta: Delta) -> usize {
    let spec = CheckpointSpec {
        cluster: ClusterId::new(7).expect("not 0"),
        log: LogNumber::new(1).expect("not 0"),
        ring_key: RING_KEY,
    };
    let mut writer = CheckpointWriter::create(medium, "checkpoint", spec).expect("room");
    let mut merge = delta.merge();
    let mut size = 0;
    for section in Section::ALL {
        let mut records = Vec::new();
        merge.finish(section, &mut records).expect("it fits");
        size += records.len();
        let pushed = writer.push(section as u16, record_size(section), &records);
        pushed.expect("room");
    }
    writer.finish(LogEnd::default(), &[]).expect("room");
    size
}

fn bench_ids(criterion: &mut Criterion) {
    let mut bench = Bench::new(1);
    for _ in 0..4_000_000 {
        bench.burn();
    }
    let size = bench.ledger.memory_size();
    eprintln!("{} ids: {size} bytes", bench.ledger.id_count());
    let mut group = criterion.benchmark_group("ids");
    group.throughput(Throughput::Elements(1));
    group.bench_function("insert", |bencher| bencher.iter(|| bench.burn()));
    group.bench_function("look_up", |bencher| {
        bencher.iter(|| {
            let At { time, id, .. } = entry_at(bench.index - bench.random.below(4_000_000));
            bench.ledger.seen(user(5), id, time)
        });
    });
    bench_one_read::<2>(&mut group, 4_000_000);
    group.finish();
}

fn main() {
    let count = std::env::var("LEDGER_ACCOUNTS")
        .ok()
        .and_then(|text| text.parse().ok());
    let account_count = count.unwrap_or(1_000_000);
    print_account_size(account_count, 1);
    print_account_size(account_count, CURRENCIES_PER_USER);
    let mut criterion = Criterion::default().configure_from_args();
    bench_live(&mut criterion, account_count);
    bench_replay(&mut criterion);
    bench_ids(&mut criterion);
    criterion.final_summary();
}
