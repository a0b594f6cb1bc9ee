//! What is read for others: blocks, checkpoints, entries, and the slot table they follow.
//!
//! Everything is bounded by what is durable: what nobody was promised is never shown. Reads are
//! done by the reader thread; how many each peer may have under way is limited.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Running;
use super::connections::Asker;
use crate::limits;
use crate::model::{ENTRY_SIZE, LogEnd, LogNumber, MoveNumber, Place, to_u64};
use crate::protocol::{
    CheckpointPart, EntryRead, Fetch, Fetched, MemberState, Members, Message, RefusalCode,
    SlotRuns, Table,
};
use crate::role::{DiskFault, DiskRequest, Effect, Level, Outbox};

/// What a read is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReadFor {
    /// A peer wants blocks.
    Blocks { asker: Asker, log: LogNumber },
    /// A peer wants a piece of a checkpoint.
    Checkpoint { asker: Asker, log: LogNumber },
    /// A peer wants an entry.
    Entry { asker: Asker, place: Place },
    /// A peer wants a piece of an image.
    MoveFile { asker: Asker, image: MoveNumber },
    /// Is a block that was sent again equal to the one here?
    Proof {
        log: LogNumber,
        end: LogEnd,
        block: Bytes,
    },
    /// How old is a segment? Told by the first block behind it.
    Age { log: LogNumber, segment: u64 },
    /// Does a piece of the sealed segments verify?
    Scrub { log: LogNumber, offset: u64 },
}

/// Reads that are under way, by ticket.
#[derive(Debug, Default)]
pub(super) struct Reads {
    last_ticket: u64,
    open: BTreeMap<u64, ReadFor>,
}

impl Reads {
    /// Notes a read; its ticket comes back with the reply.
    pub(super) fn begin(&mut self, purpose: ReadFor) -> u64 {
        self.last_ticket += 1;
        self.open.insert(self.last_ticket, purpose);
        self.last_ticket
    }

    /// What the read with this ticket was for.
    pub(super) fn end(&mut self, ticket: u64) -> Option<ReadFor> {
        self.open.remove(&ticket)
    }

    /// Reads under way for a peer.
    #[cfg(debug_assertions)]
    pub(super) fn count_of(&self, peer: crate::role::PeerId) -> usize {
        let askers = self.open.values().filter_map(ReadFor::asker);
        askers.filter(|asker| asker.peer == peer).count()
    }
}

#[cfg(debug_assertions)]
impl ReadFor {
    const fn asker(&self) -> Option<Asker> {
        match self {
            Self::Blocks { asker, .. }
            | Self::Checkpoint { asker, .. }
            | Self::Entry { asker, .. }
            | Self::MoveFile { asker, .. } => Some(*asker),
            Self::Proof { .. } | Self::Age { .. } | Self::Scrub { .. } => None,
        }
    }
}

impl Running {
    pub(super) fn on_fetch(&mut self, asker: Asker, fetch: &Fetch, out: &mut Outbox) {
        let log = fetch.log;
        let Some(stream) = self.streams.get(&log).filter(|stream| stream.exists()) else {
            self.refuse(asker, RefusalCode::WrongLog, "no such log is here", out);
            return;
        };
        let offset = fetch.offset;
        if stream.segment_of(offset) < stream.segment_of(stream.first_offset) {
            let text = format!(
                "log {log} is kept from offset {} on only: take its checkpoint first",
                stream.first_offset
            );
            self.refuse(asker, RefusalCode::NotReady, &text, out);
            return;
        }
        let below = stream.durable.offset;
        if below <= offset {
            let nothing = Fetched {
                log,
                offset,
                blocks: &[],
            };
            Message::Fetched(nothing).write_for(out.buffer(asker.peer), asker.request);
            return;
        }
        let Some(ticket) = self.begin_read(asker, ReadFor::Blocks { asker, log }, out) else {
            return;
        };
        out.effect(Effect::Disk(DiskRequest::ReadBlocks {
            log,
            offset,
            below,
            size_max: fetch.size_max.clamp(1, limits::FETCH_SIZE_MAX),
            ticket,
        }));
    }

    pub(super) fn on_checkpoint_ask(&mut self, asker: Asker, ask: Fetch, out: &mut Outbox) {
        let log = ask.log;
        let Some(stream) = self.streams.get_mut(&log).filter(|stream| stream.exists()) else {
            self.refuse(asker, RefusalCode::WrongLog, "no such log is here", out);
            return;
        };
        if stream.retention.making {
            // The file is about to be replaced: pieces of two of them fit nobody.
            if stream.retention.held.len() < limits::BACKUP_HELD_COUNT_MAX {
                stream.retention.held.push((asker, ask));
            } else {
                let text = "the checkpoint is being made anew";
                self.refuse(asker, RefusalCode::NotReady, text, out);
            }
            return;
        }
        self.read_checkpoint(asker, ask, out);
    }

    /// Asks the disk for a piece of a checkpoint.
    pub(super) fn read_checkpoint(&mut self, asker: Asker, ask: Fetch, out: &mut Outbox) {
        let log = ask.log;
        let purpose = ReadFor::Checkpoint { asker, log };
        let Some(ticket) = self.begin_read(asker, purpose, out) else {
            return;
        };
        out.effect(Effect::Disk(DiskRequest::ReadCheckpoint {
            log,
            offset: ask.offset,
            size_max: ask.size_max.clamp(1, limits::FETCH_SIZE_MAX),
            ticket,
        }));
    }

    pub(super) fn on_entry_ask(&mut self, asker: Asker, place: Place, out: &mut Outbox) {
        let kept = place
            .log()
            .and_then(|log| self.streams.get(&log))
            .is_some_and(|stream| stream.exists() && place.offset() < stream.durable.offset);
        if !kept {
            let nothing = EntryRead { place, entry: None };
            Message::EntryRead(nothing).write_for(out.buffer(asker.peer), asker.request);
            return;
        }
        if let Some(ticket) = self.begin_read(asker, ReadFor::Entry { asker, place }, out) {
            out.effect(Effect::Disk(DiskRequest::ReadEntry { place, ticket }));
        }
    }

    /// Counts a read for its peer; `None`: that peer asks for too much, and is told so.
    pub(super) fn begin_read(
        &mut self,
        asker: Asker,
        purpose: ReadFor,
        out: &mut Outbox,
    ) -> Option<u64> {
        let max = self.options.limits.peer_read_count_max;
        let peer = self.peers.get_mut(&asker.peer)?;
        if !peer.is_established() {
            return None;
        }
        if max <= peer.read_count || limits::BACKUP_READ_COUNT_MAX <= self.reads.open.len() {
            let text = format!("more than {max} reads at a time, or too many of all peers");
            self.refuse(asker, RefusalCode::TooManyFrames, &text, out);
            return None;
        }
        peer.read_count += 1;
        Some(self.reads.begin(purpose))
    }

    /// The peer that a read was for, if it is still there to be answered.
    pub(super) fn end_read(&mut self, asker: Asker) -> bool {
        let Some(peer) = self.peers.get_mut(&asker.peer) else {
            return false;
        };
        peer.read_count -= 1;
        peer.is_established()
    }

    pub(super) fn on_blocks_read(
        &mut self,
        ticket: u64,
        offset: u64,
        blocks: &Bytes,
        out: &mut Outbox,
    ) {
        match self.reads.end(ticket) {
            Some(ReadFor::Blocks { asker, log }) if self.end_read(asker) => {
                let fetched = Fetched {
                    log,
                    offset,
                    blocks,
                };
                Message::Fetched(fetched).write_for(out.buffer(asker.peer), asker.request);
            }
            Some(ReadFor::Proof { log, end, block }) => {
                self.on_proof(log, &end, &block, blocks, out);
            }
            Some(ReadFor::Age { log, segment }) => self.on_age(log, segment, blocks),
            Some(ReadFor::Scrub { log, .. }) => {
                if let Some(stream) = self.streams.get_mut(&log) {
                    stream.scrub.verified(offset, to_u64(blocks.len()));
                }
            }
            Some(
                ReadFor::Blocks { .. }
                | ReadFor::Checkpoint { .. }
                | ReadFor::Entry { .. }
                | ReadFor::MoveFile { .. },
            )
            | None => (),
        }
    }

    pub(super) fn on_checkpoint_read(
        &mut self,
        ticket: u64,
        size: u64,
        offset: u64,
        bytes: &Bytes,
        out: &mut Outbox,
    ) {
        let Some(ReadFor::Checkpoint { asker, log }) = self.reads.end(ticket) else {
            return;
        };
        if self.end_read(asker) {
            let part = CheckpointPart {
                log,
                size,
                offset,
                bytes,
            };
            Message::CheckpointPart(part).write_for(out.buffer(asker.peer), asker.request);
        }
    }

    pub(super) fn on_entry_read(
        &mut self,
        ticket: u64,
        entry: Option<[u8; ENTRY_SIZE]>,
        out: &mut Outbox,
    ) {
        let Some(ReadFor::Entry { asker, place }) = self.reads.end(ticket) else {
            return;
        };
        if self.end_read(asker) {
            let read = EntryRead { place, entry };
            Message::EntryRead(read).write_for(out.buffer(asker.peer), asker.request);
        }
    }

    /// A read failed. Who waits for it is told; the others go on.
    pub(super) fn on_read_failed(
        &mut self,
        ticket: u64,
        fault: &DiskFault,
        text: &str,
        out: &mut Outbox,
    ) {
        let purpose = self.reads.end(ticket);
        if let Some(ReadFor::Scrub { log, offset }) = purpose {
            self.on_scrub_failed(log, offset, fault, text, out);
            return;
        }
        self.counters.damaged_reads += u64::from(*fault == DiskFault::Damage);
        self.say(Level::Alarm, format!("a read failed: {text}"), out);
        match purpose {
            Some(
                ReadFor::Blocks { asker, .. }
                | ReadFor::Checkpoint { asker, .. }
                | ReadFor::Entry { asker, .. }
                | ReadFor::MoveFile { asker, .. },
            ) if self.end_read(asker) => {
                self.refuse(asker, RefusalCode::NotReady, text, out);
            }
            Some(ReadFor::Proof { log, .. }) => {
                if let Some(stream) = self.streams.get_mut(&log) {
                    stream.proving = false;
                }
            }
            Some(ReadFor::Age { log, .. }) => {
                let again = self.turn.plus_ms(limits::BACKUP_RETRY_MS);
                if let Some(stream) = self.streams.get_mut(&log) {
                    stream.retention.age_failed(again);
                }
            }
            Some(
                ReadFor::Blocks { .. }
                | ReadFor::Checkpoint { .. }
                | ReadFor::Entry { .. }
                | ReadFor::Scrub { .. }
                | ReadFor::MoveFile { .. },
            )
            | None => (),
        }
    }

    pub(super) fn on_follow(&mut self, asker: Asker, out: &mut Outbox) {
        let Some(peer) = self.peers.get_mut(&asker.peer) else {
            return;
        };
        let request = peer.follows.unwrap_or(asker.request);
        peer.follows = Some(request.wrapping_add(1));
        self.refresh_table();
        self.send_table(Asker { request, ..asker }, out);
    }

    /// Tells all who follow, if anything changed since they were told.
    pub(super) fn tell_table(&mut self, out: &mut Outbox) {
        if !self.table_changed {
            return;
        }
        self.table_changed = false;
        if !self.refresh_table() && !self.table_untold {
            return;
        }
        self.table_untold = false;
        let mut askers = Vec::new();
        for (peer, state) in &mut self.peers {
            if let Some(request) = state.follows {
                state.follows = Some(request.wrapping_add(1));
                let peer = *peer;
                askers.push(Asker { peer, request });
            }
        }
        for asker in askers {
            self.send_table(asker, out);
        }
    }

    /// Writes the lists of the table anew. Tells whether they differ from before.
    fn refresh_table(&mut self) -> bool {
        let states: Vec<MemberState> = self
            .streams
            .values()
            .map(|stream| self.state_of(stream))
            .collect();
        for (stream, state) in self.streams.values_mut().zip(states) {
            stream.state = state;
        }
        let record = self.authority.record();
        let streams = &self.streams;
        let changed = self.table.fill(record, |member| streams[&member.log].state);
        self.table_untold |= changed;
        changed
    }

    fn send_table(&self, asker: Asker, out: &mut Outbox) {
        let record = self.authority.record();
        let table = Table {
            ring_epoch: record.ring_epoch(),
            generation: record.generation,
            ring_key: record.ring_key,
            members: Members::new(&self.table.members).expect("whole records were written"),
            runs: SlotRuns::new(&self.table.runs).expect("whole records were written"),
        };
        Message::Table(table).write_for(out.buffer(asker.peer), asker.request);
    }
}
