//! Media: anchors RTP and RTCP of each leg on ports of this node, encrypts between nodes, rewrites SDP.
//! It knows neither SIP nor calls, and never looks into speech: codecs pass untouched.
//!
//! ```text
//! description of one leg ──sdp──▶ description for the other        addresses, ports, keys replaced; the rest as it was
//! packet ──path──▶ stream ──gate──▶ in the clear ──▶ the joined leg's gate ──▶ its path
//!                            latch: whose packet is it        srtp: is it genuine, seal it again
//! ```
//!
//! `sdp`, `gate`, `latch`, `packet` and `srtp` are pure; `stream` drives sockets, [`MediaLeg`] negotiates. Between nodes
//! `ice` finds the path that packets take, and looks for another one when it fails; `framed` carries them where there is none.

use crate::telemetry::Metrics;
use gate::Reason;
use ports::Ports;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;

pub mod audio;

mod framed;
mod gate;
mod ice;
mod latch;
mod leg;
mod packet;
mod path;
mod ports;
mod sdp;
mod srtp;
mod stream;

pub use framed::{BoxDuplex, Duplex};
pub use ice::{CallId, Lease, Relay, Surroundings};
pub use leg::{MediaLeg, Paths};

/// How often the packet counts of [`MediaStatus`] are renewed while something changes.
const STATUS_EVERY: Duration = Duration::from_secs(1);

pub struct MediaConfig {
    /// UDP ports for RTP (even) and RTCP (odd). Ports are only ever taken from here.
    pub ports: RangeInclusive<u16>,
    pub max_legs: usize,
}

/// What is at the far end of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegKind {
    /// A phone: plain RTP/AVP, RTCP on the next port, symmetric with an SSRC guard. A phone that offers SRTP with
    /// `a=crypto` itself is answered in kind.
    Phone,
    /// Another node: SRTP AEAD_AES_128_GCM, keys in `a=crypto`, RTP and RTCP multiplexed. Never anything plain.
    Peer,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum MediaError {
    #[error("no media port is free")]
    NoPorts,
    /// As many legs as the settings allow are open.
    #[error("too many calls at once")]
    TooManyLegs,
    #[error("not an SDP description: {0}")]
    BadSdp(String),
    #[error("the far end offers no encryption that we accept")]
    NoCrypto,
    #[error("{0}")]
    Io(String),
}

/// Counters of one leg.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct LegStats {
    /// Genuine packets from the far end, RTP and RTCP.
    pub packets_in: u64,
    /// Packets sent to the far end.
    pub packets_out: u64,
    /// Refused: forged, replayed, wrong SSRC, wrong source.
    pub refused: u64,
    /// From open to the first packet in, if any.
    pub first_packet_ms: Option<u64>,
    /// How packets go to the far end.
    pub path: PathKind,
}

/// How packets go to the far end of a leg.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// To the address of its description.
    #[default]
    Stated,
    /// On a path that was found and checked, from one end to the other.
    Direct,
    /// On one that was found, by way of a relay.
    Relayed,
    /// On a stream of bytes beside the signalling: no UDP gets through.
    Fallback,
}

impl PathKind {
    /// One word for people.
    pub const fn word(self) -> &'static str {
        match self {
            PathKind::Stated | PathKind::Direct => "direct",
            PathKind::Relayed => "relayed",
            PathKind::Fallback => "fallback",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MediaStatus {
    pub legs: usize,
    pub ports_in_use: usize,
    /// Relayed since the start.
    pub packets: u64,
    /// Refused since the start.
    pub refused: u64,
}

/// Cloneable handle.
#[derive(Clone)]
pub struct Media {
    shared: Arc<Shared>,
}

/// What all legs of a node share.
struct Shared {
    ports: Ports,
    legs: AtomicUsize,
    max_legs: usize,
    counters: Counters,
    status: watch::Sender<MediaStatus>,
}

impl Media {
    /// Takes the settings; no port is bound yet. Inside a tokio runtime the packet counts of [`Media::status`] are
    /// renewed once a second, until the last handle and leg are gone.
    pub fn start(config: MediaConfig, metrics: Metrics) -> Media {
        let shared = Arc::new(Shared {
            ports: Ports::new(config.ports),
            legs: AtomicUsize::new(0),
            max_legs: config.max_legs,
            counters: Counters::new(&metrics),
            status: watch::Sender::new(MediaStatus::default()),
        });
        let weak = Arc::downgrade(&shared);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                loop {
                    tokio::time::sleep(STATUS_EVERY).await;
                    let Some(shared) = weak.upgrade() else { return };
                    shared.publish();
                }
            });
        }
        Media { shared }
    }

    /// Opens a leg whose sockets bind to `local_ip` (our address towards the far end). No port is taken before
    /// `describe_*` sees how many streams there are.
    ///
    /// # Errors
    /// `TooManyLegs` when `max_legs` are open, `Io` when `local_ip` is not an address or the system has no randomness.
    pub fn open(&self, kind: LegKind, local_ip: IpAddr) -> Result<MediaLeg, MediaError> {
        let permit = LegPermit::take(&self.shared)?;
        MediaLeg::open(kind, local_ip, permit)
    }

    /// Counts, renewed when a leg opens or closes and otherwise every second.
    pub fn status(&self) -> watch::Receiver<MediaStatus> {
        self.shared.status.subscribe()
    }
}

impl Shared {
    fn publish(&self) {
        let legs = self.legs.load(Ordering::Relaxed);
        let ports_in_use = self.ports.used();
        self.counters.legs.set(legs as i64);
        self.counters.ports.set(ports_in_use as i64);
        let (packets, refused) = (self.counters.packets.get(), self.counters.refused());
        let now = MediaStatus { legs, ports_in_use, packets, refused };
        self.status.send_if_modified(|status| {
            let changed = *status != now;
            *status = now;
            changed
        });
    }
}

/// One of `max_legs`, given back on drop.
struct LegPermit {
    shared: Arc<Shared>,
}

impl LegPermit {
    fn take(shared: &Arc<Shared>) -> Result<LegPermit, MediaError> {
        let more = |legs: usize| (legs < shared.max_legs).then_some(legs + 1);
        if shared.legs.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return Err(MediaError::TooManyLegs);
        }
        shared.publish();
        Ok(LegPermit { shared: shared.clone() })
    }
}

impl Drop for LegPermit {
    fn drop(&mut self) {
        self.shared.legs.fetch_sub(1, Ordering::Relaxed);
        self.shared.publish();
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

struct Counters {
    legs: Gauge,
    ports: Gauge,
    packets: Counter,
    dropped: [Counter; Reason::ALL.len()],
}

impl Counters {
    fn new(metrics: &Metrics) -> Counters {
        let dropped = Family::<ReasonLabel, Counter>::default();
        let of = |reason: Reason| dropped.get_or_create(&ReasonLabel { reason: reason.name() }).clone();
        let counters = Counters {
            legs: Gauge::default(),
            ports: Gauge::default(),
            packets: Counter::default(),
            dropped: Reason::ALL.map(of),
        };
        metrics.register("media", |registry| {
            registry.register("legs", "Open legs", counters.legs.clone());
            registry.register("ports", "UDP ports in use", counters.ports.clone());
            registry.register("packets", "RTP and RTCP packets relayed", counters.packets.clone());
            registry.register("packets_dropped", "Packets that went no further, by reason", dropped.clone());
        });
        counters
    }

    fn count(&self, reason: Reason) {
        self.dropped[reason as usize].inc();
    }

    fn refused(&self) -> u64 {
        let refusals = Reason::ALL.iter().zip(&self.dropped).filter(|(reason, _)| reason.is_refusal());
        refusals.map(|(_, counter)| counter.get()).sum()
    }
}

fn random_u64() -> Result<u64, MediaError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| MediaError::Io(error.to_string()))?;
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests;
