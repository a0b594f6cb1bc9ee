//! The user key (first key): which slot a user belongs to.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use super::{Slot, UserId};

/// Top 16 bits of SipHash-2-4 over the 16 little-endian bytes of the user id.
///
/// `ring_key` is the cluster's: its low 64 bits are SipHash's k0, its high 64 bits k1.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the halves of the key; 16 bits are left"
)]
pub fn user_slot(ring_key: u128, user: UserId) -> Slot {
    let mut hasher = SipHasher24::new_with_keys(ring_key as u64, (ring_key >> 64) as u64);
    hasher.write(&user.get().to_le_bytes());
    Slot((hasher.finish() >> 48) as u16)
}
