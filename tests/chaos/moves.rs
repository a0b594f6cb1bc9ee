//! Slots that go from node to node while processes die: nodes that are gone are taken over, and an
//! operator drains, weighs, adds and removes nodes; in the middle of each of these something is
//! killed, any daemon at a random moment.
//!
//! A round is over when everything is alive again, every node is where the plan wants it, and
//! nothing is left to move. Then the next one begins; the record is judged at the end.

use std::collections::BTreeSet;
use std::time::Duration;

use counterfoil::clock::Clock;
use counterfoil::model::Random;
use rustix::process::Signal;
use serde_json::Value;

use crate::host;
use crate::workload::{Workload, millis};
use crate::world::{PATIENCE, Role, Shape, World};

/// Rounds between two full checks: each has a cluster and a record of its own.
const CLUSTER_ROUND_COUNT: u64 = 25;

const SHAPE: Shape = Shape {
    node_count: 3,
    front_count: 2,
    has_proxies: false,
};

/// Short times: a round is to take a second or two. A busy machine may thus see a living node
/// taken over; that is one more of them.
const TIMES: [&str; 8] = [
    "--take-over-after-ms",
    "500",
    "--start-grace-ms",
    "900",
    "--refill-after-ms",
    "200",
    "--move-pause-ms",
    "5",
];

/// Silence after which a node is taken over.
const SILENCE_MS: u64 = 500;

/// How long a round may take to get where it is to be.
const ROUND: Duration = Duration::from_secs(120);

/// The node that an operator adds and removes.
const ADDED: u32 = 4;

/// Pause between two looks at the state.
const LOOK: Duration = Duration::from_millis(20);

/// A cluster under load, and what has happened to it.
struct Scene {
    world: World,
    work: Workload,
    random: Random,
    /// Daemons that do not run.
    dead: BTreeSet<Role>,
    /// Kills in the middle of something.
    kill_count: u64,
    /// Take-overs that were seen to their end.
    taken_count: u64,
}

/// What is to happen in a round.
#[derive(Clone, Copy)]
enum Round {
    TakeOver,
    Planned,
}

fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    let list = value.pointer(path).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

fn number(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or(0)
}

fn slots_of(status: &Value, node: u32) -> u64 {
    let mut nodes = list(status, "/nodes").iter();
    let found = nodes.find(|line| number(line, "/node") == u64::from(node));
    found.map_or(0, |line| number(line, "/slots"))
}

/// Is nothing under way, nothing left to move, and every node serving?
fn is_settled(status: &Value) -> bool {
    let serves = |line: &Value| line["phase"] == "serving" && line["state"] == "present";
    let filled = |line: &Value| line["emptied"] == false;
    list(status, "/moves/moves").is_empty()
        && number(status, "/moves/slots_to_move") == 0
        && status["moves"]["stuck"].is_null()
        && list(status, "/nodes")
            .iter()
            .all(|line| serves(line) && filled(line))
}

impl Scene {
    fn start(name: &'static str, seed: u64) -> Self {
        let mut world = World::new(name, SHAPE);
        world.extend(Role::Backup, &TIMES);
        world.start_all();
        let load = world.load(seed);
        let work = world.work(&load);
        work.until_answered(200, Duration::from_secs(30));
        Self {
            world,
            work,
            random: Random::new(seed),
            dead: BTreeSet::new(),
            kill_count: 0,
            taken_count: 0,
        }
    }

    fn pass(&mut self, ms: u64) {
        self.work.go_on(Duration::from_millis(ms));
    }

    fn pass_at_most(&mut self, ms: u64) {
        let ms = self.random.below(ms);
        self.pass(ms);
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        let index = self.random.below(all.len() as u64);
        all[usize::try_from(index).expect("small")]
    }

    fn nodes(&self) -> Vec<u32> {
        let number = |role: Role| match role {
            Role::Node(number) => Some(number),
            Role::Backup | Role::Front(_) => None,
        };
        self.world.roles().into_iter().filter_map(number).collect()
    }

    fn kill(&mut self, role: Role) {
        if self.dead.insert(role) {
            self.world.kill(role);
        }
    }

    /// Kills any daemon that runs, except those that the others are to come to an end without.
    fn kill_any(&mut self) {
        let running: Vec<Role> = self
            .world
            .roles()
            .into_iter()
            .filter(|role| !self.dead.contains(role))
            .collect();
        // As often the backup, where all steps are recorded, as any of the others.
        let role = if self.random.one_in(3) && !self.dead.contains(&Role::Backup) {
            Role::Backup
        } else {
            self.pick(&running)
        };
        self.kill_count += 1;
        self.kill(role);
    }

    /// Everything that is dead is started, except `but`, and serves.
    fn revive_all_but(&mut self, but: Option<Role>) {
        let dead = self.dead.iter().copied();
        let dead: Vec<Role> = dead.filter(|role| Some(*role) != but).collect();
        for role in &dead {
            let text = format!("start {}", role.name());
            self.world.record.note(&text);
            self.world.launch(*role);
            self.dead.remove(role);
        }
        for role in &dead {
            self.world.wait_ready(*role);
        }
    }

    /// Waits until the backup says so.
    fn until(&mut self, what: &str, mut is_so: impl FnMut(&Value) -> bool) {
        let clock = Clock::start();
        let last = clock.now().tick.plus_ms(millis(ROUND));
        let mut status = None;
        loop {
            status = self.world.try_status().or(status);
            if status.as_ref().is_some_and(&mut is_so) {
                return;
            }
            let is_late = last < clock.now().tick;
            assert!(!is_late, "not {what} after {ROUND:?}: {status:#?}");
            self.work.go_on(LOOK);
        }
    }

    /// Waits until the backup has said this once more than before, or for a while.
    fn until_said(&mut self, words: &str, before: usize, ms_max: u64) {
        let clock = Clock::start();
        let last = clock.now().tick.plus_ms(ms_max);
        while self.said(words) <= before && clock.now().tick < last {
            self.pass(2);
        }
    }

    fn said(&self, words: &str) -> usize {
        self.world.words(Role::Backup).matches(words).count()
    }

    /// A command of the command line, until the authority takes it.
    fn command(&mut self, words: &[&str]) {
        let fronts: Vec<String> = self
            .world
            .fronts()
            .iter()
            .map(ToString::to_string)
            .collect();
        let fronts = fronts.join(",");
        let mut all = vec!["cluster"];
        all.extend_from_slice(words);
        all.extend_from_slice(&["--addr", &fronts, "--json"]);
        self.world
            .record
            .note(&format!("command {}", words.join(" ")));
        let clock = Clock::start();
        let last = clock.now().tick.plus_ms(millis(ROUND));
        loop {
            let output = host::run(&all);
            if output.status.success() {
                return;
            }
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(clock.now().tick < last, "{words:?}: {said}");
            self.work.go_on(LOOK);
        }
    }

    /// Something dies in the middle: as soon as the backup says that it has begun, or whenever.
    fn strike(&mut self, words: &str, before: usize, begins_ms: u64) {
        if self.random.one_in(2) {
            self.until_said(words, before, begins_ms + 1_500);
            self.pass_at_most(60);
        } else {
            self.pass_at_most(begins_ms + 300);
        }
        self.kill_any();
        if self.random.one_in(4) {
            self.pass_at_most(100);
            self.kill_any();
        }
        self.pass_at_most(300);
    }

    /// A node dies, or sleeps, and the others take over what it had.
    fn take_over(&mut self) {
        let nodes = self.nodes();
        let number = self.pick(&nodes);
        let victim = Role::Node(number);
        let words = "is silent for";
        let before = self.said(words);
        let sleeps = self.random.one_in(4);
        if sleeps {
            self.world
                .record
                .note(&format!("{} falls asleep", victim.name()));
            self.world.process(victim).signal(Signal::STOP).unwrap();
        } else {
            self.kill(victim);
            if self.random.one_in(4) {
                // Its disk goes with it: everything acknowledged must be on the backup.
                self.world.wipe(victim);
            }
        }
        // Killed while it sleeps it is dead like any other.
        self.strike(words, before, SILENCE_MS);
        // Others that were hit come back; the victim does not before it owns nothing.
        self.revive_all_but(Some(victim));
        let gone = format!("node {number} taken over");
        // A backup that was killed in the middle of a write cannot know whether it has all.
        let waits = format!("nothing moves before node {number} is back");
        let is_owed = |status: &Value| {
            let stuck = status["moves"]["stuck"].as_str();
            stuck.is_some_and(|text| text.contains(&waits))
        };
        let mut is_taken = false;
        self.until(&gone, |status| {
            is_taken = slots_of(status, number) == 0;
            is_taken || is_owed(status)
        });
        self.taken_count += u64::from(is_taken);
        if sleeps && !self.dead.contains(&victim) {
            self.world.process(victim).signal(Signal::CONT).unwrap();
            self.world
                .record
                .note(&format!("{} wakes up", victim.name()));
        }
    }

    /// Slots move because an operator wants it so.
    fn planned(&mut self) {
        let words = " go to node ";
        let before = self.said(words);
        let has_added = self.nodes().contains(&ADDED);
        let node = 1 + self.random.below(3);
        let node = node.to_string();
        match self.random.below(4) {
            0 if !has_added => {
                let added = self.world.add_node(ADDED);
                self.world.record.note("start node-4");
                self.world.launch(added);
            }
            0 => return self.remove_added(),
            1 => self.command(&["drain", &node]),
            _ => {
                let weight = (1 + self.random.below(4)).to_string();
                self.command(&["weight", &node, &weight]);
            }
        }
        self.strike(words, before, 0);
    }

    /// The added node gives everything back, and leaves.
    fn remove_added(&mut self) {
        let words = " go to node ";
        let before = self.said(words);
        let added = ADDED.to_string();
        self.command(&["drain", &added]);
        self.strike(words, before, 0);
        self.revive_all_but(None);
        self.until("drained", |status| {
            slots_of(status, ADDED) == 0 && is_settled(status)
        });
        self.command(&["remove-node", &added]);
        self.world.scrap(Role::Node(ADDED));
    }

    /// A drained node gets its share again.
    fn fill_drained(&mut self) {
        let mut drained = Vec::new();
        self.until("readable", |_| true);
        if let Some(status) = self.world.try_status() {
            let lines = list(&status, "/nodes").iter();
            let lines = lines.filter(|line| line["draining"] == true);
            drained.extend(lines.map(|line| number(line, "/node").to_string()));
        }
        for node in drained {
            self.command(&["weight", &node, "1"]);
            self.until("settled", is_settled);
        }
    }

    fn round(&mut self, round: Round) {
        self.pass_at_most(200);
        match round {
            Round::TakeOver => self.take_over(),
            Round::Planned => self.planned(),
        }
        self.revive_all_but(None);
        let count = self.nodes().len();
        self.until("settled", |status| {
            list(status, "/nodes").len() == count && is_settled(status)
        });
        self.fill_drained();
        self.work.until_answered(50, PATIENCE);
    }
}

/// So many rounds of one kind, each with a kill in its middle.
fn strike_moves(name: &'static str, round: Round, round_count: u64, seed: u64) {
    host::say(&format!("{name}: {round_count} rounds, seed {seed}"));
    let mut random = Random::new(seed);
    let mut left = round_count;
    while left != 0 {
        let count = left.min(CLUSTER_ROUND_COUNT);
        left -= count;
        let mut scene = Scene::start(name, random.u64());
        for _ in 0..count {
            scene.round(round);
        }
        let (world, work) = (scene.world, scene.work);
        let (kills, seen) = (scene.kill_count, scene.taken_count);
        work.until_answered(200, Duration::from_secs(60));
        work.stop();
        let load = world.load(0);
        let verdict = world.finish(&load);
        let (taken_over, moved) = verdict.hand_over_counts;
        host::say(&format!(
            "{name}: {count} rounds, {kills} kills in the middle; the logs have {taken_over} \
             take-overs and {moved} planned hand-overs"
        ));
        assert!(0 < verdict.acknowledged());
        match round {
            Round::TakeOver => {
                assert!(
                    seen <= taken_over,
                    "{seen} were seen, the logs have {taken_over}"
                );
                assert!(count <= seen + 1, "{seen} of {count} rounds are take-overs");
            }
            Round::Planned => assert!(0 < moved, "something moved"),
        }
    }
}

#[test]
fn killed_in_the_middle_of_take_overs() {
    let count = host::count("CHAOS_TAKE_OVERS_SHORT", 2);
    strike_moves("take-overs", Round::TakeOver, count, host::seed(41));
}

#[test]
fn killed_in_the_middle_of_planned_moves() {
    let count = host::count("CHAOS_MOVES_SHORT", 3);
    strike_moves("planned moves", Round::Planned, count, host::seed(42));
}

#[test]
#[ignore = "takes minutes: just chaos"]
fn killed_in_the_middle_of_100_take_overs() {
    let count = host::count("CHAOS_TAKE_OVERS", 100);
    strike_moves("take-overs, all", Round::TakeOver, count, host::seed(43));
}

#[test]
#[ignore = "takes minutes: just chaos"]
fn killed_in_the_middle_of_100_planned_moves() {
    let count = host::count("CHAOS_MOVES", 100);
    strike_moves("planned moves, all", Round::Planned, count, host::seed(44));
}
