//! Connections that this front accepted: clients, and the balancers of other fronts.
//!
//! The handshake, request frames on their way in, signs of life, and back-pressure: when the
//! front holds as much as it may, it stops reading from clients. Other fronts go on being read:
//! a link that is not read looks dead to them; they are bounded by their frames.

use super::control::AskKind;
use super::pool::Key;
use super::{Front, Peer};
use crate::clock::{Now, Tick};
use crate::limits::{
    BATCH_COUNT_MAX, CLIENT_PING_MS, DEADLINE_MS_MAX, FRAME_SIZE_MAX, LINK_FRAME_SIZE_MAX,
};
use crate::model::ClusterId;
use crate::protocol::{
    Frame, Header, Hello, Message, Operations, PeerRole, RefusalCode, Refused, VERSION_MAX,
    VERSION_MIN, Welcome,
};
use crate::role::{Effect, Outbox, PeerId};

/// How often clients are looked over for silence: their time is kept to a quarter of a ping.
const SWEEP_MS: u64 = CLIENT_PING_MS / 4;

/// How far a client's connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientPhase {
    /// No hello yet.
    Strange,
    Established,
    /// Asked to be closed; what still comes is not looked at.
    Closing,
}

/// Who sends requests on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A user of the ledger.
    Client,
    /// Another front's balancer: the router of this process serves it, and nobody else.
    Front,
}

/// One accepted connection.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) peer: PeerId,
    pub(super) phase: ClientPhase,
    pub(super) origin: Origin,
    pub(super) is_paused: bool,
    /// Request frames without all their receipts.
    pub(super) frame_count: u32,
    heard_at: Tick,
    is_asked: bool,
}

impl Client {
    /// May anything be sent to it?
    pub(super) fn is_open(&self) -> bool {
        self.phase == ClientPhase::Established
    }
}

/// The version to speak with a side that speaks `min` to `max`.
pub(super) fn common_version(min: u16, max: u16) -> Option<u16> {
    let version = max.min(VERSION_MAX);
    (min.max(VERSION_MIN) <= version).then_some(version)
}

/// What is wrong if this side and the other name different clusters.
pub(super) fn hello_mismatch(own: Option<ClusterId>, other: Option<ClusterId>) -> Option<String> {
    match (own, other) {
        (Some(own), Some(other)) if own != other => {
            Some(format!("this is cluster {own}, not {other}"))
        }
        _ => None,
    }
}

impl Front {
    pub(super) fn add_client(&mut self, now: Tick, peer: PeerId) {
        if self.clients.count() == 0 {
            self.clients_due = now.plus_ms(SWEEP_MS);
        }
        let key = self.clients.insert(Client {
            peer,
            phase: ClientPhase::Strange,
            origin: Origin::Client,
            is_paused: false,
            frame_count: 0,
            heard_at: now,
            is_asked: false,
        });
        self.peers.insert(peer, Peer::Client(key));
    }

    fn client(&mut self, key: Key) -> &mut Client {
        self.clients
            .get_mut(key)
            .expect("peers name only clients that are there")
    }

    /// Takes a frame of a client.
    pub(super) fn on_client_frame(
        &mut self,
        now: Now,
        key: Key,
        frame: &Frame<'_>,
        out: &mut Outbox,
    ) {
        let client = self.client(key);
        client.heard_at = now.tick;
        client.is_asked = false;
        let phase = client.phase;
        if phase == ClientPhase::Closing {
            return;
        }
        let message = match Message::read(frame) {
            Ok(message) => message,
            Err(error) => {
                let text = error.to_string();
                self.refuse_client(key, RefusalCode::Malformed, &text, out);
                return;
            }
        };
        match (phase, message) {
            (ClientPhase::Strange, Message::Hello(hello)) => self.on_hello(now, key, &hello, out),
            (ClientPhase::Strange, other) => {
                let text = format!("expected a hello, found {}", other.kind().name());
                self.refuse_client(key, RefusalCode::Unexpected, &text, out);
            }
            (ClientPhase::Established, message) => {
                self.on_client_message(now, key, &frame.header, message, out);
            }
            (ClientPhase::Closing, _) => unreachable!("left above"),
        }
    }

    fn on_hello(&mut self, now: Now, key: Key, hello: &Hello, out: &mut Outbox) {
        match self.judge_hello(hello) {
            Ok((version, cluster)) => {
                let origin = match hello.role {
                    PeerRole::Front => Origin::Front,
                    PeerRole::Client | PeerRole::Node | PeerRole::Backup => Origin::Client,
                };
                self.welcome(now, key, origin, (version, cluster), out);
            }
            Err((code, text)) => self.refuse_client(key, code, &text, out),
        }
    }

    /// The version to speak and the cluster to name, or why not.
    fn judge_hello(&self, hello: &Hello) -> Result<(u16, ClusterId), (RefusalCode, String)> {
        let Some(version) = common_version(hello.version_min, hello.version_max) else {
            let text = format!("supported versions are {VERSION_MIN} to {VERSION_MAX}");
            return Err((RefusalCode::Version, text));
        };
        let is_welcome = match hello.role {
            PeerRole::Client => true,
            PeerRole::Front => self.options.roles.routes(),
            PeerRole::Node | PeerRole::Backup => false,
        };
        if !is_welcome {
            let text = format!("this front serves no {:?}", hello.role).to_lowercase();
            return Err((RefusalCode::Unexpected, text));
        }
        if let Some(text) = hello_mismatch(self.cluster, hello.cluster) {
            return Err((RefusalCode::WrongCluster, text));
        }
        if !self.is_serving() {
            return Err((RefusalCode::Closing, "this front is ending".to_owned()));
        }
        let cluster = self.cluster.ok_or_else(|| {
            let text = "this front has not reached its backup yet".to_owned();
            (RefusalCode::NotReady, text)
        })?;
        Ok((version, cluster))
    }

    fn welcome(
        &mut self,
        now: Now,
        key: Key,
        origin: Origin,
        (version, cluster): (u16, ClusterId),
        out: &mut Outbox,
    ) {
        let frame_size_max = match origin {
            Origin::Client => FRAME_SIZE_MAX,
            Origin::Front => LINK_FRAME_SIZE_MAX,
        };
        let frames_in_flight_max = self.options.limits.client_frame_count_max;
        let is_paused = self.is_paused && origin == Origin::Client;
        let client = self.client(key);
        client.phase = ClientPhase::Established;
        client.origin = origin;
        client.is_paused = is_paused;
        let peer = client.peer;
        let welcome = Welcome {
            version,
            role: PeerRole::Front,
            cluster,
            time_ms: now.wall_ms,
            frame_size_max,
            batch_count_max: BATCH_COUNT_MAX,
            deadline_ms_max: DEADLINE_MS_MAX,
            frames_in_flight_max,
        };
        out.send(peer, &Message::Welcome(welcome));
        out.effect(Effect::Established {
            peer,
            frame_size_max,
        });
        if is_paused {
            out.effect(Effect::Pause { peer });
        }
    }

    fn on_client_message(
        &mut self,
        now: Now,
        key: Key,
        header: &Header,
        message: Message<'_>,
        out: &mut Outbox,
    ) {
        let request = header.request;
        match message {
            Message::Request {
                deadline_ms,
                operations,
            } => self.on_request(now.tick, key, (request, deadline_ms), operations, out),
            Message::Ping => {
                let pong = Message::Pong {
                    time_ms: now.wall_ms,
                };
                let peer = self.client(key).peer;
                pong.write_for(out.buffer(peer), request);
            }
            // A sign of life, noted above.
            Message::Pong { .. } => (),
            Message::StatusAsk => self.ask(now.tick, key, (request, AskKind::Status), out),
            Message::AuditAsk => self.ask(now.tick, key, (request, AskKind::Audit), out),
            Message::ClusterAsk(ask) => {
                self.ask(now.tick, key, (request, AskKind::Cluster(ask)), out);
            }
            Message::Hello(_)
            | Message::Welcome(_)
            | Message::Refused(_)
            | Message::Goaway
            | Message::Receipts(_)
            | Message::Rows { .. }
            | Message::StatusTold { .. }
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
            | Message::ClusterTold { .. }
            | Message::MoveOrder(_)
            | Message::MoveTold(_)
            | Message::MoveFileAsk(_)
            | Message::MoveFilePart(_)
            | Message::Recover { .. }
            | Message::Recorded(_) => {
                let text = format!("a front takes no {} from a client", header.kind.name());
                self.refuse_client(key, RefusalCode::Unexpected, &text, out);
            }
        }
    }

    fn on_request(
        &mut self,
        now: Tick,
        key: Key,
        (request, deadline_ms): (u64, u32),
        operations: Operations<'_>,
        out: &mut Outbox,
    ) {
        let limits = self.options.limits;
        let client = self.client(key);
        if limits.client_frame_count_max <= client.frame_count {
            let text = format!("{} requests are in flight", client.frame_count);
            self.refuse_client(key, RefusalCode::TooManyFrames, &text, out);
            return;
        }
        client.frame_count += 1;
        let origin = client.origin;
        let deadline_ms = match deadline_ms {
            0 => limits.deadline_ms_default,
            ms => ms.min(DEADLINE_MS_MAX),
        };
        let deadline = now.plus_ms(u64::from(deadline_ms));
        let batch = self.flight.begin(key, request, deadline, origin);
        self.admit(batch, operations);
    }

    /// Tells a client why, and closes its connection. Its batches go on without it.
    pub(super) fn refuse_client(
        &mut self,
        key: Key,
        code: RefusalCode,
        text: &str,
        out: &mut Outbox,
    ) {
        // What was answered in this turn leaves before the last word.
        self.write_answers(out);
        let peer = self.client(key).peer;
        let refused = Refused {
            code,
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            text,
        };
        out.send(peer, &Message::Refused(refused));
        self.close_client(key, text, out);
    }

    fn close_client(&mut self, key: Key, reason: &str, out: &mut Outbox) {
        let client = self.client(key);
        client.phase = ClientPhase::Closing;
        let peer = client.peer;
        let reason = reason.to_owned();
        out.effect(Effect::Close { peer, reason });
    }

    /// No client counts as silent before a full period from now on.
    pub(super) fn forgive_clients(&mut self, now: Tick) {
        let indexes: Vec<u32> = self.clients.indexes().collect();
        for index in indexes {
            self.clients.at_mut(index).heard_at = now;
        }
    }

    /// Asks silent clients for a sign of life and closes those that gave none.
    pub(super) fn tick_clients(&mut self, now: Tick, out: &mut Outbox) {
        if now < self.clients_due {
            return;
        }
        self.clients_due = now.plus_ms(SWEEP_MS);
        let indexes: Vec<u32> = self.clients.indexes().collect();
        for index in indexes {
            let key = self.clients.key_at(index);
            let client = self.client(key);
            let silent_ms = now.since(client.heard_at).div_ceil(1_000_000);
            if !client.is_open() || client.is_paused || silent_ms < CLIENT_PING_MS {
                continue;
            }
            if !client.is_asked {
                client.is_asked = true;
                let peer = client.peer;
                out.send(peer, &Message::Ping);
            } else if 2 * CLIENT_PING_MS <= silent_ms {
                self.refuse_client(key, RefusalCode::TooSlow, "no sign of life", out);
            }
        }
    }

    /// Stops reading from clients above three quarters of the budget, and reads again below half
    /// of it: the quarter in between keeps it from toggling at every frame.
    pub(super) fn balance_reading(&mut self, out: &mut Outbox) {
        let held = self.flight.held_count();
        let max = self.options.limits.operation_count_max;
        let is_paused = if self.is_paused {
            max / 2 < held
        } else {
            max - max / 4 <= held
        };
        if is_paused == self.is_paused {
            return;
        }
        self.is_paused = is_paused;
        let turned_at = self.turned_at;
        let indexes: Vec<u32> = self.clients.indexes().collect();
        for index in indexes {
            let client = self.clients.at_mut(index);
            if !client.is_open() || client.origin == Origin::Front {
                continue;
            }
            client.is_paused = is_paused;
            let peer = client.peer;
            if is_paused {
                out.effect(Effect::Pause { peer });
            } else {
                // It could not be heard meanwhile.
                client.heard_at = client.heard_at.max(turned_at);
                out.effect(Effect::Resume { peer });
            }
        }
    }

    /// Tells every client to send no new requests here.
    pub(super) fn send_goaway(&mut self, out: &mut Outbox) {
        for index in self.clients.indexes() {
            let client = self.clients.at(index);
            if client.is_open() {
                out.send(client.peer, &Message::Goaway);
            }
        }
    }

    /// Closes every connection that was accepted.
    pub(super) fn close_clients(&mut self, out: &mut Outbox) {
        let indexes: Vec<u32> = self.clients.indexes().collect();
        for index in indexes {
            let key = self.clients.key_at(index);
            match self.client(key).phase {
                ClientPhase::Strange => {
                    self.refuse_client(key, RefusalCode::Closing, "this front is ending", out);
                }
                ClientPhase::Established => self.close_client(key, "", out),
                ClientPhase::Closing => (),
            }
        }
    }
}
