//! Two machines in a network that is made up.

mod lying_relays;
mod upgrading;
mod world;

use super::guard::{HANDFUL, MOST_ADDRESSES};
use super::machine::{Chosen, Effect, Machine};
use super::message::{Candidate, Kind, Message};
use super::pair::SILENT;
use crate::wire;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use world::{CALL, DELAY, Nat, SERVER, World, at};

#[test]
fn two_public_nodes_meet_in_a_blink() {
    let mut world = World::new([Nat::None, Nat::None]);
    world.run(Duration::from_secs(1));
    let [a, b] = world.connected().unwrap();
    assert!(!a.relayed && !b.relayed);
    assert_eq!((a.remote, b.remote), (b.local, a.local));
    assert!(world.took() < Duration::from_millis(300), "{:?}", world.took());
}

#[test]
fn routers_are_opened_from_both_sides() {
    for nats in [
        [Nat::PortRestricted, Nat::None],
        [Nat::None, Nat::PortRestricted],
        [Nat::PortRestricted, Nat::PortRestricted],
        [Nat::Symmetric, Nat::None],
        [Nat::None, Nat::Symmetric],
    ] {
        let mut world = World::new(nats);
        world.run(Duration::from_secs(3));
        let [a, b] = world.connected().expect("a path");
        assert!(!a.relayed && !b.relayed);
        assert!(world.took() < Duration::from_millis(1_000), "{:?}", world.took());
    }
}

#[test]
fn symmetric_ones_need_a_relay_that_either_end_brings() {
    for brings in [0, 1] {
        let mut world = World::new([Nat::Symmetric, Nat::PortRestricted]);
        world.run(Duration::from_millis(200));
        assert!(world.ends[brings].wants_relay);
        world.grant(brings, "90.0.0.1");
        world.run(Duration::from_secs(3));
        let [a, b] = world.connected().expect("by the relay");
        assert!(a.relayed && b.relayed);
        assert!(world.took() < Duration::from_millis(1_500), "{:?}", world.took());
    }
}

#[test]
fn the_first_path_that_works_carries() {
    let mut world = World::new([Nat::Symmetric; 2]);
    // What a relay takes to answer.
    world.run(4 * DELAY);
    assert!(world.ends[0].wants_relay && !world.ends[1].wants_relay, "the end that offers asks at once");
    world.grant(0, "90.0.0.1");
    world.run(Duration::from_secs(1));
    let took = world.ends.each_ref().map(|end| end.chosen_at.expect("a path") - 4 * DELAY);
    // It hears of the relay, and its check comes through; and the answer to that one.
    let (hears, check) = (DELAY, 2 * DELAY);
    let grain = Duration::from_millis(30);
    assert!(took[0] <= hears + check + grain, "{took:?}");
    assert!(took[1] <= hears + 2 * check + grain, "{took:?}");
    assert!(world.ends.iter().all(|end| end.lost == 0));
}

#[test]
fn neighbours_talk_in_the_house_and_a_neighbours_look_alike_is_nobody() {
    let hosts = [at("192.168.1.10:4000"), at("192.168.1.11:4000")];
    let mut world = World::at([Nat::PortRestricted; 2], hosts, [0, 0]);
    world.run(Duration::from_secs(1));
    let [a, b] = world.connected().unwrap();
    assert_eq!((a.remote, b.remote), (hosts[1], hosts[0]));

    // Two homes with the same addresses: what is at the peer's private address here is the end itself.
    let hosts = [at("192.168.1.10:4000"), at("192.168.1.10:4000")];
    let mut world = World::at([Nat::PortRestricted; 2], hosts, [0, 1]);
    world.run(Duration::from_secs(3));
    let [a, b] = world.connected().unwrap();
    assert!(a.remote.ip() == at("80.0.1.2:0").ip() && b.remote.ip() == at("80.0.1.1:0").ip());
}

#[test]
fn loss_delays_and_does_not_prevent() {
    let mut world = World::new([Nat::PortRestricted; 2]);
    world.loss = 3;
    world.run(Duration::from_secs(5));
    assert!(world.connected().is_some());
}

#[test]
fn a_silent_path_is_left_for_one_that_works_and_taken_again() {
    let mut world = World::new([Nat::PortRestricted; 2]);
    world.run(Duration::from_millis(160));
    world.grant(0, "90.0.0.1");
    world.run(Duration::from_secs(2));
    assert!(!world.connected().unwrap()[0].relayed);
    let cut = world.now - world.start;
    world.walled = true;
    world.run(Duration::from_secs(3));
    let [a, b] = world.connected().unwrap();
    assert!(a.relayed && b.relayed && world.took() - cut < Duration::from_secs(2), "{:?}", world.took() - cut);
    world.walled = false;
    world.run(Duration::from_secs(5));
    let [a, b] = world.connected().unwrap();
    assert!(!a.relayed && !b.relayed);
    assert!(world.ends.iter().all(|end| end.lost == 0), "at no time without a path");
}

#[test]
fn who_only_sends_and_never_answers_is_not_sent_to_for_long() {
    let mut world = World::new([Nat::None; 2]);
    world.run(Duration::from_secs(2));
    let Chosen { local, remote, .. } = world.connected().unwrap()[0];
    // Speech keeps coming; checks do not.
    let mut spoken = Duration::ZERO;
    while world.ends[0].lost == 0 && spoken < Duration::from_secs(20) {
        spoken += Duration::from_millis(20);
        world.now += Duration::from_millis(20);
        let now = world.now;
        world.ends[0].machine.handle_media(remote, local, now);
        world.ends[0].machine.handle_timeout(now);
        world.effects(0);
        world.flights.clear();
    }
    assert!((Duration::from_secs(4)..Duration::from_secs(6)).contains(&spoken), "{spoken:?}");
}

#[test]
fn starts_anew_when_nothing_works_and_returns_within_three_seconds() {
    let mut world = World::new([Nat::PortRestricted; 2]);
    world.run(Duration::from_secs(2));
    assert!(world.connected().is_some());
    // The router was switched off and on: other mappings, another address.
    world.homes[0].mappings.clear();
    world.homes[0].allowed.clear();
    world.homes[0].next_port = 30_000;
    world.homes[0].outside = at("80.0.9.9:0").ip();
    let cut = world.now - world.start;
    world.run(Duration::from_secs(4));
    let [_, b] = world.connected().expect("found again");
    assert_eq!(b.remote.ip(), at("80.0.9.9:0").ip());
    assert!(world.took() - cut < Duration::from_secs(3), "{:?}", world.took() - cut);
}

#[test]
fn a_dead_relay_is_replaced_within_three_seconds() {
    let mut world = World::new([Nat::Symmetric; 2]);
    world.run(Duration::from_millis(200));
    world.grant(0, "90.0.0.1");
    world.run(Duration::from_secs(3));
    assert!(world.connected().unwrap()[0].relayed);
    let killed = world.now - world.start;
    world.dead.push(at("90.0.0.1:0").ip());
    world.ends[0].wants_relay = false;
    for _ in 0..300 {
        world.run(Duration::from_millis(10));
        if world.ends[0].wants_relay {
            break;
        }
    }
    assert!(world.ends[0].wants_relay, "another one is asked for");
    world.run(2 * DELAY);
    world.grant(0, "90.0.0.2");
    world.run(Duration::from_secs(2));
    assert_eq!(world.connected().expect("by another relay")[0].remote.ip(), at("90.0.0.2:0").ip());
    assert!(world.took() - killed < Duration::from_secs(3), "{:?}", world.took() - killed);
}

#[test]
fn a_cut_of_everything_is_survived() {
    let mut world = World::new([Nat::PortRestricted; 2]);
    world.run(Duration::from_secs(2));
    world.cut = true;
    world.run(SILENT + Duration::from_millis(400));
    assert!(world.ends[0].wants_pipe && !world.ends[1].wants_pipe, "one end opens a stream of bytes");
    world.run(Duration::from_secs(30));
    assert!(world.connected().is_none() && world.ends.iter().all(|end| end.lost == 1));
    world.cut = false;
    world.run(Duration::from_secs(6));
    assert!(world.connected().is_some());
}

#[test]
fn a_better_path_is_taken_without_losing_the_old_one_first() {
    let mut world = World::new([Nat::PortRestricted; 2]);
    // The direct way opens later than the relay.
    world.homes[1].nat = Nat::Symmetric;
    world.homes[0].nat = Nat::Symmetric;
    world.run(Duration::from_millis(200));
    world.grant(0, "90.0.0.1");
    world.run(Duration::from_secs(3));
    assert!(world.connected().unwrap()[0].relayed);
    // Both are on one LAN now.
    let now = world.now;
    world.ends[0].machine.add_local(at("80.5.0.1:4000"), now);
    world.ends[1].machine.add_local(at("80.5.0.2:4000"), now);
    world.homes.iter_mut().for_each(|home| home.nat = Nat::None);
    world.settle();
    world.run(Duration::from_secs(3));
    let [a, b] = world.connected().unwrap();
    assert!(!a.relayed && !b.relayed);
    assert!(world.ends.iter().all(|end| end.lost == 0), "at no time without a path");
}

#[test]
fn who_does_not_look_for_paths_is_not_waited_for() {
    let mut world = World::new([Nat::None; 2]);
    world.tells = false;
    world.flights.clear();
    world.run(Duration::from_secs(60));
    assert!(world.connected().is_none() && world.ends.iter().all(|end| !end.machine.is_met()));
    assert!(world.sent.keys().all(|to| *to == at(SERVER)));
}

#[test]
fn third_parties_get_a_handful_whatever_the_far_end_names_and_however_often() {
    let now = Instant::now();
    let mut machine = Machine::new(CALL, true, false, now);
    machine.add_local(at("80.0.0.1:4000"), now);
    let (mut time, mut sent) = (now, HashMap::<SocketAddr, u32>::new());
    for generation in 0..200 {
        let candidates = (0..12).map(|n| {
            let victim = SocketAddr::from(([70, 0, (generation % 256) as u8, n], 53));
            Candidate::own(victim, Kind::Host, n.into())
        });
        let (ufrag, pwd) = (format!("user{generation}"), "p".repeat(24));
        let candidates = candidates.collect();
        let message = Message { call: CALL, generation, ufrag, pwd, candidates, done: true, skipped: 0 };
        machine.handle_message(&message.write(), time);
        for _ in 0..200 {
            time += Duration::from_millis(20);
            machine.handle_timeout(time);
            while let Some(effect) = machine.poll_effect() {
                if let Effect::Send(transmit) = effect {
                    *sent.entry(transmit.to).or_default() += 1;
                }
            }
        }
    }
    assert!(!sent.is_empty() && sent.len() <= MOST_ADDRESSES, "{} victims", sent.len());
    assert!(sent.values().all(|count| *count <= HANDFUL), "{:?}", sent.values().max());
}

#[test]
fn forged_and_replayed_stun_changes_nothing_and_costs_no_memory() {
    let mut world = World::new([Nat::None; 2]);
    world.run(Duration::from_secs(2));
    let before = world.connected().unwrap();
    let mut seen = Vec::new();
    while seen.len() < 20 {
        let due = world.ends[0].machine.poll_timeout().unwrap();
        world.now = world.now.max(due);
        world.ends[0].machine.handle_timeout(world.now);
        while let Some(effect) = world.ends[0].machine.poll_effect() {
            if let Effect::Send(transmit) = effect {
                seen.push(transmit.packet.clone());
                world.send(0, transmit);
            }
        }
        world.run(Duration::from_millis(1));
    }
    let mut refused = 0;
    let (now, target) = (world.now, at("80.0.0.2:4000"));
    for round in 0..2_000_u32 {
        for packet in &seen {
            let from = SocketAddr::from(([66, (round >> 8) as u8, round as u8, 1], 5));
            let mut forged = packet.clone();
            // The last 8 bytes are a checksum, which proves nothing.
            let at = 20 + round as usize % (forged.len() - 28);
            forged[at] ^= 1 + (round % 255) as u8;
            refused += usize::from(!world.ends[1].machine.handle_packet(from, target, &forged, now));
        }
        let plain = wire::stun::binding_request(&[1; 12]);
        refused += usize::from(!world.ends[1].machine.handle_packet(at("9.9.9.9:1"), target, &plain, now));
    }
    assert_eq!(refused, 2_000 * (seen.len() + 1), "each is refused");
    // Genuine requests with another source, replayed by who saw them: answered a handful of times, and no more kept.
    for port in 1..=20_000 {
        world.ends[1].machine.handle_packet(SocketAddr::from(([66, 6, 6, 6], port)), target, &seen[0], now);
    }
    world.sent.clear();
    world.settle();
    world.run(Duration::from_secs(20));
    let strangers = world.sent.iter().filter(|(to, _)| to.ip() == at("66.6.6.6:0").ip());
    assert!(strangers.clone().count() <= MOST_ADDRESSES && strangers.clone().all(|(_, count)| *count <= HANDFUL));
    assert_eq!(world.connected().unwrap(), before, "and the path is the same");
}

#[test]
fn a_quiet_path_stays_as_long_as_checks_are_answered() {
    let mut world = World::new([Nat::PortRestricted; 2]);
    world.loss = 20;
    world.run(Duration::from_secs(600));
    assert!(world.connected().is_some());
    assert!(world.ends.iter().all(|end| end.lost == 0), "on hold for ten minutes, with one packet in twenty lost");
    let rate: u32 = world.sent.values().sum::<u32>() / 600;
    assert!(rate <= 12, "{rate} packets a second of both ends");
    assert!(SILENT < Duration::from_secs(3));
}
