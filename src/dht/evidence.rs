//! Proofs of a broken promise (SECURITY §4.8): a holder's signed receipt, and its signed "nothing here" within the time
//! that it promised. Anybody can check one with two signatures and no opinion, and nobody can make one against a node
//! that keeps its word. Pure.
//!
//! Both carry the holder's own clock and its run: a proof is one only within one run and by one clock, so that a crash,
//! or an honest holder that had to let go and began a new run because of it ([`super::Holding::take_lost`]), is never
//! proven guilty. Two receipts, or a receipt and an older record, are no proof: bundles are merged, and an owner's
//! statement takes entries out of them, so that honest holders sign such pairs too.

use super::message::{MAX_PROMISE, Reply, Statement};
use crate::clock::UnixMillis;
use crate::identity::NodeKey;
use crate::record::RecordKey;
use crate::wire::OverlayId;
use crate::wire::signature::{self, Domain};
use bytes::Bytes;
use std::collections::VecDeque;

/// Proofs kept, and for how long: as long as the peer is not listened to.
const MOST: usize = 64;
const KEPT_MS: u64 = 30 * 86_400_000;

/// Receipts that a denial may be held against; the oldest go. 300 bytes each.
const RECEIPTS: usize = 1_024;

/// Longest payload of a reply, bytes, as in [`super::message`].
const MAX_PAYLOAD: usize = 256;

/// Length of an Ed25519 signature, bytes.
const SIGNATURE: usize = 64;

const VERSION: u8 = 0xe1;

/// What a node signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    payload: Bytes,
    signature: Bytes,
}

impl From<&Reply> for Signed {
    /// Copies: the bytes are part of a reply, which would stay as long as this.
    fn from(reply: &Reply) -> Self {
        let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        Self { payload: copy(&reply.payload), signature: copy(&reply.signature) }
    }
}

/// Why two replies prove nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    #[error("not a receipt and a denial")]
    Kind,
    #[error("of two runs")]
    Run,
    #[error("not within the promise")]
    Time,
    #[error("not signed by this node")]
    Signature,
}

/// A proof that `node` broke its promise about `key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    pub node: NodeKey,
    pub key: RecordKey,
    /// When it denied, by its own clock.
    pub at: UnixMillis,
    receipt: Signed,
    denial: Signed,
}

impl Evidence {
    /// Checks that the two are a proof: two signatures at most, none when the times do not fit.
    ///
    /// # Errors
    /// Why they are none.
    pub fn new(
        node: NodeKey,
        key: RecordKey,
        receipt: Signed,
        denial: Signed,
        overlay: &OverlayId,
    ) -> Result<Self, EvidenceError> {
        let read = |signed: &Signed| Statement::read(&signed.payload).ok_or(EvidenceError::Kind);
        let (promised, denied) = (read(&receipt)?, read(&denial)?);
        if !(promised.keeps && denied.denies) {
            return Err(EvidenceError::Kind);
        }
        if promised.boot != denied.boot {
            return Err(EvidenceError::Run);
        }
        let until = promised.time.0.saturating_add(u64::from(promised.promise.min(MAX_PROMISE)) * 1_000);
        if !(promised.time < denied.time && denied.time.0 < until) {
            return Err(EvidenceError::Time);
        }
        for (signed, domain) in [(&receipt, Domain::Receipt), (&denial, Domain::Answer)] {
            signature::verify(&node.0, domain, Some(overlay), &key.0, &signed.payload, &signed.signature)
                .map_err(|_| EvidenceError::Signature)?;
        }
        Ok(Self { node, key, at: denied.time, receipt, denial })
    }

    /// Version, node, key, then receipt and denial: length of the payload (2 bytes, big-endian), payload, signature.
    /// 230 to 710 bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(self.node.0);
        bytes.extend(self.key.0);
        for signed in [&self.receipt, &self.denial] {
            bytes.extend(u16::try_from(signed.payload.len()).unwrap_or(0).to_be_bytes());
            bytes.extend(&signed.payload);
            bytes.extend(&signed.signature);
        }
        bytes
    }

    /// Reads and checks what [`Evidence::encode`] wrote, whoever it comes from.
    pub fn decode(bytes: &[u8], overlay: &OverlayId) -> Option<Self> {
        let (&VERSION, rest) = bytes.split_first()? else { return None };
        let (node, rest) = rest.split_first_chunk::<32>()?;
        let (key, rest) = rest.split_first_chunk::<32>()?;
        let (receipt, rest) = read_signed(rest)?;
        let (denial, rest) = read_signed(rest)?;
        let evidence = || Self::new(NodeKey(*node), RecordKey(*key), receipt, denial, overlay).ok();
        rest.is_empty().then(evidence).flatten()
    }
}

fn read_signed(bytes: &[u8]) -> Option<(Signed, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (payload, rest) = rest.split_at_checked(length).filter(|_| length <= MAX_PAYLOAD)?;
    let (signature, rest) = rest.split_at_checked(SIGNATURE)?;
    Some((Signed { payload: Bytes::copy_from_slice(payload), signature: Bytes::copy_from_slice(signature) }, rest))
}

/// Receipts that this node got, and the proofs that came of them.
#[derive(Debug, Default)]
pub struct Proofs {
    /// The latest last.
    receipts: VecDeque<(NodeKey, RecordKey, Signed)>,
    /// When each was found here; the latest last.
    kept: Vec<(UnixMillis, Evidence)>,
}

impl Proofs {
    /// `node` promised to keep something under `key`; its signature was verified.
    pub fn promised(&mut self, node: NodeKey, key: RecordKey, receipt: Signed) {
        self.receipts.retain(|(other, about, _)| (other, about) != (&node, &key));
        if self.receipts.len() >= RECEIPTS {
            self.receipts.pop_front();
        }
        self.receipts.push_back((node, key, receipt));
    }

    /// `node` says that it holds nothing under `key`. True when that, with what it promised, is a new proof.
    pub fn denied(
        &mut self,
        node: NodeKey,
        key: RecordKey,
        denial: Signed,
        overlay: &OverlayId,
        now: UnixMillis,
    ) -> bool {
        let receipt = self.receipts.iter().find(|(other, about, _)| (other, about) == (&node, &key));
        let Some((.., receipt)) = receipt else { return false };
        match Evidence::new(node, key, receipt.clone(), denial, overlay) {
            Ok(evidence) => self.keep(evidence, now),
            Err(_) => false,
        }
    }

    /// Keeps a proof. False if there is one against the node.
    fn keep(&mut self, evidence: Evidence, now: UnixMillis) -> bool {
        self.forget(now);
        if self.against(&evidence.node).is_some() {
            return false;
        }
        if self.kept.len() >= MOST {
            self.kept.remove(0);
        }
        self.kept.push((now, evidence));
        true
    }

    fn forget(&mut self, now: UnixMillis) {
        self.kept.retain(|(found, _)| now.0.saturating_sub(found.0) < KEPT_MS);
    }

    /// The proof against a node.
    pub fn against(&self, node: &NodeKey) -> Option<&Evidence> {
        self.kept.iter().map(|(_, evidence)| evidence).find(|evidence| evidence.node == *node)
    }

    pub fn len(&self) -> usize {
        self.kept.len()
    }

    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// All, as rows that can be kept: when it was found (milliseconds, big-endian), then the proof.
    pub fn rows(&self) -> Vec<(NodeKey, Vec<u8>)> {
        let row = |(found, evidence): &(UnixMillis, Evidence)| {
            (evidence.node, [&found.0.to_be_bytes()[..], &evidence.encode()].concat())
        };
        self.kept.iter().map(row).collect()
    }

    /// Reads and checks what [`Proofs::rows`] wrote; what proves nothing is left out.
    pub fn from_rows<'a>(rows: impl IntoIterator<Item = &'a [u8]>, overlay: &OverlayId, now: UnixMillis) -> Self {
        let read = |row: &'a [u8]| {
            let (found, rest) = row.split_first_chunk::<8>()?;
            Some((UnixMillis(u64::from_be_bytes(*found)).min(now), Evidence::decode(rest, overlay)?))
        };
        let mut kept: Vec<_> = rows.into_iter().take(2 * MOST).filter_map(read).collect();
        kept.sort_by_key(|(found, _)| *found);
        let surplus = kept.len().saturating_sub(MOST);
        kept.drain(..surplus);
        let mut proofs = Self { receipts: VecDeque::new(), kept };
        proofs.forget(now);
        proofs
    }
}

#[cfg(test)]
mod tests;
