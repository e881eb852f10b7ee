//! Where a user's bundle lies: the door key and its four replica keys (docs/protocol.md "Where").

use crate::uri::IdHash;
use crate::wire::OverlayId;
use sha2::{Digest, Sha256};

/// Key under which the overlay stores a bundle (`K_j`, before kad hashes it again).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey(pub [u8; 32]);

/// `D = H("peerline-door-1" || overlay_id || idhash)`: the scope of a user's location signatures.
pub fn door_key(overlay: &OverlayId, id: &IdHash) -> [u8; 32] {
    Sha256::new().chain_update(b"peerline-door-1").chain_update(overlay.0).chain_update(id.0).finalize().into()
}

/// The four replica keys of a user: `K_j = H(D || u8 j)`, j = 0..3.
pub fn replica_keys(overlay: &OverlayId, id: &IdHash) -> [RecordKey; 4] {
    let door = door_key(overlay, id);
    std::array::from_fn(|j| RecordKey(Sha256::new().chain_update(door).chain_update([j as u8]).finalize().into()))
}
