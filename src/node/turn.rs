//! One turn: all requests that came, one block, one answer frame for each request frame.
//!
//! Operations are taken in the order of their coming. The block goes to the disk and to the backup
//! side by side; the answers are encoded at once and wait for their commit.

use std::collections::VecDeque;

use bytes::BytesMut;

use crate::canary::{self, Bug};
use crate::clock::{Now, Tick};
use crate::ledger::{Account, Ahead, Seen, TOUCH_COUNT};
use crate::limits;
use crate::log::BlockSpec;
use crate::model::{
    CodeClass, Entry, Flags, LogTime, Map, OPERATION_SIZE, Operation, Place, Receipt, ResultCode,
    RingEpoch, Row, UserId, new_map, to_u64,
};
use crate::protocol::{Operations, ReceiptsWriter};
use crate::role::{Level, Outbox, PeerId};

use super::commit::{Pending, Wait};
use super::parked::{Held, Proof};
use super::prove::{Gap, Proved, Replay, receipt_of};
use super::running::{Running, Stage};
use super::shared::{Halt, Shared, say};

/// A request frame that waits for its turn.
#[derive(Clone, Copy, Debug)]
struct Queued {
    peer: PeerId,
    request: u64,
    count: u32,
}

/// Requests that wait for their turn.
#[derive(Debug, Default)]
pub(super) struct Queue {
    frames: VecDeque<Queued>,
    /// The operations of all frames, one behind the other.
    operations: VecDeque<[u8; OPERATION_SIZE]>,
    /// How many of the first ones the ledger has read ahead for.
    touched: usize,
}

impl Queue {
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.operations.len()).expect("bounded by the limit of queued operations")
    }

    /// Do only changes wait?
    fn is_all_changes(&self) -> bool {
        let is_change = |bytes| Operation::read(bytes).is_ok_and(|operation| operation.is_change());
        self.operations.iter().all(is_change)
    }

    #[cfg(debug_assertions)]
    pub(super) fn check_invariants(&self) {
        // (7) The frames account for all operations.
        let sum: usize = self.frames.iter().map(|frame| frame.count as usize).sum();
        assert!(sum == self.operations.len());
    }
}

/// Buffers of a turn that keep their memory.
#[derive(Debug)]
pub(super) struct Scratch {
    receipts: Vec<Receipt>,
    /// Frames of rows of the frame at hand.
    pub(super) row_frames: BytesMut,
    pub(super) accounts: Vec<Account>,
    pub(super) rows: Vec<Row>,
    /// Users of the frame at hand with a not-now answer: later ones of theirs get the same.
    not_now: Map<UserId, ResultCode>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            receipts: Vec::new(),
            row_frames: BytesMut::new(),
            accounts: Vec::new(),
            rows: Vec::new(),
            not_now: new_map(),
        }
    }
}

/// What holds for all operations of one turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// Why no new change is taken, if none is.
    gate: Option<ResultCode>,
    /// The backup can be asked for a round trip.
    pub(super) is_linked: bool,
    /// Number of the next round trip.
    pub(super) next_round: u64,
    /// Log time of the next entry, while no block is open.
    time: LogTime,
    /// Entries that the block needs room for at most.
    entry_count_max: u32,
    /// Operations that may still be taken.
    operations_left: u32,
    /// Rows that may still be shown.
    pub(super) rows_left: u32,
    pub(super) epoch: RingEpoch,
}

/// Where an operation comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) peer: PeerId,
    pub(super) request: u64,
    pub(super) index: u16,
    /// What was found out about cold places; `None` = it comes straight from its frame.
    proofs: Option<&'a [(Place, Proof)]>,
}

impl Source<'_> {
    /// What was found out about a cold place.
    pub(super) fn proof(&self, place: Place) -> Option<Proof> {
        let known = self.proofs?.iter().find(|(at, _)| *at == place);
        known.map(|(_, proof)| *proof)
    }

    /// Everything that was found out, each with its place.
    pub(super) fn proofs(&self) -> &[(Place, Proof)] {
        self.proofs.unwrap_or_default()
    }
}

/// What became of an operation.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    /// Its answer, and when that may leave.
    Answer(Receipt, Wait),
    /// It waits for this entry.
    Cold(Place),
    /// It waits until the log was searched for its id.
    Search,
    /// It waits behind another one of its user.
    Held,
}

impl Outcome {
    /// An answer that depends on nothing.
    pub(super) fn bare(source: &Source<'_>, code: ResultCode) -> Self {
        Self::Answer(Receipt::bare(source.index, code), Wait::default())
    }
}

/// Answers a whole request with one code (malformed operations keep theirs).
pub(super) fn answer_all(
    peer: PeerId,
    request: u64,
    operations: &Operations<'_>,
    code: ResultCode,
    epoch: RingEpoch,
    out: &mut Outbox,
) {
    let buffer = out.buffer(peer);
    let mut writer = ReceiptsWriter::begin(buffer, request, epoch);
    for (index, bytes) in (0..).zip(operations.arrays()) {
        let code = Operation::read(bytes).err().unwrap_or(code);
        writer.push(buffer, &Receipt::bare(index, code));
    }
    writer.finish(buffer);
}

impl Running {
    /// Takes a request: into the queue, or answers it at once.
    pub(super) fn admit(
        &mut self,
        peer: PeerId,
        request: u64,
        operations: &Operations<'_>,
        shared: &Shared,
        out: &mut Outbox,
    ) {
        let code = match self.stage {
            Stage::AwaitingTable | Stage::Activating(_) => Some(ResultCode::NotReady),
            Stage::Stopping(_) => Some(ResultCode::Unavailable),
            Stage::Serving => self.budget(operations, shared),
        };
        if let Some(code) = code {
            answer_all(peer, request, operations, code, epoch_of(shared), out);
            return;
        }
        self.queue.operations.extend(operations.arrays());
        self.queue.frames.push_back(Queued {
            peer,
            request,
            count: u32::try_from(operations.len()).expect("bounded by the codec"),
        });
    }

    fn budget(&self, operations: &Operations<'_>, shared: &Shared) -> Option<ResultCode> {
        let limits = &shared.options.limits;
        let frames = to_u64(self.queue.frames.len());
        let waiting = to_u64(self.queue.operations.len() + operations.len());
        let is_over = u64::from(limits.queued_count_max) < waiting.max(frames + 1)
            || limits.answer_size_max < self.answers.size();
        is_over.then_some(ResultCode::Busy)
    }

    /// Why no new change may be taken now.
    fn gate(&mut self, shared: &Shared, now: Now, out: &mut Outbox) -> Option<ResultCode> {
        match self.stage {
            Stage::Serving => (),
            Stage::AwaitingTable | Stage::Activating(_) | Stage::Stopping(_) => {
                return Some(ResultCode::Unavailable);
            }
        }
        let skew = shared.clock.skew_ms(now);
        if skew.is_some() != self.skew_said {
            self.skew_said = skew.is_some();
            let (level, text) = match skew {
                Some(ms) => (
                    Level::Alarm,
                    format!("this clock and the backup's differ by {ms} ms: no changes are taken"),
                ),
                None => (
                    Level::Info,
                    "the clocks agree again: changes are taken".to_owned(),
                ),
            };
            say(out, level, text);
        }
        if skew.is_some() {
            return Some(ResultCode::Unavailable);
        }
        let own_reserve = shared.options.limits.disk_reserve_size;
        let is_short = |size: Option<u64>, reserve| size.is_some_and(|size| size < reserve);
        let is_full = self.upkeep.lacks_segment()
            || self.stall.is_some()
            || is_short(shared.free_size, own_reserve)
            || is_short(shared.backup_free_size, limits::DISK_RESERVE_SIZE);
        is_full.then_some(ResultCode::NoSpace)
    }

    fn turn(&mut self, shared: &Shared, now: Now, out: &mut Outbox) -> Turn {
        let is_linked = shared.link.up().is_some();
        let gate = if is_linked {
            self.gate(shared, now, out)
        } else {
            Some(ResultCode::Unavailable)
        };
        let waiting = self.queue.count().saturating_add(self.parked.count());
        Turn {
            gate,
            is_linked,
            next_round: shared.link.next_round(),
            time: shared.clock.next(self.applied.time, now),
            entry_count_max: limits::OWN_ENTRY_COUNT_MAX + waiting.min(limits::BATCH_COUNT_MAX),
            operations_left: limits::BATCH_COUNT_MAX,
            rows_left: limits::TURN_ROW_COUNT_MAX,
            epoch: epoch_of(shared),
        }
    }

    /// May a block be built now? While one is in flight, only one that is worth its own syncs and
    /// frames; while several are, only a full one: so blocks grow with the load. Who looks
    /// something up does not wait for that: few look-ups need a block.
    fn may_build(&self, shared: &Shared, now: Tick) -> bool {
        let in_flight = self.commit.in_flight_count();
        let waiting = self.queue.count();
        let is_due = if in_flight == 0 && self.gather.is_over(now) {
            true
        } else if in_flight < limits::BLOCKS_IN_FLIGHT_EAGER {
            limits::BLOCK_WORTH_COUNT <= waiting || !self.queue.is_all_changes()
        } else {
            limits::BATCH_COUNT_MAX <= waiting
        };
        is_due && in_flight < shared.options.limits.block_in_flight_count_max
    }

    /// Carries out what waits, builds the block and sends it.
    pub(super) fn run_turn(
        &mut self,
        shared: &mut Shared,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let mut turn = self.turn(shared, now, out);
        self.is_due = false;
        if turn.gate.is_none() && !self.may_build(shared, now.tick) {
            return Ok(());
        }
        if turn.is_linked && self.may_build(shared, now.tick) {
            self.table_changed(shared);
            if to_u64(self.own.len()) > u64::from(limits::OWN_ENTRY_COUNT_MAX - 1) {
                return self.log_own_alone(shared, now, out);
            }
            if let Some(ms) = self.ledger.horizon_due(turn.time) {
                self.own.push_back(Entry::Horizon { ms });
            }
            self.log_own(&turn)?;
        }
        self.take_waiting(&mut turn, shared, out);
        if self.builder.is_open() {
            self.gather.begun(now.tick);
        }
        self.finish_block(shared, out)?;
        let is_left = !self.queue.frames.is_empty();
        self.is_due = is_left && (turn.gate.is_some() || self.may_build(shared, now.tick));
        Ok(())
    }

    /// Takes what waits and no more than a block holds: first what was parked, then frames.
    fn take_waiting(&mut self, turn: &mut Turn, shared: &Shared, out: &mut Outbox) {
        while let Some(user) = self.parked.next_ready() {
            self.resume(user, turn, shared, out);
        }
        while let Some(frame) = self.queue.frames.front().copied() {
            if turn.operations_left < frame.count {
                break;
            }
            self.queue.frames.pop_front();
            turn.operations_left -= frame.count;
            self.run_frame(frame, turn, shared, out);
        }
    }

    fn run_frame(&mut self, frame: Queued, turn: &mut Turn, shared: &Shared, out: &mut Outbox) {
        self.scratch.receipts.clear();
        self.scratch.row_frames.clear();
        self.scratch.not_now.clear();
        let mut wait = Wait::default();
        for index in 0..frame.count {
            self.touch_ahead();
            let bytes = self.queue.operations.pop_front().expect("the frame's own");
            let source = Source {
                peer: frame.peer,
                request: frame.request,
                index: u16::try_from(index).expect("below BATCH_COUNT_MAX"),
                proofs: None,
            };
            match self.run_operation(&bytes, &source, turn, shared) {
                Outcome::Answer(receipt, needs) => {
                    wait = wait.and(needs);
                    self.scratch.receipts.push(receipt);
                }
                Outcome::Cold(place) => {
                    let waiting = held(&source, &bytes);
                    self.parked.park(user_of(&bytes), waiting, place, out);
                }
                Outcome::Search => {
                    self.parked
                        .park_search(user_of(&bytes), held(&source, &bytes));
                    self.search(&bytes, out);
                }
                Outcome::Held => {
                    self.parked.hold(user_of(&bytes), held(&source, &bytes));
                    let time = self.time(turn);
                    self.search_early(&bytes, time, out);
                    self.read_early(user_of(&bytes), time, out);
                }
            }
        }
        if frame.count == 0 || !self.scratch.receipts.is_empty() {
            self.answer(frame.peer, frame.request, wait, turn.epoch);
        }
    }

    /// Lets the ledger read ahead for the next operations, those of other frames too, once those
    /// that it read ahead for are done.
    fn touch_ahead(&mut self) {
        if self.queue.touched == 0 {
            let mut ahead = Ahead::default();
            for record in self.queue.operations.iter().take(TOUCH_COUNT) {
                ahead.push(record);
            }
            self.ledger.touch(&ahead);
            self.queue.touched = ahead.count();
        }
        // The caller takes the first one.
        self.queue.touched -= 1;
    }

    /// Goes on with a user's parked operation and with those that it held back.
    fn resume(&mut self, user: UserId, turn: &mut Turn, shared: &Shared, out: &mut Outbox) {
        let mut not_now: Option<(PeerId, u64, ResultCode)> = None;
        while let Some(waiting) = self.parked.take_first(user) {
            turn.operations_left = turn.operations_left.saturating_sub(1);
            self.scratch.receipts.clear();
            self.scratch.row_frames.clear();
            self.scratch.not_now.clear();
            if let Some((peer, request, code)) = not_now
                && (peer, request) == (waiting.peer, waiting.request)
            {
                self.scratch.not_now.insert(user, code);
            }
            let source = Source {
                peer: waiting.peer,
                request: waiting.request,
                index: waiting.index,
                proofs: Some(&waiting.proofs),
            };
            match self.run_operation(&waiting.bytes, &source, turn, shared) {
                Outcome::Answer(receipt, wait) => {
                    if receipt.code.class() == CodeClass::NotNow {
                        not_now = Some((waiting.peer, waiting.request, receipt.code));
                    }
                    self.scratch.receipts.push(receipt);
                    self.answer(waiting.peer, waiting.request, wait, turn.epoch);
                }
                Outcome::Cold(place) => {
                    self.parked.park(user, waiting, place, out);
                    let time = self.time(turn);
                    self.read_early(user, time, out);
                    return;
                }
                Outcome::Search => {
                    let bytes = waiting.bytes;
                    self.parked.park_search(user, waiting);
                    self.search(&bytes, out);
                    return;
                }
                Outcome::Held => unreachable!("what is resumed is not held back again"),
            }
        }
    }

    /// One operation. The order of the tests is that of protocol.md.
    fn run_operation(
        &mut self,
        bytes: &[u8; OPERATION_SIZE],
        source: &Source<'_>,
        turn: &mut Turn,
        shared: &Shared,
    ) -> Outcome {
        let operation = match Operation::read(bytes) {
            Ok(operation) => operation,
            Err(code) => return Outcome::bare(source, code),
        };
        if !operation.kind().is_served() || operation.flags().has(Flags::GROUP) {
            return Outcome::bare(source, ResultCode::Unsupported);
        }
        let user = operation.user();
        let outcome = self.run_checked(&operation, source, turn, shared);
        if let Outcome::Answer(receipt, _) = &outcome
            && receipt.code.class() == CodeClass::NotNow
        {
            self.scratch.not_now.insert(user, receipt.code);
        }
        outcome
    }

    fn run_checked(
        &mut self,
        operation: &Operation,
        source: &Source<'_>,
        turn: &mut Turn,
        shared: &Shared,
    ) -> Outcome {
        let user = operation.user();
        if !self.scratch.not_now.is_empty()
            && let Some(code) = self.scratch.not_now.get(&user)
        {
            return Outcome::bare(source, *code);
        }
        let Some(slots) = &shared.slots else {
            return Outcome::bare(source, ResultCode::NotOwner);
        };
        if !slots.serves(user) {
            return Outcome::bare(source, slots.refusal(user, &self.ledger));
        }
        if source.proofs.is_none() && self.parked.holds(user) {
            if self.parked.is_full() {
                return Outcome::bare(source, ResultCode::Busy);
            }
            return Outcome::Held;
        }
        if operation.is_change() {
            self.change(operation, source, turn)
        } else {
            self.look_up(operation, source, turn)
        }
    }

    /// A change, or a `find` that burns.
    fn change(&mut self, operation: &Operation, source: &Source<'_>, turn: &Turn) -> Outcome {
        let time = self.time(turn);
        let id = operation
            .id()
            .expect("a change has an id: checked when read");
        let user = operation.user();
        let seen = match self.ledger.seen(user, id, time) {
            Seen::Maybe(candidates) => match self.prove(&candidates, operation, source) {
                Proved::Known(place, change) => {
                    let receipt = receipt_of(source.index, operation, &change, place, Replay::Yes);
                    if canary::on(Bug::ReplayBeforeCommit) {
                        return Outcome::Answer(receipt, Wait::default());
                    }
                    return Outcome::Answer(receipt, self.wait());
                }
                Proved::Gap(Gap::Cold(place)) => return self.cold(place, source),
                Proved::Gap(Gap::Lost(code)) => return self.about_id(source, code),
                Proved::Unseen => self.ledger.seen_after_false_hits(id, time),
            },
            seen @ (Seen::New | Seen::TooOld | Seen::Future | Seen::Full) => seen,
        };
        match seen {
            Seen::New => self.apply(operation, source, turn),
            Seen::TooOld if operation.kind().is_change() => {
                self.about_id(source, ResultCode::IdTooOld)
            }
            Seen::TooOld => match self.find_old(operation, source) {
                Ok((receipt, _)) => Outcome::Answer(receipt, self.wait()),
                Err(outcome) => outcome,
            },
            Seen::Future => Outcome::bare(source, ResultCode::IdInFuture),
            Seen::Full => Outcome::bare(source, ResultCode::Busy),
            Seen::Maybe(_) => unreachable!("the false hits were excluded"),
        }
    }

    /// An answer about an id depends on state: it waits for what was applied before.
    pub(super) fn about_id(&self, source: &Source<'_>, code: ResultCode) -> Outcome {
        Outcome::Answer(Receipt::bare(source.index, code), self.wait())
    }

    /// Parks the operation, if there is room.
    pub(super) fn cold(&self, place: Place, source: &Source<'_>) -> Outcome {
        if self.parked.is_full() {
            Outcome::bare(source, ResultCode::Busy)
        } else {
            Outcome::Cold(place)
        }
    }

    fn apply(&mut self, operation: &Operation, source: &Source<'_>, turn: &Turn) -> Outcome {
        if let Some(code) = turn.gate {
            return Outcome::bare(source, code);
        }
        if !self.ledger.has_room(operation) {
            return Outcome::bare(source, ResultCode::NoSpace);
        }
        // From here on it is applied: the block is built, or the process ends.
        self.open_block(turn, turn.entry_count_max);
        let place = self.builder.next_place();
        let time = self.builder.next_time();
        let change = self.ledger.apply(operation, place, time);
        self.builder.push(&change.to_bytes());
        let receipt = receipt_of(source.index, operation, &change, place, Replay::No);
        Outcome::Answer(receipt, self.wait())
    }

    /// What an answer made now waits for: the last block applied, the open one included.
    pub(super) fn wait(&self) -> Wait {
        let seq = if self.builder.is_open() {
            self.builder.seq()
        } else {
            self.applied.seq
        };
        Wait { seq, round: 0 }
    }

    /// Log time of what is applied next.
    pub(super) fn time(&self, turn: &Turn) -> LogTime {
        if self.builder.is_open() {
            self.builder.next_time()
        } else {
            turn.time
        }
    }

    // ---- the block ----

    fn open_block(&mut self, turn: &Turn, entry_count_max: u32) {
        if self.builder.is_open() {
            return;
        }
        self.builder.begin(&BlockSpec {
            log: self.verify.log,
            cluster: self.verify.cluster,
            segment_size: self.verify.segment_size,
            after: &self.applied,
            term: self.term,
            time: turn.time,
            committed: self.commit.committed().seq,
            entry_count_max,
        });
    }

    /// Puts the node's own entries that wait into the block.
    fn log_own(&mut self, turn: &Turn) -> Result<(), Halt> {
        let own_count_max = u32::try_from(self.own.len()).expect("bounded by its builder");
        while let Some(entry) = self.own.pop_front() {
            self.open_block(turn, turn.entry_count_max.max(own_count_max));
            self.log_entry(&entry)?;
        }
        Ok(())
    }

    /// Puts an entry of the node's own into the open block.
    fn log_entry(&mut self, entry: &Entry) -> Result<(), Halt> {
        let (place, time) = (self.builder.next_place(), self.builder.next_time());
        self.ledger.absorb(entry, place, time).map_err(|error| {
            Halt::damage(format!(
                "the node's own entry {entry:?} does not fit: {error}"
            ))
        })?;
        self.builder.push(&entry.to_bytes());
        if matches!(entry, Entry::Activation(_) | Entry::Epoch(_)) {
            self.refresh_at = Some(self.builder.seq());
        }
        Ok(())
    }

    /// A block of these entries and nothing else, whose log time is above `time`.
    pub(super) fn log_alone(
        &mut self,
        entries: &[Entry],
        time: LogTime,
        shared: &mut Shared,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        assert!(!self.builder.is_open());
        let mut turn = self.turn(shared, now, out);
        turn.time = turn.time.max(LogTime(time.0 + 1));
        let count = u32::try_from(entries.len()).expect("bounded by the slots and currencies");
        self.open_block(&turn, count);
        for entry in entries {
            self.log_entry(entry)?;
        }
        self.finish_block(shared, out)
    }

    /// A block of nothing but the node's own entries.
    pub(super) fn log_own_alone(
        &mut self,
        shared: &mut Shared,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let turn = self.turn(shared, now, out);
        self.log_own(&turn)?;
        self.finish_block(shared, out)
    }

    /// Completes the block, if one was begun, and hands it to the disk and to the backup.
    fn finish_block(&mut self, shared: &mut Shared, out: &mut Outbox) -> Result<(), Halt> {
        if !self.builder.is_open() {
            return Ok(());
        }
        let time = self.builder.next_time();
        let count = self.builder.count();
        let (bytes, end) = self.builder.finish();
        self.ledger.check_supply().map_err(|broken| {
            Halt::damage(format!(
                "block {} of log {} is not written: {broken}",
                end.seq, self.verify.log
            ))
        })?;
        let offset = end.offset - to_u64(bytes.len());
        self.note_block(end);
        self.commit.push(Pending {
            offset,
            end,
            bytes: bytes.clone(),
            round: shared.link.begin_round(),
        });
        self.append(&bytes, end, out);
        self.upkeep
            .block_built(offset, LogTime(time.0 - u64::from(count)), out);
        self.send_new(shared, out);
        Ok(())
    }

    // ---- answers ----

    /// Writes one frame of receipts, with the rows before it, to leave when `wait` is met.
    fn answer(&mut self, peer: PeerId, request: u64, wait: Wait, epoch: RingEpoch) {
        let Scratch {
            receipts,
            row_frames,
            ..
        } = &self.scratch;
        let write = |buffer: &mut BytesMut| {
            buffer.extend_from_slice(row_frames);
            let mut writer = ReceiptsWriter::begin(buffer, request, epoch);
            for receipt in receipts {
                writer.push(buffer, receipt);
            }
            writer.finish(buffer);
        };
        // What the wait is for may be there already; then it leaves with this turn.
        self.answers.write(wait, peer, write);
    }

    /// Answers everything that waits for its turn: this node takes nothing any more.
    pub(super) fn refuse_waiting(
        &mut self,
        shared: &mut Shared,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let mut turn = self.turn(shared, now, out);
        turn.gate = Some(ResultCode::Unavailable);
        turn.is_linked = false;
        self.take_waiting(&mut turn, shared, out);
        self.is_due = !self.queue.frames.is_empty();
        self.finish_block(shared, out)
    }
}

fn epoch_of(shared: &Shared) -> RingEpoch {
    shared
        .slots
        .as_ref()
        .map_or(RingEpoch(0), |slots| slots.epoch)
}

fn held(source: &Source<'_>, bytes: &[u8; OPERATION_SIZE]) -> Held {
    Held::new(source.peer, source.request, source.index, *bytes)
}

fn user_of(bytes: &[u8; OPERATION_SIZE]) -> UserId {
    UserId::new(Operation::user_of(bytes)).expect("checked when read")
}
