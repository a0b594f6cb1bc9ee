//! One TCP connection of the blocking client: reads and writes that never block for long.
//!
//! A write that blocked for as long as the front does not read could wait for ever, since the
//! front stops reading while its answers are not taken. So both directions have time-outs.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::limits::{CLIENT_BUFFER_SIZE, FRAME_SIZE_MAX};
use crate::model::to_usize;

/// How long a write may wait for room.
const WRITE_TIMEOUT: Duration = Duration::from_millis(5);

/// Longest single wait for something to read. Waits are powers of two of milliseconds up to this,
/// so that the time-out of the socket seldom changes.
const READ_MS_EXPONENT_MAX: u32 = 10;

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    Nothing,
    Bytes,
    End,
}

#[derive(Debug)]
pub(super) struct Wire {
    socket: TcpStream,
    address: SocketAddr,
    /// Zero: reads and writes do not wait at all.
    read_timeout: Duration,
    buffer: Vec<u8>,
    filled: usize,
}

impl Wire {
    pub(super) fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let socket = TcpStream::connect_timeout(&address, timeout)?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            address,
            read_timeout: Duration::ZERO,
            buffer: Vec::new(),
            filled: 0,
        })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends what the connection takes; 0 when it takes nothing now.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.socket.write(bytes) {
            Ok(0) => Err(ErrorKind::WriteZero.into()),
            Ok(size) => Ok(size),
            Err(error) if is_pause(&error) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Waits for something to read, no longer than `timeout` and about a second.
    pub(super) fn receive(&mut self, timeout: Duration) -> io::Result<Came> {
        self.set_timeout(timeout)?;
        if self.filled == self.buffer.len() {
            // Longer frames than `FRAME_SIZE_MAX` are refused by their first bytes.
            let size = (self.buffer.len() << 1).max(CLIENT_BUFFER_SIZE);
            let size_max = to_usize(u64::from(FRAME_SIZE_MAX));
            assert!(self.filled < size_max);
            self.buffer.resize(size.min(size_max), 0);
        }
        match self.socket.read(&mut self.buffer[self.filled..]) {
            Ok(0) => Ok(Came::End),
            Ok(size) => {
                self.filled += size;
                Ok(Came::Bytes)
            }
            Err(error) if is_pause(&error) => Ok(Came::Nothing),
            Err(error) => Err(error),
        }
    }

    /// What was read and not consumed yet.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// The first `size` bytes are done with.
    pub(super) fn consume(&mut self, size: usize) {
        self.buffer.copy_within(size..self.filled, 0);
        self.filled -= size;
    }

    fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        let timeout = round_down(timeout);
        if timeout == self.read_timeout {
            return Ok(());
        }
        if timeout.is_zero() || self.read_timeout.is_zero() {
            self.socket.set_nonblocking(timeout.is_zero())?;
        }
        if !timeout.is_zero() {
            self.socket.set_read_timeout(Some(timeout))?;
        }
        self.read_timeout = timeout;
        Ok(())
    }
}

/// The largest power of two of milliseconds that is no longer; zero below one millisecond.
fn round_down(timeout: Duration) -> Duration {
    let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let exponent = ms.checked_ilog2().map(|bit| bit.min(READ_MS_EXPONENT_MAX));
    exponent.map_or(Duration::ZERO, |exponent| {
        Duration::from_millis(1 << exponent)
    })
}

/// Nothing is wrong: nothing to read or no room to write yet.
fn is_pause(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_powers_of_two() {
        for (from_us, to_ms) in [(0, 0), (999, 0), (1_000, 1), (3_999, 2), (u64::MAX, 1_024)] {
            let rounded = round_down(Duration::from_micros(from_us));
            assert_eq!(rounded, Duration::from_millis(to_ms), "{from_us} us");
        }
    }
}
