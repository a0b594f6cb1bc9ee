//! `dev`: a whole cluster on this machine until Ctrl-C.

use std::net::SocketAddr;
use std::path::PathBuf;

use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Failure;
use super::output::{error_line, line};
use crate::dev::{Cluster, ClusterOptions, StartError};
use crate::limits;
use crate::role::ExitCode;

/// Flags of `dev`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Flags {
    /// Where the data lies; a second start finds everything again.
    #[arg(long, default_value = "counterfoil-dev", value_name = "DIR")]
    data_dir: PathBuf,
    /// Where clients connect; port 0 = any.
    #[arg(long, default_value = "127.0.0.1:6468", value_name = "HOST:PORT")]
    listen: SocketAddr,
    /// How many nodes a new cluster has.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: u32,
    /// How many fronts to run.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    fronts: u32,
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self::new(ExitCode::Unhealthy, "not_started", error.to_string())
    }
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failure> {
    let nodes = known_nodes(flags);
    // Ctrl-C before everything serves ends this process, and the daemons with it.
    let mut cluster = Cluster::start(ClusterOptions {
        binary: std::env::current_exe()?,
        folder: flags.data_dir.clone(),
        node_count: nodes,
        front_count: flags.fronts,
        listen: flags.listen,
        segment_size: limits::SEGMENT_SIZE_DEFAULT,
    })?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGCHLD])?;
    let addresses = cluster.front_addresses();
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    line(&format!("front {}", shown.join(",")));
    line(&format!("backup {}", cluster.backup().address()));
    line(&format!(
        "nodes {nodes}, data in {}",
        flags.data_dir.display()
    ));
    line(&format!(
        "try: counterfoil credit 42 1 100 --open --addr {}",
        shown[0]
    ));
    line("Ctrl-C drains and stops everything");
    loop {
        // Looked at before the first signal too: a daemon may have ended before signals were heard.
        if let Some((name, code)) = cluster.ended()? {
            let text = format!("{name} ended with exit code {code}; see its log in logs/");
            error_line(&format!("error: {text}"));
            cluster.stop()?;
            return Err(Failure::new(ExitCode::Unhealthy, "daemon_ended", text));
        }
        if signals.wait().any(|signal| signal != SIGCHLD) {
            break;
        }
    }
    line("stopping");
    cluster.stop()?;
    line("stopped");
    Ok(ExitCode::Ok)
}

/// A folder that holds a cluster knows how many nodes it has: one folder each.
fn known_nodes(flags: &Flags) -> u32 {
    if !flags.data_dir.join("backup").join("authority").exists() {
        return flags.nodes;
    }
    let mut count = 0;
    while flags.data_dir.join(format!("node-{}", count + 1)).exists() {
        count += 1;
    }
    if count == 0 { flags.nodes } else { count }
}
