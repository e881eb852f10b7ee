//! The strategies to compare with: one key, the 20 closest. Models of what libp2p-kad 0.49 does, with its iterators,
//! its address book of a query (an answer's addresses replace those told before; a failed dial is final and counts for
//! every path) and its timeouts; and of S/Kademlia with both faults mended.
//!
//! Generous to them: all records that come in count at once, the freshest wins as with ours, the application validates,
//! nobody's table is poisoned, and dead peers cost nothing but time.

use super::iterators::{Closest, Disjoint, Next, PEER_TIMEOUT, Time};
use super::known::nearest_of;
use super::ours::{Cost, Seen, note};
use super::scene::{KadAnswer, Scene};
use super::user::Which;
use super::world::head;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::time::{Duration, Instant};

/// Peers that hold a record; what a query looks for.
const K: usize = 20;
const ALPHA: usize = 3;
const PATHS: usize = 8;
/// Of the whole query.
const QUERY_TIMEOUT: Time = 60_000_000;
/// A refused dial.
const REFUSED: Time = 30_000;

/// Wire sizes: a request with its key; a peer with two addresses; a record.
const REQUEST: usize = 60;
const PEER: usize = 110;
const RECORD: usize = 620;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    Plain,
    Disjoint,
    SKademlia,
}

enum Paths {
    One(Closest),
    Many(Disjoint),
}

enum Event {
    Answer(u32, KadAnswer),
    Refused(u32),
}

/// A query for key 0; the peers that it ends with, nearest first.
fn query(
    scene: &mut Scene<'_>,
    flavour: Flavour,
    from: u32,
    serving: bool,
    connected: &mut HashSet<u32>,
    mut heard: impl FnMut(u32, &KadAnswer, Time),
) -> (Vec<u32>, Cost) {
    let began = Instant::now();
    let mut elsewhere = Duration::ZERO;
    let point = head(&scene.targets[0]);
    let contacts = scene.contacts(from);
    let near =
        nearest_of(&contacts, if flavour == Flavour::SKademlia { 2 * K } else { K }, |id| scene.distance(id, point));
    let keyed = |scene: &Scene<'_>, id: u32| (scene.distance(id, point), id);
    let start: Vec<(u64, u32)> = near.iter().map(|id| keyed(scene, *id)).collect();
    let mut paths = match flavour {
        Flavour::Plain => Paths::One(Closest::new(&start, ALPHA, K, PEER_TIMEOUT)),
        Flavour::Disjoint => Paths::Many(Disjoint::libp2p(&start, PATHS, K, PEER_TIMEOUT)),
        // Per path its share of the 20; a peer has 2 s.
        Flavour::SKademlia => Paths::Many(Disjoint::split(&start, PATHS, ALPHA, K.div_ceil(PATHS), 2_000_000)),
    };
    let mended = flavour == Flavour::SKademlia;
    let own: HashSet<u32> = contacts.iter().copied().collect();
    // Whether the addresses that the query has for a peer are right; who is in the table is dialled there too.
    let mut book: HashMap<u32, bool> = HashMap::new();
    let (mut now, mut order, mut cost): (Time, u64, Cost) = (0, 0, Cost::default());
    let mut due: BinaryHeap<Reverse<(Time, u64)>> = BinaryHeap::new();
    let mut events: HashMap<u64, Event> = HashMap::new();
    loop {
        loop {
            let next = match &mut paths {
                Paths::One(path) => path.next(now),
                Paths::Many(paths) => paths.next(now, |id| keyed(scene, id)),
            };
            let Next::Ask(id) = next else { break };
            let left = Instant::now();
            let open = connected.contains(&id) || scene.connected(from, id, own.len());
            let right = open || own.contains(&id) || book.get(&id).copied().unwrap_or(true);
            cost.requests += 1;
            cost.dials += usize::from(!open);
            cost.bytes += REQUEST;
            order += 1;
            if !right {
                due.push(Reverse((now + REFUSED, order)));
                events.insert(order, Event::Refused(id));
            } else if let Some((delay, answer)) = scene.ask_kad(from, id, serving, !mended, open) {
                cost.bytes += answer.peers.len() * PEER + answer.held.map_or(0, |_| RECORD);
                due.push(Reverse((now + delay.as_micros() as Time, order)));
                events.insert(order, Event::Answer(id, answer));
            } else {
                // The transport gives a dial up after 10 s.
                due.push(Reverse((now + PEER_TIMEOUT, order)));
                events.insert(order, Event::Refused(id));
            }
            elsewhere += left.elapsed();
        }
        let (finished, timeout) = match &paths {
            Paths::One(path) => (path.is_finished(), path.timeout(now)),
            Paths::Many(paths) => (paths.is_finished(), paths.timeout(now)),
        };
        let next = [timeout, due.peek().map(|Reverse((at, _))| *at)].into_iter().flatten().min();
        let Some(at) = next.filter(|at| !finished && *at <= QUERY_TIMEOUT) else { break };
        now = now.max(at);
        let arrived = due.peek().is_some_and(|Reverse((at, _))| *at <= now);
        let Some(event) = arrived.then(|| due.pop()).flatten().and_then(|Reverse((_, n))| events.remove(&n)) else {
            continue;
        };
        match event {
            Event::Refused(id) => {
                let key = keyed(scene, id);
                match &mut paths {
                    Paths::One(path) => drop(path.on_failure(key)),
                    Paths::Many(paths) => paths.on_failure(key),
                }
            }
            Event::Answer(id, answer) => {
                connected.insert(id);
                heard(id, &answer, now);
                for (peer, right) in answer.peers.iter().filter(|(peer, _)| *peer != from) {
                    if mended {
                        // A union: right once, right for good.
                        *book.entry(*peer).or_insert(false) |= right;
                    } else {
                        book.insert(*peer, *right);
                    }
                }
                let closer: Vec<(u64, u32)> =
                    answer.peers.iter().filter(|(peer, _)| *peer != from).map(|(id, _)| keyed(scene, *id)).collect();
                let key = keyed(scene, id);
                match &mut paths {
                    Paths::One(path) => drop(path.on_success(key, &closer)),
                    Paths::Many(paths) => paths.on_success(key, &closer),
                }
            }
        }
    }
    let result = match &paths {
        Paths::One(path) => path.result(),
        Paths::Many(paths) => paths.result(),
    };
    cost.cpu = began.elapsed().saturating_sub(elsewhere);
    cost.took = Duration::from_micros(now);
    (result.into_iter().map(|(_, id)| id).collect(), cost)
}

pub fn publish(scene: &mut Scene<'_>, flavour: Flavour) -> (bool, Cost) {
    let from = scene.publisher;
    let (closest, mut cost) = query(scene, flavour, from, false, &mut HashSet::new(), |_, _, _| {});
    // Libp2p's disjoint paths hand on what all of them found.
    for id in &closest {
        scene.put_kad(*id);
        cost.requests += 1;
        cost.bytes += REQUEST + RECORD;
    }
    (closest.len() >= K / 2, cost)
}

pub fn lookup(scene: &mut Scene<'_>, flavour: Flavour) -> Seen {
    let from = scene.caller;
    let mut seen = Seen::default();
    let mut copies = HashSet::new();
    let mut came = Vec::new();
    let (_, cost) = query(scene, flavour, from, true, &mut HashSet::new(), |id, answer, at| {
        if let Some(which) = answer.held {
            came.push((id, which, Duration::from_micros(at)));
        }
    });
    for (id, which, at) in came {
        // The application judges each with the product's validator.
        if scene.user.judge(which, None).is_ok() {
            note(&mut seen, at, which);
            if which == Which::New {
                copies.insert(id);
            }
        }
    }
    seen.copies = copies.len();
    seen.cost = cost;
    seen
}
