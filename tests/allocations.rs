//! Nothing is allocated per operation after warm-up.
//!
//! A whole cluster in one thread, without sockets: a client session, a front, a node and the
//! backup, each with its real disk code on a disk in memory. Only what the cores do is counted,
//! each by itself. A binary of its own, because counting takes the place of the allocator: it is
//! that of a crate for this purpose, so that no unsafe code comes into this one.
//!
//! What may be allocated: a few pieces for each turn (a block is handed on as shared bytes, with
//! its place in lists), whatever number of operations is in it, and pages of tables that grow.
//! So the same number of turns is run with batches of different sizes, and the difference shows
//! what an operation costs.

#![cfg(feature = "daemon")]
#![expect(clippy::unwrap_used, reason = "what fails in a test is the finding")]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use counterfoil::backup::{Backup, BackupLimits, BackupOptions, NewCluster, NewNode};
use counterfoil::client::session::{Action, Session, SessionOptions};
use counterfoil::clock::{Now, Tick};
use counterfoil::disk::{Disk, DiskOptions, FolderKind, open_on};
use counterfoil::front::{Front, FrontLimits, FrontOptions, Roles, Strategy};
use counterfoil::ledger::{Ledger, LedgerOptions};
use counterfoil::log::MemoryMedium;
use counterfoil::model::{
    ClusterId, Currency, Flags, Incarnation, NodeId, Operation, OperationId, Place, Random,
    Receipt, ResultCode, RingEpoch, UserId,
};
use counterfoil::node::{Node, NodeLimits, NodeOptions};
use counterfoil::protocol::{Message, ReceiptsWriter, RequestWriter, split};
use counterfoil::role::{
    DialId, DiskReply, Effect, Input, Lane, LaneWorker, Lanes, Level, Link, Outbox, PeerId, Piece,
    Role,
};

const FRONT: usize = 0;
const NODE: usize = 1;
const BACKUP: usize = 2;
const WALL_MS: u64 = 1_800_000_000_000;
const USER_COUNT: u128 = 2_000;
const SIZE_MAX: u32 = 4 << 20;

/// Runs `work` and adds to `count` what it allocated.
fn counted<T>(count: &mut u64, work: impl FnOnce() -> T) -> T {
    let mut result = None;
    let info = allocation_counter::measure(|| result = Some(work()));
    *count += info.count_total;
    result.expect("it was run")
}

fn address(daemon: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7_000 + u16::try_from(daemon).unwrap()))
}

/// One core with its outbox and its disk.
struct Daemon {
    role: Box<dyn Role>,
    out: Outbox,
    disk: Option<Disk>,
    workers: BTreeMap<Lane, Box<dyn LaneWorker>>,
    replies: Vec<DiskReply>,
    peer_count: u64,
    /// What the core allocated.
    count: u64,
}

impl Daemon {
    fn new(role: impl Role + 'static, kind: Option<FolderKind>) -> Self {
        let open = |kind| open_on(Arc::new(MemoryMedium::new()), DiskOptions { kind }).unwrap();
        Self {
            role: Box::new(role),
            out: Outbox::new(),
            disk: kind.map(open),
            workers: BTreeMap::new(),
            replies: Vec::new(),
            peer_count: 0,
            count: 0,
        }
    }

    fn give(&mut self, now: Now, input: Input<'_>) {
        counted(&mut self.count, || {
            self.role.handle(now, input, &mut self.out);
        });
    }

    fn next_peer(&mut self) -> PeerId {
        self.peer_count += 1;
        PeerId(self.peer_count)
    }
}

/// Where a connection ends: at a daemon, or (`None`) at the client.
type End = Option<(usize, PeerId)>;

struct Cluster {
    daemons: Vec<Daemon>,
    /// Who is at the other end of a daemon's connection.
    wires: BTreeMap<(usize, PeerId), End>,
    /// Bytes on their way to a daemon's connection.
    under_way: VecDeque<(usize, PeerId, BytesMut)>,
    dials: VecDeque<(usize, DialId, SocketAddr)>,
    session: Session,
    /// The client's connection at the front.
    client: Option<PeerId>,
    to_client: BytesMut,
    client_count: u64,
    is_ready: [bool; 3],
    tick: Tick,
}

fn new_backup() -> Backup {
    let node = NodeId::new(1).unwrap();
    Backup::new(BackupOptions {
        create: Some(NewCluster {
            cluster: ClusterId::new(77).unwrap(),
            ring_key: 5,
            nodes: vec![NewNode {
                node,
                weight: 1,
                keys: Vec::new(),
            }],
            segment_size: 64 << 20,
        }),
        recover: None,
        address: address(BACKUP),
        incarnation: Incarnation::new(1).unwrap(),
        limits: BackupLimits::STANDARD,
        id_seed: 3,
    })
}

fn new_node() -> Node {
    Node::new(NodeOptions {
        id: NodeId::new(1).unwrap(),
        backup: address(BACKUP),
        address: address(NODE),
        incarnation: Incarnation::new(2).unwrap(),
        cluster: None,
        join: None,
        id_count_max: 1 << 20,
        limits: NodeLimits {
            disk_reserve_size: 0,
            ..NodeLimits::default()
        },
    })
}

fn new_front() -> Front {
    Front::new(FrontOptions {
        roles: Roles::Both,
        strategy: Strategy::Random,
        backup: address(BACKUP),
        routers: Vec::new(),
        seed: 1,
        cluster: None,
        incarnation: Incarnation::new(3).unwrap(),
        limits: FrontLimits::default(),
    })
}

impl Cluster {
    fn start() -> Self {
        let options = SessionOptions {
            address_count: 1,
            cluster: None,
            deadline_ms: 5_000,
            frames_in_flight_max: 16,
            incarnation: Incarnation::new(4).unwrap(),
        };
        let mut cluster = Self {
            daemons: vec![
                Daemon::new(new_front(), None),
                Daemon::new(new_node(), Some(FolderKind::Node)),
                Daemon::new(new_backup(), Some(FolderKind::Backup)),
            ],
            wires: BTreeMap::new(),
            under_way: VecDeque::new(),
            dials: VecDeque::new(),
            session: Session::new(&options, Random::new(1)),
            client: None,
            to_client: BytesMut::new(),
            client_count: 0,
            is_ready: [false; 3],
            tick: Tick(0),
        };
        for _ in 0..1_000 {
            cluster.turn();
        }
        assert_eq!(cluster.is_ready, [true; 3]);
        assert!(cluster.session.is_ready());
        cluster
    }

    fn now(&self) -> Now {
        Now {
            tick: self.tick,
            wall_ms: WALL_MS + self.tick.0 / 1_000_000,
        }
    }

    /// One turn of everybody, a millisecond apart.
    fn turn(&mut self) {
        self.tick = self.tick.plus_ms(1);
        let now = self.now();
        self.connect(now);
        self.turn_of_client(now);
        for _ in 0..self.under_way.len() {
            let (daemon, peer, bytes) = self.under_way.pop_front().expect("counted");
            let daemon = &mut self.daemons[daemon];
            let mut rest = &bytes[..];
            while let Some((frame, size)) = split(rest, SIZE_MAX).unwrap() {
                daemon.give(now, Input::Frame { peer, frame });
                rest = &rest[size..];
            }
            assert!(rest.is_empty());
        }
        for daemon in [FRONT, NODE, BACKUP] {
            self.turn_of(daemon, now);
        }
    }

    fn turn_of(&mut self, number: usize, now: Now) {
        let daemon = &mut self.daemons[number];
        for reply in std::mem::take(&mut daemon.replies) {
            daemon.give(now, Input::Disk(reply));
        }
        if daemon.role.deadline().is_some_and(|at| at <= now.tick) {
            daemon.give(now, Input::Elapsed);
        }
        counted(&mut daemon.count, || {
            daemon.role.end_turn(now, &mut daemon.out);
        });
        let (wires, under_way) = (&self.wires, &mut self.under_way);
        let to_client = &mut self.to_client;
        daemon.out.drain_sends(|peer, pieces, tail| {
            let mut bytes = BytesMut::new();
            for piece in pieces.iter() {
                match piece {
                    Piece::Owned(owned) => bytes.extend_from_slice(owned),
                    Piece::Shared(shared) => bytes.extend_from_slice(shared),
                }
            }
            bytes.extend_from_slice(tail);
            match wires[&(number, peer)] {
                Some((other, there)) => under_way.push_back((other, there, bytes)),
                None => to_client.extend_from_slice(&bytes),
            }
        });
        while let Some(effect) = self.daemons[number].out.next_effect() {
            self.carry_out(number, effect);
        }
    }

    fn carry_out(&mut self, number: usize, effect: Effect) {
        let daemon = &mut self.daemons[number];
        match effect {
            Effect::Dial { dial, address } => self.dials.push_back((number, dial, address)),
            Effect::Disk(request) => {
                let disk = daemon.disk.as_ref().expect("it has one");
                let lane = request.lane();
                let worker = daemon
                    .workers
                    .entry(lane)
                    .or_insert_with(|| disk.worker(lane));
                worker.run(vec![request], &mut daemon.replies);
            }
            Effect::Ready => self.is_ready[number] = true,
            Effect::Say { level, text } => {
                let is_early = self.is_ready != [true; 3] && level == Level::Warn;
                assert!(
                    is_early || level == Level::Info,
                    "daemon {number} says: {text}"
                );
            }
            Effect::Established { .. } | Effect::Pause { .. } | Effect::Resume { .. } => (),
            Effect::Close { reason, .. } => panic!("daemon {number} closes: {reason}"),
            Effect::BeginAgain { text } => panic!("daemon {number} begins again: {text}"),
            Effect::Exit { text, .. } => panic!("daemon {number} ends: {text}"),
        }
    }

    fn connect(&mut self, now: Now) {
        while let Some((from, dial, to)) = self.dials.pop_front() {
            let other = (0..3).find(|daemon| address(*daemon) == to).unwrap();
            if !self.is_ready[other] {
                let error = "not yet".to_owned();
                self.daemons[from].give(now, Input::DialFailed { dial, error });
                continue;
            }
            let (here, there) = (
                self.daemons[from].next_peer(),
                self.daemons[other].next_peer(),
            );
            self.wires.insert((from, here), Some((other, there)));
            self.wires.insert((other, there), Some((from, here)));
            let link = Link::Cluster;
            self.daemons[other].give(now, Input::Opened { peer: there, link });
            let link = Link::Dialed(dial);
            self.daemons[from].give(now, Input::Opened { peer: here, link });
        }
    }

    fn turn_of_client(&mut self, now: Now) {
        let Self {
            session, to_client, ..
        } = self;
        let taken = counted(&mut self.client_count, || {
            let taken = session.receive(now, to_client);
            session.tick(now);
            taken
        });
        let _rest = self.to_client.split_to(taken);
        match self.session.poll() {
            Some(Action::Connect { .. }) if !self.is_ready[FRONT] => {
                self.session.connect_failed(now, "not yet".to_owned());
            }
            Some(Action::Connect { .. }) => {
                let peer = self.daemons[FRONT].next_peer();
                self.wires.insert((FRONT, peer), None);
                let link = Link::Client;
                self.daemons[FRONT].give(now, Input::Opened { peer, link });
                self.client = Some(peer);
                self.session.connected(now);
            }
            Some(Action::Close) => panic!("the session gives up: {:?}", self.session.fault()),
            None => (),
        }
        if let Some(peer) = self.client {
            let bytes = BytesMut::from(self.session.unsent());
            let size = bytes.len();
            if size != 0 {
                self.under_way.push_back((FRONT, peer, bytes));
                counted(&mut self.client_count, || self.session.sent(now, size));
            }
        }
    }

    /// Does a batch of `count` operations; every fourth one is a look-up.
    fn batch(&mut self, operations: &mut Vec<Operation>, count: u64, seed: &mut u128) {
        let now = self.now();
        operations.clear();
        for index in 0..count {
            *seed += 7;
            let user = UserId::new(1 + *seed % USER_COUNT).unwrap();
            let coin = Currency::new(1).unwrap();
            // Every user has an account after the first 2,000.
            operations.push(if index % 4 == 3 && 7 * USER_COUNT < *seed {
                Operation::get(user, coin)
            } else {
                let id = self.session.new_id(now);
                Operation::credit(id, user, coin, 5).with_flags(Flags::OPEN_IF_MISSING)
            });
        }
        let session = &mut self.session;
        let ticket = counted(&mut self.client_count, || session.submit(now, operations)).unwrap();
        for _ in 0..100 {
            self.turn();
            let Some(answers) = self.session.answers(ticket) else {
                continue;
            };
            let is_ok = |receipt: &Receipt| receipt.code == ResultCode::Ok;
            assert!(answers.receipts().iter().all(is_ok));
            let session = &mut self.session;
            counted(&mut self.client_count, || {
                assert_eq!(session.next_finished(), Some(ticket));
                session.forget(ticket);
            });
            return;
        }
        panic!("a batch is not answered");
    }

    /// Allocations so far: client, front, node, backup.
    fn counts(&self) -> [u64; 4] {
        let of = |daemon: usize| self.daemons[daemon].count;
        [self.client_count, of(FRONT), of(NODE), of(BACKUP)]
    }
}

#[test]
fn no_core_allocates_per_operation() {
    const ROUND_COUNT: u64 = 30;
    const SMALL: u64 = 10;
    const LARGE: u64 = 1_500;
    let mut cluster = Cluster::start();
    let mut operations = Vec::new();
    let mut seed = 0;
    for _ in 0..20 {
        cluster.batch(&mut operations, LARGE, &mut seed);
    }
    let mut of = |count: u64| {
        let (before, turn) = (cluster.counts(), cluster.tick);
        for _ in 0..ROUND_COUNT {
            cluster.batch(&mut operations, count, &mut seed);
        }
        let turn_count = cluster.tick.since(turn) / 1_000_000;
        let after = cluster.counts();
        ([0, 1, 2, 3].map(|at| after[at] - before[at]), turn_count)
    };
    let (small, small_turn_count) = of(SMALL);
    let (large, large_turn_count) = of(LARGE);
    let parts = ["client", "front", "node", "backup"];
    let added = ROUND_COUNT * (LARGE - SMALL);
    for (at, part) in parts.into_iter().enumerate() {
        println!(
            "{part}: {} allocations in {small_turn_count} turns with {} operations, {} in \
             {large_turn_count} turns with {}",
            small[at],
            ROUND_COUNT * SMALL,
            large[at],
            ROUND_COUNT * LARGE
        );
    }
    for (at, part) in parts.into_iter().enumerate() {
        let more = large[at].saturating_sub(small[at]);
        // For so many operations more, pages of tables that grow are all that may be seen.
        assert!(
            more * 1_000 < added,
            "{part}: {more} for {added} operations"
        );
        assert!(small[at] <= 40 * ROUND_COUNT, "{part}: {}", small[at]);
    }
}

#[test]
fn the_codec_allocates_nothing() {
    let mut request = BytesMut::with_capacity(1 << 20);
    let mut answer = BytesMut::with_capacity(1 << 20);
    let user = UserId::new(7).unwrap();
    let mut count = 0;
    counted(&mut count, || {
        for round in 0..100_u64 {
            request.clear();
            answer.clear();
            let mut writer = RequestWriter::begin(&mut request, round, RingEpoch(1), 1_000);
            for index in 0..1_000_u16 {
                let id = OperationId::from_parts(WALL_MS, u128::from(index) + 1);
                let credit = Operation::credit(id, user, Currency::new(1).unwrap(), 5);
                writer.push(&mut request, &credit.to_bytes());
            }
            writer.finish(&mut request);
            let (frame, _) = split(&request, SIZE_MAX).unwrap().unwrap();
            let Message::Request { operations, .. } = Message::read(&frame).unwrap() else {
                panic!("another message");
            };
            let mut writer = ReceiptsWriter::begin(&mut answer, round, RingEpoch(1));
            for (index, bytes) in (0..).zip(operations.iter()) {
                bytes.unwrap();
                writer.push(&mut answer, &Receipt::bare(index, ResultCode::Ok));
            }
            writer.finish(&mut answer);
            let (frame, _) = split(&answer, SIZE_MAX).unwrap().unwrap();
            let Message::Receipts(receipts) = Message::read(&frame).unwrap() else {
                panic!("another message");
            };
            assert_eq!(receipts.iter().map(Result::unwrap).count(), 1_000);
        }
    });
    assert_eq!(count, 0);
}

#[test]
fn the_ledger_allocates_nothing_but_pages_of_its_tables() {
    const OPERATION_COUNT: u64 = 100_000;
    let mut ledger = Ledger::new(LedgerOptions {
        ring_key: 5,
        id_count_max: 1 << 20,
        keep_ids: true,
    });
    let log = counterfoil::model::LogNumber::new(1).unwrap();
    let mut run = |from: u64| {
        let mut count = 0;
        counted(&mut count, || {
            for step in from..from + OPERATION_COUNT {
                let id = OperationId::from_parts(WALL_MS, u128::from(step) + 1);
                let user = UserId::new(1 + u128::from(step) % USER_COUNT).unwrap();
                let credit = Operation::credit(id, user, Currency::new(1).unwrap(), 1)
                    .with_flags(Flags::OPEN_IF_MISSING);
                let time = counterfoil::model::LogTime((WALL_MS + 1) * 1_000_000 + step);
                let change = ledger.apply(&credit, Place::new(log, 128 * (step + 1)), time);
                assert_eq!(change.code, ResultCode::Ok);
            }
        });
        count
    };
    let warm_up = run(0);
    let count = run(OPERATION_COUNT);
    println!("ledger: {warm_up} allocations in the first 100,000 operations, {count} in the next");
    assert!(count * 1_000 < OPERATION_COUNT, "{count}");
}
