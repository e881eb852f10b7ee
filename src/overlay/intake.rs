//! What peers put here: rate first, then the ledger, then the validator. Every refusal has a reason that is counted
//! and a peer that is noted.

use super::actor::Actor;
use super::address::ip_of;
use super::records::{Kept, NEARER_IS_NOT_MINE, NotKept};
use crate::admission::{Bucket, PerSource, Rate, Subnet};
use crate::dht::Position;
use crate::ledger::Fact;
use crate::record::{RecordKey, RejectReason};
use crate::wire::is_global;
use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
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

/// Why a record from a peer was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// Nothing is taken from this peer now.
    Shunned,
    /// It, its network, or everybody puts too often.
    TooMany,
    Kept(NotKept),
}

impl Actor {
    /// A peer wants a record kept, by kad's PUT (`what` = "put") or by `store/1` ("store").
    pub(super) fn take_in(
        &mut self,
        source: PeerId,
        connection: ConnectionId,
        what: &'static str,
        key: &[u8],
        bytes: &[u8],
    ) -> Result<Kept, NotTaken> {
        let now = Instant::now();
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
        let from = self.inbound.get(&connection).and_then(ip_of).filter(|ip| is_global(*ip));
        let shared = from.is_none_or(|ip| self.intake.per_subnet.take(Subnet::of(ip), now));
        if !shared || !self.intake.all.take(ALL, now) {
            self.meter.refuse(format!("{what}: too many"));
            return Err(NotTaken::TooMany);
        }
        let nearer = match <[u8; 32]>::try_from(key) {
            Ok(key) if self.table.len() >= LARGE => {
                self.table.nearer_than_here(&Position::of_key(&RecordKey(key)), NEARER_IS_NOT_MINE)
            }
            _ => 0,
        };
        let judge = self.judge();
        let taken = self.swarm.behaviour_mut().kad.store_mut().offer(key, bytes, &judge, nearer);
        match taken {
            Ok(Kept::Already) => {}
            Ok(Kept::Fresher) => {
                self.meter.stored.inc();
                self.ledger.note(source, Fact::Useful, now);
            }
            Err(NotKept::Rejected(reason)) => self.note_refusal(source, what, reason, now),
            Err(other @ (NotKept::NotMine | NotKept::Full)) => self.meter.refuse(format!("{what}: {other}")),
        }
        taken.map_err(NotTaken::Kept)
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
