//! Experiments beside the table: churn (E14), partition and wrong clocks (E15), the ledger (E9), a node at rest.

use super::cell::{Cell, Summary, trial};
use super::known::Known;
use super::ours;
use super::rng::{Rng, hash};
use super::scene::{Attack, Phase, Scene, Setting};
use super::stats::{percentile, wilson};
use super::world::{Kind, NOW, Plan, World, id_of};
use peerline::clock::UnixMillis;
use peerline::dht::{Pace, Position, WalkConfig};
use peerline::identity::NodeKey;
use peerline::ledger::Ledger;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

pub fn run(name: &str, cell: &Cell, commit: &str) -> anyhow::Result<Value> {
    let began = Instant::now();
    let mut value = match name {
        "churn" => churn(cell),
        "partition" => partition(cell),
        "clock" => clock(cell),
        "ledger" => ledger(cell),
        "rest" => rest(cell),
        "e4" => super::e4::run(cell),
        "ablations" => super::ablations::run(cell),
        _ => anyhow::bail!("no experiment '{name}': there are churn, partition, clock, ledger, rest, e4, ablations"),
    };
    value["experiment"] = name.into();
    value["commit"] = commit.into();
    value["seed"] = cell.seed.into();
    value["seconds"] = began.elapsed().as_secs_f64().round().into();
    Ok(value)
}

/// Entries of a table are probed each hour: with exponential sessions of this median so many are dead.
fn dead_by(session: Duration) -> f64 {
    let halves = 3_600.0 / session.as_secs_f64();
    1.0 - (1.0 - 0.5_f64.powf(halves)) / (halves * std::f64::consts::LN_2)
}

/// Servers stay 30 minutes in the middle; 20 % are hostile and never leave.
fn churn(cell: &Cell) -> Value {
    let session = Duration::from_secs(1_800);
    let dead = dead_by(session);
    let cell = Cell {
        plan: Plan { hostile: 0.2, dead, ..cell.plan.clone() },
        setting: Setting { session: Some(session), ..cell.setting.clone() },
        ..cell.clone()
    };
    let attacks = [Attack::Drop, Attack::Stale, Attack::Ghosts, Attack::AddressPoison];
    let summaries = cell.worst(&attacks);
    json!({
        "goal": "99.5 % with sessions of 30 minutes in the middle and 20 % hostile",
        "dead": dead,
        "worst": summaries.first().map(Summary::json),
        "attacks": summaries.iter().map(Summary::json).collect::<Vec<_>>(),
    })
}

/// Published in one half; the halves meet; a caller of the other half asks at once, before any repair.
fn partition(cell: &Cell) -> Value {
    let cell = Cell {
        plan: Plan { hostile: 0.2, ..cell.plan.clone() },
        setting: Setting { partition: true, ..cell.setting.clone() },
        ..cell.clone()
    };
    let summaries = cell.worst(&[Attack::Stale, Attack::Drop]);
    json!({
        "goal": "the newest record right after two halves meet, 20 % hostile",
        "worst": summaries.first().map(Summary::json),
        "attacks": summaries.iter().map(Summary::json).collect::<Vec<_>>(),
    })
}

/// One user in twenty has a clock that is an hour off, either way.
fn clock(cell: &Cell) -> Value {
    let cell = Cell {
        plan: Plan { hostile: 0.2, ..cell.plan.clone() },
        setting: Setting { skewed: 0.05, ..cell.setting.clone() },
        ..cell.clone()
    };
    let group = |summary: &Summary, skewed: bool| {
        let trials: Vec<_> = summary.trials.iter().filter(|t| t.skewed == skewed).collect();
        let found = trials.iter().filter(|t| t.newest_within(ours::PATIENCE)).count();
        json!({
            "trials": trials.len(),
            "found": found,
            "interval_95": wilson(found, trials.len()),
            "told_good": trials.iter().filter(|t| t.good).count(),
            "told_good_without_a_copy": trials.iter().filter(|t| t.good && t.copies == 0).count(),
        })
    };
    let summaries = cell.run(&[Attack::None, Attack::Stale]);
    let each = summaries
        .iter()
        .map(|s| json!({ "attack": s.attack.name(), "right_clock": group(s, false), "wrong_clock": group(s, true) }));
    json!({
        "goal": "others unaffected; a user with a wrong clock is never told that the record is kept by honest servers",
        "attacks": each.collect::<Vec<_>>(),
    })
}

/// The same caller looks up 200 users among 30 % that never answer, with and without a memory; and late servers in
/// honest answers.
fn ledger(cell: &Cell) -> Value {
    const LOOKUPS: usize = 200;
    let plan = Plan { hostile: 0.3, ..cell.plan.clone() };
    let setting = Setting { attack: Attack::Drop, ..cell.setting.clone() };
    let worlds = cell.trials.div_ceil(LOOKUPS).clamp(1, 5);
    let mut rows = Vec::new();
    for paths in [1, cell.config.paths] {
        let config = peerline::dht::WalkConfig { paths, ..cell.config.clone() };
        for with in [false, true] {
            let (mut early, mut late) = (Vec::new(), Vec::new());
            let (mut false_bans, mut shunned_hostile, mut avoided_honest, mut avoided_hostile) = (0, 0, 0, 0);
            for number in 0..worlds {
                let world = World::new(&plan, hash(&[cell.seed, 40, number as u64]));
                let mut known = Known::default();
                let mut memory: Ledger<NodeKey> = Ledger::default();
                let caller = world.honest(&mut Rng::of(&[cell.seed, 41, number as u64]));
                let base = Instant::now();
                for lookup in 0..LOOKUPS {
                    let salt = hash(&[cell.seed, 42, number as u64, lookup as u64]);
                    let mut scene = Scene::new(&world, &mut known, &setting, salt);
                    scene.caller = caller;
                    scene.place_new();
                    scene.churn();
                    scene.phase = Phase::Lookup;
                    // One lookup in six minutes.
                    let now = base + Duration::from_secs(360 * lookup as u64);
                    let seen = ours::lookup_with(&mut scene, &config, salt, now, with.then_some(&mut memory));
                    if lookup < LOOKUPS / 4 {
                        early.push(seen);
                    } else if lookup >= 3 * LOOKUPS / 4 {
                        late.push(seen);
                    }
                }
                let end = base + Duration::from_secs(360 * LOOKUPS as u64);
                for node in &world.nodes {
                    let hostile = node.kind == Kind::Hostile;
                    let honest = node.kind == Kind::Honest;
                    let (shuns, avoids) = (memory.shuns(&node.card.node, end), memory.avoids(&node.card.node, end));
                    false_bans += usize::from(shuns && honest);
                    shunned_hostile += usize::from(shuns && hostile);
                    avoided_honest += usize::from(avoids && honest);
                    avoided_hostile += usize::from(avoids && hostile);
                }
            }
            let quarter = |seen: &[ours::Seen]| {
                let found = seen.iter().filter(|s| s.newest.is_some_and(|at| at <= ours::PATIENCE)).count();
                let mut times: Vec<f64> =
                    seen.iter().filter_map(|s| s.newest).map(|at| at.as_secs_f64() * 1e3).collect();
                times.sort_by(f64::total_cmp);
                let messages = seen.iter().map(|s| s.cost.requests).sum::<usize>() as f64 / seen.len() as f64;
                json!({
                    "lookups": seen.len(), "found": found, "interval_95": wilson(found, seen.len()),
                    "p50_ms": percentile(&times, 0.5).round(), "p99_ms": percentile(&times, 0.99).round(),
                    "messages": messages.round(),
                })
            };
            rows.push(json!({
                "paths": paths, "ledger": with,
                "first_quarter": quarter(&early), "last_quarter": quarter(&late),
                "honest_shunned": false_bans, "hostile_shunned": shunned_hostile,
                "honest_asked_last": avoided_honest, "hostile_asked_last": avoided_hostile,
            }));
        }
    }
    json!({
        "goal": "lookups get better with memory, no honest server is shunned; newcomers fill at most half of an answer",
        "rows": rows,
        "newcomers_in_answers": newcomers(cell),
    })
}

/// Half of the servers came within six hours: their part of what honest servers answer.
fn newcomers(cell: &Cell) -> Value {
    let world = World::new(&Plan { hostile: 0.5, early: false, ..cell.plan.clone() }, cell.seed);
    let mut known = Known::default();
    let setting = Setting { attack: Attack::Misroute, ..cell.setting.clone() };
    let mut shares = Vec::new();
    for number in 0..500 {
        let mut scene = Scene::new(&world, &mut known, &setting, hash(&[cell.seed, 43, number]));
        let caller = scene.caller;
        let target = scene.targets[0];
        let answer = scene.table(caller).answer(&target, NOW);
        let late = answer.iter().filter(|card| world.nodes[id_of(&card.node) as usize].kind == Kind::Hostile).count();
        shares.push(late as f64 / answer.len().max(1) as f64);
    }
    shares.sort_by(f64::total_cmp);
    json!({
        "answers": shares.len(),
        "share_mean": shares.iter().sum::<f64>() / shares.len() as f64,
        "share_p99": percentile(&shares, 0.99),
        "share_most": shares.last(),
    })
}

/// What a node's schedule costs when nobody calls, at 10^5 servers: how often its table has peers probed, and what a
/// probe, a walk, a publication, its refresh and a lookup cost with the handshakes. `bench/overlay-page` adds them up.
fn rest(cell: &Cell) -> Value {
    /// A probe that has to dial, both ways: QUIC handshake with certificates (two padded flights of 1,200 bytes and
    /// two of some 900), a FIND, its answer with 20 cards.
    const HANDSHAKE: f64 = 4_200.0;
    const FIND: f64 = 90.0 + 150.0 + 20.0 * 140.0;
    let plan = Plan { nodes: 100_000.max(cell.plan.nodes), hostile: 0.0, ..cell.plan.clone() };
    let world = World::new(&plan, cell.seed);
    let mut known = Known::default();
    let setting = Setting { attack: Attack::None, ..cell.setting.clone() };
    let mut rng = Rng::of(&[cell.seed, 44]);
    // Probes in twelve hours of virtual time; whoever is probed answers.
    let mut probes = [0_usize; 2];
    let (tables, hours) = (20, 12_u64);
    for _ in 0..tables {
        let mut scene = Scene::new(&world, &mut known, &setting, rng.next());
        let caller = scene.caller;
        let table = scene.table(caller);
        for (count, pace) in probes.iter_mut().zip([Pace::Server, Pace::Client]) {
            let mut table = peerline_table(&world, caller, &table);
            table.set_pace(pace);
            for minute in 1..=hours * 60 {
                let now = UnixMillis(NOW.0 + minute * 60_000);
                for card in table.probes(now, 4) {
                    *count += 1;
                    table.verified(card.clone(), super::world::ip_of(&card), now);
                }
            }
        }
    }
    let per_hour = |count: usize| count as f64 / (tables as f64 * hours as f64);
    // What one publication and one lookup cost, at this size.
    let sample = 30;
    let (mut publish, mut lookup, mut refreshed, mut look, mut check) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for number in 0..sample {
        let salt = hash(&[cell.seed, 45, number]);
        let mut scene = Scene::new(&world, &mut known, &setting, salt);
        let done = trial(&mut scene, super::cell::Strategy::Peerline, &cell.config, salt);
        let bytes = |cost: &ours::Cost| cost.bytes as f64 + HANDSHAKE * cost.dials as f64;
        publish += bytes(&done.publish);
        lookup += bytes(&done.seen.cost);
        // Of one key, not four.
        look += bytes(&ours::from_one(&mut scene, &WalkConfig::look(), false, salt, Instant::now())) / 4.0;
        check += bytes(&ours::from_one(&mut scene, &cell.config, true, salt, Instant::now()));
        refreshed += done.copies as f64;
    }
    let n = sample as f64;
    let (publish, lookup, copies) = (publish / n, lookup / n, refreshed / n);
    // A refresh goes to the holders of last time, each of which has to be dialled.
    let refresh = copies * (HANDSHAKE + 90.0 + 150.0 + 620.0);
    json!({
        "goal": "server at most 20 kbit/s, client at most 2 kbit/s",
        "nodes": plan.nodes,
        "probes_per_hour": { "server": per_hour(probes[0]), "client": per_hour(probes[1]) },
        "bytes": {
            "probe": HANDSHAKE + FIND,
            // One key of four.
            "walk": (lookup / 4.0).round(),
            "publication": publish.round(),
            "refresh": refresh.round(),
            "lookup": lookup.round(),
            // Through one source, to its view; for one record, until it is found.
            "look": (look / n).round(),
            "check": (check / n).round(),
            "copies": copies,
        },
    })
}

/// A table of one's own with the same peers.
fn peerline_table(world: &World, id: u32, from: &peerline::dht::Table) -> peerline::dht::Table {
    let place: Position = world.nodes[id as usize].card.position;
    let mut table = peerline::dht::Table::new(place);
    for (card, since) in from.iter() {
        table.restored(card.clone(), super::world::ip_of(card), since, NOW);
    }
    table
}
