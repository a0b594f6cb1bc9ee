//! From nothing to a record and open logs. Never makes anything that was not asked for: a blank
//! folder is refused unless a new cluster is to be made, and a folder in use is never made anew.

use std::collections::BTreeSet;

use super::authority::{MemberRecord, Record};
use super::ends::lacks_own;
use super::recover::{Progress, Recover};
use super::stream::{OnDisk, Stream};
use super::{BackupOptions, Running, Stage};
use crate::canary::{self, Bug};
use crate::clock::{Now, Tick};
use crate::model::{LogNumber, Seq};
use crate::protocol::{Message, RefusalCode, Refused, VERSION_MAX, VERSION_MIN};
use crate::role::{
    DiskReply, DiskRequest, Effect, ExitCode, FileName, Input, Level, LogReport, Outbox, PeerId,
};

/// A backup that does not have its record yet.
#[derive(Debug)]
pub(super) struct Start {
    options: BackupOptions,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Nothing was done.
    New,
    /// The authority's file is being read.
    Loading,
    /// A cluster is to be made: are there logs without an authority?
    Looking {
        record: Box<Record>,
        left: BTreeSet<LogNumber>,
    },
    /// The record of a new cluster is being saved.
    Saving { record: Box<Record> },
    /// The cluster has lost its backup: this one is made again from the nodes.
    Recovering(Box<Recover>),
}

/// What one step of the start leads to.
#[derive(Debug)]
pub(super) enum Step {
    /// It goes on.
    Going,
    /// The process is to end.
    Ended,
    /// Here is the record, durable.
    Found(Box<Record>),
}

impl Start {
    pub(super) const fn new(options: BackupOptions) -> Self {
        Self {
            options,
            phase: Phase::New,
        }
    }

    pub(super) const fn options(&self) -> &BackupOptions {
        &self.options
    }

    /// At once while nothing was begun; then only the disk is waited for.
    pub(super) const fn deadline(&self) -> Option<Tick> {
        match &self.phase {
            Phase::New => Some(Tick(0)),
            Phase::Recovering(recover) => Some(recover.deadline()),
            Phase::Loading | Phase::Looking { .. } | Phase::Saving { .. } => None,
        }
    }

    pub(super) fn step(&mut self, now: Now, input: Option<Input<'_>>, out: &mut Outbox) -> Step {
        if matches!(self.phase, Phase::New) {
            self.phase = Phase::Loading;
            let name = FileName::Authority;
            out.effect(Effect::Disk(DiskRequest::LoadFile { name }));
        }
        if let Phase::Recovering(recover) = &mut self.phase {
            return match recover.step(now, input, out) {
                Progress::Going => Step::Going,
                Progress::Ended => Step::Ended,
                Progress::Recovered(record) => Step::Found(record),
            };
        }
        match input {
            Some(Input::Frame { peer, .. }) => {
                refuse_stranger(peer, out);
                Step::Going
            }
            Some(Input::Disk(reply)) => self.on_disk(now, reply, out),
            Some(Input::Stop) => end(ExitCode::Ok, "stopped before the start", out),
            Some(
                Input::Opened { .. }
                | Input::DialFailed { .. }
                | Input::Closed { .. }
                | Input::Drained { .. }
                | Input::Elapsed,
            )
            | None => Step::Going,
        }
    }

    fn on_disk(&mut self, now: Now, reply: DiskReply, out: &mut Outbox) -> Step {
        match reply {
            DiskReply::FileLoaded { bytes: None, .. } => self.on_blank(now, out),
            DiskReply::FileLoaded {
                bytes: Some(bytes), ..
            } => self.on_record(&bytes, out),
            DiskReply::LogOpened { log, report, .. } => self.on_looked(log, report, out),
            DiskReply::FileSaved { .. } => {
                let Phase::Saving { record } = std::mem::replace(&mut self.phase, Phase::Loading)
                else {
                    return end(
                        ExitCode::Damage,
                        "the disk saved what was not asked for",
                        out,
                    );
                };
                let text = format!(
                    "made cluster {}: {} nodes, generation 1, ring epoch 1",
                    record.cluster,
                    record.members.len()
                );
                let level = Level::Info;
                out.effect(Effect::Say { level, text });
                Step::Found(record)
            }
            DiskReply::Failed { text, .. } => end(
                ExitCode::Damage,
                &format!("the folder is unreadable: {text}"),
                out,
            ),
            DiskReply::Durable { .. }
            | DiskReply::LogCut { .. }
            | DiskReply::BlocksRead { .. }
            | DiskReply::EntryRead { .. }
            | DiskReply::SegmentReady { .. }
            | DiskReply::CheckpointMade { .. }
            | DiskReply::Retired { .. }
            | DiskReply::CheckpointLoaded { .. }
            | DiskReply::CheckpointRead { .. }
            | DiskReply::CheckpointWritten { .. }
            | DiskReply::FreeSpace { .. }
            | DiskReply::ReplicaAt { .. }
            | DiskReply::Audited { .. }
            | DiskReply::Surveyed { .. }
            | DiskReply::HandOverBuilt { .. }
            | DiskReply::ImagesDrafted { .. }
            | DiskReply::MoveFileRead { .. }
            | DiskReply::MoveFileWritten { .. }
            | DiskReply::MoveFileLoaded { .. }
            | DiskReply::MoveFilesKept => {
                end(ExitCode::Damage, "the disk answers what was not asked", out)
            }
        }
    }

    fn on_record(&self, bytes: &[u8], out: &mut Outbox) -> Step {
        let record = match Record::decode(bytes) {
            Ok(record) => record,
            Err(error) => return end(ExitCode::Damage, &error.to_string(), out),
        };
        if self.options.create.is_some() || self.options.recover.is_some() {
            let text = format!(
                "this folder already holds cluster {}: start without making a new one or \
                 recovering, or name an empty folder",
                record.cluster
            );
            return end(ExitCode::Usage, &text, out);
        }
        Step::Found(Box::new(record))
    }

    fn on_blank(&mut self, now: Now, out: &mut Outbox) -> Step {
        if let Some(plan) = &self.options.recover {
            let recover = Recover::new(self.options.clone(), plan.clone(), out);
            self.phase = Phase::Recovering(Box::new(recover));
            return Step::Going;
        }
        let Some(new) = &self.options.create else {
            let text = "this folder holds no authority file. A new cluster is made only on \
                        demand: `counterfoil backup --create`. If there was one and its folder \
                        is lost, it is made again from the nodes: `counterfoil backup recover`";
            return end(ExitCode::Usage, text, out);
        };
        if let Err(error) = new.check() {
            return end(
                ExitCode::Usage,
                &format!("no cluster can be made: {error}"),
                out,
            );
        }
        let record = Box::new(Record::create(new, now.wall_ms));
        let left: BTreeSet<LogNumber> = record.members.values().map(|member| member.log).collect();
        for log in &left {
            out.effect(Effect::Disk(DiskRequest::OpenLog { log: *log }));
        }
        self.phase = Phase::Looking { record, left };
        Step::Going
    }

    fn on_looked(&mut self, log: LogNumber, report: Option<LogReport>, out: &mut Outbox) -> Step {
        let Phase::Looking { left, .. } = &mut self.phase else {
            return end(
                ExitCode::Damage,
                "the disk opened what was not asked for",
                out,
            );
        };
        if let Some(report) = report {
            let text = format!(
                "no authority file, but log {log} of cluster {} is here: no new cluster is made \
                 over it. Restore the file, or make the backup again from the nodes: `counterfoil \
                 backup recover`",
                report.cluster
            );
            return end(ExitCode::Damage, &text, out);
        }
        left.remove(&log);
        if !left.is_empty() {
            return Step::Going;
        }
        let Phase::Looking { record, .. } = std::mem::replace(&mut self.phase, Phase::Loading)
        else {
            return Step::Going;
        };
        out.effect(Effect::Disk(DiskRequest::SaveFile {
            name: FileName::Authority,
            bytes: record.encode(),
        }));
        self.phase = Phase::Saving { record };
        Step::Going
    }
}

fn end(code: ExitCode, text: &str, out: &mut Outbox) -> Step {
    out.effect(Effect::Exit {
        code,
        text: text.to_owned(),
    });
    Step::Ended
}

fn refuse_stranger(peer: PeerId, out: &mut Outbox) {
    let refused = Refused {
        code: RefusalCode::NotReady,
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        text: "the backup is starting",
    };
    out.send(peer, &Message::Refused(refused));
    out.effect(Effect::Close {
        peer,
        reason: "starting".to_owned(),
    });
}

/// May a log with this report be served under this record? Else why not, with the position.
fn judge(record: &Record, member: &MemberRecord, report: &LogReport) -> Result<(), String> {
    if canary::on(Bug::AcceptedDamage) {
        return Ok(());
    }
    let log = member.log;
    let end = &report.end;
    if report.cluster != record.cluster {
        return Err(format!(
            "log {log} belongs to cluster {}, this one is {}",
            report.cluster, record.cluster
        ));
    }
    if let Some(damage) = &report.damage {
        return Err(format!("log {log} is damaged: {damage}"));
    }
    if !super::options::segment_size_is_possible(report.segment_size) {
        return Err(format!(
            "log {log} has segments of {} bytes",
            report.segment_size
        ));
    }
    if end.seq < report.committed {
        return Err(format!(
            "log {log} ends with block {} at offset {}, but block {} was committed",
            end.seq, end.offset, report.committed
        ));
    }
    if member.term < end.term {
        return Err(format!(
            "log {log} ends with term {}, but the authority file knows terms up to {} only: it \
             is older than the log",
            end.term, member.term
        ));
    }
    let Some(grant) = member.grants.last() else {
        return Ok(());
    };
    if end.seq < grant.seq {
        return Err(format!(
            "log {log} ends with block {} at offset {}, but term {} was granted behind block {}",
            end.seq, end.offset, grant.term, grant.seq
        ));
    }
    if end.seq == grant.seq && end.seq != Seq(0) && end.chain != grant.chain {
        return Err(format!(
            "log {log} ends with chain value {:016x} at block {}, but term {} was granted behind \
             {:016x}",
            end.chain, end.seq, grant.term, grant.chain
        ));
    }
    lacks_own(record, log, end).map_or(Ok(()), Err)
}

impl Running {
    /// Asks for all logs and for the room on the disk.
    pub(super) fn open_logs(&mut self, now: Now, out: &mut Outbox) {
        for log in self.streams.keys() {
            out.effect(Effect::Disk(DiskRequest::OpenLog { log: *log }));
        }
        self.measure(now, out);
    }

    /// Recovery of one log is done.
    pub(super) fn on_recovered(
        &mut self,
        now: Now,
        log: LogNumber,
        report: Option<LogReport>,
        out: &mut Outbox,
    ) {
        let record = self.authority.record();
        let Some(member) = record.log(log) else {
            return;
        };
        let Some(report) = report else {
            if member.term.0 != 0 {
                let text = format!(
                    "log {log} is gone, though term {} of it was granted: the folder is not \
                     served. Restore it, or make the backup again from the nodes in an empty \
                     folder: `counterfoil backup recover`",
                    member.term
                );
                self.alarm_and_exit(text, out);
                return;
            }
            let stream = self.streams.get_mut(&log).expect("every member has one");
            stream.on_disk = OnDisk::Missing;
            self.opened_one(now, log, out);
            return;
        };
        if let Err(text) = judge(record, member, &report) {
            self.alarm_and_exit(format!("{text}; the folder is not served"), out);
            return;
        }
        let torn = report.torn.clone();
        let stream = self.streams.get_mut(&log).expect("every member has one");
        stream.opened(report);
        if let Some(torn) = torn {
            // Acknowledging waits for the sync: if it is no damage, nobody was told of it.
            let text = format!("log {log} has an unfinished write, it is put aside: {torn}");
            self.say(Level::Warn, text, out);
            self.put_tail_aside(log, out);
            return;
        }
        self.opened_one(now, log, out);
    }

    /// The tail of a log is put aside.
    pub(super) fn on_cut(&mut self, now: Now, log: LogNumber, size: u64, out: &mut Outbox) {
        if let Some(stream) = self.streams.get_mut(&log) {
            stream.on_disk = OnDisk::Open;
            self.say(
                Level::Info,
                format!("log {log}: {size} bytes put aside"),
                out,
            );
            self.opened_one(now, log, out);
        }
    }

    fn opened_one(&mut self, now: Now, log: LogNumber, out: &mut Outbox) {
        self.touch(log);
        self.become_ready(now, out);
    }

    /// Everything is open and measured: serve.
    pub(super) fn become_ready(&mut self, now: Now, out: &mut Outbox) {
        let opening = self.streams.values().any(Stream::is_opening);
        if self.stage != Stage::Opening || opening || self.disk.free_size.is_none() {
            return;
        }
        self.stage = Stage::Serving;
        self.turn = now.tick;
        for stream in self.streams.values_mut() {
            stream.last_heard = now.tick;
            stream.moved = now.tick;
        }
        self.resume_moves();
        let record = self.authority.record();
        let text = format!(
            "serving cluster {}: {} logs, generation {}, ring epoch {}",
            record.cluster,
            self.streams.len(),
            record.generation,
            record.ring_epoch()
        );
        self.say(Level::Info, text, out);
        out.effect(Effect::Ready);
    }

    pub(super) fn alarm_and_exit(&mut self, text: String, out: &mut Outbox) {
        self.say(Level::Alarm, text.clone(), out);
        self.exit(ExitCode::Damage, text, out);
    }
}
