//! Which of our addresses the system would use: towards the world in both families, and towards the addresses that the
//! far end named. Asked of the routing table by connecting a UDP socket, which sends nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Anywhere in the world: routes to it are those to everybody (root servers of the DNS; nothing is sent to them).
const WORLD: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 41, 0, 4)), IpAddr::V6(Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30))];

/// Our addresses towards the world, then towards each of `far`, each once.
pub(super) fn addresses(far: &[IpAddr]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for ip in WORLD.iter().chain(far).filter_map(|far| towards(*far)) {
        if !found.contains(&ip) {
            found.push(ip);
        }
    }
    found
}

/// Our address towards `far`, if there is a route.
pub(in crate::media) fn towards(far: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if far.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // Port 9 discards (RFC 863).
    socket.connect(SocketAddr::new(far, 9)).ok()?;
    socket.local_addr().ok().map(|own| own.ip()).filter(|ip| !ip.is_unspecified())
}

/// Whether `ip` is still an address of this machine.
pub(super) fn is_ours(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_way_to_itself() {
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(towards(here), Some(here));
        assert!(addresses(&[here]).contains(&here));
        assert!(is_ours(here) && !is_ours([192, 0, 2, 1].into()));
    }
}
