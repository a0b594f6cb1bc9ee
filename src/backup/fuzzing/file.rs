//! The authority's file: any bytes, and good ones that were changed.

use std::sync::OnceLock;

use bytes::Bytes;

use super::bench::{cluster, node};
use crate::backup::authority::Record;
use crate::backup::{NewCluster, NewNode};
use crate::limits::SEGMENT_SIZE_MIN;
use crate::model::{Choices, Slot, to_usize};

/// Reading never panics; what is read is written and read again as the same record.
pub fn check_authority(bytes: &[u8]) {
    check(bytes);
    let mut choices = Choices::new(bytes);
    let mut changed = good().to_vec();
    let change_count = 1 + choices.below(4);
    for _ in 0..change_count {
        let at = to_usize(choices.below(1 << 16)) % changed.len();
        match choices.below(4) {
            0 => changed.truncate(at.max(1)),
            1 => {
                let size = to_usize(choices.below(64));
                changed.extend_from_slice(choices.bytes(size));
            }
            size => {
                let new = choices.bytes(to_usize(size) - 1);
                for (old, new) in changed[at..].iter_mut().zip(new) {
                    *old = *new;
                }
            }
        }
    }
    check(&changed);
}

fn check(bytes: &[u8]) {
    match Record::decode(bytes) {
        Ok(record) => {
            let again = record.encode();
            assert_eq!(Record::decode(&again).as_ref(), Ok(&record));
            assert_eq!(record.encode(), again);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn good() -> &'static Bytes {
    static GOOD: OnceLock<Bytes> = OnceLock::new();
    GOOD.get_or_init(|| {
        let new = |number, keys| NewNode {
            node: node(number),
            weight: 1,
            keys,
        };
        let cluster = NewCluster {
            cluster: cluster(),
            ring_key: 99,
            nodes: vec![
                new(1, vec![Slot(9), Slot(70)]),
                new(2, vec![Slot(9_000)]),
                new(7, vec![Slot(40_000)]),
            ],
            segment_size: SEGMENT_SIZE_MIN,
        };
        Record::create(&cluster, 1_700_000_000_000).encode()
    })
}
