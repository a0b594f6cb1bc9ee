//! Look-ups: evaluated in their turn on the applied state.
//!
//! They leave when that turn's last block is committed and a round trip to the backup that began
//! after they were evaluated has come back: so a node that was replaced cannot show old state. A
//! `recent` one leaves once the last place of what it shows is committed.

use crate::canary::{self, Bug};
use crate::ledger::{Account, Seen};
use crate::model::{
    Currency, Flags, Kind, LogNumber, Operation, Place, Receipt, ReceiptFlags, ResultCode, Row, Seq,
};
use crate::protocol::write_rows;

use super::commit::Wait;
use super::prove::{Gap, Proved, Replay, receipt_of};
use super::running::Running;
use super::turn::{Outcome, Source, Turn};

const ROW_FROZEN: u32 = 1;

impl Running {
    pub(super) fn look_up(
        &mut self,
        operation: &Operation,
        source: &Source<'_>,
        turn: &mut Turn,
    ) -> Outcome {
        let is_recent = operation.flags().has(Flags::RECENT);
        if !turn.is_linked && !is_recent {
            return Outcome::bare(source, ResultCode::Unavailable);
        }
        match operation.kind() {
            Kind::Get => self.get(operation, source, turn),
            Kind::List => self.list(operation, source, turn),
            Kind::Find => self.find(operation, source, turn),
            Kind::Open
            | Kind::Close
            | Kind::Configure
            | Kind::Credit
            | Kind::Debit
            | Kind::Hold
            | Kind::Capture
            | Kind::Release
            | Kind::Transfer
            | Kind::Reverse
            | Kind::History => Outcome::bare(source, ResultCode::Unsupported),
        }
    }

    fn get(&self, operation: &Operation, source: &Source<'_>, turn: &Turn) -> Outcome {
        let currency = Currency::new(operation.currency()).expect("checked when read");
        let Some(account) = self.ledger.get(operation.user(), currency.get()) else {
            let receipt = Receipt {
                amount: self.shown_time(turn),
                ..Receipt::bare(source.index, ResultCode::NotFound)
            };
            return Outcome::Answer(receipt, self.shown(operation, None, turn));
        };
        let mut flags = ReceiptFlags(0);
        if account.frozen {
            flags = ReceiptFlags::FROZEN;
        }
        let receipt = Receipt {
            index: source.index,
            code: ResultCode::Ok,
            flags,
            available: account.available,
            held: account.held,
            version: account.version,
            place: account.place,
            amount: self.shown_time(turn),
        };
        Outcome::Answer(receipt, self.shown(operation, Some(account.place), turn))
    }

    fn list(&mut self, operation: &Operation, source: &Source<'_>, turn: &mut Turn) -> Outcome {
        let count = u32::try_from(operation.amount()).expect("bounded when read");
        if turn.rows_left < count {
            return Outcome::bare(source, ResultCode::Busy);
        }
        let mut accounts = std::mem::take(&mut self.scratch.accounts);
        accounts.clear();
        let user = operation.user();
        let more = self
            .ledger
            .list(user, operation.currency(), count, &mut accounts);
        turn.rows_left -= u32::try_from(accounts.len()).expect("at most what was asked for");
        self.scratch.rows.clear();
        self.scratch.rows.extend(accounts.iter().map(row_of));
        let (rows, frames) = (&self.scratch.rows, &mut self.scratch.row_frames);
        if !rows.is_empty() {
            write_rows(frames, source.request, source.index, rows);
        }
        let last = newest(
            self.verify.log,
            accounts.iter().map(|account| account.place),
        );
        self.scratch.accounts = accounts;
        // A page behind the user's last account is empty; a user without accounts is not there.
        let is_known = !self.scratch.rows.is_empty() || self.ledger.has_accounts(user);
        let code = if is_known {
            ResultCode::Ok
        } else {
            ResultCode::NotFound
        };
        let mut receipt = Receipt::bare(source.index, code);
        receipt.amount = self.shown_time(turn);
        if more {
            receipt.flags = ReceiptFlags::MORE;
        }
        Outcome::Answer(receipt, self.shown(operation, last, turn))
    }

    /// `find` that burns nothing; one that burns is a change.
    fn find(&self, operation: &Operation, source: &Source<'_>, turn: &Turn) -> Outcome {
        let id = operation.id().expect("checked when read");
        let seen = self.ledger.seen(operation.user(), id, self.time(turn));
        let (code, place) = match seen {
            Seen::Maybe(candidates) => match self.prove(&candidates, operation, source) {
                Proved::Known(place, change) => {
                    let receipt = receipt_of(source.index, operation, &change, place, Replay::Yes);
                    return Outcome::Answer(receipt, self.shown(operation, Some(place), turn));
                }
                Proved::Gap(Gap::Cold(place)) => return self.cold(place, source),
                Proved::Gap(Gap::Lost(code)) => (code, None),
                Proved::Unseen => (ResultCode::NotSeen, None),
            },
            Seen::New | Seen::Future | Seen::Full => (ResultCode::NotSeen, None),
            Seen::TooOld => {
                return match self.find_old(operation, source) {
                    Ok((receipt, place)) => {
                        Outcome::Answer(receipt, self.shown(operation, place, turn))
                    }
                    Err(outcome) => outcome,
                };
            }
        };
        let receipt = Receipt::bare(source.index, code);
        Outcome::Answer(receipt, self.shown(operation, place, turn))
    }

    /// Log time of the state that is shown.
    fn shown_time(&self, turn: &Turn) -> u64 {
        if self.builder.is_open() {
            self.time(turn).0 - 1
        } else {
            self.applied.time.0
        }
    }

    /// What an answer that shows state waits for. `last` is the newest place that it shows; `None`
    /// where it shows that something is not there.
    fn shown(&self, operation: &Operation, last: Option<Place>, turn: &Turn) -> Wait {
        if canary::on(Bug::UncommittedLookUp) {
            return Wait::default();
        }
        if operation.flags().has(Flags::RECENT)
            && let Some(place) = last
        {
            return self.wait_for(place);
        }
        let round = if self.builder.is_open() || canary::on(Bug::ReusedConfirmation) {
            // The open block is sent after this, and its acknowledgement is the round trip.
            0
        } else {
            turn.next_round
        };
        let exact = Wait {
            round,
            ..self.wait()
        };
        if operation.flags().has(Flags::RECENT) {
            self.wait()
        } else {
            exact
        }
    }

    /// The commit of the entry at `place`.
    fn wait_for(&self, place: Place) -> Wait {
        if place.log() != Some(self.verify.log) {
            return Wait::default();
        }
        if self.applied.offset <= place.offset() {
            return self.wait();
        }
        Wait {
            seq: self.commit.seq_of(place).unwrap_or(Seq(0)),
            round: 0,
        }
    }
}

/// The place among these that an answer has to wait for: the newest one in the own log. What came
/// with its slots from another log was committed before; its places tell nothing of those here.
fn newest(own: LogNumber, places: impl Iterator<Item = Place> + Clone) -> Option<Place> {
    let here = places.clone().filter(|place| place.log() == Some(own));
    here.max().or_else(|| places.max())
}

fn row_of(account: &Account) -> Row {
    Row {
        currency: account.currency,
        flags: if account.frozen { ROW_FROZEN } else { 0 },
        available: account.available,
        held: account.held,
        outgoing: account.outgoing,
        floor: account.floor,
        cap: account.cap,
        version: account.version,
        place: account.place,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `recent` list of a user with one account that came from a log of a higher number and one
    /// that was just changed here: the higher place was waited for, which is nothing to wait for
    /// on this node, and the change was shown before it was committed. Found by the simulator,
    /// seed 84.
    #[test]
    fn a_place_of_another_log_does_not_hide_one_of_the_own() {
        let place = |log, offset| Place::new(LogNumber::new(log).unwrap(), offset);
        let own = LogNumber::new(1).unwrap();
        let check = |places: &[Place], expected| {
            assert_eq!(newest(own, places.iter().copied()), expected);
        };
        check(&[], None);
        check(&[place(2, 64)], Some(place(2, 64)));
        check(&[place(1, 128), place(2, 64)], Some(place(1, 128)));
        let all = [place(3, 9_000), place(1, 64), place(1, 256), place(2, 64)];
        check(&all, Some(place(1, 256)));
    }
}
