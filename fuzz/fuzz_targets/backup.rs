//! A list of events at a backup.
#![no_main]

use counterfoil::backup;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| backup::fuzzing::check_events(bytes));
