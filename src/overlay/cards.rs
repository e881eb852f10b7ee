//! The cards that answers brought, by their bytes: most come again and again. Each is read once, and its signature is
//! verified once, when it is about to be used (SECURITY §4.4: all cards of a lookup would cost ten times as much as those
//! that are dialled). Bounded; pure.

use super::actor::Actor;
use crate::clock::UnixMillis;
use crate::dht::Card;
use crate::wire::{AddressScope, OverlayId};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;

/// Cards of one generation; two are kept. 600 bytes each: 2.5 MB at most.
const GENERATION: usize = 2_048;

#[derive(Clone)]
struct Known {
    card: Arc<Card>,
    /// `None`: not looked at.
    holds: Option<bool>,
}

pub(super) struct Cards {
    overlay: OverlayId,
    scope: AddressScope,
    young: HashMap<Bytes, Known>,
    old: HashMap<Bytes, Known>,
}

impl Cards {
    pub(super) fn new(overlay: OverlayId, scope: AddressScope) -> Self {
        Self { overlay, scope, young: HashMap::new(), old: HashMap::new() }
    }

    /// `None` for bytes that are no card, or of nobody who can be dialled.
    pub(super) fn read(&mut self, signed: &Bytes, now: UnixMillis) -> Option<Arc<Card>> {
        if let Some(known) = self.known(signed) {
            return Some(known.card.clone());
        }
        // A copy: the bytes are part of an answer, which would stay as long as the card.
        let signed = Bytes::copy_from_slice(signed);
        let card = Arc::new(Card::read(signed.clone(), self.scope, now).ok()?);
        self.insert(signed, Known { card: card.clone(), holds: None });
        Some(card)
    }

    /// Whether the node signed it.
    pub(super) fn holds(&mut self, card: &Card) -> bool {
        if let Some(holds) = self.known(&card.signed).and_then(|known| known.holds) {
            return holds;
        }
        let holds = card.verify(&self.overlay).is_ok();
        if let Some(known) = self.young.get_mut(&card.signed) {
            known.holds = Some(holds);
        } else {
            self.insert(card.signed.clone(), Known { card: Arc::new(card.clone()), holds: Some(holds) });
        }
        holds
    }

    /// What is asked for moves to the young.
    fn known(&mut self, signed: &Bytes) -> Option<&Known> {
        if !self.young.contains_key(signed) {
            let (signed, known) = self.old.remove_entry(signed)?;
            self.insert(signed, known);
        }
        self.young.get(signed)
    }

    fn insert(&mut self, signed: Bytes, known: Known) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(signed, known);
    }
}

/// An own card is made anew after this long.
const CARD_LIFE_MS: u64 = 3_600_000;

impl Actor {
    /// This node's card, if it serves and has an address; made anew each hour and when addresses change.
    pub(super) fn own_card(&mut self, wall: UnixMillis) -> Option<Bytes> {
        if !self.upkeep.server {
            return None;
        }
        let old = |card: &Card| wall.0.abs_diff(card.issued_at.0) > CARD_LIFE_MS;
        if self.card.as_ref().is_none_or(old) {
            self.card = Card::sign(&self.secret, &self.overlay, &self.card_addresses(), wall);
        }
        self.card.as_ref().map(|card| card.signed.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::NodeSecret;
    use crate::reachability::{Address, Transport};

    const OVERLAY: OverlayId = OverlayId([3; 32]);

    fn card(port: u16) -> Card {
        let address = Address { ip: [8, 8, 8, 8].into(), transport: Transport::Quic, port };
        Card::sign(&NodeSecret::from_bytes([9; 32]), &OVERLAY, &[address], UnixMillis(1_000)).unwrap()
    }

    #[test]
    fn reads_and_verifies_once_and_tells_forgeries() {
        let mut cards = Cards::new(OVERLAY, AddressScope::Any);
        let genuine = card(1);
        let read = cards.read(&genuine.signed, UnixMillis(1_000)).unwrap();
        assert!(Arc::ptr_eq(&read, &cards.read(&genuine.signed, UnixMillis(1_000)).unwrap()));
        assert!(cards.holds(&read) && cards.holds(&read));
        let mut forged = genuine.signed.to_vec();
        *forged.last_mut().unwrap() ^= 1;
        let forged = cards.read(&forged.into(), UnixMillis(1_000)).unwrap();
        assert!(!cards.holds(&forged) && cards.holds(&read));
        assert!(cards.read(&Bytes::from_static(b"no card"), UnixMillis(1_000)).is_none());
    }

    #[test]
    fn is_bounded_and_keeps_what_is_used() {
        let mut cards = Cards::new(OVERLAY, AddressScope::Any);
        let friend = cards.read(&card(1).signed, UnixMillis(1_000)).unwrap();
        let mut forged = card(2).signed.to_vec();
        for n in 0..u32::try_from(3 * GENERATION).unwrap() {
            let end = forged.len() - 4;
            forged[end..].copy_from_slice(&n.to_be_bytes());
            cards.read(&Bytes::copy_from_slice(&forged), UnixMillis(1_000)).unwrap();
            if n % 500 == 0 {
                assert!(Arc::ptr_eq(&friend, &cards.read(&friend.signed, UnixMillis(1_000)).unwrap()));
            }
        }
        assert!(cards.young.len() + cards.old.len() <= 2 * GENERATION);
    }
}
