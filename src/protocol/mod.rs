//! Bytes on the wire and the messages they mean. No IO; protocol.md is the specification.
//!
//! Lengths and counts from outside are claims: they are bounded before anything is reserved or
//! read, and no bytes make this module panic.

mod decode;
mod error;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod message;
mod read;
mod records;
#[cfg(test)]
mod tests;
mod write;

pub use error::{FrameError, MessageError, RefusalCode};
pub use frame::{FLAG_MORE, Frame, FrameKind, HEADER_SIZE, Header, split};
pub use message::{
    Append, Appended, AuditRow, Beat, CheckpointPart, ClusterAsk, ClusterCommand, Confirmed,
    EntryRead, Fetch, Fetched, Granted, Hello, Member, MemberState, Message, MoveFileAsk,
    MoveFilePart, MoveOrder, MoveStep, MoveTold, PeerRole, Recorded, Refused, Register, SlotRun,
    Table, Welcome,
};
pub use records::{
    AuditRows, Members, NodeIds, Operations, Receipts, Rows, SlotRanges, SlotRuns, TermStarts,
};
pub use write::{
    AuditPart, ReceiptsWriter, RequestWriter, put_member, put_node_id, put_slot_range,
    put_slot_run, put_term_starts, write_append_head, write_audit, write_message, write_rows,
};

/// Lowest version of the protocol that this build speaks.
pub const VERSION_MIN: u16 = 1;

/// Highest version of the protocol that this build speaks.
pub const VERSION_MAX: u16 = 1;

/// First four bytes of the body of a hello: "CFL1" read as little-endian.
pub const HELLO_MAGIC: u32 = u32::from_le_bytes(*b"CFL1");
