//! Append-only logs of fixed-size entries in checksummed blocks. Format: docs/log-format.md.
//!
//! Reading order: `block`, `segment`, `medium`, `recovery`, `store`, `checkpoint`. Records are
//! opaque here: what an entry means is the ledger's business. Nothing here decides what is
//! committed, and nothing is ever dropped on its own account.

mod block;

pub use block::{
    BLOCK_HEADER_SIZE, Block, BlockBuilder, BlockError, BlockHead, BlockSpec, Blocks, ChainError,
    Entries, Verify, block_offset, blocks, chain_of,
};

/// Bytes at the start of each segment that hold its header and no block.
pub const SEGMENT_HEADER_SIZE: u64 = 4_096;
