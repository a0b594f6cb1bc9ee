//! What can be asked of a bench, as checked values.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use super::text::{parse_count, parse_plain};
use crate::limits::BATCH_COUNT_MAX;

/// One kind of operation that a load is mixed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Adds 1 to 100 minor units.
    Credit,
    /// Takes 1 to 100 minor units.
    Debit,
    /// Reads the balance, linearizable.
    Read,
    /// Reads the last committed balance without a round trip to the backup.
    Recent,
}

impl Action {
    const ALL: [Self; 4] = [Self::Credit, Self::Debit, Self::Read, Self::Recent];

    const fn name(self) -> &'static str {
        match self {
            Self::Credit => "credit",
            Self::Debit => "debit",
            Self::Read => "read",
            Self::Recent => "recent",
        }
    }
}

/// What a load is mixed from: actions and how often each comes, as parts of the sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Never empty; no part is 0.
    pub parts: Vec<(Action, u32)>,
}

impl FromStr for Workload {
    type Err = String;

    /// `credit`, or `mixed=credit:45,debit:45,read:10`.
    fn from_str(text: &str) -> Result<Self, String> {
        let list = text.strip_prefix("mixed=").unwrap_or(text);
        let mut parts: Vec<(Action, u32)> = Vec::new();
        for part in list.split(',') {
            let (name, share) = part.split_once(':').unwrap_or((part, "1"));
            let action = Action::ALL.into_iter().find(|action| action.name() == name);
            let action =
                action.ok_or_else(|| format!("`{name}` is none of credit, debit, read, recent"))?;
            let share: u32 = share.parse().map_err(|_error| bad_share(part))?;
            if !(1..=1_000_000).contains(&share) {
                return Err(bad_share(part));
            }
            if parts.iter().any(|(other, _)| *other == action) {
                return Err(format!("`{name}` comes twice"));
            }
            parts.push((action, share));
        }
        Ok(Self { parts })
    }
}

fn bad_share(part: &str) -> String {
    format!("`{part}` has no share from 1 to 1000000")
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (action, share)) in self.parts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(formatter, "{comma}{}:{share}", action.name())?;
        }
        Ok(())
    }
}

/// Which users are asked for how often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// All alike.
    Uniform,
    /// The k-th user with a share of 1 / k^theta.
    Zipf(f64),
    /// The first `count` users get `percent` of all operations.
    Hot {
        /// How many users.
        count: u32,
        /// How much of the load.
        percent: f64,
    },
}

impl FromStr for Distribution {
    type Err = String;

    /// `uniform`, `zipf:0.99` or `hot:100:80`.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is none of uniform, zipf:THETA, hot:USERS:PERCENT");
        let mut parts = text.split(':');
        let found = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("uniform"), None, None, None) => Self::Uniform,
            (Some("zipf"), Some(theta), None, None) => {
                let theta = parse_plain(theta).ok_or_else(bad)?;
                if !(0.0 < theta && theta <= 10.0) {
                    return Err("theta goes from above 0 to 10".to_owned());
                }
                Self::Zipf(theta)
            }
            (Some("hot"), Some(count), Some(percent), None) => {
                let count = parse_count(count)?;
                let count = u32::try_from(count).map_err(|_error| bad())?;
                let percent = parse_plain(percent).ok_or_else(bad)?;
                if count == 0 || !(0.0 < percent && percent <= 100.0) {
                    return Err("hot needs 1 user or more and up to 100 percent".to_owned());
                }
                Self::Hot { count, percent }
            }
            (_, _, _, _) => return Err(bad()),
        };
        Ok(found)
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => formatter.write_str("uniform"),
            Self::Zipf(theta) => write!(formatter, "zipf:{theta}"),
            Self::Hot { count, percent } => write!(formatter, "hot:{count}:{percent}"),
        }
    }
}

/// How long a load goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// So many milliseconds.
    DurationMs(u64),
    /// So many operations, over all threads.
    Operations(u64),
}

/// When a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As soon as an answer made room for it.
    Closed,
    /// So many operations per second, whether answers come or not.
    Open(u64),
}

/// Rates to go through one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateSweep {
    /// The first rate.
    pub from: u64,
    /// The last rate, if a step hits it.
    pub to: u64,
    /// From one to the next.
    pub step: u64,
}

impl RateSweep {
    /// The rates.
    pub fn rates(self) -> impl Iterator<Item = u64> {
        let mut next = Some(self.from);
        std::iter::from_fn(move || {
            let rate = next.filter(|rate| *rate <= self.to)?;
            next = rate.checked_add(self.step);
            Some(rate)
        })
    }
}

impl FromStr for RateSweep {
    type Err = String;

    /// `10k..200k:10k`.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no FROM..TO:STEP");
        let (from, rest) = text.split_once("..").ok_or_else(bad)?;
        let (to, step) = rest.split_once(':').ok_or_else(bad)?;
        let sweep = Self {
            from: parse_count(from)?,
            to: parse_count(to)?,
            step: parse_count(step)?,
        };
        if sweep.from == 0 || sweep.step == 0 || sweep.to < sweep.from {
            return Err(bad());
        }
        Ok(sweep)
    }
}

/// What a bench does.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Where the cluster's fronts are; connections go to them in turn.
    pub fronts: Vec<SocketAddr>,
    /// Connections in all; at least as many as threads.
    pub connection_count: u32,
    /// Event loops, each on a thread of its own.
    pub thread_count: u32,
    /// Requests in flight on each connection.
    pub pipeline_depth: u32,
    /// Operations of one request.
    pub batch_count: u32,
    /// Before anything counts, in milliseconds.
    pub warmup_ms: u64,
    /// How long it goes on.
    pub extent: Extent,
    /// What is sent.
    pub workload: Workload,
    /// Users, numbered from 1.
    pub user_count: u32,
    /// Currencies of each user, numbered from 1.
    pub currency_count: u32,
    /// Which users.
    pub distribution: Distribution,
    /// What the load is drawn from.
    pub seed: u64,
    /// How often a line is due, in milliseconds.
    pub interval_ms: u64,
    /// What the front is told as the deadline of each request.
    pub deadline_ms: u32,
    /// Whether everything is kept that a proof needs.
    pub proof: Proof,
}

/// Whether a bench can prove its answers afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It keeps what every account must hold.
    Kept,
    /// It keeps nothing.
    None,
}

impl BenchOptions {
    /// Accounts in all.
    #[must_use]
    pub fn account_count(&self) -> u64 {
        u64::from(self.user_count) * u64::from(self.currency_count)
    }

    /// What is wrong with the combination, if anything.
    pub fn check(&self) -> Result<(), String> {
        if self.connection_count < self.thread_count {
            return Err("each thread needs a connection: fewer --threads".to_owned());
        }
        if !(1..=BATCH_COUNT_MAX).contains(&self.batch_count) {
            return Err(format!("a request has 1 to {BATCH_COUNT_MAX} operations"));
        }
        if u64::from(u32::MAX) <= self.account_count() {
            return Err("too many accounts: users times currencies is above 2^32".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_actions_with_shares() {
        let mixed: Workload = "mixed=credit:45,debit:45,read:10".parse().unwrap();
        assert_eq!(mixed.to_string(), "credit:45,debit:45,read:10");
        assert_eq!(
            "credit".parse::<Workload>().unwrap().to_string(),
            "credit:1"
        );
        for wrong in [
            "",
            "pay",
            "credit:0",
            "credit:x",
            "credit,credit",
            "credit:-1",
        ] {
            assert!(wrong.parse::<Workload>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn distributions_print_as_they_are_written() {
        for text in ["uniform", "zipf:0.99", "zipf:1", "hot:100:80"] {
            let parsed: Distribution = text.parse().unwrap();
            assert_eq!(parsed.to_string(), text);
        }
        for wrong in [
            "",
            "zipf",
            "zipf:0",
            "zipf:x",
            "hot:1",
            "hot:0:5",
            "hot:5:101",
            "uniform:1",
        ] {
            assert!(wrong.parse::<Distribution>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_sweep_goes_from_the_first_rate_to_the_last() {
        let sweep: RateSweep = "10k..30k:10k".parse().unwrap();
        assert_eq!(sweep.rates().collect::<Vec<_>>(), [10_000, 20_000, 30_000]);
        let short: RateSweep = "5..9:3".parse().unwrap();
        assert_eq!(short.rates().collect::<Vec<_>>(), [5, 8]);
        for wrong in ["", "1..2", "2..1:1", "0..5:1", "1..5:0", "1:2..3"] {
            assert!(wrong.parse::<RateSweep>().is_err(), "{wrong}");
        }
    }
}
