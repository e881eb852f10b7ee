//! `media/1`: a stream of bytes beside a link, for a call whose packets find no other way. What is in it is the user's
//! (docs/protocol.md "media/1"); here it is opened on the best connection there is, named, and handed over.
//!
//! A stream begins with 16 bytes that name the call. They were drawn at random and told on the link alone, so only its two
//! ends know them: the user asks for no other proof before it takes the stream, and packets prove themselves.

use super::OverlayEvent;
use crate::identity::NodeKey;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, Stream, StreamProtocol, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// From asking for a stream to its name being said. 5 s, as for links.
pub(super) const NAME_TIMEOUT: Duration = Duration::from_secs(5);
/// Streams of one connection that the far end opened and that are in use: a call has one.
const MAX_INBOUND: usize = 8;
/// Streams that are being opened at once, and those of others that have not said their name.
const MAX_OPENING: usize = 64;

/// A stream of bytes to another node. Closed when dropped.
pub struct Pipe {
    stream: Stream,
    /// Counts it among those of its connection.
    _place: Arc<()>,
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pipe")
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

impl Pipe {
    /// Says which call it is for.
    pub(super) async fn name(&mut self, call: &[u8; 16]) -> io::Result<()> {
        let said = async {
            self.write_all(call).await?;
            self.flush().await
        };
        tokio::time::timeout(NAME_TIMEOUT, said).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Hears which call it is for.
    pub(super) async fn named(&mut self) -> io::Result<[u8; 16]> {
        let mut call = [0; 16];
        let heard = tokio::time::timeout(NAME_TIMEOUT, self.read_exact(&mut call)).await;
        heard.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        Ok(call)
    }
}

/// A stream that the far end opened; what it is for it says next.
#[derive(Debug)]
pub struct Incoming {
    pub peer: PeerId,
    pub pipe: Pipe,
}

/// The streams of this node.
pub struct Behaviour {
    protocol: StreamProtocol,
    /// Of each peer, and whether somebody passes them on.
    connections: HashMap<PeerId, Vec<(ConnectionId, bool)>>,
    opening: HashMap<u64, oneshot::Sender<Pipe>>,
    next: u64,
    /// One for each stream that is being named.
    naming: Arc<Semaphore>,
    actions: VecDeque<ToSwarm<Incoming, u64>>,
    waker: Option<Waker>,
}

impl Behaviour {
    pub(super) fn new(protocol: StreamProtocol) -> Behaviour {
        let (connections, opening, actions) = (HashMap::new(), HashMap::new(), VecDeque::new());
        let naming = Arc::new(Semaphore::new(MAX_OPENING));
        Behaviour { protocol, connections, opening, next: 0, naming, actions, waker: None }
    }

    /// Opens a stream to `peer`, on a direct connection if there is one, the newest. Dropping `reply` says that there
    /// is none.
    pub(super) fn open(&mut self, peer: PeerId, reply: oneshot::Sender<Pipe>) {
        self.opening.retain(|_, waiting| !waiting.is_closed());
        let connections = self.connections.get(&peer).map(Vec::as_slice).unwrap_or_default();
        let direct = connections.iter().rev().find(|(_, relayed)| !relayed);
        let Some((connection, _)) = direct.or(connections.last()).filter(|_| self.opening.len() < MAX_OPENING) else {
            return;
        };
        let handler = NotifyHandler::One(*connection);
        self.opening.insert(self.next, reply);
        self.actions.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler, event: self.next });
        self.next += 1;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Hears what a stream of `node` is for, and hands it up. `false`: too many are being heard.
    pub(super) fn hear(&self, mut pipe: Pipe, node: NodeKey, events: mpsc::Sender<OverlayEvent>) -> bool {
        let Ok(place) = self.naming.clone().try_acquire_owned() else { return false };
        tokio::spawn(async move {
            if let Ok(call) = pipe.named().await {
                // Nobody reads: a node that only serves the overlay.
                let _ = events.send(OverlayEvent::MediaPipe { node, call, pipe }).await;
            }
            drop(place);
        });
        true
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Incoming;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.protocol.clone()))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.protocol.clone()))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(event) => {
                let connection = (event.connection_id, event.endpoint.is_relayed());
                self.connections.entry(event.peer_id).or_default().push(connection);
            }
            FromSwarm::ConnectionClosed(event) => {
                if let Some(of_peer) = self.connections.get_mut(&event.peer_id) {
                    of_peer.retain(|(id, _)| *id != event.connection_id);
                    if of_peer.is_empty() {
                        self.connections.remove(&event.peer_id);
                    }
                }
            }
            // Listeners and addresses are the owner's.
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {
            Report::Opened(number, pipe) => {
                if let Some(reply) = self.opening.remove(&number) {
                    // Who asked may have gone, and the stream goes, too.
                    let _ = reply.send(pipe);
                }
            }
            Report::NotOpened(number) => drop(self.opening.remove(&number)),
            Report::Incoming(pipe) => self.actions.push_back(ToSwarm::GenerateEvent(Incoming { peer, pipe })),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Incoming, THandlerInEvent<Self>>> {
        if let Some(action) = self.actions.pop_front() {
            return Poll::Ready(action);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[derive(Debug)]
pub enum Report {
    Opened(u64, Pipe),
    NotOpened(u64),
    Incoming(Pipe),
}

/// The streams of one connection, until they are handed over.
pub struct Handler {
    protocol: StreamProtocol,
    requests: VecDeque<u64>,
    reports: VecDeque<Report>,
    /// One clone for each stream that the far end opened and that is in use.
    places: Arc<()>,
}

impl Handler {
    fn new(protocol: StreamProtocol) -> Handler {
        Handler { protocol, requests: VecDeque::new(), reports: VecDeque::new(), places: Arc::new(()) }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = u64;
    type ToBehaviour = Report;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = u64;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ()).with_timeout(NAME_TIMEOUT)
    }

    fn on_behaviour_event(&mut self, number: u64) {
        self.requests.push_back(number);
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol, (), u64>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: stream, .. }) => {
                let pipe = Pipe { stream, _place: self.places.clone() };
                // One clone is the handler's own, one the new stream's.
                let places = Arc::strong_count(&self.places) - 2;
                self.reports.extend((places < MAX_INBOUND).then_some(Report::Incoming(pipe)));
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info }) => {
                self.reports.push_back(Report::Opened(info, Pipe { stream, _place: Arc::new(()) }));
            }
            ConnectionEvent::DialUpgradeError(error) => self.reports.push_back(Report::NotOpened(error.info)),
            // The enum is open-ended; addresses and protocols are the behaviour's.
            _ => {}
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, u64, Report>> {
        if let Some(number) = self.requests.pop_front() {
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), number);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: protocol.with_timeout(NAME_TIMEOUT),
            });
        }
        match self.reports.pop_front() {
            Some(report) => Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report)),
            None => Poll::Pending,
        }
    }
}
