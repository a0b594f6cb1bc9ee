//! Where a role writes what leaves at the end of a turn.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::{Effect, PeerId};
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

#[derive(Debug, Default)]
struct Queue {
    shared: VecDeque<Piece>,
    tail: BytesMut,
    listed: bool,
}

/// Everything a turn has to say. Reused from turn to turn: buffers keep their memory.
#[derive(Debug)]
pub struct Outbox {
    queues: Map<PeerId, Queue>,
    touched: Vec<PeerId>,
    effects: VecDeque<Effect>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            queues: new_map(),
            touched: Vec::new(),
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
            queue.shared.push_back(Piece::Owned(head));
        }
        queue.shared.push_back(Piece::Shared(bytes));
    }

    /// Appends something to be done.
    pub fn effect(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    /// The oldest effect that was not taken yet. Effects are carried out after the sends.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Hands over, peer by peer in the order of their first send, everything that is to leave.
    /// `take` appends the tail's bytes and leaves the buffer empty (it keeps its memory).
    pub fn drain_sends(
        &mut self,
        mut take: impl FnMut(PeerId, &mut VecDeque<Piece>, &mut BytesMut),
    ) {
        for peer in self.touched.drain(..) {
            if let Some(queue) = self.queues.get_mut(&peer) {
                queue.listed = false;
                take(peer, &mut queue.shared, &mut queue.tail);
                queue.shared.clear();
                queue.tail.clear();
            }
        }
    }

    /// Forgets the buffers of a peer that is gone.
    pub fn forget(&mut self, peer: PeerId) {
        self.queues.remove(&peer);
        self.touched.retain(|touched| *touched != peer);
    }

    fn queue(&mut self, peer: PeerId) -> &mut Queue {
        let queue = self.queues.entry(peer).or_default();
        if !queue.listed {
            queue.listed = true;
            self.touched.push(peer);
        }
        queue
    }
}
