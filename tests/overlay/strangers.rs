//! What strangers may try on an overlay: forged records put to nodes, forged answers given to readers, addresses that
//! nobody proved (SECURITY §2.2, K1, K3, K6, K11). The strangers are raw libp2p nodes.

use super::harness::{Answer, OVERLAY, PATIENCE, Setup, User, lookup, node, reaches};
use futures::StreamExt;
use libp2p::kad::store::{MemoryStore, RecordStore};
use libp2p::kad::{self, Quorum};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, identify, noise, tcp, yamux};
use peerline::clock::UnixMillis;
use peerline::identity::NodeSecret;
use peerline::overlay::{Overlay, OverlayStatus};
use peerline::record::{self, Judge};
use peerline::wire::{AddressScope, OverlayId};
use std::collections::BTreeMap;
use tokio::time::timeout;

#[derive(NetworkBehaviour)]
struct Stranger {
    kad: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
}

/// A node that follows the protocol of the DHT and none of our rules.
async fn stranger() -> (Swarm<Stranger>, Multiaddr) {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key| {
            let name = format!("/peerline/{}/kad/1", OVERLAY.short());
            let mut config = kad::Config::new(StreamProtocol::try_from_owned(name).unwrap());
            config.set_max_packet_size(64 * 1024);
            let here = key.public().to_peer_id();
            let mut kad = kad::Behaviour::with_config(here, MemoryStore::new(here), config);
            kad.set_mode(Some(kad::Mode::Server));
            let identify = identify::Behaviour::new(identify::Config::new("/x".into(), key.public()));
            Stranger { kad, identify }
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
        .build();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            let here = *swarm.local_peer_id();
            return (swarm, address.with_p2p(here).unwrap());
        }
    }
}

async fn server(bootstrap: &[String]) -> Overlay {
    node(bootstrap, Setup::default()).await.overlay
}

/// Everything that must be refused, with what it is.
fn forgeries(user: &User) -> Vec<(&'static str, Vec<u8>)> {
    let good = user.bytes();
    let mut future = user.draft(3000);
    future.sequence += 1_000_000;
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    vec![
        ("nothing", Vec::new()),
        ("noise", (0..600_u32).map(|n| (n * n % 251) as u8).collect()),
        ("cut", good[..good.len() - 1].to_vec()),
        ("longer", [good.clone(), vec![0]].concat()),
        ("oversized", [good.clone(), vec![0; 13 * 1024]].concat()),
        ("flipped in the identity", flipped(10)),
        ("flipped in the middle", flipped(good.len() / 2)),
        ("flipped at the end", flipped(good.len() - 1)),
        ("of another user", User::new().bytes()),
        ("of another overlay", user.sign(&user.device, &OverlayId([1; 32]), &user.draft(3000))),
        ("of a device without certificate", user.sign(&NodeSecret::generate(), &OVERLAY, &user.draft(3000))),
        ("expired", user.sign(&user.device, &OVERLAY, &user.draft(-400))),
        ("from the future", user.sign(&user.device, &OVERLAY, &future)),
    ]
}

fn refusals(status: &OverlayStatus) -> u64 {
    status.refused.values().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_refuse_forged_puts_and_say_why() {
    let honest = server(&[]).await;
    let address: Multiaddr = honest.status().borrow().listen[0].parse().unwrap();
    let (mut swarm, _) = stranger().await;
    let target = connect(&mut swarm, address).await;
    let user = User::new();
    let driver = tokio::spawn({
        let variants = forgeries(&user);
        let key = user.key();
        let good = user.bytes();
        let honest = honest.clone();
        async move {
            for (what, bytes) in variants {
                if bytes.is_empty() {
                    // kad itself does not deliver an empty record.
                    continue;
                }
                let before = honest.status().borrow().clone();
                put(&mut swarm, target, key, bytes).await;
                drive(&mut swarm, reaches(&honest, |status| refusals(status) > refusals(&before))).await;
                let after = honest.status().borrow().clone();
                let why: BTreeMap<_, _> =
                    after.refused.iter().filter(|(why, n)| before.refused.get(*why) != Some(*n)).collect();
                println!("{what}: {why:?}");
                assert_eq!(after.records_held, 0, "{what}");
            }
            put(&mut swarm, target, key, good.clone()).await;
            drive(&mut swarm, reaches(&honest, |status| status.records_held == 1)).await;
            // A key that is none, and the right bytes under another key.
            for key in [vec![1; 31], vec![1; 32]] {
                let before = refusals(&honest.status().borrow());
                put(&mut swarm, target, key, good.clone()).await;
                drive(&mut swarm, reaches(&honest, |status| refusals(status) > before)).await;
            }
            assert_eq!(honest.status().borrow().records_held, 1);
        }
    });
    timeout(PATIENCE * 2, driver).await.unwrap().unwrap();
}

async fn connect(swarm: &mut Swarm<Stranger>, address: Multiaddr) -> PeerId {
    swarm.dial(address).unwrap();
    loop {
        if let SwarmEvent::ConnectionEstablished { peer_id, .. } = swarm.select_next_some().await {
            return peer_id;
        }
    }
}

async fn put(swarm: &mut Swarm<Stranger>, target: PeerId, key: impl AsRef<[u8]>, value: Vec<u8>) {
    let record = kad::Record { key: kad::RecordKey::new(&key), value, publisher: None, expires: None };
    swarm.behaviour_mut().kad.put_record_to(record, [target].into_iter(), Quorum::One);
}

/// Keeps the stranger's swarm going while something is awaited.
async fn drive<T>(swarm: &mut Swarm<Stranger>, until: impl Future<Output = T>) -> T {
    tokio::pin!(until);
    loop {
        tokio::select! {
            done = &mut until => return done,
            _ = swarm.select_next_some() => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_refuse_forged_answers_and_take_the_honest_one() {
    let holder = server(&[]).await;
    let holder_address = holder.status().borrow().listen[0].clone();
    let user = User::new();
    let good = user.bytes();
    let judge = Judge { overlay: OVERLAY, scope: AddressScope::Any, now: UnixMillis::now() };
    let bundle = record::validate(&good, &record::RecordKey(user.key()), &judge, None).unwrap();
    for (what, forged) in forgeries(&user) {
        if forged.is_empty() {
            // kad itself does not deliver an empty record.
            continue;
        }
        let (mut swarm, liar_address) = stranger().await;
        let liar = swarm.local_peer_id().to_string();
        for key in record::replica_keys(&OVERLAY, &user.identity.id) {
            let record =
                kad::Record { key: kad::RecordKey::new(&key.0), value: forged.clone(), publisher: None, expires: None };
            let _ = swarm.behaviour_mut().kad.store_mut().put(record);
        }
        let lying = tokio::spawn(async move { drive(&mut swarm, std::future::pending::<()>()).await });
        let reader = server(&[liar_address.to_string()]).await;
        reaches(&reader, |status| status.estimate >= 2).await;
        let Answer { bundle: found, report, .. } = lookup(&reader, user.identity.id).await;
        let refused = report.refused;
        assert!(found.is_none(), "{what}: believed");
        assert!(refused.iter().any(|(peer, _)| *peer == liar), "{what}: {refused:?}");
        println!("{what}: {refused:?}");

        // With an honest holder beside the liar, the honest record is found.
        let reader = server(&[liar_address.to_string(), holder_address.clone()]).await;
        reaches(&reader, |status| status.estimate >= 3).await;
        holder_has(&holder, &bundle).await;
        let Answer { bundle: found, report, .. } = lookup(&reader, user.identity.id).await;
        let refused = report.refused;
        assert_eq!(found.as_ref(), Some(&bundle), "{what}");
        assert!(refused.iter().all(|(peer, _)| *peer == liar), "{what}: {refused:?}");
        lying.abort();
    }
}

/// Stores the honest record at the holder, once.
async fn holder_has(holder: &Overlay, bundle: &record::ValidBundle) {
    if holder.status().borrow().records_held == 0 {
        // Few servers, and some of them lie: whether enough copies were read back is not the point here.
        let _ = holder.publish(bundle.clone()).await;
        reaches(holder, |status| status.records_held == 4).await;
    }
}

/// K11: a peer's word about its addresses sends nobody anywhere but to the address that it came from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claimed_addresses_are_not_passed_on() {
    let honest = server(&[]).await;
    let address: Multiaddr = honest.status().borrow().listen[0].parse().unwrap();
    let (mut boaster, own) = stranger().await;
    let claimed: Multiaddr = "/ip4/192.0.2.7/tcp/4001".parse().unwrap();
    boaster.add_external_address(claimed.clone());
    let id = *boaster.local_peer_id();
    connect(&mut boaster, address.clone()).await;
    drive(&mut boaster, reaches(&honest, |status| status.estimate == 2)).await;
    let boasting = tokio::spawn(async move { drive(&mut boaster, std::future::pending::<()>()).await });

    let (mut asker, _) = stranger().await;
    let target = connect(&mut asker, address.clone()).await;
    asker.behaviour_mut().kad.add_address(&target, address);
    asker.behaviour_mut().kad.get_closest_peers(id);
    let answer = async {
        loop {
            if let SwarmEvent::Behaviour(StrangerEvent::Kad(kad::Event::OutboundQueryProgressed {
                result: kad::QueryResult::GetClosestPeers(Ok(found)),
                ..
            })) = asker.select_next_some().await
            {
                return found.peers;
            }
        }
    };
    let peers = timeout(PATIENCE, answer).await.unwrap();
    let shown = &peers.iter().find(|peer| peer.peer_id == id).expect("the boaster was admitted").addrs;
    assert!(shown.contains(&own) && shown.iter().all(|a| !a.to_string().contains("192.0.2.7")), "{shown:?}");
    boasting.abort();
}
