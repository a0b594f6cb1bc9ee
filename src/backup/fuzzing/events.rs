//! Lives of nodes come and go, bytes arrive late, twice, forged or not at all, the disk is slow
//! or fails, the process dies. Whatever happens: a term has one life, a place in a log has one
//! block, what was acknowledged is durable and stays.

use bytes::Bytes;

use super::bench::{Bench, FakeNode, node};
use super::witness::Witness;
use crate::model::{Choices, LogEnd, LogNumber, Place, Seq, Term, to_u64, to_usize};
use crate::protocol::fuzzing::frame_of;
use crate::protocol::{Append, Beat, Fetch, FrameKind, Message, PeerRole, split};
use crate::role::{DiskFault, Input, PeerId};

/// Events of one list at most.
const EVENT_COUNT_MAX: u64 = 400;

/// Lives at a time.
const LIFE_COUNT_MAX: usize = 6;

/// Time that one list may let pass: every 100 ms of it are a turn of their own.
const PASS_MS_MAX: u64 = 30_000;

/// The bytes are a list of events.
pub fn check_events(bytes: &[u8]) {
    let mut world = World::new(bytes);
    let mut count = 0;
    while !world.choices.is_empty() && count < EVENT_COUNT_MAX {
        count += 1;
        world.step();
        if world.bench.exit.is_some() {
            assert!(world.is_faulty, "{:?}", world.bench.exit);
            world.crash();
        }
    }
    world.bench.disk.faults.clear();
    world.crash();
    world.bench.settle();
    world.witness.judge(&world.bench);
}

struct World<'a> {
    choices: Choices<'a>,
    bench: Bench,
    witness: Witness,
    lives: Vec<FakeNode>,
    last_life: u128,
    passed_ms: u64,
    /// Something of the disk was made to fail.
    is_faulty: bool,
    /// Frames that arrive late.
    late: Vec<(PeerId, LogNumber, Term, Bytes)>,
}

impl<'a> World<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut bench = Bench::serving();
        bench.closes = false;
        Self {
            choices: Choices::new(bytes),
            bench,
            witness: Witness::default(),
            lives: Vec::new(),
            last_life: 100,
            passed_ms: 0,
            is_faulty: false,
            late: Vec::new(),
        }
    }

    fn step(&mut self) {
        match self.choices.below(20) {
            0 | 1 => self.start_life(),
            2 => self.end_life(),
            3 => self.reconnect(),
            4..=8 => self.append(),
            9 => self.append_wrong(),
            10 => self.late_bytes(),
            11 => self.beat(),
            12 => self.pass(),
            13 => self.ask(),
            14 => self.foreign_frame(),
            15 if self.choices.one_in(3) => self.crash(),
            16 if self.choices.one_in(8) => self.fail(),
            _ => {
                let count = 1 + self.choices.below(8);
                for _ in 0..count {
                    self.bench.disk_step();
                }
            }
        }
        for life in &mut self.lives {
            self.witness.listen(&mut self.bench, life);
        }
    }

    fn pick(&mut self) -> Option<usize> {
        let count = to_u64(self.lives.len());
        (count != 0).then(|| to_usize(self.choices.below(count)))
    }

    /// One that is connected.
    fn pick_peer(&mut self) -> Option<(usize, PeerId)> {
        let index = self.pick()?;
        Some((index, self.lives[index].peer?))
    }

    /// A new process of a node: on the folder of an older one, or on an empty one.
    fn start_life(&mut self) {
        self.last_life += 1;
        let number = 1 + u32::from(self.choices.u8() % 3);
        let of_node = |life: &&FakeNode| life.node == node(number);
        let older = self.lives.iter().rfind(of_node);
        let mut life = match older {
            Some(older) if !self.choices.one_in(4) => older.restarted(self.last_life),
            _ => FakeNode::new(number, self.last_life),
        };
        if self.choices.one_in(8) {
            // A node that knows of more than this backup has: it must be refused.
            life.committed = Seq(self.choices.below(1 << 16));
        }
        life.register(&mut self.bench);
        self.lives.push(life);
        if LIFE_COUNT_MAX < self.lives.len() {
            let oldest = self.lives.remove(0);
            self.hang_up(oldest.peer);
        }
    }

    fn hang_up(&mut self, peer: Option<PeerId>) {
        if let Some(peer) = peer {
            self.late.retain(|(late, ..)| *late != peer);
            self.bench.drop_peer(peer);
        }
    }

    fn end_life(&mut self) {
        if let Some(index) = self.pick() {
            let peer = self.lives[index].peer.take();
            self.hang_up(peer);
        }
    }

    fn reconnect(&mut self) {
        if let Some(index) = self.pick() {
            self.lives[index].register(&mut self.bench);
        }
    }

    /// Has this life a term, and all that is durable?
    fn may_append(&self, index: usize) -> bool {
        let life = &self.lives[index];
        let here = life.log.and_then(|log| self.bench.disk.logs.get(&log));
        life.peer.is_some()
            && life.term != Term(0)
            && here.is_some_and(|here| here.blocks.len() <= life.blocks.len())
    }

    fn append(&mut self) {
        let Some(index) = self.pick().filter(|index| self.may_append(*index)) else {
            return;
        };
        let count = 1 + u32::from(self.choices.u8() % 3);
        let again = self.choices.one_in(3);
        let back = 1 + to_usize(self.choices.below(4));
        let life = &mut self.lives[index];
        let kept = life.blocks.len().checked_sub(back).filter(|_| again);
        let block = match kept {
            Some(at) => life.blocks[at].1.clone(),
            None => life.build(count),
        };
        let frame = (life.peer.unwrap(), life.log.unwrap(), life.term, block);
        if self.choices.one_in(5) {
            self.late.push(frame);
        } else {
            send(&mut self.bench, &frame);
        }
    }

    /// What no honest node sends: damaged bytes, another block in the place of one that is
    /// there, a term that it does not have, the log of another.
    fn append_wrong(&mut self) {
        let Some(index) = self.pick().filter(|index| self.may_append(*index)) else {
            return;
        };
        let kind = self.choices.below(4);
        let at = to_usize(self.choices.below(1 << 9));
        let byte = self.choices.u8();
        let life = &mut self.lives[index];
        let (peer, mut log, mut term) = (life.peer.unwrap(), life.log.unwrap(), life.term);
        let kept = life.blocks.len();
        let durable = self.bench.disk.logs[&log].blocks.len();
        let block = match kind {
            0 if durable != 0 => {
                // Behind a block that has one behind it already.
                let after = at % durable;
                let after = match after.checked_sub(1) {
                    Some(before) => life.blocks[before].0,
                    None => LogEnd::default(),
                };
                life.build_behind(&after, 1)
            }
            1 => {
                let mut bytes = life.build(1).to_vec();
                let at = at % bytes.len();
                bytes[at] ^= byte.max(1);
                bytes.into()
            }
            2 => {
                term = Term(u64::from(byte));
                if term == life.term {
                    return;
                }
                life.build(1)
            }
            _ => {
                log = LogNumber::new(1 + u16::from(byte % 4)).unwrap();
                if Some(log) == life.log {
                    return;
                }
                life.build(1)
            }
        };
        life.blocks.truncate(kept);
        send(&mut self.bench, &(peer, log, term, block));
    }

    fn late_bytes(&mut self) {
        if !self.late.is_empty() {
            let index = to_usize(self.choices.below(to_u64(self.late.len())));
            let frame = self.late.remove(index);
            send(&mut self.bench, &frame);
        }
    }

    fn beat(&mut self) {
        let Some((index, _)) = self.pick_peer() else {
            return;
        };
        let life = &self.lives[index];
        let nonce = u64::from(self.choices.u8());
        let incarnation = life.incarnation;
        self.witness
            .nonces
            .entry(incarnation)
            .or_default()
            .push(nonce);
        let figures = Beat {
            applied: Seq(self.choices.below(40)),
            committed: Seq(self.choices.below(40)),
            digest: u128::from(self.choices.u8()),
            free_size: self.choices.u64(),
            ..Beat::default()
        };
        life.beat(&mut self.bench, nonce, figures);
    }

    fn pass(&mut self) {
        let ms = 100 * (1 + self.choices.below(40));
        if self.passed_ms + ms <= PASS_MS_MAX {
            self.passed_ms += ms;
            self.bench.wait_ms(ms);
        }
    }

    /// Reads of the mirror, by nodes and by strangers.
    fn ask(&mut self) {
        let peer = match self.pick_peer() {
            Some((_, peer)) if !self.choices.one_in(4) => peer,
            _ => {
                self.last_life += 1;
                let incarnation = super::bench::life(self.last_life);
                let role = self.choices.one_of(&[PeerRole::Client, PeerRole::Front]);
                self.bench.connect(role, None, incarnation)
            }
        };
        let log = LogNumber::new(1 + u16::from(self.choices.u8() % 4)).unwrap();
        let fetch = Fetch {
            log,
            offset: self.choices.below(1 << 16),
            size_max: self.choices.u32(),
        };
        let place = Place::new(log, fetch.offset);
        let message = match self.choices.below(6) {
            0 => Message::Fetch(fetch),
            1 => Message::EntryAsk { place },
            2 => Message::StatusAsk,
            3 => Message::AuditAsk,
            4 => Message::Follow,
            _ => Message::Ping,
        };
        if !self.bench.closing.contains(&peer) {
            self.bench.say_only(peer, &message, 7);
            self.bench.end_turn();
        }
    }

    /// A frame with any body behind a good checksum.
    fn foreign_frame(&mut self) {
        let Some((_, peer)) = self.pick_peer() else {
            return;
        };
        let kind = self.choices.one_of(FrameKind::ALL);
        let size = to_usize(self.choices.below(200));
        let bytes = frame_of(kind, self.choices.bytes(size));
        // What these say is told to the witness by those that are built well.
        if kind == FrameKind::Register || kind == FrameKind::Beat {
            return;
        }
        let (frame, _) = split(&bytes, u32::MAX).unwrap().unwrap();
        self.bench.handle(Input::Frame { peer, frame });
        self.bench.end_turn();
    }

    fn fail(&mut self) {
        let name = self
            .choices
            .one_of(&["append", "save_file", "cut_log", "make_checkpoint"]);
        let fault = match self.choices.below(3) {
            0 => DiskFault::Poisoned,
            1 => DiskFault::NoSpace,
            _ => DiskFault::Other,
        };
        self.is_faulty = true;
        self.bench.disk.faults.insert(name, fault);
    }

    /// Part of what was asked reaches the disk, its replies nobody; then a new process.
    fn crash(&mut self) {
        for life in &mut self.lives {
            self.witness.listen(&mut self.bench, life);
            life.peer = None;
        }
        self.late.clear();
        self.witness.judge(&self.bench);
        let count = self.choices.below(6);
        if !self.is_faulty {
            self.bench.disk_lose(count);
        }
        self.bench.disk.faults.clear();
        self.is_faulty = false;
        self.bench.crash_and_settle();
    }
}

fn send(bench: &mut Bench, (peer, log, term, block): &(PeerId, LogNumber, Term, Bytes)) {
    let append = Append {
        log: *log,
        term: *term,
        committed: Seq(0),
        block,
    };
    bench.say_to(*peer, &Message::Append(append));
}
