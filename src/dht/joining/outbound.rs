//! Connections of this node's own choice: whoever fills up our inbound side must not thereby become all that we talk to.

use crate::dht::{Caps, Card, Diversity, Network};
use std::sync::Arc;

/// Connections that a server keeps by its own choice, however many come in (SECURITY §4.7).
pub const OUTBOUND: usize = 16;

/// Of one /16 two.
const CAPS: Caps = Caps { subnet: 2, wide: 2, system: u32::MAX };

/// Whom to dial of `known`, the best first, to have [`OUTBOUND`] connections of our own choice; `have` are the networks
/// of those that are there. Others of the same networks only where there is no choice: an office is one network.
pub fn outbound(have: &[Network], known: impl IntoIterator<Item = (Arc<Card>, Network)>) -> Vec<Arc<Card>> {
    let missing = OUTBOUND.saturating_sub(have.len());
    let mut counts = Diversity::default();
    for network in have {
        counts.admit(network, &CAPS);
    }
    let (diverse, others): (Vec<_>, Vec<_>) = known.into_iter().partition(|(_, network)| counts.admit(network, &CAPS));
    diverse.into_iter().chain(others).map(|(card, _)| card).take(missing).collect()
}
