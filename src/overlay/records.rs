//! Records that this node keeps for the overlay: a bounded index in memory, served to the DHT from there, written
//! behind to the store. Nothing enters but through the validator; nothing is served after its wall-clock expiry.

use crate::clock::UnixMillis;
use crate::record::{self, Judge, RecordKey, RejectReason, ValidBundle};
use libp2p::PeerId;
use libp2p::kad::{ProviderRecord, Record, RecordKey as KadKey, store};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Nodes of ours that are nearer to a key, from which on the record is none of our business: twice the replication
/// factor, so that tables that differ do not refuse an honest publisher.
const NEARER_IS_NOT_MINE: usize = 40;

/// Writes that wait for the store at most; more are dropped, as the publisher's refresh brings them again.
const MAX_WRITES: usize = 4096;

/// Encoded bytes kept at most, however many records that is; in memory a record takes some three times as much. Anybody
/// can make records of 12 KiB, so a bound of their number alone is none.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// What has expired is looked for this often when there is no room: a full index must not cost a walk for each put.
const EXPIRE_AGAIN_MS: u64 = 10_000;

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
            clock,
        }
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
mod tests {
    use super::*;
    use crate::identity::{NodeSecret, Seed};
    use crate::record::{EntryDraft, UserHeader, replica_keys, sign_bundle};
    use crate::wire::{AddressScope, OverlayId};

    const OVERLAY: OverlayId = OverlayId([3; 32]);
    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn judge() -> Judge {
        Judge { overlay: OVERLAY, scope: AddressScope::Any, now: NOW }
    }

    /// A stranger's record, with one of its keys.
    fn record(addresses: usize) -> (RecordKey, Vec<u8>) {
        let (user, device) = (Seed::generate().identity(), NodeSecret::generate());
        let certificate = user.certify(device.public(), &OVERLAY, 0, NOW);
        let draft = EntryDraft {
            epoch: 0,
            sequence: NOW.0,
            issued_at: NOW,
            expires_at: UnixMillis(NOW.0 + 3_600_000),
            tombstone: false,
            priority: 0,
            addresses: vec![vec![4, 8, 8, 8, 8, 6, 1, 1]; addresses],
        };
        let header = UserHeader::from(&user);
        (replica_keys(&OVERLAY, &user.id)[0], sign_bundle(&header, &certificate, &device, &OVERLAY, &draft))
    }

    fn sound(records: &Records) {
        let bytes: usize = records.held.values().map(|held| held.bytes.len()).sum();
        assert_eq!((records.bytes, records.by_distance.len()), (bytes, records.held.len()));
        assert!(records.bytes <= records.max_bytes && records.held.len() <= records.max);
    }

    #[test]
    fn strangers_fill_neither_the_number_nor_the_bytes_and_the_nearest_stay() {
        for (max, max_bytes) in [(8, MAX_BYTES), (usize::MAX, 4_000)] {
            let mut records = Records { max_bytes, ..Records::new(PeerId::random(), max, || NOW) };
            let (mut all, mut full) = (Vec::new(), 0);
            for n in 0..60 {
                let (key, bytes) = record(n % 3);
                match records.offer(&key.0, &bytes, &judge(), 0) {
                    Ok(kept) => assert_eq!(kept, Kept::Fresher),
                    Err(why) => {
                        assert_eq!(why, NotKept::Full);
                        full += 1;
                    }
                }
                all.push(records.distance(&key.0));
                sound(&records);
            }
            assert!(full > 0 && records.len() > 2);
            all.sort_unstable();
            assert_eq!(records.by_distance.keys().next(), all.first(), "the nearest of all is held");
        }
    }

    #[test]
    fn what_is_over_makes_room_and_the_bytes_are_given_back() {
        let mut records = Records::new(PeerId::random(), 1, || NOW);
        let (key, bytes) = record(0);
        records.offer(&key.0, &bytes, &judge(), 0).unwrap();
        assert_eq!(records.offer(&key.0, &bytes, &judge(), 0), Ok(Kept::Already));
        records.expire(UnixMillis(NOW.0 + 3_600_001));
        sound(&records);
        assert_eq!((records.len(), records.bytes), (0, 0));
    }
}
