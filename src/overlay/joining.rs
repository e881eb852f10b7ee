//! The way in, as `dht::Joining` says it: leads are dialled, searches made through them, records checked; and what the
//! next session is to know is kept: the cache of peers, the overlay's size, the time that this node was up.

use super::NodeSecret;
use super::actor::Actor;
use super::address::{ip_of, node_of, peer_named, to_multiaddr, to_plain};
use super::checking::Check;
use crate::clock::UnixMillis;
use crate::dht::{Card, Contacts, Joining, Lead, LeadId, Network, PeerCache, Source, Standing, Task, Uptime};
use crate::identity::NodeKey;
use crate::reachability::Address;
use crate::store::{Row, Store, StoreError, Table};
use crate::uri::IdHash;
use crate::wire::{AddressScope, is_global};
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A lead's card is waited for this long before the search through it is given up.
pub(super) const CARD: Duration = Duration::from_secs(5);

/// Users that were found and may be looked up again to see whether they still are.
const MAX_FOUND: usize = 16;

/// Rows of [`Table::Peers`] that are no peers; of a contact with the user's 22 bytes after it.
const NODES: &[u8] = b"nodes";
const UPTIME: &[u8] = b"uptime";
const CONTACT: &[u8] = b"contact";

/// The way in and what it waits for.
pub(super) struct WayIn {
    pub(super) engine: Joining,
    dials: HashMap<ConnectionId, LeadId>,
    /// Whom to search through once its card is here.
    looks: Vec<(NodeKey, Instant)>,
    /// Users that were found, the latest last.
    pub(super) found: VecDeque<IdHash>,
    pub(super) check: Option<Check>,
    told: Standing,
}

impl WayIn {
    /// Somebody found this user's record at other nodes.
    pub(super) fn found(&mut self, who: IdHash) {
        self.found.retain(|other| *other != who);
        if self.found.len() == MAX_FOUND {
            self.found.pop_front();
        }
        self.found.push_back(who);
    }
}

/// What the last session left, and the bootstrap nodes. Blocking, but short: 1,300 rows at most.
pub(super) fn restore(
    secret: &NodeSecret,
    bootstrap: &[(Multiaddr, Option<PeerId>)],
    store: &Store,
    now: Instant,
) -> (WayIn, Uptime) {
    let key = Sha256::new().chain_update(b"peerline peer cache").chain_update(secret.to_bytes()).finalize().into();
    let rows = store.scan(Table::Peers, usize::MAX).unwrap_or_else(|error| {
        tracing::warn!(%error, "the cache of peers cannot be read");
        Vec::new()
    });
    let row = |name: &[u8]| rows.iter().find(|(key, _)| key == name).map(|(_, row)| row.as_slice());
    let nodes = row(NODES).and_then(|row| row.try_into().ok()).map_or(0.0, f64::from_be_bytes);
    let nodes = if nodes.is_finite() { nodes.clamp(0.0, 1e9) } else { 0.0 };
    let uptime = Uptime::decode(row(UPTIME).unwrap_or_default());
    let peers = rows.iter().filter_map(|(key, row)| Some((NodeKey(key.as_slice().try_into().ok()?), row.as_slice())));
    let cache = PeerCache::from_rows(key, peers);
    let salt = u64::from_be_bytes(crate::identity::random());
    let mut engine = Joining::new(cache, nodes, salt, now, UnixMillis::now());
    for (index, (address, peer)) in bootstrap.iter().enumerate() {
        let node = peer.as_ref().and_then(node_of);
        let plain: Vec<Address> = to_plain(address).into_iter().collect();
        engine.add_lead(Source::Bootstrap, node, &plain, ip_of(address), index, now);
    }
    let contact = |(key, row): &'_ (Vec<u8>, Vec<u8>)| {
        let user = key.strip_prefix(CONTACT)?.try_into().ok()?;
        Some((IdHash(user), row.clone()))
    };
    let contacts: Vec<(IdHash, Vec<u8>)> = rows.iter().filter_map(contact).collect();
    engine.know(Contacts::from_rows(contacts.iter().map(|(user, row)| (*user, row.as_slice()))), now);
    let way_in = WayIn {
        engine,
        dials: HashMap::new(),
        looks: Vec::new(),
        found: VecDeque::new(),
        check: None,
        told: Standing::Alone,
    };
    (way_in, uptime)
}

impl Actor {
    /// Does what the way in asks for.
    pub(super) fn join(&mut self, now: Instant) {
        let wall = UnixMillis::now();
        if self.peers.connected_count() == 0 {
            self.joining.engine.alone(now);
        }
        while let Some(task) = self.joining.engine.poll(now, wall) {
            match task {
                Task::Dial(lead) | Task::Feeler(lead) => self.follow(lead, now, wall),
                Task::Look(node) => self.joining.looks.push((node, now)),
                Task::Check(through) => self.check(through, now),
            }
        }
        self.look(now);
        self.check_round(now);
        let standing = self.joining.engine.standing();
        if std::mem::replace(&mut self.joining.told, standing) != standing {
            self.upkeep.changed = true;
            match standing {
                Standing::PossiblyIsolated(why) => tracing::warn!(%why, "possibly isolated from the overlay"),
                Standing::Alone | Standing::Joining | Standing::Joined => tracing::debug!(%standing, "joining"),
            }
        }
    }

    fn follow(&mut self, lead: Lead, now: Instant, wall: UnixMillis) {
        let configured = self.bootstrap.get(lead.index).filter(|_| lead.source == Source::Bootstrap).cloned();
        let peer = lead.node.as_ref().and_then(peer_named).or(configured.as_ref().and_then(|(_, peer)| *peer));
        if let Some(peer) = peer
            && let Some(node) = node_of(&peer)
            && let Some(address) = self.peers.dialled_at(&peer).cloned()
        {
            self.joining.engine.reached(lead.id, node, to_plain(&address), now, wall);
            return;
        }
        let addresses = match configured {
            // Everywhere it is said to be: here no UDP may pass, or no IPv4.
            Some((_, Some(named))) => {
                self.bootstrap.iter().filter(|(_, peer)| *peer == Some(named)).map(|(at, _)| at.clone()).collect()
            }
            Some((address, None)) => vec![address],
            None => lead.addresses.iter().map(to_multiaddr).collect(),
        };
        // A list in the DNS is hearsay: it leads to no private network, and is not dialled without bound.
        let hearsay = lead.source == Source::Dns;
        let addresses: Vec<Multiaddr> = addresses.into_iter().filter(|a| !hearsay || self.may_dial(a)).collect();
        addresses.iter().filter(|_| !hearsay).for_each(|address| self.dialling.free(address));
        let opts = match (peer, addresses.first()) {
            (Some(peer), _) if peer != self.here => {
                let condition = PeerCondition::DisconnectedAndNotDialing;
                DialOpts::peer_id(peer).condition(condition).addresses(addresses).build()
            }
            // Without a peer id whoever answers is taken.
            (None, Some(address)) => DialOpts::unknown_peer_id().address(address.clone()).build(),
            (Some(_) | None, _) => return self.joining.engine.unreached(lead.id, now),
        };
        let id = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => _ = self.joining.dials.insert(id, lead.id),
            Err(error) => {
                tracing::trace!(%error, "a lead is not dialled");
                self.joining.engine.unreached(lead.id, now);
            }
        }
    }

    /// A dial of ours led to a peer.
    pub(super) fn lead_reached(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        address: &Multiaddr,
        now: Instant,
        wall: UnixMillis,
    ) {
        let Some(lead) = self.joining.dials.remove(&connection) else { return };
        match node_of(&peer) {
            Some(node) => {
                self.joining.engine.reached(lead, node, to_plain(address), now, wall);
                if self.table.get(&node).is_none() && !self.ledger.shuns(&peer, now) {
                    // Without waiting for it to say what it speaks: a caller may wait for the first server.
                    self.ask_for_card(peer);
                }
            }
            None => self.joining.engine.unreached(lead, now),
        }
    }

    /// A dial of ours failed.
    pub(super) fn lead_failed(&mut self, connection: ConnectionId, now: Instant) {
        if let Some(lead) = self.joining.dials.remove(&connection) {
            self.joining.engine.unreached(lead, now);
        }
    }

    /// mDNS found a neighbour.
    pub(super) fn found_near(&mut self, peer: PeerId, address: &Multiaddr, now: Instant) {
        let (address, _) = super::address::split_peer(address.clone());
        if let (Some(node), Some(plain)) = (node_of(&peer), to_plain(&address)) {
            self.joining.engine.add_lead(Source::Lan, Some(node), &[plain], None, 0, now);
        }
    }

    /// Searches begin when the card of their source is here.
    fn look(&mut self, now: Instant) {
        for (node, since) in std::mem::take(&mut self.joining.looks) {
            if let Some(card) = self.table.card(&node).cloned() {
                self.look_through(card, now);
            } else if now < since + CARD {
                if let Some(peer) = peer_named(&node).filter(|peer| self.peers.is_connected(peer)) {
                    // It may have been busy when it was asked first.
                    self.ask_for_card(peer);
                }
                self.joining.looks.push((node, since));
            } else {
                // No server, or none that answers.
                self.joining.engine.looked(node, &[], 1.0, now);
            }
        }
    }

    /// A user of this node called `user`, who proved to be there: at an address that this node dialled, if it did.
    pub(super) fn called(&mut self, user: IdHash, node: NodeKey, wall: UnixMillis) {
        let dialled = peer_named(&node).and_then(|peer| self.peers.dialled_at(&peer)).and_then(to_plain);
        let addresses: Vec<Address> = dialled.into_iter().collect();
        self.joining.engine.contacts().met(user, node, &addresses, wall);
    }

    /// A search through one node ended.
    pub(super) fn looked(&mut self, through: &NodeKey, mut answered: Vec<Arc<Card>>, now: Instant) {
        answered.sort_by_key(|card| card.position.distance(&self.position));
        answered.truncate(crate::dht::REGION);
        let nodes = match answered.last() {
            Some(last) if answered.len() == crate::dht::REGION => {
                let farthest = last.position.distance(&self.position).fraction().max(1e-12);
                (crate::dht::REGION - 1) as f64 / farthest
            }
            _ => answered.len() as f64 + 1.0,
        };
        let nearest: Vec<NodeKey> = answered.iter().map(|card| card.node).collect();
        self.joining.engine.looked(*through, &nearest, nodes, now);
    }

    /// A server answered: what the next session is to know.
    pub(super) fn remember(&mut self, card: &Card, ip: IpAddr, chosen: bool, wall: UnixMillis) {
        let mut addresses: Vec<Address> = card.addresses.clone();
        addresses.sort_by_key(|address| address.ip != ip);
        let cache = self.joining.engine.cache();
        match chosen {
            true => _ = cache.reached(card.node, &addresses, wall),
            false => cache.heard(card.node, &addresses, &Network::of(ip), wall),
        }
    }

    /// Somebody's connection came in directly.
    pub(super) fn dialled_by(&mut self, from: Option<IpAddr>, now: Instant) {
        let openly = self.scope == AddressScope::Any || from.is_some_and(is_global);
        if let Some(from) = from {
            self.promotion.dialled_by(&Network::of(from), openly, now);
        }
        self.upkeep.changed = true;
    }

    /// Comes and goes too often to be taken for a server; where there are few, everybody is needed.
    pub(super) fn flaps(&self, peer: &PeerId, now: Instant) -> bool {
        !self.upkeep.is_small() && node_of(peer).is_some_and(|node| self.flapping.is_client(&node, now))
    }

    /// Rows for the next session.
    pub(super) fn peer_rows(&mut self) -> Vec<Row> {
        let mut oldest: Vec<_> = self.table.iter().map(|(card, first_seen)| (first_seen, card.node)).collect();
        oldest.sort_unstable_by_key(|(first_seen, node)| (*first_seen, node.0));
        // The longest connected first.
        let longest = self.slots.longest();
        let oldest: Vec<NodeKey> = longest.into_iter().chain(oldest.into_iter().map(|(_, node)| node)).collect();
        let engine = &mut self.joining.engine;
        if !oldest.is_empty() {
            // Alone for now: what was good before may be good again.
            engine.cache().set_anchors(&oldest);
        }
        let mut rows: Vec<Row> = engine.cache().rows().into_iter().map(|(node, row)| (node.0.to_vec(), row)).collect();
        let contacts = engine.contacts().rows();
        rows.extend(contacts.into_iter().map(|(user, row)| ([CONTACT, &user.0].concat(), row)));
        rows.push((NODES.to_vec(), engine.nodes().to_be_bytes().to_vec()));
        rows.push((UPTIME.to_vec(), self.promotion.uptime().encode()));
        rows
    }

    pub(super) fn save_peers(&mut self) {
        let (rows, store) = (self.peer_rows(), self.store.clone());
        tokio::task::spawn_blocking(move || write_rows(&store, &rows));
    }
}

/// Makes the table hold these rows; what is there already is not written again. Blocking.
pub(super) fn write_rows(store: &Store, rows: &[Row]) {
    let write = || -> Result<(), StoreError> {
        let old: HashMap<Vec<u8>, Vec<u8>> = store.scan(Table::Peers, usize::MAX)?.into_iter().collect();
        let keys: HashSet<&[u8]> = rows.iter().map(|(key, _)| key.as_slice()).collect();
        for key in old.keys().filter(|key| !keys.contains(key.as_slice())) {
            store.remove(Table::Peers, key)?;
        }
        for (key, row) in rows.iter().filter(|(key, row)| old.get(key) != Some(row)) {
            store.put(Table::Peers, key, row)?;
        }
        Ok(())
    };
    if let Err(error) = write() {
        tracing::warn!(%error, "the cache of peers was not written");
    }
}
