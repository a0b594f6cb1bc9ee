//! What a bench says: lines for people, JSON for programs. Printing them is not done here.
#![expect(clippy::float_arithmetic, reason = "figures for people")]

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::machine::{Machine, ProcessUsage};
use super::measure::{Interval, Latencies, Measured};
use super::numbers::{float, millis, ratio, rounded, seconds, to_thousandths};
use super::options::{BenchOptions, Extent, Pace};
use super::proving::Reckoning;
use crate::model::CodeClass;

/// Name of the JSON's shape; docs/bench-result.schema.json describes it.
pub const SCHEMA: &str = "counterfoil-bench/1";

/// What every answer means, whatever is measured: there is no weaker mode.
const DURABILITY: &str = "every answer left after its change was synced on its node and on the \
                          backup";

/// A client thread that uses more of its core is what limits a result.
const CLIENT_CPU_MAX: f64 = 0.9;

/// What proving a bench found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Accounts read back.
    pub account_count: u64,
    /// Acknowledged changes that are not there.
    pub lost: u64,
    /// Changes that are there twice, or that nobody acknowledged.
    pub doubled: u64,
    /// Accounts with the right number of changes and a wrong balance.
    pub mismatched: u64,
    /// Changes whose outcome nobody told.
    pub unknown: u64,
    /// Of them, those that were cleared up by asking.
    pub unknown_resolved: u64,
    /// Ids asked for again that gave their first receipt.
    pub replayed: u64,
    /// Ids asked for again that gave something else.
    pub replayed_differently: u64,
    /// Ids asked for again that are older than what is kept.
    pub replays_forgotten: u64,
    /// Currencies in whose audit something is missing or too much.
    pub differing_currencies: u64,
}

impl Verdict {
    pub(super) const fn add(&mut self, reckoning: &Reckoning) {
        self.account_count += reckoning.account_count;
        self.lost += reckoning.lost;
        self.doubled += reckoning.doubled;
        self.mismatched += reckoning.mismatched;
    }

    /// Was every answer kept, once, and every coin accounted for?
    #[must_use]
    pub const fn is_proof(&self) -> bool {
        self.lost == 0
            && self.doubled == 0
            && self.mismatched == 0
            && self.unknown == self.unknown_resolved
            && self.replayed_differently == 0
            && self.differing_currencies == 0
    }
}

/// The cluster that was measured.
#[derive(Clone, Debug, Default)]
pub struct ClusterFacts {
    /// Of the backup that answered.
    pub version: String,
    /// Business nodes.
    pub node_count: u64,
    /// Fronts that were used.
    pub front_count: u64,
    /// Of the slot table.
    pub ring_epoch: u64,
    /// Where it runs, in words.
    pub place: String,
}

/// Everything there is to say about one load.
#[derive(Debug)]
pub struct Report<'a> {
    /// What was asked for.
    pub options: &'a BenchOptions,
    /// Closed or open loop.
    pub pace: Pace,
    /// What came out.
    pub measured: &'a Measured,
    /// On which machine the client ran.
    pub machine: &'a Machine,
    /// Against what.
    pub cluster: &'a ClusterFacts,
    /// What the cluster's processes used while it counted, where they are known.
    pub processes: &'a [ProcessUsage],
    /// Bytes that node and backup wrote for it, where the cluster was used by nobody else.
    pub disk_size: Option<u64>,
    /// The proof, if it was asked for.
    pub verdict: Option<&'a Verdict>,
    /// Names and values for whoever compares results.
    pub labels: &'a BTreeMap<String, String>,
    /// Percentiles to show.
    pub percentiles: &'a [f64],
    /// Thresholds that it broke.
    pub broken: &'a [String],
}

impl Report<'_> {
    /// Was the client what limited the result?
    #[must_use]
    pub fn is_client_limit(&self) -> bool {
        CLIENT_CPU_MAX <= self.measured.thread_cpu_max
    }

    /// What an operation costs a process: steadier than rates on a machine that others use too.
    fn cpu_us_per_operation(&self, usage: &ProcessUsage) -> f64 {
        1e6 * usage.cpu_seconds / float(self.measured.figures.operation_count.max(1))
    }

    fn bytes_per_operation(&self) -> Option<f64> {
        let count = self.measured.figures.operation_count;
        self.disk_size
            .filter(|_| 0 < count)
            .map(|size| to_thousandths(float(size) / float(count)))
    }

    /// As one JSON object.
    #[must_use]
    pub fn json(&self) -> Value {
        let measured = self.measured;
        let figures = &measured.figures;
        let codes: Map<String, Value> = figures
            .codes
            .list()
            .map(|(code, count)| (code.name().to_owned(), json!(count)))
            .collect();
        json!({
            "schema": SCHEMA,
            "version": env!("CARGO_PKG_VERSION"),
            "began_ms": measured.began_ms,
            "labels": self.labels,
            "loop": self.loop_name(),
            "durability": DURABILITY,
            "options": self.options_json(),
            "cluster": {
                "version": self.cluster.version,
                "nodes": self.cluster.node_count,
                "fronts": self.cluster.front_count,
                "ring_epoch": self.cluster.ring_epoch,
                "place": self.cluster.place,
            },
            "machine": {
                "kernel": self.machine.kernel,
                "cpu": self.machine.cpu,
                "cpus": self.machine.cpu_count,
                "memory_size": self.machine.memory_size,
                "file_system": self.machine.file_system,
            },
            "operations": figures.operation_count,
            "requests": figures.latency.len(),
            "elapsed_seconds": seconds(measured.elapsed_ns),
            "operations_per_second": measured.rate(),
            "refusals": figures.codes.of(CodeClass::Refusal),
            "errors": measured.error_count(),
            "codes": codes,
            "latency_us": self.latencies_json(&figures.latency),
            "service_us": self.latencies_json(match self.pace {
                Pace::Closed => &figures.latency,
                Pace::Open(_) => &figures.service,
            }),
            "lag_us": self.latencies_json(&figures.lag),
            "unsent_requests": measured.unsent_count,
            "lost_connections": measured.loss_count,
            "client": {
                "is_limit": self.is_client_limit(),
                "busiest_thread_cpu": to_thousandths(measured.thread_cpu_max),
                "cpu_seconds": seconds(measured.cpu_ns),
            },
            "machine_busy": measured.machine_cpu.map(|(busy, all)| to_thousandths(busy / all)),
            "processes": self.processes_json(),
            "disk_bytes_per_operation": self.bytes_per_operation(),
            "intervals": measured.intervals.iter().map(interval_json).collect::<Vec<_>>(),
            "verdict": self.verdict.map(verdict_json),
            "thresholds_broken": self.broken,
        })
    }

    const fn loop_name(&self) -> &'static str {
        match self.pace {
            Pace::Closed => "closed",
            Pace::Open(_) => "open",
        }
    }

    fn options_json(&self) -> Value {
        let options = self.options;
        let (duration_ms, operations) = match options.extent {
            Extent::DurationMs(ms) => (Some(ms), None),
            Extent::Operations(count) => (None, Some(count)),
        };
        json!({
            "connections": options.connection_count,
            "threads": options.thread_count,
            "pipeline": options.pipeline_depth,
            "batch": options.batch_count,
            "warmup_seconds": millis(options.warmup_ms * 1_000),
            "duration_seconds": duration_ms.map(|ms| millis(ms * 1_000)),
            "operations": operations,
            "rate": match self.pace {
                Pace::Closed => None,
                Pace::Open(rate) => Some(rate),
            },
            "workload": options.workload.to_string(),
            "users": options.user_count,
            "currencies": options.currency_count,
            "distribution": options.distribution.to_string(),
            "seed": options.seed,
            "deadline_ms": options.deadline_ms,
        })
    }

    fn latencies_json(&self, latencies: &Latencies) -> Value {
        let percentiles: Map<String, Value> = self
            .percentiles
            .iter()
            .map(|percentile| {
                let us = micros(latencies.at(*percentile));
                (percentile.to_string(), json!(us))
            })
            .collect();
        json!({
            "mean": to_thousandths(latencies.mean() / 1e3),
            "max": micros(latencies.max()),
            "percentiles": percentiles,
        })
    }

    fn processes_json(&self) -> Vec<Value> {
        let elapsed = seconds(self.measured.elapsed_ns);
        let one = |usage: &ProcessUsage| {
            json!({
                "name": usage.name,
                "cpu": to_thousandths(usage.cpu_seconds / elapsed),
                "cpu_us_per_operation": to_thousandths(self.cpu_us_per_operation(usage)),
                "memory_size": usage.memory_size,
            })
        };
        self.processes.iter().map(one).collect()
    }

    /// As lines for people.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.load_line(), self.result_line()];
        lines.extend(self.latency_lines());
        if let Pace::Open(_) = self.pace {
            let lag = self.measured.lag();
            lines.push(format!(
                "schedule lag p50 {}  p99 {}  max {}; requests never sent: {}",
                pretty(lag.at(50.0)),
                pretty(lag.at(99.0)),
                pretty(lag.max()),
                self.measured.unsent_count
            ));
        }
        lines.push(self.client_line());
        if !self.processes.is_empty() {
            lines.push(self.processes_line());
        }
        if let Some(bytes) = self.bytes_per_operation() {
            lines.push(format!(
                "disk {bytes:.0} bytes per operation, node and backup together"
            ));
        }
        lines.push(format!("durability: {DURABILITY}"));
        lines.push(self.place_line());
        if let Some(verdict) = self.verdict {
            lines.extend(verdict_lines(verdict));
        }
        lines.extend(self.broken.iter().map(|text| format!("FAILED: {text}")));
        lines
    }

    fn load_line(&self) -> String {
        let options = self.options;
        let pace = match self.pace {
            Pace::Closed => {
                "closed loop: the next request waits for an answer, so slow answers slow the load \
                 and these latencies leave that waiting out"
                    .to_owned()
            }
            Pace::Open(rate) => format!(
                "open loop, {} operations/s: latency counts from the time a request was due",
                grouped(rate)
            ),
        };
        format!(
            "{} connections x {} in flight x {} operations, {} threads; {} over {} accounts, {}, \
             seed {}\n{pace}",
            options.connection_count,
            options.pipeline_depth,
            options.batch_count,
            options.thread_count,
            options.workload,
            grouped(options.account_count()),
            options.distribution,
            options.seed
        )
    }

    fn result_line(&self) -> String {
        let measured = self.measured;
        let codes: Vec<String> = measured
            .figures
            .codes
            .list()
            .map(|(code, count)| format!("{} {}", code.name(), grouped(count)))
            .collect();
        format!(
            "{} operations/s: {} in {:.3} s ({}); connections lost {}",
            grouped(measured.rate()),
            grouped(measured.figures.operation_count),
            seconds(measured.elapsed_ns),
            codes.join(", "),
            measured.loss_count
        )
    }

    fn latency_lines(&self) -> Vec<String> {
        let line = |name: &str, latencies: &Latencies| {
            let shown: Vec<String> = self
                .percentiles
                .iter()
                .map(|percentile| format!("p{percentile} {}", pretty(latencies.at(*percentile))))
                .collect();
            format!(
                "{name} {}  max {}",
                shown.join("  "),
                pretty(latencies.max())
            )
        };
        let figures = &self.measured.figures;
        match self.pace {
            Pace::Closed => vec![line("latency", &figures.latency)],
            Pace::Open(_) => vec![
                line("latency", &figures.latency),
                line("service", &figures.service),
            ],
        }
    }

    fn client_line(&self) -> String {
        let busiest = self.measured.thread_cpu_max * 100.0;
        let verdict = if self.is_client_limit() {
            "THE CLIENT WAS THE LIMIT: more --threads"
        } else {
            "the client was not the limit"
        };
        let machine = self
            .measured
            .machine_cpu
            .map_or_else(String::new, |(busy, all)| {
                format!("; machine {:.0} % busy", 100.0 * busy / all)
            });
        format!("client: busiest thread {busiest:.0} % of a core, {verdict}{machine}")
    }

    fn processes_line(&self) -> String {
        let elapsed = seconds(self.measured.elapsed_ns);
        let shown: Vec<String> = self
            .processes
            .iter()
            .map(|usage| {
                format!(
                    "{} {:.0} % {:.2} us/op {} MiB",
                    usage.name,
                    100.0 * usage.cpu_seconds / elapsed,
                    self.cpu_us_per_operation(usage),
                    usage.memory_size >> 20
                )
            })
            .collect();
        format!("cpu and memory: {}", shown.join(", "))
    }

    fn place_line(&self) -> String {
        let machine = self.machine;
        let files = machine.file_system.as_deref();
        format!(
            "counterfoil {} against {} ({}, {} nodes, {} fronts, ring epoch {}); {} x {}, Linux \
             {}, data on {}",
            env!("CARGO_PKG_VERSION"),
            self.cluster.version,
            self.cluster.place,
            self.cluster.node_count,
            self.cluster.front_count,
            self.cluster.ring_epoch,
            machine.cpu_count,
            machine.cpu,
            machine.kernel,
            files.unwrap_or("a file system not seen from here")
        )
    }
}

fn verdict_json(verdict: &Verdict) -> Value {
    json!({
        "proved": verdict.is_proof(),
        "accounts": verdict.account_count,
        "lost": verdict.lost,
        "doubled": verdict.doubled,
        "mismatched": verdict.mismatched,
        "unknown": verdict.unknown,
        "unknown_resolved": verdict.unknown_resolved,
        "replayed": verdict.replayed,
        "replayed_differently": verdict.replayed_differently,
        "replays_forgotten": verdict.replays_forgotten,
        "differing_currencies": verdict.differing_currencies,
    })
}

fn verdict_lines(verdict: &Verdict) -> Vec<String> {
    let word = if verdict.is_proof() {
        "PROVED"
    } else {
        "BROKEN"
    };
    vec![
        format!(
            "{} accounts read back: lost {}, doubled {}, mismatched {}; unknown {}, resolved {}",
            grouped(verdict.account_count),
            verdict.lost,
            verdict.doubled,
            verdict.mismatched,
            verdict.unknown,
            verdict.unknown_resolved
        ),
        format!(
            "{word}: {} ids asked for again gave their first receipt, {} another ({} too old); \
             currencies not conserved: {}",
            grouped(verdict.replayed),
            verdict.replayed_differently,
            verdict.replays_forgotten,
            verdict.differing_currencies
        ),
    ]
}

fn interval_json(interval: &Interval) -> Value {
    json!({
        "warmup": interval.is_warmup,
        "from_seconds": seconds(interval.from_ns),
        "to_seconds": seconds(interval.to_ns),
        "operations": interval.operation_count,
        "operations_per_second": interval.rate(),
        "errors": interval.error_count,
        "p50_us": micros(interval.p50_ns),
        "p99_us": micros(interval.p99_ns),
        "p999_us": micros(interval.p999_ns),
        "max_us": micros(interval.max_ns),
        "lag_p99_us": micros(interval.lag_p99_ns),
    })
}

/// The live line of one interval.
#[must_use]
pub fn interval_line(interval: &Interval) -> String {
    format!(
        "{:>6.1}s  {:>9} op/s  p50 {}  p99 {}  p99.9 {}  max {}  err {}  lag {}{}",
        seconds(interval.to_ns),
        grouped(interval.rate()),
        pretty(interval.p50_ns),
        pretty(interval.p99_ns),
        pretty(interval.p999_ns),
        pretty(interval.max_ns),
        interval.error_count,
        pretty(interval.lag_p99_ns),
        if interval.is_warmup {
            "  (warm-up)"
        } else {
            ""
        }
    )
}

/// The highest rate of a sweep that the cluster kept up with: 98 of 100 operations offered were
/// done in time, and nothing failed.
#[must_use]
pub fn knee(runs: &[(u64, &Measured)]) -> Option<u64> {
    let kept_up = |(rate, measured): &&(u64, &Measured)| {
        0.98 <= ratio(measured.rate(), *rate)
            && measured.error_count() == 0
            && measured.unsent_count == 0
    };
    runs.iter().filter(kept_up).map(|(rate, _)| *rate).max()
}

/// Nanoseconds as microseconds, to a tenth.
fn micros(nanos: u64) -> f64 {
    float(rounded(float(nanos) / 100.0)) / 10.0
}

/// Nanoseconds for people.
pub(super) fn pretty(nanos: u64) -> String {
    if nanos < 1_000_000 {
        format!("{:.0}us", float(nanos) / 1e3)
    } else if nanos < 1_000_000_000 {
        format!("{:.2}ms", millis(nanos))
    } else {
        format!("{:.2}s", seconds(nanos))
    }
}

/// 1234567 as "1,234,567".
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index != 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_a_proof_only_if_nothing_is_wrong() {
        let fine = Verdict {
            account_count: 5,
            unknown: 2,
            unknown_resolved: 2,
            replayed: 9,
            replays_forgotten: 1,
            ..Verdict::default()
        };
        assert!(fine.is_proof());
        let wrong = [
            Verdict { lost: 1, ..fine },
            Verdict { doubled: 1, ..fine },
            Verdict {
                mismatched: 1,
                ..fine
            },
            Verdict {
                unknown_resolved: 1,
                ..fine
            },
            Verdict {
                replayed_differently: 1,
                ..fine
            },
            Verdict {
                differing_currencies: 1,
                ..fine
            },
        ];
        assert!(wrong.iter().all(|verdict| !verdict.is_proof()));
    }

    #[test]
    fn numbers_are_made_for_reading() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(pretty(12_345), "12us");
        assert_eq!(pretty(1_234_567), "1.23ms");
        assert_eq!(pretty(2_500_000_000), "2.50s");
    }
}
