//! Tests of the whole ledger: rules as tables of text, and random runs against a naive twin.

mod foreign;
mod ids;
mod moves;
mod naive;
mod random;
mod rules;

use crate::ledger::{Ledger, LedgerOptions};
use crate::model::{
    AccountSettings, Currency, LogNumber, LogTime, Operation, OperationId, Place, UserId,
};

/// Key of all test ledgers.
const RING_KEY: u128 = 0x000f_0e0d_0c0b_0a09_0807_0605_0403_0201;

/// Log time at which test logs begin: somewhere in 2025.
const TIME_START: u64 = 1_750_000_000_000_000_000;

fn ledger() -> Ledger {
    Ledger::new(options())
}

const fn options() -> LedgerOptions {
    LedgerOptions {
        ring_key: RING_KEY,
        id_count_max: 1 << 20,
        keep_ids: true,
    }
}

fn user(number: u128) -> UserId {
    UserId::new(number).unwrap()
}

fn currency(code: u32) -> Currency {
    Currency::new(code).unwrap()
}

fn settings() -> AccountSettings {
    AccountSettings::default()
}

/// Places, log times and ids as a log would give them out, one entry after the other.
struct Clock {
    index: u64,
}

impl Clock {
    const fn new() -> Self {
        Self { index: 0 }
    }

    /// The next entry's place and log time, one ms after the last.
    fn tick(&mut self) -> (Place, LogTime) {
        self.index += 1;
        self.now()
    }

    /// The last entry's.
    fn now(&self) -> (Place, LogTime) {
        let place = Place::new(LogNumber::new(2).unwrap(), 4_096 + self.index * 128);
        (place, LogTime(TIME_START + self.index * 1_000_000))
    }

    /// A fresh id of now.
    fn id(&self) -> OperationId {
        let (_, time) = self.now();
        OperationId::from_parts(time.ms(), u128::from(self.index))
    }
}

fn credit(clock: &Clock, number: u128, amount: u64) -> Operation {
    Operation::credit(clock.id(), user(number), currency(1), amount)
}
