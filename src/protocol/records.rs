//! Lists of fixed-size records that stay where they were received and are read one by one.
//!
//! That a list has whole records, and not too many, was checked with its frame; what is in a
//! record is checked when it is read, so that a bad operation costs its sender one receipt.
#![deny(clippy::indexing_slicing)]

use std::slice::ChunksExact;

use super::MessageError;
use super::decode::currency;
use super::frame::field;
use super::message::{AuditRow, Member, SlotRun};
use super::read::Reader;
use crate::limits::BATCH_COUNT_MAX;
use crate::model::{
    NodeId, OPERATION_SIZE, Operation, Place, RECEIPT_SIZE, ROW_SIZE, Receipt, ReceiptFlags,
    ResultCode, Row, Seq, Slot, SlotRange, Term, TermStart,
};

macro_rules! list {
    ($(#[$doc:meta])* $name:ident, $size:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name<'a>(pub(super) &'a [u8]);

        impl<'a> $name<'a> {
            /// A list of these bytes; `None` unless they are whole records.
            #[must_use]
            pub const fn new(bytes: &'a [u8]) -> Option<Self> {
                if bytes.len().is_multiple_of($size) {
                    Some(Self(bytes))
                } else {
                    None
                }
            }

            /// How many records.
            #[must_use]
            #[expect(clippy::integer_division, reason = "whole records only, checked when read")]
            pub const fn len(&self) -> usize {
                self.0.len() / $size
            }

            /// Are there none?
            #[must_use]
            pub const fn is_empty(&self) -> bool {
                self.0.is_empty()
            }

            /// The bytes of all records.
            #[must_use]
            pub const fn bytes(&self) -> &'a [u8] {
                self.0
            }

            /// The bytes of each record.
            pub fn records(&self) -> ChunksExact<'a, u8> {
                self.0.chunks_exact($size)
            }
        }
    };
}

list! {
    /// Operations of a request, not checked yet.
    Operations, OPERATION_SIZE
}
list! {
    /// Receipts.
    Receipts, RECEIPT_SIZE
}
list! {
    /// Rows of a listing.
    Rows, ROW_SIZE
}
list! {
    /// Term history, oldest first.
    TermStarts, TERM_START_SIZE
}
list! {
    /// Owners of slots.
    SlotRuns, SLOT_RUN_SIZE
}
list! {
    /// Ranges of slots.
    SlotRanges, SLOT_RANGE_SIZE
}
list! {
    /// Numbers of nodes.
    NodeIds, NODE_ID_SIZE
}
list! {
    /// Rows of the audit.
    AuditRows, AUDIT_ROW_SIZE
}
list! {
    /// Nodes of the cluster.
    Members, MEMBER_SIZE
}

/// Offsets of a receipt's fields.
pub(super) mod receipt_at {
    pub(in super::super) const INDEX: usize = 0;
    pub(in super::super) const CODE: usize = INDEX + size_of::<u16>();
    pub(in super::super) const FLAGS: usize = CODE + size_of::<u16>();
    pub(in super::super) const RESERVED: usize = FLAGS + size_of::<u16>();
    pub(in super::super) const AVAILABLE: usize = RESERVED + size_of::<u16>();
    pub(in super::super) const HELD: usize = AVAILABLE + size_of::<i64>();
    pub(in super::super) const VERSION: usize = HELD + size_of::<u64>();
    pub(in super::super) const PLACE: usize = VERSION + size_of::<u64>();
    pub(in super::super) const AMOUNT: usize = PLACE + size_of::<u64>();
    const _: () = assert!(AMOUNT + size_of::<u64>() == crate::model::RECEIPT_SIZE);
}

/// Flags of a row that have a meaning: frozen.
const ROW_FLAGS_KNOWN: u32 = 1;

pub(super) const TERM_START_SIZE: usize = 16;
pub(super) const SLOT_RUN_SIZE: usize = 8;
pub(super) const SLOT_RANGE_SIZE: usize = 4;
pub(super) const NODE_ID_SIZE: usize = 4;
pub(super) const AUDIT_ROW_SIZE: usize = 176;
pub(super) const MEMBER_SIZE: usize = 96;

/// A reader of each record, with its offset in the list.
fn readers(list: &[u8], record_size: usize) -> impl Iterator<Item = Reader<'_>> {
    list.chunks_exact(record_size)
        .enumerate()
        .map(move |(index, record)| Reader::of_record(record, index * record_size))
}

impl<'a> Operations<'a> {
    /// Each operation, or the code to answer it with.
    pub fn iter(&self) -> impl Iterator<Item = Result<Operation, ResultCode>> + use<'a> {
        self.arrays().map(Operation::read)
    }

    /// The bytes of each operation.
    pub fn arrays(&self) -> impl Iterator<Item = &'a [u8; OPERATION_SIZE]> + use<'a> {
        self.0.as_chunks::<OPERATION_SIZE>().0.iter()
    }
}

impl<'a> Receipts<'a> {
    /// Each receipt.
    pub fn iter(&self) -> impl Iterator<Item = Result<Receipt, MessageError>> + use<'a> {
        let records = self.0.as_chunks::<RECEIPT_SIZE>().0.iter();
        records
            .enumerate()
            .map(|(index, record)| read_receipt(record, index * RECEIPT_SIZE))
    }
}

impl<'a> Rows<'a> {
    /// Each row.
    pub fn iter(&self) -> impl Iterator<Item = Result<Row, MessageError>> + use<'a> {
        readers(self.0, ROW_SIZE).map(|mut reader| read_row(&mut reader))
    }
}

impl<'a> TermStarts<'a> {
    /// Each beginning of a term.
    pub fn iter(&self) -> impl Iterator<Item = Result<TermStart, MessageError>> + use<'a> {
        readers(self.0, TERM_START_SIZE).map(|mut reader| {
            Ok(TermStart {
                term: Term(reader.u64()?),
                seq: Seq(reader.u64()?),
            })
        })
    }
}

impl<'a> SlotRuns<'a> {
    /// Each run of slots with its owner.
    pub fn iter(&self) -> impl Iterator<Item = Result<SlotRun, MessageError>> + use<'a> {
        readers(self.0, SLOT_RUN_SIZE).map(|mut reader| {
            let slots = SlotRange {
                first: Slot(reader.u16()?),
                last: Slot(reader.u16()?),
            };
            let node = reader.u32()?;
            if slots.last < slots.first {
                return Err(reader.wrong(SLOT_RUN_SIZE));
            }
            Ok(SlotRun { slots, node })
        })
    }
}

impl<'a> SlotRanges<'a> {
    /// Each range.
    pub fn iter(&self) -> impl Iterator<Item = Result<SlotRange, MessageError>> + use<'a> {
        readers(self.0, SLOT_RANGE_SIZE).map(|mut reader| {
            let range = SlotRange {
                first: Slot(reader.u16()?),
                last: Slot(reader.u16()?),
            };
            if range.last < range.first {
                return Err(reader.wrong(SLOT_RANGE_SIZE));
            }
            Ok(range)
        })
    }
}

impl<'a> NodeIds<'a> {
    /// Each node.
    pub fn iter(&self) -> impl Iterator<Item = Result<NodeId, MessageError>> + use<'a> {
        readers(self.0, NODE_ID_SIZE).map(|mut reader| {
            let node = NodeId::new(reader.u32()?);
            node.ok_or_else(|| reader.wrong(NODE_ID_SIZE))
        })
    }
}

impl<'a> AuditRows<'a> {
    /// Each row.
    pub fn iter(&self) -> impl Iterator<Item = Result<AuditRow, MessageError>> + use<'a> {
        readers(self.0, AUDIT_ROW_SIZE).map(|mut reader| AuditRow::read(&mut reader))
    }
}

impl<'a> Members<'a> {
    /// Each member.
    pub fn iter(&self) -> impl Iterator<Item = Result<Member, MessageError>> + use<'a> {
        readers(self.0, MEMBER_SIZE).map(|mut reader| Member::read(&mut reader))
    }
}

/// The hottest record of a client: read at fixed offsets, without a reader's bookkeeping.
fn read_receipt(record: &[u8; RECEIPT_SIZE], base: usize) -> Result<Receipt, MessageError> {
    let wrong = |at: usize| MessageError::Field { at: base + at };
    let u64_at = |at: usize| u64::from_le_bytes(field(record, at));
    let index = u16::from_le_bytes(field(record, receipt_at::INDEX));
    if BATCH_COUNT_MAX <= u32::from(index) {
        return Err(wrong(receipt_at::INDEX));
    }
    let number = u16::from_le_bytes(field(record, receipt_at::CODE));
    let code = ResultCode::from_number(number).ok_or_else(|| wrong(receipt_at::CODE))?;
    let flags = ReceiptFlags(u16::from_le_bytes(field(record, receipt_at::FLAGS)));
    if flags.0 & !ReceiptFlags::KNOWN.0 != 0 {
        return Err(wrong(receipt_at::FLAGS));
    }
    if field(record, receipt_at::RESERVED) != [0; 2] {
        return Err(wrong(receipt_at::RESERVED));
    }
    Ok(Receipt {
        index,
        code,
        flags,
        available: u64_at(receipt_at::AVAILABLE).cast_signed(),
        held: u64_at(receipt_at::HELD),
        version: u64_at(receipt_at::VERSION),
        place: Place(u64_at(receipt_at::PLACE)),
        amount: u64_at(receipt_at::AMOUNT),
    })
}

fn read_row(reader: &mut Reader<'_>) -> Result<Row, MessageError> {
    let currency = currency(reader)?;
    let flags = reader.u32()?;
    if flags & !ROW_FLAGS_KNOWN != 0 {
        return Err(reader.wrong(4));
    }
    Ok(Row {
        currency,
        flags,
        available: reader.u64()?.cast_signed(),
        held: reader.u64()?,
        outgoing: reader.u64()?,
        floor: reader.u64()?,
        cap: reader.u64()?,
        version: reader.u64()?,
        place: Place(reader.u64()?),
    })
}
