//! The event loop of all daemons: sockets, timers, signals and disk threads around one role.
//!
//! The only module that names mio. It moves bytes and enforces the limits on strangers; it knows
//! nothing of what frames mean beyond the refusals that it sends itself.

mod accept;
mod alarm;
mod budget;
mod connection;
mod deliver;
mod event_loop;
mod intake;
mod lanes;
mod peers;
mod send_queue;
mod signals;
mod sockets;
mod timers;
mod transmit;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use crate::clock::Clock;
use crate::limits;
use crate::role::{Lanes, Level};

pub use accept::{Listener, ListenerKind, needs_insecure};
pub use event_loop::{run, run_precise};

/// What a loop allows its peers. Settable downwards from [`Limits::standard`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of one listener.
    pub connection_count_max: u32,
    /// Milliseconds from the connection to the end of its handshake.
    pub handshake_ms_max: u64,
    /// Milliseconds from a frame's first byte to its last.
    pub frame_ms_max: u64,
    /// Milliseconds that a peer may leave queued bytes untaken.
    pub write_stall_ms_max: u64,
    /// Bytes queued for a client above which it is no longer read from.
    pub client_queue_size_high: u32,
    /// Bytes queued for a client at which it is read from again.
    pub client_queue_size_low: u32,
    /// Bytes that all clients together may make the loop keep before none of them begins another
    /// frame; above twice as many, whoever needs more is sent away.
    pub client_buffers_size_max: u32,
    /// Bytes queued for any peer above which its connection is closed.
    pub queue_size_max: u32,
}

impl Limits {
    /// The limits of the product.
    #[must_use]
    pub const fn standard() -> Self {
        Self {
            connection_count_max: limits::CONNECTION_COUNT_MAX,
            handshake_ms_max: limits::HANDSHAKE_MS_MAX,
            frame_ms_max: limits::FRAME_MS_MAX,
            write_stall_ms_max: limits::WRITE_STALL_MS_MAX,
            client_queue_size_high: limits::CLIENT_QUEUE_SIZE_HIGH,
            client_queue_size_low: limits::CLIENT_QUEUE_SIZE_LOW,
            client_buffers_size_max: limits::CLIENT_BUFFERS_SIZE_MAX,
            queue_size_max: limits::LINK_QUEUE_SIZE_MAX,
        }
    }

    /// These, where they are not above the standard ones.
    fn bounded(self) -> Self {
        let standard = Self::standard();
        let high = self
            .client_queue_size_high
            .min(standard.client_queue_size_high);
        Self {
            connection_count_max: self.connection_count_max.min(standard.connection_count_max),
            handshake_ms_max: self.handshake_ms_max.min(standard.handshake_ms_max),
            frame_ms_max: self.frame_ms_max.min(standard.frame_ms_max),
            write_stall_ms_max: self.write_stall_ms_max.min(standard.write_stall_ms_max),
            client_queue_size_high: high,
            client_queue_size_low: self
                .client_queue_size_low
                .min(standard.client_queue_size_low)
                .min(high),
            client_buffers_size_max: self
                .client_buffers_size_max
                .min(standard.client_buffers_size_max),
            queue_size_max: self.queue_size_max.min(standard.queue_size_max),
        }
    }
}

/// Whether the loop answers to the process's signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signals {
    /// SIGTERM and SIGINT become `Input::Stop`; a second SIGINT ends the process with 130.
    Handled,
    /// They are somebody else's: the loop is one of several in its process.
    Ignored,
}

/// Takes lines for the operator.
pub type Say<'a> = Box<dyn FnMut(Level, &str) + 'a>;

/// What a loop is given beside its role.
pub struct Setup<'a> {
    /// Where peers come in.
    pub listeners: Vec<Listener>,
    /// The disk, for roles that have one.
    pub lanes: Option<Arc<dyn Lanes>>,
    /// The machine's clocks.
    pub clock: Clock,
    /// What peers are allowed.
    pub limits: Limits,
    /// Whether signals are answered.
    pub signals: Signals,
    /// Takes the lines for the operator.
    pub say: Say<'a>,
    /// Called when the role says that it is ready.
    pub on_ready: Box<dyn FnMut() + 'a>,
}

impl fmt::Debug for Setup<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Setup")
            .field("listeners", &self.listeners)
            .field("limits", &self.limits)
            .field("signals", &self.signals)
            .finish_non_exhaustive()
    }
}
