//! The authority's file: what it keeps, in tagged sections (docs/log-format.md, "Small files").
//!
//! The disk adds and tests magic, version and checksum; still nothing in here trusts a length or
//! a count. Numbers are little-endian, reserved bytes 0.
//!
//! ```text
//! section      tag u16 | reserved u16 | length u32 | body
//! 1 cluster    id u128 | hash key u128 | generation u64 | segment size u64 | made at ms u64
//!              | next log number u32 | reserved u32
//! 2 members    for each node: node u32 | weight u32 | address 24 | key count u32
//!              | flags u32 (1 draining, 2 emptied) | keys u16 each
//! 3 logs       for each log: log u16 | flags u16 (1 diverged, 2 retired) | node u32
//!              | term u64 | incarnation u128 | copy u128 | copy before it u128
//!              | backup that keeps it u32 (0 this one) | grant count u32
//!              | grants: term u64 | incarnation u128 | last seq u64 | its chain u64 | at ms u64
//!              |   to whom u32 (0 the node, 1 the backup itself) | reserved u32
//! 4 slots      ring epoch u32 | reserved u32 | runs: first u16 | last u16 | node u32 (0 nobody)
//! 5 moves      next move number u64 | flags u32 (1 paused) | move count u32 | ended count u32
//!              | reserved u32
//!              | moves: number u64 | image's number u64 | source u32 | target u32
//!              |   source log u16 | target log u16 | state u8 (0 ordered, 1 handed, 2 flipped)
//!              |   cause u8 (0 planned, 1 take-over) | reserved u16 | since ms u64
//!              |   ring epoch of the flip u32 | range count u32
//!              |   where it is not just ordered: place u64 | image size u64 | its digest u64
//!              |     | its offset u64 | slot digest u128 | accounts u64 | horizon ms u64
//!              |     | log time u64
//!              |   slot ranges: first u16 | last u16
//!              | ended: number u64 | image's number u64 | log u16 | reserved 6
//!              |   block since which it is gone u64 (0 not known to be gone)
//! 6 recovered  at ms u64 | given up count u32 | opening count u32 | given up: node u32 each
//!              | openings: currency u32 | reserved u32 | difference i128
//! 8 ends       for each log of which there is something to say, by number: log u16 | reserved 6
//!              | a block that was durable u64 | newest term when its end came in doubt u64
//! ```
//!
//! Section 6 is there only in a file that was made again from the nodes, section 8 only if it has
//! something. Sections come in order of their tags, each once. One that this version does not know
//! is kept as it is if bit 15 of its tag is set; else the file means nothing without it and is
//! refused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::super::options::{NODE_WEIGHT_MAX, segment_size_is_possible};
use super::file_ends::{put_ends, read_ends};
use super::file_moves::{put_moves, read_moves};
use super::membership::{Grant, GrantedTo, MemberRecord};
use super::moves::{MoveState, SlotSet, slots_of};
use super::{Record, Recovered};
use crate::limits;
use crate::model::{
    ClusterId, Generation, Incarnation, LogNumber, NodeId, RingEpoch, Seq, Slot, SlotRange, Term,
    to_u64, to_usize,
};
use crate::ring::{OwnedRun, SlotTable};

const TAG_CLUSTER: u16 = 1;
const TAG_MEMBERS: u16 = 2;
const TAG_LOGS: u16 = 3;
const TAG_SLOTS: u16 = 4;
const TAG_MOVES: u16 = 5;
const TAG_RECOVERED: u16 = 6;
const TAG_ENDS: u16 = 8;

/// A section with this bit changes nothing for a reader that does not know it.
const TAG_OPTIONAL: u16 = 1 << 15;

const FLAG_DIVERGED: u16 = 1;
const FLAG_RETIRED: u16 = 2;
const FLAG_DRAINING: u32 = 1;
const FLAG_EMPTIED: u32 = 2;
const ADDRESS_SIZE: usize = 24;
const RUN_SIZE: usize = 8;

/// A section of a later version that changes nothing for this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeptSection {
    tag: u16,
    body: Bytes,
}

/// Why bytes are not an authority's file that this version reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthorityFileError {
    /// Something ends in the middle.
    #[error("section {0} of the authority file ends too early")]
    Ends(u16),
    /// A needed section of a later version.
    #[error("section {0} of the authority file is needed and not known to this build")]
    Needed(u16),
    /// Sections out of order or twice.
    #[error("section {0} of the authority file is out of order")]
    Order(u16),
    /// A section that must be there is not.
    #[error("section {0} of the authority file is missing")]
    Missing(u16),
    /// A count, a length or a field that cannot be.
    #[error("section {tag} of the authority file has an impossible {what}")]
    Field {
        /// Which section.
        tag: u16,
        /// Which field.
        what: &'static str,
    },
}

pub(super) type Parsed<T> = Result<T, AuthorityFileError>;

/// The file of a record.
pub(super) fn encode(record: &Record) -> Bytes {
    let mut out = BytesMut::new();
    put_section(&mut out, TAG_CLUSTER, &put_cluster(record));
    put_section(&mut out, TAG_MEMBERS, &put_members(record));
    put_section(&mut out, TAG_LOGS, &put_logs(record));
    put_section(&mut out, TAG_SLOTS, &put_slots(record));
    put_section(&mut out, TAG_MOVES, &put_moves(&record.moves));
    if let Some(recovered) = &record.recovered {
        put_section(&mut out, TAG_RECOVERED, &put_recovered(recovered));
    }
    let ends = put_ends(record);
    if !ends.is_empty() {
        put_section(&mut out, TAG_ENDS, &ends);
    }
    for kept in &record.kept {
        put_section(&mut out, kept.tag, &kept.body);
    }
    out.freeze()
}

fn put_section(out: &mut BytesMut, tag: u16, body: &[u8]) {
    out.put_u16_le(tag);
    out.put_u16_le(0);
    put_count(out, body.len());
    out.put_slice(body);
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("lists are bounded by limits"));
}

fn put_cluster(record: &Record) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u128_le(record.cluster.get());
    out.put_u128_le(record.ring_key);
    out.put_u64_le(record.generation.0);
    out.put_u64_le(record.segment_size);
    out.put_u64_le(record.created_ms);
    out.put_u32_le(record.log_next);
    out.put_u32_le(0);
    out
}

fn put_members(record: &Record) -> BytesMut {
    let mut out = BytesMut::new();
    for (node, member) in &record.members {
        out.put_u32_le(node.get());
        out.put_u32_le(member.weight);
        put_address(&mut out, member.address);
        put_count(&mut out, member.keys.len());
        let draining = if member.draining { FLAG_DRAINING } else { 0 };
        let emptied = if member.emptied { FLAG_EMPTIED } else { 0 };
        out.put_u32_le(draining | emptied);
        for key in &member.keys {
            out.put_u16_le(key.0);
        }
    }
    out
}

fn put_address(out: &mut BytesMut, address: Option<SocketAddr>) {
    let Some(address) = address else {
        out.put_bytes(0, ADDRESS_SIZE);
        return;
    };
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    out.put_slice(&ip.octets());
    out.put_u16_le(address.port());
    out.put_bytes(0, 6);
}

fn put_logs(record: &Record) -> BytesMut {
    let mut out = BytesMut::new();
    for (node, member) in &record.members {
        put_log(&mut out, *node, member, 0);
    }
    for (node, member) in record.retired.values() {
        put_log(&mut out, *node, member, FLAG_RETIRED);
    }
    out
}

fn put_log(out: &mut BytesMut, node: NodeId, member: &MemberRecord, flags: u16) {
    let diverged = if member.diverged { FLAG_DIVERGED } else { 0 };
    out.put_u16_le(member.log.get());
    out.put_u16_le(flags | diverged);
    out.put_u32_le(node.get());
    out.put_u64_le(member.term.0);
    out.put_u128_le(member.incarnation.map_or(0, Incarnation::get));
    out.put_u128_le(member.copy);
    out.put_u128_le(member.copy_previous);
    out.put_u32_le(0);
    put_count(out, member.grants.len());
    for grant in &member.grants {
        out.put_u64_le(grant.term.0);
        out.put_u128_le(grant.incarnation.get());
        out.put_u64_le(grant.seq.0);
        out.put_u64_le(grant.chain);
        out.put_u64_le(grant.time_ms);
        out.put_u32_le(grant.to as u32);
        out.put_u32_le(0);
    }
}

fn put_slots(record: &Record) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u32_le(record.ring_epoch().0);
    out.put_u32_le(0);
    for run in record.table.runs() {
        out.put_u16_le(run.slots.first.0);
        out.put_u16_le(run.slots.last.0);
        out.put_u32_le(run.node.map_or(0, NodeId::get));
    }
    out
}

fn put_recovered(recovered: &Recovered) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u64_le(recovered.at_ms);
    put_count(&mut out, recovered.given_up.len());
    put_count(&mut out, recovered.openings.len());
    for node in &recovered.given_up {
        out.put_u32_le(node.get());
    }
    for (currency, difference) in &recovered.openings {
        out.put_u32_le(*currency);
        out.put_u32_le(0);
        out.put_i128_le(*difference);
    }
    out
}

fn read_recovered(mut cursor: Cursor<'_>) -> Parsed<Recovered> {
    let at_ms = cursor.u64()?;
    let given_up_count = cursor.count(u64::from(limits::NODE_COUNT_MAX))?;
    let opening_count = cursor.count(u64::from(limits::AUDIT_ROW_COUNT_MAX))?;
    let mut recovered = Recovered {
        at_ms,
        ..Recovered::default()
    };
    for _ in 0..given_up_count {
        let node = NodeId::new(cursor.u32()?).ok_or(cursor.wrong("node id"))?;
        if !recovered.given_up.insert(node) {
            return Err(cursor.wrong("node twice"));
        }
    }
    for _ in 0..opening_count {
        let currency = cursor.u32()?;
        cursor.reserved()?;
        let difference = cursor.u128()?.cast_signed();
        if recovered.openings.insert(currency, difference).is_some() {
            return Err(cursor.wrong("currency twice"));
        }
    }
    cursor.finish()?;
    Ok(recovered)
}

/// A body that is read field by field. What is not there is an error, never a panic.
pub(super) struct Cursor<'a> {
    tag: u16,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// A field of this section cannot be what it is.
    pub(super) const fn wrong(&self, what: &'static str) -> AuthorityFileError {
        AuthorityFileError::Field {
            tag: self.tag,
            what,
        }
    }

    pub(super) fn take(&mut self, size: usize) -> Parsed<&'a [u8]> {
        let split = self.rest.split_at_checked(size);
        let (field, rest) = split.ok_or(AuthorityFileError::Ends(self.tag))?;
        self.rest = rest;
        Ok(field)
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let mut field = [0; N];
        field.copy_from_slice(self.take(N)?);
        Ok(field)
    }

    pub(super) fn u8(&mut self) -> Parsed<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Parsed<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Parsed<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Parsed<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Parsed<u128> {
        self.array().map(u128::from_le_bytes)
    }

    pub(super) fn reserved(&mut self) -> Parsed<()> {
        match self.u32()? {
            0 => Ok(()),
            _ => Err(self.wrong("reserved field")),
        }
    }

    /// A count of at most `max`.
    pub(super) fn count(&mut self, max: u64) -> Parsed<u32> {
        let count = self.u32()?;
        if max < u64::from(count) {
            return Err(self.wrong("count"));
        }
        Ok(count)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn finish(&self) -> Parsed<()> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(self.wrong("length"))
        }
    }
}

/// The bodies of the sections of a file.
struct Sections<'a> {
    known: BTreeMap<u16, &'a [u8]>,
    kept: Vec<KeptSection>,
}

impl<'a> Sections<'a> {
    fn split(bytes: &'a [u8]) -> Parsed<Self> {
        let mut cursor = Cursor {
            tag: 0,
            rest: bytes,
        };
        let mut sections = Self {
            known: BTreeMap::new(),
            kept: Vec::new(),
        };
        while !cursor.is_empty() {
            let before = cursor.tag;
            let tag = cursor.u16()?;
            if tag <= before {
                return Err(AuthorityFileError::Order(tag));
            }
            cursor.tag = tag;
            if cursor.u16()? != 0 {
                return Err(cursor.wrong("reserved field"));
            }
            let size = to_usize(u64::from(cursor.u32()?));
            let body = cursor.take(size)?;
            if (TAG_CLUSTER..=TAG_RECOVERED).contains(&tag) || tag == TAG_ENDS {
                sections.known.insert(tag, body);
            } else if tag & TAG_OPTIONAL == 0 {
                return Err(AuthorityFileError::Needed(tag));
            } else {
                let body = Bytes::copy_from_slice(body);
                sections.kept.push(KeptSection { tag, body });
            }
        }
        Ok(sections)
    }

    /// The body of a section that may be left out.
    fn optional(&self, tag: u16) -> Option<Cursor<'a>> {
        let rest = self.known.get(&tag).copied()?;
        Some(Cursor { tag, rest })
    }

    fn body(&self, tag: u16) -> Parsed<Cursor<'a>> {
        self.optional(tag).ok_or(AuthorityFileError::Missing(tag))
    }
}

/// What section 2 says of a node.
struct NodeLine {
    flags: u32,
    weight: u32,
    keys: Vec<Slot>,
    address: Option<SocketAddr>,
}

/// Reads a file. Nothing in it can make this panic.
pub(super) fn decode(bytes: &[u8]) -> Parsed<Record> {
    let sections = Sections::split(bytes)?;
    let nodes = read_nodes(sections.body(TAG_MEMBERS)?)?;
    let (mut members, mut retired) = read_logs(sections.body(TAG_LOGS)?, nodes)?;
    if let Some(ends) = sections.optional(TAG_ENDS) {
        read_ends(ends, &mut members, &mut retired)?;
    }
    let moves = read_moves(sections.body(TAG_MOVES)?)?;
    let table = read_slots(sections.body(TAG_SLOTS)?, &members)?;
    // Only a backup that was made again has it.
    let recovered = sections.optional(TAG_RECOVERED);
    let recovered = recovered.map(read_recovered).transpose()?;
    let mut cluster = sections.body(TAG_CLUSTER)?;
    let id = ClusterId::new(cluster.u128()?);
    let record = Record {
        cluster: id.ok_or(cluster.wrong("cluster id"))?,
        ring_key: cluster.u128()?,
        generation: Generation(cluster.u64()?),
        segment_size: cluster.u64()?,
        created_ms: cluster.u64()?,
        log_next: cluster.u32()?,
        members,
        retired,
        table: Arc::new(table),
        moves,
        recovered,
        kept: sections.kept,
    };
    cluster.reserved()?;
    cluster.finish()?;
    if record.generation.0 == 0 {
        return Err(cluster.wrong("generation"));
    }
    if !segment_size_is_possible(record.segment_size) {
        return Err(cluster.wrong("segment size"));
    }
    let log_max = record.logs().map(|(_, member)| member.log.get()).max();
    if record.log_next <= u32::from(log_max.unwrap_or(0)) {
        return Err(cluster.wrong("next log number"));
    }
    check_moves(&record)?;
    Ok(record)
}

/// Moves are between logs that there are, of the nodes that have them, and no slot leaves twice.
fn check_moves(record: &Record) -> Parsed<()> {
    let wrong = |what| AuthorityFileError::Field {
        tag: TAG_MOVES,
        what,
    };
    let mut moving_slots = SlotSet::of([]);
    for moving in record.moves.active.values() {
        let has = |node, log| {
            record
                .members
                .get(&node)
                .is_some_and(|member| member.log == log)
        };
        let (source, target) = (moving.source, moving.target);
        if !has(source, moving.source_log) || !has(target, moving.target_log) {
            return Err(wrong("log of a node"));
        }
        let owner = match moving.state {
            MoveState::Ordered | MoveState::Handed(_) => source,
            MoveState::Flipped(..) => target,
        };
        let is_flipped = matches!(moving.state, MoveState::Flipped(..));
        for slot in moving.ranges.iter().copied().flat_map(slots_of) {
            // A log that is taken over right after a flip gives the same slots away again.
            let twice = !is_flipped && !moving_slots.insert(slot);
            if record.table.owner(slot) != Some(owner) || twice {
                return Err(wrong("slot"));
            }
        }
    }
    let ended = &record.moves.ended;
    if ended.iter().any(|ended| record.log(ended.log).is_none()) {
        return Err(wrong("log"));
    }
    Ok(())
}

fn read_nodes(mut cursor: Cursor<'_>) -> Parsed<BTreeMap<NodeId, NodeLine>> {
    let mut nodes = BTreeMap::new();
    while !cursor.is_empty() {
        let node = NodeId::new(cursor.u32()?).ok_or(cursor.wrong("node id"))?;
        let weight = cursor.u32()?;
        if NODE_WEIGHT_MAX < weight {
            return Err(cursor.wrong("weight"));
        }
        let address = read_address(&mut cursor)?;
        let key_count = cursor.count(u64::from(limits::NODE_KEY_COUNT_MAX))?;
        let flags = cursor.u32()?;
        if flags & !(FLAG_DRAINING | FLAG_EMPTIED) != 0 {
            return Err(cursor.wrong("flag"));
        }
        let mut keys = Vec::new();
        for _ in 0..key_count {
            keys.push(Slot(cursor.u16()?));
        }
        let line = NodeLine {
            flags,
            weight,
            keys,
            address,
        };
        if nodes.insert(node, line).is_some() {
            return Err(cursor.wrong("node twice"));
        }
        if to_usize(u64::from(limits::NODE_COUNT_MAX)) < nodes.len() {
            return Err(cursor.wrong("count"));
        }
    }
    if nodes.is_empty() {
        return Err(cursor.wrong("count"));
    }
    Ok(nodes)
}

fn read_address(cursor: &mut Cursor<'_>) -> Parsed<Option<SocketAddr>> {
    let ip = Ipv6Addr::from(cursor.array::<16>()?);
    let port = cursor.u16()?;
    if cursor.array::<6>()? != [0; 6] {
        return Err(cursor.wrong("address"));
    }
    if port == 0 {
        return Ok(None);
    }
    let ip = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
    Ok(Some(SocketAddr::new(ip, port)))
}

/// Logs of nodes that are no members any more.
pub(super) type Retired = BTreeMap<LogNumber, (NodeId, MemberRecord)>;

/// Every node has exactly one log that is not retired.
fn read_logs(
    mut cursor: Cursor<'_>,
    mut nodes: BTreeMap<NodeId, NodeLine>,
) -> Parsed<(BTreeMap<NodeId, MemberRecord>, Retired)> {
    let mut members = BTreeMap::new();
    let mut retired = BTreeMap::new();
    let mut logs = BTreeSet::new();
    while !cursor.is_empty() {
        let log = LogNumber::new(cursor.u16()?).ok_or(cursor.wrong("log number"))?;
        let flags = cursor.u16()?;
        if flags & !(FLAG_DIVERGED | FLAG_RETIRED) != 0 {
            return Err(cursor.wrong("flag"));
        }
        let node = NodeId::new(cursor.u32()?).ok_or(cursor.wrong("node id"))?;
        let is_retired = flags & FLAG_RETIRED != 0;
        let mut member = if is_retired {
            MemberRecord::new(log, 0, Vec::new())
        } else {
            let line = nodes.remove(&node).ok_or(cursor.wrong("node id"))?;
            let mut member = MemberRecord::new(log, line.weight, line.keys);
            member.address = line.address;
            member.draining = line.flags & FLAG_DRAINING != 0;
            member.emptied = line.flags & FLAG_EMPTIED != 0;
            member
        };
        member.diverged = flags & FLAG_DIVERGED != 0;
        member.term = Term(cursor.u64()?);
        member.incarnation = Incarnation::new(cursor.u128()?);
        member.copy = cursor.u128()?;
        member.copy_previous = cursor.u128()?;
        if (member.term == Term(0)) != member.incarnation.is_none() {
            return Err(cursor.wrong("term"));
        }
        // Another backup as the keeper of a log is for a later version.
        cursor.reserved()?;
        member.grants = read_grants(&mut cursor, member.term)?;
        if !logs.insert(log) {
            return Err(cursor.wrong("log twice"));
        }
        if is_retired {
            retired.insert(log, (node, member));
        } else if members.insert(node, member).is_some() {
            return Err(cursor.wrong("log twice"));
        }
    }
    if !nodes.is_empty() {
        return Err(cursor.wrong("count"));
    }
    Ok((members, retired))
}

fn read_grants(cursor: &mut Cursor<'_>, term: Term) -> Parsed<Vec<Grant>> {
    let mut grants: Vec<Grant> = Vec::new();
    let count = cursor.count(to_u64(limits::GRANT_COUNT_MAX))?;
    for _ in 0..count {
        let grant = Grant {
            term: Term(cursor.u64()?),
            incarnation: Incarnation::new(cursor.u128()?).ok_or(cursor.wrong("incarnation"))?,
            seq: Seq(cursor.u64()?),
            chain: cursor.u64()?,
            time_ms: cursor.u64()?,
            to: match cursor.u32()? {
                0 => GrantedTo::Node,
                1 => GrantedTo::Backup,
                _ => return Err(cursor.wrong("grant")),
            },
        };
        cursor.reserved()?;
        let before = grants.last().map_or(Term(0), |grant| grant.term);
        if grant.term <= before || term < grant.term {
            return Err(cursor.wrong("term of a grant"));
        }
        grants.push(grant);
    }
    Ok(grants)
}

fn read_slots(
    mut cursor: Cursor<'_>,
    members: &BTreeMap<NodeId, MemberRecord>,
) -> Parsed<SlotTable> {
    let epoch = RingEpoch(cursor.u32()?);
    cursor.reserved()?;
    if epoch == RingEpoch(0) {
        return Err(cursor.wrong("epoch"));
    }
    let run_count_max = to_usize(u64::from(limits::SLOT_COUNT));
    if run_count_max * RUN_SIZE < cursor.rest.len() {
        return Err(cursor.wrong("count"));
    }
    let mut runs = Vec::new();
    while !cursor.is_empty() {
        let slots = SlotRange {
            first: Slot(cursor.u16()?),
            last: Slot(cursor.u16()?),
        };
        let owner = cursor.u32()?;
        let node = NodeId::new(owner);
        if node.is_some_and(|node| !members.contains_key(&node)) {
            return Err(cursor.wrong("owner"));
        }
        runs.push(OwnedRun { slots, node });
    }
    SlotTable::from_runs(epoch, runs).map_err(|_error| cursor.wrong("run"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::authority::Shown;
    use crate::backup::options::{NewCluster, NewNode};
    use crate::limits::SEGMENT_SIZE_MIN;
    use crate::model::{LogEnd, Random};

    fn sample() -> Record {
        let node = |number| NodeId::new(number).unwrap();
        let new = NewCluster {
            cluster: ClusterId::new(77).unwrap(),
            ring_key: 5,
            nodes: vec![
                NewNode {
                    node: node(9),
                    weight: 2,
                    keys: Vec::new(),
                },
                NewNode {
                    node: node(4),
                    weight: 1,
                    keys: vec![Slot(1), Slot(40_000)],
                },
            ],
            segment_size: SEGMENT_SIZE_MIN,
        };
        assert_eq!(new.check(), Ok(()));
        let mut record = Record::create(&new, 1_000);
        let member = record.members.get_mut(&node(4)).unwrap();
        for life in 1..=20 {
            let life = Incarnation::new(life).unwrap();
            let end = LogEnd {
                seq: Seq(7),
                chain: 8,
                ..LogEnd::default()
            };
            member.grant(life, Shown::Empty, life.get() << 100, &end, 2_000);
        }
        member.address = Some("127.0.0.1:80".parse().unwrap());
        member.diverged = true;
        record.kept.push(KeptSection {
            tag: TAG_OPTIONAL | 3,
            body: Bytes::from_static(b"later"),
        });
        record
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut record = sample();
        record.recovered = Some(Recovered {
            at_ms: 7,
            given_up: [3, 8].map(|number| NodeId::new(number).unwrap()).into(),
            openings: [(1, -5), (9, i128::MAX)].into(),
        });
        let bytes = record.encode();
        let again = Record::decode(&bytes).unwrap();
        assert_eq!(again, record);
        assert_eq!(again.encode(), bytes);
        assert_eq!(again.log_next, 3);
        let owner = again.table.owner(Slot(40_001));
        assert_eq!(owner, NodeId::new(4));
    }

    #[test]
    fn a_needed_section_that_is_not_known_is_refused() {
        let mut bytes = BytesMut::from(&sample().encode()[..]);
        put_section(&mut bytes, TAG_OPTIONAL | 9, b"fine");
        assert!(decode(&bytes).is_ok());
        let mut record = sample();
        record.kept[0].tag = 7;
        let needed = decode(&record.encode());
        assert_eq!(needed, Err(AuthorityFileError::Needed(7)));
        put_section(&mut bytes, 2, b"again");
        assert_eq!(decode(&bytes), Err(AuthorityFileError::Order(2)));
    }

    #[test]
    fn no_cut_is_taken_for_a_file() {
        let mut record = sample();
        record.kept.clear();
        let bytes = record.encode();
        for size in 0..bytes.len() {
            assert!(decode(&bytes[..size]).is_err(), "cut at {size}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic_and_what_it_takes_it_keeps() {
        let bytes = sample().encode();
        let mut random = Random::new(11);
        let mut taken = 0;
        for _ in 0..2_000 {
            let mut mangled = bytes.to_vec();
            for _ in 0..=random.below(3) {
                let at = to_usize(random.below(to_u64(mangled.len())));
                mangled[at] = u8::try_from(random.below(256)).unwrap();
            }
            if let Ok(record) = decode(&mangled) {
                taken += 1;
                assert_eq!(decode(&record.encode()), Ok(record));
            }
        }
        assert!(0 < taken);
    }
}
