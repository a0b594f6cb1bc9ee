//! `--fail-if`: a bound that a result must not break.

use std::fmt;
use std::str::FromStr;

use super::measure::Measured;
use super::numbers::millis;
use super::text::{parse_count, parse_latency_ns, parse_plain};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Figure {
    /// A percentile of the latency.
    Percentile(f64),
    Max,
    /// 99 % of all requests were sent no later than this.
    Lag,
    /// Operations per second.
    Rate,
    Errors,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Above,
    Below,
}

/// A figure that must not lie on one side of a bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    text: String,
    figure: Figure,
    side: Side,
    bound: u64,
}

impl FromStr for Threshold {
    type Err = String;

    /// `p99>5ms`, `max>1s`, `lag>1ms`, `rate<50k`, `errors>0`.
    fn from_str(text: &str) -> Result<Self, String> {
        let at = text.find(['<', '>']);
        let at = at.ok_or_else(|| format!("`{text}` has no < or >"))?;
        let (name, bound) = (text[..at].trim(), text[at + 1..].trim());
        let side = if text[at..].starts_with('>') {
            Side::Above
        } else {
            Side::Below
        };
        let figure =
            match name {
                "max" => Figure::Max,
                "lag" => Figure::Lag,
                "rate" => Figure::Rate,
                "errors" => Figure::Errors,
                name => {
                    let number = name.strip_prefix('p').and_then(parse_plain);
                    let number = number.filter(|number| 0.0 < *number && *number <= 100.0);
                    Figure::Percentile(number.ok_or_else(|| {
                        format!("`{name}` is none of pNN, max, lag, rate, errors")
                    })?)
                }
            };
        let bound = match figure {
            Figure::Percentile(_) | Figure::Max | Figure::Lag => parse_latency_ns(bound)?,
            Figure::Rate | Figure::Errors => parse_count(bound)?,
        };
        Ok(Self {
            text: text.to_owned(),
            figure,
            side,
            bound,
        })
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Threshold {
    /// The figure as it came out, if the bound is broken.
    #[must_use]
    pub fn broken_by(&self, measured: &Measured) -> Option<String> {
        let found = match self.figure {
            Figure::Percentile(percentile) => measured.latency().at(percentile),
            Figure::Max => measured.latency().max(),
            Figure::Lag => measured.lag().at(99.0),
            Figure::Rate => measured.rate(),
            Figure::Errors => measured.error_count(),
        };
        let broken = match self.side {
            Side::Above => self.bound < found,
            Side::Below => found < self.bound,
        };
        broken.then(|| match self.figure {
            Figure::Percentile(_) | Figure::Max | Figure::Lag => {
                format!("{} (is {:.3} ms)", self.text, millis(found))
            }
            Figure::Rate | Figure::Errors => format!("{} (is {found})", self.text),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measure::{Figures, Measured};

    fn measured(latency_ms: u64, operation_count: u64) -> Measured {
        let mut figures = Figures::new();
        figures.operation_count = operation_count;
        figures.latency.record(latency_ms * 1_000_000);
        Measured {
            figures,
            elapsed_ns: 1_000_000_000,
            intervals: Vec::new(),
            thread_cpu_max: 0.0,
            cpu_ns: 0,
            unsent_count: 0,
            loss_count: 0,
            began_ms: 0,
            machine_cpu: None,
        }
    }

    #[test]
    fn a_threshold_breaks_on_its_side_only() {
        let check = |text: &str, breaks: bool| {
            let threshold: Threshold = text.parse().unwrap();
            let broken = threshold.broken_by(&measured(6, 50_000));
            assert_eq!(broken.is_some(), breaks, "{text}: {broken:?}");
            assert_eq!(threshold.to_string(), text);
        };
        check("p99>5ms", true);
        check("p99>7ms", false);
        check("p99.9 > 5900us", true);
        check("max<1s", true);
        check("lag>1ms", false);
        check("rate<50k", false);
        check("rate<50001", true);
        check("rate>49999", true);
        check("errors>0", false);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            "", "p99", "p99>5", "p0>5ms", "p101>5ms", "q99>5ms", "rate<5ms", "p99=5ms",
        ] {
            assert!(wrong.parse::<Threshold>().is_err(), "{wrong}");
        }
    }
}
