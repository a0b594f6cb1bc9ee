//! Sums over the accounts of some slots: gathered in steps while the ledger goes on, and exact from
//! the last step on, so that a hand-over needs no walk over the accounts.

use std::collections::BTreeMap;

use super::record::AccountRecord;
use super::slot_set::SlotSet;
use crate::model::{HandedSum, MoveNumber, Slot, SlotRange};

/// What accounts hold, by currency.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums(BTreeMap<u32, HandedSum>);

impl Sums {
    pub(super) fn add(&mut self, account: &AccountRecord) {
        let sum = self.of(account.currency);
        sum.account_count += 1;
        sum.available += i128::from(account.available);
        sum.held += i128::from(account.held);
    }

    fn subtract(&mut self, account: &AccountRecord) {
        let sum = self.of(account.currency);
        sum.account_count -= 1;
        sum.available -= i128::from(account.available);
        sum.held -= i128::from(account.held);
    }

    pub(super) fn account_count(&self) -> u64 {
        self.0.values().map(|sum| sum.account_count).sum()
    }

    pub(super) fn has(&self, currency: u32) -> bool {
        self.0.contains_key(&currency)
    }

    /// Currencies with an account, rising.
    pub(super) fn iter(&self) -> impl Iterator<Item = HandedSum> + '_ {
        let sums = self.0.values().copied();
        sums.filter(|sum| sum.account_count != 0)
    }

    fn of(&mut self, currency: u32) -> &mut HandedSum {
        self.0.entry(currency).or_insert(HandedSum {
            currency,
            ..HandedSum::default()
        })
    }
}

/// Slots that are watched.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) number: MoveNumber,
    pub(super) slots: SlotSet,
    /// Accounts whose line is below this are in the sums.
    pub(super) cursor: u32,
    pub(super) sums: Sums,
}

/// Where everything is in the sums, lines that come to be later too.
const COMPLETE: u32 = u32::MAX;

impl Watch {
    pub(super) fn new(number: MoveNumber, ranges: &[SlotRange]) -> Self {
        Self {
            number,
            slots: SlotSet::of(ranges),
            cursor: 0,
            sums: Sums::default(),
        }
    }

    pub(super) const fn is_complete(&self) -> bool {
        self.cursor == COMPLETE
    }

    pub(super) const fn complete(&mut self) {
        self.cursor = COMPLETE;
    }

    /// An account in line `line` changed, came or went.
    pub(super) fn follow(
        &mut self,
        slot: Slot,
        line: u32,
        before: Option<&AccountRecord>,
        after: Option<&AccountRecord>,
    ) {
        if self.cursor <= line || !self.slots.contains(slot) {
            return;
        }
        if let Some(account) = before {
            self.sums.subtract(account);
        }
        if let Some(account) = after {
            self.sums.add(account);
        }
    }
}
