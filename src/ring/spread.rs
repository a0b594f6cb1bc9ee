//! How evenly drawn keys spread the slots, and what moves when a node comes or goes.

use super::{RingNode, SlotTable, plan};
use crate::limits::SLOT_COUNT;
use crate::model::{NodeId, RingEpoch};

const RING_KEYS: [u128; 4] = [0, 1, 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100, u128::MAX];

fn node(number: u32) -> NodeId {
    NodeId::new(number).unwrap()
}

fn ring(ring_key: u128, numbers: impl IntoIterator<Item = u32>) -> SlotTable {
    let nodes: Vec<RingNode> = numbers
        .into_iter()
        .map(|number| RingNode::drawn(ring_key, node(number), 1))
        .collect();
    plan(RingEpoch(1), &nodes)
}

/// The most loaded node's share over the mean, in thousandths, rounded up.
fn spread(ring_key: u128, node_count: u32) -> usize {
    let table = ring(ring_key, 1..=node_count);
    let most = (1..=node_count)
        .map(|number| table.slot_count_of(node(number)))
        .max()
        .unwrap();
    let slot_count = usize::try_from(SLOT_COUNT).unwrap();
    (most * usize::try_from(node_count).unwrap() * 1_000).div_ceil(slot_count)
}

#[test]
fn the_most_loaded_node_stays_near_the_mean() {
    for (node_count, bound) in [(3, 1_150), (10, 1_200), (100, 1_300)] {
        for ring_key in RING_KEYS {
            let spread = spread(ring_key, node_count);
            println!(
                "{node_count:3} nodes of 128 keys, ring key {ring_key:032x}: \
                 most loaded / mean = {}.{:03}",
                spread / 1_000,
                spread % 1_000
            );
            assert!(
                spread <= bound,
                "{node_count} nodes: {spread} is above {bound}"
            );
        }
    }
}

#[test]
fn a_new_node_takes_slots_and_nothing_else_moves() {
    for ring_key in RING_KEYS {
        for node_count in [1, 3, 10, 100] {
            let before = ring(ring_key, 1..=node_count);
            let after = ring(ring_key, 1..=node_count + 1);
            let new = Some(node(node_count + 1));
            assert!(before.difference(&after).all(|moved| moved.to == new));
            assert!(before.difference(&after).all(|moved| moved.from.is_some()));
            let moved_count: usize = before
                .difference(&after)
                .map(|moved| moved.slots.last.index() - moved.slots.first.index() + 1)
                .sum();
            assert_eq!(moved_count, after.slot_count_of(node(node_count + 1)));
            assert!(0 < moved_count);
        }
    }
}

#[test]
fn a_lost_node_leaves_slots_and_nothing_else_moves() {
    for ring_key in RING_KEYS {
        for node_count in [2, 3, 10, 100] {
            for lost in [1, node_count] {
                let before = ring(ring_key, 1..=node_count);
                let after = ring(ring_key, (1..=node_count).filter(|number| *number != lost));
                assert_eq!(after.slot_count_of(node(lost)), 0);
                assert!(
                    before
                        .difference(&after)
                        .all(|moved| moved.from == Some(node(lost)))
                );
            }
        }
    }
}

#[test]
fn a_lost_node_is_shared_by_many() {
    let before = ring(RING_KEYS[2], 1..=10);
    let after = ring(RING_KEYS[2], 2..=10);
    for number in 2..=10 {
        assert!(
            before.slot_count_of(node(number)) < after.slot_count_of(node(number)),
            "node {number} got nothing"
        );
    }
}
