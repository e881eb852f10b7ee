//! STUN Binding (RFC 8489), as much of it as tells an address: a request without credentials, its answer, and a look at
//! what kind of message a datagram is. Checks of ICE, which carry credentials, are the ICE agent's: its parser refuses
//! messages without them, so it cannot be used here. Not here: sockets, and how often anybody is answered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Type, length, cookie, transaction id (§5).
pub const HEADER: usize = 20;

/// A Binding answer at most, bytes: header, XOR-MAPPED-ADDRESS of IPv6, FINGERPRINT.
pub const MAX_REPLY: usize = HEADER + 4 + 20 + FINGERPRINT_BYTES;

const COOKIE: [u8; 4] = 0x2112_A442_u32.to_be_bytes();
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const SOFTWARE: u16 = 0x8022;
const FINGERPRINT: u16 = 0x8028;
const FINGERPRINT_BYTES: usize = 8;
/// §14.7
const FINGERPRINT_XOR: u32 = 0x5354_554e;

/// Tells answers apart.
pub type TransactionId = [u8; 12];

/// What a STUN message is for (§5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Request,
    Indication,
    Success,
    Error,
}

/// The class and the transaction of a STUN message; `None` for a datagram that is none. Looks at the header alone.
pub fn look(datagram: &[u8]) -> Option<(Class, TransactionId)> {
    let header = datagram.first_chunk::<HEADER>()?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let is_stun = header[0] & 0xc0 == 0 && header[4..8] == COOKIE && length + HEADER == datagram.len();
    if !is_stun || !length.is_multiple_of(4) {
        return None;
    }
    let class = match (header[0] & 1, header[1] & 0x10) {
        (0, 0) => Class::Request,
        (0, _) => Class::Indication,
        (_, 0) => Class::Success,
        (_, _) => Class::Error,
    };
    let mut id = [0; 12];
    id.copy_from_slice(&header[8..]);
    Some((class, id))
}

/// A Binding request. `id`: unpredictable, or somebody else answers.
pub fn binding_request(id: &TransactionId) -> Vec<u8> {
    let mut bytes = header(BINDING_REQUEST, id);
    // Long enough that no answer is much longer.
    attribute(&mut bytes, SOFTWARE, b"peerline");
    seal(&mut bytes);
    bytes
}

/// The transaction of a plain Binding request: no other method or class, attributes in order, the right fingerprint if
/// there is one. What a server need not know it may ignore; a comprehension-required attribute (§14) makes it no plain one.
pub fn parse_request(datagram: &[u8]) -> Option<TransactionId> {
    let (_, id) = look(datagram)?;
    let wanted = datagram[..2] == BINDING_REQUEST.to_be_bytes();
    let mut plain = wanted;
    for_each(datagram, |kind, _| plain &= kind >= 0x8000)?;
    plain.then_some(id)
}

/// The answer to request `id` from `source`, with a fingerprint.
pub fn binding_reply(id: &TransactionId, source: SocketAddr) -> Vec<u8> {
    let mut bytes = header(BINDING_SUCCESS, id);
    let mut value = vec![0];
    let ip = source.ip().to_canonical();
    value.push(if ip.is_ipv4() { 1 } else { 2 });
    value.extend((source.port() ^ 0x2112).to_be_bytes());
    match ip {
        IpAddr::V4(ip) => value.extend(ip.octets()),
        IpAddr::V6(ip) => value.extend(ip.octets()),
    }
    mask(&mut value[4..], id);
    attribute(&mut bytes, XOR_MAPPED_ADDRESS, &value);
    seal(&mut bytes);
    bytes
}

/// Where request `id` came from, by its answer; `None` for anything but a good answer to it with a fingerprint.
pub fn parse_reply(datagram: &[u8], id: &TransactionId) -> Option<SocketAddr> {
    let (_, its) = look(datagram)?;
    if its != *id || datagram[..2] != BINDING_SUCCESS.to_be_bytes() {
        return None;
    }
    let mut found = None;
    let sealed = for_each(datagram, |kind, value| {
        if kind == XOR_MAPPED_ADDRESS && found.is_none() {
            found = address(value, id);
        }
    })?;
    found.filter(|_| sealed).filter(|address| address.port() != 0 && !address.ip().is_unspecified())
}

fn address(value: &[u8], id: &TransactionId) -> Option<SocketAddr> {
    let (head, ip) = value.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([head[2], head[3]]) ^ 0x2112;
    let mut ip = ip.to_vec();
    mask(&mut ip, id);
    let ip: IpAddr = match head[1] {
        1 => Ipv4Addr::from(<[u8; 4]>::try_from(&ip[..]).ok()?).into(),
        2 => Ipv6Addr::from(<[u8; 16]>::try_from(&ip[..]).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// XOR with the cookie, then the transaction (§14.2).
fn mask(ip: &mut [u8], id: &TransactionId) {
    for (byte, key) in ip.iter_mut().zip(COOKIE.iter().chain(id)) {
        *byte ^= key;
    }
}

fn header(kind: u16, id: &TransactionId) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAX_REPLY);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(COOKIE);
    bytes.extend(id);
    bytes
}

/// Values here are short and whole words.
fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend(kind.to_be_bytes());
    bytes.extend((value.len() as u16).to_be_bytes());
    bytes.extend(value);
}

/// The length, then the fingerprint over everything before it (§14.7).
fn seal(bytes: &mut Vec<u8>) {
    let length = (bytes.len() - HEADER + FINGERPRINT_BYTES) as u16;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    let sum = crc32(bytes) ^ FINGERPRINT_XOR;
    attribute(bytes, FINGERPRINT, &sum.to_be_bytes());
}

/// Each attribute in order, and whether there was a fingerprint; `None` when they do not fill the message exactly, or a
/// fingerprint is wrong or not the last.
fn for_each(datagram: &[u8], mut with: impl FnMut(u16, &[u8])) -> Option<bool> {
    let mut at = HEADER;
    while at < datagram.len() {
        let head = datagram.get(at..at + 4)?;
        let (kind, length) =
            (u16::from_be_bytes([head[0], head[1]]), usize::from(u16::from_be_bytes([head[2], head[3]])));
        let value = datagram.get(at + 4..at + 4 + length)?;
        let next = at + 4 + length.next_multiple_of(4);
        if kind == FINGERPRINT {
            let sum = crc32(&datagram[..at]) ^ FINGERPRINT_XOR;
            return (value == sum.to_be_bytes() && next == datagram.len()).then_some(true);
        }
        with(kind, value);
        at = next;
    }
    (at == datagram.len()).then_some(false)
}

/// CRC-32 of ISO-HDLC, a bit at a time: 60 bytes are 480 steps.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
    !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769 §2.2 and §2.3: the transaction and the mapped addresses of the sample answers.
    const ID: TransactionId = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];

    #[test]
    fn says_addresses_as_the_test_vectors_do() {
        let v4: SocketAddr = "192.0.2.1:32853".parse().unwrap();
        let reply = binding_reply(&ID, v4);
        assert_eq!(reply[20..32], [0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        assert_eq!((parse_reply(&reply, &ID), reply.len()), (Some(v4), 40));
        let v6: SocketAddr = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
        let reply = binding_reply(&ID, v6);
        let masked = [0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79, 0xbc, 0x25, 0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9];
        assert_eq!(reply[28..44], masked);
        assert_eq!((parse_reply(&reply, &ID), reply.len()), (Some(v6), MAX_REPLY));
        let mapped = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().into(), 32853);
        assert_eq!(parse_reply(&binding_reply(&ID, mapped), &ID), Some(v4));
    }

    #[test]
    fn the_fingerprint_is_the_one_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_request_is_read_back_and_a_bare_one_too() {
        let request = binding_request(&ID);
        assert_eq!(look(&request), Some((Class::Request, ID)));
        assert_eq!(parse_request(&request), Some(ID));
        let mut bare = header(BINDING_REQUEST, &ID);
        assert_eq!(parse_request(&bare), Some(ID));
        bare[1] = 0x11;
        assert_eq!(look(&bare), Some((Class::Indication, ID)));
        assert_eq!(parse_request(&bare), None);
        let mut check = header(BINDING_REQUEST, &ID);
        attribute(&mut check, 0x0006, b"user");
        seal(&mut check);
        assert_eq!(parse_request(&check), None, "a check of ICE is not for a server");
        assert_eq!(look(&check), Some((Class::Request, ID)));
    }

    #[test]
    fn no_change_of_a_bit_is_believed_and_no_cut_panics() {
        let source = "1.2.3.4:5".parse().unwrap();
        for whole in [binding_request(&ID), binding_reply(&ID, source)] {
            // In a request the fingerprint may become an attribute that nobody knows.
            let kind = whole.len() - FINGERPRINT_BYTES;
            for bit in (0..whole.len() * 8).filter(|bit| !(kind..kind + 2).contains(&(bit / 8))) {
                let mut bytes = whole.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(parse_request(&bytes), Some(ID));
                assert_eq!(parse_reply(&bytes, &ID), None);
            }
            for cut in 0..whole.len() {
                assert_eq!((parse_request(&whole[..cut]), parse_reply(&whole[..cut], &ID)), (None, None));
            }
        }
        assert_eq!(parse_reply(&binding_reply(&ID, source), &[0; 12]), None, "an answer to another question");
        assert_eq!(parse_reply(&binding_reply(&ID, "0.0.0.0:5".parse().unwrap()), &ID), None);
    }
}
