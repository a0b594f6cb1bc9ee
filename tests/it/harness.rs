//! Clusters of real processes on loopback for the tests: started, used by the real command line,
//! killed by process id.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use counterfoil::client::{Client, Options};
use counterfoil::dev::{Cluster, ClusterOptions};
use counterfoil::model::{Currency, UserId};
use serde_json::Value;

/// The program under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_counterfoil");

/// Small segments: a test should not write gigabytes of zeros.
pub(crate) const SEGMENT_SIZE: u64 = 2 << 20;

pub(crate) fn options(folder: &Path, node_count: u32) -> ClusterOptions {
    ClusterOptions {
        binary: BINARY.into(),
        folder: folder.to_owned(),
        node_count,
        front_count: 1,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        segment_size: SEGMENT_SIZE,
    }
}

pub(crate) fn start(folder: &Path, node_count: u32) -> Cluster {
    Cluster::start(options(folder, node_count)).expect("the cluster starts")
}

pub(crate) fn connect(addresses: &[SocketAddr]) -> Client {
    let deadline = Duration::from_secs(10);
    Client::connect_to(
        addresses,
        &Options {
            deadline,
            ..Options::default()
        },
    )
    .expect("connects")
}

pub(crate) fn user(number: u128) -> UserId {
    UserId::new(number).expect("a valid user")
}

pub(crate) fn currency(code: u32) -> Currency {
    Currency::new(code).expect("a valid currency")
}

/// Runs the program and waits for its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    Command::new(BINARY)
        .args(arguments)
        .output()
        .expect("the program starts")
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().expect("ended by itself")
}

pub(crate) fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Its standard output as JSON.
pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("no JSON ({error}): {} / {}", out(output), err(output)))
}
