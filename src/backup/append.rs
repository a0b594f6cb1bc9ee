//! Blocks in, acknowledgements out; signs of life and their confirmation.
//!
//! Both are answered on one connection only: the one whose registration has the log's present
//! term. An acknowledgement leaves after the disk's, never before.

use bytes::Bytes;

use super::Running;
use super::connections::Asker;
use super::register::Owner;
use super::serve::ReadFor;
use super::stream::{Stream, Verdict};
use super::upkeep::Spare;
use crate::canary::{self, Bug};
use crate::clock::{Now, Tick};
use crate::log::{Block, Verify};
use crate::model::{LogEnd, LogNumber, Seq, Term};
use crate::protocol::{Append, Appended, Beat, Confirmed, Message, RefusalCode};
use crate::role::{DiskRequest, Effect, ExitCode, Level, Outbox};

/// Why an append or a beat is not taken.
enum Denied {
    /// The connection ends with this.
    Refuse(RefusalCode, String),
    /// Too early, or the process is ending: as if it had not come.
    Ignore,
}

impl Running {
    pub(super) fn on_append(
        &mut self,
        now: Now,
        asker: Asker,
        append: &Append<'_>,
        out: &mut Outbox,
    ) {
        let (log, owner) = match self.owner_for(asker, append.term) {
            Ok(found) => found,
            Err(Denied::Ignore) => return,
            Err(Denied::Refuse(code, text)) => {
                self.refuse(asker, code, &text, out);
                return;
            }
        };
        if log != append.log {
            let text = format!("log {} is not granted to this connection", append.log);
            self.refuse(asker, RefusalCode::WrongLog, &text, out);
            return;
        }
        let stream = self.streams.get_mut(&log).expect("an owner has a stream");
        let verify = Verify {
            log,
            cluster: self.authority.record().cluster,
            segment_size: stream.segment_size,
        };
        let block = match Block::read(append.block, &verify) {
            Ok(Some(block)) if block_size(&block) == append.block.len() => block,
            Ok(_) => {
                let text = "an append carries one whole block and nothing else";
                self.refuse(asker, RefusalCode::Malformed, text, out);
                return;
            }
            Err(error) => {
                let text = format!("append behind block {}: {error}", stream.accepted.seq);
                self.refuse(asker, RefusalCode::Malformed, &text, out);
                return;
            }
        };
        match stream.judge(&block, owner.term) {
            Verdict::New { end } => self.accept(log, end, append.block, out),
            Verdict::Repeated => {
                stream.answer.appended = true;
                self.touch(log);
            }
            Verdict::Unproved => self.prove(log, &block, append.block, out),
            Verdict::Gap => {
                stream.demand(now.tick);
                self.touch(log);
            }
            // The owner is told where to go on once there is room.
            Verdict::NoRoom => (),
            Verdict::Differs(text) => self.diverge(log, &text, out),
            Verdict::Broken(text) => self.refuse(asker, RefusalCode::Malformed, &text, out),
        }
    }

    /// The log that this connection owns, if `term` is its present one.
    fn owner_for(&self, asker: Asker, term: Term) -> Result<(LogNumber, Owner), Denied> {
        if self.stage != super::Stage::Serving {
            return Err(Denied::Ignore);
        }
        let Some(log) = self.peers[&asker.peer].owns else {
            let text = "register first: this connection has no term".to_owned();
            return Err(Denied::Refuse(RefusalCode::Fenced, text));
        };
        let owner = self.streams[&log].owner;
        let owner = owner.expect("who is registered is the owner");
        assert!(owner.peer == asker.peer);
        if term < owner.term {
            let text = format!(
                "term {term} of log {log} is over, it has term {}",
                owner.term
            );
            return Err(Denied::Refuse(RefusalCode::Fenced, text));
        }
        if owner.term < term {
            let text = format!("term {term} of log {log} is not granted, {} is", owner.term);
            return Err(Denied::Refuse(RefusalCode::BackupOlder, text));
        }
        Ok((log, owner))
    }

    fn accept(&mut self, log: LogNumber, end: LogEnd, bytes: &[u8], out: &mut Outbox) {
        let size_max = self.options.limits.log_in_flight_size_max;
        let stream = self.streams.get_mut(&log).expect("an owner has a stream");
        let size = u64::try_from(bytes.len()).expect("frames are bounded");
        if stream.accept(end, size) {
            stream.spare = Spare::Due(Tick(0));
        }
        out.effect(Effect::Disk(DiskRequest::Append {
            log,
            block: Bytes::copy_from_slice(bytes),
            end,
        }));
        let node = stream.node;
        let full = size_max < stream.in_flight_size();
        let owner = stream.owner.expect("only an owner appends");
        let latest = self.authority.latest().members.get(&node);
        if latest.is_some_and(|member| member.copy_previous != 0) {
            // The node kept the identity that came with the term: the one before is void.
            self.authority
                .change_member(node, |member| member.copy_previous = 0);
        }
        let peer = self
            .peers
            .get_mut(&owner.peer)
            .expect("owners are connected");
        if full && !peer.paused {
            peer.paused = true;
            out.effect(Effect::Pause { peer: owner.peer });
        }
        if canary::on(Bug::AckAboveDurable)
            && let Some(stream) = self.streams.get_mut(&log)
        {
            stream.answer.appended = true;
        }
        self.touch(log);
    }

    /// A block that the backup made itself goes to the disk like any other.
    pub(super) fn accept_own(
        &mut self,
        log: LogNumber,
        end: LogEnd,
        block: Bytes,
        out: &mut Outbox,
    ) {
        let stream = self.streams.get_mut(&log).expect("the caller has looked");
        let size = u64::try_from(block.len()).expect("blocks are bounded");
        if stream.accept(end, size) {
            stream.spare = Spare::Due(Tick(0));
        }
        // The node may have told the digest of a block of its own in this one's place.
        stream.replica.forget_probe();
        out.effect(Effect::Disk(DiskRequest::Append { log, block, end }));
        self.touch(log);
    }

    /// A block that is too old for the books: what is here at its place is read.
    fn prove(&mut self, log: LogNumber, block: &Block<'_>, bytes: &[u8], out: &mut Outbox) {
        let stream = self.streams.get_mut(&log).expect("an owner has a stream");
        if block.first_offset() < stream.first_offset {
            // No longer kept here, so nobody can need it: go on from the end.
            stream.answer.resend = true;
            self.touch(log);
            return;
        }
        if stream.proving {
            // One at a time: this one will be sent again, or is proved by a later one.
            return;
        }
        stream.proving = true;
        let below = stream.durable.offset;
        let purpose = ReadFor::Proof {
            log,
            end: block.end(),
            block: Bytes::copy_from_slice(bytes),
        };
        let ticket = self.reads.begin(purpose);
        out.effect(Effect::Disk(DiskRequest::ReadBlocks {
            log,
            offset: block.first_offset(),
            below,
            size_max: block.size(),
            ticket,
        }));
    }

    /// What is here at the place of an old block was read.
    pub(super) fn on_proof(
        &mut self,
        log: LogNumber,
        end: &LogEnd,
        block: &[u8],
        here: &[u8],
        out: &mut Outbox,
    ) {
        let Some(stream) = self.streams.get_mut(&log) else {
            return;
        };
        stream.proving = false;
        if here.starts_with(block) {
            stream.answer.appended = true;
            self.touch(log);
            return;
        }
        let text = format!(
            "block {} of term {} at offset {} is not the one that is here",
            end.seq,
            end.term,
            end.offset
                .saturating_sub(u64::try_from(block.len()).unwrap_or(0))
        );
        self.diverge(log, &text, out);
    }

    /// Two histories of a log differ: it takes no more appends until an operator decides.
    fn diverge(&mut self, log: LogNumber, text: &str, out: &mut Outbox) {
        let Stream { node, owner, .. } = self.streams[&log];
        let alarm = format!(
            "log {log} of node {node} has two histories: {text}; it takes no more appends until \
             an operator decides"
        );
        self.say(Level::Alarm, alarm, out);
        self.authority
            .change_member(node, |member| member.diverged = true);
        if let Some(owner) = owner {
            let asker = Asker {
                peer: owner.peer,
                request: 0,
            };
            self.refuse(asker, RefusalCode::Diverged, text, out);
        }
    }

    pub(super) fn on_durable(&mut self, log: LogNumber, end: LogEnd, out: &mut Outbox) {
        let Some(stream) = self.streams.get_mut(&log) else {
            return;
        };
        if !stream.on_durable(end) {
            let text = format!(
                "the disk says that log {log} is durable up to block {}, which was not due",
                end.seq
            );
            self.alarm_and_exit(text, out);
            return;
        }
        stream.moved = self.turn;
        stream.retention.note_durable(end.seq);
        self.relieve(log, out);
        self.touch(log);
    }

    /// The disk had no room for a block. It was not acknowledged and is sent again.
    pub(super) fn on_append_no_room(
        &mut self,
        log: LogNumber,
        seq: Seq,
        text: &str,
        out: &mut Outbox,
    ) {
        let Some(stream) = self.streams.get_mut(&log) else {
            return;
        };
        let first = stream.full_from.is_none();
        stream.on_no_room(seq);
        if first {
            stream.spare = Spare::Due(Tick(0));
            let text = format!("no room for block {seq} of log {log}: {text}");
            self.say(Level::Alarm, text, out);
        }
        self.disk.exhausted = true;
        self.relieve(log, out);
        self.touch(log);
    }

    /// Reads from the owner again once enough has reached the disk.
    fn relieve(&mut self, log: LogNumber, out: &mut Outbox) {
        let now = self.turn;
        let stream = &self.streams[&log];
        let low = self.options.limits.log_in_flight_size_max / 2;
        if low < stream.in_flight_size() {
            return;
        }
        let Some(owner) = stream.owner else {
            return;
        };
        let peer = self
            .peers
            .get_mut(&owner.peer)
            .expect("owners are connected");
        if peer.paused {
            peer.paused = false;
            peer.heard = now;
            out.effect(Effect::Resume { peer: owner.peer });
        }
    }

    /// What the owner of a log is to hear of this turn, once.
    pub(super) fn answer_owner(&mut self, now: Now, log: LogNumber, out: &mut Outbox) {
        let free_size = self.free_size();
        let Some(stream) = self.streams.get_mut(&log) else {
            return;
        };
        let Some(owner) = stream.owner else {
            stream.begin_answers();
            return;
        };
        let answer = std::mem::take(&mut stream.answer);
        if answer.appended {
            let appended = Appended {
                log,
                term: owner.term,
                through: if canary::on(Bug::AckAboveDurable) {
                    stream.accepted.seq
                } else {
                    stream.durable.seq
                },
                clock_ms: now.wall_ms,
                free_size,
            };
            out.send(owner.peer, &Message::Appended(appended));
        }
        if answer.resend && stream.full_from.is_none() {
            let end = stream.accepted;
            out.send(owner.peer, &Message::Resend { log, end });
        }
    }

    pub(super) fn on_beat(&mut self, now: Now, asker: Asker, beat: &Beat, out: &mut Outbox) {
        let waits = |stream: &Stream| stream.fence.waits(asker.peer);
        let (log, owner) = match self.owner_for(asker, beat.term) {
            Ok(found) => found,
            Err(Denied::Refuse(code, text)) => {
                if !self.streams.values().any(waits) {
                    self.refuse(asker, code, &text, out);
                }
                return;
            }
            Err(Denied::Ignore) => return,
        };
        let confirmed = Confirmed {
            nonce: beat.nonce,
            term: owner.term,
            clock_ms: now.wall_ms,
            free_size: self.free_size(),
        };
        let buffer = out.buffer(asker.peer);
        Message::Confirmed(confirmed).write_for(buffer, asker.request);
        let stream = self.streams.get_mut(&log).expect("an owner has a stream");
        let was_up = stream.beat.is_some_and(|(beat, _)| beat.phase == 1);
        self.moves.due |= !was_up && beat.phase == 1;
        stream.beat = Some((*beat, now.tick));
        stream.retention.note_beat(beat, stream.durable.seq);
        stream.replica.note_beat(beat);
        self.compare_digests(log, out);
        self.touch(log);
    }

    /// A failed write or sync: the process ends at once.
    pub(super) fn poisoned(&mut self, text: &str, out: &mut Outbox) {
        let text = format!("the disk failed, nothing more is acknowledged: {text}");
        self.say(Level::Alarm, text.clone(), out);
        self.exit(ExitCode::Damage, text, out);
    }
}

fn block_size(block: &Block<'_>) -> usize {
    crate::model::to_usize(u64::from(block.size()))
}
