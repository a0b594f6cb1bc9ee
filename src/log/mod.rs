//! Append-only logs of fixed-size entries in checksummed blocks. Format: docs/log-format.md.
//!
//! Reading order: `block`, `segment`, `medium`, `recovery`, `store`, `checkpoint`. Records are
//! opaque here: what an entry means is the ledger's business. Nothing here decides what is
//! committed, and nothing is ever dropped on its own account.

mod base;
mod block;
mod checkpoint;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod medium;
mod mmap;
mod recovery;
mod segment;
mod small_file;
mod store;

pub use block::{
    BLOCK_HEADER_SIZE, Block, BlockBuilder, BlockError, BlockHead, BlockSpec, Blocks, ChainError,
    Entries, Verify, block_offset, blocks, chain_of,
};
pub use checkpoint::{
    CHECKPOINT_HEADER_SIZE, CHECKPOINT_PAGE_SIZE, Checkpoint, CheckpointHeader, CheckpointSpec,
    CheckpointWriter, Page, SectionInfo, checkpoint_name, checkpoint_offsets, install_checkpoint,
    tidy_checkpoints,
};
pub use error::LogError;
pub use medium::{Access, Fault, FileMedium, Medium, MediumFile, MemoryMedium, is_full};
pub use mmap::{EXIT_BUS_ERROR, exit_on_bus_error};
pub use recovery::Recovered;
pub use segment::Opening;
pub use small_file::{SmallFile, load, save};
pub use store::{Appended, Log, log_dir, put_aside};

/// Bytes at the start of each segment that hold its header and no block.
pub const SEGMENT_HEADER_SIZE: u64 = 4_096;

#[cfg(test)]
mod tests;
