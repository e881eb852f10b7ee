//! Which networks an address belongs to. Keys are free and networks are not, so everything that could be taken over by
//! numbers is counted by networks (SECURITY §4.2, §4.3).

use std::net::IpAddr;

/// Three widths of network. Compared only for equality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    /// /24, or /48 of IPv6.
    pub subnet: u64,
    /// /16, or /32 of IPv6.
    pub wide: u64,
    /// Autonomous system; where no map of them is there, the same as `wide`.
    pub system: u64,
}

impl Network {
    /// How people write a [`Network::subnet`].
    pub fn name_of(subnet: u64) -> String {
        let [kind, _, a, b, c, d, e, f] = subnet.to_be_bytes();
        match kind {
            4 => format!("{d}.{e}.{f}.0/24"),
            _ => {
                let pair = |high, low| u16::from_be_bytes([high, low]);
                format!("{:x}:{:x}:{:x}::/48", pair(a, b), pair(c, d), pair(e, f))
            }
        }
    }

    /// Of an address, without a map of autonomous systems.
    pub fn of(ip: IpAddr) -> Self {
        let (subnet, wide) = match ip.to_canonical() {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                (u64::from_be_bytes([4, 0, 0, 0, 0, a, b, c]), u64::from_be_bytes([4, 0, 0, 0, 0, 0, a, b]))
            }
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, ..] = v6.octets();
                (u64::from_be_bytes([6, 0, a, b, c, d, e, f]), u64::from_be_bytes([6, 0, 0, 0, a, b, c, d]))
            }
        };
        Self { subnet, wide, system: wide }
    }

    /// Of an IPv6 address.
    pub(super) fn is_v6(&self) -> bool {
        self.subnet.to_be_bytes()[0] == 6
    }
}

/// How many of one choice may come from one network of each width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    pub subnet: u32,
    pub wide: u32,
    pub system: u32,
}

impl Caps {
    /// Of a bucket, and of who is contacted in a region (SECURITY §4.3, §4.4).
    pub const CLOSE: Caps = Caps { subnet: 2, wide: 3, system: 4 };
    /// Of each half of an answer.
    pub const ANSWER: Caps = Caps { subnet: 1, wide: u32::MAX, system: u32::MAX };
}

/// Counts a choice as it is made. Who does not fit is not lost: choices that leave room are filled up with the rest
/// afterwards, or an office with all its nodes in one /24 could not speak to itself.
///
/// A list and not maps: choices are a few to a few hundred, tables and answers make them by the thousand.
#[derive(Clone, Debug, Default)]
pub struct Diversity {
    chosen: Vec<Network>,
}

impl Diversity {
    /// Whether one more of `network` fits; counts it if so.
    pub fn admit(&mut self, network: &Network, caps: &Caps) -> bool {
        let (mut subnet, mut wide, mut system) = (0, 0, 0);
        for other in &self.chosen {
            subnet += u32::from(other.subnet == network.subnet);
            wide += u32::from(other.wide == network.wide);
            system += u32::from(other.system == network.system);
        }
        let fits = subnet < caps.subnet && wide < caps.wide && system < caps.system;
        if fits {
            self.chosen.push(*network);
        }
        fits
    }

    /// One of `network` is gone again.
    pub fn release(&mut self, network: &Network) {
        if let Some(at) = self.chosen.iter().position(|other| other == network) {
            self.chosen.swap_remove(at);
        }
    }

    /// Distinct subnets counted.
    pub fn subnets(&self) -> usize {
        let mut subnets: Vec<u64> = self.chosen.iter().map(|network| network.subnet).collect();
        subnets.sort_unstable();
        subnets.dedup();
        subnets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ip: &str) -> Network {
        Network::of(ip.parse().unwrap())
    }

    #[test]
    fn networks_have_three_widths() {
        assert_eq!(of("8.8.8.8"), of("8.8.8.9"));
        assert_eq!(of("8.8.8.8"), of("::ffff:8.8.8.9"));
        assert_ne!(of("8.8.8.8").subnet, of("8.8.9.8").subnet);
        assert_eq!(of("8.8.8.8").wide, of("8.8.9.8").wide);
        assert_eq!(of("2a00:1:2::1").subnet, of("2a00:1:2:3::1").subnet);
        assert_ne!(of("2a00:1:2::1").subnet, of("2a00:1:3::1").subnet);
        assert_eq!(of("2a00:1:2::1").wide, of("2a00:1:3::1").wide);
    }

    #[test]
    fn subnets_have_names() {
        assert_eq!(Network::name_of(of("8.9.10.11").subnet), "8.9.10.0/24");
        assert_eq!(Network::name_of(of("2a00:1:2::1").subnet), "2a00:1:2::/48");
    }

    #[test]
    fn caps_count_and_release() {
        let mut chosen = Diversity::default();
        let hosts = ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.2.1", "1.1.3.1"].map(of);
        let admitted: Vec<bool> = hosts.iter().map(|host| chosen.admit(host, &Caps::CLOSE)).collect();
        assert_eq!(admitted, [true, true, false, true, false]);
        assert_eq!(chosen.subnets(), 2);
        chosen.release(&hosts[0]);
        assert!(chosen.admit(&hosts[2], &Caps::CLOSE));
    }
}
