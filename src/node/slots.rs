//! The slot table as this node sees it, and which slots it serves.
//!
//! A slot is served if the table gives it to this node and the node's own log has activated it,
//! and not handed it over since.

use crate::canary::{self, Bug};
use crate::ledger::Ledger;
use crate::limits;
use crate::model::{
    Activation, Entry, Generation, NodeId, ResultCode, RingEpoch, Slot, SlotRange, UserId,
    to_usize, user_slot,
};
use crate::protocol::{MessageError, Table};

const SLOT_COUNT: usize = limits::SLOT_COUNT as usize;

/// The table of one epoch.
#[derive(Debug)]
pub(super) struct SlotTable {
    pub(super) epoch: RingEpoch,
    pub(super) generation: Generation,
    ring_key: u128,
    /// Given to this node, by slot.
    given: Vec<bool>,
    /// Given and activated, by slot.
    served: Vec<bool>,
}

impl SlotTable {
    /// Reads the authority's message. Nothing is served before `refresh`.
    pub(super) fn read(table: &Table<'_>, node: NodeId) -> Result<Self, MessageError> {
        let mut given = vec![false; SLOT_COUNT];
        for run in table.runs.iter() {
            let run = run?;
            let own = run.node == node.get();
            given[run.slots.first.index()..=run.slots.last.index()].fill(own);
        }
        Ok(Self {
            epoch: table.ring_epoch,
            generation: table.generation,
            ring_key: table.ring_key,
            given,
            served: vec![false; SLOT_COUNT],
        })
    }

    /// Goes on serving what `old` served and this table still gives.
    pub(super) fn serve_as(&mut self, old: &Self) {
        for (index, served) in self.served.iter_mut().enumerate() {
            *served = self.given[index] && old.served[index];
        }
    }

    /// Is the user served here?
    pub(super) fn serves(&self, user: UserId) -> bool {
        self.served[user_slot(self.ring_key, user).index()]
    }

    /// Does the table give the slot to this node?
    pub(super) fn gives(&self, slot: Slot) -> bool {
        self.given[slot.index()]
    }

    /// Why a user who is not served is not: the slot is on its way as long as the table gives it
    /// to this node and the log has handed it over. If it is on its way back, the table is right
    /// already, and this node serves it within moments.
    pub(super) fn refusal(&self, user: UserId, ledger: &Ledger) -> ResultCode {
        let slot = user_slot(self.ring_key, user);
        if self.gives(slot) && ledger.gone(slot).is_some() && !ledger.is_staged(slot) {
            ResultCode::Moving
        } else {
            ResultCode::NotOwner
        }
    }

    /// Serves no longer what the log has handed over, committed or not.
    pub(super) fn stop_serving(&mut self, ledger: &Ledger) {
        for (index, served) in self.served.iter_mut().enumerate() {
            *served = *served && ledger.owned(slot(index));
        }
    }

    /// Takes in what the log has activated (and committed).
    pub(super) fn refresh(&mut self, ledger: &Ledger) {
        for index in 0..SLOT_COUNT {
            let has = ledger.owned(slot(index)) || canary::on(Bug::StagedServed);
            self.served[index] = self.given[index] && has;
        }
    }

    pub(super) fn served_count(&self) -> usize {
        self.served.iter().filter(|served| **served).count()
    }

    /// The entries that activate what is given and was never anybody's: the slots of the first
    /// table of a cluster. All others come by a move, which activates them.
    pub(super) fn activations(&self, ledger: &Ledger) -> Vec<Entry> {
        let mut ranges: Vec<SlotRange> = Vec::new();
        for index in 0..SLOT_COUNT {
            let here = slot(index);
            let is_known = ledger.owned(here) || ledger.gone(here).is_some();
            if !self.given[index] || is_known || ledger.is_staged(here) {
                continue;
            }
            match ranges.last_mut() {
                Some(range) if range.last.index() + 1 == index => range.last = slot(index),
                Some(_) | None => ranges.push(SlotRange {
                    first: slot(index),
                    last: slot(index),
                }),
            }
        }
        ranges
            .chunks(Activation::RANGE_COUNT_MAX)
            .map(|ranges| Entry::Activation(Activation::new(self.epoch, ranges)))
            .collect()
    }
}

/// Slots of one node need at most this many entries to be activated: every second slot, at worst,
/// bounded by the number of node keys.
pub(super) const ACTIVATION_COUNT_MAX: usize =
    to_usize(limits::NODE_KEY_COUNT_MAX as u64).div_ceil(Activation::RANGE_COUNT_MAX) + 1;
const _: () = assert!(ACTIVATION_COUNT_MAX + 1 < limits::BLOCK_ENTRY_COUNT_MAX as usize);

fn slot(index: usize) -> Slot {
    Slot(u16::try_from(index).expect("below SLOT_COUNT"))
}
