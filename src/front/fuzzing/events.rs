//! Clients ask, nodes answer in any order or not at all, links come and go, slots change hands,
//! time passes. Whatever happens: every operation has one answer, in time, none is invented, and
//! none says "not applied" of what may be.

use std::collections::BTreeMap;

use bytes::BytesMut;

use super::rig::{NODE_COUNT, PART_COUNT, Rig, WALL_MS, Who};
use crate::front::Strategy;
use crate::model::{
    Choices, Incarnation, Operation, ResultCode, RingEpoch, UserId, to_u64, to_usize,
};
use crate::protocol::fuzzing::frame_of;
use crate::protocol::{
    FrameKind, Hello, Message, PeerRole, ReceiptsWriter, RequestWriter, VERSION_MAX, VERSION_MIN,
    split,
};
use crate::role::{CloseReason, Input, Link, PeerId};

/// Events of one list at most.
const EVENT_COUNT_MAX: u64 = 300;

/// Time within which everything must be answered once nothing goes wrong any more.
const SETTLE_MS: u64 = 12_000;

/// The bytes are a list of events.
pub fn check_events(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let strategies = [Strategy::Random, Strategy::LeastLoad, Strategy::RoundRobin];
    let strategy = choices.one_of(&strategies);
    let mut run = Run {
        choices,
        rig: Rig::new(strategy),
        clients: Vec::new(),
        request_count: 0,
    };
    run.begin();
    let mut count = 0;
    while !run.choices.is_empty() && count < EVENT_COUNT_MAX && run.rig.exit.is_none() {
        count += 1;
        run.step();
        run.rig.turn();
    }
    run.settle();
}

struct Run<'a> {
    choices: Choices<'a>,
    rig: Rig,
    clients: Vec<PeerId>,
    request_count: u64,
}

impl Run<'_> {
    /// The backup and all nodes are there.
    fn begin(&mut self) {
        self.rig.turn();
        for _ in 0..=NODE_COUNT {
            self.rig.accept();
        }
    }

    fn step(&mut self) {
        match self.choices.below(20) {
            0 => self.client(),
            1..=5 => self.request(),
            6..=10 => self.answer(),
            11 => self.pass(),
            12 => self.cut(),
            13 => self.change_table(),
            14 if self.choices.one_in(4) => self.rig.refuse(),
            15 => self.foreign_frame(),
            16 => self.wrong_answer(),
            17 if self.choices.one_in(16) => self.rig.input(Input::Stop),
            18 => self.hang(),
            _ => self.rig.accept(),
        }
    }

    fn client(&mut self) {
        let peer = self.rig.open(Link::Client, Who::Client);
        let hello = Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            role: self.choices.one_of(&[PeerRole::Client, PeerRole::Front]),
            cluster: None,
            node: None,
            incarnation: Incarnation::new(9).unwrap(),
        };
        self.rig.say(peer, &Message::Hello(hello), 0);
        self.clients.push(peer);
    }

    /// A client that is still there.
    fn pick_client(&mut self) -> Option<PeerId> {
        let rig = &self.rig;
        self.clients.retain(|client| rig.peers.contains_key(client));
        if self.clients.is_empty() {
            self.client();
            self.rig.turn();
        }
        let at = to_usize(self.choices.below(to_u64(self.clients.len())));
        let client = self.clients[at];
        self.rig.peers.contains_key(&client).then_some(client)
    }

    fn request(&mut self) {
        let Some(client) = self.pick_client() else {
            return;
        };
        let count = 1 + self.choices.below(6);
        let operations: Vec<Operation> = (0..count)
            .map(|_| {
                let user = UserId::new(1 + u128::from(self.choices.u8() % 6)).unwrap();
                if self.choices.one_in(4) {
                    self.rig.ledger.look_up(user)
                } else {
                    self.rig.ledger.change(user, WALL_MS)
                }
            })
            .collect();
        let deadline_ms = u32::from(self.choices.u8()) * 20;
        self.request_count += 1;
        let request = self.request_count;
        let due_ms = if deadline_ms == 0 { 5_000 } else { deadline_ms };
        let due_ms = self.rig.now_ms + u64::from(due_ms);
        self.rig.ledger.ask(client, request, due_ms, &operations);
        let mut bytes = BytesMut::new();
        let mut writer = RequestWriter::begin(&mut bytes, request, RingEpoch(0), deadline_ms);
        for operation in &operations {
            writer.push(&mut bytes, &operation.to_bytes());
        }
        writer.finish(&mut bytes);
        self.rig.feed(client, &bytes);
    }

    /// A node answers a request, or a part of it. What follows a not-now answer to a user is
    /// not-now too, as every node has it.
    fn answer(&mut self) {
        if self.rig.jobs.is_empty() {
            return;
        }
        let at = to_usize(self.choices.below(to_u64(self.rig.jobs.len())));
        let job = &self.rig.jobs[at];
        if self.rig.hung.contains(&job.peer) {
            return;
        }
        let is_part = self.choices.one_in(3);
        let mut not_now: BTreeMap<UserId, ResultCode> = BTreeMap::new();
        let mut codes = Vec::new();
        for (index, operation) in &self.rig.jobs[at].open {
            let user = operation.user();
            let code = match not_now.get(&user) {
                Some(code) => *code,
                None => code(&mut self.choices),
            };
            if code.may_retry() {
                not_now.insert(user, code);
            }
            codes.push((*index, code));
        }
        if is_part && let Some((first, _)) = codes.first().copied() {
            // Those of one user, and the others later.
            let open = &self.rig.jobs[at].open;
            let user = open[&first].user();
            codes.retain(|(index, _)| open[index].user() == user);
        }
        if self.choices.one_in(3) {
            codes.reverse();
        }
        self.rig.answer(at, &codes);
    }

    fn pass(&mut self) {
        let ms = 1 + self.choices.below(1 << 10);
        self.run_ms(ms);
    }

    /// The front is called when it wants to be.
    fn run_ms(&mut self, ms: u64) {
        let end_ms = self.rig.now_ms + ms;
        for _ in 0..10_000 {
            let due = crate::role::Role::deadline(&self.rig.front);
            let due_ms = due.map_or(u64::MAX, |due| due.0.div_ceil(1_000_000));
            let due_ms = due_ms.max(self.rig.now_ms + 1);
            if end_ms < due_ms || self.rig.exit.is_some() {
                self.rig.now_ms = end_ms;
                return;
            }
            self.rig.now_ms = due_ms;
            self.rig.input(Input::Elapsed);
            self.rig.turn();
        }
        panic!("the front is called without end");
    }

    fn pick_peer(&mut self) -> Option<PeerId> {
        let peers: Vec<PeerId> = self.rig.peers.keys().copied().collect();
        if peers.is_empty() {
            return None;
        }
        Some(peers[to_usize(self.choices.below(to_u64(peers.len())))])
    }

    fn cut(&mut self) {
        if let Some(peer) = self.pick_peer() {
            self.rig.lose(peer, CloseReason::Ended);
        }
    }

    fn hang(&mut self) {
        if let Some(peer) = self.pick_peer() {
            self.rig.hung.push(peer);
        }
    }

    fn change_table(&mut self) {
        let part = to_usize(self.choices.below(u64::from(PART_COUNT)));
        let node = 1 + u32::from(self.choices.u8()) % NODE_COUNT;
        self.rig.parts[part] = node;
        self.rig.epoch += 1;
        self.rig.tell_table();
    }

    /// Any body behind a good checksum, from anybody.
    fn foreign_frame(&mut self) {
        let Some(peer) = self.pick_peer() else {
            return;
        };
        let kind = self.choices.one_of(FrameKind::ALL);
        let size = to_usize(self.choices.below(200));
        let bytes = frame_of(kind, self.choices.bytes(size));
        // Requests and answers are told to the ledger by those that are built well; a table is
        // told by the backup alone.
        let is_told = [FrameKind::Request, FrameKind::Receipts, FrameKind::Table];
        let is_odd = split(&bytes, u32::MAX)
            .is_ok_and(|found| found.is_some_and(|(frame, _)| Message::read(&frame).is_err()));
        if is_odd || !is_told.contains(&kind) {
            self.rig.feed(peer, &bytes);
        }
    }

    /// A node answers what it was not asked.
    fn wrong_answer(&mut self) {
        let Some(job) = self.rig.jobs.first() else {
            return;
        };
        let (peer, mut request) = (job.peer, job.request);
        let mut index = 6 + u16::from(self.choices.u8());
        let mut is_asked = job.open.contains_key(&index);
        if self.choices.one_in(2) {
            request += 1_000_000;
            index = 0;
            is_asked = false;
        }
        let code = ResultCode::Ok;
        let mut bytes = BytesMut::new();
        let mut writer = ReceiptsWriter::begin(&mut bytes, request, RingEpoch(self.rig.epoch));
        writer.push(&mut bytes, &crate::model::Receipt::bare(index, code));
        writer.finish(&mut bytes);
        if !is_asked {
            self.rig.feed(peer, &bytes);
        }
    }

    /// Nothing goes wrong any more: everything is answered within its deadline.
    fn settle(&mut self) {
        self.rig.hung.clear();
        let mut passed_ms = 0;
        while passed_ms < SETTLE_MS && self.rig.exit.is_none() {
            self.rig.turn();
            while !self.rig.dials.is_empty() {
                self.rig.accept();
            }
            while let Some(job) = self.rig.jobs.first() {
                let all = job.open.keys().map(|index| (*index, ResultCode::Ok));
                let all: Vec<_> = all.collect();
                self.rig.answer(0, &all);
            }
            self.rig.turn();
            if self.rig.jobs.is_empty() && self.rig.open_tags().is_empty() {
                break;
            }
            self.run_ms(100);
            passed_ms += 100;
        }
        if self.rig.exit.is_none() {
            let open: Vec<_> = self.rig.ledger.open().collect();
            assert!(open.is_empty(), "without an answer: {open:?}");
        }
    }
}

fn code(choices: &mut Choices<'_>) -> ResultCode {
    choices.one_of(&[
        ResultCode::Ok,
        ResultCode::Ok,
        ResultCode::Ok,
        ResultCode::Insufficient,
        ResultCode::IdReused,
        ResultCode::Busy,
        ResultCode::NotOwner,
        ResultCode::Moving,
        ResultCode::NotReady,
        ResultCode::Unavailable,
        ResultCode::NoSpace,
        ResultCode::IdInFuture,
    ])
}
