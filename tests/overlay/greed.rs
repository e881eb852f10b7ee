//! A relay among many that want all of it: each a libp2p node with a key and connections of its own.

use super::harness::{Node, PATIENCE, Setup, User, node};
use super::relaying::{client, relay};
use super::stranger::Stranger;
use bytes::Bytes;
use libp2p::Multiaddr;
use peerline::overlay::{Allocation, LocalUser};
use peerline::relay::message::{Reply, Request};
use peerline::relay::{MediaFor, Refusal};
use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::timeout;

const STRANGERS: usize = 60;
/// Of the relay of these tests, for all; strangers get half.
const PLACES: usize = 20;
const PER_PEER: usize = 4;

/// What a stranger was told, and how often.
type Told = Arc<Mutex<BTreeMap<String, usize>>>;

/// Asks for ports again and again, each time for another call.
async fn greedy(mut stranger: Stranger, relay: Multiaddr, told: Told, over: Arc<AtomicBool>) {
    let target = stranger.connect(relay).await;
    for n in 0..=u8::MAX {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let request = Request::Allocate { call: [n; 16], seconds: 600, peer: None };
        let answer: Option<Bytes> = stranger.ask(&target, request.encode()).await;
        let word = match answer.map(Reply::decode) {
            Some(Ok(Reply::Given { .. })) => "given".to_owned(),
            Some(Ok(Reply::Refused(why))) => format!("{why:?}"),
            Some(other) => format!("{other:?}"),
            // Too often: the stream ends without a word.
            None => "nothing".to_owned(),
        };
        *told.lock().unwrap().entry(word).or_default() += 1;
    }
}

async fn user_at(node: &Node) -> User {
    let user = User::at(&node.secret);
    node.overlay.serve_user(LocalUser { id: user.identity.id, bundle: user.bundle().encode().into() }).await;
    user
}

/// So many packets there and back, some at a time: how many came.
fn talk(Allocation { ours, theirs, .. }: Allocation, packets: u32) -> u32 {
    let [a, b] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let mut came = 0;
    let mut buffer = [0; 256];
    let patience = |time| [&a, &b].iter().for_each(|socket| socket.set_read_timeout(Some(time)).unwrap());
    // What comes before the relay has heard both goes to nobody.
    patience(Duration::from_millis(100));
    let mut meet = || {
        a.send_to(&[0x80; 172], ours).unwrap();
        b.send_to(&[0x80; 172], theirs).unwrap();
        [&a, &b].iter().all(|socket| socket.recv(&mut buffer).is_ok())
    };
    assert!((0..50).any(|_| meet()), "the relay passes nothing on");
    while [&a, &b].iter().any(|socket| socket.recv(&mut buffer).is_ok()) {}
    patience(Duration::from_secs(5));
    for n in 0..packets {
        let packet = [&[0x80; 12][..], &n.to_be_bytes()].concat();
        a.send_to(&packet, ours).unwrap();
        came += u32::from(b.recv(&mut buffer).is_ok_and(|length| buffer[..length] == packet));
        b.send_to(&packet, theirs).unwrap();
        came += u32::from(a.recv(&mut buffer).is_ok_and(|length| buffer[..length] == packet));
    }
    came
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_who_want_everything_leave_half_to_those_whom_its_operator_knows() {
    let media = relay(MediaFor::Anyone, PER_PEER);
    let public = node(&[], Setup { relay: Some(media.clone()), ..Setup::default() }).await;
    let friend = client(&[&public]).await;
    // The operator has called this one.
    let (operator, friends) = (user_at(&public).await, user_at(&friend).await);
    let (from, to) = (operator.identity.id, friends.identity.id);
    let addresses = friend.overlay.publishable();
    public.overlay.connect(from, to, friend.secret.public(), addresses, PATIENCE).await.expect("a link");

    let (told, over) = (Told::default(), Arc::new(AtomicBool::new(false)));
    let address: Multiaddr = public.address.parse().unwrap();
    let mut crowd = Vec::new();
    for _ in 0..STRANGERS {
        let stranger = Stranger::speaking("relay/1").await;
        crowd.push(tokio::spawn(greedy(stranger, address.clone(), told.clone(), over.clone())));
    }
    let heard = async {
        while told.lock().unwrap().get(&format!("{:?}", Refusal::Full)).is_none_or(|count| *count < STRANGERS) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, heard).await.expect("they are refused");

    for n in 0..PER_PEER as u8 {
        let allocated = async {
            loop {
                match friend.overlay.media_relay([n; 16], None).await {
                    Ok(allocation) => return allocation,
                    // It may not have been told yet which relays there are.
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let allocation = timeout(PATIENCE, allocated).await.expect("there is room for it");
        let came = tokio::task::spawn_blocking(move || talk(allocation, 100)).await.unwrap();
        assert_eq!(came, 200, "while they go on asking");
    }
    over.store(true, Ordering::Relaxed);
    let told = told.lock().unwrap().clone();
    println!("{STRANGERS} strangers were told {told:?}");
    let given = told.get("given").copied().unwrap_or(0);
    assert!((1..=PLACES / 2).contains(&given), "{told:?}");
    // Renewed once a second.
    let mut status = media.status();
    let all = status.wait_for(|status| status.allocations == given + PER_PEER);
    timeout(PATIENCE, all).await.expect("nobody else got any").unwrap();
    crowd.iter().for_each(tokio::task::JoinHandle::abort);
}
