//! Circuits (libp2p's circuit relay v2): a node that cannot be dialled is reached through others, which pass on what they
//! cannot read. Signalling only; voice has ways of its own.
//!
//! ```text
//! identify (who passes on) ──▶ reserving: which two, replaced at once ──▶ listeners of the relay client ──▶ own record
//! relay server ── asks ──▶ serving: who has how much ◀── tells what ended ── actor
//! through: a circuit's address       quiet: the client's transport without the relay's words
//! pacing: what is passed on goes at 256 kbit/s
//! ```

mod pacing;
mod quiet;
mod reserving;
mod serving;
mod through;

pub(super) use pacing::Paced;
pub(super) use quiet::Quiet;
pub(super) use reserving::Reserving;
pub(super) use serving::Grants;
pub(super) use through::Through;

use super::actor::Actor;
use super::address::{ip_of, node_of, to_multiaddr, to_plain};
use crate::reachability::{Address, Kind, MAX_ADDRESSES, Transport};
use crate::wire::{AddressScope, is_global};
use libp2p::core::ConnectedPoint;
use libp2p::core::transport::ListenerId;
use libp2p::relay::{self, HOP_PROTOCOL_NAME, StatusCode};
use libp2p::{Multiaddr, PeerId, identify};
use reserving::{Step, WANTED};
use std::time::{Duration, Instant};

/// Circuit addresses in a record: two relays, by QUIC and by TCP, and by the other family.
const MAX_CIRCUITS: usize = 6;

/// What firewalls that let nothing but web pages through take for one.
const WEB_PORT: u16 = 443;

/// Connections that are passed on for others, and by others.
#[derive(Clone, Debug, Default)]
pub struct CircuitsConfig {
    /// Pass on for others; `None`: once this node is known to be public.
    pub serve: Option<bool>,
    /// Be reachable through others; `None`: while this node is not known to be public.
    pub reserve: Option<bool>,
    pub limits: CircuitLimits,
}

/// What this node passes on at most.
#[derive(Clone, Debug)]
pub struct CircuitLimits {
    /// Nodes that are reached through this one, in all and of a /24 or /48.
    pub reservations: usize,
    pub reservations_per_subnet: usize,
    /// Connections at a time, in all and of one node that dials.
    pub circuits: usize,
    pub circuits_per_source: usize,
    /// Of one circuit; bytes in both directions together.
    pub duration: Duration,
    pub bytes: u64,
}

impl Default for CircuitLimits {
    fn default() -> Self {
        Self {
            reservations: 32,
            reservations_per_subnet: 8,
            circuits: 32,
            circuits_per_source: 8,
            duration: Duration::from_secs(2 * 3_600),
            bytes: 64 * 1024 * 1024,
        }
    }
}

/// This node's circuits.
pub(super) struct Circuits {
    config: CircuitsConfig,
    pub(super) grants: Grants,
    pub(super) reserving: Reserving,
}

impl Circuits {
    pub(super) fn new(config: CircuitsConfig, grants: Grants) -> Self {
        Self { config, grants, reserving: Reserving::default() }
    }

    fn serves(&self, public: bool) -> bool {
        self.config.serve.unwrap_or(public)
    }
}

impl Actor {
    /// A peer said what it speaks.
    pub(super) fn circuits_identified(&mut self, peer: PeerId, direct: bool, info: &identify::Info, now: Instant) {
        if !direct {
            return;
        }
        if !info.protocols.contains(&HOP_PROTOCOL_NAME) {
            self.circuits.reserving.retired(&peer);
        } else if let Some(at) = self.peers.addresses(&peer).iter().find(|at| self.may_pass_on(at)).cloned() {
            self.circuits.reserving.known(peer, &at, now);
        }
        self.reserve(now);
    }

    /// Under scope `global`, nobody outside can use a relay at a private address.
    fn may_pass_on(&self, at: &Multiaddr) -> bool {
        self.scope == AddressScope::Any || ip_of(at).is_some_and(is_global)
    }

    /// Does what is to be done so that this node is reached.
    pub(super) fn reserve(&mut self, now: Instant) {
        let wanted = self.relays_wanted(now);
        self.circuits.reserving.want(wanted);
        loop {
            let slots = &self.slots;
            let Some(step) = self.circuits.reserving.poll(now, |peer| slots.is_open(peer)) else { return };
            match step {
                Step::Connect(through) => self.dial_known(through.relay, vec![through.at]),
                Step::Reserve(through) => {
                    self.stay_with(&through.relay);
                    match self.swarm.listen_on(through.address()) {
                        Ok(listener) => self.circuits.reserving.asked(&through.relay, listener, now),
                        Err(error) => {
                            tracing::debug!(relay = %through.relay, %error, "no reservation");
                            self.circuits.reserving.failed(&through.relay, now);
                        }
                    }
                }
                Step::Release(listener) => {
                    self.swarm.remove_listener(listener);
                    self.upkeep.addresses_changed = true;
                }
                Step::HangUp(relay) => {
                    tracing::debug!(%relay, "a relay is silent");
                    for connection in self.slots.connections(&relay) {
                        self.swarm.close_connection(connection);
                    }
                }
            }
        }
    }

    /// A node that cannot be dialled needs relays; one that can needs one for those who get out by TCP to port 443 only, if
    /// it does not listen there.
    fn relays_wanted(&self, now: Instant) -> usize {
        let picture = &self.reaching.picture;
        match self.circuits.config.reserve {
            Some(true) => WANTED,
            Some(false) => 0,
            None if self.circuits.serves(false) => 0,
            None if picture.wants_relays(now) => WANTED,
            None if self.scope == AddressScope::Global && picture.kind(now) == Kind::Public && !self.is_web() => 1,
            None => 0,
        }
    }

    /// Whether this node passes connections on.
    pub(super) fn serves_circuits(&self) -> bool {
        self.circuits.serves(self.reaching.picture.kind(Instant::now()) == Kind::Public)
    }

    /// Whether it is to be reached at more relays than it knows to try.
    pub(super) fn wants_more_circuits(&self, now: Instant) -> bool {
        self.circuits.reserving.hopeful(now) < self.relays_wanted(now)
    }

    fn is_web(&self) -> bool {
        let listens = self.listen.iter().filter_map(to_plain);
        self.external.iter().copied().chain(listens).any(|at| at.transport == Transport::Tcp && at.port == WEB_PORT)
    }

    /// The connections with a relay are not closed for being idle, or because a question ended; and its death is noticed.
    fn stay_with(&mut self, relay: &PeerId) {
        for connection in self.slots.connections(relay) {
            self.swarm.behaviour_mut().kept.keep(*relay, connection);
            self.swarm.behaviour_mut().pulse.watch(*relay, connection);
            self.asking_closed(&connection);
            self.feelers.gone(&connection);
        }
    }

    /// A listener of a circuit is gone, or another one.
    pub(super) fn circuit_closed(&mut self, listener: ListenerId, now: Instant) {
        if self.circuits.reserving.closed(listener, now) {
            tracing::debug!("a relay was lost");
            self.upkeep.addresses_changed = true;
        }
        self.reserve(now);
    }

    /// News of the relays that pass on for us.
    pub(super) fn relayed_event(&mut self, event: relay::client::Event, now: Instant) {
        match event {
            relay::client::Event::ReservationReqAccepted { relay_peer_id, .. } => {
                if self.circuits.reserving.granted(&relay_peer_id, now) {
                    tracing::debug!(relay = %relay_peer_id, "reached through a relay");
                    self.upkeep.addresses_changed = true;
                }
                self.reserve(now);
            }
            // The connection itself is told by the swarm.
            relay::client::Event::OutboundCircuitEstablished { .. }
            | relay::client::Event::InboundCircuitEstablished { .. } => {}
        }
    }

    /// News of what we pass on.
    #[allow(deprecated, reason = "the crate tells of some failures in no other way")]
    pub(super) fn relaying_event(&mut self, event: relay::Event) {
        let grants = &self.circuits.grants;
        match event {
            relay::Event::CircuitReqAccepted { src_peer_id, .. } => grants.came_up(&src_peer_id),
            relay::Event::CircuitClosed { src_peer_id, .. } => grants.ended(&src_peer_id, true),
            // Those are not granted, and so not counted.
            relay::Event::CircuitReqDenied { status: StatusCode::ResourceLimitExceeded, .. } => {}
            relay::Event::CircuitReqDenied { src_peer_id, .. }
            | relay::Event::CircuitReqOutboundConnectFailed { src_peer_id, .. }
            | relay::Event::CircuitReqAcceptFailed { src_peer_id, .. } => grants.ended(&src_peer_id, false),
            relay::Event::ReservationTimedOut { src_peer_id } => grants.ran_out(&src_peer_id),
            // Connections are told of by the swarm; refusals are counted by the grants.
            relay::Event::ReservationReqAccepted { .. }
            | relay::Event::ReservationReqAcceptFailed { .. }
            | relay::Event::ReservationReqDenied { .. }
            | relay::Event::ReservationReqDenyFailed { .. }
            | relay::Event::ReservationClosed { .. }
            | relay::Event::CircuitReqDenyFailed { .. }
            | relay::Event::StatusChanged { .. } => {}
        }
        let refused = self.circuits.grants.take_refused();
        for (count, why) in
            [(refused.reservations, "circuit: no reservation"), (refused.circuits, "circuit: not passed on")]
        {
            (0..count).for_each(|_| self.meter.refuse(why.into()));
        }
    }

    /// What hung on a connection of a peer is over.
    pub(super) fn circuits_disconnected(&mut self, peer: PeerId, endpoint: &ConnectedPoint) {
        self.circuits.grants.disconnected(peer, endpoint.get_remote_address());
    }

    /// Passes on for others, or not; and tells them where it is.
    pub(super) fn serve_circuits(&mut self, here: &[Address]) {
        let serves = self.serves_circuits();
        let status = if serves { relay::Status::Enable } else { relay::Status::Disable };
        self.swarm.behaviour_mut().relaying.set_status(Some(status));
        if !serves {
            return;
        }
        // A reservation's answer names them, and is worth nothing without.
        for address in here {
            let address = to_multiaddr(address);
            if !self.swarm.external_addresses().any(|known| *known == address) {
                self.swarm.add_external_address(address);
            }
        }
    }

    /// What goes into this node's records: where it is dialled, and through whom it is reached.
    pub(super) fn record_addresses(&self, direct: &[Address]) -> Vec<Vec<u8>> {
        let held = self.circuits.reserving.held();
        let circuits = held.iter().flat_map(|through| self.ways_to(through)).take(MAX_CIRCUITS);
        let circuits: Vec<_> = circuits.map(|through| through.address().to_vec()).collect();
        let direct = direct.iter().take(MAX_ADDRESSES - circuits.len());
        direct.map(|address| to_multiaddr(address).to_vec()).chain(circuits).collect()
    }

    /// A relay where we reached it; and as its card says, by the other transport at the same host, and by TCP of the other
    /// family: who dials may have no UDP, or no IPv4.
    fn ways_to(&self, through: &Through) -> Vec<Through> {
        let Some(at) = to_plain(&through.at) else { return Vec::new() };
        let card = self.said_by(&through.relay);
        let beside = card.iter().find(|other| other.ip == at.ip && other.transport != at.transport);
        let other = |other: &&Address| other.ip.is_ipv4() != at.ip.is_ipv4() && other.transport == Transport::Tcp;
        let ways = beside.into_iter().chain(card.iter().find(other));
        let ways = ways.map(|way| Through { relay: through.relay, at: to_multiaddr(way) });
        [through.clone()].into_iter().chain(ways).collect()
    }

    /// Where a node says that it is, by its signed card.
    fn said_by(&self, peer: &PeerId) -> Vec<Address> {
        let card = node_of(peer).and_then(|node| self.table.get(&node).cloned());
        card.map(|card| card.addresses.clone()).unwrap_or_default()
    }

    /// Where this node itself knows the relays in `addresses` to be: who is called may have named what is no use here.
    pub(super) fn ways_known(&self, addresses: &[Multiaddr]) -> Vec<Multiaddr> {
        let mut relays: Vec<PeerId> = addresses.iter().filter_map(Through::read).map(|way| way.relay).collect();
        relays.sort_unstable();
        relays.dedup();
        let known = |relay: PeerId| {
            let reached = self.peers.addresses(&relay).to_vec();
            let places = reached.into_iter().chain(self.said_by(&relay).into_iter().map(|at| to_multiaddr(&at)));
            places.map(move |at| Through { relay, at }.address())
        };
        relays.into_iter().take(MAX_CIRCUITS).flat_map(known).filter(|way| !addresses.contains(way)).collect()
    }

    /// Where this node is reached through others, as others would write it.
    pub(super) fn circuit_texts(&self) -> Vec<String> {
        self.circuits.reserving.held().iter().map(|through| through.address().to_string()).collect()
    }
}
