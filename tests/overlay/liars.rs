//! Real liars among real nodes (SECURITY §6.2 E1, E3), in a form short enough for every day. The long form and all
//! attacks: `bench/overlay-liars`.

use super::arena::cells;
use super::arena::conspiracy::Attack;
use super::arena::{Ground, Plan, plain_cells};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "before store/1"]
async fn an_overlay_of_a_hundred_finds() {
    let (figures, tally) = cells::peaceful(Plan::honest(100, 1), 10, 60).await;
    println!("{figures}");
    assert!(tally.is_at_least(99.0), "{figures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a baseline, not of ours"]
async fn plain_kad_finds() {
    println!("{}", plain_cells::among(Plan::honest(100, 1), 10, 60, true).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "before store/1"]
async fn thirty_of_a_hundred_lie() {
    let plan = Plan { honest: 70, liars: 30, attack: Attack::Misroute, ground: Ground::Spread, ..Plan::honest(70, 2) };
    let (figures, tally) = cells::liars_among(plan, 10, 60).await;
    println!("{figures}");
    assert!(tally.is_at_least(99.0), "{figures}");
}
