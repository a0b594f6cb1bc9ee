//! Connections: the handshake, who may say what, and how a connection ends.

use super::stream::{Presence, Stream};
use super::{Running, Stage};
use crate::clock::{Now, Tick};
use crate::limits;
use crate::model::{Incarnation, LogNumber, NodeId};
use crate::protocol::{
    Frame, Hello, MemberState, Message, PeerRole, RefusalCode, Refused, VERSION_MAX, VERSION_MIN,
    Welcome,
};
use crate::role::{Effect, Level, Outbox, PeerId};

/// One connection.
#[derive(Debug)]
pub(super) struct Peer {
    standing: Standing,
    /// When it last said anything.
    pub(super) heard: Tick,
    /// It follows the slot table; the next table goes under this request number.
    pub(super) follows: Option<u64>,
    /// The log that it may append to.
    pub(super) owns: Option<LogNumber>,
    /// Reads for it that are under way.
    pub(super) read_count: u32,
    /// It is not read from at the moment.
    pub(super) paused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It said nothing yet.
    Fresh,
    /// The handshake is done.
    Established(Greeted),
    /// It was told to go: what it still says is not heard.
    Closing,
}

/// Who a peer said that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Greeted {
    pub(super) role: PeerRole,
    pub(super) node: Option<NodeId>,
    pub(super) incarnation: Incarnation,
}

/// A frame's sender and the number that answers repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) peer: PeerId,
    pub(super) request: u64,
}

impl Peer {
    const fn new(now: Tick) -> Self {
        Self {
            standing: Standing::Fresh,
            heard: now,
            follows: None,
            owns: None,
            read_count: 0,
            paused: false,
        }
    }

    pub(super) const fn is_established(&self) -> bool {
        matches!(self.standing, Standing::Established(_))
    }

    pub(super) const fn is_closing(&self) -> bool {
        matches!(self.standing, Standing::Closing)
    }

    /// Did it talk lately? One that is not read from cannot be heard.
    pub(super) fn is_talking(&self, now: Tick, silence_ms_max: u64) -> bool {
        self.is_established() && (self.paused || now <= self.heard.plus_ms(silence_ms_max))
    }
}

impl Running {
    pub(super) fn on_opened(&mut self, now: Now, peer: PeerId) {
        self.peers.insert(peer, Peer::new(now.tick));
    }

    pub(super) fn on_closed(&mut self, peer: PeerId) {
        self.release(peer);
        self.drop_claims(peer);
        self.audit.forget(peer);
        self.moves.forget(peer);
        self.peers.remove(&peer);
    }

    pub(super) fn on_frame(&mut self, now: Now, peer: PeerId, frame: &Frame<'_>, out: &mut Outbox) {
        // A connection from before the record was there may still speak after its refusal.
        let entry = self.peers.entry(peer);
        let state = entry.or_insert_with(|| Peer::new(now.tick));
        state.heard = now.tick;
        let standing = state.standing;
        let request = frame.header.request;
        let asker = Asker { peer, request };
        if standing == Standing::Closing {
            return;
        }
        let message = match Message::read(frame) {
            Ok(message) => message,
            Err(error) => {
                self.refuse(asker, RefusalCode::Malformed, &error.to_string(), out);
                return;
            }
        };
        match standing {
            Standing::Fresh => {
                if let Message::Hello(hello) = message {
                    self.on_hello(now, asker, &hello, out);
                } else {
                    let text = "the first frame of a connection is a hello";
                    self.refuse(asker, RefusalCode::Unexpected, text, out);
                }
            }
            Standing::Established(greeted) => self.route(now, asker, greeted, message, out),
            Standing::Closing => (),
        }
    }

    fn on_hello(&mut self, now: Now, asker: Asker, hello: &Hello, out: &mut Outbox) {
        let cluster = self.authority.record().cluster;
        if hello.version_max < VERSION_MIN || VERSION_MAX < hello.version_min {
            let text = format!("versions {VERSION_MIN} to {VERSION_MAX} are spoken here");
            self.refuse(asker, RefusalCode::Version, &text, out);
            return;
        }
        if hello.cluster.is_some_and(|theirs| theirs != cluster) {
            let text = format!("this is the backup of cluster {cluster}");
            self.refuse(asker, RefusalCode::WrongCluster, &text, out);
            return;
        }
        match self.stage {
            Stage::Opening => {
                let text = "the backup is opening its logs";
                self.refuse(asker, RefusalCode::NotReady, text, out);
                return;
            }
            Stage::Stopping | Stage::Ended => {
                self.refuse(asker, RefusalCode::Closing, "the backup is ending", out);
                return;
            }
            Stage::Serving => (),
        }
        let frame_size_max = match hello.role {
            PeerRole::Client => limits::FRAME_SIZE_MAX,
            PeerRole::Front | PeerRole::Node => limits::LINK_FRAME_SIZE_MAX,
            PeerRole::Backup => {
                let text = "a backup does not serve another one";
                self.refuse(asker, RefusalCode::Unexpected, text, out);
                return;
            }
        };
        if hello.role == PeerRole::Node && hello.node.is_none() {
            self.refuse(
                asker,
                RefusalCode::Malformed,
                "a node names its number",
                out,
            );
            return;
        }
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
        let greeted = Greeted {
            role: hello.role,
            node: hello.node,
            incarnation: hello.incarnation,
        };
        let peer = asker.peer;
        if let Some(state) = self.peers.get_mut(&peer) {
            state.standing = Standing::Established(greeted);
        }
        Message::Welcome(welcome).write_for(out.buffer(peer), asker.request);
        out.effect(Effect::Established {
            peer,
            frame_size_max,
        });
    }

    fn route(
        &mut self,
        now: Now,
        asker: Asker,
        greeted: Greeted,
        message: Message<'_>,
        out: &mut Outbox,
    ) {
        let is_node = greeted.role == PeerRole::Node;
        let follower = is_node || greeted.role == PeerRole::Front;
        match message {
            Message::Append(append) if is_node => self.on_append(now, asker, &append, out),
            Message::Beat(beat) if is_node => self.on_beat(now, asker, &beat, out),
            Message::Register(register) if is_node => {
                self.on_register(now, asker, greeted, &register, out);
            }
            Message::Fetch(fetch) if is_node => self.on_fetch(asker, &fetch, out),
            Message::CheckpointAsk(ask) if is_node => self.on_checkpoint_ask(asker, ask, out),
            Message::EntryAsk { place } if is_node => self.on_entry_ask(asker, place, out),
            Message::MoveTold(told) if is_node => self.on_move_told(now, asker, &told, out),
            Message::MoveFileAsk(ask) if is_node => self.on_move_file_ask(asker, &ask, out),
            Message::Follow if follower => self.on_follow(asker, out),
            Message::StatusAsk => self.tell_status(now, asker, out),
            Message::AuditAsk => self.on_audit_ask(asker, out),
            Message::ClusterAsk(ask) if !is_node => self.on_cluster_ask(now, asker, &ask, out),
            Message::Ping => {
                let pong = Message::Pong {
                    time_ms: now.wall_ms,
                };
                pong.write_for(out.buffer(asker.peer), asker.request);
            }
            Message::Pong { .. } | Message::Goaway => (),
            Message::Refused(refused) => {
                let reason = format!("told {}: {}", refused.code.name(), refused.text);
                self.close(asker.peer, reason, out);
            }
            Message::Append(_)
            | Message::Beat(_)
            | Message::Register(_)
            | Message::Fetch(_)
            | Message::CheckpointAsk(_)
            | Message::EntryAsk { .. }
            | Message::Follow
            | Message::Hello(_)
            | Message::Welcome(_)
            | Message::Request { .. }
            | Message::Receipts(_)
            | Message::Rows { .. }
            | Message::StatusTold { .. }
            | Message::AuditTold { .. }
            | Message::Granted(_)
            | Message::Appended(_)
            | Message::Resend { .. }
            | Message::Confirmed(_)
            | Message::Fetched(_)
            | Message::CheckpointPart(_)
            | Message::EntryRead(_)
            | Message::Table(_)
            | Message::ClusterAsk(_)
            | Message::ClusterTold { .. }
            | Message::MoveOrder(_)
            | Message::MoveTold(_)
            | Message::MoveFileAsk(_)
            | Message::MoveFilePart(_)
            | Message::Recover { .. }
            | Message::Recorded(_) => {
                let kind = message.kind().name();
                let text = format!("a backup takes no {kind} from a {:?}", greeted.role);
                self.refuse(asker, RefusalCode::Unexpected, &text, out);
            }
        }
    }

    /// How the member of a log stands now.
    pub(super) fn state_of(&self, stream: &Stream) -> MemberState {
        let silence_ms_max = self.options.limits.silence_ms_max;
        let peer = stream.owner.and_then(|owner| self.peers.get(&owner.peer));
        match peer {
            Some(peer) if peer.is_talking(self.turn, silence_ms_max) => MemberState::Present,
            Some(_) | None => MemberState::Away,
        }
    }

    /// Says why, and ends the connection.
    pub(super) fn refuse(&mut self, asker: Asker, code: RefusalCode, text: &str, out: &mut Outbox) {
        let refused = Refused {
            code,
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            text,
        };
        Message::Refused(refused).write_for(out.buffer(asker.peer), asker.request);
        self.close(asker.peer, format!("{}: {text}", code.name()), out);
    }

    /// Ends a connection once what is queued for it has left. What it still says is not heard.
    pub(super) fn close(&mut self, peer: PeerId, reason: String, out: &mut Outbox) {
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        if state.standing == Standing::Closing {
            return;
        }
        state.standing = Standing::Closing;
        state.follows = None;
        self.release(peer);
        self.drop_claims(peer);
        self.audit.forget(peer);
        self.moves.forget(peer);
        out.effect(Effect::Close { peer, reason });
    }

    /// The peer no longer owns a log. What was accepted from it stays accepted.
    fn release(&mut self, peer: PeerId) {
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        if let Some(log) = state.owns.take() {
            let stream = self.streams.get_mut(&log).expect("an owner has a stream");
            stream.owner = None;
            stream.last_heard = state.heard;
            stream.presence = Presence::Gone;
            stream.begin_answers();
            self.table_changed = true;
            self.touch(log);
        }
    }

    /// Everything is to be finished before the process ends.
    pub(super) fn on_stop(&mut self, out: &mut Outbox) {
        self.stage = match self.stage {
            Stage::Opening | Stage::Serving => Stage::Stopping,
            stage @ (Stage::Stopping | Stage::Ended) => stage,
        };
        let text = "stopping: what was accepted is made durable first".to_owned();
        self.say(Level::Info, text, out);
        for (peer, state) in &self.peers {
            if state.is_established() {
                out.send(*peer, &Message::Goaway);
            }
        }
        for stream in self.streams.values_mut() {
            stream.forget_claim();
        }
    }
}
