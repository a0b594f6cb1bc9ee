//! The backup's core in memory: a fake disk, and peers that speak in encoded frames.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for one message and fails on any other"
)]

mod append;
mod bench;
mod ends;
mod fence;
mod found;
mod moves;
mod random;
mod recover;
mod register;
mod serve;
mod start;
mod take_over;
mod upkeep;
mod words;
mod world;

use bench::{Bench, FakeNode, life, log, node};
