//! What must be kept for moves: the log below a hand-over whose slots still are this node's by the
//! table, and the images that a replay of this log reads.
//!
//! Until the flip a lost backup is refilled from what its nodes have, so the own checkpoint stays
//! below the hand-over. An image goes once the own checkpoint is above its activation or drop.

use crate::ledger::Ledger;
use crate::model::{Entry, LogEnd, MoveNumber, SlotRange};
use crate::role::{DiskRequest, Effect, Outbox};

use super::order::slots_of;
use crate::node::slots::SlotTable;

/// A hand-over in the log.
#[derive(Clone, Debug)]
struct HandedOver {
    number: MoveNumber,
    ranges: Vec<SlotRange>,
    /// Where the log ended before it.
    before: LogEnd,
}

/// An adoption in the log, and the image that it refers to.
#[derive(Clone, Copy, Debug)]
struct Adopted {
    number: MoveNumber,
    image: MoveNumber,
    /// The end of the block that activates or drops what was adopted.
    until: Option<LogEnd>,
}

/// All of it.
#[derive(Debug, Default)]
pub(in crate::node) struct Kept {
    hand_overs: Vec<HandedOver>,
    adopted: Vec<Adopted>,
    /// Images went or came since the disk was told.
    is_changed: bool,
}

impl Kept {
    /// Takes in a block of the log: its entries, where the log ended before it, and ends with it.
    pub(in crate::node) fn note(&mut self, entries: &[Entry], before: &LogEnd, end: &LogEnd) {
        for entry in entries {
            match entry {
                Entry::HandOver(hand_over) => {
                    self.note_hand_over(hand_over.number, hand_over.slots.as_slice(), before);
                }
                Entry::AdoptedFile(file) => self.adopted.push(Adopted {
                    number: file.number,
                    image: file.image,
                    until: None,
                }),
                Entry::Activation(activation) => self.note_end(activation.number, end),
                Entry::Drop { number } => self.note_end(*number, end),
                Entry::Change(_)
                | Entry::Horizon { .. }
                | Entry::Epoch(_)
                | Entry::HandedSums(_)
                | Entry::Adopt(_)
                | Entry::AdoptedSlots(_) => (),
            }
        }
    }

    fn note_hand_over(&mut self, number: MoveNumber, ranges: &[SlotRange], before: &LogEnd) {
        match self.hand_overs.last_mut() {
            Some(last) if last.number == number => last.ranges.extend_from_slice(ranges),
            Some(_) | None => self.hand_overs.push(HandedOver {
                number,
                ranges: ranges.to_vec(),
                before: *before,
            }),
        }
    }

    fn note_end(&mut self, number: MoveNumber, end: &LogEnd) {
        for adopted in &mut self.adopted {
            if adopted.number == number {
                adopted.until = Some(*end);
            }
        }
    }

    /// Up to where the own checkpoint may go.
    pub(in crate::node) fn checkpoint_bound(
        &mut self,
        committed: &LogEnd,
        slots: Option<&SlotTable>,
        ledger: &Ledger,
    ) -> LogEnd {
        if let Some(slots) = slots {
            self.hand_overs.retain(|handed| {
                slots_of(&handed.ranges)
                    .any(|slot| slots.gives(slot) && ledger.gone(slot) == Some(handed.number))
            });
        }
        let lowest = self.hand_overs.iter().map(|handed| handed.before);
        lowest
            .chain([*committed])
            .min_by_key(|end| end.seq)
            .expect("the committed end is one of them")
    }

    /// The own checkpoint stands for `end` from now on.
    pub(in crate::node) fn checkpoint_made(&mut self, end: &LogEnd) {
        let before = self.adopted.len();
        self.adopted
            .retain(|adopted| adopted.until.is_none_or(|until| end.seq < until.seq));
        self.is_changed |= self.adopted.len() != before;
    }

    /// Has the disk images that are not needed any more, once it was asked for all others?
    pub(in crate::node) fn tell(&mut self, coming: Option<MoveNumber>, out: &mut Outbox) {
        if !std::mem::take(&mut self.is_changed) {
            return;
        }
        let mut numbers: Vec<MoveNumber> =
            self.adopted.iter().map(|adopted| adopted.image).collect();
        numbers.extend(coming);
        numbers.sort_unstable();
        numbers.dedup();
        let below = MoveNumber(u64::MAX);
        out.effect(Effect::Disk(DiskRequest::KeepMoveFiles { numbers, below }));
    }

    /// What lies on the disk from an earlier life is to go, unless it is needed.
    pub(in crate::node) fn tell_anyway(&mut self, out: &mut Outbox) {
        self.is_changed = true;
        self.tell(None, out);
    }

    /// Is this an image that the log refers to?
    pub(super) fn needs(&self, image: MoveNumber) -> bool {
        self.adopted.iter().any(|adopted| adopted.image == image)
    }
}
