//! What single rules are worth: the same trials with one of them taken away. Only what a walk can be told to do without
//! is here; rules that are woven into the engine (a failure belongs to a card, a later card is tried at once, credit of
//! those who name) have no switch, and so no figure.

use super::cell::{Cell, Summary};
use super::scene::{Attack, Setting};
use super::world::{Cluster, Plan};
use peerline::dht::WalkConfig;
use serde_json::{Value, json};

/// A rule, and how to do without it.
type Without = (&'static str, fn(&mut Cell));

const RULES: [Without; 8] = [
    ("all rules", |_| {}),
    ("all eight paths at once", |cell| cell.config.first = cell.config.paths),
    ("four paths at most", |cell| cell.config.paths = 4),
    ("one path", |cell| cell.config = WalkConfig { paths: 1, first: 1, ..cell.config.clone() }),
    ("a sweep of 20 at most, no alarm", |cell| {
        cell.config = WalkConfig { quota: 20, alarm_quota: 20, ..cell.config.clone() };
    }),
    ("no deeper sweep in a crowd", |cell| cell.config.alarm_quota = cell.config.quota),
    ("two regions", |cell| cell.setting.regions = 2),
    ("one region", |cell| cell.setting.regions = 1),
];

/// `cell.trials` trials with 30 and with 50 % hostile, a quarter of them with chosen ids.
pub fn run(cell: &Cell) -> Value {
    let rows = RULES.iter().map(|(name, without)| {
        let each = stages(cell).into_iter().map(|(stage, mut cell, attacks)| {
            without(&mut cell);
            cell.config.first = cell.config.first.min(cell.config.paths);
            let summaries = cell.run(&attacks);
            let worst = summaries.iter().min_by(|a, b| a.rate().total_cmp(&b.rate())).map(Summary::json);
            let all: Vec<Value> = summaries.iter().map(Summary::json).collect();
            json!({ "stage": stage, "worst": worst, "attacks": all })
        });
        json!({ "without": name, "stages": each.collect::<Vec<_>>() })
    });
    json!({ "goal": "what each rule is worth, the same trials without it", "rows": rows.collect::<Vec<_>>() })
}

fn stages(cell: &Cell) -> [(&'static str, Cell, Vec<Attack>); 3] {
    let random = |hostile: f64| Cell { plan: Plan { hostile, ..cell.plan.clone() }, ..cell.clone() };
    let cluster = Cluster { per_key: 200, keys: 4, subnets: 0, spread: 1.0, per_wide: 4, early: true };
    let chosen = Cell {
        setting: Setting { cluster: Some(cluster), ..cell.setting.clone() },
        trials: cell.trials.div_ceil(4),
        ..cell.clone()
    };
    let attacks = vec![Attack::Drop, Attack::Stale, Attack::AddressPoison];
    [
        ("30 % hostile", random(0.3), attacks.clone()),
        ("50 % hostile", random(0.5), attacks),
        ("200 chosen ids for each key, early", chosen, vec![Attack::Stale]),
    ]
}
