//! Who may bring something new, and whose record goes for it.

use super::pace::{Paces, Rhythm};
use super::shares::{self, Share};
use super::{BUSY, CROWDED, Holding, Publisher, Why};
use crate::clock::UnixMillis;
use crate::dht::stamp::{MAX_STAMP_BITS, Stamp};
use crate::dht::{Network, Stored};
use crate::identity::NodeKey;
use crate::record::RecordKey;

/// A network with no more than this share of the store is light: it pays nothing until the store is crowded. Some
/// 250 bundles, which is what a gateway of a thousand users has at each holder in an overlay of 160 nodes.
const LIGHT: f64 = 1.0 / 256.0;

/// A network with more than this share has no old rights: else whoever filled the store a day ago would keep it.
const TOO_HEAVY: f64 = 1.0 / 8.0;

/// So old, and in the core region, a record is not evicted.
pub(super) const OLD_MS: u64 = 24 * 3_600_000;

/// Stamps start at so many bits (2 ms of a core) and grow to [`MAX_STAMP_BITS`] when full.
const FIRST_BITS: f64 = 14.0;

/// New records of a busy store: a day's worth at once, then by the hour (SECURITY §3.10).
const PER_PEER: Rhythm = Rhythm { every_ms: 3_600_000 / 5, burst: 5 * 24 };
const PER_SUBNET: Rhythm = Rhythm { every_ms: 3_600_000 / 20, burst: 20 * 24 };
const PER_SYSTEM: Rhythm = Rhythm { every_ms: 3_600_000 / 200, burst: 200 * 24 };
/// Sources of each kind that are counted by themselves.
const MAX_COUNTED: usize = 1_024;

/// Records looked at to find one that may be evicted: a bound on the work, not on the search's success.
const MAX_LOOKED_AT: usize = 256;

/// New records by the hour, of a busy store.
#[derive(Debug)]
pub(super) struct Quotas {
    peers: Paces<NodeKey>,
    subnets: Paces<u64>,
    systems: Paces<u64>,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            peers: Paces::new(PER_PEER, MAX_COUNTED),
            subnets: Paces::new(PER_SUBNET, MAX_COUNTED),
            systems: Paces::new(PER_SYSTEM, MAX_COUNTED),
        }
    }
}

impl Quotas {
    fn allows(&self, from: &Publisher, network: &Network, now: UnixMillis) -> bool {
        self.peers.allows(&from.node, now)
            && self.subnets.allows(&network.subnet, now)
            && self.systems.allows(&network.system, now)
    }

    /// Something new of `from` was kept.
    pub fn count(&mut self, from: &Publisher, now: UnixMillis) {
        if let Some(network) = from.network {
            self.peers.count(from.node, now);
            self.subnets.count(network.subnet, now);
            self.systems.count(network.system, now);
        }
    }
}

impl Holding {
    /// Whether something new may come from `from`, by what is known before its signatures are looked at.
    pub(super) fn admit(
        &self,
        key: &RecordKey,
        bytes: usize,
        from: &Publisher,
        share: Share,
        stamp: Option<Stamp>,
        now: UnixMillis,
    ) -> Result<(), (Stored, Why)> {
        let load = self.load_with(1, bytes);
        let Some(network) = from.network.filter(|_| load >= BUSY) else { return self.fits(bytes, share) };
        let light = self.part(self.shares.weight(share) + bytes) <= LIGHT;
        if load >= CROWDED || !light {
            let bits = Self::bits(load);
            if !stamp.is_some_and(|stamp| stamp.is_worth(key, bits, now)) {
                return Err((Stored::Stamp { bits }, Why::NoStamp));
            }
        }
        if !light && !self.quotas.allows(from, &network, now) {
            return Err((Stored::Full, Why::TooMany));
        }
        self.fits(bytes, share)
    }

    /// Proof of work wanted at this load.
    pub(super) fn bits(load: f64) -> u8 {
        let more = (load - BUSY).max(0.0) / (1.0 - BUSY) * (f64::from(MAX_STAMP_BITS) - FIRST_BITS);
        ((FIRST_BITS + more).round() as u8).min(MAX_STAMP_BITS)
    }

    /// A weight as a share of the store.
    fn part(&self, weight: usize) -> f64 {
        weight as f64 / (self.limits.bytes.min(self.limits.records.saturating_mul(2_048)).max(1)) as f64
    }

    /// In a crowded store there is room only for those who are not the heaviest.
    fn fits(&self, bytes: usize, share: Share) -> Result<(), (Stored, Why)> {
        let weight = self.shares.weight(share) + bytes + shares::OVERHEAD;
        if self.load_with(1, bytes) <= CROWDED || self.shares.heavier_than(weight).next().is_some() {
            return Ok(());
        }
        Err((Stored::Full, Why::NoRoom))
    }

    /// Makes room under `key` for so many bytes, from the heaviest network and its newest record on.
    pub(super) fn make_room(
        &mut self,
        key: &RecordKey,
        bytes: usize,
        share: Share,
        region: f64,
        now: UnixMillis,
    ) -> bool {
        let (records, freed) = self.held.get(key).map_or((1, 0), |held| (0, held.bytes.len()));
        let renews = records == 0;
        let over = |holding: &Self, limit: f64| {
            let grown = bytes.saturating_sub(freed);
            holding.load_with(records, grown) > limit
        };
        if !over(self, if renews { 1.0 } else { CROWDED }) {
            return true;
        }
        self.expire(now);
        let weight = match share {
            Share::OWN => 0,
            share => self.shares.weight(share) + bytes + shares::OVERHEAD,
        };
        while over(self, if renews { 1.0 } else { CROWDED }) {
            let Some(victim) = self.victim(key, weight, region, now) else { break };
            self.forget(&victim, now);
        }
        !over(self, 1.0)
    }

    /// The newest record of the heaviest network that may go.
    fn victim(&self, spare: &RecordKey, above: usize, region: f64, now: UnixMillis) -> Option<RecordKey> {
        let old = |arrived: UnixMillis| now.0.saturating_sub(arrived.0) >= OLD_MS;
        let candidates = self.shares.heavier_than(above).flat_map(|(share, weight)| {
            let protects = self.part(weight) <= TOO_HEAVY;
            self.shares.newest(share).map(move |(arrived, key)| (protects && old(arrived), key))
        });
        let mut candidates = candidates.take(MAX_LOOKED_AT).filter(|(_, key)| key != spare);
        candidates.find(|(protected, key)| !protected || self.distance(key) > region).map(|(_, key)| key)
    }
}
