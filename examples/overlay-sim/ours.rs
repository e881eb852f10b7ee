//! Drives the product's engine over a scene in virtual time: what `overlay` does with sockets.

use super::scene::Scene;
use super::user::{Which, judge, judge_at};
use super::world::id_of;
use peerline::dht::{
    Answer, Ask, Estimate, Lookup, Progress, Publish, Published, Request, RequestId, Seeds, WalkConfig,
};
use peerline::identity::NodeKey;
use peerline::ledger::Ledger;
use peerline::record::Judge;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// What an operation cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub requests: usize,
    /// Requests to peers to which no connection was open.
    pub dials: usize,
    /// Both ways, without handshakes.
    pub bytes: usize,
    /// Of the engine alone, not of the servers that it asks.
    pub cpu: Duration,
    /// Until the operation was over, virtual.
    pub took: Duration,
}

/// What a lookup saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// When the first valid record came, and the newest.
    pub first: Option<Duration>,
    pub newest: Option<Duration>,
    /// What it would have answered after 3 and after 10 seconds.
    pub after_3: Option<Which>,
    pub after_10: Option<Which>,
    /// Different honest servers that gave the newest.
    pub copies: usize,
    pub cost: Cost,
}

pub const PATIENCE: Duration = Duration::from_secs(3);
pub const LONG: Duration = Duration::from_secs(10);
/// No operation takes longer.
const LIMIT: Duration = Duration::from_secs(120);

/// Bytes of messages without their cards and bundles: key, nonce, time, signature, frame.
const REQUEST: usize = 90;
const RESPONSE: usize = 150;
/// A card on the wire: two addresses.
const CARD: usize = 140;

pub trait Operation {
    fn poll_request(&mut self, now: Instant) -> Option<Request>;
    fn answered(&mut self, id: RequestId, answer: Answer, judge: &Judge, now: Instant);
    fn poll_timeout(&self) -> Option<Instant>;
    fn is_over(&self) -> bool;
}

impl Operation for Lookup {
    fn poll_request(&mut self, now: Instant) -> Option<Request> {
        Lookup::poll_request(self, now)
    }
    fn answered(&mut self, id: RequestId, answer: Answer, judge: &Judge, now: Instant) {
        Lookup::answered(self, id, answer, judge, now);
    }
    fn poll_timeout(&self) -> Option<Instant> {
        Lookup::poll_timeout(self)
    }
    fn is_over(&self) -> bool {
        Lookup::is_over(self)
    }
}

impl Operation for Publish {
    fn poll_request(&mut self, now: Instant) -> Option<Request> {
        Publish::poll_request(self, now)
    }
    fn answered(&mut self, id: RequestId, answer: Answer, judge: &Judge, now: Instant) {
        Publish::answered(self, id, answer, judge, now);
    }
    fn poll_timeout(&self) -> Option<Instant> {
        Publish::poll_timeout(self)
    }
    fn is_over(&self) -> bool {
        Publish::is_over(self)
    }
}

fn size_of(ask: &Ask) -> usize {
    REQUEST + if let Ask::Store(_, bundle) = ask { bundle.len() } else { 0 }
}

fn size_of_answer(answer: &Answer) -> usize {
    RESPONSE
        + match answer {
            Answer::Found { peers, bundle } => peers.len() * CARD + bundle.as_ref().map_or(0, |bundle| bundle.len()),
            Answer::Stored(_) | Answer::List(_) | Answer::Enlisted(_) => 0,
        }
}

/// Runs an operation to its end, or until `told` breaks it off, which is called after each input; `heard` for each answer,
/// before the engine has it.
pub fn drive<O: Operation>(
    operation: &mut O,
    scene: &mut Scene<'_>,
    from: u32,
    judge: Judge,
    start: Instant,
    mut heard: impl FnMut(u32, &Answer),
    mut told: impl FnMut(&mut O, Duration) -> ControlFlow<()>,
) -> Cost {
    let (mut now, mut order, mut cost) = (start, 0_u64, Cost::default());
    let mut due: BinaryHeap<Reverse<(Instant, u64)>> = BinaryHeap::new();
    let mut answers: HashMap<u64, (u32, RequestId, Answer)> = HashMap::new();
    let mut connected: HashSet<u32> = HashSet::new();
    let known = scene.table(from).len();
    let mut elsewhere = Duration::ZERO;
    let began = Instant::now();
    loop {
        while let Some(request) = operation.poll_request(now) {
            let left = Instant::now();
            let to = id_of(&request.to.node);
            let open = connected.contains(&to) || scene.connected(from, to, known);
            cost.requests += 1;
            cost.dials += usize::from(!open);
            cost.bytes += size_of(&request.ask);
            if let Some((delay, answer)) = scene.ask(from, &request.to, &request.ask, open) {
                cost.bytes += size_of_answer(&answer);
                order += 1;
                due.push(Reverse((now + delay, order)));
                answers.insert(order, (to, request.id, answer));
            }
            elsewhere += left.elapsed();
        }
        if told(operation, now - start).is_break() || operation.is_over() || now - start > LIMIT {
            break;
        }
        let next = due.peek().map(|Reverse((at, _))| *at);
        let timeout = operation.poll_timeout().map(|at| at.max(now + Duration::from_micros(100)));
        match (next, timeout) {
            (Some(at), timeout) if timeout.is_none_or(|timeout| at <= timeout) => {
                now = now.max(at);
                let Some(Reverse((_, number))) = due.pop() else { break };
                let Some((to, id, answer)) = answers.remove(&number) else { break };
                connected.insert(to);
                heard(to, &answer);
                operation.answered(id, answer, &judge, now);
            }
            (_, Some(timeout)) => now = timeout,
            (_, None) => break,
        }
    }
    cost.cpu = began.elapsed().saturating_sub(elsewhere);
    cost.took = now - start;
    cost
}

fn begin(scene: &mut Scene<'_>, from: u32, salt: u64, shunned: &dyn Fn(&NodeKey) -> bool) -> ([Seeds; 4], Estimate) {
    let table = scene.table(from);
    (scene.targets.map(|target| table.seeds(&target, salt, shunned)), table.estimate())
}

/// Publishes the new record. Whether it was told to be good, and what it cost.
pub fn publish(scene: &mut Scene<'_>, config: &WalkConfig, salt: u64, base: Instant) -> (bool, Cost) {
    let (from, skew) = (scene.publisher, scene.user.skew);
    let (seeds, estimate) = begin(scene, from, salt, &|_| false);
    let bundle = scene.user.new_bundle();
    let keys = scene.user.keys;
    let radius = estimate.region();
    let holders = Default::default();
    let mut publish = Publish::new(bundle, keys, holders, seeds, radius, true, config.clone(), salt, base);
    let mut good = false;
    let cost = drive(
        &mut publish,
        scene,
        from,
        judge_at(skew),
        base,
        |_, _| {},
        |publish, _| {
            while let Some(told) = publish.poll_progress() {
                good |= matches!(told, Published::Good { .. } | Published::Done { good: true, .. });
            }
            ControlFlow::Continue(())
        },
    );
    (good, cost)
}

/// Looks the user up.
pub fn lookup(scene: &mut Scene<'_>, config: &WalkConfig, salt: u64, base: Instant) -> Seen {
    lookup_with(scene, config, salt, base, None)
}

/// As [`lookup`], by a caller with a memory: whom it avoids, and what this lookup adds. `base` is when.
pub fn lookup_with(
    scene: &mut Scene<'_>,
    config: &WalkConfig,
    salt: u64,
    base: Instant,
    ledger: Option<&mut Ledger<NodeKey>>,
) -> Seen {
    let from = scene.caller;
    let avoided = |node: &NodeKey| ledger.as_ref().is_some_and(|ledger| ledger.avoids(node, base));
    let (seeds, estimate) = begin(scene, from, salt, &avoided);
    let keys = scene.user.keys;
    let mut lookup = Lookup::new(keys, seeds, estimate.region(), config.clone(), salt, base);
    let mut seen = Seen::default();
    let mut newest = HashSet::new();
    let new = scene.user.bytes(Which::New);
    let mut found = Vec::new();
    let cost = drive(
        &mut lookup,
        scene,
        from,
        judge(),
        base,
        |to, answer| {
            if matches!(answer, Answer::Found { bundle: Some(bundle), .. } if *bundle == new) {
                newest.insert(to);
            }
        },
        |lookup, at| {
            while let Some(told) = lookup.poll_progress() {
                if let Progress::Found(bundle) = told {
                    found.push((at, bundle));
                }
            }
            ControlFlow::Continue(())
        },
    );
    for (at, bundle) in found {
        note(&mut seen, at, scene.user.recognise(&bundle));
    }
    if let Some(ledger) = ledger {
        for (node, observation) in lookup.take_observations() {
            ledger.note(node, observation.fact(), base);
        }
    }
    seen.copies = newest.len();
    seen.cost = cost;
    seen
}

/// What a search that begins at one peer alone costs: to its end, or until the first record comes.
pub fn from_one(scene: &mut Scene<'_>, config: &WalkConfig, until_found: bool, salt: u64, base: Instant) -> Cost {
    let from = scene.caller;
    let (seeds, estimate) = begin(scene, from, salt, &|_| false);
    let one = seeds.map(|seeds| Seeds { near: Vec::new(), random: seeds.random.into_iter().take(1).collect() });
    let mut lookup = Lookup::new(scene.user.keys, one, estimate.region(), config.clone(), salt, base);
    drive(
        &mut lookup,
        scene,
        from,
        judge(),
        base,
        |_, _| {},
        |lookup, _| match lookup.poll_progress() {
            Some(Progress::Found(_)) if until_found => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        },
    )
}

/// The lookup says `which` after `at`.
pub fn note(seen: &mut Seen, at: Duration, which: Which) {
    seen.first.get_or_insert(at);
    if which == Which::New {
        seen.newest.get_or_insert(at);
    }
    for (limit, after) in [(PATIENCE, &mut seen.after_3), (LONG, &mut seen.after_10)] {
        if at <= limit && *after != Some(Which::New) {
            *after = Some(which);
        }
    }
}
