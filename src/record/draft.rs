//! Making records: entries signed by a device, statements signed by a user's root or recovery key.

use super::keys::door_key;
use crate::clock::UnixMillis;
use crate::identity::{CertificateBytes, NodeSecret, UserIdentity};
use crate::uri::IdHash;
use crate::wire::signature::NONE;
use crate::wire::{Domain, OverlayId, pb, sign};
use ed25519_dalek::SigningKey;
use prost::Message;
use prost::bytes::Bytes;

/// What a device wants to say about itself.
#[derive(Clone, Debug)]
pub struct EntryDraft {
    pub epoch: u32,
    pub sequence: u64,
    pub issued_at: UnixMillis,
    /// 60 to 10,800 s after `issued_at`.
    pub expires_at: UnixMillis,
    pub tombstone: bool,
    /// 0..=1000.
    pub priority: u32,
    /// At most 8 binary multiaddrs without `/p2p`; empty = reached by peer id.
    pub addresses: Vec<Vec<u8>>,
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

impl UserHeader {
    /// Whose header it is.
    pub fn id(&self) -> IdHash {
        IdHash::of_inception(&self.inception)
    }

    /// A bundle of this header and nothing else, to be filled.
    pub(crate) fn bundle(&self) -> pb::Bundle {
        pb::Bundle {
            inception: Bytes::copy_from_slice(&self.inception),
            rotations: self.rotations.iter().map(|r| Bytes::copy_from_slice(r)).collect(),
            ..Default::default()
        }
    }
}

/// Signs an entry with the device's key and wraps it with the user's header as a one-entry bundle's bytes.
pub fn sign_bundle(
    user: &UserHeader,
    certificate: &CertificateBytes,
    device: &NodeSecret,
    overlay: &OverlayId,
    draft: &EntryDraft,
) -> Vec<u8> {
    let id = user.id();
    let body = pb::Body {
        priority: draft.priority,
        addresses: draft.addresses.iter().map(|a| Bytes::copy_from_slice(a)).collect(),
        ..Default::default()
    };
    let envelope = pb::Envelope {
        idhash: Bytes::copy_from_slice(&id.0),
        rotation: user.rotations.len() as u32,
        epoch: draft.epoch,
        sequence: draft.sequence,
        issued_at: draft.issued_at.seconds(),
        expires_at: draft.expires_at.seconds(),
        state: if draft.tombstone { 4 } else { 1 },
        body: body.encode_to_vec().into(),
        ver: 0,
    };
    let envelope = envelope.encode_to_vec();
    let signature = sign(&device.signing_key(), Domain::Location, Some(overlay), &door_key(overlay, &id), &envelope);
    let entry = pb::SignedEntry {
        envelope: envelope.into(),
        certificate: Bytes::copy_from_slice(&certificate.0),
        signature: Bytes::copy_from_slice(&signature),
    };
    let mut bundle = user.bundle();
    bundle.entries.push(entry.encode_to_vec().into());
    bundle.encode_to_vec()
}

/// The user's word on its devices: nothing below `min_epoch`, none of `revoked_serials` (at most 16). As a bundle of
/// header and statement.
pub fn sign_owner_statement(
    user: &UserIdentity,
    overlay: &OverlayId,
    min_epoch: u32,
    revoked_serials: &[u64],
    sequence: u64,
    valid_until: UnixMillis,
) -> Vec<u8> {
    let payload = pb::OwnerStatement {
        idhash: Bytes::copy_from_slice(&user.id.0),
        rotation: user.rotations.len() as u32,
        min_epoch,
        revoked_serials: revoked_serials.to_vec(),
        sequence,
        valid_until: valid_until.seconds(),
    }
    .encode_to_vec();
    let signature = sign(&user.root_key(), Domain::Owner, Some(overlay), &NONE, &payload);
    let mut bundle = UserHeader::from(user).bundle();
    bundle.owner = signed(payload, signature).into();
    bundle.encode_to_vec()
}

/// Gives the identity up, by its current recovery key. As a bundle of header and revocation.
pub fn sign_revocation(user: &UserHeader, recovery: &SigningKey, issued_at: UnixMillis) -> Vec<u8> {
    let payload = pb::Revocation {
        idhash: Bytes::copy_from_slice(&user.id().0),
        issued_at: issued_at.seconds(),
        recovery_key: Bytes::copy_from_slice(recovery.verifying_key().as_bytes()),
    }
    .encode_to_vec();
    let signature = sign(recovery, Domain::Revocation, None, &NONE, &payload);
    let mut bundle = user.bundle();
    bundle.revocation = signed(payload, signature).into();
    bundle.encode_to_vec()
}

/// `Signed{payload, signature}` bytes.
pub(crate) fn signed(payload: Vec<u8>, signature: [u8; 64]) -> Vec<u8> {
    pb::Signed { payload: payload.into(), signature: Bytes::copy_from_slice(&signature) }.encode_to_vec()
}
