//! An arena that other processes join and that is told on stdin what to do, a word and its arguments a line; each is
//! answered by one JSON object: what the demonstration `bench/attacks-live` drives.
//!
//! ```text
//! user URI          the user under attack           publisher PEER    spared by selective liars
//! arm | disarm      lies begin, or end              grind N BITS      N liars next to each key of the user
//! flood N SECONDS   N clients store at the holders  hot N SECONDS     N clients fetch from the holders
//! stats
//! ```

use super::flood::{self, Flood};
use super::liar::Liar;
use super::{Arena, Plan};
use peerline::dht::Position;
use peerline::identity::NodeSecret;
use peerline::record::{self, RecordKey};
use peerline::uri::IdHash;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;

/// Nodes around each key that are flooded.
const FLOODED: usize = 6;

pub async fn run(plan: Plan) {
    let arena = Arena::build(plan).await;
    let mut stand = Stand { arena, ground: Vec::new(), user: None, floods: JoinSet::new() };
    let honest: Vec<&String> = stand.arena.honest.iter().map(|node| &node.address).collect();
    let liars: Vec<&String> = stand.arena.liars.iter().map(|liar| &liar.address).collect();
    println!("{}", json!({ "honest": honest, "liars": liars, "joining_s": stand.arena.joining.0.as_secs_f64() }));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let words: Vec<&str> = line.split_whitespace().collect();
        println!("{}", stand.obey(&words).await);
    }
}

struct Stand {
    arena: Arena,
    /// Liars whose keys were made to lie next to the user's.
    ground: Vec<Liar>,
    user: Option<IdHash>,
    floods: JoinSet<BTreeMap<&'static str, u64>>,
}

impl Stand {
    async fn obey(&mut self, words: &[&str]) -> Value {
        let number = |n: usize| words.get(n).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        match words.first().copied().unwrap_or_default() {
            "user" => {
                let Ok(peerline::uri::UserUri { id, .. }) = words[1].parse() else { return json!("no URI") };
                self.user = Some(id);
                self.arena.conspiracy.attacks(&id);
                json!({ "user": words[1] })
            }
            "publisher" => {
                self.arena.conspiracy.knows_publisher(words[1].parse().expect("a peer id"));
                json!({ "publisher": words[1] })
            }
            "arm" | "disarm" => {
                self.arena.conspiracy.arm(words[0] == "arm");
                json!({ "armed": words[0] == "arm" })
            }
            "grind" => self.grind(number(1) as usize, number(2) as u32).await,
            "flood" => self.flood(Flood::Stores, number(1) as usize, Duration::from_secs(number(2))),
            "hot" => self.flood(Flood::Fetches, number(1) as usize, Duration::from_secs(number(2))),
            "stats" => self.stats().await,
            other => json!({ "not known": other }),
        }
    }

    fn keys(&self) -> [RecordKey; 4] {
        record::replica_keys(&self.arena.plan.overlay, &self.user.expect("a user first"))
    }

    /// `per_key` liars within 2^-`bits` of the space of each key, each in a /24 of its own.
    async fn grind(&mut self, per_key: usize, bits: u32) -> Value {
        let (mut tries, mut nearer) = (0_u64, 0);
        let honest: Vec<Position> =
            self.arena.honest.iter().map(|node| Position::of_node(&node.secret.public())).collect();
        for key in &self.keys() {
            let at = Position::of_key(key);
            let nearest = honest.iter().map(|other| other.distance(&at)).min().expect("nodes");
            for _ in 0..per_key {
                let secret = loop {
                    tries += 1;
                    let secret = NodeSecret::generate();
                    if Position::of_node(&secret.public()).distance(&at).shared_bits() >= bits {
                        break secret;
                    }
                };
                nearer += usize::from(Position::of_node(&secret.public()).distance(&at) < nearest);
                // Everybody near the key is told, and some others.
                let mut nodes: Vec<_> = self.arena.honest.iter().collect();
                nodes.sort_by_cached_key(|node| Position::of_node(&node.secret.public()).distance(&at));
                let known: Vec<String> = nodes.iter().take(25).map(|node| node.address.clone()).collect();
                let place = self.arena.place();
                let liar = Liar::start(self.arena.conspiracy.clone(), secret, place, &known).await;
                self.ground.push(liar);
            }
        }
        json!({ "ground": self.ground.len(), "tries": tries, "nearer_than_every_honest": nearer })
    }

    /// Begins in the background; `stats` waits for its end.
    fn flood(&mut self, flood: Flood, clients: usize, life: Duration) -> Value {
        let honest = self.arena.conspiracy.honest();
        for n in 0..clients {
            let key = self.keys()[n % 4];
            let at = Position::of_key(&key);
            let mut nearest = honest.clone();
            nearest.sort_by_cached_key(|card| card.position.distance(&at));
            nearest.truncate(FLOODED);
            self.floods.spawn(flood::run(flood, self.arena.plan.overlay, key, nearest, self.arena.place(), life));
        }
        json!({ "clients": clients, "seconds": life.as_secs(), "nodes_each": FLOODED })
    }

    async fn stats(&mut self) -> Value {
        let mut said: BTreeMap<&str, u64> = BTreeMap::new();
        while let Some(Ok(more)) = self.floods.join_next().await {
            more.into_iter().for_each(|(kind, n)| *said.entry(kind).or_default() += n);
        }
        let held: Vec<usize> =
            self.arena.honest.iter().map(|node| node.overlay.status().borrow().records_held).collect();
        let (asked, lies) = super::cells::counts(&self.arena);
        let memory = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let rss =
            memory.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
        json!({
            "liars_asked": asked, "lies": lies, "floods": said, "records_held_most": held.iter().max(),
            "records_held_all": held.iter().sum::<usize>(), "rss_mb_all_nodes": rss.unwrap_or(0) / 1024,
            "ground": self.ground.len(),
        })
    }
}
