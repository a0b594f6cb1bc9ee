//! The ring's vectors: hash, node keys, nearest key, a whole table.

use std::hash::Hasher;

use counterfoil::model::{NodeId, RingEpoch, Slot, UserId, user_slot};
use counterfoil::ring::{RingNode, SlotTable, nearest, node_key, plan};
use siphasher::sip::SipHasher24;

use super::document::{Block, Fields, blocks, number, page};

fn block(name: &str) -> Block {
    let mut found = blocks("ring")
        .into_iter()
        .filter(|block| block.subject.1 == name);
    found
        .next()
        .unwrap_or_else(|| panic!("no ring vector {name}"))
}

fn sip(key: u128, bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new_with_key(&key.to_le_bytes());
    hasher.write(bytes);
    hasher.finish()
}

fn node(fields: &mut Fields) -> NodeId {
    NodeId::new(fields.number("node")).unwrap()
}

#[test]
fn the_hash_is_the_papers() {
    let key: u128 = number("0x0f0e0d0c0b0a09080706050403020100");
    let input: Vec<u8> = (0..15).collect();
    assert!(page().contains(&format!("result `{:016x}`", sip(key, &input))));
}

#[test]
fn users_have_the_slots_of_the_page() {
    for line in block("user_slot").lines {
        let mut fields = Fields::of_record(&line);
        let key: u128 = fields.number("ring_key");
        let user: u128 = fields.number("user");
        let slot = Slot(fields.number("slot"));
        assert_eq!(
            sip(key, &user.to_le_bytes()),
            fields.number::<u64>("hash"),
            "{line}"
        );
        assert_eq!(user_slot(key, UserId::new(user).unwrap()), slot, "{line}");
        fields.finish();
    }
}

#[test]
fn nodes_have_the_keys_of_the_page() {
    for line in block("node_key").lines {
        let mut fields = Fields::of_record(&line);
        let key: u128 = fields.number("ring_key");
        let node = node(&mut fields);
        let index: u32 = fields.number("index");
        let bytes = [node.get().to_le_bytes(), index.to_le_bytes()].concat();
        assert_eq!(sip(key, &bytes), fields.number::<u64>("hash"), "{line}");
        assert_eq!(
            node_key(key, node, index),
            Slot(fields.number("key")),
            "{line}"
        );
        fields.finish();
    }
}

fn check_owner(line: &str, nodes: &[RingNode], table: &SlotTable) {
    let mut fields = Fields::of_record(line);
    if line.contains("slot_count") {
        let count: usize = fields.number("slot_count");
        assert_eq!(table.slot_count_of(node(&mut fields)), count, "{line}");
    } else {
        let slot = Slot(fields.number("slot"));
        let owner = Some(node(&mut fields));
        assert_eq!(nearest(nodes, slot), owner, "{line}");
        assert_eq!(table.owner(slot), owner, "{line}");
    }
    fields.finish();
}

#[test]
fn the_nearest_key_wins_as_on_the_page() {
    let lines = block("nearest").lines;
    let mut fields = Fields::of_record(&lines[0]);
    let nodes: Vec<RingNode> = fields
        .text("keys")
        .split(',')
        .map(|pair| {
            let (key, node) = pair.split_once(':').unwrap();
            let node = NodeId::new(node.parse().unwrap()).unwrap();
            RingNode::preset(node, &[Slot(key.parse().unwrap())]).unwrap()
        })
        .collect();
    let table = plan(RingEpoch(1), &nodes);
    for line in &lines[1..] {
        check_owner(line, &nodes, &table);
    }
}

#[test]
fn a_planned_table_is_that_of_the_page() {
    let lines = block("plan").lines;
    let mut fields = Fields::of_record(&lines[0]);
    let ring_key: u128 = fields.number("ring_key");
    let weight: u32 = fields.number("weight");
    let nodes: Vec<RingNode> = fields
        .text("nodes")
        .split(',')
        .map(|node| {
            RingNode::drawn(
                ring_key,
                NodeId::new(node.parse().unwrap()).unwrap(),
                weight,
            )
        })
        .collect();
    let table = plan(RingEpoch(1), &nodes);
    for line in &lines[1..] {
        check_owner(line, &nodes, &table);
    }
}
