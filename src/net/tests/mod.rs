//! A loop with a role that echoes and obeys, and peers of it over real sockets.
//!
//! Nothing sleeps here: a test waits for bytes, for the end of a stream or for what the role saw,
//! each with a bound. To be sure that the loop has seen something of one peer, a test makes
//! another peer's echo go round ([`Peer::echo`]): events of one turn are served together.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test waits for one thing and passes over all others, also future ones"
)]

mod frames;
mod life;
mod limits;
mod measure;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{Ended, Limits, Listener, ListenerKind, Setup, Signals, run};
use crate::clock::{Clock, Now, Tick};
use crate::limits as product;
use crate::model::LogNumber;
use crate::protocol::{CheckpointPart, Message, RefusalCode, split};
use crate::role::{
    CloseReason, DialId, DiskReply, DiskRequest, Effect, ExitCode, Input, Lanes, Level, Link,
    Outbox, PeerId, Role,
};

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the role saw.
#[derive(Debug, PartialEq)]
enum Seen {
    Opened(PeerId, Link),
    Text(PeerId, String),
    Closed(PeerId, CloseReason),
    Drained(PeerId),
    DialFailed(DialId, String),
    Disk(String),
    Stop,
    Elapsed,
    Ready,
    Said(Level, String),
}

/// When the role calls a peer established.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    AtOnce,
    AfterOneFrame,
    Never,
}

/// Echoes frames. Texts that begin with a slash are orders, see [`Echo::obey`].
struct Echo {
    trust: Trust,
    seen: Sender<Seen>,
    deadline: Option<Tick>,
}

impl Echo {
    fn note(&self, seen: Seen) {
        // A test that has seen enough does not listen any more.
        drop(self.seen.send(seen));
    }

    fn establish(peer: PeerId, out: &mut Outbox) {
        out.effect(Effect::Established {
            peer,
            frame_size_max: product::FRAME_SIZE_MAX,
        });
    }

    fn obey(&mut self, now: Now, peer: PeerId, order: &str, out: &mut Outbox) {
        let words: Vec<&str> = order.split(' ').collect();
        let number = |index: usize| words[index].parse::<u64>().unwrap();
        let size = |index: usize| words[index].parse::<usize>().unwrap();
        match words[0] {
            "/who" => tell(out, peer, &peer.0.to_string()),
            "/close" => out.effect(Effect::Close {
                peer,
                reason: "told to".to_owned(),
            }),
            "/pause" => out.effect(Effect::Pause {
                peer: PeerId(number(1)),
            }),
            "/resume" => out.effect(Effect::Resume {
                peer: PeerId(number(1)),
            }),
            "/share" => {
                for index in 0..number(1) {
                    tell(out, peer, &index.to_string());
                    out.share(peer, part(index, size(2)));
                }
            }
            "/dial" => out.effect(Effect::Dial {
                dial: DialId(number(1)),
                address: words[2].parse().unwrap(),
            }),
            "/disk" => {
                for _ in 0..number(1) {
                    out.effect(Effect::Disk(DiskRequest::MeasureFreeSpace));
                }
            }
            "/later" => self.deadline = Some(now.tick.plus_ms(number(1))),
            "/ready" => out.effect(Effect::Ready),
            "/again" => {
                tell(out, peer, "bye");
                out.effect(Effect::BeginAgain {
                    text: "told to".to_owned(),
                });
            }
            "/exit" => {
                tell(out, peer, "bye");
                out.effect(Effect::Exit {
                    code: ExitCode::Fenced,
                    text: "told to".to_owned(),
                });
            }
            _ => panic!("no such order: {order}"),
        }
    }
}

impl Role for Echo {
    fn handle(&mut self, now: Now, input: Input<'_>, out: &mut Outbox) {
        match input {
            Input::Opened { peer, link } => {
                self.note(Seen::Opened(peer, link));
                if let Link::Dialed(_) = link {
                    tell(out, peer, "hello");
                }
                if self.trust == Trust::AtOnce {
                    Self::establish(peer, out);
                }
            }
            Input::Frame { peer, frame } => {
                if self.trust == Trust::AfterOneFrame {
                    Self::establish(peer, out);
                }
                let message = Message::read(&frame).unwrap();
                match &message {
                    Message::StatusTold { json } if json.starts_with('/') => {
                        self.obey(now, peer, json, out);
                    }
                    Message::StatusTold { json } => {
                        self.note(Seen::Text(peer, (*json).to_owned()));
                        message.write(out.buffer(peer));
                    }
                    _ => message.write(out.buffer(peer)),
                }
            }
            Input::Closed { peer, reason } => self.note(Seen::Closed(peer, reason)),
            Input::Drained { peer } => self.note(Seen::Drained(peer)),
            Input::DialFailed { dial, error } => self.note(Seen::DialFailed(dial, error)),
            Input::Disk(DiskReply::FreeSpace { size }) => self.note(Seen::Disk(size.to_string())),
            Input::Disk(reply) => self.note(Seen::Disk(format!("{reply:?}"))),
            Input::Stop => {
                self.note(Seen::Stop);
                out.effect(Effect::Exit {
                    code: ExitCode::Ok,
                    text: String::new(),
                });
            }
            Input::Elapsed => {
                self.note(Seen::Elapsed);
                self.deadline = None;
            }
        }
    }

    fn end_turn(&mut self, _now: Now, _out: &mut Outbox) {}

    fn deadline(&self) -> Option<Tick> {
        self.deadline
    }
}

fn tell(out: &mut Outbox, peer: PeerId, text: &str) {
    out.send(peer, &Message::StatusTold { json: text });
}

/// A frame with bytes that depend on `seed`.
fn part(seed: u64, size: usize) -> Bytes {
    let bytes: Vec<u8> = (0..size).map(|index| pattern(seed, index)).collect();
    let mut frame = BytesMut::new();
    Message::CheckpointPart(CheckpointPart {
        log: LogNumber::new(1).unwrap(),
        size: u64::MAX,
        offset: seed,
        bytes: &bytes,
    })
    .write(&mut frame);
    frame.freeze()
}

fn pattern(seed: u64, index: usize) -> u8 {
    let [byte, ..] = (seed + 31 * (index as u64) + (index as u64 >> 8)).to_le_bytes();
    byte
}

/// How a test's loop differs from that of the product.
struct Options {
    kind: ListenerKind,
    trust: Trust,
    limits: Limits,
    lanes: Option<Arc<dyn Lanes>>,
    signals: Signals,
}

const USUAL: Options = Options {
    kind: ListenerKind::Client,
    trust: Trust::AtOnce,
    limits: Limits::standard(),
    lanes: None,
    signals: Signals::Ignored,
};

/// A loop on a thread of its own.
struct Running {
    address: SocketAddr,
    seen: Receiver<Seen>,
    thread: JoinHandle<Ended>,
}

fn start(options: Options) -> Running {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    start_on(Listener::bind(address, options.kind).unwrap(), options)
}

fn start_on(listener: Listener, options: Options) -> Running {
    let address = listener.local_addr();
    let (sender, seen) = mpsc::channel();
    let thread = thread::spawn(move || {
        let mut role = Echo {
            trust: options.trust,
            seen: sender.clone(),
            deadline: None,
        };
        let (ready, said) = (sender.clone(), sender);
        let setup = Setup {
            listeners: vec![listener],
            lanes: options.lanes,
            clock: Clock::start(),
            limits: options.limits,
            signals: options.signals,
            say: Box::new(move |level, text| {
                drop(said.send(Seen::Said(level, text.to_owned())));
            }),
            on_ready: Box::new(move || drop(ready.send(Seen::Ready))),
        };
        run(&mut role, setup)
    });
    Running {
        address,
        seen,
        thread,
    }
}

impl Running {
    fn connect(&self) -> Peer {
        Peer::of(TcpStream::connect(self.address).unwrap())
    }

    /// The next thing that the role saw and that `pick` knows.
    fn wait_for<T>(&self, mut pick: impl FnMut(&Seen) -> Option<T>) -> T {
        loop {
            let seen = self.seen.recv_timeout(PATIENCE).expect("nothing was seen");
            if let Some(found) = pick(&seen) {
                return found;
            }
        }
    }

    fn wait_closed(&self) -> (PeerId, CloseReason) {
        self.wait_for(|seen| match seen {
            Seen::Closed(peer, reason) => Some((*peer, reason.clone())),
            _ => None,
        })
    }

    fn wait_said(&self, level: Level) -> String {
        self.wait_for(|seen| match seen {
            Seen::Said(found, text) if *found == level => Some(text.clone()),
            _ => None,
        })
    }

    /// Ends the loop in an orderly way.
    fn stop(self) {
        let mut peer = self.connect();
        peer.order("/exit");
        assert_eq!(peer.text(), "bye");
        assert_eq!(self.end(), Ended::Exit(ExitCode::Fenced));
    }

    fn end(self) -> Ended {
        self.thread.join().unwrap()
    }
}

/// The other side of a connection.
struct Peer {
    stream: TcpStream,
}

/// One frame from the loop.
#[derive(Debug, PartialEq)]
enum Got {
    Text(String),
    Part(u64, usize),
    Refused(RefusalCode, String),
    End,
}

impl Peer {
    fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn order(&mut self, text: &str) {
        self.write(&text_frame(text));
    }

    fn get(&mut self) -> Got {
        let mut frame = vec![0; 4];
        if let Err(error) = self.stream.read_exact(&mut frame) {
            assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
            return Got::End;
        }
        let size = u32::from_le_bytes(*frame.first_chunk().unwrap()) as usize;
        frame.resize(size, 0);
        self.stream.read_exact(&mut frame[4..]).unwrap();
        let (frame, _) = split(&frame, u32::MAX).unwrap().unwrap();
        match Message::read(&frame).unwrap() {
            Message::StatusTold { json } => Got::Text(json.to_owned()),
            Message::Refused(refused) => Got::Refused(refused.code, refused.text.to_owned()),
            Message::CheckpointPart(part) => {
                let seed = part.offset;
                let wrong = (0..)
                    .zip(part.bytes)
                    .find(|(index, byte)| pattern(seed, *index) != **byte);
                assert_eq!(wrong, None, "seed {seed}");
                Got::Part(seed, part.bytes.len())
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    fn text(&mut self) -> String {
        match self.get() {
            Got::Text(text) => text,
            other => panic!("not a text: {other:?}"),
        }
    }

    /// Sends a text and waits for its echo.
    fn echo(&mut self, text: &str) {
        self.order(text);
        assert_eq!(self.text(), text);
    }

    /// Its number in the loop.
    fn id(&mut self) -> PeerId {
        self.order("/who");
        PeerId(self.text().parse().unwrap())
    }
}

fn text_frame(text: &str) -> BytesMut {
    let mut frame = BytesMut::new();
    Message::StatusTold { json: text }.write(&mut frame);
    frame
}
