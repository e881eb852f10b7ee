//! A small overlay in memory for the engine's tests: real tables, real records, virtual time. The laboratory with the
//! large ones is `examples/overlay-sim`.

use super::*;
use crate::clock::UnixMillis;
use crate::identity::{NodeSecret, Seed, UserIdentity};
use crate::reachability::{Address, Transport};
use crate::record::{EntryDraft, Judge, UserHeader, ValidBundle, replica_keys, sign_bundle, validate};
use crate::wire::{AddressScope, OverlayId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::cell::{Cell, OnceCell};
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

pub const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
pub const OVERLAY: OverlayId = OverlayId([3; 32]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Honest,
    /// Does not answer at all.
    Dead,
    /// Knows everybody, names its friends nearest to the target, answers first, and says that it holds nothing.
    Misroute,
    /// Names nodes that do not exist, as near as can be.
    Ghosts,
    /// As `Misroute`, and gives the oldest bundle that it was given.
    Stale,
    /// Answers with its friends' cards changed by nobody's key.
    Forger,
}

pub struct Node {
    pub card: Arc<Card>,
    pub kind: Kind,
    pub holds: BTreeMap<RecordKey, Bytes>,
    pub oldest: BTreeMap<RecordKey, Bytes>,
    latency: u64,
    table: OnceCell<Table>,
}

pub struct World {
    pub nodes: Vec<Node>,
    by_key: BTreeMap<NodeKey, usize>,
    pub now: Instant,
    pub asked: BTreeMap<NodeKey, usize>,
    /// Who asks: a driver drops its own card from answers.
    caller: Cell<usize>,
    sent: usize,
}

/// A machine that asks.
pub trait Machine {
    fn poll(&mut self, now: Instant) -> Option<Request>;
    fn answered(&mut self, id: RequestId, answer: Answer, judge: &Judge, now: Instant);
    fn failed(&mut self, id: RequestId, why: Failure, now: Instant);
    fn timeout(&self) -> Option<Instant>;
    fn is_over(&self) -> bool;
}

macro_rules! machine {
    ($type:ty) => {
        impl Machine for $type {
            fn poll(&mut self, now: Instant) -> Option<Request> {
                self.poll_request(now)
            }
            fn answered(&mut self, id: RequestId, answer: Answer, judge: &Judge, now: Instant) {
                self.answered(id, answer, judge, now);
            }
            fn failed(&mut self, id: RequestId, why: Failure, now: Instant) {
                self.failed(id, why, now);
            }
            fn timeout(&self) -> Option<Instant> {
                self.poll_timeout()
            }
            fn is_over(&self) -> bool {
                self.is_over()
            }
        }
    };
}
machine!(Lookup);
machine!(Publish);

pub fn judge() -> Judge {
    Judge { overlay: OVERLAY, scope: AddressScope::Any, now: NOW }
}

pub fn card(key: [u8; 32], ip: IpAddr) -> Arc<Card> {
    let node = NodeKey(key);
    Arc::new(Card {
        node,
        position: Position::of_node(&node),
        network: Network::of(ip),
        addresses: vec![Address { ip, transport: Transport::Quic, port: 4001 }],
        issued_at: NOW,
        signed: Bytes::new(),
    })
}

/// A user and two versions of its bundle.
pub struct User {
    pub keys: [RecordKey; 4],
    pub versions: Vec<Bytes>,
}

impl User {
    pub fn new(n: u8) -> Self {
        let user: UserIdentity = Seed::from_bytes([n; 32]).identity();
        let device = NodeSecret::from_bytes([n; 32]);
        let certificate = user.certify(device.public(), &OVERLAY, 1, NOW);
        let draft = |sequence| EntryDraft {
            epoch: 1,
            sequence,
            issued_at: NOW,
            expires_at: UnixMillis(NOW.0 + 3_600_000),
            tombstone: false,
            priority: 500,
            addresses: vec![vec![4, 127, 0, 0, 1, 6, 0x0f, 0xa1]],
        };
        let sign = |sequence| sign_bundle(&UserHeader::from(&user), &certificate, &device, &OVERLAY, &draft(sequence));
        Self {
            keys: replica_keys(&OVERLAY, &user.id),
            versions: (0..2).map(|v| sign(NOW.0 - 1_000 + v).into()).collect(),
        }
    }

    pub fn valid(&self, version: usize) -> ValidBundle {
        validate(&self.versions[version], &self.keys[0], &judge(), None).unwrap()
    }
}

impl World {
    /// `kinds`: of node `i`; all in one /24 when `one_subnet`, else each in a /16 of its own as far as there are any.
    pub fn new(count: usize, one_subnet: bool, seed: u64, kinds: impl Fn(usize) -> Kind) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let nodes: Vec<Node> = (0..count)
            .map(|i| {
                let key: [u8; 32] = random.random();
                let [_, a, b, c] = u32::try_from(i * 251 + 7).unwrap().to_be_bytes();
                let ip = if one_subnet { [10, 0, 0, c] } else { [b, c, a, 1] };
                let latency = random.random_range(20..200);
                let latency = if matches!(kinds(i), Kind::Honest) { latency } else { 15 };
                Node {
                    card: card(key, Ipv4Addr::from(ip).into()),
                    kind: kinds(i),
                    holds: BTreeMap::new(),
                    oldest: BTreeMap::new(),
                    latency,
                    table: OnceCell::new(),
                }
            })
            .collect();
        let by_key = nodes.iter().enumerate().map(|(i, node)| (node.card.node, i)).collect();
        Self { nodes, by_key, now: Instant::now(), asked: BTreeMap::new(), caller: Cell::new(0), sent: 0 }
    }

    pub fn node(&self, key: &NodeKey) -> Option<&Node> {
        self.by_key.get(key).map(|at| &self.nodes[*at])
    }

    pub fn radius(&self) -> f64 {
        if self.nodes.len() <= super::walk::EVERYBODY { 1.0 } else { REGION as f64 / self.nodes.len() as f64 }
    }

    /// Everybody met everybody, in an order of its own.
    pub fn table(&self, of: usize) -> &Table {
        self.nodes[of].table.get_or_init(|| {
            let mut table = Table::new(self.nodes[of].card.position);
            for step in 0..self.nodes.len() {
                let other = &self.nodes[(step * 7919 + of) % self.nodes.len()].card;
                let seen = UnixMillis(NOW.0 - 864_000_000 + step as u64);
                table.restored(other.clone(), other.addresses[0].ip, seen, NOW);
            }
            table
        })
    }

    pub fn seeds(&self, of: usize, keys: &[RecordKey; 4], salt: u64) -> [Seeds; 4] {
        self.caller.set(of);
        keys.map(|key| self.table(of).seeds(&Position::of_key(&key), salt, &|_| false))
    }

    pub fn lookup(&self, of: usize, user: &User, salt: u64) -> Lookup {
        let seeds = self.seeds(of, &user.keys, salt);
        Lookup::new(user.keys, seeds, self.radius(), WalkConfig::default(), salt, self.now)
    }

    pub fn publish(&self, of: usize, user: &User, version: usize, salt: u64) -> Publish {
        let seeds = self.seeds(of, &user.keys, salt);
        let holders = Default::default();
        let config = WalkConfig::default();
        Publish::new(user.valid(version), user.keys, holders, seeds, self.radius(), true, config, salt, self.now)
    }

    /// Puts a version where it belongs, without any walk.
    pub fn place(&mut self, user: &User, version: usize) {
        let radius = Distance::of_fraction(self.radius());
        for node in &mut self.nodes {
            for key in user.keys {
                if node.card.position.distance(&Position::of_key(&key)) <= radius {
                    node.holds.insert(key, user.versions[version].clone());
                    node.oldest.entry(key).or_insert(user.versions[version].clone());
                }
            }
        }
    }

    /// Runs until it is over, at most a minute. After each input `look` may look.
    pub fn run<M: Machine>(&mut self, machine: &mut M, mut look: impl FnMut(&mut M, Duration)) {
        let (start, end) = (self.now, self.now + Duration::from_secs(60));
        let mut coming: BinaryHeap<std::cmp::Reverse<(Instant, usize)>> = BinaryHeap::new();
        let mut answers: BTreeMap<usize, (RequestId, Result<Answer, Failure>)> = BTreeMap::new();
        loop {
            while let Some(request) = machine.poll(self.now) {
                self.sent += 1;
                *self.asked.entry(request.to.node).or_default() += 1;
                if let Some((after, answer)) = self.answer(&request) {
                    coming.push(std::cmp::Reverse((self.now + after, self.sent)));
                    answers.insert(self.sent, (request.id, answer));
                }
            }
            look(machine, self.now - start);
            if machine.is_over() || self.now > end {
                assert!(machine.is_over(), "it ends");
                return;
            }
            let timeout = machine.timeout();
            match coming.peek() {
                Some(std::cmp::Reverse((at, _))) if timeout.is_none_or(|timeout| *at <= timeout) => {
                    let std::cmp::Reverse((at, sent)) = coming.pop().unwrap();
                    self.now = at.max(self.now);
                    match answers.remove(&sent).unwrap() {
                        (id, Ok(answer)) => machine.answered(id, answer, &judge(), self.now),
                        (id, Err(why)) => machine.failed(id, why, self.now),
                    }
                }
                _ => self.now = timeout.expect("something is to come").max(self.now),
            }
        }
    }

    fn answer(&mut self, request: &Request) -> Option<(Duration, Result<Answer, Failure>)> {
        let at = *self.by_key.get(&request.to.node)?;
        if request.to.addresses != self.nodes[at].card.addresses {
            return Some((Duration::ZERO, Err(Failure::Forged)));
        }
        let kind = self.nodes[at].kind;
        if kind == Kind::Dead {
            return None;
        }
        let after = Duration::from_millis(2 * self.nodes[at].latency);
        let answer = match &request.ask {
            Ask::Find(target) => Answer::Found { peers: self.peers(at, target), bundle: None },
            Ask::Fetch(key) => {
                let peers = self.peers(at, &Position::of_key(key));
                let node = &self.nodes[at];
                let bundle = match kind {
                    Kind::Honest => node.holds.get(key).cloned(),
                    Kind::Stale => node.oldest.get(key).cloned(),
                    _ => None,
                };
                Answer::Found { peers, bundle }
            }
            Ask::Store(key, bytes) => Answer::Stored(self.store(at, key, bytes)),
            Ask::List(_) => Answer::List(Vec::new()),
            Ask::Enlist(..) => Answer::Enlisted(Enlisted::NotMine),
        };
        Some((after, Ok(answer)))
    }

    fn store(&mut self, at: usize, key: &RecordKey, bytes: &Bytes) -> Stored {
        let radius = Distance::of_fraction(self.radius() * 1.5);
        let node = &mut self.nodes[at];
        if node.card.position.distance(&Position::of_key(key)) > radius {
            return Stored::NotMine;
        }
        node.oldest.entry(*key).or_insert(bytes.clone());
        let new = validate(bytes, key, &judge(), None).unwrap();
        if let Some(held) = node.holds.get(key) {
            let held = validate(held, key, &judge(), None).unwrap();
            if held != new && held.merge(&new) == held {
                return Stored::Stale { newer: held.encode().into() };
            }
        }
        node.holds.insert(*key, bytes.clone());
        Stored::Kept { promise: 1_800 }
    }

    fn peers(&self, at: usize, target: &Position) -> Vec<Arc<Card>> {
        let mut peers = self.named_by(at, target);
        peers.retain(|card| card.node != self.nodes[self.caller.get()].card.node);
        peers
    }

    fn named_by(&self, at: usize, target: &Position) -> Vec<Arc<Card>> {
        let kind = self.nodes[at].kind;
        let friends = || {
            let mut friends: Vec<_> =
                self.nodes.iter().filter(|node| node.kind == kind).map(|node| &node.card).collect();
            friends.sort_by_key(|card| card.position.distance(target));
            friends.into_iter().take(MAX_PEERS)
        };
        match kind {
            Kind::Honest | Kind::Dead => self.table(at).answer(target, NOW),
            Kind::Misroute | Kind::Stale => friends().cloned().collect(),
            Kind::Ghosts => (0..MAX_PEERS)
                .map(|i| {
                    let mut ghost = Card::clone(&self.nodes[at].card);
                    ghost.node.0[..8].copy_from_slice(&(i as u64).to_be_bytes());
                    ghost.position = *target;
                    ghost.position.0[31] ^= i as u8;
                    ghost.network.subnet = (at * MAX_PEERS + i) as u64;
                    (ghost.network.wide, ghost.network.system) = (ghost.network.subnet, ghost.network.subnet);
                    Arc::new(ghost)
                })
                .collect(),
            Kind::Forger => {
                let forged = |node: &Node| {
                    let mut card = Card::clone(&node.card);
                    card.addresses[0].port = 1;
                    card.issued_at = UnixMillis(NOW.0 + 1_000);
                    Arc::new(card)
                };
                let mut honest: Vec<&Node> = self.nodes.iter().filter(|node| node.kind == Kind::Honest).collect();
                honest.sort_by_key(|node| node.card.position.distance(target));
                honest.into_iter().take(MAX_PEERS).map(forged).collect()
            }
        }
    }
}
