//! `relay/1`: ports on media relays for this node's calls, and, on a node that has a [`Relay`], for others'. What is
//! given is the relay's to decide; here is who asks, from where, and what is known of it.

mod asking;
mod choice;

use super::actor::Actor;
use super::address::{node_of, peer_named};
use super::behaviour::protocol;
use super::exchange::{self, Pool, ReplyChannel};
use super::{OverlayConfig, address};
use crate::admission::{PerSource, Rate, Subnet};
use crate::identity::NodeKey;
use crate::ledger::Fact;
use crate::relay::message::{MAX_REPLY_BYTES, MAX_REQUEST_BYTES, Reply, Request};
use crate::relay::{Ask, From, MediaFor, Relay};
use asking::Asking;
pub use asking::{Allocation, RelayRefused, Want};
use bytes::Bytes;
use libp2p::request_response::{Event, Message, OutboundFailure, ProtocolSupport};
use libp2p::swarm::ConnectionId;
use libp2p::{PeerId, StreamProtocol, identify};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// From the request to the reply: a caller hears ringing meanwhile, and asks the next one.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Of one peer, all kinds together.
const PER_PEER: Rate = Rate { per_second: 2.0, burst: 40.0 };
const MAX_PEERS: usize = 2_048;

/// Replies of the relay's thread that wait for the actor; as many requests wait there.
const REPLIES: usize = 64;

/// Verified answers and records from which on a peer has been of use: it has a credit.
const CREDIT: f64 = 5.0;

/// A reply that is ready.
pub(super) type Ready = (ReplyChannel, Bytes);

pub(super) struct Relaying {
    protocol: StreamProtocol,
    relay: Option<Relay>,
    ready: mpsc::Sender<Ready>,
    rates: PerSource<PeerId>,
    room: Pool,
    asking: Asking,
}

impl Relaying {
    /// And where replies come out, and where the STUN servers that are known are told.
    pub(super) fn new(config: &OverlayConfig) -> (Self, mpsc::Receiver<Ready>, watch::Receiver<Vec<SocketAddr>>) {
        let (ready, replies) = mpsc::channel(REPLIES);
        let (servers, known) = watch::channel(Vec::new());
        let relaying = Self {
            protocol: protocol(config, "relay/1"),
            relay: config.relay.clone(),
            ready,
            rates: PerSource::of_free_names(PER_PEER, MAX_PEERS),
            room: exchange::replies(),
            asking: Asking::new(servers),
        };
        (relaying, replies, known)
    }

    /// Whether this node gives ports for media itself.
    pub(super) fn gives_media(&self) -> bool {
        self.relay.as_ref().is_some_and(|relay| relay.media() != MediaFor::Off)
    }

    /// Whether any media relay is known.
    pub(super) fn knows_media_relay(&self) -> bool {
        self.asking.knows_media_relay()
    }

    /// Who has no relay only asks: others do not take it for one.
    pub(super) fn behaviour(config: &OverlayConfig) -> exchange::Behaviour {
        let support = if config.relay.is_some() { ProtocolSupport::Full } else { ProtocolSupport::Outbound };
        let bounds = (MAX_REQUEST_BYTES, MAX_REPLY_BYTES);
        exchange::small(protocol(config, "relay/1"), support, bounds, REQUEST_TIMEOUT)
    }
}

impl Actor {
    /// Something happened on `relay/1`.
    pub(super) fn relay_event(&mut self, event: exchange::Event, now: Instant) {
        match event {
            Event::Message { peer, connection_id, message: Message::Request { request, channel, .. } } => {
                self.relay_asked(peer, connection_id, request.bytes, channel, now);
            }
            Event::Message { peer, connection_id, message: Message::Response { request_id, response } } => {
                self.relay_answered(peer, connection_id, request_id, response.bytes, now);
            }
            Event::OutboundFailure { peer, request_id, error, .. } => {
                self.relay_unanswered(peer, request_id, matches!(error, OutboundFailure::ConnectionClosed), now);
            }
            // Who asked has left.
            Event::InboundFailure { .. } | Event::ResponseSent { .. } => {}
        }
    }

    /// A peer says what it speaks.
    pub(super) fn relay_identified(&mut self, peer: PeerId, info: &identify::Info, now: Instant) {
        if info.protocols.contains(&self.relaying.protocol) {
            self.relay_found(peer, now);
        } else {
            self.relay_lost(&peer);
        }
    }

    /// Somebody asks this relay.
    fn relay_asked(&mut self, peer: PeerId, connection: ConnectionId, bytes: Bytes, reply: ReplyChannel, now: Instant) {
        let (Some(relay), Some(node)) = (self.relaying.relay.clone(), node_of(&peer)) else { return };
        self.visitors.used(connection, now);
        // The channel closes with what is dropped here: the stream ends without a reply.
        if self.ledger.shuns(&peer, now) {
            return self.meter.refuse("relay: peer is shunned".into());
        }
        if !self.relaying.rates.take(peer, now) {
            return self.meter.refuse("relay: too often".into());
        }
        let Ok(request) = Request::decode(bytes) else {
            self.meter.refuse("relay: malformed".into());
            return self.ledger.note(peer, Fact::Refused, now);
        };
        let ip = self.relay_ip(&peer, connection);
        let from = From { node, ip, member: self.is_member(&peer, &node, now) };
        let public = self.public_addresses(ip);
        let ready = self.relaying.ready.clone();
        let far = match &request {
            Request::Allocate { peer: Some(far), .. } => self.relay_address_of(far),
            _ => None,
        };
        let work = async move {
            match request {
                Request::Where => Reply::Here {
                    observed: ip,
                    stun_port: relay.stun_port(),
                    media: relay.media() != MediaFor::Off && !public.is_empty(),
                },
                Request::Allocate { call, seconds, .. } => {
                    match relay.allocate(Ask { from, call, seconds, far, public }).await {
                        Ok(given) => Reply::Given {
                            ours: given.ours,
                            theirs: given.theirs,
                            seconds: whole(given.time),
                            bits_per_second: given.bits_per_second,
                        },
                        Err(why) => Reply::Refused(why),
                    }
                }
                Request::Renew { call, seconds } => match relay.renew(from, call, seconds).await {
                    Ok(time) => Reply::Renewed { seconds: whole(time) },
                    Err(why) => Reply::Refused(why),
                },
                Request::Release { call } => match relay.release(from, call).await {
                    Ok(()) => Reply::Released,
                    Err(why) => Reply::Refused(why),
                },
            }
        };
        // Bounded by the streams of connections; the relay itself answers within its own bound of commands, or at once.
        tokio::spawn(async move {
            let bytes = work.await.encode();
            // Who has left, or a node that stops, hears nothing.
            let _ = ready.send((reply, bytes)).await;
        });
    }

    /// A reply is ready to go.
    pub(super) fn relay_reply(&mut self, (channel, bytes): Ready) {
        let Some(parcel) = self.relaying.room.parcel(bytes) else {
            return self.meter.refuse("relay: replies wait to be read".into());
        };
        // Whoever left meanwhile does not want to know.
        let _ = self.swarm.behaviour_mut().media_relays.send_response(channel, parcel);
    }

    /// Whom a user of this node called there, and who has been of use.
    fn is_member(&mut self, peer: &PeerId, node: &NodeKey, now: Instant) -> bool {
        self.joining.engine.contacts().knows(node) || self.ledger.of(peer, now).good >= CREDIT
    }

    /// Where this node is reached from outside, as far as its operator or its interfaces say so; best for `asker` first.
    /// An address that only a router maps is none: it maps other ports.
    fn public_addresses(&self, asker: Option<IpAddr>) -> Vec<IpAddr> {
        let near = asker.map(Subnet::of);
        let local = asker.is_some_and(|ip| ip.is_loopback());
        let stated = self.external.iter().map(|address| (false, address.ip));
        let own = self.listen.iter().filter_map(address::to_plain).map(|address| (true, address.ip));
        let mut all: Vec<_> = stated
            .chain(own)
            .filter(|(_, ip)| !ip.is_unspecified())
            .map(|(own, ip)| (own, ip.is_loopback() != local, near != Some(Subnet::of(ip)), ip))
            .collect();
        all.sort_unstable();
        all.into_iter().map(|(.., ip)| ip).collect()
    }

    /// The far end of a connection.
    fn relay_ip(&self, peer: &PeerId, connection: ConnectionId) -> Option<IpAddr> {
        let dialled = || self.peers.dialled_at(peer).and_then(address::ip_of);
        self.inbound.get(&connection).and_then(address::ip_of).or_else(dialled)
    }

    /// From where a node talks to this one.
    fn relay_address_of(&self, node: &NodeKey) -> Option<IpAddr> {
        let peer = peer_named(node)?;
        let dialled = self.peers.dialled_at(&peer).and_then(address::ip_of);
        dialled.or_else(|| self.table.get(node)?.addresses.first().map(|address| address.ip))
    }
}

fn whole(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}
