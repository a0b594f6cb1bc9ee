//! What a node is told at its start, and the limits that a test may lower.

use std::net::SocketAddr;

use crate::limits;
use crate::model::{ClusterId, ENTRY_SIZE, Incarnation, NodeId, OPERATION_SIZE, to_u64};
use crate::role::MemoryPlan;

/// What a node is told at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeOptions {
    /// Its number.
    pub id: NodeId,
    /// Where the backup listens.
    pub backup: SocketAddr,
    /// Where fronts reach this node.
    pub address: SocketAddr,
    /// This life of it: fresh at every start.
    pub incarnation: Incarnation,
    /// The cluster it must belong to; `None` = the one that folder or backup says.
    pub cluster: Option<ClusterId>,
    /// Ids that the ledger remembers.
    pub id_count_max: u64,
    /// Limits of its queues.
    pub limits: NodeLimits,
}

/// Limits of a node's queues; the default is what `limits.rs` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLimits {
    /// Blocks applied but not committed.
    pub block_in_flight_count_max: u32,
    /// Operations that wait for their turn.
    pub queued_count_max: u32,
    /// Operations that wait for a cold entry, with those that they hold back.
    pub parked_count_max: u32,
    /// Bytes of answers that wait for their commit or confirmation.
    pub answer_size_max: u64,
    /// Bytes of free disk space below which no changes are taken.
    pub disk_reserve_size: u64,
}

impl NodeOptions {
    /// The most memory that a node may use.
    #[must_use]
    pub fn memory_plan(&self) -> MemoryPlan {
        let block_size = (u64::from(limits::BLOCK_ENTRY_COUNT_MAX) + 1) * to_u64(ENTRY_SIZE);
        let blocks = u64::from(limits::BLOCKS_IN_FLIGHT_MAX) + 2;
        let ids = self.id_count_max * limits::ID_MEMORY_SIZE_MAX
            + limits::ID_ROW_COUNT_MAX * limits::ID_ROW_MEMORY_SIZE_MAX;
        let operation_size = to_u64(OPERATION_SIZE);
        // Queues and tables double when they grow.
        let queued = 2 * u64::from(self.limits.queued_count_max) * operation_size;
        let parked = u64::from(self.limits.parked_count_max) * limits::PARKED_MEMORY_SIZE_MAX;
        let fold = limits::FOLD_RECORD_COUNT_MAX * limits::FOLD_RECORD_MEMORY_SIZE_MAX;
        MemoryPlan::of_loop()
            .part("ids", ids)
            .part("fold", fold)
            .part("answers", 2 * self.limits.answer_size_max)
            .part("operations", queued + parked)
            .part("blocks", blocks * block_size)
            .part("fetches", limits::FETCH_AHEAD_SIZE_MAX)
            .each("account", limits::ACCOUNT_MEMORY_SIZE_MAX)
            .each_link()
    }
}

impl Default for NodeLimits {
    fn default() -> Self {
        Self {
            block_in_flight_count_max: limits::BLOCKS_IN_FLIGHT_MAX,
            queued_count_max: limits::NODE_QUEUED_COUNT_MAX,
            parked_count_max: limits::NODE_PARKED_COUNT_MAX,
            answer_size_max: limits::NODE_ANSWER_SIZE_MAX,
            disk_reserve_size: limits::DISK_RESERVE_SIZE,
        }
    }
}
