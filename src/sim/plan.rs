//! What a seed means: the cluster, the load, which faults there are and how often.
//!
//! Every purpose has its own random stream, so that a new class of fault, or one more draw for the
//! load, leaves all the other draws of every seed as they were.

use super::clock::{At, MS};
use crate::front::Strategy;
use crate::model::{Random, to_u64};

/// What randomness is drawn for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Cluster = 1,
    Load = 2,
    Network = 3,
    Disk = 4,
    Processes = 5,
    Identities = 6,
    Memory = 7,
    Reading = 8,
    Pace = 9,
    Moves = 10,
    Operator = 11,
}

/// The stream of one purpose.
pub(super) fn stream(seed: u64, purpose: Purpose) -> Random {
    numbered_stream(seed, purpose as u64)
}

/// The stream of one class of faults.
pub(super) fn fault_stream(seed: u64, fault: FaultKind) -> Random {
    numbered_stream(seed, 100 + fault as u64)
}

fn numbered_stream(seed: u64, number: u64) -> Random {
    let mut mixer = Random::new(seed ^ number.wrapping_mul(0xd1b5_4a32_d192_ed03));
    Random::new(mixer.u64())
}

macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $odds:literal, $every_ms:literal;)*) => {
        /// A class of faults.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum FaultKind {
            $($(#[$doc])* $variant,)*
        }

        impl FaultKind {
            /// All classes.
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in the counts.
            pub(super) const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// It is on in one of so many seeds.
            const fn odds(self) -> u64 {
                match self {
                    $(Self::$variant => $odds,)*
                }
            }

            /// Milliseconds between two of them, at its usual rate.
            const fn every_ms(self) -> u64 {
                match self {
                    $(Self::$variant => $every_ms,)*
                }
            }
        }
    };
}

faults! {
    /// A link takes much longer for a while.
    Delay, "delay", 3, 1_500;
    /// A connection is cut; bytes on their way are lost.
    CutLost, "cut_lost", 3, 1_500;
    /// A connection is cut for one side; the other still gets what was on its way, late.
    CutLate, "cut_late", 3, 1_500;
    /// One side of a connection is gone and the other does not hear of it.
    HalfOpen, "half_open", 4, 3_000;
    /// Nothing passes from one host to another, but the other way it does.
    OneWay, "one_way", 4, 4_000;
    /// Nothing passes between hosts; several links heal in random order.
    LinkStop, "link_stop", 3, 4_000;
    /// A host takes little at a time, and slowly.
    SlowPeer, "slow_peer", 5, 4_000;
    /// Power is cut: unsynced sectors are kept, lost or garbled.
    PowerCut, "power_cut", 3, 4_000;
    /// Power is cut in the middle of a disk operation.
    PowerCutInDisk, "power_cut_in_disk", 4, 4_000;
    /// A process is killed and started again.
    Kill, "kill", 3, 4_000;
    /// A process is asked to end and started again.
    Stop, "stop", 5, 5_000;
    /// A process does not run for a while.
    Pause, "pause", 3, 3_000;
    /// A node sleeps, and another machine takes its place with an empty disk.
    Replace, "replace", 5, 7_000;
    /// The disk of a node is replaced by an empty one.
    Wipe, "wipe", 4, 6_000;
    /// A sync fails.
    SyncFails, "sync_fails", 5, 5_000;
    /// A write fails half way.
    WriteFails, "write_fails", 6, 6_000;
    /// Bits flip on a disk.
    Flip, "flip", 4, 6_000;
    /// Two sectors of a disk change places.
    Swap, "swap", 5, 7_000;
    /// A disk is full for a while.
    Full, "full", 5, 6_000;
    /// A disk is slow for a while.
    SlowDisk, "slow_disk", 4, 3_000;
    /// The dates of hosts differ from the beginning.
    Skew, "skew", 3, 1_000_000;
    /// The date of a host jumps.
    Jump, "jump", 4, 4_000;
    /// The steady clock of a host runs at a wrong rate.
    Rate, "rate", 4, 5_000;
    /// The dates of all hosts go on by more than a day.
    Leap, "leap", 12, 20_000;
    /// An old copy of the backup's disk is put in place of the right one for a while.
    OldBackup, "old_backup", 8, 9_000;
    /// An empty disk is put in place of the backup's for a while.
    BlankBackup, "blank_backup", 10, 9_000;
    /// A node is cut off from the backup and goes on, and another machine takes its place.
    Usurp, "usurp", 3, 3_000;
    /// Nodes are away for about as long as it takes until the others take over.
    Away, "away", 2, 5_000;
    /// Something crashes right after a step of a move is durable at the backup.
    CrashInMove, "crash_in_move", 3, 1_000_000;
    /// The end of a log is damaged at the backup while its node is away.
    TailDamage, "tail_damage", 3, 5_000;
    /// The backup's disk is lost, and the backup is made again from the nodes.
    LostBackup, "lost_backup", 6, 6_000;
}

/// How the fronts of a seed are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrangement {
    /// Each front balances and routes by itself.
    Single,
    /// Each front may also use the routers of the others.
    Mesh,
    /// Balancers in front of routers.
    Tiers,
}

/// What a seed means.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) node_count: usize,
    pub(super) front_count: usize,
    pub(super) arrangement: Arrangement,
    pub(super) strategy: Strategy,
    pub(super) client_count: usize,
    pub(super) user_count: u64,
    pub(super) currency_count: u64,
    /// Operations of all clients together.
    pub(super) operation_count: u64,
    /// Operations of one batch at most.
    pub(super) batch_count_max: u64,
    /// Milliseconds between two batches of one client, on average.
    pub(super) pause_ms: u64,
    /// No id is of tomorrow: what comes behind one waits for it until its deadline.
    pub(super) is_steady: bool,
    pub(super) deadline_ms: u32,
    /// Ids that a node remembers.
    pub(super) id_count_max: u64,
    /// Most operations are look-ups.
    pub(super) reads_mostly: bool,
    /// When everything is healed, whatever is left to do.
    pub(super) safety_until: At,
    /// Nanoseconds on a link, at least, and what comes on top at most.
    pub(super) delay_ns: (u64, u64),
    /// Bytes on their way on one direction of a connection.
    pub(super) window_size: usize,
    /// Milliseconds between two faults of a class that is on.
    pub(super) faults: Vec<(FaultKind, u64)>,
    /// When slots go from node to node; never in some seeds.
    pub(super) moves: Option<MovesPlan>,
}

/// When slots go from node to node.
#[derive(Clone, Copy, Debug)]
pub(super) struct MovesPlan {
    /// Silence of a node after which the others take its slots over.
    pub(super) take_over_after_ms: u64,
    /// The same for one that was not there since the backup's start.
    pub(super) start_grace_ms: u64,
    /// How long one that is back has to wait until it gets slots again.
    pub(super) refill_after_ms: u64,
    /// Slots of a planned move at most, about: few users make one account in a slot or none.
    pub(super) slot_count_goal: u64,
    /// Milliseconds between two commands of the operator, on average, if there is one.
    pub(super) operate_ms: Option<u64>,
}

impl MovesPlan {
    /// The plan of a seed; most seeds have none.
    fn draw(seed: u64) -> Option<Self> {
        let mut random = stream(seed, Purpose::Moves);
        let is_on = random.one_in(2);
        let take_over_after_ms = 400 << random.below(4);
        let plan = Self {
            take_over_after_ms,
            start_grace_ms: take_over_after_ms << random.below(3),
            refill_after_ms: 200 << random.below(5),
            slot_count_goal: 2_000 << random.below(5),
            operate_ms: random.one_in(2).then(|| 200 << random.below(4)),
        };
        is_on.then_some(plan)
    }
}

impl Plan {
    /// The plan of a seed.
    pub(super) fn new(seed: u64) -> Self {
        let mut random = stream(seed, Purpose::Cluster);
        let front_count = 1 + to_count(random.below(3));
        let arrangement = match random.below(4) {
            0 if 1 < front_count => Arrangement::Mesh,
            1 if 1 < front_count => Arrangement::Tiers,
            _ => Arrangement::Single,
        };
        let strategy = match random.below(3) {
            0 => Strategy::Random,
            1 => Strategy::LeastLoad,
            _ => Strategy::RoundRobin,
        };
        let is_heavy = seed % HEAVY_EVERY == HEAVY_EVERY - 1;
        let window_exponent = 14 + random.below(7);
        let mut plan = Self {
            seed,
            node_count: 1 + to_count(random.below(3)),
            front_count,
            arrangement,
            strategy,
            client_count: 2 + to_count(random.below(4)),
            user_count: 1 << random.below(6),
            currency_count: 1 + random.below(3),
            operation_count: 200 << random.below(4),
            batch_count_max: 1 << random.below(7),
            pause_ms: 5 << random.below(5),
            is_steady: false,
            deadline_ms: u32::try_from(500_u64 << random.below(5)).expect("at most 8,000"),
            id_count_max: 1 << (11 + random.below(6)),
            reads_mostly: stream(seed, Purpose::Reading).one_in(READING_EVERY),
            safety_until: (4_000 + random.below(24_000)) * MS,
            delay_ns: (5_000 << random.below(6), 10_000 << random.below(8)),
            window_size: 1 << window_exponent,
            faults: draw_faults(seed),
            moves: MovesPlan::draw(seed),
        };
        let mut memory_random = stream(seed, Purpose::Memory);
        if is_heavy {
            let is_huge = seed % (2 * HEAVY_EVERY) == 2 * HEAVY_EVERY - 1;
            plan.make_heavy(is_huge);
        } else if memory_random.one_in(FORGETFUL_EVERY) && !plan.faults.is_empty() {
            plan.make_forgetful(&mut memory_random);
        } else if plan.reads_mostly || stream(seed, Purpose::Pace).one_in(2) {
            plan.spread_load();
        }
        if plan.moves.is_some() {
            // Somebody must be there to take over.
            plan.node_count = plan.node_count.max(2);
        }
        plan
    }

    /// The load lasts as long as faults do: small batches, and pauses between them.
    fn spread_load(&mut self) {
        self.batch_count_max = self.batch_count_max.min(8);
        if self.reads_mostly {
            // On few users, so that what one client changes another one reads.
            self.user_count = self.user_count.min(8);
            self.operation_count *= 2;
        }
        let batch_count = self
            .operation_count
            .div_euclid(self.batch_count_max.div_ceil(2));
        let all_ms = self.safety_until.div_euclid(MS) * to_u64(self.client_count);
        self.pause_ms = self.pause_ms.max(all_ms.div_euclid(batch_count));
    }

    /// Few ids are remembered, and there is time enough for them to grow old: the horizon rises.
    fn make_forgetful(&mut self, random: &mut Random) {
        self.id_count_max = 64 << random.below(3);
        self.safety_until = (45_000 + random.below(20_000)) * MS;
        self.operation_count = 800;
        self.batch_count_max = 8;
        self.pause_ms = 400;
        self.reads_mostly = false;
    }

    /// Much load on one node, all the time: enough for several segments, or for checkpoints.
    fn make_heavy(&mut self, is_huge: bool) {
        self.node_count = 1;
        self.client_count = 2;
        self.user_count = 64;
        self.operation_count = if is_huge { 80_000 } else { 50_000 };
        self.batch_count_max = if is_huge { 400 } else { 2_000 };
        self.safety_until = self.safety_until.min(16_000 * MS);
        let batch_count = self.operation_count.div_euclid(self.batch_count_max / 2);
        let all_ms = self.safety_until.div_euclid(MS) * to_u64(self.client_count);
        self.pause_ms = all_ms.div_euclid(batch_count).max(1);
        self.is_steady = true;
        self.id_count_max = 1 << 20;
        self.window_size = 1 << 20;
        self.reads_mostly = false;
        if is_huge {
            // Far apart: there are always blocks on their way.
            let (least, more) = self.delay_ns;
            self.delay_ns = (least * 100, more * 20);
            // Many round trips, so that what waits for those of its user is sent together.
            self.deadline_ms = self.deadline_ms.max(4_000);
            let mut random = stream(self.seed, Purpose::Pace);
            self.faults.retain(|_| random.one_in(2));
            for (_, every_ms) in &mut self.faults {
                *every_ms *= 4;
            }
        } else {
            // Nothing keeps the log from growing, and then power is cut while segments are new.
            self.pause_ms = (self.pause_ms / 2).max(1);
            self.safety_until = 16_000 * MS;
            self.faults = vec![(FaultKind::PowerCut, 2_000)];
        }
    }
}

/// One of so many seeds has load enough for several segments, and half of these for checkpoints.
const HEAVY_EVERY: u64 = 20;

/// One of so many seeds has nodes that remember few ids.
const FORGETFUL_EVERY: u64 = 10;

/// One of so many seeds reads more than it changes.
const READING_EVERY: u64 = 6;

/// One of so many seeds has no faults at all: whatever goes wrong there is plainly wrong.
const CALM_EVERY: u64 = 10;

fn draw_faults(seed: u64) -> Vec<(FaultKind, u64)> {
    let mut on = Vec::new();
    for kind in FaultKind::ALL {
        let mut random = fault_stream(seed, *kind);
        let is_on = random.one_in(kind.odds());
        let usual = kind.every_ms();
        let every_ms = (usual >> 1) + random.below(usual * 2);
        if is_on && !seed.is_multiple_of(CALM_EVERY) {
            on.push((*kind, every_ms));
        }
    }
    on
}

fn to_count(number: u64) -> usize {
    crate::model::to_usize(number)
}
