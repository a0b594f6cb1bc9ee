//! The ring: which node owns which slot, by the nearest-key rule, and tables to look it up.
//!
//! A user's slot (first key) is [`crate::model::user_slot`]; a node has preset keys (second
//! keys), given or drawn from the same hash. `plan` gives each slot to the node of the nearest
//! key; the authority hands the resulting [`SlotTable`] out, and a look-up is one read of it.
//! Hash and rule are part of the protocol (protocol.md, "Ring"). Who may serve a slot *now* is
//! not decided here but by the authority's epochs.

mod keys;
mod plan;
#[cfg(test)]
mod spread;
mod table;

pub use keys::{KeysError, RingNode, node_key};
pub use plan::{distance, nearest, plan};
pub use table::{Moved, OwnedRun, SlotTable, TableError};
