//! The test bench: a backup, its disk in memory, and nodes that build real blocks.
//!
//! The disk does what it is asked only when it is told to, so a test can look at every moment
//! between a request and its reply; a crash forgets all requests that were not carried out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};

use super::super::{Backup, BackupLimits, BackupOptions, NewCluster, NewNode};
use super::words::text_of;
use crate::clock::{Now, Tick};
use crate::limits::SEGMENT_SIZE_MIN;
use crate::log::{BlockBuilder, BlockSpec};
use crate::model::{
    ClusterId, ENTRY_SIZE, Generation, Incarnation, LogEnd, LogNumber, LogTime, MoveNumber, NodeId,
    RingEpoch, Seq, Term, TermStart,
};
use crate::protocol::{
    Append, AuditRow, Beat, Frame, Hello, Message, PeerRole, Register, TermStarts, VERSION_MAX,
    VERSION_MIN, put_term_starts, split,
};
use crate::role::{
    CheckpointInfo, CloseReason, DiskFault, DiskReply, DiskRequest, Effect, ExitCode, FileName,
    Input, Level, Link, LogReport, Outbox, PeerId, Piece, Role, Survey,
};

pub(super) const SEGMENT: u64 = SEGMENT_SIZE_MIN;

pub(super) fn node(number: u32) -> NodeId {
    NodeId::new(number).unwrap()
}

pub(super) fn log(number: u16) -> LogNumber {
    LogNumber::new(number).unwrap()
}

pub(super) fn life(number: u128) -> Incarnation {
    Incarnation::new(number).unwrap()
}

pub(super) fn cluster() -> ClusterId {
    ClusterId::new(0x00c0_ffee).unwrap()
}

/// A log as the fake disk has it.
#[derive(Clone, Debug)]
pub(super) struct FakeLog {
    pub(super) cluster: ClusterId,
    pub(super) blocks: Vec<(LogEnd, Bytes)>,
    pub(super) first_offset: u64,
    pub(super) torn: Option<String>,
    pub(super) damage: Option<String>,
    pub(super) committed: Seq,
    pub(super) checkpoint: Option<CheckpointInfo>,
}

impl FakeLog {
    fn new(cluster: ClusterId) -> Self {
        Self {
            cluster,
            blocks: Vec::new(),
            first_offset: 0,
            torn: None,
            damage: None,
            committed: Seq(0),
            checkpoint: None,
        }
    }

    pub(super) fn end(&self) -> LogEnd {
        self.blocks.last().map(|(end, _)| *end).unwrap_or_default()
    }

    fn report(&self) -> LogReport {
        let mut terms: Vec<TermStart> = Vec::new();
        for (end, _) in &self.blocks {
            if terms.last().is_none_or(|last| last.term < end.term) {
                terms.push(TermStart {
                    term: end.term,
                    seq: end.seq,
                });
            }
        }
        LogReport {
            cluster: self.cluster,
            segment_size: SEGMENT,
            first_offset: self.first_offset,
            end: self.end(),
            committed: self.committed,
            terms,
            checkpoint: self.checkpoint,
            torn: self.torn.clone(),
            damage: self.damage.clone(),
        }
    }
}

/// What survives a crash, and what was asked for.
#[derive(Debug, Default)]
pub(super) struct FakeDisk {
    pub(super) authority: Option<Bytes>,
    pub(super) logs: BTreeMap<LogNumber, FakeLog>,
    pub(super) queue: VecDeque<DiskRequest>,
    /// Names of the requests that were carried out.
    pub(super) done: Vec<&'static str>,
    pub(super) free_size: u64,
    /// The next requests of this name fail so.
    pub(super) faults: BTreeMap<&'static str, DiskFault>,
    pub(super) digests: BTreeMap<LogNumber, u128>,
    pub(super) audit_rows: Vec<AuditRow>,
    /// How far the replicas are; a crash forgets it.
    pub(super) replicas: BTreeMap<LogNumber, Seq>,
    pub(super) images: BTreeSet<MoveNumber>,
    pub(super) surveys: BTreeMap<LogNumber, Survey>,
}

pub(super) const fn name_of(request: &DiskRequest) -> &'static str {
    match request {
        DiskRequest::LoadFile { .. } => "load_file",
        DiskRequest::SaveFile { .. } => "save_file",
        DiskRequest::OpenLog { .. } => "open_log",
        DiskRequest::CreateLog { .. } => "create_log",
        DiskRequest::Append { .. } => "append",
        DiskRequest::CutLog { .. } => "cut_log",
        DiskRequest::ReadBlocks { .. } => "read_blocks",
        DiskRequest::Scrub { .. } => "scrub",
        DiskRequest::ReadEntry { .. } => "read_entry",
        DiskRequest::PrepareSegment { .. } => "prepare_segment",
        DiskRequest::MakeCheckpoint { .. } => "make_checkpoint",
        DiskRequest::RetireSegments { .. } => "retire_segments",
        DiskRequest::LoadCheckpoint { .. } => "load_checkpoint",
        DiskRequest::ReadCheckpoint { .. } => "read_checkpoint",
        DiskRequest::WriteCheckpoint { .. } => "write_checkpoint",
        DiskRequest::MeasureFreeSpace => "measure_free_space",
        DiskRequest::AdvanceReplica { .. } => "advance_replica",
        DiskRequest::Audit { .. } => "audit",
        DiskRequest::Survey { .. } => "survey",
        DiskRequest::BuildHandOver { .. } => "build_hand_over",
        DiskRequest::DraftImages { .. } => "draft_images",
        DiskRequest::ReadMoveFile { .. } => "read_move_file",
        DiskRequest::WriteMoveFile { .. } => "write_move_file",
        DiskRequest::LoadMoveFile { .. } => "load_move_file",
        DiskRequest::KeepMoveFiles { .. } => "keep_move_files",
    }
}

impl FakeDisk {
    /// Carries out one request.
    fn run(&mut self, request: DiskRequest) -> DiskReply {
        self.done.push(name_of(&request));
        if let Some(fault) = self.faults.get(name_of(&request)) {
            return DiskReply::Failed {
                request: Box::new(request),
                fault: fault.clone(),
                text: "the test wants it so".to_owned(),
            };
        }
        match request {
            DiskRequest::LoadFile { name } => DiskReply::FileLoaded {
                name,
                bytes: self.authority.clone(),
            },
            DiskRequest::SaveFile { name, bytes } => {
                assert_eq!(name, FileName::Authority);
                self.authority = Some(bytes);
                DiskReply::FileSaved { name }
            }
            DiskRequest::OpenLog { log } => DiskReply::LogOpened {
                log,
                report: self.logs.get(&log).map(FakeLog::report),
                view: None,
            },
            DiskRequest::CreateLog { log, cluster, .. } => {
                let fresh = FakeLog::new(cluster);
                let report = fresh.report();
                self.logs.insert(log, fresh);
                DiskReply::LogOpened {
                    log,
                    report: Some(report),
                    view: None,
                }
            }
            DiskRequest::Append { log, block, end } => {
                let here = self.logs.get_mut(&log).unwrap();
                assert_eq!(here.end().seq.next(), end.seq, "the disk appends in order");
                here.blocks.push((end, block));
                DiskReply::Durable { log, end }
            }
            DiskRequest::CutLog { log, to } => {
                let here = self.logs.get_mut(&log).unwrap();
                here.torn = None;
                here.blocks.retain(|(end, _)| end.seq <= to.seq);
                DiskReply::LogCut {
                    log,
                    aside_size: 128,
                }
            }
            request => self.run_read(request),
        }
    }

    fn run_read(&mut self, request: DiskRequest) -> DiskReply {
        match request {
            DiskRequest::Scrub {
                log,
                offset,
                below,
                ticket,
            } => self.read_blocks(log, offset, below, 1 << 20, ticket),
            DiskRequest::ReadBlocks {
                log,
                offset,
                below,
                size_max,
                ticket,
            } => self.read_blocks(log, offset, below, size_max, ticket),
            DiskRequest::ReadEntry { place, ticket } => DiskReply::EntryRead {
                ticket,
                place,
                entry: Some([7; ENTRY_SIZE]),
            },
            DiskRequest::ReadCheckpoint {
                log,
                offset,
                ticket,
                ..
            } => DiskReply::CheckpointRead {
                log,
                ticket,
                size: self.logs[&log].checkpoint.map_or(0, |info| info.size),
                offset,
                bytes: Bytes::from_static(b"piece"),
            },
            DiskRequest::PrepareSegment { log, .. } => DiskReply::SegmentReady { log },
            DiskRequest::MakeCheckpoint { log, through, .. } => {
                let info = CheckpointInfo {
                    end: through,
                    size: 1_000,
                };
                self.logs.get_mut(&log).unwrap().checkpoint = Some(info);
                DiskReply::CheckpointMade { log, info }
            }
            DiskRequest::RetireSegments { log, below } => {
                let first_offset = below + 4_096;
                self.logs.get_mut(&log).unwrap().first_offset = first_offset;
                DiskReply::Retired { log, first_offset }
            }
            DiskRequest::MeasureFreeSpace => DiskReply::FreeSpace {
                size: self.free_size,
            },
            DiskRequest::AdvanceReplica { log, through, .. } => DiskReply::ReplicaAt {
                log,
                end: through,
                digest: self.digests.get(&log).copied().unwrap_or(0),
                memory_size: 99,
                events: self.advance(log, &through),
            },
            DiskRequest::Survey { log, .. } => DiskReply::Surveyed {
                log,
                survey: self.surveys[&log].clone(),
            },
            DiskRequest::Audit { ticket, ends, .. } => {
                self.check_durable(&ends);
                DiskReply::Audited {
                    ticket,
                    rows: self.audit_rows.clone(),
                }
            }
            other => self.run_move(other),
        }
    }

    /// Audits are over durable ends.
    fn check_durable(&self, ends: &[(LogNumber, LogEnd)]) {
        for (log, end) in ends {
            // Other lanes may have made more durable since it was asked for.
            let blocks = &self.logs[log].blocks;
            let is_durable = blocks.iter().any(|(durable, _)| durable == end);
            assert!(is_durable || *end == LogEnd::default());
        }
    }

    fn read_blocks(
        &self,
        log: LogNumber,
        offset: u64,
        below: u64,
        size_max: u32,
        ticket: u64,
    ) -> DiskReply {
        let mut blocks = BytesMut::new();
        let mut first = offset;
        let here = self.logs[&log].blocks.iter();
        for (end, bytes) in here.filter(|(end, _)| offset < end.offset && end.offset <= below) {
            if blocks.is_empty() {
                first = end.offset - bytes.len() as u64;
            } else if size_max as usize <= blocks.len() + bytes.len() {
                break;
            }
            blocks.extend_from_slice(bytes);
        }
        DiskReply::BlocksRead {
            log,
            ticket,
            offset: first,
            blocks: blocks.freeze(),
        }
    }
}

/// A backup with everything around it.
pub(super) struct Bench {
    pub(super) backup: Backup,
    pub(super) disk: FakeDisk,
    pub(super) now: Now,
    pub(super) said: Vec<(Level, String)>,
    pub(super) exit: Option<(ExitCode, String)>,
    pub(super) ready: bool,
    pub(super) closing: BTreeSet<PeerId>,
    pub(super) paused: BTreeSet<PeerId>,
    /// Are connections that were told to close really closed at once?
    pub(super) closes: bool,
    out: Outbox,
    inbox: BTreeMap<PeerId, BytesMut>,
    last_peer: u64,
    lives: u128,
}

pub(super) fn options(seed: u128) -> BackupOptions {
    BackupOptions {
        create: None,
        recover: None,
        address: "127.0.0.1:7000".parse().unwrap(),
        incarnation: life(seed + 1_000_000),
        // Tests that are about take-overs say so.
        limits: BackupLimits {
            take_over_after_ms: 0,
            ..BackupLimits::STANDARD
        },
        id_seed: u64::try_from(seed).unwrap(),
    }
}

/// Options that make a cluster of three nodes.
pub(super) fn options_to_create(seed: u128) -> BackupOptions {
    let new = |number, weight| NewNode {
        node: node(number),
        weight,
        keys: Vec::new(),
    };
    let create = Some(NewCluster {
        cluster: cluster(),
        ring_key: 99,
        nodes: vec![new(1, 1), new(2, 1), new(3, 2)],
        segment_size: SEGMENT,
    });
    BackupOptions {
        create,
        ..options(seed)
    }
}

impl Bench {
    /// A backup in a blank folder that was not begun.
    pub(super) fn blank(options: BackupOptions) -> Self {
        Self {
            backup: Backup::new(options),
            disk: FakeDisk {
                free_size: 1 << 40,
                ..FakeDisk::default()
            },
            now: Now {
                tick: Tick(1_000_000_000),
                wall_ms: 1_700_000_000_000,
            },
            said: Vec::new(),
            exit: None,
            ready: false,
            closing: BTreeSet::new(),
            paused: BTreeSet::new(),
            closes: true,
            out: Outbox::new(),
            inbox: BTreeMap::new(),
            last_peer: 0,
            lives: 1,
        }
    }

    /// A backup of a new cluster of three nodes that serves.
    pub(super) fn serving() -> Self {
        let mut bench = Self::blank(options_to_create(1));
        bench.settle();
        assert!(bench.ready, "{:?} {:?}", bench.exit, bench.said);
        bench.disk.done.clear();
        bench
    }

    /// The process dies and starts again with what the disk has. Nobody is connected any more.
    pub(super) fn crash(&mut self) {
        self.lives += 1;
        self.backup = Backup::new(options(self.lives));
        self.disk.queue.clear();
        self.disk.replicas.clear();
        self.out = Outbox::new();
        self.inbox.clear();
        self.closing.clear();
        self.paused.clear();
        self.exit = None;
        self.ready = false;
        // The clock of a new process begins anew.
        self.now.tick = Tick(5);
        self.now.wall_ms += 10;
    }

    pub(super) fn crash_and_settle(&mut self) {
        self.crash();
        self.settle();
        assert!(self.ready, "{:?} {:?}", self.exit, self.said);
    }

    /// One input, without the end of the turn.
    pub(super) fn handle(&mut self, input: Input<'_>) {
        self.backup.handle(self.now, input, &mut self.out);
    }

    pub(super) fn end_turn(&mut self) {
        self.backup.end_turn(self.now, &mut self.out);
        let inbox = &mut self.inbox;
        self.out.drain_sends(|peer, shared, tail| {
            let bytes = inbox.entry(peer).or_default();
            for piece in shared.drain(..) {
                match piece {
                    Piece::Owned(owned) => bytes.extend_from_slice(&owned),
                    Piece::Shared(shared) => bytes.extend_from_slice(&shared),
                }
            }
            bytes.extend_from_slice(&tail.split());
        });
        let mut closed = Vec::new();
        while let Some(effect) = self.out.next_effect() {
            match effect {
                Effect::Disk(request) => self.disk.queue.push_back(request),
                Effect::Close { peer, .. } => {
                    assert!(self.closing.insert(peer), "closed twice");
                    closed.push(peer);
                }
                Effect::Say { level, text } => self.said.push((level, text)),
                Effect::Ready => self.ready = true,
                Effect::BeginAgain { text } => panic!("a backup has one life: {text}"),
                Effect::Exit { code, text } => {
                    assert!(self.exit.is_none());
                    self.exit = Some((code, text));
                }
                Effect::Pause { peer } => assert!(self.paused.insert(peer)),
                Effect::Resume { peer } => assert!(self.paused.remove(&peer)),
                Effect::Established { .. } => (),
                Effect::Dial { .. } => panic!("a backup dials nobody"),
            }
        }
        if self.closes && !closed.is_empty() {
            for peer in closed {
                self.closed(peer);
            }
            self.end_turn();
        }
    }

    /// One input, and the end of its turn.
    pub(super) fn input(&mut self, input: Input<'_>) {
        self.handle(input);
        self.end_turn();
    }

    pub(super) fn closed(&mut self, peer: PeerId) {
        let reason = CloseReason::Ended;
        self.handle(Input::Closed { peer, reason });
    }

    pub(super) fn drop_peer(&mut self, peer: PeerId) {
        self.closed(peer);
        self.end_turn();
    }

    /// The disk carries out the oldest request.
    pub(super) fn disk_step(&mut self) -> bool {
        let Some(request) = self.disk.queue.pop_front() else {
            return false;
        };
        let reply = self.disk.run(request);
        self.input(Input::Disk(reply));
        true
    }

    /// The disk carries out all requests of one name that are waiting.
    pub(super) fn disk_do(&mut self, name: &str) -> usize {
        let waiting = std::mem::take(&mut self.disk.queue);
        let (chosen, rest) = waiting
            .into_iter()
            .partition(|request| name_of(request) == name);
        self.disk.queue = rest;
        let chosen: VecDeque<DiskRequest> = chosen;
        let count = chosen.len();
        for request in chosen {
            let reply = self.disk.run(request);
            self.input(Input::Disk(reply));
        }
        count
    }

    /// The disk carries out the oldest requests, but nobody hears of it: the process dies.
    pub(super) fn disk_lose(&mut self, count: u64) {
        for _ in 0..count {
            if let Some(request) = self.disk.queue.pop_front() {
                self.disk.run(request);
            }
        }
    }

    /// The disk carries out whatever it is asked until nothing is left.
    pub(super) fn settle(&mut self) {
        self.input(Input::Elapsed);
        for _ in 0..10_000 {
            if !self.disk_step() {
                return;
            }
        }
        panic!("the backup never comes to rest");
    }

    /// Time goes by, in steps that no loop would call a pause.
    pub(super) fn wait_ms(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(100) {
            self.now.tick = self.now.tick.plus_ms(100);
            self.now.wall_ms += 100;
            self.input(Input::Elapsed);
        }
    }

    pub(super) fn open(&mut self) -> PeerId {
        self.last_peer += 1;
        let peer = PeerId(self.last_peer);
        let link = Link::Cluster;
        self.handle(Input::Opened { peer, link });
        peer
    }

    /// A connection with a handshake; its welcome is taken.
    pub(super) fn connect(
        &mut self,
        role: PeerRole,
        node: Option<NodeId>,
        incarnation: Incarnation,
    ) -> PeerId {
        let peer = self.open();
        let hello = Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            role,
            cluster: None,
            node,
            incarnation,
        };
        self.say_to(peer, &Message::Hello(hello));
        assert_eq!(self.heard(peer), ["welcome"], "{:?}", self.exit);
        peer
    }

    /// Sends one message, and ends the turn.
    pub(super) fn say_to(&mut self, peer: PeerId, message: &Message<'_>) {
        self.say_only(peer, message, 0);
        self.end_turn();
    }

    /// Sends one message within a turn.
    pub(super) fn say_only(&mut self, peer: PeerId, message: &Message<'_>, request: u64) {
        let mut bytes = BytesMut::new();
        message.write_for(&mut bytes, request);
        let (frame, size) = split(&bytes, u32::MAX).unwrap().unwrap();
        assert_eq!(size, bytes.len());
        self.backup
            .handle(self.now, Input::Frame { peer, frame }, &mut self.out);
    }

    /// All frames that came for a peer since the last look.
    pub(super) fn take(&mut self, peer: PeerId, mut look: impl FnMut(&Frame<'_>, &Message<'_>)) {
        let bytes = self.inbox.remove(&peer).unwrap_or_default();
        let mut rest = &bytes[..];
        while let Some((frame, size)) = split(rest, u32::MAX).unwrap() {
            look(&frame, &Message::read(&frame).unwrap());
            rest = &rest[size..];
        }
        assert!(rest.is_empty());
    }

    /// The same in short texts.
    pub(super) fn heard(&mut self, peer: PeerId) -> Vec<String> {
        let mut texts = Vec::new();
        self.take(peer, |_, message| texts.push(text_of(message)));
        texts
    }

    pub(super) fn alarms(&self) -> usize {
        let alarm = |(level, _): &&(Level, String)| *level == Level::Alarm;
        self.said.iter().filter(alarm).count()
    }

    pub(super) fn exit_code(&self) -> Option<ExitCode> {
        self.exit.as_ref().map(|(code, _)| *code)
    }

    /// The status as JSON.
    pub(super) fn status(&mut self) -> serde_json::Value {
        let peer = self.connect(PeerRole::Client, None, life(424_242));
        self.say_to(peer, &Message::StatusAsk);
        let mut status = serde_json::Value::Null;
        self.take(peer, |_, message| match message {
            Message::StatusTold { json } => status = serde_json::from_str(json).unwrap(),
            other => panic!("{other:?}"),
        });
        self.drop_peer(peer);
        status
    }
}

/// A node as far as a backup sees it.
#[derive(Debug)]
pub(super) struct FakeNode {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) log: Option<LogNumber>,
    pub(super) copy: u128,
    pub(super) term: Term,
    pub(super) generation: Generation,
    pub(super) ring_epoch: RingEpoch,
    pub(super) committed: Seq,
    pub(super) address: SocketAddr,
    pub(super) blocks: Vec<(LogEnd, Bytes)>,
    pub(super) peer: Option<PeerId>,
    /// With what weight it asks to become a member.
    pub(super) join_weight: Option<u32>,
    builder: BlockBuilder,
    clock: u64,
}

impl FakeNode {
    pub(super) fn new(number: u32, incarnation: u128) -> Self {
        Self {
            node: node(number),
            incarnation: life(incarnation),
            log: None,
            copy: 0,
            term: Term(0),
            generation: Generation(0),
            ring_epoch: RingEpoch(0),
            committed: Seq(0),
            address: format!("127.0.0.1:{}", 8_000 + number).parse().unwrap(),
            blocks: Vec::new(),
            peer: None,
            join_weight: None,
            builder: BlockBuilder::new(),
            clock: 1_700_000_000_000_000_000,
        }
    }

    pub(super) fn end(&self) -> LogEnd {
        self.blocks.last().map(|(end, _)| *end).unwrap_or_default()
    }

    /// The same folder under a new process.
    pub(super) fn restarted(&self, incarnation: u128) -> Self {
        Self {
            incarnation: life(incarnation),
            blocks: self.blocks.clone(),
            peer: None,
            builder: BlockBuilder::new(),
            clock: self.clock + 1_000_000,
            ..*self
        }
    }

    /// Connects and sends a registration; what comes back is left to be taken.
    pub(super) fn register(&mut self, bench: &mut Bench) -> PeerId {
        let peer = bench.connect(PeerRole::Node, Some(self.node), self.incarnation);
        self.peer = Some(peer);
        let mut starts = BytesMut::new();
        put_term_starts(&mut starts, &[]);
        let register = Register {
            node: self.node,
            log: self.log,
            copy: self.copy,
            generation: self.generation,
            ring_epoch: self.ring_epoch,
            term: self.term,
            end: self.end(),
            committed: self.committed,
            address: self.address,
            join: self.join_weight,
            terms: TermStarts::new(&starts).unwrap(),
        };
        bench.say_to(peer, &Message::Register(register));
        peer
    }

    /// Takes a grant that came, and keeps what it says.
    pub(super) fn take_grant(&mut self, bench: &mut Bench) -> bool {
        let mut granted = false;
        bench.take(self.peer.unwrap(), |_, message| {
            if let Message::Granted(grant) = message {
                granted = true;
                self.log = Some(grant.log);
                self.copy = grant.copy;
                self.term = grant.term;
                self.generation = grant.generation;
                self.ring_epoch = grant.ring_epoch;
                assert_eq!(grant.segment_size, SEGMENT);
            }
        });
        granted
    }

    /// Registers and gets its term.
    pub(super) fn join(&mut self, bench: &mut Bench) -> PeerId {
        let peer = self.register(bench);
        bench.settle();
        assert!(self.take_grant(bench), "{:?}", bench.said);
        peer
    }

    /// Builds a block of `count` entries behind the own end.
    pub(super) fn build(&mut self, count: u32) -> Bytes {
        let end = self.end();
        self.build_behind(&end, count)
    }

    /// Builds a block behind any end.
    pub(super) fn build_behind(&mut self, after: &LogEnd, count: u32) -> Bytes {
        let mut entry = [3; ENTRY_SIZE];
        entry[100..116].copy_from_slice(&self.incarnation.get().to_le_bytes());
        self.build_of(after, &vec![entry; count as usize])
    }

    /// Builds a block of these entries behind any end.
    pub(super) fn build_of(&mut self, after: &LogEnd, entries: &[[u8; ENTRY_SIZE]]) -> Bytes {
        self.clock = self.clock.max(after.time.0) + 1_000_000;
        self.builder.begin(&BlockSpec {
            log: self.log.unwrap(),
            cluster: cluster(),
            segment_size: SEGMENT,
            after,
            term: self.term,
            time: LogTime(self.clock),
            committed: self.committed.min(after.seq),
            entry_count_max: u32::try_from(entries.len()).unwrap(),
        });
        for entry in entries {
            self.builder.push(entry);
        }
        let (bytes, end) = self.builder.finish();
        self.blocks.push((end, bytes.clone()));
        bytes
    }

    /// Sends a block within a turn.
    pub(super) fn append_only(&self, bench: &mut Bench, block: &[u8]) {
        let append = Append {
            log: self.log.unwrap(),
            term: self.term,
            committed: self.committed,
            block,
        };
        bench.say_only(self.peer.unwrap(), &Message::Append(append), 0);
    }

    /// Sends a block, and the turn ends.
    pub(super) fn append(&self, bench: &mut Bench, block: &[u8]) {
        self.append_only(bench, block);
        bench.end_turn();
    }

    /// Builds and sends a block, and the disk makes it durable; the answer is taken.
    pub(super) fn commit(&mut self, bench: &mut Bench, count: u32) {
        let block = self.build(count);
        self.append(bench, &block);
        assert_eq!(bench.disk_do("append"), 1);
        let text = format!("appended {} in term {}", self.end().seq, self.term);
        assert_eq!(bench.heard(self.peer.unwrap()), [text]);
        self.committed = self.end().seq;
    }

    pub(super) fn beat(&self, bench: &mut Bench, nonce: u64, figures: Beat) {
        let beat = Beat {
            nonce,
            term: self.term,
            ..figures
        };
        bench.say_to(self.peer.unwrap(), &Message::Beat(beat));
    }
}
