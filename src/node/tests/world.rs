//! A node with a disk, a backup and fronts in memory, all joined by frames and requests.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;

use super::backup::TestBackup;
use super::disk::TestDisk;
use crate::clock::{Now, Tick};
use crate::model::{
    ClusterId, Currency, Flags, Incarnation, LogNumber, NodeId, Operation, OperationId, Receipt,
    ResultCode, RingEpoch, Row, UserId,
};
use crate::node::{Node, NodeLimits, NodeOptions};
use crate::protocol::{
    Frame, Hello, Message, PeerRole, RequestWriter, VERSION_MAX, VERSION_MIN, split,
};
use crate::role::{
    CloseReason, DialId, DiskReply, Effect, ExitCode, Input, Link, Outbox, PeerId, Piece, Role,
};

/// Wall clock at the start of every test, Unix ms.
pub(super) const START_MS: u64 = 1_700_000_000_000;

pub(super) const LOG: u16 = 1;

const SIZE_MAX: u32 = crate::limits::LINK_FRAME_SIZE_MAX;

/// One frame on its way to the node.
pub(super) type FrameBytes = BytesMut;

/// What an answer to a request looks like at the front.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) receipts: Vec<Receipt>,
    pub(super) rows: Vec<Row>,
    pub(super) epoch: u32,
}

pub(super) struct World {
    pub(super) node: Node,
    pub(super) now: Now,
    pub(super) disk: TestDisk,
    pub(super) backup: TestBackup,
    pub(super) said: Vec<String>,
    pub(super) exit: Option<(ExitCode, String)>,
    pub(super) is_ready: bool,
    /// Can the backup be reached?
    pub(super) is_wired: bool,
    out: Outbox,
    backup_peer: Option<PeerId>,
    front: PeerId,
    peer_count: u64,
    request_count: u64,
    answers: Vec<(u64, Answer)>,
    from_backup: VecDeque<(PeerId, FrameBytes)>,
    from_disk: VecDeque<DiskReply>,
    lost: VecDeque<PeerId>,
    dials: VecDeque<DialId>,
    incarnation: u128,
}

pub(super) fn cluster() -> ClusterId {
    ClusterId::new(77).unwrap()
}

pub(super) fn log_number() -> LogNumber {
    LogNumber::new(LOG).unwrap()
}

pub(super) fn options(incarnation: u128) -> NodeOptions {
    NodeOptions {
        id: NodeId::new(1).unwrap(),
        backup: "127.0.0.1:9".parse().unwrap(),
        address: "127.0.0.1:8".parse().unwrap(),
        incarnation: Incarnation::new(incarnation).unwrap(),
        cluster: None,
        id_count_max: 1 << 16,
        limits: NodeLimits::default(),
    }
}

pub(super) fn user(number: u128) -> UserId {
    UserId::new(number).unwrap()
}

pub(super) fn coin() -> Currency {
    Currency::new(5).unwrap()
}

/// An id of this time, told apart by `random`.
pub(super) fn id_at(ms: u64, random: u128) -> OperationId {
    OperationId::from_parts(ms, random)
}

pub(super) fn id(random: u128) -> OperationId {
    id_at(START_MS, random)
}

/// A credit of user `who` that opens the account.
pub(super) fn credit(random: u128, who: u128, amount: u64) -> Operation {
    Operation::credit(id(random), user(who), coin(), amount).with_flags(Flags::OPEN_IF_MISSING)
}

pub(super) fn get(who: u128) -> Operation {
    Operation::get(user(who), coin())
}

impl World {
    /// A new cluster, before the node's first turn.
    pub(super) fn new() -> Self {
        Self::with(options(100), TestDisk::new(), TestBackup::new())
    }

    pub(super) fn with(options: NodeOptions, disk: TestDisk, backup: TestBackup) -> Self {
        Self {
            node: Node::new(options),
            now: Now {
                tick: Tick(0),
                wall_ms: START_MS,
            },
            disk,
            backup,
            said: Vec::new(),
            exit: None,
            is_ready: false,
            is_wired: true,
            out: Outbox::new(),
            backup_peer: None,
            front: PeerId(0),
            peer_count: 0,
            request_count: 0,
            answers: Vec::new(),
            from_backup: VecDeque::new(),
            from_disk: VecDeque::new(),
            lost: VecDeque::new(),
            dials: VecDeque::new(),
            incarnation: options.incarnation.get(),
        }
    }

    /// A node that serves, with one front connected.
    pub(super) fn serving() -> Self {
        let mut world = Self::new();
        world.serve();
        world
    }

    pub(super) fn serve(&mut self) {
        self.run();
        assert!(self.is_ready, "said {:?}, exit {:?}", self.said, self.exit);
        self.connect_front();
    }

    pub(super) fn connect_front(&mut self) {
        let peer = self.next_peer();
        self.front = peer;
        self.give(Input::Opened {
            peer,
            link: Link::Cluster,
        });
        let mut bytes = BytesMut::new();
        let hello = Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            role: PeerRole::Front,
            cluster: Some(cluster()),
            node: None,
            incarnation: Incarnation::new(5).unwrap(),
        };
        Message::Hello(hello).write(&mut bytes);
        self.give_frames(peer, &bytes);
        self.run();
    }

    /// Starts the node again on the same disk (and with the same backup), as a new incarnation.
    pub(super) fn restart(self) -> Self {
        let mut disk = self.disk;
        disk.crash();
        let mut backup = self.backup;
        backup.crash_of_node();
        let now = self.now;
        let mut world = Self::with(options(self.incarnation + 1), disk, backup);
        world.now = now;
        world
    }

    fn next_peer(&mut self) -> PeerId {
        self.peer_count += 1;
        PeerId(self.peer_count)
    }

    // ---- requests ----

    /// Sends a request without running anything; its number.
    pub(super) fn send(&mut self, operations: &[Operation]) -> u64 {
        self.request_count += 1;
        let mut bytes = BytesMut::new();
        let number = self.request_count;
        let mut writer = RequestWriter::begin(&mut bytes, number, RingEpoch(1), 1_000);
        for operation in operations {
            writer.push(&mut bytes, &operation.to_bytes());
        }
        writer.finish(&mut bytes);
        self.give_frames(self.front, &bytes);
        number
    }

    /// Sends a request and runs everything.
    pub(super) fn ask(&mut self, operations: &[Operation]) -> Answer {
        let request = self.send(operations);
        self.run();
        self.answer(request)
    }

    /// The one answer of one operation.
    pub(super) fn one(&mut self, operation: Operation) -> Receipt {
        let answer = self.ask(&[operation]);
        assert_eq!(answer.receipts.len(), 1, "said {:?}", self.said);
        answer.receipts[0]
    }

    /// What was answered so far.
    pub(super) fn answer(&self, request: u64) -> Answer {
        let found = self.answers.iter().find(|(number, _)| *number == request);
        found.map(|(_, answer)| answer.clone()).unwrap_or_default()
    }

    pub(super) fn codes(&self, request: u64) -> Vec<ResultCode> {
        let mut receipts = self.answer(request).receipts;
        receipts.sort_by_key(|receipt| receipt.index);
        receipts.iter().map(|receipt| receipt.code).collect()
    }

    // ---- time and failures ----

    /// Lets time pass in steps that no link notices.
    pub(super) fn pass(&mut self, ms: u64) {
        let mut left = ms;
        while 0 < left {
            let step = left.min(100);
            left -= step;
            self.now.tick = self.now.tick.plus_ms(step);
            self.now.wall_ms += step;
            self.backup.clock_ms += step;
            self.give(Input::Elapsed);
            self.run();
        }
    }

    /// Cuts the connection to the backup; frames on their way are lost.
    pub(super) fn cut_link(&mut self) {
        self.is_wired = false;
        if let Some(peer) = self.backup_peer.take() {
            self.from_backup.clear();
            self.give(Input::Closed {
                peer,
                reason: CloseReason::Failed("cut".to_owned()),
            });
        }
        self.run();
    }

    pub(super) fn mend_link(&mut self) {
        self.is_wired = true;
        self.pass(100);
    }

    /// The link is there again once the node dials.
    pub(super) fn mend_link_without_running(&mut self) {
        self.is_wired = true;
        self.now.tick = self.now.tick.plus_ms(100);
        self.give(Input::Elapsed);
    }

    /// Runs at most `count` turns.
    pub(super) fn run_turns(&mut self, count: usize) {
        for _ in 0..count {
            self.node.end_turn(self.now, &mut self.out);
            self.carry_out();
            self.feed();
        }
    }

    pub(super) fn has_said(&self, text: &str) -> bool {
        self.said.iter().any(|line| line.contains(text))
    }

    pub(super) fn assert_exit(&self, code: ExitCode, text: &str) {
        let (found, line) = self.exit.as_ref().expect("the node ends");
        assert_eq!(*found, code, "{line}");
        assert!(line.contains(text), "{line:?} does not have {text:?}");
    }

    pub(super) fn give(&mut self, input: Input<'_>) {
        self.node.handle(self.now, input, &mut self.out);
    }

    fn give_frames(&mut self, peer: PeerId, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((frame, size)) = split(rest, SIZE_MAX).unwrap() {
            self.node
                .handle(self.now, Input::Frame { peer, frame }, &mut self.out);
            rest = &rest[size..];
        }
        assert!(rest.is_empty());
    }

    // ---- the loop ----

    /// Runs turns until nothing is left to do.
    pub(super) fn run(&mut self) {
        for _ in 0..10_000 {
            self.node.end_turn(self.now, &mut self.out);
            self.carry_out();
            if !self.feed() {
                let deadline = self.node.deadline();
                if deadline.is_none_or(|deadline| self.now.tick < deadline) {
                    return;
                }
                self.give(Input::Elapsed);
            }
        }
        panic!("the world does not come to rest");
    }

    /// Does what the node asked for.
    fn carry_out(&mut self) {
        let mut sends = Vec::new();
        self.out.drain_sends(|peer, pieces, tail| {
            let mut bytes = BytesMut::new();
            for piece in pieces.iter() {
                match piece {
                    Piece::Owned(owned) => bytes.extend_from_slice(owned),
                    Piece::Shared(shared) => bytes.extend_from_slice(shared),
                }
            }
            bytes.extend_from_slice(tail);
            sends.push((peer, bytes));
        });
        for (peer, bytes) in sends {
            if Some(peer) == self.backup_peer {
                self.bring_to_backup(peer, &bytes);
            } else if peer == self.front {
                self.bring_to_front(&bytes);
            }
        }
        while let Some(effect) = self.out.next_effect() {
            self.effect(effect);
        }
        self.from_disk.extend(self.disk.take_replies());
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Dial { dial, .. } => self.dials.push_back(dial),
            Effect::Close { peer, .. } => self.lost.push_back(peer),
            Effect::Disk(request) => self.disk.take(request),
            Effect::Say { text, .. } => self.said.push(text),
            Effect::Ready => self.is_ready = true,
            Effect::Exit { code, text } => {
                assert!(self.exit.is_none());
                self.exit = Some((code, text));
            }
            Effect::Established { .. } | Effect::Pause { .. } | Effect::Resume { .. } => (),
        }
    }

    fn bring_to_backup(&mut self, peer: PeerId, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((frame, size)) = split(rest, SIZE_MAX).unwrap() {
            for reply in self.backup.take(&frame) {
                self.from_backup.push_back((peer, reply));
            }
            rest = &rest[size..];
        }
        assert!(rest.is_empty());
    }

    fn bring_to_front(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((frame, size)) = split(rest, SIZE_MAX).unwrap() {
            self.at_front(&frame);
            rest = &rest[size..];
        }
    }

    fn at_front(&mut self, frame: &Frame<'_>) {
        let request = frame.header.request;
        let known = self
            .answers
            .iter()
            .position(|(number, _)| *number == request);
        let at = known.unwrap_or_else(|| {
            self.answers.push((request, Answer::default()));
            self.answers.len() - 1
        });
        let answer = &mut self.answers[at].1;
        answer.epoch = frame.header.ring_epoch.0;
        match Message::read(frame).unwrap() {
            Message::Receipts(receipts) => {
                let receipts = receipts.iter().map(Result::unwrap);
                answer.receipts.extend(receipts);
            }
            Message::Rows { index, rows } => {
                let is_told = answer.receipts.iter().any(|told| told.index == index);
                assert!(!is_told, "rows come before their receipt");
                answer.rows.extend(rows.iter().map(Result::unwrap));
            }
            _ => (),
        }
    }

    /// Hands over what happened meanwhile. False: nothing did.
    fn feed(&mut self) -> bool {
        self.from_disk.extend(self.disk.take_replies());
        let mut is_fed = false;
        while let Some(dial) = self.dials.pop_front() {
            is_fed = true;
            if self.is_wired {
                let peer = self.next_peer();
                self.backup_peer = Some(peer);
                self.give(Input::Opened {
                    peer,
                    link: Link::Dialed(dial),
                });
            } else {
                let error = "refused".to_owned();
                self.give(Input::DialFailed { dial, error });
            }
        }
        while let Some(reply) = self.from_disk.pop_front() {
            is_fed = true;
            self.give(Input::Disk(reply));
        }
        for reply in self.backup.released() {
            if let Some(peer) = self.backup_peer {
                self.from_backup.push_back((peer, reply));
            }
        }
        while let Some((peer, bytes)) = self.from_backup.pop_front() {
            is_fed = true;
            self.give_frames(peer, &bytes);
        }
        while let Some(peer) = self.lost.pop_front() {
            is_fed = true;
            if self.backup_peer == Some(peer) {
                self.backup_peer = None;
            }
            let reason = CloseReason::Asked;
            self.give(Input::Closed { peer, reason });
        }
        is_fed
    }
}

/// Shared between the disk and its view.
pub(super) type Shelf = Arc<std::sync::Mutex<super::disk::Files>>;
