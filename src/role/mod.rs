//! The contract between the cores (front, node, backup) and what moves their bytes (net, sim).
//!
//! A role is told what happened and says what should be done. It never does it: no socket, file,
//! thread, lock or clock is seen here. The event loop and the simulator drive the very same code.

mod disk;
mod memory;
mod moves;
mod outbox;
mod scrub;

use std::net::SocketAddr;

use crate::clock::{Now, Tick};
use crate::protocol::Frame;

pub use disk::{
    CheckpointInfo, CheckpointRecords, DiskFault, DiskReply, DiskRequest, FileName, Lane,
    LaneWorker, Lanes, LogReport, LogView,
};
pub use memory::MemoryPlan;
pub use moves::{ActivationPart, HandOverPart, Holding, ImageInfo, MoveEvent, Survey};
pub use outbox::{Outbox, Piece};
pub use scrub::{Scrub, ScrubPiece};

/// One connection of a role. Never used again after it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

/// A dial that a role asked for, by a number of the role's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialId(pub u64);

/// How a connection came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Accepted on the listener for clients.
    Client,
    /// Accepted on the listener for the cluster's own links.
    Cluster,
    /// Dialled on the role's demand.
    Dialed(DialId),
}

/// Why a connection ended, for the log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The other side closed it.
    Ended,
    /// The other side broke a rule; it was told so with a coded refusal where it could be.
    Broke(String),
    /// The system reported an error.
    Failed(String),
    /// This role asked for it.
    Asked,
}

/// Something happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A connection is there. On a dialled one the role speaks first, on others the peer does.
    Opened {
        /// The connection.
        peer: PeerId,
        /// How it came to be.
        link: Link,
    },
    /// A dial did not succeed.
    DialFailed {
        /// The dial.
        dial: DialId,
        /// What the system said.
        error: String,
    },
    /// A whole frame whose length and checksum were checked.
    Frame {
        /// From whom.
        peer: PeerId,
        /// The frame.
        frame: Frame<'a>,
    },
    /// A connection is gone. Comes once for each `Opened`, also after [`Effect::Close`].
    Closed {
        /// The connection.
        peer: PeerId,
        /// Why.
        reason: CloseReason,
    },
    /// So many bytes queued for the peer were taken that it may be served again.
    Drained {
        /// The connection.
        peer: PeerId,
    },
    /// A request to the disk is done.
    Disk(DiskReply),
    /// The operator asked for an orderly end.
    Stop,
    /// The deadline passed.
    Elapsed,
}

/// Something is to be done, besides sending.
#[derive(Debug)]
pub enum Effect {
    /// Connect. Answered by `Opened` with `Link::Dialed`, or by `DialFailed`.
    Dial {
        /// A number of the role's own.
        dial: DialId,
        /// Where to.
        address: SocketAddr,
    },
    /// The handshake is done: the limits of strangers no longer hold for this peer.
    Established {
        /// The connection.
        peer: PeerId,
        /// Bytes of a frame from it at most.
        frame_size_max: u32,
    },
    /// Send what is queued, then close.
    Close {
        /// The connection.
        peer: PeerId,
        /// For the log line; empty = nothing to say.
        reason: String,
    },
    /// Stop reading from the peer.
    Pause {
        /// The connection.
        peer: PeerId,
    },
    /// Read from the peer again.
    Resume {
        /// The connection.
        peer: PeerId,
    },
    /// A request to the disk. Requests of one lane are done in order.
    Disk(DiskRequest),
    /// One line for the operator.
    Say {
        /// How grave.
        level: Level,
        /// Lower-case, present tense, fields after.
        text: String,
    },
    /// The role answers from now on.
    Ready,
    /// End this life of the role and begin a new one, in the same process: another incarnation,
    /// with the disk opened anew.
    BeginAgain {
        /// Why, for the operator.
        text: String,
    },
    /// End the process.
    Exit {
        /// How.
        code: ExitCode,
        /// The last line for the operator; empty = nothing to say.
        text: String,
    },
}

/// How grave a line for the operator is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Good to know.
    Info,
    /// Something is off, and the role goes on.
    Warn,
    /// Needs an operator now.
    Alarm,
}

/// How a process ends. The numbers are documented in README.md and tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// All right.
    Ok = 0,
    /// Refused by the ledger.
    Refused = 1,
    /// The command line was wrong.
    Usage = 2,
    /// Could not connect.
    CannotConnect = 3,
    /// The outcome is unknown; retrying with the same id is safe.
    Unknown = 4,
    /// The cluster is not healthy.
    Unhealthy = 5,
    /// Damage, or an invariant that does not hold.
    Damage = 6,
    /// A threshold was not met.
    Threshold = 7,
    /// Fenced by another process with the same id. Do not restart.
    Fenced = 8,
}

/// A role: told what happened, says what is to be done.
///
/// One turn, always in this order:
/// 1. every ready input by `handle` (at most `limits::INPUTS_PER_TURN_MAX`);
/// 2. once `end_turn`;
/// 3. what the outbox holds is carried out;
/// 4. the driver sleeps until `deadline` (then `Input::Elapsed`) or the next input.
///
/// `now` never goes back in its tick. Between two turns all invariants of the role hold.
pub trait Role {
    /// Takes one input. Changes state and queues outputs; nothing is sent before the turn ends.
    fn handle(&mut self, now: Now, input: Input<'_>, out: &mut Outbox);

    /// Ends the turn: whatever was gathered (a block, frames to nodes) is completed and queued.
    fn end_turn(&mut self, now: Now, out: &mut Outbox);

    /// When the role wants `Input::Elapsed` if nothing else happens.
    fn deadline(&self) -> Option<Tick>;
}
