//! A network that is made up: routers that translate, a server, a relay, loss, and time as it is wanted.

use super::super::CallId;
use super::super::agent::Transmit;
use super::super::machine::{Chosen, Effect, Machine};
use super::super::stun;
use crate::wire;
use bytes::Bytes;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

pub(super) const CALL: CallId = CallId([9; 16]);
pub(super) const SERVER: &str = "185.1.1.1:3478";
/// One way, between networks, of packets and of what travels on the link.
pub(super) const DELAY: Duration = Duration::from_millis(30);

pub(super) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What a server answers to a request.
fn answer(request: &[u8], seen: SocketAddr) -> Vec<u8> {
    wire::stun::binding_reply(request[8..20].first_chunk().unwrap(), seen)
}

/// How a router translates: a mapping for all, or for each address; answers pass from whom was sent to, alone.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Nat {
    None,
    PortRestricted,
    Symmetric,
}

pub(super) struct Home {
    pub(super) nat: Nat,
    pub(super) outside: IpAddr,
    /// (inside, whom it is for) to the outside port, and whom was sent to from there.
    pub(super) mappings: HashMap<(SocketAddr, Option<SocketAddr>), u16>,
    pub(super) allowed: Vec<(u16, SocketAddr)>,
    pub(super) next_port: u16,
}

impl Home {
    pub(super) fn out(&mut self, from: SocketAddr, to: SocketAddr) -> SocketAddr {
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

    pub(super) fn inside(&self, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        if self.nat == Nat::None {
            return Some(to);
        }
        self.allowed.contains(&(to.port(), from)).then_some(())?;
        self.mappings.iter().find(|(_, port)| **port == to.port()).map(|((inside, _), _)| *inside)
    }
}

pub(super) struct End {
    pub(super) machine: Machine,
    pub(super) home: usize,
    pub(super) chosen: Option<Chosen>,
    pub(super) chosen_at: Option<Duration>,
    pub(super) wants_relay: bool,
    pub(super) wants_pipe: bool,
    pub(super) lost: u32,
}

/// What a relay does with what it is to pass on.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Mood {
    Honest,
    Drops,
    Delays(Duration),
    /// Everything three times, and once more after five seconds.
    Replays,
}

pub(super) enum Flight {
    Packet { from: SocketAddr, to: SocketAddr, packet: Vec<u8>, home: usize },
    Told { to: usize, bytes: Bytes },
}

pub(super) struct World {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) ends: [End; 2],
    pub(super) homes: [Home; 2],
    pub(super) flights: Vec<(Instant, Flight)>,
    /// The relay's two ports, and who was last heard on each.
    pub(super) relay: Option<[(SocketAddr, Option<SocketAddr>); 2]>,
    /// Packets to these addresses go nowhere; and everything between networks.
    pub(super) dead: Vec<IpAddr>,
    pub(super) cut: bool,
    /// Nothing passes from home to home, but to servers and relays.
    pub(super) walled: bool,
    /// One in so many packets is lost.
    pub(super) loss: usize,
    pub(super) sent: HashMap<SocketAddr, u32>,
    pub(super) count: usize,
    pub(super) tells: bool,
    pub(super) mood: Mood,
    /// Ends that hear nothing of what the other tells.
    pub(super) deaf: [bool; 2],
}

impl World {
    pub(super) fn new(nats: [Nat; 2]) -> World {
        let hosts = [0, 1].map(|n| match nats[n] {
            Nat::None => at(&format!("80.0.0.{}:4000", n + 1)),
            _ => at(&format!("192.168.1.{}:4000", n + 10)),
        });
        World::at(nats, hosts, [0, 1])
    }

    pub(super) fn at(nats: [Nat; 2], hosts: [SocketAddr; 2], homes: [usize; 2]) -> World {
        let now = Instant::now();
        let ends = [0, 1].map(|n| {
            let mut machine = Machine::new(CALL, n == 0, false, now);
            machine.set_servers(vec![at(SERVER)], now);
            machine.add_local(hosts[n], now);
            End {
                machine,
                home: homes[n],
                chosen: None,
                chosen_at: None,
                wants_relay: false,
                wants_pipe: false,
                lost: 0,
            }
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
            mood: Mood::Honest,
            deaf: [false; 2],
        };
        world.settle();
        world
    }

    pub(super) fn effects(&mut self, n: usize) {
        while let Some(effect) = self.ends[n].machine.poll_effect() {
            match effect {
                Effect::Send(transmit) => self.send(n, transmit),
                Effect::Tell(bytes) if self.tells && !self.deaf[1 - n] => {
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
                Effect::ReleaseRelay | Effect::GiveUpRelay => self.ends[n].wants_relay = false,
                Effect::AskPipe => self.ends[n].wants_pipe = true,
            }
        }
    }

    pub(super) fn send(&mut self, n: usize, Transmit { from, to, packet }: Transmit) {
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
    pub(super) fn push(&mut self, from: SocketAddr, to: SocketAddr, packet: Vec<u8>) {
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

    fn pass_on(&mut self, port: SocketAddr, far: SocketAddr, packet: Vec<u8>) {
        let later = |time| (time, Flight::Packet { from: port, to: far, packet: packet.clone(), home: usize::MAX });
        match self.mood {
            Mood::Honest => self.push(port, far, packet),
            Mood::Drops => {}
            Mood::Delays(time) => self.flights.push(later(self.now + DELAY + time)),
            Mood::Replays => {
                let times = [0, 1, 40, 5_000].map(Duration::from_millis);
                self.flights.extend(times.map(|time| later(self.now + DELAY + time)));
            }
        }
    }

    pub(super) fn land(&mut self, flight: Flight) {
        match flight {
            Flight::Told { to, bytes } => {
                self.ends[to].machine.handle_message(&bytes, self.now);
            }
            Flight::Packet { from, to, packet, .. } if to == at(SERVER) => {
                self.push(to, from, answer(&packet, from));
            }
            Flight::Packet { from, to, packet, home } => {
                if let Some(ports) = &mut self.relay
                    && let Some(side) = ports.iter().position(|(port, _)| *port == to)
                {
                    ports[side].1 = Some(from);
                    if let (port, Some(far)) = ports[1 - side] {
                        self.pass_on(port, far, packet);
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
                        true => drop(self.ends[n].machine.handle_packet(from, inside, &packet, self.now)),
                        false => self.ends[n].machine.handle_media(from, inside, self.now),
                    }
                    return;
                }
            }
        }
    }

    pub(super) fn settle(&mut self) {
        for n in 0..2 {
            self.effects(n);
        }
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
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
    pub(super) fn connected(&self) -> Option<[Chosen; 2]> {
        Some([self.ends[0].chosen?, self.ends[1].chosen?])
    }

    pub(super) fn took(&self) -> Duration {
        self.ends.iter().filter_map(|end| end.chosen_at).max().unwrap()
    }

    /// Gives the end that asks two ports.
    pub(super) fn grant(&mut self, n: usize, host: &str) {
        let ports = [at(&format!("{host}:50000")), at(&format!("{host}:50001"))];
        self.relay = Some(ports.map(|port| (port, None)));
        self.ends[n].machine.handle_relay(Some((ports[0], vec![ports[1]])), self.now);
        self.settle();
    }
}
