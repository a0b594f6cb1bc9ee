//! What became of an id that is older than what the ledger remembers: the log is searched for it.
//!
//! One search at a time, piece by piece, each read by the disk's reader; the operation that asked
//! waits like one that needs a cold entry. `never` is said only if the log that is kept here holds
//! all that can have had the id: an operation is taken no earlier than a minute before its id's
//! time, and never once the horizon has passed it.

use std::collections::VecDeque;

use crate::limits;
use crate::log::{Block, Verify, blocks};
use crate::model::{
    Change, ENTRY_SIZE, Entry, LogTime, Operation, OperationId, Place, ResultCode, UserId, to_u64,
};
use crate::role::{DiskRequest, Effect, Outbox};

/// Ticket of the reads of a search.
pub(super) const TICKET: u64 = 3;

/// What is searched for.
#[derive(Clone, Copy, Debug)]
struct Sought {
    user: UserId,
    id: OperationId,
    /// Offset of the first block that can have it.
    from: u64,
    /// Nothing before `from` can have it; `None`: that is for the first block's time to say.
    is_complete: Option<bool>,
}

/// What a search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The id was used here, for this.
    Entry(Place, [u8; ENTRY_SIZE]),
    /// No entry has it: the answer is this code.
    Nothing(ResultCode),
}

/// All searches; the first one is under way.
#[derive(Debug, Default)]
pub(super) struct Searches {
    queue: VecDeque<Sought>,
    /// Bytes that the first one has read.
    read_size: u64,
}

/// What one piece of the log said.
enum Piece {
    Over(Found),
    /// It goes on here.
    Next(u64),
}

impl Searches {
    /// Searches for an id. `from` is the first offset that can have it or, if `is_complete` is
    /// open, that is kept; `below` is the end of what is committed.
    pub(super) fn begin(
        &mut self,
        operation: &Operation,
        (from, is_complete): (u64, Option<bool>),
        below: u64,
        verify: &Verify,
        out: &mut Outbox,
    ) {
        self.queue.push_back(Sought {
            user: operation.user(),
            id: operation.id().expect("a find names an id"),
            from,
            is_complete,
        });
        if self.queue.len() == 1 {
            self.read_size = 0;
            read(from, below, verify, out);
        }
    }

    /// A piece of the log was read. Returns the user whose search is over, and how it ended.
    pub(super) fn piece_read(
        &mut self,
        (offset, bytes): (u64, &[u8]),
        below: u64,
        verify: &Verify,
        out: &mut Outbox,
    ) -> Option<(UserId, Found)> {
        let sought = self.queue.front_mut()?;
        let piece = look(sought, offset, bytes, verify);
        self.read_size += to_u64(bytes.len());
        let found = match piece {
            Piece::Next(next) if next < below && self.read_size < limits::FIND_SEARCH_SIZE_MAX => {
                read(next, below, verify, out);
                return None;
            }
            // What lies further is not searched.
            Piece::Next(next) if next < below => Found::Nothing(ResultCode::BeyondRetention),
            Piece::Next(_) => sought.nothing(),
            Piece::Over(found) => found,
        };
        Some(self.end(found, below, verify, out))
    }

    /// A piece could not be read: it is damaged, or was retired meanwhile.
    pub(super) fn failed(
        &mut self,
        below: u64,
        verify: &Verify,
        out: &mut Outbox,
    ) -> Option<(UserId, Found)> {
        self.queue.front()?;
        let found = Found::Nothing(ResultCode::BeyondRetention);
        Some(self.end(found, below, verify, out))
    }

    fn end(
        &mut self,
        found: Found,
        below: u64,
        verify: &Verify,
        out: &mut Outbox,
    ) -> (UserId, Found) {
        let sought = self.queue.pop_front().expect("one is under way");
        self.read_size = 0;
        if let Some(next) = self.queue.front() {
            read(next.from, below, verify, out);
        }
        (sought.user, found)
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

fn read(offset: u64, below: u64, verify: &Verify, out: &mut Outbox) {
    out.effect(Effect::Disk(DiskRequest::ReadBlocks {
        log: verify.log,
        offset,
        below,
        size_max: limits::FIND_PIECE_SIZE,
        ticket: TICKET,
    }));
}

/// Can an operation with an id of this time have been taken at `time`?
pub(super) const fn may_take(id_ms: u64, time: LogTime) -> bool {
    id_ms <= time.ms() + limits::ID_AHEAD_MS_MAX
}

fn look(sought: &mut Sought, offset: u64, bytes: &[u8], verify: &Verify) -> Piece {
    let mut end = offset;
    for block in blocks(bytes, *verify) {
        let Ok(block) = block else {
            return Piece::Over(Found::Nothing(ResultCode::BeyondRetention));
        };
        let time = block.head().time;
        let is_before = !may_take(sought.id.time_ms(), time);
        sought.is_complete.get_or_insert(is_before);
        if let Some(found) = look_into(sought, &block) {
            return Piece::Over(found);
        }
        end = block.end().offset;
    }
    if end == offset {
        // Nothing more is there.
        return Piece::Over(sought.nothing());
    }
    Piece::Next(end)
}

fn look_into(sought: &Sought, block: &Block<'_>) -> Option<Found> {
    for (place, _, bytes) in block.entries() {
        if !Entry::may_be_of(bytes, sought.user) {
            continue;
        }
        match Entry::read(bytes) {
            Ok(Entry::Change(change)) if is_about(&change, sought) => {
                return Some(Found::Entry(place, *bytes));
            }
            Ok(Entry::Horizon { ms }) if sought.id.time_ms() < ms => {
                // From here on the id was too old.
                return Some(sought.nothing());
            }
            Ok(
                Entry::Change(_) | Entry::Horizon { .. } | Entry::Epoch(_) | Entry::Activation(_),
            ) => (),
            Err(_damaged) => return Some(Found::Nothing(ResultCode::BeyondRetention)),
        }
    }
    None
}

fn is_about(change: &Change, sought: &Sought) -> bool {
    change.operation.user() == sought.user && change.operation.id() == Some(sought.id)
}
