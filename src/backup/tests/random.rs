//! Seeded runs: lives of nodes come and go, the disk is slow, the backup crashes, old bytes
//! arrive late. Whatever happens, a term has one life, a place in a log has one block, and what
//! was acknowledged stays.

use std::collections::BTreeMap;

use super::{Bench, FakeNode, log, node};
use crate::model::{Incarnation, LogNumber, Random, Seq, Term, to_u64, to_usize};
use crate::protocol::{Append, Beat, Message};
use crate::role::PeerId;

#[derive(Default)]
struct Witness {
    /// Who was ever told that it has a term.
    terms: BTreeMap<(LogNumber, Term), Incarnation>,
    /// Chain value of every block that was ever acknowledged.
    acknowledged: BTreeMap<(LogNumber, Seq), u64>,
    counts: BTreeMap<&'static str, u64>,
}

impl Witness {
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Looks at all that a life was told.
    fn listen(&mut self, bench: &mut Bench, life: &mut FakeNode) {
        let Some(peer) = life.peer else { return };
        let mut lost = false;
        bench.take(peer, |_, message| match message {
            Message::Granted(granted) => {
                self.count("grants");
                let known = self
                    .terms
                    .insert((granted.log, granted.term), life.incarnation);
                assert!(known.is_none_or(|known| known == life.incarnation));
                life.log = Some(granted.log);
                life.copy = granted.copy;
                life.term = granted.term;
                // Reconciled the short way: what is durable there is the history.
                life.blocks = bench_blocks(&mut self.counts, granted.end.seq, &life.blocks);
                assert!(life.blocks.len() <= to_usize(granted.end.seq.0));
            }
            Message::Appended(appended) => {
                self.count("acknowledgements");
                assert_eq!(appended.term, life.term);
                let through = to_usize(appended.through.0);
                for (end, _) in &life.blocks[..through.min(life.blocks.len())] {
                    let known = self.acknowledged.insert((appended.log, end.seq), end.chain);
                    assert!(known.is_none_or(|known| known == end.chain), "{end:?}");
                }
            }
            Message::Refused(refused) => {
                self.count(refused.code.name());
                lost = true;
            }
            Message::Resend { .. } => self.count("resends"),
            Message::Confirmed(confirmed) => assert_eq!(confirmed.term, life.term),
            other => panic!("{other:?}"),
        });
        if lost || bench.closing.contains(&peer) {
            life.peer = None;
        }
    }

    /// What was acknowledged is on the disk, and every block is the only one of its place.
    fn judge(&self, bench: &Bench) {
        for ((log, seq), chain) in &self.acknowledged {
            let (end, _) = &bench.disk.logs[log].blocks[to_usize(seq.0) - 1];
            assert_eq!((end.seq, end.chain), (*seq, *chain));
        }
        for (log, here) in &bench.disk.logs {
            let mut term = Term(0);
            for (end, bytes) in &here.blocks {
                assert!(term <= end.term);
                term = end.term;
                let owner = self.terms[&(*log, end.term)].get();
                let written = u128::from_le_bytes(bytes[228..244].try_into().unwrap());
                assert_eq!(written, owner, "only the owner of a term writes in it");
            }
        }
    }
}

/// What a life keeps of its blocks when the backup's copy ends with `end`.
fn bench_blocks<T: Clone>(
    counts: &mut BTreeMap<&'static str, u64>,
    end: Seq,
    blocks: &[T],
) -> Vec<T> {
    let kept = to_usize(end.0).min(blocks.len());
    if kept < blocks.len() {
        *counts.entry("tails put aside").or_default() += 1;
    }
    blocks[..kept].to_vec()
}

struct World {
    bench: Bench,
    random: Random,
    witness: Witness,
    lives: Vec<FakeNode>,
    last_life: u128,
    /// Frames of connections that may be told to close: they arrive late.
    late: Vec<(PeerId, LogNumber, Term, bytes::Bytes)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut bench = Bench::serving();
        bench.closes = false;
        Self {
            bench,
            random: Random::new(seed),
            witness: Witness::default(),
            lives: Vec::new(),
            last_life: 100,
            late: Vec::new(),
        }
    }

    fn pick(&mut self) -> Option<usize> {
        let count = to_u64(self.lives.len());
        (count != 0).then(|| to_usize(self.random.below(count)))
    }

    fn step(&mut self) {
        match self.random.below(16) {
            0 => self.start_life(),
            1 => self.end_life(),
            2 => self.reconnect(),
            3..=8 => self.append(),
            9 => self.late_bytes(),
            10 => self.beat(),
            11 => self.bench.wait_ms(100 * (1 + self.random.below(30))),
            12 if self.random.one_in(12) => self.crash(),
            _ => {
                for _ in 0..self.random.below(6) {
                    self.bench.disk_step();
                }
            }
        }
        for life in &mut self.lives {
            self.witness.listen(&mut self.bench, life);
        }
    }

    /// A new process of a node: on the folder of an older one, or on an empty one.
    fn start_life(&mut self) {
        self.last_life += 1;
        let number = 1 + u32::try_from(self.random.below(2)).unwrap();
        let of_node = |life: &&FakeNode| life.node == node(number);
        let older = self.lives.iter().rfind(of_node);
        let mut life = match older {
            Some(older) if !self.random.one_in(4) => older.restarted(self.last_life),
            _ => FakeNode::new(number, self.last_life),
        };
        self.adopt(&mut life);
        life.register(&mut self.bench);
        self.lives.push(life);
        if 8 < self.lives.len() {
            let oldest = self.lives.remove(0);
            self.hang_up(oldest.peer);
        }
    }

    /// A life that registers has what is durable: as if it had fetched it.
    fn adopt(&self, life: &mut FakeNode) {
        let log = log(u16::try_from(life.node.get()).unwrap());
        if let Some(here) = self.bench.disk.logs.get(&log)
            && life.blocks.len() < here.blocks.len()
        {
            life.blocks = here.blocks.clone();
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

    fn append(&mut self) {
        let Some(index) = self.pick() else { return };
        let life = &mut self.lives[index];
        if life.peer.is_none() || life.term == Term(0) {
            return;
        }
        let here = &self.bench.disk.logs[&life.log.unwrap()].blocks;
        if life.blocks.len() < here.len() {
            // Behind what is durable: a node would have fetched this first.
            return;
        }
        let block = match self.random.below(4) {
            0 if !life.blocks.is_empty() => {
                let last = life.blocks.len() - 1;
                life.blocks[last].1.clone()
            }
            _ => life.build(1 + u32::try_from(self.random.below(3)).unwrap()),
        };
        let frame = (life.peer.unwrap(), life.log.unwrap(), life.term, block);
        if self.random.one_in(5) {
            self.late.push(frame);
        } else {
            send(&mut self.bench, &frame);
        }
    }

    fn late_bytes(&mut self) {
        if !self.late.is_empty() {
            let index = to_usize(self.random.below(to_u64(self.late.len())));
            let frame = self.late.remove(index);
            self.witness.count("late frames");
            send(&mut self.bench, &frame);
        }
    }

    fn beat(&mut self) {
        let Some(index) = self.pick() else { return };
        if self.lives[index].peer.is_some() {
            self.lives[index].beat(&mut self.bench, 1, Beat::default());
        }
    }

    fn crash(&mut self) {
        self.witness.count("crashes");
        // Part of what was asked reaches the disk, its replies nobody.
        for life in &mut self.lives {
            self.witness.listen(&mut self.bench, life);
            life.peer = None;
        }
        self.late.clear();
        self.witness.judge(&self.bench);
        let count = self.random.below(6);
        self.bench.disk_lose(count);
        self.bench.crash_and_settle();
    }
}

fn send(bench: &mut Bench, frame: &(PeerId, LogNumber, Term, bytes::Bytes)) {
    let (peer, log, term, block) = frame;
    let append = Append {
        log: *log,
        term: *term,
        committed: Seq(0),
        block,
    };
    bench.say_to(*peer, &Message::Append(append));
}

#[test]
fn a_term_has_one_life_and_a_place_one_block() {
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in 0..150 {
        let mut world = World::new(seed);
        for _ in 0..400 {
            world.step();
            assert!(
                world.bench.exit.is_none(),
                "seed {seed}: {:?}",
                world.bench.exit
            );
        }
        world.bench.settle();
        world.witness.judge(&world.bench);
        for (what, count) in world.witness.counts {
            *counts.entry(what).or_default() += count;
        }
    }
    // A generator that never does the dangerous things proves nothing.
    for what in [
        "grants",
        "acknowledgements",
        "in_use",
        "fenced",
        "wrong_log",
        "late frames",
        "crashes",
        "tails put aside",
    ] {
        assert!(
            10 < counts.get(what).copied().unwrap_or(0),
            "{what}: {counts:?}"
        );
    }
}
