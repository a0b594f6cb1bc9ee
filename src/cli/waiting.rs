//! Says that a command is still at work: where somebody watches, and only after a second.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::is_watched;

/// Shorter waits say nothing.
const SILENT: Duration = Duration::from_secs(1);

/// How often the line is drawn anew.
const TICK: Duration = Duration::from_millis(100);

/// The line of this process. There is one terminal, so there is one.
static WAITING: Mutex<Option<Waiting>> = Mutex::new(None);

struct Waiting {
    end: Sender<()>,
    line: JoinHandle<()>,
}

/// Says `what` with the seconds that it takes, until the first line of a result is printed.
pub(super) fn begin(what: &'static str) {
    if !is_watched() {
        return;
    }
    let (end, ended) = channel();
    let line = thread::spawn(move || {
        if ended.recv_timeout(SILENT) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
        bar.set_style(style.unwrap_or_else(|_error| ProgressStyle::default_spinner()));
        bar.set_elapsed(SILENT);
        bar.set_message(what);
        while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            bar.tick();
        }
        bar.finish_and_clear();
    });
    *WAITING.lock().unwrap_or_else(PoisonError::into_inner) = Some(Waiting { end, line });
}

/// Takes the line off the terminal. Nothing where there is none.
pub(super) fn end() {
    let waiting = WAITING
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    if let Some(Waiting { end, line }) = waiting {
        drop(end);
        // It only draws; there is nothing that it could report.
        drop(line.join());
    }
}
