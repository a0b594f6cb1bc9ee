//! A list of events at a node.
#![no_main]

use counterfoil::node;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| node::fuzzing::check_events(bytes));
