//! What became of each slot in this log: never heard of, owned since an epoch, or gone.

use super::slot_set::{are_rising, slots_of};
use crate::limits::SLOT_COUNT;
use crate::model::{Activation, HandOver, MoveNumber, RingEpoch, Slot, SlotRange};

/// What became of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SlotState {
    /// Nothing was logged about it.
    #[default]
    Never,
    /// Activated in this epoch.
    Owned(RingEpoch),
    /// Handed over by this move.
    Gone(MoveNumber),
}

/// The states of all slots.
#[derive(Debug)]
pub(super) struct Slots {
    states: Box<[SlotState]>,
    newest: RingEpoch,
}

/// Slots in a row of one state, which is not [`SlotState::Never`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotRun {
    pub(super) range: SlotRange,
    pub(super) state: SlotState,
}

impl Slots {
    pub(super) fn new() -> Self {
        Self {
            states: vec![SlotState::Never; SLOT_COUNT as usize].into_boxed_slice(),
            newest: RingEpoch::default(),
        }
    }

    pub(super) fn state(&self, slot: Slot) -> SlotState {
        self.states[slot.index()]
    }

    pub(super) fn epoch(&self, slot: Slot) -> Option<RingEpoch> {
        match self.state(slot) {
            SlotState::Owned(epoch) => Some(epoch),
            SlotState::Never | SlotState::Gone(_) => None,
        }
    }

    pub(super) fn gone(&self, slot: Slot) -> Option<MoveNumber> {
        match self.state(slot) {
            SlotState::Gone(number) => Some(number),
            SlotState::Never | SlotState::Owned(_) => None,
        }
    }

    pub(super) const fn newest(&self) -> RingEpoch {
        self.newest
    }

    /// Takes an activation in. The error says what is wrong with it; then nothing has changed.
    /// That a move's slots were adopted is the caller's to know.
    pub(super) fn activate(&mut self, activation: &Activation) -> Result<(), &'static str> {
        let epoch = activation.ring_epoch;
        if epoch == RingEpoch::default() {
            return Err("an activation in epoch 0");
        }
        if epoch < self.newest {
            return Err("an activation in an older epoch");
        }
        let is_move = activation.number != MoveNumber(0);
        for state in activation
            .ranges()
            .iter()
            .flat_map(|range| self.in_range(*range))
        {
            match state {
                SlotState::Gone(_) if !is_move => {
                    return Err("activates, without a move, what was handed over");
                }
                SlotState::Owned(_) if is_move => return Err("a move activates what is owned"),
                SlotState::Never | SlotState::Owned(_) | SlotState::Gone(_) => {}
            }
        }
        for range in activation.ranges() {
            self.set(SlotRun {
                range: *range,
                state: SlotState::Owned(epoch),
            });
        }
        self.newest = epoch;
        Ok(())
    }

    /// Takes one entry of a hand-over in; errors as for [`Self::activate`].
    pub(super) fn hand_over(&mut self, hand_over: &HandOver) -> Result<(), &'static str> {
        let ranges = hand_over.slots.as_slice();
        if !are_rising(ranges) {
            return Err("slots of a hand-over out of order");
        }
        let is_gone = |range: &SlotRange| {
            let mut states = self.in_range(*range);
            states.any(|state| matches!(state, SlotState::Gone(_)))
        };
        if ranges.iter().any(is_gone) {
            return Err("hands over what is gone");
        }
        for range in ranges {
            self.set(SlotRun {
                range: *range,
                state: SlotState::Gone(hand_over.number),
            });
        }
        Ok(())
    }

    /// Sets the state of a run of slots.
    pub(super) fn set(&mut self, run: SlotRun) {
        self.states[run.range.first.index()..=run.range.last.index()].fill(run.state);
        if let SlotState::Owned(epoch) = run.state {
            self.newest = self.newest.max(epoch);
        }
    }

    /// The states of a range, by slot.
    pub(super) fn in_range(&self, range: SlotRange) -> impl Iterator<Item = SlotState> + use<'_> {
        slots_of(range).map(|slot| self.state(slot))
    }

    /// The longest runs, by slot; slots of which nothing was logged are left out.
    pub(super) fn runs(&self) -> Vec<SlotRun> {
        let mut runs: Vec<SlotRun> = Vec::new();
        for (slot, state) in (0..=u16::MAX).map(Slot).zip(self.states.iter().copied()) {
            if state == SlotState::Never {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.state == state && run.range.last.0 + 1 == slot.0 => {
                    run.range.last = slot;
                }
                Some(_) | None => {
                    runs.push(SlotRun {
                        range: SlotRange {
                            first: slot,
                            last: slot,
                        },
                        state,
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
    use crate::model::{LogNumber, NodeId, SlotRanges};

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
            state: SlotState::Owned(RingEpoch(epoch)),
        });
        assert_eq!(runs, expected);
        assert_eq!(slots.epoch(Slot(5)), Some(RingEpoch(3)));
        assert_eq!(slots.epoch(Slot(10)), None);
        assert_eq!(slots.newest(), RingEpoch(3));
    }

    #[test]
    fn what_is_gone_comes_back_by_a_move_only() {
        let mut slots = Slots::new();
        let hand_over = |number, ranges: &[SlotRange]| HandOver {
            number: MoveNumber(number),
            ring_epoch: RingEpoch(1),
            target: NodeId::new(2).unwrap(),
            target_log: LogNumber::new(2).unwrap(),
            entry_count: 1,
            slots: SlotRanges::new(ranges),
        };
        slots
            .activate(&Activation::new(RingEpoch(1), &[range(0, 9)]))
            .unwrap();
        slots
            .hand_over(&hand_over(7, &[range(3, 4), range(6, 12)]))
            .unwrap();
        assert_eq!(
            slots.gone(Slot(12)),
            Some(MoveNumber(7)),
            "never heard of before"
        );
        assert!(slots.hand_over(&hand_over(8, &[range(5, 6)])).is_err());
        assert!(
            slots
                .hand_over(&hand_over(8, &[range(5, 5), range(2, 2)]))
                .is_err()
        );
        assert_eq!(
            slots.epoch(Slot(5)),
            Some(RingEpoch(1)),
            "nothing has changed"
        );
        let back = |number| Activation::of_move(MoveNumber(number), RingEpoch(2), &[range(3, 4)]);
        assert!(slots.activate(&back(0)).is_err());
        slots.activate(&back(9)).unwrap();
        assert!(slots.activate(&back(9)).is_err());
        assert_eq!(slots.epoch(Slot(3)), Some(RingEpoch(2)));
        assert_eq!(slots.runs().len(), 4);
    }
}
