//! Any bytes as they may come from a socket: never a panic, and what is read is canonical.
#![no_main]

use counterfoil::protocol::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzzing::check_stream(bytes));
