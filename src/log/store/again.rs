//! At the opening of a log: what may never have reached the disk is written once more.
//!
//! A sync that failed in an earlier life of the process leaves pages that read well and count as
//! clean, so that no later sync writes them. Only what is known to be committed was surely synced;
//! the blocks above it are written again, in place, and synced before they count as durable.

use std::collections::BTreeMap;

use super::super::block::Block;
use super::super::error::{LogError, While, sync_failed};
use super::super::recovery::Walk;
use super::super::segment::{Opened, Scanner, Segment};
use crate::canary::{self, Bug};
use crate::log::SEGMENT_HEADER_SIZE;
use crate::model::{Seq, to_usize};

/// Writes the readable blocks above `committed` again.
pub(super) fn write_again(
    files: &BTreeMap<u64, Opened>,
    walk: &Walk,
    committed: Seq,
) -> Result<(), LogError> {
    if canary::on(Bug::NotWrittenAgain) {
        return Ok(());
    }
    let mut scanner = Scanner::new();
    for (number, end) in &walk.spans {
        let Some(Opened::Sound(segment)) = files.get(number) else {
            continue;
        };
        if end.seq <= committed {
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
            if committed < block.head().seq {
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
