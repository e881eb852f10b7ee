//! Addresses of circuits: an address of the relay, its peer id, and `/p2p-circuit`. In records they end there; the node
//! that is reached is known anyway.

use crate::overlay::address::{split_peer, to_plain};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// Somebody who passes connections on, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::overlay) struct Through {
    pub(in crate::overlay) relay: PeerId,
    /// Plain: IP, TCP or QUIC, nothing else. Never a circuit itself.
    pub(in crate::overlay) at: Multiaddr,
}

impl Through {
    /// Reads `/ip../tcp|udp../p2p/<relay>/p2p-circuit`, with the reached peer's id at the end or without.
    pub(in crate::overlay) fn read(address: &Multiaddr) -> Option<Self> {
        let (mut address, _) = split_peer(address.clone());
        if !matches!(address.pop()?, Protocol::P2pCircuit) {
            return None;
        }
        let (at, relay) = split_peer(address);
        to_plain(&at).filter(|_| !at.iter().any(|part| matches!(part, Protocol::P2p(_))))?;
        Some(Self { relay: relay?, at })
    }

    /// As in records, and as it is listened on.
    pub(in crate::overlay) fn address(&self) -> Multiaddr {
        self.at.clone().with(Protocol::P2p(self.relay)).with(Protocol::P2pCircuit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_one_relay_and_no_chain_of_them() {
        let (relay, peer) = (PeerId::random(), PeerId::random());
        let through = format!("/ip4/8.8.8.8/udp/4001/quic-v1/p2p/{relay}/p2p-circuit");
        let read = |text: &str| Through::read(&text.parse().unwrap());
        let expected = Through { relay, at: "/ip4/8.8.8.8/udp/4001/quic-v1".parse().unwrap() };
        assert_eq!(read(&through), Some(expected.clone()));
        assert_eq!(read(&format!("{through}/p2p/{peer}")), Some(expected.clone()));
        assert_eq!(expected.address().to_string(), through);
        for other in [
            "/ip4/8.8.8.8/tcp/1".to_owned(),
            "/ip4/8.8.8.8/tcp/1/p2p-circuit".to_owned(),
            format!("/dns4/example.org/tcp/1/p2p/{relay}/p2p-circuit"),
            format!("/p2p/{relay}/p2p-circuit"),
            format!("{through}/p2p/{peer}/p2p-circuit"),
            format!("{through}/p2p/{peer}/p2p/{peer}"),
        ] {
            assert_eq!(read(&other), None, "{other}");
        }
    }
}
