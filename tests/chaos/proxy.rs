//! A TCP proxy that does to a link what networks do: late, slow, cut, silent one way, half
//! closed, damaged, said twice. One pair of threads for each connection.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use counterfoil::limits;
use counterfoil::model::Random;
use counterfoil::protocol::split;

/// How long a pump waits for bytes before it looks whether anything has changed.
const LOOK: Duration = Duration::from_millis(20);

/// Frames that are kept of each direction of a connection, to be said again.
const KEPT_FRAME_COUNT: usize = 64;

/// Bytes that are kept of the beginning of each connection, to be played again.
const KEPT_SIZE: usize = 256 << 10;

/// Beginnings of connections that are kept.
const KEPT_CONNECTION_COUNT: usize = 32;

/// How long a replayed connection may take to be closed by the other side.
const REPLAY: Duration = Duration::from_secs(4);

/// Which way bytes go, seen from the one who dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Up,
    Down,
}

/// What is done to the bytes of one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    Pass,
    /// They are kept and delivered late, when the fault is over.
    Hold,
    /// They vanish; the connection is cut when the fault is over, since bytes are missing.
    Drop,
    /// Each piece waits so long.
    Delay(Duration),
    /// At most so many bytes a second.
    Throttle(u64),
    /// Once in so many pieces a bit is flipped.
    Corrupt(u64),
    /// After a frame, once in so many, one of the last frames is said again.
    Repeat(u64),
}

/// A proxy in front of one listener.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    target: Option<SocketAddr>,
    up: Fault,
    down: Fault,
    /// New connections are turned away.
    is_cut: bool,
    has_ended: bool,
    /// Both sides of every connection, by number.
    connections: Vec<(u64, TcpStream, TcpStream)>,
    next: u64,
    /// Numbers of connections that have lost bytes.
    broken: Vec<u64>,
    /// Beginnings of what was sent up.
    recorded: VecDeque<(u64, Vec<u8>)>,
    random: Random,
    counts: Counts,
}

/// What a proxy has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) connections: u64,
    pub(crate) bytes: u64,
    pub(crate) dropped_bytes: u64,
    pub(crate) repeated_frames: u64,
    pub(crate) flipped_bits: u64,
    pub(crate) replayed_frames: u64,
}

impl Proxy {
    /// Binds a port; connections go nowhere before [`Proxy::aim`].
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                target: None,
                up: Fault::Pass,
                down: Fault::Pass,
                is_cut: false,
                has_ended: false,
                connections: Vec::new(),
                next: 0,
                broken: Vec::new(),
                recorded: VecDeque::new(),
                random: Random::new(u64::from(address.port())),
                counts: Counts::default(),
            }),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Self { address, shared }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where connections go from now on.
    pub(crate) fn aim(&self, target: SocketAddr) {
        self.shared.lock().target = Some(target);
    }

    pub(crate) fn counts(&self) -> Counts {
        self.shared.lock().counts
    }

    /// Does this to the bytes of one way from now on.
    pub(crate) fn fault(&self, way: Way, fault: Fault) {
        let mut state = self.shared.lock();
        match way {
            Way::Up => state.up = fault,
            Way::Down => state.down = fault,
        }
        self.shared.changed.notify_all();
    }

    /// Cuts all connections, and turns away new ones until [`Proxy::heal`].
    pub(crate) fn cut(&self) {
        let mut state = self.shared.lock();
        state.is_cut = true;
        state.close_all();
    }

    /// Cuts all connections, once.
    pub(crate) fn hang_up(&self) {
        self.shared.lock().close_all();
    }

    /// Says the end of one way, once; the other way goes on.
    pub(crate) fn half_close(&self, way: Way) {
        for (_, dialler, target) in &self.shared.lock().connections {
            let stream = match way {
                Way::Up => target,
                Way::Down => dialler,
            };
            // It may be closed already.
            stream.shutdown(Shutdown::Write).unwrap_or(());
        }
    }

    /// Ends all faults. Connections that have lost bytes are cut.
    pub(crate) fn heal(&self) {
        let mut state = self.shared.lock();
        (state.up, state.down) = (Fault::Pass, Fault::Pass);
        state.is_cut = false;
        let broken = std::mem::take(&mut state.broken);
        let is_broken = |number: &u64| broken.contains(number);
        for (_, dialler, target) in state.connections.iter().filter(|(n, ..)| is_broken(n)) {
            close(dialler, target);
        }
        self.shared.changed.notify_all();
    }

    /// Plays what earlier connections said from their first byte on, each on a new connection of
    /// its own, and reads until the other side closes it. The number of frames.
    pub(crate) fn replay(&self) -> u64 {
        let (target, recorded) = {
            let state = self.shared.lock();
            let target = state.target.expect("it was aimed");
            let all: Vec<Vec<u8>> = state.recorded.iter().map(|(_, b)| b.clone()).collect();
            (target, all)
        };
        let mut frames = 0;
        for bytes in recorded {
            frames += count_frames(&bytes);
            if let Ok(mut stream) = TcpStream::connect(target) {
                play(&mut stream, &bytes);
            }
        }
        self.shared.lock().counts.replayed_frames += frames;
        frames
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.has_ended = true;
        state.close_all();
        drop(state);
        self.shared.changed.notify_all();
        // Wakes the thread that accepts, which then sees the end.
        drop(TcpStream::connect(self.address));
    }
}

fn play(stream: &mut TcpStream, bytes: &[u8]) {
    let limit = Some(REPLAY);
    let ready = stream
        .set_read_timeout(limit)
        .and_then(|()| stream.set_write_timeout(limit));
    ready.expect("a timeout can be set");
    // The other side may close at any byte: that is its good right.
    stream.write_all(bytes).unwrap_or(());
    stream.shutdown(Shutdown::Write).unwrap_or(());
    let mut answer = [0; 4_096];
    while let Ok(count) = stream.read(&mut answer) {
        if count == 0 {
            break;
        }
    }
}

fn count_frames(mut bytes: &[u8]) -> u64 {
    let mut count = 0;
    while let Ok(Some((_, size))) = split(bytes, limits::LINK_FRAME_SIZE_MAX) {
        bytes = &bytes[size..];
        count += 1;
    }
    count
}

fn close(dialler: &TcpStream, target: &TcpStream) {
    for stream in [dialler, target] {
        // It may be closed already.
        stream.shutdown(Shutdown::Both).unwrap_or(());
    }
}

impl State {
    fn close_all(&mut self) {
        for (_, dialler, target) in &self.connections {
            close(dialler, target);
        }
    }

    const fn fault(&self, way: Way) -> Fault {
        match way {
            Way::Up => self.up,
            Way::Down => self.down,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a pump does not panic")
    }

    /// Waits so long, or until the proxy ends.
    fn wait(&self, time: Duration) {
        let state = self.lock();
        let waited = self
            .changed
            .wait_timeout_while(state, time, |state| !state.has_ended);
        drop(waited.expect("a pump does not panic"));
    }

    /// Waits while bytes of this way are held.
    fn wait_held(&self, way: Way) -> Fault {
        let held = |state: &mut State| state.fault(way) == Fault::Hold && !state.has_ended;
        let state = self.changed.wait_while(self.lock(), held);
        state.expect("a pump does not panic").fault(way)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let Ok(dialler) = stream else {
            continue;
        };
        let (target, is_cut, has_ended) = {
            let state = shared.lock();
            (state.target, state.is_cut, state.has_ended)
        };
        if has_ended {
            return;
        }
        let Some(target) = target.filter(|_| !is_cut) else {
            continue;
        };
        // Nobody there: the dialler sees its connection closed.
        if let Ok(target) = TcpStream::connect(target) {
            connect(&dialler, &target, shared).unwrap_or(());
        }
    }
}

fn connect(dialler: &TcpStream, target: &TcpStream, shared: &Arc<Shared>) -> std::io::Result<()> {
    for stream in [dialler, target] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK))?;
    }
    let pair = || Ok::<_, std::io::Error>((dialler.try_clone()?, target.try_clone()?));
    let ((up_from, up_to), (down_to, down_from), (a, b)) = (pair()?, pair()?, pair()?);
    let number = {
        let mut state = shared.lock();
        state.next += 1;
        state.counts.connections += 1;
        let number = state.next;
        state.connections.push((number, a, b));
        state.recorded.push_back((number, Vec::new()));
        if KEPT_CONNECTION_COUNT < state.recorded.len() {
            state.recorded.pop_front();
        }
        number
    };
    let ways = [(Way::Up, up_from, up_to), (Way::Down, down_from, down_to)];
    for (way, from, to) in ways {
        let pump = Pump {
            number,
            way,
            shared: Arc::clone(shared),
            tail: Vec::new(),
            frames: VecDeque::new(),
            frame_count: 0,
        };
        thread::spawn(move || pump.run(from, to));
    }
    Ok(())
}

/// One way of one connection.
struct Pump {
    number: u64,
    way: Way,
    shared: Arc<Shared>,
    /// Bytes of a frame that is not whole yet.
    tail: Vec<u8>,
    /// The last whole frames, but never the first of a connection.
    frames: VecDeque<Vec<u8>>,
    frame_count: u64,
}

impl Pump {
    fn run(mut self, mut from: TcpStream, mut to: TcpStream) {
        let mut bytes = vec![0; 64 << 10];
        loop {
            match from.read(&mut bytes) {
                Ok(0) => {
                    // The end is held like everything else. The other way may go on.
                    self.shared.wait_held(self.way);
                    to.shutdown(Shutdown::Write).unwrap_or(());
                    break;
                }
                Ok(count) => {
                    if self.forward(&mut bytes[..count], &mut to).is_err() {
                        close(&from, &to);
                        break;
                    }
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    if self.shared.lock().has_ended {
                        break;
                    }
                }
                Err(_) => {
                    close(&from, &to);
                    break;
                }
            }
        }
        let mut state = self.shared.lock();
        let (number, way) = (self.number, self.way);
        if way == Way::Down {
            state.connections.retain(|(other, ..)| *other != number);
        }
    }

    fn forward(&mut self, bytes: &mut [u8], to: &mut TcpStream) -> std::io::Result<()> {
        let fault = self.shared.wait_held(self.way);
        self.shared.lock().counts.bytes += bytes.len() as u64;
        match fault {
            Fault::Pass | Fault::Hold | Fault::Repeat(_) => (),
            Fault::Drop => {
                let mut state = self.shared.lock();
                state.counts.dropped_bytes += bytes.len() as u64;
                if !state.broken.contains(&self.number) {
                    state.broken.push(self.number);
                }
                return Ok(());
            }
            Fault::Delay(time) => self.shared.wait(time),
            Fault::Throttle(rate) => {
                let nanos = bytes.len() as u64 * 1_000_000_000 / rate;
                self.shared.wait(Duration::from_nanos(nanos));
            }
            Fault::Corrupt(odds) => {
                let mut state = self.shared.lock();
                if state.random.one_in(odds) {
                    let at = state.random.below(bytes.len() as u64 * 8);
                    bytes[usize::try_from(at / 8).expect("small")] ^= 1 << (at % 8);
                    state.counts.flipped_bits += 1;
                }
            }
        }
        self.record(bytes);
        let repeats = match fault {
            Fault::Repeat(odds) => Some(odds),
            Fault::Pass
            | Fault::Hold
            | Fault::Drop
            | Fault::Delay(_)
            | Fault::Throttle(_)
            | Fault::Corrupt(_) => None,
        };
        self.send(bytes, repeats, to)
    }

    fn record(&self, bytes: &[u8]) {
        if self.way == Way::Down {
            return;
        }
        let mut state = self.shared.lock();
        let mine = state
            .recorded
            .iter_mut()
            .find(|(number, _)| *number == self.number);
        if let Some((_, recorded)) = mine {
            let room = KEPT_SIZE.saturating_sub(recorded.len()).min(bytes.len());
            recorded.extend_from_slice(&bytes[..room]);
        }
    }

    /// Sends the bytes on, and says earlier frames again where a frame ends.
    fn send(&mut self, bytes: &[u8], odds: Option<u64>, to: &mut TcpStream) -> std::io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let before = self.tail.len();
            self.tail.extend_from_slice(rest);
            let whole = match split(&self.tail, limits::LINK_FRAME_SIZE_MAX) {
                Ok(Some((_, size))) => size,
                Ok(None) => return to.write_all(rest),
                Err(_) => {
                    // Damaged on purpose: frames cannot be told apart any more.
                    self.tail.clear();
                    return to.write_all(rest);
                }
            };
            let (head, behind) = rest.split_at(whole - before);
            to.write_all(head)?;
            rest = behind;
            self.tail.truncate(whole);
            let frame = std::mem::take(&mut self.tail);
            self.note(frame);
            if let Some(frame) = odds.and_then(|odds| self.draw(odds)) {
                to.write_all(&frame)?;
            }
        }
        Ok(())
    }

    fn note(&mut self, frame: Vec<u8>) {
        self.frame_count += 1;
        if self.frame_count == 1 {
            // The hello: a second one is an error that says nothing.
            return;
        }
        if self.frames.len() == KEPT_FRAME_COUNT {
            self.frames.pop_front();
        }
        self.frames.push_back(frame);
    }

    fn draw(&self, odds: u64) -> Option<Vec<u8>> {
        let mut state = self.shared.lock();
        if self.frames.is_empty() || !state.random.one_in(odds) {
            return None;
        }
        // Half of them the very last one, the others any of those that are kept.
        let count = self.frames.len();
        let index = if state.random.one_in(2) {
            count - 1
        } else {
            usize::try_from(state.random.below(count as u64)).expect("small")
        };
        state.counts.repeated_frames += 1;
        Some(self.frames[index].clone())
    }
}
