//! Records: what is stored in the overlay, judged by one pure validator. No async, no clock, no I/O.
//!
//! Bytes from a peer, a lookup or the disk become a [`ValidBundle`] through [`validate`] and nothing else; a
//! [`VerifiedBinding`] comes only from a `ValidBundle`. Making records is in `draft`, judging in `validator`.

mod address;
mod bundle;
mod card;
mod charter;
mod draft;
mod hello;
mod keys;
mod sequence;
mod shapes;
mod validator;

pub use bundle::{State, ValidBundle};
pub use card::{CARD_PREFIX, CardDraft, MAX_CARD_BYTES, VerifiedCard, parse_card, sign_card, verify_card};
pub use charter::{BootstrapNode, Charter, MAX_CHARTER_BYTES, sign_charter, verify_charter};
pub use draft::{EntryDraft, UserHeader, sign_bundle, sign_owner_statement, sign_revocation};
pub use hello::{VerifiedPeerUser, verify_hello_user};
pub use keys::{RecordKey, door_key, replica_keys};
pub use sequence::next_sequence;
pub use validator::validate;

use crate::clock::UnixMillis;
use crate::identity::NodeKey;
use crate::uri::IdHash;
use crate::wire::{AddressScope, OverlayId};

/// Hard limit of a bundle on the wire, bytes.
pub const MAX_BUNDLE_BYTES: usize = 12 * 1024;

/// By whose rules and clock bytes are judged.
#[derive(Clone, Copy, Debug)]
pub struct Judge {
    pub overlay: OverlayId,
    pub scope: AddressScope,
    pub now: UnixMillis,
}

/// Why bytes were refused. Counted per reason and per peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
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

/// The highest (rotation, epoch) seen of a user; lower ones are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin {
    pub rotation: u32,
    pub epoch: u32,
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

#[cfg(test)]
mod tests;
