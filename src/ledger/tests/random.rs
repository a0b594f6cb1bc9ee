//! Random operations on a ledger, on a second one that replays the entries from their bytes, on
//! the naive twin, and through folds of every length.

use std::collections::BTreeMap;

use super::naive::Naive;
use super::{Clock, RING_KEY, currency, ledger, options, user};
use crate::ledger::digest::record_hash;
use crate::ledger::fold::{Delta, Source};
use crate::ledger::record::AccountRecord;
use crate::ledger::{Ledger, Seen, Supply, record_size};
use crate::model::{
    AccountSettings, Activation, Entry, EpochMark, Flags, Generation, LogTime, Operation,
    OperationId, Place, Random, RingEpoch, Section, Slot, SlotRange, Term, user_slot,
};

struct Run {
    random: Random,
    clock: Clock,
    live: Ledger,
    replica: Ledger,
    naive: Naive,
    /// Entries since the last checkpoint.
    tail: Vec<(Entry, Place, LogTime)>,
    checkpoint: BTreeMap<Section, Vec<u8>>,
    epoch: u32,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            clock: Clock::new(),
            live: ledger(),
            replica: ledger(),
            naive: Naive::default(),
            tail: Vec::new(),
            checkpoint: BTreeMap::new(),
            epoch: 1,
        }
    }

    fn amount(&mut self) -> u64 {
        match self.random.below(8) {
            0 => self.random.below(1 << 63).max(1),
            1 => (1 << 63) - 1,
            _ => self.random.below(20) + 1,
        }
    }

    fn settings(&mut self) -> AccountSettings {
        AccountSettings {
            floor: if self.random.one_in(2) {
                0
            } else {
                self.amount()
            },
            cap: if self.random.one_in(2) {
                (1 << 63) - 1
            } else {
                self.amount()
            },
            frozen: self.random.one_in(4),
        }
    }

    fn operation(&mut self) -> Operation {
        let owner = user(u128::from(self.random.below(6) + 1) << 64);
        let code = currency(u32::try_from(self.random.below(4) + 1).unwrap());
        let (_, time) = self.clock.now();
        let ms = time.ms() - self.random.below(40_000);
        let id = OperationId::from_parts(ms.max(self.live.horizon_ms()), self.random.u128());
        let version = self
            .live
            .get(owner, code.get())
            .map_or(1, |account| account.version);
        let version = if self.random.one_in(4) {
            version ^ 1
        } else {
            version
        };
        let settings = self.settings();
        let amount = self.amount();
        let operation = match self.random.below(12) {
            0 | 1 => return Operation::open(id, owner, code, settings),
            2 => return Operation::configure(id, owner, code, settings, version),
            3 => Operation::close(id, owner, code),
            4 => return Operation::find(id, owner).with_flags(Flags::BURN),
            5..=7 => {
                let flags = if self.random.one_in(3) {
                    Flags::OPEN_IF_MISSING
                } else {
                    Flags(0)
                };
                Operation::credit(id, owner, code, amount).with_flags(flags)
            }
            _ => {
                let flags = if self.random.one_in(3) {
                    Flags::UP_TO
                } else {
                    Flags(0)
                };
                Operation::debit(id, owner, code, amount).with_flags(flags)
            }
        };
        if self.random.one_in(3) {
            operation.if_version(version)
        } else {
            operation
        }
    }

    fn change(&mut self) {
        let (place, time) = self.clock.tick();
        let operation = self.operation();
        assert_eq!(operation.check(), Ok(()));
        let change = self.live.apply(&operation, place, time);
        let expected = self.naive.apply(&operation, place, time);
        assert_eq!(change.code, expected.code, "{operation:?}");
        assert_eq!(
            (change.created, change.previous),
            (expected.created, expected.previous)
        );
        assert_eq!(i128::from(change.moved), expected.moved);
        let image = expected
            .account
            .map_or((0, 0), |now| (now.available, now.version));
        assert_eq!(
            (i128::from(change.image.available), change.image.version),
            image
        );
        assert_eq!(change.image.held, 0);
        self.replay(Entry::Change(change), place, time);
    }

    fn other(&mut self) {
        let (place, time) = self.clock.tick();
        let entry = match self.random.below(3) {
            0 => Entry::Horizon {
                ms: self
                    .live
                    .horizon_ms()
                    .max(time.ms() - self.random.below(100_000)),
            },
            1 => Entry::Epoch(EpochMark {
                generation: Generation(1),
                ring_epoch: RingEpoch(self.epoch),
                term: Term(place.0),
            }),
            _ => {
                self.epoch += 1;
                let first = Slot(u16::try_from(self.random.below(60_000)).unwrap());
                let last = Slot(first.0 + 100);
                let range = SlotRange { first, last };
                Entry::Activation(Activation::new(RingEpoch(self.epoch), &[range]))
            }
        };
        self.live.absorb(&entry, place, time).unwrap();
        self.replay(entry, place, time);
    }

    fn replay(&mut self, entry: Entry, place: Place, time: LogTime) {
        let entry = Entry::read(&entry.to_bytes()).unwrap();
        self.replica.absorb(&entry, place, time).unwrap();
        self.tail.push((entry, place, time));
        assert_eq!(self.live.check_supply(), Ok(()));
    }

    /// Everything that can be compared is equal: live, replica, naive.
    fn compare(&self) {
        for section in Section::ALL {
            assert!(
                self.live.records(section) == self.replica.records(section),
                "{section:?}"
            );
        }
        assert_eq!(self.live.digest(), self.replica.digest());
        assert_eq!(self.live.id_digest(), self.replica.id_digest());
        assert_eq!(self.live.supply(), self.replica.supply());
        let mut slots: BTreeMap<Slot, u128> = BTreeMap::new();
        let mut supply: BTreeMap<u32, Supply> = BTreeMap::new();
        for ((owner, code), account) in &self.naive.accounts {
            let slot = user_slot(RING_KEY, *owner);
            let record = AccountRecord {
                user: *owner,
                currency: *code,
                slot,
                available: i64::try_from(account.available).unwrap(),
                held: 0,
                outgoing: 0,
                settings: AccountSettings {
                    floor: u64::try_from(account.floor).unwrap(),
                    cap: u64::try_from(account.cap).unwrap(),
                    frozen: account.frozen,
                },
                version: account.version,
                place: account.place,
            };
            let view = self.live.get(*owner, *code).unwrap();
            assert_eq!(view, record.into());
            let sum = slots.entry(slot).or_default();
            *sum = sum.wrapping_add(record_hash(&record.words()));
            let of_currency = supply.entry(*code).or_default();
            of_currency.available += account.available;
            of_currency.account_count += 1;
        }
        for (slot, digest) in &slots {
            assert_eq!(self.live.slot_digest(*slot), *digest);
        }
        assert_eq!(
            slots
                .values()
                .fold(0_u128, |sum, slot| sum.wrapping_add(*slot)),
            self.live.digest()
        );
        for (code, found) in self.live.supply() {
            let expected = supply.remove(&code).unwrap_or_default();
            let count = |sums: &BTreeMap<u32, i128>| {
                u128::try_from(sums.get(&code).copied().unwrap_or(0)).unwrap()
            };
            let (issued, burned) = (count(&self.naive.issued), count(&self.naive.burned));
            assert_eq!(
                found,
                Supply {
                    issued,
                    burned,
                    ..expected
                }
            );
        }
        assert_eq!(supply.len(), 0);
        for (owner, id, place) in &self.naive.ids {
            match self.live.seen(*owner, *id, self.live.time()) {
                Seen::TooOld => assert!(id.time_ms() < self.live.horizon_ms()),
                Seen::Maybe(found) => assert!(found.iter().any(|at| at == *place)),
                seen @ (Seen::New | Seen::Future | Seen::Full) => panic!("{id}: {seen:?}"),
            }
        }
    }

    /// Folds the tail in stretches of random length; the result is what the live ledger dumps,
    /// and a ledger that loads it goes on as the replica.
    fn checkpoint(&mut self) {
        let tail = std::mem::take(&mut self.tail);
        let mut rest = tail.as_slice();
        while !rest.is_empty() {
            let count = usize::try_from(self.random.below(400) + 1)
                .unwrap()
                .min(rest.len());
            let (stretch, later) = rest.split_at(count);
            rest = later;
            let mut delta = Delta::new(RING_KEY);
            for (entry, place, time) in stretch {
                delta.absorb(entry, *place, *time).unwrap();
            }
            self.merge(delta);
        }
        for section in Section::ALL {
            assert!(
                self.checkpoint[&section] == self.live.records(section),
                "{section:?}"
            );
        }
        let mut loaded = Ledger::new(options());
        for section in Section::ALL {
            let piece_size =
                record_size(section) * usize::try_from(self.random.below(9) + 1).unwrap();
            for piece in self.checkpoint[&section].chunks(piece_size) {
                loaded.load(section, piece).unwrap();
            }
        }
        assert_eq!(loaded.check_supply(), Ok(()));
        self.replica = loaded;
        self.compare();
    }

    fn merge(&mut self, delta: Delta) {
        let mut merge = delta.merge();
        for section in Section::ALL {
            let old = self.checkpoint.remove(&section).unwrap_or_default();
            let mut new = Vec::new();
            let piece_size =
                record_size(section) * usize::try_from(self.random.below(9) + 1).unwrap();
            for piece in old.chunks(piece_size) {
                merge
                    .push(section, Source::Checkpoint, piece, &mut new)
                    .unwrap();
            }
            merge.finish(section, &mut new).unwrap();
            self.checkpoint.insert(section, new);
        }
    }
}

fn run(seed: u64) {
    let mut run = Run::new(seed);
    for step in 0..3_000 {
        if run.random.one_in(60) {
            run.other();
        } else {
            run.change();
        }
        if step % 700 == 0 {
            run.compare();
        }
        if run.random.one_in(600) {
            run.checkpoint();
        }
    }
    run.checkpoint();
}

#[test]
fn random_operations_agree_with_the_naive_ledger_replay_and_fold() {
    for seed in 0..20 {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "seed {seed}");
    }
}
