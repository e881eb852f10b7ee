//! The one judge of stored bytes: same function at store, at retrieve and on load from disk.
//!
//! Cheap before expensive: size, shape, whose key, times, sequence against what is held, certificates, signatures.
//! What is *forged or malformed* refuses the whole bundle. What is merely *over* (expired, stale, not certified any
//! more) is left out of it, so that one device with a wrong clock cannot hold the user's other devices hostage; when
//! nothing is left, that reason is the answer.

use super::bundle::{Chain, Entry, Owner, Revoked, State, ValidBundle};
use super::keys::{RecordKey, door_key, replica_keys};
use super::shapes::{self, MAX_SLOTS};
use super::{Judge, MAX_BUNDLE_BYTES, RejectReason, address};
use crate::identity::NodeKey;
use crate::uri::{IdHash, VER_ALG};
use crate::wire::scanner::Shape;
use crate::wire::signature::{NONE, SignatureError, usable};
use crate::wire::{Domain, pb, scan, verify};
use prost::Message;
use prost::bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// How far a clock may be off, seconds.
pub(super) const CLOCK_SLACK: u64 = 300;
/// Life of an entry, seconds.
const ENTRY_LIFE: std::ops::RangeInclusive<u64> = 60..=10_800;
/// Life of a certificate, seconds: 90 days, and the hour that `not_before` lies back.
const CERTIFICATE_LIFE: u64 = 90 * 86_400 + 3_600;
/// Life of an owner statement, seconds.
const OWNER_LIFE: u64 = 366 * 86_400;
/// A revocation is kept, seconds.
const REVOCATION_LIFE: u64 = 365 * 86_400;

pub(super) const RIGHT_PUBLISH: u32 = 1;
pub(super) const RIGHT_CALL: u32 = 2;
pub(super) const RIGHT_TOMBSTONE: u32 = 4;

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

/// Judges a bundle found under `key`. `held` is what this judge holds already: the result is merged with it, and bytes
/// that it holds are not verified again.
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
    let inception = inception_of(&bundle)?;
    let id = IdHash::of_inception(&inception);
    if !replica_keys(&judge.overlay, &id).contains(key) {
        return Err(RejectReason::WrongKey);
    }
    let held = held.filter(|h| h.id == id);
    let new = judge_bundle(bundle, inception, judge, held)?;
    Ok(match held {
        Some(held) => held.merge(&new),
        None => new,
    })
}

pub(super) fn inception_of(bundle: &pb::Bundle) -> Result<[u8; 65], RejectReason> {
    let inception: [u8; 65] = bundle.inception[..].try_into().map_err(|_| RejectReason::Malformed)?;
    if inception[0] == VER_ALG { Ok(inception) } else { Err(RejectReason::Unsupported) }
}

/// Everything after size, shape and key. Never returns an empty bundle.
pub(super) fn judge_bundle(
    bundle: pb::Bundle,
    inception: [u8; 65],
    judge: &Judge,
    held: Option<&ValidBundle>,
) -> Result<ValidBundle, RejectReason> {
    let id = IdHash::of_inception(&inception);
    let (envelopes, mut over) = sift(&bundle, &id, judge, held)?;
    let chain = match held {
        Some(h) if h.chain.rotations == bundle.rotations => h.chain.clone(),
        _ => judge_chain(inception, bundle.rotations, &id)?,
    };
    let revocation = match &bundle.revocation {
        bytes if bytes.is_empty() => None,
        bytes => judge_revocation(bytes, &chain, &id, judge)?,
    };
    let owner = match &bundle.owner {
        bytes if bytes.is_empty() => None,
        bytes => judge_owner(bytes, &chain, &id, judge)?,
    };
    let mut new = ValidBundle { id, chain, owner, revocation, entries: BTreeMap::new() };
    for sifted in envelopes {
        match judge_entry(sifted, &new, judge, held)? {
            Ok(entry) => drop(new.entries.insert(entry.device, entry)),
            Err(reason) => over = over.or(Some(reason)),
        }
    }
    let had_entries = !new.entries.is_empty();
    new.settle();
    if new.entries.is_empty() && new.owner.is_none() && new.revocation.is_none() {
        let emptied = had_entries.then_some(RejectReason::Revoked);
        return Err(over.or(emptied).unwrap_or(RejectReason::Expired));
    }
    if let Some(held) = held {
        refuse_by_held(&new, held, over)?;
    }
    Ok(new)
}

/// What only the held bundle can tell: nothing new in it, an owner who said otherwise since, no slot left.
fn refuse_by_held(new: &ValidBundle, held: &ValidBundle, over: Option<RejectReason>) -> Result<(), RejectReason> {
    let merged = held.merge(new);
    if merged != *held {
        let crowded = new.entries.keys().any(|d| !held.entries.contains_key(d))
            && held.entries.len() + new.entries.keys().filter(|d| !held.entries.contains_key(*d)).count() > MAX_SLOTS;
        return if crowded && held.chain.same(&new.chain) { Err(RejectReason::SlotsFull) } else { Ok(()) };
    }
    if let Some(reason) = over {
        return Err(reason);
    }
    if held.revocation.is_some() && new.revocation.is_none() {
        return Err(RejectReason::Revoked);
    }
    if held.owner.as_ref().is_some_and(|o| new.entries.values().any(|e| o.forbids(e))) {
        return Err(RejectReason::Revoked);
    }
    if !new.chain.same(&held.chain) {
        return Err(RejectReason::Stale);
    }
    for (device, entry) in &new.entries {
        match held.entries.get(device) {
            Some(ours) if ours.bytes == entry.bytes => {}
            Some(ours) if ours.sequence == entry.sequence && ours.envelope_hash != entry.envelope_hash => {
                return Err(RejectReason::Equivocation);
            }
            Some(ours) if ours.sequence == entry.sequence => {}
            _ => return Err(RejectReason::Stale),
        }
    }
    Ok(())
}

/// An entry whose shape is right and whose time has come and is not over; not yet verified.
struct Sifted {
    bytes: Bytes,
    signed: pb::SignedEntry,
    certificate: pb::Signed,
    certified: pb::DeviceCertificate,
    device: NodeKey,
    envelope: pb::Envelope,
    body: pb::Body,
    state: State,
}

/// The cheap half of judging entries: no signature is touched.
fn sift(
    bundle: &pb::Bundle,
    id: &IdHash,
    judge: &Judge,
    held: Option<&ValidBundle>,
) -> Result<(Vec<Sifted>, Option<RejectReason>), RejectReason> {
    let (mut kept, mut over, mut last) = (Vec::with_capacity(bundle.entries.len()), None, None);
    for bytes in &bundle.entries {
        let signed: pb::SignedEntry = read(bytes, &shapes::SIGNED_ENTRY)?;
        let certificate: pb::Signed = read(&signed.certificate, &shapes::SIGNED)?;
        let certified: pb::DeviceCertificate = read(&certificate.payload, &shapes::CERTIFICATE)?;
        let envelope: pb::Envelope = read(&signed.envelope, &shapes::ENVELOPE)?;
        let device = NodeKey(certified.device_key[..].try_into().map_err(|_| RejectReason::Malformed)?);
        if last.is_some_and(|l| l >= device) || envelope.idhash[..] != id.0 || certified.idhash[..] != id.0 {
            return Err(RejectReason::Malformed);
        }
        last = Some(device);
        let state = match envelope.state {
            1 => State::Reachable,
            2 => State::Dnd,
            3 => State::Forward,
            4 => State::Tombstone,
            0 => return Err(RejectReason::Malformed),
            _ => State::Opaque,
        };
        let body: pb::Body =
            if state == State::Opaque { pb::Body::default() } else { read(&envelope.body, &shapes::BODY)? };
        if body.priority > 1_000 {
            return Err(RejectReason::Malformed);
        }
        if !body.addresses.iter().all(|a| address::acceptable(a, judge.scope)) {
            return Err(RejectReason::AddressPolicy);
        }
        match timely(&envelope, judge, held.and_then(|h| h.entries.get(&device))) {
            Ok(()) => {
                kept.push(Sifted {
                    bytes: bytes.clone(),
                    signed,
                    certificate,
                    certified,
                    device,
                    envelope,
                    body,
                    state,
                });
            }
            Err(RejectReason::Malformed) => return Err(RejectReason::Malformed),
            Err(reason) => over = over.or(Some(reason)),
        }
    }
    Ok((kept, over))
}

fn timely(envelope: &pb::Envelope, judge: &Judge, held: Option<&Entry>) -> Result<(), RejectReason> {
    let now = judge.now.seconds();
    let life = envelope.expires_at.checked_sub(envelope.issued_at).ok_or(RejectReason::Malformed)?;
    if !ENTRY_LIFE.contains(&life) {
        return Err(RejectReason::Malformed);
    }
    if envelope.sequence > judge.now.0.saturating_add(CLOCK_SLACK * 1_000) {
        return Err(RejectReason::TooFarAhead);
    }
    if envelope.issued_at > now + CLOCK_SLACK {
        return Err(RejectReason::NotYetValid);
    }
    if envelope.expires_at <= now {
        return Err(RejectReason::Expired);
    }
    match held {
        Some(held) if envelope.sequence < held.sequence => Err(RejectReason::Stale),
        _ => Ok(()),
    }
}

fn judge_chain(inception: [u8; 65], rotations: Vec<Bytes>, id: &IdHash) -> Result<Chain, RejectReason> {
    let mut chain = Chain { inception, rotations, root: [0; 32], recovery_hash: [0; 32] };
    chain.root.copy_from_slice(&inception[1..33]);
    chain.recovery_hash.copy_from_slice(&inception[33..]);
    usable(&chain.root)?;
    for (at, bytes) in chain.rotations.iter().enumerate() {
        let signed: pb::Signed = read(bytes, &shapes::SIGNED)?;
        let rotation: pb::Rotation = read(&signed.payload, &shapes::ROTATION)?;
        let fields = (|| {
            let root: [u8; 32] = rotation.new_root_key[..].try_into().ok()?;
            let hash: [u8; 32] = rotation.new_recovery_hash[..].try_into().ok()?;
            let key: [u8; 32] = rotation.recovery_key[..].try_into().ok()?;
            (rotation.idhash[..] == id.0 && rotation.n as usize == at + 1).then_some((root, hash, key))
        })();
        let (root, hash, key) = fields.ok_or(RejectReason::Malformed)?;
        if recovery_commitment(&key) != chain.recovery_hash {
            return Err(RejectReason::BadSignature);
        }
        usable(&root)?;
        verify(&key, Domain::Rotation, None, &NONE, &signed.payload, &signed.signature)?;
        chain.root = root;
        chain.recovery_hash = hash;
    }
    Ok(chain)
}

/// `H("peerline-recovery-pk-1" || recovery.pk)`.
pub(crate) fn recovery_commitment(key: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update(b"peerline-recovery-pk-1").chain_update(key).finalize().into()
}

/// `None` when its year is over.
fn judge_revocation(bytes: &Bytes, chain: &Chain, id: &IdHash, judge: &Judge) -> Result<Option<Revoked>, RejectReason> {
    let signed: pb::Signed = read(bytes, &shapes::SIGNED)?;
    let revocation: pb::Revocation = read(&signed.payload, &shapes::REVOCATION)?;
    let key: [u8; 32] = revocation.recovery_key[..].try_into().map_err(|_| RejectReason::Malformed)?;
    if revocation.idhash[..] != id.0 {
        return Err(RejectReason::Malformed);
    }
    if recovery_commitment(&key) != chain.recovery_hash {
        return Err(RejectReason::BadSignature);
    }
    if revocation.issued_at > judge.now.seconds() + CLOCK_SLACK {
        return Err(RejectReason::NotYetValid);
    }
    verify(&key, Domain::Revocation, None, &NONE, &signed.payload, &signed.signature)?;
    let live = revocation.issued_at.saturating_add(REVOCATION_LIFE) > judge.now.seconds();
    Ok(live.then(|| Revoked { bytes: bytes.clone(), issued_at: revocation.issued_at }))
}

/// `None` when it is over, or of an earlier rotation.
fn judge_owner(bytes: &Bytes, chain: &Chain, id: &IdHash, judge: &Judge) -> Result<Option<Owner>, RejectReason> {
    let signed: pb::Signed = read(bytes, &shapes::SIGNED)?;
    let owner: pb::OwnerStatement = read(&signed.payload, &shapes::OWNER)?;
    if owner.idhash[..] != id.0 || owner.rotation > chain.rotation() {
        return Err(RejectReason::Malformed);
    }
    if owner.rotation < chain.rotation() || owner.valid_until <= judge.now.seconds() {
        return Ok(None);
    }
    if owner.valid_until > judge.now.seconds() + OWNER_LIFE {
        return Err(RejectReason::TooFarAhead);
    }
    verify(&chain.root, Domain::Owner, Some(&judge.overlay), &NONE, &signed.payload, &signed.signature)?;
    Ok(Some(Owner {
        bytes: bytes.clone(),
        min_epoch: owner.min_epoch,
        revoked_serials: owner.revoked_serials,
        sequence: owner.sequence,
        valid_until: owner.valid_until,
    }))
}

/// Outer error: forged, the bundle is refused. Inner error: over, the entry is left out.
fn judge_entry(
    sifted: Sifted,
    bundle: &ValidBundle,
    judge: &Judge,
    held: Option<&ValidBundle>,
) -> Result<Result<Entry, RejectReason>, RejectReason> {
    let Sifted { bytes, signed, certificate, certified, device, envelope, body, state } = sifted;
    let known = held.filter(|h| h.chain.same(&bundle.chain)).and_then(|h| h.entries.get(&device));
    let verified = known.is_some_and(|k| k.bytes == bytes);
    if certified.rotation != envelope.rotation || certified.epoch != envelope.epoch {
        return Err(RejectReason::BadCertificate);
    }
    if certified.rotation != bundle.chain.rotation() {
        return Ok(Err(RejectReason::NotCertified));
    }
    let span = certified.not_after.checked_sub(certified.not_before);
    if span.is_none_or(|s| s > CERTIFICATE_LIFE) {
        return Err(RejectReason::BadCertificate);
    }
    permitted(&certified, &envelope, &body, state)?;
    if !verified {
        verify_entry(&signed, &certificate, &device, bundle, judge)?;
    }
    let now = judge.now.seconds();
    if certified.not_after <= now || certified.not_before > now + CLOCK_SLACK {
        return Ok(Err(RejectReason::BadCertificate));
    }
    Ok(Ok(Entry {
        bytes,
        device,
        epoch: envelope.epoch,
        serial: certified.serial,
        sequence: envelope.sequence,
        expires_at: envelope.expires_at,
        certified_until: certified.not_after,
        state,
        priority: body.priority,
        addresses: body.addresses.iter().map(|a| a.to_vec()).collect(),
        envelope_hash: Sha256::digest(&signed.envelope).into(),
    }))
}

/// Rights and caveats of the certificate against what the entry says.
fn permitted(
    certified: &pb::DeviceCertificate,
    envelope: &pb::Envelope,
    body: &pb::Body,
    state: State,
) -> Result<(), RejectReason> {
    let needed = if state == State::Tombstone { RIGHT_PUBLISH | RIGHT_TOMBSTONE } else { RIGHT_PUBLISH };
    if certified.rights & needed == 0 {
        return Err(RejectReason::NotCertified);
    }
    let Some(caveats) = &certified.caveats else { return Ok(()) };
    let life = envelope.expires_at - envelope.issued_at;
    let too_long = caveats.max_ttl != 0 && life > u64::from(caveats.max_ttl);
    let too_high = caveats.max_priority != 0 && body.priority > caveats.max_priority;
    let not_forward = caveats.forward_only && !matches!(state, State::Forward | State::Tombstone);
    if too_long || too_high || not_forward { Err(RejectReason::NotCertified) } else { Ok(()) }
}

fn verify_entry(
    signed: &pb::SignedEntry,
    certificate: &pb::Signed,
    device: &NodeKey,
    bundle: &ValidBundle,
    judge: &Judge,
) -> Result<(), RejectReason> {
    let overlay = Some(&judge.overlay);
    usable(&device.0)?;
    verify(&bundle.chain.root, Domain::Device, overlay, &NONE, &certificate.payload, &certificate.signature)
        .map_err(|_| RejectReason::BadCertificate)?;
    let door = door_key(&judge.overlay, &bundle.id);
    verify(&device.0, Domain::Location, overlay, &door, &signed.envelope, &signed.signature)?;
    Ok(())
}
