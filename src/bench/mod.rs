//! The bench client: loads a cluster, measures it, and proves afterwards what it got.
//!
//! A load runs on the daemons' own event loop, one loop per thread, as a role that keeps requests
//! in flight. Without a rate it is a closed loop: the next request waits for an answer, so slow
//! answers slow the load down and the latencies leave that waiting out. With a rate it is an open
//! loop: requests have a time at which they are due, and latency counts from there whenever they
//! are really sent. Every report says which of the two it was.
//!
//! Reading order: `options` and `text` (what can be asked for), `driver` (requests on
//! connections), `work` (what they carry: `mixed`, `opening`, `proving`), `run` (phases and
//! threads), `measure`, `report`.

mod accounts;
mod driver;
mod hdr_log;
mod html;
mod machine;
mod measure;
mod mixed;
mod numbers;
mod opening;
mod options;
mod proving;
mod report;
mod run;
mod sampler;
mod schedule;
mod text;
mod threshold;
mod work;

use crate::client::ClientError;

pub use hdr_log::HdrLog;
pub use html::html;
pub use machine::{Machine, ProcessUsage, raise_descriptor_limit};
pub use measure::{Interval, Latencies, Measured};
pub use options::{Action, BenchOptions, Distribution, Extent, Pace, Proof, RateSweep, Workload};
pub use report::{ClusterFacts, Report, SCHEMA, Verdict, interval_line, knee};
pub use run::{Bench, Event};
pub use text::{parse_count, parse_duration_ms, parse_percentiles};
pub use threshold::Threshold;

/// Why a bench could not be done.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No connection to the cluster, or none any more.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The other side broke the protocol.
    #[error("the front breaks the protocol: {0}")]
    Protocol(String),
    /// The accounts could not be prepared.
    #[error("the accounts cannot be prepared: {0}")]
    Prepare(String),
    /// Something was asked of the cluster beside the load.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The machine did not give what a loop or a thread needs.
    #[error("{0}")]
    System(String),
    /// Ended because another thread failed, which says why.
    #[error("another thread failed")]
    Aborted,
    /// A file could not be written.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
}
