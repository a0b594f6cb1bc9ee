//! The frame: a header of 24 bytes and a body, with one checksum over both.
//!
//! What the flags of a header may be depends on the kind and is checked with the message.
#![deny(clippy::indexing_slicing)]

use super::FrameError;
use crate::model::RingEpoch;

/// Bytes of a header.
pub const HEADER_SIZE: usize = 24;

pub(super) const LENGTH_AT: usize = 0;
pub(super) const CRC_AT: usize = 4;
pub(super) const KIND_AT: usize = 8;
pub(super) const FLAGS_AT: usize = 10;
const EPOCH_AT: usize = 12;
const REQUEST_AT: usize = 16;
const _: () = assert!(REQUEST_AT + size_of::<u64>() == HEADER_SIZE);

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// What a frame carries. The numbers are part of the protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum FrameKind {
            $($(#[$doc])* $variant = $number,)*
        }

        impl FrameKind {
            /// All kinds, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The kind with this number, if there is one.
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

kinds! {
    /// First frame of a connection, from the side that dialled.
    Hello = 1, "hello";
    /// Answer to a hello.
    Welcome = 2, "welcome";
    /// Why the connection ends. The last frame of its side.
    Refused = 3, "refused";
    /// Asks for a sign of life.
    Ping = 4, "ping";
    /// The sign of life, with the server's time.
    Pong = 5, "pong";
    /// Send no new requests here; those in flight are still answered.
    Goaway = 6, "goaway";
    /// A batch of operations.
    Request = 16, "request";
    /// Receipts for operations of a request.
    Receipts = 17, "receipts";
    /// Rows of a listing; its receipt follows.
    Rows = 18, "rows";
    /// Asks for the state of the cluster.
    StatusAsk = 24, "status_ask";
    /// The state of the cluster as JSON text.
    StatusTold = 25, "status_told";
    /// Asks for the audit.
    AuditAsk = 26, "audit_ask";
    /// Rows of the audit; the frame flag 1 says that more frames follow.
    AuditTold = 27, "audit_told";
    /// An operator's command to the authority.
    ClusterAsk = 28, "cluster_ask";
    /// What the authority says to it, as JSON text.
    ClusterTold = 29, "cluster_told";
    /// A node presents itself and its log to the backup.
    Register = 64, "register";
    /// The term, and where the backup's copy of the log ends.
    Granted = 65, "granted";
    /// One block of a log.
    Append = 66, "append";
    /// The backup made a log durable up to a block.
    Appended = 67, "appended";
    /// The backup misses blocks: send again from behind its end.
    Resend = 68, "resend";
    /// A sign of life of a node with its figures; confirms its term.
    Beat = 71, "beat";
    /// The answer to a beat.
    Confirmed = 72, "confirmed";
    /// Asks for whole blocks of a log.
    Fetch = 73, "fetch";
    /// Whole blocks of a log.
    Fetched = 74, "fetched";
    /// Asks for a piece of the newest checkpoint of a log.
    CheckpointAsk = 75, "checkpoint_ask";
    /// A piece of a checkpoint.
    CheckpointPart = 76, "checkpoint_part";
    /// Asks for one entry by its place.
    EntryAsk = 77, "entry_ask";
    /// The entry, or that it is not kept.
    EntryRead = 78, "entry_read";
    /// Asks for the slot table, now and at every change.
    Follow = 80, "follow";
    /// The slot table and the members.
    Table = 81, "table";
    /// The authority wants a step of a move from a node.
    MoveOrder = 82, "move_order";
    /// A step of a move is committed in the node's log.
    MoveTold = 83, "move_told";
    /// Asks for a piece of the image of a move.
    MoveFileAsk = 84, "move_file_ask";
    /// A piece of the image of a move.
    MoveFilePart = 85, "move_file_part";
    /// A backup that is made again from the nodes: record its generation, and give what you have.
    Recover = 86, "recover";
    /// The generation is durable at the node; what the node knows besides its log.
    Recorded = 87, "recorded";
}

/// The fixed head of a frame, without its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame carries.
    pub kind: FrameKind,
    /// Bits by kind; 0 where the kind has none.
    pub flags: u16,
    /// Version of the slot table that the sender works by; 0 = none.
    pub ring_epoch: RingEpoch,
    /// Chosen by the asking side, repeated in every answer; 0 where nothing is asked.
    pub request: u64,
}

/// Frame flag of `audit_told`: more frames of this answer follow.
pub const FLAG_MORE: u16 = 1;

/// One frame whose length and checksum were checked.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Its head.
    pub header: Header,
    /// What follows the head.
    pub body: &'a [u8],
}

/// Looks for one frame at the start of `bytes`.
///
/// `Ok(None)`: not complete yet. Else the frame and how many bytes it takes. `size_max` bounds
/// the claimed length before anything else is looked at.
pub fn split(bytes: &[u8], size_max: u32) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some(length_bytes) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*length_bytes);
    if to_usize(length) < HEADER_SIZE {
        return Err(FrameError::TooShort { length });
    }
    if size_max < length {
        return Err(FrameError::TooLong {
            length,
            max: size_max,
        });
    }
    let Some((frame, _)) = bytes.split_at_checked(to_usize(length)) else {
        return Ok(None);
    };
    let Some((head, body)) = frame.split_at_checked(HEADER_SIZE) else {
        return Ok(None);
    };
    let found = u32::from_le_bytes(field(head, CRC_AT));
    let computed = checksum(frame);
    if found != computed {
        return Err(FrameError::Checksum { found, computed });
    }
    let number = u16::from_le_bytes(field(head, KIND_AT));
    let header = Header {
        kind: FrameKind::from_number(number).ok_or(FrameError::Kind(number))?,
        flags: u16::from_le_bytes(field(head, FLAGS_AT)),
        ring_epoch: RingEpoch(u32::from_le_bytes(field(head, EPOCH_AT))),
        request: u64::from_le_bytes(field(head, REQUEST_AT)),
    };
    Ok(Some((Frame { header, body }, to_usize(length))))
}

impl Header {
    /// The header of a frame whose length and checksum are not known yet.
    pub(super) fn to_bytes(self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let mut put = |at: usize, field: &[u8]| {
            if let Some(target) = bytes.get_mut(at..at + field.len()) {
                target.copy_from_slice(field);
            }
        };
        put(KIND_AT, &(self.kind as u16).to_le_bytes());
        put(FLAGS_AT, &self.flags.to_le_bytes());
        put(EPOCH_AT, &self.ring_epoch.0.to_le_bytes());
        put(REQUEST_AT, &self.request.to_le_bytes());
        bytes
    }
}

/// CRC-32 (IEEE) of a whole frame but for the four bytes of the checksum itself.
pub(super) fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(frame.get(..CRC_AT).unwrap_or_default());
    hasher.update(frame.get(KIND_AT..).unwrap_or_default());
    hasher.finalize()
}

/// The field at `at`; zeros where the bytes end before, which a caller has ruled out.
#[inline]
pub(super) fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .unwrap_or([0; N])
}

fn to_usize(value: u32) -> usize {
    crate::model::to_usize(u64::from(value))
}
