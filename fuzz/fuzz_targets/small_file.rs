//! Any bytes as small files, as the authority's record, as a node's identity.
#![no_main]

use counterfoil::{backup, log, node};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    log::fuzzing::check_small_file(bytes);
    backup::fuzzing::check_authority(bytes);
    node::fuzzing::check_identity(bytes);
});
