//! One binary for all integration tests: one link, one start.

mod client;
mod corpus;
mod tidy;
mod vectors;
