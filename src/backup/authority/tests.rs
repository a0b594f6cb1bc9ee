//! Moves in the record: each step, and the file after it.

use super::super::options::{NewCluster, NewNode};
use super::*;
use crate::limits::SEGMENT_SIZE_MIN;
use crate::model::{LogTime, MoveNumber, Place, Seq, Slot, SlotRange, Term};
use crate::role::ImageInfo;

fn node(number: u32) -> NodeId {
    NodeId::new(number).unwrap()
}

fn record() -> Record {
    let new = |number| NewNode {
        node: node(number),
        weight: 1,
        keys: Vec::new(),
    };
    let new = NewCluster {
        cluster: ClusterId::new(77).unwrap(),
        ring_key: 5,
        nodes: vec![new(1), new(2), new(3)],
        segment_size: SEGMENT_SIZE_MIN,
    };
    Record::create(&new, 1_000)
}

fn handed() -> Handed {
    Handed {
        place: Place(9),
        image: ImageInfo {
            size: 1,
            digest: 2,
            offset: 3,
            slot_digest: 4,
            account_count: 5,
            horizon_ms: 6,
            time: LogTime(7),
        },
    }
}

fn order(record: &mut Record, source: u32, target: u32) -> MoveNumber {
    let slots = record.table.ranges_of(node(source)).flat_map(slots_of);
    let ranges = ranges_of(slots.take(100));
    let new = NewMove {
        source: node(source),
        target: node(target),
        cause: Cause::Planned,
        ranges,
    };
    record.order_move(new, 50)
}

/// The record is what its file says.
fn check(record: &Record) {
    assert_eq!(Record::decode(&record.encode()).as_ref(), Ok(record));
}

#[test]
fn a_move_goes_forward_step_by_step() {
    let mut record = record();
    let owned = record.table.slot_count_of(node(2));
    let number = order(&mut record, 1, 2);
    assert_eq!(number, MoveNumber(1));
    check(&record);
    record.hand_move(number, handed());
    check(&record);
    assert_eq!(record.ring_epoch(), RingEpoch(1));
    record.flip_move(number);
    check(&record);
    assert_eq!(record.ring_epoch(), RingEpoch(2));
    assert_eq!(record.table.slot_count_of(node(2)), owned + 100);
    record.finish_move(number, Seq(8));
    check(&record);
    assert!(record.moves.active.is_empty());
    assert_eq!(record.moves.images().len(), 1);
    let log = record.members[&node(2)].log;
    record.forget_ended(log, Seq(7));
    assert_eq!(record.moves.images().len(), 1);
    record.forget_ended(log, Seq(8));
    assert!(record.moves.images().is_empty());
    check(&record);
}

#[test]
fn what_was_handed_over_can_go_elsewhere_even_back() {
    let mut record = record();
    let number = order(&mut record, 1, 2);
    record.hand_move(number, handed());
    let next = record.redirect_move(number, node(3));
    assert_eq!(next, MoveNumber(2));
    check(&record);
    let back = record.redirect_move(next, node(1));
    check(&record);
    let moving = &record.moves.active[&back];
    assert_eq!((moving.image, moving.target), (number, node(1)));
    assert_eq!(record.moves.images().len(), 1);
    let second = record.members[&node(2)].log;
    assert!(record.note_gone(number, second, Seq(4)));
    assert!(!record.note_gone(number, second, Seq(5)));
    check(&record);
    let owned = record.table.slot_count_of(node(1));
    record.flip_move(back);
    assert_eq!(record.table.slot_count_of(node(1)), owned);
    assert_eq!(record.ring_epoch(), RingEpoch(2));
    check(&record);
}

#[test]
fn members_come_and_go_and_their_logs_stay() {
    let mut record = record();
    record.add_member(node(9), 2);
    assert_eq!(record.members[&node(9)].log.get(), 4);
    check(&record);
    record.members.get_mut(&node(1)).unwrap().draining = true;
    record.members.get_mut(&node(2)).unwrap().emptied = true;
    record.members.get_mut(&node(3)).unwrap().weight = 0;
    check(&record);
    let desired = record.plan_for(|_, member| member.takes_part());
    assert_eq!(desired.slot_count_of(node(9)), 65_536);
    record.remove_member(node(9));
    check(&record);
    assert!(record.log(LogNumber::new(4).unwrap()).is_some());
    record.add_member(node(9), 1);
    assert_eq!(record.members[&node(9)].log.get(), 5);
    check(&record);
}

#[test]
fn what_is_known_of_ends_is_kept() {
    let mut record = record();
    let life = crate::model::Incarnation::new(1).unwrap();
    let end = crate::model::LogEnd::default();
    let member = record.members.get_mut(&node(2)).unwrap();
    member.grant(life, Shown::Empty, 10, &end, 0);
    check(&record);
    let plain_size = record.encode().len();
    record.members.get_mut(&node(2)).unwrap().doubted = Term(1);
    check(&record);
    assert_eq!(record.encode().len(), plain_size + 8 + 24);
    record.members.get_mut(&node(1)).unwrap().reach(Seq(9));
    record.members.get_mut(&node(1)).unwrap().reach(Seq(8));
    assert_eq!(record.members[&node(1)].reached, Seq(9));
    check(&record);
    assert_eq!(record.encode().len(), plain_size + 8 + 2 * 24);
    // A term that was never granted cannot have been the newest one.
    record.members.get_mut(&node(1)).unwrap().doubted = Term(1);
    let text = Record::decode(&record.encode()).unwrap_err().to_string();
    assert!(text.starts_with("section 8"), "{text}");
}

#[test]
fn a_doubt_lasts_until_a_later_term_has_a_block() {
    let mut record = record();
    let member = record.members.get_mut(&node(1)).unwrap();
    let end = |term| crate::model::LogEnd {
        term: Term(term),
        ..crate::model::LogEnd::default()
    };
    assert!(!member.is_doubtful(&end(0)));
    member.doubted = Term(3);
    assert!(member.is_doubtful(&end(3)) && member.is_doubtful(&end(0)));
    assert!(!member.is_doubtful(&end(4)));
}

#[test]
fn a_term_of_the_backup_itself_is_told_from_a_nodes() {
    let mut record = record();
    let life = |number| crate::model::Incarnation::new(number).unwrap();
    let end = crate::model::LogEnd::default();
    let member = record.members.get_mut(&node(1)).unwrap();
    member.grant(life(1), Shown::Empty, 10, &end, 0);
    member.grant(life(2), Shown::Empty, 20, &end, 0);
    member.take_over(life(3), &end, 0);
    assert!(member.is_backups() && member.emptied);
    assert!(member.was_replaced(life(1)) && !member.was_taken_from(life(1)));
    assert!(member.was_replaced(life(2)) && member.was_taken_from(life(2)));
    assert_eq!((member.copy, member.copy_previous), (20, 10));
    check(&record);
}

#[test]
fn a_record_that_contradicts_itself_is_refused() {
    let good = {
        let mut record = record();
        let number = order(&mut record, 1, 2);
        record.hand_move(number, handed());
        record
    };
    let refused = |change: &dyn Fn(&mut Record)| {
        let mut record = good.clone();
        change(&mut record);
        Record::decode(&record.encode()).unwrap_err().to_string()
    };
    let moving = |record: &mut Record, change: &dyn Fn(&mut MoveRecord)| {
        change(record.moves.active.get_mut(&MoveNumber(1)).unwrap());
    };
    let first = Slot(0);
    let all = [SlotRange {
        first,
        last: Slot(u16::MAX),
    }];
    for text in [
        refused(&|record| record.moves.next = MoveNumber(1)),
        refused(&|record| record.moves.next = MoveNumber(0)),
        refused(&|record| moving(record, &|moving| moving.image = MoveNumber(2))),
        refused(&|record| moving(record, &|moving| moving.image = MoveNumber(0))),
        refused(&|record| moving(record, &|moving| moving.source = node(2))),
        refused(&|record| moving(record, &|moving| moving.target = node(7))),
        refused(&|record| moving(record, &|moving| moving.ranges = all.into())),
        refused(&|record| moving(record, &|moving| moving.ranges = Vec::new().into())),
        refused(&|record| {
            let state = MoveState::Flipped(handed(), RingEpoch(2));
            moving(record, &|moving| moving.state = state);
        }),
    ] {
        assert!(text.starts_with("section 5"), "{text}");
    }
}

#[test]
fn slots_are_gathered_into_ranges() {
    let slots = [0, 1, 2, 9, 11, 12, u16::MAX].map(Slot);
    let ranges = ranges_of(slots);
    let texts: Vec<_> = ranges
        .iter()
        .map(|range| (range.first.0, range.last.0))
        .collect();
    assert_eq!(texts, [(0, 2), (9, 9), (11, 12), (u16::MAX, u16::MAX)]);
    assert_eq!(moves::slot_count(&ranges), 7);
    let again: Vec<Slot> = ranges.iter().copied().flat_map(slots_of).collect();
    assert_eq!(again, slots);
}
