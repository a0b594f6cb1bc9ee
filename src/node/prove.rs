//! Whether an id was seen: proved by the entry that it points to, wherever that is.

use crate::ledger::Candidates;
use crate::model::{
    Change, ENTRY_SIZE, Entry, Kind, Operation, Place, Receipt, ReceiptFlags, ResultCode,
};

use super::parked::Proof;
use super::running::Running;
use super::turn::Source;

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
    if !may_see {
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
