//! The backup: the second database. It mirrors the log of every node byte for byte and
//! acknowledges what is durable; as the authority it gives out terms, and tells who owns which
//! slot.
//!
//! A pure core: told what happened, says what is to be done. Reading order: `options`, `start`
//! (until everything is open), `recover` (where the folder was lost), `connections`, `register`
//! (the fence and the grant), `append` and `stream` (blocks in, acknowledgements out), `serve`,
//! `upkeep`, `status`, `authority`, `moves` (slots on their way, nodes that come and go,
//! take-over). It never executes an operation: what entries mean is the ledger's business, on the
//! disk's side.

mod append;
mod audit;
mod authority;
mod connections;
mod disk;
mod ends;
#[doc(hidden)]
pub mod fuzzing;
mod moves;
mod options;
mod recover;
mod register;
mod serve;
mod start;
mod status;
mod stream;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::clock::{Now, Tick};
use crate::limits;
use crate::model::{LogNumber, Random};
use crate::role::{Effect, ExitCode, Input, Level, Outbox, PeerId, Role};

use audit::AuditDesk;
use authority::{Authority, ChangeNumber, TableParts};
use connections::Peer;
use moves::Moves;
pub use options::{
    BackupLimits, BackupOptions, NODE_WEIGHT_MAX, NewCluster, NewClusterError, NewNode,
    RecoverOptions,
};
use serve::Reads;
use start::Start;
use stream::Stream;

/// The backup daemon's core.
///
/// It begins with the first call of `handle` or `end_turn`: its `deadline` is at once until then.
#[derive(Debug)]
pub struct Backup {
    state: State,
}

#[derive(Debug)]
enum State {
    /// Finding out what is in the folder.
    Starting(Box<Start>),
    /// The authority's record is there.
    Running(Box<Running>),
    /// The process is told to end; nothing is said any more.
    Ended,
}

/// How far a running backup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Logs are being opened.
    Opening,
    /// Everybody is served.
    Serving,
    /// What was accepted is being made durable, then the process ends.
    Stopping,
    /// The process is told to end.
    Ended,
}

/// A backup that has its authority's record.
#[derive(Debug)]
struct Running {
    options: BackupOptions,
    random: Random,
    stage: Stage,
    authority: Authority,
    /// Grants that wait for the authority's file.
    grants: VecDeque<(ChangeNumber, LogNumber)>,
    peers: BTreeMap<PeerId, Peer>,
    streams: BTreeMap<LogNumber, Stream>,
    /// Streams that have something to do at the end of the turn.
    touched: BTreeSet<LogNumber>,
    /// Logs whose tail is put aside once the record is durable.
    cuts: VecDeque<(ChangeNumber, LogNumber)>,
    reads: Reads,
    audit: AuditDesk,
    moves: Moves,
    table: TableParts,
    /// Something that the table shows may have changed.
    table_changed: bool,
    /// The lists of the table changed since those who follow were told.
    table_untold: bool,
    disk: DiskRoom,
    counters: Counters,
    started: Tick,
    turn: Tick,
    upkeep_due: Tick,
}

/// What is known of the room on the disk.
#[derive(Debug, Default)]
struct DiskRoom {
    /// Bytes; `None` before the first measure.
    free_size: Option<u64>,
    /// Something failed for lack of room, and has not succeeded since.
    exhausted: bool,
    /// The authority's file did not fit.
    save_failed: bool,
    measuring: bool,
    measure_due: Tick,
    save_due: Tick,
}

/// What an operator wants to see counted.
#[derive(Debug, Default)]
struct Counters {
    alarms: u64,
    digest_matches: u64,
    digest_mismatches: u64,
    damaged_reads: u64,
}

impl Backup {
    /// A backup that has not begun.
    #[must_use]
    pub fn new(options: BackupOptions) -> Self {
        Self {
            state: State::Starting(Box::new(Start::new(options))),
        }
    }

    fn start(&mut self, now: Now, input: Option<Input<'_>>, out: &mut Outbox) {
        let State::Starting(start) = &mut self.state else {
            return;
        };
        match start.step(now, input, out) {
            start::Step::Going => (),
            start::Step::Ended => self.state = State::Ended,
            start::Step::Found(record) => {
                let options = start.options().clone();
                let mut running = Box::new(Running::new(options, *record, now));
                running.open_logs(now, out);
                self.state = State::Running(running);
            }
        }
    }
}

impl Role for Backup {
    fn handle(&mut self, now: Now, input: Input<'_>, out: &mut Outbox) {
        match &mut self.state {
            State::Starting(_) => self.start(now, Some(input), out),
            State::Running(running) => running.handle(now, input, out),
            State::Ended => (),
        }
    }

    fn end_turn(&mut self, now: Now, out: &mut Outbox) {
        match &mut self.state {
            State::Starting(_) => self.start(now, None, out),
            State::Running(running) => running.end_turn(now, out),
            State::Ended => (),
        }
    }

    fn deadline(&self) -> Option<Tick> {
        match &self.state {
            State::Starting(start) => start.deadline(),
            State::Running(running) => running.deadline(),
            State::Ended => None,
        }
    }
}

impl Running {
    fn new(options: BackupOptions, record: authority::Record, now: Now) -> Self {
        let streams = record
            .logs()
            .map(|(node, member)| {
                let mut stream = Stream::new(member.log, node, record.segment_size);
                stream.retired = record.retired.contains_key(&member.log);
                (member.log, stream)
            })
            .collect();
        Self {
            random: Random::new(options.id_seed),
            options,
            stage: Stage::Opening,
            authority: Authority::new(record),
            grants: VecDeque::new(),
            peers: BTreeMap::new(),
            streams,
            touched: BTreeSet::new(),
            cuts: VecDeque::new(),
            reads: Reads::default(),
            audit: AuditDesk::default(),
            moves: Moves::default(),
            table: TableParts::default(),
            table_changed: true,
            table_untold: false,
            disk: DiskRoom::default(),
            counters: Counters::default(),
            started: now.tick,
            turn: now.tick,
            upkeep_due: now.tick,
        }
    }

    fn handle(&mut self, now: Now, input: Input<'_>, out: &mut Outbox) {
        if self.stage == Stage::Ended {
            return;
        }
        self.note_turn(now);
        match input {
            Input::Opened { peer, .. } => self.on_opened(now, peer),
            Input::Frame { peer, frame } => self.on_frame(now, peer, &frame, out),
            Input::Closed { peer, .. } => self.on_closed(peer),
            Input::Disk(reply) => self.on_disk(now, reply, out),
            Input::Stop => self.on_stop(out),
            // The backup dials nobody; what is due is found at the end of the turn.
            Input::DialFailed { .. } | Input::Drained { .. } | Input::Elapsed => (),
        }
    }

    fn end_turn(&mut self, now: Now, out: &mut Outbox) {
        if self.stage == Stage::Ended {
            return;
        }
        self.note_turn(now);
        if self.upkeep_due <= now.tick {
            self.upkeep_due = now.tick.plus_ms(limits::LINK_PING_MS);
            self.look_after_all(now, out);
            self.note_ends(now);
        } else if self.stage == Stage::Stopping {
            self.note_ends(now);
        }
        if self.stage == Stage::Serving {
            let is_due = |stream: &&Stream| stream.replica_due().is_some_and(|due| due <= now.tick);
            let rested = self.streams.values().filter(is_due);
            self.touched.extend(rested.map(|stream| stream.log));
        }
        let touched = std::mem::take(&mut self.touched);
        for log in touched {
            self.answer_owner(now, log, out);
            self.advance_taking(now, log, out);
            self.advance_fence(now, log, out);
            self.look_after(now, log, out);
        }
        self.advance_moves(now, out);
        self.begin_audit(out);
        self.save_authority(now, out);
        self.tell_table(out);
        self.tell_moves(out);
        if self.stage == Stage::Stopping {
            self.try_to_end(out);
        }
        #[cfg(debug_assertions)]
        self.check_invariants();
    }

    fn deadline(&self) -> Option<Tick> {
        // Moves and replicas go on only as long as the backup serves.
        let replicas = self.streams.values().filter_map(Stream::replica_due);
        let others = replicas.chain(self.moves.deadline());
        let due = others
            .filter(|_| self.stage == Stage::Serving)
            .fold(self.upkeep_due, Tick::min);
        (self.stage != Stage::Ended).then_some(due)
    }

    /// Silence counts only while the backup is awake and reading: after a pause of its own loop
    /// everybody gets a full period.
    fn note_turn(&mut self, now: Now) {
        let paused = now.tick.since(self.turn) > self.options.limits.silence_ms_max * 500_000;
        if paused {
            for peer in self.peers.values_mut() {
                peer.heard = now.tick;
            }
            for stream in self.streams.values_mut() {
                stream.last_heard = now.tick;
            }
        }
        self.turn = now.tick;
    }

    fn touch(&mut self, log: LogNumber) {
        self.touched.insert(log);
    }

    /// Free bytes as told to nodes: 0 while something does not fit.
    fn free_size(&self) -> u64 {
        if self.disk.exhausted {
            0
        } else {
            self.disk.free_size.unwrap_or(0)
        }
    }

    fn say(&mut self, level: Level, text: String, out: &mut Outbox) {
        if level == Level::Alarm {
            self.counters.alarms += 1;
        }
        out.effect(Effect::Say { level, text });
    }

    /// Ends the process. Nothing is acknowledged after this.
    fn exit(&mut self, code: ExitCode, text: String, out: &mut Outbox) {
        self.stage = Stage::Ended;
        out.effect(Effect::Exit { code, text });
    }

    /// What must hold between two turns. (1) to (4) are those of each stream.
    #[cfg(debug_assertions)]
    fn check_invariants(&self) {
        for (log, stream) in &self.streams {
            stream.check_invariants();
            // (5) Every stream is of a log of the record, and no block of a term not granted.
            let member = self.authority.record().log(*log).expect("(5)");
            assert!(stream.accepted.term <= member.term, "(5)");
            if let Some(owner) = &stream.owner {
                // (12) Nobody appends to a log that is taken over or retired.
                assert!(stream.taking.is_none() && !stream.retired, "(12)");
                // (6) The owner is connected, registered for this log, and has its durable term.
                let peer = self.peers.get(&owner.peer).expect("(6)");
                assert!(peer.owns == Some(*log), "(6)");
                assert!(owner.term == member.term, "(6)");
                assert!(Some(owner.incarnation) == member.incarnation, "(6)");
                // (7) While somebody may append, nobody else waits for the log.
                assert!(stream.fence.is_open(), "(7)");
                assert!(!member.diverged, "(7)");
            }
        }
        for (id, peer) in &self.peers {
            if let Some(log) = peer.owns {
                // (8) Who is registered is the owner; nobody is for two logs.
                let owner = self.streams[&log].owner.as_ref().expect("(8)");
                assert!(owner.peer == *id, "(8)");
                assert!(peer.is_established(), "(8)");
            }
            // (9) The reads under way of each peer are counted.
            assert!(self.reads.count_of(*id) == peer.read_count as usize, "(9)");
        }
        // (10) Log numbers are below the next one to be given.
        let record = self.authority.latest();
        for (_, member) in record.logs() {
            assert!(u32::from(member.log.get()) < record.log_next, "(10)");
        }
        // (11) Nobody was told of a term that is not durable.
        let durable = self.authority.record();
        for (_, member) in durable.logs() {
            let latest = record.log(member.log).expect("(11)");
            assert!(member.term <= latest.term, "(11)");
        }
        // (13) What was told of a move is recorded: no number is above the durable record's.
        assert!(durable.moves.next <= record.moves.next, "(13)");
        assert!(durable.ring_epoch() <= record.ring_epoch(), "(13)");
    }
}
