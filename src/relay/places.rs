//! Whom a relay forwards to: nobody in private networks, on this machine or in a group. A relay that does is a way
//! around firewalls, its own operator's first. Pure.

use crate::wire::{AddressScope, is_global};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

/// What this relay's own addresses are, and which others it may send to.
#[derive(Clone, Debug)]
pub(super) struct Places {
    scope: AddressScope,
    own: Vec<IpAddr>,
    ports: RangeInclusive<u16>,
}

impl Places {
    /// `own`: where this relay is reached; `ports`: of its allocations.
    pub(super) fn new(scope: AddressScope, own: &[IpAddr], ports: RangeInclusive<u16>) -> Self {
        Self { scope, own: own.iter().map(IpAddr::to_canonical).collect(), ports }
    }

    /// Whether anything may be sent to `to`. In a network of any addresses everybody may sit on one machine, a laboratory
    /// or a test: then the own address is refused only with the relay's own ports, and loopback only to a relay that is
    /// not on loopback itself.
    pub(super) fn allow(&self, to: SocketAddr) -> bool {
        let ip = to.ip().to_canonical();
        let group = ip.is_multicast() || ip.is_unspecified() || matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        if group || to.port() == 0 {
            return false;
        }
        let own = self.own.contains(&ip);
        match self.scope {
            AddressScope::Global => is_global(ip) && !own,
            AddressScope::Any => !(own && self.ports.contains(&to.port())) && (own || !ip.is_loopback()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(scope: AddressScope, own: &str, to: &str) -> bool {
        Places::new(scope, &[own.parse().unwrap()], 30_000..=30_009).allow(to.parse().unwrap())
    }

    #[test]
    fn strangers_on_the_internet_and_nobody_else() {
        for to in "10.0.0.1:5 127.0.0.1:5 192.168.1.1:5 169.254.1.1:5 100.64.0.1:5 224.0.0.1:5 255.255.255.255:5 \
            0.0.0.0:5 [::1]:5 [::]:5 [fe80::1]:5 [fc00::1]:5 [ff02::1]:5 [::ffff:10.0.0.1]:5 [::ffff:127.0.0.1]:5 \
            [64:ff9b::1]:5 9.9.9.9:5 [::ffff:9.9.9.9]:5 1.1.1.1:0"
            .split_whitespace()
        {
            assert!(!allows(AddressScope::Global, "9.9.9.9", to), "{to}");
        }
        for to in ["1.1.1.1:5", "[2a00::1]:5", "[::ffff:1.1.1.1]:30001"] {
            assert!(allows(AddressScope::Global, "9.9.9.9", to), "{to}");
        }
    }

    #[test]
    fn where_any_address_counts_the_relay_itself_does_not() {
        let any = |own, to| allows(AddressScope::Any, own, to);
        assert!(any("10.0.0.1", "10.0.0.2:5") && any("10.0.0.1", "10.0.0.1:5") && !any("10.0.0.1", "10.0.0.1:30004"));
        assert!(!any("10.0.0.1", "127.0.0.1:5") && !any("10.0.0.1", "224.0.0.1:5") && !any("10.0.0.1", "0.0.0.0:5"));
        assert!(any("127.0.0.1", "127.0.0.1:5") && !any("127.0.0.1", "127.0.0.1:30000"));
    }
}
