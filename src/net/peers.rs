//! Connections by their number. Numbers are never used again, so a late event, effect or send
//! finds nothing instead of somebody else.

use mio::Token;

use crate::model::{to_u64, to_usize};
use crate::role::PeerId;

use super::connection::Connection;

/// Tokens from here on belong to listeners and the loop itself.
const GENERATION_END: u32 = u32::MAX;

#[derive(Debug)]
struct Slot {
    generation: u32,
    connection: Option<Box<Connection>>,
}

/// See the module. A number is a slot (low half) and how often it was used (high half).
#[derive(Debug, Default)]
pub(super) struct Peers {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Peers {
    /// The number that [`Self::insert`] gives to the next connection.
    pub(super) fn next_id(&self) -> PeerId {
        match self.free.last() {
            Some(slot) => id(*slot, self.slots[to_usize(u64::from(*slot))].generation),
            None => id(self.slot_count(), 0),
        }
    }

    /// Adds a connection.
    pub(super) fn insert(&mut self, connection: Connection) -> PeerId {
        let peer = self.next_id();
        let connection = Some(Box::new(connection));
        if self.free.pop().is_some() {
            self.slots[index(peer)].connection = connection;
        } else {
            self.slots.push(Slot {
                generation: 0,
                connection,
            });
        }
        peer
    }

    /// The connection, if it is still there.
    pub(super) fn get_mut(&mut self, peer: PeerId) -> Option<&mut Connection> {
        let slot = self.slots.get_mut(index(peer))?;
        if slot.generation != generation(peer) {
            return None;
        }
        slot.connection.as_deref_mut()
    }

    /// Takes the connection out. Its number is never given again.
    pub(super) fn remove(&mut self, peer: PeerId) -> Option<Box<Connection>> {
        let slot = self.slots.get_mut(index(peer))?;
        if slot.generation != generation(peer) {
            return None;
        }
        let connection = slot.connection.take()?;
        slot.generation += 1;
        if slot.generation < GENERATION_END {
            let [low, _] = halves(peer);
            self.free.push(low);
        }
        Some(connection)
    }

    /// All connections, by slot.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PeerId, &Connection)> {
        (0..).zip(&self.slots).filter_map(|(low, slot)| {
            let connection = slot.connection.as_deref()?;
            Some((id(low, slot.generation), connection))
        })
    }

    fn slot_count(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("connections are bounded far below")
    }
}

/// The token that a connection's events carry.
pub(super) const fn token(peer: PeerId) -> Token {
    Token(to_usize(peer.0))
}

/// The connection whose events carry this token.
pub(super) const fn peer_of(token: Token) -> PeerId {
    PeerId(to_u64(token.0))
}

const fn id(slot: u32, generation: u32) -> PeerId {
    PeerId(slot as u64 | ((generation as u64) << 32))
}

fn halves(peer: PeerId) -> [u32; 2] {
    let half = |value: u64| u32::try_from(value).expect("half of the bits");
    [half(peer.0 & u64::from(u32::MAX)), half(peer.0 >> 32)]
}

fn index(peer: PeerId) -> usize {
    let [low, _] = halves(peer);
    to_usize(u64::from(low))
}

fn generation(peer: PeerId) -> u32 {
    let [_, high] = halves(peer);
    high
}
