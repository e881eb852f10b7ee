//! What this node knows of other nodes by its own dialling: the only source of routing-table entries (K11), and of who
//! is to be probed. Bounded; says what to do, does nothing itself.

use super::address::MAX_ADDRESS_BYTES;
use libp2p::{Multiaddr, PeerId};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Peers remembered at most: more than a relay's connections, or strangers who only stay connected would leave no place
/// for servers that we reach.
const MAX_PEERS: usize = 8192;

/// Verified addresses of a peer at most: TCP and QUIC, IPv4 and IPv6.
pub(super) const MAX_ADDRESSES: usize = 4;

/// Failed dials of a verified address, with no success between, after which only the table's timetable has a peer dialled.
const MAX_FAILURES: u8 = 3;

/// A peer whose connection broke is probed at once, but not more often than this, and again after a failure.
const SUSPECT_AGAIN: Duration = Duration::from_secs(60);
const FAILED_AGAIN: Duration = Duration::from_secs(5);

/// Probes started in one round at most.
const MAX_PROBES: usize = 4;

/// A peer that dialled us is dialled back once in this time at most.
const DIAL_BACK_AGAIN: Duration = Duration::from_secs(600);

/// Addresses of a dial-back at most.
const MAX_DIAL_BACK: usize = 3;

#[derive(Clone, Debug)]
struct Known {
    /// Dialled by us and authenticated; the newest first.
    verified: Vec<Multiaddr>,
    serves: bool,
    in_table: bool,
    connected: usize,
    suspect: bool,
    failures: u8,
    /// The first that was seen of it was that it dialled us.
    visitor: bool,
    seen_at: Instant,
    probed_at: Option<Instant>,
    dialled_back_at: Option<Instant>,
}

/// The book of peers.
#[derive(Default)]
pub(super) struct Peers {
    known: HashMap<PeerId, Known>,
}

impl Peers {
    fn entry(&mut self, peer: PeerId, now: Instant) -> Option<&mut Known> {
        if !self.known.contains_key(&peer) && self.known.len() >= MAX_PEERS {
            let idle = |k: &Known| !k.in_table && k.connected == 0;
            let oldest = self.known.iter().filter(|(_, k)| idle(k)).min_by_key(|(_, k)| k.seen_at).map(|(p, _)| *p)?;
            self.known.remove(&oldest);
        }
        Some(self.known.entry(peer).or_insert_with(|| Known {
            verified: Vec::new(),
            serves: false,
            in_table: false,
            connected: 0,
            suspect: false,
            failures: 0,
            visitor: true,
            seen_at: now,
            probed_at: None,
            dialled_back_at: None,
        }))
    }

    /// A connection is open. `dialled`: the address, if we dialled it and it leads to the peer directly.
    pub(super) fn connected(&mut self, peer: PeerId, dialled: Option<&Multiaddr>, now: Instant) {
        let Some(known) = self.entry(peer, now) else { return };
        known.connected += 1;
        known.suspect = false;
        known.seen_at = now;
        if let Some(address) = dialled.filter(|a| a.len() <= MAX_ADDRESS_BYTES) {
            known.failures = 0;
            known.visitor &= known.dialled_back_at.is_some();
            known.verified.retain(|other| other != address);
            known.verified.insert(0, address.clone());
            known.verified.truncate(MAX_ADDRESSES);
        }
    }

    /// A connection closed; `broke` unless somebody meant it.
    pub(super) fn disconnected(&mut self, peer: &PeerId, broke: bool, now: Instant) {
        if let Some(known) = self.known.get_mut(peer) {
            known.connected = known.connected.saturating_sub(1);
            known.suspect = broke && known.connected == 0;
            known.seen_at = now;
        }
    }

    /// A peer said whether it serves the DHT.
    pub(super) fn identified(&mut self, peer: &PeerId, serves: bool) {
        if let Some(known) = self.known.get_mut(peer) {
            known.serves = serves;
        }
    }

    /// The verified addresses of a peer that said it serves.
    pub(super) fn addresses_of_server(&self, peer: &PeerId) -> Option<Vec<Multiaddr>> {
        let known = self.known.get(peer).filter(|known| known.serves && !known.verified.is_empty())?;
        Some(known.verified.clone())
    }

    /// Where we dialled a peer, and it was there.
    pub(super) fn addresses(&self, peer: &PeerId) -> &[Multiaddr] {
        self.known.get(peer).map_or(&[], |known| &known.verified)
    }

    /// Whether to dial a peer now at addresses that it says it has, because none of them is verified.
    pub(super) fn may_feel(&mut self, peer: &PeerId, now: Instant) -> bool {
        let Some(known) = self.known.get_mut(peer) else { return false };
        let recent = known.dialled_back_at.is_some_and(|at| now.saturating_duration_since(at) < DIAL_BACK_AGAIN);
        if !recent {
            known.dialled_back_at = Some(now);
        }
        !recent
    }

    /// It came to us, and we dialled it for no other reason.
    pub(super) fn is_visitor(&self, peer: &PeerId) -> bool {
        self.known.get(peer).is_none_or(|known| known.visitor)
    }

    /// The address of a connected peer at which we dialled it ourselves.
    pub(super) fn dialled_at(&self, peer: &PeerId) -> Option<&Multiaddr> {
        self.known.get(peer).filter(|known| known.connected > 0)?.verified.first()
    }

    /// Peers that count as being in the table.
    pub(super) fn listed(&self) -> Vec<PeerId> {
        self.known.iter().filter(|(_, known)| known.in_table).map(|(peer, _)| *peer).collect()
    }

    pub(super) fn is_in_table(&self, peer: &PeerId) -> bool {
        self.known.get(peer).is_some_and(|known| known.in_table)
    }

    /// Which of the addresses that an inbound peer claims to dial back. `claimed` holds those at the very IP address
    /// that it came from: nobody can make us dial somebody else.
    pub(super) fn dial_back(&mut self, peer: &PeerId, claimed: Vec<Multiaddr>, now: Instant) -> Vec<Multiaddr> {
        let Some(known) = self.known.get_mut(peer) else { return Vec::new() };
        let recent = known.dialled_back_at.is_some_and(|at| now.saturating_duration_since(at) < DIAL_BACK_AGAIN);
        if !known.verified.is_empty() || recent || claimed.is_empty() {
            return Vec::new();
        }
        known.dialled_back_at = Some(now);
        claimed.into_iter().filter(|a| a.len() <= MAX_ADDRESS_BYTES).take(MAX_DIAL_BACK).collect()
    }

    pub(super) fn set_in_table(&mut self, peer: &PeerId, in_table: bool) {
        if let Some(known) = self.known.get_mut(peer) {
            known.in_table = in_table;
        }
    }

    /// A dial failed at `tried`. `true`: that counts against the peer, and the table decides what it means: here nobody
    /// knows whether anybody else answers. Only failures at addresses that we verified count: others may have been told to
    /// us by a liar (K1).
    pub(super) fn dial_failed(&mut self, peer: &PeerId, tried: &[Multiaddr]) -> bool {
        let Some(known) = self.known.get_mut(peer) else { return false };
        if known.connected > 0 || !tried.iter().any(|address| known.verified.contains(address)) {
            return false;
        }
        known.failures = known.failures.saturating_add(1);
        known.suspect = known.failures < MAX_FAILURES;
        true
    }

    /// Peers of the table whose connection broke, to be dialled now to see whether they live; the others are probed on the
    /// table's own timetable.
    pub(super) fn probes(&mut self, now: Instant) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let due = |known: &Known| {
            let since = |at: Instant| now.saturating_duration_since(at);
            let pause = if known.failures > 0 { FAILED_AGAIN } else { SUSPECT_AGAIN };
            let rested = known.probed_at.is_none_or(|at| since(at) >= pause);
            known.in_table && known.connected == 0 && rested && known.suspect
        };
        let mut probes = Vec::new();
        for (peer, known) in self.known.iter_mut().filter(|(_, known)| due(known)).take(MAX_PROBES) {
            known.probed_at = Some(now);
            probes.push((*peer, known.verified.clone()));
        }
        probes
    }

    /// Peers that are connected or in the table, with a verified address: bucket peers for the subnet caps.
    pub(super) fn in_table(&self) -> impl Iterator<Item = (&PeerId, &Multiaddr)> {
        self.known.iter().filter(|(_, k)| k.in_table).filter_map(|(peer, k)| Some((peer, k.verified.first()?)))
    }

    pub(super) fn is_connected(&self, peer: &PeerId) -> bool {
        self.known.get(peer).is_some_and(|known| known.connected > 0)
    }

    pub(super) fn connected_count(&self) -> usize {
        self.known.values().filter(|known| known.connected > 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/8.8.8.8/tcp/{port}").parse().unwrap()
    }

    /// A server of the table that we dialled and that has gone.
    fn gone(peer: PeerId, now: Instant) -> Peers {
        let mut peers = Peers::default();
        peers.connected(peer, Some(&address(1)), now);
        peers.identified(&peer, true);
        peers.set_in_table(&peer, true);
        peers.disconnected(&peer, true, now);
        peers
    }

    #[test]
    fn a_dead_peer_is_dialled_three_times_and_stays_until_the_table_says_otherwise() {
        let (peer, start) = (PeerId::random(), Instant::now());
        let mut peers = gone(peer, start);
        for round in 0..3 {
            let now = start + FAILED_AGAIN * round;
            assert_eq!(peers.probes(now), [(peer, vec![address(1)])]);
            assert!(peers.probes(now).is_empty(), "not twice in one moment");
            assert!(peers.dial_failed(&peer, &[address(1)]), "round {round}");
        }
        assert!(peers.probes(start + SUSPECT_AGAIN * 20).is_empty());
        assert!(peers.is_in_table(&peer));
    }

    #[test]
    fn addresses_told_by_others_do_not_count_against_a_peer() {
        let (peer, now) = (PeerId::random(), Instant::now());
        let mut peers = gone(peer, now);
        for _ in 0..10 {
            assert!(!peers.dial_failed(&peer, &[address(666)]));
        }
        assert!(peers.is_in_table(&peer));
    }

    #[test]
    fn dials_back_once_and_only_whom_it_does_not_know() {
        let (peer, now) = (PeerId::random(), Instant::now());
        let mut peers = Peers::default();
        peers.connected(peer, None, now);
        let claimed = || (1..10).map(address).collect::<Vec<_>>();
        assert_eq!(peers.dial_back(&peer, claimed(), now).len(), MAX_DIAL_BACK);
        assert!(peers.dial_back(&peer, claimed(), now).is_empty(), "just done");
        assert!(!peers.dial_back(&peer, claimed(), now + DIAL_BACK_AGAIN).is_empty());
        peers.connected(peer, Some(&address(1)), now);
        assert!(peers.dial_back(&peer, claimed(), now + DIAL_BACK_AGAIN * 3).is_empty(), "verified");
    }

    #[test]
    fn the_book_is_bounded_and_keeps_who_is_connected() {
        let now = Instant::now();
        let mut peers = Peers::default();
        let friend = PeerId::random();
        peers.connected(friend, Some(&address(1)), now);
        for _ in 0..MAX_PEERS + 300 {
            let stranger = PeerId::random();
            peers.connected(stranger, None, now);
            peers.disconnected(&stranger, false, now);
        }
        assert_eq!(peers.known.len(), MAX_PEERS);
        assert!(peers.is_connected(&friend));
    }
}
