//! What strangers may try on an overlay: forged records put to nodes, forged answers given to readers, addresses that
//! nobody proved (SECURITY §2.2, K1, K3, K6, K11).

use super::harness::{Answer, OVERLAY, PATIENCE, Setup, User, lookup, node, reaches};
use super::stranger::{Protocols, ProtocolsEvent, Stranger};
use bytes::Bytes;
use futures::StreamExt;
use libp2p::kad::{self, Quorum};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, Swarm};
use peerline::clock::UnixMillis;
use peerline::dht::{Ask, Question, Reply, Said, Stored};
use peerline::identity::NodeSecret;
use peerline::overlay::{Overlay, OverlayStatus};
use peerline::record::{self, Judge};
use peerline::wire::{AddressScope, OverlayId};
use std::collections::BTreeMap;
use tokio::time::timeout;

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
    let mut stranger = Stranger::client().await;
    let target = stranger.connect(address).await;
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
                assert!(!put(&mut stranger.swarm, target, key, bytes).await, "{what}: acknowledged");
                stranger.drive(reaches(&honest, |status| refusals(status) > refusals(&before))).await;
                let after = honest.status().borrow().clone();
                let why: BTreeMap<_, _> =
                    after.refused.iter().filter(|(why, n)| before.refused.get(*why) != Some(*n)).collect();
                println!("{what}: {why:?}");
                assert_eq!(after.records_held, 0, "{what}");
            }
            assert!(put(&mut stranger.swarm, target, key, good.clone()).await, "kept, and acknowledged");
            stranger.drive(reaches(&honest, |status| status.records_held == 1)).await;
            // A key that is none, and the right bytes under another key.
            for key in [vec![1; 31], vec![1; 32]] {
                let before = refusals(&honest.status().borrow());
                assert!(!put(&mut stranger.swarm, target, key, good.clone()).await);
                stranger.drive(reaches(&honest, |status| refusals(status) > before)).await;
            }
            assert_eq!(honest.status().borrow().records_held, 1);
        }
    });
    timeout(PATIENCE * 2, driver).await.unwrap().unwrap();
}

/// The same on `store/1`, which says what became of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_refuse_forged_stores_and_say_so() {
    let honest = server(&[]).await;
    let address: Multiaddr = honest.status().borrow().listen[0].parse().unwrap();
    let mut stranger = Stranger::client().await;
    let target = stranger.connect(address).await;
    let user = User::new();
    let store = async |stranger: &mut Stranger, key: [u8; 32], bytes: Vec<u8>| {
        let ask = Ask::Store(record::RecordKey(key), bytes.into());
        let question = Question { nonce: [9; 16], card: None, ask, stamp: Bytes::new() };
        let reply = timeout(PATIENCE, stranger.ask(&target, question.encode())).await.unwrap()?;
        let reply = Reply::decode(reply, &question).expect("a reply to the question");
        assert_eq!(reply.verify(&honest.node(), &OVERLAY), Ok(()));
        Some(reply.said)
    };
    let invalid = Some(Said::Stored { result: Stored::Invalid, sequence: 0 });
    for (what, bytes) in forgeries(&user) {
        let fits = !bytes.is_empty() && bytes.len() <= record::MAX_BUNDLE_BYTES;
        let said = store(&mut stranger, user.key(), bytes).await;
        assert_eq!(said, invalid.clone().filter(|_| fits), "{what}");
        assert_eq!(honest.status().borrow().records_held, 0, "{what}");
    }
    let said = store(&mut stranger, user.key(), user.bytes()).await;
    let Some(Said::Stored { result: Stored::Kept { promise }, sequence }) = said else { panic!("{said:?}") };
    assert!((1_000..=2_400).contains(&promise) && sequence > 0);
    assert_eq!(store(&mut stranger, [1; 32], user.bytes()).await, invalid);
    // An older one is refused with the newer one.
    let newer = user.later(1_000).encode();
    let said = store(&mut stranger, user.key(), newer.clone()).await;
    assert!(matches!(said, Some(Said::Stored { result: Stored::Kept { .. }, .. })), "{said:?}");
    let said = store(&mut stranger, user.key(), user.bytes()).await;
    let Some(Said::Stored { result: Stored::Stale { newer: held }, .. }) = said else { panic!("{said:?}") };
    assert_eq!(held[..], newer[..]);
    reaches(&honest, |status| status.records_held == 1 && refusals(status) >= 12).await;
}

/// Whether it was acknowledged.
async fn put(swarm: &mut Swarm<Protocols>, target: PeerId, key: impl AsRef<[u8]>, value: Vec<u8>) -> bool {
    let record = kad::Record { key: kad::RecordKey::new(&key), value, publisher: None, expires: None };
    let query = swarm.behaviour_mut().kad.put_record_to(record, [target].into_iter(), Quorum::One);
    loop {
        if let SwarmEvent::Behaviour(ProtocolsEvent::Kad(kad::Event::OutboundQueryProgressed {
            id,
            result: kad::QueryResult::PutRecord(result),
            ..
        })) = swarm.select_next_some().await
            && id == query
        {
            return result.is_ok();
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
            continue;
        }
        let stranger = Stranger::new().await;
        let (voice, card) = (stranger.voice(), stranger.card.signed.clone());
        let (liar, liar_address) = (stranger.swarm.local_peer_id().to_string(), stranger.address.clone());
        let carried = forged.len() <= record::MAX_BUNDLE_BYTES;
        let lying = stranger.answer(move |question| {
            let said = match &question.ask {
                Ask::Find(_) => Said::Near,
                Ask::Fetch(_) => Said::Held(Some(forged.clone().into())),
                Ask::Store(..) => Said::Stored { result: Stored::Full, sequence: 0 },
                Ask::List(_) | Ask::Enlist(..) => return None,
            };
            Some(voice.reply(&question, said, Vec::new(), Some(card.clone()), UnixMillis::now()))
        });
        let reader = server(&[liar_address.to_string()]).await;
        reaches(&reader, |status| status.estimate >= 2).await;
        let Answer { bundle: found, report, .. } = lookup(&reader, user.identity.id).await;
        let refused = report.refused;
        assert!(found.is_none(), "{what}: believed");
        // What is over was right once: nobody is blamed for it.
        if carried && what != "expired" {
            assert!(refused.iter().any(|(peer, _)| *peer == liar), "{what}: {refused:?}");
        }
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
    let mut boaster = Stranger::new().await;
    let own = boaster.address.clone();
    let claimed: Multiaddr = "/ip4/192.0.2.7/tcp/4001".parse().unwrap();
    boaster.swarm.add_external_address(claimed.clone());
    let id = *boaster.swarm.local_peer_id();
    boaster.connect(address.clone()).await;
    let (voice, card) = (boaster.voice(), boaster.card.signed.clone());
    let boasting = boaster.answer(move |question| {
        Some(voice.reply(&question, Said::Near, Vec::new(), Some(card.clone()), UnixMillis::now()))
    });
    reaches(&honest, |status| status.estimate == 2).await;

    let mut asker = Stranger::new().await;
    let target = asker.connect(address.clone()).await;
    asker.swarm.behaviour_mut().kad.add_address(&target, address);
    asker.swarm.behaviour_mut().kad.get_closest_peers(id);
    let answer = async {
        loop {
            if let SwarmEvent::Behaviour(ProtocolsEvent::Kad(kad::Event::OutboundQueryProgressed {
                result: kad::QueryResult::GetClosestPeers(Ok(found)),
                ..
            })) = asker.swarm.select_next_some().await
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
