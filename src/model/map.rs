//! Hash tables with a fixed seed: the same inputs give the same table in every run.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use ahash::RandomState;

/// A hash map for local look-ups. Its order must never decide an answer, a route or a byte.
pub type Map<K, V> = HashMap<K, V, RandomState>;

/// A hash set under the same rule as [`Map`].
pub type Set<K> = HashSet<K, RandomState>;

const SEEDS: [u64; 4] = [
    0x9e37_79b9_7f4a_7c15,
    0xd1b5_4a32_d192_ed03,
    0x8cb9_2ba7_2f3d_8dd7,
    0xaef1_7502_108e_f2d9,
];

fn state() -> RandomState {
    RandomState::with_seeds(SEEDS[0], SEEDS[1], SEEDS[2], SEEDS[3])
}

/// An empty [`Map`].
#[must_use]
pub fn new_map<K: Eq + Hash, V>() -> Map<K, V> {
    HashMap::with_hasher(state())
}

/// An empty [`Set`].
#[must_use]
pub fn new_set<K: Eq + Hash>() -> Set<K> {
    HashSet::with_hasher(state())
}
