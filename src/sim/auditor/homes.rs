//! Which log has which slots: written a second time from docs/decisions/0001-moves.md.
//!
//! A slot is in one log at a time. It leaves by a hand-over, and comes into another one by an
//! adoption of exactly that hand-over and the activation of that adoption; so all hand-overs and
//! activations of a slot lie in one row, whatever log they are in.

use std::collections::{BTreeMap, BTreeSet};

use crate::limits::SLOT_COUNT;
use crate::model::{
    Activation, Adopt, AdoptedFile, AdoptedSlots, HandOver, HandedSums, LogNumber, MoveNumber,
    Place, Slot, SlotRange, to_usize,
};

/// Where a slot is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Home {
    /// Nothing was logged about it.
    #[default]
    Nowhere,
    /// This log serves it.
    In(LogNumber),
    /// It was handed over here, and no log serves it.
    Left(Place),
}

/// Accounts and balances by currency.
pub(super) type Held = BTreeMap<u32, (u64, i128)>;

/// One hand-over.
#[derive(Clone, Debug)]
struct Departure {
    number: MoveNumber,
    target_log: LogNumber,
    slots: BTreeSet<Slot>,
    account_count: u64,
    /// Log time of the last entry before it.
    time: u64,
    horizon_ms: u64,
    /// Where the block before it ends.
    offset: u64,
    /// Entries of its list that are still to come.
    entries_left: u32,
}

/// An adoption that is not activated and not dropped.
#[derive(Clone, Copy, Debug)]
struct Staged {
    number: MoveNumber,
    /// Where its slots were handed over.
    place: Place,
    slot_count: usize,
    has_file: bool,
    entries_left: u32,
    activated_count: usize,
}

/// Where a walk through a log stands when it meets an entry of a move.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    pub(super) log: LogNumber,
    pub(super) place: Place,
    /// Log time of the entry.
    pub(super) time: u64,
    /// Log time of the entry before.
    pub(super) time_before: u64,
    pub(super) horizon_ms: u64,
    /// Where the block before ends.
    pub(super) offset_before: u64,
}

/// The homes of all slots.
#[derive(Debug)]
pub(super) struct Homes {
    slots: Vec<Home>,
    departures: BTreeMap<Place, Departure>,
    staged: BTreeMap<LogNumber, Staged>,
    /// In the present block: the hand-over that is being listed, and the sums that it must say.
    leaving: Option<Place>,
    held: Held,
    said: Held,
    sums_left: Option<u32>,
}

fn slots_of(ranges: &[SlotRange]) -> impl Iterator<Item = Slot> + '_ {
    let numbers = ranges.iter().flat_map(|range| range.first.0..=range.last.0);
    numbers.map(Slot)
}

impl Homes {
    pub(super) fn new() -> Self {
        Self {
            slots: vec![Home::Nowhere; to_usize(u64::from(SLOT_COUNT))],
            departures: BTreeMap::new(),
            staged: BTreeMap::new(),
            leaving: None,
            held: Held::new(),
            said: Held::new(),
            sums_left: None,
        }
    }

    /// Does this log serve the slot?
    pub(super) fn is_in(&self, slot: Slot, log: LogNumber) -> bool {
        self.slots[slot.index()] == Home::In(log)
    }

    /// Takes a hand-over in; `held` is what the accounts of its slots hold.
    pub(super) fn hand_over(
        &mut self,
        spot: &Spot,
        entry: &HandOver,
        held: &Held,
    ) -> Result<(), String> {
        if self.sums_left.is_some() {
            return Err("slots are handed over behind their sums".to_owned());
        }
        let first_time = self.leaving.map(|place| self.departures[&place].time);
        let open = self
            .leaving
            .filter(|place| self.departures[place].entries_left != 0);
        let place = open.unwrap_or(spot.place);
        let departure = self.departures.entry(place).or_insert(Departure {
            number: entry.number,
            target_log: entry.target_log,
            slots: BTreeSet::new(),
            account_count: 0,
            // All images of a block are cut before the first of its hand-overs.
            time: first_time.unwrap_or(spot.time_before),
            horizon_ms: spot.horizon_ms,
            offset: spot.offset_before,
            entries_left: entry.entry_count,
        });
        if departure.number != entry.number || departure.target_log != entry.target_log {
            return Err(format!("move {} is not whole", departure.number));
        }
        let left = departure.entries_left.checked_sub(1);
        departure.entries_left = left.ok_or("a hand-over without end")?;
        for slot in slots_of(entry.slots.as_slice()) {
            let home = &mut self.slots[slot.index()];
            if *home != Home::Nowhere && *home != Home::In(spot.log) {
                return Err(format!(
                    "slot {slot:?}, which is {home:?}, is handed over here"
                ));
            }
            *home = Home::Left(place);
            departure.slots.insert(slot);
        }
        departure.account_count += held.values().map(|(count, _)| count).sum::<u64>();
        self.leaving = Some(place);
        for (currency, (count, available)) in held {
            let all = self.held.entry(*currency).or_default();
            all.0 += count;
            all.1 += available;
        }
        Ok(())
    }

    /// Takes sums of what was handed over in.
    pub(super) fn handed_sums(&mut self, entry: &HandedSums) -> Result<(), String> {
        if self.leaving.is_none() {
            return Err("sums of no hand-over".to_owned());
        }
        let left = self.sums_left.unwrap_or(entry.entry_count).checked_sub(1);
        self.sums_left = Some(left.ok_or("sums without end")?);
        for sum in entry.sums() {
            if sum.held != 0 {
                return Err(format!("{} is said to be held", sum.held));
            }
            let new = (sum.account_count, sum.available);
            if self.said.insert(sum.currency, new).is_some() {
                return Err(format!("currency {} is summed twice", sum.currency));
            }
        }
        Ok(())
    }

    /// Takes an adoption in. The log's horizon must rise to what is returned.
    pub(super) fn adopt(&mut self, spot: &Spot, entry: &Adopt) -> Result<u64, String> {
        let number = entry.number;
        let departure = self.departures.get(&entry.hand_over);
        let departure = departure.ok_or_else(|| {
            let place = entry.hand_over;
            format!("move {number} adopts what was not handed over at {place}")
        })?;
        let expected = (departure.time, departure.horizon_ms);
        if (entry.time.0, entry.horizon_ms) != expected {
            return Err(format!(
                "move {number} says (time, horizon) {:?}, its source had {expected:?}",
                (entry.time.0, entry.horizon_ms)
            ));
        }
        if spot.time <= departure.time || entry.hand_over.log() != Some(entry.source_log) {
            return Err(format!("move {number} is adopted before it is handed over"));
        }
        // One that went on under a new number is longer than its first target.
        if number == departure.number && spot.log != departure.target_log {
            return Err(format!("move {number} is for log {}", departure.target_log));
        }
        let staged = Staged {
            number,
            place: entry.hand_over,
            slot_count: 0,
            has_file: false,
            entries_left: entry.slots_entry_count,
            activated_count: 0,
        };
        match self.staged.insert(spot.log, staged) {
            Some(before) => Err(format!(
                "move {number} is adopted while move {} is staged",
                before.number
            )),
            None => Ok(departure.horizon_ms),
        }
    }

    fn staged(&mut self, log: LogNumber, number: MoveNumber) -> Result<&mut Staged, String> {
        let staged = self.staged.get_mut(&log);
        let staged = staged.filter(|staged| staged.number == number);
        staged.ok_or_else(|| format!("move {number} is not staged here"))
    }

    /// Takes the file of an adoption in.
    pub(super) fn adopted_file(
        &mut self,
        log: LogNumber,
        entry: &AdoptedFile,
    ) -> Result<(), String> {
        let place = self.staged(log, entry.number)?.place;
        let departure = &self.departures[&place];
        let expected = (departure.number, departure.offset, departure.account_count);
        let found = (entry.image, entry.offset, entry.account_count);
        if found != expected {
            return Err(format!(
                "move {} is of (image, offset, accounts) {found:?}, expected is {expected:?}",
                entry.number
            ));
        }
        self.staged(log, entry.number)?.has_file = true;
        Ok(())
    }

    /// Takes slots of an adoption in.
    pub(super) fn adopted_slots(
        &mut self,
        log: LogNumber,
        entry: &AdoptedSlots,
    ) -> Result<(), String> {
        let staged = self.staged(log, entry.number)?;
        let left = staged.entries_left.checked_sub(1);
        staged.entries_left = left.ok_or("an adoption without end")?;
        staged.slot_count += slots_of(entry.slots.as_slice()).count();
        let (is_last, count) = (staged.entries_left == 0, staged.slot_count);
        let place = staged.place;
        // Another target may have them by now: then this adoption can only be dropped.
        let all = &self.departures[&place].slots;
        let mut slots = slots_of(entry.slots.as_slice());
        if let Some(slot) = slots.find(|slot| !all.contains(slot)) {
            return Err(format!(
                "move {} adopts slot {slot:?}, which was not handed over to it",
                entry.number
            ));
        }
        if is_last && count != all.len() {
            return Err(format!(
                "move {} adopts {count} of {} slots",
                entry.number,
                all.len()
            ));
        }
        Ok(())
    }

    /// Takes an activation in.
    pub(super) fn activate(&mut self, log: LogNumber, entry: &Activation) -> Result<(), String> {
        let home = if entry.number == MoveNumber(0) {
            Home::Nowhere
        } else {
            let staged = self.staged(log, entry.number)?;
            staged.activated_count += slots_of(entry.ranges()).count();
            let home = Home::Left(staged.place);
            if staged.activated_count == staged.slot_count {
                self.staged.remove(&log);
            }
            home
        };
        for slot in slots_of(entry.ranges()) {
            let before = std::mem::replace(&mut self.slots[slot.index()], Home::In(log));
            let is_again = entry.number == MoveNumber(0) && before == Home::In(log);
            if before != home && !is_again {
                return Err(format!(
                    "slot {slot:?}, which is {before:?}, is activated by move {}",
                    entry.number
                ));
            }
        }
        Ok(())
    }

    /// Takes the drop of an adoption in.
    pub(super) fn drop_staged(&mut self, log: LogNumber, number: MoveNumber) -> Result<(), String> {
        self.staged(log, number)?;
        self.staged.remove(&log);
        Ok(())
    }

    /// All entries of a block are taken in: what was begun in it must be whole.
    pub(super) fn end_block(&mut self, log: LogNumber) -> Result<(), String> {
        if let Some(place) = self.leaving.take() {
            let is_open = self.departures[&place].entries_left != 0;
            if is_open || self.sums_left.take().unwrap_or(0) != 0 {
                return Err("a hand-over is not whole".to_owned());
            }
            let mut held = std::mem::take(&mut self.held);
            held.retain(|_, (count, _)| *count != 0);
            let said = std::mem::take(&mut self.said);
            if held != said {
                return Err(format!(
                    "a hand-over says that {said:?} leaves, the accounts hold {held:?}"
                ));
            }
        }
        let staged = self.staged.get(&log);
        let is_whole = |staged: &Staged| {
            staged.activated_count == 0 && staged.entries_left == 0 && staged.has_file
        };
        match staged.filter(|staged| !is_whole(staged)) {
            Some(staged) => Err(format!("move {} is not whole", staged.number)),
            None => Ok(()),
        }
    }
}
