//! Overlays of real nodes in one process, on loopback: what nodes keep, find and refuse, and what is left when nodes
//! die (SECURITY §2.2; FORMATS "Decisions for the first day"). Success rates and times are printed:
//! `cargo nextest run --test overlay --no-capture`. `PEERLINE_FULL=1` runs the long form of the losses (50 nodes, 200
//! users instead of 40).

use peerline::clock::UnixMillis;
use peerline::identity::{CertificateBytes, NodeSecret, Seed, UserIdentity};
use peerline::overlay::{
    Limits, LookupEvent, LookupReport, Overlay, OverlayConfig, OverlayEvent, OverlayStatus, PublishError,
};
use peerline::record::{self, EntryDraft, Judge, UserHeader, ValidBundle};
use peerline::store::Store;
use peerline::telemetry::Metrics;
use peerline::uri::IdHash;
use peerline::wire::{AddressScope, OverlayId};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::timeout;

const OVERLAY: OverlayId = OverlayId([0x5a; 32]);

/// Nothing in these tests may take longer.
const PATIENCE: Duration = Duration::from_secs(30);

struct Node {
    overlay: Overlay,
    secret: NodeSecret,
    store: Store,
    address: String,
    _events: tokio::task::JoinHandle<()>,
}

/// How a node of a test differs from the others.
struct Setup {
    secret: NodeSecret,
    store: Store,
    server: Option<bool>,
    listen: Vec<String>,
    overlay: OverlayId,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            secret: NodeSecret::generate(),
            store: Store::temporary().unwrap(),
            server: Some(true),
            listen: vec!["/ip4/127.0.0.1/tcp/0".into()],
            overlay: OVERLAY,
        }
    }
}

async fn node(bootstrap: &[String], setup: Setup) -> Node {
    let (overlay, mut events) = start(bootstrap, &setup).await;
    let address = overlay.status().borrow().listen[0].clone();
    let _events = tokio::spawn(async move { while events.recv().await.is_some() {} });
    Node { overlay, secret: setup.secret, store: setup.store, address, _events }
}

async fn start(bootstrap: &[String], setup: &Setup) -> (Overlay, mpsc::Receiver<OverlayEvent>) {
    let config = OverlayConfig {
        secret: setup.secret.clone(),
        overlay: setup.overlay,
        scope: AddressScope::Any,
        listen: setup.listen.clone(),
        bootstrap: bootstrap.to_vec(),
        mdns: false,
        external: Vec::new(),
        server: setup.server,
        limits: Limits {
            max_connections: 400,
            max_connections_per_ip: 8,
            max_connections_per_subnet: 16,
            max_links: 64,
            max_records: 10_000,
        },
    };
    Overlay::start(config, setup.store.clone(), Metrics::default()).await.unwrap()
}

/// Starts `count` servers that know the first of them, and waits until all are in touch.
async fn overlay_of(count: usize) -> Vec<Node> {
    let mut nodes = vec![node(&[], Setup::default()).await];
    let first = vec![nodes[0].address.clone()];
    for _ in 1..count {
        nodes.push(node(&first, Setup::default()).await);
    }
    for node in &nodes {
        reaches(&node.overlay, |status| status.estimate >= (count * 2 / 3).clamp(2, 20)).await;
    }
    nodes
}

async fn reaches(overlay: &Overlay, mut good: impl FnMut(&OverlayStatus) -> bool) {
    let mut status = overlay.status();
    let waited = timeout(PATIENCE, status.wait_for(|status| good(status))).await;
    if waited.is_err() {
        panic!("never came: {:?}", overlay.status().borrow().clone());
    }
}

/// A user with one device.
struct User {
    identity: UserIdentity,
    certificate: CertificateBytes,
    device: NodeSecret,
}

impl User {
    fn at(device: &NodeSecret) -> Self {
        let identity = Seed::generate().identity();
        let certificate = identity.certify(device.public(), &OVERLAY, 0, UnixMillis::now());
        Self { identity, certificate, device: device.clone() }
    }

    fn bytes(&self, sequence: u64, life: u64) -> Vec<u8> {
        let now = UnixMillis::now();
        let draft = EntryDraft {
            epoch: 0,
            sequence,
            issued_at: UnixMillis::from_seconds(now.seconds()),
            expires_at: UnixMillis::from_seconds(now.seconds() + life),
            tombstone: false,
            priority: 500,
            addresses: Vec::new(),
        };
        record::sign_bundle(&UserHeader::from(&self.identity), &self.certificate, &self.device, &OVERLAY, &draft)
    }

    fn bundle(&self, sequence: u64) -> ValidBundle {
        valid(&self.bytes(sequence, 3600), &self.identity.id)
    }
}

fn valid(bytes: &[u8], id: &IdHash) -> ValidBundle {
    let judge = Judge { overlay: OVERLAY, scope: AddressScope::Any, now: UnixMillis::now() };
    record::validate(bytes, &record::replica_keys(&OVERLAY, id)[0], &judge, None).unwrap()
}

/// A sequence number as nodes make it.
fn fresh() -> u64 {
    UnixMillis::now().0
}

/// What a lookup came to, and after how long the first valid answer was there.
struct Answer {
    bundle: Option<ValidBundle>,
    first: Option<Duration>,
    report: LookupReport,
}

async fn lookup(overlay: &Overlay, who: IdHash) -> Answer {
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
async fn first_answer(overlay: &Overlay, who: IdHash) -> Option<(ValidBundle, Duration)> {
    let started = Instant::now();
    let mut events = overlay.lookup(who);
    match timeout(PATIENCE, events.recv()).await.expect("a lookup ends")? {
        LookupEvent::Found(found) => Some((found, started.elapsed())),
        LookupEvent::Done(_) => None,
    }
}

fn percentile(times: &mut [Duration], of_hundred: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * of_hundred / 100).min(times.len() - 1)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_nodes_publish_and_find() {
    let nodes = overlay_of(10).await;
    let (mut published, mut found) = (Vec::new(), Vec::new());
    for (n, node) in nodes.iter().enumerate() {
        let user = User::at(&node.secret);
        let bundle = user.bundle(fresh());
        let report = node.overlay.publish(bundle.clone()).await.unwrap();
        assert!(report.copies >= 3, "{report:?}");
        published.push(Duration::from_millis(report.took_ms));
        let reader = &nodes[(n + 5) % nodes.len()].overlay;
        let answer = lookup(reader, user.identity.id).await;
        assert_eq!(answer.bundle.as_ref(), Some(&bundle));
        assert!(answer.report.valid >= 3, "{:?}", answer.report);
        assert!(answer.report.refused.is_empty(), "{:?}", answer.report);
        found.push(answer.first.unwrap());
    }
    println!(
        "10 nodes: publish p50 {:?} max {:?}; first valid answer p50 {:?} max {:?}",
        percentile(&mut published, 50),
        percentile(&mut published, 100),
        percentile(&mut found, 50),
        percentile(&mut found, 100)
    );
    let stranger = Seed::generate().identity().id;
    let answer = lookup(&nodes[3].overlay, stranger).await;
    assert!(answer.bundle.is_none() && answer.report.asked >= 3 && answer.report.valid == 0, "{:?}", answer.report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_are_an_overlay() {
    // Neither is told to serve: the one that is dialled does, and dials back, so the other does too.
    let a = node(&[], Setup { server: None, ..Setup::default() }).await;
    let b = node(std::slice::from_ref(&a.address), Setup { server: None, ..Setup::default() }).await;
    for (from, to) in [(&a, &b), (&b, &a)] {
        let user = User::at(&from.secret);
        from.overlay.publish(user.bundle(fresh())).await.unwrap();
        assert!(lookup(&to.overlay, user.identity.id).await.bundle.is_some());
    }
    reaches(&a.overlay, |status| status.server && status.estimate == 2).await;
    reaches(&b.overlay, |status| status.server && status.estimate == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_alone_says_so() {
    let alone = node(&[], Setup::default()).await;
    let user = User::at(&alone.secret);
    assert!(matches!(alone.overlay.publish(user.bundle(fresh())).await, Err(PublishError::Alone)));
    let answer = lookup(&alone.overlay, Seed::generate().identity().id).await;
    assert!(answer.bundle.is_none() && answer.report.asked == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_freshest_wins_everywhere() {
    let nodes = overlay_of(5).await;
    let user = User::at(&nodes[0].secret);
    let old = user.bundle(fresh());
    let new = user.bundle(fresh() + 10);
    nodes[0].overlay.publish(new.clone()).await.unwrap();
    // The older one comes later, from a node that does not know better: counted, and not believed.
    let late = nodes[1].overlay.publish(old).await;
    assert!(late.is_ok(), "what is held includes it: {late:?}");
    for node in &nodes {
        assert_eq!(first_answer(&node.overlay, user.identity.id).await.unwrap().0, new);
    }
}

/// Issue A, "Show" 4: 50 nodes, publications and lookups, 30 % of the nodes killed without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn survives_the_death_of_a_third() {
    let users = if std::env::var_os("PEERLINE_FULL").is_some() { 200 } else { 40 };
    let began = Instant::now();
    let mut nodes = overlay_of(50).await;
    println!("50 nodes joined in {:?}", began.elapsed());
    let mut known = Vec::new();
    let mut times = Vec::new();
    for n in 0..users {
        let from = &nodes[n % 50];
        let user = User::at(&from.secret);
        let report = from.overlay.publish(user.bundle(fresh())).await.unwrap();
        assert!(report.copies >= 3);
        times.push(Duration::from_millis(report.took_ms));
        known.push(user.identity.id);
    }
    println!("{users} publications: p50 {:?} p99 {:?}", percentile(&mut times, 50), percentile(&mut times, 99));
    let before = success(&nodes, &known, "before").await;
    assert!(before >= 0.99, "{before}");

    // Dropping handle, events and store: no goodbye, no save.
    for node in nodes.drain(35..) {
        node._events.abort();
        drop(node);
    }
    let after = success(&nodes, &known, "15 of 50 nodes gone").await;
    assert!(after >= 0.99, "{after}");
}

async fn success(nodes: &[Node], users: &[IdHash], when: &str) -> f64 {
    let mut times = Vec::new();
    for (n, user) in users.iter().enumerate() {
        if let Some((_, took)) = first_answer(&nodes[(n * 7 + 3) % nodes.len()].overlay, *user).await {
            times.push(took);
        }
    }
    let rate = times.len() as f64 / users.len() as f64;
    println!(
        "{when}: {} of {} lookups found ({:.1} %), first valid answer p50 {:?} p99 {:?}",
        times.len(),
        users.len(),
        rate * 100.0,
        percentile(&mut times, 50),
        percentile(&mut times, 99)
    );
    rate
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn comes_back_by_its_cache_of_peers_and_with_its_records() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Store::open(&directory.path().join("store")).unwrap().store;
    let nodes = overlay_of(4).await;
    let secret = NodeSecret::generate();
    let setup = |store| Setup { secret: secret.clone(), store, ..Setup::default() };
    let kept = node(std::slice::from_ref(&nodes[0].address), setup(open())).await;
    reaches(&kept.overlay, |status| status.estimate == 5).await;
    let user = User::at(&nodes[0].secret);
    nodes[0].overlay.publish(user.bundle(fresh())).await.unwrap();
    reaches(&kept.overlay, |status| status.records_held == 4).await;
    kept.overlay.shutdown().await;
    kept._events.abort();
    drop(kept.overlay);
    drop(kept.store);

    // Alone with what is on disk, then among the others, without a bootstrap list.
    let again = node(&[], setup(open())).await;
    reaches(&again.overlay, |status| status.records_held == 4).await;
    reaches(&again.overlay, |status| status.estimate == 5).await;
    for node in nodes {
        node.overlay.shutdown().await;
    }
    assert!(first_answer(&again.overlay, user.identity.id).await.is_some(), "the only holder left answers itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlays_do_not_mix() {
    let a = node(&[], Setup::default()).await;
    let other = Setup { overlay: OverlayId([1; 32]), ..Setup::default() };
    let stranger = node(std::slice::from_ref(&a.address), other).await;
    reaches(&stranger.overlay, |status| status.peers == 1).await;
    let user = User::at(&stranger.secret);
    assert!(first_answer(&stranger.overlay, user.identity.id).await.is_none());
    assert_eq!(stranger.overlay.status().borrow().estimate, 1, "no server of its own overlay");
}

#[tokio::test]
async fn a_port_in_use_is_said_in_a_sentence() {
    let first = node(&[], Setup::default()).await;
    let taken = first.address.split("/p2p/").next().unwrap().to_owned();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken_udp = format!("/ip4/127.0.0.1/udp/{}/quic-v1", udp.local_addr().unwrap().port());
    for address in [taken, taken_udp, "/ip4/192.0.2.1/tcp/4001".into()] {
        let setup = Setup { listen: vec![address.clone()], ..Setup::default() };
        let error = try_start(&setup).await.expect_err(&address).to_string();
        assert!(error.contains(&address), "{error}");
        assert!(error.contains("another program is using") || error.contains("no such address"), "{error}");
    }
    let setup = Setup { listen: vec!["127.0.0.1:4001".into()], ..Setup::default() };
    assert!(try_start(&setup).await.unwrap_err().to_string().starts_with("bad address in the configuration"));
}

async fn try_start(setup: &Setup) -> Result<(), peerline::overlay::StartError> {
    let config = OverlayConfig {
        secret: setup.secret.clone(),
        overlay: OVERLAY,
        scope: AddressScope::Any,
        listen: setup.listen.clone(),
        bootstrap: Vec::new(),
        mdns: false,
        external: Vec::new(),
        server: None,
        limits: Limits {
            max_connections: 10,
            max_connections_per_ip: 8,
            max_connections_per_subnet: 16,
            max_links: 4,
            max_records: 10,
        },
    };
    Overlay::start(config, setup.store.clone(), Metrics::default()).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_and_wildcards_work_too() {
    let listen = vec!["/ip4/0.0.0.0/udp/0/quic-v1".into(), "/ip4/0.0.0.0/tcp/0".into()];
    let a = node(&[], Setup { listen: listen.clone(), ..Setup::default() }).await;
    let quic = a.overlay.status().borrow().listen.iter().find(|text| text.contains("127.0.0.1/udp")).cloned().unwrap();
    let b = node(&[quic], Setup { listen, ..Setup::default() }).await;
    let user = User::at(&a.secret);
    reaches(&b.overlay, |status| status.peers == 1).await;
    b.overlay.publish(user.bundle(fresh())).await.unwrap();
    assert!(first_answer(&a.overlay, user.identity.id).await.is_some());
    let shown = a.overlay.publishable();
    assert!(!shown.is_empty() && shown.len() <= 8);
    let last = peerline::overlay::address_text(shown.last().unwrap());
    assert!(last.contains("127.0.0.1/tcp"), "loopback by TCP is the last resort: {last}");
    // Counted at once, shown with the next snapshot.
    reaches(&a.overlay, |status| status.bytes_in > 0 && status.bytes_out > 0).await;
}
