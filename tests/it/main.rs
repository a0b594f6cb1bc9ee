//! One binary for all integration tests: one link, one start.
#![expect(clippy::unwrap_used, reason = "what fails in a test is the finding")]

mod client;
mod corpus;
mod tidy;
mod vectors;
