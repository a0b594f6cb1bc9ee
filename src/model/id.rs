//! Identifiers, each its own type so that two of them cannot be swapped in a call.

use std::fmt;
use std::str::FromStr;

macro_rules! wide_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// `None` for 0 and for all ones: both are what forgotten or wiped memory looks like.
            #[must_use]
            pub const fn new(value: u128) -> Option<Self> {
                if value == 0 || value == u128::MAX { None } else { Some(Self(value)) }
            }

            /// The bare number.
            #[must_use]
            pub const fn get(self) -> u128 {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

wide_id! {
    /// Who owns accounts. Chosen by the caller; neither 0 nor all ones.
    UserId
}
wide_id! {
    /// Identity of one change, in `UUIDv7` layout: its top 48 bits are Unix milliseconds.
    OperationId
}
wide_id! {
    /// Identity of one cluster, drawn at random when it is created.
    ClusterId
}
wide_id! {
    /// One life of one daemon: fresh at every start.
    Incarnation
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_uuid(self.0, f)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_uuid(self.0, f)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_uuid(self.0, f)
    }
}

fn write_uuid(value: u128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let hex = format!("{value:032x}");
    write!(
        f,
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// Reads 32 hexadecimal digits with dashes in UUID places.
fn parse_uuid(text: &str) -> Option<u128> {
    let bytes = text.as_bytes();
    if bytes.len() != 36 {
        return None;
    }
    for (at, byte) in bytes.iter().enumerate() {
        let dash = matches!(at, 8 | 13 | 18 | 23);
        if dash != (*byte == b'-') || (!dash && !byte.is_ascii_hexdigit()) {
            return None;
        }
    }
    u128::from_str_radix(&text.replace('-', ""), 16).ok()
}

/// Why a text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a decimal number or a UUID, neither 0 nor all ones")]
pub struct IdTextError;

fn parse_wide(text: &str) -> Result<u128, IdTextError> {
    parse_uuid(text)
        .or_else(|| text.parse().ok())
        .ok_or(IdTextError)
}

impl UserId {
    /// One whose value was checked before.
    pub(super) const fn of_checked(value: u128) -> Self {
        debug_assert!(value != 0 && value != u128::MAX);
        Self(value)
    }
}

impl FromStr for UserId {
    type Err = IdTextError;

    fn from_str(text: &str) -> Result<Self, IdTextError> {
        Self::new(parse_wide(text)?).ok_or(IdTextError)
    }
}

impl FromStr for OperationId {
    type Err = IdTextError;

    fn from_str(text: &str) -> Result<Self, IdTextError> {
        Self::new(parse_wide(text)?).ok_or(IdTextError)
    }
}

impl OperationId {
    /// An id in `UUIDv7` layout from a time and 74 random bits (the rest of `random` is ignored).
    ///
    /// `unix_ms` above 48 bits is cut to 48 bits.
    #[must_use]
    pub const fn from_parts(unix_ms: u64, random: u128) -> Self {
        let time = ((unix_ms as u128) & 0xffff_ffff_ffff) << 80;
        let version = 0x7_u128 << 76;
        let variant = 0b10_u128 << 62;
        let high = ((random >> 64) & 0xfff) << 64;
        let low = random & ((1 << 62) - 1);
        Self(time | version | high | variant | low)
    }

    /// The Unix milliseconds that the id carries.
    #[must_use]
    pub const fn time_ms(self) -> u64 {
        (self.0 >> 80) as u64
    }
}

/// Code of one kind of currency; needs no registration. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency(u32);

impl Currency {
    /// `None` for 0, which stands for "no currency" on the wire.
    #[must_use]
    pub const fn new(code: u32) -> Option<Self> {
        if code == 0 { None } else { Some(Self(code)) }
    }

    /// The bare code.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Number of one business node, given by its operator. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

impl NodeId {
    /// `None` for 0, which stands for "no node".
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number == 0 {
            None
        } else {
            Some(Self(number))
        }
    }

    /// The bare number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Number of one log in the cluster; granted by the authority and never used twice. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogNumber(u16);

impl LogNumber {
    /// `None` for 0, which stands for "no log".
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number == 0 {
            None
        } else {
            Some(Self(number))
        }
    }

    /// The bare number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for LogNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_refuse_zero_and_all_ones() {
        assert_eq!(UserId::new(0), None);
        assert_eq!(UserId::new(u128::MAX), None);
        assert_eq!(Currency::new(0), None);
        assert_eq!("0".parse::<UserId>(), Err(IdTextError));
    }

    #[test]
    fn user_is_a_number_or_a_uuid() {
        let number: UserId = "42".parse().unwrap();
        let uuid: UserId = "00000000-0000-0000-0000-00000000002a".parse().unwrap();
        assert_eq!(number, uuid);
        assert!(
            "00000000-0000-0000-0000-00000000002"
                .parse::<UserId>()
                .is_err()
        );
        assert!("-1".parse::<UserId>().is_err());
    }

    #[test]
    fn operation_id_carries_its_time() {
        let id = OperationId::from_parts(0x0123_4567_89ab, u128::MAX);
        assert_eq!(id.time_ms(), 0x0123_4567_89ab);
        assert_eq!(id.to_string(), "01234567-89ab-7fff-bfff-ffffffffffff");
        assert_eq!(id.to_string().parse(), Ok(id));
    }
}
