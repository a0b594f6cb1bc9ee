//! Power cuts under load, of node, backup, and both at once: what was not synced is gone.

use std::time::Duration;

use counterfoil::model::Random;

use crate::disk::{Disk, TOOLS};
use crate::host;
use crate::world::{Role, Shape, World};

/// The reserve of free space, and room for the log of a round.
const DISK_SIZE_MIB: u64 = 1_024;

/// Cuts between two full checks.
const ROUND_CUT_COUNT: u64 = 25;

const SHAPE: Shape = Shape {
    node_count: 2,
    front_count: 1,
    has_proxies: false,
};

/// A world whose node 1 and backup have disks of their own, in this order.
fn world_with_disks(name: &'static str) -> Result<(World, Vec<Disk>), String> {
    let mut world = World::new(name, SHAPE);
    let mut disks = Vec::new();
    for role in [Role::Node(1), Role::Backup] {
        let disk = Disk::make(world.path(), &role.name(), DISK_SIZE_MIB)?;
        world.place(role, disk.folder());
        disks.push(disk);
    }
    Ok((world, disks))
}

fn cut_power(name: &'static str, victims: &[Role], cut_count: u64, seed: u64) {
    if let Some(why) = host::missing_as_root(&TOOLS) {
        host::skipped(name, &why);
        return;
    }
    let mut random = Random::new(seed);
    let mut left = cut_count;
    while left != 0 {
        let count = left.min(ROUND_CUT_COUNT);
        left -= count;
        // The disks are dropped after the world, so when no daemon runs any more.
        let (mut disks, mut world);
        match world_with_disks(name) {
            Ok(made) => (world, disks) = made,
            Err(why) => {
                host::skipped(name, &why);
                return;
            }
        }
        host::say(&format!("{name}: {count} power cuts, seed {seed}"));
        world.start_all();
        let load = world.load(random.u64());
        let work = world.work(&load);
        work.until_answered(200, Duration::from_secs(30));
        for _ in 0..count {
            work.go_on(Duration::from_millis(random.below(500)));
            cut(&mut world, &mut disks, victims, &mut random, &|time| {
                work.go_on(time);
            });
            for role in victims.iter().rev() {
                world.record.note(&format!("start {}", role.name()));
                world.launch(*role);
            }
            for role in victims.iter().rev() {
                world.wait_ready(*role);
            }
            work.until_answered(30, Duration::from_secs(60));
        }
        work.stop();
        let verdict = world.finish(&load);
        assert!(0 < verdict.acknowledged());
        drop(disks);
    }
}

/// One cut. Half of the time the daemon dies with its disk; else it lives on for a moment on a
/// disk that fails, and must end by itself when it has noticed.
fn cut(
    world: &mut World,
    disks: &mut [Disk],
    victims: &[Role],
    random: &mut Random,
    go_on: &dyn Fn(Duration),
) {
    let index = |role: &Role| usize::from(*role == Role::Backup);
    for role in victims {
        world.record.note(&format!("power cut of {}", role.name()));
        disks[index(role)].cut_power();
    }
    let lives_on = random.one_in(2);
    if lives_on {
        go_on(Duration::from_millis(random.below(300)));
    }
    if victims == [Role::Backup] && random.one_in(3) {
        // The node's disk is lost in the same moment: the backup alone has what was acknowledged.
        world.kill(Role::Node(2));
        world.wipe(Role::Node(2));
        world.launch(Role::Node(2));
    }
    for role in victims {
        if let Some(code) = world.process(*role).ended().unwrap() {
            let words = world.words(*role);
            assert!(
                code == 6 || code == 71,
                "{role:?} ended with {code}:\n{words}"
            );
        }
        world.kill(*role);
        disks[index(role)].restore_power();
    }
}

#[test]
#[ignore = "needs root and a loop device: just chaos"]
fn power_cut_of_a_node() {
    let count = host::count("CHAOS_POWER_CUTS", 50);
    cut_power(
        "power cut of a node",
        &[Role::Node(1)],
        count,
        host::seed(7),
    );
}

#[test]
#[ignore = "needs root and a loop device: just chaos"]
fn power_cut_of_the_backup() {
    let count = host::count("CHAOS_POWER_CUTS", 50);
    cut_power(
        "power cut of the backup",
        &[Role::Backup],
        count,
        host::seed(8),
    );
}

#[test]
#[ignore = "needs root and a loop device: just chaos"]
fn power_cut_of_both_at_once() {
    let count = host::count("CHAOS_POWER_CUTS", 50);
    let both = [Role::Node(1), Role::Backup];
    cut_power("power cut of both", &both, count, host::seed(9));
}
