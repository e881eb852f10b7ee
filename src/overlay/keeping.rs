//! What a node does for what it keeps, from time to time: records are passed on to who came into their region, the
//! ledger is written down, and both are shown.

use super::actor::Actor;
use super::address::{node_of, peer_named};
use super::asking::Asker;
use crate::clock::UnixMillis;
use crate::dht::{Ask, Network};
use crate::ledger::Ledger;
use crate::store::{Store, Table};
use crate::wire::is_global;
use libp2p::PeerId;
use std::net::IpAddr;
use std::time::Instant;

/// One peer, as `peerline status --peers` shows it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PeerReport {
    pub peer_id: String,
    /// Where its card says it is, if it is in the table.
    pub address: Option<String>,
    /// The /24 or /48 that it was met in, where addresses say something.
    pub network: Option<String>,
    /// Useful answers, silence, and what the honest do not do; faded.
    pub good: f64,
    pub slow: f64,
    pub bad: f64,
    /// Unix milliseconds; of those in the table.
    pub first_seen: Option<u64>,
    pub in_table: bool,
    /// Asked last.
    pub avoided: bool,
    /// Not listened to.
    pub shunned: bool,
    /// When it broke a promise by its own signatures: unix milliseconds of its clock.
    pub proven: Option<u64>,
}

impl Actor {
    /// Once a second.
    pub(super) fn keep_up(&mut self, now: Instant) {
        self.audit();
        self.pay_no_more(now);
        self.make_room(now);
        let connected: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        let shunned = connected.into_iter().filter(|peer| self.ledger.shuns(peer, now)).collect();
        self.swarm.behaviour_mut().kad.shun(shunned);
        if !self.upkeep.server {
            return;
        }
        let wall = UnixMillis::now();
        let holding = &self.swarm.behaviour_mut().kad.store_mut().holding;
        let pushes = self.repair.poll(holding, self.table.iter(), wall);
        for (key, to) in pushes {
            let peer = peer_named(&to.node);
            if peer.is_none_or(|peer| self.ledger.shuns(&peer, now)) {
                continue;
            }
            if let Some(bytes) = self.holding().fetch(&key, wall) {
                self.meter.passed_on.inc();
                // Nobody waits for it: who does not take it gets it from its owner.
                let _ = self.ask(Asker::Acquaintance, &to, Ask::Store(key, bytes), now);
            }
        }
    }

    /// A peer is connected from or at `ip`.
    pub(super) fn met(&mut self, peer: PeerId, ip: Option<IpAddr>, now: Instant) {
        let ip = ip.filter(|ip| is_global(*ip));
        self.ledger.met(peer, ip.map(|ip| Network::of(ip).subnet), now);
    }

    /// Writes down what changed in the ledger.
    pub(super) fn save_ledger(&mut self) {
        let rows = self.ledger_rows();
        if !rows.is_empty() {
            let store = self.store.clone();
            tokio::task::spawn_blocking(move || write(&store, &rows));
        }
    }

    pub(super) fn ledger_rows(&mut self) -> Vec<Row> {
        let rows = self.ledger.take_changes(Instant::now(), UnixMillis::now());
        rows.into_iter().map(|(peer, row)| (peer.to_bytes(), row.map(Vec::from))).collect()
    }

    /// Everybody who is in the table or of whom the ledger knows anything, the worst first.
    pub(super) fn peer_reports(&self) -> Vec<PeerReport> {
        let now = Instant::now();
        let in_table = self.table.iter().filter_map(|(card, first_seen)| {
            let peer = peer_named(&card.node)?;
            let mut report = self.report(&peer, now);
            let at = card.addresses.first();
            report.address = at.map(|at| super::address::to_multiaddr(at).to_string());
            report.network = report.network.or_else(|| at.and_then(|at| network_of(at.ip)));
            (report.first_seen, report.in_table) = (Some(first_seen.0), true);
            Some(report)
        });
        let known =
            self.ledger.iter(now).filter(|(peer, _)| node_of(peer).is_none_or(|node| self.table.get(&node).is_none()));
        let known = known.map(|(peer, _)| self.report(peer, now));
        let mut all: Vec<PeerReport> = in_table.chain(known).collect();
        all.sort_by(|a, b| b.bad.total_cmp(&a.bad).then(b.good.total_cmp(&a.good)).then(a.peer_id.cmp(&b.peer_id)));
        all
    }

    fn report(&self, peer: &PeerId, now: Instant) -> PeerReport {
        let sums = self.ledger.of(peer, now);
        let rounded = |sum: f64| (sum * 100.0).round() / 100.0;
        PeerReport {
            peer_id: peer.to_string(),
            address: None,
            network: self.ledger.network_of(peer).map(Network::name_of),
            good: rounded(sums.good),
            slow: rounded(sums.slow),
            bad: rounded(sums.bad),
            first_seen: None,
            in_table: false,
            avoided: self.ledger.avoids(peer, now),
            shunned: self.ledger.shuns(peer, now),
            proven: node_of(peer).and_then(|node| Some(self.proving.proofs.against(&node)?.at.0)),
        }
    }
}

fn network_of(ip: IpAddr) -> Option<String> {
    is_global(ip).then(|| Network::name_of(Network::of(ip).subnet))
}

/// Peer id and account; `None` removes it.
pub(super) type Row = (Vec<u8>, Option<Vec<u8>>);

/// Blocking.
pub(super) fn write(store: &Store, rows: &[Row]) {
    for (key, row) in rows {
        let written = match row {
            Some(row) => store.put(Table::Ledger, key, row),
            None => store.remove(Table::Ledger, key),
        };
        if let Err(error) = written {
            tracing::warn!(%error, "the ledger is kept in memory only");
            return;
        }
    }
}

/// What an earlier life saw. Rows that say nothing any more go.
pub(super) fn ledger(store: &Store) -> Ledger<PeerId> {
    let (now, wall) = (Instant::now(), UnixMillis::now());
    let mut ledger = Ledger::default();
    let rows = store.scan(Table::Ledger, usize::MAX).unwrap_or_else(|error| {
        tracing::warn!(%error, "the ledger cannot be read");
        Vec::new()
    });
    for (key, row) in rows.into_iter().filter(|(key, _)| !super::proving::is_proof(key)) {
        let restored = PeerId::from_bytes(&key).is_ok_and(|peer| ledger.restore(peer, &row, now, wall));
        if !restored && let Err(error) = store.remove(Table::Ledger, &key) {
            tracing::debug!(%error, "an old account stays on disk");
        }
    }
    ledger
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Fact;

    #[test]
    fn the_ledger_comes_back_and_drops_what_says_nothing() {
        let store = Store::temporary().unwrap();
        let (now, liar, bystander) = (Instant::now(), PeerId::random(), PeerId::random());
        let mut before = Ledger::default();
        (0..10).for_each(|_| before.note(liar, Fact::Forged, now));
        before.note(bystander, Fact::Late, now);
        let rows = before.take_changes(now, UnixMillis::now());
        let rows: Vec<Row> = rows.into_iter().map(|(peer, row)| (peer.to_bytes(), row.map(Vec::from))).collect();
        write(&store, &rows);
        store.put(Table::Ledger, b"no peer id", b"no account").unwrap();
        let after = ledger(&store);
        assert_eq!(after.len(), 1);
        assert!(after.of(&liar, now).bad > 99.9);
        assert_eq!(store.len(Table::Ledger), 1);
    }
}
