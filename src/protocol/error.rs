//! What can be wrong with bytes from outside: no frame, no message, or a refused connection.
//!
//! What is wrong with one operation of a good frame is a `ResultCode` of its receipt instead.

/// The bytes are not a frame. The connection is closed: where the next frame begins is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length field is below the size of a header.
    #[error("frame length {length} at byte 0 is below the header's size")]
    TooShort {
        /// The claimed length.
        length: u32,
    },
    /// The length field is above what this connection may send.
    #[error("frame length {length} at byte 0 is above the limit of {max}")]
    TooLong {
        /// The claimed length.
        length: u32,
        /// The limit.
        max: u32,
    },
    /// The checksum does not fit the bytes.
    #[error("frame checksum at byte 4 is {found:08x}, the bytes have {computed:08x}")]
    Checksum {
        /// What the header says.
        found: u32,
        /// What the bytes have.
        computed: u32,
    },
    /// A kind that this version does not know.
    #[error("unknown frame kind {0} at byte 8")]
    Kind(u16),
}

/// The frame is whole, but its body is not what its kind demands. The connection is closed.
///
/// Offsets count from the first byte of the frame; those of a record of a list, which is read
/// later than its frame, from the first byte of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The body ends too early.
    #[error("body ends at byte {at}, {needed} more bytes are needed")]
    Ends {
        /// Offset, see above.
        at: usize,
        /// How many bytes are missing.
        needed: usize,
    },
    /// The body goes on behind its last field.
    #[error("{count} bytes too many at byte {at}")]
    Trailing {
        /// Offset, see above.
        at: usize,
        /// How many bytes there are.
        count: usize,
    },
    /// A count or length above its limit.
    #[error("count {count} at byte {at} is above the limit of {max}")]
    TooMany {
        /// Offset, see above.
        at: usize,
        /// The claimed count.
        count: u32,
        /// The limit.
        max: u32,
    },
    /// A field has a value that it cannot have.
    #[error("field at byte {at} has a value that it cannot have")]
    Field {
        /// Offset, see above.
        at: usize,
    },
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// Why a connection is refused or ended. The numbers are part of the protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum RefusalCode {
            $($(#[$doc])* $variant = $number,)*
        }

        impl RefusalCode {
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
        }
    };
}

refusals! {
    /// Bytes that are no frame, or a frame with a body that does not fit.
    Malformed = 1, "malformed";
    /// No common version; the refusal lists the supported ones.
    Version = 2, "version_unsupported";
    /// The other side belongs to another cluster.
    WrongCluster = 3, "wrong_cluster";
    /// A first frame that is no hello, or a message that this role does not take.
    Unexpected = 4, "unexpected_message";
    /// Too many connections.
    TooManyConnections = 5, "too_many_connections";
    /// The handshake or a frame took too long, or bytes were left untaken too long.
    TooSlow = 6, "too_slow";
    /// More frames in flight than the welcome allows.
    TooManyFrames = 7, "too_many_frames";
    /// The daemon is ending.
    Closing = 8, "closing";
    /// The daemon has not finished its start.
    NotReady = 9, "not_ready";
    /// The node id is in use by another, living process.
    InUse = 16, "in_use";
    /// The cluster has no node of this id.
    NotAMember = 17, "not_a_member";
    /// A newer term of this log exists.
    Fenced = 18, "fenced";
    /// The node has seen a newer generation, epoch or term than the backup.
    BackupOlder = 19, "backup_older";
    /// Two histories of one log differ where both claim to be committed.
    Diverged = 20, "diverged";
    /// The data directory was copied, or the log is not the one the authority granted.
    WrongLog = 21, "wrong_log";
    /// The log was taken over: its slots have other owners now.
    TakenOver = 22, "taken_over";
}
