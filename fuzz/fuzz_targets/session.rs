//! A list of events at a client session.
#![no_main]

use counterfoil::client;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| client::session::fuzzing::check_events(bytes));
