//! All sockets of a loop: who is there, who is ready, who is to go.
//!
//! Edge-triggered: an event is told once, so it is kept as a flag until a read or an accept came
//! back short. Whoever could not be served in full goes on a list and is served next turn without
//! another event. What the role must hear of is kept as a notice until the next turn.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr};

use bytes::BytesMut;
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::Limits;
use super::accept::{Gate, Knock, Listener, prepare, write_refusal};
use super::budget::{Budget, Verdict};
use super::connection::{Connection, Ending, Next, Overdue, Phase};
use super::deliver::Turn;
use super::intake::Pool;
use super::peers::{Peers, token};
use super::timers::Timers;
use crate::clock::Tick;
use crate::limits;
use crate::model::to_usize;
use crate::protocol::RefusalCode;
use crate::role::{CloseReason, DialId, Input, Level, Link, PeerId};

/// See the module.
pub(super) struct Sockets {
    pub(super) registry: Registry,
    pub(super) limits: Limits,
    pub(super) peers: Peers,
    pub(super) timers: Timers,
    pub(super) gates: Vec<Gate>,
    /// To be served, in this order.
    ready: VecDeque<PeerId>,
    /// To be served in the next turn.
    later: Vec<PeerId>,
    /// The socket has room again for what is queued.
    pub(super) writable: Vec<PeerId>,
    /// To be ended once this turn's bytes were written.
    pub(super) endings: Vec<(PeerId, Ending)>,
    /// What the role is to hear in the next turn.
    pub(super) notices: VecDeque<Input<'static>>,
    /// What the operator is to hear.
    pub(super) lines: Vec<(Level, String)>,
    budget: Budget,
    scratch: Box<[u8]>,
    pool: Pool,
}

impl Sockets {
    /// `gate_token` gives each listener its token.
    pub(super) fn new(
        registry: Registry,
        limits: Limits,
        listeners: Vec<Listener>,
        gate_token: impl Fn(usize) -> Token,
    ) -> io::Result<Self> {
        let mut gates: Vec<Gate> = listeners.into_iter().map(Gate::new).collect();
        for (index, gate) in gates.iter_mut().enumerate() {
            registry.register(gate.socket(), gate_token(index), Interest::READABLE)?;
        }
        Ok(Self {
            registry,
            limits,
            peers: Peers::default(),
            timers: Timers::default(),
            gates,
            ready: VecDeque::new(),
            later: Vec::new(),
            writable: Vec::new(),
            endings: Vec::new(),
            notices: VecDeque::new(),
            lines: Vec::new(),
            budget: Budget::new(to_usize(u64::from(limits.client_buffers_size_max))),
            scratch: vec![0; limits::READ_SIZE_MAX].into_boxed_slice(),
            pool: Pool::default(),
        })
    }

    /// Whether there is something to do without any event.
    pub(super) fn has_work(&self) -> bool {
        !self.ready.is_empty()
            || !self.later.is_empty()
            || !self.writable.is_empty()
            || !self.notices.is_empty()
            || self.budget.has_freed()
            || self.gates.iter().any(|gate| gate.ready)
    }

    /// When there is something to do even without an event.
    pub(super) fn next_wake(&self) -> Option<Tick> {
        let retries = self.gates.iter().filter_map(|gate| gate.retry_at);
        retries.chain(self.timers.next()).min()
    }

    /// Keeps what an event says. Events may be late or mean nothing.
    pub(super) fn on_event(&mut self, peer: PeerId, event: &Event, now: Tick) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        if let Phase::Dialing(dial) = connection.phase {
            self.finish_dial(peer, dial, now);
            return;
        }
        let failed = event.is_error() || event.is_write_closed();
        if event.is_readable() || event.is_read_closed() || failed {
            connection.reading.ready = true;
            connection.reading.ending |= event.is_read_closed() || failed;
        }
        if failed && connection.is_open() && !connection.may_read() {
            // It is not read from, so no read would find out.
            let error = connection.stream.take_error().ok().flatten();
            let text = error.map_or_else(|| "hung up".to_owned(), |error| error.to_string());
            self.endings.push((peer, Ending::Failed(text)));
        } else if event.is_writable() && connection.writing.blocked {
            connection.writing.blocked = false;
            self.writable.push(peer);
        }
        self.list(peer);
    }

    /// Accepts who is waiting, within bounds, so that a flood of them starves nobody.
    pub(super) fn accept(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now().tick;
        for index in 0..self.gates.len() {
            let gate = &mut self.gates[index];
            if gate.retry_at.is_some_and(|at| at <= now) {
                gate.retry_at = None;
                gate.ready = true;
            }
            for _ in 0..limits::ACCEPTS_PER_TURN_MAX {
                let gate = &mut self.gates[index];
                if !gate.ready || gate.retry_at.is_some() || turn.is_full() {
                    break;
                }
                let count_max = self.limits.connection_count_max;
                match gate.knock(count_max, now, &mut self.lines) {
                    Knock::Stream(stream) => self.admit(index, stream, turn),
                    Knock::Gone => (),
                    Knock::Nobody => break,
                }
            }
        }
    }

    fn admit(&mut self, gate: usize, stream: TcpStream, turn: &mut Turn<'_>) {
        let link = self.gates[gate].link();
        let mut connection =
            Connection::new(stream, link, Phase::Strange, limits::HELLO_FRAME_SIZE_MAX);
        connection.gate = Some(gate);
        let now = turn.now().tick;
        match self.add(
            connection,
            Interest::READABLE,
            self.limits.handshake_ms_max,
            now,
        ) {
            Ok(peer) => {
                self.gates[gate].count += 1;
                turn.give(Input::Opened { peer, link });
            }
            Err(error) => {
                let text = format!("cannot watch a connection error={error}");
                self.lines.push((Level::Warn, text));
            }
        }
    }

    /// Serves who is ready, in turns, until nobody is or the turn is full.
    pub(super) fn read(&mut self, turn: &mut Turn<'_>) {
        for index in 0..self.later.len() {
            self.list(self.later[index]);
        }
        self.later.clear();
        self.release_held();
        while !turn.is_full()
            && let Some(peer) = self.ready.pop_front()
        {
            match self.serve(peer, turn) {
                Next::Rest => (),
                Next::Again => self.list(peer),
                Next::Later => self.later.push(peer),
            }
        }
    }

    fn serve(&mut self, peer: PeerId, turn: &mut Turn<'_>) -> Next {
        let Some(connection) = self.peers.get_mut(peer) else {
            return Next::Rest;
        };
        connection.listed = false;
        if !connection.wants_service() {
            return Next::Rest;
        }
        if !connection.is_open() {
            return self.discard(peer);
        }
        if self.budget.is_full() && connection.begins_frame() {
            connection.hold.by_budget = true;
            self.budget.hold(peer);
            return Next::Rest;
        }
        let frame_ms_max = self.limits.frame_ms_max;
        let (scratch, pool) = (&mut self.scratch, &mut self.pool);
        match connection.receive(peer, turn, scratch, pool, frame_ms_max) {
            Ok(next) => {
                self.arm(peer);
                if self.recount(peer) == Verdict::TooMuch {
                    let text = "there is no memory for more frames of clients".to_owned();
                    let ending = Ending::Broke(RefusalCode::TooManyConnections, text);
                    self.break_off(peer, ending);
                    return Next::Rest;
                }
                next
            }
            Err(ending) => {
                self.break_off(peer, ending);
                Next::Rest
            }
        }
    }

    /// Ends a connection with this turn.
    fn break_off(&mut self, peer: PeerId, ending: Ending) {
        if let Some(connection) = self.peers.get_mut(peer) {
            connection.hold.by_ending = true;
            self.endings.push((peer, ending));
        }
    }

    /// Counts anew what a client makes the loop keep.
    pub(super) fn recount(&mut self, peer: PeerId) -> Verdict {
        let Some(connection) = self.peers.get_mut(peer) else {
            return Verdict::Fine;
        };
        if connection.link != Link::Client {
            return Verdict::Fine;
        }
        let size = connection.intake.memory_size() + connection.queue.size();
        let before = std::mem::replace(&mut connection.counted_size, size);
        self.budget.change(before, size)
    }

    /// Serves those again that waited for memory, if there is some.
    fn release_held(&mut self) {
        for peer in self.budget.freed() {
            if let Some(connection) = self.peers.get_mut(peer) {
                connection.hold.by_budget = false;
                self.list(peer);
            }
        }
    }

    /// Reads what a peer still sends after its connection is over for the role, so that our last
    /// frame reaches it: unread bytes would turn our close into a reset.
    fn discard(&mut self, peer: PeerId) -> Next {
        let Some(connection) = self.peers.get_mut(peer) else {
            return Next::Rest;
        };
        match connection.stream.read(&mut self.scratch) {
            Ok(size) if 0 < size => return Next::Later,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Next::Later,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                connection.reading.ready = false;
                return Next::Rest;
            }
            Ok(_) | Err(_) => connection.reading.ended = true,
        }
        if connection.phase == Phase::Lingering {
            self.remove(peer);
        }
        Next::Rest
    }

    /// Ends those whose time is over, and those that this turn found to be over.
    pub(super) fn expire(&mut self, now: Tick) {
        while let Some((at, peer)) = self.timers.pop(now) {
            let Some(connection) = self.peers.get_mut(peer) else {
                continue;
            };
            if connection.scheduled != Some(at) {
                continue;
            }
            connection.scheduled = None;
            let Some((overdue, due)) = connection.overdue(now) else {
                self.arm(peer);
                continue;
            };
            let waits = overdue != Overdue::Stall && connection.listed && connection.is_open();
            if waits && now < due.plus_ms(limits::LATE_MS_MAX) {
                // Serving it arms the timer again.
                continue;
            }
            self.end_overdue(peer, overdue);
        }
    }

    fn end_overdue(&mut self, peer: PeerId, overdue: Overdue) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        let limits = self.limits;
        let ending = match connection.phase {
            Phase::Dialing(dial) => {
                let error = format!("no answer within {} ms", limits::DIAL_MS_MAX);
                self.remove(peer);
                self.notices.push_back(Input::DialFailed { dial, error });
                return;
            }
            Phase::Flushing | Phase::Lingering => {
                self.remove(peer);
                return;
            }
            Phase::Strange | Phase::Established => match overdue {
                Overdue::Phase => broke(format!(
                    "no handshake within {} ms",
                    limits.handshake_ms_max
                )),
                Overdue::Frame => broke(format!("a frame took over {} ms", limits.frame_ms_max)),
                Overdue::Stall => Ending::Failed(format!(
                    "{} bytes were left untaken for {} ms",
                    connection.queue.size(),
                    limits.write_stall_ms_max
                )),
            },
        };
        connection.hold.by_ending = true;
        self.endings.push((peer, ending));
    }

    /// Begins a connection. The outcome is a notice.
    pub(super) fn dial(&mut self, dial: DialId, address: SocketAddr, now: Tick) {
        let link = Link::Dialed(dial);
        let opened = TcpStream::connect(address).and_then(|stream| {
            prepare(&stream, address)?;
            let phase = Phase::Dialing(dial);
            let connection = Connection::new(stream, link, phase, limits::LINK_FRAME_SIZE_MAX);
            self.add(connection, Interest::WRITABLE, limits::DIAL_MS_MAX, now)
        });
        if let Err(error) = opened {
            let error = error.to_string();
            self.notices.push_back(Input::DialFailed { dial, error });
        }
    }

    fn finish_dial(&mut self, peer: PeerId, dial: DialId, now: Tick) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        let outcome = dial_outcome(&connection.stream).and_then(|connected| {
            if connected {
                let registry = &self.registry;
                registry.reregister(&mut connection.stream, token(peer), Interest::READABLE)?;
            }
            Ok(connected)
        });
        match outcome {
            Ok(false) => (),
            Ok(true) => {
                connection.phase = Phase::Strange;
                let handshake_by = now.plus_ms(self.limits.handshake_ms_max);
                connection.deadlines.phase = Some(handshake_by);
                self.arm(peer);
                let link = Link::Dialed(dial);
                self.notices.push_back(Input::Opened { peer, link });
            }
            Err(error) => {
                self.remove(peer);
                let error = error.to_string();
                self.notices.push_back(Input::DialFailed { dial, error });
            }
        }
    }

    /// The handshake is done.
    pub(super) fn establish(&mut self, peer: PeerId, frame_size_max: u32) {
        if let Some(connection) = self.peers.get_mut(peer)
            && connection.is_open()
        {
            connection.phase = Phase::Established;
            connection.frame_size_max = frame_size_max;
            connection.deadlines.phase = None;
            self.list(peer);
        }
    }

    /// Stops reading from a peer. What it has sent so far waits, and its clock stands still.
    pub(super) fn pause(&mut self, peer: PeerId) {
        if let Some(connection) = self.peers.get_mut(peer) {
            connection.hold.by_role = true;
            connection.deadlines.frame = None;
        }
    }

    /// Reads from a peer again.
    pub(super) fn resume(&mut self, peer: PeerId) {
        if let Some(connection) = self.peers.get_mut(peer) {
            connection.hold.by_role = false;
            self.list(peer);
        }
    }

    /// Ends a connection: what is queued leaves, and for a broken rule a frame that names it. The
    /// role hears at once that it is gone.
    pub(super) fn end(&mut self, peer: PeerId, ending: Ending, now: Tick) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        if !connection.is_open() {
            return;
        }
        let (reason, refusal) = match ending {
            Ending::Ended => (CloseReason::Ended, None),
            Ending::Asked => (CloseReason::Asked, None),
            Ending::Broke(code, text) => (CloseReason::Broke(text.clone()), Some((code, text))),
            Ending::Failed(text) => {
                self.fail(peer, CloseReason::Failed(text));
                return;
            }
        };
        if connection.writing.broken.is_some() {
            self.fail(peer, reason);
            return;
        }
        connection.phase = Phase::Flushing;
        connection.intake.release(&mut self.pool);
        connection.deadlines.frame = None;
        connection.deadlines.phase = Some(now.plus_ms(self.limits.write_stall_ms_max));
        if let Some((code, text)) = refusal {
            let mut frame = BytesMut::new();
            write_refusal(&mut frame, code, &text);
            connection.queue.append(&mut VecDeque::new(), &mut frame);
        }
        self.notices.push_back(Input::Closed { peer, reason });
        self.recount(peer);
        self.arm(peer);
        self.flush(peer, now);
        self.list(peer);
    }

    /// Drops an open connection without another word to the peer.
    pub(super) fn fail(&mut self, peer: PeerId, reason: CloseReason) {
        self.remove(peer);
        self.notices.push_back(Input::Closed { peer, reason });
    }

    /// Everything left: tells the peer that nothing more comes, and gives it time to close.
    pub(super) fn finish(&mut self, peer: PeerId, now: Tick) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        if connection.reading.ended || connection.stream.shutdown(Shutdown::Write).is_err() {
            self.remove(peer);
            return;
        }
        connection.phase = Phase::Lingering;
        connection.deadlines.phase = Some(now.plus_ms(limits::LINGER_MS_MAX));
        self.arm(peer);
        self.list(peer);
    }

    /// Takes a connection out and closes it.
    pub(super) fn remove(&mut self, peer: PeerId) {
        let Some(mut connection) = self.peers.remove(peer) else {
            return;
        };
        if let Some(gate) = connection.gate {
            self.gates[gate].count -= 1;
        }
        connection.intake.release(&mut self.pool);
        self.budget.change(connection.counted_size, 0);
        if let Err(error) = self.registry.deregister(&mut connection.stream) {
            let text = format!("cannot unwatch a connection error={error}");
            self.lines.push((Level::Warn, text));
        }
    }

    /// Puts a peer on the list of those to be served, if serving it makes sense.
    pub(super) fn list(&mut self, peer: PeerId) {
        if let Some(connection) = self.peers.get_mut(peer)
            && !connection.listed
            && connection.wants_service()
        {
            connection.listed = true;
            self.ready.push_back(peer);
        }
    }

    /// Makes sure that the peer's deadlines are kept.
    pub(super) fn arm(&mut self, peer: PeerId) {
        if let Some(connection) = self.peers.get_mut(peer)
            && let Some(deadline) = connection.deadline()
        {
            self.timers.arm(peer, deadline, &mut connection.scheduled);
        }
    }

    fn add(
        &mut self,
        mut connection: Connection,
        interest: Interest,
        phase_ms_max: u64,
        now: Tick,
    ) -> io::Result<PeerId> {
        let peer = self.peers.next_id();
        self.registry
            .register(&mut connection.stream, token(peer), interest)?;
        connection.deadlines.phase = Some(now.plus_ms(phase_ms_max));
        let inserted = self.peers.insert(connection);
        assert!(inserted == peer, "nothing came between");
        self.arm(peer);
        Ok(peer)
    }
}

fn broke(text: String) -> Ending {
    Ending::Broke(RefusalCode::TooSlow, text)
}

/// Whether a dial is done: `false` = not yet.
fn dial_outcome(stream: &TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    let peer_address = match stream.peer_addr() {
        Ok(address) => address,
        Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(false),
        Err(error) => return Err(error),
    };
    if peer_address == stream.local_addr()? {
        // A dial from a port to itself succeeds when nobody listens there and the system happens
        // to choose that very port.
        return Err(io::Error::other(
            "connected to itself: nobody listens there",
        ));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};

    #[test]
    fn a_dial_that_reaches_itself_has_failed() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).unwrap();
        let own = socket.local_addr().unwrap();
        socket.connect(&own).unwrap();
        socket.set_nonblocking(true).unwrap();
        let stream = TcpStream::from_std(socket.into());
        let error = dial_outcome(&stream).unwrap_err();
        assert!(error.to_string().contains("itself"), "{error}");
    }
}
