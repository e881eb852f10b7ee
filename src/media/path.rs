//! How packets between two nodes travel. Today: UDP from one of our ports. A media relay and framed SRTP on an overlay
//! stream are further ways that carry the same packets; the rest of `media` does not see the difference.

use std::net::SocketAddr;
use std::task::{Context, Poll};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

pub(super) enum Path {
    Udp(UdpSocket),
}

impl Path {
    /// Takes a bound, non-blocking socket into the runtime.
    pub(super) fn udp(socket: std::net::UdpSocket) -> std::io::Result<Path> {
        UdpSocket::from_std(socket).map(Path::Udp)
    }

    /// The next packet and where it came from. Only the last task that polled is woken.
    pub(super) fn poll_receive(
        &self,
        context: &mut Context<'_>,
        packet: &mut [u8],
    ) -> Poll<std::io::Result<(usize, SocketAddr)>> {
        match self {
            Path::Udp(socket) => {
                let mut buffer = ReadBuf::new(packet);
                let from = std::task::ready!(socket.poll_recv_from(context, &mut buffer))?;
                Poll::Ready(Ok((buffer.filled().len(), from)))
            }
        }
    }

    /// Sends now or not at all: a packet that has to wait is late anyway.
    pub(super) fn send(&self, packet: &[u8], to: SocketAddr) -> std::io::Result<usize> {
        match self {
            Path::Udp(socket) => socket.try_send_to(packet, to),
        }
    }
}
