//! Slots that leave this ledger: watched beforehand, handed over by an entry, swept out afterwards.
//!
//! A hand-over takes a step per slot and currency: what the accounts hold is in its entries, and
//! the accounts themselves are only hidden. [`Ledger::sweep_step`] takes them out later, while the
//! ledger goes on.

use super::slot_set::{SlotSet, slots_of};
use super::stage::Staged;
use super::watch::{Sums, Watch};
use super::{Ledger, Progress};
use crate::limits::SLOT_COUNT;
use crate::model::{Entry, HandOver, HandedSum, HandedSums, MoveNumber, Slot, SlotRange};

/// Lines looked at for one account that may be taken: most are not of the slots in question.
const LINES_PER_ACCOUNT: u32 = 16;

/// What is known of moves in either direction.
#[derive(Debug)]
pub(super) struct Moving {
    /// Slots whose accounts, if the table has any, are not part of the state: gone, staged, or
    /// still to be swept.
    pub(super) hidden: SlotSet,
    pub(super) hidden_account_count: u64,
    /// Accounts in the table by slot, hidden or not.
    pub(super) populations: Box<[u32]>,
    /// Slots whose accounts are to be taken out of the table.
    pub(super) unswept: SlotSet,
    sweep_cursor: u32,
    pub(super) watch: Option<Watch>,
    pub(super) stage: Option<Box<Staged>>,
    handing: Option<Handing>,
}

/// A hand-over of which not all entries are here yet: they lie in one block.
#[derive(Clone, Copy, Debug)]
struct Handing {
    number: MoveNumber,
    entry_count: u32,
    /// Entries of the present list that are still to come.
    entries_left: u32,
    /// Accounts in the slots so far that no sum has accounted for.
    accounts_left: u64,
    /// Entries of sums: all, and those still to come.
    sums: Option<(u32, u32)>,
    currency: u32,
}

impl Handing {
    const fn is_open(&self) -> bool {
        let sums_left = match self.sums {
            Some((_, left)) => left,
            None => 0,
        };
        self.entries_left != 0 || self.accounts_left != 0 || sums_left != 0
    }
}

impl Moving {
    pub(super) fn new() -> Self {
        Self {
            hidden: SlotSet::new(),
            hidden_account_count: 0,
            populations: vec![0; SLOT_COUNT as usize].into_boxed_slice(),
            unswept: SlotSet::new(),
            sweep_cursor: 0,
            watch: None,
            stage: None,
            handing: None,
        }
    }

    /// Are the accounts of the slot no part of the state?
    #[inline]
    pub(super) fn hides(&self, slot: Slot) -> bool {
        self.hidden.count() != 0 && self.hidden.contains(slot)
    }

    /// Checks that the entries of one step follow each other. The error says what is missing.
    #[inline]
    pub(super) fn check_step(&self, entry: Option<&Entry>) -> Result<(), &'static str> {
        if self.handing.is_none() && self.stage.is_none() {
            return Ok(());
        }
        let (mut hands, mut adopts, mut activates) = (false, false, false);
        match entry {
            Some(Entry::HandOver(_) | Entry::HandedSums(_)) => hands = true,
            Some(Entry::AdoptedFile(_) | Entry::AdoptedSlots(_)) => adopts = true,
            Some(Entry::Activation(activation)) => activates = activation.number != MoveNumber(0),
            Some(
                Entry::Change(_)
                | Entry::Horizon { .. }
                | Entry::Epoch(_)
                | Entry::Adopt(_)
                | Entry::Drop { .. },
            )
            | None => {}
        }
        if !hands && self.handing.is_some_and(|handing| handing.is_open()) {
            return Err("a hand-over is not whole");
        }
        match &self.stage {
            Some(stage) if stage.is_adopting() && !adopts => Err("an adoption is not whole"),
            Some(stage) if stage.is_activating() && !activates => {
                Err("the activation of a move is not whole")
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Accounts of `slots` are to be swept out.
    pub(super) fn sweep(&mut self, slots: impl Iterator<Item = SlotRange>) {
        for range in slots {
            self.unswept.insert(range);
            self.hidden.insert(range);
        }
        self.sweep_cursor = 0;
    }

    pub(super) fn memory_size(&self) -> u64 {
        let stage = self.stage.as_ref().map_or(0, |stage| stage.memory_size());
        crate::model::to_u64(size_of_val(&*self.populations)) + stage
    }
}

impl Ledger {
    /// The move by which the slot left this log, if it did and has not come back.
    #[must_use]
    pub fn gone(&self, slot: Slot) -> Option<MoveNumber> {
        self.meta.slots.gone(slot)
    }

    /// Begins to add up what the accounts of `ranges` hold, for the hand-over of this move; what
    /// was watched before is forgotten. [`Self::watch_step`] does it.
    pub fn watch(&mut self, number: MoveNumber, ranges: &[SlotRange]) {
        self.moving.watch = Some(Watch::new(number, ranges));
    }

    /// Adds up at most `account_count_max` more accounts. True: the sums are complete, and stay
    /// exact from now on. Panics if nothing is watched.
    pub fn watch_step(&mut self, account_count_max: u32) -> bool {
        let watch = self.moving.watch.as_mut().expect("something is watched");
        if watch.is_complete() {
            return true;
        }
        let line_count = self.table.line_count();
        let looked = account_count_max.saturating_mul(LINES_PER_ACCOUNT);
        let end = watch.cursor.saturating_add(looked).min(line_count);
        let from = watch.cursor;
        let mut numbers = self.table.numbers_in(&watch.slots, from, end);
        for number in numbers.by_ref().take(account_count_max as usize) {
            watch.sums.add(&self.table.record(number));
        }
        let next = numbers.next().unwrap_or(end);
        drop(numbers);
        watch.cursor = next;
        if watch.cursor == line_count {
            watch.complete();
        }
        watch.is_complete()
    }

    /// What the watched accounts hold now, by currency. Panics before the watch is complete.
    #[must_use]
    pub fn watch_sums(&self) -> Vec<HandedSum> {
        let watch = self.moving.watch.as_ref();
        let watch = watch.filter(|watch| watch.is_complete());
        watch.expect("the watch is complete").sums.iter().collect()
    }

    /// The move for which slots are watched.
    #[must_use]
    pub fn watched(&self) -> Option<MoveNumber> {
        self.moving.watch.as_ref().map(|watch| watch.number)
    }

    /// Ends the watch. A hand-over of watched slots ends it too.
    pub fn unwatch(&mut self) {
        self.moving.watch = None;
    }

    /// What the accounts of `ranges` hold now, in one walk over all accounts.
    #[must_use]
    pub fn sums_of(&self, ranges: &[SlotRange]) -> Vec<HandedSum> {
        self.sums_in(&self.visible(ranges)).iter().collect()
    }

    /// What they hold once the move `activated`, which is staged, is activated.
    #[must_use]
    pub fn sums_with(&self, activated: MoveNumber, ranges: &[SlotRange]) -> Vec<HandedSum> {
        let mut slots = self.visible(ranges);
        let stage = self.moving.stage.as_ref();
        if let Some(stage) = stage.filter(|stage| stage.number() == activated) {
            for slot in SlotSet::of(ranges).iter().filter(|slot| stage.holds(*slot)) {
                slots.insert(SlotRange {
                    first: slot,
                    last: slot,
                });
            }
        }
        self.sums_in(&slots).iter().collect()
    }

    /// The slots of `ranges` whose accounts are part of the state.
    pub(super) fn visible(&self, ranges: &[SlotRange]) -> SlotSet {
        let mut slots = SlotSet::of(ranges);
        for slot in self.moving.hidden.iter() {
            slots.remove(SlotRange {
                first: slot,
                last: slot,
            });
        }
        slots
    }

    pub(super) fn sums_in(&self, slots: &SlotSet) -> Sums {
        let mut sums = Sums::default();
        for number in self.table.numbers_in(slots, 0, u32::MAX) {
            sums.add(&self.table.record(number));
        }
        sums
    }

    /// Takes at most about `account_count_max` accounts of slots that are gone out of memory.
    /// True: nothing is left.
    pub fn sweep_step(&mut self, account_count_max: u32) -> bool {
        if self.moving.unswept.count() == 0 {
            return true;
        }
        let line_count = self.table.line_count();
        let looked = account_count_max.saturating_mul(LINES_PER_ACCOUNT);
        let moving = &mut self.moving;
        let end = moving.sweep_cursor.saturating_add(looked).min(line_count);
        let mut swept_count = 0;
        while moving.sweep_cursor < end && swept_count < account_count_max {
            let number = moving.sweep_cursor;
            moving.sweep_cursor += 1;
            if let Some(swept) = self.table.forget(number, &moving.unswept) {
                let population = &mut moving.populations[swept.slot.index()];
                *population -= swept.account_count;
                moving.hidden_account_count -= u64::from(swept.account_count);
                swept_count += swept.account_count;
            }
        }
        if moving.sweep_cursor < line_count {
            return false;
        }
        let swept = std::mem::replace(&mut moving.unswept, SlotSet::new());
        for slot in swept
            .iter()
            .filter(|slot| self.meta.slots.gone(*slot).is_none())
        {
            moving.hidden.remove(SlotRange {
                first: slot,
                last: slot,
            });
        }
        true
    }

    /// Takes one entry of a hand-over in. After an error nothing has changed.
    pub(super) fn take_hand_over(
        &mut self,
        hand_over: &HandOver,
        next: Progress,
    ) -> Result<(), &'static str> {
        let mut handing = match self.moving.handing {
            Some(handing) if handing.sums.is_some() && handing.is_open() => {
                return Err("slots are handed over behind their sums");
            }
            Some(handing) if handing.entries_left != 0 => {
                let same = handing.number == hand_over.number
                    && handing.entry_count == hand_over.entry_count;
                if !same {
                    return Err("a hand-over is not whole");
                }
                handing
            }
            before @ (Some(_) | None) => Handing {
                number: hand_over.number,
                entry_count: hand_over.entry_count,
                entries_left: hand_over.entry_count,
                accounts_left: before.map_or(0, |before| before.accounts_left),
                sums: None,
                currency: 0,
            },
        };
        let ranges = hand_over.slots.as_slice();
        let mut slots = ranges.iter().copied().flat_map(slots_of);
        let stage = self.moving.stage.as_ref();
        if stage.is_some_and(|stage| slots.any(|slot| stage.holds(slot))) {
            return Err("hands over what is staged");
        }
        self.meta.slots.hand_over(hand_over)?;
        // From here on nothing can fail.
        let moving = &mut self.moving;
        for slot in ranges.iter().copied().flat_map(slots_of) {
            self.digests.clear(slot);
            if !moving.unswept.contains(slot) {
                handing.accounts_left += u64::from(moving.populations[slot.index()]);
            }
        }
        moving.hidden_account_count +=
            handing.accounts_left - moving.handing.map_or(0, |before| before.accounts_left);
        handing.entries_left -= 1;
        moving.handing = Some(handing);
        moving.sweep(ranges.iter().copied());
        let watch = moving.watch.as_ref();
        if watch.is_some_and(|watch| ranges.iter().any(|range| watch.slots.contains(range.first))) {
            moving.watch = None;
        }
        self.step_to(next);
        Ok(())
    }

    /// Takes sums of a hand-over in. After an error nothing has changed.
    pub(super) fn take_handed_sums(
        &mut self,
        sums: &HandedSums,
        next: Progress,
    ) -> Result<(), &'static str> {
        let handing = self.moving.handing.filter(Handing::is_open);
        let mut handing = handing.ok_or("sums without a hand-over")?;
        if handing.entries_left != 0 {
            return Err("a hand-over is not whole");
        }
        let (entry_count, left) = handing.sums.unwrap_or((sums.entry_count, sums.entry_count));
        if entry_count != sums.entry_count || left == 0 {
            return Err("handed sums of another count");
        }
        for sum in sums.sums() {
            if sum.currency <= handing.currency || sum.account_count == 0 {
                return Err("handed sums out of order");
            }
            let known = self.supplies.get(sum.currency);
            if known.is_none_or(|supply| supply.account_count < sum.account_count) {
                return Err("hands over more accounts than there are");
            }
            handing.currency = sum.currency;
            let rest = handing.accounts_left.checked_sub(sum.account_count);
            handing.accounts_left = rest.ok_or("hands over more accounts than there are")?;
        }
        if (left == 1) != (handing.accounts_left == 0) {
            return Err("handed sums of other accounts");
        }
        handing.sums = Some((entry_count, left - 1));
        // From here on nothing can fail.
        for sum in sums.sums() {
            self.supplies.touch(sum.currency).hand_over(sum);
        }
        self.moving.handing = Some(handing).filter(Handing::is_open);
        self.step_to(next);
        Ok(())
    }

    pub(super) fn step_to(&mut self, next: Progress) {
        self.meta.progress = next;
    }
}
