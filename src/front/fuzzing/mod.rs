//! What must hold for any list of events at a front: shared by the fuzz targets and the replay of
//! their corpus. Not part of the library's interface.
//!
//! Every function here returns if all is well and panics otherwise.
#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test aid: what fails here is what is looked for"
)]

mod asked;
mod events;
mod rig;

pub use events::check_events;
