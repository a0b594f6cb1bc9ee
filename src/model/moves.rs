//! The entries by which slots leave one log and come into another. Layout: docs/log-format.md,
//! "Entries"; what they do: docs/decisions/0001-moves.md.
//!
//! A list that does not fit one entry goes on in the next ones, which repeat its head; all entries
//! of one step lie in one block. What belongs together is put together and taken apart here.

use super::entry::{Activation, ENTRY_SIZE, Entry, EntryError, SlotRange, put};
use super::operation::{u16_at, u32_at, u64_at};
use super::{LogNumber, LogTime, MoveNumber, NodeId, Place, RingEpoch, Slot, to_u64};

pub(super) const KIND_HAND_OVER: u8 = 137;
pub(super) const KIND_ADOPT: u8 = 138;
pub(super) const KIND_ADOPTED_FILE: u8 = 139;
pub(super) const KIND_ADOPTED_SLOTS: u8 = 140;
pub(super) const KIND_DROP: u8 = 141;
pub(super) const KIND_HANDED_SUMS: u8 = 143;

const COUNT_AT: usize = 2;
const EPOCH_AT: usize = 4;
const NUMBER_AT: usize = 8;
const RANGES_AT: usize = 32;
const RANGES_PER_ENTRY: usize = (ENTRY_SIZE - RANGES_AT) / 4;

const TARGET_AT: usize = 16;
const TARGET_LOG_AT: usize = 20;
const LIST_COUNT_AT: usize = 24;

const SUMS_AT: usize = 32;
const SUM_SIZE: usize = 48;
const SUMS_PER_ENTRY: usize = (ENTRY_SIZE - SUMS_AT) / SUM_SIZE;
const _: () = assert!(SUMS_PER_ENTRY == 2);

const SOURCE_LOG_AT: usize = 16;
const FILE_COUNT_AT: usize = 18;
const SLOTS_COUNT_AT: usize = 20;
const PLACE_AT: usize = 24;
const DIGEST_AT: usize = 32;
const HORIZON_AT: usize = 48;
const TIME_AT: usize = 56;

const FILE_SIZE_AT: usize = 16;
const FILE_DIGEST_AT: usize = 24;
const IMAGE_AT: usize = 32;
const FILE_OFFSET_AT: usize = 40;
const ACCOUNT_COUNT_AT: usize = 48;

/// Some ranges of slots, as many as one entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRanges {
    count: u16,
    ranges: [SlotRange; RANGES_PER_ENTRY],
}

impl SlotRanges {
    /// Most ranges that one entry holds.
    pub const COUNT_MAX: usize = RANGES_PER_ENTRY;

    /// At most [`Self::COUNT_MAX`] ranges; panics on more.
    #[must_use]
    pub fn new(ranges: &[SlotRange]) -> Self {
        let mut all = [SlotRange::default(); RANGES_PER_ENTRY];
        all[..ranges.len()].copy_from_slice(ranges);
        let count = u16::try_from(ranges.len()).expect("at most COUNT_MAX");
        Self { count, ranges: all }
    }

    /// The ranges.
    #[must_use]
    pub fn as_slice(&self) -> &[SlotRange] {
        &self.ranges[..usize::from(self.count)]
    }

    pub(super) fn write(&self, bytes: &mut [u8; ENTRY_SIZE]) {
        put(bytes, COUNT_AT, &self.count.to_le_bytes());
        for (index, range) in self.as_slice().iter().enumerate() {
            let at = RANGES_AT + index * 4;
            put(bytes, at, &range.first.0.to_le_bytes());
            put(bytes, at + 2, &range.last.0.to_le_bytes());
        }
    }

    pub(super) fn read(bytes: &[u8; ENTRY_SIZE]) -> Result<Self, EntryError> {
        let count = usize::from(u16_at(bytes, COUNT_AT));
        if RANGES_PER_ENTRY < count {
            return Err(EntryError::Field(COUNT_AT));
        }
        let mut ranges = [SlotRange::default(); RANGES_PER_ENTRY];
        for (index, range) in ranges.iter_mut().take(count).enumerate() {
            let at = RANGES_AT + index * 4;
            *range = SlotRange {
                first: Slot(u16_at(bytes, at)),
                last: Slot(u16_at(bytes, at + 2)),
            };
            if range.last < range.first {
                return Err(EntryError::Field(at));
            }
        }
        Ok(Self::new(&ranges[..count]))
    }
}

/// Slots that leave this log: from here on it answers `moving`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandOver {
    /// The move.
    pub number: MoveNumber,
    /// Version of the slot table under which it was ordered.
    pub ring_epoch: RingEpoch,
    /// The node that gets them.
    pub target: NodeId,
    /// Its log.
    pub target_log: LogNumber,
    /// Entries of this list, this one included.
    pub entry_count: u32,
    /// The slots that this entry names.
    pub slots: SlotRanges,
}

/// Whither slots go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandOverHead {
    /// The move.
    pub number: MoveNumber,
    /// Version of the slot table under which it was ordered.
    pub ring_epoch: RingEpoch,
    /// The node that gets them.
    pub target: NodeId,
    /// Its log.
    pub target_log: LogNumber,
}

impl HandOver {
    /// All entries that hand `ranges` over. Panics if there are none.
    #[must_use]
    pub fn list(head: &HandOverHead, ranges: &[SlotRange]) -> Vec<Entry> {
        assert!(!ranges.is_empty(), "a move has slots");
        let entry_count = count_of(ranges.len().div_ceil(SlotRanges::COUNT_MAX));
        let of_entry = |ranges: &[SlotRange]| {
            Entry::HandOver(Self {
                number: head.number,
                ring_epoch: head.ring_epoch,
                target: head.target,
                target_log: head.target_log,
                entry_count,
                slots: SlotRanges::new(ranges),
            })
        };
        ranges.chunks(SlotRanges::COUNT_MAX).map(of_entry).collect()
    }

    pub(super) fn write(&self, bytes: &mut [u8; ENTRY_SIZE]) {
        self.slots.write(bytes);
        put(bytes, EPOCH_AT, &self.ring_epoch.0.to_le_bytes());
        put(bytes, NUMBER_AT, &self.number.0.to_le_bytes());
        put(bytes, TARGET_AT, &self.target.get().to_le_bytes());
        put(bytes, TARGET_LOG_AT, &self.target_log.get().to_le_bytes());
        put(bytes, LIST_COUNT_AT, &self.entry_count.to_le_bytes());
    }

    pub(super) fn read(bytes: &[u8; ENTRY_SIZE]) -> Result<Self, EntryError> {
        let slots = filled_ranges(bytes)?;
        let entry_count = u32_at(bytes, LIST_COUNT_AT);
        if entry_count == 0 {
            return Err(EntryError::Field(LIST_COUNT_AT));
        }
        Ok(Self {
            number: move_number(bytes)?,
            ring_epoch: RingEpoch(u32_at(bytes, EPOCH_AT)),
            target: NodeId::new(u32_at(bytes, TARGET_AT)).ok_or(EntryError::Field(TARGET_AT))?,
            target_log: LogNumber::new(u16_at(bytes, TARGET_LOG_AT))
                .ok_or(EntryError::Field(TARGET_LOG_AT))?,
            entry_count,
            slots,
        })
    }
}

/// What the accounts of some slots hold in one currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandedSum {
    /// The currency.
    pub currency: u32,
    /// Accounts.
    pub account_count: u64,
    /// Sum of the available balances, in minor units.
    pub available: i128,
    /// Sum of the held balances, in minor units.
    pub held: i128,
}

/// What leaves the log with the slots that are handed over in the same block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandedSums {
    /// Entries of this list, this one included.
    pub entry_count: u32,
    count: u16,
    sums: [HandedSum; SUMS_PER_ENTRY],
}

impl HandedSums {
    /// Most sums that one entry holds.
    pub const SUM_COUNT_MAX: usize = SUMS_PER_ENTRY;

    /// All entries that say `sums`, by currency; none if there are none.
    #[must_use]
    pub fn list(sums: &[HandedSum]) -> Vec<Entry> {
        let entry_count = count_of(sums.len().div_ceil(SUMS_PER_ENTRY));
        let of_entry = |sums: &[HandedSum]| {
            let mut all = [HandedSum::default(); SUMS_PER_ENTRY];
            all[..sums.len()].copy_from_slice(sums);
            Entry::HandedSums(Self {
                entry_count,
                count: u16::try_from(sums.len()).expect("at most SUM_COUNT_MAX"),
                sums: all,
            })
        };
        sums.chunks(SUMS_PER_ENTRY).map(of_entry).collect()
    }

    /// The sums.
    #[must_use]
    pub fn sums(&self) -> &[HandedSum] {
        &self.sums[..usize::from(self.count)]
    }

    pub(super) fn write(&self, bytes: &mut [u8; ENTRY_SIZE]) {
        put(bytes, COUNT_AT, &self.count.to_le_bytes());
        put(bytes, EPOCH_AT, &self.entry_count.to_le_bytes());
        for (index, sum) in self.sums().iter().enumerate() {
            let at = SUMS_AT + index * SUM_SIZE;
            put(bytes, at, &sum.currency.to_le_bytes());
            put(bytes, at + 8, &sum.account_count.to_le_bytes());
            put(bytes, at + 16, &sum.available.to_le_bytes());
            put(bytes, at + 32, &sum.held.to_le_bytes());
        }
    }

    pub(super) fn read(bytes: &[u8; ENTRY_SIZE]) -> Result<Self, EntryError> {
        let count = u16_at(bytes, COUNT_AT);
        let entry_count = u32_at(bytes, EPOCH_AT);
        if !(1..=SUMS_PER_ENTRY).contains(&usize::from(count)) || entry_count == 0 {
            return Err(EntryError::Field(COUNT_AT));
        }
        let mut sums = [HandedSum::default(); SUMS_PER_ENTRY];
        for (index, sum) in sums.iter_mut().take(usize::from(count)).enumerate() {
            let at = SUMS_AT + index * SUM_SIZE;
            *sum = HandedSum {
                currency: u32_at(bytes, at),
                account_count: u64_at(bytes, at + 8),
                available: u128_at(bytes, at + 16).cast_signed(),
                held: u128_at(bytes, at + 32).cast_signed(),
            };
            if sum.currency == 0 || u32_at(bytes, at + 4) != 0 {
                return Err(EntryError::Field(at));
            }
            if u64::from(u32::MAX) < sum.account_count {
                return Err(EntryError::Field(at + 8));
            }
            if SUM_MAX < sum.available.unsigned_abs() || SUM_MAX < sum.held.unsigned_abs() {
                return Err(EntryError::Field(at + 16));
            }
        }
        Ok(Self {
            entry_count,
            count,
            sums,
        })
    }
}

/// Bound of every sum that is read: far above what accounts can hold, far below an overflow.
const SUM_MAX: u128 = 1 << 96;

/// Slots' state from another log is here, staged: not served before its activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopt {
    /// The move.
    pub number: MoveNumber,
    /// Version of the slot table under which it was ordered.
    pub ring_epoch: RingEpoch,
    /// The log that the slots come from.
    pub source_log: LogNumber,
    /// Entries of kind [`AdoptedSlots`] that follow.
    pub slots_entry_count: u32,
    /// Where the hand-over begins in that log.
    pub hand_over: Place,
    /// Sum of the digests of the slots.
    pub digest: u128,
    /// Ids older than this were forgotten there.
    pub horizon_ms: u64,
    /// Log time there before the hand-over.
    pub time: LogTime,
}

/// The file that holds the adopted state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdoptedFile {
    /// The move that adopts.
    pub number: MoveNumber,
    /// The move under whose number the image was cut and is named.
    pub image: MoveNumber,
    /// Bytes of the file.
    pub size: u64,
    /// Its digest, as its header has it.
    pub digest: u64,
    /// The end in the source's log that it stands for.
    pub offset: u64,
    /// Accounts in it.
    pub account_count: u64,
}

/// Slots that are adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdoptedSlots {
    /// The move.
    pub number: MoveNumber,
    /// The slots that this entry names.
    pub slots: SlotRanges,
}

impl Adopt {
    /// Is this entry one? Cheaper than to read it.
    #[must_use]
    pub const fn is_in(entry: &[u8; ENTRY_SIZE]) -> bool {
        entry[0] == KIND_ADOPT
    }

    pub(super) fn write(&self, bytes: &mut [u8; ENTRY_SIZE]) {
        put(bytes, EPOCH_AT, &self.ring_epoch.0.to_le_bytes());
        put(bytes, NUMBER_AT, &self.number.0.to_le_bytes());
        put(bytes, SOURCE_LOG_AT, &self.source_log.get().to_le_bytes());
        put(bytes, FILE_COUNT_AT, &1_u16.to_le_bytes());
        put(bytes, SLOTS_COUNT_AT, &self.slots_entry_count.to_le_bytes());
        put(bytes, PLACE_AT, &self.hand_over.0.to_le_bytes());
        put(bytes, DIGEST_AT, &self.digest.to_le_bytes());
        put(bytes, HORIZON_AT, &self.horizon_ms.to_le_bytes());
        put(bytes, TIME_AT, &self.time.0.to_le_bytes());
    }

    pub(super) fn read(bytes: &[u8; ENTRY_SIZE]) -> Result<Self, EntryError> {
        let slots_entry_count = u32_at(bytes, SLOTS_COUNT_AT);
        if u16_at(bytes, FILE_COUNT_AT) != 1 {
            return Err(EntryError::Field(FILE_COUNT_AT));
        }
        if slots_entry_count == 0 {
            return Err(EntryError::Field(SLOTS_COUNT_AT));
        }
        let hand_over = Place(u64_at(bytes, PLACE_AT));
        let source_log = LogNumber::new(u16_at(bytes, SOURCE_LOG_AT));
        if source_log.is_none() || hand_over.log() != source_log {
            return Err(EntryError::Field(SOURCE_LOG_AT));
        }
        Ok(Self {
            number: move_number(bytes)?,
            ring_epoch: RingEpoch(u32_at(bytes, EPOCH_AT)),
            source_log: source_log.ok_or(EntryError::Field(SOURCE_LOG_AT))?,
            slots_entry_count,
            hand_over,
            digest: u128_at(bytes, DIGEST_AT),
            horizon_ms: u64_at(bytes, HORIZON_AT),
            time: LogTime(u64_at(bytes, TIME_AT)),
        })
    }
}

impl AdoptedFile {
    pub(super) fn write(&self, bytes: &mut [u8; ENTRY_SIZE]) {
        put(bytes, NUMBER_AT, &self.number.0.to_le_bytes());
        put(bytes, FILE_SIZE_AT, &self.size.to_le_bytes());
        put(bytes, FILE_DIGEST_AT, &self.digest.to_le_bytes());
        put(bytes, IMAGE_AT, &self.image.0.to_le_bytes());
        put(bytes, FILE_OFFSET_AT, &self.offset.to_le_bytes());
        put(bytes, ACCOUNT_COUNT_AT, &self.account_count.to_le_bytes());
    }

    pub(super) fn read(bytes: &[u8; ENTRY_SIZE]) -> Result<Self, EntryError> {
        let image = MoveNumber(u64_at(bytes, IMAGE_AT));
        if u16_at(bytes, COUNT_AT) != 0 {
            return Err(EntryError::Field(COUNT_AT));
        }
        if image == MoveNumber(0) {
            return Err(EntryError::Field(IMAGE_AT));
        }
        Ok(Self {
            number: move_number(bytes)?,
            image,
            size: u64_at(bytes, FILE_SIZE_AT),
            digest: u64_at(bytes, FILE_DIGEST_AT),
            offset: u64_at(bytes, FILE_OFFSET_AT),
            account_count: u64_at(bytes, ACCOUNT_COUNT_AT),
        })
    }
}

impl AdoptedSlots {
    pub(super) fn write(&self, bytes: &mut [u8; ENTRY_SIZE]) {
        self.slots.write(bytes);
        put(bytes, NUMBER_AT, &self.number.0.to_le_bytes());
    }

    pub(super) fn read(bytes: &[u8; ENTRY_SIZE]) -> Result<Self, EntryError> {
        Ok(Self {
            number: move_number(bytes)?,
            slots: filled_ranges(bytes)?,
        })
    }
}

/// An adopt entry with the entries that belong to it: what a replay must load before it absorbs
/// the block that they lie in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adoption {
    /// The first entry. Its count of entries is made from the ranges.
    pub adopt: Adopt,
    /// The file.
    pub file: AdoptedFile,
    /// All slots, in order.
    pub ranges: Vec<SlotRange>,
}

impl Adoption {
    /// All entries of it.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let number = self.adopt.number;
        let slots = self.ranges.chunks(SlotRanges::COUNT_MAX);
        let adopt = Adopt {
            slots_entry_count: count_of(slots.len()),
            ..self.adopt
        };
        let slots = slots.map(|ranges| {
            Entry::AdoptedSlots(AdoptedSlots {
                number,
                slots: SlotRanges::new(ranges),
            })
        });
        let head = [Entry::Adopt(adopt), Entry::AdoptedFile(self.file)];
        head.into_iter().chain(slots).collect()
    }

    /// The adoption among the entries of one block; `None` if there is none. The error says what
    /// is wrong with it.
    pub fn gather<'a>(
        entries: impl IntoIterator<Item = &'a Entry>,
    ) -> Result<Option<Self>, &'static str> {
        let mut entries = entries.into_iter();
        let Some(adopt) = entries.find_map(|entry| match entry {
            Entry::Adopt(adopt) => Some(*adopt),
            Entry::Change(_)
            | Entry::Horizon { .. }
            | Entry::Epoch(_)
            | Entry::Activation(_)
            | Entry::HandOver(_)
            | Entry::HandedSums(_)
            | Entry::AdoptedFile(_)
            | Entry::AdoptedSlots(_)
            | Entry::Drop { .. } => None,
        }) else {
            return Ok(None);
        };
        let Some(Entry::AdoptedFile(file)) = entries.next() else {
            return Err("an adoption without its file");
        };
        let mut ranges = Vec::new();
        for _ in 0..adopt.slots_entry_count {
            let Some(Entry::AdoptedSlots(slots)) = entries.next() else {
                return Err("an adoption without all of its slots");
            };
            if slots.number != adopt.number {
                return Err("slots of another adoption");
            }
            ranges.extend_from_slice(slots.slots.as_slice());
        }
        if file.number != adopt.number {
            return Err("a file of another adoption");
        }
        Ok(Some(Self {
            adopt,
            file: *file,
            ranges,
        }))
    }
}

impl Activation {
    /// All entries that activate `ranges` under a move. Panics if there are none.
    #[must_use]
    pub fn list(number: MoveNumber, ring_epoch: RingEpoch, ranges: &[SlotRange]) -> Vec<Entry> {
        assert!(!ranges.is_empty(), "a move has slots");
        ranges
            .chunks(SlotRanges::COUNT_MAX)
            .map(|ranges| Entry::Activation(Self::of_move(number, ring_epoch, ranges)))
            .collect()
    }
}

pub(super) fn write_drop(number: MoveNumber, bytes: &mut [u8; ENTRY_SIZE]) {
    put(bytes, NUMBER_AT, &number.0.to_le_bytes());
}

/// The number of a move; 0 is none.
pub(super) fn move_number(bytes: &[u8; ENTRY_SIZE]) -> Result<MoveNumber, EntryError> {
    match u64_at(bytes, NUMBER_AT) {
        0 => Err(EntryError::Field(NUMBER_AT)),
        number => Ok(MoveNumber(number)),
    }
}

fn filled_ranges(bytes: &[u8; ENTRY_SIZE]) -> Result<SlotRanges, EntryError> {
    let ranges = SlotRanges::read(bytes)?;
    if ranges.as_slice().is_empty() {
        return Err(EntryError::Field(COUNT_AT));
    }
    Ok(ranges)
}

fn u128_at(bytes: &[u8; ENTRY_SIZE], at: usize) -> u128 {
    u128::from(u64_at(bytes, at)) | (u128::from(u64_at(bytes, at + 8)) << 64)
}

fn count_of(count: usize) -> u32 {
    u32::try_from(to_u64(count)).expect("lists are bounded by the ring")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(count: u16) -> Vec<SlotRange> {
        let range = |index| SlotRange {
            first: Slot(index * 5),
            last: Slot(index * 5 + 3),
        };
        (0..count).map(range).collect()
    }

    fn adoption() -> Adoption {
        let log = LogNumber::new(7).unwrap();
        Adoption {
            adopt: Adopt {
                number: MoveNumber(9),
                ring_epoch: RingEpoch(4),
                source_log: log,
                slots_entry_count: 3,
                hand_over: Place::new(log, 8_192),
                digest: u128::MAX - 5,
                horizon_ms: 77,
                time: LogTime(99),
            },
            file: AdoptedFile {
                number: MoveNumber(9),
                image: MoveNumber(8),
                size: 1 << 40,
                digest: 3,
                offset: 8_064,
                account_count: 12,
            },
            ranges: ranges(50),
        }
    }

    fn sums(count: u32) -> Vec<HandedSum> {
        let sum = |currency| HandedSum {
            currency,
            account_count: 3,
            available: -i128::from(currency) << 64,
            held: 1 << 80,
        };
        (1..=count).map(sum).collect()
    }

    fn all() -> Vec<Entry> {
        let head = HandOverHead {
            number: MoveNumber(u64::MAX),
            ring_epoch: RingEpoch(2),
            target: NodeId::new(3).unwrap(),
            target_log: LogNumber::new(4).unwrap(),
        };
        let mut all = HandOver::list(&head, &ranges(25));
        all.extend(HandedSums::list(&sums(3)));
        all.extend(adoption().entries());
        all.extend(Activation::list(MoveNumber(6), RingEpoch(5), &ranges(49)));
        all.push(Entry::Drop {
            number: MoveNumber(1),
        });
        all
    }

    #[test]
    fn lists_read_back() {
        let all = all();
        assert_eq!(all.len(), 2 + 2 + 5 + 3 + 1);
        for entry in &all {
            assert_eq!(Entry::read(&entry.to_bytes()), Ok(*entry));
        }
        assert_eq!(Adoption::gather(&all), Ok(Some(adoption())));
        assert_eq!(Adoption::gather(&all[..4]), Ok(None));
        for end in 5..9 {
            assert!(Adoption::gather(&all[..end]).is_err(), "{end}");
        }
        assert!(HandedSums::list(&[]).is_empty());
    }

    #[test]
    fn an_adoption_is_of_one_move() {
        for index in [1, 2, 4] {
            let mut entries = adoption().entries();
            if let Entry::AdoptedFile(file) = &mut entries[index] {
                file.number = MoveNumber(5);
            }
            if let Entry::AdoptedSlots(slots) = &mut entries[index] {
                slots.number = MoveNumber(5);
            }
            assert_ne!(entries[index], adoption().entries()[index]);
            assert!(Adoption::gather(&entries).is_err(), "{index}");
        }
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let all = all();
        let [hand_over, _, sums, _, adopt, file, slots, ..] = &all[..] else {
            panic!("{all:?}");
        };
        let drop = all.last().unwrap();
        for (entry, at, value) in [
            (hand_over, COUNT_AT, 0),
            (hand_over, COUNT_AT, 25),
            (hand_over, NUMBER_AT, 0),
            (hand_over, TARGET_AT, 0),
            (hand_over, TARGET_LOG_AT, 0),
            (hand_over, LIST_COUNT_AT, 0),
            (hand_over, RANGES_AT, 4),
            (sums, COUNT_AT, 0),
            (sums, COUNT_AT, 3),
            (sums, EPOCH_AT, 0),
            (sums, SUMS_AT, 0),
            (sums, SUMS_AT + 4, 1),
            (sums, SUMS_AT + 12, 1),
            (sums, SUMS_AT + 47, 0x40),
            (adopt, NUMBER_AT, 0),
            (adopt, SOURCE_LOG_AT, 0),
            (adopt, SOURCE_LOG_AT, 8),
            (adopt, FILE_COUNT_AT, 2),
            (adopt, SLOTS_COUNT_AT, 0),
            (file, COUNT_AT, 1),
            (file, IMAGE_AT, 0),
            (slots, COUNT_AT, 0),
            (slots, NUMBER_AT, 0),
            (drop, NUMBER_AT, 0),
        ] {
            let mut bytes = entry.to_bytes();
            let wide = entry == hand_over && at == NUMBER_AT;
            bytes[at..at + if wide { 8 } else { 1 }].fill(value);
            assert!(
                Entry::read(&bytes).is_err(),
                "{entry:?} with {value} at {at}"
            );
        }
    }
}
