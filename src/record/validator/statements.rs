//! Judging what heads a bundle: the rotation chain, the owner statement and the revocation.

use super::super::bundle::{Chain, Owner, Revoked, ValidBundle};
use super::super::{Judge, RejectReason, shapes};
use super::{CLOCK_SLACK, read};
use crate::identity::recovery_commitment;
use crate::uri::IdHash;
use crate::wire::signature::{NONE, usable};
use crate::wire::{Domain, pb, verify};
use prost::bytes::Bytes;

/// An owner statement says what holds for at most so long, seconds.
const OWNER_LIFE: u64 = 366 * 86_400;

pub(in super::super) fn judge_chain(
    inception: [u8; 65],
    rotations: Vec<Bytes>,
    id: &IdHash,
) -> Result<Chain, RejectReason> {
    let mut chain = Chain { inception, rotations, root: [0; 32], recovery_hash: [0; 32] };
    chain.root.copy_from_slice(&inception[1..33]);
    chain.recovery_hash.copy_from_slice(&inception[33..]);
    usable(&chain.root)?;
    for (bytes, n) in chain.rotations.iter().zip(1u32..) {
        let signed: pb::Signed = read(bytes, &shapes::SIGNED)?;
        let rotation: pb::Rotation = read(&signed.payload, &shapes::ROTATION)?;
        let root = key(&rotation.new_root_key)?;
        let recovery_hash = key(&rotation.new_recovery_hash)?;
        let recovery = key(&rotation.recovery_key)?;
        if rotation.idhash[..] != id.0 || rotation.n != n {
            return Err(RejectReason::Malformed);
        }
        if recovery_commitment(&recovery) != chain.recovery_hash {
            return Err(RejectReason::BadSignature);
        }
        usable(&root)?;
        verify(&recovery, Domain::Rotation, None, &NONE, &signed.payload, &signed.signature)?;
        (chain.root, chain.recovery_hash) = (root, recovery_hash);
    }
    Ok(chain)
}

fn key(bytes: &Bytes) -> Result<[u8; 32], RejectReason> {
    bytes[..].try_into().map_err(|_| RejectReason::Malformed)
}

/// `None` when its year is over.
pub(super) fn judge_revocation(
    bytes: &Bytes,
    chain: &Chain,
    id: &IdHash,
    judge: &Judge,
    held: Option<&ValidBundle>,
) -> Result<Option<Revoked>, RejectReason> {
    let signed: pb::Signed = read(bytes, &shapes::SIGNED)?;
    let revocation: pb::Revocation = read(&signed.payload, &shapes::REVOCATION)?;
    let recovery = key(&revocation.recovery_key)?;
    if revocation.idhash[..] != id.0 {
        return Err(RejectReason::Malformed);
    }
    if recovery_commitment(&recovery) != chain.recovery_hash {
        return Err(RejectReason::BadSignature);
    }
    if revocation.issued_at > judge.now.seconds().saturating_add(CLOCK_SLACK) {
        return Err(RejectReason::NotYetValid);
    }
    let revoked = Revoked { bytes: bytes.clone(), issued_at: revocation.issued_at };
    if revoked.ends() <= judge.now.seconds() {
        return Ok(None);
    }
    if held.and_then(|h| h.revocation.as_ref()).is_none_or(|ours| ours.bytes != *bytes) {
        verify(&recovery, Domain::Revocation, None, &NONE, &signed.payload, &signed.signature)?;
    }
    Ok(Some(revoked))
}

/// `None` when it is over, or of an earlier rotation.
pub(super) fn judge_owner(
    bytes: &Bytes,
    chain: &Chain,
    id: &IdHash,
    judge: &Judge,
    held: Option<&ValidBundle>,
) -> Result<Option<Owner>, RejectReason> {
    let signed: pb::Signed = read(bytes, &shapes::SIGNED)?;
    let owner: pb::OwnerStatement = read(&signed.payload, &shapes::OWNER)?;
    if owner.idhash[..] != id.0 || owner.rotation > chain.rotation() {
        return Err(RejectReason::Malformed);
    }
    let now = judge.now.seconds();
    if owner.rotation < chain.rotation() || owner.valid_until <= now {
        return Ok(None);
    }
    let most = judge.now.0.saturating_add(CLOCK_SLACK * 1_000);
    if owner.sequence > most || owner.valid_until > now.saturating_add(OWNER_LIFE) {
        return Err(RejectReason::TooFarAhead);
    }
    if held.and_then(|h| h.owner.as_ref()).is_none_or(|ours| ours.bytes != *bytes) {
        verify(&chain.root, Domain::Owner, Some(&judge.overlay), &NONE, &signed.payload, &signed.signature)?;
    }
    Ok(Some(Owner {
        bytes: bytes.clone(),
        min_epoch: owner.min_epoch,
        revoked_serials: owner.revoked_serials,
        sequence: owner.sequence,
        valid_until: owner.valid_until,
    }))
}
