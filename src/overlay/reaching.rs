//! Where this node is: what the swarm hears of it goes into the picture of `reachability`, and what that makes of it comes
//! back: whether to be reached through others, what to offer for hole punching, what to have tried.

use super::actor::Actor;
use super::address::{ip_of, to_multiaddr, to_plain};
use crate::reachability::{Address, Kind, Picture, Transport};
use crate::wire::AddressScope;
use libp2p::core::ConnectedPoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId, autonat, dcutr, identify};
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

/// Addresses that servers are asked to try in one session: the crate forgets none.
const MAX_TRIED: usize = 32;

/// A connection, as far as it says where we are.
struct Seen {
    peer: PeerId,
    /// Where the far end is; none through a relay.
    by: Option<IpAddr>,
    /// From or to a port at which we listen.
    listening: bool,
    /// Where the far end sees us.
    here: Option<IpAddr>,
}

pub(super) struct Reaching {
    pub(super) picture: Picture,
    kind: Kind,
    connections: HashMap<ConnectionId, Seen>,
    offered: Vec<Address>,
    tried: Vec<Address>,
}

impl Reaching {
    pub(super) fn new(scope: AddressScope, told: bool, now: Instant) -> Self {
        Self {
            picture: Picture::new(scope, told, now),
            kind: Kind::Unknown,
            connections: HashMap::new(),
            offered: Vec::new(),
            tried: Vec::new(),
        }
    }

    /// Whether a peer is connected through a relay: what comes from it directly then comes through a hole.
    fn is_relayed(&self, peer: &PeerId) -> bool {
        self.connections.values().any(|seen| seen.peer == *peer && seen.by.is_none())
    }
}

impl Actor {
    /// A connection came up. `true`: somebody dialled us by himself, where we listen.
    pub(super) fn reaching_connected(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        endpoint: &ConnectedPoint,
        now: Instant,
    ) -> bool {
        let by = if endpoint.is_relayed() { None } else { ip_of(endpoint.get_remote_address()) };
        let listening = !matches!(endpoint, ConnectedPoint::Dialer { port_use: PortUse::New, .. });
        let punched = self.reaching.is_relayed(&peer);
        self.reaching.connections.insert(connection, Seen { peer, by, listening, here: None });
        let Some(by) = by else { return false };
        match endpoint {
            ConnectedPoint::Dialer { address, .. } => {
                if let Some(plain) = to_plain(address) {
                    self.reaching.picture.dialled(by, plain.transport, now);
                }
                false
            }
            ConnectedPoint::Listener { local_addr, .. } if !punched => {
                if let Some(at) = to_plain(local_addr) {
                    self.reaching.picture.reached(by, at, now);
                }
                self.reaching.picture.kind(now) != Kind::BehindNat
            }
            ConnectedPoint::Listener { .. } => false,
        }
    }

    pub(super) fn reaching_closed(&mut self, connection: &ConnectionId) {
        self.reaching.connections.remove(connection);
    }

    /// A peer says where it sees us. Its raw word: the port that a router gave us is what others have to write to.
    pub(super) fn observed(&mut self, connection: ConnectionId, info: &identify::Info, now: Instant) {
        let (Some(connection), Some(seen)) =
            (self.reaching.connections.get_mut(&connection), to_plain(&info.observed_addr))
        else {
            return;
        };
        connection.here = Some(seen.ip.to_canonical());
        if let Seen { by: Some(by), listening: true, .. } = *connection {
            self.reaching.picture.seen(by, seen, now);
            self.reached_anew(now);
        }
    }

    /// Dials failed: if those by UDP always do, there is none.
    pub(super) fn not_answered<'a>(&mut self, tried: impl IntoIterator<Item = &'a Multiaddr>, now: Instant) {
        let quic = tried.into_iter().filter_map(to_plain).filter(|plain| plain.transport == Transport::Quic);
        quic.for_each(|plain| self.reaching.picture.unanswered(plain.ip, now));
    }

    /// A server tried one of our addresses.
    pub(super) fn tried(&mut self, event: &autonat::v2::client::Event, now: Instant) {
        let Some(at) = to_plain(&event.tested_addr) else { return };
        let server =
            || self.reaching.connections.values().filter(|seen| seen.peer == event.server && seen.by.is_some());
        // A server dials nobody but who asks: that it did not reach another address of ours says nothing.
        let asked_from = server().find(|seen| seen.here == Some(at.ip.to_canonical())).and_then(|seen| seen.by);
        let by = server().find_map(|seen| seen.by);
        match (&event.result, by, asked_from) {
            (Ok(()), Some(by), _) => self.reaching.picture.reached(by, at, now),
            (Err(_), _, Some(by)) => self.reaching.picture.missed(by, at, now),
            (Ok(()), None, _) | (Err(_), _, None) => return,
        }
        tracing::debug!(server = %event.server, address = %event.tested_addr, works = event.result.is_ok(), "tried");
        self.upkeep.addresses_changed = true;
        self.reached_anew(now);
    }

    pub(super) fn punched(&mut self, event: &dcutr::Event) {
        match &event.result {
            Ok(_) => tracing::debug!(peer = %event.remote_peer_id, "a hole was punched"),
            Err(error) => tracing::debug!(peer = %event.remote_peer_id, %error, "no hole"),
        }
    }

    /// These are ours, as far as we know ourselves.
    pub(super) fn listens_at(&mut self, own: &[Address], now: Instant) {
        self.reaching.picture.listens(own, now);
        self.reached_anew(now);
    }

    /// What follows of the picture.
    pub(super) fn reached_anew(&mut self, now: Instant) {
        let candidates = self.reaching.picture.candidates(now);
        if candidates != self.reaching.offered {
            // The last that is offered is the first that is tried.
            for address in candidates.iter().rev() {
                self.swarm.behaviour_mut().punching.offer(&to_multiaddr(address));
            }
            self.reaching.offered = candidates;
            self.upkeep.changed = true;
        }
        let fresh: Vec<Address> =
            self.reaching.picture.to_be_tried().filter(|address| !self.reaching.tried.contains(address)).collect();
        for address in fresh {
            if self.reaching.tried.len() >= MAX_TRIED {
                break;
            }
            self.reaching.tried.push(address);
            // Each is tried once: with our name at the end it is another one to the crate, and another server's.
            let plain = to_multiaddr(&address);
            let named = plain.clone().with(libp2p::multiaddr::Protocol::P2p(self.here));
            let trying = &mut self.swarm.behaviour_mut().trying;
            trying.offer(&plain);
            trying.offer(&named);
        }
        let kind = self.reaching.picture.kind(now);
        if kind != self.reaching.kind {
            tracing::debug!(?kind, "where this node is");
            self.reaching.kind = kind;
            self.upkeep.addresses_changed = true;
        }
        self.reserve(now);
    }
}
