//! Nodes, users and lookups for the tests of this crate.

use peerline::clock::UnixMillis;
use peerline::identity::{CertificateBytes, NodeSecret, Seed, UserIdentity};
use peerline::overlay::{
    CircuitsConfig, Limits, LookupEvent, LookupReport, Overlay, OverlayConfig, OverlayEvent, OverlayStatus, StartError,
};
use peerline::record::{self, EntryDraft, Judge, UserHeader, ValidBundle};
use peerline::relay::Relay;
use peerline::store::Store;
use peerline::telemetry::Metrics;
use peerline::uri::IdHash;
use peerline::wire::{AddressScope, OverlayId};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::timeout;

pub const OVERLAY: OverlayId = OverlayId([0x5a; 32]);

/// Nothing in these tests may take longer.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Dropping it stops the node in good order.
pub struct Node {
    pub overlay: Overlay,
    pub secret: NodeSecret,
    pub store: Store,
    pub address: String,
    /// Reads the node's events, as a node that only serves the overlay does.
    pub reading: tokio::task::JoinHandle<()>,
}

/// How a node of a test differs from the others.
#[derive(Clone)]
pub struct Setup {
    pub secret: NodeSecret,
    pub store: Store,
    pub server: Option<bool>,
    pub listen: Vec<String>,
    pub overlay: OverlayId,
    pub limits: Limits,
    pub circuits: CircuitsConfig,
    pub relay: Option<Relay>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            secret: NodeSecret::generate(),
            store: Store::temporary().unwrap(),
            server: Some(true),
            listen: vec!["/ip4/127.0.0.1/tcp/0".into()],
            overlay: OVERLAY,
            limits: Limits {
                max_connections: 400,
                max_connections_per_ip: 8,
                max_connections_per_subnet: 16,
                max_links: 64,
                max_records: 10_000,
            },
            circuits: CircuitsConfig::default(),
            relay: None,
        }
    }
}

pub async fn node(bootstrap: &[String], setup: Setup) -> Node {
    let (overlay, mut events) = start(bootstrap, &setup).await.unwrap();
    let address = overlay.status().borrow().listen[0].clone();
    let reading = tokio::spawn(async move { while events.recv().await.is_some() {} });
    Node { overlay, secret: setup.secret, store: setup.store, address, reading }
}

pub async fn start(bootstrap: &[String], setup: &Setup) -> Result<(Overlay, mpsc::Receiver<OverlayEvent>), StartError> {
    let config = OverlayConfig {
        secret: setup.secret.clone(),
        overlay: setup.overlay,
        scope: AddressScope::Any,
        listen: setup.listen.clone(),
        bootstrap: bootstrap.to_vec(),
        mdns: false,
        map_ports: false,
        external: Vec::new(),
        server: setup.server,
        circuits: setup.circuits.clone(),
        relay: setup.relay.clone(),
        limits: setup.limits.clone(),
    };
    Overlay::start(config, setup.store.clone(), Metrics::default()).await
}

/// Starts `count` servers that know the first of them, and waits until all are in touch.
pub async fn overlay_of(count: usize) -> Vec<Node> {
    let mut nodes = vec![node(&[], Setup::default()).await];
    let first = vec![nodes[0].address.clone()];
    for _ in 1..count {
        nodes.push(node(&first, Setup::default()).await);
    }
    for node in &nodes {
        reaches(&node.overlay, |status| status.estimate >= (count * 2 / 3).max(2)).await;
    }
    nodes
}

pub async fn reaches(overlay: &Overlay, good: impl FnMut(&OverlayStatus) -> bool) {
    reaches_within(PATIENCE, overlay, good).await;
}

pub async fn reaches_within(patience: Duration, overlay: &Overlay, mut good: impl FnMut(&OverlayStatus) -> bool) {
    let mut status = overlay.status();
    let waited = timeout(patience, status.wait_for(|status| good(status))).await;
    if waited.is_err() {
        panic!("never came: {:?}", overlay.status().borrow().clone());
    }
}

/// A user with one device.
pub struct User {
    pub identity: UserIdentity,
    certificate: CertificateBytes,
    pub device: NodeSecret,
}

impl User {
    pub fn new() -> Self {
        Self::at(&NodeSecret::generate())
    }

    /// Of another overlay than that of these tests.
    pub fn in_overlay(overlay: &OverlayId) -> Self {
        let (identity, device) = (Seed::generate().identity(), NodeSecret::generate());
        let certificate = identity.certify(device.public(), overlay, 0, UnixMillis::now());
        Self { identity, certificate, device }
    }

    pub fn at(device: &NodeSecret) -> Self {
        let identity = Seed::generate().identity();
        let certificate = identity.certify(device.public(), &OVERLAY, 0, UnixMillis::now());
        Self { identity, certificate, device: device.clone() }
    }

    /// An entry that ends `life` seconds from now, with a sequence number as nodes make it.
    pub fn draft(&self, life: i64) -> EntryDraft {
        let now = UnixMillis::now();
        let at = |offset: i64| UnixMillis::from_seconds(now.seconds().saturating_add_signed(offset));
        EntryDraft {
            epoch: 0,
            sequence: now.0,
            issued_at: at(life.min(0) - 60),
            expires_at: at(life),
            tombstone: false,
            priority: 500,
            addresses: Vec::new(),
        }
    }

    pub fn sign(&self, device: &NodeSecret, overlay: &OverlayId, draft: &EntryDraft) -> Vec<u8> {
        record::sign_bundle(&UserHeader::from(&self.identity), &self.certificate, device, overlay, draft)
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.sign(&self.device, &OVERLAY, &self.draft(3000))
    }

    pub fn bundle(&self) -> ValidBundle {
        valid(&self.bytes(), &self.identity.id)
    }

    /// As [`bundle`](Self::bundle), published so many milliseconds later.
    pub fn later(&self, by: u64) -> ValidBundle {
        let mut draft = self.draft(3000);
        draft.sequence += by;
        valid(&self.sign(&self.device, &OVERLAY, &draft), &self.identity.id)
    }

    pub fn key(&self) -> [u8; 32] {
        record::replica_keys(&OVERLAY, &self.identity.id)[0].0
    }
}

fn valid(bytes: &[u8], id: &IdHash) -> ValidBundle {
    let judge = Judge { overlay: OVERLAY, scope: AddressScope::Any, now: UnixMillis::now() };
    record::validate(bytes, &record::replica_keys(&OVERLAY, id)[0], &judge, None).unwrap()
}

/// What a lookup came to, and after how long the first valid answer was there.
pub struct Answer {
    pub bundle: Option<ValidBundle>,
    pub first: Option<Duration>,
    pub report: LookupReport,
}

pub async fn lookup(overlay: &Overlay, who: IdHash) -> Answer {
    let started = Instant::now();
    let mut events = overlay.lookup(who);
    let (mut bundle, mut first) = (None, None);
    loop {
        match timeout(PATIENCE, events.recv()).await.expect("a lookup ends").expect("with a report") {
            LookupEvent::Found(found) => {
                first.get_or_insert(started.elapsed());
                bundle = Some(found);
            }
            LookupEvent::Done(report) => return Answer { bundle, first, report },
        }
    }
}

/// The first valid answer only, as a caller takes it.
pub async fn first_answer(overlay: &Overlay, who: IdHash) -> Option<(ValidBundle, Duration)> {
    let started = Instant::now();
    let mut events = overlay.lookup(who);
    match timeout(PATIENCE, events.recv()).await.expect("a lookup ends")? {
        LookupEvent::Found(found) => Some((found, started.elapsed())),
        LookupEvent::Done(_) => None,
    }
}

/// `of_hundred` of a hundred took at most this long.
pub fn percentile(times: &mut [Duration], of_hundred: usize) -> Duration {
    times.sort_unstable();
    times.get((times.len() * of_hundred / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}
