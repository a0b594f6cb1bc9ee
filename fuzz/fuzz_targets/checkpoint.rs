//! Damaged and forged checkpoint files.
#![no_main]

use counterfoil::log;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| log::fuzzing::check_checkpoint(bytes));
