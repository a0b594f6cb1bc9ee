//! A cluster around a backup: nodes that obey move orders with real entries, a disk that tells
//! what the replicas meet, and an oracle that reads all logs and says who serves what.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::bench::{
    Bench, FakeDisk, FakeNode, SEGMENT, cluster, life, log, node, options, options_to_create,
};
use crate::backup::{Backup, BackupLimits};
use crate::limits;
use crate::log::{Block, BlockBuilder, BlockSpec, Verify};
use crate::model::{
    Activation, Adopt, AdoptedFile, Adoption, ENTRY_SIZE, Entry, EpochMark, HandOver, HandOverHead,
    LogEnd, LogNumber, LogTime, MoveNumber, NodeId, Place, Seq, Slot, SlotRange, to_usize,
};
use crate::protocol::{
    Append, Beat, ClusterAsk, ClusterCommand, Message, MoveOrder, MoveStep, MoveTold, PeerRole,
    RefusalCode,
};
use crate::role::{DiskReply, DiskRequest, ImageInfo, MoveEvent, PeerId};

/// The entries of a block.
fn entries_of(log: LogNumber, block: &[u8]) -> Vec<Entry> {
    let verify = Verify {
        log,
        cluster: cluster(),
        segment_size: SEGMENT,
    };
    let block = Block::read(block, &verify).unwrap().unwrap();
    let entries = block.entries();
    entries
        .filter_map(|(_, _, bytes)| Entry::read(bytes).ok())
        .collect()
}

impl FakeDisk {
    /// What the replica of a log meets on its way to an end.
    pub(super) fn advance(&mut self, log: LogNumber, through: &LogEnd) -> Vec<MoveEvent> {
        let here = &self.logs[&log];
        let checkpoint = here.checkpoint.map_or(Seq(0), |info| info.end.seq);
        let from = self.replicas.get(&log).copied().unwrap_or(checkpoint);
        let mut events = Vec::new();
        let blocks = here.blocks.iter();
        for (end, bytes) in blocks.filter(|(end, _)| from < end.seq && end.seq <= through.seq) {
            events.extend(events_of(log, *end, bytes));
        }
        for event in &events {
            if let MoveEvent::HandedOver { number, .. } = event {
                self.images.insert(*number);
            }
            if let MoveEvent::Adopted { .. } = event {
                assert!(!self.images.is_empty(), "it is there when it is read");
            }
        }
        self.replicas.insert(log, through.seq);
        events
    }

    pub(super) fn run_move(&mut self, request: DiskRequest) -> DiskReply {
        match request {
            DiskRequest::BuildHandOver { .. } => self.build_hand_over(request),
            DiskRequest::DraftImages { log, parts, .. } => {
                assert!(!parts.is_empty());
                DiskReply::ImagesDrafted { log }
            }
            DiskRequest::ReadMoveFile {
                number,
                offset,
                ticket,
                ..
            } => {
                let size = if self.images.contains(&number) { 9 } else { 0 };
                DiskReply::MoveFileRead {
                    number,
                    ticket,
                    size,
                    offset,
                    bytes: Bytes::from_static(b"image"),
                }
            }
            DiskRequest::KeepMoveFiles { numbers, below } => {
                self.images
                    .retain(|number| below <= *number || numbers.contains(number));
                DiskReply::MoveFilesKept
            }
            other => panic!("a backup does not ask for {other:?}"),
        }
    }

    fn build_hand_over(&self, request: DiskRequest) -> DiskReply {
        let DiskRequest::BuildHandOver {
            log,
            through,
            term,
            generation,
            ring_epoch,
            activate,
            moves,
            ..
        } = request
        else {
            unreachable!("the caller has looked");
        };
        assert_eq!(self.logs[&log].end(), through, "the log stands still");
        assert!(!moves.is_empty());
        let before = states(&self.logs[&log].blocks, log);
        let mut entries = vec![Entry::Epoch(EpochMark {
            generation,
            ring_epoch,
            term,
        })];
        for part in activate {
            if before.staged.contains(&part.number) {
                entries.extend(Activation::list(part.number, part.ring_epoch, &part.ranges));
            }
        }
        for part in moves {
            let head = HandOverHead {
                number: part.number,
                ring_epoch,
                target: part.target,
                target_log: part.target_log,
            };
            entries.extend(HandOver::list(&head, &part.ranges));
        }
        let mut builder = BlockBuilder::new();
        builder.begin(&BlockSpec {
            log,
            cluster: cluster(),
            segment_size: SEGMENT,
            after: &through,
            term,
            time: LogTime(through.time.0 + 1_000),
            committed: through.seq,
            entry_count_max: u32::try_from(entries.len()).unwrap(),
        });
        for entry in &entries {
            builder.push(&entry.to_bytes());
        }
        let (block, end) = builder.finish();
        DiskReply::HandOverBuilt { log, block, end }
    }
}

fn events_of(log: LogNumber, end: LogEnd, block: &[u8]) -> Vec<MoveEvent> {
    let mut seen = BTreeSet::new();
    let mut events = Vec::new();
    for entry in entries_of(log, block) {
        match entry {
            Entry::HandOver(hand_over) if seen.insert(hand_over.number) => {
                events.push(MoveEvent::HandedOver {
                    number: hand_over.number,
                    // Somewhere in that block.
                    place: Place::new(log, end.offset - 128),
                    end,
                    image: image(),
                    slot_count: 0,
                });
            }
            Entry::Adopt(adopt) => events.push(MoveEvent::Adopted {
                number: adopt.number,
                end,
                image: adopt.number,
                place: adopt.hand_over,
                info: image(),
            }),
            Entry::Activation(activation)
                if activation.number != MoveNumber(0) && seen.insert(activation.number) =>
            {
                events.push(MoveEvent::Activated {
                    number: activation.number,
                    end,
                });
            }
            Entry::Drop { number } => events.push(MoveEvent::Dropped { number, end }),
            _ => (),
        }
    }
    events
}

fn image() -> ImageInfo {
    ImageInfo {
        size: 9,
        digest: 2,
        offset: 3,
        slot_digest: 4,
        account_count: 50,
        horizon_ms: 6,
        time: LogTime(7),
    }
}

/// What a log says of its slots.
#[derive(Debug, Default)]
pub(super) struct LogState {
    pub(super) owned: Vec<bool>,
    pub(super) staged: BTreeSet<MoveNumber>,
    pub(super) handed: BTreeMap<MoveNumber, Seq>,
    pub(super) adopted: BTreeMap<MoveNumber, Seq>,
    pub(super) activated: BTreeMap<MoveNumber, Seq>,
    pub(super) dropped: BTreeMap<MoveNumber, Seq>,
}

/// Replays a log as far as slots go. What the rules forbid panics here.
fn states(blocks: &[(LogEnd, Bytes)], log: LogNumber) -> LogState {
    let mut state = LogState {
        owned: vec![false; 65_536],
        ..LogState::default()
    };
    for (end, bytes) in blocks {
        let entries = entries_of(log, bytes);
        // Only the backup's hand-over begins a term.
        let is_backups = matches!(entries.first(), Some(Entry::Epoch(_)));
        for entry in entries {
            match entry {
                Entry::Activation(activation) => {
                    let number = activation.number;
                    if number != MoveNumber(0) {
                        let fresh = state.activated.insert(number, end.seq) != Some(end.seq);
                        assert!(
                            !fresh || state.staged.remove(&number),
                            "not staged: {number}"
                        );
                    }
                    let slots = activation.ranges().iter().copied().flat_map(slots);
                    for slot in slots {
                        let owned = std::mem::replace(&mut state.owned[slot.index()], true);
                        assert!(!owned, "{slot:?} is owned twice in {log}");
                    }
                }
                Entry::HandOver(hand_over) => {
                    state.handed.insert(hand_over.number, end.seq);
                    for slot in hand_over.slots.as_slice().iter().copied().flat_map(slots) {
                        let owned = std::mem::replace(&mut state.owned[slot.index()], false);
                        assert!(owned, "{slot:?} is not owned in {log}");
                    }
                    if is_backups {
                        state.staged.clear();
                    }
                }
                Entry::Adopt(adopt) => {
                    assert!(state.staged.insert(adopt.number));
                    assert_eq!(state.staged.len(), 1, "one at a time");
                    state.adopted.insert(adopt.number, end.seq);
                }
                Entry::Drop { number } => {
                    state.staged.remove(&number);
                    state.dropped.insert(number, end.seq);
                }
                _ => (),
            }
        }
    }
    state
}

fn slots(range: SlotRange) -> impl Iterator<Item = Slot> + use<> {
    (range.first.0..=range.last.0).map(Slot)
}

/// What a node is up to besides its log.
#[derive(Debug, Default)]
struct Work {
    granted: bool,
    told: BTreeSet<(MoveStep, MoveNumber)>,
    owed: Vec<(MoveStep, MoveNumber, Seq)>,
    refused: Option<RefusalCode>,
}

/// A backup and its nodes.
pub(super) struct World {
    pub(super) bench: Bench,
    pub(super) nodes: BTreeMap<u32, FakeNode>,
    work: BTreeMap<u32, Work>,
    /// Nodes that do nothing and say nothing.
    pub(super) dead: BTreeSet<u32>,
    /// Nodes that are there and do not serve yet.
    pub(super) starting: BTreeSet<u32>,
    /// Orders that came, in a few words.
    pub(super) orders: Vec<String>,
    /// The process dies when the disk has carried out so many requests.
    pub(super) crash_at: Option<usize>,
    /// Does the disk carry the last request out before that?
    pub(super) crash_late: bool,
    steps: usize,
    /// The disk rests when it has done so many requests.
    stop_at: Option<usize>,
    /// What each node says that it has.
    pub(super) accounts: u64,
    pub(super) free_size: u64,
    lives: u128,
}

fn limits() -> BackupLimits {
    BackupLimits {
        take_over_after_ms: 2_000,
        ..BackupLimits::STANDARD
    }
}

impl World {
    /// Three nodes that serve everything.
    pub(super) fn serving() -> Self {
        let mut options = options_to_create(1);
        options.limits = limits();
        let mut world = Self {
            bench: Bench::blank(options),
            nodes: BTreeMap::new(),
            work: BTreeMap::new(),
            dead: BTreeSet::new(),
            starting: BTreeSet::new(),
            orders: Vec::new(),
            crash_at: None,
            crash_late: false,
            steps: 0,
            stop_at: None,
            accounts: 0,
            free_size: 1 << 40,
            lives: 100,
        };
        world.bench.settle();
        assert!(world.bench.ready);
        for number in 1..=3 {
            world.add(number, None);
        }
        world.run_ms(300);
        world.check();
        world
    }

    /// A node with an empty folder.
    pub(super) fn add(&mut self, number: u32, join_weight: Option<u32>) {
        self.lives += 1;
        let mut fresh = FakeNode::new(number, self.lives);
        fresh.join_weight = join_weight;
        self.nodes.insert(number, fresh);
        self.work.insert(number, Work::default());
    }

    /// The process of a node ends; its connection is closed.
    pub(super) fn kill(&mut self, number: u32) {
        self.dead.insert(number);
        if let Some(peer) = self.nodes.get_mut(&number).unwrap().peer.take()
            && !self.bench.closing.contains(&peer)
        {
            self.bench.drop_peer(peer);
        }
    }

    /// A new process over the folder of a dead node.
    pub(super) fn revive(&mut self, number: u32) {
        self.lives += 1;
        let again = self.nodes[&number].restarted(self.lives);
        self.nodes.insert(number, again);
        self.work.insert(number, Work::default());
        self.dead.remove(&number);
    }

    /// The backup's process dies and starts again.
    pub(super) fn crash(&mut self) {
        self.bench.crash();
        self.lives += 1;
        let mut options = options(self.lives);
        options.limits = limits();
        self.bench.backup = Backup::new(options);
        self.bench.end_turn();
        for (number, fresh) in &mut self.nodes {
            fresh.peer = None;
            let work = self.work.get_mut(number).unwrap();
            work.granted = false;
            work.told.clear();
        }
    }

    /// One request to the disk, or the crash that is due.
    fn disk_step(&mut self) -> bool {
        let stops = self.stop_at.is_some_and(|at| at <= self.steps);
        if self.bench.disk.queue.is_empty() || stops {
            return false;
        }
        self.steps += 1;
        if self.crash_at == Some(self.steps) {
            if self.crash_late {
                self.bench.disk_lose(1);
            }
            self.crash();
            return true;
        }
        self.bench.disk_step()
    }

    /// Runs until the disk has done `count` more requests.
    pub(super) fn run_steps(&mut self, count: usize) {
        let until = self.steps + count;
        self.stop_at = Some(until);
        for _ in 0..60 {
            self.run_ms(100);
            if until <= self.steps {
                break;
            }
        }
        self.stop_at = None;
    }

    /// The node is back, with an empty folder.
    pub(super) fn replace(&mut self, number: u32) {
        self.dead.remove(&number);
        self.add(number, None);
    }

    /// Runs until the disk has done so many requests in all, then the node is dead.
    pub(super) fn run_steps_then_kill(&mut self, until: usize, number: u32) {
        self.stop_at = Some(until);
        for _ in 0..40 {
            self.run_ms(100);
            if until <= self.steps {
                break;
            }
        }
        self.stop_at = None;
        self.kill(number);
    }

    /// Requests that the disk has carried out.
    pub(super) fn step_count(&self) -> usize {
        self.steps
    }

    /// So much time goes by, in which everybody does what there is to do.
    pub(super) fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(100) {
            self.bench.wait_ms(100);
            for _ in 0..200 {
                let mut busy = false;
                while self.disk_step() {
                    busy = true;
                }
                let numbers: Vec<u32> = self.nodes.keys().copied().collect();
                for number in numbers {
                    if !self.dead.contains(&number) {
                        busy |= self.serve(number);
                    }
                }
                if !busy {
                    break;
                }
            }
            self.beat_all();
        }
    }

    /// Until nothing is on its way, with a bound.
    pub(super) fn run_to_rest(&mut self) {
        for _ in 0..300 {
            self.run_ms(100);
            if self.bench.ready && self.is_at_rest() {
                return;
            }
        }
        panic!(
            "no rest: {}\n{:?}",
            self.bench.status()["moves"],
            self.bench.said
        );
    }

    fn is_at_rest(&mut self) -> bool {
        let moves = self.bench.status()["moves"].clone();
        let quiet = moves["moves"].as_array().unwrap().is_empty();
        quiet && moves["slots_to_move"] == 0 && moves["stuck"].is_null()
    }

    pub(super) fn beat_all(&mut self) {
        for (number, fresh) in &self.nodes {
            let granted = self.work[number].granted && !self.dead.contains(number);
            let Some(peer) = fresh.peer.filter(|_| granted) else {
                continue;
            };
            if self.bench.closing.contains(&peer) {
                continue;
            }
            let figures = Beat {
                phase: u8::from(!self.starting.contains(number)),
                applied: Seq(0),
                account_count: self.accounts,
                free_size: self.free_size,
                ..Beat::default()
            };
            fresh.beat(&mut self.bench, 1, figures);
        }
    }

    /// A node does what there is to do. Tells whether there was anything.
    fn serve(&mut self, number: u32) -> bool {
        let fresh = self.nodes.get_mut(&number).unwrap();
        let work = self.work.get_mut(&number).unwrap();
        if work.refused.is_some() || !self.bench.ready {
            return false;
        }
        let Some(peer) = fresh.peer else {
            work.granted = false;
            work.told.clear();
            fresh.register(&mut self.bench);
            return true;
        };
        let mut orders = Vec::new();
        let mut grant = None;
        let mut busy = false;
        self.bench.take(peer, |_, message| match message {
            Message::Granted(granted) => {
                fresh.log = Some(granted.log);
                fresh.copy = granted.copy;
                fresh.term = granted.term;
                fresh.generation = granted.generation;
                fresh.ring_epoch = granted.ring_epoch;
                grant = Some((granted.log, granted.end));
            }
            Message::Appended(appended) => fresh.committed = appended.through,
            Message::MoveOrder(order) => orders.push(Order::of(order)),
            Message::Refused(refused) => work.refused = Some(refused.code),
            _ => (),
        });
        if self.bench.closing.contains(&peer) {
            fresh.peer = None;
            return work.refused.is_none();
        }
        if let Some((log, end)) = grant {
            busy = true;
            work.granted = true;
            self.take_up(number, log, end);
        }
        let max = to_usize(u64::from(limits::NODE_MOVE_ORDER_COUNT_MAX));
        assert!(orders.len() <= max, "a node has no room for more");
        for order in orders {
            busy = true;
            self.orders
                .push(format!("{:?} {} of {number}", order.step, order.number));
            self.obey(number, &order);
        }
        busy | self.tell(number, peer)
    }

    /// What follows on a grant: the mirror's history is taken, the own tail sent again, and in a
    /// new log the slots of the first table are activated.
    fn take_up(&mut self, number: u32, log: LogNumber, end: LogEnd) {
        let mirror = &self.bench.disk.logs[&log].blocks;
        let fresh = self.nodes.get_mut(&number).unwrap();
        let agrees = fresh.blocks.iter().any(|(own, _)| *own == end);
        let tail: Vec<_> = fresh
            .blocks
            .iter()
            .filter(|(own, _)| end.seq < own.seq && agrees)
            .cloned()
            .collect();
        fresh.blocks = mirror.clone();
        fresh.committed = end.seq;
        fresh.beat(
            &mut self.bench,
            1,
            Beat {
                phase: 1,
                account_count: self.accounts,
                free_size: self.free_size,
                ..Beat::default()
            },
        );
        for (end, block) in tail {
            fresh.append(&mut self.bench, &block);
            fresh.blocks.push((end, block));
        }
        if fresh.blocks.is_empty() && fresh.join_weight.is_none() {
            let owned = initial_ranges(fresh.node);
            let entries = owned
                .chunks(Activation::RANGE_COUNT_MAX)
                .map(|ranges| Entry::Activation(Activation::new(fresh.ring_epoch, ranges)));
            let entries: Vec<_> = entries.collect();
            self.log_entries(number, &entries);
        }
    }

    pub(super) fn log_entries(&mut self, number: u32, entries: &[Entry]) -> Seq {
        let fresh = self.nodes.get_mut(&number).unwrap();
        let bytes: Vec<[u8; ENTRY_SIZE]> = entries.iter().map(Entry::to_bytes).collect();
        let end = fresh.end();
        let block = fresh.build_of(&end, &bytes);
        let append = Append {
            log: fresh.log.unwrap(),
            term: fresh.term,
            committed: fresh.committed,
            block: &block,
        };
        self.bench
            .say_to(fresh.peer.unwrap(), &Message::Append(append));
        fresh.end().seq
    }

    fn obey(&mut self, number: u32, order: &Order) {
        let fresh = &self.nodes[&number];
        let log = fresh.log.unwrap();
        let state = states(&fresh.blocks, log);
        let done = match order.step {
            MoveStep::HandOver => state.handed.get(&order.number),
            MoveStep::Adopt => state.adopted.get(&order.number),
            MoveStep::Activate => state.activated.get(&order.number),
            MoveStep::Drop => state.dropped.get(&order.number),
        };
        let seq = if let Some(seq) = done {
            *seq
        } else {
            let entries = order.entries();
            self.log_entries(number, &entries)
        };
        let work = self.work.get_mut(&number).unwrap();
        work.owed.push((order.step, order.number, seq));
    }

    /// Says what is committed meanwhile.
    fn tell(&mut self, number: u32, peer: PeerId) -> bool {
        let fresh = &self.nodes[&number];
        let work = self.work.get_mut(&number).unwrap();
        let committed = fresh.committed;
        let owed = std::mem::take(&mut work.owed);
        let (due, later): (Vec<_>, Vec<_>) =
            owed.into_iter().partition(|(_, _, seq)| *seq <= committed);
        work.owed = later;
        let busy = !due.is_empty();
        for (step, number, seq) in due {
            let told = MoveTold { step, number, seq };
            if !self.bench.closing.contains(&peer) {
                self.bench.say_to(peer, &Message::MoveTold(told));
            }
        }
        busy
    }

    pub(super) fn refusal(&self, number: u32) -> Option<RefusalCode> {
        self.work[&number].refused
    }

    /// An operator's command; the answer as JSON.
    pub(super) fn command(
        &mut self,
        command: ClusterCommand,
        change: impl FnOnce(&mut ClusterAsk),
    ) -> serde_json::Value {
        let mut ask = ClusterAsk {
            command,
            dry_run: false,
            node: None,
            weight: 0,
            number: MoveNumber(0),
        };
        change(&mut ask);
        let peer = self.bench.connect(PeerRole::Client, None, life(555));
        self.bench.say_to(peer, &Message::ClusterAsk(ask));
        self.bench.disk_do("save_file");
        let mut answer = serde_json::Value::Null;
        self.bench.take(peer, |_, message| match message {
            Message::ClusterTold { json } => answer = serde_json::from_str(json).unwrap(),
            other => panic!("{other:?}"),
        });
        self.bench.drop_peer(peer);
        answer
    }

    /// Slots of each node by the table that the status tells.
    pub(super) fn slots_of(&mut self, number: u32) -> u64 {
        let status = self.bench.status();
        let nodes = status["nodes"].as_array().unwrap();
        let line = nodes.iter().find(|line| line["node"] == number);
        line.map_or(0, |line| line["slots"].as_u64().unwrap())
    }

    /// The oracle: every slot is owned by exactly one log.
    pub(super) fn check(&self) {
        let mut owners: Vec<Option<LogNumber>> = vec![None; 65_536];
        for (log, here) in &self.bench.disk.logs {
            let owned = states(&here.blocks, *log).owned;
            for (slot, _) in owned.iter().enumerate().filter(|(_, owned)| **owned) {
                let before = owners[slot].replace(*log);
                assert!(
                    before.is_none(),
                    "slot {slot} is owned by {before:?} and {log}"
                );
            }
        }
        assert!(
            owners.iter().all(Option::is_some),
            "everybody is served by somebody"
        );
    }

    /// Slots that the log of a node owns by what it says itself.
    pub(super) fn owned_in_log(&self, number: u16) -> usize {
        states(&self.bench.disk.logs[&log(number)].blocks, log(number))
            .owned
            .iter()
            .filter(|owned| **owned)
            .count()
    }
}

/// What the first table of the test's cluster gives a node.
fn initial_ranges(wanted: NodeId) -> Vec<SlotRange> {
    let nodes = [(1, 1), (2, 1), (3, 2)]
        .map(|(number, weight)| crate::ring::RingNode::drawn(99, node(number), weight));
    let table = crate::ring::plan(crate::model::RingEpoch(1), &nodes);
    table.ranges_of(wanted).collect()
}

/// An order, kept.
#[derive(Clone, Debug)]
struct Order {
    step: MoveStep,
    number: MoveNumber,
    image: MoveNumber,
    ring_epoch: crate::model::RingEpoch,
    peer: NodeId,
    peer_log: LogNumber,
    place: Place,
    ranges: Vec<SlotRange>,
}

impl Order {
    fn of(order: &MoveOrder<'_>) -> Self {
        Self {
            step: order.step,
            number: order.number,
            image: order.image,
            ring_epoch: order.ring_epoch,
            peer: order.peer,
            peer_log: order.peer_log,
            place: order.place,
            ranges: order.ranges.iter().map(Result::unwrap).collect(),
        }
    }

    /// What a log gets for it.
    fn entries(&self) -> Vec<Entry> {
        match self.step {
            MoveStep::HandOver => {
                let head = HandOverHead {
                    number: self.number,
                    ring_epoch: self.ring_epoch,
                    target: self.peer,
                    target_log: self.peer_log,
                };
                HandOver::list(&head, &self.ranges)
            }
            MoveStep::Adopt => Adoption {
                adopt: Adopt {
                    number: self.number,
                    ring_epoch: self.ring_epoch,
                    source_log: self.peer_log,
                    slots_entry_count: 0,
                    hand_over: self.place,
                    digest: 4,
                    horizon_ms: 6,
                    time: LogTime(7),
                },
                file: AdoptedFile {
                    number: self.number,
                    image: self.image,
                    size: 9,
                    digest: 2,
                    offset: 3,
                    account_count: 50,
                },
                ranges: self.ranges.clone(),
            }
            .entries(),
            MoveStep::Activate => Activation::list(self.number, self.ring_epoch, &self.ranges),
            MoveStep::Drop => vec![Entry::Drop {
                number: self.number,
            }],
        }
    }
}
