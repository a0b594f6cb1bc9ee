//! Machines: a host with its clocks and its disk, and the process that runs on it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use super::clock::{At, HostClock};
use super::network::EndId;
use super::workload::ClientBody;
use crate::clock::Now;
use crate::disk::Disk;
use crate::log::MemoryMedium;
use crate::model::NodeId;
use crate::role::{DiskReply, DiskRequest, Input, Lane, LaneWorker, Outbox, PeerId, Role};

/// What runs on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Backup,
    Node(NodeId),
    Front,
    Client(usize),
}

/// One host.
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) address: SocketAddr,
    pub(super) clock: HostClock,
    pub(super) medium: Option<MemoryMedium>,
    /// It has power.
    pub(super) is_on: bool,
    /// Counts the processes that ran here.
    pub(super) life: u64,
    pub(super) body: Option<Body>,
    /// The process does not run before this moment.
    pub(super) paused_until: Option<At>,
    /// When the process has its next turn, if that is scheduled.
    pub(super) wake: Option<At>,
    /// The process is at work until then.
    pub(super) busy_until: At,
    /// Its turns take so many times longer than usual.
    pub(super) slowness: u64,
    pub(super) next_peer: u64,
    /// It is not started (again): another one has taken its place, or it is not needed yet.
    pub(super) stays_down: bool,
}

/// The process on a machine.
pub(super) enum Body {
    Role(Box<Process>),
    Client(Box<ClientBody>),
}

/// A daemon at work.
pub(super) struct Process {
    pub(super) role: Box<dyn Role>,
    pub(super) out: Outbox,
    pub(super) born_tick: u64,
    pub(super) peers: BTreeMap<PeerId, EndId>,
    pub(super) notices: VecDeque<Input<'static>>,
    pub(super) accepted: VecDeque<EndId>,
    pub(super) readable: VecDeque<EndId>,
    pub(super) replies: VecDeque<DiskReply>,
    pub(super) disk: Option<Arc<Disk>>,
    pub(super) lanes: BTreeMap<Lane, LaneState>,
    pub(super) is_ready: bool,
}

/// One lane of a disk.
pub(super) struct LaneState {
    pub(super) worker: Box<dyn LaneWorker>,
    /// What came and was not begun.
    pub(super) waiting: VecDeque<DiskRequest>,
    /// What is being carried out.
    pub(super) running: Vec<DiskRequest>,
    /// An event will come for it.
    pub(super) is_due: bool,
}

impl Machine {
    pub(super) fn new(name: String, kind: Kind, address: SocketAddr) -> Self {
        Self {
            name,
            kind,
            address,
            clock: HostClock::new(),
            medium: None,
            is_on: true,
            life: 0,
            body: None,
            paused_until: None,
            wake: None,
            busy_until: 0,
            slowness: 1,
            next_peer: 1,
            stays_down: false,
        }
    }

    pub(super) const fn is_client(&self) -> bool {
        matches!(self.kind, Kind::Client(_))
    }

    /// Is a process here, and does it answer?
    pub(super) const fn is_listening(&self) -> bool {
        self.is_on && self.body.is_some()
    }

    pub(super) fn process(&mut self) -> Option<&mut Process> {
        match &mut self.body {
            Some(Body::Role(process)) => Some(process),
            Some(Body::Client(_)) | None => None,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        match &self.body {
            Some(Body::Role(process)) => process.is_ready,
            Some(Body::Client(_)) => true,
            None => false,
        }
    }

    pub(super) const fn new_peer(&mut self) -> PeerId {
        self.next_peer += 1;
        PeerId(self.next_peer)
    }

    /// Both clocks, as the process sees them.
    pub(super) fn now(&self, at: At) -> Now {
        let born_tick = match &self.body {
            Some(Body::Role(process)) => process.born_tick,
            Some(Body::Client(body)) => body.born_tick,
            None => 0,
        };
        self.clock.now(at, born_tick)
    }
}

impl Process {
    pub(super) fn new(role: Box<dyn Role>, born_tick: u64, disk: Option<Arc<Disk>>) -> Self {
        Self {
            role,
            out: Outbox::new(),
            born_tick,
            peers: BTreeMap::new(),
            notices: VecDeque::new(),
            accepted: VecDeque::new(),
            readable: VecDeque::new(),
            replies: VecDeque::new(),
            disk,
            lanes: BTreeMap::new(),
            is_ready: false,
        }
    }

    /// Is there something to do without waiting?
    pub(super) fn has_work(&self) -> bool {
        !self.notices.is_empty()
            || !self.accepted.is_empty()
            || !self.readable.is_empty()
            || !self.replies.is_empty()
    }
}
