//! The authority's file: what it keeps, in tagged sections. Layout: docs/log-format.md.
//!
//! ```text
//! head      magic u64 "CFAUTHOR" | version u32 | section count u32
//! section   tag u16 | flags u16 | length u32 | body, padded with zeros to a multiple of 8
//! ```
//!
//! Sections come in order of their tags, each once. A section that this version does not know is
//! kept as it is, unless its flag 1 says that the file means nothing without it: then the file is
//! refused. Tags 16 to 31 are held for what taking over and moving slots will need: logs that
//! were retired, plans, moves under way, adopted files, the last flip of each slot.
//!
//! The disk adds and tests a checksum; still nothing in here trusts a length or a count.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::super::options::{NODE_WEIGHT_MAX, segment_size_is_possible};
use super::membership::{GRANT_COUNT_MAX, Grant, MemberRecord};
use super::Record;
use crate::limits;
use crate::model::{
    ClusterId, Generation, Incarnation, LogNumber, NodeId, RingEpoch, Seq, Slot, SlotRange, Term,
    to_usize,
};
use crate::ring::{OwnedRun, SlotTable};

const MAGIC: u64 = u64::from_le_bytes(*b"CFAUTHOR");
const VERSION: u32 = 1;

const TAG_CLUSTER: u16 = 1;
const TAG_MEMBERS: u16 = 2;
const TAG_KEYS: u16 = 3;
const TAG_TABLE: u16 = 4;
const TAG_GRANTS: u16 = 5;

/// The file means nothing to a reader that does not know this section.
const FLAG_NEEDED: u16 = 1;

const ALIGN: usize = 8;
const SECTION_COUNT_MAX: u32 = 64;

const CLUSTER_SIZE: usize = 16 + 16 + 8 + 8 + 8 + 4 + 4;
const MEMBER_SIZE: usize = 4 + 2 + 2 + 4 + 4 + 8 + 16 + 16 + 16 + ADDRESS_SIZE;
const ADDRESS_SIZE: usize = 24;
const KEY_SIZE: usize = 8;
const RUN_SIZE: usize = 8;
const GRANT_SIZE: usize = 4 + 4 + 8 + 16 + 8 + 8 + 8;
const _: () = assert!(CLUSTER_SIZE == 64);
const _: () = assert!(MEMBER_SIZE == 96);
const _: () = assert!(GRANT_SIZE == 56);

const MEMBER_DIVERGED: u16 = 1;

/// A section of a later version that changes nothing for this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeptSection {
    tag: u16,
    flags: u16,
    body: Bytes,
}

/// Why bytes are not an authority's file that this version reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthorityFileError {
    /// It begins with something else.
    #[error("no authority file: it begins with {0:016x}")]
    Magic(u64),
    /// Written by a later version.
    #[error("version {0} of the authority file is not readable, this build knows {VERSION}")]
    Version(u32),
    /// It ends in the middle.
    #[error("the authority file ends too early at byte {0}")]
    Ends(usize),
    /// It goes on behind its last section.
    #[error("the authority file goes on behind its last section at byte {0}")]
    Trailing(usize),
    /// A needed section of a later version.
    #[error("section {0} of the authority file is needed and not known to this build")]
    Needed(u16),
    /// Sections out of order, twice, or too many of them.
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

type Parsed<T> = Result<T, AuthorityFileError>;

const fn impossible(tag: u16, what: &'static str) -> AuthorityFileError {
    AuthorityFileError::Field { tag, what }
}

/// The file of a record.
pub(super) fn encode(record: &Record) -> Bytes {
    let mut sections: Vec<(u16, u16, BytesMut)> = vec![
        (TAG_CLUSTER, FLAG_NEEDED, put_cluster(record)),
        (TAG_MEMBERS, FLAG_NEEDED, put_members(record)),
        (TAG_KEYS, FLAG_NEEDED, put_keys(record)),
        (TAG_TABLE, FLAG_NEEDED, put_table(record)),
        (TAG_GRANTS, FLAG_NEEDED, put_grants(record)),
    ];
    for kept in &record.kept {
        sections.push((kept.tag, kept.flags, BytesMut::from(&kept.body[..])));
    }
    let mut out = BytesMut::new();
    out.put_u64_le(MAGIC);
    out.put_u32_le(VERSION);
    out.put_u32_le(u32::try_from(sections.len()).expect("sections are bounded"));
    for (tag, flags, body) in sections {
        out.put_u16_le(tag);
        out.put_u16_le(flags);
        out.put_u32_le(u32::try_from(body.len()).expect("lists are bounded by limits"));
        out.put_slice(&body);
        out.put_bytes(0, body.len().next_multiple_of(ALIGN) - body.len());
    }
    out.freeze()
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
        let flags = if member.diverged { MEMBER_DIVERGED } else { 0 };
        out.put_u32_le(node.get());
        out.put_u16_le(member.log.get());
        out.put_u16_le(flags);
        out.put_u32_le(member.weight);
        out.put_u32_le(0);
        out.put_u64_le(member.term.0);
        out.put_u128_le(member.incarnation.map_or(0, Incarnation::get));
        out.put_u128_le(member.copy);
        out.put_u128_le(member.copy_previous);
        put_address(&mut out, member.address);
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

fn put_keys(record: &Record) -> BytesMut {
    let mut out = BytesMut::new();
    for (node, member) in &record.members {
        for key in &member.keys {
            out.put_u32_le(node.get());
            out.put_u16_le(key.0);
            out.put_u16_le(0);
        }
    }
    out
}

fn put_table(record: &Record) -> BytesMut {
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

fn put_grants(record: &Record) -> BytesMut {
    let mut out = BytesMut::new();
    for (node, member) in &record.members {
        for grant in &member.grants {
            out.put_u32_le(node.get());
            out.put_u32_le(0);
            out.put_u64_le(grant.term.0);
            out.put_u128_le(grant.incarnation.get());
            out.put_u64_le(grant.seq.0);
            out.put_u64_le(grant.chain);
            out.put_u64_le(grant.time_ms);
        }
    }
    out
}

/// Bytes that are read field by field. What is not there is an error, never a panic.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, size: usize) -> Parsed<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some((field, _)) = rest.split_at_checked(size) else {
            return Err(AuthorityFileError::Ends(self.bytes.len()));
        };
        self.at += size;
        Ok(field)
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let mut field = [0; N];
        field.copy_from_slice(self.take(N)?);
        Ok(field)
    }

    fn u16(&mut self) -> Parsed<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Parsed<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Parsed<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn u128(&mut self) -> Parsed<u128> {
        self.array().map(u128::from_le_bytes)
    }

    const fn is_empty(&self) -> bool {
        self.bytes.len() <= self.at
    }
}

/// The bodies of the sections of a file.
struct Sections<'a> {
    known: BTreeMap<u16, &'a [u8]>,
    kept: Vec<KeptSection>,
}

impl<'a> Sections<'a> {
    fn split(bytes: &'a [u8]) -> Parsed<Self> {
        let mut cursor = Cursor { bytes, at: 0 };
        let magic = cursor.u64()?;
        if magic != MAGIC {
            return Err(AuthorityFileError::Magic(magic));
        }
        let version = cursor.u32()?;
        if version != VERSION {
            return Err(AuthorityFileError::Version(version));
        }
        let count = cursor.u32()?;
        if SECTION_COUNT_MAX < count {
            return Err(impossible(0, "count of sections"));
        }
        let mut sections = Self {
            known: BTreeMap::new(),
            kept: Vec::new(),
        };
        let mut last_tag = 0;
        for _ in 0..count {
            let tag = cursor.u16()?;
            let flags = cursor.u16()?;
            let size = to_usize(u64::from(cursor.u32()?));
            let body = cursor.take(size)?;
            let padding = cursor.take(size.next_multiple_of(ALIGN) - size)?;
            if padding.iter().any(|byte| *byte != 0) {
                return Err(impossible(tag, "padding"));
            }
            if tag <= last_tag {
                return Err(AuthorityFileError::Order(tag));
            }
            last_tag = tag;
            if (TAG_CLUSTER..=TAG_GRANTS).contains(&tag) {
                sections.known.insert(tag, body);
            } else if flags & FLAG_NEEDED != 0 {
                return Err(AuthorityFileError::Needed(tag));
            } else {
                let body = Bytes::copy_from_slice(body);
                sections.kept.push(KeptSection { tag, flags, body });
            }
        }
        if !cursor.is_empty() {
            return Err(AuthorityFileError::Trailing(cursor.at));
        }
        Ok(sections)
    }

    fn body(&self, tag: u16) -> Parsed<Cursor<'a>> {
        let bytes = self.known.get(&tag).copied();
        let bytes = bytes.ok_or(AuthorityFileError::Missing(tag))?;
        Ok(Cursor { bytes, at: 0 })
    }

    /// The records of a section that is nothing but a list.
    fn list(&self, tag: u16, size: usize, count_max: u64) -> Parsed<Cursor<'a>> {
        let cursor = self.body(tag)?;
        let length = cursor.bytes.len();
        if !length.is_multiple_of(size) || to_usize(count_max) * size < length {
            return Err(impossible(tag, "length"));
        }
        Ok(cursor)
    }
}

/// Reads a file. Nothing in it can make this panic.
pub(super) fn decode(bytes: &[u8]) -> Parsed<Record> {
    let sections = Sections::split(bytes)?;
    let mut members = read_members(&sections)?;
    read_keys(&sections, &mut members)?;
    read_grants(&sections, &mut members)?;
    let table = read_table(&sections, &members)?;
    let mut cluster = sections.body(TAG_CLUSTER)?;
    let wrong = |what| impossible(TAG_CLUSTER, what);
    let record = Record {
        cluster: ClusterId::new(cluster.u128()?).ok_or(wrong("cluster id"))?,
        ring_key: cluster.u128()?,
        generation: Generation(cluster.u64()?),
        segment_size: cluster.u64()?,
        created_ms: cluster.u64()?,
        log_next: cluster.u32()?,
        members,
        table: Arc::new(table),
        kept: sections.kept,
    };
    if cluster.u32()? != 0 || !cluster.is_empty() {
        return Err(wrong("length"));
    }
    if record.generation.0 == 0 {
        return Err(wrong("generation"));
    }
    if !segment_size_is_possible(record.segment_size) {
        return Err(wrong("segment size"));
    }
    let log_max = record.members.values().map(|member| member.log.get()).max();
    if record.log_next <= u32::from(log_max.unwrap_or(0)) {
        return Err(wrong("next log number"));
    }
    Ok(record)
}

fn read_members(sections: &Sections<'_>) -> Parsed<BTreeMap<NodeId, MemberRecord>> {
    let tag = TAG_MEMBERS;
    let wrong = |what| impossible(tag, what);
    let mut cursor = sections.list(tag, MEMBER_SIZE, u64::from(limits::NODE_COUNT_MAX))?;
    let mut members = BTreeMap::new();
    let mut logs = BTreeSet::new();
    while !cursor.is_empty() {
        let node = NodeId::new(cursor.u32()?).ok_or(wrong("node id"))?;
        let log = LogNumber::new(cursor.u16()?).ok_or(wrong("log number"))?;
        let flags = cursor.u16()?;
        let weight = cursor.u32()?;
        let reserved = cursor.u32()?;
        if flags & !MEMBER_DIVERGED != 0 || reserved != 0 {
            return Err(wrong("flag"));
        }
        if !(1..=NODE_WEIGHT_MAX).contains(&weight) {
            return Err(wrong("weight"));
        }
        let mut member = MemberRecord::new(log, weight, Vec::new());
        member.diverged = flags & MEMBER_DIVERGED != 0;
        member.term = Term(cursor.u64()?);
        member.incarnation = Incarnation::new(cursor.u128()?);
        member.copy = cursor.u128()?;
        member.copy_previous = cursor.u128()?;
        member.address = read_address(&mut cursor)?;
        if (member.term == Term(0)) != member.incarnation.is_none() {
            return Err(wrong("term"));
        }
        if !logs.insert(log) || members.insert(node, member).is_some() {
            return Err(wrong("member twice"));
        }
    }
    if members.is_empty() {
        return Err(wrong("count"));
    }
    Ok(members)
}

fn read_address(cursor: &mut Cursor<'_>) -> Parsed<Option<SocketAddr>> {
    let ip = Ipv6Addr::from(cursor.array::<16>()?);
    let port = cursor.u16()?;
    if cursor.array::<6>()? != [0; 6] {
        return Err(impossible(TAG_MEMBERS, "address"));
    }
    if port == 0 {
        return Ok(None);
    }
    let ip = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
    Ok(Some(SocketAddr::new(ip, port)))
}

fn read_keys(
    sections: &Sections<'_>,
    members: &mut BTreeMap<NodeId, MemberRecord>,
) -> Parsed<()> {
    let tag = TAG_KEYS;
    let key_count_max = to_usize(u64::from(limits::NODE_KEY_COUNT_MAX));
    let count_max = u64::from(limits::NODE_KEY_COUNT_MAX) * u64::from(limits::NODE_COUNT_MAX);
    let mut cursor = sections.list(tag, KEY_SIZE, count_max)?;
    while !cursor.is_empty() {
        let node = NodeId::new(cursor.u32()?);
        let key = Slot(cursor.u16()?);
        if cursor.u16()? != 0 {
            return Err(impossible(tag, "flag"));
        }
        let member = node.and_then(|node| members.get_mut(&node));
        let member = member.ok_or(impossible(tag, "node id"))?;
        if member.keys.len() == key_count_max {
            return Err(impossible(tag, "count of keys"));
        }
        member.keys.push(key);
    }
    Ok(())
}

fn read_table(
    sections: &Sections<'_>,
    members: &BTreeMap<NodeId, MemberRecord>,
) -> Parsed<SlotTable> {
    let tag = TAG_TABLE;
    let mut cursor = sections.body(tag)?;
    let epoch = RingEpoch(cursor.u32()?);
    if cursor.u32()? != 0 || epoch == RingEpoch(0) {
        return Err(impossible(tag, "epoch"));
    }
    let rest = cursor.bytes.len() - cursor.at;
    if !rest.is_multiple_of(RUN_SIZE)
        || to_usize(u64::from(limits::SLOT_COUNT)) * RUN_SIZE < rest
    {
        return Err(impossible(tag, "length"));
    }
    let mut runs = Vec::new();
    while !cursor.is_empty() {
        let slots = SlotRange {
            first: Slot(cursor.u16()?),
            last: Slot(cursor.u16()?),
        };
        let node = NodeId::new(cursor.u32()?);
        if node.is_some_and(|node| !members.contains_key(&node)) {
            return Err(impossible(tag, "owner"));
        }
        runs.push(OwnedRun { slots, node });
    }
    SlotTable::from_runs(epoch, runs).map_err(|_error| impossible(tag, "run"))
}

fn read_grants(
    sections: &Sections<'_>,
    members: &mut BTreeMap<NodeId, MemberRecord>,
) -> Parsed<()> {
    let tag = TAG_GRANTS;
    let wrong = |what| impossible(tag, what);
    let grant_count_max = u64::try_from(GRANT_COUNT_MAX).expect("a small number");
    let count_max = grant_count_max * u64::from(limits::NODE_COUNT_MAX);
    let mut cursor = sections.list(tag, GRANT_SIZE, count_max)?;
    while !cursor.is_empty() {
        let node = NodeId::new(cursor.u32()?);
        if cursor.u32()? != 0 {
            return Err(wrong("flag"));
        }
        let grant = Grant {
            term: Term(cursor.u64()?),
            incarnation: Incarnation::new(cursor.u128()?).ok_or(wrong("incarnation"))?,
            seq: Seq(cursor.u64()?),
            chain: cursor.u64()?,
            time_ms: cursor.u64()?,
        };
        let member = node.and_then(|node| members.get_mut(&node));
        let member = member.ok_or(wrong("node id"))?;
        let last = member.grants.last();
        if grant.term <= last.map_or(Term(0), |last| last.term) || member.term < grant.term {
            return Err(wrong("term"));
        }
        if member.grants.len() == GRANT_COUNT_MAX {
            return Err(wrong("count of grants"));
        }
        member.grants.push(grant);
    }
    Ok(())
}
