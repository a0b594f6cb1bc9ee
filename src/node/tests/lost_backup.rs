//! A backup that is made again from this node.

use super::world::{World, credit, get};
use crate::model::Generation;
use crate::protocol::{Fetch, Message, MoveFileAsk};
use crate::role::{DiskRequest, ExitCode, FileName};

use super::world::log_number;

/// A node with some blocks whose backup has lost its disk; it is asked to record generation 2.
fn asked(generation: u64) -> World {
    let mut world = World::serving();
    world.one(credit(1, 7, 50));
    world.one(credit(2, 8, 5));
    world.cut_link();
    world.backup.recovers = Some(Generation(generation));
    world.mend_link();
    world
}

fn is_recorded(world: &World, generation: u64) -> bool {
    let identity = world.disk.files(|files| files.identity.clone()).unwrap();
    // The field of the identity file.
    identity[48..56] == generation.to_le_bytes()
}

#[test]
fn a_node_that_serves_begins_a_new_life_and_records_the_generation_first() {
    let mut world = asked(2);
    assert!(world.again.as_ref().unwrap().contains("generation 2"));
    assert!(world.exit.is_none());
    assert!(!is_recorded(&world, 2), "its next life does that");
    assert!(world.backup.recorded.is_empty());

    let mut again = world.restart();
    again.run();
    assert!(is_recorded(&again, 2));
    let [(generation, members)] = &again.backup.recorded[..] else {
        panic!("{:?}", again.backup.recorded);
    };
    assert_eq!(*generation, Generation(2));
    assert_eq!(*members, [1, 4], "as the last table had them");
    let saved = again.disk.requests.iter().rposition(|request| {
        let name = FileName::Identity;
        matches!(request, DiskRequest::SaveFile { name: of, .. } if *of == name)
    });
    assert!(saved.is_some());
    assert!(!again.is_ready, "it waits for its term");

    // It gives what is on its disk.
    let fetch = Fetch {
        log: log_number(),
        offset: 64,
        size_max: 1 << 20,
    };
    again.backup.say(&Message::Fetch(fetch));
    again.pass(100);
    again.backup.say(&Message::CheckpointAsk(fetch));
    again.pass(100);
    assert_eq!(again.backup.given, ["fetched", "checkpoint_part"]);
    again.backup.say(&Message::Fetch(fetch));
    again.backup.say(&Message::Fetch(fetch));
    again.pass(100);
    assert!(
        again.has_said("gives one piece at a time"),
        "{:?}",
        again.said
    );
    world = again;

    // Made again, it grants as ever, in a higher term.
    world.backup.recovers = None;
    world.backup.generation = Generation(2);
    world.backup.term = crate::model::Term(2 << 32);
    world.cut_link();
    world.mend_link();
    world.serve();
    assert_eq!(world.one(get(7)).available, 50);
    assert_eq!(world.one(credit(1, 7, 50)).available, 50, "replayed");
}

#[test]
fn who_has_recorded_follows_no_older_backup() {
    let mut world = asked(2).restart();
    world.run();
    assert!(is_recorded(&world, 2));
    // The old one comes back.
    world.backup.recovers = None;
    world.cut_link();
    world.mend_link();
    world.assert_exit(ExitCode::Damage, "generation 1");
    // Nor one that is being made again under what others have passed.
    let mut world = world.restart();
    world.backup.recovers = Some(Generation(1));
    world.run();
    world.assert_exit(ExitCode::Damage, "older");
}

#[test]
fn what_is_asked_of_another_log_is_not_given() {
    let mut world = asked(2).restart();
    world.run();
    let fetch = Fetch {
        log: crate::model::LogNumber::new(9).unwrap(),
        offset: 64,
        size_max: 1,
    };
    world.backup.say(&Message::Fetch(fetch));
    world.pass(100);
    assert!(
        world.has_said("gives what is in its own log"),
        "{:?}",
        world.said
    );
    assert_eq!(world.backup.given, [""; 0]);
    world.pass(200);
    // It registers again, and gives what it has.
    let ask = MoveFileAsk {
        image: crate::model::MoveNumber(7),
        offset: 0,
        size_max: 1,
    };
    world.backup.say(&Message::MoveFileAsk(ask));
    world.pass(100);
    assert_eq!(world.backup.given, ["move_file_part"]);
    assert_eq!(world.backup.recorded.len(), 2);
}

#[test]
fn a_damaged_log_is_given_to_nobody() {
    let mut world = asked(2).restart();
    world
        .disk
        .files(|files| files.damage = Some("block 2 does not verify".to_owned()));
    world.run();
    world.assert_exit(ExitCode::Damage, "must be given up");
    assert!(world.backup.recorded.is_empty());
    assert_eq!(world.backup.given, [""; 0]);
}
