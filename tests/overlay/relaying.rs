//! Ports on media relays for calls of others (docs/protocol.md "relay/1"): real nodes on loopback, real packets.

use crate::harness::*;
use peerline::clock::UnixMillis;
use peerline::overlay::{Overlay, RelayRefused};
use peerline::relay::{Limits, MediaFor, Refusal, Relay, RelayConfig, RelayStatus};
use peerline::store::Store;
use peerline::telemetry::Metrics;
use peerline::wire::{AddressScope, stun};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use tokio::time::timeout;

pub fn relay(media: MediaFor, per_peer: usize) -> Relay {
    // Somewhere in the range: tests run beside each other.
    let [a, b, ..] = peerline::identity::NodeSecret::generate().public().0;
    let first = 20_000 + u16::from_be_bytes([a, b]) % 8_000;
    let limits = Limits {
        allocations: 20,
        per_peer,
        per_network: 8,
        bits_per_second: 256_000,
        bytes_per_month: 1 << 40,
        granted: Duration::from_secs(7_200),
    };
    let config = RelayConfig { media, limits, ports: first..=first + 199, stun: Some(0), scope: AddressScope::Any };
    Relay::start(config, Store::temporary().unwrap(), &Metrics::default()).unwrap()
}

async fn relaying(media: MediaFor) -> (Node, Relay) {
    let relay = relay(media, 2);
    let node = node(&[], Setup { relay: Some(relay.clone()), ..Setup::default() }).await;
    (node, relay)
}

pub async fn client(bootstrap: &[&Node]) -> Node {
    let bootstrap: Vec<String> = bootstrap.iter().map(|node| node.address.clone()).collect();
    node(&bootstrap, Setup { server: Some(false), ..Setup::default() }).await
}

/// Waits until so many relays have said what they have.
async fn knows(overlay: &Overlay, servers: usize) -> Vec<SocketAddr> {
    let known = async {
        loop {
            let known = overlay.stun_servers();
            if known.len() >= servers {
                return known;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, known).await.expect("relays are known")
}

async fn until(relay: &Relay, is: impl FnMut(&RelayStatus) -> bool) {
    timeout(PATIENCE, relay.status().wait_for(is)).await.expect("in time").expect("running");
}

fn party() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn heard(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2_048];
    let (length, _) = socket.recv_from(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_over_a_relay_and_what_is_asked_is_told() {
    let (public, relay) = relaying(MediaFor::Anyone).await;
    let caller = client(&[&public]).await;
    let servers = knows(&caller.overlay, 1).await;
    let (a, b) = (party(), party());
    a.send_to(&stun::binding_request(&[1; 12]), servers[0]).unwrap();
    assert_eq!(stun::parse_reply(&heard(&a), &[1; 12]), Some(a.local_addr().unwrap()));

    let allocation = caller.overlay.media_relay([7; 16], None).await.unwrap();
    assert_eq!((allocation.relay, allocation.max_bits_per_second), (public.secret.public(), 256_000));
    let left = allocation.until.0 - UnixMillis::now().0;
    assert!((1_790_000..=1_800_000).contains(&left), "{left}");
    b.send_to(&[0x80; 172], allocation.theirs).unwrap();
    until(&relay, |status| status.dropped.contains_key("nobody")).await;
    a.send_to(&[0x81; 172], allocation.ours).unwrap();
    assert_eq!(heard(&b), [0x81; 172]);
    b.send_to(&[0x82; 172], allocation.theirs).unwrap();
    assert_eq!(heard(&a), [0x82; 172]);

    let renewed = caller.overlay.renew(allocation).await.unwrap();
    assert!(renewed.until >= allocation.until);
    assert_eq!(caller.overlay.media_relay([7; 16], None).await.unwrap().ours, allocation.ours, "asked again");
    caller.overlay.release(allocation);
    until(&relay, |status| status.allocations == 0 && status.granted == 1).await;
    assert_eq!(caller.overlay.renew(allocation).await, Err(RelayRefused::Refused(Refusal::Unknown)));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_go_on_to_the_next_relay_and_are_told_at_last() {
    let (full, first) = relaying(MediaFor::Members).await;
    let (open, second) = relaying(MediaFor::Anyone).await;
    let caller = client(&[&full, &open]).await;
    knows(&caller.overlay, 1).await;
    // Whichever the lot names first: when one has given two, each question goes to both as soon as both are known.
    // The overlay takes forty of a peer at once and two a second then, and says nothing to more: hence the pauses.
    let both = async {
        let mut n = 0;
        while second.status().borrow().granted < 2 || !first.status().borrow().refused.contains_key("not entitled") {
            n += 1;
            if let Ok(allocation) = caller.overlay.media_relay([n; 16], None).await {
                assert_eq!(allocation.relay, open.secret.public());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(PATIENCE, both).await.expect("both were asked");
    // Two of a node, and the other gives to members only.
    let refused = caller.overlay.media_relay([255; 16], None).await;
    assert!(matches!(refused, Err(RelayRefused::Refused(_))), "{refused:?}");
    assert_eq!(first.status().borrow().granted, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_no_relay_hears_so() {
    let plain = node(&[], Setup::default()).await;
    let caller = client(&[&plain]).await;
    reaches(&caller.overlay, |status| status.peers >= 1).await;
    assert_eq!(caller.overlay.media_relay([1; 16], None).await, Err(RelayRefused::NoRelay));
    let (public, _relay) = relaying(MediaFor::Off).await;
    let caller = client(&[&public]).await;
    knows(&caller.overlay, 1).await;
    assert_eq!(caller.overlay.media_relay([1; 16], None).await, Err(RelayRefused::NoRelay), "it tells addresses only");
    public.overlay.shutdown().await;
    let one = caller.overlay.stun_servers();
    assert_eq!(one.len(), 1, "no connection is needed to ask for an address");
}
