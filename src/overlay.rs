//! The overlay: finds and keeps signed records among ordinary nodes, and opens authenticated links between users.
//! It does not know that there is SIP: a link carries opaque messages.
//!
//! ```text
//! handle ── Command ──▶ actor ── owns ──▶ swarm (behaviour: limits, kad, store/1, identify, ping, mdns, link)
//! events ◀───────────── actor ◀── network (swarm events)
//!   operations   publications, lookups, walks: drives the engine in `dht`
//!   asking       questions of our own: cards verified, dialled, replies checked ──▶ acquaintance ──▶ dht::Table ──▶ kad
//!   answering    questions of others: rates, FIND from the table, FETCH and STORE ── intake ── records (what is kept)
//!   joining      the way in by `dht::Joining`: leads, views, checks, the cache of peers
//!   upkeep       look around, probe, mode, status
//! ```
//!
//! kad stays for other implementations: its buckets are fed from the table, its puts pass the same intake. This node's
//! own operations do not use it. Nothing of it is believed: answers are verified one by one, addresses are used once
//! dialled, copies count with a receipt.

mod acquaintance;
mod actor;
mod address;
mod answering;
mod asking;
mod auditing;
mod behaviour;
mod cards;
mod checking;
mod circuits;
mod clocks;
mod dialling;
mod disk;
mod exchange;
mod feelers;
mod fenced;
mod framed;
mod gate;
mod intake;
mod joining;
mod keeping;
mod kept;
mod limits;
pub mod link;
mod listed;
mod listing;
mod lookup;
mod meter;
mod network;
mod operations;
mod paying;
mod peers;
mod port_mapping;
mod probing;
mod process;
mod proving;
mod publish;
mod pulse;
mod rates;
mod reaching;
mod records;
mod relaying;
#[cfg(test)]
mod sample;
mod slots;
mod start;
mod transport;
mod upkeep;
mod visitors;

use crate::identity::{NodeKey, NodeSecret};
use crate::reachability::Reach;
use crate::record::{RejectReason, ValidBundle, VerifiedPeerUser};
use crate::relay::{CallId, Relay};
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::uri::IdHash;
use crate::wire::{AddressScope, OverlayId};
use actor::{Command, Target};
use bytes::Bytes;
pub use circuits::{CircuitLimits, CircuitsConfig};
pub use framed::Pipe;
pub use keeping::PeerReport;
pub use relaying::{Allocation, RelayRefused};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// How to run a node on the overlay.
pub struct OverlayConfig {
    pub secret: NodeSecret,
    pub overlay: OverlayId,
    pub scope: AddressScope,
    /// Multiaddrs to listen on. The port is already chosen (random per installation, kept) or 0 in tests.
    pub listen: Vec<String>,
    /// `/ip4/../tcp/../p2p/..` of the charter and of the user's own configuration; `/dnsaddr/<domain>` stands for the list
    /// in the text records of `_dnsaddr.<domain>`.
    pub bootstrap: Vec<String>,
    pub mdns: bool,
    /// Addresses that the operator says are reachable from outside.
    pub external: Vec<String>,
    /// Ask the router of the home to open the ports that are listened on. Only under scope `global`, and not where
    /// `external` says what is open.
    pub map_ports: bool,
    /// Force DHT server mode on or off; `None`: by the rules of FORMATS "Decisions for the first day".
    pub server: Option<bool>,
    /// Connections that are passed on for others, and by others.
    pub circuits: CircuitsConfig,
    pub limits: Limits,
    /// Gives ports for media to others, if there is one.
    pub relay: Option<Relay>,
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
    /// A link is open and both ends have proved who they are. `outbound` if we asked for it: then this comes as soon as the
    /// node that the user's record names has proved its key, and what is sent goes ahead of its hello.
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
    /// What the far end says of the paths to one call: an `Ice`, unread, in one order with the messages, exactly once.
    LinkIce { link: LinkId, bytes: Bytes },
    /// A link that we opened has lost its connection and is dialled where its far end was before; told again every few
    /// seconds. Who finds it elsewhere says so by [`Overlay::connect`].
    LinkLost { link: LinkId },
    /// The link is gone; nothing more comes on it.
    /// `never`: its far end never proved who it is, for this reason (see `LinkUp`).
    LinkDown { link: LinkId, reason: String, never: Option<LinkError> },
    /// A node that has a link with us opened a stream of bytes for a call that was named on that link.
    MediaPipe { node: NodeKey, call: [u8; 16], pipe: Pipe },
    /// Our publishable addresses changed (binary multiaddrs).
    AddressesChanged(Vec<Vec<u8>>),
}

/// Progress of a lookup. Ends with `Done`.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "sent once or twice in a lookup, and always taken apart at once")]
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
    /// Distinct peers that gave a receipt.
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
    /// How this node stands to the overlay, in words: alone, joining, joined and who confirms it, or possibly isolated and
    /// why.
    pub standing: String,
    /// Networks beyond the local one whose nodes show the same overlay. Below three, nobody independent confirms it.
    pub confirmed_by: usize,
    /// It may see something else than the overlay: `standing` says why.
    pub isolated: bool,
    pub listen: Vec<String>,
    /// Where this node is reached through others, and in how many connections it passes on for others.
    pub circuits: Vec<String>,
    pub circuits_served: usize,
    /// Where it is: public, behind a NAT, and how others see it.
    pub reach: Reach,
    /// By how many milliseconds this node's clock is ahead of most others', give or take half a round trip; from three
    /// nodes on.
    pub clock_ahead_ms: Option<i64>,
    pub records_held: usize,
    /// Entries of services, such as relays, that this node lists for others.
    pub services_listed: usize,
    pub links: usize,
    /// Bytes in and out since start.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub refused: std::collections::BTreeMap<String, u64>,
}

/// Cloneable handle of the overlay actor. When the last clone is dropped, the overlay stops.
#[derive(Clone)]
pub struct Overlay {
    node: NodeKey,
    scope: AddressScope,
    commands: mpsc::Sender<Command>,
    publishable: watch::Receiver<Vec<Vec<u8>>>,
    status: watch::Receiver<OverlayStatus>,
    stun_servers: watch::Receiver<Vec<SocketAddr>>,
}

/// Events of a lookup that wait for their reader; fresher results replace those that do not fit.
const LOOKUP_EVENTS: usize = 16;

impl Overlay {
    pub fn node(&self) -> NodeKey {
        self.node
    }

    /// Whose addresses count in this overlay.
    pub fn scope(&self) -> AddressScope {
        self.scope
    }

    /// Addresses to put into records now, by the overlay's address scope (binary multiaddrs), best first, at most 8.
    pub fn publishable(&self) -> Vec<Vec<u8>> {
        self.publishable.borrow().clone()
    }

    /// Stores at the nodes of the regions of all four replica keys. Done when enough of them gave signed receipts: six
    /// networks in three regions, or as many as there are; within 15 s. Cancel safe: dropping the future drops the report, not the publication.
    ///
    /// # Errors
    /// [`PublishError::Alone`] when nobody came within 3 s; [`PublishError::TooFew`] when fewer gave a receipt.
    pub async fn publish(&self, bundle: ValidBundle) -> Result<PublishReport, PublishError> {
        let (reply, answer) = oneshot::channel();
        let bundle = Box::new(bundle);
        self.commands.send(Command::Publish { bundle, reply }).await.map_err(|_| PublishError::Stopped)?;
        answer.await.map_err(|_| PublishError::Stopped)?
    }

    /// Looks a user up under all four replica keys; every answer is validated. Ends with `Done` within 15 s; without
    /// `Done` when the overlay stops or is overloaded. Dropping the receiver ends it.
    pub fn lookup(&self, who: IdHash) -> mpsc::Receiver<LookupEvent> {
        let (events, receiver) = mpsc::channel(LOOKUP_EVENTS);
        // A full inbox drops the sender: the receiver sees the end of events.
        if self.commands.try_send(Command::Lookup { who, events }).is_err() {
            tracing::debug!("lookup turned away: too busy or stopping");
        }
        receiver
    }

    /// Peers that are known by the table or the ledger, the worst first; nothing when the overlay is stopping.
    pub async fn peers(&self) -> Vec<PeerReport> {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Peers(reply)).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }

    /// This node answers hellos for `user` from now on (and shows `bundle` as proof).
    pub async fn serve_user(&self, user: LocalUser) {
        // Stopping: there is nobody to answer.
        let _ = self.commands.send(Command::Serve(user)).await;
    }

    /// Hellos for `id` are refused from now on, and its links close.
    pub async fn unserve_user(&self, id: IdHash) {
        // Stopping closes all links anyway.
        let _ = self.commands.send(Command::Unserve(id)).await;
    }

    /// Opens (or reuses) the one link from hosted user `local` to `remote` at device `node`. `LinkUp` comes as an event
    /// *before* this returns. Refuses when the far end does not prove to be `remote`. Cancel safe: dropping the future
    /// drops the answer, not the link.
    ///
    /// # Errors
    /// Why there is no link, within `deadline`.
    pub async fn connect(
        &self,
        local: IdHash,
        remote: IdHash,
        node: NodeKey,
        addresses: Vec<Vec<u8>>,
        deadline: Duration,
    ) -> Result<LinkId, LinkError> {
        let (reply, answer) = oneshot::channel();
        let to = Target { local, remote, node, addresses, deadline };
        self.commands.send(Command::Connect { to, reply }).await.map_err(|_| LinkError::Stopped)?;
        answer.await.map_err(|_| LinkError::Stopped)?
    }

    /// Queues a message; in order, at most 60 KiB. Never waits. A link whose far end does not keep up is closed.
    ///
    /// # Errors
    /// [`LinkError::Full`] when the overlay does not keep up, [`LinkError::Refused`] for a message that is too long.
    pub fn send(&self, link: LinkId, message: Bytes) -> Result<(), LinkError> {
        if message.len() > link::MAX_MESSAGE_BYTES {
            return Err(LinkError::Refused(format!("a message may have {} bytes", link::MAX_MESSAGE_BYTES)));
        }
        self.commands.try_send(Command::Send { link, message }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LinkError::Full,
            mpsc::error::TrySendError::Closed(_) => LinkError::Stopped,
        })
    }

    /// Queues what the far end is to know of the paths to a call: an `Ice`, at most 4 KiB, in one order with the messages
    /// and as reliable. Never waits. A link that is down or does not keep up loses it.
    ///
    /// # Errors
    /// As [`Overlay::send`].
    pub fn send_ice(&self, link: LinkId, bytes: Bytes) -> Result<(), LinkError> {
        if bytes.len() > link::MAX_ICE_BYTES {
            return Err(LinkError::Refused(format!("paths may take {} bytes", link::MAX_ICE_BYTES)));
        }
        self.commands.try_send(Command::SendIce { link, bytes }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LinkError::Full,
            mpsc::error::TrySendError::Closed(_) => LinkError::Stopped,
        })
    }

    /// Opens a stream of bytes to a node that we are linked with, for packets of a call that find no other way, and says
    /// which call it is for. Cancel safe: dropping the future closes the stream.
    ///
    /// # Errors
    /// `Unreachable` when there is no connection or the far end does not take it; `Timeout` after 5 s.
    pub async fn media_pipe(&self, node: NodeKey, call: [u8; 16]) -> Result<Pipe, LinkError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::MediaPipe { node, reply }).await.map_err(|_| LinkError::Stopped)?;
        let opened = tokio::time::timeout(framed::NAME_TIMEOUT, answer).await.map_err(|_| LinkError::Timeout)?;
        let mut pipe = opened.map_err(|_| LinkError::Unreachable)?;
        pipe.name(&call).await.map_err(|_| LinkError::Unreachable)?;
        Ok(pipe)
    }

    /// A call on this link is heard, or not (any more): if it is, the link is kept for a minute without a connection instead
    /// of 5 s, and however long nothing is said on it.
    pub fn hold(&self, link: LinkId, held: bool) {
        self.tell(Command::Hold { link, held });
    }

    /// Closes a link after what is queued; `LinkDown` follows.
    pub fn close(&self, link: LinkId) {
        self.tell(Command::Close(link));
    }

    fn tell(&self, command: Command) {
        if let Err(mpsc::error::TrySendError::Full(command)) = self.commands.try_send(command) {
            // A hang-up must not get lost in a busy moment.
            let commands = self.commands.clone();
            tokio::spawn(async move { commands.send(command).await });
        }
    }

    /// Asks media relays for two ports for `call` (random, not the caller's to be guessed), best one first: in another
    /// network than this node and, where that is known, `peer`, who is the far end. Within 4 s. Cancel safe: what is given
    /// to nobody is given back.
    ///
    /// # Errors
    /// Why there are none, by the last relay that was asked.
    pub async fn media_relay(&self, call: CallId, peer: Option<NodeKey>) -> Result<Allocation, RelayRefused> {
        let (reply, answer) = oneshot::channel();
        let want = relaying::Want::Allocate { call, peer, reply };
        self.commands.send(Command::Relay(want)).await.map_err(|_| RelayRefused::Stopped)?;
        answer.await.unwrap_or(Err(RelayRefused::Stopped))
    }

    /// Lets an allocation go on; returns it with its new end, half an hour from now or as long as the relay grants. It never
    /// ends sooner by this.
    ///
    /// # Errors
    /// Why not; it goes on until [`Allocation::until`].
    pub async fn renew(&self, allocation: Allocation) -> Result<Allocation, RelayRefused> {
        let (reply, answer) = oneshot::channel();
        let want = relaying::Want::Renew { allocation, reply };
        self.commands.send(Command::Relay(want)).await.map_err(|_| RelayRefused::Stopped)?;
        answer.await.unwrap_or(Err(RelayRefused::Stopped))
    }

    /// Nothing of a call came through what this relay gave. Others are asked before it for some minutes.
    pub fn blame(&self, relay: NodeKey) {
        // Forgotten in a busy moment, which costs a call some seconds at most.
        let _ = self.commands.try_send(Command::Relay(relaying::Want::Blame { relay }));
    }

    /// Gives an allocation back. Never waits; what gets lost ends with its time.
    pub fn release(&self, allocation: Allocation) {
        if self.commands.try_send(Command::Relay(relaying::Want::Release { allocation })).is_err() {
            tracing::debug!("ports of a media relay end with their time");
        }
    }

    /// Where nodes that are known answer STUN Binding requests (RFC 8489), of different networks, at most four of each
    /// family.
    pub fn stun_servers(&self) -> Vec<SocketAddr> {
        self.stun_servers.borrow().clone()
    }

    pub fn status(&self) -> watch::Receiver<OverlayStatus> {
        self.status.clone()
    }

    /// Saves the peer cache, says goodbye, stops. Returns when the store is committed.
    pub async fn shutdown(&self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(Command::Shutdown(reply)).await.is_ok() {
            // Stopped by another clone at the same time: just as well.
            let _ = done.await;
        }
    }
}

/// The text of a node's peer id, as in `/p2p/<this>`; empty for bytes that are no key.
pub fn peer_id_text(node: &NodeKey) -> String {
    address::peer_of(node).map(|peer| peer.to_string()).unwrap_or_default()
}

/// A binary multiaddr as text; hexadecimal digits if it is none.
pub fn address_text(bytes: &[u8]) -> String {
    match libp2p::Multiaddr::try_from(bytes.to_vec()) {
        Ok(address) => address.to_string(),
        Err(_) => data_encoding::HEXLOWER.encode(bytes),
    }
}
