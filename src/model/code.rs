//! Every answer to an operation, by number. The numbers are part of the protocol.

use std::fmt;

/// What a caller may conclude from a [`ResultCode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeClass {
    /// Done, and logged.
    Done,
    /// A final no of the ledger, logged like a success; the id is burned.
    Refusal,
    /// A final answer about the id itself; nothing was applied by this copy.
    Id,
    /// This copy was not applied and will not be: send it again with the same id.
    NotNow,
    /// Applied or not: ask with `find`, or send it again with the same id.
    Unknown,
    /// Refused before the ledger, never logged: mend the operation.
    Malformed,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $class:ident;)*) => {
        /// The answer to one operation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum ResultCode {
            $($(#[$doc])* $variant = $number,)*
        }

        impl ResultCode {
            /// All codes, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code with this number, if there is one.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Its stable name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// What may be concluded from it.
            #[must_use]
            pub const fn class(self) -> CodeClass {
                match self {
                    $(Self::$variant => CodeClass::$class,)*
                }
            }
        }
    };
}

codes! {
    /// The change was applied, or the look-up answered.
    Ok = 0, "ok", Done;
    /// The account is there already.
    Exists = 1, "exists", Refusal;
    /// No such account.
    NotFound = 2, "not_found", Refusal;
    /// The account's version is not the expected one.
    VersionMismatch = 3, "version_mismatch", Refusal;
    /// The account still has a balance, a hold or something outgoing.
    NotEmpty = 4, "not_empty", Refusal;
    /// The account is frozen.
    Frozen = 5, "frozen", Refusal;
    /// The account would rise above its cap, or out of the range of a balance.
    OverCap = 6, "over_cap", Refusal;
    /// The account would fall below its floor.
    Insufficient = 7, "insufficient", Refusal;
    /// No such hold.
    HoldNotFound = 8, "hold_not_found", Refusal;
    /// The hold was captured, released or has expired.
    HoldResolved = 9, "hold_resolved", Refusal;
    /// More than the hold has.
    ExceedsHold = 10, "exceeds_hold", Refusal;
    /// The payee has no such account.
    PayeeNotFound = 11, "payee_not_found", Refusal;
    /// The payee's account is frozen.
    PayeeFrozen = 12, "payee_frozen", Refusal;
    /// The payee's account would rise above its cap.
    PayeeOverCap = 13, "payee_over_cap", Refusal;
    /// This operation was reversed already.
    AlreadyReversed = 14, "already_reversed", Refusal;
    /// Another member of the group was refused.
    GroupRefused = 15, "group_refused", Refusal;
    /// The id was burned by `find` before its operation came.
    Cancelled = 16, "cancelled", Refusal;
    /// The id was used for another content.
    IdReused = 32, "id_reused", Id;
    /// The id is older than the horizon: never executed, whatever happened before.
    IdTooOld = 33, "id_too_old", Id;
    /// Some ids of the group are known and others not, or in another grouping.
    GroupDiffers = 34, "group_differs", Id;
    /// The id is not known. Promises nothing about the future.
    NotSeen = 35, "not_seen", Id;
    /// The id is older than the horizon and was never applied.
    Never = 36, "never", Id;
    /// What was asked is no longer kept.
    BeyondRetention = 37, "beyond_retention", Id;
    /// Out of budget.
    Busy = 64, "busy", NotNow;
    /// A part that is needed for an answer is away.
    Unavailable = 65, "unavailable", NotNow;
    /// The user's slot is being handed over.
    Moving = 66, "moving", NotNow;
    /// The node has not finished its start.
    NotReady = 67, "not_ready", NotNow;
    /// The node does not own the user's slot.
    NotOwner = 68, "not_owner", NotNow;
    /// Out of disk space.
    NoSpace = 69, "no_space", NotNow;
    /// The id's time lies too far ahead of the node's.
    IdInFuture = 70, "id_in_future", NotNow;
    /// The deadline passed before an answer came.
    Unknown = 80, "unknown", Unknown;
    /// No such kind of operation.
    BadKind = 96, "bad_kind", Malformed;
    /// A flag that this kind does not have, or bytes that must be zero.
    BadFlags = 97, "bad_flags", Malformed;
    /// User id 0 or all ones.
    BadUser = 98, "bad_user", Malformed;
    /// Operation id 0 or all ones; or an id where none belongs.
    BadId = 99, "bad_id", Malformed;
    /// Currency 0.
    BadCurrency = 100, "bad_currency", Malformed;
    /// Amount 0 or above 2^63 - 1; or an amount where none belongs.
    BadAmount = 101, "bad_amount", Malformed;
    /// Floor or cap out of range.
    BadLimit = 102, "bad_limit", Malformed;
    /// A known kind that this version does not serve yet.
    Unsupported = 103, "unsupported", Malformed;
    /// Bytes that must be zero are not.
    BadReserved = 104, "bad_reserved", Malformed;
}

impl ResultCode {
    /// May the same bytes be sent again with a chance of another answer?
    #[must_use]
    pub const fn may_retry(self) -> bool {
        matches!(self.class(), CodeClass::NotNow | CodeClass::Unknown)
    }

    /// Is it known whether the operation took effect?
    #[must_use]
    pub const fn outcome_known(self) -> bool {
        !matches!(self.class(), CodeClass::Unknown)
    }
}

impl fmt::Display for ResultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
