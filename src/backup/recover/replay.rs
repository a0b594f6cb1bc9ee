//! What follows once all logs are here: they are replayed, looked at and added up.

use super::super::authority::{Found, FoundLog, Record};
use super::{Failed, ImageCopy, Phase, Recover, Source};
use crate::clock::Now;
use crate::model::{LogEnd, LogNumber, MoveNumber, NodeId};
use crate::protocol::AuditRow;
use crate::role::{DiskRequest, Effect, Level, MoveEvent, Outbox, Survey};

impl Source {
    /// Where its log ends, here as there.
    fn end(&self) -> LogEnd {
        let refill = self.refill.as_ref().expect("it is refilled");
        refill.offer().end
    }
}

impl Recover {
    pub(super) fn begin_replay(&mut self, out: &mut Outbox) {
        self.phase = Phase::Replaying;
        // Who is given up but was here before somebody said so has no say.
        let give_up = &self.plan.give_up;
        self.sources.retain(|node, _| !give_up.contains(node));
        let logs: Vec<LogNumber> = self.sources.values().map(|source| source.log).collect();
        for log in logs {
            self.advance_replica(log, out);
        }
    }

    fn advance_replica(&mut self, log: LogNumber, out: &mut Outbox) {
        let ring_key = self.ring_key.expect("all have recorded");
        if let Some((_, source)) = self.by_log(log) {
            let through = source.end();
            out.effect(Effect::Disk(DiskRequest::AdvanceReplica {
                log,
                through,
                ring_key,
            }));
        }
    }

    /// A replay needs an image that is not here: the node that adopted it has it.
    pub(super) fn fetch_image(
        &mut self,
        log: LogNumber,
        number: MoveNumber,
        text: &str,
    ) -> Result<(), Failed> {
        if !self.images.insert(number) {
            return Err(format!("{text}, though it was copied"));
        }
        let Some((_, source)) = self.by_log(log) else {
            return Err(text.to_owned());
        };
        // What came in part of this replay comes again with the next one.
        source.events.clear();
        source.image = Some(ImageCopy {
            number,
            offset: 0,
            is_writing: false,
        });
        Ok(())
    }

    /// A piece of an image is written: more may be asked for. Which logs it is for.
    pub(super) fn note_image_written(&mut self, number: MoveNumber) -> Vec<LogNumber> {
        let mut logs = Vec::new();
        for source in self.sources.values_mut() {
            let written = source.image.as_mut().filter(|image| image.number == number);
            if let Some(image) = written {
                image.is_writing = false;
                logs.push(source.log);
            }
        }
        logs
    }

    /// An image is whole and durable: the replays that wanted it go on.
    pub(super) fn use_image(&mut self, logs: &[LogNumber], out: &mut Outbox) {
        for log in logs {
            if let Some((_, source)) = self.by_log(*log) {
                source.image = None;
            }
            self.advance_replica(*log, out);
        }
    }

    pub(super) fn replica_at(
        &mut self,
        log: LogNumber,
        end: &LogEnd,
        events: &[MoveEvent],
        out: &mut Outbox,
    ) {
        let ring_key = self.ring_key.expect("all have recorded");
        let Some((_, source)) = self.by_log(log) else {
            return;
        };
        source.events.extend_from_slice(events);
        let through = source.end();
        if end.seq < through.seq {
            self.advance_replica(log, out);
            return;
        }
        source.is_replayed = true;
        if self.sources.values().all(|source| source.is_replayed) {
            for source in self.sources.values() {
                out.effect(Effect::Disk(DiskRequest::Survey {
                    log: source.log,
                    through: source.end(),
                    ring_key,
                }));
            }
        }
    }

    pub(super) fn surveyed(
        &mut self,
        now: Now,
        log: LogNumber,
        survey: Survey,
        out: &mut Outbox,
    ) -> Result<(), Failed> {
        if let Some((_, source)) = self.by_log(log) {
            source.survey = Some(survey);
        }
        if self.sources.values().any(|source| source.survey.is_none()) {
            return Ok(());
        }
        let record = self.found(now).rebuild()?;
        let ends = self.sources.values();
        out.effect(Effect::Disk(DiskRequest::Audit {
            ends: ends.map(|source| (source.log, source.end())).collect(),
            ring_key: record.ring_key,
            ticket: 0,
        }));
        self.phase = Phase::Adding(Box::new(record));
        Ok(())
    }

    fn found(&self, now: Now) -> Found {
        let offers = self
            .sources
            .values()
            .filter_map(|source| source.refill.as_ref());
        let sizes = offers.map(|refill| refill.offer().verify.segment_size);
        Found {
            cluster: self.cluster.expect("all have registered"),
            ring_key: self.ring_key.expect("all have recorded"),
            generation: self.generation,
            segment_size: sizes.max().expect("somebody gave something"),
            at_ms: now.wall_ms,
            holder: self.options.incarnation,
            ring_epoch: self.ring_epoch,
            log_max: self.log_max,
            logs: self
                .sources
                .iter()
                .map(|(node, source)| self.found_log(*node, source))
                .collect(),
            given_up: self.plan.give_up.clone(),
        }
    }

    fn found_log(&self, node: NodeId, source: &Source) -> FoundLog {
        FoundLog {
            node,
            log: source.log,
            weight: self.plan.weights.get(&node).copied().unwrap_or(1),
            copy: source.copy,
            address: source.address,
            survey: source.survey.clone().expect("all are looked at"),
            events: source.events.clone(),
        }
    }

    /// All logs are added up: what was adopted out of logs that are not here is kept, so that it
    /// is told from what goes wrong later.
    pub(super) fn added_up(&mut self, rows: &[AuditRow], out: &mut Outbox) {
        let Phase::Adding(record) = std::mem::replace(&mut self.phase, Phase::Gathering) else {
            return;
        };
        let record = note_openings(record, rows, out);
        let text = format!(
            "recovered cluster {}: generation {}, ring epoch {}, {} logs, {} moves go on, {} nodes \
             given up",
            record.cluster,
            record.generation,
            record.ring_epoch(),
            record.members.len(),
            record.moves.active.len(),
            self.plan.give_up.len(),
        );
        let level = Level::Info;
        out.effect(Effect::Say { level, text });
        self.save(record, out);
    }
}

fn note_openings(mut record: Box<Record>, rows: &[AuditRow], out: &mut Outbox) -> Box<Record> {
    let mut say = |level, text| out.effect(Effect::Say { level, text });
    if !record.moves.active.is_empty() {
        let text = "moves are under way: no opening difference is taken".to_owned();
        say(Level::Info, text);
        return record;
    }
    let recovered = record.recovered.as_mut().expect("it was just made");
    for row in rows {
        let difference = row.adopted_in - row.adopted_out;
        if difference != 0 {
            recovered.openings.insert(row.currency, difference);
            let text = format!(
                "opening difference of currency {}: {difference} came with slots from logs \
                     that are no more",
                row.currency
            );
            say(Level::Warn, text);
        }
    }
    record
}
