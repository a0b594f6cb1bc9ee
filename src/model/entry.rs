//! The entry: one line of a log, 128 bytes. Layout: docs/log-format.md, "Entries".
//!
//! An entry of a change starts with the 96 bytes of its operation; bytes that every operation
//! has as zero carry its outcome there, and the images of what it changed follow. So a replay
//! needs no execution, and a retry is compared with every byte of the first copy.

use super::moves::{
    Adopt, AdoptedFile, AdoptedSlots, HandOver, HandedSums, KIND_ADOPT, KIND_ADOPTED_FILE,
    KIND_ADOPTED_SLOTS, KIND_DROP, KIND_HAND_OVER, KIND_HANDED_SUMS, SlotRanges, move_number,
    write_drop,
};
use super::operation::{u16_at, u32_at, u64_at};
use super::{
    Flags, Generation, Kind, LogTime, MoveNumber, OPERATION_SIZE, Operation, Place, ResultCode,
    RingEpoch, Slot, Term, UserId,
};

/// Bytes of an entry.
pub const ENTRY_SIZE: usize = 128;

const KIND_AT: usize = 0;
const CODE_AT: usize = 12;
const OUTCOME_AT: usize = 14;
const MOVED_AT: usize = 72;
const AVAILABLE_AT: usize = 96;
const HELD_AT: usize = 104;
const VERSION_AT: usize = 112;
const PREVIOUS_AT: usize = 120;
const _: () = assert!(AVAILABLE_AT == OPERATION_SIZE);
const _: () = assert!(PREVIOUS_AT + size_of::<u64>() == ENTRY_SIZE);

const KIND_HORIZON: u8 = 128;
const KIND_EPOCH: u8 = 129;
const KIND_ACTIVATION: u8 = 130;

const NUMBER_AT: usize = 8;
const TERM_AT: usize = 16;

const OUTCOME_CREATED: u16 = 1;

/// What an account looks like after a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Available balance in minor units.
    pub available: i64,
    /// Held balance in minor units.
    pub held: u64,
    /// Version of the account; 0 when it is not there.
    pub version: u64,
}

/// A change with its outcome. The fields lie as they are told here: see [`Operation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Change {
    /// The operation as it came. `find` with `burn` is logged as such, with code `cancelled`.
    pub operation: Operation,
    /// The account after the change (for a refusal: as it is).
    pub image: Image,
    /// The account's entry before this one.
    pub previous: Place,
    /// What was really moved, in minor units; 0 when refused.
    pub moved: u64,
    /// `Ok` or a refusal.
    pub code: ResultCode,
    /// The change opened the account.
    pub created: bool,
}

/// Under what the node works from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochMark {
    /// Generation of the backup.
    pub generation: Generation,
    /// Version of the slot table.
    pub ring_epoch: RingEpoch,
    /// Term of the log.
    pub term: Term,
}

/// Slots `first` to `last`, both included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotRange {
    /// First slot.
    pub first: Slot,
    /// Last slot; not below `first`.
    pub last: Slot,
}

/// Slots that this log serves from here on; a longer list goes on in the next entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activation {
    /// The move that brought them; 0 for the first table of a cluster.
    pub number: MoveNumber,
    /// Version of the slot table that gave them.
    pub ring_epoch: RingEpoch,
    slots: SlotRanges,
}

impl Activation {
    /// Most ranges that one entry holds.
    pub const RANGE_COUNT_MAX: usize = SlotRanges::COUNT_MAX;

    /// An activation for the first table of a cluster, of at most [`Self::RANGE_COUNT_MAX`]
    /// ranges; panics on more.
    #[must_use]
    pub fn new(ring_epoch: RingEpoch, ranges: &[SlotRange]) -> Self {
        Self::of_move(MoveNumber(0), ring_epoch, ranges)
    }

    /// One entry of the activation of a move; panics on more ranges than it holds.
    #[must_use]
    pub fn of_move(number: MoveNumber, ring_epoch: RingEpoch, ranges: &[SlotRange]) -> Self {
        Self {
            number,
            ring_epoch,
            slots: SlotRanges::new(ranges),
        }
    }

    /// The ranges.
    #[must_use]
    pub fn ranges(&self) -> &[SlotRange] {
        self.slots.as_slice()
    }
}

/// One line of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A change, applied or refused.
    Change(Change),
    /// Ids whose time lies before this are forgotten.
    Horizon {
        /// Unix milliseconds.
        ms: u64,
    },
    /// A new generation, ring epoch or term.
    Epoch(EpochMark),
    /// Slots that are served from here on.
    Activation(Activation),
    /// Slots that leave this log.
    HandOver(HandOver),
    /// What leaves with them.
    HandedSums(HandedSums),
    /// Slots' state from another log is staged here.
    Adopt(Adopt),
    /// The file that holds it.
    AdoptedFile(AdoptedFile),
    /// The slots that it is of.
    AdoptedSlots(AdoptedSlots),
    /// What was staged under this move goes.
    Drop {
        /// The move.
        number: MoveNumber,
    },
}

/// Why 128 bytes are not an entry that this version knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// A kind of a later version, or damage that the checksum did not see.
    #[error("unknown kind of entry {0}")]
    Kind(u8),
    /// The operation in it is malformed.
    #[error("operation in entry is malformed: {0}")]
    Operation(ResultCode),
    /// A field is out of its range.
    #[error("field at byte {0} of the entry is out of range")]
    Field(usize),
}

impl Entry {
    /// Can these bytes be a change of `user`, or one of the node's own entries? Cheap, for those
    /// who look through many.
    #[must_use]
    pub fn may_be_of(bytes: &[u8; ENTRY_SIZE], user: UserId) -> bool {
        let is_own = KIND_HORIZON <= bytes[KIND_AT];
        let operation = bytes.first_chunk::<OPERATION_SIZE>();
        is_own || operation.is_some_and(|bytes| Operation::user_of(bytes) == user.get())
    }

    /// Reads one entry.
    pub fn read(bytes: &[u8; ENTRY_SIZE]) -> Result<Self, EntryError> {
        match bytes[KIND_AT] {
            KIND_HORIZON => only(
                bytes,
                Self::Horizon {
                    ms: u64_at(bytes, NUMBER_AT),
                },
            ),
            KIND_EPOCH => only(
                bytes,
                Self::Epoch(EpochMark {
                    generation: Generation(u64_at(bytes, NUMBER_AT)),
                    ring_epoch: RingEpoch(u32_at(bytes, 4)),
                    term: Term(u64_at(bytes, TERM_AT)),
                }),
            ),
            KIND_ACTIVATION => only(
                bytes,
                Self::Activation(Activation {
                    number: MoveNumber(u64_at(bytes, NUMBER_AT)),
                    ring_epoch: RingEpoch(u32_at(bytes, 4)),
                    slots: SlotRanges::read(bytes)?,
                }),
            ),
            KIND_HAND_OVER => only(bytes, HandOver::read(bytes).map(Self::HandOver)?),
            KIND_HANDED_SUMS => only(bytes, HandedSums::read(bytes).map(Self::HandedSums)?),
            KIND_ADOPT => only(bytes, Adopt::read(bytes).map(Self::Adopt)?),
            KIND_ADOPTED_FILE => only(bytes, AdoptedFile::read(bytes).map(Self::AdoptedFile)?),
            KIND_ADOPTED_SLOTS => only(bytes, AdoptedSlots::read(bytes).map(Self::AdoptedSlots)?),
            KIND_DROP => only(
                bytes,
                Self::Drop {
                    number: move_number(bytes)?,
                },
            ),
            kind if Kind::from_number(kind).is_some() => read_change(bytes).map(Self::Change),
            kind => Err(EntryError::Kind(kind)),
        }
    }

    /// Is this, by its kind, an entry of a move? The activations of a first table count too.
    #[must_use]
    pub const fn is_of_move(bytes: &[u8; ENTRY_SIZE]) -> bool {
        matches!(
            bytes[KIND_AT],
            KIND_ACTIVATION
                | KIND_HAND_OVER
                | KIND_HANDED_SUMS
                | KIND_ADOPT
                | KIND_ADOPTED_FILE
                | KIND_ADOPTED_SLOTS
                | KIND_DROP
        )
    }

    /// Its bytes, reserved ones 0.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; ENTRY_SIZE] {
        let mut bytes = [0; ENTRY_SIZE];
        match self {
            Self::Change(change) => return change.to_bytes(),
            Self::Horizon { ms } => {
                bytes[KIND_AT] = KIND_HORIZON;
                put(&mut bytes, NUMBER_AT, &ms.to_le_bytes());
            }
            Self::Epoch(mark) => {
                bytes[KIND_AT] = KIND_EPOCH;
                put(&mut bytes, 4, &mark.ring_epoch.0.to_le_bytes());
                put(&mut bytes, NUMBER_AT, &mark.generation.0.to_le_bytes());
                put(&mut bytes, TERM_AT, &mark.term.0.to_le_bytes());
            }
            Self::Activation(activation) => {
                bytes[KIND_AT] = KIND_ACTIVATION;
                put(&mut bytes, 4, &activation.ring_epoch.0.to_le_bytes());
                put(&mut bytes, NUMBER_AT, &activation.number.0.to_le_bytes());
                activation.slots.write(&mut bytes);
            }
            Self::HandOver(hand_over) => {
                bytes[KIND_AT] = KIND_HAND_OVER;
                hand_over.write(&mut bytes);
            }
            Self::HandedSums(sums) => {
                bytes[KIND_AT] = KIND_HANDED_SUMS;
                sums.write(&mut bytes);
            }
            Self::Adopt(adopt) => {
                bytes[KIND_AT] = KIND_ADOPT;
                adopt.write(&mut bytes);
            }
            Self::AdoptedFile(file) => {
                bytes[KIND_AT] = KIND_ADOPTED_FILE;
                file.write(&mut bytes);
            }
            Self::AdoptedSlots(slots) => {
                bytes[KIND_AT] = KIND_ADOPTED_SLOTS;
                slots.write(&mut bytes);
            }
            Self::Drop { number } => {
                bytes[KIND_AT] = KIND_DROP;
                write_drop(*number, &mut bytes);
            }
        }
        bytes
    }
}

impl Change {
    /// The 128 bytes of its entry.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; ENTRY_SIZE] {
        let mut bytes = [0; ENTRY_SIZE];
        bytes[..OPERATION_SIZE].copy_from_slice(&self.operation.to_bytes());
        let outcome = if self.created { OUTCOME_CREATED } else { 0 };
        put(&mut bytes, CODE_AT, &(self.code as u16).to_le_bytes());
        put(&mut bytes, OUTCOME_AT, &outcome.to_le_bytes());
        if keeps_moved(self.operation.kind()) {
            put(&mut bytes, MOVED_AT, &self.moved.to_le_bytes());
        }
        put(
            &mut bytes,
            AVAILABLE_AT,
            &self.image.available.to_le_bytes(),
        );
        put(&mut bytes, HELD_AT, &self.image.held.to_le_bytes());
        put(&mut bytes, VERSION_AT, &self.image.version.to_le_bytes());
        put(&mut bytes, PREVIOUS_AT, &self.previous.0.to_le_bytes());
        bytes
    }
}

/// Kinds whose argument 1 is always 0, so that its place in the entry is free for the amount.
const fn keeps_moved(kind: Kind) -> bool {
    matches!(kind, Kind::Credit | Kind::Debit | Kind::Hold)
}

/// What of an entry's head is its operation's.
const MASK: [u8; OPERATION_SIZE] = without([u8::MAX; OPERATION_SIZE], CODE_AT, OUTCOME_AT + 2);
/// The same of a kind that [`keeps_moved`].
const MASK_MOVED: [u8; OPERATION_SIZE] = without(MASK, MOVED_AT, MOVED_AT + 8);

const fn without(
    mut mask: [u8; OPERATION_SIZE],
    mut from: usize,
    to: usize,
) -> [u8; OPERATION_SIZE] {
    while from < to {
        mask[from] = 0;
        from += 1;
    }
    mask
}

fn read_change(bytes: &[u8; ENTRY_SIZE]) -> Result<Change, EntryError> {
    let kind = Kind::from_number(bytes[KIND_AT]).ok_or(EntryError::Kind(bytes[KIND_AT]))?;
    let (mask, moved) = if keeps_moved(kind) {
        (&MASK_MOVED, u64_at(bytes, MOVED_AT))
    } else {
        (&MASK, 0)
    };
    // In one step, and not as a copy with holes made afterwards: see `Operation`.
    let mut record = [0; OPERATION_SIZE];
    for (to, (from, mask)) in record.iter_mut().zip(bytes.iter().zip(mask)) {
        *to = from & mask;
    }
    let operation = Operation::read(&record).map_err(EntryError::Operation)?;
    if !operation.is_change() {
        return Err(EntryError::Kind(bytes[KIND_AT]));
    }
    let outcome = u16_at(bytes, OUTCOME_AT);
    if outcome & !OUTCOME_CREATED != 0 {
        return Err(EntryError::Field(OUTCOME_AT));
    }
    Ok(Change {
        operation,
        code: ResultCode::from_number(u16_at(bytes, CODE_AT)).ok_or(EntryError::Field(CODE_AT))?,
        created: outcome & OUTCOME_CREATED != 0,
        moved,
        image: Image {
            available: u64_at(bytes, AVAILABLE_AT).cast_signed(),
            held: u64_at(bytes, HELD_AT),
            version: u64_at(bytes, VERSION_AT),
        },
        previous: Place(u64_at(bytes, PREVIOUS_AT)),
    })
}

/// The entry, if the bytes say nothing else: what a later version put into a byte that is 0 here
/// must not be dropped in silence.
fn only(bytes: &[u8; ENTRY_SIZE], entry: Entry) -> Result<Entry, EntryError> {
    let written = entry.to_bytes();
    match written.iter().zip(bytes).position(|(a, b)| a != b) {
        Some(at) => Err(EntryError::Field(at)),
        None => Ok(entry),
    }
}

pub(super) fn put<const N: usize>(bytes: &mut [u8; ENTRY_SIZE], at: usize, field: &[u8; N]) {
    bytes[at..at + N].copy_from_slice(field);
}

/// Whether a retry says the same as the first copy: every byte of the operation.
impl Change {
    /// Is `operation` the one that this entry is about, byte for byte?
    #[must_use]
    pub fn is_of(&self, operation: &Operation) -> bool {
        self.operation == *operation
    }

    /// The log time of an account's first version, where this change opened it.
    #[must_use]
    pub const fn opened_at(&self) -> Option<LogTime> {
        if self.created {
            Some(LogTime(self.image.version))
        } else {
            None
        }
    }

    /// Was the id burned by a `find`?
    #[must_use]
    pub fn is_burn(&self) -> bool {
        self.operation.flags().has(Flags::BURN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Currency, OperationId, UserId};

    #[test]
    fn entries_read_back() {
        let operation = Operation::debit(
            OperationId::from_parts(1, 2),
            UserId::new(9).unwrap(),
            Currency::new(4).unwrap(),
            70,
        )
        .with_flags(Flags::UP_TO)
        .if_version(12);
        let change = Change {
            operation,
            code: ResultCode::Ok,
            created: false,
            moved: 50,
            image: Image {
                available: -3,
                held: 2,
                version: 13,
            },
            previous: Place(77),
        };
        let ranges = [SlotRange {
            first: Slot(3),
            last: Slot(9),
        }];
        for entry in [
            Entry::Change(change),
            Entry::Horizon { ms: 5 },
            Entry::Epoch(EpochMark {
                generation: Generation(1),
                ring_epoch: RingEpoch(2),
                term: Term(3),
            }),
            Entry::Activation(Activation::new(RingEpoch(8), &ranges)),
        ] {
            assert_eq!(Entry::read(&entry.to_bytes()), Ok(entry));
        }
    }

    /// Found by the fuzz target `records`: bytes of own entries that mean nothing were read over,
    /// so a field that a later version puts there would have been lost.
    #[test]
    fn bytes_that_mean_nothing_must_be_zero() {
        for (entry, field) in [
            (Entry::Horizon { ms: 5 }, 1..16),
            (
                Entry::Epoch(EpochMark {
                    generation: Generation(1),
                    ring_epoch: RingEpoch(2),
                    term: Term(3),
                }),
                1..24,
            ),
            (Entry::Activation(Activation::new(RingEpoch(8), &[])), 1..16),
        ] {
            for at in (1..ENTRY_SIZE).filter(|at| !field.contains(at)) {
                let mut bytes = entry.to_bytes();
                bytes[at] = 1;
                assert_eq!(Entry::read(&bytes), Err(EntryError::Field(at)), "{entry:?}");
            }
        }
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert_eq!(Entry::read(&[0; ENTRY_SIZE]), Err(EntryError::Kind(0)));
        let mut bytes = Entry::Activation(Activation::new(RingEpoch(1), &[])).to_bytes();
        bytes[2] = 200;
        assert_eq!(Entry::read(&bytes), Err(EntryError::Field(2)));
    }
}
