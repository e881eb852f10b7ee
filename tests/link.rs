//! `sip/1` between real swarms on loopback (docs/protocol.md "sip/1"): who is let in, what comes through, and what
//! happens when connections and peers fail.

#[path = "link/node.rs"]
mod node;
#[path = "link/proofs.rs"]
mod proofs;
#[path = "link/proxy.rs"]
mod proxy;
#[path = "link/raw.rs"]
mod raw;

use bytes::Bytes;
use futures::{AsyncReadExt, AsyncWriteExt};
use node::{DEADLINE, Node, OVERLAY, QUIC, TCP, bundle, user};
use peerline::clock::UnixMillis;
use peerline::identity::NodeSecret;
use peerline::overlay::link::{Config, Event, MAX_MESSAGE_BYTES, Refusal};
use peerline::overlay::{LinkError, LocalUser};
use peerline::record::Pin;
use peerline::wire::{OverlayId, pb};
use prost::Message;
use proxy::{Mode, Proxy};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

async fn bring_up(a: &mut Node, b: &mut Node) -> (peerline::overlay::LinkId, peerline::overlay::LinkId) {
    let asked = a.call(b).await;
    let (at_a, remote, outbound) = a.up().await;
    assert!(outbound && at_a == asked);
    assert_eq!((remote.id, remote.node), (b.user, b.key));
    let (at_b, remote, outbound) = b.up().await;
    assert!(!outbound);
    assert_eq!((remote.id, remote.node), (a.user, a.key));
    (at_a, at_b)
}

#[tokio::test]
async fn carries_messages_in_order_both_ways() {
    for listen in [TCP, QUIC] {
        let mut a = Node::start_with(Config::default(), listen).await;
        let mut b = Node::start_with(Config::default(), listen).await;
        let (at_a, at_b) = bring_up(&mut a, &mut b).await;
        for n in 0..200u32 {
            a.send(at_a, format!("a{n}")).await.unwrap();
            b.send(at_b, format!("b{n}")).await.unwrap();
        }
        for n in 0..200u32 {
            assert_eq!(b.message().await, format!("a{n}"));
            assert_eq!(a.message().await, format!("b{n}"));
        }
        a.send(at_a, vec![1; MAX_MESSAGE_BYTES]).await.unwrap();
        assert_eq!(b.message().await.len(), MAX_MESSAGE_BYTES);
        assert!(matches!(a.send(at_a, vec![1; MAX_MESSAGE_BYTES + 1]).await, Err(LinkError::Refused(_))));
    }
}

/// As after a lookup: `a` knows `b`'s user by a record.
async fn knows(a: &Node, b: &Node) {
    let user = b.user;
    let pin = Pin { rotation: 0, epoch: 1 };
    assert!(a.swarm.with(move |s| s.behaviour_mut().set_pin(user, pin)).await);
}

#[tokio::test]
async fn who_is_known_by_a_record_is_spoken_to_before_it_answers() {
    let (mut a, mut b) = (Node::start().await, Node::start().await);
    knows(&a, &b).await;
    let asked = a.call(&b).await;
    let (at_a, remote, outbound) = a.up().await;
    assert!(outbound && at_a == asked && (remote.id, remote.node) == (b.user, b.key));
    for n in 0..40_u32 {
        a.send(at_a, n.to_be_bytes().to_vec()).await.unwrap();
    }
    let (at_b, remote, _) = b.up().await;
    assert_eq!((remote.id, remote.node), (a.user, a.key));
    for n in 0..40_u32 {
        assert_eq!(b.message().await, n.to_be_bytes().as_slice());
        b.send(at_b, n.to_be_bytes().to_vec()).await.unwrap();
    }
    for n in 0..40_u32 {
        assert_eq!(a.message().await, n.to_be_bytes().as_slice());
    }
}

#[tokio::test]
async fn what_went_ahead_to_who_does_not_answer_is_told_with_the_reason() {
    let (mut a, b) = (Node::start().await, Node::start().await);
    let nobody = user().id;
    a.swarm.with(move |s| s.behaviour_mut().set_pin(nobody, Pin { rotation: 0, epoch: 1 })).await;
    let asked = a.call_user(nobody, b.key, b.address.clone()).await;
    let (link, ..) = a.up().await;
    a.send(link, "hello?").await.unwrap();
    let event = a.event().await;
    let Event::LinkDown { link, never: Some(LinkError::Refused(words)), .. } = &event else { panic!("{event:?}") };
    assert!(*link == asked && words == "no such user here", "{words}");
    assert_eq!((a.links().await, b.links().await), (0, 0));
}

#[tokio::test]
async fn last_words_arrive_before_the_close() {
    let (mut a, mut b) = (Node::start().await, Node::start().await);
    let (at_a, _) = bring_up(&mut a, &mut b).await;
    a.swarm
        .with(move |s| {
            let links = s.behaviour_mut();
            (0..100).for_each(|n: u32| links.send(at_a, n.to_string().into()).unwrap());
            links.close(at_a);
        })
        .await;
    assert_eq!(a.down().await, "closed here");
    for n in 0..100u32 {
        assert_eq!(b.message().await, n.to_string());
    }
    assert_eq!(b.down().await, "closed by the far end");
    assert!(matches!(a.send(at_a, "x").await, Err(LinkError::Unreachable)));
    assert_eq!((a.links().await, b.links().await), (0, 0));
}

#[tokio::test]
async fn a_pair_has_one_link() {
    let (mut a, mut b) = (Node::start().await, Node::start().await);
    let (at_a, at_b) = bring_up(&mut a, &mut b).await;
    assert_eq!(a.call(&b).await, at_a);
    assert_eq!(b.call(&a).await, at_b);
    assert!(a.swarm.with(move |s| s.behaviour().is_up(at_a)).await);
    assert_eq!((a.links().await, b.links().await), (1, 1));
}

#[tokio::test]
async fn opening_at_once_from_both_ends_makes_one_link() {
    for round in 0..20u32 {
        let (mut a, mut b) = (Node::start().await, Node::start().await);
        if round % 2 == 0 {
            // What each says goes ahead of the other's hello, on streams of which one is given up.
            tokio::join!(knows(&a, &b), knows(&b, &a));
        }
        let (from_a, from_b) = tokio::join!(a.call(&b), b.call(&a));
        let ((at_a, ..), (at_b, ..)) = tokio::join!(a.up(), b.up());
        assert_eq!((at_a, at_b), (from_a, from_b), "round {round}");
        for n in 0..10u32 {
            a.send(at_a, n.to_string()).await.unwrap();
            b.send(at_b, n.to_string()).await.unwrap();
        }
        for n in 0..10u32 {
            assert_eq!(a.message().await, n.to_string(), "round {round}");
            assert_eq!(b.message().await, n.to_string(), "round {round}");
        }
    }
}

#[tokio::test]
async fn refuses_who_is_not_here() {
    let (mut a, mut b) = (Node::start().await, Node::start().await);
    a.call_user(user().id, b.key, b.address.clone()).await;
    let error = a.refused_link().await;
    assert!(matches!(&error, LinkError::Refused(words) if words == "no such user here"), "{error}");
    assert_eq!(b.refusal().await, Refusal::NoSuchUser);
    assert_eq!((a.links().await, b.links().await), (0, 0));
}

#[tokio::test]
async fn says_so_when_the_node_is_of_another_overlay() {
    let mut a = Node::start().await;
    let (secret, user) = (NodeSecret::generate(), user());
    let proof = bundle(&user, &secret, 1, UnixMillis::now());
    let elsewhere = LocalUser { id: user.id, bundle: proof };
    for listen in [TCP, QUIC] {
        let b = Node::start_in(OverlayId([8; 32]), secret.clone(), elsewhere.clone(), Config::default(), listen).await;
        a.call(&b).await;
        let error = a.refused_link().await;
        assert!(matches!(&error, LinkError::Refused(words) if words.contains("takes no calls")), "{error}");
    }
}

#[tokio::test]
async fn says_so_when_nobody_is_there() {
    let (mut a, b) = (Node::start().await, Node::start().await);
    let (key, user, address) = (b.key, b.user, b.address.clone());
    drop(b);
    a.call_user(user, key, address).await;
    assert!(matches!(a.refused_link().await, LinkError::Unreachable));
    // Another node listens at the address: the channel does not prove to be the one that was asked for.
    let c = Node::start().await;
    a.call_user(user, key, c.address.clone()).await;
    assert!(matches!(a.refused_link().await, LinkError::Unreachable));
    a.call_user(user, a.key, a.address.clone()).await;
    assert!(matches!(a.refused_link().await, LinkError::Unreachable));
}

/// Sends `bytes` as the first thing on a stream; the reason that is counted, and the words that come back.
async fn say(bytes: Vec<u8>) -> (Refusal, String) {
    let mut b = Node::start_with(Config { hello_timeout: Duration::from_millis(500), ..Config::default() }, TCP).await;
    let (mut raw, _) = raw::start(&NodeSecret::generate()).await;
    raw.open(b.peer, b.address.clone(), 1).await;
    let mut stream = raw.stream().await;
    stream.write_all(&bytes).await.unwrap();
    stream.flush().await.unwrap();
    let reason = b.refusal().await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("the stream ends");
    let frame = pb::Frame::decode(answer.get(4..).unwrap_or_default()).unwrap();
    let Some(pb::frame::Body::Close(close)) = frame.body else { panic!("{frame:?}") };
    assert_eq!(b.links().await, 0);
    (reason, close.words)
}

#[tokio::test]
async fn ends_a_stream_that_is_not_sip_1() {
    assert_eq!(say(b"GET / HTTP/1.1\r\n\r\n".to_vec()).await.0, Refusal::TooLarge);
    assert_eq!(say(vec![0, 0, 0, 4, 1, 2, 3, 4]).await.0, Refusal::Malformed);
    let oversized = say([(64u32 * 1024 + 1).to_be_bytes().as_slice(), &[0; 100]].concat()).await;
    assert_eq!(oversized, (Refusal::TooLarge, "frame too large".into()));
    let ping = pb::Frame { body: Some(pb::frame::Body::Ping(pb::Ping {})), ..Default::default() }.encode_to_vec();
    let ping = [(ping.len() as u32).to_be_bytes().as_slice(), &ping].concat();
    assert_eq!(say(ping).await.0, Refusal::Malformed);
}

#[tokio::test]
async fn ends_a_stream_without_a_whole_hello_in_time() {
    assert_eq!(say(vec![]).await, (Refusal::HelloTimeout, "no hello in time".into()));
    assert_eq!(say(vec![0, 0, 1, 0, 5, 5]).await.0, Refusal::HelloTimeout);
}

#[tokio::test]
async fn a_flood_of_streams_ends_the_flooder_only() {
    let (mut a, mut b) = (Node::start().await, Node::start().await);
    let (at_a, _) = bring_up(&mut a, &mut b).await;
    let (mut raw, _) = raw::start(&NodeSecret::generate()).await;
    raw.open(b.peer, b.address.clone(), 200).await;
    let mut streams = Vec::new();
    let closed = async {
        while let raw::Seen::Stream(mut stream) = raw.events.recv().await.unwrap() {
            // The name of the protocol leaves with the first bytes, be there none. It may be cut off by now.
            let _ = stream.flush().await;
            streams.push(stream);
        }
    };
    tokio::time::timeout(DEADLINE, closed).await.expect("the flooder is cut off");
    assert_eq!(b.refusal().await, Refusal::Flood);
    a.send(at_a, "still here").await.unwrap();
    let message = loop {
        match b.event().await {
            Event::LinkMessage { message, .. } => break message,
            Event::Refused { reason: Refusal::Flood, .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(message, "still here");
}

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back() {
    let (mut a, mut b) = (Node::start().await, Node::start().await);
    let (at_a, _) = bring_up(&mut a, &mut b).await;
    b.swarm.with(|s| s.behaviour_mut().set_paused(true)).await;
    let mut sent = 0u32;
    let full = async {
        loop {
            match a.send(at_a, Bytes::from(vec![sent as u8; 1000])).await {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        }
    };
    let error = tokio::time::timeout(DEADLINE, full).await.expect("the queue is bounded");
    assert!(matches!(error, LinkError::Full));
    b.swarm.with(|s| s.behaviour_mut().set_paused(false)).await;
    for n in 0..sent {
        assert_eq!(b.message().await[0], n as u8);
    }
}

#[tokio::test]
async fn a_cut_connection_loses_and_doubles_nothing() {
    let (mut a, mut b) = (Node::start().await, Node::start().await);
    let proxy = Proxy::start(&b.address).await;
    a.call_at(&b, proxy.address.clone()).await;
    let ((at_a, ..), (at_b, ..)) = tokio::join!(a.up(), b.up());
    let (mut heard_a, mut heard_b) = (0u32, 0u32);
    for n in 0..300u32 {
        a.send(at_a, n.to_string()).await.unwrap();
        b.send(at_b, n.to_string()).await.unwrap();
        if n % 60 == 30 {
            proxy.cut();
        }
        // Some are read at once, some are on the way when the connection goes.
        if n % 3 == 0 {
            assert_eq!(a.message().await, heard_a.to_string());
            assert_eq!(b.message().await, heard_b.to_string());
            (heard_a, heard_b) = (heard_a + 1, heard_b + 1);
        }
    }
    for n in heard_a..300 {
        assert_eq!(a.message().await, n.to_string());
    }
    for n in heard_b..300 {
        assert_eq!(b.message().await, n.to_string());
    }
    assert!(a.swarm.events.try_recv().is_err() && b.swarm.events.try_recv().is_err());
    let carried = proxy.carried.load(Ordering::Relaxed);
    assert!(carried >= 4, "the link moved to {carried} connections");
}

#[tokio::test]
async fn a_silent_peer_is_noticed_in_time() {
    let quick = || Config {
        heartbeat: Duration::from_millis(200),
        silence: Duration::from_millis(700),
        grace: Duration::from_millis(500),
        ..Config::default()
    };
    let (mut a, mut b) = (Node::start_with(quick(), TCP).await, Node::start_with(quick(), TCP).await);
    let proxy = Proxy::start(&b.address).await;
    a.call_at(&b, proxy.address.clone()).await;
    tokio::join!(a.up(), b.up());
    let beats = tokio::time::timeout(Duration::from_millis(2100), a.swarm.events.recv()).await;
    assert!(beats.is_err(), "heartbeats keep a quiet link");
    proxy.set(Mode::Stall);
    let since = Instant::now();
    assert_eq!(a.down().await, "the connection was lost");
    assert_eq!(b.down().await, "the connection was lost");
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
}

/// A router has forgotten its mappings: the voice of the call has another way already, and its node is elsewhere.
#[tokio::test]
async fn a_link_whose_call_is_heard_waits_until_the_far_end_is_found_elsewhere() {
    let quick = || Config {
        heartbeat: Duration::from_millis(100),
        silence: Duration::from_millis(400),
        grace: Duration::from_millis(1_500),
        ..Config::default()
    };
    for held in [true, false] {
        let (mut a, mut b) = (Node::start_with(quick(), TCP).await, Node::start_with(quick(), TCP).await);
        let proxy = Proxy::start(&b.address).await;
        a.call_at(&b, proxy.address.clone()).await;
        let ((at_a, ..), (at_b, ..)) = tokio::join!(a.up(), b.up());
        a.swarm.with(move |s| s.behaviour_mut().hold(at_a, true)).await;
        b.swarm.with(move |s| s.behaviour_mut().hold(at_b, true)).await;
        proxy.set(Mode::Stall);
        assert!(matches!(a.any_event().await, Event::LinkLost { link } if link == at_a));
        a.send(at_a, "are you there?").await.unwrap();
        if !held {
            // Nothing is heard any more either.
            a.swarm.with(move |s| s.behaviour_mut().hold(at_a, false)).await;
            assert_eq!(a.down().await, "the connection was lost");
            continue;
        }
        let gone = tokio::time::timeout(Duration::from_millis(2_500), a.event()).await;
        assert!(gone.is_err(), "it waits: {gone:?}");
        assert_eq!(a.call(&b).await, at_a, "the same link");
        assert_eq!(b.message().await, "are you there?");
        b.send(at_b, "here").await.unwrap();
        assert_eq!(a.message().await, "here");
    }
}

#[tokio::test]
async fn a_message_without_an_answer_finds_out_a_dead_peer() {
    let quick =
        || Config { answer: Duration::from_millis(400), grace: Duration::from_millis(600), ..Config::default() };
    let (mut a, mut b) = (Node::start_with(quick(), TCP).await, Node::start_with(quick(), TCP).await);
    let proxy = Proxy::start(&b.address).await;
    a.call_at(&b, proxy.address.clone()).await;
    let ((at_a, ..), _) = tokio::join!(a.up(), b.up());
    proxy.set(Mode::Stall);
    let since = Instant::now();
    a.send(at_a, "anybody?").await.unwrap();
    assert_eq!(a.down().await, "the connection was lost");
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_peer_that_only_reads_slowly_is_not_given_up() {
    let quick = || Config { answer: Duration::from_millis(300), ..Config::default() };
    let (mut a, mut b) = (Node::start_with(quick(), TCP).await, Node::start_with(quick(), TCP).await);
    let (at_a, _) = bring_up(&mut a, &mut b).await;
    b.swarm.with(|s| s.behaviour_mut().set_paused(true)).await;
    for n in 0..100u32 {
        a.send(at_a, n.to_string()).await.unwrap();
    }
    let quiet = tokio::time::timeout(Duration::from_secs(2), a.swarm.events.recv()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    b.swarm.with(|s| s.behaviour_mut().set_paused(false)).await;
    for n in 0..100u32 {
        assert_eq!(b.message().await, n.to_string());
    }
    assert!(a.swarm.events.try_recv().is_err() && b.swarm.events.try_recv().is_err());
}

#[tokio::test]
async fn many_links_come_back_over_one_new_connection() {
    const USERS: u8 = 60;
    let mut b = Node::start().await;
    let proxy = Proxy::start(&b.address).await;
    let (secret, now) = (NodeSecret::generate(), UnixMillis::now());
    let users: Vec<_> = (0..USERS).map(|_| user()).collect();
    let served: Vec<_> = users.iter().map(|u| LocalUser { id: u.id, bundle: bundle(u, &secret, 1, now) }).collect();
    let mut a = Node::start_as(secret, served[0].clone(), Config::default(), TCP).await;
    let (node, remote, address) = (b.key, b.user, proxy.address.clone());
    a.swarm
        .with(move |s| {
            for user in served {
                let local = user.id;
                s.behaviour_mut().serve_user(user);
                s.behaviour_mut().connect(local, remote, node, vec![address.clone()], Duration::from_secs(8));
            }
        })
        .await;
    let mut links = Vec::new();
    for _ in 0..USERS {
        links.push(a.up().await.0);
        b.up().await;
    }
    proxy.cut();
    for link in &links {
        a.send(*link, "back").await.unwrap();
    }
    for _ in 0..USERS {
        assert_eq!(b.message().await, "back");
    }
    let carried = proxy.carried.load(Ordering::Relaxed);
    assert!(carried <= 4, "{carried} connections for one peer");
    assert!(a.swarm.events.try_recv().is_err());
}

#[tokio::test]
async fn a_restarted_peer_gets_a_new_link() {
    let (mut a, mut b) = (Node::start().await, Node::start().await);
    bring_up(&mut a, &mut b).await;
    let (secret, user) = (NodeSecret::generate(), user());
    let local = LocalUser { id: user.id, bundle: bundle(&user, &secret, 1, UnixMillis::now()) };
    let mut first = Node::start_as(secret.clone(), local.clone(), Config::default(), TCP).await;
    let (_, at_b) = bring_up(&mut first, &mut b).await;
    drop(first);
    let mut again = Node::start_as(secret, local, Config::default(), TCP).await;
    again.call(&b).await;
    let (at_again, ..) = again.up().await;
    assert!(matches!(b.event().await, Event::LinkDown { link, .. } if link == at_b));
    b.up().await;
    again.send(at_again, "new").await.unwrap();
    assert_eq!(b.message().await, "new");
}

#[tokio::test]
async fn a_wire_between_the_nodes_tells_nothing() {
    let (mut a, mut b) = (Node::start().await, Node::start().await);
    let proxy = Proxy::start(&b.address).await;
    a.call_at(&b, proxy.address.clone()).await;
    let ((at_a, ..), (at_b, ..)) = tokio::join!(a.up(), b.up());
    let user_part = b.user.to_string();
    let key = "d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj";
    let words = ["INVITE", "SIP/2.0", "a=crypto", "AEAD_AES_128_GCM", "m=audio", "inline:"];
    let request = format!(
        "INVITE sip:{user_part}@peerline.alt SIP/2.0\r\nContent-Type: application/sdp\r\n\r\n\
         m=audio 4000 RTP/SAVP 0\r\na=crypto:1 AEAD_AES_128_GCM inline:{key}\r\n"
    );
    for _ in 0..20 {
        a.send(at_a, request.clone()).await.unwrap();
        b.send(at_b, request.clone()).await.unwrap();
        assert_eq!(a.message().await, request);
        assert_eq!(b.message().await, request);
    }
    let tape = proxy.tape.lock().unwrap().clone();
    assert!(tape.len() > 40 * request.len(), "the proxy was on the way: {} bytes", tape.len());
    let secrets = words.iter().map(|w| w.as_bytes().to_vec()).chain([
        user_part.clone().into_bytes(),
        key.into(),
        a.user.0.to_vec(),
        b.user.0.to_vec(),
    ]);
    for secret in secrets {
        let found = tape.windows(secret.len()).any(|window| window.eq_ignore_ascii_case(&secret));
        assert!(!found, "{} is on the wire", String::from_utf8_lossy(&secret));
    }
}
