//! Whole calls between two nodes in one process: real sockets, overlay, keys, SIP and media; scripted phones.

use peerline::calls::CallRecord;
use peerline::config::{Listen, Role, Serve, Settings};
use peerline::gateway::{self, NewPhone, Owner};
use peerline::media::audio::{AudioEndpoint, Source};
use peerline::node::book::Book;
use peerline::node::dir::DataDir;
use peerline::node::{Node, NodeConfig};
use peerline::sip::softphone::{PhoneEvent, Softphone, SoftphoneConfig};
use peerline::uri::IdHash;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Above everything that these tests wait for, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct Person {
    node: Node,
    user: IdHash,
    account: String,
    password: String,
}

struct Phone {
    line: Softphone,
    events: mpsc::Receiver<PhoneEvent>,
}

/// Alice and Bob, each on a node of their own; Bob has Alice among his contacts.
struct Two {
    alice: Person,
    bob: Person,
    _home: tempfile::TempDir,
}

impl Two {
    async fn start(overlay: &str, ring_timeout: Duration) -> Two {
        let home = tempfile::tempdir().unwrap();
        let alice = person(home.path(), "alice", overlay, None, ring_timeout, None).await;
        let bootstrap = alice.node.info().listen.clone();
        let bob = person(home.path(), "bob", overlay, Some(bootstrap), ring_timeout, Some(alice.user)).await;
        timeout(DEADLINE, alice.node.joined(1, |_| {})).await.expect("the nodes meet");
        Two { alice, bob, _home: home }
    }

    /// Whatever happened: no call, no leg and no port is left on either node.
    async fn nothing_left(&self) {
        for person in [&self.alice, &self.bob] {
            let parts = person.node.parts();
            let mut calls = parts.calls.status();
            timeout(DEADLINE, calls.wait_for(|s| s.active == 0)).await.expect("the call ends").unwrap();
            let mut media = parts.media.status();
            let free = media.wait_for(|s| s.legs == 0 && s.ports_in_use == 0);
            timeout(DEADLINE, free).await.expect("all media is freed").unwrap();
            let mut sip = parts.sip.status();
            timeout(DEADLINE, sip.wait_for(|s| s.legs == 0)).await.expect("all legs end").unwrap();
        }
    }

    async fn stop(self) {
        tokio::join!(self.alice.node.stop(), self.bob.node.stop());
    }
}

async fn person(
    home: &std::path::Path,
    name: &str,
    overlay: &str,
    bootstrap: Option<Vec<String>>,
    ring_timeout: Duration,
    knows: Option<IdHash>,
) -> Person {
    let dir = DataDir::open(&home.join(name)).unwrap();
    let new = NewPhone {
        name: name.to_owned(),
        extension: None,
        password: None,
        display: Some("The President".to_owned()),
        sha256: false,
        owner: Owner::New,
    };
    let added = gateway::add_phone(&dir, new, None).unwrap();
    if let Some(user) = knows {
        Book::new(&dir).add_contact("alice-of-work", user).unwrap();
    }
    let mut settings = Settings::of_role(Role::Desktop);
    settings.overlay.test_seed = Some(overlay.to_owned());
    settings.overlay.listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
    settings.overlay.bootstrap = bootstrap.unwrap_or_default();
    settings.overlay.mdns = false;
    settings.overlay.serve = Serve::On;
    let any = Listen::At(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    (settings.sip.udp, settings.sip.tcp) = (any, any);
    settings.api.listen = Listen::Off;
    settings.calls.ring_timeout = ring_timeout;
    let node = Node::start(NodeConfig { dir, settings, temporary: true, passphrase: None }).await.unwrap();
    Person { node, user: added.user, account: added.account.name, password: added.account.password }
}

impl Person {
    async fn phone(&self) -> Phone {
        let config = SoftphoneConfig {
            server: self.node.info().sip_udp.unwrap(),
            account: self.account.clone(),
            password: self.password.clone(),
            display: Some("The President".to_owned()),
        };
        let (line, events) = Softphone::register(config).await.unwrap();
        Phone { line, events }
    }

    /// A registered phone, findable in the overlay.
    async fn published_phone(&self) -> Phone {
        let phone = self.phone().await;
        let mut status = self.node.parts().locator.status();
        let name = self.user.to_string();
        let held = status.wait_for(|s| s.users.get(&name).is_some_and(|u| u.bound && u.copies > 0));
        timeout(DEADLINE, held).await.expect("published in time").unwrap();
        phone
    }

    fn uri(&self) -> String {
        format!("sip:{}@{}", self.user, self.node.info().overlay)
    }

    async fn last_call(&self) -> CallRecord {
        let mut status = self.node.parts().calls.status();
        let ended = timeout(DEADLINE, status.wait_for(|s| !s.recent.is_empty())).await;
        ended.expect("a call is noted").unwrap().recent[0].clone()
    }
}

impl Phone {
    async fn next(&mut self) -> PhoneEvent {
        timeout(DEADLINE, self.events.recv()).await.expect("the phone hears something").expect("the phone works")
    }

    /// The next event but ringing.
    async fn outcome(&mut self) -> PhoneEvent {
        loop {
            match self.next().await {
                PhoneEvent::Ringing { .. } => {}
                event => return event,
            }
        }
    }

    async fn refusal(&mut self) -> (u16, String) {
        match self.outcome().await {
            PhoneEvent::Failed { cause } => (cause.status, cause.words),
            other => panic!("expected a refusal, not {other:?}"),
        }
    }
}

async fn audio(hertz: f32) -> AudioEndpoint {
    AudioEndpoint::bind(LOOPBACK, Source::Tone(hertz), None).await.unwrap()
}

async fn hears(audio: &AudioEndpoint, hertz: f32) {
    let heard = async {
        while audio.heard().tone_hz.is_none_or(|tone| (tone - hertz).abs() > 8.0) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(DEADLINE, heard).await.unwrap_or_else(|_| panic!("heard {:?}, not {hertz} Hz", audio.heard()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_heard_both_ways_and_the_callee_hangs_up() {
    let two = Two::start("calls-talk", DEADLINE).await;
    let mut alice = two.alice.phone().await;
    let mut bob = two.bob.published_phone().await;
    let (at_alice, at_bob) = (audio(440.0).await, audio(620.0).await);
    alice.line.call(&two.bob.uri(), at_alice.offer()).await;
    let PhoneEvent::Incoming { from, display, offer } = bob.next().await else { panic!("bob's phone rings") };
    assert!(from.contains(&two.alice.user.to_string()), "{from}");
    assert_eq!(display.as_deref(), Some("alice-of-work"), "bob's own name for her, not what she says of herself");
    bob.line.ring().await;
    assert!(matches!(alice.next().await, PhoneEvent::Ringing { status: 180, .. }));
    bob.line.answer(at_bob.answer(&offer).unwrap()).await;
    let PhoneEvent::Answered { sdp } = alice.outcome().await else { panic!("answered") };
    at_alice.start(&sdp).unwrap();
    tokio::join!(hears(&at_alice, 620.0), hears(&at_bob, 440.0));
    bob.line.hang_up().await;
    assert!(matches!(alice.outcome().await, PhoneEvent::Ended { .. }));
    two.nothing_left().await;
    let call = two.alice.last_call().await;
    assert_eq!((call.answered, call.path.as_str(), call.to), (true, "direct", two.bob.uri()));
    assert!(call.lookup_ms.is_some() && call.ring_ms.is_some() && call.answer_ms.is_some());
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_phones_ring_one_answers_and_the_others_are_told() {
    let two = Two::start("calls-fork", DEADLINE).await;
    let mut alice = two.alice.phone().await;
    let mut desk = two.bob.published_phone().await;
    let mut kitchen = two.bob.phone().await;
    let (at_alice, at_desk) = (audio(440.0).await, audio(620.0).await);
    alice.line.call(&two.bob.uri(), at_alice.offer()).await;
    let PhoneEvent::Incoming { offer, .. } = desk.next().await else { panic!("the desk rings") };
    assert!(matches!(kitchen.next().await, PhoneEvent::Incoming { .. }));
    desk.line.answer(at_desk.answer(&offer).unwrap()).await;
    assert!(matches!(alice.outcome().await, PhoneEvent::Answered { .. }));
    let PhoneEvent::Ended { cause } = kitchen.next().await else { panic!("the kitchen stops") };
    assert_eq!(cause.map(|cause| cause.words).as_deref(), Some("Call completed elsewhere"));
    alice.line.hang_up().await;
    assert!(matches!(desk.next().await, PhoneEvent::Ended { .. }));
    two.nothing_left().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_rings_nobody_any_more() {
    let two = Two::start("calls-cancel", DEADLINE).await;
    let alice = two.alice.phone().await;
    let mut bob = two.bob.published_phone().await;
    let at_alice = audio(440.0).await;
    alice.line.call(&two.bob.uri(), at_alice.offer()).await;
    assert!(matches!(bob.next().await, PhoneEvent::Incoming { .. }));
    alice.line.hang_up().await;
    assert!(matches!(bob.next().await, PhoneEvent::Ended { .. }));
    two.nothing_left().await;
    assert_eq!(two.alice.last_call().await.status, 487);
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_have_their_codes_and_words() {
    let two = Two::start("calls-refuse", Duration::from_secs(2)).await;
    let mut alice = two.alice.phone().await;
    let at_alice = audio(440.0).await;

    alice.line.call(&two.bob.uri(), at_alice.offer()).await;
    assert_eq!(alice.refusal().await, (480, "Not online".to_owned()));
    alice.line.call("nobody-of-that-name", at_alice.offer()).await;
    assert_eq!(alice.refusal().await.0, 404);
    let mut number = two.bob.user.to_string();
    let last = if number.pop() == Some('a') { 'b' } else { 'a' };
    number.push(last);
    alice.line.call(&number, at_alice.offer()).await;
    assert_eq!(alice.refusal().await, (484, "This number is mistyped".to_owned()));

    let mut bob = two.bob.published_phone().await;
    // "Not online" is believed for two seconds.
    two.alice.node.parts().locator.forget(two.bob.user);
    for status in [486, 603] {
        alice.line.call(&two.bob.uri(), at_alice.offer()).await;
        assert!(matches!(bob.next().await, PhoneEvent::Incoming { .. }), "before {status}");
        bob.line.reject(status).await;
        assert_eq!(alice.refusal().await.0, status);
    }
    alice.line.call(&two.bob.uri(), at_alice.offer()).await;
    assert!(matches!(bob.next().await, PhoneEvent::Incoming { .. }));
    bob.line.ring().await;
    assert_eq!(alice.refusal().await, (480, "No answer".to_owned()));
    assert!(matches!(bob.next().await, PhoneEvent::Ended { .. }));
    two.nothing_left().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_echo_service_plays_back() {
    let two = Two::start("calls-echo", DEADLINE).await;
    let mut alice = two.alice.phone().await;
    let at_alice = audio(440.0).await;
    alice.line.call("echo", at_alice.offer()).await;
    let PhoneEvent::Answered { sdp } = alice.outcome().await else { panic!("answered") };
    at_alice.start(&sdp).unwrap();
    hears(&at_alice, 440.0).await;
    alice.line.hang_up().await;
    two.nothing_left().await;
    assert_eq!(two.alice.last_call().await.path, "echo");
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_ends_its_calls_and_withdraws() {
    let two = Two::start("calls-stop", DEADLINE).await;
    let mut alice = two.alice.phone().await;
    let mut bob = two.bob.published_phone().await;
    let (at_alice, at_bob) = (audio(440.0).await, audio(620.0).await);
    alice.line.call(&two.bob.uri(), at_alice.offer()).await;
    let PhoneEvent::Incoming { offer, .. } = bob.next().await else { panic!("bob's phone rings") };
    bob.line.answer(at_bob.answer(&offer).unwrap()).await;
    assert!(matches!(alice.outcome().await, PhoneEvent::Answered { .. }));
    let Two { alice: alice_side, bob: bob_side, _home } = two;
    bob_side.node.stop().await;
    assert!(matches!(alice.outcome().await, PhoneEvent::Ended { .. }));
    let mut media = alice_side.node.parts().media.status();
    timeout(DEADLINE, media.wait_for(|s| s.legs == 0 && s.ports_in_use == 0)).await.expect("freed").unwrap();
    alice_side.node.stop().await;
}
