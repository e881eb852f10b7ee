//! Records that this node keeps for the overlay: a bounded index in memory, served to the DHT from there, written
//! behind to the store. Nothing enters but through the validator; nothing is served after its wall-clock expiry.

use crate::clock::UnixMillis;
use crate::record::{self, Judge, RecordKey, RejectReason, ValidBundle};
use libp2p::PeerId;
use libp2p::kad::{ProviderRecord, Record, RecordKey as KadKey, store};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Nodes of ours that are nearer to a key, from which on the record is none of our business: twice the replication
/// factor, so that tables that differ do not refuse an honest publisher.
const NEARER_IS_NOT_MINE: usize = 40;

/// Writes that wait for the store at most; more are dropped, as the publisher's refresh brings them again.
const MAX_WRITES: usize = 4096;

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
    held: HashMap<[u8; 32], Held>,
    writes: Vec<Write>,
    clock: fn() -> UnixMillis,
}

impl Records {
    pub(super) fn new(node: PeerId, max: usize, clock: fn() -> UnixMillis) -> Self {
        Self { here: Sha256::digest(node.to_bytes()).into(), max, held: HashMap::new(), writes: Vec::new(), clock }
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn held(&self, key: &RecordKey) -> Option<&ValidBundle> {
        self.held.get(&key.0).map(|held| &held.bundle)
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
        let bundle = record::validate(bytes, &key, judge, held.map(|held| &held.bundle))?;
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
        if self.held.len() >= self.max && !self.held.contains_key(&key.0) {
            self.make_room(&key, now)?;
        }
        let bytes = merged.encode();
        self.write(key.0, Some(bytes.clone()));
        self.held.insert(key.0, Held { bundle: merged, bytes });
        Ok(Kept::Fresher)
    }

    /// Drops what has expired, or else the record farthest from this node if the new one is nearer.
    fn make_room(&mut self, new: &RecordKey, now: UnixMillis) -> Result<(), NotKept> {
        self.expire(now);
        if self.held.len() < self.max {
            return Ok(());
        }
        let farthest = self.held.keys().max_by_key(|key| self.distance(*key)).copied().ok_or(NotKept::Full)?;
        if self.distance(&new.0) >= self.distance(&farthest) {
            return Err(NotKept::Full);
        }
        self.held.remove(&farthest);
        self.write(farthest, None);
        Ok(())
    }

    /// Forgets what is over.
    pub(super) fn expire(&mut self, now: UnixMillis) {
        let over: Vec<[u8; 32]> =
            self.held.iter().filter(|(_, held)| held.bundle.expires_at() <= now).map(|(key, _)| *key).collect();
        for key in over {
            self.held.remove(&key);
            self.write(key, None);
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
