//! Where the records of each slot come from when old records become new ones: from the old
//! checkpoint, from the image of a move, or from nowhere, since the slot is gone.

use crate::limits::SLOT_COUNT;
use crate::model::{Place, Slot, SlotRange};

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

/// The bases of all slots, and for each the place behind which its changes count. Takes memory only
/// once one of them is another than the checkpoint.
#[derive(Debug, Default)]
pub(super) struct Bases(Option<Box<[(Base, Place)]>>);

impl Bases {
    pub(super) fn of(&self, slot: Slot) -> Base {
        match &self.0 {
            Some(bases) => bases[slot.index()].0,
            None => Base::Of(Source::Checkpoint),
        }
    }

    /// Changes up to this place are of what is gone.
    pub(super) fn gone_at(&self, slot: Slot) -> Place {
        let bases = self.0.as_ref();
        bases.map_or(Place(0), |bases| bases[slot.index()].1)
    }

    pub(super) fn set_source(&mut self, range: SlotRange, source: Source) {
        for (base, _) in self.slots(range) {
            *base = Base::Of(source);
        }
    }

    /// These slots leave by the entry at `place`.
    pub(super) fn set_gone(&mut self, range: SlotRange, place: Place) {
        self.slots(range).fill((Base::Gone, place));
    }

    fn slots(&mut self, range: SlotRange) -> &mut [(Base, Place)] {
        let one = (Base::Of(Source::Checkpoint), Place(0));
        let all = || vec![one; SLOT_COUNT as usize].into_boxed_slice();
        let bases = self.0.get_or_insert_with(all);
        &mut bases[range.first.index()..=range.last.index()]
    }
}
