//! The slot table as a router uses it: which link a user's operations go to.
//!
//! The authority computes the table; a look-up here is one hash and one read. The newest table is
//! kept while the backup is away, and one that is older than it is never taken.

use std::collections::{BTreeMap, BTreeSet};

use super::links::{Breach, DialedLink, LinkState, Purpose};
use super::{Front, say};
use crate::clock::Tick;
use crate::limits::SLOT_COUNT;
use crate::model::{Generation, NodeId, RingEpoch, UserId, to_usize, user_slot};
use crate::protocol::{Member, MemberState, SlotRun, Table};
use crate::ring::{OwnedRun, SlotTable};
use crate::role::{Level, Outbox};

const NOBODY: u16 = u16::MAX;

/// The table that this front routes by.
#[derive(Debug)]
pub(super) struct Routing {
    pub(super) generation: Generation,
    pub(super) epoch: RingEpoch,
    ring_key: u128,
    /// Link of the owner, by slot.
    owners: Vec<u16>,
}

impl Routing {
    /// The link to the node that owns the user.
    pub(super) fn owner(&self, user: UserId) -> Option<u16> {
        match self.owners[user_slot(self.ring_key, user).index()] {
            NOBODY => None,
            link => Some(link),
        }
    }
}

impl Front {
    /// Takes a table of the backup, unless it told a newer one before: an epoch may have many
    /// tables, which differ in who is present and where.
    pub(super) fn on_table(
        &mut self,
        now: Tick,
        number: u64,
        table: &Table<'_>,
        out: &mut Outbox,
    ) -> Result<(), Breach> {
        if number < self.table_number {
            return Ok(());
        }
        self.table_number = number;
        self.install_table(now, table, out)
    }

    /// Takes a table that the backup told: links to its nodes, and owners of all slots.
    fn install_table(
        &mut self,
        now: Tick,
        table: &Table<'_>,
        out: &mut Outbox,
    ) -> Result<(), Breach> {
        let version = (table.generation, table.ring_epoch);
        if let Some(routing) = &self.routing
            && version < (routing.generation, routing.epoch)
        {
            let text = format!(
                "backup tells an older table, epoch {} of generation {}; epoch {} is kept",
                table.ring_epoch, table.generation.0, routing.epoch
            );
            say(out, Level::Alarm, text);
            return Ok(());
        }
        if !self.options.roles.routes() {
            return Ok(());
        }
        // Read all of it before anything changes.
        let members: Result<Vec<Member>, _> = table.members.iter().collect();
        let members = members.map_err(|error| malformed(&error))?;
        let nodes: BTreeSet<u32> = members.iter().map(|member| member.node.get()).collect();
        let mut runs = Vec::with_capacity(table.runs.len());
        for run in table.runs.iter() {
            let SlotRun { slots, node } = run.map_err(|error| malformed(&error))?;
            if node != 0 && !nodes.contains(&node) {
                let text = format!("slots of node {node}, which is no member");
                return Err(Breach::malformed(text));
            }
            let node = NodeId::new(node);
            runs.push(OwnedRun { slots, node });
        }
        let slots = SlotTable::from_runs(table.ring_epoch, runs).map_err(|e| malformed(&e))?;
        let links = self.link_members(now, &members, out);
        let mut owners = vec![NOBODY; to_usize(u64::from(SLOT_COUNT))];
        for OwnedRun { slots, node } in slots.runs() {
            let link = node.and_then(|node| links.get(&node.get()));
            let link = link.copied().unwrap_or(NOBODY);
            owners[slots.first.index()..=slots.last.index()].fill(link);
        }
        self.leave_lost_nodes(now, &owners, out);
        self.routing = Some(Routing {
            generation: table.generation,
            epoch: table.ring_epoch,
            ring_key: table.ring_key,
            owners,
        });
        self.unqueue_foreign();
        self.is_sweep_due = true;
        Ok(())
    }

    /// A node whose frames in flight are at their bound has a queue: what is not its own any more
    /// must not be sent to it under the new epoch.
    fn unqueue_foreign(&mut self) {
        let Some(routing) = &self.routing else { return };
        for (index, link) in (0_u16..).zip(&self.links) {
            if matches!(link.purpose, Purpose::Node(_)) {
                self.flight.unqueue(index, |user| {
                    let user = UserId::new(user).expect("checked when it was admitted");
                    routing.owner(user) == Some(index)
                });
            }
        }
    }

    /// Brings the links in line with the members. The link of each node, by its number.
    fn link_members(
        &mut self,
        now: Tick,
        members: &[Member],
        out: &mut Outbox,
    ) -> BTreeMap<u32, u16> {
        let mut known = BTreeMap::new();
        for (index, link) in (0_u16..).zip(&self.links) {
            if let Purpose::Node(node) = link.purpose {
                known.insert(node.get(), index);
            }
        }
        let mut links = BTreeMap::new();
        for member in members {
            if let Some(index) = known.remove(&member.node.get()) {
                links.insert(member.node.get(), index);
            }
        }
        // Who is no member any more is left alone before the new ones come.
        for index in known.into_values() {
            self.links[usize::from(index)].is_wanted = false;
            if self.link(index).state != LinkState::Idle {
                self.close_link(now, index, "no longer a member", out);
            }
        }
        for member in members {
            let found = links.get(&member.node.get()).copied();
            let index = found.unwrap_or_else(|| self.link_for(member, &links));
            links.insert(member.node.get(), index);
            self.follow_member(now, index, member, out);
        }
        links
    }

    /// A node that the authority misses and that owns nothing any more will not answer what it
    /// still has: its link is closed, so that its operations go to who owns them now.
    fn leave_lost_nodes(&mut self, now: Tick, owners: &[u16], out: &mut Outbox) {
        for index in 0..self.links.len() {
            let index = u16::try_from(index).expect("bounded in add_link");
            let link = self.link(index);
            let is_node = matches!(link.purpose, Purpose::Node(_));
            let is_lost = is_node && !link.is_wanted && link.peer().is_some();
            if is_lost && !owners.contains(&index) {
                self.close_link(now, index, "it is away and owns nothing", out);
            }
        }
    }

    /// A link for a new member: one of a former member if nothing hangs on it, else another one.
    fn link_for(&mut self, member: &Member, links: &BTreeMap<u32, u16>) -> u16 {
        let link = DialedLink::new(Purpose::Node(member.node), member.address);
        let former = (0_u16..).zip(&self.links).find(|(index, link)| {
            matches!(link.purpose, Purpose::Node(node) if !links.contains_key(&node.get()))
                && link.state == LinkState::Idle
                && self.flight.targets[usize::from(*index)].load == 0
        });
        let Some((index, _)) = former else {
            return self.add_link(link);
        };
        self.links[usize::from(index)] = link;
        index
    }

    fn follow_member(&mut self, now: Tick, index: u16, member: &Member, out: &mut Outbox) {
        let is_present = member.state == MemberState::Present;
        let has_moved = self.link(index).address != member.address;
        if has_moved && self.link(index).state != LinkState::Idle {
            self.close_link(now, index, "its address changed", out);
        }
        let link = &mut self.links[usize::from(index)];
        link.address = member.address;
        if has_moved || (is_present && !link.is_wanted) {
            link.dial_at = now;
        }
        link.is_wanted = is_present;
        self.links_due = Tick(0);
    }
}

fn malformed(error: &impl ToString) -> Breach {
    Breach::malformed(error.to_string())
}
