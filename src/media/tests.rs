//! Two nodes back to back: phone A, leg, peer leg, a wire that can be tapped, peer leg, leg, phone B.

mod paths;

use super::audio::{AudioEndpoint, Heard, Source};
use super::*;
use bytes::Bytes;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use tokio::net::UdpSocket;
use tokio_util::task::AbortOnDropHandle;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const DEADLINE: Duration = Duration::from_secs(30);

fn node(ports: u16, max_legs: usize) -> Media {
    Media::start(MediaConfig { ports: ports::tests::free_range(ports), max_legs }, Metrics::default())
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}

/// Asks again until it is so.
async fn until(mut so: impl FnMut() -> bool) {
    within(async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

async fn tone(hertz: f32) -> AudioEndpoint {
    AudioEndpoint::bind(HERE, Source::Tone(hertz), None).await.unwrap()
}

async fn hears(phone: &AudioEndpoint, hertz: f32) -> Heard {
    until(|| phone.heard().tone_hz.is_some_and(|heard| (heard - hertz).abs() < 3.0)).await;
    phone.heard()
}

fn port_of(sdp: &[u8]) -> u16 {
    let text = std::str::from_utf8(sdp).unwrap();
    text.split("m=audio ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
}

/// The same description with another audio port.
fn by_way_of(sdp: &Bytes, port: u16) -> Vec<u8> {
    let text = std::str::from_utf8(sdp).unwrap();
    text.replace(&format!("m=audio {} ", port_of(sdp)), &format!("m=audio {port} ")).into_bytes()
}

/// What somebody between two nodes sees, and may put on the wire.
struct Wire {
    ports: [u16; 2],
    /// Where each side's packets go on to.
    ends: Arc<Mutex<[Option<SocketAddr>; 2]>>,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    sockets: [Arc<UdpSocket>; 2],
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Wire {
    async fn new() -> Wire {
        let sockets = [(); 2].map(|()| async { Arc::new(UdpSocket::bind((HERE, 0)).await.unwrap()) });
        let [a, b] = sockets;
        let sockets = [a.await, b.await];
        let ends = Arc::new(Mutex::new([None; 2]));
        let seen: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let mut tasks = Vec::new();
        for side in 0..2 {
            let (sockets, ends, seen) = (sockets.clone(), ends.clone(), seen.clone());
            tasks.push(AbortOnDropHandle::new(tokio::spawn(async move {
                let mut buffer = [0; 2_048];
                loop {
                    let Ok((len, _)) = sockets[side].recv_from(&mut buffer).await else { continue };
                    stream::lock(&seen).push(buffer[..len].to_vec());
                    let on = stream::lock(&ends)[1 - side];
                    if let Some(on) = on {
                        let _ = sockets[1 - side].send_to(&buffer[..len], on).await;
                    }
                }
            })));
        }
        let ports = [0, 1].map(|side: usize| sockets[side].local_addr().unwrap().port());
        Wire { ports, ends, seen, sockets, _tasks: tasks }
    }

    fn connect(&self, side: usize, sdp: &[u8]) {
        stream::lock(&self.ends)[side] = Some(SocketAddr::new(HERE, port_of(sdp)));
    }

    fn seen(&self) -> Vec<Vec<u8>> {
        stream::lock(&self.seen).clone()
    }
}

/// The four legs of a call between two nodes.
struct Call {
    phone_a: MediaLeg,
    peer_a: MediaLeg,
    peer_b: MediaLeg,
    phone_b: MediaLeg,
    wire: Wire,
}

impl Call {
    async fn new(a: &Media, b: &Media) -> Call {
        Call {
            phone_a: a.open(LegKind::Phone, HERE).unwrap(),
            peer_a: a.open(LegKind::Peer, HERE).unwrap(),
            peer_b: b.open(LegKind::Peer, HERE).unwrap(),
            phone_b: b.open(LegKind::Phone, HERE).unwrap(),
            wire: Wire::new().await,
        }
    }

    /// From A's offer to the offer that B's phone sees.
    async fn offer(&mut self, offer: &[u8]) -> Bytes {
        self.phone_a.accept(offer).await.unwrap();
        let between = self.peer_a.describe_offer(offer).await.unwrap();
        self.wire.connect(0, &between);
        let between = by_way_of(&between, self.wire.ports[1]);
        self.peer_b.accept(&between).await.unwrap();
        self.phone_b.describe_offer(&between).await.unwrap()
    }

    /// And the answer's way back.
    async fn answer(&mut self, answer: &[u8]) -> Bytes {
        self.phone_b.accept(answer).await.unwrap();
        let between = self.peer_b.describe_answer(answer).await.unwrap();
        self.wire.connect(1, &between);
        let between = by_way_of(&between, self.wire.ports[0]);
        self.peer_a.accept(&between).await.unwrap();
        self.phone_a.describe_answer(&between).await.unwrap()
    }

    fn join(&mut self) {
        self.phone_a.join(&mut self.peer_a);
        self.peer_b.join(&mut self.phone_b);
    }

    async fn negotiate(&mut self, a: &AudioEndpoint, offer: Bytes, b: &AudioEndpoint) {
        let answer = b.answer(&self.offer(&offer).await).unwrap();
        a.start(&self.answer(&answer).await).unwrap();
    }
}

#[tokio::test]
async fn each_phone_hears_the_other_and_the_wire_hears_nobody() {
    let (a, b) = (node(40, 8), node(40, 8));
    let mut call = Call::new(&a, &b).await;
    let (alice, bob) = (tone(440.0).await, tone(1_000.0).await);
    call.negotiate(&alice, alice.offer(), &bob).await;
    call.join();
    let (at_alice, at_bob) = tokio::join!(hears(&alice, 1_000.0), hears(&bob, 440.0));
    assert_eq!((at_alice.lost, at_bob.lost), (0, 0));

    let seen = call.wire.seen();
    let speech: Vec<_> = seen.iter().filter(|packet| packet[1] < 192).collect();
    assert!(speech.len() > 20 && speech.iter().all(|packet| packet.len() == 12 + 160 + 16), "G.711 under AES-GCM");
    // A tone in G.711 has few distinct bytes and repeats; ciphertext has neither.
    for packet in speech {
        let mut distinct = packet[12..172].to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(distinct.len() > 70, "{} distinct bytes", distinct.len());
    }
    let stats = call.peer_b.stats();
    assert!(stats.packets_in > 10 && stats.packets_out > 10 && stats.refused == 0 && stats.first_packet_ms.is_some());
    assert!(!call.phone_b.silent_for(Duration::from_secs(5)));
}

#[tokio::test]
async fn the_wire_cannot_alter_replay_or_invent() {
    let (a, b) = (node(40, 8), node(40, 8));
    let mut call = Call::new(&a, &b).await;
    let (alice, bob) = (tone(440.0).await, tone(1_000.0).await);
    call.negotiate(&alice, alice.offer(), &bob).await;
    call.join();
    hears(&bob, 440.0).await;
    let target = stream::lock(&call.wire.ends)[1].unwrap();
    let stranger = UdpSocket::bind((HERE, 0)).await.unwrap();
    let refused_before = call.peer_b.stats().refused;
    let mut bad = 0;
    for packet in call.wire.seen().into_iter().take(20) {
        let mut altered = packet.clone();
        altered[20] ^= 1;
        let mut forged = packet.clone();
        forged[8..12].copy_from_slice(&[9, 9, 9, 9]);
        for packet in [packet, altered, forged, vec![0x80; 7], b"hello".to_vec()] {
            call.wire.sockets[1].send_to(&packet, target).await.unwrap();
            stranger.send_to(&packet, target).await.unwrap();
            bad += 2;
        }
    }
    until(|| call.peer_b.stats().refused >= refused_before + bad).await;
    let (before, wire) = (bob.heard().packets, call.wire.seen().len());
    until(|| bob.heard().packets > before + 25).await;
    assert_eq!(bob.heard().lost, 0, "nobody was disturbed");
    assert!(call.wire.seen().len() > wire, "and the answers still go to the genuine address");
    until(|| b.status().borrow().refused >= bad).await;
}

#[tokio::test]
async fn hold_and_resume_with_new_keys() {
    let (a, b) = (node(40, 8), node(40, 8));
    let mut call = Call::new(&a, &b).await;
    let (alice, bob) = (tone(440.0).await, tone(1_000.0).await);
    call.negotiate(&alice, alice.offer(), &bob).await;
    call.join();
    hears(&alice, 1_000.0).await;
    call.negotiate(&alice, alice.offer_hold(), &bob).await;
    hears(&bob, 440.0).await;
    until(|| alice.heard().tone_hz.is_none()).await;
    assert!(!call.phone_b.silent_for(Duration::ZERO), "on hold is not vanished");
    assert!(call.phone_a.silent_for(Duration::ZERO) && !call.phone_a.silent_for(Duration::from_secs(5)));
    call.negotiate(&alice, alice.offer(), &bob).await;
    let (at_alice, _) = tokio::join!(hears(&alice, 1_000.0), hears(&bob, 440.0));
    assert_eq!(at_alice.lost, 0);
    assert_eq!(bob.heard().lost, 0, "not a packet was lost over two changes of keys");
    assert_eq!(call.peer_a.stats().refused + call.peer_b.stats().refused, 0);
}

#[tokio::test]
async fn each_branch_of_a_fork_has_its_own_keys_and_only_the_winner_is_joined() {
    let (a, b, c) = (node(40, 8), node(40, 8), node(40, 8));
    let (alice, bob, carol) = (tone(440.0).await, tone(1_000.0).await, tone(1_500.0).await);
    let mut alice_leg = a.open(LegKind::Phone, HERE).unwrap();
    let offer = alice.offer();
    alice_leg.accept(&offer).await.unwrap();
    let mut branches = Vec::new();
    let mut keys = std::collections::HashSet::new();
    for (node, phone) in [(&b, &bob), (&c, &carol)] {
        let mut near = a.open(LegKind::Peer, HERE).unwrap();
        let mut far = node.open(LegKind::Peer, HERE).unwrap();
        let mut leg = node.open(LegKind::Phone, HERE).unwrap();
        let between = near.describe_offer(&offer).await.unwrap();
        far.accept(&between).await.unwrap();
        let answer = phone.answer(&leg.describe_offer(&between).await.unwrap()).unwrap();
        leg.accept(&answer).await.unwrap();
        let back = far.describe_answer(&answer).await.unwrap();
        near.accept(&back).await.unwrap();
        far.join(&mut leg);
        for sdp in [&between, &back] {
            let text = std::str::from_utf8(sdp).unwrap();
            keys.insert(text.split("inline:").nth(1).unwrap().to_owned());
        }
        branches.push((near, far, leg, back));
    }
    assert_eq!(keys.len(), 4, "four keys");
    // Early media from the first, then the second wins.
    let early = branches[0].3.clone();
    alice.start(&alice_leg.describe_answer(&early).await.unwrap()).unwrap();
    alice_leg.join(&mut branches[0].0);
    hears(&alice, 1_000.0).await;
    let last = branches[1].3.clone();
    alice.start(&alice_leg.describe_answer(&last).await.unwrap()).unwrap();
    alice_leg.join(&mut branches[1].0);
    tokio::join!(hears(&alice, 1_500.0), hears(&carol, 440.0));
    until(|| bob.heard().tone_hz.is_none()).await;
    let loser = branches.remove(0);
    assert_eq!(loser.0.stats().refused, 0);
}

#[tokio::test]
async fn the_echo_plays_back_to_phones_and_peers() {
    let (a, b) = (node(40, 8), node(40, 8));
    let phone = tone(600.0).await;
    let mut echo = a.open(LegKind::Phone, HERE).unwrap();
    echo.accept(&phone.offer()).await.unwrap();
    phone.start(&echo.echo().await.unwrap()).unwrap();
    hears(&phone, 600.0).await;

    let phone = tone(700.0).await;
    let (mut leg, mut near) = (a.open(LegKind::Phone, HERE).unwrap(), a.open(LegKind::Peer, HERE).unwrap());
    let mut echo = b.open(LegKind::Peer, HERE).unwrap();
    let offer = phone.offer();
    leg.accept(&offer).await.unwrap();
    echo.accept(&near.describe_offer(&offer).await.unwrap()).await.unwrap();
    let answer = echo.echo().await.unwrap();
    near.accept(&answer).await.unwrap();
    phone.start(&leg.describe_answer(&answer).await.unwrap()).unwrap();
    leg.join(&mut near);
    hears(&phone, 700.0).await;
    assert!(b.open(LegKind::Peer, HERE).unwrap().echo().await.is_err(), "nothing was offered");
}

#[tokio::test]
async fn a_phone_answers_from_where_packets_came_once() {
    let a = node(40, 8);
    let (mut one, mut two) = (a.open(LegKind::Phone, HERE).unwrap(), a.open(LegKind::Phone, HERE).unwrap());
    let phone = tone(440.0).await;
    let offer = phone.offer();
    one.accept(&offer).await.unwrap();
    let told = two.describe_offer(&offer).await.unwrap();
    // The far phone names an address where nobody is; its packets come from elsewhere.
    let natted = UdpSocket::bind((HERE, 0)).await.unwrap();
    let answer = "v=0\r\no=- 1 1 IN IP4 192.0.2.9\r\ns=-\r\nc=IN IP4 192.0.2.9\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n";
    two.accept(answer.as_bytes()).await.unwrap();
    phone.start(&one.describe_answer(answer.as_bytes()).await.unwrap()).unwrap();
    one.join(&mut two);
    let target = SocketAddr::new(HERE, port_of(&told));
    let mut packet = Vec::new();
    packet::write_rtp(&mut packet, false, (0, 1, 160, 77), &[0xff; 160]);
    natted.send_to(&packet, target).await.unwrap();
    let mut buffer = [0; 2_048];
    let (len, from) = within(natted.recv_from(&mut buffer)).await.unwrap();
    assert_eq!((len, from), (172, target), "symmetric, and plain RTP between phones of one node");
    let stranger = UdpSocket::bind((HERE, 0)).await.unwrap();
    stranger.send_to(&packet, target).await.unwrap();
    until(|| two.stats().refused == 1).await;
    within(natted.recv_from(&mut buffer)).await.unwrap();
    assert!(stranger.try_recv_from(&mut buffer).is_err());
}

#[tokio::test]
async fn every_port_is_free_after_the_legs_are_gone() {
    let a = node(600, 64);
    let offer = tone(440.0).await.offer();
    let mut status = a.status();
    for round in 0..32 {
        let mut legs = Vec::new();
        for number in 0..32 {
            let kind = if number % 2 == 0 { LegKind::Phone } else { LegKind::Peer };
            let mut leg = a.open(kind, HERE).unwrap();
            leg.describe_offer(&offer).await.unwrap();
            legs.push(leg);
        }
        assert!(status.borrow().ports_in_use >= 48, "round {round}");
        let (left, right) = legs.split_at_mut(16);
        left.iter_mut().zip(right).for_each(|(left, right)| left.join(right));
        drop(legs);
        assert_eq!((a.shared.ports.used(), status.borrow_and_update().ports_in_use), (0, 0), "at once");
    }
    assert_eq!(status.borrow().legs, 0);
}

#[tokio::test]
async fn says_what_there_is_too_little_of() {
    let a = node(2, 2);
    let offer = tone(440.0).await.offer();
    let (mut one, mut two) = (a.open(LegKind::Phone, HERE).unwrap(), a.open(LegKind::Phone, HERE).unwrap());
    assert!(matches!(a.open(LegKind::Phone, HERE), Err(MediaError::TooManyLegs)));
    one.describe_offer(&offer).await.unwrap();
    assert!(matches!(two.describe_offer(&offer).await, Err(MediaError::NoPorts)));
    drop(one);
    two.describe_offer(&offer).await.unwrap();
    assert!(matches!(a.open(LegKind::Phone, Ipv4Addr::UNSPECIFIED.into()), Err(MediaError::Io(_))));
    assert!(matches!(two.describe_offer(b"no").await, Err(MediaError::BadSdp(_))));
}

#[tokio::test]
async fn a_peer_without_keys_and_a_phone_with_dtls_alone_are_refused() {
    let a = node(20, 8);
    let plain = tone(440.0).await.offer();
    let mut peer = a.open(LegKind::Peer, HERE).unwrap();
    assert!(matches!(peer.accept(&plain).await, Err(MediaError::NoCrypto)));
    assert!(matches!(peer.describe_answer(&plain).await, Err(MediaError::BadSdp(_))), "nothing was accepted");
    let text = std::str::from_utf8(&plain).unwrap();
    let weak =
        "RTP/SAVP 0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz\r\na=x:";
    let weak = text.replace("RTP/AVP", weak);
    assert!(matches!(peer.accept(weak.as_bytes()).await, Err(MediaError::NoCrypto)), "only GCM between nodes");
    let mut phone = a.open(LegKind::Phone, HERE).unwrap();
    phone.accept(weak.as_bytes()).await.unwrap();
    let answer = phone.describe_answer(&plain).await.unwrap();
    let again = phone.describe_answer(&plain).await.unwrap();
    assert_eq!(answer, again, "183 and 200 say the same");
    let answer = std::str::from_utf8(&answer).unwrap();
    assert!(answer.contains("RTP/SAVP") && answer.contains("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:"));
    let dtls = text.replace("RTP/AVP", "UDP/TLS/RTP/SAVP");
    assert!(matches!(phone.accept(dtls.as_bytes()).await, Err(MediaError::NoCrypto)));
}

#[tokio::test]
async fn an_answer_has_a_line_for_each_line_of_the_offer() {
    let a = node(20, 8);
    let phone = tone(440.0).await;
    let two = [&phone.offer()[..], b"m=video 5000 RTP/AVP 97\r\na=rtpmap:97 VP8/90000\r\n"].concat();
    let mut leg = a.open(LegKind::Phone, HERE).unwrap();
    leg.accept(&two).await.unwrap();
    let answer = leg.describe_answer(&phone.offer()).await.unwrap();
    assert!(std::str::from_utf8(&answer).unwrap().contains("m=video 0 RTP/AVP 97"));
    leg.accept(&phone.offer()).await.unwrap();
    let answer = leg.describe_answer(&two).await.unwrap();
    assert!(!std::str::from_utf8(&answer).unwrap().contains("m=video"));
}

#[tokio::test]
async fn the_version_rises_with_each_change_and_only_then() {
    let a = node(20, 8);
    let phone = tone(440.0).await;
    let (plain, held) = (phone.offer(), phone.offer_hold());
    let mut leg = a.open(LegKind::Phone, HERE).unwrap();
    let mut versions = Vec::new();
    for offer in [&plain, &plain, &held, &plain] {
        let told = leg.describe_offer(offer).await.unwrap();
        let origin = std::str::from_utf8(&told).unwrap().lines().nth(1).unwrap().to_owned();
        versions.push(origin.split(' ').nth(2).unwrap().parse::<u64>().unwrap());
    }
    assert_eq!(versions, [1, 1, 2, 3]);
}
