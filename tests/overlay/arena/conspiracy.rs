//! What liars have in common: they know everything and each other, and agree on one attack. What a liar answers is
//! decided here; a liar itself only has a voice and an address.
//!
//! Until the attack begins, and for everything that is not under attack, liars are model citizens: they are let into
//! every table and keep what they are given.

use super::kad_words::{FIND_NODE, GET_VALUE, KadMessage, KadPeer, KadRecord, PUT_VALUE};
use libp2p::{Multiaddr, PeerId};
use peerline::clock::UnixMillis;
use peerline::dht::{Ask, Card, Enlisted, Position, Question, Said, Stored, Voice};
use peerline::identity::{NodeKey, NodeSecret};
use peerline::reachability::{Address, Transport};
use peerline::record::{self, RecordKey};
use peerline::uri::IdHash;
use peerline::wire::{OverlayId, pb};
use prost::Message;
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

/// Peers of an honest answer; also of a lying one on `store/1`, where more are refused.
const NEAREST: usize = 20;

/// Peers that a liar names on kad, where nobody counts (K2): what fits into a message.
const KAD_GHOSTS: usize = 200;

/// Dead nodes to choose from: the nearest of them to a key are 100 times nearer than its honest holders in 100 nodes.
const GHOSTS: usize = 4_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Says nothing.
    Drop,
    /// Holds nothing, and names other liars only; takes records, gives receipts, keeps nothing.
    Misroute,
    /// As `Misroute`, and names signed dead nodes near the key, whose addresses accept and never speak.
    Ghosts,
    /// As `Misroute`, and names honest nodes at wrong addresses that accept and never speak: half of them by cards of
    /// yesterday with good signatures, half by newer ones with bad ones.
    Poison,
    /// Serves the record before the newest; takes the newest, gives receipts, keeps nothing.
    Stale,
    /// Honest to publishers, `Misroute` to everybody else.
    Selective,
}

impl Attack {
    pub const ALL: [Attack; 6] =
        [Attack::Drop, Attack::Misroute, Attack::Ghosts, Attack::Poison, Attack::Stale, Attack::Selective];

    pub fn name(self) -> &'static str {
        match self {
            Attack::Drop => "drop",
            Attack::Misroute => "misroute",
            Attack::Ghosts => "ghosts",
            Attack::Poison => "address poison",
            Attack::Stale => "stale",
            Attack::Selective => "selective",
        }
    }
}

impl Drop for Conspiracy {
    fn drop(&mut self) {
        self.silent.0.abort();
    }
}

pub struct Conspiracy {
    pub attack: Attack,
    pub overlay: OverlayId,
    armed: AtomicBool,
    honest: RwLock<Vec<Arc<Card>>>,
    /// Cards that the honest signed a day ago, when they were somewhere else.
    outdated: RwLock<Vec<Arc<Card>>>,
    liars: RwLock<Vec<Arc<Card>>>,
    ghosts: Vec<(Position, NodeSecret)>,
    /// Positions and record keys under attack, with their position.
    targets: RwLock<HashMap<[u8; 32], Position>>,
    /// Lies that take long to make, by target.
    prepared: Mutex<HashMap<Position, Arc<Vec<Arc<Card>>>>>,
    publishers: RwLock<HashSet<PeerId>>,
    kept: Mutex<HashMap<RecordKey, bytes::Bytes>>,
    /// By which it is spoken here, and the port at every address where nothing is ever said.
    pub transport: Transport,
    silent_port: u16,
    silent: (tokio::task::JoinHandle<()>, std::net::UdpSocket),
    pub lies: AtomicU64,
    pub asked: AtomicU64,
}

impl Conspiracy {
    /// Needs a runtime. `seed`: of its ghosts.
    pub async fn new(attack: Attack, transport: Transport, overlay: OverlayId, seed: u64) -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.expect("a port");
        let unread = std::net::UdpSocket::bind("0.0.0.0:0").expect("a port");
        let silent = match transport {
            Transport::Tcp => listener.local_addr(),
            Transport::Quic => unread.local_addr(),
        };
        let holding = tokio::spawn(async move {
            let mut held = std::collections::VecDeque::new();
            while let Ok((stream, _)) = listener.accept().await {
                held.push_back(stream);
                if held.len() > 2_000 {
                    held.pop_front();
                }
            }
        });
        let ghosts = if attack == Attack::Ghosts { GHOSTS } else { 0 };
        let ghosts = (0..ghosts as u64).map(|n| {
            let mut bytes = [0xfa; 32];
            bytes[..8].copy_from_slice(&seed.to_be_bytes());
            bytes[8..16].copy_from_slice(&n.to_be_bytes());
            let secret = NodeSecret::from_bytes(bytes);
            (Position::of_node(&secret.public()), secret)
        });
        Arc::new(Self {
            attack,
            overlay,
            armed: AtomicBool::new(false),
            honest: RwLock::default(),
            outdated: RwLock::default(),
            liars: RwLock::default(),
            ghosts: ghosts.collect(),
            targets: RwLock::default(),
            prepared: Mutex::default(),
            publishers: RwLock::default(),
            kept: Mutex::default(),
            transport,
            silent_port: silent.expect("an address").port(),
            silent: (holding, unread),
            lies: AtomicU64::new(0),
            asked: AtomicU64::new(0),
        })
    }

    pub fn knows_honest(&self, secret: &NodeSecret, at: Address) {
        let now = UnixMillis::now();
        let sign = |at, issued| Arc::new(Card::sign(secret, &self.overlay, &[at], issued).expect("an address"));
        let mut honest = self.honest.write().unwrap();
        let elsewhere = self.trap(Ipv4Addr::new(127, 240, honest.len() as u8, 1));
        self.outdated.write().unwrap().push(sign(elsewhere, UnixMillis(now.0 - 86_400_000)));
        honest.push(sign(at, now));
    }

    /// A server's address now, for floods.
    pub fn honest(&self) -> Vec<Arc<Card>> {
        self.honest.read().unwrap().clone()
    }

    pub fn knows_liar(&self, card: Arc<Card>) {
        self.liars.write().unwrap().push(card);
    }

    pub fn knows_publisher(&self, peer: PeerId) {
        self.publishers.write().unwrap().insert(peer);
    }

    pub fn attacks(&self, user: &IdHash) {
        let mut targets = self.targets.write().unwrap();
        for key in record::replica_keys(&self.overlay, user) {
            let position = Position::of_key(&key);
            targets.insert(key.0, position);
            targets.insert(position.0, position);
        }
    }

    /// From now on, or no longer, it lies.
    pub fn arm(&self, armed: bool) {
        self.armed.store(armed, Ordering::Relaxed);
    }

    /// The position under attack that is asked for, if this question is to be lied to.
    fn target(&self, asked: &[u8], from: &PeerId) -> Option<Position> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let asked: [u8; 32] = asked.try_into().ok()?;
        let target = self.targets.read().unwrap().get(&asked).copied()?;
        let spared = self.attack == Attack::Selective && self.publishers.read().unwrap().contains(from);
        (self.armed.load(Ordering::Relaxed) && !spared).then(|| {
            self.lies.fetch_add(1, Ordering::Relaxed);
            target
        })
    }

    /// The nearest of everybody, liars too.
    fn honest_peers(&self, to: &Position) -> Vec<Arc<Card>> {
        let mut all: Vec<_> = self.honest.read().unwrap().iter().cloned().collect();
        all.extend(self.liars.read().unwrap().iter().cloned());
        nearest(all, to, NEAREST)
    }

    fn lying_peers(&self, to: &Position) -> Vec<Arc<Card>> {
        match self.attack {
            Attack::Drop => Vec::new(),
            Attack::Misroute | Attack::Selective => {
                nearest(self.liars.read().unwrap().iter().cloned().collect(), to, NEAREST)
            }
            Attack::Stale => self.honest_peers(to),
            Attack::Ghosts | Attack::Poison => self.prepare(to).to_vec(),
        }
    }

    /// Ghosts and forged cards, made once for each target.
    fn prepare(&self, to: &Position) -> Arc<Vec<Arc<Card>>> {
        let mut prepared = self.prepared.lock().unwrap();
        let cards = prepared.entry(*to).or_insert_with(|| {
            let cards = match self.attack {
                Attack::Ghosts => {
                    let mut ghosts: Vec<_> = self.ghosts.iter().map(|(at, secret)| (at.distance(to), secret)).collect();
                    ghosts.sort_unstable_by_key(|(distance, _)| *distance);
                    let signed = ghosts.iter().take(KAD_GHOSTS).enumerate().map(|(n, (_, secret))| {
                        let ip = Ipv4Addr::new(127, 130 + (n % 100) as u8, (n / 100) as u8, 1);
                        Card::sign(secret, &self.overlay, &[self.trap(ip)], UnixMillis::now()).expect("an address")
                    });
                    signed.map(Arc::new).collect()
                }
                _ => {
                    let near = nearest(self.outdated.read().unwrap().iter().cloned().collect(), to, NEAREST);
                    let forged = |n: usize, card: &Card| Arc::new(self.forged(card, n));
                    let all = near.iter().enumerate();
                    all.map(|(n, card)| if n % 2 == 0 { card.clone() } else { forged(n, card) }).collect()
                }
            };
            Arc::new(cards)
        });
        cards.clone()
    }

    fn trap(&self, ip: Ipv4Addr) -> Address {
        Address { ip: ip.into(), transport: self.transport, port: self.silent_port }
    }

    /// An honest node's card at another address, newer than any, under a signature of somebody else.
    fn forged(&self, card: &Card, n: usize) -> Card {
        let ip = Ipv4Addr::new(127, 240, n as u8, 1);
        let thief = NodeSecret::from_bytes([0x66; 32]);
        let own = Card::sign(&thief, &self.overlay, &[self.trap(ip)], UnixMillis::now()).unwrap();
        let mut wrapper = pb::Signed::decode(own.signed.clone()).expect("ours");
        let mut payload = pb::PeerCard::decode(wrapper.payload).expect("ours");
        payload.node_key = bytes::Bytes::copy_from_slice(&card.node.0);
        wrapper.payload = payload.encode_to_vec().into();
        Card {
            node: card.node,
            position: card.position,
            network: own.network,
            addresses: own.addresses.clone(),
            issued_at: own.issued_at,
            signed: wrapper.encode_to_vec().into(),
        }
    }

    /// What a liar replies to a question of `store/1`; `None`: nothing, ever.
    pub fn reply(&self, voice: &Voice, own: &Card, from: &PeerId, question: &Question) -> Option<bytes::Bytes> {
        let now = UnixMillis::now();
        let target = self.target(&question.scope(), from);
        if target.is_some() && self.attack == Attack::Drop {
            return None;
        }
        let (position, key) = match &question.ask {
            Ask::Find(position) => (*position, None),
            Ask::Fetch(key) | Ask::Store(key, _) | Ask::List(key) | Ask::Enlist(key, _) => {
                (Position::of_key(key), Some(*key))
            }
        };
        let peers = if target.is_some() { self.lying_peers(&position) } else { self.honest_peers(&position) };
        let peers: Vec<_> = peers.into_iter().filter(|card| card.node != own.node).take(NEAREST).collect();
        let held = || key.and_then(|key| self.kept.lock().unwrap().get(&key).cloned());
        let said = match &question.ask {
            Ask::Find(_) => Said::Near,
            Ask::Fetch(_) if target.is_none() || self.attack == Attack::Stale => Said::Held(held()),
            Ask::Fetch(_) => Said::Held(None),
            Ask::Store(key, bundle) => {
                if target.is_none() {
                    self.kept.lock().unwrap().insert(*key, bundle.clone());
                }
                Said::Stored { result: Stored::Kept { promise: 2_400 }, sequence: highest(bundle) }
            }
            Ask::List(_) => Said::List(Vec::new()),
            Ask::Enlist(..) => Said::Enlisted(Enlisted::Listed),
        };
        let stores = !matches!(question.ask, Ask::Find(_) | Ask::Fetch(_));
        let peers = if stores { Vec::new() } else { peers.iter().map(|card| card.signed.clone()).collect() };
        let card = matches!(question.ask, Ask::Find(_)).then(|| own.signed.clone());
        Some(voice.reply(question, said, peers, card, now))
    }

    /// What a liar answers on kad.
    pub fn answer(&self, own: &NodeKey, from: &PeerId, asked: &KadMessage) -> Option<KadMessage> {
        let target = self.target(&asked.key, from);
        if target.is_some() && self.attack == Attack::Drop {
            return None;
        }
        let key = <[u8; 32]>::try_from(&asked.key[..]).ok().map(RecordKey);
        if asked.kind == PUT_VALUE {
            let record = asked.record.clone()?;
            if let (None, Some(key)) = (target, key) {
                self.kept.lock().unwrap().insert(key, record.value.clone().into());
            }
            return Some(KadMessage { record: Some(record), ..asked.clone() });
        }
        if asked.kind != GET_VALUE && asked.kind != FIND_NODE {
            return None;
        }
        let position = target.unwrap_or_else(|| Position::of_key_bytes(&asked.key));
        let peers = match target {
            Some(_) => self.lying_peers(&position),
            None => self.honest_peers(&position),
        };
        let closer = peers.iter().filter(|card| card.node != *own).map(|card| peer(card)).collect();
        let serves = asked.kind == GET_VALUE && (target.is_none() || self.attack == Attack::Stale);
        let record = key.filter(|_| serves).and_then(|key| {
            let value = self.kept.lock().unwrap().get(&key).cloned()?;
            Some(KadRecord { key: key.0.to_vec(), value: value.to_vec() })
        });
        Some(KadMessage { kind: asked.kind, key: asked.key.clone(), record, closer })
    }
}

trait OfBytes {
    fn of_key_bytes(key: &[u8]) -> Self;
}
impl OfBytes for Position {
    /// kad hashes whatever is asked for: record keys and peer ids.
    fn of_key_bytes(key: &[u8]) -> Self {
        use sha2::Digest;
        Position(sha2::Sha256::digest(key).into())
    }
}

fn nearest(mut cards: Vec<Arc<Card>>, to: &Position, most: usize) -> Vec<Arc<Card>> {
    cards.sort_by_cached_key(|card| card.position.distance(to));
    cards.truncate(most);
    cards
}

fn peer(card: &Card) -> KadPeer {
    let addresses = card.addresses.iter().map(|address| multiaddr(address).to_vec()).collect();
    KadPeer { id: peer_id(&card.node).to_bytes(), addresses, connection: 1 }
}

pub fn multiaddr(address: &Address) -> Multiaddr {
    let base = Multiaddr::empty().with(address.ip.into());
    match address.transport {
        Transport::Tcp => base.with(libp2p::multiaddr::Protocol::Tcp(address.port)),
        Transport::Quic => {
            base.with(libp2p::multiaddr::Protocol::Udp(address.port)).with(libp2p::multiaddr::Protocol::QuicV1)
        }
    }
}

/// Where an address with a peer id leads.
pub fn address(text: &str) -> Address {
    let mut at = Address { ip: Ipv4Addr::LOCALHOST.into(), transport: Transport::Tcp, port: 0 };
    for part in text.parse::<Multiaddr>().expect("an address").iter() {
        match part {
            libp2p::multiaddr::Protocol::Ip4(ip) => at.ip = ip.into(),
            libp2p::multiaddr::Protocol::Tcp(port) => at.port = port,
            libp2p::multiaddr::Protocol::Udp(port) => (at.transport, at.port) = (Transport::Quic, port),
            _ => {}
        }
    }
    at
}

/// Where to listen at an address.
pub fn listen_at(ip: Ipv4Addr, transport: Transport) -> String {
    match transport {
        Transport::Tcp => format!("/ip4/{ip}/tcp/0"),
        Transport::Quic => format!("/ip4/{ip}/udp/0/quic-v1"),
    }
}

pub fn peer_id(node: &NodeKey) -> PeerId {
    peerline::overlay::peer_id_text(node).parse().expect("a key of ours")
}

/// The highest sequence number in a bundle, as a receipt states it.
fn highest(bundle: &[u8]) -> u64 {
    let Ok(bundle) = pb::Bundle::decode(bundle) else { return 0 };
    let entries = bundle.entries.iter().filter_map(|entry| pb::SignedEntry::decode(entry.clone()).ok());
    let envelopes = entries.filter_map(|entry| pb::Envelope::decode(entry.envelope).ok());
    envelopes.map(|envelope| envelope.sequence).max().unwrap_or(0)
}
