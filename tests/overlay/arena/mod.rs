//! An arena: a hundred and more nodes in one process on loopback, each at an address of its own so that networks count,
//! some of them hostile. Cells put users into it, attack, look them up, and state what came of it.

pub mod cells;
pub mod conspiracy;
pub mod figures;
pub mod flood;
pub mod hot;
mod inspect;
mod kad_words;
pub mod knock;
pub mod liar;
pub mod plain;
pub mod plain_cells;
pub mod stand;

use super::harness::{Node, PATIENCE, Setup, node};
use conspiracy::{Attack, Conspiracy, address, listen_at};
use futures::StreamExt;
use liar::Liar;
use peerline::identity::NodeSecret;
use peerline::overlay::{Limits, Overlay};
use peerline::reachability::Transport;
use peerline::store::Store;
use peerline::uri::IdHash;
use peerline::wire::OverlayId;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// Places for readers. As few as have distinct networks on loopback.
const NEWCOMERS: usize = 5_000;

/// Rounds of looking around at most.
const SETTLING: usize = 8;

/// Which networks the nodes are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// A /24 each, two or three in a /16.
    Spread,
    /// All in one /24: an office.
    OneSubnet,
}

impl Ground {
    pub fn ip(self, n: usize) -> Ipv4Addr {
        match self {
            Ground::Spread => Ipv4Addr::new(127, 1 + (n % 60) as u8, (n / 60) as u8, 1),
            Ground::OneSubnet => Ipv4Addr::new(127, 77, 7, (1 + n % 250) as u8),
        }
    }
}

/// A key that depends on nothing but the seed, a letter and a number.
pub fn secret(seed: u64, letter: u8, n: usize) -> NodeSecret {
    let mut bytes = [letter; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    bytes[8..16].copy_from_slice(&(n as u64).to_be_bytes());
    NodeSecret::from_bytes(bytes)
}

/// What stands in an arena.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub honest: usize,
    pub liars: usize,
    /// Of the honest, those that can be killed at once.
    pub mortal: usize,
    pub attack: Attack,
    pub ground: Ground,
    pub overlay: OverlayId,
    pub seed: u64,
}

pub struct Arena {
    pub plan: Plan,
    pub honest: Vec<Node>,
    /// They come after `honest` and live in a runtime of their own.
    pub mortal: Vec<Node>,
    doom: Option<Runtime>,
    pub liars: Vec<Liar>,
    pub conspiracy: Arc<Conspiracy>,
    /// How long it took until all were in touch, and the processor time of it.
    pub joining: (Duration, Duration),
    /// Of the overlay's size by its nodes: least, median, most.
    pub estimates: [usize; 3],
    next_place: std::cell::Cell<usize>,
}

/// Bounds that are not what is measured: all nodes have one machine.
fn limits() -> Limits {
    Limits {
        max_connections: 1_000,
        max_connections_per_ip: 600,
        max_connections_per_subnet: 600,
        max_links: 64,
        max_records: 20_000,
    }
}

impl Arena {
    /// Honest nodes first, who all know the first three; then the liars, who dial two dozen of them each.
    pub async fn build(plan: Plan) -> Self {
        let (began, cpu) = (Instant::now(), figures::cpu());
        let conspiracy = Conspiracy::new(plan.attack, Transport::Quic, plan.overlay, plan.seed).await;
        let mut honest: Vec<Node> = Vec::new();
        let setup = |n: usize| setup(plan.ground.ip(n), secret(plan.seed, b'h', n), true, plan.overlay);
        for n in 0..plan.honest - plan.mortal {
            let known: Vec<String> = honest.iter().take(3).map(|node| node.address.clone()).collect();
            honest.push(node(&known, setup(n)).await);
        }
        let known: Vec<String> = honest.iter().take(3).map(|node| node.address.clone()).collect();
        let doom = (plan.mortal > 0)
            .then(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());
        let mut mortal = Vec::new();
        for n in plan.honest - plan.mortal..plan.honest {
            let (known, setup) = (known.clone(), setup(n));
            mortal.push(doom.as_ref().unwrap().spawn(async move { node(&known, setup).await }).await.unwrap());
        }
        for node in honest.iter().chain(&mortal) {
            conspiracy.knows_honest(&node.secret, address(&node.address));
        }
        let mut liars = Vec::new();
        for n in 0..plan.liars {
            let known: Vec<String> =
                (0..24).map(|k| &honest[(n * 7 + k * 5 + k) % honest.len()].address).cloned().collect();
            let place = plan.ground.ip(plan.honest + n);
            liars.push(Liar::start(conspiracy.clone(), secret(plan.seed, b'l', n), place, &known).await);
        }
        let next_place = std::cell::Cell::new(plan.honest + plan.liars);
        let joining = (Duration::ZERO, Duration::ZERO);
        let mut arena = Self { plan, honest, mortal, doom, liars, conspiracy, joining, estimates: [0; 3], next_place };
        arena.settle().await;
        arena.joining = (began.elapsed(), figures::cpu() - cpu);
        arena
    }

    /// What an overlay of some age has behind it: nine in ten of its nodes know how large it is, within a quarter. Who does
    /// not, looks somebody up; by itself it would look around within minutes. Without it users are published by nodes
    /// that know a dozen of a hundred, and nobody finds them.
    async fn settle(&mut self) {
        let all: Vec<_> = self.honest.iter().chain(&self.mortal).map(|node| node.overlay.clone()).collect();
        let size = self.plan.honest + self.plan.liars;
        let knows = |overlay: &Overlay| overlay.status().borrow().estimate * 4 >= size * 3;
        for round in 0..SETTLING {
            let late: Vec<_> = all.iter().filter(|overlay| !knows(overlay)).collect();
            if late.len() * 10 <= all.len() {
                break;
            }
            let looking = futures::stream::iter(late.into_iter().enumerate());
            let looking = looking.for_each_concurrent(8, |(n, overlay)| async move {
                let nobody = IdHash(std::array::from_fn(|k| (round * 101 + n * 31 + k * 7) as u8));
                let mut events = overlay.lookup(nobody);
                let _ = timeout(PATIENCE, async { while events.recv().await.is_some() {} }).await;
            });
            looking.await;
        }
        let mut estimates: Vec<usize> = all.iter().map(|overlay| overlay.status().borrow().estimate).collect();
        estimates.sort_unstable();
        self.estimates = [estimates[0], estimates[estimates.len() / 2], estimates[estimates.len() - 1]];
    }

    fn place(&self) -> Ipv4Addr {
        let n = self.next_place.get();
        self.next_place.set(n + 1);
        // Newcomers of the past have left: their places are taken again.
        let first = self.plan.honest + self.plan.liars;
        self.plan.ground.ip(first + (n - first) % NEWCOMERS)
    }

    /// A client that keeps nothing, knows these only, and is as new as can be.
    pub async fn reader(&self, known: &[String]) -> Node {
        node(known, setup(self.place(), NodeSecret::generate(), false, self.plan.overlay)).await
    }

    /// Tears the runtime of the mortal nodes down: no line of theirs for stopping is run, the kernel closes the sockets.
    pub fn kill(&mut self) {
        if let Some(doom) = self.doom.take() {
            doom.shutdown_background();
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.kill();
    }
}

fn setup(ip: Ipv4Addr, secret: NodeSecret, server: bool, overlay: OverlayId) -> Setup {
    Setup {
        secret,
        store: Store::temporary().unwrap(),
        server: Some(server),
        overlay,
        // On loopback only QUIC comes from the address that it listens at: TCP comes from 127.0.0.1.
        listen: vec![listen_at(ip, Transport::Quic)],
        limits: limits(),
        circuits: Default::default(),
        relay: None,
    }
}
