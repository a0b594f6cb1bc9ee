//! What a backup is started with, and what a new cluster is made from.
//!
//! Numbers that bound the backup alone are here, because an operator may lower them; those that
//! the other daemons share are in `limits`.

use std::collections::BTreeSet;
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
    /// Where its listener is bound, for status.
    pub address: SocketAddr,
    /// This life of it.
    pub incarnation: Incarnation,
    /// What it may use.
    pub limits: BackupLimits,
    /// Seed of the identities that it draws for copies of logs; random, never used twice.
    pub id_seed: u64,
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
