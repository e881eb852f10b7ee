//! Records: what is stored in the overlay, judged by one pure validator. No async, no clock, no I/O.
//! Skeleton: owned by the `record` work; signatures are the contract.

use crate::clock::UnixMillis;
use crate::identity::{CertificateBytes, NodeKey, NodeSecret, UserIdentity};
use crate::uri::IdHash;
use crate::wire::{AddressScope, OverlayId};

/// Hard limit of a bundle on the wire, bytes.
pub const MAX_BUNDLE_BYTES: usize = 12 * 1024;

/// Key under which the overlay stores a bundle (`K_j`, before kad hashes it again).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey(pub [u8; 32]);

/// The four replica keys of a user, j = 0..3.
pub fn replica_keys(_overlay: &OverlayId, _id: &IdHash) -> [RecordKey; 4] {
    unimplemented!("skeleton")
}

/// By whose rules and clock bytes are judged.
#[derive(Clone, Copy, Debug)]
pub struct Judge {
    pub overlay: OverlayId,
    pub scope: AddressScope,
    pub now: UnixMillis,
}

/// Why bytes were refused. Counted per reason and per peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum RejectReason {
    #[error("too large")]
    TooLarge,
    #[error("malformed")]
    Malformed,
    #[error("wrong key")]
    WrongKey,
    #[error("wrong overlay")]
    WrongOverlay,
    #[error("expired")]
    Expired,
    #[error("not yet valid")]
    NotYetValid,
    #[error("too far ahead")]
    TooFarAhead,
    #[error("stale")]
    Stale,
    #[error("equivocation")]
    Equivocation,
    #[error("bad certificate")]
    BadCertificate,
    #[error("not certified")]
    NotCertified,
    #[error("revoked")]
    Revoked,
    #[error("bad signature")]
    BadSignature,
    #[error("weak key")]
    WeakKey,
    #[error("address policy")]
    AddressPolicy,
    #[error("slots full")]
    SlotsFull,
    #[error("unsupported")]
    Unsupported,
}

/// A bundle that passed the validator: nothing else makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidBundle {
    pub(crate) id: IdHash,
}

impl ValidBundle {
    pub fn id(&self) -> IdHash {
        self.id
    }
    /// The bytes that travel and are stored.
    pub fn encode(&self) -> Vec<u8> {
        unimplemented!("skeleton")
    }
    /// Commutative, associative, idempotent merge of two bundles of one user.
    pub fn merge(&self, _other: &ValidBundle) -> ValidBundle {
        unimplemented!("skeleton")
    }
    /// What a caller may dial at `now`: unexpired, not tombstoned entries, best priority first.
    pub fn binding(&self, _now: UnixMillis) -> VerifiedBinding {
        unimplemented!("skeleton")
    }
    /// The highest sequence held for a device's slot, if any.
    pub fn sequence_of(&self, _device: &NodeKey) -> Option<u64> {
        unimplemented!("skeleton")
    }
    /// (rotation, epoch): callers and stores pin the highest seen.
    pub fn pin(&self) -> Pin {
        unimplemented!("skeleton")
    }
    /// When the last thing in it expires.
    pub fn expires_at(&self) -> UnixMillis {
        unimplemented!("skeleton")
    }
}

/// The highest (rotation, epoch) seen of a user; lower ones are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin {
    pub rotation: u32,
    pub epoch: u32,
}

/// Judges a bundle found under `key`. `held` is what this judge holds already (merged result and STALE come from it).
/// Same function at store, at retrieve and on load.
///
/// # Errors
/// The first reason met, cheap checks before expensive ones.
pub fn validate(
    _bytes: &[u8],
    _key: &RecordKey,
    _judge: &Judge,
    _held: Option<&ValidBundle>,
) -> Result<ValidBundle, RejectReason> {
    unimplemented!("skeleton")
}

/// "User U is reachable at devices D until T", proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedBinding {
    pub id: IdHash,
    pub pin: Pin,
    pub devices: Vec<VerifiedDevice>,
}

/// One device of a verified binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedDevice {
    pub node: NodeKey,
    pub sequence: u64,
    pub priority: u32,
    /// Multiaddrs in binary form, without `/p2p`.
    pub addresses: Vec<Vec<u8>>,
    pub expires_at: UnixMillis,
    /// Do not disturb: registered, but asks not to ring.
    pub dnd: bool,
}

/// What a device wants to say about itself.
#[derive(Clone, Debug)]
pub struct EntryDraft {
    pub epoch: u32,
    pub sequence: u64,
    pub issued_at: UnixMillis,
    pub expires_at: UnixMillis,
    pub tombstone: bool,
    pub priority: u32,
    pub addresses: Vec<Vec<u8>>,
}

/// Signs an entry with the device's key and wraps it with the user's header as a one-entry bundle's bytes.
pub fn sign_bundle(
    _user: &UserHeader,
    _certificate: &CertificateBytes,
    _device: &NodeSecret,
    _overlay: &OverlayId,
    _draft: &EntryDraft,
) -> Vec<u8> {
    unimplemented!("skeleton")
}

/// The public part of a user that heads every bundle: inception and rotations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserHeader {
    pub inception: [u8; 65],
    pub rotations: Vec<Vec<u8>>,
}

impl From<&UserIdentity> for UserHeader {
    fn from(user: &UserIdentity) -> Self {
        Self { inception: user.inception, rotations: user.rotations.clone() }
    }
}

/// Who the far end of a link proved to be (`sip/1` hello, FORMATS).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPeerUser {
    pub id: IdHash,
    pub node: NodeKey,
    pub pin: Pin,
}

/// Checks the user part of a `sip/1` hello: the bundle header with the sender's own certificate and entry, against the
/// device key that the channel authenticated; the CALL right; the pinned epoch.
///
/// # Errors
/// The first reason met.
pub fn verify_hello_user(
    _from: &IdHash,
    _bundle: &[u8],
    _channel_key: &NodeKey,
    _pin: Option<Pin>,
    _judge: &Judge,
) -> Result<VerifiedPeerUser, RejectReason> {
    unimplemented!("skeleton")
}
