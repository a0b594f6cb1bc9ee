//! A ledger out of a checkpoint and, for comparison, into one.
//!
//! Records are foreign bytes: they are checked one by one and against their order. What can be
//! computed from the accounts (digests, sums of the supply) is, whatever a record says, so that
//! [`Ledger::check_supply`] after the last section proves the checkpoint's counters.

use std::hint::black_box;

use super::ids::{ID_RECORD_SIZE, IdItem};
use super::meta::{META_RECORD_SIZE, MetaReader};
use super::record::{ACCOUNT_RECORD_SIZE, AccountKey, AccountRecord};
use super::supply::{SUPPLY_RECORD_SIZE, Supply};
use super::table::Found;
use super::touch::TOUCH_COUNT;
use super::{Ledger, record_hash, row_start_ms};
use crate::model::{Section, user_slot};

/// Bytes of one record of a section.
#[must_use]
pub const fn record_size(section: Section) -> usize {
    match section {
        Section::Meta => META_RECORD_SIZE,
        Section::Supply => SUPPLY_RECORD_SIZE,
        Section::Accounts => ACCOUNT_RECORD_SIZE,
        Section::Ids => ID_RECORD_SIZE,
    }
}

/// Why records of a checkpoint were not taken in. The ledger is of no use after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Not a whole number of records.
    #[error("section {0:?}: not a whole number of records")]
    Size(Section),
    /// The section came after a later one, or after the first entry.
    #[error("section {0:?}: out of order")]
    Order(Section),
    /// A record is not one that a ledger writes here.
    #[error("section {section:?}: {what}")]
    Record {
        /// Which section.
        section: Section,
        /// What is wrong.
        what: &'static str,
    },
}

/// How far loading is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Loading {
    section: Option<Section>,
    is_over: bool,
    meta: MetaReader,
    currency: u32,
    account: Option<(AccountKey, u32)>,
    id: Option<IdItem>,
}

impl Loading {
    /// Nothing can be loaded any more. Could it until now?
    pub(super) const fn end(&mut self) -> bool {
        !std::mem::replace(&mut self.is_over, true)
    }
}

/// Whole records of one size.
pub(super) fn whole_records<const SIZE: usize>(
    records: &[u8],
) -> Option<impl Iterator<Item = &[u8; SIZE]>> {
    let (records, rest) = records.as_chunks::<SIZE>();
    rest.is_empty().then(|| records.iter())
}

impl Ledger {
    /// Takes in records of a checkpoint: sections in their order, each in any number of pieces of
    /// whole records, before the first entry.
    pub fn load(&mut self, section: Section, records: &[u8]) -> Result<(), LoadError> {
        if self.loading.is_over || Some(section) < self.loading.section {
            return Err(LoadError::Order(section));
        }
        self.loading.section = Some(section);
        match section {
            Section::Meta => self.load_chunks(section, records, Self::load_meta),
            Section::Supply => self.load_chunks(section, records, Self::load_supply),
            Section::Accounts => self.load_chunks(section, records, Self::load_account),
            Section::Ids => self.load_chunks(section, records, Self::load_id),
        }
    }

    /// The records of a section as a checkpoint of this state has them.
    ///
    /// For tests and comparison: it sorts the whole state, which a running node never does.
    #[must_use]
    pub fn records(&self, section: Section) -> Vec<u8> {
        let mut records = Vec::new();
        match section {
            Section::Meta => self.meta.write(&mut records),
            Section::Supply => {
                for (currency, supply) in self.supplies.sorted() {
                    supply.write(currency, &mut records);
                }
            }
            Section::Accounts => {
                for (key, number) in self.table.sorted() {
                    if !self.moving.hides(key.slot) {
                        self.table.record(number).write(&mut records);
                    }
                }
            }
            Section::Ids => {
                for item in self.ids.sorted() {
                    item.write(&mut records);
                }
            }
        }
        records
    }

    /// Takes in whole records one by one, with what they need read ahead.
    pub(super) fn load_chunks<const SIZE: usize>(
        &mut self,
        section: Section,
        records: &[u8],
        mut take: impl FnMut(&mut Self, &[u8; SIZE]) -> Result<(), &'static str>,
    ) -> Result<(), LoadError> {
        let (records, rest) = records.as_chunks::<SIZE>();
        if !rest.is_empty() {
            return Err(LoadError::Size(section));
        }
        for records in records.chunks(TOUCH_COUNT) {
            black_box(self.read_ahead(section, records));
            for record in records {
                take(self, record).map_err(|what| LoadError::Record { section, what })?;
            }
        }
        Ok(())
    }

    /// Fetches the places that these records will go to, as [`Self::touch`] does for entries.
    fn read_ahead<const SIZE: usize>(&self, section: Section, records: &[[u8; SIZE]]) -> u64 {
        let mut sum = 0;
        match section {
            Section::Accounts => {
                let records = records.iter().filter_map(|record| record.first_chunk());
                for account in records.filter_map(|record| AccountRecord::read(record).ok()) {
                    sum ^= self.table.touch_place(account.user, account.currency);
                }
            }
            Section::Ids if self.keep_ids => {
                let records = records.iter().filter_map(|record| record.first_chunk());
                for item in records.filter_map(|record| IdItem::read(record).ok()) {
                    sum ^= self.ids.touch(item.row, item.fingerprint);
                }
            }
            Section::Meta | Section::Supply | Section::Ids => (),
        }
        sum
    }

    fn load_meta(&mut self, record: &[u8; META_RECORD_SIZE]) -> Result<(), &'static str> {
        self.loading.meta.take(&mut self.meta, record)
    }

    fn load_supply(&mut self, record: &[u8; SUPPLY_RECORD_SIZE]) -> Result<(), &'static str> {
        let (currency, supply) = Supply::read(record)?;
        if currency <= self.loading.currency {
            return Err("currencies out of order");
        }
        if !self.supplies.has_room(currency, 0) {
            return Err("more currencies than a ledger holds");
        }
        self.loading.currency = currency;
        // The sums are taken from the accounts again.
        *self.supplies.touch(currency) = Supply {
            available: 0,
            held: 0,
            account_count: 0,
            ..supply
        };
        Ok(())
    }

    fn load_account(&mut self, record: &[u8; ACCOUNT_RECORD_SIZE]) -> Result<(), &'static str> {
        let account = AccountRecord::read(record)?;
        let key = account.key();
        if user_slot(self.ring_key, account.user) != account.slot {
            return Err("an account in another slot than its user's");
        }
        if self.meta.slots.gone(account.slot).is_some() {
            return Err("an account in a slot that is gone");
        }
        let last = self.loading.account;
        if last.is_some_and(|(last, _)| key <= last) {
            return Err("accounts out of order");
        }
        if !self.may_open(account.user, account.currency) {
            return Err("more accounts or currencies than a ledger holds");
        }
        let before = last
            .filter(|(last, _)| last.user == account.user)
            .map(|(_, number)| number);
        let number = self.table.insert(&account, Found::Missing, before);
        self.loading.account = Some((key, number));
        self.supplies.touch(account.currency).account_in(&account);
        self.moving.populations[account.slot.index()] += 1;
        self.digests
            .add(account.slot, record_hash(&account.words()));
        Ok(())
    }

    fn load_id(&mut self, record: &[u8; ID_RECORD_SIZE]) -> Result<(), &'static str> {
        let item = IdItem::read(record)?;
        if self.loading.id.is_some_and(|last| item <= last) {
            return Err("ids out of order");
        }
        if row_start_ms(item.row + 1) <= self.meta.horizon_ms {
            return Err("an id before the horizon");
        }
        self.loading.id = Some(item);
        if self.keep_ids {
            self.ids.insert(item);
        }
        Ok(())
    }
}
