//! Where a message came from and where its answers go (RFC 5626's word): a UDP address pair, one TCP connection, or a
//! trunk. Requests and responses travel back on the flow, whatever Via or Contact claim.

use super::TrunkId;
use std::net::{IpAddr, SocketAddr};

/// One way to and from a peer. Equal flows are the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Flow {
    Udp {
        local: SocketAddr,
        remote: SocketAddr,
    },
    /// `connection` is never reused while the process runs.
    Tcp {
        connection: u64,
        local: SocketAddr,
        remote: SocketAddr,
    },
    Trunk(TrunkId),
}

impl Flow {
    /// Our address on this path; a trunk has none.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        match self {
            Flow::Udp { local, .. } | Flow::Tcp { local, .. } => Some(*local),
            Flow::Trunk(_) => None,
        }
    }

    pub(crate) fn remote(&self) -> Option<SocketAddr> {
        match self {
            Flow::Udp { remote, .. } | Flow::Tcp { remote, .. } => Some(*remote),
            Flow::Trunk(_) => None,
        }
    }

    pub(crate) fn local_ip(&self) -> Option<IpAddr> {
        self.local().map(|address| address.ip())
    }

    pub(crate) fn remote_ip(&self) -> Option<IpAddr> {
        self.remote().map(|address| address.ip())
    }

    /// TCP and trunks deliver or fail: no retransmission (RFC 3261 §17.1.1.2, §18.3).
    pub(crate) fn is_reliable(&self) -> bool {
        !matches!(self, Flow::Udp { .. })
    }

    /// Whether both are the same peer: same trunk, or same IP address (phones change ports and reconnect).
    pub(crate) fn same_peer(&self, other: &Flow) -> bool {
        match (self, other) {
            (Flow::Trunk(a), Flow::Trunk(b)) => a == b,
            (Flow::Trunk(_), _) | (_, Flow::Trunk(_)) => false,
            _ => self.remote_ip() == other.remote_ip(),
        }
    }
}
