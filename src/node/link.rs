//! The connection to the backup: dialled, greeted, registered on, kept alive, dialled again.
//!
//! Knows when to try and whether the other side still talks. What the messages mean is decided
//! elsewhere; no safety depends on any of the times here.

use crate::clock::{Now, Tick};
use crate::limits;
use crate::model::{ClusterId, NodeId};
use crate::protocol::{Hello, Message, PeerRole, VERSION_MAX, VERSION_MIN};
use crate::role::{DialId, Effect, Level, Outbox, PeerId};

use super::options::NodeOptions;

/// How far the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not wanted yet: the local log is still being opened.
    Idle,
    /// Dialled again at this tick.
    Waiting(Tick),
    /// Asked for.
    Dialing(DialId),
    /// Hello is sent.
    Greeting(PeerId),
    /// Welcomed, and the registration is sent.
    Registering(PeerId),
    /// The backup is made again: it copies what lies here.
    Giving(PeerId),
    /// Granted; the identity under which that was is being saved. Appends wait.
    Saving(PeerId),
    /// In use.
    Up(PeerId),
}

/// The connection to the backup.
#[derive(Debug)]
pub(super) struct BackupLink {
    state: State,
    dial_count: u64,
    /// When the backup was last heard on the present connection.
    heard: Tick,
    beat_at: Tick,
    /// Round trips begun so far: beats and blocks are numbered together, in the order of sending.
    round_begun: u64,
    /// The highest round trip that came back.
    round_done: u64,
    /// The oldest and the newest beat that are on their way on the present connection.
    confirms: Option<(u64, u64)>,
    /// Since when registrations are answered by `in_use`.
    in_use_since: Option<Tick>,
    /// The last trouble that was said, so that the same one is said once.
    said: String,
}

impl BackupLink {
    pub(super) const fn new() -> Self {
        Self {
            state: State::Idle,
            dial_count: 0,
            heard: Tick(0),
            beat_at: Tick(0),
            round_begun: 0,
            round_done: 0,
            confirms: None,
            in_use_since: None,
            said: String::new(),
        }
    }

    /// The local log is open: the backup may be dialled from now on.
    pub(super) fn want(&mut self, now: Now) {
        assert_eq!(self.state, State::Idle);
        self.state = State::Waiting(now.tick);
    }

    /// The connection to write to, if registered and the identity is saved.
    pub(super) const fn up(&self) -> Option<PeerId> {
        match self.state {
            State::Up(peer) => Some(peer),
            State::Idle
            | State::Waiting(_)
            | State::Dialing(_)
            | State::Greeting(_)
            | State::Registering(_)
            | State::Giving(_)
            | State::Saving(_) => None,
        }
    }

    /// The connection of a backup that is made again, if this node gives it what it has.
    pub(super) const fn giving(&self) -> Option<PeerId> {
        match self.state {
            State::Giving(peer) => Some(peer),
            State::Idle
            | State::Waiting(_)
            | State::Dialing(_)
            | State::Greeting(_)
            | State::Registering(_)
            | State::Saving(_)
            | State::Up(_) => None,
        }
    }

    /// A backup that is made again answered the registration.
    pub(super) fn give(&mut self, peer: PeerId) {
        assert!(self.is_registering() || self.giving() == Some(peer));
        self.state = State::Giving(peer);
        self.in_use_since = None;
        self.said.clear();
    }

    /// Is this the present connection, however far it is?
    pub(super) fn is_peer(&self, peer: PeerId) -> bool {
        self.peer() == Some(peer)
    }

    const fn peer(&self) -> Option<PeerId> {
        match self.state {
            State::Greeting(peer)
            | State::Registering(peer)
            | State::Giving(peer)
            | State::Saving(peer)
            | State::Up(peer) => Some(peer),
            State::Idle | State::Waiting(_) | State::Dialing(_) => None,
        }
    }

    /// Is `dial` the one that is under way?
    pub(super) fn is_dial(&self, dial: DialId) -> bool {
        self.state == State::Dialing(dial)
    }

    /// Is a welcome expected?
    pub(super) const fn is_greeting(&self) -> bool {
        matches!(self.state, State::Greeting(_))
    }

    /// Is a grant expected?
    pub(super) const fn is_registering(&self) -> bool {
        matches!(self.state, State::Registering(_))
    }

    pub(super) fn opened(
        &mut self,
        peer: PeerId,
        now: Now,
        options: &NodeOptions,
        cluster: Option<ClusterId>,
        out: &mut Outbox,
    ) {
        self.state = State::Greeting(peer);
        self.heard = now.tick;
        out.send(peer, &Message::Hello(hello(options.id, options, cluster)));
    }

    /// The backup said something on the present connection.
    pub(super) const fn heard(&mut self, now: Now) {
        self.heard = now.tick;
    }

    pub(super) fn registered(&mut self, peer: PeerId) {
        assert!(self.is_greeting());
        self.state = State::Registering(peer);
    }

    pub(super) fn granted(&mut self, peer: PeerId, now: Now) {
        assert!(self.is_registering());
        self.state = State::Saving(peer);
        self.beat_at = now.tick;
        self.in_use_since = None;
        self.said.clear();
    }

    /// The identity is durable. The peer, if the connection that it was saved for still stands.
    pub(super) const fn saved(&mut self) -> Option<PeerId> {
        match self.state {
            State::Saving(peer) => {
                self.state = State::Up(peer);
                Some(peer)
            }
            State::Up(_)
            | State::Idle
            | State::Waiting(_)
            | State::Dialing(_)
            | State::Greeting(_)
            | State::Giving(_)
            | State::Registering(_) => None,
        }
    }

    /// The connection (or the attempt at one) is no more; the next attempt follows soon.
    pub(super) fn lost(&mut self, now: Now) {
        self.state = State::Waiting(now.tick.plus_ms(limits::REDIAL_MS));
        self.confirms = None;
    }

    /// Says `text` unless it is what was said last.
    pub(super) fn say_once(&mut self, level: Level, text: String, out: &mut Outbox) {
        if self.said != text {
            self.said.clone_from(&text);
            out.effect(Effect::Say { level, text });
        }
    }

    /// Has the id been in use for so long that this process gives up? Counts from the first time.
    pub(super) fn in_use_too_long(&mut self, now: Now) -> bool {
        let since = *self.in_use_since.get_or_insert(now.tick);
        limits::IN_USE_MS_MAX * 1_000_000 <= now.tick.since(since)
    }

    /// Dials when it is time to, and drops a connection that fell silent. True = it was dropped.
    pub(super) fn tick(&mut self, now: Now, options: &NodeOptions, out: &mut Outbox) -> bool {
        match self.state {
            State::Idle | State::Dialing(_) => false,
            State::Waiting(until) => {
                if until <= now.tick {
                    self.dial_count += 1;
                    let dial = DialId(self.dial_count);
                    self.state = State::Dialing(dial);
                    out.effect(Effect::Dial {
                        dial,
                        address: options.backup,
                    });
                }
                false
            }
            State::Greeting(peer)
            | State::Registering(peer)
            | State::Giving(peer)
            | State::Saving(peer)
            | State::Up(peer) => {
                if now.tick < self.silent_at() {
                    return false;
                }
                out.effect(Effect::Close {
                    peer,
                    reason: "the backup is silent".to_owned(),
                });
                self.lost(now);
                true
            }
        }
    }

    /// When the present connection counts as dead. Until the grant the backup may have to make
    /// durable what it accepted, so it gets as long as a handshake.
    const fn silent_at(&self) -> Tick {
        let ms = match self.state {
            State::Greeting(_) | State::Registering(_) => limits::HANDSHAKE_MS_MAX,
            State::Idle
            | State::Waiting(_)
            | State::Dialing(_)
            | State::Giving(_)
            | State::Saving(_)
            | State::Up(_) => limits::LINK_SILENCE_MS_MAX,
        };
        self.heard.plus_ms(ms)
    }

    pub(super) fn deadline(&self) -> Option<Tick> {
        match self.state {
            State::Idle | State::Dialing(_) => None,
            State::Waiting(until) => Some(until),
            State::Greeting(_) | State::Registering(_) | State::Giving(_) => Some(self.silent_at()),
            State::Saving(_) | State::Up(_) => Some(self.silent_at().min(self.beat_at)),
        }
    }

    // ---- round trips ----

    /// Is a regular beat due? The peer to send it to.
    pub(super) fn beat_due(&self, now: Now) -> Option<PeerId> {
        match self.state {
            State::Saving(peer) | State::Up(peer) if self.beat_at <= now.tick => Some(peer),
            State::Saving(_)
            | State::Up(_)
            | State::Idle
            | State::Waiting(_)
            | State::Dialing(_)
            | State::Greeting(_)
            | State::Giving(_)
            | State::Registering(_) => None,
        }
    }

    /// Begins a round trip with a block. Its number rises from call to call.
    pub(super) const fn begin_round(&mut self) -> u64 {
        self.round_begun += 1;
        self.round_begun
    }

    /// Begins a round trip with a beat; it is its nonce.
    pub(super) const fn begin_confirm(&mut self, now: Now) -> u64 {
        let round = self.begin_round();
        let oldest = match self.confirms {
            Some((oldest, _)) => oldest,
            None => round,
        };
        self.confirms = Some((oldest, round));
        self.beat_at = now.tick.plus_ms(limits::LINK_PING_MS);
        round
    }

    /// Is a beat on its way on the present connection?
    pub(super) const fn is_confirming(&self) -> bool {
        self.confirms.is_some()
    }

    /// The first round trip that begins after this moment.
    pub(super) const fn next_round(&self) -> u64 {
        self.round_begun + 1
    }

    pub(super) const fn round_done(&self) -> u64 {
        self.round_done
    }

    /// The answer to a beat. A nonce that is not on its way proves nothing. On a slow link the
    /// next beat leaves before the last one is answered, so each of them counts.
    pub(super) fn confirmed(&mut self, nonce: u64) {
        let Some((oldest, newest)) = self.confirms else {
            return;
        };
        if (oldest..=newest).contains(&nonce) {
            self.confirms = (nonce < newest).then_some((nonce + 1, newest));
            self.round_came_back(nonce);
        }
    }

    /// A round trip came back: all that began before it count as well.
    pub(super) fn round_came_back(&mut self, round: u64) {
        assert!(round <= self.round_begun);
        self.round_done = self.round_done.max(round);
    }
}

fn hello(node: NodeId, options: &NodeOptions, cluster: Option<ClusterId>) -> Hello {
    Hello {
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        role: PeerRole::Node,
        cluster,
        node: Some(node),
        incarnation: options.incarnation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Once, only the newest beat counted: on a link slower than their interval none ever did.
    #[test]
    fn every_beat_on_its_way_counts() {
        let now = Now::default();
        let mut link = BackupLink::new();
        let first = link.begin_confirm(now);
        link.begin_round();
        let second = link.begin_confirm(now);
        link.confirmed(first - 1);
        link.confirmed(second + 1);
        assert_eq!(link.round_done(), 0);
        link.confirmed(first);
        assert_eq!(link.round_done(), first);
        assert!(link.is_confirming());
        link.confirmed(first);
        link.confirmed(second);
        assert_eq!(link.round_done(), second);
        assert!(!link.is_confirming());
        // What was on its way on a lost connection proves nothing about the next one.
        let third = link.begin_confirm(now);
        link.lost(now);
        link.confirmed(third);
        assert_eq!(link.round_done(), second);
    }
}
