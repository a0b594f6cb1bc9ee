//! What comes back: a receipt per operation, and rows for a listing.

use super::{Place, ResultCode};

/// Bytes of a receipt on the wire.
pub const RECEIPT_SIZE: usize = 48;

/// Bytes of a row on the wire.
pub const ROW_SIZE: usize = 64;

/// Bits that qualify a receipt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiptFlags(pub u16);

impl ReceiptFlags {
    /// The first receipt again: this copy of the operation was not applied.
    pub const REPLAYED: Self = Self(1);
    /// The account is frozen.
    pub const FROZEN: Self = Self(2);
    /// There are more rows than were sent: ask again from the last currency + 1.
    pub const MORE: Self = Self(4);
    /// The operation opened the account.
    pub const CREATED: Self = Self(8);
    /// Every bit that has a meaning.
    pub const KNOWN: Self = Self(15);

    /// Are all bits of `other` set?
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The answer to one operation of a request.
///
/// Balances, version and place are 0 where the account is not there or the code says nothing
/// about it (class `NotNow`, `Unknown`, `Malformed`, and the refusals by id).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Which operation of the request's batch, from 0.
    pub index: u16,
    /// The answer.
    pub code: ResultCode,
    /// What qualifies it.
    pub flags: ReceiptFlags,
    /// Available balance after the operation, in minor units.
    pub available: i64,
    /// Held balance after the operation, in minor units.
    pub held: u64,
    /// Version of the account after the operation.
    pub version: u64,
    /// Where the entry lies (for `get`: the account's last entry).
    pub place: Place,
    /// Changes: what was really moved, in minor units. Look-ups: log time in ns of what is shown.
    pub amount: u64,
}

impl Receipt {
    /// A receipt that has nothing but its code.
    #[must_use]
    pub const fn bare(index: u16, code: ResultCode) -> Self {
        Self {
            index,
            code,
            flags: ReceiptFlags(0),
            available: 0,
            held: 0,
            version: 0,
            place: Place(0),
            amount: 0,
        }
    }
}

/// One account of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Currency of the account.
    pub currency: u32,
    /// Bit 0: frozen.
    pub flags: u32,
    /// Available balance in minor units.
    pub available: i64,
    /// Held in minor units.
    pub held: u64,
    /// On its way to payees on other nodes, in minor units.
    pub outgoing: u64,
    /// How far below zero `available` may go, in minor units.
    pub floor: u64,
    /// Highest available + held + outgoing, in minor units; 2^63 - 1 when there is no cap.
    pub cap: u64,
    /// Version of the account.
    pub version: u64,
    /// The account's last entry.
    pub place: Place,
}
