//! Reading ahead: what the next operations will look at is fetched together.
//!
//! A look-up walks from an index to a line to a digest, and each step waits for memory. Of one
//! operation after the other, all the waits add up; of many at once, the processor does them side
//! by side. So before a run of operations is applied, one pass per step reads what each of them
//! will need. Nothing here decides anything: without it all results are the same, later.

use std::hint::black_box;

use super::Ledger;
use super::ids::row_of;
use super::table::{KeyTag, NONE};
use crate::model::{ENTRY_SIZE, OPERATION_SIZE, Operation, OperationId, UserId};

/// Operations that are read ahead at a time: enough to keep the memory busy, few enough that what
/// was fetched is still in the first caches when it is used.
pub const TOUCH_COUNT: usize = 32;

/// Fewer are not worth the hashing.
const TOUCH_COUNT_MIN: usize = 4;

/// What an operation will be looked up by.
#[derive(Clone, Copy, Debug)]
struct Key {
    user: UserId,
    currency: u32,
    id: Option<OperationId>,
}

/// Keys of the next operations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ahead {
    keys: [Option<Key>; TOUCH_COUNT],
    count: usize,
}

impl Ahead {
    /// Adds an operation's record, whether it is well-formed or not.
    pub fn push(&mut self, record: &[u8; OPERATION_SIZE]) {
        let (user, currency, id) = Operation::keys_of(record);
        if let Some(place) = self.keys.get_mut(self.count) {
            *place = UserId::new(user).map(|user| Key {
                user,
                currency,
                id: OperationId::new(id),
            });
            self.count += 1;
        }
    }

    /// The same of an entry of the log, whose head is that of its operation. Entries of other
    /// kinds name no account and cost a look in vain.
    pub fn push_entry(&mut self, entry: &[u8; ENTRY_SIZE]) {
        if let Some(record) = entry.first_chunk() {
            self.push(record);
        }
    }

    /// Those of entries that follow one another in a log, as far as they fit.
    #[must_use]
    pub fn of_entries(entries: &[[u8; ENTRY_SIZE]]) -> Self {
        let mut ahead = Self::default();
        for entry in entries {
            ahead.push_entry(entry);
        }
        ahead
    }

    /// How many.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys[..self.count].iter().flatten()
    }
}

impl Ledger {
    /// Fetches what these operations will look at. Changes nothing.
    ///
    /// Each pass is short and decides nothing by what it has just read: so the processor runs on
    /// to the next operation while it waits for memory.
    pub fn touch(&self, ahead: &Ahead) {
        if ahead.count < TOUCH_COUNT_MIN {
            return;
        }
        let mut tags = [KeyTag::default(); TOUCH_COUNT];
        let mut prints = [(0, 0); TOUCH_COUNT];
        let mut sum = 0_u64;
        for ((tag, print), key) in tags.iter_mut().zip(&mut prints).zip(ahead.keys()) {
            *tag = self.table.key_tag(key.user, key.currency);
            if self.keep_ids
                && let Some(id) = key.id
            {
                *print = (row_of(id.time_ms()), self.fingerprint(key.user, id));
            }
        }
        let (tags, prints) = (&mut tags[..ahead.count], &prints[..ahead.count]);
        for tag in &*tags {
            sum ^= self.table.touch_home(*tag);
        }
        for (row, fingerprint) in prints {
            sum ^= self.ids.touch(*row, *fingerprint);
        }
        for tag in &mut *tags {
            self.table.touch_index(tag);
        }
        for tag in &*tags {
            sum ^= self.table.touch_line(*tag);
        }
        for tag in &*tags {
            if tag.number != NONE {
                let slot = self.table.slot(tag.number);
                sum ^= super::bits::low_word(self.digests.slot(slot));
            }
        }
        black_box(sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{LedgerOptions, Seen};
    use crate::model::{Currency, Flags, LogNumber, LogTime, Place};

    const TIME: LogTime = LogTime(1_750_000_000_000_000_000);

    fn credit(number: u128) -> Operation {
        let id = OperationId::from_parts(TIME.ms(), number);
        let user = UserId::new(number % 50 + 1).unwrap();
        Operation::credit(id, user, Currency::new(1).unwrap(), 5).with_flags(Flags::OPEN_IF_MISSING)
    }

    fn ledger() -> Ledger {
        Ledger::new(LedgerOptions {
            ring_key: 5,
            id_count_max: 1 << 20,
            keep_ids: true,
        })
    }

    /// The same operations, read ahead for or not, end in the same state.
    #[test]
    fn reading_ahead_changes_nothing() {
        let (mut plain, mut ahead_of) = (ledger(), ledger());
        let operations: Vec<Operation> = (0..2_000).map(|number| credit(number % 1_900)).collect();
        for (index, operation) in (1..).zip(&operations) {
            if index % 7 == 1 {
                let mut ahead = Ahead::default();
                let rest = &operations[usize::try_from(index).unwrap() - 1..];
                for next in rest.iter().take(2 * TOUCH_COUNT) {
                    ahead.push(&next.to_bytes());
                }
                assert!(ahead.count() <= TOUCH_COUNT);
                ahead_of.touch(&ahead);
            }
            let place = Place::new(LogNumber::new(1).unwrap(), 256 + index * 128);
            let time = LogTime(TIME.0 + index);
            let (user, id) = (operation.user(), operation.id().unwrap());
            let seen = plain.seen(user, id, time);
            assert_eq!(seen, ahead_of.seen(user, id, time));
            // The last hundred come twice.
            assert_eq!(seen == Seen::New, index <= 1_900);
            if seen == Seen::New {
                assert_eq!(
                    plain.apply(operation, place, time),
                    ahead_of.apply(operation, place, time)
                );
            }
        }
        assert_eq!(plain.digest(), ahead_of.digest());
        assert_eq!(plain.id_digest(), ahead_of.id_digest());
    }

    /// Records are not checked before they are read ahead for.
    #[test]
    fn any_bytes_may_be_read_ahead_for() {
        let ledger = ledger();
        for byte in [0, 1, 0xff] {
            let mut ahead = Ahead::default();
            for _ in 0..TOUCH_COUNT {
                ahead.push_entry(&[byte; ENTRY_SIZE]);
            }
            ledger.touch(&ahead);
        }
    }
}
