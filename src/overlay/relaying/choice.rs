//! Which media relays are known, and whom to ask: those that have served well, in other networks than both ends, near, and
//! among such by lot of the call, so that no relay sees all calls of a person. Pure.

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

/// Servers of one family with fewer of which more are looked for: one alone may be away, and tells nothing of a mapping.
const FEW: usize = 2;

/// Relays asked for one call.
const ASKED: usize = 4;

/// A fault counts half after each of these.
const HALF_LIFE: Duration = Duration::from_secs(600);

/// Faults from which on a relay is not met again: twenty minutes after a lie.
const AVOIDED: u32 = 4;

/// Faults of one relay at most, so that it is asked again within an hour.
const MOST_FAULTS: u32 = 16;

/// Answers within this are near; each doubling is a class farther. Opening a stream and asking takes two round trips.
const NEAR: Duration = Duration::from_millis(50);

/// What spoke against a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No answer, or none to give.
    Useless,
    /// An answer that makes no sense, or addresses of others.
    Lie,
}

#[derive(Clone, Copy, Debug)]
struct Faults {
    count: u32,
    at: Instant,
}

impl Faults {
    fn now(&self, now: Instant) -> u32 {
        let halvings = now.saturating_duration_since(self.at).as_secs() / HALF_LIFE.as_secs();
        u32::try_from(halvings).ok().and_then(|halvings| self.count.checked_shr(halvings)).unwrap_or(0)
    }
}

#[derive(Clone, Debug)]
struct Entry {
    ip: IpAddr,
    /// In the other family, where it was found too.
    too: Option<IpAddr>,
    /// When it was last looked for there.
    sought: Option<Instant>,
    /// Where it was dialled, if it was.
    dialled: Option<Multiaddr>,
    stun: Option<u16>,
    media: bool,
    observed: Option<IpAddr>,
    asked: Instant,
    class: u32,
}

impl Entry {
    fn ips(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [Some(self.ip), self.too].into_iter().flatten()
    }
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
    /// Remembered of those that are forgotten too: a liar would be met again with its next word.
    faults: HashMap<PeerId, Faults>,
}

impl Known {
    /// Whether a peer that speaks `relay/1` is to be asked what it has.
    pub(super) fn wants(&self, peer: &PeerId, now: Instant) -> bool {
        self.faults_of(peer, now) < AVOIDED
            && self.relays.get(peer).is_none_or(|known| now.saturating_duration_since(known.asked) >= STALE)
    }

    fn faults_of(&self, peer: &PeerId, now: Instant) -> u32 {
        self.faults.get(peer).map_or(0, |faults| faults.now(now))
    }

    /// A relay failed this node.
    pub(super) fn failed(&mut self, peer: PeerId, fault: Fault, now: Instant) {
        let more = match fault {
            Fault::Useless => 1,
            Fault::Lie => 2 * AVOIDED,
        };
        let count = (self.faults_of(&peer, now) + more).min(MOST_FAULTS);
        if self.faults.len() >= MOST && !self.faults.contains_key(&peer) {
            let least = self.faults.iter().min_by_key(|(_, faults)| (faults.now(now), faults.at));
            let least = least.map(|(peer, _)| *peer);
            least.and_then(|least| self.faults.remove(&least));
        }
        self.faults.insert(peer, Faults { count, at: now });
    }

    /// A relay did what it was asked: half of what it failed is made up for.
    pub(super) fn worked(&mut self, peer: &PeerId, now: Instant) {
        let count = self.faults_of(peer, now) / 2;
        match self.faults.get_mut(peer) {
            Some(faults) if count > 0 => *faults = Faults { count, at: now },
            Some(_) => drop(self.faults.remove(peer)),
            None => {}
        }
    }

    /// A relay answered, after `took`.
    pub(super) fn told(&mut self, peer: PeerId, here: Here, dialled: Option<Multiaddr>, took: Duration, now: Instant) {
        if self.relays.len() >= MOST && !self.relays.contains_key(&peer) {
            let oldest = self.relays.iter().min_by_key(|(_, known)| known.asked).map(|(peer, _)| *peer);
            oldest.and_then(|oldest| self.relays.remove(&oldest));
        }
        let before = self.relays.remove(&peer);
        let Here { ip, observed, stun, media } = here;
        let too = before.iter().flat_map(Entry::ips).find(|other| other.is_ipv4() != ip.is_ipv4());
        let (sought, before) = before.map_or((None, None), |before| (before.sought, before.dialled));
        let dialled = dialled.or(before);
        let class = (took.as_millis() / NEAR.as_millis()).checked_ilog2().map_or(0, |doublings| doublings + 1);
        self.relays.insert(peer, Entry { ip, too, sought, dialled, stun, media, observed, asked: now, class });
    }

    /// This node dialled it at `ip`.
    pub(super) fn reached(&mut self, peer: &PeerId, ip: IpAddr) {
        if let Some(known) = self.relays.get_mut(peer)
            && known.ip.is_ipv4() != ip.is_ipv4()
        {
            known.too = Some(ip);
        }
    }

    /// Relays to look for in the other family than they are known in, as there are few servers of it: each once in a
    /// while. `says`: it said where.
    pub(super) fn seek(&mut self, v4: bool, now: Instant, says: impl Fn(&PeerId) -> bool) -> Vec<PeerId> {
        let of_it = self.servers().filter(|(_, server)| server.is_ipv4() == v4).count();
        let idle = |known: &Entry| known.sought.is_none_or(|at| now.saturating_duration_since(at) >= STALE);
        let others = self.relays.iter_mut().filter(|(_, known)| known.stun.is_some() && idle(known));
        let others = others.filter(|(peer, known)| !known.ips().any(|ip| ip.is_ipv4() == v4) && says(peer));
        let sought = others.take(FEW.saturating_sub(of_it)).map(|(peer, known)| {
            known.sought = Some(now);
            *peer
        });
        sought.collect()
    }

    fn servers(&self) -> impl Iterator<Item = (&PeerId, SocketAddr)> {
        self.relays.iter().flat_map(|(peer, known)| {
            let ports = known.stun.into_iter();
            ports.flat_map(move |port| known.ips().map(move |ip| (peer, SocketAddr::new(ip, port))))
        })
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
    pub(super) fn candidates(
        &self,
        call: &CallId,
        far: Option<Subnet>,
        now: Instant,
        open: impl Fn(&PeerId) -> bool,
    ) -> Vec<PeerId> {
        let ends: HashSet<Subnet> =
            self.relays.values().filter_map(|known| known.observed).map(Subnet::of).chain(far).collect();
        let usable = self.relays.iter().filter(|(peer, known)| known.media && (open(peer) || known.dialled.is_some()));
        let mut ranked: Vec<_> = usable
            .map(|(peer, known)| {
                let ends = ends.contains(&Subnet::of(known.ip));
                (self.faults_of(peer, now), ends, !open(peer), known.class, lot(call, peer), *peer)
            })
            .collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(.., peer)| peer).take(ASKED).collect()
    }

    /// Where addresses are told, of different networks.
    pub(super) fn stun_servers(&self) -> Vec<SocketAddr> {
        let mut all: Vec<_> = self.servers().collect();
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
            known.told(*peer, here(ip, ip != "4.4.4.1"), None, NEAR, now);
        }
        let far = Some(Subnet::of([6, 6, 6, 6].into()));
        let mut firsts = HashSet::new();
        for n in 0..100 {
            let candidates = known.candidates(&[n; 16], far, now, |_| true);
            assert_eq!(candidates.len(), ASKED);
            assert!(candidates[..3].iter().all(|peer| peers[2..5].contains(peer)), "those of the ends come last");
            firsts.insert(candidates[0]);
        }
        assert_eq!(firsts.len(), 3);
        assert!(
            known.candidates(&[1; 16], far, now, |_| false).is_empty(),
            "not connected, and nobody knows where they are"
        );
        known.told(peers[2], here("7.7.7.1", true), some(), NEAR, now);
        known.told(peers[2], here("7.7.7.1", true), None, NEAR, now);
        assert_eq!(known.candidates(&[1; 16], far, now, |_| false), [peers[2]]);
        known.forget(&peers[2]);
        assert!(known.candidates(&[1; 16], far, now, |_| false).is_empty());
    }

    #[test]
    fn tells_of_few_servers_of_different_networks() {
        let now = Instant::now();
        let mut known = Known::default();
        for n in 0..100_u8 {
            known.told(PeerId::random(), here(&format!("7.7.{}.{n}", n / 2), true), None, NEAR, now);
        }
        assert_eq!(known.relays.len(), MOST);
        known.told(PeerId::random(), here("2a00::1", true), None, NEAR, now + STALE);
        let servers = known.stun_servers();
        let networks: HashSet<_> = servers.iter().map(|server| Subnet::of(server.ip())).collect();
        assert_eq!((servers.len(), networks.len()), (STUN_SERVERS + 1, STUN_SERVERS + 1));
        assert!(servers.contains(&"[2a00::1]:3478".parse().unwrap()));
    }

    #[test]
    fn looks_for_relays_in_the_family_in_which_few_are_known() {
        let now = Instant::now();
        let mut known = Known::default();
        let peers: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
        for (n, peer) in peers.iter().enumerate() {
            known.told(*peer, here(&format!("2a0{n}::1"), true), None, NEAR, now);
        }
        assert!(known.seek(false, now, |_| true).is_empty(), "there are enough of IPv6");
        assert!(known.seek(true, now, |_| false).is_empty(), "nobody has said where");
        let first = known.seek(true, now, |_| true);
        assert_eq!(
            (first.len(), known.seek(true, now, |_| true).len()),
            (FEW, FEW),
            "others, while those are looked for"
        );
        assert!(known.seek(true, now, |_| true).is_empty() && !known.seek(true, now + STALE, |_| true).is_empty());
        known.reached(&first[0], "7.7.7.1".parse().unwrap());
        known.reached(&first[1], "2a0f::1".parse().unwrap());
        known.reached(&PeerId::random(), "8.8.8.8".parse().unwrap());
        assert_eq!(known.stun_servers().iter().filter(|server| server.is_ipv4()).count(), 1);
        assert_eq!(known.seek(true, now + STALE * 2, |_| true).len(), 1);
        // It is met over the other family, and the one before stays known.
        known.told(first[1], here("8.8.8.1", true), None, NEAR, now);
        known.told(first[0], here("2a07::1", true), None, NEAR, now);
        let servers = known.stun_servers();
        assert_eq!(servers.iter().filter(|server| server.is_ipv4()).count(), 2, "{servers:?}");
        assert_eq!(servers.len(), 6);
        assert!(known.seek(true, now + STALE * 3, |_| true).is_empty());
    }

    #[test]
    fn prefers_the_near_and_those_that_have_not_failed() {
        let now = Instant::now();
        let mut known = Known::default();
        let [near, far, liar] = [(); 3].map(|()| PeerId::random());
        let after = |millis| Duration::from_millis(millis);
        known.told(near, here("7.7.7.1", true), None, after(49), now);
        known.told(far, here("8.8.8.1", true), None, after(120), now);
        known.told(liar, here("9.9.9.1", true), None, after(1), now);
        known.failed(liar, Fault::Lie, now);
        let asked = |known: &Known, now| known.candidates(&[1; 16], None, now, |_| true);
        assert_eq!(asked(&known, now), [near, far, liar]);
        known.failed(near, Fault::Useless, now);
        assert_eq!(asked(&known, now), [far, near, liar]);
        assert_eq!(asked(&known, now + HALF_LIFE), [near, far, liar], "one fault is over");
        known.worked(&near, now);
        assert_eq!(asked(&known, now), [near, far, liar], "or made up for");
        known.forget(&liar);
        assert!(!known.wants(&liar, now) && !known.wants(&liar, now + HALF_LIFE), "it is not met again");
        assert!(known.wants(&liar, now + HALF_LIFE * 2));
    }

    #[test]
    fn faults_of_many_are_few_and_the_worst_stay() {
        let now = Instant::now();
        let mut known = Known::default();
        let liar = PeerId::random();
        (0..100).for_each(|_| known.failed(liar, Fault::Lie, now));
        assert!(known.wants(&liar, now + HALF_LIFE * 3), "nothing is held against it for ever");
        (0..1_000).for_each(|_| known.failed(PeerId::random(), Fault::Useless, now));
        assert_eq!(known.faults.len(), MOST);
        assert!(!known.wants(&liar, now));
    }
}
