//! Peers remembered across restarts (SECURITY §4.7). Two tables: `tried`, whom this node reached by its own choice, and
//! `new`, of whom it heard. Which bucket a peer falls into depends on a secret key and on the networks it belongs to and
//! was heard from, so that many addresses of one network fill few buckets, and nobody can aim at others' places.

use crate::clock::UnixMillis;
use crate::dht::Network;
use crate::identity::NodeKey;
use crate::reachability::{Address, Transport};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::IpAddr;

/// 64 and 256 buckets of 4: at most 256 tried and 1,024 new peers; with 100 bytes each a row of the store for each.
const TRIED: u64 = 64;
const NEW: u64 = 256;
const SLOTS: usize = 4;

/// Buckets that one network's peers may fall into: a /16 gets 16 tried places at most, and what one /16 told 128 new.
const TRIED_SPREAD: u64 = 4;
const NEW_SPREAD: u64 = 32;

/// Failed dials in a row, or time without an answer, after which a place is up for others.
const MAX_FAILURES: u8 = 3;
const STALE_MS: u64 = 30 * 86_400_000;

/// Addresses of a peer.
pub(super) const MAX_ADDRESSES: usize = 4;

/// Peers dialled first after a restart.
pub const ANCHORS: usize = 4;

/// Nobody was met before: the clock of whoever wrote that had not been set (2026).
const EARLIEST: UnixMillis = UnixMillis(1_767_225_600_000);

const VERSION: u8 = 0xb1;
const ANCHOR: u8 = 1;
const IN_TRIED: u8 = 2;
const NEAR: u8 = 4;

/// A peer of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    pub node: NodeKey,
    /// 1 to 4, the best first.
    pub addresses: Vec<Address>,
    pub first_seen: UnixMillis,
    /// Zero when it was only heard of.
    pub last_seen: UnixMillis,
    /// Different days on which it was reached, at most 255.
    pub days: u8,
    /// Among the longest connected of the last session.
    pub anchor: bool,
    /// Found in the local network: no evidence of the overlay beyond, after a restart either.
    pub near: bool,
    failures: u8,
    tried: bool,
    bucket: u64,
}

impl Remembered {
    /// Of its first address.
    pub fn network(&self) -> Network {
        self.addresses.first().map_or_else(|| Network::of([0, 0, 0, 0].into()), |first| Network::of(first.ip))
    }

    /// It was met in this /16 or /32.
    fn is_of(&self, network: &Network) -> bool {
        self.addresses.iter().any(|address| Network::of(address.ip).wide == network.wide)
    }

    /// Since when it is known, for a table: where it has answered before, at an address of this network, and not by a
    /// clock that knew no time yet.
    pub fn known_since(&self, network: &Network) -> Option<UnixMillis> {
        let told = self.last_seen.0 > 0 && self.first_seen >= EARLIEST && self.is_of(network);
        told.then_some(self.first_seen)
    }

    pub(super) fn is_worn(&self, now: UnixMillis) -> bool {
        self.failures >= MAX_FAILURES || now.0.saturating_sub(self.last_seen.0.max(self.first_seen.0)) > STALE_MS
    }
}

/// The cache. At most 1,280 peers.
#[derive(Clone)]
pub struct PeerCache {
    key: [u8; 32],
    peers: HashMap<NodeKey, Remembered>,
}

impl std::fmt::Debug for PeerCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerCache").field("peers", &self.peers.len()).finish_non_exhaustive()
    }
}

impl PeerCache {
    /// `key`: secret, and the same after a restart.
    pub fn new(key: [u8; 32]) -> Self {
        Self { key, peers: HashMap::new() }
    }

    /// Reads what [`PeerCache::rows`] wrote; rows that make no sense are left out.
    pub fn from_rows<'a>(key: [u8; 32], rows: impl IntoIterator<Item = (NodeKey, &'a [u8])>) -> Self {
        let mut cache = Self::new(key);
        for (node, row) in rows {
            if let Some(peer) = decode(node, row) {
                let (tried, network) = (peer.tried, peer.network());
                if !(tried && cache.put(peer.clone(), true, &network, UnixMillis(0))) {
                    cache.put(peer, false, &network, UnixMillis(0));
                }
            }
        }
        cache
    }

    /// All, as rows that can be kept: 30 to 110 bytes each.
    pub fn rows(&self) -> Vec<(NodeKey, Vec<u8>)> {
        let mut rows: Vec<_> = self.peers.values().map(|peer| (peer.node, encode(peer))).collect();
        rows.sort_unstable_by_key(|(node, _)| node.0);
        rows
    }

    /// A peer was reached by a dial of this node's own choice. Whether it is in the tried table now: a full bucket
    /// keeps those who still answer.
    pub fn reached(&mut self, node: NodeKey, addresses: &[Address], now: UnixMillis) -> bool {
        let Some(first) = addresses.first() else { return false };
        let network = Network::of(first.ip);
        let known = self.peers.remove(&node);
        // In another network it is a newcomer, like one of whom this node had only heard.
        let same = |peer: &Remembered| peer.last_seen.0 > 0 && addresses.iter().any(|a| peer.is_of(&Network::of(a.ip)));
        let mut peer = known.filter(same).unwrap_or_else(|| Remembered::heard(node, now));
        let day = |at: UnixMillis| at.0 / 86_400_000;
        if peer.days == 0 || day(now) > day(peer.last_seen) {
            peer.days = peer.days.saturating_add(1);
        }
        peer.addresses = addresses.iter().take(MAX_ADDRESSES).copied().collect();
        peer.last_seen = peer.last_seen.max(now);
        peer.failures = 0;
        self.put(peer.clone(), true, &network, now) || {
            self.put(peer, false, &network, now);
            false
        }
    }

    /// A peer was heard of: named by a peer of network `from`, or it came in itself.
    pub fn heard(&mut self, node: NodeKey, addresses: &[Address], from: &Network, now: UnixMillis) {
        if addresses.is_empty() || self.peers.contains_key(&node) {
            return;
        }
        let mut peer = Remembered::heard(node, now);
        peer.addresses = addresses.iter().take(MAX_ADDRESSES).copied().collect();
        self.put(peer, false, from, now);
    }

    /// A peer was found in the local network.
    pub fn found_near(&mut self, node: &NodeKey) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.near = true;
        }
    }

    /// A dial failed.
    pub fn missed(&mut self, node: &NodeKey) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.failures = peer.failures.saturating_add(1);
            if !peer.tried && peer.failures >= MAX_FAILURES {
                self.peers.remove(node);
            }
        }
    }

    /// The peers to dial first after a restart: of these, longest known first, four tried ones of different /16s.
    pub fn set_anchors(&mut self, oldest_first: &[NodeKey]) {
        for peer in self.peers.values_mut() {
            peer.anchor = false;
        }
        let mut wides = Vec::new();
        for node in oldest_first {
            if let Some(peer) = self.peers.get_mut(node).filter(|peer| peer.tried) {
                let wide = peer.network().wide;
                if wides.len() < ANCHORS && !wides.contains(&wide) {
                    wides.push(wide);
                    peer.anchor = true;
                }
            }
        }
    }

    /// Those of `tried` or of `new`, in an order that differs with the salt: anchors, then who was there on two days or
    /// more, then the others; worn ones last.
    pub fn in_order(&self, tried: bool, salt: u64, now: UnixMillis) -> Vec<&Remembered> {
        let mut peers: Vec<_> = self.peers.values().filter(|peer| peer.tried == tried).collect();
        peers.sort_by_cached_key(|peer| {
            (!peer.anchor, peer.is_worn(now), peer.days < 2, self.hash(&[b"order", &salt.to_be_bytes(), &peer.node.0]))
        });
        peers
    }

    pub fn get(&self, node: &NodeKey) -> Option<&Remembered> {
        self.peers.get(node)
    }

    /// Peers in the tried and in the new table.
    pub fn len(&self) -> (usize, usize) {
        let tried = self.peers.values().filter(|peer| peer.tried).count();
        (tried, self.peers.len() - tried)
    }

    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    fn hash(&self, parts: &[&[u8]]) -> u64 {
        let mut hash = Sha256::new().chain_update(self.key);
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        digest.first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head))
    }

    fn bucket(&self, peer: &Remembered, tried: bool, from: &Network) -> u64 {
        let wide = peer.network().wide.to_be_bytes();
        if tried {
            let which = self.hash(&[b"which", &peer.node.0]) % TRIED_SPREAD;
            self.hash(&[b"tried", &wide, &which.to_be_bytes()]) % TRIED
        } else {
            let from = from.wide.to_be_bytes();
            let which = self.hash(&[b"which", &from, &wide]) % NEW_SPREAD;
            self.hash(&[b"new", &from, &which.to_be_bytes()]) % NEW
        }
    }

    /// Puts a peer that is in neither table. Only a worn one gives way.
    fn put(&mut self, mut peer: Remembered, tried: bool, from: &Network, now: UnixMillis) -> bool {
        (peer.tried, peer.bucket) = (tried, self.bucket(&peer, tried, from));
        let same: Vec<_> =
            self.peers.values().filter(|other| other.tried == tried && other.bucket == peer.bucket).collect();
        if same.len() >= SLOTS {
            let worn =
                same.iter().filter(|other| other.is_worn(now) && !other.anchor).min_by_key(|other| other.last_seen);
            let Some(worn) = worn.map(|other| other.node) else { return false };
            self.peers.remove(&worn);
        }
        self.peers.insert(peer.node, peer);
        true
    }
}

impl Remembered {
    fn heard(node: NodeKey, now: UnixMillis) -> Self {
        Self {
            node,
            addresses: Vec::new(),
            first_seen: now,
            last_seen: UnixMillis(0),
            days: 0,
            anchor: false,
            near: false,
            failures: 0,
            tried: false,
            bucket: 0,
        }
    }
}

/// A row: version, flags, days, failures, first and last seen (milliseconds, big-endian), then addresses: transport
/// (1 QUIC, 2 TCP), length of the IP address (4 or 16), IP address, port.
fn encode(peer: &Remembered) -> Vec<u8> {
    let flags = (u8::from(peer.anchor) * ANCHOR) | (u8::from(peer.tried) * IN_TRIED) | (u8::from(peer.near) * NEAR);
    let mut row = vec![VERSION, flags, peer.days, peer.failures];
    row.extend(peer.first_seen.0.to_be_bytes());
    row.extend(peer.last_seen.0.to_be_bytes());
    write_addresses(&mut row, &peer.addresses);
    row
}

fn decode(node: NodeKey, row: &[u8]) -> Option<Remembered> {
    let ([VERSION, flags, days, failures], rest) = row.split_first_chunk::<4>()? else { return None };
    let (first_seen, rest) = rest.split_first_chunk::<8>()?;
    let (last_seen, rest) = rest.split_first_chunk::<8>()?;
    let addresses = read_addresses(rest)?;
    let fits = (1..=MAX_ADDRESSES).contains(&addresses.len());
    fits.then_some(Remembered {
        node,
        addresses,
        first_seen: UnixMillis(u64::from_be_bytes(*first_seen)),
        last_seen: UnixMillis(u64::from_be_bytes(*last_seen)),
        days: *days,
        anchor: flags & ANCHOR != 0,
        near: flags & NEAR != 0,
        failures: *failures,
        tried: flags & IN_TRIED != 0,
        bucket: 0,
    })
}

/// Each: transport (1 QUIC, 2 TCP), length of the IP address (4 or 16), IP address, port.
pub(super) fn write_addresses(row: &mut Vec<u8>, addresses: &[Address]) {
    for address in addresses {
        row.push(match address.transport {
            Transport::Quic => 1,
            Transport::Tcp => 2,
        });
        match address.ip {
            IpAddr::V4(v4) => {
                row.push(4);
                row.extend(v4.octets());
            }
            IpAddr::V6(v6) => {
                row.push(16);
                row.extend(v6.octets());
            }
        }
        row.extend(address.port.to_be_bytes());
    }
}

/// Reads what [`write_addresses`] wrote; nothing may be left over.
pub(super) fn read_addresses(mut rest: &[u8]) -> Option<Vec<Address>> {
    let mut addresses = Vec::new();
    while let Some(([transport, length], tail)) = rest.split_first_chunk::<2>() {
        let (ip, tail) = tail.split_at_checked(usize::from(*length))?;
        let (port, tail) = tail.split_first_chunk::<2>()?;
        let ip =
            <[u8; 4]>::try_from(ip).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(ip).map(IpAddr::from)).ok()?;
        let transport = match transport {
            1 => Transport::Quic,
            2 => Transport::Tcp,
            _ => return None,
        };
        addresses.push(Address { ip, transport, port: u16::from_be_bytes(*port) });
        rest = tail;
    }
    rest.is_empty().then_some(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn at(ip: [u8; 4]) -> Vec<Address> {
        vec![Address { ip: ip.into(), transport: Transport::Quic, port: 4001 }]
    }

    #[test]
    fn who_is_known_for_long_is_so_only_where_it_was_met() {
        let (node, here) = (NodeKey([7; 32]), Network::of([81, 2, 3, 4].into()));
        let mut cache = PeerCache::new([0; 32]);
        let since = |cache: &PeerCache, network: &Network| cache.get(&node).unwrap().known_since(network);
        cache.heard(node, &at([81, 2, 3, 4]), &here, NOW);
        assert_eq!(since(&cache, &here), None, "hearsay");
        let (met, later) = (UnixMillis(NOW.0 + 60_000), UnixMillis(NOW.0 + 120_000));
        cache.reached(node, &at([81, 2, 3, 4]), met);
        cache.reached(node, &at([81, 2, 200, 4]), later);
        assert_eq!(since(&cache, &here), Some(met), "the same /16");
        let elsewhere = Network::of([82, 2, 3, 4].into());
        assert_eq!(since(&cache, &elsewhere), None);
        cache.reached(node, &at([82, 2, 3, 4]), later);
        assert_eq!(since(&cache, &elsewhere), Some(later));
        let mut lost = PeerCache::new([0; 32]);
        lost.reached(node, &at([81, 2, 3, 4]), UnixMillis(3_600_000));
        assert_eq!(since(&lost, &here), None, "by a clock of 1970");
    }
}
