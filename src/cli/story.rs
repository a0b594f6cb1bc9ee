//! Tells a drill as it happens: a bar where somebody watches, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::{error_line, grouped, is_watched};
use crate::dev::DrillEvent;

/// The teller. Everything goes to standard error: the result alone goes to standard output.
#[derive(Debug)]
pub(super) struct Story {
    bar: Option<ProgressBar>,
    lines: bool,
    reports: u32,
}

impl Story {
    #[expect(
        clippy::fn_params_excessive_bools,
        reason = "it is the flag of the command line"
    )]
    pub(super) fn new(json: bool) -> Self {
        let bar = is_watched().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}");
            bar.set_style(style.unwrap_or_else(|_error| ProgressStyle::default_bar()));
            bar
        });
        Self {
            bar,
            lines: !json,
            reports: 0,
        }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None if self.lines => error_line(text),
            None => (),
        }
    }

    pub(super) fn begin(&self, users: u32, currencies: u32, nodes: u32) {
        let accounts = u64::from(users) * u64::from(currencies);
        self.say(&format!(
            "starting a backup, {nodes} nodes and a front; {} users x {currencies} currencies \
             = {} accounts",
            grouped(users),
            grouped(accounts)
        ));
    }

    pub(super) fn tell(&mut self, event: &DrillEvent) {
        match event {
            DrillEvent::ClusterUp { front, after_ms } => {
                self.say(&format!(
                    "cluster serves at {front} after {after_ms} ms; load begins"
                ));
            }
            DrillEvent::Progress {
                acknowledged,
                total,
                per_second,
            } => {
                self.progress(*acknowledged, *total, *per_second);
            }
            DrillEvent::Killed {
                name,
                wiped,
                acknowledged,
            } => {
                let disk = if *wiped {
                    " and its data folder deleted"
                } else {
                    ""
                };
                let done = grouped(*acknowledged);
                self.say(&format!(
                    "{name} killed with SIGKILL{disk}, after {done} changes"
                ));
            }
            DrillEvent::Back {
                name,
                after_ms,
                served_meanwhile,
            } => self.say(&format!(
                "{name} restored itself and serves again after {after_ms} ms; \
                 {} changes were acknowledged meanwhile",
                grouped(*served_meanwhile)
            )),
            DrillEvent::ReadingBack { unknown } => self.say(&format!(
                "load done, {unknown} outcomes unknown; reading every account back"
            )),
            DrillEvent::Stopping => {
                if let Some(bar) = &self.bar {
                    bar.finish_and_clear();
                }
            }
        }
    }

    fn progress(&mut self, acknowledged: u64, total: u64, per_second: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(acknowledged);
            bar.set_message(format!("{}/s", grouped(per_second)));
            return;
        }
        self.reports += 1;
        // Two reports come each second; a log wants fewer.
        if self.lines && self.reports.is_multiple_of(4) {
            let (done, all) = (grouped(acknowledged), grouped(total));
            error_line(&format!(
                "{done} of {all} changes acknowledged, {}/s",
                grouped(per_second)
            ));
        }
    }
}
