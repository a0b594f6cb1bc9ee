//! The audit: sums of all logs at one instant over their durable ends.
//!
//! A consistent cut, because nothing leaves a node before its block is here. Who asks while one
//! is being taken shares the next one: an answer is never older than its question.

use super::connections::Asker;
use super::{Running, Stage};
use crate::clock::Now;
use crate::protocol::{AuditPart, AuditRow, RefusalCode, write_audit};
use crate::role::{DiskRequest, Effect, Level, Outbox, PeerId};

/// Rows in one frame: it must fit in a client's.
const FRAME_ROW_COUNT: usize = 4_096;

/// Who waits for which audit.
#[derive(Debug, Default)]
pub(super) struct AuditDesk {
    waiting: Vec<Asker>,
    running: Option<(u64, Vec<Asker>)>,
    last_ticket: u64,
    /// The newest one.
    pub(super) last: Option<AuditNote>,
}

/// What is remembered of an audit.
#[derive(Clone, Copy, Debug)]
pub(super) struct AuditNote {
    /// When it was finished, Unix milliseconds.
    pub(super) time_ms: u64,
    /// Currencies.
    pub(super) currency_count: usize,
    /// Currencies in which money was made or lost.
    pub(super) differing_count: usize,
}

impl AuditDesk {
    /// A peer is gone: it waits for nothing.
    pub(super) fn forget(&mut self, peer: PeerId) {
        self.waiting.retain(|asker| asker.peer != peer);
        if let Some((_, askers)) = &mut self.running {
            askers.retain(|asker| asker.peer != peer);
        }
    }

    fn len(&self) -> usize {
        let running = self.running.as_ref().map_or(0, |(_, askers)| askers.len());
        self.waiting.len() + running
    }

    fn finish(&mut self, ticket: u64) -> Option<Vec<Asker>> {
        let (running, _) = self.running.as_ref()?;
        if *running != ticket {
            return None;
        }
        self.running.take().map(|(_, askers)| askers)
    }
}

impl Running {
    pub(super) fn on_audit_ask(&mut self, asker: Asker, out: &mut Outbox) {
        let max = self.options.limits.audit_asker_count_max;
        if crate::model::to_usize(u64::from(max)) <= self.audit.len() {
            let text = format!("more than {max} wait for an audit");
            self.refuse(asker, RefusalCode::TooManyFrames, &text, out);
            return;
        }
        self.audit.waiting.push(asker);
    }

    /// Begins an audit for all who wait, unless one is being taken.
    pub(super) fn begin_audit(&mut self, out: &mut Outbox) {
        let desk = &mut self.audit;
        if self.stage != Stage::Serving || desk.waiting.is_empty() || desk.running.is_some() {
            return;
        }
        desk.last_ticket += 1;
        desk.running = Some((desk.last_ticket, std::mem::take(&mut desk.waiting)));
        let streams = self.streams.values().filter(|stream| stream.exists());
        out.effect(Effect::Disk(DiskRequest::Audit {
            ends: streams.map(|stream| (stream.log, stream.durable)).collect(),
            ring_key: self.authority.record().ring_key,
            ticket: desk.last_ticket,
        }));
    }

    pub(super) fn on_audited(
        &mut self,
        now: Now,
        ticket: u64,
        rows: &[AuditRow],
        out: &mut Outbox,
    ) {
        let Some(askers) = self.audit.finish(ticket) else {
            return;
        };
        let differing = rows.iter().filter(|row| row.difference != 0);
        let note = AuditNote {
            time_ms: now.wall_ms,
            currency_count: rows.len(),
            differing_count: differing.clone().count(),
        };
        self.audit.last = Some(note);
        if let Some(row) = differing.clone().next() {
            let text = format!(
                "the audit does not add up in {} currencies, in currency {} by {}",
                note.differing_count, row.currency, row.difference
            );
            self.say(Level::Alarm, text, out);
        }
        for asker in askers {
            let buffer = out.buffer(asker.peer);
            let mut rest = rows;
            while let Some((rows, more)) = rest.split_at_checked(FRAME_ROW_COUNT)
                && !more.is_empty()
            {
                write_audit(buffer, asker.request, rows, AuditPart::More);
                rest = more;
            }
            write_audit(buffer, asker.request, rest, AuditPart::Last);
        }
    }

    pub(super) fn on_audit_failed(&mut self, ticket: u64, text: &str, out: &mut Outbox) {
        self.say(Level::Alarm, format!("the audit failed: {text}"), out);
        for asker in self.audit.finish(ticket).unwrap_or_default() {
            let text = format!("the audit failed: {text}");
            self.refuse(asker, RefusalCode::NotReady, &text, out);
        }
    }
}
