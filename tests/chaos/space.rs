//! Full disks: changes are refused for now, look-ups go on, and when there is room again so do
//! the changes, without anybody's help.

use std::time::Duration;

use counterfoil::client::{Client, Options};
use counterfoil::limits::DISK_RESERVE_SIZE;
use counterfoil::model::{CodeClass, Flags, Operation, ResultCode};

use crate::disk::{Disk, TOOLS};
use crate::host;
use crate::record::Record;
use crate::workload::{currency, user};
use crate::world::{Role, Shape, World};

/// The reserve, and room beside it.
const DISK_SIZE_MIB: u64 = 600;

const SHAPE: Shape = Shape {
    node_count: 1,
    front_count: 1,
    has_proxies: false,
};

#[derive(Clone, Copy, Debug)]
enum Goal {
    NoSpace,
    Served,
}

/// Asks until a change is refused for lack of room, or is served. In the record, like everything.
fn wait_for(client: &mut Client, record: &Record, goal: Goal) {
    let mut last = None;
    for _ in 0..200 {
        let id = client.new_id();
        let operation =
            Operation::credit(id, user(1), currency(1), 1).with_flags(Flags::OPEN_IF_MISSING);
        let first = record.intend(&[operation]);
        let answers = client.batch(&[operation]).expect("it can be sent");
        record.hear(first, answers.iter().map(|answer| &answer.receipt));
        let told = answers[0].receipt.code;
        last = Some(told);
        let is_served = matches!(told.class(), CodeClass::Done | CodeClass::Refusal);
        let is_reached = match goal {
            Goal::NoSpace => told == ResultCode::NoSpace,
            Goal::Served => is_served,
        };
        if is_reached {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    panic!("{goal:?} was due, the last answer was {last:?}");
}

/// A daemon that dies while its disk is full: it starts as far as it can, or says what it lacks.
fn start_on_full_disk(world: &mut World, role: Role) {
    world.kill(role);
    let said = world.words(role).len();
    world.launch(role);
    let started = world.try_wait_ready(role);
    host::say(&format!("{role:?} on a full disk: {started:?}"));
    if let Err(code) = started {
        let words = world.words(role)[said..].to_owned();
        assert!(
            code == 6 && words.contains("space"),
            "{role:?} ended with {code}: {words}"
        );
    }
}

/// Fills the disk of `role` until so many bytes are free, under load; then gives the room back.
fn fill_up(name: &'static str, role: Role, rounds: u64, leave: u64, seed: u64) {
    if let Some(why) = host::missing_as_root(&TOOLS) {
        host::skipped(name, &why);
        return;
    }
    let mut world = World::new(name, SHAPE);
    let disk = match Disk::make(world.path(), &role.name(), DISK_SIZE_MIB) {
        Ok(disk) => disk,
        Err(why) => {
            host::skipped(name, &why);
            return;
        }
    };
    host::say(&format!(
        "{name}: {role:?}, {leave} bytes left, {rounds} times, seed {seed}"
    ));
    world.place(role, disk.folder());
    world.start_all();
    let load = world.load(seed);
    let work = world.work(&load);
    let options = Options {
        deadline: Duration::from_millis(300),
        ..Options::default()
    };
    let mut client = Client::connect_to(&world.fronts(), &options).expect("a front is there");
    for round in 0..rounds {
        work.until_answered(500, Duration::from_secs(30));
        world.record.note("full");
        disk.fill(leave);
        wait_for(&mut client, &world.record, Goal::NoSpace);
        client.get(user(1), currency(1)).expect("look-ups go on");
        work.go_on(Duration::from_millis(500 + 100 * round));
        world.assert_all_run();
        if round % 2 == 1 {
            start_on_full_disk(&mut world, role);
        }
        world.record.note("room again");
        disk.empty();
        if world.process(role).ended().unwrap().is_some() {
            world.revive(role);
        }
        wait_for(&mut client, &world.record, Goal::Served);
        work.until_answered(200, Duration::from_secs(30));
    }
    drop(client);
    work.stop();
    world.finish(&load);
    drop(disk);
}

#[test]
#[ignore = "needs root and a loop device: just chaos"]
fn a_disk_below_its_reserve() {
    let rounds = host::count("CHAOS_FULL_DISKS", 10);
    for role in [Role::Node(1), Role::Backup] {
        fill_up(
            "disk below its reserve",
            role,
            rounds,
            DISK_RESERVE_SIZE - (32 << 20),
            host::seed(13),
        );
    }
}

#[test]
#[ignore = "needs root and a loop device: just chaos"]
fn a_disk_without_a_byte_left() {
    let rounds = host::count("CHAOS_FULL_DISKS", 10);
    for role in [Role::Node(1), Role::Backup] {
        fill_up("full disk", role, rounds, 0, host::seed(14));
    }
}
