//! Connections of a backup that is made again: who may give, and what comes from them.

use super::refill::{Offer, Refill};
use super::{Failed, Phase, Recover, Source};
use crate::clock::{Now, Tick};
use crate::limits;
use crate::log::Verify;
use crate::model::{Generation, LogEnd, NodeId, TermStart, to_u64};
use crate::protocol::{
    Frame, Hello, Message, MoveFilePart, PeerRole, Recorded, RefusalCode, Refused, Register,
    VERSION_MAX, VERSION_MIN, Welcome,
};
use crate::role::{DiskRequest, Effect, Level, Outbox, PeerId};

use super::super::options::segment_size_is_possible;

/// One connection.
#[derive(Debug)]
pub(super) struct Caller {
    heard: Tick,
    /// The node that said hello.
    node: Option<NodeId>,
    /// It was told to go.
    is_closing: bool,
}

/// What a registration said of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registered {
    end: LogEnd,
    terms: Vec<TermStart>,
}

/// Why a caller is sent away.
type Refusal = (RefusalCode, String);

impl Caller {
    pub(super) const fn new(heard: Tick) -> Self {
        Self {
            heard,
            node: None,
            is_closing: false,
        }
    }
}

impl Recover {
    /// Everybody is to come again: from now on this is a backup like any other.
    pub(super) fn close_all(&mut self, out: &mut Outbox) {
        let peers: Vec<PeerId> = self.callers.keys().copied().collect();
        for peer in peers {
            self.close(peer, "recovered: register again", out);
        }
    }

    pub(super) fn on_closed(&mut self, peer: PeerId) {
        self.callers.remove(&peer);
        self.forget_link(peer);
    }

    /// What was asked over a connection that is gone is not answered any more.
    fn forget_link(&mut self, peer: PeerId) {
        for source in self.sources.values_mut() {
            if source.peer == Some(peer) {
                source.peer = None;
                source.asked = None;
            }
        }
    }

    /// Shows those who wait that somebody is there, and closes those who fell silent.
    pub(super) fn look_after_callers(&mut self, now: Now, out: &mut Outbox) {
        let silence = limits::LINK_SILENCE_MS_MAX;
        let is_silent = |caller: &Caller| caller.heard.plus_ms(silence) < now.tick;
        let mut silent = Vec::new();
        for (peer, caller) in &self.callers {
            if is_silent(caller) && !caller.is_closing {
                silent.push(*peer);
            } else if caller.node.is_some() && !caller.is_closing {
                out.send(*peer, &Message::Ping);
            }
        }
        for peer in silent {
            self.close(peer, "silent", out);
        }
    }

    fn close(&mut self, peer: PeerId, reason: &str, out: &mut Outbox) {
        let open = self.callers.get_mut(&peer);
        let Some(caller) = open.filter(|caller| !caller.is_closing) else {
            return;
        };
        caller.is_closing = true;
        self.forget_link(peer);
        let reason = reason.to_owned();
        out.effect(Effect::Close { peer, reason });
    }

    fn refuse(&mut self, peer: PeerId, (code, text): Refusal, out: &mut Outbox) {
        let refused = Refused {
            code,
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            text: &text,
        };
        out.send(peer, &Message::Refused(refused));
        self.close(peer, &text, out);
    }

    pub(super) fn on_frame(
        &mut self,
        now: Now,
        peer: PeerId,
        frame: &Frame<'_>,
        out: &mut Outbox,
    ) -> Result<(), Failed> {
        let entry = self.callers.entry(peer);
        let caller = entry.or_insert_with(|| Caller::new(now.tick));
        caller.heard = now.tick;
        if caller.is_closing {
            return Ok(());
        }
        let node = caller.node;
        let message = match Message::read(frame) {
            Ok(message) => message,
            Err(error) => {
                self.refuse(peer, (RefusalCode::Malformed, error.to_string()), out);
                return Ok(());
            }
        };
        let request = frame.header.request;
        let taken = match (node, message) {
            (None, Message::Hello(hello)) => self.on_hello(now, peer, request, &hello, out),
            (Some(_), Message::Ping) => {
                let time_ms = now.wall_ms;
                Message::Pong { time_ms }.write_for(out.buffer(peer), request);
                Ok(())
            }
            (Some(node), message) => self.route(peer, node, request, message, out)?,
            (None, _) => Err((RefusalCode::Unexpected, "a hello is due".to_owned())),
        };
        if let Err(refusal) = taken {
            self.refuse(peer, refusal, out);
        }
        Ok(())
    }

    fn on_hello(
        &mut self,
        now: Now,
        peer: PeerId,
        request: u64,
        hello: &Hello,
        out: &mut Outbox,
    ) -> Result<(), Refusal> {
        let not_now = |text: &str| Err((RefusalCode::NotReady, text.to_owned()));
        if hello.version_max < VERSION_MIN || VERSION_MAX < hello.version_min {
            let text = format!("versions {VERSION_MIN} to {VERSION_MAX} are spoken here");
            return Err((RefusalCode::Version, text));
        }
        let (PeerRole::Node, Some(node)) = (hello.role, hello.node) else {
            return not_now("the backup is made again from the nodes");
        };
        let Some(cluster) = hello.cluster else {
            let text = format!(
                "the backup is made again, and node {node} has nothing to give: bring its folder \
                 back, or give it up"
            );
            self.warn(&text, out);
            return Err((RefusalCode::NotReady, text));
        };
        let own = *self.cluster.get_or_insert(cluster);
        if own != cluster {
            let text = format!("node {node} is of cluster {cluster}, others are of {own}");
            self.warn(&text, out);
            return Err((RefusalCode::NotReady, text));
        }
        let frame_size_max = limits::LINK_FRAME_SIZE_MAX;
        let welcome = Welcome {
            version: VERSION_MAX.min(hello.version_max),
            role: PeerRole::Backup,
            cluster,
            time_ms: now.wall_ms,
            frame_size_max,
            batch_count_max: limits::BATCH_COUNT_MAX,
            deadline_ms_max: limits::DEADLINE_MS_MAX,
            frames_in_flight_max: limits::BACKUP_CLIENT_FRAMES_MAX,
        };
        if let Some(caller) = self.callers.get_mut(&peer) {
            caller.node = Some(node);
        }
        Message::Welcome(welcome).write_for(out.buffer(peer), request);
        out.effect(Effect::Established {
            peer,
            frame_size_max,
        });
        Ok(())
    }

    fn route(
        &mut self,
        peer: PeerId,
        node: NodeId,
        request: u64,
        message: Message<'_>,
        out: &mut Outbox,
    ) -> Result<Result<(), Refusal>, Failed> {
        Ok(match message {
            Message::Register(register) => return self.on_register(peer, node, &register, out),
            Message::Recorded(recorded) => {
                return self.on_recorded(peer, node, &recorded, out);
            }
            Message::Fetched(_) | Message::CheckpointPart(_) => {
                return self.on_piece(peer, node, request, &message, out);
            }
            Message::MoveFilePart(part) => {
                return self.on_image_part(peer, node, request, &part, out);
            }
            Message::Refused(refused) => {
                let text = format!("node {node} gives nothing: {}", refused.text);
                self.warn(&text, out);
                self.close(peer, &text, out);
                Ok(())
            }
            // A ping was answered with the time.
            Message::Ping | Message::Pong { .. } | Message::Goaway => Ok(()),
            Message::Hello(_)
            | Message::Welcome(_)
            | Message::Request { .. }
            | Message::Receipts(_)
            | Message::Rows { .. }
            | Message::StatusAsk
            | Message::StatusTold { .. }
            | Message::AuditAsk
            | Message::AuditTold { .. }
            | Message::ClusterAsk(_)
            | Message::ClusterTold { .. }
            | Message::Granted(_)
            | Message::Append(_)
            | Message::Appended(_)
            | Message::Resend { .. }
            | Message::Beat(_)
            | Message::Confirmed(_)
            | Message::Fetch(_)
            | Message::CheckpointAsk(_)
            | Message::EntryAsk { .. }
            | Message::EntryRead(_)
            | Message::Follow
            | Message::Table(_)
            | Message::MoveOrder(_)
            | Message::MoveTold(_)
            | Message::MoveFileAsk(_)
            | Message::Recover { .. } => {
                let kind = message.kind().name();
                let text = format!("a backup that is made again takes no {kind}");
                Err((RefusalCode::Unexpected, text))
            }
        })
    }

    /// A piece of a checkpoint or some blocks.
    fn on_piece(
        &mut self,
        peer: PeerId,
        node: NodeId,
        request: u64,
        message: &Message<'_>,
        out: &mut Outbox,
    ) -> Result<Result<(), Refusal>, Failed> {
        let Some(source) = self.answered(peer, node, request) else {
            let text = "a piece that was not asked for".to_owned();
            return Ok(Err((RefusalCode::Malformed, text)));
        };
        let Some(refill) = source.refill.as_mut() else {
            return Ok(Ok(()));
        };
        let taken = if let Message::Fetched(fetched) = message {
            refill.take_blocks(fetched, out)
        } else if let Message::CheckpointPart(part) = message {
            refill.take_part(part, out)
        } else {
            Ok(())
        };
        let log = source.log;
        let failed = |text| format!("log {log} of node {node} could not be copied: {text}");
        taken.map(Ok).map_err(failed)
    }

    /// The source whose open question this answers.
    fn answered(&mut self, peer: PeerId, node: NodeId, request: u64) -> Option<&mut Source> {
        let source = self.sources.get_mut(&node)?;
        if source.peer != Some(peer) || source.asked != Some(request) {
            return None;
        }
        source.asked = None;
        Some(source)
    }

    fn on_register(
        &mut self,
        peer: PeerId,
        node: NodeId,
        register: &Register<'_>,
        out: &mut Outbox,
    ) -> Result<Result<(), Refusal>, Failed> {
        if let Err(refusal) = self.test_register(node, register) {
            self.warn(&format!("node {node}: {}", refusal.1), out);
            return Ok(Err(refusal));
        }
        let log = register.log.expect("it was tested");
        let mut terms = Vec::new();
        for start in register.terms.iter() {
            match start {
                Ok(start) => terms.push(start),
                Err(error) => return Ok(Err((RefusalCode::Malformed, error.to_string()))),
            }
        }
        let registered = Registered {
            end: register.end,
            terms,
        };
        let before = self.sources.get(&node);
        let older = before.and_then(|source| source.peer);
        let told = before.map_or(Generation(0), |source| source.told);
        let same = before.is_some_and(|source| {
            source.log == log && source.copy == register.copy && source.registered == registered
        });
        if before.is_some() && !same && !matches!(self.phase, Phase::Gathering) {
            return Err(format!(
                "node {node} came back with another log than it gave"
            ));
        }
        if let Some(older) = older.filter(|older| *older != peer) {
            self.close(older, "the node registers anew", out);
        }
        self.members.insert(node);
        self.ring_epoch = self.ring_epoch.max(register.ring_epoch);
        self.choose_generation(node, register.generation, told)?;
        let source = Source {
            peer: Some(peer),
            log,
            copy: register.copy,
            address: register.address,
            registered,
            told: Generation(0),
            recorded: Generation(0),
            refill: None,
            asked: None,
            image: None,
            is_replayed: false,
            events: Vec::new(),
            survey: None,
        };
        match self.sources.get_mut(&node).filter(|_| same) {
            Some(known) => {
                known.peer = Some(peer);
                known.address = source.address;
                known.asked = None;
                (known.told, known.recorded) = (Generation(0), Generation(0));
            }
            None => {
                self.sources.insert(node, source);
            }
        }
        self.tell_generation(out);
        Ok(Ok(()))
    }

    /// Nobody may have worked under it but who recorded it for this very recovery: a node that
    /// knows it, and was not `told` it, makes it rise.
    fn choose_generation(
        &mut self,
        node: NodeId,
        known: Generation,
        told: Generation,
    ) -> Result<(), Failed> {
        let own = self.generation;
        let is_told = known == own && told == own;
        if own != Generation(0) && (known < own || is_told) {
            return Ok(());
        }
        if !matches!(self.phase, Phase::Gathering) {
            return Err(format!(
                "node {node} came back with generation {known}, where others have recorded {own}"
            ));
        }
        self.generation = known.max(own).next();
        Ok(())
    }

    fn test_register(&self, node: NodeId, register: &Register<'_>) -> Result<(), Refusal> {
        let refusal = |code, text: String| Err((code, text));
        if register.node != node {
            let text = "the hello named another node".to_owned();
            return refusal(RefusalCode::Unexpected, text);
        }
        if self.plan.give_up.contains(&node) {
            let text = "it was given up: it may join with an empty folder".to_owned();
            return refusal(RefusalCode::NotAMember, text);
        }
        let Some(log) = register.log else {
            let text = "it has no log to give: bring its folder back, or give it up".to_owned();
            return refusal(RefusalCode::NotReady, text);
        };
        let is_late = !matches!(self.phase, Phase::Gathering) && !self.sources.contains_key(&node);
        if is_late {
            let text = "the backup is made again without it, as far as is known".to_owned();
            return refusal(RefusalCode::NotReady, text);
        }
        let mut others = self.sources.iter().filter(|(other, _)| **other != node);
        if others.any(|(_, source)| source.log == log) {
            let text = format!("log {log} is another node's");
            return refusal(RefusalCode::NotReady, text);
        }
        Ok(())
    }

    /// Everybody who is here is to record the present generation.
    fn tell_generation(&mut self, out: &mut Outbox) {
        let generation = self.generation;
        for source in self.sources.values_mut() {
            if let Some(peer) = source.peer.filter(|_| source.told != generation) {
                source.told = generation;
                out.send(peer, &Message::Recover { generation });
            }
        }
    }

    fn on_recorded(
        &mut self,
        peer: PeerId,
        node: NodeId,
        recorded: &Recorded<'_>,
        out: &mut Outbox,
    ) -> Result<Result<(), Refusal>, Failed> {
        let malformed = |text: String| Ok(Err((RefusalCode::Malformed, text)));
        let mut members = Vec::new();
        for member in recorded.members.iter() {
            match member {
                Ok(member) => members.push(member),
                Err(error) => return malformed(error.to_string()),
            }
        }
        let size = recorded.segment_size;
        if !segment_size_is_possible(size) || !recorded.first_offset.is_multiple_of(size) {
            return malformed("a log of such segments cannot be".to_owned());
        }
        let own = *self.ring_key.get_or_insert(recorded.ring_key);
        if own != recorded.ring_key {
            return malformed("others have another hash key".to_owned());
        }
        let cluster = self.cluster.expect("who is established said it");
        let Some(source) = self
            .sources
            .get_mut(&node)
            .filter(|source| source.peer == Some(peer))
        else {
            return Ok(Err((RefusalCode::Unexpected, "register first".to_owned())));
        };
        if recorded.generation != source.told {
            // It was told a higher one since.
            return Ok(Ok(()));
        }
        source.recorded = recorded.generation;
        let offer = Offer {
            verify: Verify {
                log: source.log,
                cluster,
                segment_size: size,
            },
            end: source.registered.end,
            terms: source.registered.terms.clone(),
            first_offset: recorded.first_offset,
            checkpoint_size: recorded.checkpoint_size,
        };
        let known = source.refill.as_ref().map(Refill::offer);
        if known != Some(&offer) {
            if !matches!(self.phase, Phase::Gathering) {
                return Err(format!(
                    "node {node} came back with other files than it gave"
                ));
            }
            source.refill = Some(Refill::new(offer, out));
        }
        let generation = recorded.generation;
        self.log_max = self.log_max.max(recorded.log_max);
        self.members.extend(members);
        let level = Level::Info;
        let text = format!("node {node} has recorded generation {generation}");
        out.effect(Effect::Say { level, text });
        Ok(Ok(()))
    }

    fn on_image_part(
        &mut self,
        peer: PeerId,
        node: NodeId,
        request: u64,
        part: &MoveFilePart<'_>,
        out: &mut Outbox,
    ) -> Result<Result<(), Refusal>, Failed> {
        let Some(source) = self.answered(peer, node, request) else {
            let text = "a piece that was not asked for".to_owned();
            return Ok(Err((RefusalCode::Malformed, text)));
        };
        let Some(image) = source.image.as_mut() else {
            return Ok(Ok(()));
        };
        let (number, offset) = (image.number, image.offset);
        let size = to_u64(part.bytes.len());
        let rest = part.size.saturating_sub(offset);
        if part.image != number || part.offset != offset || size == 0 || rest < size {
            return Err(format!(
                "node {node} does not have the image of move {number} whole, which its log needs"
            ));
        }
        image.offset += size;
        image.is_writing = true;
        out.effect(Effect::Disk(DiskRequest::WriteMoveFile {
            number,
            offset,
            bytes: bytes::Bytes::copy_from_slice(part.bytes),
            size: part.size,
        }));
        Ok(Ok(()))
    }

    fn warn(&mut self, text: &str, out: &mut Outbox) {
        if self.warned != text {
            text.clone_into(&mut self.warned);
            let level = Level::Warn;
            out.effect(Effect::Say {
                level,
                text: text.to_owned(),
            });
        }
    }
}
