//! What a result must say of the machine it comes from, and what processes used of it.
#![expect(clippy::float_arithmetic, reason = "seconds and shares")]

use std::fs;
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::numbers::float;

/// The machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Release of the kernel.
    pub kernel: String,
    /// Name of the processor.
    pub cpu: String,
    /// Processors that this process may use.
    pub cpu_count: usize,
    /// Bytes of memory.
    pub memory_size: u64,
    /// Type of the file system under the cluster's data, if that is on this machine.
    pub file_system: Option<String>,
}

impl Machine {
    /// This machine, with the file system that `data` lies on.
    #[must_use]
    pub fn this(data: Option<&Path>) -> Self {
        let info = read("/proc/cpuinfo");
        let cpu = value_of(&info, "model name").unwrap_or("unknown");
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: cpu.to_owned(),
            cpu_count: std::thread::available_parallelism().map_or(1, usize::from),
            memory_size: kibibytes(&read("/proc/meminfo"), "MemTotal"),
            file_system: data.map(|path| file_system_of(&read("/proc/self/mounts"), path)),
        }
    }
}

/// What is not there is empty: a missing fact of the machine must not fail a measurement.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The value of the first line `name : value`.
fn value_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(key, _)| key.trim() == name)?;
    Some(value.trim())
}

fn kibibytes(text: &str, name: &str) -> u64 {
    let value = value_of(text, name).and_then(|value| value.strip_suffix("kB"));
    let number = value.and_then(|value| value.trim().parse::<u64>().ok());
    number.unwrap_or(0) << 10
}

/// Type of the mount with the longest path that `path` lies under.
fn file_system_of(mounts: &str, path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let found = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(at, _)| path.starts_with(at))
        // Of mounts at one place the last one is seen.
        .max_by_key(|(at, _)| at.len());
    found.map_or("unknown", |(_, kind)| kind).to_owned()
}

/// What one process used.
#[derive(Clone, Debug)]
pub struct ProcessUsage {
    /// What it is called.
    pub name: String,
    /// Seconds of CPU, all threads.
    pub cpu_seconds: f64,
    /// Bytes of memory that it has.
    pub memory_size: u64,
}

impl ProcessUsage {
    /// Of the process `id` since it started; `None` if it is gone.
    #[must_use]
    pub fn of(name: &str, id: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        Some(Self {
            name: name.to_owned(),
            cpu_seconds: cpu_seconds_of(&stat)?,
            memory_size: kibibytes(&status, "VmRSS"),
        })
    }

    /// The same without what was used before.
    #[must_use]
    pub fn since(self, earlier: &Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - earlier.cpu_seconds,
            ..self
        }
    }
}

/// User and system time of a line of `/proc/PID/stat`.
fn cpu_seconds_of(stat: &str) -> Option<f64> {
    // The name in parentheses may hold anything; what follows the last one is counted.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(float(user + system) / float(rustix::param::clock_ticks_per_second()))
}

/// Seconds of CPU of the whole machine since it started: busy, and in all.
pub(super) fn machine_cpu_seconds() -> Option<(f64, f64)> {
    cpu_times_of(&read("/proc/stat"))
}

fn cpu_times_of(stat: &str) -> Option<(f64, f64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let times: Vec<u64> = line
        .split_whitespace()
        .take(8)
        .map_while(|field| field.parse().ok())
        .collect();
    let all: u64 = times.iter().sum();
    // Fields 3 and 4: idle, and idle while the disk works.
    let idle: u64 = times.get(3..5)?.iter().sum();
    let ticks = float(rustix::param::clock_ticks_per_second());
    Some((float(all - idle) / ticks, float(all) / ticks))
}

/// Raises this process's limit of descriptors as far as it may: a connection takes one.
pub fn raise_descriptor_limit() -> Result<(), std::io::Error> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return Ok(());
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_counts() {
        let mounts = "dev / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\nx /tmpfoo xfs rw 0 0\n";
        let of = |path: &str| file_system_of(mounts, Path::new(path));
        assert_eq!(of("/tmp/nowhere/at/all"), "tmpfs");
        assert_eq!(of("/nowhere"), "ext4");
        assert_eq!(of("/tmpfoo/nowhere"), "xfs");
        assert_eq!(file_system_of("", Path::new("/nowhere")), "unknown");
    }

    #[test]
    fn process_times_are_found_behind_any_name() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 9";
        let seconds = cpu_seconds_of(stat).unwrap();
        let ticks = float(rustix::param::clock_ticks_per_second());
        assert!((seconds - 200.0 / ticks).abs() < 1e-9);
        assert!(cpu_seconds_of("7 (a) S").is_none());
        assert!(ProcessUsage::of("self", std::process::id()).is_some());
    }

    #[test]
    fn idle_and_waiting_for_the_disk_are_not_busy() {
        let (busy, all) = cpu_times_of("cpu  10 0 20 60 10 0 0 0 0 0\n").unwrap();
        assert!((busy / all - 0.3).abs() < 1e-9);
        assert!(cpu_times_of("").is_none());
    }
}
