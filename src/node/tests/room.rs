//! No room on the disk, or for one more open file: what waits, and what is told.

use super::world::{World, credit};
use super::worth_a_block;
use crate::limits;
use crate::model::ResultCode;
use crate::role::DiskFault;

#[test]
fn no_spare_segment_is_no_space() {
    let mut world = World::new();
    world.disk.prepare_fault = Some(DiskFault::NoSpace);
    world.serve();
    assert_eq!(world.one(credit(1, 7, 1)).code, ResultCode::NoSpace);
    world.disk.prepare_fault = None;
    world.pass(limits::UPKEEP_MS + 300);
    assert_eq!(world.one(credit(1, 7, 1)).code, ResultCode::Ok);
}

/// A node without descriptors came to the end of a segment, could not make the next one, and ended
/// as damaged.
#[test]
fn what_finds_no_room_is_appended_once_there_is_some() {
    let mut world = World::serving();
    world.disk.append_fault = Some(DiskFault::NoSpace);
    world.disk.prepare_fault = Some(DiskFault::NoSpace);
    let first = world.send(&worth_a_block(1, 7));
    world.run();
    assert!(world.has_said("waits for room"));
    assert!(world.codes(first).is_empty(), "it is not durable here");
    assert_eq!(world.one(credit(1_000, 8, 1)).code, ResultCode::NoSpace);
    world.pass(10 * limits::UPKEEP_MS);
    assert!(world.codes(first).is_empty());
    world.disk.append_fault = None;
    world.pass(2 * limits::UPKEEP_MS);
    assert!(world.codes(first).is_empty(), "there is no segment yet");
    world.disk.prepare_fault = None;
    world.pass(2 * limits::UPKEEP_MS);
    assert!(
        world
            .codes(first)
            .iter()
            .all(|code| *code == ResultCode::Ok)
    );
    assert_eq!(world.codes(first).len(), worth_a_block(1, 7).len());
    assert_eq!(world.one(credit(1_000, 8, 1)).code, ResultCode::Ok);
}
