//! The world: one queue of events in virtual time, all machines, and nothing else that moves.
//!
//! Everything that happens is an event with a moment; ties are broken by the order in which they
//! were scheduled. The cores see what net would show them, in the order in which net would.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::net::SocketAddr;

use super::clock::{At, MS, US};
use super::counts::Counts;
use super::fault::{Faults, Remedy};
use super::machine::{Body, Kind, Machine};
use super::network::{End, EndId, Network, Parcel, Phase};
use super::operator::Operator;
use super::plan::{FaultKind, Plan, Purpose, stream};
use super::story::Story;
use super::watch::Watch;
use super::workload::Workload;
use crate::model::Random;
use crate::role::{CloseReason, DialId, Input, Lane, Link};

/// Milliseconds that a dial may take: what net allows.
const DIAL_MS_MAX: u64 = 3_000;

/// Events of one run: more means that something turns in circles.
const EVENT_COUNT_MAX: u64 = 30_000_000;

/// Something that will happen.
#[derive(Debug)]
pub(super) enum Event {
    /// A process has a turn.
    Turn {
        machine: usize,
    },
    /// Something arrives that was sent from this end.
    Arrive {
        from: EndId,
    },
    /// A dial reaches the other host.
    DialReach {
        dialer: EndId,
    },
    /// The other host's answer to a dial is there.
    DialDone {
        dialer: EndId,
    },
    /// A dial is over without success.
    DialFailed {
        machine: usize,
        life: u64,
        dial: DialId,
        error: &'static str,
    },
    /// A lane of a disk has done what it was given.
    Lane {
        machine: usize,
        life: u64,
        lane: Lane,
    },
    /// An end's deadlines are to be looked at.
    Check {
        end: EndId,
    },
    /// A process is to be started.
    Restart {
        machine: usize,
    },
    /// A fault of this class is due.
    Fault {
        kind: FaultKind,
    },
    LoseBackup,
    /// A fault ends.
    Remedy {
        remedy: Remedy,
    },
    /// A process ends in the middle of something.
    Crash {
        machine: usize,
        is_power_cut: bool,
        away_ms: u64,
    },
    /// The safety phase is over.
    SafetyOver,
}

#[derive(Debug)]
struct Scheduled {
    at: At,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// See the module.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) at: At,
    queue: BinaryHeap<Reverse<Scheduled>>,
    event_count: u64,
    pub(super) machines: Vec<Machine>,
    /// On which machine each node is, by number.
    pub(super) node_at: Vec<usize>,
    pub(super) network: Network,
    pub(super) faults: Faults,
    pub(super) workload: Workload,
    pub(super) operator: Option<Operator>,
    pub(super) watch: Watch,
    pub(super) story: Story,
    pub(super) counts: Counts,
    /// How long turns take.
    pub(super) turn_random: Random,
    /// How long the disk takes, and what a crash leaves.
    pub(super) disk_random: Random,
    /// Incarnations and seeds of processes.
    pub(super) id_random: Random,
    /// Everything is healed, and all must come to its end.
    pub(super) is_healed: bool,
}

impl World {
    /// The world of a plan, with everything switched on.
    pub(super) fn new(plan: Plan, keeps_all_lines: bool) -> Self {
        let seed = plan.seed;
        let network = Network::new(
            stream(seed, Purpose::Network),
            plan.delay_ns,
            plan.window_size,
        );
        let mut world = Self {
            at: 0,
            queue: BinaryHeap::new(),
            event_count: 0,
            machines: Vec::new(),
            node_at: Vec::new(),
            network,
            faults: Faults::new(&plan),
            workload: Workload::new(&plan),
            operator: Operator::new(&plan),
            watch: Watch::new(),
            story: Story::new(keeps_all_lines),
            counts: Counts::default(),
            turn_random: stream(seed, Purpose::Processes),
            disk_random: stream(seed, Purpose::Disk),
            id_random: stream(seed, Purpose::Identities),
            is_healed: false,
            plan,
        };
        world.build();
        world.schedule_faults();
        world.schedule(world.plan.safety_until, Event::SafetyOver);
        world
    }

    pub(super) fn schedule(&mut self, at: At, event: Event) {
        self.event_count += 1;
        let number = self.event_count;
        let at = at.max(self.at);
        self.queue.push(Reverse(Scheduled { at, number, event }));
    }

    pub(super) fn tell(&mut self, text: &str) {
        self.story.tell(self.at, text);
    }

    pub(super) fn blame(&mut self, text: String) {
        self.story.blame(self.at, text);
    }

    /// Lets time pass until `until`, or until `done` says that it is enough.
    pub(super) fn run_until(&mut self, until: At, done: impl Fn(&Self) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            let next = self.queue.peek().map(|Reverse(next)| next.at);
            if next.is_none_or(|next| until < next) {
                self.at = self.at.max(until);
                return done(self);
            }
            if EVENT_COUNT_MAX < self.event_count {
                let text = format!("{EVENT_COUNT_MAX} events without coming to rest");
                self.blame(text);
                return false;
            }
            if !self.story.faults().is_empty() {
                return false;
            }
            let Some(Reverse(Scheduled { at, event, .. })) = self.queue.pop() else {
                return false;
            };
            self.at = at;
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn { machine } => {
                if self.machines[machine].wake == Some(self.at) {
                    self.machines[machine].wake = None;
                    self.turn(machine);
                }
            }
            Event::Arrive { from } => self.arrive(from),
            Event::DialReach { dialer } => self.dial_reach(dialer),
            Event::DialDone { dialer } => self.dial_done(dialer),
            Event::DialFailed {
                machine,
                life,
                dial,
                error,
            } => self.dial_failed(machine, life, dial, error),
            Event::Lane {
                machine,
                life,
                lane,
            } => self.lane_done(machine, life, lane),
            Event::Check { end } => self.check(end),
            Event::Restart { machine } => self.restart(machine),
            Event::Fault { kind } => self.fault(kind),
            Event::LoseBackup => self.strike(FaultKind::LostBackup),
            Event::Remedy { remedy } => self.remedy(remedy),
            Event::Crash {
                machine,
                is_power_cut,
                away_ms,
            } => self.crash_now(machine, is_power_cut, away_ms),
            Event::SafetyOver => self.heal_all(),
        }
    }

    // ---- turns ----

    /// Something waits for this machine's process.
    pub(super) fn wake(&mut self, machine: usize) {
        self.wake_at(machine, self.at);
    }

    /// The process is to have a turn at `at`, or as soon as it can after that.
    pub(super) fn wake_at(&mut self, machine: usize, at: At) {
        let state = &mut self.machines[machine];
        if !state.is_listening() {
            return;
        }
        let at = at
            .max(state.busy_until)
            .max(state.paused_until.unwrap_or(0))
            .max(self.at);
        if state.wake.is_none_or(|wake| at < wake) {
            state.wake = Some(at);
            self.schedule(at, Event::Turn { machine });
        }
    }

    fn turn(&mut self, machine: usize) {
        let state = &self.machines[machine];
        if let Some(until) = state.paused_until {
            if self.at < until {
                self.wake_at(machine, until);
                return;
            }
            self.machines[machine].paused_until = None;
        }
        self.story.mix(crate::model::to_u64(machine) ^ self.at);
        let cost = (2 * US + self.turn_random.below(18 * US)) * self.machines[machine].slowness;
        self.machines[machine].busy_until = self.at + cost;
        match &self.machines[machine].body {
            Some(Body::Role(_)) => self.process_turn(machine),
            Some(Body::Client(_)) => self.client_turn(machine),
            None => (),
        }
    }

    // ---- dials ----

    pub(super) fn dial(&mut self, machine: usize, dial: DialId, address: SocketAddr) {
        let target = self
            .machines
            .iter()
            .position(|other| other.address == address);
        let life = self.machines[machine].life;
        let target = target.filter(|target| {
            self.machines[*target].is_on
                && !self.network.is_stopped(machine, *target)
                && !self.network.is_stopped(*target, machine)
        });
        let Some(target) = target else {
            let at = self.at + DIAL_MS_MAX * MS;
            self.schedule(
                at,
                Event::DialFailed {
                    machine,
                    life,
                    dial,
                    error: "no answer",
                },
            );
            return;
        };
        let own_peer = self.machines[machine].new_peer();
        let own = End::new(machine, life, own_peer, Link::Dialed(dial));
        let link = match self.machines[target].kind {
            Kind::Front => Link::Client,
            Kind::Backup | Kind::Node(_) | Kind::Client(_) => Link::Cluster,
        };
        let their_peer = self.machines[target].new_peer();
        let theirs = End::new(target, self.machines[target].life, their_peer, link);
        let conn = self.network.add(own, theirs);
        let at = self.at + self.network.delay(machine, target);
        let dialer = EndId { conn, side: 0 };
        self.schedule(at, Event::DialReach { dialer });
    }

    fn dial_reach(&mut self, dialer: EndId) {
        let Some(end) = self.network.end(dialer.other()) else {
            return;
        };
        let (target, life) = (end.machine, end.life);
        let own = self.network.end(dialer).expect("both are there");
        let machine = own.machine;
        let back = self.at + self.network.delay(target, machine);
        let there = &self.machines[target];
        if !there.is_listening() || there.life != life {
            self.refuse_dial(dialer, back);
            return;
        }
        let accept_by = self.at + crate::limits::HANDSHAKE_MS_MAX * MS;
        let end = self.network.end_mut(dialer.other()).expect("it was there");
        end.phase = Phase::Strange;
        end.phase_by = Some(accept_by);
        if let Some(process) = self.machines[target].process() {
            process.accepted.push_back(dialer.other());
        }
        self.schedule(back, Event::DialDone { dialer });
        self.watch_end(dialer.other());
        self.wake(target);
    }

    fn refuse_dial(&mut self, dialer: EndId, at: At) {
        let Some(conn) = self.network.conns.remove(&dialer.conn) else {
            return;
        };
        let own = &conn.ends[0];
        if let Link::Dialed(dial) = own.link {
            let event = Event::DialFailed {
                machine: own.machine,
                life: own.life,
                dial,
                error: "refused",
            };
            self.schedule(at, event);
        }
    }

    fn dial_done(&mut self, dialer: EndId) {
        let Some(end) = self.network.end(dialer) else {
            return;
        };
        if end.phase != Phase::Pending {
            return;
        }
        let (machine, life, link) = (end.machine, end.life, end.link);
        if self.machines[machine].life != life || !self.machines[machine].is_listening() {
            self.send_reset(dialer);
            return;
        }
        let handshake_by = self.at + crate::limits::HANDSHAKE_MS_MAX * MS;
        let end = self.network.end_mut(dialer).expect("it was there");
        end.phase = Phase::Strange;
        let peer = end.peer;
        match &mut self.machines[machine].body {
            Some(Body::Role(process)) => {
                let end = self.network.end_mut(dialer).expect("it was there");
                end.phase_by = Some(handshake_by);
                process.peers.insert(peer, dialer);
                process.notices.push_back(Input::Opened { peer, link });
            }
            Some(Body::Client(body)) => body.connected(dialer),
            None => (),
        }
        self.list(dialer);
        self.watch_end(dialer);
        self.wake(machine);
    }

    fn dial_failed(&mut self, machine: usize, life: u64, dial: DialId, error: &str) {
        if self.machines[machine].life != life {
            return;
        }
        match &mut self.machines[machine].body {
            Some(Body::Role(process)) => process.notices.push_back(Input::DialFailed {
                dial,
                error: error.to_owned(),
            }),
            Some(Body::Client(body)) => body.connect_failed(error),
            None => (),
        }
        self.wake(machine);
    }

    // ---- connections ----

    /// Sends what an end has queued, and schedules the arrivals.
    pub(super) fn pump(&mut self, end: EndId) {
        let arrivals = self.network.pump(end, self.at);
        for at in arrivals {
            self.schedule(at, Event::Arrive { from: end });
        }
        self.relieve(end);
        self.watch_end(end);
        self.network.tidy(end.conn);
    }

    /// A process that was not read from because of its queue is read from again.
    pub(super) fn relieve(&mut self, id: EndId) {
        let low = crate::model::to_usize(u64::from(crate::limits::CLIENT_QUEUE_SIZE_LOW));
        let Some(end) = self.network.end_mut(id) else {
            return;
        };
        let (machine, peer) = (end.machine, end.peer);
        if !end.hold_by_queue || low < end.queue_size {
            return;
        }
        let Some(process) = self.machines[machine].process() else {
            // It is in the middle of a turn, which looks again when it is over.
            return;
        };
        end.hold_by_queue = false;
        process.notices.push_back(Input::Drained { peer });
        self.list(id);
        self.wake(machine);
    }

    pub(super) fn send_reset(&mut self, id: EndId) {
        let Some(end) = self.network.end_mut(id) else {
            return;
        };
        end.wither();
        let at = self.network.dispatch(id, Parcel::Reset, self.at);
        self.schedule(at, Event::Arrive { from: id });
    }

    fn arrive(&mut self, from: EndId) {
        let to = from.other();
        while let Some(parcel) = self.network.take_arrived(from, self.at) {
            let Some(end) = self.network.end_mut(to) else {
                return;
            };
            let (machine, life, phase) = (end.machine, end.life, end.phase);
            let is_there = self.machines[machine].life == life && phase != Phase::Gone;
            let end = self.network.end_mut(to).expect("it was there");
            match parcel {
                Parcel::Bytes(bytes) if is_there && phase != Phase::Flushing => {
                    self.story.mix(u64::from(crc32fast::hash(&bytes)));
                    end.inbox.extend_from_slice(&bytes);
                    end.unread_size += bytes.len();
                }
                Parcel::Bytes(_) if !is_there && self.machines[machine].is_on => {
                    self.send_reset(to);
                }
                Parcel::Bytes(_) => (),
                Parcel::Fin | Parcel::Reset if !is_there => (),
                Parcel::Fin => end.ended = Some(Parcel::Fin),
                Parcel::Reset => {
                    end.ended = Some(Parcel::Reset);
                    end.queue.clear();
                    end.queue_size = 0;
                    if phase == Phase::Flushing {
                        end.wither();
                    }
                }
            }
            self.list(to);
            self.wake(machine);
        }
        let (machine, other) = match self.network.conns.get(&from.conn) {
            Some(conn) => (conn.ends[from.side].machine, conn.ends[to.side].machine),
            None => return,
        };
        if !self.network.is_stopped(other, machine)
            && let Some(end) = self.network.end_mut(from)
        {
            end.unheard_since = None;
        }
        self.network.tidy(from.conn);
    }

    /// Puts an end on its process's list of those to be read.
    pub(super) fn list(&mut self, id: EndId) {
        let Some(end) = self.network.end_mut(id) else {
            return;
        };
        if end.listed || !end.wants_service() {
            return;
        }
        let machine = end.machine;
        if let Some(process) = self.machines[machine].process() {
            end.listed = true;
            process.readable.push_back(id);
        }
    }

    /// Makes sure that an end's deadlines are kept.
    pub(super) fn watch_end(&mut self, id: EndId) {
        let now = self.at;
        if let Some(end) = self.network.end_mut(id)
            && let Some(deadline) = end.deadline().map(|deadline| deadline.max(now))
            && end.check_at.is_none_or(|at| deadline < at)
        {
            end.check_at = Some(deadline);
            self.schedule(deadline, Event::Check { end: id });
        }
    }

    fn check(&mut self, id: EndId) {
        let Some(end) = self.network.end_mut(id) else {
            return;
        };
        if end.check_at != Some(self.at) {
            return;
        }
        end.check_at = None;
        let Some(deadline) = end.deadline() else {
            return;
        };
        let (machine, life) = (end.machine, end.life);
        let state = &self.machines[machine];
        if state.life != life {
            return;
        }
        let busy = state.paused_until.filter(|until| self.at < *until);
        let waits = end.wants_service() && self.at < deadline + 1_000 * MS;
        if self.at < deadline || busy.is_some() || waits {
            // A process that did not run gets a moment to read what is there.
            let again = busy.map_or(deadline.max(self.at + 10 * MS), |until| until + 10 * MS);
            end.check_at = Some(again);
            self.schedule(again, Event::Check { end: id });
            return;
        }
        self.overdue(id);
    }

    /// The process of an end hears that it failed; nothing more is sent.
    pub(super) fn fail(&mut self, id: EndId, reason: &str) {
        let Some(end) = self.network.end_mut(id) else {
            return;
        };
        let (machine, peer, was_open) = (end.machine, end.peer, end.is_open());
        self.send_reset(id);
        match &mut self.machines[machine].body {
            Some(Body::Role(process)) => {
                process.peers.remove(&peer);
                if was_open {
                    process.notices.push_back(Input::Closed {
                        peer,
                        reason: CloseReason::Failed(reason.to_owned()),
                    });
                }
            }
            Some(Body::Client(body)) => body.lost(id),
            None => (),
        }
        self.wake(machine);
    }
}
