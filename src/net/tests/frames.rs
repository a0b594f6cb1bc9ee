//! Frames arrive whole and in order however the bytes are cut, and nothing else arrives.

use std::net::Shutdown;
use std::thread;

use super::{
    Got, ListenerKind, Options, Peer, Running, Seen, Trust, USUAL, part, start, text_frame,
};
use crate::limits as product;
use crate::model::{Random, to_usize};
use crate::protocol::{HEADER_SIZE, RefusalCode};
use crate::role::CloseReason;

#[test]
fn a_frame_cut_at_every_byte_arrives() {
    let running = start(USUAL);
    let (mut peer, mut other) = (running.connect(), running.connect());
    let mut frames = text_frame("first");
    frames.extend_from_slice(&text_frame("second, longer"));
    for cut in 1..frames.len() {
        peer.write(&frames[..cut]);
        other.echo("seen");
        peer.write(&frames[cut..]);
        assert_eq!(peer.text(), "first", "cut at {cut}");
        assert_eq!(peer.text(), "second, longer", "cut at {cut}");
    }
    running.stop();
}

#[test]
fn many_frames_in_one_write_arrive_in_order() {
    const COUNT: u32 = 20_000;
    let running = start(USUAL);
    let mut peer = running.connect();
    let mut writer = Peer::of(peer.stream.try_clone().unwrap());
    let writing = thread::spawn(move || {
        let mut frames = Vec::new();
        for index in 0..COUNT {
            frames.extend_from_slice(&text_frame(&index.to_string()));
        }
        writer.write(&frames);
    });
    for index in 0..COUNT {
        assert_eq!(peer.text(), index.to_string());
    }
    writing.join().unwrap();
    running.stop();
}

/// Sizes around all the borders of the buffers, in chunks of random sizes.
#[test]
fn frames_of_all_sizes_in_chunks_of_all_sizes_arrive() {
    for seed in 0..8 {
        let running = start(USUAL);
        let mut random = Random::new(seed);
        let mut sizes = Vec::new();
        for _ in 0..40 {
            let border = [0, 1 << 10, 16 << 10, 64 << 10, 256 << 10, 1_000_000];
            let near = border[to_usize(random.below(6))];
            sizes.push(to_usize(near + random.below(100)));
        }
        let mut bytes = Vec::new();
        for (index, size) in (0..).zip(&sizes) {
            bytes.extend_from_slice(&part(index, *size));
        }
        let mut peer = running.connect();
        let mut writer = Peer::of(peer.stream.try_clone().unwrap());
        let writing = thread::spawn(move || {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let largest = [50, 5_000, 300_000, 2_000_000][to_usize(random.below(4))];
                let size = (1 + to_usize(random.below(largest))).min(rest.len());
                writer.write(&rest[..size]);
                rest = &rest[size..];
            }
        });
        for (index, size) in (0..).zip(sizes) {
            assert_eq!(peer.get(), Got::Part(index, size), "seed {seed}");
        }
        writing.join().unwrap();
        running.stop();
    }
}

fn assert_refused(running: &Running, peer: &mut Peer, code: RefusalCode, words: &str) {
    let Got::Refused(found, text) = peer.get() else {
        panic!("not refused");
    };
    assert_eq!(found, code);
    assert!(text.contains(words), "{text}");
    assert_eq!(peer.get(), Got::End);
    let (_, reason) = running.wait_closed();
    assert_eq!(reason, CloseReason::Broke(text));
}

#[test]
fn garbage_is_refused_behind_the_answers_to_what_came_before() {
    let running = start(USUAL);
    let (mut peer, mut other) = (running.connect(), running.connect());
    peer.echo("good");
    let mut bytes = text_frame("still good");
    bytes.extend_from_slice(&[0xff; 100]);
    peer.write(&bytes);
    assert_eq!(peer.text(), "still good");
    assert_refused(
        &running,
        &mut peer,
        RefusalCode::Malformed,
        "above the limit",
    );

    let mut peer = running.connect();
    let mut bytes = text_frame("wrong sum");
    bytes[HEADER_SIZE + 5] ^= 1;
    peer.write(&bytes);
    assert_refused(&running, &mut peer, RefusalCode::Malformed, "checksum");

    let mut peer = running.connect();
    peer.write(&[0; 24]);
    assert_refused(&running, &mut peer, RefusalCode::Malformed, "below");

    other.echo("untouched");
    running.stop();
}

/// The refusal must survive that the peer goes on sending: unread bytes at our close would make
/// the system throw it away.
#[test]
fn a_refusal_reaches_a_peer_that_goes_on_sending() {
    let running = start(USUAL);
    let mut peer = running.connect();
    peer.write(&vec![0xff; 3 << 20]);
    peer.stream.shutdown(Shutdown::Write).unwrap();
    assert_refused(
        &running,
        &mut peer,
        RefusalCode::Malformed,
        "above the limit",
    );
    running.stop();
}

#[test]
fn the_length_of_a_frame_is_bounded() {
    let running = start(USUAL);
    let mut peer = running.connect();
    peer.echo("established");
    peer.write(&(product::FRAME_SIZE_MAX + 1).to_le_bytes());
    assert_refused(
        &running,
        &mut peer,
        RefusalCode::Malformed,
        "above the limit",
    );
    running.stop();
}

#[test]
fn strangers_get_short_frames_only() {
    let running = start(Options {
        trust: Trust::Never,
        kind: ListenerKind::Cluster,
        ..USUAL
    });
    let mut peer = running.connect();
    peer.write(&(product::HELLO_FRAME_SIZE_MAX + 1).to_le_bytes());
    assert_refused(
        &running,
        &mut peer,
        RefusalCode::Malformed,
        "above the limit of 512",
    );
    running.stop();
}

/// The second frame is looked at after the role has judged the first.
#[test]
fn what_follows_a_hello_at_once_has_the_limits_of_an_established_peer() {
    let running = start(Options {
        trust: Trust::AfterOneFrame,
        ..USUAL
    });
    for size in [100, 100_000, 1_000_000] {
        let mut peer = running.connect();
        let mut bytes = text_frame("hello");
        bytes.extend_from_slice(&part(7, size));
        bytes.extend_from_slice(&text_frame("behind"));
        peer.write(&bytes);
        assert_eq!(peer.text(), "hello");
        assert_eq!(peer.get(), Got::Part(7, size));
        assert_eq!(peer.text(), "behind");
    }
    running.stop();
}

#[test]
fn whole_frames_are_seen_before_the_end_of_their_peer() {
    let running = start(USUAL);
    let mut peer = running.connect();
    peer.write(&text_frame("one"));
    peer.write(&text_frame("two"));
    drop(peer);
    let mut texts = Vec::new();
    let reason = running.wait_for(|seen| match seen {
        Seen::Text(_, text) => {
            texts.push(text.clone());
            None
        }
        Seen::Closed(_, reason) => Some(reason.clone()),
        _ => None,
    });
    assert_eq!(texts, ["one", "two"]);
    // Echoes to a peer that is gone come back as a reset.
    assert!(
        matches!(reason, CloseReason::Ended | CloseReason::Failed(_)),
        "{reason:?}"
    );

    let mut half = running.connect();
    half.write(&text_frame("answered"));
    half.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(half.text(), "answered");
    assert_eq!(half.get(), Got::End);
    running.stop();
}

#[test]
fn a_peer_that_ends_in_the_middle_of_a_frame_has_failed() {
    let running = start(USUAL);
    for size in [1, 3, 4, 23, 24, 30] {
        let mut peer = running.connect();
        peer.write(&text_frame("never whole")[..size]);
        peer.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(peer.get(), Got::End);
        let (_, reason) = running.wait_closed();
        let CloseReason::Failed(text) = reason else {
            panic!("size {size}: {reason:?}");
        };
        assert!(text.contains("middle"), "{text}");
    }
    running.stop();
}

/// A reset by the peer, with bytes of ours on the way.
#[test]
fn a_reset_is_noticed() {
    let running = start(USUAL);
    let mut peer = running.connect();
    peer.echo("there");
    socket2::SockRef::from(&peer.stream)
        .set_linger(Some(std::time::Duration::ZERO))
        .unwrap();
    drop(peer);
    let (_, reason) = running.wait_closed();
    assert!(matches!(reason, CloseReason::Failed(_)), "{reason:?}");
    running.stop();
}
