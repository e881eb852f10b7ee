//! Who enters the table: a server that this node dialled where its card says, that authenticated itself there, and that
//! gave a correct answer (SECURITY §4.3). kad's buckets, which other implementations ask, are fed from the table alone.

use super::actor::Actor;
use super::address::{ip_of, node_of, peer_named, to_multiaddr, to_plain};
use crate::clock::UnixMillis;
use crate::dht::{Admission, Card, Network};
use crate::identity::NodeKey;
use crate::reachability::Address;
use crate::wire::is_global;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

impl Actor {
    /// A peer that says it serves and that we dialled: asked for its card, if it is not known yet.
    pub(super) fn meet(&mut self, peer: PeerId, now: Instant) {
        let known = node_of(&peer).is_some_and(|node| self.table.get(&node).is_some());
        let reached = self.peers.addresses_of_server(&peer).is_some();
        if reached && !(known && self.peers.is_in_table(&peer)) && !self.ledger.shuns(&peer, now) {
            self.ask_for_card(peer);
        }
    }

    /// A peer gave a correct answer; `card` is its own, and verified. `chosen`: it was asked because others named it, or
    /// this node went to it first.
    pub(super) fn acquainted(&mut self, peer: PeerId, card: Arc<Card>, chosen: bool, now: Instant, wall: UnixMillis) {
        if self.ledger.shuns(&peer, now) || self.flaps(&peer, now) {
            return;
        }
        // Who answers serves, whether it has said so yet or not.
        self.peers.identified(&peer, true);
        let verified = self.peers.addresses_of_server(&peer).unwrap_or_default();
        let said = |address: &Multiaddr| {
            let plain = to_plain(address).map(|plain| Address { ip: plain.ip.to_canonical(), ..plain })?;
            card.addresses.contains(&plain).then_some(plain.ip)
        };
        let Some(ip) = verified.iter().find_map(said) else {
            self.feel(peer, &card, now);
            return;
        };
        self.remember(&card, ip, chosen, wall);
        let since = self.joining.engine.cache().get(&card.node).and_then(|peer| peer.known_since(&Network::of(ip)));
        let admission = match (chosen, since) {
            (true, Some(since)) => self.table.restored(card, ip, since, wall),
            (true, None) => self.table.verified(card, ip, wall),
            (false, _) => self.table.verified_visitor(card, ip, wall),
        };
        if admission != Admission::In || self.peers.is_in_table(&peer) {
            return;
        }
        self.peers.set_in_table(&peer, true);
        self.upkeep.changed = true;
        if self.upkeep.is_new(now) {
            // Who waited for somebody to ask goes on.
            self.operations_at = now;
        }
        if self.table.len() == 1 {
            self.operations_at = now;
            self.walks(now);
        }
        for address in verified {
            self.swarm.behaviour_mut().kad.add_address(&peer, address);
        }
    }

    /// Whether an answer of `peer` over this connection may count for the network of its card. A peer that dialled us may
    /// show a card with anybody's address: then it must be found there once.
    pub(super) fn is_where_it_says(&self, peer: &PeerId, connection: ConnectionId, card: &Card) -> bool {
        let verified = self.peers.addresses(peer);
        !belies(self.swarm.behaviour().kad.leads_to(connection), card, verified.iter().filter_map(ip_of))
    }

    /// Dials a peer that is connected some other way, only to see whether its card is right.
    fn feel(&mut self, peer: PeerId, card: &Card, now: Instant) {
        if !self.peers.may_feel(&peer, now) {
            return;
        }
        self.feel_out(peer, card.addresses.iter().map(to_multiaddr).collect(), now);
    }

    /// A server was not reached, or did not answer. That says nothing while nobody is reached.
    pub(super) fn not_reached(&mut self, node: &NodeKey) {
        if self.peers.connected_count() == 0 {
            return;
        }
        self.table.failed(node, UnixMillis::now());
        if self.table.get(node).is_none()
            && let Some(peer) = peer_named(node)
            && self.peers.is_in_table(&peer)
        {
            self.step_out(&peer);
        }
    }

    /// Takes a peer out of the table and out of kad's buckets.
    pub(super) fn evict(&mut self, peer: &PeerId) {
        if let Some(node) = node_of(peer) {
            self.table.remove(&node);
        }
        self.step_out(peer);
    }

    /// A peer has no place in the table any more; it may still be kept in mind there, with its years.
    pub(super) fn step_out(&mut self, peer: &PeerId) {
        if self.swarm.behaviour_mut().kad.remove_peer(peer).is_some() {
            tracing::debug!(%peer, "left the routing table");
        }
        self.peers.set_in_table(peer, false);
        self.upkeep.changed = true;
    }
}

/// The far end of a connection is elsewhere than its card says, and was never met there. Told only of global IPv4: who has
/// IPv6 too comes from there, and in a LAN addresses say nothing.
fn belies(at: Option<IpAddr>, card: &Card, mut verified: impl Iterator<Item = IpAddr>) -> bool {
    let subnet = |ip: IpAddr| (ip.is_ipv4() && is_global(ip)).then(|| Network::of(ip).subnet);
    let says = card.addresses.iter().find_map(|address| subnet(address.ip.to_canonical()));
    let (Some(says), Some(at)) = (says, at.and_then(|ip| subnet(ip.to_canonical()))) else { return false };
    at != says && !verified.any(|ip| subnet(ip.to_canonical()) == Some(says))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::NodeSecret;
    use crate::reachability::Transport;
    use crate::wire::OverlayId;

    #[test]
    fn who_comes_from_elsewhere_than_its_card_says_must_be_found_there_once() {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let card = |ips: &[&str]| {
            let at = |text: &&str| Address { ip: ip(text), transport: Transport::Quic, port: 4001 };
            let addresses: Vec<Address> = ips.iter().map(at).collect();
            Card::sign(&NodeSecret::generate(), &OverlayId([1; 32]), &addresses, UnixMillis::now()).unwrap()
        };
        let boasts = card(&["8.8.8.8"]);
        assert!(belies(Some(ip("81.2.3.4")), &boasts, std::iter::empty()));
        assert!(belies(Some(ip("::ffff:81.2.3.4")), &boasts, [ip("81.2.3.4")].into_iter()));
        assert!(!belies(Some(ip("81.2.3.4")), &boasts, [ip("8.8.8.8")].into_iter()), "it was dialled there");
        assert!(!belies(Some(ip("8.8.8.99")), &boasts, std::iter::empty()), "the same /24");
        assert!(!belies(Some(ip("2a00::1")), &boasts, std::iter::empty()));
        assert!(!belies(Some(ip("192.168.1.2")), &boasts, std::iter::empty()));
        assert!(!belies(None, &boasts, std::iter::empty()), "through a relay");
        assert!(!belies(Some(ip("81.2.3.4")), &card(&["192.168.1.2"]), std::iter::empty()));
    }
}
