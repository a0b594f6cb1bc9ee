//! The simulator: whole clusters in one thread and virtual time, from one seed.
//!
//! It runs the cores as shipped (fronts, nodes, the backup, client sessions) over simulated
//! connections and the shipped disk code over folders in memory, breaks what may break, and has an
//! auditor judge what clients were told. One seed is one run: the same seed gives the same events,
//! byte for byte.
//!
//! Reading order: `plan` (what a seed means), `world` (the queue of events), `machine` and `build`
//! (hosts and processes), `process` (a turn as net does it), `network`, `disk`, `workload`,
//! `fault` (with `replace`, `exchange` and `lost`), `watch` (what can be told from the wire),
//! `auditor` (everything else).

#![expect(
    clippy::fn_params_excessive_bools,
    clippy::manual_is_multiple_of,
    clippy::needless_pass_by_value,
    clippy::precedence_bits,
    clippy::single_match_else,
    clippy::struct_excessive_bools,
    clippy::too_many_arguments,
    clippy::unnecessary_wraps,
    clippy::unused_self,
    clippy::zero_sized_map_values,
    reason = "a world of tests: what it draws and tells is flat on purpose"
)]

mod auditor;
mod away;
mod build;
mod clock;
mod counts;
mod damage;
mod dates;
mod disk;
mod exchange;
mod fault;
mod lost;
mod machine;
mod marks;
mod network;
mod operator;
mod plan;
mod process;
mod replace;
mod story;
mod watch;
mod workload;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::model::to_usize;

use auditor::{Evidence, judge};
use clock::{At, MS};
use plan::{FaultKind, Plan};
use world::World;

pub use counts::Counts;

/// How long everything may take to come to rest once it is healed.
const REST_MS_MAX: u64 = 120_000;

/// How long it is left alone before everything is read: longer than a silent link goes unnoticed
/// (`LINK_SILENCE_MS_MAX`) and the pause before it is dialled again.
const CALM_MS: u64 = 6_000;

/// How long the world goes on after that, so that digests are compared and queues drain.
const SETTLE_MS: u64 = 1_500;

/// One in so many seeds has all daemons start anew at the end, and everything read again.
const REPLAY_EVERY: u64 = 3;

/// How one run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// A hash over every event: equal for equal runs.
    pub trace: u64,
    /// What is wrong, in words; nothing, it is hoped.
    pub faults: Vec<String>,
    /// What was generated.
    pub counts: Counts,
    /// The last events in words; all of them if that was asked for.
    pub story: Vec<String>,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
}

impl Outcome {
    /// Did everything hold?
    #[must_use]
    pub const fn is_fine(&self) -> bool {
        self.faults.is_empty()
    }
}

/// What is kept of a run's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The last few hundred lines.
    Last,
    /// All lines.
    All,
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64, keep: Keep) -> Outcome {
    let plan = Plan::new(seed);
    let mut world = World::new(plan, keep == Keep::All);
    let result = catch_unwind(AssertUnwindSafe(|| world.live()));
    let mut faults: Vec<String> = world.story.faults().to_vec();
    if let Err(panic) = result {
        faults.push(format!("panics: {}", words(panic.as_ref())));
    }
    Outcome {
        seed,
        trace: world.story.hash(),
        faults,
        story: world.story.take_lines(),
        virtual_ms: world.at.div_euclid(MS),
        counts: world.counts,
    }
}

/// What a sweep must have generated at least once, and has not.
#[must_use]
pub fn missing(counts: &Counts) -> Vec<String> {
    let mut missing = Vec::new();
    let operations = [
        "open",
        "close",
        "configure",
        "credit",
        "credit_open_if_missing",
        "debit",
        "debit_up_to",
        "get",
        "list",
        "find",
        "find_burn",
        "malformed",
    ];
    let outcomes = [
        "ok",
        "exists",
        "not_found",
        "version_mismatch",
        "not_empty",
        "frozen",
        "over_cap",
        "insufficient",
        "cancelled",
        "id_reused",
        "id_too_old",
        "not_seen",
        "never",
        "unavailable",
        "id_in_future",
        "unknown",
        "bad_amount",
        "bad_flags",
        "bad_currency",
    ];
    for (what, names, found) in [
        ("operation", &operations[..], &counts.operations),
        ("outcome", &outcomes[..], &counts.outcomes),
    ] {
        let lacking = names.iter().filter(|name| !found.contains_key(**name));
        missing.extend(lacking.map(|name| format!("{what} {name}")));
    }
    let moves = [
        "take_over",
        "taken_move",
        "planned_move",
        "adoption",
        "activation",
        "redirected_move",
        "rejoin",
        "add_node",
        "removed",
        "command_drain",
        "command_weight",
        "command_pause",
        "command_cancel",
        "audit",
    ];
    let lacking = moves
        .iter()
        .filter(|name| !counts.events.contains_key(**name));
    missing.extend(lacking.map(|name| format!("event {name}")));
    let kinds = FaultKind::ALL.iter().map(|kind| kind.name());
    let lacking = kinds.filter(|name| !counts.faults.contains_key(name));
    missing.extend(lacking.map(|name| format!("fault {name}")));
    missing
}

impl World {
    /// The whole life of a world.
    fn live(&mut self) {
        self.tell(&format!("{:?}", self.plan));
        let is_over = self.run_until(self.plan.safety_until, |world| {
            world.workload.is_done() && world.plan.faults.is_empty() && world.is_at_rest()
        });
        if !is_over && !self.is_broken() {
            self.run_until(self.plan.safety_until + MS, |world| world.is_healed);
        }
        if self.is_broken() || !self.comes_to_rest() {
            return;
        }
        if self.plan.seed % REPLAY_EVERY == 0 && !self.all_start_anew() {
            return;
        }
        self.compare_copies();
        if self.plan.faults.is_empty() {
            self.check_calm_answers();
        }
        self.audit();
    }

    fn is_broken(&self) -> bool {
        !self.story.faults().is_empty()
    }

    /// Liveness: everything asked ends, every account is read, every queue drains.
    fn comes_to_rest(&mut self) -> bool {
        let until = self.at + REST_MS_MAX * MS;
        if !self.run_until(until, Self::is_at_rest) {
            if !self.is_broken() {
                let text = self.why_no_rest();
                self.blame(text);
            }
            return false;
        }
        // Silent links are found and dialled anew in this time: behind it nothing excuses anybody.
        let calm: At = self.at + CALM_MS * MS;
        self.run_until(calm, |_| false);
        let (first, audit_count) = (self.workload.asked.len(), self.workload.audit_count);
        self.client_reads_all(self.reader());
        if !self.run_until(until + REST_MS_MAX * MS, Self::is_at_rest) {
            let text = self.why_no_rest();
            self.blame(text);
            return false;
        }
        self.check_last_answers(first, audit_count);
        let settled: At = self.at + SETTLE_MS * MS;
        self.run_until(settled, |_| false);
        !self.is_broken()
    }

    fn why_no_rest(&self) -> String {
        let down: Vec<&str> = self
            .machines
            .iter()
            .filter(|machine| !machine.is_ready() && !machine.stays_down)
            .map(|machine| machine.name.as_str())
            .collect();
        let plan = self
            .operator
            .as_ref()
            .filter(|operator| !operator.is_settled);
        let plan = plan.map_or("", |operator| &operator.why);
        format!(
            "no rest {} virtual seconds after healing: {} operations are not answered, not \
             serving: {down:?}, {} moves are open {plan}",
            REST_MS_MAX.div_euclid(1_000),
            self.workload.open_count,
            self.watch.marks.open_count(),
        )
    }

    /// Every daemon ends and starts again: what was replayed must be what was there.
    fn all_start_anew(&mut self) -> bool {
        self.tell("all daemons start anew");
        for number in self.daemons() {
            self.kill(number);
            self.restart_at(number, self.at + 20 * MS);
        }
        self.look_again();
        self.comes_to_rest()
    }

    /// The mirror is the log, byte for byte.
    fn compare_copies(&mut self) {
        let ends: Vec<_> = self.watch.ends().collect();
        for (log, end) in ends {
            // A removed node's log is only on the backup.
            let Some(machine) = self.watch.machine_of(log, &self.node_at) else {
                continue;
            };
            let (here, there) = (
                &self.machines[self.backup()].medium,
                &self.machines[machine].medium,
            );
            let (Some(here), Some(there)) = (here, there) else {
                continue;
            };
            // A block may be on its way to one of them just now.
            let end_offset = end.offset.min(self.watch.own_end(machine).offset);
            let dir = crate::log::log_dir(log);
            let mut compared = 0;
            for path in here.paths() {
                if !path.starts_with(&dir) || !path.contains("/segment-") {
                    continue;
                }
                let (Some(mirror), Some(own)) = (here.content(&path), there.content(&path)) else {
                    continue;
                };
                let first = to_usize(crate::log::SEGMENT_HEADER_SIZE);
                let size = mirror
                    .len()
                    .min(own.len())
                    .min(used_size(&path, end_offset));
                if size < first {
                    continue;
                }
                compared += 1;
                if mirror[first..size] != own[first..size] {
                    let at = (first..size).find(|at| mirror[*at] != own[*at]);
                    let text = format!("{path} differs from the mirror at byte {at:?}");
                    self.story.blame(self.at, text);
                }
            }
            if compared == 0 && end.seq.0 != 0 {
                let text = format!("no segment of log {log} is on both sides");
                self.story.blame(self.at, text);
            }
        }
    }

    /// The auditor's word.
    fn audit(&mut self) {
        let logs = self.watch.logs();
        let evidence = Evidence {
            logs: &logs,
            asked: &self.workload.asked,
            audits: &self.watch.audits,
            ring_key: self.ring_key(),
            is_remade: self.counts.events.contains_key("recovery"),
        };
        for text in judge(&evidence) {
            self.story.blame(self.at, text);
        }
    }
}

/// Bytes of the segment file at `path` that lie before the end of its log.
fn used_size(path: &str, end_offset: u64) -> usize {
    let number = path.rsplit('-').next().unwrap_or_default();
    let number = u64::from_str_radix(number, 16).unwrap_or(0);
    let start = number.saturating_mul(crate::limits::SEGMENT_SIZE_MIN);
    to_usize(end_offset.saturating_sub(start))
}

fn words(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no words")
}
