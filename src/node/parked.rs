//! Operations that wait for a cold entry, and what they hold back.
//!
//! An id that may have been seen is proved by reading the entry it points to. Where that entry is
//! neither in memory nor in the last segments, the operation is parked: the disk is asked, then
//! the backup. All later operations of its user wait behind it; other users go on.

use std::collections::VecDeque;

use super::search::{Ended, Found};
use crate::limits;
use crate::model::{
    ENTRY_SIZE, Kind, Map, OPERATION_SIZE, Operation, OperationId, Place, ResultCode, UserId,
    new_map, to_usize,
};
use crate::protocol::Message;
use crate::role::{DiskRequest, Effect, Outbox, PeerId};

/// Stands for the place of an id that no entry has.
pub(super) const SEARCHED: Place = Place(0);

/// What is known of a place that was cold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// The entry.
    Entry([u8; ENTRY_SIZE]),
    /// It cannot be read: the answer is this code.
    Lost(ResultCode),
}

/// An operation that waits, and to whom its answer goes.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) peer: PeerId,
    pub(super) request: u64,
    pub(super) index: u16,
    pub(super) bytes: [u8; OPERATION_SIZE],
    /// What was found out so far.
    pub(super) proofs: Vec<(Place, Proof)>,
}

impl Held {
    /// Does it ask what became of this id?
    fn finds(&self, id: OperationId) -> bool {
        Operation::read(&self.bytes)
            .is_ok_and(|operation| operation.kind() == Kind::Find && operation.id() == Some(id))
    }
}

/// Whom a parked operation waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Disk,
    /// A search of the log.
    Search,
    /// The backup, once fewer others are asked for.
    BackupSoon,
    Backup,
}

#[derive(Clone, Copy, Debug)]
struct Ask {
    ticket: u64,
    user: UserId,
    place: Place,
    asked: Asked,
}

/// All operations that wait.
#[derive(Debug)]
pub(super) struct Parked {
    /// By user: the operation that waits for an entry, then those that it holds back.
    queues: Map<UserId, VecDeque<Held>>,
    /// One for each user whose first operation waits.
    asks: Vec<Ask>,
    /// Users whose first operation may go on.
    ready: VecDeque<UserId>,
    count: u32,
    count_max: u32,
    ticket: u64,
}

impl Parked {
    pub(super) fn new(count_max: u32) -> Self {
        Self {
            queues: new_map(),
            asks: Vec::new(),
            ready: VecDeque::new(),
            count: 0,
            count_max,
            ticket: 0,
        }
    }

    pub(super) const fn count(&self) -> u32 {
        self.count
    }

    /// Does an operation of the user wait? Cheap while none does.
    pub(super) fn holds(&self, user: UserId) -> bool {
        self.count != 0 && self.queues.contains_key(&user)
    }

    pub(super) const fn is_full(&self) -> bool {
        self.count_max <= self.count
    }

    /// Puts an operation behind those of its user that wait.
    pub(super) fn hold(&mut self, user: UserId, held: Held) {
        assert!(!self.is_full());
        let queue = self
            .queues
            .get_mut(&user)
            .expect("an operation of the user waits");
        queue.push_back(held);
        self.count += 1;
    }

    /// Parks the first operation of a user until the entry at `place` is there.
    pub(super) fn park(&mut self, user: UserId, held: Held, place: Place, out: &mut Outbox) {
        self.queues.entry(user).or_default().push_front(held);
        self.count += 1;
        self.ticket += 1;
        let ticket = self.ticket;
        self.asks.push(Ask {
            ticket,
            user,
            place,
            asked: Asked::Disk,
        });
        out.effect(Effect::Disk(DiskRequest::ReadEntry { place, ticket }));
    }

    /// Parks the first operation of a user until the log was searched for its id.
    pub(super) fn park_search(&mut self, user: UserId, held: Held) {
        self.queues.entry(user).or_default().push_front(held);
        self.count += 1;
        self.ticket += 1;
        self.asks.push(Ask {
            ticket: self.ticket,
            user,
            place: SEARCHED,
            asked: Asked::Search,
        });
    }

    /// Searches are over. Every `find` of such an id that waits has its proof; where it is the
    /// user's first operation, that goes on.
    pub(super) fn searched(&mut self, ended: &[Ended]) {
        for (user, id, found) in ended {
            let Some(queue) = self.queues.get_mut(user) else {
                continue;
            };
            let (place, proof) = match found {
                Found::Entry(place, entry) => (*place, Proof::Entry(*entry)),
                Found::Nothing(code) => (SEARCHED, Proof::Lost(*code)),
            };
            for held in queue.iter_mut().filter(|held| held.finds(*id)) {
                held.proofs.push((place, proof));
            }
            let is_first = queue.front().is_some_and(|first| first.finds(*id));
            let is_it = |ask: &Ask| ask.user == *user && ask.asked == Asked::Search;
            if is_first && let Some(at) = self.asks.iter().position(is_it) {
                self.asks.swap_remove(at);
                self.ready.push_back(*user);
            }
        }
    }

    /// The disk answered. What it does not have, the backup is asked for.
    pub(super) fn disk_answered(
        &mut self,
        ticket: u64,
        entry: Option<[u8; ENTRY_SIZE]>,
        backup: Option<PeerId>,
        out: &mut Outbox,
    ) {
        let Some(at) = self.asks.iter().position(|ask| ask.ticket == ticket) else {
            return;
        };
        match (entry, backup) {
            (Some(entry), _) => self.prove(at, Proof::Entry(entry)),
            (None, Some(peer)) => {
                self.asks[at].asked = Asked::BackupSoon;
                self.ask_backup(peer, out);
            }
            (None, None) => self.prove(at, Proof::Lost(ResultCode::Unavailable)),
        }
    }

    /// Asks the backup for the next entries, as many as it takes at a time.
    fn ask_backup(&mut self, peer: PeerId, out: &mut Outbox) {
        let asked = self.asks.iter().filter(|ask| ask.asked == Asked::Backup);
        let room = to_usize(limits::NODE_ENTRY_ASK_COUNT_MAX.into()).saturating_sub(asked.count());
        let soon = self
            .asks
            .iter_mut()
            .filter(|ask| ask.asked == Asked::BackupSoon);
        for ask in soon.take(room) {
            ask.asked = Asked::Backup;
            Message::EntryAsk { place: ask.place }.write_for(out.buffer(peer), ask.ticket);
        }
    }

    /// The backup answered.
    pub(super) fn backup_answered(
        &mut self,
        ticket: u64,
        place: Place,
        entry: Option<[u8; ENTRY_SIZE]>,
        backup: PeerId,
        out: &mut Outbox,
    ) {
        let found = self.asks.iter().position(|ask| {
            ask.ticket == ticket && ask.place == place && ask.asked == Asked::Backup
        });
        if let Some(at) = found {
            let proof = entry.map_or(Proof::Lost(ResultCode::BeyondRetention), Proof::Entry);
            self.prove(at, proof);
            self.ask_backup(backup, out);
        }
    }

    /// The link is gone: what the backup was asked for will not come.
    pub(super) fn link_lost(&mut self) {
        let is_theirs = |ask: &Ask| matches!(ask.asked, Asked::BackupSoon | Asked::Backup);
        while let Some(at) = self.asks.iter().position(is_theirs) {
            self.prove(at, Proof::Lost(ResultCode::Unavailable));
        }
    }

    /// Operations of users that are not served any more need no proof: they are ready to be told.
    pub(super) fn give_up(&mut self, is_gone: impl Fn(UserId) -> bool) {
        let ready = &mut self.ready;
        self.asks.retain(|ask| {
            let stays = !is_gone(ask.user);
            if !stays {
                ready.push_back(ask.user);
            }
            stays
        });
    }

    fn prove(&mut self, at: usize, proof: Proof) {
        let ask = self.asks.swap_remove(at);
        let queue = self.queues.get_mut(&ask.user).expect("its operation waits");
        let first = queue.front_mut().expect("the one that asked is the first");
        first.proofs.push((ask.place, proof));
        self.ready.push_back(ask.user);
    }

    /// A user whose first operation may go on.
    pub(super) fn next_ready(&mut self) -> Option<UserId> {
        self.ready.pop_front()
    }

    #[cfg(test)]
    fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes the first operation of the user; `None` = none waits any more.
    pub(super) fn take_first(&mut self, user: UserId) -> Option<Held> {
        let queue = self.queues.get_mut(&user)?;
        let Some(held) = queue.pop_front() else {
            self.queues.remove(&user);
            return None;
        };
        self.count -= 1;
        Some(held)
    }

    #[cfg(debug_assertions)]
    pub(super) fn check_invariants(&self) {
        // (6) Every user with waiting operations has one that is asked for or ready.
        assert!(self.queues.len() == self.asks.len() + self.ready.len());
        for ask in &self.asks {
            assert!(self.queues.contains_key(&ask.user));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(number: u128) -> UserId {
        UserId::new(number).unwrap()
    }

    fn held(index: u16) -> Held {
        Held {
            peer: PeerId(1),
            request: 9,
            index,
            bytes: [0; OPERATION_SIZE],
            proofs: Vec::new(),
        }
    }

    #[test]
    fn disk_then_backup_then_lost() {
        let mut out = Outbox::new();
        let mut parked = Parked::new(4);
        let place = Place(77);
        parked.park(user(5), held(0), place, &mut out);
        parked.hold(user(5), held(1));
        assert!(parked.holds(user(5)) && !parked.holds(user(6)));
        parked.disk_answered(1, None, Some(PeerId(3)), &mut out);
        assert!(!parked.is_ready());
        // An answer under another ticket or for another place is nobody's.
        parked.backup_answered(2, place, None, PeerId(3), &mut out);
        parked.backup_answered(1, Place(78), None, PeerId(3), &mut out);
        assert!(!parked.is_ready());
        parked.backup_answered(1, place, None, PeerId(3), &mut out);
        assert_eq!(parked.next_ready(), Some(user(5)));
        let first = parked.take_first(user(5)).unwrap();
        let lost = Proof::Lost(ResultCode::BeyondRetention);
        assert_eq!(first.proofs, [(place, lost)]);
        assert_eq!(parked.take_first(user(5)).unwrap().index, 1);
        assert!(parked.take_first(user(5)).is_none());
        assert!(!parked.holds(user(5)));
        assert_eq!(parked.count(), 0);
    }

    #[test]
    fn a_lost_link_answers_what_the_backup_was_asked() {
        let mut out = Outbox::new();
        let mut parked = Parked::new(4);
        parked.park(user(5), held(0), Place(7), &mut out);
        parked.park(user(6), held(0), Place(8), &mut out);
        parked.disk_answered(2, None, Some(PeerId(3)), &mut out);
        parked.link_lost();
        assert_eq!(parked.next_ready(), Some(user(6)));
        assert_eq!(parked.next_ready(), None);
        parked.disk_answered(1, None, None, &mut out);
        assert_eq!(parked.next_ready(), Some(user(5)));
    }
}
