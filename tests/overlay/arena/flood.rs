//! Floods: clients on libp2p itself that ask as fast as they are answered. Each has an address and a /24 of its own.

use super::conspiracy::{listen_at, multiaddr, peer_id};
use super::kad_words::StoreCodec;
use crate::harness::User;
use futures::StreamExt;
use libp2p::request_response::{self, Event, Message, OutboundRequestId, ProtocolSupport};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{PeerId, StreamProtocol, Swarm, SwarmBuilder, identify, identity, noise, tcp, yamux};
use peerline::dht::{Ask, Card, Position, Question, Reply, Said, Stored};
use peerline::reachability::Transport;
use peerline::record::{self, RecordKey};
use peerline::wire::OverlayId;
use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout_at;

#[derive(NetworkBehaviour)]
pub(super) struct Client {
    identify: identify::Behaviour,
    pub(super) store: request_response::Behaviour<StoreCodec>,
}

/// What to ask, forever.
#[derive(Clone, Copy, Debug)]
pub enum Flood {
    /// STORE of valid records of ever new users, whose first key lies in the eighth of the space around the target.
    Stores,
    /// FETCH of the target.
    Fetches,
}

/// Questions under way at once at each node that is flooded.
const AT_ONCE: usize = 4;

/// Floods `nodes`, who are near `target`, for a while; what they said, by kind.
pub async fn run(
    flood: Flood,
    overlay: OverlayId,
    target: RecordKey,
    nodes: Vec<Arc<Card>>,
    ip: Ipv4Addr,
    life: Duration,
) -> BTreeMap<&'static str, u64> {
    let mut swarm = client(&overlay);
    swarm.listen_on(listen_at(ip, Transport::Quic).parse().unwrap()).expect("a loopback address");
    let mut said = BTreeMap::new();
    let mut asked: HashMap<OutboundRequestId, (PeerId, Question)> = HashMap::new();
    let end = Instant::now() + life;
    for card in &nodes {
        let peer = peer_id(&card.node);
        let addresses = card.addresses.iter().map(multiaddr).collect();
        let opts = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(addresses).build();
        let _ = swarm.dial(opts);
    }
    while let Ok(event) = timeout_at(end.into(), swarm.select_next_some()).await {
        let again = match event {
            SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                for _ in 1..AT_ONCE {
                    ask(&mut swarm, flood, &overlay, target, peer_id, &mut asked);
                }
                Some(peer_id)
            }
            SwarmEvent::ConnectionClosed { .. } => {
                *said.entry("connections closed").or_default() += 1;
                None
            }
            SwarmEvent::Behaviour(ClientEvent::Store(Event::Message {
                peer,
                message: Message::Response { request_id, response },
                ..
            })) => {
                let question = asked.remove(&request_id);
                let kind = question.and_then(|(_, q)| Reply::decode(response, &q).ok()).map_or("unreadable", kind);
                *said.entry(kind).or_default() += 1;
                Some(peer)
            }
            SwarmEvent::Behaviour(ClientEvent::Store(Event::OutboundFailure { peer, request_id, .. })) => {
                asked.remove(&request_id);
                *said.entry("no answer").or_default() += 1;
                swarm.is_connected(&peer).then_some(peer)
            }
            _ => None,
        };
        if let Some(peer) = again {
            ask(&mut swarm, flood, &overlay, target, peer, &mut asked);
        }
    }
    said
}

fn ask(
    swarm: &mut Swarm<Client>,
    flood: Flood,
    overlay: &OverlayId,
    target: RecordKey,
    peer: PeerId,
    asked: &mut HashMap<OutboundRequestId, (PeerId, Question)>,
) {
    let ask = match flood {
        Flood::Fetches => Ask::Fetch(target),
        Flood::Stores => {
            let at = Position::of_key(&target);
            let (user, key) = loop {
                let user = User::in_overlay(overlay);
                let key = record::replica_keys(overlay, &user.identity.id)[0];
                if Position::of_key(&key).distance(&at).shared_bits() >= 3 {
                    break (user, key);
                }
            };
            Ask::Store(key, user.sign(&user.device, overlay, &user.draft(3_000)).into())
        }
    };
    let nonce = peerline::identity::NodeSecret::generate().to_bytes();
    let question = Question { nonce: nonce[..16].try_into().unwrap(), card: None, ask, stamp: bytes::Bytes::new() };
    let id = swarm.behaviour_mut().store.send_request(&peer, question.encode());
    asked.insert(id, (peer, question));
}

fn kind(reply: Reply) -> &'static str {
    match reply.said {
        Said::Near => "near",
        Said::Held(Some(_)) => "held",
        Said::Held(None) => "nothing held",
        Said::Busy => "busy",
        Said::Stored { result, .. } => match result {
            Stored::Kept { .. } => "kept",
            Stored::Stale { .. } => "stale",
            Stored::NotMine => "not mine",
            Stored::Full => "full",
            Stored::Stamp { .. } => "stamp wanted",
            Stored::Invalid => "invalid",
        },
        Said::List(_) => "list",
        Said::Enlisted(_) => "enlisted",
    }
}

pub(super) fn client(overlay: &OverlayId) -> Swarm<Client> {
    let short = overlay.short();
    let name = StreamProtocol::try_from_owned(format!("/peerline/{short}/store/1")).unwrap();
    let settings = request_response::Config::default().with_request_timeout(Duration::from_secs(5));
    SwarmBuilder::with_existing_identity(identity::Keypair::generate_ed25519())
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_quic()
        .with_behaviour(|key| Client {
            identify: identify::Behaviour::new(identify::Config::new(format!("/peerline/{short}"), key.public())),
            store: request_response::Behaviour::with_codec(StoreCodec, [(name, ProtocolSupport::Outbound)], settings),
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
        .build()
}
