//! The authority: who is in the cluster, who has which term and which slots, and in which
//! generation.
//!
//! Nobody hears of a change before it is durable: the rest of the backup sees the durable record
//! only, and what depends on a change waits for the number that `change` gives. The layout of
//! the file is in `file`. No IO here, and no decision about when a term may be given.

mod file;
mod file_ends;
mod file_moves;
mod membership;
mod moves;
mod rebuilt;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::options::NewCluster;
use crate::limits;
use crate::model::{ClusterId, Generation, LogNumber, NodeId, RingEpoch, to_usize};
use crate::ring::SlotTable;

pub(super) use file::AuthorityFileError;
use file::KeptSection;
pub(super) use membership::{MemberRecord, Shown};
#[cfg(test)]
pub(super) use moves::Ended;
pub(super) use moves::{
    Cause, Handed, MoveBook, MoveRecord, MoveState, NewMove, SlotSet, ranges_of, slots_of,
};
pub(super) use rebuilt::{Found, FoundLog};
pub(super) use table::TableParts;

/// Everything that the authority keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// The cluster.
    pub(super) cluster: ClusterId,
    /// Key of its hash.
    pub(super) ring_key: u128,
    /// Number of this history of the backup.
    pub(super) generation: Generation,
    /// Bytes of a segment of a new log.
    pub(super) segment_size: u64,
    /// When the cluster was made, Unix milliseconds.
    pub(super) created_ms: u64,
    /// The log number that the next new node gets; one above all that were ever given.
    pub(super) log_next: u32,
    /// Nodes, by number.
    pub(super) members: BTreeMap<NodeId, MemberRecord>,
    /// Logs of nodes that are no members any more, with whose they were: what was counted in them
    /// still counts, and ids are still proved by them.
    pub(super) retired: BTreeMap<LogNumber, (NodeId, MemberRecord)>,
    /// Owners of slots.
    pub(super) table: Arc<SlotTable>,
    /// Slots on their way.
    pub(super) moves: MoveBook,
    /// What is known of it if it was made again from the nodes.
    pub(super) recovered: Option<Recovered>,
    /// Sections of the file that this version keeps as they are.
    kept: Vec<KeptSection>,
}

/// What is kept of the newest recovery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Recovered {
    /// When, Unix milliseconds.
    pub(super) at_ms: u64,
    /// Nodes that were given up.
    pub(super) given_up: BTreeSet<NodeId>,
    /// By currency, what was adopted from logs that are no more.
    pub(super) openings: BTreeMap<u32, i128>,
}

impl Record {
    /// The record of a new cluster. The options were checked.
    pub(super) fn create(new: &NewCluster, created_ms: u64) -> Self {
        let mut members = BTreeMap::new();
        for (node, number) in new.nodes.iter().zip(1_u16..) {
            let log = LogNumber::new(number).expect("numbers begin at 1");
            let member = MemberRecord::new(log, node.weight, node.keys.clone());
            members.insert(node.node, member);
        }
        assert!(members.len() == new.nodes.len());
        let log_next = u32::try_from(members.len()).expect("nodes are bounded") + 1;
        let table = table::plan(new.ring_key, RingEpoch(1), &members);
        Self {
            cluster: new.cluster,
            ring_key: new.ring_key,
            generation: Generation(1),
            segment_size: new.segment_size,
            created_ms,
            log_next,
            members,
            retired: BTreeMap::new(),
            table: Arc::new(table),
            moves: MoveBook::default(),
            recovered: None,
            kept: Vec::new(),
        }
    }

    /// Reads the authority's file.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, AuthorityFileError> {
        file::decode(bytes)
    }

    /// The authority's file.
    pub(super) fn encode(&self) -> Bytes {
        file::encode(self)
    }

    /// Version of the slot table.
    pub(super) fn ring_epoch(&self) -> RingEpoch {
        self.table.epoch()
    }

    /// All logs with whose they are or were.
    pub(super) fn logs(&self) -> impl Iterator<Item = (NodeId, &MemberRecord)> {
        let members = self.members.iter().map(|(node, member)| (*node, member));
        let retired = self.retired.values().map(|(node, member)| (*node, member));
        members.chain(retired)
    }

    /// What is known of a log, whether its node is still a member or not.
    pub(super) fn log(&self, log: LogNumber) -> Option<&MemberRecord> {
        let found = self.logs().find(|(_, member)| member.log == log);
        found.map(|(_, member)| member)
    }

    /// May one more node become a member?
    pub(super) fn has_room(&self) -> bool {
        let is_full = to_usize(u64::from(limits::NODE_COUNT_MAX)) <= self.members.len();
        !is_full && u16::try_from(self.log_next).is_ok()
    }

    /// Makes a new node a member. Panics if it is one, or if there is no log number left.
    pub(super) fn add_member(&mut self, node: NodeId, weight: u32) {
        let number = u16::try_from(self.log_next).ok().and_then(LogNumber::new);
        let log = number.expect("the caller has looked");
        self.log_next += 1;
        let member = MemberRecord::new(log, weight, Vec::new());
        assert!(self.members.insert(node, member).is_none());
    }

    /// Takes a node that owns nothing out of the cluster. Its log stays.
    pub(super) fn remove_member(&mut self, node: NodeId) {
        assert!(self.table.slot_count_of(node) == 0);
        let before = self.members.remove(&node).expect("the caller has looked");
        let member = MemberRecord {
            weight: 0,
            keys: Vec::new(),
            address: None,
            draining: false,
            emptied: false,
            ..before
        };
        self.retired.insert(member.log, (node, member));
    }

    /// The table that the rule gives for some of the members.
    pub(super) fn plan_for(&self, takes_part: impl Fn(NodeId, &MemberRecord) -> bool) -> SlotTable {
        let members = self.members.iter();
        let chosen = members.filter(|(node, member)| takes_part(**node, member));
        table::plan(self.ring_key, self.ring_epoch(), chosen)
    }
}

/// Number of a change of the record, rising.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ChangeNumber(u64);

/// The record as it is durable, and as it is to become.
#[derive(Debug)]
pub(super) struct Authority {
    durable: Record,
    durable_through: ChangeNumber,
    latest: Record,
    latest_number: ChangeNumber,
    saving: Option<(ChangeNumber, Record)>,
}

impl Authority {
    /// An authority whose record is durable as it is.
    pub(super) fn new(record: Record) -> Self {
        Self {
            durable: record.clone(),
            durable_through: ChangeNumber(0),
            latest: record,
            latest_number: ChangeNumber(0),
            saving: None,
        }
    }

    /// What is durable: all that others may be told.
    pub(super) const fn record(&self) -> &Record {
        &self.durable
    }

    /// What will be durable: what the next change starts from.
    pub(super) const fn latest(&self) -> &Record {
        &self.latest
    }

    /// Changes the record. Nobody may be told before `durable_through` reaches the number.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Record)) -> ChangeNumber {
        change(&mut self.latest);
        self.latest_number.0 += 1;
        self.latest_number
    }

    /// Changes a member. One that is just being removed is left as it was.
    pub(super) fn change_member(
        &mut self,
        node: NodeId,
        change: impl FnOnce(&mut MemberRecord),
    ) -> ChangeNumber {
        self.change(|record| {
            if let Some(member) = record.members.get_mut(&node) {
                change(member);
            }
        })
    }

    /// The newest change that is durable.
    pub(super) const fn durable_through(&self) -> ChangeNumber {
        self.durable_through
    }

    /// Is everything durable?
    pub(super) fn is_durable(&self) -> bool {
        self.durable_through == self.latest_number
    }

    /// Is a save under way?
    pub(super) const fn is_saving(&self) -> bool {
        self.saving.is_some()
    }

    /// Begins to save what is not durable, unless a save is under way.
    pub(super) fn begin_save(&mut self) -> Option<Bytes> {
        if self.saving.is_some() || self.is_durable() {
            return None;
        }
        self.saving = Some((self.latest_number, self.latest.clone()));
        Some(self.latest.encode())
    }

    /// The save under way is durable.
    pub(super) fn saved(&mut self) {
        let (number, record) = self.saving.take().expect("one save is under way");
        assert!(self.durable_through < number);
        self.durable_through = number;
        self.durable = record;
    }

    /// The save under way failed for lack of space and changed nothing.
    pub(super) fn save_failed(&mut self) {
        assert!(self.saving.take().is_some());
    }
}
