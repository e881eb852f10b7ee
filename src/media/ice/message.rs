//! What one node tells the other of the ways to it: `Ice` in a frame of their link (docs/protocol.md "Paths of media").
//! Pure: bytes in, values out. The far end is who it says to be, and not trusted for that: everything is bounded, and an
//! address that one host cannot have, or that leads into this machine, is skipped and counted.

use super::CallId;
use crate::wire::pb;
use bytes::Bytes;
use prost::Message as _;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// The version spoken here.
const VERSION: u32 = 1;
/// Longest message, bytes.
pub(super) const MAX_BYTES: usize = 4 * 1024;
/// Candidates of one generation, all messages together; and bytes of one.
pub(super) const MAX_CANDIDATES: usize = 12;
const MAX_CANDIDATE_BYTES: usize = 256;
/// RFC 8839 §5.4 asks for 24 and 128 random bits, six of them in a character; longer than these nobody needs.
const UFRAG_BYTES: std::ops::RangeInclusive<usize> = 4..=32;
const PWD_BYTES: std::ops::RangeInclusive<usize> = 22..=64;

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) call: CallId,
    pub(super) generation: u32,
    pub(super) ufrag: String,
    pub(super) pwd: String,
    pub(super) candidates: Vec<Candidate>,
    /// There are no more in this generation.
    pub(super) done: bool,
    /// Candidates of unknown kinds, and of addresses nobody can be at.
    pub(super) skipped: usize,
}

/// Where packets may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) address: SocketAddr,
    pub(super) kind: Kind,
    /// RFC 8445 §5.1.2.
    pub(super) priority: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Host,
    /// What a server saw of it.
    Reflexive,
    /// A port of a relay.
    Relayed,
}

/// Why a message is not used at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Bad {
    #[error("not a description of paths")]
    Malformed,
    #[error("of another version")]
    Version,
}

impl Kind {
    const ALL: [(&'static str, Kind); 3] = [("host", Kind::Host), ("srflx", Kind::Reflexive), ("relay", Kind::Relayed)];

    fn name(self) -> &'static str {
        Kind::ALL.iter().find(|(_, kind)| *kind == self).map_or("host", |(name, _)| name)
    }

    /// RFC 8445 §5.1.2.2.
    fn preference(self) -> u32 {
        match self {
            Kind::Host => 126,
            Kind::Reflexive => 100,
            Kind::Relayed => 0,
        }
    }
}

impl Candidate {
    /// Our own, `rank` counting those of its kind: earlier ones are better, and IPv6 before IPv4 (RFC 8421 §4).
    pub(super) fn own(address: SocketAddr, kind: Kind, rank: usize) -> Candidate {
        let rank = u32::try_from(rank).unwrap_or(u32::MAX).min(1_000);
        let local = if address.is_ipv6() { 65_535 - rank } else { 65_535 - 1_001 - rank };
        // One component: RTP and RTCP share a port.
        Candidate { address, kind, priority: kind.preference() << 24 | local << 8 | 255 }
    }

    fn write(&self) -> String {
        let Candidate { address, kind, priority } = self;
        // RFC 8445 §5.1.1.3: one foundation per kind and base is all that a single stream needs.
        let foundation = 1 + kind.preference() + if address.is_ipv6() { 1_000 } else { 0 };
        let (ip, port, name) = (address.ip(), address.port(), kind.name());
        let mut text = format!("candidate:{foundation} 1 UDP {priority} {ip} {port} typ {name}");
        if *kind != Kind::Host {
            // RFC 8839 §5.1 asks for it; what is behind a NAT is nobody's business.
            let nobody = if address.is_ipv6() { "::" } else { "0.0.0.0" };
            let _ = write!(text, " raddr {nobody} rport 9");
        }
        text
    }

    /// RFC 8839 §5.1, as far as it can be used: one component, UDP, an address rather than a name. The rest is skipped.
    fn read(text: &str, loopback: bool) -> Option<Candidate> {
        let mut words = text.strip_prefix("candidate:")?.split(' ');
        let foundation = words.next()?;
        if !(1..=32).contains(&foundation.len()) || !foundation.bytes().all(is_ice_char) {
            return None;
        }
        let (component, transport) = (words.next()?, words.next()?);
        if component != "1" || !transport.eq_ignore_ascii_case("udp") {
            return None;
        }
        let priority = words.next()?.parse().ok().filter(|priority| (1..=0x7fff_ffff).contains(priority))?;
        let ip: IpAddr = words.next()?.parse().ok()?;
        let port = words.next()?.parse().ok().filter(|port| *port != 0)?;
        if words.next()? != "typ" {
            return None;
        }
        let kind = words.next()?;
        let (_, kind) = Kind::ALL.into_iter().find(|(name, _)| *name == kind)?;
        let address = SocketAddr::new(ip, port);
        is_possible(address, loopback).then_some(Candidate { address, kind, priority })
    }
}

/// Whether one host may be at `address`: nobody, everybody and many are not, and this machine only if `loopback`.
pub(super) fn is_possible(address: SocketAddr, loopback: bool) -> bool {
    let ip = address.ip().to_canonical();
    // An IPv4 address in IPv6 clothes is no way to write a candidate.
    if ip != address.ip() || address.port() == 0 || ip.is_unspecified() || ip.is_multicast() {
        return false;
    }
    let linked = match ip {
        // RFC 1122 §3.2.1.3: 0/8 is this network, 240/4 nobody's.
        IpAddr::V4(v4) => {
            let first = v4.octets()[0];
            if v4.is_broadcast() || first == 0 || first >= 240 {
                return false;
            }
            v4.is_link_local()
        }
        // An address of a link means nothing without the link's name.
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    !linked && (loopback || !ip.is_loopback())
}

fn is_ice_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/'
}

fn is_word(text: &str, length: &std::ops::RangeInclusive<usize>) -> bool {
    length.contains(&text.len()) && text.bytes().all(is_ice_char)
}

impl Message {
    /// Reads a message. `loopback`: addresses of this machine count, as in tests and closed overlays.
    ///
    /// # Errors
    /// `Version` for a later one; `Malformed` when too long, not in canonical encoding or with a name that is none.
    pub(super) fn read(bytes: &Bytes, loopback: bool) -> Result<Message, Bad> {
        if bytes.len() > MAX_BYTES {
            return Err(Bad::Malformed);
        }
        let wire = pb::Ice::decode(bytes.clone()).map_err(|_| Bad::Malformed)?;
        if wire.version != VERSION {
            return Err(Bad::Version);
        }
        if wire.encode_to_vec() != *bytes || wire.candidates.len() > MAX_CANDIDATES {
            return Err(Bad::Malformed);
        }
        let call = wire.call.as_ref().try_into().map_err(|_| Bad::Malformed)?;
        let fits = |text: &String| text.len() <= MAX_CANDIDATE_BYTES;
        if !is_word(&wire.ufrag, &UFRAG_BYTES) || !is_word(&wire.pwd, &PWD_BYTES) || !wire.candidates.iter().all(fits) {
            return Err(Bad::Malformed);
        }
        let candidates: Vec<_> = wire.candidates.iter().filter_map(|text| Candidate::read(text, loopback)).collect();
        Ok(Message {
            call: CallId(call),
            generation: wire.generation,
            skipped: wire.candidates.len() - candidates.len(),
            ufrag: wire.ufrag,
            pwd: wire.pwd,
            candidates,
            done: wire.done,
        })
    }

    /// The message as bytes, at most 4 KiB: a candidate of ours takes 120.
    pub(super) fn write(&self) -> Bytes {
        let wire = pb::Ice {
            version: VERSION,
            ufrag: self.ufrag.clone(),
            pwd: self.pwd.clone(),
            candidates: self.candidates.iter().take(MAX_CANDIDATES).map(Candidate::write).collect(),
            done: self.done,
            generation: self.generation,
            call: Bytes::copy_from_slice(&self.call.0),
        };
        wire.encode_to_vec().into()
    }
}

/// Which call a message is about, and nothing else of it: for who passes it on.
pub(super) fn call_of(bytes: &Bytes) -> Option<CallId> {
    let wire = pb::Ice::decode(bytes.clone()).ok().filter(|_| bytes.len() <= MAX_BYTES)?;
    wire.call.as_ref().try_into().ok().map(CallId)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(candidates: Vec<Candidate>) -> Message {
        Message {
            call: CallId([7; 16]),
            generation: 3,
            ufrag: "abcd1234".into(),
            pwd: "x".repeat(22),
            candidates,
            done: true,
            skipped: 0,
        }
    }

    fn wire(texts: &[&str]) -> Bytes {
        let mut wire = pb::Ice::decode(message(vec![]).write()).unwrap();
        wire.candidates = texts.iter().map(|text| (*text).to_owned()).collect();
        wire.encode_to_vec().into()
    }

    fn read(text: &str) -> Option<Candidate> {
        let message = Message::read(&wire(&[text]), false).unwrap();
        assert_eq!(message.candidates.len() + message.skipped, 1);
        message.candidates.first().copied()
    }

    #[test]
    fn reads_what_it_wrote() {
        let of = |address: &str, kind, rank| Candidate::own(address.parse().unwrap(), kind, rank);
        let all = message(vec![
            of("192.168.1.7:4000", Kind::Host, 0),
            of("[2a01:4f8::7]:4000", Kind::Host, 1),
            of("8.7.6.5:61000", Kind::Reflexive, 0),
            of("9.9.9.9:1", Kind::Relayed, 0),
        ]);
        assert_eq!(Message::read(&all.write(), false), Ok(all.clone()));
        assert_eq!(call_of(&all.write()), Some(all.call));
        assert!(all.candidates[1].priority > all.candidates[0].priority, "IPv6 first");
        assert!(all.candidates[0].priority > all.candidates[2].priority);
        assert!(all.candidates[2].priority > all.candidates[3].priority);
    }

    #[test]
    fn a_full_message_fits() {
        let address = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap();
        let mut full = message(vec![Candidate::own(address, Kind::Reflexive, 0); MAX_CANDIDATES]);
        (full.ufrag, full.pwd) = ("u".repeat(32), "p".repeat(64));
        assert!(full.write().len() < MAX_BYTES, "{}", full.write().len());
    }

    #[test]
    fn takes_candidates_of_others_and_skips_what_it_cannot_use() {
        assert!(read("candidate:1 1 udp 2130706431 8.8.4.4 5000 typ host generation 0 network-id 1").is_some());
        assert!(read("candidate:a/+ 1 UDP 1 2a00::1 5000 typ srflx raddr 10.0.0.1 rport 5").is_some());
        for bad in [
            "",
            "candidate:",
            "candidate:1 2 UDP 1 8.8.4.4 5000 typ host",
            "candidate:1 1 TCP 1 8.8.4.4 9 typ host tcptype active",
            "candidate:1 1 UDP 0 8.8.4.4 5000 typ host",
            "candidate:1 1 UDP 4294967296 8.8.4.4 5000 typ host",
            "candidate:1 1 UDP 1 8.8.4.4 0 typ host",
            "candidate:1 1 UDP 1 8.8.4.4 65536 typ host",
            "candidate:1 1 UDP 1 9b36eaac.local 5000 typ host",
            "candidate:1 1 UDP 1 8.8.4.4 5000 typ newer",
            "candidate:1 1 UDP 1 8.8.4.4 5000",
            "candidate:1 1 UDP 1 8.8.4.4\u{0} 5000 typ host",
            "candidate:\u{e9} 1 UDP 1 8.8.4.4 5000 typ host",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn nobody_can_be_at_some_addresses() {
        for ip in
            ["0.0.0.0", "0.1.2.3", "224.0.0.1", "239.1.1.1", "255.255.255.255", "240.0.0.1", "169.254.1.1", "127.0.0.1"]
        {
            assert_eq!(read(&format!("candidate:1 1 UDP 1 {ip} 5000 typ host")), None, "{ip}");
        }
        for ip in ["::", "::1", "ff02::1", "fe80::1", "::ffff:8.8.4.4", "::ffff:127.0.0.1"] {
            assert_eq!(read(&format!("candidate:1 1 UDP 1 {ip} 5000 typ host")), None, "{ip}");
        }
        let here = wire(&["candidate:1 1 UDP 1 127.0.0.1 5000 typ host"]);
        assert_eq!(Message::read(&here, true).unwrap().candidates.len(), 1, "tests and closed overlays");
    }

    #[test]
    fn refuses_what_is_too_much_or_misshapen() {
        let spoilt = |spoil: fn(&mut pb::Ice)| {
            let mut wire = pb::Ice::decode(message(vec![]).write()).unwrap();
            spoil(&mut wire);
            Message::read(&wire.encode_to_vec().into(), false).unwrap_err()
        };
        assert_eq!(spoilt(|wire| wire.version = 2), Bad::Version);
        assert_eq!(spoilt(|wire| wire.call = Bytes::from_static(&[1; 15])), Bad::Malformed);
        assert_eq!(spoilt(|wire| wire.ufrag = "abc".into()), Bad::Malformed);
        assert_eq!(spoilt(|wire| wire.ufrag = "a:cd".into()), Bad::Malformed);
        assert_eq!(spoilt(|wire| wire.pwd = "x".repeat(21)), Bad::Malformed);
        assert_eq!(spoilt(|wire| wire.pwd = "x".repeat(65)), Bad::Malformed);
        assert_eq!(spoilt(|wire| wire.candidates = vec![String::new(); 13]), Bad::Malformed);
        assert_eq!(spoilt(|wire| wire.candidates = vec!["c".repeat(257)]), Bad::Malformed);
        let extended = [&message(vec![]).write()[..], &[0x42, 1, 0]].concat();
        assert_eq!(Message::read(&extended.into(), false), Err(Bad::Malformed), "unknown field");
        assert_eq!(Message::read(&vec![0; MAX_BYTES + 1].into(), false), Err(Bad::Malformed));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "candidate:[ -~]{0,80}") {
            let _ = Message::read(&bytes.clone().into(), false);
            let _ = call_of(&bytes.into());
            if let Some(candidate) = Candidate::read(&text, false) {
                prop_assert!(is_possible(candidate.address, false));
            }
        }
    }
}
