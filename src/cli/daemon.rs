//! `front`, `node` and `backup`: flags to options, then the event loop until it ends.
//!
//! A daemon prints two lines on standard output, for whoever started it: `listening on ADDRESS`
//! once its port is bound, and `ready` once it serves. Everything else goes to standard error.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::Failure;
use super::output::{error_line, line};
use crate::backup::{Backup, BackupLimits, BackupOptions, NewCluster, NewNode, RecoverOptions};
use crate::clock::Clock;
use crate::disk::{self, DiskOptions};
use crate::front::{self, Front, FrontLimits, FrontOptions, Roles, Strategy};
use crate::limits;
use crate::model::{ClusterId, Incarnation, NodeId};
use crate::net::{self, Ended, Listener, ListenerKind, Setup, Signals, StopMark};
use crate::node::{Node, NodeLimits, NodeOptions};
use crate::role::{ExitCode, Lanes, Level, MemoryPlan, Role};

/// What every daemon has.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Common {
    /// Allow an address beyond loopback although there is no authentication yet.
    #[arg(long)]
    insecure: bool,
    /// End when the process that started this one ends.
    #[arg(long, hide = true)]
    end_with_parent: bool,
}

/// Flags of `front`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct FrontFlags {
    /// Where clients connect; port 0 = any, printed at start.
    #[arg(long, default_value = "127.0.0.1:6468", value_name = "HOST:PORT")]
    listen: SocketAddr,
    /// The backup, which has the slot table.
    #[arg(long, value_name = "HOST:PORT")]
    backup: SocketAddr,
    /// What this front does.
    #[arg(long, value_delimiter = ',', default_value = "balancer,router")]
    roles: Vec<FrontRole>,
    /// How the balancer picks a router.
    #[arg(long, default_value = "least-load")]
    strategy: StrategyName,
    /// Other fronts whose routers the balancer may use too.
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT")]
    routers: Vec<SocketAddr>,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FrontRole {
    Balancer,
    Router,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum StrategyName {
    /// Any router.
    Random,
    /// Of two random routers the one with fewer operations in flight.
    LeastLoad,
    /// One after the other.
    RoundRobin,
}

/// Flags of `node`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct NodeFlags {
    /// Number of this node.
    #[arg(long, value_parser = parse_node)]
    id: NodeId,
    /// Where fronts connect; port 0 = any, printed at start.
    #[arg(long, default_value = "127.0.0.1:6469", value_name = "HOST:PORT")]
    listen: SocketAddr,
    /// Where fronts are told to connect, if that is not where this node listens (behind a
    /// forwarder or an address translation).
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_advertised)]
    advertise: Option<SocketAddr>,
    /// The backup.
    #[arg(long, value_name = "HOST:PORT")]
    backup: SocketAddr,
    /// The folder of its log. Created if it is not there.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Become a member of the cluster if this id is none yet, and take a share of its slots.
    #[arg(long)]
    join: bool,
    /// With --join: the share, as a multiple of an ordinary node's.
    #[arg(long, default_value_t = 1, requires = "join", value_parser = parse_weight)]
    weight: u32,
    /// Operation ids that are remembered at most (16 bytes each).
    #[arg(long, default_value_t = limits::ID_COUNT_DEFAULT)]
    ids_max: u64,
    #[command(flatten)]
    common: Common,
}

/// Flags of `backup`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct BackupFlags {
    /// What is done before it serves; nothing = the cluster in the folder is served.
    #[arg(value_enum)]
    action: Option<BackupAction>,
    /// Where nodes and fronts connect; port 0 = any, printed at start.
    #[arg(long, default_value = "127.0.0.1:6470", value_name = "HOST:PORT")]
    listen: SocketAddr,
    /// The folder of the second database. Created if it is not there.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Create a new cluster in an empty folder.
    #[arg(long, requires = "nodes", conflicts_with = "action")]
    create: bool,
    /// The nodes of the new cluster by number, each with its weight if that is not 1. With
    /// `recover`: nodes to wait for besides those that the others know, and weights.
    #[arg(long, value_delimiter = ',', value_parser = parse_new_node)]
    #[arg(value_name = "N[:WEIGHT],...")]
    nodes: Vec<NewNode>,
    /// With `recover`: a node that will not come back. What it had is lost. May be repeated.
    #[arg(long, value_parser = parse_node, value_name = "NODE", requires = "action")]
    give_up: Vec<NodeId>,
    /// With `recover`: everything that is said, progress too, as JSON objects, one a line.
    #[arg(long, requires = "action")]
    json: bool,
    /// Bytes of a segment of the new cluster's logs: a power of two, 2 MiB to 1 GiB.
    #[arg(long, default_value_t = limits::SEGMENT_SIZE_DEFAULT, value_parser = parse_segment_size)]
    segment_size: u64,
    /// Silence of a node after which the others take over its slots, in milliseconds; 0 = never.
    #[arg(long, default_value_t = BackupLimits::STANDARD.take_over_after_ms, value_name = "MS")]
    take_over_after_ms: u64,
    /// The same for a node that was not there since the backup's start, if that is longer.
    #[arg(long, default_value_t = BackupLimits::STANDARD.start_grace_ms, value_name = "MS")]
    start_grace_ms: u64,
    /// How long a node that was taken over must be back before it gets slots again.
    #[arg(long, default_value_t = BackupLimits::STANDARD.refill_after_ms, value_name = "MS")]
    refill_after_ms: u64,
    /// Rest of a node between two planned moves of its slots.
    #[arg(long, default_value_t = BackupLimits::STANDARD.move_pause_ms, value_name = "MS")]
    move_pause_ms: u64,
    /// Accounts that a planned move takes at a time, about: its slots stand still meanwhile.
    #[arg(long, default_value_t = BackupLimits::STANDARD.move_account_count_goal)]
    move_accounts: u64,
    /// Accounts that one node may have: moves that would give it more are not begun.
    #[arg(long, default_value_t = BackupLimits::STANDARD.node_account_count_max)]
    node_accounts_max: u64,
    #[command(flatten)]
    common: Common,
}

/// What a backup does before it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum BackupAction {
    /// Make a lost backup again, in an empty folder, from the nodes.
    Recover,
}

impl BackupFlags {
    fn recover(&self) -> Option<RecoverOptions> {
        let BackupAction::Recover = self.action?;
        let weights = self.nodes.iter().map(|new| (new.node, new.weight));
        Some(RecoverOptions {
            give_up: self.give_up.iter().copied().collect(),
            weights: weights.collect(),
        })
    }
}

pub(super) fn parse_node(text: &str) -> Result<NodeId, String> {
    let number = text
        .parse()
        .map_err(|error: std::num::ParseIntError| error.to_string())?;
    NodeId::new(number).ok_or_else(|| "0 is no node".to_owned())
}

/// Port 0 means "no address" on the wire.
fn parse_advertised(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|error: std::net::AddrParseError| error.to_string())?;
    if address.port() == 0 || address.ip().is_unspecified() {
        return Err("nobody can connect to that: a host and a port are needed".to_owned());
    }
    Ok(address)
}

pub(super) fn parse_new_node(text: &str) -> Result<NewNode, String> {
    let (node, weight) = text.split_once(':').unwrap_or((text, "1"));
    Ok(NewNode {
        node: parse_node(node)?,
        weight: parse_weight(weight)?,
        keys: Vec::new(),
    })
}

fn parse_weight(text: &str) -> Result<u32, String> {
    let weight = text
        .parse()
        .map_err(|error: std::num::ParseIntError| error.to_string())?;
    if (1..=32).contains(&weight) {
        Ok(weight)
    } else {
        Err("weights go from 1 to 32".to_owned())
    }
}

pub(super) fn parse_segment_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix("MiB") {
        Some(digits) => (digits.trim(), 1 << 20),
        None => (text, 1),
    };
    let number: u64 = digits
        .parse()
        .map_err(|error: std::num::ParseIntError| error.to_string())?;
    let size = number.checked_mul(unit).ok_or("too large")?;
    let fits = (limits::SEGMENT_SIZE_MIN..=limits::SEGMENT_SIZE_MAX).contains(&size);
    if fits && size.is_power_of_two() {
        Ok(size)
    } else {
        Err("a power of two from 2 MiB to 1 GiB is needed".to_owned())
    }
}

pub(super) fn front(flags: &FrontFlags) -> Result<ExitCode, Failure> {
    let listener = bind(flags.listen, ListenerKind::Client, &flags.common)?;
    let strategy = match flags.strategy {
        StrategyName::Random => Strategy::Random,
        StrategyName::LeastLoad => Strategy::LeastLoad,
        StrategyName::RoundRobin => Strategy::RoundRobin,
    };
    let limits = FrontLimits::default();
    let mut front = Front::new(FrontOptions {
        roles: roles(flags)?,
        strategy,
        backup: flags.backup,
        routers: flags.routers.clone(),
        seed: random_u64()?,
        cluster: None,
        incarnation: incarnation()?,
        limits,
    });
    let plan = front::memory_plan(&limits);
    run(&mut front, "front", listener, None, &plan)
}

fn roles(flags: &FrontFlags) -> Result<Roles, Failure> {
    let has = |role| flags.roles.contains(&role);
    match (has(FrontRole::Balancer), has(FrontRole::Router)) {
        (true, true) => Ok(Roles::Both),
        (false, _) => Ok(Roles::Router),
        (true, false) if flags.routers.is_empty() => {
            let text = "a balancer that is no router needs --routers";
            Err(Failure::new(ExitCode::Usage, "no_routers", text))
        }
        (true, false) => Ok(Roles::Balancer),
    }
}

pub(super) fn node(flags: &NodeFlags) -> Result<ExitCode, Failure> {
    let listener = bind(flags.listen, ListenerKind::Cluster, &flags.common)?;
    let mark = StopMark::new()?;
    // A node whose log was taken over begins a new life, with nothing of the last one.
    loop {
        let disk = open_disk(&flags.data_dir, disk::FolderKind::Node)?;
        let options = NodeOptions {
            id: flags.id,
            backup: flags.backup,
            address: flags.advertise.unwrap_or(listener.local_addr()),
            incarnation: incarnation()?,
            cluster: None,
            join: flags.join.then_some(flags.weight),
            id_count_max: flags.ids_max,
            limits: NodeLimits::default(),
        };
        let plan = options.memory_plan();
        let mut node = Node::new(options);
        let name = format!("node {}", flags.id);
        let setup = setup(&name, listener.try_clone()?, Some(disk), &plan);
        let ended = net::run_precise(
            &mut node,
            Setup {
                signals: Signals::Since(mark.clone()),
                ..setup
            },
        );
        match ended {
            Ended::Exit(code) => return Ok(code),
            Ended::Again => (),
        }
    }
}

pub(super) fn backup(flags: &BackupFlags) -> Result<ExitCode, Failure> {
    let listener = bind(flags.listen, ListenerKind::Cluster, &flags.common)?;
    let disk = open_disk(&flags.data_dir, disk::FolderKind::Backup)?;
    let create = if flags.create {
        Some(NewCluster {
            cluster: ClusterId::new(random_u128()?).ok_or_else(no_randomness)?,
            ring_key: random_u128()?,
            nodes: flags.nodes.clone(),
            segment_size: flags.segment_size,
        })
    } else {
        None
    };
    let mut backup = Backup::new(BackupOptions {
        create,
        recover: flags.recover(),
        address: listener.local_addr(),
        incarnation: incarnation()?,
        limits: BackupLimits {
            take_over_after_ms: flags.take_over_after_ms,
            start_grace_ms: flags.start_grace_ms,
            refill_after_ms: flags.refill_after_ms,
            move_pause_ms: flags.move_pause_ms,
            move_account_count_goal: flags.move_accounts,
            node_account_count_max: flags.node_accounts_max,
            ..BackupLimits::STANDARD
        },
        id_seed: random_u64()?,
    });
    let plan = BackupLimits::STANDARD.memory_plan();
    let speech = if flags.json {
        Speech::Json
    } else {
        Speech::Words
    };
    let setup = setup_with("backup", listener, Some(disk), &plan, speech);
    once("backup", net::run(&mut backup, setup))
}

fn bind(address: SocketAddr, kind: ListenerKind, common: &Common) -> Result<Listener, Failure> {
    if common.end_with_parent {
        let signal = Some(rustix::process::Signal::TERM);
        rustix::process::set_parent_process_death_signal(signal).map_err(std::io::Error::from)?;
    }
    if !address.ip().is_loopback() && !common.insecure {
        let text = format!("{address} is beyond loopback, and there is no authentication yet");
        return Err(Failure::new(ExitCode::Usage, "not_loopback", text)
            .hint("listen on 127.0.0.1, or add --insecure if the network is yours alone"));
    }
    let listener = Listener::bind(address, kind).map_err(|error| {
        Failure::new(
            ExitCode::CannotConnect,
            "bind",
            format!("cannot listen on {address}: {error}"),
        )
    })?;
    line(&format!("listening on {}", listener.local_addr()));
    Ok(listener)
}

fn open_disk(folder: &std::path::Path, kind: disk::FolderKind) -> Result<Arc<dyn Lanes>, Failure> {
    let opened = disk::open(folder, DiskOptions { kind });
    let disk = opened.map_err(|error| {
        Failure::new(
            ExitCode::Damage,
            "data_dir",
            format!("{}: {error}", folder.display()),
        )
    })?;
    Ok(Arc::new(disk))
}

/// Runs a daemon that has one life.
fn run(
    role: &mut impl Role,
    name: &str,
    listener: Listener,
    lanes: Option<Arc<dyn Lanes>>,
    plan: &MemoryPlan,
) -> Result<ExitCode, Failure> {
    once(name, net::run(role, setup(name, listener, lanes, plan)))
}

fn once(name: &str, ended: Ended) -> Result<ExitCode, Failure> {
    match ended {
        Ended::Exit(code) => Ok(code),
        Ended::Again => {
            let text = format!("a {name} does not begin again");
            Err(Failure::new(ExitCode::Damage, "begins_again", text))
        }
    }
}

/// How a daemon says something to its operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speech {
    Words,
    Json,
}

fn setup(
    name: &str,
    listener: Listener,
    lanes: Option<Arc<dyn Lanes>>,
    plan: &MemoryPlan,
) -> Setup<'static> {
    setup_with(name, listener, lanes, plan, Speech::Words)
}

fn setup_with(
    name: &str,
    listener: Listener,
    lanes: Option<Arc<dyn Lanes>>,
    plan: &MemoryPlan,
    speech: Speech,
) -> Setup<'static> {
    let clock = Clock::start();
    let name = name.to_owned();
    let say = move |level: Level, text: &str| {
        let grade = match level {
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Alarm => "ALARM",
        };
        let ms = clock.now().wall_ms;
        error_line(&match speech {
            Speech::Words => format!("{}.{:03} {name} {grade}: {text}", ms / 1_000, ms % 1_000),
            Speech::Json => {
                let level = grade.to_lowercase();
                json!({ "time_ms": ms, "daemon": name, "level": level, "text": text }).to_string()
            }
        });
    };
    say(Level::Info, &plan.to_string());
    Setup {
        listeners: vec![listener],
        lanes,
        clock,
        limits: net::Limits::standard(),
        signals: Signals::Handled,
        say: Box::new(say),
        on_ready: Box::new(|| line("ready")),
    }
}

fn incarnation() -> Result<Incarnation, Failure> {
    Incarnation::new(random_u128()?).ok_or_else(no_randomness)
}

fn random_u128() -> Result<u128, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_error| no_randomness())?;
    Ok(u128::from_le_bytes(bytes))
}

fn random_u64() -> Result<u64, Failure> {
    getrandom::u64().map_err(|_error| no_randomness())
}

fn no_randomness() -> Failure {
    Failure::new(
        ExitCode::Unhealthy,
        "no_randomness",
        "the system gives no random bytes",
    )
}

#[cfg(test)]
mod tests {
    use super::{parse_advertised, parse_segment_size};

    #[test]
    fn an_advertised_address_can_be_connected_to() {
        assert!(parse_advertised("10.0.0.1:6469").is_ok());
        for wrong in ["10.0.0.1:0", "0.0.0.0:6469", "[::]:6469", "6469", ""] {
            assert!(parse_advertised(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn segment_sizes_have_units_and_bounds() {
        assert_eq!(parse_segment_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_segment_size("2097152"), Ok(2 << 20));
        for wrong in ["1MiB", "3MiB", "2GiB", "", "-1", "99999999999999MiB"] {
            assert!(parse_segment_size(wrong).is_err(), "{wrong}");
        }
    }
}
