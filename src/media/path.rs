//! How packets between two ends travel: UDP from one of our ports. A leg towards a node may have more than one socket,
//! on other interfaces or of the other family, and ICE says which of them leads to the far end; the rest of `media` does
//! not see the difference.

use super::framed::{Outbox, PIPE};
use super::ports::PortGuard;
use super::stream::lock;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

/// Sockets beside the first: another family, another interface.
pub(super) const MOST_MORE: usize = 3;

pub(super) struct Path {
    first: Socket,
    more: Mutex<More>,
}

struct Socket {
    udp: UdpSocket,
    /// The same socket, for sending: tokio sends nothing on a new one until it has waited for it once, and the first
    /// packets are those that ask for the path.
    out: std::net::UdpSocket,
    address: SocketAddr,
}

#[derive(Default)]
struct More {
    sockets: Vec<(Socket, PortGuard)>,
    /// Packets to this address leave from that socket.
    via: Option<(SocketAddr, SocketAddr)>,
    reader: Option<Waker>,
    /// A stream of bytes to the far end.
    pipe: Option<Arc<Outbox>>,
}

impl Socket {
    fn new(socket: std::net::UdpSocket) -> std::io::Result<Socket> {
        let out = socket.try_clone()?;
        let udp = UdpSocket::from_std(socket)?;
        Ok(Socket { address: udp.local_addr()?, udp, out })
    }

    fn poll_receive(
        &self,
        context: &mut Context<'_>,
        packet: &mut [u8],
    ) -> Poll<std::io::Result<(usize, SocketAddr, SocketAddr)>> {
        let mut buffer = ReadBuf::new(packet);
        let from = std::task::ready!(self.udp.poll_recv_from(context, &mut buffer))?;
        Poll::Ready(Ok((buffer.filled().len(), from, self.address)))
    }
}

impl Path {
    /// Takes a bound, non-blocking socket into the runtime.
    pub(super) fn udp(socket: std::net::UdpSocket) -> std::io::Result<Path> {
        Ok(Path { first: Socket::new(socket)?, more: Mutex::default() })
    }

    /// The address of the first socket.
    pub(super) fn address(&self) -> SocketAddr {
        self.first.address
    }

    /// Another socket; `None` when there are enough.
    pub(super) fn add(&self, socket: std::net::UdpSocket, port: PortGuard) -> Option<SocketAddr> {
        let socket = Socket::new(socket).ok()?;
        let address = socket.address;
        let mut more = lock(&self.more);
        if more.sockets.len() >= MOST_MORE {
            return None;
        }
        more.sockets.push((socket, port));
        if let Some(reader) = more.reader.take() {
            reader.wake();
        }
        Some(address)
    }

    /// Closes one of the further sockets; the first one stays.
    pub(super) fn remove(&self, address: SocketAddr) {
        lock(&self.more).sockets.retain(|(socket, _)| socket.address != address);
    }

    /// Packets to `remote` leave from our socket `local` from now on.
    pub(super) fn choose(&self, via: Option<(SocketAddr, SocketAddr)>) {
        lock(&self.more).via = via;
    }

    /// There is a stream of bytes to the far end from now on.
    pub(super) fn set_pipe(&self, pipe: Arc<Outbox>) {
        lock(&self.more).pipe = Some(pipe);
    }

    /// That stream has ended. `false`: there is another one by now.
    pub(super) fn end_pipe(&self, pipe: &Arc<Outbox>) -> bool {
        lock(&self.more).pipe.take_if(|current| Arc::ptr_eq(current, pipe)).is_some()
    }

    pub(super) fn has_pipe(&self) -> bool {
        lock(&self.more).pipe.is_some()
    }

    /// The next packet: its length, where it came from, and to which of our sockets. Only the last task that polled is
    /// woken.
    pub(super) fn poll_receive(
        &self,
        context: &mut Context<'_>,
        packet: &mut [u8],
    ) -> Poll<std::io::Result<(usize, SocketAddr, SocketAddr)>> {
        let arrived = self.first.poll_receive(context, packet);
        if arrived.is_ready() {
            return arrived;
        }
        let mut more = lock(&self.more);
        for (socket, _) in &more.sockets {
            let arrived = socket.poll_receive(context, packet);
            // An interface that is gone is noticed elsewhere.
            if matches!(arrived, Poll::Ready(Ok(_))) {
                return arrived;
            }
        }
        if !more.reader.as_ref().is_some_and(|reader| reader.will_wake(context.waker())) {
            more.reader = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Sends now or not at all: a packet that has to wait is late anyway.
    pub(super) fn send(&self, packet: &[u8], to: SocketAddr) -> std::io::Result<usize> {
        let via = {
            let more = lock(&self.more);
            if to == PIPE {
                let pipe = more.pipe.as_ref().ok_or(std::io::ErrorKind::NotConnected)?;
                pipe.push(packet, Instant::now());
                return Ok(packet.len());
            }
            more.via
        };
        match via {
            Some((remote, local)) if remote == to => self.send_from(local, packet, to),
            Some(_) | None => self.first.out.send_to(packet, to),
        }
    }

    /// As [`Path::send`], from our socket `local`.
    pub(super) fn send_from(&self, local: SocketAddr, packet: &[u8], to: SocketAddr) -> std::io::Result<usize> {
        if local == self.first.address {
            return self.first.out.send_to(packet, to);
        }
        let more = lock(&self.more);
        let socket = more.sockets.iter().find(|(socket, _)| socket.address == local);
        socket.ok_or(std::io::ErrorKind::AddrNotAvailable)?.0.out.send_to(packet, to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[tokio::test]
    async fn the_first_packet_of_a_new_socket_leaves_at_once() {
        let bound = || {
            let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let far = UdpSocket::from_std(bound()).unwrap();
        // Nothing is awaited between the two, so nobody has looked at the new socket.
        let path = Path::udp(bound()).unwrap();
        assert_eq!(path.send(b"first", far.local_addr().unwrap()).unwrap(), 5);
        let mut packet = [0; 16];
        let (length, from) = far.recv_from(&mut packet).await.unwrap();
        assert_eq!((&packet[..length], from), (&b"first"[..], path.address()));
    }
}
