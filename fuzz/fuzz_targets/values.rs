//! Command lines and the values in them.
#![no_main]

use counterfoil::cli;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| cli::fuzzing::check_values(bytes));
