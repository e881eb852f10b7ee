//! Which media relays are known, and whom to ask: those in other networks than both ends first, by lot of the call, so that
//! no relay sees all calls of a person. Pure.

use crate::admission::Subnet;
use crate::relay::CallId;
use libp2p::{Multiaddr, PeerId};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Relays remembered; a node meets a handful.
const MOST: usize = 64;

/// A relay says again where it answers after this, when it is met.
const STALE: Duration = Duration::from_secs(600);

/// STUN servers that are told of: more than two tell nothing new.
const STUN_SERVERS: usize = 4;

/// Relays asked for one call.
const ASKED: usize = 4;

#[derive(Clone, Debug)]
struct Entry {
    ip: IpAddr,
    /// Where it was dialled, if it was.
    dialled: Option<Multiaddr>,
    stun: Option<u16>,
    media: bool,
    observed: Option<IpAddr>,
    asked: Instant,
}

/// What a relay said of itself and of us.
#[derive(Clone, Copy, Debug)]
pub(super) struct Here {
    pub(super) ip: IpAddr,
    pub(super) observed: Option<IpAddr>,
    pub(super) stun: Option<u16>,
    pub(super) media: bool,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    relays: HashMap<PeerId, Entry>,
}

impl Known {
    /// Whether a peer that speaks `relay/1` is to be asked what it has.
    pub(super) fn wants(&self, peer: &PeerId, now: Instant) -> bool {
        self.relays.get(peer).is_none_or(|known| now.saturating_duration_since(known.asked) >= STALE)
    }

    /// A relay answered.
    pub(super) fn told(&mut self, peer: PeerId, here: Here, dialled: Option<Multiaddr>, now: Instant) {
        if self.relays.len() >= MOST && !self.relays.contains_key(&peer) {
            let oldest = self.relays.iter().min_by_key(|(_, known)| known.asked).map(|(peer, _)| *peer);
            oldest.and_then(|oldest| self.relays.remove(&oldest));
        }
        let before = self.relays.remove(&peer).and_then(|before| before.dialled);
        let Here { ip, observed, stun, media } = here;
        self.relays.insert(peer, Entry { ip, dialled: dialled.or(before), stun, media, observed, asked: now });
    }

    /// It does not speak `relay/1` any more, or not rightly.
    pub(super) fn forget(&mut self, peer: &PeerId) {
        self.relays.remove(peer);
    }

    /// Whether one of them may give ports.
    pub(super) fn has_media(&self) -> bool {
        self.relays.values().any(|known| known.media)
    }

    pub(super) fn dialled(&self, peer: &PeerId) -> Option<&Multiaddr> {
        self.relays.get(peer)?.dialled.as_ref()
    }

    /// Whom to ask for ports for a call with somebody in `far`, best first. `open`: connected.
    pub(super) fn candidates(&self, call: &CallId, far: Option<Subnet>, open: impl Fn(&PeerId) -> bool) -> Vec<PeerId> {
        let ends: HashSet<Subnet> =
            self.relays.values().filter_map(|known| known.observed).map(Subnet::of).chain(far).collect();
        let usable = self.relays.iter().filter(|(peer, known)| known.media && (open(peer) || known.dialled.is_some()));
        let mut ranked: Vec<_> = usable
            .map(|(peer, known)| (ends.contains(&Subnet::of(known.ip)), !open(peer), lot(call, peer), *peer))
            .collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(.., peer)| peer).take(ASKED).collect()
    }

    /// Where addresses are told, of different networks.
    pub(super) fn stun_servers(&self) -> Vec<SocketAddr> {
        let mut all: Vec<_> = self
            .relays
            .iter()
            .filter_map(|(peer, known)| Some((peer, SocketAddr::new(known.ip, known.stun?))))
            .collect();
        all.sort_unstable();
        let mut networks = HashSet::new();
        // Of both families, or a node of one alone may find none of its own.
        let new = all.into_iter().map(|(_, server)| server).filter(|server| networks.insert(Subnet::of(server.ip())));
        let (v4, v6): (Vec<_>, Vec<_>) = new.partition(SocketAddr::is_ipv4);
        v4.into_iter().take(STUN_SERVERS).chain(v6.into_iter().take(STUN_SERVERS)).collect()
    }
}

/// Spreads calls over relays; no secret.
fn lot(call: &CallId, peer: &PeerId) -> u64 {
    call.iter().chain(&peer.to_bytes()).fold(0xcbf2_9ce4_8422_2325, |lot: u64, byte| {
        (lot ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(ip: &str, media: bool) -> Here {
        Here { ip: ip.parse().unwrap(), observed: Some([5, 5, 5, 5].into()), stun: Some(3_478), media }
    }

    fn some() -> Option<Multiaddr> {
        Some("/ip4/1.1.1.1/tcp/1".parse().unwrap())
    }

    #[test]
    fn asks_others_networks_first_and_each_call_by_lot() {
        let now = Instant::now();
        let mut known = Known::default();
        let peers: Vec<PeerId> = (0..6).map(|_| PeerId::random()).collect();
        for (peer, ip) in peers.iter().zip(["5.5.5.9", "6.6.6.9", "7.7.7.1", "8.8.8.1", "9.9.9.1", "4.4.4.1"]) {
            known.told(*peer, here(ip, ip != "4.4.4.1"), None, now);
        }
        let far = Some(Subnet::of([6, 6, 6, 6].into()));
        let mut firsts = HashSet::new();
        for n in 0..100 {
            let candidates = known.candidates(&[n; 16], far, |_| true);
            assert_eq!(candidates.len(), ASKED);
            assert!(candidates[..3].iter().all(|peer| peers[2..5].contains(peer)), "those of the ends come last");
            firsts.insert(candidates[0]);
        }
        assert_eq!(firsts.len(), 3);
        assert!(
            known.candidates(&[1; 16], far, |_| false).is_empty(),
            "not connected, and nobody knows where they are"
        );
        known.told(peers[2], here("7.7.7.1", true), some(), now);
        known.told(peers[2], here("7.7.7.1", true), None, now);
        assert_eq!(known.candidates(&[1; 16], far, |_| false), [peers[2]]);
        known.forget(&peers[2]);
        assert!(known.candidates(&[1; 16], far, |_| false).is_empty());
    }

    #[test]
    fn tells_of_few_servers_of_different_networks() {
        let now = Instant::now();
        let mut known = Known::default();
        for n in 0..100_u8 {
            known.told(PeerId::random(), here(&format!("7.7.{}.{n}", n / 2), true), None, now);
        }
        assert_eq!(known.relays.len(), MOST);
        known.told(PeerId::random(), here("2a00::1", true), None, now + STALE);
        let servers = known.stun_servers();
        let networks: HashSet<_> = servers.iter().map(|server| Subnet::of(server.ip())).collect();
        assert_eq!((servers.len(), networks.len()), (STUN_SERVERS + 1, STUN_SERVERS + 1));
        assert!(servers.contains(&"[2a00::1]:3478".parse().unwrap()));
    }
}
