//! What must hold for any list of events at a backup, and for any bytes of its file: shared by
//! the fuzz targets and the replay of their corpus. Not part of the library's interface.
//!
//! Every function here returns if all is well and panics otherwise.
#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test aid: what fails here is what is looked for"
)]

#[expect(dead_code, reason = "the unit tests use all of it, this target a part")]
#[cfg_attr(
    test,
    expect(clippy::duplicate_mod, reason = "the unit tests have it too")
)]
#[path = "../tests/bench.rs"]
mod bench;

#[expect(dead_code, reason = "the unit tests use all of it, this target a part")]
#[cfg_attr(
    test,
    expect(clippy::duplicate_mod, reason = "the unit tests have it too")
)]
#[path = "../tests/world.rs"]
mod world;

#[cfg_attr(
    test,
    expect(clippy::duplicate_mod, reason = "the unit tests have it too")
)]
#[path = "../tests/words.rs"]
mod words;

mod events;
mod file;
mod witness;

pub use events::check_events;
pub use file::check_authority;
