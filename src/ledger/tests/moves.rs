//! Slots that go from log to log, there and back again, under load: three ledgers with replicas
//! and folds, against one plain ledger for all of them.

use std::collections::BTreeMap;

use super::naive::Naive;
use super::{RING_KEY, TIME_START, currency, ledger, settings, user};
use crate::ledger::fold::{Delta, Source, image_sums, record_key};
use crate::ledger::{ImageFigures, Ledger, Stage, StageError, record_size};
use crate::model::{
    Activation, Adopt, AdoptedFile, Adoption, Entry, Flags, HandOver, HandOverHead, HandedSum,
    HandedSums, LogNumber, LogTime, MoveNumber, NodeId, Operation, OperationId, Place, Random,
    ResultCode, RingEpoch, Section, Slot, SlotRange, UserId, user_slot,
};

type Records = BTreeMap<Section, Vec<u8>>;

/// Parts of the ring that move.
const PART_COUNT: u16 = 16;

fn part(index: u16) -> SlotRange {
    SlotRange {
        first: Slot(index * 4_096),
        last: Slot(index * 4_096 + 4_095),
    }
}

/// One node's log.
struct Side {
    number: LogNumber,
    index: u64,
    live: Ledger,
    /// Replays the entries, from their bytes, with what images they need.
    replica: Ledger,
    /// Entries since the last checkpoint.
    tail: Vec<(Entry, Place, LogTime)>,
    checkpoint: Records,
    /// An adoption was logged and not settled: no checkpoint may end here.
    is_open: bool,
}

/// State that left its log.
#[derive(Clone)]
struct Image {
    number: MoveNumber,
    source_log: LogNumber,
    place: Place,
    ranges: Vec<SlotRange>,
    records: Records,
    figures: ImageFigures,
}

struct World {
    random: Random,
    time: u64,
    sides: Vec<Side>,
    owners: [usize; PART_COUNT as usize],
    naive: Naive,
    images: BTreeMap<MoveNumber, Image>,
    move_count: u64,
    epoch: u32,
    id_count: u128,
    came_back_count: u32,
}

impl Side {
    fn new(number: u16) -> Self {
        Self {
            number: LogNumber::new(number).unwrap(),
            index: 32,
            live: ledger(),
            replica: ledger(),
            tail: Vec::new(),
            checkpoint: Records::new(),
            is_open: false,
        }
    }
}

fn write_image(ledger: &Ledger, ranges: &[SlotRange]) -> Records {
    let mut records = Records::new();
    let written: Result<(), ()> = ledger.write_image(ranges, &mut |section, piece| {
        records.entry(section).or_default().extend_from_slice(piece);
        Ok(())
    });
    written.unwrap();
    records
}

fn stage(ledger: &mut Ledger, number: MoveNumber, image: &Image, piece: usize) -> Stage {
    while !ledger.sweep_step(3) {}
    ledger.stage_begin(number, &image.ranges).unwrap();
    for (section, records) in &image.records {
        for piece in records.chunks(record_size(*section) * piece) {
            ledger.stage_load(*section, piece).unwrap();
        }
    }
    ledger.stage_end().unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            random: Random::new(seed),
            time: TIME_START,
            sides: (1..=3).map(Side::new).collect(),
            owners: [0; PART_COUNT as usize],
            naive: Naive::default(),
            images: BTreeMap::new(),
            move_count: 0,
            epoch: 1,
            id_count: 0,
            came_back_count: 0,
        };
        for index in 0..PART_COUNT {
            let owner = usize::from(index % 3);
            world.owners[usize::from(index)] = owner;
            let entry = Entry::Activation(Activation::new(RingEpoch(1), &[part(index)]));
            world.log(owner, &entry);
        }
        world
    }

    fn next(&mut self, side: usize) -> (Place, LogTime) {
        self.time += 1_000_000;
        let side = &mut self.sides[side];
        side.index += 1;
        (
            Place::new(side.number, side.index * 128),
            LogTime(self.time),
        )
    }

    /// Logs an entry that is no change.
    fn log(&mut self, side: usize, entry: &Entry) -> Place {
        let (place, time) = self.next(side);
        let live = &mut self.sides[side].live;
        live.absorb(entry, place, time).unwrap();
        self.replay(side, entry, place, time);
        place
    }

    fn replay(&mut self, side: usize, entry: &Entry, place: Place, time: LogTime) {
        let entry = Entry::read(&entry.to_bytes()).unwrap();
        let side = &mut self.sides[side];
        side.replica.absorb(&entry, place, time).unwrap();
        side.tail.push((entry, place, time));
        assert_eq!(side.replica.digest(), side.live.digest());
        assert_eq!(side.replica.account_count(), side.live.account_count());
        assert_eq!(side.live.check_supply(), Ok(()));
        assert_eq!(side.replica.check_supply(), Ok(()));
    }

    fn user(&mut self) -> UserId {
        user(u128::from(self.random.below(60) + 1) << 40)
    }

    fn owner_of(&self, owner: UserId) -> usize {
        self.owners[usize::from(user_slot(RING_KEY, owner).0 >> 12)]
    }

    /// A change of some user at the log that has it, unless it is on its way.
    fn change(&mut self) {
        let owner = self.user();
        let side = self.owner_of(owner);
        let slot = user_slot(RING_KEY, owner);
        if !self.sides[side].live.owned(slot) {
            assert_eq!(self.sides[side].live.get(owner, 1), None, "hidden");
            let mut rows = Vec::new();
            assert!(!self.sides[side].live.list(owner, 0, 9, &mut rows) && rows.is_empty());
            return;
        }
        self.id_count += 1;
        let id = OperationId::from_parts(self.time / 1_000_000, self.id_count);
        let code = currency(u32::try_from(self.random.below(5) + 1).unwrap());
        let amount = self.random.below(90) + 1;
        let operation = match self.random.below(10) {
            0 => Operation::open(id, owner, code, settings()),
            1 => Operation::close(id, owner, code),
            2 => Operation::find(id, owner).with_flags(Flags::BURN),
            3 | 4 => Operation::debit(id, owner, code, amount),
            5 => Operation::debit(id, owner, code, amount).with_flags(Flags::UP_TO),
            _ => Operation::credit(id, owner, code, amount).with_flags(Flags::OPEN_IF_MISSING),
        };
        let (place, time) = self.next(side);
        let change = self.sides[side].live.apply(&operation, place, time);
        let expected = self.naive.apply(&operation, place, time);
        assert_eq!(
            (change.code, change.created),
            (expected.code, expected.created)
        );
        assert_eq!(i128::from(change.moved), expected.moved);
        let image = expected
            .account
            .map_or((0, 0), |now| (now.available, now.version));
        let found = (i128::from(change.image.available), change.image.version);
        assert_eq!(found, image);
        if change.code != ResultCode::Ok || !change.created {
            assert_eq!(
                change.previous, expected.previous,
                "the chain goes over logs"
            );
        }
        self.replay(side, &Entry::Change(change), place, time);
    }

    fn changes(&mut self, count: u64) {
        for _ in 0..self.random.below(count) {
            self.change();
            if self.random.one_in(40) {
                let side = usize::try_from(self.random.below(3)).unwrap();
                let ms = self.sides[side].live.horizon_ms();
                let ms = ms.max(self.time / 1_000_000 - self.random.below(90_000));
                self.log(side, &Entry::Horizon { ms });
            }
            if self.random.one_in(60) {
                let side = usize::try_from(self.random.below(3)).unwrap();
                self.sides[side].live.sweep_step(2);
                self.sides[side].replica.sweep_step(5);
            }
        }
    }

    /// What the plain ledger has in these slots.
    fn naive_sums(&self, ranges: &[SlotRange]) -> Vec<HandedSum> {
        let mut sums: BTreeMap<u32, HandedSum> = BTreeMap::new();
        for ((owner, code), account) in &self.naive.accounts {
            let slot = user_slot(RING_KEY, *owner);
            if ranges
                .iter()
                .any(|range| (range.first..=range.last).contains(&slot))
            {
                let sum = sums.entry(*code).or_default();
                sum.currency = *code;
                sum.account_count += 1;
                sum.available += account.available;
            }
        }
        sums.into_values().collect()
    }

    fn number(&mut self) -> MoveNumber {
        self.move_count += 1;
        MoveNumber(self.move_count)
    }

    /// Takes some parts away from a log. The move, and the parts.
    fn hand_over(&mut self, source: usize, target: usize) -> Option<(Image, Vec<u16>)> {
        let all = 0..PART_COUNT;
        let mut parts: Vec<u16> = all
            .filter(|index| self.owners[usize::from(*index)] == source)
            .collect();
        parts.retain(|_| self.random.one_in(2));
        if parts.is_empty() {
            return None;
        }
        let ranges: Vec<SlotRange> = parts.iter().map(|index| part(*index)).collect();
        let number = self.number();
        self.sides[source].live.watch(number, &ranges);
        loop {
            let count = u32::try_from(self.random.below(3) + 1).unwrap();
            if self.sides[source].live.watch_step(count) {
                break;
            }
            self.changes(12);
        }
        self.changes(30);
        let live = &self.sides[source].live;
        let sums = live.watch_sums();
        assert_eq!(sums, live.sums_of(&ranges));
        assert_eq!(sums, self.naive_sums(&ranges));
        let records = write_image(&self.sides[source].replica, &ranges);
        let mut of_live = write_image(live, &ranges);
        of_live.insert(
            Section::Ids,
            records.get(&Section::Ids).cloned().unwrap_or_default(),
        );
        assert!(
            records
                .iter()
                .all(|(section, records)| of_live[section] == *records)
        );
        let figures = live.image_figures(&ranges);
        assert_eq!(figures, self.sides[source].replica.image_figures(&ranges));
        let head = HandOverHead {
            number,
            ring_epoch: RingEpoch(self.epoch),
            target: NodeId::new(1).unwrap(),
            target_log: self.sides[target].number,
        };
        let mut entries = HandOver::list(&head, &ranges);
        entries.extend(HandedSums::list(&sums));
        let places: Vec<Place> = entries
            .iter()
            .map(|entry| self.log(source, entry))
            .collect();
        let live = &self.sides[source].live;
        assert_eq!(live.watched(), None);
        assert_eq!(live.gone(ranges[0].first), Some(number));
        assert!(ranges.iter().all(|range| live.slot_digest(range.last) == 0));
        let image = Image {
            number,
            source_log: self.sides[source].number,
            place: places[0],
            ranges,
            records,
            figures,
        };
        self.images.insert(number, image.clone());
        Some((image, parts))
    }

    /// Stages an image on a log and logs its adoption.
    fn adopt(&mut self, number: MoveNumber, image: &Image, target: usize) {
        let piece = usize::try_from(self.random.below(5) + 1).unwrap();
        if self.random.one_in(3) {
            // A first try that is given up half way.
            let live = &mut self.sides[target].live;
            while !live.sweep_step(7) {}
            live.stage_begin(MoveNumber(900), &image.ranges).unwrap();
            let accounts = &image.records[&Section::Meta];
            live.stage_load(Section::Meta, accounts).unwrap();
            if let Some(accounts) = image.records.get(&Section::Accounts) {
                let size = record_size(Section::Accounts);
                live.stage_load(Section::Accounts, &accounts[..size.min(accounts.len())])
                    .unwrap();
            }
            assert!(!live.stage_abort(number) && live.stage_abort(MoveNumber(900)));
            let again = live.stage_begin(number, &image.ranges);
            assert_eq!(again, Err(StageError::Unswept));
        }
        let staged = stage(&mut self.sides[target].live, number, image, piece);
        let ImageFigures {
            digest,
            account_count,
            horizon_ms,
            time,
        } = image.figures;
        let expected = Stage {
            number,
            digest,
            account_count,
            horizon_ms,
            time,
        };
        assert_eq!(staged, expected);
        self.changes(20);
        stage(&mut self.sides[target].replica, number, image, piece + 1);
        let adoption = self.adoption(number, image);
        for entry in adoption.entries() {
            self.log(target, &entry);
        }
        self.sides[target].is_open = true;
        assert!(horizon_ms <= self.sides[target].live.horizon_ms());
    }

    fn adoption(&self, number: MoveNumber, image: &Image) -> Adoption {
        Adoption {
            adopt: Adopt {
                number,
                ring_epoch: RingEpoch(self.epoch),
                source_log: image.source_log,
                slots_entry_count: 0,
                hand_over: image.place,
                digest: image.figures.digest,
                horizon_ms: image.figures.horizon_ms,
                time: image.figures.time,
            },
            file: AdoptedFile {
                number,
                image: image.number,
                size: 1,
                digest: 2,
                offset: 3,
                account_count: image.figures.account_count,
            },
            ranges: image.ranges.clone(),
        }
    }

    fn in_flight(&self) -> i128 {
        let supplies = self.sides.iter().flat_map(|side| side.live.supply());
        supplies
            .map(|(_, supply)| supply.adopted_out - supply.adopted_in)
            .sum()
    }

    /// One move, perhaps by way of a second target.
    fn move_parts(&mut self) {
        let source = usize::try_from(self.random.below(3)).unwrap();
        let mut target = (source + 1 + usize::try_from(self.random.below(2)).unwrap()) % 3;
        let Some((image, parts)) = self.hand_over(source, target) else {
            return;
        };
        let total: i128 = self
            .naive_sums(&image.ranges)
            .iter()
            .map(|sum| sum.available)
            .sum();
        assert_eq!(self.in_flight(), total);
        self.changes(20);
        self.checkpoints();
        let mut number = image.number;
        self.adopt(number, &image, target);
        self.changes(20);
        while self.random.one_in(3) {
            self.log(target, &Entry::Drop { number });
            self.sides[target].is_open = false;
            self.changes(20);
            // The source takes its own slots back, too.
            target = usize::try_from(self.random.below(3)).unwrap();
            number = self.number();
            self.adopt(number, &image, target);
        }
        self.came_back_count += u32::from(target == source);
        assert_eq!(self.in_flight(), total);
        self.epoch += 1;
        for entry in Activation::list(number, RingEpoch(self.epoch), &image.ranges) {
            self.log(target, &entry);
        }
        self.sides[target].is_open = false;
        assert_eq!(self.in_flight(), 0);
        for index in parts {
            self.owners[usize::from(index)] = target;
        }
        let live = &self.sides[target].live;
        let slots = image
            .ranges
            .iter()
            .flat_map(|range| range.first.0..=range.last.0);
        let digests = slots.map(|slot| live.slot_digest(Slot(slot)));
        assert_eq!(digests.fold(0, u128::wrapping_add), image.figures.digest);
        assert_eq!(
            live.slot_epoch(image.ranges[0].first),
            Some(RingEpoch(self.epoch))
        );
    }

    fn checkpoints(&mut self) {
        for side in 0..self.sides.len() {
            if !self.sides[side].is_open && self.random.one_in(2) {
                self.checkpoint(side);
            }
        }
    }

    /// Folds the tail in stretches; the result is what the replica dumps, and a ledger that loads
    /// it goes on as the replica.
    fn checkpoint(&mut self, side: usize) {
        let tail = std::mem::take(&mut self.sides[side].tail);
        let mut delta = Delta::new(RING_KEY);
        let mut sources = Vec::new();
        for (index, (entry, place, time)) in tail.iter().enumerate() {
            if let Entry::Adopt(_) = entry {
                let entries = tail[index..].iter().map(|(entry, ..)| entry);
                let adoption = Adoption::gather(entries).unwrap().unwrap();
                let image = self.images[&adoption.file.image].clone();
                let empty = Vec::new();
                let sums = image.records.get(&Section::Supply).unwrap_or(&empty);
                let source = delta.bring(&adoption, image_sums(sums).unwrap());
                sources.push((source, image.records));
            }
            delta.absorb(entry, *place, *time).unwrap();
            let next = tail.get(index + 1).map(|(entry, ..)| entry);
            let inside = matches!(next, Some(Entry::HandedSums(_) | Entry::HandOver(_)));
            if delta.is_whole() && !inside && self.random.one_in(30) {
                let whole = std::mem::replace(&mut delta, Delta::new(RING_KEY));
                self.merge(side, whole, std::mem::take(&mut sources));
            }
        }
        if !delta.is_empty() {
            self.merge(side, delta, sources);
        }
        self.compare(side);
    }

    fn compare(&mut self, side: usize) {
        let Side {
            live,
            replica,
            checkpoint,
            ..
        } = &mut self.sides[side];
        let mut loaded = ledger();
        for section in Section::ALL {
            let records = replica.records(section);
            assert!(
                checkpoint
                    .get(&section)
                    .is_none_or(|found| *found == records),
                "{section:?}"
            );
            loaded.load(section, &records).unwrap();
            if section != Section::Ids {
                assert!(live.records(section) == records, "live {section:?}");
            }
        }
        assert_eq!(loaded.check_supply(), Ok(()));
        assert_eq!(loaded.digest(), replica.digest());
        if self.random.one_in(2) {
            *replica = loaded;
        }
    }

    fn merge(&mut self, side: usize, delta: Delta, sources: Vec<(Source, Records)>) {
        let mut merge = delta.merge();
        let mut olds = vec![(
            Source::Checkpoint,
            std::mem::take(&mut self.sides[side].checkpoint),
        )];
        olds.extend(sources);
        for section in Section::ALL {
            let size = record_size(section);
            let mut all: Vec<(Source, &[u8])> = Vec::new();
            for (source, records) in &olds {
                let records = records.get(&section).map_or(&[][..], |records| records);
                all.extend(records.chunks(size).map(|record| (*source, record)));
            }
            all.sort_by_key(|(_, record)| record_key(section, record));
            let mut new = Vec::new();
            for (source, record) in all {
                merge.push(section, source, record, &mut new).unwrap();
            }
            merge.finish(section, &mut new).unwrap();
            self.sides[side].checkpoint.insert(section, new);
        }
    }
}

#[test]
fn slots_go_there_and_back_again() {
    let mut came_back_count = 0;
    for seed in 0..5 {
        let result = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            world.changes(200);
            for _ in 0..16 {
                world.move_parts();
                world.changes(60);
                world.checkpoints();
            }
            (0..3).for_each(|side| world.checkpoint(side));
            world.came_back_count
        });
        came_back_count += result.unwrap_or_else(|_| panic!("seed {seed}"));
    }
    assert!(0 < came_back_count);
}

#[test]
fn only_a_free_place_is_staged() {
    let mut world = World::new(1);
    let live = &mut world.sides[0].live;
    let own = StageError::Own(part(0).first);
    assert_eq!(live.stage_begin(MoveNumber(1), &[part(0)]), Err(own));
    let twice = [part(2), part(1)];
    assert_eq!(
        live.stage_begin(MoveNumber(1), &twice),
        Err(StageError::Ranges)
    );
    assert_eq!(
        live.stage_begin(MoveNumber(1), &[]),
        Err(StageError::Ranges)
    );
    assert_eq!(live.stage_begin(MoveNumber(1), &[part(1)]), Ok(()));
    let busy = StageError::Busy(MoveNumber(1));
    assert_eq!(live.stage_begin(MoveNumber(2), &[part(2)]), Err(busy));
    assert!(live.stage_end().is_err(), "nothing was loaded");
}

/// The entries of a step that is whole; then each of them missing, doubled or changed.
#[test]
fn a_step_is_whole_or_refused() {
    let mut world = World::new(3);
    for _ in 0..400 {
        world.change();
    }
    let ranges = [part(0), part(3)];
    let head = HandOverHead {
        number: MoveNumber(5),
        ring_epoch: RingEpoch(1),
        target: NodeId::new(1).unwrap(),
        target_log: LogNumber::new(2).unwrap(),
    };
    let sums = world.sides[0].live.sums_of(&ranges);
    assert!(3 < sums.len());
    let mut whole = HandOver::list(&head, &ranges);
    whole.extend(HandedSums::list(&sums));
    whole.push(Entry::Horizon { ms: 5 });
    let run = |world: &World, entries: &[Entry]| {
        let side = &world.sides[0];
        let mut ledger = ledger();
        for section in Section::ALL {
            ledger.load(section, &side.live.records(section)).unwrap();
        }
        let mut index = side.index;
        let mut absorb = |entry: &Entry| {
            index += 1;
            let place = Place::new(side.number, index * 128);
            ledger.absorb(entry, place, LogTime(world.time + index))
        };
        entries.iter().try_for_each(&mut absorb)
    };
    assert_eq!(run(&world, &whole), Ok(()));
    for index in 0..whole.len() - 1 {
        let mut entries = whole.clone();
        entries.remove(index);
        assert!(run(&world, &entries).is_err(), "without {index}");
        let mut entries = whole.clone();
        entries.insert(index, entries[index]);
        assert!(run(&world, &entries).is_err(), "{index} twice");
        let mut entries = whole.clone();
        entries.insert(index + 1, Entry::Horizon { ms: 5 });
        let is_last = index + 2 == whole.len();
        assert_eq!(
            run(&world, &entries).is_err(),
            !is_last,
            "another entry behind {index}"
        );
    }
    let mut other = sums;
    other[0].account_count += 1;
    let mut entries = HandOver::list(&head, &ranges);
    entries.extend(HandedSums::list(&other));
    assert!(run(&world, &entries).is_err(), "an account too many");
    let mut entries = HandOver::list(&head, &ranges);
    entries.extend(HandOver::list(&head, &ranges));
    assert!(run(&world, &entries).is_err(), "handed over twice");
    for stray in [
        Entry::Drop {
            number: MoveNumber(5),
        },
        Entry::Activation(Activation::of_move(MoveNumber(5), RingEpoch(2), &ranges)),
    ] {
        assert!(run(&world, &[stray]).is_err(), "{stray:?} of nothing");
    }
}

#[test]
fn an_adoption_must_be_what_is_staged() {
    let mut world = World::new(7);
    for _ in 0..400 {
        world.change();
    }
    let (image, _) = loop {
        if let Some(handed) = world.hand_over(0, 1) {
            break handed;
        }
    };
    let adoption = world.adoption(image.number, &image);
    let run = |world: &World, spoil: &dyn Fn(&mut Adoption), behind: &[Entry]| {
        let side = &world.sides[1];
        let mut ledger = ledger();
        for section in Section::ALL {
            ledger.load(section, &side.live.records(section)).unwrap();
        }
        let staged = stage(&mut ledger, image.number, &image, 3);
        assert_eq!(staged.digest, image.figures.digest);
        let mut adoption = adoption.clone();
        spoil(&mut adoption);
        let mut index = side.index;
        let mut absorb = |entry: &Entry| {
            index += 1;
            let place = Place::new(side.number, index * 128);
            ledger.absorb(entry, place, LogTime(world.time + index))
        };
        let entries = adoption.entries();
        entries.iter().chain(behind).try_for_each(&mut absorb)
    };
    let activate = |number, ranges: &[SlotRange]| Activation::list(number, RingEpoch(2), ranges);
    let whole = activate(image.number, &image.ranges);
    assert_eq!(run(&world, &|_| (), &whole), Ok(()));
    for spoil in [
        |adoption: &mut Adoption| adoption.adopt.digest ^= 1,
        |adoption: &mut Adoption| adoption.adopt.horizon_ms += 1,
        |adoption: &mut Adoption| adoption.adopt.time.0 += 1,
        |adoption: &mut Adoption| adoption.file.account_count += 1,
        |adoption: &mut Adoption| adoption.ranges[0].first.0 += 1,
        |adoption: &mut Adoption| adoption.ranges.push(part(15)),
        |adoption: &mut Adoption| {
            adoption.adopt.number.0 += 1;
            adoption.file.number.0 += 1;
        },
    ] {
        assert!(run(&world, &spoil, &[]).is_err());
    }
    let other = MoveNumber(image.number.0 + 1);
    assert!(run(&world, &|_| (), &activate(other, &image.ranges)).is_err());
    let mut half = image.ranges.clone();
    half[0].last.0 -= 1;
    let mut short = activate(image.number, &half);
    short.push(Entry::Horizon { ms: u64::MAX >> 20 });
    assert!(run(&world, &|_| (), &short).is_err(), "a slot is missing");
    let drop = Entry::Drop { number: other };
    assert!(run(&world, &|_| (), &[drop]).is_err());
}
