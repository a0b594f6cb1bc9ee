//! A front driven in memory: the tests play clients, nodes, the backup and other fronts.
//!
//! Everything crosses the outbox as frames, time is a number, and a front's own `deadline` says
//! when it is called next; no sockets, no clock.

mod bounds;
mod connections;
mod exactly_once;
mod moving;
mod routing;
mod spreading;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::BytesMut;

use super::{Front, FrontLimits, FrontOptions, Roles, Strategy};
use crate::clock::{Now, Tick};
use crate::limits::LINK_FRAME_SIZE_MAX;
use crate::model::{
    ClusterId, Currency, Generation, Incarnation, LogNumber, NodeId, Operation, OperationId,
    Receipt, ResultCode, RingEpoch, Slot, SlotRange, Term, UserId, user_slot,
};
use crate::protocol::{
    Frame, Header, Hello, Member, MemberState, Message, PeerRole, ReceiptsWriter, RefusalCode,
    RequestWriter, SlotRun, VERSION_MAX, VERSION_MIN, Welcome, put_member, put_slot_run, split,
};
use crate::role::{CloseReason, DialId, Effect, ExitCode, Input, Link, Outbox, PeerId, Role};

const RING_KEY: u128 = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;
const WALL_MS: u64 = 1_800_000_000_000;
const BACKUP: &str = "127.0.0.1:1000";

fn cluster() -> ClusterId {
    ClusterId::new(77).unwrap()
}

fn node_address(node: u32) -> SocketAddr {
    format!("127.0.0.1:{}", 2_000 + node).parse().unwrap()
}

fn router_address(index: u32) -> SocketAddr {
    format!("127.0.0.1:{}", 3_000 + index).parse().unwrap()
}

fn options() -> FrontOptions {
    FrontOptions {
        roles: Roles::Both,
        strategy: Strategy::Random,
        backup: BACKUP.parse().unwrap(),
        routers: Vec::new(),
        seed: 1,
        cluster: None,
        incarnation: Incarnation::new(5).unwrap(),
        limits: FrontLimits::default(),
    }
}

/// The `n`th user whose slot lies in the part of `node`, of `node_count` equal parts.
fn user_of(node: u32, node_count: u32, n: usize) -> UserId {
    let users = (1_u128..).map(|number| UserId::new(number).unwrap());
    users
        .filter(|user| part_of(*user, node_count) == node)
        .nth(n)
        .unwrap()
}

/// Which of `node_count` equal parts of the ring a user belongs to, from 1.
fn part_of(user: UserId, node_count: u32) -> u32 {
    u32::from(user_slot(RING_KEY, user).0) * node_count / 65_536 + 1
}

fn credit(user: UserId, id: u128) -> Operation {
    Operation::credit(
        OperationId::from_parts(WALL_MS, id),
        user,
        Currency::new(1).unwrap(),
        5,
    )
}

fn get(user: UserId) -> Operation {
    Operation::get(user, Currency::new(1).unwrap())
}

/// A frame that the front sent.
#[derive(Clone, Debug)]
struct Got {
    header: Header,
    body: Vec<u8>,
}

impl Got {
    fn message(&self) -> Message<'_> {
        let header = self.header;
        let body = &self.body;
        Message::read(&Frame { header, body }).unwrap()
    }
}

/// A request frame that a node or router got.
#[derive(Clone, Debug)]
struct Asked {
    request: u64,
    epoch: RingEpoch,
    deadline_ms: u32,
    operations: Vec<Operation>,
}

/// One front and everybody around it.
struct Rig {
    front: Front,
    out: Outbox,
    tick_ms: u64,
    peer_count: u64,
    dials: Vec<(DialId, SocketAddr)>,
    inboxes: BTreeMap<PeerId, Vec<Got>>,
    /// Connections that the front dialled and whose pings are answered.
    talking: Vec<PeerId>,
    closing: Vec<PeerId>,
    closed: Vec<PeerId>,
    reading: BTreeMap<PeerId, bool>,
    said: Vec<String>,
    is_ready: bool,
    exit: Option<ExitCode>,
}

impl Rig {
    fn new(options: FrontOptions) -> Self {
        Self {
            front: Front::new(options),
            out: Outbox::new(),
            tick_ms: 1,
            peer_count: 0,
            dials: Vec::new(),
            inboxes: BTreeMap::new(),
            talking: Vec::new(),
            closing: Vec::new(),
            closed: Vec::new(),
            reading: BTreeMap::new(),
            said: Vec::new(),
            is_ready: false,
            exit: None,
        }
    }

    /// A front with `node_count` nodes linked, each owning an equal part of the ring in order.
    fn with_nodes(options: FrontOptions, node_count: u32) -> (Self, PeerId, Vec<PeerId>) {
        let mut rig = Self::new(options);
        rig.turn();
        let backup = rig.accept(BACKUP.parse().unwrap());
        rig.tell_equal_table(backup, 1, node_count);
        let nodes = (1..=node_count)
            .map(|node| rig.accept(node_address(node)))
            .collect();
        (rig, backup, nodes)
    }

    fn now(&self) -> Now {
        Now {
            tick: Tick(self.tick_ms * 1_000_000),
            wall_ms: WALL_MS + self.tick_ms,
        }
    }

    fn input(&mut self, input: Input<'_>) {
        let now = self.now();
        self.front.handle(now, input, &mut self.out);
    }

    /// Ends the turn and carries out what the front wants.
    fn turn(&mut self) {
        for peer in std::mem::take(&mut self.closing) {
            let reason = CloseReason::Asked;
            self.closed.push(peer);
            self.talking.retain(|talking| *talking != peer);
            self.input(Input::Closed { peer, reason });
        }
        let now = self.now();
        self.front.end_turn(now, &mut self.out);
        let inboxes = &mut self.inboxes;
        let mut pinged = Vec::new();
        self.out.drain_sends(|peer, pieces, tail| {
            assert!(pieces.is_empty());
            let inbox = inboxes.entry(peer).or_default();
            let mut rest = &tail[..];
            while let Some((frame, size)) = split(rest, LINK_FRAME_SIZE_MAX).unwrap() {
                let got = Got {
                    header: frame.header,
                    body: frame.body.to_vec(),
                };
                rest = &rest[size..];
                if matches!(got.message(), Message::Ping) {
                    pinged.push(peer);
                } else {
                    inbox.push(got);
                }
            }
            assert!(rest.is_empty());
            tail.clear();
        });
        while let Some(effect) = self.out.next_effect() {
            self.carry_out(effect);
        }
        for peer in pinged {
            if self.talking.contains(&peer) {
                self.feed(peer, &Message::Pong { time_ms: WALL_MS });
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Dial { dial, address } => self.dials.push((dial, address)),
            Effect::Established { .. } => (),
            Effect::Close { peer, .. } => self.closing.push(peer),
            Effect::Pause { peer } => {
                assert_ne!(self.reading.insert(peer, false), Some(false));
            }
            Effect::Resume { peer } => {
                assert_eq!(self.reading.insert(peer, true), Some(false));
            }
            Effect::Disk(request) => panic!("a front has no disk: {request:?}"),
            Effect::Say { text, .. } => self.said.push(text),
            Effect::Ready => self.is_ready = true,
            Effect::BeginAgain { text } => panic!("a front has one life: {text}"),
            Effect::Exit { code, .. } => self.exit = Some(code),
        }
    }

    /// Lets time pass; the front is called when it wants to be.
    fn run_ms(&mut self, ms: u64) {
        let end_ms = self.tick_ms + ms;
        loop {
            let due = self.front.deadline().map_or(u64::MAX, |due| due.0);
            let due_ms = due.div_ceil(1_000_000).max(self.tick_ms);
            if end_ms < due_ms {
                break;
            }
            self.tick_ms = due_ms;
            self.input(Input::Elapsed);
            let before = self.front.deadline();
            self.turn();
            let after = self.front.deadline();
            assert!(
                after != before || after.is_none_or(|due| self.now().tick < due),
                "the front asks to be called at once and does nothing"
            );
        }
        self.tick_ms = end_ms;
    }

    fn open(&mut self, link: Link) -> PeerId {
        self.peer_count += 1;
        let peer = PeerId(self.peer_count);
        self.input(Input::Opened { peer, link });
        peer
    }

    fn feed(&mut self, peer: PeerId, message: &Message<'_>) {
        let mut bytes = BytesMut::new();
        message.write(&mut bytes);
        self.feed_bytes(peer, &bytes);
    }

    fn feed_bytes(&mut self, peer: PeerId, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((frame, size)) = split(rest, LINK_FRAME_SIZE_MAX).unwrap() {
            self.input(Input::Frame { peer, frame });
            rest = &rest[size..];
        }
    }

    /// Breaks a connection from outside.
    fn cut(&mut self, peer: PeerId) {
        self.talking.retain(|talking| *talking != peer);
        let reason = CloseReason::Ended;
        self.input(Input::Closed { peer, reason });
    }

    /// The dial that is under way to an address; time passes until there is one.
    fn dial_to(&mut self, address: SocketAddr) -> DialId {
        for _ in 0..200 {
            let found = self.dials.iter().position(|(_, dialed)| *dialed == address);
            if let Some(at) = found {
                return self.dials.remove(at).0;
            }
            self.run_ms(10);
        }
        panic!("nobody dials {address}");
    }

    /// Accepts the front's dial to an address and shakes hands.
    fn accept(&mut self, address: SocketAddr) -> PeerId {
        self.accept_as(address, cluster(), 1_024)
    }

    fn accept_as(
        &mut self,
        address: SocketAddr,
        cluster: ClusterId,
        frames_in_flight_max: u32,
    ) -> PeerId {
        let dial = self.dial_to(address);
        let peer = self.open(Link::Dialed(dial));
        self.turn();
        let got = self.take(peer);
        let Message::Hello(hello) = got[0].message() else {
            panic!("{got:?}");
        };
        assert_eq!(hello.role, PeerRole::Front);
        let role = match address.port() {
            1_000 => PeerRole::Backup,
            2_000..3_000 => PeerRole::Node,
            _ => PeerRole::Front,
        };
        self.talking.push(peer);
        let welcome = Message::Welcome(Welcome {
            version: VERSION_MAX,
            role,
            cluster,
            time_ms: WALL_MS,
            frame_size_max: LINK_FRAME_SIZE_MAX,
            batch_count_max: 8_192,
            deadline_ms_max: 10_000,
            frames_in_flight_max,
        });
        self.feed(peer, &welcome);
        self.turn();
        peer
    }

    /// Tells a table of present nodes 1 to `node_count`, each with an equal part of the ring.
    fn tell_equal_table(&mut self, backup: PeerId, epoch: u32, node_count: u32) {
        let runs = (1..=node_count).map(|node| {
            let first = (65_536 * (node - 1)).div_ceil(node_count);
            let last = (65_536 * node).div_ceil(node_count) - 1;
            (slot_range(first, last), node)
        });
        let runs: Vec<_> = runs.collect();
        let members: Vec<_> = (1..=node_count)
            .map(|node| (node, MemberState::Present, node_address(node)))
            .collect();
        self.tell_table(backup, epoch, &members, &runs);
    }

    fn tell_table(
        &mut self,
        backup: PeerId,
        epoch: u32,
        members: &[(u32, MemberState, SocketAddr)],
        runs: &[(SlotRange, u32)],
    ) {
        let bytes = table_bytes(epoch, members, runs);
        self.feed_bytes(backup, &bytes);
        self.turn();
    }

    /// Connects a client.
    fn client(&mut self) -> PeerId {
        self.dialler(PeerRole::Client)
    }

    fn dialler(&mut self, role: PeerRole) -> PeerId {
        let peer = self.hello(role, None, (VERSION_MIN, VERSION_MAX));
        let got = self.take(peer);
        let [welcome] = &got[..] else {
            panic!("{got:?}");
        };
        assert!(matches!(welcome.message(), Message::Welcome(_)));
        self.reading.insert(peer, true);
        peer
    }

    fn hello(
        &mut self,
        role: PeerRole,
        cluster: Option<ClusterId>,
        (version_min, version_max): (u16, u16),
    ) -> PeerId {
        let peer = self.open(Link::Client);
        let hello = Message::Hello(Hello {
            version_min,
            version_max,
            role,
            cluster,
            node: (role == PeerRole::Node).then(|| NodeId::new(1).unwrap()),
            incarnation: Incarnation::new(9).unwrap(),
        });
        self.feed(peer, &hello);
        self.turn();
        peer
    }

    /// Feeds a request without ending the turn. Deadline 0 = none.
    fn request(
        &mut self,
        client: PeerId,
        request: u64,
        deadline_ms: u32,
        operations: &[Operation],
    ) {
        let mut bytes = BytesMut::new();
        let mut writer = RequestWriter::begin(&mut bytes, request, RingEpoch(0), deadline_ms);
        for operation in operations {
            writer.push(&mut bytes, &operation.to_bytes());
        }
        writer.finish(&mut bytes);
        self.feed_bytes(client, &bytes);
    }

    /// Everything that was sent to a peer since the last time.
    fn take(&mut self, peer: PeerId) -> Vec<Got> {
        self.inboxes.remove(&peer).unwrap_or_default()
    }

    /// The request frames that a node or router got.
    fn asked(&mut self, peer: PeerId) -> Vec<Asked> {
        let got = self.take(peer);
        got.iter()
            .map(|got| {
                let Message::Request {
                    deadline_ms,
                    operations,
                } = got.message()
                else {
                    panic!("{got:?}");
                };
                Asked {
                    request: got.header.request,
                    epoch: got.header.ring_epoch,
                    deadline_ms,
                    operations: operations.iter().map(Result::unwrap).collect(),
                }
            })
            .collect()
    }

    fn asked_once(&mut self, peer: PeerId) -> Asked {
        let mut asked = self.asked(peer);
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked.remove(0)
    }

    /// Answers operations of a request as a node, under an epoch, without ending the turn.
    fn answer_at(&mut self, peer: PeerId, request: u64, epoch: u32, codes: &[(u16, ResultCode)]) {
        let mut bytes = BytesMut::new();
        let mut writer = ReceiptsWriter::begin(&mut bytes, request, RingEpoch(epoch));
        for (index, code) in codes {
            let receipt = Receipt {
                available: i64::from(*index) + 100,
                ..Receipt::bare(*index, *code)
            };
            writer.push(&mut bytes, &receipt);
        }
        writer.finish(&mut bytes);
        self.feed_bytes(peer, &bytes);
    }

    /// Answers operations of a request as a node and ends the turn.
    fn answer(&mut self, peer: PeerId, request: u64, codes: &[(u16, ResultCode)]) {
        self.answer_at(peer, request, 1, codes);
        self.turn();
    }

    /// The receipts that a client got: request, index, code.
    fn receipts(&mut self, client: PeerId) -> Vec<(u64, u16, ResultCode)> {
        let mut all = Vec::new();
        for got in self.take(client) {
            let Message::Receipts(receipts) = got.message() else {
                panic!("{got:?}");
            };
            for receipt in receipts.iter().map(Result::unwrap) {
                all.push((got.header.request, receipt.index, receipt.code));
            }
        }
        all
    }

    /// The refusal that a peer got as its last word.
    fn refusal(&mut self, peer: PeerId) -> (RefusalCode, String) {
        let got = self.take(peer);
        let Some(last) = got.last() else {
            panic!("{peer:?} got nothing");
        };
        let Message::Refused(refused) = last.message() else {
            panic!("{got:?}");
        };
        assert!(self.closing.contains(&peer));
        (refused.code, refused.text.to_owned())
    }
}

fn slot_range(first: u32, last: u32) -> SlotRange {
    SlotRange {
        first: Slot(u16::try_from(first).unwrap()),
        last: Slot(u16::try_from(last).unwrap()),
    }
}

fn table_bytes(
    epoch: u32,
    members: &[(u32, MemberState, SocketAddr)],
    runs: &[(SlotRange, u32)],
) -> BytesMut {
    use bytes::BufMut;

    let mut body = BytesMut::new();
    body.put_u32_le(epoch);
    body.put_u32_le(0);
    body.put_u64_le(Generation(1).0);
    body.put_u128_le(RING_KEY);
    body.put_u32_le(u32::try_from(members.len()).unwrap());
    body.put_u32_le(0);
    for (node, state, address) in members {
        let member = Member {
            node: NodeId::new(*node).unwrap(),
            log: LogNumber::new(u16::try_from(*node).unwrap()).unwrap(),
            state: *state,
            term: Term(1),
            incarnation: 1,
            address: Some(*address),
        };
        put_member(&mut body, &member);
    }
    body.put_u32_le(u32::try_from(runs.len()).unwrap());
    body.put_u32_le(0);
    for (slots, node) in runs {
        put_slot_run(
            &mut body,
            &SlotRun {
                slots: *slots,
                node: *node,
            },
        );
    }
    let header = Header::bare(crate::protocol::FrameKind::Table);
    let frame = Frame {
        header,
        body: &body,
    };
    let mut bytes = BytesMut::new();
    Message::read(&frame).unwrap().write(&mut bytes);
    bytes
}
