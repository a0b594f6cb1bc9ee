//! SIGKILL of every role at random moments under load.

use std::time::Duration;

use counterfoil::model::Random;

use crate::host;
use crate::world::{Role, Shape, World};

/// Kills between two full checks: a round has a cluster and a record of its own.
const ROUND_KILL_COUNT: u64 = 50;

const SHAPE: Shape = Shape {
    node_count: 2,
    front_count: 2,
    has_proxies: false,
};

/// Kills so often, each time another moment: while it serves, starts, replays.
fn kill_at_random(name: &'static str, kill_count: u64, seed: u64) {
    host::say(&format!("{name}: {kill_count} kills, seed {seed}"));
    let mut random = Random::new(seed);
    let mut left = kill_count;
    while left != 0 {
        let count = left.min(ROUND_KILL_COUNT);
        left -= count;
        let mut world = World::start(name, SHAPE);
        let load = world.load(random.u64());
        let work = world.work(&load);
        work.until_answered(200, Duration::from_secs(30));
        let roles = world.roles();
        for _ in 0..count {
            work.go_on(Duration::from_millis(random.below(400)));
            let index = random.below(roles.len() as u64);
            let role = roles[usize::try_from(index).expect("small")];
            world.kill(role);
            if matches!(role, Role::Node(_)) && random.one_in(4) {
                // Its disk goes with it: everything acknowledged must be on the backup.
                world.wipe(role);
            }
            // A third of the time a second one dies too, or the same one while it starts.
            if random.one_in(3) {
                let index = random.below(roles.len() as u64);
                let other = roles[usize::try_from(index).expect("small")];
                if other == role {
                    world.launch(role);
                    work.go_on(Duration::from_millis(random.below(60)));
                    world.kill(role);
                } else {
                    world.kill(other);
                    bring_back(&mut world, other, role);
                    continue;
                }
            }
            world.revive(role);
        }
        work.until_answered(200, Duration::from_secs(60));
        work.stop();
        let verdict = world.finish(&load);
        assert!(0 < verdict.acknowledged());
    }
}

/// A node is not ready before the backup is there: both are started before either is waited for.
fn bring_back(world: &mut World, one: Role, other: Role) {
    world.launch(one);
    world.launch(other);
    world.wait_ready(one);
    world.wait_ready(other);
}

#[test]
fn killed_at_random_moments() {
    kill_at_random("kill", host::count("CHAOS_KILLS_SHORT", 10), host::seed(1));
}

#[test]
#[ignore = "takes minutes: just chaos"]
fn killed_at_random_moments_300_times() {
    let seed = host::seed(2);
    kill_at_random("kill, all", host::count("CHAOS_KILLS", 300), seed);
}
