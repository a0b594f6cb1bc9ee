//! Deadlines of connections, without a walk over all of them.
//!
//! A heap with lazy deletion: each connection has at most one live entry, at or before its real
//! deadline. Deadlines that come and go with every frame cost nothing; the entry is looked at when
//! it passes, and moved to where the real deadline is by then.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::clock::Tick;
use crate::role::PeerId;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Tick, PeerId)>>,
}

impl Timers {
    /// Makes sure that `peer` is looked at by `deadline`. `scheduled` is its live entry.
    pub(super) fn arm(&mut self, peer: PeerId, deadline: Tick, scheduled: &mut Option<Tick>) {
        if scheduled.is_none_or(|at| deadline < at) {
            *scheduled = Some(deadline);
            self.heap.push(Reverse((deadline, peer)));
        }
    }

    /// The next entry that has passed. It is dead unless it is what its peer has scheduled.
    pub(super) fn pop(&mut self, now: Tick) -> Option<(Tick, PeerId)> {
        let Reverse(first) = *self.heap.peek()?;
        if now < first.0 {
            return None;
        }
        self.heap.pop();
        Some(first)
    }

    /// When to look again.
    pub(super) fn next(&self) -> Option<Tick> {
        self.heap.peek().map(|Reverse((tick, _))| *tick)
    }
}
