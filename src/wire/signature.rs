//! The one signature scheme: Ed25519, verified strictly, over the exact bytes that travel.
//!
//! `sig = Ed25519("peerline-sig-1" || 0x00 || u8 len(domain) || domain || overlay_id[32] || scope[32] || payload)`:
//! the domain keeps a signature from being replayed as another kind of thing, the overlay id from another overlay, the
//! scope (a door key) from another place.

use super::OverlayId;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

/// What a signature is for (docs/protocol.md "Signatures").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Domain {
    /// An entry's envelope, by its device; scope = door key.
    Location,
    Device,
    Owner,
    /// By the recovery key that the rotation before committed to; no overlay.
    Rotation,
    /// By the current recovery key; no overlay.
    Revocation,
    Charter,
    Card,
    /// By a node: where it can be reached.
    PeerCard,
    /// By a node: that it keeps a record; scope = the record's key.
    Receipt,
    /// By a node: what it answered; scope = the key or position asked for.
    Answer,
    /// By a node: what it does for everybody; scope = the key of the list that says so.
    Service,
}

impl Domain {
    /// The text inside the signature.
    pub fn text(self) -> &'static str {
        match self {
            Domain::Location => "loc",
            Domain::Device => "device",
            Domain::Owner => "owner",
            Domain::Rotation => "rotation",
            Domain::Revocation => "revocation",
            Domain::Charter => "charter",
            Domain::Card => "card",
            Domain::PeerCard => "peercard",
            Domain::Receipt => "receipt",
            Domain::Answer => "answer",
            Domain::Service => "service",
        }
    }
}

/// Why a signature does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not a point of the curve, or of small order.
    #[error("weak key")]
    WeakKey,
    #[error("bad signature")]
    Bad,
}

/// No overlay (rotation, revocation) or no scope.
pub const NONE: [u8; 32] = [0; 32];

fn message(domain: Domain, overlay: &[u8; 32], scope: &[u8; 32], payload: &[u8]) -> Vec<u8> {
    let domain = domain.text().as_bytes();
    let mut message = Vec::with_capacity(15 + 1 + domain.len() + 64 + payload.len());
    message.extend_from_slice(b"peerline-sig-1\0");
    message.push(domain.len() as u8);
    message.extend_from_slice(domain);
    message.extend_from_slice(overlay);
    message.extend_from_slice(scope);
    message.extend_from_slice(payload);
    message
}

/// Signs `payload`. `overlay` is `None` for the domains that hold in every overlay.
pub fn sign(
    key: &SigningKey,
    domain: Domain,
    overlay: Option<&OverlayId>,
    scope: &[u8; 32],
    payload: &[u8],
) -> [u8; 64] {
    key.sign(&message(domain, overlay.map_or(&NONE, |o| &o.0), scope, payload)).to_bytes()
}

/// Verifies strictly (RFC 8032 with canonical S, no small-order points).
///
/// # Errors
/// `WeakKey` before any work when the key is unusable, else `Bad`.
pub fn verify(
    key: &[u8; 32],
    domain: Domain,
    overlay: Option<&OverlayId>,
    scope: &[u8; 32],
    payload: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    let key = usable(key)?;
    let signature = Signature::from_slice(signature).map_err(|_| SignatureError::Bad)?;
    let message = message(domain, overlay.map_or(&NONE, |o| &o.0), scope, payload);
    key.verify_strict(&message, &signature).map_err(|_| SignatureError::Bad)
}

/// A public key that may verify anything: the canonical encoding of a curve point that is not of small order.
///
/// # Errors
/// `WeakKey`.
pub fn usable(key: &[u8; 32]) -> Result<VerifyingKey, SignatureError> {
    if !is_canonical(key) {
        return Err(SignatureError::WeakKey);
    }
    let key = VerifyingKey::from_bytes(key).map_err(|_| SignatureError::WeakKey)?;
    if key.is_weak() { Err(SignatureError::WeakKey) } else { Ok(key) }
}

/// Whether `y < 2^255 - 19` (RFC 8032 §5.1.3 step 1; the library lets larger ones pass).
fn is_canonical(key: &[u8; 32]) -> bool {
    key[31] & 0x7f != 0x7f || key[1..31].iter().any(|b| *b != 0xff) || key[0] < 0xed
}
