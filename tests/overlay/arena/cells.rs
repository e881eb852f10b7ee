//! The cells: a question, a number of trials, and the figures.

use super::conspiracy::{Attack, peer_id};
use super::figures::{cpu, rate, times};
use super::{Arena, Plan, inspect};
use crate::harness::{Node, OVERLAY, User, reaches};
use futures::StreamExt;
use peerline::overlay::{LookupEvent, LookupReport};
use peerline::record::ValidBundle;
use peerline::uri::IdHash;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::{Duration, Instant};
use tokio::time::{timeout, timeout_at};

/// The newest record must be here by now (SECURITY §6.1).
pub const IN_TIME: Duration = Duration::from_secs(3);

/// A lookup's answer and its background sweep take no longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A user whose newest record is known, and who honestly holds it.
pub struct Known {
    pub id: IdHash,
    pub newest: ValidBundle,
    /// Peer ids of the honest nodes that hold the newest, its publisher aside.
    pub holders: HashSet<String>,
}

/// One lookup.
pub struct Trial {
    /// When the newest was there.
    pub newest: Option<Duration>,
    /// When anything valid was there.
    pub first: Option<Duration>,
    /// What is in hand after [`IN_TIME`] is valid and not the newest.
    pub stale: bool,
    pub report: Option<LookupReport>,
}

pub fn is_same(a: &ValidBundle, b: &ValidBundle) -> bool {
    a == b
}

/// Looks a user up and waits to the end of the sweep when `whole`, else until the newest is there.
pub async fn try_once(reader: &Node, user: &Known, whole: bool) -> Trial {
    let started = Instant::now();
    let mut events = reader.overlay.lookup(user.id);
    let mut trial = Trial { newest: None, first: None, stale: false, report: None };
    let mut in_hand_in_time = None;
    let end = tokio::time::Instant::from_std(started + if whole { PATIENCE } else { IN_TIME });
    while let Ok(Some(event)) = timeout_at(end, events.recv()).await {
        match event {
            LookupEvent::Found(bundle) => {
                let now = started.elapsed();
                trial.first.get_or_insert(now);
                let is_newest = is_same(&bundle, &user.newest);
                if now <= IN_TIME {
                    in_hand_in_time = Some(is_newest);
                }
                if is_newest {
                    trial.newest.get_or_insert(now);
                    if !whole {
                        break;
                    }
                }
            }
            LookupEvent::Done(report) => {
                trial.report = Some(report);
                break;
            }
        }
    }
    trial.newest = trial.newest.filter(|at| *at <= IN_TIME);
    trial.stale = in_hand_in_time == Some(false);
    trial
}

/// Publishes a first record of each user while liars still behave, so that they hold it, then attacks and publishes the
/// newest: both the publication and the lookups are under attack. `from`: how many nodes publish in turn.
pub async fn publish(arena: &Arena, users: usize, from: usize) -> (Vec<Known>, Value) {
    let (mut known, mut publishers) = (Vec::new(), Vec::new());
    let (mut took, mut copies, mut failed) = (Vec::new(), Vec::new(), 0);
    for publisher in arena.honest.iter().take(from) {
        arena.conspiracy.knows_publisher(peer_id(&publisher.secret.public()));
    }
    for n in 0..users {
        let publisher = &arena.honest[n % from.min(arena.honest.len())];
        let user = User::at(&publisher.secret);
        arena.conspiracy.arm(false);
        let own = peer_id(&publisher.secret.public()).to_string();
        let old = user.bundle();
        if publisher.overlay.publish(old).await.is_err() {
            failed += 1;
        }
        arena.conspiracy.attacks(&user.identity.id);
        arena.conspiracy.arm(true);
        let newest = user.later(1_000);
        let started = Instant::now();
        match publisher.overlay.publish(newest.clone()).await {
            Ok(report) => copies.push(report.copies),
            Err(_) => failed += 1,
        }
        took.push(started.elapsed());
        known.push(Known { id: user.identity.id, newest, holders: HashSet::new() });
        publishers.push(own);
    }
    inspect::holders(arena.plan.overlay, arena.conspiracy.honest(), &mut known, arena.place()).await;
    for (user, own) in known.iter_mut().zip(&publishers) {
        user.holders.remove(own);
    }
    let figures = json!({
        "published": rate(2 * users - failed, 2 * users), "took": times(&took),
        "copies_least": copies.iter().min(),
        "honest_holders_mean": known.iter().map(|user| user.holders.len()).sum::<usize>() / users.max(1),
    });
    (known, figures)
}

/// Counts trials as they come in.
#[derive(Default)]
pub struct Tally {
    found: usize,
    stale: usize,
    of: usize,
    times: Vec<Duration>,
    seen: usize,
    existing: usize,
    refused: usize,
    cpu: Duration,
    /// Of newcomers, their first lookups.
    first_found: usize,
    first: usize,
}

impl Tally {
    pub fn add(&mut self, user: &Known, trial: &Trial) {
        self.of += 1;
        self.found += usize::from(trial.newest.is_some());
        self.stale += usize::from(trial.stale);
        self.times.extend(trial.newest);
        if let Some(report) = &trial.report {
            self.seen += report.holders.iter().filter(|peer| user.holders.contains(*peer)).count();
            self.existing += user.holders.len();
            self.refused += report.refused.len();
        }
    }

    fn add_first(&mut self, is_first: bool, trial: &Trial) {
        self.first += usize::from(is_first);
        self.first_found += usize::from(is_first && trial.newest.is_some());
    }

    pub fn is_at_least(&self, percent: f64) -> bool {
        self.of > 0 && 100.0 * self.found as f64 >= percent * self.of as f64
    }

    pub fn failures(&self) -> usize {
        self.of - self.found
    }

    pub fn copies_percent(&self) -> f64 {
        100.0 * self.seen as f64 / self.existing.max(1) as f64
    }

    pub fn json(&self) -> Value {
        json!({
            "found_newest_in_3s": rate(self.found, self.of), "stale_in_hand_after_3s": self.stale,
            "took": times(&self.times),
            "copies_seen": { "seen": self.seen, "existing": self.existing,
                "percent": (self.copies_percent() * 10.0).round() / 10.0 },
            "first_of_newcomers": rate(self.first_found, self.first), "answers_refused": self.refused,
            "cpu_ms_all_nodes_each": (self.cpu.as_secs_f64() * 1e5 / self.of.max(1) as f64).round() / 100.0,
        })
    }
}

/// Readers that stay: each looks every user up in turn.
pub async fn look_up(readers: &[Node], users: &[Known], trials: usize, whole: bool) -> Tally {
    let mut tally = Tally::default();
    let before = cpu();
    for n in 0..trials {
        let user = &users[n % users.len()];
        let trial = try_once(&readers[n % readers.len()], user, whole).await;
        tally.add(user, &trial);
    }
    tally.cpu = cpu() - before;
    tally
}

async fn stand(arena: &Arena, count: usize) -> Vec<Node> {
    let known: Vec<String> = arena.honest.iter().take(3).map(|node| node.address.clone()).collect();
    let mut readers = Vec::new();
    for _ in 0..count {
        let reader = arena.reader(&known).await;
        // In touch with somebody: what a caller needs, and all that a lookup may count on.
        reaches(&reader.overlay, |status| status.estimate >= 2).await;
        readers.push(reader);
    }
    readers
}

fn head(name: &str, plan: &Plan, arena: &Arena) -> Value {
    json!({
        "cell": name, "nodes": plan.honest + plan.liars, "liars": plan.liars, "attack": attack_name(plan),
        "networks": format!("{:?}", plan.ground), "seed": plan.seed,
        "joining_s": arena.joining.0.as_secs_f64(), "joining_cpu_s": arena.joining.1.as_secs_f64(), "estimates": arena.estimates,
    })
}

fn attack_name(plan: &Plan) -> &'static str {
    if plan.liars == 0 { "none" } else { plan.attack.name() }
}

fn with(mut head: Value, more: Value) -> Value {
    if let (Value::Object(head), Value::Object(more)) = (&mut head, more) {
        head.extend(more);
    }
    head
}

/// A share of the nodes lie: users published and looked up under attack.
pub async fn liars_among(plan: Plan, users: usize, trials: usize, readers: Readers) -> (Value, Tally) {
    let arena = Arena::build(plan).await;
    let (known, published) = publish(&arena, users, 10).await;
    let (tally, waited) = match readers {
        Readers::Stay(count) => {
            let readers = stand(&arena, count).await;
            (look_up(&readers, &known, trials, true).await, Vec::new())
        }
        Readers::New { at_once, each } => {
            newcomers(&arena, &known, trials, (at_once, each), |n| contacts(&arena, n, 3)).await
        }
    };
    let (asked, lies) = counts(&arena);
    let figures = json!({
        "readers": format!("{readers:?}"), "publications": published, "lookups": tally.json(),
        "newcomer_up": times(&waited), "liars_asked": asked, "lies": lies,
    });
    (with(head("liars among the nodes", &plan, &arena), figures), tally)
}

/// Who looks up.
#[derive(Clone, Copy, Debug)]
pub enum Readers {
    /// These look users up in turn, and have a table by then.
    Stay(usize),
    /// Nodes that start, know three addresses and nothing else, and look `each` users up, the first at once.
    New { at_once: usize, each: usize },
}

/// So many honest nodes, others for each trial.
fn contacts(arena: &Arena, n: usize, count: usize) -> Vec<String> {
    (0..count).map(|k| arena.honest[(n * 13 + k * 37) % arena.honest.len()].address.clone()).collect()
}

/// Newcomers, some at once, each for some trials; it has a second to be in touch with its three contacts. Also: how long
/// that took.
async fn newcomers(
    arena: &Arena,
    users: &[Known],
    trials: usize,
    (at_once, each): (usize, usize),
    contacts: impl Fn(usize) -> Vec<String>,
) -> (Tally, Vec<Duration>) {
    let before = cpu();
    let (contacts, each) = (&contacts, each.max(1));
    let one = |n: usize| async move {
        let started = Instant::now();
        let reader = arena.reader(&contacts(n)).await;
        let mut status = reader.overlay.status();
        let _ = timeout(Duration::from_secs(1), status.wait_for(|status| status.peers >= 3)).await;
        let waited = started.elapsed();
        let mut tried = Vec::new();
        for k in (n * each..trials.min((n + 1) * each)).map(|k| k % users.len()) {
            tried.push((&users[k], try_once(&reader, &users[k], true).await));
        }
        reader.overlay.shutdown().await;
        (tried, waited)
    };
    let mut ended = futures::stream::iter(0..trials.div_ceil(each)).map(one).buffer_unordered(at_once.max(1));
    let (mut tally, mut all_waited) = (Tally::default(), Vec::new());
    while let Some((tried, waited)) = ended.next().await {
        for (n, (user, trial)) in tried.iter().enumerate() {
            tally.add(user, trial);
            tally.add_first(n == 0, trial);
        }
        all_waited.push(waited);
    }
    tally.cpu = cpu() - before;
    (tally, all_waited)
}

pub(super) fn counts(arena: &Arena) -> (u64, u64) {
    use std::sync::atomic::Ordering::Relaxed;
    (arena.conspiracy.asked.load(Relaxed), arena.conspiracy.lies.load(Relaxed))
}

/// One liar, and a newcomer for each trial who knows it and two honest nodes, and looks up at once.
pub async fn one_liar_first(plan: Plan, users: usize, trials: usize, at_once: usize) -> (Value, Tally) {
    let arena = Arena::build(plan).await;
    let (known, published) = publish(&arena, users, 10).await;
    let first = |n| [vec![arena.liars[0].address.clone()], contacts(&arena, n, 2)].concat();
    let (tally, waited) = newcomers(&arena, &known, trials, (at_once, 1), first).await;
    let (asked, lies) = counts(&arena);
    let figures = json!({
        "publications": published, "lookups": tally.json(), "newcomer_up": times(&waited),
        "liars_asked": asked, "lies": lies,
    });
    (with(head("one liar among three first contacts", &plan, &arena), figures), tally)
}

/// All alive, then the mortal ones are killed in one moment.
pub async fn killed_at_once(plan: Plan, users: usize, trials: usize, at_once: usize) -> (Value, Tally) {
    let mut arena = Arena::build(plan).await;
    let readers = stand(&arena, 5).await;
    let (known, published) = publish(&arena, users, 10).await;
    let alive = look_up(&readers, &known, trials / 5, false).await;
    arena.kill();
    let tally = look_up(&readers, &known, trials / 2, false).await;
    let bootstrap = |n| contacts(&arena, n, 3);
    let (new, waited) = newcomers(&arena, &known, trials / 2, (at_once, 1), bootstrap).await;
    let figures = json!({
        "publications": published, "killed": plan.mortal, "before": alive.json(), "lookups": tally.json(),
        "newcomers": new.json(), "newcomer_up": times(&waited),
    });
    (with(head("killed at once", &plan, &arena), figures), tally)
}

/// No attack.
pub async fn peaceful(plan: Plan, users: usize, trials: usize) -> (Value, Tally) {
    let arena = Arena::build(plan).await;
    let readers = stand(&arena, 5).await;
    let (known, published) = publish(&arena, users, 10).await;
    let first = look_up(&readers, &known, trials, false).await;
    let whole = look_up(&readers, &known, trials / 4 + 1, true).await;
    let figures = json!({ "publications": published, "lookups": first.json(), "with_whole_sweep": whole.json() });
    (with(head("no attack", &plan, &arena), figures), first)
}

impl Plan {
    pub fn honest(count: usize, seed: u64) -> Self {
        Plan {
            honest: count,
            liars: 0,
            mortal: 0,
            attack: Attack::Drop,
            ground: super::Ground::Spread,
            overlay: OVERLAY,
            seed,
        }
    }
}
