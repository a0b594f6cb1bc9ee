//! Simulated connections: bytes in order, with delays, windows, and every way to end.
//!
//! A connection has two ends. Bytes leave an end's queue as far as the window and the link let
//! them, are on their way for a while, and wait at the other end until its process reads them.
//! Frames mean nothing here. Which links are stopped or slow is for `fault` to say.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};

use super::clock::{At, MS};
use crate::limits;
use crate::model::Random;
use crate::role::{Link, PeerId};

/// Number of a connection; never used twice.
pub(super) type ConnId = u64;

/// One end of one connection: 0 is the one that dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EndId {
    pub(super) conn: ConnId,
    pub(super) side: usize,
}

impl EndId {
    pub(super) const fn other(self) -> Self {
        Self {
            conn: self.conn,
            side: 1 - self.side,
        }
    }
}

/// How far an end is, as its process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Dialled, not there yet; or not accepted yet.
    Pending,
    /// There; the handshake is not done.
    Strange,
    /// The handshake is done.
    Established,
    /// Over for the process; what is queued still leaves.
    Flushing,
    /// Nothing is left of it.
    Gone,
}

/// Something on its way.
#[derive(Clone, Debug)]
pub(super) enum Parcel {
    Bytes(Bytes),
    /// The sender sends nothing more.
    Fin,
    /// The sender is not there any more.
    Reset,
}

/// One end.
#[derive(Debug)]
pub(super) struct End {
    pub(super) machine: usize,
    pub(super) life: u64,
    pub(super) peer: PeerId,
    pub(super) link: Link,
    pub(super) phase: Phase,
    pub(super) frame_size_max: u32,
    /// What the process handed over and the network did not take yet.
    pub(super) queue: VecDeque<Bytes>,
    pub(super) queue_size: usize,
    /// On its way from here.
    flight: VecDeque<(At, Parcel)>,
    flight_size: usize,
    last_arrival: At,
    /// Arrived here, and not handed over yet.
    pub(super) inbox: BytesMut,
    /// Bytes at the end of the inbox that the process has not read: they fill the window.
    pub(super) unread_size: usize,
    /// There may be whole frames in the inbox, for which the last turn had no room.
    pub(super) has_frames: bool,
    /// How the other side ended, once everything before it is read.
    pub(super) ended: Option<Parcel>,
    pub(super) hold_by_role: bool,
    pub(super) hold_by_queue: bool,
    pub(super) hold_by_ending: bool,
    /// It is in its machine's list of those to be read.
    pub(super) listed: bool,
    /// By when the handshake must be done, or what is queued must have left.
    pub(super) phase_by: Option<At>,
    /// By when the frame that has begun must be whole.
    pub(super) frame_by: Option<At>,
    /// By when something of the queue must have left.
    pub(super) stall_by: Option<At>,
    /// Since when bytes are on their way without a sign from the other side.
    pub(super) unheard_since: Option<At>,
    /// When its deadlines are looked at, if that is scheduled.
    pub(super) check_at: Option<At>,
}

impl End {
    pub(super) fn new(machine: usize, life: u64, peer: PeerId, link: Link) -> Self {
        let frame_size_max = match link {
            Link::Client | Link::Cluster => limits::HELLO_FRAME_SIZE_MAX,
            Link::Dialed(_) => limits::LINK_FRAME_SIZE_MAX,
        };
        Self {
            machine,
            life,
            peer,
            link,
            phase: Phase::Pending,
            frame_size_max,
            queue: VecDeque::new(),
            queue_size: 0,
            flight: VecDeque::new(),
            flight_size: 0,
            last_arrival: 0,
            inbox: BytesMut::new(),
            unread_size: 0,
            has_frames: false,
            ended: None,
            hold_by_role: false,
            hold_by_queue: false,
            hold_by_ending: false,
            listed: false,
            phase_by: None,
            frame_by: None,
            stall_by: None,
            unheard_since: None,
            check_at: None,
        }
    }

    /// Does the process know it as there?
    pub(super) const fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Strange | Phase::Established)
    }

    /// May frames of it go to the process?
    pub(super) const fn may_read(&self) -> bool {
        self.is_open() && !self.hold_by_role && !self.hold_by_queue && !self.hold_by_ending
    }

    /// Would reading it find something?
    pub(super) fn wants_service(&self) -> bool {
        let has_some = 0 < self.unread_size || self.has_frames || self.ended.is_some();
        self.may_read() && has_some
    }

    /// Appends bytes to what is to leave.
    pub(super) fn push(&mut self, bytes: Bytes, at: At) {
        if bytes.is_empty() {
            return;
        }
        if self.queue.is_empty() {
            self.stall_by = Some(at + limits::WRITE_STALL_MS_MAX * MS);
        }
        self.queue_size += bytes.len();
        self.queue.push_back(bytes);
    }

    /// Nothing is left of this end, for its process and for its host.
    pub(super) fn wither(&mut self) {
        self.phase = Phase::Gone;
        self.queue.clear();
        self.queue_size = 0;
        self.inbox = BytesMut::new();
        self.unread_size = 0;
        self.has_frames = false;
        self.phase_by = None;
        self.frame_by = None;
        self.stall_by = None;
        self.unheard_since = None;
    }

    /// The first of its deadlines.
    pub(super) fn deadline(&self) -> Option<At> {
        let unheard = self.unheard_since.map(|since| since + UNHEARD_MAX);
        [self.phase_by, self.frame_by, self.stall_by, unheard]
            .into_iter()
            .flatten()
            .min()
    }
}

/// How long the system waits for a sign of life while bytes are on their way.
pub(super) const UNHEARD_MAX: At = 10_000 * MS;

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) ends: [End; 2],
}

/// What holds for one direction between two hosts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Way {
    /// So many faults stop it.
    pub(super) stops: u32,
    /// So much longer everything takes, in nanoseconds at most.
    pub(super) extra_ns: u64,
}

/// All connections, and the links between hosts.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) conns: BTreeMap<ConnId, Conn>,
    next: ConnId,
    ways: BTreeMap<(usize, usize), Way>,
    random: Random,
    delay_ns: (u64, u64),
    pub(super) window_size: usize,
    /// Hosts that take little at a time: by number, the window.
    pub(super) small_windows: BTreeMap<usize, usize>,
}

impl Network {
    pub(super) const fn new(random: Random, delay_ns: (u64, u64), window_size: usize) -> Self {
        Self {
            conns: BTreeMap::new(),
            next: 1,
            ways: BTreeMap::new(),
            random,
            delay_ns,
            window_size,
            small_windows: BTreeMap::new(),
        }
    }

    pub(super) fn way(&self, from: usize, to: usize) -> Way {
        self.ways.get(&(from, to)).copied().unwrap_or_default()
    }

    pub(super) fn way_mut(&mut self, from: usize, to: usize) -> &mut Way {
        self.ways.entry((from, to)).or_default()
    }

    /// Every link is as it should be.
    pub(super) fn heal(&mut self) {
        self.ways.clear();
        self.small_windows.clear();
    }

    pub(super) fn is_stopped(&self, from: usize, to: usize) -> bool {
        self.way(from, to).stops != 0
    }

    /// How long something takes from one host to another.
    pub(super) fn delay(&mut self, from: usize, to: usize) -> u64 {
        let (least, more) = self.delay_ns;
        let extra = self.way(from, to).extra_ns;
        let mut ns = least + self.random.below(more);
        if extra != 0 {
            ns += self.random.below(extra);
        }
        ns
    }

    pub(super) fn add(&mut self, dialer: End, other: End) -> ConnId {
        let id = self.next;
        self.next += 1;
        let ends = [dialer, other];
        self.conns.insert(id, Conn { ends });
        id
    }

    pub(super) fn end(&self, id: EndId) -> Option<&End> {
        self.conns.get(&id.conn).map(|conn| &conn.ends[id.side])
    }

    pub(super) fn end_mut(&mut self, id: EndId) -> Option<&mut End> {
        let conn = self.conns.get_mut(&id.conn)?;
        Some(&mut conn.ends[id.side])
    }

    /// Forgets a connection of which nothing is left.
    pub(super) fn tidy(&mut self, conn: ConnId) {
        let is_over = self.conns.get(&conn).is_some_and(|conn| {
            let over = |end: &End| end.phase == Phase::Gone && end.flight.is_empty();
            conn.ends.iter().all(over)
        });
        if is_over {
            self.conns.remove(&conn);
        }
    }

    /// Sends what an end has queued, as far as that goes. The arrivals to wait for.
    pub(super) fn pump(&mut self, id: EndId, at: At) -> Vec<At> {
        let mut arrivals = Vec::new();
        let Some(conn) = self.conns.get(&id.conn) else {
            return arrivals;
        };
        let (from, to) = (
            conn.ends[id.side].machine,
            conn.ends[id.other().side].machine,
        );
        if conn.ends[id.side].phase == Phase::Pending || self.is_stopped(from, to) {
            return arrivals;
        }
        let small = [from, to].map(|machine| self.small_windows.get(&machine).copied());
        let window = small.into_iter().flatten().min();
        let window = window.unwrap_or(self.window_size);
        loop {
            let conn = self.conns.get(&id.conn).expect("it was just there");
            let waiting = conn.ends[id.other().side].unread_size;
            let end = &conn.ends[id.side];
            let used = end.flight_size + waiting;
            if end.queue.is_empty() || window <= used {
                break;
            }
            let room = window - used;
            let end = self.end_mut(id).expect("it was just there");
            let first = end.queue.front_mut().expect("it is not empty");
            let piece = first.split_to(first.len().min(room));
            if first.is_empty() {
                end.queue.pop_front();
            }
            end.queue_size -= piece.len();
            end.stall_by = (!end.queue.is_empty()).then(|| at + limits::WRITE_STALL_MS_MAX * MS);
            arrivals.push(self.dispatch(id, Parcel::Bytes(piece), at));
        }
        let is_deaf = self.is_stopped(to, from);
        let end = self.end_mut(id).expect("it was just there");
        if is_deaf && !arrivals.is_empty() {
            end.unheard_since.get_or_insert(at);
        }
        if end.phase == Phase::Flushing && end.queue.is_empty() {
            end.wither();
            arrivals.push(self.dispatch(id, Parcel::Fin, at));
        }
        arrivals
    }

    /// Puts something on its way; when it arrives.
    pub(super) fn dispatch(&mut self, id: EndId, parcel: Parcel, at: At) -> At {
        let conn = self.conns.get(&id.conn).expect("ends of connections");
        let (from, to) = (
            conn.ends[id.side].machine,
            conn.ends[id.other().side].machine,
        );
        let delay = self.delay(from, to);
        let end = self.end_mut(id).expect("it was just there");
        let arrival = (at + delay).max(end.last_arrival + 1);
        end.last_arrival = arrival;
        if let Parcel::Bytes(bytes) = &parcel {
            end.flight_size += bytes.len();
        }
        end.flight.push_back((arrival, parcel));
        arrival
    }

    /// The next thing that has arrived from the end `from`.
    pub(super) fn take_arrived(&mut self, from: EndId, at: At) -> Option<Parcel> {
        let end = self.end_mut(from)?;
        let (arrival, _) = end.flight.front()?;
        if at < *arrival {
            return None;
        }
        let (_, parcel) = end.flight.pop_front()?;
        if let Parcel::Bytes(bytes) = &parcel {
            end.flight_size -= bytes.len();
        }
        Some(parcel)
    }

    /// What is on its way from this end is lost, except for what comes in the first `kept` bytes.
    pub(super) fn lose_flight(&mut self, id: EndId) {
        if let Some(end) = self.end_mut(id) {
            end.flight.clear();
            end.flight_size = 0;
        }
    }

    /// What is on its way from this end arrives so much later. The new arrivals.
    pub(super) fn postpone_flight(&mut self, id: EndId, by: u64) -> Vec<At> {
        let Some(end) = self.end_mut(id) else {
            return Vec::new();
        };
        let mut arrivals = Vec::new();
        for (arrival, _) in &mut end.flight {
            *arrival += by;
            arrivals.push(*arrival);
        }
        end.last_arrival += by;
        arrivals
    }
}
