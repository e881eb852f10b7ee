//! The messages of `relay/1` (docs/protocol.md "relay/1"): requests and replies, to bytes and back. Pure.

use super::{CallId, Refusal};
use crate::identity::NodeKey;
use crate::wire::pb;
use crate::wire::scanner::{Field, Kind, Shape, scan};
use bytes::Bytes;
use prost::Message;
use std::net::{IpAddr, SocketAddr};

/// A request and a reply at most, bytes.
pub const MAX_REQUEST_BYTES: usize = 96;
pub const MAX_REPLY_BYTES: usize = 256;

/// One of each family.
const MAX_ADDRESSES: usize = 2;

const ADDRESS: Kind = Kind::Bytes { min: 6, max: 18 };

static REQUEST: Shape = Shape {
    fields: &[
        Field { number: 1, kind: Kind::U32, at_most: 1 },
        Field { number: 2, kind: Kind::Bytes { min: 16, max: 16 }, at_most: 1 },
        Field { number: 3, kind: Kind::U32, at_most: 1 },
        Field { number: 4, kind: Kind::Bytes { min: 32, max: 32 }, at_most: 1 },
    ],
    unknown_allowed: false,
};

static REPLY: Shape = Shape {
    fields: &[
        Field { number: 1, kind: Kind::U32, at_most: 1 },
        Field { number: 2, kind: ADDRESS, at_most: MAX_ADDRESSES },
        Field { number: 3, kind: ADDRESS, at_most: MAX_ADDRESSES },
        Field { number: 4, kind: Kind::U32, at_most: 1 },
        Field { number: 5, kind: Kind::U32, at_most: 1 },
        Field { number: 6, kind: Kind::Bytes { min: 4, max: 16 }, at_most: 1 },
        Field { number: 7, kind: Kind::U32, at_most: 1 },
        Field { number: 8, kind: Kind::Bool, at_most: 1 },
        Field { number: 9, kind: Kind::U32, at_most: 1 },
    ],
    unknown_allowed: false,
};

/// Bytes that are no message, or say what makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed")]
pub struct Malformed;

/// What a relay is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Allocate { call: CallId, seconds: u32, peer: Option<NodeKey> },
    Renew { call: CallId, seconds: u32 },
    Release { call: CallId },
    Where,
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Given { ours: Vec<SocketAddr>, theirs: Vec<SocketAddr>, seconds: u32, bits_per_second: u32 },
    Renewed { seconds: u32 },
    Released,
    Here { observed: Option<IpAddr>, stun_port: Option<u16>, media: bool },
    Refused(Refusal),
}

impl Request {
    pub fn encode(&self) -> Bytes {
        let message = match self {
            Self::Allocate { call, seconds, peer } => pb::RelayRequest {
                kind: 1,
                call: Bytes::copy_from_slice(call),
                seconds: *seconds,
                peer: peer.map(|peer| Bytes::copy_from_slice(&peer.0)).unwrap_or_default(),
            },
            Self::Renew { call, seconds } => pb::RelayRequest {
                kind: 2,
                call: Bytes::copy_from_slice(call),
                seconds: *seconds,
                ..Default::default()
            },
            Self::Release { call } => {
                pb::RelayRequest { kind: 3, call: Bytes::copy_from_slice(call), ..Default::default() }
            }
            Self::Where => pb::RelayRequest { kind: 4, ..Default::default() },
        };
        message.encode_to_vec().into()
    }

    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        if bytes.len() > MAX_REQUEST_BYTES {
            return Err(Malformed);
        }
        scan(&bytes, &REQUEST).map_err(|_| Malformed)?;
        let message = pb::RelayRequest::decode(bytes).map_err(|_| Malformed)?;
        let call = || CallId::try_from(&message.call[..]).map_err(|_| Malformed);
        let peer = match message.peer.len() {
            0 => None,
            _ => Some(NodeKey(message.peer[..].try_into().map_err(|_| Malformed)?)),
        };
        let seconds = message.seconds;
        match message.kind {
            1 => Ok(Self::Allocate { call: call()?, seconds, peer }),
            2 if peer.is_none() => Ok(Self::Renew { call: call()?, seconds }),
            3 if peer.is_none() && seconds == 0 => Ok(Self::Release { call: call()? }),
            4 if peer.is_none() && seconds == 0 && message.call.is_empty() => Ok(Self::Where),
            _ => Err(Malformed),
        }
    }
}

impl Reply {
    pub fn encode(&self) -> Bytes {
        let message = match self {
            Self::Given { ours, theirs, seconds, bits_per_second } => pb::RelayReply {
                kind: 1,
                ours: ours.iter().take(MAX_ADDRESSES).map(address_bytes).collect(),
                theirs: theirs.iter().take(MAX_ADDRESSES).map(address_bytes).collect(),
                seconds: *seconds,
                bits_per_second: *bits_per_second,
                ..Default::default()
            },
            Self::Renewed { seconds } => pb::RelayReply { kind: 2, seconds: *seconds, ..Default::default() },
            Self::Released => pb::RelayReply { kind: 3, ..Default::default() },
            Self::Here { observed, stun_port, media } => pb::RelayReply {
                kind: 4,
                observed: observed.map(ip_bytes).unwrap_or_default(),
                stun_port: stun_port.unwrap_or_default().into(),
                media: *media,
                ..Default::default()
            },
            Self::Refused(why) => pb::RelayReply { kind: 5, reason: *why as u32 + 1, ..Default::default() },
        };
        message.encode_to_vec().into()
    }

    /// # Errors
    /// [`Malformed`]. A reason of a newer version is [`Refusal::Busy`].
    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        if bytes.len() > MAX_REPLY_BYTES {
            return Err(Malformed);
        }
        scan(&bytes, &REPLY).map_err(|_| Malformed)?;
        let message = pb::RelayReply::decode(bytes).map_err(|_| Malformed)?;
        let given = !message.ours.is_empty() || !message.theirs.is_empty() || message.bits_per_second != 0;
        let here = !message.observed.is_empty() || message.stun_port != 0 || message.media;
        let seconds = message.seconds;
        match (message.kind, given, here, message.reason) {
            (1, _, false, 0) => {
                let all = |all: &[Bytes]| match all.iter().map(address_of).collect::<Option<Vec<_>>>() {
                    Some(all) if !all.is_empty() => Ok(all),
                    _ => Err(Malformed),
                };
                let (ours, theirs) = (all(&message.ours)?, all(&message.theirs)?);
                Ok(Self::Given { ours, theirs, seconds, bits_per_second: message.bits_per_second })
            }
            (2, false, false, 0) => Ok(Self::Renewed { seconds }),
            (3, false, false, 0) if seconds == 0 => Ok(Self::Released),
            (4, false, _, 0) if seconds == 0 => {
                let observed = match message.observed.len() {
                    0 => None,
                    _ => Some(ip_of(&message.observed).ok_or(Malformed)?),
                };
                let port = u16::try_from(message.stun_port).map_err(|_| Malformed)?;
                Ok(Self::Here { observed, stun_port: (port != 0).then_some(port), media: message.media })
            }
            (5, false, false, 1..) if seconds == 0 => {
                let why = usize::try_from(message.reason - 1).ok().and_then(|at| Refusal::ALL.get(at));
                Ok(Self::Refused(why.copied().unwrap_or(Refusal::Busy)))
            }
            _ => Err(Malformed),
        }
    }
}

fn ip_bytes(ip: IpAddr) -> Bytes {
    match ip.to_canonical() {
        IpAddr::V4(ip) => Bytes::copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => Bytes::copy_from_slice(&ip.octets()),
    }
}

fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn address_bytes(address: &SocketAddr) -> Bytes {
    [&ip_bytes(address.ip())[..], &address.port().to_be_bytes()].concat().into()
}

fn address_of(bytes: &Bytes) -> Option<SocketAddr> {
    let (ip, port) = bytes.split_last_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    (port != 0).then_some(SocketAddr::new(ip_of(ip)?, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> [Request; 5] {
        let call = [7; 16];
        [
            Request::Allocate { call, seconds: 900, peer: Some(NodeKey([1; 32])) },
            Request::Allocate { call, seconds: 0, peer: None },
            Request::Renew { call, seconds: u32::MAX },
            Request::Release { call },
            Request::Where,
        ]
    }

    fn replies() -> Vec<Reply> {
        let both: Vec<SocketAddr> = vec!["1.2.3.4:5".parse().unwrap(), "[2a00::1]:6".parse().unwrap()];
        let mut replies = vec![
            Reply::Given { ours: both.clone(), theirs: both.clone(), seconds: 7_200, bits_per_second: 256_000 },
            Reply::Given { ours: both[..1].to_vec(), theirs: both[1..].to_vec(), seconds: 60, bits_per_second: 1 },
            Reply::Renewed { seconds: 1 },
            Reply::Released,
            Reply::Here { observed: None, stun_port: None, media: false },
            Reply::Here { observed: Some(both[1].ip()), stun_port: Some(3_478), media: true },
        ];
        replies.extend(Refusal::ALL.map(Reply::Refused));
        replies
    }

    #[test]
    fn what_was_written_is_read_and_bounded() {
        for request in requests() {
            assert!(request.encode().len() <= MAX_REQUEST_BYTES);
            assert_eq!(Request::decode(request.encode()), Ok(request));
        }
        for reply in replies() {
            assert!(reply.encode().len() <= MAX_REPLY_BYTES);
            assert_eq!(Reply::decode(reply.encode()), Ok(reply));
        }
        assert_eq!(Refusal::ALL.map(|why| why as usize), std::array::from_fn(|at| at), "the numbers are frozen");
    }

    #[test]
    fn bytes_of_the_protocol_stay_as_they_are() {
        assert_eq!(Request::Where.encode()[..], [8, 4]);
        let release = Request::Release { call: [9; 16] };
        assert_eq!(release.encode()[..4], [8, 3, 18, 16]);
        assert_eq!(Reply::Refused(Refusal::Full).encode()[..], [8, 5, 72, 6]);
        let given = Reply::Given {
            ours: vec!["1.2.3.4:258".parse().unwrap()],
            theirs: vec!["1.2.3.4:259".parse().unwrap()],
            seconds: 1,
            bits_per_second: 2,
        };
        assert_eq!(given.encode()[..], [8, 1, 18, 6, 1, 2, 3, 4, 1, 2, 26, 6, 1, 2, 3, 4, 1, 3, 32, 1, 40, 2]);
    }

    #[test]
    fn what_makes_no_sense_is_malformed() {
        let request = |fields: pb::RelayRequest| Request::decode(fields.encode_to_vec().into());
        let call = Bytes::from_static(&[1; 16]);
        for bad in [
            pb::RelayRequest::default(),
            pb::RelayRequest { kind: 5, ..Default::default() },
            pb::RelayRequest { kind: 1, ..Default::default() },
            pb::RelayRequest { kind: 4, call: call.clone(), ..Default::default() },
            pb::RelayRequest { kind: 3, call: call.clone(), seconds: 1, ..Default::default() },
            pb::RelayRequest { kind: 2, call, peer: Bytes::from_static(&[1; 32]), ..Default::default() },
        ] {
            assert_eq!(request(bad.clone()), Err(Malformed), "{bad:?}");
        }
        let address = Bytes::from_static(&[1, 2, 3, 4, 0, 5]);
        for bad in [
            pb::RelayReply::default(),
            pb::RelayReply { kind: 1, ours: vec![address.clone()], ..Default::default() },
            pb::RelayReply {
                kind: 1,
                ours: vec![address.clone(); 3],
                theirs: vec![address.clone()],
                ..Default::default()
            },
            pb::RelayReply {
                kind: 1,
                ours: vec![Bytes::from_static(&[0; 7])],
                theirs: vec![address.clone()],
                ..Default::default()
            },
            pb::RelayReply {
                kind: 1,
                ours: vec![Bytes::from_static(&[1, 2, 3, 4, 0, 0])],
                theirs: vec![address],
                ..Default::default()
            },
            pb::RelayReply { kind: 2, media: true, ..Default::default() },
            pb::RelayReply { kind: 4, stun_port: 65_536, ..Default::default() },
            pb::RelayReply { kind: 4, observed: Bytes::from_static(&[1; 5]), ..Default::default() },
            pb::RelayReply { kind: 5, ..Default::default() },
        ] {
            assert_eq!(Reply::decode(bad.encode_to_vec().into()), Err(Malformed), "{bad:?}");
        }
        let newer = pb::RelayReply { kind: 5, reason: 99, ..Default::default() };
        assert_eq!(Reply::decode(newer.encode_to_vec().into()), Ok(Reply::Refused(Refusal::Busy)));
        for whole in requests().map(|request| request.encode()) {
            for cut in 0..whole.len() {
                let _ = Request::decode(whole.slice(..cut));
                let _ = Reply::decode(whole.slice(..cut));
            }
        }
    }
}
