//! Ways around: circuits to a node that cannot be dialled. The relay is connected to first, at all of its addresses at
//! once, then asked; meanwhile the direct addresses are dialled as if there were no relay. What comes first carries the
//! link, and a direct connection takes it over whenever it comes; then the circuit, which costs a third party, is closed.

use super::behaviour::Behaviour;
use super::table::{Connection, Phase};
use crate::overlay::LinkId;
use crate::overlay::address::ip_of;
use crate::overlay::circuits::Through;
use libp2p::core::ConnectedPoint;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{CloseConnection, ConnectionId, ToSwarm};
use libp2p::{Multiaddr, PeerId};
use std::time::{Duration, Instant};

/// Relays of a node that are tried, and addresses of each.
const MAX_DETOURS: usize = 3;
const MAX_PLACES: usize = 6;

/// A relay that is not connected by then is not there.
const CONNECTING: Duration = Duration::from_secs(6);

/// Looks at the links, 200 ms apart, after which a circuit that nobody needs any more is closed, and one that nobody has
/// needed yet.
const SPARE_LOOKS: u8 = 10;
const UNUSED_LOOKS: u8 = 25;

/// The second relay is tried this much later than the first, which is some round trips through it: most calls need but one
/// circuit.
const BETWEEN: Duration = Duration::from_millis(700);

/// Who can be dialled is there by then, and no relay is troubled.
const DIRECT_FIRST: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Untried,
    /// Its turn comes.
    Later {
        from: Instant,
    },
    /// For the connection to the relay.
    Waiting {
        until: Instant,
    },
    Dialling(ConnectionId),
    Failed,
}

/// A relay through which the far end is reached.
#[derive(Clone, Debug)]
pub(super) struct Detour {
    relay: PeerId,
    places: Vec<Multiaddr>,
    state: State,
}

impl Detour {
    /// Whether it may still lead there.
    pub fn is_open(&self, now: Instant) -> bool {
        match self.state {
            State::Untried | State::Later { .. } | State::Dialling(_) => true,
            State::Waiting { until } => now < until,
            State::Failed => false,
        }
    }

    pub fn is_dialled_by(&self, connection: ConnectionId) -> bool {
        self.state == State::Dialling(connection)
    }
}

/// Takes the circuits out of `addresses`, into `detours`; never through one of `not`.
pub(super) fn sort_out(addresses: Vec<Multiaddr>, detours: &mut Vec<Detour>, not: &[PeerId]) -> Vec<Multiaddr> {
    let mut direct = Vec::new();
    for address in addresses {
        let Some(Through { relay, at }) = Through::read(&address) else {
            direct.push(address);
            continue;
        };
        if not.contains(&relay) {
            continue;
        }
        match detours.iter_mut().find(|detour| detour.relay == relay) {
            Some(known) if known.places.len() < MAX_PLACES && !known.places.contains(&at) => known.places.push(at),
            Some(_) => {}
            None => {
                detours.insert(0, Detour { relay, places: vec![at], state: State::Untried });
                detours.truncate(MAX_DETOURS);
            }
        }
    }
    direct
}

impl Behaviour {
    /// Sets out on the ways around that are not under way.
    pub(super) fn set_out(&mut self, id: LinkId, now: Instant) {
        let carrier = self.links.get(id).and_then(|link| link.current).and_then(|stream| self.connection(stream));
        let doubted = carrier.and_then(|carrier| Through::read(carrier.dialled.as_ref()?)).map(|through| through.relay);
        let Some(link) = self.links.get_mut(id) else { return };
        // Who is connected already first; last the relay of the circuit that is in doubt.
        let peers = &self.peers;
        link.detours.sort_by_key(|detour| (doubted == Some(detour.relay), !peers.contains_key(&detour.relay)));
        // A global IPv4 address is one that others came through to; an IPv6 address has a firewall before it, as a rule.
        let open = link.is_opening() && link.addresses.iter().filter_map(ip_of).any(|ip| ip.is_ipv4());
        let mut from = if open { now + DIRECT_FIRST } else { now };
        for detour in link.detours.iter_mut().filter(|d| d.state == State::Untried || !d.is_open(now)) {
            detour.state = State::Later { from };
            from += BETWEEN;
        }
        self.go_around(id, now);
    }

    /// Tries the ways around whose turn it is.
    pub(super) fn go_around(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(id) else { return };
        let mut ready = Vec::new();
        let due = |state: State| matches!(state, State::Later { from } if now >= from);
        for (n, detour) in link.detours.iter_mut().enumerate().filter(|(_, detour)| due(detour.state)) {
            if self.peers.get(&detour.relay).is_some_and(|relay| relay.connections.iter().any(|c| !c.relayed)) {
                ready.push(n);
                continue;
            }
            detour.state = State::Waiting { until: now + CONNECTING };
            let opts = DialOpts::peer_id(detour.relay)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .addresses(detour.places.clone())
                .build();
            // Who dials it already does it for us.
            self.actions.push_back(ToSwarm::Dial { opts });
        }
        for n in ready {
            self.dial_around(id, n);
        }
    }

    fn dial_around(&mut self, id: LinkId, detour: usize) {
        let Some(link) = self.links.get_mut(id) else { return };
        let Some(detour) = link.detours.get_mut(detour) else { return };
        let Some(at) = detour.places.first().cloned() else { return };
        let address = Through { relay: detour.relay, at }.address();
        let opts = DialOpts::peer_id(link.pair.peer).condition(PeerCondition::Always).addresses(vec![address]).build();
        detour.state = State::Dialling(opts.connection_id());
        self.actions.push_back(ToSwarm::Dial { opts });
    }

    /// Our own address of a circuit is that towards its relay, over whatever leads there: the circuit's may be of another
    /// family.
    pub(super) fn place_towards_relay(&self, circuit: &mut Connection, endpoint: &ConnectedPoint) {
        let address = match endpoint {
            ConnectedPoint::Dialer { address, .. } => address,
            ConnectedPoint::Listener { local_addr, .. } => local_addr,
        };
        let Some(relay) = Through::read(address).and_then(|through| self.peers.get(&through.relay)) else { return };
        if let Some(there) = relay.connections.iter().find(|there| !there.relayed) {
            circuit.local_ip = there.local_ip;
        }
    }

    /// A connection is there: to a relay that somebody waits for, or around.
    pub(super) fn detours_connected(&mut self, peer: PeerId, connection: ConnectionId, relayed: bool) {
        for id in self.links.matching(|link| !link.detours.is_empty()) {
            let Some(link) = self.links.get_mut(id) else { continue };
            for detour in link.detours.iter_mut().filter(|detour| detour.is_dialled_by(connection)) {
                detour.state = State::Untried;
            }
            let wanted = link.phase != Phase::Up || link.is_doubted();
            let waits =
                |detour: &super::detour::Detour| detour.relay == peer && matches!(detour.state, State::Waiting { .. });
            if let Some(n) = link.detours.iter().position(waits).filter(|_| !relayed && wanted) {
                self.dial_around(id, n);
            }
        }
    }

    /// A dial failed. The links for which it was a way around.
    pub(super) fn detours_failed(&mut self, connection: ConnectionId) -> Vec<LinkId> {
        let ids = self.links.matching(|link| link.detours.iter().any(|d| d.is_dialled_by(connection)));
        for id in &ids {
            let Some(link) = self.links.get_mut(*id) else { continue };
            for detour in link.detours.iter_mut().filter(|detour| detour.is_dialled_by(connection)) {
                detour.state = State::Failed;
            }
        }
        ids
    }

    /// Closes circuits that no link uses though their peer is connected otherwise.
    pub(super) fn close_spare(&mut self) {
        let used: Vec<ConnectionId> = self.streams.keys().map(|stream| stream.connection).collect();
        for (peer, known) in self.peers.iter_mut().filter(|(_, known)| known.connections.iter().any(|c| c.relayed)) {
            let better =
                known.connections.iter().any(|c| !c.relayed || used.contains(&c.id)) || !self.links.is_linked(*peer);
            for spare in known.connections.iter_mut().filter(|c| c.relayed) {
                let carries = used.contains(&spare.id);
                spare.spare = if better && !carries { spare.spare.saturating_add(1) } else { 0 };
                if spare.spare == if spare.carried { SPARE_LOOKS } else { UNUSED_LOOKS } {
                    tracing::debug!(%peer, "circuit closed: nobody needs it");
                    let connection = CloseConnection::One(spare.id);
                    self.actions.push_back(ToSwarm::CloseConnection { peer_id: *peer, connection });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circuits_are_sorted_out_by_relay_and_bounded() {
        let relays: Vec<PeerId> = (0..9).map(|_| PeerId::random()).collect();
        let circuit = |n: usize, port: u16| -> Multiaddr {
            format!("/ip4/8.8.8.8/tcp/{port}/p2p/{}/p2p-circuit", relays[n]).parse().unwrap()
        };
        let plain: Multiaddr = "/ip4/9.9.9.9/tcp/1".parse().unwrap();
        let mut detours = Vec::new();
        let mut addresses = vec![plain.clone(), circuit(8, 1)];
        addresses.extend((0..6).map(|n| circuit(n, 1)));
        addresses.extend((1..20).map(|port| circuit(5, port)));
        assert_eq!(sort_out(addresses, &mut detours, &[relays[8]]), [plain]);
        let kept: Vec<PeerId> = detours.iter().map(|detour| detour.relay).collect();
        assert_eq!(kept, [relays[5], relays[4], relays[3]]);
        assert_eq!(detours[0].places.len(), MAX_PLACES);
    }
}
