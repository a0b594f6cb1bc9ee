//! The frames that were sent on the present connection and are not wholly answered yet.
//!
//! Knows which operation each index of a frame stands for. Knows nothing of the operations.

use std::collections::VecDeque;

use super::questions::Question;
use super::work::Item;
use crate::clock::Tick;
use crate::model::{to_u64, to_usize};

/// What a frame asked for.
#[derive(Debug)]
pub(super) enum Asked {
    /// A request: what each index stands for; `None` once it is answered.
    Operations(Vec<Option<Item>>),
    /// A question about the cluster.
    Question(Question),
}

/// One frame under way.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) asked: Asked,
    /// Answers that are still to come.
    pub(super) unanswered: usize,
    /// When the answers are wanted at the latest.
    pub(super) deadline: Tick,
    /// Bytes of the connection up to its end.
    pub(super) end: u64,
}

/// All frames under way, by their request numbers.
#[derive(Debug)]
pub(super) struct Frames {
    /// Request number of the head of `queue`.
    first: u64,
    /// `None` where a frame was answered before an older one.
    queue: VecDeque<Option<Frame>>,
    count: usize,
    /// Emptied lists, for use again.
    spare: Vec<Vec<Option<Item>>>,
}

impl Frames {
    pub(super) const fn new() -> Self {
        Self {
            first: 1,
            queue: VecDeque::new(),
            count: 0,
            spare: Vec::new(),
        }
    }

    /// Frames under way.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// The number that the next frame gets. Never one that was used before.
    pub(super) fn request_next(&self) -> u64 {
        self.first + to_u64(self.queue.len())
    }

    /// An empty list for the operations of a frame.
    pub(super) fn list(&mut self) -> Vec<Option<Item>> {
        self.spare.pop().unwrap_or_default()
    }

    /// A frame was written under the number `request_next`.
    pub(super) fn push(&mut self, frame: Frame) {
        assert!(0 < frame.unanswered);
        self.queue.push_back(Some(frame));
        self.count += 1;
    }

    /// The frame with this number, if it is under way.
    pub(super) fn find(&mut self, request: u64) -> Option<&mut Frame> {
        let index = to_usize(request.checked_sub(self.first)?);
        self.queue.get_mut(index)?.as_mut()
    }

    /// The oldest frame under way.
    pub(super) fn oldest(&self) -> Option<&Frame> {
        self.queue.front().and_then(Option::as_ref)
    }

    /// Drops the frame if nothing of it is to come any more.
    pub(super) fn settle(&mut self, request: u64) {
        let index = to_usize(request - self.first);
        let slot = self.queue.get_mut(index);
        let Some(frame) = slot.and_then(|slot| slot.take_if(|frame| frame.unanswered == 0)) else {
            return;
        };
        self.count -= 1;
        if let Asked::Operations(list) = frame.asked {
            self.keep(list);
        }
        while let Some(None) = self.queue.front() {
            self.queue.pop_front();
            self.first += 1;
        }
    }

    /// Takes the oldest frame out, answered or not.
    pub(super) fn pop(&mut self) -> Option<Frame> {
        loop {
            let frame = self.queue.pop_front()?;
            self.first += 1;
            if let Some(frame) = frame {
                self.count -= 1;
                return Some(frame);
            }
        }
    }

    /// Keeps a list for use again.
    pub(super) fn keep(&mut self, mut list: Vec<Option<Item>>) {
        list.clear();
        self.spare.push(list);
    }
}
