//! Nodes that meet, publish, find each other, stop and come back.

use super::harness::{Setup, User, first_answer, lookup, node, overlay_of, percentile, reaches, start};
use peerline::identity::{NodeSecret, Seed};
use peerline::overlay::PublishError;
use peerline::store::Store;
use peerline::wire::OverlayId;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_nodes_publish_and_find() {
    let nodes = overlay_of(10).await;
    let (mut published, mut found) = (Vec::new(), Vec::new());
    for (n, node) in nodes.iter().enumerate() {
        let user = User::at(&node.secret);
        let bundle = user.bundle();
        let report = node.overlay.publish(bundle.clone()).await.unwrap();
        assert!(report.copies >= 3, "{report:?}");
        published.push(Duration::from_millis(report.took_ms));
        let reader = &nodes[(n + 5) % nodes.len()].overlay;
        let answer = lookup(reader, user.identity.id).await;
        assert_eq!(answer.bundle.as_ref(), Some(&bundle));
        assert!(answer.report.valid >= 3, "{:?}", answer.report);
        assert!(answer.report.refused.is_empty(), "{:?}", answer.report);
        found.push(answer.first.unwrap());
    }
    println!(
        "10 nodes: publish p50 {:?} max {:?}; first valid answer p50 {:?} max {:?}",
        percentile(&mut published, 50),
        percentile(&mut published, 100),
        percentile(&mut found, 50),
        percentile(&mut found, 100)
    );
    let stranger = Seed::generate().identity().id;
    let answer = lookup(&nodes[3].overlay, stranger).await;
    assert!(answer.bundle.is_none() && answer.report.asked >= 3 && answer.report.valid == 0, "{:?}", answer.report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_are_an_overlay() {
    // Neither is told to serve: the one that is dialled does, and dials back, so the other does too.
    let a = node(&[], Setup { server: None, ..Setup::default() }).await;
    let b = node(std::slice::from_ref(&a.address), Setup { server: None, ..Setup::default() }).await;
    for (from, to) in [(&a, &b), (&b, &a)] {
        let user = User::at(&from.secret);
        from.overlay.publish(user.bundle()).await.unwrap();
        assert!(lookup(&to.overlay, user.identity.id).await.bundle.is_some());
    }
    reaches(&a.overlay, |status| status.server && status.estimate == 2).await;
    reaches(&b.overlay, |status| status.server && status.estimate == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_alone_says_so() {
    let alone = node(&[], Setup::default()).await;
    let user = User::at(&alone.secret);
    assert!(matches!(alone.overlay.publish(user.bundle()).await, Err(PublishError::Alone)));
    let answer = lookup(&alone.overlay, Seed::generate().identity().id).await;
    assert!(answer.bundle.is_none() && answer.report.asked == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_freshest_wins_everywhere() {
    let nodes = overlay_of(5).await;
    let user = User::at(&nodes[0].secret);
    let old = user.bundle();
    let new = user.later(10);
    nodes[0].overlay.publish(new.clone()).await.unwrap();
    // The older one comes later, from a node that does not know better: counted, and not believed.
    let late = nodes[1].overlay.publish(old).await;
    assert!(late.is_ok(), "what is held includes it: {late:?}");
    for node in &nodes {
        assert_eq!(first_answer(&node.overlay, user.identity.id).await.unwrap().0, new);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn comes_back_by_its_cache_of_peers_and_with_its_records() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Store::open(&directory.path().join("store")).unwrap().store;
    let nodes = overlay_of(4).await;
    let secret = NodeSecret::generate();
    let setup = |store| Setup { secret: secret.clone(), store, ..Setup::default() };
    let kept = node(std::slice::from_ref(&nodes[0].address), setup(open())).await;
    reaches(&kept.overlay, |status| status.estimate == 5).await;
    let user = User::at(&nodes[0].secret);
    nodes[0].overlay.publish(user.bundle()).await.unwrap();
    reaches(&kept.overlay, |status| status.records_held == 4).await;
    kept.overlay.shutdown().await;
    kept.reading.abort();
    drop(kept.overlay);
    drop(kept.store);

    // Alone with what is on disk, then among the others, without a bootstrap list.
    let again = node(&[], setup(open())).await;
    reaches(&again.overlay, |status| status.records_held == 4).await;
    reaches(&again.overlay, |status| status.estimate == 5).await;
    for node in nodes {
        node.overlay.shutdown().await;
    }
    assert!(first_answer(&again.overlay, user.identity.id).await.is_some(), "the only holder left answers itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlays_do_not_mix() {
    let a = node(&[], Setup::default()).await;
    let other = Setup { overlay: OverlayId([1; 32]), ..Setup::default() };
    let stranger = node(std::slice::from_ref(&a.address), other).await;
    reaches(&stranger.overlay, |status| status.peers == 1).await;
    let user = User::at(&stranger.secret);
    assert!(first_answer(&stranger.overlay, user.identity.id).await.is_none());
    assert_eq!(stranger.overlay.status().borrow().estimate, 1, "no server of its own overlay");
}

#[tokio::test]
async fn a_port_in_use_is_said_in_a_sentence() {
    let first = node(&[], Setup::default()).await;
    let taken = first.address.split("/p2p/").next().unwrap().to_owned();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken_udp = format!("/ip4/127.0.0.1/udp/{}/quic-v1", udp.local_addr().unwrap().port());
    for address in [taken, taken_udp, "/ip4/192.0.2.1/tcp/4001".into()] {
        let setup = Setup { listen: vec![address.clone()], ..Setup::default() };
        let error = start(&[], &setup).await.err().expect(&address).to_string();
        assert!(error.contains(&address), "{error}");
        assert!(error.contains("another program is using") || error.contains("no such address"), "{error}");
    }
    let setup = Setup { listen: vec!["127.0.0.1:4001".into()], ..Setup::default() };
    assert!(start(&[], &setup).await.err().unwrap().to_string().starts_with("bad address in the configuration"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_and_wildcards_work_too() {
    let listen = vec!["/ip4/0.0.0.0/udp/0/quic-v1".into(), "/ip4/0.0.0.0/tcp/0".into()];
    let a = node(&[], Setup { listen: listen.clone(), ..Setup::default() }).await;
    let quic = a.overlay.status().borrow().listen.iter().find(|text| text.contains("127.0.0.1/udp")).cloned().unwrap();
    let b = node(&[quic], Setup { listen, ..Setup::default() }).await;
    let user = User::at(&a.secret);
    reaches(&b.overlay, |status| status.peers == 1).await;
    b.overlay.publish(user.bundle()).await.unwrap();
    assert!(first_answer(&a.overlay, user.identity.id).await.is_some());
    let shown = a.overlay.publishable();
    assert!(!shown.is_empty() && shown.len() <= 8);
    let last = peerline::overlay::address_text(shown.last().unwrap());
    assert!(last.contains("127.0.0.1/tcp"), "loopback by TCP is the last resort: {last}");
    // Counted at once, shown with the next snapshot.
    reaches(&a.overlay, |status| status.bytes_in > 0 && status.bytes_out > 0).await;
}
