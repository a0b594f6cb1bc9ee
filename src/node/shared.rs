//! What all phases of a node share, and how a node ends.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;

use crate::clock::Now;
use crate::model::{
    ClusterId, Generation, LogEnd, LogNumber, LogTime, RingEpoch, Seq, Term, TermStart,
};
use crate::protocol::{
    Beat, Granted, Message, MessageError, Register, TermStarts, put_term_starts,
};
use crate::role::{
    CheckpointInfo, DiskFault, DiskRequest, Effect, ExitCode, FileName, Level, LogView, Outbox,
    PeerId,
};

use super::clock::LogClock;
use super::fronts::Fronts;
use super::identity::{Identity, Known};
use super::link::BackupLink;
use super::moves::Order;
use super::options::NodeOptions;
use super::slots::SlotTable;

/// Why this life of the node ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Halt {
    pub(super) end: End,
    pub(super) text: String,
}

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The process ends.
    Exit(ExitCode),
    /// It begins again as a new incarnation.
    Again,
}

impl Halt {
    /// Damage, or an invariant that does not hold: an operator has to look.
    pub(super) fn damage(text: impl Into<String>) -> Self {
        Self {
            end: End::Exit(ExitCode::Damage),
            text: text.into(),
        }
    }

    /// Another process has this node's log.
    pub(super) fn fenced(text: impl Into<String>) -> Self {
        Self {
            end: End::Exit(ExitCode::Fenced),
            text: text.into(),
        }
    }

    /// The log was taken over while this process slept or was cut off.
    pub(super) fn taken_over(text: impl Into<String>) -> Self {
        Self {
            end: End::Again,
            text: text.into(),
        }
    }

    /// The backup is made again from what lies on the nodes' disks.
    pub(super) fn recovering(text: impl Into<String>) -> Self {
        Self {
            end: End::Again,
            text: text.into(),
        }
    }

    /// The options do not fit the cluster.
    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self {
            end: End::Exit(ExitCode::Usage),
            text: text.into(),
        }
    }
}

/// A request that the disk could not carry out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure<'a> {
    pub(super) request: &'a DiskRequest,
    pub(super) fault: &'a DiskFault,
    pub(super) text: &'a str,
}

/// A grant that is kept beyond its frame.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) log: LogNumber,
    pub(super) term: Term,
    pub(super) generation: Generation,
    pub(super) ring_epoch: RingEpoch,
    pub(super) ring_key: u128,
    pub(super) copy: u128,
    pub(super) end: LogEnd,
    pub(super) first_offset: u64,
    pub(super) checkpoint_size: u64,
    pub(super) segment_size: u64,
    pub(super) terms: Vec<TermStart>,
}

impl Grant {
    pub(super) fn read(granted: &Granted<'_>) -> Result<Self, MessageError> {
        Ok(Self {
            log: granted.log,
            term: granted.term,
            generation: granted.generation,
            ring_epoch: granted.ring_epoch,
            ring_key: granted.ring_key,
            copy: granted.copy,
            end: granted.end,
            first_offset: granted.first_offset,
            checkpoint_size: granted.checkpoint_size,
            segment_size: granted.segment_size,
            terms: granted.terms.iter().collect::<Result<_, _>>()?,
        })
    }
}

/// The node's own log, as far as it is known before it is replayed.
#[derive(Clone, Debug)]
pub(super) struct LocalLog {
    pub(super) log: LogNumber,
    pub(super) segment_size: u64,
    pub(super) first_offset: u64,
    /// Where it ends: what was found, cut or appended. What was appended may not be durable yet.
    pub(super) end: LogEnd,
    /// The highest block that it names as committed.
    pub(super) committed: Seq,
    pub(super) terms: Vec<TermStart>,
    pub(super) checkpoint: Option<CheckpointInfo>,
    /// Something that is not zero lies behind `end`: it is put aside before the first append.
    pub(super) dirty: bool,
    /// A block that is committed does not verify here.
    pub(super) damaged: bool,
    pub(super) view: Arc<dyn LogView>,
}

/// What a registration says about the node's log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing<'a> {
    /// `None`: there is no log here that could go on.
    pub(super) log: Option<LogNumber>,
    pub(super) end: LogEnd,
    pub(super) committed: Seq,
    pub(super) terms: &'a [TermStart],
}

impl Standing<'static> {
    /// Of an empty folder.
    pub(super) const EMPTY: Self = Self {
        log: None,
        end: LogEnd {
            seq: Seq(0),
            term: Term(0),
            chain: 0,
            offset: 0,
            time: LogTime(0),
        },
        committed: Seq(0),
        terms: &[],
    };
}

/// What all phases share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: NodeOptions,
    pub(super) link: BackupLink,
    pub(super) fronts: Fronts,
    /// The cluster, once folder, options or backup said it.
    pub(super) cluster: Option<ClusterId>,
    /// The newest identity: saved, or being saved.
    pub(super) identity: Option<Identity>,
    /// What lies beside it in its file.
    pub(super) known: Known,
    /// Identities that are being saved.
    pub(super) saving_count: u32,
    pub(super) clock: LogClock,
    pub(super) slots: Option<SlotTable>,
    /// Orders that came on the present connection and were not looked at.
    pub(super) orders: VecDeque<Order>,
    /// Free bytes here and on the backup, as last heard.
    pub(super) free_size: Option<u64>,
    pub(super) backup_free_size: Option<u64>,
}

impl Shared {
    pub(super) fn new(options: NodeOptions) -> Self {
        Self {
            options,
            link: BackupLink::new(),
            fronts: Fronts::new(),
            cluster: options.cluster,
            identity: None,
            known: Known::default(),
            saving_count: 0,
            clock: LogClock::default(),
            slots: None,
            orders: VecDeque::new(),
            free_size: None,
            backup_free_size: None,
        }
    }

    /// Saves the identity. The link is in use again once that is done.
    pub(super) fn save_identity(&mut self, identity: Identity, out: &mut Outbox) {
        self.identity = Some(identity);
        self.saving_count += 1;
        out.effect(Effect::Disk(DiskRequest::SaveFile {
            name: FileName::Identity,
            bytes: identity.to_file(&self.known),
        }));
    }

    /// Presents the node and its log to the backup.
    pub(super) fn register(&mut self, peer: PeerId, standing: Standing<'_>, out: &mut Outbox) {
        self.link.registered(peer);
        let mut terms = BytesMut::new();
        put_term_starts(&mut terms, standing.terms);
        let last = self.identity;
        let register = Register {
            node: self.options.id,
            log: standing.log,
            copy: match (standing.log, last) {
                (Some(_), Some(identity)) => identity.copy,
                (Some(_) | None, _) => 0,
            },
            generation: last.map_or(Generation(0), |identity| identity.generation),
            ring_epoch: last.map_or(RingEpoch(0), |identity| identity.ring_epoch),
            term: last.map_or(Term(0), |identity| identity.term),
            end: standing.end,
            committed: standing.committed,
            address: self.options.address,
            join: self.options.join,
            terms: TermStarts::new(&terms).expect("whole records"),
        };
        out.send(peer, &Message::Register(register));
    }

    /// Sends a beat; its nonce begins a round trip.
    pub(super) fn beat(&mut self, peer: PeerId, now: Now, beat: Beat, out: &mut Outbox) {
        let nonce = self.link.begin_confirm(now);
        let free_size = self.free_size.unwrap_or(Beat::FREE_SIZE_UNKNOWN);
        out.send(
            peer,
            &Message::Beat(Beat {
                nonce,
                free_size,
                ..beat
            }),
        );
    }
}

pub(super) fn say(out: &mut Outbox, level: Level, text: impl Into<String>) {
    out.effect(Effect::Say {
        level,
        text: text.into(),
    });
}
