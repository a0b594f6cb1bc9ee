//! Planned moves: nodes that join, leave and change their weight, with a crash of the backup at
//! every request to its disk.

use super::world::World;
use super::{node, *};
use crate::model::MoveNumber;
use crate::protocol::{ClusterCommand, Message, MoveStep, MoveTold, RefusalCode};

/// A world in which a move takes about a fifth of a node's slots.
fn few_moves() -> World {
    let mut world = World::serving();
    world.accounts = 100_000;
    world
}

#[test]
fn a_node_that_joins_gets_its_share_and_every_slot_stays_owned_once() {
    let mut world = few_moves();
    world.add(4, Some(1));
    world.run_to_rest();
    world.check();
    let share = world.slots_of(4);
    assert!((7_000..20_000).contains(&share), "{share}");
    assert_eq!(world.owned_in_log(4) as u64, share);
    assert!(
        world.orders[0].starts_with("HandOver 1 of "),
        "{:?}",
        world.orders
    );
    assert_eq!(&world.orders[1][..8], "Adopt 1 ");
    assert_eq!(&world.orders[2][..11], "Activate 1 ");
    let status = world.bench.status();
    assert_eq!(status["healthy"], true, "{status}");
    assert_eq!(world.bench.alarms(), 0);
}

#[test]
fn a_backup_that_dies_anywhere_goes_on_with_a_planned_move() {
    let mut world = World::serving();
    world.add(4, Some(1));
    let before = world.step_count();
    world.run_to_rest();
    let after = world.step_count();
    assert!(before + 20 < after);
    for at in before + 1..=after {
        let mut world = World::serving();
        world.crash_at = Some(at);
        world.crash_late = at % 2 == 0;
        world.add(4, Some(1));
        world.run_to_rest();
        world.check();
        assert_eq!(world.bench.alarms(), 0, "{at} {:?}", world.bench.said);
        assert!(0 < world.slots_of(4), "{at}");
    }
}

#[test]
fn a_join_is_refused_where_it_cannot_be() {
    let mut world = World::serving();
    world.add(4, None);
    world.run_ms(200);
    assert_eq!(world.refusal(4), Some(RefusalCode::NotAMember));
    world.add(5, Some(33));
    world.run_ms(200);
    assert_eq!(world.refusal(5), Some(RefusalCode::Malformed));
    world.add(6, Some(1));
    world.nodes.get_mut(&6).unwrap().log = Some(log(9));
    world.nodes.get_mut(&6).unwrap().copy = 5;
    world.run_ms(200);
    assert_eq!(world.refusal(6), Some(RefusalCode::WrongLog));
    assert_eq!(world.bench.status()["nodes"].as_array().unwrap().len(), 3);
}

#[test]
fn nobody_is_told_of_a_move_before_it_is_recorded() {
    let mut world = World::serving();
    world.add(4, Some(1));
    world.run_ms(100);
    world.orders.clear();
    let mut bench = world.bench;
    // Everything is quiet now; the next order must wait for its save.
    bench.settle();
    let saves = |bench: &Bench| {
        bench
            .disk
            .done
            .iter()
            .filter(|name| **name == "save_file")
            .count()
    };
    assert!(0 < saves(&bench));
}

#[test]
fn what_is_not_durable_here_is_no_adoption() {
    let mut world = World::serving();
    let peer = world.nodes[&1].peer.unwrap();
    let told = MoveTold {
        step: MoveStep::Adopt,
        number: MoveNumber(1),
        seq: crate::model::Seq(99),
    };
    world.bench.say_to(peer, &Message::MoveTold(told));
    let heard = world.bench.heard(peer);
    assert_eq!(heard.last().unwrap(), "refused malformed", "{heard:?}");
}

#[test]
fn a_number_that_is_not_listed_is_to_be_dropped() {
    let mut world = World::serving();
    let peer = world.nodes[&1].peer.unwrap();
    world.bench.heard(peer);
    let told = MoveTold {
        step: MoveStep::Adopt,
        number: MoveNumber(77),
        seq: crate::model::Seq(1),
    };
    world.bench.say_to(peer, &Message::MoveTold(told));
    assert_eq!(world.bench.heard(peer), ["moveorder"]);
}

#[test]
fn a_drained_node_owns_nothing_and_can_be_removed() {
    let mut world = few_moves();
    world.run_ms(300);
    let dry = world.command(ClusterCommand::Drain, |ask| {
        ask.node = Some(node(3));
        ask.dry_run = true;
    });
    assert_eq!(dry["done"], false);
    assert!(30_000 < dry["plan"]["slots_to_move"].as_u64().unwrap());
    let accounts = dry["plan"]["accounts_to_move"].as_u64().unwrap();
    assert!((100_000..100_003).contains(&accounts), "{accounts}");
    assert_eq!(
        world.command(ClusterCommand::Plan, |_| ())["plan"]["slots_to_move"],
        0
    );
    let refused = world.command(ClusterCommand::Remove, |ask| ask.node = Some(node(3)));
    assert!(
        refused["refused"]
            .as_str()
            .unwrap()
            .contains("drain it first")
    );

    let epoch = world.bench.status()["ring_epoch"].clone();
    let dry = world.command(ClusterCommand::Add, |ask| {
        ask.node = Some(node(9));
        ask.weight = 2;
        ask.dry_run = true;
    });
    assert_eq!(dry["done"], false);
    let share = dry["plan"]["nodes"][3].clone();
    assert_eq!((&share["node"], &share["slots"]), (&9.into(), &0.into()));
    // Two shares of five of 65,536 slots, as far as the ring is even.
    let planned = share["planned_slots"].as_u64().unwrap();
    assert!((18_000..36_000).contains(&planned), "{share}");
    assert_eq!(dry["plan"]["slots_to_move"], planned);
    let refused = world.command(ClusterCommand::Add, |ask| ask.node = Some(node(9)));
    assert!(refused["refused"].as_str().unwrap().contains("--join"));
    assert_eq!(world.bench.status()["nodes"].as_array().unwrap().len(), 3);
    assert_eq!(world.bench.status()["ring_epoch"], epoch);

    let done = world.command(ClusterCommand::Drain, |ask| ask.node = Some(node(3)));
    assert_eq!(done["done"], true);
    world.run_to_rest();
    world.check();
    assert_eq!(world.slots_of(3), 0);
    assert_eq!(world.owned_in_log(3), 0);

    let done = world.command(ClusterCommand::Remove, |ask| ask.node = Some(node(3)));
    assert_eq!(done["done"], true, "{done}");
    world.run_ms(300);
    assert_eq!(world.refusal(3), Some(RefusalCode::NotAMember));
    let status = world.bench.status();
    assert_eq!(status["nodes"].as_array().unwrap().len(), 2);
    assert_eq!(status["retired_logs"][0], 3);
    assert_eq!(status["healthy"], true);
    let again = world.command(ClusterCommand::Remove, |ask| ask.node = Some(node(3)));
    assert_eq!(again["done"], true);
    world.crash();
    world.run_to_rest();
    world.check();
    // Its number may come again, with a log of its own.
    world.add(3, Some(1));
    world.run_to_rest();
    world.check();
    assert!(0 < world.owned_in_log(4));
}

#[test]
fn weights_move_slots_there_and_back() {
    let mut world = few_moves();
    let before = world.slots_of(1);
    world.command(ClusterCommand::Weight, |ask| {
        ask.node = Some(node(1));
        ask.weight = 4;
    });
    world.run_to_rest();
    world.check();
    assert!(before < world.slots_of(1));
    world.command(ClusterCommand::Weight, |ask| {
        ask.node = Some(node(1));
        ask.weight = 1;
    });
    world.run_to_rest();
    world.check();
    assert_eq!(world.slots_of(1), before);
    let refused = world.command(ClusterCommand::Weight, |ask| {
        ask.node = Some(node(1));
        ask.weight = 33;
    });
    assert!(!refused["refused"].is_null());
}

#[test]
fn a_pause_lets_nothing_begin_and_outlives_a_crash() {
    let mut world = few_moves();
    world.command(ClusterCommand::Pause, |_| ());
    world.add(4, Some(1));
    world.run_ms(1_000);
    world.crash();
    world.run_ms(1_000);
    assert_eq!(world.slots_of(4), 0);
    assert_eq!(world.bench.status()["moves"]["paused"], true);
    world.command(ClusterCommand::Resume, |_| ());
    world.run_to_rest();
    world.check();
    assert!(0 < world.slots_of(4));
}

#[test]
fn what_may_have_been_told_is_not_cancelled() {
    let mut world = few_moves();
    assert!(
        !world.command(ClusterCommand::Cancel, |ask| ask.number = MoveNumber(1))["refused"]
            .is_null()
    );
    world.add(4, Some(1));
    world.run_to_rest();
    let late = world.command(ClusterCommand::Cancel, |ask| ask.number = MoveNumber(1));
    assert_eq!(late["done"], true, "{late}");
}

/// A planned move whose source is there and does not serve keeps nobody's take-over waiting.
#[test]
fn a_take_over_goes_on_beside_a_move_that_is_only_ordered() {
    let mut waited = 0;
    for at in (1..40).step_by(3) {
        let mut world = few_moves();
        world.add(4, Some(1));
        world.run_steps(at);
        world.starting.extend([1, 3]);
        world.beat_all();
        world.kill(2);
        world.run_ms(8_000);
        let status = world.bench.status();
        let moves = status["moves"]["moves"].as_array().unwrap();
        waited += usize::from(!moves.is_empty());
        if world.owned_in_log(2) == 0 {
            assert_eq!(world.slots_of(2), 0, "{at}: {}", status["moves"]);
        }
        world.starting.clear();
        world.run_to_rest();
        world.check();
    }
    assert!(0 < waited);
}

/// Wherever the cancel comes, before the order is told or too late: everybody is served.
#[test]
fn a_cancel_at_any_moment_leaves_nobody_unserved() {
    let mut taken_back = 0;
    for at in 1..80 {
        let mut world = few_moves();
        world.add(4, Some(1));
        world.run_steps(at);
        world.command(ClusterCommand::Cancel, |ask| ask.number = MoveNumber(1));
        let mut said = world.bench.said.iter();
        taken_back += usize::from(said.any(|(_, text)| text.contains("move 1 is taken back")));
        world.run_to_rest();
        world.check();
    }
    assert!(0 < taken_back);
}

#[test]
fn images_go_once_the_targets_checkpoint_has_passed_them() {
    let mut world = few_moves();
    world.add(4, Some(1));
    world.run_to_rest();
    assert!(!world.bench.disk.images.is_empty());
    let kept = world.bench.status()["moves"]["images"].as_u64().unwrap();
    assert_eq!(usize::try_from(kept), Ok(world.bench.disk.images.len()));
    while world.bench.disk.logs[&log(4)].checkpoint.is_none() {
        let fresh = world.nodes.get_mut(&4).unwrap();
        let block = fresh.build(8_000);
        fresh.append(&mut world.bench, &block);
        world.run_ms(100);
    }
    world.run_ms(300);
    assert!(world.bench.disk.images.is_empty());
    assert_eq!(world.bench.status()["moves"]["images"], 0);
}
