//! Logs whose end is shorter than it was, or in doubt: nobody takes over what may not be all.
//!
//! Damage in the last blocks of a log looks like a write that was cut short. Before its end was
//! recorded a node that was away in such a moment was taken over from the shorter log, and what
//! only the node had besides was lost; or its log lacked an adoption that was counted on, and no
//! block that hands over could ever be built.

use super::log;
use super::world::World;
use crate::backup::authority::Record;
use crate::model::{Entry, NodeId, Seq, Term};
use crate::protocol::{ClusterAsk, ClusterCommand};
use crate::role::{ExitCode, Input, Level};

/// Something lies behind the end.
const TORN: Option<&str> = Some("at offset 4480");

/// Three nodes, and one more block in the log of node 2.
fn world() -> World {
    let mut world = World::serving();
    world.log_entries(2, &[Entry::Horizon { ms: 1 }]);
    world.run_ms(100);
    world
}

/// The backup starts again, and the last block of a log is not there any more.
fn crash_and_lose(world: &mut World, number: u16, torn: Option<&str>) -> Seq {
    world.crash();
    let here = world.bench.disk.logs.get_mut(&log(number)).unwrap();
    let (end, _) = here.blocks.pop().unwrap();
    here.torn = torn.map(ToOwned::to_owned);
    end.seq
}

/// A new process of a node knows of its last block only that it is there: that it was committed
/// would be told by the next one.
fn revive(world: &mut World, number: u32) {
    world.revive(number);
    let fresh = world.nodes.get_mut(&number).unwrap();
    fresh.committed = Seq(fresh.end().seq.0 - 1);
}

fn stuck(world: &mut World) -> String {
    let status = world.bench.status();
    assert_eq!(status["healthy"], false);
    status["moves"]["stuck"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn record(world: &World) -> Record {
    Record::decode(&world.bench.disk.authority.clone().unwrap()).unwrap()
}

#[test]
fn what_was_torn_is_taken_over_only_once_its_node_has_sent_all_that_it_has() {
    let mut world = world();
    world.kill(2);
    let lost = crash_and_lose(&mut world, 2, TORN);
    world.run_ms(15_000);
    assert!(stuck(&mut world).contains("unfinished write"));
    assert!(stuck(&mut world).contains("before node 2 is back"));
    assert_eq!(world.bench.status()["ring_epoch"], 1);
    assert_eq!(world.bench.alarms(), 1);
    // The tail was put aside: the next start finds a clean end, and knows better.
    world.crash();
    world.run_ms(15_000);
    assert!(stuck(&mut world).contains("unfinished write"));
    assert_eq!(world.bench.status()["ring_epoch"], 1);
    // The node sends its tail again. All of it came when a block of its new term is here.
    revive(&mut world, 2);
    world.run_ms(300);
    assert!(world.bench.status()["moves"]["stuck"].is_null());
    assert_eq!(world.bench.disk.logs[&log(2)].end().seq, lost);
    world.kill(2);
    world.run_ms(5_000);
    assert!(stuck(&mut world).contains("unfinished write"));
    revive(&mut world, 2);
    world.run_ms(300);
    world.log_entries(2, &[Entry::Horizon { ms: 2 }]);
    world.run_ms(100);
    world.kill(2);
    world.run_ms(3_000);
    world.run_to_rest();
    world.check();
    assert_eq!(world.slots_of(2), 0);
    assert_eq!(world.bench.status()["healthy"], true);
}

/// The block that handed a dead node's slots over was damaged at the end of its log, put aside as
/// a torn write, and the node's own block of that number was taken for it: the node had in its log
/// what others had adopted. Found by the simulator, seed 362.
#[test]
fn a_lost_block_of_the_backups_own_is_not_made_up_by_the_node() {
    for torn in [TORN, None] {
        let mut world = world();
        world.kill(2);
        world.run_ms(3_000);
        world.run_to_rest();
        assert_eq!(world.slots_of(2), 0);
        let lost = crash_and_lose(&mut world, 2, torn);
        world.run_ms(100);
        let (code, text) = world.bench.exit.clone().unwrap();
        assert_eq!(code, ExitCode::Damage);
        assert!(text.contains(&format!("and had block {lost}")), "{text}");
        assert!(text.contains("backup recover"), "{text}");
    }
}

#[test]
fn where_a_log_stood_still_is_known() {
    let mut world = world();
    world.run_ms(1_500);
    let member = record(&world).members[&NodeId::new(2).unwrap()].clone();
    let end = world.bench.disk.logs[&log(2)].end().seq;
    assert_eq!((member.reached, member.doubted), (end, Term(0)));
    world.kill(2);
    // Nothing tells that anything was there.
    let lost = crash_and_lose(&mut world, 2, None);
    assert_eq!(lost, end);
    world.run_ms(15_000);
    assert!(stuck(&mut world).contains(&format!("and had block {lost}")));
    assert_eq!(world.bench.status()["ring_epoch"], 1);
    revive(&mut world, 2);
    world.run_ms(300);
    world.kill(2);
    world.run_ms(3_000);
    world.run_to_rest();
    world.check();
    assert_eq!(world.slots_of(2), 0);
}

#[test]
fn a_log_that_moves_costs_no_save() {
    let mut world = world();
    world.run_ms(1_500);
    let saves = |world: &World| {
        let done = world.bench.disk.done.iter();
        done.filter(|name| **name == "save_file").count()
    };
    let before = saves(&world);
    for ms in 0..50 {
        world.log_entries(2, &[Entry::Horizon { ms }]);
        world.run_ms(100);
    }
    assert_eq!(saves(&world), before);
    world.run_ms(5_000);
    assert_eq!(saves(&world), before + 1);
}

/// Nobody takes over a log whose node was removed: what is recorded of its end cannot change, and a
/// backup that waited for it never came to its end. Found by the simulator, seed 92.
#[test]
fn a_retired_log_is_let_be() {
    let mut world = world();
    let node = |ask: &mut ClusterAsk| ask.node = NodeId::new(2);
    world.command(ClusterCommand::Drain, node);
    world.run_to_rest();
    world.command(ClusterCommand::Remove, node);
    world.run_ms(3_000);
    let saves = |world: &World| {
        let done = world.bench.disk.done.iter();
        done.filter(|name| **name == "save_file").count()
    };
    let before = saves(&world);
    world.run_ms(5_000);
    assert_eq!(saves(&world), before);
    world.bench.input(Input::Stop);
    world.bench.settle();
    assert!(world.bench.exit.is_some());
}

#[test]
fn a_backup_that_ends_in_order_knows_all_ends() {
    let mut world = world();
    world.bench.input(Input::Stop);
    world.bench.settle();
    assert!(world.bench.exit.is_some());
    for (node, member) in record(&world).members {
        let end = world.bench.disk.logs[&log(u16::try_from(node.get()).unwrap())].end();
        assert_eq!(member.reached, end.seq);
    }
}

/// The adoption was told of and the slots are flipped: they are nowhere but in the target's log.
#[test]
fn a_log_that_lacks_an_adoption_is_not_taken_over() {
    let mut world = World::serving();
    world.run_ms(2_000);
    world.kill(3);
    let flipped = |world: &mut World| {
        let moves = world.bench.status()["moves"]["moves"].clone();
        let mut moves = moves.as_array().unwrap().iter();
        moves.any(|moving| moving["state"] == "flipped" && moving["target"] == 2)
    };
    let mut steps = 0;
    while !flipped(&mut world) {
        world.run_steps(1);
        steps += 1;
        assert!(steps < 500, "{}", world.bench.status()["moves"]);
    }
    world.kill(2);
    let lost = crash_and_lose(&mut world, 2, None);
    world.run_ms(15_000);
    let member = record(&world).members[&NodeId::new(2).unwrap()].clone();
    assert_eq!(member.reached, lost);
    assert!(stuck(&mut world).contains(&format!("and had block {lost}")));
    assert_eq!(member.term, Term(1), "no term was granted for nothing");
    // It died before it logged anything behind the adoption.
    let fresh = world.nodes.get_mut(&2).unwrap();
    fresh.blocks.retain(|(end, _)| end.seq <= lost);
    revive(&mut world, 2);
    revive(&mut world, 3);
    world.run_ms(15_000);
    world.run_to_rest();
    world.check();
}

/// Whoever gives up a log starts its node with an empty folder: the backup says what may be lost.
#[test]
fn an_empty_folder_is_the_word_of_an_operator() {
    for torn in [TORN, None] {
        let mut world = world();
        world.run_ms(if torn.is_some() { 0 } else { 1_500 });
        world.kill(2);
        crash_and_lose(&mut world, 2, torn);
        world.run_ms(3_000);
        world.bench.said.clear();
        world.replace(2);
        world.run_ms(300);
        let level = if torn.is_some() {
            Level::Warn
        } else {
            Level::Alarm
        };
        let said = world.bench.said.iter();
        let mut said = said.filter(|(_, text)| text.contains("is lost"));
        assert_eq!(said.next().map(|(level, _)| *level), Some(level));
        world.kill(2);
        world.run_ms(3_000);
        world.run_to_rest();
        world.check();
        assert_eq!(world.slots_of(2), 0);
    }
}
