//! Disks that fail or are slow, one process at a time: strace makes the system calls of a daemon
//! fail or wait. The process must end, without an acknowledgement of what was being synced.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use counterfoil::dev::StartError;

use crate::host;
use crate::record::Event;
use crate::workload::{Load, Workload};
use crate::world::{PATIENCE, Role, SEGMENT_SIZE, Shape, World};

const SHAPE: Shape = Shape {
    node_count: 2,
    front_count: 1,
    has_proxies: false,
};

/// How long a daemon under strace may go on without reaching the sync that is to fail.
const REACH: Duration = Duration::from_secs(8);

/// Exit code of a daemon whose disk failed.
const DISK_FAILED: i32 = 6;

/// Bytes of a log whose sync failed: log, first offset, offset behind the last.
type Range = (u16, u64, u64);

/// Runs `role` under strace with `call` failing at its `number`-th time (of a thread). How many
/// writes to logs failed with it; `None`: it did not come to that.
fn fail_sync(name: &'static str, role: Role, call: &str, number: u64, seed: u64) -> Option<usize> {
    let mut world = World::new(name, SHAPE);
    let trace = world.path().join("trace");
    // Late, so that an answer that does not wait for this sync is there before it fails.
    let inject = format!("inject={call}:error=EIO:delay_enter=300000:when={number}");
    let calls = "trace=pwrite64,fdatasync,fsync,msync";
    let file = host::text(&trace);
    let wrapper = [
        "strace", "-f", "-qq", "-y", "-s", "0", "-o", &file, "-e", calls, "-e", &inject,
    ];
    world.start_all();
    let load = world.load(seed);
    let work = world.work(&load);
    work.until_answered(50, Duration::from_secs(30));
    // Under strace from its first call on, on a folder that is in use.
    world.kill(role);
    world.wrap(role, &wrapper);
    let code = run_until_end(&mut world, role, &work);
    let mut failed = None;
    if code.is_some() {
        let words = world.words(role);
        assert_eq!(
            code,
            Some(DISK_FAILED),
            "{name} {number}: {role:?}\n{words}"
        );
        assert!(
            words.contains("failed"),
            "{name} {number}: it does not say why:\n{words}"
        );
        let ranges = failed_ranges(&trace);
        let events = world.record.read();
        for range in &ranges {
            assert_not_acknowledged(&events, *range);
        }
        failed = Some(ranges.len());
    } else {
        world.kill(role);
    }
    world.wrap(role, &[]);
    world.revive(role);
    work.until_answered(100, Duration::from_secs(60));
    work.stop();
    world.finish(&load);
    failed
}

/// Starts the daemon and lets the load go on until it ends by itself.
fn run_until_end(world: &mut World, role: Role, work: &Workload) -> Option<i32> {
    if let Err(error) = world.try_launch(role) {
        // It ended before it listened, and with that its code is gone.
        assert!(matches!(error, StartError::Ended { .. }), "{error}");
        return Some(DISK_FAILED);
    }
    let step = Duration::from_millis(20);
    let mut waited = Duration::ZERO;
    while waited < REACH {
        if let Some(code) = world.process(role).ended().unwrap() {
            return Some(code);
        }
        work.go_on(step);
        waited += step;
    }
    None
}

/// What was written to a log by the thread whose sync then failed, since its last good one.
fn failed_ranges(trace: &Path) -> Vec<Range> {
    let text = std::fs::read_to_string(trace).expect("strace has written its file");
    let mut written: BTreeMap<String, Vec<Range>> = BTreeMap::new();
    let mut unfinished: BTreeMap<String, String> = BTreeMap::new();
    let mut failed = Vec::new();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let mut call = rest.trim_start().to_owned();
        if let Some(begun) = call.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread.to_owned(), begun.to_owned());
            continue;
        }
        if call.starts_with("<... ")
            && let Some((_, end)) = call.split_once(" resumed>")
        {
            call = unfinished.remove(thread).unwrap_or_default() + end;
        }
        let ranges = written.entry(thread.to_owned()).or_default();
        if call.starts_with("pwrite64(") {
            ranges.extend(written_range(&call));
        } else if call.contains("(INJECTED)") {
            failed.append(ranges);
        } else {
            ranges.clear();
        }
    }
    failed
}

/// `pwrite64(9</dir/logs/00001/segment-0000000000000000>, ""..., 256, 4096) = 256`
fn written_range(call: &str) -> Option<Range> {
    let (_, path) = call.split_once('<')?;
    let (path, rest) = path.split_once('>')?;
    let path = PathBuf::from(path);
    let segment = path.file_name()?.to_str()?.strip_prefix("segment-")?;
    let segment = u64::from_str_radix(segment, 16).ok()?;
    let log: u16 = path.parent()?.file_name()?.to_str()?.parse().ok()?;
    let (arguments, _) = rest.split_once(')')?;
    let mut numbers = arguments.rsplit(", ");
    let offset: u64 = numbers.next()?.parse().ok()?;
    let size: u64 = numbers.next()?.parse().ok()?;
    let start = segment * SEGMENT_SIZE + offset;
    Some((log, start, start + size))
}

fn assert_not_acknowledged(events: &[Event], (log, from, to): Range) {
    for event in events {
        let Some(told) = event.told else {
            continue;
        };
        let place = told.receipt.place;
        let is_there = place.log().is_some_and(|found| found.get() == log)
            && (from..to).contains(&place.offset());
        assert!(
            !is_there,
            "its sync failed, and yet it was acknowledged: {event:?}"
        );
    }
}

fn fail_syncs(name: &'static str, syncs: &[u64], folder_syncs: &[u64], seed: u64) {
    if let Some(why) = host::missing(&["strace"]) {
        host::skipped(name, &why);
        return;
    }
    let (mut reached, mut all, mut ranges) = (0, 0, 0);
    for (call, numbers) in [("fdatasync", syncs), ("fsync", folder_syncs)] {
        for role in [Role::Node(1), Role::Backup] {
            for number in numbers {
                let failed = fail_sync(name, role, call, *number, seed + number);
                // Folders are synced at the start, and when a segment is prepared: not so often.
                let is_due = call == "fdatasync" || *number == 1;
                assert!(
                    failed.is_some() || !is_due,
                    "{role:?} has no {number}th {call}"
                );
                reached += u64::from(failed.is_some());
                ranges += failed.unwrap_or(0);
                all += 1;
            }
        }
    }
    host::say(&format!(
        "{name}: {reached} of {all} syncs were reached and failed, {ranges} writes with them"
    ));
    assert_ne!(ranges, 0, "no batch was ever under way");
}

#[test]
fn a_failed_sync_ends_the_process() {
    // The first is one of the start; by the sixth the log's own thread has answers to hold back.
    fail_syncs("failed sync", &[1, 6], &[1], host::seed(10));
}

#[test]
#[ignore = "takes minutes: just chaos"]
fn each_of_the_first_twenty_syncs_fails() {
    let syncs: Vec<u64> = (1..=host::count("CHAOS_SYNCS", 20)).collect();
    let folder_syncs: Vec<u64> = (1..=host::count("CHAOS_FSYNCS", 5)).collect();
    fail_syncs("failed syncs, all", &syncs, &folder_syncs, host::seed(11));
}

/// Every sync of one daemon waits so long.
fn slow_disk(name: &'static str, role: Role, delay: Duration, time: Duration, seed: u64) {
    if let Some(why) = host::missing(&["strace"]) {
        host::skipped(name, &why);
        return;
    }
    host::say(&format!(
        "{name}: {role:?} syncs {delay:?} late for {time:?}, seed {seed}"
    ));
    let mut world = World::start(name, SHAPE);
    // The syncs of two blocks must fit into some client's deadline.
    let load = Load {
        deadline_ms: 10_000,
        ..world.load(seed)
    };
    let work = world.work(&load);
    work.until_answered(50, Duration::from_secs(30));
    let inject = format!("inject=fdatasync:delay_enter={}", delay.as_micros());
    let wrapper = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=fdatasync",
        "-e",
        &inject,
    ];
    world.kill(role);
    world.wrap(role, &wrapper);
    world.revive(role);
    let before = memory_size(world.process(role).id());
    assert!(0 < before, "strace has a child");
    work.until_answered(20, PATIENCE);
    work.go_on(time);
    let grown = memory_size(world.process(role).id()).saturating_sub(before);
    assert!(
        grown < 256 << 20,
        "memory grows while the disk is slow: {grown} bytes"
    );
    world.kill(role);
    world.wrap(role, &[]);
    world.revive(role);
    work.until_answered(100, Duration::from_secs(60));
    work.stop();
    world.finish(&load);
}

/// Resident bytes of what runs inside strace.
fn memory_size(strace: u32) -> u64 {
    host::children(strace)
        .into_iter()
        .map(host::resident_size)
        .sum()
}

#[test]
#[ignore = "takes minutes: just chaos"]
fn slow_disks() {
    let time = Duration::from_secs(host::count("CHAOS_SLOW_SECONDS", 15));
    for (role, ms) in [
        (Role::Node(1), 200),
        (Role::Backup, 200),
        (Role::Node(1), 2_000),
        (Role::Backup, 2_000),
    ] {
        slow_disk(
            "slow disk",
            role,
            Duration::from_millis(ms),
            time,
            host::seed(12),
        );
    }
}
