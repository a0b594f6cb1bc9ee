//! The front: takes the frames of clients, and sends each operation to the node that owns its
//! user.
//!
//! Two roles in one core. The balancer picks a router for each request frame; the router splits
//! the frame by owner, joins what many clients sent in one turn, sends again what got a not-now
//! answer or lost its link, and passes receipts back as they come. Both hold operations in
//! `inflight` until they are answered or their deadline passes. A front keeps nothing on disk and
//! decides nothing about money: ids make every second copy safe.
//!
//! Reading order: `clients` (what comes in), `router` (where it goes), `inflight` and `target`
//! (what is held), `links` (connections it dials), `balancer`, `control`, `deadlines`.

mod balancer;
mod clients;
mod control;
mod deadlines;
#[doc(hidden)]
pub mod fuzzing;
mod inflight;
mod links;
mod pool;
mod router;
mod table;
mod target;

#[cfg(debug_assertions)]
mod invariants;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use crate::clock::{Now, Tick};
use crate::limits;
use crate::model::{ClusterId, Incarnation, Map, RingEpoch, Set, new_map, new_set, to_u64};
use crate::role::{Effect, ExitCode, Input, Level, Link, MemoryPlan, Outbox, PeerId, Role};

pub use balancer::Strategy;

use balancer::{Balancer, Candidate};
use clients::Client;
use control::Asks;
use inflight::Flight;
use links::{DialedLink, Purpose};
use pool::{Key, Pool};
use table::Routing;
use target::Target;

/// What a front does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Roles {
    /// Balances over its own router and others.
    #[default]
    Both,
    /// Balances over other fronts only.
    Balancer,
    /// Routes every frame itself.
    Router,
}

impl Roles {
    const fn balances(self) -> bool {
        matches!(self, Self::Both | Self::Balancer)
    }

    const fn routes(self) -> bool {
        matches!(self, Self::Both | Self::Router)
    }
}

/// Limits that may be set lower than those of `limits.rs`; higher values count as those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontLimits {
    /// Operations held at a time. A frame with more operations is answered `busy` for ever.
    pub operation_count_max: u32,
    /// Request frames of one client held at a time.
    pub client_frame_count_max: u32,
    /// Deadline of a request that carries none, in milliseconds.
    pub deadline_ms_default: u32,
}

impl Default for FrontLimits {
    fn default() -> Self {
        Self {
            operation_count_max: limits::FRONT_OPERATION_COUNT_MAX,
            client_frame_count_max: limits::CLIENT_FRAMES_IN_FLIGHT_MAX,
            deadline_ms_default: limits::DEADLINE_MS_DEFAULT,
        }
    }
}

impl FrontLimits {
    fn bounded(self) -> Self {
        let top = Self::default();
        Self {
            operation_count_max: self.operation_count_max.min(top.operation_count_max),
            client_frame_count_max: self.client_frame_count_max.min(top.client_frame_count_max),
            deadline_ms_default: self.deadline_ms_default.clamp(1, limits::DEADLINE_MS_MAX),
        }
    }
}

/// How a front is set up.
#[derive(Clone, Debug)]
pub struct FrontOptions {
    /// What it does. A mere balancer needs `routers`; without any it never gets ready.
    pub roles: Roles,
    /// How its balancer spreads frames.
    pub strategy: Strategy,
    /// The backup, with the authority: the source of the slot table.
    pub backup: SocketAddr,
    /// Other fronts whose routers its balancer uses.
    pub routers: Vec<SocketAddr>,
    /// Of the balancer's choices.
    pub seed: u64,
    /// The cluster, if it is known; else that of the backup that answers first.
    pub cluster: Option<ClusterId>,
    /// This life of the process.
    pub incarnation: Incarnation,
    /// Lower limits than the built-in ones.
    pub limits: FrontLimits,
}

/// How far the front's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Takes nothing new, answers what it holds.
    Draining {
        until: Tick,
    },
    /// All is answered; clients are being closed.
    Closing {
        until: Tick,
    },
    Ended,
}

/// The core of a front.
#[derive(Debug)]
pub struct Front {
    options: FrontOptions,
    cluster: Option<ClusterId>,
    phase: Phase,
    is_ready: bool,
    /// Connections by number: clients and links.
    peers: Map<PeerId, Peer>,
    clients: Pool<Client>,
    clients_due: Tick,
    is_paused: bool,
    /// The backup, then the routers of the options, then nodes as they became known.
    links: Vec<DialedLink>,
    links_due: Tick,
    dial_count: u64,
    routing: Option<Routing>,
    /// The number of the last table on the present connection of the backup.
    table_number: u64,
    /// The epoch that a node spoke of and the backup was asked for.
    epoch_asked: RingEpoch,
    node_up_count: u32,
    flight: Flight,
    /// Links with queued operations.
    queued: Vec<u16>,
    /// Links or table changed so that waiting operations may have somewhere to go.
    is_sweep_due: bool,
    balancer: Balancer,
    asks: Asks,
    turned_at: Tick,
    candidates: Vec<Candidate>,
    held_users: Set<u128>,
    sweep: Vec<u32>,
}

/// The most memory that a front may use.
#[must_use]
pub fn memory_plan(limits_of_front: &FrontLimits) -> MemoryPlan {
    let count = u64::from(limits_of_front.bounded().operation_count_max);
    let answers = to_u64(limits::FRONT_ANSWER_COUNT_MAX) * FRONT_ANSWER_SIZE;
    MemoryPlan::of_loop()
        .part("clients", 2 * u64::from(limits::CLIENT_BUFFERS_SIZE_MAX))
        .part(
            "operations",
            count * limits::FRONT_OPERATION_MEMORY_SIZE_MAX + answers,
        )
        .each_link()
}

/// Bytes of an answer that is gathered, in a table that doubles.
const FRONT_ANSWER_SIZE: u64 = 2 * 64;

/// A turn that comes so late after the last one, while there is a timer for every ping, means
/// that this process slept.
const OWN_PAUSE_MS: u64 = limits::LINK_SILENCE_MS_MAX / 2;
const _: () = assert!(2 * limits::LINK_PING_MS < OWN_PAUSE_MS);

/// No time to wait for.
const NEVER: Tick = Tick(u64::MAX);

/// What is behind a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Client(Key),
    Link(u16),
}

impl Front {
    /// A front that dials the backup in its first turn.
    #[must_use]
    pub fn new(mut options: FrontOptions) -> Self {
        options.limits = options.limits.bounded();
        let mut front = Self {
            cluster: options.cluster,
            phase: Phase::Serving,
            is_ready: false,
            peers: new_map(),
            clients: Pool::default(),
            clients_due: Tick(0),
            is_paused: false,
            links: Vec::new(),
            links_due: Tick(0),
            dial_count: 0,
            routing: None,
            table_number: 0,
            epoch_asked: RingEpoch(0),
            node_up_count: 0,
            flight: Flight::default(),
            queued: Vec::new(),
            is_sweep_due: false,
            balancer: Balancer::new(options.strategy, options.seed),
            asks: Asks::default(),
            turned_at: Tick(0),
            candidates: Vec::new(),
            held_users: new_set(),
            sweep: Vec::new(),
            options,
        };
        let backup = DialedLink::new(Purpose::Backup, Some(front.options.backup));
        front.add_link(backup);
        if front.options.roles.balances() {
            for address in front.options.routers.clone() {
                front.add_link(DialedLink::new(Purpose::Router, Some(address)));
            }
        }
        front
    }

    fn add_link(&mut self, link: DialedLink) -> u16 {
        let index =
            u16::try_from(self.links.len()).expect("links are bounded by nodes and options");
        self.flight.targets.push(Target::new(link.purpose));
        self.links.push(link);
        self.links_due = Tick(0);
        index
    }

    fn epoch(&self) -> RingEpoch {
        self.routing
            .as_ref()
            .map_or(RingEpoch(0), |routing| routing.epoch)
    }

    fn is_serving(&self) -> bool {
        self.phase == Phase::Serving
    }

    fn on_opened(&mut self, now: Now, peer: PeerId, link: Link, out: &mut Outbox) {
        match link {
            Link::Client | Link::Cluster => self.add_client(now.tick, peer),
            Link::Dialed(dial) => self.on_dialed(now.tick, dial, peer, out),
        }
    }

    fn on_closed(&mut self, now: Now, peer: PeerId, reason: &str, out: &mut Outbox) {
        match self.peers.remove(&peer) {
            Some(Peer::Client(key)) => {
                self.clients.remove_at(key.index());
            }
            Some(Peer::Link(index)) => self.lose_link(now.tick, index, reason, out),
            // A link that this front closed was forgotten then.
            None => (),
        }
    }

    fn on_stop(&mut self, now: Now, out: &mut Outbox) {
        match self.phase {
            Phase::Serving => {
                self.phase = Phase::Draining {
                    until: now.tick.plus_ms(u64::from(limits::DEADLINE_MS_MAX)),
                };
                say(out, Level::Info, "front drains".to_owned());
                self.send_goaway(out);
            }
            Phase::Draining { .. } | Phase::Closing { .. } => self.exit(out, "ended at once"),
            Phase::Ended => (),
        }
    }

    /// Goes on with an orderly end, if one was asked for.
    fn drain(&mut self, now: Tick, out: &mut Outbox) {
        if let Phase::Draining { until } = self.phase {
            if until <= now {
                self.expire_all(out);
            }
            if self.flight.batches.count() == 0 && self.asks.is_empty() {
                self.close_clients(out);
                self.phase = Phase::Closing { until };
            }
        }
        if let Phase::Closing { until } = self.phase
            && (self.clients.count() == 0 || until <= now)
        {
            self.exit(out, "drained");
        }
    }

    fn exit(&mut self, out: &mut Outbox, text: &str) {
        self.phase = Phase::Ended;
        out.effect(Effect::Exit {
            code: ExitCode::Ok,
            text: text.to_owned(),
        });
    }

    /// Silence of the others proves nothing while this process slept: all get a full period.
    fn forgive_own_pause(&mut self, now: Tick) {
        if OWN_PAUSE_MS * 1_000_000 < now.since(self.turned_at) {
            for link in &mut self.links {
                link.heard_at = now;
            }
            self.forgive_clients(now);
        }
    }

    fn say_ready_once(&mut self, out: &mut Outbox) {
        if !self.is_ready && (self.is_own_router_up() || self.is_any_router_up()) {
            self.is_ready = true;
            out.effect(Effect::Ready);
        }
    }
}

impl Role for Front {
    fn handle(&mut self, now: Now, input: Input<'_>, out: &mut Outbox) {
        if self.phase == Phase::Ended {
            return;
        }
        match input {
            Input::Opened { peer, link } => self.on_opened(now, peer, link, out),
            Input::DialFailed { dial, error } => self.on_dial_failed(now.tick, dial, &error, out),
            Input::Frame { peer, frame } => match self.peers.get(&peer) {
                Some(Peer::Client(key)) => self.on_client_frame(now, *key, &frame, out),
                Some(Peer::Link(index)) => self.on_link_frame(now, *index, &frame, out),
                // Bytes that were under way when this front closed the connection.
                None => (),
            },
            Input::Closed { peer, reason } => {
                self.on_closed(now, peer, &links::reason_text(&reason), out);
            }
            Input::Stop => self.on_stop(now, out),
            // What a slow peer has queued is bounded by the event loop, which stops reading from
            // it; timers run in every turn; a front has no disk.
            Input::Drained { .. } | Input::Elapsed | Input::Disk(_) => (),
        }
        if self.flight.is_answer_list_full() {
            self.write_answers(out);
        }
    }

    fn end_turn(&mut self, now: Now, out: &mut Outbox) {
        if self.phase == Phase::Ended {
            return;
        }
        self.forgive_own_pause(now.tick);
        self.tick_links(now.tick, out);
        self.tick_clients(now.tick, out);
        self.tick_asks(now.tick, out);
        self.tick_batches(now.tick);
        self.write_answers(out);
        self.write_frames(now.tick, out);
        self.balance_reading(out);
        self.say_ready_once(out);
        self.drain(now.tick, out);
        self.turned_at = now.tick;
        #[cfg(debug_assertions)]
        self.check_invariants();
    }

    fn deadline(&self) -> Option<Tick> {
        let end = match self.phase {
            Phase::Serving => None,
            Phase::Draining { until } | Phase::Closing { until } => Some(until),
            Phase::Ended => return None,
        };
        let clients = (self.clients.count() != 0).then_some(self.clients_due);
        let links = (self.links_due != NEVER).then_some(self.links_due);
        [
            links,
            self.flight.deadlines.next(),
            self.flight.retries.next(),
            self.flight.moves.next(),
            self.asks.deadline(),
            clients,
            end,
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

fn say(out: &mut Outbox, level: Level, text: String) {
    out.effect(Effect::Say { level, text });
}
