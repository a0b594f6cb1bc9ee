//! The identity file: who this folder is, and what it last worked under.
//!
//! It is saved after every grant and before the first use of the granted term, so that a copied
//! folder, a folder of another node and an older backup are told apart at the next start.
//!
//! ```text
//!  0  magic "CFN1"      u32     16  cluster id   u128     48  generation  u64
//!  4  version (1)       u16     32  copy         u128     56  term        u64
//!  6  log number        u16
//!  8  node id           u32
//! 12  ring epoch        u32                              64 bytes in all
//! ```
//!
//! Little-endian. The disk adds a checksum around it and tests it.

use crate::model::{ClusterId, Generation, LogNumber, NodeId, RingEpoch, Term};

const MAGIC: u32 = u32::from_le_bytes(*b"CFN1");
const VERSION: u16 = 1;

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

/// Why a file is not an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum IdentityError {
    #[error("the file has {0} bytes, an identity has 64")]
    Size(usize),
    #[error("the file does not begin with the mark of an identity")]
    Magic,
    #[error("the file is of version {0}, this build reads version 1")]
    Version(u16),
    #[error("the field at byte {0} has a value that it cannot have")]
    Field(usize),
}

impl Identity {
    pub(super) fn to_bytes(self) -> [u8; IDENTITY_SIZE] {
        let mut bytes = [0; IDENTITY_SIZE];
        put(&mut bytes, MAGIC_AT, MAGIC.to_le_bytes());
        put(&mut bytes, VERSION_AT, VERSION.to_le_bytes());
        put(&mut bytes, LOG_AT, self.log.get().to_le_bytes());
        put(&mut bytes, NODE_AT, self.node.get().to_le_bytes());
        put(&mut bytes, RING_EPOCH_AT, self.ring_epoch.0.to_le_bytes());
        put(&mut bytes, CLUSTER_AT, self.cluster.get().to_le_bytes());
        put(&mut bytes, COPY_AT, self.copy.to_le_bytes());
        put(&mut bytes, GENERATION_AT, self.generation.0.to_le_bytes());
        put(&mut bytes, TERM_AT, self.term.0.to_le_bytes());
        bytes
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self, IdentityError> {
        let bytes: &[u8; IDENTITY_SIZE] = bytes
            .try_into()
            .map_err(|_wrong_size| IdentityError::Size(bytes.len()))?;
        if u32::from_le_bytes(take(bytes, MAGIC_AT)) != MAGIC {
            return Err(IdentityError::Magic);
        }
        let version = u16::from_le_bytes(take(bytes, VERSION_AT));
        if version != VERSION {
            return Err(IdentityError::Version(version));
        }
        Ok(Self {
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
        })
    }
}

fn put<const N: usize>(bytes: &mut [u8; IDENTITY_SIZE], at: usize, field: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&field);
}

fn take<const N: usize>(bytes: &[u8; IDENTITY_SIZE], at: usize) -> [u8; N] {
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

    #[test]
    fn reads_back() {
        assert_eq!(Identity::read(&identity().to_bytes()), Ok(identity()));
    }

    #[test]
    fn foreign_bytes_are_told_apart() {
        let check = |at: usize, expected| {
            let mut bytes = identity().to_bytes();
            bytes[at] ^= 0xff;
            assert_eq!(Identity::read(&bytes), Err(expected));
        };
        check(MAGIC_AT, IdentityError::Magic);
        check(VERSION_AT, IdentityError::Version(1 ^ 0xff));
        assert_eq!(Identity::read(&[0; 3]), Err(IdentityError::Size(3)));
        let mut bytes = identity().to_bytes();
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
