//! Connections that are kept though nobody uses them. Who dialled decides: it keeps a few ([`super::slots`]), and lets go
//! of the others by closing them when they have been idle for a while; who was dialled waits for that, or each would
//! close what the other keeps.

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::DeniedUpgrade;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::handler::ConnectionEvent;
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::task::{Context, Poll};

/// Keeps what it is told to keep.
#[derive(Default)]
pub(super) struct Behaviour {
    /// One for each call of [`Behaviour::keep`]; taken at the swarm's next poll.
    told: VecDeque<(PeerId, ConnectionId)>,
}

impl Behaviour {
    /// This connection stays until somebody closes it.
    pub(super) fn keep(&mut self, peer: PeerId, connection: ConnectionId) {
        self.told.push_back((peer, connection));
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _connection: ConnectionId,
        _peer: PeerId,
        local: &Multiaddr,
        _remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        // A circuit is for a call, and costs a third party.
        let relayed = local.iter().any(|part| matches!(part, Protocol::P2pCircuit));
        Ok(Handler { kept: !relayed })
    }

    fn handle_established_outbound_connection(
        &mut self,
        _connection: ConnectionId,
        _peer: PeerId,
        _address: &Multiaddr,
        _role: Endpoint,
        _port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler { kept: false })
    }

    fn on_swarm_event(&mut self, _event: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _peer: PeerId, _connection: ConnectionId, event: THandlerOutEvent<Self>) {
        let never: Infallible = event;
        match never {}
    }

    fn poll(&mut self, _cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        // Filled only between two polls, by who polls.
        let told = self.told.pop_front();
        told.map_or(Poll::Pending, |(peer_id, connection)| {
            Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(connection), event: Keep })
        })
    }
}

/// Opens nothing and takes nothing.
pub(super) struct Handler {
    kept: bool,
}

/// From now on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep;

impl ConnectionHandler for Handler {
    type FromBehaviour = Keep;
    type ToBehaviour = Infallible;
    type InboundProtocol = DeniedUpgrade;
    type OutboundProtocol = DeniedUpgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<DeniedUpgrade> {
        SubstreamProtocol::new(DeniedUpgrade, ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.kept
    }

    fn on_behaviour_event(&mut self, Keep: Keep) {
        self.kept = true;
    }

    fn on_connection_event(&mut self, _event: ConnectionEvent<'_, DeniedUpgrade, DeniedUpgrade>) {}

    fn poll(&mut self, _cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<DeniedUpgrade, (), Infallible>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::dialling::Dialling;
    use crate::overlay::meter::Traffic;
    use crate::overlay::transport;
    use crate::wire::AddressScope;
    use futures::StreamExt;
    use libp2p::Swarm;
    use libp2p::identity::Keypair;
    use libp2p::swarm::{Config, SwarmEvent};
    use std::time::Duration;

    const IDLE: Duration = Duration::from_millis(100);

    fn swarm() -> Swarm<Behaviour> {
        let key = Keypair::generate_ed25519();
        let transport = transport::build(&key, &Traffic::default(), &Dialling::new(AddressScope::Any)).unwrap();
        let settings = Config::with_tokio_executor().with_idle_connection_timeout(IDLE);
        Swarm::new(transport, Behaviour::default(), key.public().to_peer_id(), settings)
    }

    /// Whether a connection is closed within ten times of what idle ones are given.
    async fn closes(keep: bool) -> bool {
        let (mut near, mut far) = (swarm(), swarm());
        far.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = far.select_next_some().await {
                break address;
            }
        };
        near.dial(address).unwrap();
        let closed = async {
            loop {
                tokio::select! {
                    event = near.select_next_some() => match event {
                        SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. } if keep => {
                            near.behaviour_mut().keep(peer_id, connection_id);
                        }
                        SwarmEvent::ConnectionClosed { .. } => return,
                        _ => {}
                    },
                    event = far.select_next_some() => {
                        if matches!(event, SwarmEvent::ConnectionClosed { .. }) {
                            return;
                        }
                    }
                }
            }
        };
        tokio::time::timeout(10 * IDLE, closed).await.is_ok()
    }

    #[tokio::test]
    async fn who_dialled_decides_how_long_an_idle_connection_stays() {
        assert!(closes(false).await);
        assert!(!closes(true).await);
    }
}
