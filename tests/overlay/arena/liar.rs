//! A hostile node on libp2p itself: it speaks identify, ping, kad and `store/1`, and says what its conspiracy wants.

use super::conspiracy::{Conspiracy, address, listen_at};
use super::kad_words::{KadCodec, StoreCodec};
use futures::StreamExt;
use libp2p::request_response::{self, Event, Message, ProtocolSupport};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, StreamProtocol, Swarm, SwarmBuilder, identify, identity, noise, ping, tcp, yamux};
use peerline::clock::UnixMillis;
use peerline::dht::{Card, Question, Voice};
use peerline::identity::NodeSecret;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

#[derive(NetworkBehaviour)]
struct Mask {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    kad: request_response::Behaviour<KadCodec>,
    store: request_response::Behaviour<StoreCodec>,
}

/// Dropping it ends it.
pub struct Liar {
    pub secret: NodeSecret,
    pub card: Arc<Card>,
    /// With its peer id, as a bootstrap node is written.
    pub address: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Liar {
    /// Listens at `ip`, tells the conspiracy, and dials `known` so that they dial back and let it in.
    pub async fn start(conspiracy: Arc<Conspiracy>, secret: NodeSecret, ip: Ipv4Addr, known: &[String]) -> Self {
        let mut swarm = swarm(&conspiracy, &secret);
        swarm.listen_on(listen_at(ip, conspiracy.transport).parse().unwrap()).expect("a loopback address");
        let listen = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        let at = address(&listen.to_string());
        let card = Card::sign(&secret, &conspiracy.overlay, &[at], UnixMillis::now()).expect("an address");
        let card = Arc::new(card);
        conspiracy.knows_liar(card.clone());
        let address = listen.with_p2p(*swarm.local_peer_id()).expect("its own").to_string();
        for known in known {
            let known: Multiaddr = known.parse().expect("an address");
            let _ = swarm.dial(known);
        }
        let voice = Voice::new(&secret, conspiracy.overlay, secret.public().0[..8].try_into().unwrap());
        let task = tokio::spawn(run(swarm, conspiracy, voice, card.clone()));
        Self { secret, card, address, task }
    }
}

fn swarm(conspiracy: &Conspiracy, secret: &NodeSecret) -> Swarm<Mask> {
    let key = identity::Keypair::ed25519_from_bytes(secret.to_bytes()).expect("32 bytes");
    let short = conspiracy.overlay.short();
    let name = |name: &str| StreamProtocol::try_from_owned(format!("/peerline/{short}/{name}")).unwrap();
    let settings = || request_response::Config::default().with_request_timeout(Duration::from_secs(30));
    let full = |name| [(name, ProtocolSupport::Inbound)];
    SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_quic()
        .with_behaviour(|key| Mask {
            identify: identify::Behaviour::new(identify::Config::new(format!("/peerline/{short}"), key.public())),
            ping: ping::Behaviour::default(),
            kad: request_response::Behaviour::with_codec(KadCodec, full(name("kad/1")), settings()),
            store: request_response::Behaviour::with_codec(StoreCodec, full(name("store/1")), settings()),
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(600)))
        .build()
}

async fn run(mut swarm: Swarm<Mask>, conspiracy: Arc<Conspiracy>, voice: Voice, card: Arc<Card>) {
    // Channels of questions that are never answered: dropped, they would tell the other end.
    let mut silent_kad = std::collections::VecDeque::new();
    let mut silent_store = std::collections::VecDeque::new();
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(MaskEvent::Kad(Event::Message {
                peer,
                message: Message::Request { request, channel, .. },
                ..
            })) => match conspiracy.answer(&card.node, &peer, &request) {
                Some(answer) => drop(swarm.behaviour_mut().kad.send_response(channel, answer)),
                None => {
                    silent_kad.push_back(channel);
                    silent_kad.drain(..silent_kad.len().saturating_sub(200));
                }
            },
            SwarmEvent::Behaviour(MaskEvent::Store(Event::Message {
                peer,
                message: Message::Request { request, channel, .. },
                ..
            })) => {
                let reply = Question::decode(request).ok().and_then(|q| conspiracy.reply(&voice, &card, &peer, &q));
                match reply {
                    Some(reply) => drop(swarm.behaviour_mut().store.send_response(channel, reply)),
                    None => {
                        silent_store.push_back(channel);
                        silent_store.drain(..silent_store.len().saturating_sub(200));
                    }
                }
            }
            _ => {}
        }
    }
}
