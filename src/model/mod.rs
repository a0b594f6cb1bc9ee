//! The vocabulary everybody shares: ids, amounts, operations, outcomes, positions in a log.
//!
//! Nothing here does IO, knows the time or draws randomness. The byte layouts of the two records
//! that travel both on the wire and to the disk (operation and entry) are fixed here once.

mod choices;
mod code;
mod entry;
mod id;
mod map;
mod operation;
mod position;
mod random;
mod receipt;
mod section;
#[cfg(feature = "daemon")]
mod slot;

#[doc(hidden)]
pub use choices::Choices;
pub use code::{CodeClass, ResultCode};
pub use entry::{Activation, Change, ENTRY_SIZE, Entry, EntryError, EpochMark, Image, SlotRange};
pub use id::{
    ClusterId, Currency, IdTextError, Incarnation, LogNumber, NodeId, OperationId, UserId,
};
pub use map::{Map, Set, new_map, new_set};
pub use operation::{AccountSettings, Flags, Kind, OPERATION_SIZE, Operation};
pub use position::{Generation, LogEnd, LogTime, Place, RingEpoch, Seq, Slot, Term, TermStart};
pub use random::Random;
pub use receipt::{RECEIPT_SIZE, ROW_SIZE, Receipt, ReceiptFlags, Row};
pub use section::Section;
#[cfg(feature = "daemon")]
pub use slot::{id_fingerprint, user_slot};

/// Exact: every target of this crate has 64-bit addresses (asserted in `limits`).
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "usize has 64 bits, asserted in limits.rs"
)]
pub const fn to_usize(value: u64) -> usize {
    value as usize
}

/// Exact, for the same reason as [`to_usize`].
#[must_use]
pub const fn to_u64(value: usize) -> u64 {
    value as u64
}
