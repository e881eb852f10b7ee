//! The short form: that the laboratory runs, repeats itself and that the engine holds in it. A measurement is
//! `bench/overlay-table`.

use super::cell::{Cell, Strategy};
use super::ours::PATIENCE;
use super::scene::{Attack, Setting};
use super::sorted::Sorted;
use super::stats::wilson;
use super::user::Which;
use super::world::{Cluster, Plan};
use peerline::dht::WalkConfig;

fn cell(strategy: Strategy, nodes: usize, hostile: f64, trials: usize) -> Cell {
    Cell {
        plan: Plan { nodes, hostile, dead: 0.1, early: true, asmap: false, complete: 96 },
        setting: Setting {
            attack: Attack::None,
            cluster: None,
            churn: 0.1,
            rtt: 60.0,
            bias: 1.0,
            connected: 0,
            session: None,
            partition: false,
            skewed: 0.0,
            regions: 4,
        },
        strategy,
        config: WalkConfig::default(),
        trials,
        screen: trials,
        per_world: trials,
        seed: 7,
        threads: 1,
    }
}

/// 70 trials: one of them may fail before this does.
#[test]
fn lookups_survive_30_percent_of_liars() {
    let attacks = Attack::ALL;
    let summaries = cell(Strategy::Peerline, 500, 0.3, 10).run(&attacks);
    let failures: Vec<_> = summaries
        .iter()
        .flat_map(|s| s.trials.iter().map(move |t| (s.attack, t)))
        .filter(|(_, trial)| !trial.newest_within(PATIENCE))
        .map(|(attack, trial)| (attack, trial.number))
        .collect();
    assert!(failures.len() <= 1, "{failures:?}");
    let forged = |trial: &super::cell::Trial| trial.seen.after_10 == Some(Which::Forged);
    assert!(!summaries.iter().flat_map(|s| &s.trials).any(forged));
}

#[test]
fn lookups_survive_chosen_ids() {
    let mut cell = cell(Strategy::Peerline, 500, 0.0, 5);
    cell.setting.cluster = Some(Cluster { per_key: 50, keys: 4, subnets: 0, spread: 1.0, per_wide: 4, early: true });
    let summary = &cell.run(&[Attack::Stale])[0];
    assert_eq!(summary.successes(), 5);
}

#[test]
fn the_baseline_is_lost_to_ghosts_and_fine_without() {
    let summaries = cell(Strategy::Kad, 1_000, 0.3, 30).run(&[Attack::Ghosts]);
    assert!(summaries[0].successes() < 15, "{}", summaries[0].successes());
    let summaries = cell(Strategy::Kad, 1_000, 0.0, 30).run(&[Attack::None]);
    assert!(summaries[0].successes() > 25);
}

#[test]
fn equal_seeds_give_equal_trials() {
    let run = || {
        let summaries = cell(Strategy::Peerline, 300, 0.2, 4).run(&[Attack::Stale]);
        let trials = summaries[0].trials.iter();
        trials.map(|t| (t.number, t.copies, t.seen.newest, t.seen.cost.requests)).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn nearest_by_xor() {
    let heads: Vec<u64> = (0..200_u64).map(|i| i * 0x0147_ae14_7ae1_47ae).collect();
    let sorted = Sorted::new(heads.clone());
    for point in [0, 1 << 63, 0x1234_5678_9abc_def0, u64::MAX] {
        let mut all: Vec<usize> = (0..heads.len()).collect();
        all.sort_by_key(|i| heads[*i] ^ point);
        assert_eq!(sorted.nearest(point, 20, &|_| true), all[..20]);
        let bits = (heads[3] ^ point).leading_zeros();
        assert!(sorted.bucket(point, bits).contains(&3));
    }
}

#[test]
fn intervals_are_wilsons() {
    let [low, high] = wilson(4_000, 4_000);
    assert!((low - 0.999_04).abs() < 1e-5 && high > 0.999_999);
}
