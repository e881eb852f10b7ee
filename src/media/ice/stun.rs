//! STUN (RFC 8489) as far as it is ours: telling it from RTP, asking a server for the address it sees, and looking a
//! check over before the ICE agent reads it. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const MAGIC: [u8; 4] = 0x2112_a442_u32.to_be_bytes();
const HEADER: usize = 20;
/// Longest message that is read, bytes: RFC 8489 §6.1 keeps requests below the smallest MTU.
const MAX_BYTES: usize = 576;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
const MAPPED_ADDRESS: u16 = 0x0001;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// What a check and its answer are made of (RFC 8445 §7.1, RFC 8489 §14): these, and what may be ignored.
const OF_A_CHECK: [u16; 6] = [0x0006, 0x0008, 0x0009, XOR_MAPPED_ADDRESS, 0x0024, 0x0025];
/// Optional ones that the agent would remark upon in the log.
const REMARKED: [u16; 2] = [0x8023, 0xc057];

pub(super) type Transaction = [u8; 12];

/// What kind of Binding message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Request,
    Success,
    Error,
}

/// Whether a packet on a port of media is STUN: RTP and RTCP begin with other bits (RFC 7983).
pub(in crate::media) fn is_stun(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| *first < 4) && packet.get(4..8) == Some(&MAGIC)
}

/// Reads the shape of a Binding message: `None` for anything that is none, or holds what has no place in it.
pub(super) fn look_over(packet: &[u8]) -> Option<(Class, Transaction)> {
    let (class, transaction, attributes) = open(packet)?;
    let known = |kind: u16| (kind >= 0x8000 && !REMARKED.contains(&kind)) || OF_A_CHECK.contains(&kind);
    Attributes(attributes)
        .all(|attribute| attribute.is_some_and(|(kind, _)| known(kind)))
        .then_some((class, transaction))
}

/// Asks a server which address it sees.
pub(super) fn binding_request(transaction: Transaction) -> Vec<u8> {
    let mut request = Vec::with_capacity(HEADER);
    request.extend(BINDING_REQUEST.to_be_bytes());
    request.extend([0, 0]);
    request.extend(MAGIC);
    request.extend(transaction);
    request
}

/// The address that a server's answer names, if it is one.
pub(super) fn mapped_address(packet: &[u8]) -> Option<(Transaction, SocketAddr)> {
    let (class, transaction, attributes) = open(packet)?;
    let mut address = None;
    for attribute in Attributes(attributes) {
        let (kind, value) = attribute?;
        match kind {
            XOR_MAPPED_ADDRESS => address = address.or(read_address(value, Some(transaction))),
            MAPPED_ADDRESS => {}
            // RFC 8489 §6.3.3: what must be understood and is not spoils the answer.
            0..0x8000 if !OF_A_CHECK.contains(&kind) => return None,
            _ => {}
        }
    }
    (class == Class::Success).then_some((transaction, address?))
}

fn open(packet: &[u8]) -> Option<(Class, Transaction, &[u8])> {
    if !is_stun(packet) || packet.len() > MAX_BYTES || !packet.len().is_multiple_of(4) {
        return None;
    }
    let word = |at: usize| packet.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let class = match word(0)? {
        BINDING_REQUEST => Class::Request,
        BINDING_SUCCESS => Class::Success,
        BINDING_ERROR => Class::Error,
        _ => return None,
    };
    let attributes = packet.get(HEADER..)?;
    let transaction = packet.get(8..HEADER)?.try_into().ok()?;
    (usize::from(word(2)?) == attributes.len()).then_some((class, transaction, attributes))
}

/// Attributes one by one; `None` where they do not add up, and then no more.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Option<(u16, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let one = || {
            let (head, rest) = self.0.split_first_chunk::<4>()?;
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let rest_after = rest.get(length.next_multiple_of(4)..)?;
            Some((u16::from_be_bytes([head[0], head[1]]), rest.get(..length)?, rest_after))
        };
        match one() {
            Some((kind, value, rest)) => {
                self.0 = rest;
                Some(Some((kind, value)))
            }
            None => {
                self.0 = &[];
                Some(None)
            }
        }
    }
}

fn read_address(value: &[u8], transaction: Option<Transaction>) -> Option<SocketAddr> {
    let mut pad = [0; 16];
    if let Some(transaction) = transaction {
        pad[..4].copy_from_slice(&MAGIC);
        pad[4..].copy_from_slice(&transaction);
    }
    let (head, ip) = value.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([head[2] ^ pad[0], head[3] ^ pad[1]]);
    let ip = match (head[1], ip.len()) {
        (1, 4) => {
            let ip: [u8; 4] = ip.try_into().ok()?;
            IpAddr::V4(Ipv4Addr::from(std::array::from_fn::<u8, 4, _>(|at| ip[at] ^ pad[at])))
        }
        (2, 16) => {
            let ip: [u8; 16] = ip.try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|at| ip[at] ^ pad[at])))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a server answers.
    pub(in crate::media) fn answer(request: &[u8], seen: SocketAddr) -> Vec<u8> {
        let mut pad = MAGIC.to_vec();
        pad.extend(&request[8..20]);
        let ip = match seen.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let mut answer = BINDING_SUCCESS.to_be_bytes().to_vec();
        answer.extend((8 + ip.len() as u16).to_be_bytes());
        answer.extend(&pad);
        answer.extend(XOR_MAPPED_ADDRESS.to_be_bytes());
        answer.extend((4 + ip.len() as u16).to_be_bytes());
        answer.extend([0, if ip.len() == 4 { 1 } else { 2 }]);
        answer.extend((seen.port() ^ 0x2112).to_be_bytes());
        answer.extend(ip.iter().zip(&pad).map(|(byte, pad)| byte ^ pad));
        answer
    }

    #[test]
    fn reads_the_address_of_an_answer() {
        for seen in ["8.7.6.5:61000", "[2a01::5]:9"] {
            let (seen, request) = (seen.parse().unwrap(), binding_request([5; 12]));
            assert_eq!(mapped_address(&answer(&request, seen)), Some(([5; 12], seen)));
            assert_eq!(mapped_address(&request), None);
            assert_eq!(look_over(&request), Some((Class::Request, [5; 12])));
        }
    }

    /// RFC 5769 §2.2.
    #[test]
    fn reads_the_sample_response() {
        let sample = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a6430008\
                      00142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96";
        let sample = data_encoding::HEXLOWER.decode(sample.replace(' ', "").as_bytes()).unwrap();
        assert_eq!(mapped_address(&sample).unwrap().1, "192.0.2.1:32853".parse().unwrap());
    }

    #[test]
    fn speech_is_not_stun_and_cut_messages_are_nothing() {
        assert!(!is_stun(&[0x80, 0, 0, 1]) && !is_stun(&[]) && !is_stun(&[0, 1, 0, 0, 1, 2, 3, 4]));
        let whole = answer(&binding_request([5; 12]), "8.7.6.5:61000".parse().unwrap());
        for length in 0..whole.len() {
            assert_eq!(mapped_address(&whole[..length]), None);
            assert_eq!(look_over(&whole[..length]), None);
        }
        let mut foreign = whole.clone();
        foreign[20..22].copy_from_slice(&MAPPED_ADDRESS.to_be_bytes());
        assert_eq!(look_over(&foreign), None, "the agent would remark upon it");
    }

    proptest! {
        #[test]
        fn whatever_passes_the_look_is_safe_for_the_agent(
            class in prop::sample::select(vec![BINDING_REQUEST, BINDING_SUCCESS, BINDING_ERROR, 0x0011, 0x0003]),
            attributes in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..40)), 0..8),
            cut in any::<bool>(),
        ) {
            let mut body = Vec::new();
            for (kind, value) in attributes {
                let kind = if kind % 2 == 0 { OF_A_CHECK[usize::from(kind / 2) % 6] } else { kind };
                body.extend(kind.to_be_bytes());
                body.extend((value.len() as u16).to_be_bytes());
                body.extend(&value);
                body.resize(body.len().next_multiple_of(4), 0);
            }
            if cut {
                body.truncate(body.len() / 8 * 4);
            }
            let mut packet = class.to_be_bytes().to_vec();
            packet.extend((body.len() as u16).to_be_bytes());
            packet.extend(MAGIC);
            packet.extend([9; 12]);
            packet.extend(body);
            let _ = mapped_address(&packet);
            if look_over(&packet).is_some() {
                let _ = is::stun::StunMessage::parse(&packet);
            }
        }
    }
}
