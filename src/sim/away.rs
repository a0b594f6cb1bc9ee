//! Nodes that are away for about as long as it takes until the others take their slots over: dead,
//! asleep, or cut off from the backup alone, several at once, and the backup crashes in the middle.

use super::clock::MS;
use super::fault::Remedy;
use super::plan::FaultKind;
use super::world::{Event, World};
use crate::model::{Random, to_u64, to_usize};

/// How a node is away.
#[derive(Clone, Copy)]
enum Absence {
    Killed,
    PowerCut,
    Asleep,
    CutOff,
}

impl World {
    /// One or more nodes are away for a while.
    pub(super) fn send_away(&mut self, random: &mut Random) -> Option<String> {
        let after_ms = self.plan.moves?.take_over_after_ms;
        let mut nodes = self.nodes();
        let count = 1 + to_usize(random.below(to_u64(nodes.len())));
        let count = if random.one_in(2) { 1 } else { count };
        let mut names = Vec::new();
        for _ in 0..count {
            let node = nodes.swap_remove(to_usize(random.below(to_u64(nodes.len()))));
            let ms = (after_ms >> 1) + random.below(2 * after_ms + 1_500);
            if self.machines[node].body.is_some() {
                names.push(self.send_one_away(random, node, ms));
            }
        }
        if names.is_empty() {
            return None;
        }
        if random.one_in(3) {
            // In the middle of what follows from it.
            let at = self.at + (after_ms + random.below(1_000)) * MS;
            let machine = if random.one_in(3) {
                nodes.first().copied().unwrap_or_else(|| self.backup())
            } else {
                self.backup()
            };
            let is_power_cut = random.one_in(2);
            self.schedule(
                at,
                Event::Crash {
                    machine,
                    is_power_cut,
                    away_ms: 20 + random.below(400),
                },
            );
        }
        Some(names.join(", "))
    }

    fn send_one_away(&mut self, random: &mut Random, node: usize, ms: u64) -> String {
        let ways = [
            Absence::Killed,
            Absence::PowerCut,
            Absence::Asleep,
            Absence::CutOff,
        ];
        let until = self.at + ms * MS;
        let what = match ways[to_usize(random.below(4))] {
            Absence::Killed => {
                self.kill(node);
                self.restart_at(node, until);
                "dead"
            }
            Absence::PowerCut => {
                self.cut_power(node);
                self.restart_at(node, until);
                "without power"
            }
            Absence::Asleep => {
                self.machines[node].paused_until = Some(until);
                self.machines[node].wake = None;
                self.wake_at(node, until);
                "asleep"
            }
            Absence::CutOff => {
                self.cut_off(node, until);
                "cut off from the backup"
            }
        };
        format!("{} is {what} for {ms} ms", self.machines[node].name)
    }

    /// Nothing passes between a node and the backup; what is on its way comes late.
    fn cut_off(&mut self, node: usize, until: u64) {
        for (from, to) in [(node, self.backup()), (self.backup(), node)] {
            self.network.way_mut(from, to).stops += 1;
            let remedy = Remedy::Way { from, to };
            self.schedule(until, Event::Remedy { remedy });
        }
    }

    /// The backup and a node end together, the end of the node's log is damaged at the backup, and
    /// the node stays away until long after the others could have taken its slots over.
    pub(super) fn damage_tail(&mut self, random: &mut Random) -> Option<String> {
        let moves = self.plan.moves?;
        let (backup, node) = (self.backup(), self.pick_node(random));
        let log = self.watch.log_of.get(&node).copied()?;
        if !self.faults.may_hurt() || !self.machines[backup].is_ready() {
            return None;
        }
        if self.machines[node].body.is_none() || self.machines[node].stays_down {
            return None;
        }
        self.kill(backup);
        self.kill(node);
        let medium = self.machines[backup].medium.clone()?;
        // What only the backup had was not acknowledged, and nobody would have it any more.
        let text = if self.watch.has_all(node, log) {
            self.faults.sound = Some(medium.fork());
            self.faults.sound_log = Some(log);
            self.faults.hurt = Some(backup);
            self.watch.forget_backup_end(log);
            super::damage::flip_at_end(&medium, log, random)
        } else {
            "the backup has more than it".to_owned()
        };
        self.restart_at(backup, self.at + (20 + random.below(300)) * MS);
        let patience_ms = moves.take_over_after_ms.max(moves.start_grace_ms);
        let away_ms = patience_ms + 500 + random.below(2_000);
        self.restart_at(node, self.at + away_ms * MS);
        let name = &self.machines[node].name;
        Some(format!("{name} is away for {away_ms} ms, {text}"))
    }

    /// A step of a move is durable: perhaps something crashes now.
    pub(super) fn maybe_crash_in_move(&mut self) {
        let Some(moves) = self.plan.moves.filter(|_| !self.is_healed) else {
            return;
        };
        if let Some(after_ns) = self.faults.loss_in_move() {
            self.schedule(self.at + after_ns, Event::LoseBackup);
        }
        let Some(crash) = self.faults.crash_in_move(moves.take_over_after_ms) else {
            return;
        };
        let count = to_u64(self.node_at.len());
        let machine = if crash.hits_backup {
            self.backup()
        } else {
            self.node_at[to_usize(crash.node % count)]
        };
        self.note_fault(FaultKind::CrashInMove);
        if crash.cuts_off && machine != self.backup() {
            self.cut_off(machine, self.at + crash.away_ms * MS);
            return;
        }
        self.schedule(
            self.at + crash.after_ns,
            Event::Crash {
                machine,
                is_power_cut: crash.is_power_cut,
                away_ms: crash.away_ms,
            },
        );
    }

    /// A process ends in the middle of what goes on, and starts again after a while.
    pub(super) fn crash_now(&mut self, machine: usize, is_power_cut: bool, away_ms: u64) {
        if self.is_healed || self.machines[machine].body.is_none() {
            return;
        }
        let text = format!("{} crashes", self.machines[machine].name);
        self.tell(&text);
        if is_power_cut {
            self.cut_power(machine);
        } else {
            self.kill(machine);
        }
        self.restart_at(machine, self.at + away_ms * MS);
    }
}
