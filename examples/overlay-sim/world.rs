//! Who is there: servers with positions, addresses, ages, and which of them are hostile or gone.
//!
//! Addresses follow what crawls of open overlays show: four of ten servers at hosters, of which a few have most, often
//! several in one /24; the others at a long tail of access networks. As in the product, there is no map of autonomous
//! systems unless asked for: `system` is the /16.

use super::rng::{Rng, hash};
use super::sorted::Sorted;
use peerline::clock::UnixMillis;
use peerline::dht::{Card, Network, Position};
use peerline::identity::NodeKey;
use peerline::reachability::{Address, Transport};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// The wall clock when a trial begins.
pub const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

/// When cards were issued: a day ago.
pub const ISSUED: UnixMillis = UnixMillis(NOW.0 - 86_400_000);

/// Cards of addresses that a server has left.
pub const OUTDATED: UnixMillis = UnixMillis(NOW.0 - 30 * 86_400_000);

/// Hostile servers that came lately are so old, milliseconds.
const LATE: u64 = 6 * 3_600_000;

/// Servers of a world come first, then those that an attacker put around a key, then invented ones.
/// Before them, those that only a newcomer knows.
pub const FLOOD: u32 = 1 << 29;
pub const EXTRA: u32 = 1 << 30;
pub const GHOST: u32 = 1 << 31;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Honest,
    Hostile,
    /// Still in tables, gone.
    Dead,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub card: Arc<Card>,
    pub kind: Kind,
    /// When the others saw it first.
    pub since: UnixMillis,
}

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Servers that are there, hostile ones included.
    pub nodes: usize,
    /// Share of them that is hostile.
    pub hostile: f64,
    /// Share of entries of tables that are dead.
    pub dead: f64,
    /// Hostile servers are as old as the honest ones, or came lately.
    pub early: bool,
    /// Whether `system` is the autonomous system instead of the /16.
    pub asmap: bool,
    /// Distances with no more servers are known completely; of others a choice of 40 is offered to a table.
    pub complete: usize,
}

/// The servers, by rank of their position.
#[derive(Debug)]
pub struct World {
    pub nodes: Vec<Node>,
    pub order: Sorted,
    pub plan: Plan,
    pub seed: u64,
}

impl World {
    pub fn new(plan: &Plan, seed: u64) -> Self {
        let mut rng = Rng::of(&[seed, 1]);
        let all = (plan.nodes as f64 / (1.0 - plan.dead)).round() as usize;
        let mut positions: Vec<Position> = (0..all).map(|_| Position(rng.bytes())).collect();
        positions.sort_unstable();
        let mut kinds = vec![Kind::Honest; all];
        let hostile = (plan.nodes as f64 * plan.hostile).round() as usize;
        for kind in kinds.iter_mut().take(hostile) {
            *kind = Kind::Hostile;
        }
        for kind in kinds.iter_mut().skip(plan.nodes) {
            *kind = Kind::Dead;
        }
        rng.shuffle(&mut kinds);
        let mut internet = Internet::new(plan.nodes, &mut rng);
        let nodes = positions
            .iter()
            .zip(kinds)
            .zip(0_u32..)
            .map(|((position, kind), id)| {
                let (ip, system) = internet.allocate(&mut rng);
                let late = kind == Kind::Hostile && !plan.early;
                let age = if late { rng.below(LATE as usize) as u64 } else { honest_age(&mut rng) };
                let card = Arc::new(card(id, seed, *position, network(ip, plan.asmap.then_some(system)), ip));
                Node { card, kind, since: UnixMillis(NOW.0 - age) }
            })
            .collect();
        let order = Sorted::new(positions.iter().map(head).collect());
        Self { nodes, order, plan: plan.clone(), seed }
    }

    /// A server that is there and honest.
    pub fn honest(&self, rng: &mut Rng) -> u32 {
        loop {
            let id = rng.below(self.nodes.len());
            if self.nodes[id].kind == Kind::Honest {
                return id as u32;
            }
        }
    }

    /// Radius of a region: so many servers are expected in it.
    pub fn radius(&self, servers: f64) -> u64 {
        (servers / self.plan.nodes as f64 * 2_f64.powi(64)) as u64
    }
}

/// How long an honest server has been there, milliseconds: hours to a year, median about two weeks.
fn honest_age(rng: &mut Rng) -> u64 {
    let days = (14.0 * (1.6 * rng.normal()).exp()).clamp(0.1, 365.0);
    (days * 86_400_000.0) as u64
}

/// The first 64 bits of a position.
pub fn head(position: &Position) -> u64 {
    position.0.first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head))
}

pub fn id_of(key: &NodeKey) -> u32 {
    key.0.first_chunk::<4>().map_or(0, |id| u32::from_be_bytes(*id))
}

pub fn key_of(id: u32, seed: u64) -> NodeKey {
    let mut key = Rng::of(&[seed, u64::from(id), 2]).bytes();
    key[..4].copy_from_slice(&id.to_be_bytes());
    NodeKey(key)
}

pub fn network(ip: Ipv4Addr, system: Option<u32>) -> Network {
    let of = Network::of(IpAddr::V4(ip));
    system.map_or(of, |system| Network { system: (64 << 40) | u64::from(system), ..of })
}

pub fn card(id: u32, seed: u64, position: Position, network: Network, ip: Ipv4Addr) -> Card {
    Card {
        node: key_of(id, seed),
        position,
        network,
        addresses: vec![Address { ip: IpAddr::V4(ip), transport: Transport::Quic, port: 4001 }],
        issued_at: ISSUED,
        signed: bytes::Bytes::new(),
    }
}

pub fn ip_of(card: &Card) -> IpAddr {
    card.addresses.first().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip)
}

/// Servers that an attacker puts just around the keys of a user.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub per_key: usize,
    /// How many of the four keys.
    pub keys: usize,
    /// Distinct /24s over all of them; 0: one for each server.
    pub subnets: usize,
    /// How many regions wide those are spread that are not the nearest.
    pub spread: f64,
    /// Of these /24s, so many share a /16.
    pub per_wide: usize,
    pub early: bool,
}

impl Cluster {
    /// Half of them nearer to the key than honest servers are, the others anywhere in the region: whoever counts the
    /// nearest and whoever asks all of a region both meet them.
    pub fn nodes(&self, world: &World, targets: &[Position], rng: &mut Rng) -> Vec<Node> {
        let total = self.per_key * self.keys;
        let subnets = if self.subnets == 0 { total } else { self.subnets };
        let mut places = Vec::with_capacity(total);
        for (number, target) in (0..total).map(|i| (i, &targets[i % self.keys])) {
            let nearest = world.order.nearest(head(target), 1, &|_| true);
            let inner = nearest.first().map_or(u64::MAX, |i| world.order.head(*i) ^ head(target));
            let reach = if rng.below(2) == 0 { inner } else { world.radius(10.0 * self.spread) };
            let distance = (rng.unit() * reach as f64) as u64;
            let mut bytes = rng.bytes();
            bytes[..8].copy_from_slice(&(head(target) ^ distance.max(1)).to_be_bytes());
            let subnet = number % subnets;
            let (wide, inside) = (subnet / self.per_wide.max(1), subnet % self.per_wide.max(1));
            let ip = Ipv4Addr::new(160 + (wide >> 8) as u8, wide as u8, inside as u8, 1 + (number / subnets) as u8);
            let age = if self.early { honest_age(rng) } else { rng.below(LATE as usize) as u64 };
            places.push((Position(bytes), ip, UnixMillis(NOW.0 - age)));
        }
        places.sort_unstable();
        let node = |(id, (position, ip, since))| {
            let card = card(id, world.seed, position, network(ip, None), ip);
            Node { card: Arc::new(card), kind: Kind::Hostile, since }
        };
        (EXTRA..).zip(places).map(node).collect()
    }
}

/// Where addresses come from.
struct Internet {
    /// Cumulated shares of the networks.
    hosters: Vec<f64>,
    access: Vec<f64>,
    /// /24s of a hoster that have servers.
    used: Vec<Vec<(u8, u8, u8)>>,
    seed: u64,
}

const HOSTERS: usize = 80;

impl Internet {
    fn new(nodes: usize, rng: &mut Rng) -> Self {
        let zipf = |count: usize, exponent: f64| {
            let mut sum = 0.0;
            let shares: Vec<f64> = (1..=count)
                .map(|rank| {
                    sum += (rank as f64).powf(-exponent);
                    sum
                })
                .collect();
            shares.into_iter().map(|share| share / sum).collect::<Vec<_>>()
        };
        let access = (nodes / 4).clamp(50, 4_000);
        Self {
            hosters: zipf(HOSTERS, 1.1),
            access: zipf(access, 0.9),
            used: vec![Vec::new(); HOSTERS],
            seed: rng.next(),
        }
    }

    fn allocate(&mut self, rng: &mut Rng) -> (Ipv4Addr, u32) {
        let host = 1 + rng.below(254) as u8;
        let (x, at) = (rng.unit(), rng.unit());
        if x < 0.4 {
            let system = self.hosters.partition_point(|share| *share < at).min(HOSTERS - 1);
            // One in four shares a /24 that is in use already.
            let shared = rng.below(4) == 0 && !self.used[system].is_empty();
            let (a, b, c) = if shared {
                self.used[system][rng.below(self.used[system].len())]
            } else {
                let (a, b) = self.wide(system as u64, 64 - (system as u64).min(56), rng);
                (a, b, rng.next() as u8)
            };
            self.used[system].push((a, b, c));
            return (Ipv4Addr::new(a, b, c, host), system as u32);
        }
        let system = self.access.partition_point(|share| *share < at).min(self.access.len() - 1);
        let wides = 1 + 200 / (1 + system as u64);
        let (a, b) = self.wide(10_000 + system as u64, wides, rng);
        (Ipv4Addr::new(a, b, rng.next() as u8, host), 10_000 + system as u32)
    }

    /// One of the /16s of a network; two networks may share one, as they do.
    fn wide(&self, system: u64, count: u64, rng: &mut Rng) -> (u8, u8) {
        let mixed = hash(&[self.seed, system, rng.next() % count]);
        // 11 to 150: apart from those of attackers around a key, and from private ones.
        (11 + (mixed % 116) as u8, (mixed >> 16) as u8)
    }
}
