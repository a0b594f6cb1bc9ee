//! The state of some slots, written out piece by piece in the form of a checkpoint.

use super::Ledger;
use super::meta::Meta;
use super::slot_set::SlotSet;
use super::slots::{SlotRun, SlotState};
use super::supply::Supply;
use crate::canary::{self, Bug};
use crate::model::{LogTime, RingEpoch, Section, Slot, SlotRange};

/// Bytes of records handed on at a time, about.
const PIECE_SIZE: usize = 256 << 10;

/// Takes the pieces of an image.
pub type ImageSink<'a, E> = dyn FnMut(Section, &[u8]) -> Result<(), E> + 'a;

/// What an image stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageFigures {
    /// Sum of the digests of its slots.
    pub digest: u128,
    /// Accounts in it.
    pub account_count: u64,
    /// Ids older than this, in Unix ms, are forgotten.
    pub horizon_ms: u64,
    /// Log time of the last entry.
    pub time: LogTime,
}

impl Ledger {
    /// What the image of `ranges` stands for, without a walk over the accounts.
    #[must_use]
    pub fn image_figures(&self, ranges: &[SlotRange]) -> ImageFigures {
        let slots = self.visible(ranges);
        let digests = slots.iter().map(|slot| self.digests.slot(slot));
        let counts = slots
            .iter()
            .map(|slot| self.moving.populations[slot.index()]);
        ImageFigures {
            digest: digests.fold(0, u128::wrapping_add),
            account_count: counts.map(u64::from).sum(),
            horizon_ms: self.meta.horizon_ms,
            time: self.meta.progress.time,
        }
    }

    /// Writes the state of `ranges` out: sections in their order, each in pieces of whole records.
    /// The slots are this log's own, not gone.
    pub fn write_image<E>(
        &self,
        ranges: &[SlotRange],
        write: &mut ImageSink<'_, E>,
    ) -> Result<(), E> {
        let slots = self.visible(ranges);
        write(Section::Meta, &self.image_head(ranges))?;
        let mut records = Vec::new();
        for sum in self.sums_in(&slots).iter() {
            let supply = Supply {
                account_count: sum.account_count,
                available: sum.available,
                held: sum.held,
                ..Supply::default()
            };
            supply.write(sum.currency, &mut records);
        }
        write(Section::Supply, &records)?;
        self.write_accounts(&slots, write)?;
        if canary::on(Bug::ImageWithoutIds) {
            return write(Section::Ids, &[]);
        }
        for items in self.ids.rows_of(&slots) {
            records.clear();
            for item in items {
                item.write(&mut records);
            }
            write(Section::Ids, &records)?;
        }
        Ok(())
    }

    /// The records of an image's first section. Alone among its sections it says up to where in the
    /// log it goes; entries that change no account, id or slot make no other difference to it.
    #[must_use]
    pub fn image_head(&self, ranges: &[SlotRange]) -> Vec<u8> {
        let mut records = Vec::new();
        self.image_meta(ranges).write(&mut records);
        records
    }

    fn image_meta(&self, ranges: &[SlotRange]) -> Meta {
        let mut meta = Meta::new();
        meta.progress = self.meta.progress;
        meta.horizon_ms = self.meta.horizon_ms;
        // A slot that was never activated here counts as activated in the newest epoch.
        let newest = RingEpoch(self.meta.slots.newest().0.max(1));
        for slot in SlotSet::of(ranges).iter() {
            let epoch = self.meta.slots.epoch(slot).unwrap_or(newest);
            meta.slots.set(SlotRun {
                range: SlotRange {
                    first: slot,
                    last: slot,
                },
                state: SlotState::Owned(epoch),
            });
        }
        meta
    }

    /// Slot by slot: their accounts are gathered by slot first, which needs four bytes each.
    fn write_accounts<E>(&self, slots: &SlotSet, write: &mut ImageSink<'_, E>) -> Result<(), E> {
        let mut ends: Vec<(Slot, usize)> = Vec::with_capacity(slots.count() as usize);
        let mut places = vec![0; usize::from(u16::MAX) + 1];
        let mut total = 0;
        for slot in slots.iter() {
            places[slot.index()] = total;
            total += self.moving.populations[slot.index()] as usize;
            ends.push((slot, total));
        }
        let mut numbers = vec![0; total];
        for number in self.table.numbers_in(slots, 0, u32::MAX) {
            let place = &mut places[self.table.slot(number).index()];
            numbers[*place] = number;
            *place += 1;
        }
        let mut records = Vec::with_capacity(PIECE_SIZE);
        let mut from = 0;
        for (slot, end) in ends {
            assert!(places[slot.index()] == end, "populations are exact");
            let of_slot = &mut numbers[from..end];
            of_slot.sort_unstable_by_key(|number| self.table.key(*number));
            for number in of_slot {
                self.table.record(*number).write(&mut records);
            }
            from = end;
            if PIECE_SIZE <= records.len() {
                write(Section::Accounts, &records)?;
                records.clear();
            }
        }
        write(Section::Accounts, &records)
    }
}
