//! Nodes that nobody can dial: reached through others, which may go away.

use super::harness::{Node, PATIENCE, Setup, User, node, reaches, start};
use super::mortal::Mortal;
use futures::{AsyncReadExt, AsyncWriteExt};
use peerline::identity::NodeSecret;
use peerline::overlay::{CircuitsConfig, LocalUser, Overlay, OverlayEvent, address_text};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::timeout;

fn serving() -> Setup {
    let circuits = CircuitsConfig { serve: Some(true), ..CircuitsConfig::default() };
    Setup { circuits, ..Setup::default() }
}

async fn relay(bootstrap: &[String]) -> Node {
    node(bootstrap, serving()).await
}

async fn relays(count: usize) -> Vec<Node> {
    let mut relays: Vec<Node> = Vec::new();
    for _ in 0..count {
        let known: Vec<String> = relays.iter().map(|relay| relay.address.clone()).collect();
        relays.push(relay(&known).await);
    }
    relays
}

/// A node with one user, and its events.
struct Home {
    overlay: Overlay,
    events: mpsc::Receiver<OverlayEvent>,
    secret: NodeSecret,
    user: User,
}

impl Home {
    /// Listens nowhere: there is no address at which it could be dialled.
    async fn hidden(relays: &[Node]) -> Self {
        Self::start(relays, true).await
    }

    /// Listens nowhere either, so that nobody dials it by itself, and is reached through nobody.
    async fn silent(relays: &[Node]) -> Self {
        Self::start(relays, false).await
    }

    async fn start(relays: &[Node], reserve: bool) -> Self {
        Self::knowing(relays.iter().map(|relay| relay.address.clone()).collect(), reserve).await
    }

    async fn knowing(bootstrap: Vec<String>, reserve: bool) -> Self {
        let circuits = CircuitsConfig { reserve: Some(reserve), ..CircuitsConfig::default() };
        let setup = Setup { server: Some(false), listen: Vec::new(), circuits, ..Setup::default() };
        let (overlay, events) = start(&bootstrap, &setup).await.unwrap();
        let user = User::at(&setup.secret);
        overlay.serve_user(LocalUser { id: user.identity.id, bundle: user.bundle().encode().into() }).await;
        Self { overlay, events, secret: setup.secret, user }
    }

    async fn event(&mut self) -> OverlayEvent {
        loop {
            match timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("it runs") {
                OverlayEvent::AddressesChanged(_) => {}
                event => return event,
            }
        }
    }

    async fn message(&mut self) -> String {
        match self.event().await {
            OverlayEvent::LinkMessage { message, .. } => String::from_utf8(message.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    async fn call(&mut self, to: &Home) -> peerline::overlay::LinkId {
        let (local, remote) = (self.user.identity.id, to.user.identity.id);
        let addresses = to.overlay.publishable();
        let link = self.overlay.connect(local, remote, to.secret.public(), addresses, Duration::from_secs(10)).await;
        link.expect("a way")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_be_dialled_is_called_through_its_relays() {
    let relays = relays(3).await;
    let mut callee = Home::hidden(&relays).await;
    reaches(&callee.overlay, |status| status.circuits.len() == 2).await;
    let published: Vec<String> = callee.overlay.publishable().iter().map(|address| address_text(address)).collect();
    assert!(published.iter().all(|text| text.ends_with("/p2p-circuit")), "{published:?}");
    let mut caller = Home::silent(&relays).await;
    let started = Instant::now();
    let link = caller.call(&callee).await;
    assert!(matches!(caller.event().await, OverlayEvent::LinkUp { outbound: true, .. }));
    println!("linked through a relay after {:?}", started.elapsed());
    let OverlayEvent::LinkUp { link: theirs, remote_ip, local_ip, .. } = callee.event().await else { panic!() };
    assert!(remote_ip.is_unspecified() && !local_ip.is_unspecified(), "{local_ip} {remote_ip}");
    for n in 0..100 {
        caller.overlay.send(link, format!("out {n}").into()).unwrap();
        callee.overlay.send(theirs, format!("back {n}").into()).unwrap();
    }
    for n in 0..100 {
        assert_eq!(callee.message().await, format!("out {n}"));
        assert_eq!(caller.message().await, format!("back {n}"));
    }
    let mut shown = relays[0].overlay.status();
    let served = async {
        while relays.iter().all(|relay| relay.overlay.status().borrow().circuits_served == 0) {
            shown.changed().await.unwrap();
        }
    };
    timeout(PATIENCE, served).await.expect("a relay knows of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_beside_the_link_carries_bytes_and_only_beside_a_link() {
    let relays = relays(2).await;
    let mut callee = Home::hidden(&relays).await;
    reaches(&callee.overlay, |status| status.circuits.len() == 2).await;
    let mut caller = Home::silent(&relays).await;
    let node = callee.secret.public();
    assert!(caller.overlay.media_pipe(node, [8; 16]).await.is_err(), "not even connected");
    caller.call(&callee).await;
    assert!(matches!(caller.event().await, OverlayEvent::LinkUp { .. }));
    assert!(matches!(callee.event().await, OverlayEvent::LinkUp { .. }));
    let mut near = caller.overlay.media_pipe(node, [9; 16]).await.unwrap();
    let OverlayEvent::MediaPipe { node: from, call, pipe: mut far } = callee.event().await else { panic!() };
    assert_eq!((from, call), (caller.secret.public(), [9; 16]));
    near.write_all(b"there").await.unwrap();
    near.flush().await.unwrap();
    let mut heard = [0; 5];
    timeout(PATIENCE, far.read_exact(&mut heard)).await.expect("in time").unwrap();
    far.write_all(&heard).await.unwrap();
    far.flush().await.unwrap();
    timeout(PATIENCE, near.read_exact(&mut heard)).await.expect("in time").unwrap();
    assert_eq!(&heard, b"there");
    drop(far);
    assert_eq!(timeout(PATIENCE, near.read(&mut heard)).await.expect("in time").unwrap_or(0), 0, "closed with its end");

    // More at a time than calls have: the rest is closed, and others are as before.
    let mut streams = Vec::new();
    for n in 0..20 {
        streams.push(caller.overlay.media_pipe(node, [n; 16]).await);
    }
    let mut taken = Vec::new();
    while let Ok(Some(event)) = timeout(Duration::from_secs(1), callee.events.recv()).await {
        if let OverlayEvent::MediaPipe { pipe, .. } = event {
            taken.push(pipe);
        }
    }
    assert!((1..=8).contains(&taken.len()), "{} at a time", taken.len());
}

/// 256 kbit/s after a burst of 128 kB (SECURITY §4.10): what libp2p's relay has no rule for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circuit_is_passed_on_no_faster_than_its_share() {
    const BYTES: usize = 192_000;
    let relays = relays(1).await;
    let mut callee = Home::hidden(&relays).await;
    reaches(&callee.overlay, |status| status.circuits.len() == 1).await;
    let mut caller = Home::silent(&relays).await;
    caller.call(&callee).await;
    assert!(matches!(caller.event().await, OverlayEvent::LinkUp { .. }));
    assert!(matches!(callee.event().await, OverlayEvent::LinkUp { .. }));
    let mut near = caller.overlay.media_pipe(callee.secret.public(), [9; 16]).await.unwrap();
    let OverlayEvent::MediaPipe { pipe: mut far, .. } = callee.event().await else { panic!() };
    let start = Instant::now();
    let all = vec![7; BYTES];
    let mut heard = vec![0; BYTES];
    let both = async {
        tokio::try_join!(
            async {
                near.write_all(&all).await?;
                near.flush().await
            },
            far.read_exact(&mut heard)
        )
    };
    timeout(PATIENCE, both).await.expect("in time").unwrap();
    println!("{BYTES} bytes took {:?}", start.elapsed());
    assert_eq!(heard, all);
    assert!(start.elapsed() >= Duration::from_millis(1_900), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hidden_nodes_call_each_other_though_relays_die_one_after_the_other() {
    let mut relays = relays(3).await;
    let mut callee = Home::hidden(&relays).await;
    let mut caller = Home::hidden(&relays).await;
    for home in [&callee, &caller] {
        reaches(&home.overlay, |status| status.circuits.len() == 2).await;
    }
    let link = caller.call(&callee).await;
    assert!(matches!(caller.event().await, OverlayEvent::LinkUp { .. }));
    assert!(matches!(callee.event().await, OverlayEvent::LinkUp { .. }));
    for _ in 0..2 {
        let before = callee.overlay.status().borrow().circuits.clone();
        let dying = relays.iter().position(|relay| before[0].contains(&relay.overlay.status().borrow().peer_id));
        let relay = relays.remove(dying.expect("one of them"));
        relay.overlay.shutdown().await;
        drop(relay);
        let killed = Instant::now();
        caller.overlay.send(link, format!("still there, {} left?", relays.len()).into()).unwrap();
        assert_eq!(callee.message().await, format!("still there, {} left?", relays.len()));
        println!("a message came through {:?} after a relay was stopped", killed.elapsed());
        let left = relays.len().min(2);
        reaches(&callee.overlay, |status| status.circuits.len() == left && !status.circuits.contains(&before[0])).await;
        println!("reached through {left} again {:?} after a relay was stopped", killed.elapsed());
        // As after another lookup: the same link, and it knows where to look next time.
        assert_eq!(caller.call(&callee).await, link);
    }
}

/// Its connections look open: TCP would wait for ever, QUIC for 40 s.
async fn a_silent_relay_is_left(listen: &str) {
    let first = relay(&[]).await;
    let setup = Setup { listen: vec![listen.into()], ..serving() };
    let mut mortal = Mortal::start(vec![first.address.clone()], setup).await;
    let silent = mortal.node.address.clone();
    let home = Home::knowing(vec![first.address.clone(), silent.clone()], true).await;
    let named = |texts: &[String], at: &str| texts.iter().any(|text| text.starts_with(at));
    reaches(&home.overlay, |status| status.circuits.len() == 2).await;
    assert!(named(&home.overlay.status().borrow().circuits, &silent), "{silent}");
    let other = relay(std::slice::from_ref(&first.address)).await;
    // Until nobody has to ask anybody anything: questions find the dead too.
    tokio::time::sleep(Duration::from_secs(18)).await;
    mortal.freeze().await;
    let since = Instant::now();
    let mut status = home.overlay.status();
    let left = status.wait_for(|status| status.circuits.len() == 2 && !named(&status.circuits, &silent));
    timeout(Duration::from_secs(25), left).await.expect("noticed").unwrap();
    println!("{listen}: reached elsewhere after {:?}", since.elapsed());
    assert!(named(&home.overlay.status().borrow().circuits, &other.address), "{}", other.address);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_falls_silent_is_left_for_another_within_seconds() {
    tokio::join!(
        a_silent_relay_is_left("/ip4/127.0.0.1/tcp/0"),
        a_silent_relay_is_left("/ip4/127.0.0.1/udp/0/quic-v1")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_reached_through_a_node_that_does_not_serve() {
    // Told to: by itself it serves as soon as somebody could dial it.
    let circuits = CircuitsConfig { serve: Some(false), ..CircuitsConfig::default() };
    let others = vec![node(&[], Setup { circuits, ..Setup::default() }).await];
    let hidden = Home::hidden(&others).await;
    let mut caller = Home::silent(&others).await;
    reaches(&hidden.overlay, |status| status.peers >= 1).await;
    assert!(hidden.overlay.status().borrow().circuits.is_empty());
    let peer = peerline::overlay::peer_id_text(&others[0].secret.public());
    let through = format!("{}/p2p-circuit", others[0].address);
    assert!(through.contains(&peer));
    let (local, remote) = (caller.user.identity.id, hidden.user.identity.id);
    let node = hidden.secret.public();
    // By its own words it would be reached there; the relay says no, and so does nothing at all.
    let address: libp2p::Multiaddr = through.parse().unwrap();
    let refused = caller.overlay.connect(local, remote, node, vec![address.to_vec()], Duration::from_secs(20)).await;
    assert!(refused.is_err());
    let told: Vec<OverlayEvent> = std::iter::from_fn(|| caller.events.try_recv().ok()).collect();
    assert!(!told.iter().any(|event| matches!(event, OverlayEvent::LinkUp { .. })), "{told:?}");
}
