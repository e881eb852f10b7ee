//! What this node passes on for others, and for whom: the bounds that libp2p's relay does not have. Pure, but for the
//! lock between the relay's behaviour, which asks, and the actor, which tells what ended.
//!
//! A reservation belongs to a connection (peer and its address); on the same connection it is a renewal, and those are
//! granted however full it is: the crate's own maximum is set above ours, or it would deny them.

use super::CircuitLimits;
use crate::admission::{PerSource, Rate, Subnet};
use crate::overlay::address::ip_of;
use crate::wire::is_global;
use libp2p::{Multiaddr, PeerId, relay};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Reservations of one peer: one for each of its connections.
const RESERVATIONS_PER_PEER: usize = 4;

/// A reservation lasts this long, and is renewed after three quarters of it.
const RESERVED: Duration = Duration::from_secs(3_600);

/// After its end a reservation is forgotten here, should nobody have said so.
const SLACK: Duration = Duration::from_secs(60);

/// A circuit that was granted and did not come up in this time never will.
const COMING_UP: Duration = Duration::from_secs(90);

/// Circuits towards us from one network, in multiples of what one source may have: a carrier's NAT has many customers.
const SOURCES_PER_SUBNET: usize = 4;

/// How often one peer may ask for a reservation, and for a circuit.
const RESERVING: Rate = Rate { per_second: 1.0 / 30.0, burst: 10.0 };
const CALLING: Rate = Rate { per_second: 1.0 / 2.0, burst: 20.0 };

/// Peers with a rate of their own.
const MAX_SOURCES: usize = 4_096;

struct Circuit {
    source: PeerId,
    from: Multiaddr,
    at: Instant,
    is_up: bool,
}

struct Table {
    limits: CircuitLimits,
    reservations: HashMap<(PeerId, Multiaddr), Instant>,
    circuits: Vec<Circuit>,
    reserving: PerSource<PeerId>,
    calling: PerSource<PeerId>,
    refused: [u64; 2],
}

/// Who has what. All clones are one.
#[derive(Clone)]
pub(in crate::overlay) struct Grants {
    table: Arc<Mutex<Table>>,
}

/// What was refused since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::overlay) struct Refused {
    pub(in crate::overlay) reservations: u64,
    pub(in crate::overlay) circuits: u64,
}

impl Grants {
    pub(in crate::overlay) fn new(limits: CircuitLimits) -> Self {
        let table = Table {
            limits,
            reservations: HashMap::new(),
            circuits: Vec::new(),
            reserving: PerSource::of_free_names(RESERVING, MAX_SOURCES),
            calling: PerSource::of_free_names(CALLING, MAX_SOURCES),
            refused: [0; 2],
        };
        Self { table: Arc::new(Mutex::new(table)) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `peer`, connected from `from`, may be reached through this node from now on.
    fn reserve(&self, peer: PeerId, from: &Multiaddr, now: Instant) -> bool {
        let mut table = self.lock();
        let granted = table.reserve(peer, from, now);
        table.refused[0] += u64::from(!granted);
        granted
    }

    /// Whether `peer` may reach somebody through this node now.
    fn call(&self, peer: PeerId, from: &Multiaddr, now: Instant) -> bool {
        let mut table = self.lock();
        let granted = table.call(peer, from, now);
        table.refused[1] += u64::from(!granted);
        granted
    }

    /// A circuit of this source is there.
    pub(super) fn came_up(&self, source: &PeerId) {
        if let Some(circuit) = self.lock().circuits.iter_mut().find(|c| c.source == *source && !c.is_up) {
            circuit.is_up = true;
        }
    }

    /// A circuit of this source has ended, or (`came_up` false) came to nothing.
    pub(super) fn ended(&self, source: &PeerId, came_up: bool) {
        let mut table = self.lock();
        if let Some(at) = table.circuits.iter().position(|c| c.source == *source && c.is_up == came_up) {
            table.circuits.swap_remove(at);
        }
    }

    /// A reservation of this peer ran out unrenewed.
    pub(super) fn ran_out(&self, peer: &PeerId) {
        let mut table = self.lock();
        let oldest = table.reservations.iter().filter(|((other, _), _)| other == peer).min_by_key(|(_, at)| **at);
        if let Some(place) = oldest.map(|(place, _)| place.clone()) {
            table.reservations.remove(&place);
        }
    }

    /// A connection closed, and with it what hung on it.
    pub(super) fn disconnected(&self, peer: PeerId, from: &Multiaddr) {
        let mut table = self.lock();
        table.reservations.remove(&(peer, from.clone()));
        table.circuits.retain(|circuit| circuit.source != peer || circuit.from != *from);
    }

    /// Whether a peer can be reached through this node: its connection is not ours to close.
    pub(in crate::overlay) fn serves(&self, peer: &PeerId) -> bool {
        self.lock().reservations.keys().any(|(other, _)| other == peer)
    }

    /// Circuits that are up.
    pub(in crate::overlay) fn circuits(&self) -> usize {
        self.lock().circuits.iter().filter(|circuit| circuit.is_up).count()
    }

    pub(super) fn take_refused(&self) -> Refused {
        let [reservations, circuits] = std::mem::take(&mut self.lock().refused);
        Refused { reservations, circuits }
    }

    /// The relay's settings: these bounds, and none of its own below them.
    pub(in crate::overlay) fn settings(&self) -> relay::Config {
        let limits = self.lock().limits.clone();
        let (reserving, calling) = (self.clone(), self.clone());
        relay::Config {
            // Renewals when full, and connections that closed without being noticed yet.
            max_reservations: limits.reservations.saturating_mul(2).saturating_add(64),
            max_reservations_per_peer: RESERVATIONS_PER_PEER,
            reservation_duration: RESERVED,
            reservation_rate_limiters: vec![Box::new(move |peer: PeerId, from: &Multiaddr, now: Instant| {
                reserving.reserve(peer, from, now)
            })],
            max_circuits: limits.circuits,
            // It counts those towards a peer, too: a gateway behind NAT takes many calls.
            max_circuits_per_peer: limits.circuits,
            max_circuit_duration: limits.duration,
            max_circuit_bytes: limits.bytes,
            circuit_src_rate_limiters: vec![Box::new(move |peer: PeerId, from: &Multiaddr, now: Instant| {
                calling.call(peer, from, now)
            })],
        }
    }
}

impl Table {
    fn reserve(&mut self, peer: PeerId, from: &Multiaddr, now: Instant) -> bool {
        self.reservations.retain(|_, at| now.saturating_duration_since(*at) < RESERVED + SLACK);
        if !self.reserving.take(peer, now) {
            return false;
        }
        let place = (peer, from.clone());
        if !self.reservations.contains_key(&place) {
            let subnet = subnet_of(from);
            let of_peer = self.reservations.keys().filter(|(other, _)| *other == peer).count();
            let of_subnet = |_| self.reservations.keys().filter(|(_, from)| subnet_of(from) == subnet).count();
            if self.reservations.len() >= self.limits.reservations
                || of_peer >= RESERVATIONS_PER_PEER
                || subnet.map_or(0, of_subnet) >= self.limits.reservations_per_subnet
            {
                return false;
            }
        }
        self.reservations.insert(place, now);
        true
    }

    fn call(&mut self, peer: PeerId, from: &Multiaddr, now: Instant) -> bool {
        let longest = self.limits.duration + SLACK;
        self.circuits.retain(|circuit| {
            now.saturating_duration_since(circuit.at) < if circuit.is_up { longest } else { COMING_UP }
        });
        let subnet = subnet_of(from);
        let of_peer = self.circuits.iter().filter(|circuit| circuit.source == peer).count();
        let of_subnet = |_| self.circuits.iter().filter(|circuit| subnet_of(&circuit.from) == subnet).count();
        let most = self.limits.circuits_per_source;
        if !self.calling.take(peer, now)
            || self.circuits.len() >= self.limits.circuits
            || of_peer >= most
            || subnet.map_or(0, of_subnet) >= most.saturating_mul(SOURCES_PER_SUBNET)
        {
            return false;
        }
        self.circuits.push(Circuit { source: peer, from: from.clone(), at: now, is_up: false });
        true
    }
}

/// Private networks are not told apart: all homes have the same.
fn subnet_of(from: &Multiaddr) -> Option<Subnet> {
    ip_of(from).filter(|ip| is_global(*ip)).map(Subnet::of)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants() -> Grants {
        Grants::new(CircuitLimits {
            reservations: 20,
            reservations_per_subnet: 8,
            circuits: 10,
            circuits_per_source: 2,
            ..CircuitLimits::default()
        })
    }

    fn at(ip: &str, port: u16) -> Multiaddr {
        format!("/ip4/{ip}/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn reservations_are_bounded_by_peer_network_and_in_all_and_renewed_when_full() {
        let (grants, now, peer) = (grants(), Instant::now(), PeerId::random());
        let took = |peer, ip: &str, ports: std::ops::Range<u16>| {
            ports.filter(|port| grants.reserve(peer, &at(ip, *port), now)).count()
        };
        assert_eq!(took(peer, "8.8.8.8", 1..9), RESERVATIONS_PER_PEER);
        let strangers = (0..100).filter(|_| grants.reserve(PeerId::random(), &at("8.8.8.9", 1), now)).count();
        assert_eq!(strangers, 4, "eight of the network");
        let others = (0..100).filter(|n| grants.reserve(PeerId::random(), &at(&format!("9.9.{n}.9"), 1), now)).count();
        assert_eq!(others, 12, "twenty in all");
        assert!(grants.reserve(peer, &at("8.8.8.8", 1), now), "renewed");
        grants.disconnected(peer, &at("8.8.8.8", 1));
        assert!(grants.reserve(PeerId::random(), &at("10.1.1.1", 1), now), "a place is free again");
        let later = now + RESERVED + SLACK;
        assert!((0..8).all(|n| grants.reserve(PeerId::random(), &at("7.7.7.7", n + 1), later)), "all have ended");
    }

    #[test]
    fn who_asks_again_and_again_gets_nothing() {
        let (grants, now, peer) = (grants(), Instant::now(), PeerId::random());
        let granted = (0..1_000).filter(|_| grants.reserve(peer, &at("8.8.8.8", 1), now)).count();
        assert_eq!(granted, 10);
        assert_eq!(grants.take_refused(), Refused { reservations: 990, circuits: 0 });
        assert!(grants.reserve(peer, &at("8.8.8.8", 1), now + RESERVED * 3 / 4), "renewals are rare");
    }

    #[test]
    fn circuits_are_bounded_and_their_places_come_back() {
        let (grants, now, peer) = (grants(), Instant::now(), PeerId::random());
        let from = at("8.8.8.8", 1);
        assert!(grants.call(peer, &from, now) && grants.call(peer, &from, now));
        assert!(!grants.call(peer, &from, now), "two of one source");
        grants.came_up(&peer);
        assert_eq!(grants.circuits(), 1);
        grants.ended(&peer, false);
        assert!(grants.call(peer, &from, now), "one came to nothing");
        grants.came_up(&peer);
        grants.ended(&peer, true);
        assert_eq!(grants.circuits(), 1);
        grants.disconnected(peer, &from);
        assert_eq!(grants.circuits(), 0);
        let many = (0..100).filter(|n| grants.call(PeerId::random(), &at(&format!("9.9.{n}.9"), 1), now)).count();
        assert_eq!(many, 10);
        assert!(!grants.call(peer, &from, now));
        assert!(grants.call(peer, &from, now + COMING_UP), "none of them came up");
    }

    #[test]
    fn what_runs_out_makes_room() {
        let (grants, now, peer) = (grants(), Instant::now(), PeerId::random());
        assert!(grants.reserve(peer, &at("8.8.8.8", 1), now) && grants.serves(&peer));
        grants.ran_out(&peer);
        assert!(!grants.serves(&peer));
    }
}
