//! Where the two ends of a connection are: node keys of peer ids, IP addresses of connections.

use crate::identity::NodeKey;
use libp2p::core::ConnectedPoint;
use libp2p::identity::{PublicKey, ed25519};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The multihash code "identity": the peer id *is* the encoded public key.
const IDENTITY: u64 = 0;

/// The node's key, out of a peer id. `None` for keys other than Ed25519: no node of ours.
pub fn node_key_of(peer: &PeerId) -> Option<NodeKey> {
    let hash = peer.as_ref();
    if hash.code() != IDENTITY {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(hash.digest()).ok()?.try_into_ed25519().ok()?;
    Some(NodeKey(key.to_bytes()))
}

/// The peer id of a node. `None` if the bytes are no curve point.
pub fn peer_id_of(node: &NodeKey) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(&node.0).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// Whether somebody else's node passes the bytes on.
pub(super) fn is_relayed(point: &ConnectedPoint) -> bool {
    point.is_relayed()
}

/// (local, remote) addresses of a connection. Unspecified where an address holds a name instead of a number. Of a relayed
/// connection: our own address towards the relay, and none of the peer, who may be anywhere.
pub(super) fn ips(point: &ConnectedPoint) -> (IpAddr, IpAddr) {
    let nowhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let (local, remote) = match point {
        ConnectedPoint::Listener { local_addr, .. } if is_circuit(local_addr) => {
            (ip_of(local_addr).and_then(local_ip_towards), None)
        }
        ConnectedPoint::Dialer { address, .. } if is_circuit(address) => {
            (ip_of(address).and_then(local_ip_towards), None)
        }
        ConnectedPoint::Listener { local_addr, send_back_addr } => {
            let remote = ip_of(send_back_addr);
            let local = ip_of(local_addr).filter(|ip| !ip.is_unspecified());
            (local.or_else(|| remote.and_then(local_ip_towards)), remote)
        }
        ConnectedPoint::Dialer { address, .. } => {
            let remote = ip_of(address);
            (remote.and_then(local_ip_towards), remote)
        }
    };
    (local.unwrap_or(nowhere), remote.unwrap_or(nowhere))
}

fn is_circuit(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::P2pCircuit))
}

fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    })
}

/// The address that this host would use towards `remote`: asks the routing table by connecting a UDP socket, which
/// sends nothing and does not wait.
fn local_ip_towards(remote: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    // Port 9 (discard): a connected UDP socket needs one, nothing goes there.
    socket.connect(SocketAddr::new(remote, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::core::Endpoint;
    use libp2p::core::transport::PortUse;
    use libp2p::identity::Keypair;

    fn dialled(address: &str) -> ConnectedPoint {
        let address = address.parse().unwrap();
        ConnectedPoint::Dialer { address, role_override: Endpoint::Dialer, port_use: PortUse::New }
    }

    #[test]
    fn a_peer_id_holds_the_node_key() {
        let pair = Keypair::generate_ed25519();
        let key = NodeKey(pair.public().try_into_ed25519().unwrap().to_bytes());
        assert_eq!(node_key_of(&pair.public().to_peer_id()), Some(key));
        assert_eq!(peer_id_of(&key), Some(pair.public().to_peer_id()));
        assert_eq!(node_key_of(&PeerId::random()), None, "a random identity hash is no key");
    }

    #[test]
    fn finds_the_addresses_of_a_connection() {
        let home = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(ips(&dialled("/ip4/127.0.0.1/tcp/4001")), (home, home));
        let inbound = ConnectedPoint::Listener {
            local_addr: "/ip4/0.0.0.0/udp/1/quic-v1".parse().unwrap(),
            send_back_addr: "/ip4/127.0.0.1/udp/2/quic-v1".parse().unwrap(),
        };
        assert_eq!(ips(&inbound), (home, home));
        assert!(ips(&dialled("/dns4/example.invalid/tcp/1")).1.is_unspecified());
    }

    #[test]
    fn knows_a_relayed_connection() {
        let relay = PeerId::random();
        assert!(is_relayed(&dialled(&format!("/ip4/127.0.0.1/tcp/1/p2p/{relay}/p2p-circuit"))));
        assert!(!is_relayed(&dialled("/ip4/127.0.0.1/tcp/1")));
    }

    #[test]
    fn a_relayed_connection_tells_where_we_are_and_not_where_the_peer_is() {
        let (relay, peer) = (PeerId::random(), PeerId::random());
        let through = format!("/ip4/127.0.0.1/tcp/1/p2p/{relay}/p2p-circuit");
        let inbound = ConnectedPoint::Listener {
            local_addr: through.parse().unwrap(),
            send_back_addr: format!("/p2p/{peer}").parse().unwrap(),
        };
        assert!(is_relayed(&inbound));
        let (home, nowhere) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        assert_eq!(ips(&inbound), (home, nowhere));
        assert_eq!(ips(&dialled(&through)), (home, nowhere));
    }
}
