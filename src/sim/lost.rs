//! The backup's disk is lost for good, and the operator has the backup made again from the nodes.

use std::collections::{BTreeMap, BTreeSet};

use super::clock::MS;
use super::machine::Kind;
use super::world::World;
use crate::backup::RecoverOptions;
use crate::log::MemoryMedium;
use crate::model::{NodeId, Random};

impl World {
    /// Only what no node has is lost with it: nothing, if every node has all of its own log. What
    /// a taken over node would have to learn from the backup, or a removed one's counters, are not
    /// on any other disk: then it is not done.
    pub(super) fn lose_backup(&mut self, random: &mut Random) -> Option<String> {
        let backup = self.backup();
        let nodes = self.nodes();
        let all_ready = nodes.iter().all(|node| self.machines[*node].is_ready());
        let is_calm = self.faults.may_hurt() && self.faults.replaced.is_none();
        if !is_calm || !all_ready || !self.machines[backup].is_ready() {
            return None;
        }
        if !self.watch.is_all_with(&nodes) {
            return None;
        }
        self.kill(backup);
        self.machines[backup].medium = Some(MemoryMedium::new());
        self.watch.lose_backup();
        self.faults.lost_backup();
        let pause = (20 + random.below(2_000)) * MS;
        self.restart_at(backup, self.at + pause);
        Some("the operator has it made again".to_owned())
    }

    /// With what the operator starts the backup, as long as it is not made again.
    pub(super) fn recovery(&mut self) -> Option<RecoverOptions> {
        if !self.faults.is_lost {
            return None;
        }
        let medium = self.machines[self.backup()].medium.as_ref();
        let is_made =
            medium.is_some_and(|medium| medium.paths().iter().any(|path| path == "authority"));
        if is_made {
            return None;
        }
        self.counts.event("recovery");
        let ids = self
            .nodes()
            .into_iter()
            .filter_map(|node| match self.machines[node].kind {
                Kind::Node(id) => Some(id),
                Kind::Backup | Kind::Front | Kind::Client(_) => None,
            });
        let present: BTreeSet<NodeId> = ids.collect();
        let all = self
            .machines
            .iter()
            .filter_map(|machine| match machine.kind {
                Kind::Node(id) => Some(id),
                Kind::Backup | Kind::Front | Kind::Client(_) => None,
            });
        // Removed ones, whose removal not everybody may have heard of.
        let give_up = all.filter(|id| !present.contains(id)).collect();
        Some(RecoverOptions {
            give_up,
            weights: BTreeMap::new(),
        })
    }
}
