//! What the loop itself costs per frame. Run by hand:
//! `cargo test --release --lib net::tests::measure -- --ignored --nocapture --test-threads 1`
//!
//! Each case prints frames per second and the loop's CPU time per frame; the load comes from one
//! thread, so that on two cores the loop has one for itself. `PEERS` connections send `DEPTH`
//! frames each and wait for all echoes before they send again.

use std::fs;
use std::io::{Read, Write};

use super::{Peer, USUAL, part, start};
use crate::clock::Clock;

/// How long each case runs.
const RUN_MS: u64 = 2_000;

/// CPU time of a thread of this process in nanoseconds, as the system counts it.
fn thread_cpu_nanos(thread: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

fn threads() -> Vec<String> {
    fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn measure(peer_count: u64, depth: u64, size: usize) {
    let before = threads();
    let running = start(USUAL);
    let mut peers: Vec<Peer> = (0..peer_count).map(|_| running.connect()).collect();
    peers[0].echo("up");
    let loop_thread = threads()
        .into_iter()
        .find(|thread| !before.contains(thread))
        .unwrap();
    let frame = part(1, size);
    let burst: Vec<u8> = (0..depth).flat_map(|_| frame.to_vec()).collect();
    let mut echo = vec![0; burst.len()];
    let draining = &running.seen;
    let clock = Clock::start();
    let cpu_start = thread_cpu_nanos(&loop_thread);
    let mut rounds = 0;
    while clock.now().tick.0 < RUN_MS * 1_000_000 {
        for peer in &mut peers {
            peer.stream.write_all(&burst).unwrap();
        }
        for peer in &mut peers {
            peer.stream.read_exact(&mut echo).unwrap();
            assert_eq!(echo, burst);
        }
        rounds += 1;
        draining.try_iter().for_each(drop);
    }
    let nanos = clock.now().tick.0;
    let cpu_nanos = thread_cpu_nanos(&loop_thread) - cpu_start;
    let frames = rounds * peer_count * depth;
    println!(
        "{peer_count} peers x {depth} frames of {} bytes: {} frames/s, {} ns of the loop's CPU \
         per frame, {} ns per peer and turn",
        frame.len(),
        u128::from(frames) * 1_000_000_000 / u128::from(nanos),
        cpu_nanos / frames,
        cpu_nanos / (rounds * peer_count),
    );
    drop(peers);
    running.stop();
}

#[test]
#[ignore = "measures, run by hand"]
fn frames_per_second() {
    for (peer_count, depth) in [(1, 1), (64, 1), (64, 16), (64, 256), (1_000, 1)] {
        measure(peer_count, depth, 96);
    }
}
