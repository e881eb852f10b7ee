//! Proof of work that a holder under load asks for before it keeps something new (SECURITY §3.10): SHA-256 with so many
//! leading zero bits over key and day.
//!
//! Bound to the record's key, which follows from overlay, user and replica, so it is good at all holders of that region
//! and nowhere else; and to the day, so nobody mints for next month. Plain SHA-256 favours who has hardware for it: the
//! stamp is no wall, it makes a flood of identities cost more than the signatures on them. The wall is the share that a
//! network may have of a holder.

use crate::clock::UnixMillis;
use crate::record::RecordKey;
use sha2::{Digest, Sha256};

const TAG: &[u8] = b"peerline-stamp-1";
const DAY_MS: u64 = 86_400_000;

/// Most bits that an honest holder asks for: some two seconds of one core.
pub const MAX_STAMP_BITS: u8 = 24;

/// Proof of work for one key and day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// Days since 1970.
    pub day: u32,
    pub nonce: u64,
}

impl Stamp {
    /// Tries `tries` nonces from `from` on; about `2^bits` are needed. `None`: go on from `from + tries`.
    pub fn mint(key: &RecordKey, bits: u8, now: UnixMillis, from: u64, tries: u64) -> Option<Self> {
        let day = day_of(now);
        let prefix = prefix(key, day);
        (from..from.saturating_add(tries))
            .find(|nonce| zeros(&prefix, *nonce) >= u32::from(bits))
            .map(|nonce| Self { day, nonce })
    }

    /// Whether it is worth `bits` for `key`, now or within a day of it: clocks differ and midnight comes.
    pub fn is_worth(&self, key: &RecordKey, bits: u8, now: UnixMillis) -> bool {
        self.day.abs_diff(day_of(now)) <= 1 && zeros(&prefix(key, self.day), self.nonce) >= u32::from(bits)
    }

    /// As it travels: day and nonce, big-endian.
    pub fn encode(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.day.to_be_bytes());
        bytes[4..].copy_from_slice(&self.nonce.to_be_bytes());
        bytes
    }

    /// `None` for anything else than 12 bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 12] = bytes.try_into().ok()?;
        let (day, nonce) = (bytes.first_chunk()?, bytes.last_chunk()?);
        Some(Self { day: u32::from_be_bytes(*day), nonce: u64::from_be_bytes(*nonce) })
    }
}

fn day_of(now: UnixMillis) -> u32 {
    u32::try_from(now.0 / DAY_MS).unwrap_or(u32::MAX)
}

fn prefix(key: &RecordKey, day: u32) -> Sha256 {
    Sha256::new().chain_update(TAG).chain_update(key.0).chain_update(day.to_be_bytes())
}

fn zeros(prefix: &Sha256, nonce: u64) -> u32 {
    let hash = prefix.clone().chain_update(nonce.to_be_bytes()).finalize();
    let head = hash.first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head));
    head.leading_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
    const KEY: RecordKey = RecordKey([7; 32]);

    #[test]
    fn is_worth_what_it_cost_for_its_key_and_day() {
        let stamp = Stamp::mint(&KEY, 10, NOW, 0, 100_000).unwrap();
        assert!(stamp.is_worth(&KEY, 10, NOW));
        assert!(stamp.is_worth(&KEY, 10, UnixMillis(NOW.0 + DAY_MS)), "midnight passed");
        assert!(!stamp.is_worth(&KEY, 10, UnixMillis(NOW.0 + 2 * DAY_MS)));
        assert!(!stamp.is_worth(&KEY, 64, NOW));
        let others = (0..40_u8).filter(|other| stamp.is_worth(&RecordKey([100 + other; 32]), 10, NOW)).count();
        assert!(others <= 1, "{others} of 40 other keys by luck");
        assert_eq!(Stamp::mint(&KEY, 60, NOW, 0, 100), None);
    }

    #[test]
    fn travels() {
        let stamp = Stamp { day: 20_000, nonce: u64::MAX - 3 };
        assert_eq!(Stamp::decode(&stamp.encode()), Some(stamp));
        assert_eq!(Stamp::decode(&[0; 11]), None);
        assert_eq!(Stamp::decode(&[0; 13]), None);
    }
}
