//! The first phase: every account is opened, filled, and its state learnt.

use std::ops::Range;

use super::accounts::Known;
use super::work::{Next, Note, Request, Times, Work};
use crate::clock::{Now, Tick};
use crate::model::{Flags, OperationId, Receipt, ResultCode, to_u64, to_usize};

/// What every account is given: far more than the debits of a run take from it.
const FIRST_AMOUNT: i32 = 1_000_000_000;

/// Operations of a request, in phases that are not measured.
pub(super) const STEP_COUNT: u32 = 1_000;

/// How long an account waits after a not-now answer, in milliseconds.
const RETRY_MS: u64 = 20;

/// Accounts of one thread in phases that go through all of them once: an even share, in one piece.
pub(super) fn share_of(count: usize, thread: u32, thread_count: u32) -> Range<u32> {
    let bound = |number: u32| {
        let whole = to_u64(count) * u64::from(number);
        let part = whole.div_euclid(u64::from(thread_count));
        u32::try_from(part).expect("accounts are counted in 32 bits")
    };
    bound(thread)..bound(thread + 1)
}

/// Goes through a range of numbers once, and again through those that were told "not now".
#[derive(Debug)]
pub(super) struct Steps {
    fresh: Range<u32>,
    again: Vec<u32>,
    again_at: Tick,
    /// How many are not done for good.
    left: usize,
}

impl Steps {
    pub(super) fn new(numbers: Range<u32>) -> Self {
        Self {
            left: numbers.len(),
            fresh: numbers,
            again: Vec::new(),
            again_at: Tick(0),
        }
    }

    pub(super) fn next(&self, now: Tick) -> Next {
        if self.left == 0 {
            Next::Over
        } else if !self.fresh.is_empty() {
            Next::Send(now)
        } else if self.again.is_empty() {
            Next::Idle
        } else if now < self.again_at {
            Next::Wait(self.again_at)
        } else {
            Next::Send(now)
        }
    }

    /// The numbers of the next request.
    pub(super) fn take(&mut self) -> Vec<u32> {
        let mut taken: Vec<u32> = Vec::new();
        let count_max = to_usize(u64::from(STEP_COUNT));
        taken.extend(self.fresh.by_ref().take(count_max));
        if taken.is_empty() {
            let from = self.again.len().saturating_sub(count_max);
            taken = self.again.split_off(from);
        }
        taken
    }

    pub(super) const fn done(&mut self) {
        self.left -= 1;
    }

    pub(super) fn retry(&mut self, number: u32, sent: Tick) {
        self.again.push(number);
        self.again_at = self.again_at.max(sent.plus_ms(RETRY_MS));
    }

    /// Nothing more is sent.
    pub(super) fn stop(&mut self) {
        self.left = 0;
    }
}

/// Opens the accounts of one thread.
#[derive(Debug)]
pub(super) struct Opening {
    first: u32,
    steps: Steps,
    known: Vec<Known>,
    fault: Option<String>,
}

impl Opening {
    pub(super) fn new(accounts: Range<u32>) -> Self {
        Self {
            first: accounts.start,
            known: vec![Known::default(); accounts.len()],
            steps: Steps::new(accounts),
            fault: None,
        }
    }

    /// What the accounts hold, in their order.
    pub(super) fn finish(self) -> Result<Vec<Known>, String> {
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(self.known),
        }
    }

    fn fail(&mut self, text: String) {
        self.fault.get_or_insert(text);
        self.steps.stop();
    }
}

impl Work for Opening {
    fn next(&mut self, now: Now) -> Next {
        self.steps.next(now.tick)
    }

    fn fill(&mut self, request: &mut Request<'_>) {
        for account in self.steps.take() {
            request.change(account, FIRST_AMOUNT, Flags::OPEN_IF_MISSING);
        }
    }

    fn answered(&mut self, note: Note, id: OperationId, times: Times, receipt: &Receipt) {
        if self.fault.is_some() {
            return;
        }
        if receipt.code == ResultCode::Ok {
            let place = to_usize(u64::from(note.target - self.first));
            self.known[place] = Known {
                available: receipt.available,
                version: receipt.version,
            };
            self.steps.done();
        } else if receipt.code == ResultCode::Unknown {
            self.lost(note, id);
        } else if receipt.code.may_retry() {
            self.steps.retry(note.target, times.sent);
        } else {
            let code = receipt.code.name();
            self.fail(format!("account {} is answered {code}", note.target));
        }
    }

    fn completed(&mut self, _times: Times, _at: Tick, _count: u32) {}

    fn lost(&mut self, note: Note, _id: OperationId) {
        // A second credit would be a second effect, and what a proof starts from must be known.
        self.fail(format!(
            "the outcome for account {} is unknown",
            note.target
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_whole() {
        for (count, threads) in [(10, 3), (1, 4), (1_000_000, 7), (0, 2)] {
            let shares: Vec<_> = (0..threads).map(|t| share_of(count, t, threads)).collect();
            assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert_eq!(shares[0].start, 0);
            assert_eq!(to_usize(u64::from(shares.last().unwrap().end)), count);
            let sizes: Vec<_> = shares.iter().map(ExactSizeIterator::len).collect();
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn not_now_is_asked_again_after_a_pause() {
        let mut steps = Steps::new(0..2);
        assert_eq!(steps.next(Tick(5)), Next::Send(Tick(5)));
        assert_eq!(steps.take(), [0, 1]);
        assert_eq!(steps.next(Tick(5)), Next::Idle);
        steps.done();
        steps.retry(1, Tick(5));
        let again = Tick(5).plus_ms(RETRY_MS);
        assert_eq!(steps.next(Tick(6)), Next::Wait(again));
        assert_eq!(steps.next(again), Next::Send(again));
        assert_eq!(steps.take(), [1]);
        steps.done();
        assert_eq!(steps.next(again), Next::Over);
    }
}
