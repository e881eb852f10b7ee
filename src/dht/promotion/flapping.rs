//! Servers that come and go: each time they take records and the places of others with them.

use crate::identity::NodeKey;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// So many joins within an hour make a server a client in our eyes for six hours.
const JOINS: u8 = 4;
const HOUR: Duration = Duration::from_secs(3_600);
const CLIENT: Duration = Duration::from_secs(6 * 3_600);

/// Peers remembered; the one that came longest ago goes.
const MOST: usize = 1_024;

#[derive(Clone, Copy, Debug)]
struct Joins {
    count: u8,
    since: Instant,
    client_until: Option<Instant>,
}

/// Who flaps.
#[derive(Debug, Default)]
pub struct Flapping {
    peers: HashMap<NodeKey, Joins>,
}

impl Flapping {
    /// A server came up: a connection after none, under a boot that was not seen before.
    pub fn joined(&mut self, node: NodeKey, now: Instant) {
        if self.peers.len() >= MOST && !self.peers.contains_key(&node) {
            let oldest = self.peers.iter().min_by_key(|(_, joins)| joins.client_until.unwrap_or(joins.since));
            if let Some(oldest) = oldest.map(|(node, _)| *node) {
                self.peers.remove(&oldest);
            }
        }
        let joins = self.peers.entry(node).or_insert(Joins { count: 0, since: now, client_until: None });
        if now.saturating_duration_since(joins.since) >= HOUR {
            (joins.count, joins.since) = (0, now);
        }
        joins.count = joins.count.saturating_add(1);
        if joins.count >= JOINS {
            joins.client_until = Some(now + CLIENT);
        }
    }

    /// To be taken for a client, whatever it says.
    pub fn is_client(&self, node: &NodeKey, now: Instant) -> bool {
        self.peers.get(node).and_then(|joins| joins.client_until).is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_joins_in_an_hour_are_too_many() {
        let now = Instant::now();
        let mut flapping = Flapping::default();
        let node = NodeKey([1; 32]);
        for n in 0..3 {
            flapping.joined(node, now + Duration::from_secs(n * 600));
        }
        assert!(!flapping.is_client(&node, now + Duration::from_secs(1_800)));
        flapping.joined(node, now + Duration::from_secs(1_800));
        assert!(flapping.is_client(&node, now + Duration::from_secs(1_800)));
        assert!(flapping.is_client(&node, now + 5 * HOUR));
        assert!(!flapping.is_client(&node, now + 7 * HOUR));
        let slow = NodeKey([2; 32]);
        for n in 0..20 {
            flapping.joined(slow, now + Duration::from_secs(n * 1_300));
        }
        assert!(!flapping.is_client(&slow, now + 19 * Duration::from_secs(1_300)));
        for n in 0..3_000_u32 {
            let mut key = [9; 32];
            key[..4].copy_from_slice(&n.to_be_bytes());
            flapping.joined(NodeKey(key), now);
        }
        assert!(flapping.peers.len() <= MOST);
    }
}
