//! `sim --bug` and `sim --bugs`: is every defect caught? Only in a build with the feature `canary`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::Failure;
use super::output::{line, object, table};
use super::sim::Flags;
use crate::canary::{Bug, choose};
use crate::clock::Clock;
use crate::role::ExitCode;
use crate::sim::{self, Keep, Outcome};

/// How one defect was caught.
struct Catch {
    bug: Bug,
    /// Seeds that were run until one failed; `None`: none did.
    seeds: Option<u64>,
    text: String,
    ms: u64,
}

/// What the flags ask for of this; nothing: the simulator goes on as usual.
pub(super) fn run(flags: &Flags) -> Result<Option<ExitCode>, Failure> {
    let bugs = match (&flags.bug, flags.bugs) {
        (None, false) => return Ok(None),
        (Some(name), _) => vec![find(name)?],
        (None, true) => Bug::ALL.to_vec(),
    };
    // Panics are findings here, and there are many of them.
    std::panic::set_hook(Box::new(|_| ()));
    if let (Some(seed), [bug]) = (flags.seed, &bugs[..]) {
        choose(Some(*bug));
        let outcome = sim::run(seed, Keep::Last);
        outcome.story.iter().for_each(|text| line(text));
        outcome
            .faults
            .iter()
            .for_each(|text| line(&format!("BROKEN: {text}")));
        return Ok(Some(ExitCode::Ok));
    }
    let catches: Vec<Catch> = bugs.into_iter().map(|bug| hunt(bug, flags.jobs)).collect();
    let all = catches.iter().all(|catch| catch.seeds.is_some());
    if flags.json {
        object(&json!({
            "schema": "counterfoil-sim-bugs/1",
            "all_caught": all,
            "bugs": catches.iter().map(catch_json).collect::<Vec<Value>>(),
        }));
    } else {
        let rows = catches.iter().map(catch_cells).collect();
        table(
            &["bug", "where", "caught in seed", "within", "ms", "by"],
            rows,
        );
    }
    Ok(Some(if all { ExitCode::Ok } else { ExitCode::Damage }))
}

fn find(name: &str) -> Result<Bug, Failure> {
    let found = Bug::ALL.iter().find(|bug| bug.name() == name);
    found.copied().ok_or_else(|| {
        let names: Vec<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        let text = format!("no such defect; there are: {}", names.join(", "));
        Failure::new(ExitCode::Usage, "no_such_bug", text)
    })
}

/// Runs seeds with the defect until one fails.
fn hunt(bug: Bug, jobs: usize) -> Catch {
    choose(Some(bug));
    let clock = Clock::start();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let jobs = if jobs == 0 { cores } else { jobs };
    let next = AtomicU64::new(1);
    let first: Mutex<Option<Outcome>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if bug.seed_count_max() < seed {
                        return;
                    }
                    let outcome = sim::run(seed, Keep::Last);
                    if outcome.is_fine() {
                        continue;
                    }
                    next.fetch_add(bug.seed_count_max(), Ordering::Relaxed);
                    let mut first = first
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    if first.as_ref().is_none_or(|first| seed < first.seed) {
                        *first = Some(outcome);
                    }
                    return;
                }
            });
        }
    });
    choose(None);
    let first = first
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    Catch {
        bug,
        seeds: first.as_ref().map(|outcome| outcome.seed),
        text: first.map_or_else(String::new, |outcome| outcome.faults[0].clone()),
        ms: clock.now().tick.0.div_euclid(1_000_000),
    }
}

fn catch_json(catch: &Catch) -> Value {
    json!({
        "bug": catch.bug.name(),
        "where": catch.bug.place(),
        "what": catch.bug.text(),
        "seed": catch.seeds,
        "within": catch.bug.seed_count_max(),
        "by": catch.text,
        "ms": catch.ms,
    })
}

fn catch_cells(catch: &Catch) -> Vec<String> {
    let seed = catch
        .seeds
        .map_or("NOT CAUGHT".to_owned(), |seed| seed.to_string());
    vec![
        catch.bug.name().to_owned(),
        catch.bug.place().to_owned(),
        seed,
        catch.bug.seed_count_max().to_string(),
        catch.ms.to_string(),
        catch.text.chars().take(90).collect(),
    ]
}
