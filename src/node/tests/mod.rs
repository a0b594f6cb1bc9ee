//! The node against a disk, a backup and a front in memory.
#![expect(
    clippy::wildcard_enum_match_arm,
    clippy::struct_excessive_bools,
    reason = "a test double names what it serves, and has a switch for each of its failures"
)]

mod backup;
mod disk;
mod lost_backup;
mod moves;
mod old_ids;
mod restarts;
mod room;
mod serving;
mod sweep;
mod taken_over;
mod world;

use crate::limits::BLOCK_WORTH_COUNT;
use crate::model::Operation;

/// Bytes of a segment in all tests.
const SEGMENT_SIZE: u64 = crate::limits::SEGMENT_SIZE_MIN;

/// Credits of 1 that get a block although another one is in flight.
fn worth_a_block(number_first: u128, user: u128) -> Vec<Operation> {
    let numbers = number_first..number_first + u128::from(BLOCK_WORTH_COUNT);
    numbers
        .map(|number| world::credit(number, user, 1))
        .collect()
}
