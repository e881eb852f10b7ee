//! A node that speaks the protocol's name and then whatever the test wants.

use super::node::{Driven, OVERLAY};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, Stream, StreamProtocol, SubstreamProtocol, THandlerInEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use peerline::identity::NodeSecret;
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// What the raw node sees: a stream that it asked for or was given, or the end of a connection.
#[derive(Debug)]
pub enum Seen {
    Stream(Stream),
    Closed,
}

#[derive(Default)]
pub struct Raw {
    connected: bool,
    wanted: VecDeque<PeerId>,
    seen: VecDeque<Seen>,
    waker: Option<Waker>,
}

pub async fn start(secret: &NodeSecret) -> (Driven<Raw>, Multiaddr) {
    Driven::start(secret, Raw::default(), super::node::TCP).await
}

impl Driven<Raw> {
    /// Dials `peer` and asks for `count` streams once it is there.
    pub async fn open(&self, peer: PeerId, address: Multiaddr, count: usize) {
        self.with(move |swarm| {
            if !swarm.is_connected(&peer) {
                swarm.dial(address).unwrap();
            }
            let raw = swarm.behaviour_mut();
            raw.wanted.extend(std::iter::repeat_n(peer, count));
            raw.waker.take().into_iter().for_each(Waker::wake);
        })
        .await;
    }

    pub async fn stream(&mut self) -> Stream {
        loop {
            match tokio::time::timeout(super::node::DEADLINE, self.events.recv()).await.unwrap().unwrap() {
                Seen::Stream(stream) => return stream,
                Seen::Closed => {}
            }
        }
    }
}

impl NetworkBehaviour for Raw {
    type ConnectionHandler = RawHandler;
    type ToSwarm = Seen;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<RawHandler, ConnectionDenied> {
        Ok(RawHandler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<RawHandler, ConnectionDenied> {
        Ok(RawHandler::default())
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(_) => self.seen.push_back(Seen::Closed),
            FromSwarm::ConnectionEstablished(_) => self.connected = true,
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, seen: Seen) {
        self.seen.push_back(seen);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Seen, THandlerInEvent<Self>>> {
        if let Some(seen) = self.seen.pop_front() {
            return Poll::Ready(ToSwarm::GenerateEvent(seen));
        }
        if self.connected
            && let Some(peer_id) = self.wanted.pop_front()
        {
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::Any, event: () });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[derive(Default)]
pub struct RawHandler {
    wanted: usize,
    seen: VecDeque<Seen>,
}

fn protocol() -> StreamProtocol {
    StreamProtocol::try_from_owned(format!("/peerline/{}/sip/1", OVERLAY.short())).unwrap()
}

impl ConnectionHandler for RawHandler {
    type FromBehaviour = ();
    type ToBehaviour = Seen;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(protocol()), ())
    }

    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn on_behaviour_event(&mut self, (): ()) {
        self.wanted += 1;
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. })
            | ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, .. }) => {
                self.seen.push_back(Seen::Stream(protocol));
            }
            _ => {}
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Seen>> {
        if self.wanted > 0 {
            self.wanted -= 1;
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(protocol()), ());
            let protocol = protocol.with_timeout(Duration::from_secs(5));
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        if let Some(seen) = self.seen.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(seen));
        }
        Poll::Pending
    }
}
