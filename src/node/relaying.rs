//! The media relay of a node, where the settings ask for one.

use super::NodeError;
use crate::config::{RelaySettings, UdpPort};
use crate::relay::{Limits, MediaFor, Relay, RelayConfig};
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::wire::AddressScope;

/// `None`: nothing is relayed, and nobody is told addresses.
pub(super) fn start(
    settings: &RelaySettings,
    scope: AddressScope,
    store: &Store,
    metrics: &Metrics,
) -> Result<Option<Relay>, NodeError> {
    let stun = match settings.stun {
        UdpPort::Off => None,
        UdpPort::At(port) => Some(port),
    };
    if settings.media == MediaFor::Off && stun.is_none() {
        return Ok(None);
    }
    let config = RelayConfig {
        media: settings.media,
        limits: Limits {
            allocations: settings.max_allocations,
            per_peer: settings.max_per_node,
            per_network: settings.max_per_network,
            bits_per_second: settings.kbit_per_second.saturating_mul(1_000),
            bytes_per_month: u64::from(settings.gigabytes_per_month) * 1_000_000_000,
            granted: settings.granted,
        },
        ports: settings.ports.range(),
        stun,
        scope,
    };
    Ok(Some(Relay::start(config, store.clone(), metrics)?))
}
