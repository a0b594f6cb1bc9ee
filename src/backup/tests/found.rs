//! Defects of moves that the simulator found, each at the place where it was mended.

use super::world::World;
use super::{log, node};
use crate::model::{Entry, MoveNumber};
use crate::protocol::{ClusterAsk, ClusterCommand, Message, PeerRole, RefusalCode};
use crate::role::DiskFault;

/// Node 3 owns nothing and does not run.
fn drained() -> World {
    let mut world = World::serving();
    world.command(ClusterCommand::Drain, |ask| ask.node = Some(node(3)));
    world.run_to_rest();
    assert_eq!(world.slots_of(3), 0);
    world.kill(3);
    world
}

/// A write that failed while an image was cut left the replica of that log where it stood until
/// the backup was started anew, and a take-over waited for it. Seed 87.
#[test]
fn a_replica_that_failed_for_a_passing_reason_is_tried_again() {
    let mut world = World::serving();
    let faults = &mut world.bench.disk.faults;
    faults.insert("advance_replica", DiskFault::Other);
    world.log_entries(2, &[Entry::Horizon { ms: 1 }]);
    world.kill(2);
    world.run_ms(4_000);
    assert!(0 < world.slots_of(2), "it waits for the replica");
    world.bench.disk.faults.clear();
    world.run_ms(65_000);
    world.run_to_rest();
    world.check();
    assert_eq!(world.slots_of(2), 0);
}

/// Damage does not pass: trying again and again would only say so again and again.
#[test]
fn a_replica_that_met_damage_is_not() {
    let mut world = World::serving();
    let faults = &mut world.bench.disk.faults;
    faults.insert("advance_replica", DiskFault::Damage);
    world.log_entries(2, &[Entry::Horizon { ms: 1 }]);
    world.run_ms(300);
    let tries = |world: &World| {
        let done = world.bench.disk.done.iter();
        done.filter(|name| **name == "advance_replica").count()
    };
    let before = tries(&world);
    assert!(0 < before);
    world.run_ms(65_000);
    assert_eq!(tries(&world), before);
    assert_eq!(world.bench.status()["healthy"], false);
}

/// A node joins, and while its log is being made an operator removes it: the record that the term
/// was to be granted in does not have it any more, and the backup panicked. Seeds 164 and 479.
#[test]
fn a_node_that_is_removed_while_it_joins_gets_no_term() {
    let mut world = World::serving();
    world.add(4, Some(1));
    let bench = &mut world.bench;
    let fresh = world.nodes.get_mut(&4).unwrap();
    let peer = fresh.register(bench);
    assert_eq!(bench.disk_do("save_file"), 1);
    let ask = ClusterAsk {
        command: ClusterCommand::Remove,
        dry_run: false,
        node: Some(node(4)),
        weight: 0,
        number: MoveNumber(0),
    };
    let operator = bench.connect(PeerRole::Client, None, super::life(9_001));
    bench.say_to(operator, &Message::ClusterAsk(ask));
    assert_eq!(bench.disk_do("create_log"), 1);
    assert_eq!(bench.heard(peer), ["refused not_a_member"]);
    bench.settle();
    assert_eq!(bench.status()["nodes"].as_array().unwrap().len(), 3);
    assert_eq!(bench.status()["retired_logs"][0], 4);
    assert_eq!(bench.alarms(), 0);
}

/// The same while the authority's file is being saved: the next save has neither the node nor that
/// it joined, and the backup panicked. Seed 44618.
#[test]
fn a_node_may_join_and_be_removed_within_one_save() {
    let mut world = World::serving();
    world.add(4, Some(1));
    let ask = |command, number, weight| {
        Message::ClusterAsk(ClusterAsk {
            command,
            dry_run: false,
            node: Some(node(number)),
            weight,
            number: MoveNumber(0),
        })
    };
    let bench = &mut world.bench;
    let operator = bench.connect(PeerRole::Client, None, super::life(9_001));
    bench.say_to(operator, &ask(ClusterCommand::Weight, 1, 2));
    let peer = world.nodes.get_mut(&4).unwrap().register(bench);
    bench.say_to(operator, &ask(ClusterCommand::Remove, 4, 0));
    assert_eq!(bench.disk_do("save_file"), 1);
    assert_eq!(bench.heard(peer), [""; 0]);
    assert_eq!(bench.disk_do("save_file"), 1);
    assert_eq!(bench.heard(peer), ["refused not_a_member"]);
    bench.settle();
    assert_eq!(bench.status()["nodes"].as_array().unwrap().len(), 3);
    assert_eq!(bench.status()["retired_logs"][0], 4);
    assert_eq!(bench.alarms(), 0);
}

/// A removal that is not durable is no removal: the node hears of it behind the record, and a
/// backup that ends in between still has the node.
#[test]
fn a_node_hears_of_its_removal_once_it_is_durable() {
    for crash in [false, true] {
        let mut world = World::serving();
        world.command(ClusterCommand::Drain, |ask| ask.node = Some(node(3)));
        world.run_to_rest();
        let ask = ClusterAsk {
            command: ClusterCommand::Remove,
            dry_run: false,
            node: Some(node(3)),
            weight: 0,
            number: MoveNumber(0),
        };
        let peer = world.nodes[&3].peer.unwrap();
        let bench = &mut world.bench;
        let operator = bench.connect(PeerRole::Client, None, super::life(9_001));
        bench.heard(peer);
        bench.say_to(operator, &Message::ClusterAsk(ask));
        assert!(
            bench
                .heard(peer)
                .iter()
                .all(|text| !text.contains("refused"))
        );
        if crash {
            world.crash();
            world.run_to_rest();
            world.check();
            assert_eq!(world.bench.status()["nodes"].as_array().unwrap().len(), 3);
            continue;
        }
        assert_eq!(bench.disk_do("save_file"), 1);
        assert_eq!(bench.heard(peer), ["refused not_a_member"]);
        bench.settle();
        assert_eq!(bench.status()["retired_logs"][0], 3);
        assert_eq!(bench.alarms(), 0);
    }
}

/// The term in its folder is newer than that of a node that the cluster does not have: the backup
/// took itself for an old copy, alarmed, and the node stopped as damaged. Seeds 153 and 204.
#[test]
fn a_removed_node_that_comes_back_to_join_is_told_that_it_was_removed() {
    let mut world = drained();
    world.command(ClusterCommand::Remove, |ask| ask.node = Some(node(3)));
    world.revive(3);
    world.nodes.get_mut(&3).unwrap().join_weight = Some(1);
    world.run_ms(300);
    assert_eq!(world.refusal(3), Some(RefusalCode::NotAMember));
    assert_eq!(world.bench.alarms(), 0, "{:?}", world.bench.said);
    // The same for one that ended before its log was on its disk, whether that is its copy of the
    // log as it says or not. Seed 11094.
    for has_copy in [true, false] {
        world.revive(3);
        let fresh = world.nodes.get_mut(&3).unwrap();
        fresh.join_weight = Some(1);
        fresh.log = None;
        if !has_copy {
            fresh.copy = 0;
        }
        world.run_ms(300);
        assert_eq!(world.refusal(3), Some(RefusalCode::NotAMember));
        assert_eq!(world.bench.alarms(), 0, "{:?}", world.bench.said);
    }
    // With an empty folder it is welcome, and has another log.
    world.dead.remove(&3);
    world.add(3, Some(1));
    world.run_ms(300);
    world.run_to_rest();
    world.check();
    assert_eq!(world.nodes[&3].log, Some(log(4)));
}

/// An operator took the move of a take-over back, whose block was in the log already: the log had
/// given its slots away, and nobody was to adopt them. Seed 914.
#[test]
fn a_take_over_is_not_taken_back() {
    let mut world = World::serving();
    world.kill(2);
    let ordered = |world: &mut World| {
        let moves = world.bench.status()["moves"]["moves"].clone();
        let mut moves = moves.as_array().unwrap().iter();
        moves.any(|moving| moving["state"] == "ordered" && moving["cause"] == "take-over")
    };
    let mut steps = 0;
    while !ordered(&mut world) {
        world.run_steps(1);
        steps += 1;
        assert!(steps < 200, "{}", world.bench.status()["moves"]);
    }
    let answer = world.command(ClusterCommand::Cancel, |ask| ask.number = MoveNumber(1));
    let text = answer["refused"].as_str().unwrap_or_default();
    assert!(text.contains("goes forward"), "{answer}");
    world.run_ms(3_000);
    world.run_to_rest();
    world.check();
    assert_eq!(world.slots_of(2), 0);
}
