//! One picture of where this node is, folded from what others say and do: where they see us, what they could dial, and
//! what of ours came through. Nobody is believed alone: what counts is how many networks agree, and what nobody repeats
//! is forgotten.

use super::{Address, Transport};
use crate::wire::{AddressScope, is_global};
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Networks that must have reached an address until it counts as public.
const CONFIRMATIONS: usize = 3;

/// Networks that must say the same until a mapping counts as known.
const AGREEMENT: usize = 2;

/// What somebody saw counts for this long, and what somebody dialled for this long.
const SEEN: Duration = Duration::from_secs(3_600);
const DIALLED: Duration = Duration::from_secs(24 * 3_600);

/// Views, and networks for each address, that are kept; the oldest gives way.
const MAX_VIEWS: usize = 64;
const MAX_VOICES: usize = 16;

/// Addresses offered for hole punching.
const MAX_CANDIDATES: usize = 6;

/// Addresses at which a router may say that it lets others through.
const MAX_OPENED: usize = 4;

/// A node with a public address is given this long to be dialled by others until it is taken to be behind a firewall, which
/// most are. It can be found to be public later.
const PATIENCE: Duration = Duration::from_secs(1);

/// Connections over TCP and failures of QUIC, in different networks, after which UDP is taken for blocked.
const NO_UDP: usize = 3;

/// Whether others can reach this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    #[default]
    Unknown,
    /// Dialled by nodes of several networks, or said to be so by the operator.
    Public,
    /// Others see it at an address that none of its interfaces has.
    BehindNat,
    /// It has a public address, and nodes of two networks tried to dial it in vain.
    Firewalled,
}

/// How a NAT gives ports to packets that leave (RFC 4787 §4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mapping {
    #[default]
    Unknown,
    /// One for all destinations: punching holes works.
    One,
    /// Another one for each destination ("symmetric").
    PerDestination,
}

/// Where this node is, in short.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Reach {
    pub kind: Kind,
    /// Of UDP, if behind a NAT.
    pub mapping: Mapping,
    /// A global IPv6 address is there, be it behind a firewall.
    pub ipv6: bool,
    /// Nothing but TCP gets through.
    pub udp_blocked: bool,
    /// Networks of nodes that dialled this one at its own address.
    pub confirmed_by: usize,
    /// Where its router lets others through, if some came: as `seen_as`.
    pub open: Vec<String>,
    /// Where others see it, `ip:port/transport`, the most agreed on first.
    pub seen_as: Vec<String>,
}

impl Reach {
    pub fn is_public(&self) -> bool {
        self.kind == Kind::Public
    }
}

/// What an owner usually has: a /16 of IPv4, a /32 of IPv6.
type Network = [u8; 5];

fn network(ip: IpAddr) -> Network {
    match ip.to_canonical() {
        IpAddr::V4(v4) => [4, v4.octets()[0], v4.octets()[1], 0, 0],
        IpAddr::V6(v6) => [6, v6.octets()[0], v6.octets()[1], v6.octets()[2], v6.octets()[3]],
    }
}

fn plain(address: Address) -> Address {
    Address { ip: address.ip.to_canonical(), ..address }
}

/// When each network said something.
type Voices = HashMap<Network, Instant>;

fn speak(voices: &mut Voices, who: Network, now: Instant) {
    if voices.len() >= MAX_VOICES && !voices.contains_key(&who) {
        forget_oldest(voices);
    }
    voices.insert(who, now);
}

fn forget_oldest<K: Copy + Eq + std::hash::Hash>(table: &mut HashMap<K, Instant>) {
    if let Some(oldest) = table.iter().min_by_key(|(_, at)| **at).map(|(key, _)| *key) {
        table.remove(&oldest);
    }
}

/// All that is known of where this node is.
#[derive(Debug)]
pub struct Picture {
    scope: AddressScope,
    /// The operator said where it is.
    told: bool,
    own: Vec<Address>,
    /// Where a router says that it lets others through to us.
    opened: Vec<Address>,
    /// It was behind something before its addresses changed, and nobody has said anything since.
    was_behind: bool,
    own_since: Instant,
    /// Who sees us where: one view of each observer's network and transport.
    views: HashMap<(Network, Transport, bool), (Address, Instant)>,
    reached: HashMap<Address, Voices>,
    missed: HashMap<Address, Voices>,
    /// Networks that were connected to by TCP, and in which QUIC failed; emptied when QUIC works.
    by_tcp: Voices,
    quic_failed: Voices,
    quic_worked: Option<Instant>,
}

impl Picture {
    /// `told`: the operator says where this node is reached.
    pub fn new(scope: AddressScope, told: bool, now: Instant) -> Self {
        Self {
            scope,
            told,
            own: Vec::new(),
            opened: Vec::new(),
            was_behind: false,
            own_since: now,
            views: HashMap::new(),
            reached: HashMap::new(),
            missed: HashMap::new(),
            by_tcp: HashMap::new(),
            quic_failed: HashMap::new(),
            quic_worked: None,
        }
    }

    /// These are the addresses of our interfaces that we listen at. When they change, so may everything else.
    pub fn listens(&mut self, own: &[Address], now: Instant) {
        let mut own: Vec<Address> = own.iter().copied().map(plain).collect();
        own.sort_by_key(|address| (address.ip, address.transport, address.port));
        own.dedup();
        if own == self.own {
            return;
        }
        let came = own.iter().any(|address| !self.own.contains(address));
        self.was_behind = match self.kind(now) {
            Kind::BehindNat | Kind::Firewalled => true,
            Kind::Unknown => self.was_behind,
            Kind::Public => false,
        };
        self.own = own;
        if came {
            self.own_since = now;
            self.views.clear();
            self.missed.clear();
            self.by_tcp.clear();
            self.quic_failed.clear();
            self.quic_worked = None;
        }
        self.forget_others();
    }

    /// A router says that it lets others through to us there. That is its word: see [`Self::open`].
    pub fn opened(&mut self, at: &[Address]) {
        self.opened = at.iter().copied().map(plain).filter(|at| is_global(at.ip)).take(MAX_OPENED).collect();
        self.forget_others();
    }

    fn forget_others(&mut self) {
        let (own, opened) = (&self.own, &self.opened);
        self.reached.retain(|address, _| own.contains(address) || opened.contains(address));
        self.missed.retain(|address, _| own.contains(address) || opened.contains(address));
    }

    fn is_ours(&self, at: &Address) -> bool {
        self.own.contains(at) || self.opened.contains(at)
    }

    /// What a router opened, as far as others came through.
    pub fn open(&self, now: Instant) -> impl Iterator<Item = Address> {
        self.opened.iter().copied().filter(move |at| Self::voices(self.reached.get(at), now) > 0)
    }

    fn counts(&self, ip: IpAddr) -> bool {
        self.scope == AddressScope::Any || is_global(ip)
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        self.own.iter().any(|own| own.ip == ip.to_canonical())
    }

    /// A node at `by` sees us at `seen`, on a connection between listening sockets. Private addresses count where records
    /// may carry them: who is in the same house says nothing of the world.
    pub fn seen(&mut self, by: IpAddr, seen: Address, now: Instant) {
        let seen = plain(seen);
        if seen.port == 0 || !self.counts(by) || !self.counts(seen.ip) {
            return;
        }
        let key = (network(by), seen.transport, seen.ip.is_ipv6());
        if self.views.len() >= MAX_VIEWS && !self.views.contains_key(&key) {
            let oldest = self.views.iter().min_by_key(|(_, (_, at))| *at).map(|(key, _)| *key);
            oldest.map(|oldest| self.views.remove(&oldest));
        }
        self.views.insert(key, (seen, now));
    }

    /// A node at `by`, unasked or asked to try, dialled us at `at` and came through. Counts for our own addresses only:
    /// through a NAT that lets in who was written to, those come whom we know.
    pub fn reached(&mut self, by: IpAddr, at: Address, now: Instant) {
        let at = plain(at);
        if self.counts(by) && self.counts(at.ip) && self.is_ours(&at) {
            speak(self.reached.entry(at).or_default(), network(by), now);
        }
    }

    /// A node at `by` tried to dial us at `at` and could not.
    pub fn missed(&mut self, by: IpAddr, at: Address, now: Instant) {
        let at = plain(at);
        if self.counts(by) && self.is_ours(&at) {
            speak(self.missed.entry(at).or_default(), network(by), now);
        }
    }

    /// We dialled a node at `to`, and it worked.
    pub fn dialled(&mut self, to: IpAddr, over: Transport, now: Instant) {
        match over {
            Transport::Quic => {
                self.quic_worked = Some(now);
                self.quic_failed.clear();
                self.by_tcp.clear();
            }
            Transport::Tcp => speak(&mut self.by_tcp, network(to), now),
        }
    }

    /// We dialled a node at `to` by QUIC, and nothing came back.
    pub fn unanswered(&mut self, to: IpAddr, now: Instant) {
        speak(&mut self.quic_failed, network(to), now);
    }

    fn fresh_views(&self, now: Instant) -> impl Iterator<Item = (&Network, &Address)> {
        let fresh = move |at: &Instant| now.saturating_duration_since(*at) < SEEN;
        self.views.iter().filter(move |(_, (_, at))| fresh(at)).map(|((by, ..), (seen, _))| (by, seen))
    }

    fn voices(voices: Option<&Voices>, now: Instant) -> usize {
        let fresh = |at: &&Instant| now.saturating_duration_since(**at) < DIALLED;
        voices.map_or(0, |voices| voices.values().filter(fresh).count())
    }

    /// Networks that reached the best of our addresses.
    fn confirmed_by(&self, now: Instant) -> usize {
        self.own.iter().map(|own| Self::voices(self.reached.get(own), now)).max().unwrap_or(0)
    }

    /// Somebody sees us elsewhere than where we are.
    fn is_translated(&self, now: Instant) -> bool {
        !self.own.is_empty() && self.fresh_views(now).any(|(_, seen)| !self.is_own(seen.ip))
    }

    /// UDP's mapping: one place for all, or as many as observers.
    fn mapping(&self, now: Instant) -> Mapping {
        let views: Vec<_> = self
            .fresh_views(now)
            .filter(|(_, seen)| seen.transport == Transport::Quic && !self.is_own(seen.ip) && seen.ip.is_ipv4())
            .collect();
        let places: std::collections::HashSet<_> = views.iter().map(|(_, seen)| **seen).collect();
        match (views.len(), places.len()) {
            (n, _) if n < AGREEMENT => Mapping::Unknown,
            (_, 1) => Mapping::One,
            // Two of many may come from before a router's restart.
            (n, places) if places * 2 > n => Mapping::PerDestination,
            _ => Mapping::One,
        }
    }

    /// Where others see us, the most agreed on first, then the newest.
    fn seen_as(&self, now: Instant) -> Vec<Address> {
        let mut places: HashMap<Address, (usize, Instant)> = HashMap::new();
        for (seen, at) in self.views.values().filter(|(_, at)| now.saturating_duration_since(*at) < SEEN) {
            let place = places.entry(*seen).or_insert((0, *at));
            *place = (place.0 + 1, place.1.max(*at));
        }
        let mut places: Vec<_> = places.into_iter().collect();
        places.sort_by_key(|(address, (count, at))| {
            (std::cmp::Reverse((*count, *at)), address.transport, address.ip, address.port)
        });
        places.into_iter().map(|(address, _)| address).collect()
    }

    /// Where to send packets to meet us: where others see us, and our own addresses that may be reached.
    pub fn candidates(&self, now: Instant) -> Vec<Address> {
        let mut candidates = self.seen_as(now);
        for own in self.opened.iter().chain(self.own.iter().filter(|own| self.counts(own.ip))) {
            if !candidates.contains(own) {
                candidates.push(*own);
            }
        }
        candidates.truncate(MAX_CANDIDATES);
        candidates
    }

    /// Our own addresses that it is worth asking others about.
    pub fn to_be_tried(&self) -> impl Iterator<Item = Address> {
        self.own.iter().chain(&self.opened).filter(|own| is_global(own.ip)).copied()
    }

    /// An address of ours that nobody could dial, though two networks tried: it is no use in a record.
    pub fn is_dead(&self, address: &Address, now: Instant) -> bool {
        let address = plain(*address);
        !self.told
            && Self::voices(self.reached.get(&address), now) == 0
            && Self::voices(self.missed.get(&address), now) >= AGREEMENT
    }

    pub fn kind(&self, now: Instant) -> Kind {
        // In a laboratory on one machine there is but one network.
        let enough = if self.scope == AddressScope::Any { 1 } else { CONFIRMATIONS };
        if self.told || self.confirmed_by(now) >= enough {
            Kind::Public
        } else if self.is_translated(now) {
            Kind::BehindNat
        } else if self.own.iter().any(|own| is_global(own.ip) && self.is_dead(own, now)) && self.confirmed_by(now) == 0
        {
            Kind::Firewalled
        } else {
            Kind::Unknown
        }
    }

    /// Whether this node should be reachable through others.
    pub fn wants_relays(&self, now: Instant) -> bool {
        match self.kind(now) {
            Kind::Public => false,
            Kind::BehindNat | Kind::Firewalled => true,
            // A laptop that is plugged in keeps its relays until it is known that it needs none.
            Kind::Unknown if self.was_behind => true,
            Kind::Unknown => {
                // A firewall, perhaps. Where private addresses count, everybody is taken to be in reach.
                let waited = now.saturating_duration_since(self.own_since) >= PATIENCE;
                let missed = self.own.iter().any(|own| Self::voices(self.missed.get(own), now) > 0);
                let seen = self.fresh_views(now).next().is_some();
                self.scope == AddressScope::Global && seen && (waited || missed)
            }
        }
    }

    pub fn reach(&self, now: Instant) -> Reach {
        let tcp_only = Self::voices(Some(&self.by_tcp), now).min(Self::voices(Some(&self.quic_failed), now));
        let words = |a: Address| match a.transport {
            Transport::Quic => format!("{}/quic", std::net::SocketAddr::new(a.ip, a.port)),
            Transport::Tcp => format!("{}/tcp", std::net::SocketAddr::new(a.ip, a.port)),
        };
        let kind = self.kind(now);
        Reach {
            kind,
            mapping: if kind == Kind::BehindNat { self.mapping(now) } else { Mapping::Unknown },
            ipv6: self.own.iter().any(|own| own.ip.is_ipv6() && is_global(own.ip)),
            udp_blocked: self.quic_worked.is_none() && tcp_only >= NO_UDP,
            confirmed_by: self.confirmed_by(now),
            open: self.open(now).map(words).collect(),
            seen_as: self.seen_as(now).into_iter().take(MAX_CANDIDATES).map(words).collect(),
        }
    }

    /// How many things it remembers: bounded, whatever others say.
    #[cfg(test)]
    fn size(&self) -> usize {
        let voices = |table: &HashMap<Address, Voices>| table.values().map(Voices::len).sum::<usize>();
        self.views.len() + voices(&self.reached) + voices(&self.missed) + self.by_tcp.len() + self.quic_failed.len()
    }
}

#[cfg(test)]
mod tests;
