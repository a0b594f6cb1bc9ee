//! Fronts in a seeded world of delays, cuts, not-now answers and changing tables.
//!
//! The nodes are a model of a few lines: a set of ids that were applied. It says what the fronts'
//! answers must be worth: `ok` was applied once, a not-now code never was and never will be, and
//! the operations of one user of one batch were applied in order, none before the one ahead of it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;

use super::*;
use crate::model::Random;

const NODE_COUNT: u32 = 3;
const USER_COUNT: u64 = 8;
const CLIENT_COUNT: usize = 4;
const PART_COUNT: u32 = 8;
/// Faults and new requests end here; then everything must come to its end.
const QUIET_MS: u64 = 2_000;
const END_MS: u64 = QUIET_MS + 12_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Front(usize, PeerId),
    Node(u32),
    Backup,
    Client(usize),
}

#[derive(Debug)]
struct Wire {
    ends: [End; 2],
    is_open: bool,
    /// When the last bytes so far arrive at each end: what follows does not overtake them.
    busy_until_ms: [u64; 2],
}

#[derive(Debug)]
enum Event {
    Bytes(usize, usize, Vec<u8>),
    Closed(usize, usize),
    Dialed(usize, DialId, SocketAddr),
    Wake(usize),
    Send(usize),
    Cut,
    HandOver,
    Flip(usize, u32),
    Leave,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    /// Nothing but short delays.
    Calm,
    /// Cuts, slow commits, not-now answers, changing tables.
    Bad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology {
    OneFront,
    BalancerAndRouters,
}

struct Station {
    front: Front,
    out: Outbox,
    wires: BTreeMap<PeerId, usize>,
    is_dirty: bool,
}

#[derive(Debug)]
struct Pending {
    deadline_ms: u64,
    operations: Vec<Operation>,
    codes: Vec<Option<ResultCode>>,
}

/// What happened, to see that the test saw something.
#[derive(Debug, Default)]
#[expect(clippy::struct_field_names, reason = "counts of the same things")]
struct Tally {
    ok_count: u32,
    unknown_count: u32,
    not_now_count: u32,
    replay_count: u32,
    cut_count: u32,
    moving_count: u32,
}

struct World {
    weather: Weather,
    random: Random,
    now_ms: u64,
    events: BTreeMap<(u64, u64), Event>,
    event_count: u64,
    stations: Vec<Station>,
    wires: Vec<Wire>,
    peer_count: u64,
    epoch: u32,
    /// Wires of the backup whose front asked for the table.
    followers: Vec<usize>,
    /// Owner of each equal part of the ring.
    parts: Vec<u32>,
    /// Parts that their owner handed over and that the table still gives to it.
    handed: BTreeSet<usize>,
    /// A node that nobody reaches, and until when: longer than any request waits.
    away: (u32, u64),
    /// Ids in the order in which they were applied, by user.
    applied: BTreeMap<u128, Vec<u128>>,
    seen: BTreeSet<u128>,
    requests: Vec<BTreeMap<u64, Pending>>,
    done: Vec<Pending>,
    id_count: u128,
    tally: Tally,
}

fn world(seed: u64, weather: Weather, topology: Topology) -> World {
    let mut world = World {
        weather,
        random: Random::new(seed),
        now_ms: 1,
        events: BTreeMap::new(),
        event_count: 0,
        stations: Vec::new(),
        wires: Vec::new(),
        peer_count: 0,
        epoch: 1,
        followers: Vec::new(),
        parts: (0..PART_COUNT).map(|part| part % NODE_COUNT + 1).collect(),
        handed: BTreeSet::new(),
        away: (0, 0),
        applied: BTreeMap::new(),
        seen: BTreeSet::new(),
        requests: Vec::new(),
        done: Vec::new(),
        id_count: 0,
        tally: Tally::default(),
    };
    let mut roles = vec![Roles::Both];
    if topology == Topology::BalancerAndRouters {
        roles = vec![Roles::Balancer, Roles::Router, Roles::Router];
    }
    for (index, roles) in (0_u32..).zip(roles) {
        let mut options = options();
        options.roles = roles;
        options.strategy = Strategy::LeastLoad;
        options.seed = seed + u64::from(index);
        options.cluster = Some(cluster());
        options.routers = match roles {
            Roles::Balancer => vec![router_address(1), router_address(2)],
            Roles::Both | Roles::Router => Vec::new(),
        };
        world.stations.push(Station {
            front: Front::new(options),
            out: Outbox::new(),
            wires: BTreeMap::new(),
            is_dirty: true,
        });
    }
    for client in 0..CLIENT_COUNT {
        world.requests.push(BTreeMap::new());
        world.connect(0, Link::Client, End::Client(client));
        world.at(10, Event::Send(client));
    }
    if weather == Weather::Bad {
        world.at(300, Event::Cut);
        world.at(200, Event::HandOver);
        world.at(400, Event::Leave);
    }
    world
}

impl World {
    fn at(&mut self, delay_ms: u64, event: Event) {
        self.event_count += 1;
        let key = (self.now_ms + delay_ms, self.event_count);
        self.events.insert(key, event);
    }

    /// Opens a wire between a front and something else; a client says hello at once.
    fn connect(&mut self, station: usize, link: Link, other: End) {
        self.peer_count += 1;
        let peer = PeerId(self.peer_count);
        let wire = self.wires.len();
        self.wires.push(Wire {
            ends: [End::Front(station, peer), other],
            is_open: true,
            busy_until_ms: [0; 2],
        });
        self.input(station, Input::Opened { peer, link });
        self.stations[station].wires.insert(peer, wire);
        if let End::Client(_) = other {
            let hello = Message::Hello(Hello {
                version_min: VERSION_MIN,
                version_max: VERSION_MAX,
                role: PeerRole::Client,
                cluster: None,
                node: None,
                incarnation: Incarnation::new(1).unwrap(),
            });
            self.say(wire, 1, &hello, 0);
        }
    }

    fn input(&mut self, station: usize, input: Input<'_>) {
        let now = self.now();
        let station = &mut self.stations[station];
        station.front.handle(now, input, &mut station.out);
        station.is_dirty = true;
    }

    fn is_bad(&self) -> bool {
        self.weather == Weather::Bad && self.now_ms < QUIET_MS
    }

    fn now(&self) -> Now {
        Now {
            tick: Tick(self.now_ms * 1_000_000),
            wall_ms: WALL_MS + self.now_ms,
        }
    }

    /// Puts bytes on a wire from one of its ends.
    fn send(&mut self, wire: usize, from: usize, bytes: Vec<u8>) {
        if bytes.is_empty() || !self.wires[wire].is_open {
            return;
        }
        let arrival_ms = self.now_ms + self.random.below(3);
        let to = 1 - from;
        let busy = &mut self.wires[wire].busy_until_ms[to];
        *busy = arrival_ms.max(*busy);
        let delay_ms = *busy - self.now_ms;
        self.at(delay_ms, Event::Bytes(wire, to, bytes));
    }

    fn say(&mut self, wire: usize, from: usize, message: &Message<'_>, request: u64) {
        let mut bytes = BytesMut::new();
        message.write_for(&mut bytes, request);
        self.send(wire, from, bytes.to_vec());
    }

    /// Closes a wire: both ends hear of it behind what is under way to them. What is under way to
    /// a node still gets there: bytes in its buffers outlive the connection.
    fn close(&mut self, wire: usize) {
        if !std::mem::replace(&mut self.wires[wire].is_open, false) {
            return;
        }
        for to in [0, 1] {
            let delay_ms = self.random.below(3);
            self.at(delay_ms, Event::Closed(wire, to));
        }
    }

    fn run(&mut self) {
        while let Some((key, event)) = self.events.pop_first() {
            if key.0 != self.now_ms {
                self.end_turns();
                if self
                    .events
                    .first_key_value()
                    .is_some_and(|(first, _)| *first < key)
                {
                    // The turns had something to say before this.
                    self.events.insert(key, event);
                    continue;
                }
            }
            if END_MS < key.0 {
                break;
            }
            self.now_ms = key.0;
            self.on_event(event);
            if self.random.one_in(3) {
                self.end_turns();
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Bytes(wire, to, bytes) => self.on_bytes(wire, to, &bytes),
            Event::Closed(wire, to) => {
                if let End::Front(station, peer) = self.wires[wire].ends[to]
                    && self.stations[station].wires.remove(&peer).is_some()
                {
                    let reason = CloseReason::Ended;
                    self.input(station, Input::Closed { peer, reason });
                }
            }
            Event::Dialed(station, dial, address) => self.on_dialed(station, dial, address),
            Event::Wake(station) => {
                if self.stations[station].front.deadline() <= Some(self.now().tick) {
                    self.input(station, Input::Elapsed);
                }
            }
            Event::Send(client) if self.now_ms < QUIET_MS => self.send_request(client),
            Event::Cut if self.now_ms < QUIET_MS => self.cut(),
            Event::HandOver if self.now_ms < QUIET_MS => self.hand_over(),
            // What was handed over goes on, whatever the time.
            Event::Flip(part, node) => self.flip(part, node),
            Event::Leave if self.now_ms < QUIET_MS => self.leave(),
            Event::Send(_) | Event::Cut | Event::HandOver | Event::Leave => (),
        }
    }

    fn on_dialed(&mut self, station: usize, dial: DialId, address: SocketAddr) {
        let is_away = u32::from(address.port()) == 2_000 + self.away.0 && self.now_ms < self.away.1;
        if is_away || self.is_bad() && self.random.one_in(5) {
            let error = "refused".to_owned();
            self.input(station, Input::DialFailed { dial, error });
            return;
        }
        let link = Link::Dialed(dial);
        let port = u32::from(address.port());
        let other = match port {
            1_000 => End::Backup,
            2_000..3_000 => End::Node(port - 2_000),
            _ => {
                // The other end is a front too: it accepts.
                self.peer_count += 1;
                let peer = PeerId(self.peer_count);
                let router = usize::try_from(port - 3_000).unwrap();
                let link = Link::Client;
                self.input(router, Input::Opened { peer, link });
                self.stations[router].wires.insert(peer, self.wires.len());
                End::Front(router, peer)
            }
        };
        self.connect(station, link, other);
    }

    fn cut(&mut self) {
        let open: Vec<usize> = (0..self.wires.len())
            .filter(|wire| self.wires[*wire].is_open)
            .filter(|wire| !matches!(self.wires[*wire].ends[1], End::Client(_)))
            .collect();
        if !open.is_empty() {
            let at = self.random.below(open.len() as u64);
            self.close(open[usize::try_from(at).unwrap()]);
            self.tally.cut_count += 1;
        }
        let delay_ms = self.random.below(200);
        self.at(delay_ms, Event::Cut);
    }

    /// A node is out of reach for longer than requests wait.
    fn leave(&mut self) {
        let node = 1 + u32::try_from(self.random.below(u64::from(NODE_COUNT))).unwrap();
        self.away = (node, self.now_ms + 600);
        for wire in 0..self.wires.len() {
            if self.wires[wire].ends[1] == End::Node(node) {
                self.close(wire);
            }
        }
        let delay_ms = 1_000 + self.random.below(1_000);
        self.at(delay_ms, Event::Leave);
    }

    /// The owner of some parts takes nothing for them any more; after a while they are others'.
    fn hand_over(&mut self) {
        for _ in 0..2 {
            let part = usize::try_from(self.random.below(u64::from(PART_COUNT))).unwrap();
            let node = u32::try_from(self.random.below(u64::from(NODE_COUNT))).unwrap() + 1;
            if self.handed.insert(part) {
                // Now and then it takes longer than anybody waits.
                let slow = self.random.one_in(16);
                let delay_ms = self.random.below(if slow { 1_500 } else { 100 });
                self.at(delay_ms, Event::Flip(part, node));
            }
        }
        let delay_ms = self.random.below(300);
        self.at(delay_ms, Event::HandOver);
    }

    fn flip(&mut self, part: usize, node: u32) {
        self.epoch += 1;
        self.parts[part] = node;
        self.handed.remove(&part);
        for wire in self.followers.clone() {
            let table = self.table();
            self.send(wire, 1, table);
        }
    }

    fn table(&self) -> Vec<u8> {
        let members: Vec<_> = (1..=NODE_COUNT)
            .map(|node| (node, MemberState::Present, node_address(node)))
            .collect();
        let size = 65_536 / PART_COUNT;
        let runs: Vec<_> = (0..)
            .zip(&self.parts)
            .map(|(part, node)| (slot_range(part * size, (part + 1) * size - 1), *node))
            .collect();
        table_bytes(self.epoch, &members, &runs).to_vec()
    }

    fn end_turns(&mut self) {
        for index in 0..self.stations.len() {
            if !std::mem::take(&mut self.stations[index].is_dirty) {
                continue;
            }
            let now = self.now();
            let station = &mut self.stations[index];
            station.front.end_turn(now, &mut station.out);
            let mut sends = Vec::new();
            station.out.drain_sends(|peer, _, tail| {
                sends.push((peer, tail.to_vec()));
                tail.clear();
            });
            for (peer, bytes) in sends {
                if let Some(wire) = self.stations[index].wires.get(&peer).copied() {
                    let from = self.end_of(wire, index, peer);
                    self.send(wire, from, bytes);
                }
            }
            while let Some(effect) = self.stations[index].out.next_effect() {
                self.carry_out(index, &effect);
            }
            if let Some(due) = self.stations[index].front.deadline() {
                let due_ms = due.0.div_ceil(1_000_000).max(self.now_ms + 1);
                self.at(due_ms - self.now_ms, Event::Wake(index));
            }
        }
    }

    fn end_of(&self, wire: usize, station: usize, peer: PeerId) -> usize {
        usize::from(self.wires[wire].ends[0] != End::Front(station, peer))
    }

    fn carry_out(&mut self, station: usize, effect: &Effect) {
        match *effect {
            Effect::Dial { dial, address } => {
                let delay_ms = 1 + self.random.below(3);
                self.at(delay_ms, Event::Dialed(station, dial, address));
            }
            Effect::Close { peer, .. } => {
                if let Some(wire) = self.stations[station].wires.get(&peer).copied() {
                    self.close(wire);
                }
            }
            Effect::Say { .. } | Effect::Established { .. } | Effect::Ready => (),
            Effect::Pause { .. }
            | Effect::Resume { .. }
            | Effect::Disk(_)
            | Effect::BeginAgain { .. }
            | Effect::Exit { .. } => panic!("{effect:?}"),
        }
    }

    fn on_bytes(&mut self, wire: usize, to: usize, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((frame, size)) = split(rest, LINK_FRAME_SIZE_MAX).unwrap() {
            rest = &rest[size..];
            match self.wires[wire].ends[to] {
                End::Front(station, peer) => {
                    if self.stations[station].wires.contains_key(&peer) {
                        self.input(station, Input::Frame { peer, frame });
                    }
                }
                End::Node(node) => self.on_server_frame(wire, &frame, Some(node)),
                End::Backup => self.on_server_frame(wire, &frame, None),
                End::Client(client) => self.on_client_frame(client, &frame),
            }
        }
    }

    fn on_server_frame(&mut self, wire: usize, frame: &Frame<'_>, node: Option<u32>) {
        let request = frame.header.request;
        let message = Message::read(frame).unwrap();
        if let Message::Request { operations, .. } = message {
            let operations: Vec<Operation> = operations.iter().map(Result::unwrap).collect();
            self.serve(wire, request, &operations, node.unwrap());
        } else if let Message::Hello(_) = message {
            let welcome = Message::Welcome(Welcome {
                version: VERSION_MAX,
                role: node.map_or(PeerRole::Backup, |_| PeerRole::Node),
                cluster: cluster(),
                time_ms: WALL_MS,
                frame_size_max: LINK_FRAME_SIZE_MAX,
                batch_count_max: 8_192,
                deadline_ms_max: 10_000,
                frames_in_flight_max: 8,
            });
            self.say(wire, 1, &welcome, 0);
        } else if let Message::Follow = message {
            self.followers.push(wire);
            let table = self.table();
            self.send(wire, 1, table);
        } else {
            assert_eq!(message, Message::Ping);
            self.say(wire, 1, &Message::Pong { time_ms: WALL_MS }, request);
        }
    }

    /// A node: takes or refuses each operation, and answers in pieces, some of them late.
    fn serve(&mut self, wire: usize, request: u64, operations: &[Operation], node: u32) {
        let mut held_back = BTreeMap::new();
        let mut pieces = vec![Vec::new(); 3];
        for (index, operation) in (0_u16..).zip(operations) {
            let user = operation.user().get();
            let code = match held_back.get(&user) {
                Some(code) => *code,
                None => self.take(operation, node),
            };
            if code == ResultCode::Ok {
                let piece = usize::try_from(self.random.below(3)).unwrap();
                pieces[piece].push((index, code));
            } else {
                held_back.insert(user, code);
                pieces[0].push((index, code));
            }
        }
        for mut piece in pieces {
            if piece.is_empty() {
                continue;
            }
            if self.random.one_in(2) {
                piece.reverse();
            }
            let mut bytes = BytesMut::new();
            let mut writer = ReceiptsWriter::begin(&mut bytes, request, RingEpoch(self.epoch));
            for (index, code) in piece {
                writer.push(&mut bytes, &Receipt::bare(index, code));
            }
            writer.finish(&mut bytes);
            // Now and then a commit takes longer than anybody waits.
            let slow = self.is_bad() && self.random.one_in(1_000);
            let commit_ms = self.random.below(if slow { 300 } else { 3 });
            let busy = &mut self.wires[wire].busy_until_ms[0];
            *busy = (*busy).max(self.now_ms + commit_ms);
            self.send(wire, 1, bytes.to_vec());
        }
    }

    fn take(&mut self, operation: &Operation, node: u32) -> ResultCode {
        let part = part_of(operation.user(), PART_COUNT) - 1;
        let part = usize::try_from(part).unwrap();
        if self.parts[part] != node {
            return ResultCode::NotOwner;
        }
        if self.handed.contains(&part) {
            self.tally.moving_count += 1;
            return ResultCode::Moving;
        }
        if self.is_bad() && self.random.one_in(20) {
            return ResultCode::Busy;
        }
        if let Some(id) = operation.id() {
            if self.seen.insert(id.get()) {
                let user = operation.user().get();
                self.applied.entry(user).or_default().push(id.get());
            } else {
                self.tally.replay_count += 1;
            }
        }
        ResultCode::Ok
    }

    fn send_request(&mut self, client: usize) {
        let count = 1 + self.random.below(12);
        let mut operations = Vec::new();
        for _ in 0..count {
            let user = u128::from(1 + self.random.below(USER_COUNT));
            let user = UserId::new(user).unwrap();
            if self.random.one_in(5) {
                operations.push(get(user));
            } else {
                self.id_count += 1;
                operations.push(credit(user, self.id_count));
            }
        }
        let deadline_ms = 100 + self.random.below(400);
        self.event_count += 1;
        let request = self.event_count;
        let mut bytes = BytesMut::new();
        let deadline = u32::try_from(deadline_ms).unwrap();
        let mut writer = RequestWriter::begin(&mut bytes, request, RingEpoch(0), deadline);
        for operation in &operations {
            writer.push(&mut bytes, &operation.to_bytes());
        }
        writer.finish(&mut bytes);
        let pending = Pending {
            // Two ways of at most 2 ms each, and what stood in the way before.
            deadline_ms: self.now_ms + deadline_ms + 10,
            codes: vec![None; operations.len()],
            operations,
        };
        self.requests[client].insert(request, pending);
        let wire = self.wires.iter();
        let mut ends = wire.map(|wire| wire.ends[1]);
        let wire = ends.position(|end| end == End::Client(client)).unwrap();
        self.send(wire, 1, bytes.to_vec());
        let delay_ms = self.random.below(8);
        self.at(delay_ms, Event::Send(client));
    }

    fn on_client_frame(&mut self, client: usize, frame: &Frame<'_>) {
        let request = frame.header.request;
        let message = Message::read(frame).unwrap();
        let Message::Receipts(receipts) = message else {
            assert!(matches!(message, Message::Welcome(_) | Message::Ping));
            return;
        };
        let pending = self.requests[client].get_mut(&request).unwrap();
        for receipt in receipts.iter().map(Result::unwrap) {
            assert!(self.now_ms <= pending.deadline_ms, "too late");
            let code = &mut pending.codes[usize::from(receipt.index)];
            assert_eq!(code.replace(receipt.code), None, "answered twice");
        }
        if pending.codes.iter().all(Option::is_some) {
            let pending = self.requests[client].remove(&request).unwrap();
            self.done.push(pending);
        }
    }

    /// What every answer was worth, now that nothing can be applied any more.
    fn judge(&mut self) {
        for requests in &self.requests {
            assert!(requests.is_empty(), "without an answer: {requests:?}");
        }
        for station in &self.stations {
            assert_eq!(station.front.flight.held_count(), 0);
            assert_eq!(station.front.flight.batches.count(), 0);
        }
        for pending in &self.done {
            let mut ahead_by_user = BTreeMap::new();
            for (operation, code) in pending.operations.iter().zip(&pending.codes) {
                let code = code.unwrap();
                let Some(id) = operation.id() else {
                    assert!(matches!(code, ResultCode::Ok | ResultCode::Unavailable));
                    continue;
                };
                let user = operation.user().get();
                let ids = self.applied.get(&user).map_or(&[][..], |ids| &ids[..]);
                let place = ids.iter().position(|applied| *applied == id.get());
                if code == ResultCode::Ok {
                    self.tally.ok_count += 1;
                    assert!(place.is_some(), "acknowledged and not applied");
                } else if code == ResultCode::Unknown {
                    self.tally.unknown_count += 1;
                } else {
                    self.tally.not_now_count += 1;
                    assert!(code.may_retry(), "{code}");
                    assert_eq!(place, None, "{code} and applied");
                }
                let ahead = ahead_by_user.entry(user).or_insert(Some(0));
                if let Some(place) = place {
                    let ahead = ahead.expect("none is applied if the one ahead of it is not");
                    assert!(ahead <= place, "applied before the one ahead of it");
                }
                *ahead = place;
            }
        }
    }
}

fn sweep(seeds: std::ops::Range<u64>, weather: Weather, topology: Topology) -> Tally {
    let mut sum = Tally::default();
    for seed in seeds {
        let mut world = world(seed, weather, topology);
        world.run();
        world.judge();
        sum.ok_count += world.tally.ok_count;
        sum.unknown_count += world.tally.unknown_count;
        sum.not_now_count += world.tally.not_now_count;
        sum.replay_count += world.tally.replay_count;
        sum.cut_count += world.tally.cut_count;
        sum.moving_count += world.tally.moving_count;
    }
    sum
}

#[test]
fn fronts_keep_their_word_in_a_bad_world() {
    for topology in [Topology::OneFront, Topology::BalancerAndRouters] {
        let sum = sweep(0..8, Weather::Bad, topology);
        // A world in which nothing went wrong, or everything did, would prove nothing.
        assert!(sum.ok_count > 5 * sum.unknown_count, "{sum:?}");
        assert!(sum.unknown_count > 100, "{sum:?}");
        assert!(sum.not_now_count > 100, "{sum:?}");
        assert!(sum.replay_count > 100, "{sum:?}");
        assert!(sum.cut_count > 100, "{sum:?}");
        assert!(sum.moving_count > 100, "{sum:?}");
    }
}

#[test]
fn in_a_calm_world_all_is_done_within_its_deadline() {
    for topology in [Topology::OneFront, Topology::BalancerAndRouters] {
        let sum = sweep(0..1, Weather::Calm, topology);
        assert!(sum.ok_count > 2_000, "{sum:?}");
        assert_eq!(sum.unknown_count + sum.not_now_count, 0, "{sum:?}");
    }
}
