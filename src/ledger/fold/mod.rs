//! Fold: the next checkpoint out of the last one and the log between them, without executing
//! anything and without the whole state in memory.
//!
//! A [`Delta`] collects what a stretch of the log changed; its caller bounds it by stopping at a
//! count of records. [`Delta::merge`] gives a [`Merge`], through which the records of the old
//! checkpoint stream, section by section, and come out as those of the new one: byte for byte
//! what [`Ledger::records`](super::Ledger::records) of a ledger at the same position gives.
//! A longer stretch is folded in several rounds.
//!
//! Slots that are handed over in the stretch lose their records; those that are adopted and
//! activated get them from the image of the move, which streams by beside the old checkpoint. A
//! stretch does not end between an adoption and its activation or drop.

mod bases;
mod delta;
mod lines;
mod merge;

pub use bases::Source;
pub use delta::Delta;
pub use merge::{FoldError, Merge, RecordKey, image_sums, record_key};
