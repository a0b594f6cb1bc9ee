//! The second half of a turn for the sockets: bytes leave, connections end.

use std::collections::VecDeque;
use std::io;

use bytes::BytesMut;
use mio::Interest;

use super::budget::Verdict;
use super::connection::Phase;
use super::peers::token;
use super::send_queue::{self, Written};
use super::sockets::Sockets;
use crate::clock::Tick;
use crate::model::to_usize;
use crate::role::{CloseReason, Input, Link, PeerId, Piece};

impl Sockets {
    /// Sends a turn's bytes to one peer, straight from the role's buffers as far as the socket
    /// takes them. Bytes for a peer that is gone are dropped.
    pub(super) fn send(
        &mut self,
        peer: PeerId,
        pieces: &mut VecDeque<Piece>,
        tail: &mut BytesMut,
        now: Tick,
    ) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        if !connection.is_open() || connection.writing.broken.is_some() {
            return;
        }
        if connection.writing.blocked || !connection.queue.is_empty() {
            connection.queue.append(pieces, tail);
            self.flush(peer, now);
            return;
        }
        let result = send_queue::write(&mut connection.stream, pieces, tail);
        connection.queue.append(pieces, tail);
        self.after_write(peer, result, now);
    }

    /// Writes what is queued for those whose sockets have room again.
    pub(super) fn flush_writable(&mut self, now: Tick) {
        for peer in std::mem::take(&mut self.writable) {
            self.flush(peer, now);
        }
    }

    /// Ends those that this turn found to be over.
    pub(super) fn carry_out_endings(&mut self, now: Tick) {
        for (peer, ending) in std::mem::take(&mut self.endings) {
            self.end(peer, ending, now);
        }
    }

    /// Writes what is queued, unless the socket is known to be full.
    pub(super) fn flush(&mut self, peer: PeerId, now: Tick) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        if connection.writing.broken.is_some() {
            return;
        }
        let result = if connection.writing.blocked {
            Ok(Written {
                size: 0,
                blocked: true,
            })
        } else {
            connection.queue.write(&mut connection.stream)
        };
        self.after_write(peer, result, now);
    }

    /// Ends a connection together with the process: nobody hears of it, what is queued leaves.
    pub(super) fn leave(&mut self, peer: PeerId, now: Tick) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        match connection.phase {
            Phase::Dialing(_) => self.remove(peer),
            Phase::Strange | Phase::Established if connection.writing.broken.is_some() => {
                self.remove(peer);
            }
            Phase::Strange | Phase::Established => {
                connection.phase = Phase::Flushing;
                self.flush(peer, now);
            }
            Phase::Flushing | Phase::Lingering => (),
        }
    }

    /// Whether a connection that is over still has bytes to send.
    pub(super) fn is_flushing(&self) -> bool {
        let mut peers = self.peers.iter();
        peers.any(|(_, connection)| connection.phase == Phase::Flushing)
    }

    fn after_write(&mut self, peer: PeerId, result: io::Result<Written>, now: Tick) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        let is_open = connection.is_open();
        let watched = result.and_then(|written| {
            connection.note_written(written, now, self.limits.write_stall_ms_max);
            let full = !connection.queue.is_empty();
            if full != connection.writing.interest {
                let interest = if full {
                    Interest::READABLE | Interest::WRITABLE
                } else {
                    Interest::READABLE
                };
                self.registry
                    .reregister(&mut connection.stream, token(peer), interest)?;
                connection.writing.interest = full;
            }
            Ok(())
        });
        let is_flushed = connection.phase == Phase::Flushing && connection.queue.is_empty();
        let may_read = connection.may_read();
        let broken = watched.as_ref().err().filter(|_| may_read);
        if let Some(error) = broken {
            connection.note_broken(error);
        }
        let verdict = self.recount(peer);
        match watched {
            Ok(()) if is_open && verdict == Verdict::TooMuch => {
                let text = "there is no memory for more answers that clients leave untaken";
                self.fail(peer, CloseReason::Broke(text.to_owned()));
            }
            Ok(()) if is_open => self.keep_bounds(peer),
            Ok(()) => {
                if is_flushed {
                    self.finish(peer, now);
                }
            }
            Err(_noted) if may_read => self.list(peer),
            Err(error) if is_open => self.fail(peer, CloseReason::Failed(error.to_string())),
            Err(_already_over_for_the_role) => self.remove(peer),
        }
    }

    /// Nobody's queue grows without end: a client that does not take its answers is not listened
    /// to, and a peer that is far beyond that is cut off.
    fn keep_bounds(&mut self, peer: PeerId) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        let size = connection.queue.size();
        if to_usize(u64::from(self.limits.queue_size_max)) < size {
            let text = format!("left {size} bytes untaken");
            self.fail(peer, CloseReason::Broke(text));
            return;
        }
        let high = to_usize(u64::from(self.limits.client_queue_size_high));
        let low = to_usize(u64::from(self.limits.client_queue_size_low));
        if connection.link == Link::Client && high < size {
            connection.hold.by_queue = true;
            connection.deadlines.frame = None;
        } else if connection.hold.by_queue && size <= low {
            connection.hold.by_queue = false;
            self.notices.push_back(Input::Drained { peer });
            self.list(peer);
        }
        self.arm(peer);
    }
}
