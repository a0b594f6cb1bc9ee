//! Keyed hashes that are fixed: the user key (first key), and fingerprints of ids.

use siphasher::sip::SipHasher24;

use super::{OperationId, Slot, UserId};

/// Top 16 bits of SipHash-2-4 over the 16 little-endian bytes of the user id.
///
/// `ring_key` is the cluster's: its low 64 bits are `SipHash`'s k0, its high 64 bits k1.
#[must_use]
pub fn user_slot(ring_key: u128, user: UserId) -> Slot {
    Slot((keyed(ring_key).hash(&user.get().to_le_bytes()) >> 48) as u16)
}

/// Fingerprint of an id in tables and checkpoints: in the top 16 bits the user's slot, below it
/// the low 48 bits of SipHash-2-4 over the 16 little-endian bytes of the user and the 16 of the
/// id, with the key of [`user_slot`]; 1 in their place if they are 0.
///
/// By the slot the ids of some slots are told from the others when they move. Keyed, so that
/// nobody can make ids that collide; the length tells the hash from a user's.
#[must_use]
pub fn id_fingerprint(ring_key: u128, user: UserId, id: OperationId) -> u64 {
    id_fingerprint_in(user_slot(ring_key, user), ring_key, user, id)
}

/// [`id_fingerprint`] where the user's slot is known.
#[must_use]
pub fn id_fingerprint_in(slot: Slot, ring_key: u128, user: UserId, id: OperationId) -> u64 {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&user.get().to_le_bytes());
    bytes[16..].copy_from_slice(&id.get().to_le_bytes());
    let low = keyed(ring_key).hash(&bytes) & (u64::MAX >> 16);
    (u64::from(slot.0) << 48) | low.max(1)
}

/// For all bytes at once: so few, fed piece by piece, cost a little more (12 of 240 instructions).
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the halves of the key")]
fn keyed(ring_key: u128) -> SipHasher24 {
    SipHasher24::new_with_keys(ring_key as u64, (ring_key >> 64) as u64)
}

/// The slot in a fingerprint.
#[must_use]
pub const fn slot_of_fingerprint(fingerprint: u64) -> Slot {
    Slot((fingerprint >> 48) as u16)
}
