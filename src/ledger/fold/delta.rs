//! What a stretch of the log changed, by account, currency and id.

use super::Merge;
use crate::ledger::Inconsistent;
use crate::ledger::ids::{IdItem, row_of};
use crate::ledger::meta::Progress;
use crate::ledger::record::AccountRecord;
use crate::ledger::rules::{Next, follow};
use crate::model::{
    AccountSettings, Change, CodeClass, Entry, Image, Kind, LogTime, Map, Place, Slot, UserId,
    id_fingerprint, new_map, to_u64, user_slot,
};

/// An account before and after the stretch.
#[derive(Clone, Copy, Debug)]
pub(super) struct AccountDelta {
    pub(super) slot: Slot,
    /// What it was before, as far as its first entry tells; `None`: it was not there.
    pub(super) base: Option<(Image, Place)>,
    /// What it is after, with settings that count only as `known` says; `None`: it is closed.
    pub(super) account: Option<AccountRecord>,
    pub(super) known: Known,
}

/// What of an account's record the stretch tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Balances, version and place. The rest is as it was.
    Images,
    /// The settings too.
    Settings,
    /// All: it was opened in the stretch.
    All,
}

/// What a stretch did to a currency.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SupplyDelta {
    pub(super) issued: u128,
    pub(super) burned: u128,
    pub(super) available: i128,
    pub(super) held: i128,
    pub(super) account_count: i64,
}

/// What a stretch of one log changed.
#[derive(Debug)]
pub struct Delta {
    ring_key: u128,
    /// The first entry and the last.
    pub(super) ends: Option<(Progress, Progress)>,
    pub(super) metas: Vec<Entry>,
    pub(super) accounts: Map<(UserId, u32), AccountDelta>,
    pub(super) supplies: Map<u32, SupplyDelta>,
    pub(super) ids: Vec<IdItem>,
    pub(super) horizon_ms: u64,
}

impl Delta {
    /// Nothing, in a cluster with this key.
    #[must_use]
    pub fn new(ring_key: u128) -> Self {
        Self {
            ring_key,
            ends: None,
            metas: Vec::new(),
            accounts: new_map(),
            supplies: new_map(),
            ids: Vec::new(),
            horizon_ms: 0,
        }
    }

    /// Records in it: about 150 bytes of memory each at most.
    #[must_use]
    pub fn record_count(&self) -> u64 {
        to_u64(self.accounts.len() + self.supplies.len() + self.ids.len() + self.metas.len())
    }

    /// Was nothing taken in yet?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ends.is_none()
    }

    /// Takes the next entry in. After an error the delta is of no use.
    pub fn absorb(
        &mut self,
        entry: &Entry,
        place: Place,
        time: LogTime,
    ) -> Result<(), Inconsistent> {
        self.take(entry, Progress { place, time })
            .map_err(|what| Inconsistent { place, what })
    }

    /// The second half: everything that changed, ready to be merged with the old records.
    #[must_use]
    pub fn merge(self) -> Merge {
        Merge::new(self)
    }

    fn take(&mut self, entry: &Entry, next: Progress) -> Result<(), &'static str> {
        let (first, last) = self.ends.unwrap_or((next, Progress::default()));
        last.check(next)?;
        match entry {
            Entry::Change(change) => self.take_change(change, next)?,
            Entry::Horizon { ms } => {
                self.horizon_ms = self.horizon_ms.max(*ms);
                self.metas.push(*entry);
            }
            Entry::Epoch(_) | Entry::Activation(_) => self.metas.push(*entry),
            Entry::HandOver(_)
            | Entry::HandedSums(_)
            | Entry::Adopt(_)
            | Entry::AdoptedFile(_)
            | Entry::AdoptedSlots(_)
            | Entry::Drop { .. } => return Err("a kind that this version does not fold"),
        }
        self.ends = Some((first, next));
        Ok(())
    }

    fn take_change(&mut self, change: &Change, next: Progress) -> Result<(), &'static str> {
        let id = change.operation.id().ok_or("a change without an id")?;
        if id.time_ms() < self.horizon_ms {
            return Err("its id lies before the horizon");
        }
        let user = change.operation.user();
        let fingerprint = id_fingerprint(self.ring_key, user, id);
        self.ids.push(IdItem {
            row: row_of(id.time_ms()),
            fingerprint,
            place: next.place,
        });
        if change.operation.kind() == Kind::Find {
            return follow(change, None, Slot::default(), next.place, next.time).map(|_| ());
        }
        let key = (user, change.operation.currency());
        let (mut delta, is_new) = match self.accounts.get(&key) {
            Some(delta) => (*delta, false),
            None => (first_delta(change, user_slot(self.ring_key, user)), true),
        };
        let Next { account, flow } = follow(
            change,
            delta.account.as_ref(),
            delta.slot,
            next.place,
            next.time,
        )?;
        if is_new && delta.account.is_none() && account.is_none() {
            // Refused, because there is no account: nothing of it is in a checkpoint.
            return Ok(());
        }
        let closes = change.operation.kind() == Kind::Close;
        if is_new && !closes && delta.base.is_some_and(|(image, _)| image.version == 0) {
            return Err("version does not follow");
        }
        let supply = self.supplies.entry(key.1).or_default();
        supply.issued += u128::from(flow.issued);
        supply.burned += u128::from(flow.burned);
        supply.count(delta.account.as_ref(), account.as_ref());
        delta.known = match change.operation.kind() {
            _ if change.created => Known::All,
            Kind::Configure if change.code.class() == CodeClass::Done => delta.known.max_settings(),
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
            | Kind::Get
            | Kind::List
            | Kind::History
            | Kind::Find => delta.known,
        };
        delta.account = account;
        self.accounts.insert(key, delta);
        Ok(())
    }
}

impl Known {
    const fn max_settings(self) -> Self {
        match self {
            Self::Images | Self::Settings => Self::Settings,
            Self::All => Self::All,
        }
    }
}

impl SupplyDelta {
    fn count(&mut self, before: Option<&AccountRecord>, after: Option<&AccountRecord>) {
        if let Some(account) = before {
            self.available -= i128::from(account.available);
            self.held -= i128::from(account.held);
            self.account_count -= 1;
        }
        if let Some(account) = after {
            self.available += i128::from(account.available);
            self.held += i128::from(account.held);
            self.account_count += 1;
        }
    }
}

/// The account before its first entry of the stretch, as far as that entry tells. Numbers wrap:
/// one that is out of range does not pass [`follow`], which computes the way back, checked.
fn first_delta(change: &Change, slot: Slot) -> AccountDelta {
    let is_absent = change.created
        || change.code.class() != CodeClass::Done && change.image == Image::default();
    let operation = &change.operation;
    let mut image = change.image;
    if change.code.class() == CodeClass::Done {
        match operation.kind() {
            Kind::Credit => image.available = image.available.wrapping_sub_unsigned(change.moved),
            Kind::Debit => image.available = image.available.wrapping_add_unsigned(change.moved),
            Kind::Open
            | Kind::Close
            | Kind::Configure
            | Kind::Hold
            | Kind::Capture
            | Kind::Release
            | Kind::Transfer
            | Kind::Reverse
            | Kind::Get
            | Kind::List
            | Kind::History
            | Kind::Find => {}
        }
        // Of a closed account the version is not told.
        image.version = image.version.saturating_sub(1);
    }
    let account = AccountRecord {
        user: operation.user(),
        currency: operation.currency(),
        slot,
        available: image.available,
        held: image.held,
        outgoing: 0,
        settings: AccountSettings::default(),
        version: image.version,
        place: change.previous,
    };
    AccountDelta {
        slot,
        base: (!is_absent).then_some((image, change.previous)),
        account: (!is_absent).then_some(account),
        known: Known::Images,
    }
}
