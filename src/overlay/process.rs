//! Which process of a node is at the far end of each connection, and how many connections there are. Pure.
//!
//! A node says of itself, on each connection, which run of it this is. A new word on a newer connection means that it
//! was started anew: its older connections are dead, however open they look. A process that was killed says no goodbye
//! on QUIC, and nobody would notice for the idle time of 40 s; meanwhile calls would go into the void, and the dead
//! connections would take the places of living ones.

use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use std::collections::{HashMap, VecDeque};

/// Connections with one peer: a direct one of each transport, each way, and two circuits that they replace. One more, and
/// the oldest goes.
pub(super) const MAX_PER_PEER: usize = 6;

/// Peers without a connection whose last run is remembered.
const MAX_GONE: usize = 1024;

/// Between the name of the program and the run, in what identify calls the agent.
const MARK: &str = " run/";

/// One life of a node, from start to end. Random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run(u64);

impl Run {
    pub(super) fn random() -> Self {
        let mut bytes = [0; 8];
        // Without a random source nobody has keys either; 0 is a run like any other.
        let _ = getrandom::fill(&mut bytes);
        Self(u64::from_be_bytes(bytes))
    }

    /// What identify says of this run.
    pub(super) fn agent(self) -> String {
        format!("peerline/{}{MARK}{:016x}", env!("CARGO_PKG_VERSION"), self.0)
    }

    /// Reads what another node said; `None` for programs that do not tell.
    fn read(agent: &str) -> Option<Self> {
        let digits = agent.split_once(MARK)?.1.get(..16)?;
        u64::from_str_radix(digits, 16).ok().map(Self)
    }
}

#[derive(Default)]
struct Known {
    run: Option<Run>,
    /// In the order in which they came up.
    connections: Vec<(ConnectionId, Option<Run>)>,
}

/// The connections of all peers. Bounded by the number of connections and [`MAX_GONE`].
#[derive(Default)]
pub(super) struct Processes {
    known: HashMap<PeerId, Known>,
    gone: VecDeque<PeerId>,
}

impl Processes {
    /// A connection is open. Returns the one to be closed for it, if there are too many.
    pub(super) fn established(&mut self, peer: PeerId, connection: ConnectionId) -> Option<ConnectionId> {
        let known = self.known.entry(peer).or_default();
        known.connections.push((connection, None));
        (known.connections.len() > MAX_PER_PEER).then(|| known.connections.remove(0).0)
    }

    pub(super) fn closed(&mut self, peer: PeerId, connection: ConnectionId) {
        let Some(known) = self.known.get_mut(&peer) else { return };
        known.connections.retain(|(other, _)| *other != connection);
        if !known.connections.is_empty() {
            return;
        }
        if known.run.is_none() {
            self.known.remove(&peer);
            return;
        }
        self.gone.retain(|other| *other != peer);
        self.gone.push_back(peer);
        if self.gone.len() > MAX_GONE
            && let Some(oldest) = self.gone.pop_front()
            && self.known.get(&oldest).is_some_and(|known| known.connections.is_empty())
        {
            self.known.remove(&oldest);
        }
    }

    /// The peer said on a connection what it is. `Some`: it was started anew since it last said so, and these older
    /// connections lead to nobody.
    pub(super) fn identified(
        &mut self,
        peer: &PeerId,
        connection: ConnectionId,
        agent: &str,
    ) -> Option<Vec<ConnectionId>> {
        let run = Run::read(agent)?;
        let known = self.known.get_mut(peer)?;
        let at = known.connections.iter().position(|(other, _)| *other == connection)?;
        known.connections[at].1 = Some(run);
        let before = known.run.replace(run)?;
        if before == run {
            return None;
        }
        // Those that never said anything may be as young as this one; if so, this one does for both.
        Some(known.connections[..at].iter().filter(|(_, said)| *said != Some(run)).map(|(older, _)| *older).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    #[test]
    fn a_run_comes_back_as_it_went() {
        let run = Run::random();
        assert_eq!(Run::read(&run.agent()), Some(run));
        for foreign in
            ["", "rust-libp2p/0.57", "peerline/9 run/", "peerline/9 run/012345678", "x run/é0123456789abcdef"]
        {
            assert_eq!(Run::read(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_new_run_ends_the_connections_of_the_old_one() {
        let (peer, mut all) = (PeerId::random(), Processes::default());
        let (old, new) = (Run(1).agent(), Run(2).agent());
        for n in 0..3 {
            all.established(peer, id(n));
        }
        assert_eq!(all.identified(&peer, id(0), &old), None);
        assert_eq!(all.identified(&peer, id(1), &old), None, "said before");
        all.established(peer, id(3));
        assert_eq!(all.identified(&peer, id(3), &new), Some(vec![id(0), id(1), id(2)]));
        assert_eq!(all.identified(&peer, id(3), &new), None);
        all.established(peer, id(4));
        assert_eq!(all.identified(&peer, id(4), &new), None, "two of one run");
    }

    #[test]
    fn the_last_run_is_known_when_every_connection_has_closed() {
        let (peer, mut all) = (PeerId::random(), Processes::default());
        all.established(peer, id(1));
        all.identified(&peer, id(1), &Run(1).agent());
        all.closed(peer, id(1));
        all.established(peer, id(2));
        assert_eq!(all.identified(&peer, id(2), &Run(2).agent()), Some(vec![]));
    }

    #[test]
    fn the_oldest_of_too_many_goes() {
        let (peer, mut all) = (PeerId::random(), Processes::default());
        for n in 0..MAX_PER_PEER {
            assert_eq!(all.established(peer, id(n)), None);
        }
        assert_eq!(all.established(peer, id(9)), Some(id(0)));
        all.closed(peer, id(0));
        assert_eq!(all.established(peer, id(10)), Some(id(1)));
    }

    #[test]
    fn peers_that_have_gone_are_forgotten_in_the_end() {
        let mut all = Processes::default();
        let friend = PeerId::random();
        all.established(friend, id(0));
        for n in 1..3 * MAX_GONE {
            let stranger = PeerId::random();
            all.established(stranger, id(n));
            all.identified(&stranger, id(n), &Run(7).agent());
            all.closed(stranger, id(n));
        }
        assert_eq!((all.known.len(), all.gone.len()), (MAX_GONE + 1, MAX_GONE));
        let mute = PeerId::random();
        all.established(mute, id(1));
        all.closed(mute, id(1));
        assert!(!all.known.contains_key(&mute), "who said nothing is not remembered");
    }
}
