//! A list of operations on a ledger, on one that replays the entries from their bytes, on a plain
//! model, and through folds and checkpoints of any length: all agree, always.

use std::collections::BTreeMap;

use super::naive::Naive;
use super::{RING_KEY, ledger};
use crate::ledger::fold::Delta;
use crate::ledger::{Ledger, Seen, record_size};
use crate::limits::{AMOUNT_MAX, ID_AHEAD_MS_MAX};
use crate::model::{
    AccountSettings, Activation, Choices, Currency, Entry, EpochMark, Flags, Generation, LogNumber,
    LogTime, Operation, OperationId, Place, RingEpoch, Section, Slot, SlotRange, Term, UserId,
    to_usize,
};

/// Entries of one list at most.
const ENTRY_COUNT_MAX: u64 = 600;

/// Log time at which a list begins.
const TIME_START_MS: u64 = 1_750_000_000_000;

/// The bytes are a list of operations, horizons, activations, folds and restarts.
pub fn check_operations(bytes: &[u8]) {
    let mut run = Run::new(bytes);
    // A fold walks all slots of the ring, which is most of the time of a short list.
    let folds = run.choices.one_in(4);
    while !run.choices.is_empty() && run.entry_count < ENTRY_COUNT_MAX {
        run.step();
    }
    run.compare();
    if folds {
        run.fold();
        run.compare();
    }
}

struct Run<'a> {
    choices: Choices<'a>,
    entry_count: u64,
    time_ms: u64,
    live: Ledger,
    replica: Ledger,
    naive: Naive,
    /// Where each id lies that was ever applied.
    ids: BTreeMap<(UserId, OperationId), Place>,
    /// Ids in the order in which they came, to be used again.
    used: Vec<(UserId, OperationId)>,
    /// Entries since the last checkpoint.
    tail: Vec<(Entry, Place, LogTime)>,
    checkpoint: BTreeMap<Section, Vec<u8>>,
    epoch: u32,
    term: u64,
}

impl<'a> Run<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            choices: Choices::new(bytes),
            entry_count: 0,
            time_ms: TIME_START_MS,
            live: ledger(),
            replica: ledger(),
            naive: Naive::default(),
            ids: BTreeMap::new(),
            used: Vec::new(),
            tail: Vec::new(),
            checkpoint: BTreeMap::new(),
            epoch: 1,
            term: 0,
        }
    }

    fn step(&mut self) {
        match self.choices.below(16) {
            0 => self.horizon(),
            1 => self.mark(),
            2 => self.time_ms += 1 + self.choices.below(1 << 17),
            3 if self.choices.one_in(4) => self.fold(),
            4 => self.compare_totals(),
            _ => self.change(),
        }
    }

    /// Place and log time of the next entry.
    fn next(&mut self) -> (Place, LogTime) {
        self.entry_count += 1;
        let log = LogNumber::new(2).unwrap();
        let place = Place::new(log, 4_096 + self.entry_count * 128);
        (
            place,
            LogTime(self.time_ms * 1_000_000 + self.entry_count * 1_000),
        )
    }

    fn owner(&mut self) -> UserId {
        UserId::new(u128::from(1 + self.choices.below(5)) << 64).unwrap()
    }

    fn amount(&mut self) -> u64 {
        match self.choices.below(8) {
            0 => self.choices.u64().clamp(1, AMOUNT_MAX),
            1 => AMOUNT_MAX,
            number => number,
        }
    }

    fn settings(&mut self) -> AccountSettings {
        let mut settings = AccountSettings::default();
        if self.choices.one_in(2) {
            settings.floor = self.amount();
        }
        if self.choices.one_in(2) {
            settings.cap = self.amount();
        }
        settings.frozen = self.choices.one_in(4);
        settings
    }

    /// A fresh id of about now, or one that was used before.
    fn id(&mut self, owner: UserId) -> (UserId, OperationId) {
        if self.choices.one_in(5) && !self.used.is_empty() {
            let at = self.choices.below(self.used.len() as u64);
            return self.used[to_usize(at)];
        }
        let ms = match self.choices.below(8) {
            0 => self.time_ms + self.choices.below(1 << 17),
            1 => self.time_ms - self.choices.below(1 << 17),
            _ => self.time_ms,
        };
        let random = u128::from(self.choices.u8());
        (owner, OperationId::from_parts(ms, random))
    }

    fn operation(&mut self) -> Operation {
        let owner = self.owner();
        let (owner, id) = self.id(owner);
        let code = Currency::new(1 + u32::from(self.choices.u8() % 3)).unwrap();
        let version = self.version(owner, code);
        let settings = self.settings();
        let amount = self.amount();
        let operation = match self.choices.below(10) {
            0 | 1 => return Operation::open(id, owner, code, settings),
            2 => return Operation::configure(id, owner, code, settings, version),
            3 => Operation::close(id, owner, code),
            4 => return Operation::find(id, owner).with_flags(Flags::BURN),
            5..=7 => {
                let flags = [Flags::OPEN_IF_MISSING, Flags(0)];
                let flags = self.choices.one_of(&flags);
                Operation::credit(id, owner, code, amount).with_flags(flags)
            }
            _ => {
                let flags = self.choices.one_of(&[Flags::UP_TO, Flags(0)]);
                Operation::debit(id, owner, code, amount).with_flags(flags)
            }
        };
        if self.choices.one_in(3) {
            operation.if_version(version)
        } else {
            operation
        }
    }

    fn version(&mut self, owner: UserId, code: Currency) -> u64 {
        let account = self.live.get(owner, code.get());
        let version = account.map_or(1, |account| account.version);
        version ^ u64::from(self.choices.one_in(4))
    }

    /// Asks for the id as a node would, then applies.
    fn change(&mut self) {
        let operation = self.operation();
        assert_eq!(operation.check(), Ok(()));
        let (place, time) = self.next();
        let (owner, id) = (operation.user(), operation.id().unwrap());
        if !self.is_new(owner, id, time) || !self.live.has_room(&operation) {
            return;
        }
        let change = self.live.apply(&operation, place, time);
        self.ids.insert((owner, id), place);
        self.used.push((owner, id));
        let expected = self.naive.apply(&operation, place, time);
        assert_eq!(change.code, expected.code, "{operation:?}");
        assert_eq!(change.created, expected.created);
        assert_eq!(change.previous, expected.previous);
        assert_eq!(i128::from(change.moved), expected.moved);
        let image = expected
            .account
            .map_or((0, 0), |now| (now.available, now.version));
        let found = (i128::from(change.image.available), change.image.version);
        assert_eq!(found, image);
        self.replay(Entry::Change(change), place, time);
    }

    /// What the ledger knows of an id is what is so: never new if it was applied and may still
    /// be known, never unknown for another reason than it says.
    fn is_new(&self, owner: UserId, id: OperationId, time: LogTime) -> bool {
        let applied = self.ids.get(&(owner, id)).copied();
        let is_old = id.time_ms() < self.live.horizon_ms();
        match self.live.seen(owner, id, time) {
            Seen::TooOld => assert!(is_old),
            Seen::Maybe(candidates) => {
                assert!(!is_old);
                let is_there = |place| candidates.iter().any(|found| found == place);
                // Fingerprints have 64 bits: nobody meets a false hit here.
                assert!(applied.is_some_and(is_there), "{id} hits nothing");
            }
            Seen::Future => {
                assert!(applied.is_none() && !is_old);
                assert!(time.ms() + ID_AHEAD_MS_MAX < id.time_ms());
            }
            Seen::Full => {
                assert!(applied.is_none() && !is_old);
                assert!(super::ID_COUNT_MAX <= self.live.id_count());
            }
            Seen::New => {
                assert!(applied.is_none(), "{id} is forgotten");
                return true;
            }
        }
        false
    }

    fn horizon(&mut self) {
        let (place, time) = self.next();
        let due = self.live.horizon_due(time);
        let ms = if self.choices.one_in(2) {
            let ms = self.time_ms - self.choices.below(1 << 17);
            ms.max(self.live.horizon_ms())
        } else {
            let Some(ms) = due else { return };
            assert!(self.live.horizon_ms() < ms && ms <= time.ms());
            ms
        };
        self.absorb(Entry::Horizon { ms }, place, time);
        assert_eq!(self.live.horizon_ms(), ms);
    }

    fn mark(&mut self) {
        let (place, time) = self.next();
        let entry = if self.choices.one_in(2) {
            self.term += 1;
            Entry::Epoch(EpochMark {
                generation: Generation(1),
                ring_epoch: RingEpoch(self.epoch),
                term: Term(self.term),
            })
        } else {
            self.epoch += 1;
            let (a, b) = (self.choices.u16(), self.choices.u16());
            let range = SlotRange {
                first: Slot(a.min(b)),
                last: Slot(a.max(b)),
            };
            Entry::Activation(Activation::new(RingEpoch(self.epoch), &[range]))
        };
        self.absorb(entry, place, time);
    }

    fn absorb(&mut self, entry: Entry, place: Place, time: LogTime) {
        self.live.absorb(&entry, place, time).unwrap();
        self.replay(entry, place, time);
    }

    fn replay(&mut self, entry: Entry, place: Place, time: LogTime) {
        let read = Entry::read(&entry.to_bytes()).unwrap();
        assert_eq!(read, entry);
        self.replica.absorb(&read, place, time).unwrap();
        assert_eq!(self.live.check_supply(), Ok(()));
        self.tail.push((read, place, time));
    }

    fn compare_totals(&self) {
        assert_eq!(self.live.digest(), self.replica.digest());
        assert_eq!(self.live.id_digest(), self.replica.id_digest());
        assert_eq!(self.live.id_count(), self.replica.id_count());
        assert!(self.live.id_count() <= super::ID_COUNT_MAX);
    }

    /// Everything that can be compared is equal: live, replica, model.
    fn compare(&self) {
        self.compare_totals();
        // The first section is compared by `fold`.
        for section in [Section::Supply, Section::Accounts, Section::Ids] {
            let records = self.live.records(section);
            assert!(records == self.replica.records(section), "{section:?}");
        }
        let mut sums: BTreeMap<u32, (i128, u64)> = BTreeMap::new();
        for ((owner, code), account) in &self.naive.accounts {
            let view = self.live.get(*owner, *code).unwrap();
            assert_eq!(i128::from(view.available), account.available);
            assert_eq!(view.version, account.version);
            assert_eq!(view.place, account.place);
            assert_eq!(view.frozen, account.frozen);
            assert_eq!(i128::from(view.floor), account.floor);
            assert_eq!(i128::from(view.cap), account.cap);
            let sum = sums.entry(*code).or_default();
            sum.0 += account.available;
            sum.1 += 1;
        }
        assert_eq!(self.live.account_count(), self.naive.accounts.len() as u64);
        for (code, supply) in self.live.supply() {
            let (available, count) = sums.remove(&code).unwrap_or_default();
            assert_eq!(supply.available, available);
            assert_eq!(supply.account_count, count);
            let of = |sums: &BTreeMap<u32, i128>| sums.get(&code).copied().unwrap_or(0);
            let (issued, burned) = (of(&self.naive.issued), of(&self.naive.burned));
            assert_eq!(supply.issued.cast_signed(), issued);
            assert_eq!(supply.burned.cast_signed(), burned);
            assert_eq!(issued - burned, available, "made or lost");
        }
        assert!(sums.is_empty());
        let time = self.live.time();
        for (owner, id) in self.ids.keys() {
            assert!(!self.is_new(*owner, *id, time));
        }
    }

    /// Folds the tail in stretches of any length; the result is what the live ledger dumps, and
    /// a ledger that loads it in pieces of any length goes on as the replica.
    fn fold(&mut self) {
        let tail = std::mem::take(&mut self.tail);
        let mut rest = tail.as_slice();
        while !rest.is_empty() {
            let count = to_usize(1 + self.choices.below(255)).min(rest.len());
            let (stretch, later) = rest.split_at(count);
            rest = later;
            let mut delta = Delta::new(RING_KEY);
            for (entry, place, time) in stretch {
                delta.absorb(entry, *place, *time).unwrap();
            }
            self.merge(delta);
        }
        if self.checkpoint.is_empty() {
            return;
        }
        let mut loaded = ledger();
        for section in Section::ALL {
            let records = &self.checkpoint[&section];
            assert!(*records == self.live.records(section), "{section:?}");
            let piece_size = record_size(section) * to_usize(1 + self.choices.below(9));
            for piece in records.chunks(piece_size) {
                loaded.load(section, piece).unwrap();
            }
        }
        assert_eq!(loaded.check_supply(), Ok(()));
        self.replica = loaded;
    }

    fn merge(&mut self, delta: Delta) {
        let mut merge = delta.merge();
        for section in Section::ALL {
            let old = self.checkpoint.remove(&section).unwrap_or_default();
            let mut new = Vec::new();
            let piece_size = record_size(section) * to_usize(1 + self.choices.below(9));
            for piece in old.chunks(piece_size) {
                merge.push(section, piece, &mut new).unwrap();
            }
            merge.finish(section, &mut new).unwrap();
            self.checkpoint.insert(section, new);
        }
        assert!(self.tail.is_empty());
    }
}
