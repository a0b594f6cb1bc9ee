//! Reads each message from a whole frame in one go, every field checked.
//!
//! What is read is canonical: written again it gives the same bytes. Records of lists are read
//! one by one later (see `records`).
#![deny(clippy::indexing_slicing)]

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::frame::{FLAG_MORE, FLAGS_AT, Frame, FrameKind, KIND_AT};
use super::message::{
    ADDRESS_SIZE, Append, Appended, AuditRow, Beat, CheckpointPart, ClusterAsk, ClusterCommand,
    Confirmed, EntryRead, Fetch, Fetched, Granted, Hello, Member, MemberState, Message,
    MoveFileAsk, MoveFilePart, MoveOrder, MoveStep, MoveTold, PeerRole, Recorded, Refused,
    Register, Table, Welcome,
};
use super::read::Reader;
use super::records::{
    AUDIT_ROW_SIZE, AuditRows, MEMBER_SIZE, Members, NODE_ID_SIZE, NodeIds, Operations, Receipts,
    Rows, SLOT_RANGE_SIZE, SLOT_RUN_SIZE, SlotRanges, SlotRuns, TERM_START_SIZE, TermStarts,
};
use super::{HELLO_MAGIC, MessageError, RefusalCode};
use crate::limits;
use crate::model::{
    ClusterId, ENTRY_SIZE, Generation, Incarnation, LogEnd, LogNumber, LogTime, MoveNumber, NodeId,
    OPERATION_SIZE, Place, RECEIPT_SIZE, ROW_SIZE, RingEpoch, Seq, Term,
};

impl<'a> Message<'a> {
    /// Reads the message of a frame. Nothing may be left over.
    pub fn read(frame: &Frame<'a>) -> Result<Self, MessageError> {
        let mut reader = Reader::of_body(frame.body);
        let kind = frame.header.kind;
        if frame.header.flags & !kind.flags_known() != 0 {
            return Err(MessageError::Field { at: FLAGS_AT });
        }
        let message = Self::read_client(kind, &mut reader)?;
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
                let count = reader.count(limits::BATCH_COUNT_MAX)?;
                Self::Request {
                    deadline_ms: reader.u32()?,
                    operations: Operations(reader.bytes(count * OPERATION_SIZE)?),
                }
            }
            FrameKind::Receipts => Self::Receipts(Receipts(
                reader.records(RECEIPT_SIZE, limits::BATCH_COUNT_MAX)?,
            )),
            FrameKind::Rows => {
                let count = reader.count(limits::LIST_ROW_COUNT_MAX)?;
                let index = reader.u16()?;
                reader.reserved(2)?;
                Self::Rows {
                    index,
                    rows: Rows(reader.bytes(count * ROW_SIZE)?),
                }
            }
            FrameKind::StatusAsk => Self::StatusAsk,
            FrameKind::StatusTold => Self::StatusTold {
                json: reader.text(limits::STATUS_SIZE_MAX)?,
            },
            FrameKind::AuditAsk => Self::AuditAsk,
            FrameKind::AuditTold => {
                let records = reader.records(AUDIT_ROW_SIZE, limits::AUDIT_ROW_COUNT_MAX)?;
                Self::AuditTold {
                    rows: AuditRows(records),
                }
            }
            FrameKind::ClusterAsk => Self::ClusterAsk(ClusterAsk::read(reader)?),
            FrameKind::ClusterTold => Self::ClusterTold {
                json: reader.text(limits::STATUS_SIZE_MAX)?,
            },
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
            | FrameKind::Table
            | FrameKind::MoveOrder
            | FrameKind::MoveTold
            | FrameKind::MoveFileAsk
            | FrameKind::MoveFilePart
            | FrameKind::Recover
            | FrameKind::Recorded => return Self::read_link(kind, reader),
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
            FrameKind::MoveOrder => Self::MoveOrder(MoveOrder::read(reader)?),
            FrameKind::MoveTold => Self::MoveTold(MoveTold::read(reader)?),
            FrameKind::MoveFileAsk => Self::MoveFileAsk(MoveFileAsk::read(reader)?),
            FrameKind::MoveFilePart => Self::MoveFilePart(MoveFilePart::read(reader)?),
            FrameKind::Recover => Self::Recover {
                generation: Generation(reader.u64()?),
            },
            FrameKind::Recorded => Self::Recorded(Recorded::read(reader)?),
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
            | FrameKind::AuditTold
            | FrameKind::ClusterAsk
            | FrameKind::ClusterTold => return Err(MessageError::Field { at: KIND_AT }),
        })
    }
}

impl FrameKind {
    /// Header flags that frames of this kind may have.
    const fn flags_known(self) -> u16 {
        if matches!(self, Self::AuditTold) {
            FLAG_MORE
        } else {
            0
        }
    }
}

impl Hello {
    fn read(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        if reader.u32()? != HELLO_MAGIC {
            return Err(reader.wrong(4));
        }
        let version_min = reader.u16()?;
        let version_max = reader.u16()?;
        if version_min == 0 || version_max < version_min {
            return Err(reader.wrong(4));
        }
        let role = role(reader)?;
        reader.reserved(3)?;
        let node = NodeId::new(reader.u32()?);
        if node.is_some() != (role == PeerRole::Node) {
            return Err(reader.wrong(4));
        }
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
                reader.text(limits::REFUSAL_TEXT_SIZE_MAX)?
            },
        })
    }
}

impl<'a> Register<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        let node = NodeId::new(reader.u32()?).ok_or_else(|| reader.wrong(4))?;
        let log = LogNumber::new(reader.u16()?);
        let joins = yes_or_no(reader)?;
        reader.reserved(1)?;
        Ok(Self {
            node,
            log,
            copy: reader.u128()?,
            generation: Generation(reader.u64()?),
            term: Term(reader.u64()?),
            ring_epoch: RingEpoch(reader.u32()?),
            join: match (joins, reader.u32()?) {
                (true, weight) => Some(weight),
                (false, 0) => None,
                (false, _) => return Err(reader.wrong(4)),
            },
            end: log_end(reader)?,
            committed: Seq(reader.u64()?),
            address: address(reader)?.ok_or_else(|| reader.wrong(ADDRESS_SIZE))?,
            terms: TermStarts(reader.records(TERM_START_SIZE, limits::TERM_START_COUNT_MAX)?),
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
            terms: TermStarts(reader.records(TERM_START_SIZE, limits::TERM_START_COUNT_MAX)?),
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
    /// The highest number of a phase.
    const PHASE_MAX: u8 = 2;

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
        if Self::PHASE_MAX < beat.phase {
            return Err(reader.wrong(1));
        }
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

impl ClusterAsk {
    fn read(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let command = ClusterCommand::from_number(reader.u8()?).ok_or_else(|| reader.wrong(1))?;
        let dry_run = yes_or_no(reader)?;
        reader.reserved(2)?;
        let node = NodeId::new(reader.u32()?);
        let weight = reader.u32()?;
        reader.reserved(4)?;
        Ok(Self {
            command,
            dry_run,
            node,
            weight,
            number: MoveNumber(reader.u64()?),
        })
    }
}

impl<'a> MoveOrder<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        let step = move_step(reader)?;
        reader.reserved(1)?;
        let peer_log = log_number(reader)?;
        let peer = NodeId::new(reader.u32()?).ok_or_else(|| reader.wrong(4))?;
        let number = MoveNumber(reader.u64()?);
        let image = MoveNumber(reader.u64()?);
        let ring_epoch = RingEpoch(reader.u32()?);
        reader.reserved(4)?;
        Ok(Self {
            step,
            number,
            image,
            ring_epoch,
            peer,
            peer_log,
            place: Place(reader.u64()?),
            image_size: reader.u64()?,
            image_digest: reader.u64()?,
            image_offset: reader.u64()?,
            slot_digest: reader.u128()?,
            account_count: reader.u64()?,
            horizon_ms: reader.u64()?,
            time: LogTime(reader.u64()?),
            ranges: SlotRanges(reader.records(SLOT_RANGE_SIZE, limits::SLOT_COUNT)?),
        })
    }
}

impl MoveTold {
    fn read(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let step = move_step(reader)?;
        reader.reserved(7)?;
        Ok(Self {
            step,
            number: MoveNumber(reader.u64()?),
            seq: Seq(reader.u64()?),
        })
    }
}

impl MoveFileAsk {
    fn read(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let ask = Self {
            image: MoveNumber(reader.u64()?),
            offset: reader.u64()?,
            size_max: reader.u32()?,
        };
        reader.reserved(4)?;
        Ok(ask)
    }
}

impl<'a> MoveFilePart<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        Ok(Self {
            image: MoveNumber(reader.u64()?),
            size: reader.u64()?,
            offset: reader.u64()?,
            bytes: reader.rest(),
        })
    }
}

impl<'a> Recorded<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, MessageError> {
        let generation = Generation(reader.u64()?);
        let ring_key = reader.u128()?;
        let segment_size = reader.u64()?;
        let first_offset = reader.u64()?;
        let checkpoint_size = reader.u64()?;
        let log_max = reader.u16()?;
        reader.reserved(2)?;
        Ok(Self {
            generation,
            ring_key,
            segment_size,
            first_offset,
            checkpoint_size,
            log_max,
            members: NodeIds(reader.records(NODE_ID_SIZE, limits::NODE_COUNT_MAX)?),
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
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let node = NodeId::new(reader.u32()?).ok_or_else(|| reader.wrong(4))?;
        let log = log_number(reader)?;
        let state = match reader.u8()? {
            0 => MemberState::Away,
            1 => MemberState::Present,
            _ => return Err(reader.wrong(1)),
        };
        reader.reserved(1)?;
        let term = Term(reader.u64()?);
        let incarnation = reader.u128()?;
        let address = address(reader)?;
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
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let currency = currency(reader)?;
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
            difference: reader.u128()?.cast_signed(),
        })
    }
}

fn address(reader: &mut Reader<'_>) -> Result<Option<SocketAddr>, MessageError> {
    let ip = Ipv6Addr::from(reader.array::<16>()?);
    let port = reader.u16()?;
    if port == 0 && !ip.is_unspecified() {
        return Err(reader.wrong(2));
    }
    reader.reserved(6)?;
    if port == 0 {
        return Ok(None);
    }
    let ip = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
    Ok(Some(SocketAddr::new(ip, port)))
}

/// The code of a currency that must be there.
pub(super) fn currency(reader: &mut Reader<'_>) -> Result<u32, MessageError> {
    match reader.u32()? {
        0 => Err(reader.wrong(4)),
        currency => Ok(currency),
    }
}

/// One byte: 1 or 0.
fn yes_or_no(reader: &mut Reader<'_>) -> Result<bool, MessageError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(reader.wrong(1)),
    }
}

fn move_step(reader: &mut Reader<'_>) -> Result<MoveStep, MessageError> {
    MoveStep::from_number(reader.u8()?).ok_or_else(|| reader.wrong(1))
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
