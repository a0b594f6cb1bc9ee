//! Whether an id was seen: proved by the entry that it points to, wherever that is.

use crate::canary::{self, Bug};
use crate::ledger::{Candidates, Seen};
use crate::model::{
    Change, ENTRY_SIZE, Entry, Kind, LogTime, OPERATION_SIZE, Operation, Place, Receipt,
    ReceiptFlags, ResultCode, RingEpoch, UserId,
};
use crate::role::Outbox;

use super::parked::{Proof, SEARCHED};
use super::running::Running;
use super::search::{Searched, Sought};
use super::turn::{Outcome, Source};

/// What the entries say about an id.
#[derive(Clone, Copy, Debug)]
pub(super) enum Proved {
    /// The id was used: here, for this.
    Known(Place, Change),
    /// It cannot be said yet, or not at all.
    Gap(Gap),
    /// None of the entries is about this id.
    Unseen,
}

/// Why it cannot be said whether an id was seen.
#[derive(Clone, Copy, Debug)]
pub(super) enum Gap {
    /// This entry has to be read first.
    Cold(Place),
    /// An entry that may be about the id cannot be read: the answer is this code.
    Lost(ResultCode),
}

impl Running {
    /// Looks at the entries that may be about the id of `operation`.
    pub(super) fn prove(
        &self,
        candidates: &Candidates,
        operation: &Operation,
        source: &Source<'_>,
    ) -> Proved {
        let mut open = Proved::Unseen;
        for place in candidates.iter() {
            match self.change_at(place, source) {
                Ok(Some(change)) if is_about(&change, operation) => {
                    return Proved::Known(place, change);
                }
                Ok(Some(_) | None) => (),
                Err(gap) => open = Proved::Gap(gap),
            }
        }
        open
    }

    /// The answer to a `find` of an id that is older than what is remembered, and the place of
    /// what it shows; or that the log must be searched first.
    pub(super) fn find_old(
        &self,
        operation: &Operation,
        source: &Source<'_>,
    ) -> Result<(Receipt, Option<Place>), Outcome> {
        for (place, proof) in source.proofs() {
            match proof {
                Proof::Entry(bytes) => {
                    if let Ok(Some(change)) = change_of(bytes)
                        && is_about(&change, operation)
                    {
                        let receipt =
                            receipt_of(source.index, operation, &change, *place, Replay::Yes);
                        return Ok((receipt, Some(*place)));
                    }
                }
                Proof::Lost(code) if *place == SEARCHED => {
                    return Ok((Receipt::bare(source.index, *code), None));
                }
                Proof::Lost(_) => (),
            }
        }
        let id = operation.id().expect("a find names an id");
        let has_room = !self.parked.is_full() && self.searches.takes(operation.user(), id);
        Err(if has_room {
            Outcome::Search
        } else {
            Outcome::bare(source, ResultCode::Busy)
        })
    }

    /// An operation is held back by an earlier one of its user. If the log will have to be searched
    /// for its id, it is searched in the same pass as for others, not once it is its turn.
    pub(super) fn search_early(
        &mut self,
        bytes: &[u8; OPERATION_SIZE],
        time: LogTime,
        out: &mut Outbox,
    ) {
        let operation = Operation::read(bytes).expect("checked before it was held");
        if operation.kind() == Kind::Find
            && let Some(id) = operation.id()
            && matches!(self.ledger.seen(operation.user(), id, time), Seen::TooOld)
        {
            self.search(bytes, out);
        }
    }

    /// The user's first operation waits. What the next ones will need to be read, as far as that
    /// can be known now, is asked for at once and not one after the other.
    pub(super) fn read_early(&mut self, user: UserId, time: LogTime, out: &mut Outbox) {
        while let Some((number, bytes)) = self.parked.look_ahead(user) {
            let operation = Operation::read(&bytes).expect("checked before it was held");
            let Some(id) = operation.id() else { continue };
            if let Seen::Maybe(candidates) = self.ledger.seen(user, id, time) {
                let mut cold = candidates.iter();
                let place = cold.find(|place| self.near_entry(*place).is_none());
                if let Some(place) = place {
                    self.parked.ask_early(user, number, place, out);
                }
            }
        }
    }

    /// Searches the log for the id of a `find`.
    pub(super) fn search(&mut self, bytes: &[u8; OPERATION_SIZE], out: &mut Outbox) {
        let operation = Operation::read(bytes).expect("checked before it was parked");
        let (user, id) = (
            operation.user(),
            operation.id().expect("a find names an id"),
        );
        let (from, is_known) = self.upkeep.search_from(id.time_ms());
        // A slot that came from elsewhere has older entries in another log.
        let is_first = self.ledger.slot_epoch(self.ledger.slot_of(user)) == Some(RingEpoch(1));
        let sought = Sought {
            user,
            id,
            from,
            is_complete: if is_first { is_known } else { Some(false) },
        };
        let log = Searched {
            verify: &self.verify,
            commit: &self.commit,
        };
        self.searches.begin(sought, log, out);
    }

    /// The change at `place`; `None` for another kind of entry.
    fn change_at(&self, place: Place, source: &Source<'_>) -> Result<Option<Change>, Gap> {
        if let Some(proof) = source.proof(place) {
            return match proof {
                Proof::Lost(code) => Err(Gap::Lost(code)),
                Proof::Entry(bytes) => change_of(&bytes)
                    // Somebody's copy of the log has bytes here that are no entry.
                    .map_err(|_damaged| Gap::Lost(ResultCode::BeyondRetention)),
            };
        }
        let bytes = self.near_entry(place).ok_or(Gap::Cold(place))?;
        change_of(&bytes).map_err(|_damaged| Gap::Cold(place))
    }

    /// The entry at `place`, if it can be had without waiting.
    fn near_entry(&self, place: Place) -> Option<[u8; ENTRY_SIZE]> {
        if place.log() != Some(self.verify.log) {
            return None;
        }
        if self.applied.offset <= place.offset() {
            return self.builder.entry(place);
        }
        self.commit
            .entry(place)
            .or_else(|| self.view.recent_entry(place))
    }
}

fn change_of(bytes: &[u8; ENTRY_SIZE]) -> Result<Option<Change>, crate::model::EntryError> {
    Ok(match Entry::read(bytes)? {
        Entry::Change(change) => Some(change),
        Entry::Horizon { .. }
        | Entry::Epoch(_)
        | Entry::Activation(_)
        | Entry::HandOver(_)
        | Entry::HandedSums(_)
        | Entry::Adopt(_)
        | Entry::AdoptedFile(_)
        | Entry::AdoptedSlots(_)
        | Entry::Drop { .. } => None,
    })
}

fn is_about(change: &Change, operation: &Operation) -> bool {
    change.operation.user() == operation.user() && change.operation.id() == operation.id()
}

/// The answer to `operation`, whose id is that of the change at `place`: its receipt if this is
/// the same operation, just applied or come again, or a `find`.
pub(super) fn receipt_of(
    index: u16,
    operation: &Operation,
    change: &Change,
    place: Place,
    is_replay: Replay,
) -> Receipt {
    let may_see = change.is_of(operation) || operation.kind() == Kind::Find || change.is_burn();
    if !may_see && !canary::on(Bug::IdReuseUnnoticed) {
        return Receipt::bare(index, ResultCode::IdReused);
    }
    let mut flags = match is_replay {
        Replay::No => ReceiptFlags(0),
        Replay::Yes => ReceiptFlags::REPLAYED,
    };
    if change.created {
        flags = flags.with(ReceiptFlags::CREATED);
    }
    if is_frozen(change) {
        flags = flags.with(ReceiptFlags::FROZEN);
    }
    Receipt {
        index,
        code: change.code,
        flags,
        available: change.image.available,
        held: change.image.held,
        version: change.image.version,
        place,
        amount: change.moved,
    }
}

/// Whether a receipt is the first one or comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replay {
    /// The operation was applied just now.
    No,
    /// It had been applied before.
    Yes,
}

/// Does the entry itself say that the account is frozen? So a replay says the same.
fn is_frozen(change: &Change) -> bool {
    let sets = matches!(change.operation.kind(), Kind::Open | Kind::Configure);
    let is_set = sets && change.code == ResultCode::Ok && change.operation.settings().frozen;
    is_set || change.code == ResultCode::Frozen
}
