//! The messages, each read from a whole frame in one go.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::frame::{Frame, FrameKind};
use super::read::Reader;
use super::records::{
    AUDIT_ROW_SIZE, AuditRows, MEMBER_SIZE, Members, Operations, Receipts, Rows, SLOT_RUN_SIZE,
    SlotRuns, TERM_START_SIZE, TermStarts,
};
use super::{HELLO_MAGIC, MessageError, RefusalCode};
use crate::limits;
use crate::model::{
    ClusterId, ENTRY_SIZE, Generation, Incarnation, LogEnd, LogNumber, LogTime, NodeId,
    OPERATION_SIZE, Place, RECEIPT_SIZE, ROW_SIZE, RingEpoch, Seq, SlotRange, Term,
};

/// Beginnings of terms that a registration or a grant carries at most: the newest ones.
pub(super) const TERM_START_COUNT_MAX: u32 = 1_024;

/// Bytes of the text of a refusal at most.
pub(super) const REFUSAL_TEXT_SIZE_MAX: u32 = 400;

/// Rows in one frame of the audit at most.
pub(super) const AUDIT_ROW_COUNT_MAX: u32 = 4_096;

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
    const fn from_number(number: u8) -> Option<Self> {
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
    /// Free bytes on the node's disk.
    pub free_size: u64,
    /// Sum of the digests of all slots as of `applied`.
    pub digest: u128,
    /// Bytes of memory of the tables.
    pub memory_size: u64,
    /// 0 starting, 1 serving, 2 draining.
    pub phase: u8,
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
}

impl<'a> Message<'a> {
    /// Reads the message of a frame. Nothing may be left over.
    pub fn read(frame: &Frame<'a>) -> Result<Self, MessageError> {
        let mut reader = Reader::new(frame.body);
        let message = Self::read_client(frame.header.kind, &mut reader)?;
        reader.finish()?;
        Ok(message)
    }

    fn read_client(kind: FrameKind, reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        Ok(match kind {
            FrameKind::Hello => Self::Hello(Hello::read(reader)?),
            FrameKind::Welcome => Self::Welcome(Welcome::read(reader)?),
            FrameKind::Refused => Self::Refused(Refused::read(reader)?),
            FrameKind::Ping => Self::Ping,
            FrameKind::Pong => Self::Pong {
                time_ms: reader.u64()?,
            },
            FrameKind::Goaway => Self::Goaway,
            FrameKind::Request => {
                let deadline_ms = reader.u32()?;
                reader.reserved(4)?;
                let records = reader.records(OPERATION_SIZE, limits::BATCH_COUNT_MAX)?;
                Self::Request {
                    deadline_ms,
                    operations: Operations(records),
                }
            }
            FrameKind::Receipts => Self::Receipts(Receipts(
                reader.records(RECEIPT_SIZE, limits::BATCH_COUNT_MAX)?,
            )),
            FrameKind::Rows => {
                let index = reader.u16()?;
                reader.reserved(6)?;
                let records = reader.records(ROW_SIZE, limits::LIST_ROW_COUNT_MAX)?;
                Self::Rows {
                    index,
                    rows: Rows(records),
                }
            }
            FrameKind::StatusAsk => Self::StatusAsk,
            FrameKind::StatusTold => Self::StatusTold {
                json: reader.text(limits::STATUS_SIZE_MAX)?,
            },
            FrameKind::AuditAsk => Self::AuditAsk,
            FrameKind::AuditTold => {
                let records = reader.records(AUDIT_ROW_SIZE, AUDIT_ROW_COUNT_MAX)?;
                Self::AuditTold {
                    rows: AuditRows(records),
                }
            }
            FrameKind::Register
            | FrameKind::Granted
            | FrameKind::Append
            | FrameKind::Appended
            | FrameKind::Resend
            | FrameKind::Beat
            | FrameKind::Confirmed
            | FrameKind::Fetch
            | FrameKind::Fetched
            | FrameKind::CheckpointAsk
            | FrameKind::CheckpointPart
            | FrameKind::EntryAsk
            | FrameKind::EntryRead
            | FrameKind::Follow
            | FrameKind::Table => return Self::read_link(kind, reader),
        })
    }

    fn read_link(kind: FrameKind, reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        Ok(match kind {
            FrameKind::Register => Self::Register(Register::read(reader)?),
            FrameKind::Granted => Self::Granted(Granted::read(reader)?),
            FrameKind::Append => Self::Append(Append::read(reader)?),
            FrameKind::Appended => Self::Appended(Appended::read(reader)?),
            FrameKind::Resend => {
                let log = log_number(reader)?;
                reader.reserved(6)?;
                Self::Resend {
                    log,
                    end: log_end(reader)?,
                }
            }
            FrameKind::Beat => Self::Beat(Beat::read(reader)?),
            FrameKind::Confirmed => Self::Confirmed(Confirmed::read(reader)?),
            FrameKind::Fetch => Self::Fetch(Fetch::read(reader)?),
            FrameKind::Fetched => Self::Fetched(Fetched::read(reader)?),
            FrameKind::CheckpointAsk => Self::CheckpointAsk(Fetch::read(reader)?),
            FrameKind::CheckpointPart => Self::CheckpointPart(CheckpointPart::read(reader)?),
            FrameKind::EntryAsk => Self::EntryAsk {
                place: Place(reader.u64()?),
            },
            FrameKind::EntryRead => Self::EntryRead(EntryRead::read(reader)?),
            FrameKind::Follow => Self::Follow,
            FrameKind::Table => Self::Table(Table::read(reader)?),
            FrameKind::Hello
            | FrameKind::Welcome
            | FrameKind::Refused
            | FrameKind::Ping
            | FrameKind::Pong
            | FrameKind::Goaway
            | FrameKind::Request
            | FrameKind::Receipts
            | FrameKind::Rows
            | FrameKind::StatusAsk
            | FrameKind::StatusTold
            | FrameKind::AuditAsk
            | FrameKind::AuditTold => return Err(MessageError::Field { at: 8 }),
        })
    }
}

impl Hello {
    fn read(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        if reader.u32()? != HELLO_MAGIC {
            return Err(reader.wrong(4));
        }
        let version_min = reader.u16()?;
        let version_max = reader.u16()?;
        let role = role(reader)?;
        reader.reserved(3)?;
        let node = NodeId::new(reader.u32()?);
        let cluster = optional_cluster(reader)?;
        let incarnation = incarnation(reader)?;
        Ok(Self {
            version_min,
            version_max,
            role,
            cluster,
            node,
            incarnation,
        })
    }
}

impl Welcome {
    fn read(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let version = reader.u16()?;
        let role = role(reader)?;
        reader.reserved(5)?;
        Ok(Self {
            version,
            role,
            cluster: ClusterId::new(reader.u128()?).ok_or_else(|| reader.wrong(16))?,
            time_ms: reader.u64()?,
            frame_size_max: reader.u32()?,
            batch_count_max: reader.u32()?,
            deadline_ms_max: reader.u32()?,
            frames_in_flight_max: reader.u32()?,
        })
    }
}

impl<'a> Refused<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        let code = RefusalCode::from_number(reader.u16()?).ok_or_else(|| reader.wrong(2))?;
        Ok(Self {
            code,
            version_min: reader.u16()?,
            version_max: reader.u16()?,
            text: {
                reader.reserved(2)?;
                reader.text(REFUSAL_TEXT_SIZE_MAX)?
            },
        })
    }
}

impl<'a> Register<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        let node = NodeId::new(reader.u32()?).ok_or_else(|| reader.wrong(4))?;
        let log = LogNumber::new(reader.u16()?);
        reader.reserved(2)?;
        Ok(Self {
            node,
            log,
            copy: reader.u128()?,
            generation: Generation(reader.u64()?),
            term: Term(reader.u64()?),
            ring_epoch: RingEpoch(reader.u32()?),
            end: {
                reader.reserved(4)?;
                log_end(reader)?
            },
            committed: Seq(reader.u64()?),
            address: address(reader)?.ok_or_else(|| reader.wrong(ADDRESS_SIZE))?,
            terms: TermStarts(reader.records(TERM_START_SIZE, TERM_START_COUNT_MAX)?),
        })
    }
}

impl<'a> Granted<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        let log = log_number(reader)?;
        reader.reserved(2)?;
        Ok(Self {
            log,
            ring_epoch: RingEpoch(reader.u32()?),
            term: Term(reader.u64()?),
            generation: Generation(reader.u64()?),
            ring_key: reader.u128()?,
            copy: reader.u128()?,
            end: log_end(reader)?,
            first_offset: reader.u64()?,
            checkpoint_size: reader.u64()?,
            segment_size: reader.u64()?,
            clock_ms: reader.u64()?,
            terms: TermStarts(reader.records(TERM_START_SIZE, TERM_START_COUNT_MAX)?),
        })
    }
}

impl<'a> Append<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        let log = log_number(reader)?;
        reader.reserved(6)?;
        Ok(Self {
            log,
            term: Term(reader.u64()?),
            committed: Seq(reader.u64()?),
            block: reader.rest(),
        })
    }
}

impl Appended {
    fn read(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let log = log_number(reader)?;
        reader.reserved(6)?;
        Ok(Self {
            log,
            term: Term(reader.u64()?),
            through: Seq(reader.u64()?),
            clock_ms: reader.u64()?,
            free_size: reader.u64()?,
        })
    }
}

impl Beat {
    fn read(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let beat = Self {
            nonce: reader.u64()?,
            term: Term(reader.u64()?),
            applied: Seq(reader.u64()?),
            committed: Seq(reader.u64()?),
            account_count: reader.u64()?,
            id_count: reader.u64()?,
            horizon_ms: reader.u64()?,
            free_size: reader.u64()?,
            digest: reader.u128()?,
            memory_size: reader.u64()?,
            phase: reader.u8()?,
        };
        reader.reserved(7)?;
        Ok(beat)
    }
}

impl Confirmed {
    fn read(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        Ok(Self {
            nonce: reader.u64()?,
            term: Term(reader.u64()?),
            clock_ms: reader.u64()?,
            free_size: reader.u64()?,
        })
    }
}

impl Fetch {
    fn read(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let log = log_number(reader)?;
        reader.reserved(2)?;
        let size_max = reader.u32()?;
        Ok(Self {
            log,
            offset: reader.u64()?,
            size_max,
        })
    }
}

impl<'a> Fetched<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        let log = log_number(reader)?;
        reader.reserved(6)?;
        Ok(Self {
            log,
            offset: reader.u64()?,
            blocks: reader.rest(),
        })
    }
}

impl<'a> CheckpointPart<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        let log = log_number(reader)?;
        reader.reserved(6)?;
        Ok(Self {
            log,
            size: reader.u64()?,
            offset: reader.u64()?,
            bytes: reader.rest(),
        })
    }
}

impl EntryRead {
    fn read(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let place = Place(reader.u64()?);
        let rest = reader.rest();
        let entry = match rest.len() {
            0 => None,
            ENTRY_SIZE => rest.first_chunk::<ENTRY_SIZE>().copied(),
            size => return Err(reader.wrong(size)),
        };
        Ok(Self { place, entry })
    }
}

impl<'a> Table<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        let ring_epoch = RingEpoch(reader.u32()?);
        reader.reserved(4)?;
        Ok(Self {
            ring_epoch,
            generation: Generation(reader.u64()?),
            ring_key: reader.u128()?,
            members: Members(reader.records(MEMBER_SIZE, limits::NODE_COUNT_MAX)?),
            runs: SlotRuns(reader.records(SLOT_RUN_SIZE, limits::SLOT_COUNT)?),
        })
    }
}

impl Member {
    pub(super) fn read(record: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(record);
        let node = NodeId::new(reader.u32()?).ok_or_else(|| reader.wrong(4))?;
        let log = log_number(&mut reader)?;
        let state = match reader.u8()? {
            0 => MemberState::Away,
            1 => MemberState::Present,
            _ => return Err(reader.wrong(1)),
        };
        reader.reserved(1)?;
        let term = Term(reader.u64()?);
        let incarnation = reader.u128()?;
        let address = address(&mut reader)?;
        reader.reserved(MEMBER_SIZE - 32 - ADDRESS_SIZE)?;
        Ok(Self {
            node,
            log,
            state,
            term,
            incarnation,
            address,
        })
    }
}

impl AuditRow {
    pub(super) fn read(record: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(record);
        let currency = reader.u32()?;
        reader.reserved(4)?;
        Ok(Self {
            currency,
            account_count: reader.u64()?,
            issued: reader.u128()?,
            burned: reader.u128()?,
            sent: reader.u128()?,
            received: reader.u128()?,
            returned: reader.u128()?,
            adopted_in: reader.u128()?.cast_signed(),
            adopted_out: reader.u128()?.cast_signed(),
            available: reader.u128()?.cast_signed(),
            held: reader.u128()?.cast_signed(),
            difference: {
                let difference = reader.u128()?.cast_signed();
                reader.reserved(8)?;
                difference
            },
        })
    }
}

/// Bytes of an address: 16 of an IPv6 (or mapped IPv4) address, 2 of the port, 6 of zero.
pub(super) const ADDRESS_SIZE: usize = 24;

fn address(reader: &mut Reader<'_>) -> Result<Option<SocketAddr>, MessageError> {
    let ip = Ipv6Addr::from(reader.array::<16>()?);
    let port = reader.u16()?;
    reader.reserved(6)?;
    if port == 0 {
        return Ok(None);
    }
    let ip = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
    Ok(Some(SocketAddr::new(ip, port)))
}

fn role(reader: &mut Reader<'_>) -> Result<PeerRole, MessageError> {
    PeerRole::from_number(reader.u8()?).ok_or_else(|| reader.wrong(1))
}

fn log_number(reader: &mut Reader<'_>) -> Result<LogNumber, MessageError> {
    LogNumber::new(reader.u16()?).ok_or_else(|| reader.wrong(2))
}

fn incarnation(reader: &mut Reader<'_>) -> Result<Incarnation, MessageError> {
    Incarnation::new(reader.u128()?).ok_or_else(|| reader.wrong(16))
}

fn optional_cluster(reader: &mut Reader<'_>) -> Result<Option<ClusterId>, MessageError> {
    match reader.u128()? {
        0 => Ok(None),
        number => ClusterId::new(number)
            .map(Some)
            .ok_or_else(|| reader.wrong(16)),
    }
}

fn log_end(reader: &mut Reader<'_>) -> Result<LogEnd, MessageError> {
    Ok(LogEnd {
        seq: Seq(reader.u64()?),
        term: Term(reader.u64()?),
        chain: reader.u64()?,
        offset: reader.u64()?,
        time: LogTime(reader.u64()?),
    })
}
