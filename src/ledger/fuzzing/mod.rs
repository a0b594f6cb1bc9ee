//! What must hold for any list of operations and for any foreign records: shared by the fuzz
//! targets and the replay of their corpus. Not part of the library's interface.
//!
//! Every function here returns if all is well and panics otherwise.
#![expect(
    clippy::unwrap_used,
    reason = "a test aid: what fails here is what is looked for"
)]

// The twin of the unit tests: both judge by the same rules, written once more than the ledger's.
#[cfg_attr(
    test,
    expect(clippy::duplicate_mod, reason = "the unit tests have it too")
)]
#[path = "../tests/naive.rs"]
mod naive;

mod foreign;
mod operations;

pub use foreign::check_records;
pub use operations::check_operations;

use super::{Ledger, LedgerOptions};

const RING_KEY: u128 = 0x000f_0e0d_0c0b_0a09_0807_0605_0403_0201;

/// Small enough for a short list of operations to fill it.
const ID_COUNT_MAX: u64 = 48;

fn ledger() -> Ledger {
    Ledger::new(LedgerOptions {
        ring_key: RING_KEY,
        id_count_max: ID_COUNT_MAX,
        keep_ids: true,
    })
}
