//! Old records and a delta become new records, section by section, in one pass over each.

use std::collections::BTreeMap;
use std::iter::Peekable;

use super::bases::{Base, Bases};
use super::delta::SupplyDelta;
use super::lines::{AccountDelta, Changes, IdsInOrder, Known};
use super::{Delta, Source};
use crate::ledger::digest::record_hash;
use crate::ledger::ids::{ID_RECORD_SIZE, IdItem, row_start_ms};
use crate::ledger::load::whole_records;
use crate::ledger::meta::{META_RECORD_SIZE, Meta, MetaReader, Progress};
use crate::ledger::record::{
    ACCOUNT_RECORD_SIZE, ACCOUNT_WORD_COUNT, AccountKey, AccountRecord, read_words,
};
use crate::ledger::supply::{SUPPLY_RECORD_SIZE, Supply, SupplyBroken};
use crate::model::{Entry, HandedSum, Section};

/// New records that are handed on at a time where no old ones bound them.
const PIECE_COUNT: u32 = 4_096;

/// Why a fold did not come to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// Not a whole number of records.
    #[error("section {0:?}: not a whole number of records")]
    Size(Section),
    /// An old record is not one that a ledger writes, or the log does not go on from it.
    #[error("section {section:?}: {what}")]
    Record {
        /// Which section.
        section: Section,
        /// What is wrong.
        what: &'static str,
    },
    /// The new state breaks the identity of a currency.
    #[error(transparent)]
    Supply(#[from] SupplyBroken),
    /// The accounts of a currency do not add up to what its supply record says.
    #[error("currency {currency}: the accounts do not add up to the supply record")]
    Sum {
        /// Which currency.
        currency: u32,
    },
}

/// A fold under way: takes the sections in their order, of each first all old records, in any
/// number of pieces ([`Merge::push`]), then its end ([`Merge::finish`]).
///
/// Panics if the order is broken: that is the caller's own.
#[derive(Debug)]
pub struct Merge {
    section: Option<Section>,
    ends: Option<(Progress, Progress)>,
    horizon_ms: u64,
    meta: Meta,
    meta_reader: MetaReader,
    metas: Vec<Entry>,
    supplies: BTreeMap<u32, Supply>,
    supply_deltas: BTreeMap<u32, SupplyDelta>,
    currency: u32,
    bases: Bases,
    /// The last record of each source, and the last that was taken of any.
    account_lasts: BTreeMap<Source, AccountKey>,
    account_last: Option<AccountKey>,
    /// `None` once their section is over.
    changes: Option<Changes>,
    /// Sums over the accounts as they pass, by currency.
    sums: BTreeMap<u32, Supply>,
    digest: u128,
    id_lasts: BTreeMap<Source, IdItem>,
    id_last: Option<IdItem>,
    /// Once the accounts are over.
    ids: Option<Peekable<IdsInOrder>>,
}

impl Merge {
    pub(super) fn new(delta: Delta) -> Self {
        let Delta {
            ends,
            metas,
            lines,
            supplies,
            horizon_ms,
            bases,
            ..
        } = delta;
        let changes = Changes::new(lines);
        Self {
            section: None,
            ends,
            horizon_ms,
            meta: Meta::new(),
            meta_reader: MetaReader::default(),
            metas,
            supplies: BTreeMap::new(),
            supply_deltas: supplies.into_iter().collect(),
            currency: 0,
            bases,
            account_lasts: BTreeMap::new(),
            account_last: None,
            changes: Some(changes),
            sums: BTreeMap::new(),
            digest: 0,
            id_lasts: BTreeMap::new(),
            id_last: None,
            ids: None,
        }
    }

    /// Takes the next old records of `section`; appends new ones that are settled.
    ///
    /// Accounts and ids come from all sources in the order of [`record_key`]; what has equal keys
    /// in any order. Of images nothing else counts.
    pub fn push(
        &mut self,
        section: Section,
        source: Source,
        old: &[u8],
        new: &mut Vec<u8>,
    ) -> Result<(), FoldError> {
        self.assert_turn_of(section);
        let is_image = source != Source::Checkpoint;
        match section {
            Section::Meta | Section::Supply if is_image => Ok(()),
            Section::Meta => self.push_each(section, old, new, Self::push_meta),
            Section::Supply => self.push_each(section, old, new, Self::push_supply),
            Section::Accounts => {
                let take = |merge: &mut Self, record: &_, new: &mut _| {
                    merge.push_account(source, record, new)
                };
                self.push_each(section, old, new, take)
            }
            Section::Ids => {
                let take =
                    |merge: &mut Self, record: &_, new: &mut _| merge.push_id(source, record, new);
                self.push_each(section, old, new, take)
            }
        }
    }

    /// There are no more old records of `section`: appends the rest of the new ones.
    pub fn finish(&mut self, section: Section, new: &mut Vec<u8>) -> Result<(), FoldError> {
        while !self.finish_piece(section, new)? {}
        Ok(())
    }

    /// As [`Self::finish`], but stops after some records. Was that the rest?
    pub fn finish_piece(&mut self, section: Section, new: &mut Vec<u8>) -> Result<bool, FoldError> {
        self.assert_turn_of(section);
        let broken = |what| FoldError::Record { section, what };
        let is_over = match section {
            Section::Meta => self.finish_meta(new).map(|()| true).map_err(broken)?,
            Section::Supply => self.finish_supply(new).map(|()| true).map_err(broken)?,
            Section::Accounts => self.finish_accounts(new)?,
            Section::Ids => {
                let mut left = PIECE_COUNT;
                self.emit_ids(new, |_| {
                    let is_due = 0 < left;
                    left -= u32::from(is_due);
                    is_due
                });
                self.ids.as_mut().is_none_or(|ids| ids.peek().is_none())
            }
        };
        if is_over {
            self.section = Some(section);
        }
        Ok(is_over)
    }

    /// Digest of the new accounts, once their section is finished: what
    /// [`Ledger::digest`](crate::ledger::Ledger::digest) says at the same position.
    #[must_use]
    pub fn digest(&self) -> u128 {
        assert!(Some(Section::Accounts) <= self.section);
        self.digest
    }

    fn assert_turn_of(&self, section: Section) {
        let before = Section::ALL
            .into_iter()
            .take_while(|other| *other < section)
            .last();
        assert!(self.section == before, "sections are merged in their order");
    }

    fn push_each<const SIZE: usize>(
        &mut self,
        section: Section,
        old: &[u8],
        new: &mut Vec<u8>,
        take: impl Fn(&mut Self, &[u8; SIZE], &mut Vec<u8>) -> Result<(), &'static str>,
    ) -> Result<(), FoldError> {
        for record in whole_records(old).ok_or(FoldError::Size(section))? {
            take(self, record, new).map_err(|what| FoldError::Record { section, what })?;
        }
        Ok(())
    }

    fn push_meta(
        &mut self,
        record: &[u8; META_RECORD_SIZE],
        _new: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        self.meta_reader.take(&mut self.meta, record)
    }

    fn finish_meta(&mut self, new: &mut Vec<u8>) -> Result<(), &'static str> {
        if let Some((first, last)) = self.ends {
            self.meta.progress.check(first)?;
            self.meta.progress = last;
        }
        for entry in std::mem::take(&mut self.metas) {
            self.meta.take(&entry)?;
        }
        self.horizon_ms = self.meta.horizon_ms;
        self.meta.write(new);
        Ok(())
    }

    fn push_supply(
        &mut self,
        record: &[u8; SUPPLY_RECORD_SIZE],
        _new: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        let (currency, supply) = Supply::read(record)?;
        if currency <= self.currency {
            return Err("currencies out of order");
        }
        self.currency = currency;
        self.supplies.insert(currency, supply);
        Ok(())
    }

    fn finish_supply(&mut self, new: &mut Vec<u8>) -> Result<(), &'static str> {
        for (currency, delta) in std::mem::take(&mut self.supply_deltas) {
            let supply = self.supplies.entry(currency).or_default();
            supply.issued += delta.issued;
            supply.burned += delta.burned;
            supply.available += delta.available;
            supply.held += delta.held;
            supply.adopted_in += delta.adopted_in;
            supply.adopted_out += delta.adopted_out;
            supply.account_count = supply
                .account_count
                .checked_add_signed(delta.account_count)
                .ok_or("fewer accounts than were closed")?;
        }
        for (currency, supply) in &self.supplies {
            supply.write(*currency, new);
        }
        Ok(())
    }

    fn push_account(
        &mut self,
        source: Source,
        record: &[u8; ACCOUNT_RECORD_SIZE],
        new: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        let old = AccountRecord::read(record)?;
        let key = old.key();
        let last = self.account_lasts.insert(source, key);
        if last.is_some_and(|last| key <= last) {
            return Err("accounts out of order");
        }
        if self.bases.of(key.slot) != Base::Of(source) {
            return Ok(());
        }
        if self.account_last.is_some_and(|last| key <= last) {
            return Err("accounts out of order");
        }
        self.account_last = Some(key);
        while let Some((other, delta)) = self.next_change()? {
            if key < *other {
                break;
            }
            let is_same = *other == key;
            let account = if is_same {
                changed(&old, delta)?
            } else {
                opened(delta)?
            };
            self.settle(account.as_ref(), new)?;
            if is_same {
                return Ok(());
            }
        }
        self.emit_account(&old, new)
    }

    fn next_change(&mut self) -> Result<Option<&(AccountKey, AccountDelta)>, &'static str> {
        let changes = self.changes.as_mut();
        changes.map_or(Ok(None), |changes| changes.peek(&self.bases))
    }

    /// The next change is done: the account is this.
    fn settle(
        &mut self,
        account: Option<&AccountRecord>,
        new: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        if let Some(changes) = &mut self.changes {
            changes.advance();
        }
        account.map_or(Ok(()), |account| self.emit_account(account, new))
    }

    /// Accounts behind all old ones, up to [`PIECE_COUNT`] of them. Are those all?
    fn finish_opened(&mut self, new: &mut Vec<u8>) -> Result<bool, &'static str> {
        for _ in 0..PIECE_COUNT {
            let Some((_, delta)) = self.next_change()? else {
                return Ok(true);
            };
            let account = opened(delta)?;
            self.settle(account.as_ref(), new)?;
        }
        Ok(false)
    }

    fn finish_accounts(&mut self, new: &mut Vec<u8>) -> Result<bool, FoldError> {
        let section = Section::Accounts;
        let all = self.finish_opened(new);
        if !all.map_err(|what| FoldError::Record { section, what })? {
            return Ok(false);
        }
        let changes = self.changes.take();
        self.ids = changes.map(|changes| changes.into_ids().peekable());
        for (currency, supply) in &self.supplies {
            let sum = self.sums.remove(currency).unwrap_or_default();
            let same = sum.available == supply.available
                && sum.held == supply.held
                && sum.account_count == supply.account_count;
            if !same {
                return Err(FoldError::Sum {
                    currency: *currency,
                });
            }
            supply.check(*currency)?;
        }
        match self.sums.keys().next() {
            Some(currency) => Err(FoldError::Sum {
                currency: *currency,
            }),
            None => Ok(true),
        }
    }

    fn emit_account(
        &mut self,
        account: &AccountRecord,
        new: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        if self.meta.slots.gone(account.slot).is_some() {
            return Err("an account in a slot that is gone");
        }
        self.digest = self.digest.wrapping_add(record_hash(&account.words()));
        self.sums
            .entry(account.currency)
            .or_default()
            .account_in(account);
        account.write(new);
        Ok(())
    }

    fn push_id(
        &mut self,
        source: Source,
        record: &[u8; ID_RECORD_SIZE],
        new: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        let old = IdItem::read(record)?;
        let last = self.id_lasts.insert(source, old);
        if last.is_some_and(|last| old <= last) {
            return Err("ids out of order");
        }
        self.emit_ids(new, |item| *item < old);
        self.emit_id(old, new);
        Ok(())
    }

    fn emit_ids(&mut self, new: &mut Vec<u8>, mut is_due: impl FnMut(&IdItem) -> bool) {
        while let Some(item) = self.next_id(&mut is_due) {
            self.emit_id(item, new);
        }
    }

    fn next_id(&mut self, is_due: &mut impl FnMut(&IdItem) -> bool) -> Option<IdItem> {
        let ids = self.ids.as_mut()?;
        ids.next_if(is_due)
    }

    /// Rows that end at or before the horizon are forgotten; what comes from several sources is
    /// there once.
    fn emit_id(&mut self, item: IdItem, new: &mut Vec<u8>) {
        let is_again = self.id_last.replace(item) == Some(item);
        if !is_again && self.horizon_ms < row_start_ms(item.row + 1) {
            item.write(new);
        }
    }
}

/// By what the records of a section are sorted.
pub type RecordKey = [u64; 4];

/// The key of one record of the right size; panics on another size.
#[must_use]
pub fn record_key(section: Section, record: &[u8]) -> RecordKey {
    match section {
        // Read in their order, of one source only.
        Section::Meta | Section::Supply => [0; 4],
        Section::Accounts => {
            let mut words = [0; ACCOUNT_WORD_COUNT];
            read_words(record, &mut words);
            let [low, high, mixed, ..] = words;
            [mixed >> 48, high, low, mixed & u64::from(u32::MAX)]
        }
        Section::Ids => {
            let mut words = [0; 3];
            read_words(record, &mut words);
            let [row, fingerprint, place] = words;
            [row, fingerprint, place, 0]
        }
    }
}

/// What the accounts of an image hold: its supply records.
pub fn image_sums(records: &[u8]) -> Result<Vec<HandedSum>, FoldError> {
    let section = Section::Supply;
    let records = whole_records(records).ok_or(FoldError::Size(section))?;
    let sum_of = |record: &[u8; SUPPLY_RECORD_SIZE]| {
        let (currency, supply) =
            Supply::read(record).map_err(|what| FoldError::Record { section, what })?;
        if u64::from(u32::MAX) < supply.account_count {
            let what = "more accounts than a ledger holds";
            return Err(FoldError::Record { section, what });
        }
        Ok(HandedSum {
            currency,
            account_count: supply.account_count,
            available: supply.available,
            held: supply.held,
        })
    };
    records.map(sum_of).collect()
}

/// An account that no old record is about; `None` if it is closed again.
fn opened(delta: &AccountDelta) -> Result<Option<AccountRecord>, &'static str> {
    if delta.base.is_some() {
        return Err("the log changes an account that the checkpoint does not have");
    }
    Ok(delta.account)
}

/// An old account after the stretch; `None` if it is closed.
fn changed(
    old: &AccountRecord,
    delta: &AccountDelta,
) -> Result<Option<AccountRecord>, &'static str> {
    let Some((image, place)) = delta.base else {
        return Err("the log opens an account that the checkpoint has");
    };
    // A version of 0: closed by its first entry, which tells none.
    let same_version = image.version == 0 || image.version == old.version;
    if place != old.place || image.available != old.available || image.held != old.held {
        return Err("the log does not go on from the account's record");
    }
    if !same_version {
        return Err("the log does not go on from the account's version");
    }
    let account = delta.account.map(|account| match delta.known {
        Known::All => account,
        Known::Settings => AccountRecord {
            outgoing: old.outgoing,
            ..account
        },
        Known::Images => AccountRecord {
            outgoing: old.outgoing,
            settings: old.settings,
            ..account
        },
    });
    Ok(account)
}
