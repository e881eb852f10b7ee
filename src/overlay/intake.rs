//! What peers put here: rate first, then the ledger, then the validator. Every refusal has a reason that is counted
//! and a peer that is noted.

use super::actor::Actor;
use super::address::{ip_of, node_of};
use crate::admission::{Bucket, PerSource, Rate, Subnet};
use crate::dht::{Estimate, Holding, Network, Offered, Publisher, Stamp, Stored, Why};
use crate::identity::NodeKey;
use crate::ledger::Fact;
use crate::record::{RecordKey, RejectReason};
use crate::wire::{AddressScope, is_global};
use bytes::Bytes;
use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use std::net::IpAddr;
use std::time::Instant;

/// Puts of one peer. A gateway with 1,000 users refreshes 4,000 keys in 20 minutes, 3.3 a second to a peer that holds
/// them all; the burst is its start.
pub(super) const PER_PEER: Rate = Rate { per_second: 20.0, burst: 1_000.0 };

/// Puts of one network, where it is a global one: peer ids are free, networks are not. Two busy gateways behind one
/// address still fit.
const PER_SUBNET: Rate = Rate { per_second: 100.0, burst: 2_000.0 };

/// Puts of all peers together: at 0.3 ms each, a third of a core.
const ALL: Rate = Rate { per_second: 1_000.0, burst: 4_000.0 };

/// Peers with a rate of their own.
const MAX_PEERS: usize = 1_024;

pub(super) struct Intake {
    per_peer: PerSource<PeerId>,
    per_subnet: PerSource<Subnet>,
    all: Bucket,
}

impl Intake {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            per_peer: PerSource::of_free_names(PER_PEER, MAX_PEERS),
            per_subnet: PerSource::new(PER_SUBNET, MAX_PEERS),
            all: Bucket::full(ALL, now),
        }
    }
}

/// Why nothing is taken from a peer now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    Shunned,
    /// It, its network, or everybody puts too often.
    TooMany,
}

/// A record that a peer wants kept.
pub(super) struct Put<'a> {
    pub(super) key: &'a [u8],
    pub(super) bytes: &'a Bytes,
    pub(super) stamp: Option<Stamp>,
    /// "put" by kad, "store" by `store/1`.
    pub(super) what: &'static str,
}

impl Actor {
    /// A peer wants a record kept.
    pub(super) fn take_in(
        &mut self,
        source: PeerId,
        connection: ConnectionId,
        put: &Put<'_>,
    ) -> Result<Offered, NotTaken> {
        let (now, what) = (Instant::now(), put.what);
        self.upkeep.changed = true;
        if self.ledger.shuns(&source, now) {
            self.meter.refuse(format!("{what}: peer is shunned"));
            return Err(NotTaken::Shunned);
        }
        if !self.intake.per_peer.take(source, now) {
            self.meter.refuse(format!("{what}: too often"));
            self.ledger.note(source, Fact::Flood, now);
            return Err(NotTaken::TooMany);
        }
        // What others of its network, or everybody, put too often is not this peer's fault.
        let ip = self.address_of(&source, connection);
        let shared = ip.filter(|ip| is_global(*ip)).is_none_or(|ip| self.intake.per_subnet.take(Subnet::of(ip), now));
        if !shared || !self.intake.all.take(ALL, now) {
            self.meter.refuse(format!("{what}: too many"));
            return Err(NotTaken::TooMany);
        }
        let (judge, region) = (self.judge(), self.region());
        let from = self.publisher(&source, ip);
        let offered = match put.key.try_into().map(RecordKey) {
            Ok(key) => self.holding().offer(&key, put.bytes, &from, put.stamp, region, &judge),
            Err(_) => Offered { stored: Stored::Invalid, why: Why::Rejected(RejectReason::WrongKey), sequence: 0 },
        };
        match offered.why {
            Why::Already => {}
            Why::Fresher => {
                self.meter.stored.inc();
                self.ledger.note(source, Fact::Useful, now);
            }
            Why::Rejected(reason) => self.note_refusal(source, what, reason, now),
            other => self.meter.refuse(format!("{what}: {other}")),
        }
        Ok(offered)
    }

    /// Where a peer is: by this connection if it came in, else where it was dialled.
    pub(super) fn address_of(&self, peer: &PeerId, connection: ConnectionId) -> Option<IpAddr> {
        let dialled = || self.peers.addresses_of_server(peer).and_then(|all| all.iter().find_map(ip_of));
        self.inbound.get(&connection).and_then(ip_of).or_else(dialled)
    }

    /// On whose share a record counts. Private addresses say nothing of networks; under scope `global` those whose
    /// address nobody knows are one.
    fn publisher(&self, peer: &PeerId, ip: Option<IpAddr>) -> Publisher {
        let ip = match self.scope {
            AddressScope::Global => Some(ip.unwrap_or(IpAddr::from([0, 0, 0, 0]))),
            AddressScope::Any => ip,
        };
        let says = |ip: &IpAddr| is_global(*ip) || ip.is_unspecified();
        let node = node_of(peer).unwrap_or(NodeKey([0; 32]));
        Publisher { node, network: ip.filter(says).map(Network::of) }
    }

    /// Radius of a region, as a share of the space.
    pub(super) fn region(&self) -> f64 {
        Estimate { nodes: self.upkeep.estimate as f64 }.region()
    }

    /// What this node keeps.
    pub(super) fn holding(&mut self) -> &mut Holding {
        &mut self.swarm.behaviour_mut().kad.store_mut().holding
    }

    /// Counts a refusal and notes who caused it.
    pub(super) fn note_refusal(&mut self, peer: PeerId, what: &str, reason: RejectReason, now: Instant) {
        tracing::debug!(%peer, what, %reason, "refused");
        self.meter.refuse(format!("{what}: {reason}"));
        let fact = match reason {
            RejectReason::WrongKey
            | RejectReason::WrongOverlay
            | RejectReason::BadCertificate
            | RejectReason::NotCertified
            | RejectReason::BadSignature
            | RejectReason::WeakKey => Fact::Forged,
            RejectReason::TooLarge
            | RejectReason::Malformed
            | RejectReason::Equivocation
            | RejectReason::AddressPolicy
            | RejectReason::Unsupported => Fact::Refused,
            RejectReason::Expired
            | RejectReason::NotYetValid
            | RejectReason::TooFarAhead
            | RejectReason::Stale
            | RejectReason::Revoked
            | RejectReason::SlotsFull => Fact::Late,
        };
        self.ledger.note(peer, fact, now);
        if self.ledger.shuns(&peer, now) {
            self.evict(&peer);
        }
    }
}
