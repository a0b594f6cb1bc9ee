//! How long a node lets small requests gather before it begins its next block.
//!
//! A block costs two syncs, a frame to the backup and its answer, however little it carries. If
//! something came while the last block was on its way, more than one client is at work: the node
//! then lets requests gather for as long as that block took. Where the machine has time to spare
//! that is short; where it has not, blocks take long, become fewer and larger, and take less.

use crate::clock::Tick;
use crate::limits;

/// When the next block may begin while none is on its way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gather {
    /// When the last block began.
    begun: Tick,
    /// Not before this; `None` = at once.
    until: Option<Tick>,
}

impl Gather {
    /// A block is on its way.
    pub(super) const fn begun(&mut self, now: Tick) {
        self.begun = now;
        self.until = None;
    }

    /// The last block on its way is committed. So many operations wait already.
    pub(super) fn committed(&mut self, now: Tick, waiting_count: u32) {
        let took_ns = now.since(self.begun).min(limits::GATHER_NS_MAX);
        let until = Tick(now.0.saturating_add(took_ns));
        self.until = (waiting_count != 0).then_some(until);
    }

    pub(super) const fn until(&self) -> Option<Tick> {
        self.until
    }

    pub(super) fn is_over(&self, now: Tick) -> bool {
        self.until.is_none_or(|until| until <= now)
    }
}
