//! The engine that finds and keeps records among liars (SECURITY §4): pure, so that the same code runs in a node and
//! in the simulator (`examples/overlay-sim`). Inputs are time, answers and failures; outputs are requests, results and
//! observations. Who sends the requests, verifies cards and receipts and owns the clock is its driver.
//!
//! ```text
//! lookup ──┐                    ┌─ paths   eight isolated ways to one position
//!          ├─ four walks, each: ┤
//! publish ─┘                    └─ sweep   everybody in the region, by networks, not by nearness
//! table      who is known: buckets, neighbourhood, seniority; answers FIND; estimates the overlay's size
//! holding    what is kept for others: quotas, heaviest first out, stamps under load
//! shelf      lists of services that many owners share, each with its own signed entry (service)
//! joining    which sources to believe on the way in; whether this node may be isolated
//! promotion  when a client may serve
//! ```

#![allow(unused, reason = "being built")]

mod audit;
mod card;
mod evidence;
mod holding;
mod joining;
mod lookup;
mod message;
mod network;
mod pauses;
mod position;
mod promotion;
mod publish;
mod service;
mod shelf;
mod stamp;
mod table;
#[cfg(test)]
mod tests;
mod walk;

pub use audit::{Audit, Audits};
pub use card::{Card, CardError, MAX_CARD_ADDRESSES};
pub use evidence::{Evidence, EvidenceError, Proofs, Signed};
pub use holding::{Holding, Limits, Offered, Publisher, Repair, Row, Unread, Why, Write};
pub use joining::{
    ANCHORS, Contacts, Doubt, Joining, Lead, LeadId, PeerCache, Remembered, Source, Standing, Task, outbound,
};
pub use lookup::{Lookup, Outcome, Progress};
pub use message::{
    MAX_PROMISE, MAX_QUESTION_BYTES, MAX_REPLY_BYTES, MAX_STAMP_BYTES, MessageError, Question, Reply, Said, Voice,
};
pub use network::{Caps, Diversity, Network};
pub use pauses::{between_checks, between_searches, between_walks};
pub use position::{Distance, Position};
pub use promotion::{Flapping, Promotion, Uptime};
pub use publish::{Publish, Published};
pub use service::{EntryError, Offers, SHARDS, Service, ServiceEntry};
pub use shelf::Shelves;
pub use stamp::{MAX_STAMP_BITS, Stamp};
pub use table::{Admission, Estimate, Pace, Table};
pub use walk::{Seeds, Step, StepId, Walk, WalkConfig};

use crate::identity::NodeKey;
use crate::ledger::Fact;
use crate::record::RecordKey;
use bytes::Bytes;
use std::sync::Arc;

/// Replica keys of a user, each with a region of its own (SECURITY §4.5).
pub const REPLICAS: usize = 4;

/// Honest servers expected in a region: the radius around a key in which all servers hold it.
pub const REGION: usize = 10;

/// How many regions wide the surroundings of a key are: a record is not kept farther away, as estimates of the radius differ
/// by less, so far answers name peers, and so far a crowded region is searched.
const REACH: f64 = 4.0;

/// Peers in an answer at most.
pub const MAX_PEERS: usize = 20;

/// Tells a request of an operation from its others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What the driver is to ask a peer. It verifies the card's signature before it dials, and gives up when the operation
/// is over, not by a clock of its own: the operation counts the time.
#[derive(Clone, Debug)]
pub struct Request {
    pub id: RequestId,
    pub to: Arc<Card>,
    pub ask: Ask,
}

/// The questions of `store/1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Who is near this position?
    Find(Position),
    /// What do you hold under this key, and who is near it?
    Fetch(RecordKey),
    /// Keep this bundle under this key.
    Store(RecordKey, Bytes),
    /// Who is on this list?
    List(RecordKey),
    /// Put this entry, which is the asker's own, on this list.
    Enlist(RecordKey, Bytes),
}

/// What a peer answered; signatures on it were verified, or noted as bad, by the driver.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To FIND and FETCH: at most [`MAX_PEERS`] peers, and the bytes held, judged by nobody yet.
    Found { peers: Vec<Arc<Card>>, bundle: Option<Bytes> },
    /// To STORE.
    Stored(Stored),
    /// To LIST: at most ten entries, judged by nobody yet.
    List(Vec<Bytes>),
    /// To ENLIST.
    Enlisted(Enlisted),
}

/// How a holder answers an ENLIST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enlisted {
    /// It is on the list.
    Listed,
    /// It will be, once it has been found where it says that it is.
    Trying,
    /// The list is not in this node's region.
    NotMine,
    /// No room for its network.
    Full,
    /// Refused by the validator.
    Invalid,
}

/// How a holder answers a STORE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Kept, with a signed receipt that promises it for `promise` seconds.
    Kept { promise: u32 },
    /// It holds a newer one, which is here.
    Stale { newer: Bytes },
    /// The key is not in its region.
    NotMine,
    /// No room, or over a quota.
    Full,
    /// Busy: it wants proof of work of so many bits.
    Stamp { bits: u8 },
    /// Refused by the validator.
    Invalid,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The card's signature does not hold: never dialled.
    Forged,
    /// None of the card's addresses leads to the node.
    Unreachable,
    /// Connected, but the answer broke off or was refused as malformed.
    Malformed,
    /// It said that it is too busy.
    Busy,
}

/// A fact for the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Observation {
    /// A verified answer that helped.
    Useful,
    /// Nothing in 1.5 s, or not reachable where others say it is.
    Silent,
    /// More than 30 % of the peers that it named were not there, at least five of them.
    Ghosts,
    /// A record with a signature that does not hold, or for another key.
    Forged,
    /// An older record than the one it gave a receipt for, or nothing within its promise.
    Broken,
}

impl Observation {
    /// As the ledger counts it.
    pub fn fact(self) -> Fact {
        match self {
            Observation::Useful => Fact::Useful,
            Observation::Silent => Fact::Silent,
            Observation::Ghosts => Fact::Ghosts,
            Observation::Forged => Fact::Forged,
            Observation::Broken => Fact::Broken,
        }
    }
}

/// Observations of an operation: who, and what.
pub type Observations = Vec<(NodeKey, Observation)>;
