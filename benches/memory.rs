//! What a node process takes of memory for each account, and how long its restart takes.
//!
//! A real cluster of one node, in a folder of its own: opens the accounts, one credit each, reads
//! the process's memory as the system counts it, credits on until the log has the wanted entries,
//! kills the node and starts it again.
//!
//! `cargo bench --profile release --bench memory -- [ACCOUNTS [ENTRIES]]`
#![expect(clippy::print_stdout, reason = "the result of the bench")]

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use counterfoil::client::{Client, Options};
use counterfoil::clock::Clock;
use counterfoil::dev::{Cluster, ClusterOptions, Process};
use counterfoil::limits::{BATCH_COUNT_MAX, SEGMENT_SIZE_DEFAULT};
use counterfoil::model::{Currency, Flags, Operation, ResultCode, UserId};

/// Without arguments: enough to see that it works.
const ACCOUNT_COUNT_DEFAULT: u64 = 100_000;

const PATIENCE: Duration = Duration::from_secs(600);

fn main() -> Result<(), Box<dyn Error>> {
    let mut numbers = std::env::args().filter_map(|word| word.parse::<u64>().ok());
    let account_count = numbers.next().unwrap_or(ACCOUNT_COUNT_DEFAULT);
    let entry_count = numbers.next().unwrap_or(account_count);
    let folder = tempfile::tempdir()?;
    let mut cluster = Cluster::start(ClusterOptions {
        binary: env!("CARGO_BIN_EXE_counterfoil").into(),
        folder: folder.path().to_owned(),
        node_count: 1,
        front_count: 1,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        segment_size: SEGMENT_SIZE_DEFAULT,
    })?;
    let options = Options {
        deadline: Duration::from_secs(10),
        ..Options::default()
    };
    let mut client = Client::connect_to(&cluster.front_addresses(), &options)?;
    let empty = memory(cluster.node(1), "RssAnon")?;
    println!("empty node: RssAnon {} KiB", empty >> 10);

    credit(&mut client, account_count, account_count)?;
    tell(&mut cluster, &mut client, account_count, empty)?;
    credit(
        &mut client,
        account_count,
        entry_count.saturating_sub(account_count),
    )?;

    cluster.node(1).kill()?;
    let clock = Clock::start();
    let start = clock.now().tick;
    cluster.restart_node(1)?;
    cluster.node(1).wait_ready(PATIENCE)?;
    let ms = clock.now().tick.since(start) / 1_000_000;
    let entries = entry_count.max(account_count);
    println!("restart with {entries} entries: ready after {ms} ms");
    tell(&mut cluster, &mut client, account_count, empty)?;
    cluster.stop()?;
    Ok(())
}

/// Credits 1 to `count` accounts, the first one again behind the last one.
fn credit(client: &mut Client, account_count: u64, count: u64) -> Result<(), Box<dyn Error>> {
    let coin = Currency::new(1).ok_or("no currency")?;
    let mut done = 0;
    while done < count {
        let size = u64::from(BATCH_COUNT_MAX).min(count - done);
        let mut operations = Vec::new();
        for index in done..done + size {
            let user = UserId::new(u128::from(index % account_count) + 1).ok_or("no user")?;
            let credit = Operation::credit(client.new_id(), user, coin, 1);
            operations.push(credit.with_flags(Flags::OPEN_IF_MISSING));
        }
        for answer in client.batch(&operations)? {
            if answer.receipt.code != ResultCode::Ok {
                return Err(format!("a credit is answered {}", answer.receipt.code).into());
            }
        }
        done += size;
    }
    Ok(())
}

fn tell(
    cluster: &mut Cluster,
    client: &mut Client,
    account_count: u64,
    empty: u64,
) -> Result<(), Box<dyn Error>> {
    let node = cluster.node(1);
    let (private, mapped) = (memory(node, "RssAnon")?, memory(node, "RssFile")?);
    let backup = memory(cluster.backup(), "RssAnon")?;
    let status: serde_json::Value = serde_json::from_str(&client.status()?)?;
    let told = &status["nodes"][0];
    println!(
        "{account_count} accounts: node RssAnon {} KiB ({} bytes an account above the empty node), \
         RssFile {} KiB, backup RssAnon {} KiB; tables {}, ids {}",
        private >> 10,
        private.saturating_sub(empty) / account_count,
        mapped >> 10,
        backup >> 10,
        told["node_memory_size"],
        told["ids"],
    );
    Ok(())
}

/// Bytes of a line of `/proc/PID/status`.
fn memory(process: &Process, name: &str) -> Result<u64, Box<dyn Error>> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", process.id()))?;
    let line = text.lines().find(|line| line.starts_with(name));
    let words = line.and_then(|line| line.split_whitespace().nth(1));
    let kib: u64 = words.ok_or("the system does not say")?.parse()?;
    Ok(kib << 10)
}
