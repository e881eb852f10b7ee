//! What is done from time to time: probing, looking around, the DHT mode, the status.

use super::actor::Actor;
use super::address::node_of;
use super::asking::Asker;
use super::{OverlayEvent, OverlayStatus};
use crate::clock::UnixMillis;
use crate::dht::{Ask, Pace, Standing, between_walks};
use crate::reachability;
use crate::wire::is_global;
use libp2p::kad;
use std::time::{Duration, Instant};

/// The status and addresses are looked at again this soon after a change, and every second anyway.
const SOON: Duration = Duration::from_millis(100);
const ROUND: Duration = Duration::from_secs(1);

/// Walks to the own position and to a far corner: at once when the first server is known, then after 2 s, doubling up to
/// 5 minutes, or less while there are few, and more in large overlays, see [`between_walks`].
const WALK_FIRST: Duration = Duration::from_secs(2);
const WALK_MOST: Duration = Duration::from_secs(300);
const WALK_FEW: Duration = Duration::from_secs(30);
const FEW: usize = 4;

/// Overlays of so many nodes have one region.
pub(super) const EVERYBODY: usize = 64;

/// Servers probed in one round.
const MAX_PROBES: usize = 4;

/// The cache of peers is written, and expired records dropped, this often.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

/// A node is a newcomer for so long.
const NEW: Duration = Duration::from_secs(10);

/// Overlays below this dial everybody back, so that all may serve, and bear it that nodes come and go.
const SMALL: usize = 200;

/// Nodes that dial a client back, on average, when all meet it: three networks are to see that it can be reached.
const DIALLED_BACK: usize = 12;

pub(super) struct Upkeep {
    /// Something happened that the status shows.
    pub(super) changed: bool,
    pub(super) addresses_changed: bool,
    /// This node serves the DHT.
    pub(super) server: bool,
    pub(super) estimate: usize,
    /// Where this node could be dialled when that was last looked at.
    pub(super) direct: Vec<reachability::Address>,
    started: Instant,
    shown_at: Instant,
    round_at: Instant,
    walk_at: Option<Instant>,
    walk_pause: Duration,
    /// Servers known at the last walk, and when it was.
    walk_knew: usize,
    walked_at: Instant,
    housekeeping_at: Instant,
}

impl Upkeep {
    pub(super) fn new(server: bool, now: Instant) -> Self {
        Self {
            changed: true,
            addresses_changed: true,
            server,
            estimate: 1,
            direct: Vec::new(),
            started: now,
            shown_at: now,
            round_at: now,
            walk_at: None,
            walk_pause: WALK_FIRST,
            walk_knew: 0,
            walked_at: now,
            housekeeping_at: now + HOUSEKEEPING,
        }
    }

    /// Something waits to be shown.
    pub(super) fn is_due(&self) -> bool {
        self.changed || self.addresses_changed
    }

    /// Whom this node is to know, it may be meeting just now.
    pub(super) fn is_new(&self, now: Instant) -> bool {
        now < self.started + NEW
    }

    pub(super) fn is_small(&self) -> bool {
        self.estimate < SMALL
    }

    /// A quarter of the servers known at the last walk is gone: it does not wait for its hour.
    fn lost_many(&self, known: usize, now: Instant) -> bool {
        known * 4 < self.walk_knew * 3 && now >= self.walked_at + WALK_MOST
    }

    /// Whether this node is one of those who dial a client back that may want to serve, so that some do and not all: it
    /// meets everybody in a small overlay.
    pub(super) fn is_small_and_drawn(&self) -> bool {
        let [lot] = crate::identity::random();
        self.is_small() && usize::from(u8::from_be_bytes([lot])) * self.estimate < DIALLED_BACK * 256
    }
}

impl Actor {
    /// Does what is due at `now`.
    pub(super) fn upkeep(&mut self, now: Instant) {
        let changed = self.upkeep.is_due();
        if now >= self.upkeep.round_at {
            self.upkeep.round_at = now + ROUND;
            self.round(now);
        } else if !changed || now < self.upkeep.shown_at + SOON {
            return;
        }
        self.upkeep.shown_at = now;
        if std::mem::take(&mut self.upkeep.addresses_changed) {
            self.show_addresses();
        }
        self.upkeep.changed = false;
        self.estimate();
        self.choose_mode(now);
        self.show();
    }

    fn round(&mut self, now: Instant) {
        self.join(now);
        for (peer, addresses) in self.peers.probes(now) {
            self.dial_known(peer, addresses);
        }
        for connection in self.feelers.over(now) {
            // A link may have taken it for its own meanwhile.
            if !self.swarm.behaviour().link.uses(connection) {
                self.swarm.close_connection(connection);
            }
        }
        self.feel_on(now);
        self.reached_anew(now);
        self.walks(now);
        self.asking_round(now);
        self.relay_round(now);
        self.relays_sought(now);
        self.listing_round(now);
        self.fill_slots(now);
        self.probe_table(now);
        self.keep_up(now);
        if now >= self.upkeep.housekeeping_at {
            self.upkeep.housekeeping_at = now + HOUSEKEEPING;
            self.holding().expire(UnixMillis::now());
            self.listing.shelves.expire(UnixMillis::now());
            self.save_peers();
            self.save_ledger();
        }
    }

    /// Looks around from time to time.
    pub(super) fn walks(&mut self, now: Instant) {
        if self.table.is_empty() {
            self.upkeep.walk_at = None;
            return;
        }
        match self.upkeep.walk_at {
            None => self.upkeep.walk_pause = WALK_FIRST,
            Some(at) if now < at && !self.upkeep.lost_many(self.table.len(), now) => return,
            // In a small overlay the walk to the own position asks everybody.
            Some(_) if self.table.len() < EVERYBODY => {}
            Some(_) => {
                // Far corners too, or the table knows the neighbourhood only.
                let salt = self.salt();
                self.walk(self.table.refresh_target(salt), salt.is_multiple_of(2), now);
            }
        }
        self.walk(self.position, false, now);
        let most = if self.table.len() < FEW {
            WALK_FEW
        } else {
            between_walks(self.upkeep.estimate as f64, self.upkeep.server)
        };
        let pause = self.upkeep.walk_pause.min(most);
        self.upkeep.walk_at = Some(now + pause);
        self.upkeep.walked_at = now;
        // While others come, more may: a walk that explores costs little.
        let knew = std::mem::replace(&mut self.upkeep.walk_knew, self.table.len());
        let slower = self.table.len() <= knew + if self.table.len() < EVERYBODY { 0 } else { knew / 4 };
        self.upkeep.walk_pause = if slower { (pause * 2).min(most) } else { pause };
    }

    /// Asks servers whose turn it is whether they are there, and takes out of kad's buckets who left the table.
    fn probe_table(&mut self, now: Instant) {
        for card in self.table.probes(UnixMillis::now(), MAX_PROBES) {
            if self.ask(Asker::Acquaintance, &card, Ask::Find(self.position), now).is_err() {
                self.not_reached(&card.node);
            }
        }
        for peer in self.peers.listed() {
            if node_of(&peer).is_none_or(|node| self.table.get(&node).is_none()) {
                self.step_out(&peer);
            }
        }
    }

    fn estimate(&mut self) {
        // Never fewer than are known.
        let known = self.table.len() + 1;
        let estimate = self.table.estimate().nodes.round();
        self.upkeep.estimate = known.max(estimate.clamp(1.0, 1e9) as usize);
    }

    /// Server or client, by the rules of `dht::promotion`.
    fn choose_mode(&mut self, now: Instant) {
        let open = self.peers.in_table().any(|(_, address)| super::address::ip_of(address).is_some_and(is_global));
        let server = self.promotion.decide(self.upkeep.estimate as f64, open, now, UnixMillis::now());
        if server != self.upkeep.server {
            self.upkeep.server = server;
            tracing::debug!(server, estimate = self.upkeep.estimate, "DHT mode changed");
            let mode = if server { kad::Mode::Server } else { kad::Mode::Client };
            self.swarm.behaviour_mut().kad.set_mode(Some(mode));
            self.table.set_pace(if server { Pace::Server } else { Pace::Client });
            self.card = None;
        }
    }

    pub(super) fn show_addresses(&mut self) {
        self.card = None;
        let now = Instant::now();
        let own: Vec<_> = self.listen.iter().filter_map(super::address::to_plain).collect();
        self.wants_ports(&own);
        self.listens_at(&own, now);
        let direct = self.card_addresses();
        self.serve_circuits(&direct);
        let addresses = self.record_addresses(&direct);
        if std::mem::replace(&mut self.upkeep.direct, direct.clone()) != direct {
            self.promotion.moved();
        }
        if self.publishable.send_if_modified(|shown| std::mem::replace(shown, addresses.clone()) != addresses) {
            self.tell(OverlayEvent::AddressesChanged(addresses));
        }
    }

    /// Where this node can be reached, best first.
    pub(super) fn card_addresses(&self) -> Vec<reachability::Address> {
        let listen: Vec<_> = self.listen.iter().filter_map(super::address::to_plain).collect();
        let now = Instant::now();
        let alive = listen.into_iter().filter(|own| !self.reaching.picture.is_dead(own, now));
        let alive: Vec<_> = alive.chain(self.reaching.picture.open(now)).collect();
        reachability::publishable(&alive, &self.external, self.scope)
    }

    /// What the handle shows from the first moment on.
    pub(super) fn first_view(&mut self) {
        self.upkeep.addresses_changed = false;
        self.show_addresses();
        self.show();
        // The first addresses are no change.
        self.unread.clear();
    }

    /// Publishes the snapshot and sets the gauges.
    pub(super) fn show(&mut self) {
        let (bytes_in, bytes_out) = self.meter.traffic.totals();
        let standing = self.joining.engine.standing();
        let behaviour = self.swarm.behaviour_mut();
        let status = OverlayStatus {
            peer_id: self.here.to_string(),
            peers: self.peers.connected_count(),
            estimate: self.upkeep.estimate,
            server: self.upkeep.server,
            standing: self.joining.engine.words(self.peers.connected_count()),
            confirmed_by: self.joining.engine.confirmed_by(),
            isolated: matches!(standing, Standing::PossiblyIsolated(_)),
            records_held: behaviour.kad.store_mut().holding.len(),
            services_listed: self.listing.shelves.entries(),
            links: behaviour.link.len(),
            listen: self.listen_texts(),
            circuits: self.circuit_texts(),
            circuits_served: self.circuits.grants.circuits(),
            reach: self.reaching.picture.reach(Instant::now()),
            clock_ahead_ms: self.clocks.ahead_ms(),
            bytes_in,
            bytes_out,
            refused: self.meter.refusals().clone(),
        };
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let connections = self.swarm.network_info().connection_counters().num_established();
        self.meter.connections.set(i64::from(connections));
        self.meter.peers.set(gauge(self.table.len()));
        self.meter.records.set(gauge(status.records_held));
        self.meter.links.set(gauge(status.links));
        self.meter.estimate.set(gauge(status.estimate));
        self.status.send_replace(status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_around_soon_when_many_have_gone() {
        let now = Instant::now();
        let upkeep = Upkeep { walk_knew: 100, ..Upkeep::new(true, now) };
        let later = now + WALK_MOST;
        assert!(upkeep.lost_many(74, later) && !upkeep.lost_many(75, later) && !upkeep.lost_many(10, now));
    }
}
