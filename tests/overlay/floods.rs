//! Who asks too much is held to a rate, on kad as well (SECURITY §4.10), and others are answered meanwhile.

use super::harness::{PATIENCE, Setup, node, reaches};
use super::stranger::{Protocols, ProtocolsEvent, Stranger};
use bytes::Bytes;
use futures::StreamExt;
use libp2p::request_response::Event;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, Swarm, kad};
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
