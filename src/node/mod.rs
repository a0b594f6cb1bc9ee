//! A business node: a ledger in memory whose database is its own log, copied to the backup.
//!
//! Pure: it is told what happened and says what is to be done. Reading order: `start` (from an
//! unknown folder to a replayed log), `restore` and `replay` (its steps), `running` (serving),
//! `turn` (one turn: requests to block), `lookups`, `prove` and `parked` (ids that may have been
//! seen), `search` (ids too old to be remembered), `commit` (what waits), `replicate` (sending to
//! the backup), `moves` (slots that come and go), `upkeep`.
//!
//! What always holds, checked after every turn in debug builds: the numbered points of the
//! `check_invariants` in `commit`, `parked`, `turn` and `running`.
//!
//! It decides nothing about ownership: terms and slots come from the authority.

mod clock;
mod commit;
mod fronts;
#[doc(hidden)]
pub mod fuzzing;
mod gather;
mod identity;
mod link;
mod lookups;
mod moves;
mod options;
mod parked;
mod prove;
mod reconcile;
mod recover;
mod replay;
mod replicate;
mod restore;
mod running;
mod search;
mod shared;
mod slots;
mod stall;
mod start;
mod turn;
mod upkeep;

#[cfg(test)]
mod tests;

use crate::canary::{self, Bug};
use crate::clock::{Now, Tick};
use crate::limits;
use crate::model::{Generation, ResultCode, RingEpoch, Term, to_usize};
use crate::protocol::{
    Appended, Beat, Confirmed, Frame, Granted, Message, MessageError, MoveFilePart, MoveOrder,
    PeerRole, RefusalCode, Refused, Table, Welcome,
};
use crate::role::{DiskReply, Effect, ExitCode, Input, Level, Link, Outbox, PeerId, Role};

use fronts::refuse;
use identity::Identity;
use running::Running;
use shared::{End, Grant, Halt, Shared, say};
use slots::SlotTable;
use start::Start;
use turn::answer_all;

pub use options::{NodeLimits, NodeOptions};

/// How far the node is.
#[derive(Debug)]
enum Phase {
    /// Before the first input.
    New,
    /// Finding out what its log is.
    Starting(Box<Start>),
    /// The ledger stands at the log's end.
    Running(Box<Running>),
    /// The process was told to end.
    Ended,
}

/// Which grant of this life one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// It brings a new term.
    First,
    /// The link was lost: the term stays.
    Again,
}

/// A business node.
#[derive(Debug)]
pub struct Node {
    shared: Shared,
    phase: Phase,
}

impl Node {
    /// A node that begins its start with the first input or turn.
    #[must_use]
    pub fn new(options: NodeOptions) -> Self {
        Self {
            shared: Shared::new(options),
            phase: Phase::New,
        }
    }

    fn begin(&mut self, out: &mut Outbox) {
        if matches!(self.phase, Phase::New) {
            self.phase = Phase::Starting(Box::new(Start::begin(out)));
        }
    }

    fn take(&mut self, now: Now, input: Input<'_>, out: &mut Outbox) -> Result<(), Halt> {
        match input {
            Input::Opened { peer, link } => self.opened(peer, link, now, out),
            Input::DialFailed { dial, error } => {
                if self.shared.link.is_dial(dial) {
                    let text = format!("the backup cannot be reached: {error}");
                    self.shared.link.say_once(Level::Warn, text, out);
                    self.shared.link.lost(now);
                }
            }
            Input::Frame { peer, frame } => return self.frame(peer, &frame, now, out),
            Input::Closed { peer, reason } => {
                if !self.shared.fronts.closed(peer) && self.shared.link.is_peer(peer) {
                    let text = format!("the link to the backup is lost: {reason:?}");
                    self.shared.link.say_once(Level::Warn, text, out);
                    self.link_lost(now);
                }
            }
            Input::Disk(reply) => return self.disk(reply, now, out),
            Input::Stop => return self.stop(now, out),
            Input::Drained { .. } | Input::Elapsed => (),
        }
        Ok(())
    }

    fn opened(&mut self, peer: PeerId, link: Link, now: Now, out: &mut Outbox) {
        match link {
            Link::Client | Link::Cluster => self.shared.fronts.opened(peer),
            Link::Dialed(dial) if self.shared.link.is_dial(dial) => {
                let (options, cluster) = (self.shared.options, self.shared.cluster);
                self.shared.link.opened(peer, now, &options, cluster, out);
            }
            Link::Dialed(_) => out.effect(Effect::Close {
                peer,
                reason: "a dial that was given up".to_owned(),
            }),
        }
    }

    fn stop(&mut self, now: Now, out: &mut Outbox) -> Result<(), Halt> {
        match &mut self.phase {
            Phase::New | Phase::Starting(_) => Err(Halt {
                end: End::Exit(ExitCode::Ok),
                text: "stopped before it served".to_owned(),
            }),
            Phase::Running(running) => {
                running.stop(&self.shared, now, out);
                Ok(())
            }
            Phase::Ended => Ok(()),
        }
    }

    fn disk(&mut self, reply: DiskReply, now: Now, out: &mut Outbox) -> Result<(), Halt> {
        if let DiskReply::FileSaved { .. } = &reply {
            return self.identity_saved(out);
        }
        let Some(reply) = self.given(reply, out) else {
            return Ok(());
        };
        match &mut self.phase {
            Phase::Starting(start) => start.disk(reply, &mut self.shared, now, out),
            Phase::Running(running) => running.disk(reply, &mut self.shared, now, out),
            Phase::New | Phase::Ended => Ok(()),
        }
    }

    /// The link is in use once the newest identity is durable.
    fn identity_saved(&mut self, out: &mut Outbox) -> Result<(), Halt> {
        self.shared.saving_count = self.shared.saving_count.saturating_sub(1);
        if self.shared.saving_count != 0 {
            return Ok(());
        }
        let Some(peer) = self.shared.link.saved() else {
            self.tell_recorded(out);
            return Ok(());
        };
        out.send(peer, &Message::Follow);
        match &mut self.phase {
            Phase::Starting(start) => start.link_up(&mut self.shared, out),
            Phase::Running(running) => {
                running.link_up(peer, &mut self.shared, out);
                Ok(())
            }
            Phase::New | Phase::Ended => Ok(()),
        }
    }

    fn link_lost(&mut self, now: Now) {
        self.shared.link.lost(now);
        self.shared.orders.clear();
        match &mut self.phase {
            Phase::Starting(start) => start.link_lost(),
            Phase::Running(running) => running.link_lost(),
            Phase::New | Phase::Ended => (),
        }
    }

    // ---- frames ----

    fn frame(
        &mut self,
        peer: PeerId,
        frame: &Frame<'_>,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        if self.shared.link.is_peer(peer) {
            self.shared.link.heard(now);
            return match Message::read(frame) {
                Ok(message) => self.backup_message(peer, frame, &message, now, out),
                Err(error) => {
                    self.break_link(peer, RefusalCode::Malformed, &error.to_string(), now, out);
                    Ok(())
                }
            };
        }
        let cluster = self.shared.cluster;
        let request = self.shared.fronts.frame(peer, frame, cluster, now, out);
        if let Some(operations) = request {
            let number = frame.header.request;
            let epoch = self
                .shared
                .slots
                .as_ref()
                .map_or(RingEpoch(0), |slots| slots.epoch);
            match &mut self.phase {
                Phase::New | Phase::Starting(_) => {
                    answer_all(peer, number, &operations, ResultCode::NotReady, epoch, out);
                }
                Phase::Running(running) => {
                    running.admit(peer, number, &operations, &self.shared, out);
                }
                Phase::Ended => (),
            }
        }
        Ok(())
    }

    /// Ends the connection to the backup because of what came over it; it is dialled anew.
    fn break_link(
        &mut self,
        peer: PeerId,
        code: RefusalCode,
        text: &str,
        now: Now,
        out: &mut Outbox,
    ) {
        let said = format!("the backup sent what a node does not take: {text}");
        self.shared.link.say_once(Level::Alarm, said, out);
        refuse(peer, code, text, out);
        self.link_lost(now);
    }

    fn backup_message(
        &mut self,
        peer: PeerId,
        frame: &Frame<'_>,
        message: &Message<'_>,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        match message {
            Message::Welcome(welcome) => self.welcomed(peer, welcome, now, out),
            Message::Refused(refused) => self.refused(peer, refused, now, out),
            Message::Granted(granted) => self.granted(peer, granted, now, out),
            Message::Confirmed(confirmed) => self.confirmed(peer, confirmed, now, out),
            Message::Table(table) => self.table(peer, table, now, out),
            Message::Ping => {
                let pong = Message::Pong {
                    time_ms: now.wall_ms,
                };
                pong.write_for(out.buffer(peer), frame.header.request);
                Ok(())
            }
            Message::Pong { .. } | Message::Goaway => Ok(()),
            Message::Appended(appended) => self.appended(peer, appended, now, out),
            Message::Resend { end, .. } => match &mut self.phase {
                Phase::Running(running) => running.resend(peer, end, out),
                Phase::New | Phase::Starting(_) | Phase::Ended => Ok(()),
            },
            Message::Fetched(_) | Message::CheckpointPart(_) => self.copied(message, out),
            Message::EntryRead(read) => match &mut self.phase {
                Phase::Running(running) => {
                    running.entry_read(peer, frame.header.request, read, out);
                    Ok(())
                }
                Phase::New | Phase::Starting(_) | Phase::Ended => Ok(()),
            },
            Message::MoveOrder(order) => {
                self.ordered(peer, order, now, out);
                Ok(())
            }
            Message::MoveFilePart(part) => {
                self.move_file_part(part, now, out);
                Ok(())
            }
            Message::Recover { generation } => self.recover(peer, *generation, now, out),
            Message::Fetch(_) | Message::CheckpointAsk(_) | Message::MoveFileAsk(_)
                if self.shared.link.giving() == Some(peer) =>
            {
                self.give(peer, frame.header.request, message, now, out);
                Ok(())
            }
            Message::Hello(_)
            | Message::Request { .. }
            | Message::Receipts(_)
            | Message::Rows { .. }
            | Message::StatusAsk
            | Message::StatusTold { .. }
            | Message::AuditAsk
            | Message::AuditTold { .. }
            | Message::Register(_)
            | Message::Append(_)
            | Message::Beat(_)
            | Message::Fetch(_)
            | Message::CheckpointAsk(_)
            | Message::EntryAsk { .. }
            | Message::Follow
            | Message::ClusterAsk(_)
            | Message::ClusterTold { .. }
            | Message::MoveTold(_)
            | Message::MoveFileAsk(_)
            | Message::Recorded(_) => {
                let text = format!("{} is not due", message.kind().name());
                self.break_link(peer, RefusalCode::Unexpected, &text, now, out);
                Ok(())
            }
        }
    }

    /// A piece of the log or of its checkpoint, for a start that copies it.
    fn copied(&mut self, message: &Message<'_>, out: &mut Outbox) -> Result<(), Halt> {
        let Phase::Starting(start) = &mut self.phase else {
            return Ok(());
        };
        if let Message::Fetched(fetched) = message {
            return start.fetched(fetched, &mut self.shared, out);
        }
        if let Message::CheckpointPart(part) = message {
            return start.checkpoint_part(part, &mut self.shared, out);
        }
        Ok(())
    }

    /// Keeps an order until the node serves, as many as a node waits with.
    fn ordered(&mut self, peer: PeerId, order: &MoveOrder<'_>, now: Now, out: &mut Outbox) {
        let order = match moves::Order::read(order) {
            Ok(order) => order,
            Err(error) => {
                let text = error.to_string();
                self.break_link(peer, RefusalCode::Malformed, &text, now, out);
                return;
            }
        };
        let max = to_usize(u64::from(limits::NODE_MOVE_ORDER_COUNT_MAX));
        if max <= self.shared.orders.len() {
            let dropped = self.shared.orders.pop_front();
            let text = format!("too many orders wait; forgotten until told again: {dropped:?}");
            say(out, Level::Warn, text);
        }
        self.shared.orders.push_back(order);
    }

    fn move_file_part(&mut self, part: &MoveFilePart<'_>, now: Now, out: &mut Outbox) {
        match &mut self.phase {
            Phase::Starting(start) => start.move_file_part(part, now, out),
            Phase::Running(running) => running.move_file_part(part, now, out),
            Phase::New | Phase::Ended => (),
        }
    }

    fn appended(
        &mut self,
        peer: PeerId,
        appended: &Appended,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        self.shared.clock.read(appended.clock_ms, now);
        self.shared.backup_free_size = Some(appended.free_size);
        let own_log = self.shared.identity.map(|identity| identity.log);
        if own_log == Some(appended.log) && self.term() < appended.term {
            self.replaced(peer, appended.term, now, out);
            return Ok(());
        }
        match &mut self.phase {
            Phase::Running(running) => running.appended(peer, appended, &mut self.shared, out),
            Phase::New | Phase::Starting(_) | Phase::Ended => Ok(()),
        }
    }

    fn welcomed(
        &mut self,
        peer: PeerId,
        welcome: &Welcome,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        if !self.shared.link.is_greeting() || welcome.role != PeerRole::Backup {
            let text = "a welcome of the backup is due once";
            self.break_link(peer, RefusalCode::Unexpected, text, now, out);
            return Ok(());
        }
        if let Some(cluster) = self.shared.cluster
            && cluster != welcome.cluster
        {
            return Err(Halt::damage(format!(
                "the backup at {} belongs to cluster {}, this node to cluster {cluster}",
                self.shared.options.backup, welcome.cluster
            )));
        }
        self.shared.cluster = Some(welcome.cluster);
        self.shared.clock.read(welcome.time_ms, now);
        out.effect(Effect::Established {
            peer,
            frame_size_max: limits::LINK_FRAME_SIZE_MAX,
        });
        match &self.phase {
            Phase::Starting(start) => self.shared.register(peer, start.standing(), out),
            Phase::Running(running) => self.shared.register(peer, running.standing(), out),
            Phase::New | Phase::Ended => (),
        }
        Ok(())
    }

    /// The backup ends the connection, and says why.
    fn refused(
        &mut self,
        peer: PeerId,
        refused: &Refused<'_>,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let id = self.shared.options.id;
        let text = format!(
            "the backup refuses node {id}: {}: {}",
            refused.code.name(),
            refused.text
        );
        match refused.code {
            RefusalCode::Fenced => return Err(Halt::fenced(text)),
            RefusalCode::TakenOver => return Err(Halt::taken_over(text)),
            RefusalCode::InUse => {
                if self.shared.link.in_use_too_long(now) {
                    return Err(Halt::fenced(text));
                }
            }
            RefusalCode::NotAMember | RefusalCode::Version => return Err(Halt::usage(text)),
            RefusalCode::WrongCluster
            | RefusalCode::BackupOlder
            | RefusalCode::Diverged
            | RefusalCode::WrongLog => return Err(Halt::damage(text)),
            RefusalCode::Malformed
            | RefusalCode::Unexpected
            | RefusalCode::TooManyConnections
            | RefusalCode::TooSlow
            | RefusalCode::TooManyFrames
            | RefusalCode::Closing
            | RefusalCode::NotReady => (),
        }
        self.shared.link.say_once(Level::Warn, text, out);
        let reason = String::new();
        out.effect(Effect::Close { peer, reason });
        self.link_lost(now);
        Ok(())
    }

    fn granted(
        &mut self,
        peer: PeerId,
        granted: &Granted<'_>,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let grant = match Grant::read(granted) {
            Ok(grant) if self.shared.link.is_registering() => grant,
            Ok(_) => {
                let text = "a grant is due once";
                self.break_link(peer, RefusalCode::Unexpected, text, now, out);
                return Ok(());
            }
            Err(error) => {
                self.break_link(peer, RefusalCode::Malformed, &error.to_string(), now, out);
                return Ok(());
            }
        };
        let order = match &self.phase {
            Phase::Starting(start) if start.grant.is_none() => Order::First,
            Phase::New | Phase::Starting(_) | Phase::Running(_) | Phase::Ended => Order::Again,
        };
        self.check_grant(&grant, order)?;
        self.shared.clock.read(granted.clock_ms, now);
        self.shared.known.ring_key = Some(grant.ring_key);
        let log_max = &mut self.shared.known.log_max;
        *log_max = grant.log.get().max(*log_max);
        let identity = Identity {
            cluster: self.shared.cluster.expect("said by the welcome"),
            node: self.shared.options.id,
            log: grant.log,
            copy: grant.copy,
            generation: grant.generation,
            ring_epoch: grant.ring_epoch,
            term: grant.term,
        };
        match &mut self.phase {
            Phase::Starting(start) => start.granted(grant)?,
            Phase::Running(running) => running.granted(&grant)?,
            Phase::New | Phase::Ended => (),
        }
        self.shared.link.granted(peer, now);
        self.shared.save_identity(identity, out);
        if canary::on(Bug::IdentityNotSaved) {
            self.shared.saving_count = 1;
            return self.identity_saved(out);
        }
        Ok(())
    }

    /// A backup that is below what this node worked under is not followed.
    fn check_grant(&self, grant: &Grant, order: Order) -> Result<(), Halt> {
        let Some(last) = self.shared.identity else {
            return Ok(());
        };
        if last.log != grant.log {
            return Err(Halt::damage(format!(
                "the backup grants log {}, this folder has log {}",
                grant.log, last.log
            )));
        }
        self.check_age(grant.generation, grant.ring_epoch)?;
        let is_old = match order {
            Order::First => grant.term <= last.term,
            Order::Again => grant.term < last.term,
        };
        if is_old {
            return Err(Halt::damage(format!(
                "the backup is older than this node: it grants term {}, this node had term {}",
                grant.term, last.term
            )));
        }
        match order {
            Order::Again if last.term < grant.term => Err(Halt::fenced(format!(
                "log {} is at term {}, this process had term {}",
                grant.log, grant.term, last.term
            ))),
            Order::First | Order::Again => Ok(()),
        }
    }

    fn check_age(&self, generation: Generation, ring_epoch: RingEpoch) -> Result<(), Halt> {
        let Some(last) = self.shared.identity else {
            return Ok(());
        };
        if generation < last.generation {
            return Err(Halt::damage(format!(
                "the backup is older than this node: it is of generation {generation}, this node \
                 worked under generation {}",
                last.generation
            )));
        }
        if ring_epoch < last.ring_epoch {
            return Err(Halt::damage(format!(
                "the backup is older than this node: its slot table is of epoch {ring_epoch}, \
                 this node worked under epoch {}",
                last.ring_epoch
            )));
        }
        Ok(())
    }

    /// The log has a higher term than this process: it gets no acknowledgement any more, and
    /// registers again to hear who has the log.
    fn replaced(&mut self, peer: PeerId, term: Term, now: Now, out: &mut Outbox) {
        let own = self.term();
        let text = format!("the log is at term {term}, this process had term {own}");
        self.shared.link.say_once(Level::Warn, text, out);
        let reason = String::new();
        out.effect(Effect::Close { peer, reason });
        self.link_lost(now);
    }

    fn term(&self) -> Term {
        let identity = self.shared.identity;
        identity.map_or(Term(0), |identity| identity.term)
    }

    fn confirmed(
        &mut self,
        peer: PeerId,
        confirmed: &Confirmed,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        self.shared.clock.read(confirmed.clock_ms, now);
        self.shared.backup_free_size = Some(confirmed.free_size);
        let own = self.term();
        if own < confirmed.term {
            self.replaced(peer, confirmed.term, now, out);
            return Ok(());
        }
        if confirmed.term < own {
            return Err(Halt::damage(format!(
                "the backup is older than this node: it names term {}, this node has term {own}",
                confirmed.term
            )));
        }
        self.shared.link.confirmed(confirmed.nonce);
        Ok(())
    }

    fn table(
        &mut self,
        peer: PeerId,
        table: &Table<'_>,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        self.check_age(table.generation, table.ring_epoch)?;
        let read: Result<SlotTable, MessageError> = SlotTable::read(table, self.shared.options.id);
        let mut slots = match read {
            Ok(slots) => slots,
            Err(error) => {
                self.break_link(peer, RefusalCode::Malformed, &error.to_string(), now, out);
                return Ok(());
            }
        };
        let is_news = match self.shared.known.hear(table) {
            Ok(is_news) => is_news,
            Err(error) => {
                self.break_link(peer, RefusalCode::Malformed, &error.to_string(), now, out);
                return Ok(());
            }
        };
        let newer = self
            .shared
            .identity
            .filter(|identity| is_news || identity.ring_epoch < slots.epoch);
        if let Some(identity) = newer {
            let identity = Identity {
                ring_epoch: slots.epoch,
                ..identity
            };
            self.shared.save_identity(identity, out);
        }
        if let Some(old) = &self.shared.slots {
            if old.epoch == slots.epoch {
                return Ok(());
            }
            slots.serve_as(old);
        }
        self.shared.slots = Some(slots);
        Ok(())
    }

    // ---- the end of a turn ----

    fn turn(&mut self, now: Now, out: &mut Outbox) -> Result<(), Halt> {
        let options = self.shared.options;
        if self.shared.link.tick(now, &options, out) {
            self.shared
                .link
                .say_once(Level::Warn, "the backup is silent".to_owned(), out);
            self.link_lost(now);
        }
        if let Phase::Starting(start) = &mut self.phase {
            start.stage_on(&self.shared, now, out)?;
        }
        if let Phase::Starting(start) = &mut self.phase
            && let Some(started) = start.finished()?
        {
            let text = format!(
                "log {} is replayed to block {}",
                started.verify.log, started.local.end.seq
            );
            say(out, Level::Info, text);
            let running = Running::new(started, &self.shared, out);
            self.phase = Phase::Running(Box::new(running));
        }
        if let Phase::Running(running) = &mut self.phase {
            running.end_turn(&mut self.shared, now, out)?;
        }
        if let Some(peer) = self.shared.link.beat_due(now) {
            let beat = self.beat();
            self.shared.beat(peer, now, beat, out);
        }
        Ok(())
    }

    fn beat(&self) -> Beat {
        match &self.phase {
            Phase::Running(running) => running.beat(),
            Phase::New | Phase::Starting(_) | Phase::Ended => Beat {
                term: self.term(),
                ..Beat::default()
            },
        }
    }

    /// Ends the process: nothing that was not sent yet leaves after this.
    fn halt(&mut self, halt: Halt, out: &mut Outbox) {
        self.phase = Phase::Ended;
        let Halt { end, text } = halt;
        if end == End::Exit(ExitCode::Damage) {
            say(out, Level::Alarm, text.clone());
        }
        out.effect(match end {
            End::Exit(code) => Effect::Exit { code, text },
            End::Again => Effect::BeginAgain { text },
        });
    }
}

impl Role for Node {
    fn handle(&mut self, now: Now, input: Input<'_>, out: &mut Outbox) {
        self.begin(out);
        if matches!(self.phase, Phase::Ended) {
            return;
        }
        if let Err(halt) = self.take(now, input, out) {
            self.halt(halt, out);
        }
    }

    fn end_turn(&mut self, now: Now, out: &mut Outbox) {
        self.begin(out);
        if matches!(self.phase, Phase::Ended) {
            return;
        }
        if let Err(halt) = self.turn(now, out) {
            self.halt(halt, out);
        }
    }

    fn deadline(&self) -> Option<Tick> {
        let link = self.shared.link.deadline();
        match &self.phase {
            // At once: the first turn begins the start.
            Phase::New => Some(Tick(0)),
            Phase::Starting(start) => match (link, start.deadline()) {
                (Some(link), Some(own)) => Some(link.min(own)),
                (link, own) => link.or(own),
            },
            Phase::Running(running) => {
                let own = running.deadline();
                Some(link.map_or(own, |link| link.min(own)))
            }
            Phase::Ended => None,
        }
    }
}
