//! Tells a drill as it happens: a bar where somebody watches, plain lines elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::{error_line, grouped, is_watched};
use crate::dev::DrillEvent;
use crate::limits::SLOT_COUNT;
use crate::model::to_usize;

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

    pub(super) fn begin(&self, scenario: &str, users: u32, currencies: u32, nodes: u32) {
        let accounts = u64::from(users) * u64::from(currencies);
        self.say(&format!(
            "{scenario}: starting a backup, {nodes} nodes and a front; \
             {} users x {currencies} currencies = {} accounts",
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
            DrillEvent::Struck { text, acknowledged } => {
                let done = grouped(*acknowledged);
                self.say(&format!("{}{text}, after {done} changes", at(0)));
            }
            DrillEvent::Detected { node, after_ms } => {
                self.say(&format!(
                    "{}the authority misses node {node}",
                    at(*after_ms)
                ));
            }
            DrillEvent::Moved {
                first_after_ms,
                last_after_ms,
                accounts,
                served_meanwhile,
                before,
                after,
            } => {
                if let Some(first_ms) = first_after_ms {
                    let text = "the first of its slots are served by another node";
                    self.say(&format!("{}{text}", at(*first_ms)));
                }
                self.say(&format!(
                    "{}all slots that had to move are served: {} accounts changed their node; \
                     {} changes were acknowledged meanwhile",
                    at(*last_after_ms),
                    grouped(*accounts),
                    grouped(*served_meanwhile)
                ));
                self.shares(before, after);
            }
            DrillEvent::Woken { name } => self.say(&format!("{name} goes on with SIGCONT")),
            DrillEvent::Back {
                name,
                after_ms,
                served_meanwhile,
            } => self.say(&format!(
                "{}{name} serves again; {} changes were acknowledged meanwhile",
                at(*after_ms),
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

    /// The ring's shares before and after, a bar for each node.
    fn shares(&self, before: &BTreeMap<u32, u64>, after: &BTreeMap<u32, u64>) {
        let nodes: BTreeSet<u32> = before.keys().chain(after.keys()).copied().collect();
        for node in nodes {
            let had = before.get(&node).copied().unwrap_or(0);
            let has = after.get(&node).copied().unwrap_or(0);
            self.say(&format!(
                "  node {node:>3}  {}  {} -> {}",
                bar(had, has),
                percent(had),
                percent(has)
            ));
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

/// Columns of a bar for the whole ring.
const BAR_WIDTH: u64 = 40;

/// When it was, since the blow.
fn at(ms: u64) -> String {
    format!("+{ms:>6} ms  ")
}

fn columns(slots: u64) -> u64 {
    (slots * BAR_WIDTH)
        .div_ceil(u64::from(SLOT_COUNT))
        .min(BAR_WIDTH)
}

/// What a node kept, gained and lost.
fn bar(had: u64, has: u64) -> String {
    let (had, has) = (columns(had), columns(has));
    let piece = |sign: &str, count: u64| sign.repeat(to_usize(count));
    let kept = piece("#", had.min(has));
    let gained = piece("+", has.saturating_sub(had));
    let lost = piece("-", had.saturating_sub(has));
    let rest = piece(".", BAR_WIDTH - had.max(has));
    format!("{kept}{gained}{lost}{rest}")
}

/// A share of the ring, in percent with one digit.
fn percent(slots: u64) -> String {
    let tenths = (slots * 1_000).div_ceil(u64::from(SLOT_COUNT));
    format!("{:>3}.{}%", tenths.div_euclid(10), tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_drawn() {
        assert_eq!(bar(0, 0), ".".repeat(40));
        assert_eq!(bar(65_536, 0), "-".repeat(40));
        assert_eq!(
            bar(16_384, 32_768),
            format!("{}{}{}", "#".repeat(10), "+".repeat(10), ".".repeat(20))
        );
        assert_eq!(percent(16_384), " 25.0%");
        assert_eq!(percent(65_536), "100.0%");
    }
}
