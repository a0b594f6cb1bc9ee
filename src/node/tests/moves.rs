//! Slots that leave and slots that come, step by step, with crashes between the steps.

use bytes::BytesMut;

use super::backup::{RING_KEY, TestBackup};
use super::disk::{Checkpoint, TestDisk};
use super::world::{START_MS, World, coin, credit, get, id, log_number, user};
use super::worth_a_block;
use crate::ledger::{ImageFigures, Ledger, LedgerOptions};
use crate::limits;
use crate::log::{Verify, blocks};
use crate::model::{
    Activation, Entry, LogEnd, LogNumber, LogTime, MoveNumber, NodeId, Operation, Place,
    ReceiptFlags, ResultCode, RingEpoch, Section, Slot, SlotRange, to_u64, user_slot,
};
use crate::protocol::{Message, MoveOrder, MoveStep, SlotRanges, put_slot_range};
use crate::role::{DiskFault, DiskRequest, ExitCode};

const NS: u64 = 1_000_000;

/// The upper half of the ring moves in all these tests.
const UPPER: SlotRange = SlotRange {
    first: Slot(0x8000),
    last: Slot(u16::MAX),
};
const LOWER: SlotRange = SlotRange {
    first: Slot(0),
    last: Slot(0x7fff),
};

fn other_log() -> LogNumber {
    LogNumber::new(2).unwrap()
}

/// The `n`th user of a half.
fn user_in(half: SlotRange, n: usize) -> u128 {
    let is_in = |number: &u128| {
        let slot = user_slot(RING_KEY, user(*number));
        (half.first..=half.last).contains(&slot)
    };
    (1..).filter(is_in).nth(n).unwrap()
}

/// An order for the node, of the upper half.
fn order(world: &mut World, step: MoveStep, number: u64, epoch: u32, image: Option<&Image>) {
    let mut ranges = BytesMut::new();
    if step != MoveStep::Drop {
        put_slot_range(&mut ranges, UPPER);
    }
    let figures = image.map(|image| image.figures);
    let order = MoveOrder {
        step,
        number: MoveNumber(number),
        image: MoveNumber(image.map_or(number, |image| image.number)),
        ring_epoch: RingEpoch(epoch),
        peer: NodeId::new(2).unwrap(),
        peer_log: other_log(),
        place: image.map_or(Place(0), |image| image.place),
        image_size: image.map_or(0, |image| to_u64(image.bytes.len())),
        image_digest: image.map_or(0, |_| 77),
        image_offset: image.map_or(0, |image| image.place.offset()),
        slot_digest: figures.map_or(0, |figures| figures.digest),
        account_count: figures.map_or(0, |figures| figures.account_count),
        horizon_ms: figures.map_or(0, |figures| figures.horizon_ms),
        time: figures.map_or(LogTime(0), |figures| figures.time),
        ranges: SlotRanges::new(&ranges).unwrap(),
    };
    world.backup.say(&Message::MoveOrder(order));
}

fn told(world: &World) -> Vec<(MoveStep, u64)> {
    let told = world.backup.told.iter();
    told.map(|told| (told.step, told.number.0)).collect()
}

/// All entries of the node's log, block by block.
fn logged(world: &World) -> Vec<Vec<Entry>> {
    let verify = Verify {
        log: log_number(),
        cluster: super::world::cluster(),
        segment_size: super::SEGMENT_SIZE,
    };
    let read = |bytes: &bytes::Bytes| {
        let block = blocks(bytes, verify).next().unwrap().unwrap();
        let entries = block.entries();
        entries
            .map(|(_, _, bytes)| Entry::read(bytes).unwrap())
            .collect()
    };
    world
        .disk
        .files(|files| files.blocks.iter().map(|(_, bytes)| read(bytes)).collect())
}

fn count_of(world: &World, is_it: impl Fn(&Entry) -> bool) -> usize {
    let logged = logged(world);
    logged.iter().flatten().filter(|entry| is_it(entry)).count()
}

// ---- the source ----

/// The table from here on gives the node its lower half alone.
fn flip_away(world: &mut World, epoch: u32) {
    world.backup.ring_epoch = RingEpoch(epoch);
    world.backup.slots = LOWER;
    world.backup.tell_table();
    world.run();
}

#[test]
fn slots_are_handed_over_in_a_block_of_their_own() {
    let mut world = World::serving();
    let (low, high) = (user_in(LOWER, 0), user_in(UPPER, 0));
    assert_eq!(world.one(credit(1, high, 50)).code, ResultCode::Ok);
    assert_eq!(world.one(credit(2, low, 7)).code, ResultCode::Ok);
    world.backup.holds_acks = true;
    let before = world.send(&[credit(3, high, 5)]);
    world.run();
    order(&mut world, MoveStep::HandOver, 9, 1, None);
    world.run();
    // What comes now is not applied, and needs no commit to be told so.
    let behind = world.send(&[credit(4, high, 5), get(high), credit(5, low, 5)]);
    world.run();
    assert_eq!(world.codes(behind), []);
    assert_eq!(world.codes(before), []);
    assert!(told(&world).is_empty(), "it is not committed yet");
    world.backup.release_acks();
    world.run();
    assert_eq!(world.codes(before), [ResultCode::Ok]);
    let codes = [ResultCode::Moving, ResultCode::Moving, ResultCode::Ok];
    assert_eq!(world.codes(behind), codes);
    assert_eq!(world.answer(behind).epoch, 1);
    assert_eq!(told(&world), [(MoveStep::HandOver, 9)]);

    let logged = logged(&world);
    let block = logged.iter().find(|block| {
        let mut entries = block.iter();
        entries.any(|entry| matches!(entry, Entry::HandOver(_)))
    });
    let [Entry::HandOver(hand_over), Entry::HandedSums(sums)] = &block.unwrap()[..] else {
        panic!("{block:?}");
    };
    assert_eq!(hand_over.number, MoveNumber(9));
    assert_eq!(
        (hand_over.target.get(), hand_over.target_log),
        (2, other_log())
    );
    assert_eq!(hand_over.slots.as_slice(), [UPPER]);
    let [sum] = sums.sums() else {
        panic!("{sums:?}");
    };
    assert_eq!((sum.account_count, sum.available), (1, 55));

    flip_away(&mut world, 2);
    let codes = world.ask(&[get(high), get(low)]);
    assert_eq!(codes.receipts[0].code, ResultCode::NotOwner);
    assert_eq!((codes.receipts[1].available, codes.epoch), (12, 2));
}

#[test]
fn a_hand_over_is_told_again_and_not_done_again() {
    let mut world = World::serving();
    let high = user_in(UPPER, 0);
    world.one(credit(1, high, 50));
    order(&mut world, MoveStep::HandOver, 9, 1, None);
    world.run();
    order(&mut world, MoveStep::HandOver, 9, 1, None);
    world.run();
    let mut world = world.restart();
    world.serve();
    assert_eq!(world.one(get(high)).code, ResultCode::Moving);
    order(&mut world, MoveStep::HandOver, 9, 1, None);
    world.run();
    assert_eq!(told(&world), [(MoveStep::HandOver, 9); 3]);
    assert_eq!(
        count_of(&world, |entry| matches!(entry, Entry::HandOver(_))),
        1
    );
    // It is not given back by a table alone.
    assert_eq!(world.one(credit(2, high, 1)).code, ResultCode::Moving);
    // Somebody else's number does not move what is gone.
    order(&mut world, MoveStep::HandOver, 10, 1, None);
    world.run();
    assert!(world.has_said("not handed over"));
    assert_eq!(told(&world).len(), 3);
}

#[test]
fn what_was_ordered_is_forgotten_with_the_link() {
    let mut options = super::world::options(100);
    options.limits.block_in_flight_count_max = 2;
    let mut world = World::with(options, TestDisk::new(), TestBackup::new());
    world.serve();
    // No block may be built: the hand-over has to wait.
    world.backup.holds_acks = true;
    world.send(&[credit(1, user_in(LOWER, 0), 1)]);
    world.run();
    world.send(&worth_a_block(2, user_in(LOWER, 0)));
    world.run();
    order(&mut world, MoveStep::HandOver, 9, 1, None);
    world.run();
    world.cut_link();
    world.backup.release_acks();
    world.mend_link();
    assert_eq!(
        count_of(&world, |entry| matches!(entry, Entry::HandOver(_))),
        0
    );
    assert_eq!(
        world.one(credit(7, user_in(UPPER, 0), 1)).code,
        ResultCode::Ok
    );
    order(&mut world, MoveStep::HandOver, 9, 1, None);
    world.run();
    assert_eq!(told(&world), [(MoveStep::HandOver, 9)]);
}

#[test]
fn parked_operations_of_users_who_leave_are_told_at_once() {
    let mut world = World::serving();
    let (low, high) = (user_in(LOWER, 0), user_in(UPPER, 0));
    for (number, who) in [(1, low), (2, high)] {
        world.one(credit(number, who, 5));
    }
    world.disk.files(|files| {
        files.cold_below = files.end().offset;
        files.is_cold_lost = true;
    });
    world.backup.holds_entries = true;
    let request = world.send(&[
        credit(1, low, 5),
        credit(2, high, 5),
        credit(3, high, 5),
        credit(4, low, 5),
    ]);
    world.run();
    assert_eq!(world.codes(request), []);
    order(&mut world, MoveStep::HandOver, 9, 1, None);
    world.run();
    assert_eq!(world.codes(request), [ResultCode::Moving; 2]);
    world.backup.release_entries();
    world.run();
    let moving = ResultCode::Moving;
    assert_eq!(
        world.codes(request),
        [ResultCode::Ok, moving, moving, ResultCode::Ok]
    );
}

/// Until the flip a lost backup is refilled from what its nodes have.
#[test]
fn the_own_checkpoint_stays_below_a_hand_over_until_the_flip() {
    let mut world = World::serving();
    let fill = |world: &mut World, from: u128| {
        for batch in 0..6_u128 {
            let operations: Vec<Operation> = (0..8_000)
                .map(|number| credit(from + batch * 8_000 + number, user_in(LOWER, 0), 1))
                .collect();
            world.ask(&operations);
        }
        world.pass(2 * limits::UPKEEP_MS);
    };
    let checkpoints = |world: &World| -> Vec<LogEnd> {
        let made = world
            .disk
            .requests
            .iter()
            .filter_map(|request| match request {
                DiskRequest::MakeCheckpoint { through, .. } => Some(*through),
                _ => None,
            });
        made.collect()
    };
    let before = world.disk.files(|files| files.end());
    order(&mut world, MoveStep::HandOver, 9, 1, None);
    world.run();
    fill(&mut world, 1);
    assert!(
        checkpoints(&world)
            .iter()
            .all(|through| through.seq <= before.seq)
    );
    // A restart knows it from the log.
    let mut world = world.restart();
    world.serve();
    fill(&mut world, 100_000);
    assert!(
        checkpoints(&world)
            .iter()
            .all(|through| through.seq <= before.seq)
    );
    flip_away(&mut world, 2);
    fill(&mut world, 200_000);
    let last = *checkpoints(&world).last().unwrap();
    assert!(before.seq < last.seq, "{last:?}");
}

#[test]
fn orders_that_are_none_end_the_connection() {
    let send = |change: &dyn Fn(&mut MoveOrder<'_>)| {
        let mut world = World::serving();
        let mut ranges = BytesMut::new();
        put_slot_range(&mut ranges, UPPER);
        let mut order = MoveOrder {
            step: MoveStep::Adopt,
            number: MoveNumber(1),
            image: MoveNumber(1),
            ring_epoch: RingEpoch(1),
            peer: NodeId::new(2).unwrap(),
            peer_log: other_log(),
            place: Place::new(other_log(), 8_192),
            image_size: 0,
            image_digest: 0,
            image_offset: 0,
            slot_digest: 0,
            account_count: 0,
            horizon_ms: 0,
            time: LogTime(0),
            ranges: SlotRanges::new(&ranges).unwrap(),
        };
        change(&mut order);
        world.backup.say(&Message::MoveOrder(order));
        world.run();
        world.backup.malformed.len()
    };
    assert_eq!(send(&|_| ()), 0);
    assert_eq!(send(&|order| order.number = MoveNumber(0)), 1);
    assert_eq!(send(&|order| order.image = MoveNumber(0)), 1);
    assert_eq!(
        send(&|order| order.place = Place::new(log_number(), 8_192)),
        1
    );
    assert_eq!(
        send(&|order| order.ranges = SlotRanges::new(&[]).unwrap()),
        1
    );
}

// ---- the target ----

/// What another log handed over: its upper half.
struct Image {
    number: u64,
    place: Place,
    figures: ImageFigures,
    bytes: bytes::Bytes,
    entries: Vec<(Place, [u8; 128])>,
}

/// An image cut for move `number`: `count` users of the upper half have 100 and more each. The
/// log's time was `ahead_ms` after the start of the test.
fn image(number: u64, count: usize, ahead_ms: u64) -> Image {
    let mut ledger = Ledger::new(LedgerOptions {
        ring_key: RING_KEY,
        id_count_max: 1 << 20,
        keep_ids: true,
    });
    let mut offset = 8_192;
    let mut time = (START_MS + ahead_ms) * NS;
    let mut next = || {
        offset += 128;
        time += 1;
        (Place::new(other_log(), offset), LogTime(time))
    };
    let (place, at) = next();
    let activation = Entry::Activation(Activation::new(RingEpoch(1), &[UPPER]));
    ledger.absorb(&activation, place, at).unwrap();
    let mut entries = Vec::new();
    for index in 0..count {
        let (place, at) = next();
        let change = ledger.apply(&there(index), place, at);
        assert_eq!(change.code, ResultCode::Ok);
        entries.push((place, change.to_bytes()));
    }
    let figures = ledger.image_figures(&[UPPER]);
    let mut sections: Vec<(Section, Vec<u8>)> =
        Section::ALL.map(|section| (section, Vec::new())).to_vec();
    ledger
        .write_image(&[UPPER], &mut |section, records: &[u8]| {
            let found = sections.iter_mut().find(|(known, _)| *known == section);
            found.unwrap().1.extend_from_slice(records);
            Ok::<(), ()>(())
        })
        .unwrap();
    let file = Checkpoint {
        end: LogEnd::default(),
        sections: sections
            .into_iter()
            .map(|(section, records)| (section, records.into()))
            .collect(),
    };
    let (place, _) = next();
    Image {
        number,
        place,
        figures,
        bytes: file.to_bytes(),
        entries,
    }
}

/// The credit that the other log had for the `index`th user of the upper half.
fn there(index: usize) -> Operation {
    let amount = 100 + to_u64(index);
    let number = 1_000_000 + u128::from(to_u64(index));
    credit(number, user_in(UPPER, index), amount)
}

const COUNT: usize = 60;

/// A node that owns the lower half, and a backup that has the image of move 9.
fn target() -> (World, Image) {
    let mut world = World::new();
    world.backup.slots = LOWER;
    world.serve();
    let image = image(9, COUNT, 0);
    give(&mut world, &image);
    (world, image)
}

fn give(world: &mut World, image: &Image) {
    world
        .backup
        .images
        .insert(image.number, image.bytes.clone());
    world.backup.entries.extend(image.entries.iter().copied());
}

fn flip_here(world: &mut World, epoch: u32) {
    world.backup.ring_epoch = RingEpoch(epoch);
    world.backup.more_slots = Some(UPPER);
    world.backup.tell_table();
}

fn check_served(world: &mut World) {
    let users = (0..COUNT).map(|index| get(user_in(UPPER, index)));
    let shown = world.ask(&users.collect::<Vec<_>>());
    for (index, receipt) in shown.receipts.iter().enumerate() {
        assert_eq!(
            receipt.code,
            ResultCode::Ok,
            "user {index}: {:?}",
            world.said
        );
        assert_eq!(receipt.available, 100 + i64::try_from(index).unwrap());
    }
    // What was acknowledged there is known here; the proof comes from the backup.
    let asked = world.backup.entry_ask_count;
    let again = world.ask(&[there(0), there(1)]);
    for receipt in &again.receipts {
        assert_eq!(receipt.code, ResultCode::Ok);
        assert!(receipt.flags.has(ReceiptFlags::REPLAYED), "{receipt:?}");
        assert_eq!(receipt.place.log(), Some(other_log()));
    }
    assert_eq!(world.backup.entry_ask_count, asked + 2);
    let other = Operation::debit(id(1_000_000), user(user_in(UPPER, 0)), coin(), 1);
    assert_eq!(world.one(other).code, ResultCode::IdReused);
}

#[test]
fn slots_are_adopted_and_served_from_their_activation_on() {
    let (mut world, image) = target();
    let (low, high) = (user_in(LOWER, 0), user_in(UPPER, 0));
    world.one(credit(1, low, 5));
    order(&mut world, MoveStep::Adopt, 9, 1, Some(&image));
    world.run();
    assert_eq!(told(&world), [(MoveStep::Adopt, 9)]);
    assert_eq!(world.one(get(high)).code, ResultCode::NotOwner);
    world.pass(limits::LINK_PING_MS);
    let digest = world.backup.beats.last().unwrap().digest;
    flip_here(&mut world, 2);
    order(&mut world, MoveStep::Activate, 9, 2, Some(&image));
    world.run();
    assert_eq!(
        told(&world),
        [(MoveStep::Adopt, 9), (MoveStep::Activate, 9)]
    );
    world.pass(limits::LINK_PING_MS);
    let sum = digest.wrapping_add(image.figures.digest);
    let beat = *world.backup.beats.last().unwrap();
    assert_eq!((beat.digest, beat.account_count), (sum, to_u64(COUNT) + 1));
    check_served(&mut world);
    assert_eq!(world.one(credit(2, high, 1)).available, 101);
    for block in logged(&world) {
        let is_step = |entry: &Entry| matches!(entry, Entry::Adopt(_) | Entry::Activation(_));
        let is_change = |entry: &Entry| matches!(entry, Entry::Change(_));
        assert!(!(block.iter().any(is_step) && block.iter().any(is_change)));
    }
    let mut world = world.restart();
    world.serve();
    assert_eq!(world.one(get(high)).available, 101);
    assert_eq!(world.one(get(low)).available, 5);
}

#[test]
fn log_time_rises_above_the_source_s() {
    let mut world = World::new();
    world.backup.slots = LOWER;
    world.serve();
    // Within what the backup's clock allows, but ahead of this machine's.
    let image = image(9, 3, 700);
    give(&mut world, &image);
    order(&mut world, MoveStep::Adopt, 9, 1, Some(&image));
    world.run();
    assert_eq!(told(&world), [(MoveStep::Adopt, 9)]);
    assert!(image.figures.time < world.disk.files(|files| files.end()).time);
    let receipt = world.one(credit(1, user_in(LOWER, 0), 5));
    assert!(image.figures.time.0 < receipt.version, "{receipt:?}");
}

#[test]
fn an_image_that_is_not_what_was_handed_over_is_not_taken() {
    let (mut world, image) = target();
    let right = image.bytes.clone();
    let wrong = {
        let other = super::moves::image(9, COUNT + 1, 0);
        other.bytes
    };
    world.backup.images.insert(9, wrong);
    order(&mut world, MoveStep::Adopt, 9, 1, Some(&image));
    world.run();
    assert!(told(&world).is_empty());
    assert!(world.has_said("its digest differs"));
    // It is cut anew; the node fetches it after a pause.
    world.backup.images.insert(9, right);
    world.pass(1_200);
    assert_eq!(told(&world), [(MoveStep::Adopt, 9)]);
}

#[test]
fn an_image_that_the_backup_does_not_have_is_waited_for() {
    let (mut world, image) = target();
    let bytes = world.backup.images.remove(&9).unwrap();
    order(&mut world, MoveStep::Adopt, 9, 1, Some(&image));
    world.run();
    assert!(world.has_said("the backup has no image 9"));
    world.backup.images.insert(9, bytes);
    world.pass(1_200);
    assert_eq!(told(&world), [(MoveStep::Adopt, 9)]);
}

#[test]
fn a_copy_goes_on_where_the_link_was_lost() {
    let (mut world, image) = target();
    assert!(4_000 < image.bytes.len());
    order(&mut world, MoveStep::Adopt, 9, 1, Some(&image));
    while world.backup.image_asks.len() < 3 {
        world.run_turns(1);
    }
    world.cut_link();
    world.mend_link();
    // Not adopted before it is ordered again.
    assert!(told(&world).is_empty());
    order(&mut world, MoveStep::Adopt, 9, 1, Some(&image));
    world.run();
    assert_eq!(told(&world), [(MoveStep::Adopt, 9)]);
    let asks = &world.backup.image_asks;
    assert_eq!(
        asks.iter().filter(|offset| **offset == 0).count(),
        1,
        "{asks:?}"
    );
}

#[test]
fn what_is_staged_is_dropped_on_order() {
    let (mut world, image) = target();
    order(&mut world, MoveStep::Adopt, 9, 1, Some(&image));
    world.run();
    order(&mut world, MoveStep::Drop, 9, 1, None);
    world.run();
    order(&mut world, MoveStep::Drop, 9, 1, None);
    world.run();
    let drops = [
        (MoveStep::Adopt, 9),
        (MoveStep::Drop, 9),
        (MoveStep::Drop, 9),
    ];
    assert_eq!(told(&world), drops);
    assert_eq!(
        count_of(&world, |entry| matches!(entry, Entry::Drop { .. })),
        1
    );
    // The same image under another number, after a restart too.
    let mut world = world.restart();
    world.serve();
    order(&mut world, MoveStep::Adopt, 10, 1, Some(&image));
    flip_here(&mut world, 2);
    order(&mut world, MoveStep::Activate, 10, 2, Some(&image));
    world.run();
    assert_eq!(
        told(&world)[3..],
        [(MoveStep::Adopt, 10), (MoveStep::Activate, 10)]
    );
    check_served(&mut world);
}

/// The table gives the slots to this node already: that alone activates nothing.
#[test]
fn a_table_does_not_activate_what_is_staged() {
    let (mut world, image) = target();
    order(&mut world, MoveStep::Adopt, 9, 1, Some(&image));
    world.run();
    let high = user_in(UPPER, 0);
    flip_here(&mut world, 2);
    world.run();
    assert_eq!(world.one(get(high)).code, ResultCode::NotOwner);
    let mut world = world.restart();
    world.serve();
    assert_eq!(world.one(get(high)).code, ResultCode::NotOwner);
    order(&mut world, MoveStep::Activate, 9, 2, Some(&image));
    world.run();
    check_served(&mut world);
    // The order comes again after it was done.
    order(&mut world, MoveStep::Activate, 9, 2, Some(&image));
    world.run();
    // Behind the restart the adoption was said once more.
    let steps = [MoveStep::Adopt, MoveStep::Adopt, MoveStep::Activate];
    assert_eq!(told(&world)[..3], steps.map(|step| (step, 9)));
    assert_eq!(told(&world)[3..], [(MoveStep::Activate, 9)]);
}

/// An activation that comes before its table waits for it.
#[test]
fn an_activation_waits_for_its_table() {
    let (mut world, image) = target();
    order(&mut world, MoveStep::Adopt, 9, 1, Some(&image));
    order(&mut world, MoveStep::Activate, 9, 2, Some(&image));
    world.run();
    assert_eq!(told(&world), [(MoveStep::Adopt, 9)]);
    flip_here(&mut world, 2);
    world.run();
    assert_eq!(told(&world)[1..], [(MoveStep::Activate, 9)]);
    check_served(&mut world);
}

#[test]
fn a_crash_at_any_moment_changes_nothing() {
    for turns in 0..40 {
        for is_image_lost in [false, true] {
            let (mut world, image) = target();
            order(&mut world, MoveStep::Adopt, 9, 1, Some(&image));
            world.run_turns(turns);
            world = world.restart();
            if is_image_lost {
                world.disk.files(|files| files.images.clear());
            }
            world.serve();
            order(&mut world, MoveStep::Adopt, 9, 1, Some(&image));
            world.run();
            assert_eq!(told(&world).last(), Some(&(MoveStep::Adopt, 9)));
            flip_here(&mut world, 2);
            order(&mut world, MoveStep::Activate, 9, 2, Some(&image));
            world.run_turns(turns.div_euclid(4));
            world = world.restart();
            if is_image_lost {
                world.disk.files(|files| files.images.clear());
            }
            world.serve();
            order(&mut world, MoveStep::Activate, 9, 2, Some(&image));
            world.run();
            assert_eq!(
                told(&world).last(),
                Some(&(MoveStep::Activate, 9)),
                "{turns}"
            );
            check_served(&mut world);
            assert_eq!(
                count_of(&world, |entry| matches!(entry, Entry::Adopt(_))),
                1
            );
        }
    }
}

/// The folder is lost: log and image come from the backup.
#[test]
fn an_empty_folder_is_refilled_through_an_adoption() {
    let (mut world, image) = target();
    world.one(credit(1, user_in(LOWER, 0), 5));
    order(&mut world, MoveStep::Adopt, 9, 1, Some(&image));
    flip_here(&mut world, 2);
    order(&mut world, MoveStep::Activate, 9, 2, Some(&image));
    world.run();
    world.one(credit(2, user_in(UPPER, 5), 5));
    for turns in 0..30 {
        world = world.restart();
        world.disk = TestDisk::new();
        world.run_turns(turns);
        world.cut_link();
        world.mend_link();
        world.serve();
        assert_eq!(world.one(get(user_in(UPPER, 5))).available, 110);
    }
    check_served_but_one(&mut world);
}

fn check_served_but_one(world: &mut World) {
    assert_eq!(world.one(get(user_in(UPPER, 4))).available, 104);
    assert_eq!(world.one(get(user_in(LOWER, 0))).available, 5);
}

#[test]
fn an_adoption_whose_image_nobody_has_stops_the_node() {
    let (mut world, image) = target();
    order(&mut world, MoveStep::Adopt, 9, 1, Some(&image));
    world.run();
    let mut world = world.restart();
    world.disk.files(|files| files.images.clear());
    world.backup.images.clear();
    world.run();
    world.assert_exit(ExitCode::Damage, "neither here nor at the backup");
}

#[test]
fn images_go_once_a_checkpoint_is_above_their_activation() {
    let (mut world, image) = target();
    order(&mut world, MoveStep::Adopt, 9, 1, Some(&image));
    flip_here(&mut world, 2);
    order(&mut world, MoveStep::Activate, 9, 2, Some(&image));
    world.run();
    let images = |world: &World| world.disk.files(|files| files.images.len());
    assert_eq!(images(&world), 1);
    world = world.restart();
    // A file that nothing refers to any more.
    let stray = image.bytes.clone();
    world.disk.files(|files| files.images.insert(3, stray));
    world.serve();
    assert_eq!(images(&world), 1);
    for batch in 0..6_u128 {
        let operations: Vec<Operation> = (0..8_000)
            .map(|number| credit(1 + batch * 8_000 + number, user_in(LOWER, 0), 1))
            .collect();
        world.ask(&operations);
    }
    world.pass(2 * limits::UPKEEP_MS);
    assert_eq!(images(&world), 0);
}

/// A fold of the own log cannot read the image: it is fetched again, and the fold tried later.
#[test]
fn an_image_that_a_checkpoint_misses_is_fetched_again() {
    let (mut world, image) = target();
    order(&mut world, MoveStep::Adopt, 9, 1, Some(&image));
    world.run();
    world.disk.files(|files| files.images.clear());
    world.disk.checkpoint_fault = Some(DiskFault::NoMoveFile(MoveNumber(9)));
    for batch in 0..6_u128 {
        let operations: Vec<Operation> = (0..8_000)
            .map(|number| credit(1 + batch * 8_000 + number, user_in(LOWER, 0), 1))
            .collect();
        world.ask(&operations);
    }
    world.pass(2 * limits::UPKEEP_MS);
    assert_eq!(world.disk.files(|files| files.images.len()), 1);
    assert!(world.exit.is_none());
}
