//! `[relay]`: voice that this node passes on between others, and whom it tells their addresses.

use super::types::UdpPort;
use super::{PortRange, Role, SettingsError};
use crate::relay::MediaFor;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Below the ephemeral ports of Linux (32768), above those of this node's own calls; 1,384 calls.
const PORTS: PortRange = PortRange::new(30_000, 32_767);

/// RFC 8489 §18.6: the one port that firewalls let through to it.
const STUN: u16 = 3_478;

/// The least that carries a call of G.711 in SRTP, headers counted, with what ICE adds.
const LEAST_KBIT: u32 = 180;

/// `[relay]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelaySettings {
    /// For whom: `off`, `members` (whom users of this node called, and nodes that have been of use), `anyone`.
    pub media: MediaFor,
    /// UDP ports, two for each call.
    pub ports: PortRange,
    /// UDP port where others are told their address, or `off`.
    pub stun: UdpPort,
    /// Calls at a time: in total (strangers get half), of one node, and of a /24 or /48.
    pub max_allocations: usize,
    pub max_per_node: usize,
    pub max_per_network: usize,
    /// Of one call, both directions together.
    pub kbit_per_second: u32,
    /// Sent for others in a calendar month (strangers get half).
    pub gigabytes_per_month: u32,
    /// Time that is granted at once, and never cut.
    #[serde(with = "humantime_serde")]
    pub granted: Duration,
}

impl RelaySettings {
    pub(super) fn of_role(role: Role) -> Self {
        let (media, allocations, gigabytes) = match role {
            // Nobody's upload at home is given away unasked.
            Role::Desktop => (MediaFor::Off, 8, 10),
            // 500 calls at once are 84 Mbit/s each way; 500 GB a month are 6,000 hours of calls.
            Role::Relay => (MediaFor::Anyone, 500, 500),
            // Of those whom its people call themselves.
            Role::Gateway => (MediaFor::Members, 32, 50),
        };
        Self {
            media,
            ports: PORTS,
            stun: if role == Role::Relay { UdpPort::At(STUN) } else { UdpPort::Off },
            max_allocations: allocations,
            max_per_node: 4,
            max_per_network: 8,
            kbit_per_second: 256,
            gigabytes_per_month: gigabytes,
            granted: Duration::from_secs(2 * 3_600),
        }
    }

    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let out = |key, what: &str| Err(SettingsError::OutOfRange { key, what: what.to_owned() });
        if !(Duration::from_secs(60)..=Duration::from_secs(86_400)).contains(&self.granted) {
            return out("relay.granted", "must be from 60s to 24h");
        }
        if !(LEAST_KBIT..=1_000_000).contains(&self.kbit_per_second) {
            return out("relay.kbit_per_second", "must be from 180 (a call with G.711) to 1000000");
        }
        if self.ports.len() < 2 {
            return out("relay.ports", "two ports are needed for one call");
        }
        for (key, value) in [
            ("relay.max_allocations", self.max_allocations),
            ("relay.max_per_node", self.max_per_node),
            ("relay.max_per_network", self.max_per_network),
        ] {
            if !(1..=30_000).contains(&value) {
                return out(key, "must be from 1 to 30000");
            }
        }
        Ok(())
    }
}
