//! Nodes that die without a word and come back as another process: whoever knew them must not go on talking to the dead.
//!
//! The old process is frozen (its only thread stands still): its QUIC connections look open for 40 s, and its port is
//! taken, so the new one listens elsewhere.

use super::harness::{Setup, User, reaches, start};
use super::mortal::Mortal;
use peerline::identity::NodeSecret;
use peerline::overlay::{LocalUser, Overlay, OverlayEvent};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// From dialling to a link, however dead the old one is (issue A, "Show" 7).
const SOON: Duration = Duration::from_secs(2);

fn quic(secret: &NodeSecret) -> Setup {
    Setup { secret: secret.clone(), listen: vec!["/ip4/127.0.0.1/udp/0/quic-v1".into()], ..Setup::default() }
}

async fn live(secret: &NodeSecret, user: &User, bootstrap: Vec<String>) -> Mortal {
    let mortal = Mortal::start(bootstrap, quic(secret)).await;
    mortal.node.overlay.serve_user(served(user)).await;
    mortal
}

fn served(user: &User) -> LocalUser {
    LocalUser { id: user.identity.id, bundle: user.bundle().encode().into() }
}

/// A node with a caller, its events and its address.
async fn caller() -> (Overlay, mpsc::Receiver<OverlayEvent>, User, String) {
    let secret = NodeSecret::generate();
    let (overlay, events) = start(&[], &quic(&secret)).await.unwrap();
    let user = User::at(&secret);
    overlay.serve_user(served(&user)).await;
    let address = overlay.status().borrow().listen[0].clone();
    (overlay, events, user, address)
}

async fn call(overlay: &Overlay, caller: &User, callee: &User, node: &NodeSecret, addresses: Vec<Vec<u8>>) -> Duration {
    let started = Instant::now();
    let (local, remote) = (caller.identity.id, callee.identity.id);
    let link = overlay.connect(local, remote, node.public(), addresses, Duration::from_secs(20)).await;
    link.expect("linked");
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_to_a_dead_process_ends_when_the_new_one_comes() {
    let (overlay, mut events, alice, address) = caller().await;
    let secret = NodeSecret::generate();
    let bob = User::at(&secret);
    let mut old = live(&secret, &bob, vec![address.clone()]).await;
    reaches(&overlay, |status| status.peers == 1).await;
    call(&overlay, &alice, &bob, &secret, old.node.overlay.publishable()).await;

    old.freeze().await;
    let new = live(&secret, &bob, vec![address]).await;
    let down = async { while !matches!(events.recv().await, Some(OverlayEvent::LinkDown { .. })) {} };
    timeout(Duration::from_secs(10), down).await.expect("long before the connection shows that it is dead");
    let took = call(&overlay, &alice, &bob, &secret, new.node.overlay.publishable()).await;
    assert!(took < SOON, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_does_not_answer_is_dialled_beside() {
    let (overlay, _events, alice, address) = caller().await;
    let secret = NodeSecret::generate();
    let bob = User::at(&secret);
    let mut old = live(&secret, &bob, vec![address]).await;
    reaches(&overlay, |status| status.peers == 1).await;
    old.freeze().await;
    // It knows nobody, so nobody hears of it before the call.
    let new = live(&secret, &bob, vec![]).await;
    let took = call(&overlay, &alice, &bob, &secret, new.node.overlay.publishable()).await;
    assert!(took < SOON, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_link_is_found_out_by_the_first_message() {
    let (overlay, mut events, alice, address) = caller().await;
    let secret = NodeSecret::generate();
    let bob = User::at(&secret);
    let mut old = live(&secret, &bob, vec![address]).await;
    call(&overlay, &alice, &bob, &secret, old.node.overlay.publishable()).await;
    let link = loop {
        if let Some(OverlayEvent::LinkUp { link, .. }) = events.recv().await {
            break link;
        }
    };
    old.freeze().await;
    let new = live(&secret, &bob, vec![]).await;
    let started = Instant::now();
    overlay.send(link, "INVITE".into()).unwrap();
    // The link is there still: this only says where the other end may be now.
    call(&overlay, &alice, &bob, &secret, new.node.overlay.publishable()).await;
    let down = async { while !matches!(events.recv().await, Some(OverlayEvent::LinkDown { .. })) {} };
    timeout(Duration::from_secs(10), down).await.expect("found out");
    call(&overlay, &alice, &bob, &secret, new.node.overlay.publishable()).await;
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_connections_take_no_places() {
    let (overlay, _events, _, address) = caller().await;
    let secret = NodeSecret::generate();
    let bob = User::at(&secret);
    let mut lives = Vec::new();
    for round in 0..8 {
        let mut life = live(&secret, &bob, vec![address.clone()]).await;
        // Each time for somebody else: one record is renewed five times in a row at most.
        let told = life.node.overlay.publish(User::at(&secret).bundle()).await;
        assert!(told.is_ok(), "life {round}: {told:?}");
        life.freeze().await;
        lives.push(life);
    }
    assert_eq!(overlay.status().borrow().peers, 1);
}
