//! What lies in the logs of a folder: which id where. Read with the code of `counterfoil inspect`.

use std::path::Path;

use counterfoil::disk::look;
use counterfoil::limits;
use counterfoil::log::{Block, Log, blocks};
use counterfoil::model::{Entry, OperationId, to_u64, to_usize};

use crate::checker::LogFacts;

/// Reads all logs of a data folder that no process works in.
pub(crate) fn read(folder: &Path) -> LogFacts {
    let mut facts = LogFacts::default();
    let found = look(folder).expect("the folder is readable");
    for number in found.logs() {
        let opened = found.open_log(*number, &[]).expect("a sound log");
        let (log, _) = opened.expect("a listed log is there");
        facts.first_offset.insert(number.get(), log.first().offset);
        for_each_block(&log, |block, _| note(block, &mut facts));
    }
    facts
}

/// Every block of an open log, verified, with its bytes.
pub(crate) fn for_each_block(log: &Log, mut take: impl FnMut(&Block<'_>, &[u8])) {
    let mut offset = log.first().offset;
    loop {
        let read = log.read_blocks(offset, log.end().offset, limits::FETCH_SIZE_MAX);
        let (at, bytes) = read.expect("what recovery found can be read");
        if bytes.is_empty() {
            return;
        }
        for block in blocks(&bytes, *log.verify()) {
            let block = block.expect("what recovery found verifies");
            let from = to_usize(block.first_offset() - at);
            let size = to_usize(u64::from(block.size()));
            take(&block, &bytes[from..from + size]);
        }
        offset = at + to_u64(bytes.len());
    }
}

fn note(block: &Block<'_>, facts: &mut LogFacts) {
    let own: Vec<Entry> = block
        .entries()
        .filter_map(|(_, _, entry)| Entry::read(entry).ok())
        .take_while(|entry| !matches!(entry, Entry::Change(_)))
        .collect();
    if own.iter().any(|entry| matches!(entry, Entry::HandOver(_))) {
        // Only the backup begins a term with a hand-over.
        if matches!(own.first(), Some(Entry::Epoch(_))) {
            facts.taken_over_count += 1;
        } else {
            facts.moved_count += 1;
        }
    }
    for (place, _, entry) in block.entries() {
        let Ok(Entry::Change(change)) = Entry::read(entry) else {
            continue;
        };
        let id = change.operation.id().map_or(0, OperationId::get);
        let key = (change.operation.user().get(), id);
        if let Some(other) = facts.places.insert(key, place) {
            facts.twice.push(format!("{key:?} at {other} and {place}"));
        }
    }
}
