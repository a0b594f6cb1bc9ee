//! Status and audit: asked of any front, answered by the backup.
//!
//! The front passes question and answer on under numbers of its own, frame by frame, and looks
//! into neither. When no answer can come (the backup is away, is lost meanwhile, or takes longer
//! than the default deadline) both kinds of question get a `status_told` with the JSON object
//! `{"error": CODE, "text": WHY}`: an `audit_told` has no room for a reason. An audit that was
//! answered in part may end so too; its rows are then to be thrown away.

use std::collections::BTreeMap;

use super::Front;
use super::pool::Key;
use crate::clock::Tick;
use crate::limits::{DEADLINE_MS_DEFAULT, FRONT_QUESTION_COUNT_MAX};
use crate::model::ResultCode;
use crate::protocol::{FLAG_MORE, Header, Message, write_message};
use crate::role::Outbox;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AskKind {
    Status,
    Audit,
}

#[derive(Clone, Copy, Debug)]
struct Ask {
    client: Key,
    request: u64,
    deadline: Tick,
}

/// Questions that the backup has not answered, by the numbers they have there.
#[derive(Debug, Default)]
pub(super) struct Asks {
    pending: BTreeMap<u64, Ask>,
    count: u64,
}

impl Asks {
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// All have the same time, so the oldest number is due first.
    pub(super) fn deadline(&self) -> Option<Tick> {
        let (_, oldest) = self.pending.first_key_value()?;
        Some(oldest.deadline)
    }
}

impl Front {
    /// Passes a client's question on to the backup.
    pub(super) fn ask(
        &mut self,
        now: Tick,
        client: Key,
        (request, kind): (u64, AskKind),
        out: &mut Outbox,
    ) {
        let ask = Ask {
            client,
            request,
            deadline: now.plus_ms(u64::from(DEADLINE_MS_DEFAULT)),
        };
        let Some(peer) = self.backup_peer() else {
            self.fail_ask(&ask, ResultCode::Unavailable, "the backup is away", out);
            return;
        };
        if !self.is_serving() {
            self.fail_ask(&ask, ResultCode::Unavailable, "this front is ending", out);
            return;
        }
        if self.asks.pending.len() == FRONT_QUESTION_COUNT_MAX {
            self.fail_ask(&ask, ResultCode::Busy, "too many questions", out);
            return;
        }
        self.asks.count += 1;
        self.asks.pending.insert(self.asks.count, ask);
        let message = match kind {
            AskKind::Status => Message::StatusAsk,
            AskKind::Audit => Message::AuditAsk,
        };
        message.write_for(out.buffer(peer), self.asks.count);
    }

    /// Passes a frame of the backup's answer back. One that comes too late is dropped.
    pub(super) fn on_told(&mut self, header: Header, message: &Message<'_>, out: &mut Outbox) {
        let Some(ask) = self.asks.pending.get(&header.request).copied() else {
            return;
        };
        if header.flags & FLAG_MORE == 0 {
            self.asks.pending.remove(&header.request);
        }
        if let Some(client) = self.clients.get(ask.client)
            && client.is_open()
        {
            let header = Header {
                request: ask.request,
                ..header
            };
            write_message(out.buffer(client.peer), header, message);
        }
    }

    /// Ends the questions whose time is up.
    pub(super) fn tick_asks(&mut self, now: Tick, out: &mut Outbox) {
        while self.asks.deadline().is_some_and(|deadline| deadline <= now) {
            if let Some((_, ask)) = self.asks.pending.pop_first() {
                let text = "the backup did not answer in time";
                self.fail_ask(&ask, ResultCode::Unavailable, text, out);
            }
        }
    }

    /// Ends all questions: the backup's connection is gone.
    pub(super) fn fail_asks(&mut self, out: &mut Outbox) {
        for ask in std::mem::take(&mut self.asks.pending).values() {
            self.fail_ask(ask, ResultCode::Unavailable, "the backup was lost", out);
        }
    }

    fn fail_ask(&self, ask: &Ask, code: ResultCode, text: &str, out: &mut Outbox) {
        if let Some(client) = self.clients.get(ask.client)
            && client.is_open()
        {
            let json = format!("{{\"error\":\"{}\",\"text\":\"{text}\"}}", code.name());
            let message = Message::StatusTold { json: &json };
            message.write_for(out.buffer(client.peer), ask.request);
        }
    }
}
