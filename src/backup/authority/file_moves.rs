//! Section 5 of the authority's file: moves of slots. The layout is drawn in `file`.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};

use super::file::{Cursor, Parsed};
use super::moves::{Cause, Ended, Handed, MoveBook, MoveRecord, MoveState};
use crate::limits;
use crate::model::{
    LogNumber, LogTime, MoveNumber, NodeId, Place, RingEpoch, Seq, Slot, SlotRange,
};
use crate::role::ImageInfo;

const FLAG_PAUSED: u32 = 1;

/// Moves under way at most: one for each pair of a source and a target would be far more than
/// are ever begun.
const MOVE_COUNT_MAX: u64 = 1 << 20;

pub(super) fn put_moves(book: &MoveBook) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u64_le(book.next.0);
    out.put_u32_le(if book.paused { FLAG_PAUSED } else { 0 });
    put_count(&mut out, book.active.len());
    put_count(&mut out, book.ended.len());
    out.put_u32_le(0);
    for (number, moving) in &book.active {
        put_move(&mut out, *number, moving);
    }
    for ended in &book.ended {
        out.put_u64_le(ended.number.0);
        out.put_u64_le(ended.image.0);
        out.put_u16_le(ended.log.get());
        out.put_bytes(0, 6);
        out.put_u64_le(ended.gone.map_or(0, |seq| seq.0));
    }
    out
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("moves are bounded by nodes and slots"));
}

fn put_move(out: &mut BytesMut, number: MoveNumber, moving: &MoveRecord) {
    let (state, ring_epoch) = match moving.state {
        MoveState::Ordered => (0, RingEpoch(0)),
        MoveState::Handed(_) => (1, RingEpoch(0)),
        MoveState::Flipped(_, epoch) => (2, epoch),
    };
    out.put_u64_le(number.0);
    out.put_u64_le(moving.image.0);
    out.put_u32_le(moving.source.get());
    out.put_u32_le(moving.target.get());
    out.put_u16_le(moving.source_log.get());
    out.put_u16_le(moving.target_log.get());
    out.put_u8(state);
    out.put_u8(moving.cause as u8);
    out.put_u16_le(0);
    out.put_u64_le(moving.since_ms);
    out.put_u32_le(ring_epoch.0);
    put_count(out, moving.ranges.len());
    if let Some(Handed { place, image }) = moving.handed() {
        out.put_u64_le(place.0);
        out.put_u64_le(image.size);
        out.put_u64_le(image.digest);
        out.put_u64_le(image.offset);
        out.put_u128_le(image.slot_digest);
        out.put_u64_le(image.account_count);
        out.put_u64_le(image.horizon_ms);
        out.put_u64_le(image.time.0);
    }
    for range in &*moving.ranges {
        out.put_u16_le(range.first.0);
        out.put_u16_le(range.last.0);
    }
}

pub(super) fn read_moves(mut cursor: Cursor<'_>) -> Parsed<MoveBook> {
    let next = MoveNumber(cursor.u64()?);
    let flags = cursor.u32()?;
    if flags & !FLAG_PAUSED != 0 {
        return Err(cursor.wrong("flag"));
    }
    let move_count = cursor.count(MOVE_COUNT_MAX)?;
    let ended_count = cursor.count(MOVE_COUNT_MAX)?;
    cursor.reserved()?;
    let mut active = BTreeMap::new();
    let mut last = MoveNumber(0);
    for _ in 0..move_count {
        let (number, moving) = read_move(&mut cursor)?;
        if number <= last || next <= number || number < moving.image {
            return Err(cursor.wrong("move number"));
        }
        last = number;
        active.insert(number, moving);
    }
    let mut ended = Vec::new();
    for _ in 0..ended_count {
        let read = read_ended(&mut cursor)?;
        if next <= read.number || read.number < read.image {
            return Err(cursor.wrong("move number"));
        }
        ended.push(read);
    }
    cursor.finish()?;
    if next == MoveNumber(0) {
        return Err(cursor.wrong("next move number"));
    }
    Ok(MoveBook {
        next,
        paused: flags & FLAG_PAUSED != 0,
        active,
        ended,
    })
}

fn read_move(cursor: &mut Cursor<'_>) -> Parsed<(MoveNumber, MoveRecord)> {
    let number = MoveNumber(cursor.u64()?);
    let image = MoveNumber(cursor.u64()?);
    let source = NodeId::new(cursor.u32()?).ok_or(cursor.wrong("node id"))?;
    let target = NodeId::new(cursor.u32()?).ok_or(cursor.wrong("node id"))?;
    let source_log = read_log(cursor)?;
    let target_log = read_log(cursor)?;
    let state = cursor.u8()?;
    let cause = match cursor.u8()? {
        0 => Cause::Planned,
        1 => Cause::TakeOver,
        _ => return Err(cursor.wrong("cause")),
    };
    if cursor.u16()? != 0 || image == MoveNumber(0) {
        return Err(cursor.wrong("move"));
    }
    let since_ms = cursor.u64()?;
    let ring_epoch = RingEpoch(cursor.u32()?);
    let range_count = cursor.count(u64::from(limits::MOVE_RANGE_COUNT_MAX))?;
    let state = match (state, ring_epoch) {
        (0, RingEpoch(0)) => MoveState::Ordered,
        (1, RingEpoch(0)) => MoveState::Handed(read_handed(cursor)?),
        (2, epoch) if epoch != RingEpoch(0) => MoveState::Flipped(read_handed(cursor)?, epoch),
        (_, _) => return Err(cursor.wrong("state")),
    };
    let ranges = read_ranges(cursor, range_count)?;
    let moving = MoveRecord {
        image,
        source,
        source_log,
        target,
        target_log,
        cause,
        since_ms,
        ranges: ranges.into(),
        state,
    };
    Ok((number, moving))
}

fn read_log(cursor: &mut Cursor<'_>) -> Parsed<LogNumber> {
    LogNumber::new(cursor.u16()?).ok_or(cursor.wrong("log number"))
}

fn read_handed(cursor: &mut Cursor<'_>) -> Parsed<Handed> {
    Ok(Handed {
        place: Place(cursor.u64()?),
        image: ImageInfo {
            size: cursor.u64()?,
            digest: cursor.u64()?,
            offset: cursor.u64()?,
            slot_digest: cursor.u128()?,
            account_count: cursor.u64()?,
            horizon_ms: cursor.u64()?,
            time: LogTime(cursor.u64()?),
        },
    })
}

/// Ranges that rise, do not touch, and are there.
fn read_ranges(cursor: &mut Cursor<'_>, count: u32) -> Parsed<Vec<SlotRange>> {
    let mut ranges: Vec<SlotRange> = Vec::new();
    for _ in 0..count {
        let range = SlotRange {
            first: Slot(cursor.u16()?),
            last: Slot(cursor.u16()?),
        };
        let overlaps = ranges.last().is_some_and(|last| range.first <= last.last);
        if overlaps || range.last < range.first {
            return Err(cursor.wrong("slot range"));
        }
        ranges.push(range);
    }
    if ranges.is_empty() {
        return Err(cursor.wrong("slot range"));
    }
    Ok(ranges)
}

fn read_ended(cursor: &mut Cursor<'_>) -> Parsed<Ended> {
    let number = MoveNumber(cursor.u64()?);
    let image = MoveNumber(cursor.u64()?);
    let log = read_log(cursor)?;
    if cursor.take(6)? != [0; 6] || image == MoveNumber(0) {
        return Err(cursor.wrong("ended move"));
    }
    let gone = match cursor.u64()? {
        0 => None,
        seq => Some(Seq(seq)),
    };
    Ok(Ended {
        number,
        image,
        log,
        gone,
    })
}
