//! The lanes of a machine's disk in virtual time: the shipped workers over a folder in memory.
//!
//! As with net's threads, a lane takes everything that is queued when it begins, so that appends
//! which came together share one sync. What it does to the disk takes effect, and its replies come,
//! at the end of its service time; a crash before that finds nothing done, all done, or, where a
//! fault asks for it, one operation cut off in the middle.

use std::sync::Arc;

use super::clock::US;
use super::machine::{LaneState, Process};
use super::watch::Wrong;
use super::world::{Event, World};
use crate::log::MemoryMedium;
use crate::model::Random;
use crate::role::{DiskReply, DiskRequest, Lane, Lanes};

impl World {
    /// A role asks something of its disk.
    pub(super) fn disk_request(
        &mut self,
        machine: usize,
        process: &mut Process,
        request: DiskRequest,
    ) {
        if matches!(request, DiskRequest::MakeCheckpoint { .. }) {
            self.counts.event("checkpoint");
        }
        if let Err(text) = self.watch.sees_request(machine, &request) {
            self.blame(text);
        }
        let lane = request.lane();
        let disk = process.disk.as_ref().map(Arc::clone);
        let state = process.lanes.entry(lane).or_insert_with(|| LaneState {
            worker: disk
                .expect("only roles with a disk ask it for something")
                .worker(lane),
            waiting: std::collections::VecDeque::new(),
            running: Vec::new(),
            is_due: false,
        });
        state.waiting.push_back(request);
        if !state.is_due {
            state.is_due = true;
            let at = self.at + US + self.disk_random.below(20 * US);
            let life = self.machines[machine].life;
            self.schedule(
                at,
                Event::Lane {
                    machine,
                    life,
                    lane,
                },
            );
        }
    }

    /// A lane begins what waits, or ends what it began.
    pub(super) fn lane_done(&mut self, machine: usize, life: u64, lane: Lane) {
        if self.machines[machine].life != life {
            return;
        }
        let slow_ns = self.faults.slow_disk_ns(machine);
        let crashes = self.faults.takes_crash_in_disk(machine);
        let medium = self.machines[machine].medium.clone();
        let Some(process) = self.machines[machine].process() else {
            return;
        };
        let Some(state) = process.lanes.get_mut(&lane) else {
            return;
        };
        if !state.running.is_empty() {
            let requests = std::mem::take(&mut state.running);
            if crashes && let Some(medium) = medium {
                let step = medium.step_count() + self.disk_random.below(6);
                medium.snapshot_at(step);
                state.worker.run(requests, &mut Vec::new());
                let image = medium.snapshot().map_or(medium, |(image, _)| image);
                self.crash_in_disk(machine, &image);
                return;
            }
            let witnessed = self.watch.sees_requests(machine, &requests);
            let mut replies = Vec::new();
            state.worker.run(requests, &mut replies);
            process.replies.extend(replies.iter().cloned());
            self.wake(machine);
            self.witness(machine, witnessed, &replies);
        }
        self.begin_lane(machine, life, lane, slow_ns);
    }

    fn begin_lane(&mut self, machine: usize, life: u64, lane: Lane, slow_ns: u64) {
        let Some(process) = self.machines[machine].process() else {
            return;
        };
        let state = process.lanes.get_mut(&lane).expect("it was just there");
        state.running = state.waiting.drain(..).collect();
        if state.running.is_empty() {
            state.is_due = false;
            return;
        }
        let at = self.at + service_ns(lane, &mut self.disk_random) + slow_ns;
        self.schedule(
            at,
            Event::Lane {
                machine,
                life,
                lane,
            },
        );
    }

    /// What the threads of a process that is killed were about still happens, or not.
    pub(super) fn end_lanes(&mut self, process: &mut Process) {
        for state in process.lanes.values_mut() {
            let requests = std::mem::take(&mut state.running);
            if !requests.is_empty() && self.disk_random.one_in(2) {
                state.worker.run(requests, &mut Vec::new());
            }
        }
    }

    /// A process that ends in order lets its threads finish.
    pub(super) fn finish_lanes(process: &mut Process) {
        for state in process.lanes.values_mut() {
            let mut requests = std::mem::take(&mut state.running);
            requests.extend(state.waiting.drain(..));
            if !requests.is_empty() {
                state.worker.run(requests, &mut Vec::new());
            }
        }
    }

    /// What the audit is told of what became durable.
    fn witness(&mut self, machine: usize, requests: Vec<DiskRequest>, replies: &[DiskReply]) {
        if self.faults.is_stranger(machine) {
            return;
        }
        let medium = self.machines[machine].medium.clone();
        let kind = self.machines[machine].kind;
        let found =
            self.watch
                .saw_replies(machine, kind, self.at, requests, replies, medium.as_ref());
        for name in self.watch.marks.take_happened() {
            self.counts.event(name);
            self.maybe_crash_in_move();
        }
        match found {
            Ok(()) => (),
            Err(Wrong::Short(_)) if self.faults.is_hurt(machine) => (),
            Err(Wrong::Short(text) | Wrong::Never(text)) => self.blame(text),
        }
    }
}

/// How long a lane needs for what it began.
fn service_ns(lane: Lane, random: &mut Random) -> u64 {
    let (least, more) = match lane {
        Lane::Files | Lane::Log(_) => (60 * US, 400 * US),
        Lane::Reader => (10 * US, 200 * US),
        Lane::Spares | Lane::Background | Lane::Replica | Lane::Images => (50 * US, 2_000 * US),
    };
    let ns = least + random.below(more);
    if random.one_in(200) { ns * 20 } else { ns }
}

/// What a power cut leaves of a disk.
pub(super) fn after_power_cut(medium: &MemoryMedium, random: &mut Random) -> MemoryMedium {
    medium.crash(random)
}
