//! The one judge of stored bytes: same function at store, at retrieve and on load from disk.
//!
//! Cheap before expensive: size, shape, whose key, times, sequence against what is held, certificates, signatures.
//! What is *forged or malformed* refuses the whole bundle. What is merely *over* or *not yet* (expired, stale, too far
//! ahead) is left out of it, so that one device with a wrong clock cannot hold the user's other devices hostage; when
//! nothing is left, that reason is the answer. What is left out is not verified and never part of the result.

mod entries;
mod statements;

pub(super) use entries::{RIGHT_CALL, RIGHT_PUBLISH, certificate_of, verify_certificate};
pub(super) use statements::judge_chain;

use super::bundle::ValidBundle;
use super::keys::{RecordKey, replica_keys};
use super::shapes::{self, MAX_SLOTS};
use super::{Judge, MAX_BUNDLE_BYTES, RejectReason};
use crate::uri::{IdHash, VER_ALG};
use crate::wire::scanner::Shape;
use crate::wire::signature::SignatureError;
use crate::wire::{pb, scan};
use prost::Message;
use prost::bytes::Bytes;
use std::collections::BTreeMap;

/// How far a clock may be off, seconds.
pub(super) const CLOCK_SLACK: u64 = 300;

impl From<SignatureError> for RejectReason {
    fn from(error: SignatureError) -> Self {
        match error {
            SignatureError::WeakKey => RejectReason::WeakKey,
            SignatureError::Bad => RejectReason::BadSignature,
        }
    }
}

/// Scans strictly, then decodes.
pub(super) fn read<M: Message + Default>(bytes: &Bytes, shape: &Shape) -> Result<M, RejectReason> {
    scan(bytes, shape).map_err(|_| RejectReason::Malformed)?;
    M::decode(bytes.clone()).map_err(|_| RejectReason::Malformed)
}

/// Judges a bundle found under `key`. `held` is what this judge (same overlay) holds already: the result is merged with
/// it, bytes that it holds are not verified again, and what of it is over by now takes no slot.
///
/// # Errors
/// The first reason met, cheap checks before expensive ones; `Stale` when it holds nothing that is not held fresher.
pub fn validate(
    bytes: &[u8],
    key: &RecordKey,
    judge: &Judge,
    held: Option<&ValidBundle>,
) -> Result<ValidBundle, RejectReason> {
    if bytes.len() > MAX_BUNDLE_BYTES {
        return Err(RejectReason::TooLarge);
    }
    let bundle: pb::Bundle = read(&Bytes::copy_from_slice(bytes), &shapes::BUNDLE)?;
    let inception = inception_of(&bundle.inception)?;
    let id = IdHash::of_inception(&inception);
    if !replica_keys(&judge.overlay, &id).contains(key) {
        return Err(RejectReason::WrongKey);
    }
    let held = held.filter(|h| h.id == id);
    let new = judge_bundle(bundle, inception, judge, held)?;
    match held {
        Some(held) => join_with_held(new, held, judge),
        None => Ok(new),
    }
}

pub(super) fn inception_of(bytes: &Bytes) -> Result<[u8; 65], RejectReason> {
    if bytes.first().is_some_and(|ver_alg| *ver_alg != VER_ALG) {
        return Err(RejectReason::Unsupported);
    }
    bytes[..].try_into().map_err(|_| RejectReason::Malformed)
}

/// Everything after size, shape and key. Never returns an empty bundle.
pub(super) fn judge_bundle(
    bundle: pb::Bundle,
    inception: [u8; 65],
    judge: &Judge,
    held: Option<&ValidBundle>,
) -> Result<ValidBundle, RejectReason> {
    let id = IdHash::of_inception(&inception);
    let rotation = u32::try_from(bundle.rotations.len()).map_err(|_| RejectReason::Malformed)?;
    let (sifted, mut over) = entries::sift(&bundle.entries, rotation, &id, judge, held)?;
    let chain = match held {
        Some(h) if h.chain.rotations == bundle.rotations => h.chain.clone(),
        _ => judge_chain(inception, bundle.rotations, &id)?,
    };
    let held = held.filter(|h| h.chain.same(&chain));
    let revocation = match &bundle.revocation {
        bytes if bytes.is_empty() => None,
        bytes => statements::judge_revocation(bytes, &chain, &id, judge, held)?,
    };
    let owner = match &bundle.owner {
        bytes if bytes.is_empty() => None,
        bytes => statements::judge_owner(bytes, &chain, &id, judge, held)?,
    };
    let mut new = ValidBundle { id, chain, owner, revocation, entries: BTreeMap::new() };
    for sifted in sifted {
        let entry = entries::prove(sifted, &new, judge, held)?;
        new.entries.insert(entry.device, entry);
    }
    if !new.entries.is_empty() {
        over = over.or(Some(RejectReason::Revoked));
    }
    new.settle();
    if new.is_empty() {
        return Err(over.unwrap_or(RejectReason::Expired));
    }
    Ok(new)
}

/// What only the held bundle can tell: nothing new in it, an owner who said otherwise since, no slot left.
fn join_with_held(mut new: ValidBundle, held: &ValidBundle, judge: &Judge) -> Result<ValidBundle, RejectReason> {
    let same_chain = new.chain.same(&held.chain);
    let forbidden = |new: &ValidBundle, held: &ValidBundle| {
        held.owner.as_ref().is_some_and(|o| new.entries.values().any(|e| o.forbids(e)))
    };
    // Below the pin: refused although the entries that set it may be over by now.
    let pinned = held.pin().epoch;
    if same_chain && new.entries.values().any(|e| e.epoch < pinned) {
        let reason = if forbidden(&new, held) { RejectReason::Revoked } else { RejectReason::Stale };
        new.entries.retain(|_, e| e.epoch >= pinned);
        if new.is_empty() {
            return Err(if held.revocation.is_some() { RejectReason::Revoked } else { reason });
        }
    }
    let live = held.live(judge.now);
    if same_chain && live.slots_with(&new) > MAX_SLOTS {
        return Err(RejectReason::SlotsFull);
    }
    let merged = live.merge(&new);
    if merged != live {
        return Ok(merged);
    }
    if live.revocation.is_some() && new.revocation.is_none() {
        return Err(RejectReason::Revoked);
    }
    if !same_chain {
        return Err(RejectReason::Stale);
    }
    if forbidden(&new, &live) {
        return Err(RejectReason::Revoked);
    }
    let other = |new: Option<&Bytes>, ours: Option<&Bytes>| new.is_some() && new != ours;
    if other(new.owner.as_ref().map(|o| &o.bytes), live.owner.as_ref().map(|o| &o.bytes))
        || other(new.revocation.as_ref().map(|r| &r.bytes), live.revocation.as_ref().map(|r| &r.bytes))
    {
        return Err(RejectReason::Stale);
    }
    for (device, entry) in &new.entries {
        match live.entries.get(device) {
            Some(ours) if ours.envelope_hash == entry.envelope_hash => {}
            Some(ours) if ours.sequence == entry.sequence => return Err(RejectReason::Equivocation),
            _ => return Err(RejectReason::Stale),
        }
    }
    Ok(merged)
}
