//! Where nodes and keys lie: the 256-bit space of libp2p-kad, where everything is hashed once more.

use crate::identity::NodeKey;
use crate::record::RecordKey;
use sha2::{Digest, Sha256};

/// How libp2p writes the peer id of an Ed25519 key: an identity multihash of the protobuf key.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// A point of the space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position(pub [u8; 32]);

impl Position {
    /// Of a node: the hash of its peer id.
    pub fn of_node(node: &NodeKey) -> Self {
        Self(Sha256::new().chain_update(PEER_ID_PREFIX).chain_update(node.0).finalize().into())
    }

    /// Of a record key (FORMATS "Where").
    pub fn of_key(key: &RecordKey) -> Self {
        Self(Sha256::digest(key.0).into())
    }

    /// XOR distance.
    pub fn distance(&self, other: &Position) -> Distance {
        Distance(std::array::from_fn(|i| self.0[i] ^ other.0[i]))
    }
}

/// How far two points are apart; ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Distance(pub [u8; 32]);

impl Distance {
    pub const ZERO: Distance = Distance([0; 32]);
    pub const MAX: Distance = Distance([0xff; 32]);

    /// Leading bits that two points share, 0 to 256: the number of the bucket.
    pub fn shared_bits(&self) -> u32 {
        let zeros = self.0.iter().take_while(|byte| **byte == 0).count();
        let next = self.0.get(zeros).map_or(0, |byte| byte.leading_zeros());
        u32::try_from(zeros).unwrap_or(32) * 8 + next
    }

    /// As a share of the whole space, 0 to 1.
    pub fn fraction(&self) -> f64 {
        let head = self.0.first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head));
        head as f64 / 2_f64.powi(64)
    }

    /// The distance that is this share of the space; 1 and more is all of it. Exact to 2^-53 of the space.
    pub fn of_fraction(fraction: f64) -> Self {
        if fraction >= 1.0 {
            return Self::MAX;
        }
        let mut bytes = [0xff; 32];
        bytes[..8].copy_from_slice(&((fraction.max(0.0) * 2_f64.powi(64)) as u64).to_be_bytes());
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_where_libp2p_puts_a_peer() {
        let node = NodeKey([7; 32]);
        let key = libp2p_key(&node);
        assert_eq!(Position::of_node(&node).0, key);
    }

    /// The hash of a peer id, spelled out: `0x00` identity, length 36, field 1 varint 1 (Ed25519), field 2 of 32 bytes.
    fn libp2p_key(node: &NodeKey) -> [u8; 32] {
        let mut id = vec![0, 36, 8, 1, 18, 32];
        id.extend_from_slice(&node.0);
        Sha256::digest(id).into()
    }

    #[test]
    fn fractions_and_bits_agree() {
        assert_eq!(Distance::ZERO.shared_bits(), 256);
        assert_eq!(Distance::MAX.shared_bits(), 0);
        for bits in [1_u32, 4, 9, 30] {
            let distance = Distance::of_fraction(0.75 * 0.5_f64.powi(i32::try_from(bits).unwrap()));
            assert_eq!(distance.shared_bits(), bits);
            assert!((distance.fraction() / (0.75 * 0.5_f64.powi(i32::try_from(bits).unwrap())) - 1.0).abs() < 1e-9);
        }
        assert_eq!(Distance::of_fraction(2.0), Distance::MAX);
    }
}
