//! Who asks too much is held to a rate, on kad as well (SECURITY §4.10), and others are answered meanwhile.

use super::arena::hot::{self, Heat};
use super::harness::{OVERLAY, PATIENCE, Setup, node, reaches};
use super::stranger::{Protocols, ProtocolsEvent, Stranger};
use bytes::Bytes;
use futures::StreamExt;
use libp2p::request_response::Event;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, Swarm, kad};
use std::time::Duration;
use tokio::time::timeout;

async fn asks(swarm: &mut Swarm<Protocols>, target: PeerId) {
    swarm.behaviour_mut().kad.get_closest_peers(target);
    loop {
        if let SwarmEvent::Behaviour(ProtocolsEvent::Kad(kad::Event::OutboundQueryProgressed {
            result: kad::QueryResult::GetClosestPeers(found),
            stats,
            ..
        })) = swarm.select_next_some().await
        {
            assert!(found.is_ok() && stats.num_successes() == 1, "{found:?} {stats:?}");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_what_is_no_question_ends_with_its_connection() {
    let honest = node(&[], Setup::default()).await;
    let mut greedy = Stranger::client().await;
    let target = greedy.connect(honest.address.parse().unwrap()).await;
    let flood = async {
        let mut under_way = 0;
        loop {
            while under_way < 32 {
                greedy.swarm.behaviour_mut().store.send_request(&target, Bytes::from_static(b"?"));
                under_way += 1;
            }
            match greedy.swarm.select_next_some().await {
                SwarmEvent::ConnectionClosed { .. } => return,
                SwarmEvent::Behaviour(ProtocolsEvent::Store(Event::OutboundFailure { .. })) => under_way -= 1,
                _ => {}
            }
        }
    };
    timeout(PATIENCE, flood).await.expect("closed");
    reaches(&honest.overlay, |status| status.refused.contains_key("connection: closed for a flood")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_kad_questions_ends_with_its_connection() {
    let honest = node(&[], Setup::default()).await;
    let address: Multiaddr = honest.address.parse().unwrap();
    let (mut greedy, mut modest) = (Stranger::client().await, Stranger::client().await);
    for stranger in [&mut greedy, &mut modest] {
        let target = stranger.connect(address.clone()).await;
        stranger.swarm.behaviour_mut().kad.add_address(&target, address.clone());
    }
    let target = address.iter().find_map(|part| match part {
        libp2p::multiaddr::Protocol::P2p(peer) => Some(peer),
        _ => None,
    });
    let target = target.unwrap();
    // Lists of providers are kept for nobody: each word of them is in vain, however slow this machine is. With each comes a
    // question that is answered while its rate lasts.
    for n in 0..900_u32 {
        let key = kad::RecordKey::new(&n.to_be_bytes().repeat(8));
        greedy.swarm.behaviour_mut().kad.start_providing(key).expect("room for it");
    }
    let flood = async {
        while !matches!(greedy.swarm.select_next_some().await, SwarmEvent::ConnectionClosed { .. }) {}
        greedy
    };
    let flood = tokio::spawn(flood);
    for _ in 0..20 {
        timeout(PATIENCE, asks(&mut modest.swarm, target)).await.expect("answered meanwhile");
    }
    let _greedy = timeout(PATIENCE, flood).await.expect("closed").unwrap();
    reaches(&honest.overlay, |status| status.refused.get("kad: provider").is_some_and(|n| *n >= 200)).await;
    timeout(PATIENCE, asks(&mut modest.swarm, target)).await.expect("and afterwards");
}

/// E6 in its short form: `overlay-arena hot` is the long one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_key_is_answered_and_others_are_found_meanwhile() {
    let heat = Heat { nodes: 6, clients: 6, rate: 300.0, life: Duration::from_secs(2), overlay: OVERLAY, seed: 1 };
    let figures = hot::run(heat).await;
    println!("{figures}");
    let number =
        |path: &str| figures.pointer(path).and_then(|n| n.as_u64()).unwrap_or_else(|| panic!("{path}: {figures}"));
    assert_eq!(number("/others/failures"), 0);
    let (answered, named) = (number("/answered/good"), number("/with_peers"));
    assert!(answered >= 100, "{answered} answered");
    // On a machine that is slower than that the key is not hot.
    assert!(answered < 500 || named < answered, "not all with names: {named} of {answered}");
}
