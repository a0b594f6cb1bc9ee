//! What must hold for any list of events at a node: shared by the fuzz targets and the replay of
//! their corpus. Not part of the library's interface.
//!
//! Every function here returns if all is well and panics otherwise.
#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::struct_excessive_bools,
    reason = "a test aid: what fails here is what is looked for"
)]

#[expect(dead_code, reason = "the unit tests use all of it, this target a part")]
#[cfg_attr(
    test,
    expect(clippy::duplicate_mod, reason = "the unit tests have it too")
)]
#[path = "../tests/backup.rs"]
mod backup;
#[expect(dead_code, reason = "the unit tests use all of it, this target a part")]
#[cfg_attr(
    test,
    expect(clippy::duplicate_mod, reason = "the unit tests have it too")
)]
#[path = "../tests/disk.rs"]
mod disk;
#[expect(dead_code, reason = "the unit tests use all of it, this target a part")]
#[cfg_attr(
    test,
    expect(clippy::duplicate_mod, reason = "the unit tests have it too")
)]
#[path = "../tests/world.rs"]
mod world;

mod clients;
mod events;

pub use events::check_events;

use super::identity::Identity;

/// Bytes of a segment.
const SEGMENT_SIZE: u64 = crate::limits::SEGMENT_SIZE_MIN;

/// Any bytes as an identity file: what is read is written as the same bytes.
pub fn check_identity(bytes: &[u8]) {
    match Identity::read(bytes) {
        Ok((identity, known)) => assert_eq!(identity.to_file(&known), bytes),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
