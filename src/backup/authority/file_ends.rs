//! Section 8 of the authority's file: how far each log is known to have reached, and whose end is
//! in doubt.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};

use super::Record;
use super::file::{Cursor, Parsed, Retired};
use super::membership::MemberRecord;
use crate::model::{LogNumber, NodeId, Seq, Term};

/// The body; empty if there is nothing to say.
pub(super) fn put_ends(record: &Record) -> BytesMut {
    let said = |member: &&MemberRecord| member.reached != Seq(0) || member.doubted != Term(0);
    let members = record.logs().map(|(_, member)| member).filter(said);
    let lines: BTreeMap<LogNumber, &MemberRecord> =
        members.map(|member| (member.log, member)).collect();
    let mut out = BytesMut::new();
    for (log, member) in lines {
        out.put_u16_le(log.get());
        out.put_bytes(0, 6);
        out.put_u64_le(member.reached.0);
        out.put_u64_le(member.doubted.0);
    }
    out
}

/// Reads the body. Each line says something of a log that there is, in order.
pub(super) fn read_ends(
    mut cursor: Cursor<'_>,
    members: &mut BTreeMap<NodeId, MemberRecord>,
    retired: &mut Retired,
) -> Parsed<()> {
    if cursor.is_empty() {
        return Err(cursor.wrong("length"));
    }
    let retired = retired.values_mut().map(|(_, member)| member);
    let all = members.values_mut().chain(retired);
    let mut all: BTreeMap<u16, &mut MemberRecord> =
        all.map(|member| (member.log.get(), member)).collect();
    let mut before = 0;
    while !cursor.is_empty() {
        let log = cursor.u16()?;
        if log <= before {
            return Err(cursor.wrong("log out of order"));
        }
        before = log;
        if cursor.u16()? != 0 {
            return Err(cursor.wrong("reserved field"));
        }
        cursor.reserved()?;
        let (reached, doubted) = (Seq(cursor.u64()?), Term(cursor.u64()?));
        let Some(member) = all.get_mut(&log) else {
            return Err(cursor.wrong("log number"));
        };
        if (reached == Seq(0) && doubted == Term(0)) || member.term < doubted {
            return Err(cursor.wrong("end"));
        }
        member.reached = reached;
        member.doubted = doubted;
    }
    Ok(())
}
