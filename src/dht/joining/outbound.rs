//! The connections that this node keeps by its own choice (SECURITY §4.7): to servers of its table, which it found and
//! dialled itself, of different networks first. Who comes in takes none of these places, so that visitors, however many,
//! are never all that a node is connected to.

use crate::dht::{Caps, Diversity, Network};
use crate::identity::NodeKey;

/// Of one /16.
const SLOTS: Caps = Caps { subnet: 2, wide: 2, system: u32::MAX };

/// Who is to be connected to besides `held`, so that there are `most`: of `known`, the best first, at most two of a /16;
/// where that leaves places, of any network, or an office would stay with two.
pub fn outbound(held: &[Network], known: &[(NodeKey, Network)], most: usize) -> Vec<NodeKey> {
    let mut networks = Diversity::default();
    for network in held {
        networks.admit(network, &SLOTS);
    }
    let room = most.saturating_sub(held.len());
    let (diverse, rest): (Vec<&(NodeKey, Network)>, Vec<_>) =
        known.iter().partition(|(_, network)| networks.admit(network, &SLOTS));
    diverse.into_iter().chain(rest).map(|(node, _)| *node).take(room).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(ips: &[[u8; 4]]) -> Vec<(NodeKey, Network)> {
        (0..).zip(ips).map(|(n, ip)| (NodeKey([n; 32]), Network::of((*ip).into()))).collect()
    }

    #[test]
    fn different_networks_come_first_and_one_office_fills_up() {
        let ips: Vec<[u8; 4]> = (0..8).map(|n| [9, 9, n, 1]).chain((0..8).map(|n| [10 + n, 1, 1, 1])).collect();
        let chosen = outbound(&[], &known(&ips), 8);
        assert_eq!(chosen.iter().map(|node| node.0[0]).collect::<Vec<_>>(), [0, 1, 8, 9, 10, 11, 12, 13]);
        let held = [Network::of([9, 9, 1, 1].into()), Network::of([9, 9, 2, 1].into())];
        let chosen = outbound(&held, &known(&ips), 8);
        assert_eq!(chosen.iter().map(|node| node.0[0]).collect::<Vec<_>>(), [8, 9, 10, 11, 12, 13]);
        let office: Vec<[u8; 4]> = (0..20).map(|n| [192, 168, 1, n]).collect();
        assert_eq!(outbound(&[], &known(&office), 16).len(), 16);
        assert!(outbound(&held, &known(&ips), 1).is_empty());
    }
}
