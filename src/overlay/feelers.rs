//! Dials that are made only to see whether a peer is where it says: dial-backs of who came to us, and of cards. Whoever
//! comes may name ports at which nobody answers, and each such dial holds one of the swarm's places for seconds; so few
//! run at once, fewer towards one network, and the others wait. This node's own dials keep their places.

use super::actor::Actor;
use super::address::ip_of;
use crate::admission::Subnet;
use crate::wire::is_global;
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// At once, an eighth of what the swarm dials at once; and towards one network of global addresses.
const AT_ONCE: usize = 16;
const PER_SUBNET: usize = 4;

/// That wait, and for one network. Who does not fit is met again when it says who it is, within half an hour.
const MAX_WAITING: usize = 256;
const WAITING_PER_SUBNET: usize = 8;

/// A connection is closed when the far end has had this long to see it. A dial is taken for ended, at the latest, after
/// the other.
const LIFE: Duration = Duration::from_secs(2);
const LONGEST_DIAL: Duration = Duration::from_secs(20);

struct Feeler {
    at: Instant,
    subnet: Option<Subnet>,
    is_up: bool,
}

struct Waiting {
    peer: PeerId,
    addresses: Vec<Multiaddr>,
    subnet: Option<Subnet>,
}

#[derive(Default)]
pub(super) struct Feelers {
    out: HashMap<ConnectionId, Feeler>,
    line: VecDeque<Waiting>,
}

impl Feelers {
    fn has_room(&self, subnet: Option<Subnet>) -> bool {
        let trying = || self.out.values().filter(|feeler| !feeler.is_up);
        let same = subnet.map_or(0, |_| trying().filter(|feeler| feeler.subnet == subnet).count());
        trying().count() < AT_ONCE && same < PER_SUBNET
    }

    /// False when too many wait.
    fn wait(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) -> bool {
        let global = |address: &Multiaddr| ip_of(address).filter(|ip| is_global(*ip)).map(Subnet::of);
        let subnet = addresses.iter().find_map(global);
        let same = subnet.map_or(0, |_| self.line.iter().filter(|waiting| waiting.subnet == subnet).count());
        let fits = self.line.len() < MAX_WAITING && same < WAITING_PER_SUBNET;
        if fits {
            self.line.push_back(Waiting { peer, addresses, subnet });
        }
        fits
    }

    /// Whose turn it is.
    fn next(&mut self) -> Option<Waiting> {
        let at = (0..self.line.len()).find(|at| self.has_room(self.line[*at].subnet))?;
        self.line.remove(at)
    }

    /// A connection is there. Its time runs from now.
    pub(super) fn up(&mut self, connection: ConnectionId, now: Instant) {
        if let Some(feeler) = self.out.get_mut(&connection) {
            (feeler.at, feeler.is_up) = (now, true);
        }
    }

    /// Somebody asked us whether it can be dialled: this is the answer, and nothing else.
    pub(super) fn brief(&mut self, connection: ConnectionId, now: Instant) {
        self.out.insert(connection, Feeler { at: now, subnet: None, is_up: true });
    }

    /// Whether a connection is one, and will be closed.
    pub(super) fn has(&self, connection: &ConnectionId) -> bool {
        self.out.contains_key(connection)
    }

    /// A dial failed, or its connection has closed.
    pub(super) fn gone(&mut self, connection: &ConnectionId) {
        self.out.remove(connection);
    }

    /// Connections that have served.
    pub(super) fn over(&mut self, now: Instant) -> Vec<ConnectionId> {
        let is_over = |feeler: &Feeler| now >= feeler.at + if feeler.is_up { LIFE } else { LONGEST_DIAL };
        let over: Vec<ConnectionId> =
            self.out.iter().filter(|(_, feeler)| is_over(feeler)).map(|(id, _)| *id).collect();
        over.iter().for_each(|id| _ = self.out.remove(id));
        over
    }
}

impl Actor {
    /// Dials a peer that is connected already, now or when it is its turn.
    pub(super) fn feel_out(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, now: Instant) {
        if !self.feelers.wait(peer, addresses) {
            self.meter.refuse("connection: too many to dial back".into());
        }
        self.feel_on(now);
    }

    /// Dials whose turn it is.
    pub(super) fn feel_on(&mut self, now: Instant) {
        while let Some(Waiting { peer, addresses, subnet }) = self.feelers.next() {
            if !self.swarm.is_connected(&peer) {
                // It has left: who cares where it was.
                continue;
            }
            let opts = DialOpts::peer_id(peer)
                .condition(PeerCondition::Always)
                .addresses(addresses)
                // From the listening port, the pair of ports of the connection that is there already would be met.
                .allocate_new_port()
                .build();
            let id = opts.connection_id();
            if self.swarm.dial(opts).is_ok() {
                self.feelers.out.insert(id, Feeler { at: now, subnet, is_up: false });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ip: [u8; 4], port: u16) -> Vec<Multiaddr> {
        vec![format!("/ip4/{}.{}.{}.{}/tcp/{port}", ip[0], ip[1], ip[2], ip[3]).parse().unwrap()]
    }

    fn start(feelers: &mut Feelers, id: usize, now: Instant) -> Option<ConnectionId> {
        let Waiting { subnet, .. } = feelers.next()?;
        let id = ConnectionId::new_unchecked(id);
        feelers.out.insert(id, Feeler { at: now, subnet, is_up: false });
        Some(id)
    }

    #[test]
    fn one_network_does_not_take_the_places_of_others() {
        let (mut feelers, now) = (Feelers::default(), Instant::now());
        let kept = (0..1_000).filter(|n| feelers.wait(PeerId::random(), at([8, 8, 8, 8], *n + 1))).count();
        assert_eq!(kept, WAITING_PER_SUBNET);
        let begun = (0..100).filter_map(|id| start(&mut feelers, id, now)).count();
        assert_eq!(begun, PER_SUBNET);
        assert!(feelers.wait(PeerId::random(), at([8, 8, 9, 9], 1)));
        let other = start(&mut feelers, 200, now).expect("another network's turn comes before those who wait");
        assert!(start(&mut feelers, 201, now).is_none());
        // Black holes: after a while they count as ended, and what came up makes room at once.
        feelers.up(other, now);
        assert_eq!(feelers.over(now + LIFE), [other]);
        assert_eq!(feelers.over(now + LONGEST_DIAL).len(), PER_SUBNET);
        assert!(start(&mut feelers, 300, now).is_some());
    }

    #[test]
    fn all_together_are_bounded_also_in_a_lan() {
        let (mut feelers, now) = (Feelers::default(), Instant::now());
        let kept = (0..1_000).filter(|n| feelers.wait(PeerId::random(), at([192, 168, 1, 2], *n + 1))).count();
        assert_eq!(kept, MAX_WAITING);
        let begun: Vec<_> = (0..100).filter_map(|id| start(&mut feelers, id, now)).collect();
        assert_eq!(begun.len(), AT_ONCE);
        feelers.gone(&begun[0]);
        assert!(start(&mut feelers, 500, now).is_some());
    }
}
