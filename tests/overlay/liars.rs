//! Real liars among real nodes, in a form short enough for every day. The long form, with a hundred nodes, all attacks and
//! the baseline: `bench/overlay-liars`; with calls through the attacks: `bench/attacks-live`.

use super::arena::cells::Readers;
use super::arena::conspiracy::Attack;
use super::arena::{Plan, cells};

/// Three in ten name nobody but each other, take records and keep none; publications and lookups are attacked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_in_ten_hide_nothing() {
    let plan = Plan { liars: 9, attack: Attack::Misroute, ..Plan::honest(21, 2) };
    let (figures, tally) = cells::liars_among(plan, 3, 15, Readers::Stay(5)).await;
    println!("{figures}");
    assert!(tally.is_at_least(90.0), "{figures}");
}

/// The same among a hundred: minutes of processor time in an unoptimised build (.config/nextest.toml).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_of_a_hundred_hide_nothing() {
    let plan = Plan { liars: 30, attack: Attack::Misroute, ..Plan::honest(70, 2) };
    let (figures, tally) = cells::liars_among(plan, 4, 24, Readers::Stay(3)).await;
    println!("{figures}");
    assert!(tally.is_at_least(95.0), "{figures}");
}

/// A newcomer's first contacts are a liar that names dead nodes, and two honest nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_liar_among_the_first_contacts_hides_nothing() {
    let plan = Plan { liars: 1, attack: Attack::Ghosts, ..Plan::honest(16, 3) };
    let (figures, tally) = cells::one_liar_first(plan, 3, 8, 2).await;
    println!("{figures}");
    assert!(tally.is_at_least(80.0) && tally.copies_percent() >= 80.0, "{figures}");
}
