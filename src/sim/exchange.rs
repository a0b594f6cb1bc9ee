//! An old copy or an empty disk is in the backup's place for a while.

use std::collections::BTreeMap;

use super::clock::MS;
use super::fault::Remedy;
use super::world::World;
use crate::log::MemoryMedium;
use crate::model::{Random, Term};

impl World {
    fn terms(&self) -> BTreeMap<usize, Term> {
        let beats = self.watch.beats.iter();
        beats.map(|(machine, beat)| (*machine, beat.term)).collect()
    }

    /// A copy is kept and all nodes start anew; the next time, when all of them work in newer
    /// terms, the copy takes the right disk's place. Before that nobody could tell it from the
    /// right one.
    pub(super) fn old_backup(&mut self, random: &mut Random) -> Option<String> {
        // An operator changes the list of members, of which an old copy knows nothing.
        if !self.faults.may_hurt() || self.operator.is_some() {
            return None;
        }
        let backup = self.backup();
        let terms = self.terms();
        let Some((_, old_terms)) = &self.faults.old_copy else {
            if terms.len() < self.plan.node_count || !self.machines[backup].is_ready() {
                return None;
            }
            let copy = self.machines[backup].medium.as_ref()?.fork();
            self.faults.old_copy = Some((copy, terms));
            for node in self.nodes() {
                self.kill(node);
                self.restart_at(node, self.at + 20 * MS);
            }
            return None;
        };
        let newer = |node: usize| {
            let serves = self
                .watch
                .beats
                .get(&node)
                .is_some_and(|beat| beat.phase == 1);
            serves && self.machines[node].is_ready() && old_terms.get(&node) < terms.get(&node)
        };
        if !self.nodes().into_iter().all(newer) {
            return None;
        }
        let (copy, _) = self.faults.old_copy.take()?;
        self.exchange_backup(copy, random);
        Some("the backup's disk is an old copy".to_owned())
    }

    pub(super) fn blank_backup(&mut self, random: &mut Random) -> Option<String> {
        if self.operator.is_some() {
            // One that joins the wrong cluster is right to stay there.
            return None;
        }
        let backup = self.backup();
        let all_ready = self
            .nodes()
            .into_iter()
            .all(|node| self.machines[node].is_ready());
        if !self.faults.may_hurt() || !all_ready || !self.machines[backup].is_ready() {
            return None;
        }
        self.faults.makes_new_cluster = random.one_in(2);
        self.exchange_backup(MemoryMedium::new(), random);
        Some("the backup's disk is an empty one".to_owned())
    }

    fn exchange_backup(&mut self, medium: MemoryMedium, random: &mut Random) {
        let backup = self.backup();
        self.kill(backup);
        self.faults.right_disk = self.machines[backup].medium.replace(medium);
        self.restart_at(backup, self.at + 20 * MS);
        self.schedule_remedy(random, 4_000, Remedy::RightBackup);
    }

    pub(super) fn right_backup(&mut self) {
        let backup = self.backup();
        if let Some(right) = self.faults.right_disk.take() {
            self.kill(backup);
            self.machines[backup].medium = Some(right);
            self.restart_at(backup, self.at + 20 * MS);
            self.tell("the right disk of the backup is back");
            if std::mem::take(&mut self.faults.makes_new_cluster) {
                // Fronts that started meanwhile believe in the wrong cluster.
                for front in self.fronts() {
                    self.kill(front);
                    self.restart_at(front, self.at + 20 * MS);
                }
            }
        }
    }
}
