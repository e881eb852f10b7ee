//! A cell of the table: so many trials of one strategy under one attack, and what came of them.

use super::kad::{self, Flavour};
use super::known::Known;
use super::ours::{self, Cost, LONG, PATIENCE, Seen};
use super::rng::hash;
use super::scene::{Attack, Phase, Scene, Setting};
use super::stats::{percentile, wilson};
use super::user::Which;
use super::world::{Plan, World};
use peerline::dht::WalkConfig;
use serde_json::{Value, json};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Strategy {
    /// libp2p-kad 0.49 as it is.
    Kad,
    /// The same with eight disjoint paths.
    KadDisjoint,
    /// Eight paths with contacts dealt out, kad's two worst faults mended.
    Skademlia,
    Peerline,
}

impl Strategy {
    pub const ALL: [Strategy; 4] = [Strategy::Kad, Strategy::KadDisjoint, Strategy::Skademlia, Strategy::Peerline];

    pub fn name(self) -> &'static str {
        match self {
            Strategy::Kad => "kad",
            Strategy::KadDisjoint => "kad-disjoint",
            Strategy::Skademlia => "skademlia",
            Strategy::Peerline => "peerline",
        }
    }

    fn flavour(self) -> Option<Flavour> {
        match self {
            Strategy::Kad => Some(Flavour::Plain),
            Strategy::KadDisjoint => Some(Flavour::Disjoint),
            Strategy::Skademlia => Some(Flavour::SKademlia),
            Strategy::Peerline => None,
        }
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Cell {
    pub plan: Plan,
    pub setting: Setting,
    pub strategy: Strategy,
    pub config: WalkConfig,
    pub trials: usize,
    /// Trials that tell which attacks are the worst.
    pub screen: usize,
    /// Trials that share a world: its tables are built once.
    pub per_world: usize,
    pub seed: u64,
    pub threads: usize,
}

/// One trial.
#[derive(Clone, Debug, Default)]
pub struct Trial {
    pub number: usize,
    /// The user's clock is wrong.
    pub skewed: bool,
    /// The publisher was told that it went well.
    pub good: bool,
    /// Copies at honest servers, after churn.
    pub copies: usize,
    pub publish: Cost,
    pub seen: Seen,
}

impl Trial {
    pub fn newest_within(&self, limit: Duration) -> bool {
        self.seen.newest.is_some_and(|at| at <= limit)
    }
}

/// One publication and one lookup in a scene.
pub fn trial(scene: &mut Scene<'_>, strategy: Strategy, config: &WalkConfig, salt: u64) -> Trial {
    let base = Instant::now();
    scene.place_old(strategy.flavour().map(|_| 20));
    scene.phase = Phase::Publish;
    let (good, publish) = match strategy.flavour() {
        Some(flavour) => kad::publish(scene, flavour),
        None => ours::publish(scene, config, hash(&[salt, 30]), base),
    };
    scene.churn();
    scene.phase = Phase::Lookup;
    let copies = scene.copies();
    let seen = match strategy.flavour() {
        Some(flavour) => kad::lookup(scene, flavour),
        None => ours::lookup(scene, config, hash(&[salt, 31]), base),
    };
    Trial { number: 0, skewed: scene.user.skew != 0, good, copies, publish, seen }
}

impl Cell {
    /// All of `attacks` with `screen` trials, then the two worst of them with all. The worst first.
    pub fn worst(&self, attacks: &[Attack]) -> Vec<Summary> {
        if attacks.len() < 3 {
            return sorted(self.run(attacks));
        }
        let screen = Cell { trials: self.screen.min(self.trials), ..self.clone() };
        let screened = sorted(screen.run(attacks));
        let worst: Vec<Attack> = screened.iter().take(2).map(|summary| summary.attack).collect();
        let mut all = sorted(self.run(&worst));
        all.extend(screened.into_iter().skip(2));
        all
    }

    /// All trials under each of `attacks`, in the same worlds with the same seeds.
    pub fn run(&self, attacks: &[Attack]) -> Vec<Summary> {
        let blocks = self.trials.div_ceil(self.per_world);
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<Vec<Trial>>> = Mutex::new(vec![Vec::new(); attacks.len()]);
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(|| {
                    loop {
                        let block = next.fetch_add(1, Ordering::Relaxed);
                        if block >= blocks {
                            break;
                        }
                        let results = self.block(block, attacks);
                        let mut done = done.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                        for (all, new) in done.iter_mut().zip(results) {
                            all.extend(new);
                        }
                    }
                });
            }
        });
        let done = done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        let sum = |(attack, mut trials): (&Attack, Vec<Trial>)| {
            trials.sort_by_key(|trial| trial.number);
            Summary { attack: *attack, trials }
        };
        attacks.iter().zip(done).map(sum).collect()
    }

    fn block(&self, block: usize, attacks: &[Attack]) -> Vec<Vec<Trial>> {
        let world = World::new(&self.plan, hash(&[self.seed, block as u64]));
        let mut known = Known::default();
        let numbers = block * self.per_world..((block + 1) * self.per_world).min(self.trials);
        let mut results = vec![Vec::new(); attacks.len()];
        for number in numbers {
            for (attack, results) in attacks.iter().zip(&mut results) {
                let setting = Setting { attack: *attack, ..self.setting.clone() };
                let salt = hash(&[self.seed, 1_000_000 + number as u64]);
                let mut scene = Scene::new(&world, &mut known, &setting, salt);
                let trial = trial(&mut scene, self.strategy, &self.config, salt);
                results.push(Trial { number, ..trial });
            }
        }
        results
    }
}

/// The worst first; of equal ones the slowest.
fn sorted(mut summaries: Vec<Summary>) -> Vec<Summary> {
    let slow = |summary: &Summary| summary.trials.iter().filter_map(|t| t.seen.newest).sum::<Duration>();
    summaries.sort_by(|a, b| a.rate().total_cmp(&b.rate()).then(slow(b).cmp(&slow(a))));
    summaries
}

/// What trials under one attack say.
#[derive(Clone, Debug)]
pub struct Summary {
    pub attack: Attack,
    pub trials: Vec<Trial>,
}

impl Summary {
    pub fn successes(&self) -> usize {
        self.trials.iter().filter(|trial| trial.newest_within(PATIENCE)).count()
    }

    pub fn rate(&self) -> f64 {
        self.successes() as f64 / self.trials.len().max(1) as f64
    }

    pub fn json(&self) -> Value {
        let (n, k) = (self.trials.len(), self.successes());
        let count = |test: &dyn Fn(&Trial) -> bool| self.trials.iter().filter(|trial| test(trial)).count();
        let mean = |of: &dyn Fn(&Trial) -> f64| self.trials.iter().map(of).sum::<f64>() / n.max(1) as f64;
        let mut times: Vec<f64> =
            self.trials.iter().filter_map(|t| t.seen.newest).map(|at| at.as_secs_f64() * 1_000.0).collect();
        // Who never found it took for ever.
        times.resize(n, f64::INFINITY);
        times.sort_by(f64::total_cmp);
        let ms = |q: f64| Some(percentile(&times, q)).filter(|at| at.is_finite()).map(f64::round);
        let round = |x: f64| (x * 10.0).round() / 10.0;
        let failed: Vec<usize> =
            self.trials.iter().filter(|t| !t.newest_within(PATIENCE)).map(|t| t.number).take(20).collect();
        json!({
            "attack": self.attack.name(),
            "trials": n,
            "failures": n - k,
            "success": self.rate(),
            "interval_95": wilson(k, n),
            "within_10_s": count(&|t| t.newest_within(LONG)),
            "stale_accepted": count(&|t| t.seen.after_3 == Some(Which::Old)),
            "stale_accepted_10_s": count(&|t| t.seen.after_10 == Some(Which::Old)),
            "wrong_identity": count(&|t| t.seen.after_10 == Some(Which::Forged)),
            "publisher_told_good": count(&|t| t.good),
            "honest_copies": round(mean(&|t| t.copies as f64)),
            "copies_seen": round(mean(&|t| t.seen.copies as f64)),
            "newest_ms": { "p50": ms(0.5), "p90": ms(0.9), "p99": ms(0.99), "p999": ms(0.999) },
            "lookup": cost(&self.trials, &|t| &t.seen.cost),
            "publish": cost(&self.trials, &|t| &t.publish),
            "failed_trials": failed,
        })
    }
}

fn cost(trials: &[Trial], of: &dyn Fn(&Trial) -> &Cost) -> Value {
    let n = trials.len().max(1) as f64;
    let mean =
        |what: &dyn Fn(&Cost) -> f64| (trials.iter().map(|t| what(of(t))).sum::<f64>() / n * 10.0).round() / 10.0;
    let mut took: Vec<f64> = trials.iter().map(|t| of(t).took.as_secs_f64() * 1_000.0).collect();
    took.sort_by(f64::total_cmp);
    json!({
        "messages": mean(&|c| c.requests as f64),
        "dials": mean(&|c| c.dials as f64),
        "bytes": mean(&|c| c.bytes as f64).round(),
        "engine_cpu_us": mean(&|c| c.cpu.as_secs_f64() * 1e6).round(),
        "over_after_ms_p50": percentile(&took, 0.5).round(),
    })
}
