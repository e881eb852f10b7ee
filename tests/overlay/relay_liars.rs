//! Relays that lie or say nothing: what they say is not handed to a call, and they are not asked again.

use super::harness::{PATIENCE, Setup, node};
use super::relaying::{client, relay};
use super::stranger::Stranger;
use bytes::Bytes;
use peerline::overlay::RelayRefused;
use peerline::relay::MediaFor;
use peerline::relay::message::{Reply, Request};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Somebody who has nothing to do with it.
const VICTIM: &str = "203.0.113.7:53";
const ITSELF: &str = "127.0.0.1:30000";

fn given(ours: &str, theirs: &str) -> Option<Bytes> {
    let at = |text: &str| -> Vec<SocketAddr> { vec![text.parse().unwrap()] };
    Some(Reply::Given { ours: at(ours), theirs: at(theirs), seconds: 600, bits_per_second: 256_000 }.encode())
}

/// What a relay answers who asks for ports.
type Lie = fn() -> Option<Bytes>;

const LIES: [(&str, Lie); 6] = [
    ("the caller is sent to a third party", || given(VICTIM, ITSELF)),
    ("the far end is", || given(ITSELF, VICTIM)),
    ("ports that it has not got", || {
        Some(Reply::Given { ours: vec![], theirs: vec![], seconds: 1, bits_per_second: 1 }.encode())
    }),
    ("an answer to another question", || Some(Reply::Released.encode())),
    ("noise", || Some(Bytes::from_static(&[0xff; 200]))),
    ("nothing", || None),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lying_relays_say_is_not_believed_and_they_are_left_alone() {
    let caller = client(&[]).await;
    let mut liars = Vec::new();
    for (what, lie) in LIES {
        let mut stranger = Stranger::speaking("relay/1").await;
        stranger.connect(caller.address.parse().unwrap()).await;
        let (met, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counts = (met.clone(), asked.clone());
        let task = stranger.answer_bytes(move |request| match Request::decode(request) {
            Ok(Request::Where) => {
                counts.0.fetch_add(1, Ordering::SeqCst);
                Some(Reply::Here { observed: None, stun_port: None, media: true }.encode())
            }
            _ => {
                counts.1.fetch_add(1, Ordering::SeqCst);
                lie()
            }
        });
        liars.push((what, met, asked, task));
    }
    // Nobody else is there yet: each is asked, four at most for one call.
    let all = async {
        let mut n = 0;
        while liars.iter().any(|(_, _, asked, _)| asked.load(Ordering::SeqCst) == 0) {
            n += 1;
            let refused = caller.overlay.media_relay([n; 16], None).await.unwrap_err();
            assert!(matches!(refused, RelayRefused::NoRelay | RelayRefused::Unreachable), "{refused:?}");
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, all).await.expect("all were asked");

    let honest = relay(MediaFor::Anyone, 8);
    let public = node(std::slice::from_ref(&caller.address), Setup { relay: Some(honest), ..Setup::default() }).await;
    // Who was silent is asked after the honest one from here on, and the others not at all.
    let first = async {
        while caller.overlay.media_relay([100; 16], None).await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, first).await.expect("the honest one is found");
    let silent = liars[5].2.load(Ordering::SeqCst);
    for n in 101..107 {
        let allocation = caller.overlay.media_relay([n; 16], None).await.unwrap();
        assert_eq!(allocation.relay, public.secret.public());
    }
    for (what, met, asked, task) in &liars[..5] {
        assert_eq!((met.load(Ordering::SeqCst), asked.load(Ordering::SeqCst)), (1, 1), "{what}");
        task.abort();
    }
    assert_eq!(liars[5].2.load(Ordering::SeqCst), silent, "who says nothing comes last");
    liars[5].3.abort();
}
