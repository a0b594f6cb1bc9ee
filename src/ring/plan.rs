//! The nearest-key rule, and a table of all slots by it.

use super::{RingNode, SlotTable};
use crate::limits::SLOT_COUNT;
use crate::model::{NodeId, RingEpoch, Slot};

/// The smaller way around the circle of 65,536 slots, in slots: 0 to 32,768.
#[must_use]
pub const fn distance(a: Slot, b: Slot) -> u16 {
    let up = a.0.wrapping_sub(b.0);
    let down = b.0.wrapping_sub(a.0);
    if up < down { up } else { down }
}

/// The rule word for word: the nearest key wins, of two at one distance the lower key, of equal
/// keys the one with the lower node id. `None` when no node has a key.
///
/// Visits every key; [`plan`] answers for all slots at once and is checked against this.
#[must_use]
pub fn nearest(nodes: &[RingNode], slot: Slot) -> Option<NodeId> {
    nodes
        .iter()
        .flat_map(|node| node.keys().iter().map(|key| (*key, node.node())))
        .min_by_key(|(key, node)| (distance(slot, *key), *key, *node))
        .map(|(_, node)| node)
}

/// Gives every slot to the node of its nearest key. Without any key nobody owns anything.
#[must_use]
pub fn plan(epoch: RingEpoch, nodes: &[RingNode]) -> SlotTable {
    let mut keys: Vec<(Slot, NodeId)> = nodes
        .iter()
        .flat_map(|node| node.keys().iter().map(|key| (*key, node.node())))
        .collect();
    keys.sort_unstable();
    keys.dedup_by_key(|(key, _)| *key);

    let mut table = SlotTable::nobody(epoch);
    for (index, (key, node)) in keys.iter().enumerate() {
        let next = keys.get(index + 1).or(keys.first());
        let Some((next_key, next_node)) = next else {
            continue;
        };
        let gap = gap(*key, *next_key);
        for step in 0..gap {
            let slot = Slot(key.0.wrapping_add(low_bits(step)));
            let to_next = gap - step;
            let keeps = step < to_next || (step == to_next && *key <= *next_key);
            table.set(slot, if keeps { *node } else { *next_node });
        }
    }
    table
}

/// Slots from `key` up to the next key; the whole circle when it is the only one.
fn gap(key: Slot, next: Slot) -> u32 {
    match next.0.wrapping_sub(key.0) {
        0 => SLOT_COUNT,
        gap => u32::from(gap),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a step is below 65,536: gap() is at most the whole circle"
)]
const fn low_bits(step: u32) -> u16 {
    step as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Random;

    fn node(number: u32) -> NodeId {
        NodeId::new(number).unwrap()
    }

    fn preset(number: u32, keys: &[u16]) -> RingNode {
        let keys: Vec<Slot> = keys.iter().copied().map(Slot).collect();
        RingNode::preset(node(number), &keys).unwrap()
    }

    fn all_slots() -> impl Iterator<Item = Slot> {
        (0..=u16::MAX).map(Slot)
    }

    fn check_against_rule(nodes: &[RingNode]) {
        let table = plan(RingEpoch(1), nodes);
        for slot in all_slots() {
            assert_eq!(
                table.owner(slot),
                nearest(nodes, slot),
                "{slot:?} {nodes:?}"
            );
        }
    }

    #[test]
    fn distance_is_the_smaller_way_round() {
        for (a, b, expected) in [
            (0, 0, 0),
            (0, 1, 1),
            (1, 0, 1),
            (0, 65_535, 1),
            (0, 32_768, 32_768),
            (100, 40_000, 25_636),
        ] {
            assert_eq!(distance(Slot(a), Slot(b)), expected);
        }
    }

    #[test]
    fn a_tie_goes_to_the_lower_key() {
        let nodes = [preset(1, &[20]), preset(2, &[10])];
        assert_eq!(nearest(&nodes, Slot(15)), Some(node(2)));
        // Around zero the numerically lower key is the one ahead.
        let nodes = [preset(1, &[65_530]), preset(2, &[6])];
        assert_eq!(nearest(&nodes, Slot(0)), Some(node(2)));
        assert_eq!(nearest(&nodes, Slot(65_535)), Some(node(1)));
        check_against_rule(&nodes);
    }

    #[test]
    fn of_equal_keys_the_lower_node_counts() {
        let nodes = [preset(9, &[500]), preset(3, &[500])];
        assert_eq!(nearest(&nodes, Slot(40_000)), Some(node(3)));
        check_against_rule(&nodes);
    }

    #[test]
    fn plan_equals_the_rule_at_the_edges() {
        check_against_rule(&[]);
        check_against_rule(&[preset(1, &[])]);
        check_against_rule(&[preset(1, &[0])]);
        check_against_rule(&[preset(1, &[65_535])]);
        check_against_rule(&[preset(2, &[0, 32_768]), preset(1, &[16_384, 49_152])]);
        check_against_rule(&[preset(2, &[0]), preset(1, &[65_535])]);
        check_against_rule(&[preset(2, &[0, 0, 7]), preset(1, &[7, 8, 9])]);
    }

    #[test]
    fn plan_equals_the_rule_at_random() {
        for seed in 0..12 {
            let mut random = Random::new(seed);
            let node_count = 1 + random.below(8);
            let nodes: Vec<RingNode> = (0..node_count)
                .map(|_| {
                    let number = 1 + u32::try_from(random.below(20)).unwrap();
                    let keys: Vec<u16> = (0..random.below(12))
                        .map(|_| u16::try_from(random.below(65_536)).unwrap())
                        .collect();
                    preset(number, &keys)
                })
                .collect();
            check_against_rule(&nodes);
        }
    }

    #[test]
    fn every_slot_has_an_owner_with_drawn_keys() {
        let nodes: Vec<RingNode> = (1..=3)
            .map(|number| RingNode::drawn(0x1234, node(number), 1))
            .collect();
        let table = plan(RingEpoch(4), &nodes);
        assert_eq!(table.epoch(), RingEpoch(4));
        assert!(all_slots().all(|slot| table.owner(slot).is_some()));
        for step in (0..=u16::MAX).step_by(97) {
            assert_eq!(table.owner(Slot(step)), nearest(&nodes, Slot(step)));
        }
    }
}
