//! A backup whose disk was lost, made again from the nodes (docs/decisions/0002-recover.md): the
//! state before all others of a daemon that was started for it.
//!
//! `callers` has the connections, `refill` the copying of one log, `replay` what follows once all
//! logs are here. What the logs mean together is in `authority::rebuilt`. Nothing but logs is on
//! the disk until the whole record is saved; then this is an ordinary backup.

mod callers;
mod refill;
mod replay;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::authority::Record;
use super::options::{BackupOptions, RecoverOptions};
use crate::clock::{Now, Tick};
use crate::limits;
use crate::model::{ClusterId, Generation, LogNumber, MoveNumber, NodeId, RingEpoch};
use crate::protocol::Message;
use crate::role::{
    DiskFault, DiskReply, DiskRequest, Effect, ExitCode, FileName, Input, Level, MoveEvent, Outbox,
    PeerId, Survey,
};

use callers::Caller;
use refill::Refill;

/// What one step leads to.
#[derive(Debug)]
pub(super) enum Progress {
    /// It goes on.
    Going,
    /// The process ends.
    Ended,
    /// The record is durable.
    Recovered(Box<Record>),
}

/// Why it cannot go on: the process ends with this.
type Failed = String;

/// How far it is.
#[derive(Debug)]
enum Phase {
    /// Nodes are waited for, and their logs copied.
    Gathering,
    /// The logs are replayed to their ends.
    Replaying,
    /// All logs are added up.
    Adding(Box<Record>),
    /// The record is being saved.
    Saving(Box<Record>),
}

/// A node that has something to give.
#[derive(Debug)]
struct Source {
    /// Its connection, if it has one.
    peer: Option<PeerId>,
    log: LogNumber,
    copy: u128,
    address: SocketAddr,
    registered: callers::Registered,
    /// The newest generation that it was told.
    told: Generation,
    /// The newest generation that is durable there.
    recorded: Generation,
    /// Known once it has recorded a generation.
    refill: Option<Refill>,
    /// The request that it has not answered yet.
    asked: Option<u64>,
    image: Option<ImageCopy>,
    /// The end of its log is replayed.
    is_replayed: bool,
    events: Vec<MoveEvent>,
    survey: Option<Survey>,
}

/// An image that a replay wants, on its way from the node that adopted it.
#[derive(Clone, Copy, Debug)]
struct ImageCopy {
    number: MoveNumber,
    offset: u64,
    is_writing: bool,
}

/// A backup that is being made again.
#[derive(Debug)]
pub(super) struct Recover {
    options: BackupOptions,
    plan: RecoverOptions,
    phase: Phase,
    cluster: Option<ClusterId>,
    ring_key: Option<u128>,
    generation: Generation,
    ring_epoch: RingEpoch,
    log_max: u16,
    /// Members that anybody heard of or the operator named.
    members: BTreeSet<NodeId>,
    callers: BTreeMap<PeerId, Caller>,
    sources: BTreeMap<NodeId, Source>,
    /// Images that were copied.
    images: BTreeSet<MoveNumber>,
    last_ticket: u64,
    ping_due: Tick,
    say_due: Tick,
    said: String,
    warned: String,
}

impl Recover {
    pub(super) fn new(options: BackupOptions, plan: RecoverOptions, out: &mut Outbox) -> Self {
        let text = "recovering: waiting for the nodes to give what they have".to_owned();
        let level = Level::Info;
        out.effect(Effect::Say { level, text });
        Self {
            options,
            phase: Phase::Gathering,
            cluster: None,
            ring_key: None,
            generation: Generation(0),
            ring_epoch: RingEpoch(0),
            log_max: 0,
            members: plan.weights.keys().copied().collect(),
            callers: BTreeMap::new(),
            sources: BTreeMap::new(),
            images: BTreeSet::new(),
            last_ticket: 0,
            ping_due: Tick(0),
            say_due: Tick(0),
            said: String::new(),
            warned: String::new(),
            plan,
        }
    }

    pub(super) const fn deadline(&self) -> Tick {
        self.ping_due
    }

    pub(super) fn step(
        &mut self,
        now: Now,
        input: Option<Input<'_>>,
        out: &mut Outbox,
    ) -> Progress {
        let taken = match input {
            Some(Input::Opened { peer, .. }) => {
                self.callers.insert(peer, Caller::new(now.tick));
                Ok(())
            }
            Some(Input::Frame { peer, frame }) => self.on_frame(now, peer, &frame, out),
            Some(Input::Closed { peer, .. }) => {
                self.on_closed(peer);
                Ok(())
            }
            Some(Input::Disk(DiskReply::FileSaved { .. })) => return self.saved(out),
            Some(Input::Disk(reply)) => self.on_disk(now, reply, out),
            Some(Input::Stop) => {
                let text = "stopped before it was recovered".to_owned();
                let code = ExitCode::Ok;
                out.effect(Effect::Exit { code, text });
                return Progress::Ended;
            }
            Some(Input::DialFailed { .. } | Input::Drained { .. } | Input::Elapsed) | None => {
                Ok(())
            }
        };
        match taken {
            Ok(()) => {
                self.advance(now, out);
                Progress::Going
            }
            Err(text) => {
                let level = Level::Alarm;
                let text = format!("not recovered: {text}");
                out.effect(Effect::Say {
                    level,
                    text: text.clone(),
                });
                let code = ExitCode::Damage;
                out.effect(Effect::Exit { code, text });
                Progress::Ended
            }
        }
    }

    /// What is due now.
    fn advance(&mut self, now: Now, out: &mut Outbox) {
        if self.ping_due <= now.tick {
            self.ping_due = now.tick.plus_ms(limits::LINK_PING_MS);
            self.look_after_callers(now, out);
        }
        self.ask_all(out);
        if self.say_due <= now.tick {
            self.say_due = now.tick.plus_ms(limits::RECOVER_SAY_MS);
            let text = self.progress();
            self.say_once(text, out);
        }
        let is_here = matches!(self.phase, Phase::Gathering)
            && self.generation != Generation(0)
            && self.missing().is_empty();
        if is_here {
            self.begin_replay(out);
        }
    }

    /// Members without whom nothing goes on.
    fn missing(&self) -> Vec<NodeId> {
        let expected = self.members.difference(&self.plan.give_up);
        let is_here = |node: &NodeId| {
            self.sources.get(node).is_some_and(|source| {
                let refilled = source.refill.as_ref().is_some_and(Refill::is_done);
                refilled && source.recorded == self.generation
            })
        };
        expected.filter(|node| !is_here(node)).copied().collect()
    }

    /// Asks every node for its next piece, one at a time each.
    fn ask_all(&mut self, out: &mut Outbox) {
        for source in self.sources.values_mut() {
            let Some(peer) = source.peer else { continue };
            let is_free = source.asked.is_none() && source.recorded == source.told;
            let message = match source.image {
                Some(image) => image.next_ask(),
                None => source.refill.as_ref().and_then(Refill::next_ask),
            };
            if let Some(message) = message.filter(|_| is_free) {
                self.last_ticket += 1;
                source.asked = Some(self.last_ticket);
                message.write_for(out.buffer(peer), self.last_ticket);
            }
        }
    }

    fn by_log(&mut self, log: LogNumber) -> Option<(NodeId, &mut Source)> {
        let mut sources = self.sources.iter_mut();
        let found = sources.find(|(_, source)| source.log == log);
        found.map(|(node, source)| (*node, source))
    }

    fn refill_of(&mut self, log: LogNumber) -> Option<&mut Refill> {
        self.by_log(log)
            .and_then(|(_, source)| source.refill.as_mut())
    }

    fn on_disk(&mut self, now: Now, reply: DiskReply, out: &mut Outbox) -> Result<(), Failed> {
        match reply {
            DiskReply::LogOpened { log, report, .. } => {
                if report.is_none() {
                    return Err(format!("log {log} was to be made, and is not there"));
                }
                if let Some(refill) = self.refill_of(log) {
                    refill.created(out);
                }
            }
            DiskReply::Durable { log, end } => {
                if let Some(refill) = self.refill_of(log) {
                    refill.durable(&end);
                }
            }
            DiskReply::CheckpointWritten { log, info } => {
                if let Some(refill) = self.refill_of(log) {
                    match info {
                        Some(_) => refill.checkpoint_written(out),
                        None => refill.part_written(),
                    }
                }
            }
            DiskReply::MoveFileWritten {
                number,
                is_complete,
            } => {
                let written = self.note_image_written(number);
                if is_complete {
                    self.use_image(&written, out);
                }
            }
            DiskReply::ReplicaAt {
                log, end, events, ..
            } => self.replica_at(log, &end, &events, out),
            DiskReply::Surveyed { log, survey } => return self.surveyed(now, log, survey, out),
            DiskReply::Audited { rows, .. } => self.added_up(&rows, out),
            DiskReply::Failed {
                request,
                fault,
                text,
            } => return self.on_failed(&request, &fault, &text, out),
            DiskReply::SegmentReady { .. } => (),
            DiskReply::FileLoaded { .. }
            | DiskReply::FileSaved { .. }
            | DiskReply::LogCut { .. }
            | DiskReply::BlocksRead { .. }
            | DiskReply::EntryRead { .. }
            | DiskReply::CheckpointMade { .. }
            | DiskReply::Retired { .. }
            | DiskReply::CheckpointLoaded { .. }
            | DiskReply::CheckpointRead { .. }
            | DiskReply::FreeSpace { .. }
            | DiskReply::HandOverBuilt { .. }
            | DiskReply::ImagesDrafted { .. }
            | DiskReply::MoveFileRead { .. }
            | DiskReply::MoveFileLoaded { .. }
            | DiskReply::MoveFilesKept => {
                return Err("the disk answers what was not asked".to_owned());
            }
        }
        Ok(())
    }

    fn on_failed(
        &mut self,
        request: &DiskRequest,
        fault: &DiskFault,
        text: &str,
        out: &mut Outbox,
    ) -> Result<(), Failed> {
        if let DiskRequest::WriteCheckpoint { log, .. } = request
            && *fault == DiskFault::Damage
            && let Some(refill) = self.refill_of(*log)
        {
            let refused = refill.part_refused();
            return refused.map_err(|what| format!("{what}: {text}"));
        }
        if let DiskRequest::PrepareSegment { .. } = request
            && *fault != DiskFault::Poisoned
        {
            self.say_once(format!("no spare segment: {text}"), out);
            return Ok(());
        }
        if let (DiskRequest::AdvanceReplica { log, .. }, DiskFault::NoMoveFile(number)) =
            (request, fault)
        {
            self.fetch_image(*log, *number, text)?;
            return Ok(());
        }
        Err(format!("the disk failed: {text}"))
    }

    /// Saves the record: with that the backup is one again.
    fn save(&mut self, record: Box<Record>, out: &mut Outbox) {
        out.effect(Effect::Disk(DiskRequest::SaveFile {
            name: FileName::Authority,
            bytes: record.encode(),
        }));
        self.phase = Phase::Saving(record);
    }

    fn saved(&mut self, out: &mut Outbox) -> Progress {
        let Phase::Saving(record) = std::mem::replace(&mut self.phase, Phase::Gathering) else {
            let text = "the disk saved what was not asked for".to_owned();
            let code = ExitCode::Damage;
            out.effect(Effect::Exit { code, text });
            return Progress::Ended;
        };
        self.close_all(out);
        Progress::Recovered(record)
    }

    fn progress(&self) -> String {
        if let Phase::Replaying = self.phase {
            let mut left = self.sources.values().filter(|source| !source.is_replayed);
            return format!(
                "recovering: {} logs are being replayed",
                left.by_ref().count()
            );
        }
        let missing = self.missing();
        let mut parts = Vec::new();
        for node in &missing {
            let source = self.sources.get(node);
            parts.push(match source.and_then(|source| source.refill.as_ref()) {
                Some(refill) => {
                    let (done, whole) = refill.progress();
                    format!("node {node} gave {done} of {whole} bytes")
                }
                None => format!("node {node} is waited for"),
            });
        }
        if parts.is_empty() {
            return self.said.clone();
        }
        let generation = self.generation;
        format!("recovering, generation {generation}: {}", parts.join(", "))
    }

    fn say_once(&mut self, text: String, out: &mut Outbox) {
        if self.said != text {
            self.said.clone_from(&text);
            let level = Level::Info;
            out.effect(Effect::Say { level, text });
        }
    }
}

impl ImageCopy {
    fn next_ask(&self) -> Option<Message<'static>> {
        (!self.is_writing).then_some(Message::MoveFileAsk(crate::protocol::MoveFileAsk {
            image: self.number,
            offset: self.offset,
            size_max: limits::FETCH_SIZE_MAX,
        }))
    }
}
