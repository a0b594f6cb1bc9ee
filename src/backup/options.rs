//! What a backup is started with, and what a new cluster is made from.
//!
//! Numbers that bound the backup alone are here, because an operator may lower them; those that
//! the other daemons share are in `limits`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::limits;
use crate::model::{ClusterId, Incarnation, NodeId, Slot, to_usize};
use crate::role::MemoryPlan;

/// Bytes of a page of the disk: segments are whole pages.
const PAGE_SIZE: u64 = 4_096;

/// Highest weight of a node: with more it would get no more keys.
pub const NODE_WEIGHT_MAX: u32 = limits::NODE_KEY_COUNT_MAX / limits::NODE_KEY_COUNT_DEFAULT;

/// Everything that a backup must be told.
#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// Make a new cluster in an empty folder; `None`: go on with the cluster in the folder.
    pub create: Option<NewCluster>,
    /// Make the backup of a cluster again that lost it, from the nodes, in an empty folder.
    pub recover: Option<RecoverOptions>,
    /// Where its listener is bound, for status.
    pub address: SocketAddr,
    /// This life of it.
    pub incarnation: Incarnation,
    /// What it may use.
    pub limits: BackupLimits,
    /// Seed of the identities that it draws for copies of logs; random, never used twice.
    pub id_seed: u64,
}

/// How a lost backup is made again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoverOptions {
    /// Nodes that will not come back: they are no members any more, and what they had is lost.
    pub give_up: BTreeSet<NodeId>,
    /// Weights of nodes, which no node knows. Who is named is waited for.
    pub weights: BTreeMap<NodeId, u32>,
}

/// A cluster that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCluster {
    /// Its identity, drawn at random.
    pub cluster: ClusterId,
    /// Key of its hash, drawn at random.
    pub ring_key: u128,
    /// Its nodes.
    pub nodes: Vec<NewNode>,
    /// Bytes of a segment of each log.
    pub segment_size: u64,
}

/// A node of a cluster that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNode {
    /// Its number.
    pub node: NodeId,
    /// 128 drawn node keys for each unit; 1 to 32.
    pub weight: u32,
    /// Preset node keys instead of drawn ones; empty = drawn.
    pub keys: Vec<Slot>,
}

/// What a backup may use. Each may be lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupLimits {
    /// Bytes of one log on their way to the disk above which its node is no longer read from.
    pub log_in_flight_size_max: u64,
    /// Reads of one peer under way at a time; above it the connection ends.
    pub peer_read_count_max: u32,
    /// Peers that wait for an audit at a time; above it they are refused.
    pub audit_asker_count_max: u32,
    /// Silence of a node after which it counts as away, in milliseconds.
    pub silence_ms_max: u64,
    /// Silence of a node after which the others take over its slots, in milliseconds; 0 = never.
    pub take_over_after_ms: u64,
    /// The same for a node that was not there since the backup's start, if that is longer.
    pub start_grace_ms: u64,
    /// How long a node whose slots were taken over must be back before it gets slots again.
    pub refill_after_ms: u64,
    /// Rest of a node between two planned moves of its slots, in milliseconds.
    pub move_pause_ms: u64,
    /// Accounts that a planned move takes at a time, about.
    pub move_account_count_goal: u64,
    /// Accounts of one node at most: moves that would give it more are not begun.
    pub node_account_count_max: u64,
    /// Interval of measuring the free disk space, and of trying again what failed for lack of it.
    pub free_space_ms: u64,
}

impl BackupLimits {
    /// The documented values.
    pub const STANDARD: Self = Self {
        // Several full blocks: enough to keep the disk busy, far below a link's buffer.
        log_in_flight_size_max: 32 << 20,
        // A restoring node asks for a few pieces ahead.
        peer_read_count_max: 16,
        audit_asker_count_max: 64,
        silence_ms_max: limits::LINK_SILENCE_MS_MAX,
        take_over_after_ms: limits::LINK_SILENCE_MS_MAX,
        // A host that starts anew brings its daemons up one after the other.
        start_grace_ms: 10_000,
        // One that comes and goes is not to carry slots to and fro.
        refill_after_ms: 10_000,
        move_pause_ms: 50,
        move_account_count_goal: limits::MOVE_ACCOUNT_COUNT_GOAL,
        node_account_count_max: limits::ACCOUNT_COUNT_MAX as u64,
        free_space_ms: 1_000,
    };
}

impl BackupLimits {
    /// The most memory that a backup may use.
    #[must_use]
    pub fn memory_plan(&self) -> MemoryPlan {
        let fold = limits::FOLD_RECORD_COUNT_MAX * limits::FOLD_RECORD_MEMORY_SIZE_MAX;
        let reads = u64::from(self.peer_read_count_max) * u64::from(limits::FETCH_SIZE_MAX);
        MemoryPlan::of_loop()
            .part("fold", fold)
            .each("log", self.log_in_flight_size_max)
            .each("node that restores itself", reads)
            .each("account", limits::ACCOUNT_MEMORY_SIZE_MAX)
            .each("id", limits::ID_MEMORY_SIZE_MAX)
            .each_link()
    }
}

/// Why no cluster can be made from a [`NewCluster`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NewClusterError {
    /// No node, or too many.
    #[error("{count} nodes, where 1 to {max} are possible", max = limits::NODE_COUNT_MAX)]
    NodeCount {
        /// How many were given.
        count: usize,
    },
    /// One node twice.
    #[error("node {node} is named twice")]
    Twice {
        /// Which.
        node: NodeId,
    },
    /// A weight out of range.
    #[error("node {node} has weight {weight}, where 1 to {NODE_WEIGHT_MAX} are possible")]
    Weight {
        /// Which.
        node: NodeId,
        /// What was given.
        weight: u32,
    },
    /// Too many preset keys.
    #[error("node {node} has {count} keys, at most {max} are possible",
        max = limits::NODE_KEY_COUNT_MAX)]
    KeyCount {
        /// Which.
        node: NodeId,
        /// How many were given.
        count: usize,
    },
    /// A segment size out of range, or not of whole pages.
    #[error("segment size {size} is not a multiple of {PAGE_SIZE} from {min} to {max}",
        min = limits::SEGMENT_SIZE_MIN, max = limits::SEGMENT_SIZE_MAX)]
    SegmentSize {
        /// What was given.
        size: u64,
    },
}

impl NewCluster {
    /// Can a cluster be made from this?
    pub fn check(&self) -> Result<(), NewClusterError> {
        let count = self.nodes.len();
        if count == 0 || to_usize(u64::from(limits::NODE_COUNT_MAX)) < count {
            return Err(NewClusterError::NodeCount { count });
        }
        if !segment_size_is_possible(self.segment_size) {
            return Err(NewClusterError::SegmentSize {
                size: self.segment_size,
            });
        }
        let mut seen = BTreeSet::new();
        for new in &self.nodes {
            let node = new.node;
            if !seen.insert(node) {
                return Err(NewClusterError::Twice { node });
            }
            if !(1..=NODE_WEIGHT_MAX).contains(&new.weight) {
                return Err(NewClusterError::Weight {
                    node,
                    weight: new.weight,
                });
            }
            if to_usize(u64::from(limits::NODE_KEY_COUNT_MAX)) < new.keys.len() {
                return Err(NewClusterError::KeyCount {
                    node,
                    count: new.keys.len(),
                });
            }
        }
        Ok(())
    }
}

/// Is this a size that a segment may have?
pub(super) fn segment_size_is_possible(size: u64) -> bool {
    (limits::SEGMENT_SIZE_MIN..=limits::SEGMENT_SIZE_MAX).contains(&size)
        && size.is_multiple_of(PAGE_SIZE)
}
