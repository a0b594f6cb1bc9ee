//! What became of ids that are older than what the ledger remembers: the log is searched for them.
//!
//! One pass at a time over the log, piece by piece, each read by the disk's reader, looks for all
//! ids that waited when it began; the operations that asked wait like those that need a cold entry.
//! `never` is said only if the log that is kept here holds all that can have had the id: an
//! operation is taken no earlier than a minute before its id's time, and never once the horizon
//! has passed it.

use std::collections::VecDeque;

use crate::limits;
use crate::log::{Block, Verify, blocks};
use crate::model::{
    Change, ENTRY_SIZE, Entry, LogTime, OperationId, Place, ResultCode, UserId, to_usize,
};
use crate::role::{DiskRequest, Effect, Outbox};

use super::commit::Commit;

/// Ticket of the reads of a search.
pub(super) const TICKET: u64 = 3;

/// What is searched for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sought {
    pub(super) user: UserId,
    pub(super) id: OperationId,
    /// Offset of the first block that can have it.
    pub(super) from: u64,
    /// Nothing before `from` can have it; `None`: that is for the first block's time to say.
    pub(super) is_complete: Option<bool>,
}

/// What a search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The id was used here, for this.
    Entry(Place, [u8; ENTRY_SIZE]),
    /// No entry has it: the answer is this code.
    Nothing(ResultCode),
}

/// A search that is over: whose id was sought, and what was found.
pub(super) type Ended = (UserId, OperationId, Found);

/// The log in which is searched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Searched<'a> {
    pub(super) verify: &'a Verify,
    /// Behind what is committed, nothing is read from the disk.
    pub(super) commit: &'a Commit,
}

impl Searched<'_> {
    fn below(&self) -> u64 {
        self.commit.committed().offset
    }
}

/// All searches.
#[derive(Debug, Default)]
pub(super) struct Searches {
    /// Those of the next passes.
    waiting: VecDeque<Sought>,
    /// Those of the pass that is under way.
    sought: Vec<Sought>,
    /// Where the piece begins that is being read for the pass; `None`: there is no pass.
    reading: Option<u64>,
}

impl Searches {
    /// Is there room for this search, or is it under way?
    pub(super) fn takes(&self, user: UserId, id: OperationId) -> bool {
        self.waiting.len() < to_usize(limits::NODE_PARKED_COUNT_MAX.into()) || self.has(user, id)
    }

    fn has(&self, user: UserId, id: OperationId) -> bool {
        let mut all = self.waiting.iter().chain(&self.sought);
        all.any(|sought| sought.user == user && sought.id == id)
    }

    /// Searches for an id, if nobody has asked for it yet and there is room.
    pub(super) fn begin(&mut self, sought: Sought, log: Searched<'_>, out: &mut Outbox) {
        let (user, id) = (sought.user, sought.id);
        if self.has(user, id) || !self.takes(user, id) {
            return;
        }
        self.waiting.push_back(sought);
        if self.reading.is_none() {
            self.next_pass(log, out);
        }
    }

    /// Nobody waits any more for what became of these users' ids.
    pub(super) fn give_up(&mut self, is_gone: impl Fn(UserId) -> bool) {
        self.waiting.retain(|sought| !is_gone(sought.user));
        self.sought.retain(|sought| !is_gone(sought.user));
    }

    fn next_pass(&mut self, log: Searched<'_>, out: &mut Outbox) {
        let room = limits::FIND_PASS_COUNT_MAX.saturating_sub(self.sought.len());
        let count = room.min(self.waiting.len());
        self.sought.extend(self.waiting.drain(..count));
        let from = self.sought.iter().map(|sought| sought.from).min();
        self.read(from, log, out);
    }

    fn read(&mut self, offset: Option<u64>, log: Searched<'_>, out: &mut Outbox) {
        self.reading = offset;
        let Some(offset) = offset else { return };
        out.effect(Effect::Disk(DiskRequest::ReadBlocks {
            log: log.verify.log,
            offset,
            below: log.below(),
            size_max: limits::FIND_PIECE_SIZE,
            ticket: TICKET,
        }));
    }

    /// A piece of the log was read. Returns the searches that are over.
    pub(super) fn piece_read(
        &mut self,
        (offset, bytes): (u64, &[u8]),
        log: Searched<'_>,
        out: &mut Outbox,
    ) -> Vec<Ended> {
        let mut ended = Vec::new();
        let end = match self.look(offset, bytes, log.verify, &mut ended) {
            Ok(end) => end,
            Err(damaged) => {
                self.lose(damaged, &mut ended);
                self.next_pass(log, out);
                return ended;
            }
        };
        if end == offset || log.below() <= end {
            // Nothing more is on the disk that is committed.
            self.look_into_pending(log, &mut ended);
        } else {
            // What lies further than this is not searched.
            let is_over = |sought: &Sought| sought.from + limits::FIND_SEARCH_SIZE_MAX <= end;
            self.end_if(&mut ended, |sought| {
                is_over(sought).then_some(Found::Nothing(ResultCode::BeyondRetention))
            });
        }
        if self.sought.is_empty() {
            self.next_pass(log, out);
        } else {
            self.read(Some(end), log, out);
        }
        ended
    }

    /// A piece could not be read: it is damaged, or was retired meanwhile.
    pub(super) fn failed(&mut self, log: Searched<'_>, out: &mut Outbox) -> Vec<Ended> {
        let mut ended = Vec::new();
        if let Some(offset) = self.reading {
            self.lose(offset, &mut ended);
            self.next_pass(log, out);
        }
        ended
    }

    /// What lies at `offset` cannot be read: searches that need it are over.
    fn lose(&mut self, offset: u64, ended: &mut Vec<Ended>) {
        self.end_if(ended, |sought| {
            (sought.from <= offset).then_some(Found::Nothing(ResultCode::BeyondRetention))
        });
    }

    /// Looks through a piece. Returns where it ends or, as an error, where it is damaged.
    fn look(
        &mut self,
        offset: u64,
        bytes: &[u8],
        verify: &Verify,
        ended: &mut Vec<Ended>,
    ) -> Result<u64, u64> {
        let mut end = offset;
        for block in blocks(bytes, *verify) {
            let block = block.map_err(|_damaged| end)?;
            self.look_into(&block, ended);
            end = block.end().offset;
        }
        Ok(end)
    }

    /// Ends the pass with what is applied and not committed: it may be older than the horizon
    /// where the backup was away for long.
    fn look_into_pending(&mut self, log: Searched<'_>, ended: &mut Vec<Ended>) {
        for pending in log.commit.pending() {
            for block in blocks(&pending.bytes, *log.verify) {
                let block = block.expect("what was built here and not written yet is whole");
                self.look_into(&block, ended);
            }
        }
        self.end_if(ended, |sought| Some(sought.nothing()));
    }

    fn look_into(&mut self, block: &Block<'_>, ended: &mut Vec<Ended>) {
        let time = block.head().time;
        for sought in &mut self.sought {
            let is_before = !may_take(sought.id.time_ms(), time);
            sought.is_complete.get_or_insert(is_before);
        }
        for (place, _, bytes) in block.entries() {
            self.end_if(ended, |sought| look_at(sought, place, bytes));
        }
    }

    /// Ends the searches of which `over` knows what they found.
    fn end_if(&mut self, ended: &mut Vec<Ended>, over: impl Fn(&Sought) -> Option<Found>) {
        self.sought.retain(|sought| {
            let found = over(sought);
            ended.extend(found.map(|found| (sought.user, sought.id, found)));
            found.is_none()
        });
    }
}

impl Sought {
    fn nothing(&self) -> Found {
        Found::Nothing(if self.is_complete == Some(true) {
            ResultCode::Never
        } else {
            ResultCode::BeyondRetention
        })
    }
}

/// Can an operation with an id of this time have been taken at `time`?
pub(super) const fn may_take(id_ms: u64, time: LogTime) -> bool {
    id_ms <= time.ms() + limits::ID_AHEAD_MS_MAX
}

/// What an entry says about what is sought; `None` = nothing.
fn look_at(sought: &Sought, place: Place, bytes: &[u8; ENTRY_SIZE]) -> Option<Found> {
    if !Entry::may_be_of(bytes, sought.user) {
        return None;
    }
    match Entry::read(bytes) {
        Ok(Entry::Change(change)) if is_about(&change, sought) => Some(Found::Entry(place, *bytes)),
        // From here on the id was too old.
        Ok(Entry::Horizon { ms }) if sought.id.time_ms() < ms => Some(sought.nothing()),
        Ok(
            Entry::Change(_)
            | Entry::Horizon { .. }
            | Entry::Epoch(_)
            | Entry::Activation(_)
            | Entry::HandOver(_)
            | Entry::HandedSums(_)
            | Entry::Adopt(_)
            | Entry::AdoptedFile(_)
            | Entry::AdoptedSlots(_)
            | Entry::Drop { .. },
        ) => None,
        Err(_damaged) => Some(Found::Nothing(ResultCode::BeyondRetention)),
    }
}

fn is_about(change: &Change, sought: &Sought) -> bool {
    change.operation.user() == sought.user && change.operation.id() == Some(sought.id)
}
