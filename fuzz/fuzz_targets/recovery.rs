//! Damaged logs: all that is whole is found, nothing else, and nothing is dropped in silence.
#![no_main]

use counterfoil::log;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| log::fuzzing::check_recovery(bytes));
