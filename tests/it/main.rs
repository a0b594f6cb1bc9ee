//! One binary for all integration tests: one link, one start.

mod corpus;
mod tidy;
mod vectors;
