//! Where this node is, and which of its addresses to publish: pure. The overlay translates its multiaddrs to [`Address`]
//! and back; [`Picture`] folds what others see, dial and answer.

mod picture;

pub use picture::{Kind, Mapping, Picture, Reach};

use crate::wire::{AddressScope, is_global};
use std::net::IpAddr;

/// Addresses in a record at most (FORMATS "What is stored").
pub const MAX_ADDRESSES: usize = 8;

/// How a node is reached at an address. QUIC first: one round trip less, and it goes through more NATs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    Quic,
    Tcp,
}

/// A dialable address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    pub ip: IpAddr,
    pub transport: Transport,
    pub port: u16,
}

/// From best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Global,
    Private,
    Loopback,
}

fn classify(ip: IpAddr) -> Option<Class> {
    if ip.is_loopback() {
        Some(Class::Loopback)
    } else if is_global(ip) {
        Some(Class::Global)
    } else if is_private(ip) {
        Some(Class::Private)
    } else {
        None
    }
}

/// What goes into records: the operator's own words first, then global, private and loopback addresses; QUIC before
/// TCP, IPv4 before IPv6, without doubles, at most [`MAX_ADDRESSES`]. Under scope `global` only global ones.
pub fn publishable(listen: &[Address], external: &[Address], scope: AddressScope) -> Vec<Address> {
    let mut found: Vec<(bool, Class, Address)> = Vec::new();
    for (said, addresses) in [(true, external), (false, listen)] {
        for address in addresses {
            let address = Address { ip: address.ip.to_canonical(), ..*address };
            let Some(class) = classify(address.ip) else { continue };
            let allowed = scope == AddressScope::Any || class == Class::Global;
            if allowed && address.port != 0 && !found.iter().any(|(_, _, other)| *other == address) {
                found.push((!said, class, address));
            }
        }
    }
    found.sort_by_key(|(heard, class, address)| {
        (*heard, *class, address.transport, address.ip.is_ipv6(), address.ip, address.port)
    });
    found.into_iter().map(|(_, _, address)| address).take(MAX_ADDRESSES).collect()
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Transport::{Quic, Tcp};

    fn at(ip: &str, transport: Transport, port: u16) -> Address {
        Address { ip: ip.parse().unwrap(), transport, port }
    }

    #[test]
    fn only_global_addresses_leave_a_global_overlay() {
        let listen = [
            at("127.0.0.1", Tcp, 1),
            at("192.168.1.2", Tcp, 1),
            at("8.8.8.8", Tcp, 1),
            at("fe80::1", Tcp, 1),
            at("fd00::1", Tcp, 1),
            at("2a00:1::1", Quic, 1),
            at("0.0.0.0", Tcp, 1),
        ];
        assert_eq!(publishable(&listen, &[], AddressScope::Global), [at("2a00:1::1", Quic, 1), at("8.8.8.8", Tcp, 1)]);
    }

    #[test]
    fn any_scope_puts_the_best_first_and_loopback_last() {
        let listen = [
            at("127.0.0.1", Tcp, 1),
            at("192.168.1.2", Tcp, 1),
            at("192.168.1.2", Quic, 1),
            at("::1", Quic, 1),
            at("8.8.8.8", Tcp, 1),
            at("::ffff:8.8.8.8", Tcp, 1),
            at("8.8.8.8", Quic, 0),
        ];
        let external = [at("10.1.1.1", Tcp, 5)];
        assert_eq!(
            publishable(&listen, &external, AddressScope::Any),
            [
                at("10.1.1.1", Tcp, 5),
                at("8.8.8.8", Tcp, 1),
                at("192.168.1.2", Quic, 1),
                at("192.168.1.2", Tcp, 1),
                at("::1", Quic, 1),
                at("127.0.0.1", Tcp, 1),
            ]
        );
    }

    #[test]
    fn at_most_eight() {
        let listen: Vec<Address> = (1..20).map(|port| at("8.8.8.8", Tcp, port)).collect();
        assert_eq!(publishable(&listen, &[], AddressScope::Global).len(), MAX_ADDRESSES);
    }
}
