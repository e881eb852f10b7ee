//! Lists of relays in the overlay: who is put on them, and who is found by them.

use super::harness::{OVERLAY, PATIENCE, Setup, node, reaches, start};
use super::stranger::Stranger;
use libp2p::{Multiaddr, PeerId};
use peerline::clock::UnixMillis;
use peerline::dht::{Ask, Enlisted, Offers, Question, Reply, Said, Service, ServiceEntry};
use peerline::identity::NodeSecret;
use peerline::overlay::CircuitsConfig;
use peerline::reachability::Address;
use peerline::wire::AddressScope;
use std::time::Duration;
use tokio::time::timeout;

/// A relay that is in nobody's table, as it serves no records: only the list can name it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_nobody_met_is_found_by_the_lists() {
    let mut servers = Vec::new();
    let mut known: Vec<String> = Vec::new();
    for _ in 0..6 {
        // Or they would pass on themselves, once they are found to be public.
        let circuits = CircuitsConfig { serve: Some(false), ..CircuitsConfig::default() };
        servers.push(node(&known, Setup { circuits, ..Setup::default() }).await);
        known = servers.iter().map(|server| server.address.clone()).collect();
    }
    let circuits = CircuitsConfig { serve: Some(true), ..CircuitsConfig::default() };
    let relay = node(&known[..1], Setup { circuits, server: Some(false), ..Setup::default() }).await;
    let listed = async {
        while servers.iter().all(|server| server.overlay.status().borrow().services_listed == 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, listed).await.expect("it enters the list, and is found where it says");
    let circuits = CircuitsConfig { reserve: Some(true), ..CircuitsConfig::default() };
    let hidden = Setup { circuits, server: Some(false), listen: Vec::new(), ..Setup::default() };
    let (hidden, mut events) = start(&known[1..2], &hidden).await.unwrap();
    let reading = tokio::spawn(async move { while events.recv().await.is_some() {} });
    let name = relay.overlay.status().borrow().peer_id.clone();
    reaches(&hidden, |status| status.circuits.iter().any(|circuit| circuit.contains(&name))).await;
    reading.abort();
}

struct Owner {
    stranger: Stranger,
    target: PeerId,
}

impl Owner {
    async fn says(&mut self, ask: Ask) -> Said {
        let question = Question { nonce: [9; 16], card: None, ask, stamp: bytes::Bytes::new() };
        let reply = timeout(PATIENCE, self.stranger.ask(&self.target, question.encode())).await.unwrap().unwrap();
        Reply::decode(reply, &question).expect("a reply to the question").said
    }

    async fn enlist(&mut self, secret: &NodeSecret, signer: &NodeSecret, at: &[Address]) -> Said {
        let offers = Offers { circuits: true, media: false };
        let entry = ServiceEntry::sign(signer, &OVERLAY, Service::Relay, offers, at, UnixMillis::now()).unwrap();
        self.says(Ask::Enlist(Service::Relay.list_of(&OVERLAY, &secret.public()), entry.signed)).await
    }

    async fn list(&mut self) -> Vec<ServiceEntry> {
        let key = Service::Relay.list_of(&OVERLAY, &self.stranger.secret.public());
        let Said::List(entries) = self.says(Ask::List(key)).await else { panic!("no list") };
        let read = |signed| ServiceEntry::read(signed, &key, &OVERLAY, AddressScope::Any, UnixMillis::now()).unwrap();
        entries.iter().map(read).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_is_where_it_says_is_listed_and_only_by_itself() {
    let keeper = node(&[], Setup::default()).await;
    let address: Multiaddr = keeper.address.parse().unwrap();
    let mut stranger = Stranger::new().await;
    let target = stranger.connect(address).await;
    let (secret, here) = (stranger.secret.clone(), stranger.card.addresses[0]);
    let mut owner = Owner { stranger, target };
    let invalid = Said::Enlisted(Enlisted::Invalid);

    let list = |secret: &NodeSecret| Service::Relay.list_of(&OVERLAY, &secret.public());
    let mut others = std::iter::repeat_with(NodeSecret::generate);
    let other = others.find(|other| list(other) != list(&secret)).unwrap();
    assert_eq!(owner.enlist(&other, &other, &[here]).await, invalid, "another's entry");
    assert_eq!(owner.enlist(&other, &secret, &[here]).await, invalid, "on another's list");
    let elsewhere = Address { ip: [127, 0, 0, 9].into(), ..here };
    assert_eq!(owner.enlist(&secret, &secret, &[elsewhere]).await, invalid, "a third party's address");
    assert!(owner.list().await.is_empty());

    // A port at which nobody answers for it.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = Address { port: closed.local_addr().unwrap().port(), ..here };
    drop(closed);
    assert_eq!(owner.enlist(&secret, &secret, &[nobody]).await, Said::Enlisted(Enlisted::Trying));
    assert!(owner.list().await.is_empty());

    assert_eq!(owner.enlist(&secret, &secret, &[here]).await, Said::Enlisted(Enlisted::Trying));
    let found = async {
        loop {
            let listed = owner.list().await;
            if let [entry] = &listed[..] {
                return entry.clone();
            }
            owner.stranger.drive(tokio::time::sleep(Duration::from_millis(20))).await;
        }
    };
    let entry = timeout(PATIENCE, found).await.expect("it is found and listed");
    assert_eq!((entry.node, &entry.addresses[..]), (secret.public(), &[here][..]));
    assert_eq!(entry.verify(&OVERLAY), Ok(()));
    assert_eq!(owner.enlist(&secret, &secret, &[here]).await, Said::Enlisted(Enlisted::Listed), "found lately");
    assert_eq!(keeper.overlay.status().borrow().services_listed.max(1), 1);
    // Who comes again and again is heard no more.
    for _ in 0..3 {
        owner.enlist(&secret, &secret, &[here]).await;
    }
    assert_eq!(owner.enlist(&secret, &secret, &[here]).await, Said::Enlisted(Enlisted::Full));
    assert_eq!(owner.list().await.len(), 1);
}
