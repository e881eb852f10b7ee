//! Bounds on inbound connections per address and per subnet, and on what a connection may reach: libp2p has none
//! (PITFALLS 20). The rule is `admission`; this behaviour only tells it who comes and goes.

use super::address::ip_of;
use crate::admission::{Inbound, Refusal};
use libp2p::core::{Endpoint, transport::PortUse};
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, ListenFailure, NetworkBehaviour, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::IpAddr;
use std::task::{Context, Poll};

/// Told for the counters; at most this many wait to be told.
const MAX_UNTOLD: usize = 64;

pub(super) struct Behaviour {
    inbound: Inbound,
    counted: HashMap<ConnectionId, IpAddr>,
    untold: VecDeque<Refusal>,
}

impl Behaviour {
    pub(super) fn new(per_address: u32, per_subnet: u32) -> Self {
        Self { inbound: Inbound::new(per_address, per_subnet), counted: HashMap::new(), untold: VecDeque::new() }
    }

    fn gone(&mut self, connection: ConnectionId) {
        if let Some(ip) = self.counted.remove(&connection) {
            self.inbound.release(ip);
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Refusal;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        // Without an address (a relayed connection) the relay's own bounds hold.
        let Some(ip) = ip_of(remote) else { return Ok(()) };
        if let Err(refusal) = self.inbound.admit(ip) {
            if self.untold.len() < MAX_UNTOLD {
                self.untold.push_back(refusal);
            }
            return Err(ConnectionDenied::new(refusal));
        }
        self.counted.insert(connection, ip);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _connection: ConnectionId,
        _peer: PeerId,
        _local: &Multiaddr,
        _remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _connection: ConnectionId,
        _peer: PeerId,
        _address: &Multiaddr,
        _role: Endpoint,
        _port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. })
            | FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => self.gone(connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _peer: PeerId, _connection: ConnectionId, event: THandlerOutEvent<Self>) {
        let never: Infallible = event;
        match never {}
    }

    fn poll(&mut self, _cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        // Filled only while the swarm polls its listeners, which polls this afterwards.
        self.untold.pop_front().map_or(Poll::Pending, |refusal| Poll::Ready(ToSwarm::GenerateEvent(refusal)))
    }
}
