//! Every link in turn: late, slow, cut, silent one way, half closed, damaged, said twice.

use std::time::Duration;

use counterfoil::model::Random;

use crate::host;
use crate::proxy::{Fault, Proxy, Way};
use crate::world::{PATIENCE, Shape, World};

const SHAPE: Shape = Shape {
    node_count: 2,
    front_count: 2,
    has_proxies: true,
};

/// What happens to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// Everything comes so many milliseconds late.
    Late(u64),
    /// So many bytes a second and no more, both ways.
    Slow(u64),
    /// Cut, and nobody can connect.
    Cut,
    /// Cut again and again, and connected again at once.
    Flapping,
    /// One way is held and delivered late.
    Held(Way),
    /// Both ways are held.
    HeldBoth,
    /// What goes one way vanishes.
    Vanishing(Way),
    /// One way is ended, the other is not.
    HalfClosed(Way),
    /// Bits are flipped on one way.
    Damaged(Way),
    /// Frames are said again on one way.
    SaidTwice(Way),
    /// Earlier connections are played again, byte for byte, beside the present one.
    Replayed,
}

const ALL: [Trouble; 17] = [
    Trouble::Late(30),
    Trouble::Late(400),
    Trouble::Slow(20_000),
    Trouble::Cut,
    Trouble::Flapping,
    Trouble::Held(Way::Up),
    Trouble::Held(Way::Down),
    Trouble::HeldBoth,
    Trouble::Vanishing(Way::Up),
    Trouble::Vanishing(Way::Down),
    Trouble::HalfClosed(Way::Up),
    Trouble::HalfClosed(Way::Down),
    Trouble::Damaged(Way::Up),
    Trouble::Damaged(Way::Down),
    Trouble::SaidTwice(Way::Up),
    Trouble::SaidTwice(Way::Down),
    Trouble::Replayed,
];

/// Makes trouble for a time; `go_on` lets the load run.
fn make(trouble: Trouble, link: &Proxy, time: Duration, go_on: impl Fn(Duration)) {
    match trouble {
        Trouble::Late(ms) => {
            link.fault(Way::Up, Fault::Delay(Duration::from_millis(ms)));
            link.fault(Way::Down, Fault::Delay(Duration::from_millis(ms)));
        }
        Trouble::Slow(rate) => {
            link.fault(Way::Up, Fault::Throttle(rate));
            link.fault(Way::Down, Fault::Throttle(rate));
        }
        Trouble::Cut => link.cut(),
        Trouble::Held(way) => link.fault(way, Fault::Hold),
        Trouble::HeldBoth => {
            link.fault(Way::Up, Fault::Hold);
            link.fault(Way::Down, Fault::Hold);
        }
        Trouble::Vanishing(way) => link.fault(way, Fault::Drop),
        Trouble::HalfClosed(way) => link.half_close(way),
        Trouble::Damaged(way) => link.fault(way, Fault::Corrupt(4)),
        Trouble::SaidTwice(way) => link.fault(way, Fault::Repeat(2)),
        Trouble::Flapping => {
            for _ in 0..5 {
                link.hang_up();
                go_on(time / 5);
            }
        }
        Trouble::Replayed => {
            link.hang_up();
            link.replay();
        }
    }
    if trouble != Trouble::Flapping {
        go_on(time);
    }
    link.heal();
}

/// Every one of these troubles on every link, in random order.
fn trouble_all(name: &'static str, troubles: &[Trouble], rounds: u64, seed: u64) {
    let mut random = Random::new(seed);
    for round in 0..rounds {
        let mut world = World::start(name, SHAPE);
        let load = world.load(random.u64());
        let work = world.work(&load);
        work.until_answered(200, Duration::from_secs(30));
        let link_count = world.links().len() as u64;
        let mut plan: Vec<(u64, Trouble)> = (0..link_count)
            .flat_map(|link| troubles.iter().map(move |trouble| (link, *trouble)))
            .collect();
        for index in (1..plan.len()).rev() {
            let other = random.below(index as u64 + 1);
            plan.swap(index, usize::try_from(other).expect("small"));
        }
        host::say(&format!(
            "{name}: round {round}, {} troubles, seed {seed}",
            plan.len()
        ));
        for (index, trouble) in plan {
            let time = Duration::from_millis(200 + random.below(800));
            let links = world.links();
            let (link_name, link) = &links[usize::try_from(index).expect("small")];
            world
                .record
                .note(&format!("{link_name}: {trouble:?} for {time:?}"));
            make(trouble, link, time, |time| work.go_on(time));
            world.record.note(&format!("{link_name}: healed"));
            work.until_answered(50, Duration::from_secs(30));
            world.assert_all_run();
        }
        work.stop();
        assert_all_used(&world);
        let totals = total(&world);
        host::say(&format!("{name}: {totals:?}"));
        assert!(
            0 < totals.dropped_bytes && 0 < totals.repeated_frames,
            "no fault at all"
        );
        let has = |trouble| troubles.contains(&trouble);
        assert!(0 < totals.flipped_bits || !has(Trouble::Damaged(Way::Up)));
        assert!(0 < totals.replayed_frames || !has(Trouble::Replayed));
        let verdict = world.finish(&load);
        assert!(0 < verdict.acknowledged());
    }
}

/// Nobody goes around the proxies: nodes say the addresses that they were told to say.
fn assert_all_used(world: &World) {
    for (name, link) in world.links() {
        // Which front a client takes is a matter of chance.
        let is_sure = !name.starts_with("client");
        assert!(
            0 < link.counts().bytes || !is_sure,
            "nothing went from {name}"
        );
    }
}

fn total(world: &World) -> crate::proxy::Counts {
    let mut total = crate::proxy::Counts::default();
    for (_, link) in world.links() {
        let counts = link.counts();
        total.connections += counts.connections;
        total.bytes += counts.bytes;
        total.dropped_bytes += counts.dropped_bytes;
        total.repeated_frames += counts.repeated_frames;
        total.flipped_bits += counts.flipped_bits;
        total.replayed_frames += counts.replayed_frames;
    }
    total
}

#[test]
fn links_in_trouble() {
    let choice = [
        Trouble::Flapping,
        Trouble::Vanishing(Way::Down),
        Trouble::SaidTwice(Way::Up),
    ];
    trouble_all("links", &choice, 1, host::seed(5));
}

#[test]
#[ignore = "takes minutes: just chaos"]
fn every_trouble_on_every_link() {
    let rounds = host::count("CHAOS_LINK_ROUNDS", 3);
    trouble_all("links, all", &ALL, rounds, host::seed(6));
}

/// On all links at once, both ways, frames are said again, until it were so many.
fn frames_said_again(name: &'static str, count: u64, seed: u64) {
    host::say(&format!("{name}: {count} frames, seed {seed}"));
    let mut world = World::start(name, SHAPE);
    let load = world.load(seed);
    let work = world.work(&load);
    for (_, link) in world.links() {
        link.fault(Way::Up, Fault::Repeat(2));
        link.fault(Way::Down, Fault::Repeat(2));
    }
    let mut left = PATIENCE;
    let step = Duration::from_millis(100);
    while total(&world).repeated_frames < count {
        let before = total(&world).repeated_frames;
        work.go_on(step);
        // Only standing still is bounded: the count says how long it takes.
        if total(&world).repeated_frames == before {
            left = left.checked_sub(step).expect("the links stand still");
        }
    }
    world.assert_all_run();
    for (_, link) in world.links() {
        link.heal();
    }
    work.until_answered(100, Duration::from_secs(30));
    work.stop();
    host::say(&format!("{name}: {:?}", total(&world)));
    world.finish(&load);
}

#[test]
fn some_frames_said_again() {
    frames_said_again("frames said again", 300, host::seed(31));
}

#[test]
#[ignore = "takes minutes: just chaos"]
fn many_frames_said_again() {
    let count = host::count("CHAOS_REPEATED", 10_000);
    frames_said_again("frames said again, all", count, host::seed(32));
}
