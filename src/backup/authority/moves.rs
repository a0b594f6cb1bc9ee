//! Moves of slots as the authority records them, and what each step of one changes in the record.
//!
//! Pure book-keeping: when a step may be taken is decided in `backup::moves`. What is recorded
//! only goes forward: ordered, handed over, flipped, and then off the list. An image stays wanted
//! as long as a log may have to be replayed from before the block that took it in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Record;
use crate::limits::SLOT_COUNT;
use crate::model::{
    LogNumber, MoveNumber, NodeId, Place, RingEpoch, Seq, Slot, SlotRange, to_usize,
};
use crate::ring::SlotTable;
use crate::role::ImageInfo;

/// Why slots move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cause {
    /// The rule gives them to another node. The source is told to hand them over.
    Planned = 0,
    /// The source is gone: the backup hands them over in its place.
    TakeOver = 1,
}

/// What is known of a move from its hand-over on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handed {
    /// The first hand-over entry.
    pub(crate) place: Place,
    /// The image.
    pub(crate) image: ImageInfo,
}

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MoveState {
    /// The source is to hand over.
    Ordered,
    /// The source's log has the hand-over; the target is to adopt.
    Handed(Handed),
    /// The slots are the target's; it is to activate them.
    Flipped(Handed, RingEpoch),
}

impl MoveState {
    /// Its name in texts.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Ordered => "ordered",
            Self::Handed(_) => "handed",
            Self::Flipped(..) => "flipped",
        }
    }
}

/// One move under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MoveRecord {
    /// The move whose image is used: another one's if this goes on with what that one began.
    pub(crate) image: MoveNumber,
    /// Whose slots they were.
    pub(crate) source: NodeId,
    /// Its log.
    pub(crate) source_log: LogNumber,
    /// Whose they are to be.
    pub(crate) target: NodeId,
    /// Its log.
    pub(crate) target_log: LogNumber,
    /// Why they move.
    pub(crate) cause: Cause,
    /// When it was ordered, Unix milliseconds.
    pub(crate) since_ms: u64,
    /// The slots, rising. Not empty.
    pub(crate) ranges: Arc<[SlotRange]>,
    /// How far it is.
    pub(crate) state: MoveState,
}

impl MoveRecord {
    /// How many slots move.
    pub(crate) fn slot_count(&self) -> u32 {
        slot_count(&self.ranges)
    }

    /// The hand-over, from there on.
    pub(crate) const fn handed(&self) -> Option<Handed> {
        match self.state {
            MoveState::Ordered => None,
            MoveState::Handed(handed) | MoveState::Flipped(handed, _) => Some(handed),
        }
    }
}

/// How many slots there are in these ranges.
pub(crate) fn slot_count(ranges: &[SlotRange]) -> u32 {
    let count = |range: &SlotRange| u32::from(range.last.0) - u32::from(range.first.0) + 1;
    ranges.iter().map(count).sum()
}

/// A log that took in an image under a move that is off the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The move.
    pub(crate) number: MoveNumber,
    /// The image.
    pub(crate) image: MoveNumber,
    /// The log.
    pub(crate) log: LogNumber,
    /// The block that activated or dropped what was taken in. `None`: the log may still have it
    /// staged, and its node is to drop it.
    pub(crate) gone: Option<Seq>,
}

/// What a new move is made of.
#[derive(Clone, Debug)]
pub(crate) struct NewMove {
    /// From where.
    pub(crate) source: NodeId,
    /// Whither.
    pub(crate) target: NodeId,
    /// Why.
    pub(crate) cause: Cause,
    /// The slots, rising. Not empty.
    pub(crate) ranges: Vec<SlotRange>,
}

/// All that is recorded of moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MoveBook {
    /// The number that the next move gets; one above all that were ever given.
    pub(crate) next: MoveNumber,
    /// No planned move begins.
    pub(crate) paused: bool,
    /// Moves under way.
    pub(crate) active: BTreeMap<MoveNumber, MoveRecord>,
    /// Logs that a replay would want images of older moves for.
    pub(crate) ended: Vec<Ended>,
}

impl Default for MoveBook {
    fn default() -> Self {
        Self {
            next: MoveNumber(1),
            paused: false,
            active: BTreeMap::new(),
            ended: Vec::new(),
        }
    }
}

impl MoveBook {
    /// The images that somebody may still want.
    pub(crate) fn images(&self) -> BTreeSet<MoveNumber> {
        let active = self.active.values().map(|moving| moving.image);
        active
            .chain(self.ended.iter().map(|ended| ended.image))
            .collect()
    }

    /// Moves out of a log.
    pub(crate) fn out_of_log(
        &self,
        log: LogNumber,
    ) -> impl Iterator<Item = (MoveNumber, &MoveRecord)> {
        let active = self.active.iter();
        active
            .filter(move |(_, moving)| moving.source_log == log)
            .map(|(number, moving)| (*number, moving))
    }

    /// Moves into a log.
    pub(crate) fn towards_log(
        &self,
        log: LogNumber,
    ) -> impl Iterator<Item = (MoveNumber, &MoveRecord)> {
        let active = self.active.iter();
        active
            .filter(move |(_, moving)| moving.target_log == log)
            .map(|(number, moving)| (*number, moving))
    }
}

impl Record {
    /// Orders a move.
    pub(crate) fn order_move(&mut self, new: NewMove, since_ms: u64) -> MoveNumber {
        assert!(!new.ranges.is_empty());
        assert!(new.source != new.target);
        for slot in new.ranges.iter().copied().flat_map(slots_of) {
            assert!(self.table.owner(slot) == Some(new.source));
        }
        let number = self.take_number();
        let moving = MoveRecord {
            image: number,
            source: new.source,
            source_log: self.members[&new.source].log,
            target: new.target,
            target_log: self.members[&new.target].log,
            cause: new.cause,
            since_ms,
            ranges: new.ranges.into(),
            state: MoveState::Ordered,
        };
        self.moves.active.insert(number, moving);
        number
    }

    fn take_number(&mut self) -> MoveNumber {
        let number = self.moves.next;
        self.moves.next = number.next();
        number
    }

    fn moving(&mut self, number: MoveNumber) -> &mut MoveRecord {
        let moving = self.moves.active.get_mut(&number);
        moving.expect("it was just looked at")
    }

    /// The source's log has the hand-over, and the image is durable.
    pub(crate) fn hand_move(&mut self, number: MoveNumber, handed: Handed) {
        let moving = self.moving(number);
        assert!(moving.state == MoveState::Ordered);
        moving.state = MoveState::Handed(handed);
    }

    /// The target's log has adopted: from here on the slots are the target's.
    pub(crate) fn flip_move(&mut self, number: MoveNumber) {
        let epoch = self.table.epoch().next();
        let moving = self.moving(number);
        let MoveState::Handed(handed) = moving.state else {
            unreachable!("only what was handed over is flipped");
        };
        moving.state = MoveState::Flipped(handed, epoch);
        let (source, target) = (moving.source, moving.target);
        let ranges = Arc::clone(&moving.ranges);
        let mut table = SlotTable::clone(&self.table).with_epoch(epoch);
        for slot in ranges.iter().copied().flat_map(slots_of) {
            assert!(table.owner(slot) == Some(source));
            table.set(slot, target);
        }
        self.table = Arc::new(table);
    }

    /// The target's log has the activation, in block `seq`.
    pub(crate) fn finish_move(&mut self, number: MoveNumber, seq: Seq) {
        let moving = self.moving(number);
        assert!(matches!(moving.state, MoveState::Flipped(..)));
        let ended = Ended {
            number,
            image: moving.image,
            log: moving.target_log,
            gone: Some(seq),
        };
        self.moves.active.remove(&number);
        self.moves.ended.push(ended);
    }

    /// What was handed over goes on to another node, under a new number. What the first target
    /// staged of it is to be dropped.
    pub(crate) fn redirect_move(&mut self, number: MoveNumber, target: NodeId) -> MoveNumber {
        let target_log = self.members[&target].log;
        let next = self.take_number();
        let before = self.moves.active.remove(&number);
        let before = before.expect("it was just looked at");
        assert!(matches!(before.state, MoveState::Handed(_)));
        assert!(before.target != target);
        self.moves.ended.push(Ended {
            number,
            image: before.image,
            log: before.target_log,
            gone: None,
        });
        let moving = MoveRecord {
            target,
            target_log,
            ..before
        };
        self.moves.active.insert(next, moving);
        next
    }

    /// A move that was only ordered is taken back. Nobody may have been told of it.
    pub(crate) fn cancel_move(&mut self, number: MoveNumber) {
        let cancelled = self.moves.active.remove(&number);
        assert!(cancelled.is_some_and(|moving| moving.state == MoveState::Ordered));
    }

    /// What a log had staged under a move that is off the list is gone since block `seq`.
    /// Tells whether that was news.
    pub(crate) fn note_gone(&mut self, number: MoveNumber, log: LogNumber, seq: Seq) -> bool {
        let mut found = false;
        for ended in &mut self.moves.ended {
            if ended.number == number && ended.log == log && ended.gone.is_none() {
                ended.gone = Some(seq);
                found = true;
            }
        }
        found
    }

    /// A checkpoint of a log stands for everything up to block `seq`: its images up to there are
    /// wanted no more.
    pub(crate) fn forget_ended(&mut self, log: LogNumber, seq: Seq) {
        let wanted = |ended: &Ended| ended.log != log || ended.gone.is_none_or(|gone| seq < gone);
        self.moves.ended.retain(wanted);
    }
}

/// Any slots of the ring.
#[derive(Clone, Debug)]
pub(crate) struct SlotSet(Vec<bool>);

impl SlotSet {
    /// All slots of these ranges.
    pub(crate) fn of<'a>(ranges: impl IntoIterator<Item = &'a SlotRange>) -> Self {
        let mut set = Self(vec![false; to_usize(u64::from(SLOT_COUNT))]);
        for range in ranges {
            set.0[range.first.index()..=range.last.index()].fill(true);
        }
        set
    }

    /// Is this slot among them?
    pub(crate) fn contains(&self, slot: Slot) -> bool {
        self.0[slot.index()]
    }

    /// Adds a slot. Tells whether it is new.
    pub(crate) fn insert(&mut self, slot: Slot) -> bool {
        !std::mem::replace(&mut self.0[slot.index()], true)
    }
}

/// Each slot of a range.
pub(crate) fn slots_of(range: SlotRange) -> impl Iterator<Item = Slot> + use<> {
    (range.first.0..=range.last.0).map(Slot)
}

/// Gathers slots that come in rising order into ranges.
pub(crate) fn ranges_of(slots: impl IntoIterator<Item = Slot>) -> Vec<SlotRange> {
    let mut ranges: Vec<SlotRange> = Vec::new();
    for slot in slots {
        match ranges.last_mut() {
            Some(last) if last.last.0.checked_add(1) == Some(slot.0) => last.last = slot,
            Some(_) | None => ranges.push(SlotRange {
                first: slot,
                last: slot,
            }),
        }
    }
    ranges
}
