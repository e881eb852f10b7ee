//! How often peers may ask: by peer, by network, and all together (SECURITY §4.10). `store/1` and kad have each their own.

use crate::admission::{Bucket, PerSource, Rate, Subnet};
use crate::wire::{AddressScope, is_global};
use libp2p::PeerId;
use std::net::IpAddr;
use std::time::Instant;

/// Of one peer.
const PER_PEER: Rate = Rate { per_second: 20.0, burst: 60.0 };

/// The same where few serve, as every lookup asks everybody for four keys and a gateway's calls come from one peer; and
/// of a private address where those count, which is an office or a laboratory.
const PER_PEER_OF_FEW: Rate = Rate { per_second: 400.0, burst: 1_600.0 };

/// Of one network, if it is a global one.
const PER_SUBNET: Rate = Rate { per_second: 60.0, burst: 240.0 };

/// Sources with a rate of their own.
const MAX_SOURCES: usize = 1_024;

/// Where a question comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Global(IpAddr),
    /// A private address, in an overlay that has such.
    Near,
    /// A private address where only global ones count, or none.
    Unknown,
}

impl Source {
    pub(super) fn of(ip: Option<IpAddr>, scope: AddressScope) -> Self {
        match (ip.filter(|ip| is_global(*ip)), scope) {
            (Some(ip), _) => Source::Global(ip),
            (None, AddressScope::Any) => Source::Near,
            (None, AddressScope::Global) => Source::Unknown,
        }
    }
}

/// What a door lets in.
pub(super) struct Rates {
    per_peer: PerSource<PeerId>,
    per_peer_of_few: PerSource<PeerId>,
    per_subnet: PerSource<Subnet>,
    all: Bucket,
    rate_of_all: Rate,
}

impl Rates {
    /// `all`: of everybody together.
    pub(super) fn new(all: Rate, now: Instant) -> Self {
        Self {
            per_peer: PerSource::of_free_names(PER_PEER, MAX_SOURCES),
            per_peer_of_few: PerSource::of_free_names(PER_PEER_OF_FEW, MAX_SOURCES),
            per_subnet: PerSource::new(PER_SUBNET, MAX_SOURCES),
            all: Bucket::full(all, now),
            rate_of_all: all,
        }
    }

    /// Whether a question of `peer` is answered now. `few`: few serve this overlay.
    ///
    /// # Errors
    /// Whose fault it is, in words for the counters.
    pub(super) fn admits(&mut self, peer: PeerId, from: Source, few: bool, now: Instant) -> Result<(), &'static str> {
        let own = if few || from == Source::Near { &mut self.per_peer_of_few } else { &mut self.per_peer };
        if !own.take(peer, now) {
            return Err("too often");
        }
        let shared = match from {
            Source::Global(ip) => self.per_subnet.take(Subnet::of(ip), now),
            Source::Near | Source::Unknown => true,
        };
        // What others of its network, or everybody, ask too often is not this peer's fault.
        if shared && self.all.take(self.rate_of_all, now) { Ok(()) } else { Err("too many") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const ALL: Rate = Rate { per_second: 10_000.0, burst: 5_000.0 };

    #[test]
    fn a_peer_and_a_network_have_their_share() {
        let now = Instant::now();
        let mut rates = Rates::new(ALL, now);
        let (greedy, modest) = (PeerId::random(), PeerId::random());
        let from = Source::Global([8, 8, 8, 8].into());
        let admitted = (0..1_000).filter(|_| rates.admits(greedy, from, false, now).is_ok()).count();
        assert_eq!(admitted, 60);
        assert!(rates.admits(modest, from, false, now).is_ok(), "another's greed is not its fault");
        let later = now + Duration::from_secs(1);
        let admitted = (0..100).filter(|_| rates.admits(greedy, from, false, later).is_ok()).count();
        assert_eq!(admitted, 20);
        // Many names of one network.
        let admitted = (0..1_000).filter(|_| rates.admits(PeerId::random(), from, false, later).is_ok()).count();
        assert!(admitted <= 240, "{admitted}");
        let beside = Source::Global([8, 8, 9, 9].into());
        assert!(rates.admits(modest, beside, false, later).is_ok());
    }

    #[test]
    fn a_gateway_of_a_small_overlay_is_served() {
        let now = Instant::now();
        let mut rates = Rates::new(ALL, now);
        let gateway = PeerId::random();
        // Fifty calls a second, each four questions to everybody.
        for second in 0..60 {
            let now = now + Duration::from_secs(second);
            assert!((0..200).all(|_| rates.admits(gateway, Source::Unknown, true, now).is_ok()));
        }
    }

    #[test]
    fn an_office_is_served_and_does_not_take_the_machine() {
        let now = Instant::now();
        let mut rates = Rates::new(ALL, now);
        let near = Source::of(Some([192, 168, 1, 2].into()), AddressScope::Any);
        assert_eq!(near, Source::Near);
        assert_eq!(Source::of(Some([192, 168, 1, 2].into()), AddressScope::Global), Source::Unknown);
        let peer = PeerId::random();
        let admitted = (0..100_000).filter(|_| rates.admits(peer, near, false, now).is_ok()).count();
        assert_eq!(admitted, 1_600);
        let others = (0..100_000).filter(|_| rates.admits(PeerId::random(), near, false, now).is_ok()).count();
        assert!(others <= 5_000, "{others} of all together");
    }
}
