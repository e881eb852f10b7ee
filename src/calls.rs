//! Calls: joins legs of `sip`, media of `media` and users of `locator`. One state machine per call.
//! Skeleton: owned by the `calls` work.

use crate::directory::Directory;
use crate::locator::Locator;
use crate::media::Media;
use crate::overlay::{Overlay, OverlayEvent};
use crate::sip::{Sip, SipEvent};
use crate::store::Store;
use crate::telemetry::Metrics;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

pub struct CallsConfig {
    pub directory: watch::Receiver<Arc<Directory>>,
    /// How long phones ring before 480/408 "no answer" (default 60 s).
    pub ring_timeout: Duration,
    pub max_calls: usize,
}

/// Everything `calls` combines.
pub struct CallsParts {
    pub sip: Sip,
    pub sip_events: mpsc::Receiver<SipEvent>,
    pub media: Media,
    pub overlay: Overlay,
    pub overlay_events: mpsc::Receiver<OverlayEvent>,
    pub locator: Locator,
    pub store: Store,
    pub metrics: Metrics,
}

/// A finished call, for history and `trace`.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct CallRecord {
    pub started_ms: u64,
    pub from: String,
    pub to: String,
    pub answered: bool,
    pub seconds: u64,
    pub status: u16,
    pub words: String,
    /// Milliseconds from INVITE to: lookup done, first 180, answer.
    pub lookup_ms: Option<u64>,
    pub ring_ms: Option<u64>,
    pub answer_ms: Option<u64>,
    /// "local", "direct", ...
    pub path: String,
}

#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct CallsStatus {
    pub active: usize,
    pub total: u64,
    /// Newest first, at most 50.
    pub recent: Vec<CallRecord>,
}

/// Cloneable handle.
#[derive(Clone)]
pub struct Calls {}

impl Calls {
    pub fn start(_config: CallsConfig, _parts: CallsParts) -> Calls {
        unimplemented!("skeleton")
    }
    pub fn status(&self) -> watch::Receiver<CallsStatus> {
        unimplemented!("skeleton")
    }
    /// Ends all calls (BYE/CANCEL on each leg).
    pub async fn shutdown(&self) {
        unimplemented!("skeleton")
    }
}
