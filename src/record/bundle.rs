//! A bundle that passed the validator, what can be read from it, and how two of them become one.

use super::shapes::MAX_SLOTS;
use super::{Pin, VerifiedBinding, VerifiedDevice};
use crate::clock::UnixMillis;
use crate::identity::NodeKey;
use crate::uri::IdHash;
use crate::wire::pb;
use prost::Message;
use prost::bytes::Bytes;
use sha2::{Digest, Sha256};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The state of an entry that this version knows; anything else is opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Reachable,
    Dnd,
    Forward,
    Tombstone,
    /// From a newer version, inside a valid signature: stored and passed on; the reader says "update needed".
    Opaque,
}

/// One verified entry.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// `SignedEntry` as it travels.
    pub bytes: Bytes,
    /// `Signed(DeviceCertificate)` in it, verified.
    pub certificate: Bytes,
    pub device: NodeKey,
    pub epoch: u32,
    pub serial: u64,
    pub rights: u32,
    pub sequence: u64,
    /// Unix seconds.
    pub expires_at: u64,
    pub certified_until: u64,
    pub state: State,
    pub priority: u32,
    pub addresses: Vec<Vec<u8>>,
    pub envelope_hash: [u8; 32],
}

impl Entry {
    fn is_live(&self, seconds: u64) -> bool {
        self.expires_at > seconds && self.certified_until > seconds
    }

    /// Which of two entries of one slot stands: the higher epoch, the higher sequence, then the smaller envelope hash
    /// (equivocation), then the certificate that lasts longer, then the smaller bytes. The device does not sign its
    /// certificate, so anybody may put an older one beside an envelope: it must not win.
    fn rank(&self) -> impl Ord + '_ {
        (self.epoch, self.sequence, Reverse(self.envelope_hash), self.certified_until, Reverse(&self.bytes))
    }
}

/// A verified owner statement.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub bytes: Bytes,
    pub min_epoch: u32,
    pub revoked_serials: Vec<u64>,
    pub sequence: u64,
    pub valid_until: u64,
}

impl Owner {
    pub fn forbids(&self, entry: &Entry) -> bool {
        entry.epoch < self.min_epoch || self.revoked_serials.contains(&entry.serial)
    }

    fn rank(&self) -> (u32, u64, Reverse<&[u8]>) {
        (self.min_epoch, self.sequence, Reverse(&self.bytes))
    }
}

/// A verified revocation.
#[derive(Clone, Debug)]
pub(super) struct Revoked {
    pub bytes: Bytes,
    pub issued_at: u64,
}

impl Revoked {
    /// Unix seconds.
    pub fn ends(&self) -> u64 {
        self.issued_at.saturating_add(REVOCATION_LIFE)
    }
}

/// A revocation is kept for a year, seconds.
const REVOCATION_LIFE: u64 = 365 * 86_400;

/// Inception and rotations, verified up to `root`.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub inception: [u8; 65],
    pub rotations: Vec<Bytes>,
    /// Current root key and recovery commitment.
    pub root: [u8; 32],
    pub recovery_hash: [u8; 32],
}

impl Chain {
    pub fn rotation(&self) -> u32 {
        u32::try_from(self.rotations.len()).unwrap_or(u32::MAX)
    }

    pub fn same(&self, other: &Chain) -> bool {
        self.inception == other.inception && self.rotations == other.rotations
    }

    /// The longest chain wins; between two of one length the smaller hash (its owner equivocated).
    fn rank(&self) -> (usize, Reverse<[u8; 32]>) {
        let mut hash = Sha256::new();
        for rotation in &self.rotations {
            hash.update(rotation);
        }
        (self.rotations.len(), Reverse(hash.finalize().into()))
    }
}

/// A bundle that passed the validator: nothing else makes one.
#[derive(Clone, Debug)]
pub struct ValidBundle {
    pub(super) id: IdHash,
    pub(super) chain: Chain,
    pub(super) owner: Option<Owner>,
    pub(super) revocation: Option<Revoked>,
    pub(super) entries: BTreeMap<NodeKey, Entry>,
}

impl PartialEq for ValidBundle {
    fn eq(&self, other: &Self) -> bool {
        self.encode() == other.encode()
    }
}

impl Eq for ValidBundle {}

impl ValidBundle {
    /// Whose bundle it is.
    pub fn id(&self) -> IdHash {
        self.id
    }

    /// The bytes that travel and are stored.
    pub fn encode(&self) -> Vec<u8> {
        pb::Bundle {
            inception: Bytes::copy_from_slice(&self.chain.inception),
            rotations: self.chain.rotations.clone(),
            owner: self.owner.as_ref().map(|o| o.bytes.clone()).unwrap_or_default(),
            revocation: self.revocation.as_ref().map(|r| r.bytes.clone()).unwrap_or_default(),
            entries: self.entries.values().map(|e| e.bytes.clone()).collect(),
        }
        .encode_to_vec()
    }

    /// Joins two bundles of one user: a revocation beats everything; else the longest rotation chain takes all; within
    /// one chain the highest owner statement and the best entry of each slot, less what owner and epochs rule out.
    /// Commutative, associative and idempotent as long as the owner certified at most 8 devices at a time and each of
    /// their statements says at least what the one before it said. A bundle of somebody else changes nothing.
    pub fn merge(&self, other: &ValidBundle) -> ValidBundle {
        if self.id != other.id {
            return self.clone();
        }
        if self.revocation.is_some() || other.revocation.is_some() {
            return if self.revoked_rank() >= other.revoked_rank() { self.clone() } else { other.clone() };
        }
        if !self.chain.same(&other.chain) {
            let ours = self.chain.rank() >= other.chain.rank();
            return if ours { self.clone() } else { other.clone() };
        }
        let owner = [&self.owner, &other.owner].into_iter().flatten().max_by(|a, b| a.rank().cmp(&b.rank())).cloned();
        let mut joined =
            ValidBundle { id: self.id, chain: self.chain.clone(), owner, revocation: None, entries: BTreeMap::new() };
        // What the owner rules out does not compete: it would win its slot and leave it empty.
        let ruled_out = |entry: &&Entry| joined.owner.as_ref().is_some_and(|owner| owner.forbids(entry));
        let entries: Vec<&Entry> =
            self.entries.values().chain(other.entries.values()).filter(|entry| !ruled_out(entry)).collect();
        for entry in entries {
            match joined.entries.get(&entry.device) {
                Some(held) if held.rank() >= entry.rank() => {}
                _ => {
                    joined.entries.insert(entry.device, entry.clone());
                }
            }
        }
        joined.settle();
        joined
    }

    /// Which of two bundles stands when one of them is revoked: the revoked one; of two the one with the better chain,
    /// then the earlier revocation. A longer chain does not bring a revoked user back: who could steal a recovery key
    /// could make one.
    #[allow(clippy::type_complexity)]
    fn revoked_rank(&self) -> Option<((usize, Reverse<[u8; 32]>), Reverse<(u64, &[u8])>)> {
        self.revocation.as_ref().map(|r| (self.chain.rank(), Reverse((r.issued_at, &r.bytes[..]))))
    }

    /// Drops what the revocation, the owner statement, a higher epoch and the number of slots leave no room for.
    pub(super) fn settle(&mut self) {
        if self.revocation.is_some() {
            self.entries.clear();
            self.owner = None;
        }
        let epoch = self.pin().epoch;
        let owner = &self.owner;
        self.entries.retain(|_, entry| entry.epoch >= epoch && !owner.as_ref().is_some_and(|o| o.forbids(entry)));
        while self.entries.len() > MAX_SLOTS {
            self.entries.pop_last();
        }
    }

    /// Nothing in it but the header.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.owner.is_none() && self.revocation.is_none()
    }

    /// Without what is over at `now`: that takes no slot. Not to be published when [`is_empty`](Self::is_empty).
    pub(super) fn live(&self, now: UnixMillis) -> ValidBundle {
        let seconds = now.seconds();
        let mut live = self.clone();
        live.entries.retain(|_, e| e.is_live(seconds));
        live.owner = live.owner.filter(|o| o.valid_until > seconds);
        live.revocation = live.revocation.filter(|r| r.ends() > seconds);
        live
    }

    /// How many slots the two take together, before any is cut.
    pub(super) fn slots_with(&self, other: &ValidBundle) -> usize {
        let mut all = self.clone();
        let owner = [&self.owner, &other.owner].into_iter().flatten().max_by(|a, b| a.rank().cmp(&b.rank()));
        all.entries.extend(other.entries.iter().map(|(device, entry)| (*device, entry.clone())));
        let epoch = self.pin().epoch.max(other.pin().epoch);
        all.entries.values().filter(|e| e.epoch >= epoch && owner.is_none_or(|o| !o.forbids(e))).count()
    }

    /// Devices of which the two hold different entries with one sequence number: their owner, or who has their key,
    /// said two things at once. For the log and the ledger; a merge settles it.
    pub fn equivocations(&self, other: &ValidBundle) -> Vec<NodeKey> {
        let differs = |e: &&Entry| {
            other
                .entries
                .get(&e.device)
                .is_some_and(|o| (o.epoch, o.sequence) == (e.epoch, e.sequence) && o.envelope_hash != e.envelope_hash)
        };
        self.entries.values().filter(differs).map(|e| e.device).collect()
    }

    /// What a caller may dial at `now`: unexpired, certified, not tombstoned entries, best priority first.
    pub fn binding(&self, now: UnixMillis) -> VerifiedBinding {
        let seconds = now.seconds();
        let mut devices: Vec<VerifiedDevice> = self
            .entries
            .values()
            .filter(|e| e.is_live(seconds))
            .filter(|e| matches!(e.state, State::Reachable | State::Dnd))
            .map(|e| VerifiedDevice {
                node: e.device,
                sequence: e.sequence,
                priority: e.priority,
                addresses: e.addresses.clone(),
                expires_at: UnixMillis::from_seconds(e.expires_at.min(e.certified_until)),
                dnd: e.state == State::Dnd,
            })
            .collect();
        devices.sort_by_key(|d| Reverse(d.priority));
        VerifiedBinding { id: self.id, pin: self.pin(), devices }
    }

    /// The highest sequence held for a device's slot, if any.
    pub fn sequence_of(&self, device: &NodeKey) -> Option<u64> {
        self.entries.get(device).map(|e| e.sequence)
    }

    /// The highest sequence of any slot, 0 without entries: what a receipt promises.
    pub fn sequence(&self) -> u64 {
        self.entries.values().map(|e| e.sequence).max().unwrap_or(0)
    }

    /// Devices in it.
    pub fn slots(&self) -> usize {
        self.entries.len()
    }

    /// (rotation, epoch): callers and stores pin the highest seen.
    pub fn pin(&self) -> Pin {
        let epoch = self.entries.values().map(|e| e.epoch).chain(self.owner.iter().map(|o| o.min_epoch)).max();
        Pin { rotation: self.chain.rotation(), epoch: epoch.unwrap_or(0) }
    }

    /// The owner gave this identity up.
    pub fn is_revoked(&self) -> bool {
        self.revocation.is_some()
    }

    /// Something in it is from a newer version: the reader says "update needed".
    pub fn needs_update(&self) -> bool {
        self.entries.values().any(|e| e.state == State::Opaque)
    }

    /// When the last thing in it expires: entries by themselves or with their certificate, owner statements by their
    /// date, revocations a year after they were issued.
    pub fn expires_at(&self) -> UnixMillis {
        let ends = self
            .entries
            .values()
            .map(|e| e.expires_at.min(e.certified_until))
            .chain(self.owner.iter().map(|o| o.valid_until))
            .chain(self.revocation.iter().map(|r| r.ends()));
        UnixMillis::from_seconds(ends.max().unwrap_or(0))
    }
}
