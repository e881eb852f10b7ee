//! What a node does for everybody, and where that is said: lists that many owners share, each of whom controls only its own
//! signed entry (SECURITY §3.10). The entries of a service are dealt to [`SHARDS`] keys by the owner's position, so no node
//! keeps all of them, and nobody fills more than one list.

use super::MAX_CARD_ADDRESSES;
use super::card::{ADDRESS, network_of, of_pb, to_pb};
use super::network::Network;
use super::position::Position;
use crate::clock::UnixMillis;
use crate::identity::{NodeKey, NodeSecret};
use crate::reachability::Address;
use crate::record::RecordKey;
use crate::wire::scanner::{Field, Kind, Shape, scan};
use crate::wire::signature::{self, Domain};
use crate::wire::{AddressScope, OverlayId, is_global, pb};
use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

/// Lists of one service.
pub const SHARDS: u8 = 16;

/// A signed entry at most, bytes.
pub const MAX_ENTRY_BYTES: usize = 320;

/// An entry is good for so long, milliseconds, and no longer: who is gone is off the lists within the hour.
pub const ENTRY_LIFE_MS: u64 = 3_600_000;

/// Entries from later than this are refused.
const MAX_AHEAD_MS: u64 = 300_000;

static PAYLOAD: Shape = Shape {
    fields: &[
        Field { number: 1, kind: Kind::Bytes { min: 32, max: 32 }, at_most: 1 },
        Field { number: 2, kind: Kind::Bytes { min: 1, max: 16 }, at_most: 1 },
        Field { number: 3, kind: Kind::Message { max: 32, shape: &ADDRESS }, at_most: MAX_CARD_ADDRESSES },
        Field { number: 4, kind: Kind::U64, at_most: 1 },
        Field { number: 5, kind: Kind::U64, at_most: 1 },
        Field { number: 6, kind: Kind::U32, at_most: 1 },
    ],
    unknown_allowed: true,
};

static SIGNED: Shape = Shape {
    fields: &[
        Field { number: 1, kind: Kind::Bytes { min: 1, max: 250 }, at_most: 1 },
        Field { number: 2, kind: Kind::Bytes { min: 64, max: 64 }, at_most: 1 },
    ],
    unknown_allowed: false,
};

/// Services that are listed. Others are not kept: nobody here could look for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// Circuits, ports for media, or both.
    Relay,
}

impl Service {
    fn name(self) -> &'static [u8] {
        match self {
            Service::Relay => b"relay",
        }
    }

    fn of_name(name: &[u8]) -> Option<Self> {
        (name == Service::Relay.name()).then_some(Service::Relay)
    }

    /// The key of one list: `H("peerline-svc-1" || overlay_id || u8 length || name || u8 shard)`.
    pub fn list(self, overlay: &OverlayId, shard: u8) -> RecordKey {
        let name = self.name();
        let hash = Sha256::new()
            .chain_update(b"peerline-svc-1")
            .chain_update(overlay.0)
            .chain_update([u8::try_from(name.len()).unwrap_or(u8::MAX)])
            .chain_update(name)
            .chain_update([shard]);
        RecordKey(hash.finalize().into())
    }

    /// On which list a node belongs: the low bits of its position.
    pub fn list_of(self, overlay: &OverlayId, node: &NodeKey) -> RecordKey {
        self.list(overlay, Position::of_node(node).0[31] % SHARDS)
    }
}

/// What a relay gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// It passes connections on.
    pub circuits: bool,
    /// It gives ports for media.
    pub media: bool,
}

impl Offers {
    /// Whether it gives anything.
    pub fn any(self) -> bool {
        self.circuits || self.media
    }

    fn bits(self) -> u32 {
        u32::from(self.circuits) | u32::from(self.media) << 1
    }

    fn of_bits(bits: u32) -> Self {
        Self { circuits: bits & 1 != 0, media: bits & 2 != 0 }
    }
}

/// One owner's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    pub node: NodeKey,
    pub service: Service,
    /// At least one, best first. Claimed until they were dialled.
    pub addresses: Vec<Address>,
    pub issued_at: UnixMillis,
    pub expires_at: UnixMillis,
    pub offers: Offers,
    /// The bytes that travel.
    pub signed: Bytes,
}

/// Why bytes are no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("malformed entry")]
    Malformed,
    #[error("an entry of a service that is not listed here")]
    UnknownService,
    #[error("an entry without an address that may be dialled")]
    NoAddress,
    #[error("an entry from the future, or for too long")]
    TooFarAhead,
    #[error("an expired entry")]
    Expired,
    #[error("an entry on another's list")]
    WrongList,
    #[error("an entry that its node did not sign")]
    BadSignature,
}

impl ServiceEntry {
    /// This node's own, good for an hour; `None` without an address.
    pub fn sign(
        secret: &NodeSecret,
        overlay: &OverlayId,
        service: Service,
        offers: Offers,
        addresses: &[Address],
        now: UnixMillis,
    ) -> Option<Self> {
        let addresses = addresses.get(..addresses.len().min(MAX_CARD_ADDRESSES)).filter(|all| !all.is_empty())?;
        let node = secret.public();
        let expires_at = UnixMillis(now.0 + ENTRY_LIFE_MS);
        let payload = pb::ServiceEntry {
            node_key: Bytes::copy_from_slice(&node.0),
            service: Bytes::from_static(service.name()),
            addresses: addresses.iter().map(to_pb).collect(),
            issued_at: now.0,
            expires_at: expires_at.0,
            offers: offers.bits(),
        }
        .encode_to_vec();
        let list = service.list_of(overlay, &node);
        let key = secret.signing_key();
        let signature = signature::sign(&key, Domain::Service, Some(overlay), &list.0, &payload).to_vec();
        let signed = pb::Signed { payload: payload.into(), signature: signature.into() }.encode_to_vec().into();
        let addresses = addresses.to_vec();
        Some(Self { node, service, addresses, issued_at: now, expires_at, offers, signed })
    }

    /// Reads an entry of the list `key`; its signature is looked at by [`ServiceEntry::verify`]. Addresses outside of the
    /// overlay's scope are left out.
    ///
    /// # Errors
    /// Everything of [`EntryError`] but `BadSignature`.
    pub fn read(
        signed: &Bytes,
        key: &RecordKey,
        overlay: &OverlayId,
        scope: AddressScope,
        now: UnixMillis,
    ) -> Result<Self, EntryError> {
        const WRONG: EntryError = EntryError::Malformed;
        if signed.len() > MAX_ENTRY_BYTES {
            return Err(WRONG);
        }
        scan(signed, &SIGNED).map_err(|_| WRONG)?;
        let wrapper = pb::Signed::decode(signed.clone()).map_err(|_| WRONG)?;
        scan(&wrapper.payload, &PAYLOAD).map_err(|_| WRONG)?;
        let payload = pb::ServiceEntry::decode(wrapper.payload).map_err(|_| WRONG)?;
        let node = NodeKey(payload.node_key[..].try_into().map_err(|_| WRONG)?);
        let service = Service::of_name(&payload.service).ok_or(EntryError::UnknownService)?;
        if service.list_of(overlay, &node) != *key {
            return Err(EntryError::WrongList);
        }
        let most = now.0.saturating_add(MAX_AHEAD_MS);
        let life = payload.expires_at.checked_sub(payload.issued_at);
        if payload.issued_at > most || life.is_none_or(|life| life > ENTRY_LIFE_MS) {
            return Err(EntryError::TooFarAhead);
        }
        if payload.expires_at <= now.0 {
            return Err(EntryError::Expired);
        }
        let allowed = |address: &Address| scope == AddressScope::Any || is_global(address.ip);
        let addresses: Vec<Address> = payload.addresses.iter().filter_map(of_pb).filter(allowed).collect();
        if addresses.is_empty() {
            return Err(EntryError::NoAddress);
        }
        Ok(Self {
            node,
            service,
            addresses,
            issued_at: UnixMillis(payload.issued_at),
            expires_at: UnixMillis(payload.expires_at),
            offers: Offers::of_bits(payload.offers),
            // A copy: the bytes are part of a message, which would stay as long as the entry.
            signed: Bytes::copy_from_slice(signed),
        })
    }

    /// Whether the node signed it: one Ed25519 verification.
    ///
    /// # Errors
    /// `BadSignature`.
    pub fn verify(&self, overlay: &OverlayId) -> Result<(), EntryError> {
        let wrapper = pb::Signed::decode(self.signed.clone()).map_err(|_| EntryError::Malformed)?;
        let list = self.service.list_of(overlay, &self.node);
        signature::verify(&self.node.0, Domain::Service, Some(overlay), &list.0, &wrapper.payload, &wrapper.signature)
            .map_err(|_| EntryError::BadSignature)
    }

    /// The network that it claims to be in, by the first global IPv4 address, or the first.
    pub fn network(&self) -> Option<Network> {
        network_of(&self.addresses)
    }
}
