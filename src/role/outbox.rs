//! Where a role writes what leaves at the end of a turn.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::{Effect, PeerId};
use crate::limits::{OUTBOX_KEPT_COUNT_MAX, OUTBOX_KEPT_SIZE_MAX};
use crate::model::{Map, new_map};
use crate::protocol::Message;

/// Bytes for one peer, in the order in which they leave.
#[derive(Debug, Clone)]
pub enum Piece {
    /// Frames written one after the other.
    Owned(BytesMut),
    /// Bytes that are also needed elsewhere (a block that is sent and written to the disk).
    Shared(Bytes),
}

#[derive(Debug)]
struct Queue {
    peer: PeerId,
    pieces: VecDeque<Piece>,
    tail: BytesMut,
    /// The share of `Outbox::kept_size` that is this tail's.
    kept_size: usize,
}

/// Everything a turn has to say. Reused from turn to turn: buffers keep their memory.
///
/// Buffers do not belong to peers: the first peer of a turn gets the first buffer, and so on. So
/// memory follows how many peers are talked to in one turn, not how many are connected.
#[derive(Debug)]
pub struct Outbox {
    /// Where in `queues` a peer is, in this turn.
    places: Map<PeerId, usize>,
    /// Those of this turn in the order of their first send, then spare ones.
    queues: Vec<Queue>,
    /// Bytes of all tails as of the last turn in which each was used.
    kept_size: usize,
    effects: VecDeque<Effect>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            places: new_map(),
            queues: Vec::new(),
            kept_size: 0,
            effects: VecDeque::new(),
        }
    }
}

impl Outbox {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The buffer of what leaves next for `peer`: append whole frames.
    pub fn buffer(&mut self, peer: PeerId) -> &mut BytesMut {
        &mut self.queue(peer).tail
    }

    /// Appends one message as a frame without request number and epoch.
    pub fn send(&mut self, peer: PeerId, message: &Message<'_>) {
        message.write(self.buffer(peer));
    }

    /// Appends bytes without copying them. They follow what was written to `buffer` so far.
    pub fn share(&mut self, peer: PeerId, bytes: Bytes) {
        let queue = self.queue(peer);
        if !queue.tail.is_empty() {
            let head = queue.tail.split();
            queue.pieces.push_back(Piece::Owned(head));
        }
        queue.pieces.push_back(Piece::Shared(bytes));
    }

    /// Appends something to be done.
    pub fn effect(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    /// The oldest effect that was not taken yet. Effects are carried out after the sends.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Hands over, peer by peer in the order of their first send, everything that is to leave:
    /// the pieces, then the tail. What `take` leaves in them is dropped; a tail that is not taken
    /// away keeps its memory for the next turn.
    pub fn drain_sends(
        &mut self,
        mut take: impl FnMut(PeerId, &mut VecDeque<Piece>, &mut BytesMut),
    ) {
        let used = self.places.len();
        self.places.clear();
        for queue in &mut self.queues[..used] {
            take(queue.peer, &mut queue.pieces, &mut queue.tail);
            queue.pieces.clear();
            queue.tail.clear();
            let others_size = self.kept_size - queue.kept_size;
            if OUTBOX_KEPT_SIZE_MAX < others_size + queue.tail.capacity() {
                queue.tail = BytesMut::new();
            }
            queue.kept_size = queue.tail.capacity();
            self.kept_size = others_size + queue.kept_size;
        }
        while OUTBOX_KEPT_COUNT_MAX < self.queues.len() {
            let spare = self.queues.pop();
            self.kept_size -= spare.map_or(0, |queue| queue.kept_size);
        }
    }

    /// Drops what was to leave for a peer that is gone.
    pub fn forget(&mut self, peer: PeerId) {
        if let Some(index) = self.places.get(&peer) {
            let queue = &mut self.queues[*index];
            queue.pieces.clear();
            queue.tail.clear();
        }
    }

    fn queue(&mut self, peer: PeerId) -> &mut Queue {
        let next = self.places.len();
        let index = *self.places.entry(peer).or_insert(next);
        if index == self.queues.len() {
            self.queues.push(Queue {
                peer,
                pieces: VecDeque::new(),
                tail: BytesMut::new(),
                kept_size: 0,
            });
        }
        let queue = &mut self.queues[index];
        queue.peer = peer;
        queue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(out: &mut Outbox) -> Vec<(u64, Vec<u8>)> {
        let mut all = Vec::new();
        out.drain_sends(|peer, pieces, tail| {
            let mut bytes = Vec::new();
            for piece in pieces.iter() {
                match piece {
                    Piece::Owned(owned) => bytes.extend_from_slice(owned),
                    Piece::Shared(shared) => bytes.extend_from_slice(shared),
                }
            }
            bytes.extend_from_slice(tail);
            all.push((peer.0, bytes));
        });
        all
    }

    #[test]
    fn keeps_order_within_and_between_peers() {
        let mut out = Outbox::new();
        out.buffer(PeerId(7)).extend_from_slice(b"a");
        out.buffer(PeerId(3)).extend_from_slice(b"x");
        out.share(PeerId(7), Bytes::from_static(b"bc"));
        out.share(PeerId(7), Bytes::from_static(b"d"));
        out.buffer(PeerId(7)).extend_from_slice(b"e");
        assert_eq!(
            drained(&mut out),
            [(7, b"abcde".to_vec()), (3, b"x".to_vec())]
        );
        assert_eq!(drained(&mut out), []);
        out.buffer(PeerId(9)).extend_from_slice(b"z");
        assert_eq!(drained(&mut out), [(9, b"z".to_vec())]);
    }

    #[test]
    fn a_forgotten_peer_gets_nothing_and_costs_no_memory() {
        let mut out = Outbox::new();
        for peer in 0..100_000 {
            out.buffer(PeerId(peer)).extend_from_slice(&[1; 100]);
            out.share(PeerId(peer), Bytes::from_static(b"s"));
            out.forget(PeerId(peer));
            let sends = drained(&mut out);
            assert_eq!(sends, [(peer, Vec::new())]);
        }
        assert_eq!(out.queues.len(), 1);
    }

    #[test]
    fn memory_is_kept_within_its_bound() {
        let mut out = Outbox::new();
        for peer in 0..100 {
            out.buffer(PeerId(peer)).resize(1 << 20, 0);
        }
        assert_eq!(drained(&mut out).len(), 100);
        let kept: usize = out.queues.iter().map(|queue| queue.tail.capacity()).sum();
        assert_eq!(kept, out.kept_size);
        assert!(kept <= OUTBOX_KEPT_SIZE_MAX, "{kept}");
        assert!(OUTBOX_KEPT_SIZE_MAX < 2 * kept, "{kept}");
    }
}
