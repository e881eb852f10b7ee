//! Connections that came in. They stay while their diallers want them, which costs a stranger nothing; so when most
//! places for them are taken, those on which nothing was asked for two minutes go, the longest idle first. Who
//! serves this overlay and is known, and who has a call on it, or is reached through us, stays.

use super::actor::Actor;
use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Nothing was asked for so long.
const IDLE: Duration = Duration::from_secs(120);

/// Bounded by the swarm's limits.
pub(super) struct Visitors {
    /// Of the places for inbound connections, three quarters.
    most: usize,
    used: HashMap<ConnectionId, (PeerId, Instant)>,
}

impl Visitors {
    /// `places`: connections that may come in.
    pub(super) fn new(places: u32) -> Self {
        Self { most: (places - places / 4) as usize, used: HashMap::new() }
    }

    pub(super) fn came(&mut self, connection: ConnectionId, peer: PeerId, now: Instant) {
        self.used.insert(connection, (peer, now));
    }

    /// Something was asked on it.
    pub(super) fn used(&mut self, connection: ConnectionId, now: Instant) {
        if let Some((_, at)) = self.used.get_mut(&connection) {
            *at = now;
        }
    }

    pub(super) fn gone(&mut self, connection: &ConnectionId) {
        self.used.remove(connection);
    }

    /// Who is to make room now.
    fn surplus(&self, stays: impl Fn(&PeerId, ConnectionId) -> bool, now: Instant) -> Vec<ConnectionId> {
        let surplus = self.used.len().saturating_sub(self.most);
        if surplus == 0 {
            return Vec::new();
        }
        let idle = |at: Instant| now.saturating_duration_since(at) >= IDLE;
        let may = self.used.iter().filter(|(id, (peer, at))| idle(*at) && !stays(peer, **id));
        let mut idle: Vec<(Instant, ConnectionId)> = may.map(|(id, (_, at))| (*at, *id)).collect();
        idle.sort_unstable_by_key(|(at, _)| *at);
        idle.into_iter().take(surplus).map(|(_, id)| id).collect()
    }
}

impl Actor {
    /// Once a second.
    pub(super) fn make_room(&mut self, now: Instant) {
        let links = &self.swarm.behaviour().link;
        let stays = |peer: &PeerId, connection| {
            self.peers.is_in_table(peer) || links.uses(connection) || self.circuits.grants.serves(peer)
        };
        for connection in self.visitors.surplus(stays, now) {
            self.meter.refuse("connection: idle, and others need room".into());
            self.swarm.close_connection(connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_strangers_make_room_when_there_is_little() {
        let start = Instant::now();
        let mut visitors = Visitors::new(100);
        let peers: Vec<PeerId> = (0..90).map(|_| PeerId::random()).collect();
        for (n, peer) in peers.iter().enumerate() {
            visitors.came(ConnectionId::new_unchecked(n), *peer, start + Duration::from_secs(n as u64));
        }
        let known = |peer: &PeerId, _| *peer == peers[0];
        let later = start + Duration::from_secs(200);
        visitors.used(ConnectionId::new_unchecked(1), later);
        let gone = visitors.surplus(known, later);
        let expected: Vec<ConnectionId> = (2..17).map(ConnectionId::new_unchecked).collect();
        assert_eq!(gone, expected, "the longest idle, but no server that is known and nobody who asks");
        gone.iter().for_each(|id| visitors.gone(id));
        assert!(visitors.surplus(known, later + IDLE * 10).is_empty(), "there is room");
    }
}
