//! Connections of this node's own choice, held open: whom to is said by `dht::outbound`. A server holds 16, a client four,
//! or as many as there are servers.
//!
//! The price at rest is QUIC's keep-alive, some 100 bit/s for each: 1.6 kbit/s of a server, 0.4 of a client, of which 16
//! would be most of the 2 kbit/s that it may use. In return the first steps of a lookup need no handshake.

use super::actor::Actor;
use super::address::{node_of, peer_named, to_multiaddr};
use crate::clock::UnixMillis;
use crate::dht::{Network, outbound};
use crate::identity::{NodeKey, random};
use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use std::collections::HashMap;
use std::time::{Duration, Instant};

const OF_SERVERS: usize = 16;
const OF_CLIENTS: usize = 4;

/// Dials for it in one round, and how often the round is made.
const DIALS: usize = 2;
const ROUND: Duration = Duration::from_secs(5);

/// A server that was dialled for a place and not reached is left alone for this long.
const AGAIN: Duration = Duration::from_secs(300);

/// Servers that were dialled for a place, at most.
const MAX_DIALLED: usize = 256;

/// Servers known for less are taken last.
const YOUNG_MS: u64 = 3_600_000;

#[derive(Default)]
pub(super) struct Slots {
    /// The connections of each peer, the latest last: bounded by the swarm's limits.
    open: HashMap<PeerId, Vec<ConnectionId>>,
    /// By peer, since when, where and which connection.
    held: HashMap<PeerId, (Instant, Network, ConnectionId)>,
    dialled: HashMap<PeerId, Instant>,
    round_at: Option<Instant>,
    salt: Option<u64>,
}

impl Slots {
    pub(super) fn opened(&mut self, peer: PeerId, connection: ConnectionId) {
        self.open.entry(peer).or_default().push(connection);
    }

    pub(super) fn closed(&mut self, peer: PeerId, connection: ConnectionId) {
        if let Some(open) = self.open.get_mut(&peer) {
            open.retain(|other| *other != connection);
            if open.is_empty() {
                self.open.remove(&peer);
            }
        }
        if self.held.get(&peer).is_some_and(|(.., held)| *held == connection) {
            self.held.remove(&peer);
        }
    }

    /// Whether a direct connection is open.
    pub(super) fn is_open(&self, peer: &PeerId) -> bool {
        self.open.contains_key(peer)
    }

    /// The direct connections of a peer.
    pub(super) fn connections(&self, peer: &PeerId) -> Vec<ConnectionId> {
        self.open.get(peer).cloned().unwrap_or_default()
    }

    /// Who is held, the longest first.
    pub(super) fn longest(&self) -> Vec<NodeKey> {
        let mut held: Vec<(Instant, NodeKey)> =
            self.held.iter().filter_map(|(peer, (since, ..))| Some((*since, node_of(peer)?))).collect();
        held.sort_unstable_by_key(|(since, node)| (*since, node.0));
        held.into_iter().map(|(_, node)| node).collect()
    }
}

/// An order that nobody else knows.
fn lot(salt: u64, node: &NodeKey) -> u64 {
    let words = node.0.chunks_exact(8).map(|word| word.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    words.fold(salt, |lot, word| (lot ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29))
}

impl Actor {
    /// Fills the places: with whom a connection is open to first, then by dialling.
    pub(super) fn fill_slots(&mut self, now: Instant) {
        if self.slots.round_at.is_some_and(|at| now < at) {
            return;
        }
        self.slots.round_at = Some(now + ROUND);
        let most = if self.upkeep.server { OF_SERVERS } else { OF_CLIENTS };
        // Who left the table is not chosen any more.
        let table = &self.table;
        self.slots.held.retain(|peer, _| node_of(peer).is_some_and(|node| table.get(&node).is_some()));
        self.slots.dialled.retain(|_, at| now.saturating_duration_since(*at) < AGAIN);
        if self.slots.held.len() >= most {
            return;
        }
        let held: Vec<Network> = self.slots.held.values().map(|(_, network, _)| *network).collect();
        // By lot, newcomers last. By age, everybody would hold the same few, the bootstrap nodes before all.
        let (salt, wall) = (*self.slots.salt.get_or_insert_with(|| u64::from_be_bytes(random())), UnixMillis::now());
        let mut known: Vec<_> = self.table.iter().map(|(card, since)| (since, card.node, card.network)).collect();
        known.sort_by_cached_key(|(since, node, _)| (wall.0.saturating_sub(since.0) < YOUNG_MS, lot(salt, node)));
        let may = |node: &NodeKey| {
            let Some(peer) = peer_named(node) else { return false };
            let tried = self.slots.dialled.contains_key(&peer) && !self.slots.open.contains_key(&peer);
            !self.slots.held.contains_key(&peer) && !tried && !self.ledger.avoids(&peer, now)
        };
        let known: Vec<(NodeKey, Network)> =
            known.into_iter().map(|(_, node, network)| (node, network)).filter(|(node, _)| may(node)).collect();
        let mut dials = 0;
        for node in outbound(&held, &known, most) {
            let (Some(peer), Some(card)) = (peer_named(&node), self.table.get(&node).cloned()) else { continue };
            let stays = |connection: &&ConnectionId| !self.feelers.has(connection);
            let open = self.slots.open.get(&peer).map(|open| open.iter().rev().find(stays).copied());
            if let Some(Some(connection)) = open {
                self.slots.held.insert(peer, (now, card.network, connection));
                self.swarm.behaviour_mut().kept.keep(peer, connection);
                // Questions close the connections that they opened.
                self.asking_closed(&connection);
            } else if open.is_none() && dials < DIALS && self.slots.dialled.len() < MAX_DIALLED {
                dials += 1;
                self.slots.dialled.insert(peer, now);
                let addresses = card.at_its_network().map(to_multiaddr).collect();
                self.dial_known(peer, addresses);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_lost_with_its_connection_and_no_other() {
        let (mut slots, peer, now) = (Slots::default(), PeerId::random(), Instant::now());
        let [first, second] = [1, 2].map(ConnectionId::new_unchecked);
        slots.opened(peer, first);
        slots.opened(peer, second);
        slots.held.insert(peer, (now, Network::of([9, 9, 9, 9].into()), first));
        slots.closed(peer, second);
        assert!(slots.held.contains_key(&peer));
        slots.closed(peer, first);
        assert!(slots.held.is_empty() && slots.open.is_empty());
    }

    #[test]
    fn the_lot_differs_from_node_to_node() {
        let nodes: Vec<NodeKey> = (0..20).map(|n| NodeKey([n; 32])).collect();
        let first = |salt: u64| nodes.iter().min_by_key(|node| lot(salt, node)).unwrap().0[0];
        let chosen: std::collections::HashSet<u8> = (0..200).map(first).collect();
        assert!(chosen.len() > 12, "{}", chosen.len());
    }
}
