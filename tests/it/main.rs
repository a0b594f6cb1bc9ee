//! One binary for all integration tests: one link, one start.
#![expect(clippy::unwrap_used, reason = "what fails in a test is the finding")]

mod bench;
mod cli;
mod client;
mod corpus;
mod drill;
mod format;
mod harness;
mod hostile;
mod lost_backup;
mod pages;
mod recovery;
mod sim;
mod small_disk;
mod tidy;
mod vectors;
