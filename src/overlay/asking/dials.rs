//! Dials for questions: one to a peer however many wait for it, so many at once, the others in line; and the connections
//! that they leave open.

use super::super::actor::Actor;
use super::super::address::{ip_of, node_of, to_multiaddr};
use super::Pending;
use crate::dht::{Card, Failure};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Dials for questions at once; the swarm has room for more, for all others who dial.
const MAX_DIALS: usize = 96;

/// Different cards by which one peer is dialled at once.
const MAX_BESIDE: usize = 3;

/// Peers whose dial waits for its turn.
const MAX_WAITING: usize = 1_024;

/// A dial is given up after this: the engine has given up by then (SECURITY §4.4).
const DIAL_TIMEOUT: Duration = Duration::from_secs(4);

/// While others wait for their turn, a dial has no longer than a question has until it holds its path up no more:
/// liars who name hosts that do not answer must not take all turns.
const GIVES_WAY: Duration = Duration::from_millis(1_500);

/// Connections that questions opened: the longest unused are closed beyond so many, when nobody needed them for so long.
/// In an overlay of a hundred nodes each walk meets those of the last one; a handshake costs some 3 ms of both sides, as
/// much as ten questions, an open connection some 170 KB. The swarm closes what nobody uses after two minutes anyway.
const KEPT_OPEN: usize = 128;
const KEPT_FOR: Duration = Duration::from_secs(10);

pub(super) struct Dial {
    /// Its own: that another one fails, of whom it does not know which addresses it tried, says nothing. None: somebody
    /// else dials.
    own: Vec<ConnectionId>,
    /// By these cards.
    tried: Vec<Arc<Card>>,
    since: Instant,
    waiting: Vec<Pending>,
}

impl Actor {
    pub(super) fn dial_for(&mut self, peer: PeerId, pending: Pending, now: Instant) -> Result<(), Failure> {
        if self.asking.dials.contains_key(&peer) {
            self.dial_beside(peer, pending);
        } else if let Some((_, waiting)) = self.asking.line.iter_mut().find(|(other, _)| *other == peer) {
            waiting.push(pending);
        } else if self.asking.dials.len() < MAX_DIALS {
            return self.dial(peer, vec![pending], now);
        } else if self.asking.line.len() < MAX_WAITING {
            self.asking.line.push_back((peer, vec![pending]));
        } else {
            return Err(Failure::Unreachable);
        }
        Ok(())
    }

    fn dial(&mut self, peer: PeerId, waiting: Vec<Pending>, now: Instant) -> Result<(), Failure> {
        let latest = waiting.iter().filter_map(|pending| pending.card.as_ref()).max_by_key(|card| card.issued_at);
        let Some(card) = latest.cloned() else { return Err(Failure::Unreachable) };
        let condition = match self.swarm.is_connected(&peer) {
            true => PeerCondition::Always,
            false => PeerCondition::DisconnectedAndNotDialing,
        };
        let own = match self.dial_by(peer, &card, condition) {
            Ok(id) => vec![id],
            // Somebody else dials it: what comes of that is seen.
            Err(DialError::DialPeerConditionFalse(_)) => Vec::new(),
            Err(_) => return Err(Failure::Unreachable),
        };
        self.asking.dials.insert(peer, Dial { own, tried: vec![card], since: now, waiting });
        Ok(())
    }

    /// Dials a node on the same network where mDNS found it: questions to it wait for that.
    pub(super) fn dial_neighbour(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, now: Instant) {
        if self.asking.dials.contains_key(&peer) || self.asking.dials.len() >= MAX_DIALS {
            return;
        }
        addresses.iter().for_each(|address| self.dialling.free(address));
        let opts =
            DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing).addresses(addresses).build();
        let id = opts.connection_id();
        let own = match self.swarm.dial(opts) {
            Ok(()) => vec![id],
            Err(DialError::DialPeerConditionFalse(_)) => Vec::new(),
            Err(_) => return,
        };
        self.asking.dials.insert(peer, Dial { own, tried: Vec::new(), since: now, waiting: Vec::new() });
    }

    /// A peer answered from elsewhere than its card says: it is asked again when it was found there.
    pub(super) fn prove(&mut self, peer: PeerId, mut pending: Pending, now: Instant) {
        let asker = pending.asker;
        self.meter.refuse("reply: from elsewhere than its card says".into());
        if std::mem::replace(&mut pending.proven, true) || self.dial_for(peer, pending, now).is_err() {
            self.outcomes.push_back((asker, Err(Failure::Unreachable)));
        }
    }

    /// Dials where the card counts.
    fn dial_by(&mut self, peer: PeerId, card: &Card, condition: PeerCondition) -> Result<ConnectionId, DialError> {
        // Without IPv4 of its own, this node reaches who has both by IPv6, and has to take its word for the network.
        let v4 = self.listen.iter().filter_map(ip_of).any(|ip| ip.is_ipv4() && !ip.is_loopback());
        let addresses: Vec<Multiaddr> = match v4 {
            true => card.at_its_network().map(to_multiaddr).collect(),
            false => card.addresses.iter().map(to_multiaddr).collect(),
        };
        let opts = DialOpts::peer_id(peer).condition(condition).addresses(addresses);
        // From the listening port, the pair of ports of a connection that is there already would be met.
        let opts = if self.swarm.is_connected(&peer) { opts.allocate_new_port() } else { opts }.build();
        let id = opts.connection_id();
        let dialled = self.swarm.dial(opts);
        dialled.inspect_err(|error| tracing::trace!(%peer, %error, "not dialled")).map(|()| id)
    }

    /// One more waits for a dial that is under way. If it has another card, that one is tried beside the first: whoever
    /// was named by an old card must not be out of reach while nobody answers there.
    fn dial_beside(&mut self, peer: PeerId, pending: Pending) {
        let other = |dial: &Dial, card: &Card| {
            dial.tried.len() < MAX_BESIDE && dial.tried.iter().all(|tried| tried.addresses != card.addresses)
        };
        let Some(dial) = self.asking.dials.get_mut(&peer) else { return };
        let card = pending.card.clone().filter(|card| other(dial, card));
        dial.waiting.push(pending);
        let Some(card) = card else { return };
        dial.tried.push(card.clone());
        if let Ok(id) = self.dial_by(peer, &card, PeerCondition::Always)
            && let Some(dial) = self.asking.dials.get_mut(&peer)
        {
            dial.own.push(id);
        }
    }

    /// A connection is up: who waited for it goes on.
    pub(in super::super) fn asking_connected(&mut self, peer: PeerId, connection: ConnectionId, now: Instant) {
        let Some(dial) = self.asking.dials.remove(&peer) else { return };
        if dial.own.contains(&connection) {
            self.asking.opened.insert(connection, (peer, now));
        }
        for pending in dial.waiting {
            self.send(&peer, Pending { anew: true, ..pending });
        }
    }

    /// A dial failed.
    pub(in super::super) fn asking_dial_failed(&mut self, peer: &PeerId, connection: ConnectionId, now: Instant) {
        let Some(dial) = self.asking.dials.get_mut(peer) else { return };
        let own = !dial.own.is_empty();
        dial.own.retain(|other| *other != connection);
        if own && !dial.own.is_empty() {
            return;
        }
        let Some(Dial { waiting, .. }) = self.asking.dials.remove(peer) else { return };
        if !own && self.dial(*peer, waiting.clone(), now).is_ok() {
            return;
        }
        self.unreachable(*peer, waiting);
    }

    pub(super) fn unreachable(&mut self, peer: PeerId, waiting: Vec<Pending>) {
        // Where others say that it is, is no fault of its own: an old card would put it out of the table.
        let known = node_of(&peer).and_then(|node| self.table.get(&node).cloned());
        let tried =
            |known: &Card| waiting.iter().filter_map(|p| p.card.as_ref()).any(|card| card.addresses == known.addresses);
        if let Some(known) = known.filter(|known| tried(known)) {
            self.not_reached(&known.node);
        }
        self.outcomes.extend(waiting.into_iter().map(|pending| (pending.asker, Err(Failure::Unreachable))));
    }

    pub(in super::super) fn asking_closed(&mut self, connection: &ConnectionId) {
        self.asking.opened.remove(connection);
    }

    /// Dials that take too long end, others take their places; connections that nobody needs are closed.
    pub(in super::super) fn asking_round(&mut self, now: Instant) {
        self.give_up(DIAL_TIMEOUT, usize::MAX, now);
        self.asking_dials(now);
        let idle = |at: Instant| now.saturating_duration_since(at) >= KEPT_FOR;
        let mut surplus = self.asking.opened.len().saturating_sub(KEPT_OPEN);
        if surplus > 0 {
            let mut oldest: Vec<_> = self.asking.opened.iter().map(|(id, (_, at))| (*at, *id)).collect();
            oldest.sort_unstable_by_key(|(at, _)| *at);
            for (_, connection) in oldest.into_iter().filter(|(at, _)| idle(*at)) {
                if surplus == 0 {
                    break;
                }
                surplus -= 1;
                self.asking.opened.remove(&connection);
                if !self.swarm.behaviour().link.uses(connection) {
                    self.swarm.close_connection(connection);
                }
            }
        }
    }

    /// Ends dials that have taken so long, at most so many.
    fn give_up(&mut self, after: Duration, most: usize, now: Instant) {
        let over = self.asking.dials.iter().filter(|(_, dial)| now >= dial.since + after).map(|(peer, _)| *peer);
        for peer in over.take(most).collect::<Vec<PeerId>>() {
            if let Some(dial) = self.asking.dials.remove(&peer) {
                if !dial.own.is_empty() && !self.swarm.is_connected(&peer) {
                    // Ends the attempt; who is connected meanwhile stays so.
                    let _ = self.swarm.disconnect_peer_id(peer);
                }
                self.unreachable(peer, dial.waiting);
            }
        }
    }

    /// Whether questions to it wait for a turn to dial: that it is silent is our own doing.
    pub(in super::super) fn is_in_line(&self, peer: &PeerId) -> bool {
        self.asking.line.iter().any(|(other, _)| other == peer)
    }

    /// Dials whose turn it is.
    pub(in super::super) fn asking_dials(&mut self, now: Instant) {
        self.give_up(GIVES_WAY, self.asking.line.len(), now);
        while self.asking.dials.len() < MAX_DIALS {
            let Some((peer, waiting)) = self.asking.line.pop_front() else { break };
            if self.swarm.is_connected(&peer) {
                waiting.into_iter().for_each(|pending| self.send(&peer, pending));
            } else if self.dial(peer, waiting.clone(), now).is_err() {
                self.unreachable(peer, waiting);
            }
        }
    }
}
