//! The block by which the backup hands over what a log whose node is gone still has.

use bytes::Bytes;

use crate::ledger::Ledger;
use crate::limits::BLOCK_ENTRY_COUNT_MAX;
use crate::log::{BlockBuilder, BlockSpec, LogError, Verify};
use crate::model::{
    Activation, Entry, EpochMark, HandOver, HandOverHead, HandedSums, LogEnd, LogTime, SlotRange,
};
use crate::role::{ActivationPart, HandOverPart};

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan<'a> {
    pub(super) mark: EpochMark,
    pub(super) wall_ms: u64,
    pub(super) ring_key: u128,
    pub(super) activate: &'a [ActivationPart],
    pub(super) moves: &'a [HandOverPart],
}

/// Builds the block that follows `through`, where the ledger stands.
pub(super) fn build(
    ledger: &Ledger,
    verify: &Verify,
    through: &LogEnd,
    plan: &Plan<'_>,
) -> Result<(Bytes, LogEnd), LogError> {
    let entries = entries(ledger, plan).map_err(|what| {
        let log = verify.log;
        LogError::Wrong(format!("no hand-over of log {log} can be built: {what}"))
    })?;
    let entry_count_max = u32::try_from(entries.len())
        .ok()
        .filter(|count| *count <= BLOCK_ENTRY_COUNT_MAX)
        .ok_or_else(|| LogError::Wrong("a hand-over does not fit one block".to_owned()))?;
    let wall = LogTime(plan.wall_ms.saturating_mul(1_000_000));
    let mut builder = BlockBuilder::new();
    builder.begin(&BlockSpec {
        log: verify.log,
        cluster: verify.cluster,
        segment_size: verify.segment_size,
        after: through,
        term: plan.mark.term,
        time: wall.max(through.time.next()),
        committed: through.seq,
        entry_count_max,
    });
    for entry in &entries {
        builder.push(&entry.to_bytes());
    }
    Ok(builder.finish())
}

fn entries(ledger: &Ledger, plan: &Plan<'_>) -> Result<Vec<Entry>, &'static str> {
    let mut entries = vec![Entry::Epoch(plan.mark)];
    let staged = ledger.staged().filter(|staged| staged.is_adopted);
    let mut activated = None;
    for part in plan.activate {
        if staged.is_some_and(|staged| staged.number == part.number) {
            activated = Some(part);
        } else if !slots_of(&part.ranges).all(|slot| ledger.owned(slot)) {
            return Err("what was flipped to it was never adopted");
        }
    }
    if let Some(part) = activated {
        entries.extend(Activation::list(part.number, part.ring_epoch, &part.ranges));
    } else if let Some(staged) = staged {
        // Not flipped: the move goes on from its own source.
        entries.push(Entry::Drop {
            number: staged.number,
        });
    }
    let mut ranges = Vec::new();
    for part in plan.moves {
        let head = HandOverHead {
            number: part.number,
            ring_epoch: plan.mark.ring_epoch,
            target: part.target,
            target_log: part.target_log,
        };
        if part.ranges.is_empty() {
            return Err("a move without slots");
        }
        entries.extend(HandOver::list(&head, &part.ranges));
        ranges.extend_from_slice(&part.ranges);
    }
    ranges.sort_unstable_by_key(|range: &SlotRange| range.first);
    if ranges.windows(2).any(|pair| pair[1].first <= pair[0].last) {
        return Err("a slot in two moves");
    }
    let returns = |slot| {
        let back = activated.into_iter().flat_map(|part| &part.ranges);
        back.into_iter()
            .any(|range| (range.first..=range.last).contains(&slot))
    };
    if slots_of(&ranges).any(|slot| ledger.gone(slot).is_some() && !returns(slot)) {
        return Err("a slot that is gone");
    }
    let sums = match activated {
        Some(part) => ledger.sums_with(part.number, &ranges),
        None => ledger.sums_of(&ranges),
    };
    entries.extend(HandedSums::list(&sums));
    Ok(entries)
}

fn slots_of(ranges: &[SlotRange]) -> impl Iterator<Item = crate::model::Slot> + '_ {
    let numbers = ranges.iter().flat_map(|range| range.first.0..=range.last.0);
    numbers.map(crate::model::Slot)
}
