//! Foreign records and entries: refused whole or taken whole.
#![no_main]

use counterfoil::ledger;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ledger::fuzzing::check_records(bytes));
