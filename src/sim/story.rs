//! What happened, in words and as a number: the last lines for whoever reads a failure, and a hash
//! over every event that tells two runs apart.

use std::collections::VecDeque;

use super::clock::At;

/// Lines that are kept.
const LINE_COUNT_MAX: usize = 400;

/// The words and the hash of one run.
#[derive(Debug, Default)]
pub(super) struct Story {
    lines: VecDeque<String>,
    hash: u64,
    /// Every line is kept from here on, for `--verbose`.
    keeps_all: bool,
    /// What broke a promise, each once.
    faults: Vec<String>,
}

impl Story {
    pub(super) fn new(keeps_all: bool) -> Self {
        Self {
            keeps_all,
            ..Self::default()
        }
    }

    /// Something happened that is worth a line.
    pub(super) fn tell(&mut self, at: At, text: &str) {
        self.mix(at);
        self.mix(u64::from(crc32fast::hash(text.as_bytes())));
        if !self.keeps_all && self.lines.len() == LINE_COUNT_MAX {
            self.lines.pop_front();
        }
        let line = format!("{:>12} ms  {text}", Millis(at));
        self.lines.push_back(line);
    }

    /// A line that only whoever wants all lines gets; the hash does not have it.
    pub(super) fn note(&mut self, at: At, text: impl FnOnce() -> String) {
        if self.keeps_all {
            let line = format!("{:>12} ms  {}", Millis(at), text());
            self.lines.push_back(line);
        }
    }

    /// Something happened that only the hash keeps.
    pub(super) fn mix(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// A promise was broken.
    pub(super) fn blame(&mut self, at: At, text: String) {
        self.tell(at, &format!("BROKEN: {text}"));
        if self.faults.len() < 20 && !self.faults.contains(&text) {
            self.faults.push(text);
        }
    }

    pub(super) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn faults(&self) -> &[String] {
        &self.faults
    }

    pub(super) fn take_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines).into()
    }
}

/// Nanoseconds shown as milliseconds with three digits behind the point.
struct Millis(At);

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (ms, rest) = (self.0.div_euclid(1_000_000), self.0.rem_euclid(1_000_000));
        let text = format!("{ms}.{:03}", rest.div_euclid(1_000));
        f.pad(&text)
    }
}
