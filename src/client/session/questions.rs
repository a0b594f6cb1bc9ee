//! Questions about the cluster, and their answers as they come in.
//!
//! There are few of them, so they are looked for one by one. Knows no connection.

use super::IsLast;
use crate::client::ClientError;
use crate::clock::Tick;
use crate::limits::{CLIENT_AUDIT_ROW_COUNT_MAX, CURRENCY_COUNT_MAX};
use crate::model::ResultCode;
use crate::protocol::{AuditRow, AuditRows, Message};

const _: () = assert!((CURRENCY_COUNT_MAX as usize) < CLIENT_AUDIT_ROW_COUNT_MAX);

/// A question about the cluster that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question(u64);

/// The answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// JSON text.
    Status(String),
    /// One row for each currency.
    Audit(Vec<AuditRow>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Waiting,
    InFlight,
    Told,
    /// It could not be answered now, or not before its deadline.
    Failed(ResultCode),
}

#[derive(Debug)]
struct Asking {
    question: Question,
    deadline: Tick,
    progress: Progress,
    told: Told,
}

impl Asking {
    const fn is_open(&self) -> bool {
        matches!(self.progress, Progress::Waiting | Progress::InFlight)
    }
}

/// All questions that are asked or whose answers are not taken yet.
#[derive(Debug)]
pub(super) struct Questions {
    all: Vec<Asking>,
    last: u64,
}

impl Questions {
    pub(super) const fn new() -> Self {
        Self {
            all: Vec::new(),
            last: 0,
        }
    }

    /// Takes a question; `told` is the empty answer to it.
    pub(super) fn ask(&mut self, deadline: Tick, told: Told) -> Question {
        self.last += 1;
        let question = Question(self.last);
        self.all.push(Asking {
            question,
            deadline,
            progress: Progress::Waiting,
            told,
        });
        question
    }

    /// Is any of them not answered yet?
    pub(super) fn has_open(&self) -> bool {
        self.all.iter().any(Asking::is_open)
    }

    /// The next one to be sent, with its deadline. It counts as sent.
    pub(super) fn send_next(&mut self) -> Option<(Question, Tick, Message<'static>)> {
        let mut all = self.all.iter_mut();
        let asking = all.find(|asking| asking.progress == Progress::Waiting)?;
        asking.progress = Progress::InFlight;
        let message = match asking.told {
            Told::Status(_) => Message::StatusAsk,
            Told::Audit(_) => Message::AuditAsk,
        };
        Some((asking.question, asking.deadline, message))
    }

    /// The connection was lost: what came so far does not count.
    pub(super) fn lost(&mut self, question: Question) {
        if let Some(asking) = self.in_flight(question) {
            asking.progress = Progress::Waiting;
            match &mut asking.told {
                Told::Status(text) => text.clear(),
                Told::Audit(rows) => rows.clear(),
            }
        }
    }

    /// A status came: the answer to either kind of question if it names an error.
    pub(super) fn status(&mut self, question: Question, json: &str) -> Result<(), ClientError> {
        let Some(asking) = self.in_flight(question) else {
            return Ok(());
        };
        if let Some(code) = status_error(json) {
            asking.progress = Progress::Failed(code);
            return Ok(());
        }
        let Told::Status(text) = &mut asking.told else {
            return Err(ClientError::protocol("a status for an audit"));
        };
        json.clone_into(text);
        asking.progress = Progress::Told;
        Ok(())
    }

    /// Rows of an audit came.
    pub(super) fn audit(
        &mut self,
        question: Question,
        rows: AuditRows<'_>,
        is_last: IsLast,
    ) -> Result<(), ClientError> {
        let Some(asking) = self.in_flight(question) else {
            return Ok(());
        };
        let Told::Audit(all) = &mut asking.told else {
            return Err(ClientError::protocol("an audit for a status"));
        };
        if CLIENT_AUDIT_ROW_COUNT_MAX < all.len() + rows.len() {
            return Err(ClientError::protocol("an audit without end"));
        }
        for row in rows.iter() {
            all.push(row.map_err(|error| ClientError::protocol(error.to_string()))?);
        }
        if is_last == IsLast::Yes {
            asking.progress = Progress::Told;
        }
        Ok(())
    }

    /// Ends what has passed its deadline.
    pub(super) fn tick(&mut self, now: Tick) {
        for asking in &mut self.all {
            if asking.deadline <= now && asking.is_open() {
                asking.progress = Progress::Failed(ResultCode::Unavailable);
            }
        }
    }

    /// When `tick` has something to do if nothing else happens.
    pub(super) fn deadline(&self) -> Option<Tick> {
        let open = self.all.iter().filter(|asking| asking.is_open());
        open.map(|asking| asking.deadline).min()
    }

    /// The answer, once it is there, and once only.
    pub(super) fn take(&mut self, question: Question) -> Option<Result<Told, ClientError>> {
        let mut all = self.all.iter();
        let index = all.position(|asking| asking.question == question && !asking.is_open())?;
        let asking = self.all.swap_remove(index);
        Some(match asking.progress {
            Progress::Failed(code) => Err(ClientError::NotNow { code, id: None }),
            Progress::Waiting | Progress::InFlight | Progress::Told => Ok(asking.told),
        })
    }

    fn in_flight(&mut self, question: Question) -> Option<&mut Asking> {
        let mut all = self.all.iter_mut();
        all.find(|asking| asking.question == question && asking.progress == Progress::InFlight)
    }
}

/// The code in a status that begins with the member `error`: the question, whichever it was,
/// could not be answered now.
fn status_error(json: &str) -> Option<ResultCode> {
    let rest = json.trim_start().strip_prefix('{')?;
    let rest = rest.trim_start().strip_prefix("\"error\"")?;
    let rest = rest.trim_start().strip_prefix(':')?;
    let name = rest.trim_start().strip_prefix('"')?.split('"').next()?;
    let code = ResultCode::ALL.iter().find(|code| code.name() == name);
    Some(code.copied().unwrap_or(ResultCode::Unavailable))
}
