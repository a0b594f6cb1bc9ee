//! Peers that are too many, too slow or too greedy cost themselves, not the others.

use std::env;
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use super::{
    Got, Limits, ListenerKind, Options, Peer, Running, Seen, Trust, USUAL, part, start, text_frame,
};
use crate::protocol::RefusalCode;
use crate::role::{CloseReason, Level, PeerId};

fn limited(change: impl FnOnce(&mut Limits)) -> Options {
    let mut limits = Limits::standard();
    change(&mut limits);
    Options { limits, ..USUAL }
}

#[test]
fn a_peer_that_never_says_hello_is_sent_away() {
    let running = start(Options {
        trust: Trust::Never,
        ..limited(|limits| limits.handshake_ms_max = 100)
    });
    let mut silent = running.connect();
    let Got::Refused(code, text) = silent.get() else {
        panic!("not refused");
    };
    assert_eq!(code, RefusalCode::TooSlow);
    assert_eq!(text, "no handshake within 100 ms");
    assert_eq!(silent.get(), Got::End);
    assert_eq!(running.wait_closed().1, CloseReason::Broke(text));

    // Frames alone do not help, as long as the role does not call it established.
    let mut talker = running.connect();
    talker.stream.set_nonblocking(false).unwrap();
    let refused = loop {
        talker.order("hello?");
        match talker.get() {
            Got::Text(_) => (),
            other => break other,
        }
    };
    assert!(matches!(refused, Got::Refused(RefusalCode::TooSlow, _)));
    running.stop();
}

#[test]
fn single_bytes_do_not_keep_a_frame_alive() {
    let running = start(limited(|limits| limits.frame_ms_max = 150));
    let (mut slow, mut other) = (running.connect(), running.connect());
    slow.echo("established");
    slow.stream
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    let frame = part(1, 500_000);
    let mut refused = None;
    for byte in &frame {
        slow.write(&[*byte]);
        other.echo("meanwhile");
        let mut first = [0];
        if let Ok(size) = slow.stream.peek(&mut first) {
            assert_eq!(size, 1);
            slow.stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
            refused = Some(slow.get());
            break;
        }
    }
    let expected = Got::Refused(RefusalCode::TooSlow, "a frame took over 150 ms".to_owned());
    assert_eq!(refused, Some(expected));
    assert!(matches!(running.wait_closed().1, CloseReason::Broke(_)));
    running.stop();
}

/// Orders more than the sockets hold and takes nothing of it.
fn greedy(running: &Running) -> (Peer, PeerId) {
    let mut peer = running.connect();
    let id = peer.id();
    peer.order("/share 20 1000000");
    (peer, id)
}

#[test]
fn a_client_that_takes_nothing_is_not_listened_to_until_it_does() {
    let running = start(limited(|limits| {
        limits.client_queue_size_high = 100_000;
        limits.client_queue_size_low = 50_000;
    }));
    let (mut greedy, id) = greedy(&running);
    let mut other = running.connect();
    other.echo("after the order");
    greedy.order("not now");
    for _ in 0..50 {
        other.echo("served");
    }
    let early = running.seen.try_iter().any(|seen| match seen {
        Seen::Text(peer, _) => peer == id,
        Seen::Drained(_) => true,
        _ => false,
    });
    assert!(!early, "it was listened to although its queue is full");

    for index in 0..20 {
        assert_eq!(greedy.text(), index.to_string());
        assert_eq!(greedy.get(), Got::Part(index, 1_000_000));
    }
    assert_eq!(greedy.text(), "not now");
    let order: Vec<bool> = (0..2)
        .map(|_| {
            running.wait_for(|seen| match seen {
                Seen::Drained(peer) if *peer == id => Some(true),
                Seen::Text(peer, text) if *peer == id && text == "not now" => Some(false),
                _ => None,
            })
        })
        .collect();
    assert_eq!(order, [true, false], "first drained, then listened to");
    running.stop();
}

#[test]
fn a_peer_that_takes_nothing_for_too_long_is_cut_off() {
    for kind in [ListenerKind::Client, ListenerKind::Cluster] {
        let running = start(Options {
            kind,
            ..limited(|limits| limits.write_stall_ms_max = 150)
        });
        let (greedy, id) = greedy(&running);
        let mut other = running.connect();
        other.echo("served");
        let (peer, reason) = running.wait_closed();
        assert_eq!(peer, id);
        let CloseReason::Failed(text) = reason else {
            panic!("{reason:?}");
        };
        assert!(text.contains("untaken for 150 ms"), "{text}");
        other.echo("still served");
        drop(greedy);
        running.stop();
    }
}

#[test]
fn no_queue_grows_beyond_its_bound() {
    let running = start(Options {
        kind: ListenerKind::Cluster,
        ..limited(|limits| limits.queue_size_max = 5_000_000)
    });
    let (greedy, id) = greedy(&running);
    let (peer, reason) = running.wait_closed();
    assert_eq!(peer, id);
    let CloseReason::Broke(text) = reason else {
        panic!("{reason:?}");
    };
    assert!(
        text.starts_with("left ") && text.ends_with(" bytes untaken"),
        "{text}"
    );
    drop(greedy);
    running.stop();
}

/// An ending that the peer does not let happen is bounded too.
#[test]
fn closing_does_not_wait_for_a_peer_that_takes_nothing() {
    let running = start(limited(|limits| {
        limits.connection_count_max = 2;
        limits.write_stall_ms_max = 150;
    }));
    let mut greedy = running.connect();
    let mut orders = text_frame("/share 20 1000000");
    orders.extend_from_slice(&text_frame("/close"));
    greedy.write(&orders);
    assert_eq!(running.wait_closed().1, CloseReason::Asked);
    // Its place is free again once it is really gone, and only then.
    let mut second = running.connect();
    second.echo("second");
    loop {
        let mut third = running.connect();
        third.order("third");
        match third.get() {
            Got::Text(text) => {
                assert_eq!(text, "third");
                break;
            }
            Got::Refused(code, _) => assert_eq!(code, RefusalCode::TooManyConnections),
            other => panic!("{other:?}"),
        }
    }
    drop(second);
    drop(greedy);
    running.wait_closed();
    running.stop();
}

#[test]
fn a_thousand_idle_connections_cost_the_others_nothing() {
    let running = start(USUAL);
    let mut idle: Vec<Peer> = (0..1_000).map(|_| running.connect()).collect();
    let mut busy = running.connect();
    for index in 0..1_000 {
        busy.echo(&index.to_string());
    }
    for (index, peer) in idle.iter_mut().enumerate() {
        peer.order(&index.to_string());
    }
    for (index, peer) in idle.iter_mut().enumerate() {
        assert_eq!(peer.text(), index.to_string());
    }
    drop(idle);
    for _ in 0..1_000 {
        assert_eq!(running.wait_closed().1, CloseReason::Ended);
    }
    running.stop();
}

#[test]
fn a_flood_of_connections_is_refused_and_those_inside_are_served() {
    let running = start(limited(|limits| limits.connection_count_max = 10));
    let mut inside: Vec<Peer> = (0..10).map(|_| running.connect()).collect();
    for peer in &mut inside {
        peer.echo("inside");
    }
    for round in 0..200 {
        let mut outside = running.connect();
        if round % 2 == 0 {
            outside.stream.shutdown(Shutdown::Write).unwrap();
        }
        let got = outside.get();
        let Got::Refused(RefusalCode::TooManyConnections, _) = got else {
            panic!("round {round}: {got:?}");
        };
        assert_eq!(outside.get(), Got::End);
    }
    for peer in &mut inside {
        peer.echo("still inside");
    }
    assert!(
        running
            .wait_said(Level::Warn)
            .contains("too many connections")
    );
    drop(inside.pop());
    running.wait_closed();
    let mut next = running.connect();
    next.echo("there is room again");
    drop(next);
    running.wait_closed();
    running.stop();
}

const CHILD: &str = "net::tests::limits::child_without_descriptors";

/// Descriptors are a matter of the whole process, so a process of its own runs out of them.
#[test]
fn those_who_knock_when_descriptors_run_out_are_told() {
    let test = env::current_exe().unwrap();
    let child = Command::new(test)
        .args(["--exact", CHILD, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{output}");
    assert!(output.contains("1 passed"), "{output}");
}

#[test]
#[ignore = "run by those_who_knock_when_descriptors_run_out_are_told in a process of its own"]
fn child_without_descriptors() {
    let running = start(limited(|limits| limits.connection_count_max = 10));
    let mut first = running.connect();
    first.echo("before");
    // Both sides of each connection are of this process: the outside one gets the last descriptor.
    let next = first.stream.try_clone().unwrap();
    let used = {
        use std::os::fd::AsRawFd;
        u64::try_from(next.as_raw_fd()).unwrap()
    };
    drop(next);
    let limit = |count: u64| {
        let limit = Rlimit {
            current: Some(count),
            maximum: Some(20_000),
        };
        setrlimit(Resource::Nofile, limit).unwrap();
    };
    limit(used + 1);
    for _ in 0..3 {
        let mut outside = Peer::of(TcpStream::connect(running.address).unwrap());
        assert!(matches!(
            outside.get(),
            Got::Refused(RefusalCode::TooManyConnections, _)
        ));
        assert_eq!(outside.get(), Got::End);
        first.echo("served meanwhile");
    }
    assert!(running.wait_said(Level::Warn).contains("cannot accept"));
    limit(1_000);
    let mut second = running.connect();
    second.echo("after");
    running.stop();
}

/// A client whose system takes little on its behalf.
fn small(running: &Running) -> Peer {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    socket.connect(&running.address.into()).unwrap();
    Peer::of(socket.into())
}

#[test]
fn without_memory_no_client_begins_a_frame_until_there_is_some() {
    let running = start(limited(|limits| {
        limits.client_buffers_size_max = 12 << 20;
        limits.client_queue_size_high = 64 << 20;
    }));
    let (mut other, mut beginner) = (running.connect(), running.connect());
    beginner.echo("established");
    let text = "x".repeat(100_000);
    let frame = text_frame(&text);
    beginner.write(&frame[..60_000]);
    // Whoever answers later has read what came before.
    other.echo("one turn");
    other.echo("and another");
    let mut greedy = small(&running);
    greedy.order("/share 20 1000000");
    assert_eq!(greedy.text(), "0");
    other.order("held");
    // What had begun may end, and needs no more memory then.
    beginner.write(&frame[60_000..]);
    assert_eq!(beginner.text(), text);
    let served = running.seen.try_iter().any(|seen| match seen {
        Seen::Text(_, text) => text == "held",
        _ => false,
    });
    assert!(!served, "a frame was begun although there was no memory");
    // What is taken makes room.
    assert_eq!(greedy.get(), Got::Part(0, 1_000_000));
    for index in 1..20 {
        assert_eq!(greedy.text(), index.to_string());
        assert_eq!(greedy.get(), Got::Part(index, 1_000_000));
    }
    assert_eq!(other.text(), "held");
    running.stop();
}

#[test]
fn who_needs_more_than_there_is_is_sent_away_and_the_others_are_served() {
    let running = start(limited(|limits| {
        limits.client_buffers_size_max = 256 << 10;
        limits.client_queue_size_high = 64 << 20;
    }));
    let mut other = running.connect();
    other.echo("before");
    let (greedy, id) = greedy(&running);
    let (peer, reason) = running.wait_closed();
    assert_eq!(peer, id);
    let CloseReason::Broke(text) = reason else {
        panic!("{reason:?}");
    };
    assert!(text.contains("no memory"), "{text}");
    drop(greedy);
    other.echo("served");
    let mut begun = running.connect();
    begun.echo("established");
    begun.write(&part(1, 900_000)[..800_000]);
    let Got::Refused(code, text) = begun.get() else {
        panic!("not refused");
    };
    assert_eq!(code, RefusalCode::TooManyConnections);
    assert!(text.contains("no memory"), "{text}");
    other.echo("still served");
    running.stop();
}
