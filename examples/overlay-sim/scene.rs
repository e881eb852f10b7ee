//! One trial's stage: a world, perhaps servers put around the user's keys, who holds what, who left, and how everybody
//! answers. Honest servers run the product's table and validator; hostile ones do what the attack says.

mod baseline;

pub use baseline::KadAnswer;

use super::delays::{self, answer_after};
use super::known::{Known, Members};
use super::rng::{Rng, hash, unit};
use super::sorted::Sorted;
use super::user::{User, Which};
use super::world::{self, Cluster, EXTRA, FLOOD, GHOST, Kind, NOW, Node, OUTDATED, World, head};
use peerline::dht::{Answer, Ask, Card, MAX_PEERS, Position, Stored, Table};
use peerline::reachability::Address;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What hostile servers do. All know each other, the user's keys and who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Attack {
    /// Nobody is hostile, or they behave.
    None,
    /// Never answer.
    Drop,
    /// Name only colluders, confirm every store and keep nothing.
    Misroute,
    /// Name invented servers at the key that nobody can reach.
    Ghosts,
    /// Name the right servers at wrong addresses.
    AddressPoison,
    /// Misroute, and serve the record of before.
    Stale,
    /// Misroute, and serve bytes that are no valid record of this user.
    Forge,
    /// Good to who publishes, keeping what it stores; silent to who looks up.
    Selective,
}

impl Attack {
    pub const ALL: [Attack; 7] = [
        Attack::Drop,
        Attack::Misroute,
        Attack::Ghosts,
        Attack::AddressPoison,
        Attack::Stale,
        Attack::Forge,
        Attack::Selective,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Attack::None => "none",
            Attack::Drop => "drop",
            Attack::Misroute => "misroute",
            Attack::Ghosts => "ghosts",
            Attack::AddressPoison => "address-poison",
            Attack::Stale => "stale",
            Attack::Forge => "forge",
            Attack::Selective => "selective",
        }
    }
}

/// Who is attacked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Publish,
    Lookup,
}

/// What a trial needs to be set.
#[derive(Clone, Debug)]
pub struct Setting {
    pub attack: Attack,
    pub cluster: Option<Cluster>,
    /// Share of holders that leave between put and get.
    pub churn: f64,
    /// Median round trip, milliseconds.
    pub rtt: f64,
    /// How many times more often a hostile server is in a table than its share.
    pub bias: f64,
    /// Servers of its table that the asking node has connections to.
    pub connected: usize,
    /// Median session of honest servers: the lookup comes up to 20 minutes after the put, and as many servers came as
    /// went meanwhile. Replaces `churn`.
    pub session: Option<Duration>,
    /// While the user publishes, the overlay is in two halves; the caller is in the other one.
    pub partition: bool,
    /// Share of users whose clocks are an hour off, either way.
    pub skewed: f64,
    /// Of the four regions so many keep records: what each is worth.
    pub regions: usize,
}

/// Owners publish again after so long.
const REFRESH: Duration = Duration::from_secs(1_200);

/// Ghosts that one answer of kad names; ours takes 20.
const KAD_GHOSTS: usize = 250;

/// Halves of the overlay that do not see each other for a while.
fn half(id: u32) -> bool {
    hash(&[u64::from(id), 14]) & 1 == 0
}

pub struct Scene<'a> {
    pub world: &'a World,
    pub setting: &'a Setting,
    pub user: User,
    pub targets: [Position; 4],
    pub phase: Phase,
    pub publisher: u32,
    pub caller: u32,
    /// Share of honest servers that leave between put and get.
    leaving: f64,
    seed: u64,
    extra: Vec<Node>,
    extra_order: Sorted,
    /// Hostile ones that nobody knows but whom they visit.
    pub flood: Vec<Node>,
    known: &'a mut Known,
    held: HashMap<(u32, u8), Which>,
    left: HashSet<u32>,
    ghosts: [Vec<Arc<Card>>; 4],
    colluders: [Vec<u32>; 4],
    outdated: HashMap<u32, Arc<Card>>,
}

impl<'a> Scene<'a> {
    pub fn new(world: &'a World, known: &'a mut Known, setting: &'a Setting, seed: u64) -> Self {
        let mut rng = Rng::of(&[seed, 10]);
        let skewed = unit(hash(&[seed, 11])) < setting.skewed;
        let skew = if skewed { 3_600_000 - 7_200_000 * i64::from(seed.is_multiple_of(2)) } else { 0 };
        let user = User::new(&mut rng, skew);
        let targets = user.keys.map(|key| Position::of_key(&key));
        let extra = setting.cluster.as_ref().map_or_else(Vec::new, |c| c.nodes(world, &targets, &mut rng));
        let extra_order = Sorted::new(extra.iter().map(|node| head(&node.card.position)).collect());
        if !extra.is_empty() {
            known.clear();
        }
        let publisher = world.honest(&mut rng);
        let caller = loop {
            let caller = world.honest(&mut rng);
            if caller != publisher && !(setting.partition && half(caller) == half(publisher)) {
                break caller;
            }
        };
        let leaving = setting.session.map_or(setting.churn, |median| {
            let passed = unit(hash(&[seed, 12])) * REFRESH.as_secs_f64();
            1.0 - 0.5_f64.powf(passed / median.as_secs_f64())
        });
        let mut scene = Self {
            world,
            setting,
            user,
            targets,
            phase: Phase::Publish,
            publisher,
            caller,
            leaving,
            seed,
            extra,
            extra_order,
            flood: Vec::new(),
            known,
            held: HashMap::new(),
            left: HashSet::new(),
            ghosts: Default::default(),
            colluders: Default::default(),
            outdated: HashMap::new(),
        };
        for j in 0..4 {
            scene.colluders[j] = scene.nearest(scene.targets[j], 400, &|node| node.kind == Kind::Hostile);
            scene.ghosts[j] = scene.invent(j, &mut rng);
        }
        scene
    }

    /// Invented servers: nearer to the key than anybody, in networks of their own.
    fn invent(&self, j: usize, rng: &mut Rng) -> Vec<Arc<Card>> {
        let make = |i: usize| {
            let mut bytes = rng.bytes();
            let distance = (rng.unit() * self.world.radius(1.0) as f64) as u64;
            bytes[..8].copy_from_slice(&(head(&self.targets[j]) ^ distance).to_be_bytes());
            let ip = std::net::Ipv4Addr::new(210, rng.next() as u8, rng.next() as u8, 1 + i as u8);
            let id = GHOST + (j * 1_000 + i) as u32;
            Arc::new(world::card(id, self.seed, Position(bytes), world::network(ip, None), ip))
        };
        (0..KAD_GHOSTS).map(make).collect()
    }

    pub fn card(&self, id: u32) -> &Arc<Card> {
        if id >= GHOST {
            let number = (id - GHOST) as usize;
            &self.ghosts[number / 1_000][number % 1_000]
        } else {
            &self.node(id).card
        }
    }

    pub fn node(&self, id: u32) -> &Node {
        match id {
            EXTRA.. => &self.extra[(id - EXTRA) as usize],
            FLOOD.. => &self.flood[(id - FLOOD) as usize],
            _ => &self.world.nodes[id as usize],
        }
    }

    pub fn kind(&self, id: u32) -> Kind {
        if id >= GHOST { Kind::Dead } else { self.node(id).kind }
    }

    pub fn there(&self, id: u32) -> bool {
        let away = self.phase == Phase::Publish
            && id < EXTRA
            && id != self.publisher
            && (self.setting.partition && half(id) != half(self.publisher)
                || self.setting.session.is_some()
                    && self.kind(id) == Kind::Honest
                    && unit(hash(&[self.seed, 13, u64::from(id)])) < self.leaving);
        !away && self.kind(id) != Kind::Dead && !self.left.contains(&id)
    }

    /// The nearest that `wanted` lets through, of all.
    pub fn nearest(&self, target: Position, most: usize, wanted: &dyn Fn(&Node) -> bool) -> Vec<u32> {
        let point = head(&target);
        let near = self.world.order.nearest(point, most, &|i| wanted(&self.world.nodes[i]));
        let mut found: Vec<u32> = near.into_iter().map(|i| i as u32).collect();
        if !self.extra.is_empty() {
            let near = self.extra_order.nearest(point, most, &|i| wanted(&self.extra[i]));
            found.extend(near.into_iter().map(|i| world::id_of(&self.extra[i].card.node)));
            found.sort_unstable_by_key(|id| self.distance(*id, point));
            found.truncate(most);
        }
        found
    }

    pub fn distance(&self, id: u32, point: u64) -> u64 {
        head(&self.card(id).position) ^ point
    }

    /// The product's table of an honest server.
    pub fn table(&mut self, id: u32) -> Rc<Table> {
        let members =
            Members { world: self.world, extra: &self.extra, extra_order: &self.extra_order, bias: self.setting.bias };
        self.known.table(id, &members)
    }

    /// Who an honest server that runs plain kad knows.
    pub fn contacts(&mut self, id: u32) -> Rc<[u32]> {
        let members =
            Members { world: self.world, extra: &self.extra, extra_order: &self.extra_order, bias: self.setting.bias };
        self.known.contacts(id, &members)
    }

    /// Whether `from` has a connection to `to` from before: to so many of those that it knows, always the same.
    pub fn connected(&self, from: u32, to: u32, known: usize) -> bool {
        self.setting.connected > 0 && to < EXTRA && {
            let share = self.setting.connected as f64 / known.max(1) as f64;
            unit(hash(&[self.seed, 5, u64::from(from), u64::from(to)])) < share
        }
    }

    /// Every honest server of the regions, of all widths that the strategies use, holds the record of before.
    pub fn place_old(&mut self, each: Option<usize>) {
        if self.user.judge(Which::Old, None).is_err() {
            return;
        }
        for j in 0..self.setting.regions.min(4) as u8 {
            let target = self.targets[usize::from(j)];
            let radius = self.world.radius(10.0);
            let region = self.nearest(target, each.unwrap_or(40), &|node| node.kind == Kind::Honest);
            for id in region {
                if each.is_some() || self.distance(id, head(&target)) <= radius {
                    self.held.insert((id, j), Which::Old);
                }
            }
        }
    }

    /// Between put and get: some holders leave.
    pub fn churn(&mut self) {
        let (publisher, caller) = (self.publisher, self.caller);
        for (id, _) in self.held.keys() {
            let leaves = unit(hash(&[self.seed, 6, u64::from(*id)])) < self.leaving;
            if leaves && *id != caller && *id != publisher && self.kind(*id) == Kind::Honest {
                self.left.insert(*id);
            }
        }
    }

    /// Honest servers that hold the new record and are there.
    pub fn copies(&self) -> usize {
        let new = self.held.iter().filter(|(_, which)| **which == Which::New);
        new.filter(|((id, _), _)| self.kind(*id) == Kind::Honest && self.there(*id)).count()
    }

    pub fn round_trip(&self, a: u32, b: u32) -> f64 {
        delays::round_trip(a, b, self.seed, self.setting.rtt)
    }

    fn target_of(&self, position: &Position) -> Option<usize> {
        self.targets.iter().position(|target| target == position)
    }

    /// A question to who has this card; `None`: no answer ever.
    pub fn ask(&mut self, from: u32, card: &Card, ask: &Ask, connected: bool) -> Option<(Duration, Answer)> {
        let id = world::id_of(&card.node);
        if !self.there(id) || card.issued_at == OUTDATED {
            return None;
        }
        let (target, key) = match ask {
            Ask::Find(position) => (*position, None),
            Ask::Fetch(key) | Ask::Store(key, _) => (Position::of_key(key), self.user.index_of(key)),
            // Lists are not simulated.
            Ask::List(_) | Ask::Enlist(..) => return None,
        };
        if self.kind(id) == Kind::Hostile && self.setting.attack != Attack::None {
            return Some((delays::HOSTILE, self.lie(id, ask, target, key)?));
        }
        let delay = answer_after(self.round_trip(from, id), connected);
        let answer = match ask {
            Ask::Store(_, bundle) => Answer::Stored(self.store(id, key, &target, bundle)),
            _ => {
                let bundle = key.and_then(|j| self.held.get(&(id, j))).map(|which| self.user.bytes(*which));
                let bundle = bundle.filter(|_| matches!(ask, Ask::Fetch(_)));
                let mut peers = self.table(id).answer(&target, NOW);
                // A driver leaves its own node out.
                peers.retain(|card| world::id_of(&card.node) != from);
                Answer::Found { peers, bundle }
            }
        };
        Some((delay, answer))
    }

    /// What a hostile server says.
    fn lie(&mut self, id: u32, ask: &Ask, target: Position, key: Option<u8>) -> Option<Answer> {
        let serving = matches!(ask, Ask::Fetch(_));
        if let Ask::Store(_, bundle) = ask {
            if self.setting.attack == Attack::Drop {
                return None;
            }
            if let (Attack::Selective, Some(j)) = (self.setting.attack, key) {
                self.held.insert((id, j), self.user.which(bundle));
            }
            return Some(Answer::Stored(Stored::Kept { promise: 1_800 }));
        }
        let collusion = |scene: &mut Self| {
            let colluders = scene.accomplices(id, target);
            colluders.into_iter().map(|id| scene.card(id).clone()).collect::<Vec<_>>()
        };
        let (peers, bundle) = match (self.setting.attack, self.phase) {
            (Attack::None, _) | (Attack::Drop, _) | (Attack::Selective, Phase::Lookup) => return None,
            (Attack::Misroute, _) => (collusion(self), None),
            (Attack::Stale, _) => (collusion(self), serving.then(|| self.user.bytes(Which::Old))),
            (Attack::Forge, _) => (collusion(self), serving.then(|| self.user.forged(id))),
            (Attack::Ghosts, _) => {
                let j = self.target_of(&target).unwrap_or(0);
                let start = hash(&[self.seed, 7, u64::from(id)]) as usize;
                let pick = |i: usize| self.ghosts[j][(start.wrapping_add(i)) % KAD_GHOSTS].clone();
                ((0..MAX_PEERS).map(pick).collect(), None)
            }
            (Attack::AddressPoison, _) => {
                let honest = self.nearest(target, MAX_PEERS, &|node| node.kind == Kind::Honest);
                (honest.into_iter().map(|id| self.outdated(id)).collect(), None)
            }
            (Attack::Selective, Phase::Publish) => {
                let near = self.nearest(target, MAX_PEERS, &|node| node.kind != Kind::Dead);
                (near.into_iter().map(|id| self.card(id).clone()).collect(), None)
            }
        };
        Some(Answer::Found { peers, bundle })
    }

    /// Whom a liar names: its nearest accomplices, and where there are many, others of the region too, from another
    /// end each time.
    pub fn accomplices(&mut self, id: u32, target: Position) -> Vec<u32> {
        let Some(j) = self.target_of(&target) else {
            return self.nearest(target, MAX_PEERS, &|node| node.kind == Kind::Hostile);
        };
        let all = &self.colluders[j];
        if self.extra.is_empty() || all.len() <= MAX_PEERS {
            return all.iter().take(MAX_PEERS).copied().collect();
        }
        let start = hash(&[self.seed, 8, u64::from(id)]) as usize % all.len();
        let others = (0..MAX_PEERS).map(|i| all[(start + i) % all.len()]);
        let mut named: Vec<u32> = all.iter().take(MAX_PEERS / 4).copied().chain(others).collect();
        let mut seen = HashSet::new();
        named.retain(|id| seen.insert(*id));
        named.truncate(MAX_PEERS);
        named
    }

    /// The card of an address that the server has left.
    fn outdated(&mut self, id: u32) -> Arc<Card> {
        let card = self.card(id).clone();
        let past = |card: &Card| {
            let addresses = card.addresses.iter().map(|address| Address { port: 4002, ..*address }).collect();
            Arc::new(Card { issued_at: OUTDATED, addresses, ..card.clone() })
        };
        self.outdated.entry(id).or_insert_with(|| past(&card)).clone()
    }

    /// An honest holder: its region, then the product's validator and merge.
    fn store(&mut self, id: u32, key: Option<u8>, target: &Position, bundle: &[u8]) -> Stored {
        let Some(j) = key else { return Stored::Invalid };
        if usize::from(j) >= self.setting.regions || self.distance(id, head(target)) > self.world.radius(40.0) {
            return Stored::NotMine;
        }
        self.keep(id, j, self.user.which(bundle))
    }

    /// As [`Scene::store`], wherever the server lies: plain kad takes everything.
    pub fn keep(&mut self, id: u32, j: u8, which: Which) -> Stored {
        let held = self.held.get(&(id, j)).copied();
        match self.user.judge(which, held) {
            Ok(()) => {
                self.held.insert((id, j), which);
                Stored::Kept { promise: 1_800 }
            }
            Err(_) if held == Some(Which::New) => Stored::Stale { newer: self.user.bytes(Which::New) },
            Err(_) => Stored::Invalid,
        }
    }

    pub fn held(&self, id: u32, j: u8) -> Option<Which> {
        self.held.get(&(id, j)).copied()
    }
}

impl Scene<'_> {
    /// Every honest server of the regions that is there holds the new record: for experiments on lookups alone.
    pub fn place_new(&mut self) {
        let radius = self.world.radius(10.0);
        for j in 0..4_u8 {
            let target = self.targets[usize::from(j)];
            for id in self.nearest(target, 40, &|node| node.kind == Kind::Honest) {
                if self.distance(id, head(&target)) <= radius {
                    self.held.insert((id, j), Which::New);
                }
            }
        }
    }
}
