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
mod serving;
mod sweep;
mod taken_over;
mod world;

/// Bytes of a segment in all tests.
const SEGMENT_SIZE: u64 = crate::limits::SEGMENT_SIZE_MIN;
