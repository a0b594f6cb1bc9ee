//! Listeners, and what stands between them and a flood of connections.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use crate::clock::Tick;
use crate::limits;
use crate::protocol::{Message, RefusalCode, Refused, VERSION_MAX, VERSION_MIN};
use crate::role::{Level, Link};
use bytes::BytesMut;
use mio::net::{TcpListener, TcpStream};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// Connections that the system completes before we accept them.
const BACKLOG: i32 = 1_024;

/// Silence after which the system asks a peer for a sign of life.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Interval of the system's further questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(4);

/// Congestion control within this machine, where there is no network to be careful with: the one
/// that every system has, and that sets no timer for each write as pacing ones (bbr) do.
#[cfg(target_os = "linux")]
const LOOPBACK_CONGESTION: &[u8] = b"reno";

/// Who comes in through a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// Clients, and fronts that send like clients.
    Client,
    /// The cluster's own links.
    Cluster,
}

/// A bound listener. Connections queue up in the system until a loop runs it.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    kind: ListenerKind,
}

impl Listener {
    /// Binds and listens. Port 0 lets the system choose. Whether an address beyond loopback is
    /// wanted is for the caller to ask, see [`needs_insecure`].
    pub fn bind(address: SocketAddr, kind: ListenerKind) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        // A restarted daemon takes its port over although old connections are still dying.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let socket = TcpListener::from_std(socket.into());
        let address = socket.local_addr()?;
        Ok(Self {
            socket,
            address,
            kind,
        })
    }

    /// Where it listens, with the port that the system chose.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

/// Whether others than this machine could connect to `address`: as long as there is no
/// authentication, the operator has to say that he knows.
#[must_use]
pub fn needs_insecure(address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}

/// A listener at work.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) listener: Listener,
    /// Open connections that came through it.
    pub(super) count: u32,
    /// There may be connections: an event said so, and no accept came back empty since.
    pub(super) ready: bool,
    /// When to try again after a failure.
    pub(super) retry_at: Option<Tick>,
    /// Gives way when descriptors run out, so that waiting peers can be told.
    spare: Option<File>,
    said_at: Option<Tick>,
}

/// What an attempt to accept brought.
#[derive(Debug)]
pub(super) enum Knock {
    Stream(TcpStream),
    /// One was refused, or vanished.
    Gone,
    /// Nobody is there, or nobody can be let in for now.
    Nobody,
}

impl Gate {
    pub(super) fn new(listener: Listener) -> Self {
        Self {
            listener,
            count: 0,
            ready: true,
            retry_at: None,
            spare: open_spare(),
            said_at: None,
        }
    }

    pub(super) fn socket(&mut self) -> &mut TcpListener {
        &mut self.listener.socket
    }

    pub(super) const fn link(&self) -> Link {
        match self.listener.kind {
            ListenerKind::Client => Link::Client,
            ListenerKind::Cluster => Link::Cluster,
        }
    }

    /// Takes one connection, if one is waiting.
    pub(super) fn knock(
        &mut self,
        count_max: u32,
        now: Tick,
        lines: &mut Vec<(Level, String)>,
    ) -> Knock {
        match self.listener.socket.accept() {
            Ok((stream, peer)) if self.count < count_max => match prepare(&stream, peer) {
                Ok(()) => Knock::Stream(stream),
                // It is gone already: some systems say so at its first option.
                Err(error) => {
                    self.say(
                        now,
                        lines,
                        &format!("connection lost at once error={error}"),
                    );
                    Knock::Gone
                }
            },
            Ok((stream, _)) => {
                self.say(now, lines, &format!("too many connections max={count_max}"));
                refuse_at_once(stream);
                Knock::Gone
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.ready = false;
                Knock::Nobody
            }
            Err(error)
                if error.kind() == ErrorKind::Interrupted
                    || error.kind() == ErrorKind::ConnectionAborted =>
            {
                Knock::Gone
            }
            Err(error) => {
                self.say(now, lines, &format!("cannot accept error={error}"));
                self.ready = false;
                self.retry_at = Some(now.plus_ms(limits::ACCEPT_PAUSE_MS));
                if is_out_of_descriptors(&error) {
                    self.turn_away();
                }
                Knock::Nobody
            }
        }
    }

    /// Tells those who wait that there is no room, by means of the spare descriptor. Without it
    /// they would hang until they give up, and the listener would report them for ever.
    fn turn_away(&mut self) {
        if self.spare.take().is_none() {
            self.spare = open_spare();
            return;
        }
        for _ in 0..limits::ACCEPTS_PER_TURN_MAX {
            match self.listener.socket.accept() {
                Ok((stream, _)) => refuse_at_once(stream),
                Err(_nobody_or_still_no_room) => break,
            }
        }
        self.spare = open_spare();
    }

    /// At most one line per interval: a flood of peers is no flood of lines.
    fn say(&mut self, now: Tick, lines: &mut Vec<(Level, String)>, text: &str) {
        if self
            .said_at
            .is_some_and(|at| now < at.plus_ms(limits::LISTENER_SAY_MS))
        {
            return;
        }
        self.said_at = Some(now);
        let address = self.listener.address;
        lines.push((Level::Warn, format!("{text} listener={address}")));
    }
}

/// Sets what every connection has, accepted or dialled.
pub(super) fn prepare(stream: &TcpStream, peer: SocketAddr) -> io::Result<()> {
    let socket = SockRef::from(stream);
    // Whole turns are written at once: there is nothing to wait for.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE_INTERVAL),
    )?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(Duration::from_millis(limits::WRITE_STALL_MS_MAX)))?;
    #[cfg(target_os = "linux")]
    if peer.ip().to_canonical().is_loopback() {
        // A system may not allow it; then its default goes on, which is right too, only dearer.
        drop(socket.set_tcp_congestion(LOOPBACK_CONGESTION));
    }
    Ok(())
}

/// Writes the frame that says why a connection ends.
pub(super) fn write_refusal(out: &mut BytesMut, code: RefusalCode, text: &str) {
    Message::Refused(Refused {
        code,
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        text,
    })
    .write(out);
}

/// Tells a peer that there is no room for it. A new socket takes the few bytes at once.
fn refuse_at_once(mut stream: TcpStream) {
    let mut frame = BytesMut::new();
    let text = "no room for another connection";
    write_refusal(&mut frame, RefusalCode::TooManyConnections, text);
    let told = stream
        .write(&frame)
        .and_then(|_| stream.shutdown(Shutdown::Write));
    if told.is_ok() {
        // Its hello, if it is here already: unread bytes would turn our close into a reset.
        let read = stream.read(&mut [0; 512]);
        drop(read);
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn open_spare() -> Option<File> {
    File::open("/dev/null").ok()
}
