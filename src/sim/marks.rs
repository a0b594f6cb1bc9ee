//! The steps of moves that are durable at the backup, as they come: what the backup may order then,
//! which moves are open, and what happened how often.

use std::collections::{BTreeMap, BTreeSet};

use crate::log::{Block, Verify};
use crate::model::{Entry, LogNumber, MoveNumber};
use crate::protocol::{MoveOrder, MoveStep};

/// See the module. Moves go by the number of their image, which they keep when they go on to
/// another target.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Handed over and not activated.
    open: BTreeSet<MoveNumber>,
    /// Was ever handed over, and whether the backup did that itself.
    handed: BTreeMap<MoveNumber, bool>,
    /// Adoptions of each log, and the image of each.
    adopted: BTreeMap<(LogNumber, MoveNumber), MoveNumber>,
    /// Activations that were ordered.
    ordered: BTreeSet<(LogNumber, MoveNumber)>,
    /// What happened and was not counted yet.
    happened: Vec<&'static str>,
}

impl Marks {
    /// A block is durable at the backup. The error says what should not be in it.
    pub(super) fn note(
        &mut self,
        log: LogNumber,
        block: &[u8],
        verify: &Verify,
    ) -> Result<(), String> {
        let Ok(Some(block)) = Block::read(block, verify) else {
            // The auditor reads it again, and says so.
            return Ok(());
        };
        let entries = block.entries();
        if !entries
            .into_iter()
            .any(|(_, _, bytes)| Entry::is_of_move(bytes))
        {
            return Ok(());
        }
        let entries = block.entries().map(|(_, _, bytes)| Entry::read(bytes));
        let entries: Vec<Entry> = entries.filter_map(Result::ok).collect();
        let is_own = entries.iter().any(|entry| matches!(entry, Entry::Epoch(_)))
            && entries
                .iter()
                .any(|entry| matches!(entry, Entry::HandOver(_)));
        if is_own {
            self.happened.push("take_over");
        }
        for entry in &entries {
            if let Entry::Activation(activation) = entry
                && activation.number != MoveNumber(0)
                && !is_own
                && !self.ordered.contains(&(log, activation.number))
            {
                return Err(format!(
                    "log {log} activates move {}, which nobody ordered",
                    activation.number
                ));
            }
            self.note_entry(log, entry, is_own);
        }
        Ok(())
    }

    fn note_entry(&mut self, log: LogNumber, entry: &Entry, is_own: bool) {
        match entry {
            Entry::HandOver(hand_over) => {
                if self.handed.insert(hand_over.number, is_own).is_none() {
                    self.open.insert(hand_over.number);
                    self.happened
                        .push(if is_own { "taken_move" } else { "planned_move" });
                }
            }
            Entry::AdoptedFile(file) => {
                self.adopted.insert((log, file.number), file.image);
                self.happened.push("adoption");
                if file.number != file.image {
                    self.happened.push("redirected_move");
                }
            }
            Entry::Activation(activation) => {
                let image = self.adopted.get(&(log, activation.number));
                if image.is_some_and(|image| self.open.remove(image)) {
                    self.happened.push("activation");
                    if is_own {
                        self.happened.push("activation_by_backup");
                    }
                }
            }
            Entry::Drop { .. } => self.happened.push("drop"),
            Entry::Change(_)
            | Entry::Horizon { .. }
            | Entry::Epoch(_)
            | Entry::HandedSums(_)
            | Entry::Adopt(_)
            | Entry::AdoptedSlots(_) => (),
        }
    }

    /// May the backup order this of the node of `log` now? The error says why not.
    pub(super) fn allow(&mut self, log: LogNumber, order: &MoveOrder<'_>) -> Result<(), String> {
        let number = order.number;
        match order.step {
            MoveStep::Adopt if !self.handed.contains_key(&order.image) => Err(format!(
                "the backup orders to adopt move {number}, which is not handed over durably"
            )),
            MoveStep::Activate if !self.adopted.contains_key(&(log, number)) => Err(format!(
                "the backup orders log {log} to activate move {number}, which is not adopted \
                 there durably"
            )),
            MoveStep::Activate => {
                self.ordered.insert((log, number));
                Ok(())
            }
            MoveStep::HandOver | MoveStep::Adopt | MoveStep::Drop => Ok(()),
        }
    }

    /// Moves whose slots no node serves.
    pub(super) fn open_count(&self) -> usize {
        self.open.len()
    }

    /// What happened since the last time.
    pub(super) fn take_happened(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.happened)
    }
}
