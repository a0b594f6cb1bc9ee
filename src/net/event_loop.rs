//! The loop: one turn after the other until the role ends the process.

use std::io::{self, ErrorKind};
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::alarm::Alarm;
use super::connection::Ending;
use super::deliver::Turn;
use super::lanes::{LaneThreads, Report};
use super::peers::peer_of;
use super::signals::SignalSource;
use super::sockets::Sockets;
use super::{Limits, Setup, Signals};
use crate::clock::{Clock, Now, Tick};
use crate::limits::{
    DESCRIPTOR_RESERVE_COUNT, EVENT_COUNT_MAX, EXIT_FLUSH_MS_MAX, LANES_AGAIN_MS_MAX,
    LANES_END_MS_MAX, LISTENER_COUNT_MAX,
};
use crate::model::to_u64;
use crate::role::{Effect, ExitCode, Input, Level, Outbox, Role};

const BELL: Token = Token(usize::MAX);
const SIGNAL: Token = Token(usize::MAX - 1);
const ALARM: Token = Token(usize::MAX - 2);
const GATE_LAST: usize = usize::MAX - 3;

/// Longer delays are left to the poll's own timeout, which costs no system call: the last stretch
/// is what has to be exact.
const ALARM_DELAY_MAX: Duration = Duration::from_millis(2);

/// What the poll's own timeout is exact to.
const POLL_GRAIN: Duration = Duration::from_millis(1);

/// How a loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The process is to end.
    Exit(ExitCode),
    /// The role is to begin a new life in this process.
    Again,
}

/// Runs `role` until it asks for its end, and returns how it ends.
///
/// If the system does not give what a loop needs, that is said and the process ends as after
/// damage: there is nothing that a role could do about it.
pub fn run(role: &mut impl Role, setup: Setup<'_>) -> Ended {
    run_with(role, setup, Timing::Coarse)
}

/// The same with deadlines kept to the microsecond instead of the millisecond, at the price of one
/// more system call per short sleep: for a load generator that sends by a schedule, and for a node
/// that lets requests gather.
pub fn run_precise(role: &mut impl Role, setup: Setup<'_>) -> Ended {
    run_with(role, setup, Timing::Precise)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timing {
    Coarse,
    Precise,
}

fn run_with(role: &mut impl Role, setup: Setup<'_>, timing: Timing) -> Ended {
    let Setup {
        listeners,
        lanes,
        clock,
        limits,
        signals,
        mut say,
        on_ready,
    } = setup;
    assert!(
        listeners.len() <= LISTENER_COUNT_MAX,
        "tokens are set aside"
    );
    let limits = limits_for_descriptors(limits.bounded(), to_u64(listeners.len()), &mut say);
    let result = (|| {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = Waker::new(&registry, BELL)?;
        let is_stop_due = signals.is_stop_due();
        let signals = match signals {
            Signals::Handled | Signals::Since(_) => Some(SignalSource::new(&registry, SIGNAL)?),
            Signals::Ignored => None,
        };
        let alarm = match timing {
            Timing::Coarse => None,
            Timing::Precise => Some(Alarm::new(&registry, ALARM)?),
        };
        let mut sockets = Sockets::new(registry, limits, listeners, gate_token)?;
        if is_stop_due {
            sockets.notices.push_back(Input::Stop);
        }
        let event_loop = EventLoop {
            role,
            out: Outbox::new(),
            poll,
            events: Events::with_capacity(EVENT_COUNT_MAX),
            sockets,
            lanes: LaneThreads::new(lanes, waker),
            signals,
            alarm,
            clock,
            say: &mut say,
            on_ready,
            ending: None,
        };
        event_loop.run()
    })();
    result.unwrap_or_else(|error: io::Error| {
        say(Level::Alarm, &format!("the event loop fails error={error}"));
        Ended::Exit(ExitCode::Damage)
    })
}

struct EventLoop<'a> {
    role: &'a mut dyn Role,
    out: Outbox,
    poll: Poll,
    events: Events,
    sockets: Sockets,
    lanes: LaneThreads,
    signals: Option<SignalSource>,
    /// In place of the poll's own timeout, where that would be too coarse.
    alarm: Option<Alarm>,
    clock: Clock,
    say: &'a mut dyn FnMut(Level, &str),
    on_ready: Box<dyn FnMut() + 'a>,
    /// How it ends, once that is decided.
    ending: Option<Ended>,
}

impl EventLoop<'_> {
    fn run(mut self) -> io::Result<Ended> {
        loop {
            self.wait()?;
            let now = self.clock.now();
            self.note_events(now.tick);
            self.gather(now);
            self.role.end_turn(now, &mut self.out);
            self.transmit(now.tick);
            self.carry_out_effects(now.tick)?;
            self.say_lines();
            if let Some(ended) = self.ending {
                return self.leave(ended);
            }
        }
    }

    /// Sleeps until something happens or is due.
    fn wait(&mut self) -> io::Result<()> {
        let timeout = if self.sockets.has_work() || self.lanes.has_more() {
            Some(Duration::ZERO)
        } else {
            let due = [self.role.deadline(), self.sockets.next_wake()];
            let next = due.into_iter().flatten().min();
            next.map(|tick| Duration::from_nanos(tick.since(self.clock.now().tick)))
        };
        let timeout = match (&self.alarm, timeout) {
            (Some(alarm), Some(delay)) if !delay.is_zero() && delay < ALARM_DELAY_MAX => {
                alarm.set(delay)?;
                None
            }
            // The poll rounds up to whole milliseconds: wakes too early, never too late.
            (Some(_), Some(delay)) => Some(delay.saturating_sub(POLL_GRAIN)),
            (Some(_) | None, timeout) => timeout,
        };
        poll_once(&mut self.poll, &mut self.events, timeout)
    }

    fn note_events(&mut self, now: Tick) {
        for event in &self.events {
            match event.token() {
                // Replies are looked for in every turn, and so is what is due.
                BELL | ALARM => (),
                SIGNAL => {
                    if self.signals.as_mut().is_some_and(SignalSource::take) {
                        self.sockets.notices.push_back(Input::Stop);
                    }
                }
                token => match gate_index(token) {
                    Some(index) => self.sockets.gates[index].ready = true,
                    None => self.sockets.on_event(peer_of(token), event, now),
                },
            }
        }
    }

    /// Hands over what happened, as far as one turn takes it.
    fn gather(&mut self, now: Now) {
        let mut turn = Turn::new(&mut *self.role, &mut self.out, now);
        while !turn.is_full()
            && let Some(notice) = self.sockets.notices.pop_front()
        {
            turn.give(notice);
        }
        while !turn.is_full()
            && let Some(report) = self.lanes.next_report()
        {
            match report {
                Report::Reply(reply) => turn.give(Input::Disk(reply)),
                Report::Panicked(text) => {
                    let text = format!("a disk thread panics lane={text}");
                    self.sockets.lines.push((Level::Alarm, text));
                    self.ending = Some(Ended::Exit(ExitCode::Damage));
                }
                Report::Over => unreachable!("threads end when the loop does"),
            }
        }
        self.sockets.accept(&mut turn);
        self.sockets.read(&mut turn);
        self.sockets.expire(now.tick);
        if turn.deadline().is_some_and(|tick| tick <= now.tick) {
            turn.give(Input::Elapsed);
        }
    }

    fn transmit(&mut self, now: Tick) {
        let sockets = &mut self.sockets;
        self.out
            .drain_sends(|peer, pieces, tail| sockets.send(peer, pieces, tail, now));
        sockets.flush_writable(now);
        sockets.carry_out_endings(now);
    }

    fn carry_out_effects(&mut self, now: Tick) -> io::Result<()> {
        while self.ending.is_none()
            && let Some(effect) = self.out.next_effect()
        {
            self.carry_out(effect, now)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, effect: Effect, now: Tick) -> io::Result<()> {
        match effect {
            Effect::Dial { dial, address } => self.sockets.dial(dial, address, now),
            Effect::Established {
                peer,
                frame_size_max,
            } => self.sockets.establish(peer, frame_size_max),
            Effect::Close { peer, reason } => {
                if !reason.is_empty() {
                    let text = format!("closes a connection peer={} reason={reason}", peer.0);
                    (self.say)(Level::Info, &text);
                }
                self.sockets.end(peer, Ending::Asked, now);
            }
            Effect::Pause { peer } => self.sockets.pause(peer),
            Effect::Resume { peer } => self.sockets.resume(peer),
            Effect::Disk(request) => self.lanes.send(request)?,
            Effect::Say { level, text } => (self.say)(level, &text),
            Effect::Ready => (self.on_ready)(),
            Effect::BeginAgain { text } => {
                (self.say)(Level::Warn, &text);
                self.ending = Some(Ended::Again);
            }
            Effect::Exit { code, text } => {
                if !text.is_empty() {
                    let level = if code == ExitCode::Ok {
                        Level::Info
                    } else {
                        Level::Alarm
                    };
                    (self.say)(level, &text);
                }
                self.ending = Some(Ended::Exit(code));
            }
        }
        Ok(())
    }

    fn say_lines(&mut self) {
        for (level, text) in self.sockets.lines.drain(..) {
            (self.say)(level, &text);
        }
    }

    /// The end: what is queued leaves, within bounds, and the disk finishes what it was given.
    fn leave(mut self, mut ended: Ended) -> io::Result<Ended> {
        let start = self.clock.now().tick;
        let end = start.plus_ms(EXIT_FLUSH_MS_MAX);
        let peers: Vec<_> = self.sockets.peers.iter().map(|(peer, _)| peer).collect();
        for peer in peers {
            self.sockets.leave(peer, start);
        }
        while self.sockets.is_flushing() {
            let now = self.clock.now().tick;
            if end <= now {
                (self.say)(Level::Warn, "ends with bytes that peers did not take");
                break;
            }
            let timeout = Duration::from_nanos(end.since(now));
            poll_once(&mut self.poll, &mut self.events, Some(timeout))?;
            for event in &self.events {
                self.sockets.on_event(peer_of(event.token()), event, now);
            }
            self.sockets.flush_writable(now);
        }
        let ms = match ended {
            Ended::Exit(_) => LANES_END_MS_MAX,
            // Whoever begins again needs the folder that the disk's threads still hold.
            Ended::Again => LANES_AGAIN_MS_MAX,
        };
        if !self.lanes.finish(Duration::from_millis(ms)) {
            (self.say)(Level::Warn, "ends while the disk is busy");
            if let Ended::Again = ended {
                ended = Ended::Exit(ExitCode::Unhealthy);
            }
        }
        for (level, text) in self.sockets.lines {
            (self.say)(level, &text);
        }
        Ok(ended)
    }
}

fn poll_once(poll: &mut Poll, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
    match poll.poll(events, timeout) {
        Err(error) if error.kind() == ErrorKind::Interrupted => {
            events.clear();
            Ok(())
        }
        result => result,
    }
}

const fn gate_token(index: usize) -> Token {
    Token(GATE_LAST - index)
}

fn gate_index(token: Token) -> Option<usize> {
    let index = GATE_LAST.checked_sub(token.0)?;
    (index < LISTENER_COUNT_MAX).then_some(index)
}

/// Raises the process's limit of descriptors as far as it may, and lowers that of connections to
/// what is left: the disk must never miss a descriptor because of strangers.
fn limits_for_descriptors(
    limits: Limits,
    gate_count: u64,
    say: &mut dyn FnMut(Level, &str),
) -> Limits {
    if gate_count == 0 {
        return limits;
    }
    let wanted = gate_count * u64::from(limits.connection_count_max) + DESCRIPTOR_RESERVE_COUNT;
    let limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.unwrap_or(u64::MAX).min(wanted);
    let mut current = limit.current.unwrap_or(u64::MAX);
    if current < allowed {
        let raised = Rlimit {
            current: Some(allowed),
            maximum: limit.maximum,
        };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => current = allowed,
            Err(error) => {
                let text = format!("cannot raise the limit of descriptors error={error}");
                say(Level::Warn, &text);
            }
        }
    }
    if wanted <= current {
        return limits;
    }
    let count = (current.saturating_sub(DESCRIPTOR_RESERVE_COUNT) / gate_count).max(1);
    let connection_count_max = u32::try_from(count).unwrap_or(u32::MAX);
    let text =
        format!("fewer connections than wanted max={connection_count_max} descriptors={current}");
    say(Level::Warn, &text);
    Limits {
        connection_count_max,
        ..limits
    }
}
