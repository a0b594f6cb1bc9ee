//! The ledger: `(state, operation, log time) -> outcome`, and nothing else.
//!
//! It cannot fail, only refuse. A live operation goes through [`Ledger::apply`], an entry of the
//! log through [`Ledger::absorb`]; both end in the same step, so a replay leads to the same state
//! by construction. The ledger does no IO and knows neither clock, log nor protocol: places and
//! log times are given to it. Deciding what an id hit means is the node's, which can read the log.

mod bits;
mod chunks;
mod digest;
mod directory;
pub mod fold;
#[doc(hidden)]
pub mod fuzzing;
mod ids;
mod image;
mod index;
mod load;
mod meta;
mod moves;
mod record;
mod rules;
mod slot_set;
mod slots;
mod stage;
mod supply;
mod table;
#[cfg(test)]
mod tests;
mod touch;
mod watch;

use std::cell::Cell;
use std::fmt;

pub use ids::{Candidates, ID_RECORD_SIZE, ID_ROW_MS};
pub use image::{ImageFigures, ImageSink};
pub use load::{LoadError, record_size};
pub use meta::META_RECORD_SIZE;
pub use record::ACCOUNT_RECORD_SIZE;
pub use stage::{Stage, StageError, StageInfo};
pub use supply::{SUPPLY_RECORD_SIZE, Supply, SupplyBroken};
pub use touch::{Ahead, TOUCH_COUNT};

use digest::{Digests, record_hash};
use ids::{IdItem, Ids, row_of, row_start_ms};
use load::Loading;
use meta::{Meta, Progress};
use moves::Moving;
use record::AccountRecord;
use supply::Supplies;
use table::{Found, Table};

use crate::canary::{self, Bug};
use crate::limits::{
    ACCOUNT_COUNT_MAX, CURRENCIES_PER_USER_MAX, ID_AHEAD_MS_MAX, ID_WINDOW_MS, ID_WINDOW_MS_MIN,
};
use crate::model::{
    Change, Entry, EpochMark, Flags, Kind, LogTime, MoveNumber, Operation, OperationId, Place,
    RingEpoch, Slot, UserId, id_fingerprint, user_slot,
};

/// What a ledger is made with.
#[derive(Clone, Copy, Debug)]
pub struct LedgerOptions {
    /// The cluster's key: it decides slots and keys the hashes of ids and of the tables.
    pub ring_key: u128,
    /// Ids remembered at most, at 16 bytes and its share of free room each.
    pub id_count_max: u64,
    /// Are ids remembered? Not in a replica that answers nobody.
    pub keep_ids: bool,
}

/// What is known about an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Not seen: it may be applied.
    New,
    /// Older than the horizon: whether it was ever seen is not known any more.
    TooOld,
    /// Further ahead of log time than an honest clock.
    Future,
    /// Not seen, but there is no room to remember it.
    Full,
    /// Perhaps seen, in one of these entries. If none of them is about this user and id, ask
    /// [`Ledger::seen_after_false_hits`].
    Maybe(Candidates),
}

/// A view of one account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its currency.
    pub currency: u32,
    /// Available balance in minor units.
    pub available: i64,
    /// Held in minor units.
    pub held: u64,
    /// On its way to payees on other nodes, in minor units.
    pub outgoing: u64,
    /// How far below zero `available` may go, in minor units.
    pub floor: u64,
    /// Highest available + held + outgoing, in minor units; 2^63 - 1 when there is no cap.
    pub cap: u64,
    /// Credit, debit, hold and transfer are stopped.
    pub frozen: bool,
    /// Version: the log time of its opening, and 1 more for every change since.
    pub version: u64,
    /// Its last entry, refusals included.
    pub place: Place,
}

/// An entry does not follow from the state before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry at {place} does not follow: {what}")]
pub struct Inconsistent {
    /// Where the entry lies.
    pub place: Place,
    /// What contradicts the state.
    pub what: &'static str,
}

/// The state of one log's accounts, with everything that answers depend on.
///
/// Asking: `seen`, `get`, `list`, `has_room`, and the figures. Changing: `apply`, `absorb`, `load`.
/// Between two calls all invariants hold: (1) an account is in both indexes and in its user's
/// list; (2) the digest of a slot is the sum over its accounts; (3) the sums of a currency are
/// those over its accounts; (4) no remembered row lies wholly before the horizon. Accounts of slots
/// that are gone or staged are no part of the state, wherever they lie.
pub struct Ledger {
    ring_key: u128,
    id_count_max: u64,
    keep_ids: bool,
    table: Table,
    supplies: Supplies,
    digests: Digests,
    ids: Ids,
    meta: Meta,
    moving: Moving,
    loading: Loading,
    prints: Prints,
}

/// Fingerprints that are kept from one question about an id to the next.
const PRINT_COUNT: usize = 4 * TOUCH_COUNT;

/// The fingerprint of an id: a hash that is worth keeping between its look-ups.
#[derive(Clone, Copy)]
struct Print {
    user: UserId,
    id: OperationId,
    fingerprint: u64,
}

/// Fingerprints of late, by the low bits of their ids.
struct Prints([Cell<Option<Print>>; PRINT_COUNT]);

impl Default for Prints {
    fn default() -> Self {
        Self([const { Cell::new(None) }; PRINT_COUNT])
    }
}

/// What the one look-up of an operation's account found.
struct Hit {
    found: Found,
    account: Option<AccountRecord>,
}

impl From<AccountRecord> for Account {
    fn from(record: AccountRecord) -> Self {
        Self {
            currency: record.currency,
            available: record.available,
            held: record.held,
            outgoing: record.outgoing,
            floor: record.settings.floor,
            cap: record.settings.cap,
            frozen: record.settings.frozen,
            version: record.version,
            place: record.place,
        }
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger")
            .field("account_count", &self.account_count())
            .field("id_count", &self.id_count())
            .field("progress", &self.meta.progress)
            .finish_non_exhaustive()
    }
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new(options: LedgerOptions) -> Self {
        let LedgerOptions {
            ring_key,
            id_count_max,
            keep_ids,
        } = options;
        Self {
            ring_key,
            id_count_max,
            keep_ids,
            table: Table::new(ring_key),
            supplies: Supplies::new(),
            digests: Digests::new(),
            ids: Ids::new(),
            meta: Meta::new(),
            moving: Moving::new(),
            loading: Loading::default(),
            prints: Prints::default(),
        }
    }

    /// What is known about `id` of `user`; `time` is that of the entry it would get.
    ///
    /// What was seen comes before the other answers, but nothing is known below the horizon.
    #[must_use]
    pub fn seen(&self, user: UserId, id: OperationId, time: LogTime) -> Seen {
        if id.time_ms() < self.meta.horizon_ms && !canary::on(Bug::IgnoredHorizon) {
            return Seen::TooOld;
        }
        let fingerprint = self.fingerprint(user, id);
        let candidates = self.ids.find(row_of(id.time_ms()), fingerprint);
        if candidates.is_overflow() {
            // That none of the first few is the id would prove nothing.
            return Seen::Full;
        }
        if candidates.is_empty() {
            self.seen_after_false_hits(id, time)
        } else {
            Seen::Maybe(candidates)
        }
    }

    /// The same for an id of which it is proved that it was not seen: never `Maybe`.
    #[must_use]
    pub fn seen_after_false_hits(&self, id: OperationId, time: LogTime) -> Seen {
        let ms = id.time_ms();
        if ms < self.meta.horizon_ms && !canary::on(Bug::IgnoredHorizon) {
            Seen::TooOld
        } else if time.ms().saturating_add(ID_AHEAD_MS_MAX) < ms {
            Seen::Future
        } else if self.id_count_max <= self.ids.count() || !self.ids.has_room(row_of(ms)) {
            Seen::Full
        } else {
            Seen::New
        }
    }

    /// Is there room for what `operation` may add? If not, it must not be applied.
    #[must_use]
    pub fn has_room(&self, operation: &Operation) -> bool {
        let may_open = match operation.kind() {
            Kind::Open => true,
            Kind::Credit | Kind::Transfer => operation.flags().has(Flags::OPEN_IF_MISSING),
            Kind::Close
            | Kind::Configure
            | Kind::Debit
            | Kind::Hold
            | Kind::Capture
            | Kind::Release
            | Kind::Reverse
            | Kind::Get
            | Kind::List
            | Kind::History
            | Kind::Find => false,
        };
        let (user, currency) = (operation.user(), operation.currency());
        !may_open
            || matches!(self.table.find(user, currency), Found::Open(_))
            || self.may_open(user, currency)
    }

    /// Applies a change whose id is [`Seen::New`] and for which [`Self::has_room`] holds.
    ///
    /// `place` and `time` are those of its entry, which is the returned change; both must lie
    /// behind the last entry's. The user's slot is not gone and not staged. Panics on look-ups (but
    /// not on `find` that burns) and on kinds that this version does not serve: those are answered
    /// before the ledger.
    pub fn apply(&mut self, operation: &Operation, place: Place, time: LogTime) -> Change {
        assert!(operation.is_change() && operation.kind().is_served());
        let hit = self.hit(operation);
        let closed_at = match hit.found {
            Found::Closed(number) => self.table.place(number),
            Found::Open(_) | Found::Missing => Place(0),
        };
        let change = rules::decide(operation, hit.account.as_ref(), closed_at, time);
        let taken = self.take_change(&change, &hit, Progress { place, time });
        taken.expect("a decided change follows from the state that it was decided on");
        change
    }

    /// Takes in an entry of the log without executing anything. After an error nothing has
    /// changed, and the log must not be used.
    pub fn absorb(
        &mut self,
        entry: &Entry,
        place: Place,
        time: LogTime,
    ) -> Result<(), Inconsistent> {
        let next = Progress { place, time };
        let taken = match entry {
            Entry::Change(change) => {
                let hit = self.hit(&change.operation);
                self.take_change(change, &hit, next)
            }
            Entry::Horizon { .. }
            | Entry::Epoch(_)
            | Entry::Activation(_)
            | Entry::HandOver(_)
            | Entry::HandedSums(_)
            | Entry::Adopt(_)
            | Entry::AdoptedFile(_)
            | Entry::AdoptedSlots(_)
            | Entry::Drop { .. } => self.take_other(entry, next),
        };
        taken.map_err(|what| Inconsistent { place, what })
    }

    /// One account.
    #[must_use]
    pub fn get(&self, user: UserId, currency: u32) -> Option<Account> {
        match self.table.find(user, currency) {
            Found::Open(number) => {
                let record = self.table.record(number);
                (!self.moving.hides(record.slot)).then(|| record.into())
            }
            Found::Closed(_) | Found::Missing => None,
        }
    }

    /// Appends at most `count` accounts of `user` in ascending order of their currencies, from
    /// `from_currency` on. Says whether there are more.
    pub fn list(
        &self,
        user: UserId,
        from_currency: u32,
        count: u32,
        rows: &mut Vec<Account>,
    ) -> bool {
        let hidden = |number: &u32| self.moving.hides(self.table.slot(*number));
        let numbers = self.table.numbers_of(user, from_currency);
        let mut numbers = numbers.skip_while(hidden);
        let taken = numbers.by_ref().take(count as usize);
        let skipped = usize::from(canary::on(Bug::ListShort));
        let taken = taken.skip(skipped);
        rows.extend(taken.map(|number| Account::from(self.table.record(number))));
        numbers.next().is_some()
    }

    /// Does the user have any account?
    #[must_use]
    pub fn has_accounts(&self, user: UserId) -> bool {
        self.table.numbers_of(user, 0).next().is_some()
    }

    /// The horizon that is due, if it is above the present one: log it as [`Entry::Horizon`].
    ///
    /// Ids are forgotten after 24 hours, or sooner when seven eighths of the table are used, but
    /// never before `ID_WINDOW_MS_MIN`. Always the start of a row, so that few entries suffice.
    #[must_use]
    pub fn horizon_due(&self, time: LogTime) -> Option<u64> {
        let before = |window_ms| row_start_ms(row_of(time.ms().saturating_sub(window_ms)));
        let mut due_ms = before(ID_WINDOW_MS);
        let eighth = self.id_count_max.div_ceil(8);
        if self.id_count_max.saturating_sub(eighth) < self.ids.count() {
            // A little below the mark, so that not every turn forgets a row.
            let goal = self
                .id_count_max
                .saturating_sub(eighth + eighth.div_ceil(4));
            let window_ms = if canary::on(Bug::ShortWindow) {
                0
            } else {
                ID_WINDOW_MS_MIN
            };
            due_ms = due_ms.max(self.ids.horizon_for(goal, before(window_ms)));
        }
        Some(due_ms).filter(|due_ms| self.meta.horizon_ms < *due_ms)
    }

    /// Checks the identity of every currency that was touched since the last call.
    pub fn check_supply(&mut self) -> Result<(), SupplyBroken> {
        self.supplies.check()
    }

    /// The supply of every currency that was ever used, by currency.
    #[must_use]
    pub fn supply(&self) -> Vec<(u32, Supply)> {
        self.supplies.sorted()
    }

    /// Digest of all accounts: the sum of the slots'.
    #[must_use]
    pub const fn digest(&self) -> u128 {
        self.digests.total()
    }

    /// Digest of one slot's accounts.
    #[must_use]
    pub fn slot_digest(&self, slot: Slot) -> u128 {
        self.digests.slot(slot)
    }

    /// Sum over all remembered ids; not part of [`Self::digest`].
    #[must_use]
    pub fn id_digest(&self) -> u128 {
        self.ids.digest()
    }

    /// Ids older than this, in Unix milliseconds, are refused.
    #[must_use]
    pub const fn horizon_ms(&self) -> u64 {
        self.meta.horizon_ms
    }

    /// Under what the log works.
    #[must_use]
    pub const fn epoch_mark(&self) -> Option<EpochMark> {
        self.meta.mark
    }

    /// The slot of a user.
    #[must_use]
    pub fn slot_of(&self, user: UserId) -> Slot {
        user_slot(self.ring_key, user)
    }

    /// Did this log activate the slot?
    #[must_use]
    pub fn owned(&self, slot: Slot) -> bool {
        self.meta.slots.epoch(slot).is_some()
    }

    /// The ring epoch in which this log activated the slot.
    #[must_use]
    pub fn slot_epoch(&self, slot: Slot) -> Option<RingEpoch> {
        self.meta.slots.epoch(slot)
    }

    /// The ring epoch of the newest activation; 0 before the first.
    #[must_use]
    pub const fn activated_epoch(&self) -> RingEpoch {
        self.meta.slots.newest()
    }

    /// Log time of the last entry.
    #[must_use]
    pub const fn time(&self) -> LogTime {
        self.meta.progress.time
    }

    /// Place of the last entry; nowhere before the first.
    #[must_use]
    pub const fn place(&self) -> Place {
        self.meta.progress.place
    }

    /// Open accounts.
    #[must_use]
    pub const fn account_count(&self) -> u64 {
        self.table.count() as u64 - self.moving.hidden_account_count
    }

    /// Remembered ids.
    #[must_use]
    pub const fn id_count(&self) -> u64 {
        self.ids.count()
    }

    /// Bytes of all tables.
    #[must_use]
    pub fn memory_size(&self) -> u64 {
        self.table.memory_size()
            + self.ids.memory_size()
            + self.supplies.memory_size()
            + self.digests.memory_size()
            + self.moving.memory_size()
    }

    fn hit(&self, operation: &Operation) -> Hit {
        if operation.kind() == Kind::Find {
            return Hit {
                found: Found::Missing,
                account: None,
            };
        }
        let found = self.table.find(operation.user(), operation.currency());
        let account = match found {
            Found::Open(number) => Some(self.table.record(number)),
            Found::Closed(_) | Found::Missing => None,
        };
        Hit { found, account }
    }

    /// The fingerprint of an id, which is asked for several times in a row.
    fn fingerprint(&self, user: UserId, id: OperationId) -> u64 {
        let kept = &self.prints.0[bits::low_half(bits::low_word(id.get())) as usize % PRINT_COUNT];
        if let Some(print) = kept.get()
            && print.user == user
            && print.id == id
        {
            return print.fingerprint;
        }
        let fingerprint = id_fingerprint(self.ring_key, user, id);
        kept.set(Some(Print {
            user,
            id,
            fingerprint,
        }));
        fingerprint
    }

    fn may_open(&self, user: UserId, currency: u32) -> bool {
        let stage = self.moving.stage.as_ref();
        let kept_count = stage.map_or(0, |stage| stage.currency_new_count());
        self.table.count() < ACCOUNT_COUNT_MAX
            && self.supplies.has_room(currency, kept_count)
            && self.table.account_count_of(user) < CURRENCIES_PER_USER_MAX
    }

    fn take_other(&mut self, entry: &Entry, next: Progress) -> Result<(), &'static str> {
        self.meta.progress.check(next)?;
        self.end_loading();
        self.moving.check_step(Some(entry))?;
        match entry {
            Entry::Change(_) => unreachable!("taken in elsewhere"),
            Entry::Activation(activation) if activation.number != MoveNumber(0) => {
                self.take_activation(activation, next)
            }
            Entry::HandOver(hand_over) => self.take_hand_over(hand_over, next),
            Entry::HandedSums(sums) => self.take_handed_sums(sums, next),
            Entry::Adopt(adopt) => self.take_adopt(adopt, next),
            Entry::AdoptedFile(file) => self.take_adopted_file(file, next),
            Entry::AdoptedSlots(slots) => self.take_adopted_slots(slots, next),
            Entry::Drop { number } => self.take_drop(*number, next),
            Entry::Horizon { .. } | Entry::Epoch(_) | Entry::Activation(_) => {
                self.take_meta(entry, next)
            }
        }
    }

    fn take_meta(&mut self, entry: &Entry, next: Progress) -> Result<(), &'static str> {
        if let Entry::Activation(activation) = entry {
            let ranges = activation.ranges().iter().copied();
            let mut slots = ranges.flat_map(slot_set::slots_of);
            let stage = self.moving.stage.as_ref();
            if stage.is_some_and(|stage| slots.any(|slot| stage.holds(slot))) {
                return Err("activates, without a move, what is staged");
            }
            // What was staged here once and let go must not come back with the slots.
            while !self.sweep_step(u32::MAX) {}
        }
        self.meta.take(entry)?;
        self.meta.progress = next;
        if let Entry::Horizon { ms } = entry {
            self.ids.forget(*ms);
        }
        Ok(())
    }

    /// Nothing can be loaded any more.
    fn end_loading(&mut self) {
        if !self.loading.end() {
            return;
        }
        for run in self.meta.slots.runs() {
            if matches!(run.state, slots::SlotState::Gone(_)) {
                self.moving.hidden.insert(run.range);
            }
        }
    }

    /// The one step by which state changes, live and in replay.
    fn take_change(
        &mut self,
        change: &Change,
        hit: &Hit,
        next: Progress,
    ) -> Result<(), &'static str> {
        self.meta.progress.check(next)?;
        self.end_loading();
        self.moving.check_step(None)?;
        let operation = &change.operation;
        let (user, currency) = (operation.user(), operation.currency());
        let id = operation.id().ok_or("a change without an id")?;
        if id.time_ms() < self.meta.horizon_ms {
            return Err("its id lies before the horizon");
        }
        let slot = match &hit.account {
            Some(account) => account.slot,
            None => user_slot(self.ring_key, user),
        };
        if self.moving.hides(slot) {
            return Err("its slot is gone");
        }
        let account = hit.account.as_ref();
        let after = rules::follow(change, account, slot, next.place, next.time)?;
        if change.created && !self.may_open(user, currency) {
            return Err("more accounts or currencies than a ledger holds");
        }
        // From here on nothing can fail.
        self.meta.progress = next;
        if self.keep_ids {
            let fingerprint = self.fingerprint(user, id);
            let row = row_of(id.time_ms());
            self.ids.insert(IdItem {
                row,
                fingerprint,
                place: next.place,
            });
        }
        if account.is_none() && after.account.is_none() {
            return Ok(());
        }
        let supply = self.supplies.touch(currency);
        supply.flow(after.flow);
        if let Some(account) = account {
            supply.account_out(account);
            self.digests.subtract(slot, record_hash(&account.words()));
        }
        if let Some(account) = &after.account {
            supply.account_in(account);
            self.digests.add(slot, record_hash(&account.words()));
        }
        let line = match (hit.found, &after.account) {
            (Found::Open(number), Some(account)) => {
                self.table.store(number, account);
                number
            }
            (Found::Open(number), None) => {
                self.table.remove(number, next.place);
                self.moving.populations[slot.index()] -= 1;
                number
            }
            (Found::Closed(_) | Found::Missing, Some(account)) => {
                self.moving.populations[slot.index()] += 1;
                self.table.insert(account, hit.found, None)
            }
            (Found::Closed(_) | Found::Missing, None) => {
                unreachable!("returned above: there is no account before or after")
            }
        };
        if let Some(watch) = &mut self.moving.watch {
            watch.follow(slot, line, account, after.account.as_ref());
        }
        Ok(())
    }
}
