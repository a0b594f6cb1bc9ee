//! What a node is told at its start, and the limits that a test may lower.

use std::net::SocketAddr;

use crate::limits;
use crate::model::{ClusterId, Incarnation, NodeId};

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
    /// The weight with which it becomes a member if its number is none; `None` = it must be one.
    pub join: Option<u32>,
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
