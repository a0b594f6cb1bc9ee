//! What a test asks of its host: how often, where, which tools; and how it says that it was
//! skipped.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// The program under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_counterfoil");

/// A number that whoever runs the tests may set: `CHAOS_KILLS=20`.
pub(crate) fn count(name: &str, default: u64) -> u64 {
    match std::env::var_os(name) {
        Some(text) => text
            .to_str()
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("{name} is no number: {}", text.to_string_lossy())),
        None => default,
    }
}

/// What the random choices of a run are drawn from; printed with every result.
pub(crate) fn seed(default: u64) -> u64 {
    count("CHAOS_SEED", default)
}

/// Tells whoever looks on. Not through the test's own output, which is shown for failures only.
pub(crate) fn say(text: &str) {
    writeln!(std::io::stderr(), "chaos: {text}").expect("standard error is there");
}

/// Says that a test was not run, and why.
pub(crate) fn skipped(test: &str, why: &str) {
    say(&format!("SKIPPED {test}: {why}"));
}

/// What is missing to run as root with these tools; `None`: nothing.
pub(crate) fn missing_as_root(tools: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root".to_owned());
    }
    missing(tools)
}

/// Which of these tools is missing; `None`: none of them.
pub(crate) fn missing(tools: &[&str]) -> Option<String> {
    let absent = |tool: &&&str| {
        let found = Command::new("sh")
            .args(["-c", "command -v \"$0\"", tool])
            .output();
        !found.is_ok_and(|output| output.status.success())
    };
    let tool = tools.iter().find(absent)?;
    Some(format!("there is no {tool} here"))
}

/// Runs a tool of the host to its end; the error is what it said.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        let words = text(&output.stderr);
        Err(format!(
            "{program} {}: {} {words}",
            arguments.join(" "),
            output.status
        ))
    }
}

/// Runs the program under test to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    Command::new(BINARY)
        .args(arguments)
        .output()
        .expect("the program starts")
}

pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Lets a time pass that is the fault itself (how long something is stopped, cut, slow), unless
/// `alarm` says earlier that the test has failed.
pub(crate) fn pass(time: Duration, alarm: &Receiver<String>) {
    match alarm.recv_timeout(time) {
        Err(RecvTimeoutError::Timeout) => (),
        Ok(text) => panic!("a client cannot go on: {text}"),
        Err(RecvTimeoutError::Disconnected) => panic!("all clients have ended"),
    }
}

/// Processes that a process has started and that have not ended.
pub(crate) fn children(id: u32) -> Vec<u32> {
    let path = format!("/proc/{id}/task/{id}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let words = text.split_whitespace();
    words.filter_map(|word| word.parse().ok()).collect()
}

/// SIGKILL to a process that one of ours has started.
pub(crate) fn kill(id: u32) {
    let number = i32::try_from(id).expect("process ids are small");
    let process = rustix::process::Pid::from_raw(number).expect("not 0");
    // It may have ended by itself.
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap_or(());
}

/// What a process's status says of itself in kilobytes, times 1,024.
pub(crate) fn resident_size(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kilobytes: u64 = number.and_then(|number| number.parse().ok()).unwrap_or(0);
    kilobytes << 10
}
