//! The entries of moves on their way into a replayed ledger: images are cut at a hand-over before
//! the ledger passes it, and read at an adoption.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::checkpoints::Loading;
use super::fold::{damage, start};
use super::images::{self, Cut, Draft};
use super::replica::load;
use super::shared::Shared;
use crate::ledger::{Ahead, Ledger, LedgerOptions, TOUCH_COUNT};
use crate::log::{Block, Checkpoint, Log, LogError, Medium, blocks};
use crate::model::{
    Adopt, Adoption, Entry, HandedSum, LogEnd, LogTime, MoveNumber, Place, SlotRange,
};
use crate::role::{ImageInfo, MoveEvent};

/// Bytes of the log read at a time.
const READ_SIZE: u32 = 1 << 20;

/// Which images are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cuts {
    All,
    Only(MoveNumber),
    None,
}

/// How entries of moves are taken in.
#[derive(Debug)]
pub(super) struct Steps<'a> {
    pub(super) medium: &'a dyn Medium,
    /// The logs beside which the images lie, where a lost one can be cut again. `None`: nothing
    /// may be written.
    pub(super) shared: Option<&'a Shared>,
    pub(super) cuts: Cuts,
    pub(super) ring_key: u128,
    /// The image that was looked for in vain.
    pub(super) missing: Cell<Option<MoveNumber>>,
    /// Images that were begun before they were ordered, at the end where the ledger stands.
    pub(super) drafts: RefCell<Vec<Draft>>,
}

/// A ledger that remembers ids, since images need them; it answers nobody.
pub(super) fn replica_ledger(ring_key: u128) -> Ledger {
    Ledger::new(LedgerOptions {
        ring_key,
        id_count_max: u64::MAX,
        keep_ids: true,
    })
}

type Line = (Entry, Place, LogTime);

/// One move out of the log.
struct Leaving {
    number: MoveNumber,
    place: Place,
    ranges: Vec<SlotRange>,
}

impl<'a> Steps<'a> {
    pub(super) fn new(shared: &'a Shared, cuts: Cuts, ring_key: u128) -> Self {
        Self {
            medium: &*shared.medium,
            shared: Some(shared),
            cuts,
            ring_key,
            missing: Cell::new(None),
            drafts: RefCell::new(Vec::new()),
        }
    }

    /// Takes the next block of a log into a ledger that stands at `end`. After an error the ledger
    /// is of no use.
    pub(super) fn take(
        &self,
        log: &Log,
        ledger: &mut Ledger,
        end: &mut LogEnd,
        block: &Block<'_>,
        events: &mut Vec<MoveEvent>,
    ) -> Result<(), LogError> {
        block
            .follows(end, log.verify().segment_size)
            .map_err(|error| damage(log, end, &error.to_string()))?;
        let wrong = |what: &str| damage(log, end, what);
        match lines_of_moves(log, end, block)? {
            None => {
                let mut entries = block.entries();
                for records in block.records().chunks(TOUCH_COUNT) {
                    ledger.touch(&Ahead::of_entries(records));
                    for (place, time, bytes) in entries.by_ref().take(records.len()) {
                        let entry = Entry::read(bytes)
                            .map_err(|error| wrong(&format!("{error} at {place}")))?;
                        ledger
                            .absorb(&entry, place, time)
                            .map_err(|error| wrong(&error.to_string()))?;
                    }
                }
            }
            Some(lines) => {
                let adoption = Adoption::gather(lines.iter().map(|(entry, ..)| entry));
                if let Some(adoption) = adoption.map_err(wrong)? {
                    self.stage(log, ledger, end, &adoption)?;
                }
                self.take_lines(log, ledger, (end, &block.end()), &lines, events)?;
            }
        }
        *end = block.end();
        Ok(())
    }

    fn take_lines(
        &self,
        log: &Log,
        ledger: &mut Ledger,
        (end, end_new): (&LogEnd, &LogEnd),
        lines: &[Line],
        events: &mut Vec<MoveEvent>,
    ) -> Result<(), LogError> {
        let mut leaving = leaving(lines);
        let mut adopt = None;
        // A draft knows nothing of what the block does before the slots leave.
        let before = lines.iter().map(|(entry, ..)| entry);
        let mut before = before.take_while(|entry| !matches!(entry, Entry::HandOver(_)));
        let may_use_drafts = before.all(|entry| matches!(entry, Entry::Epoch(_)));
        for (entry, place, time) in lines {
            if matches!(entry, Entry::HandOver(_)) && !leaving.is_empty() {
                let leaving = std::mem::take(&mut leaving);
                check_sums(log, ledger, end, &leaving, lines)?;
                if !may_use_drafts {
                    self.forget_drafts();
                }
                for part in leaving {
                    if let Some(image) = self.cut(log, ledger, end, &part)? {
                        events.push(MoveEvent::HandedOver {
                            number: part.number,
                            place: part.place,
                            end: *end_new,
                            image,
                            slot_count: slot_count(&part.ranges),
                        });
                    }
                }
            }
            ledger
                .absorb(entry, *place, *time)
                .map_err(|error| damage(log, end, &error.to_string()))?;
            if let Entry::Adopt(begun) = entry {
                adopt = Some(*begun);
            }
            let event = event_of(entry, adopt.as_ref(), end_new);
            if event.is_some() && events.last().copied() != event {
                events.extend(event);
            }
        }
        Ok(())
    }

    fn cut(
        &self,
        log: &Log,
        ledger: &Ledger,
        end: &LogEnd,
        part: &Leaving,
    ) -> Result<Option<ImageInfo>, LogError> {
        let wanted = match self.cuts {
            Cuts::All => true,
            Cuts::Only(number) => number == part.number,
            Cuts::None => false,
        };
        if !wanted {
            return Ok(None);
        }
        let cut = Cut {
            number: part.number,
            ranges: &part.ranges,
            log,
            end: *end,
            ring_key: self.ring_key,
        };
        let mut drafts = self.drafts.borrow_mut();
        let known = drafts.iter().position(|draft| draft.is_of(&cut));
        let draft = known.map(|index| drafts.swap_remove(index));
        images::cut(self.medium, ledger, &cut, draft).map(Some)
    }

    fn forget_drafts(&self) {
        for draft in self.drafts.take() {
            draft.remove(self.medium);
        }
    }

    /// Loads the image of an adoption beside the ledger's own state.
    fn stage(
        &self,
        log: &Log,
        ledger: &mut Ledger,
        end: &LogEnd,
        adoption: &Adoption,
    ) -> Result<(), LogError> {
        let number = adoption.file.image;
        let Some(found) = self.find(adoption)? else {
            self.missing.set(Some(number));
            let what = format!("the image of move {number}, which it adopts, is not here");
            return Err(damage(log, end, &what));
        };
        let wrong = |what: String| damage(log, end, &format!("image of move {number}: {what}"));
        while !ledger.sweep_step(u32::MAX) {}
        ledger
            .stage_begin(adoption.adopt.number, &adoption.ranges)
            .map_err(|error| wrong(error.to_string()))?;
        let loading = Loading::new(Arc::new(found));
        let mut cursor = 0;
        while let Some((records, next)) = loading.next(cursor)? {
            ledger
                .stage_load(records.section, &records.records)
                .map_err(|error| wrong(error.to_string()))?;
            cursor = next;
        }
        let ended = ledger
            .stage_end()
            .map_err(|error| wrong(error.to_string()))?;
        assert!(ended.number == adoption.adopt.number);
        Ok(())
    }

    /// The image that an adoption refers to. One that is lost or damaged is cut again, if the log
    /// that it is of lies here and its checkpoint below the hand-over. `None`: it is not here.
    pub(super) fn find(&self, adoption: &Adoption) -> Result<Option<Checkpoint>, LogError> {
        let number = adoption.file.image;
        let (found, is_broken) = match images::open_whole(self.medium, number) {
            Ok(found) => (found.filter(|found| images::is_of(found, adoption)), false),
            Err(LogError::Damage(_)) => (None, true),
            Err(error) => return Err(error),
        };
        let Some(shared) = self.shared.filter(|_| found.is_none()) else {
            return Ok(found);
        };
        if is_broken {
            images::put_image_aside(self.medium, number)?;
        }
        self.cut_again(shared, adoption)
    }

    fn cut_again(
        &self,
        shared: &Shared,
        adoption: &Adoption,
    ) -> Result<Option<Checkpoint>, LogError> {
        let slot = shared.slot(adoption.adopt.source_log);
        let Some(log) = slot.log() else {
            return Ok(None);
        };
        let newest = slot.newest();
        let below = |end: &LogEnd| end.offset <= adoption.file.offset;
        let Ok(mut end) = start(&log, newest.as_ref()) else {
            return Ok(None);
        };
        if !below(&end) {
            return Ok(None);
        }
        let mut ledger = replica_ledger(self.ring_key);
        if let Some(newest) = newest {
            load(&mut ledger, &Loading::new(newest.checkpoint))?;
        }
        let number = adoption.file.image;
        let steps = Self {
            cuts: Cuts::Only(number),
            missing: Cell::new(None),
            drafts: RefCell::new(Vec::new()),
            ..*self
        };
        let through = log.end();
        let mut events = Vec::new();
        while below(&end) && end.seq < through.seq {
            let (_, bytes) = log.read_blocks(end.offset, through.offset, READ_SIZE)?;
            for block in blocks(&bytes, *log.verify()) {
                let block = block.map_err(|error| damage(&log, &end, &error.to_string()))?;
                if below(&end) {
                    let taken = steps.take(&log, &mut ledger, &mut end, &block, &mut events);
                    if steps.missing.get().is_some() {
                        // Another image, which the way there leads over, is not here either.
                        return Ok(None);
                    }
                    taken?;
                }
            }
        }
        let found = images::open_whole(self.medium, number)?;
        Ok(found.filter(|found| images::is_of(found, adoption)))
    }
}

/// The entries of a block, if there is one of a move among them.
pub(super) fn lines_of_moves(
    log: &Log,
    end: &LogEnd,
    block: &Block<'_>,
) -> Result<Option<Vec<Line>>, LogError> {
    if !block
        .entries()
        .any(|(_, _, bytes)| Entry::is_of_move(bytes))
    {
        return Ok(None);
    }
    let read = |(place, time, bytes)| {
        let entry: Entry =
            Entry::read(bytes).map_err(|error| damage(log, end, &format!("{error} at {place}")))?;
        Ok((entry, place, time))
    };
    block
        .entries()
        .map(read)
        .collect::<Result<_, _>>()
        .map(Some)
}

fn slot_count(ranges: &[SlotRange]) -> u32 {
    let count = |range: &SlotRange| u32::from(range.last.0) - u32::from(range.first.0) + 1;
    ranges.iter().map(count).sum()
}

/// The moves by which slots leave in these entries.
fn leaving(lines: &[Line]) -> Vec<Leaving> {
    let mut all: Vec<Leaving> = Vec::new();
    for (entry, place, _) in lines {
        let Entry::HandOver(hand_over) = entry else {
            continue;
        };
        let ranges = hand_over.slots.as_slice();
        match all.last_mut() {
            Some(last) if last.number == hand_over.number => last.ranges.extend_from_slice(ranges),
            Some(_) | None => all.push(Leaving {
                number: hand_over.number,
                place: *place,
                ranges: ranges.to_vec(),
            }),
        }
    }
    all
}

/// Compares what a hand-over says that leaves with what the accounts hold.
fn check_sums(
    log: &Log,
    ledger: &Ledger,
    end: &LogEnd,
    leaving: &[Leaving],
    lines: &[Line],
) -> Result<(), LogError> {
    let mut ranges: Vec<SlotRange> = leaving
        .iter()
        .flat_map(|part| part.ranges.clone())
        .collect();
    ranges.sort_unstable_by_key(|range| range.first);
    let said: Vec<HandedSum> = lines
        .iter()
        .filter_map(|(entry, ..)| match entry {
            Entry::HandedSums(sums) => Some(sums.sums()),
            Entry::Change(_)
            | Entry::Horizon { .. }
            | Entry::Epoch(_)
            | Entry::Activation(_)
            | Entry::HandOver(_)
            | Entry::Adopt(_)
            | Entry::AdoptedFile(_)
            | Entry::AdoptedSlots(_)
            | Entry::Drop { .. } => None,
        })
        .flatten()
        .copied()
        .collect();
    if ledger.sums_of(&ranges) == said {
        Ok(())
    } else {
        let what = "what is handed over is not what the accounts hold";
        Err(damage(log, end, what))
    }
}

fn event_of(entry: &Entry, adopt: Option<&Adopt>, end: &LogEnd) -> Option<MoveEvent> {
    let end = *end;
    match entry {
        Entry::AdoptedFile(file) => adopt.map(|adopt| MoveEvent::Adopted {
            number: adopt.number,
            end,
            image: file.image,
            place: adopt.hand_over,
            info: ImageInfo {
                size: file.size,
                digest: file.digest,
                offset: file.offset,
                slot_digest: adopt.digest,
                account_count: file.account_count,
                horizon_ms: adopt.horizon_ms,
                time: adopt.time,
            },
        }),
        Entry::Activation(activation) if activation.number.0 != 0 => Some(MoveEvent::Activated {
            number: activation.number,
            end,
        }),
        Entry::Drop { number } => Some(MoveEvent::Dropped {
            number: *number,
            end,
        }),
        Entry::Change(_)
        | Entry::Horizon { .. }
        | Entry::Epoch(_)
        | Entry::Activation(_)
        | Entry::HandOver(_)
        | Entry::HandedSums(_)
        | Entry::Adopt(_)
        | Entry::AdoptedSlots(_) => None,
    }
}
