//! A second machine takes a node's place while the first one is still there.

use super::clock::MS;
use super::fault::Remedy;
use super::network::End;
use super::world::{Event, World};
use crate::log::MemoryMedium;
use crate::model::{Random, to_u64, to_usize};
use crate::role::ExitCode;

impl World {
    /// A node sleeps, and its operator starts it anew on another machine. When it wakes up it must
    /// find out, tell nobody anything old, and end.
    pub(super) fn replace(&mut self, random: &mut Random) -> Option<String> {
        let (index, old) = self.pick_replaceable(random)?;
        let ms = 2_000 + random.below(8_000);
        self.sleep(old, ms);
        let after_ms = random.below(2_500);
        self.take_place(index, after_ms);
        let name = &self.machines[old].name;
        Some(format!(
            "{name} sleeps for {ms} ms, the spare machine takes its place"
        ))
    }

    /// The backup loses its connection to a node that does not hear of it, and so another machine
    /// takes its place at once. A front that cannot hear of that either wakes up meanwhile and
    /// asks the old one: until that finds the link silent, it must show nothing.
    pub(super) fn usurp(&mut self, random: &mut Random) -> Option<String> {
        let (index, old) = self.pick_replaceable(random)?;
        let backup = self.backup();
        let end = self.ends_of(backup).into_iter().find(|end| {
            let machine_of = |end| self.network.end(end).map(|end| end.machine);
            let is_open = self.network.end(*end).is_some_and(End::is_open);
            is_open && machine_of(end.other()) == Some(old)
        })?;
        let (first, count) = (self.fronts().start, to_u64(self.fronts().len()));
        let front = first + to_usize(random.below(count));
        self.network.lose_flight(end.other());
        self.forget_end(end);
        let ms = 2_000 + random.below(4_000);
        for (from, to) in [(old, backup), (backup, front)] {
            self.network.way_mut(from, to).stops += 1;
            let remedy = Remedy::Way { from, to };
            self.schedule(self.at + ms * MS, Event::Remedy { remedy });
        }
        if self.machines[front].body.is_some() {
            self.sleep(front, 100 + random.below(1_200));
        }
        let after_ms = random.below(50);
        self.take_place(index, after_ms);
        let (name, front) = (&self.machines[old].name, &self.machines[front].name);
        Some(format!(
            "{name} and {front} do not hear for {ms} ms that the spare machine takes {name}'s place"
        ))
    }

    /// A node that serves, if the spare machine may take its place now.
    fn pick_replaceable(&self, random: &mut Random) -> Option<(usize, usize)> {
        let index = to_usize(random.below(to_u64(self.node_at.len())));
        let (old, spare) = (self.node_at[index], self.spare());
        let is_free = self.machines[spare].stays_down && old != spare;
        let is_up = self.machines[old].is_ready() && self.machines[self.backup()].is_ready();
        (is_free && is_up && self.faults.may_hurt()).then_some((index, old))
    }

    fn sleep(&mut self, machine: usize, ms: u64) {
        let until = self.at + ms * MS;
        self.machines[machine].paused_until = Some(until);
        self.machines[machine].wake = None;
        self.wake_at(machine, until);
    }

    /// The spare machine starts with an empty disk as the node with this index.
    fn take_place(&mut self, index: usize, after_ms: u64) {
        let (old, spare) = (self.node_at[index], self.spare());
        self.machines[old].stays_down = true;
        self.machines[spare].stays_down = false;
        self.machines[spare].kind = self.machines[old].kind;
        self.machines[spare].medium = Some(MemoryMedium::new());
        self.watch.forget_disk(spare);
        self.node_at[index] = spare;
        self.faults.replaced = Some(old);
        self.faults.hurt = Some(spare);
        self.restart_at(spare, self.at + after_ms * MS);
    }

    /// The one that was to be replaced woke up first: it keeps its place, and the other one is
    /// right to give up. True if that is so.
    pub(super) fn keeps_its_place(&mut self, machine: usize, code: ExitCode) -> bool {
        let Some(old) = self.faults.replaced else {
            return false;
        };
        let is_beaten = machine == self.spare()
            && code == ExitCode::Fenced
            && self.machines[old].body.is_some();
        if is_beaten {
            self.machines[old].stays_down = false;
            self.machines[machine].stays_down = true;
            let mut places = self.node_at.iter_mut();
            if let Some(place) = places.find(|place| **place == machine) {
                *place = old;
            }
            self.faults.replaced = None;
            self.faults.hurt = None;
            self.counts.event("replace_refused");
        }
        is_beaten
    }
}
