//! Which addresses an overlay's records may carry.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Which addresses a record of this overlay may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressScope {
    /// Addresses of the public Internet only.
    Global,
    /// Anything, for tests, the demo and closed networks.
    Any,
}

/// Whether an address belongs to the public Internet, by the special-purpose registries of IANA: not private, shared,
/// loopback, link-local, multicast, documentation or reserved, nor a range that hides an IPv4 address of any kind (6to4,
/// Teredo). The one judgement of what a record may carry and of what a node publishes and dials.
pub fn is_global(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => global_v4(v4),
        IpAddr::V6(v6) => global_v6(v6),
    }
}

fn global_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(a == 0
        || a == 127
        || a >= 224
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_documentation()
        || (a == 100 && b & 0xc0 == 64)
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && b & 0xfe == 18))
}

fn global_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    // 2000::/3 without Teredo and the other protocol assignments, documentation and 6to4.
    s[0] & 0xe000 == 0x2000
        && !(s[0] == 0x2001 && s[1] < 0x200)
        && !(s[0] == 0x2001 && s[1] == 0xdb8)
        && !(s[0] == 0x3fff && s[1] < 0x1000)
        && s[0] != 0x2002
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_is_not_global() {
        let not = "0.1.2.3 10.0.0.1 100.64.0.1 127.1.1.1 169.254.1.1 172.16.0.1 192.0.0.8 192.0.2.1 192.88.99.1 192.168.0.1 \
            198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 240.0.0.1 255.255.255.255 :: ::1 ::ffff:10.0.0.1 64:ff9b::1 100::1 \
            2001::1 2001:db8::1 2002::1 3fff::1 fc00::1 fe80::1 ff02::1";
        for text in not.split_whitespace() {
            assert!(!is_global(text.parse().unwrap()), "{text}");
        }
        for text in
            "1.1.1.1 100.128.0.1 172.32.0.1 198.20.0.1 223.1.1.1 2001:4860::1 2a00::1 ::ffff:1.1.1.1".split_whitespace()
        {
            assert!(is_global(text.parse().unwrap()), "{text}");
        }
    }
}
