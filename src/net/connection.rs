//! One connection: how far it is, what it may do, and by when.

use std::io::{self, ErrorKind};

use mio::net::TcpStream;

use super::deliver::{Delivered, End, Turn};
use super::intake::{Arrived, Intake, Pool};
use super::send_queue::{SendQueue, Written};
use crate::clock::Tick;
use crate::limits::{CONNECTION_SIZE_MAX, TURN_PEER_FRAME_COUNT_MAX, WRITE_PROGRESS_SIZE_MIN};
use crate::model::{to_u64, to_usize};
use crate::protocol::RefusalCode;
use crate::role::{DialId, Link, PeerId};

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not connected yet.
    Dialing(DialId),
    /// Connected; the handshake is not done.
    Strange,
    /// The handshake is done.
    Established,
    /// Over for the role; what is queued still leaves.
    Flushing,
    /// Everything left and our side is shut; the peer may still close its own.
    Lingering,
}

/// Why a connection ends.
#[derive(Clone, Debug)]
pub(super) enum Ending {
    /// The peer sends nothing more.
    Ended,
    /// The peer broke a rule and is told so.
    Broke(RefusalCode, String),
    /// It cannot be told anything any more.
    Failed(String),
    /// The role wants it.
    Asked,
}

/// What is known of the bytes that the system has for us.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// There may be bytes: an event said so and no read came back short since.
    pub(super) ready: bool,
    /// The end is near: a short read proves nothing, the next one may say "ended".
    pub(super) ending: bool,
    /// No read will bring anything more.
    pub(super) ended: bool,
}

/// Why a peer is not read from.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "reasons of their own, any of which may hold"
)]
pub(super) struct Hold {
    /// The role paused it.
    pub(super) by_role: bool,
    /// It takes its answers too slowly.
    pub(super) by_queue: bool,
    /// It ends with this turn.
    pub(super) by_ending: bool,
    /// There is no memory for its next frame.
    pub(super) by_budget: bool,
}

/// What is known of the socket's room for bytes of ours.
#[derive(Debug, Default)]
pub(super) struct Writing {
    /// The socket was full; an event will say when it is not.
    pub(super) blocked: bool,
    /// Such events are asked for.
    pub(super) interest: bool,
    /// Bytes taken since the stall deadline was set.
    pub(super) progress_size: usize,
    /// It takes nothing any more, and why. What the peer sent before is still read.
    pub(super) broken: Option<String>,
}

/// By when something must have happened.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    /// The present phase must be over.
    pub(super) phase: Option<Tick>,
    /// The frame that has begun must be whole.
    pub(super) frame: Option<Tick>,
    /// The peer must have taken some bytes.
    pub(super) stall: Option<Tick>,
}

/// A deadline that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    Phase,
    Frame,
    Stall,
}

/// What to do with a connection after it was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait for an event.
    Rest,
    /// There is more, and the turn may take it.
    Again,
    /// There is more, for the next turn.
    Later,
}

/// What is left after frames were handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// There may be whole frames for which there was no room.
    Frames,
    /// At most the beginning of one.
    NoFrames,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) link: Link,
    /// Index of the listener that it counts for.
    pub(super) gate: Option<usize>,
    pub(super) phase: Phase,
    pub(super) frame_size_max: u32,
    pub(super) reading: Reading,
    pub(super) hold: Hold,
    pub(super) intake: Intake,
    pub(super) writing: Writing,
    pub(super) queue: SendQueue,
    /// What the budget of all clients was told of `intake` and `queue`.
    pub(super) counted_size: usize,
    pub(super) deadlines: Deadlines,
    /// Its live entry in the timers.
    pub(super) scheduled: Option<Tick>,
    /// It is in the list of those to be served.
    pub(super) listed: bool,
}

const _: () = assert!(to_u64(size_of::<Connection>()) <= CONNECTION_SIZE_MAX);

impl Connection {
    pub(super) fn new(stream: TcpStream, link: Link, phase: Phase, frame_size_max: u32) -> Self {
        Self {
            stream,
            link,
            gate: None,
            phase,
            frame_size_max,
            reading: Reading::default(),
            hold: Hold::default(),
            intake: Intake::default(),
            writing: Writing::default(),
            queue: SendQueue::default(),
            counted_size: 0,
            deadlines: Deadlines::default(),
            scheduled: None,
            listed: false,
        }
    }

    /// Whether the role knows it as there.
    pub(super) const fn is_open(&self) -> bool {
        match self.phase {
            Phase::Strange | Phase::Established => true,
            Phase::Dialing(_) | Phase::Flushing | Phase::Lingering => false,
        }
    }

    /// Whether frames of it may go to the role.
    pub(super) const fn may_read(&self) -> bool {
        let Hold {
            by_role,
            by_queue,
            by_ending,
            by_budget,
        } = self.hold;
        self.is_open() && !by_role && !by_queue && !by_ending && !by_budget
    }

    /// Whether its next byte begins a frame, of a client that is no stranger any more.
    pub(super) fn begins_frame(&self) -> bool {
        self.link == Link::Client && self.phase == Phase::Established && self.intake.is_empty()
    }

    /// Whether serving it would find something to do.
    pub(super) const fn wants_service(&self) -> bool {
        match self.phase {
            Phase::Dialing(_) => false,
            Phase::Strange | Phase::Established => {
                self.may_read() && (self.reading.ready || !self.intake.is_empty())
            }
            Phase::Flushing | Phase::Lingering => self.reading.ready && !self.reading.ended,
        }
    }

    /// The first of its deadlines.
    pub(super) fn deadline(&self) -> Option<Tick> {
        let Deadlines {
            phase,
            frame,
            stall,
        } = self.deadlines;
        [phase, frame, stall].into_iter().flatten().min()
    }

    /// The gravest deadline that has passed.
    pub(super) fn overdue(&self, now: Tick) -> Option<(Overdue, Tick)> {
        let Deadlines {
            phase,
            frame,
            stall,
        } = self.deadlines;
        [
            (Overdue::Stall, stall),
            (Overdue::Phase, phase),
            (Overdue::Frame, frame),
        ]
        .into_iter()
        .find_map(|(overdue, at)| at.filter(|at| *at <= now).map(|at| (overdue, at)))
    }

    /// Hands over what was read before, then reads once and hands that over.
    ///
    /// One read takes all there is in most cases; a short one proves that nothing is left (the
    /// system raises a new event for what comes later), so no second call has to find that out.
    pub(super) fn receive(
        &mut self,
        peer: PeerId,
        turn: &mut Turn<'_>,
        scratch: &mut [u8],
        pool: &mut Pool,
        frame_ms_max: u64,
    ) -> Result<Next, Ending> {
        let frame_by = turn.now().tick.plus_ms(frame_ms_max);
        let mut share = self.share();
        if !self.intake.is_empty() {
            let kept = self.deliver_kept(peer, turn, pool, share);
            share -= kept.count;
            if self.note(&kept, frame_by)? == Rest::Frames {
                return Ok(self.more());
            }
        }
        if !self.reading.ready {
            return Ok(Next::Rest);
        }
        if share == 0 {
            return Ok(self.more());
        }
        let scratch_size = scratch.len().min(self.read_size_max());
        let Some(arrived) = self.read(&mut scratch[..scratch_size], pool)? else {
            return Ok(Next::Rest);
        };
        let mut done = self.deliver_kept(peer, turn, pool, share);
        let mut bytes = &scratch[..arrived.scratch_size];
        if self.intake.is_empty() {
            let count_max = share - done.count;
            let fresh = turn.deliver(peer, bytes, self.frame_size_max, count_max);
            bytes = &bytes[fresh.size..];
            done.count += fresh.count;
            done.end = fresh.end;
        }
        self.intake.keep(bytes, pool);
        let progressed = 0 < done.count;
        if self.note(&done, frame_by)? == Rest::Frames {
            return Ok(self.more());
        }
        Ok(match (self.reading.ready, progressed) {
            (false, _) => Next::Rest,
            // The beginning of a large frame: one piece of it per turn.
            (true, false) => Next::Later,
            (true, true) => self.more(),
        })
    }

    /// One read. `None`: there is nothing.
    fn read(&mut self, scratch: &mut [u8], pool: &mut Pool) -> Result<Option<Arrived>, Ending> {
        let arrived = loop {
            match self.intake.read(&mut self.stream, scratch, pool) {
                Ok(arrived) => break arrived,
                Err(error) if error.kind() == ErrorKind::Interrupted => (),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.reading.ready = false;
                    return self
                        .writing
                        .broken
                        .take()
                        .map_or(Ok(None), |text| Err(Ending::Failed(text)));
                }
                Err(error) => return Err(Ending::Failed(error.to_string())),
            }
        };
        if arrived.ended {
            self.reading.ended = true;
            return Err(if self.intake.is_empty() {
                Ending::Ended
            } else {
                Ending::Failed("ended in the middle of a frame".to_owned())
            });
        }
        if arrived.drained && !self.reading.ending {
            self.reading.ready = false;
        }
        Ok(Some(arrived))
    }

    fn deliver_kept(
        &mut self,
        peer: PeerId,
        turn: &mut Turn<'_>,
        pool: &mut Pool,
        count_max: u32,
    ) -> Delivered {
        let kept = turn.deliver(peer, self.intake.bytes(), self.frame_size_max, count_max);
        self.intake.consume(kept.size, pool);
        kept
    }

    /// Nothing can be sent any more. What the peer sent before is read up to its end.
    pub(super) fn note_broken(&mut self, error: &io::Error) {
        self.writing.broken = Some(error.to_string());
        self.queue = SendQueue::default();
        self.deadlines.stall = None;
        self.reading.ready = true;
        self.reading.ending = true;
    }

    /// Keeps the stall deadline: it moves only when the peer takes a fair amount.
    pub(super) fn note_written(&mut self, written: Written, now: Tick, stall_ms_max: u64) {
        self.writing.blocked = written.blocked;
        self.writing.progress_size += written.size;
        if self.queue.is_empty() {
            self.deadlines.stall = None;
            self.writing.progress_size = 0;
        } else if self.deadlines.stall.is_none()
            || WRITE_PROGRESS_SIZE_MIN <= self.writing.progress_size
        {
            self.deadlines.stall = Some(now.plus_ms(stall_ms_max));
            self.writing.progress_size = 0;
        }
    }

    /// Keeps the frame deadline: it runs from the first byte of a frame and is not moved by
    /// further bytes of the same one.
    fn note(&mut self, done: &Delivered, frame_by: Tick) -> Result<Rest, Ending> {
        match &done.end {
            End::Partial if self.intake.is_empty() => {
                self.deadlines.frame = None;
                Ok(Rest::NoFrames)
            }
            End::Partial => {
                if 0 < done.count || self.deadlines.frame.is_none() {
                    self.deadlines.frame = Some(frame_by);
                }
                Ok(Rest::NoFrames)
            }
            End::Full => {
                self.deadlines.frame = None;
                Ok(Rest::Frames)
            }
            End::Broken(error) => Err(Ending::Broke(RefusalCode::Malformed, error.to_string())),
        }
    }

    /// Bytes taken with one read at most: a stranger costs no more than its hello.
    fn read_size_max(&self) -> usize {
        if self.phase == Phase::Strange && self.gate.is_some() {
            to_usize(u64::from(self.frame_size_max))
        } else {
            usize::MAX
        }
    }

    /// Frames that it may hand over at a time. A stranger's next frame waits until the role has
    /// judged the one before, so that its limits are those that the role gave it.
    const fn share(&self) -> u32 {
        if matches!(self.phase, Phase::Strange) {
            1
        } else {
            TURN_PEER_FRAME_COUNT_MAX
        }
    }

    const fn more(&self) -> Next {
        if matches!(self.phase, Phase::Strange) {
            Next::Later
        } else {
            Next::Again
        }
    }
}
