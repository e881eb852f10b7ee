//! A server's card: its own signed word on where it can be reached. Answers carry cards, so a liar can hide a node but
//! not send others to a wrong address for it (K1); that the address leads there is known only by dialling.

use super::network::Network;
use super::position::Position;
use crate::clock::UnixMillis;
use crate::identity::{NodeKey, NodeSecret};
use crate::reachability::{Address, Transport};
use crate::wire::scanner::{Field, Kind, Shape, scan};
use crate::wire::signature::{self, Domain};
use crate::wire::{AddressScope, OverlayId, is_global, pb};
use bytes::Bytes;
use prost::Message;
use std::net::IpAddr;

/// Addresses of a card at most: QUIC and TCP, IPv4 and IPv6.
pub const MAX_CARD_ADDRESSES: usize = 4;

/// A signed card at most, bytes.
pub const MAX_CARD_BYTES: usize = 300;

/// Cards that claim to be from later than this are refused.
const MAX_AHEAD_MS: u64 = 300_000;

pub(super) static ADDRESS: Shape = Shape {
    fields: &[
        Field { number: 1, kind: Kind::Bytes { min: 4, max: 16 }, at_most: 1 },
        Field { number: 2, kind: Kind::U32, at_most: 1 },
        Field { number: 3, kind: Kind::U32, at_most: 1 },
    ],
    unknown_allowed: false,
};

static PAYLOAD: Shape = Shape {
    fields: &[
        Field { number: 1, kind: Kind::Bytes { min: 32, max: 32 }, at_most: 1 },
        Field { number: 2, kind: Kind::Message { max: 32, shape: &ADDRESS }, at_most: MAX_CARD_ADDRESSES },
        Field { number: 3, kind: Kind::U64, at_most: 1 },
    ],
    unknown_allowed: true,
};

static SIGNED: Shape = Shape {
    fields: &[
        Field { number: 1, kind: Kind::Bytes { min: 1, max: 230 }, at_most: 1 },
        Field { number: 2, kind: Kind::Bytes { min: 64, max: 64 }, at_most: 1 },
    ],
    unknown_allowed: false,
};

/// A card. Equal when it is the same node's card of the same time.
#[derive(Clone, Debug)]
pub struct Card {
    pub node: NodeKey,
    pub position: Position,
    /// Of the first global IPv4 address, or of the first: claimed until it was dialled. Whose card counts as one of a network
    /// is to be dialled there ([`Card::at_its_network`]).
    pub network: Network,
    /// At least one; best first.
    pub addresses: Vec<Address>,
    /// Unix milliseconds; a later card replaces an earlier one.
    pub issued_at: UnixMillis,
    /// The bytes that travel. Empty in simulations.
    pub signed: Bytes,
}

impl PartialEq for Card {
    fn eq(&self, other: &Self) -> bool {
        self.node == other.node && self.issued_at == other.issued_at
    }
}
impl Eq for Card {}

/// Why bytes are no card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    #[error("malformed card")]
    Malformed,
    #[error("a card without an address that may be dialled")]
    NoAddress,
    #[error("a card from the future")]
    TooFarAhead,
    #[error("a card that its node did not sign")]
    BadSignature,
}

impl Card {
    /// This node's own card.
    pub fn sign(secret: &NodeSecret, overlay: &OverlayId, addresses: &[Address], now: UnixMillis) -> Option<Self> {
        let addresses = addresses.get(..addresses.len().min(MAX_CARD_ADDRESSES))?;
        let first = addresses.first()?;
        let node = secret.public();
        let payload = pb::PeerCard {
            node_key: Bytes::copy_from_slice(&node.0),
            addresses: addresses.iter().map(to_pb).collect(),
            issued_at: now.0,
        }
        .encode_to_vec();
        let key = ed25519_dalek::SigningKey::from_bytes(&secret.to_bytes());
        let signature = signature::sign(&key, Domain::PeerCard, Some(overlay), &signature::NONE, &payload).to_vec();
        Some(Self {
            node,
            position: Position::of_node(&node),
            network: network_of(addresses).unwrap_or(Network::of(first.ip)),
            addresses: addresses.to_vec(),
            issued_at: now,
            signed: pb::Signed { payload: payload.into(), signature: signature.into() }.encode_to_vec().into(),
        })
    }

    /// Reads a card; its signature is looked at by [`Card::verify`], when it is about to be used. Addresses outside of
    /// the overlay's scope are left out.
    ///
    /// # Errors
    /// Everything of [`CardError`] but `BadSignature`.
    pub fn read(signed: Bytes, scope: AddressScope, now: UnixMillis) -> Result<Self, CardError> {
        if signed.len() > MAX_CARD_BYTES {
            return Err(CardError::Malformed);
        }
        scan(&signed, &SIGNED).map_err(|_| CardError::Malformed)?;
        let wrapper = pb::Signed::decode(signed.clone()).map_err(|_| CardError::Malformed)?;
        scan(&wrapper.payload, &PAYLOAD).map_err(|_| CardError::Malformed)?;
        let payload = pb::PeerCard::decode(wrapper.payload.clone()).map_err(|_| CardError::Malformed)?;
        let node = NodeKey(payload.node_key[..].try_into().map_err(|_| CardError::Malformed)?);
        if payload.issued_at > now.0.saturating_add(MAX_AHEAD_MS) {
            return Err(CardError::TooFarAhead);
        }
        let allowed = |address: &Address| scope == AddressScope::Any || is_global(address.ip);
        let addresses: Vec<Address> = payload.addresses.iter().filter_map(of_pb).filter(allowed).collect();
        let first = addresses.first().ok_or(CardError::NoAddress)?;
        Ok(Self {
            node,
            position: Position::of_node(&node),
            network: network_of(&addresses).unwrap_or(Network::of(first.ip)),
            issued_at: UnixMillis(payload.issued_at),
            addresses,
            signed,
        })
    }

    /// The addresses in the network that the card counts for, and those that say nothing of networks. To dial the others
    /// would let one host, with a foreign address before its own, count as one of every network there is.
    pub fn at_its_network(&self) -> impl Iterator<Item = &Address> {
        let claims = |address: &Address| Network::of(address.ip).subnet == self.network.subnet;
        self.addresses.iter().filter(move |address| claims(address) || !is_global(address.ip))
    }

    /// Whether the node signed it: one Ed25519 verification.
    ///
    /// # Errors
    /// `BadSignature`, or `Malformed` for a card that never travelled.
    pub fn verify(&self, overlay: &OverlayId) -> Result<(), CardError> {
        let wrapper = pb::Signed::decode(self.signed.clone()).map_err(|_| CardError::Malformed)?;
        signature::verify(
            &self.node.0,
            Domain::PeerCard,
            Some(overlay),
            &signature::NONE,
            &wrapper.payload,
            &wrapper.signature,
        )
        .map_err(|_| CardError::BadSignature)
    }
}

/// The one that is dear: of the first global IPv4 address, if there is one.
pub(super) fn network_of(addresses: &[Address]) -> Option<Network> {
    let v4 = addresses.iter().find(|address| address.ip.to_canonical().is_ipv4() && is_global(address.ip));
    v4.or(addresses.first()).map(|address| Network::of(address.ip))
}

pub(super) fn to_pb(address: &Address) -> pb::CardAddress {
    pb::CardAddress {
        ip: match address.ip.to_canonical() {
            IpAddr::V4(v4) => Bytes::copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => Bytes::copy_from_slice(&v6.octets()),
        },
        port: address.port.into(),
        transport: match address.transport {
            Transport::Quic => 1,
            Transport::Tcp => 2,
        },
    }
}

/// `None` for what this version cannot dial.
pub(super) fn of_pb(address: &pb::CardAddress) -> Option<Address> {
    let ip = if let Ok(v4) = <[u8; 4]>::try_from(&address.ip[..]) {
        IpAddr::from(v4)
    } else {
        IpAddr::from(<[u8; 16]>::try_from(&address.ip[..]).ok()?).to_canonical()
    };
    let transport = match address.transport {
        1 => Transport::Quic,
        2 => Transport::Tcp,
        _ => return None,
    };
    let port = u16::try_from(address.port).ok().filter(|port| *port != 0)?;
    let dialable = !ip.is_unspecified() && !ip.is_multicast();
    dialable.then_some(Address { ip, transport, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn overlay() -> OverlayId {
        OverlayId::of_genesis(b"cards")
    }

    fn at(ip: &str) -> Address {
        Address { ip: ip.parse().unwrap(), transport: Transport::Quic, port: 4001 }
    }

    #[test]
    fn travels_and_is_verified() {
        let secret = NodeSecret::from_bytes([3; 32]);
        let addresses = [at("8.8.8.8"), at("2a00:1::1"), at("192.168.1.1"), at("8.8.4.4"), at("9.9.9.9")];
        let card = Card::sign(&secret, &overlay(), &addresses, NOW).unwrap();
        assert!(card.signed.len() <= MAX_CARD_BYTES);
        let read = Card::read(card.signed.clone(), AddressScope::Global, NOW).unwrap();
        assert_eq!(read, card);
        assert_eq!(read.addresses, [at("8.8.8.8"), at("2a00:1::1"), at("8.8.4.4")]);
        assert_eq!(read.verify(&overlay()), Ok(()));
        assert_eq!(read.verify(&OverlayId::of_genesis(b"another")), Err(CardError::BadSignature));
    }

    #[test]
    fn counts_for_the_network_in_which_it_is_dialled() {
        let secret = NodeSecret::from_bytes([3; 32]);
        let card = |addresses: &[Address]| Card::sign(&secret, &overlay(), addresses, NOW).unwrap();
        // A foreign address before the own one; IPv6, of which there is enough for everybody, before IPv4.
        let liar = card(&[at("2a00:1::1"), at("8.8.8.8"), at("9.9.9.9")]);
        assert_eq!(liar.network, Network::of("8.8.8.8".parse().unwrap()));
        assert!(liar.at_its_network().eq([&at("8.8.8.8")]));
        let office = [at("2a00:1::1"), at("192.168.1.1"), at("172.17.0.1")];
        assert!(card(&office).at_its_network().eq(&office), "private addresses say nothing of networks");
    }

    #[test]
    fn refuses_what_is_no_card() {
        let secret = NodeSecret::from_bytes([3; 32]);
        let late = Card::sign(&secret, &overlay(), &[at("8.8.8.8")], UnixMillis(NOW.0 + 400_000)).unwrap();
        assert_eq!(Card::read(late.signed, AddressScope::Global, NOW), Err(CardError::TooFarAhead));
        let private = Card::sign(&secret, &overlay(), &[at("10.0.0.1")], NOW).unwrap();
        assert_eq!(Card::read(private.signed.clone(), AddressScope::Global, NOW), Err(CardError::NoAddress));
        assert!(Card::read(private.signed, AddressScope::Any, NOW).is_ok());
        assert_eq!(Card::read(Bytes::from_static(b"\x0a\x01x"), AddressScope::Any, NOW), Err(CardError::Malformed));
        assert!(Card::sign(&secret, &overlay(), &[], NOW).is_none());
    }
}
