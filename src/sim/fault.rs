//! Faults: when they come, what they do, how they end, and which excuses they give.
//!
//! The world knows what is promised: the data of one log is never destroyed on both sides at once.
//! So a disk is wiped, damaged or replaced only while the other side is whole, and the one that was
//! hit counts as hurt until its process serves again.

use std::collections::{BTreeMap, BTreeSet};

use super::clock::MS;
use super::machine::Body;
use super::network::{ConnId, EndId};
use super::plan::{FaultKind, Plan, fault_stream};
use super::world::{Event, World};
use crate::log::{Fault, MemoryMedium};
use crate::model::{LogNumber, Random, Term, to_u64, to_usize};
use crate::role::{ExitCode, Input};

/// How a fault ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Remedy {
    Delay { from: usize, to: usize, ns: u64 },
    Way { from: usize, to: usize },
    Slow { machine: usize },
    Full { machine: usize },
    SlowDisk { machine: usize },
    RightBackup,
}

/// A crash in the middle of a move.
#[derive(Clone, Copy, Debug)]
pub(super) struct CrashInMove {
    pub(super) after_ns: u64,
    pub(super) hits_backup: bool,
    /// Which node, by the dice.
    pub(super) node: u64,
    pub(super) is_power_cut: bool,
    pub(super) away_ms: u64,
    /// A node is not hit but at once cut off from the backup for so long.
    pub(super) cuts_off: bool,
}

/// What is wrong at the moment.
#[derive(Debug)]
pub(super) struct Faults {
    streams: BTreeMap<FaultKind, (Random, u64)>,
    slow_disks: BTreeMap<usize, u64>,
    /// This machine's next disk operation is cut off in the middle.
    crash_in_disk: Option<usize>,
    /// The machine whose disk was destroyed or damaged, until it serves again.
    pub(super) hurt: Option<usize>,
    /// What the hurt machine's disk was before.
    pub(super) sound: Option<MemoryMedium>,
    /// Only this log of it is damaged: the rest goes on meanwhile.
    pub(super) sound_log: Option<LogNumber>,
    /// An old copy of the backup's disk, and the terms of that moment.
    pub(super) old_copy: Option<(MemoryMedium, BTreeMap<usize, Term>)>,
    /// The right disk of the backup, while another one is in its place.
    pub(super) right_disk: Option<MemoryMedium>,
    pub(super) makes_new_cluster: bool,
    /// The backup's disk is lost, and the backup does not serve yet.
    pub(super) is_lost: bool,
    /// From which machine the spare one took a node's place.
    pub(super) replaced: Option<usize>,
    stopping: BTreeSet<usize>,
    /// What happened so far: nothing else excuses anybody.
    struck: BTreeSet<FaultKind>,
    takes_over: bool,
}

impl Faults {
    pub(super) fn new(plan: &Plan) -> Self {
        let on = plan.faults.iter();
        Self {
            streams: on
                .map(|(kind, every)| (*kind, (fault_stream(plan.seed, *kind), *every)))
                .collect(),
            slow_disks: BTreeMap::new(),
            crash_in_disk: None,
            hurt: None,
            sound: None,
            sound_log: None,
            old_copy: None,
            right_disk: None,
            makes_new_cluster: false,
            is_lost: false,
            replaced: None,
            stopping: BTreeSet::new(),
            struck: BTreeSet::new(),
            takes_over: plan.moves.is_some(),
        }
    }

    fn has_any(&self, kinds: &[FaultKind]) -> bool {
        kinds.iter().any(|kind| self.struck.contains(kind))
    }

    /// Is a disk in this machine that is not the right one?
    pub(super) const fn is_stranger(&self, machine: usize) -> bool {
        machine == 0 && self.right_disk.is_some()
    }

    /// Was the disk in this machine damaged or destroyed?
    pub(super) fn is_hurt(&self, machine: usize) -> bool {
        self.hurt == Some(machine)
    }

    /// Is another disk in the backup than its own?
    pub(super) const fn is_backup_exchanged(&self) -> bool {
        self.right_disk.is_some()
    }

    pub(super) const fn makes_new_cluster(&self) -> bool {
        self.makes_new_cluster
    }

    /// Does something crash now that a step of a move is durable? When, and how long it is away.
    pub(super) fn crash_in_move(&mut self, take_over_after_ms: u64) -> Option<CrashInMove> {
        let (random, _) = self.streams.get_mut(&FaultKind::CrashInMove)?;
        if !random.one_in(4) {
            return None;
        }
        let is_soon = random.one_in(2);
        let is_long = random.one_in(2);
        let long_ms = take_over_after_ms + random.below(2_000);
        Some(CrashInMove {
            after_ns: random.below(if is_soon { 3 * MS } else { 30 * MS }),
            hits_backup: random.one_in(3),
            node: random.below(64),
            is_power_cut: random.one_in(2),
            away_ms: if is_long {
                long_ms
            } else {
                20 + random.below(300)
            },
            cuts_off: random.one_in(3),
        })
    }

    /// Is the backup's disk lost now that a step of a move is durable? When.
    pub(super) fn loss_in_move(&mut self) -> Option<u64> {
        let (random, _) = self.streams.get_mut(&FaultKind::LostBackup)?;
        random.one_in(8).then(|| random.below(6 * MS))
    }

    pub(super) fn slow_disk_ns(&mut self, machine: usize) -> u64 {
        let Some(most) = self.slow_disks.get(&machine).copied() else {
            return 0;
        };
        let stream = self.streams.get_mut(&FaultKind::SlowDisk);
        stream.map_or(0, |(random, _)| random.below(most))
    }

    pub(super) fn takes_crash_in_disk(&mut self, machine: usize) -> bool {
        let takes = self.crash_in_disk == Some(machine);
        if takes {
            self.crash_in_disk = None;
        }
        takes
    }

    /// Is this alarm what a fault that happened leads to?
    pub(super) fn explains_alarm(&self, text: &str, _is_healed: bool) -> bool {
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let never = [
            "two histories",
            "digest",
            "supply",
            "does not fit",
            "not all this log's",
            "were not adopted",
            "are here already",
        ];
        if has(&never) {
            return false;
        }
        let clocks = [
            FaultKind::Skew,
            FaultKind::Jump,
            FaultKind::Rate,
            FaultKind::Leap,
            FaultKind::Pause,
            // Some sleep, others hear nothing.
            FaultKind::Away,
            FaultKind::Replace,
            FaultKind::Usurp,
        ];
        if has(&["clock"]) && self.has_any(&clocks) {
            return true;
        }
        if has(&["no room", "space", "full"]) && self.has_any(&[FaultKind::Full]) {
            return true;
        }
        if has(&["is there to take over"]) && self.takes_over {
            return true;
        }
        let torn = [
            FaultKind::Kill,
            FaultKind::PowerCut,
            FaultKind::PowerCutInDisk,
            FaultKind::CrashInMove,
            FaultKind::Away,
            FaultKind::SyncFails,
            FaultKind::WriteFails,
            FaultKind::Full,
        ];
        if has(&["unfinished write"]) && self.has_any(&torn) {
            return true;
        }
        let broken = [FaultKind::SyncFails, FaultKind::WriteFails];
        if has(&["disk failed", "on demand", "poisoned"]) && self.has_any(&broken) {
            return true;
        }
        let damage = [FaultKind::Flip, FaultKind::Swap, FaultKind::TailDamage];
        let exchanged = [FaultKind::OldBackup, FaultKind::BlankBackup];
        self.has_any(&damage) || self.has_any(&exchanged)
    }

    /// Is this end of a process what a fault that happened leads to?
    pub(super) fn explains_exit(&mut self, machine: usize, code: ExitCode, healed: bool) -> bool {
        let asked = self.stopping.remove(&machine);
        match code {
            ExitCode::Ok => asked,
            ExitCode::Damage => self.has_any(&[
                FaultKind::SyncFails,
                FaultKind::WriteFails,
                FaultKind::Flip,
                FaultKind::Swap,
                FaultKind::TailDamage,
                FaultKind::Full,
                FaultKind::OldBackup,
                FaultKind::BlankBackup,
            ]),
            ExitCode::Usage => self.has_any(&[FaultKind::BlankBackup]) && !healed,
            // One that was taken over while it ran begins again.
            ExitCode::Unhealthy => {
                machine != 0 && (self.takes_over || self.has_any(&[FaultKind::LostBackup]))
            }
            ExitCode::Refused
            | ExitCode::CannotConnect
            | ExitCode::Unknown
            | ExitCode::Threshold
            | ExitCode::Fenced => false,
        }
    }

    /// The backup's disk is gone.
    pub(super) fn lost_backup(&mut self) {
        self.hurt = Some(0);
        self.sound = None;
        self.is_lost = true;
    }

    pub(super) fn may_hurt(&self) -> bool {
        self.hurt.is_none() && self.right_disk.is_none()
    }
}

impl World {
    /// The first fault of each class that is on.
    pub(super) fn schedule_faults(&mut self) {
        for (kind, _) in self.plan.faults.clone() {
            // Those have no moments of their own.
            if !matches!(kind, FaultKind::Skew | FaultKind::CrashInMove) {
                self.schedule_fault(kind);
            }
        }
    }

    fn schedule_fault(&mut self, kind: FaultKind) {
        if let Some((random, every_ms)) = self.faults.streams.get_mut(&kind) {
            let at = self.at + random.below(2 * *every_ms) * MS + random.below(MS);
            self.schedule(at, Event::Fault { kind });
        }
    }

    /// Dates that differ from the beginning.
    pub(super) fn set_clocks(&mut self) {
        let Some((random, _)) = self.faults.streams.get_mut(&FaultKind::Skew) else {
            return;
        };
        for machine in &mut self.machines {
            let reach = if machine.is_client() {
                86_400_000
            } else if random.one_in(8) {
                20_000
            } else {
                2_000
            };
            let ms = random.below(2 * reach).cast_signed() - reach.cast_signed();
            machine.clock.jump(ms);
        }
        self.note_fault(FaultKind::Skew);
    }

    /// A fault of this class is due.
    pub(super) fn fault(&mut self, kind: FaultKind) {
        if self.is_healed {
            return;
        }
        self.schedule_fault(kind);
        self.strike(kind);
    }

    /// Does what this class does, unless all is healed.
    pub(super) fn strike(&mut self, kind: FaultKind) {
        if self.is_healed {
            return;
        }
        let Some((mut random, every)) = self.faults.streams.remove(&kind) else {
            return;
        };
        let told = self.apply(kind, &mut random);
        self.faults.streams.insert(kind, (random, every));
        if let Some(text) = told {
            self.note_fault(kind);
            self.tell(&format!("fault {}: {text}", kind.name()));
        }
        self.note_healing();
    }

    /// A fault happened.
    pub(super) fn note_fault(&mut self, kind: FaultKind) {
        self.counts.fault(kind.name());
        self.faults.struck.insert(kind);
    }

    /// A machine that was hurt and serves again is whole.
    pub(super) fn note_healing(&mut self) {
        if let Some(machine) = self.faults.hurt
            && self.machines[machine].is_ready()
            && (machine != self.backup() || self.watch.is_backup_whole())
        {
            self.faults.hurt = None;
            self.faults.sound = None;
            self.faults.sound_log = None;
            self.faults.is_lost = false;
            self.watch.is_refilling = false;
        }
    }

    /// What it did, in words; nothing if there was nothing to do it to.
    fn apply(&mut self, kind: FaultKind, random: &mut Random) -> Option<String> {
        self.note_healing();
        match kind {
            FaultKind::Delay => self.delay_way(random),
            FaultKind::CutLost | FaultKind::CutLate | FaultKind::HalfOpen => self.cut(kind, random),
            FaultKind::OneWay => self.stop_way(random),
            FaultKind::LinkStop => self.stop_links(random),
            FaultKind::SlowPeer => self.slow_peer(random),
            FaultKind::PowerCut | FaultKind::Kill => self.crash(kind, random),
            FaultKind::PowerCutInDisk => {
                let machine = self.pick_disk(random);
                self.faults.crash_in_disk = Some(machine);
                // It is counted when it happens.
                None
            }
            FaultKind::Stop => self.ask_to_stop(random),
            FaultKind::Pause => self.pause(random),
            FaultKind::Replace => self.replace(random),
            FaultKind::Usurp => self.usurp(random),
            FaultKind::Wipe => self.wipe(random),
            FaultKind::SyncFails => {
                let machine = self.pick_disk(random);
                let after = random.below(12);
                let medium = self.machines[machine].medium.as_ref()?;
                medium.fail(Fault::Sync(after));
                Some(format!(
                    "a sync of {}, {after} later",
                    self.machines[machine].name
                ))
            }
            FaultKind::WriteFails => {
                let machine = self.pick_disk(random);
                let after = random.below(12);
                let medium = self.machines[machine].medium.as_ref()?;
                medium.fail(Fault::Write(after));
                Some(format!(
                    "a write of {}, {after} later",
                    self.machines[machine].name
                ))
            }
            FaultKind::Flip | FaultKind::Swap => self.damage(kind, random),
            FaultKind::Full => self.fill_disk(random),
            FaultKind::SlowDisk => {
                let machine = self.pick_disk(random);
                self.faults
                    .slow_disks
                    .insert(machine, (1 + random.below(400)) * MS);
                self.schedule_remedy(random, 4_000, Remedy::SlowDisk { machine });
                Some(self.machines[machine].name.clone())
            }
            FaultKind::Skew | FaultKind::CrashInMove => None,
            FaultKind::Jump => Some(self.jump(random)),
            FaultKind::Rate => Some(self.change_rate(random)),
            FaultKind::Leap => Some(self.leap(random)),
            FaultKind::OldBackup => self.old_backup(random),
            FaultKind::BlankBackup => self.blank_backup(random),
            FaultKind::Away => self.send_away(random),
            FaultKind::TailDamage => self.damage_tail(random),
            FaultKind::LostBackup => self.lose_backup(random),
        }
    }

    pub(super) fn schedule_remedy(&mut self, random: &mut Random, ms_max: u64, remedy: Remedy) {
        let at = self.at + (10 + random.below(ms_max)) * MS;
        self.schedule(at, Event::Remedy { remedy });
    }

    fn pick_daemon(&self, random: &mut Random) -> usize {
        let daemons = self.daemons();
        daemons[to_usize(random.below(to_u64(daemons.len())))]
    }

    /// A machine with a disk: as often the backup as a node.
    pub(super) fn pick_disk(&self, random: &mut Random) -> usize {
        if random.one_in(2) {
            self.backup()
        } else {
            self.pick_node(random)
        }
    }

    pub(super) fn pick_node(&self, random: &mut Random) -> usize {
        self.node_at[to_usize(random.below(to_u64(self.node_at.len())))]
    }

    // ---- network ----

    fn pick_pair(&self, random: &mut Random) -> (usize, usize) {
        let count = to_u64(self.machines.len());
        let from = self.pick_daemon(random);
        let to = to_usize(random.below(count));
        if from == to {
            (from, (to + 1) % self.machines.len())
        } else if random.one_in(2) {
            (from, to)
        } else {
            (to, from)
        }
    }

    fn delay_way(&mut self, random: &mut Random) -> Option<String> {
        let (from, to) = self.pick_pair(random);
        let ns = (1 + random.below(400)) * MS;
        self.network.way_mut(from, to).extra_ns += ns;
        self.schedule_remedy(random, 3_000, Remedy::Delay { from, to, ns });
        Some(format!(
            "{} to {} by up to {} ms",
            self.machines[from].name,
            self.machines[to].name,
            ns.div_euclid(MS)
        ))
    }

    fn cut(&mut self, kind: FaultKind, random: &mut Random) -> Option<String> {
        let open: Vec<ConnId> = self
            .network
            .conns
            .iter()
            .filter(|(_, conn)| conn.ends.iter().all(super::network::End::is_open))
            .map(|(id, _)| *id)
            .collect();
        let count = to_u64(open.len());
        if count == 0 {
            return None;
        }
        let conn = open[to_usize(random.below(count))];
        let side = to_usize(random.below(2));
        let here = EndId { conn, side };
        let there = here.other();
        let names = [here, there].map(|end| {
            let machine = self.network.end(end).map_or(0, |end| end.machine);
            self.machines[machine].name.clone()
        });
        if kind == FaultKind::CutLost {
            self.network.lose_flight(here);
            self.network.lose_flight(there);
            self.fail(here, "cut");
            self.fail(there, "cut");
        } else if kind == FaultKind::CutLate {
            let by = random.below(3_000) * MS;
            self.network.lose_flight(there);
            for at in self.network.postpone_flight(here, by) {
                self.schedule(at, Event::Arrive { from: here });
            }
            self.fail(here, "cut");
        } else {
            self.forget_end(here);
        }
        Some(format!("between {} and {}", names[0], names[1]))
    }

    /// One side is gone, and the other is not told.
    pub(super) fn forget_end(&mut self, id: EndId) {
        self.fail(id, "forgotten");
        self.network.lose_flight(id);
    }

    fn stop_way(&mut self, random: &mut Random) -> Option<String> {
        let (from, to) = self.pick_pair(random);
        self.network.way_mut(from, to).stops += 1;
        self.schedule_remedy(random, 8_000, Remedy::Way { from, to });
        let (from, to) = (&self.machines[from].name, &self.machines[to].name);
        Some(format!("nothing passes from {from} to {to}"))
    }

    /// Several links stop at once; each heals at a moment of its own.
    fn stop_links(&mut self, random: &mut Random) -> Option<String> {
        let mut names = Vec::new();
        let hub = self.pick_daemon(random);
        let count = 1 + random.below(4);
        for _ in 0..count {
            let (from, to) = if random.one_in(2) {
                (hub, to_usize(random.below(to_u64(self.machines.len()))))
            } else {
                self.pick_pair(random)
            };
            for (from, to) in [(from, to), (to, from)] {
                self.network.way_mut(from, to).stops += 1;
            }
            let ms = 10 + random.below(6_000);
            for (from, to) in [(from, to), (to, from)] {
                let remedy = Remedy::Way { from, to };
                self.schedule(self.at + ms * MS, Event::Remedy { remedy });
            }
            let (from, to) = (&self.machines[from].name, &self.machines[to].name);
            names.push(format!("{from} and {to} for {ms} ms"));
        }
        Some(names.join(", "))
    }

    fn slow_peer(&mut self, random: &mut Random) -> Option<String> {
        let machine = to_usize(random.below(to_u64(self.machines.len())));
        self.machines[machine].slowness = 1 + random.below(400);
        self.network
            .small_windows
            .insert(machine, to_usize(256 + random.below(4_096)));
        self.schedule_remedy(random, 4_000, Remedy::Slow { machine });
        Some(self.machines[machine].name.clone())
    }

    // ---- processes ----

    fn crash(&mut self, kind: FaultKind, random: &mut Random) -> Option<String> {
        let machine = self.pick_daemon(random);
        self.machines[machine].body.as_ref()?;
        let text = self.machines[machine].name.clone();
        if kind == FaultKind::PowerCut {
            self.cut_power(machine);
        } else {
            self.kill(machine);
        }
        let pause = (20 + random.below(3_000)) * MS;
        self.restart_at(machine, self.at + pause);
        Some(text)
    }

    fn ask_to_stop(&mut self, random: &mut Random) -> Option<String> {
        let machine = self.pick_daemon(random);
        let process = self.machines[machine].process()?;
        process.notices.push_back(Input::Stop);
        self.faults.stopping.insert(machine);
        self.wake(machine);
        Some(self.machines[machine].name.clone())
    }

    fn pause(&mut self, random: &mut Random) -> Option<String> {
        let machine = to_usize(random.below(to_u64(self.machines.len())));
        self.machines[machine].body.as_ref()?;
        let ms = 10 << random.below(11);
        let until = self.at + (ms + random.below(ms)) * MS;
        self.machines[machine].paused_until = Some(until);
        self.machines[machine].wake = None;
        self.wake_at(machine, until);
        Some(format!("{} for {ms} ms", self.machines[machine].name))
    }

    // ---- disks ----

    fn wipe(&mut self, random: &mut Random) -> Option<String> {
        let machine = self.pick_node(random);
        if !self.faults.may_hurt() {
            return None;
        }
        self.kill(machine);
        self.machines[machine].medium = Some(MemoryMedium::new());
        self.watch.forget_disk(machine);
        self.faults.hurt = Some(machine);
        let pause = (20 + random.below(2_000)) * MS;
        self.restart_at(machine, self.at + pause);
        Some(self.machines[machine].name.clone())
    }

    fn fill_disk(&mut self, random: &mut Random) -> Option<String> {
        let machine = self.pick_disk(random);
        let medium = self.machines[machine].medium.as_ref()?;
        medium.limit(None);
        let used = u64::MAX - crate::log::Medium::free_size(medium).unwrap_or(u64::MAX);
        let room = random.below(4 << 20);
        medium.limit(Some(used + room));
        self.schedule_remedy(random, 5_000, Remedy::Full { machine });
        Some(format!(
            "{} has {room} bytes left",
            self.machines[machine].name
        ))
    }

    // ---- ends of faults ----

    pub(super) fn remedy(&mut self, remedy: Remedy) {
        match remedy {
            Remedy::Delay { from, to, ns } => {
                let way = self.network.way_mut(from, to);
                way.extra_ns = way.extra_ns.saturating_sub(ns);
            }
            Remedy::Way { from, to } => {
                let way = self.network.way_mut(from, to);
                way.stops = way.stops.saturating_sub(1);
                self.pump_between(from, to);
            }
            Remedy::Slow { machine } => {
                self.machines[machine].slowness = 1;
                self.network.small_windows.remove(&machine);
            }
            Remedy::Full { machine } => {
                if let Some(medium) = &self.machines[machine].medium {
                    medium.limit(None);
                }
            }
            Remedy::SlowDisk { machine } => {
                self.faults.slow_disks.remove(&machine);
            }
            Remedy::RightBackup => self.right_backup(),
        }
    }

    /// What waited for a link goes on.
    fn pump_between(&mut self, from: usize, to: usize) {
        if self.network.is_stopped(from, to) {
            return;
        }
        for end in self.ends_of(from) {
            let other = self.network.end(end.other()).map(|end| end.machine);
            if other == Some(to) {
                self.pump(end);
            }
        }
        for end in self.ends_of(to) {
            if let Some(end) = self.network.end_mut(end) {
                end.unheard_since = None;
            }
        }
    }

    /// The safety phase is over: everything works again, and what was asked must come to its end.
    pub(super) fn heal_all(&mut self) {
        self.tell("everything is healed");
        self.right_backup();
        self.is_healed = true;
        self.look_again();
        self.workload.is_over = true;
        self.network.heal();
        self.faults.slow_disks.clear();
        self.faults.crash_in_disk = None;
        let at = self.at;
        let true_ms = self.machines[0].clock.wall_ms(at);
        let leap = true_ms.saturating_sub(super::clock::EPOCH_MS + at.div_euclid(MS));
        // Dates are right again, and nowhere before what the backup's was.
        let leap_ms = leap.cast_signed();
        for number in 0..self.machines.len() {
            let machine = &mut self.machines[number];
            machine.clock.heal(at, leap_ms);
            machine.slowness = 1;
            machine.paused_until = None;
            machine.wake = None;
            if let Some(medium) = &machine.medium {
                medium.limit(None);
                medium.fail(Fault::Sync(u64::MAX));
                medium.fail(Fault::Write(u64::MAX));
            }
            self.wake(number);
        }
        let ends: Vec<EndId> = self
            .network
            .conns
            .keys()
            .flat_map(|conn| [0, 1].map(|side| EndId { conn: *conn, side }))
            .collect();
        for end in ends {
            self.pump(end);
        }
    }

    /// Is every daemon up and serving, every question answered, nothing on its way?
    pub(super) fn is_at_rest(&self) -> bool {
        // A machine that was replaced must be down by then.
        let ready = |machine: &super::machine::Machine| machine.is_ready() != machine.stays_down;
        let is_busy = |body: &Body| matches!(body, Body::Client(body) if !body.is_idle());
        let mut bodies = self.machines.iter().flat_map(|machine| &machine.body);
        self.machines.iter().all(ready)
            && !bodies.any(is_busy)
            && self.workload.open_count == 0
            && self.watch.marks.open_count() == 0
            && self.watch.is_level(&self.node_at)
            && self.is_settled()
    }
}
