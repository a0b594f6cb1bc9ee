//! What is sent by one link and not answered: the queue of the turn, and the frames under way.
//!
//! A target is a node, or the router of another front. All operations for a node that came in
//! one turn leave in as few frames as hold them; a router gets one frame for each batch, so that
//! the deadline of each is kept. All operations of one user of one batch are in one frame.

use std::collections::VecDeque;
use std::hint::black_box;

use super::inflight::{Flight, Op, Stage};
use super::links::Purpose;
use super::pool::{Key, Pool};
use crate::clock::Tick;
use crate::limits::{
    BATCH_COUNT_MAX, DEADLINE_MS_MAX, FRONT_SPARE_LIST_COUNT_MAX, ROUTER_ANSWER_MS,
};
use crate::model::{RingEpoch, to_usize};
use crate::protocol::RequestWriter;
use crate::role::{Outbox, PeerId};

/// A list with room for this many more than four times what is needed is not taken: small frames
/// that stay unanswered for long must not sit on the memory of large ones.
const SPARE_ROOM: usize = 64;

/// Operations whose cells are read ahead at a time.
pub(super) const TOUCH_COUNT: usize = 32;

/// Fewer are not worth it.
pub(super) const TOUCH_COUNT_MIN: usize = 4;

const NS_PER_MS: u64 = 1_000_000;

/// A frame that was sent.
#[derive(Debug)]
pub(super) struct SentFrame {
    /// Its operations, by index in the frame; [`Key::NONE`] once answered.
    pub(super) refs: Vec<Key>,
    /// How many are not answered.
    pub(super) open_count: u32,
}

/// What one link has to do.
#[derive(Debug)]
pub(super) struct Target {
    /// It is connected and takes requests.
    pub(super) usable: bool,
    /// It is a node: operations of different batches may share a frame.
    pub(super) is_node: bool,
    /// Frames under way that it takes at most.
    pub(super) frame_count_max: u32,
    /// Operations assigned to it, and copies there whose operation is gone.
    pub(super) load: u32,
    /// Operations for the next frames, in order. Some may have ended meanwhile.
    pub(super) queue: VecDeque<Key>,
    /// Frames under way, by the number of their request.
    pub(super) frames: Pool<SentFrame>,
}

impl Target {
    pub(super) fn new(purpose: Purpose) -> Self {
        Self {
            usable: false,
            is_node: matches!(purpose, Purpose::Node(_)),
            frame_count_max: 1,
            load: 0,
            queue: VecDeque::new(),
            frames: Pool::default(),
        }
    }

    /// Does it take one more frame now?
    pub(super) fn has_room(&self) -> bool {
        self.frames.count() < self.frame_count_max
    }
}

/// A receipt or rows that fit no operation under way: the other side broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotAsked;

impl Flight {
    /// Writes the queue of a target into frames, as many as it takes now.
    pub(super) fn write_frames(
        &mut self,
        target: u16,
        peer: PeerId,
        epoch: RingEpoch,
        now: Tick,
        out: &mut Outbox,
    ) {
        while self.targets[usize::from(target)].has_room() {
            self.gather_frame(target);
            if self.frame.is_empty() {
                break;
            }
            let refs = self.refs_of_frame();
            let deadline_ms = self.time_left_ms(target, now);
            let frames = &mut self.targets[usize::from(target)].frames;
            let key = frames.insert(SentFrame {
                open_count: u32::try_from(refs.len()).expect("bounded by BATCH_COUNT_MAX"),
                refs,
            });
            let buffer = out.buffer(peer);
            let mut writer = RequestWriter::begin(buffer, key.number(), epoch, deadline_ms);
            for op in &self.frame {
                let op = self.ops.at_mut(op.index());
                assert!(op.stage == Stage::Queued);
                op.stage = Stage::Sent;
                writer.push(buffer, &op.bytes);
            }
            writer.finish(buffer);
        }
    }

    /// Moves whole runs of one batch from the queue into `self.frame`, as many as fit.
    fn gather_frame(&mut self, target: u16) {
        self.frame.clear();
        let target = &mut self.targets[usize::from(target)];
        let mut run_batch = None;
        let mut run_start = 0;
        while let Some(key) = target.queue.front() {
            let Some(op) = self.ops.get(*key) else {
                target.queue.pop_front();
                continue;
            };
            if run_batch != Some(op.batch) {
                if run_batch.is_some() && !target.is_node {
                    return;
                }
                run_batch = Some(op.batch);
                run_start = self.frame.len();
            }
            if self.frame.len() == to_usize(u64::from(BATCH_COUNT_MAX)) {
                // A batch is never cut: what was taken of this one goes back.
                assert!(0 < run_start);
                for key in self.frame.drain(run_start..).rev() {
                    target.queue.push_front(key);
                }
                return;
            }
            self.frame.push(*key);
            target.queue.pop_front();
        }
    }

    /// The gathered keys in a list of their own.
    fn refs_of_frame(&mut self) -> Vec<Key> {
        let count = self.frame.len();
        // One that does not fit is dropped: so the spare ones follow the sizes of the load.
        let spare = self
            .spare_refs
            .pop()
            .filter(|spare| (count..=count * 4 + SPARE_ROOM).contains(&spare.capacity()));
        let mut refs = spare.unwrap_or_else(|| Vec::with_capacity(count));
        refs.extend_from_slice(&self.frame);
        refs
    }

    /// The longest time that an operation of the gathered frame has left. The shortest would
    /// make the node give up on operations that still have time. A router's answer at its
    /// deadline must be here before this front's own: it knows what was sent and what was not.
    fn time_left_ms(&self, target: u16, now: Tick) -> u32 {
        let mut longest_ms = 1;
        let mut batch = None;
        for key in &self.frame {
            let op = self.ops.at(key.index());
            if batch != Some(op.batch) {
                batch = Some(op.batch);
                let left = self.batches.at(op.batch).deadline.since(now);
                longest_ms = left.div_ceil(NS_PER_MS).max(longest_ms);
            }
        }
        if !self.targets[usize::from(target)].is_node {
            longest_ms -= (longest_ms / 8).min(ROUTER_ANSWER_MS);
        }
        u32::try_from(longest_ms).map_or(DEADLINE_MS_MAX, |ms| ms.min(DEADLINE_MS_MAX))
    }

    /// Takes the answered operation out of its frame. `None` for the key of an operation that
    /// was ended at its deadline.
    pub(super) fn take_answered(
        &mut self,
        target: u16,
        frame: Key,
        index: u16,
    ) -> Result<Option<u32>, NotAsked> {
        let entry = &mut self.targets[usize::from(target)];
        let sent = entry.frames.get_mut(frame).ok_or(NotAsked)?;
        let place = sent.refs.get_mut(usize::from(index)).ok_or(NotAsked)?;
        if *place == Key::NONE {
            return Err(NotAsked);
        }
        let key = std::mem::replace(place, Key::NONE);
        sent.open_count -= 1;
        if sent.open_count == 0 {
            let sent = entry.frames.remove_at(frame.index());
            self.keep_spare(sent.refs);
        }
        if self.ops.get(key).is_some() {
            return Ok(Some(key.index()));
        }
        self.forget_orphan(target);
        Ok(None)
    }

    /// Reads ahead: the cells of the operations from `index` on in a frame, all at once, instead of
    /// waiting for memory at each of them. A hint: whatever is there or not, nothing changes.
    pub(super) fn touch_asked(&self, target: u16, frame: Key, index: usize) {
        let frames = &self.targets[usize::from(target)].frames;
        let Some(sent) = frames.get(frame) else {
            return;
        };
        let keys = sent.refs.iter().skip(index).take(TOUCH_COUNT);
        let batches = keys.filter_map(|key| self.ops.get(*key).map(|op| op.batch));
        black_box(batches.fold(0, u32::wrapping_add));
    }

    /// The operation that rows in a frame belong to; `None` if it was ended at its deadline.
    pub(super) fn asked(
        &self,
        target: u16,
        frame: Key,
        index: u16,
    ) -> Result<Option<u32>, NotAsked> {
        let frames = &self.targets[usize::from(target)].frames;
        let sent = frames.get(frame).ok_or(NotAsked)?;
        let key = *sent.refs.get(usize::from(index)).ok_or(NotAsked)?;
        if key == Key::NONE {
            return Err(NotAsked);
        }
        Ok(self.ops.get(key).map(|_| key.index()))
    }

    /// What is queued for a target that does not own its user waits, and goes to the owner.
    pub(super) fn unqueue(&mut self, target: u16, is_owned: impl Fn(u128) -> bool) {
        let queue = std::mem::take(&mut self.targets[usize::from(target)].queue);
        let mut kept = VecDeque::with_capacity(queue.len());
        for key in queue {
            let user = self.ops.get(key).map(Op::user);
            match user {
                Some(user) if !is_owned(user) => self.hold_back(key.index()),
                Some(_) => kept.push_back(key),
                None => (),
            }
        }
        self.targets[usize::from(target)].queue = kept;
    }

    /// Takes no requests by this target from now on; what is only queued waits.
    pub(super) fn stop_target(&mut self, target: u16) {
        let entry = &mut self.targets[usize::from(target)];
        entry.usable = false;
        while let Some(key) = self.targets[usize::from(target)].queue.pop_front() {
            if self.ops.get(key).is_some() {
                self.hold_back(key.index());
            }
        }
    }

    /// The link is gone: no answer to what was sent by it will come.
    pub(super) fn lose_target(&mut self, target: u16) {
        self.stop_target(target);
        let mut frames = std::mem::take(&mut self.targets[usize::from(target)].frames);
        let indexes: Vec<u32> = frames.indexes().collect();
        for index in indexes {
            let sent = frames.remove_at(index);
            for key in &sent.refs {
                if *key == Key::NONE {
                    continue;
                }
                if let Some(op) = self.ops.get_mut(*key) {
                    op.unanswered = true;
                    self.hold_back(key.index());
                } else {
                    self.forget_orphan(target);
                }
            }
            self.keep_spare(sent.refs);
        }
        // The keys of the frames go on counting: no number comes twice.
        self.targets[usize::from(target)].frames = frames;
    }

    fn forget_orphan(&mut self, target: u16) {
        self.orphan_count -= 1;
        self.targets[usize::from(target)].load -= 1;
    }

    fn keep_spare(&mut self, mut refs: Vec<Key>) {
        if self.spare_refs.len() < FRONT_SPARE_LIST_COUNT_MAX {
            refs.clear();
            self.spare_refs.push(refs);
        }
    }
}
