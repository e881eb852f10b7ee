//! Two machines in a network that is made up: routers that translate, a server, a relay, loss, and time as it is wanted.

use super::CallId;
use super::agent::Transmit;
use super::guard::{HANDFUL, MOST_ADDRESSES};
use super::machine::{Chosen, Effect, Machine, SILENT};
use super::message::{Candidate, Kind, Message};
use super::stun;
use bytes::Bytes;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

const CALL: CallId = CallId([9; 16]);
const SERVER: &str = "185.1.1.1:3478";
/// One way, between networks, of packets and of what travels on the link.
const DELAY: Duration = Duration::from_millis(30);

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// How a router translates: a mapping for all, or for each address; answers pass from whom was sent to, alone.
#[derive(Clone, Copy, PartialEq)]
enum Nat {
    None,
    PortRestricted,
    Symmetric,
}

struct Home {
    nat: Nat,
    outside: IpAddr,
    /// (inside, whom it is for) to the outside port, and whom was sent to from there.
    mappings: HashMap<(SocketAddr, Option<SocketAddr>), u16>,
    allowed: Vec<(u16, SocketAddr)>,
    next_port: u16,
}

impl Home {
    fn out(&mut self, from: SocketAddr, to: SocketAddr) -> SocketAddr {
        if self.nat == Nat::None {
            return from;
        }
        let key = (from, Some(to).filter(|_| self.nat == Nat::Symmetric));
        let next = &mut self.next_port;
        let port = *self.mappings.entry(key).or_insert_with(|| {
            *next += 1;
            *next
        });
        if !self.allowed.contains(&(port, to)) {
            self.allowed.push((port, to));
        }
        SocketAddr::new(self.outside, port)
    }

    fn inside(&self, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        if self.nat == Nat::None {
            return Some(to);
        }
        self.allowed.contains(&(to.port(), from)).then_some(())?;
        self.mappings.iter().find(|(_, port)| **port == to.port()).map(|((inside, _), _)| *inside)
    }
}

struct End {
    machine: Machine,
    home: usize,
    chosen: Option<Chosen>,
    chosen_at: Option<Duration>,
    wants_relay: bool,
    lost: u32,
}

enum Flight {
    Packet { from: SocketAddr, to: SocketAddr, packet: Vec<u8>, home: usize },
    Told { to: usize, bytes: Bytes },
}

struct World {
    start: Instant,
    now: Instant,
    ends: [End; 2],
    homes: [Home; 2],
    flights: Vec<(Instant, Flight)>,
    /// The relay's two ports, and who was last heard on each.
    relay: Option<[(SocketAddr, Option<SocketAddr>); 2]>,
    /// Packets to these addresses go nowhere; and everything between networks.
    dead: Vec<IpAddr>,
    cut: bool,
    /// Nothing passes from home to home, but to servers and relays.
    walled: bool,
    /// One in so many packets is lost.
    loss: usize,
    sent: HashMap<SocketAddr, u32>,
    count: usize,
    tells: bool,
}

impl World {
    fn new(nats: [Nat; 2]) -> World {
        let hosts = [0, 1].map(|n| match nats[n] {
            Nat::None => at(&format!("80.0.0.{}:4000", n + 1)),
            _ => at(&format!("192.168.1.{}:4000", n + 10)),
        });
        World::at(nats, hosts, [0, 1])
    }

    fn at(nats: [Nat; 2], hosts: [SocketAddr; 2], homes: [usize; 2]) -> World {
        let now = Instant::now();
        let ends = [0, 1].map(|n| {
            let mut machine = Machine::new(CALL, n == 0, false, now);
            machine.set_servers(vec![at(SERVER)]);
            machine.add_local(hosts[n], now);
            End { machine, home: homes[n], chosen: None, chosen_at: None, wants_relay: false, lost: 0 }
        });
        let homes = [0, 1].map(|n| Home {
            nat: nats[n],
            outside: at(&format!("80.0.1.{}:0", n + 1)).ip(),
            mappings: HashMap::new(),
            allowed: Vec::new(),
            next_port: 20_000,
        });
        let mut world = World {
            start: now,
            now,
            ends,
            homes,
            flights: Vec::new(),
            relay: None,
            dead: Vec::new(),
            cut: false,
            walled: false,
            loss: 0,
            sent: HashMap::new(),
            count: 0,
            tells: true,
        };
        world.settle();
        world
    }

    fn effects(&mut self, n: usize) {
        while let Some(effect) = self.ends[n].machine.poll_effect() {
            match effect {
                Effect::Send(transmit) => self.send(n, transmit),
                Effect::Tell(bytes) if self.tells => {
                    self.flights.push((self.now + DELAY, Flight::Told { to: 1 - n, bytes }))
                }
                Effect::Tell(_) => {}
                Effect::Choose(chosen) => {
                    self.ends[n].chosen = chosen;
                    match chosen {
                        Some(_) => self.ends[n].chosen_at = Some(self.now - self.start),
                        None => self.ends[n].lost += 1,
                    }
                }
                Effect::AskRelay => self.ends[n].wants_relay = true,
                Effect::ReleaseRelay => self.ends[n].wants_relay = false,
            }
        }
    }

    fn send(&mut self, n: usize, Transmit { from, to, packet }: Transmit) {
        *self.sent.entry(to).or_default() += 1;
        let home = self.ends[n].home;
        let private = |address: SocketAddr| matches!(address.ip(), IpAddr::V4(ip) if ip.is_private());
        if private(to) {
            // Stays in the house, whoever is there.
            self.flights.push((self.now, Flight::Packet { from, to, packet, home }));
        } else {
            let from = self.homes[home].out(from, to);
            self.push(from, to, packet);
        }
    }

    /// From one network to another.
    fn push(&mut self, from: SocketAddr, to: SocketAddr, packet: Vec<u8>) {
        self.count += 1;
        // Without a pattern.
        let lot = self.count.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let home = |address: SocketAddr| matches!(address.ip(), IpAddr::V4(ip) if ip.octets()[0] == 80);
        let walled = self.walled && home(from) && home(to);
        let lost = walled || (self.loss > 0 && lot.is_multiple_of(self.loss));
        if !lost && !self.cut && !self.dead.contains(&to.ip()) && !self.dead.contains(&from.ip()) {
            self.flights.push((self.now + DELAY, Flight::Packet { from, to, packet, home: usize::MAX }));
        }
    }

    fn land(&mut self, flight: Flight) {
        match flight {
            Flight::Told { to, bytes } => self.ends[to].machine.handle_message(&bytes, self.now),
            Flight::Packet { from, to, packet, .. } if to == at(SERVER) => {
                self.push(to, from, stun::tests::answer(&packet, from));
            }
            Flight::Packet { from, to, packet, home } => {
                if let Some(ports) = &mut self.relay
                    && let Some(side) = ports.iter().position(|(port, _)| *port == to)
                {
                    ports[side].1 = Some(from);
                    if let (port, Some(far)) = ports[1 - side] {
                        self.push(port, far, packet);
                    }
                    return;
                }
                for n in 0..2 {
                    let of = self.ends[n].home;
                    let inside = match home {
                        usize::MAX if self.homes[of].nat == Nat::None || self.homes[of].outside == to.ip() => {
                            self.homes[of].inside(from, to)
                        }
                        _ => Some(to).filter(|_| home == of),
                    };
                    let Some(inside) = inside.filter(|inside| self.ends[n].machine.locals().contains(inside)) else {
                        continue;
                    };
                    match stun::is_stun(&packet) {
                        true => self.ends[n].machine.handle_packet(from, inside, &packet, self.now),
                        false => self.ends[n].machine.handle_media(from, inside, self.now),
                    }
                    return;
                }
            }
        }
    }

    fn settle(&mut self) {
        for n in 0..2 {
            self.effects(n);
        }
    }

    /// Lets time pass.
    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let due = self.flights.iter().map(|(due, _)| *due).min();
            let timers = self.ends.iter_mut().filter_map(|end| end.machine.poll_timeout()).min();
            let Some(next) = due.into_iter().chain(timers).min().filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            let mut later = Vec::new();
            for (due, flight) in std::mem::take(&mut self.flights) {
                match due <= self.now {
                    true => self.land(flight),
                    false => later.push((due, flight)),
                }
            }
            self.flights.append(&mut later);
            for n in 0..2 {
                if self.ends[n].machine.poll_timeout().is_some_and(|due| due <= self.now) {
                    self.ends[n].machine.handle_timeout(self.now);
                }
            }
            self.settle();
        }
        self.now = until;
    }

    /// Both ends have a path that leads to the other.
    fn connected(&self) -> Option<[Chosen; 2]> {
        Some([self.ends[0].chosen?, self.ends[1].chosen?])
    }

    fn took(&self) -> Duration {
        self.ends.iter().filter_map(|end| end.chosen_at).max().unwrap()
    }

    /// Gives the end that asks two ports.
    fn grant(&mut self, n: usize, host: &str) {
        let ports = [at(&format!("{host}:50000")), at(&format!("{host}:50001"))];
        self.relay = Some(ports.map(|port| (port, None)));
        self.ends[n].machine.handle_relay(Some((ports[0], ports[1])), self.now);
        self.settle();
    }
}

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
    let refused = world.ends[1].machine.refused;
    let (now, target) = (world.now, at("80.0.0.2:4000"));
    for round in 0..2_000_u32 {
        for packet in &seen {
            let from = SocketAddr::from(([66, (round >> 8) as u8, round as u8, 1], 5));
            let mut forged = packet.clone();
            // The last 8 bytes are a checksum, which proves nothing.
            let at = 20 + round as usize % (forged.len() - 28);
            forged[at] ^= 1 + (round % 255) as u8;
            world.ends[1].machine.handle_packet(from, target, &forged, now);
        }
        world.ends[1].machine.handle_packet(at("9.9.9.9:1"), target, &stun::binding_request([1; 12]), now);
    }
    assert_eq!(world.ends[1].machine.refused, refused + 2_000 * (seen.len() as u64 + 1), "each is refused");
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
