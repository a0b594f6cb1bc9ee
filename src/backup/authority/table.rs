//! The slot table: planned by the nearest-key rule, and as it is told to those who follow.

use bytes::BytesMut;

use super::{MemberRecord, Record};
use crate::model::{Incarnation, NodeId, RingEpoch};
use crate::protocol::{Member, MemberState, SlotRun, put_member, put_slot_run};
use crate::ring::{self, RingNode, SlotTable};

/// The table by the rule for these members.
pub(super) fn plan<'a>(
    ring_key: u128,
    epoch: RingEpoch,
    members: impl IntoIterator<Item = (&'a NodeId, &'a MemberRecord)>,
) -> SlotTable {
    let nodes: Vec<RingNode> = members
        .into_iter()
        .filter(|(_, member)| member.weight != 0)
        .map(|(node, member)| {
            if member.keys.is_empty() {
                RingNode::drawn(ring_key, *node, member.weight)
            } else {
                RingNode::preset(*node, &member.keys).expect("the count of keys was checked")
            }
        })
        .collect();
    ring::plan(epoch, &nodes)
}

/// The lists of a table message, kept until something in them changes.
#[derive(Debug, Default)]
pub(crate) struct TableParts {
    /// For `Members`.
    pub(crate) members: BytesMut,
    /// For `SlotRuns`.
    pub(crate) runs: BytesMut,
    /// Epoch of `runs`.
    epoch: Option<RingEpoch>,
}

impl TableParts {
    /// Writes both lists anew from what is durable. Tells whether they differ from before.
    pub(crate) fn fill(
        &mut self,
        record: &Record,
        state: impl Fn(&MemberRecord) -> MemberState,
    ) -> bool {
        let before = self.members.split();
        for (node, member) in &record.members {
            let line = Member {
                node: *node,
                log: member.log,
                state: state(member),
                term: member.term,
                incarnation: member.incarnation.map_or(0, Incarnation::get),
                address: member.address,
            };
            put_member(&mut self.members, &line);
        }
        if self.epoch == Some(record.ring_epoch()) {
            return before != self.members;
        }
        self.epoch = Some(record.ring_epoch());
        self.runs.clear();
        for run in record.table.runs() {
            let run = SlotRun {
                slots: run.slots,
                node: run.node.map_or(0, NodeId::get),
            };
            put_slot_run(&mut self.runs, &run);
        }
        true
    }
}
