//! The whole state of one account, as the rules see it, as it is hashed, and as it lies in a
//! checkpoint: ten little-endian words. Layout: docs/log-format.md, "Account record".
//!
//! The table in memory keeps the same facts in fewer bytes; this is what goes in and out of it.

use super::bits::{high_word, join, low_half, low_word};
use crate::limits::AMOUNT_MAX;
use crate::model::{AccountSettings, Image, Place, Slot, UserId};

/// Bytes of an account record in a checkpoint.
pub const ACCOUNT_RECORD_SIZE: usize = 80;

const USER_AT: usize = 0;
const CURRENCY_AT: usize = USER_AT + size_of::<u128>();
const FLAGS_AT: usize = CURRENCY_AT + size_of::<u32>();
const SLOT_AT: usize = FLAGS_AT + size_of::<u16>();
const AVAILABLE_AT: usize = SLOT_AT + size_of::<u16>();
const HELD_AT: usize = AVAILABLE_AT + size_of::<i64>();
const OUTGOING_AT: usize = HELD_AT + size_of::<u64>();
const FLOOR_AT: usize = OUTGOING_AT + size_of::<u64>();
const CAP_AT: usize = FLOOR_AT + size_of::<u64>();
const VERSION_AT: usize = CAP_AT + size_of::<u64>();
const PLACE_AT: usize = VERSION_AT + size_of::<u64>();
const _: () = assert!(PLACE_AT + size_of::<u64>() == ACCOUNT_RECORD_SIZE);

/// Words of an account record.
pub(super) const ACCOUNT_WORD_COUNT: usize = 10;
const _: () = assert!(ACCOUNT_WORD_COUNT * size_of::<u64>() == ACCOUNT_RECORD_SIZE);

const FLAG_FROZEN: u64 = 1;

/// Highest version: log time runs in ns and ends, as a version, in the year 2262.
pub(super) const VERSION_MAX: u64 = i64::MAX.cast_unsigned();

/// One account, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AccountRecord {
    pub(super) user: UserId,
    pub(super) currency: u32,
    pub(super) slot: Slot,
    pub(super) available: i64,
    pub(super) held: u64,
    pub(super) outgoing: u64,
    pub(super) settings: AccountSettings,
    pub(super) version: u64,
    pub(super) place: Place,
}

/// Accounts lie in a checkpoint in this order, so that a range of slots is one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AccountKey {
    pub(super) slot: Slot,
    pub(super) user: UserId,
    pub(super) currency: u32,
}

impl AccountRecord {
    pub(super) const fn key(&self) -> AccountKey {
        AccountKey {
            slot: self.slot,
            user: self.user,
            currency: self.currency,
        }
    }

    pub(super) const fn image(&self) -> Image {
        Image {
            available: self.available,
            held: self.held,
            version: self.version,
        }
    }

    /// Its words; the bytes of the record are these in little-endian order.
    pub(super) const fn words(&self) -> [u64; ACCOUNT_WORD_COUNT] {
        let user = self.user.get();
        let flags = if self.settings.frozen { FLAG_FROZEN } else { 0 };
        [
            low_word(user),
            high_word(user),
            self.currency as u64 | (flags << 32) | ((self.slot.0 as u64) << 48),
            self.available.cast_unsigned(),
            self.held,
            self.outgoing,
            self.settings.floor,
            self.settings.cap,
            self.version,
            self.place.0,
        ]
    }

    pub(super) fn write(&self, records: &mut Vec<u8>) {
        for word in self.words() {
            records.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// Reads one record. The error says what is wrong with it.
    pub(super) fn read(bytes: &[u8; ACCOUNT_RECORD_SIZE]) -> Result<Self, &'static str> {
        let mut words = [0; ACCOUNT_WORD_COUNT];
        read_words(bytes, &mut words);
        let flags = (words[2] >> 32) & 0xffff;
        if flags & !FLAG_FROZEN != 0 {
            return Err("unknown flags of an account");
        }
        let record = Self {
            user: UserId::new(join(words[0], words[1])).ok_or("user 0 or all ones")?,
            currency: low_half(words[2]),
            slot: Slot(u16::try_from(words[2] >> 48).expect("16 bits are left")),
            available: words[3].cast_signed(),
            held: words[4],
            outgoing: words[5],
            settings: AccountSettings {
                floor: words[6],
                cap: words[7],
                frozen: flags & FLAG_FROZEN != 0,
            },
            version: words[8],
            place: Place(words[9]),
        };
        let settings = &record.settings;
        if record.currency == 0 {
            return Err("currency 0");
        }
        if AMOUNT_MAX < settings.floor || AMOUNT_MAX < settings.cap {
            return Err("floor or cap out of range");
        }
        if AMOUNT_MAX < record.held || AMOUNT_MAX < record.outgoing {
            return Err("held or outgoing out of range");
        }
        if record.version == 0 || VERSION_MAX < record.version {
            return Err("version out of range");
        }
        if record.place.log().is_none() {
            return Err("an account without a last entry");
        }
        Ok(record)
    }
}

/// Reads little-endian words from bytes of exactly their size.
pub(super) fn read_words(bytes: &[u8], words: &mut [u64]) {
    assert!(bytes.len() == size_of_val(words));
    for (word, part) in words.iter_mut().zip(bytes.chunks_exact(size_of::<u64>())) {
        let mut field = [0; size_of::<u64>()];
        field.copy_from_slice(part);
        *word = u64::from_le_bytes(field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LogNumber;

    fn record() -> AccountRecord {
        AccountRecord {
            user: UserId::new(0x0123_4567_89ab_cdef_0011_2233_4455_6677).unwrap(),
            currency: 0x0a0b_0c0d,
            slot: Slot(0xbeef),
            available: -2,
            held: 3,
            outgoing: 4,
            settings: AccountSettings {
                floor: 5,
                cap: 6,
                frozen: true,
            },
            version: 7,
            place: Place::new(LogNumber::new(1).unwrap(), 8),
        }
    }

    #[test]
    fn reads_back_and_lies_as_documented() {
        let mut bytes = Vec::new();
        record().write(&mut bytes);
        assert_eq!(
            AccountRecord::read(bytes.as_slice().try_into().unwrap()),
            Ok(record())
        );
        assert_eq!(
            bytes[USER_AT..CURRENCY_AT],
            record().user.get().to_le_bytes()
        );
        assert_eq!(bytes[CURRENCY_AT..FLAGS_AT], [0x0d, 0x0c, 0x0b, 0x0a]);
        assert_eq!(bytes[FLAGS_AT..AVAILABLE_AT], [1, 0, 0xef, 0xbe]);
        assert_eq!(bytes[PLACE_AT..], record().place.0.to_le_bytes());
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let mut bytes = Vec::new();
        record().write(&mut bytes);
        for (at, value) in [
            (USER_AT, 0),
            (CURRENCY_AT, 0),
            (VERSION_AT, 0),
            (PLACE_AT, 0),
        ] {
            let mut broken: [u8; ACCOUNT_RECORD_SIZE] = bytes.as_slice().try_into().unwrap();
            let size = if at == USER_AT {
                16
            } else if at == CURRENCY_AT {
                4
            } else {
                8
            };
            broken[at..at + size].fill(value);
            assert!(AccountRecord::read(&broken).is_err(), "{at}");
        }
        for (at, value) in [(FLAGS_AT, 3), (HELD_AT + 7, 0x80), (CAP_AT + 7, 0x80)] {
            let mut broken: [u8; ACCOUNT_RECORD_SIZE] = bytes.as_slice().try_into().unwrap();
            broken[at] = value;
            assert!(AccountRecord::read(&broken).is_err(), "{at}");
        }
    }
}
