//! The driver on loopback: real sockets, a store in memory.

use super::*;
use crate::clock::UnixMillis;
use crate::store::Table;
use crate::wire::stun;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Instant;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PATIENCE: Duration = Duration::from_secs(5);

fn config() -> RelayConfig {
    // Somewhere in the range; tests run beside each other.
    let first = 20_000 + u16::from_be_bytes(crate::identity::random()) % 8_000;
    RelayConfig {
        media: MediaFor::Anyone,
        limits: Limits {
            allocations: 20,
            per_peer: 4,
            per_network: 8,
            bits_per_second: 256_000,
            bytes_per_month: 1 << 40,
            granted: Duration::from_secs(7_200),
        },
        ports: first..=first + 199,
        stun: Some(0),
        scope: AddressScope::Any,
    }
}

fn relay(config: RelayConfig) -> Relay {
    Relay::start(config, Store::temporary().unwrap(), &Metrics::default()).unwrap()
}

fn from(n: u8) -> From {
    From { node: NodeKey([n; 32]), ip: Some(HERE), member: false }
}

fn ask(n: u8, call: u8) -> Ask {
    Ask { from: from(n), call: [call; 16], seconds: 600, far: None, public: vec![HERE] }
}

fn party() -> UdpSocket {
    let socket = UdpSocket::bind((HERE, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn heard(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2_048];
    let (length, _) = socket.recv_from(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

fn voice(n: u8) -> Vec<u8> {
    [&[0x80, 0, 0, n][..], &[n; 168]].concat()
}

/// Waits for a status.
async fn until(relay: &Relay, is: impl FnMut(&RelayStatus) -> bool) -> RelayStatus {
    let mut status = relay.status();
    tokio::time::timeout(PATIENCE, status.wait_for(is)).await.expect("in time").expect("running").clone()
}

#[tokio::test]
async fn two_parties_hear_each_other_and_a_third_nobody() {
    let relay = relay(config());
    let given = relay.allocate(ask(1, 1)).await.unwrap();
    assert_eq!((given.time, given.bits_per_second), (Duration::from_secs(600), 256_000));
    let (ours, theirs) = (given.ours[0], given.theirs[0]);
    let (a, b, third) = (party(), party(), party());
    // Whoever is first is not heard: nobody is there.
    a.send_to(&voice(1), ours).unwrap();
    until(&relay, |status| status.dropped.contains_key("nobody")).await;
    b.send_to(&voice(2), theirs).unwrap();
    assert_eq!(heard(&a), voice(2));
    for n in 3..20 {
        a.send_to(&voice(n), ours).unwrap();
        assert_eq!(heard(&b), voice(n));
    }
    third.send_to(&voice(99), theirs).unwrap();
    third.send_to(b"junk, which is not passed on", ours).unwrap();
    let status = until(&relay, |status| status.dropped.contains_key("stranger")).await;
    assert_eq!((status.allocations, status.nodes, status.networks, status.granted), (1, 1, 0, 1));
    until(&relay, |status| status.dropped.contains_key("shape") && status.packets == 18).await;
    a.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    assert!(a.recv_from(&mut [0; 10]).is_err(), "nothing else came");
    assert_eq!(relay.allocate(ask(1, 1)).await.unwrap().ours, given.ours, "asked again");
    assert_eq!(relay.renew(from(1), [1; 16], 700).await, Ok(Duration::from_secs(700)));
    assert_eq!(relay.renew(from(2), [1; 16], 700).await, Err(Refusal::Unknown), "another's");
    assert_eq!(relay.release(from(2), [1; 16]).await, Err(Refusal::Unknown));
    assert_eq!(relay.release(from(1), [1; 16]).await, Ok(()));
    let status = until(&relay, |status| status.allocations == 0).await;
    assert_eq!((status.month_bytes, status.month_promised), (18 * 200, 0));
    assert_eq!(status.refused["unknown"], 2);
}

#[tokio::test]
async fn a_port_is_closed_with_its_allocation() {
    let relay = relay(config());
    let given = relay.allocate(ask(1, 1)).await.unwrap();
    assert!(UdpSocket::bind(given.ours[0]).is_err());
    relay.release(from(1), [1; 16]).await.unwrap();
    let start = Instant::now();
    while UdpSocket::bind(given.ours[0]).is_err() {
        assert!(start.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn refusals_are_told_and_counted() {
    let none = RelayConfig { ports: 5_000..=5_000, ..config() };
    assert_eq!(relay(none).allocate(ask(1, 1)).await, Err(Refusal::NoPorts));
    let relay_of = |media, scope| relay(RelayConfig { media, scope, ..config() });
    let off = relay_of(MediaFor::Off, AddressScope::Any);
    assert_eq!(off.allocate(ask(1, 1)).await, Err(Refusal::Off));
    until(&off, |status| status.refused.get("off") == Some(&1)).await;
    let members = relay_of(MediaFor::Members, AddressScope::Any);
    assert_eq!(members.allocate(ask(1, 1)).await, Err(Refusal::NotEntitled));
    let global = relay_of(MediaFor::Anyone, AddressScope::Global);
    assert_eq!(global.allocate(ask(1, 1)).await, Err(Refusal::NotEntitled), "nobody knows from where");
    let far = From { ip: Some([8, 8, 8, 8].into()), ..from(1) };
    assert_eq!(global.allocate(Ask { from: far, ..ask(1, 1) }).await, Err(Refusal::NotPublic));
    let greedy = relay(config());
    for call in 0..4 {
        greedy.allocate(ask(1, call)).await.unwrap();
    }
    assert_eq!(greedy.allocate(ask(1, 9)).await, Err(Refusal::PeerFull));
    for n in 2..8 {
        greedy.allocate(ask(n, 1)).await.unwrap();
    }
    assert_eq!(greedy.allocate(ask(9, 1)).await, Err(Refusal::Full), "the other half is for members");
    let friend = Ask { from: From { member: true, ..from(10) }, ..ask(10, 1) };
    assert!(greedy.allocate(friend).await.is_ok());
    for _ in 0..40 {
        let _ = greedy.renew(from(1), [1; 16], 60).await;
    }
    assert_eq!(greedy.renew(from(1), [1; 16], 60).await, Err(Refusal::TooOften));
}

#[tokio::test]
async fn the_month_is_known_after_a_restart() {
    let store = Store::temporary().unwrap();
    let start = |bytes_per_month| {
        let limits = Limits { bytes_per_month, ..config().limits };
        Relay::start(RelayConfig { limits, ..config() }, store.clone(), &Metrics::default()).unwrap()
    };
    let first = start(1 << 40);
    let given = first.allocate(ask(1, 1)).await.unwrap();
    let (a, b) = (party(), party());
    b.send_to(&voice(1), given.theirs[0]).unwrap();
    until(&first, |status| status.dropped.contains_key("nobody")).await;
    a.send_to(&voice(1), given.ours[0]).unwrap();
    heard(&b);
    first.shutdown().await;
    assert!(matches!(first.allocate(ask(1, 2)).await, Err(Refusal::Busy)), "it has stopped");
    assert_eq!(store.len(Table::Relay), 1);
    // A little less than one call needs, after what was sent.
    let again = start((602 * 32_000 + 28) * 20 / 9);
    assert_eq!(again.status().borrow().month_bytes, 200);
    assert_eq!(again.allocate(ask(1, 1)).await, Err(Refusal::MonthSpent));
    let _ = UnixMillis::now();
}

#[tokio::test]
async fn tells_addresses() {
    let relay = relay(config());
    let port = relay.stun_port().unwrap();
    let asker = party();
    let here = asker.local_addr().unwrap();
    asker.send_to(&stun::binding_request(&[7; 12]), (HERE, port)).unwrap();
    assert_eq!(stun::parse_reply(&heard(&asker), &[7; 12]), Some(here));
    asker.send_to(b"not a question", (HERE, port)).unwrap();
    until(&relay, |status| status.stun_answered == 1 && status.stun_refused == 1).await;
}
