//! Good checksums for the bytes of any checkpoint: a test aid, for what lies behind them.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use super::header::{
    CLUSTER_AT, CRC_AT, DIGEST_AT, FILE_SIZE_AT, Fields, LOG_AT, PAGE_COUNT_AT, crc, file_size,
};
use super::{CHECKPOINT_HEADER_SIZE, CHECKPOINT_PAGE_SIZE, page_crc};
use crate::model::{ClusterId, LogNumber, to_u64};

/// Mends length, page count, digest and all checksums where there is a header to put them in.
pub(in crate::log) fn forge(content: &mut [u8]) {
    let Some((header, pages)) = content.split_at_mut_checked(CHECKPOINT_HEADER_SIZE) else {
        return;
    };
    let fields = Fields(header);
    let log = fields.u16(LOG_AT).and_then(LogNumber::new);
    let cluster = fields.u128(CLUSTER_AT).and_then(ClusterId::new);
    let (Some(log), Some(cluster)) = (log, cluster) else {
        return;
    };
    let mut digest = SipHasher24::new_with_keys(0, 0);
    let mut page_count = 0;
    for page in pages.chunks_exact_mut(CHECKPOINT_PAGE_SIZE) {
        let crc = page_crc(log, cluster, page).to_le_bytes();
        page[..crc.len()].copy_from_slice(&crc);
        digest.write(&crc);
        page_count += 1;
    }
    let mut put = |at: usize, number: u64| {
        header[at..at + size_of::<u64>()].copy_from_slice(&number.to_le_bytes());
    };
    put(PAGE_COUNT_AT, page_count);
    put(FILE_SIZE_AT, file_size(page_count));
    put(DIGEST_AT, digest.finish());
    let crc = crc(header).to_le_bytes();
    header[CRC_AT..CRC_AT + crc.len()].copy_from_slice(&crc);
    debug_assert!(file_size(page_count) <= to_u64(content.len()));
}
