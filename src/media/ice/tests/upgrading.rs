//! While a relay carries: a direct way is looked for again, and the relay's is not lost by that.

use super::world::{Nat, World, at};
use std::time::Duration;

fn carried_by_a_relay(nats: [Nat; 2]) -> World {
    let mut world = World::new(nats);
    world.walled = true;
    world.run(Duration::from_millis(200));
    world.grant(0, "90.0.0.1");
    world.run(Duration::from_secs(3));
    assert!(world.connected().expect("by the relay")[0].relayed);
    world
}

#[test]
fn a_relay_carries_until_there_is_a_direct_way_again() {
    let mut world = carried_by_a_relay([Nat::PortRestricted; 2]);
    // The first look is in vain, the second one is not.
    world.run(Duration::from_secs(5));
    world.walled = false;
    world.run(Duration::from_secs(13));
    let [a, b] = world.connected().unwrap();
    assert!(!a.relayed && !b.relayed);
    assert!(world.ends.iter().all(|end| end.lost == 0), "at no time without a path");
    world.run(Duration::from_secs(30));
    assert!(!world.ends[0].wants_relay, "and it is given back");
}

/// After a router has forgotten its mappings, nothing that is said arrives for half a minute.
#[test]
fn what_the_far_end_never_hears_of_harms_nothing() {
    for deaf in [[true, true], [true, false], [false, true]] {
        let mut world = carried_by_a_relay([Nat::PortRestricted; 2]);
        world.deaf = deaf;
        world.run(Duration::from_secs(60));
        assert!(world.ends.iter().all(|end| end.lost == 0), "at no time without a path");
        assert!(world.connected().expect("the relay carries").iter().all(|chosen| chosen.relayed));
        (world.deaf, world.walled) = ([false; 2], false);
        world.run(Duration::from_secs(60));
        let direct = world.connected().unwrap().iter().all(|chosen| !chosen.relayed);
        // One that heard has used up the packets that strangers get.
        assert!(direct || deaf != [true; 2]);
        assert!(world.ends.iter().all(|end| end.lost == 0), "at no time without a path");
    }
}

/// The router comes back with another address while a direct way carries: a relay first, then directly again.
#[test]
fn a_call_goes_back_to_a_direct_way_after_a_router_has_forgotten_it() {
    let mut world = World::new([Nat::PortRestricted; 2]);
    world.run(Duration::from_secs(2));
    assert!(world.connected().expect("directly").iter().all(|chosen| !chosen.relayed));
    world.homes[0].mappings.clear();
    world.homes[0].allowed.clear();
    world.homes[0].next_port = 30_000;
    world.homes[0].outside = at("80.0.9.9:0").ip();
    // Nor is anything heard of it, as the signalling broke as well; a relay is known from before.
    world.deaf = [true; 2];
    world.run(Duration::from_secs(5));
    world.deaf = [false; 2];
    world.walled = true;
    world.run(Duration::from_secs(1));
    world.grant(0, "90.0.0.1");
    world.run(Duration::from_secs(4));
    assert!(world.connected().expect("by the relay").iter().all(|chosen| chosen.relayed));
    let lost: Vec<u32> = world.ends.iter().map(|end| end.lost).collect();
    world.walled = false;
    world.run(Duration::from_secs(30));
    assert!(world.connected().expect("directly").iter().all(|chosen| !chosen.relayed));
    assert_eq!(world.ends.iter().map(|end| end.lost).collect::<Vec<_>>(), lost, "without losing the relay first");
}

/// A call of an hour between those that no direct way leads to: looked for less and less, and never without the relay.
#[test]
fn looking_for_a_direct_way_in_vain_costs_little() {
    let mut world = World::new([Nat::Symmetric; 2]);
    world.run(Duration::from_millis(200));
    world.grant(0, "90.0.0.1");
    world.run(Duration::from_secs(3));
    let before = world.count;
    for _ in 0..3_600 {
        // Somebody speaks.
        let paths = world.connected().expect("the relay carries").map(|chosen| (chosen.local, chosen.remote));
        for (n, (local, remote)) in paths.into_iter().enumerate() {
            let now = world.now;
            world.ends[n].machine.handle_media(remote, local, now);
        }
        world.run(Duration::from_secs(1));
    }
    assert!(world.ends.iter().all(|end| end.lost == 0), "at no time without a path");
    let sent = world.count - before;
    assert!(sent < 15 * 3_600, "{sent} packets in an hour");
    println!("{sent} packets in an hour");
}
