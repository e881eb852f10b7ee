//! The driver with real records and a real store, and an overlay of a few lines.

use super::*;
use crate::clock::UnixMillis;
use crate::identity::Seed;
use crate::record::{Judge, Pin, replica_keys, validate};
use crate::store::Table;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const OVERLAY: OverlayId = OverlayId([3; 32]);
const DEADLINE: Duration = Duration::from_secs(20);

/// What all nodes of the small overlay hold, and what was asked of them.
#[derive(Default)]
struct Held {
    bundles: Mutex<BTreeMap<IdHash, ValidBundle>>,
    served: Mutex<Vec<IdHash>>,
    lookups: AtomicUsize,
    /// Lookups wait for it when it is set.
    gate: Option<tokio::sync::Semaphore>,
}

#[derive(Clone)]
struct Small {
    held: Arc<Held>,
    status: watch::Sender<OverlayStatus>,
}

impl Small {
    fn new(held: Held, peers: usize) -> Small {
        let status = watch::Sender::new(OverlayStatus { peers, ..OverlayStatus::default() });
        Small { held: Arc::new(held), status }
    }

    fn bundle(&self, who: IdHash) -> Option<ValidBundle> {
        self.held.bundles.lock().unwrap().get(&who).cloned()
    }
}

impl Network for Small {
    fn publishable(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }
    fn peers(&self) -> watch::Receiver<OverlayStatus> {
        self.status.subscribe()
    }
    async fn publish(&self, bundle: ValidBundle) -> Result<PublishReport, PublishError> {
        if self.status.borrow().peers == 0 {
            return Err(PublishError::Alone);
        }
        let mut bundles = self.held.bundles.lock().unwrap();
        let merged = bundles.get(&bundle.id()).map_or_else(|| bundle.clone(), |held| held.merge(&bundle));
        bundles.insert(bundle.id(), merged);
        Ok(PublishReport { copies: 1, took_ms: 0 })
    }
    fn lookup(&self, who: IdHash) -> mpsc::Receiver<LookupEvent> {
        self.held.lookups.fetch_add(1, Ordering::SeqCst);
        let (events, receiver) = mpsc::channel(4);
        let small = self.clone();
        tokio::spawn(async move {
            if let Some(gate) = &small.held.gate {
                gate.acquire().await.unwrap().forget();
            }
            if let Some(bundle) = small.bundle(who) {
                let _ = events.send(LookupEvent::Found(bundle)).await;
            }
            let asked = small.status.borrow().peers;
            let _ = events.send(LookupEvent::Done(LookupReport { asked, ..LookupReport::default() })).await;
        });
        receiver
    }
    async fn serve_user(&self, user: LocalUser) {
        self.held.served.lock().unwrap().push(user.id);
    }
}

fn user(device: &NodeSecret, certified: UnixMillis) -> HostedUser {
    let identity = Seed::generate().identity();
    let certificate = identity.certify(device.public(), &OVERLAY, 1, certified);
    HostedUser { id: identity.id, header: UserHeader::from(&identity), certificate, epoch: 1 }
}

fn locator(small: &Small, device: &NodeSecret, store: &Store) -> Locator {
    let config = LocatorConfig {
        device: device.clone(),
        overlay: OVERLAY,
        scope: AddressScope::Any,
        ttl: Duration::from_secs(3600),
        refresh: Duration::from_secs(1200),
    };
    Locator::over(config, small.clone(), store.clone(), Metrics::default())
}

async fn published(locator: &Locator, user: &IdHash) {
    let name = user.to_string();
    let mut status = locator.status();
    let held = status.wait_for(|status| status.users.get(&name).is_some_and(|user| user.copies > 0));
    tokio::time::timeout(DEADLINE, held).await.expect("published in time").unwrap();
}

async fn all(mut located: mpsc::Receiver<Located>) -> Vec<Located> {
    let mut events = Vec::new();
    while let Some(event) = tokio::time::timeout(DEADLINE, located.recv()).await.expect("located in time") {
        events.push(event);
    }
    events
}

#[tokio::test]
async fn a_bound_user_is_found_and_withdrawn_on_the_way_out() {
    let (small, device, store) = (Small::new(Held::default(), 1), NodeSecret::generate(), Store::temporary().unwrap());
    let here = locator(&small, &device, &store);
    let alice = user(&device, UnixMillis::now());
    here.host(alice.clone()).await;
    assert_eq!(*small.held.served.lock().unwrap(), [alice.id], "calls out before any phone is bound");
    assert!(small.bundle(alice.id).is_none(), "and is not published");
    let sequence = here.bind(alice.id).await.unwrap();
    let kept = store.get(Table::Sequences, &alice.id.0).unwrap().unwrap();
    assert_eq!(kept, sequence.to_be_bytes(), "on disk before the phone hears of it");
    published(&here, &alice.id).await;

    let elsewhere = locator(&small, &NodeSecret::generate(), &Store::temporary().unwrap());
    let events = all(elsewhere.locate(alice.id)).await;
    let [Located::Binding { binding, from_cache: false }, Located::Done(Ok(_))] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((binding.devices[0].node, binding.devices[0].sequence), (device.public(), sequence));
    let again = all(elsewhere.locate(alice.id)).await;
    assert!(matches!(again[0], Located::Binding { from_cache: true, .. }));

    here.shutdown(DEADLINE).await;
    let left = small.bundle(alice.id).unwrap();
    assert!(left.binding(UnixMillis::now()).devices.is_empty(), "a tombstone");
    assert!(left.sequence_of(&device.public()).unwrap() > sequence);
}

#[tokio::test]
async fn a_restart_and_a_lost_store_go_above_what_was_used() {
    let (small, device) = (Small::new(Held::default(), 1), NodeSecret::generate());
    let alice = user(&device, UnixMillis::now());
    let store = Store::temporary().unwrap();
    let far_ahead = UnixMillis::now().0 + 200_000;
    store.put(Table::Sequences, &alice.id.0, &far_ahead.to_be_bytes()).unwrap();
    let first = locator(&small, &device, &store);
    first.host(alice.clone()).await;
    let sequence = first.bind(alice.id).await.unwrap();
    assert!(sequence > far_ahead);
    published(&first, &alice.id).await;
    drop(first);

    let second = locator(&small, &device, &Store::temporary().unwrap());
    second.host(alice.clone()).await;
    second.bind(alice.id).await.unwrap();
    let name = alice.id.to_string();
    let mut status = second.status();
    let above = status.wait_for(|status| status.users.get(&name).is_some_and(|user| user.sequence > sequence));
    tokio::time::timeout(DEADLINE, above).await.expect("the overlay showed a higher number").unwrap();
}

#[tokio::test]
async fn who_asks_at_the_same_time_shares_one_lookup() {
    let held = Held { gate: Some(tokio::sync::Semaphore::new(0)), ..Held::default() };
    let (small, device) = (Small::new(held, 1), NodeSecret::generate());
    let here = locator(&small, &device, &Store::temporary().unwrap());
    let nobody = IdHash([9; 22]);
    let (first, second) = (here.locate(nobody), here.locate(nobody));
    // Answered in order: both lookups were asked for by now.
    assert!(matches!(here.bind(nobody).await, Err(BindError::NotHosted)));
    small.held.gate.as_ref().unwrap().add_permits(8);
    for events in [all(first).await, all(second).await, all(here.locate(nobody)).await] {
        assert!(matches!(events[..], [Located::Done(Err(LocateError::NotFound))]), "{events:?}");
    }
    assert_eq!(small.held.lookups.load(Ordering::SeqCst), 1, "and a moment later it is still known");
}

#[tokio::test]
async fn nobody_there_is_not_the_same_as_not_online() {
    let (small, device) = (Small::new(Held::default(), 0), NodeSecret::generate());
    let here = locator(&small, &device, &Store::temporary().unwrap());
    let events = all(here.locate(IdHash([9; 22]))).await;
    assert!(matches!(events[..], [Located::Done(Err(LocateError::NoOverlay))]), "{events:?}");

    let alice = user(&device, UnixMillis::now());
    here.host(alice.clone()).await;
    here.bind(alice.id).await.unwrap();
    let name = alice.id.to_string();
    let mut status = here.status();
    let waiting = status.wait_for(|status| status.users.get(&name).is_some_and(|user| user.trouble.is_some()));
    tokio::time::timeout(DEADLINE, waiting).await.expect("says what it waits for").unwrap();
    small.status.send_modify(|status| status.peers = 1);
    published(&here, &alice.id).await;
}

#[tokio::test]
async fn an_ended_certificate_is_said_to_the_phone() {
    let (small, device) = (Small::new(Held::default(), 1), NodeSecret::generate());
    let here = locator(&small, &device, &Store::temporary().unwrap());
    let long_ago = UnixMillis(UnixMillis::now().0 - 200 * 86_400_000);
    let alice = user(&device, long_ago);
    here.host(alice.clone()).await;
    assert!(matches!(here.bind(alice.id).await, Err(BindError::CertificateExpired)));
}

#[tokio::test]
async fn an_older_generation_of_keys_is_refused() {
    let (small, device) = (Small::new(Held::default(), 1), NodeSecret::generate());
    let alice = user(&device, UnixMillis::now());
    let here = locator(&small, &device, &Store::temporary().unwrap());
    here.host(alice.clone()).await;
    here.bind(alice.id).await.unwrap();
    published(&here, &alice.id).await;
    let bundle = small.bundle(alice.id).unwrap();
    let judge = Judge { overlay: OVERLAY, scope: AddressScope::Any, now: UnixMillis::now() };
    assert!(validate(&bundle.encode(), &replica_keys(&OVERLAY, &alice.id)[2], &judge, None).is_ok());

    let elsewhere = locator(&small, &NodeSecret::generate(), &Store::temporary().unwrap());
    let newer = VerifiedPeerUser { id: alice.id, node: device.public(), pin: Pin { rotation: 0, epoch: 2 } };
    assert!(elsewhere.admits(&newer));
    let events = all(elsewhere.locate(alice.id)).await;
    assert!(matches!(events[..], [Located::Done(Err(_))]), "{events:?}");
}
