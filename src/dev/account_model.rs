//! What a drill's client knows of its accounts from the answers it got: nothing else.
//!
//! It shares no code with the ledger. Every receipt is compared with what one sequential history
//! of the account would give; in the end the account is read back and compared with the sum of
//! what was acknowledged.

use crate::model::{Flags, Kind, Operation, Receipt, ReceiptFlags, ResultCode};

/// How far the answers and the accounts are apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Acknowledged changes that are not in the account.
    pub(super) lost: u64,
    /// Changes in the account beyond those acknowledged.
    pub(super) doubled: u64,
    /// Receipts that fit no sequential history of their account.
    pub(super) mismatched: u64,
}

impl Verdict {
    pub(super) const fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.mismatched += other.mismatched;
    }

    /// Is there nothing to say?
    pub(super) const fn is_clean(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.mismatched == 0
    }
}

/// One account as its only client knows it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KnownAccount {
    available: i64,
    /// Version that the first change gave; 0 = not opened yet.
    first_version: u64,
    /// Acknowledged changes after the first.
    change_count: u64,
    /// Changes whose outcome is not known yet.
    open_count: u32,
}

impl KnownAccount {
    /// What the account should have, once nothing about it is unknown.
    pub(super) const fn available(&self) -> i64 {
        self.available
    }

    /// Was it opened, as far as is known?
    pub(super) const fn is_open(&self) -> bool {
        self.first_version != 0
    }

    /// Takes in the answer to a change. True if it fits.
    pub(super) fn learn(&mut self, operation: &Operation, receipt: &Receipt) -> bool {
        let code = receipt.code;
        if code == ResultCode::Ok {
            return self.learn_done(operation, receipt);
        }
        if code == ResultCode::Unknown {
            self.open_count += 1;
            return true;
        }
        if code == ResultCode::Insufficient {
            let amount = i64::try_from(operation.amount()).unwrap_or(i64::MAX);
            let justified = operation.kind() == Kind::Debit && self.available < amount;
            return self.open_count != 0 || (justified && receipt.available == self.available);
        }
        if code == ResultCode::NotFound {
            return self.open_count != 0 || !self.is_open();
        }
        code.may_retry()
    }

    /// Takes in what `find` with `burn` said about a change whose outcome was unknown.
    /// True if that settles it.
    pub(super) fn resolve(&mut self, operation: &Operation, receipt: &Receipt) -> bool {
        let never = [
            ResultCode::Cancelled,
            ResultCode::Insufficient,
            ResultCode::NotFound,
        ];
        if receipt.code == ResultCode::Ok {
            self.count(operation, receipt);
        } else if !never.contains(&receipt.code) {
            return false;
        }
        self.open_count -= 1;
        true
    }

    fn learn_done(&mut self, operation: &Operation, receipt: &Receipt) -> bool {
        let before = self.available;
        self.count(operation, receipt);
        let whole = operation.kind() == Kind::Credit || !operation.flags().has(Flags::UP_TO);
        let there = u64::try_from(before).unwrap_or(0);
        let due = if whole {
            operation.amount()
        } else {
            operation.amount().min(there)
        };
        let moved_fits = receipt.amount == due || self.open_count != 0;
        let balance_fits = receipt.available == self.available;
        let version_fits = receipt.version == self.first_version + self.change_count;
        self.open_count != 0 || (moved_fits && balance_fits && version_fits)
    }

    fn count(&mut self, operation: &Operation, receipt: &Receipt) {
        let amount = i64::try_from(receipt.amount).unwrap_or(i64::MAX);
        self.available += if operation.kind() == Kind::Credit {
            amount
        } else {
            -amount
        };
        if receipt.flags.has(ReceiptFlags::CREATED) {
            self.first_version = receipt.version;
        } else {
            self.change_count += 1;
        }
    }

    /// Compares the account as it was read back (`None`: it is not there).
    pub(super) fn judge(&self, found: Option<&Receipt>) -> Verdict {
        let mut verdict = Verdict::default();
        let expected = if self.is_open() {
            self.change_count + 1
        } else {
            0
        };
        let actual = match found {
            Some(receipt) if self.is_open() => {
                receipt.version.saturating_sub(self.first_version) + 1
            }
            Some(_) => 1,
            None => 0,
        };
        verdict.lost = expected.saturating_sub(actual);
        verdict.doubled = actual.saturating_sub(expected);
        let available = found.map_or(0, |receipt| receipt.available);
        if verdict.is_clean() && available != self.available {
            // As many changes as there should be, and yet another balance.
            verdict.lost = 1;
            verdict.doubled = 1;
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Currency, OperationId, Place, UserId};

    fn credit(amount: u64) -> Operation {
        let user = UserId::new(1).unwrap();
        Operation::credit(
            OperationId::from_parts(1, 1),
            user,
            Currency::new(1).unwrap(),
            amount,
        )
    }

    fn receipt(available: i64, version: u64, amount: u64) -> Receipt {
        Receipt {
            available,
            version,
            amount,
            place: Place(1),
            ..Receipt::bare(0, ResultCode::Ok)
        }
    }

    fn opened() -> KnownAccount {
        let mut account = KnownAccount::default();
        let mut first = receipt(100, 50, 100);
        first.flags = ReceiptFlags::CREATED;
        assert!(account.learn(&credit(100), &first));
        account
    }

    #[test]
    fn a_true_account_is_clean() {
        let mut account = opened();
        assert!(account.learn(&credit(5), &receipt(105, 51, 5)));
        assert!(account.judge(Some(&receipt(105, 51, 0))).is_clean());
    }

    #[test]
    fn a_lost_change_is_seen() {
        let mut account = opened();
        assert!(account.learn(&credit(5), &receipt(105, 51, 5)));
        assert_eq!(account.judge(Some(&receipt(100, 50, 0))).lost, 1);
        assert_eq!(account.judge(None).lost, 2);
    }

    #[test]
    fn a_doubled_change_is_seen() {
        let account = opened();
        assert_eq!(account.judge(Some(&receipt(200, 51, 0))).doubled, 1);
    }

    #[test]
    fn a_wrong_balance_is_seen() {
        let account = opened();
        let verdict = account.judge(Some(&receipt(99, 50, 0)));
        assert_eq!((verdict.lost, verdict.doubled), (1, 1));
    }

    #[test]
    fn a_receipt_out_of_order_is_seen() {
        let mut account = opened();
        assert!(!account.learn(&credit(5), &receipt(110, 52, 5)));
    }

    #[test]
    fn an_unknown_outcome_is_settled_either_way() {
        let mut account = opened();
        let unknown = Receipt::bare(0, ResultCode::Unknown);
        assert!(account.learn(&credit(5), &unknown));
        assert!(account.resolve(&credit(5), &receipt(105, 51, 5)));
        assert!(account.judge(Some(&receipt(105, 51, 0))).is_clean());
        assert!(account.learn(&credit(7), &unknown));
        assert!(account.resolve(&credit(7), &Receipt::bare(0, ResultCode::Cancelled)));
        assert!(account.judge(Some(&receipt(105, 51, 0))).is_clean());
    }
}
