//! The slots that this log serves: for each the ring epoch of its activation.

use crate::limits::SLOT_COUNT;
use crate::model::{Activation, RingEpoch, Slot, SlotRange};

/// Ring epochs by slot; 0 where the log never activated it.
#[derive(Debug)]
pub(super) struct Slots {
    epochs: Box<[u32]>,
    newest: RingEpoch,
}

/// Slots in a row that were activated in the same epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotRun {
    pub(super) range: SlotRange,
    pub(super) epoch: RingEpoch,
}

impl Slots {
    pub(super) fn new() -> Self {
        Self {
            epochs: vec![0; SLOT_COUNT as usize].into_boxed_slice(),
            newest: RingEpoch::default(),
        }
    }

    pub(super) fn epoch(&self, slot: Slot) -> Option<RingEpoch> {
        Some(RingEpoch(self.epochs[slot.index()])).filter(|epoch| *epoch != RingEpoch::default())
    }

    pub(super) const fn newest(&self) -> RingEpoch {
        self.newest
    }

    /// Takes an activation in. The error says what is wrong with it; then nothing has changed.
    pub(super) fn activate(&mut self, activation: &Activation) -> Result<(), &'static str> {
        let epoch = activation.ring_epoch;
        if epoch == RingEpoch::default() {
            return Err("an activation in epoch 0");
        }
        if epoch < self.newest {
            return Err("an activation in an older epoch");
        }
        for range in activation.ranges() {
            self.set(SlotRun {
                range: *range,
                epoch,
            });
        }
        self.newest = epoch;
        Ok(())
    }

    /// Sets the epoch of a run of slots.
    pub(super) fn set(&mut self, run: SlotRun) {
        self.epochs[run.range.first.index()..=run.range.last.index()].fill(run.epoch.0);
        self.newest = self.newest.max(run.epoch);
    }

    /// The longest runs, by slot; slots that were never activated are left out.
    pub(super) fn runs(&self) -> Vec<SlotRun> {
        let mut runs: Vec<SlotRun> = Vec::new();
        for (slot, epoch) in (0..=u16::MAX).map(Slot).zip(self.epochs.iter().copied()) {
            let epoch = RingEpoch(epoch);
            if epoch == RingEpoch::default() {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.epoch == epoch && run.range.last.0 + 1 == slot.0 => {
                    run.range.last = slot;
                }
                Some(_) | None => {
                    runs.push(SlotRun {
                        range: SlotRange {
                            first: slot,
                            last: slot,
                        },
                        epoch,
                    });
                }
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u16, last: u16) -> SlotRange {
        SlotRange {
            first: Slot(first),
            last: Slot(last),
        }
    }

    #[test]
    fn activations_are_kept_as_runs() {
        let mut slots = Slots::new();
        let activation = |epoch, ranges: &[SlotRange]| Activation::new(RingEpoch(epoch), ranges);
        assert_eq!(
            slots.activate(&activation(1, &[range(0, 9), range(65_535, 65_535)])),
            Ok(())
        );
        assert_eq!(slots.activate(&activation(3, &[range(4, 5)])), Ok(()));
        assert!(slots.activate(&activation(2, &[range(4, 5)])).is_err());
        assert!(slots.activate(&activation(0, &[])).is_err());
        let runs = slots.runs();
        let expected = [(0, 3, 1), (4, 5, 3), (6, 9, 1), (65_535, 65_535, 1)];
        let expected = expected.map(|(first, last, epoch)| SlotRun {
            range: range(first, last),
            epoch: RingEpoch(epoch),
        });
        assert_eq!(runs, expected);
        assert_eq!(slots.epoch(Slot(5)), Some(RingEpoch(3)));
        assert_eq!(slots.epoch(Slot(10)), None);
        assert_eq!(slots.newest(), RingEpoch(3));
    }
}
