//! What a node gives to a backup that is made again: its generation is recorded first, then the
//! backup copies checkpoint, blocks and images of this node's log (docs/decisions/0002-recover.md).
//!
//! Only what lies on the disk is given: a node that serves, or is on its way to that, begins a new
//! life first. Who is given up, and what the logs mean together, is the backup's business.

use bytes::BytesMut;

use super::fronts::refuse;
use super::identity::Identity;
use super::shared::{Halt, LocalLog};
use super::start::{Start, Step};
use super::{Node, Phase};
use crate::clock::Now;
use crate::limits::FETCH_SIZE_MAX;
use crate::model::Generation;
use crate::protocol::{
    CheckpointPart, Fetched, Message, MoveFilePart, NodeIds, Recorded, RefusalCode, put_node_id,
};
use crate::role::{DiskReply, DiskRequest, Effect, Outbox, PeerId};

impl Start {
    /// The log, as long as nobody was asked what to do with it.
    fn untouched(&self) -> Option<&LocalLog> {
        let is_first = matches!(self.step, Step::Registering) && self.grant.is_none();
        self.local.as_ref().filter(|_| is_first)
    }
}

impl Node {
    /// A backup that is made again wants its generation recorded.
    pub(super) fn recover(
        &mut self,
        peer: PeerId,
        generation: Generation,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let link = &self.shared.link;
        let is_due = link.is_registering() || link.giving() == Some(peer);
        let Some(last) = self.shared.identity.filter(|_| is_due) else {
            let text = "only who registered with a log is asked to record a generation";
            self.break_link(peer, RefusalCode::Unexpected, text, now, out);
            return Ok(());
        };
        let untouched = match &self.phase {
            Phase::Starting(start) => start.untouched(),
            Phase::New | Phase::Running(_) | Phase::Ended => None,
        };
        let is_old = match untouched {
            Some(_) => generation < last.generation,
            // What it has it got in this life, from a backup of the generation that it has.
            None => generation <= last.generation,
        };
        if is_old {
            return Err(Halt::damage(format!(
                "the backup is older than this node: it is made again as generation {generation}, \
                 this node worked under generation {}",
                last.generation
            )));
        }
        let Some(local) = untouched else {
            return Err(Halt::recovering(format!(
                "the backup is made again from the nodes, as generation {generation}"
            )));
        };
        if local.damaged {
            return Err(Halt::damage(format!(
                "log {} is damaged behind block {}, and the backup that had it is lost: this node \
                 must be given up",
                local.log, local.end.seq
            )));
        }
        self.shared.link.give(peer);
        if last.generation < generation {
            let identity = Identity { generation, ..last };
            self.shared.save_identity(identity, out);
        } else if self.shared.saving_count == 0 {
            self.tell_recorded(out);
        }
        Ok(())
    }

    /// The generation is durable, if the backup waits for that.
    pub(super) fn tell_recorded(&self, out: &mut Outbox) {
        let (Some(peer), Phase::Starting(start)) = (self.shared.link.giving(), &self.phase) else {
            return;
        };
        let (Some(identity), Some(local)) = (self.shared.identity, &start.local) else {
            return;
        };
        let known = &self.shared.known;
        let Some(ring_key) = known.ring_key else {
            // Saved by a version that did not keep it, and never started by this one.
            let text = "this node does not know the cluster's hash key: it must be given up";
            refuse(peer, RefusalCode::NotReady, text, out);
            return;
        };
        let mut members = BytesMut::new();
        for node in &known.members {
            put_node_id(&mut members, *node);
        }
        let recorded = Recorded {
            generation: identity.generation,
            ring_key,
            segment_size: local.segment_size,
            first_offset: local.first_offset,
            checkpoint_size: local.checkpoint.map_or(0, |checkpoint| checkpoint.size),
            log_max: known.log_max,
            members: NodeIds::new(&members).expect("whole numbers were written"),
        };
        out.send(peer, &Message::Recorded(recorded));
    }

    /// Reads what the backup asks for. One at a time.
    pub(super) fn give(
        &mut self,
        peer: PeerId,
        ticket: u64,
        asked: &Message<'_>,
        now: Now,
        out: &mut Outbox,
    ) {
        let Phase::Starting(start) = &mut self.phase else {
            return;
        };
        let Some(request) = read_for(start.untouched(), asked, ticket) else {
            let text = "a node gives what is in its own log, and nothing else";
            self.break_link(peer, RefusalCode::WrongLog, text, now, out);
            return;
        };
        if start.gives.contains(&peer) {
            let text = "a node gives one piece at a time";
            self.break_link(peer, RefusalCode::TooManyFrames, text, now, out);
            return;
        }
        start.gives.push_back(peer);
        out.effect(Effect::Disk(request));
    }

    /// Sends what was read for the backup. What is not for it is given back.
    pub(super) fn given(&mut self, reply: DiskReply, out: &mut Outbox) -> Option<DiskReply> {
        let Phase::Starting(start) = &mut self.phase else {
            return Some(reply);
        };
        if start.gives.is_empty() {
            return Some(reply);
        }
        let Some((ticket, message)) = message_of(&reply) else {
            return Some(reply);
        };
        // The reader answers in order. Who asked may be gone.
        let asker = start.gives.pop_front();
        if let Some(peer) = self
            .shared
            .link
            .giving()
            .filter(|peer| asker == Some(*peer))
        {
            message.write_for(out.buffer(peer), ticket);
        }
        None
    }
}

/// What was read, as the backup takes it, and the number that it asked under.
fn message_of(reply: &DiskReply) -> Option<(u64, Message<'_>)> {
    if let DiskReply::BlocksRead {
        log,
        ticket,
        offset,
        blocks,
    } = reply
    {
        let fetched = Fetched {
            log: *log,
            offset: *offset,
            blocks,
        };
        return Some((*ticket, Message::Fetched(fetched)));
    }
    if let DiskReply::CheckpointRead {
        log,
        ticket,
        size,
        offset,
        bytes,
    } = reply
    {
        let part = CheckpointPart {
            log: *log,
            size: *size,
            offset: *offset,
            bytes,
        };
        return Some((*ticket, Message::CheckpointPart(part)));
    }
    if let DiskReply::MoveFileRead {
        number,
        ticket,
        size,
        offset,
        bytes,
    } = reply
    {
        let part = MoveFilePart {
            image: *number,
            size: *size,
            offset: *offset,
            bytes,
        };
        return Some((*ticket, Message::MoveFilePart(part)));
    }
    None
}

/// What is to be read for the backup. `None`: it has no business with that.
fn read_for(local: Option<&LocalLog>, asked: &Message<'_>, ticket: u64) -> Option<DiskRequest> {
    let local = local?;
    let size_of = |size_max: u32| size_max.clamp(1, FETCH_SIZE_MAX);
    if let Message::Fetch(fetch) = asked {
        return (fetch.log == local.log).then_some(DiskRequest::ReadBlocks {
            log: fetch.log,
            offset: fetch.offset,
            below: local.end.offset,
            size_max: size_of(fetch.size_max),
            ticket,
        });
    }
    if let Message::CheckpointAsk(ask) = asked {
        return (ask.log == local.log).then_some(DiskRequest::ReadCheckpoint {
            log: ask.log,
            offset: ask.offset,
            size_max: size_of(ask.size_max),
            ticket,
        });
    }
    if let Message::MoveFileAsk(ask) = asked {
        return Some(DiskRequest::ReadMoveFile {
            number: ask.image,
            offset: ask.offset,
            size_max: size_of(ask.size_max),
            ticket,
        });
    }
    None
}
