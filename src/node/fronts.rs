//! Connections from fronts: greeting, signs of life, and what a node does not take.

use crate::clock::Now;
use crate::limits;
use crate::model::{ClusterId, Map, new_map};
use crate::protocol::{
    Frame, Hello, Message, Operations, PeerRole, RefusalCode, Refused, VERSION_MAX, VERSION_MIN,
    Welcome,
};
use crate::role::{Effect, Outbox, PeerId};

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The hello is due.
    Silent,
    /// Welcomed: requests may come.
    Greeted,
}

/// All connections from fronts.
#[derive(Debug)]
pub(super) struct Fronts {
    stages: Map<PeerId, Stage>,
    /// Those that were greeted, in that order: who is told that the node ends.
    greeted: Vec<PeerId>,
}

impl Fronts {
    pub(super) fn new() -> Self {
        Self {
            stages: new_map(),
            greeted: Vec::new(),
        }
    }

    pub(super) fn opened(&mut self, peer: PeerId) {
        self.stages.insert(peer, Stage::Silent);
    }

    /// True if it was a front's connection.
    pub(super) fn closed(&mut self, peer: PeerId) -> bool {
        self.greeted.retain(|greeted| *greeted != peer);
        self.stages.remove(&peer).is_some()
    }

    /// May something be sent to the peer?
    pub(super) fn is_open(&self, peer: PeerId) -> bool {
        self.stages.contains_key(&peer)
    }

    /// Tells all of them to send nothing new.
    pub(super) fn say_goodbye(&self, out: &mut Outbox) {
        for peer in &self.greeted {
            out.send(*peer, &Message::Goaway);
        }
    }

    /// Takes one frame. The operations of a request are for the rest of the node.
    pub(super) fn frame<'a>(
        &mut self,
        peer: PeerId,
        frame: &Frame<'a>,
        cluster: Option<ClusterId>,
        now: Now,
        out: &mut Outbox,
    ) -> Option<Operations<'a>> {
        let stage = self.stages.get(&peer).copied()?;
        let message = match Message::read(frame) {
            Ok(message) => message,
            Err(error) => {
                self.refuse(peer, RefusalCode::Malformed, &error.to_string(), out);
                return None;
            }
        };
        match stage {
            Stage::Silent => {
                if let Message::Hello(hello) = message {
                    self.greet(peer, &hello, cluster, now, out);
                } else {
                    self.refuse(peer, RefusalCode::Unexpected, "a hello is due", out);
                }
                None
            }
            Stage::Greeted => self.greeted_message(peer, frame, &message, now, out),
        }
    }

    fn greet(
        &mut self,
        peer: PeerId,
        hello: &Hello,
        cluster: Option<ClusterId>,
        now: Now,
        out: &mut Outbox,
    ) {
        if VERSION_MAX < hello.version_min || hello.version_max < VERSION_MIN {
            self.refuse(peer, RefusalCode::Version, "no common version", out);
            return;
        }
        let Some(cluster) = cluster else {
            let text = "the node has not found its cluster yet";
            self.refuse(peer, RefusalCode::NotReady, text, out);
            return;
        };
        if hello.cluster.is_some_and(|other| other != cluster) {
            let text = format!("this node belongs to cluster {cluster}");
            self.refuse(peer, RefusalCode::WrongCluster, &text, out);
            return;
        }
        if hello.role != PeerRole::Front {
            self.refuse(peer, RefusalCode::Unexpected, "a node serves fronts", out);
            return;
        }
        self.stages.insert(peer, Stage::Greeted);
        self.greeted.push(peer);
        out.send(
            peer,
            &Message::Welcome(Welcome {
                version: hello.version_max.min(VERSION_MAX),
                role: PeerRole::Node,
                cluster,
                time_ms: now.wall_ms,
                frame_size_max: limits::LINK_FRAME_SIZE_MAX,
                batch_count_max: limits::BATCH_COUNT_MAX,
                deadline_ms_max: limits::DEADLINE_MS_MAX,
                frames_in_flight_max: limits::NODE_QUEUED_COUNT_MAX,
            }),
        );
        out.effect(Effect::Established {
            peer,
            frame_size_max: limits::LINK_FRAME_SIZE_MAX,
        });
    }

    fn greeted_message<'a>(
        &mut self,
        peer: PeerId,
        frame: &Frame<'a>,
        message: &Message<'a>,
        now: Now,
        out: &mut Outbox,
    ) -> Option<Operations<'a>> {
        match message {
            Message::Request { operations, .. } => Some(*operations),
            Message::Ping => {
                let pong = Message::Pong {
                    time_ms: now.wall_ms,
                };
                pong.write_for(out.buffer(peer), frame.header.request);
                None
            }
            Message::Pong { .. } | Message::Goaway | Message::Refused(_) => None,
            Message::Hello(_)
            | Message::Welcome(_)
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
            | Message::Recorded(_) => {
                self.refuse(peer, RefusalCode::Unexpected, "a node takes requests", out);
                None
            }
        }
    }

    fn refuse(&mut self, peer: PeerId, code: RefusalCode, text: &str, out: &mut Outbox) {
        refuse(peer, code, text, out);
        self.closed(peer);
    }
}

/// Ends a connection with a coded reason.
pub(super) fn refuse(peer: PeerId, code: RefusalCode, text: &str, out: &mut Outbox) {
    out.send(
        peer,
        &Message::Refused(Refused {
            code,
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            text,
        }),
    );
    out.effect(Effect::Close {
        peer,
        reason: format!("{}: {text}", code.name()),
    });
}
