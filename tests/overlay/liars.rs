//! Real liars among a hundred real nodes, in a form short enough for every day. The long form, all attacks and the
//! baseline: `bench/overlay-liars`; with calls through the attacks: `bench/attacks-live`.

use super::arena::conspiracy::Attack;
use super::arena::{Plan, cells};

/// Thirty of a hundred name nobody but each other, take records and keep none; publications and lookups are attacked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_of_a_hundred_hide_nothing() {
    let plan = Plan { liars: 30, attack: Attack::Misroute, ..Plan::honest(70, 2) };
    let (figures, tally) = cells::liars_among(plan, 4, 24).await;
    println!("{figures}");
    assert!(tally.is_at_least(95.0), "{figures}");
}

/// A newcomer's first contacts are a liar that names dead nodes, and two honest nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_liar_among_the_first_contacts_hides_nothing() {
    let plan = Plan { liars: 1, attack: Attack::Ghosts, ..Plan::honest(24, 3) };
    let (figures, tally) = cells::one_liar_first(plan, 4, 12).await;
    println!("{figures}");
    assert!(tally.is_at_least(90.0) && tally.copies_percent() >= 80.0, "{figures}");
}
