//! A fence around behaviours of libp2p that dial whatever strangers tell them, and that offer strangers whatever somebody
//! said of us: hole punching (DCUtR) and the two sides of AutoNAT. Which of our addresses they hear of is decided by
//! `reachability` ([`Fenced::offer`]), not by the swarm; what they dial for others is bounded here.

use super::address::{ip_of, to_plain};
use crate::admission::{Bucket, PerSource, Rate};
use crate::wire::{AddressScope, is_global};
use libp2p::core::{Endpoint, transport::PortUse};
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NewExternalAddrCandidate, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::Instant;

/// Dials for one peer, and for all together.
const PER_PEER: Rate = Rate { per_second: 6.0 / 60.0, burst: 8.0 };
const ALL: Rate = Rate { per_second: 2.0, burst: 60.0 };

/// Peers with a rate of their own.
const MAX_SOURCES: usize = 1_024;

/// Hosts at which a peer may be tried at once: IPv4 and IPv6, in the house and outside.
const MAX_HOSTS: usize = 4;

/// Where a behaviour may dial for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fence {
    /// Where the peer says that it is, which the transport's own rules bound as hearsay.
    WhereItSays,
    /// Where it came from, and nowhere else: nobody sends us to a third party.
    WhereItCameFrom,
}

/// Why a dial was not made.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Denied(&'static str);

pub(super) struct Fenced<B> {
    inner: B,
    fence: Fence,
    scope: AddressScope,
    per_peer: PerSource<PeerId>,
    all: Bucket,
    /// Its dials that are under way or up.
    dials: HashSet<ConnectionId>,
    /// Where peers came from.
    at: HashMap<ConnectionId, (PeerId, IpAddr)>,
}

impl<B: NetworkBehaviour> Fenced<B> {
    pub(super) fn new(inner: B, fence: Fence, scope: AddressScope, now: Instant) -> Self {
        Self {
            inner,
            fence,
            scope,
            per_peer: PerSource::of_free_names(PER_PEER, MAX_SOURCES),
            all: Bucket::full(ALL, now),
            dials: HashSet::new(),
            at: HashMap::new(),
        }
    }

    /// Tells it of an address at which this node may be met.
    pub(super) fn offer(&mut self, address: &Multiaddr) {
        self.inner.on_swarm_event(FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate { addr: address }));
    }

    /// Whether it dialled this connection.
    pub(super) fn dialled(&self, connection: ConnectionId) -> bool {
        self.dials.contains(&connection)
    }

    fn judge(&mut self, peer: Option<PeerId>, addresses: &[Multiaddr], now: Instant) -> Result<(), Denied> {
        let peer = peer.ok_or(Denied("nobody is named"))?;
        let mut hosts: HashSet<IpAddr> = HashSet::new();
        for address in addresses {
            // Circuits, names and what nobody listens at: the transport leaves them out.
            let Some(plain) = to_plain(address) else { continue };
            let ip = plain.ip.to_canonical();
            let came = || self.at.values().any(|(other, from)| *other == peer && from.to_canonical() == ip);
            if self.scope == AddressScope::Global && !is_global(ip) {
                continue;
            }
            if self.fence == Fence::WhereItCameFrom && !came() {
                return Err(Denied("not where it came from"));
            }
            hosts.insert(ip);
        }
        match hosts.len() {
            0 => return Err(Denied("nowhere to dial")),
            n if n > MAX_HOSTS => return Err(Denied("too many hosts")),
            _ => {}
        }
        if !self.per_peer.take(peer, now) || !self.all.take(ALL, now) {
            return Err(Denied("too often"));
        }
        Ok(())
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Fenced<B> {
    type ConnectionHandler = B::ConnectionHandler;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let handler = self.inner.handle_established_inbound_connection(connection, peer, local, remote)?;
        self.at.extend(ip_of(remote).map(|ip| (connection, (peer, ip))));
        Ok(handler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if self.dials.contains(&connection)
            && let Err(denied) = self.judge(peer, addresses, Instant::now())
        {
            tracing::debug!(?peer, %denied, "not dialled for it");
            return Err(ConnectionDenied::new(denied));
        }
        self.inner.handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(connection, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            // Identify's guess, which knows nothing of ports that a router translates.
            FromSwarm::NewExternalAddrCandidate(_) => return,
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => {
                self.at.remove(&connection_id);
                self.dials.remove(&connection_id);
            }
            FromSwarm::DialFailure(failure) => {
                self.dials.remove(&failure.connection_id);
            }
            FromSwarm::ListenFailure(failure) => {
                self.at.remove(&failure.connection_id);
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            match self.inner.poll(cx) {
                Poll::Ready(ToSwarm::Dial { opts }) => {
                    self.dials.insert(opts.connection_id());
                    return Poll::Ready(ToSwarm::Dial { opts });
                }
                // One server's word; `reachability` wants several.
                Poll::Ready(ToSwarm::ExternalAddrConfirmed(_)) => {}
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::swarm::dummy;

    fn fenced(fence: Fence, scope: AddressScope) -> (Fenced<dummy::Behaviour>, PeerId) {
        let mut fenced = Fenced::new(dummy::Behaviour, fence, scope, Instant::now());
        let peer = PeerId::random();
        fenced.at.insert(ConnectionId::new_unchecked(1), (peer, [8, 8, 8, 8].into()));
        (fenced, peer)
    }

    fn at(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn nobody_sends_us_to_a_third_party() {
        let (mut fenced, peer) = fenced(Fence::WhereItCameFrom, AddressScope::Global);
        let now = Instant::now();
        assert!(fenced.judge(Some(peer), &[at("/ip4/8.8.8.8/tcp/4001")], now).is_ok());
        for other in ["/ip4/8.8.8.9/tcp/4001", "/ip4/192.168.1.1/tcp/1", "/ip4/127.0.0.1/tcp/1", "/dns4/x.org/tcp/1"] {
            assert!(fenced.judge(Some(peer), &[at(other)], now).is_err(), "{other}");
        }
        assert!(fenced.judge(Some(PeerId::random()), &[at("/ip4/8.8.8.8/tcp/4001")], now).is_err(), "not it");
        assert!(fenced.judge(None, &[at("/ip4/8.8.8.8/tcp/4001")], now).is_err());
    }

    #[test]
    fn who_wants_a_hole_gets_a_few_hosts_and_a_few_tries() {
        let (mut fenced, peer) = fenced(Fence::WhereItSays, AddressScope::Global);
        let now = Instant::now();
        let many: Vec<Multiaddr> = (1..=5).map(|n| at(&format!("/ip4/9.9.9.{n}/tcp/1"))).collect();
        assert!(fenced.judge(Some(peer), &many, now).is_err());
        assert!(fenced.judge(Some(peer), &[at("/ip4/10.0.0.1/tcp/1")], now).is_err(), "a private one alone");
        let tries = (0..100).filter(|_| fenced.judge(Some(peer), &many[..2], now).is_ok()).count();
        assert_eq!(tries, 8);
        let all = (0..1_000).filter(|_| fenced.judge(Some(PeerId::random()), &many[..1], now).is_ok()).count();
        assert_eq!(all, 52);
    }
}
