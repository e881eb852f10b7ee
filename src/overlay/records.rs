//! Records that this node keeps for the overlay: a bounded index in memory, served to the DHT from there, written
//! behind to the store. Nothing enters but through the validator; nothing is served after its wall-clock expiry.

use crate::clock::UnixMillis;
use crate::record::{self, Judge, RecordKey, RejectReason, ValidBundle};
use bytes::Bytes;
use libp2p::PeerId;
use libp2p::kad::{ProviderRecord, Record, RecordKey as KadKey, store};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Nodes of ours that are nearer to a key, from which on the record is none of our business: twice the replication
/// factor, so that tables that differ do not refuse an honest publisher.
pub(super) const NEARER_IS_NOT_MINE: usize = 40;

/// Writes that wait for the store at most; more are dropped, as the publisher's refresh brings them again.
const MAX_WRITES: usize = 4096;

/// Encoded bytes kept at most, however many records that is; in memory a record takes some three times as much. Anybody
/// can make records of 12 KiB, so a bound of their number alone is none.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// What has expired is looked for this often when there is no room: a full index must not cost a walk for each put.
const EXPIRE_AGAIN_MS: u64 = 10_000;

/// Users whose last verified bundle is remembered, so that its copies under the other keys cost no signatures.
const MAX_RECENT: usize = 32;

/// Why a record from a peer was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotKept {
    #[error("{0}")]
    Rejected(#[from] RejectReason),
    #[error("not mine")]
    NotMine,
    #[error("no room")]
    Full,
}

/// What a put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// Held already, byte for byte or with something fresher.
    Already,
    /// Stored or merged.
    Fresher,
}

/// A row for the store: `None` removes it.
pub(super) type Write = ([u8; 32], Option<Vec<u8>>);

struct Held {
    bundle: ValidBundle,
    bytes: Vec<u8>,
}

/// The index. Also what libp2p's kad asks when a peer wants a record.
pub(super) struct Records {
    here: [u8; 32],
    max: usize,
    max_bytes: usize,
    held: HashMap<[u8; 32], Held>,
    /// Keys by their distance from this node.
    by_distance: BTreeMap<[u8; 32], [u8; 32]>,
    bytes: usize,
    expired_at: UnixMillis,
    writes: Vec<Write>,
    /// Verified last, with the user's keys; the latest first.
    recent: VecDeque<([RecordKey; 4], ValidBundle)>,
    clock: fn() -> UnixMillis,
}

impl Records {
    pub(super) fn new(node: PeerId, max: usize, clock: fn() -> UnixMillis) -> Self {
        Self {
            here: Sha256::digest(node.to_bytes()).into(),
            max,
            max_bytes: MAX_BYTES,
            held: HashMap::new(),
            by_distance: BTreeMap::new(),
            bytes: 0,
            expired_at: UnixMillis(0),
            writes: Vec::new(),
            recent: VecDeque::new(),
            clock,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn held(&self, key: &RecordKey) -> Option<&ValidBundle> {
        self.held.get(&key.0).map(|held| &held.bundle)
    }

    /// What is served under a key at `now`.
    pub(super) fn bytes_of(&self, key: &RecordKey, now: UnixMillis) -> Option<Bytes> {
        let held = self.held.get(&key.0)?;
        (held.bundle.expires_at() > now).then(|| Bytes::copy_from_slice(&held.bytes))
    }

    /// Judges bytes that a peer wants kept. `nearer`: how many known servers are nearer to the key than this node.
    pub(super) fn offer(&mut self, key: &[u8], bytes: &[u8], judge: &Judge, nearer: usize) -> Result<Kept, NotKept> {
        let key = RecordKey(key.try_into().map_err(|_| RejectReason::WrongKey)?);
        if bytes.len() > record::MAX_BUNDLE_BYTES {
            return Err(RejectReason::TooLarge.into());
        }
        let held = self.held.get(&key.0);
        if held.is_some_and(|held| held.bytes == bytes) {
            return Ok(Kept::Already);
        }
        if held.is_none() && nearer >= NEARER_IS_NOT_MINE {
            return Err(NotKept::NotMine);
        }
        // A user's four keys come one after the other with the same bytes: what was verified under one of them is held
        // already as far as the validator is concerned.
        let seen = self.recent.iter().find(|(keys, _)| keys.contains(&key)).map(|(_, bundle)| bundle);
        let known = match (held.map(|held| &held.bundle), seen) {
            (Some(held), Some(seen)) => Some(held.merge(seen)),
            (held, seen) => held.or(seen).cloned(),
        };
        let holds_none = held.is_none();
        let bundle = match (record::validate(bytes, &key, judge, known.as_ref()), known) {
            (Err(RejectReason::Stale), Some(fresher)) if holds_none => {
                // Under this key too, rather than nothing; whether there was room is not the peer's business.
                let _ = self.keep(key, fresher, judge.now);
                return Err(RejectReason::Stale.into());
            }
            (verdict, _) => verdict?,
        };
        let keys = record::replica_keys(&judge.overlay, &bundle.id());
        self.recent.retain(|(other, _)| *other != keys);
        self.recent.truncate(MAX_RECENT - 1);
        self.recent.push_front((keys, bundle.clone()));
        self.keep(key, bundle, judge.now)
    }

    /// Keeps what passed the validator: from a peer, from the disk, or of a user of this node.
    pub(super) fn keep(&mut self, key: RecordKey, bundle: ValidBundle, now: UnixMillis) -> Result<Kept, NotKept> {
        if bundle.expires_at() <= now {
            return Err(RejectReason::Expired.into());
        }
        let merged = match self.held.get(&key.0) {
            Some(held) => {
                let merged = held.bundle.merge(&bundle);
                if merged == held.bundle {
                    return Ok(Kept::Already);
                }
                merged
            }
            None => bundle,
        };
        let bytes = merged.encode();
        let distance = self.distance(&key.0);
        self.make_room(&key, &distance, bytes.len(), now)?;
        self.write(key.0, Some(bytes.clone()));
        self.bytes += bytes.len();
        self.by_distance.insert(distance, key.0);
        if let Some(before) = self.held.insert(key.0, Held { bundle: merged, bytes }) {
            self.bytes -= before.bytes.len();
        }
        Ok(Kept::Fresher)
    }

    /// Drops what has expired, or else records farther from this node than this one, until `bytes` under `key` fit.
    fn make_room(
        &mut self,
        key: &RecordKey,
        distance: &[u8; 32],
        bytes: usize,
        now: UnixMillis,
    ) -> Result<(), NotKept> {
        let fits = |records: &Self| {
            let (count, before) = records.held.get(&key.0).map_or((1, 0), |held| (0, held.bytes.len()));
            records.held.len() + count <= records.max && records.bytes - before + bytes <= records.max_bytes
        };
        if !fits(self) && now.0.abs_diff(self.expired_at.0) >= EXPIRE_AGAIN_MS {
            self.expired_at = now;
            self.expire(now);
        }
        while !fits(self) {
            let (farthest, victim) = self.by_distance.last_key_value().ok_or(NotKept::Full)?;
            if farthest <= distance {
                return Err(NotKept::Full);
            }
            let victim = *victim;
            self.drop_key(&victim);
        }
        Ok(())
    }

    /// Forgets what is over.
    pub(super) fn expire(&mut self, now: UnixMillis) {
        let over: Vec<[u8; 32]> =
            self.held.iter().filter(|(_, held)| held.bundle.expires_at() <= now).map(|(key, _)| *key).collect();
        for key in over {
            self.drop_key(&key);
        }
    }

    fn drop_key(&mut self, key: &[u8; 32]) {
        if let Some(held) = self.held.remove(key) {
            self.bytes -= held.bytes.len();
            let distance = self.distance(key);
            self.by_distance.remove(&distance);
            self.write(*key, None);
        }
    }

    /// How far a key lies from this node, in kad's metric.
    pub(super) fn distance(&self, key: &[u8]) -> [u8; 32] {
        xor(&position(key), &self.here)
    }

    /// What is to be written behind since the last call.
    pub(super) fn take_writes(&mut self) -> Vec<Write> {
        std::mem::take(&mut self.writes)
    }

    fn write(&mut self, key: [u8; 32], value: Option<Vec<u8>>) {
        if self.writes.len() < MAX_WRITES {
            self.writes.push((key, value));
        }
    }
}

/// Where a key or a peer id lies: kad hashes both.
pub(super) fn position(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

pub(super) fn xor(a: &[u8; 32], b: &[u8; 32]) -> [u8; 32] {
    std::array::from_fn(|i| a[i] ^ b[i])
}

impl store::RecordStore for Records {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::iter::Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, key: &KadKey) -> Option<Cow<'_, Record>> {
        let key32: [u8; 32] = key.as_ref().try_into().ok()?;
        let held = self.held.get(&key32)?;
        let left = held.bundle.expires_at().0.checked_sub((self.clock)().0)?;
        if left == 0 {
            return None;
        }
        Some(Cow::Owned(Record {
            key: key.clone(),
            value: held.bytes.clone(),
            publisher: None,
            expires: Instant::now().checked_add(Duration::from_millis(left)),
        }))
    }

    /// Only [`Records::offer`] and [`Records::keep`] store: kad's own way in is shut.
    fn put(&mut self, _record: Record) -> store::Result<()> {
        Err(store::Error::MaxRecords)
    }

    fn remove(&mut self, _key: &KadKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    fn add_provider(&mut self, _record: ProviderRecord) -> store::Result<()> {
        Err(store::Error::MaxProvidedKeys)
    }

    fn providers(&self, _key: &KadKey) -> Vec<ProviderRecord> {
        Vec::new()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        std::iter::empty()
    }

    fn remove_provider(&mut self, _key: &KadKey, _provider: &PeerId) {}
}

#[cfg(test)]
mod tests;
