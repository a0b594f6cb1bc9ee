//! One stream of bytes cut anywhere: the same messages, the same last word.
#![no_main]

use counterfoil::protocol;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| protocol::fuzzing::check_pieces(bytes));
