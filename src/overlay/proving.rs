//! Proofs of broken promises: a holder's receipt for an own record and its signed "nothing here" are put together, kept,
//! and acted on. They stay with this node: the frozen formats have no place in which replies could carry them
//! (ARCHITECTURE.md).

use super::actor::Actor;
use super::address::peer_named;
use crate::clock::UnixMillis;
use crate::dht::{Proofs, Signed};
use crate::identity::{NodeKey, random};
use crate::ledger::Fact;
use crate::record::RecordKey;
use crate::store::{Row, Store, Table};
use crate::wire::OverlayId;
use std::time::Instant;

/// Keys of [`Table::Ledger`] rows that are proofs: this, then the node's 32 bytes. No peer id begins so.
const PREFIX: &[u8] = b"proof";

pub(super) struct Proving {
    pub(super) proofs: Proofs,
}

/// What an earlier life proved. Each row is checked like a stranger's.
pub(super) fn restore(store: &Store, overlay: &OverlayId) -> Proving {
    let rows: Vec<Row> = store.scan(Table::Ledger, usize::MAX).unwrap_or_default();
    let rows = rows.iter().filter(|(key, _)| is_proof(key)).map(|(_, row)| row.as_slice());
    Proving { proofs: Proofs::from_rows(rows, overlay, UnixMillis::now()) }
}

/// The key of a proof's row.
pub(super) fn is_proof(key: &[u8]) -> bool {
    key.strip_prefix(PREFIX).is_some_and(|node| node.len() == 32)
}

impl Actor {
    /// A holder says that it has nothing under `key`, of which it may have promised the contrary.
    pub(super) fn denied(&mut self, node: NodeKey, key: RecordKey, denial: Signed) {
        let (now, wall) = (Instant::now(), UnixMillis::now());
        if !self.proving.proofs.denied(node, key, denial, &self.overlay, wall) {
            return;
        }
        self.meter.refuse("promise: proven broken".into());
        let Some(peer) = peer_named(&node) else { return };
        tracing::info!(%peer, "a node broke a signed promise: it is not listened to for a month");
        self.ledger.note(peer, Fact::Proven, now);
        self.evict(&peer);
        let (rows, store) = (self.proving.proofs.rows(), self.store.clone());
        tokio::task::spawn_blocking(move || write(&store, &rows));
    }

    /// Something that this node promised had to go: from now on it speaks as another run, so that no honest answer is a
    /// proof against it.
    pub(super) fn keep_word(&mut self) {
        if self.holding().take_lost(UnixMillis::now()) {
            self.voice.begin_anew(random());
        }
    }
}

/// Makes the table hold these proofs and no others. Blocking.
fn write(store: &Store, rows: &[(NodeKey, Vec<u8>)]) {
    let key = |node: &NodeKey| [PREFIX, &node.0].concat();
    let old = store.scan(Table::Ledger, usize::MAX).unwrap_or_default();
    let gone = old.iter().filter(|(old, _)| is_proof(old) && rows.iter().all(|(node, _)| key(node) != *old));
    let removed = gone.map(|(key, _)| store.remove(Table::Ledger, key));
    let written = rows.iter().map(|(node, row)| store.put(Table::Ledger, &key(node), row));
    if let Some(error) = removed.chain(written).find_map(Result::err) {
        tracing::warn!(%error, "proofs are kept in memory only");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dht::{Ask, Question, Reply, Said, Stored, Voice};
    use crate::identity::NodeSecret;
    use crate::overlay::sample;
    use bytes::Bytes;

    #[test]
    fn proofs_come_back_after_a_restart_and_do_not_mix_with_accounts() {
        let (secret, key, now) = (NodeSecret::generate(), RecordKey([7; 32]), UnixMillis::now());
        let voice = Voice::new(&secret, sample::OVERLAY, [1; 8]);
        let says = |ask: Ask, said: Said, at: u64| {
            let question = Question { nonce: [9; 16], card: None, ask, stamp: Bytes::new() };
            let bytes = voice.reply(&question, said, Vec::new(), None, UnixMillis(now.0 + at));
            Signed::from(&Reply::decode(bytes, &question).unwrap())
        };
        let kept = Said::Stored { result: Stored::Kept { promise: 600 }, sequence: 1 };
        let receipt = says(Ask::Store(key, Bytes::from_static(b"bundle")), kept, 0);
        let mut proofs = Proofs::default();
        proofs.promised(secret.public(), key, receipt);
        assert!(proofs.denied(
            secret.public(),
            key,
            says(Ask::Fetch(key), Said::Held(None), 10),
            &sample::OVERLAY,
            now
        ));
        let store = Store::temporary().unwrap();
        write(&store, &proofs.rows());
        assert!(restore(&store, &sample::OVERLAY).proofs.against(&secret.public()).is_some());
        assert!(super::super::keeping::ledger(&store).is_empty());
        assert_eq!(store.len(Table::Ledger), 1, "the ledger leaves them where they are");
        write(&store, &[]);
        assert_eq!(store.len(Table::Ledger), 0);
    }
}
