//! A raw libp2p node for the tests: it follows the protocols and none of our rules. What it answers on `store/1` is up
//! to the test.

use super::harness::{OVERLAY, PATIENCE};
use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::kad::store::MemoryStore;
use libp2p::request_response::{self, Event, Message, ProtocolSupport};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, identify, identity, kad, noise, tcp, yamux};
use peerline::clock::UnixMillis;
use peerline::dht::{Card, Question, Voice};
use peerline::identity::NodeSecret;
use peerline::reachability::{Address, Transport};
use std::io;

/// `u32 length || bytes`, whatever they are.
#[derive(Clone, Debug)]
pub struct Raw;

async fn read(io: &mut (impl AsyncRead + Unpin + Send)) -> io::Result<Bytes> {
    let mut length = [0; 4];
    io.read_exact(&mut length).await?;
    let mut bytes = vec![0; u32::from_be_bytes(length).min(1 << 16) as usize];
    io.read_exact(&mut bytes).await?;
    Ok(bytes.into())
}

async fn write(io: &mut (impl AsyncWrite + Unpin + Send), bytes: &[u8]) -> io::Result<()> {
    io.write_all(&[&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()).await
}

impl request_response::Codec for Raw {
    type Protocol = StreamProtocol;
    type Request = Bytes;
    type Response = Bytes;

    async fn read_request<T: AsyncRead + Unpin + Send>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Bytes> {
        read(io).await
    }
    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Bytes> {
        read(io).await
    }
    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, bytes: Bytes) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &bytes).await
    }
    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, bytes: Bytes) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &bytes).await
    }
}

#[derive(NetworkBehaviour)]
pub struct Protocols {
    pub kad: kad::Behaviour<MemoryStore>,
    pub identify: identify::Behaviour,
    pub store: request_response::Behaviour<Raw>,
}

pub struct Stranger {
    pub swarm: Swarm<Protocols>,
    pub secret: NodeSecret,
    pub address: Multiaddr,
    pub card: Card,
}

impl Stranger {
    pub async fn new() -> Self {
        Self::speaking("store/1").await
    }

    /// One whose questions and answers are those of another protocol.
    pub async fn speaking(protocol: &str) -> Self {
        let secret = NodeSecret::generate();
        let key = identity::Keypair::ed25519_from_bytes(secret.to_bytes()).unwrap();
        let name =
            |name: &str| StreamProtocol::try_from_owned(format!("/peerline/{}/{name}", OVERLAY.short())).unwrap();
        let mut swarm = SwarmBuilder::with_existing_identity(key)
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|key| {
                let mut config = kad::Config::new(name("kad/1"));
                config.set_max_packet_size(64 * 1024);
                let here = key.public().to_peer_id();
                let mut kad = kad::Behaviour::with_config(here, MemoryStore::new(here), config);
                kad.set_mode(Some(kad::Mode::Server));
                let identify = identify::Behaviour::new(identify::Config::new("/x".into(), key.public()));
                let store = request_response::Behaviour::with_codec(
                    Raw,
                    [(name(protocol), ProtocolSupport::Full)],
                    request_response::Config::default(),
                );
                Protocols { kad, identify, store }
            })
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
            .build();
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        let port = address.iter().find_map(|part| match part {
            libp2p::multiaddr::Protocol::Tcp(port) => Some(port),
            _ => None,
        });
        let at = Address { ip: [127, 0, 0, 1].into(), transport: Transport::Tcp, port: port.unwrap() };
        let card = Card::sign(&secret, &OVERLAY, &[at], UnixMillis::now()).unwrap();
        let address = address.with_p2p(*swarm.local_peer_id()).unwrap();
        Self { swarm, secret, address, card }
    }

    /// One that serves nobody, so that nobody asks it anything: who does not answer in 4 s loses the connection.
    pub async fn client() -> Self {
        let mut stranger = Self::new().await;
        stranger.swarm.behaviour_mut().kad.set_mode(Some(kad::Mode::Client));
        stranger
    }

    pub fn voice(&self) -> Voice {
        Voice::new(&self.secret, OVERLAY, [7; 8])
    }

    pub async fn connect(&mut self, address: Multiaddr) -> PeerId {
        self.swarm.dial(address).unwrap();
        loop {
            if let SwarmEvent::ConnectionEstablished { peer_id, .. } = self.swarm.select_next_some().await {
                return peer_id;
            }
        }
    }

    /// Keeps the swarm going while something is awaited; questions are not answered.
    pub async fn drive<T>(&mut self, until: impl Future<Output = T>) -> T {
        tokio::pin!(until);
        loop {
            tokio::select! {
                done = &mut until => return done,
                _ = self.swarm.select_next_some() => {}
            }
        }
    }

    /// Sends bytes on `store/1`; what comes back, `None` when the stream ends without.
    pub async fn ask(&mut self, peer: &PeerId, bytes: Bytes) -> Option<Bytes> {
        let id = self.swarm.behaviour_mut().store.send_request(peer, bytes);
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::Behaviour(ProtocolsEvent::Store(Event::Message {
                    message: Message::Response { request_id, response },
                    ..
                })) if request_id == id => return Some(response),
                SwarmEvent::Behaviour(ProtocolsEvent::Store(Event::OutboundFailure { request_id, .. }))
                    if request_id == id =>
                {
                    return None;
                }
                _ => {}
            }
        }
    }

    /// Answers questions until aborted; `None` answers nothing.
    pub fn answer(
        self,
        mut answer: impl FnMut(Question) -> Option<Bytes> + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        self.answer_bytes(move |request| answer(Question::decode(request).ok()?))
    }

    /// The same, whatever is asked.
    pub fn answer_bytes(
        mut self,
        mut answer: impl FnMut(Bytes) -> Option<Bytes> + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            // Channels that are dropped would end their streams: who says nothing keeps them.
            let mut unanswered = Vec::new();
            loop {
                if let SwarmEvent::Behaviour(ProtocolsEvent::Store(Event::Message {
                    message: Message::Request { request, channel, .. },
                    ..
                })) = self.swarm.select_next_some().await
                {
                    match answer(request) {
                        Some(reply) => drop(self.swarm.behaviour_mut().store.send_response(channel, reply)),
                        None => unanswered.push(channel),
                    }
                }
            }
        })
    }
}
