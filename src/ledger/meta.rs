//! What a ledger knows besides accounts, supply and ids: how far it is in its log, the horizon,
//! under what it works, and which slots it serves.
//!
//! Layout of its records: docs/log-format.md, "Meta records". All have 64 bytes, in words: word 0
//! has the kind in its low byte. Kind 1, exactly once and first: bit 8 of word 0 says that words
//! 4 to 6 are there; then horizon (Unix ms), log time (ns), last place, generation, term, ring
//! epoch in the low and newest activation's epoch in the high half, 0. Kind 2: up to seven runs of
//! slots (their count in byte 1 of word 0), each a word of first and last slot in 16 bits each
//! and the epoch of their activation in 32. Kind 3, behind those: up to three runs of slots that
//! were handed over, each two words: first and last slot, number of the move.

use super::bits::{high_half, low_half};
use super::record::read_words;
use super::slots::{SlotRun, SlotState, Slots};
use crate::model::{
    Activation, Entry, EpochMark, Generation, LogTime, MoveNumber, Place, RingEpoch, Slot,
    SlotRange, Term, to_u64, to_usize,
};

/// Bytes of a meta record in a checkpoint.
pub const META_RECORD_SIZE: usize = 64;

const WORD_COUNT: usize = 8;
const _: () = assert!(WORD_COUNT * size_of::<u64>() == META_RECORD_SIZE);

const KIND_HEAD: u64 = 1;
const KIND_RUNS: u64 = 2;
const HAS_MARK: u64 = 1 << 8;
const COUNT_SHIFT: u32 = 8;
const RUN_COUNT_MAX: usize = WORD_COUNT - 1;
const KIND_GONE: u64 = 3;
const GONE_COUNT_MAX: usize = RUN_COUNT_MAX.div_euclid(2);

/// How far in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) place: Place,
    pub(super) time: LogTime,
}

impl Progress {
    /// Checks that an entry at `next` may come after this.
    pub(super) fn check(self, next: Self) -> Result<(), &'static str> {
        if next.place.log().is_none() {
            return Err("an entry without a place");
        }
        if next.time <= self.time {
            return Err("log time does not rise");
        }
        if next.place.log() == self.place.log() && next.place <= self.place {
            return Err("the place is not behind the last entry's");
        }
        Ok(())
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Meta {
    pub(super) progress: Progress,
    pub(super) horizon_ms: u64,
    pub(super) mark: Option<EpochMark>,
    pub(super) slots: Slots,
}

impl Meta {
    pub(super) fn new() -> Self {
        Self {
            progress: Progress::default(),
            horizon_ms: 0,
            mark: None,
            slots: Slots::new(),
        }
    }

    /// Takes an entry in that is not a change. The error says what contradicts what is known;
    /// then nothing has changed.
    pub(super) fn take(&mut self, entry: &Entry) -> Result<(), &'static str> {
        match entry {
            Entry::Change(_) => unreachable!("changes are taken in by the ledger"),
            Entry::Horizon { ms } => self.raise(*ms),
            Entry::Epoch(mark) => self.enter(*mark),
            Entry::Activation(activation) => self.slots.activate(activation),
            Entry::HandOver(hand_over) => self.slots.hand_over(hand_over),
            // What was forgotten at the source is forgotten here.
            Entry::Adopt(adopt) => self.raise(adopt.horizon_ms.max(self.horizon_ms)),
            Entry::HandedSums(_)
            | Entry::AdoptedFile(_)
            | Entry::AdoptedSlots(_)
            | Entry::Drop { .. } => Ok(()),
        }
    }

    fn raise(&mut self, horizon_ms: u64) -> Result<(), &'static str> {
        if horizon_ms < self.horizon_ms {
            return Err("the horizon falls");
        }
        self.horizon_ms = horizon_ms;
        Ok(())
    }

    fn enter(&mut self, mark: EpochMark) -> Result<(), &'static str> {
        if let Some(last) = self.mark {
            if mark.generation < last.generation {
                return Err("the generation falls");
            }
            let same = mark.generation == last.generation;
            if same && (mark.term < last.term || mark.ring_epoch < last.ring_epoch) {
                return Err("term or ring epoch falls");
            }
        }
        self.mark = Some(mark);
        Ok(())
    }

    pub(super) fn write(&self, records: &mut Vec<u8>) {
        let mark = self.mark.unwrap_or(EpochMark {
            generation: Generation(0),
            ring_epoch: RingEpoch(0),
            term: Term(0),
        });
        let has_mark = if self.mark.is_some() { HAS_MARK } else { 0 };
        let newest = self.slots.newest();
        write_words(
            records,
            [
                KIND_HEAD | has_mark,
                self.horizon_ms,
                self.progress.time.0,
                self.progress.place.0,
                mark.generation.0,
                mark.term.0,
                u64::from(mark.ring_epoch.0) | (u64::from(newest.0) << 32),
                0,
            ],
        );
        let (mut owned, mut gone) = (Vec::new(), Vec::new());
        for SlotRun { range, state } in self.slots.runs() {
            let range = u64::from(range.first.0) | (u64::from(range.last.0) << 16);
            match state {
                SlotState::Owned(epoch) => owned.push(range | (u64::from(epoch.0) << 32)),
                SlotState::Gone(number) => gone.extend([range, number.0]),
                SlotState::Never => {}
            }
        }
        write_runs(records, KIND_RUNS, &owned, 1);
        write_runs(records, KIND_GONE, &gone, 2);
    }
}

/// As many records as `words` need, with whole runs of `run_word_count` words each.
fn write_runs(records: &mut Vec<u8>, kind: u64, words: &[u64], run_word_count: usize) {
    let run_count_max = RUN_COUNT_MAX.div_euclid(run_word_count);
    for runs in words.chunks(run_count_max * run_word_count) {
        let mut words = [0; WORD_COUNT];
        let count = to_u64(runs.len().div_euclid(run_word_count));
        words[0] = kind | (count << COUNT_SHIFT);
        words[1..=runs.len()].copy_from_slice(runs);
        write_words(records, words);
    }
}

fn write_words(records: &mut Vec<u8>, words: [u64; WORD_COUNT]) {
    for word in words {
        records.extend_from_slice(&word.to_le_bytes());
    }
}

/// Reads the records of the section one by one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MetaReader {
    has_head: bool,
    next_slot: u32,
    /// The same for slots that are gone, once the first record of such was read.
    next_gone: Option<u32>,
}

impl MetaReader {
    pub(super) const fn has_head(&self) -> bool {
        self.has_head
    }

    /// Takes the next record into `meta`, which was new before the first. The error says what is
    /// wrong with it.
    pub(super) fn take(
        &mut self,
        meta: &mut Meta,
        record: &[u8; META_RECORD_SIZE],
    ) -> Result<(), &'static str> {
        let mut words = [0; WORD_COUNT];
        read_words(record, &mut words);
        match (words[0] & 0xff, self.has_head) {
            (KIND_HEAD, false) => self.take_head(meta, words),
            (KIND_RUNS, true) => self.take_runs(meta, words),
            (KIND_GONE, true) => self.take_gone(meta, words),
            (KIND_HEAD, true) => Err("a second head record"),
            (KIND_RUNS | KIND_GONE, false) => Err("no head record"),
            (_, true | false) => Err("unknown kind of record"),
        }
    }

    fn take_head(&mut self, meta: &mut Meta, words: [u64; WORD_COUNT]) -> Result<(), &'static str> {
        let [
            kind,
            horizon_ms,
            time,
            place,
            generation,
            term,
            epochs,
            zero,
        ] = words;
        if kind & !HAS_MARK != KIND_HEAD || zero != 0 {
            return Err("bytes that must be zero are not");
        }
        let has_mark = kind & HAS_MARK != 0;
        if !has_mark && (generation, term, low_half(epochs)) != (0, 0, 0) {
            return Err("an epoch mark that is not there");
        }
        self.has_head = true;
        meta.horizon_ms = horizon_ms;
        meta.progress = Progress {
            place: Place(place),
            time: LogTime(time),
        };
        meta.mark = has_mark.then_some(EpochMark {
            generation: Generation(generation),
            ring_epoch: RingEpoch(low_half(epochs)),
            term: Term(term),
        });
        let newest = Activation::new(RingEpoch(high_half(epochs)), &[]);
        if newest.ring_epoch == RingEpoch(0) {
            Ok(())
        } else {
            meta.slots.activate(&newest)
        }
    }

    fn take_runs(&mut self, meta: &mut Meta, words: [u64; WORD_COUNT]) -> Result<(), &'static str> {
        if self.next_gone.is_some() {
            return Err("runs of activated slots behind those of slots that are gone");
        }
        for word in runs_of(&words, RUN_COUNT_MAX, 1)? {
            let range = range_of(*word)?;
            let epoch = RingEpoch(high_half(*word));
            if u32::from(range.first.0) < self.next_slot {
                return Err("runs of slots out of order");
            }
            if epoch == RingEpoch(0) || meta.slots.newest() < epoch {
                return Err("epoch of an activation out of range");
            }
            self.next_slot = u32::from(range.last.0) + 1;
            meta.slots.set(SlotRun {
                range,
                state: SlotState::Owned(epoch),
            });
        }
        Ok(())
    }

    fn take_gone(&mut self, meta: &mut Meta, words: [u64; WORD_COUNT]) -> Result<(), &'static str> {
        let (runs, _) = runs_of(&words, GONE_COUNT_MAX, 2)?.as_chunks();
        for [range, number] in runs {
            let next = self.next_gone.unwrap_or(0);
            if high_half(*range) != 0 || *number == 0 {
                return Err("a run of slots that are gone, without a move");
            }
            let range = range_of(*range)?;
            let known = |state| state != SlotState::Never;
            if u32::from(range.first.0) < next || meta.slots.in_range(range).any(known) {
                return Err("runs of slots out of order");
            }
            self.next_gone = Some(u32::from(range.last.0) + 1);
            meta.slots.set(SlotRun {
                range,
                state: SlotState::Gone(MoveNumber(*number)),
            });
        }
        Ok(())
    }
}

/// The words of the runs in a record, of `run_word_count` words each.
fn runs_of(
    words: &[u64; WORD_COUNT],
    run_count_max: usize,
    run_word_count: usize,
) -> Result<&[u64], &'static str> {
    let count = words[0] >> COUNT_SHIFT;
    if count == 0 || to_u64(run_count_max) < count {
        return Err("count of runs out of range");
    }
    let (runs, rest) = words[1..].split_at(to_usize(count) * run_word_count);
    if rest.iter().any(|word| *word != 0) {
        return Err("bytes that must be zero are not");
    }
    Ok(runs)
}

/// First and last slot in the low 32 bits.
fn range_of(word: u64) -> Result<SlotRange, &'static str> {
    let [first, last] = [word & 0xffff, (word >> 16) & 0xffff]
        .map(|slot| Slot(u16::try_from(slot).expect("16 bits are left")));
    if last < first {
        return Err("runs of slots out of order");
    }
    Ok(SlotRange { first, last })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LogNumber;

    fn meta() -> Meta {
        let mut meta = Meta::new();
        meta.progress.place = Place::new(LogNumber::new(3).unwrap(), 4_096);
        meta.progress.time = LogTime(77);
        let mark = EpochMark {
            generation: Generation(1),
            ring_epoch: RingEpoch(2),
            term: Term(3),
        };
        meta.take(&Entry::Epoch(mark)).unwrap();
        meta.take(&Entry::Horizon { ms: 5 }).unwrap();
        let ranges: Vec<SlotRange> = (0..20)
            .map(|index| SlotRange {
                first: Slot(index * 100),
                last: Slot(index * 100 + index),
            })
            .collect();
        meta.take(&Entry::Activation(Activation::new(RingEpoch(2), &ranges)))
            .unwrap();
        meta.take(&Entry::Activation(Activation::new(RingEpoch(9), &[])))
            .unwrap();
        meta
    }

    fn read(records: &[u8]) -> Result<Meta, &'static str> {
        let mut meta = Meta::new();
        let mut reader = MetaReader::default();
        for record in records.chunks_exact(META_RECORD_SIZE) {
            reader.take(&mut meta, record.try_into().unwrap())?;
        }
        Ok(meta)
    }

    #[test]
    fn reads_back() {
        let mut records = Vec::new();
        meta().write(&mut records);
        assert_eq!(records.len(), 4 * META_RECORD_SIZE);
        let mut again = Vec::new();
        let meta = read(&records).unwrap();
        meta.write(&mut again);
        assert_eq!(records, again);
        assert_eq!(meta.slots.newest(), RingEpoch(9));
        assert_eq!(meta.slots.epoch(Slot(1_919)), Some(RingEpoch(2)));
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let mut records = Vec::new();
        meta().write(&mut records);
        assert!(read(&records[META_RECORD_SIZE..]).is_err(), "no head");
        assert!(
            read(&[&records[..64], &records[..64]].concat()).is_err(),
            "two heads"
        );
        assert!(
            read(&[&records[..128], &records[64..128]].concat()).is_err(),
            "runs twice"
        );
        for (at, value) in [(0, 3), (2, 1), (63, 1), (65, 8), (65, 0), (64 + 12, 10)] {
            let mut broken = records.clone();
            broken[at] = value;
            assert!(read(&broken).is_err(), "byte {at}");
        }
    }

    #[test]
    fn nothing_falls() {
        let mut meta = meta();
        let mark = meta.mark.unwrap();
        assert!(meta.take(&Entry::Horizon { ms: 4 }).is_err());
        let lower = EpochMark {
            term: Term(2),
            ..mark
        };
        assert!(meta.take(&Entry::Epoch(lower)).is_err());
        let newer = EpochMark {
            generation: Generation(2),
            ..lower
        };
        assert!(meta.take(&Entry::Epoch(newer)).is_ok());
        assert!(meta.take(&Entry::Epoch(mark)).is_err());
    }
}
