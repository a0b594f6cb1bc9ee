//! Lists of fixed-size records that stay where they were received and are read one by one.

use std::slice::ChunksExact;

use super::MessageError;
use super::message::{AuditRow, Member, SlotRun};
use super::read::Reader;
use crate::model::{
    OPERATION_SIZE, Operation, Place, RECEIPT_SIZE, ROW_SIZE, Receipt, ReceiptFlags, ResultCode,
    Row, Seq, Slot, SlotRange, Term, TermStart,
};

macro_rules! list {
    ($(#[$doc:meta])* $name:ident, $size:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name<'a>(pub(super) &'a [u8]);

        impl<'a> $name<'a> {
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
            #[must_use]
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
    /// Rows of the audit.
    AuditRows, AUDIT_ROW_SIZE
}
list! {
    /// Nodes of the cluster.
    Members, MEMBER_SIZE
}

pub(super) const TERM_START_SIZE: usize = 16;
pub(super) const SLOT_RUN_SIZE: usize = 8;
pub(super) const AUDIT_ROW_SIZE: usize = 184;
pub(super) const MEMBER_SIZE: usize = 96;

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
        self.records().map(read_receipt)
    }
}

impl<'a> Rows<'a> {
    /// Each row.
    pub fn iter(&self) -> impl Iterator<Item = Result<Row, MessageError>> + use<'a> {
        self.records().map(read_row)
    }
}

impl<'a> TermStarts<'a> {
    /// Each beginning of a term.
    pub fn iter(&self) -> impl Iterator<Item = Result<TermStart, MessageError>> + use<'a> {
        self.records().map(|record| {
            let mut reader = Reader::new(record);
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
        self.records().map(|record| {
            let mut reader = Reader::new(record);
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

impl<'a> AuditRows<'a> {
    /// Each row.
    pub fn iter(&self) -> impl Iterator<Item = Result<AuditRow, MessageError>> + use<'a> {
        self.records().map(AuditRow::read)
    }
}

impl<'a> Members<'a> {
    /// Each member.
    pub fn iter(&self) -> impl Iterator<Item = Result<Member, MessageError>> + use<'a> {
        self.records().map(Member::read)
    }
}

fn read_receipt(record: &[u8]) -> Result<Receipt, MessageError> {
    let mut reader = Reader::new(record);
    let index = reader.u16()?;
    let number = reader.u16()?;
    let code = ResultCode::from_number(number).ok_or_else(|| reader.wrong(2))?;
    let flags = ReceiptFlags(reader.u16()?);
    if flags.0 & !ReceiptFlags::KNOWN.0 != 0 {
        return Err(reader.wrong(2));
    }
    reader.reserved(2)?;
    Ok(Receipt {
        index,
        code,
        flags,
        available: reader.u64()?.cast_signed(),
        held: reader.u64()?,
        version: reader.u64()?,
        place: Place(reader.u64()?),
        amount: reader.u64()?,
    })
}

fn read_row(record: &[u8]) -> Result<Row, MessageError> {
    let mut reader = Reader::new(record);
    Ok(Row {
        currency: reader.u32()?,
        flags: reader.u32()?,
        available: reader.u64()?.cast_signed(),
        held: reader.u64()?,
        outgoing: reader.u64()?,
        floor: reader.u64()?,
        cap: reader.u64()?,
        version: reader.u64()?,
        place: Place(reader.u64()?),
    })
}
