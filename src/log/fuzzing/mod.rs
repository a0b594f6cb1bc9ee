//! What must hold for any damage to a log, a checkpoint or a small file: shared by the fuzz
//! targets and the replay of their corpus. Not part of the library's interface.
//!
//! Every function here returns if all is well and panics otherwise.
#![expect(
    clippy::unwrap_used,
    reason = "a test aid: what fails here is what is looked for"
)]

mod damage;
mod files;
mod lives;
mod recovery;

pub use files::{check_checkpoint, check_small_file};
pub use recovery::check_recovery;
