//! A node that is stopped for so long that another process takes its place, and then goes on: the
//! one and the other never both answer, and what the sleeper knew is never shown again.

use std::net::SocketAddr;
use std::time::Duration;

use counterfoil::client::{Client, Options};
use counterfoil::dev::Process;
use counterfoil::model::{Operation, ResultCode};
use rustix::process::Signal;

use crate::host::{self, BINARY};
use crate::proxy::{Fault, Proxy, Way};
use crate::workload::{Load, currency, user};
use crate::world::{PATIENCE, Role, Shape, World};

const NODE: Role = Role::Node(1);

/// Exit code of a node that another process has replaced.
const FENCED: i32 = 8;

const SHAPE: Shape = Shape {
    node_count: 1,
    front_count: 2,
    has_proxies: true,
};

fn link<'a>(world: &'a World, name: &str) -> &'a Proxy {
    let mut links = world.links().into_iter();
    let found = links.find(|(other, _)| other == name);
    found.expect("a link of the cluster").1
}

/// Asks front 2, which knows the old node only, for some accounts, and writes down what it says.
fn ask_the_old_one(world: &World) -> Vec<ResultCode> {
    let options = Options {
        deadline: Duration::from_millis(800),
        ..Options::default()
    };
    let address = world.fronts()[1];
    let mut client = Client::connect_to(&[address], &options).expect("front 2 is there");
    let batch: Vec<Operation> = (1..=24)
        .flat_map(|number| (1..=2).map(move |code| Operation::get(user(number), currency(code))))
        .collect();
    let first = world.record.intend(&batch);
    let answers = client.batch(&batch).expect("it can be sent");
    world
        .record
        .hear(first, answers.iter().map(|answer| &answer.receipt));
    answers.iter().map(|answer| answer.receipt.code).collect()
}

/// Starts another process as node 1, with an empty folder.
fn start_other(world: &World, round: u64) -> (Process, std::path::PathBuf) {
    let folder = world.path().join(format!("node-1-{round}"));
    let any = SocketAddr::from(([127, 0, 0, 1], 0)).to_string();
    let backup = world.address(Role::Backup).to_string();
    let arguments: Vec<String> = [
        "node",
        "--id",
        "1",
        "--data-dir",
        &host::text(&folder),
        "--backup",
        &backup,
        "--listen",
        &any,
    ]
    .into_iter()
    .map(ToOwned::to_owned)
    .collect();
    let log = world.log_path(NODE);
    let mut other = Process::start("node-1", BINARY.as_ref(), &arguments, &log, PATIENCE)
        .expect("another node starts");
    other
        .wait_ready(PATIENCE)
        .expect("it serves once the sleeper counts as away");
    (other, folder)
}

fn replace_a_sleeper(name: &'static str, rounds: u64, seed: u64) {
    for round in 0..rounds {
        host::say(&format!("{name}: round {round}, seed {seed}"));
        let mut world = World::start(name, SHAPE);
        // At front 1, without a pause: the sleeper is caught with answers on their way to it.
        let load = Load {
            fronts: vec![world.fronts()[0]],
            pace_ms: 0,
            ..world.load(seed + round)
        };
        let work = world.work(&load);
        work.until_answered(300, Duration::from_secs(30));
        // Front 2 hears nothing of what follows: it goes on with the node that it knows.
        link(&world, "front-2 to backup").cut();
        assert!(
            ask_the_old_one(&world).contains(&ResultCode::Ok),
            "front 2 serves without it"
        );
        world.record.note("node-1 falls asleep");
        world.process(NODE).signal(Signal::STOP).unwrap();
        // What is on its way reaches its socket; of all that follows it hears nothing, not even
        // that the backup has hung up, when it wakes up.
        work.go_on(Duration::from_millis(50));
        let to_backup = link(&world, "node-1 to backup");
        to_backup.fault(Way::Up, Fault::Hold);
        to_backup.fault(Way::Down, Fault::Hold);
        let (other, folder) = start_other(&world, round);
        world.record.note("another process is node 1");
        work.until_answered(300, Duration::from_secs(60));
        // Look-ups wait in the sleeper's sockets, then it wakes up.
        ask_the_old_one(&world);
        world.process(NODE).signal(Signal::CONT).unwrap();
        world.record.note("node-1 wakes up");
        let codes = ask_the_old_one(&world);
        link(&world, "node-1 to backup").heal();
        assert!(
            !codes.contains(&ResultCode::Ok),
            "the replaced node shows accounts: {codes:?}"
        );
        work.until_answered(300, Duration::from_secs(60));
        let code = world.wait_end(NODE, PATIENCE);
        assert_eq!(code, Some(FENCED), "{}", world.words(NODE));
        world.adopt(NODE, other, folder);
        for (_, link) in world.links() {
            link.heal();
        }
        work.until_answered(300, Duration::from_secs(60));
        work.stop();
        world.finish(&load);
    }
}

#[test]
fn a_sleeper_is_replaced() {
    replace_a_sleeper("sleeper", 1, host::seed(29));
}

#[test]
#[ignore = "takes minutes: just chaos"]
fn sleepers_are_replaced() {
    replace_a_sleeper(
        "sleepers, all",
        host::count("CHAOS_SLEEPERS", 20),
        host::seed(30),
    );
}
