//! Positions: in a log, on the ring, in the cluster's history.

use std::fmt;

use super::LogNumber;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl $name {
            /// The one after this. Panics at the end of the type's range, which no run reaches.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

counter! {
    /// Number of a block in one log: the first block has 1, each next one 1 more. 0 = none yet.
    Seq(u64)
}
counter! {
    /// Number of one ownership of one log; every start and every take-over gets a higher one.
    Term(u64)
}
counter! {
    /// Version of the slot table. 0 = no table yet.
    RingEpoch(u32)
}
counter! {
    /// Number of the backup's own history: a recovered backup takes a higher one.
    Generation(u64)
}
counter! {
    /// Number of one move of slots from one log to another. 0 = none: the first table of a cluster.
    MoveNumber(u64)
}
counter! {
    /// Nanoseconds since the Unix epoch as a log sees them: never goes back within one log.
    LogTime(u64)
}

impl LogTime {
    /// Whole Unix milliseconds, rounded down.
    #[must_use]
    pub const fn ms(self) -> u64 {
        self.0 / 1_000_000
    }
}

/// One of the 65,536 positions of the ring: the unit of ownership and of moving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

impl Slot {
    /// As an index into a table of all slots.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where an entry lies: log number in the top 16 bits, byte offset in the log in the other 48.
/// 0 = nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(pub u64);

impl Place {
    const OFFSET_BITS: u32 = 48;
    const OFFSET_MASK: u64 = (1 << Self::OFFSET_BITS) - 1;

    /// The place at `offset` of `log`. Panics above 48 bits (256 TiB in one log).
    #[must_use]
    pub const fn new(log: LogNumber, offset: u64) -> Self {
        assert!(offset <= Self::OFFSET_MASK);
        Self(((log.get() as u64) << Self::OFFSET_BITS) | offset)
    }

    /// The log, or `None` for "nowhere" and for foreign bytes.
    #[must_use]
    pub const fn log(self) -> Option<LogNumber> {
        LogNumber::new((self.0 >> Self::OFFSET_BITS) as u16)
    }

    /// Byte offset in that log.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.0 & Self::OFFSET_MASK
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.log() {
            Some(log) => write!(f, "{log}:{}", self.offset()),
            None => write!(f, "nowhere"),
        }
    }
}

/// The end of a log: its last block, and where the next one goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogEnd {
    /// Number of the last block; 0 for a log without one.
    pub seq: Seq,
    /// Term of the last block; 0 for a log without one.
    pub term: Term,
    /// Chain value of the last block; 0 for a log without one.
    pub chain: u64,
    /// Byte offset in the log behind the last block.
    pub offset: u64,
    /// Log time of the last entry of the last block.
    pub time: LogTime,
}

/// Where a term begins: its first block. The term history of a log is a list of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermStart {
    /// The term.
    pub term: Term,
    /// Its first block.
    pub seq: Seq,
}
