//! Judging the entries of a bundle: first everything that costs nothing, then the signatures.

use super::super::bundle::{Entry, State, ValidBundle};
use super::super::keys::door_key;
use super::super::{Judge, RejectReason, address, shapes};
use super::{CLOCK_SLACK, read};
use crate::identity::NodeKey;
use crate::uri::IdHash;
use crate::wire::signature::{NONE, usable};
use crate::wire::{Domain, OverlayId, ScanError, pb, scan, verify};
use prost::Message;
use prost::bytes::Bytes;
use sha2::{Digest, Sha256};

/// Life of an entry, seconds.
const ENTRY_LIFE: std::ops::RangeInclusive<u64> = 60..=10_800;
/// Life of a certificate, seconds: 90 days, and the hour that `not_before` lies back.
const CERTIFICATE_LIFE: u64 = 90 * 86_400 + 3_600;

pub(in super::super) const RIGHT_PUBLISH: u32 = 1;
pub(in super::super) const RIGHT_CALL: u32 = 2;
const RIGHT_TOMBSTONE: u32 = 4;

/// An entry whose shape is right and whose time has come and is not over; not yet verified.
pub(super) struct Sifted {
    bytes: Bytes,
    signed: pb::SignedEntry,
    certificate: pb::Signed,
    certified: pb::DeviceCertificate,
    device: NodeKey,
    envelope: pb::Envelope,
    body: pb::Body,
    state: State,
}

/// A certificate's wrapper and content, of the right shape; nothing is verified.
pub(in super::super) fn certificate_of(
    bytes: &Bytes,
) -> Result<(pb::Signed, pb::DeviceCertificate, NodeKey), RejectReason> {
    let signed: pb::Signed = read(bytes, &shapes::SIGNED)?;
    // Unknown fields are allowed in the certificate, so an unknown field is a caveat. One that is not understood must
    // not be ignored: it takes something away.
    scan(&signed.payload, &shapes::CERTIFICATE).map_err(|fault| match fault {
        ScanError::Unknown => RejectReason::Unsupported,
        _ => RejectReason::Malformed,
    })?;
    let certified = pb::DeviceCertificate::decode(signed.payload.clone()).map_err(|_| RejectReason::Malformed)?;
    let device = NodeKey(certified.device_key[..].try_into().map_err(|_| RejectReason::Malformed)?);
    Ok((signed, certified, device))
}

/// The cheap half of judging entries: no signature is touched. `rotation` is the number of rotations in the bundle.
/// Also the reason why the first entry that was left out was.
pub(super) fn sift(
    entries: &[Bytes],
    rotation: u32,
    id: &IdHash,
    judge: &Judge,
    held: Option<&ValidBundle>,
) -> Result<(Vec<Sifted>, Option<RejectReason>), RejectReason> {
    let (mut kept, mut over, mut last) = (Vec::with_capacity(entries.len()), None, None);
    for bytes in entries {
        let sifted = shape(bytes, id, judge)?;
        if last.is_some_and(|last| last >= sifted.device) {
            return Err(RejectReason::Malformed);
        }
        last = Some(sifted.device);
        let ours = held.filter(|h| h.chain.rotation() == rotation).and_then(|h| h.entries.get(&sifted.device));
        match timely(&sifted, rotation, judge, ours) {
            Ok(()) => kept.push(sifted),
            Err(reason) => over = over.or(Some(reason)),
        }
    }
    Ok((kept, over))
}

/// What is wrong here refuses the bundle: no honest device makes such an entry at any time.
fn shape(bytes: &Bytes, id: &IdHash, judge: &Judge) -> Result<Sifted, RejectReason> {
    let signed: pb::SignedEntry = read(bytes, &shapes::SIGNED_ENTRY)?;
    let (certificate, certified, device) = certificate_of(&signed.certificate)?;
    let envelope: pb::Envelope = read(&signed.envelope, &shapes::ENVELOPE)?;
    let state = match (envelope.ver, envelope.state) {
        (_, 0) => return Err(RejectReason::Malformed),
        (0, 1) => State::Reachable,
        (0, 2) => State::Dnd,
        (0, 3) => State::Forward,
        (0, 4) => State::Tombstone,
        _ => State::Opaque,
    };
    let life = envelope.expires_at.checked_sub(envelope.issued_at).ok_or(RejectReason::Malformed)?;
    if !ENTRY_LIFE.contains(&life) {
        return Err(RejectReason::Malformed);
    }
    if envelope.idhash[..] != id.0 {
        return Err(RejectReason::WrongKey);
    }
    let span = certified.not_after.checked_sub(certified.not_before);
    if certified.idhash[..] != id.0 || span.is_none_or(|span| span > CERTIFICATE_LIFE) {
        return Err(RejectReason::BadCertificate);
    }
    if certified.rotation != envelope.rotation || certified.epoch != envelope.epoch {
        return Err(RejectReason::BadCertificate);
    }
    let body = if state == State::Opaque { pb::Body::default() } else { body(&envelope, state, judge)? };
    permitted(&certified, life, &body, state)?;
    Ok(Sifted { bytes: bytes.clone(), signed, certificate, certified, device, envelope, body, state })
}

fn body(envelope: &pb::Envelope, state: State, judge: &Judge) -> Result<pb::Body, RejectReason> {
    let body: pb::Body = read(&envelope.body, &shapes::BODY)?;
    let withdrawn_yet_here = state == State::Tombstone && !body.addresses.is_empty();
    let forward_to_nowhere = state == State::Forward && body.forward_to.is_empty();
    if body.priority > 1_000 || withdrawn_yet_here || forward_to_nowhere {
        return Err(RejectReason::Malformed);
    }
    if !body.addresses.iter().all(|a| address::acceptable(a, judge.scope)) {
        return Err(RejectReason::AddressPolicy);
    }
    Ok(body)
}

/// Rights and caveats of the certificate against what the entry says.
fn permitted(certified: &pb::DeviceCertificate, life: u64, body: &pb::Body, state: State) -> Result<(), RejectReason> {
    let needed = if state == State::Tombstone { RIGHT_TOMBSTONE } else { RIGHT_PUBLISH };
    if certified.rights & needed == 0 {
        return Err(RejectReason::NotCertified);
    }
    let Some(caveats) = &certified.caveats else { return Ok(()) };
    let too_long = caveats.max_ttl != 0 && life > u64::from(caveats.max_ttl);
    let too_high = caveats.max_priority != 0 && body.priority > caveats.max_priority;
    let not_forward = caveats.forward_only && !matches!(state, State::Forward | State::Tombstone);
    if too_long || too_high || not_forward { Err(RejectReason::NotCertified) } else { Ok(()) }
}

/// What is wrong here leaves the entry out: it was right once, or will be, or somebody's clock is wrong.
fn timely(sifted: &Sifted, rotation: u32, judge: &Judge, ours: Option<&Entry>) -> Result<(), RejectReason> {
    let (envelope, certified) = (&sifted.envelope, &sifted.certified);
    let now = judge.now.seconds();
    let soon = now.saturating_add(CLOCK_SLACK);
    if envelope.expires_at <= now || certified.not_after <= now {
        return Err(RejectReason::Expired);
    }
    if envelope.sequence > judge.now.0.saturating_add(CLOCK_SLACK * 1_000) {
        return Err(RejectReason::TooFarAhead);
    }
    if envelope.issued_at > soon || certified.not_before > soon {
        return Err(RejectReason::NotYetValid);
    }
    if certified.rotation < rotation {
        return Err(RejectReason::Stale);
    }
    if certified.rotation > rotation {
        return Err(RejectReason::NotCertified);
    }
    match ours {
        Some(ours) if (envelope.epoch, envelope.sequence) < (ours.epoch, ours.sequence) => Err(RejectReason::Stale),
        _ => Ok(()),
    }
}

/// The expensive half. `bundle` has the verified chain; `held` is of the same chain: what it has is verified.
pub(super) fn prove(
    sifted: Sifted,
    bundle: &ValidBundle,
    judge: &Judge,
    held: Option<&ValidBundle>,
) -> Result<Entry, RejectReason> {
    let Sifted { bytes, signed, certificate, certified, device, envelope, body, state } = sifted;
    let ours = held.and_then(|h| h.entries.get(&device));
    if ours.is_none_or(|ours| ours.bytes != bytes) {
        if ours.is_none_or(|ours| ours.certificate != signed.certificate) {
            usable(&device.0)?;
            verify_certificate(&certificate, &bundle.chain.root, &judge.overlay)?;
        }
        let door = door_key(&judge.overlay, &bundle.id);
        verify(&device.0, Domain::Location, Some(&judge.overlay), &door, &signed.envelope, &signed.signature)?;
    }
    Ok(Entry {
        bytes,
        certificate: signed.certificate,
        device,
        epoch: envelope.epoch,
        serial: certified.serial,
        rights: certified.rights,
        sequence: envelope.sequence,
        expires_at: envelope.expires_at,
        certified_until: certified.not_after,
        state,
        priority: body.priority,
        addresses: body.addresses.iter().map(|a| a.to_vec()).collect(),
        envelope_hash: Sha256::digest(&signed.envelope).into(),
    })
}

/// # Errors
/// `BadCertificate` when `root` did not sign it.
pub(in super::super) fn verify_certificate(
    certificate: &pb::Signed,
    root: &[u8; 32],
    overlay: &OverlayId,
) -> Result<(), RejectReason> {
    verify(root, Domain::Device, Some(overlay), &NONE, &certificate.payload, &certificate.signature)
        .map_err(|_| RejectReason::BadCertificate)
}
