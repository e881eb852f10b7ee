//! The local API on loopback: health, metrics and a relay's totals for anyone on this machine, status and lookups for who
//! can read the token in the data directory. Never reachable from a network.
//!
//! Every request must name this server in its Host header, so that a web page whose name was rebound to 127.0.0.1
//! cannot read answers.

use crate::calls::{Calls, CallsStatus};
use crate::directory::Directory;
use crate::locator::{Locator, PublishedStatus};
use crate::media::{Media, MediaStatus};
use crate::overlay::{Overlay, OverlayStatus};
use crate::relay::{Relay, RelayStatus};
use crate::sip::{Sip, SipStatus};
use crate::telemetry::Metrics;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::metrics::gauge::Gauge;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

mod doctor;
mod lookup;
mod relay_page;

pub use doctor::{Examination, RelayDialled, RelayTry, StunTry, examine};
pub use lookup::{FoundDevice, LookupAnswer, LookupTrouble, look_up};

/// Lookups at a time through the API; each is bounded in time.
const MAX_LOOKUPS: usize = 8;

/// Examinations at a time: each is a call through a relay that others pay for.
const MAX_EXAMINATIONS: usize = 1;

/// What the API shows.
#[derive(Clone)]
pub struct ApiParts {
    pub role: String,
    pub overlay: Overlay,
    pub locator: Locator,
    pub sip: Sip,
    pub media: Media,
    pub calls: Calls,
    pub relay: Option<Relay>,
    pub directory: watch::Receiver<Arc<Directory>>,
    pub metrics: Metrics,
    /// Asked for with `Authorization: Bearer`.
    pub token: String,
}

/// `GET /v1/status`
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub version: &'static str,
    pub role: String,
    pub uptime_s: u64,
    /// Asynchronous tasks of the process that are alive, the one that answers this included.
    pub tasks: usize,
    pub overlay: OverlayStatus,
    pub published: PublishedStatus,
    pub sip: SipStatus,
    pub media: MediaStatus,
    pub calls: CallsStatus,
    /// What this node gives to others, in totals; absent where it relays nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayStatus>,
}

#[derive(Debug, thiserror::Error)]
#[error("the local API cannot listen on {address}: {source}; choose another with --api")]
pub struct ApiError {
    address: SocketAddr,
    source: std::io::Error,
}

struct Shared {
    parts: ApiParts,
    started: Instant,
    lookups: Semaphore,
    examinations: Semaphore,
    tasks: Gauge,
}

/// The running API; ends when stopped or dropped.
pub struct Api {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Api {
    /// Listens on `address` (loopback; port 0 for any).
    ///
    /// # Errors
    /// When the port is in use.
    pub async fn start(address: SocketAddr, parts: ApiParts) -> Result<Self, ApiError> {
        let failed = |source| ApiError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let tasks = Gauge::default();
        parts.metrics.register("runtime", |registry| {
            registry.register("tasks", "Asynchronous tasks that are alive", tasks.clone());
        });
        let (lookups, examinations) = (Semaphore::new(MAX_LOOKUPS), Semaphore::new(MAX_EXAMINATIONS));
        let shared = Arc::new(Shared { parts, started: Instant::now(), lookups, examinations, tasks });
        let guarded = Router::new()
            .route("/v1/status", get(status))
            .route("/v1/peers", get(peers))
            .route("/v1/lookup", get(lookup_route))
            .route("/v1/doctor", get(doctor_route))
            .layer(middleware::from_fn_with_state(shared.clone(), needs_token));
        let router = Router::new()
            .route("/health", get(health))
            .route("/metrics", get(metrics))
            .route("/relay", get(relay))
            .merge(guarded)
            .layer(middleware::from_fn_with_state(address, needs_own_host))
            .with_state(shared);
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::warn!(%error, "the local API stopped");
            }
        });
        Ok(Self { address, task })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn health(State(shared): State<Arc<Shared>>) -> Json<serde_json::Value> {
    let peers = shared.parts.overlay.status().borrow().peers;
    Json(serde_json::json!({ "status": if peers > 0 { "ok" } else { "alone" }, "peers": peers }))
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    shared.tasks.set(i64::try_from(tasks_alive()).unwrap_or(i64::MAX));
    ([(header::CONTENT_TYPE, kind)], shared.parts.metrics.encode()).into_response()
}

async fn relay(State(shared): State<Arc<Shared>>) -> Response {
    let status = shared.parts.relay.as_ref().map(|relay| relay.status().borrow().clone());
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], relay_page::page(status.as_ref())).into_response()
}

fn tasks_alive() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

async fn status(State(shared): State<Arc<Shared>>) -> Json<Status> {
    let parts = &shared.parts;
    Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        role: parts.role.clone(),
        uptime_s: shared.started.elapsed().as_secs(),
        tasks: tasks_alive(),
        overlay: parts.overlay.status().borrow().clone(),
        published: parts.locator.status().borrow().clone(),
        sip: parts.sip.status().borrow().clone(),
        media: parts.media.status().borrow().clone(),
        calls: parts.calls.status().borrow().clone(),
        relay: parts.relay.as_ref().map(|relay| relay.status().borrow().clone()),
    })
}

async fn peers(State(shared): State<Arc<Shared>>) -> Json<Vec<crate::overlay::PeerReport>> {
    Json(shared.parts.overlay.peers().await)
}

#[derive(Deserialize)]
struct Who {
    who: String,
}

async fn lookup_route(State(shared): State<Arc<Shared>>, Query(Who { who }): Query<Who>) -> Response {
    let Ok(_permit) = shared.lookups.try_acquire() else {
        return refuse(StatusCode::TOO_MANY_REQUESTS, "too many lookups at once");
    };
    let directory = shared.parts.directory.borrow().clone();
    match look_up(&shared.parts.overlay, &directory, &who).await {
        Ok(answer) => Json(answer).into_response(),
        Err(trouble) => refuse(StatusCode::BAD_REQUEST, &trouble.to_string()),
    }
}

async fn doctor_route(State(shared): State<Arc<Shared>>) -> Response {
    let Ok(_permit) = shared.examinations.try_acquire() else {
        return refuse(StatusCode::TOO_MANY_REQUESTS, "an examination is under way");
    };
    Json(examine(&shared.parts.overlay).await).into_response()
}

fn refuse(status: StatusCode, words: &str) -> Response {
    (status, Json(serde_json::json!({ "error": words }))).into_response()
}

async fn needs_own_host(State(own): State<SocketAddr>, request: Request, next: Next) -> Response {
    if !names_this_server(request.headers(), own) {
        return refuse(StatusCode::MISDIRECTED_REQUEST, "the Host header names another server");
    }
    next.run(request).await
}

fn names_this_server(headers: &HeaderMap, own: SocketAddr) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|h| h.to_str().ok()) else { return false };
    [own.to_string(), format!("localhost:{}", own.port())].iter().any(|good| host.eq_ignore_ascii_case(good))
}

async fn needs_token(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|h| h.to_str().ok());
    let given = given.and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default();
    if !same(given.as_bytes(), shared.parts.token.as_bytes()) {
        return refuse(StatusCode::UNAUTHORIZED, "needs the token from api.token in the data directory");
    }
    next.run(request).await
}

/// Takes as long for a wrong first byte as for a wrong last one.
fn same(given: &[u8], wanted: &[u8]) -> bool {
    !wanted.is_empty()
        && given.len() == wanted.len()
        && given.iter().zip(wanted).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_name_is_answered() {
        let own: SocketAddr = "127.0.0.1:8123".parse().unwrap();
        let asks = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            names_this_server(&headers, own)
        };
        assert!(asks("127.0.0.1:8123") && asks("localhost:8123") && asks("LOCALHOST:8123"));
        assert!(!asks("evil.example:8123") && !asks("127.0.0.1") && !asks("127.0.0.1:80") && !asks("localhost"));
        assert!(!names_this_server(&HeaderMap::new(), own));
    }

    #[test]
    fn an_empty_token_opens_nothing() {
        assert!(same(b"abc", b"abc"));
        assert!(!same(b"abd", b"abc") && !same(b"ab", b"abc") && !same(b"", b""));
    }
}
