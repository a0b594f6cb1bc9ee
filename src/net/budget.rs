//! The bytes that all clients of a loop together may make it keep: beginnings of frames, and
//! answers that nobody took.
//!
//! Bounds per connection are not enough, since there may be thousands. Above the budget no client
//! begins another frame; what has begun goes on, so that it can end. Above twice the budget whoever
//! needs more is sent away, and what it held is free for the others.

use crate::role::PeerId;

/// See the module.
#[derive(Debug)]
pub(super) struct Budget {
    size: usize,
    size_max: usize,
    is_full: bool,
    /// Clients that would begin a frame.
    held: Vec<PeerId>,
}

/// What a change of the size means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Fine,
    /// Twice the budget is used up.
    TooMuch,
}

impl Budget {
    pub(super) const fn new(size_max: usize) -> Self {
        Self {
            size: 0,
            size_max,
            is_full: false,
            held: Vec::new(),
        }
    }

    /// May a client begin a frame?
    pub(super) const fn is_full(&self) -> bool {
        self.is_full
    }

    /// A client waits until there is room again.
    pub(super) fn hold(&mut self, peer: PeerId) {
        self.held.push(peer);
    }

    /// A client holds `now` bytes where it held `before`.
    pub(super) const fn change(&mut self, before: usize, now: usize) -> Verdict {
        self.size = self.size - before + now;
        if self.size_max < self.size {
            self.is_full = true;
        } else if self.size <= self.size_max / 4 * 3 {
            self.is_full = false;
        }
        if 2 * self.size_max < self.size && before < now {
            Verdict::TooMuch
        } else {
            Verdict::Fine
        }
    }

    /// Is there room for somebody who waits?
    pub(super) const fn has_freed(&self) -> bool {
        !self.is_full && !self.held.is_empty()
    }

    /// Those that waited, once there is room again.
    pub(super) fn freed(&mut self) -> Vec<PeerId> {
        if self.has_freed() {
            std::mem::take(&mut self.held)
        } else {
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_until_a_quarter_is_free_and_too_much_for_who_grows() {
        let mut budget = Budget::new(100);
        assert_eq!(budget.change(0, 100), Verdict::Fine);
        assert!(!budget.is_full());
        assert_eq!(budget.change(100, 150), Verdict::Fine);
        assert!(budget.is_full());
        budget.hold(PeerId(7));
        assert!(budget.freed().is_empty());
        assert_eq!(budget.change(0, 60), Verdict::TooMuch);
        // Who gives something back is not the one to send away.
        assert_eq!(budget.change(150, 149), Verdict::Fine);
        assert_eq!(budget.change(149, 16), Verdict::Fine);
        assert!(budget.is_full(), "76 of 100");
        assert_eq!(budget.change(16, 15), Verdict::Fine);
        assert!(!budget.is_full());
        assert_eq!(budget.freed(), [PeerId(7)]);
        assert!(budget.freed().is_empty());
    }
}
