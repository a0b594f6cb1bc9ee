//! Where each log must reach at least: what is recorded of its end, and what follows from an end
//! that is too short, or in doubt.
//!
//! Damage in the last blocks of a log cannot always be told from a write that was cut short, so a
//! start of the backup puts both aside, and the log's node sends again what it has. As long as it
//! has not, the log here may lack what was acknowledged, and must not be handed over. Three things
//! are recorded for that: the end of each log once it has stood still for a moment, the block by
//! which a node adopted slots, and that something was put aside.

use super::authority::{MemberRecord, Record, Shown};
use super::stream::{OnDisk, Stream};
use super::{Running, Stage};
use crate::canary::{self, Bug};
use crate::clock::Now;
use crate::limits::END_QUIET_MS;
use crate::model::{LogEnd, LogNumber, NodeId, Seq};
use crate::role::{DiskRequest, Effect, Level, Outbox};

/// What this log lacks, or may lack: damage took it from the end, and only the log's node has it.
pub(super) fn lacks(record: &Record, stream: &Stream) -> Option<String> {
    let log = stream.log;
    if let Some(text) = lacks_known(record, log, &stream.durable) {
        return Some(text);
    }
    let is_doubtful = record
        .log(log)
        .is_some_and(|member| member.is_doubtful(&stream.durable));
    let counts = is_doubtful && !canary::on(Bug::DoubtfulEndTaken);
    counts.then(|| {
        format!(
            "had an unfinished write behind block {} when the backup started, which may have been \
             damage",
            stream.durable.seq
        )
    })
}

/// A block or a place that the record knows to have been durable in this log, and that the log
/// here lacks.
fn lacks_known(record: &Record, log: LogNumber, end: &LogEnd) -> Option<String> {
    let ended = record.moves.ended.iter().filter(|ended| ended.log == log);
    let member = record.log(log);
    let granted = member.and_then(MemberRecord::granted_behind);
    let reached = member.map(|member| member.reached);
    let known = ended.filter_map(|ended| ended.gone).chain(granted);
    let known = known.chain(reached).max();
    if let Some(seq) = known.filter(|seq| end.seq < *seq) {
        return Some(format!(
            "ends with block {} here, and had block {seq}",
            end.seq
        ));
    }
    let mut handed = record.moves.out_of_log(log);
    let place = handed.find_map(|(_, moving)| {
        let place = moving.handed()?.place;
        (end.offset <= place.offset()).then_some(place)
    });
    place.map(|place| format!("ends with block {} here, before {place}", end.seq))
}

/// What this log lacks and no node can bring: the backup wrote it itself, in a term of its own,
/// and no node was there since.
pub(super) fn lacks_own(record: &Record, log: LogNumber, end: &LogEnd) -> Option<String> {
    let member = record.log(log)?;
    // What the nodes had is before that term; the caller has looked whether it is there.
    let text = member
        .is_backups()
        .then(|| lacks_known(record, log, end))??;
    Some(format!(
        "log {log} {text}, which the backup wrote itself: no node has it. Restore the folder, or \
         make the backup again from the nodes in an empty folder: `counterfoil backup recover`"
    ))
}

/// Does a member's log end behind what is recorded? Nobody takes over a retired one.
fn is_news(record: &Record, stream: &Stream) -> bool {
    let member = record.members.get(&stream.node);
    member.is_some_and(|member| member.log == stream.log && member.reached < stream.durable.seq)
}

impl Running {
    /// Records where logs end, once one has stood still. While it moves, each block says what was
    /// committed before it.
    pub(super) fn note_ends(&mut self, now: Now) {
        match self.stage {
            Stage::Serving => (),
            Stage::Stopping if self.streams.values().all(Stream::is_quiet) => {
                self.record_ends();
                return;
            }
            Stage::Opening | Stage::Stopping | Stage::Ended => return,
        }
        let record = self.authority.latest();
        let is_still =
            |stream: &&Stream| stream.is_quiet() && stream.moved.plus_ms(END_QUIET_MS) <= now.tick;
        let mut still = self.streams.values().filter(is_still);
        if still.any(|stream| is_news(record, stream)) {
            self.record_ends();
        }
    }

    /// Records the ends of all logs.
    fn record_ends(&mut self) {
        let record = self.authority.latest();
        let news = self
            .streams
            .values()
            .filter(|stream| is_news(record, stream));
        let ends: Vec<(NodeId, Seq)> = news
            .map(|stream| (stream.node, stream.durable.seq))
            .collect();
        if ends.is_empty() {
            return;
        }
        self.authority.change(|record| {
            for (node, seq) in ends {
                if let Some(member) = record.members.get_mut(&node) {
                    member.reach(seq);
                }
            }
        });
    }

    /// Something unfinished lies behind the end of a log: it is put aside, once it is recorded
    /// that it was there.
    pub(super) fn put_tail_aside(&mut self, log: LogNumber, out: &mut Outbox) {
        let stream = self.streams.get_mut(&log).expect("it was just opened");
        stream.on_disk = OnDisk::Cutting;
        let (node, to) = (stream.node, stream.durable);
        let member = self.authority.latest().members.get(&node);
        // In a term of the backup's own nobody was told that anything is durable.
        let brings_doubt = member.is_some_and(|member| {
            member.log == log && !member.is_backups() && member.doubted != member.term
        });
        if !brings_doubt {
            out.effect(Effect::Disk(DiskRequest::CutLog { log, to }));
            return;
        }
        let number = self
            .authority
            .change_member(node, |member| member.doubted = member.term);
        self.cuts.push_back((number, log));
    }

    /// The record is durable: what waits for it is put aside.
    pub(super) fn cut_tails(&mut self, out: &mut Outbox) {
        let through = self.authority.durable_through();
        while let Some((number, log)) = self.cuts.front().copied() {
            if through < number {
                return;
            }
            self.cuts.pop_front();
            let to = self.streams[&log].durable;
            out.effect(Effect::Disk(DiskRequest::CutLog { log, to }));
        }
    }

    /// A node comes with an empty folder: what the log lacks here, nobody has any more.
    pub(super) fn warn_of_loss(&mut self, log: LogNumber, shown: Shown, out: &mut Outbox) {
        if shown != Shown::Empty {
            return;
        }
        let record = self.authority.latest();
        let stream = &self.streams[&log];
        let Some(text) = lacks(record, stream) else {
            return;
        };
        let level = if lacks_known(record, log, &stream.durable).is_some() {
            Level::Alarm
        } else {
            Level::Warn
        };
        let text = format!(
            "log {log} {text}, and node {} comes with an empty folder: what was behind block {} \
             is lost",
            stream.node, stream.durable.seq
        );
        self.say(level, text, out);
    }
}
