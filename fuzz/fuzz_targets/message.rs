//! Bodies of every kind behind a good checksum, and messages made of the fuzzer's choices.
#![no_main]

use counterfoil::protocol::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    fuzzing::check_body(bytes);
    fuzzing::check_choices(bytes);
});
