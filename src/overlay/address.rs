//! Between libp2p's addresses and ours.

use crate::identity::NodeKey;
use crate::reachability::{Address, Transport};
use crate::wire::{AddressScope, is_global};
use libp2p::identity::{PublicKey, ed25519};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use std::net::IpAddr;

/// Longest binary address that we keep or pass on, bytes (FORMATS "What is stored").
pub(super) const MAX_ADDRESS_BYTES: usize = 128;

/// The peer id of a node; `None` for bytes that are no Ed25519 point.
pub(super) fn peer_of(node: &NodeKey) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(&node.0).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// How libp2p writes the peer id of an Ed25519 key: an identity multihash of the protobuf key.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// As [`peer_of`], without a look at the point: who has no such key cannot authenticate as it either.
pub(super) fn peer_named(node: &NodeKey) -> Option<PeerId> {
    PeerId::from_bytes(&[&PEER_ID_PREFIX[..], &node.0].concat()).ok()
}

/// The node behind a peer id; `None` for keys of another kind, which no node has.
pub(super) fn node_of(peer: &PeerId) -> Option<NodeKey> {
    let bytes = peer.to_bytes();
    let key = bytes.strip_prefix(&PEER_ID_PREFIX)?;
    Some(NodeKey(key.try_into().ok()?))
}

/// The IP address at the head of a multiaddr; none of a circuit, which leads somewhere else.
pub(super) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    if address.iter().any(|part| matches!(part, Protocol::P2pCircuit)) {
        return None;
    }
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Whether packets may be sent to where somebody else says.
pub(super) fn may_send(to: &std::net::SocketAddr, scope: AddressScope) -> bool {
    to.port() != 0 && (scope == AddressScope::Any || is_global(to.ip()))
}

/// An address that a connection can be dialled at directly: IP, TCP or QUIC, and nothing more but a peer id.
pub(super) fn to_plain(address: &Multiaddr) -> Option<Address> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    let (transport, port) = match parts.next()? {
        Protocol::Tcp(port) => (Transport::Tcp, port),
        Protocol::Udp(port) if matches!(parts.next(), Some(Protocol::QuicV1)) => (Transport::Quic, port),
        _ => return None,
    };
    match (parts.next(), parts.next()) {
        (None | Some(Protocol::P2p(_)), None) => Some(Address { ip, transport, port }),
        _ => None,
    }
}

pub(super) fn to_multiaddr(address: &Address) -> Multiaddr {
    let head = Multiaddr::from(address.ip);
    match address.transport {
        Transport::Tcp => head.with(Protocol::Tcp(address.port)),
        Transport::Quic => head.with(Protocol::Udp(address.port)).with(Protocol::QuicV1),
    }
}

/// The peer id at the end, split off.
pub(super) fn split_peer(mut address: Multiaddr) -> (Multiaddr, Option<PeerId>) {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => {
            address.pop();
            (address, Some(peer))
        }
        _ => (address, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_peer_ids_are_one() {
        let node = crate::identity::NodeSecret::from_bytes([3; 32]).public();
        let peer = peer_named(&node).unwrap();
        assert_eq!(Some(peer), peer_of(&node));
        assert_eq!(node_of(&peer), Some(node));
        assert_eq!(node_of(&PeerId::random()), None);
    }

    #[test]
    fn only_plain_addresses_are_plain() {
        for (text, plain) in [
            ("/ip4/1.2.3.4/tcp/5", true),
            ("/ip4/1.2.3.4/udp/5/quic-v1", true),
            ("/ip6/::1/tcp/5/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN", true),
            ("/ip4/1.2.3.4/udp/5", false),
            ("/dns4/example.org/tcp/5", false),
            ("/ip4/1.2.3.4/tcp/5/ws", false),
            ("/ip4/1.2.3.4/tcp/5/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit", false),
        ] {
            let address: Multiaddr = text.parse().unwrap();
            let found = to_plain(&address);
            assert_eq!(found.is_some(), plain, "{text}");
            if let Some(found) = found {
                assert_eq!(to_multiaddr(&found), split_peer(address).0, "{text}");
            }
        }
    }
}
