//! The task of one allocation: reads what comes to its two ports, asks [`Pair`], sends it on. Nothing is allocated or
//! locked for a packet.

use super::counts::Counts;
use super::pair::{End, MAX_PACKET, OVERHEAD, Pair};
use super::places::Places;
use super::socket::Socket;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Instant;

/// Packets of one port in a row; then others have their turn.
const BATCH: usize = 16;

/// One byte more than is passed on tells what is too long.
const BUFFER: usize = MAX_PACKET + 1;

pub(super) struct Forward {
    pub(super) sockets: [Socket; 2],
    pub(super) pair: Pair,
    pub(super) places: Arc<Places>,
    pub(super) counts: Counts,
    /// Bytes sent that the desk does not know of yet.
    pub(super) sent: Arc<AtomicU64>,
}

impl Forward {
    /// Until it is aborted.
    pub(super) async fn run(mut self) {
        let mut buffer = [0; BUFFER];
        let mut turn = [End::Ours, End::Theirs];
        loop {
            let end = poll_fn(|cx| {
                let ready = turn.iter().find(|end| self.sockets[**end as usize].poll_readable(cx).is_ready());
                ready.map_or(Poll::Pending, |end| Poll::Ready(*end))
            })
            .await;
            if turn[0] == end {
                turn.swap(0, 1);
            }
            if !self.drain(end, &mut buffer) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Passes on what has come to a port; false if more may be there.
    fn drain(&mut self, end: End, buffer: &mut [u8; BUFFER]) -> bool {
        for _ in 0..BATCH {
            match self.sockets[end as usize].receive(buffer) {
                Ok((length, from)) => self.pass(end, from, &buffer[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
                // What an earlier packet met, told late (ICMP): the next one may do better.
                Err(_) => {}
            }
        }
        false
    }

    fn pass(&mut self, end: End, from: std::net::SocketAddr, packet: &[u8]) {
        let targets = match self.pair.came(end, from, packet, &self.places, Instant::now()) {
            Ok(targets) => targets,
            Err(why) => return self.counts.drop(why),
        };
        let out = match end {
            End::Ours => &self.sockets[End::Theirs as usize],
            End::Theirs => &self.sockets[End::Ours as usize],
        };
        for to in std::iter::once(targets.first).chain(targets.more.into_iter().flatten()) {
            if out.send(packet, to).is_err() {
                self.counts.full();
                continue;
            }
            let bytes = (packet.len() + OVERHEAD) as u64;
            self.counts.packets.inc();
            self.counts.bytes.inc_by(bytes);
            self.sent.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}
