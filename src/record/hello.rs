//! The user part of a `sip/1` hello: binds a user to the peer id that the channel authenticated.

use super::validator::{RIGHT_CALL, certificate_of, inception_of, judge_bundle, read};
use super::{Judge, MAX_BUNDLE_BYTES, Pin, RejectReason, shapes};
use crate::identity::NodeKey;
use crate::uri::IdHash;
use crate::wire::pb;
use prost::bytes::Bytes;

/// Who the far end of a link proved to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPeerUser {
    pub id: IdHash,
    pub node: NodeKey,
    pub pin: Pin,
}

/// Checks the user part of a `sip/1` hello: the bundle header with the sender's own certificate and entry, against the
/// device key that the channel authenticated; the CALL right; the pinned (rotation, epoch).
///
/// # Errors
/// The first reason met; `NotCertified` when the channel's key is not a certified device of `from`, `Revoked` when its
/// epoch lies below the pin.
pub fn verify_hello_user(
    from: &IdHash,
    bundle: &[u8],
    channel_key: &NodeKey,
    pin: Option<Pin>,
    judge: &Judge,
) -> Result<VerifiedPeerUser, RejectReason> {
    if bundle.len() > MAX_BUNDLE_BYTES {
        return Err(RejectReason::TooLarge);
    }
    let mut message: pb::Bundle = read(&Bytes::copy_from_slice(bundle), &shapes::BUNDLE)?;
    let inception = inception_of(&message.inception)?;
    if IdHash::of_inception(&inception) != *from {
        return Err(RejectReason::WrongKey);
    }
    // Only the sender's own entry counts: others cost signatures and prove nothing here.
    message.entries.retain(|entry| names(entry, channel_key));
    if message.entries.is_empty() && message.revocation.is_empty() {
        return Err(RejectReason::NotCertified);
    }
    let valid = judge_bundle(message, inception, judge, None)?;
    if valid.is_revoked() {
        return Err(RejectReason::Revoked);
    }
    let entry = valid.entries.get(channel_key).ok_or(RejectReason::NotCertified)?;
    if entry.rights & RIGHT_CALL == 0 {
        return Err(RejectReason::NotCertified);
    }
    let shown = Pin { rotation: valid.pin().rotation, epoch: entry.epoch };
    if pin.is_some_and(|pin| shown < pin) {
        return Err(RejectReason::Revoked);
    }
    Ok(VerifiedPeerUser { id: *from, node: *channel_key, pin: shown })
}

fn names(entry: &Bytes, device: &NodeKey) -> bool {
    let certificate = read(entry, &shapes::SIGNED_ENTRY).and_then(|e: pb::SignedEntry| certificate_of(&e.certificate));
    certificate.is_ok_and(|(_, _, key)| key == *device)
}
