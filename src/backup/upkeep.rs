//! What goes on beside the appends: spare segments, the running replica, checkpoints, what may
//! go, free space, and who fell silent.
//!
//! One request of each kind per log at a time. What fails for lack of room is tried again; what
//! fails otherwise is told to the operator and tried again after a while. Nothing here stops an
//! acknowledgement.

use super::authority::MoveState;
use super::connections::Asker;
use super::serve::ReadFor;
use super::stream::Stream;
use super::{Running, Stage};
use crate::clock::{Now, Tick};
use crate::limits;
use crate::log::{Block, SEGMENT_HEADER_SIZE, Verify};
use crate::model::{LogEnd, LogNumber, Seq};
use crate::protocol::{Beat, Fetch, MemberState};
use crate::role::{CheckpointInfo, DiskFault, DiskRequest, Effect, FileName, Level, Outbox};

/// Segments of log at least between two checkpoints: less would write the state too often.
const CHECKPOINT_SEGMENT_COUNT_MIN: u64 = 2;

/// The spare segment of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spare {
    /// There is no log yet.
    Unneeded,
    /// One is to be prepared, not before this moment.
    Due(Tick),
    /// One is being prepared.
    Asked,
    /// One is ready.
    Ready,
}

/// The running replica of a log, kept by the disk's side.
#[derive(Debug, Default)]
pub(super) struct Replica {
    /// The end of the log that it stands for.
    pub(super) end: LogEnd,
    /// Sum of the digests of its slots.
    pub(super) digest: u128,
    /// Bytes of memory.
    pub(super) memory_size: u64,
    /// The newest block at which its digest was equal to the node's.
    pub(super) proved: Seq,
    /// It could not go on, in words.
    pub(super) fault: Option<String>,
    /// When it is tried again; `None`: not before a restart.
    again: Option<Tick>,
    asked: bool,
    probe: Option<(Seq, u128)>,
    /// For little it does not go on before this.
    rests_until: Tick,
    /// It does not go on before this: others are waited for.
    held_until: Tick,
}

/// Checkpoints of a log, and what may go.
#[derive(Debug, Default)]
pub(super) struct Retention {
    /// A checkpoint is being made.
    pub(super) making: bool,
    /// Who waits for it to be done.
    pub(super) held: Vec<(Asker, Fetch)>,
    /// Unix milliseconds before which the node has forgotten ids, durably.
    pub(super) horizon_ms: u64,
    horizon_claimed: Option<(Seq, u64)>,
    make_due: Tick,
    /// Since when one is due that waits.
    make_since: Option<Tick>,
    retiring: bool,
    retire_due: Tick,
    asking_age: bool,
    /// A segment, and the first log time behind it in Unix milliseconds.
    age: Option<(u64, u64)>,
}

impl Replica {
    /// Does it stand for exactly this end of the log?
    pub(super) fn stands_at(&self, end: &LogEnd) -> bool {
        self.end == *end && !self.asked && self.fault.is_none()
    }

    /// Has it wait until then, or no longer.
    pub(super) const fn hold(&mut self, until: Tick) {
        self.held_until = until;
    }

    /// The digest of what was said of another life of the node proves nothing.
    pub(super) const fn forget_probe(&mut self) {
        self.probe = None;
    }

    /// A node told the digest of a state that the replica has not passed yet: to be compared.
    pub(super) fn note_beat(&mut self, beat: &Beat) {
        let stale = self.probe.is_none_or(|(seq, _)| seq < self.end.seq);
        if beat.phase != 0 && stale && self.end.seq <= beat.applied && beat.applied != Seq(0) {
            self.probe = Some((beat.applied, beat.digest));
        }
    }
}

impl Retention {
    /// The node's horizon counts from the moment on when the block that raised it is durable.
    pub(super) fn note_beat(&mut self, beat: &Beat, durable: Seq) {
        if self.horizon_claimed.is_none() && self.horizon_ms < beat.horizon_ms {
            self.horizon_claimed = Some((beat.applied, beat.horizon_ms));
        }
        self.note_durable(durable);
    }

    pub(super) fn note_durable(&mut self, durable: Seq) {
        if let Some((applied, horizon_ms)) = self.horizon_claimed
            && applied <= durable
        {
            self.horizon_ms = self.horizon_ms.max(horizon_ms);
            self.horizon_claimed = None;
        }
    }

    /// What a life of the node that is over has claimed never became durable, perhaps.
    pub(super) const fn forget_claim(&mut self) {
        self.horizon_claimed = None;
    }

    pub(super) const fn age_failed(&mut self, again: Tick) {
        self.asking_age = false;
        self.retire_due = again;
    }
}

impl Stream {
    /// Bytes of log that a restart would have to read behind the checkpoint.
    /// Only what the replica has passed counts: a checkpoint may not go beyond it.
    fn tail_size(&self) -> u64 {
        let from = self
            .checkpoint
            .map_or(self.first_offset, |checkpoint| checkpoint.end.offset);
        self.replica.end.offset.saturating_sub(from)
    }

    /// Is the node up? While it starts it may be copying the checkpoint and what lies behind.
    fn node_is_up(&self) -> bool {
        self.retired || self.beat.is_some_and(|(beat, _)| beat.phase != 0)
    }

    fn checkpoint_is_due(&self, now: Tick) -> bool {
        let size = self.checkpoint.map_or(0, |checkpoint| checkpoint.size);
        let least = (CHECKPOINT_SEGMENT_COUNT_MIN * self.segment_size).max(size);
        !self.retention.making
            && self.retention.make_due <= now
            && self.node_is_up()
            && least <= self.tail_size()
    }

    /// Is a checkpoint due, and for so long?
    fn may_make_checkpoint(&mut self, now: Tick, wait_ms: u64) -> bool {
        if !self.checkpoint_is_due(now) {
            self.retention.make_since = None;
            return false;
        }
        let since = *self.retention.make_since.get_or_insert(now);
        since.plus_ms(wait_ms) <= now
    }

    /// The oldest segment, if nothing but the age of its ids may keep it.
    fn segment_to_retire(&self, now: Tick) -> Option<u64> {
        let retention = &self.retention;
        if retention.retiring || now < retention.retire_due || !self.node_is_up() {
            return None;
        }
        let segment = self.segment_of(self.first_offset);
        let end = (segment + 1) * self.segment_size;
        let checkpoint = self.checkpoint?;
        (end <= checkpoint.end.offset && retention.horizon_ms != 0).then_some(segment)
    }

    /// When the replica is to go on at the latest, if there is something for it.
    pub(super) fn replica_due(&self) -> Option<Tick> {
        let replica = &self.replica;
        let is_behind = self.exists() && replica.end.seq < self.durable.seq;
        let may_go = is_behind && !replica.asked && replica.fault.is_none();
        may_go.then_some(replica.rests_until.max(replica.held_until))
    }

    /// How far the replica is to go now: to where digests can be compared, else to the end.
    fn replica_target(&self, now: Tick) -> Option<LogEnd> {
        let replica = &self.replica;
        let faulty = replica.fault.is_some() && replica.again.is_none_or(|again| now < again);
        let waits = replica.asked || faulty || now < replica.held_until;
        if waits || self.durable.seq <= replica.end.seq {
            return None;
        }
        let size = self.durable.offset.saturating_sub(replica.end.offset);
        if now < replica.rests_until && size < limits::REPLICA_WORTH_SIZE {
            return None;
        }
        let probe = replica
            .probe
            .filter(|(seq, _)| replica.end.seq < *seq && *seq <= self.durable.seq);
        let at_probe = probe.and_then(|(seq, _)| self.recent_end(seq));
        Some(at_probe.copied().unwrap_or(self.durable))
    }
}

impl Running {
    /// What is due from time to time, for everybody.
    pub(super) fn look_after_all(&mut self, now: Now, out: &mut Outbox) {
        self.moves.due = true;
        let silence_ms_max = self.options.limits.silence_ms_max;
        let mut fell_silent = Vec::new();
        for stream in self.streams.values() {
            let state = self.state_of(stream);
            if state != stream.state {
                self.table_changed = true;
                if state == MemberState::Away && stream.owner.is_some() {
                    fell_silent.push(stream.node);
                }
            }
            self.touched.insert(stream.log);
        }
        for node in fell_silent {
            let text = format!("node {node} is silent for more than {silence_ms_max} ms");
            self.say(Level::Warn, text, out);
        }
        let lacking = |stream: &Stream| stream.full_from.is_some() || stream.spare_failed;
        self.disk.exhausted = self.disk.save_failed || self.streams.values().any(lacking);
        if self.disk.measure_due <= now.tick {
            self.measure(now, out);
        }
    }

    /// Asks how much room there is, unless that was asked already.
    pub(super) fn measure(&mut self, now: Now, out: &mut Outbox) {
        self.disk.measure_due = now.tick.plus_ms(self.options.limits.free_space_ms);
        if !self.disk.measuring {
            self.disk.measuring = true;
            out.effect(Effect::Disk(DiskRequest::MeasureFreeSpace));
        }
    }

    /// Begins to save the authority's file if it changed.
    pub(super) fn save_authority(&mut self, now: Now, out: &mut Outbox) {
        if now.tick < self.disk.save_due {
            return;
        }
        if let Some(bytes) = self.authority.begin_save() {
            let name = FileName::Authority;
            out.effect(Effect::Disk(DiskRequest::SaveFile { name, bytes }));
        }
    }

    /// Begins whatever is due for one log.
    pub(super) fn look_after(&mut self, now: Now, log: LogNumber, out: &mut Outbox) {
        let ring_key = self.authority.record().ring_key;
        let may_fold = !self.leaves_ordered(log);
        let stream = self.streams.get(&log);
        let is_due = stream.is_some_and(|stream| stream.checkpoint_is_due(now.tick));
        let wait_ms = if is_due && self.is_taking_over() {
            limits::MOVE_CALM_MS_MAX
        } else {
            0
        };
        let Some(stream) = self.streams.get_mut(&log) else {
            return;
        };
        if self.stage != Stage::Serving || !stream.exists() {
            return;
        }
        if stream.spare == Spare::Ready {
            // Also when the spare was ready before the disk had answered for every block.
            stream.on_room();
            if stream.answer.resend {
                self.touched.insert(log);
            }
        }
        if matches!(stream.spare, Spare::Due(at) if at <= now.tick) {
            stream.spare = Spare::Asked;
            let offset = stream.accepted.offset.saturating_sub(1);
            out.effect(Effect::Disk(DiskRequest::PrepareSegment { log, offset }));
        }
        if stream.retired {
            // Nobody remembers ids for it any more.
            let forgotten_ms = now.wall_ms.saturating_sub(limits::ID_WINDOW_MS);
            stream.retention.horizon_ms = stream.retention.horizon_ms.max(forgotten_ms);
        }
        if let Some(through) = stream.replica_target(now.tick) {
            stream.replica.asked = true;
            stream.replica.rests_until = now.tick.plus_ms(limits::REPLICA_REST_MS);
            out.effect(Effect::Disk(DiskRequest::AdvanceReplica {
                log,
                through,
                ring_key,
            }));
        }
        if may_fold && stream.may_make_checkpoint(now.tick, wait_ms) {
            stream.retention.making = true;
            let through = stream.replica.end;
            out.effect(Effect::Disk(DiskRequest::MakeCheckpoint {
                log,
                through,
                ring_key,
            }));
        }
        if let Some(segment) = stream.segment_to_retire(now.tick) {
            self.retire(log, segment, out);
        }
        self.scrub(now, log, out);
    }

    /// Verifies the next piece of a log's sealed segments.
    fn scrub(&mut self, now: Now, log: LogNumber, out: &mut Outbox) {
        let Some(stream) = self.streams.get_mut(&log) else {
            return;
        };
        let (first, end) = (stream.first_offset, stream.durable.offset);
        if let Some(piece) = stream.scrub.next_piece(now.tick, first, end) {
            let offset = piece.offset;
            let ticket = self.reads.begin(ReadFor::Scrub { log, offset });
            out.effect(Effect::Disk(DiskRequest::Scrub {
                log,
                offset,
                below: piece.below,
                ticket,
            }));
        }
    }

    /// A piece of a log's sealed segments does not verify.
    pub(super) fn on_scrub_failed(
        &mut self,
        log: LogNumber,
        offset: u64,
        fault: &DiskFault,
        text: &str,
        out: &mut Outbox,
    ) {
        let Some(stream) = self.streams.get_mut(&log) else {
            return;
        };
        if offset < stream.first_offset {
            // Retired meanwhile.
            stream.scrub.verified(offset, 0);
        } else if *fault == DiskFault::NoSpace {
            stream.scrub.put_off();
        } else if stream.scrub.failed(offset, text) {
            self.counters.damaged_reads += u64::from(*fault == DiskFault::Damage);
            let text = format!("an old segment of log {log} does not verify: {text}");
            self.say(Level::Alarm, text, out);
        }
    }

    /// Is a hand-over of this log ordered and not recorded as done? A checkpoint beyond it would
    /// hide from a restarted backup what the image holds.
    fn leaves_ordered(&self, log: LogNumber) -> bool {
        let mut moves = self.authority.record().moves.out_of_log(log);
        moves.any(|(_, moving)| moving.state == MoveState::Ordered)
    }

    /// Retires the oldest segment once the node has forgotten every id in it.
    fn retire(&mut self, log: LogNumber, segment: u64, out: &mut Outbox) {
        let stream = self.streams.get_mut(&log).expect("it was just looked at");
        let below = (segment + 1) * stream.segment_size;
        let retention = &mut stream.retention;
        match retention.age {
            Some((known, time_ms)) if known == segment => {
                if time_ms + limits::ID_AHEAD_MS_MAX < retention.horizon_ms {
                    retention.retiring = true;
                    out.effect(Effect::Disk(DiskRequest::RetireSegments { log, below }));
                }
            }
            _ if retention.asking_age => (),
            _ => {
                retention.asking_age = true;
                let ticket = self.reads.begin(ReadFor::Age { log, segment });
                out.effect(Effect::Disk(DiskRequest::ReadBlocks {
                    log,
                    offset: below + SEGMENT_HEADER_SIZE,
                    below: stream.durable.offset,
                    size_max: 1,
                    ticket,
                }));
            }
        }
    }

    /// The first block behind a segment was read: nothing in the segment is younger.
    pub(super) fn on_age(&mut self, log: LogNumber, segment: u64, blocks: &[u8]) {
        let cluster = self.authority.record().cluster;
        let again = self.turn.plus_ms(limits::BACKUP_RETRY_MS);
        let Some(stream) = self.streams.get_mut(&log) else {
            return;
        };
        let verify = Verify {
            log,
            cluster,
            segment_size: stream.segment_size,
        };
        match Block::read(blocks, &verify) {
            Ok(Some(block)) => {
                stream.retention.asking_age = false;
                stream.retention.age = Some((segment, block.head().time.ms()));
                self.touch(log);
            }
            Ok(None) | Err(_) => stream.retention.age_failed(again),
        }
    }

    pub(super) fn on_retired(&mut self, log: LogNumber, first_offset: u64) {
        if let Some(stream) = self.streams.get_mut(&log) {
            stream.retention.retiring = false;
            if first_offset <= stream.first_offset {
                // Held by a reader: later.
                let again = self.turn.plus_ms(limits::BACKUP_RETRY_MS);
                stream.retention.retire_due = again;
            }
            stream.first_offset = stream.first_offset.max(first_offset);
            self.touch(log);
        }
    }

    pub(super) fn on_retire_failed(&mut self, log: LogNumber) {
        let again = self.turn.plus_ms(limits::BACKUP_RETRY_MS);
        if let Some(stream) = self.streams.get_mut(&log) {
            stream.retention.retiring = false;
            stream.retention.retire_due = again;
        }
    }

    pub(super) fn on_segment_ready(&mut self, log: LogNumber) {
        if let Some(stream) = self.streams.get_mut(&log) {
            if stream.spare == Spare::Asked {
                stream.spare = Spare::Ready;
            }
            stream.spare_failed = false;
            stream.on_room();
            self.touch(log);
        }
    }

    pub(super) fn on_segment_failed(&mut self, log: LogNumber, fault: &DiskFault) {
        let again = self.turn.plus_ms(self.options.limits.free_space_ms);
        if let Some(stream) = self.streams.get_mut(&log) {
            stream.spare = Spare::Due(again);
            stream.spare_failed = true;
            self.disk.exhausted |= *fault == DiskFault::NoSpace;
        }
    }

    /// A checkpoint was made (`Some`), or could not be.
    pub(super) fn on_checkpoint(
        &mut self,
        log: LogNumber,
        info: Option<CheckpointInfo>,
        out: &mut Outbox,
    ) {
        let again = self.turn.plus_ms(limits::BACKUP_RETRY_MS);
        let mut made = None;
        let Some(stream) = self.streams.get_mut(&log) else {
            return;
        };
        stream.retention.making = false;
        match info {
            Some(info) => {
                if stream.checkpoint == Some(info) {
                    // It ends below an adoption that is not settled yet.
                    stream.retention.make_due = again;
                }
                stream.checkpoint = Some(info);
                made = Some(info.end.seq);
            }
            None => stream.retention.make_due = again,
        }
        for (asker, ask) in std::mem::take(&mut stream.retention.held) {
            self.read_checkpoint(asker, ask, out);
        }
        if let Some(seq) = made {
            self.note_checkpoint(log, seq);
        }
        self.touch(log);
    }

    pub(super) fn on_replica_at(
        &mut self,
        log: LogNumber,
        end: LogEnd,
        digest: u128,
        memory_size: u64,
        out: &mut Outbox,
    ) {
        if let Some(stream) = self.streams.get_mut(&log) {
            let replica = &mut stream.replica;
            replica.asked = false;
            replica.fault = None;
            replica.again = None;
            replica.end = end;
            replica.digest = digest;
            replica.memory_size = memory_size;
            self.compare_digests(log, out);
            self.touch(log);
        }
    }

    /// The replica could not go on: what it holds of this log proves nothing any more. It is tried
    /// again after a while, since moves wait for it; damage stays what it is.
    pub(super) fn on_replica_failed(
        &mut self,
        log: LogNumber,
        fault: &DiskFault,
        text: &str,
        out: &mut Outbox,
    ) {
        let again = self.turn.plus_ms(self.options.limits.free_space_ms);
        if let Some(stream) = self.streams.get_mut(&log) {
            let known = stream.replica.fault.as_deref() == Some(text);
            stream.replica.asked = false;
            stream.replica.fault = Some(text.to_owned());
            let may_pass = matches!(fault, DiskFault::NoSpace | DiskFault::Other);
            stream.replica.again = may_pass.then_some(again);
            if known {
                return;
            }
            let text = format!("the replica of log {log} cannot go on: {text}");
            self.say(Level::Alarm, text, out);
        }
    }

    /// Compares the replica with what the node said of the same block.
    pub(super) fn compare_digests(&mut self, log: LogNumber, out: &mut Outbox) {
        let Some(stream) = self.streams.get_mut(&log) else {
            return;
        };
        let replica = &mut stream.replica;
        let Some((seq, digest)) = replica.probe else {
            return;
        };
        if seq != replica.end.seq || replica.asked {
            return;
        }
        replica.probe = None;
        if digest == replica.digest {
            replica.proved = seq;
            self.counters.digest_matches += 1;
            return;
        }
        self.counters.digest_mismatches += 1;
        let text = format!(
            "log {log} of node {} at block {seq}: the node's state has digest {digest:032x}, the \
             replica's has {:032x}",
            stream.node, replica.digest
        );
        self.say(Level::Alarm, text, out);
    }
}
