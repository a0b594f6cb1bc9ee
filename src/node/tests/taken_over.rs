//! A node that was taken over while it slept.

use super::world::{World, cluster, coin, credit, get, log_number};
use crate::log::{BlockBuilder, BlockSpec};
use crate::model::{
    Entry, EpochMark, Flags, HandOver, HandOverHead, HandedSum, HandedSums, LogNumber, LogTime,
    MoveNumber, NodeId, ResultCode, RingEpoch, Slot, SlotRange,
};
use crate::protocol::RefusalCode;

/// The backup hands everything over in the node's place, in the next term.
fn take_over(world: &mut World) {
    let after = world.backup.end();
    world.backup.term = world.backup.term.next();
    let head = HandOverHead {
        number: MoveNumber(5),
        ring_epoch: RingEpoch(1),
        target: NodeId::new(2).unwrap(),
        target_log: LogNumber::new(2).unwrap(),
    };
    let all = SlotRange {
        first: Slot(0),
        last: Slot(u16::MAX),
    };
    let sums = [HandedSum {
        currency: coin().get(),
        account_count: 1,
        available: 50,
        held: 0,
    }];
    let mark = EpochMark {
        generation: world.backup.generation,
        ring_epoch: RingEpoch(1),
        term: world.backup.term,
    };
    let mut entries = vec![Entry::Epoch(mark)];
    entries.extend(HandOver::list(&head, &[all]));
    entries.extend(HandedSums::list(&sums));
    let mut builder = BlockBuilder::new();
    builder.begin(&BlockSpec {
        log: log_number(),
        cluster: cluster(),
        segment_size: super::SEGMENT_SIZE,
        after: &after,
        term: world.backup.term,
        time: LogTime(after.time.0 + 1),
        committed: after.seq,
        entry_count_max: 8,
    });
    for entry in &entries {
        builder.push(&entry.to_bytes());
    }
    let (bytes, end) = builder.finish();
    world.backup.files.blocks.push((end, bytes));
}

#[test]
fn a_node_that_slept_through_its_take_over_shows_and_acknowledges_nothing() {
    let mut world = World::serving();
    world.one(credit(1, 7, 50));
    // It stops here, with an operation and a look-up that it has not answered.
    world.backup.holds_acks = true;
    world.backup.holds_confirms = true;
    let asked = world.send(&[credit(2, 7, 1), get(7)]);
    world.run();
    world.backup.drops_appends = true;
    world.cut_link();
    world.backup.files.blocks.pop();
    take_over(&mut world);
    world.backup.refusal = Some(RefusalCode::TakenOver);
    // It wakes up: a look-up comes before the backup is heard.
    let early = world.send(&[get(7), credit(3, 7, 1)]);
    world.mend_link();
    assert!(world.again.as_ref().unwrap().contains("taken_over"));
    assert!(world.exit.is_none());
    assert_eq!(world.codes(asked), []);
    let shown = world.codes(early);
    assert!(
        shown.iter().all(|code| *code == ResultCode::Unavailable),
        "{shown:?}"
    );

    // Its next life follows its own log, and owns nothing.
    let mut world = world.restart();
    world.backup.refusal = None;
    world.backup.drops_appends = false;
    world.backup.holds_acks = false;
    world.backup.ring_epoch = RingEpoch(2);
    world.backup.slots = SlotRange {
        first: Slot(0),
        last: Slot(0),
    };
    world.serve();
    let codes = world.ask(&[get(7), credit(3, 7, 1).with_flags(Flags::OPEN_IF_MISSING)]);
    assert_eq!(codes.receipts[0].code, ResultCode::NotOwner);
    assert_eq!(codes.receipts[1].code, ResultCode::NotOwner);
    assert_eq!(world.backup.beats.last().unwrap().digest, 0);
    assert_eq!(world.disk.aside.len(), 1, "its tail is put aside");
}
