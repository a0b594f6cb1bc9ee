//! The connections that a front dials: the backup, other fronts' routers, and every node that
//! the table names as present.
//!
//! A lost link is dialled again after a pause that grows; whatever was under way on it is sent
//! again by `router`. Silence closes a link, but only silence during which this process was
//! awake. The last table serves on while the backup is away.

use std::net::SocketAddr;

use super::clients::{common_version, hello_mismatch};
use super::{Front, NEVER, Peer, say};
use crate::clock::{Now, Tick};
use crate::limits::{
    LINK_FRAME_SIZE_MAX, LINK_PING_MS, LINK_SILENCE_MS_MAX, REDIAL_MS, REDIAL_MS_MAX,
};
use crate::model::NodeId;
use crate::protocol::{
    Frame, FrameKind, Header, Hello, Message, PeerRole, RefusalCode, Refused, VERSION_MAX,
    VERSION_MIN, Welcome,
};
use crate::role::{CloseReason, DialId, Effect, Level, Outbox, PeerId};

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Backup,
    Router,
    Node(NodeId),
}

impl Purpose {
    const fn role(self) -> PeerRole {
        match self {
            Self::Backup => PeerRole::Backup,
            Self::Router => PeerRole::Front,
            Self::Node(_) => PeerRole::Node,
        }
    }

    fn name(self) -> String {
        match self {
            Self::Backup => "backup".to_owned(),
            Self::Router => "router".to_owned(),
            Self::Node(node) => format!("node {node}"),
        }
    }
}

/// How far a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    /// Dialled at `dial_at` if it is wanted.
    Idle,
    Dialing(DialId),
    /// The hello is sent.
    Greeting(PeerId),
    Up(PeerId),
}

/// One link.
#[derive(Clone, Debug)]
pub(super) struct DialedLink {
    pub(super) purpose: Purpose,
    pub(super) address: Option<SocketAddr>,
    /// It is to be dialled; false for a node that the table does not name as present.
    pub(super) is_wanted: bool,
    pub(super) state: LinkState,
    pub(super) dial_at: Tick,
    pause_ms: u64,
    pub(super) heard_at: Tick,
    ping_at: Tick,
}

impl DialedLink {
    pub(super) fn new(purpose: Purpose, address: Option<SocketAddr>) -> Self {
        Self {
            purpose,
            address,
            is_wanted: true,
            state: LinkState::Idle,
            dial_at: Tick(0),
            pause_ms: REDIAL_MS,
            heard_at: Tick(0),
            ping_at: Tick(0),
        }
    }

    pub(super) fn peer(&self) -> Option<PeerId> {
        match self.state {
            LinkState::Greeting(peer) | LinkState::Up(peer) => Some(peer),
            LinkState::Idle | LinkState::Dialing(_) => None,
        }
    }

    /// When something is to be done for it.
    fn due(&self) -> Option<Tick> {
        match self.state {
            LinkState::Idle if self.is_wanted && self.address.is_some() => Some(self.dial_at),
            LinkState::Up(_) => Some(self.ping_at),
            LinkState::Idle | LinkState::Dialing(_) | LinkState::Greeting(_) => None,
        }
    }

    fn label(&self) -> String {
        match self.address {
            Some(address) => format!("{} at {address}", self.purpose.name()),
            None => self.purpose.name(),
        }
    }
}

/// How the other side of a link broke the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Breach {
    code: RefusalCode,
    text: String,
}

impl Breach {
    fn unexpected(kind: FrameKind) -> Self {
        Self {
            code: RefusalCode::Unexpected,
            text: format!("a front takes no {} here", kind.name()),
        }
    }

    pub(super) fn malformed(text: String) -> Self {
        Self {
            code: RefusalCode::Malformed,
            text,
        }
    }
}

/// A reason in words, for a line to the operator.
pub(super) fn reason_text(reason: &CloseReason) -> String {
    match reason {
        CloseReason::Ended => "it closed the connection".to_owned(),
        CloseReason::Broke(text) => format!("it broke the protocol: {text}"),
        CloseReason::Failed(text) => text.clone(),
        CloseReason::Asked => "closed".to_owned(),
    }
}

impl Front {
    /// The backup's connection while it is up.
    pub(super) fn backup_peer(&self) -> Option<PeerId> {
        match self.links.first()?.state {
            LinkState::Up(peer) => Some(peer),
            LinkState::Idle | LinkState::Dialing(_) | LinkState::Greeting(_) => None,
        }
    }

    /// Dials, pings, and closes what is silent.
    pub(super) fn tick_links(&mut self, now: Tick, out: &mut Outbox) {
        if now < self.links_due {
            return;
        }
        for index in 0..self.links.len() {
            let index = u16::try_from(index).expect("bounded in add_link");
            if self.link(index).due().is_some_and(|due| due <= now) {
                self.tick_link(now, index, out);
            }
        }
        let next = self.links.iter().filter_map(DialedLink::due).min();
        self.links_due = next.unwrap_or(NEVER);
    }

    fn tick_link(&mut self, now: Tick, index: u16, out: &mut Outbox) {
        let link = &mut self.links[usize::from(index)];
        match (link.state, link.address) {
            (LinkState::Up(peer), _) => {
                if now < link.heard_at.plus_ms(LINK_SILENCE_MS_MAX) {
                    out.send(peer, &Message::Ping);
                    link.ping_at = now.plus_ms(LINK_PING_MS);
                } else {
                    self.close_link(now, index, "it is silent", out);
                }
            }
            (LinkState::Idle, Some(address)) => {
                self.dial_count += 1;
                let dial = DialId(self.dial_count);
                link.state = LinkState::Dialing(dial);
                out.effect(Effect::Dial { dial, address });
            }
            (LinkState::Idle | LinkState::Dialing(_) | LinkState::Greeting(_), _) => (),
        }
    }

    pub(super) fn on_dialed(&mut self, now: Tick, dial: DialId, peer: PeerId, out: &mut Outbox) {
        let Some(index) = self.link_dialing(dial) else {
            // Its node got another address, or left, while the dial was under way.
            let reason = String::new();
            out.effect(Effect::Close { peer, reason });
            return;
        };
        let hello = Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            role: PeerRole::Front,
            cluster: self.cluster,
            node: None,
            incarnation: self.options.incarnation,
        };
        out.send(peer, &Message::Hello(hello));
        self.peers.insert(peer, Peer::Link(index));
        let link = &mut self.links[usize::from(index)];
        link.state = LinkState::Greeting(peer);
        link.heard_at = now;
    }

    pub(super) fn on_dial_failed(
        &mut self,
        now: Tick,
        dial: DialId,
        error: &str,
        out: &mut Outbox,
    ) {
        if let Some(index) = self.link_dialing(dial) {
            self.pause_link(now, index, error, out);
        }
    }

    fn link_dialing(&self, dial: DialId) -> Option<u16> {
        let dialing = LinkState::Dialing(dial);
        let index = self.links.iter().position(|link| link.state == dialing)?;
        u16::try_from(index).ok()
    }

    /// Takes a frame of a link. Who breaks the protocol is told so and dialled anew.
    pub(super) fn on_link_frame(
        &mut self,
        now: Now,
        index: u16,
        frame: &Frame<'_>,
        out: &mut Outbox,
    ) {
        self.links[usize::from(index)].heard_at = now.tick;
        match Message::read(frame) {
            Ok(message) => self.on_link_message(now, index, frame, message, out),
            Err(error) => {
                let text = error.to_string();
                self.refuse_link(now.tick, index, (RefusalCode::Malformed, &text), out);
            }
        }
    }

    fn on_link_message(
        &mut self,
        now: Now,
        index: u16,
        frame: &Frame<'_>,
        message: Message<'_>,
        out: &mut Outbox,
    ) {
        let is_up = matches!(self.link(index).state, LinkState::Up(_));
        let result = if let Message::Refused(refused) = message {
            self.on_link_refused(now.tick, index, &refused, out);
            Ok(())
        } else if is_up {
            self.on_up_message(now, index, &frame.header, message, out)
        } else if let Message::Welcome(welcome) = message {
            self.on_welcome(now.tick, index, &welcome, out)
        } else {
            Err(Breach::unexpected(frame.header.kind))
        };
        if let Err(breach) = result {
            self.refuse_link(now.tick, index, (breach.code, &breach.text), out);
        }
    }

    fn on_up_message(
        &mut self,
        now: Now,
        index: u16,
        header: &Header,
        message: Message<'_>,
        out: &mut Outbox,
    ) -> Result<(), Breach> {
        let is_backup = self.link(index).purpose == Purpose::Backup;
        match message {
            Message::Ping => {
                if let Some(peer) = self.link(index).peer() {
                    let time_ms = now.wall_ms;
                    Message::Pong { time_ms }.write_for(out.buffer(peer), header.request);
                }
                Ok(())
            }
            // A sign of life, noted when it came.
            Message::Pong { .. } => Ok(()),
            Message::Goaway => {
                self.stop_link(index);
                Ok(())
            }
            Message::Receipts(receipts) if !is_backup => {
                self.on_receipts(now.tick, index, header, receipts, out)
            }
            Message::Rows { index: at, rows } if !is_backup => {
                self.on_rows(index, (header.request, at), rows, out)
            }
            Message::Table(table) if is_backup => {
                self.on_table(now.tick, header.request, &table, out)
            }
            Message::StatusTold { .. }
            | Message::AuditTold { .. }
            | Message::ClusterTold { .. }
                if is_backup =>
            {
                self.on_told(*header, &message, out);
                Ok(())
            }
            Message::Hello(_)
            | Message::Welcome(_)
            | Message::Refused(_)
            | Message::Request { .. }
            | Message::Receipts(_)
            | Message::Rows { .. }
            | Message::StatusAsk
            | Message::StatusTold { .. }
            | Message::AuditAsk
            | Message::AuditTold { .. }
            | Message::Register(_)
            | Message::Granted(_)
            | Message::Append(_)
            | Message::Appended(_)
            | Message::Resend { .. }
            | Message::Beat(_)
            | Message::Confirmed(_)
            | Message::Fetch(_)
            | Message::Fetched(_)
            | Message::CheckpointAsk(_)
            | Message::CheckpointPart(_)
            | Message::EntryAsk { .. }
            | Message::EntryRead(_)
            | Message::Follow
            | Message::Table(_)
            | Message::ClusterAsk(_)
            | Message::ClusterTold { .. }
            | Message::MoveOrder(_)
            | Message::MoveTold(_)
            | Message::MoveFileAsk(_)
            | Message::MoveFilePart(_)
            | Message::Recover { .. }
            | Message::Recorded(_) => Err(Breach::unexpected(header.kind)),
        }
    }

    fn on_welcome(
        &mut self,
        now: Tick,
        index: u16,
        welcome: &Welcome,
        out: &mut Outbox,
    ) -> Result<(), Breach> {
        let purpose = self.link(index).purpose;
        if welcome.role != purpose.role() {
            return Err(Breach {
                code: RefusalCode::Unexpected,
                text: format!("expected a {}, found {:?}", purpose.name(), welcome.role),
            });
        }
        if common_version(welcome.version, welcome.version).is_none() {
            return Err(Breach {
                code: RefusalCode::Version,
                text: format!("it speaks version {}", welcome.version),
            });
        }
        if let Some(text) = hello_mismatch(self.cluster, Some(welcome.cluster)) {
            let label = self.link(index).label();
            say(out, Level::Alarm, format!("{label} is refused: {text}"));
            let code = RefusalCode::WrongCluster;
            return Err(Breach { code, text });
        }
        self.cluster = Some(welcome.cluster);
        self.establish_link(now, index, welcome, out);
        Ok(())
    }

    fn establish_link(&mut self, now: Tick, index: u16, welcome: &Welcome, out: &mut Outbox) {
        let link = &mut self.links[usize::from(index)];
        let LinkState::Greeting(peer) = link.state else {
            unreachable!("only a link that greets is welcomed");
        };
        link.state = LinkState::Up(peer);
        link.pause_ms = REDIAL_MS;
        link.ping_at = now;
        self.links_due = now;
        say(out, Level::Info, format!("{} is up", link.label()));
        out.effect(Effect::Established {
            peer,
            frame_size_max: LINK_FRAME_SIZE_MAX,
        });
        match link.purpose {
            Purpose::Backup => {
                self.table_number = 0;
                out.send(peer, &Message::Follow);
            }
            Purpose::Router | Purpose::Node(_) => {
                let target = &mut self.flight.targets[usize::from(index)];
                target.usable = true;
                target.frame_count_max = welcome.frames_in_flight_max.max(1);
                self.node_up_count += u32::from(target.is_node);
                self.is_sweep_due = true;
            }
        }
    }

    fn on_link_refused(&mut self, now: Tick, index: u16, refused: &Refused<'_>, out: &mut Outbox) {
        let level = match refused.code {
            RefusalCode::WrongCluster | RefusalCode::Version => Level::Alarm,
            RefusalCode::Malformed
            | RefusalCode::Unexpected
            | RefusalCode::TooManyConnections
            | RefusalCode::TooSlow
            | RefusalCode::TooManyFrames
            | RefusalCode::Closing
            | RefusalCode::NotReady
            | RefusalCode::InUse
            | RefusalCode::NotAMember
            | RefusalCode::Fenced
            | RefusalCode::BackupOlder
            | RefusalCode::Diverged
            | RefusalCode::WrongLog
            | RefusalCode::TakenOver => Level::Warn,
        };
        let text = format!("{}: {}", refused.code.name(), refused.text);
        say(
            out,
            level,
            format!("{} refuses {text}", self.link(index).label()),
        );
        self.close_link(now, index, &text, out);
    }

    /// Tells the other side why, and closes.
    fn refuse_link(
        &mut self,
        now: Tick,
        index: u16,
        (code, text): (RefusalCode, &str),
        out: &mut Outbox,
    ) {
        if let Some(peer) = self.link(index).peer() {
            let refused = Refused {
                code,
                version_min: VERSION_MIN,
                version_max: VERSION_MAX,
                text,
            };
            out.send(peer, &Message::Refused(refused));
        }
        self.close_link(now, index, text, out);
    }

    /// Closes a link from this side and forgets its connection.
    pub(super) fn close_link(&mut self, now: Tick, index: u16, reason: &str, out: &mut Outbox) {
        if let Some(peer) = self.link(index).peer() {
            self.peers.remove(&peer);
            let reason = reason.to_owned();
            out.effect(Effect::Close { peer, reason });
        }
        self.lose_link(now, index, reason, out);
    }

    /// The connection of a link is gone: what was sent by it has no answer.
    pub(super) fn lose_link(&mut self, now: Tick, index: u16, reason: &str, out: &mut Outbox) {
        if matches!(self.link(index).state, LinkState::Up(_)) {
            let label = self.link(index).label();
            say(out, Level::Warn, format!("{label} is lost: {reason}"));
        }
        self.stop_link(index);
        self.flight.lose_target(index);
        if self.link(index).purpose == Purpose::Backup {
            self.fail_asks(out);
        }
        self.pause_link(now, index, reason, out);
    }

    /// The link takes no more requests.
    fn stop_link(&mut self, index: u16) {
        let target = &self.flight.targets[usize::from(index)];
        if target.usable {
            self.node_up_count -= u32::from(target.is_node);
            self.flight.stop_target(index);
            self.is_sweep_due = true;
        }
    }

    fn pause_link(&mut self, now: Tick, index: u16, reason: &str, out: &mut Outbox) {
        let link = &mut self.links[usize::from(index)];
        if link.pause_ms == REDIAL_MS && matches!(link.state, LinkState::Dialing(_)) {
            let label = link.label();
            say(
                out,
                Level::Warn,
                format!("{label} does not answer: {reason}"),
            );
        }
        link.state = LinkState::Idle;
        link.dial_at = now.plus_ms(link.pause_ms);
        link.pause_ms = (link.pause_ms * 2).min(REDIAL_MS_MAX);
        self.links_due = Tick(0);
    }

    pub(super) fn link(&self, index: u16) -> &DialedLink {
        &self.links[usize::from(index)]
    }
}
