//! The defaults of each role, and why these numbers.

use super::{
    ApiSettings, BindingSettings, CallSettings, CircuitSettings, Listen, LogSettings, MediaSettings, OverlaySettings,
    PortRange, RelaySettings, Role, Serve, Settings, SipSettings,
};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Softphones take 5060 for themselves and usually on all interfaces, so a desktop node beside one keeps away from it.
const DESKTOP_SIP_PORT: u16 = 5070;
/// Desk phones expect the registrar on the well-known port (RFC 3261 §19.1.2).
const GATEWAY_SIP_PORT: u16 = 5060;
/// Below the ephemeral ports of Linux (32768) so that outgoing sockets never sit on them; 10,000 ports are 2,500 calls.
const MEDIA_PORTS: PortRange = PortRange::new(20_000, 29_999);

pub(super) fn of_role(role: Role) -> Settings {
    let (connections, per_ip, per_subnet, links, records) = match role {
        // A household behind one address is a handful of nodes; 64 links are far more calls than one person has.
        Role::Desktop => (256, 16, 64, 64, 10_000),
        // A bootstrap node meets everybody, and carrier NATs put many behind one address.
        Role::Relay => (4_096, 64, 256, 16, 40_000),
        // One link per pair of users with a call: 500 phones in calls at once.
        Role::Gateway => (512, 32, 128, 1_000, 20_000),
    };
    let loopback = |port| Listen::At(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let sip = match role {
        Role::Desktop => loopback(DESKTOP_SIP_PORT),
        Role::Relay => Listen::Off,
        // Until the operator names the LAN address: nothing is opened to a network by default.
        Role::Gateway => loopback(GATEWAY_SIP_PORT),
    };
    let (legs, calls, contacts, tcp) = match role {
        Role::Desktop => (64, 16, 8, 32),
        Role::Relay => (0, 0, 1, 0),
        Role::Gateway => (2_000, 500, 8, 1_000),
    };
    Settings {
        role,
        overlay: OverlaySettings {
            join: "peerline.alt".to_owned(),
            test_seed: None,
            listen: Vec::new(),
            bootstrap: Vec::new(),
            external: Vec::new(),
            mdns: role != Role::Relay,
            map_ports: role != Role::Relay,
            serve: if role == Role::Relay { Serve::On } else { Serve::Auto },
            max_connections: connections,
            max_connections_per_ip: per_ip,
            max_connections_per_subnet: per_subnet,
            max_links: links,
            max_records: records,
        },
        circuits: CircuitSettings::of_role(role),
        relay: RelaySettings::of_role(role),
        sip: SipSettings {
            udp: sip,
            tcp: sip,
            max_legs: legs,
            max_contacts_per_account: contacts,
            max_tcp_connections: tcp,
            // A busy phone sends a few requests a second; a burst covers a restart of all its lines.
            requests_per_second: 50,
            request_burst: 200,
        },
        media: MediaSettings { ports: MEDIA_PORTS, max_legs: legs },
        calls: CallSettings { ring_timeout: Duration::from_secs(60), max_calls: calls },
        // FORMATS, "What is stored": an hour to live, refreshed every 1,200 ± 300 s, so two refreshes may fail.
        binding: BindingSettings { ttl: Duration::from_secs(3_600), refresh: Duration::from_secs(1_200) },
        api: ApiSettings { listen: loopback(0) },
        // Libraries warn of what is ordinary on an overlay (peers that vanish): errors of theirs only.
        log: LogSettings { filter: "error,peerline=info".to_owned() },
    }
}
