//! The lists of services that a node keeps for others: who is on them, and who is told. Keys are free and networks are
//! not, so places are given by networks: of every ten entries of a list one may come from the same /16, in an answer each
//! /16 is named once, and a full list makes room for a network that has less of it. Pure; in memory only, as owners come
//! again within twenty minutes.

use super::network::Network;
use super::service::ServiceEntry;
use crate::clock::UnixMillis;
use crate::identity::NodeKey;
use crate::record::RecordKey;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Entries of a list.
const MOST: usize = 64;

/// Lists that are kept: those of every service, should this node be the only one.
const MAX_LISTS: usize = 16;

/// Entries in an answer at most.
pub const MAX_ENTRIES: usize = 10;

/// Of so many entries of a list one may be of the same wide network.
const ONE_OF: usize = 10;

#[derive(Clone, Debug)]
struct Kept {
    entry: ServiceEntry,
    /// Where its owner was found.
    network: Network,
    /// Addresses that say nothing of networks, as in an office without the Internet, are not counted.
    counts: bool,
    since: UnixMillis,
    found_at: UnixMillis,
}

/// The lists.
#[derive(Clone, Debug, Default)]
pub struct Shelves {
    lists: BTreeMap<RecordKey, Vec<Kept>>,
}

impl Shelves {
    /// Whether `node` is on the list `key`, has been found at one of these addresses within `within` milliseconds, and so
    /// need not be dialled again.
    pub fn found_lately(&self, key: &RecordKey, entry: &ServiceEntry, within: u64, now: UnixMillis) -> bool {
        self.kept(key, &entry.node).is_some_and(|kept| {
            kept.entry.addresses == entry.addresses && now.0.saturating_sub(kept.found_at.0) < within
        })
    }

    /// A later entry of somebody who was found lately.
    pub fn renew(&mut self, key: &RecordKey, entry: ServiceEntry) {
        let kept = self.lists.get_mut(key).and_then(|list| list.iter_mut().find(|kept| kept.entry.node == entry.node));
        if let Some(kept) = kept.filter(|kept| kept.entry.issued_at <= entry.issued_at) {
            kept.entry = entry;
        }
    }

    /// Whether there would be a place for somebody at `ip`: asked before the dial that finds out.
    pub fn has_room(&self, key: &RecordKey, node: &NodeKey, ip: IpAddr) -> bool {
        self.place(key, node, ip).is_some()
    }

    /// Lists an owner who was found at `ip`. False when there is no room for its network.
    pub fn put(&mut self, key: RecordKey, entry: ServiceEntry, ip: IpAddr, now: UnixMillis) -> bool {
        let Some(gives_way) = self.place(&key, &entry.node, ip) else { return false };
        let list = self.lists.entry(key).or_default();
        if let Some(out) = gives_way {
            list.retain(|kept| kept.entry.node != out);
        }
        let before = list.iter().position(|kept| kept.entry.node == entry.node).map(|at| list.swap_remove(at));
        let newest = match &before {
            Some(before) if before.entry.issued_at > entry.issued_at => before.entry.clone(),
            Some(_) | None => entry,
        };
        let since = before.map_or(now, |before| before.since);
        let counts = crate::wire::is_global(ip);
        list.push(Kept { entry: newest, network: Network::of(ip), counts, since, found_at: now });
        true
    }

    /// `None`: no. `Some(Some(_))`: if that one goes.
    fn place(&self, key: &RecordKey, node: &NodeKey, ip: IpAddr) -> Option<Option<NodeKey>> {
        let Some(list) = self.lists.get(key) else { return (self.lists.len() < MAX_LISTS).then_some(None) };
        let network = Network::of(ip);
        let others = || list.iter().filter(|kept| kept.entry.node != *node);
        let count = others().count();
        let of = |wide: u64| others().filter(|kept| kept.counts && kept.network.wide == wide).count();
        if crate::wire::is_global(ip) {
            let beside = others().any(|kept| kept.counts && kept.network.subnet == network.subnet);
            if beside || of(network.wide) >= (count / ONE_OF).max(1) {
                return None;
            }
        }
        if count < MOST {
            return Some(None);
        }
        // Who is one of few gives way to nobody; of the others, the youngest of the most crowded network.
        let crowded = others().filter(|kept| kept.counts).max_by_key(|kept| (of(kept.network.wide), kept.since.0))?;
        (of(crowded.network.wide) > of(network.wide) + 1).then_some(Some(crowded.entry.node))
    }

    fn kept(&self, key: &RecordKey, node: &NodeKey) -> Option<&Kept> {
        self.lists.get(key)?.iter().find(|kept| kept.entry.node == *node)
    }

    /// Some of a list, by lot, of different wide networks.
    pub fn some(&self, key: &RecordKey, salt: u64, now: UnixMillis) -> Vec<Bytes> {
        let Some(list) = self.lists.get(key) else { return Vec::new() };
        let mut drawn: Vec<(u64, &Kept)> = list
            .iter()
            .filter(|kept| kept.entry.expires_at > now)
            .map(|kept| (lot(salt, &kept.entry.node), kept))
            .collect();
        drawn.sort_unstable_by_key(|(lot, kept)| (*lot, kept.entry.node));
        let mut networks = Vec::new();
        let mut differs = |kept: &Kept| {
            let new = !kept.counts || !networks.contains(&kept.network.wide);
            networks.push(kept.network.wide);
            new
        };
        let some = drawn.into_iter().filter(|(_, kept)| differs(kept)).take(MAX_ENTRIES);
        some.map(|(_, kept)| kept.entry.signed.clone()).collect()
    }

    /// What is over goes.
    pub fn expire(&mut self, now: UnixMillis) {
        self.lists.retain(|_, list| {
            list.retain(|kept| kept.entry.expires_at > now);
            !list.is_empty()
        });
    }

    /// Entries on all lists.
    pub fn entries(&self) -> usize {
        self.lists.values().map(Vec::len).sum()
    }
}

/// Differs from answer to answer; no secret.
fn lot(salt: u64, node: &NodeKey) -> u64 {
    node.0.iter().fold(salt ^ 0xcbf2_9ce4_8422_2325, |lot, byte| {
        (lot ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
    })
}

#[cfg(test)]
mod tests;
