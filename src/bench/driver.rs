//! Keeps requests in flight on many connections: a role on the daemons' event loop.
//!
//! Knows frames and nothing of what they ask: that is its `Work`. A connection that is lost is
//! dialled again; what was in flight on it is reported as lost and never sent twice.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::BenchError;
use super::work::{Ids, Layout, Next, Note, Request, Times, Work};
use crate::clock::{Clock, Now, Tick};
use crate::limits;
use crate::model::{Incarnation, Map, new_map, to_u64, to_usize};
use crate::protocol::{
    Frame, Header, Hello, Message, PeerRole, Receipts, VERSION_MAX, VERSION_MIN, Welcome,
};
use crate::role::{CloseReason, DialId, Effect, ExitCode, Input, Link, Outbox, PeerId, Role};

/// Pause before a connection that was lost is dialled again, in milliseconds.
const REDIAL_MS: u64 = 100;

/// The target of a note whose answer has come.
const ANSWERED: u32 = u32::MAX;

/// How a driver is set up.
#[derive(Clone, Debug)]
pub(super) struct DriverOptions {
    pub(super) fronts: Vec<SocketAddr>,
    /// Number of the first connection among all threads'.
    pub(super) connection_first: u32,
    pub(super) connection_count: u32,
    pub(super) pipeline_depth: u32,
    /// Operations of a request at most.
    pub(super) batch_count: u32,
    pub(super) deadline_ms: u32,
    pub(super) layout: Layout,
    pub(super) ids: Ids,
    pub(super) incarnation: Incarnation,
}

#[derive(Debug)]
struct UnderWay {
    times: Times,
    unanswered: u32,
    ids: Ids,
    notes: Vec<Note>,
}

#[derive(Debug)]
struct Connection {
    peer: Option<PeerId>,
    is_ready: bool,
    frame_count_max: u32,
    in_flight: u32,
    /// By request number from `first` on; answered ones in the middle included.
    requests: VecDeque<UnderWay>,
    first: u64,
    /// It is in `Driver::with_room`.
    is_listed: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Driver<'a, W> {
    options: DriverOptions,
    /// Another thread of the phase failed.
    aborted: &'a AtomicBool,
    clock: Clock,
    work: W,
    connections: Vec<Connection>,
    by_peer: Map<PeerId, usize>,
    with_room: VecDeque<usize>,
    redials: VecDeque<(Tick, usize)>,
    /// Connections whose first handshake is still to be done.
    unready_count: u32,
    loss_count: u64,
    in_flight: u64,
    /// What the front's clock is ahead of this machine's, in milliseconds.
    clock_ahead_ms: i64,
    spare_notes: Vec<Vec<Note>>,
    wake_at: Option<Tick>,
    fault: Option<BenchError>,
    is_over: bool,
}

impl<'a, W: Work> Driver<'a, W> {
    pub(super) fn new(
        options: DriverOptions,
        clock: Clock,
        work: W,
        aborted: &'a AtomicBool,
    ) -> Self {
        let connection = |_| Connection {
            peer: None,
            is_ready: false,
            frame_count_max: 1,
            in_flight: 0,
            requests: VecDeque::new(),
            first: 1,
            is_listed: false,
        };
        let count = options.connection_count;
        Self {
            connections: (0..count).map(connection).collect(),
            redials: (0..to_usize(u64::from(count)))
                .map(|index| (Tick(0), index))
                .collect(),
            options,
            aborted,
            clock,
            work,
            by_peer: new_map(),
            with_room: VecDeque::new(),
            unready_count: count,
            loss_count: 0,
            in_flight: 0,
            clock_ahead_ms: 0,
            spare_notes: Vec::new(),
            wake_at: None,
            fault: None,
            is_over: false,
        }
    }

    /// The work when all is done, and how many connections were lost on the way.
    pub(super) fn finish(self) -> Result<(W, u64), BenchError> {
        match self.fault {
            Some(fault) => Err(fault),
            None if self.is_over => Ok((self.work, self.loss_count)),
            None => Err(BenchError::System("the event loop ended".to_owned())),
        }
    }

    fn fail(&mut self, fault: BenchError) {
        self.fault.get_or_insert(fault);
    }

    fn opened(&mut self, peer: PeerId, dial: DialId, out: &mut Outbox) {
        let index = to_usize(dial.0);
        self.connections[index].peer = Some(peer);
        self.by_peer.insert(peer, index);
        let hello = Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            role: PeerRole::Client,
            cluster: None,
            node: None,
            incarnation: self.options.incarnation,
        };
        out.send(peer, &Message::Hello(hello));
    }

    fn dial_failed(&mut self, now: Tick, dial: DialId, error: String) {
        if 0 < self.unready_count {
            self.fail(BenchError::Connect(error));
        } else {
            let redial_at = now.plus_ms(REDIAL_MS);
            self.redials.push_back((redial_at, to_usize(dial.0)));
        }
    }

    fn closed(&mut self, now: Tick, peer: PeerId, reason: &CloseReason) {
        let Some(index) = self.by_peer.remove(&peer) else {
            return;
        };
        let connection = &mut self.connections[index];
        if !connection.is_ready {
            let text = format!("a front closed a new connection: {reason:?}");
            self.fail(BenchError::Connect(text));
            return;
        }
        self.loss_count += 1;
        connection.peer = None;
        connection.is_ready = false;
        connection.in_flight = 0;
        connection.first += to_u64(connection.requests.len());
        for request in std::mem::take(&mut connection.requests) {
            self.in_flight -= u64::from(0 < request.unanswered);
            for (place, note) in request.notes.iter().enumerate() {
                if note.target != ANSWERED {
                    self.work.lost(*note, request.ids.at(place));
                }
            }
        }
        self.redials.push_back((now.plus_ms(REDIAL_MS), index));
    }

    fn frame(&mut self, peer: PeerId, frame: &Frame<'_>, out: &mut Outbox) {
        let Some(index) = self.by_peer.get(&peer).copied() else {
            return;
        };
        let message = match Message::read(frame) {
            Ok(message) => message,
            Err(error) => return self.fail(BenchError::Protocol(error.to_string())),
        };
        if let Message::Receipts(receipts) = message {
            if let Err(fault) = self.receipts(index, frame.header, receipts) {
                self.fail(BenchError::Protocol(fault));
            }
        } else if let Message::Welcome(welcome) = message {
            self.welcome(index, peer, &welcome, out);
        } else if let Message::Ping = message {
            let time_ms = self.clock.now().wall_ms;
            let pong = Message::Pong { time_ms };
            pong.write_for(out.buffer(peer), frame.header.request);
        } else if let Message::Refused(refused) = message {
            let text = format!("{}: {}", refused.code.name(), refused.text);
            self.fail(BenchError::Connect(text));
        } else if message == Message::Goaway {
            self.fail(BenchError::Connect("the front is ending".to_owned()));
        } else {
            let kind = frame.header.kind.name();
            self.fail(BenchError::Protocol(format!("{kind} answers nothing")));
        }
    }

    fn welcome(&mut self, index: usize, peer: PeerId, welcome: &Welcome, out: &mut Outbox) {
        let wanted = self.options.batch_count;
        if welcome.batch_count_max < wanted {
            let max = welcome.batch_count_max;
            let text = format!("{wanted} operations in a request, the front takes {max}");
            return self.fail(BenchError::Connect(text));
        }
        let server_ms = i64::try_from(welcome.time_ms).unwrap_or(i64::MAX);
        let own_ms = i64::try_from(self.clock.now().wall_ms).unwrap_or(i64::MAX);
        self.clock_ahead_ms = server_ms.saturating_sub(own_ms);
        let connection = &mut self.connections[index];
        connection.is_ready = true;
        connection.frame_count_max = welcome
            .frames_in_flight_max
            .min(self.options.pipeline_depth);
        self.unready_count = self.unready_count.saturating_sub(1);
        out.effect(Effect::Established {
            peer,
            frame_size_max: limits::FRAME_SIZE_MAX,
        });
        self.list(index);
    }

    /// A connection that may send gets its turn, behind the others.
    fn list(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let has_room = connection.in_flight < connection.frame_count_max;
        if connection.is_ready && has_room && !connection.is_listed {
            connection.is_listed = true;
            self.with_room.push_back(index);
        }
    }

    fn receipts(
        &mut self,
        index: usize,
        header: Header,
        receipts: Receipts<'_>,
    ) -> Result<(), String> {
        let at = self.clock.now().tick;
        let connection = &mut self.connections[index];
        let number = header.request;
        let place = number.checked_sub(connection.first).map(to_usize);
        let request = place.and_then(|place| connection.requests.get_mut(place));
        let request = request.ok_or_else(|| format!("no request {number}"))?;
        for receipt in receipts.iter() {
            let receipt = receipt.map_err(|error| error.to_string())?;
            let place = usize::from(receipt.index);
            let note = request.notes.get_mut(place);
            let note = note.filter(|note| note.target != ANSWERED);
            let note = note.ok_or_else(|| format!("request {number} answered twice"))?;
            let (noted, id) = (*note, request.ids.at(place));
            note.target = ANSWERED;
            request.unanswered -= 1;
            self.work.answered(noted, id, request.times, &receipt);
        }
        if request.unanswered == 0 {
            let count = u32::try_from(request.notes.len()).unwrap_or(u32::MAX);
            self.work.completed(request.times, at, count);
            connection.in_flight -= 1;
            self.in_flight -= 1;
            while connection
                .requests
                .front()
                .is_some_and(|request| request.unanswered == 0)
            {
                connection.first += 1;
                let done = connection.requests.pop_front();
                self.spare_notes.extend(done.map(|done| done.notes));
            }
            self.list(index);
        }
        Ok(())
    }

    fn redial(&mut self, now: Tick, out: &mut Outbox) {
        while let Some((at, index)) = self.redials.front().copied()
            && at <= now
        {
            self.redials.pop_front();
            let number = to_usize(u64::from(self.options.connection_first)) + index;
            out.effect(Effect::Dial {
                dial: DialId(to_u64(index)),
                address: self.options.fronts[number % self.options.fronts.len()],
            });
        }
    }

    /// Sends what is due, as far as there are connections with room.
    fn send_due(&mut self, now: Now, out: &mut Outbox) {
        self.wake_at = None;
        loop {
            let due = match self.work.next(now) {
                Next::Send(due) => due,
                Next::Wait(until) => {
                    self.wake_at = Some(until);
                    return;
                }
                Next::Idle => return,
                Next::Over => {
                    self.is_over = self.in_flight == 0;
                    return;
                }
            };
            let Some(index) = self.with_room.pop_front() else {
                return;
            };
            self.connections[index].is_listed = false;
            if self.connections[index].is_ready {
                self.send(now, index, due, out);
                self.list(index);
            }
        }
    }

    fn send(&mut self, now: Now, index: usize, due: Tick, out: &mut Outbox) {
        let connection = &mut self.connections[index];
        let Some(peer) = connection.peer else {
            return;
        };
        let mut notes = self.spare_notes.pop().unwrap_or_default();
        notes.clear();
        let time_ms = now.wall_ms.saturating_add_signed(self.clock_ahead_ms);
        let ids = self.options.ids.take(time_ms, self.options.batch_count);
        let mut request = Request::begin(
            out.buffer(peer),
            connection.first + to_u64(connection.requests.len()),
            self.options.deadline_ms,
            &mut notes,
            (ids, self.options.layout),
        );
        self.work.fill(&mut request);
        request.finish();
        connection.in_flight += 1;
        self.in_flight += 1;
        connection.requests.push_back(UnderWay {
            times: Times {
                due,
                sent: now.tick,
            },
            unanswered: u32::try_from(notes.len()).unwrap_or(u32::MAX),
            ids,
            notes,
        });
    }
}

impl<W: Work> Role for Driver<'_, W> {
    fn handle(&mut self, now: Now, input: Input<'_>, out: &mut Outbox) {
        match input {
            Input::Opened {
                peer,
                link: Link::Dialed(dial),
            } => self.opened(peer, dial, out),
            Input::DialFailed { dial, error } => self.dial_failed(now.tick, dial, error),
            Input::Frame { peer, frame } => self.frame(peer, &frame, out),
            Input::Closed { peer, reason } => self.closed(now.tick, peer, &reason),
            // There is no listener and no disk; timers run in every turn.
            Input::Opened { .. }
            | Input::Drained { .. }
            | Input::Disk(_)
            | Input::Stop
            | Input::Elapsed => (),
        }
    }

    fn end_turn(&mut self, _now: Now, out: &mut Outbox) {
        // Reading may have taken a while: what leaves now is stamped with the present moment.
        let now = self.clock.now();
        if self.aborted.load(Ordering::Relaxed) {
            self.fail(BenchError::Aborted);
        }
        self.redial(now.tick, out);
        if self.unready_count == 0 && self.fault.is_none() {
            self.work.connected(now);
            self.work.tick(now);
            self.send_due(now, out);
        }
        if self.fault.is_some() || self.is_over {
            let code = if self.is_over {
                ExitCode::Ok
            } else {
                ExitCode::CannotConnect
            };
            let text = String::new();
            out.effect(Effect::Exit { code, text });
        }
    }

    fn deadline(&self) -> Option<Tick> {
        let redial = self.redials.front().map(|(at, _)| *at);
        [redial, self.wake_at, self.work.deadline()]
            .into_iter()
            .flatten()
            .min()
    }
}
