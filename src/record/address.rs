//! Addresses in records: binary multiaddrs, read just far enough to judge them. Only what a node can be dialled at
//! passes: `/ip4|ip6|dns*` then `/tcp` (optionally `/ws`-like suffixes) or `/udp/quic-v1`, and circuit addresses through
//! a relay. `/p2p` at the end is not repeated in records: the device key says who it is.

use crate::wire::{AddressScope, is_global};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const IP4: u64 = 4;
const TCP: u64 = 6;
const IP6: u64 = 41;
const DNS: u64 = 53;
const DNS4: u64 = 54;
const DNS6: u64 = 55;
const UDP: u64 = 273;
const P2P_CIRCUIT: u64 = 290;
const P2P: u64 = 421;
const QUIC_V1: u64 = 461;
const WS: u64 = 477;
const WSS: u64 = 478;

/// True when `address` is well formed, of a kind that can be dialled, and within `scope`.
pub fn acceptable(address: &[u8], scope: AddressScope) -> bool {
    parse(address).is_some_and(|host| match (scope, host) {
        (AddressScope::Any, _) | (AddressScope::Global, Host::GlobalName) => true,
        (AddressScope::Global, Host::LocalName) => false,
        (AddressScope::Global, Host::Ip(ip)) => is_global(ip),
    })
}

enum Host {
    Ip(IpAddr),
    GlobalName,
    /// Without a dot, or in a domain that means something else on every network.
    LocalName,
}

impl Host {
    fn named(name: &[u8]) -> Option<Host> {
        let fit = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if name.is_empty() || !name.iter().all(fit) {
            return None;
        }
        let name = name.to_ascii_lowercase();
        let local = [&b".local"[..], b".localhost", b".internal", b".home.arpa"];
        let is_local = !name.contains(&b'.') || local.iter().any(|domain| name.ends_with(domain));
        Some(if is_local { Host::LocalName } else { Host::GlobalName })
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for n in 0..4 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return (byte != 0 || n == 0).then_some(value);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn sized<'a>(bytes: &mut &'a [u8], longest: usize) -> Option<&'a [u8]> {
    let length = usize::try_from(varint(bytes)?).ok().filter(|l| *l <= longest)?;
    take(bytes, length)
}

fn port(bytes: &mut &[u8]) -> Option<()> {
    take(bytes, 2).filter(|p| *p != [0, 0]).map(|_| ())
}

fn parse(mut bytes: &[u8]) -> Option<Host> {
    let rest = &mut bytes;
    let host = match varint(rest)? {
        IP4 => Host::Ip(Ipv4Addr::from(<[u8; 4]>::try_from(take(rest, 4)?).ok()?).into()),
        IP6 => Host::Ip(Ipv6Addr::from(<[u8; 16]>::try_from(take(rest, 16)?).ok()?).into()),
        DNS | DNS4 | DNS6 => Host::named(sized(rest, 100)?)?,
        _ => return None,
    };
    match varint(rest)? {
        TCP => port(rest)?,
        UDP => {
            port(rest)?;
            if varint(rest)? != QUIC_V1 {
                return None;
            }
        }
        _ => return None,
    }
    let mut relay = false;
    while !rest.is_empty() {
        match varint(rest)? {
            WS | WSS if !relay => {}
            P2P if !relay => {
                sized(rest, 42)?;
                relay = true;
            }
            P2P_CIRCUIT if relay && rest.is_empty() => return Some(host),
            _ => return None,
        }
    }
    (!relay).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp4(ip: [u8; 4], port: u16) -> Vec<u8> {
        let mut address = vec![4];
        address.extend(ip);
        address.push(6);
        address.extend(port.to_be_bytes());
        address
    }

    #[test]
    fn judges_by_scope() {
        for (ip, global) in
            [([8, 8, 8, 8], true), ([192, 168, 1, 2], false), ([127, 0, 0, 1], false), ([100, 64, 0, 1], false)]
        {
            assert_eq!(acceptable(&tcp4(ip, 4001), AddressScope::Global), global, "{ip:?}");
            assert!(acceptable(&tcp4(ip, 4001), AddressScope::Any));
        }
    }

    #[test]
    fn judges_ipv6_and_names_by_scope() {
        for (ip, global) in [
            ("2a00:1450::1", true),
            ("::ffff:8.8.8.8", true),
            ("::ffff:10.0.0.1", false),
            ("::1", false),
            ("fe80::1", false),
            ("fd00::1", false),
            ("ff02::1", false),
            ("2001:db8::1", false),
            ("2001::1", false),
            ("2002:a00:1::1", false),
            ("3fff::1", false),
            ("64:ff9b::a00:1", false),
        ] {
            assert_eq!(is_global(ip.parse().unwrap()), global, "{ip}");
        }
        for (name, global) in [("relay.example.org", true), ("localhost", false), ("nas.local", false)] {
            let mut address = vec![53, name.len() as u8];
            address.extend(name.bytes());
            address.extend([6, 0x0f, 0xa1]);
            assert_eq!(acceptable(&address, AddressScope::Global), global, "{name}");
            assert!(acceptable(&address, AddressScope::Any));
        }
    }

    #[test]
    fn refuses_what_cannot_be_dialled() {
        let good = tcp4([8, 8, 8, 8], 1);
        for bad in
            [vec![], tcp4([8, 8, 8, 8], 0), good[..7].to_vec(), [good.clone(), vec![1]].concat(), vec![4, 1, 2, 3, 4]]
        {
            assert!(!acceptable(&bad, AddressScope::Any), "{bad:?}");
        }
        // udp without quic
        let mut udp = vec![4, 8, 8, 8, 8, 0x91, 0x02, 0x0f, 0xa1];
        assert!(!acceptable(&udp, AddressScope::Any));
        udp.extend([0xcd, 0x03]);
        assert!(acceptable(&udp, AddressScope::Any));
    }
}
