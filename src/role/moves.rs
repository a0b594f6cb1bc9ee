//! What roles and disk say to each other about slots on their way from log to log.

use crate::model::{LogEnd, LogNumber, MoveNumber, NodeId, Place, RingEpoch, SlotRange};

/// One move out of a log that is handed over by the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOverPart {
    /// The move.
    pub number: MoveNumber,
    /// The node that gets the slots.
    pub target: NodeId,
    /// Its log.
    pub target_log: LogNumber,
    /// The slots, rising.
    pub ranges: Vec<SlotRange>,
}

/// A move into a log whose slots were flipped to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActivationPart {
    /// The move.
    pub number: MoveNumber,
    /// Version of the slot table that gave the slots to this log.
    pub ring_epoch: RingEpoch,
    /// The slots, as they were adopted.
    pub ranges: Vec<SlotRange>,
}

/// What is known of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// Bytes of the file.
    pub size: u64,
    /// Its digest, as its header has it.
    pub digest: u64,
    /// The end in the source's log that it stands for.
    pub offset: u64,
    /// Sum of the digests of its slots.
    pub slot_digest: u128,
    /// Accounts in it.
    pub account_count: u64,
    /// Ids older than this, in Unix ms, were forgotten by the source.
    pub horizon_ms: u64,
    /// Log time of the source right before the hand-over.
    pub time: crate::model::LogTime,
}

/// A step of a move that lies in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveEvent {
    /// The slots left the log; their image is durable.
    HandedOver {
        /// The move.
        number: MoveNumber,
        /// Its first hand-over entry.
        place: Place,
        /// The end of the block that has it.
        end: LogEnd,
        /// The image.
        image: ImageInfo,
        /// How many slots.
        slot_count: u32,
    },
    /// The slots' state is staged in the log.
    Adopted {
        /// The move.
        number: MoveNumber,
        /// The end of the block.
        end: LogEnd,
        /// The move whose image it is.
        image: MoveNumber,
        /// Where the hand-over lies.
        place: Place,
        /// The image, as the entries describe it.
        info: ImageInfo,
    },
    /// The log serves the slots.
    Activated {
        /// The move.
        number: MoveNumber,
        /// The end of the block.
        end: LogEnd,
    },
    /// What was staged under the move is gone.
    Dropped {
        /// The move.
        number: MoveNumber,
        /// The end of the block.
        end: LogEnd,
    },
}

/// How some slots stand in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// Activated, in this version of the slot table.
    Owned(RingEpoch),
    /// Handed over under this move, and not come back.
    Gone(MoveNumber),
}

/// What a log has of the slots, at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Runs of slots that it ever had, rising.
    pub runs: Vec<(SlotRange, Holding)>,
    /// Version of the slot table of its newest activation.
    pub ring_epoch: RingEpoch,
}
