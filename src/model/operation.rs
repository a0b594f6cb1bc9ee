//! The operation: one change or one look-up, 96 bytes on the wire and at the head of its entry.
//!
//! Kinds, flags and offsets are part of the protocol (protocol.md, "Operation record"). A value
//! of [`Operation`] has been checked: ids, amounts and flags are such as its kind allows.

use std::fmt;

use super::{Currency, OperationId, ResultCode, UserId};
use crate::limits::{AMOUNT_MAX, LIST_ROW_COUNT_MAX};

/// Bytes of an operation.
pub const OPERATION_SIZE: usize = 96;

const KIND_AT: usize = 0;
const RESERVED_A_AT: usize = 1;
const FLAGS_AT: usize = 2;
const CURRENCY_AT: usize = 4;
const REASON_AT: usize = 8;
const RESERVED_B_AT: usize = 12;
const USER_AT: usize = 16;
const ID_AT: usize = 32;
const AMOUNT_AT: usize = 48;
const REFERENCE_AT: usize = 56;
const ARGUMENT_AT: usize = 64;
const _: () = assert!(ARGUMENT_AT + 4 * size_of::<u64>() == OPERATION_SIZE);

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Opens an account.
    Open = 1,
    /// Closes an empty account.
    Close = 2,
    /// Changes floor, cap and frozen.
    Configure = 3,
    /// Adds an amount.
    Credit = 4,
    /// Takes an amount.
    Debit = 5,
    /// Reserves an amount.
    Hold = 6,
    /// Takes part or all of a hold.
    Capture = 7,
    /// Gives a whole hold back.
    Release = 8,
    /// Moves an amount to another account.
    Transfer = 9,
    /// Undoes one credit, debit or settled transfer.
    Reverse = 10,
    /// Shows one account.
    Get = 32,
    /// Shows all accounts of a user.
    List = 33,
    /// Shows the entries of an account, newest first.
    History = 34,
    /// Shows the receipt of an id.
    Find = 35,
}

impl Kind {
    /// All kinds, by number.
    pub const ALL: &'static [Self] = &[
        Self::Open,
        Self::Close,
        Self::Configure,
        Self::Credit,
        Self::Debit,
        Self::Hold,
        Self::Capture,
        Self::Release,
        Self::Transfer,
        Self::Reverse,
        Self::Get,
        Self::List,
        Self::History,
        Self::Find,
    ];

    /// The kind with this number, if there is one.
    #[must_use]
    #[inline]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Open),
            2 => Some(Self::Close),
            3 => Some(Self::Configure),
            4 => Some(Self::Credit),
            5 => Some(Self::Debit),
            6 => Some(Self::Hold),
            7 => Some(Self::Capture),
            8 => Some(Self::Release),
            9 => Some(Self::Transfer),
            10 => Some(Self::Reverse),
            32 => Some(Self::Get),
            33 => Some(Self::List),
            34 => Some(Self::History),
            35 => Some(Self::Find),
            _ => None,
        }
    }

    /// Its stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Close => "close",
            Self::Configure => "configure",
            Self::Credit => "credit",
            Self::Debit => "debit",
            Self::Hold => "hold",
            Self::Capture => "capture",
            Self::Release => "release",
            Self::Transfer => "transfer",
            Self::Reverse => "reverse",
            Self::Get => "get",
            Self::List => "list",
            Self::History => "history",
            Self::Find => "find",
        }
    }

    /// Does it change state? (`find` with `burn` does too; see [`Operation::is_change`].)
    #[must_use]
    pub const fn is_change(self) -> bool {
        (self as u8) < 32
    }

    /// Is it served by this version?
    #[must_use]
    pub const fn is_served(self) -> bool {
        match self {
            Self::Open
            | Self::Close
            | Self::Configure
            | Self::Credit
            | Self::Debit
            | Self::Get
            | Self::List
            | Self::Find => true,
            Self::Hold
            | Self::Capture
            | Self::Release
            | Self::Transfer
            | Self::Reverse
            | Self::History => false,
        }
    }

    const fn flags_allowed(self) -> Flags {
        match self {
            Self::Open => Flags::FROZEN.with(Flags::GROUP),
            Self::Close | Self::Hold => Flags::IF_VERSION.with(Flags::GROUP),
            Self::Configure => Flags::IF_VERSION.with(Flags::FROZEN).with(Flags::GROUP),
            Self::Credit => Flags::IF_VERSION
                .with(Flags::OPEN_IF_MISSING)
                .with(Flags::GROUP),
            Self::Debit => Flags::IF_VERSION.with(Flags::UP_TO).with(Flags::GROUP),
            Self::Capture | Self::Release => Flags::GROUP,
            Self::Transfer => Flags::IF_VERSION.with(Flags::OPEN_IF_MISSING),
            Self::Reverse => Flags(0),
            Self::Get | Self::List | Self::History => Flags::RECENT,
            Self::Find => Flags::RECENT.with(Flags::BURN),
        }
    }
}

/// Bits that qualify an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u16);

impl Flags {
    /// Credit, transfer: open the account that is credited if it is not there.
    pub const OPEN_IF_MISSING: Self = Self(1);
    /// Debit: take what is there, up to the amount.
    pub const UP_TO: Self = Self(2);
    /// Only if the account has the version in argument 0.
    pub const IF_VERSION: Self = Self(4);
    /// Look-ups: as of the last committed state this node has, without a round trip.
    pub const RECENT: Self = Self(8);
    /// Find: burn the id if it was not seen.
    pub const BURN: Self = Self(16);
    /// Open, configure: the account is to be frozen.
    pub const FROZEN: Self = Self(32);
    /// The next operation of the batch belongs to the same group.
    pub const GROUP: Self = Self(64);

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

/// One checked operation.
///
/// The meaning of the arguments, by kind: protocol.md, "Operation record". The typed constructors
/// and accessors below are the way to use them.
///
/// It is kept as its record, in one piece: written field by field and then handed on in pieces of
/// 16 bytes, each move would make the processor wait until all that it wrote before has reached
/// its cache. Aligned, so that no field lies across two such pieces.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(align(16))]
pub struct Operation {
    record: [u8; OPERATION_SIZE],
}

/// Settings of an account, for `open` and `configure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountSettings {
    /// How far below zero the available balance may go, in minor units; at most 2^63 - 1.
    pub floor: u64,
    /// Highest available + held + outgoing, in minor units; at most 2^63 - 1, which means none.
    pub cap: u64,
    /// Stops credit, debit, hold and transfer.
    pub frozen: bool,
}

impl Default for AccountSettings {
    fn default() -> Self {
        Self {
            floor: 0,
            cap: AMOUNT_MAX,
            frozen: false,
        }
    }
}

impl Operation {
    fn bare(kind: Kind, user: UserId, currency: u32) -> Self {
        let empty = Self {
            record: [0; OPERATION_SIZE],
        };
        empty
            .put(KIND_AT, &[kind as u8])
            .put(CURRENCY_AT, &currency.to_le_bytes())
            .put(USER_AT, &user.get().to_le_bytes())
    }

    fn put<const N: usize>(mut self, at: usize, field: &[u8; N]) -> Self {
        self.record[at..at + N].copy_from_slice(field);
        self
    }

    fn change(kind: Kind, id: OperationId, user: UserId, currency: Currency) -> Self {
        Self::bare(kind, user, currency.get()).put(ID_AT, &id.get().to_le_bytes())
    }

    /// Opens an account.
    #[must_use]
    pub fn open(
        id: OperationId,
        user: UserId,
        currency: Currency,
        settings: AccountSettings,
    ) -> Self {
        Self::change(Kind::Open, id, user, currency).with_settings(settings)
    }

    /// Closes an account whose balance is 0 and that is not frozen.
    #[must_use]
    pub fn close(id: OperationId, user: UserId, currency: Currency) -> Self {
        Self::change(Kind::Close, id, user, currency)
    }

    /// Changes the settings of the account that has `version`.
    #[must_use]
    pub fn configure(
        id: OperationId,
        user: UserId,
        currency: Currency,
        settings: AccountSettings,
        version: u64,
    ) -> Self {
        Self::change(Kind::Configure, id, user, currency)
            .with_settings(settings)
            .if_version(version)
    }

    /// Adds `amount` minor units.
    #[must_use]
    pub fn credit(id: OperationId, user: UserId, currency: Currency, amount: u64) -> Self {
        Self::change(Kind::Credit, id, user, currency).with_amount(amount)
    }

    /// Takes `amount` minor units.
    #[must_use]
    pub fn debit(id: OperationId, user: UserId, currency: Currency, amount: u64) -> Self {
        Self::change(Kind::Debit, id, user, currency).with_amount(amount)
    }

    /// Shows one account.
    #[must_use]
    pub fn get(user: UserId, currency: Currency) -> Self {
        Self::bare(Kind::Get, user, currency.get())
    }

    /// Shows accounts of a user in the order of their currency codes, from `from` on (0 = all),
    /// at most `row_count` (1 to [`LIST_ROW_COUNT_MAX`]) of them.
    #[must_use]
    pub fn list(user: UserId, from: u32, row_count: u32) -> Self {
        Self::bare(Kind::List, user, from).with_amount(row_count.into())
    }

    /// Shows the receipt of `id`.
    #[must_use]
    pub fn find(id: OperationId, user: UserId) -> Self {
        Self::bare(Kind::Find, user, 0).put(ID_AT, &id.get().to_le_bytes())
    }

    /// Adds flags. Those that the kind does not have make the operation malformed.
    #[must_use]
    pub fn with_flags(self, flags: Flags) -> Self {
        self.put(FLAGS_AT, &self.flags().with(flags).0.to_le_bytes())
    }

    /// Only if the account has `version`.
    #[must_use]
    pub fn if_version(self, version: u64) -> Self {
        self.with_flags(Flags::IF_VERSION)
            .put(ARGUMENT_AT, &version.to_le_bytes())
    }

    /// A code and a number of the caller's own, kept in the entry.
    #[must_use]
    pub fn with_note(self, reason: u32, reference: u64) -> Self {
        self.put(REASON_AT, &reason.to_le_bytes())
            .put(REFERENCE_AT, &reference.to_le_bytes())
    }

    fn with_settings(self, settings: AccountSettings) -> Self {
        let operation = self
            .put(argument_at(2), &settings.floor.to_le_bytes())
            .put(argument_at(3), &settings.cap.to_le_bytes());
        if settings.frozen {
            operation.with_flags(Flags::FROZEN)
        } else {
            operation
        }
    }

    /// The same with another amount, whether its kind has one or not.
    pub(crate) fn with_amount(self, amount: u64) -> Self {
        self.put(AMOUNT_AT, &amount.to_le_bytes())
    }

    /// The same under another id: a mistake that is made on purpose.
    pub(crate) fn with_other_id(self) -> Self {
        let id = u128_at(&self.record, ID_AT) ^ 1;
        self.put(ID_AT, &id.to_le_bytes())
    }

    /// The same with another currency, whether its kind has one or not.
    #[cfg(feature = "daemon")]
    pub(crate) fn with_currency(self, currency: u32) -> Self {
        self.put(CURRENCY_AT, &currency.to_le_bytes())
    }

    /// The same with another last argument, whether its kind has one or not.
    #[cfg(feature = "daemon")]
    pub(crate) fn with_last_argument(self, argument: u64) -> Self {
        self.put(argument_at(3), &argument.to_le_bytes())
    }

    /// What it does.
    #[must_use]
    #[inline]
    pub const fn kind(&self) -> Kind {
        Kind::from_number(self.record[KIND_AT]).expect("checked, or made with a kind")
    }

    /// What qualifies it.
    #[must_use]
    #[inline]
    pub fn flags(&self) -> Flags {
        Flags(u16_at(&self.record, FLAGS_AT))
    }

    /// Whose accounts it is about.
    #[must_use]
    #[inline]
    pub fn user(&self) -> UserId {
        UserId::of_checked(u128_at(&self.record, USER_AT))
    }

    /// The currency; 0 where the kind has none.
    #[must_use]
    #[inline]
    pub fn currency(&self) -> u32 {
        u32_at(&self.record, CURRENCY_AT)
    }

    /// The id of a change, and the id that `find` asks for.
    #[must_use]
    #[inline]
    pub fn id(&self) -> Option<OperationId> {
        OperationId::new(u128_at(&self.record, ID_AT))
    }

    /// The amount in minor units; for `list` the number of rows.
    #[must_use]
    #[inline]
    pub fn amount(&self) -> u64 {
        u64_at(&self.record, AMOUNT_AT)
    }

    /// The caller's own code.
    #[must_use]
    #[inline]
    pub fn reason(&self) -> u32 {
        u32_at(&self.record, REASON_AT)
    }

    /// The caller's own number.
    #[must_use]
    #[inline]
    pub fn reference(&self) -> u64 {
        u64_at(&self.record, REFERENCE_AT)
    }

    #[inline]
    fn argument(&self, index: usize) -> u64 {
        u64_at(&self.record, argument_at(index))
    }

    /// The version that the account must have, if the operation says so.
    #[must_use]
    #[inline]
    pub fn expected_version(&self) -> Option<u64> {
        let is_expected = self.flags().has(Flags::IF_VERSION);
        is_expected.then(|| self.argument(0))
    }

    /// Floor, cap and frozen of an `open` or `configure`.
    #[must_use]
    #[inline]
    pub fn settings(&self) -> AccountSettings {
        AccountSettings {
            floor: self.argument(2),
            cap: self.argument(3),
            frozen: self.flags().has(Flags::FROZEN),
        }
    }

    /// Does it need an entry (a change, or `find` that may burn)?
    #[must_use]
    #[inline]
    pub fn is_change(&self) -> bool {
        self.kind().is_change() || self.flags().has(Flags::BURN)
    }

    /// Is it well-formed? The first fault in the order of the fields, or `Ok`.
    pub fn check(&self) -> Result<(), ResultCode> {
        self.check_as(self.kind())
    }

    /// Is it well-formed as one of `kind`, which it is?
    fn check_as(&self, kind: Kind) -> Result<(), ResultCode> {
        if self.flags().0 & !kind.flags_allowed().0 != 0 {
            return Err(ResultCode::BadFlags);
        }
        self.check_currency(kind)?;
        let has_id = kind.is_change() || kind == Kind::Find;
        if has_id == self.id().is_none() {
            return Err(ResultCode::BadId);
        }
        self.check_amount(kind)?;
        self.check_arguments(kind)
    }

    fn check_currency(&self, kind: Kind) -> Result<(), ResultCode> {
        let fits = match kind {
            Kind::Open
            | Kind::Close
            | Kind::Configure
            | Kind::Credit
            | Kind::Debit
            | Kind::Hold
            | Kind::Transfer
            | Kind::Get
            | Kind::History => self.currency() != 0,
            Kind::Capture | Kind::Release | Kind::Reverse | Kind::Find => self.currency() == 0,
            Kind::List => true,
        };
        if fits {
            Ok(())
        } else {
            Err(ResultCode::BadCurrency)
        }
    }

    fn check_amount(&self, kind: Kind) -> Result<(), ResultCode> {
        let amount = self.amount();
        let fits = match kind {
            Kind::Credit | Kind::Debit | Kind::Hold | Kind::Capture | Kind::Transfer => {
                amount != 0 && amount <= AMOUNT_MAX
            }
            Kind::List | Kind::History => amount != 0 && amount <= u64::from(LIST_ROW_COUNT_MAX),
            Kind::Open
            | Kind::Close
            | Kind::Configure
            | Kind::Release
            | Kind::Reverse
            | Kind::Get
            | Kind::Find => amount == 0,
        };
        if fits {
            Ok(())
        } else {
            Err(ResultCode::BadAmount)
        }
    }

    fn check_arguments(&self, kind: Kind) -> Result<(), ResultCode> {
        let [a, b, c, d] = [0, 1, 2, 3].map(|index| self.argument(index));
        let needs_version = kind == Kind::Configure;
        let has_version = self.flags().has(Flags::IF_VERSION);
        if needs_version && !has_version {
            return Err(ResultCode::BadFlags);
        }
        let versioned = has_version || a == 0;
        let fits = match kind {
            Kind::Open | Kind::Configure => {
                if AMOUNT_MAX < c || AMOUNT_MAX < d {
                    return Err(ResultCode::BadLimit);
                }
                versioned && b == 0
            }
            Kind::Close | Kind::Credit | Kind::Debit => versioned && [b, c, d] == [0; 3],
            Kind::Hold => versioned && [b, d] == [0; 2],
            Kind::Transfer => versioned && b == 0 && is_user(c, d) && self.payee_differs(),
            Kind::Capture => is_user(a, b) && ([c, d] == [0; 2] || is_user(c, d)),
            Kind::Release => is_user(a, b) && [c, d] == [0; 2],
            Kind::Reverse => ([a, b] == [0; 2] || is_user(a, b)) && is_user(c, d),
            Kind::Get | Kind::List | Kind::Find => !self.is_noted() && [a, b, c, d] == [0; 4],
            Kind::History => !self.is_noted() && d == 0,
        };
        if fits {
            Ok(())
        } else {
            Err(ResultCode::BadReserved)
        }
    }

    fn is_noted(&self) -> bool {
        self.reason() != 0 || self.reference() != 0
    }

    fn payee_differs(&self) -> bool {
        join(self.argument(2), self.argument(3)) != self.user().get()
    }

    /// Reads and checks one operation. The error is the code to answer with.
    pub fn read(bytes: &[u8; OPERATION_SIZE]) -> Result<Self, ResultCode> {
        let kind = Kind::from_number(bytes[KIND_AT]).ok_or(ResultCode::BadKind)?;
        if bytes[RESERVED_A_AT] != 0 || u32_at(bytes, RESERVED_B_AT) != 0 {
            return Err(ResultCode::BadReserved);
        }
        UserId::new(u128_at(bytes, USER_AT)).ok_or(ResultCode::BadUser)?;
        let operation = Self { record: *bytes };
        operation.check_as(kind)?;
        Ok(operation)
    }

    /// Its bytes, reserved ones 0.
    #[must_use]
    pub const fn to_bytes(&self) -> [u8; OPERATION_SIZE] {
        self.record
    }

    /// User, currency and id of an operation record, without checking anything.
    #[must_use]
    pub fn keys_of(bytes: &[u8; OPERATION_SIZE]) -> (u128, u32, u128) {
        (
            u128_at(bytes, USER_AT),
            u32_at(bytes, CURRENCY_AT),
            u128_at(bytes, ID_AT),
        )
    }

    /// The user of an operation record, without checking the rest. 0 is no user.
    #[must_use]
    pub fn user_of(bytes: &[u8; OPERATION_SIZE]) -> u128 {
        u128_at(bytes, USER_AT)
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation")
            .field("kind", &self.kind())
            .field("flags", &self.flags())
            .field("currency", &self.currency())
            .field("reason", &self.reason())
            .field("user", &self.user())
            .field("id", &u128_at(&self.record, ID_AT))
            .field("amount", &self.amount())
            .field("reference", &self.reference())
            .field("arguments", &[0, 1, 2, 3].map(|index| self.argument(index)))
            .finish()
    }
}

const fn join(low: u64, high: u64) -> u128 {
    ((high as u128) << 64) | low as u128
}

const fn is_user(low: u64, high: u64) -> bool {
    UserId::new(join(low, high)).is_some()
}

const fn argument_at(index: usize) -> usize {
    ARGUMENT_AT + index * size_of::<u64>()
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(take(bytes, at))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(take(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(take(bytes, at))
}

pub(super) fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(take(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> UserId {
        UserId::new(7).unwrap()
    }

    fn id() -> OperationId {
        OperationId::from_parts(1_000, 5)
    }

    fn coins() -> Currency {
        Currency::new(3).unwrap()
    }

    #[test]
    fn every_served_kind_reads_back() {
        let settings = AccountSettings {
            floor: 5,
            cap: 500,
            frozen: true,
        };
        for operation in [
            Operation::open(id(), user(), coins(), settings),
            Operation::close(id(), user(), coins()).if_version(9),
            Operation::configure(id(), user(), coins(), settings, 11),
            Operation::credit(id(), user(), coins(), 1).with_flags(Flags::OPEN_IF_MISSING),
            Operation::debit(id(), user(), coins(), AMOUNT_MAX).with_note(4, 5),
            Operation::get(user(), coins()),
            Operation::list(user(), 0, 256),
            Operation::find(id(), user()).with_flags(Flags::BURN),
        ] {
            assert_eq!(Operation::read(&operation.to_bytes()), Ok(operation));
        }
    }

    #[test]
    fn malformed_operations_are_told_apart() {
        let credit = Operation::credit(id(), user(), coins(), 1);
        let check = |change: &dyn Fn(&mut [u8; OPERATION_SIZE]), code| {
            let mut bytes = credit.to_bytes();
            change(&mut bytes);
            assert_eq!(Operation::read(&bytes), Err(code));
        };
        check(&|bytes| bytes[KIND_AT] = 0, ResultCode::BadKind);
        check(&|bytes| bytes[FLAGS_AT] = 2, ResultCode::BadFlags);
        check(&|bytes| bytes[USER_AT] = 0, ResultCode::BadUser);
        check(
            &|bytes| bytes[USER_AT..ID_AT].fill(0xff),
            ResultCode::BadUser,
        );
        check(&|bytes| bytes[ID_AT..AMOUNT_AT].fill(0), ResultCode::BadId);
        check(
            &|bytes| bytes[ID_AT..AMOUNT_AT].fill(0xff),
            ResultCode::BadId,
        );
        check(&|bytes| bytes[CURRENCY_AT] = 0, ResultCode::BadCurrency);
        check(&|bytes| bytes[AMOUNT_AT] = 0, ResultCode::BadAmount);
        check(&|bytes| bytes[AMOUNT_AT + 7] = 0x80, ResultCode::BadAmount);
        check(&|bytes| bytes[ARGUMENT_AT] = 1, ResultCode::BadReserved);
        check(
            &|bytes| bytes[OPERATION_SIZE - 1] = 1,
            ResultCode::BadReserved,
        );
        check(&|bytes| bytes[RESERVED_B_AT] = 1, ResultCode::BadReserved);
        check(&|bytes| bytes[RESERVED_A_AT] = 1, ResultCode::BadReserved);
    }
}
