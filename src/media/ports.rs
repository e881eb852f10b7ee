//! The ports of a node's media: which numbers of the configured range are taken, and sockets bound to them.
//!
//! Phones want RTP on an even port and RTCP on the odd one above it (RFC 3550 §11); between nodes both share one port
//! (RFC 5761). A port belongs to a [`PortGuard`] that travels with its sockets, so every way of losing the sockets
//! gives the port back.

use super::MediaError;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who has which port of the range. Cloning shares the table.
#[derive(Clone)]
pub(super) struct Ports {
    table: Arc<Mutex<Table>>,
}

struct Table {
    first: u16,
    taken: Vec<bool>,
    used: usize,
}

/// Holds one or two neighbouring ports until dropped. Declare it after the sockets, so that they close first.
pub(super) struct PortGuard {
    ports: Ports,
    first: u16,
    count: u16,
}

impl Drop for PortGuard {
    fn drop(&mut self) {
        self.ports.table().give_back(self.first, self.count);
    }
}

impl Ports {
    /// A table of `range`; an empty range has no ports.
    pub(super) fn new(range: RangeInclusive<u16>) -> Ports {
        let taken = vec![false; range.len()];
        Ports { table: Arc::new(Mutex::new(Table { first: *range.start(), taken, used: 0 })) }
    }

    /// How many ports are taken.
    pub(super) fn used(&self) -> usize {
        self.table().used
    }

    /// Sockets for RTP (even port) and RTCP (the odd port above it).
    ///
    /// # Errors
    /// `NoPorts` when the range holds no free pair, `Io` when `ip` is not ours.
    pub(super) fn pair(&self, ip: IpAddr) -> Result<(UdpSocket, UdpSocket, PortGuard), MediaError> {
        let (mut sockets, guard) = self.bind(ip, 2)?;
        match (sockets.pop(), sockets.pop()) {
            (Some(rtcp), Some(rtp)) => Ok((rtp, rtcp, guard)),
            _ => Err(MediaError::NoPorts),
        }
    }

    /// One socket for RTP and RTCP together.
    ///
    /// # Errors
    /// As [`Ports::pair`].
    pub(super) fn single(&self, ip: IpAddr) -> Result<(UdpSocket, PortGuard), MediaError> {
        let (mut sockets, guard) = self.bind(ip, 1)?;
        sockets.pop().map(|socket| (socket, guard)).ok_or(MediaError::NoPorts)
    }

    /// Tries each place of the range at most once, from a random start; places that another process holds are skipped.
    fn bind(&self, ip: IpAddr, count: u16) -> Result<(Vec<UdpSocket>, PortGuard), MediaError> {
        let places = self.table().places(count);
        let start = random_below(places.len())?;
        let (before, from) = places.split_at(start);
        for &port in from.iter().chain(before) {
            if !self.table().take(port, count) {
                continue;
            }
            let guard = PortGuard { ports: self.clone(), first: port, count };
            match (port..=port + (count - 1)).map(|port| open(ip, port)).collect::<Result<Vec<_>, _>>() {
                Ok(sockets) => return Ok((sockets, guard)),
                Err(error) if matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied) => {}
                Err(error) => return Err(MediaError::Io(error.to_string())),
            }
        }
        Err(MediaError::NoPorts)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// First ports of the free places for `count` ports. Single ports come from halves of broken pairs while there are
    /// any, so that they leave whole pairs to the phones.
    fn places(&self, count: u16) -> Vec<u16> {
        let free = |port: u32| self.slot(port).is_some_and(|slot| !self.taken[slot]);
        let all = (0..self.taken.len()).map(|slot| u32::from(self.first) + slot as u32);
        let places: Vec<u32> = if count == 2 {
            all.filter(|port| port % 2 == 0 && free(*port) && free(port + 1)).collect()
        } else {
            let free_ports: Vec<u32> = all.filter(|port| free(*port)).collect();
            let halves: Vec<u32> = free_ports.iter().copied().filter(|port| !free(port ^ 1)).collect();
            if halves.len() > free_ports.len() / 8 { halves } else { free_ports }
        };
        places.into_iter().filter_map(|port| u16::try_from(port).ok()).collect()
    }

    fn slot(&self, port: u32) -> Option<usize> {
        let slot = port.checked_sub(u32::from(self.first))? as usize;
        (slot < self.taken.len()).then_some(slot)
    }

    fn range(&self, first: u16, count: u16) -> Option<std::ops::Range<usize>> {
        let start = self.slot(u32::from(first))?;
        let end = start + usize::from(count);
        (end <= self.taken.len()).then_some(start..end)
    }

    fn take(&mut self, first: u16, count: u16) -> bool {
        let Some(range) = self.range(first, count) else { return false };
        if self.taken[range.clone()].contains(&true) {
            return false;
        }
        self.taken[range].fill(true);
        self.used += usize::from(count);
        true
    }

    fn give_back(&mut self, first: u16, count: u16) {
        if let Some(range) = self.range(first, count) {
            self.taken[range].fill(false);
            self.used = self.used.saturating_sub(usize::from(count));
        }
    }
}

fn open(ip: IpAddr, port: u16) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::new(ip, port))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A random index below `bound` (0 for an empty range).
fn random_below(bound: usize) -> Result<usize, MediaError> {
    Ok(super::random_u64()? as usize % bound.max(1))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// `count` neighbouring ports from an even one on that nobody has just now, below the system's own choices.
    pub(in crate::media) fn free_range(count: u16) -> RangeInclusive<u16> {
        loop {
            let first = 10_000 + 2 * random_below(10_000).unwrap() as u16;
            let range = first..=first + (count - 1);
            if range.clone().map(|port| open(HERE, port)).collect::<Result<Vec<_>, _>>().is_ok() {
                return range;
            }
        }
    }

    #[test]
    fn pairs_are_even_and_odd_and_come_back_on_drop() {
        let (even, last) = free_range(9).into_inner();
        let ports = Ports::new(even + 1..=last);
        let mut held = Vec::new();
        while let Ok((rtp, rtcp, guard)) = ports.pair(HERE) {
            let (rtp_at, rtcp_at) = (rtp.local_addr().unwrap(), rtcp.local_addr().unwrap());
            assert_eq!(rtp_at.port() % 2, 0);
            assert_eq!(rtcp_at.port(), rtp_at.port() + 1);
            held.push((rtp, rtcp, guard));
        }
        assert_eq!(held.len(), 3, "of eight ports from an odd one on, both ends have no neighbour");
        assert_eq!(ports.used(), 6);
        assert!(ports.single(HERE).is_ok(), "the halves at both ends are left for single ports");
        drop(held);
        assert_eq!(ports.used(), 0);
        assert!(ports.pair(HERE).is_ok());
    }

    #[test]
    fn skips_ports_that_another_process_holds() {
        let other = UdpSocket::bind((HERE, 0)).unwrap();
        let port = other.local_addr().unwrap().port();
        let ports = Ports::new(port..=port);
        assert!(matches!(ports.single(HERE), Err(MediaError::NoPorts)));
        assert_eq!(ports.used(), 0, "a failed attempt keeps nothing");
    }

    #[test]
    fn the_last_port_of_all_is_not_the_start_of_a_pair() {
        assert!(matches!(Ports::new(65_535..=65_535).pair(HERE), Err(MediaError::NoPorts)));
    }

    #[test]
    fn an_address_of_somebody_else_is_an_io_error() {
        let ports = Ports::new(free_range(10));
        let foreign = "192.0.2.1".parse().unwrap();
        assert!(matches!(ports.pair(foreign), Err(MediaError::Io(_))));
        assert_eq!(ports.used(), 0);
    }
}
