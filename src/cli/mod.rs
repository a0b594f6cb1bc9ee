//! The command line: typed flags, one file per family of commands, and the mapping of every
//! result to an exit code. Printing happens here and nowhere below.

mod audit;
mod bench;
#[cfg(feature = "canary")]
mod canary;
mod cluster;
mod daemon;
mod dev;
mod drill;
#[doc(hidden)]
pub mod fuzzing;
mod inspect;
mod operate;
mod output;
mod sim;
mod status;
mod story;
mod verify;
mod waiting;

use std::ffi::OsString;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

use crate::client::{Client, ClientError, Options};
use crate::role::ExitCode;

pub(crate) use output::Failure;

/// A sharded ledger for virtual currencies: an answer you got is never lost and never applied
/// twice, whichever machine dies.
#[derive(Debug, Parser)]
#[command(name = "counterfoil", version, propagate_version = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 refused, 2 usage, 3 cannot connect, 4 outcome \
unknown, 5 cluster unhealthy, 6 damage or broken invariant found, 7 threshold failed, 8 fenced by \
another process with the same id.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Proves the main job: an own cluster, load, one node killed and its disk wiped, every
    /// account read back.
    Drill(drill::Flags),
    /// Loads a cluster, measures it, and proves what it got.
    Bench(Box<bench::Flags>),
    /// Runs a whole cluster on this machine: backup, nodes and a front as child processes.
    Dev(dev::Flags),
    /// Runs a front: balancer, router or both.
    Front(daemon::FrontFlags),
    /// Runs a business node.
    Node(daemon::NodeFlags),
    /// Runs the backup, with the authority.
    Backup(daemon::BackupFlags),
    /// Opens an account.
    Open(operate::OpenFlags),
    /// Closes an empty account.
    Close(operate::CloseFlags),
    /// Changes floor, cap and frozen of an account.
    Configure(operate::ConfigureFlags),
    /// Adds an amount to an account.
    Credit(operate::CreditFlags),
    /// Takes an amount from an account.
    Debit(operate::DebitFlags),
    /// Shows one account.
    Get(operate::GetFlags),
    /// Shows all accounts of a user.
    List(operate::ListFlags),
    /// Shows what became of an operation id.
    Find(operate::FindFlags),
    /// Proves, per currency and at one instant, that no coin was made or lost.
    Audit(audit::Flags),
    /// Shows the cluster: nodes, logs, terms, slots.
    Status(status::Flags),
    /// Changes which nodes there are and what each has: add, drain, remove, weight, plan, ...
    Cluster(cluster::Flags),
    /// Checks the data folder of a stopped node or backup: checksums, chain, replay, supply.
    Verify(verify::Flags),
    /// Shows segments, blocks and entries of a data folder.
    Inspect(inspect::Flags),
    /// Runs whole clusters in virtual time, breaks what may break, and judges what clients were
    /// told.
    Sim(sim::Flags),
    /// Prints a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// Where the cluster is, and how long to wait for it.
#[derive(Clone, Debug, clap::Args)]
struct Target {
    /// Addresses of fronts, tried one after the other.
    #[arg(
        short,
        long,
        env = "COUNTERFOIL_ADDR",
        value_name = "HOST:PORT,...",
        default_value = "127.0.0.1:6468"
    )]
    addr: String,
    /// How long to wait for an answer, in milliseconds.
    #[arg(long, default_value_t = 5_000, value_name = "MS",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    deadline_ms: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Target {
    fn connect(&self) -> Result<Client, Failure> {
        let deadline = Duration::from_millis(u64::from(self.deadline_ms));
        let options = Options {
            deadline,
            ..Options::default()
        };
        Client::connect(&self.addr, &options).map_err(Failure::from)
    }
}

/// Runs the command line `arguments`; the result is the exit code of the process.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error),
    };
    let json = cli.command.wants_json();
    if let Some(what) = cli.command.silent_work() {
        waiting::begin(what);
    }
    let result = cli.command.run();
    waiting::end();
    match result {
        Ok(code) => code,
        Err(failure) => failure.print(json),
    }
}

impl Command {
    fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Drill(flags) => drill::run(&flags),
            Self::Bench(flags) => bench::run(&flags),
            Self::Dev(flags) => dev::run(&flags),
            Self::Front(flags) => daemon::front(&flags),
            Self::Node(flags) => daemon::node(&flags),
            Self::Backup(flags) => daemon::backup(&flags),
            Self::Open(flags) => operate::open(&flags),
            Self::Close(flags) => operate::close(&flags),
            Self::Configure(flags) => operate::configure(&flags),
            Self::Credit(flags) => operate::credit(&flags),
            Self::Debit(flags) => operate::debit(&flags),
            Self::Get(flags) => operate::get(&flags),
            Self::List(flags) => operate::list(&flags),
            Self::Find(flags) => operate::find(&flags),
            Self::Audit(flags) => audit::run(&flags),
            Self::Status(flags) => status::run(&flags),
            Self::Cluster(flags) => cluster::run(&flags),
            Self::Verify(flags) => verify::run(&flags),
            Self::Inspect(flags) => inspect::run(&flags),
            Self::Sim(flags) => sim::run(&flags),
            Self::Completions { shell } => {
                output::completions(shell, &mut Cli::command());
                Ok(ExitCode::Ok)
            }
        }
    }

    /// What a command does before its first line; `None` for those that tell it themselves.
    const fn silent_work(&self) -> Option<&'static str> {
        match self {
            Self::Dev(_) => Some("starting backup, nodes and fronts"),
            Self::Inspect(_) => Some("reading the folder"),
            Self::Audit(_) => Some("waiting for the sums of all logs"),
            Self::Open(_)
            | Self::Close(_)
            | Self::Configure(_)
            | Self::Credit(_)
            | Self::Debit(_)
            | Self::Get(_)
            | Self::List(_)
            | Self::Find(_)
            | Self::Status(_)
            | Self::Cluster(_) => Some("waiting for an answer"),
            Self::Drill(_)
            | Self::Bench(_)
            | Self::Front(_)
            | Self::Node(_)
            | Self::Backup(_)
            | Self::Verify(_)
            | Self::Sim(_)
            | Self::Completions { .. } => None,
        }
    }

    const fn wants_json(&self) -> bool {
        match self {
            Self::Drill(flags) => flags.json,
            Self::Bench(flags) => flags.json,
            Self::Open(flags) => flags.target.json,
            Self::Close(flags) => flags.target.json,
            Self::Configure(flags) => flags.target.json,
            Self::Credit(flags) => flags.target.json,
            Self::Debit(flags) => flags.target.json,
            Self::Get(flags) => flags.target.json,
            Self::List(flags) => flags.target.json,
            Self::Find(flags) => flags.target.json,
            Self::Audit(flags) => flags.target.json,
            Self::Status(flags) => flags.target.json,
            Self::Cluster(flags) => flags.wants_json(),
            Self::Verify(flags) => flags.json,
            Self::Inspect(flags) => flags.json,
            Self::Sim(flags) => flags.json,
            Self::Dev(_)
            | Self::Front(_)
            | Self::Node(_)
            | Self::Backup(_)
            | Self::Completions { .. } => false,
        }
    }
}

/// The exit code for what the client library could not do.
fn exit_code(error: &ClientError) -> ExitCode {
    match error {
        ClientError::CannotConnect { .. }
        | ClientError::WrongCluster { .. }
        | ClientError::VersionUnsupported { .. }
        | ClientError::ConnectionRefused { .. } => ExitCode::CannotConnect,
        ClientError::BadAddress { .. } => ExitCode::Usage,
        ClientError::Unknown { .. } => ExitCode::Unknown,
        ClientError::Refused { .. }
        | ClientError::IdRefused { .. }
        | ClientError::Malformed { .. } => ExitCode::Refused,
        ClientError::NotNow { .. }
        | ClientError::Protocol { .. }
        | ClientError::TooManyOperations { .. }
        | ClientError::NoSuchTicket
        | ClientError::NoRandomness { .. } => ExitCode::Unhealthy,
    }
}
