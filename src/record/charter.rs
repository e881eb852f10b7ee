//! Charter updates: what may change in an overlay after its genesis, signed by enough of its authorities.

use super::validator::{CLOCK_SLACK, read};
use super::{Judge, RejectReason, address, shapes};
use crate::clock::UnixMillis;
use crate::identity::NodeKey;
use crate::wire::signature::{NONE, usable};
use crate::wire::{Domain, Genesis, OverlayId, pb, sign, verify};
use ed25519_dalek::SigningKey;
use prost::Message;
use prost::bytes::Bytes;

/// Hard limit of a signed charter update, bytes.
pub const MAX_CHARTER_BYTES: usize = 16 * 1024;

/// A node to join through, with its key: whoever answers at the address must have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootstrapNode {
    pub node: NodeKey,
    /// Multiaddrs in binary form, without `/p2p`.
    pub addresses: Vec<Vec<u8>>,
}

/// What an overlay's authorities say now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charter {
    /// Grows with each update.
    pub sequence: u64,
    /// At most 32.
    pub bootstrap: Vec<BootstrapNode>,
    /// Bytes; 0 for the limit of the specification.
    pub max_bundle_bytes: u32,
    /// Seconds; 0 for the limit of the specification.
    pub max_ttl: u32,
    /// Keys of directories that the authorities vouch for, at most 8.
    pub directories: Vec<[u8; 32]>,
    pub min_version: u32,
    pub valid_until: UnixMillis,
}

/// Signs a charter update with the authorities at hand: `(index in the genesis, key)`, as many as the threshold.
pub fn sign_charter(charter: &Charter, overlay: &OverlayId, authorities: &[(u32, &SigningKey)]) -> Vec<u8> {
    let payload = pb::CharterUpdate {
        sequence: charter.sequence,
        bootstrap: charter
            .bootstrap
            .iter()
            .map(|b| pb::BootstrapNode {
                node_key: Bytes::copy_from_slice(&b.node.0),
                addresses: b.addresses.iter().map(|a| Bytes::copy_from_slice(a)).collect(),
            })
            .collect(),
        max_bundle_bytes: charter.max_bundle_bytes,
        max_ttl: charter.max_ttl,
        directories: charter.directories.iter().map(|d| Bytes::copy_from_slice(d)).collect(),
        min_version: charter.min_version,
        valid_until: charter.valid_until.seconds(),
        overlay_id: Bytes::copy_from_slice(&overlay.0),
    }
    .encode_to_vec();
    let mut signatures: Vec<pb::CharterSignature> = authorities
        .iter()
        .map(|(authority, key)| {
            let signature = sign(key, Domain::Charter, Some(overlay), &NONE, &payload);
            pb::CharterSignature { authority: *authority, signature: Bytes::copy_from_slice(&signature) }
        })
        .collect();
    signatures.sort_by_key(|s| s.authority);
    pb::SignedCharter { payload: payload.into(), signatures }.encode_to_vec()
}

/// Judges a charter update of the overlay that `genesis` founds. `held` is the sequence of the one in force.
///
/// # Errors
/// The first reason met: `WrongOverlay` when it names another overlay, `NotCertified` when fewer than the threshold
/// signed, `Stale` when it is not newer than the one held.
pub fn verify_charter(
    bytes: &[u8],
    genesis: &Genesis,
    judge: &Judge,
    held: Option<u64>,
) -> Result<Charter, RejectReason> {
    if bytes.len() > MAX_CHARTER_BYTES {
        return Err(RejectReason::TooLarge);
    }
    let signed: pb::SignedCharter = read(&Bytes::copy_from_slice(bytes), &shapes::SIGNED_CHARTER)?;
    let update: pb::CharterUpdate = read(&signed.payload, &shapes::CHARTER)?;
    let overlay = genesis.id();
    if update.overlay_id.len() != overlay.0.len() {
        return Err(RejectReason::Malformed);
    }
    if update.overlay_id[..] != overlay.0 || overlay != judge.overlay {
        return Err(RejectReason::WrongOverlay);
    }
    if update.valid_until <= judge.now.seconds() {
        return Err(RejectReason::Expired);
    }
    if update.sequence > judge.now.0.saturating_add(CLOCK_SLACK * 1_000) {
        return Err(RejectReason::TooFarAhead);
    }
    if held.is_some_and(|held| update.sequence <= held) {
        return Err(RejectReason::Stale);
    }
    let charter = charter_of(&update, judge)?;
    let ascending = signed.signatures.is_sorted_by(|a, b| a.authority < b.authority);
    let keys: Option<Vec<&[u8; 32]>> =
        signed.signatures.iter().map(|s| genesis.authority_keys.get(usize::try_from(s.authority).ok()?)).collect();
    let keys = keys.filter(|_| ascending).ok_or(RejectReason::Malformed)?;
    // An overlay without authorities has no charter: nobody can speak for it.
    if genesis.threshold == 0 || usize::try_from(genesis.threshold).is_ok_and(|t| keys.len() < t) {
        return Err(RejectReason::NotCertified);
    }
    for (key, signature) in keys.into_iter().zip(&signed.signatures) {
        verify(key, Domain::Charter, Some(&overlay), &NONE, &signed.payload, &signature.signature)?;
    }
    Ok(charter)
}

fn charter_of(update: &pb::CharterUpdate, judge: &Judge) -> Result<Charter, RejectReason> {
    let key = |bytes: &Bytes| <[u8; 32]>::try_from(&bytes[..]).map_err(|_| RejectReason::Malformed);
    let mut bootstrap = Vec::with_capacity(update.bootstrap.len());
    for node in &update.bootstrap {
        let node_key = key(&node.node_key)?;
        usable(&node_key)?;
        if !node.addresses.iter().all(|a| address::acceptable(a, judge.scope)) {
            return Err(RejectReason::AddressPolicy);
        }
        let addresses = node.addresses.iter().map(|a| a.to_vec()).collect();
        bootstrap.push(BootstrapNode { node: NodeKey(node_key), addresses });
    }
    Ok(Charter {
        sequence: update.sequence,
        bootstrap,
        max_bundle_bytes: update.max_bundle_bytes,
        max_ttl: update.max_ttl,
        directories: update.directories.iter().map(key).collect::<Result<_, _>>()?,
        min_version: update.min_version,
        valid_until: UnixMillis::from_seconds(update.valid_until),
    })
}
