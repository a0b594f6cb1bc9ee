//! Node keys (second keys): preset by the operator, or drawn from the ring's hash by weight.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::limits::{NODE_KEY_COUNT_DEFAULT, NODE_KEY_COUNT_MAX};
use crate::model::{NodeId, Slot, to_usize};

/// Drawn key number `index` of `node`: the top 16 bits of SipHash-2-4 over the node id and the
/// index, each as 4 little-endian bytes.
///
/// `ring_key` is the cluster's: its low 64 bits are the hash's k0, its high 64 bits k1.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the halves of the key; 16 bits are left"
)]
pub fn node_key(ring_key: u128, node: NodeId, index: u32) -> Slot {
    let mut hasher = SipHasher24::new_with_keys(ring_key as u64, (ring_key >> 64) as u64);
    let both = (u64::from(index) << u32::BITS) | u64::from(node.get());
    hasher.write(&both.to_le_bytes());
    Slot((hasher.finish() >> 48) as u16)
}

/// Why a list of preset keys is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} node keys are above the limit of {NODE_KEY_COUNT_MAX}")]
pub struct KeysError {
    /// How many were given.
    pub count: usize,
}

/// One node with its keys. A node without keys owns nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingNode {
    node: NodeId,
    keys: Vec<Slot>,
}

impl RingNode {
    /// A node with drawn keys: 128 for each unit of `weight`, at most 4,096.
    ///
    /// Keys of a lower weight are the first ones of a higher weight, so a change of the weight
    /// moves only what it must. Two drawn keys may be equal; they then count as one.
    #[must_use]
    pub fn drawn(ring_key: u128, node: NodeId, weight: u32) -> Self {
        let count = NODE_KEY_COUNT_DEFAULT
            .saturating_mul(weight)
            .min(NODE_KEY_COUNT_MAX);
        Self {
            node,
            keys: (0..count)
                .map(|index| node_key(ring_key, node, index))
                .collect(),
        }
    }

    /// A node with keys given by its operator, in any order, at most 4,096.
    pub fn preset(node: NodeId, keys: &[Slot]) -> Result<Self, KeysError> {
        if to_usize(u64::from(NODE_KEY_COUNT_MAX)) < keys.len() {
            return Err(KeysError { count: keys.len() });
        }
        Ok(Self {
            node,
            keys: keys.to_vec(),
        })
    }

    /// Which node.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// Its keys, as drawn or given.
    #[must_use]
    pub fn keys(&self) -> &[Slot] {
        &self.keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeId {
        NodeId::new(7).unwrap()
    }

    #[test]
    fn weight_sets_the_count_within_the_limit() {
        for (weight, count) in [(0, 0), (1, 128), (3, 384), (32, 4_096), (u32::MAX, 4_096)] {
            assert_eq!(RingNode::drawn(1, node(), weight).keys().len(), count);
        }
    }

    #[test]
    fn keys_of_a_lower_weight_are_kept() {
        let light = RingNode::drawn(1, node(), 1);
        let heavy = RingNode::drawn(1, node(), 2);
        assert!(heavy.keys().starts_with(light.keys()));
    }

    #[test]
    fn too_many_preset_keys_are_refused() {
        let keys = vec![Slot(0); 4_097];
        assert_eq!(
            RingNode::preset(node(), &keys),
            Err(KeysError { count: 4_097 })
        );
        assert!(RingNode::preset(node(), &keys[1..]).is_ok());
    }
}
