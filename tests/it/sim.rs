//! The simulator's own sweep: 200 seeds, some of them twice, and every seed that ever failed.
//!
//! `counterfoil sim --seeds A..B` runs more of them.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use counterfoil::sim::{Counts, Keep, Outcome, missing, run};

/// Seeds of every run of the tests, from 1 on.
const SEED_COUNT: u64 = 200;

/// One in so many seeds runs twice, and must give the same trace.
const TWICE_EVERY: u64 = 25;

/// Runs `seeds` on all processors.
fn run_all(seeds: &[u64]) -> Vec<Outcome> {
    let next = AtomicU64::new(0);
    let outcomes = Mutex::new(Vec::new());
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(seed) = seeds.get(usize::try_from(index).unwrap()) else {
                        return;
                    };
                    let outcome = run(*seed, Keep::Last);
                    if seed % TWICE_EVERY == 0 {
                        let again = run(*seed, Keep::Last);
                        assert_eq!(again.trace, outcome.trace, "seed {seed} is no function");
                    }
                    outcomes.lock().unwrap().push(outcome);
                }
            });
        }
    });
    outcomes.into_inner().unwrap()
}

fn report(outcomes: &[Outcome]) {
    let failed: Vec<String> = outcomes
        .iter()
        .filter(|outcome| !outcome.is_fine())
        .map(|outcome| {
            let last = outcome.story.iter().rev().take(30).rev();
            let story: Vec<&str> = last.map(String::as_str).collect();
            format!(
                "{}\nseed {}: {}\nrepeat it with: counterfoil sim --seed {}",
                story.join("\n"),
                outcome.seed,
                outcome.faults.join("\n"),
                outcome.seed
            )
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[test]
fn two_hundred_seeds_keep_every_promise() {
    let seeds: Vec<u64> = (1..=SEED_COUNT).collect();
    let outcomes = run_all(&seeds);
    report(&outcomes);
    let mut counts = Counts::default();
    for outcome in &outcomes {
        counts.add(&outcome.counts);
    }
    let missing = missing(&counts);
    assert!(missing.is_empty(), "never occurred: {missing:?}");
    assert!(counts.events.contains_key("checkpoint"), "no checkpoint");
}

#[test]
fn seeds_that_failed_once_stay_mended() {
    let seeds: BTreeSet<u64> = include_str!("seeds.txt")
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| {
            let number = line.split_whitespace().next().unwrap();
            number
                .parse()
                .unwrap_or_else(|_| panic!("no seed in {line:?}"))
        })
        .filter(|seed| SEED_COUNT < *seed)
        .collect();
    report(&run_all(&seeds.into_iter().collect::<Vec<_>>()));
}
