//! A segment that is cut short while its daemon has it mapped: the process ends with its own exit
//! code, and nothing of what it lost is lost.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::time::Duration;

use counterfoil::client::{Client, Options};
use counterfoil::log::EXIT_BUS_ERROR;
use counterfoil::model::Operation;

use crate::checker::fates;
use crate::host;
use crate::workload::Load;
use crate::world::{PATIENCE, Role, SEGMENT_SIZE, Shape, World};

const SHAPE: Shape = Shape {
    node_count: 1,
    front_count: 1,
    has_proxies: false,
};

/// A change whose entry lies in segment 0 of log 1.
fn early_change(world: &World) -> Operation {
    let all = fates(&world.record.read());
    let early = all.into_values().find(|fate| {
        let place = fate.outcome.map(|(_, receipt)| receipt.place);
        place.is_some_and(|place| place.0 != 0 && place.offset() < SEGMENT_SIZE)
    });
    early.expect("the load began in segment 0").operation
}

fn segment(world: &World, role: Role) -> PathBuf {
    world.data(role).join("logs/00001/segment-0000000000000000")
}

/// Sends an early change again: its entry has to be read to prove that it is the same.
fn ask_for_it(world: &World, operation: Operation) {
    let options = Options {
        deadline: Duration::from_millis(500),
        ..Options::default()
    };
    let mut client = Client::connect_to(&world.fronts(), &options).expect("a front is there");
    let first = world.record.intend(&[operation]);
    let answers = client.batch(&[operation]).expect("it can be sent");
    world
        .record
        .hear(first, answers.iter().map(|answer| &answer.receipt));
}

#[test]
fn a_segment_cut_under_a_running_node() {
    let rounds = host::count("CHAOS_CUTS", 1);
    for round in 0..rounds {
        let seed = host::seed(27 + round);
        host::say(&format!("cut segment: seed {seed}"));
        let mut world = World::start("cut segment", SHAPE);
        let load = Load {
            pace_ms: 0,
            batch_count: 200,
            ..world.load(seed)
        };
        let work = world.work(&load);
        // Beyond segment 0, of which the node then reads and no longer writes.
        work.until_answered(20_000, Duration::from_secs(120));
        let operation = early_change(&world);
        work.stop();
        let node = Role::Node(1);
        let cut = OpenOptions::new()
            .write(true)
            .open(segment(&world, node))
            .unwrap();
        cut.set_len(0).unwrap();
        world.record.note("segment 0 of node 1 is cut to nothing");
        ask_for_it(&world, operation);
        let code = world.wait_end(node, PATIENCE);
        let words = world.words(node);
        assert_eq!(code, Some(EXIT_BUS_ERROR), "{words}");
        assert!(words.contains("SIGBUS"), "{words}");
        // It starts again, finds the damage, and has all of it from the backup.
        world.revive(node);
        assert!(
            world.words(node).contains("is damaged"),
            "{}",
            world.words(node)
        );
        let load = Load::standard(world.fronts(), seed);
        let work = world.work(&load);
        work.until_answered(200, Duration::from_secs(60));
        work.stop();
        world.finish(&load);
    }
}

#[test]
fn a_segment_cut_under_a_running_backup() {
    let seed = host::seed(28);
    host::say(&format!("cut segment of the backup: seed {seed}"));
    let mut world = World::start("cut segment of the backup", SHAPE);
    let load = world.load(seed);
    let work = world.work(&load);
    work.until_answered(500, Duration::from_secs(60));
    let (node, backup) = (Role::Node(1), Role::Backup);
    let path = segment(&world, backup);
    world.kill(node);
    let saved = std::fs::read(&path).unwrap();
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(0)
        .unwrap();
    world
        .record
        .note("segment 0 of log 1 of the backup is cut to nothing");
    // An empty node asks for all of it.
    world.wipe(node);
    world.launch(node);
    let code = world.wait_end(backup, PATIENCE);
    assert_eq!(code, Some(EXIT_BUS_ERROR), "{}", world.words(backup));
    // The backup does not serve such a folder, and says which segment it is.
    world.launch(backup);
    let refused = world.try_wait_ready(backup);
    assert_eq!(refused, Err(6), "{}", world.words(backup));
    let words = world.words(backup);
    assert!(words.contains("segment-0000000000000000"), "{words}");
    std::fs::write(&path, saved).unwrap();
    world.revive(backup);
    world.wait_ready(node);
    work.until_answered(200, Duration::from_secs(60));
    work.stop();
    world.finish(&load);
}
