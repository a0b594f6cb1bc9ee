//! The last phases: what is in doubt is asked for, and everything is read back.

use std::ops::Range;

use super::accounts::{Known, Sample, Unresolved};
use super::opening::Steps;
use super::work::{Next, Note, Request, Times, Work};
use crate::clock::{Now, Tick};
use crate::model::{Flags, OperationId, Receipt, ReceiptFlags, ResultCode, to_usize};

/// Answers to a question about an id that say nothing of what became of it.
const FORGOTTEN: [ResultCode; 3] = [
    ResultCode::IdTooOld,
    ResultCode::Never,
    ResultCode::BeyondRetention,
];

/// What reading all accounts back found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reckoning {
    /// Accounts read.
    pub(super) account_count: u64,
    /// Acknowledged changes that are not there.
    pub(super) lost: u64,
    /// Changes that are there but were not acknowledged, or twice.
    pub(super) doubled: u64,
    /// Accounts with the right number of changes and a wrong balance.
    pub(super) mismatched: u64,
}

impl Reckoning {
    /// Compares what an account holds with what it must hold.
    const fn judge(&mut self, known: Known, receipt: &Receipt) {
        self.account_count += 1;
        self.lost += known.version.saturating_sub(receipt.version);
        self.doubled += receipt.version.saturating_sub(known.version);
        let same_version = known.version == receipt.version;
        self.mismatched += (same_version && known.available != receipt.available) as u64;
    }
}

/// Reads the accounts of one thread back.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    known: &'a [Known],
    steps: Steps,
    pub(super) reckoning: Reckoning,
}

impl<'a> Reading<'a> {
    /// `known` is of all accounts, by number.
    pub(super) fn new(accounts: Range<u32>, known: &'a [Known]) -> Self {
        Self {
            known,
            steps: Steps::new(accounts),
            reckoning: Reckoning::default(),
        }
    }
}

impl Work for Reading<'_> {
    fn next(&mut self, now: Now) -> Next {
        self.steps.next(now.tick)
    }

    fn fill(&mut self, request: &mut Request<'_>) {
        for account in self.steps.take() {
            request.read(account, Flags(0));
        }
    }

    fn answered(&mut self, note: Note, _id: OperationId, times: Times, receipt: &Receipt) {
        if receipt.code.may_retry() {
            self.steps.retry(note.target, times.sent);
            return;
        }
        // An account that is not there has version 0: all its changes are lost.
        let known = self.known[to_usize(u64::from(note.target))];
        self.reckoning.judge(known, receipt);
        self.steps.done();
    }

    fn completed(&mut self, _times: Times, _at: Tick, _count: u32) {}

    fn lost(&mut self, note: Note, _id: OperationId) {
        self.steps.retry(note.target, Tick(0));
    }
}

/// Asks what became of changes: of those in doubt, and of samples of those answered.
#[derive(Debug)]
pub(super) struct Asking<'a> {
    unresolved: &'a [Unresolved],
    samples: &'a [Sample],
    steps: Steps,
    /// Changes in doubt that turn out to be applied: account, and what was moved.
    pub(super) applied: Vec<(u32, i64)>,
    /// Changes in doubt that are settled now, one way or the other.
    pub(super) resolved: u64,
    /// Samples that were answered as the first time.
    pub(super) equal: u64,
    /// Samples that were answered differently.
    pub(super) unequal: u64,
    /// Samples that are older than what is kept.
    pub(super) forgotten: u64,
}

impl<'a> Asking<'a> {
    pub(super) fn new(unresolved: &'a [Unresolved], samples: &'a [Sample]) -> Self {
        let count = unresolved.len() + samples.len();
        let count = u32::try_from(count).expect("far fewer than accounts");
        Self {
            unresolved,
            samples,
            steps: Steps::new(0..count),
            applied: Vec::new(),
            resolved: 0,
            equal: 0,
            unequal: 0,
            forgotten: 0,
        }
    }

    fn resolve(&mut self, doubt: Unresolved, receipt: &Receipt) {
        if FORGOTTEN.contains(&receipt.code) {
            self.forgotten += 1;
            return;
        }
        if receipt.code == ResultCode::Ok {
            let moved = i64::try_from(receipt.amount).unwrap_or(i64::MAX);
            let moved = if doubt.amount < 0 { -moved } else { moved };
            self.applied.push((doubt.account, moved));
        }
        // Else refused, or cancelled by this very question: no effect, for good.
        self.resolved += 1;
    }

    fn compare(&mut self, sample: &Sample, receipt: &Receipt) {
        if FORGOTTEN.contains(&receipt.code) {
            self.forgotten += 1;
            return;
        }
        let plain = |receipt: &Receipt| Receipt {
            index: 0,
            flags: receipt.flags.with(ReceiptFlags::REPLAYED),
            ..*receipt
        };
        if plain(receipt) == plain(&sample.receipt) {
            self.equal += 1;
        } else {
            self.unequal += 1;
        }
    }
}

impl Work for Asking<'_> {
    fn next(&mut self, now: Now) -> Next {
        self.steps.next(now.tick)
    }

    fn fill(&mut self, request: &mut Request<'_>) {
        for number in self.steps.take() {
            let place = to_usize(u64::from(number));
            if let Some(doubt) = self.unresolved.get(place) {
                request.find(doubt.id, doubt.account, number, Flags::BURN);
            } else {
                let sample = self.samples[place - self.unresolved.len()];
                request.find(sample.id, sample.account, number, Flags(0));
            }
        }
    }

    fn answered(&mut self, note: Note, _id: OperationId, times: Times, receipt: &Receipt) {
        if receipt.code.may_retry() {
            self.steps.retry(note.target, times.sent);
            return;
        }
        let place = to_usize(u64::from(note.target));
        if let Some(doubt) = self.unresolved.get(place) {
            self.resolve(*doubt, receipt);
        } else {
            let sample = self.samples[place - self.unresolved.len()];
            self.compare(&sample, receipt);
        }
        self.steps.done();
    }

    fn completed(&mut self, _times: Times, _at: Tick, _count: u32) {}

    fn lost(&mut self, note: Note, _id: OperationId) {
        self.steps.retry(note.target, Tick(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reckoning_names_what_is_wrong() {
        let known = Known {
            available: 70,
            version: 1_005,
        };
        let held = |available, version| Receipt {
            available,
            version,
            ..Receipt::bare(0, ResultCode::Ok)
        };
        let judged = |receipt| {
            let mut reckoning = Reckoning::default();
            reckoning.judge(known, &receipt);
            (reckoning.lost, reckoning.doubled, reckoning.mismatched)
        };
        assert_eq!(judged(held(70, 1_005)), (0, 0, 0));
        assert_eq!(judged(held(60, 1_003)), (2, 0, 0));
        assert_eq!(judged(held(80, 1_006)), (0, 1, 0));
        assert_eq!(judged(held(71, 1_005)), (0, 0, 1));
        assert_eq!(judged(Receipt::bare(0, ResultCode::NotFound)).0, 1_005);
    }

    #[test]
    fn a_second_answer_must_be_the_first_one_again() {
        let id = OperationId::from_parts(1, 1);
        let receipt = Receipt {
            available: 5,
            version: 9,
            ..Receipt::bare(3, ResultCode::Ok)
        };
        let samples = [Sample {
            account: 0,
            id,
            receipt,
        }];
        let ask = |answer: Receipt| {
            let mut asking = Asking::new(&[], &samples);
            asking.compare(&samples[0], &answer);
            (asking.equal, asking.unequal, asking.forgotten)
        };
        let again = Receipt {
            index: 0,
            flags: ReceiptFlags::REPLAYED,
            ..receipt
        };
        assert_eq!(ask(again), (1, 0, 0));
        let other = Receipt {
            available: 6,
            ..again
        };
        assert_eq!(ask(other), (0, 1, 0));
        assert_eq!(ask(Receipt::bare(0, ResultCode::NotSeen)), (0, 1, 0));
        assert_eq!(
            ask(Receipt::bare(0, ResultCode::BeyondRetention)),
            (0, 0, 1)
        );
    }
}
