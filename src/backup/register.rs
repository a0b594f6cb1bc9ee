//! Registrations, the fence, and the grant of a term.
//!
//! The fence before any new term: nothing more is accepted from the one before, what was
//! accepted becomes durable, then end and term are fixed, and the authority's file with the new
//! term is durable before the node hears of it. No acknowledgement above that end ever leaves.

use std::net::SocketAddr;

use bytes::BytesMut;

use super::authority::{MemberRecord, Shown};
use super::connections::{Asker, Greeted};
use super::stream::{Presence, Stream};
use super::{Running, Stage};
use crate::canary::{self, Bug};
use crate::clock::Now;
use crate::model::{Incarnation, LogEnd, LogNumber, NodeId, Term};
use crate::protocol::{Granted, Message, RefusalCode, Register, TermStarts, put_term_starts};
use crate::role::{DiskRequest, Effect, Level, Outbox, PeerId};

/// Who may append to a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// Its connection.
    pub(super) peer: PeerId,
    /// Its life.
    pub(super) incarnation: Incarnation,
    /// Its term, durable in the authority's file.
    pub(super) term: Term,
}

/// A registration that passed all tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    asker: Asker,
    incarnation: Incarnation,
    shown: Shown,
    address: SocketAddr,
}

/// How far the fence of a log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fence {
    /// Nobody waits.
    Open,
    /// What was accepted is becoming durable.
    Waiting(Claim),
    /// The log is being made.
    Creating(Claim),
    /// The term is being saved. `None`: who asked is gone; the term is used up all the same.
    Saving {
        incarnation: Incarnation,
        claim: Option<Claim>,
    },
}

impl Claim {
    pub(super) fn new(asker: Asker, incarnation: Incarnation, register: &Register<'_>) -> Self {
        Self {
            asker,
            incarnation,
            shown: shown(register),
            address: register.address,
        }
    }

    pub(super) const fn peer(&self) -> PeerId {
        self.asker.peer
    }

    pub(super) const fn asker(&self) -> Asker {
        self.asker
    }
}

/// Why a registration is not accepted.
pub(super) type Refusal = (RefusalCode, String);

impl Fence {
    /// Does nobody wait for the log?
    pub(super) const fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    const fn claim(&self) -> Option<&Claim> {
        match self {
            Self::Open => None,
            Self::Waiting(claim) | Self::Creating(claim) => Some(claim),
            Self::Saving { claim, .. } => claim.as_ref(),
        }
    }

    /// Does this connection wait for the log?
    pub(super) fn waits(&self, peer: PeerId) -> bool {
        self.claim().is_some_and(|claim| claim.asker.peer == peer)
    }

    const fn incarnation(&self) -> Option<Incarnation> {
        match self {
            Self::Open => None,
            Self::Waiting(claim) | Self::Creating(claim) => Some(claim.incarnation),
            Self::Saving { incarnation, .. } => Some(*incarnation),
        }
    }
}

impl Stream {
    /// The claim of a peer that is gone, or of anybody when the process ends.
    pub(super) fn forget_claim(&mut self) {
        self.fence = match self.fence {
            Fence::Open | Fence::Waiting(_) => Fence::Open,
            // The log will be there for the next one who asks.
            fence @ Fence::Creating(_) => fence,
            Fence::Saving { incarnation, .. } => Fence::Saving {
                incarnation,
                claim: None,
            },
        };
    }
}

impl Running {
    pub(super) fn on_register(
        &mut self,
        now: Now,
        asker: Asker,
        greeted: Greeted,
        register: &Register<'_>,
        out: &mut Outbox,
    ) {
        let node = register.node;
        if let Some(weight) = register.join
            && !self.authority.record().members.contains_key(&node)
        {
            self.on_join(asker, greeted, register, weight, out);
            return;
        }
        let log = match self.test_registration(now, asker, greeted, register) {
            Ok(log) => log,
            Err((code, text)) => {
                self.say_refusal(node, code, &text, out);
                self.refuse(asker, code, &text, out);
                return;
            }
        };
        let claim = Claim::new(asker, greeted.incarnation, register);
        self.stop_taking(log, out);
        let stream = &self.streams[&log];
        let older = [
            stream.owner.map(|owner| owner.peer),
            stream.fence.claim().map(|claim| claim.asker.peer),
        ];
        for peer in older.into_iter().flatten() {
            if canary::on(Bug::LateConnection) {
                continue;
            }
            self.close(peer, format!("node {node} registers anew"), out);
        }
        let stream = self.streams.get_mut(&log).expect("members have streams");
        stream.fence = match stream.fence {
            Fence::Open | Fence::Waiting(_) => Fence::Waiting(claim),
            Fence::Creating(_) => Fence::Creating(claim),
            Fence::Saving { incarnation, .. } => Fence::Saving {
                incarnation,
                claim: Some(claim),
            },
        };
        self.touch(log);
    }

    /// The tests of a registration, in the order in which they refuse.
    fn test_registration(
        &self,
        now: Now,
        asker: Asker,
        greeted: Greeted,
        register: &Register<'_>,
    ) -> Result<LogNumber, Refusal> {
        let refusal = |code, text: &str| Err((code, text.to_owned()));
        if self.stage != Stage::Serving {
            return refusal(RefusalCode::Closing, "the backup is ending");
        }
        if greeted.node != Some(register.node) {
            return refusal(RefusalCode::Unexpected, "the hello named another node");
        }
        let record = self.authority.record();
        let Some(member) = record.members.get(&register.node) else {
            return refusal(RefusalCode::NotAMember, "the cluster has no such node");
        };
        // What is not durable yet but will be binds already where it only refuses.
        let Some(latest) = self.authority.latest().members.get(&register.node) else {
            return refusal(RefusalCode::NotAMember, "the node is being removed");
        };
        let stream = &self.streams[&member.log];
        let pending = stream.fence.claim();
        if pending.is_some_and(|claim| claim.asker.peer == asker.peer)
            || self.peers[&asker.peer].owns.is_some()
        {
            return refusal(RefusalCode::Unexpected, "registered already");
        }
        if register.log.is_some_and(|log| log != member.log) {
            return refusal(RefusalCode::WrongLog, "this folder is another node's");
        }
        if let Some(text) = self.test_age(register, member.term, &stream.durable) {
            return Err((RefusalCode::BackupOlder, text));
        }
        if let Some(refusal) = replaced(member, greeted.incarnation) {
            return Err(refusal);
        }
        let shown = shown(register);
        let same_life = member.incarnation == Some(greeted.incarnation);
        if latest.diverged && (same_life || shown != Shown::Empty) {
            let text = "two histories of this log differ; an operator must decide. To go on \
                        with the backup's, start the node with an empty folder";
            return refusal(RefusalCode::Diverged, text);
        }
        if !latest.takes(shown) {
            let text = "this folder is a copy or an old one";
            return refusal(RefusalCode::WrongLog, text);
        }
        self.test_in_use(now, greeted.incarnation, stream)?;
        Ok(member.log)
    }

    /// Has the node seen what this backup does not have?
    pub(super) fn test_age(
        &self,
        register: &Register<'_>,
        term: Term,
        durable: &LogEnd,
    ) -> Option<String> {
        let record = self.authority.record();
        if record.generation < register.generation {
            return Some(format!(
                "the node has seen generation {}, this backup has {}",
                register.generation, record.generation
            ));
        }
        if record.ring_epoch() < register.ring_epoch {
            return Some(format!(
                "the node has seen ring epoch {}, this backup has {}",
                register.ring_epoch,
                record.ring_epoch()
            ));
        }
        if term < register.term {
            return Some(format!(
                "the node has worked in term {}, this backup knows {term}",
                register.term
            ));
        }
        if durable.seq < register.committed {
            return Some(format!(
                "the node knows block {} to be committed, the log here ends with {}",
                register.committed, durable.seq
            ));
        }
        None
    }

    /// Is another life of the node there and talking?
    fn test_in_use(
        &self,
        now: Now,
        incarnation: Incarnation,
        stream: &Stream,
    ) -> Result<(), Refusal> {
        let in_use = |text: &str| Err((RefusalCode::InUse, text.to_owned()));
        let silence_ms_max = self.options.limits.silence_ms_max;
        if let Some(owner) = &stream.owner {
            let talking = self.peers[&owner.peer].is_talking(now.tick, silence_ms_max);
            if owner.incarnation != incarnation && talking {
                return in_use("another process works under this node id");
            }
        }
        let waiting = stream.fence.incarnation();
        if waiting.is_some_and(|waiting| waiting != incarnation) {
            return in_use("another process is registering under this node id");
        }
        Ok(())
    }

    pub(super) fn say_refusal(
        &mut self,
        node: NodeId,
        code: RefusalCode,
        text: &str,
        out: &mut Outbox,
    ) {
        let grave = matches!(code, RefusalCode::BackupOlder | RefusalCode::Diverged);
        let level = if grave { Level::Alarm } else { Level::Warn };
        let text = format!("node {node} is refused, {}: {text}", code.name());
        self.say(level, text, out);
    }

    /// Claims of a connection that is gone lapse.
    pub(super) fn drop_claims(&mut self, peer: PeerId) {
        for stream in self.streams.values_mut() {
            let claim = stream.fence.claim();
            if claim.is_some_and(|claim| claim.asker.peer == peer) {
                stream.forget_claim();
            }
        }
    }

    /// Takes the fence of a log as far as it can go now.
    pub(super) fn advance_fence(&mut self, now: Now, log: LogNumber, out: &mut Outbox) {
        let record = self.authority.record();
        let Some(stream) = self.streams.get_mut(&log) else {
            return;
        };
        let Fence::Waiting(claim) = stream.fence else {
            return;
        };
        // Who comes while the log is taken over finds in it that it was.
        if !stream.is_quiet() || stream.taking.is_some() {
            return;
        }
        assert!(stream.owner.is_none(), "the one before was released");
        let node = stream.node;
        let latest = self.authority.latest().members.get(&node);
        if latest.is_none_or(|member| member.log != log) {
            // An operator was faster.
            stream.fence = Fence::Open;
            let text = format!("node {node} is being removed from the cluster");
            self.refuse(claim.asker, RefusalCode::NotAMember, &text, out);
            return;
        }
        let member = &record.members[&node];
        if let Some((code, text)) = replaced(member, claim.incarnation) {
            // It was not replaced yet when it asked.
            stream.fence = Fence::Open;
            self.refuse(claim.asker, code, &text, out);
            return;
        }
        if !stream.exists() {
            stream.fence = Fence::Creating(claim);
            out.effect(Effect::Disk(DiskRequest::CreateLog {
                log,
                cluster: record.cluster,
                segment_size: record.segment_size,
                after: LogEnd::default(),
            }));
            return;
        }
        let durable = stream.durable;
        if member.incarnation == Some(claim.incarnation) {
            // The same life again: it keeps its term. Only its address may be new.
            if member.address != Some(claim.address) {
                self.authority
                    .change_member(node, |member| member.address = Some(claim.address));
            }
            self.admit(now, log, claim, out);
            return;
        }
        stream.fence = Fence::Saving {
            incarnation: claim.incarnation,
            claim: Some(claim),
        };
        let copy = loop {
            let copy = self.random.u128();
            if copy != 0 && copy != member.copy {
                break copy;
            }
        };
        self.warn_of_loss(log, claim.shown, out);
        let number = self.authority.change_member(node, |member| {
            member.grant(claim.incarnation, claim.shown, copy, &durable, now.wall_ms);
            member.address = Some(claim.address);
        });
        self.grants.push_back((number, log));
    }

    /// A log was made for the one who waits for it.
    pub(super) fn on_created(&mut self, log: LogNumber) {
        if let Some(stream) = self.streams.get_mut(&log) {
            if let Fence::Creating(claim) = stream.fence {
                let peer = self.peers.get(&claim.asker.peer);
                stream.fence = if peer.is_some_and(super::connections::Peer::is_established) {
                    Fence::Waiting(claim)
                } else {
                    Fence::Open
                };
            }
            self.touch(log);
        }
    }

    /// A log could not be made for lack of space: who waits is to try again.
    pub(super) fn on_not_created(&mut self, log: LogNumber, out: &mut Outbox) {
        let Some(stream) = self.streams.get_mut(&log) else {
            return;
        };
        if let Fence::Creating(claim) = stream.fence {
            stream.fence = Fence::Open;
            let text = "the backup has no room for the log";
            self.refuse(claim.asker, RefusalCode::NotReady, text, out);
        }
    }

    /// A node whose removal is durable by now is told so, and hears nothing more. Comes before
    /// `sync_streams`, which remembers that it was.
    fn dismiss_removed(&mut self, out: &mut Outbox) {
        let retired = self.authority.record().retired.iter();
        let new = retired.filter(|(log, _)| self.streams.get(log).is_some_and(|s| !s.retired));
        let new: Vec<_> = new.map(|(log, (node, _))| (*log, *node)).collect();
        for (log, node) in new {
            let stream = self.streams.get_mut(&log).expect("it was just there");
            let owner = stream.owner.map(|owner| Asker {
                peer: owner.peer,
                request: 0,
            });
            let waiting = stream.fence.claim().map(|claim| claim.asker);
            stream.forget_claim();
            for asker in owner.into_iter().chain(waiting) {
                self.dismiss(node, asker, out);
            }
        }
    }

    /// Tells a node that its removal is durable.
    pub(super) fn dismiss(&mut self, node: NodeId, asker: Asker, out: &mut Outbox) {
        let text = format!("node {node} was removed from the cluster");
        self.refuse(asker, RefusalCode::NotAMember, &text, out);
    }

    /// The authority's file is durable: who waits for it may hear of it.
    pub(super) fn on_authority_saved(&mut self, now: Now, out: &mut Outbox) {
        self.authority.saved();
        self.table_changed = true;
        self.cut_tails(out);
        self.dismiss_removed(out);
        self.moves_saved(now, out);
        let through = self.authority.durable_through();
        while let Some((number, log)) = self.grants.front().copied() {
            if through < number {
                break;
            }
            self.grants.pop_front();
            let stream = self.streams.get_mut(&log).expect("members have streams");
            let Fence::Saving { claim, .. } = stream.fence else {
                continue;
            };
            match claim {
                Some(claim) => self.admit(now, log, claim, out),
                None => stream.fence = Fence::Open,
            }
        }
    }

    /// Makes the one who waits the owner of the log, and tells it so.
    fn admit(&mut self, now: Now, log: LogNumber, claim: Claim, out: &mut Outbox) {
        let record = self.authority.record();
        let stream = self.streams.get_mut(&log).expect("members have streams");
        let member = &record.members[&stream.node];
        assert!(member.incarnation == Some(claim.incarnation));
        assert!(stream.is_quiet());
        assert!(stream.accepted == stream.durable);
        let peer = claim.asker.peer;
        stream.fence = Fence::Open;
        stream.owner = Some(Owner {
            peer,
            incarnation: claim.incarnation,
            term: member.term,
        });
        stream.beat = None;
        stream.presence = Presence::Since(now.tick);
        stream.begin_answers();
        stream.replica.forget_probe();
        stream.retention.forget_claim();
        let mut starts = BytesMut::new();
        put_term_starts(&mut starts, &stream.terms);
        let granted = Granted {
            log,
            term: member.term,
            generation: record.generation,
            ring_epoch: record.ring_epoch(),
            ring_key: record.ring_key,
            copy: member.copy,
            end: stream.durable,
            first_offset: stream.first_offset,
            checkpoint_size: stream.checkpoint.map_or(0, |checkpoint| checkpoint.size),
            segment_size: stream.segment_size,
            clock_ms: now.wall_ms,
            terms: TermStarts::new(&starts).expect("whole records were written"),
        };
        let text = format!(
            "node {} has log {log} in term {}, behind block {}",
            stream.node, member.term, stream.durable.seq
        );
        Message::Granted(granted).write_for(out.buffer(peer), claim.asker.request);
        let state = self.peers.get_mut(&peer).expect("claims of the gone lapse");
        state.owns = Some(log);
        self.table_changed = true;
        self.moves.due = true;
        self.touch(log);
        self.say(Level::Info, text, out);
    }
}

/// Did the term of this incarnation go to somebody else?
fn replaced(member: &MemberRecord, incarnation: Incarnation) -> Option<Refusal> {
    if !member.was_replaced(incarnation) {
        return None;
    }
    if member.was_taken_from(incarnation) {
        let text = "the log was taken over, its slots have other owners".to_owned();
        return Some((RefusalCode::TakenOver, text));
    }
    let text = format!("term {} went to another incarnation", member.term);
    Some((RefusalCode::Fenced, text))
}

/// What a registration shows of the node's folder.
pub(super) fn shown(register: &Register<'_>) -> Shown {
    match (register.log, register.copy) {
        (None, 0) => Shown::Empty,
        (Some(log), copy) => Shown::Copy { log, copy },
        // No log, but the identity of one: no folder looks like that.
        (None, copy) => Shown::Copy {
            log: LogNumber::new(u16::MAX).expect("not 0"),
            copy,
        },
    }
}
