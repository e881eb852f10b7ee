//! E4: a node joins under attack, and looks people up afterwards. The product's own `dht::Joining`, walks and table; liars
//! are a fifth of the servers, name each other alone, and are among the sources that the newcomer was given; or they flood
//! it with visitors, before or across a restart; or they are all that it can reach.
//!
//! What counts as eclipsed is what matters: whether the newcomer finds people. A look around is taken to last no time.

use super::cell::Cell;
use super::known::Known;
use super::newcomer::Newcomer;
use super::ours;
use super::rng::{Rng, hash};
use super::scene::{Attack, Phase, Scene, Setting};
use super::stats::{percentile, wilson};
use super::world::{Kind, Plan, World};
use peerline::dht::{Source, Standing};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Share of liars.
const HOSTILE: f64 = 0.2;

/// Ids of a flood.
const FLOOD: usize = 10_000;

/// Lookups of one newcomer.
const LOOKUPS: usize = 10;

/// Within this it is to be noticed that a node sees nobody but liars.
const TEN_MINUTES: Duration = Duration::from_secs(600);

/// What the newcomer is given.
#[derive(Clone, Copy, Debug)]
struct Given {
    poisoned: usize,
    honest: usize,
    source: Source,
    /// /16s of a flood; 0: none.
    wides: u32,
    /// It ran for hours, was flooded, and starts again with its cache.
    restart: bool,
}

/// What came of one newcomer's lookups.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    found: usize,
    /// Of another caller in the same world, who was not attacked.
    others: usize,
    lookups: usize,
}

pub fn run(cell: &Cell) -> Value {
    let runs = (cell.trials / (LOOKUPS * 10)).clamp(1, 40);
    let world =
        World::new(&Plan { nodes: cell.plan.nodes.min(5_000), hostile: HOSTILE, ..cell.plan.clone() }, cell.seed);
    let setting = Setting { attack: Attack::Stale, ..cell.setting.clone() };
    let mut known = Known::default();
    let mut cases = Vec::new();
    for (source, honest) in [(Source::Anchor, 1), (Source::Bootstrap, 3)] {
        for poisoned in 0..=8 {
            cases.push(Given { poisoned, honest, source, wides: 0, restart: false });
        }
        for wides in [1, 16, 256] {
            cases.push(Given { poisoned: 8, honest, source, wides, restart: false });
        }
    }
    for wides in [1, 16, 256] {
        cases.push(Given { poisoned: 0, honest: 3, source: Source::Bootstrap, wides, restart: true });
    }
    let mut rows = Vec::new();
    for (number, given) in cases.iter().enumerate() {
        let mut stage = Stage { world: &world, setting: &setting, known: &mut known, cell };
        let all: Vec<(Found, f64, Standing)> =
            (0..runs).map(|run| stage.joins(given, hash(&[cell.seed, 60, number as u64, run as u64]))).collect();
        rows.push(row(given, &all));
    }
    let mut stage = Stage { world: &world, setting: &setting, known: &mut known, cell };
    json!({
        "goal": "no eclipse with one honest anchor or three honest sources; isolation seen within ten minutes in 100 %",
        "nodes": world.plan.nodes,
        "hostile": HOSTILE,
        "rows": rows,
        "isolated": stage.isolated(runs.max(5)),
        "calm": calm(cell, &setting, runs.max(5)),
    })
}

/// Nobody lies: how often it is told that it may be isolated all the same, at a first start and after a restart.
fn calm(cell: &Cell, setting: &Setting, runs: usize) -> Value {
    let plan = Plan { nodes: cell.plan.nodes.min(5_000), hostile: 0.0, ..cell.plan.clone() };
    let world = World::new(&plan, hash(&[cell.seed, 62]));
    let setting = Setting { attack: Attack::None, ..setting.clone() };
    let mut known = Known::default();
    let mut stage = Stage { world: &world, setting: &setting, known: &mut known, cell };
    let rows = [1, 3].into_iter().flat_map(|honest| [false, true].map(|restart| (honest, restart)));
    let rows: Vec<Value> = rows
        .map(|(honest, restart)| {
            let given = Given { poisoned: 0, honest, source: Source::Bootstrap, wides: 0, restart };
            let salt = |run: usize| hash(&[cell.seed, 63, honest as u64, u64::from(restart), run as u64]);
            let all: Vec<(Found, f64, Standing)> = (0..runs).map(|run| stage.joins(&given, salt(run))).collect();
            row(&given, &all)
        })
        .collect();
    rows.into()
}

fn row(given: &Given, all: &[(Found, f64, Standing)]) -> Value {
    let sum = |of: fn(&Found) -> usize| all.iter().map(|(found, ..)| of(found)).sum::<usize>();
    let (found, others, lookups) = (sum(|f| f.found), sum(|f| f.others), sum(|f| f.lookups));
    let eclipsed = all.iter().filter(|(found, ..)| found.found * 2 < found.lookups).count();
    let mut honest: Vec<f64> = all.iter().map(|(_, share, _)| *share).collect();
    honest.sort_by(f64::total_cmp);
    let doubted = all.iter().filter(|(.., standing)| matches!(standing, Standing::PossiblyIsolated(_))).count();
    json!({
        "poisoned": given.poisoned,
        "honest": given.honest,
        "source": format!("{:?}", given.source),
        "flood_wides": given.wides,
        "restart": given.restart,
        "newcomers": all.len(),
        "eclipsed": eclipsed,
        "lookups": lookups,
        "found": found,
        "interval_95": wilson(found, lookups),
        "found_by_others": others,
        "honest_in_table_least": honest.first(),
        "honest_in_table_p50": percentile(&honest, 0.5),
        "told_possibly_isolated": doubted,
    })
}

struct Stage<'a, 'b> {
    world: &'a World,
    setting: &'a Setting,
    known: &'b mut Known,
    cell: &'a Cell,
}

impl Stage<'_, '_> {
    /// One newcomer joins with what it is given, then looks people up; and so does somebody who was there before.
    fn joins(&mut self, given: &Given, salt: u64) -> (Found, f64, Standing) {
        let mut rng = Rng::of(&[salt, 1]);
        let mut some = |kind: Kind| loop {
            let id = rng.below(self.world.nodes.len());
            if self.world.nodes[id].kind == kind {
                return id as u32;
            }
        };
        let caller = some(Kind::Honest);
        let poisoned: Vec<u32> = (0..given.poisoned).map(|_| some(Kind::Hostile)).collect();
        let honest: Vec<u32> = (0..given.honest).map(|_| some(Kind::Honest)).collect();
        let mut scene = Scene::new(self.world, self.known, self.setting, salt);
        scene.caller = caller;
        scene.phase = Phase::Lookup;
        let mut newcomer = Newcomer::new(&scene, caller, salt);
        // Poison comes by the same kind of source as what is honest, or, with an anchor, by those that come after it.
        let kind = if given.source == Source::Anchor { Source::Tried } else { given.source };
        for id in &poisoned {
            newcomer.lead(&scene, *id, kind);
        }
        for id in &honest {
            newcomer.lead(&scene, *id, given.source);
        }
        if given.restart {
            newcomer.run(&mut scene, Duration::from_secs(3_600));
        }
        if given.wides > 0 {
            newcomer.flood(&mut scene, FLOOD, given.wides, salt);
        }
        if given.restart {
            newcomer.run(&mut scene, Duration::from_secs(3 * 3_600));
            newcomer = newcomer.restarted(&scene, salt);
        }
        newcomer.run(&mut scene, TEN_MINUTES);
        let share = newcomer.honest_share(&scene);
        let standing = newcomer.standing();
        let (flood, table) = (scene.flood, newcomer.table);
        let mut found = Found::default();
        for lookup in 0..LOOKUPS as u64 {
            let salt = hash(&[salt, 2, lookup]);
            let config = &self.cell.config;
            let looks = |caller: Option<u32>, known: &mut Known, flood| {
                let mut scene = Scene::new(self.world, known, self.setting, salt);
                scene.flood = flood;
                scene.caller = caller.unwrap_or(scene.caller);
                scene.place_old(None);
                scene.place_new();
                scene.churn();
                scene.phase = Phase::Lookup;
                let seen = ours::lookup(&mut scene, config, salt, Instant::now());
                seen.newest.is_some_and(|at| at <= ours::PATIENCE)
            };
            let before = self.known.put(caller, Some(table.clone().into()));
            found.found += usize::from(looks(Some(caller), self.known, flood.clone()));
            self.known.put(caller, before);
            found.others += usize::from(looks(None, self.known, Vec::new()));
            found.lookups += 1;
        }
        (found, share, standing)
    }

    /// Every source is a liar: after how long, by what it remembers, the newcomer is told.
    fn isolated(&mut self, runs: usize) -> Value {
        let mut rows = Vec::new();
        for remembers in ["nothing", "size", "contacts", "both"] {
            for sources in [1, 2, 3, 8] {
                let mut unconfirmed = 0;
                let (mut told, mut times, mut confirmed, mut words) = (0, Vec::new(), Vec::new(), String::new());
                for run in 0..runs as u64 {
                    let salt = hash(&[self.cell.seed, 61, sources as u64, run]);
                    let mut rng = Rng::of(&[salt, 1]);
                    let caller = self.world.honest(&mut rng);
                    // They hide who is there. Who shows the true records instead is not noticed, and takes nobody away.
                    let setting = Setting { attack: Attack::Misroute, ..self.setting.clone() };
                    let mut scene = Scene::new(self.world, self.known, &setting, salt);
                    scene.caller = caller;
                    scene.place_new();
                    scene.phase = Phase::Lookup;
                    let mut newcomer = Newcomer::new(&scene, caller, salt);
                    if matches!(remembers, "size" | "both") {
                        newcomer.remember_size(self.world.plan.nodes as f64);
                    }
                    newcomer.remembers_contacts = matches!(remembers, "contacts" | "both");
                    let mut added = 0;
                    while added < sources {
                        let id = rng.below(self.world.nodes.len());
                        if self.world.nodes[id].kind == Kind::Hostile {
                            newcomer.lead(&scene, id as u32, Source::Bootstrap);
                            added += 1;
                        }
                    }
                    let at = newcomer.run_until_told(&mut scene, TEN_MINUTES);
                    told += usize::from(at.is_some());
                    times.extend(at.map(|at| at.as_secs_f64()));
                    unconfirmed += usize::from(newcomer.joining.confirmed_by() < 3);
                    confirmed.push(newcomer.joining.confirmed_by() as f64);
                    words = newcomer.joining.words(1);
                }
                times.sort_by(f64::total_cmp);
                confirmed.sort_by(f64::total_cmp);
                rows.push(json!({
                    "remembers": remembers, "poisoned": sources, "newcomers": runs, "told": told,
                    "interval_95": wilson(told, runs), "seconds_p50": percentile(&times, 0.5).round(),
                    "seconds_most": times.last().map(|at| at.round()),
                    "told_unconfirmed": unconfirmed, "networks_that_agree_p50": percentile(&confirmed, 0.5), "words": words,
                }));
            }
        }
        rows.into()
    }
}
