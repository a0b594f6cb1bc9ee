//! Lets users who wait for moved slots have the processors: checkpoints stand still meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::limits;

/// How long work stands still before it looks again whether another piece of an image came.
/// Between two pieces lies a turn of a busy node.
const STEP_MS: u64 = 50;

/// Pieces of images that were read or written for a node that takes in slots.
#[derive(Debug, Default)]
pub(super) struct Calm {
    piece_count: AtomicU64,
}

impl Calm {
    /// A piece of an image is read or written.
    pub(super) fn keep(&self) {
        self.piece_count.fetch_add(1, Ordering::Relaxed);
    }

    fn piece_count(&self) -> u64 {
        self.piece_count.load(Ordering::Relaxed)
    }
}

/// Work that may wait for images, but not for ever: a checkpoint gives the log's space back.
#[derive(Debug)]
pub(super) struct Patience<'a> {
    /// `None`: time is another's to tell.
    calm: Option<&'a Calm>,
    /// Pieces at the last look.
    seen: u64,
    left_ms: u64,
}

impl<'a> Patience<'a> {
    pub(super) fn new(calm: Option<&'a Calm>) -> Self {
        Self {
            calm,
            seen: calm.map_or(0, Calm::piece_count),
            left_ms: limits::MOVE_CALM_MS_MAX,
        }
    }

    /// Stands still if pieces came since the last look: until none comes any more, or the patience
    /// is at its end.
    pub(super) fn wait(&mut self) {
        self.wait_by(|| thread::park_timeout(Duration::from_millis(STEP_MS)));
    }

    fn wait_by(&mut self, mut step: impl FnMut()) {
        let Some(calm) = self.calm else {
            return;
        };
        loop {
            let count = calm.piece_count();
            if count == self.seen || self.left_ms == 0 {
                return;
            }
            self.seen = count;
            step();
            self.left_ms = self.left_ms.saturating_sub(STEP_MS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_waits_for_images_as_long_as_its_patience_lasts() {
        let calm = Calm::default();
        calm.keep();
        let mut patience = Patience::new(Some(&calm));
        patience.wait_by(|| panic!("no piece came since"));
        calm.keep();
        let mut steps = 0;
        patience.wait_by(|| {
            steps += 1;
            if steps < 3 {
                calm.keep();
            }
        });
        assert_eq!(steps, 3);
        patience.wait_by(|| panic!("no piece came since"));
        // Images that never end do not hold it for ever.
        calm.keep();
        patience.wait_by(|| {
            steps += 1;
            calm.keep();
        });
        assert_eq!(steps * STEP_MS, limits::MOVE_CALM_MS_MAX);
        patience.wait_by(|| panic!("its patience is at its end"));
    }

    #[test]
    fn where_time_is_simulated_nothing_waits() {
        Patience::new(None).wait_by(|| panic!("it waited"));
    }
}
