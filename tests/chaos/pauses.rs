//! SIGSTOP of every role for a tenth of a second to ten seconds under load.

use std::time::Duration;

use counterfoil::model::Random;
use rustix::process::Signal;

use crate::host;
use crate::world::{Role, Shape, World};

const SHAPE: Shape = Shape {
    node_count: 2,
    front_count: 2,
    has_proxies: false,
};

fn stop_and_go(name: &'static str, pauses: &[(Role, Duration)], seed: u64) {
    host::say(&format!("{name}: {} pauses, seed {seed}", pauses.len()));
    let mut world = World::start(name, SHAPE);
    let load = world.load(seed);
    let work = world.work(&load);
    work.until_answered(200, Duration::from_secs(30));
    for (role, time) in pauses {
        world
            .record
            .note(&format!("stop {} for {time:?}", role.name()));
        world.process(*role).signal(Signal::STOP).unwrap();
        work.go_on(*time);
        world.process(*role).signal(Signal::CONT).unwrap();
        world.record.note(&format!("continue {}", role.name()));
        // Everyone serves again without being started.
        work.until_answered(100, Duration::from_secs(30));
    }
    work.stop();
    let verdict = world.finish(&load);
    assert!(0 < verdict.acknowledged());
}

#[test]
fn stopped_for_a_moment() {
    let ms = Duration::from_millis;
    let pauses = [
        (Role::Node(1), ms(100)),
        (Role::Backup, ms(300)),
        (Role::Front(1), ms(700)),
        (Role::Node(2), ms(2_500)),
        (Role::Backup, ms(2_500)),
    ];
    stop_and_go("stop", &pauses, host::seed(3));
}

#[test]
#[ignore = "takes minutes: just chaos"]
fn stopped_for_up_to_ten_seconds() {
    let seed = host::seed(4);
    let mut random = Random::new(seed);
    let roles = [Role::Node(1), Role::Backup, Role::Front(1), Role::Node(2)];
    let pauses: Vec<(Role, Duration)> = (0..host::count("CHAOS_PAUSES", 100))
        .map(|index| {
            let role = roles[usize::try_from(index % 4).expect("small")];
            // Most of them short; every eighth long enough to be given up by all others.
            let ms = match index % 8 {
                0..4 => 100 + random.below(900),
                4..7 => 1_000 + random.below(3_000),
                _ => 4_000 + random.below(6_000),
            };
            (role, Duration::from_millis(ms))
        })
        .collect();
    stop_and_go("stop, all", &pauses, seed);
}
