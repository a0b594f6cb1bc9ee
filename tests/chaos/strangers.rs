//! Strangers on every port: so many that descriptors run out, so many that say nothing, and all
//! that send garbage. The others are served meanwhile.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use counterfoil::client::{Client, Options};
use counterfoil::clock::{Clock, Tick};
use counterfoil::model::{Incarnation, NodeId, Random, to_u64, to_usize};
use counterfoil::protocol::{Hello, Message, PeerRole, VERSION_MAX, VERSION_MIN};
use rustix::process::{Resource, getrlimit};

use crate::host;
use crate::workload::{Load, Workload};
use crate::world::{PATIENCE, Role, Shape, World};

const SHAPE: Shape = Shape {
    node_count: 2,
    front_count: 1,
    has_proxies: false,
};

const ROLES: [Role; 3] = [Role::Front(1), Role::Node(1), Role::Backup];

/// Descriptors of a daemon that leave it 64 connections: the others are for disk and cluster.
const FEW: &str = "--nofile=192:192";

fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10)).expect("connects");
    let limit = Some(Duration::from_secs(15));
    stream.set_read_timeout(limit).unwrap();
    stream.set_write_timeout(limit).unwrap();
    stream
}

/// Reads until the other side closes. Bytes that came before.
fn read_to_close(stream: &mut TcpStream) -> usize {
    let mut bytes = [0; 4_096];
    let mut count = 0;
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return count,
            Ok(more) => count += more,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return count,
            Err(error) => panic!("neither an answer nor a close: {error}"),
        }
    }
}

/// Ticks of processor time (hundredths of a second) that a process has used.
fn processor_ticks(id: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("it runs");
    let (_, fields) = text.rsplit_once(')').expect("a name in brackets");
    let numbers: Vec<u64> = fields
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    // Behind the name and the state (a letter): utime is the 14th field, stime the 15th.
    numbers[10] + numbers[11]
}

/// Lets a time pass in which nothing but the strangers is there.
fn rest(time: Duration) {
    let (_keep, silence) = std::sync::mpsc::channel();
    host::pass(time, &silence);
}

/// Milliseconds until a new client is welcome at the front.
fn connects_again(world: &World) -> u64 {
    let clock = Clock::start();
    let options = Options::default();
    for _ in 0..150 {
        match Client::connect_to(&world.fronts(), &options) {
            Ok(_) => return clock.now().tick.since(Tick(0)) / 1_000_000,
            Err(error) => assert!(error.may_retry(), "{error}"),
        }
        rest(Duration::from_millis(100));
    }
    panic!("no client is welcome after the strangers have gone");
}

fn run_out_of_descriptors(name: &'static str, role: Role, rounds: u64, seed: u64) {
    if let Some(why) = host::missing(&["prlimit"]) {
        host::skipped(name, &why);
        return;
    }
    host::say(&format!("{name}: {role:?}, {rounds} times, seed {seed}"));
    let mut world = World::new(name, SHAPE);
    world.wrap(role, &["prlimit", FEW]);
    world.start_all();
    let load = world.load(seed);
    for round in 0..rounds {
        let work = world.work(&load);
        work.until_answered(200, Duration::from_secs(30));
        let crowd: Vec<TcpStream> = (0..200).map(|_| dial(world.address(role))).collect();
        // Whoever was connected before is served; segments are still prepared, files saved.
        work.until_answered(500, Duration::from_secs(60));
        world.assert_all_run();
        work.stop();
        let id = world.process(role).id();
        let crowd_again: Vec<TcpStream> = (0..200).map(|_| dial(world.address(role))).collect();
        let before = processor_ticks(id);
        rest(Duration::from_secs(2));
        let used = processor_ticks(id) - before;
        assert!(
            used < 60,
            "round {round}: {role:?} used {used} ticks of 200 for nothing"
        );
        drop(crowd);
        drop(crowd_again);
        let ms = connects_again(&world);
        let work = world.work(&load);
        work.until_answered(50, Duration::from_secs(30));
        work.stop();
        host::say(&format!(
            "{name}: {used} ticks while starved, served again in {ms} ms"
        ));
    }
    world.finish(&load);
}

/// Takes the right to open anything from a running daemon, and gives it back.
fn no_descriptors(name: &'static str, role: Role, rounds: u64, seed: u64) {
    if let Some(why) = host::missing(&["prlimit"]) {
        host::skipped(name, &why);
        return;
    }
    host::say(&format!("{name}: {role:?}, {rounds} times, seed {seed}"));
    let mut world = World::start(name, SHAPE);
    // So much that new segments are needed while nothing can be opened.
    let load = Load {
        pace_ms: 0,
        batch_count: 200,
        ..world.load(seed)
    };
    for _ in 0..rounds {
        let work = world.work(&load);
        work.until_answered(200, Duration::from_secs(30));
        let id = world.process(role).id();
        let before = descriptor_limit(id);
        limit_descriptors(id, descriptor_count(id));
        world
            .record
            .note(&format!("{} may open nothing", role.name()));
        let crowd: Vec<TcpStream> = (0..100).map(|_| dial(world.address(role))).collect();
        // Connections that are there are served, for as long as there is a prepared segment.
        work.until_answered(500, Duration::from_secs(60));
        work.go_on(Duration::from_secs(5));
        work.stop();
        let ticks = processor_ticks(id);
        rest(Duration::from_secs(2));
        let used = processor_ticks(id) - ticks;
        assert!(used < 60, "{role:?} used {used} ticks of 200 for nothing");
        limit_descriptors(id, before);
        drop(crowd);
        world.assert_all_run();
        let ms = connects_again(&world);
        host::say(&format!(
            "{name}: {used} ticks without descriptors, served again in {ms} ms"
        ));
    }
    let work = world.work(&load);
    work.until_answered(500, Duration::from_secs(30));
    work.stop();
    world.finish(&load);
}

fn limit_descriptors(id: u32, limit: u64) {
    let (id, limit) = (id.to_string(), format!("--nofile={limit}:"));
    host::tool("prlimit", &["--pid", &id, &limit]).expect("a limit can be set");
}

fn descriptor_limit(id: u32) -> u64 {
    let columns = ["--noheadings", "--output", "SOFT", "--nofile"];
    let said = host::tool(
        "prlimit",
        &[&["--pid", &id.to_string()], &columns[..]].concat(),
    );
    said.expect("a limit can be asked for")
        .parse()
        .expect("a number")
}

fn descriptor_count(id: u32) -> u64 {
    let all = std::fs::read_dir(format!("/proc/{id}/fd")).expect("it runs");
    to_u64(all.count())
}

#[test]
fn descriptors_run_out() {
    run_out_of_descriptors("descriptors", Role::Front(1), 1, host::seed(21));
}

#[test]
#[ignore = "takes minutes: just chaos"]
fn descriptors_run_out_everywhere() {
    let rounds = host::count("CHAOS_STARVED", 7);
    for role in ROLES {
        run_out_of_descriptors("descriptors, all", role, rounds, host::seed(22));
        no_descriptors("no descriptors, all", role, rounds, host::seed(22));
    }
}

/// So many connections that say nothing, at one port after the other.
fn silent_crowd(name: &'static str, count: u64, seed: u64) {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if limit < count + 500 {
        let why = format!("{limit} open files are allowed, {count} connections need more");
        host::skipped(name, &why);
        return;
    }
    let mut world = World::start(name, SHAPE);
    let load = world.load(seed);
    let work = world.work(&load);
    for role in ROLES {
        work.until_answered(100, Duration::from_secs(30));
        let clock = Clock::start();
        let before = host::resident_size(world.process(role).id());
        let mut crowd: Vec<TcpStream> = (0..count).map(|_| dial(world.address(role))).collect();
        work.until_answered(300, PATIENCE);
        let grown = host::resident_size(world.process(role).id()).saturating_sub(before);
        for stream in &mut crowd {
            read_to_close(stream);
        }
        let ms = clock.now().tick.since(Tick(0)) / 1_000_000;
        host::say(&format!(
            "{name}: {role:?} had {count} silent connections, all closed after {ms} ms, {} KiB",
            grown >> 10
        ));
        world.assert_all_run();
    }
    work.until_answered(100, Duration::from_secs(30));
    work.stop();
    world.finish(&load);
}

#[test]
fn a_crowd_that_says_nothing() {
    silent_crowd(
        "silent crowd",
        host::count("CHAOS_SILENT_SHORT", 500),
        host::seed(23),
    );
}

#[test]
#[ignore = "needs thousands of descriptors: just chaos"]
fn five_thousand_that_say_nothing() {
    silent_crowd(
        "silent crowd, all",
        host::count("CHAOS_SILENT", 5_000),
        host::seed(24),
    );
}

/// A well-formed hello of some role.
fn hello(random: &mut Random) -> BytesMut {
    let roles = [
        PeerRole::Client,
        PeerRole::Front,
        PeerRole::Node,
        PeerRole::Backup,
    ];
    let role = roles[to_usize(random.below(to_u64(roles.len())))];
    let is_node = role == PeerRole::Node;
    let mut bytes = BytesMut::new();
    let hello = Hello {
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        role,
        cluster: None,
        node: NodeId::new(1).filter(|_| is_node),
        incarnation: Incarnation::new(random.u128() | 1).expect("not 0"),
    };
    Message::Hello(hello).write(&mut bytes);
    bytes
}

fn noise(random: &mut Random, size: u64) -> Vec<u8> {
    (0..size).map(|_| random.u64().to_le_bytes()[0]).collect()
}

/// A frame whose length and checksum are right and whose content is not.
fn sealed_garbage(random: &mut Random) -> BytesMut {
    let size = random.below(300);
    let body = noise(random, size);
    let mut frame = BytesMut::new();
    let length = u32::try_from(24 + body.len()).expect("small");
    frame.put_u32_le(length);
    frame.put_u32_le(0);
    frame.put_u16_le(u16::try_from(random.below(96)).expect("small"));
    frame.put_u16_le(0);
    frame.put_u32_le(0);
    frame.put_u64_le(random.below(4));
    frame.put_slice(&body);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..4]);
    hasher.update(&frame[8..]);
    let crc = hasher.finalize();
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    frame
}

/// One stranger with one kind of garbage.
fn send_garbage(address: SocketAddr, random: &mut Random) {
    let mut bytes = BytesMut::new();
    let kind = random.below(5);
    if kind != 0 {
        bytes.extend_from_slice(&hello(random));
    }
    match kind {
        // Nothing but noise, or noise behind a good beginning.
        0 | 1 => {
            let size = 1 + random.below(2_000);
            bytes.extend_from_slice(&noise(random, size));
        }
        // Frames that are sound outside.
        2 => {
            for _ in 0..=random.below(8) {
                bytes.extend_from_slice(&sealed_garbage(random));
            }
        }
        // A good beginning with one wrong bit.
        3 => {
            let at = to_usize(random.below(to_u64(bytes.len())));
            bytes[at] ^= 1 << random.below(8);
        }
        // Cut off.
        _ => {
            let size = to_usize(random.below(to_u64(bytes.len())));
            bytes.truncate(size);
        }
    }
    let mut stream = dial(address);
    // It may be closed at any byte.
    stream.write_all(&bytes).unwrap_or(());
    stream.shutdown(std::net::Shutdown::Write).unwrap_or(());
    read_to_close(&mut stream);
}

fn garbage_everywhere(name: &'static str, count: u64, seed: u64) {
    host::say(&format!(
        "{name}: {count} strangers at each port, seed {seed}"
    ));
    let mut random = Random::new(seed);
    let mut world = World::start(name, SHAPE);
    let load = world.load(seed);
    let work: Workload = world.work(&load);
    work.until_answered(100, Duration::from_secs(30));
    for _ in 0..count {
        for role in ROLES {
            send_garbage(world.address(role), &mut random);
        }
    }
    world.assert_all_run();
    work.until_answered(100, Duration::from_secs(30));
    work.stop();
    world.finish(&load);
}

#[test]
fn garbage_on_every_port() {
    let count = host::count("CHAOS_GARBAGE_SHORT", 60);
    garbage_everywhere("garbage", count, host::seed(25));
}

#[test]
#[ignore = "takes minutes: just chaos"]
fn much_garbage_on_every_port() {
    let count = host::count("CHAOS_GARBAGE", 5_000);
    garbage_everywhere("garbage, all", count, host::seed(26));
}
