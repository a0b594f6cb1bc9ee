//! What a bench knows of its accounts: enough to prove every answer afterwards.
//!
//! An account's version counts its changes, so version and balance together say whether each
//! acknowledged change was applied once: a lost one leaves the version short, a doubled one
//! drives it too far.

use crate::model::{OperationId, Receipt, ResultCode, to_usize};

/// What an account must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) available: i64,
    pub(super) version: u64,
}

/// What one thread changed on an account.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delta {
    sum: i64,
    count: u32,
}

/// A change whose outcome nobody told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unresolved {
    pub(super) account: u32,
    pub(super) amount: i32,
    pub(super) id: OperationId,
}

/// A change and its first receipt, to be asked for again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) account: u32,
    pub(super) id: OperationId,
    pub(super) receipt: Receipt,
}

/// Samples that one thread keeps at most: a few thousand questions take milliseconds.
const SAMPLE_COUNT_MAX: usize = 2_048;

/// What one thread learns while it sends.
#[derive(Debug)]
pub(super) struct Diary {
    /// By account; empty where no proof is wanted.
    deltas: Vec<Delta>,
    pub(super) unresolved: Vec<Unresolved>,
    pub(super) samples: Vec<Sample>,
    /// One change in so many is kept as a sample.
    stride: u64,
    change_count: u64,
}

impl Diary {
    /// For so many accounts; 0 = keep nothing.
    pub(super) fn new(account_count: usize) -> Self {
        Self {
            deltas: vec![Delta::default(); account_count],
            unresolved: Vec::new(),
            samples: Vec::new(),
            stride: 1,
            change_count: 0,
        }
    }

    const fn is_kept(&self) -> bool {
        !self.deltas.is_empty()
    }

    /// A change of `amount` was answered.
    pub(super) fn learn(&mut self, account: u32, amount: i32, id: OperationId, receipt: &Receipt) {
        if !self.is_kept() || amount == 0 {
            return;
        }
        if receipt.code == ResultCode::Ok {
            let moved = i64::try_from(receipt.amount).unwrap_or(i64::MAX);
            self.add(account, if amount < 0 { -moved } else { moved });
        }
        if receipt.code == ResultCode::Unknown {
            self.doubt(account, amount, id);
        } else if !receipt.code.may_retry() {
            self.sample(account, id, receipt);
        }
        // What is left is "not now": this copy was not applied and never will be.
    }

    /// What became of a change of `amount` is not known.
    pub(super) fn doubt(&mut self, account: u32, amount: i32, id: OperationId) {
        if self.is_kept() && amount != 0 {
            self.unresolved.push(Unresolved {
                account,
                amount,
                id,
            });
        }
    }

    /// Another change turns out to be applied.
    pub(super) fn add(&mut self, account: u32, amount: i64) {
        let delta = &mut self.deltas[to_usize(u64::from(account))];
        delta.sum += amount;
        delta.count += 1;
    }

    /// Keeps an even choice of all changes: when there are too many, every second one goes.
    fn sample(&mut self, account: u32, id: OperationId, receipt: &Receipt) {
        self.change_count += 1;
        if !self.change_count.is_multiple_of(self.stride) {
            return;
        }
        self.samples.push(Sample {
            account,
            id,
            receipt: *receipt,
        });
        if SAMPLE_COUNT_MAX <= self.samples.len() {
            let mut index = 0_usize;
            self.samples.retain(|_| {
                index += 1;
                index.is_multiple_of(2)
            });
            self.stride *= 2;
        }
    }

    /// Adds what this thread changed to what the accounts must hold.
    pub(super) fn settle(&self, known: &mut [Known]) {
        for (known, delta) in known.iter_mut().zip(&self.deltas) {
            known.available += delta.sum;
            known.version += u64::from(delta.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> OperationId {
        OperationId::from_parts(1_000, number)
    }

    fn receipt(code: ResultCode, amount: u64) -> Receipt {
        Receipt {
            amount,
            ..Receipt::bare(0, code)
        }
    }

    #[test]
    fn what_was_acknowledged_is_what_must_be_there() {
        let mut diary = Diary::new(2);
        diary.learn(0, 70, id(1), &receipt(ResultCode::Ok, 70));
        diary.learn(0, -50, id(2), &receipt(ResultCode::Ok, 50));
        // An up-to debit may move less than was asked for.
        diary.learn(1, -50, id(3), &receipt(ResultCode::Ok, 20));
        diary.learn(1, -50, id(4), &receipt(ResultCode::Insufficient, 0));
        diary.learn(1, 9, id(5), &receipt(ResultCode::Busy, 0));
        diary.learn(1, 0, id(6), &receipt(ResultCode::Ok, 77));
        diary.learn(1, 5, id(7), &receipt(ResultCode::Unknown, 0));
        let start = Known {
            available: 100,
            version: 1_000,
        };
        let mut known = [start; 2];
        diary.settle(&mut known);
        let expect = |available, version| Known { available, version };
        assert_eq!(known, [expect(120, 1_002), expect(80, 1_001)]);
        assert_eq!(diary.unresolved.len(), 1);
        // Every decided change may be asked for again, refused ones too.
        assert_eq!(diary.samples.len(), 4);
    }

    #[test]
    fn samples_are_spread_over_the_whole_run() {
        let mut diary = Diary::new(1);
        for number in 1..=100_000 {
            diary.learn(0, 1, id(number), &receipt(ResultCode::Ok, 1));
        }
        assert!(SAMPLE_COUNT_MAX / 4 < diary.samples.len());
        assert!(diary.samples.len() < SAMPLE_COUNT_MAX);
        let stride = u128::from(diary.stride);
        let ids: Vec<_> = diary.samples.iter().map(|sample| sample.id).collect();
        assert!(
            ids.windows(2)
                .all(|pair| pair[1].get() - pair[0].get() == stride)
        );
    }

    #[test]
    fn without_a_proof_nothing_is_kept() {
        let mut diary = Diary::new(0);
        diary.learn(7, 70, id(1), &receipt(ResultCode::Ok, 70));
        diary.doubt(7, 70, id(2));
        assert!(diary.samples.is_empty() && diary.unresolved.is_empty());
    }
}
