//! Calls: joins legs of `sip`, media of `media` and users of `locator`. One state machine per call.
//!
//! ```text
//! sip events ──▶ router ──▶ one session per call: machine (pure) ──effects──▶ sip, media, locator, overlay
//!                  │└─────▶ registrations: store, bind, confirm
//! overlay events ──▶ links: trunks of sip
//! ```
//!
//! The router waits for nobody, so `sip` can always hand over its events; sessions, links and registrations may wait for
//! `sip`. Everything is bounded: sessions by `max_calls`, each with a bounded mailbox.

mod cause;
mod floods;
mod history;
mod legs;
mod links;
mod machine;
mod paths;
mod reach;
mod registrations;
mod router;
mod routing;
mod session;
mod setup;

use crate::directory::Directory;
use crate::locator::Locator;
use crate::media::Media;
use crate::overlay::{Overlay, OverlayEvent};
use crate::sip::{Sip, SipEvent};
use crate::store::Store;
use crate::telemetry::Metrics;
use floods::Floods;
use history::History;
use legs::Mailboxes;
use links::Links;
use registrations::Registrations;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Registrations that wait for the disk; a phone whose REGISTER finds no place asks again.
const MOST_REGISTRATIONS: usize = 4096;

pub struct CallsConfig {
    pub directory: watch::Receiver<Arc<Directory>>,
    /// How long phones ring before the caller is told "no answer" (480; default 60 s).
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
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
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
    /// "local"; between nodes "direct", "relayed" or (on a stream beside the signalling)
    /// "fallback", as the sound went last; "echo"; empty when nobody answered.
    pub path: String,
}

#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct CallsStatus {
    pub active: usize,
    pub total: u64,
    /// Newest first, at most 50.
    pub recent: Vec<CallRecord>,
}

/// What router and sessions share.
struct Shared {
    sip: Sip,
    media: Media,
    overlay: Overlay,
    locator: Locator,
    directory: watch::Receiver<Arc<Directory>>,
    ring_timeout: Duration,
    max_calls: u32,
    places: Arc<Semaphore>,
    mailboxes: Arc<Mailboxes>,
    links: Arc<Links>,
    floods: Floods,
    history: History,
    stop: CancellationToken,
}

/// Cloneable handle. The work goes on until `sip` and `overlay` stop, also without a handle.
#[derive(Clone)]
pub struct Calls {
    shared: Arc<Shared>,
}

impl Calls {
    pub fn start(config: CallsConfig, parts: CallsParts) -> Calls {
        let CallsParts { sip, sip_events, media, overlay, overlay_events, locator, store, metrics } = parts;
        let max_calls = u32::try_from(config.max_calls.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        let shared = Arc::new(Shared {
            history: History::new(store.clone(), &metrics),
            directory: config.directory.clone(),
            ring_timeout: config.ring_timeout,
            max_calls,
            places: Arc::new(Semaphore::new(max_calls as usize)),
            mailboxes: Arc::default(),
            links: Arc::default(),
            floods: Floods::default(),
            stop: CancellationToken::new(),
            sip: sip.clone(),
            media,
            overlay: overlay.clone(),
            locator: locator.clone(),
        });
        let (changed, inbox) = mpsc::channel(MOST_REGISTRATIONS);
        tokio::spawn(Registrations::new(sip.clone(), store, locator.clone(), config.directory.clone()).run(inbox));
        let directory = config.directory;
        let name = move || directory.borrow().overlay_name.clone();
        tokio::spawn(shared.links.clone().run(overlay_events, (sip, overlay, locator), name));
        tokio::spawn(router::run(shared.clone(), sip_events, changed));
        Calls { shared }
    }

    pub fn status(&self) -> watch::Receiver<CallsStatus> {
        self.shared.history.subscribe()
    }

    /// Ends all calls (BYE, CANCEL or refusal on each leg) and takes no new ones; returns when the last has ended.
    /// Cancel safe: the calls end all the same.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        let _ = self.shared.places.acquire_many(self.shared.max_calls).await;
    }
}
