//! In virtual time: a node joins an overlay of which liars show it a copy of their own (experiment E4).

use super::*;
use crate::dht::{Card, Position, Table};
use crate::reachability::Transport;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use std::net::Ipv4Addr;
use std::sync::Arc;

const WALL: UnixMillis = UnixMillis(1_800_000_000_000);

fn address(ip: Ipv4Addr) -> Address {
    Address { ip: ip.into(), transport: Transport::Quic, port: 4001 }
}

fn key(rng: &mut StdRng) -> NodeKey {
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    NodeKey(bytes)
}

#[derive(Clone)]
struct Node {
    card: Arc<Card>,
    honest: bool,
    alive: bool,
}

impl Node {
    fn new(node: NodeKey, ip: Ipv4Addr, honest: bool) -> Self {
        let card = Card {
            node,
            position: Position::of_node(&node),
            network: Network::of(ip.into()),
            addresses: vec![address(ip)],
            issued_at: WALL,
            signed: bytes::Bytes::new(),
        };
        Self { card: Arc::new(card), honest, alive: true }
    }
}

/// An overlay, and beside it the copy that the liars show.
struct World {
    rng: StdRng,
    here: Position,
    nodes: HashMap<NodeKey, Node>,
    honest: Vec<NodeKey>,
    liars: Vec<NodeKey>,
    table: Table,
    start: Instant,
    now: Instant,
    records: bool,
}

impl World {
    /// `wides`: /16s that the liars have.
    fn new(honest: usize, liars: usize, wides: u32, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let here = Position(key(&mut rng).0);
        let mut nodes = HashMap::new();
        let mut add =
            |node: Node| nodes.insert(node.card.node, node.clone()).map_or(node.card.node, |_| unreachable!());
        let honest = (0..honest)
            .map(|_| {
                let ip = Ipv4Addr::from(rng.random_range(0x0100_0000..0xdf00_0000_u32));
                add(Node::new(key(&mut rng), ip, true))
            })
            .collect();
        let liars = (0..liars as u32)
            .map(|n| {
                let ip = Ipv4Addr::from(0x1000_0000 + (n % wides) * 0x1_0000 + rng.random_range(0..0x1_0000_u32));
                add(Node::new(key(&mut rng), ip, false))
            })
            .collect();
        let now = Instant::now();
        Self { rng, here, nodes, honest, liars, table: Table::new(here), start: now, now, records: true }
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(WALL.0 + self.now.duration_since(self.start).as_millis() as u64)
    }

    fn some(&mut self, honest: bool) -> Node {
        let from = if honest { &self.honest } else { &self.liars };
        self.nodes[from.choose(&mut self.rng).unwrap()].clone()
    }

    /// A search that begins at one node ends among its own kind. All who answered go into the table.
    fn search(&mut self, through: &NodeKey) -> (Vec<NodeKey>, f64) {
        let from = if self.nodes[through].honest { &self.honest } else { &self.liars };
        let mut known: Vec<NodeKey> = from.iter().filter(|node| self.nodes[node].alive).copied().collect();
        known.sort_by_key(|node| self.nodes[node].card.position.distance(&self.here));
        let nearest: Vec<NodeKey> = known.iter().take(10).copied().collect();
        let size = known.len() as f64 * self.rng.random_range(0.8..1.25);
        let on_the_way: Vec<NodeKey> = known.sample(&mut self.rng, 25).copied().collect();
        let wall = self.wall();
        for node in nearest.iter().chain(&on_the_way) {
            let card = self.nodes[node].card.clone();
            let ip = card.addresses[0].ip;
            self.table.verified(card, ip, wall);
        }
        (nearest, size)
    }

    /// Does what the joining asks until `until` has passed; `each` is called once a second.
    fn run(&mut self, joining: &mut Joining, until: Duration) {
        let end = self.now + until;
        for _ in 0..200_000 {
            while let Some(task) = joining.poll(self.now, self.wall()) {
                match task {
                    Task::Dial(lead) | Task::Feeler(lead) => {
                        match lead.node.and_then(|node| self.nodes.get(&node)).filter(|node| node.alive).cloned() {
                            Some(node) => {
                                let at = Some(node.card.addresses[0]);
                                joining.reached(lead.id, node.card.node, at, self.now, self.wall());
                            }
                            None => joining.unreached(lead.id, self.now),
                        }
                    }
                    Task::Look(node) => {
                        let (nearest, size) = self.search(&node);
                        joining.looked(node, &nearest, size, self.now);
                    }
                    Task::Check(_) => joining.checked(if self.records { 3 } else { 0 }, 3, self.now),
                }
            }
            let next = joining.poll_timeout().unwrap().max(self.now + Duration::from_millis(100));
            if next > end {
                break;
            }
            self.now = next;
        }
        self.now = end;
    }

    /// Honest ones among the 56 that a walk would begin with, for the worst of twenty targets.
    fn honest_seeds(&mut self) -> usize {
        let targets: Vec<Position> = (0..20).map(|_| Position(key(&mut self.rng).0)).collect();
        let count = |salt: u64, target: Position| {
            let seeds = self.table.seeds(&target, salt, &|_| false);
            seeds.near.iter().chain(&seeds.random).filter(|card| self.nodes[&card.node].honest).count()
        };
        targets.into_iter().zip(0..).map(|(target, salt)| count(salt, target)).min().unwrap()
    }

    fn lead(&self, joining: &mut Joining, source: Source, node: &Node) {
        joining.add_lead(source, Some(node.card.node), &node.card.addresses, None, 0, self.now);
    }

    /// Ten thousand visitors, dialled back.
    fn flood(&mut self, joining: &mut Joining, count: usize, wides: u32) {
        for n in 0..count as u32 {
            let ip = Ipv4Addr::from(0x3000_0000 + (n % wides) * 0x1_0000 + self.rng.random_range(0..0x1_0000_u32));
            let node = Node::new(key(&mut self.rng), ip, false);
            let network = node.card.network;
            joining.cache().heard(node.card.node, &node.card.addresses, &network, self.wall());
            self.table.verified_visitor(node.card.clone(), ip.into(), self.wall());
            self.nodes.insert(node.card.node, node);
        }
    }
}

fn fresh(world: &World) -> Joining {
    Joining::new(PeerCache::new([1; 32]), 0.0, 7, world.now, world.wall())
}

#[test]
fn the_first_node_is_alone_and_the_second_joins_it() {
    let mut world = World::new(1, 0, 1, 1);
    let mut joining = fresh(&world);
    world.run(&mut joining, Duration::from_secs(3_600));
    assert_eq!(joining.standing(), Standing::Alone);
    assert!(joining.words(0).starts_with("alone") && joining.words(3).starts_with("the first node"));
    let other = world.some(true);
    world.lead(&mut joining, Source::Bootstrap, &other);
    world.run(&mut joining, Duration::from_secs(1));
    assert_eq!(joining.standing(), Standing::Joined);
}

#[test]
fn a_local_network_needs_nobody_beyond() {
    let mut world = World::new(5, 0, 1, 2);
    let mut joining = fresh(&world);
    let other = world.some(true);
    world.lead(&mut joining, Source::Lan, &other);
    world.run(&mut joining, Duration::from_secs(600));
    assert_eq!(joining.standing(), Standing::Joined);
    // With nodes known beyond, it is no evidence.
    let mut joining = fresh(&world);
    world.lead(&mut joining, Source::Lan, &other);
    let mut dead = world.some(true);
    while dead.card.node == other.card.node {
        dead = world.some(true);
    }
    world.nodes.get_mut(&dead.card.node).unwrap().alive = false;
    world.lead(&mut joining, Source::Bootstrap, &dead);
    world.run(&mut joining, Duration::from_secs(600));
    assert_eq!(joining.standing(), Standing::PossiblyIsolated(Doubt::FewNetworks));
}

#[test]
fn an_overlay_that_cannot_be_reached_is_told_and_found_again() {
    let mut world = World::new(200, 0, 1, 3);
    let mut joining = fresh(&world);
    let leads: Vec<Node> = (0..5).map(|_| world.some(true)).collect();
    for node in world.nodes.values_mut() {
        node.alive = false;
    }
    for lead in &leads {
        world.lead(&mut joining, Source::Bootstrap, lead);
    }
    world.run(&mut joining, Duration::from_secs(120));
    assert_eq!(joining.standing(), Standing::Joining);
    world.run(&mut joining, Duration::from_secs(60));
    assert_eq!(joining.standing(), Standing::PossiblyIsolated(Doubt::NobodyAnswers));
    for node in world.nodes.values_mut() {
        node.alive = true;
    }
    world.run(&mut joining, AGAIN_MOST);
    assert_eq!(joining.standing(), Standing::Joined);
}

/// A list in the DNS is unsigned: eight nodes in eight networks are one source.
#[test]
fn a_list_of_a_domain_counts_once() {
    let mut world = World::new(500, 500, 256, 11);
    let mut joining = fresh(&world);
    for _ in 0..8 {
        let node = world.some(false);
        world.lead(&mut joining, Source::Dns, &node);
    }
    world.run(&mut joining, Duration::from_secs(600));
    assert_eq!((joining.standing(), joining.confirmed_by()), (Standing::Joined, 1));
    assert!(joining.words(1).contains("nobody independent"), "{}", joining.words(1));
    // Three that were configured outvote it.
    for _ in 0..3 {
        let node = world.some(true);
        world.lead(&mut joining, Source::Bootstrap, &node);
    }
    world.run(&mut joining, Duration::from_secs(600));
    assert_eq!((joining.standing(), joining.confirmed_by()), (Standing::Joined, 3));
}

/// Found by E4: with five agreeing liars on a list, the honest ones after them were never dialled.
#[test]
fn everybody_on_a_list_is_heard() {
    let mut world = World::new(500, 500, 256, 15);
    let mut joining = fresh(&world);
    for honest in [false, false, false, false, false, false, false, false, true, true, true] {
        let node = world.some(honest);
        world.lead(&mut joining, Source::Bootstrap, &node);
    }
    world.run(&mut joining, Duration::from_secs(600));
    assert_eq!(joining.standing(), Standing::PossiblyIsolated(Doubt::SourcesDisagree));
    assert!(world.table.iter().any(|(card, _)| world.nodes[&card.node].honest));
}

#[test]
fn a_neighbour_of_the_local_network_is_one_after_a_restart() {
    let mut world = World::new(5, 0, 1, 12);
    let mut joining = fresh(&world);
    let other = world.some(true);
    world.lead(&mut joining, Source::Lan, &other);
    world.run(&mut joining, Duration::from_secs(60));
    let rows = joining.cache().rows();
    let cache = PeerCache::from_rows([1; 32], rows.iter().map(|(node, row)| (*node, row.as_slice())));
    let mut again = Joining::new(cache, 0.0, 8, world.now, world.wall());
    world.run(&mut again, Duration::from_secs(60));
    assert_eq!((again.standing(), again.confirmed_by()), (Standing::Joined, 0));
    assert!(again.words(1).contains("local network"), "{}", again.words(1));
}

/// People who were called lead in, and do not have to serve.
#[test]
fn contacts_lead_in_and_their_absence_is_no_evidence() {
    let mut world = World::new(200, 0, 1, 13);
    let (friend, away) = (world.some(true), world.some(true));
    let mut book = Contacts::default();
    for (n, node) in [(1, &friend), (2, &away)] {
        book.met(crate::uri::IdHash([n; 22]), node.card.node, &node.card.addresses, WALL);
    }
    world.nodes.get_mut(&away.card.node).unwrap().alive = false;
    let mut joining = fresh(&world);
    joining.know(book, world.now);
    world.run(&mut joining, Duration::from_secs(600));
    assert_eq!((joining.standing(), joining.confirmed_by()), (Standing::Joined, 1));
}

/// The check begins at a peer of the tried table, and another one when that is gone.
#[test]
fn checks_begin_at_a_peer_that_was_reached_before() {
    let mut world = World::new(300, 0, 1, 14);
    let mut joining = fresh(&world);
    let lead = world.some(true);
    world.lead(&mut joining, Source::Bootstrap, &lead);
    world.run(&mut joining, Duration::from_secs(10));
    for _ in 0..40 {
        let node = world.some(true);
        joining.cache().reached(node.card.node, &node.card.addresses, WALL);
    }
    let mut begun = HashSet::new();
    for hour in 0..30 {
        let now = world.now + Duration::from_secs(3_600 * (hour + 1));
        // Every other hour the first that is dialled is gone.
        let (mut checks, mut gone) = (0, hour % 2);
        while let Some(task) = joining.poll(now, world.wall()) {
            match task {
                Task::Check(through) => {
                    checks += 1;
                    begun.insert(through.expect("there are tried peers"));
                    joining.checked(1, 1, now);
                }
                Task::Dial(lead) if lead.source == Source::New && gone > 0 => {
                    gone -= 1;
                    joining.unreached(lead.id, now);
                }
                Task::Dial(lead) | Task::Feeler(lead) => {
                    let node = lead.node.unwrap();
                    joining.reached(lead.id, node, lead.addresses.first().copied(), now, world.wall());
                }
                Task::Look(node) => joining.looked(node, &[node], 300.0, now),
            }
        }
        assert_eq!(checks, 1, "{hour}");
    }
    assert!(begun.len() > 8, "{}", begun.len());
}

/// Runs of each case of E4, small: one, or four with `PEERLINE_FULL=1`, and then up to eight poisoned sources in all steps.
fn runs() -> (u64, &'static [usize]) {
    match std::env::var_os("PEERLINE_FULL") {
        Some(_) => (4, &[1, 2, 3, 4, 5, 6, 7, 8]),
        None => (1, &[0, 2, 8]),
    }
}

/// E4, small: poisoned sources beside honest ones. Here only whether honest nodes are known at all; whether people are
/// found with such a table is measured by `examples/overlay-sim --experiment e4`.
#[test]
fn no_eclipse_while_one_anchor_or_three_sources_are_honest() {
    let mut told = Vec::new();
    let (runs, cases) = runs();
    for (run, poisoned) in (0..runs).flat_map(|run| cases.iter().map(move |poisoned| (run, *poisoned))) {
        for (honest, source) in [(1, Source::Anchor), (3, Source::Bootstrap)] {
            for wides in [1, 16, 256] {
                let seed = run << 32 | (poisoned as u64) << 16 | u64::from(wides) << 2 | honest as u64;
                let mut world = World::new(1_000, 1_000, wides, seed);
                let mut joining = fresh(&world);
                for _ in 0..poisoned {
                    let node = world.some(false);
                    world.lead(&mut joining, Source::Tried, &node);
                }
                for _ in 0..honest {
                    let node = world.some(true);
                    world.lead(&mut joining, source, &node);
                }
                world.flood(&mut joining, 1_000, wides);
                world.run(&mut joining, Duration::from_secs(600));
                let seeds = world.honest_seeds();
                println!("{poisoned} poisoned, {honest} {source:?}, {wides} /16s: {seeds}, {}", joining.standing());
                assert!(seeds >= 4, "{poisoned} poisoned, {honest} {source:?}, {wides} /16s");
                told.push((poisoned, honest, wides, joining.standing()));
            }
        }
    }
    for (poisoned, honest, wides, standing) in told {
        if poisoned == 0 && honest == 3 {
            assert_eq!(standing, Standing::Joined, "{wides}");
        }
        if poisoned == 8 && wides > 1 {
            assert!(matches!(standing, Standing::PossiblyIsolated(_)), "{wides}: {standing:?}");
        }
    }
}

/// E4, small: the liars have everything; what was known before betrays them.
#[test]
fn isolation_is_seen_within_ten_minutes() {
    for wides in [1, 16, 256] {
        for (nodes_before, records) in [(1_000.0, true), (0.0, false)] {
            for seed in 0..3 {
                let mut world = World::new(1_000, 200, wides, 100 + seed);
                world.records = records;
                let mut joining = Joining::new(PeerCache::new([1; 32]), nodes_before, 7, world.now, world.wall());
                for _ in 0..8 {
                    let node = world.some(false);
                    world.lead(&mut joining, Source::Bootstrap, &node);
                }
                world.run(&mut joining, Duration::from_secs(600));
                assert!(
                    matches!(joining.standing(), Standing::PossiblyIsolated(_)),
                    "{wides} /16s, {nodes_before} before, records {records}: {:?}",
                    joining.standing()
                );
            }
        }
    }
}

/// E4, small: the attack by restart. A node that has run for days is flooded, then starts again with its cache.
#[test]
fn a_restart_finds_back_through_a_flooded_cache() {
    for wides in [1, 16, 256] {
        let mut world = World::new(1_000, 1_000, wides, 200 + u64::from(wides));
        let mut joining = fresh(&world);
        for _ in 0..3 {
            let node = world.some(true);
            world.lead(&mut joining, Source::Bootstrap, &node);
        }
        world.run(&mut joining, Duration::from_secs(300));
        // What the node itself reaches in its daily work goes into the cache.
        for _ in 0..300 {
            let node = world.some(true);
            joining.cache().reached(node.card.node, &node.card.addresses, world.wall());
        }
        world.flood(&mut joining, 10_000, wides);
        world.run(&mut joining, Duration::from_secs(3 * 3_600));
        let connected: Vec<NodeKey> = world.table.iter().map(|(card, _)| card.node).collect();
        let honest: Vec<NodeKey> = connected.into_iter().filter(|node| world.nodes[node].honest).collect();
        joining.cache().set_anchors(&honest);
        let rows = joining.cache().rows();
        let nodes = joining.nodes();
        let cache = PeerCache::from_rows([1; 32], rows.iter().map(|(node, row)| (*node, row.as_slice())));
        let (tried, new) = cache.len();
        assert!((100..=256).contains(&tried) && new <= 1_024, "{tried} {new}");
        world.table = Table::new(world.here);
        let mut again = Joining::new(cache, nodes, 8, world.now, world.wall());
        world.run(&mut again, Duration::from_secs(600));
        let seeds = world.honest_seeds();
        println!("{wides} /16s: {seeds}, {}", again.standing());
        assert!(seeds >= 28, "{wides}: {seeds}");
        assert_eq!(again.standing(), Standing::Joined, "{wides}");
    }
}

#[test]
fn feelers_are_eight_an_hour() {
    let mut world = World::new(500, 0, 1, 5);
    let mut joining = fresh(&world);
    let from = Network::of([9, 9, 9, 9].into());
    for _ in 0..200 {
        let node = world.some(true);
        joining.cache().heard(node.card.node, &node.card.addresses, &from, WALL);
    }
    let (_, new) = joining.cache().len();
    assert!((50..=128).contains(&new), "one network fills few buckets: {new}");
    world.run(&mut joining, Duration::from_secs(3_600));
    assert_eq!(joining.cache().len().0, 8);
}

#[test]
fn one_network_gets_few_places_and_the_living_keep_theirs() {
    let mut rng = StdRng::seed_from_u64(6);
    let mut cache = PeerCache::new([3; 32]);
    let old: Vec<NodeKey> = (0..400).map(|_| key(&mut rng)).collect();
    for node in &old {
        let ip = Ipv4Addr::from(rng.random_range(0x0100_0000..0xdf00_0000_u32));
        cache.reached(*node, &[address(ip)], WALL);
    }
    let tried: Vec<NodeKey> = cache.in_order(true, 1, WALL).iter().map(|peer| peer.node).collect();
    for n in 0..10_000_u32 {
        cache.reached(key(&mut rng), &[address(Ipv4Addr::from(0x2d07_0000 | (n & 0xffff)))], WALL);
    }
    let after = cache.in_order(true, 1, WALL);
    assert!(tried.iter().all(|node| after.iter().any(|peer| peer.node == *node)));
    assert!(after.len() <= tried.len() + 16);
    let rows = cache.rows();
    let again = PeerCache::from_rows([3; 32], rows.iter().map(|(node, row)| (*node, row.as_slice())));
    assert_eq!(again.rows(), rows);
    for cut in 0..rows[0].1.len() {
        assert!(PeerCache::from_rows([3; 32], [(rows[0].0, &rows[0].1[..cut])]).len().0 <= 1);
    }
}
