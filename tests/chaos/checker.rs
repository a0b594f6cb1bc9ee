//! The one checker of all these tests: reads the clients' record and says what does not fit.
//!
//! By id: every acknowledged change has one outcome, the same whenever it was asked for; what was
//! refused for now was not applied; nothing is left unknown. By account: one sequential history
//! (`account.rs`). In sum: the audit equals what the clients know.

use std::collections::BTreeMap;

use counterfoil::client::AuditRow;
use counterfoil::model::{
    CodeClass, Flags, Kind, LogNumber, Operation, OperationId, Place, Receipt, ReceiptFlags,
    ResultCode,
};

use crate::account::{self, Sight, Sums, Violation};
use crate::record::Event;

/// Whose change, and its id.
pub(crate) type Key = (u128, u128);

/// What became of one id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fate {
    /// What it was first sent with.
    pub(crate) operation: Operation,
    /// Number of its first intent.
    pub(crate) sent: u64,
    /// Its outcome and the number of the answer that told it first.
    pub(crate) outcome: Option<(u64, Receipt)>,
    /// A copy ended in "unknown" or without any answer.
    pub(crate) is_in_doubt: bool,
    /// Number of the last "not seen".
    not_seen: Option<u64>,
}

/// What a record says.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) violations: Vec<Violation>,
    pub(crate) fates: BTreeMap<Key, Fate>,
    /// By currency.
    pub(crate) sums: BTreeMap<u32, Sums>,
    pub(crate) account_count: BTreeMap<u32, u64>,
    /// How often each kind was sent and each code was told.
    pub(crate) counts: BTreeMap<String, u64>,
    /// Take-overs and planned moves that the logs tell of, as far as they are kept.
    pub(crate) hand_over_counts: (u64, u64),
}

impl Verdict {
    pub(crate) fn count(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    fn add(&mut self, what: String) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn wrong(&mut self, text: String) {
        self.violations.push(Violation::Wrong(text));
    }

    /// Acknowledged changes, refusals included.
    pub(crate) fn acknowledged(&self) -> u64 {
        let known = self.fates.values().filter(|fate| fate.outcome.is_some());
        known.count() as u64
    }

    pub(crate) fn lost(&self) -> usize {
        let lost = |violation: &&Violation| matches!(violation, Violation::Lost(_));
        self.violations.iter().filter(lost).count()
    }

    pub(crate) fn doubled(&self) -> usize {
        let doubled = |violation: &&Violation| matches!(violation, Violation::Doubled(_));
        self.violations.iter().filter(doubled).count()
    }
}

/// Outcomes that are final for an id.
const fn is_outcome(code: ResultCode) -> bool {
    matches!(code.class(), CodeClass::Done | CodeClass::Refusal)
}

fn key_of(operation: &Operation) -> Option<Key> {
    let id = operation.id().map(OperationId::get)?;
    Some((operation.user().get(), id))
}

/// Every id of a record and what became of it, as far as it was told.
pub(crate) fn fates(events: &[Event]) -> BTreeMap<Key, Fate> {
    let mut verdict = Verdict::default();
    collect(events, &mut verdict);
    verdict.fates
}

/// Judges a whole record. Everything in it must have been asked for again in the end.
pub(crate) fn judge(events: &[Event]) -> Verdict {
    let mut verdict = Verdict::default();
    collect(events, &mut verdict);
    let fates = std::mem::take(&mut verdict.fates);
    for (key, fate) in &fates {
        match (fate.outcome, fate.not_seen) {
            (None, Some(_)) if !fate.is_in_doubt => verdict.add("never applied".to_owned()),
            (None, _) => {
                let text = format!("id {:032x} was not settled: {fate:?}", key.1);
                verdict.wrong(text);
            }
            (Some(_), _) => (),
        }
    }
    judge_accounts(events, &fates, &mut verdict);
    verdict.fates = fates;
    verdict
}

fn collect(events: &[Event], verdict: &mut Verdict) {
    for event in events {
        let operation = &event.intent.operation;
        verdict.add(format!("sent {}", operation.kind().name()));
        let Some(key) = key_of(operation) else {
            continue;
        };
        let is_find = operation.kind() == Kind::Find;
        let fate = verdict.fates.entry(key).or_insert(Fate {
            operation: *operation,
            sent: event.intent.number,
            outcome: None,
            is_in_doubt: false,
            not_seen: None,
        });
        let is_reuse = !is_find && fate.operation != *operation;
        let is_unknown = match event.told {
            None => true,
            Some(told) => told.receipt.code == ResultCode::Unknown,
        };
        fate.is_in_doubt |= is_unknown && !is_find;
        if is_reuse {
            verdict.add("sent with an id that was used".to_owned());
        }
    }
    let mut told: Vec<&Event> = events.iter().filter(|event| event.told.is_some()).collect();
    told.sort_unstable_by_key(|event| event.told.map(|told| told.number));
    for event in told {
        take_answer(event, verdict);
    }
}

fn take_answer(event: &Event, verdict: &mut Verdict) {
    let operation = &event.intent.operation;
    let Some(told) = event.told else {
        return;
    };
    let (number, receipt) = (told.number, told.receipt);
    let code = receipt.code;
    verdict.add(format!("told {}", code.name()));
    if code.class() == CodeClass::Malformed {
        verdict.wrong(format!("malformed: {event:?}"));
    }
    let Some(key) = key_of(operation) else {
        return;
    };
    if receipt.flags.has(ReceiptFlags::REPLAYED) && operation.kind() != Kind::Find {
        verdict.add("replayed".to_owned());
    }
    let fate = verdict.fates.get_mut(&key).expect("collected before");
    let is_find = operation.kind() == Kind::Find;
    let is_other = !is_find && fate.operation != *operation;
    let known = fate.outcome.filter(|(at, _)| *at < event.intent.number);
    if is_other {
        // Only ids whose outcome is known are used again.
        let due = code == ResultCode::IdReused || code.may_retry();
        if !due {
            let text = format!("an id was used again for something else: {event:?}");
            verdict.violations.push(Violation::Doubled(text));
        }
        return;
    }
    if is_outcome(code) {
        let first = *fate.outcome.get_or_insert((number, receipt));
        if known.is_some() && !receipt.flags.has(ReceiptFlags::REPLAYED) {
            let text = format!("applied again after {known:?}: {event:?}");
            verdict.violations.push(Violation::Doubled(text));
        } else if !is_same(&first.1, &receipt) {
            verdict.wrong(format!("another outcome than {first:?}: {event:?}"));
        }
        return;
    }
    if is_find && code == ResultCode::NotSeen {
        fate.not_seen = Some(number);
        if known.is_some() {
            let text = format!("an acknowledged id is not seen any more, {known:?}: {event:?}");
            verdict.violations.push(Violation::Lost(text));
        }
    } else if code.class() == CodeClass::Id {
        verdict.wrong(format!("an answer that nothing justifies: {event:?}"));
    }
}

/// Are both the receipt of one outcome?
fn is_same(first: &Receipt, again: &Receipt) -> bool {
    let plain = |receipt: &Receipt| Receipt {
        index: 0,
        flags: ReceiptFlags(receipt.flags.0 & !ReceiptFlags::REPLAYED.0),
        ..*receipt
    };
    plain(first) == plain(again)
}

fn judge_accounts(events: &[Event], fates: &BTreeMap<Key, Fate>, verdict: &mut Verdict) {
    let mut sights: BTreeMap<(u128, u32), Vec<Sight>> = BTreeMap::new();
    let account = |operation: &Operation| (operation.user().get(), operation.currency());
    for fate in fates.values() {
        let Some((told, receipt)) = fate.outcome else {
            continue;
        };
        if receipt.code == ResultCode::Cancelled {
            if receipt.available != 0 || receipt.version != 0 {
                verdict.wrong(format!("cancelled, with an account: {fate:?}"));
            }
            continue;
        }
        if fate.operation.kind() == Kind::Find {
            let text = format!("an outcome of an id that was never sent: {fate:?}");
            verdict.violations.push(Violation::Doubled(text));
            continue;
        }
        let operation = fate.operation;
        sights.entry(account(&operation)).or_default().push(Sight {
            operation,
            receipt,
            sent: fate.sent,
            told,
            is_recent: false,
        });
    }
    for event in events {
        let operation = event.intent.operation;
        let Some(told) = event.told.filter(|told| is_outcome(told.receipt.code)) else {
            continue;
        };
        if operation.kind() != Kind::Get {
            continue;
        }
        sights.entry(account(&operation)).or_default().push(Sight {
            operation,
            receipt: told.receipt,
            sent: event.intent.number,
            told: told.number,
            is_recent: operation.flags().has(Flags::RECENT),
        });
    }
    for ((user, currency), sights) in &sights {
        let name = format!("{user}/{currency}");
        let sums = account::judge(&name, sights, &mut verdict.violations);
        let total = verdict.sums.entry(*currency).or_default();
        total.issued += sums.issued;
        total.burned += sums.burned;
        total.available += sums.available;
        *verdict.account_count.entry(*currency).or_default() += u64::from(sums.is_open);
    }
}

/// The audit against what the clients know.
pub(crate) fn judge_audit(rows: &[AuditRow], verdict: &mut Verdict) {
    let known: Vec<_> = verdict
        .sums
        .iter()
        .filter(|(currency, _)| verdict.account_count.get(currency) != Some(&0))
        .map(|(currency, sums)| (*currency, sums.issued, sums.burned, sums.available))
        .collect();
    let audited: Vec<_> = rows
        .iter()
        .map(|row| (row.currency, row.issued, row.burned, row.available))
        .collect();
    if known != audited {
        verdict.wrong(format!("the audit says {audited:?}, the clients {known:?}"));
    }
    for row in rows {
        if row.difference != 0 || row.held != 0 {
            verdict.wrong(format!("not conserved: {row:?}"));
        }
        if verdict.account_count.get(&row.currency) != Some(&row.account_count) {
            let known = &verdict.account_count;
            verdict.wrong(format!("accounts: {row:?}, the clients know {known:?}"));
        }
    }
}

/// The entries of a log, as far as it is kept, against what the clients were told: every
/// acknowledged place holds its operation, and no id comes twice.
#[derive(Debug, Default)]
pub(crate) struct LogFacts {
    /// Offset of the first byte that is kept, by log.
    pub(crate) first_offset: BTreeMap<u16, u64>,
    /// Where each id lies.
    pub(crate) places: BTreeMap<Key, Place>,
    /// Ids that came a second time.
    pub(crate) twice: Vec<String>,
    /// Blocks by which the backup handed over for a node that was gone.
    pub(crate) taken_over_count: u64,
    /// Blocks by which a node handed slots over.
    pub(crate) moved_count: u64,
}

pub(crate) fn judge_logs(facts: &LogFacts, verdict: &mut Verdict) {
    for text in &facts.twice {
        let text = format!("one id, two entries: {text}");
        verdict.violations.push(Violation::Doubled(text));
    }
    for ((user, id), fate) in &verdict.fates {
        let Some((_, receipt)) = fate.outcome else {
            continue;
        };
        let log = receipt.place.log().map_or(0, LogNumber::get);
        let first = facts.first_offset.get(&log).copied();
        let is_kept = first.is_some_and(|first| first <= receipt.place.offset());
        if is_kept && facts.places.get(&(*user, *id)) != Some(&receipt.place) {
            let text = format!("no entry at {} for {fate:?}", receipt.place);
            verdict.violations.push(Violation::Lost(text));
        } else if first.is_none() {
            let text = format!("a place in no log: {fate:?}");
            verdict.violations.push(Violation::Lost(text));
        }
    }
    let asked = |key: &&Key| !verdict.fates.contains_key(key);
    if let Some(key) = facts.places.keys().find(asked) {
        let text = format!("an entry that nobody asked for: {key:?}");
        verdict.violations.push(Violation::Doubled(text));
    }
}
