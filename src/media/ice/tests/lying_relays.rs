//! Relays that do not do what they are for.

use super::world::{DELAY, Mood, Nat, World, at};
use std::time::Duration;

fn with(mood: Mood) -> World {
    let mut world = World::new([Nat::Symmetric; 2]);
    world.mood = mood;
    world.run(Duration::from_millis(200));
    assert!(world.ends[0].wants_relay);
    world.grant(0, "90.0.0.1");
    world
}

#[test]
fn one_that_passes_nothing_on_is_given_up_for_another() {
    let mut world = with(Mood::Drops);
    let mut waited = Duration::ZERO;
    while world.ends[0].wants_relay && waited < Duration::from_secs(5) {
        world.run(Duration::from_millis(50));
        waited += Duration::from_millis(50);
    }
    assert!(!world.ends[0].wants_relay && waited >= Duration::from_secs(2), "{waited:?}");
    assert!(world.ends[0].wants_pipe, "speech has another way meanwhile");
    world.run(Duration::from_millis(200));
    assert!(world.ends[0].wants_relay, "another one is asked for");
    world.mood = Mood::Honest;
    world.grant(0, "90.0.0.2");
    world.run(Duration::from_secs(2));
    assert_eq!(world.connected().expect("by the other")[0].remote.ip(), at("90.0.0.2:0").ip());
}

#[test]
fn one_that_begins_to_drop_is_left_within_three_seconds() {
    let mut world = with(Mood::Honest);
    world.run(Duration::from_secs(3));
    assert!(world.connected().is_some());
    world.mood = Mood::Drops;
    let mut waited = Duration::ZERO;
    while world.connected().is_some() {
        world.run(Duration::from_millis(50));
        waited += Duration::from_millis(50);
    }
    assert!(waited < Duration::from_secs(3), "{waited:?}");
    world.run(Duration::from_millis(500));
    assert!(world.ends[0].wants_relay, "another one is asked for");
}

/// Where nothing gets through at all no relay is to blame: they are not tried for ever.
#[test]
fn who_has_no_way_out_tries_few_relays() {
    let mut world = with(Mood::Drops);
    let mut granted = 1;
    for _ in 0..600 {
        let before = world.ends[0].wants_relay;
        world.run(Duration::from_millis(100));
        if !before && world.ends[0].wants_relay {
            granted += 1;
            world.grant(0, "90.0.0.1");
        }
    }
    assert!((2..=4).contains(&granted), "{granted} in a minute");
}

#[test]
fn one_that_delays_carries_until_there_is_a_better_way() {
    let mut world = with(Mood::Delays(Duration::from_millis(400)));
    world.run(Duration::from_secs(5));
    assert!(world.connected().expect("late is better than never")[0].relayed);
    world.run(Duration::from_secs(60));
    assert!(world.ends.iter().all(|end| end.lost == 0), "at no time without a path");
    world.homes.iter_mut().for_each(|home| home.nat = Nat::PortRestricted);
    world.run(Duration::from_secs(200));
    let direct = world.connected().unwrap();
    assert!(direct.iter().all(|chosen| !chosen.relayed), "{direct:?}");
    assert!(world.ends.iter().all(|end| end.lost == 0), "at no time without a path");
}

#[test]
fn one_that_replays_changes_nothing() {
    let mut world = with(Mood::Replays);
    world.run(Duration::from_secs(3));
    let before = world.connected().expect("by the relay");
    world.run(Duration::from_secs(60));
    assert_eq!(world.connected().unwrap(), before);
    assert!(world.ends.iter().all(|end| end.lost == 0), "at no time without a path");
    // What was said before the relay died keeps nobody believing that it lives.
    world.mood = Mood::Drops;
    world.run(Duration::from_secs(7) + 2 * DELAY);
    assert!(world.connected().is_none());
}
