//! What the authority ordered, kept beyond its frame, and checked before anything is done.

use std::fmt;

use crate::limits;
use crate::model::{
    LogNumber, LogTime, MoveNumber, NodeId, Place, RingEpoch, Slot, SlotRange, to_usize,
};
use crate::protocol::{MessageError, MoveOrder, MoveStep};

/// An order for one step of a move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::node) struct Order {
    pub(super) step: MoveStep,
    pub(super) number: MoveNumber,
    /// The move whose image is used.
    pub(super) image: MoveNumber,
    pub(super) ring_epoch: RingEpoch,
    /// The other node, and its log.
    pub(super) peer: NodeId,
    pub(super) peer_log: LogNumber,
    /// Of the hand-over, in the source's log.
    pub(super) place: Place,
    pub(super) image_size: u64,
    pub(super) image_digest: u64,
    /// The end in the source's log that the image stands for.
    pub(super) image_offset: u64,
    pub(super) slot_digest: u128,
    pub(super) account_count: u64,
    pub(super) horizon_ms: u64,
    pub(super) time: LogTime,
    /// Ascending, without overlap; empty only where the order is to drop.
    pub(super) ranges: Vec<SlotRange>,
}

/// Why an order cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::node) enum OrderError {
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("an order without a number")]
    Number,
    #[error("an order of {0} slot ranges")]
    RangeCount(usize),
    #[error("the slot ranges of an order do not ascend")]
    Ranges,
    #[error("an adoption of what no log handed over")]
    Place,
}

impl Order {
    pub(in crate::node) fn read(order: &MoveOrder<'_>) -> Result<Self, OrderError> {
        let count = order.ranges.len();
        // What is dropped is known by its number alone.
        let is_drop = order.step == MoveStep::Drop;
        if (count == 0 && !is_drop) || to_usize(u64::from(limits::MOVE_RANGE_COUNT_MAX)) < count {
            return Err(OrderError::RangeCount(count));
        }
        let ranges: Vec<SlotRange> = order.ranges.iter().collect::<Result<_, _>>()?;
        let mut pairs = ranges.iter().zip(ranges.iter().skip(1));
        if pairs.any(|(range, next)| next.first <= range.last) {
            return Err(OrderError::Ranges);
        }
        if order.number == MoveNumber(0) {
            return Err(OrderError::Number);
        }
        let is_adoption = order.step == MoveStep::Adopt;
        let is_placed = order.place.log() == Some(order.peer_log);
        if is_adoption && (!is_placed || order.image == MoveNumber(0)) {
            return Err(OrderError::Place);
        }
        Ok(Self {
            step: order.step,
            number: order.number,
            image: order.image,
            ring_epoch: order.ring_epoch,
            peer: order.peer,
            peer_log: order.peer_log,
            place: order.place,
            image_size: order.image_size,
            image_digest: order.image_digest,
            image_offset: order.image_offset,
            slot_digest: order.slot_digest,
            account_count: order.account_count,
            horizon_ms: order.horizon_ms,
            time: order.time,
            ranges,
        })
    }

    /// Does it bring the same state? The table may have changed since it was told before.
    pub(super) fn is_same_adoption(&self, other: &Self) -> bool {
        let ring_epoch = self.ring_epoch;
        *self
            == Self {
                ring_epoch,
                ..other.clone()
            }
    }

    /// Each slot of it.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> {
        slots_of(&self.ranges)
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slot_count = self.slots().count();
        let (number, peer, peer_log) = (self.number, self.peer, self.peer_log);
        match self.step {
            MoveStep::HandOver => {
                write!(f, "move {number}: {slot_count} slots to node {peer}")
            }
            MoveStep::Adopt | MoveStep::Activate => {
                write!(f, "move {number}: {slot_count} slots from log {peer_log}")
            }
            MoveStep::Drop => write!(f, "move {number}"),
        }
    }
}

/// Each slot of some ranges.
pub(super) fn slots_of(ranges: &[SlotRange]) -> impl Iterator<Item = Slot> {
    ranges
        .iter()
        .flat_map(|range| (range.first.0..=range.last.0).map(Slot))
}
