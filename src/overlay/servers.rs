//! Where the servers of the routing table lie: a copy of what kad holds, kept by its news. Asking kad itself walks 256
//! buckets each time, which was most of what a publication cost.

use super::records::{position, xor};
use crate::record::RecordKey;
use libp2p::PeerId;
use std::collections::HashMap;

pub(super) struct Servers {
    here: [u8; 32],
    at: HashMap<PeerId, [u8; 32]>,
}

impl Servers {
    pub(super) fn new(here: &PeerId) -> Self {
        Self { here: position(&here.to_bytes()), at: HashMap::new() }
    }

    pub(super) fn insert(&mut self, server: PeerId) {
        self.at.entry(server).or_insert_with(|| position(&server.to_bytes()));
    }

    pub(super) fn remove(&mut self, server: &PeerId) {
        self.at.remove(server);
    }

    pub(super) fn len(&self) -> usize {
        self.at.len()
    }

    /// The nearest servers to a key, at most `most`.
    pub(super) fn nearest(&self, key: &RecordKey, most: usize) -> Vec<PeerId> {
        let target = position(&key.0);
        let mut servers: Vec<_> = self.at.iter().map(|(server, at)| (xor(at, &target), *server)).collect();
        servers.sort_unstable();
        servers.into_iter().map(|(_, server)| server).take(most).collect()
    }

    /// How many known servers are nearer to a key than this node.
    pub(super) fn nearer_than_here(&self, key: &[u8]) -> usize {
        let target = position(key);
        let here = xor(&self.here, &target);
        self.at.values().filter(|at| xor(at, &target) < here).count()
    }

    /// The distances from this node.
    pub(super) fn distances(&self) -> Vec<[u8; 32]> {
        self.at.values().map(|at| xor(at, &self.here)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorts_by_distance_and_knows_its_own_place() {
        let here = PeerId::random();
        let mut known = Servers::new(&here);
        let servers: Vec<PeerId> = (0..30).map(|_| PeerId::random()).collect();
        for server in servers.iter().chain(&servers) {
            known.insert(*server);
        }
        assert_eq!(known.len(), 30);
        let key = RecordKey([7; 32]);
        let distance = |peer: &PeerId| xor(&position(&peer.to_bytes()), &position(&key.0));
        let nearest = known.nearest(&key, 20);
        assert_eq!(nearest.len(), 20);
        assert!(nearest.is_sorted_by_key(distance));
        let nearer = servers.iter().filter(|server| distance(server) < distance(&here)).count();
        assert_eq!(known.nearer_than_here(&key.0), nearer);
        for server in &servers {
            known.remove(server);
        }
        assert!(known.nearest(&key, 20).is_empty() && known.distances().is_empty());
    }
}
