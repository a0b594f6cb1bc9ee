//! What a stretch of the log changed, by account, currency and id.

use super::bases::{Base, Bases};
use super::{Merge, Source};
use crate::ledger::Inconsistent;
use crate::ledger::ids::{IdItem, row_of};
use crate::ledger::meta::Progress;
use crate::ledger::record::AccountRecord;
use crate::ledger::rules::{Next, follow};
use crate::ledger::slot_set::SlotSet;
use crate::model::{
    AccountSettings, Activation, Adopt, Adoption, Change, CodeClass, Entry, HandOver, HandedSum,
    HandedSums, Image, Kind, LogTime, Map, MoveNumber, Place, Slot, UserId, id_fingerprint_in,
    new_map, to_u64, user_slot,
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
    pub(super) adopted_in: i128,
    pub(super) adopted_out: i128,
}

/// What was adopted in the stretch and not yet activated.
#[derive(Debug)]
struct Staged {
    number: MoveNumber,
    source: Source,
    sums: Vec<HandedSum>,
    slots_left: u32,
    is_adopted: bool,
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
    pub(super) bases: Bases,
    /// Changes of slots that are gone are still among the accounts.
    purge_due: bool,
    image_count: usize,
    staged: Option<Staged>,
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
            bases: Bases::default(),
            purge_due: false,
            image_count: 0,
            staged: None,
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

    /// May the stretch end here? Not between an adoption and its activation or drop.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.staged.is_none()
    }

    /// Names the image that the adoption in the next block is about, with what its accounts hold.
    /// Its records are to be merged as those of the returned source.
    pub fn bring(&mut self, adoption: &Adoption, sums: Vec<HandedSum>) -> Source {
        let source = Source::Image(self.image_count);
        self.image_count += 1;
        self.staged = Some(Staged {
            number: adoption.adopt.number,
            source,
            sums,
            slots_left: SlotSet::of(&adoption.ranges).count(),
            is_adopted: false,
        });
        source
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
    pub fn merge(mut self) -> Merge {
        assert!(
            self.is_whole(),
            "a stretch does not end inside of an adoption"
        );
        self.purge();
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
            Entry::Activation(activation) if activation.number != MoveNumber(0) => {
                self.take_activation(activation)?;
                self.metas.push(*entry);
            }
            Entry::Epoch(_) | Entry::Activation(_) => self.metas.push(*entry),
            Entry::HandOver(hand_over) => {
                self.take_hand_over(hand_over);
                self.metas.push(*entry);
            }
            Entry::HandedSums(sums) => self.take_handed_sums(sums),
            Entry::Adopt(adopt) => {
                self.take_adopt(adopt, next)?;
                self.metas.push(*entry);
            }
            Entry::AdoptedFile(_) | Entry::AdoptedSlots(_) => {}
            Entry::Drop { number } => {
                self.staged_as(*number)?;
                self.staged = None;
            }
        }
        self.ends = Some((first, next));
        Ok(())
    }

    fn take_hand_over(&mut self, hand_over: &HandOver) {
        for range in hand_over.slots.as_slice() {
            self.bases.set(*range, Base::Gone);
        }
        self.purge_due = true;
    }

    fn take_handed_sums(&mut self, sums: &HandedSums) {
        for sum in sums.sums() {
            let supply = self.supplies.entry(sum.currency).or_default();
            supply.available -= sum.available;
            supply.held -= sum.held;
            supply.account_count -= sum.account_count.cast_signed();
            supply.adopted_out += sum.available + sum.held;
        }
    }

    fn take_adopt(&mut self, adopt: &Adopt, next: Progress) -> Result<(), &'static str> {
        if next.time <= adopt.time {
            return Err("log time is not above the source's");
        }
        self.horizon_ms = self.horizon_ms.max(adopt.horizon_ms);
        match &mut self.staged {
            Some(staged) if staged.number == adopt.number && !staged.is_adopted => {
                staged.is_adopted = true;
                Ok(())
            }
            Some(_) | None => Err("adopts what was not brought"),
        }
    }

    fn staged_as(&mut self, number: MoveNumber) -> Result<&mut Staged, &'static str> {
        let staged = self.staged.as_mut();
        let staged = staged.filter(|staged| staged.number == number && staged.is_adopted);
        staged.ok_or("a step of a move that was not adopted")
    }

    fn take_activation(&mut self, activation: &Activation) -> Result<(), &'static str> {
        self.purge();
        let slot_count = SlotSet::of(activation.ranges()).count();
        let staged = self.staged_as(activation.number)?;
        let left = staged.slots_left.checked_sub(slot_count);
        staged.slots_left = left.ok_or("activates more slots than were adopted")?;
        let (source, is_last) = (staged.source, staged.slots_left == 0);
        for range in activation.ranges() {
            self.bases.set(*range, Base::Of(source));
        }
        if !is_last {
            return Ok(());
        }
        for sum in self
            .staged
            .take()
            .into_iter()
            .flat_map(|staged| staged.sums)
        {
            let supply = self.supplies.entry(sum.currency).or_default();
            supply.available += sum.available;
            supply.held += sum.held;
            supply.account_count += sum.account_count.cast_signed();
            supply.adopted_in += sum.available + sum.held;
        }
        Ok(())
    }

    /// Forgets what changed in slots that are gone. Not at each hand-over, since it looks at all.
    fn purge(&mut self) {
        if std::mem::take(&mut self.purge_due) {
            let bases = &self.bases;
            self.accounts
                .retain(|_, delta| bases.of(delta.slot) != Base::Gone);
        }
    }

    fn take_change(&mut self, change: &Change, next: Progress) -> Result<(), &'static str> {
        let id = change.operation.id().ok_or("a change without an id")?;
        if id.time_ms() < self.horizon_ms {
            return Err("its id lies before the horizon");
        }
        let user = change.operation.user();
        let slot = user_slot(self.ring_key, user);
        if self.bases.of(slot) == Base::Gone {
            return Err("its slot is gone");
        }
        let fingerprint = id_fingerprint_in(slot, self.ring_key, user, id);
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
            None => (first_delta(change, slot), true),
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
