//! The offline check of a data folder: chain, checksums, replay, supply; one folder against
//! another, byte for byte. Returns what it found; prints nothing, changes nothing.

use std::cell::{Cell, RefCell};
use std::path::Path;

use super::checkpoints::Loading;
use super::fold::{damage, read_some};
use super::folder::{FolderKind, OpenError};
use super::look::{Look, look};
use super::replica::{difference, load};
use super::steps::{Cuts, Steps, lines_of_moves};
use crate::ledger::{Ledger, LedgerOptions, Supply};
use crate::log::{Checkpoint, Log, LogError, Recovered, blocks};
use crate::model::{Entry, LogEnd, LogNumber, MoveNumber, Seq, to_usize};

/// Bytes of the log read at a time.
const READ_SIZE: u32 = 1 << 20;

/// What the check of a folder found.
#[derive(Debug)]
pub struct VerifyReport {
    /// Whose folder it is.
    pub kind: FolderKind,
    /// Its logs.
    pub logs: Vec<LogCheck>,
    /// Its images of moves.
    pub images: Vec<ImageCheck>,
    /// Logs that both folders have.
    pub comparisons: Vec<Comparison>,
}

/// What the check of a log found.
#[derive(Debug)]
pub struct LogCheck {
    /// The log.
    pub log: LogNumber,
    /// What recovery says; `None` if it could not even begin.
    pub recovered: Option<Recovered>,
    /// Segments, spare ones included.
    pub segment_count: u64,
    /// End of the newest checkpoint that verifies and agrees with the log.
    pub checkpoint: Option<LogEnd>,
    /// The replay, if it could be done.
    pub replay: Option<ReplayCheck>,
    /// What could not be checked, in words, and what it would need.
    pub note: Option<String>,
    /// What is wrong, in words. Empty: the log is sound. An unfinished write behind the end is not
    /// wrong: a crash leaves it, and `recovered` tells of it.
    pub problems: Vec<String>,
}

/// What the check of an image of a move found.
#[derive(Debug)]
pub struct ImageCheck {
    /// The move that it was cut for.
    pub number: MoveNumber,
    /// The log that its slots left.
    pub log: Option<LogNumber>,
    /// Bytes of the file.
    pub size: u64,
    /// What is wrong, in words.
    pub problem: Option<String>,
}

/// What the replay of a log gave.
#[derive(Debug)]
pub struct ReplayCheck {
    /// Where it began: the log's beginning, or the checkpoint's end.
    pub from: LogEnd,
    /// Where it ended.
    pub end: LogEnd,
    /// Accounts at the end.
    pub account_count: u64,
    /// Digest at the end.
    pub digest: u128,
    /// Supply by currency, each with what is missing or too much.
    pub supply: Vec<(u32, Supply, i128)>,
}

/// One log in two folders.
#[derive(Debug)]
pub struct Comparison {
    /// The log.
    pub log: LogNumber,
    /// Equal up to this block, from the first one that both have.
    pub equal_through: Seq,
    /// Where it ends in the checked folder.
    pub here: LogEnd,
    /// Where it ends in the other one.
    pub there: LogEnd,
    /// The first difference, in words. That one is longer is none.
    pub difference: Option<String>,
}

impl VerifyReport {
    /// Was nothing wrong found?
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.logs.iter().all(|log| log.problems.is_empty())
            && self.images.iter().all(|image| image.problem.is_none())
            && self
                .comparisons
                .iter()
                .all(|other| other.difference.is_none())
    }
}

/// Checks a folder, and compares its logs with those of `against`. `progress` is told the log and
/// the offset that the replay has reached.
pub fn verify(
    dir: &Path,
    against: Option<&Path>,
    progress: &mut dyn FnMut(LogNumber, u64),
) -> Result<VerifyReport, OpenError> {
    let here = look(dir)?;
    let there = against.map(look).transpose()?;
    Ok(verify_look(&here, there.as_ref(), progress))
}

pub(super) fn verify_look(
    here: &Look,
    there: Option<&Look>,
    progress: &mut dyn FnMut(LogNumber, u64),
) -> VerifyReport {
    let mut report = VerifyReport {
        kind: here.kind(),
        logs: Vec::new(),
        images: check_images(here),
        comparisons: Vec::new(),
    };
    let ring_key = here.ring_key().or_else(|| there.and_then(Look::ring_key));
    for log in here.logs() {
        report.logs.push(check_log(here, ring_key, *log, progress));
        if let Some(there) = there.filter(|there| there.logs().contains(log)) {
            report.comparisons.extend(compare(here, there, *log));
        }
    }
    report
}

fn check_images(look: &Look) -> Vec<ImageCheck> {
    let check = |(number, found): (MoveNumber, Result<Checkpoint, LogError>)| {
        let verified = found.and_then(|found| {
            found.verify(found.header().log)?;
            Ok((found.header().log, found.size()))
        });
        let (log, size) = match &verified {
            Ok((log, size)) => (Some(*log), *size),
            Err(_) => (None, 0),
        };
        ImageCheck {
            number,
            log,
            size,
            problem: verified.err().map(|error| error.to_string()),
        }
    };
    match look.images() {
        Ok(images) => images.into_iter().map(check).collect(),
        Err(error) => vec![ImageCheck {
            number: MoveNumber(0),
            log: None,
            size: 0,
            problem: Some(error.to_string()),
        }],
    }
}

fn check_log(
    look: &Look,
    ring_key: Option<u128>,
    number: LogNumber,
    progress: &mut dyn FnMut(LogNumber, u64),
) -> LogCheck {
    let mut check = LogCheck {
        log: number,
        recovered: None,
        segment_count: 0,
        checkpoint: None,
        replay: None,
        note: None,
        problems: Vec::new(),
    };
    if let Err(error) = fill(&mut check, look, ring_key, number, progress) {
        check.problems.push(error.to_string());
    }
    check
}

fn fill(
    check: &mut LogCheck,
    look: &Look,
    ring_key: Option<u128>,
    number: LogNumber,
    progress: &mut dyn FnMut(LogNumber, u64),
) -> Result<(), LogError> {
    let mut sound = Vec::new();
    for found in look.checkpoints(number)? {
        match found.and_then(|found| found.verify(number).map(|()| found)) {
            Ok(found) => sound.push(found),
            Err(error) => check.problems.push(error.to_string()),
        }
    }
    let ends: Vec<LogEnd> = sound.iter().map(Checkpoint::end).collect();
    let Some((log, recovered)) = look.open_log(number, &ends)? else {
        return Err(LogError::Damage(format!("log {number} has no base")));
    };
    check.segment_count = crate::model::to_u64(log.segments().len());
    check.problems.extend(recovered.damage.clone());
    for found in &sound {
        if !recovered.agreed.contains(&found.end()) {
            let seq = found.end().seq;
            let text = format!("checkpoint at block {seq} is not of this log's history");
            check.problems.push(text);
        }
    }
    let newest = sound
        .into_iter()
        .filter(|found| recovered.agreed.contains(&found.end()))
        .max_by_key(|found| found.end().seq);
    check.checkpoint = newest.as_ref().map(Checkpoint::end);
    check.recovered = Some(recovered);
    if ring_key.is_none() && has_moves(&log)? {
        let text = "the log moves slots, and nothing here tells the cluster's hash key: it cannot \
                    be replayed without a checkpoint, or the backup's folder beside it";
        check.note = Some(text.to_owned());
        return Ok(());
    }
    let steps = Steps {
        medium: look.medium(),
        shared: None,
        cuts: Cuts::None,
        // Without a key and without moves it decides nothing but the digest.
        ring_key: ring_key.unwrap_or(0),
        missing: Cell::new(None),
        drafts: RefCell::new(Vec::new()),
    };
    check.replay = Some(replay_all(&log, &steps, newest, progress)?);
    Ok(())
}

/// Do slots leave the log or come into it?
fn has_moves(log: &Log) -> Result<bool, LogError> {
    let (mut end, through) = (log.first(), log.end());
    while end.seq < through.seq {
        let bytes = read_some(log, &end, &through)?;
        for block in blocks(&bytes, *log.verify()) {
            let block = block.map_err(|error| damage(log, &end, &error.to_string()))?;
            let lines = lines_of_moves(log, &end, &block)?.unwrap_or_default();
            let is_move = |entry: &Entry| matches!(entry, Entry::HandOver(_) | Entry::Adopt(_));
            if lines.iter().any(|(entry, ..)| is_move(entry)) {
                return Ok(true);
            }
            end = block.end();
        }
    }
    Ok(false)
}

/// Replays from the very beginning if that is kept, and compares with the checkpoint on the way;
/// else from the checkpoint. Images of adoptions below the checkpoint may be gone.
fn replay_all(
    log: &Log,
    steps: &Steps<'_>,
    newest: Option<Checkpoint>,
    progress: &mut dyn FnMut(LogNumber, u64),
) -> Result<ReplayCheck, LogError> {
    let number = log.verify().log;
    let empty = || {
        Ledger::new(LedgerOptions {
            ring_key: steps.ring_key,
            id_count_max: 0,
            keep_ids: false,
        })
    };
    let (mut ledger, mut from) = (empty(), log.first());
    let mut end = from;
    let whole = end == LogEnd::default();
    if let Some(newest) = newest {
        let mut loaded = empty();
        let checkpoint_end = newest.end();
        load(&mut loaded, &Loading::new(std::sync::Arc::new(newest)))?;
        let followed =
            whole.then(|| follow(log, steps, &mut ledger, end, &checkpoint_end, progress));
        match followed {
            Some(Ok(followed)) => {
                end = followed;
                if ledger.digest() != loaded.digest() || ledger.supply() != loaded.supply() {
                    return Err(LogError::Damage(format!(
                        "log {number}: the checkpoint at block {} differs from the replay up to it",
                        checkpoint_end.seq
                    )));
                }
            }
            Some(Err(error)) if steps.missing.take().is_none() => return Err(error),
            Some(Err(_)) | None => {
                (ledger, end, from) = (loaded, checkpoint_end, checkpoint_end);
            }
        }
    } else if !whole {
        return Err(LogError::Damage(format!(
            "log {number} begins behind block {}, and no checkpoint stands for what was before",
            end.seq
        )));
    }
    let end = follow(log, steps, &mut ledger, end, &log.end(), progress)?;
    let supply = ledger.supply().into_iter();
    Ok(ReplayCheck {
        from,
        end,
        account_count: ledger.account_count(),
        digest: ledger.digest(),
        supply: supply
            .map(|(currency, supply)| (currency, supply, difference(&supply)))
            .collect(),
    })
}

fn follow(
    log: &Log,
    steps: &Steps<'_>,
    ledger: &mut Ledger,
    from: LogEnd,
    through: &LogEnd,
    progress: &mut dyn FnMut(LogNumber, u64),
) -> Result<LogEnd, LogError> {
    let number = log.verify().log;
    let mut end = from;
    while end.seq < through.seq {
        let bytes = read_some(log, &end, through)?;
        for block in blocks(&bytes, *log.verify()) {
            let block = block.map_err(|error| damage(log, &end, &error.to_string()))?;
            steps.take(log, ledger, &mut end, &block, &mut Vec::new())?;
        }
        ledger
            .check_supply()
            .map_err(|error| LogError::Damage(format!("log {number}: {error}")))?;
        progress(number, end.offset);
    }
    Ok(end)
}

/// `None`: the log cannot be opened in one of them; its own check says why.
fn compare(here: &Look, there: &Look, number: LogNumber) -> Option<Comparison> {
    let (a, _) = here.open_log(number, &[]).ok().flatten()?;
    let (b, _) = there.open_log(number, &[]).ok().flatten()?;
    let mut comparison = Comparison {
        log: number,
        equal_through: a.first().seq.max(b.first().seq),
        here: a.end(),
        there: b.end(),
        difference: None,
    };
    if a.verify() == b.verify() {
        let compared = compare_blocks(&a, &b, &mut comparison);
        comparison.difference = compared.unwrap_or_else(|error| Some(error.to_string()));
    } else {
        comparison.difference = Some("they are of different clusters or segment sizes".to_owned());
    }
    Some(comparison)
}

fn compare_blocks(
    a: &Log,
    b: &Log,
    comparison: &mut Comparison,
) -> Result<Option<String>, LogError> {
    let mut offset = a.first().offset.max(b.first().offset);
    let below = a.end().offset.min(b.end().offset);
    loop {
        let (at_a, bytes_a) = a.read_blocks(offset, below, READ_SIZE)?;
        let (at_b, bytes_b) = b.read_blocks(offset, below, READ_SIZE)?;
        if bytes_a.is_empty() && bytes_b.is_empty() {
            return Ok(None);
        }
        let common = bytes_a.len().min(bytes_b.len());
        let same = at_a == at_b && 0 < common && bytes_a[..common] == bytes_b[..common];
        if !same {
            // Whole blocks up to the first that differs are equal.
            let mut at = at_a;
            for block in blocks(&bytes_a, *a.verify()).flatten() {
                let from = to_usize(at - at_a);
                let to = from + to_usize(u64::from(block.size()));
                if at_a != at_b || bytes_a.get(from..to) != bytes_b.get(from..to) {
                    break;
                }
                comparison.equal_through = block.head().seq;
                at += u64::from(block.size());
            }
            return Ok(Some(format!(
                "block {} at offset {at} differs",
                comparison.equal_through.next()
            )));
        }
        if let Some(last) = blocks(&bytes_a[..common], *a.verify()).flatten().last() {
            comparison.equal_through = last.head().seq;
        }
        offset = at_a + crate::model::to_u64(common);
    }
}
