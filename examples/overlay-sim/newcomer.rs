//! A node on its way in: what `overlay` does for `dht::Joining` with sockets, over a scene in virtual time.

use super::ours;
use super::rng::{Rng, hash};
use super::scene::Scene;
use super::user::judge;
use super::world::{self, FLOOD, Kind, NOW, Node, id_of, ip_of, network};
use peerline::clock::UnixMillis;
use peerline::dht::{
    Answer, Ask, Card, Failure, Joining, Lookup, PeerCache, Position, Progress, Seeds, Source, Standing, StepId, Table,
    Task, Walk, WalkConfig,
};
use peerline::identity::NodeKey;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::Ipv4Addr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Nodes by whose distance a view's size is judged.
const NEAREST: usize = 10;

pub struct Newcomer {
    id: u32,
    position: Position,
    pub table: Table,
    pub joining: Joining,
    /// Records that were found before are there to be checked.
    pub remembers_contacts: bool,
    salt: u64,
    start: Instant,
    now: Instant,
    walk_at: Instant,
    walk_pause: Duration,
}

impl Newcomer {
    pub fn new(scene: &Scene<'_>, id: u32, salt: u64) -> Self {
        let now = Instant::now();
        let joining = Joining::new(PeerCache::new([1; 32]), 0.0, salt, now, NOW);
        let position = scene.card(id).position;
        Self {
            id,
            position,
            table: Table::new(position),
            joining,
            remembers_contacts: false,
            salt,
            start: now,
            now,
            walk_at: now,
            walk_pause: Duration::from_secs(2),
        }
    }

    /// The next life, with the cache of this one.
    pub fn restarted(mut self, scene: &Scene<'_>, salt: u64) -> Self {
        let mut oldest: Vec<(UnixMillis, NodeKey)> =
            self.table.iter().map(|(card, since)| (since, card.node)).collect();
        oldest.sort_unstable_by_key(|(since, node)| (*since, node.0));
        let oldest: Vec<NodeKey> = oldest.into_iter().map(|(_, node)| node).collect();
        self.joining.cache().set_anchors(&oldest);
        let rows = self.joining.cache().rows();
        let cache = PeerCache::from_rows([1; 32], rows.iter().map(|(node, row)| (*node, row.as_slice())));
        let mut next = Self::new(scene, self.id, salt.wrapping_add(1));
        next.joining = Joining::new(cache, self.joining.nodes(), salt, next.now, self.wall());
        next
    }

    /// It has seen so large an overlay before.
    pub fn remember_size(&mut self, nodes: f64) {
        self.joining = Joining::new(PeerCache::new([1; 32]), nodes, self.salt, self.now, NOW);
    }

    pub fn lead(&mut self, scene: &Scene<'_>, id: u32, source: Source) {
        let card = scene.card(id);
        self.joining.add_lead(source, Some(card.node), &card.addresses, None, 0, self.now);
    }

    pub fn standing(&self) -> Standing {
        self.joining.standing()
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(NOW.0 + self.now.duration_since(self.start).as_millis() as u64)
    }

    /// Visitors that were dialled back and answered, of so many /16s.
    pub fn flood(&mut self, scene: &mut Scene<'_>, count: usize, wides: u32, seed: u64) {
        let mut rng = Rng::of(&[seed, 50]);
        for n in 0..count as u32 {
            let ip = Ipv4Addr::from(0xb000_0000 + (n % wides) * 0x1_0000 + rng.below(0x1_0000) as u32);
            let id = FLOOD + scene.flood.len() as u32;
            let card = Arc::new(world::card(id, seed, Position(rng.bytes()), network(ip, None), ip));
            let wall = self.wall();
            self.joining.cache().heard(card.node, &card.addresses, &card.network, wall);
            self.table.verified_visitor(card.clone(), ip.into(), wall);
            scene.flood.push(Node { card, kind: Kind::Hostile, since: wall });
        }
    }

    /// Share of honest ones among those that a walk would begin with.
    pub fn honest_share(&self, scene: &Scene<'_>) -> f64 {
        let (mut honest, mut all) = (0_usize, 0_usize);
        for salt in 0..20_u64 {
            let target = Position(Rng::of(&[self.salt, 51, salt]).bytes());
            let seeds = self.table.seeds(&target, salt, &|_| false);
            for card in seeds.near.iter().chain(&seeds.random) {
                all += 1;
                honest += usize::from(scene.kind(id_of(&card.node)) == Kind::Honest);
            }
        }
        honest as f64 / all.max(1) as f64
    }

    /// Does what joining and upkeep want for so long.
    pub fn run(&mut self, scene: &mut Scene<'_>, time: Duration) {
        self.go(scene, time, false);
    }

    /// The same, until it is told that it may be isolated; when.
    pub fn run_until_told(&mut self, scene: &mut Scene<'_>, time: Duration) -> Option<Duration> {
        self.go(scene, time, true)
    }

    fn go(&mut self, scene: &mut Scene<'_>, time: Duration, until_told: bool) -> Option<Duration> {
        let (begin, end) = (self.now, self.now + time);
        loop {
            while let Some(task) = self.joining.poll(self.now, self.wall()) {
                self.does(scene, task);
            }
            if until_told && matches!(self.standing(), Standing::PossiblyIsolated(_)) {
                return Some(self.now - begin);
            }
            self.look_around(scene);
            let next = self.joining.poll_timeout().unwrap_or(end).min(self.walk_at);
            self.now = next.max(self.now + Duration::from_secs(1));
            if self.now >= end {
                self.now = end;
                return None;
            }
        }
    }

    fn does(&mut self, scene: &mut Scene<'_>, task: Task) {
        let (now, wall) = (self.now, self.wall());
        match task {
            Task::Dial(lead) | Task::Feeler(lead) => match lead.node.filter(|node| scene.there(id_of(node))) {
                Some(node) => self.joining.reached(lead.id, node, lead.addresses.first().copied(), now, wall),
                None => self.joining.unreached(lead.id, now),
            },
            Task::Look(node) => {
                let card = scene.card(id_of(&node)).clone();
                let seeds = Seeds { near: vec![card], random: Vec::new() };
                let mut answered = self.stroll(scene, self.position, seeds, &WalkConfig::look());
                answered.sort_by_key(|card| card.position.distance(&self.position));
                answered.truncate(NEAREST);
                let nodes = match answered.last() {
                    Some(last) if answered.len() == NEAREST => {
                        (NEAREST - 1) as f64 / last.position.distance(&self.position).fraction().max(1e-12)
                    }
                    _ => answered.len() as f64 + 1.0,
                };
                let nearest: Vec<NodeKey> = answered.iter().map(|card| card.node).collect();
                self.joining.looked(node, &nearest, nodes, now);
            }
            Task::Check(through) => {
                let found = self.remembers_contacts && self.check(scene, through);
                let asked = if self.remembers_contacts { 3 } else { 0 };
                self.joining.checked(if found { asked } else { 0 }, asked, now);
            }
        }
    }

    /// The walks that `overlay` makes: to the own place and to another, more and more seldom.
    fn look_around(&mut self, scene: &mut Scene<'_>) {
        if self.table.is_empty() || self.now < self.walk_at {
            return;
        }
        self.salt = hash(&[self.salt, 52]);
        let other = self.table.refresh_target(self.salt);
        for target in [other, self.position] {
            let seeds = self.table.seeds(&target, self.salt, &|_| false);
            self.stroll(scene, target, seeds, &WalkConfig::default());
        }
        self.walk_at = self.now + self.walk_pause;
        self.walk_pause = (self.walk_pause * 2).min(Duration::from_secs(300));
    }

    /// Whether the scene's user is found, beginning at one node or by the table.
    fn check(&mut self, scene: &mut Scene<'_>, through: Option<NodeKey>) -> bool {
        let seeds = scene.targets.map(|target| match through {
            Some(node) => Seeds { near: vec![scene.card(id_of(&node)).clone()], random: Vec::new() },
            None => self.table.seeds(&target, self.salt, &|_| false),
        });
        let (keys, radius) = (scene.user.keys, self.table.estimate().region());
        let mut lookup = Lookup::new(keys, seeds, radius, WalkConfig::default(), self.salt, self.now);
        let mut found = false;
        let told = |lookup: &mut Lookup, _| {
            while let Some(progress) = lookup.poll_progress() {
                found |= matches!(progress, Progress::Found(_));
            }
            // As `overlay` does: that is all there is to know.
            if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        ours::drive(&mut lookup, scene, self.id, judge(), self.now, |_, _| {}, told);
        found
    }

    /// Walks; who answers enters the table and the cache, by the rules of both. Returns who answered.
    fn stroll(&mut self, scene: &mut Scene<'_>, target: Position, seeds: Seeds, config: &WalkConfig) -> Vec<Arc<Card>> {
        let radius = self.table.estimate().region();
        let (mut now, wall) = (self.now, self.wall());
        let mut walk = Walk::new(target, seeds, radius, config.clone(), self.salt, now);
        let mut due: BinaryHeap<Reverse<(Instant, u64)>> = BinaryHeap::new();
        let mut open: HashMap<u64, (StepId, Arc<Card>, Answer)> = HashMap::new();
        let (mut order, mut answered) = (0, Vec::new());
        while !walk.is_over(now) {
            while let Some(step) = walk.poll(now) {
                if let Some((delay, answer)) = scene.ask(self.id, &step.to, &Ask::Find(target), false) {
                    order += 1;
                    due.push(Reverse((now + delay, order)));
                    open.insert(order, (step.id, step.to, answer));
                }
            }
            let timeout = walk.poll_timeout().map(|at| at.max(now + Duration::from_micros(100)));
            let next = due.peek().map(|Reverse((at, _))| *at);
            now = match (next, timeout) {
                (Some(next), timeout) if timeout.is_none_or(|timeout| next <= timeout) => {
                    let Some(Reverse((at, number))) = due.pop() else { break };
                    let Some((step, card, answer)) = open.remove(&number) else { break };
                    match answer {
                        Answer::Found { peers, .. } => {
                            walk.answered(step, &peers, at);
                            let ip = ip_of(&card);
                            self.joining.cache().reached(card.node, &card.addresses, wall);
                            self.table.verified(card.clone(), ip, wall);
                            answered.push(card);
                        }
                        _ => walk.failed(step, Failure::Malformed, at),
                    }
                    at.max(now)
                }
                (_, Some(timeout)) => timeout,
                (_, None) => break,
            };
        }
        answered
    }
}
