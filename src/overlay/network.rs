//! The swarm's events: who connects and leaves, what peers say of themselves, which addresses are ours. Only what this
//! node dialled and authenticated itself enters the routing table (K11).

use super::actor::Actor;
use super::address::{ip_of, to_plain};
use super::behaviour::BehaviourEvent;
use super::gate;
use super::intake::Put;
use super::peers::MAX_ADDRESSES;
use super::transport::is_not_spoken;
use crate::clock::UnixMillis;
use crate::dht::Stored;
use bytes::Bytes;
use libp2p::core::ConnectedPoint;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionError, ConnectionId, DialError, ListenError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, identify, kad, mdns, ping};
use libp2p_connection_limits::Exceeded;
use libp2p_memory_connection_limits::MemoryUsageLimitExceeded;
use std::time::Instant;

/// Addresses of one mDNS answer that are looked at.
const MAX_MDNS: usize = 16;

impl Actor {
    pub(super) fn swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        let (now, wall) = (Instant::now(), UnixMillis::now());
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Kad(gate::Event::Kad(event))) => self.kad_event(event),
            SwarmEvent::Behaviour(BehaviourEvent::Kad(gate::Event::Put { peer, connection, record, answers })) => {
                let bytes = Bytes::from(record.value);
                let put = Put { key: record.key.as_ref(), bytes: &bytes, stamp: None, what: "put" };
                let taken = self.take_in(peer, connection, &put);
                let kept = taken.is_ok_and(|offered| matches!(offered.stored, Stored::Kept { .. }));
                self.swarm.behaviour_mut().kad.answer(peer, connection, answers, kept);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Kad(gate::Event::Refused { peer, connection, why, enough })) => {
                self.meter.refuse(why.into());
                if enough {
                    self.hang_up(peer, connection, now);
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Store(event)) => self.store_event(event, now),
            SwarmEvent::Behaviour(BehaviourEvent::MediaRelays(event)) => self.relay_event(event, now),
            SwarmEvent::Behaviour(BehaviourEvent::Link(event)) => self.link_event(event),
            SwarmEvent::Behaviour(BehaviourEvent::Framed(incoming)) => self.pipe_opened(incoming),
            SwarmEvent::Behaviour(BehaviourEvent::Relayed(event)) => self.relayed_event(event, now),
            SwarmEvent::Behaviour(BehaviourEvent::Relaying(event)) => self.relaying_event(event),
            SwarmEvent::Behaviour(BehaviourEvent::Punching(event)) => self.punched(&event),
            SwarmEvent::Behaviour(BehaviourEvent::Trying(event)) => self.tried(&event, now),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                connection_id,
            })) => {
                self.identified(peer_id, connection_id, info, now);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Pulse(pinged)) => {
                // Who does not speak ping may still be alive; who does and is silent is dead, and ping would leave it open.
                match pinged.result {
                    Ok(round_trip) => self.circuits.reserving.heard(&pinged.peer, round_trip, now),
                    Err(ping::Failure::Other { error })
                        if error.downcast_ref::<std::io::Error>().is_some_and(is_not_spoken) => {}
                    Err(ping::Failure::Timeout | ping::Failure::Other { .. }) => {
                        self.swarm.close_connection(pinged.connection);
                    }
                    Err(ping::Failure::Unsupported) => {}
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(found))) => {
                for (peer, address) in found.into_iter().take(MAX_MDNS) {
                    self.found_near(peer, &address, now);
                    self.dial_known(peer, vec![address]);
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Limits(refusal)) => {
                self.meter.refuse(format!("connection: {refusal}"))
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.connected(peer_id, connection_id, &endpoint, now, wall);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, endpoint, .. } => {
                self.inbound.remove(&connection_id);
                self.visitors.gone(&connection_id);
                self.feelers.gone(&connection_id);
                self.asking_closed(&connection_id);
                self.slots.closed(peer_id, connection_id);
                self.processes.closed(peer_id, connection_id);
                self.circuits_disconnected(peer_id, &endpoint);
                self.reaching_closed(&connection_id);
                // Who dialled closes what it does not need any more: that is no sign of death.
                let broke = endpoint.is_dialer()
                    && cause.is_some_and(|cause| !matches!(cause, ConnectionError::KeepAliveTimeout));
                self.peers.disconnected(&peer_id, broke, now);
                self.upkeep.changed = true;
            }
            SwarmEvent::OutgoingConnectionError { peer_id, error, connection_id } => {
                self.feelers.gone(&connection_id);
                self.feel_on(now);
                self.dial_failed(peer_id, &error);
                self.lead_failed(connection_id, now);
                if let Some(peer) = peer_id {
                    self.asking_dial_failed(&peer, connection_id, now);
                }
            }
            SwarmEvent::IncomingConnectionError { error: ListenError::Denied { cause }, .. }
                if cause.downcast_ref::<Exceeded>().is_some() =>
            {
                self.meter.refuse("connection: no room".into());
            }
            SwarmEvent::IncomingConnectionError { error: ListenError::Denied { cause }, .. }
                if cause.downcast_ref::<MemoryUsageLimitExceeded>().is_some() =>
            {
                self.meter.refuse("connection: no memory".into());
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                self.listen.insert(address);
                self.upkeep.addresses_changed = true;
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.listen.remove(&address);
                self.upkeep.addresses_changed = true;
            }
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                for address in &addresses {
                    self.listen.remove(address);
                    self.upkeep.addresses_changed = true;
                }
                match reason {
                    Err(error) if !addresses.is_empty() => {
                        tracing::warn!(%error, "a listener has stopped: this node may be out of reach");
                    }
                    // Those of circuits have no addresses of their own, and come and go with their relays.
                    _ => self.circuit_closed(listener_id, now),
                }
            }
            // Progress that the above end, and news of protocols that need no answer of ours.
            _ => {}
        }
    }

    fn connected(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        endpoint: &ConnectedPoint,
        now: Instant,
        wall: UnixMillis,
    ) {
        self.upkeep.changed = true;
        if let Some(oldest) = self.processes.established(peer, connection) {
            self.swarm.close_connection(oldest);
        }
        let direct = !endpoint.is_relayed();
        if direct {
            self.slots.opened(peer, connection);
        }
        let came = self.reaching_connected(peer, connection, endpoint, now);
        self.asking_connected(peer, connection, now);
        self.relay_round(now);
        match endpoint {
            ConnectedPoint::Dialer { address, .. } if direct => {
                let (address, _) = super::address::split_peer(address.clone());
                self.dialling.free(&address);
                self.met(peer, ip_of(&address), now);
                ip_of(&address).into_iter().for_each(|ip| self.relay_reached(&peer, ip));
                self.peers.connected(peer, Some(&address), now);
                self.lead_reached(peer, connection, &address, now, wall);
                self.listing_found(&peer, &address);
                self.meet(peer, now);
                if self.swarm.behaviour().tried.as_ref().is_some_and(|tried| tried.dialled(connection)) {
                    self.feelers.brief(connection, now);
                }
                self.feelers.up(connection, now);
                self.feel_on(now);
            }
            ConnectedPoint::Listener { send_back_addr, .. } if direct => {
                self.peers.connected(peer, None, now);
                self.met(peer, ip_of(send_back_addr), now);
                self.inbound.insert(connection, send_back_addr.clone());
                self.visitors.came(connection, peer, now);
                if came {
                    self.dialled_by(ip_of(send_back_addr), now);
                }
            }
            ConnectedPoint::Dialer { .. } | ConnectedPoint::Listener { .. } => {
                self.peers.connected(peer, None, now);
            }
        }
    }

    /// A peer said what it speaks and where it listens. The former decides about the table, the latter is believed
    /// only as far as a dial proves it.
    fn identified(&mut self, peer: PeerId, connection: ConnectionId, info: identify::Info, now: Instant) {
        if let Some(older) = self.processes.identified(&peer, connection, &info.agent_version) {
            tracing::debug!(%peer, connections = older.len(), "was started anew");
            if let Some(node) = super::address::node_of(&peer) {
                self.flapping.joined(node, now);
            }
            self.swarm.behaviour_mut().link.restarted(peer, &older);
            for connection in older {
                self.swarm.close_connection(connection);
            }
        }
        let serves = info.protocols.contains(&self.kad_protocol) && !self.flaps(&peer, now);
        self.peers.identified(&peer, serves);
        if serves {
            self.meet(peer, now);
        } else {
            self.evict(&peer);
        }
        let direct = self.slots.connections(&peer).contains(&connection);
        self.circuits_identified(peer, direct, &info, now);
        self.observed(connection, &info, now);
        self.relay_identified(peer, &info, now);
        let Some(from) = self.inbound.get(&connection).and_then(ip_of) else { return };
        if !serves && !self.upkeep.is_small_and_drawn() {
            return;
        }
        // Only at the address that it comes from: nobody sends us to a third party.
        let claimed = info.listen_addrs.into_iter().map(|a| super::address::split_peer(a).0);
        let claimed =
            claimed.filter(|a| to_plain(a).is_some_and(|plain| plain.ip.to_canonical() == from.to_canonical()));
        let claimed = claimed.take(16).collect();
        let addresses = self.peers.dial_back(&peer, claimed, now);
        if !addresses.is_empty() {
            addresses.iter().for_each(|address| self.dialling.free(address));
            self.feel_out(peer, addresses, now);
        }
    }

    fn kad_event(&mut self, event: kad::Event) {
        match event {
            kad::Event::RoutingUpdated { peer, addresses, .. } => {
                // kad adds every address that was ever dialled: the oldest go.
                let surplus = addresses.len().saturating_sub(MAX_ADDRESSES);
                let old: Vec<Multiaddr> = addresses.iter().take(surplus).cloned().collect();
                for address in old {
                    self.swarm.behaviour_mut().kad.remove_address(&peer, &address);
                }
            }
            // Answered by kad, or about its own queries, which ask nothing of us.
            kad::Event::InboundRequest { .. }
            | kad::Event::OutboundQueryProgressed { .. }
            | kad::Event::UnroutablePeer { .. }
            | kad::Event::RoutablePeer { .. }
            | kad::Event::PendingRoutablePeer { .. }
            | kad::Event::ModeChanged { .. } => {}
        }
    }

    fn dial_failed(&mut self, peer: Option<PeerId>, error: &DialError) {
        let tried: Vec<Multiaddr> = match error {
            DialError::Transport(errors) => {
                errors.iter().map(|(address, _)| super::address::split_peer(address.clone()).0).collect()
            }
            DialError::WrongPeerId { address, .. } => vec![super::address::split_peer(address.clone()).0],
            _ => return,
        };
        self.not_answered(&tried, Instant::now());
        if let Some(peer) = peer
            && self.peers.dial_failed(&peer, &tried)
            && let Some(node) = super::address::node_of(&peer)
        {
            self.not_reached(&node);
        }
    }

    /// Dials a peer at addresses from a source that we trust for that: configuration, cache, mDNS.
    pub(super) fn dial_known(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        if peer == self.here || self.peers.is_connected(&peer) {
            return;
        }
        addresses.iter().for_each(|address| self.dialling.free(address));
        let opts = DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing).addresses(addresses);
        if let Err(error) = self.swarm.dial(opts.build()) {
            tracing::trace!(%peer, %error, "not dialled");
        }
    }

    /// Our own listen addresses as others would write them.
    pub(super) fn listen_texts(&self) -> Vec<String> {
        let mut texts: Vec<String> =
            self.listen.iter().map(|address| address.clone().with(Protocol::P2p(self.here)).to_string()).collect();
        texts.sort();
        texts
    }
}
