//! A list of events at a front.
#![no_main]

use counterfoil::front;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| front::fuzzing::check_events(bytes));
