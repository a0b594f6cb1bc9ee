//! The identity file: who this folder is, what it last worked under, and what a backup that is
//! made again from the nodes cannot learn from their logs.
//!
//! It is saved after every grant and before the first use of the granted term, so that a copied
//! folder, a folder of another node and an older backup are told apart at the next start.
//!
//! ```text
//!  0  magic "CFN1"      u32     16  cluster id   u128     64  hash key      u128
//!  4  version (2)       u16     32  copy         u128     80  highest log   u16
//!  6  log number        u16     48  generation   u64      82  reserved      u16
//!  8  node id           u32     56  term         u64      84  member count  u32
//! 12  ring epoch        u32                               88  members       u32 each
//! ```
//!
//! Version 1 ends at byte 64. Little-endian. The disk adds a checksum around it and tests it.

use bytes::{BufMut, Bytes, BytesMut};

use crate::limits::NODE_COUNT_MAX;
use crate::model::{ClusterId, Generation, LogNumber, NodeId, RingEpoch, Term, to_usize};
use crate::protocol::{MessageError, Table};

const MAGIC: u32 = u32::from_le_bytes(*b"CFN1");
const VERSION: u16 = 2;
const VERSION_BARE: u16 = 1;

const MAGIC_AT: usize = 0;
const VERSION_AT: usize = MAGIC_AT + size_of::<u32>();
const LOG_AT: usize = VERSION_AT + size_of::<u16>();
const NODE_AT: usize = LOG_AT + size_of::<u16>();
const RING_EPOCH_AT: usize = NODE_AT + size_of::<u32>();
const CLUSTER_AT: usize = RING_EPOCH_AT + size_of::<u32>();
const COPY_AT: usize = CLUSTER_AT + size_of::<u128>();
const GENERATION_AT: usize = COPY_AT + size_of::<u128>();
const TERM_AT: usize = GENERATION_AT + size_of::<u64>();
const IDENTITY_SIZE: usize = TERM_AT + size_of::<u64>();
const _: () = assert!(IDENTITY_SIZE == 64);

// Behind the identity, counted from there.
const KEY_AT: usize = 0;
const LOG_MAX_AT: usize = KEY_AT + size_of::<u128>();
const RESERVED_AT: usize = LOG_MAX_AT + size_of::<u16>();
const COUNT_AT: usize = RESERVED_AT + size_of::<u16>();
const KNOWN_SIZE: usize = COUNT_AT + size_of::<u32>();
const _: () = assert!(KNOWN_SIZE == 24);

/// Content of the identity file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    pub(super) log: LogNumber,
    /// Identity of this copy of the log: drawn by the authority at every grant.
    pub(super) copy: u128,
    pub(super) generation: Generation,
    pub(super) ring_epoch: RingEpoch,
    pub(super) term: Term,
}

/// What the node heard of the cluster, beside its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// The cluster's hash key; `None` in a file of version 1.
    pub(super) ring_key: Option<u128>,
    /// The highest log number of any member, ever; 0 = none.
    pub(super) log_max: u16,
    /// The members, rising, as of the newest table.
    pub(super) members: Vec<NodeId>,
}

/// Why a file is not an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum IdentityError {
    #[error("the file has {0} bytes, which no identity has")]
    Size(usize),
    #[error("the file does not begin with the mark of an identity")]
    Magic,
    #[error("the file is of version {0}, this build reads versions 1 and 2")]
    Version(u16),
    #[error("the field at byte {0} has a value that it cannot have")]
    Field(usize),
}

impl Identity {
    /// The whole file.
    pub(super) fn to_file(self, known: &Known) -> Bytes {
        let Some(ring_key) = known.ring_key else {
            return Bytes::copy_from_slice(&self.to_bytes(VERSION_BARE));
        };
        let mut out = BytesMut::with_capacity(IDENTITY_SIZE + KNOWN_SIZE);
        out.put_slice(&self.to_bytes(VERSION));
        out.put_u128_le(ring_key);
        out.put_u16_le(known.log_max);
        out.put_u16_le(0);
        out.put_u32_le(u32::try_from(known.members.len()).expect("members are bounded"));
        for node in &known.members {
            out.put_u32_le(node.get());
        }
        out.freeze()
    }

    fn to_bytes(self, version: u16) -> [u8; IDENTITY_SIZE] {
        let mut bytes = [0; IDENTITY_SIZE];
        put(&mut bytes, MAGIC_AT, MAGIC.to_le_bytes());
        put(&mut bytes, VERSION_AT, version.to_le_bytes());
        put(&mut bytes, LOG_AT, self.log.get().to_le_bytes());
        put(&mut bytes, NODE_AT, self.node.get().to_le_bytes());
        put(&mut bytes, RING_EPOCH_AT, self.ring_epoch.0.to_le_bytes());
        put(&mut bytes, CLUSTER_AT, self.cluster.get().to_le_bytes());
        put(&mut bytes, COPY_AT, self.copy.to_le_bytes());
        put(&mut bytes, GENERATION_AT, self.generation.0.to_le_bytes());
        put(&mut bytes, TERM_AT, self.term.0.to_le_bytes());
        bytes
    }

    pub(super) fn read(file: &[u8]) -> Result<(Self, Known), IdentityError> {
        let Some((bytes, rest)) = file.split_first_chunk::<IDENTITY_SIZE>() else {
            return Err(IdentityError::Size(file.len()));
        };
        if u32::from_le_bytes(take(bytes, MAGIC_AT)) != MAGIC {
            return Err(IdentityError::Magic);
        }
        let known = match u16::from_le_bytes(take(bytes, VERSION_AT)) {
            VERSION => Known::read(rest)?,
            VERSION_BARE if rest.is_empty() => Known::default(),
            VERSION_BARE => return Err(IdentityError::Size(file.len())),
            version => return Err(IdentityError::Version(version)),
        };
        let identity = Self {
            cluster: ClusterId::new(u128::from_le_bytes(take(bytes, CLUSTER_AT)))
                .ok_or(IdentityError::Field(CLUSTER_AT))?,
            node: NodeId::new(u32::from_le_bytes(take(bytes, NODE_AT)))
                .ok_or(IdentityError::Field(NODE_AT))?,
            log: LogNumber::new(u16::from_le_bytes(take(bytes, LOG_AT)))
                .ok_or(IdentityError::Field(LOG_AT))?,
            copy: u128::from_le_bytes(take(bytes, COPY_AT)),
            generation: Generation(u64::from_le_bytes(take(bytes, GENERATION_AT))),
            ring_epoch: RingEpoch(u32::from_le_bytes(take(bytes, RING_EPOCH_AT))),
            term: Term(u64::from_le_bytes(take(bytes, TERM_AT))),
        };
        Ok((identity, known))
    }
}

impl Known {
    /// Takes in who the members are. Tells whether that is news.
    pub(super) fn hear(&mut self, table: &Table<'_>) -> Result<bool, MessageError> {
        let mut heard = Self {
            ring_key: Some(table.ring_key),
            log_max: self.log_max,
            members: Vec::new(),
        };
        for member in table.members.iter() {
            let member = member?;
            heard.log_max = heard.log_max.max(member.log.get());
            heard.members.push(member.node);
        }
        heard.members.sort_unstable();
        heard.members.dedup();
        let is_news = *self != heard;
        *self = heard;
        Ok(is_news)
    }

    fn read(rest: &[u8]) -> Result<Self, IdentityError> {
        let size = IDENTITY_SIZE + rest.len();
        let Some((head, list)) = rest.split_first_chunk::<KNOWN_SIZE>() else {
            return Err(IdentityError::Size(size));
        };
        let wrong = |at: usize| IdentityError::Field(IDENTITY_SIZE + at);
        if u16::from_le_bytes(take(head, RESERVED_AT)) != 0 {
            return Err(wrong(RESERVED_AT));
        }
        let count = u32::from_le_bytes(take(head, COUNT_AT));
        if NODE_COUNT_MAX < count {
            return Err(wrong(COUNT_AT));
        }
        let (records, left) = list.as_chunks::<{ size_of::<u32>() }>();
        if records.len() != to_usize(u64::from(count)) || !left.is_empty() {
            return Err(IdentityError::Size(size));
        }
        let members = records
            .iter()
            .map(|bytes| NodeId::new(u32::from_le_bytes(*bytes)).ok_or(wrong(KNOWN_SIZE)))
            .collect::<Result<Vec<NodeId>, IdentityError>>()?;
        if !members.is_sorted_by(|one, next| one < next) {
            return Err(wrong(KNOWN_SIZE));
        }
        Ok(Self {
            ring_key: Some(u128::from_le_bytes(take(head, KEY_AT))),
            log_max: u16::from_le_bytes(take(head, LOG_MAX_AT)),
            members,
        })
    }
}

fn put<const N: usize>(bytes: &mut [u8; IDENTITY_SIZE], at: usize, field: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&field);
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster: ClusterId::new(0x0123_4567).unwrap(),
            node: NodeId::new(3).unwrap(),
            log: LogNumber::new(2).unwrap(),
            copy: 77,
            generation: Generation(1),
            ring_epoch: RingEpoch(9),
            term: Term(12),
        }
    }

    fn known() -> Known {
        Known {
            ring_key: Some(5),
            log_max: 7,
            members: [1, 3].map(|number| NodeId::new(number).unwrap()).to_vec(),
        }
    }

    #[test]
    fn reads_back() {
        for known in [known(), Known::default()] {
            let file = identity().to_file(&known);
            assert_eq!(Identity::read(&file), Ok((identity(), known)));
        }
    }

    /// Written by the first version: it did not know yet what a recovery needs.
    #[test]
    fn the_first_version_is_read() {
        let file = identity().to_file(&Known::default());
        assert_eq!((file.len(), file[VERSION_AT]), (64, 1));
    }

    #[test]
    fn foreign_bytes_are_told_apart() {
        let file = identity().to_file(&known()).to_vec();
        let check = |at: usize, expected| {
            let mut bytes = file.clone();
            bytes[at] ^= 0xff;
            assert_eq!(Identity::read(&bytes), Err(expected));
        };
        check(MAGIC_AT, IdentityError::Magic);
        check(VERSION_AT, IdentityError::Version(2 ^ 0xff));
        check(64 + RESERVED_AT, IdentityError::Field(82));
        check(64 + COUNT_AT, IdentityError::Size(file.len()));
        check(64 + COUNT_AT + 3, IdentityError::Field(84));
        check(64 + KNOWN_SIZE, IdentityError::Field(88));
        assert_eq!(Identity::read(&[0; 3]), Err(IdentityError::Size(3)));
        for size in 64..file.len() {
            assert_eq!(
                Identity::read(&file[..size]),
                Err(IdentityError::Size(size))
            );
        }
        let mut bytes = file;
        bytes[LOG_AT..NODE_AT].fill(0);
        assert_eq!(Identity::read(&bytes), Err(IdentityError::Field(LOG_AT)));
        bytes[NODE_AT..RING_EPOCH_AT].fill(0);
        assert_eq!(Identity::read(&bytes), Err(IdentityError::Field(NODE_AT)));
        bytes[CLUSTER_AT..COPY_AT].fill(0);
        assert_eq!(
            Identity::read(&bytes),
            Err(IdentityError::Field(CLUSTER_AT))
        );
    }
}
