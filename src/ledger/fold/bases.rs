//! Where the records of each slot come from when old records become new ones: from the old
//! checkpoint, from the image of a move, or from nowhere, since the slot is gone.

use crate::limits::SLOT_COUNT;
use crate::model::{Slot, SlotRange};

/// Old records that are merged: every slot has one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The old checkpoint.
    Checkpoint,
    /// The image that was brought in as this, counted from 0.
    Image(usize),
}

/// What a slot's records are based on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    Of(Source),
    Gone,
}

/// The bases of all slots. Takes memory only once one of them is another than the checkpoint.
#[derive(Debug, Default)]
pub(super) struct Bases(Option<Box<[Base]>>);

impl Bases {
    pub(super) fn of(&self, slot: Slot) -> Base {
        match &self.0 {
            Some(bases) => bases[slot.index()],
            None => Base::Of(Source::Checkpoint),
        }
    }

    pub(super) fn set(&mut self, range: SlotRange, base: Base) {
        let all = || vec![Base::Of(Source::Checkpoint); SLOT_COUNT as usize].into_boxed_slice();
        let bases = self.0.get_or_insert_with(all);
        bases[range.first.index()..=range.last.index()].fill(base);
    }
}
