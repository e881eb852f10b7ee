//! Ping (libp2p's), and more often on connections whose silent death would cost calls: those with relays at which this node
//! is reached. A relay whose power is cut says nothing; TCP would wait for it until something is written, QUIC for its
//! idle timeout. What silence means is decided by [`super::circuits`].

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::handler::ConnectionEvent;
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, ping};
use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Duration;

/// Of connections that nothing hangs on, from both ends: each minute, it was half of an idle node's traffic over TCP. QUIC
/// notices by itself, and who is asked over a dead TCP connection is given up as silent.
const CALM: Duration = Duration::from_secs(180);

/// Of watched ones. It takes the place of QUIC's keep-alive, and costs 0.02 MB an hour more for each over QUIC, 0.2 over
/// TCP, where each ping takes ten small packets.
pub(super) const QUICK: Duration = Duration::from_secs(15);

type Ping = <ping::Behaviour as NetworkBehaviour>::ConnectionHandler;
type Inbound = <Ping as ConnectionHandler>::InboundProtocol;
type Outbound = <Ping as ConnectionHandler>::OutboundProtocol;

pub(super) struct Behaviour {
    inner: ping::Behaviour,
    quick: Duration,
    /// One for each call of [`Behaviour::watch`]; taken at the swarm's next poll.
    told: VecDeque<(PeerId, ConnectionId)>,
}

impl Default for Behaviour {
    fn default() -> Self {
        let inner = ping::Behaviour::new(ping::Config::new().with_interval(CALM));
        Self { inner, quick: QUICK, told: VecDeque::new() }
    }
}

impl Behaviour {
    /// This connection is pinged every 15 s from now on.
    pub(super) fn watch(&mut self, peer: PeerId, connection: ConnectionId) {
        self.told.push_back((peer, connection));
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = ping::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner = self.inner.handle_established_inbound_connection(connection, peer, local, remote)?;
        Ok(Handler { inner, watched: false })
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner = self.inner.handle_established_outbound_connection(connection, peer, address, role, port)?;
        Ok(Handler { inner, watched: false })
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Poll::Ready(event) = self.inner.poll(cx) {
            return Poll::Ready(event.map_in(|never| match never {}));
        }
        // Filled only between two polls, by who polls.
        let told = self.told.pop_front();
        told.map_or(Poll::Pending, |(peer_id, connection)| {
            Poll::Ready(ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::One(connection),
                event: Watch(self.quick),
            })
        })
    }
}

pub(super) struct Handler {
    inner: Ping,
    watched: bool,
}

/// From now on, so often.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch(Duration);

impl ConnectionHandler for Handler {
    type FromBehaviour = Watch;
    type ToBehaviour = <Ping as ConnectionHandler>::ToBehaviour;
    type InboundProtocol = Inbound;
    type OutboundProtocol = Outbound;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Inbound> {
        self.inner.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner.connection_keep_alive()
    }

    /// The old pings end with their stream; the far end's open another.
    fn on_behaviour_event(&mut self, Watch(often): Watch) {
        if !std::mem::replace(&mut self.watched, true) {
            self.inner = Ping::new(ping::Config::new().with_interval(often));
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Inbound, Outbound>) {
        self.inner.on_connection_event(event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Outbound, (), <Self as ConnectionHandler>::ToBehaviour>> {
        match self.inner.poll(cx) {
            // When it has answered a ping it waits for the next without asking to be woken: over QUIC, where nothing else
            // wakes an idle connection, that one would go unanswered.
            Poll::Pending => self.inner.poll(cx),
            ready => ready,
        }
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
    use std::time::Instant;

    const OFTEN: Duration = Duration::from_secs(1);

    fn swarm() -> Swarm<Behaviour> {
        let key = Keypair::generate_ed25519();
        let transport = transport::build(&key, &Traffic::default(), &Dialling::new(AddressScope::Any)).unwrap();
        let settings = Config::with_tokio_executor().with_idle_connection_timeout(OFTEN * 10);
        Swarm::new(transport, Behaviour { quick: OFTEN, ..Behaviour::default() }, key.public().to_peer_id(), settings)
    }

    /// Nothing else happens on the connection, as with a relay in a quiet hour.
    #[tokio::test]
    async fn watched_connections_are_pinged_often_and_every_ping_is_answered() {
        let (mut near, mut far) = (swarm(), swarm());
        far.listen_on("/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()).unwrap();
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = far.select_next_some().await {
                break address;
            }
        };
        tokio::spawn(async move { while far.next().await.is_some() {} });
        near.dial(address).unwrap();
        let mut heard = Vec::new();
        let start = Instant::now();
        // The first when it is connected, one when it is watched, and four more.
        let all = async {
            while heard.len() < 6 {
                match near.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { .. } => {}
                    SwarmEvent::Behaviour(ping::Event { peer, connection, result }) => {
                        result.expect("answered");
                        if heard.is_empty() {
                            near.behaviour_mut().watch(peer, connection);
                        }
                        heard.push(start.elapsed());
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(OFTEN * 6, all).await.expect("all in time");
        let last = heard[heard.len() - 1];
        assert!(last >= OFTEN * 4 && last < OFTEN * 5, "{heard:?}");
    }
}
