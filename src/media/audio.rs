//! The audio of a headless phone: sends a tone or a file as G.711, records and recognises what it hears.
//! Skeleton: owned by the `media` work.

use super::MediaError;
use bytes::Bytes;
use std::net::IpAddr;
use std::path::PathBuf;

/// What to send.
#[derive(Clone, Debug)]
pub enum Source {
    Silence,
    /// A sine of so many hertz (20-3,400).
    Tone(f32),
    /// A WAV file (any rate and width; mixed down and resampled to 8 kHz), repeated.
    File(PathBuf),
}

/// What was heard up to now.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Heard {
    pub packets: u64,
    /// Strongest frequency of the last second, Hz, when it stands out.
    pub tone_hz: Option<f32>,
    /// From start to the first packet.
    pub first_packet_ms: Option<u64>,
    pub lost: u64,
}

/// Plain RTP endpoint with PCMU and PCMA and telephone-event.
pub struct AudioEndpoint {}

impl AudioEndpoint {
    /// Binds an RTP/RTCP pair (ports chosen by the OS) on `ip`.
    pub async fn bind(_ip: IpAddr, _source: Source, _record: Option<PathBuf>) -> Result<AudioEndpoint, MediaError> {
        unimplemented!("skeleton")
    }
    pub fn offer(&self) -> Bytes {
        unimplemented!("skeleton")
    }
    /// Answers an offer and starts sending.
    pub fn answer(&self, _offer: &[u8]) -> Result<Bytes, MediaError> {
        unimplemented!("skeleton")
    }
    /// Takes the answer to our offer and starts sending.
    pub fn start(&self, _answer: &[u8]) -> Result<(), MediaError> {
        unimplemented!("skeleton")
    }
    pub fn heard(&self) -> Heard {
        unimplemented!("skeleton")
    }
    /// Stops and completes the recording (valid WAV header even if cut short).
    pub async fn finish(self) -> Heard {
        unimplemented!("skeleton")
    }
}
