//! The flat table of all slots, its runs, and what differs between two tables.

use crate::limits::SLOT_COUNT;
use crate::model::{NodeId, RingEpoch, Slot, SlotRange, to_usize};

const NOBODY: u32 = 0;

/// Slots, as the size of a table: its length is part of the type, so a look-up has no bounds
/// check.
const SIZE: usize = to_usize(SLOT_COUNT as u64);

/// The owner of every slot under one epoch. A look-up is one read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotTable {
    epoch: RingEpoch,
    owners: Box<[u32; SIZE]>,
}

/// Neighbouring slots with one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnedRun {
    /// The slots.
    pub slots: SlotRange,
    /// Who owns them; `None` for nobody.
    pub node: Option<NodeId>,
}

/// Neighbouring slots that go from one owner to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The slots.
    pub slots: SlotRange,
    /// Who owned them.
    pub from: Option<NodeId>,
    /// Who owns them now.
    pub to: Option<NodeId>,
}

/// Why a list of runs is no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The last slot of a run is below its first one.
    #[error("run {index}: last slot {last} is below first slot {first}", last = .slots.last.0,
        first = .slots.first.0)]
    Backwards {
        /// Number of the run, from 0.
        index: usize,
        /// The run.
        slots: SlotRange,
    },
    /// A run does not begin above the end of the one before it.
    #[error("run {index}: first slot {first} is not above the run before it",
        first = .slots.first.0)]
    OutOfOrder {
        /// Number of the run, from 0.
        index: usize,
        /// The run.
        slots: SlotRange,
    },
}

impl SlotTable {
    /// A table in which nobody owns anything.
    #[must_use]
    pub fn nobody(epoch: RingEpoch) -> Self {
        let owners = vec![NOBODY; SIZE].into_boxed_slice();
        Self {
            epoch,
            owners: owners.try_into().expect("it was made of this size"),
        }
    }

    /// The table that these runs say. They ascend and do not overlap; slots that no run names
    /// belong to nobody.
    pub fn from_runs(
        epoch: RingEpoch,
        runs: impl IntoIterator<Item = OwnedRun>,
    ) -> Result<Self, TableError> {
        let mut table = Self::nobody(epoch);
        let mut free_from = 0;
        for (index, OwnedRun { slots, node }) in runs.into_iter().enumerate() {
            if slots.last < slots.first {
                return Err(TableError::Backwards { index, slots });
            }
            if slots.first.index() < free_from {
                return Err(TableError::OutOfOrder { index, slots });
            }
            free_from = slots.last.index() + 1;
            table.owners[slots.first.index()..free_from].fill(node.map_or(NOBODY, NodeId::get));
        }
        Ok(table)
    }

    /// Version of the table.
    #[must_use]
    pub const fn epoch(&self) -> RingEpoch {
        self.epoch
    }

    /// The same owners under another version.
    #[must_use]
    pub const fn with_epoch(mut self, epoch: RingEpoch) -> Self {
        self.epoch = epoch;
        self
    }

    /// Who owns `slot`.
    #[inline]
    #[must_use]
    pub fn owner(&self, slot: Slot) -> Option<NodeId> {
        NodeId::new(self.owners[slot.index()])
    }

    /// Makes `node` the owner of `slot`.
    pub fn set(&mut self, slot: Slot, node: NodeId) {
        self.owners[slot.index()] = node.get();
    }

    /// All slots in as few runs as possible, in order. Slots without an owner are a run too.
    pub fn runs(&self) -> impl Iterator<Item = OwnedRun> + '_ {
        same_value_ranges(self.owners.iter().copied()).map(|(slots, owner)| OwnedRun {
            slots,
            node: NodeId::new(owner),
        })
    }

    /// The slots of `node` in as few ranges as possible, in order.
    pub fn ranges_of(&self, node: NodeId) -> impl Iterator<Item = SlotRange> + '_ {
        self.runs()
            .filter(move |run| run.node == Some(node))
            .map(|run| run.slots)
    }

    /// How many slots `node` owns.
    #[must_use]
    pub fn slot_count_of(&self, node: NodeId) -> usize {
        self.owners
            .iter()
            .filter(|owner| **owner == node.get())
            .count()
    }

    /// What changes owner from this table to `newer`, in order, in as few ranges as possible.
    pub fn difference<'a>(&'a self, newer: &'a Self) -> impl Iterator<Item = Moved> + 'a {
        let pairs = self
            .owners
            .iter()
            .copied()
            .zip(newer.owners.iter().copied());
        same_value_ranges(pairs)
            .filter(|(_, (from, to))| from != to)
            .map(|(slots, (from, to))| Moved {
                slots,
                from: NodeId::new(from),
                to: NodeId::new(to),
            })
    }
}

/// Cuts a value per slot into ranges of one value each.
fn same_value_ranges<T: Copy + PartialEq>(
    values: impl Iterator<Item = T>,
) -> impl Iterator<Item = (SlotRange, T)> {
    let mut slots = (0..=u16::MAX).map(Slot).zip(values).peekable();
    std::iter::from_fn(move || {
        let (first, value) = slots.next()?;
        let mut last = first;
        while let Some((slot, _)) = slots.next_if(|(_, next)| *next == value) {
            last = slot;
        }
        Some((SlotRange { first, last }, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Random;
    use crate::ring::{RingNode, plan};

    fn node(number: u32) -> NodeId {
        NodeId::new(number).unwrap()
    }

    fn run(first: u16, last: u16, number: u32) -> OwnedRun {
        OwnedRun {
            slots: SlotRange {
                first: Slot(first),
                last: Slot(last),
            },
            node: NodeId::new(number),
        }
    }

    fn random_table(seed: u64) -> SlotTable {
        let mut random = Random::new(seed);
        let mut table = SlotTable::nobody(RingEpoch(1));
        for slot in (0..=u16::MAX).map(Slot) {
            if !random.one_in(3) {
                table.set(slot, node(1 + u32::try_from(random.below(3)).unwrap()));
            }
        }
        table
    }

    #[test]
    fn runs_and_back_is_the_same_table() {
        let planned = plan(RingEpoch(3), &[RingNode::drawn(5, node(1), 1)]);
        assert_eq!(planned.runs().count(), 1);
        for table in [SlotTable::nobody(RingEpoch(0)), planned, random_table(1)] {
            let again = SlotTable::from_runs(table.epoch(), table.runs()).unwrap();
            assert_eq!(again, table);
        }
    }

    #[test]
    fn slots_without_a_run_belong_to_nobody() {
        let table = SlotTable::from_runs(RingEpoch(1), [run(3, 4, 7), run(65_535, 65_535, 8)]);
        let table = table.unwrap();
        let found: Vec<_> = table.runs().collect();
        assert_eq!(
            found,
            [
                run(0, 2, 0),
                run(3, 4, 7),
                run(5, 65_534, 0),
                run(65_535, 65_535, 8)
            ]
        );
        assert_eq!(table.slot_count_of(node(7)), 2);
        assert_eq!(table.ranges_of(node(8)).count(), 1);
    }

    #[test]
    fn runs_out_of_order_are_refused() {
        let check = |runs: &[OwnedRun], index: usize| {
            let error = SlotTable::from_runs(RingEpoch(1), runs.iter().copied()).unwrap_err();
            let (TableError::Backwards { index: at, .. }
            | TableError::OutOfOrder { index: at, .. }) = error;
            assert_eq!(at, index, "{error}");
        };
        check(&[run(5, 4, 1)], 0);
        check(&[run(0, 9, 1), run(9, 12, 2)], 1);
        check(&[run(9, 12, 1), run(0, 1, 2)], 1);
        check(&[run(0, 65_535, 1), run(0, 0, 2)], 1);
    }

    #[test]
    fn difference_names_each_moved_slot_once() {
        let (old, new) = (random_table(2), random_table(3));
        let mut rebuilt = old.clone();
        let mut moved_count = 0;
        for moved in old.difference(&new) {
            assert_ne!(moved.from, moved.to);
            for slot in (moved.slots.first.0..=moved.slots.last.0).map(Slot) {
                assert_eq!(old.owner(slot), moved.from);
                rebuilt.owners[slot.index()] = moved.to.map_or(NOBODY, NodeId::get);
                moved_count += 1;
            }
        }
        assert_eq!(rebuilt, new);
        let differing = (0..=u16::MAX)
            .filter(|slot| old.owner(Slot(*slot)) != new.owner(Slot(*slot)))
            .count();
        assert_eq!(moved_count, differing);
        assert_eq!(old.difference(&old).count(), 0);
    }
}
