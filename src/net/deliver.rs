//! Hands bytes over to the role, frame by frame, within what one turn takes.

use crate::clock::{Now, Tick};
use crate::limits;
use crate::protocol::{self, FrameError};
use crate::role::{Input, Outbox, PeerId, Role};

/// The first half of a turn: inputs go to the role until there is no room for more.
pub(super) struct Turn<'a> {
    role: &'a mut dyn Role,
    out: &'a mut Outbox,
    now: Now,
    inputs_left: u32,
    size_left: usize,
}

/// How far a run of bytes got.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Delivered {
    /// Bytes of the frames that were handed over.
    pub(super) size: usize,
    /// Frames that were handed over.
    pub(super) count: u32,
    /// Why it ended.
    pub(super) end: End,
}

/// Why no more frames were handed over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// What is left, if anything, is the beginning of a frame.
    Partial,
    /// The turn or this peer's share of it is full; there may be more frames.
    Full,
    /// What is left is no frame.
    Broken(FrameError),
}

impl<'a> Turn<'a> {
    pub(super) fn new(role: &'a mut dyn Role, out: &'a mut Outbox, now: Now) -> Self {
        Self {
            role,
            out,
            now,
            inputs_left: limits::INPUTS_PER_TURN_MAX,
            size_left: limits::TURN_FRAME_SIZE_MAX,
        }
    }

    /// When the turn began.
    pub(super) const fn now(&self) -> Now {
        self.now
    }

    /// Whether the turn takes nothing more.
    pub(super) const fn is_full(&self) -> bool {
        self.inputs_left == 0 || self.size_left == 0
    }

    /// When the role wants to hear that time has passed.
    pub(super) fn deadline(&self) -> Option<Tick> {
        self.role.deadline()
    }

    /// Hands one input to the role. Only the passing of time may come on top of a full turn.
    pub(super) fn give(&mut self, input: Input<'_>) {
        self.inputs_left = self.inputs_left.saturating_sub(1);
        self.role.handle(self.now, input, self.out);
    }

    /// Hands over whole frames from the start of `bytes`, at most `count_max`.
    pub(super) fn deliver(
        &mut self,
        peer: PeerId,
        bytes: &[u8],
        size_max: u32,
        count_max: u32,
    ) -> Delivered {
        let mut done = Delivered {
            size: 0,
            count: 0,
            end: End::Partial,
        };
        while done.size < bytes.len() {
            if self.is_full() || done.count == count_max {
                done.end = End::Full;
                break;
            }
            match protocol::split(&bytes[done.size..], size_max) {
                Ok(Some((frame, size))) => {
                    self.size_left = self.size_left.saturating_sub(size);
                    self.give(Input::Frame { peer, frame });
                    done.size += size;
                    done.count += 1;
                }
                Ok(None) => break,
                Err(error) => {
                    done.end = End::Broken(error);
                    break;
                }
            }
        }
        done
    }
}
