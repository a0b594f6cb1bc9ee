//! Connections, dials, disk threads and the loop itself begin and end as they should.

use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};

use signal_hook::consts::SIGTERM;

use super::{Got, Options, Peer, Running, Seen, Signals, Trust, USUAL, start, text_frame};
use crate::clock::Clock;
use crate::model::new_set;
use crate::net::{Listener, ListenerKind, needs_insecure};
use crate::role::{
    CloseReason, DialId, DiskReply, DiskRequest, ExitCode, Lane, LaneWorker, Lanes, Level, Link,
};

#[test]
fn numbers_of_connections_are_never_used_again() {
    let running = start(USUAL);
    let mut ids = new_set();
    for _ in 0..200 {
        let mut peer = running.connect();
        assert!(ids.insert(peer.id()));
        drop(peer);
        assert_eq!(running.wait_closed().1, CloseReason::Ended);
    }
    running.stop();
}

#[test]
fn a_paused_peer_waits_and_nothing_of_it_is_lost() {
    let running = start(USUAL);
    let (mut peer, mut other) = (running.connect(), running.connect());
    let id = peer.id();
    for round in 0..3 {
        other.order(&format!("/pause {}", id.0));
        other.echo("paused");
        let bytes: Vec<u8> = (0..3_000)
            .flat_map(|index: u32| text_frame(&index.to_string()).to_vec())
            .collect();
        peer.write(&bytes);
        for _ in 0..10 {
            other.echo("meanwhile");
        }
        let early = running
            .seen
            .try_iter()
            .any(|seen| matches!(seen, Seen::Text(from, _) if from == id));
        assert!(!early, "round {round}");
        other.order(&format!("/resume {}", id.0));
        for index in 0..3_000 {
            assert_eq!(peer.text(), index.to_string());
        }
        while running.seen.try_recv().is_ok() {}
    }
    // The end of a paused peer is seen once it may be.
    other.order(&format!("/pause {}", id.0));
    other.echo("paused");
    peer.order("last");
    drop(peer);
    other.echo("meanwhile");
    other.order(&format!("/resume {}", id.0));
    assert_eq!(running.wait_closed(), (id, CloseReason::Ended));
    running.stop();
}

#[test]
fn closing_sends_what_is_queued() {
    let running = start(USUAL);
    let mut peer = running.connect();
    let mut orders = text_frame("/share 10 1000000");
    orders.extend_from_slice(&text_frame("/close"));
    peer.write(&orders);
    assert_eq!(running.wait_closed().1, CloseReason::Asked);
    for index in 0..10 {
        assert_eq!(peer.text(), index.to_string());
        assert_eq!(peer.get(), Got::Part(index, 1_000_000));
    }
    assert_eq!(peer.get(), Got::End);
    running.stop();
}

#[test]
fn large_shared_pieces_arrive_through_partial_writes() {
    let running = start(USUAL);
    let mut peers: Vec<Peer> = (0..4).map(|_| running.connect()).collect();
    for peer in &mut peers {
        peer.order("/share 100 1000");
        peer.order("/share 9 1000001");
    }
    // Side by side: on a busy machine the last one would be cut off for taking nothing.
    std::thread::scope(|scope| {
        for peer in &mut peers {
            scope.spawn(|| {
                for (count, size) in [(100, 1_000), (9, 1_000_001)] {
                    for index in 0..count {
                        assert_eq!(peer.text(), index.to_string());
                        assert_eq!(peer.get(), Got::Part(index, size));
                    }
                }
            });
        }
    });
    running.stop();
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[test]
fn a_dial_nobody_answers_fails() {
    let running = start(USUAL);
    let closed = TcpListener::bind(loopback()).unwrap().local_addr().unwrap();
    let mut peer = running.connect();
    peer.order(&format!("/dial 7 {closed}"));
    let (dial, error) = running.wait_for(|seen| match seen {
        Seen::DialFailed(dial, error) => Some((*dial, error.clone())),
        _ => None,
    });
    assert_eq!(dial, DialId(7));
    assert!(error.contains("refused"), "{error}");
    peer.echo("alive");
    running.stop();
}

#[test]
fn a_dial_that_is_answered_is_a_connection() {
    let running = start(USUAL);
    let listener = TcpListener::bind(loopback()).unwrap();
    let mut peer = running.connect();
    peer.order(&format!("/dial 8 {}", listener.local_addr().unwrap()));
    let mut far = Peer::of(listener.accept().unwrap().0);
    assert_eq!(far.text(), "hello");
    far.echo("over the dialled link");
    let id = running.wait_for(|seen| match seen {
        Seen::Opened(peer, Link::Dialed(dial)) => {
            assert_eq!(*dial, DialId(8));
            Some(*peer)
        }
        _ => None,
    });
    drop(far);
    assert_eq!(running.wait_closed(), (id, CloseReason::Ended));
    running.stop();
}

#[test]
fn a_dialled_peer_that_does_not_answer_the_hello_is_given_up() {
    let mut options = Options {
        trust: Trust::Never,
        ..USUAL
    };
    options.limits.handshake_ms_max = 200;
    let running = start(options);
    let listener = TcpListener::bind(loopback()).unwrap();
    let mut peer = running.connect();
    peer.order(&format!("/dial 9 {}", listener.local_addr().unwrap()));
    let mut far = Peer::of(listener.accept().unwrap().0);
    assert_eq!(far.text(), "hello");
    assert!(matches!(far.get(), Got::Refused(..)));
    assert_eq!(far.get(), Got::End);
    running.stop();
}

/// Notes how many requests each call brought, and waits to be let go.
struct SlowWorker {
    go: Receiver<()>,
    batches: Sender<usize>,
}

impl LaneWorker for SlowWorker {
    fn run(&mut self, requests: Vec<DiskRequest>, replies: &mut Vec<DiskReply>) {
        self.batches.send(requests.len()).unwrap();
        self.go.recv().unwrap();
        for _ in requests {
            replies.push(DiskReply::FreeSpace { size: 4_711 });
        }
    }
}

struct OneLane {
    worker: Mutex<Option<SlowWorker>>,
}

impl Lanes for OneLane {
    fn worker(&self, lane: Lane) -> Box<dyn LaneWorker> {
        assert_eq!(lane, Lane::Background);
        assert_eq!(std::thread::current().name(), Some("disk-background"));
        let mut worker = self.worker.lock().unwrap();
        Box::new(worker.take().expect("asked for once"))
    }
}

fn one_lane() -> (Running, Sender<()>, Receiver<usize>) {
    let (go, wait) = mpsc::channel();
    let (note, batches) = mpsc::channel();
    let worker = SlowWorker {
        go: wait,
        batches: note,
    };
    let running = start(Options {
        lanes: Some(Arc::new(OneLane {
            worker: Mutex::new(Some(worker)),
        })),
        ..USUAL
    });
    (running, go, batches)
}

fn disk_reply(running: &Running) -> String {
    running.wait_for(|seen| match seen {
        Seen::Disk(text) => Some(text.clone()),
        _ => None,
    })
}

#[test]
fn requests_to_the_disk_that_wait_together_are_taken_together() {
    let (running, go, batches) = one_lane();
    let mut peer = running.connect();
    peer.order("/disk 1");
    assert_eq!(batches.recv_timeout(super::PATIENCE), Ok(1));
    for _ in 0..10 {
        peer.order("/disk 3");
        peer.echo("the loop does not wait for the disk");
    }
    peer.echo("the turn with the last order is over");
    go.send(()).unwrap();
    assert_eq!(disk_reply(&running), "4711");
    assert_eq!(batches.recv_timeout(super::PATIENCE), Ok(30));
    go.send(()).unwrap();
    for _ in 0..30 {
        assert_eq!(disk_reply(&running), "4711");
    }
    // More than one turn takes, in however many batches the thread finds them.
    peer.order("/disk 5000");
    for _ in 0..5_000 {
        go.send(()).unwrap();
    }
    for _ in 0..5_000 {
        assert_eq!(disk_reply(&running), "4711");
    }
    drop(go);
    running.stop();
}

#[test]
fn the_end_waits_for_what_the_disk_was_given() {
    let (running, go, batches) = one_lane();
    let mut peer = running.connect();
    peer.order("/disk 1");
    assert_eq!(batches.recv_timeout(super::PATIENCE), Ok(1));
    peer.order("/disk 2");
    peer.echo("seen");
    peer.echo("the turn with the order is over");
    peer.order("/exit");
    assert_eq!(peer.text(), "bye");
    go.send(()).unwrap();
    assert_eq!(batches.recv_timeout(super::PATIENCE), Ok(2));
    go.send(()).unwrap();
    assert_eq!(running.end(), ExitCode::Fenced);
}

#[test]
fn a_panic_of_the_disk_ends_the_process_with_a_message() {
    let (running, go, batches) = one_lane();
    drop(batches);
    let mut peer = running.connect();
    peer.order("/disk 1");
    let text = running.wait_said(Level::Alarm);
    assert!(text.contains("Background"), "{text}");
    assert_eq!(running.end(), ExitCode::Damage);
    drop(go);
}

#[test]
fn an_exit_sends_what_is_queued() {
    let running = start(USUAL);
    let (mut reader, mut other) = (running.connect(), running.connect());
    reader.order("/share 10 1000000");
    other.order("/exit");
    for index in 0..10 {
        assert_eq!(reader.text(), index.to_string());
        assert_eq!(reader.get(), Got::Part(index, 1_000_000));
    }
    assert_eq!(reader.get(), Got::End);
    assert_eq!(other.text(), "bye");
    assert_eq!(other.get(), Got::End);
    assert_eq!(running.end(), ExitCode::Fenced);
}

#[test]
fn an_exit_does_not_wait_for_ever() {
    let running = start(USUAL);
    let (mut stuck, mut other) = (running.connect(), running.connect());
    stuck.order("/share 20 1000000");
    other.echo("after the order");
    let clock = Clock::start();
    other.order("/exit");
    assert!(running.wait_said(Level::Warn).contains("did not take"));
    assert_eq!(running.end(), ExitCode::Fenced);
    assert!(clock.now().tick.0 < 5_000_000_000);
    drop(stuck);
}

#[test]
fn readiness_and_deadlines_of_the_role_are_kept() {
    let running = start(USUAL);
    let mut peer = running.connect();
    peer.order("/ready");
    running.wait_for(|seen| (*seen == Seen::Ready).then_some(()));
    let clock = Clock::start();
    peer.order("/later 50");
    running.wait_for(|seen| (*seen == Seen::Elapsed).then_some(()));
    let nanos = clock.now().tick.0;
    assert!(50_000_000 <= nanos, "{nanos}");
    running.stop();
}

/// The only test whose loop listens to signals: they go to the whole process.
#[test]
fn a_signal_asks_for_an_orderly_end() {
    let running = start(Options {
        signals: Signals::Handled,
        ..USUAL
    });
    let mut peer = running.connect();
    peer.echo("running");
    signal_hook::low_level::raise(SIGTERM).unwrap();
    running.wait_for(|seen| (*seen == Seen::Stop).then_some(()));
    assert_eq!(peer.get(), Got::End);
    assert_eq!(running.end(), ExitCode::Ok);
}

#[test]
fn addresses_beyond_loopback_are_known_as_such() {
    for (address, beyond) in [
        ("127.0.0.1:1", false),
        ("127.9.9.9:1", false),
        ("[::1]:1", false),
        ("[::ffff:127.0.0.1]:1", false),
        ("0.0.0.0:1", true),
        ("[::]:1", true),
        ("192.0.2.1:1", true),
        ("[::ffff:192.0.2.1]:1", true),
    ] {
        assert_eq!(
            needs_insecure(address.parse().unwrap()),
            beyond,
            "{address}"
        );
    }
}

#[test]
fn a_port_has_one_listener() {
    let first = Listener::bind(loopback(), ListenerKind::Client).unwrap();
    let second = Listener::bind(first.local_addr(), ListenerKind::Client);
    let error = second.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}
