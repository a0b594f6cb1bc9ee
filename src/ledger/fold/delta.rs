//! What a stretch of the log changed, by account, currency and id.

use super::bases::{Base, Bases};
use super::lines::{Lines, Told};
use super::{Merge, Source};
use crate::ledger::Inconsistent;
use crate::ledger::ids::{IdItem, row_of};
use crate::ledger::meta::Progress;
use crate::ledger::record::AccountRecord;
use crate::ledger::slot_set::SlotSet;
use crate::model::{
    Activation, Adopt, Adoption, Change, Entry, HandOver, HandedSum, HandedSums, LogTime, Map,
    MoveNumber, Place, id_fingerprint_in, new_map, to_u64, user_slot,
};

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
    pub(super) lines: Lines,
    pub(super) supplies: Map<u32, SupplyDelta>,
    pub(super) horizon_ms: u64,
    pub(super) bases: Bases,
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
            lines: Lines::new(),
            supplies: new_map(),
            horizon_ms: 0,
            bases: Bases::default(),
            image_count: 0,
            staged: None,
        }
    }

    /// Records in it: about 150 bytes of memory each at most.
    #[must_use]
    pub fn record_count(&self) -> u64 {
        self.lines.count() + to_u64(self.supplies.len() + self.metas.len())
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
    pub fn merge(self) -> Merge {
        assert!(
            self.is_whole(),
            "a stretch does not end inside of an adoption"
        );
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
                self.take_hand_over(hand_over, next.place);
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

    fn take_hand_over(&mut self, hand_over: &HandOver, place: Place) {
        for range in hand_over.slots.as_slice() {
            self.bases.set_gone(*range, place);
        }
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
        let slot_count = SlotSet::of(activation.ranges()).count();
        let staged = self.staged_as(activation.number)?;
        let left = staged.slots_left.checked_sub(slot_count);
        staged.slots_left = left.ok_or("activates more slots than were adopted")?;
        let (source, is_last) = (staged.source, staged.slots_left == 0);
        for range in activation.ranges() {
            self.bases.set_source(*range, source);
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
        let item = IdItem {
            row: row_of(id.time_ms()),
            fingerprint: id_fingerprint_in(slot, self.ring_key, user, id),
            place: next.place,
        };
        let Told {
            before,
            after,
            flow,
        } = self.lines.push(change, item, next.time)?;
        if before.is_some() || after.is_some() {
            let currency = change.operation.currency();
            let supply = self.supplies.entry(currency).or_default();
            supply.issued += u128::from(flow.issued);
            supply.burned += u128::from(flow.burned);
            supply.count(before.as_ref(), after.as_ref());
        }
        Ok(())
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
