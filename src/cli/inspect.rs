//! `inspect`: shows what lies in a data folder, without changing a byte of it.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::Failure;
use super::output::{line, object, table};
use crate::disk::{self, Look};
use crate::log::{Checkpoint, Log, blocks};
use crate::model::{Change, Entry, LogNumber, LogTime, MoveNumber, Place, Section, to_u64};
use crate::role::ExitCode;

/// Bytes that are read at a time: at least one whole block.
const READ_SIZE: u32 = crate::limits::FETCH_SIZE_MAX;

/// Flags of `inspect`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Flags {
    /// The data folder of a stopped node or backup.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// What to show.
    #[arg(value_enum, default_value = "segments")]
    what: What,
    /// Only this log.
    #[arg(long)]
    log: Option<u16>,
    /// Begin at this offset of the log (for blocks and entries).
    #[arg(long, default_value_t = 0)]
    offset: u64,
    /// Show so many at most.
    #[arg(long, default_value_t = 100)]
    limit: u64,
    /// Print JSON, one object a line.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Logs and their segments.
    Segments,
    /// Checkpoints.
    Checkpoints,
    /// Blocks of a log.
    Blocks,
    /// Entries of a log.
    Entries,
    /// What was put aside.
    Quarantine,
    /// Images of moves.
    Images,
}

/// Takes rows; says when it has had enough.
struct Sink {
    head: &'static [&'static str],
    rows: Vec<Vec<String>>,
    json: bool,
    left: u64,
}

impl Sink {
    fn take(&mut self, cells: Vec<Value>) {
        self.left = self.left.saturating_sub(1);
        if self.json {
            let pairs = self.head.iter().map(|name| (*name).to_owned()).zip(cells);
            object(&Value::Object(pairs.collect()));
        } else {
            let text = |cell: Value| match cell.as_str() {
                Some(text) => text.to_owned(),
                None if cell.is_null() => "-".to_owned(),
                None => cell.to_string(),
            };
            self.rows.push(cells.into_iter().map(text).collect());
        }
    }

    fn finish(self) {
        if !self.json {
            table(self.head, self.rows);
        }
    }
}

pub(super) fn run(flags: &Flags) -> Result<ExitCode, Failure> {
    let broken = |error: &dyn std::fmt::Display| {
        let text = format!("{}: {error}", flags.folder.display());
        Failure::new(ExitCode::Damage, "data_dir", text)
    };
    let look = disk::look(&flags.folder).map_err(|error| broken(&error))?;
    let mut sink = Sink {
        head: head(flags.what),
        rows: Vec::new(),
        json: flags.json,
        left: flags.limit,
    };
    if flags.what == What::Quarantine {
        for name in look.quarantine().map_err(|error| broken(&error))? {
            sink.take(vec![json!(name)]);
        }
    } else if flags.what == What::Images {
        for (number, found) in look.images().map_err(|error| broken(&error))? {
            let cells = match found {
                Ok(found) => image_cells(number, &found),
                Err(error) => fault_cells(json!(number.0), flags.what, &error),
            };
            sink.take(cells);
        }
    } else {
        let wanted = look
            .logs()
            .iter()
            .filter(|log| flags.log.is_none_or(|only| only == log.get()));
        for log in wanted {
            show(&look, *log, flags, &mut sink).map_err(|error| broken(&error))?;
        }
    }
    if sink.left == 0 && !flags.json {
        line(&format!(
            "the first {}; more with --offset and --limit",
            flags.limit
        ));
    }
    sink.finish();
    Ok(ExitCode::Ok)
}

const fn head(what: What) -> &'static [&'static str] {
    match what {
        What::Segments => &["log", "segment", "first_seq", "first_offset"],
        What::Checkpoints => &["log", "seq", "offset", "term", "bytes", "fault"],
        What::Blocks => &[
            "log",
            "seq",
            "term",
            "offset",
            "entries",
            "committed",
            "time_ns",
            "chain",
        ],
        What::Entries => &[
            "place",
            "time_ns",
            "kind",
            "user",
            "currency",
            "id",
            "code",
            "amount",
            "available",
            "held",
            "version",
            "previous",
        ],
        What::Quarantine => &["file"],
        What::Images => &["move", "log", "offset", "accounts", "ids", "bytes", "fault"],
    }
}

fn show(
    look: &Look,
    number: LogNumber,
    flags: &Flags,
    sink: &mut Sink,
) -> Result<(), crate::log::LogError> {
    if flags.what == What::Checkpoints {
        for found in look.checkpoints(number)? {
            sink.take(match found {
                Ok(found) => checkpoint_cells(number, &found),
                Err(error) => fault_cells(json!(number.get()), flags.what, &error),
            });
        }
        return Ok(());
    }
    let Some((log, _)) = look.open_log(number, &[])? else {
        return Ok(());
    };
    if flags.what == What::Segments {
        for (segment, before) in log.segments() {
            let first = before.map(|end| end.seq.next().0);
            let offset = before.map(|end| end.offset);
            sink.take(vec![
                json!(number.get()),
                json!(segment),
                json!(first),
                json!(offset),
            ]);
        }
        return Ok(());
    }
    show_blocks(&log, number, flags, sink)
}

fn checkpoint_cells(number: LogNumber, found: &Checkpoint) -> Vec<Value> {
    let end = found.end();
    let fault = found.verify(number).err().map(|error| error.to_string());
    vec![
        json!(number.get()),
        json!(end.seq.0),
        json!(end.offset),
        json!(end.term.0),
        json!(found.size()),
        json!(fault),
    ]
}

fn image_cells(number: MoveNumber, found: &Checkpoint) -> Vec<Value> {
    let header = found.header();
    let count = |section: Section| {
        let mut sections = header.sections.iter();
        let info = sections.find(|info| info.tag == section as u16);
        json!(info.map_or(0, |info| info.record_count))
    };
    let fault = found
        .verify(header.log)
        .err()
        .map(|error| error.to_string());
    vec![
        json!(number.0),
        json!(header.log.get()),
        json!(header.end.offset),
        count(Section::Accounts),
        count(Section::Ids),
        json!(found.size()),
        json!(fault),
    ]
}

/// A row that says nothing but whose it is and why.
fn fault_cells(whose: Value, what: What, error: &crate::log::LogError) -> Vec<Value> {
    let mut cells = vec![Value::Null; head(what).len()];
    let last = cells.len() - 1;
    cells[0] = whose;
    cells[last] = json!(error.to_string());
    cells
}

fn show_blocks(
    log: &Log,
    number: LogNumber,
    flags: &Flags,
    sink: &mut Sink,
) -> Result<(), crate::log::LogError> {
    let mut offset = flags.offset.max(log.first().offset);
    while sink.left != 0 {
        let (at, bytes) = log.read_blocks(offset, log.end().offset, READ_SIZE)?;
        if bytes.is_empty() {
            return Ok(());
        }
        for block in blocks(&bytes, *log.verify()).flatten() {
            if flags.what == What::Blocks && sink.left != 0 {
                let head = block.head();
                sink.take(vec![
                    json!(number.get()),
                    json!(head.seq.0),
                    json!(head.term.0),
                    json!(head.offset),
                    json!(head.entry_count),
                    json!(head.committed.0),
                    json!(head.time.0),
                    json!(format!("{:016x}", block.end().chain)),
                ]);
            }
            for (place, time, entry) in block.entries() {
                if flags.what == What::Entries && sink.left != 0 {
                    sink.take(entry_cells(place, time, &Entry::read(entry)));
                }
            }
        }
        offset = at + to_u64(bytes.len());
    }
    Ok(())
}

fn entry_cells(
    place: Place,
    time: LogTime,
    entry: &Result<Entry, crate::model::EntryError>,
) -> Vec<Value> {
    let mut cells = vec![json!(place.to_string()), json!(time.0)];
    match entry {
        Ok(Entry::Change(change)) => cells.extend(change_cells(change)),
        Ok(Entry::Horizon { ms }) => cells.push(json!(format!("horizon {ms} ms"))),
        Ok(Entry::Epoch(mark)) => cells.push(json!(format!(
            "generation {}, ring epoch {}, term {}",
            mark.generation, mark.ring_epoch, mark.term
        ))),
        Ok(Entry::Activation(activation)) => {
            let ranges = activation.ranges().len();
            let text = format!(
                "activation of {ranges} ranges, epoch {}, move {}",
                activation.ring_epoch, activation.number
            );
            cells.push(json!(text));
        }
        Ok(Entry::HandOver(hand_over)) => cells.push(json!(format!(
            "hand-over of {} ranges, move {}, to node {} (log {})",
            hand_over.slots.as_slice().len(),
            hand_over.number,
            hand_over.target,
            hand_over.target_log
        ))),
        Ok(Entry::HandedSums(sums)) => {
            let sums = sums.sums().iter().map(|sum| {
                let total = sum.available + sum.held;
                format!("{total} of currency {}", sum.currency)
            });
            let all: Vec<String> = sums.collect();
            cells.push(json!(format!("handed over: {}", all.join(", "))));
        }
        Ok(Entry::Adopt(adopt)) => cells.push(json!(format!(
            "adoption from log {}, move {}",
            adopt.source_log, adopt.number
        ))),
        Ok(Entry::AdoptedFile(file)) => cells.push(json!(format!(
            "adopted file of move {}, {} accounts, {} bytes",
            file.image, file.account_count, file.size
        ))),
        Ok(Entry::AdoptedSlots(slots)) => {
            let ranges = slots.slots.as_slice().len();
            cells.push(json!(format!("adopted {ranges} ranges")));
        }
        Ok(Entry::Drop { number }) => cells.push(json!(format!("drop of move {number}"))),
        Err(error) => cells.push(json!(error.to_string())),
    }
    cells.resize(head(What::Entries).len(), Value::Null);
    cells
}

fn change_cells(change: &Change) -> Vec<Value> {
    let operation = &change.operation;
    vec![
        json!(operation.kind().name()),
        json!(operation.user().to_string()),
        json!(operation.currency()),
        json!(operation.id().map(|id| id.to_string())),
        json!(change.code.name()),
        json!(change.moved.max(operation.amount()).to_string()),
        json!(change.image.available.to_string()),
        json!(change.image.held.to_string()),
        json!(change.image.version.to_string()),
        json!(change.previous.to_string()),
    ]
}
