//! The messages. How each is read is in `decode`, how it is written in `write`.

use std::net::SocketAddr;

use super::RefusalCode;
use super::frame::FrameKind;
use super::records::{
    AuditRows, Members, NodeIds, Operations, Receipts, Rows, SlotRanges, SlotRuns, TermStarts,
};
use crate::limits::{AUDIT_ROW_COUNT_MAX, REFUSAL_TEXT_SIZE_MAX, TERM_START_COUNT_MAX};
use crate::model::{
    ClusterId, ENTRY_SIZE, Generation, Incarnation, LogEnd, LogNumber, LogTime, MoveNumber, NodeId,
    Place, RingEpoch, Seq, SlotRange, Term,
};

/// Bytes of an address: 16 of an IPv6 (or mapped IPv4) address, 2 of the port, 6 of zero.
pub(super) const ADDRESS_SIZE: usize = 24;

/// Who speaks on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PeerRole {
    /// A user of the ledger, or an operator's command.
    Client = 1,
    /// A front: balancer, router or both.
    Front = 2,
    /// A business node.
    Node = 3,
    /// The backup, with the authority.
    Backup = 4,
}

impl PeerRole {
    pub(super) const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Client),
            2 => Some(Self::Front),
            3 => Some(Self::Node),
            4 => Some(Self::Backup),
            _ => None,
        }
    }
}

/// First message of the side that dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Lowest version that it speaks.
    pub version_min: u16,
    /// Highest version that it speaks.
    pub version_max: u16,
    /// Who it is.
    pub role: PeerRole,
    /// The cluster it belongs to, if it knows.
    pub cluster: Option<ClusterId>,
    /// Its number, if it is a node.
    pub node: Option<NodeId>,
    /// This life of it.
    pub incarnation: Incarnation,
}

/// Answer to a [`Hello`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version to speak.
    pub version: u16,
    /// Who answers.
    pub role: PeerRole,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its time, Unix milliseconds.
    pub time_ms: u64,
    /// Bytes of a frame at most.
    pub frame_size_max: u32,
    /// Operations of a request at most.
    pub batch_count_max: u32,
    /// Longest deadline in milliseconds.
    pub deadline_ms_max: u32,
    /// Requests in flight on this connection at most.
    pub frames_in_flight_max: u32,
}

/// Why the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused<'a> {
    /// The reason.
    pub code: RefusalCode,
    /// Lowest version that the refusing side speaks.
    pub version_min: u16,
    /// Highest version that the refusing side speaks.
    pub version_max: u16,
    /// The reason in words, with what and where.
    pub text: &'a str,
}

/// A node presents itself and its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register<'a> {
    /// Its number.
    pub node: NodeId,
    /// Its log, if it has one.
    pub log: Option<LogNumber>,
    /// Identity of its copy of the log (0 when it has none): a copied directory has the same.
    pub copy: u128,
    /// What it last worked under.
    pub generation: Generation,
    /// What it last worked under.
    pub ring_epoch: RingEpoch,
    /// What it last worked under.
    pub term: Term,
    /// Where its log ends.
    pub end: LogEnd,
    /// The highest block that it knows to be committed.
    pub committed: Seq,
    /// Where fronts reach it.
    pub address: SocketAddr,
    /// With what weight it is to become a member if it is none yet; `None`: it does not ask to.
    pub join: Option<u32>,
    /// Its term history, the newest at most 1,024.
    pub terms: TermStarts<'a>,
}

/// The term, and where the backup's copy of the log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted<'a> {
    /// The node's log.
    pub log: LogNumber,
    /// Its new term.
    pub term: Term,
    /// Generation of the backup.
    pub generation: Generation,
    /// Version of the slot table.
    pub ring_epoch: RingEpoch,
    /// The cluster's hash key.
    pub ring_key: u128,
    /// Identity that the node's copy of the log has from now on.
    pub copy: u128,
    /// Where the backup's copy ends.
    pub end: LogEnd,
    /// The oldest byte of the log that the backup still has.
    pub first_offset: u64,
    /// Bytes of the newest checkpoint; 0 when there is none.
    pub checkpoint_size: u64,
    /// Bytes of a segment of this log.
    pub segment_size: u64,
    /// The backup's clock, Unix milliseconds.
    pub clock_ms: u64,
    /// Term history of the backup's copy, the newest at most 1,024.
    pub terms: TermStarts<'a>,
}

/// One block of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Append<'a> {
    /// The log.
    pub log: LogNumber,
    /// The sender's present term (the block may be of an older one).
    pub term: Term,
    /// The highest block that the sender knows to be committed.
    pub committed: Seq,
    /// The block as it lies in the log.
    pub block: &'a [u8],
}

/// The backup made a log durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The log.
    pub log: LogNumber,
    /// The term of the appends.
    pub term: Term,
    /// The last durable block.
    pub through: Seq,
    /// The backup's clock, Unix milliseconds.
    pub clock_ms: u64,
    /// Free bytes on the backup's disk.
    pub free_size: u64,
}

/// A sign of life of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Repeated in the answer.
    pub nonce: u64,
    /// The node's present term.
    pub term: Term,
    /// Last applied block.
    pub applied: Seq,
    /// Last committed block.
    pub committed: Seq,
    /// Accounts.
    pub account_count: u64,
    /// Remembered ids.
    pub id_count: u64,
    /// Unix milliseconds before which ids are forgotten.
    pub horizon_ms: u64,
    /// Free bytes on the node's disk; [`Self::FREE_SIZE_UNKNOWN`] before it was measured.
    pub free_size: u64,
    /// Sum of the digests of all slots as of `applied`.
    pub digest: u128,
    /// Bytes of memory of the tables.
    pub memory_size: u64,
    /// 0 starting, 1 serving, 2 draining.
    pub phase: u8,
}

impl Beat {
    /// The node has not measured yet what is free on its disk.
    pub const FREE_SIZE_UNKNOWN: u64 = u64::MAX;
}

/// The answer to a [`Beat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// Of the beat.
    pub nonce: u64,
    /// The term of the node's log: another than the node's own means that it is fenced.
    pub term: Term,
    /// The backup's clock, Unix milliseconds.
    pub clock_ms: u64,
    /// Free bytes on the backup's disk.
    pub free_size: u64,
}

/// Asks for bytes of a log or of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The log.
    pub log: LogNumber,
    /// First byte.
    pub offset: u64,
    /// Bytes at most.
    pub size_max: u32,
}

/// Whole blocks of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched<'a> {
    /// The log.
    pub log: LogNumber,
    /// Offset of the first block. Behind what was asked where a segment ended there.
    pub offset: u64,
    /// Whole blocks, end to end within one segment; none at the end of the log.
    pub blocks: &'a [u8],
}

/// A piece of a checkpoint file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointPart<'a> {
    /// The log.
    pub log: LogNumber,
    /// Bytes of the whole file; 0 when there is none.
    pub size: u64,
    /// Offset of these bytes in the file.
    pub offset: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// One entry by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRead {
    /// The place.
    pub place: Place,
    /// The entry; `None` when it is no longer kept or never was there.
    pub entry: Option<[u8; ENTRY_SIZE]>,
}

/// Slots with their owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRun {
    /// The slots.
    pub slots: SlotRange,
    /// The owning node; 0 = nobody.
    pub node: u32,
}

/// How a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MemberState {
    /// Never seen, or gone.
    Away = 0,
    /// Registered and talking.
    Present = 1,
}

/// One node of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub node: NodeId,
    /// Its log.
    pub log: LogNumber,
    /// How it stands.
    pub state: MemberState,
    /// Its term.
    pub term: Term,
    /// Its life; 0 before the first.
    pub incarnation: u128,
    /// Where fronts reach it; `None` before its first registration.
    pub address: Option<SocketAddr>,
}

/// The slot table and the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table<'a> {
    /// Version of the table.
    pub ring_epoch: RingEpoch,
    /// Generation of the backup.
    pub generation: Generation,
    /// The cluster's hash key.
    pub ring_key: u128,
    /// Nodes, by number.
    pub members: Members<'a>,
    /// Owners, by slot.
    pub runs: SlotRuns<'a>,
}

/// Sums of one currency over all logs, at one instant. Amounts in minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditRow {
    /// The currency.
    pub currency: u32,
    /// Accounts in this currency.
    pub account_count: u64,
    /// Credited from outside.
    pub issued: u128,
    /// Debited to outside.
    pub burned: u128,
    /// Left for payees on other nodes.
    pub sent: u128,
    /// Came from payers on other nodes.
    pub received: u128,
    /// Came back from payees that refused.
    pub returned: u128,
    /// Came with slots.
    pub adopted_in: i128,
    /// Went with slots.
    pub adopted_out: i128,
    /// Sum of available balances, taken from the accounts.
    pub available: i128,
    /// Sum of held balances, taken from the accounts.
    pub held: i128,
    /// What is missing (negative) or too much in the accounts. 0 unless money was made or lost.
    pub difference: i128,
}

/// A step of a move of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum MoveStep {
    /// The source's log gives the slots away.
    HandOver = 1,
    /// The target's log takes the state in; it is not served yet.
    Adopt = 2,
    /// The target's log serves the slots from here on.
    Activate = 3,
    /// The target's log drops what it took in.
    Drop = 4,
}

impl MoveStep {
    pub(super) const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::HandOver),
            2 => Some(Self::Adopt),
            3 => Some(Self::Activate),
            4 => Some(Self::Drop),
            _ => None,
        }
    }
}

/// The authority wants a step of a move from a node. What is done already is told again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveOrder<'a> {
    /// The step.
    pub step: MoveStep,
    /// The move.
    pub number: MoveNumber,
    /// The move whose image is used: another one's where it goes on under a new number.
    pub image: MoveNumber,
    /// Version of the slot table: for an activation the one that gives the slots to the node.
    pub ring_epoch: RingEpoch,
    /// The other node: the target for a hand-over, else the source.
    pub peer: NodeId,
    /// The log of the other node.
    pub peer_log: LogNumber,
    /// Where the hand-over lies; nowhere as long as it is only ordered.
    pub place: Place,
    /// Bytes of the image.
    pub image_size: u64,
    /// Digest of the image's bytes.
    pub image_digest: u64,
    /// Offset in the source's log that the image stands for.
    pub image_offset: u64,
    /// Digest of the slots' state.
    pub slot_digest: u128,
    /// Accounts in the image.
    pub account_count: u64,
    /// The source's horizon, Unix milliseconds.
    pub horizon_ms: u64,
    /// The source's log time at the hand-over.
    pub time: LogTime,
    /// The slots.
    pub ranges: SlotRanges<'a>,
}

/// A step of a move is committed in the node's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveTold {
    /// The step.
    pub step: MoveStep,
    /// The move.
    pub number: MoveNumber,
    /// The block that has it.
    pub seq: Seq,
}

/// Asks for bytes of the image of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveFileAsk {
    /// The move that the image was made for.
    pub image: MoveNumber,
    /// First byte.
    pub offset: u64,
    /// Bytes at most.
    pub size_max: u32,
}

/// A piece of the image of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveFilePart<'a> {
    /// The move that the image was made for.
    pub image: MoveNumber,
    /// Bytes of the whole file; 0 when there is none.
    pub size: u64,
    /// Offset of these bytes in the file.
    pub offset: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// A node has recorded the generation of a backup that is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded<'a> {
    /// The generation, durable at the node.
    pub generation: Generation,
    /// The cluster's hash key.
    pub ring_key: u128,
    /// Bytes of a segment of its log.
    pub segment_size: u64,
    /// Offset of the first block that it keeps.
    pub first_offset: u64,
    /// Bytes of its newest checkpoint; 0 when there is none.
    pub checkpoint_size: u64,
    /// The highest log number that it heard of; 0 = none.
    pub log_max: u16,
    /// The members that it heard of.
    pub members: NodeIds<'a>,
}

/// What an operator wants of the authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ClusterCommand {
    /// Shows what would move.
    Plan = 1,
    /// Takes a node's slots away and gives them to the others.
    Drain = 2,
    /// Takes a node that owns nothing out of the cluster.
    Remove = 3,
    /// Changes a node's share of the slots.
    Weight = 4,
    /// Begins no planned move any more.
    Pause = 5,
    /// Begins planned moves again.
    Resume = 6,
    /// Takes back a move that was only ordered.
    Cancel = 7,
    /// As a dry run only: shows what would move to a node that is not a member yet.
    Add = 8,
}

impl ClusterCommand {
    pub(super) const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Plan),
            2 => Some(Self::Drain),
            3 => Some(Self::Remove),
            4 => Some(Self::Weight),
            5 => Some(Self::Pause),
            6 => Some(Self::Resume),
            7 => Some(Self::Cancel),
            8 => Some(Self::Add),
            _ => None,
        }
    }
}

/// An operator's command to the authority. What a command has no use for is nothing or 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterAsk {
    /// The command.
    pub command: ClusterCommand,
    /// Only say what would happen.
    pub dry_run: bool,
    /// Which node.
    pub node: Option<NodeId>,
    /// What weight it gets.
    pub weight: u32,
    /// Which move.
    pub number: MoveNumber,
}

/// Any message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the FrameKind of its name")]
pub enum Message<'a> {
    Hello(Hello),
    Welcome(Welcome),
    Refused(Refused<'a>),
    Ping,
    Pong {
        time_ms: u64,
    },
    Goaway,
    Request {
        deadline_ms: u32,
        operations: Operations<'a>,
    },
    Receipts(Receipts<'a>),
    Rows {
        index: u16,
        rows: Rows<'a>,
    },
    StatusAsk,
    StatusTold {
        json: &'a str,
    },
    AuditAsk,
    AuditTold {
        rows: AuditRows<'a>,
    },
    ClusterAsk(ClusterAsk),
    ClusterTold {
        json: &'a str,
    },
    Register(Register<'a>),
    Granted(Granted<'a>),
    Append(Append<'a>),
    Appended(Appended),
    Resend {
        log: LogNumber,
        end: LogEnd,
    },
    Beat(Beat),
    Confirmed(Confirmed),
    Fetch(Fetch),
    Fetched(Fetched<'a>),
    CheckpointAsk(Fetch),
    CheckpointPart(CheckpointPart<'a>),
    EntryAsk {
        place: Place,
    },
    EntryRead(EntryRead),
    Follow,
    Table(Table<'a>),
    MoveOrder(MoveOrder<'a>),
    MoveTold(MoveTold),
    MoveFileAsk(MoveFileAsk),
    MoveFilePart(MoveFilePart<'a>),
    Recover {
        generation: Generation,
    },
    Recorded(Recorded<'a>),
}

impl Message<'_> {
    /// The kind of frame that carries it.
    #[must_use]
    pub const fn kind(&self) -> FrameKind {
        match self {
            Self::Hello(_) => FrameKind::Hello,
            Self::Welcome(_) => FrameKind::Welcome,
            Self::Refused(_) => FrameKind::Refused,
            Self::Ping => FrameKind::Ping,
            Self::Pong { .. } => FrameKind::Pong,
            Self::Goaway => FrameKind::Goaway,
            Self::Request { .. } => FrameKind::Request,
            Self::Receipts(_) => FrameKind::Receipts,
            Self::Rows { .. } => FrameKind::Rows,
            Self::StatusAsk => FrameKind::StatusAsk,
            Self::StatusTold { .. } => FrameKind::StatusTold,
            Self::AuditAsk => FrameKind::AuditAsk,
            Self::AuditTold { .. } => FrameKind::AuditTold,
            Self::ClusterAsk(_) => FrameKind::ClusterAsk,
            Self::ClusterTold { .. } => FrameKind::ClusterTold,
            Self::Register(_) => FrameKind::Register,
            Self::Granted(_) => FrameKind::Granted,
            Self::Append(_) => FrameKind::Append,
            Self::Appended(_) => FrameKind::Appended,
            Self::Resend { .. } => FrameKind::Resend,
            Self::Beat(_) => FrameKind::Beat,
            Self::Confirmed(_) => FrameKind::Confirmed,
            Self::Fetch(_) => FrameKind::Fetch,
            Self::Fetched(_) => FrameKind::Fetched,
            Self::CheckpointAsk(_) => FrameKind::CheckpointAsk,
            Self::CheckpointPart(_) => FrameKind::CheckpointPart,
            Self::EntryAsk { .. } => FrameKind::EntryAsk,
            Self::EntryRead(_) => FrameKind::EntryRead,
            Self::Follow => FrameKind::Follow,
            Self::Table(_) => FrameKind::Table,
            Self::MoveOrder(_) => FrameKind::MoveOrder,
            Self::MoveTold(_) => FrameKind::MoveTold,
            Self::MoveFileAsk(_) => FrameKind::MoveFileAsk,
            Self::MoveFilePart(_) => FrameKind::MoveFilePart,
            Self::Recover { .. } => FrameKind::Recover,
            Self::Recorded(_) => FrameKind::Recorded,
        }
    }
}

// The largest frame of each kind with a list fits in what its connection allows.
const _: () = {
    use super::frame::HEADER_SIZE;
    use super::records::{
        AUDIT_ROW_SIZE, MEMBER_SIZE, SLOT_RANGE_SIZE, SLOT_RUN_SIZE, TERM_START_SIZE,
    };
    use crate::limits;
    use crate::model::{OPERATION_SIZE, RECEIPT_SIZE, ROW_SIZE, to_u64};

    const fn fits(frame_size_max: u32, head_size: u64, count: u32, record_size: usize) -> bool {
        to_u64(HEADER_SIZE) + head_size + count as u64 * to_u64(record_size)
            <= frame_size_max as u64
    }
    let client = limits::FRAME_SIZE_MAX;
    assert!(fits(client, 8, limits::BATCH_COUNT_MAX, OPERATION_SIZE));
    assert!(fits(client, 8, limits::BATCH_COUNT_MAX, RECEIPT_SIZE));
    assert!(fits(client, 8, limits::LIST_ROW_COUNT_MAX, ROW_SIZE));
    assert!(fits(client, 8, AUDIT_ROW_COUNT_MAX, AUDIT_ROW_SIZE));
    assert!(fits(client, 4, limits::STATUS_SIZE_MAX, 1));
    assert!(fits(
        limits::HELLO_FRAME_SIZE_MAX,
        12,
        REFUSAL_TEXT_SIZE_MAX,
        1
    ));
    let members_size = to_u64(MEMBER_SIZE) * limits::NODE_COUNT_MAX as u64;
    let link = limits::LINK_FRAME_SIZE_MAX;
    assert!(fits(
        link,
        48 + members_size,
        limits::SLOT_COUNT,
        SLOT_RUN_SIZE
    ));
    assert!(fits(link, 136, TERM_START_COUNT_MAX, TERM_START_SIZE));
    assert!(fits(link, 112, limits::SLOT_COUNT, SLOT_RANGE_SIZE));
};
