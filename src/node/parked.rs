//! Operations that wait for a cold entry, and what they hold back.
//!
//! An id that may have been seen is proved by reading the entry it points to. Where that entry is
//! neither in memory nor in the last segments, the operation is parked: the disk is asked, then
//! the backup. All later operations of its user wait behind it; other users go on. What the next
//! ones of them will need is asked for meanwhile.

use std::collections::{BTreeMap, VecDeque};

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
    early: Early,
}

/// What was done for a held operation before it is its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Early {
    /// Nothing.
    Nothing,
    /// It was looked at, and nothing is under way for it.
    Looked,
    /// The entry that it will need is asked for under this ticket.
    Asked(u64),
}

impl Held {
    pub(super) const fn new(
        peer: PeerId,
        request: u64,
        index: u16,
        bytes: [u8; OPERATION_SIZE],
    ) -> Self {
        Self {
            peer,
            request,
            index,
            bytes,
            proofs: Vec::new(),
            early: Early::Nothing,
        }
    }

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
    user: UserId,
    place: Place,
    asked: Asked,
    /// The user's first operation waits for it; otherwise a later one will need it.
    is_needed: bool,
}

impl Ask {
    const fn needed(user: UserId, place: Place, asked: Asked) -> Self {
        Self {
            user,
            place,
            asked,
            is_needed: true,
        }
    }
}

/// All operations that wait.
#[derive(Debug)]
pub(super) struct Parked {
    /// By user: the operation that waits for an entry, then those that it holds back.
    queues: Map<UserId, VecDeque<Held>>,
    /// By ticket: one for each user whose first operation waits, and some for those behind it.
    asks: BTreeMap<u64, Ask>,
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
            asks: BTreeMap::new(),
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
        let early = match held.early {
            Early::Asked(ticket) => self.asks.get_mut(&ticket),
            Early::Nothing | Early::Looked => None,
        };
        match early {
            Some(ask) if ask.place == place => ask.is_needed = true,
            Some(_) | None => {
                let ticket = self.ask(Ask::needed(user, place, Asked::Disk));
                out.effect(Effect::Disk(DiskRequest::ReadEntry { place, ticket }));
            }
        }
        self.queues.entry(user).or_default().push_front(held);
        self.count += 1;
    }

    /// Parks the first operation of a user until the log was searched for its id.
    pub(super) fn park_search(&mut self, user: UserId, held: Held) {
        self.queues.entry(user).or_default().push_front(held);
        self.count += 1;
        self.ask(Ask::needed(user, SEARCHED, Asked::Search));
    }

    fn ask(&mut self, ask: Ask) -> u64 {
        self.ticket += 1;
        self.asks.insert(self.ticket, ask);
        self.ticket
    }

    /// The next operation of the user, among those that will soon have their turn, that was not
    /// looked at: its number in the queue and its bytes.
    pub(super) fn look_ahead(&mut self, user: UserId) -> Option<(usize, [u8; OPERATION_SIZE])> {
        if to_usize(self.count_max.into()) <= self.asks.len() {
            return None;
        }
        let queue = self.queues.get_mut(&user)?;
        let soon = queue
            .iter_mut()
            .enumerate()
            .take(1 + to_usize(limits::NODE_ENTRY_AHEAD_COUNT.into()));
        let (number, held) = soon
            .skip(1)
            .find(|(_, held)| held.early == Early::Nothing)?;
        held.early = Early::Looked;
        Some((number, held.bytes))
    }

    /// Asks for the entry that the operation with this number in the user's queue will need.
    pub(super) fn ask_early(
        &mut self,
        user: UserId,
        number: usize,
        place: Place,
        out: &mut Outbox,
    ) {
        let ticket = self.ask(Ask {
            is_needed: false,
            ..Ask::needed(user, place, Asked::Disk)
        });
        let queue = self.queues.get_mut(&user).expect("it was looked into");
        queue[number].early = Early::Asked(ticket);
        out.effect(Effect::Disk(DiskRequest::ReadEntry { place, ticket }));
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
            let mut asks = self.asks.iter();
            let ticket = asks.find(|(_, ask)| ask.user == *user && ask.asked == Asked::Search);
            if is_first && let Some((&ticket, _)) = ticket {
                self.asks.remove(&ticket);
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
        let Some(ask) = self.asks.get_mut(&ticket) else {
            return;
        };
        match (entry, backup) {
            (Some(entry), _) => self.prove(ticket, Proof::Entry(entry)),
            (None, Some(peer)) => {
                ask.asked = Asked::BackupSoon;
                self.ask_backup(peer, out);
            }
            (None, None) => self.prove(ticket, Proof::Lost(ResultCode::Unavailable)),
        }
    }

    /// Asks the backup for the next entries, as many as it takes at a time: first those for which
    /// an operation waits.
    fn ask_backup(&mut self, peer: PeerId, out: &mut Outbox) {
        let asked = self.asks.values();
        let asked = asked.filter(|ask| ask.asked == Asked::Backup).count();
        let room = to_usize(limits::NODE_ENTRY_ASK_COUNT_MAX.into()).saturating_sub(asked);
        for _ in 0..room {
            let soon = self.asks.iter_mut();
            let next = soon
                .filter(|(_, ask)| ask.asked == Asked::BackupSoon)
                .min_by_key(|(_, ask)| !ask.is_needed);
            let Some((ticket, ask)) = next else { break };
            ask.asked = Asked::Backup;
            Message::EntryAsk { place: ask.place }.write_for(out.buffer(peer), *ticket);
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
        let ask = self.asks.get(&ticket);
        if ask.is_some_and(|ask| ask.place == place && ask.asked == Asked::Backup) {
            let proof = entry.map_or(Proof::Lost(ResultCode::BeyondRetention), Proof::Entry);
            self.prove(ticket, proof);
            self.ask_backup(backup, out);
        }
    }

    /// The link is gone: what the backup was asked for will not come.
    pub(super) fn link_lost(&mut self) {
        let is_theirs = |ask: &Ask| matches!(ask.asked, Asked::BackupSoon | Asked::Backup);
        let theirs = self.asks.iter().filter(|(_, ask)| is_theirs(ask));
        let tickets: Vec<u64> = theirs.map(|(ticket, _)| *ticket).collect();
        for ticket in tickets {
            self.prove(ticket, Proof::Lost(ResultCode::Unavailable));
        }
    }

    /// Operations of users that are not served any more need no proof: they are ready to be told.
    pub(super) fn give_up(&mut self, is_gone: impl Fn(UserId) -> bool) {
        let ready = &mut self.ready;
        self.asks.retain(|_, ask| {
            let stays = !is_gone(ask.user);
            if !stays && ask.is_needed {
                ready.push_back(ask.user);
            }
            stays
        });
    }

    /// What was asked for is known.
    fn prove(&mut self, ticket: u64, proof: Proof) {
        let Some(ask) = self.asks.remove(&ticket) else {
            return;
        };
        let queue = self.queues.get_mut(&ask.user);
        if ask.is_needed {
            let queue = queue.expect("its operation waits");
            let first = queue.front_mut().expect("the one that asked is the first");
            first.proofs.push((ask.place, proof));
            self.ready.push_back(ask.user);
            return;
        }
        // Its operation may have been answered without it meanwhile.
        let held = queue.and_then(|queue| {
            let mut all = queue.iter_mut();
            all.find(|held| held.early == Early::Asked(ticket))
        });
        if let Some(held) = held {
            held.early = Early::Looked;
            // What cannot be read now is asked for again once it is needed.
            if proof != Proof::Lost(ResultCode::Unavailable) {
                held.proofs.push((ask.place, proof));
            }
        }
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
        let needed = self.asks.values().filter(|ask| ask.is_needed);
        assert!(self.queues.len() == needed.clone().count() + self.ready.len());
        for ask in needed {
            assert!(self.queues.contains_key(&ask.user));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::to_u64;

    fn user(number: u128) -> UserId {
        UserId::new(number).unwrap()
    }

    fn held(index: u16) -> Held {
        Held::new(PeerId(1), 9, index, [0; OPERATION_SIZE])
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

    /// What the disk was asked for.
    fn asked_of_disk(out: &mut Outbox) -> Vec<(Place, u64)> {
        let mut asks = Vec::new();
        while let Some(effect) = out.next_effect() {
            if let Effect::Disk(DiskRequest::ReadEntry { place, ticket }) = effect {
                asks.push((place, ticket));
            }
        }
        asks
    }

    #[test]
    fn what_the_next_ones_need_is_asked_for_meanwhile() {
        let mut out = Outbox::new();
        let mut parked = Parked::new(100);
        let ahead = to_usize(limits::NODE_ENTRY_AHEAD_COUNT.into());
        parked.park(user(5), held(0), Place(100), &mut out);
        for index in 1..40 {
            parked.hold(user(5), held(index));
        }
        let mut looked = Vec::new();
        while let Some((number, _)) = parked.look_ahead(user(5)) {
            parked.ask_early(user(5), number, Place(100 + to_u64(number)), &mut out);
            looked.push(number);
        }
        assert_eq!(looked, (1..=ahead).collect::<Vec<_>>());
        let asked = asked_of_disk(&mut out);
        assert_eq!(asked.len(), 1 + ahead);

        // The third is there first: it has its proof when it is its turn.
        let entry = |byte| Some([byte; ENTRY_SIZE]);
        parked.disk_answered(asked[2].1, entry(2), None, &mut out);
        assert!(!parked.is_ready(), "the first one waits");
        parked.disk_answered(asked[0].1, entry(0), None, &mut out);
        assert_eq!(parked.next_ready(), Some(user(5)));
        let first = parked.take_first(user(5)).unwrap();
        assert_eq!(first.proofs, [(Place(100), Proof::Entry([0; ENTRY_SIZE]))]);

        // The second is under way: it is not asked for again.
        let second = parked.take_first(user(5)).unwrap();
        parked.park(user(5), second, Place(101), &mut out);
        assert_eq!(asked_of_disk(&mut out), []);
        parked.check_invariants();
        parked.disk_answered(asked[1].1, entry(1), None, &mut out);
        assert_eq!(parked.next_ready(), Some(user(5)));
        assert_eq!(parked.take_first(user(5)).unwrap().index, 1);
        let third = parked.take_first(user(5)).unwrap();
        assert_eq!(third.proofs, [(Place(102), Proof::Entry([2; ENTRY_SIZE]))]);

        // The fourth needs another entry than it seemed, and what was asked for comes to nobody.
        let fourth = parked.take_first(user(5)).unwrap();
        parked.park(user(5), fourth, Place(7), &mut out);
        let [(place, ticket)] = asked_of_disk(&mut out)[..] else {
            panic!("one is asked for");
        };
        assert_eq!(place, Place(7));
        parked.check_invariants();
        parked.disk_answered(ticket, None, None, &mut out);
        let fourth = parked.take_first(user(5)).unwrap();
        let lost = Proof::Lost(ResultCode::Unavailable);
        assert_eq!(fourth.proofs, [(Place(7), lost)]);
    }

    #[test]
    fn first_asks_go_before_early_ones_and_a_lost_link_ends_both() {
        let mut out = Outbox::new();
        let mut parked = Parked::new(100);
        let backup = PeerId(3);
        parked.park(user(5), held(0), Place(100), &mut out);
        for index in 1..=16 {
            parked.hold(user(5), held(index));
        }
        while let Some((number, _)) = parked.look_ahead(user(5)) {
            parked.ask_early(user(5), number, Place(100 + to_u64(number)), &mut out);
        }
        for (_, ticket) in asked_of_disk(&mut out) {
            parked.disk_answered(ticket, None, Some(backup), &mut out);
        }
        parked.park(user(6), held(0), Place(9), &mut out);
        let [(_, ticket)] = asked_of_disk(&mut out)[..] else {
            panic!("one is asked for");
        };
        parked.disk_answered(ticket, None, Some(backup), &mut out);
        // Eight are under way; the next one is that of the other user.
        parked.backup_answered(2, Place(101), Some([1; ENTRY_SIZE]), backup, &mut out);
        let asked = |parked: &Parked| {
            let all = parked.asks.values();
            let asked = all.filter(|ask| ask.asked == Asked::Backup);
            asked.map(|ask| ask.place.0).collect::<Vec<_>>()
        };
        assert_eq!(asked(&parked), [100, 102, 103, 104, 105, 106, 107, 9]);
        parked.link_lost();
        assert!(parked.asks.is_empty());
        parked.check_invariants();
        // Who waits is told; of the others only what is known is kept.
        let mut first = |number| {
            assert_eq!(parked.next_ready(), Some(user(number)));
            parked.take_first(user(number)).unwrap().proofs
        };
        let lost = |place| [(Place(place), Proof::Lost(ResultCode::Unavailable))];
        assert_eq!(first(5), lost(100));
        assert_eq!(first(6), lost(9));
        let proofs = parked.take_first(user(5)).unwrap().proofs;
        assert_eq!(proofs, [(Place(101), Proof::Entry([1; ENTRY_SIZE]))]);
        assert_eq!(parked.take_first(user(5)).unwrap().proofs, []);
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
