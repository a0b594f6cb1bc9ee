//! Supply by currency: what came in and went out, beside what the accounts hold.
//!
//! The counters grow by what entries say was moved; the sums follow the accounts' own balances.
//! Neither is computed from the other, so their identity proves that no coin was made or lost.
#![deny(clippy::arithmetic_side_effects)]

use super::bits::{high_word, join, low_half, low_word};
use super::record::{AccountRecord, read_words};
use crate::canary::{self, Bug};
use crate::limits::CURRENCY_COUNT_MAX;
use crate::model::{HandedSum, Map, new_map, to_u64};

/// Bytes of a supply record in a checkpoint: currency, 4 bytes of zero, number of accounts, then
/// issued, burned, sent, received, returned, adopted in, adopted out, available, held.
pub const SUPPLY_RECORD_SIZE: usize = 160;

const WORD_COUNT: usize = 20;
const _: () = assert!(WORD_COUNT * size_of::<u64>() == SUPPLY_RECORD_SIZE);

/// Bound of every sum that is loaded. Entries add 64-bit amounts to it, so nothing overflows.
const SUM_MAX: u128 = 1 << 120;

/// What one currency's accounts hold and why, in minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Supply {
    /// Credited from outside.
    pub issued: u128,
    /// Debited to outside.
    pub burned: u128,
    /// Left for payees on other nodes.
    pub sent: u128,
    /// Came from payers on other nodes.
    pub received: u128,
    /// Came back from payees that refused.
    pub returned: u128,
    /// Came with slots.
    pub adopted_in: i128,
    /// Left with slots.
    pub adopted_out: i128,
    /// Sum of the accounts' available balances.
    pub available: i128,
    /// Sum of the accounts' held balances.
    pub held: i128,
    /// Accounts in this currency.
    pub account_count: u64,
}

/// The identity of a currency does not hold: coins were made or lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("supply of currency {currency}: accounts hold {held}, counters say {expected}")]
pub struct SupplyBroken {
    /// Which.
    pub currency: u32,
    /// Available + held of all accounts.
    pub held: i128,
    /// Issued - burned + received + returned - sent + adopted in - adopted out.
    pub expected: i128,
}

/// What a change does to the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) issued: u64,
    pub(super) burned: u64,
}

const IN_RANGE: &str = "sums of 64-bit amounts stay far below 2^127";

impl Supply {
    /// Checks: available + held = issued - burned + received + returned - sent + adopted in -
    /// adopted out.
    pub fn check(&self, currency: u32) -> Result<(), SupplyBroken> {
        let signed = |sum: u128| i128::try_from(sum).expect(IN_RANGE);
        let terms = [
            signed(self.issued),
            signed(self.burned).checked_neg().expect(IN_RANGE),
            signed(self.received),
            signed(self.returned),
            signed(self.sent).checked_neg().expect(IN_RANGE),
            self.adopted_in,
            self.adopted_out.checked_neg().expect(IN_RANGE),
        ];
        let add = |sum: i128, term: i128| sum.checked_add(term).expect(IN_RANGE);
        let expected = terms.into_iter().fold(0, add);
        let held = add(self.available, self.held);
        if held == expected {
            Ok(())
        } else {
            Err(SupplyBroken {
                currency,
                held,
                expected,
            })
        }
    }

    /// Counts what came in and went out.
    pub(super) fn flow(&mut self, flow: Flow) {
        if canary::on(Bug::SupplyNotCounted) && flow.burned != 0 {
            return;
        }
        self.issued = self
            .issued
            .checked_add(u128::from(flow.issued))
            .expect(IN_RANGE);
        self.burned = self
            .burned
            .checked_add(u128::from(flow.burned))
            .expect(IN_RANGE);
    }

    /// Takes an account's balances into the sums.
    pub(super) fn account_in(&mut self, account: &AccountRecord) {
        let (available, held) = (i128::from(account.available), i128::from(account.held));
        self.available = self.available.checked_add(available).expect(IN_RANGE);
        self.held = self.held.checked_add(held).expect(IN_RANGE);
        self.account_count = self.account_count.checked_add(1).expect(IN_RANGE);
    }

    /// Takes an account's balances out of the sums.
    pub(super) fn account_out(&mut self, account: &AccountRecord) {
        let (available, held) = (i128::from(account.available), i128::from(account.held));
        self.available = self.available.checked_sub(available).expect(IN_RANGE);
        self.held = self.held.checked_sub(held).expect(IN_RANGE);
        self.account_count = self.account_count.checked_sub(1).expect("it was counted");
    }

    /// What slots held leaves with them.
    pub(super) fn hand_over(&mut self, sum: &HandedSum) {
        self.available = self.available.checked_sub(sum.available).expect(IN_RANGE);
        self.held = self.held.checked_sub(sum.held).expect(IN_RANGE);
        let rest = self.account_count.checked_sub(sum.account_count);
        self.account_count = rest.expect("it was counted");
        let total = sum.available.checked_add(sum.held).expect(IN_RANGE);
        self.adopted_out = self.adopted_out.checked_add(total).expect(IN_RANGE);
    }

    /// What slots hold comes with them.
    pub(super) fn adopt(&mut self, sum: &HandedSum) {
        self.available = self.available.checked_add(sum.available).expect(IN_RANGE);
        self.held = self.held.checked_add(sum.held).expect(IN_RANGE);
        let count = self.account_count.checked_add(sum.account_count);
        self.account_count = count.expect(IN_RANGE);
        let total = sum.available.checked_add(sum.held).expect(IN_RANGE);
        self.adopted_in = self.adopted_in.checked_add(total).expect(IN_RANGE);
    }

    pub(super) fn write(&self, currency: u32, records: &mut Vec<u8>) {
        let mut words = [0; WORD_COUNT];
        words[0] = u64::from(currency);
        words[1] = self.account_count;
        for (pair, sum) in words[2..].chunks_exact_mut(2).zip(self.sums()) {
            pair.copy_from_slice(&[low_word(sum), high_word(sum)]);
        }
        for word in words {
            records.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// Reads one record. The error says what is wrong with it.
    pub(super) fn read(bytes: &[u8; SUPPLY_RECORD_SIZE]) -> Result<(u32, Self), &'static str> {
        let mut words = [0; WORD_COUNT];
        read_words(bytes, &mut words);
        let currency = low_half(words[0]);
        if currency == 0 || words[0] != u64::from(currency) {
            return Err("currency 0, or bytes that must be zero are not");
        }
        let sum = |at: usize| join(words[at], words[at.wrapping_add(1)]);
        let signed = |at: usize| sum(at).cast_signed();
        let supply = Self {
            account_count: words[1],
            issued: sum(2),
            burned: sum(4),
            sent: sum(6),
            received: sum(8),
            returned: sum(10),
            adopted_in: signed(12),
            adopted_out: signed(14),
            available: signed(16),
            held: signed(18),
        };
        let counters = [
            supply.issued,
            supply.burned,
            supply.sent,
            supply.received,
            supply.returned,
        ];
        let sums = [
            supply.adopted_in,
            supply.adopted_out,
            supply.available,
            supply.held,
        ];
        let small = counters.into_iter().chain(sums.map(i128::unsigned_abs));
        if small.into_iter().all(|sum| sum <= SUM_MAX) {
            Ok((currency, supply))
        } else {
            Err("a sum above 2^120")
        }
    }

    const fn sums(&self) -> [u128; 9] {
        [
            self.issued,
            self.burned,
            self.sent,
            self.received,
            self.returned,
            self.adopted_in.cast_unsigned(),
            self.adopted_out.cast_unsigned(),
            self.available.cast_unsigned(),
            self.held.cast_unsigned(),
        ]
    }
}

#[derive(Debug)]
struct SupplyLine {
    currency: u32,
    touched: bool,
    supply: Supply,
}

/// The supply of all currencies a ledger ever had.
#[derive(Debug)]
pub(super) struct Supplies {
    lines: Vec<SupplyLine>,
    numbers: Map<u32, usize>,
    touched: Vec<usize>,
    /// The currency of the last change and its line: most blocks are about few currencies.
    last: (u32, usize),
}

impl Supplies {
    pub(super) fn new() -> Self {
        // No currency has code 0, so `last` starts as no hit.
        Self {
            lines: Vec::new(),
            numbers: new_map(),
            touched: Vec::new(),
            last: (0, 0),
        }
    }

    /// May an account in this currency be opened, with room kept for `kept_count` others?
    pub(super) fn has_room(&self, currency: u32, kept_count: u32) -> bool {
        let count = to_u64(self.lines.len()).saturating_add(u64::from(kept_count));
        count < u64::from(CURRENCY_COUNT_MAX) || self.numbers.contains_key(&currency)
    }

    /// The supply of a currency that was ever used.
    pub(super) fn get(&self, currency: u32) -> Option<&Supply> {
        let number = self.numbers.get(&currency)?;
        Some(&self.lines[*number].supply)
    }

    /// The supply of a currency, made if need be; it is checked with the next [`Self::check`].
    #[inline]
    pub(super) fn touch(&mut self, currency: u32) -> &mut Supply {
        if self.last.0 != currency {
            self.last = (currency, self.number(currency));
        }
        let number = self.last.1;
        let line = &mut self.lines[number];
        if !line.touched {
            line.touched = true;
            self.touched.push(number);
        }
        &mut line.supply
    }

    /// Checks all that were touched since the last call; the first that is broken is named.
    pub(super) fn check(&mut self) -> Result<(), SupplyBroken> {
        let mut result = Ok(());
        for number in self.touched.drain(..) {
            let line = &mut self.lines[number];
            line.touched = false;
            result = result.and(line.supply.check(line.currency));
        }
        result
    }

    /// All, by currency.
    pub(super) fn sorted(&self) -> Vec<(u32, Supply)> {
        let mut all: Vec<(u32, Supply)> = self
            .lines
            .iter()
            .map(|line| (line.currency, line.supply))
            .collect();
        all.sort_unstable_by_key(|(currency, _)| *currency);
        all
    }

    pub(super) fn memory_size(&self) -> u64 {
        let lines = self
            .lines
            .capacity()
            .saturating_mul(size_of::<SupplyLine>());
        let numbers = self
            .numbers
            .capacity()
            .saturating_mul(size_of::<(u32, usize)>());
        to_u64(lines.saturating_add(numbers))
    }

    fn number(&mut self, currency: u32) -> usize {
        let lines = &mut self.lines;
        *self.numbers.entry(currency).or_insert_with(|| {
            lines.push(SupplyLine {
                currency,
                touched: false,
                supply: Supply::default(),
            });
            lines.len().wrapping_sub(1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supply() -> Supply {
        Supply {
            issued: 100,
            burned: 30,
            sent: 7,
            received: 5,
            returned: 2,
            adopted_in: -4,
            adopted_out: 6,
            available: -40,
            held: 100,
            account_count: 3,
        }
    }

    #[test]
    fn the_identity_names_what_is_lost() {
        assert_eq!(supply().check(9), Ok(()));
        let broken = Supply {
            held: 99,
            ..supply()
        };
        assert_eq!(
            broken.check(9),
            Err(SupplyBroken {
                currency: 9,
                held: 59,
                expected: 60
            })
        );
    }

    #[test]
    fn reads_back() {
        let mut bytes = Vec::new();
        supply().write(77, &mut bytes);
        let mut bytes: [u8; SUPPLY_RECORD_SIZE] = bytes.as_slice().try_into().unwrap();
        assert_eq!(Supply::read(&bytes), Ok((77, supply())));
        bytes[31] = 0x80;
        assert!(Supply::read(&bytes).is_err());
        bytes[31] = 0;
        bytes[4] = 1;
        assert!(Supply::read(&bytes).is_err());
    }
}
