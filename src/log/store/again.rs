//! At the opening of a log: what may never have reached the disk is written once more.
//!
//! A sync that failed in an earlier life of the process leaves pages that read well and count as
//! clean, so that no later sync writes them. So the blocks above what is known to be committed are
//! written again, in place, and synced before they count as durable. What is committed was synced
//! when it was made, but not necessarily here: a log that is filled from the other copy gets blocks
//! that were committed long before. So as much of the end is written again, committed or not, as
//! an append that did not come to its end may have left.

use std::collections::BTreeMap;

use super::super::block::Block;
use super::super::error::{LogError, While, sync_failed};
use super::super::recovery::Walk;
use super::super::segment::{Opened, Scanner, Segment};
use crate::canary::{self, Bug};
use crate::limits::LOG_UNSYNCED_SIZE_MAX;
use crate::log::SEGMENT_HEADER_SIZE;
use crate::model::{Seq, to_usize};

/// Writes the readable blocks above `committed` again, and those that the last append may have
/// left without a sync.
pub(super) fn write_again(
    files: &BTreeMap<u64, Opened>,
    walk: &Walk,
    committed: Seq,
) -> Result<(), LogError> {
    if canary::on(Bug::NotWrittenAgain) {
        return Ok(());
    }
    let sure_to = walk.end.offset.saturating_sub(LOG_UNSYNCED_SIZE_MAX);
    let mut scanner = Scanner::new();
    for (number, end) in &walk.spans {
        let Some(Opened::Sound(segment)) = files.get(number) else {
            continue;
        };
        if end.seq <= committed && end.offset <= sure_to {
            continue;
        }
        let mut offset = segment.start() + SEGMENT_HEADER_SIZE;
        while offset < end.offset {
            let Ok(Some(block)) = scanner.block(segment, offset)? else {
                let number = segment.number;
                return Err(LogError::Damage(format!(
                    "segment {number:016x} reads differently from one time to the next"
                )));
            };
            offset = block.end().offset;
            if committed < block.head().seq || sure_to < offset {
                write_block(segment, &block)?;
            }
        }
        segment
            .file
            .sync()
            .map_err(|error| sync_failed(format!("syncing segment {number:016x}"), &error))?;
    }
    Ok(())
}

fn write_block(segment: &Segment, block: &Block<'_>) -> Result<(), LogError> {
    let mut bytes = vec![0; to_usize(u64::from(block.size()))];
    segment.read(block.first_offset(), &mut bytes)?;
    let number = segment.number;
    segment
        .write(block.first_offset(), &bytes)
        .during(|| format!("writing segment {number:016x} again"))
}
