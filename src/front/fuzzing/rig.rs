//! A front with nodes, a backup and clients around it that do what the events say.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use bytes::{BufMut, BytesMut};

use super::asked::{Ledger, Tag, tag_of};
use crate::clock::{Now, Tick};
use crate::front::{Front, FrontLimits, FrontOptions, Roles, Strategy};
use crate::limits::LINK_FRAME_SIZE_MAX;
use crate::model::{
    ClusterId, Generation, Incarnation, LogNumber, NodeId, Operation, Receipt, ResultCode,
    RingEpoch, Slot, SlotRange, Term, UserId, user_slot,
};
use crate::protocol::fuzzing::frame_of;
use crate::protocol::{
    Frame, FrameKind, Member, MemberState, Message, PeerRole, ReceiptsWriter, SlotRun, VERSION_MAX,
    Welcome, put_member, put_slot_run, split,
};
use crate::role::{CloseReason, DialId, Effect, ExitCode, Input, Link, Outbox, PeerId, Role};

const RING_KEY: u128 = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;
const BACKUP_PORT: u16 = 1_000;
const NODE_PORT: u16 = 2_000;

pub(super) const WALL_MS: u64 = 1_800_000_000_000;
pub(super) const NODE_COUNT: u32 = 3;
pub(super) const PART_COUNT: u32 = 4;

/// Who is behind a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Backup,
    Node(u32),
    Client,
}

/// A request at a node that has no whole answer.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) peer: PeerId,
    pub(super) request: u64,
    /// By index; those that were answered are gone.
    pub(super) open: BTreeMap<u16, Operation>,
}

/// What is said to the front once everything that left it in a turn has arrived.
enum Later {
    Bytes(PeerId, BytesMut),
    Table,
}

pub(super) struct Rig {
    pub(super) front: Front,
    out: Outbox,
    pub(super) now_ms: u64,
    last_peer: u64,
    pub(super) peers: BTreeMap<PeerId, Who>,
    /// Of those that asked for tables.
    followers: Vec<PeerId>,
    pub(super) dials: VecDeque<(DialId, SocketAddr)>,
    pub(super) jobs: Vec<Job>,
    pub(super) ledger: Ledger,
    pub(super) epoch: u32,
    /// Which node has which part of the ring.
    pub(super) parts: [u32; PART_COUNT as usize],
    /// Epoch and parts that the front was last told of.
    told: (u32, [u32; PART_COUNT as usize]),
    /// Peers that the front closes after this turn.
    closing: Vec<PeerId>,
    later: Vec<Later>,
    /// Silent ones: nothing is answered.
    pub(super) hung: Vec<PeerId>,
    said_count: i64,
    pub(super) exit: Option<ExitCode>,
}

pub(super) fn part_of(user: UserId) -> usize {
    usize::from(user_slot(RING_KEY, user).0) * PART_COUNT as usize / 65_536
}

impl Rig {
    pub(super) fn new(strategy: Strategy) -> Self {
        let options = FrontOptions {
            roles: Roles::Both,
            strategy,
            backup: address(BACKUP_PORT),
            routers: Vec::new(),
            seed: 1,
            cluster: None,
            incarnation: Incarnation::new(5).unwrap(),
            limits: FrontLimits {
                operation_count_max: 64,
                client_frame_count_max: 6,
                ..FrontLimits::default()
            },
        };
        Self {
            front: Front::new(options),
            out: Outbox::new(),
            now_ms: 1,
            last_peer: 0,
            peers: BTreeMap::new(),
            followers: Vec::new(),
            dials: VecDeque::new(),
            jobs: Vec::new(),
            ledger: Ledger::default(),
            epoch: 1,
            parts: [1, 2, 3, 1],
            told: (0, [0; PART_COUNT as usize]),
            closing: Vec::new(),
            later: Vec::new(),
            hung: Vec::new(),
            said_count: 0,
            exit: None,
        }
    }

    fn now(&self) -> Now {
        Now {
            tick: Tick(self.now_ms * 1_000_000),
            wall_ms: WALL_MS + self.now_ms,
        }
    }

    pub(super) fn input(&mut self, input: Input<'_>) {
        let now = self.now();
        self.front.handle(now, input, &mut self.out);
    }

    pub(super) fn feed(&mut self, peer: PeerId, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((frame, size)) = split(rest, LINK_FRAME_SIZE_MAX).unwrap() {
            rest = &rest[size..];
            if self.peers.contains_key(&peer) {
                self.input(Input::Frame { peer, frame });
            }
        }
    }

    pub(super) fn say(&mut self, peer: PeerId, message: &Message<'_>, request: u64) {
        let mut bytes = BytesMut::new();
        message.write_for(&mut bytes, request);
        self.feed(peer, &bytes);
    }

    /// Ends the turn and carries out what the front wants, to its end.
    pub(super) fn turn(&mut self) {
        for _ in 0..50 {
            let now = self.now();
            self.front.end_turn(now, &mut self.out);
            let mut sends = Vec::new();
            self.out.drain_sends(|peer, pieces, tail| {
                assert!(pieces.is_empty());
                sends.push((peer, tail.to_vec()));
            });
            for (peer, bytes) in sends {
                self.sent(peer, &bytes);
            }
            while let Some(effect) = self.out.next_effect() {
                self.carry_out(effect);
            }
            if self.closing.is_empty() && self.later.is_empty() {
                return;
            }
            for peer in std::mem::take(&mut self.closing) {
                self.lose(peer, CloseReason::Asked);
            }
            for later in std::mem::take(&mut self.later) {
                match later {
                    Later::Bytes(peer, bytes) => self.feed(peer, &bytes),
                    Later::Table => self.tell_table(),
                }
            }
        }
        panic!("a turn without end");
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Dial { dial, address } => self.dials.push_back((dial, address)),
            Effect::Close { peer, .. } => self.closing.push(peer),
            Effect::Disk(request) => panic!("a front has no disk: {request:?}"),
            Effect::Exit { code, .. } => self.exit = Some(code),
            Effect::Established { .. }
            | Effect::Pause { .. }
            | Effect::Resume { .. }
            | Effect::Say { .. }
            | Effect::Ready => (),
        }
    }

    pub(super) fn open(&mut self, link: Link, who: Who) -> PeerId {
        self.last_peer += 1;
        let peer = PeerId(self.last_peer);
        self.peers.insert(peer, who);
        self.input(Input::Opened { peer, link });
        peer
    }

    /// A connection is gone, with all that was under way on it.
    pub(super) fn lose(&mut self, peer: PeerId, reason: CloseReason) {
        if self.peers.remove(&peer).is_none() {
            return;
        }
        self.followers.retain(|follower| *follower != peer);
        self.hung.retain(|hung| *hung != peer);
        self.ledger.forget(peer);
        let jobs = std::mem::take(&mut self.jobs);
        let (gone, kept) = jobs.into_iter().partition(|job| job.peer == peer);
        self.jobs = kept;
        let gone: Vec<Job> = gone;
        for operation in gone.iter().flat_map(|job| job.open.values()) {
            let asked = self.ledger.get(tag_of(operation));
            asked.copy_count -= 1;
            asked.is_lost = true;
        }
        self.input(Input::Closed { peer, reason });
    }

    /// The oldest dial is accepted.
    pub(super) fn accept(&mut self) {
        if let Some((dial, address)) = self.dials.pop_front() {
            let who = match address.port() {
                BACKUP_PORT => Who::Backup,
                port => Who::Node(u32::from(port - NODE_PORT)),
            };
            self.open(Link::Dialed(dial), who);
            self.turn();
        }
    }

    /// The oldest dial comes to nothing.
    pub(super) fn refuse(&mut self) {
        if let Some((dial, _)) = self.dials.pop_front() {
            let error = "refused".to_owned();
            self.input(Input::DialFailed { dial, error });
            self.turn();
        }
    }

    /// Frames that left the front.
    fn sent(&mut self, peer: PeerId, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((frame, size)) = split(rest, LINK_FRAME_SIZE_MAX).unwrap() {
            rest = &rest[size..];
            // Sent in the turn in which the connection ended.
            let Some(who) = self.peers.get(&peer).copied() else {
                continue;
            };
            if who == Who::Client {
                self.at_client(peer, &frame);
            } else {
                self.at_server(peer, who, &frame);
            }
        }
        assert!(rest.is_empty());
    }

    fn at_client(&mut self, peer: PeerId, frame: &Frame<'_>) {
        if let Message::Receipts(receipts) = Message::read(frame).unwrap() {
            for receipt in receipts.iter().map(Result::unwrap) {
                let request = frame.header.request;
                self.ledger.told(peer, request, &receipt, self.now_ms);
            }
        }
    }

    fn at_server(&mut self, peer: PeerId, who: Who, frame: &Frame<'_>) {
        let request = frame.header.request;
        match Message::read(frame).unwrap() {
            Message::Request { operations, .. } => {
                let Who::Node(node) = who else {
                    panic!("a request at {who:?}");
                };
                let (epoch, parts) = self.told;
                assert_eq!(frame.header.ring_epoch, RingEpoch(epoch));
                let operations: Vec<Operation> = operations.iter().map(Result::unwrap).collect();
                for operation in &operations {
                    let owner = parts[part_of(operation.user())];
                    assert_eq!(owner, node, "sent to another than the owner");
                    let asked = self.ledger.get(tag_of(operation));
                    assert_eq!(asked.operation, *operation, "not what was asked");
                    assert!(asked.told.is_none(), "sent after its answer");
                    asked.copy_count += 1;
                }
                let open = (0..).zip(operations).collect();
                self.jobs.push(Job {
                    peer,
                    request,
                    open,
                });
            }
            Message::Hello(_) if !self.hung.contains(&peer) => self.welcome(peer, who),
            Message::Follow => {
                self.followers.push(peer);
                self.later.push(Later::Table);
            }
            Message::Ping if !self.hung.contains(&peer) => {
                let time_ms = WALL_MS + self.now_ms;
                self.reply(peer, &Message::Pong { time_ms }, request);
            }
            _ => (),
        }
    }

    fn reply(&mut self, peer: PeerId, message: &Message<'_>, request: u64) {
        let mut bytes = BytesMut::new();
        message.write_for(&mut bytes, request);
        self.later.push(Later::Bytes(peer, bytes));
    }

    fn welcome(&mut self, peer: PeerId, who: Who) {
        let role = if who == Who::Backup {
            PeerRole::Backup
        } else {
            PeerRole::Node
        };
        let welcome = Welcome {
            version: VERSION_MAX,
            role,
            cluster: ClusterId::new(77).unwrap(),
            time_ms: WALL_MS,
            frame_size_max: LINK_FRAME_SIZE_MAX,
            batch_count_max: 8_192,
            deadline_ms_max: 10_000,
            frames_in_flight_max: 4,
        };
        self.reply(peer, &Message::Welcome(welcome), 0);
    }

    /// Tells whoever follows the backup of the present table.
    pub(super) fn tell_table(&mut self) {
        let body = self.table_body();
        let bytes = frame_of(FrameKind::Table, &body);
        for follower in self.followers.clone() {
            self.told = (self.epoch, self.parts);
            self.feed(follower, &bytes);
        }
    }

    fn table_body(&self) -> BytesMut {
        let mut body = BytesMut::new();
        body.put_u32_le(self.epoch);
        body.put_u32_le(0);
        body.put_u64_le(Generation(1).0);
        body.put_u128_le(RING_KEY);
        body.put_u32_le(NODE_COUNT);
        body.put_u32_le(0);
        for node in 1..=NODE_COUNT {
            let number = u16::try_from(node).unwrap();
            let member = Member {
                node: NodeId::new(node).unwrap(),
                log: LogNumber::new(number).unwrap(),
                state: MemberState::Present,
                term: Term(1),
                incarnation: 1,
                address: Some(address(NODE_PORT + number)),
            };
            put_member(&mut body, &member);
        }
        body.put_u32_le(PART_COUNT);
        body.put_u32_le(0);
        let size = 65_536 / PART_COUNT;
        for (part, node) in (0..).zip(self.parts) {
            let slot = |number: u32| Slot(u16::try_from(number).unwrap());
            let slots = SlotRange {
                first: slot(part * size),
                last: slot((part + 1) * size - 1),
            };
            put_slot_run(&mut body, &SlotRun { slots, node });
        }
        body
    }

    /// A node answers some operations of a request.
    pub(super) fn answer(&mut self, at: usize, codes: &[(u16, ResultCode)]) {
        let job = &mut self.jobs[at];
        let (peer, request) = (job.peer, job.request);
        let mut bytes = BytesMut::new();
        let mut writer = ReceiptsWriter::begin(&mut bytes, request, RingEpoch(self.epoch));
        for (index, code) in codes {
            let operation = job.open.remove(index).unwrap();
            self.said_count += 1;
            let receipt = Receipt {
                available: self.said_count,
                ..Receipt::bare(*index, *code)
            };
            writer.push(&mut bytes, &receipt);
            let asked = self.ledger.get(tag_of(&operation));
            asked.copy_count -= 1;
            asked.said.push((*code, self.said_count));
        }
        writer.finish(&mut bytes);
        if job.open.is_empty() {
            self.jobs.remove(at);
        }
        self.feed(peer, &bytes);
    }

    /// Tags of what a node has not answered yet, for the last check.
    pub(super) fn open_tags(&self) -> Vec<Tag> {
        self.ledger
            .open()
            .map(|asked| tag_of(&asked.operation))
            .collect()
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
