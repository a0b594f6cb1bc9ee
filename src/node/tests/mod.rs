//! The node against a disk, a backup and a front in memory.

mod backup;
mod disk;
mod restarts;
mod serving;
mod world;

/// Bytes of a segment in all tests.
const SEGMENT_SIZE: u64 = crate::limits::SEGMENT_SIZE_MIN;
