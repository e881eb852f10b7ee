//! Lists of services in the overlay, as far as this node has to do with them: it keeps lists for others and finds their
//! owners where they say they are before it names them; it enters itself if it relays; it reads lists when it needs relays.
//!
//! ```text
//! ENLIST ─▶ judged ─▶ room? ─▶ dialled back ─▶ shelves ─▶ LIST
//! own entry ─▶ errand: to the list's region, 8 holders         every 20 minutes
//! too few relays ─▶ errand: two lists, 4 holders of each ─▶ up to 4 are dialled ─▶ identify, as for any relay met
//! ```

mod errand;

pub(super) use errand::Errand;

use super::actor::Actor;
use super::address::{ip_of, node_of, peer_named, to_multiaddr, to_plain};
use super::operations::Operation;
use super::upkeep::EVERYBODY;
use crate::admission::{PerSource, Rate};
use crate::clock::UnixMillis;
use crate::dht::{
    Ask, Card, Enlisted, Network, Offers, Position, SHARDS, Service, ServiceEntry, Shelves, Walk, WalkConfig,
};
use crate::ledger::Fact;
use crate::reachability::Address;
use crate::record::RecordKey;
use bytes::Bytes;
use errand::{Came, Goal, Way};
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The own entry is shown again after this, give or take [`SPREAD`], as records are.
const ENTER_AGAIN: Duration = Duration::from_secs(1_200);
const SPREAD: u64 = 300;

/// After a start or a new address, and after an errand that nobody listed us on; then doubling.
const ENTER_SOON: Duration = Duration::from_secs(5);
const ENTER_FAILED: Duration = Duration::from_secs(30);

/// Nobody looks more seldom than this.
const SEARCH_MOST: Duration = Duration::from_secs(3_600);

/// Lists read at once, and relays dialled after that.
const LISTS_READ: usize = 2;
const TRIED: usize = 4;

/// An owner that was found where it says is not dialled for its next entries for so long, milliseconds.
const FOUND_LATELY_MS: u64 = 3_600_000;

/// Owners that are being dialled back, and how long the dial and its place in the line may take.
const MAX_TRYING: usize = 64;
const TRYING: Duration = Duration::from_secs(20);

/// Entries of one owner: it comes every twenty minutes, and sooner when it has moved.
const PER_OWNER: Rate = Rate { per_second: 1.0 / 60.0, burst: 6.0 };
const MAX_OWNERS: usize = 1_024;

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nobody can call this node: every list is read until somebody is named.
    Circuits,
    /// Some calls may have no voice: a pair of lists now and then.
    Media,
}

impl Need {
    /// Until the first search; each later one takes twice as long as the one before. Identify may bring relays in meanwhile.
    fn patience(self) -> Duration {
        Duration::from_secs(match self {
            Need::Circuits => 2,
            Need::Media => 60,
        })
    }

    fn lists(self) -> u8 {
        match self {
            Need::Circuits => SHARDS,
            Need::Media => LISTS_READ as u8,
        }
    }
}

struct Trying {
    key: RecordKey,
    entry: ServiceEntry,
    since: Instant,
}

pub(super) struct Listing {
    pub(super) shelves: Shelves,
    trying: HashMap<PeerId, Trying>,
    owners: PerSource<PeerId>,
    enter_at: Instant,
    enter_pause: Duration,
    /// Where the last entry said that this node is.
    entered: Vec<Address>,
    need: Option<Need>,
    search_at: Instant,
    search_pause: Duration,
    /// Lists that are still to be read in this search, and errands under way to others.
    unread: Vec<u8>,
    reading: usize,
}

impl Listing {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            shelves: Shelves::default(),
            trying: HashMap::new(),
            owners: PerSource::of_free_names(PER_OWNER, MAX_OWNERS),
            enter_at: now + ENTER_SOON,
            enter_pause: ENTER_FAILED,
            entered: Vec::new(),
            need: None,
            search_at: now,
            search_pause: SEARCH_MOST,
            unread: Vec::new(),
            reading: 0,
        }
    }
}

/// For others.
impl Actor {
    /// To LIST.
    pub(super) fn listed_under(&self, key: &RecordKey, wall: UnixMillis) -> Vec<Bytes> {
        self.listing.shelves.some(key, self.salt(), wall)
    }

    /// To ENLIST: an entry of who asks, and of nobody else; dialled back only where it comes from.
    pub(super) fn enlist(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        key: &RecordKey,
        signed: &Bytes,
        now: Instant,
        wall: UnixMillis,
    ) -> Enlisted {
        if !self.listing.owners.take(peer, now) {
            self.meter.refuse("service: too often".into());
            return Enlisted::Full;
        }
        let entry = match ServiceEntry::read(signed, key, &self.overlay, self.scope, wall) {
            Ok(entry) => entry,
            Err(error) => {
                self.meter.refuse(format!("service: {error}"));
                self.ledger.note(peer, Fact::Refused, now);
                return Enlisted::Invalid;
            }
        };
        let region = self.region();
        if !self.holding().is_mine(key, region) {
            return Enlisted::NotMine;
        }
        let from = self.inbound.get(&connection).and_then(ip_of).or_else(|| self.dialled_ip(&peer));
        let here = |ip: IpAddr| move |address: &&Address| address.ip.to_canonical() == ip.to_canonical();
        let at: Vec<Multiaddr> =
            from.map(|ip| entry.addresses.iter().filter(here(ip)).map(to_multiaddr).collect()).unwrap_or_default();
        let (Some(ip), false) = (from, at.is_empty()) else {
            // Nobody sends us to a third party.
            self.meter.refuse("service: not where it comes from".into());
            return Enlisted::Invalid;
        };
        if node_of(&peer) != Some(entry.node) || entry.verify(&self.overlay).is_err() {
            self.meter.refuse("service: not signed by who asks".into());
            self.ledger.note(peer, Fact::Forged, now);
            return Enlisted::Invalid;
        }
        let shelves = &mut self.listing.shelves;
        if shelves.found_lately(key, &entry, FOUND_LATELY_MS, wall) {
            shelves.renew(key, entry);
            return Enlisted::Listed;
        }
        if !shelves.has_room(key, &entry.node, ip) {
            self.meter.refuse("service: no room for its network".into());
            return Enlisted::Full;
        }
        let trying = &mut self.listing.trying;
        if !trying.contains_key(&peer) && trying.len() >= MAX_TRYING {
            self.meter.refuse("service: too many to be found".into());
            return Enlisted::Full;
        }
        trying.insert(peer, Trying { key: *key, entry, since: now });
        at.iter().for_each(|address| self.dialling.free(address));
        self.feel_out(peer, at, now);
        Enlisted::Trying
    }

    fn dialled_ip(&self, peer: &PeerId) -> Option<IpAddr> {
        self.peers.dialled_at(peer).and_then(ip_of)
    }

    /// We dialled a peer, and it was there.
    pub(super) fn listing_found(&mut self, peer: &PeerId, address: &Multiaddr) {
        let Some(plain) = to_plain(address) else { return };
        let plain = Address { ip: plain.ip.to_canonical(), ..plain };
        if self.listing.trying.get(peer).is_some_and(|trying| trying.entry.addresses.contains(&plain))
            && let Some(Trying { key, entry, .. }) = self.listing.trying.remove(peer)
            && !self.listing.shelves.put(key, entry, plain.ip, UnixMillis::now())
        {
            self.meter.refuse("service: no room for its network".into());
        }
    }
}

/// For this node.
impl Actor {
    /// Once a second.
    pub(super) fn listing_round(&mut self, now: Instant) {
        self.listing.trying.retain(|_, trying| now.saturating_duration_since(trying.since) < TRYING);
        if self.table.is_empty() {
            return;
        }
        self.enter(now);
        self.search(now);
    }

    fn offers(&self) -> Offers {
        Offers { circuits: self.serves_circuits(), media: self.relaying.gives_media() }
    }

    fn enter(&mut self, now: Instant) {
        let offers = self.offers();
        if !offers.any() || self.upkeep.direct.is_empty() {
            return;
        }
        if self.listing.entered != self.upkeep.direct && !self.listing.entered.is_empty() {
            // It has moved.
            self.listing.entered.clear();
            self.listing.enter_at = self.listing.enter_at.min(now + ENTER_SOON);
        }
        if now < self.listing.enter_at {
            return;
        }
        let (wall, direct) = (UnixMillis::now(), self.upkeep.direct.clone());
        let entry = ServiceEntry::sign(&self.secret, &self.overlay, Service::Relay, offers, &direct, wall);
        let Some(entry) = entry else { return };
        self.listing.entered = direct;
        self.listing.enter_at = now + self.listing.enter_pause;
        let list = Service::Relay.list_of(&self.overlay, &self.node);
        self.send_errand(list, Goal::Enter(entry.signed), now);
    }

    /// Looks for relays while there are too few.
    fn search(&mut self, now: Instant) {
        let need = self.need(now);
        let listing = &mut self.listing;
        if std::mem::replace(&mut listing.need, need) != need {
            listing.unread.clear();
            listing.search_pause = need.map_or(SEARCH_MOST, Need::patience);
            listing.search_at = now + listing.search_pause;
        }
        let Some(need) = need else { return };
        if now >= listing.search_at {
            listing.search_pause = (listing.search_pause * 2).min(SEARCH_MOST);
            listing.search_at = now + listing.search_pause;
            let [first] = crate::identity::random();
            listing.unread = (0..need.lists()).map(|n| first.wrapping_add(n * 5) % SHARDS).collect();
        }
        if listing.reading > 0 {
            return;
        }
        for shard in listing.unread.split_off(listing.unread.len().saturating_sub(LISTS_READ)) {
            self.listing.reading += 1;
            self.send_errand(Service::Relay.list(&self.overlay, shard), Goal::Read, now);
        }
    }

    fn need(&self, now: Instant) -> Option<Need> {
        if self.wants_more_circuits(now) {
            return Some(Need::Circuits);
        }
        let has_media = self.relaying.gives_media() || self.relaying.knows_media_relay();
        (!has_media).then_some(Need::Media)
    }

    fn send_errand(&mut self, list: RecordKey, goal: Goal, now: Instant) {
        let (target, wall) = (Position::of_key(&list), UnixMillis::now());
        let way = if self.table.len() < EVERYBODY {
            Way::Known(self.table.answer(&target, wall))
        } else {
            let (salt, radius) = (self.salt(), self.table.estimate().region());
            let seeds = self.seeds(&target, salt, now);
            let config = match goal {
                Goal::Enter(_) => WalkConfig::default(),
                // There are other lists, and one honest holder is enough.
                Goal::Read => WalkConfig { paths: 2, first: 2, quota: 16, alarm_quota: 16, ..WalkConfig::default() },
            };
            Way::Walk(Box::new(Walk::new(target, seeds, radius, config, salt, now)))
        };
        let mut errand = Errand::new(list, goal, way, now);
        if errand.reads() {
            // What this node keeps itself.
            errand.came_home(self.listed_under(&list, wall));
        }
        self.enqueue(Operation::Errand(Box::new(errand)));
    }

    /// An errand is over.
    pub(super) fn errand_ended(&mut self, errand: Errand, now: Instant) {
        match errand.came() {
            Came::Entered { listed, asked } => {
                tracing::debug!(listed, asked, "entered the list of relays");
                let listing = &mut self.listing;
                let pause = if listed > 0 {
                    listing.enter_pause = ENTER_FAILED;
                    let [a, b] = crate::identity::random();
                    let spread = u64::from(u16::from_be_bytes([a, b])) % (2 * SPREAD);
                    ENTER_AGAIN - Duration::from_secs(SPREAD) + Duration::from_secs(spread)
                } else {
                    listing.enter_pause = (listing.enter_pause * 2).min(ENTER_AGAIN);
                    listing.enter_pause
                };
                listing.enter_at = now + pause;
            }
            Came::Read { list, entries } => {
                self.listing.reading = self.listing.reading.saturating_sub(1);
                if self.try_listed(&list, &entries, now) {
                    // They are given time to prove themselves; the next search is not far.
                    self.listing.unread.clear();
                } else {
                    self.search(now);
                }
            }
        }
    }

    /// Dials some of those that a list names, of different networks. What they say of themselves then, and whether they
    /// grant what they are asked, is all that counts. False if it names nobody of use.
    fn try_listed(&mut self, list: &RecordKey, entries: &[Bytes], now: Instant) -> bool {
        let (wall, mut seen, mut networks) = (UnixMillis::now(), HashSet::new(), HashSet::new());
        let mut tried = 0;
        for signed in entries {
            let entry = match ServiceEntry::read(signed, list, &self.overlay, self.scope, wall) {
                Ok(entry) => entry,
                Err(error) => {
                    self.meter.refuse(format!("service: {error}"));
                    continue;
                }
            };
            let Some(peer) = peer_named(&entry.node).filter(|peer| *peer != self.here) else { continue };
            let known = self.swarm.is_connected(&peer) || self.ledger.avoids(&peer, now);
            if known || !seen.insert(peer) || !self.is_of_use(&entry, now) {
                continue;
            }
            let wide = entry.network().map(|network: Network| network.wide);
            let global = entry.addresses.iter().any(|address| crate::wire::is_global(address.ip));
            if global && !networks.insert(wide) {
                continue;
            }
            if entry.verify(&self.overlay).is_err() {
                self.meter.refuse("service: forged".into());
                continue;
            }
            tried += 1;
            if tried > TRIED {
                break;
            }
            // Hearsay: the guard of all dials counts them.
            let addresses = entry.addresses.iter().map(to_multiaddr).collect();
            let opts = DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing).addresses(addresses);
            if let Err(error) = self.swarm.dial(opts.build()) {
                tracing::trace!(%peer, %error, "a listed relay is not dialled");
            }
        }
        tracing::debug!(entries = entries.len(), tried, "read a list of relays");
        tried > 0
    }

    fn is_of_use(&self, entry: &ServiceEntry, now: Instant) -> bool {
        entry.offers.media || entry.offers.circuits && self.wants_more_circuits(now)
    }
}
