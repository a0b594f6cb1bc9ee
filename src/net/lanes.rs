//! The disk's threads: one per lane, started at its first request.
//!
//! A thread takes everything that is queued at once, so that requests which came together share
//! one sync. Replies come back over one channel; the loop is woken once for all that are there.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::Waker;

use crate::role::{DiskReply, DiskRequest, Lane, Lanes};

/// What a thread tells the loop.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are replies")]
pub(super) enum Report {
    /// A request is done.
    Reply(DiskReply),
    /// The lane's worker broke one of its own rules: the process cannot go on.
    Panicked(String),
    /// The thread is over.
    Over,
}

/// Wakes the loop unless it is about to look anyway.
#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    waker: Waker,
}

impl Bell {
    fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.waker
                .wake()
                .expect("the waker's descriptor is open as long as it lives");
        }
    }

    /// Before looking: what comes from now on rings again.
    fn answer(&self) -> bool {
        self.rung.swap(false, Ordering::AcqRel)
    }
}

#[derive(Debug)]
struct LaneThread {
    requests: Sender<DiskRequest>,
    thread: JoinHandle<()>,
}

/// All threads of one loop.
pub(super) struct LaneThreads {
    disk: Option<Arc<dyn Lanes>>,
    bell: Arc<Bell>,
    threads: BTreeMap<Lane, LaneThread>,
    sender: Sender<Report>,
    reports: Receiver<Report>,
    /// Reports may be left that the last turn had no room for.
    more: bool,
    /// Threads that are over before their time.
    over_count: usize,
}

impl LaneThreads {
    pub(super) fn new(disk: Option<Arc<dyn Lanes>>, waker: Waker) -> Self {
        let (sender, reports) = mpsc::channel();
        Self {
            disk,
            bell: Arc::new(Bell {
                rung: AtomicBool::new(false),
                waker,
            }),
            threads: BTreeMap::new(),
            sender,
            reports,
            more: false,
            over_count: 0,
        }
    }

    /// Queues a request behind those of its lane.
    pub(super) fn send(&mut self, request: DiskRequest) -> io::Result<()> {
        let lane = request.lane();
        if !self.threads.contains_key(&lane) {
            let thread = self.start(lane)?;
            self.threads.insert(lane, thread);
        }
        let sent = self.threads[&lane].requests.send(request);
        // A lane that is gone has panicked, and its report is on the way.
        drop(sent);
        Ok(())
    }

    /// Whether reports wait that no bell will ring for.
    pub(super) const fn has_more(&self) -> bool {
        self.more
    }

    /// The next report, as long as there are any. `None` ends the looking until the next turn.
    pub(super) fn next_report(&mut self) -> Option<Report> {
        if !self.more && !self.bell.answer() {
            return None;
        }
        let report = self.reports.try_recv().ok();
        self.more = report.is_some();
        if let Some(Report::Panicked(_) | Report::Over) = report {
            self.over_count += 1;
        }
        report
    }

    /// Lets the threads finish what is queued. False if one takes longer than `limit`; it is left
    /// to the end of the process.
    pub(super) fn finish(self, limit: Duration) -> bool {
        let mut running = self.threads.len() - self.over_count;
        let mut handles = Vec::new();
        for (_, LaneThread { requests, thread }) in self.threads {
            drop(requests);
            handles.push(thread);
        }
        while 0 < running {
            match self.reports.recv_timeout(limit) {
                Ok(Report::Over | Report::Panicked(_)) => running -= 1,
                Ok(Report::Reply(_)) => (),
                Err(_too_late) => return false,
            }
        }
        handles.into_iter().all(|thread| thread.join().is_ok())
    }

    fn start(&self, lane: Lane) -> io::Result<LaneThread> {
        let disk = self.disk.as_ref().map(Arc::clone);
        let disk = disk.expect("a role with requests to a disk is given one");
        let (requests, queue) = mpsc::channel();
        let reports = self.sender.clone();
        let bell = Arc::clone(&self.bell);
        let thread = thread::Builder::new().name(name(lane)).spawn(move || {
            if lane == Lane::Background {
                give_way();
            }
            let work = AssertUnwindSafe(|| work(disk.as_ref(), lane, &queue, &reports, &bell));
            let last = match catch_unwind(work) {
                Ok(()) => Report::Over,
                Err(panic) => Report::Panicked(format!("{lane:?}: {}", words(panic.as_ref()))),
            };
            tell(&reports, last);
            bell.ring();
        })?;
        Ok(LaneThread { requests, thread })
    }
}

/// By so much the thread that makes checkpoints gives way to others. One costs half of what the
/// loop computes for the same entries at most. With this weight (423 to 1,024) the thread gets
/// nearly as much even beside a loop that never sleeps, so it does not fall behind the log.
#[cfg(target_os = "linux")]
const BACKGROUND_NICE: i32 = 4;

/// The calling thread gets less of the processor than others that want it.
fn give_way() {
    // Elsewhere it would be about the whole process. Where it is not allowed, all are equal.
    #[cfg(target_os = "linux")]
    rustix::process::nice(BACKGROUND_NICE).unwrap_or(0);
}

fn work(
    disk: &dyn Lanes,
    lane: Lane,
    queue: &Receiver<DiskRequest>,
    reports: &Sender<Report>,
    bell: &Bell,
) {
    let mut worker = disk.worker(lane);
    let mut replies = Vec::new();
    while let Ok(first) = queue.recv() {
        let mut requests = vec![first];
        requests.extend(queue.try_iter());
        worker.run(requests, &mut replies);
        for reply in replies.drain(..) {
            tell(reports, Report::Reply(reply));
        }
        bell.ring();
    }
}

fn tell(reports: &Sender<Report>, report: Report) {
    // Nobody listens any more when the process is past its last second.
    let sent = reports.send(report);
    drop(sent);
}

/// At most 15 bytes: the system shows no more.
fn name(lane: Lane) -> String {
    match lane {
        Lane::Files => "disk-files".to_owned(),
        Lane::Log(log) => format!("disk-log-{log}"),
        Lane::Reader => "disk-reader".to_owned(),
        Lane::Spares => "disk-spares".to_owned(),
        Lane::Background => "disk-background".to_owned(),
        Lane::Replica => "disk-replica".to_owned(),
        Lane::Images => "disk-images".to_owned(),
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no words")
}
