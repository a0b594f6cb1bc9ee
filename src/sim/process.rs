//! One turn of a daemon, as net does it: inputs in net's order and within net's limits, the end of
//! the turn, then what its outbox holds.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::clock::{At, MS, US};
use super::machine::{Body, Process};
use super::network::{EndId, Parcel, Phase};
use super::world::World;
use crate::clock::Now;
use crate::limits;
use crate::model::{Seq, to_usize};
use crate::protocol::{self, FrameError, Message, RefusalCode, Refused, VERSION_MAX, VERSION_MIN};
use crate::role::{CloseReason, Effect, ExitCode, Input, Level, Link, PeerId, Piece};

/// Bytes of frames handed to a role before its turn ends: what net takes.
const TURN_SIZE_MAX: usize = 2 << 20;

/// Frames of one peer before the next one has its turn: what net takes.
const PEER_FRAME_COUNT_MAX: u32 = 128;

/// What one turn may still take.
struct Room {
    inputs: u32,
    size: usize,
}

impl Room {
    const fn is_empty(&self) -> bool {
        self.inputs == 0 || self.size == 0
    }
}

/// What came of reading one end.
enum Read {
    /// Nothing is left for now.
    Rest,
    /// There is more, for this turn or the next.
    More,
    /// The other side ended it.
    Ended(CloseReason),
    /// What came is no frame.
    Broken(FrameError),
}

impl World {
    pub(super) fn process_turn(&mut self, machine: usize) {
        let Some(Body::Role(mut process)) = self.machines[machine].body.take() else {
            return;
        };
        let now = self.machines[machine].clock.now(self.at, process.born_tick);
        if machine == self.backup() {
            self.watch.backup_shows(now.wall_ms, self.at);
        }
        let mut room = Room {
            inputs: limits::INPUTS_PER_TURN_MAX,
            size: TURN_SIZE_MAX,
        };
        self.give_notices(&mut process, now, &mut room);
        let over = self.read_ends(machine, &mut process, now, &mut room);
        if process.role.deadline().is_some_and(|tick| tick <= now.tick) {
            process.role.handle(now, Input::Elapsed, &mut process.out);
        }
        process.role.end_turn(now, &mut process.out);
        let inputs = u64::from(limits::INPUTS_PER_TURN_MAX - room.inputs);
        self.machines[machine].busy_until += inputs * (US >> 1);
        let was_ready = process.is_ready;
        let mut touched = Vec::new();
        let exit = self.carry_out(machine, &mut process, &mut touched);
        self.machines[machine].body = Some(Body::Role(process));
        for id in touched {
            self.relieve(id);
        }
        if !was_ready && self.machines[machine].is_ready() {
            self.became_ready(machine);
        }
        for (end, ending) in over {
            self.end_conn(end, ending);
        }
        match exit {
            Some((code, text)) => self.process_exits(machine, code, &text),
            None => self.plan_turn(machine),
        }
    }

    fn became_ready(&mut self, machine: usize) {
        if machine == self.backup() && self.watch.backup_found_damage {
            self.blame("the backup serves although a log of it is damaged".to_owned());
        }
        self.note_healing();
    }

    /// Schedules the next turn: at once if there is work, else when the role wants it.
    fn plan_turn(&mut self, machine: usize) {
        let Some(process) = self.machines[machine].process() else {
            return;
        };
        if process.has_work() {
            self.wake(machine);
            return;
        }
        let (born, deadline) = (process.born_tick, process.role.deadline());
        if let Some(tick) = deadline {
            let at = self.machines[machine]
                .clock
                .at_of(born.saturating_add(tick.0));
            if at != At::MAX {
                self.wake_at(machine, at);
            }
        }
    }

    fn give_notices(&mut self, process: &mut Process, now: Now, room: &mut Room) {
        let Process {
            role,
            out,
            notices,
            replies,
            accepted,
            peers,
            ..
        } = process;
        while !room.is_empty()
            && let Some(notice) = notices.pop_front()
        {
            room.inputs -= 1;
            role.handle(now, notice, out);
        }
        while !room.is_empty()
            && let Some(reply) = replies.pop_front()
        {
            room.inputs -= 1;
            role.handle(now, Input::Disk(reply), out);
        }
        while !room.is_empty()
            && let Some(id) = accepted.pop_front()
        {
            let Some(end) = self.network.end(id) else {
                continue;
            };
            room.inputs -= 1;
            let (peer, link) = (end.peer, end.link);
            peers.insert(peer, id);
            role.handle(now, Input::Opened { peer, link }, out);
        }
        // What came in before its connection was accepted is read from now on.
        for id in peers.values() {
            if let Some(end) = self.network.end_mut(*id)
                && !end.listed
                && end.wants_service()
            {
                end.listed = true;
                process.readable.push_back(*id);
            }
        }
    }

    /// Reads whoever has something, in turns. Those that are over, and why.
    fn read_ends(
        &mut self,
        machine: usize,
        process: &mut Process,
        now: Now,
        room: &mut Room,
    ) -> Vec<(EndId, CloseReason)> {
        let mut over = Vec::new();
        let mut later = VecDeque::new();
        while !room.is_empty()
            && let Some(id) = process.readable.pop_front()
        {
            let Some(end) = self.network.end_mut(id) else {
                continue;
            };
            end.listed = false;
            if !end.wants_service() || !process.peers.contains_key(&end.peer) {
                continue;
            }
            let is_strange = end.phase == Phase::Strange;
            match self.read_end(machine, id, process, now, room) {
                Read::Rest => (),
                Read::More => {
                    if let Some(end) = self.network.end_mut(id) {
                        end.listed = true;
                    }
                    if is_strange {
                        later.push_back(id);
                    } else {
                        process.readable.push_back(id);
                    }
                }
                Read::Ended(reason) => {
                    self.hold_ending(id);
                    over.push((id, reason));
                }
                Read::Broken(error) => {
                    self.hold_ending(id);
                    over.push((id, CloseReason::Broke(error.to_string())));
                }
            }
        }
        process.readable.append(&mut later);
        over
    }

    fn hold_ending(&mut self, id: EndId) {
        if let Some(end) = self.network.end_mut(id) {
            end.hold_by_ending = true;
        }
    }

    fn read_end(
        &mut self,
        machine: usize,
        id: EndId,
        process: &mut Process,
        now: Now,
        room: &mut Room,
    ) -> Read {
        let end = self.network.end_mut(id).expect("it was just looked at");
        let (peer, size_max) = (end.peer, end.frame_size_max);
        let share = if end.phase == Phase::Strange {
            1
        } else {
            PEER_FRAME_COUNT_MAX
        };
        let mut inbox = std::mem::take(&mut end.inbox);
        end.unread_size = 0;
        let mut count = 0;
        let mut result = Read::Rest;
        while !inbox.is_empty() {
            if room.is_empty() || count == share {
                result = Read::More;
                break;
            }
            match protocol::split(&inbox, size_max) {
                Ok(Some((frame, size))) => {
                    room.inputs -= 1;
                    room.size = room.size.saturating_sub(size);
                    count += 1;
                    self.note_frame(machine, id, &frame);
                    self.watch_incoming(machine, id, &frame);
                    process
                        .role
                        .handle(now, Input::Frame { peer, frame }, &mut process.out);
                    drop(inbox.split_to(size));
                }
                Ok(None) => break,
                Err(error) => {
                    result = Read::Broken(error);
                    break;
                }
            }
        }
        self.after_read(id, inbox, count, result)
    }

    /// A line for every frame, if every line is wanted.
    fn note_frame(&mut self, machine: usize, id: EndId, frame: &protocol::Frame<'_>) {
        let from = self.network.end(id.other()).map_or(0, |end| end.machine);
        let (from, to) = (&self.machines[from].name, &self.machines[machine].name);
        let (kind, number) = (frame.header.kind.name(), frame.header.request);
        self.story.note(self.at, || {
            format!(
                "{from} to {to}: {kind} {number}, {} bytes",
                frame.body.len()
            )
        });
    }

    fn after_read(&mut self, id: EndId, inbox: BytesMut, count: u32, result: Read) -> Read {
        let frame_by = self.at + limits::FRAME_MS_MAX * MS;
        let end = self.network.end_mut(id).expect("it was just read");
        end.inbox = inbox;
        end.has_frames = matches!(result, Read::More);
        let is_partial = !end.inbox.is_empty();
        let result = match (result, &end.ended) {
            (Read::Rest, Some(Parcel::Fin)) if !is_partial => Read::Ended(CloseReason::Ended),
            (Read::Rest, Some(_)) => Read::Ended(CloseReason::Failed("reset".to_owned())),
            (result, _) => result,
        };
        if !is_partial || matches!(result, Read::More) {
            end.frame_by = None;
        } else if end.frame_by.is_none() || count != 0 {
            end.frame_by = Some(frame_by);
        }
        self.watch_end(id);
        self.pump(id.other());
        result
    }

    // ---- what a turn leaves behind ----

    fn carry_out(
        &mut self,
        machine: usize,
        process: &mut Process,
        touched: &mut Vec<EndId>,
    ) -> Option<(ExitCode, String)> {
        let mut sends: Vec<(PeerId, Bytes)> = Vec::new();
        process.out.drain_sends(|peer, pieces, tail| {
            for piece in pieces.drain(..) {
                sends.push(match piece {
                    Piece::Owned(bytes) => (peer, bytes.freeze()),
                    Piece::Shared(bytes) => (peer, bytes),
                });
            }
            sends.push((peer, Bytes::copy_from_slice(tail)));
        });
        for (peer, bytes) in sends {
            let Some(id) = process.peers.get(&peer).copied() else {
                continue;
            };
            self.watch_outgoing(machine, id, &bytes);
            if let Some(end) = self.network.end_mut(id)
                && end.is_open()
            {
                end.push(bytes, self.at);
                touched.push(id);
            }
        }
        touched.dedup();
        for id in touched.iter() {
            self.pump(*id);
            self.keep_bounds(*id, process);
        }
        while let Some(effect) = process.out.next_effect() {
            if let Some(exit) = self.effect(machine, process, effect) {
                return Some(exit);
            }
        }
        None
    }

    /// A client that does not take its answers is not listened to; one far beyond that is cut off.
    fn keep_bounds(&mut self, id: EndId, process: &mut Process) {
        let high = to_usize(u64::from(limits::CLIENT_QUEUE_SIZE_HIGH));
        let Some(end) = self.network.end_mut(id) else {
            return;
        };
        let (size, peer) = (end.queue_size, end.peer);
        if to_usize(u64::from(limits::LINK_QUEUE_SIZE_MAX)) < size {
            process.peers.remove(&peer);
            let reason = CloseReason::Broke(format!("left {size} bytes untaken"));
            process.notices.push_back(Input::Closed { peer, reason });
            self.send_reset(id);
        } else if end.link == Link::Client && high < size {
            end.hold_by_queue = true;
            end.frame_by = None;
        }
    }

    fn effect(
        &mut self,
        machine: usize,
        process: &mut Process,
        effect: Effect,
    ) -> Option<(ExitCode, String)> {
        match effect {
            Effect::Dial { dial, address } => self.dial(machine, dial, address),
            Effect::Established {
                peer,
                frame_size_max,
            } => self.with_end(process, peer, |end| {
                end.phase = Phase::Established;
                end.frame_size_max = frame_size_max;
                end.phase_by = None;
            }),
            Effect::Close { peer, reason } => {
                if !reason.is_empty() {
                    let name = &self.machines[machine].name;
                    let text = format!("{name} closes a connection: {reason}");
                    self.tell(&text);
                }
                if let Some(id) = process.peers.remove(&peer) {
                    self.close_end(id, None);
                    let reason = CloseReason::Asked;
                    process.notices.push_back(Input::Closed { peer, reason });
                }
            }
            Effect::Pause { peer } => self.with_end(process, peer, |end| {
                end.hold_by_role = true;
                end.frame_by = None;
            }),
            Effect::Resume { peer } => self.with_end(process, peer, |end| {
                end.hold_by_role = false;
            }),
            Effect::Disk(request) => self.disk_request(machine, process, request),
            Effect::Say { level, text } => self.said(machine, level, &text),
            Effect::Ready => {
                process.is_ready = true;
                let text = format!("{} is ready", self.machines[machine].name);
                self.tell(&text);
            }
            // The supervisor starts it anew, as a new incarnation.
            Effect::BeginAgain { text } => {
                self.counts.event("rejoin");
                return Some((ExitCode::Unhealthy, text));
            }
            Effect::Exit { code, text } => return Some((code, text)),
        }
        None
    }

    /// Changes an open end; whoever is held no more is read again.
    fn with_end(
        &mut self,
        process: &mut Process,
        peer: PeerId,
        change: impl FnOnce(&mut super::network::End),
    ) {
        let Some(id) = process.peers.get(&peer).copied() else {
            return;
        };
        let Some(end) = self.network.end_mut(id) else {
            return;
        };
        if !end.is_open() {
            return;
        }
        change(end);
        if !end.listed && end.wants_service() {
            end.listed = true;
            process.readable.push_back(id);
        }
    }

    fn said(&mut self, machine: usize, level: Level, text: &str) {
        let name = self.machines[machine].name.clone();
        let grade = match level {
            Level::Info => "",
            Level::Warn => " (warning)",
            Level::Alarm => " (ALARM)",
        };
        self.tell(&format!("{name} says{grade}: {text}"));
        let is_old = self.has_removed_log(machine, text);
        // A first start that does not get to its end leaves an identity without a log.
        let is_unbegun =
            text.contains("its log is gone") && self.watch.own_end(machine).seq == Seq(0);
        let is_explained = is_old || is_unbegun || self.faults.explains_alarm(text, self.is_healed);
        if level == Level::Alarm && !is_explained {
            self.blame(format!(
                "{name} raises an alarm that no fault explains: {text}"
            ));
        }
    }

    /// An end is over for its own process, which hears of it.
    pub(super) fn end_conn(&mut self, id: EndId, reason: CloseReason) {
        let Some(end) = self.network.end(id) else {
            return;
        };
        if !end.is_open() {
            return;
        }
        let (machine, peer) = (end.machine, end.peer);
        match &reason {
            CloseReason::Failed(text) => {
                self.fail(id, text);
                return;
            }
            CloseReason::Broke(text) => {
                let name = &self.machines[machine].name;
                let line = format!("{name} ends a connection that broke a rule: {text}");
                self.tell(&line);
                self.close_end(id, Some(text));
            }
            CloseReason::Ended | CloseReason::Asked => self.close_end(id, None),
        }
        if let Some(process) = self.machines[machine].process() {
            process.peers.remove(&peer);
            process.notices.push_back(Input::Closed { peer, reason });
        }
        self.wake(machine);
    }

    /// What is queued still leaves, with a refusal behind it if a rule was broken.
    pub(super) fn close_end(&mut self, id: EndId, broken: Option<&str>) {
        let flush_by = self.at + limits::WRITE_STALL_MS_MAX * MS;
        let Some(end) = self.network.end_mut(id) else {
            return;
        };
        if let Some(text) = broken {
            let mut frame = BytesMut::new();
            let code = RefusalCode::Malformed;
            Message::Refused(Refused {
                code,
                version_min: VERSION_MIN,
                version_max: VERSION_MAX,
                text,
            })
            .write(&mut frame);
            end.push(frame.freeze(), self.at);
        }
        end.phase = Phase::Flushing;
        end.inbox = BytesMut::new();
        end.unread_size = 0;
        end.has_frames = false;
        end.frame_by = None;
        end.phase_by = Some(flush_by);
        if matches!(end.ended, Some(Parcel::Reset)) {
            end.wither();
        }
        self.pump(id);
    }

    /// A deadline of an end has passed.
    pub(super) fn overdue(&mut self, id: EndId) {
        let at = self.at;
        let Some(end) = self.network.end(id) else {
            return;
        };
        let unheard = end
            .unheard_since
            .is_some_and(|since| since + super::network::UNHEARD_MAX <= at);
        let stalled = end.stall_by.is_some_and(|by| by <= at);
        match end.phase {
            Phase::Pending | Phase::Gone => (),
            Phase::Flushing => self.send_reset(id),
            Phase::Strange | Phase::Established if unheard || stalled => {
                self.fail(id, "bytes were left untaken");
            }
            Phase::Strange | Phase::Established => {
                let text = "too slow".to_owned();
                self.end_conn(id, CloseReason::Broke(text));
            }
        }
    }
}
