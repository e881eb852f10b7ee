//! `[circuits]`: connections that this node passes on for others, and those that others pass on for it.

use super::{Role, Serve, SettingsError};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Longest life of a circuit that can be set: the protocol has 32 bits for its seconds, nobody talks for a week.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);

/// `[circuits]`. A circuit carries signalling between two nodes of which one cannot be reached directly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CircuitSettings {
    /// Pass connections on for others: `on`, `off`, or `auto`: once others have shown that this node is public.
    pub serve: Serve,
    /// Be reachable through others: `on`, `off`, or `auto`: while this node is not public.
    pub reserve: Serve,
    /// Nodes that may be reached through this one at a time; in total, and of a /24 or /48.
    pub max_reservations: usize,
    pub max_reservations_per_subnet: usize,
    /// Connections passed on at a time: in total, and of one node that calls.
    pub max_circuits: usize,
    pub max_circuits_per_source: usize,
    /// A circuit ends after this time, or after so many bytes in both directions together.
    #[serde(with = "humantime_serde")]
    pub max_duration: Duration,
    pub max_bytes: u64,
}

impl CircuitSettings {
    pub(super) fn of_role(role: Role) -> Self {
        let (reservations, circuits) = match role {
            // An upload of 1 Mbit/s carries the signalling of some hundred calls.
            Role::Desktop => (32, 32),
            Role::Relay => (1_024, 512),
            Role::Gateway => (64, 64),
        };
        Self {
            serve: if role == Role::Relay { Serve::On } else { Serve::Off },
            reserve: if role == Role::Relay { Serve::Off } else { Serve::Auto },
            max_reservations: reservations,
            max_reservations_per_subnet: 8,
            max_circuits: circuits,
            // An office behind a NAT calls more than twice at a time.
            max_circuits_per_source: 8,
            max_duration: Duration::from_secs(2 * 3_600),
            max_bytes: 64 * 1024 * 1024,
        }
    }

    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let out = |key, what: &str| Err(SettingsError::OutOfRange { key, what: what.to_owned() });
        if !(Duration::from_secs(60)..=LONGEST).contains(&self.max_duration) {
            return out("circuits.max_duration", "must be from 60s to 7 days");
        }
        if self.max_bytes < 64 * 1024 {
            return out("circuits.max_bytes", "must be at least 65536: a call's signalling would be cut");
        }
        for (key, value) in [
            ("circuits.max_reservations", self.max_reservations),
            ("circuits.max_reservations_per_subnet", self.max_reservations_per_subnet),
            ("circuits.max_circuits", self.max_circuits),
            ("circuits.max_circuits_per_source", self.max_circuits_per_source),
        ] {
            if !(1..=65_536).contains(&value) {
                return out(key, "must be from 1 to 65536");
            }
        }
        Ok(())
    }
}
