//! The media relay of a public node: UDP ports in pairs for calls between networks that have no path of their own, and
//! answers to who asks for its address (STUN Binding). It passes packets on without opening them and knows neither
//! calls nor the overlay; who asks, and for whom, is told by who calls it.
//!
//! ```text
//! handle ── Command ──▶ driver (a thread of its own) ── desk    who may have what, until when; budget of bytes
//!                         │                          └─ ports   two sockets of the range
//!                         ├── forward, a task for each allocation ── pair     whose packets count, where they go
//!                         └── answers: STUN                        └─ places  where nothing is ever sent
//! ```
//!
//! `desk`, `budget`, `pair` and `places` are pure. The thread keeps packets away from signatures and tables: a forwarded
//! packet waits for other packets only.

mod answers;
mod budget;
mod counts;
mod desk;
mod driver;
mod forward;
pub mod message;
mod pair;
mod places;
mod ports;
mod socket;
#[cfg(test)]
mod tests;

use crate::identity::NodeKey;
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::wire::AddressScope;
use driver::Command;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Names a call to the relay that carries it: random, the same for both ends.
pub type CallId = [u8; 16];

/// For whom media is relayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaFor {
    /// Nobody.
    #[default]
    Off,
    /// Nodes at which users of this node met somebody whom they called, and nodes that have been of use.
    Members,
    /// Everybody; strangers get half of the places and bytes at most.
    Anyone,
}

/// What is given away at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// At a time, to all, to one node, and to one /24 or /48.
    pub allocations: usize,
    pub per_peer: usize,
    pub per_network: usize,
    /// Of one allocation, both directions together, headers counted.
    pub bits_per_second: u32,
    /// Sent for others in a calendar month (UTC), headers counted.
    pub bytes_per_month: u64,
    /// Time that is granted at once, 60 s at least. Renewals may follow, for a day.
    pub granted: Duration,
}

/// How to run it.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    pub media: MediaFor,
    pub limits: Limits,
    /// UDP ports of allocations, two each.
    pub ports: RangeInclusive<u16>,
    /// Where STUN is answered, on all interfaces: `Some(0)` is any port, and a port that another program has becomes one.
    pub stun: Option<u16>,
    pub scope: AddressScope,
}

/// Why nothing is given. The words are those of the counters; the numbers travel (docs/protocol.md, `relay/1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// This node relays no media.
    #[error("off")]
    Off,
    #[error("not entitled")]
    NotEntitled,
    /// This node is not known to be reachable from outside.
    #[error("not public")]
    NotPublic,
    #[error("too many of one node")]
    PeerFull,
    #[error("too many of one network")]
    NetworkFull,
    #[error("full")]
    Full,
    /// The bytes of the month are given away.
    #[error("month is spent")]
    MonthSpent,
    #[error("no ports")]
    NoPorts,
    #[error("too often")]
    TooOften,
    /// There is no such allocation of this node.
    #[error("unknown")]
    Unknown,
    /// It has been renewed for a day.
    #[error("too long")]
    TooLong,
    /// The relay is stopping or does not keep up.
    #[error("busy")]
    Busy,
}

impl Refusal {
    /// All of them; the place is the number on the wire, less one.
    pub const ALL: [Self; 12] = [
        Self::Off,
        Self::NotEntitled,
        Self::NotPublic,
        Self::PeerFull,
        Self::NetworkFull,
        Self::Full,
        Self::MonthSpent,
        Self::NoPorts,
        Self::TooOften,
        Self::Unknown,
        Self::TooLong,
        Self::Busy,
    ];
}

/// A request for an allocation.
#[derive(Clone, Debug)]
pub struct Ask {
    pub from: From,
    pub call: CallId,
    /// Wanted, from now.
    pub seconds: u32,
    /// From where the far end of the call talks to this node, if it does.
    pub far: Option<IpAddr>,
    /// Where this node can be reached from outside: one of each family at most counts.
    pub public: Vec<IpAddr>,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct From {
    /// As authenticated.
    pub node: NodeKey,
    /// Where it asks from; `None` if that says nothing.
    pub ip: Option<IpAddr>,
    pub member: bool,
}

/// What was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The port for who asked, at each of the relay's addresses, IPv4 first; and the one for the far end.
    pub ours: Vec<SocketAddr>,
    pub theirs: Vec<SocketAddr>,
    /// From now.
    pub time: Duration,
    pub bits_per_second: u32,
}

/// What it does, in totals: nobody's name or address.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RelayStatus {
    pub media: MediaFor,
    /// Running now, for so many nodes of so many networks.
    pub allocations: usize,
    pub nodes: usize,
    pub networks: usize,
    /// Given since the start.
    pub granted: u64,
    pub renewed: u64,
    /// Passed on since the start, headers counted.
    pub packets: u64,
    pub bytes: u64,
    /// Sent in this month, of so many; and promised to what runs.
    pub month_bytes: u64,
    pub month_limit: u64,
    pub month_promised: u64,
    /// Requests that were refused, and packets that were dropped, by reason.
    pub refused: std::collections::BTreeMap<String, u64>,
    pub dropped: std::collections::BTreeMap<String, u64>,
    /// Where STUN is answered, and how often it was and was not.
    pub stun_port: Option<u16>,
    pub stun_answered: u64,
    pub stun_refused: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum RelayStartError {
    #[error("the relay's thread does not start: {0}")]
    Thread(std::io::Error),
    #[error("STUN cannot be answered on UDP port {port}: {source}")]
    Stun { port: u16, source: std::io::Error },
}

/// Cloneable handle. When the last clone is dropped, every allocation ends.
#[derive(Clone)]
pub struct Relay {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<RelayStatus>,
    stun: Option<u16>,
    media: MediaFor,
}

/// Commands that wait.
const COMMANDS: usize = 256;

impl Relay {
    /// Starts its thread, and answers STUN from then on.
    ///
    /// # Errors
    /// See [`RelayStartError`].
    pub fn start(config: RelayConfig, store: Store, metrics: &Metrics) -> Result<Self, RelayStartError> {
        let media = config.media;
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (status, stun) = driver::start(config, store, metrics, inbox)?;
        Ok(Self { commands, status, stun, media })
    }

    /// Gives two ports, or says what is given already for this call of this node. Cancel safe: what was given meanwhile
    /// ends with its time, or is told when asked again.
    ///
    /// # Errors
    /// Why not.
    pub async fn allocate(&self, ask: Ask) -> Result<Given, Refusal> {
        self.command(|reply| Command::Allocate { ask, reply }).await
    }

    /// Lets an allocation go on for `seconds` from now; says how long it will. It never ends earlier than before.
    ///
    /// # Errors
    /// Why not; it goes on as granted.
    pub async fn renew(&self, from: From, call: CallId, seconds: u32) -> Result<Duration, Refusal> {
        self.command(|reply| Command::Renew { from, call, seconds, reply }).await
    }

    /// Ends an allocation.
    ///
    /// # Errors
    /// [`Refusal::Unknown`], or that it asks too often.
    pub async fn release(&self, from: From, call: CallId) -> Result<(), Refusal> {
        self.command(|reply| Command::Release { from, call, reply }).await
    }

    /// Where STUN is answered.
    pub fn stun_port(&self) -> Option<u16> {
        self.stun
    }

    /// For whom media is relayed.
    pub fn media(&self) -> MediaFor {
        self.media
    }

    /// Renewed once a second.
    pub fn status(&self) -> watch::Receiver<RelayStatus> {
        self.status.clone()
    }

    /// Ends every allocation and keeps the month's account. Returns when it is in the store, not yet committed.
    pub async fn shutdown(&self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(Command::Stop(reply)).await.is_ok() {
            // Stopped by another clone at the same time: just as well.
            let _ = done.await;
        }
    }

    /// Who asks for more than is answered hears so at once.
    async fn command<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Command,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(make(reply)).map_err(|_| Refusal::Busy)?;
        answer.await.unwrap_or(Err(Refusal::Busy))
    }
}
