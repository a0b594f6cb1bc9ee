//! The interval log of `HdrHistogram`, version 1.3: its own tools read it.

use std::io::{self, Write};
use std::time::Duration;

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, IntervalLogWriterError};

use super::measure::{Interval, Latencies};

/// Writes one line per measured interval, latencies in nanoseconds.
pub struct HdrLog<W> {
    out: W,
    serializer: V2DeflateSerializer,
}

impl<W> std::fmt::Debug for HdrLog<W> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("HdrLog").finish_non_exhaustive()
    }
}

impl<W: Write> HdrLog<W> {
    /// Begins a log of latencies that began at `began_ms` Unix milliseconds.
    pub fn begin(mut out: W, began_ms: u64) -> io::Result<Self> {
        let began = std::time::UNIX_EPOCH + Duration::from_millis(began_ms);
        let mut serializer = V2DeflateSerializer::new();
        IntervalLogWriterBuilder::new()
            .add_comment("[Histogram log format version 1.3]")
            .add_comment("[counterfoil bench: latencies of requests in nanoseconds]")
            .with_base_time(began)
            .with_start_time(began)
            .begin_log_with(&mut out, &mut serializer)?;
        let legend = "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\
                      \"Interval_Compressed_Histogram\"";
        writeln!(out, "{legend}")?;
        Ok(Self { out, serializer })
    }

    /// Adds an interval. Warm-up is left out.
    pub fn add(&mut self, interval: &Interval, latencies: &Latencies) -> io::Result<()> {
        if interval.is_warmup {
            return Ok(());
        }
        let from = Duration::from_nanos(interval.from_ns);
        let length = Duration::from_nanos(interval.to_ns - interval.from_ns);
        IntervalLogWriterBuilder::new()
            .begin_log_with(&mut self.out, &mut self.serializer)?
            .write_histogram(latencies.histogram(), from, length, None)
            .map_err(|error| match error {
                IntervalLogWriterError::IoError(error) => error,
                IntervalLogWriterError::SerializeError(error) => io::Error::other(error),
            })?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    #[test]
    fn the_log_is_read_by_its_own_reader() {
        let mut latencies = Latencies::new();
        latencies.record(1_500_000);
        let interval = |is_warmup, from_ns| Interval {
            is_warmup,
            from_ns,
            to_ns: from_ns + 1_000_000_000,
            ..Interval::empty()
        };
        let mut bytes = Vec::new();
        let mut log = HdrLog::begin(&mut bytes, 1_000).unwrap();
        log.add(&interval(true, 0), &latencies).unwrap();
        log.add(&interval(false, 1_000_000_000), &latencies)
            .unwrap();
        log.add(&interval(false, 2_000_000_000), &latencies)
            .unwrap();
        // The legend is for people and other readers; this one does not know it.
        let text = String::from_utf8(bytes).unwrap();
        let plain: Vec<&str> = text.lines().filter(|line| !line.starts_with('"')).collect();
        let plain = plain.join("\n") + "\n";
        let entries = IntervalLogIterator::new(plain.as_bytes());
        let starts: Vec<_> = entries
            .filter_map(|entry| match entry.unwrap() {
                LogEntry::Interval(interval) => Some(interval.start_timestamp().as_secs()),
                LogEntry::StartTime(_) | LogEntry::BaseTime(_) => None,
            })
            .collect();
        assert_eq!(starts, [1, 2]);
        let max = text.lines().last().unwrap().split(',').nth(2).unwrap();
        let max: f64 = max.parse().unwrap();
        assert!((1_499_000.0..1_502_000.0).contains(&max), "{max}");
    }
}
