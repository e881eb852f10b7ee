//! Media: anchors RTP and RTCP of each leg on ports of this node, encrypts between nodes, rewrites SDP.
//! It knows neither SIP nor calls. Skeleton: owned by the `media` work.

use crate::telemetry::Metrics;
use bytes::Bytes;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;
use tokio::sync::watch;

pub mod audio;

pub struct MediaConfig {
    /// UDP ports for RTP (even) and RTCP (odd). Ports are only ever taken from here.
    pub ports: RangeInclusive<u16>,
    pub max_legs: usize,
}

/// What is at the far end of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegKind {
    /// A phone: plain RTP/AVP, RTCP on the next port, symmetric with an SSRC guard.
    Phone,
    /// Another node: SRTP AEAD_AES_128_GCM, keys in `a=crypto`, RTP and RTCP multiplexed.
    Peer,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum MediaError {
    #[error("no media port is free")]
    NoPorts,
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
    pub packets_in: u64,
    pub packets_out: u64,
    /// Refused: forged, replayed, wrong SSRC, wrong source.
    pub refused: u64,
    /// From open to the first packet in, if any.
    pub first_packet_ms: Option<u64>,
}

#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct MediaStatus {
    pub legs: usize,
    pub ports_in_use: usize,
    pub packets: u64,
    pub refused: u64,
}

/// Cloneable handle.
#[derive(Clone)]
pub struct Media {}

impl Media {
    pub fn start(_config: MediaConfig, _metrics: Metrics) -> Media {
        unimplemented!("skeleton")
    }
    /// Opens a leg whose sockets bind to `local_ip` (our address towards the far end). No port is taken before
    /// `describe_*` sees how many streams there are.
    pub fn open(&self, _kind: LegKind, _local_ip: IpAddr) -> Result<MediaLeg, MediaError> {
        unimplemented!("skeleton")
    }
    pub fn status(&self) -> watch::Receiver<MediaStatus> {
        unimplemented!("skeleton")
    }
}

/// One side of a call's media. Dropping it frees its ports and stops its tasks at once.
pub struct MediaLeg {}

impl MediaLeg {
    /// Takes the description that the far end of *this* leg sent (offer or answer): where to send, which SSRCs, which keys.
    pub async fn accept(&mut self, _sdp: &[u8]) -> Result<(), MediaError> {
        unimplemented!("skeleton")
    }
    /// Turns the *other* leg's description into the offer for this leg's far end: own address and ports, own fresh
    /// keys, profile of this kind; everything unknown is kept.
    pub async fn describe_offer(&mut self, _other: &[u8]) -> Result<Bytes, MediaError> {
        unimplemented!("skeleton")
    }
    /// Same for an answer to an offer that this leg `accept`ed before.
    pub async fn describe_answer(&mut self, _other: &[u8]) -> Result<Bytes, MediaError> {
        unimplemented!("skeleton")
    }
    /// Packets of this leg go to `other` and back from now on.
    pub fn join(&mut self, _other: &mut MediaLeg) {
        unimplemented!("skeleton")
    }
    /// Plays back to the far end what it sends (the echo service), and answers its accepted offer.
    pub async fn echo(&mut self) -> Result<Bytes, MediaError> {
        unimplemented!("skeleton")
    }
    pub fn stats(&self) -> LegStats {
        unimplemented!("skeleton")
    }
    /// True when no packet came for `quiet` (for ending calls whose phone vanished).
    pub fn silent_for(&self, _quiet: Duration) -> bool {
        unimplemented!("skeleton")
    }
}
