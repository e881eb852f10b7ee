//! Who holds what, in truth: a client asks every honest node for every key, by itself and not by the network.

use super::cells::Known;
use super::conspiracy::{listen_at, multiaddr, peer_id};
use super::flood::{ClientEvent, client};
use futures::StreamExt;
use libp2p::PeerId;
use libp2p::request_response::{Event, Message, OutboundRequestId};
use libp2p::swarm::SwarmEvent;
use libp2p::swarm::dial_opts::DialOpts;
use peerline::dht::{Ask, Card, Question, Reply, Said};
use peerline::reachability::Transport;
use peerline::record;
use peerline::wire::OverlayId;
use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Sets the holders of each user's newest record.
pub async fn holders(overlay: OverlayId, nodes: Vec<Arc<Card>>, users: &mut [Known], ip: Ipv4Addr) {
    let mut swarm = client(&overlay);
    swarm.listen_on(listen_at(ip, Transport::Quic).parse().unwrap()).expect("a loopback address");
    let mut to_ask: HashMap<PeerId, VecDeque<(usize, usize)>> = HashMap::new();
    for card in &nodes {
        let peer = peer_id(&card.node);
        to_ask.insert(peer, (0..users.len()).flat_map(|user| (0..4).map(move |key| (user, key))).collect());
        let addresses = card.addresses.iter().map(multiaddr).collect();
        let _ = swarm.dial(DialOpts::peer_id(peer).addresses(addresses).build());
    }
    let newest: Vec<Vec<u8>> = users.iter().map(|user| user.newest.encode()).collect();
    for user in users.iter_mut() {
        user.holders.clear();
    }
    let mut asked: HashMap<OutboundRequestId, ((usize, usize), Question)> = HashMap::new();
    let mut resting: Vec<PeerId> = Vec::new();
    let mut rest = tokio::time::interval(Duration::from_millis(300));
    let end = Instant::now() + Duration::from_secs(60);
    while to_ask.values().any(|left| !left.is_empty()) || !asked.is_empty() {
        let ask = tokio::select! {
            _ = rest.tick() => std::mem::take(&mut resting),
            event = timeout_at(end, swarm.select_next_some()) => match event {
                Err(_) => return,
                Ok(SwarmEvent::ConnectionEstablished { peer_id, .. }) => vec![peer_id],
                Ok(SwarmEvent::Behaviour(ClientEvent::Store(Event::Message {
                    peer,
                    message: Message::Response { request_id, response },
                    ..
                }))) => match asked.remove(&request_id) {
                    Some(((user, key), question)) => match Reply::decode(response, &question).map(|reply| reply.said) {
                        Ok(Said::Held(held)) => {
                            if held.is_some_and(|held| held == newest[user]) {
                                users[user].holders.insert(peer.to_string());
                            }
                            vec![peer]
                        }
                        // Busy: a little later.
                        _ => {
                            to_ask.entry(peer).or_default().push_back((user, key));
                            resting.push(peer);
                            vec![]
                        }
                    },
                    None => vec![],
                },
                Ok(SwarmEvent::Behaviour(ClientEvent::Store(Event::OutboundFailure { peer, request_id, .. }))) => {
                    asked.remove(&request_id);
                    vec![peer]
                }
                Ok(_) => vec![],
            },
        };
        for peer in ask {
            let Some((user, key)) = to_ask.get_mut(&peer).and_then(VecDeque::pop_front) else { continue };
            let ask = Ask::Fetch(record::replica_keys(&overlay, &users[user].id)[key]);
            let nonce = peerline::identity::NodeSecret::generate().to_bytes();
            let question =
                Question { nonce: nonce[..16].try_into().unwrap(), card: None, ask, stamp: bytes::Bytes::new() };
            let id = swarm.behaviour_mut().store.send_request(&peer, question.encode());
            asked.insert(id, ((user, key), question));
        }
    }
}
