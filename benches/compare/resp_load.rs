//! A closed loop for servers that speak RESP: what `redis-benchmark` does, and `WAIT` besides.
//!
//! On each connection a group of `INCRBY` (or `GET`) on random keys is sent, with `--wait` a
//! `WAIT 1 0` behind it, and the next group when the last answer is there. Waiting once for a
//! whole group is the fastest way in which each of its commands is known to be on the replica.
//! One JSON line on standard output: what was done, and latencies of groups in microseconds.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::float_arithmetic,
    clippy::disallowed_methods,
    reason = "a tool with a line of figures as its result, which has to look at the time itself"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use counterfoil::model::Random;
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

struct Options {
    address: SocketAddr,
    connections: usize,
    group: usize,
    seconds: f64,
    keys: u64,
    command: Command,
    waits: Waits,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Command {
    IncrBy,
    Get,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    Yes,
    No,
}

const USAGE: &str = "resp_load --addr HOST:PORT [--connections 64] [--group 1] [--seconds 5] \
                     [--keys 1000000] [--get] [--wait]";

fn parse() -> Result<Options, Box<dyn std::error::Error>> {
    let mut options = Options {
        address: SocketAddr::from(([127, 0, 0, 1], 6379)),
        connections: 64,
        group: 1,
        seconds: 5.0,
        keys: 1_000_000,
        command: Command::IncrBy,
        waits: Waits::No,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or(USAGE);
        match name.as_str() {
            "--addr" => options.address = value()?.parse()?,
            "--connections" => options.connections = value()?.parse()?,
            "--group" => options.group = value()?.parse()?,
            "--seconds" => options.seconds = value()?.parse()?,
            "--keys" => options.keys = value()?.parse()?,
            "--get" => options.command = Command::Get,
            "--wait" => options.waits = Waits::Yes,
            // What `cargo bench` passes to every bench.
            "--bench" => (),
            _ => return Err(USAGE.into()),
        }
    }
    Ok(options)
}

struct Connection {
    stream: TcpStream,
    out: Vec<u8>,
    written: usize,
    /// Bytes of an answer that is not whole.
    rest: Vec<u8>,
    unanswered: usize,
    sent: Instant,
}

impl Connection {
    fn fill(&mut self, options: &Options, random: &mut Random) {
        self.out.clear();
        self.written = 0;
        for _ in 0..options.group {
            let key = format!("key:{:012}", random.below(options.keys));
            let command = match options.command {
                Command::IncrBy => format!("*3\r\n$6\r\nINCRBY\r\n$16\r\n{key}\r\n$1\r\n1\r\n"),
                Command::Get => format!("*2\r\n$3\r\nGET\r\n$16\r\n{key}\r\n"),
            };
            self.out.extend_from_slice(command.as_bytes());
        }
        self.unanswered = options.group;
        if options.waits == Waits::Yes {
            self.out
                .extend_from_slice(b"*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$1\r\n0\r\n");
            self.unanswered += 1;
        }
        self.sent = Instant::now();
    }

    fn write(&mut self) -> Result<(), std::io::Error> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(size) => self.written += size,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads all there is. True: the last answer of the group is there.
    fn read(&mut self, buffer: &mut [u8]) -> Result<bool, Box<dyn std::error::Error>> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err("the server closed the connection".into()),
                Ok(size) => {
                    self.take(&buffer[..size])?;
                    // A short read took all there is; later bytes raise a new event.
                    if size < buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.unanswered == 0)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(size) = answer_size(&self.rest[at..])? {
            at += size;
            self.unanswered = self.unanswered.checked_sub(1).ok_or("too many answers")?;
        }
        self.rest.drain(..at);
        Ok(())
    }
}

/// Bytes of the whole answer at the start of `bytes`, if it is there.
fn answer_size(bytes: &[u8]) -> Result<Option<usize>, Box<dyn std::error::Error>> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return Ok(None);
    };
    let line = std::str::from_utf8(&bytes[1..end])?.trim_end();
    match bytes[0] {
        b':' | b'+' => Ok(Some(end + 1)),
        b'$' if line == "-1" => Ok(Some(end + 1)),
        b'$' => {
            let whole = end + 1 + line.parse::<usize>()? + 2;
            Ok((whole <= bytes.len()).then_some(whole))
        }
        _ => Err(format!("the server answers {line}").into()),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = match parse() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}");
            return Err(error);
        }
    };
    if std::env::args().len() <= 2 {
        // Started by `cargo bench` with nothing to measure.
        println!("{USAGE}");
        return Ok(());
    }
    let mut random = Random::new(1);
    let mut poll = Poll::new()?;
    let mut connections = Vec::new();
    for number in 0..options.connections {
        let stream = std::net::TcpStream::connect(options.address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry()
            .register(&mut stream, Token(number), interest)?;
        connections.push(Connection {
            stream,
            out: Vec::new(),
            written: 0,
            rest: Vec::new(),
            unanswered: 0,
            sent: Instant::now(),
        });
    }
    let (histogram, groups, seconds) = run(&options, &mut poll, &mut connections, &mut random)?;
    let micros = |percentile| histogram.value_at_percentile(percentile) as f64 / 1e3;
    println!(
        "{{\"operations\":{},\"seconds\":{seconds:.3},\"operations_per_second\":{:.0},\
         \"p50_us\":{:.1},\"p99_us\":{:.1},\"p999_us\":{:.1}}}",
        groups * options.group as u64,
        (groups * options.group as u64) as f64 / seconds,
        micros(50.0),
        micros(99.0),
        micros(99.9),
    );
    Ok(())
}

fn run(
    options: &Options,
    poll: &mut Poll,
    connections: &mut [Connection],
    random: &mut Random,
) -> Result<(Histogram<u64>, u64, f64), Box<dyn std::error::Error>> {
    let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
    let mut events = Events::with_capacity(1_024);
    let mut buffer = vec![0; 256 << 10];
    let mut groups = 0_u64;
    let start = Instant::now();
    let length = Duration::from_secs_f64(options.seconds);
    for connection in &mut *connections {
        connection.fill(options, random);
        connection.write()?;
    }
    let mut open = connections.len();
    while 0 < open {
        poll.poll(&mut events, Some(Duration::from_secs(30)))?;
        if events.is_empty() {
            return Err("no answer for 30 s".into());
        }
        for event in &events {
            let connection = &mut connections[event.token().0];
            if event.is_writable() {
                connection.write()?;
            }
            if connection.unanswered == 0 || !connection.read(&mut buffer)? {
                continue;
            }
            groups += 1;
            let nanos = connection.sent.elapsed().as_nanos();
            histogram.saturating_record(u64::try_from(nanos)?);
            if start.elapsed() < length {
                connection.fill(options, random);
                connection.write()?;
            } else {
                open -= 1;
            }
        }
    }
    Ok((histogram, groups, start.elapsed().as_secs_f64()))
}
