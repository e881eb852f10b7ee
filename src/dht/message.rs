//! The messages of `store/1` (docs/protocol.md "store/1"): questions and signed replies, to bytes and back. Pure.
//!
//! A reply is signed over the question's nonce, the key or position asked for (the signature's scope), the hashes of
//! what it carries, the answerer's clock and its run. So a receipt, and a later "nothing here" by the same node within
//! the promise, are together a proof that anybody can check.

use super::card::MAX_CARD_BYTES;
use super::service::MAX_ENTRY_BYTES;
use super::shelf::MAX_ENTRIES;
use super::{Ask, Enlisted, MAX_PEERS, Position, Stored};
use crate::clock::UnixMillis;
use crate::identity::{NodeKey, NodeSecret};
use crate::record::{MAX_BUNDLE_BYTES, RecordKey};
use crate::wire::scanner::{Field, Kind, Shape, scan};
use crate::wire::signature::{self, Domain, SignatureError};
use crate::wire::{OverlayId, pb};
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use prost::Message;
use sha2::{Digest, Sha256};

/// A question at most, bytes: a bundle, a card, a stamp.
pub const MAX_QUESTION_BYTES: usize = 13 * 1024;

/// A reply at most, bytes: a bundle and [`MAX_PEERS`] cards.
pub const MAX_REPLY_BYTES: usize = 20 * 1024;

/// Proof of work at most, bytes.
pub const MAX_STAMP_BYTES: usize = 64;

/// A promise at most, seconds: what a holder may lose by a crash stays no proof of guilt for long (SECURITY §4.8).
pub const MAX_PROMISE: u32 = 2_400;

static QUESTION: Shape = Shape {
    fields: &[
        Field { number: 1, kind: Kind::Bytes { min: 16, max: 16 }, at_most: 1 },
        Field { number: 2, kind: Kind::Bytes { min: 1, max: MAX_CARD_BYTES }, at_most: 1 },
        Field { number: 3, kind: Kind::Bytes { min: 32, max: 32 }, at_most: 1 },
        Field { number: 4, kind: Kind::Bytes { min: 32, max: 32 }, at_most: 1 },
        Field { number: 5, kind: Kind::Bytes { min: 32, max: 32 }, at_most: 1 },
        Field { number: 6, kind: Kind::Bytes { min: 1, max: MAX_BUNDLE_BYTES }, at_most: 1 },
        Field { number: 7, kind: Kind::Bytes { min: 1, max: MAX_STAMP_BYTES }, at_most: 1 },
        Field { number: 8, kind: Kind::Bytes { min: 32, max: 32 }, at_most: 1 },
        Field { number: 9, kind: Kind::Bytes { min: 1, max: MAX_ENTRY_BYTES }, at_most: 1 },
    ],
    unknown_allowed: false,
};

static REPLY: Shape = Shape {
    fields: &[
        Field { number: 1, kind: Kind::Bytes { min: 1, max: 256 }, at_most: 1 },
        Field { number: 2, kind: Kind::Bytes { min: 64, max: 64 }, at_most: 1 },
        Field { number: 3, kind: Kind::Bytes { min: 1, max: MAX_CARD_BYTES }, at_most: MAX_PEERS },
        Field { number: 4, kind: Kind::Bytes { min: 1, max: MAX_BUNDLE_BYTES }, at_most: 1 },
        Field { number: 5, kind: Kind::Bytes { min: 1, max: MAX_CARD_BYTES }, at_most: 1 },
        Field { number: 6, kind: Kind::Bytes { min: 1, max: MAX_ENTRY_BYTES }, at_most: MAX_ENTRIES },
    ],
    unknown_allowed: false,
};

static PAYLOAD: Shape = Shape {
    fields: &[
        Field { number: 1, kind: Kind::Bytes { min: 16, max: 16 }, at_most: 1 },
        Field { number: 2, kind: Kind::U32, at_most: 1 },
        Field { number: 3, kind: Kind::Bytes { min: 32, max: 32 }, at_most: 1 },
        Field { number: 4, kind: Kind::Bytes { min: 32, max: 32 }, at_most: 1 },
        Field { number: 5, kind: Kind::U64, at_most: 1 },
        Field { number: 6, kind: Kind::Bytes { min: 8, max: 8 }, at_most: 1 },
        Field { number: 7, kind: Kind::U32, at_most: 1 },
        Field { number: 8, kind: Kind::U64, at_most: 1 },
        Field { number: 9, kind: Kind::U32, at_most: 1 },
    ],
    unknown_allowed: true,
};

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("malformed")]
    Malformed,
    #[error("a reply to another question")]
    WrongNonce,
    #[error("a reply that does not fit the question")]
    WrongKind,
    #[error("a reply that is not what was signed")]
    WrongHash,
}

/// What a peer is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Random: a reply cannot be an old one.
    pub nonce: [u8; 16],
    /// The sender's own signed card, if it serves.
    pub card: Option<Bytes>,
    pub ask: Ask,
    /// Proof of work beside a STORE; empty if none was asked for.
    pub stamp: Bytes,
}

impl Question {
    pub fn encode(&self) -> Bytes {
        let mut message = pb::Question {
            nonce: Bytes::copy_from_slice(&self.nonce),
            card: self.card.clone().unwrap_or_default(),
            stamp: self.stamp.clone(),
            ..Default::default()
        };
        match &self.ask {
            Ask::Find(position) => message.find = Bytes::copy_from_slice(&position.0),
            Ask::Fetch(key) => message.fetch = Bytes::copy_from_slice(&key.0),
            Ask::Store(key, bundle) => {
                message.store = Bytes::copy_from_slice(&key.0);
                message.bundle = bundle.clone();
            }
            Ask::List(key) => message.listed = Bytes::copy_from_slice(&key.0),
            Ask::Enlist(key, entry) => {
                message.listed = Bytes::copy_from_slice(&key.0);
                message.entry = entry.clone();
            }
        }
        message.encode_to_vec().into()
    }

    /// # Errors
    /// `Malformed`.
    pub fn decode(bytes: Bytes) -> Result<Self, MessageError> {
        const WRONG: MessageError = MessageError::Malformed;
        if bytes.len() > MAX_QUESTION_BYTES {
            return Err(WRONG);
        }
        scan(&bytes, &QUESTION).map_err(|_| WRONG)?;
        let message = pb::Question::decode(bytes).map_err(|_| WRONG)?;
        let stores = !message.store.is_empty();
        if !(stores || message.bundle.is_empty() && message.stamp.is_empty()) {
            return Err(WRONG);
        }
        let lists = !message.listed.is_empty();
        if !(lists || message.entry.is_empty()) {
            return Err(WRONG);
        }
        let at = |bytes: &Bytes| <[u8; 32]>::try_from(&bytes[..]).map_err(|_| WRONG);
        let ask = match (!message.find.is_empty(), !message.fetch.is_empty(), stores, lists) {
            (true, false, false, false) => Ask::Find(Position(at(&message.find)?)),
            (false, true, false, false) => Ask::Fetch(RecordKey(at(&message.fetch)?)),
            (false, false, true, false) if !message.bundle.is_empty() => {
                Ask::Store(RecordKey(at(&message.store)?), message.bundle)
            }
            (false, false, false, true) if message.entry.is_empty() => Ask::List(RecordKey(at(&message.listed)?)),
            (false, false, false, true) => Ask::Enlist(RecordKey(at(&message.listed)?), message.entry),
            _ => return Err(WRONG),
        };
        Ok(Self {
            nonce: message.nonce[..].try_into().map_err(|_| WRONG)?,
            card: Some(message.card).filter(|card| !card.is_empty()),
            ask,
            stamp: message.stamp,
        })
    }

    /// The signature's scope: the position or key asked for.
    pub fn scope(&self) -> [u8; 32] {
        match &self.ask {
            Ask::Find(position) => position.0,
            Ask::Fetch(key) | Ask::Store(key, _) | Ask::List(key) | Ask::Enlist(key, _) => key.0,
        }
    }
}

/// What a node replies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// To FIND.
    Near,
    /// To FETCH: the bytes held, if any.
    Held(Option<Bytes>),
    /// To STORE. `sequence` of a bundle that is kept: the highest in it.
    Stored { result: Stored, sequence: u64 },
    /// To LIST: signed entries.
    List(Vec<Bytes>),
    /// To ENLIST.
    Enlisted(Enlisted),
    /// To anything, unsigned: too much to do. No evidence for anything.
    Busy,
}

/// A reply that fits its question; whose it is, is known once [`Reply::verify`] says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub said: Said,
    /// Signed cards, read by nobody yet.
    pub peers: Vec<Bytes>,
    /// The answerer's own.
    pub card: Option<Bytes>,
    /// The answerer's clock.
    pub time: UnixMillis,
    /// The answerer's run.
    pub boot: [u8; 8],
    /// What was signed: evidence, with the signature.
    pub payload: Bytes,
    pub signature: Bytes,
    scope: [u8; 32],
}

/// Signs replies.
pub struct Voice {
    key: SigningKey,
    overlay: OverlayId,
    boot: [u8; 8],
}

impl Voice {
    /// `boot`: random, new for each run of the node.
    pub fn new(secret: &NodeSecret, overlay: OverlayId, boot: [u8; 8]) -> Self {
        Self { key: secret.signing_key(), overlay, boot }
    }

    /// A new run: what was promised before is promised no more.
    pub fn begin_anew(&mut self, boot: [u8; 8]) {
        self.boot = boot;
    }

    /// The bytes of a reply: one signature. At most [`MAX_PEERS`] of `peers` are sent.
    pub fn reply(
        &self,
        question: &Question,
        said: Said,
        peers: Vec<Bytes>,
        card: Option<Bytes>,
        now: UnixMillis,
    ) -> Bytes {
        let mut peers = peers;
        peers.truncate(MAX_PEERS);
        let (mut promised, mut highest, mut bits) = (0, 0, 0);
        let (mut carried, mut entries) = (None, Vec::new());
        let kind = match said {
            Said::Near => 1,
            Said::Held(bundle) => {
                carried = bundle;
                2
            }
            Said::Stored { result, sequence } => match result {
                Stored::Kept { promise } => {
                    (promised, highest) = (promise.min(MAX_PROMISE), sequence);
                    3
                }
                Stored::Stale { newer } => {
                    carried = Some(newer);
                    4
                }
                Stored::NotMine => 5,
                Stored::Full => 6,
                Stored::Stamp { bits: wanted } => {
                    bits = wanted.into();
                    7
                }
                Stored::Invalid => 8,
            },
            Said::Busy => 9,
            Said::List(listed) => {
                entries = listed;
                entries.truncate(MAX_ENTRIES);
                10
            }
            Said::Enlisted(enlisted) => match enlisted {
                Enlisted::Listed => 11,
                Enlisted::Trying => 12,
                Enlisted::NotMine => 13,
                Enlisted::Full => 14,
                Enlisted::Invalid => 15,
            },
        };
        let kept = match &question.ask {
            Ask::Store(_, bundle) if kind == 3 => Some(bundle),
            _ => None,
        };
        let payload = pb::ReplyPayload {
            nonce: Bytes::copy_from_slice(&question.nonce),
            kind,
            peers: hash_of_all(&peers),
            bundle: carried.as_ref().or(kept).map(|bundle| hash(bundle)).unwrap_or_else(|| hash_of_all(&entries)),
            time: now.0,
            boot: Bytes::copy_from_slice(&self.boot),
            promise: promised,
            sequence: highest,
            bits,
        };
        let payload = payload.encode_to_vec();
        let signature = match kind {
            9 => Bytes::new(),
            _ => {
                let scope = question.scope();
                Bytes::copy_from_slice(&signature::sign(&self.key, domain(kind), Some(&self.overlay), &scope, &payload))
            }
        };
        let message = pb::Reply {
            payload: payload.into(),
            signature,
            peers,
            bundle: carried.unwrap_or_default(),
            card: card.unwrap_or_default(),
            entries,
        };
        message.encode_to_vec().into()
    }
}

impl Reply {
    /// Reads the reply to `question`. Hashes are compared; the signature is looked at by [`Reply::verify`].
    ///
    /// # Errors
    /// Why it is no reply to it.
    pub fn decode(bytes: Bytes, question: &Question) -> Result<Self, MessageError> {
        const WRONG: MessageError = MessageError::Malformed;
        if bytes.len() > MAX_REPLY_BYTES {
            return Err(WRONG);
        }
        scan(&bytes, &REPLY).map_err(|_| WRONG)?;
        let message = pb::Reply::decode(bytes).map_err(|_| WRONG)?;
        scan(&message.payload, &PAYLOAD).map_err(|_| WRONG)?;
        let payload = pb::ReplyPayload::decode(message.payload.clone()).map_err(|_| WRONG)?;
        if payload.nonce != question.nonce[..] {
            return Err(MessageError::WrongNonce);
        }
        if payload.kind != 9 && message.signature.is_empty() {
            return Err(WRONG);
        }
        let stored = |result| Said::Stored { result, sequence: payload.sequence };
        let bundle = Some(message.bundle).filter(|bundle| !bundle.is_empty());
        let carries = bundle.is_some();
        let mut signed = bundle.clone();
        let said = match (payload.kind, &question.ask) {
            (1, Ask::Find(_)) if !carries => Said::Near,
            (2, Ask::Fetch(_)) => Said::Held(bundle),
            (3, Ask::Store(_, sent)) if !carries => {
                signed = Some(sent.clone());
                stored(Stored::Kept { promise: payload.promise.min(MAX_PROMISE) })
            }
            (4, Ask::Store(..)) => stored(Stored::Stale { newer: bundle.ok_or(MessageError::WrongKind)? }),
            (5, Ask::Store(..)) if !carries => stored(Stored::NotMine),
            (6, Ask::Store(..)) if !carries => stored(Stored::Full),
            (7, Ask::Store(..)) if !carries => {
                stored(Stored::Stamp { bits: u8::try_from(payload.bits).unwrap_or(u8::MAX) })
            }
            (8, Ask::Store(..)) if !carries => stored(Stored::Invalid),
            (9, _) if !carries => Said::Busy,
            (10, Ask::List(_)) if !carries => Said::List(message.entries.clone()),
            (11, Ask::Enlist(..)) if !carries => Said::Enlisted(Enlisted::Listed),
            (12, Ask::Enlist(..)) if !carries => Said::Enlisted(Enlisted::Trying),
            (13, Ask::Enlist(..)) if !carries => Said::Enlisted(Enlisted::NotMine),
            (14, Ask::Enlist(..)) if !carries => Said::Enlisted(Enlisted::Full),
            (15, Ask::Enlist(..)) if !carries => Said::Enlisted(Enlisted::Invalid),
            _ => return Err(MessageError::WrongKind),
        };
        if !(message.entries.is_empty() || matches!(said, Said::List(_))) {
            return Err(MessageError::WrongKind);
        }
        let hashes = signed.map(|bundle| hash(&bundle)).unwrap_or_else(|| hash_of_all(&message.entries));
        if payload.bundle != hashes || payload.peers != hash_of_all(&message.peers) {
            return Err(MessageError::WrongHash);
        }
        Ok(Self {
            said,
            peers: message.peers,
            card: Some(message.card).filter(|card| !card.is_empty()),
            time: UnixMillis(payload.time),
            boot: payload.boot[..].try_into().unwrap_or_default(),
            payload: message.payload,
            signature: message.signature,
            scope: question.scope(),
        })
    }

    /// Whether `node` signed it: one Ed25519 verification. What is BUSY is signed by nobody.
    ///
    /// # Errors
    /// Of the signature.
    pub fn verify(&self, node: &NodeKey, overlay: &OverlayId) -> Result<(), SignatureError> {
        let kind = match &self.said {
            Said::Busy => return Ok(()),
            Said::Stored { result: Stored::Kept { .. }, .. } => 3,
            Said::Near | Said::Held(_) | Said::Stored { .. } | Said::List(_) | Said::Enlisted(_) => 1,
        };
        signature::verify(&node.0, domain(kind), Some(overlay), &self.scope, &self.payload, &self.signature)
    }
}

/// What a signed payload says, as far as it can be evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    /// A receipt.
    pub(super) keeps: bool,
    /// To FETCH: nothing is held.
    pub(super) denies: bool,
    pub(super) time: UnixMillis,
    pub(super) boot: [u8; 8],
    /// Seconds.
    pub(super) promise: u32,
}

impl Statement {
    /// `None` for bytes that are no payload, or do not say of which run.
    pub(super) fn read(payload: &Bytes) -> Option<Self> {
        scan(payload, &PAYLOAD).ok()?;
        let payload = pb::ReplyPayload::decode(payload.clone()).ok()?;
        Some(Self {
            keeps: payload.kind == 3,
            denies: payload.kind == 2 && payload.bundle.is_empty(),
            time: UnixMillis(payload.time),
            boot: payload.boot[..].try_into().ok()?,
            promise: payload.promise,
        })
    }
}

fn domain(kind: u32) -> Domain {
    if kind == 3 { Domain::Receipt } else { Domain::Answer }
}

fn hash(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&Sha256::digest(bytes))
}

/// Of cards or entries: `H(u16 length || bytes || ...)`, nothing for none.
fn hash_of_all(signed: &[Bytes]) -> Bytes {
    if signed.is_empty() {
        return Bytes::new();
    }
    let mut all = Sha256::new();
    for one in signed {
        all.update(u16::try_from(one.len()).unwrap_or(u16::MAX).to_be_bytes());
        all.update(one);
    }
    Bytes::copy_from_slice(&all.finalize())
}

#[cfg(test)]
mod tests;
