//! Two sockets of the configured range, at places by lot: a port that can be guessed is one that can be knocked at.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::ops::RangeInclusive;

/// Places that other programs hold are passed over, so many at most.
const MAX_TRIES: usize = 64;

/// Which ports of the range are in use.
pub(super) struct Ports {
    range: RangeInclusive<u16>,
    taken: HashSet<u16>,
}

impl Ports {
    pub(super) fn new(range: RangeInclusive<u16>) -> Self {
        Self { range, taken: HashSet::new() }
    }

    /// Two sockets that are reached at `public`.
    pub(super) fn pair(&mut self, public: &[IpAddr]) -> Option<[UdpSocket; 2]> {
        let first = self.single(public)?;
        let Some(second) = self.single(public) else {
            self.give_back(&first);
            return None;
        };
        Some([first, second])
    }

    fn single(&mut self, public: &[IpAddr]) -> Option<UdpSocket> {
        let count = self.range.len();
        let start = usize::try_from(u32::from_be_bytes(crate::identity::random())).ok()?.checked_rem(count)?;
        let places = (start..count).chain(0..start);
        let free = places.filter_map(|at| self.range.start().checked_add(u16::try_from(at).ok()?));
        let free: Vec<u16> = free.filter(|port| !self.taken.contains(port)).take(MAX_TRIES).collect();
        let (port, socket) = free.into_iter().find_map(|port| Some((port, bind(public, port).ok()?)))?;
        self.taken.insert(port);
        Some(socket)
    }

    /// The port of a socket that closes.
    pub(super) fn give_back(&mut self, socket: &UdpSocket) {
        if let Ok(address) = socket.local_addr() {
            self.free(address.port());
        }
    }

    pub(super) fn free(&mut self, port: u16) {
        self.taken.remove(&port);
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.taken.len()
    }
}

/// At the public address if this machine has it, at all of its family behind a router that forwards; at both families
/// where both are public (IPv4 by mapped addresses, RFC 3493 §5.3).
pub(super) fn bind(public: &[IpAddr], port: u16) -> io::Result<UdpSocket> {
    let everywhere = |v6: bool| if v6 { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
    let v6 = public.iter().any(IpAddr::is_ipv6);
    match public {
        [one] => match UdpSocket::bind((*one, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => UdpSocket::bind((everywhere(v6), port)),
            bound => bound,
        },
        _ => UdpSocket::bind((everywhere(v6), port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn gives_each_port_once_and_takes_it_back() {
        let free = UdpSocket::bind((HERE, 0)).unwrap().local_addr().unwrap().port().min(65_000);
        let mut ports = Ports::new(free..=free + 9);
        let mut held = Vec::new();
        while let Some([a, b]) = ports.pair(&[HERE]) {
            let numbers = [a, b].map(|socket| (socket.local_addr().unwrap().port(), socket));
            assert!(numbers.iter().all(|(port, _)| (free..=free + 9).contains(port)));
            held.extend(numbers);
        }
        assert!((2..=10).contains(&held.len()) && ports.used() == held.len(), "what others hold is left out");
        for (port, socket) in held.drain(..) {
            drop(socket);
            ports.free(port);
        }
        assert!(ports.pair(&[HERE]).is_some());
        #[allow(clippy::reversed_empty_ranges, reason = "a range without ports")]
        let none = 5..=4;
        assert!(Ports::new(none).pair(&[HERE]).is_none());
    }

    #[test]
    fn binds_to_what_is_here() {
        assert_eq!(bind(&[HERE], 0).unwrap().local_addr().unwrap().ip(), HERE);
        let forwarded = bind(&["192.0.2.1".parse().unwrap()], 0).unwrap();
        assert!(forwarded.local_addr().unwrap().ip().is_unspecified());
    }
}
