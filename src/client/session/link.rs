//! The connection of a session: which address is next, handshake, pauses, signs of life.
//!
//! One connection at a time. When it is lost the next address is tried; a round of addresses
//! without success is followed by a pause that grows. Knows nothing of operations.

use bytes::{Buf, BytesMut};

use crate::client::ClientError;
use crate::clock::{Now, Tick};
use crate::limits::{
    BATCH_COUNT_MAX, CLIENT_GOAWAY_MS_MAX, CLIENT_PONG_MS_MAX, CLIENT_SILENCE_MS, DEADLINE_MS_MAX,
    FRAME_SIZE_MAX, HANDSHAKE_MS_MAX, HELLO_FRAME_SIZE_MAX, REDIAL_MS,
};
use crate::model::{ClusterId, Incarnation, OPERATION_SIZE, Random, to_u64, to_usize};
use crate::protocol::{
    HEADER_SIZE, Hello, Message, PeerRole, RefusalCode, Refused, VERSION_MAX, VERSION_MIN, Welcome,
};

/// Longest pause between two rounds of addresses, in milliseconds: a front that is back is found
/// within a fraction of a deadline.
const REDIAL_MS_MAX: u64 = 1_000;

/// Bytes of a request frame besides its operations.
const REQUEST_HEAD_SIZE: usize = HEADER_SIZE + 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// None, and none asked for yet.
    Down,
    /// None; the next one is asked for later.
    Pausing { until: Tick },
    /// Asked for.
    Dialing,
    /// There; the welcome is awaited.
    Greeting { since: Tick },
    /// There.
    Ready,
}

/// What the welcome allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowed {
    /// Operations of one frame.
    pub(super) batch_count: usize,
    /// Frames in flight.
    pub(super) frame_count: usize,
    /// Milliseconds of a deadline.
    pub(super) deadline_ms: u32,
}

#[derive(Debug)]
pub(super) struct Link {
    address_count: usize,
    address: usize,
    phase: Phase,
    /// Dials and connections that failed since the last answer to a request, or since a connection
    /// that stood for longer than the longest pause.
    failure_count: usize,
    /// When the last handshake was done.
    ready_since: Tick,
    fault: Option<ClientError>,
    /// What the driver is to do.
    must_dial: bool,
    must_close: bool,
    cluster: Option<ClusterId>,
    incarnation: Incarnation,
    frame_count_max: usize,
    allowed: Allowed,
    /// What is to be sent.
    pub(super) out: BytesMut,
    sent_size: u64,
    /// Since when nothing was heard that should have been.
    quiet_since: Tick,
    pinged_at: Option<Tick>,
    leave_at: Option<Tick>,
}

impl Link {
    pub(super) fn new(
        address_count: usize,
        cluster: Option<ClusterId>,
        incarnation: Incarnation,
        frame_count_max: usize,
        random: &mut Random,
    ) -> Self {
        assert!(0 < address_count && 0 < frame_count_max);
        Self {
            address_count,
            // A random first address: many clients spread over all fronts.
            address: to_usize(random.below(to_u64(address_count))),
            phase: Phase::Down,
            failure_count: 0,
            ready_since: Tick(0),
            fault: None,
            must_dial: false,
            must_close: false,
            cluster,
            incarnation,
            frame_count_max,
            allowed: Allowed {
                batch_count: 1,
                frame_count: 1,
                deadline_ms: 1,
            },
            out: BytesMut::new(),
            sent_size: 0,
            quiet_since: Tick(0),
            pinged_at: None,
            leave_at: None,
        }
    }

    pub(super) const fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    pub(super) const fn fault(&self) -> Option<&ClientError> {
        self.fault.as_ref()
    }

    pub(super) const fn failure_count(&self) -> usize {
        self.failure_count
    }

    /// Is the handshake done?
    pub(super) fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Is there a connection, with or without handshake?
    pub(super) const fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Greeting { .. } | Phase::Ready)
    }

    /// May new requests be sent?
    pub(super) fn is_open(&self) -> bool {
        self.is_ready() && self.leave_at.is_none()
    }

    pub(super) const fn allowed(&self) -> Allowed {
        self.allowed
    }

    /// Bytes of this connection that are sent or queued.
    pub(super) fn queued_size(&self) -> u64 {
        self.sent_size + to_u64(self.out.len())
    }

    pub(super) const fn sent_size(&self) -> u64 {
        self.sent_size
    }

    /// Bytes of a frame that may come.
    pub(super) fn frame_size_max(&self) -> u32 {
        if self.is_ready() {
            FRAME_SIZE_MAX
        } else {
            HELLO_FRAME_SIZE_MAX
        }
    }

    pub(super) fn take_close(&mut self) -> bool {
        std::mem::take(&mut self.must_close)
    }

    /// The address to connect to, if that is to be done.
    pub(super) fn take_dial(&mut self) -> Option<usize> {
        std::mem::take(&mut self.must_dial).then_some(self.address)
    }

    /// Asks for a connection if there is none and no pause.
    pub(super) fn want(&mut self) {
        if self.phase == Phase::Down {
            self.phase = Phase::Dialing;
            self.must_dial = true;
        }
    }

    pub(super) fn connected(&mut self, now: Tick) {
        assert!(self.phase == Phase::Dialing && self.out.is_empty());
        self.phase = Phase::Greeting { since: now };
        self.sent_size = 0;
        let hello = Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            role: PeerRole::Client,
            cluster: self.cluster,
            node: None,
            incarnation: self.incarnation,
        };
        Message::Hello(hello).write(&mut self.out);
    }

    /// Takes the welcome; returns how many milliseconds it was on its way, about.
    pub(super) fn welcome(&mut self, now: Tick, welcome: &Welcome) -> Result<u64, ClientError> {
        let Phase::Greeting { since } = self.phase else {
            return Err(ClientError::protocol("a second welcome"));
        };
        if welcome.version < VERSION_MIN || VERSION_MAX < welcome.version {
            return Err(ClientError::VersionUnsupported {
                version_min: welcome.version,
                version_max: welcome.version,
            });
        }
        if welcome.role != PeerRole::Front {
            return Err(ClientError::protocol("the other side is no front"));
        }
        // Ids are known to one cluster only: what was sent to one must never be sent to another.
        let cluster = *self.cluster.get_or_insert(welcome.cluster);
        if cluster != welcome.cluster {
            return Err(ClientError::wrong_cluster(cluster, welcome.cluster));
        }
        let frame_size = to_usize(u64::from(welcome.frame_size_max.min(FRAME_SIZE_MAX)));
        let frame_room = frame_size.saturating_sub(REQUEST_HEAD_SIZE);
        let batch_count = to_usize(u64::from(welcome.batch_count_max.min(BATCH_COUNT_MAX)));
        let frame_count = to_usize(u64::from(welcome.frames_in_flight_max));
        self.allowed = Allowed {
            batch_count: batch_count.min(frame_room.div_euclid(OPERATION_SIZE)),
            frame_count: frame_count.min(self.frame_count_max),
            deadline_ms: welcome.deadline_ms_max.min(DEADLINE_MS_MAX),
        };
        let Allowed {
            batch_count,
            frame_count,
            deadline_ms,
        } = self.allowed;
        if batch_count == 0 || frame_count == 0 || deadline_ms == 0 {
            return Err(ClientError::protocol("a welcome that allows nothing"));
        }
        self.phase = Phase::Ready;
        self.ready_since = now;
        self.quiet_since = now;
        Ok(half_ms(since, now))
    }

    /// What a refusal by the front means.
    pub(super) fn refused(&self, refused: &Refused<'_>) -> ClientError {
        let text = refused.text.to_owned();
        if refused.code == RefusalCode::Version {
            return ClientError::VersionUnsupported {
                version_min: refused.version_min,
                version_max: refused.version_max,
            };
        }
        if refused.code == RefusalCode::WrongCluster {
            let wanted = self.cluster.map(|cluster| format!("wanted {cluster}; "));
            let wanted = wanted.unwrap_or_default();
            return ClientError::WrongCluster {
                text: format!("{wanted}the front says: {text}"),
            };
        }
        ClientError::ConnectionRefused {
            code: refused.code,
            text,
        }
    }

    /// Something came.
    pub(super) const fn heard(&mut self, now: Tick) {
        self.quiet_since = now;
    }

    /// A request is sent while no other one is under way: silence counts from here.
    pub(super) const fn waits(&mut self, now: Tick) {
        self.quiet_since = now;
    }

    /// A request was answered: this address works.
    pub(super) const fn works(&mut self) {
        self.failure_count = 0;
    }

    /// The sign of life came. Returns how many milliseconds it was on its way, about; `None` if
    /// nobody asked for it.
    pub(super) fn pong(&mut self, now: Tick) -> Option<u64> {
        let since = self.pinged_at.take()?;
        Some(half_ms(since, now))
    }

    /// The front takes no new requests.
    pub(super) fn goaway(&mut self, now: Tick) {
        self.leave_at
            .get_or_insert_with(|| now.plus_ms(CLIENT_GOAWAY_MS_MAX));
    }

    pub(super) fn ping(&mut self, now: Tick) {
        if self.is_ready() && self.pinged_at.is_none() {
            self.pinged_at = Some(now);
            Message::Ping.write(&mut self.out);
        }
    }

    pub(super) fn pong_for(&mut self, now: Now, request: u64) {
        let time_ms = now.wall_ms;
        Message::Pong { time_ms }.write_for(&mut self.out, request);
    }

    pub(super) fn sent(&mut self, size: usize) {
        self.out.advance(size);
        self.sent_size += to_u64(size);
    }

    /// The connection is gone, or could not be made.
    pub(super) fn down(&mut self, now: Tick, fault: Option<ClientError>, random: &mut Random) {
        self.fault = fault.or(self.fault.take());
        // One that stood for so long cannot make a storm of dials: what failed before it is past,
        // and an idle session whose front is gone finds the next one without a pause.
        if self.is_ready() && self.ready_since.plus_ms(REDIAL_MS_MAX) <= now {
            self.failure_count = 0;
        }
        self.failure_count = self.failure_count.saturating_add(1);
        self.address = (self.address + 1) % self.address_count;
        self.out.clear();
        self.must_dial = false;
        self.pinged_at = None;
        self.leave_at = None;
        let round = self.failure_count.div_euclid(self.address_count);
        self.phase = if round == 0 {
            Phase::Down
        } else {
            let pause_ms = (REDIAL_MS << (round - 1).min(8)).min(REDIAL_MS_MAX);
            let half_ns = pause_ms * 500_000;
            Phase::Pausing {
                until: Tick(now.0.saturating_add(half_ns + random.below(half_ns + 1))),
            }
        };
    }

    /// This side ends the connection.
    pub(super) const fn close(&mut self) {
        self.must_close = self.is_up();
    }

    /// Ends pauses, asks for signs of life, and says when the connection is to be given up.
    pub(super) fn tick(&mut self, now: Tick, frame_count: usize) -> Result<(), Leave> {
        let is_awaiting = 0 < frame_count;
        match self.phase {
            Phase::Down | Phase::Dialing => (),
            Phase::Pausing { until } => {
                if until <= now {
                    self.phase = Phase::Down;
                }
            }
            Phase::Greeting { since } => {
                if since.plus_ms(HANDSHAKE_MS_MAX) <= now {
                    return Err(Leave::Silent);
                }
            }
            Phase::Ready => {
                let pong_until = self.pinged_at.map(|at| at.plus_ms(CLIENT_PONG_MS_MAX));
                if pong_until.is_some_and(|until| until <= now) {
                    return Err(Leave::Silent);
                }
                if self.leave_at.is_some_and(|at| at <= now || !is_awaiting) {
                    return Err(Leave::Asked);
                }
                if is_awaiting && self.quiet_since.plus_ms(CLIENT_SILENCE_MS) <= now {
                    self.ping(now);
                }
            }
        }
        Ok(())
    }

    /// When `tick` has something to do if nothing else happens.
    pub(super) fn deadline(&self, frame_count: usize) -> Option<Tick> {
        let is_awaiting = 0 < frame_count;
        match self.phase {
            Phase::Down | Phase::Dialing => None,
            Phase::Pausing { until } => Some(until),
            Phase::Greeting { since } => Some(since.plus_ms(HANDSHAKE_MS_MAX)),
            Phase::Ready => {
                let pong_until = self.pinged_at.map(|at| at.plus_ms(CLIENT_PONG_MS_MAX));
                let ping_at = (is_awaiting && pong_until.is_none())
                    .then(|| self.quiet_since.plus_ms(CLIENT_SILENCE_MS));
                [ping_at, pong_until, self.leave_at]
                    .into_iter()
                    .flatten()
                    .min()
            }
        }
    }
}

/// Half of the time from asking to answer, in milliseconds rounded down.
fn half_ms(since: Tick, now: Tick) -> u64 {
    now.since(since).div_euclid(2_000_000)
}

/// Why a connection is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// The front did not speak when it should have.
    Silent,
    /// The front asked for it.
    Asked,
}
