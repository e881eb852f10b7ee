//! The same cells for plain libp2p-kad: a record under one key, put with the library's own query, got with its own.

use super::conspiracy::{Conspiracy, address};
use super::figures::{cpu, rate, times};
use super::liar::Liar;
use super::plain::PlainNode;
use super::{Plan, secret};
use crate::harness::{OVERLAY, User};
use libp2p::identity::Keypair;
use peerline::reachability::Transport;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout_at;

pub struct PlainArena {
    pub plan: Plan,
    pub nodes: Vec<PlainNode>,
    pub liars: Vec<Liar>,
    pub conspiracy: Arc<Conspiracy>,
    next: std::cell::Cell<usize>,
}

impl PlainArena {
    pub async fn build(plan: Plan) -> Self {
        let conspiracy = Conspiracy::new(plan.attack, Transport::Tcp, OVERLAY, plan.seed).await;
        let mut nodes: Vec<PlainNode> = Vec::new();
        for n in 0..plan.honest {
            let secret = secret(plan.seed, b'h', n);
            let key = Keypair::ed25519_from_bytes(secret.to_bytes()).unwrap();
            let known: Vec<String> = nodes.iter().take(3).map(|node| node.address.clone()).collect();
            let ip = plan.ground.ip(n);
            let node = PlainNode::start(key, ip, &known, true).await;
            conspiracy.knows_honest(&secret, address(&node.address));
            nodes.push(node);
        }
        let mut liars = Vec::new();
        for n in 0..plan.liars {
            let known: Vec<String> = (0..24).map(|k| nodes[(n * 7 + k * 6) % nodes.len()].address.clone()).collect();
            let place = plan.ground.ip(plan.honest + n);
            liars.push(Liar::start(conspiracy.clone(), secret(plan.seed, b'l', n), place, &known).await);
        }
        let next = std::cell::Cell::new(plan.honest + plan.liars);
        let arena = Self { plan, nodes, liars, conspiracy, next };
        // Until tables stop growing.
        let (mut last, deadline) = (0, Instant::now() + Duration::from_secs(30));
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let mut known = 0;
            for node in &arena.nodes {
                known += node.peers().await;
            }
            if (known == last && known >= arena.nodes.len() * 10) || Instant::now() > deadline {
                return arena;
            }
            last = known;
        }
    }

    pub async fn reader(&self, known: &[String]) -> PlainNode {
        let n = self.next.get();
        self.next.set(n + 1);
        PlainNode::start(Keypair::generate_ed25519(), self.plan.ground.ip(n), known, false).await
    }

    pub async fn holders(&self, key: &[u8], value: &[u8]) -> HashSet<libp2p::PeerId> {
        let mut holders = HashSet::new();
        for node in &self.nodes {
            if node.holds(key).await.as_deref() == Some(value) {
                holders.insert(node.peer);
            }
        }
        holders
    }
}

struct PlainUser {
    key: [u8; 32],
    newest: Vec<u8>,
    holders: HashSet<libp2p::PeerId>,
}

async fn publish(arena: &PlainArena, users: usize) -> (Vec<PlainUser>, Value) {
    let (mut known, mut took, mut good) = (Vec::new(), Vec::new(), 0);
    for n in 0..users {
        let publisher = &arena.nodes[n % arena.nodes.len().min(10)];
        arena.conspiracy.knows_publisher(publisher.peer);
        let user = User::new();
        let key = user.key();
        arena.conspiracy.arm(false);
        publisher.put(&key, &user.bundle().encode()).await;
        arena.conspiracy.attacks(&user.identity.id);
        arena.conspiracy.arm(true);
        let newest = user.later(1_000).encode();
        let started = Instant::now();
        good += usize::from(publisher.put(&key, &newest).await);
        took.push(started.elapsed());
        let mut holders = arena.holders(&key, &newest).await;
        holders.remove(&publisher.peer);
        known.push(PlainUser { key, newest, holders });
    }
    let mean = known.iter().map(|user| user.holders.len()).sum::<usize>() / users.max(1);
    (known, json!({ "published": rate(good, users), "took": times(&took), "honest_holders_mean": mean }))
}

/// When the newest came, and the honest holders that answered.
async fn try_once(reader: &PlainNode, user: &PlainUser, whole: bool) -> (Option<Duration>, usize) {
    let started = Instant::now();
    let mut answers = reader.get(&user.key);
    let (mut newest, mut seen) = (None, HashSet::new());
    let end = tokio::time::Instant::from_std(started + Duration::from_secs(if whole { 6 } else { 3 }));
    while let Ok(Some((from, value))) = timeout_at(end, answers.recv()).await {
        if value == user.newest {
            newest.get_or_insert_with(|| started.elapsed());
            seen.insert(from);
            if !whole {
                break;
            }
        }
    }
    (newest.filter(|at| *at <= Duration::from_secs(3)), seen.intersection(&user.holders).count())
}

fn state(
    name: &str,
    plan: &Plan,
    published: Value,
    trials: &[(Option<Duration>, usize, usize)],
    cpu: Duration,
) -> Value {
    let took: Vec<Duration> = trials.iter().filter_map(|trial| trial.0).collect();
    let (seen, existing) = trials.iter().fold((0, 0), |(s, e), trial| (s + trial.1, e + trial.2));
    json!({
        "cell": name, "strategy": "plain libp2p-kad 0.49", "nodes": plan.honest + plan.liars, "liars": plan.liars,
        "attack": if plan.liars == 0 { "none" } else { plan.attack.name() }, "seed": plan.seed, "publications": published,
        "lookups": {
            "found_newest_in_3s": rate(took.len(), trials.len()), "took": times(&took),
            "copies_seen": { "seen": seen, "existing": existing,
                "percent": (1_000.0 * seen as f64 / existing.max(1) as f64).round() / 10.0 },
            "cpu_ms_all_nodes_each": (cpu.as_secs_f64() * 1e5 / trials.len().max(1) as f64).round() / 100.0,
        },
    })
}

/// As `cells::peaceful` and `cells::liars_among`. `whole`: to the end of each query.
pub async fn among(plan: Plan, users: usize, trials: usize, whole: bool) -> Value {
    let arena = PlainArena::build(plan).await;
    let first: Vec<String> = arena.nodes.iter().take(3).map(|node| node.address.clone()).collect();
    let mut readers = Vec::new();
    for _ in 0..5 {
        readers.push(arena.reader(&first).await);
    }
    let (known, published) = publish(&arena, users).await;
    let before = cpu();
    let mut all = Vec::new();
    for n in 0..trials {
        let user = &known[n % known.len()];
        let (newest, seen) = try_once(&readers[n % readers.len()], user, whole).await;
        all.push((newest, seen, user.holders.len()));
    }
    state("among the nodes", &plan, published, &all, cpu() - before)
}

/// As `cells::one_liar_first`.
pub async fn one_liar_first(plan: Plan, users: usize, trials: usize) -> Value {
    let arena = PlainArena::build(plan).await;
    let (known, published) = publish(&arena, users).await;
    let before = cpu();
    let mut all = Vec::new();
    for n in 0..trials {
        let honest = |k: usize| arena.nodes[(n * 13 + k * 37) % arena.nodes.len()].address.clone();
        let reader = arena.reader(&[arena.liars[0].address.clone(), honest(0), honest(1)]).await;
        let user = &known[n % known.len()];
        let (newest, seen) = try_once(&reader, user, true).await;
        all.push((newest, seen, user.holders.len()));
    }
    state("one liar among three first contacts", &plan, published, &all, cpu() - before)
}
