//! Contact cards: what one gives away so that others can call. `peerline:card/<base32>`, as text or QR.
//!
//! The inception in it is self-certifying; nickname and hints are the device's word. A card is printed and kept, so it
//! does not expire with the certificate that is in it.

use super::draft::UserHeader;
use super::validator::{
    CLOCK_SLACK, RIGHT_PUBLISH, certificate_of, inception_of, judge_chain, read, verify_certificate,
};
use super::{Judge, RejectReason, shapes};
use crate::identity::{CertificateBytes, NodeKey, NodeSecret};
use crate::uri::{IdHash, base32, from_base32};
use crate::wire::signature::{NONE, usable};
use crate::wire::{Domain, OverlayId, is_overlay_name, pb, sign, verify};
use prost::Message;
use prost::bytes::Bytes;

/// Hard limit of a card, bytes before base32: what a QR code still shows well.
pub const MAX_CARD_BYTES: usize = 600;
/// Before the base32.
pub const CARD_PREFIX: &str = "peerline:card/";
/// Of base32 for [`MAX_CARD_BYTES`].
const MAX_CARD_CHARS: usize = MAX_CARD_BYTES * 8 / 5;

/// What a card says besides who.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardDraft {
    /// The overlay's name, for the URI.
    pub overlay_name: String,
    /// At most 48 bytes; empty for none.
    pub nickname: String,
    /// Nodes where to ask when nothing else is known, at most 2.
    pub node_hints: Vec<NodeKey>,
}

/// A card whose signatures hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedCard {
    pub id: IdHash,
    pub header: UserHeader,
    pub said: CardDraft,
}

/// Makes a card. [`parse_card`] reads the text again.
///
/// # Errors
/// `TooLarge` when it does not fit (leave hints out, or the nickname), `Malformed` when a name cannot be in a card.
pub fn sign_card(
    user: &UserHeader,
    certificate: &CertificateBytes,
    device: &NodeSecret,
    overlay: &OverlayId,
    draft: &CardDraft,
) -> Result<String, RejectReason> {
    if draft.nickname.len() > shapes::MAX_NICKNAME_BYTES
        || draft.node_hints.len() > shapes::MAX_HINTS
        || !is_overlay_name(&draft.overlay_name)
    {
        return Err(RejectReason::Malformed);
    }
    let payload = pb::ContactCard {
        inception: Bytes::copy_from_slice(&user.inception),
        rotations: user.rotations.iter().map(|r| Bytes::copy_from_slice(r)).collect(),
        genesis_hash: Bytes::copy_from_slice(&overlay.0),
        overlay: draft.overlay_name.clone(),
        nickname: draft.nickname.clone(),
        node_hints: draft.node_hints.iter().map(|k| Bytes::copy_from_slice(&k.0)).collect(),
        door_secret: Bytes::new(),
        token: Bytes::new(),
    }
    .encode_to_vec();
    let signature = sign(&device.signing_key(), Domain::Card, Some(overlay), &NONE, &payload);
    let card = pb::SignedCard {
        payload: payload.into(),
        certificate: Bytes::copy_from_slice(&certificate.0),
        signature: Bytes::copy_from_slice(&signature),
    }
    .encode_to_vec();
    if card.len() > MAX_CARD_BYTES {
        return Err(RejectReason::TooLarge);
    }
    Ok(format!("{CARD_PREFIX}{}", base32(&card)))
}

/// Reads a card: any case, spaces around it dropped.
///
/// # Errors
/// The first reason met; `Malformed` when it is no card at all, `WrongOverlay` when it is for another overlay.
pub fn parse_card(text: &str, judge: &Judge) -> Result<VerifiedCard, RejectReason> {
    let text = text.trim();
    let (prefix, rest) = text.split_at_checked(CARD_PREFIX.len()).ok_or(RejectReason::Malformed)?;
    if !prefix.eq_ignore_ascii_case(CARD_PREFIX) {
        return Err(RejectReason::Malformed);
    }
    if rest.len() > MAX_CARD_CHARS {
        return Err(RejectReason::TooLarge);
    }
    let bytes = from_base32(&rest.to_ascii_lowercase()).ok_or(RejectReason::Malformed)?;
    verify_card(&bytes, judge)
}

/// Judges the bytes of a card.
///
/// # Errors
/// As for [`parse_card`].
pub fn verify_card(bytes: &[u8], judge: &Judge) -> Result<VerifiedCard, RejectReason> {
    if bytes.len() > MAX_CARD_BYTES {
        return Err(RejectReason::TooLarge);
    }
    let signed: pb::SignedCard = read(&Bytes::copy_from_slice(bytes), &shapes::SIGNED_CARD)?;
    let card: pb::ContactCard = read(&signed.payload, &shapes::CARD)?;
    let inception = inception_of(&card.inception)?;
    let id = IdHash::of_inception(&inception);
    if card.genesis_hash.len() != 32 || !is_overlay_name(&card.overlay) {
        return Err(RejectReason::Malformed);
    }
    if card.genesis_hash[..] != judge.overlay.0 {
        return Err(RejectReason::WrongOverlay);
    }
    let (certificate, certified, device) = certificate_of(&signed.certificate)?;
    if certified.idhash[..] != id.0 {
        return Err(RejectReason::BadCertificate);
    }
    if usize::try_from(certified.rotation).ok() != Some(card.rotations.len()) || certified.rights & RIGHT_PUBLISH == 0 {
        return Err(RejectReason::NotCertified);
    }
    if certified.not_before > judge.now.seconds().saturating_add(CLOCK_SLACK) {
        return Err(RejectReason::NotYetValid);
    }
    let chain = judge_chain(inception, card.rotations.clone(), &id)?;
    usable(&device.0)?;
    verify_certificate(&certificate, &chain.root, &judge.overlay)?;
    verify(&device.0, Domain::Card, Some(&judge.overlay), &NONE, &signed.payload, &signed.signature)?;
    let hints = card.node_hints.iter().map(|k| <[u8; 32]>::try_from(&k[..]).map(NodeKey));
    Ok(VerifiedCard {
        id,
        header: UserHeader { inception, rotations: card.rotations.iter().map(|r| r.to_vec()).collect() },
        said: CardDraft {
            overlay_name: card.overlay,
            nickname: card.nickname,
            node_hints: hints.collect::<Result<_, _>>().map_err(|_| RejectReason::Malformed)?,
        },
    })
}
