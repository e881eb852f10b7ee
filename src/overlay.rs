//! The overlay: finds and keeps signed records among ordinary nodes, and opens authenticated links between users.
//! It does not know that there is SIP: a link carries opaque messages. Skeleton: owned by the `overlay` work.

pub mod link;

use crate::identity::{NodeKey, NodeSecret};
use crate::record::{RejectReason, ValidBundle, VerifiedPeerUser};
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::uri::IdHash;
use crate::wire::{AddressScope, OverlayId};
use bytes::Bytes;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How to run a node on the overlay.
pub struct OverlayConfig {
    pub secret: NodeSecret,
    pub overlay: OverlayId,
    pub scope: AddressScope,
    /// Multiaddrs to listen on. The port is already chosen (random per installation, kept) or 0 in tests.
    pub listen: Vec<String>,
    /// `/ip4/../tcp/../p2p/..` of the charter and of the user's own configuration.
    pub bootstrap: Vec<String>,
    pub mdns: bool,
    /// Addresses that the operator says are reachable from outside.
    pub external: Vec<String>,
    /// Force DHT server mode on or off; `None`: by the rules of FORMATS "Decisions for the first day".
    pub server: Option<bool>,
    pub limits: Limits,
}

/// Hard bounds of a node; defaults per role in `config`.
#[derive(Clone, Debug)]
pub struct Limits {
    pub max_connections: u32,
    pub max_connections_per_ip: u32,
    pub max_connections_per_subnet: u32,
    pub max_links: usize,
    pub max_records: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {why}")]
    Listen { address: String, why: String },
    #[error("bad address in the configuration: {0}")]
    Address(String),
    #[error("{0}")]
    Other(String),
}

/// One stream between a pair of users on two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// What this node shows to prove that it may speak for a hosted user: the bundle with header, own certificate and own
/// current entry. Replaced on each publish.
#[derive(Clone)]
pub struct LocalUser {
    pub id: IdHash,
    pub bundle: Bytes,
}

/// Comes up from the overlay, in order.
#[derive(Debug)]
pub enum OverlayEvent {
    /// A link is open and both ends have proved who they are. `outbound` if we asked for it.
    LinkUp {
        link: LinkId,
        local: IdHash,
        remote: VerifiedPeerUser,
        outbound: bool,
        local_ip: IpAddr,
        remote_ip: IpAddr,
    },
    /// One message, in order, exactly once.
    LinkMessage { link: LinkId, message: Bytes },
    /// The link is gone; nothing more comes on it.
    LinkDown { link: LinkId, reason: String },
    /// Our publishable addresses changed (binary multiaddrs).
    AddressesChanged(Vec<Vec<u8>>),
}

/// Progress of a lookup. Ends with `Done`.
#[derive(Debug)]
pub enum LookupEvent {
    /// A valid bundle, merged with all seen so far; sent again whenever it got fresher.
    Found(ValidBundle),
    Done(LookupReport),
}

#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct LookupReport {
    pub took_ms: u64,
    /// Peers that answered at all, held a valid copy, had nothing, or sent something refused.
    pub asked: usize,
    pub valid: usize,
    pub empty: usize,
    pub refused: Vec<(String, String)>,
    pub holders: Vec<String>,
}

#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct PublishReport {
    /// Distinct peers from which the record was read back.
    pub copies: usize,
    pub took_ms: u64,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    #[error("no other node is connected")]
    Alone,
    #[error("stored at too few nodes ({copies} of {wanted})")]
    TooFew { copies: usize, wanted: usize },
    #[error("the record is not valid here: {0}")]
    Invalid(RejectReason),
    #[error("the overlay is stopping")]
    Stopped,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkError {
    #[error("no path to the node")]
    Unreachable,
    #[error("timed out")]
    Timeout,
    #[error("the far end refused: {0}")]
    Refused(String),
    #[error("the far end did not prove who it is: {0}")]
    NotProven(RejectReason),
    #[error("the link's queue is full")]
    Full,
    #[error("the overlay is stopping")]
    Stopped,
}

/// Snapshot for status, metrics and `locator`.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct OverlayStatus {
    pub peer_id: String,
    pub peers: usize,
    /// Estimate of the overlay's size.
    pub estimate: usize,
    pub server: bool,
    pub listen: Vec<String>,
    pub records_held: usize,
    pub links: usize,
    /// Bytes in and out since start.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub refused: std::collections::BTreeMap<String, u64>,
}

/// Cloneable handle of the overlay actor.
#[derive(Clone)]
pub struct Overlay {}

impl Overlay {
    /// Starts the swarm and its actor. Events must be drained: the channel is bounded and applies back-pressure.
    pub async fn start(
        _config: OverlayConfig,
        _store: Store,
        _metrics: Metrics,
    ) -> Result<(Overlay, mpsc::Receiver<OverlayEvent>), StartError> {
        unimplemented!("skeleton")
    }
    pub fn node(&self) -> NodeKey {
        unimplemented!("skeleton")
    }
    /// Addresses to put into records now, by the overlay's address scope (binary multiaddrs).
    pub fn publishable(&self) -> Vec<Vec<u8>> {
        unimplemented!("skeleton")
    }
    /// Stores at the closest nodes of all four replica keys and reads back. Done when min(3, other nodes) hold it.
    /// Cancel safe: dropping the future drops the report, not the publication.
    pub async fn publish(&self, _bundle: ValidBundle) -> Result<PublishReport, PublishError> {
        unimplemented!("skeleton")
    }
    /// Looks a user up under all four replica keys; every answer is validated. Dropping the receiver ends it.
    pub fn lookup(&self, _who: IdHash) -> mpsc::Receiver<LookupEvent> {
        unimplemented!("skeleton")
    }
    /// This node answers hellos for `user` from now on (and shows `bundle` as proof).
    pub async fn serve_user(&self, _user: LocalUser) {
        unimplemented!("skeleton")
    }
    pub async fn unserve_user(&self, _id: IdHash) {
        unimplemented!("skeleton")
    }
    /// Opens (or reuses) the one link from hosted user `local` to `remote` at device `node`. `LinkUp` comes as an event
    /// *before* this returns. Refuses when the far end does not prove to be `remote`.
    pub async fn connect(
        &self,
        _local: IdHash,
        _remote: IdHash,
        _node: NodeKey,
        _addresses: Vec<Vec<u8>>,
        _deadline: Duration,
    ) -> Result<LinkId, LinkError> {
        unimplemented!("skeleton")
    }
    /// Queues a message; in order, at most 60 KiB. Never waits: a full queue is an error.
    pub fn send(&self, _link: LinkId, _message: Bytes) -> Result<(), LinkError> {
        unimplemented!("skeleton")
    }
    pub fn close(&self, _link: LinkId) {
        unimplemented!("skeleton")
    }
    pub fn status(&self) -> watch::Receiver<OverlayStatus> {
        unimplemented!("skeleton")
    }
    /// Saves the peer cache, says goodbye, stops.
    pub async fn shutdown(&self) {
        unimplemented!("skeleton")
    }
}
