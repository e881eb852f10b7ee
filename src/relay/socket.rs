//! A UDP socket that is waited on for reading only. Sending never waits: a packet that the system has no room for is
//! lost, as it would be a hop further. (The runtime's own socket is told of each packet that has left, which wakes a task
//! that has nothing to do: half of the cost of a relayed packet.)

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::task::{Context, Poll};

#[cfg(unix)]
type Waited = tokio::io::unix::AsyncFd<UdpSocket>;
#[cfg(not(unix))]
type Waited = tokio::net::UdpSocket;

pub(super) struct Socket {
    waited: Waited,
    /// It speaks IPv6, and IPv4 by mapped addresses.
    mapped: bool,
}

impl Socket {
    /// Inside a runtime.
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let mapped = socket.local_addr()?.is_ipv6();
        #[cfg(unix)]
        #[expect(
            deprecated,
            reason = "unsound for types that change their descriptor; this one owns it till it closes"
        )]
        let waited = Waited::with_interest(socket, tokio::io::Interest::READABLE)?;
        #[cfg(not(unix))]
        let waited = Waited::from_std(socket)?;
        Ok(Self { waited, mapped })
    }

    /// Something may be there to be read.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        #[cfg(unix)]
        // An error shows when reading.
        return self.waited.poll_read_ready(cx).map(|_| ());
        #[cfg(not(unix))]
        return self.waited.poll_recv_ready(cx).map(|_| ());
    }

    /// What has come, and from where; `WouldBlock` when nothing is left.
    pub(super) fn receive(&self, into: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        #[cfg(unix)]
        let received = self.waited.try_io(tokio::io::Interest::READABLE, |socket| socket.recv_from(into));
        #[cfg(not(unix))]
        let received = self.waited.try_recv_from(into);
        received.map(|(length, from)| (length, SocketAddr::new(from.ip().to_canonical(), from.port())))
    }

    pub(super) fn send(&self, packet: &[u8], to: SocketAddr) -> io::Result<()> {
        let to = match to {
            SocketAddr::V4(v4) if self.mapped => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
            other => other,
        };
        #[cfg(unix)]
        return self.waited.get_ref().send_to(packet, to).map(drop);
        #[cfg(not(unix))]
        return self.waited.try_send_to(packet, to).map(drop);
    }
}
