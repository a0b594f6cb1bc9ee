//! Slots that come into this ledger: their state is loaded in pieces beside the ledger's own, as
//! *staged*, and counts for nothing before its activation. A drop lets it go again.
//!
//! Staged accounts lie in the table like others, in slots that are hidden. Ids are remembered at
//! once: they do no harm before, and a superset none after a drop.

use std::collections::BTreeMap;

use super::digest::record_hash;
use super::ids::{ID_RECORD_SIZE, IdItem, row_start_ms};
use super::load::{LoadError, whole_records};
use super::meta::{META_RECORD_SIZE, Meta, MetaReader};
use super::record::{ACCOUNT_RECORD_SIZE, AccountKey, AccountRecord};
use super::slot_set::{SlotSet, are_rising, slots_of};
use super::supply::{SUPPLY_RECORD_SIZE, Supply};
use super::table::Found;
use super::watch::Sums;
use super::{Ledger, Progress};
use crate::canary::{self, Bug};
use crate::limits::{ACCOUNT_COUNT_MAX, CURRENCIES_PER_USER_MAX, SLOT_COUNT};
use crate::model::{
    Activation, Adopt, AdoptedFile, AdoptedSlots, HandedSum, LogTime, MoveNumber, Section, Slot,
    SlotRange, slot_of_fingerprint, to_u64, user_slot,
};

/// State that was loaded whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The move.
    pub number: MoveNumber,
    /// Sum of the digests of its slots.
    pub digest: u128,
    /// Accounts in it.
    pub account_count: u64,
    /// The source's horizon, Unix ms.
    pub horizon_ms: u64,
    /// The source's log time: that of the adopt entry must lie above it.
    pub time: LogTime,
}

/// What is staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageInfo {
    /// Under which move.
    pub number: MoveNumber,
    /// An adopt entry says so: only an activation or a drop ends it.
    pub is_adopted: bool,
}

/// Why nothing can be staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StageError {
    /// Something is staged already.
    #[error("the state of move {0} is staged")]
    Busy(MoveNumber),
    /// Accounts that went before are still to be swept out.
    #[error("accounts of slots that are gone are not swept out yet")]
    Unswept,
    /// The slots do not rise, or there are none.
    #[error("slots out of order")]
    Ranges,
    /// This log has the slot itself.
    #[error("slot {} is this log's own", .0.0)]
    Own(Slot),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Loading,
    Loaded,
    /// Entries of an adoption are still to come.
    Adopting {
        has_file: bool,
        entries_left: u32,
        range_index: usize,
    },
    Adopted,
    /// Entries of the activation are still to come.
    Activating {
        slots_left: u32,
    },
}

/// State beside the ledger's own.
#[derive(Debug)]
pub(super) struct Staged {
    number: MoveNumber,
    ranges: Vec<SlotRange>,
    slots: SlotSet,
    phase: Phase,
    section: Option<Section>,
    meta: Meta,
    meta_reader: MetaReader,
    /// What the file says that its accounts hold, and what they do.
    claimed: BTreeMap<u32, HandedSum>,
    sums: Sums,
    /// Currencies that the ledger did not have when they came.
    currency_new_count: u32,
    account: Option<(AccountKey, u32)>,
    accounts_of_user: u32,
    id: Option<IdItem>,
    digests: Box<[u128]>,
    digest: u128,
}

impl Staged {
    fn new(number: MoveNumber, ranges: &[SlotRange]) -> Self {
        Self {
            number,
            ranges: ranges.to_vec(),
            slots: SlotSet::of(ranges),
            phase: Phase::Loading,
            section: None,
            meta: Meta::new(),
            meta_reader: MetaReader::default(),
            claimed: BTreeMap::new(),
            sums: Sums::default(),
            currency_new_count: 0,
            account: None,
            accounts_of_user: 0,
            id: None,
            digests: vec![0; SLOT_COUNT as usize].into_boxed_slice(),
            digest: 0,
        }
    }

    pub(super) const fn number(&self) -> MoveNumber {
        self.number
    }

    pub(super) fn holds(&self, slot: Slot) -> bool {
        self.slots.contains(slot)
    }

    /// Currencies for which the ledger must keep room.
    pub(super) const fn currency_new_count(&self) -> u32 {
        self.currency_new_count
    }

    pub(super) const fn is_adopting(&self) -> bool {
        matches!(self.phase, Phase::Adopting { .. })
    }

    pub(super) const fn is_activating(&self) -> bool {
        matches!(self.phase, Phase::Activating { .. })
    }

    const fn is_adopted(&self) -> bool {
        match self.phase {
            Phase::Loading | Phase::Loaded => false,
            Phase::Adopting { .. } | Phase::Adopted | Phase::Activating { .. } => true,
        }
    }

    pub(super) fn memory_size(&self) -> u64 {
        to_u64(size_of_val(&*self.digests))
    }

    const fn stage(&self, account_count: u64) -> Stage {
        Stage {
            number: self.number,
            digest: self.digest,
            account_count,
            horizon_ms: self.meta.horizon_ms,
            time: self.meta.progress.time,
        }
    }

    fn load_meta(&mut self, record: &[u8; META_RECORD_SIZE]) -> Result<(), &'static str> {
        self.meta_reader.take(&mut self.meta, record)
    }

    fn load_supply(&mut self, record: &[u8; SUPPLY_RECORD_SIZE]) -> Result<(), &'static str> {
        let (currency, supply) = Supply::read(record)?;
        let sum = HandedSum {
            currency,
            account_count: supply.account_count,
            available: supply.available,
            held: supply.held,
        };
        let last = self.claimed.last_key_value();
        if last.is_some_and(|(last, _)| currency <= *last) {
            return Err("currencies out of order");
        }
        let alone = Supply {
            account_count: sum.account_count,
            available: sum.available,
            held: sum.held,
            ..Supply::default()
        };
        if supply != alone || sum.account_count == 0 {
            return Err("an image with counters of a supply, or a currency without an account");
        }
        self.claimed.insert(currency, sum);
        Ok(())
    }

    /// Are the accounts those that the file says, in the slots that were asked for?
    fn check_whole(&self) -> Result<(), LoadError> {
        let wrong = |section, what| Err(LoadError::Record { section, what });
        let of_meta = self.slots.iter().eq((0..=u16::MAX)
            .map(Slot)
            .filter(|slot| self.meta.slots.epoch(*slot).is_some()));
        if !self.meta_reader.has_head() || !of_meta {
            return wrong(Section::Meta, "the image is of other slots");
        }
        if !self.sums.iter().eq(self.claimed.values().copied()) {
            return wrong(Section::Supply, "the accounts do not add up to the sums");
        }
        Ok(())
    }
}

impl Ledger {
    /// Begins to take in the state of `ranges` under a move, after the sweep.
    pub fn stage_begin(
        &mut self,
        number: MoveNumber,
        ranges: &[SlotRange],
    ) -> Result<(), StageError> {
        if let Some(stage) = &self.moving.stage {
            return Err(StageError::Busy(stage.number));
        }
        if self.moving.unswept.count() != 0 {
            return Err(StageError::Unswept);
        }
        if ranges.is_empty() || !are_rising(ranges) {
            return Err(StageError::Ranges);
        }
        let mut slots = ranges.iter().copied().flat_map(slots_of);
        let is_own = |slot: &Slot| self.owned(*slot) || self.moving.populations[slot.index()] != 0;
        if let Some(slot) = slots.find(is_own) {
            return Err(StageError::Own(slot));
        }
        for range in ranges {
            self.moving.hidden.insert(*range);
        }
        self.moving.stage = Some(Box::new(Staged::new(number, ranges)));
        Ok(())
    }

    /// Takes in records of an image: sections in their order, each in any number of pieces of
    /// whole records. After an error the stage must be aborted.
    pub fn stage_load(&mut self, section: Section, records: &[u8]) -> Result<(), LoadError> {
        let Some(mut stage) = self.moving.stage.take() else {
            return Err(LoadError::Order(section));
        };
        let loaded = self.load_staged(&mut stage, section, records);
        self.moving.stage = Some(stage);
        loaded
    }

    /// Everything was taken in. After an error the stage must be aborted.
    pub fn stage_end(&mut self) -> Result<Stage, LoadError> {
        match &mut self.moving.stage {
            Some(stage) if stage.phase == Phase::Loading => {
                stage.check_whole()?;
                stage.phase = Phase::Loaded;
                Ok(stage.stage(stage.sums.account_count()))
            }
            Some(_) | None => Err(LoadError::Order(Section::Meta)),
        }
    }

    /// Lets go what is staged under the move without an adopt entry; it is swept out like what was
    /// handed over. False: there is no such thing, or it is adopted.
    pub fn stage_abort(&mut self, number: MoveNumber) -> bool {
        let stage = self.moving.stage.take();
        match stage {
            Some(stage) if stage.number == number && !stage.is_adopted() => {
                self.moving.sweep(stage.ranges.iter().copied());
                true
            }
            other @ (Some(_) | None) => {
                self.moving.stage = other;
                false
            }
        }
    }

    /// Is state of this slot staged?
    #[must_use]
    pub fn is_staged(&self, slot: Slot) -> bool {
        let stage = self.moving.stage.as_ref();
        stage.is_some_and(|stage| stage.holds(slot))
    }

    /// What is staged.
    #[must_use]
    pub fn staged(&self) -> Option<StageInfo> {
        self.moving.stage.as_ref().map(|stage| StageInfo {
            number: stage.number,
            is_adopted: stage.is_adopted(),
        })
    }

    fn load_staged(
        &mut self,
        stage: &mut Staged,
        section: Section,
        records: &[u8],
    ) -> Result<(), LoadError> {
        if stage.phase != Phase::Loading || Some(section) < stage.section {
            return Err(LoadError::Order(section));
        }
        stage.section = Some(section);
        let wrong = |what| LoadError::Record { section, what };
        let size = LoadError::Size(section);
        match section {
            Section::Meta => {
                let mut records = whole_records(records).ok_or(size)?;
                records
                    .try_for_each(|record| stage.load_meta(record))
                    .map_err(wrong)
            }
            Section::Supply => {
                let mut records = whole_records(records).ok_or(size)?;
                records
                    .try_for_each(|record| stage.load_supply(record))
                    .map_err(wrong)
            }
            Section::Accounts => self.load_chunks(section, records, |ledger, record| {
                ledger.stage_account(stage, record)
            }),
            Section::Ids => self.load_chunks(section, records, |ledger, record| {
                ledger.stage_id(stage, record)
            }),
        }
    }

    fn stage_account(
        &mut self,
        stage: &mut Staged,
        record: &[u8; ACCOUNT_RECORD_SIZE],
    ) -> Result<(), &'static str> {
        let account = AccountRecord::read(record)?;
        let key = account.key();
        if !stage.holds(key.slot) {
            return Err("an account of another slot");
        }
        if stage.account.is_some_and(|(last, _)| key <= last) {
            return Err("accounts out of order");
        }
        let before = stage.account.filter(|(last, _)| last.user == account.user);
        if before.is_none() && user_slot(self.ring_key, account.user) != account.slot {
            return Err("an account in another slot than its user's");
        }
        let of_user = if before.is_some() {
            stage.accounts_of_user
        } else {
            0
        };
        if self.table.count() == ACCOUNT_COUNT_MAX || of_user == CURRENCIES_PER_USER_MAX {
            return Err("more accounts than a ledger holds");
        }
        if !stage.sums.has(account.currency) && self.supplies.get(account.currency).is_none() {
            if !self
                .supplies
                .has_room(account.currency, stage.currency_new_count)
            {
                return Err("more currencies than a ledger holds");
            }
            stage.currency_new_count += 1;
        }
        let before = before.map(|(_, number)| number);
        let number = self.table.insert(&account, Found::Missing, before);
        stage.account = Some((key, number));
        stage.accounts_of_user = of_user + 1;
        stage.sums.add(&account);
        let hash = record_hash(&account.words());
        let digest = &mut stage.digests[key.slot.index()];
        *digest = digest.wrapping_add(hash);
        stage.digest = stage.digest.wrapping_add(hash);
        self.moving.populations[key.slot.index()] += 1;
        self.moving.hidden_account_count += 1;
        Ok(())
    }

    fn stage_id(
        &mut self,
        stage: &mut Staged,
        record: &[u8; ID_RECORD_SIZE],
    ) -> Result<(), &'static str> {
        let item = IdItem::read(record)?;
        if stage.id.is_some_and(|last| item <= last) {
            return Err("ids out of order");
        }
        if !stage.holds(slot_of_fingerprint(item.fingerprint)) {
            return Err("an id of another slot");
        }
        stage.id = Some(item);
        let is_forgotten = row_start_ms(item.row + 1) <= self.meta.horizon_ms;
        if self.keep_ids && !is_forgotten {
            self.ids.insert_absent(item);
        }
        Ok(())
    }

    /// Takes the first entry of an adoption in. After an error nothing has changed.
    pub(super) fn take_adopt(&mut self, adopt: &Adopt, next: Progress) -> Result<(), &'static str> {
        let stage = self.moving.stage.as_mut();
        let stage = stage.filter(|stage| stage.phase == Phase::Loaded);
        let stage = stage.ok_or("adopts what is not staged")?;
        let told = Stage {
            number: adopt.number,
            digest: adopt.digest,
            account_count: 0,
            horizon_ms: adopt.horizon_ms,
            time: adopt.time,
        };
        if stage.stage(0) != told {
            return Err("adopts something else than what is staged");
        }
        if next.time <= adopt.time {
            return Err("log time is not above the source's");
        }
        stage.phase = Phase::Adopting {
            has_file: false,
            entries_left: adopt.slots_entry_count,
            range_index: 0,
        };
        if !canary::on(Bug::HorizonNotRaised) {
            self.meta.horizon_ms = self.meta.horizon_ms.max(adopt.horizon_ms);
        }
        self.ids.forget(self.meta.horizon_ms);
        self.step_to(next);
        Ok(())
    }

    /// Takes the entry about the file in. After an error nothing has changed.
    pub(super) fn take_adopted_file(
        &mut self,
        file: &AdoptedFile,
        next: Progress,
    ) -> Result<(), &'static str> {
        let Some(stage) = &mut self.moving.stage else {
            return Err("an adopted file without an adoption");
        };
        let known = stage.number == file.number && stage.sums.account_count() == file.account_count;
        match &mut stage.phase {
            Phase::Adopting { has_file, .. } if known && !*has_file => *has_file = true,
            Phase::Adopting { .. }
            | Phase::Loading
            | Phase::Loaded
            | Phase::Adopted
            | Phase::Activating { .. } => return Err("an adopted file that is not due"),
        }
        self.step_to(next);
        Ok(())
    }

    /// Takes slots of an adoption in. After an error nothing has changed.
    pub(super) fn take_adopted_slots(
        &mut self,
        slots: &AdoptedSlots,
        next: Progress,
    ) -> Result<(), &'static str> {
        let Some(stage) = &mut self.moving.stage else {
            return Err("adopted slots without an adoption");
        };
        let Phase::Adopting {
            has_file: true,
            entries_left,
            range_index,
        } = stage.phase
        else {
            return Err("adopted slots that are not due");
        };
        let ranges = slots.slots.as_slice();
        let due = stage.ranges.get(range_index..range_index + ranges.len());
        let end = range_index + ranges.len();
        let is_last = entries_left == 1;
        if stage.number != slots.number
            || due != Some(ranges)
            || is_last != (end == stage.ranges.len())
        {
            return Err("adopts other slots than what is staged");
        }
        stage.phase = if is_last {
            Phase::Adopted
        } else {
            Phase::Adopting {
                has_file: true,
                entries_left: entries_left - 1,
                range_index: end,
            }
        };
        self.step_to(next);
        Ok(())
    }

    /// Takes an entry of the activation of a move in. After an error nothing has changed.
    pub(super) fn take_activation(
        &mut self,
        activation: &Activation,
        next: Progress,
    ) -> Result<(), &'static str> {
        let stage = self.moving.stage.as_mut();
        let stage = stage.filter(|stage| stage.number == activation.number);
        let stage = stage.ok_or("activates what is not staged")?;
        let slots_left = match stage.phase {
            Phase::Adopted => stage.slots.count(),
            Phase::Activating { slots_left } => slots_left,
            Phase::Loading | Phase::Loaded | Phase::Adopting { .. } => {
                return Err("activates what is not adopted");
            }
        };
        let ranges = activation.ranges();
        let mut slots = ranges.iter().copied().flat_map(slots_of);
        if ranges.is_empty() || !are_rising(ranges) || !slots.all(|slot| stage.holds(slot)) {
            return Err("activates other slots than were adopted");
        }
        self.meta.slots.activate(activation)?;
        // From here on nothing can fail: a slot that was activated before is owned, and refused.
        let mut slots_left = slots_left;
        for slot in ranges.iter().copied().flat_map(slots_of) {
            self.digests.add(slot, stage.digests[slot.index()]);
            slots_left -= 1;
        }
        for range in ranges {
            self.moving.hidden.remove(*range);
        }
        stage.phase = Phase::Activating { slots_left };
        if slots_left == 0
            && let Some(stage) = self.moving.stage.take()
        {
            for sum in stage.sums.iter() {
                self.supplies.touch(sum.currency).adopt(&sum);
            }
            self.moving.hidden_account_count -= stage.sums.account_count();
        }
        self.step_to(next);
        Ok(())
    }

    /// Takes a drop in. After an error nothing has changed.
    pub(super) fn take_drop(
        &mut self,
        number: MoveNumber,
        next: Progress,
    ) -> Result<(), &'static str> {
        match self.moving.stage.take() {
            Some(stage) if stage.number == number && stage.phase == Phase::Adopted => {
                self.moving.sweep(stage.ranges.iter().copied());
                self.step_to(next);
                Ok(())
            }
            other @ (Some(_) | None) => {
                self.moving.stage = other;
                Err("drops what is not adopted")
            }
        }
    }
}
