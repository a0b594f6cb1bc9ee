//! What a run generated: operations, outcomes, faults. A class that never occurs tests nothing, so
//! a sweep fails for it.

use std::collections::BTreeMap;

/// So often each class occurred, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Operations handed in, by kind and flags.
    pub operations: BTreeMap<&'static str, u64>,
    /// Answers, by code.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Faults that took place, by class.
    pub faults: BTreeMap<&'static str, u64>,
    /// What else is worth knowing: blocks, restarts, looks.
    pub events: BTreeMap<&'static str, u64>,
}

impl Counts {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.operations, &other.operations),
            (&mut self.outcomes, &other.outcomes),
            (&mut self.faults, &other.faults),
            (&mut self.events, &other.events),
        ];
        for (mine, theirs) in pairs {
            for (name, count) in theirs {
                *mine.entry(name).or_default() += count;
            }
        }
    }

    pub(super) fn operation(&mut self, name: &'static str) {
        *self.operations.entry(name).or_default() += 1;
    }

    pub(super) fn outcome(&mut self, name: &'static str) {
        *self.outcomes.entry(name).or_default() += 1;
    }

    pub(super) fn fault(&mut self, name: &'static str) {
        *self.faults.entry(name).or_default() += 1;
    }

    pub(super) fn event(&mut self, name: &'static str) {
        *self.events.entry(name).or_default() += 1;
    }
}
