//! Two nodes that find paths to each other, with sockets: descriptions lead nowhere, checks do.

use super::*;
use futures::future::BoxFuture;
use prost::Message as _;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

/// The link of two nodes. Messages may be changed or lost on the way here, which a real link does not do: it shows what
/// becomes of calls whose candidates lead elsewhere.
#[derive(Clone, Default)]
struct Link {
    to: Arc<Mutex<Option<Paths>>>,
    early: Arc<Mutex<Vec<Bytes>>>,
    /// No candidate passes: as if no UDP did.
    no_udp: Arc<AtomicBool>,
}

impl Link {
    fn connect(&self, paths: Paths) {
        stream::lock(&self.early).drain(..).for_each(|bytes| paths.deliver(&bytes));
        *stream::lock(&self.to) = Some(paths);
    }
}

impl Surroundings for Link {
    fn tell(&self, message: Bytes) {
        match &*stream::lock(&self.to) {
            Some(paths) => {
                let paths = paths.clone();
                let message = match self.no_udp.load(Relaxed) {
                    true => without_candidates(&message),
                    false => message,
                };
                // As on a link: not within the call that tells.
                tokio::spawn(async move { paths.deliver(&message) });
            }
            None => stream::lock(&self.early).push(message),
        }
    }

    fn stun_servers(&self) -> Vec<SocketAddr> {
        Vec::new()
    }

    fn relay(&self, _call: CallId) -> BoxFuture<'static, Option<Relay>> {
        Box::pin(std::future::ready(None))
    }

    fn pipe(&self, _call: CallId) -> BoxFuture<'static, Option<BoxDuplex>> {
        let to = stream::lock(&self.to).clone();
        let (near, far) = pipes();
        Box::pin(async move {
            to?.take_pipe(far);
            Some(near)
        })
    }

    fn loopback(&self) -> bool {
        true
    }
}

fn without_candidates(message: &Bytes) -> Bytes {
    let mut ice = crate::wire::pb::Ice::decode(message.clone()).unwrap();
    ice.candidates.clear();
    ice.encode_to_vec().into()
}

/// Both ends of a stream of bytes.
fn pipes() -> (BoxDuplex, BoxDuplex) {
    let (near, far) = tokio::io::duplex(4_096);
    (Box::pin(Bytewise(near)), Box::pin(Bytewise(far)))
}

struct Bytewise(tokio::io::DuplexStream);

impl futures::AsyncRead for Bytewise {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<std::io::Result<usize>> {
        let mut buffer = tokio::io::ReadBuf::new(buffer);
        std::task::ready!(tokio::io::AsyncRead::poll_read(Pin::new(&mut self.0), cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl futures::AsyncWrite for Bytewise {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<std::io::Result<usize>> {
        tokio::io::AsyncWrite::poll_write(Pin::new(&mut self.0), cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        tokio::io::AsyncWrite::poll_flush(Pin::new(&mut self.0), cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        tokio::io::AsyncWrite::poll_shutdown(Pin::new(&mut self.0), cx)
    }
}

/// A call in which both ends, or only the one that offers, find paths, and the descriptions name a port where nobody is.
async fn lost_call(both: bool) -> (Call, [AudioEndpoint; 2], [Media; 2]) {
    lost_call_on([Link::default(), Link::default()], both).await
}

async fn lost_call_on(links: [Link; 2], both: bool) -> (Call, [AudioEndpoint; 2], [Media; 2]) {
    let (a, b) = (node(40, 8), node(40, 8));
    let mut call = Call::new(&a, &b).await;
    call.peer_a.find_paths(Arc::new(links[0].clone()));
    if both {
        call.peer_b.find_paths(Arc::new(links[1].clone()));
    }
    let (alice, bob) = (tone(440.0).await, tone(1_000.0).await);
    let offer = alice.offer();
    call.phone_a.accept(&offer).await.unwrap();
    let between = call.peer_a.describe_offer(&offer).await.unwrap();
    let nobody = call.wire.ports[1];
    if !both {
        call.wire.connect(0, &between);
    }
    assert!(std::str::from_utf8(&between).unwrap().contains("a=peerline-ice:"));
    call.peer_b.accept(&by_way_of(&between, nobody)).await.unwrap();
    assert_eq!(call.peer_b.call(), call.peer_a.call().filter(|_| both));
    links[0].connect(call.peer_b.paths());
    links[1].connect(call.peer_a.paths());
    let told = call.phone_b.describe_offer(&between).await.unwrap();
    assert!(!std::str::from_utf8(&told).unwrap().contains("peerline"), "phones need not know");
    let answer = bob.answer(&told).unwrap();
    let back = call.answer(&answer).await;
    alice.start(&back).unwrap();
    call.join();
    (call, [alice, bob], [a, b])
}

#[tokio::test]
async fn sound_finds_its_way_where_descriptions_lead_nowhere() {
    let (call, [alice, bob], _nodes) = lost_call(true).await;
    tokio::join!(hears(&alice, 1_000.0), hears(&bob, 440.0));
    until(|| call.peer_a.stats().path == PathKind::Direct && call.peer_b.stats().path == PathKind::Direct).await;
    // Speech takes the first way that works, and may be there before the answer that brings its keys.
    let early = call.peer_a.stats().refused + call.peer_b.stats().refused;
    assert!(early <= 5, "{early} packets were refused");
    let guessed = call.wire.seen().len();
    assert!(guessed < 10, "{guessed} packets were sent on a guess before both were known to find paths");
}

#[tokio::test]
async fn forged_stun_and_a_flood_of_sources_harm_nobody() {
    let (call, [alice, bob], _nodes) = lost_call(true).await;
    tokio::join!(hears(&alice, 1_000.0), hears(&bob, 440.0));
    let target = call.peer_b.leg_address();
    let stranger = UdpSocket::bind((HERE, 0)).await.unwrap();
    let mut packet = Vec::new();
    for round in 0..5_000_u32 {
        packet.clear();
        match round % 2 {
            // A Binding request without a proof, and speech of yet another source.
            0 => packet.extend([&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat()),
            _ => packet::write_rtp(&mut packet, false, (0, 1, 160, round), &[0xff; 160]),
        }
        stranger.send_to(&packet, target).await.unwrap();
        if round % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    until(|| call.peer_b.stats().refused > 0).await;
    let before = bob.heard().packets;
    until(|| bob.heard().packets > before + 25).await;
    assert_eq!((alice.heard().lost, bob.heard().lost), (0, 0), "nobody was disturbed");
    assert_eq!(call.peer_b.stats().path, PathKind::Direct);
}

#[tokio::test]
async fn a_far_end_that_finds_no_paths_is_sent_to_where_it_says() {
    let (call, [alice, bob], _nodes) = lost_call(false).await;
    // The wire between them stands for the address of the description here.
    tokio::join!(hears(&alice, 1_000.0), hears(&bob, 440.0));
    assert_eq!((call.peer_a.stats().path, call.peer_b.stats().path), (PathKind::Stated, PathKind::Stated));
}

#[tokio::test]
async fn sound_goes_on_a_stream_of_bytes_where_no_udp_does_and_on_udp_once_it_does() {
    let links = [Link::default(), Link::default()];
    links.iter().for_each(|link| link.no_udp.store(true, Relaxed));
    let (call, [alice, bob], _nodes) = lost_call_on(links.clone(), true).await;
    tokio::join!(hears(&alice, 1_000.0), hears(&bob, 440.0));
    until(|| call.peer_a.stats().path == PathKind::Fallback && call.peer_b.stats().path == PathKind::Fallback).await;
    links.iter().for_each(|link| link.no_udp.store(false, Relaxed));
    let lost = (alice.heard().lost, bob.heard().lost);
    // Both start anew after some seconds.
    until(|| call.peer_a.stats().path == PathKind::Direct && call.peer_b.stats().path == PathKind::Direct).await;
    let before = bob.heard().packets;
    until(|| bob.heard().packets > before + 25).await;
    assert!(alice.heard().lost <= lost.0 + 1 && bob.heard().lost <= lost.1 + 1, "moved without a gap");
    assert_eq!(call.peer_a.stats().refused + call.peer_b.stats().refused, 0);
}

#[tokio::test]
async fn every_port_is_free_after_paths_were_found() {
    let (call, phones, [a, b]) = lost_call(true).await;
    hears(&phones[1], 440.0).await;
    drop(call);
    until(|| a.shared.ports.used() == 0 && b.shared.ports.used() == 0).await;
}
