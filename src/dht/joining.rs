//! The way in (SECURITY §4.7): which sources are asked, and when their view is believed. Pure.
//!
//! ```text
//! anchors, tried peers ┐
//! contacts' last nodes ├─▶ dial ─▶ search for ourselves, through this source alone ─▶ views ─▶ do 3 networks agree?
//! bootstrap, DNS, LAN  ┘                                                              table takes all of them
//! ```
//!
//! No view is ever thrown away: everybody it shows is dialled and goes into the table by the table's rules, so one
//! honest source is enough to be in touch with honest nodes. Whether to *believe* that this is all of the overlay is the
//! other question, and its answer is a state that the user sees. Who has only ever known one source, and that one lies,
//! cannot find out; with records of others to check, even then.

mod cache;
mod checks;
mod choice;
mod contacts;
mod outbound;
mod standing;
#[cfg(test)]
mod tests;
mod views;

pub use cache::{ANCHORS, PeerCache, Remembered};
pub use contacts::Contacts;
pub use outbound::outbound;
pub use standing::{Doubt, Lead, LeadId, Source, Standing, Task};

use super::{Network, between_checks};
use crate::clock::UnixMillis;
use crate::identity::NodeKey;
use crate::reachability::Address;
use checks::Checking;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};
use views::{NEEDED, View, Views};

/// Dials at once, and how long one may take until the next lead's turn comes.
const AT_ONCE: usize = 8;
const DIAL: Duration = Duration::from_secs(10);

/// A search through one source.
const LOOK: Duration = Duration::from_secs(20);

/// A lead is followed again after this, doubling to the other.
const AGAIN: Duration = Duration::from_secs(2);
const AGAIN_MOST: Duration = Duration::from_secs(64);

/// While sources disagree all of them are asked once more after this, doubling to the other: an overlay that grows
/// shows different sets for a while. All, as what they show goes into the table, and no side is to show more of itself.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN_MOST: Duration = Duration::from_secs(480);

/// Doubt is told only when it lasts: a node that starts has no views for some seconds. A quarter of the ten minutes
/// within which isolation is to be seen.
const GRACE: Duration = Duration::from_secs(150);

/// Networks beyond the needed ones that views are fetched from: room for liars and the dead.
const SPARE: usize = 2;

/// Views that are enough where there are not so many networks: an office, a laboratory.
const ENOUGH: usize = 8;

/// Records are checked this long after joining, then now and then ([`between_checks`]), as views are fetched anew. While
/// there is doubt, views come each hour; while records are missed, they are checked each minute.
const FIRST_CHECK: Duration = Duration::from_secs(240);
const DOUBTED_AGAIN: Duration = Duration::from_secs(3_600);
const CHECK_AGAIN: Duration = Duration::from_secs(60);

/// Checks that found nobody, each by another way, until that is told: where a third lies, one way in three is lost.
const MISSED: u32 = 4;

/// Eight an hour (SECURITY §4.7).
const FEELER: Duration = Duration::from_secs(450);

/// A cached peer counts as a known network when it was seen within a week.
const RECENT_MS: u64 = 7 * 86_400_000;

/// Leads at most, beside the cache.
const MAX_LEADS: usize = 256;

/// An overlay of at least this many that is less than a quarter of what it was has shrunk.
const LARGE: f64 = 32.0;
const SHRUNK: f64 = 4.0;

/// Contacts' nodes are away more often than not, and are people's own: while all is well they are not called up again
/// sooner.
const CONTACT_AGAIN_MOST: Duration = Duration::from_secs(3_600);

/// All that a list in the DNS names counts as one network: it is unsigned, and who can forge it forges it as a whole.
const LISTED: Network = Network { subnet: 1 << 62, wide: 1 << 62, system: 1 << 62 };

#[derive(Clone, Debug)]
struct Path {
    lead: Lead,
    network: Option<Network>,
    /// Authenticated as.
    node: Option<NodeKey>,
    busy_until: Option<Instant>,
    again_at: Instant,
    pause: Duration,
    feeler: bool,
    /// Dialled in this round, which lasts an hour.
    asked: bool,
    /// Reached at the last dial.
    up: bool,
    /// Its network is one that nodes are known in: not that of a peer which was not seen for days.
    recent: bool,
}

/// The way in, and the watch over it.
#[derive(Debug)]
pub struct Joining {
    cache: PeerCache,
    contacts: Contacts,
    leads: Vec<Path>,
    next: u32,
    salt: u64,
    views: Views,
    /// Whom to search through, and who is searching until when.
    to_look: Vec<NodeKey>,
    looking: HashMap<NodeKey, Instant>,
    look_again_at: Option<Instant>,
    look_pause: Duration,
    networks: HashMap<NodeKey, Network>,
    lan: HashSet<NodeKey>,
    standing: Standing,
    doubt_since: Option<Instant>,
    feeler_at: Instant,
    check_at: Instant,
    /// All sources were asked for their views.
    viewed_at: Instant,
    checking: Checking,
    missed_checks: u32,
    /// Nobody is connected.
    alone: bool,
    /// Nodes of the overlay at its best, by the views that were believed.
    nodes_before: f64,
}

impl Joining {
    /// `nodes_before`: [`Joining::nodes`] of the last session, 0 for none. `salt` makes choices differ from start to
    /// start.
    pub fn new(cache: PeerCache, nodes_before: f64, salt: u64, now: Instant, wall: UnixMillis) -> Self {
        let mut joining = Self {
            cache,
            contacts: Contacts::default(),
            leads: Vec::new(),
            next: 0,
            salt,
            views: Views::default(),
            to_look: Vec::new(),
            looking: HashMap::new(),
            look_again_at: None,
            look_pause: LOOK_AGAIN,
            networks: HashMap::new(),
            lan: HashSet::new(),
            standing: Standing::Alone,
            doubt_since: None,
            feeler_at: now + FEELER,
            check_at: now + FIRST_CHECK,
            viewed_at: now,
            checking: Checking::default(),
            missed_checks: 0,
            alone: false,
            nodes_before,
        };
        let tried: Vec<Remembered> = joining.cache.in_order(true, salt, wall).into_iter().cloned().collect();
        let mut wides = super::Diversity::default();
        let caps = super::Caps { subnet: 1, wide: 1, system: 1 };
        let (first, rest): (Vec<_>, Vec<_>) =
            tried.into_iter().partition(|peer| peer.anchor || wides.admit(&peer.network(), &caps));
        for peer in first.into_iter().chain(rest).take(64) {
            let source = match (peer.near, peer.anchor) {
                (true, _) => Source::Lan,
                (false, true) => Source::Anchor,
                (false, false) => Source::Tried,
            };
            joining.add_lead(source, Some(peer.node), &peer.addresses, None, 0, now);
            if let Some(path) = joining.leads.last_mut() {
                path.recent = wall.0.saturating_sub(peer.last_seen.0) < RECENT_MS;
            }
        }
        joining
    }

    /// Users that were called before: their nodes are followed, and they are looked for from time to time.
    pub fn know(&mut self, contacts: Contacts, now: Instant) {
        self.contacts = contacts;
        for (node, addresses) in self.contacts.leads() {
            self.add_lead(Source::Contact, Some(node), &addresses, None, 0, now);
        }
    }

    /// Somebody who may lead into the overlay. `ip`: where, when `addresses` does not say; `index` is handed back.
    pub fn add_lead(
        &mut self,
        source: Source,
        node: Option<NodeKey>,
        addresses: &[Address],
        ip: Option<IpAddr>,
        index: usize,
        now: Instant,
    ) {
        let known = |path: &Path| match node {
            Some(node) => path.node == Some(node) || path.lead.node == Some(node),
            None => path.lead.source == source && path.lead.index == index && path.lead.addresses == addresses,
        };
        if self.leads.len() >= MAX_LEADS || self.leads.iter().any(known) {
            return;
        }
        let network = match source {
            Source::Dns => Some(LISTED),
            _ => addresses.first().map(|first| first.ip).or(ip).map(Network::of),
        };
        self.leads.push(Path {
            lead: Lead { id: LeadId(self.next), source, node, addresses: addresses.to_vec(), index },
            network,
            node,
            busy_until: None,
            again_at: now,
            pause: AGAIN,
            feeler: false,
            asked: false,
            up: false,
            recent: true,
        });
        self.next = self.next.wrapping_add(1);
        if source == Source::Lan {
            self.lan.extend(node);
        }
        if self.standing == Standing::Alone {
            self.standing = Standing::Joining;
        }
    }

    /// Nodes that were found on the same network, and where.
    pub fn neighbours(&self) -> impl Iterator<Item = (NodeKey, &[Address])> {
        let near = self.leads.iter().filter(|path| path.lead.source == Source::Lan);
        near.filter_map(|path| Some((path.lead.node?, path.lead.addresses.as_slice())))
    }

    /// A new list of this source comes: who was named by the last one and is not there makes room.
    pub fn forget_unreached(&mut self, source: Source) {
        self.leads.retain(|path| path.up || path.busy_until.is_some() || path.lead.source != source);
    }

    /// The next thing to do now; to be called until `None` after each input and at [`Joining::poll_timeout`].
    pub fn poll(&mut self, now: Instant, wall: UnixMillis) -> Option<Task> {
        self.expire(now);
        if let Some(node) = self.to_look.pop() {
            self.looking.insert(node, now + LOOK);
            return Some(Task::Look(node));
        }
        if now >= self.views_due() {
            self.viewed_at = now;
            self.ask_anew(now);
        }
        if let Some(task) = self.poll_check(now, wall) {
            return Some(task);
        }
        if let Some(lead) = self.next_lead(now) {
            return Some(Task::Dial(lead));
        }
        if now >= self.feeler_at {
            self.feeler_at = now + FEELER;
            return self.next_feeler(now, wall).map(Task::Feeler);
        }
        None
    }

    /// When to call [`Joining::poll`] again at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let wanted = |path: &Path| (!path.up && self.wants_path(path)).then_some(path.again_at);
        let leads = self.leads.iter().filter_map(|path| path.busy_until.or_else(|| wanted(path)));
        let doubt = self.doubt_since.map(|since| since + GRACE).filter(|_| !self.is_doubted());
        leads
            .chain(self.looking.values().copied())
            .chain(self.look_again_at)
            .chain(doubt)
            .chain([self.feeler_at, self.views_due(), self.check_at])
            .min()
    }

    /// Nobody is connected: all leads are to be followed again. To be called as long as it is so.
    pub fn alone(&mut self, now: Instant) {
        self.alone = true;
        for path in self.leads.iter_mut().filter(|path| path.up) {
            (path.up, path.again_at) = (false, now);
        }
    }

    /// A lead was dialled and authenticated as `node`; at `address`, if that was one and no name.
    pub fn reached(&mut self, id: LeadId, node: NodeKey, address: Option<Address>, now: Instant, wall: UnixMillis) {
        self.alone = false;
        self.check_reached(id, Some(node));
        let Some(path) = self.leads.iter_mut().find(|path| path.lead.id == id) else { return };
        // Names of the configuration stand for themselves.
        let named = u64::from(id.0) | 1 << 63;
        let network = address.map(|address| Network::of(address.ip)).or(path.network);
        let network = match path.lead.source {
            Source::Dns => LISTED,
            _ => network.unwrap_or(Network { subnet: named, wide: named, system: named }),
        };
        (path.busy_until, path.up, path.pause) = (None, true, AGAIN);
        (path.node, path.network) = (Some(node), Some(network));
        let feeler = path.feeler;
        let lan = path.lead.source == Source::Lan;
        let mut addresses: Vec<Address> = address.into_iter().collect();
        addresses.extend(path.lead.addresses.iter().filter(|other| address != Some(**other)));
        self.cache.reached(node, &addresses, wall);
        if lan {
            self.cache.found_near(&node);
        }
        if feeler {
            self.leads.retain(|path| path.lead.id != id);
            return;
        }
        self.networks.insert(node, network);
        if lan {
            self.lan.insert(node);
        }
        if !self.looking.contains_key(&node) && !self.to_look.contains(&node) {
            self.to_look.push(node);
        }
        self.judge(now);
    }

    /// A lead could not be reached.
    pub fn unreached(&mut self, id: LeadId, now: Instant) {
        self.check_reached(id, None);
        let Some(path) = self.leads.iter_mut().find(|path| path.lead.id == id) else { return };
        let settled = !self.alone && self.standing == Standing::Joined;
        let most = if path.lead.source == Source::Contact && settled { CONTACT_AGAIN_MOST } else { AGAIN_MOST };
        path.busy_until = None;
        path.up = false;
        path.again_at = now + path.pause;
        path.pause = (path.pause * 2).min(most);
        let node = path.node;
        if path.feeler {
            self.leads.retain(|path| path.lead.id != id);
        }
        if let Some(node) = node {
            self.cache.missed(&node);
            self.views.forget(&node);
        }
        self.judge(now);
    }

    /// A search through `through` ended: `nearest` to this node who answered, up to ten, this node not among them, and
    /// how many nodes the overlay has by their distances. Nobody: it does not help.
    pub fn looked(&mut self, through: NodeKey, nearest: &[NodeKey], nodes: f64, now: Instant) {
        if self.looking.remove(&through).is_none() {
            return;
        }
        let Some(network) = self.networks.get(&through).copied() else { return };
        if nearest.is_empty() {
            self.views.forget(&through);
        } else {
            let nearest = nearest.iter().take(super::REGION).copied().collect();
            self.views.add(View { through, network, nearest, nodes });
        }
        self.judge(now);
        if self.views.verdict().dissent > 0 && self.look_again_at.is_none() {
            self.look_again_at = Some(now + self.look_pause);
            self.look_pause = (self.look_pause * 2).min(LOOK_AGAIN_MOST);
        } else if self.views.verdict().dissent == 0 {
            (self.look_again_at, self.look_pause) = (None, LOOK_AGAIN);
        }
    }

    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Nodes of the overlay by the views that are believed; to be given to the next session.
    pub fn nodes(&self) -> f64 {
        self.nodes_before
    }

    /// Users that were called, to be remembered across restarts too; told of each call that was put through.
    pub fn contacts(&mut self) -> &mut Contacts {
        &mut self.contacts
    }

    /// What is remembered across restarts; also told of peers that this node reached or heard of otherwise.
    pub fn cache(&mut self) -> &mut PeerCache {
        &mut self.cache
    }

    /// Time passed: dials and searches that got no word, sources to be asked once more.
    fn expire(&mut self, now: Instant) {
        let over: Vec<LeadId> =
            self.leads.iter().filter(|p| p.busy_until.is_some_and(|at| now >= at)).map(|p| p.lead.id).collect();
        for id in over {
            self.unreached(id, now);
        }
        let late: Vec<NodeKey> = self.looking.iter().filter(|(_, at)| now >= **at).map(|(node, _)| *node).collect();
        for node in late {
            self.looked(node, &[], 1.0, now);
        }
        if self.look_again_at.is_some_and(|at| now >= at) {
            self.look_again_at = None;
            self.look_at_all();
        }
        self.judge(now);
    }

    /// When views are to be fetched anew.
    fn views_due(&self) -> Instant {
        self.viewed_at + if self.is_doubted() { DOUBTED_AGAIN } else { between_checks(self.nodes()) }
    }

    /// The round of all views: all sources that gave a view are to give one again, and others from the cache may be new.
    fn ask_anew(&mut self, now: Instant) {
        if self.standing == Standing::PossiblyIsolated(Doubt::Shrunk) {
            // Some day that is how it is.
            self.nodes_before *= 0.9;
        }
        for path in &mut self.leads {
            if path.busy_until.is_none() {
                (path.up, path.again_at, path.asked) = (false, now, false);
            }
        }
        self.look_at_all();
    }

    fn look_at_all(&mut self) {
        let sources: Vec<NodeKey> = self.views.iter().map(|view| view.through).collect();
        for node in sources {
            if !self.looking.contains_key(&node) && !self.to_look.contains(&node) {
                self.to_look.push(node);
            }
        }
    }

    fn is_doubted(&self) -> bool {
        matches!(self.standing, Standing::PossiblyIsolated(_))
    }

    /// The standing by all that is known at `now`.
    fn judge(&mut self, now: Instant) {
        let doubt = self.doubt();
        match doubt {
            None if self.views.networks() == 0 => {
                self.doubt_since = None;
                self.standing = if self.leads.is_empty() { Standing::Alone } else { Standing::Joining };
            }
            None => {
                self.doubt_since = None;
                self.standing = Standing::Joined;
                let nodes = self.views.nodes().unwrap_or(0.0);
                // What was once larger is forgotten slowly, or an overlay could not shrink for good.
                self.nodes_before = nodes.max(self.nodes_before.min(nodes * SHRUNK));
            }
            Some(doubt) => {
                let since = *self.doubt_since.get_or_insert(now);
                if self.is_doubted() || now >= since + GRACE {
                    self.standing = Standing::PossiblyIsolated(doubt);
                } else if self.standing == Standing::Alone {
                    self.standing = Standing::Joining;
                }
            }
        }
    }
}
