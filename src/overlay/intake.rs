//! What peers put here: rate first, then the ledger, then the validator. Every refusal has a reason that is counted
//! and a peer that is noted.

use super::actor::Actor;
use super::address::ip_of;
use super::records::{Kept, NotKept};
use crate::admission::{Bucket, PerSource, Rate, Subnet};
use crate::ledger::Fact;
use crate::record::RejectReason;
use crate::wire::is_global;
use libp2p::swarm::ConnectionId;
use libp2p::{PeerId, kad};
use std::time::Instant;

/// Puts of one peer. A gateway with 1,000 users refreshes 4,000 keys in 20 minutes, 3.3 a second to a peer that holds
/// them all; the burst is its start.
const PER_PEER: Rate = Rate { per_second: 20.0, burst: 1_000.0 };

/// Puts of one network, where it is a global one: peer ids are free, networks are not. Two busy gateways behind one
/// address still fit.
const PER_SUBNET: Rate = Rate { per_second: 100.0, burst: 2_000.0 };

/// Puts of all peers together: at 0.3 ms each, a third of a core.
const ALL: Rate = Rate { per_second: 1_000.0, burst: 4_000.0 };

/// Peers with a rate of their own.
const MAX_PEERS: usize = 1_024;

/// From so many servers on a key may be none of our business.
const LARGE: usize = 40;

pub(super) struct Intake {
    per_peer: PerSource<PeerId>,
    per_subnet: PerSource<Subnet>,
    all: Bucket,
}

impl Intake {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            per_peer: PerSource::new(PER_PEER, MAX_PEERS),
            per_subnet: PerSource::new(PER_SUBNET, MAX_PEERS),
            all: Bucket::full(ALL, now),
        }
    }
}

impl Actor {
    /// A peer wants a record kept. The acknowledgement has left already (K3), which is why publishers read back.
    pub(super) fn offered(&mut self, source: PeerId, connection: ConnectionId, record: &kad::Record) {
        let now = Instant::now();
        self.upkeep.changed = true;
        if self.ledger.shuns(&source, now) {
            self.meter.refuse("put: peer is shunned".into());
            return;
        }
        if !self.intake.per_peer.take(source, now) {
            self.meter.refuse("put: too often".into());
            self.ledger.note(source, Fact::Flood, now);
            return;
        }
        // What others of its network, or everybody, put too often is not this peer's fault.
        let from = self.inbound.get(&connection).and_then(ip_of).filter(|ip| is_global(*ip));
        let shared = from.is_none_or(|ip| self.intake.per_subnet.take(Subnet::of(ip), now));
        if !shared || !self.intake.all.take(ALL, now) {
            self.meter.refuse("put: too many".into());
            return;
        }
        let nearer = if self.servers.len() < LARGE { 0 } else { self.servers.nearer_than_here(record.key.as_ref()) };
        let judge = self.judge();
        let held = self.swarm.behaviour_mut().kad.store_mut();
        match held.offer(record.key.as_ref(), &record.value, &judge, nearer) {
            Ok(Kept::Already) => {}
            Ok(Kept::Fresher) => {
                self.meter.stored.inc();
                self.ledger.note(source, Fact::Useful, now);
            }
            Err(NotKept::Rejected(reason)) => self.note_refusal(source, "put", reason, now),
            Err(other @ (NotKept::NotMine | NotKept::Full)) => self.meter.refuse(format!("put: {other}")),
        }
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
