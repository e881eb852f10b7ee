//! What this node keeps for others: a bounded index of encoded bundles, served from as they are. Nothing enters but
//! through the validator, nothing is served after its expiry, and what was refused leaves nothing behind.
//!
//! Who may fill it (SECURITY §3.10), for a store of 64 MiB and 40,000 bundles:
//! - *Under half full* everything valid that belongs here is kept, from anybody. An honest gateway has hundreds of users
//!   on one node; in an overlay of 60 nodes each holder gets all of their keys within minutes. A quota by the hour
//!   would refuse exactly those, so there is none while there is room.
//! - *From half full on* a network that has more than 1/256 of the store pays for each new record with a stamp and keeps
//!   to an hourly quota. One network that floods up to the half has shut out itself and nobody else.
//! - *From four fifths on* every new record needs a stamp, and takes the room of the newest record of the heaviest
//!   network; the heaviest itself is refused before a signature is looked at. What has been here for a day in the core
//!   of this node's region stays, as long as its network has no more than an eighth of the store.
//! - Renewing what is held costs no stamp and no quota, only a pace: so whoever was there before a flood stays.
//!
//! Decoded bundles are not kept: they take five times the memory of their bytes. An update verifies the held bytes once
//! more, 0.1 ms.

mod pace;
mod repair;
mod room;
mod row;
mod shares;

pub use repair::Repair;
pub use row::{Row, Unread};

use super::stamp::Stamp;
use super::{Network, Position, REACH, REGION, Stored};
use crate::clock::UnixMillis;
use crate::identity::NodeKey;
use crate::record::{self, Judge, MAX_BUNDLE_BYTES, RecordKey, RejectReason, ValidBundle};
use bytes::Bytes;
use pace::{Pace, Rhythm};
use room::Quotas;
use shares::{Share, Shares};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

/// Records whose row is behind, at most; beyond, what came is not written, as its publisher's refresh brings it again,
/// while what has gone is, for once as many.
const MAX_BEHIND: usize = 65_536;

/// Users whose last verified bundle is remembered, so that its copies under the other keys cost no signatures.
const MAX_RECENT: usize = 32;

/// How full the store is when it begins to ask for stamps, and when the heaviest begin to give way.
const BUSY: f64 = 0.5;
const CROWDED: f64 = 0.8;

/// In overlays of so many nodes everything is everybody's.
const SMALL: f64 = 64.0;

/// Changes of one slot; a bundle has so many times more as it has slots. The burst is what a node that is restarted again
/// and again needs to stay found; a change costs 0.3 ms and a row.
const PER_SLOT: Rhythm = Rhythm { every_ms: 30_000, burst: 20 };

/// A record is promised for this long at most, seconds: longer than its owner takes to come back (25 minutes), and
/// shorter than what would make a crash a broken promise for long.
const PROMISE: u32 = 1_800;

/// How much there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub records: usize,
    /// Encoded bytes. In memory a record takes some 300 more.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { records: 40_000, bytes: 64 * 1024 * 1024 }
    }
}

/// Who brings a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publisher {
    pub node: NodeKey,
    /// `None` for addresses that say nothing of networks (loopback, private): then it is counted by its key, and by the
    /// hour not at all.
    pub network: Option<Network>,
}

/// What was done with it, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Why {
    /// Kept: new, or fresher than what was held.
    #[error("kept")]
    Fresher,
    /// Kept: nothing new in it.
    #[error("held already")]
    Already,
    #[error("{0}")]
    Rejected(RejectReason),
    #[error("not mine")]
    NotMine,
    #[error("no room")]
    NoRoom,
    #[error("renewed too often")]
    TooOften,
    #[error("too many new ones")]
    TooMany,
    #[error("no stamp")]
    NoStamp,
}

/// The answer to a STORE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    pub stored: Stored,
    pub why: Why,
    /// Highest of what is held, for the receipt.
    pub sequence: u64,
}

/// What is kept of a record.
#[derive(Debug)]
struct Held {
    bytes: Bytes,
    expires: UnixMillis,
    /// When it passed the validator: by that clock it does again.
    judged: UnixMillis,
    /// When something was first held under its key.
    arrived: UnixMillis,
    sequence: u64,
    share: Share,
    pace: Pace,
    /// Receipts promise it until then.
    promised: UnixMillis,
}

/// A row for the store: `None` removes it.
pub type Write = (RecordKey, Option<Vec<u8>>);

/// The index.
#[derive(Debug)]
pub struct Holding {
    here: Position,
    limits: Limits,
    held: HashMap<RecordKey, Held>,
    bytes: usize,
    by_expiry: BTreeSet<(UnixMillis, RecordKey)>,
    shares: Shares,
    quotas: Quotas,
    /// Verified last, with the user's keys; the latest first.
    recent: VecDeque<([RecordKey; 4], ValidBundle)>,
    /// Whose row is behind: written as it is when its turn comes, so that a slow store costs 32 bytes for each.
    behind: HashSet<RecordKey>,
    unwritten: u64,
    /// Something that was promised had to go.
    lost: bool,
    /// The latest promise of what was forgotten after it: by that clock.
    over: UnixMillis,
}

impl Holding {
    /// Empty. `here` is this node's position.
    pub fn new(here: Position, limits: Limits) -> Self {
        Self {
            here,
            limits,
            held: HashMap::new(),
            bytes: 0,
            by_expiry: BTreeSet::new(),
            shares: Shares::default(),
            quotas: Quotas::default(),
            recent: VecDeque::new(),
            behind: HashSet::new(),
            unwritten: 0,
            lost: false,
            over: UnixMillis(0),
        }
    }

    /// Records held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Encoded bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How full it is, 0 to 1, by number or by bytes, whichever is more.
    pub fn load(&self) -> f64 {
        self.load_with(0, 0)
    }

    fn load_with(&self, records: usize, bytes: usize) -> f64 {
        let share = |used: usize, limit: usize| used as f64 / limit.max(1) as f64;
        share(self.held.len() + records, self.limits.records).max(share(self.bytes + bytes, self.limits.bytes))
    }

    /// The bytes held under `key`: a table lookup and a reference more to them, however many ask.
    pub fn fetch(&self, key: &RecordKey, now: UnixMillis) -> Option<Bytes> {
        self.held.get(key).filter(|held| held.expires > now).map(|held| held.bytes.clone())
    }

    /// When what is held under `key` ends.
    pub fn expires_at(&self, key: &RecordKey) -> Option<UnixMillis> {
        self.held.get(key).map(|held| held.expires)
    }

    /// What is held under `key`, decoded: verifies its signatures again.
    pub fn bundle(&self, key: &RecordKey, judge: &Judge) -> Option<ValidBundle> {
        let held = self.held.get(key).filter(|held| held.expires > judge.now)?;
        record::validate(&held.bytes, key, &Judge { now: held.judged, ..*judge }, None).ok()
    }

    /// When what is held under `key` became what it is.
    pub fn changed_at(&self, key: &RecordKey) -> Option<UnixMillis> {
        self.held.get(key).map(|held| held.judged)
    }

    /// All keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &RecordKey> {
        self.held.keys()
    }

    /// Whether a record under `key` belongs here. `region`: radius of a region as a share of the space
    /// ([`super::Estimate::region`]).
    pub fn is_mine(&self, key: &RecordKey, region: f64) -> bool {
        region >= REGION as f64 / SMALL || self.distance(key) <= REACH * region
    }

    fn distance(&self, key: &RecordKey) -> f64 {
        Position::of_key(key).distance(&self.here).fraction()
    }

    /// Judges bytes that a peer wants kept, and keeps them if there is room for this publisher.
    pub fn offer(
        &mut self,
        key: &RecordKey,
        bytes: &Bytes,
        from: &Publisher,
        stamp: Option<Stamp>,
        region: f64,
        judge: &Judge,
    ) -> Offered {
        let now = judge.now;
        match self.take(key, bytes, from, stamp, region, judge) {
            Ok(why) => self.kept(key, why, now),
            Err((stored, why)) => Offered { stored, why, sequence: 0 },
        }
    }

    fn kept(&mut self, key: &RecordKey, why: Why, now: UnixMillis) -> Offered {
        let load = self.load();
        let Some(held) = self.held.get_mut(key) else {
            return Offered { stored: Stored::Full, why: Why::NoRoom, sequence: 0 };
        };
        // A crowded store promises nothing: it may have to make room.
        let left = u32::try_from(held.expires.0.saturating_sub(now.0) / 1_000).unwrap_or(u32::MAX);
        let promise = if load >= CROWDED { 0 } else { left.min(PROMISE) };
        held.promised = held.promised.max(UnixMillis(now.0 + u64::from(promise) * 1_000));
        Offered { stored: Stored::Kept { promise }, why, sequence: held.sequence }
    }

    fn take(
        &mut self,
        key: &RecordKey,
        bytes: &Bytes,
        from: &Publisher,
        stamp: Option<Stamp>,
        region: f64,
        judge: &Judge,
    ) -> Result<Why, (Stored, Why)> {
        let now = judge.now;
        if bytes.len() > MAX_BUNDLE_BYTES {
            return Err((Stored::Invalid, Why::Rejected(RejectReason::TooLarge)));
        }
        if self.held.get(key).is_some_and(|held| held.expires <= now) {
            self.forget(key, now);
        }
        let share = Share::of(from);
        let renews = match self.held.get(key) {
            Some(held) if held.bytes == *bytes => return Ok(Why::Already),
            Some(held) if !held.pace.allows(PER_SLOT, now) => return Err((Stored::Full, Why::TooOften)),
            Some(_) => true,
            None => {
                if !self.is_mine(key, region) {
                    return Err((Stored::NotMine, Why::NotMine));
                }
                self.admit(key, bytes.len(), from, share, stamp, now)?;
                false
            }
        };
        let bundle = match self.judge(key, bytes, judge) {
            Ok(bundle) => bundle,
            Err((reason, fresher)) => {
                if let Some(fresher) = fresher.filter(|_| !renews) {
                    // Under this key too, rather than nothing. Whether there is room is not the peer's business.
                    self.insert(*key, &fresher, share, region, now);
                }
                let newer = self.fetch(key, now).filter(|_| {
                    matches!(reason, RejectReason::Stale | RejectReason::Revoked | RejectReason::Equivocation)
                });
                let stored = newer.map_or(Stored::Invalid, |newer| Stored::Stale { newer });
                return Err((stored, Why::Rejected(reason)));
            }
        };
        let is_device = bundle.sequence_of(&from.node).is_some();
        if renews && self.held.get(key).is_some_and(|held| held.bytes[..] == bundle.encode()[..]) {
            return Ok(Why::Already);
        }
        // Whoever only passes a record on takes its weight until its own device brings it.
        let owner = self.held.get(key).map(|held| held.share).filter(|_| !is_device).unwrap_or(share);
        if !self.insert(*key, &bundle, owner, region, now) {
            return Err((Stored::Full, Why::NoRoom));
        }
        if !renews && self.load() >= BUSY {
            self.quotas.count(from, now);
        }
        if renews && let Some(held) = self.held.get_mut(key) {
            let slots = bundle.slots().max(1) as u64;
            held.pace.count(Rhythm { every_ms: PER_SLOT.every_ms / slots, ..PER_SLOT }, now);
        }
        Ok(Why::Fresher)
    }

    /// The validator, with all that is known of the user. With a refusal as stale: what is known to be fresher.
    #[allow(clippy::type_complexity, clippy::result_large_err, reason = "said once, and taken apart at once")]
    fn judge(
        &mut self,
        key: &RecordKey,
        bytes: &Bytes,
        judge: &Judge,
    ) -> Result<ValidBundle, (RejectReason, Option<ValidBundle>)> {
        // A user's four keys come one after the other with the same bytes: what was verified under one of them is held
        // already as far as the validator is concerned.
        let seen = self.recent.iter().find(|(keys, _)| keys.contains(key)).map(|(_, bundle)| bundle);
        let held = self.held.get(key).and_then(|held| {
            let then = Judge { now: held.judged, ..*judge };
            record::validate(&held.bytes, key, &then, seen.filter(|seen| seen.encode() == held.bytes[..])).ok()
        });
        let known = match (held, seen) {
            (Some(held), Some(seen)) => Some(held.merge(seen)),
            (held, seen) => held.or_else(|| seen.cloned()),
        };
        match record::validate(bytes, key, judge, known.as_ref()) {
            Ok(bundle) => {
                let keys = record::replica_keys(&judge.overlay, &bundle.id());
                self.recent.retain(|(other, _)| *other != keys);
                self.recent.truncate(MAX_RECENT - 1);
                self.recent.push_front((keys, bundle.clone()));
                Ok(bundle)
            }
            Err(RejectReason::Stale) => Err((RejectReason::Stale, known)),
            Err(reason) => Err((reason, None)),
        }
    }

    /// Keeps a bundle of a user of this node. True when it is held now.
    pub fn keep(&mut self, key: RecordKey, bundle: &ValidBundle, region: f64, judge: &Judge) -> bool {
        let merged = self.bundle(&key, judge).map(|held| held.merge(bundle));
        self.insert(key, merged.as_ref().unwrap_or(bundle), Share::OWN, region, judge.now)
    }

    /// Puts back what an earlier run held. True when it is held now.
    pub fn restore(&mut self, key: RecordKey, row: &Row, region: f64, now: UnixMillis) -> bool {
        self.held.contains_key(&key) || self.place(key, &row.bundle, row.share, Some(row.arrived), region, now)
    }

    fn insert(&mut self, key: RecordKey, bundle: &ValidBundle, share: Share, region: f64, now: UnixMillis) -> bool {
        let placed = self.place(key, bundle, share, None, region, now);
        if placed {
            self.write(key);
        }
        placed
    }

    /// Puts a merged bundle in the place of what is held, if there is room or room can be made.
    fn place(
        &mut self,
        key: RecordKey,
        bundle: &ValidBundle,
        share: Share,
        arrived: Option<UnixMillis>,
        region: f64,
        now: UnixMillis,
    ) -> bool {
        let expires = bundle.expires_at();
        let bytes = Bytes::from(bundle.encode());
        if expires <= now || bytes.len() > MAX_BUNDLE_BYTES {
            return false;
        }
        let before = self.held.get(&key).map(|held| (held.arrived, held.pace, held.promised));
        let (since, pace, promised) = before.unwrap_or((now, Pace::default(), UnixMillis(0)));
        if self.held.get(&key).is_some_and(|held| held.bytes == bytes && held.share == share) {
            return true;
        }
        if !self.make_room(&key, bytes.len(), share, region, now) {
            return false;
        }
        self.remove(&key);
        let arrived = arrived.unwrap_or(since).min(now);
        self.bytes += bytes.len();
        self.by_expiry.insert((expires, key));
        self.shares.add(share, key, arrived, bytes.len());
        let sequence = bundle.sequence();
        self.held.insert(key, Held { bytes, expires, judged: now, arrived, sequence, share, pace, promised });
        true
    }

    /// Forgets what is over.
    pub fn expire(&mut self, now: UnixMillis) {
        while let Some((expires, key)) = self.by_expiry.first().copied().filter(|(expires, _)| *expires <= now) {
            self.forget(&key, now);
            self.by_expiry.remove(&(expires, key));
        }
    }

    /// Whether something had to go before the end of what its receipts promised, since the last call: room was needed, or
    /// its owner let it end sooner, or by a clock that was ahead it was over. An honest holder then begins a new run ([`super::Voice::begin_anew`]), or its next
    /// "nothing here" would be a proof against it, which an owner could bring about.
    pub fn take_lost(&mut self, now: UnixMillis) -> bool {
        let lost = self.lost || now < self.over;
        if lost {
            (self.lost, self.over) = (false, UnixMillis(0));
        }
        lost
    }

    fn forget(&mut self, key: &RecordKey, now: UnixMillis) {
        match self.held.get(key).map(|held| held.promised) {
            Some(promised) if promised > now => self.lost = true,
            promised => self.over = self.over.max(promised.unwrap_or_default()),
        }
        if self.remove(key) {
            self.write(*key);
        }
    }

    fn remove(&mut self, key: &RecordKey) -> bool {
        let Some(held) = self.held.remove(key) else { return false };
        self.bytes -= held.bytes.len();
        self.by_expiry.remove(&(held.expires, *key));
        self.shares.remove(held.share, *key, held.arrived, held.bytes.len());
        true
    }

    /// Networks and lone peers that brought what is held.
    pub fn publishers(&self) -> usize {
        self.shares.len()
    }

    /// Rows that are behind, up to `most` of them: now as they are to be.
    pub fn take_writes(&mut self, most: usize) -> Vec<Write> {
        let keys: Vec<RecordKey> = match self.behind.len() <= most {
            true => self.behind.drain().collect(),
            false => {
                let some: Vec<RecordKey> = self.behind.iter().take(most).copied().collect();
                some.iter().for_each(|key| _ = self.behind.remove(key));
                some
            }
        };
        let row = |held: &Held| row::encode(held.arrived, held.share, &held.bytes);
        keys.into_iter().map(|key| (key, self.held.get(&key).map(row))).collect()
    }

    /// Some rows are behind.
    pub fn is_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    /// Rows that found no place among those that are behind, since the last call.
    pub fn take_unwritten(&mut self) -> u64 {
        std::mem::take(&mut self.unwritten)
    }

    fn write(&mut self, key: RecordKey) {
        let most = if self.held.contains_key(&key) { MAX_BEHIND } else { 2 * MAX_BEHIND };
        if self.behind.len() < most || self.behind.contains(&key) {
            self.behind.insert(key);
        } else {
            self.unwritten += 1;
        }
    }
}

#[cfg(test)]
mod tests;
