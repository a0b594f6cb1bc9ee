//! A list of operations on the ledger, its replay, its folds and a plain model.
#![no_main]

use counterfoil::ledger;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ledger::fuzzing::check_operations(bytes));
