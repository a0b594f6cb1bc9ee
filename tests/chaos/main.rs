//! Faults on real processes: killed, stopped, cut off, slow, full, damaged. One workload with its
//! own record, one checker for all of them.
//!
//! A short choice runs in `cargo test`; what takes minutes or needs root is ignored there and
//! runs by `just chaos`. What each test does and what must hold: docs/chaos.md.
#![expect(clippy::unwrap_used, reason = "what fails in a test is the finding")]

mod account;
mod checker;
mod cut_short;
mod damage;
mod disk;
mod folders;
mod host;
mod kills;
mod links;
mod logs;
mod moves;
mod mutation;
mod pauses;
mod power;
mod proxy;
mod record;
mod replaced;
mod space;
mod strangers;
mod syncs;
mod workload;
mod world;
