//! What must hold between two turns, swept in debug builds.

use std::collections::BTreeMap;

use super::Front;
use super::inflight::{NONE, Stage};
use super::links::LinkState;
use super::pool::Key;
use crate::model::{new_set, to_usize};

impl Front {
    /// Panics if one of these does not hold:
    ///
    /// 1. every operation is in the list of its batch once, in ascending order;
    /// 2. a batch lives while it has operations; its counts are those of its list, and it has a
    ///    deadline;
    /// 3. the load of a target is its operations and the orphans in its frames;
    /// 4. every sent operation is in one frame of its target, and all orphans are counted;
    /// 5. only a link that is up has anything queued or under way;
    /// 6. within a batch, no operation of a user is queued behind an earlier one that waits, and
    ///    none while another one is under way in an earlier frame;
    /// 7. a client's frames are its batches;
    /// 8. all answers were written, and what is held is within the budget;
    /// 9. a target with a queue is listed;
    /// 10. what waits has a timer, or is held by one that is under way, or has nowhere to go.
    pub(super) fn check_invariants(&self) {
        let mut loads = vec![0_u32; self.links.len()];
        let mut frames_by_client = BTreeMap::new();
        let mut op_count = 0;
        for index in self.flight.batches.indexes() {
            op_count += self.check_batch(index, &mut loads);
            let client = self.flight.batches.at(index).client;
            if self.clients.get(client).is_some() {
                *frames_by_client.entry(client.number()).or_insert(0) += 1;
            }
        }
        assert!(op_count == self.flight.ops.count(), "(1)");
        let mut orphan_count = 0;
        for (index, load) in loads.iter_mut().enumerate() {
            orphan_count += self.check_target(index, load);
            assert!(*load == self.flight.targets[index].load, "(3)");
        }
        assert!(orphan_count == self.flight.orphan_count, "(4)");
        for index in self.clients.indexes() {
            let key = self.clients.key_at(index);
            let frame_count = frames_by_client.get(&key.number()).copied().unwrap_or(0);
            assert!(self.clients.at(index).frame_count == frame_count, "(7)");
        }
        assert!(self.flight.is_answer_list_empty(), "(8)");
        let max = self.options.limits.operation_count_max;
        assert!(self.flight.held_count() <= max, "(8)");
    }

    fn check_batch(&self, index: u32, loads: &mut [u32]) -> u32 {
        let batch = self.flight.batches.at(index);
        let mut at = batch.first;
        let mut previous = NONE;
        let mut previous_index = None;
        let (mut open_count, mut waiting_count) = (0, 0);
        // Reserved at once: so that a count of allocations shows those of the front, not these.
        let (mut waiting_users, mut sent_users) = (new_set(), new_set());
        waiting_users.reserve(to_usize(batch.open_count.into()));
        sent_users.reserve(to_usize(batch.open_count.into()));
        while at != NONE {
            let op = self.flight.ops.at(at);
            assert!(op.batch == index && op.previous == previous, "(1)");
            assert!(previous_index < Some(op.index), "(1)");
            previous_index = Some(op.index);
            open_count += 1;
            if let Some(target) = op.target {
                loads[usize::from(target)] += 1;
            }
            match op.stage {
                Stage::Waiting => {
                    waiting_count += 1;
                    let target = op.target.map(usize::from);
                    let is_usable = target.is_some_and(|at| self.flight.targets[at].usable);
                    let is_timed = self.flight.retries.is_set(index);
                    assert!(is_timed || batch.is_held || !is_usable, "(10)");
                    waiting_users.insert(op.user());
                }
                Stage::Queued => {
                    assert!(!waiting_users.contains(&op.user()), "(6)");
                    assert!(!sent_users.contains(&op.user()), "(6)");
                }
                Stage::Sent => {
                    sent_users.insert(op.user());
                }
            }
            previous = at;
            at = op.next;
        }
        assert!(batch.last == previous, "(1)");
        assert!(0 < open_count && batch.open_count == open_count, "(2)");
        assert!(batch.waiting_count == waiting_count, "(2)");
        assert!(self.flight.deadlines.is_set(index), "(2)");
        open_count
    }

    /// Counts the orphans of a target, and adds them to its load.
    fn check_target(&self, index: usize, load: &mut u32) -> u32 {
        let target = &self.flight.targets[index];
        let is_up = matches!(self.links[index].state, LinkState::Up(_));
        assert!(is_up || !target.usable, "(5)");
        assert!(is_up || target.frames.count() == 0, "(5)");
        assert!(target.usable || target.queue.is_empty(), "(5)");
        let index = u16::try_from(index).expect("bounded in add_link");
        assert!(
            target.queue.is_empty() || self.queued.contains(&index),
            "(9)"
        );
        let mut orphan_count = 0;
        let mut sent_count = 0;
        for frame in target.frames.indexes() {
            let frame = target.frames.at(frame);
            let open = frame.refs.iter().filter(|key| **key != Key::NONE);
            assert!(
                u32::try_from(open.clone().count()) == Ok(frame.open_count),
                "(4)"
            );
            assert!(0 < frame.open_count, "(4)");
            for key in open {
                let Some(op) = self.flight.ops.get(*key) else {
                    orphan_count += 1;
                    continue;
                };
                sent_count += 1;
                assert!(op.stage == Stage::Sent && op.target == Some(index), "(4)");
            }
        }
        let sent = self.flight.ops.indexes().filter(|op| {
            let op = self.flight.ops.at(*op);
            op.stage == Stage::Sent && op.target == Some(index)
        });
        assert!(sent.count() == sent_count, "(4)");
        *load += orphan_count;
        orphan_count
    }
}
