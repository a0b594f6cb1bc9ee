//! `sim`: runs seeds of the simulator and says what they found.
#![expect(
    clippy::fn_params_excessive_bools,
    clippy::struct_excessive_bools,
    reason = "flags are what they are"
)]
#![cfg_attr(
    not(feature = "canary"),
    expect(clippy::unnecessary_wraps, reason = "each command answers alike")
)]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};

use super::Failure;
use super::output::{error_line, is_watched, line, object, table};
use crate::clock::Clock;
use crate::role::ExitCode;
use crate::sim::{self, Counts, Keep, Outcome};

/// Flags of `sim`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Flags {
    /// One seed: prints what happened.
    #[arg(long, conflicts_with = "seeds")]
    pub(super) seed: Option<u64>,
    /// A range of seeds, the second one not included.
    #[arg(long, value_name = "A..B", value_parser = parse_seeds)]
    seeds: Option<Seeds>,
    /// Print every event of the one seed.
    #[arg(long, requires = "seed")]
    verbose: bool,
    /// Go on after a seed that failed.
    #[arg(long)]
    keep_going: bool,
    /// Run every seed twice and compare the traces.
    #[arg(long)]
    twice: bool,
    /// Seeds at a time; 0 = one for each processor.
    #[arg(long, default_value_t = 0)]
    pub(super) jobs: usize,
    /// Choose a defect; it must be caught within its stated number of seeds.
    #[cfg(feature = "canary")]
    #[arg(long, conflicts_with_all = ["bugs", "seeds"])]
    pub(super) bug: Option<String>,
    /// Try every defect, one after the other.
    #[cfg(feature = "canary")]
    #[arg(long)]
    pub(super) bugs: bool,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// Seeds from the first to before the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seeds {
    first: u64,
    end: u64,
}

fn parse_seeds(text: &str) -> Result<Seeds, String> {
    let (first, end) = text.split_once("..").ok_or("A..B is needed")?;
    let number = |text: &str| {
        text.trim()
            .parse::<u64>()
            .map_err(|error| error.to_string())
    };
    let (first, end) = (number(first)?, number(end)?);
    if first < end {
        Ok(Seeds { first, end })
    } else {
        Err("the second number must be the higher one".to_owned())
    }
}

/// Seeds that are run when none is named.
const DEFAULT_SEEDS: Seeds = Seeds { first: 1, end: 201 };

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failure> {
    #[cfg(feature = "canary")]
    if let Some(code) = super::canary::run(flags)? {
        return Ok(code);
    }
    if let Some(seed) = flags.seed {
        return Ok(run_one(flags, seed));
    }
    let seeds = flags.seeds.unwrap_or(DEFAULT_SEEDS);
    let sweep = Sweep::new(flags, seeds);
    let clock = Clock::start();
    sweep.run_all();
    let ms = clock.now().tick.0.div_euclid(1_000_000);
    Ok(sweep.report(ms))
}

fn run_one(flags: &Flags, seed: u64) -> ExitCode {
    name_seed_in_panics(seed);
    let keep = if flags.verbose { Keep::All } else { Keep::Last };
    let outcome = sim::run(seed, keep);
    let repeats = !flags.twice || sim::run(seed, Keep::Last).trace == outcome.trace;
    if flags.json {
        object(&json!({
            "schema": "counterfoil-sim/1",
            "seed": seed,
            "fine": outcome.is_fine() && repeats,
            "trace": format!("{:016x}", outcome.trace),
            "virtual_ms": outcome.virtual_ms,
            "faults": outcome.faults,
            "counts": counts_json(&outcome.counts),
            "story": outcome.story,
        }));
    } else {
        if flags.verbose || !outcome.is_fine() {
            outcome.story.iter().for_each(|text| line(text));
        }
        outcome
            .faults
            .iter()
            .for_each(|text| line(&format!("BROKEN: {text}")));
        line(&format!(
            "seed {seed}: {} after {} virtual ms, trace {:016x}",
            if outcome.is_fine() { "fine" } else { "BROKEN" },
            outcome.virtual_ms,
            outcome.trace
        ));
        if !repeats {
            line("BROKEN: the same seed gave another trace");
        }
    }
    if outcome.is_fine() && repeats {
        ExitCode::Ok
    } else {
        ExitCode::Damage
    }
}

/// A build whose panics end the process names the seed in its last words.
fn name_seed_in_panics(seed: u64) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        error_line(&format!("in seed {seed}: counterfoil sim --seed {seed}"));
    }));
}

/// A range of seeds on several threads.
struct Sweep<'a> {
    flags: &'a Flags,
    seeds: Seeds,
    next: AtomicU64,
    done: AtomicU64,
    stops: AtomicBool,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    counts: Counts,
    failed: BTreeMap<u64, Outcome>,
    unstable: Vec<u64>,
    virtual_ms: u64,
}

impl<'a> Sweep<'a> {
    fn new(flags: &'a Flags, seeds: Seeds) -> Self {
        Self {
            flags,
            seeds,
            next: AtomicU64::new(seeds.first),
            done: AtomicU64::new(0),
            stops: AtomicBool::new(false),
            found: Mutex::new(Found::default()),
        }
    }

    fn run_all(&self) {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let jobs = if self.flags.jobs == 0 {
            cores
        } else {
            self.flags.jobs
        };
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| self.work());
            }
        });
    }

    fn work(&self) {
        loop {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if self.seeds.end <= seed || self.stops.load(Ordering::Relaxed) {
                return;
            }
            let outcome = sim::run(seed, Keep::Last);
            let repeats = !self.flags.twice || sim::run(seed, Keep::Last).trace == outcome.trace;
            self.take(outcome, repeats);
        }
    }

    fn take(&self, outcome: Outcome, repeats: bool) {
        let done = 1 + self.done.fetch_add(1, Ordering::Relaxed);
        let mut found = self
            .found
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        found.counts.add(&outcome.counts);
        found.virtual_ms += outcome.virtual_ms;
        if !repeats {
            found.unstable.push(outcome.seed);
        }
        if !outcome.is_fine() {
            let seed = outcome.seed;
            error_line(&format!("seed {seed} fails: {}", outcome.faults[0]));
            found.failed.insert(seed, outcome);
            if !self.flags.keep_going {
                self.stops.store(true, Ordering::Relaxed);
            }
        }
        drop(found);
        if is_watched() && done.is_multiple_of(20) {
            let count = self.seeds.end - self.seeds.first;
            error_line(&format!("{done} of {count} seeds"));
        }
    }

    fn report(self, ms: u64) -> ExitCode {
        let done = self.done.load(Ordering::Relaxed);
        let found = self
            .found
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // A handful of seeds cannot have everything.
        let missing = if done < 100 || !found.failed.is_empty() {
            Vec::new()
        } else {
            sim::missing(&found.counts)
        };
        if self.flags.json {
            print_json(&found, &missing, done, ms);
        } else {
            print_text(&found, &missing, done, ms);
        }
        if found.failed.is_empty() && found.unstable.is_empty() && missing.is_empty() {
            ExitCode::Ok
        } else {
            ExitCode::Damage
        }
    }
}

fn print_json(found: &Found, missing: &[String], done: u64, ms: u64) {
    let failed: Vec<Value> = found
        .failed
        .values()
        .map(|outcome| json!({ "seed": outcome.seed, "faults": outcome.faults }))
        .collect();
    object(&json!({
        "schema": "counterfoil-sim-sweep/1",
        "seeds": done,
        "ms": ms,
        "virtual_ms": found.virtual_ms,
        "failed": failed,
        "unstable": found.unstable,
        "never_occurred": missing,
        "counts": counts_json(&found.counts),
    }));
}

fn print_text(found: &Found, missing: &[String], done: u64, ms: u64) {
    for (what, counts) in classes(&found.counts) {
        let rows = counts
            .iter()
            .map(|(name, count)| vec![(*name).to_owned(), count.to_string()])
            .collect();
        table(&[what, "times"], rows);
    }
    for outcome in found.failed.values() {
        outcome
            .story
            .iter()
            .rev()
            .take(30)
            .rev()
            .for_each(|text| line(text));
        let seed = outcome.seed;
        line(&format!("seed {seed} fails: {}", outcome.faults[0]));
        line(&format!(
            "repeat it with: counterfoil sim --seed {seed} --verbose"
        ));
    }
    for seed in &found.unstable {
        line(&format!("seed {seed} gives another trace the second time"));
    }
    for name in missing {
        line(&format!("never occurred: {name}"));
    }
    line(&format!(
        "{done} seeds, {} failed, {} virtual seconds in {ms} ms",
        found.failed.len(),
        found.virtual_ms.div_euclid(1_000)
    ));
}

fn classes(counts: &Counts) -> [(&'static str, &BTreeMap<&'static str, u64>); 4] {
    [
        ("operation", &counts.operations),
        ("outcome", &counts.outcomes),
        ("fault", &counts.faults),
        ("event", &counts.events),
    ]
}

fn counts_json(counts: &Counts) -> Value {
    json!({
        "operations": counts.operations,
        "outcomes": counts.outcomes,
        "faults": counts.faults,
        "events": counts.events,
    })
}
